"""Group commit: all writes of one scheduling round become one transaction.

A write is queued with a callback. When the committing task wakes, it first lets every runnable task
add to the queue. A lone writer to a fast disk spares itself that: it commits in its own step
(`write_soon` with `at_once`), together with what it let wait there before (`lingers`). Either takes
the whole queue, makes one transaction of it (`psymm.journal.transaction`), and then calls each
write's callback.

So no callback reports, and nobody sends, a frame that the disk does not hold or the high-water mark
does not count.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import trio

from psymm.errors import JournalClosed
from psymm.histogram import Counts, Histogram
from psymm.journal.connection import JournalIdentity
from psymm.journal.faults import JournalFailure
from psymm.journal.transaction import Append, Change, Durable, JournalTransactions, Write
from psymm.waiting import Sleeper

QUICK_COMMIT_S: Final = 0.001
"""If the disk commits within this time, commit in the event loop's own thread."""
LONE_COMMIT_S: Final = 0.01
"""The same for a lone writer: nobody else has work meanwhile, and a thread costs more CPU."""
PROBE: Final = 32
"""After so many commits in threads, one in the event loop's own measures the disk. A thread of a
busy process measures its wait for the interpreter as well, so that a quick disk would look slow."""
GROUP: Final = 8
"""How many writes may wait for a fast disk before further callers yield; more if it is slow."""
IN_A_ROW: Final = 8
"""How many commits a lone writer may make in its own step before other tasks get their turn. On a
slower disk fewer: together they take no longer than about LONE_COMMIT_S."""
COMMIT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
COMMIT_WRITES: Final = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Buckets of the histograms."""


@dataclass(frozen=True, slots=True)
class JournalStatistics:
    """Statistics since the journal was opened.

    Attributes:
        commits: how many there were.
        writes: how many writes they contained.
        waiting: writes that are not durable yet.
        commit_seconds: how long commits took, from the first write to the disk's answer.
        commit_writes: how many writes each commit contained.
        broken: whether nothing can be written any more.
        in_thread: how many commits ran in a thread.
        commit_s: a moving average of the disk's time; the last commit has a weight of one fifth. A
            quicker one in the event loop's own thread counts in full.
    """

    commits: int
    writes: int
    waiting: int
    commit_seconds: Counts
    commit_writes: Counts
    broken: bool
    in_thread: int
    commit_s: float


class JournalCommitter(JournalTransactions):
    """Gathers and commits the writes of a journal. `Journal` says what can be written."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        identity: JournalIdentity,
        lock: int,
        run_sync: Callable[..., Awaitable[Any]] = trio.to_thread.run_sync,
    ) -> None:
        super().__init__(path, connection, identity, lock, run_sync)
        self._waiting: list[Write] = []
        # Whether the event loop's own thread may commit all that waits.
        self._light = True
        # A batch is under way: being written, or its callbacks are being called.
        self._busy = False
        self._in_a_row = 0
        self._behind = trio.lowlevel.ParkingLot()
        # Tasks that wait there: a look at the lot itself costs a call for each message.
        self._parked = 0
        self._in_thread = 0
        self._probe_at = PROBE
        self._idle = Sleeper()
        # Something waits for which nobody has woken the committing task.
        self._lingers = False
        self._closed = False
        self._writes = 0
        self._commit_seconds = Histogram(COMMIT_SECONDS)
        self._commit_writes = Histogram(COMMIT_WRITES)

    # --- queueing ---------------------------------------------------------------------------

    async def write(self, *changes: Change) -> None:
        """Make changes together; returns once they are durable.

        Raises the errors of the changes, and StorageError if the disk refuses. Then none of the
        changes is made. Cancelled: raises Cancelled; either all changes are made, or none.
        """
        durable, failed = trio.Event(), list[JournalFailure]()

        def then(error: JournalFailure | None) -> None:
            if error is not None:
                failed.append(error)
            durable.set()

        self.write_soon(changes, then)
        await durable.wait()
        if failed:
            raise failed[0]

    def write_soon(
        self,
        changes: Sequence[Change],
        then: Durable,
        at_once: bool = False,
        lingers: bool = False,
    ) -> None:
        """`write` without waiting: returns at once.

        Calls `then` once the changes are durable, or with the error that `write` would raise.
        Callbacks run in the order of these calls. Without changes, `then` still runs in its turn.

        Args:
            changes: what to write.
            then: whom to tell.
            at_once: nobody else has anything to add. If the disk is fast, the commit happens in
                this call, and so do the callbacks. That saves two turns of the event loop.
            lingers: another write will soon follow. This one waits for it, or for `commit_soon`,
                which the caller must call in time.
        """
        # Fail at once: only reopening the journal can tell what the disk holds.
        if self._broken is not None:
            then(self._broken)
            return
        if self._closed:
            then(JournalClosed(journal=self.path))
            return
        for change in changes:
            if not isinstance(change, Append):
                self._light = self._light and change.light
        self._waiting.append((changes, then))
        # Not while a thread has the connection (`_turn`), nor while callbacks of an earlier batch
        # run (`_busy`): those must all run before any of ours.
        patience = max(QUICK_COMMIT_S, LONE_COMMIT_S)
        if (
            at_once
            and self._light
            and not self._busy
            and self._in_a_row < IN_A_ROW
            and self._commit_s <= patience
            and self._in_a_row * self._commit_s < patience
            and not self._turn.locked()
        ):
            self._in_a_row += 1
            self._commit_here()
        elif lingers and len(self._waiting) < GROUP:
            # Who queued the first one, without lingering, has woken the task already.
            self._lingers = self._lingers or len(self._waiting) == 1
        elif self._lingers or len(self._waiting) == 1:
            self._lingers = False
            self._idle.wake()

    def commit_soon(self) -> None:
        """Let writes that linger wait for no other. Does not block."""
        if self._lingers:
            self._lingers = False
            self._idle.wake()

    @property
    def has_room(self) -> bool:
        """Whether no full group of writes waits for the disk."""
        return len(self._waiting) < GROUP and not self._parked

    async def yield_to_commit(self) -> None:
        """Wait until a full group of writes is committed, if one is waiting for the disk.

        Call it before reading and answering one of many frames that arrived together. Then the
        first answers are sent while later frames are still read, instead of all waiting for the
        last. Groups grow with the disk's latency. Callers resume in order. Cancelled: raises
        Cancelled, nothing changed.
        """
        if self.has_room:
            return
        many = len(self._waiting) >= GROUP * (1 + self._commit_s / QUICK_COMMIT_S)
        if (many or self._behind) and self._broken is None and not self._closed:
            self.commit_soon()
            self._parked += 1
            try:
                await self._behind.park()
            finally:
                self._parked -= 1

    def statistics(self) -> JournalStatistics:
        return JournalStatistics(
            self._commits,
            self._writes,
            len(self._waiting),
            self._commit_seconds.counts(),
            self._commit_writes.counts(),
            self._broken is not None,
            self._in_thread,
            self._commit_s,
        )

    # --- committing -------------------------------------------------------------------------

    async def commit_rounds(self) -> None:
        """Gather the writes of each scheduling round and commit them, until closed.

        Writing frames takes microseconds; then comes the disk. While the disk is fast, a thread
        costs more than the wait. If the disk is slow, or more than frames is to be written, the
        commit runs in a thread.
        """
        # Shielded: queued writes are committed even during cancellation. `_close` ends the loop.
        with trio.CancelScope(shield=True):
            while True:
                if not self._waiting and not self._parked and not self._closed:
                    await self._idle.sleep()
                self._in_a_row = 0
                # Every task that is runnable now may add to this commit.
                if self._waiting:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                # A lone writer may have committed it meanwhile.
                if self._waiting:
                    await self._commit_round()
                if self._parked:
                    self._behind.unpark(count=GROUP)
                    # Their turn comes first: they may have something to add.
                    await trio.lowlevel.cancel_shielded_checkpoint()
                if self._closed and not self._waiting:
                    self._behind.unpark_all()
                    return

    async def _commit_round(self) -> None:
        # Three ways: all here; all in a thread; or write here and wait in a thread.
        locked = self._turn.locked()
        quick = self._commit_s <= QUICK_COMMIT_S or self._in_thread >= self._probe_at
        if self._light and quick and not locked:
            self._probe_at = self._in_thread + PROBE
            self._commit_here()
            return
        began, light, batch = perf_counter(), self._light, self._waiting
        self._waiting, self._light, self._busy, self._lingers = [], True, True, False
        if locked or not light:
            await self._commit_in_thread(self._commit, batch)
        elif self._gather(batch):
            await self._commit_in_thread(self._finish, batch)
        self._tell(batch, perf_counter() - began)

    @trio.lowlevel.enable_ki_protection
    def _commit_here(self) -> None:
        # Runs in an application's task, too, where a Ctrl-C would leave it half done.
        began, batch = perf_counter(), self._waiting
        self._waiting, self._busy, self._lingers = [], True, False
        self._commit(batch)
        # Measured without a wait for the interpreter, so a quicker commit counts at once.
        self._commit_s = min(self._commit_s, self._last_s)
        self._tell(batch, perf_counter() - began)

    def _tell(self, batch: Sequence[Write], seconds: float) -> None:
        """Call the callbacks. Only now: everything is durable and counted."""
        self._commit_seconds.observe(seconds)
        self._commit_writes.observe(len(batch))
        self._commits += 1
        self._writes += len(batch)
        refused, self._refused = self._refused, {}
        for place, (_, then) in enumerate(batch):
            then(refused.get(place))
        # Only after the last of them: a callback that writes comes after all of this batch.
        self._busy = False

    async def _commit_in_thread(self, work: Callable[..., object], *arguments: object) -> None:
        # Shielded: a commit under way cannot be left half done.
        self._in_thread += 1
        with trio.CancelScope(shield=True):
            async with self._turn:
                await self._run_sync(work, *arguments)

    def _commit(self, batch: Sequence[Write]) -> None:
        if self._gather(batch):
            self._finish(batch)

    def _close(self) -> None:
        self._closed = True
        self._idle.wake()
