"""The file of one wallet's notes and moves.

Everything that money depends on is durable before it is used: a counter before the blinding that it
gives, a move before anybody outside sees it.  What the chain shows is not recorded as history:
`reconcile` compares each note and move with the tree, so a reorganisation needs no undo.
`stored` says which states notes and moves have; `rows` reads and writes the tables.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import trio

from psymm.chain.sync import TreeSync
from psymm.chain.transactions import Sent
from psymm.custody.errors import (
    NoteBusy,
    NoteStoreError,
    StoreCorrupt,
    StoreForeign,
    StoreLocked,
    StoreVersion,
    UnknownMove,
    UnknownNote,
)
from psymm.custody.notes import Note
from psymm.custody.rows import (
    SCHEMA,
    VERSION,
    KnownNotes,
    details_of,
    earlier_versions,
    insert_note,
    read_moves,
    read_notes,
)
from psymm.custody.stored import BUSY, DONE, FAILED, PLANNED, SENT, SPENT, Move, StoredNote
from psymm.custody.viewing import ViewingKey
from psymm.private_files import keep_database_private
from psymm.storage import FileBusy, StorageError, is_form_error, storage_error

T = TypeVar("T")


class NoteStore:
    """Open with `open_store`.  Methods queue up; each is one transaction, durable on return.

    Cancelled: a method raises Cancelled before its transaction or completes it.
    """

    def __init__(
        self, database: sqlite3.Connection, view: ViewingKey, path: Path | None = None
    ) -> None:
        self._database = database
        self._path = path
        self._view = view
        self._lock = trio.Lock()
        self._read: KnownNotes = {}

    def __repr__(self) -> str:
        return "NoteStore()"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the file.  Not cut short by cancellation."""
        with trio.CancelScope(shield=True):
            async with self._lock:
                await trio.to_thread.run_sync(self._database.close)

    # --- counters -----------------------------------------------------------------------------

    async def reserve(self, how_many: int = 1) -> list[int]:
        """Counters that were never used before and never will be again.

        They start at a random number each time the file is opened. So two copies of a wallet, a
        restored backup, or a store rebuilt from the chain never use the same counter twice.
        """

        def work(database: sqlite3.Connection) -> list[int]:
            # A counter is used up even if its move fails: what was signed with it may still be
            # mined, and two notes of one counter would share a blinding.
            epoch, used = database.execute("SELECT epoch, used FROM owner").fetchone()
            database.execute("UPDATE owner SET used = ?", (used + how_many,))
            return [(epoch << 32) + used + at for at in range(how_many)]

        return await self._do(work)

    # --- notes --------------------------------------------------------------------------------

    async def notes(
        self,
        *,
        token: str | None = None,
        status: str | None = None,
        custody: bytes | None = None,
        mine: bool | None = None,
    ) -> list[StoredNote]:
        """Notes, oldest in the tree first.  custody: a custody id."""
        found = await self._do(partial(read_notes, known=self._read))
        return [
            held
            for held in found
            if (token is None or held.note.token == token)
            and (status is None or held.status == status)
            and (custody is None or held.note.custody.id == custody)
            and (mine is None or held.mine == mine)
        ]

    async def note(self, commitment: bytes) -> StoredNote:
        """Raises UnknownNote."""
        for held in await self._do(partial(read_notes, known=self._read)):
            if held.note.commitment == commitment:
                return held
        raise UnknownNote(commitment)

    async def keep(self, note: Note, counter: int | None = None) -> None:
        """Store a note's opening; a counterparty's note has no counter.  Idempotent."""
        await self._do(lambda database: insert_note(database, note, counter))

    # --- moves --------------------------------------------------------------------------------

    async def begin(
        self,
        kind: str,
        purpose: str,
        *,
        inputs: Sequence[Note],
        outputs: Sequence[tuple[Note, int | None]] = (),
        other_outputs: Sequence[bytes] = (),
        deadline: int | None,
        details: dict[str, Any],
        status: str = PLANNED,
        instead_of: int | None = None,
    ) -> int:
        """Record a move and reserve its inputs.  Returns the move's number.

        Args:
            outputs: our new notes with their counters.
            other_outputs: commitments of other parties' new notes.
            instead_of: an earlier version of the same move, whose inputs this one shares; only one
                of them can be mined.

        Raises NoteBusy if an input is spent or another move under way spends it.
        """

        def work(database: sqlite3.Connection) -> int:
            for note in inputs:
                row = database.execute(
                    "SELECT spent_block FROM notes WHERE nullifier = ?", (note.nullifier,)
                ).fetchone()
                if row is not None and row[0] is not None:
                    raise NoteBusy(note.commitment, SPENT)
                for (holder,) in database.execute(
                    "SELECT move FROM move_inputs JOIN moves ON move = id "
                    "WHERE nullifier = ? AND status IN ('planned', 'signed', 'sent')",
                    (note.nullifier,),
                ):
                    if instead_of is None or holder not in earlier_versions(database, instead_of):
                        raise NoteBusy(note.commitment, BUSY)
            # On disk, so that after a restart the versions of one move still share their inputs.
            stored = {**details, "_insteadOf": instead_of} if instead_of else details
            # SQLite's integers have 64 bits, and a deadline in a call has 64 without a sign.
            last = None if deadline is None else min(deadline, (1 << 63) - 1)
            move = database.execute(
                "INSERT INTO moves (kind, purpose, status, deadline, details) "
                "VALUES (?, ?, ?, ?, ?)",
                (kind, purpose, status, last, json.dumps(stored)),
            ).lastrowid
            assert move is not None  # noqa: S101 - SQLite gives one for every insert
            for note in inputs:
                database.execute("INSERT INTO move_inputs VALUES (?, ?)", (move, note.nullifier))
            for note, counter in outputs:
                insert_note(database, note, counter)
            for one in [*(note.commitment for note, _ in outputs), *other_outputs]:
                database.execute("INSERT INTO move_outputs VALUES (?, ?)", (move, one))
            return move

        return await self._do(work)

    async def update(
        self,
        move: int,
        status: str,
        *,
        details: dict[str, Any] | None = None,
        reason: str = "",
    ) -> None:
        """Record a move's status, and new details if given."""

        def work(database: sqlite3.Connection) -> None:
            if details is not None:
                (kept,) = database.execute(
                    "SELECT details FROM moves WHERE id = ?", (move,)
                ).fetchone()
                before = details_of(kept).get("_insteadOf")
                stored = {**details, "_insteadOf": before} if before else details
                database.execute(
                    "UPDATE moves SET details = ? WHERE id = ?", (json.dumps(stored), move)
                )
            database.execute(
                "UPDATE moves SET status = ?, reason = ? WHERE id = ?", (status, reason, move)
            )

        await self._do(work)

    async def record(self, move: int, sent: Sent) -> None:
        """Record a signed transaction before a node sees it; the move is SENT from then on.

        Earlier versions with the same nonce stay, because any of them can be mined.  Those with
        another nonce are deleted: that nonce was taken, so no node has them.
        """
        plan = sent.prepared

        def work(database: sqlite3.Connection) -> None:
            database.execute(
                "DELETE FROM transactions WHERE move = ? AND (nonce <> ? OR hash = ?)",
                (move, sent.nonce, sent.tx_hash),
            )
            database.execute(
                "INSERT INTO transactions (move, hash, sender, nonce, raw, recipient, data, "
                "value_wei, gas_limit, max_wei, tip_wei) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    move,
                    sent.tx_hash,
                    sent.sender,
                    sent.nonce,
                    sent.raw,
                    plan.to,
                    plan.data,
                    str(plan.value_wei),
                    plan.gas_limit,
                    str(plan.fees.max_wei),
                    str(plan.fees.tip_wei),
                ),
            )
            database.execute("UPDATE moves SET status = ? WHERE id = ?", (SENT, move))

        await self._do(work)

    async def record_mined(self, move: int, tx_hash: str) -> None:
        """Record which of a move's transactions is mined."""
        await self._do(
            lambda database: database.execute(
                "UPDATE transactions SET mined = (hash = ?) WHERE move = ?", (tx_hash, move)
            )
        )

    async def report(self, moves: Iterable[int]) -> None:
        """Record that the end of these moves was reported; those under way do not change."""
        ended = [(one, DONE, FAILED) for one in moves]

        def work(database: sqlite3.Connection) -> None:
            database.executemany(
                "UPDATE moves SET reported = 1 WHERE id = ? AND status IN (?, ?)", ended
            )

        await self._do(work)

    async def moves(self, *, alive: bool | None = None) -> list[Move]:
        """All moves, oldest first."""
        found = await self._do(read_moves)
        return [move for move in found if alive is None or move.alive == alive]

    async def move(self, number: int) -> Move:
        """One move by its number.  Raises UnknownMove."""
        for found in await self._do(read_moves):
            if found.id == number:
                return found
        raise UnknownMove(number)

    # --- the chain ----------------------------------------------------------------------------

    async def reconcile(
        self, tree: TreeSync, chain_time_s: int
    ) -> tuple[list[StoredNote], frozenset[int]]:
        """Make the file agree with the tree.

        Returns the notes that only their memos revealed, and the numbers of moves that were done
        and that a reorganisation took back.

        New leaves are searched for our memos; each note gets its position and spent block from the
        tree; each move becomes done, failed or sent again.  chain_time_s: the time of the newest
        block that counts.
        """

        def work(database: sqlite3.Connection) -> tuple[set[bytes], frozenset[int]]:
            leaves = tree.leaves
            scanned, last = database.execute("SELECT scanned, scanned_last FROM owner").fetchone()
            # If the last scanned leaf is gone, a reorganisation replaced leaves: scan all again.
            known = scanned and scanned <= len(leaves) and leaves[scanned - 1].commitment == last
            found: set[bytes] = set()
            for leaf in leaves[scanned if known else 0 :]:
                own = self._view.find(leaf.commitment, leaf.memo)
                if own is not None and insert_note(database, *own):
                    found.add(leaf.commitment)
            database.execute(
                "UPDATE owner SET scanned = ?, scanned_last = ?",
                (len(leaves), leaves[-1].commitment if leaves else b""),
            )
            for commitment, nullifier in database.execute(
                "SELECT commitment, nullifier FROM notes"
            ).fetchall():
                place = tree.leaf(commitment)
                database.execute(
                    "UPDATE notes SET position = ?, block = ?, spent_block = ? "
                    "WHERE commitment = ?",
                    (
                        place.position if place else None,
                        place.block if place else None,
                        tree.spent_block(nullifier),
                        commitment,
                    ),
                )
            return found, frozenset(
                move.id
                for move in read_moves(database)
                if self._settle(database, tree, move, chain_time_s)
            )

        # The work runs in a thread; the tree must not change between its leaves and its nullifiers.
        async with tree.locked():
            found, taken_back = await self._do(work)
        held = [one for one in await self.notes() if one.note.commitment in found] if found else []
        return held, taken_back

    def _settle(
        self, database: sqlite3.Connection, tree: TreeSync, move: Move, chain_time_s: int
    ) -> bool:
        """Update a move's status from the tree.  True if it was done and is under way again."""
        if move.status == PLANNED or not move.outputs:
            return False
        # A planned call was seen by nobody, so the chain says nothing about it. A move without
        # outputs (an approval) leaves nothing in the tree: only its receipt ends it.
        status, reason = move.status, move.reason
        # Outputs before inputs: a move that is done has spent its inputs itself.
        if all(tree.leaf(one) is not None for one in move.outputs):
            status, reason = DONE, ""
        elif any(tree.spent_block(one) is not None for one in move.inputs):
            status, reason = FAILED, "another move spent its notes"
        elif move.deadline is not None and chain_time_s > move.deadline:
            status, reason = FAILED, "its deadline has passed"
        elif move.status == DONE:
            status, reason = SENT, ""  # a reorganisation took it back
        # Other failed moves stay failed, unless the first test finds their outputs in the tree.
        elif move.status == FAILED and reason == "another move spent its notes":
            status, reason = SENT, ""  # a reorganisation took the other move back
        if (status, reason) != (move.status, move.reason):
            # A move that is under way again will end again, and that end must be reported.
            told = move.reported and status == FAILED
            database.execute(
                "UPDATE moves SET status = ?, reason = ?, reported = ? WHERE id = ?",
                (status, reason, told, move.id),
            )
        return (move.status, status) == (DONE, SENT)

    # --- parts --------------------------------------------------------------------------------

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def transaction() -> T:
            try:
                with self._database:
                    self._database.execute("BEGIN IMMEDIATE")
                    return work(self._database)
            except sqlite3.Error as failed:
                raise _refused(self._path, failed) from None

        # Shielded: a caller that is cancelled must still know whether the transaction is written.
        async with self._lock:
            with trio.CancelScope(shield=True):
                done = await trio.to_thread.run_sync(transaction)
        return done


async def open_store(view: ViewingKey, path: Path | None = None) -> NoteStore:
    """Open or create the file of a wallet's notes; None keeps it in memory.

    Moves that nobody outside had seen become failed, and their notes are free again.
    Raises StoreForeign, StoreCorrupt, StoreLocked, StorageError.
    """

    def start() -> NoteStore:
        if path is not None:
            # It will hold blindings, so it is made private before anything is in it.
            keep_database_private(path)
        try:
            database = sqlite3.connect(
                path or ":memory:", check_same_thread=False, isolation_level=None, timeout=1
            )
        except sqlite3.Error as failed:
            raise _refused(path, failed) from None
        try:
            # One process only, from here to `aclose`: a second one would draw other counters but
            # choose the same notes. FULL, because in WAL mode anything less can lose the last
            # commits when power fails. A node may have the transaction that they record.
            database.execute("PRAGMA locking_mode=EXCLUSIVE")
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            database.executescript(SCHEMA)
            ours = (VERSION, view.chain_id, view.contract, view.public_key, view.check)
            with database:
                database.execute("BEGIN IMMEDIATE")
                kept = database.execute(
                    "SELECT version, chain_id, contract, public_key, viewing_check FROM owner"
                ).fetchone()
                if kept is None:
                    database.execute("INSERT INTO owner VALUES (?, ?, ?, ?, ?, 0, 0, 0, x'')", ours)
                elif kept != ours:
                    raise StoreForeign(path=path)
                # A copy of this file has the same numbers. So each opening draws new ones.
                database.execute(
                    "UPDATE owner SET epoch = ?, used = ?",
                    # 31 bits each: both make one counter, which SQLite keeps as a signed 64-bit
                    # integer.
                    (secrets.randbits(31), secrets.randbits(31)),
                )
                database.execute(
                    # We hold the file alone, so no living process is still signing these.
                    "UPDATE moves SET status = 'failed', reason = 'interrupted before it was "
                    "sent' WHERE status = 'planned'"
                )
        except sqlite3.Error as failed:
            database.close()
            raise _refused(path, failed) from None
        except BaseException:
            database.close()
            raise
        return NoteStore(database, view, path)

    return await trio.to_thread.run_sync(start)


def _refused(path: Path | None, failed: sqlite3.Error) -> NoteStoreError | StorageError:
    found = storage_error(path, failed)
    if isinstance(found, FileBusy):
        return StoreLocked(path=path)
    if found is None and is_form_error(failed):
        return StoreVersion(reason=str(failed), path=path)
    return found or StoreCorrupt(reason=str(failed), path=path)
