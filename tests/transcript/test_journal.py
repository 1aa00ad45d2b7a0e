"""The journal: what is written stays, what is damaged is named, and nobody writes beside us."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from custody_scene import Signers

from psymm._core import SecretKey
from psymm.errors import (
    JournalClosed,
    JournalConflict,
    JournalCorrupt,
    JournalError,
    JournalForeign,
    JournalLocked,
    JournalSealed,
    JournalVersion,
    KnownCustody,
    UnknownCustody,
)
from psymm.messages import Heartbeat
from psymm.transcript.journal import (
    QUICK_COMMIT_S,
    Journal,
    JournalledOpening,
    open_journal,
    open_journal_reader,
)
from psymm.transcript.opening import SOLVER, TRADER
from psymm.transcript.replayed import read_record, verify_journal


async def filled(journal: Journal, signers: Signers, frames: int = 6) -> None:
    await journal.open_custody(signers.opening, TRADER, signers.now_ns)
    entries = [(entry.frame, entry.digest) for entry in signers.talk(frames)]
    await journal.append(entries, ours=TRADER)


async def test_what_was_appended_is_there_again_in_order_of_arrival(tmp_path: Path) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
    async with open_journal(tmp_path / "j.db") as journal:
        held = await journal.frames(signers.opening.custody)
        assert [frame.raw for frame in held] == [entry.frame.raw for entry in signers.record]
        record = await read_record(journal, signers.opening)
        assert record.head(TRADER) == signers.record.head(TRADER)
        assert record.head(SOLVER) == signers.record.head(SOLVER)


async def test_our_frames_are_unsent_until_they_are_marked(tmp_path: Path) -> None:
    signers = Signers()
    custody = signers.opening.custody
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
        journal.mark_sent(custody, TRADER, 2)
    async with open_journal(tmp_path / "j.db") as journal:
        unsent = [
            (frame.lane, frame.seq) for frame in await journal.frames(custody) if not frame.sent
        ]
        assert unsent == [(TRADER, 3)]


async def test_writes_of_one_round_share_one_commit(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "j.db") as journal:
        before = journal.statistics()
        async with trio.open_nursery() as nursery:
            for seed in range(1, 21):
                signers = Signers(seed)
                nursery.start_soon(filled_one, journal, signers)
        after = journal.statistics()
        assert after.writes - before.writes == 40
        assert after.commits - before.commits < 20


async def filled_one(journal: Journal, signers: Signers) -> None:
    await filled(journal, signers, 2)


async def test_a_number_is_journalled_once_and_the_others_of_the_round_are_kept(
    tmp_path: Path,
) -> None:
    signers, others = Signers(1), Signers(2)
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
        twice = signers.record.entry(TRADER, 2)
        assert twice is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(filled_one, journal, others)
            with pytest.raises(JournalConflict):
                await journal.append([(twice.frame, twice.digest)], ours=TRADER)
        assert len(await journal.frames(signers.opening.custody)) == 6
        assert len(await journal.frames(others.opening.custody)) == 2


async def test_who_does_not_wait_is_told_in_the_order_of_asking(tmp_path: Path) -> None:
    signers = Signers(1)
    told: list[tuple[str, bool]] = []
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
        twice = signers.record.entry(TRADER, 1)
        assert twice is not None
        journal.append_soon([], ours=TRADER, then=lambda bad: told.append(("a", bad is None)))
        journal.append_soon(
            [(twice.frame, twice.digest)],
            ours=TRADER,
            then=lambda bad: told.append(("b", isinstance(bad, JournalConflict))),
        )
        journal.append_soon([], ours=TRADER, then=lambda bad: told.append(("c", bad is None)))
        assert told == []
        await filled(journal, Signers(2), 2)
        assert told == [("a", True), ("b", True), ("c", True)]
    late: list[object] = []
    journal.append_soon([], ours=TRADER, then=late.append)
    assert [type(one) for one in late] == [JournalClosed]


async def test_a_quick_disk_is_waited_for_and_a_slow_one_is_left_to_a_thread(
    tmp_path: Path,
) -> None:
    threads: list[str] = []

    async def run_sync(work: Callable[..., Any], *arguments: Any) -> Any:
        threads.append(work.__name__)
        return await trio.to_thread.run_sync(work, *arguments)

    async with open_journal(tmp_path / "j.db", run_sync=run_sync) as journal:
        signers = Signers(1)
        await filled(journal, signers, 2)
        threads.clear()
        journal._commit_s = 0.0
        await extended(journal, signers)
        assert threads == []
        journal._commit_s = 10 * QUICK_COMMIT_S
        await extended(journal, signers)
        assert threads == ["_finish"]
        assert journal.statistics().in_thread >= 1
        # It is measured all the while, and taken back once it is quick again.
        assert journal._commit_s != 10 * QUICK_COMMIT_S
        assert len(await journal.frames(signers.opening.custody)) == 4


async def extended(journal: Journal, signers: Signers) -> None:
    """One more frame of the trader's, journalled."""
    entry = signers.sign(TRADER, Heartbeat())
    await journal.append([(entry.frame, entry.digest)], ours=TRADER)


async def test_a_custody_ever_seen_is_refused(tmp_path: Path) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await journal.open_custody(signers.opening, TRADER, 1)
        with pytest.raises(KnownCustody):
            await journal.open_custody(signers.opening, TRADER, 2)


async def test_a_custody_never_seen_is_named(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "j.db") as journal:
        with pytest.raises(UnknownCustody):
            await journal.custody(b"\x01" * 32)


async def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path: Path) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
        with pytest.raises(JournalLocked):
            async with open_journal(tmp_path / "j.db"):
                pass
        async with open_journal_reader(tmp_path / "j.db") as reader:
            assert len(await reader.frames(signers.opening.custody)) == 6


async def test_another_process_is_refused_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    program = (
        "import sys, trio\n"
        "from pathlib import Path\n"
        "from psymm.transcript.journal import open_journal\n"
        "async def main():\n"
        "    async with open_journal(Path(sys.argv[1])):\n"
        "        print('open', flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert await trio.to_thread.run_sync(holder.stdout.readline) == b"open\n"
        with pytest.raises(JournalLocked):
            async with open_journal(path):
                pass
        os.kill(holder.pid, signal.SIGKILL)
        await trio.to_thread.run_sync(holder.wait)
    async with open_journal(path) as journal:
        assert await journal.custodies() == []


WRITER = """
import sys, trio
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from custody_scene import Signers
from psymm.messages import Heartbeat
from psymm.transcript.journal import open_journal
async def main():
    signers = Signers()
    async with open_journal(Path(sys.argv[1])) as journal:
        await journal.open_custody(signers.opening, 0, 1)
        entries = signers.talk(2)
        await journal.append([(e.frame, e.digest) for e in entries], ours=0)
        while True:
            entry = signers.sign(0, Heartbeat())
            await journal.append([(entry.frame, entry.digest)], ours=0)
            print(entry.frame.seq, entry.digest.hex(), flush=True)
trio.run(main)
"""


@pytest.mark.parametrize("kill_after", [1, 7, 23])
async def test_what_was_reported_durable_survives_sigkill(tmp_path: Path, kill_after: int) -> None:
    path, here = tmp_path / "j.db", Path(__file__).parent
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", WRITER, str(path), str(here), str(here.parent / "session")],
        stdout=subprocess.PIPE,
    ) as writer:
        assert writer.stdout is not None
        lines = [await trio.to_thread.run_sync(writer.stdout.readline) for _ in range(kill_after)]
        os.kill(writer.pid, signal.SIGKILL)
        rest = await trio.to_thread.run_sync(writer.stdout.read)
    whole = [line for line in [*lines, *rest.splitlines(keepends=True)] if line.endswith(b"\n")]
    seq, digest = whole[-1].split()
    async with open_journal(path) as journal:
        record = await read_record(journal, Signers().opening)
        assert record.head(TRADER).seq >= int(seq)
        assert record.digest(TRADER, int(seq)).hex() == digest.decode()


async def test_cancelled_while_waiting_a_write_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await journal.open_custody(signers.opening, TRADER, 1)
        entries = [(entry.frame, entry.digest) for entry in signers.talk(6)]
        with trio.CancelScope() as scope:
            scope.cancel()
            await journal.append(entries, ours=TRADER)
        assert scope.cancelled_caught
    async with open_journal(tmp_path / "j.db") as journal:
        assert len(await journal.frames(signers.opening.custody)) in (0, 6)


async def test_a_closed_journal_takes_nothing(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "j.db") as journal:
        pass
    with pytest.raises(JournalClosed):
        await journal.set_state(b"\x01" * 32, "open")


async def test_a_missing_frame_is_named(tmp_path: Path) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
    base = sqlite3.connect(tmp_path / "j.db")
    base.execute("DELETE FROM frames WHERE lane = 0 AND seq = 2")
    base.commit()
    base.close()
    with pytest.raises(JournalCorrupt, match="missing"):
        async with open_journal(tmp_path / "j.db"):
            pass


async def test_a_changed_frame_is_named(tmp_path: Path) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
    base = sqlite3.connect(tmp_path / "j.db")
    (raw,) = base.execute("SELECT raw FROM frames WHERE lane = 1 AND seq = 2").fetchone()
    bent = bytearray(raw)
    bent[120] ^= 1
    base.execute("UPDATE frames SET raw = ? WHERE lane = 1 AND seq = 2", (bytes(bent),))
    base.commit()
    base.close()
    async with open_journal(tmp_path / "j.db") as journal:
        with pytest.raises(JournalCorrupt, match="lane=1, seq=2"):
            await read_record(journal, signers.opening)
        with pytest.raises(JournalCorrupt, match="arrival 4"):
            await verify_journal(journal)


async def test_all_custodies_of_a_journal_verify_in_bulk(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "j.db") as journal:
        for seed in (1, 2, 3):
            await filled(journal, Signers(seed), 5)
        assert await verify_journal(journal) == 15


@pytest.mark.parametrize("keep", [100, 4096, 9000])
async def test_a_truncated_file_is_named(tmp_path: Path, keep: int) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers, 40)
    path = tmp_path / "j.db"
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    os.truncate(path, keep)
    with pytest.raises(JournalError) as caught:
        async with open_journal(path) as journal:
            await read_record(journal, signers.opening)
    assert caught.value.code == "journal-corrupt"


async def test_what_is_no_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "j.db").write_bytes(b"not a database at all, just some words" * 100)
    with pytest.raises(JournalCorrupt):
        async with open_journal(tmp_path / "j.db"):
            pass


async def test_a_journal_of_another_version_is_named(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "j.db"):
        pass
    base = sqlite3.connect(tmp_path / "j.db")
    base.execute("UPDATE journal SET version = 99")
    base.commit()
    base.close()
    with pytest.raises(JournalVersion):
        async with open_journal(tmp_path / "j.db"):
            pass


async def test_secrets_come_back_with_the_wallet_and_are_nowhere_in_the_file(
    tmp_path: Path,
) -> None:
    signers, key = Signers(), SecretKey.generate()
    custody = signers.opening.custody
    note = JournalledOpening(b"\x05" * 32, TRADER, "0x" + "Ab" * 20, 12345, b"\x77" * 32)
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
        with pytest.raises(JournalSealed):
            await journal.keep_session_key(custody, 1, key)
        await journal.unlock("0xme", b"\x01" * 32)
        await journal.keep_session_key(custody, 1, key)
        await journal.keep_openings(custody, [note])
    raw = b"".join(path.read_bytes() for path in tmp_path.iterdir())  # noqa: ASYNC240
    assert key.expose_secret_bytes() not in raw
    assert note.blinding not in raw
    async with open_journal(tmp_path / "j.db") as journal:
        with pytest.raises(JournalForeign):
            await journal.unlock("0xother", b"\x01" * 32)
        with pytest.raises(JournalForeign):
            await journal.unlock("0xme", b"\x02" * 32)
        await journal.unlock("0xme", b"\x01" * 32)
        ((seq, back),) = await journal.session_keys(custody)
        assert (seq, back.public_key) == (1, key.public_key)
        assert await journal.openings(custody) == [note]
