"""Rounds: what one write stores is one row, and each of its frames is found and judged alone."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from custody_scene import Signers
from lost_frames import bend, lose
from test_damage import changed, copied

from psymm.errors import JournalCorrupt, JournalOlder, Missing
from psymm.journal.codec import JournalledFrame
from psymm.journal.heads import heads_of, stored_heads
from psymm.journal.inspection import inspect
from psymm.journal.reader import open_journal_reader
from psymm.journal.repair import repair_journal
from psymm.journal.rounds import (
    MOST_BYTES,
    Damaged,
    Written,
    delete_before,
    delete_from,
    frame_of,
    frames_of,
    insert_frames,
    lane_of,
    read_round,
)
from psymm.journal.schema import create_tables
from psymm.journal.transaction import FOLD
from psymm.journal.writer import open_journal
from psymm.messages import Heartbeat
from psymm.transcript.agreement import SOLVER, TRADER

PATH = Path("journal.db")
CUSTODY = bytes(range(32))


@pytest.fixture
def base() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create_tables(connection)
        yield connection


def written(lanes: list[int], size: int = 40) -> list[Written]:
    heads = [0, 0]
    found: list[Written] = []
    for lane in lanes:
        heads[lane] += 1
        mark = bytes([lane]) + heads[lane].to_bytes(8)
        found.append((lane, heads[lane], mark.ljust(32, b"d"), mark.ljust(size, b"r")))
    return found


def put(base: sqlite3.Connection, frames: list[Written], rounds: list[int]) -> None:
    at = 0
    for count in rounds:
        insert_frames(base, CUSTODY, at + 1, frames[at : at + count])
        at += count
    assert at == len(frames)


def plain(frames: list[JournalledFrame]) -> list[Written]:
    return [(one.lane, one.seq, one.digest, one.raw) for one in frames]


@pytest.mark.parametrize("seed", range(20))
def test_every_frame_is_found_by_its_lane_and_number_however_the_lanes_mix(
    base: sqlite3.Connection, seed: int
) -> None:
    dice = Random(seed)
    lean = dice.random()
    lanes = [int(dice.random() < lean) for _ in range(dice.randint(1, 60))]
    frames, rounds = written(lanes), []
    while sum(rounds) < len(frames):
        rounds.append(min(dice.randint(1, 7), len(frames) - sum(rounds)))
    put(base, frames, rounds)
    for place, (lane, seq, digest, raw) in enumerate(frames, 1):
        expected = JournalledFrame(place, lane, seq, digest, raw)
        assert frame_of(PATH, base, CUSTODY, lane, seq) == expected
    for lane in (TRADER, SOLVER):
        of_lane = [one for one in frames if one[0] == lane]
        assert frame_of(PATH, base, CUSTODY, lane, len(of_lane) + 1) is None
        first = dice.randint(1, len(of_lane) + 1)
        last = dice.randint(first, len(of_lane) + 2)
        found = lane_of(PATH, base, CUSTODY, lane, (first, last), 10**9)
        assert plain(found) == of_lane[first - 1 : last]
        if found:
            short = lane_of(PATH, base, CUSTODY, lane, (first, last), 41)
            assert plain(short) == of_lane[first - 1 : last][:2]
    after = dice.randint(0, len(frames))
    assert plain(frames_of(PATH, base, CUSTODY, after, None)) == frames[after:]
    assert plain(frames_of(PATH, base, CUSTODY, after, 3)) == frames[after : after + 3]


@pytest.mark.parametrize("place", [1, 3, 4, 6, 9, 10])
def test_a_round_is_cut_at_any_place_and_its_frames_stay_what_they_are(
    base: sqlite3.Connection, place: int
) -> None:
    frames = written([0, 1, 1, 0, 1, 0, 0, 1, 1])
    put(base, frames, [3, 5, 1])
    base.execute("BEGIN")
    delete_from(PATH, base, CUSTODY, place)
    assert plain(frames_of(PATH, base, CUSTODY, 0, None)) == frames[: place - 1]
    base.execute("ROLLBACK")
    delete_before(PATH, base, CUSTODY, place)
    base.execute("INSERT INTO pruned VALUES (?,?,0,0,0)", (CUSTODY, place - 1))
    assert plain(frames_of(PATH, base, CUSTODY, 0, None)) == frames[place - 1 :]
    left = frames[place - 1 :]
    if left:
        lane, seq, _, raw = left[-1]
        found = frame_of(PATH, base, CUSTODY, lane, seq)
        assert found is not None
        assert found.raw == raw


def test_a_round_that_would_be_very_long_is_several(base: sqlite3.Connection) -> None:
    frames = written([0, 1] * 8, MOST_BYTES // 4)
    put(base, frames, [len(frames)])
    assert base.execute("SELECT count(*) FROM rounds").fetchone() == (4,)
    assert plain(frames_of(PATH, base, CUSTODY, 0, None)) == frames


def test_a_byte_that_is_wrong_costs_one_frame_of_its_round() -> None:
    signers = Signers()
    frames = [
        (entry.frame.lane, entry.frame.seq, entry.digest, entry.frame.raw)
        for entry in signers.talk(4)
    ]
    with closing(sqlite3.connect(":memory:")) as base:
        create_tables(base)
        insert_frames(base, CUSTODY, 1, frames)
        (body,) = base.execute("SELECT body FROM rounds").fetchone()
    for at in range(len(body)):
        bent = bytearray(body)
        bent[at] ^= 1 << at % 8
        read = list(read_round(CUSTODY, 1, 4, bytes(bent)))
        places = [one[0] for one in read if isinstance(one, Damaged)]
        assert len(places) <= 1
        assert plain([one for one in read if isinstance(one, JournalledFrame)]) == [
            one for number, one in enumerate(frames, 1) if number not in places
        ]
    assert all(isinstance(one, Damaged) for one in read_round(CUSTODY[::-1], 1, 4, body)), (
        "a frame counts only at its own place"
    )


async def test_a_damaged_frame_among_others_is_named_and_the_others_are_read(
    tmp_path: Path,
) -> None:
    signers = Signers()
    custody = signers.opening.custody
    async with open_journal(tmp_path / "j.db") as journal:
        await journal.open_custody(signers.opening, TRADER, 1)
        await journal.append([(one.frame, one.digest) for one in signers.talk(10)])
    bent = signers.record.entry(SOLVER, 3)
    assert bent is not None
    bend(tmp_path / "j.db", bent.frame.raw, 130)
    async with open_journal(tmp_path / "j.db") as journal:
        for lane in (TRADER, SOLVER):
            for seq in range(1, 6):
                if (lane, seq) == (SOLVER, 3):
                    with pytest.raises(JournalCorrupt, match="lane=1, seq=3"):
                        await journal.frame(custody, lane, seq)
                else:
                    found = await journal.frame(custody, lane, seq)
                    assert found is not None
        assert len(await journal.frames(custody, after=6)) == 4
        with pytest.raises(JournalCorrupt, match="lane=1, seq=3"):
            await journal.frames(custody)


async def test_heads_follow_from_the_frames_written_after_the_stored_ones(
    tmp_path: Path,
) -> None:
    """Their table is written now and then, and when a journal is closed or opened."""
    signers, path = Signers(), tmp_path / "j.db"
    custody = signers.opening.custody
    async with open_journal(path) as journal:
        await journal.open_custody(signers.opening, TRADER, 1)
        signers.talk(2)
        await journal.append([(one.frame, one.digest) for one in signers.record])
        behind = 0
        for _ in range(2 * FOLD):
            entry = signers.sign(TRADER, Heartbeat())
            await journal.append([(entry.frame, entry.digest)])
            async with open_journal_reader(path) as reader:
                heads = await reader.heads(custody)
                assert heads.trader == (entry.frame.seq, entry.digest)
                assert (await reader.custody(custody)).frames == len(signers.record)
            stored, _ = stored_and_derived(path, custody)
            behind = max(behind, len(signers.record) - stored)
        assert 0 < behind <= FOLD
        copied(path, tmp_path / "died")
    assert stored_and_derived(path, custody) == (len(signers.record),) * 2
    async with open_journal(tmp_path / "died" / "j.db") as journal:
        stored, derived = stored_and_derived(tmp_path / "died" / "j.db", custody)
        assert stored == derived == len(signers.record)
        entry = signers.sign(TRADER, Heartbeat())
        await journal.append([(entry.frame, entry.digest)])


def stored_and_derived(path: Path, custody: bytes) -> tuple[int, int]:
    """Frames that a custody's row of heads counts, and how many there are."""
    with closing(sqlite3.connect(path, isolation_level=None)) as base:
        return stored_heads(path, base, custody).frames, heads_of(path, base, custody).frames


async def test_rounds_that_are_lost_before_their_heads_were_folded_are_named(
    tmp_path: Path,
) -> None:
    """Of a killed process; its newest heads are certain."""
    every, path = [Signers(1), Signers(2)], tmp_path / "j.db"
    custody = every[0].opening.custody
    async with open_journal(path) as journal:
        for signers in every:
            await journal.open_custody(signers.opening, TRADER, 1)
            for entry in signers.talk(9):
                await journal.append([(entry.frame, entry.digest)])
        copied(path, tmp_path / "died")
    died = tmp_path / "died" / "j.db"
    lose(died, f"arrival > 7 AND custody = x'{custody.hex()}'")
    missing = (
        Missing(custody, "frames", TRADER, 5, 5),
        Missing(custody, "frames", SOLVER, 4, 4),
    )
    for opened in (open_journal(died), open_journal_reader(died)):
        with pytest.raises(JournalCorrupt) as caught:
            async with opened:
                pass
        assert [one for one in caught.value.missing if one.what == "frames"] == list(missing)
    report = inspect(died)
    assert (report.lost, report.frames, report.sound, report.newest) == (0, 16, False, True)


@pytest.mark.parametrize(
    "damage", ["DELETE FROM newer_heads", "UPDATE newer_heads SET heads = x'01'"]
)
async def test_rounds_that_are_lost_with_their_heads_are_counted(
    tmp_path: Path, damage: str
) -> None:
    signers, path = Signers(), tmp_path / "j.db"
    async with open_journal(path) as journal:
        await journal.open_custody(signers.opening, TRADER, 1)
        for entry in signers.talk(9):
            await journal.append([(entry.frame, entry.digest)])
        copied(path, tmp_path / "died")
    died = tmp_path / "died" / "j.db"
    lose(died, "arrival > 7")
    changed(died, damage)
    for opened in (open_journal(died), open_journal_reader(died)):
        with pytest.raises(JournalOlder, match=r"held=7, were=9"):
            async with opened:
                pass
    report = inspect(died)
    assert (report.lost, report.frames, report.sound) == (2, 7, False)
    result = repair_journal(died, [], 5)
    assert result is not None
    assert [one.health for one in result.custodies] == ["read-only"]


async def test_heads_are_left_right_where_another_write_of_the_round_is_refused(
    tmp_path: Path,
) -> None:
    signers, other, path = Signers(1), Signers(2), tmp_path / "j.db"
    async with open_journal(path) as journal:
        for one in (signers, other):
            await journal.open_custody(one.opening, TRADER, 1)
            await journal.append([(entry.frame, entry.digest) for entry in one.talk(2)])
        failures: list[object] = []
        for one in (signers, other):
            entry = one.sign(TRADER, Heartbeat())
            changes = [journal.to_append([(entry.frame, entry.digest)])] * (1 + (one is other))
            journal.write_soon(changes, failures.append)
        await journal.write()
        assert [one is None for one in failures] == [True, False]
        copied(path, tmp_path / "died")
    async with open_journal(tmp_path / "died" / "j.db") as journal:
        held = {one.agreement.custody: one.frames for one in await journal.custodies()}
    assert held == {signers.opening.custody: 3, other.opening.custody: 2}


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE rounds SET arrival = -1",
        "UPDATE rounds SET frames = 1 << 62",
        "UPDATE rounds SET frames = 0",
        "UPDATE rounds SET body = x''",
        "UPDATE rounds SET body = substr(body, 1, 60)",
        "UPDATE rounds SET body = substr(body, 1, length(body) - 1)",
        "UPDATE rounds SET custody = x'00'",
        "UPDATE newer_heads SET heads = zeroblob(8)",
    ],
)
async def test_a_round_whose_row_is_wrong_is_named_as_damage(tmp_path: Path, damage: str) -> None:
    signers, path = Signers(), tmp_path / "j.db"
    async with open_journal(path) as journal:
        await journal.open_custody(signers.opening, TRADER, 1)
        await journal.append([(one.frame, one.digest) for one in signers.talk(4)])
    changed(path, damage)
    if "newer_heads" not in damage:
        for opened in (open_journal(path), open_journal_reader(path)):
            with pytest.raises(JournalCorrupt):
                async with opened:
                    pass
    assert inspect(path).frames in (0, 3, 4)
    repair_journal(path, [], 5)
    async with open_journal(path) as journal:
        held = await journal.custodies()
        assert [one.agreement for one in held] == [signers.opening]
