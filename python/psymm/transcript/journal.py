"""The journal: every custody's frames on disk before they are sent.

SQLite in WAL mode with full synchronisation, one writer. A process killed at any instant reopens
with the same heads, knows which frames it had signed but not sent, and can never sign a second
frame with one (custody, lane, seq). Writes of one scheduling round share one commit; a write is
durable when the awaiting call returns.

Secrets (session keys, note openings) are sealed with AES-256-GCM under a key that only the wallet
can derive. Without it the journal still verifies, exports and can be shown.

Tables: `journal` (one row: version, id, the wallet's seal check), `custodies`, `frames`,
`session_keys`, `openings`, `settlements`, `equivocations`, `facts`, `revocations`, `aside` (frames
that were taken off the record because their key was revoked).
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from psymm._core import Frame, SecretKey
from psymm.errors import (
    JournalClosed,
    JournalConflict,
    JournalCorrupt,
    JournalError,
    JournalForeign,
    JournalLocked,
    JournalSealed,
    JournalVersion,
    KnownCustody,
    UnknownCustody,
)
from psymm.histogram import Counts, Histogram
from psymm.nursery import open_block_nursery
from psymm.transcript.opening import Opening

T = TypeVar("T")

log = logging.getLogger(__name__)

VERSION: Final = 1
QUICK_COMMIT_S: Final = 0.001
"""A disk that commits within this is waited for where we are."""
COMMIT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
COMMIT_WRITES: Final = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Buckets of the statistics."""
CustodyState = Literal["meeting", "funding", "open", "settling", "closed", "stopped"]

_SCHEMA: Final = """
CREATE TABLE journal (
  version INTEGER NOT NULL, id BLOB NOT NULL, owner TEXT, seal_check BLOB
) STRICT;
CREATE TABLE custodies (
  custody BLOB PRIMARY KEY, lane INTEGER NOT NULL CHECK (lane IN (0, 1)),
  chain_id INTEGER NOT NULL, contract TEXT NOT NULL, trader BLOB NOT NULL, solver BLOB NOT NULL,
  terms BLOB NOT NULL, salt BLOB NOT NULL, endpoint TEXT NOT NULL, meeting BLOB NOT NULL,
  state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', frames INTEGER NOT NULL DEFAULT 0,
  opened_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE frames (
  custody BLOB NOT NULL REFERENCES custodies, arrival INTEGER NOT NULL,
  lane INTEGER NOT NULL, seq INTEGER NOT NULL, digest BLOB NOT NULL, raw BLOB NOT NULL,
  sent INTEGER NOT NULL,
  PRIMARY KEY (custody, arrival), UNIQUE (custody, lane, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX unsent ON frames (custody, arrival) WHERE sent = 0;
CREATE TABLE session_keys (
  custody BLOB NOT NULL REFERENCES custodies, from_seq INTEGER NOT NULL, public_key BLOB NOT NULL,
  sealed BLOB NOT NULL, PRIMARY KEY (custody, from_seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE openings (
  custody BLOB NOT NULL REFERENCES custodies, commitment BLOB NOT NULL, lane INTEGER NOT NULL,
  sealed BLOB NOT NULL, PRIMARY KEY (custody, commitment)
) STRICT, WITHOUT ROWID;
CREATE TABLE settlements (
  custody BLOB NOT NULL REFERENCES custodies, digest BLOB NOT NULL, state TEXT NOT NULL,
  sealed BLOB NOT NULL, PRIMARY KEY (custody, digest)
) STRICT, WITHOUT ROWID;
CREATE TABLE equivocations (
  custody BLOB NOT NULL REFERENCES custodies, lane INTEGER NOT NULL, seq INTEGER NOT NULL,
  first BLOB NOT NULL, second BLOB NOT NULL, PRIMARY KEY (custody, lane, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE facts (
  custody BLOB NOT NULL REFERENCES custodies, position INTEGER NOT NULL, fact TEXT NOT NULL,
  PRIMARY KEY (custody, position)
) STRICT, WITHOUT ROWID;
"""

# Made where they are missing: a journal from before there were revocations has none.
_ADDED: Final = """
CREATE TABLE IF NOT EXISTS revocations (
  custody BLOB NOT NULL REFERENCES custodies, lane INTEGER NOT NULL, key TEXT NOT NULL,
  from_seq INTEGER NOT NULL, cut INTEGER NOT NULL, PRIMARY KEY (custody, lane, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS aside (
  custody BLOB NOT NULL REFERENCES custodies, digest BLOB NOT NULL, lane INTEGER NOT NULL,
  seq INTEGER NOT NULL, raw BLOB NOT NULL, PRIMARY KEY (custody, digest)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class JournalledFrame:
    """A frame as the journal holds it. arrival: its place in the custody, from 1."""

    arrival: int
    lane: int
    seq: int
    digest: bytes
    raw: bytes = field(repr=False)
    sent: bool


@dataclass(frozen=True, slots=True)
class Custody:
    """A custody as the journal holds it. lane: ours. endpoint: the peer's, '' for a solver.
    nonce: ours at the meeting. promised: what the peer said it would put up, token units; ours:
    what we did."""

    opening: Opening
    lane: int
    endpoint: str
    nonce: bytes = field(repr=False)
    ours: int
    promised: int
    state: CustodyState
    reason: str
    frames: int


@dataclass(frozen=True, slots=True)
class JournalledOpening:
    """A note's opening, ours or the peer's; whoever listed the note is `lane`."""

    commitment: bytes
    lane: int
    token: str
    amount: int
    blinding: bytes = field(repr=False)


Durable = Callable[["JournalError | None"], None]
"""Called in the event loop when a write is durable, or with why it never will be. Must not block
and not raise."""


@dataclass(frozen=True, slots=True)
class JournalledRevocation:
    """A session key that its wallet revoked on chain. key: its address. cut: the first frame that
    it can no longer sign for us, from_seq or what we had covered when we learnt of it."""

    lane: int
    key: str
    from_seq: int
    cut: int


@dataclass(slots=True)
class _Write:
    work: Callable[[sqlite3.Connection], object]
    then: Durable
    # Short enough for the event loop's own thread.
    light: bool = False
    failed: JournalError | None = None


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


class JournalReader:
    """Reads a journal: by itself from another process while its writer runs, or as its writer."""

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

    async def custodies(self) -> list[Custody]:
        """All custodies, oldest first. Cancelled: raises Cancelled, nothing changed."""
        return await self._read(lambda base: [_custody(row) for row in _custody_rows(base)])

    async def custody(self, custody: bytes) -> Custody:
        """One custody. Raises UnknownCustody. Cancelled: raises Cancelled, nothing changed."""
        found = await self._read(
            lambda base: [_custody(row) for row in _custody_rows(base, custody)]
        )
        if not found:
            raise UnknownCustody(custody=custody, journal=self.path)
        return found[0]

    async def frames(
        self, custody: bytes, *, after: int = 0, at_most: int | None = None
    ) -> list[JournalledFrame]:
        """The custody's frames in order of arrival, those after place `after`; the first
        `at_most` of them.

        Raises JournalCorrupt if a place is missing. Cancelled: raises Cancelled.
        """
        return await self._read(lambda base: _frames(self.path, base, custody, after, at_most))

    async def frame(self, custody: bytes, lane: int, seq: int) -> JournalledFrame | None:
        """One frame, or None. Cancelled: raises Cancelled, nothing changed."""
        rows = await self._read(
            lambda base: base.execute(
                "SELECT arrival, lane, seq, digest, raw, sent FROM frames"
                " WHERE custody = ? AND lane = ? AND seq = ?",
                (custody, lane, seq),
            ).fetchall()
        )
        return _journalled(rows[0]) if rows else None

    async def facts(self, custody: bytes) -> list[str]:
        """Chain facts that were believed, in order, as JSON. Cancelled: raises Cancelled."""
        return await self._read(
            lambda base: [
                str(row[0])
                for row in base.execute(
                    "SELECT fact FROM facts WHERE custody = ? ORDER BY position", (custody,)
                )
            ]
        )

    async def revocations(self, custody: bytes) -> list[JournalledRevocation]:
        """Revoked session keys of both lanes, as last kept. Cancelled: raises Cancelled."""
        rows = await self._read(
            lambda base: _rows_if_there(
                base, "revocations", "lane, key, from_seq, cut", custody, "lane, key"
            )
        )
        return [JournalledRevocation(*row) for row in rows]

    async def frames_aside(self, custody: bytes) -> list[bytes]:
        """Raw frames that were taken off the record because their key was revoked, by number."""
        rows = await self._read(
            lambda base: _rows_if_there(base, "aside", "raw", custody, "lane, seq")
        )
        return [bytes(row[0]) for row in rows]

    async def version(self) -> int:
        """A number that changes when another process has written. Cancelled: raises Cancelled."""
        row = await self._read(lambda base: base.execute("PRAGMA data_version").fetchone())
        return int(row[0])

    async def openings_under(self, custody: bytes, secret: bytes) -> list[JournalledOpening]:
        """Openings kept for this custody, for a reader beside the writer. secret: as `unlock`
        takes it. Raises JournalForeign where it is another's. Cancelled: raises Cancelled."""
        rows = await self._read(lambda base: _opening_rows(base, custody))
        try:
            return _opened(AESGCM(secret), custody, rows)
        except InvalidTag:
            raise JournalForeign(
                "the wallet's secret does not open this journal", journal=self.path
            ) from None

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


class Journal(JournalReader):
    """The one writer of a journal. Made by `open_journal`."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        journal_id: bytes,
        run_sync: Callable[..., Awaitable[Any]] = trio.to_thread.run_sync,
    ) -> None:
        super().__init__(path, connection, run_sync)
        self.id = journal_id
        self._waiting: list[_Write] = []
        self._sent: dict[tuple[bytes, int], int] = {}
        # How far each lane was marked before: what lies below is not looked at again.
        self._marked: dict[tuple[bytes, int], int] = {}
        self._in_thread = 0
        self._commit_s = 0.0
        self._wake = trio.Event()
        self._closed = False
        self._seal: AESGCM | None = None
        self._commits = 0
        self._writes = 0
        self._commit_seconds = Histogram(COMMIT_SECONDS)
        self._commit_writes = Histogram(COMMIT_WRITES)
        self._broken: JournalError | None = None

    # --- secrets ----------------------------------------------------------------------------

    async def unlock(self, owner: str, secret: bytes) -> None:
        """Give the 32 bytes that seal this journal's secrets; owner is the wallet's address.

        The first unlock binds the journal to them. Raises JournalForeign for another wallet's.
        Cancelled: raises Cancelled; unlocking again is safe.
        """
        seal = AESGCM(secret)
        row = await self._read(
            lambda base: base.execute("SELECT owner, seal_check FROM journal").fetchone()
        )
        if row[0] is None:
            check = _sealed(seal, self.id, b"pSymm journal")
            await self._write(
                lambda base: base.execute(
                    "UPDATE journal SET owner = ?, seal_check = ?", (owner, check)
                )
            )
        elif row[0] != owner:
            raise JournalForeign(journal=self.path, owner=row[0], wallet=owner)
        else:
            try:
                _unsealed(seal, self.id, row[1])
            except InvalidTag:
                raise JournalForeign(
                    "the wallet's secret does not open this journal", journal=self.path
                ) from None
        self._seal = seal

    @property
    def unlocked(self) -> bool:
        return self._seal is not None

    def _sealer(self) -> AESGCM:
        if self._seal is None:
            raise JournalSealed(journal=self.path)
        return self._seal

    # --- writes -----------------------------------------------------------------------------

    async def open_custody(
        self,
        opening: Opening,
        lane: int,
        now_ns: int,
        *,
        endpoint: str = "",
        nonce: bytes = bytes(32),
        ours: int = 0,
        promised: int = 0,
    ) -> None:
        """Remember a new custody, state `meeting`; `lane` is ours.

        Raises KnownCustody for an id ever seen before. Cancelled: it may or may not be kept.
        """
        if not await self._unknown(opening.custody):
            raise KnownCustody(custody=opening.custody)
        row = (
            opening.custody,
            lane,
            opening.chain_id,
            opening.contract,
            opening.trader,
            opening.solver,
            opening.terms,
            opening.salt,
            endpoint,
            nonce + ours.to_bytes(16) + promised.to_bytes(16),
            now_ns,
        )
        await self._write(
            lambda base: base.execute(
                "INSERT INTO custodies (custody, lane, chain_id, contract, trader, solver, terms,"
                " salt, endpoint, meeting, state, opened_ns)"
                " VALUES (?,?,?,?,?,?,?,?,?,?,'meeting',?)",
                row,
            )
        )

    async def set_state(self, custody: bytes, state: CustodyState, reason: str = "") -> None:
        """Change a custody's state. Cancelled: it may or may not be kept."""
        await self._write(
            lambda base: base.execute(
                "UPDATE custodies SET state = ?, reason = ? WHERE custody = ?",
                (state, reason, custody),
            )
        )

    async def append(self, entries: Sequence[tuple[Frame, bytes]], *, ours: int) -> None:
        """Make frames of one custody durable, in this order of arrival.

        entries: (frame, its digest); those of lane `ours` count as unsent. Returns once they are
        on disk. Raises JournalConflict if one has a number that is taken (none is kept then),
        JournalError if the disk refuses (nothing more can be written; reopen).
        Cancelled: raises Cancelled, all of them or none are kept, and the order of arrival holds
        for those that call later.
        """
        if not entries:
            return
        durable, failed = trio.Event(), list[JournalError]()

        def then(error: JournalError | None) -> None:
            if error is not None:
                failed.append(error)
            durable.set()

        self.append_soon(entries, ours=ours, then=then)
        await durable.wait()
        if failed:
            raise failed[0]

    def append_soon(
        self, entries: Sequence[tuple[Frame, bytes]], *, ours: int, then: Durable
    ) -> None:
        """`append` for who does not wait: returns at once and calls `then` once the frames are
        durable, or with the JournalError that `append` would raise.

        Calls of `then` come in the order of these calls. Without entries it is called in its turn.
        """
        rows = [
            (frame.custody, frame.lane, frame.seq, digest, frame.raw, int(frame.lane != ours))
            for frame, digest in entries
        ]
        if rows:
            self._queue(_Write(lambda base: _append(base, rows[0][0], rows), then, light=True))
        else:
            self._queue(_Write(_nothing, then, light=True))

    async def set_aside(
        self, custody: bytes, lane: int, entries: Sequence[tuple[Frame, bytes]]
    ) -> None:
        """Take frames off a custody's record, the lane's last ones, and keep them as evidence.

        entries: (frame, digest), in order. Raises JournalConflict where they are not the lane's
        last; then nothing has changed. Cancelled: all of them are off or none.
        """
        rows = [(frame.seq, digest, frame.raw) for frame, digest in entries]
        if rows:
            await self._write(lambda base: _set_aside(self.path, base, custody, lane, rows))

    async def keep_revocations(
        self, custody: bytes, revoked: Sequence[JournalledRevocation]
    ) -> None:
        """Keep which session keys are revoked, in place of what was kept. Cancelled: all of it is
        kept or none."""
        rows = [(custody, one.lane, one.key, one.from_seq, one.cut) for one in revoked]

        def work(base: sqlite3.Connection) -> None:
            base.execute("DELETE FROM revocations WHERE custody = ?", (custody,))
            base.executemany("INSERT INTO revocations VALUES (?,?,?,?,?)", rows)

        await self._write(work)

    async def keep_fact(self, custody: bytes, fact: str) -> None:
        """Keep what the chain was seen to have done, as JSON. Cancelled: may be kept or not."""
        await self._write(
            lambda base: base.execute(
                "INSERT INTO facts SELECT ?, count(*) + 1, ? FROM facts WHERE custody = ?",
                (custody, fact, custody),
            )
        )

    def mark_sent(self, custody: bytes, lane: int, seq: int) -> None:
        """Our frames up to `seq` have been handed to the socket.

        Returns at once and rides with the next commit: a frame whose mark is lost is sent again,
        byte for byte, which harms nobody.
        """
        self._sent[custody, lane] = seq

    async def keep_equivocation(self, custody: bytes, first: Frame, second: Frame) -> None:
        """Keep two frames with one number as proof of guilt. Cancelled: may be kept or not."""
        await self._write(
            lambda base: base.execute(
                "INSERT OR IGNORE INTO equivocations VALUES (?,?,?,?,?)",
                (custody, first.lane, first.seq, first.raw, second.raw),
            )
        )

    async def keep_session_key(self, custody: bytes, from_seq: int, key: SecretKey) -> None:
        """Keep our session key, sealed, under a place of its own: the seq from which on it may
        come into force. Raises JournalSealed, JournalConflict where another has that place.
        Cancelled: may be kept or not."""
        sealed = _sealed(self._sealer(), custody + from_seq.to_bytes(8), key.expose_secret_bytes())
        await self._write(
            lambda base: base.execute(
                "INSERT INTO session_keys VALUES (?,?,?,?)",
                (custody, from_seq, key.public_key, sealed),
            )
        )

    async def session_keys(self, custody: bytes) -> list[tuple[int, SecretKey]]:
        """Our session keys, (fromSeq, key) in order. Raises JournalSealed, JournalCorrupt."""
        seal = self._sealer()
        rows = await self._read(
            lambda base: base.execute(
                "SELECT from_seq, sealed FROM session_keys WHERE custody = ? ORDER BY from_seq",
                (custody,),
            ).fetchall()
        )
        try:
            return [
                (seq, SecretKey.from_bytes(_unsealed(seal, custody + seq.to_bytes(8), sealed)))
                for seq, sealed in rows
            ]
        except InvalidTag:
            raise JournalCorrupt(
                "a sealed session key does not open", journal=self.path, custody=custody
            ) from None

    async def keep_openings(self, custody: bytes, notes: Sequence[JournalledOpening]) -> None:
        """Keep openings of notes in a bilateral custody, sealed. Cancelled: all kept or none."""
        seal = self._sealer()
        rows = [
            (
                custody,
                note.commitment,
                note.lane,
                _sealed(
                    seal,
                    custody + note.commitment,
                    note.blinding
                    + bytes.fromhex(note.token[2:])
                    + note.amount.to_bytes(16)
                    + note.token.encode(),
                ),
            )
            for note in notes
        ]
        await self._write(
            lambda base: base.executemany("INSERT OR REPLACE INTO openings VALUES (?,?,?,?)", rows)
        )

    async def openings(self, custody: bytes) -> list[JournalledOpening]:
        """Openings kept for this custody. Raises JournalSealed, JournalCorrupt."""
        seal = self._sealer()
        rows = await self._read(lambda base: _opening_rows(base, custody))
        try:
            return _opened(seal, custody, rows)
        except InvalidTag:
            raise JournalCorrupt(
                "a sealed opening does not open", journal=self.path, custody=custody
            ) from None

    async def keep_settlement(
        self, custody: bytes, digest: bytes, state: str, document: bytes
    ) -> None:
        """Keep a settlement under way and its state; document is sealed, it holds what proving
        needs. Cancelled: may be kept or not."""
        sealed = _sealed(self._sealer(), custody + digest, document)
        await self._write(
            lambda base: base.execute(
                "INSERT OR REPLACE INTO settlements VALUES (?,?,?,?)",
                (custody, digest, state, sealed),
            )
        )

    async def settlements(self, custody: bytes) -> list[tuple[bytes, str, bytes]]:
        """(digest, state, document) of settlements kept. Raises JournalSealed, JournalCorrupt."""
        seal = self._sealer()
        rows = await self._read(
            lambda base: base.execute(
                "SELECT digest, state, sealed FROM settlements WHERE custody = ?", (custody,)
            ).fetchall()
        )
        try:
            return [
                (digest, state, _unsealed(seal, custody + digest, sealed))
                for digest, state, sealed in rows
            ]
        except InvalidTag:
            raise JournalCorrupt("a sealed settlement does not open", journal=self.path) from None

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

    # --- the committer ----------------------------------------------------------------------

    async def _unknown(self, custody: bytes) -> bool:
        return not await self._read(lambda base: list(_custody_rows(base, custody)))

    async def _write(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Queue a write; return when a commit has made it durable."""
        durable, failed = trio.Event(), list[JournalError]()

        def then(error: JournalError | None) -> None:
            if error is not None:
                failed.append(error)
            durable.set()

        self._queue(_Write(work, then))
        await durable.wait()
        if failed:
            raise failed[0]

    def _queue(self, write: _Write) -> None:
        if self._broken is not None:
            write.then(self._broken)
        elif self._closed:
            write.then(JournalClosed(journal=self.path))
        else:
            self._waiting.append(write)
            self._wake.set()

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
            sent, self._sent = self._sent, {}
            if batch or sent:
                began = perf_counter()
                if self._turn.locked() or not all(write.light for write in batch):
                    await self._commit_in_thread(self._commit, batch, sent)
                elif self._commit_s <= QUICK_COMMIT_S:
                    self._commit(batch, sent)
                elif self._gather(batch, sent):
                    await self._commit_in_thread(self._finish, batch)
                self._commit_seconds.observe(perf_counter() - began)
                self._commit_writes.observe(len(batch))
                self._commits += 1
                self._writes += len(batch)
                for write in batch:
                    write.then(write.failed)
            if self._closed and not self._waiting:
                return

    async def _commit_in_thread(self, work: Callable[..., object], *arguments: object) -> None:
        self._in_thread += 1
        with trio.CancelScope(shield=True):
            async with self._turn:
                await self._run_sync(work, *arguments)

    def _commit(self, batch: Sequence[_Write], sent: dict[tuple[bytes, int], int]) -> None:
        if self._gather(batch, sent):
            self._finish(batch)

    def _gather(self, batch: Sequence[_Write], sent: dict[tuple[bytes, int], int]) -> bool:
        """Write a round into an open transaction. False where the disk refuses: then none of it
        is kept, and each write says so."""
        base = self._connection
        if self._broken is not None:
            for write in batch:
                write.failed = self._broken
            return False
        try:
            base.execute("BEGIN IMMEDIATE")
            try:
                for write in batch:
                    write.work(base)
            except (sqlite3.IntegrityError, JournalError):
                base.execute("ROLLBACK")
                base.execute("BEGIN IMMEDIATE")
                self._gather_apart(batch)
            for (custody, lane), seq in sent.items():
                base.execute(
                    "UPDATE frames SET sent = 1 WHERE custody = ? AND lane = ?"
                    " AND seq > ? AND seq <= ? AND sent = 0",
                    (custody, lane, self._marked.get((custody, lane), 0), seq),
                )
            self._marked |= sent
        except sqlite3.Error as failed:
            self._break(batch, failed)
            return False
        return True

    def _gather_apart(self, batch: Sequence[_Write]) -> None:
        """One caller's mistake must not take the round's other writes with it."""
        base = self._connection
        for write in batch:
            base.execute("SAVEPOINT one")
            try:
                write.work(base)
            except (sqlite3.IntegrityError, JournalError) as refused:
                base.execute("ROLLBACK TO one")
                write.failed = (
                    refused
                    if isinstance(refused, JournalError)
                    else JournalConflict(str(refused), journal=self.path)
                )
            base.execute("RELEASE one")

    def _finish(self, batch: Sequence[_Write]) -> None:
        began = perf_counter()
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as failed:
            self._break(batch, failed)
        self._commit_s += (perf_counter() - began - self._commit_s) / 5

    def _break(self, batch: Sequence[_Write], failed: sqlite3.Error) -> None:
        self._broken = _named(self.path, failed)
        log.critical("journal-failed", extra={"code": self._broken.code})
        with suppress(sqlite3.Error):
            self._connection.execute("ROLLBACK")
        for write in batch:
            write.failed = self._broken

    def _close(self) -> None:
        self._closed = True
        self._wake.set()


@asynccontextmanager
async def open_journal(
    path: Path,
    *,
    create: bool = True,
    run_sync: Callable[..., Awaitable[Any]] = trio.to_thread.run_sync,
) -> AsyncGenerator[Journal, None]:
    """Open the journal for writing; alone. Verifies SQLite's own structure, all numbers and heads.

    run_sync: where the disk's work runs; a thread unless a test on a mock clock says otherwise.

    Raises JournalLocked if any other process (or this one) writes it, JournalCorrupt,
    JournalVersion, JournalError if it is not there and `create` is False.
    Cancelled inside: writes that were queued are still committed, then it is closed.
    """
    with _lock(path, create):
        connection, journal_id = await run_sync(_connect, path, create)
        with closing(connection):
            journal = Journal(path, connection, journal_id, run_sync)
            async with open_block_nursery() as nursery:
                nursery.start_soon(_committer, journal)
                try:
                    yield journal
                finally:
                    journal._close()


async def _committer(journal: Journal) -> None:
    # Shielded: a write that was queued is committed even while everything is being cancelled;
    # _close() ends it.
    with trio.CancelScope(shield=True):
        await journal._commit_rounds()


class open_journal_reader:  # noqa: N801  (read as a function: `async with open_journal_reader(…)`)
    """Open a journal for reading beside its writer. Raises JournalCorrupt, JournalVersion."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    async def __aenter__(self) -> JournalReader:
        if not self._path.exists():
            raise JournalError("there is no journal here", path=self._path)
        self._connection = await trio.to_thread.run_sync(_connect_reader, self._path)
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


# --- SQLite -----------------------------------------------------------------------------------


@contextmanager
def _lock(path: Path, create: bool) -> Iterator[None]:
    """Hold `<path>.lock`; the kernel lets go of it when the process dies, however it dies."""
    if not create and not path.exists():
        raise JournalError("there is no journal here", path=path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise JournalLocked(journal=path) from None
        yield
    finally:
        os.close(descriptor)


def _connect(path: Path, create: bool) -> tuple[sqlite3.Connection, bytes]:
    new = not path.exists() or path.stat().st_size == 0
    if new and not create:
        raise JournalCorrupt("the journal is empty", journal=path)
    if new:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    base = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        if new:
            base.execute("PRAGMA journal_mode = WAL")
            base.execute("PRAGMA synchronous = FULL")
            base.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";"):
                base.execute(statement)
            base.execute(
                "INSERT INTO journal VALUES (?, ?, NULL, NULL)", (VERSION, secrets.token_bytes(16))
            )
            base.execute("COMMIT")
            directory = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        for statement in _ADDED.split(";"):
            base.execute(statement)
        base.execute("PRAGMA synchronous = FULL")
        base.execute("PRAGMA foreign_keys = ON")
        mode = base.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise JournalError(
                "this file system cannot hold a WAL journal", journal=path, mode=mode
            )
        return base, _check(path, base)
    except sqlite3.Error as failed:
        base.close()
        raise _named(path, failed) from None
    except BaseException:
        base.close()
        raise


def _connect_reader(path: Path) -> sqlite3.Connection:
    base = sqlite3.connect(
        f"file:{path}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
    )
    try:
        _check(path, base)
    except sqlite3.Error as failed:
        base.close()
        raise _named(path, failed) from None
    except BaseException:
        base.close()
        raise
    return base


def _check(path: Path, base: sqlite3.Connection) -> bytes:
    """SQLite's own pages, our version, and that no number is missing in any lane."""
    found = base.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise JournalCorrupt(str(found), journal=path)
    row = base.execute("SELECT version, id FROM journal").fetchall()
    if len(row) != 1:
        raise JournalCorrupt("the journal's own row is missing", journal=path)
    version, journal_id = row[0]
    if version != VERSION:
        raise JournalVersion(journal=path, version=version, known=VERSION)
    for custody, lane, count, highest in base.execute(
        "SELECT custody, lane, count(*), max(seq) FROM frames GROUP BY custody, lane"
    ):
        if count != highest:
            raise JournalCorrupt(
                "frames are missing",
                journal=path,
                custody=custody,
                lane=lane,
                held=count,
                highest=highest,
            )
    for custody, stated, held, highest in base.execute(
        "SELECT c.custody, c.frames, count(f.arrival), coalesce(max(f.arrival), 0)"
        " FROM custodies c LEFT JOIN frames f ON f.custody = c.custody GROUP BY c.custody"
    ):
        if not stated == held == highest:
            raise JournalCorrupt(
                "frames are missing", journal=path, custody=custody, stated=stated, held=held
            )
    return bytes(journal_id)


def _guarded(path: Path, work: Callable[[sqlite3.Connection], T], base: sqlite3.Connection) -> T:
    try:
        return work(base)
    except sqlite3.Error as failed:
        raise _named(path, failed) from None


def _named(path: Path, failed: sqlite3.Error) -> JournalError:
    if isinstance(failed, sqlite3.OperationalError) and "locked" in str(failed):
        return JournalLocked(journal=path)
    if isinstance(failed, sqlite3.OperationalError) and "no such table" not in str(failed):
        return JournalError(f"the disk refuses: {failed}", journal=path)
    return JournalCorrupt(str(failed), journal=path)


def _nothing(base: sqlite3.Connection) -> None:
    """What only waits for its turn."""


def _append(
    base: sqlite3.Connection,
    custody: bytes,
    rows: Sequence[tuple[bytes, int, int, bytes, bytes, int]],
) -> None:
    found = base.execute(
        "UPDATE custodies SET frames = frames + ? WHERE custody = ? RETURNING frames",
        (len(rows), custody),
    ).fetchone()
    if found is None:
        raise UnknownCustody(custody=custody)
    for place, row in enumerate(rows, found[0] - len(rows) + 1):
        base.execute("INSERT INTO frames VALUES (?,?,?,?,?,?,?)", (row[0], place, *row[1:]))


def _set_aside(
    path: Path,
    base: sqlite3.Connection,
    custody: bytes,
    lane: int,
    rows: Sequence[tuple[int, bytes, bytes]],
) -> None:
    held = [
        (seq, bytes(digest))
        for seq, digest in base.execute(
            "SELECT seq, digest FROM frames WHERE custody = ? AND lane = ? AND seq >= ?"
            " ORDER BY seq",
            (custody, lane, rows[0][0]),
        )
    ]
    if held != [(seq, digest) for seq, digest, _ in rows]:
        raise JournalConflict(
            "frames to be set aside are not the last of their lane", journal=path, custody=custody
        )
    base.executemany(
        "INSERT OR IGNORE INTO aside VALUES (?,?,?,?,?)",
        [(custody, digest, lane, seq, raw) for seq, digest, raw in rows],
    )
    (first,) = base.execute(
        "SELECT min(arrival) FROM frames WHERE custody = ? AND lane = ? AND seq >= ?",
        (custody, lane, rows[0][0]),
    ).fetchone()
    base.execute(
        "DELETE FROM frames WHERE custody = ? AND lane = ? AND seq >= ?",
        (custody, lane, rows[0][0]),
    )
    # Places of arrival have no holes. Below zero first, so that none is taken twice on the way.
    stay = base.execute(
        "SELECT arrival FROM frames WHERE custody = ? AND arrival > ? ORDER BY arrival",
        (custody, first),
    ).fetchall()
    base.executemany(
        "UPDATE frames SET arrival = ? WHERE custody = ? AND arrival = ?",
        [(-place, custody, arrival) for place, (arrival,) in enumerate(stay, first)],
    )
    base.execute(
        "UPDATE frames SET arrival = -arrival WHERE custody = ? AND arrival < 0", (custody,)
    )
    base.execute("UPDATE custodies SET frames = frames - ? WHERE custody = ?", (len(rows), custody))


def _rows_if_there(
    base: sqlite3.Connection, table: str, columns: str, custody: bytes, order: str
) -> list[tuple[Any, ...]]:
    """Rows of a table that an older journal, opened for reading, may not have."""
    known = base.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)
    ).fetchone()
    if known is None:
        return []
    return base.execute(
        f"SELECT {columns} FROM {table} WHERE custody = ? ORDER BY {order}",  # noqa: S608
        (custody,),
    ).fetchall()


def _custody_rows(
    base: sqlite3.Connection, custody: bytes | None = None
) -> Iterator[tuple[object, ...]]:
    columns = (
        "SELECT chain_id, contract, trader, solver, terms, salt, lane, endpoint, meeting, state,"
        " reason, frames, custody FROM custodies"
    )
    if custody is None:
        yield from base.execute(columns + " ORDER BY opened_ns, custody")
    else:
        yield from base.execute(columns + " WHERE custody = ?", (custody,))


def _custody(row: tuple[object, ...]) -> Custody:
    chain_id, contract, trader, solver, terms, salt = row[:6]
    lane, endpoint, meeting, state, reason, frames, key = row[6:]
    opening = Opening(chain_id, contract, trader, solver, terms, salt)  # type: ignore[arg-type]
    if opening.custody != key or not isinstance(meeting, bytes) or len(meeting) != 64:
        raise JournalCorrupt("an opening does not give its custody id", custody=key)
    return Custody(
        opening=opening,
        lane=lane,  # type: ignore[arg-type]
        endpoint=endpoint,  # type: ignore[arg-type]
        nonce=meeting[:32],
        ours=int.from_bytes(meeting[32:48]),
        promised=int.from_bytes(meeting[48:]),
        state=state,  # type: ignore[arg-type]
        reason=reason,  # type: ignore[arg-type]
        frames=frames,  # type: ignore[arg-type]
    )


def _frames(
    path: Path, base: sqlite3.Connection, custody: bytes, after: int, at_most: int | None
) -> list[JournalledFrame]:
    frames = [
        _journalled(row)
        for row in base.execute(
            "SELECT arrival, lane, seq, digest, raw, sent FROM frames"
            " WHERE custody = ? AND arrival > ? ORDER BY arrival LIMIT ?",
            (custody, after, -1 if at_most is None else at_most),
        )
    ]
    for place, frame in enumerate(frames, after + 1):
        if frame.arrival != place:
            raise JournalCorrupt("a frame is missing", journal=path, custody=custody, place=place)
    return frames


def _opening_rows(base: sqlite3.Connection, custody: bytes) -> list[tuple[bytes, int, bytes]]:
    return base.execute(
        "SELECT commitment, lane, sealed FROM openings WHERE custody = ?", (custody,)
    ).fetchall()


def _opened(
    seal: AESGCM, custody: bytes, rows: Sequence[tuple[bytes, int, bytes]]
) -> list[JournalledOpening]:
    """Raises InvalidTag."""
    notes = []
    for commitment, lane, sealed in rows:
        plain = _unsealed(seal, custody + commitment, sealed)
        notes.append(
            JournalledOpening(
                commitment=commitment,
                lane=lane,
                blinding=plain[:32],
                amount=int.from_bytes(plain[52:68]),
                token=plain[68:].decode(),
            )
        )
    return notes


def _journalled(row: tuple[int, int, int, bytes, bytes, int]) -> JournalledFrame:
    arrival, lane, seq, digest, raw, sent = row
    return JournalledFrame(arrival, lane, seq, digest, raw, bool(sent))


def _sealed(seal: AESGCM, bound_to: bytes, plain: bytes) -> bytes:
    nonce = secrets.token_bytes(12)
    return nonce + seal.encrypt(nonce, plain, bound_to)


def _unsealed(seal: AESGCM, bound_to: bytes, sealed: bytes) -> bytes:
    return seal.decrypt(sealed[:12], sealed[12:], bound_to)
