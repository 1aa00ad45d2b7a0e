"""Group commit: all writes of one scheduling round become one transaction.

A write is queued with a callback. When the committing task wakes, it first lets every runnable task
add to the queue. A lone writer to a fast disk spares itself that: it commits in its own step
(`write_now`). Either takes the whole queue, and

1. checks that the file at the path is still the one that it writes,
2. carries out the writes in one transaction, leaving out only writes that are refused,
3. writes into the high-water mark how many frames there are and how many there will be,
4. commits: the only wait for the disk,
5. writes into the high-water mark how many frames there are now,
6. calls each write's callback.

So no callback reports, and nobody sends, a frame that the disk does not hold or the mark does not
count. If any step fails, the journal is broken and writes nothing more: only reopening it can tell
what the disk holds.

The frames of a custody in one commit are one row (`psymm.journal.rounds`). Their heads are kept in
memory. Each commit leaves the heads that it moved in one row. They are folded into each custody's
own row every `FOLD` commits, in every commit that contains more than frames, and when the journal
is closed.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import trio

from psymm.errors import (
    JournalClosed,
    JournalConflict,
    JournalError,
    JournalReplaced,
    JournalRestored,
    UnknownCustody,
)
from psymm.histogram import Counts, Histogram
from psymm.journal.codec import HeldHeads
from psymm.journal.connection import JournalIdentity
from psymm.journal.faults import JournalFailure, as_journal_error
from psymm.journal.heads import heads_of, insert_newer_heads, pack_heads, upsert_heads
from psymm.journal.high_water_mark import write_high_water_mark
from psymm.journal.reader import JournalReader
from psymm.journal.rounds import Written, insert_frames
from psymm.storage import StorageError
from psymm.transcript.heads import Heads, Health
from psymm.waiting import Sleeper

log = logging.getLogger(__name__)

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
"""How many commits a lone writer may make in its own step before other tasks get their turn."""
FOLD: Final = 64
"""How many commits lie between two folds of the heads."""
COMMIT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
COMMIT_WRITES: Final = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Buckets of the histograms."""


Durable = Callable[[JournalFailure | None], None]
"""Called in the event loop when a write is durable, or with the error if it never will be. It must
not block or raise."""


class Append(tuple[bytes, list[Written]]):
    """Frames to append: their custody, and what to write for each, in order of arrival.

    A bare tuple, because there is one for every frame: it is made without a Python call.
    """

    __slots__ = ()


@dataclass(slots=True)
class Work:
    """Anything else to write."""

    work: Callable[[sqlite3.Connection], object]
    light: bool = False
    """Fast enough for the event loop's own thread, and changes no heads."""


Change = Append | Work
"""One thing to write, made by a `to_…` method of the journal and passed to `write`."""

_Write = tuple[Sequence[Change], Durable]
"""Changes that are made together, or not at all, and whom to tell."""


@dataclass(slots=True)
class _Lanes:
    """A custody's heads after everything written, including an open transaction."""

    lane: int
    health: Health
    heads: list[tuple[int, bytes]]
    frames: int


_Failure = sqlite3.Error | OSError | JournalFailure | UnicodeDecodeError
_FAILURES: Final = (sqlite3.Error, OSError, JournalError, StorageError, UnicodeDecodeError)
"""Errors after which nothing more can be written."""


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


class JournalCommitter(JournalReader):
    """Gathers and commits the writes of a journal. `Journal` says what can be written."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        identity: JournalIdentity,
        lock: int,
        run_sync: Callable[..., Awaitable[Any]] = trio.to_thread.run_sync,
    ) -> None:
        super().__init__(path, connection, run_sync)
        self.id = identity.id
        self._identity = identity
        self._lock = lock
        self._file = os.fspath(path)
        # Frames in the file, including an open transaction; `_counted` excludes it.
        self._frames = self._counted = identity.frames
        self._waiting: list[_Write] = []
        # Whether the event loop's own thread may commit all that waits.
        self._light = True
        # Why writes of the batch under way failed, by their place in it.
        self._refused: dict[int, JournalFailure] = {}
        # A batch is under way: being written, or its callbacks are being called.
        self._busy = False
        self._in_a_row = 0
        self._heads: dict[bytes, _Lanes] = {}
        # Custodies whose row of `heads` may be behind; cleared once a commit has folded them.
        self._moved: set[bytes] = set()
        # Those of them that the open transaction moved.
        self._moving: set[bytes] = set()
        self._folded = False
        self._behind = trio.lowlevel.ParkingLot()
        # Tasks that wait there: a look at the lot itself costs a call for each message.
        self._parked = 0
        self._in_thread = 0
        self._commit_s = self._last_s = 0.0
        self._probe_at = PROBE
        self._idle = Sleeper()
        self._closed = False
        self._commits = 0
        self._writes = 0
        self._commit_seconds = Histogram(COMMIT_SECONDS)
        self._commit_writes = Histogram(COMMIT_WRITES)
        self._broken: JournalFailure | None = None

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

    def write_soon(self, changes: Sequence[Change], then: Durable, at_once: bool = False) -> None:
        """`write` without waiting: returns at once.

        Calls `then` once the changes are durable, or with the error that `write` would raise.
        Callbacks run in the order of these calls. Without changes, `then` still runs in its turn.

        Args:
            changes: what to write.
            then: whom to tell.
            at_once: nobody else has anything to add. If the disk is fast, the commit happens in
                this call, and so do the callbacks. That saves two turns of the event loop.
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
        if (
            at_once
            and self._light
            and not self._busy
            and self._in_a_row < IN_A_ROW
            and self._commit_s <= max(QUICK_COMMIT_S, LONE_COMMIT_S)
            and not self._turn.locked()
        ):
            self._in_a_row += 1
            self._commit_here()
        # Who queued the first one has woken the task already.
        elif len(self._waiting) == 1:
            self._idle.wake()

    async def yield_to_commit(self) -> None:
        """Wait until a full group of writes is committed, if one is waiting for the disk.

        Call it before reading and answering one of many frames that arrived together. Then the
        first answers are sent while later frames are still read, instead of all waiting for the
        last. Groups grow with the disk's latency. Callers resume in order. Cancelled: raises
        Cancelled, nothing changed.
        """
        waiting = len(self._waiting)
        if waiting < GROUP and not self._parked:
            return
        many = waiting >= GROUP * (1 + self._commit_s / QUICK_COMMIT_S)
        if (many or self._behind) and self._broken is None and not self._closed:
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
        self._waiting, self._light, self._busy = [], True, True
        if locked or not light:
            await self._commit_in_thread(self._commit, batch)
        elif self._gather(batch):
            await self._commit_in_thread(self._finish, batch)
        self._tell(batch, perf_counter() - began)

    @trio.lowlevel.enable_ki_protection
    def _commit_here(self) -> None:
        # Runs in an application's task, too, where a Ctrl-C would leave it half done.
        began, batch = perf_counter(), self._waiting
        self._waiting, self._busy = [], True
        self._commit(batch)
        # Measured without a wait for the interpreter, so a quicker commit counts at once.
        self._commit_s = min(self._commit_s, self._last_s)
        self._tell(batch, perf_counter() - began)

    def _tell(self, batch: Sequence[_Write], seconds: float) -> None:
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

    def _commit(self, batch: Sequence[_Write]) -> None:
        if self._gather(batch):
            self._finish(batch)

    def _gather(self, batch: Sequence[_Write]) -> bool:
        """Write a round into an open transaction.

        False if the disk refuses. Then nothing of the round is kept, and every write fails.
        """
        base = self._connection
        if self._broken is not None:
            self._refused = dict.fromkeys(range(len(batch)), self._broken)
            return False
        self._counted = self._frames
        self._moving.clear()
        self._folded = self._commits % FOLD == 0
        try:
            # Before writing: a replaced file would swallow the frames without an error.
            self._check_in_place()
            base.execute("BEGIN IMMEDIATE")
            try:
                self._carry_out(base, batch)
            except (sqlite3.IntegrityError, JournalError):
                # A write was refused. Start over with a savepoint for each write, which costs more.
                # The cached heads include rolled-back frames, so drop them.
                base.execute("ROLLBACK")
                self._heads.clear()
                self._frames = self._counted
                base.execute("BEGIN IMMEDIATE")
                self._gather_apart(base, batch)
            if self._folded:
                self._fold_heads(base)
            elif self._moving:
                self._leave_heads(base)
        except _FAILURES as failed:
            self._break(batch, failed)
            return False
        return True

    def _gather_apart(self, base: sqlite3.Connection, batch: Sequence[_Write]) -> None:
        """Write a round so that one caller's refused write does not take the others with it."""
        for place, write in enumerate(batch):
            base.execute("SAVEPOINT one")
            before = self._frames
            try:
                self._carry_out(base, [write])
            except (sqlite3.IntegrityError, JournalError) as refused:
                base.execute("ROLLBACK TO one")
                self._heads.clear()
                self._frames = before
                self._refused[place] = (
                    refused
                    if isinstance(refused, JournalError)
                    else JournalConflict(str(refused), journal=self.path)
                )
            base.execute("RELEASE one")

    def _carry_out(self, base: sqlite3.Connection, batch: Sequence[_Write]) -> None:
        """Make the changes of some writes, those of each custody in order."""
        # Neighbouring frames of a custody are gathered: they become one row.
        frames: dict[bytes, list[Written]] = {}
        for changes, _ in batch:
            for change in changes:
                if isinstance(change, Append):
                    custody, more = change
                    before = frames.get(custody)
                    # A new list: if a write is refused, all are made again, each on its own.
                    frames[custody] = more if before is None else before + more
                    continue
                for custody, gathered in frames.items():
                    self._append(base, custody, gathered)
                frames.clear()
                if not change.light:
                    # It may read and write rows of `heads` itself, so the rows must be current.
                    self._fold_heads(base)
                    self._heads.clear()
                    self._folded = True
                change.work(base)
        for custody, gathered in frames.items():
            self._append(base, custody, gathered)

    def _finish(self, batch: Sequence[_Write]) -> None:
        """Commit what was gathered, with the high-water mark written before and after.

        Both happen before any callback runs, and so before anything is sent.
        """
        began = perf_counter()
        before, now = self._counted, self._frames
        known = self._identity
        try:
            # If the process dies in the commit, either number of frames may be right.
            if now != before:
                write_high_water_mark(
                    self._lock,
                    known.lineage,
                    min(before, now),
                    most=max(before, now),
                    doubtful=known.doubtful,
                )
            self._connection.execute("COMMIT")
            if now != before:
                write_high_water_mark(self._lock, known.lineage, now, doubtful=known.doubtful)
        except _FAILURES as failed:
            self._break(batch, failed)
        else:
            # Only after the commit: a rolled-back fold has folded nothing.
            if self._folded:
                self._moved.clear()
        self._last_s = perf_counter() - began
        self._commit_s += (self._last_s - self._commit_s) / 5

    def _break(self, batch: Sequence[_Write], failed: _Failure) -> None:
        # The commit may or may not be on disk. Every further write would build on a guess.
        self._broken = (
            failed
            if isinstance(failed, JournalError | StorageError)
            else as_journal_error(self.path, failed)
        )
        log.critical("journal-failed", extra={"code": self._broken.code})
        with suppress(sqlite3.Error, UnicodeDecodeError):
            self._connection.execute("ROLLBACK")
        self._refused = dict.fromkeys(range(len(batch)), self._broken)

    def _check_in_place(self) -> None:
        """Check that the file at the path is the one that we write.

        Otherwise our frames would go into a file that nobody finds.
        """
        try:
            there = os.stat(self._file)
        except FileNotFoundError:
            raise JournalReplaced(journal=self.path) from None
        if (there.st_dev, there.st_ino) != self._identity.inode:
            raise JournalReplaced(journal=self.path)

    # --- frames and heads -------------------------------------------------------------------

    def _append(
        self,
        base: sqlite3.Connection,
        custody: bytes,
        frames: Sequence[Written],
        *,
        shown: bool = False,
    ) -> None:
        """Append frames, each the next of its lane.

        Args:
            base: the open transaction.
            custody: whose.
            frames: in order of arrival.
            shown: the peer or a file shows them; no session of this journal signed or received
                them.
        """
        held = self._heads.get(custody)
        if held is None:
            read = heads_of(self.path, base, custody)
            held = _Lanes(
                read.lane, read.health, [read.heads.trader, read.heads.solver], read.frames
            )
            self._heads[custody] = held
        if shown and held.health == "complete":
            raise JournalConflict("this custody lacks no frames", journal=self.path)
        # A copy: if a later frame is refused, the cached heads must not have moved.
        heads = held.heads.copy()
        for lane, seq, digest, _ in frames:
            # The last guard against signing a number twice: it does not trust the session.
            if not shown and lane == held.lane and held.health != "complete":
                raise JournalRestored(journal=self.path, custody=custody)
            if seq != heads[lane][0] + 1:
                raise JournalConflict(journal=self.path, custody=custody, lane=lane, seq=seq)
            heads[lane] = (seq, digest)
        insert_frames(base, custody, held.frames + 1, frames)
        held.heads = heads
        held.frames += len(frames)
        self._frames += len(frames)
        self._moved.add(custody)
        self._moving.add(custody)

    def _fold_heads(self, base: sqlite3.Connection) -> None:
        """Write the heads that moved since the last fold into their table."""
        for custody in self._moved:
            with suppress(UnknownCustody):  # The custody was forgotten meanwhile.
                upsert_heads(base, self._heads_of(base, custody))
        base.execute("DELETE FROM newer_heads")

    def _leave_heads(self, base: sqlite3.Connection) -> None:
        """Write the heads that this transaction moved into one row."""
        moved = []
        for custody in self._moving:
            held = self._heads.get(custody)
            if held is None:
                # A refused write of another caller cleared the cache.
                known = heads_of(self.path, base, custody).heads
                moved.append(pack_heads(custody, *known.trader, *known.solver))
            else:
                moved.append(pack_heads(custody, *held.heads[0], *held.heads[1]))
        insert_newer_heads(base, b"".join(moved))

    def _heads_of(self, base: sqlite3.Connection, custody: bytes) -> HeldHeads:
        held = self._heads.get(custody)
        if held is None:
            return heads_of(self.path, base, custody)
        heads = Heads(held.heads[0], held.heads[1])
        return HeldHeads(custody, held.lane, held.health, heads, held.frames)

    def _close(self) -> None:
        self._closed = True
        self._idle.wake()

    def _close_in_order(self) -> None:
        """Fold the heads, and write a high-water mark that is certain. Blocks.

        If the disk refuses, the next process derives the heads, and the mark is a lower bound.
        """
        if self._broken is not None:
            return
        base, known = self._connection, self._identity
        with suppress(*_FAILURES):
            if self._moved:
                self._check_in_place()
                base.execute("BEGIN IMMEDIATE")
                self._fold_heads(base)
                base.execute("COMMIT")
            write_high_water_mark(
                self._lock, known.lineage, self._frames, closed=True, doubtful=known.doubtful
            )
