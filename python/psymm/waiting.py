"""Waiting for one thing, at less cost than an Event or a cancel scope for each wait.

- `Sleeper`: one task sleeps until it is woken. It costs half of an Event.
- `Deadlines`: one heap of moments, and one task that wakes sleepers when theirs has come. It
  replaces a cancel scope for each wait.
- `Alarm`: a call at such a moment, in place of a sleeper.
- `Workers`: tasks that run one short job after another. They replace a task for each job.

All of it runs in one thread, so nothing changes between two awaits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, Protocol

import trio

from psymm.nursery import start_task

MOST_IDLE: Final = 64
"""Idle workers that we keep for the next jobs."""
_FEW: Final = 64


class Sleeper:
    """A place where one task at a time can sleep.

    Attributes:
        asleep: The task that sleeps here, or None.
    """

    asleep: trio.lowlevel.Task | None = None

    async def sleep(self) -> None:
        """Sleep until `wake`. Cancelled: raises Cancelled; then nobody is asleep here."""
        self.asleep = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def wake(self) -> None:
        """Wake the task that sleeps here, if there is one."""
        # Cleared first, so that a second `wake` does not reschedule a task that is already running.
        task, self.asleep = self.asleep, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self.asleep = None
        return trio.lowlevel.Abort.SUCCEEDED


class Timed(Protocol):
    """What `Deadlines` can wake: a Sleeper, or an object that acts when its moment comes.

    Attributes:
        asleep: Whether anything is still to happen.
    """

    @property
    def asleep(self) -> object: ...

    def wake(self) -> None:
        """Must not block and must not raise."""
        ...


class Deadlines:
    """Wakes sleepers at their moments, by trio's clock. Its task is a system task, started with the
    first moment: it serves sleepers in any scope."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timed]] = []
        self._numbers = count()
        # Entries that were still asleep at the last cleaning.
        self._live = 0
        # The moment for which `_run` sleeps, and the scope that ends its sleep.
        self._due = float("inf")
        self._sleep = trio.CancelScope()
        self._running = False

    def add(self, at: float, sleeper: Timed) -> None:
        """Wake `sleeper`, which is about to sleep, at that moment if it is still asleep then."""
        if len(self._heap) > _FEW + 2 * self._live:
            # Most entries are dead: their sleepers were woken by what they waited for. Cleaning
            # only when the heap has doubled keeps the cost per entry constant.
            self._heap = [one for one in self._heap if one[2].asleep]
            heapify(self._heap)
            self._live = len(self._heap)
        heappush(self._heap, (at, next(self._numbers), sleeper))
        if not self._running:
            self._running = True
            trio.lowlevel.spawn_system_task(self._run)
        # The task sleeps for a later moment: let it wake at this one.
        elif at < self._due:
            self._due = self._sleep.deadline = at

    async def _run(self) -> None:
        try:
            while True:
                now, due = trio.current_time(), list[Timed]()
                # Collect first, then wake: `wake` may add new moments to the heap.
                while self._heap and (self._heap[0][0] <= now or not self._heap[0][2].asleep):
                    due.append(heappop(self._heap)[2])
                for sleeper in due:
                    if sleeper.asleep:
                        sleeper.wake()
                self._due = self._heap[0][0] if self._heap else float("inf")
                self._sleep = trio.CancelScope(deadline=self._due)
                with self._sleep:
                    await trio.sleep_forever()
        finally:
            self._running = False


class Alarm:
    """One call at a moment of `Deadlines`. With `asleep` False it never comes."""

    __slots__ = ("_ring", "asleep")

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self.asleep = True

    def wake(self) -> None:
        self.asleep = False
        self._ring()


class Worker(Sleeper):
    """A task that runs jobs, one after another.

    Attributes:
        job: What it runs next.
        scope: What it runs in. One scope serves many jobs, until one of them is cancelled.
        cancelled: Whether the job was cancelled. To ask the scope costs a reading of the clock.
    """

    def __init__(self) -> None:
        self.job: Job | None = None
        self.scope = trio.CancelScope()
        self.cancelled = False

    def cancel(self) -> None:
        """Cancel the job that runs."""
        self.cancelled = True
        self.scope.cancel()


Job = Callable[[Worker], Awaitable[None]]
"""Receives the worker that runs it, which can cancel it."""


class Workers:
    """Tasks of one nursery that run jobs. A job starts in the next scheduler step."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._idle: list[Worker] = []

    def start(self, job: Job) -> None:
        """Start a job. Raises SessionClosed if the nursery takes no more tasks; then nothing was
        started."""
        while self._idle:
            worker = self._idle.pop()
            if worker.asleep:  # Otherwise it was cancelled while idle.
                worker.job = job
                worker.wake()
                return
        start_task(self._nursery, self._work, job)

    async def _work(self, first: Job) -> None:
        """Run jobs until there are enough idle workers."""
        worker = Worker()
        job: Job | None = first
        while True:
            with trio.CancelScope() as worker.scope:
                worker.cancelled = False
                while not worker.cancelled:
                    if job is not None:
                        given, job = job, None
                        await given(worker)
                        continue
                    if len(self._idle) >= MOST_IDLE:
                        return
                    self._idle.append(worker)
                    await worker.sleep()
                    job = worker.job
