"""A lone writer commits in its own step, with all that the journal promises kept."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import trio
import trio.testing
from custody_scene import Signers

from psymm.errors import JournalConflict
from psymm.journal.committer import GROUP, IN_A_ROW, LONE_COMMIT_S, PROBE
from psymm.journal.faults import JournalFailure
from psymm.journal.high_water_mark import read_high_water_mark
from psymm.journal.transaction import Append, Change
from psymm.journal.writer import Journal, open_journal
from psymm.messages import Heartbeat
from psymm.transcript.agreement import SOLVER, TRADER


async def opened(journal: Journal, signers: Signers) -> None:
    await journal.open_custody(signers.opening, TRADER, signers.now_ns)
    # The first frame of a lane brings its key.
    entries = [(entry.frame, entry.digest) for entry in signers.talk(2)]
    await journal.append(entries)
    journal._commit_s = 0.0


def more(journal: Journal, signers: Signers, lane: int = TRADER) -> Append:
    entry = signers.sign(lane, Heartbeat())
    return journal.to_append([(entry.frame, entry.digest)])


def durable(journal: Journal) -> tuple[int, int | None]:
    """Frames that another connection sees, and those that the mark counts."""
    with closing(sqlite3.connect(journal.path)) as other:
        ((frames,),) = other.execute("SELECT sum(frames) FROM rounds")
    mark = read_high_water_mark(journal._lock)
    assert mark is not None
    return frames, mark.most


async def test_its_frames_are_durable_and_counted_when_it_is_told_in_its_own_step(
    tmp_path: Path,
) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await opened(journal, signers)
        told: list[tuple[int, int | None]] = []
        change = more(journal, signers)
        journal.write_soon([change], lambda failed: told.append(durable(journal)), True)
        assert told == [(3, 3)]


async def test_what_waits_already_is_committed_with_it_in_order_and_in_one_row(
    tmp_path: Path,
) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await opened(journal, signers)
        commits, told = journal.statistics().commits, list[str]()
        journal.write_soon([more(journal, signers, SOLVER)], lambda _: told.append("first"))
        assert told == []
        journal.write_soon([more(journal, signers)], lambda _: told.append("second"), True)
        assert told == ["first", "second"]
        assert journal.statistics().commits == commits + 1
        with closing(sqlite3.connect(journal.path)) as other:
            rows = other.execute("SELECT arrival, frames FROM rounds ORDER BY arrival").fetchall()
        assert rows == [(1, 2), (3, 2)]
        # The task that was woken for the first finds nothing left.
        await trio.testing.wait_all_tasks_blocked()
        assert journal.statistics().commits == commits + 1


async def test_one_refused_write_of_a_custody_takes_no_other_with_it(tmp_path: Path) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await opened(journal, signers)
        told: list[JournalFailure | None] = []
        good, other = more(journal, signers), more(journal, signers, SOLVER)
        for change in (good, good, other):
            journal.write_soon([change], told.append)
        journal.write_soon([more(journal, signers)], told.append, True)
        assert [type(one) for one in told] == [type(None), JournalConflict, *[type(None)] * 2]
        assert durable(journal) == (5, 5)
        assert len(await journal.frames(signers.opening.custody)) == 5


async def test_what_a_callback_writes_comes_after_the_callbacks_before_it(tmp_path: Path) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await opened(journal, signers)
        told: list[str] = []

        def answers(_: JournalFailure | None) -> None:
            told.append("asked")
            journal.write_soon([more(journal, signers)], lambda _: told.append("answered"), True)

        journal.write_soon([more(journal, signers)], answers)
        journal.write_soon([more(journal, signers)], lambda _: told.append("last"), True)
        assert told == ["asked", "last"]
        await journal.write()
        assert told == ["asked", "last", "answered"]


async def test_other_tasks_get_their_turn_however_much_it_writes(tmp_path: Path) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await opened(journal, signers)
        told: list[int] = []
        for number in range(IN_A_ROW + 2):
            journal._commit_s = 0.0
            change = more(journal, signers)
            journal.write_soon([change], lambda _, number=number: told.append(number), True)
        assert told == list(range(IN_A_ROW))
        await journal.write()
        assert told == list(range(IN_A_ROW + 2))


async def test_on_a_slower_disk_other_tasks_get_their_turn_sooner(tmp_path: Path) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await opened(journal, signers)
        told: list[int] = []
        for number in range(3):
            journal._commit_s = LONE_COMMIT_S / 2
            change = more(journal, signers)
            journal.write_soon([change], lambda _, number=number: told.append(number), True)
        assert told == [0, 1]
        await journal.write()
        assert told == [0, 1, 2]


async def test_more_than_frames_and_a_slow_disk_are_left_to_a_thread(tmp_path: Path) -> None:
    signers = Signers()
    custody = signers.opening.custody
    async with open_journal(tmp_path / "j.db") as journal:
        await opened(journal, signers)

        async def written(change: Change, commit_s: float) -> bool:
            """Whether it was durable at once."""
            journal._commit_s = commit_s
            told: list[JournalFailure | None] = []
            journal.write_soon([change], told.append, True)
            at_once = bool(told)
            # Writes are told in their order, so this one comes last.
            await journal.write()
            assert told == [None]
            return at_once

        assert await written(more(journal, signers), LONE_COMMIT_S)
        assert not await written(more(journal, signers), 2 * LONE_COMMIT_S)
        assert not await written(journal.to_keep_fact(custody, "{}"), 0.0)
        assert await written(more(journal, signers), 0.0)


async def test_a_disk_that_looks_slow_is_measured_now_and_then_without_a_thread(
    tmp_path: Path,
) -> None:
    signers = Signers()
    threads: list[str] = []

    async def run_sync(work: Callable[..., Any], *arguments: Any) -> Any:
        threads.append(work.__name__)
        return work(*arguments)

    async with open_journal(tmp_path / "j.db", run_sync=run_sync) as journal:
        await opened(journal, signers)
        threads.clear()
        commits = journal.statistics().commits
        while journal.statistics().commits - commits <= len(threads):
            journal._commit_s = 10**6
            change = more(journal, signers)
            await journal.write(change)
        # One was made here, and what it measured counts at once.
        assert len(threads) <= PROBE
        assert journal._commit_s < 10**3


async def test_what_lingers_shares_the_commit_of_the_next_write_and_wakes_no_task(
    tmp_path: Path,
) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "j.db") as journal:
        await opened(journal, signers)
        commits, told = journal.statistics().commits, list[str]()
        asked, answer = more(journal, signers, SOLVER), more(journal, signers)
        journal.write_soon([asked], lambda _: told.append("asked"), lingers=True)
        await trio.testing.wait_all_tasks_blocked()
        assert told == []
        journal.write_soon([answer], lambda _: told.append("answer"), True)
        assert told == ["asked", "answer"]
        assert journal.statistics().commits == commits + 1


async def test_what_lingers_is_committed_when_another_write_does_not_come_or_is_not_alone(
    tmp_path: Path,
) -> None:
    signers = Signers()
    told: list[str] = []
    async with open_journal(tmp_path / "j.db") as journal:
        await opened(journal, signers)
        journal.write_soon([more(journal, signers)], lambda _: told.append("late"), lingers=True)
        journal.commit_soon()
        await trio.testing.wait_all_tasks_blocked()
        assert told == ["late"]
        journal.write_soon([more(journal, signers)], lambda _: told.append("offer"), lingers=True)
        await journal.write(more(journal, signers))
        assert told == ["late", "offer"]
        for _ in range(GROUP):
            change = more(journal, signers)
            journal.write_soon([change], lambda _: told.append("many"), lingers=True)
        await trio.testing.wait_all_tasks_blocked()
        assert told[2:] == ["many"] * GROUP
        journal.write_soon([more(journal, signers)], lambda _: told.append("end"), lingers=True)
    assert told[-1] == "end"
