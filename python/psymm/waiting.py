"""Waiting for one thing, at less cost than an Event or a cancel scope for each wait.

`Sleeper`: one task that sleeps until it is woken, which costs half of an Event. `Deadlines`: one
heap of moments and one task that wakes sleepers at theirs, in place of a cancel scope for each.
`Workers`: tasks that run one short job after the other, in place of a task for each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final

import trio

from psymm.nursery import start_task

MOST_IDLE: Final = 64
"""Workers that are kept for the next job."""
_FEW: Final = 64

Job = Callable[[trio.CancelScope], Awaitable[None]]
"""Is given the scope that it runs in, and may be cancelled by."""


class Sleeper:
    """One task at a time sleeps here."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    @property
    def asleep(self) -> bool:
        return self._task is not None

    async def sleep(self) -> None:
        """Until `wake`. Cancelled: raises Cancelled, and nobody is asleep here any more."""
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def wake(self) -> None:
        """Wake who sleeps here, if anybody does."""
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class Deadlines:
    """Wakes sleepers at their moments of trio's clock while `run` runs."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sleeper]] = []
        self._numbers = count()
        self._live = 0
        self._due = float("inf")
        self._earlier = Sleeper()

    def add(self, at: float, sleeper: Sleeper) -> None:
        """Wake `sleeper`, which is about to sleep, at that moment if it is still asleep then."""
        if len(self._heap) > _FEW + 2 * self._live:
            # Most were woken by what they waited for.
            self._heap = [one for one in self._heap if one[2].asleep]
            heapify(self._heap)
            self._live = len(self._heap)
        heappush(self._heap, (at, next(self._numbers), sleeper))
        if at < self._due:
            self._earlier.wake()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            heap, now = self._heap, trio.current_time()
            while heap and (heap[0][0] <= now or not heap[0][2].asleep):
                heappop(heap)[2].wake()
            self._due = heap[0][0] if heap else float("inf")
            with trio.move_on_at(self._due):
                await self._earlier.sleep()


class _Worker(Sleeper):
    __slots__ = ("job",)

    def __init__(self) -> None:
        super().__init__()
        self.job: Job | None = None


class Workers:
    """Tasks of one nursery. A job starts in the next turn of the scheduler, whoever runs it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._idle: list[_Worker] = []

    def start(self, job: Job) -> None:
        """Raises SessionClosed where the nursery takes no task any more; nothing was started."""
        while self._idle:
            worker = self._idle.pop()
            if worker.asleep:  # else it was cancelled there
                worker.job = job
                worker.wake()
                return
        start_task(self._nursery, self._work, job)

    async def _work(self, first: Job) -> None:
        worker = _Worker()
        job: Job | None = first
        while True:
            with trio.CancelScope() as scope:
                # One scope for as long as no job was cancelled by it.
                while not scope.cancel_called:
                    if job is not None:
                        given, job = job, None
                        await given(scope)
                        continue
                    if len(self._idle) >= MOST_IDLE:
                        return
                    self._idle.append(worker)
                    await worker.sleep()
                    job = worker.job
