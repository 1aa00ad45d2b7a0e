"""The journal's one writer: what can be written.

The journal itself enforces whether a custody may sign (its `Health`), independently of the session.
A backup, or a journal repaired without its newest heads, gives out no session key. It accepts no
frame of our own lane except those that the peer shows.

Each `to_…` method makes a `Change`. Changes passed to one `write` are made together, or not at all.
So what must not be separated by a crash goes into one `write`: a frame with the opening that it
relies on, a revocation with the frames that it removes. `committer` makes writes durable;
`secret_store` encrypts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from psymm._core import Frame
from psymm.errors import (
    JournalConflict,
    JournalCorrupt,
    KnownCustody,
)
from psymm.journal import retention
from psymm.journal.codec import (
    CustodyState,
    HeldHeads,
    JournalledFrame,
    custody_row,
    custody_rows,
    drop_custody,
    insert_custody,
    is_strangers,
    update_delivered,
    update_introduction,
    update_state,
)
from psymm.journal.connection import (
    connect_writer,
    hold_journal,
    without_links,
)
from psymm.journal.faults import JournalFailure
from psymm.journal.heads import frame_digest, heads_of, update_health, upsert_heads
from psymm.journal.reader import told_what_is_missing
from psymm.journal.retention import Pruned
from psymm.journal.rounds import (
    Written,
    delete_from,
    frame_of,
    frames_of,
    insert_frames,
)
from psymm.journal.secret_store import JournalSecrets
from psymm.journal.transaction import Append, Change, Work
from psymm.nursery import open_block_nursery
from psymm.transcript.agreement import CustodyAgreement
from psymm.transcript.checkpoint import Point
from psymm.transcript.delegation import JournalledRevocation
from psymm.transcript.heads import Heads, Health
from psymm.transcript.introduction import SignedIntroduction


class Journal(JournalSecrets):
    """The one writer of a journal. Made by `open_journal`."""

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
        """Store a new custody, in state `handshake`.

        Raises KnownCustody for an id that was ever seen before. Cancelled: it may or may not be
        stored.

        Args:
            agreement: the custody's parties and terms.
            lane: ours.
            now_ns: our clock, nanoseconds.
            endpoint: the peer's; empty for a solver.
            nonce: ours in the handshake.
            ours: what we announced as collateral, token units.
            announced_collateral: what the peer announced, token units.
            introduction: what the solver signed, if we are the trader.
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
        # The first frame of a lane links to the custody id, so that is the digest of number 0.
        nothing = (0, agreement.custody)

        def work(base: sqlite3.Connection) -> None:
            # Both rows or none: a custody without heads counts as damaged.
            insert_custody(base, row)
            upsert_heads(
                base, HeldHeads(agreement.custody, lane, "complete", Heads(nothing, nothing))
            )

        await self._write(work)

    async def keep_introduction(self, custody: bytes, introduction: SignedIntroduction) -> None:
        """Replace the stored introduction by the one that the solver has just signed.

        Cancelled: it may or may not be stored.
        """
        await self._write(lambda base: update_introduction(base, custody, introduction))

    async def set_state(self, custody: bytes, state: CustodyState, reason: str = "") -> None:
        """Change a custody's state. Cancelled: it may or may not be stored."""
        await self.write(self.to_set_state(custody, state, reason))

    def to_set_state(self, custody: bytes, state: CustodyState, reason: str = "") -> Change:
        """The change that `set_state` writes."""
        return Work(lambda base: update_state(base, custody, state, reason))

    async def append(self, entries: Sequence[tuple[Frame, bytes]]) -> None:
        """Make frames of one custody durable, in this order of arrival.

        Returns once they are on disk. Cancelled: raises Cancelled; all of them are stored or none,
        and later calls come later in the order of arrival.

        Args:
            entries: (frame, its digest).

        Raises:
            JournalConflict: a frame is not the next of its lane; none is stored.
            JournalRestored: a frame is ours and the custody must not sign.
            StorageError: the disk refuses; reopen the journal to write again.
        """
        if entries:
            await self.write(self.to_append(entries))

    def to_append(self, entries: Sequence[tuple[Frame, bytes]]) -> Append:
        """The change that `append` writes. Needs at least one entry.

        Raises JournalConflict if the frames are of several custodies.
        """
        custody = entries[0][0].custody
        frames: list[Written] = []
        for frame, digest in entries:
            if frame.custody != custody:
                raise JournalConflict("frames of several custodies", journal=self.path)
            frames.append((frame.lane, frame.seq, digest, frame.raw))
        return Append((custody, frames))

    def to_restore(self, entries: Sequence[tuple[Frame, bytes]]) -> Change:
        """Restore frames of one custody that the peer or a file shows and this journal lacks.

        The caller has verified them. Needs at least one entry. Writing it raises JournalConflict,
        also if the custody is complete: then it lacks nothing.
        """
        custody, frames = self.to_append(entries)
        return Work(lambda base: self._append(base, custody, frames, shown=True))

    async def set_health(self, custody: bytes, health: Health) -> None:
        """Set the health of a custody under repair.

        Raises JournalRestored if a read-only one is to sign again, JournalCorrupt if frames up to
        the newest heads are still missing. Cancelled: it may or may not be stored.
        """
        await self.write(self.to_set_health(custody, health))

    def to_set_health(self, custody: bytes, health: Health) -> Change:
        """The change that `set_health` writes."""
        return Work(lambda base: update_health(self.path, base, custody, health))

    async def revoke_frames(
        self, custody: bytes, lane: int, entries: Sequence[tuple[Frame, bytes]]
    ) -> None:
        """Remove the last frames of a lane from the record, and keep them as evidence.

        Raises JournalConflict if they are not the lane's last; then nothing has changed. Cancelled:
        all of them are removed or none.

        Args:
            custody: its id.
            lane: whose frames.
            entries: (frame, digest), in order.
        """
        if entries:
            await self.write(self.to_revoke_frames(custody, lane, entries))

    def to_revoke_frames(
        self, custody: bytes, lane: int, entries: Sequence[tuple[Frame, bytes]]
    ) -> Change:
        """The change that `revoke_frames` writes. Needs at least one entry."""
        rows = [(frame.seq, digest, frame.raw) for frame, digest in entries]
        return Work(lambda base: self._revoke_frames(base, custody, lane, rows))

    def to_keep_revocations(
        self, custody: bytes, revoked: Sequence[JournalledRevocation]
    ) -> Change:
        """Store the revoked session keys. Replaces those stored before."""
        rows = [(custody, one.lane, one.key, one.from_seq, one.cut) for one in revoked]

        def work(base: sqlite3.Connection) -> None:
            # Replaced as a whole: a reorganisation may undo a revocation.
            base.execute("DELETE FROM revocations WHERE custody = ?", (custody,))
            base.executemany("INSERT INTO revocations VALUES (?,?,?,?,?)", rows)

        return Work(work)

    def to_keep_fact(self, custody: bytes, fact: str) -> Change:
        """Store a fact of the chain, as JSON."""
        return Work(
            lambda base: base.execute(
                "INSERT INTO facts SELECT ?, count(*) + 1, ? FROM facts WHERE custody = ?",
                (custody, fact, custody),
            )
        )

    async def keep_checkpoint(
        self, custody: bytes, point: Point, account: Callable[[], bytes]
    ) -> None:
        """Store a checkpoint in force. Cancelled: it may or may not be stored.

        Args:
            custody: its id.
            point: the checkpoint.
            account: makes the account's document, in the journal's thread.
        """
        await self.write(self.to_keep_checkpoint(custody, point, account))

    def to_keep_checkpoint(
        self, custody: bytes, point: Point, account: Callable[[], bytes]
    ) -> Change:
        """The change that `keep_checkpoint` writes."""
        # Called in the thread: the document of a large account takes long to make.
        return Work(lambda base: retention.keep(base, custody, point, account()))

    async def remove_frames(
        self, custody: bytes, gone: Pruned, retained: Sequence[JournalledFrame]
    ) -> None:
        """Remove all frames that `gone` counts, except that `retained` ones stay known.

        Cancelled: all are removed or none.
        """
        rows = [(one.arrival, one.lane, one.seq, one.digest, one.raw) for one in retained]
        await self._write(lambda base: retention.remove(self.path, base, custody, gone, rows))

    async def forget_stranger(self, custody: bytes) -> bool:
        """Delete a custody in which only the trader spoke (`spec.md` 68).

        Ours is the solver's lane, and no note of either side is known to be in it. Returns False if
        that is not so; then nothing has changed. Cancelled: it may or may not be deleted.
        """
        forgotten: list[bool] = []

        def work(base: sqlite3.Connection) -> None:
            # Checked within the transaction: a note may have been stored meanwhile.
            forgotten[:] = [is_strangers(base, custody)]
            if forgotten[0]:
                # Counted down in the same transaction: the mark must match the file.
                self._frames -= drop_custody(base, custody)
                self._moved.discard(custody)

        await self._write(work)
        return forgotten[0]

    def mark_delivered(self, custody: bytes, seq: int) -> None:
        """Note that the peer has our frames up to `seq`, though its frames do not cover them.

        Returns at once. If the note is lost, we resend the frames, which does no harm.
        """
        self.write_soon([Work(lambda base: update_delivered(base, custody, seq), True)], _ignore)

    def to_keep_evidence(
        self, custody: bytes, lane: int, first: bytes | int, second: bytes
    ) -> Change:
        """Store two raw frames of a lane that prove its signer's fault.

        If a checkpoint compacted the first frame, `first` is its number, and the frame is read from
        the journal. If it was pruned, nothing is stored: then only an archive can prove the fault.
        """

        def work(base: sqlite3.Connection) -> None:
            raw = first
            # Only the journal still has a frame that a checkpoint compacted.
            if isinstance(raw, int):
                frame = frame_of(self.path, base, custody, lane, raw)
                if frame is None:
                    return
                raw = frame.raw
            base.execute(
                "INSERT OR IGNORE INTO equivocations VALUES (?,?,?,?,?)",
                (custody, lane, Frame.parse(raw).seq, raw, second),
            )

        return Work(work)

    async def _unknown(self, custody: bytes) -> bool:
        return not await self._read(lambda base: custody_rows(base, custody))

    def _revoke_frames(
        self,
        base: sqlite3.Connection,
        custody: bytes,
        lane: int,
        rows: Sequence[tuple[int, bytes, bytes]],
    ) -> None:
        # Frames of the other lane that arrived later stay, so they move to earlier places.
        path, held = self.path, heads_of(self.path, base, custody)
        # The caller's frames must be exactly the end of the lane.
        begins = frame_of(path, base, custody, lane, rows[0][0])
        tail = [] if begins is None else frames_of(path, base, custody, begins.arrival - 1, None)
        off = [(one.seq, one.digest) for one in tail if one.lane == lane]
        if begins is None or off != [(seq, digest) for seq, digest, _ in rows]:
            raise JournalConflict(
                "frames to be taken off the record are not the last of their lane",
                journal=path,
                custody=custody,
            )
        # In the same transaction as the removal: no crash may lose the evidence.
        base.executemany(
            "INSERT OR IGNORE INTO revoked_frames VALUES (?,?,?,?,?)",
            [(custody, digest, lane, seq, raw) for seq, digest, raw in rows],
        )
        # Write the others again: places have no holes, and a checksum binds a frame to its place.
        stay = [(one.lane, one.seq, one.digest, one.raw) for one in tail if one.lane != lane]
        delete_from(path, base, custody, begins.arrival)
        insert_frames(base, custody, begins.arrival, stay)
        seq = rows[0][0] - 1
        before = frame_digest(path, base, custody, lane, seq)
        heads = [held.heads.trader, held.heads.solver]
        heads[lane] = (seq, custody if before is None else before)
        # The row of heads is written at once: frames and heads must agree after this commit.
        left = held.frames - len(rows)
        upsert_heads(base, replace(held, heads=Heads(heads[0], heads[1]), frames=left))
        self._frames -= len(rows)


def _ignore(failed: JournalFailure | None) -> None:
    """The callback of a write that nobody waits for."""


@asynccontextmanager
async def open_journal(
    path: Path,
    *,
    create: bool = True,
    run_sync: Callable[..., Awaitable[Any]] = trio.to_thread.run_sync,
) -> AsyncGenerator[Journal, None]:
    """Open the journal for writing, as its only writer.

    Checks SQLite's own structure, all numbers and heads, and that no frame of the high-water mark
    is gone. Cancelled inside: queued writes are still committed, then the journal is closed.

    Args:
        path: the journal.
        create: whether to create it if it is not there.
        run_sync: where disk work runs: a thread, unless a test on a mock clock replaces it.

    Raises:
        JournalLocked: another process (or this one) writes it, under any path.
        JournalCorrupt: it is damaged; names what is missing.
        JournalOlder: frames that the mark counts are gone.
        JournalVersion: another version wrote it.
        StorageError: the machine refuses.
        JournalError: it is not there and `create` is False.
    """
    path = without_links(path)
    with hold_journal(path, create) as lock:
        try:
            connection, identity = await run_sync(connect_writer, path, create, lock)
        except JournalCorrupt as bad:
            # The lock is still held, so the inspection sees the file that failed.
            raise await run_sync(told_what_is_missing, path, bad) from None
        with closing(connection):
            journal = Journal(path, connection, identity, lock, run_sync)
            async with open_block_nursery() as nursery:
                nursery.start_soon(journal.commit_rounds)
                try:
                    yield journal
                finally:
                    journal._close()
            # After the last commit: only then is the count of frames final.
            journal._close_in_order()
