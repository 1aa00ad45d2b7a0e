"""One commit of the journal: a batch of writes becomes one transaction.

`JournalTransactions` carries it out in two parts, because a slow disk is waited for in a thread:

1. `_gather` checks that the file at the path is still the one that it writes,
2. and carries out the writes in one transaction, leaving out only writes that are refused.
3. `_finish` writes into the high-water mark how many frames there are and how many there will be,
4. commits: the only wait for the disk,
5. and writes into the high-water mark how many frames there are now.

If any step fails, the journal is broken and writes nothing more: only reopening it can tell what
the disk holds.

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

from psymm.errors import (
    JournalConflict,
    JournalError,
    JournalReplaced,
    JournalRestored,
    UnknownCustody,
)
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

FOLD: Final = 64
"""How many commits lie between two folds of the heads."""


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

Durable = Callable[[JournalFailure | None], None]
"""Called in the event loop when a write is durable, or with the error if it never will be. It must
not block or raise."""

Write = tuple[Sequence[Change], Durable]
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


class JournalTransactions(JournalReader):
    """Makes the writes of a journal durable, a batch at a time."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        identity: JournalIdentity,
        lock: int,
        run_sync: Callable[..., Awaitable[Any]],
    ) -> None:
        super().__init__(path, connection, run_sync)
        self.id = identity.id
        self._identity = identity
        self._lock = lock
        self._file = os.fspath(path)
        # Frames in the file, including an open transaction; `_counted` excludes it.
        self._frames = self._counted = identity.frames
        self._heads: dict[bytes, _Lanes] = {}
        # Custodies whose row of `heads` may be behind; cleared once a commit has folded them.
        self._moved: set[bytes] = set()
        # Those of them that the open transaction moved.
        self._moving: set[bytes] = set()
        self._folded = False
        # Why writes of the batch under way failed, by their place in it.
        self._refused: dict[int, JournalFailure] = {}
        self._broken: JournalFailure | None = None
        self._commits = 0
        # What the disk took on average and for the last commit.
        self._commit_s = self._last_s = 0.0

    def _gather(self, batch: Sequence[Write]) -> bool:
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

    def _gather_apart(self, base: sqlite3.Connection, batch: Sequence[Write]) -> None:
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

    def _carry_out(self, base: sqlite3.Connection, batch: Sequence[Write]) -> None:
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
                # Changes keep their order: this one may read frames before it, as
                # `to_revoke_frames` does.
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

    def _finish(self, batch: Sequence[Write]) -> None:
        """Commit what was gathered, with the high-water mark written before and after.

        Both happen before any callback runs, and so before anything is sent.
        """
        began = perf_counter()
        before, now = self._counted, self._frames
        known = self._identity
        try:
            # If the process dies in the commit, either number of frames may be right.
            if now != before:
                # Revoked frames and forgotten strangers make the number smaller, so either may be
                # the lower one.
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

    def _break(self, batch: Sequence[Write], failed: _Failure) -> None:
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
