"""The journal: every custody's frames on disk before they are sent.

SQLite in WAL mode with full synchronisation, one writer. A process killed at any instant reopens
with the same heads, knows which frames it had signed but not sent, and can never sign a second
frame with one (custody, lane, seq). Writes of one scheduling round share one commit; a write is
durable when the awaiting call returns.

Secrets (session keys, note openings) are sealed with AES-256-GCM under a key that only the wallet
can derive. Without it the journal still verifies, exports and can be shown.

What is kept is kept so that its loss is seen and named: the heads of every custody stand apart
from its frames, each frame has a checksum that binds it to its place, and the high-water mark
beside the file knows how many frames there were (`psymm.journal.high_water_mark`).

Whether a custody may sign (its `Health`) is decided here, whatever is above: a journal that is a
backup, or that was repaired without its newest heads, gives no session key and takes no frame of
our own but those that the peer shows.

Here is its writer. Its file is opened and checked in `psymm.journal.connection`, its tables
stand in `schema`, and it is read by `reader`.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final, TypeVar

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
    JournalReplaced,
    JournalRestored,
    JournalSealed,
    KnownCustody,
)
from psymm.histogram import Counts, Histogram
from psymm.journal import outbox, retention
from psymm.journal.codec import (
    CustodyState,
    JournalledFrame,
    custody_row,
    custody_rows,
    drop_custody,
    frame_checksum,
    frames_of,
    insert_custody,
    is_strangers,
    update_introduction,
    update_state,
)
from psymm.journal.connection import (
    JournalIdentity,
    connect_writer,
    hold_journal,
    inode_of,
    without_links,
)
from psymm.journal.encryption import (
    decrypted_openings,
    decrypted_under,
    encrypted_openings,
    encrypted_under,
    opening_rows,
)
from psymm.journal.faults import JournalFailure, as_journal_error
from psymm.journal.heads import HeldHeads, frame_digest, heads_of, update_health, upsert_heads
from psymm.journal.high_water_mark import write_high_water_mark
from psymm.journal.reader import JournalReader, told_what_is_missing
from psymm.journal.retention import Pruned
from psymm.nursery import open_block_nursery
from psymm.storage import StorageError
from psymm.transcript.agreement import CustodyAgreement, JournalledOpening
from psymm.transcript.checkpoint import Point
from psymm.transcript.delegation import JournalledRevocation
from psymm.transcript.heads import Heads, Health
from psymm.transcript.introduction import SignedIntroduction

T = TypeVar("T")

log = logging.getLogger(__name__)

QUICK_COMMIT_S: Final = 0.001
"""A disk that commits within this is waited for where we are."""
GROUP: Final = 8
"""Writes that may wait for a quick disk before whoever would add to them lets them go first; more
where the disk is slow."""
COMMIT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
COMMIT_WRITES: Final = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Buckets of the statistics."""


Durable = Callable[[JournalFailure | None], None]
"""Called in the event loop when a write is durable, or with why it never will be. Must not block
and not raise."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something to be written, made by a `to_…` of the journal and given to `write`."""

    work: Callable[[sqlite3.Connection], object]
    light: bool = False
    """Short enough for the event loop's own thread, and keeps heads by `Journal._append`."""


@dataclass(slots=True)
class _Write:
    """Changes that are made together or not at all."""

    changes: Sequence[Change]
    then: Durable
    light: bool
    failed: JournalFailure | None = None


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
        # Heads as they are after what was written, so that a round of many frames reads and writes
        # them once; `_moved`: those that the file has yet to be told.
        self._heads: dict[bytes, HeldHeads] = {}
        self._moved: set[bytes] = set()
        self._behind = trio.lowlevel.ParkingLot()
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
        self._broken: JournalFailure | None = None

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
            check = encrypted_under(seal, self.id, b"pSymm journal")
            await self._write(
                lambda base: base.execute(
                    "UPDATE journal SET owner = ?, seal_check = ?", (owner, check)
                )
            )
        elif row[0] != owner:
            raise JournalForeign(journal=self.path, owner=row[0], wallet=owner)
        else:
            try:
                decrypted_under(seal, self.id, row[1])
            except InvalidTag:
                raise JournalForeign(
                    "the wallet's secret does not open this journal", journal=self.path
                ) from None
        self._seal = seal

    @property
    def unlocked(self) -> bool:
        return self._seal is not None

    def _encryption(self) -> AESGCM:
        if self._seal is None:
            raise JournalSealed(journal=self.path)
        return self._seal

    # --- writes -----------------------------------------------------------------------------

    async def open_custody(
        self,
        agreement: CustodyAgreement,
        lane: int,
        now_ns: int,
        *,
        endpoint: str = "",
        nonce: bytes = bytes(32),
        ours: int = 0,
        announced_collateral: int = 0,
        introduction: SignedIntroduction | None = None,
    ) -> None:
        """Remember a new custody, state `handshake`; `lane` is ours. introduction: what the solver
        signed, where we are the trader.

        Raises KnownCustody for an id ever seen before. Cancelled: it may or may not be kept.
        """
        if not await self._unknown(agreement.custody):
            raise KnownCustody(custody=agreement.custody)
        row = custody_row(
            agreement,
            lane,
            "handshake",
            endpoint=endpoint,
            handshake=nonce
            + ours.to_bytes(16)
            + announced_collateral.to_bytes(16)
            + (b"" if introduction is None else introduction.to_bytes()),
            opened_ns=now_ns,
        )
        nothing = (0, agreement.custody)

        def work(base: sqlite3.Connection) -> None:
            insert_custody(base, row)
            upsert_heads(
                base, HeldHeads(agreement.custody, lane, "complete", Heads(nothing, nothing))
            )

        await self._write(work)

    async def keep_introduction(self, custody: bytes, introduction: SignedIntroduction) -> None:
        """Keep what the solver signed now that it is met again, in place of what was kept.
        Cancelled: it may or may not be kept."""
        await self._write(lambda base: update_introduction(base, custody, introduction))

    async def set_state(self, custody: bytes, state: CustodyState, reason: str = "") -> None:
        """Change a custody's state. Cancelled: it may or may not be kept."""
        await self.write(self.to_set_state(custody, state, reason))

    def to_set_state(self, custody: bytes, state: CustodyState, reason: str = "") -> Change:
        """See `set_state`."""
        return Change(lambda base: update_state(base, custody, state, reason))

    async def append(self, entries: Sequence[tuple[Frame, bytes]], *, ours: int) -> None:
        """Make frames of one custody durable, in this order of arrival.

        entries: (frame, its digest); those of lane `ours` count as unsent. Returns once they are
        on disk. Raises JournalConflict if one is not the next of its lane (none is kept then),
        JournalRestored for a frame of ours where the custody must not sign, StorageError if
        the disk refuses (nothing more can be written; reopen).
        Cancelled: raises Cancelled, all of them or none are kept, and the order of arrival holds
        for those that call later.
        """
        if entries:
            await self.write(self.to_append(entries, ours=ours))

    def to_append(self, entries: Sequence[tuple[Frame, bytes]], *, ours: int) -> Change:
        """See `append`; of at least one entry."""
        rows = [
            (frame.custody, frame.lane, frame.seq, digest, frame.raw, int(frame.lane != ours))
            for frame, digest in entries
        ]
        return Change(lambda base: self._append(base, rows[0][0], rows, shown=False), light=True)

    async def write(self, *changes: Change) -> None:
        """Make changes together; returns once they are durable.

        Raises what each says, and StorageError where the disk refuses; then none of them is made.
        Cancelled: raises Cancelled, all of them are made or none.
        """
        await self._until_durable(lambda then: self.write_soon(changes, then))

    def write_soon(self, changes: Sequence[Change], then: Durable) -> None:
        """`write` for a caller that does not wait: returns at once and calls `then` once the
        changes are durable, or with the error that `write` would raise.

        Calls of `then` come in the order of these calls; without changes it is called in its turn.
        """
        self._queue(_Write(changes, then, all(change.light for change in changes)))

    def to_restore(self, entries: Sequence[tuple[Frame, bytes]]) -> Change:
        """Frames of one custody, at least one, that the peer or a file shows and this journal
        lacks, verified by the caller; ours count as sent. Writing it raises JournalConflict, and
        where the custody is whole: then nothing is lacking."""
        rows = [
            (frame.custody, frame.lane, frame.seq, digest, frame.raw, 1)
            for frame, digest in entries
        ]
        return Change(lambda base: self._append(base, rows[0][0], rows, shown=True))

    async def set_health(self, custody: bytes, health: Health) -> None:
        """A custody being repaired is whole, or it turns out that it cannot be.

        Raises JournalRestored if a restored one is to sign again, JournalCorrupt if frames up to
        the newest heads are still missing. Cancelled: it may or may not be kept.
        """
        await self.write(self.to_set_health(custody, health))

    def to_set_health(self, custody: bytes, health: Health) -> Change:
        """See `set_health`."""
        return Change(lambda base: update_health(self.path, base, custody, health))

    async def revoke_frames(
        self, custody: bytes, lane: int, entries: Sequence[tuple[Frame, bytes]]
    ) -> None:
        """Take frames off a custody's record, the lane's last ones, and keep them as evidence.

        entries: (frame, digest), in order. Raises JournalConflict where they are not the lane's
        last; then nothing has changed. Cancelled: all of them are off or none.
        """
        if entries:
            await self.write(self.to_revoke_frames(custody, lane, entries))

    def to_revoke_frames(
        self, custody: bytes, lane: int, entries: Sequence[tuple[Frame, bytes]]
    ) -> Change:
        """See `revoke_frames`; of at least one entry."""
        rows = [(frame.seq, digest, frame.raw) for frame, digest in entries]
        return Change(lambda base: self._revoke_frames(base, custody, lane, rows))

    def to_keep_revocations(
        self, custody: bytes, revoked: Sequence[JournalledRevocation]
    ) -> Change:
        """Keep which session keys are revoked, in place of what was kept."""
        rows = [(custody, one.lane, one.key, one.from_seq, one.cut) for one in revoked]

        def work(base: sqlite3.Connection) -> None:
            base.execute("DELETE FROM revocations WHERE custody = ?", (custody,))
            base.executemany("INSERT INTO revocations VALUES (?,?,?,?,?)", rows)

        return Change(work)

    async def keep_fact(self, custody: bytes, fact: str) -> None:
        """Keep what the chain was seen to have done, as JSON. Cancelled: may be kept or not."""
        await self.write(self.to_keep_fact(custody, fact))

    def to_keep_fact(self, custody: bytes, fact: str) -> Change:
        """See `keep_fact`."""
        return Change(
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
        await self.write(self.to_keep_checkpoint(custody, point, account))

    def to_keep_checkpoint(
        self, custody: bytes, point: Point, account: Callable[[], bytes]
    ) -> Change:
        """See `keep_checkpoint`."""
        return Change(lambda base: retention.keep(base, custody, point, account()))

    async def remove_frames(
        self, custody: bytes, gone: Pruned, retained: Sequence[JournalledFrame]
    ) -> None:
        """Remove all frames that `gone` counts; `retained` are those of them that stay known.
        Cancelled: all are removed or none."""
        rows = [(one.arrival, one.lane, one.seq, one.digest, one.raw) for one in retained]
        await self._write(lambda base: retention.remove(base, custody, gone, rows))

    async def forget_stranger(self, custody: bytes) -> bool:
        """Forget a custody of which only its trader spoke: ours is the solver's lane, and no note
        of either side is known to be in it (`spec.md` 68). False where that is not so; nothing has
        changed then. Cancelled: it may or may not be forgotten."""
        forgotten: list[bool] = []

        def work(base: sqlite3.Connection) -> None:
            forgotten[:] = [is_strangers(base, custody)]
            if forgotten[0]:
                self._frames -= drop_custody(base, custody)
                self._marked = {key: seq for key, seq in self._marked.items() if key[0] != custody}

        await self._write(work)
        return forgotten[0]

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

    def mark_sent(self, custody: bytes, lane: int, seq: int, *, soon: bool = False) -> None:
        """Our frames up to `seq` have been handed to the socket.

        Returns at once and rides with the next commit (soon: with one of its own, if need be): a
        frame whose mark is lost is sent again, byte for byte, which harms nobody.
        """
        self._sent[custody, lane] = seq
        if soon:
            self._wake.set()

    async def return_to_outbox(self, custody: bytes, lane: int, after: int) -> None:
        """Our frames after number `after` count as unsent again: the custody has ended, and its
        peer is not known to have them. Cancelled: they may or may not be marked."""
        await self.write(self.to_return_to_outbox(custody, lane, after))

    def to_return_to_outbox(self, custody: bytes, lane: int, after: int) -> Change:
        """See `return_to_outbox`."""

        def work(base: sqlite3.Connection) -> None:
            outbox.unmark(base, custody, lane, after)
            self._marked[custody, lane] = min(self._marked.get((custody, lane), 0), after)

        self._sent.pop((custody, lane), None)
        return Change(work)

    def to_keep_evidence(
        self, custody: bytes, lane: int, first: bytes | int, second: bytes
    ) -> Change:
        """Keep two frames of a lane, raw, that prove its signer wrong.

        first: its number instead, where a checkpoint compacted it; where it was pruned, the pair
        is not kept: only an archive can prove it.
        """

        def work(base: sqlite3.Connection) -> None:
            raw = first
            if isinstance(raw, int):
                row = base.execute(
                    "SELECT raw FROM frames WHERE custody = ? AND lane = ? AND seq = ?",
                    (custody, lane, raw),
                ).fetchone()
                if row is None:
                    return
                raw = bytes(row[0])
            base.execute(
                "INSERT OR IGNORE INTO equivocations VALUES (?,?,?,?,?)",
                (custody, lane, Frame.parse(raw).seq, raw, second),
            )

        return Change(work)

    async def keep_session_key(self, custody: bytes, from_seq: int, key: SecretKey) -> None:
        """Keep our session key, sealed, under a place of its own: the seq from which on it may
        come into force. Raises JournalSealed, JournalConflict where another has that place.
        Cancelled: may be kept or not."""
        sealed = encrypted_under(
            self._encryption(), custody + from_seq.to_bytes(8), key.expose_secret_bytes()
        )
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
        if (await self.custody(custody)).health == "read-only":
            raise JournalRestored(journal=self.path, custody=custody)
        seal = self._encryption()
        rows = await self._read(
            lambda base: base.execute(
                "SELECT from_seq, sealed FROM session_keys WHERE custody = ? ORDER BY from_seq",
                (custody,),
            ).fetchall()
        )
        try:
            return [
                (
                    seq,
                    SecretKey.from_bytes(decrypted_under(seal, custody + seq.to_bytes(8), sealed)),
                )
                for seq, sealed in rows
            ]
        except InvalidTag:
            raise JournalCorrupt(
                "a sealed session key does not open", journal=self.path, custody=custody
            ) from None

    async def keep_openings(self, custody: bytes, notes: Sequence[JournalledOpening]) -> None:
        """Keep openings of notes in a bilateral custody, sealed. Raises JournalSealed.
        Cancelled: all kept or none."""
        await self.write(self.to_keep_openings(custody, notes))

    def to_keep_openings(self, custody: bytes, notes: Sequence[JournalledOpening]) -> Change:
        """See `keep_openings`."""
        rows = encrypted_openings(self._encryption(), custody, notes)
        return Change(
            lambda base: base.executemany("INSERT OR REPLACE INTO openings VALUES (?,?,?,?)", rows)
        )

    async def openings(self, custody: bytes) -> list[JournalledOpening]:
        """Openings kept for this custody. Raises JournalSealed, JournalCorrupt."""
        seal = self._encryption()
        rows = await self._read(lambda base: opening_rows(base, custody))
        try:
            return decrypted_openings(seal, custody, rows)
        except InvalidTag:
            raise JournalCorrupt(
                "a sealed opening does not open", journal=self.path, custody=custody
            ) from None

    async def keep_settlement(
        self, custody: bytes, digest: bytes, state: str, document: bytes
    ) -> None:
        """Keep a settlement under way and its state; document is sealed, it holds what proving
        needs. Cancelled: may be kept or not."""
        sealed = encrypted_under(self._encryption(), custody + digest, document)
        await self._write(
            lambda base: base.execute(
                "INSERT OR REPLACE INTO settlements VALUES (?,?,?,?)",
                (custody, digest, state, sealed),
            )
        )

    async def settlements(self, custody: bytes) -> list[tuple[bytes, str, bytes]]:
        """(digest, state, document) of settlements kept. Raises JournalSealed, JournalCorrupt."""
        seal = self._encryption()
        rows = await self._read(
            lambda base: base.execute(
                "SELECT digest, state, sealed FROM settlements WHERE custody = ?", (custody,)
            ).fetchall()
        )
        try:
            return [
                (digest, state, decrypted_under(seal, custody + digest, sealed))
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
        return not await self._read(lambda base: custody_rows(base, custody))

    async def _write(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Queue a write; return when a commit has made it durable."""
        await self.write(Change(work))

    async def _until_durable(self, queue: Callable[[Durable], None]) -> None:
        durable, failed = trio.Event(), list[JournalFailure]()

        def then(error: JournalFailure | None) -> None:
            if error is not None:
                failed.append(error)
            durable.set()

        queue(then)
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
        for change in write.changes:
            if not change.light:
                # It may read and write heads by itself.
                self._put_moved_heads(base)
                self._forget_heads()
            change.work(base)

    def _put_moved_heads(self, base: sqlite3.Connection) -> None:
        for custody in self._moved:
            upsert_heads(base, self._heads[custody])
        self._moved.clear()

    def _forget_heads(self) -> None:
        self._heads.clear()
        self._moved.clear()

    def _finish(self, batch: Sequence[_Write]) -> None:
        """Commit what was gathered, the high-water mark around it: before anyone is told, and so
        before anything is sent."""
        began = perf_counter()
        before, now = self._counted, self._frames
        try:
            if now != before:
                self._write_high_water_mark(min(before, now), most=max(before, now))
            self._connection.execute("COMMIT")
            if now != before:
                self._write_high_water_mark(now)
        except _FAILURES as failed:
            self._break(batch, failed)
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

    def _write_high_water_mark(
        self, frames: int, *, most: int | None = None, closed: bool = False
    ) -> None:
        known = self._identity
        write_high_water_mark(
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
        held = self._heads.get(custody) or heads_of(self.path, base, custody)
        if shown and held.health == "complete":
            raise JournalConflict("this custody lacks no frames", journal=self.path)
        heads, ends = [held.heads.trader, held.heads.solver], held.frames
        for row in rows:
            lane, seq, digest, raw = row[1:5]
            if not shown and lane == held.lane and held.health != "complete":
                raise JournalRestored(journal=self.path, custody=custody)
            if row[0] != custody or seq != heads[lane][0] + 1:
                raise JournalConflict(journal=self.path, custody=custody, lane=lane, seq=seq)
            ends += 1
            base.execute(
                "INSERT INTO frames VALUES (?,?,?,?,?,?,?,?)",
                (custody, ends, *row[1:], frame_checksum(custody, ends, lane, seq, digest, raw)),
            )
            heads[lane] = (seq, digest)
        self._heads[custody] = HeldHeads(
            custody, held.lane, held.health, Heads(heads[0], heads[1]), ends
        )
        self._moved.add(custody)
        self._frames += len(rows)

    def _revoke_frames(
        self,
        base: sqlite3.Connection,
        custody: bytes,
        lane: int,
        rows: Sequence[tuple[int, bytes, bytes]],
    ) -> None:
        path, held = self.path, heads_of(self.path, base, custody)
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
                "frames to be taken off the record are not the last of their lane",
                journal=path,
                custody=custody,
            )
        base.executemany(
            "INSERT OR IGNORE INTO revoked_frames VALUES (?,?,?,?,?)",
            [(custody, digest, lane, seq, raw) for seq, digest, raw in rows],
        )
        (first,) = base.execute(
            "SELECT min(arrival) FROM frames WHERE custody = ? AND lane = ? AND seq >= ?",
            (custody, lane, rows[0][0]),
        ).fetchone()
        # Places of arrival have no holes, and a frame's checksum binds it to its own.
        stay = [
            one
            for one in frames_of(path, base, custody, first - 1, None)
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
        before = frame_digest(base, custody, lane, seq)
        heads = [held.heads.trader, held.heads.solver]
        heads[lane] = (seq, custody if before is None else before)
        left = held.frames - len(rows)
        upsert_heads(base, replace(held, heads=Heads(heads[0], heads[1]), frames=left))
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
    and that no frame of the high-water mark is gone. An older version's is brought up to this one.

    run_sync: where the disk's work runs; a thread unless a test on a mock clock says otherwise.

    Raises JournalLocked if any other process (or this one) writes it, by whatever path;
    JournalCorrupt naming what is missing, JournalOlder, JournalVersion, StorageError,
    JournalError if it is not there and `create` is False.
    Cancelled inside: writes that were queued are still committed, then it is closed.
    """
    path = without_links(path)
    with hold_journal(path, create) as lock:
        try:
            connection, identity = await run_sync(connect_writer, path, create, lock)
        except JournalCorrupt as bad:
            raise await run_sync(told_what_is_missing, path, bad) from None
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
                    journal._write_high_water_mark(journal._frames, closed=True)


async def _committer(journal: Journal) -> None:
    # Shielded: a write that was queued is committed even while everything is being cancelled;
    # _close() ends it.
    with trio.CancelScope(shield=True):
        await journal._commit_rounds()


def _in_place(path: Path, inode: tuple[int, int]) -> None:
    """The file at the path is the one that we write: else our frames go where nobody finds them."""
    try:
        there = inode_of(path.stat())
    except FileNotFoundError:
        raise JournalReplaced(journal=path) from None
    if there != inode:
        raise JournalReplaced(journal=path)
