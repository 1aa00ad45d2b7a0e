"""Sleepers, deadlines and workers: what stands in for events, cancel scopes and tasks."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from psymm.errors import SessionClosed
from psymm.waiting import MOST_IDLE, Deadlines, Sleeper, Worker, Workers


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_a_sleeper_is_woken_once_and_sleeps_again() -> None:
    sleeper, woken = Sleeper(), list[int]()

    async def sleep() -> None:
        for n in range(2):
            await sleeper.sleep()
            woken.append(n)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleep)
        await settle()
        sleeper.wake()
        sleeper.wake()
        await settle()
        assert woken == [0]
        sleeper.wake()
    assert woken == [0, 1]
    sleeper.wake()


async def test_a_sleeper_that_was_cancelled_is_not_there() -> None:
    sleeper = Sleeper()
    with trio.move_on_after(0):
        await sleeper.sleep()
    assert not sleeper.asleep
    sleeper.wake()


async def test_sleepers_are_woken_at_their_moments_and_not_before(
    autojump_clock: trio.testing.MockClock,
) -> None:
    deadlines, woken = Deadlines(), dict[int, float]()

    async def sleep(after_s: int) -> None:
        sleeper = Sleeper()
        deadlines.add(trio.current_time() + after_s, sleeper)
        await sleeper.sleep()
        woken[after_s] = trio.current_time()

    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        for after_s in (30, 10, 20, 10**6):
            nursery.start_soon(sleep, after_s)
            await settle()
        await trio.sleep(50)
        nursery.cancel_scope.cancel()
    assert woken == {after_s: began + after_s for after_s in (10, 20, 30)}


async def test_what_was_woken_otherwise_leaves_the_heap(
    autojump_clock: trio.testing.MockClock,
) -> None:
    deadlines = Deadlines()
    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            sleeper = Sleeper()
            deadlines.add(trio.current_time() + 1000, sleeper)
            nursery.start_soon(sleeper.sleep)
            await settle()
            sleeper.wake()
        assert len(deadlines._heap) < 100
        await trio.sleep(2000)
        assert not deadlines._heap


async def test_one_worker_runs_one_job_after_the_other() -> None:
    tasks = list[trio.lowlevel.Task]()

    async def job(worker: Worker) -> None:
        tasks.append(trio.lowlevel.current_task())
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        workers = Workers(nursery)
        for _ in range(3):
            workers.start(job)
            await settle()
        assert len(set(tasks)) == 1
        for _ in range(2):
            workers.start(job)
        await settle()
        assert len(set(tasks)) == 2
        nursery.cancel_scope.cancel()


async def test_a_job_that_is_cancelled_ends_and_its_worker_goes_on() -> None:
    workers_seen, ran = list[Worker](), list[str]()

    async def long(worker: Worker) -> None:
        workers_seen.append(worker)
        await trio.sleep_forever()

    async def late(worker: Worker) -> None:
        worker.cancel()  # after its last checkpoint
        ran.append("late")

    async def short(worker: Worker) -> None:
        await trio.lowlevel.checkpoint()
        ran.append("short")

    async with trio.open_nursery() as nursery:
        workers = Workers(nursery)
        workers.start(long)
        await settle()
        workers_seen[0].cancel()
        await settle()
        for job in (late, short):
            workers.start(job)
            await settle()
        assert ran == ["late", "short"]
        assert len(nursery.child_tasks) == 1
        nursery.cancel_scope.cancel()


async def test_no_more_workers_are_kept_than_was_said_and_none_of_a_nursery_that_is_over() -> None:
    async def job(worker: Worker) -> None:
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        workers = Workers(nursery)
        for _ in range(MOST_IDLE + 10):
            workers.start(job)
        await settle()
        assert len(nursery.child_tasks) == MOST_IDLE
        nursery.cancel_scope.cancel()
    with pytest.raises(SessionClosed):
        workers.start(job)
