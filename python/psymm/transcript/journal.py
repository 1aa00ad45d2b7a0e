"""The journal: every custody's frames on disk before they are sent.

SQLite in WAL mode with full synchronisation, one writer. A process killed at any instant reopens
with the same heads, knows which frames it had signed but not sent, and can never sign a second
frame with one (custody, lane, seq). Writes of one scheduling round share one commit; a write is
durable when the awaiting call returns.

Secrets (session keys, note openings) are sealed with AES-256-GCM under a key that only the wallet
can derive. Without it the journal still verifies, exports and can be shown.

What is kept is kept so that its loss is seen and named: the heads of every custody stand apart
from its frames, each frame has a checksum that binds it to its place, and the tally beside the
file knows how many frames there were (`psymm.transcript.tally`).

Whether a custody may sign (its `Standing`) is decided here, whatever is above: a journal that is a
backup, or that was mended without its newest heads, gives no session key and takes no frame of our
own but those that the peer shows.

Tables: `journal` (one row: version, id, the wallet's seal check, lineage, when it was backed up),
`custodies`, `heads`, `frames`, `session_keys`, `openings`, `settlements`, `equivocations`,
`facts`, `revocations`, `aside` (frames that were taken off the record because their key was
revoked); `mending` and `salvaged` where frames are still to be fetched; of checkpoints, and of what
was pruned before one, those of `psymm.transcript.pruning`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, get_args

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from psymm._core import Frame, FrameError, SecretKey
from psymm.errors import (
    BadOpening,
    JournalClosed,
    JournalConflict,
    JournalCorrupt,
    JournalError,
    JournalForeign,
    JournalLocked,
    JournalOlder,
    JournalReplaced,
    JournalRestored,
    JournalSealed,
    JournalUnwritable,
    JournalVersion,
    KnownCustody,
    Missing,
    UnknownCustody,
)
from psymm.histogram import Counts, Histogram
from psymm.nursery import open_block_nursery
from psymm.transcript import pruning
from psymm.transcript.checkpoint import Point
from psymm.transcript.opening import Opening
from psymm.transcript.pruning import Pruned
from psymm.transcript.tally import read_tally, write_tally

T = TypeVar("T")

log = logging.getLogger(__name__)

VERSION: Final = 2
QUICK_COMMIT_S: Final = 0.001
"""A disk that commits within this is waited for where we are."""
COMMIT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
COMMIT_WRITES: Final = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Buckets of the statistics."""
Standing = Literal["whole", "mending", "restored"]
"""Whether a custody may sign. whole: yes. mending: frames up to its newest heads, which are known,
are still to be fetched; then it is whole. restored: from a backup, or mended without its newest
heads being known; it serves in court and settles by wallet signature, and never signs a frame."""
CustodyState = Literal["meeting", "funding", "open", "settling", "closed", "stopped"]

_SCHEMA: Final = (
    """
CREATE TABLE journal (
  version INTEGER NOT NULL, id BLOB NOT NULL, owner TEXT, seal_check BLOB,
  lineage BLOB NOT NULL, backup_ns INTEGER
) STRICT;
CREATE TABLE custodies (
  custody BLOB PRIMARY KEY, lane INTEGER NOT NULL CHECK (lane IN (0, 1)),
  chain_id INTEGER NOT NULL, contract TEXT NOT NULL, trader BLOB NOT NULL, solver BLOB NOT NULL,
  terms BLOB NOT NULL, salt BLOB NOT NULL, endpoint TEXT NOT NULL, meeting BLOB NOT NULL,
  state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', opened_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE heads (
  custody BLOB PRIMARY KEY REFERENCES custodies, lane INTEGER NOT NULL, standing TEXT NOT NULL,
  frames INTEGER NOT NULL, trader_seq INTEGER NOT NULL, trader_digest BLOB NOT NULL,
  solver_seq INTEGER NOT NULL, solver_digest BLOB NOT NULL, checksum BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE frames (
  custody BLOB NOT NULL REFERENCES custodies, arrival INTEGER NOT NULL,
  lane INTEGER NOT NULL, seq INTEGER NOT NULL, digest BLOB NOT NULL, raw BLOB NOT NULL,
  sent INTEGER NOT NULL, checksum BLOB NOT NULL,
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
CREATE TABLE revocations (
  custody BLOB NOT NULL REFERENCES custodies, lane INTEGER NOT NULL, key TEXT NOT NULL,
  from_seq INTEGER NOT NULL, cut INTEGER NOT NULL, PRIMARY KEY (custody, lane, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE aside (
  custody BLOB NOT NULL REFERENCES custodies, digest BLOB NOT NULL, lane INTEGER NOT NULL,
  seq INTEGER NOT NULL, raw BLOB NOT NULL, PRIMARY KEY (custody, digest)
) STRICT, WITHOUT ROWID;
CREATE TABLE mending (
  custody BLOB PRIMARY KEY REFERENCES custodies,
  trader_seq INTEGER NOT NULL, trader_digest BLOB NOT NULL,
  solver_seq INTEGER NOT NULL, solver_digest BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE salvaged (
  custody BLOB NOT NULL REFERENCES custodies, lane INTEGER NOT NULL, seq INTEGER NOT NULL,
  raw BLOB NOT NULL, PRIMARY KEY (custody, lane, seq)
) STRICT, WITHOUT ROWID;
"""
    + pruning.SCHEMA
)


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
    standing: Standing = "whole"


@dataclass(frozen=True, slots=True)
class Heads:
    """(seq, digest) of each lane; the digest of seq 0 is the custody's id."""

    trader: tuple[int, bytes]
    solver: tuple[int, bytes]

    def of(self, lane: int) -> tuple[int, bytes]:
        return self.solver if lane else self.trader


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


_Failure = sqlite3.Error | OSError | JournalError | UnicodeDecodeError
_FAILURES: Final = (sqlite3.Error, OSError, JournalError, UnicodeDecodeError)
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

    async def backed_up_ns(self) -> int | None:
        """When this file was made as a backup, nanoseconds since the epoch; None if it was not."""
        row = await self._read(
            lambda base: base.execute("SELECT backup_ns FROM journal").fetchone()
        )
        return None if row is None or row[0] is None else int(row[0])

    async def heads(self, custody: bytes) -> Heads:
        """The heads as they were kept apart from the frames. Raises UnknownCustody,
        JournalCorrupt. Cancelled: raises Cancelled, nothing changed."""
        return (await self._read(lambda base: _heads(self.path, base, custody))).heads

    async def mending(self, custody: bytes) -> Heads | None:
        """The newest heads, where frames up to them are still to be fetched; else None."""
        return await self._read(lambda base: _mending(base, custody))

    async def salvaged(self, custody: bytes) -> list[bytes]:
        """Raw frames that outlived the damage but lack others before them, by lane and seq."""
        return await self._read(
            lambda base: [
                bytes(row[0])
                for row in base.execute(
                    "SELECT raw FROM salvaged WHERE custody = ? ORDER BY lane, seq", (custody,)
                )
            ]
        )

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
        """The custody's frames in order of arrival, those after place `after` that are
        not pruned; the first `at_most` of them.

        Raises JournalCorrupt if a place is missing or a frame is not what was written there.
        Cancelled: raises Cancelled.
        """
        return await self._read(lambda base: _frames(self.path, base, custody, after, at_most))

    async def frame(self, custody: bytes, lane: int, seq: int) -> JournalledFrame | None:
        """One frame, or None. Raises JournalCorrupt if it is not what was written there.
        Cancelled: raises Cancelled, nothing changed."""
        found = await self._read(
            lambda base: [
                _journalled(self.path, custody, row)
                for row in base.execute(
                    "SELECT arrival, lane, seq, digest, raw, sent, checksum FROM frames"
                    " WHERE custody = ? AND lane = ? AND seq = ?",
                    (custody, lane, seq),
                )
            ]
        )
        return found[0] if found else None

    async def checkpoints(self, custody: bytes) -> list[tuple[Point, bytes]]:
        """Checkpoints that were in force, with their accounts' documents: the one at which the
        frames that are left begin, if any are gone, and the newest last. Cancelled: raises
        Cancelled, nothing changed."""
        return await self._read(lambda base: pruning.checkpoints_of(base, custody))

    async def pruned(self, custody: bytes) -> Pruned:
        """What is gone of a custody's frames. Cancelled: raises Cancelled, nothing changed."""
        return await self._read(lambda base: pruning.pruned_of(base, custody))

    async def remembered(self, custody: bytes) -> list[JournalledFrame]:
        """Of the frames that are gone, those that a session must still know, in order.
        Cancelled: raises Cancelled, nothing changed."""
        return await self._read(
            lambda base: [
                JournalledFrame(*row, sent=True) for row in pruning.remembered_of(base, custody)
            ]
        )

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

    async def frames_aside(self, custody: bytes) -> list[bytes]:
        """Raw frames that were taken off the record because their key was revoked, by number."""
        return await self._read(
            lambda base: [
                bytes(row[0])
                for row in base.execute(
                    "SELECT raw FROM aside WHERE custody = ? ORDER BY lane, seq", (custody,)
                )
            ]
        )

    async def version(self) -> int:
        """A number that changes when another process has written. Cancelled: raises Cancelled."""
        row = await self._read(lambda base: base.execute("PRAGMA data_version").fetchone())
        return int(row[0])

    async def openings_under(self, custody: bytes, secret: bytes) -> list[JournalledOpening]:
        """Openings kept for this custody, for a reader beside the writer. secret: as `unlock`
        takes it. Raises JournalForeign where it is another's. Cancelled: raises Cancelled."""
        rows = await self._read(lambda base: _opening_rows(base, custody))
        try:
            return _unsealed_openings(AESGCM(secret), custody, rows)
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


@dataclass(frozen=True, slots=True)
class JournalIdentity:
    """What a journal is. lineage: of this file; a backup of it has another. frames: held, of all
    custodies. inode: (device, number) of the file. doubtful: it was found without its tally."""

    id: bytes
    lineage: bytes
    frames: int
    inode: tuple[int, int] = (0, 0)
    doubtful: bool = False


class Journal(JournalReader):
    """The one writer of a journal. Made by `open_journal`."""

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
        # In the file, an open transaction included; `_counted`: before that transaction.
        self._frames = self._counted = identity.frames
        self._waiting: list[_Write] = []
        self._sent: dict[tuple[bytes, int], int] = {}
        # Heads as they are after what is queued, so that a round of many frames reads and writes
        # them once; `_moved`: those that the file has yet to be told.
        self._heads: dict[bytes, _HeldHeads] = {}
        self._moved: set[bytes] = set()
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
        nothing = (0, opening.custody)

        def work(base: sqlite3.Connection) -> None:
            base.execute(
                "INSERT INTO custodies (custody, lane, chain_id, contract, trader, solver, terms,"
                " salt, endpoint, meeting, state, opened_ns)"
                " VALUES (?,?,?,?,?,?,?,?,?,?,'meeting',?)",
                row,
            )
            put_heads(base, opening.custody, lane, "whole", Heads(nothing, nothing), 0)

        await self._write(work)

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
        on disk. Raises JournalConflict if one is not the next of its lane (none is kept then),
        JournalRestored for a frame of ours where the custody must not sign, JournalUnwritable if
        the disk refuses (nothing more can be written; reopen).
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
            self._queue(
                _Write(
                    lambda base: self._append(base, rows[0][0], rows, shown=False),
                    then,
                    light=True,
                )
            )
        else:
            self._queue(_Write(_nothing, then, light=True))

    async def restore(self, entries: Sequence[tuple[Frame, bytes]]) -> None:
        """Make frames of one custody durable that the peer or a file shows and this journal lacks,
        verified by the caller; ours count as sent. Raises JournalConflict, and where the custody
        is whole: then nothing is lacking. Cancelled: all of them or none are kept."""
        rows = [
            (frame.custody, frame.lane, frame.seq, digest, frame.raw, 1)
            for frame, digest in entries
        ]
        if rows:
            await self._write(lambda base: self._append(base, rows[0][0], rows, shown=True))

    async def set_standing(self, custody: bytes, standing: Standing) -> None:
        """A custody being mended is whole, or it turns out that it cannot be.

        Raises JournalRestored if a restored one is to sign again, JournalCorrupt if frames up to
        the newest heads are still missing. Cancelled: it may or may not be kept.
        """
        await self._write(lambda base: _set_standing(self.path, base, custody, standing))

    async def set_aside(
        self, custody: bytes, lane: int, entries: Sequence[tuple[Frame, bytes]]
    ) -> None:
        """Take frames off a custody's record, the lane's last ones, and keep them as evidence.

        entries: (frame, digest), in order. Raises JournalConflict where they are not the lane's
        last; then nothing has changed. Cancelled: all of them are off or none.
        """
        rows = [(frame.seq, digest, frame.raw) for frame, digest in entries]
        if rows:
            await self._write(lambda base: self._set_aside(base, custody, lane, rows))

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

    async def keep_checkpoint(
        self, custody: bytes, point: Point, account: Callable[[], bytes]
    ) -> None:
        """Keep a checkpoint in force; `account` gives the document, in the journal's thread.
        Cancelled: may be kept or not."""
        await self._write(lambda base: pruning.keep(base, custody, point, account()))

    async def remove_frames(
        self, custody: bytes, gone: Pruned, remembered: Sequence[JournalledFrame]
    ) -> None:
        """Remove all frames that `gone` counts; `remembered` are those of them that stay known.
        Cancelled: all are removed or none."""
        rows = [(one.arrival, one.lane, one.seq, one.digest, one.raw) for one in remembered]
        await self._write(lambda base: pruning.remove(base, custody, gone, rows))

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
        """Our session keys, (fromSeq, key) in order.

        Raises JournalRestored where the custody must never sign again, JournalSealed,
        JournalCorrupt.
        """
        if (await self.custody(custody)).standing == "restored":
            raise JournalRestored(journal=self.path, custody=custody)
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
            return _unsealed_openings(seal, custody, rows)
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

    async def in_thread(self, work: Callable[..., T], *args: object) -> T:
        """Run what blocks where the journal's own work runs. Cancelled: it is done all the same."""
        found: T = await self._run_sync(work, *args)
        return found

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
        return not await self._read(lambda base: _custody_rows(base, custody))

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
        self._counted = self._frames
        try:
            _in_place(self.path, self._identity.inode)
            base.execute("BEGIN IMMEDIATE")
            try:
                for write in batch:
                    self._carry_out(base, write)
                self._put_moved_heads(base)
            except (sqlite3.IntegrityError, JournalError):
                base.execute("ROLLBACK")
                self._forget_heads()
                self._frames = self._counted
                base.execute("BEGIN IMMEDIATE")
                self._gather_apart(batch)
            for (custody, lane), seq in sent.items():
                base.execute(
                    "UPDATE frames SET sent = 1 WHERE custody = ? AND lane = ?"
                    " AND seq > ? AND seq <= ? AND sent = 0",
                    (custody, lane, self._marked.get((custody, lane), 0), seq),
                )
            self._marked |= sent
        except _FAILURES as failed:
            self._break(batch, failed)
            return False
        return True

    def _gather_apart(self, batch: Sequence[_Write]) -> None:
        """One caller's mistake must not take the round's other writes with it."""
        base = self._connection
        for write in batch:
            base.execute("SAVEPOINT one")
            before = self._frames
            try:
                self._carry_out(base, write)
                self._put_moved_heads(base)
            except (sqlite3.IntegrityError, JournalError) as refused:
                base.execute("ROLLBACK TO one")
                self._forget_heads()
                self._frames = before
                write.failed = (
                    refused
                    if isinstance(refused, JournalError)
                    else JournalConflict(str(refused), journal=self.path)
                )
            base.execute("RELEASE one")

    def _carry_out(self, base: sqlite3.Connection, write: _Write) -> None:
        if not write.light:
            # It may read and write heads by itself.
            self._put_moved_heads(base)
            self._forget_heads()
        write.work(base)

    def _put_moved_heads(self, base: sqlite3.Connection) -> None:
        for custody in self._moved:
            held = self._heads[custody]
            put_heads(base, custody, held.lane, held.standing, held.heads, held.frames)
        self._moved.clear()

    def _forget_heads(self) -> None:
        self._heads.clear()
        self._moved.clear()

    def _finish(self, batch: Sequence[_Write]) -> None:
        """Commit what was gathered, the tally around it: before anyone is told, and so before
        anything is sent."""
        began = perf_counter()
        before, now = self._counted, self._frames
        try:
            if now != before:
                self._tally(min(before, now), most=max(before, now))
            self._connection.execute("COMMIT")
            if now != before:
                self._tally(now)
        except _FAILURES as failed:
            self._break(batch, failed)
        self._commit_s += (perf_counter() - began - self._commit_s) / 5

    def _break(self, batch: Sequence[_Write], failed: _Failure) -> None:
        self._broken = failed if isinstance(failed, JournalError) else _named(self.path, failed)
        log.critical("journal-failed", extra={"code": self._broken.code})
        with suppress(sqlite3.Error, UnicodeDecodeError):
            self._connection.execute("ROLLBACK")
        for write in batch:
            write.failed = self._broken

    def _tally(self, frames: int, *, most: int | None = None, closed: bool = False) -> None:
        known = self._identity
        write_tally(
            self._lock, known.lineage, frames, most=most, closed=closed, doubtful=known.doubtful
        )

    def _append(
        self,
        base: sqlite3.Connection,
        custody: bytes,
        rows: Sequence[tuple[bytes, int, int, bytes, bytes, int]],
        *,
        shown: bool,
    ) -> None:
        """shown: by the peer or a file, not signed or received in a session of this journal."""
        held = self._heads.get(custody) or _heads(self.path, base, custody)
        if shown and held.standing == "whole":
            raise JournalConflict("this custody lacks no frames", journal=self.path)
        heads, ends = [held.heads.trader, held.heads.solver], held.frames
        for row in rows:
            lane, seq, digest, raw = row[1:5]
            if not shown and lane == held.lane and held.standing != "whole":
                raise JournalRestored(journal=self.path, custody=custody)
            if row[0] != custody or seq != heads[lane][0] + 1:
                raise JournalConflict(journal=self.path, custody=custody, lane=lane, seq=seq)
            ends += 1
            base.execute(
                "INSERT INTO frames VALUES (?,?,?,?,?,?,?,?)",
                (custody, ends, *row[1:], frame_checksum(custody, ends, lane, seq, digest, raw)),
            )
            heads[lane] = (seq, digest)
        self._heads[custody] = _HeldHeads(
            custody, held.lane, held.standing, Heads(heads[0], heads[1]), ends
        )
        self._moved.add(custody)
        self._frames += len(rows)

    def _set_aside(
        self,
        base: sqlite3.Connection,
        custody: bytes,
        lane: int,
        rows: Sequence[tuple[int, bytes, bytes]],
    ) -> None:
        path, held = self.path, _heads(self.path, base, custody)
        off = [
            (seq, bytes(digest))
            for seq, digest in base.execute(
                "SELECT seq, digest FROM frames WHERE custody = ? AND lane = ? AND seq >= ?"
                " ORDER BY seq",
                (custody, lane, rows[0][0]),
            )
        ]
        if off != [(seq, digest) for seq, digest, _ in rows]:
            raise JournalConflict(
                "frames to be set aside are not the last of their lane",
                journal=path,
                custody=custody,
            )
        base.executemany(
            "INSERT OR IGNORE INTO aside VALUES (?,?,?,?,?)",
            [(custody, digest, lane, seq, raw) for seq, digest, raw in rows],
        )
        (first,) = base.execute(
            "SELECT min(arrival) FROM frames WHERE custody = ? AND lane = ? AND seq >= ?",
            (custody, lane, rows[0][0]),
        ).fetchone()
        # Places of arrival have no holes, and a frame's checksum binds it to its own.
        stay = [
            one
            for one in _frames(path, base, custody, first - 1, None)
            if one.lane != lane or one.seq < rows[0][0]
        ]
        base.execute("DELETE FROM frames WHERE custody = ? AND arrival >= ?", (custody, first))
        base.executemany(
            "INSERT INTO frames VALUES (?,?,?,?,?,?,?,?)",
            [
                (
                    custody,
                    place,
                    one.lane,
                    one.seq,
                    one.digest,
                    one.raw,
                    int(one.sent),
                    frame_checksum(custody, place, one.lane, one.seq, one.digest, one.raw),
                )
                for place, one in enumerate(stay, first)
            ],
        )
        seq = rows[0][0] - 1
        before = base.execute(
            "SELECT digest FROM frames WHERE custody = ? AND lane = ? AND seq = ?",
            (custody, lane, seq),
        ).fetchone()
        heads = [held.heads.trader, held.heads.solver]
        heads[lane] = (seq, custody if before is None else bytes(before[0]))
        put_heads(
            base,
            custody,
            held.lane,
            held.standing,
            Heads(heads[0], heads[1]),
            held.frames - len(rows),
        )
        self._frames -= len(rows)

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
    """Open the journal for writing; alone. Verifies SQLite's own structure, all numbers and heads,
    and that no frame of the tally is gone. An older version's is brought up to this one.

    run_sync: where the disk's work runs; a thread unless a test on a mock clock says otherwise.

    Raises JournalLocked if any other process (or this one) writes it, by whatever path;
    JournalCorrupt naming what is missing, JournalOlder, JournalVersion, JournalUnwritable,
    JournalError if it is not there and `create` is False.
    Cancelled inside: writes that were queued are still committed, then it is closed.
    """
    path = without_links(path)
    with hold_journal(path, create) as lock:
        try:
            connection, identity = await run_sync(_connect, path, create, lock)
        except JournalCorrupt as bad:
            raise await run_sync(_told_what_is_missing, path, bad) from None
        with closing(connection):
            journal = Journal(path, connection, identity, lock, run_sync)
            async with open_block_nursery() as nursery:
                nursery.start_soon(_committer, journal)
                try:
                    yield journal
                finally:
                    journal._close()
            if journal._broken is None:
                with suppress(OSError):
                    journal._tally(journal._frames, closed=True)


async def _committer(journal: Journal) -> None:
    # Shielded: a write that was queued is committed even while everything is being cancelled;
    # _close() ends it.
    with trio.CancelScope(shield=True):
        await journal._commit_rounds()


class open_journal_reader:  # noqa: N801  (read as a function: `async with open_journal_reader(…)`)
    """Open a journal for reading beside its writer. Raises JournalCorrupt naming what is missing,
    JournalVersion. Cancelled: raises Cancelled, nothing changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    async def __aenter__(self) -> JournalReader:
        if not self._path.exists():
            raise JournalError("there is no journal here", path=self._path)
        try:
            self._connection = await trio.to_thread.run_sync(connect_reader, self._path)
        except JournalCorrupt as bad:
            told = await trio.to_thread.run_sync(_told_what_is_missing, self._path, bad)
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


# --- SQLite -----------------------------------------------------------------------------------


def without_links(path: Path) -> Path:
    """The file's own path: SQLite names the write-ahead log after it."""
    return path.resolve()


_held: set[tuple[int, int]] = set()
"""Journals that this process writes, by device and inode. Looked up before a file is opened: to
close any descriptor of a file drops the locks that SQLite holds on it in this process."""


@contextmanager
def hold_journal(path: Path, create: bool) -> Iterator[int]:
    """Be the only writer of the journal at `path`, a path without links; gives the descriptor of
    `<path>.lock`.

    The journal's own inode is locked, so that no other path to it and no missing lock file lets a
    second writer in. The kernel lets go when the process dies, however it dies.
    Raises JournalLocked, JournalUnwritable, JournalError where there is none and not `create`.
    """
    if not create and not path.exists():
        raise JournalError("there is no journal here", path=path)
    with ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if path.exists():
                _free_here(path)
            lock = _opened(held, path.with_name(path.name + ".lock"))
            _locked(path, lock)
            if not path.exists():
                _not_gone(path, lock)
            journal = _opened(held, path)
            _locked(path, journal)
            inode = _inode(os.fstat(journal))
            if os.fstat(journal).st_nlink != 1:
                # Each name would have a write-ahead log of its own.
                raise JournalError(
                    "the journal has more than one name (hard links); leave it one",
                    journal=path,
                    links=os.fstat(journal).st_nlink,
                )
        except OSError as failed:
            raise _named(path, failed) from None
        _held.add(inode)
        try:
            yield lock
        finally:
            _held.discard(inode)


def _opened(held: ExitStack, path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    held.callback(os.close, descriptor)
    return descriptor


def _locked(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalLocked(journal=path) from None


def _free_here(path: Path) -> None:
    if _inode(path.stat()) in _held:
        raise JournalLocked(journal=path)


def _inode(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _never_begun(base: sqlite3.Connection) -> bool:
    """Its process died while it made the file: there is one page, and nothing in it."""
    (pages,) = base.execute("PRAGMA page_count").fetchone()
    (tables,) = base.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return bool(pages <= 1 and tables == 0)


def _not_gone(path: Path, lock: int) -> None:
    """No journal is begun where one with frames has been: numbers would be used twice."""
    tally = read_tally(lock)
    if tally is not None and tally.frames:
        raise JournalOlder(
            "the journal is gone or empty, though its tally counts frames",
            journal=path,
            frames=tally.frames,
        )


def _in_place(path: Path, inode: tuple[int, int]) -> None:
    """The file at the path is the one that we write: else our frames go where nobody finds them."""
    try:
        there = _inode(path.stat())
    except FileNotFoundError:
        raise JournalReplaced(journal=path) from None
    if there != inode:
        raise JournalReplaced(journal=path)


def _connect(path: Path, create: bool, lock: int) -> tuple[sqlite3.Connection, JournalIdentity]:
    new = path.stat().st_size == 0
    if new and not create:
        raise JournalCorrupt("the journal is empty", journal=path)
    base = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        with _typed(path):
            new = new or (create and _never_begun(base))
            if new:
                _not_gone(path, lock)
            return base, _begin(path, base, new, lock)
    except OSError as failed:
        base.close()
        raise _named(path, failed) from None
    except BaseException:
        base.close()
        raise


def _begin(path: Path, base: sqlite3.Connection, new: bool, lock: int) -> JournalIdentity:
    """Make the tables of a new journal, or check those that are there."""
    if new:
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = FULL")
        base.execute("BEGIN IMMEDIATE")
        create_tables(base)
        base.execute(
            "INSERT INTO journal VALUES (?, ?, NULL, NULL, ?, NULL)",
            (VERSION, secrets.token_bytes(16), secrets.token_bytes(16)),
        )
        base.execute("COMMIT")
        sync_path(path.parent)
    base.execute("PRAGMA synchronous = FULL")
    base.execute("PRAGMA foreign_keys = ON")
    mode = base.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise JournalError("this file system cannot hold a WAL journal", journal=path, mode=mode)
    _migrate(path, base)
    identity = _check(path, base)
    tally = read_tally(lock)
    if tally is not None and tally.lineage == identity.lineage and identity.frames < tally.frames:
        raise JournalOlder(journal=path, held=identity.frames, were=tally.frames)
    ours = tally is not None and tally.lineage == identity.lineage
    doubtful = not new and (not ours or (tally is not None and tally.doubtful))
    # Synced once, so that a tally that says "closed in order" is none of an earlier life's.
    write_tally(lock, identity.lineage, identity.frames, doubtful=doubtful)
    os.fsync(lock)
    return replace(identity, doubtful=doubtful)


def create_tables(base: sqlite3.Connection) -> None:
    """An empty journal's tables, inside the transaction that stands."""
    for statement in _SCHEMA.split(";"):
        base.execute(statement)


def sync_path(path: Path) -> None:
    """Make a file, or the names in a directory, durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def connect_reader(path: Path) -> sqlite3.Connection:
    """A checked connection that only reads. Raises JournalCorrupt, JournalVersion, JournalError."""
    base = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        _check(path, base)
    except (sqlite3.Error, OSError) as failed:
        base.close()
        raise _named(path, failed) from None
    except BaseException:
        base.close()
        raise
    return base


def _told_what_is_missing(path: Path, bad: JournalCorrupt) -> JournalCorrupt:
    """The same error with all that the damage has taken."""
    from psymm.transcript.salvage import survey

    found = survey(path)
    values = {name: value for name, value in bad.values.items() if name != "missing"}
    if found.lost:
        values["lost_frames"] = found.lost
    return type(bad)(bad.detail, missing=found.missing, **values)


def _check(path: Path, base: sqlite3.Connection) -> JournalIdentity:
    """SQLite's own pages, our version, that no number is missing in any lane, and the heads."""
    with _typed(path), _one_moment(base):
        version = _version(path, base)
        if version != VERSION:
            raise JournalVersion(journal=path, version=version, known=VERSION)
        found = base.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise JournalCorrupt(str(found), journal=path)
        journal_id, lineage = base.execute("SELECT id, lineage FROM journal").fetchone()
        if not _is_bytes(journal_id, 16) or not _is_bytes(lineage, 16):
            raise JournalCorrupt("the journal's own row is damaged", journal=path)
        held = {row[0] for row in base.execute("SELECT custody FROM custodies")}
        kept = {row[0] for row in base.execute("SELECT custody FROM heads")}
        for custody in held ^ kept:
            lacks = "heads" if custody in held else "opening"
            raise JournalCorrupt(
                f"a custody's {lacks} are missing"
                if lacks == "heads"
                else "a custody's opening is missing",
                journal=path,
                missing=[Missing(bytes(custody), lacks)],
            )
        frames = sum(_check_custody(path, base, custody) for custody in sorted(held))
        (every,) = base.execute("SELECT count(*) FROM frames").fetchone()
        if every + sum(gone.arrivals for gone in pruning.all_pruned(base).values()) != frames:
            raise JournalCorrupt("there are frames of no custody", journal=path, frames=every)
        return JournalIdentity(journal_id, lineage, frames, _inode(path.stat()))


def _check_custody(path: Path, base: sqlite3.Connection, custody: bytes) -> int:
    """How many frames there are, as many as the heads say; pruned ones count."""
    kept, gone = _heads(path, base, custody), pruning.pruned_of(base, custody)
    held, highest = base.execute(
        "SELECT count(*), coalesce(max(arrival), 0) FROM frames WHERE custody = ?", (custody,)
    ).fetchone()
    for lane in (0, 1):
        seq, digest = kept.heads.of(lane)
        count, last = base.execute(
            "SELECT count(*), coalesce(max(seq), 0) FROM frames WHERE custody = ? AND lane = ?",
            (custody, lane),
        ).fetchone()
        if count + gone.seqs[lane] != seq or last != seq:
            raise JournalCorrupt(
                "frames are missing",
                journal=path,
                custody=custody,
                lane=lane,
                held=count,
                head=seq,
            )
        row = base.execute(
            "SELECT digest FROM frames WHERE custody = ? AND lane = ? AND seq = ?",
            (custody, lane, seq),
        ).fetchone()
        if (custody if row is None else row[0]) != digest:
            raise JournalCorrupt(
                "the last frame is not the one that the heads name",
                journal=path,
                custody=custody,
                lane=lane,
                seq=seq,
            )
    every = kept.heads.trader[0] + kept.heads.solver[0]
    if not held + gone.arrivals == highest == kept.frames == every:
        raise JournalCorrupt(
            "frames are missing", journal=path, custody=custody, stated=kept.frames, held=held
        )
    return kept.frames


def _version(path: Path, base: sqlite3.Connection) -> int:
    row = base.execute("SELECT version FROM journal").fetchall()
    if len(row) != 1 or not isinstance(row[0][0], int):
        raise JournalCorrupt("the journal's own row is missing", journal=path)
    return int(row[0][0])


@contextmanager
def _one_moment(base: sqlite3.Connection) -> Iterator[None]:
    """Everything read inside is of one moment, whatever the writer does meanwhile."""
    base.execute("BEGIN")
    try:
        yield
    finally:
        with suppress(sqlite3.Error):
            base.execute("ROLLBACK")


# --- older versions -----------------------------------------------------------------------------


def _migrate(path: Path, base: sqlite3.Connection) -> None:
    """Bring an older journal up to this version, in one transaction or not at all."""
    with _typed(path):
        version = _version(path, base)
        while version in _MIGRATIONS:
            base.execute("BEGIN IMMEDIATE")
            try:
                _MIGRATIONS[version](path, base)
                base.execute("UPDATE journal SET version = ?", (version + 1,))
                base.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    base.execute("ROLLBACK")
                raise
            version += 1


def _from_version_1(path: Path, base: sqlite3.Connection) -> None:
    """Heads and checksums are added; what they are made from was all that there was to check."""
    found = base.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise JournalCorrupt(str(found), journal=path)
    base.execute("ALTER TABLE journal ADD COLUMN lineage BLOB NOT NULL DEFAULT x''")
    base.execute("ALTER TABLE journal ADD COLUMN backup_ns INTEGER")
    base.execute("UPDATE journal SET lineage = ?", (secrets.token_bytes(16),))
    base.execute("ALTER TABLE frames ADD COLUMN checksum BLOB NOT NULL DEFAULT x''")
    known = {name for (name,) in base.execute("SELECT name FROM sqlite_master")}
    for statement in _SCHEMA.split(";"):
        words = statement.split()
        if words[:2] == ["CREATE", "TABLE"] and words[2] not in known:
            base.execute(statement)
    for custody, lane, stated in base.execute(
        "SELECT custody, lane, frames FROM custodies"
    ).fetchall():
        heads: list[tuple[int, bytes]] = [(0, custody), (0, custody)]
        held = 0
        for arrival, of, seq, digest, raw in base.execute(
            "SELECT arrival, lane, seq, digest, raw FROM frames WHERE custody = ? ORDER BY arrival",
            (custody,),
        ).fetchall():
            held += 1
            if arrival != held or of not in (0, 1) or seq != heads[of][0] + 1:
                raise JournalCorrupt(
                    "frames are missing",
                    journal=path,
                    custody=custody,
                    missing=[Missing(custody, "frames", of, heads[of][0] + 1, seq - 1)],
                )
            if not _is_frame(custody, of, seq, raw):
                raise JournalCorrupt(
                    "a frame in the journal is not the one it was",
                    journal=path,
                    custody=custody,
                    missing=[Missing(custody, "frames", of, seq, seq)],
                )
            heads[of] = (seq, digest)
            base.execute(
                "UPDATE frames SET checksum = ? WHERE custody = ? AND arrival = ?",
                (frame_checksum(custody, arrival, of, seq, digest, raw), custody, arrival),
            )
        if held != stated:
            raise JournalCorrupt(
                "frames are missing", journal=path, custody=custody, stated=stated, held=held
            )
        put_heads(base, custody, lane, "whole", Heads(heads[0], heads[1]), held)
    base.execute("ALTER TABLE custodies DROP COLUMN frames")


_MIGRATIONS: Final[dict[int, Callable[[Path, sqlite3.Connection], None]]] = {1: _from_version_1}


# --- rows ---------------------------------------------------------------------------------------


def _guarded(path: Path, work: Callable[[sqlite3.Connection], T], base: sqlite3.Connection) -> T:
    with _typed(path):
        return work(base)


@contextmanager
def _typed(path: Path) -> Iterator[None]:
    """Whatever damage makes of a row on its way to us has a name."""
    try:
        yield
    except sqlite3.Error as failed:
        raise _named(path, failed) from None
    except (TypeError, ValueError, OverflowError, IndexError, BadOpening) as damaged:
        raise JournalCorrupt(
            f"a row is not what was written there ({type(damaged).__name__})", journal=path
        ) from None


_UNWRITABLE: Final = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the journal is read-only",
    sqlite3.SQLITE_IOERR: "the disk reports an error",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
    sqlite3.SQLITE_PERM: "the file may not be opened",
    sqlite3.SQLITE_NOMEM: "there is no memory left",
}


def _named(path: Path, failed: sqlite3.Error | OSError | UnicodeDecodeError) -> JournalError:
    if isinstance(failed, UnicodeDecodeError):
        # SQLite's words for what is wrong quote the damage.
        return JournalCorrupt("the file is damaged", journal=path)
    if isinstance(failed, OSError):
        why = failed.strerror or type(failed).__name__
        return JournalUnwritable(f"the disk refuses: {why}", journal=path)
    code = getattr(failed, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return JournalLocked(journal=path)
    if code == sqlite3.SQLITE_IOERR_SHORT_READ:
        return JournalCorrupt("the file is cut off", journal=path)
    if code & 0xFF in _UNWRITABLE:
        return JournalUnwritable(f"{_UNWRITABLE[code & 0xFF]} ({failed})", journal=path)
    return JournalCorrupt(f"the file is damaged ({failed})", journal=path)


def _nothing(base: sqlite3.Connection) -> None:
    """What only waits for its turn."""


@dataclass(frozen=True, slots=True)
class _HeldHeads:
    """A row of `heads`. lane: ours."""

    custody: bytes
    lane: int
    standing: Standing
    heads: Heads
    frames: int = 0


def frame_checksum(
    custody: bytes, arrival: int, lane: int, seq: int, digest: bytes, raw: bytes
) -> bytes:
    """Binds a frame's bytes to its place, against damage; against forgery it has its signature."""
    place = custody + arrival.to_bytes(8) + bytes([lane]) + seq.to_bytes(8) + digest
    return blake2b(place + raw, digest_size=8).digest()


def _heads_checksum(held: _HeldHeads) -> bytes:
    body = b"".join(
        (
            held.custody,
            bytes([held.lane]),
            held.standing.encode(),
            held.frames.to_bytes(8),
            *(seq.to_bytes(8) + digest for seq, digest in (held.heads.trader, held.heads.solver)),
        )
    )
    return blake2b(body, digest_size=8).digest()


def put_heads(
    base: sqlite3.Connection,
    custody: bytes,
    lane: int,
    standing: Standing,
    heads: Heads,
    frames: int,
) -> None:
    """Write a custody's row of `heads`. lane: ours."""
    held = _HeldHeads(custody, lane, standing, heads, frames)
    base.execute(
        "INSERT OR REPLACE INTO heads VALUES (?,?,?,?,?,?,?,?,?)",
        (custody, lane, standing, frames, *heads.trader, *heads.solver, _heads_checksum(held)),
    )


def read_heads(row: Sequence[Any]) -> _HeldHeads | None:
    """A row of `heads` as it was written, or None where it is damaged."""
    custody, lane, standing, frames, trader_seq, trader_digest, solver_seq, solver_digest, kept = (
        row
    )
    try:
        if not all(_is_bytes(one, 32) for one in (custody, trader_digest, solver_digest)):
            return None
        held = _HeldHeads(
            custody,
            lane,
            standing,
            Heads((trader_seq, trader_digest), (solver_seq, solver_digest)),
            frames,
        )
        intact = standing in get_args(Standing) and _heads_checksum(held) == kept
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return held if intact else None


def _heads(path: Path, base: sqlite3.Connection, custody: bytes) -> _HeldHeads:
    row = base.execute("SELECT * FROM heads WHERE custody = ?", (custody,)).fetchone()
    if row is None:
        raise UnknownCustody(custody=custody, journal=path)
    held = read_heads(row)
    if held is None or held.custody != custody:
        raise JournalCorrupt(
            "a custody's heads are damaged", journal=path, missing=[Missing(custody, "heads")]
        )
    return held


def _mending(base: sqlite3.Connection, custody: bytes) -> Heads | None:
    row = base.execute("SELECT * FROM mending WHERE custody = ?", (custody,)).fetchone()
    return None if row is None else Heads((row[1], row[2]), (row[3], row[4]))


def _set_standing(path: Path, base: sqlite3.Connection, custody: bytes, standing: Standing) -> None:
    held = _heads(path, base, custody)
    if held.standing == "restored" and standing != "restored":
        raise JournalRestored(journal=path, custody=custody)
    newest = _mending(base, custody)
    if standing == "whole" and newest is not None:
        for lane in (0, 1):
            seq, digest = newest.of(lane)
            row = base.execute(
                "SELECT digest FROM frames WHERE custody = ? AND lane = ? AND seq = ?",
                (custody, lane, seq),
            ).fetchone()
            if (custody if seq == 0 else row and row[0]) != digest:
                reached = held.heads.of(lane)[0]
                raise JournalCorrupt(
                    "frames are still missing",
                    journal=path,
                    missing=[Missing(custody, "frames", lane, reached + 1, seq)],
                )
    if standing != "mending":
        base.execute("DELETE FROM mending WHERE custody = ?", (custody,))
    if standing == "whole":
        base.execute("DELETE FROM salvaged WHERE custody = ?", (custody,))
    put_heads(base, custody, held.lane, standing, held.heads, held.frames)


def _is_bytes(value: object, length: int) -> bool:
    return isinstance(value, bytes) and len(value) == length


def _is_frame(custody: bytes, lane: int, seq: int, raw: object) -> bool:
    try:
        frame = Frame.parse(raw) if isinstance(raw, bytes) else None
    except FrameError:
        return False
    return (
        frame is not None
        and len(frame.raw) == len(raw)  # type: ignore[arg-type]
        and (frame.custody, frame.lane, frame.seq) == (custody, lane, seq)
    )


def _custody_rows(
    base: sqlite3.Connection, custody: bytes | None = None
) -> list[tuple[object, ...]]:
    columns = (
        "SELECT chain_id, contract, trader, solver, terms, salt, c.lane, endpoint, meeting, state,"
        " reason, c.custody, h.* FROM custodies c LEFT JOIN heads h ON h.custody = c.custody"
    )
    if custody is None:
        return base.execute(columns + " ORDER BY opened_ns, c.custody").fetchall()
    return base.execute(columns + " WHERE c.custody = ?", (custody,)).fetchall()


def _custody(row: tuple[object, ...]) -> Custody:
    chain_id, contract, trader, solver, terms, salt = row[:6]
    lane, endpoint, meeting, state, reason, key = row[6:12]
    opening = Opening(chain_id, contract, trader, solver, terms, salt)  # type: ignore[arg-type]
    if opening.custody != key:
        raise JournalCorrupt(
            "an opening does not give its custody id",
            missing=[Missing(key, "opening")] if isinstance(key, bytes) else [],
        )
    heads = read_heads(row[12:])
    if heads is None or heads.custody != key:
        raise JournalCorrupt(
            "a custody's heads are damaged", missing=[Missing(opening.custody, "heads")]
        )
    intact = (
        lane == heads.lane
        and _is_bytes(meeting, 64)
        and isinstance(endpoint, str)
        and isinstance(reason, str)
        and state in get_args(CustodyState)
    )
    if not intact:
        raise JournalCorrupt(
            "a custody's row is damaged", missing=[Missing(opening.custody, "opening")]
        )
    nonce: bytes = meeting  # type: ignore[assignment]
    return Custody(
        opening=opening,
        lane=heads.lane,
        endpoint=endpoint,  # type: ignore[arg-type]
        nonce=nonce[:32],
        ours=int.from_bytes(nonce[32:48]),
        promised=int.from_bytes(nonce[48:]),
        state=state,  # type: ignore[arg-type]
        reason=reason,  # type: ignore[arg-type]
        frames=heads.frames,
        standing=heads.standing,
    )


def _frames(
    path: Path, base: sqlite3.Connection, custody: bytes, after: int, at_most: int | None
) -> list[JournalledFrame]:
    frames = [
        _journalled(path, custody, row)
        for row in base.execute(
            "SELECT arrival, lane, seq, digest, raw, sent, checksum FROM frames"
            " WHERE custody = ? AND arrival > ? ORDER BY arrival LIMIT ?",
            (custody, after, -1 if at_most is None else at_most),
        )
    ]
    gone = pruning.pruned_of(base, custody).arrivals
    for place, frame in enumerate(frames, max(after, gone) + 1):
        if frame.arrival != place:
            raise JournalCorrupt("a frame is missing", journal=path, custody=custody, place=place)
    return frames


def _opening_rows(base: sqlite3.Connection, custody: bytes) -> list[tuple[bytes, int, bytes]]:
    return base.execute(
        "SELECT commitment, lane, sealed FROM openings WHERE custody = ?", (custody,)
    ).fetchall()


def _unsealed_openings(
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


def _journalled(path: Path, custody: bytes, row: Sequence[Any]) -> JournalledFrame:
    frame = read_frame(custody, row)
    if frame is None:
        lane, seq = row[1], row[2]
        raise JournalCorrupt(
            "a frame in the journal is not the one it was",
            journal=path,
            custody=custody,
            lane=lane,
            seq=seq,
            missing=[Missing(custody, "frames", lane, seq, seq)],
        )
    return frame


def read_frame(custody: bytes, row: Sequence[Any]) -> JournalledFrame | None:
    """A row of `frames` as it was written, or None where it is damaged.

    row: arrival, lane, seq, digest, raw, sent, checksum.
    """
    arrival, lane, seq, digest, raw, sent, kept = row
    try:
        intact = (
            lane in (0, 1)
            and sent in (0, 1)
            and frame_checksum(custody, arrival, lane, seq, digest, raw) == bytes(kept)
        )
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return JournalledFrame(arrival, lane, seq, digest, raw, bool(sent)) if intact else None


def _sealed(seal: AESGCM, bound_to: bytes, plain: bytes) -> bytes:
    nonce = secrets.token_bytes(12)
    return nonce + seal.encrypt(nonce, plain, bound_to)


def _unsealed(seal: AESGCM, bound_to: bytes, sealed: bytes) -> bytes:
    return seal.decrypt(sealed[:12], sealed[12:], bound_to)
