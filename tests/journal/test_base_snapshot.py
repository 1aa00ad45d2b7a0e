"""A journal whose oldest frames are gone, and a file that begins at a checkpoint."""

from __future__ import annotations

import signal
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from custody_scene import ROOMS, Signers
from hypothesis import given, settings
from hypothesis import strategies as st
from lost_frames import lose

from psymm.errors import (
    CheckpointRefused,
    JournalConflict,
    JournalCorrupt,
    NoCheckpoint,
    TranscriptFileError,
)
from psymm.journal.export import export
from psymm.journal.inspection import inspect
from psymm.journal.repair import repair_journal
from psymm.journal.replayed import read_record, verify_journal
from psymm.journal.retention import Pruned
from psymm.journal.writer import Journal, open_journal
from psymm.messages import Heartbeat
from psymm.session.runtime.archive import archive, prune
from psymm.session.runtime.base_account import first_account
from psymm.session.runtime.report import verify_bytes, verify_file
from psymm.terms import Terms
from psymm.transcript.agreement import SOLVER, TRADER
from psymm.transcript.checkpoint import BaseSnapshot, Point, base_snapshot, may_be
from psymm.transcript.file import encode_file, parse_file
from psymm.transcript.record import Record


async def filled(journal: Journal, signers: Signers, rounds: int = 1) -> Point:
    """A custody with some frames, a checkpoint in force, and a few frames since; `rounds` of it."""
    custody = signers.opening.custody
    await journal.open_custody(signers.opening, TRADER, signers.now_ns)
    signers.talk(12)
    done = 0
    for _ in range(rounds):
        for lane in (TRADER, SOLVER, TRADER):
            signers.sign(lane, Heartbeat())
        point, account = signers.agree()
        signers.sign(TRADER, Heartbeat())
        entries = list(signers.record)[done:]
        done += len(entries)
        await journal.append([(one.frame, one.digest) for one in entries])
        await journal.keep_checkpoint(custody, point, lambda account=account: account)  # type: ignore[misc]
    return point


async def test_a_record_begins_at_the_newest_checkpoint_and_is_the_whole_one_s(
    tmp_path: Path,
) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        point = await filled(journal, signers, 2)
        record = await read_record(journal, signers.opening)
    assert record.starts_at is not None
    assert record.starts_at.point == point
    for lane in (TRADER, SOLVER):
        assert record.head(lane) == signers.record.head(lane)
    first = record.entry(TRADER, point.trader_seq + 1)
    assert first is not None
    assert record.entry(TRADER, point.trader_seq) is None
    assert [type(one.message).__name__ for one in record.before] == ["Logon", "Logon"]


async def test_pruned_it_opens_verifies_and_takes_the_next_frame(tmp_path: Path) -> None:
    signers = Signers()
    custody = signers.opening.custody
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
        held = len(await journal.frames(custody))
        done = await prune(journal, custody)
        assert done.frames > 0
        assert done.frames + done.kept == held
    async with open_journal(tmp_path / "j.db") as journal:
        assert len(await journal.frames(custody)) == done.kept
        assert await verify_journal(journal) > 0
        record = await read_record(journal, signers.opening)
        assert record.head(SOLVER) == signers.record.head(SOLVER)
        entry = signers.sign(SOLVER, Heartbeat())
        assert record.append(entry.frame).digest == entry.digest
        await journal.append([(entry.frame, entry.digest)])
        assert (await journal.custody(custody)).frames == held + 1


@pytest.mark.parametrize(
    ("payload", "may"),
    [
        (b'{"MsgType":"A","x":"1"}', True),
        (b'{"MsgType":"0"}', False),
        (b'{"MsgType":"\\u0041"}', True),
        (b'{ "MsgType":"0"}', True),
        (b'{"MsgType":"0', True),
        (b"", True),
    ],
)
def test_a_peer_cannot_hide_a_frame_that_must_be_remembered_in_its_spelling(
    payload: bytes, may: bool
) -> None:
    assert may_be(payload, frozenset((b"A",))) is may


async def test_frames_that_the_checkpoint_does_not_count_stay(tmp_path: Path) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        point = await filled(journal, signers)
        await prune(journal, signers.opening.custody)
        kept = {(one.lane, one.seq) for one in await journal.frames(signers.opening.custody)}
    for one in signers.record:
        if one.frame.seq > point.seqs[one.frame.lane]:
            assert (one.frame.lane, one.frame.seq) in kept


async def test_to_prune_twice_changes_nothing_the_second_time(tmp_path: Path) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
        first = await prune(journal, signers.opening.custody)
        second = await prune(journal, signers.opening.custody)
        assert (second.frames, second.kept) == (0, first.kept)
        assert await verify_journal(journal) > 0


async def test_without_a_checkpoint_nothing_leaves(tmp_path: Path) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await journal.open_custody(signers.opening, TRADER, 1)
        with pytest.raises(NoCheckpoint):
            await prune(journal, signers.opening.custody)
        with pytest.raises(NoCheckpoint):
            await archive(journal, signers.opening.custody, tmp_path / "a.psymm")
    assert not (tmp_path / "a.psymm").exists()


async def test_an_account_that_is_not_the_one_agreed_lets_nothing_leave(tmp_path: Path) -> None:
    signers = Signers()
    custody = signers.opening.custody
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
        held = len(await journal.frames(custody))
        await journal._write(
            lambda base: base.execute(
                "UPDATE checkpoints SET account = CAST(replace(CAST(account AS TEXT),"
                ' \'"realised":"0"\', \'"realised":"1"\') AS BLOB)'
            )
        )
        with pytest.raises(JournalCorrupt):
            await prune(journal, custody)
        assert len(await journal.frames(custody)) == held


async def test_a_checkpoint_that_came_meanwhile_makes_it_be_done_again(tmp_path: Path) -> None:
    signers = Signers()
    custody = signers.opening.custody
    async with open_journal(tmp_path / "j.db") as journal:
        point = await filled(journal, signers)
        later = replace(point, solver_seq=point.solver_seq + 1)
        await journal.keep_checkpoint(custody, later, lambda: b"{}")
        held = len(await journal.frames(custody))
        with pytest.raises(JournalConflict):
            await journal.remove_frames(custody, Pruned(3, 2, 1, point.solver_seq), [])
        assert len(await journal.frames(custody)) == held


async def test_a_frame_missing_after_what_was_pruned_is_named(tmp_path: Path) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
        await prune(journal, signers.opening.custody)
    lose(tmp_path / "j.db", "arrival = (SELECT min(arrival) FROM temp.frames)")
    with pytest.raises(JournalCorrupt, match="missing"):
        async with open_journal(tmp_path / "j.db"):
            pass


async def test_a_pruned_journal_without_its_checkpoint_is_corrupt(tmp_path: Path) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
        await prune(journal, signers.opening.custody)
        await journal._write(lambda base: base.execute("DELETE FROM checkpoints"))
        with pytest.raises(JournalCorrupt):
            await read_record(journal, signers.opening)
        with pytest.raises(JournalCorrupt):
            await verify_journal(journal)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM checkpoints",
        "UPDATE checkpoints SET account = CAST(replace(CAST(account AS TEXT),"
        ' \'"realised":"0"\', \'"realised":"1"\') AS BLOB)',
    ],
)
async def test_the_account_that_pruned_frames_begin_with_is_the_agreed_one_or_none(
    tmp_path: Path, damage: str
) -> None:
    signers = Signers()
    custody, terms = signers.opening.custody, Terms.parse(signers.opening.terms)
    async with open_journal(tmp_path / "j.db") as journal:
        point = await filled(journal, signers)
        assert await first_account(journal, custody, terms) is None
        await prune(journal, custody)
        account = await first_account(journal, custody, terms)
        assert account is not None
        assert (account.hash, account.seqs) == (point.account_hash, point.seqs)
        await journal._write(lambda base: base.execute(damage))
        with pytest.raises(JournalCorrupt):
            await first_account(journal, custody, terms)


async def test_an_account_of_other_frames_than_its_checkpoint_names_lets_nothing_leave(
    tmp_path: Path,
) -> None:
    signers = Signers()
    custody = signers.opening.custody
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
        held = len(await journal.frames(custody))
        await journal._write(
            lambda base: base.execute("UPDATE checkpoints SET trader_seq = trader_seq - 1")
        )
        with pytest.raises(JournalCorrupt, match="not of the frames"):
            await prune(journal, custody)
        assert len(await journal.frames(custody)) == held


async def test_archives_of_one_custody_are_all_of_it(tmp_path: Path) -> None:
    signers = Signers()
    custody = signers.opening.custody
    seen: set[tuple[int, int]] = set()
    async with open_journal(tmp_path / "j.db") as journal:
        await filled(journal, signers)
        await archive(journal, custody, tmp_path / "0.psymm")
        point, account = signers.agree()
        entries = list(signers.record)[(await journal.custody(custody)).frames :]
        await journal.append([(one.frame, one.digest) for one in entries])
        await journal.keep_checkpoint(custody, point, lambda: account)
        await archive(journal, custody, tmp_path / "1.psymm")
        await export(journal, custody, tmp_path / "2.psymm")
    for name in ("0", "1", "2"):
        report = verify_file(tmp_path / f"{name}.psymm")
        assert (report.starts_at is None) == (name == "0")
        seen |= {(line.frame.lane, line.frame.seq) for line in report.lines}
    assert seen == {(one.frame.lane, one.frame.seq) for one in signers.record}


KILLED = """
import sys, os, signal, trio
sys.path[:0] = sys.argv[3:]
from pathlib import Path
from custody_scene import Signers
from psymm.session.runtime import archive as archiving
from psymm.journal import retention
from psymm.journal.writer import open_journal
at = sys.argv[2]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if at == "written":
    archiving._remove = die
elif at == "removing":
    before = retention.pruned_of
    def pruned_of(base, custody):
        if base.in_transaction:
            base.execute("DELETE FROM rounds WHERE arrival <= 3")
            die()
        return before(base, custody)
    retention.pruned_of = pruned_of
elif at == "writing":
    whole = archiving.write_whole
    archiving.write_whole = lambda path, raw: (whole(path, raw), die())
async def main():
    async with open_journal(Path(sys.argv[1]), create=False) as journal:
        await archiving.archive(journal, Signers().opening.custody, Path(sys.argv[1] + ".psymm"))
    print("done", flush=True)
trio.run(main)
"""


@pytest.mark.parametrize("at", ["writing", "written", "removing", "never"])
async def test_killed_while_it_archives_the_journal_is_as_it_was_or_as_it_should_be(
    tmp_path: Path, at: str
) -> None:
    signers, path = Signers(), tmp_path / "j.db"
    custody = signers.opening.custody
    async with open_journal(path) as journal:
        await filled(journal, signers)
        whole = [one.raw for one in await journal.frames(custody)]
    program = [sys.executable, "-c", KILLED, str(path), at, *ROOMS]
    ran = await trio.run_process(program, capture_stdout=True, check=False)
    assert ran.returncode == (0 if at == "never" else -signal.SIGKILL)
    async with open_journal(path) as journal:
        left = [one.raw for one in await journal.frames(custody)]
        assert await verify_journal(journal) > 0
        record = await read_record(journal, signers.opening)
        assert record.head(TRADER) == signers.record.head(TRADER)
        if at == "never":
            assert left == whole[-len(left) :]
            assert len(left) < len(whole)
        else:
            assert left == whole
            again = await archive(journal, custody, path.with_name("again.psymm"))
            assert again.frames > 0
    archived = path.with_name("again.psymm" if at != "never" else "j.db.psymm")
    assert verify_file(archived).verified.frames == len(whole)


# --- the file -----------------------------------------------------------------------------------


def _begun() -> tuple[Signers, BaseSnapshot, list[bytes]]:
    signers = Signers()
    signers.talk(10)
    point, account = signers.agree()
    signers.sign(TRADER, Heartbeat())
    frames = [one.frame for one in signers.record]
    begins = base_snapshot(point, account, frames)
    since = [one.raw for one in frames if not begins.counts(one.lane, one.seq)]
    return signers, begins, since


SIGNERS, BEGINS, SINCE = _begun()
RAW = encode_file(SIGNERS.opening, SINCE, starts_at=BEGINS)


def test_a_file_that_begins_at_a_checkpoint_verifies_with_its_account() -> None:
    report = verify_bytes(RAW)
    assert report.starts_at == BEGINS.point
    assert report.verified.frames == len(SINCE)
    assert report.verified.heads[TRADER] == SIGNERS.record.head(TRADER)
    whole = verify_bytes(encode_file(SIGNERS.opening, [one.frame.raw for one in SIGNERS.record]))
    assert report.account is not None
    assert whole.account is not None
    assert report.account.hash == whole.account.hash


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(RAW) * 8 - 1))
def test_no_flipped_bit_of_it_passes(bit: int) -> None:
    bent = bytearray(RAW)
    bent[bit // 8] ^= 1 << bit % 8
    with pytest.raises(TranscriptFileError) as caught:
        verify_bytes(bytes(bent))
    assert 0 <= caught.value.offset <= len(RAW)


def refused(begins: BaseSnapshot, frames: list[bytes] | None = None) -> str:
    with pytest.raises(TranscriptFileError) as caught:
        verify_bytes(encode_file(SIGNERS.opening, frames or SINCE, starts_at=begins))
    return caught.value.reason


def test_a_checkpoint_that_only_one_lane_signed_is_refused() -> None:
    for lane in (TRADER, SOLVER):
        said = list(BEGINS.point.said)
        said[lane] += 1
        point = replace(BEGINS.point, said=(said[0], said[1]))
        assert refused(replace(BEGINS, point=point)) == "bad-checkpoint"


def test_an_account_that_nobody_signed_is_refused() -> None:
    lie = BEGINS.account.replace(b'"realised":"0"', b'"realised":"9"')
    assert lie != BEGINS.account
    assert refused(replace(BEGINS, account=lie)) == "bad-checkpoint"


def test_frames_that_do_not_lead_to_what_follows_are_refused() -> None:
    other = Signers(2)
    other.talk(10)
    point, account = other.agree()
    theirs = base_snapshot(point, account, [one.frame for one in other.record])
    assert refused(replace(BEGINS, trader=theirs.trader)) == "bad-checkpoint"
    assert refused(replace(BEGINS, solver=theirs.solver)) == "bad-checkpoint"
    assert refused(replace(BEGINS, carriers=theirs.carriers)) == "bad-checkpoint"
    assert refused(replace(BEGINS, solver=())) == "bad-checkpoint"
    assert refused(replace(BEGINS, trader=BEGINS.trader + b"\x00")) == "bad-checkpoint"
    swapped = (BEGINS.carriers[1], BEGINS.carriers[0])
    assert refused(replace(BEGINS, carriers=swapped)) == "bad-checkpoint"
    assert refused(BEGINS, SINCE[1:]) in ("bad-seq", "ahead", "bad-checkpoint", "bad-peer-digest")


def test_a_record_refuses_a_beginning_that_does_not_stand() -> None:
    with pytest.raises(CheckpointRefused):
        Record(SIGNERS.opening, replace(BEGINS, trader=BEGINS.carriers[0]))


@pytest.mark.parametrize(
    "change",
    [
        {"account": 5},
        {"traderSeq": "-1"},
        {"traderSeq": str(2**70)},
        {"carriers": ["0x00"]},
        {"solver": "0x"},
        {"extra": "1"},
    ],
)
def test_a_checkpoint_out_of_form_is_refused(change: dict[str, object]) -> None:
    import json

    length = int.from_bytes(RAW[8:12])
    document = json.loads(RAW[12 : 12 + length])
    document["checkpoint"] |= change
    head = json.dumps(document, separators=(",", ":")).encode()
    with pytest.raises(TranscriptFileError):
        verify_bytes(RAW[:8] + len(head).to_bytes(4) + head + RAW[12 + length :])


def test_an_old_file_still_reads() -> None:
    raw = encode_file(SIGNERS.opening, [one.frame.raw for one in SIGNERS.record])
    assert b'"checkpoint"' not in raw
    assert parse_file(raw).starts_at is None


async def pruned_journal(tmp_path: Path) -> Signers:
    """`j.db` with its oldest frames in `old.psymm`, whose session key is there."""
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await journal.unlock("0xme", b"\x01" * 32)
        await filled(journal, signers)
        await journal.keep_session_key(signers.opening.custody, 1, signers.keys[TRADER])
        await archive(journal, signers.opening.custody, tmp_path / "old.psymm")
    return signers


def change(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as base:
        base.execute(statement)
    base.close()


async def test_a_pruned_journal_is_repaired_from_its_checkpoint_on(tmp_path: Path) -> None:
    signers = await pruned_journal(tmp_path)
    heads = [signers.record.head(lane).seq for lane in (TRADER, SOLVER)]
    lose(tmp_path / "j.db", f"lane = {TRADER} AND seq = {heads[TRADER]}")
    report = inspect(tmp_path / "j.db")
    assert [(lack.lane, lack.first, lack.last) for lack in report.missing] == [
        (TRADER, heads[TRADER], heads[TRADER])
    ]
    result = repair_journal(tmp_path / "j.db", [], 5)
    assert result is not None
    assert [one.health for one in result.custodies] == ["recovering"]
    async with open_journal(tmp_path / "j.db") as journal:
        record = await read_record(journal, signers.opening)
        assert record.starts_at is not None
        assert [record.head(lane).seq for lane in (TRADER, SOLVER)] == [
            heads[TRADER] - 1,
            heads[SOLVER],
        ]


async def test_a_pruned_journal_without_its_checkpoint_is_repaired_with_its_archive(
    tmp_path: Path,
) -> None:
    signers = await pruned_journal(tmp_path)
    change(tmp_path / "j.db", "DELETE FROM checkpoints")
    result = repair_journal(tmp_path / "j.db", [tmp_path / "old.psymm"], 5)
    assert result is not None
    assert [one.health for one in result.custodies] == ["complete"]
    async with open_journal(tmp_path / "j.db") as journal:
        assert await verify_journal(journal) == len(signers.record)
        record = await read_record(journal, signers.opening)
    assert record.starts_at is None
    for lane in (TRADER, SOLVER):
        assert record.head(lane) == signers.record.head(lane)
