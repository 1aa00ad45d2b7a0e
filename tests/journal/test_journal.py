"""The journal: what is written stays, what is damaged is named, and nobody else writes.

This file is long because the journal's promises are tested together: most of them name the same
file and writer.
"""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from custody_scene import Signers
from journal_writer import writing
from lost_frames import bend, lose

from psymm._core import SecretKey
from psymm.errors import (
    JournalClosed,
    JournalConflict,
    JournalCorrupt,
    JournalError,
    JournalForeign,
    JournalLocked,
    JournalReplaced,
    JournalRestored,
    JournalSealed,
    JournalVersion,
    KnownCustody,
    UnknownCustody,
)
from psymm.journal.backup import back_up
from psymm.journal.committer import GROUP, QUICK_COMMIT_S
from psymm.journal.export import export
from psymm.journal.high_water_mark import read_high_water_mark
from psymm.journal.reader import open_journal_reader
from psymm.journal.replayed import read_record, verify_journal
from psymm.journal.writer import Journal, open_journal
from psymm.messages import Heartbeat
from psymm.transcript.agreement import SOLVER, TRADER, JournalledOpening
from psymm.transcript.heads import Heads


async def filled(journal: Journal, signers: Signers, frames: int = 6) -> None:
    await journal.open_custody(signers.opening, TRADER, signers.now_ns)
    entries = [(entry.frame, entry.digest) for entry in signers.talk(frames)]
    await journal.append(entries)


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


async def test_of_a_custody_that_has_ended_it_is_known_whether_all_was_delivered(
    tmp_path: Path,
) -> None:
    signers = Signers()
    custody = signers.opening.custody
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
        assert not await journal.undelivered()
        await journal.write(journal.to_keep_fact(custody, "{}"))
        await journal.set_state(custody, "closed")
        # The solver's last frame covers our last one but one.
        assert [one.agreement.custody for one in await journal.undelivered()] == []
        for _ in range(2):
            await extended(journal, signers)
        assert [one.agreement.custody for one in await journal.undelivered()] == [custody]
        journal.mark_delivered(custody, 4)
    async with open_journal(tmp_path / "j.db") as journal:
        assert (await journal.custody(custody)).delivered == 4
        assert [one.agreement.custody for one in await journal.undelivered()] == [custody]
        journal.mark_delivered(custody, 5)
        # One that comes late takes nothing back.
        journal.mark_delivered(custody, 3)
    async with open_journal(tmp_path / "j.db") as journal:
        assert not await journal.undelivered()


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
                await journal.append([(twice.frame, twice.digest)])
        assert len(await journal.frames(signers.opening.custody)) == 6
        assert len(await journal.frames(others.opening.custody)) == 2


async def test_callers_that_do_not_wait_are_answered_in_the_order_of_asking(tmp_path: Path) -> None:
    signers = Signers(1)
    told: list[tuple[str, bool]] = []
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
        twice = signers.record.entry(TRADER, 1)
        assert twice is not None
        journal.write_soon([], then=lambda bad: told.append(("a", bad is None)))
        journal.write_soon(
            [journal.to_append([(twice.frame, twice.digest)])],
            then=lambda bad: told.append(("b", isinstance(bad, JournalConflict))),
        )
        journal.write_soon([], then=lambda bad: told.append(("c", bad is None)))
        assert told == []
        await filled(journal, Signers(2), 2)
        assert told == [("a", True), ("b", True), ("c", True)]
    late: list[object] = []
    journal.write_soon([], then=late.append)
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


async def gone_by(journal: Journal, count: int, *, writing: bool) -> list[int]:
    """How many writes were durable when each of so many got past a group of them; each with a write
    of its own, or without."""
    seen: list[int] = []
    durable: list[object] = []
    for _ in range(GROUP):
        journal.write_soon([], then=durable.append)

    async def pass_by() -> None:
        await journal.yield_to_commit()
        seen.append(len(durable))
        if writing:
            journal.write_soon([], then=durable.append)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(pass_by)
    return seen


async def test_who_brings_more_lets_a_group_of_writes_go_first(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "j.db") as journal:
        journal._commit_s = 0.0
        seen = await gone_by(journal, 5 * GROUP, writing=True)
        assert min(seen) >= GROUP
        # Nor do those behind wait for the last: a few at a time.
        assert len(set(seen)) >= 3


async def test_who_has_nothing_to_write_keeps_nobody_waiting(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "j.db") as journal:
        journal._commit_s = 0.0
        with trio.fail_after(300):
            await gone_by(journal, 5 * GROUP, writing=False)


async def test_nobody_gives_way_to_a_slow_disk(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "j.db") as journal:
        journal._commit_s = 10 * QUICK_COMMIT_S
        with trio.CancelScope() as scope:
            for _ in range(2 * GROUP):
                journal.write_soon([], then=lambda _: None)
            scope.cancel()
            await journal.yield_to_commit()
        assert not scope.cancelled_caught


@pytest.mark.parametrize("commit_s", [0.0, 10 * QUICK_COMMIT_S])
async def test_the_mark_bounds_every_commit_wherever_it_runs_and_leaves_out_what_is_refused(
    tmp_path: Path, commit_s: float
) -> None:
    during: list[tuple[int, int | None]] = []
    after: list[tuple[int, int | None]] = []

    def told(failed: JournalError | None) -> None:
        after.append(counted(journal))

    def ran(statement: str) -> None:
        if statement == "COMMIT":
            during.append(counted(journal))

    async with open_journal(tmp_path / "j.db") as journal:
        signers = Signers(1)
        await filled(journal, signers, 2)
        journal._commit_s = commit_s
        journal._connection.set_trace_callback(ran)
        first = [signers.sign(TRADER, Heartbeat()) for _ in range(3)]
        for entry in [first[0], first[0], *first[1:]]:
            change = journal.to_append([(entry.frame, entry.digest)])
            journal.write_soon([change], then=told)
        with pytest.raises(JournalConflict):
            await journal.append([(first[0].frame, first[0].digest)])
        journal._commit_s = commit_s
        await extended(journal, signers)
        journal._connection.set_trace_callback(None)
    assert during == [(2, 5), (5, 6)]
    assert after == [(5, 5)] * 4


def counted(journal: Journal) -> tuple[int, int | None]:
    """Frames of the high-water mark, and the most that there can have been."""
    mark = read_high_water_mark(journal._lock)
    assert mark is not None
    return mark.frames, mark.most


async def extended(journal: Journal, signers: Signers) -> None:
    """One more frame of the trader's, journalled."""
    entry = signers.sign(TRADER, Heartbeat())
    await journal.append([(entry.frame, entry.digest)])


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


async def test_another_process_is_refused_and_a_killed_one_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    program = (
        "import sys, trio\n"
        "from pathlib import Path\n"
        "from psymm.journal.writer import open_journal\n"
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
async def write(journal, signers):
    while True:
        entry = signers.sign(0, Heartbeat())
        await journal.append([(entry.frame, entry.digest)])
        print(entry.frame.seq, entry.digest.hex(), flush=True)
"""


@pytest.mark.parametrize("kill_after", [1, 7, 23])
async def test_what_was_reported_durable_survives_sigkill(tmp_path: Path, kill_after: int) -> None:
    path = tmp_path / "j.db"
    with subprocess.Popen(  # noqa: ASYNC220
        writing(WRITER, path), stdout=subprocess.PIPE
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
            await journal.append(entries)
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
    lose(tmp_path / "j.db", "lane = 0 AND seq = 2")
    with pytest.raises(JournalCorrupt, match="missing"):
        async with open_journal(tmp_path / "j.db"):
            pass


async def test_a_changed_frame_is_named(tmp_path: Path) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
    changed = signers.record.entry(SOLVER, 2)
    assert changed is not None
    bend(tmp_path / "j.db", changed.frame.raw, 120)
    async with open_journal(tmp_path / "j.db") as journal:
        with pytest.raises(JournalCorrupt, match="lane=1, seq=2"):
            await read_record(journal, signers.opening)
        with pytest.raises(JournalCorrupt, match="frames of the solver 2"):
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


async def test_a_process_that_died_while_it_made_the_file_can_begin_again(tmp_path: Path) -> None:
    base = sqlite3.connect(tmp_path / "j.db")
    base.execute("PRAGMA journal_mode = WAL")
    base.close()
    assert (tmp_path / "j.db").stat().st_size > 0
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, Signers())


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


# --- one writer, whatever the path --------------------------------------------------------------


async def locked(path: Path) -> None:
    with pytest.raises(JournalLocked):
        async with open_journal(path):
            pass


HOLDER = (
    "import sys, trio\n"
    "from pathlib import Path\n"
    "from psymm.journal.writer import open_journal\n"
    "async def main():\n"
    "    async with open_journal(Path(sys.argv[1])):\n"
    "        print('open', flush=True)\n"
    "        await trio.sleep_forever()\n"
    "trio.run(main)\n"
)


@pytest.mark.parametrize("way", ["symlink", "linked directory", "other spelling", "no lock file"])
async def test_a_second_writer_is_refused_by_whatever_path_it_comes(
    tmp_path: Path, way: str
) -> None:
    path = tmp_path / "home" / "j.db"
    other = {
        "symlink": tmp_path / "link.db",
        "linked directory": tmp_path / "linked" / "j.db",
        "other spelling": tmp_path / "home" / ".." / "home" / "j.db",
        "no lock file": path,
    }[way]
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert await trio.to_thread.run_sync(holder.stdout.readline) == b"open\n"
        if way == "symlink":
            other.symlink_to(path)
        elif way == "linked directory":
            other.parent.symlink_to(path.parent)
        elif way == "no lock file":
            (tmp_path / "home" / "j.db.lock").unlink()
        await locked(other)
        os.kill(holder.pid, signal.SIGKILL)
        await trio.to_thread.run_sync(holder.wait)
    async with open_journal(other):
        await locked(path)


async def test_a_journal_with_two_names_is_refused(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "j.db"):
        (tmp_path / "second.db").hardlink_to(tmp_path / "j.db")
        await locked(tmp_path / "second.db")
    with pytest.raises(JournalError, match="hard links"):
        async with open_journal(tmp_path / "second.db"):
            pass


@pytest.mark.parametrize("moved", ["deleted", "replaced"])
async def test_a_file_that_is_taken_away_while_in_use_takes_no_more_frames(
    tmp_path: Path, moved: str
) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
        (tmp_path / "j.db").rename(tmp_path / "elsewhere.db")
        if moved == "replaced":
            (tmp_path / "j.db").touch()
        entry = signers.sign(TRADER, Heartbeat())
        with pytest.raises(JournalReplaced):
            await journal.append([(entry.frame, entry.digest)])
        with pytest.raises(JournalReplaced):
            await journal.set_state(signers.opening.custody, "open")


# --- one commit, and a disk that refuses --------------------------------------------------------


async def test_the_frames_of_all_custodies_of_a_round_are_one_commit(tmp_path: Path) -> None:
    everyone = [Signers(seed) for seed in range(1, 51)]
    async with open_journal(tmp_path / "j.db") as journal:
        for signers in everyone:
            await journal.open_custody(signers.opening, TRADER, 1)
        before = journal.statistics()
        async with trio.open_nursery() as nursery:
            for signers in everyone:
                entries = [(entry.frame, entry.digest) for entry in signers.talk(4)]
                nursery.start_soon(partial(journal.append, entries))
        after = journal.statistics()
        assert after.writes - before.writes == 50
        assert after.commits - before.commits == 1


FULL = """
import resource, signal
from psymm.storage import DiskFull
async def write(journal, signers):
    print(signers.record.head(0).seq, flush=True)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = Path(f"{journal.path}-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30_000, size + 30_000))
    refused = 0
    for _ in range(60):
        entry = signers.sign(0, Heartbeat())
        try:
            await journal.append([(entry.frame, entry.digest)])
            assert not refused
            print(entry.frame.seq, flush=True)
        except DiskFull as error:
            refused, code = refused + 1, error.code
    print("refused", refused, code, flush=True)
"""


async def test_a_write_that_fails_in_the_middle_of_a_commit_is_typed_and_ends_all_writing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "j.db"
    ran = await trio.run_process(writing(FULL, path), capture_stdout=True)
    *durable, last = ran.stdout.decode().splitlines()
    word, refused, code = last.split()
    assert (word, code) == ("refused", "disk-full")
    assert int(refused) > 0
    async with open_journal(path) as journal:
        record = await read_record(journal, Signers().opening)
        # The one whose commit failed half way may be there or not; it was never sent.
        assert record.head(TRADER).seq - int(durable[-1]) in (0, 1)


# --- backup -------------------------------------------------------------------------------------


async def test_a_backup_is_made_while_the_writer_runs_whole_marked_and_for_its_owner_alone(
    tmp_path: Path,
) -> None:
    signers = Signers()
    target = tmp_path / "kept" / "backup.db"
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
        made = await trio.to_thread.run_sync(back_up, tmp_path / "j.db", target, 77)
        entry = signers.sign(TRADER, Heartbeat())
        await journal.append([(entry.frame, entry.digest)])
        assert made.frames == 6
        assert made.custodies == ((signers.opening.custody, Heads(*heads_of(signers, 6))),)
        before = target.read_bytes()
        with pytest.raises(JournalError, match="overwrites nothing"):
            back_up(tmp_path / "j.db", target, 78)
        assert target.read_bytes() == before
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in target.parent.iterdir()] == ["backup.db"]
    async with open_journal_reader(target) as reader:
        assert await reader.backed_up_ns() == 77
        assert await verify_journal(reader) == 6
        assert await export(reader, signers.opening.custody, tmp_path / "shown.psymm") == 6
    async with open_journal(target) as opened:
        with pytest.raises(JournalRestored):
            await opened.append([(entry.frame, entry.digest)])
        await opened.open_custody(Signers(2).opening, TRADER, 1)
        fresh = [(each.frame, each.digest) for each in Signers(2).talk(2)]
        await opened.append(fresh)


def heads_of(signers: Signers, frames: int) -> list[tuple[int, bytes]]:
    every = list(signers.record)[:frames]
    return [
        max((entry.frame.seq, entry.digest) for entry in every if entry.frame.lane == lane)
        for lane in (TRADER, SOLVER)
    ]


async def test_a_backup_of_a_damaged_journal_is_not_made(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, Signers())
    lose(tmp_path / "j.db", "seq = 2")
    with pytest.raises(JournalCorrupt):
        back_up(tmp_path / "j.db", tmp_path / "backup.db", 1)
    assert not any("backup" in name for name in os.listdir(tmp_path))
