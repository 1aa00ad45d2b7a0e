"""The journal as its one writer has it: what can be written.

Whether a custody may sign (its `Health`) is decided here, whatever is above: a journal that is a
backup, or that was repaired without its newest heads, gives no session key and takes no frame of
our own but those that the peer shows.

Each `to_…` makes a `Change`; several of them given to one `write` are made together. How writes
become durable is `committer`'s; what of it is encrypted is `secret_store`'s.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from functools import partial
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
from psymm.journal.committer import Change
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

    async def append(self, entries: Sequence[tuple[Frame, bytes]]) -> None:
        """Make frames of one custody durable, in this order of arrival.

        entries: (frame, its digest). Returns once they are on disk. Raises JournalConflict if one
        is not the next of its lane (none is kept then), JournalRestored for a frame of ours where
        the custody must not sign, StorageError if the disk refuses (nothing more can be written;
        reopen).
        Cancelled: raises Cancelled, all of them or none are kept, and the order of arrival holds
        for those that call later.
        """
        if entries:
            await self.write(self.to_append(entries))

    def to_append(self, entries: Sequence[tuple[Frame, bytes]]) -> Change:
        """See `append`; of at least one entry."""
        return Change(partial(self._append, *_written(self.path, entries), False), True)

    def to_restore(self, entries: Sequence[tuple[Frame, bytes]]) -> Change:
        """Frames of one custody, at least one, that the peer or a file shows and this journal
        lacks, verified by the caller. Writing it raises JournalConflict, and
        where the custody is whole: then nothing is lacking."""
        return Change(partial(self._append, *_written(self.path, entries), True))

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
        await self._write(lambda base: retention.remove(self.path, base, custody, gone, rows))

    async def forget_stranger(self, custody: bytes) -> bool:
        """Forget a custody of which only its trader spoke: ours is the solver's lane, and no note
        of either side is known to be in it (`spec.md` 68). False where that is not so; nothing has
        changed then. Cancelled: it may or may not be forgotten."""
        forgotten: list[bool] = []

        def work(base: sqlite3.Connection) -> None:
            forgotten[:] = [is_strangers(base, custody)]
            if forgotten[0]:
                self._frames -= drop_custody(base, custody)
                self._moved.discard(custody)

        await self._write(work)
        return forgotten[0]

    def mark_delivered(self, custody: bytes, seq: int) -> None:
        """The peer is known to have our frames up to `seq`, though its frames do not cover them.

        Returns at once: where the mark is lost, the frames are brought once more, which harms
        nobody.
        """
        self.write_soon([Change(lambda base: update_delivered(base, custody, seq), True)], _ignore)

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
                frame = frame_of(self.path, base, custody, lane, raw)
                if frame is None:
                    return
                raw = frame.raw
            base.execute(
                "INSERT OR IGNORE INTO equivocations VALUES (?,?,?,?,?)",
                (custody, lane, Frame.parse(raw).seq, raw, second),
            )

        return Change(work)

    async def _unknown(self, custody: bytes) -> bool:
        return not await self._read(lambda base: custody_rows(base, custody))

    def _revoke_frames(
        self,
        base: sqlite3.Connection,
        custody: bytes,
        lane: int,
        rows: Sequence[tuple[int, bytes, bytes]],
    ) -> None:
        path, held = self.path, heads_of(self.path, base, custody)
        begins = frame_of(path, base, custody, lane, rows[0][0])
        tail = [] if begins is None else frames_of(path, base, custody, begins.arrival - 1, None)
        off = [(one.seq, one.digest) for one in tail if one.lane == lane]
        if begins is None or off != [(seq, digest) for seq, digest, _ in rows]:
            raise JournalConflict(
                "frames to be taken off the record are not the last of their lane",
                journal=path,
                custody=custody,
            )
        base.executemany(
            "INSERT OR IGNORE INTO revoked_frames VALUES (?,?,?,?,?)",
            [(custody, digest, lane, seq, raw) for seq, digest, raw in rows],
        )
        # Places of arrival have no holes, and a frame's checksum binds it to its own.
        stay = [(one.lane, one.seq, one.digest, one.raw) for one in tail if one.lane != lane]
        delete_from(path, base, custody, begins.arrival)
        insert_frames(base, custody, begins.arrival, stay)
        seq = rows[0][0] - 1
        before = frame_digest(path, base, custody, lane, seq)
        heads = [held.heads.trader, held.heads.solver]
        heads[lane] = (seq, custody if before is None else before)
        left = held.frames - len(rows)
        upsert_heads(base, replace(held, heads=Heads(heads[0], heads[1]), frames=left))
        self._frames -= len(rows)


def _written(path: Path, entries: Sequence[tuple[Frame, bytes]]) -> tuple[bytes, list[Written]]:
    """The custody that the frames name, and what is written of each. Raises JournalConflict where
    they name several."""
    custody = entries[0][0].custody
    frames: list[Written] = []
    for frame, digest in entries:
        if frame.custody != custody:
            raise JournalConflict("frames of several custodies", journal=path)
        frames.append((frame.lane, frame.seq, digest, frame.raw))
    return custody, frames


def _ignore(failed: JournalFailure | None) -> None:
    """Nobody waits for this."""


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
            journal._close_in_order()


async def _committer(journal: Journal) -> None:
    # Shielded: a write that was queued is committed even while everything is being cancelled;
    # _close() ends it.
    with trio.CancelScope(shield=True):
        await journal._commit_rounds()
