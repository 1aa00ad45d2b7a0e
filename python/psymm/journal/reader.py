"""Read a journal: as its writer, or from another process while the writer runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import trio

from psymm.errors import JournalCorrupt, UnknownCustody
from psymm.journal import outbox, retention
from psymm.journal.codec import (
    JournalledCustody,
    JournalledFrame,
    custody_of,
    custody_rows,
)
from psymm.journal.connection import connect_reader, expect_journal, one_moment
from psymm.journal.faults import translate_journal_errors
from psymm.journal.heads import heads_of, recovering_of
from psymm.journal.retention import Pruned
from psymm.journal.rounds import frame_of, frames_of, lane_of
from psymm.transcript.checkpoint import Point
from psymm.transcript.delegation import JournalledRevocation
from psymm.transcript.heads import Heads

T = TypeVar("T")


class JournalReader:
    """Reads a journal: as its writer, or from another process while the writer runs."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        run_sync: Callable[..., Awaitable[Any]] = trio.to_thread.run_sync,
    ) -> None:
        self.path = path
        self._run_sync = run_sync
        self._connection = connection
        self._turn = trio.Lock()

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        async with self._turn:
            found: T = await self._run_sync(_guarded, self.path, work, self._connection)
            return found

    async def in_thread(self, work: Callable[..., T], *args: object) -> T:
        """Run blocking work where the journal's own runs. Cancelled: it is still completed."""
        found: T = await self._run_sync(work, *args)
        return found

    async def backed_up_ns(self) -> int | None:
        """When this file was made as a backup, nanoseconds since the epoch; None if it is none."""
        row = await self._read(
            lambda base: base.execute("SELECT backup_ns FROM journal").fetchone()
        )
        return None if row is None or row[0] is None else int(row[0])

    async def heads(self, custody: bytes) -> Heads:
        """A custody's heads. Raises UnknownCustody, JournalCorrupt.

        Cancelled: raises Cancelled, nothing changed.
        """
        return (await self._read(lambda base: heads_of(self.path, base, custody))).heads

    async def recovering_to(self, custody: bytes) -> Heads | None:
        """The heads up to which frames must still be fetched, or None."""
        return await self._read(lambda base: recovering_of(base, custody))

    async def rescued(self, custody: bytes) -> list[bytes]:
        """Raw frames that survived damage but follow missing ones, by lane and seq."""
        return await self._read(
            lambda base: [
                bytes(row[0])
                for row in base.execute(
                    "SELECT raw FROM rescued WHERE custody = ? ORDER BY lane, seq", (custody,)
                )
            ]
        )

    async def custodies(self) -> list[JournalledCustody]:
        """All custodies, oldest first. Cancelled: raises Cancelled, nothing changed."""
        return await self._read(lambda base: self._custodies(base))

    async def custody(self, custody: bytes) -> JournalledCustody:
        """One custody. Raises UnknownCustody. Cancelled: raises Cancelled, nothing changed."""
        found = await self._read(lambda base: self._custodies(base, custody))
        if not found:
            raise UnknownCustody(custody=custody, journal=self.path)
        return found[0]

    async def undelivered(self) -> list[JournalledCustody]:
        """Our ended custodies, as the trader, whose solver may lack frames of ours.

        Raises JournalCorrupt. Cancelled: raises Cancelled, nothing changed.
        """
        return await self._read(
            lambda base: [
                one for one in self._custodies(base) if outbox.is_undelivered(self.path, base, one)
            ]
        )

    def _custodies(
        self, base: sqlite3.Connection, custody: bytes | None = None
    ) -> list[JournalledCustody]:
        return [
            custody_of(row, heads_of(self.path, base, row[0]))
            for row in custody_rows(base, custody)
        ]

    async def frames(
        self, custody: bytes, *, after: int = 0, at_most: int | None = None
    ) -> list[JournalledFrame]:
        """At most `at_most` frames after place `after`, in order of arrival, without pruned ones.

        Raises JournalCorrupt if a place is missing or a frame is not what was written there.
        Cancelled: raises Cancelled.
        """
        return await self._read(lambda base: frames_of(self.path, base, custody, after, at_most))

    async def frame(self, custody: bytes, lane: int, seq: int) -> JournalledFrame | None:
        """One frame, or None. Raises JournalCorrupt if it is not what was written there.
        Cancelled: raises Cancelled, nothing changed."""
        return await self._read(lambda base: frame_of(self.path, base, custody, lane, seq))

    async def lane(
        self, custody: bytes, lane: int, first: int, last: int, *, at_most_bytes: int
    ) -> list[JournalledFrame]:
        """The frames `first` to `last` of a lane that are held.

        Stops after the frame that reaches `at_most_bytes` of raw frames. Raises JournalCorrupt if
        one is not what was written there. Cancelled: raises Cancelled, nothing changed.
        """
        return await self._read(
            lambda base: lane_of(self.path, base, custody, lane, (first, last), at_most_bytes)
        )

    async def checkpoints(self, custody: bytes) -> list[tuple[Point, bytes]]:
        """Stored checkpoints with their accounts' documents, the newest last.

        The first is the one at which the held frames begin, if any were pruned. Cancelled: raises
        Cancelled, nothing changed.
        """
        return await self._read(lambda base: retention.checkpoints_of(base, custody))

    async def pruned(self, custody: bytes) -> Pruned:
        """What was pruned of a custody. Cancelled: raises Cancelled, nothing changed."""
        return await self._read(lambda base: retention.pruned_of(base, custody))

    async def retained(self, custody: bytes) -> list[JournalledFrame]:
        """Pruned frames that a session must still know, in order.

        Cancelled: raises Cancelled, nothing changed.
        """
        return await self._read(
            lambda base: [JournalledFrame(*row) for row in retention.retained_of(base, custody)]
        )

    async def facts(self, custody: bytes) -> list[str]:
        """Learned chain facts, in order, as JSON. Cancelled: raises Cancelled."""
        return await self._read(
            lambda base: [
                str(row[0])
                for row in base.execute(
                    "SELECT fact FROM facts WHERE custody = ? ORDER BY position", (custody,)
                )
            ]
        )

    async def revocations(self, custody: bytes) -> list[JournalledRevocation]:
        """Revoked session keys of both lanes, as last stored. Cancelled: raises Cancelled."""
        return await self._read(
            lambda base: [
                JournalledRevocation(*row)
                for row in base.execute(
                    "SELECT lane, key, from_seq, cut FROM revocations WHERE custody = ?"
                    " ORDER BY lane, key",
                    (custody,),
                )
            ]
        )

    async def revoked_frames(self, custody: bytes) -> list[bytes]:
        """Raw frames that left the record because their key was revoked, by number."""
        return await self._read(
            lambda base: [
                bytes(row[0])
                for row in base.execute(
                    "SELECT raw FROM revoked_frames WHERE custody = ? ORDER BY lane, seq",
                    (custody,),
                )
            ]
        )

    async def version(self) -> int:
        """A number that changes when another process writes. Cancelled: raises Cancelled."""
        row = await self._read(lambda base: base.execute("PRAGMA data_version").fetchone())
        return int(row[0])

    async def equivocations(self, custody: bytes) -> list[tuple[bytes, bytes]]:
        """Pairs of raw frames that prove the peer signed one number twice."""
        return await self._read(
            lambda base: [
                (bytes(row[0]), bytes(row[1]))
                for row in base.execute(
                    "SELECT first, second FROM equivocations WHERE custody = ?", (custody,)
                )
            ]
        )


class open_journal_reader:  # noqa: N801  (read as a function: `async with open_journal_reader(…)`)
    """Open a journal for reading. Its writer may run.

    Raises JournalCorrupt naming what is missing, JournalVersion, StorageError. Cancelled: raises
    Cancelled, nothing changed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    async def __aenter__(self) -> JournalReader:
        expect_journal(self._path)
        try:
            self._connection = await trio.to_thread.run_sync(connect_reader, self._path)
        except JournalCorrupt as bad:
            told = await trio.to_thread.run_sync(told_what_is_missing, self._path, bad)
            raise told from None
        return JournalReader(self._path, self._connection)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._connection is not None:
            self._connection.close()

    def __repr__(self) -> str:
        return f"open_journal_reader({self._path})"

    @classmethod
    def at(cls, path: Path) -> Self:
        return cls(path)


def told_what_is_missing(path: Path, bad: JournalCorrupt) -> JournalCorrupt:
    """The same error, with everything that the damage has taken."""
    from psymm.journal.inspection import inspect

    report = inspect(path)
    values = {name: value for name, value in bad.values.items() if name != "missing"}
    if report.lost:
        values["lost_frames"] = report.lost
    return type(bad)(bad.detail, missing=report.missing, **values)


def _guarded(path: Path, work: Callable[[sqlite3.Connection], T], base: sqlite3.Connection) -> T:
    with translate_journal_errors(path), one_moment(base):
        return work(base)
