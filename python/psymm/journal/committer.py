"""The journal's commits: what one scheduling round wrote is made in one transaction.

A write is queued with what to call once it is durable. When the task that commits wakes, it lets
everyone who can run add to the queue, takes all of it, and then, in this order:

1. looks whether the file at the path is still the one that it writes,
2. carries the writes out in one transaction; a write that is refused is left out alone,
3. writes into the high-water mark how many frames there are and how many there will be,
4. commits: the one wait for the disk,
5. writes into the high-water mark how many frames there are now,
6. tells each write.

So nothing is told, and so nothing is sent, that the disk does not hold and the mark does not count.
If any of this fails, nothing more is ever written: what the disk holds is then only known after
opening the journal anew.

Frames are one row for each write (`psymm.journal.rounds`). The heads that follow from them are kept
in memory. A commit leaves those that it moved in one row; they are folded into each custody's own
row now and then (`FOLD`), in every commit that is more than frames, and when the journal is closed.
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

log = logging.getLogger(__name__)

QUICK_COMMIT_S: Final = 0.001
"""A disk that commits within this is waited for where we are."""
GROUP: Final = 8
"""Writes that may wait for a quick disk before whoever would add to them lets them go first; more
where the disk is slow."""
FOLD: Final = 64
"""Commits after which the heads are folded."""
COMMIT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
COMMIT_WRITES: Final = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Buckets of the statistics."""


Durable = Callable[[JournalFailure | None], None]
"""Called in the event loop when a write is durable, or with why it never will be. Must not block
and not raise."""


@dataclass(slots=True)
class Change:
    """Something to be written, made by a `to_…` of the journal and given to `write`."""

    work: Callable[[sqlite3.Connection], object]
    light: bool = False
    """Short enough for the event loop's own thread, and changes heads by `_append` alone."""


@dataclass(slots=True)
class _Write:
    """Changes that are made together or not at all."""

    changes: Sequence[Change]
    then: Durable
    light: bool
    failed: JournalFailure | None = None


@dataclass(slots=True)
class _Lanes:
    """A custody's heads after all that was written, an open transaction included."""

    lane: int
    health: Health
    heads: list[tuple[int, bytes]]
    frames: int


_Failure = sqlite3.Error | OSError | JournalFailure | UnicodeDecodeError
_FAILURES: Final = (sqlite3.Error, OSError, JournalError, StorageError, UnicodeDecodeError)
"""After which nothing more can be written."""


@dataclass(frozen=True, slots=True)
class JournalStatistics:
    """commits: made since opening; in_thread: of these, how many went through a thread. writes:
    that they carried. waiting: not yet durable. commit_seconds: how long commits took, from the
    first write to the disk's answer. commit_writes: how many writes each carried. broken: nothing
    can be written any more. commit_s: how long the disk takes, the last commit counting a fifth.
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
    """What gathers and commits the writes of a journal; `Journal` says what can be written."""

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
        # In the file, an open transaction included; `_counted`: before that transaction.
        self._frames = self._counted = identity.frames
        self._waiting: list[_Write] = []
        self._heads: dict[bytes, _Lanes] = {}
        # Custodies whose row of `heads` may be behind; cleared once a commit has folded them.
        self._moved: set[bytes] = set()
        # Of these, those that the open transaction moved.
        self._moving: set[bytes] = set()
        self._folded = False
        self._behind = trio.lowlevel.ParkingLot()
        self._in_thread = 0
        self._commit_s = 0.0
        self._wake = trio.Event()
        self._closed = False
        self._commits = 0
        self._writes = 0
        self._commit_seconds = Histogram(COMMIT_SECONDS)
        self._commit_writes = Histogram(COMMIT_WRITES)
        self._broken: JournalFailure | None = None

    # --- queueing ---------------------------------------------------------------------------

    async def write(self, *changes: Change) -> None:
        """Make changes together; returns once they are durable.

        Raises what each says, and StorageError where the disk refuses; then none of them is made.
        Cancelled: raises Cancelled, all of them are made or none.
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

    def write_soon(self, changes: Sequence[Change], then: Durable) -> None:
        """`write` for a caller that does not wait: returns at once and calls `then` once the
        changes are durable, or with the error that `write` would raise.

        Calls of `then` come in the order of these calls; without changes it is called in its turn.
        """
        if self._broken is not None:
            then(self._broken)
            return
        if self._closed:
            then(JournalClosed(journal=self.path))
            return
        light = True
        for change in changes:
            light = light and change.light
        self._waiting.append(_Write(changes, then, light))
        self._wake.set()

    async def yield_to_commit(self) -> None:
        """Wait where a group of writes stands before the disk, until it is through.

        For who is about to read and answer one of many frames that came at once: the first of them
        are on their way while the others are read, instead of all waiting for the last. The longer
        the disk takes, the larger a group. In the order of these calls. Cancelled: raises
        Cancelled, nothing changed.
        """
        many = len(self._waiting) >= GROUP * (1 + self._commit_s / QUICK_COMMIT_S)
        if (many or self._behind) and self._broken is None and not self._closed:
            await self._behind.park()

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

    async def _commit_rounds(self) -> None:
        """Until closed: gather what one scheduling round wrote, and commit it.

        What frames write takes microseconds, and then comes the disk. While that is quick, going
        to a thread and back costs more than waiting for it; once it is slow, or anything longer is
        to be written, the commit runs in a thread.
        """
        while True:
            await self._wake.wait()
            # Everyone who is runnable now gets to add to this commit.
            await trio.lowlevel.cancel_shielded_checkpoint()
            batch, self._waiting, self._wake = self._waiting, [], trio.Event()
            if batch:
                began = perf_counter()
                light = True
                for write in batch:
                    light = light and write.light
                if self._turn.locked() or not light:
                    await self._commit_in_thread(self._commit, batch)
                elif self._commit_s <= QUICK_COMMIT_S:
                    self._commit(batch)
                elif self._gather(batch):
                    await self._commit_in_thread(self._finish, batch)
                self._commit_seconds.observe(perf_counter() - began)
                self._commit_writes.observe(len(batch))
                self._commits += 1
                self._writes += len(batch)
                for write in batch:
                    write.then(write.failed)
            if self._behind:
                self._behind.unpark(count=GROUP)
                if self._behind:
                    # They need not have anything to write.
                    self._wake.set()
            if self._closed and not self._waiting:
                self._behind.unpark_all()
                return

    async def _commit_in_thread(self, work: Callable[..., object], *arguments: object) -> None:
        self._in_thread += 1
        with trio.CancelScope(shield=True):
            async with self._turn:
                await self._run_sync(work, *arguments)

    def _commit(self, batch: Sequence[_Write]) -> None:
        if self._gather(batch):
            self._finish(batch)

    def _gather(self, batch: Sequence[_Write]) -> bool:
        """Write a round into an open transaction. False where the disk refuses: then none of it
        is kept, and each write says so."""
        base = self._connection
        if self._broken is not None:
            for write in batch:
                write.failed = self._broken
            return False
        self._counted = self._frames
        self._moving.clear()
        self._folded = self._commits % FOLD == 0
        try:
            self._check_in_place()
            base.execute("BEGIN IMMEDIATE")
            try:
                for write in batch:
                    self._carry_out(base, write)
            except (sqlite3.IntegrityError, JournalError):
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
        """One caller's mistake must not take the round's other writes with it."""
        for write in batch:
            base.execute("SAVEPOINT one")
            before = self._frames
            try:
                self._carry_out(base, write)
            except (sqlite3.IntegrityError, JournalError) as refused:
                base.execute("ROLLBACK TO one")
                self._heads.clear()
                self._frames = before
                write.failed = (
                    refused
                    if isinstance(refused, JournalError)
                    else JournalConflict(str(refused), journal=self.path)
                )
            base.execute("RELEASE one")

    def _carry_out(self, base: sqlite3.Connection, write: _Write) -> None:
        for change in write.changes:
            if not change.light:
                # It may read and write heads by itself.
                self._fold_heads(base)
                self._heads.clear()
                self._folded = True
            change.work(base)

    def _finish(self, batch: Sequence[_Write]) -> None:
        """Commit what was gathered, the high-water mark around it: before anyone is told, and so
        before anything is sent."""
        began = perf_counter()
        before, now = self._counted, self._frames
        known = self._identity
        try:
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
            if self._folded:
                self._moved.clear()
        self._commit_s += (perf_counter() - began - self._commit_s) / 5

    def _break(self, batch: Sequence[_Write], failed: _Failure) -> None:
        self._broken = (
            failed
            if isinstance(failed, JournalError | StorageError)
            else as_journal_error(self.path, failed)
        )
        log.critical("journal-failed", extra={"code": self._broken.code})
        with suppress(sqlite3.Error, UnicodeDecodeError):
            self._connection.execute("ROLLBACK")
        for write in batch:
            write.failed = self._broken

    def _check_in_place(self) -> None:
        """The file at the path is the one that we write: else our frames go where nobody finds
        them."""
        try:
            there = os.stat(self._file)
        except FileNotFoundError:
            raise JournalReplaced(journal=self.path) from None
        if (there.st_dev, there.st_ino) != self._identity.inode:
            raise JournalReplaced(journal=self.path)

    # --- frames and heads -------------------------------------------------------------------

    def _append(
        self, custody: bytes, frames: Sequence[Written], shown: bool, base: sqlite3.Connection
    ) -> None:
        """shown: by the peer or a file, not signed or received in a session of this journal."""
        held = self._heads.get(custody)
        if held is None:
            read = heads_of(self.path, base, custody)
            held = _Lanes(
                read.lane, read.health, [read.heads.trader, read.heads.solver], read.frames
            )
            self._heads[custody] = held
        if shown and held.health == "complete":
            raise JournalConflict("this custody lacks no frames", journal=self.path)
        heads = held.heads.copy()
        for lane, seq, digest, _ in frames:
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
        """Write the heads that moved since they were folded into their table."""
        for custody in self._moved:
            with suppress(UnknownCustody):  # forgotten meanwhile
                upsert_heads(base, self._heads_of(base, custody))
        base.execute("DELETE FROM newer_heads")

    def _leave_heads(self, base: sqlite3.Connection) -> None:
        """Write the heads that this transaction moved, all in one row."""
        moved = []
        for custody in self._moving:
            held = self._heads.get(custody)
            if held is None:
                # The cache was cleared since, by another's write that was refused.
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
        self._wake.set()

    def _close_in_order(self) -> None:
        """Leave heads beside the frames, and a high-water mark that is certain. Blocks. Where the
        disk refuses, the next life derives the heads and has a lower bound."""
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
