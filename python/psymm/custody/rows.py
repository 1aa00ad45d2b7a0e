"""The tables of a wallet's store, and their rows as notes and moves.

Every function runs inside a transaction of `store.NoteStore`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

from psymm.chain.transactions import Fees, Prepared, Sent
from psymm.custody.errors import NoteInvalid, StoreCorrupt
from psymm.custody.notes import Custody, Note
from psymm.custody.stored import BUSY, EXPECTED, SPENT, UNSPENT, Move, StoredNote
from psymm.strict_json import loads

VERSION: Final = 3
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS owner (
    version INTEGER, chain_id INTEGER, contract TEXT, public_key BLOB, viewing_check BLOB,
    epoch INTEGER, used INTEGER, scanned INTEGER, scanned_last BLOB);
CREATE TABLE IF NOT EXISTS notes (
    commitment BLOB PRIMARY KEY, nullifier BLOB NOT NULL UNIQUE,
    trader BLOB NOT NULL, solver BLOB NOT NULL, terms_hash BLOB NOT NULL, salt BLOB NOT NULL,
    token TEXT NOT NULL, amount TEXT NOT NULL, blinding BLOB NOT NULL,
    counter INTEGER, position INTEGER, block INTEGER, spent_block INTEGER);
CREATE TABLE IF NOT EXISTS moves (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, purpose TEXT NOT NULL,
    status TEXT NOT NULL, deadline INTEGER, details TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '', reported INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS transactions (
    version INTEGER PRIMARY KEY AUTOINCREMENT, move INTEGER NOT NULL, hash TEXT NOT NULL UNIQUE,
    sender TEXT NOT NULL, nonce INTEGER NOT NULL, raw BLOB NOT NULL, recipient TEXT,
    data BLOB NOT NULL, value_wei TEXT NOT NULL, gas_limit INTEGER NOT NULL, max_wei TEXT NOT NULL,
    tip_wei TEXT NOT NULL, mined INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS move_inputs (move INTEGER NOT NULL, nullifier BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS move_outputs (move INTEGER NOT NULL, commitment BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS inputs_of ON move_inputs (nullifier);
"""

KnownNotes: TypeAlias = dict[bytes, tuple[tuple[Any, ...], Note]]
"""Rows and their notes, by commitment."""


def insert_note(database: sqlite3.Connection, note: Note, counter: int | None) -> bool:
    """True if the note is new."""
    done = database.execute(
        "INSERT OR IGNORE INTO notes (commitment, nullifier, trader, solver, terms_hash, "
        "salt, token, amount, blinding, counter) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            note.commitment,
            note.nullifier,
            note.custody.trader,
            note.custody.solver,
            note.custody.terms_hash,
            note.custody.salt,
            note.token,
            str(note.amount),
            note.blinding,
            counter,
        ),
    )
    return done.rowcount == 1


def _read_note(commitment: bytes, row: tuple[Any, ...], known: KnownNotes) -> Note:
    """The note of a row.  Hashing it detects damage; each row is hashed only once."""
    before = known.get(commitment)
    if before is not None and before[0] == row:
        return before[1]
    try:
        note = Note(Custody(*row[:4]), row[4], int(row[5]), row[6])
    except (NoteInvalid, ValueError, TypeError) as bad:
        raise StoreCorrupt(reason=type(bad).__name__) from None
    if note.commitment != commitment:
        raise StoreCorrupt(reason="a note does not give its commitment")
    known[commitment] = (row, note)
    return note


def read_notes(database: sqlite3.Connection, known: KnownNotes) -> list[StoredNote]:
    """All notes, oldest in the tree first.  known: what was read before; it grows."""
    busy = {
        nullifier
        for (nullifier,) in database.execute(
            "SELECT nullifier FROM move_inputs JOIN moves ON move = id "
            "WHERE status IN ('planned', 'signed', 'sent')"
        )
    }
    found: list[StoredNote] = []
    for row in database.execute(
        "SELECT trader, solver, terms_hash, salt, token, amount, blinding, counter, position, "
        "block, spent_block, commitment FROM notes ORDER BY position IS NULL, position"
    ):
        note = _read_note(row[11], row[:7], known)
        if row[10] is not None:
            status = SPENT
        elif row[8] is None:
            status = EXPECTED
        else:
            status = BUSY if note.nullifier in busy else UNSPENT
        found.append(StoredNote(note, status, row[7], row[8], row[9], row[10]))
    return found


def read_moves(database: sqlite3.Connection) -> list[Move]:
    """All moves, oldest first."""
    inputs = _grouped(database.execute("SELECT move, nullifier FROM move_inputs"))
    outputs = _grouped(database.execute("SELECT move, commitment FROM move_outputs"))
    sent: dict[int, list[Sent]] = {}
    mined: dict[int, str] = {}
    for move, was_mined, *row in database.execute(
        "SELECT move, mined, hash, sender, nonce, raw, recipient, data, value_wei, gas_limit, "
        "max_wei, tip_wei FROM transactions ORDER BY version"
    ):
        sent.setdefault(move, []).append(_sent(row))
        if was_mined:
            mined[move] = row[0]
    found: list[Move] = []
    for row in database.execute(
        "SELECT id, kind, purpose, status, deadline, details, reason, reported FROM moves "
        "ORDER BY id"
    ):
        number, kind, purpose, status, deadline, details, reason, reported = row
        public = details_of(details)
        # Ours, and no part of the call, whose JSON has exactly the contract's fields.
        public.pop("_insteadOf", None)
        found.append(
            Move(
                id=number,
                kind=kind,
                purpose=purpose,
                status=status,
                deadline=deadline,
                details=public,
                versions=tuple(sent.get(number, ())),
                mined=mined.get(number),
                reason=reason,
                reported=bool(reported),
                inputs=tuple(inputs.get(number, ())),
                outputs=tuple(outputs.get(number, ())),
            )
        )
    return found


def _grouped(rows: Iterable[tuple[int, bytes]]) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for key, value in rows:
        found.setdefault(key, []).append(value)
    return found


def _sent(row: Sequence[Any]) -> Sent:
    tx_hash, sender, nonce, raw, to, data, value_wei, gas_limit, max_wei, tip_wei = row
    try:
        fees = Fees(int(max_wei), int(tip_wei))
        prepared = Prepared(sender, to, data, int(value_wei), gas_limit, fees)
    except ValueError:
        raise StoreCorrupt(reason="a transaction is not what was written") from None
    return Sent(tx_hash, sender, nonce, raw, prepared)


def details_of(kept: object) -> dict[str, Any]:
    try:
        found = loads(kept) if isinstance(kept, str) else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise StoreCorrupt(reason="the details of a move are not what was written")
    return found


def earlier_versions(database: sqlite3.Connection, move: int) -> set[int]:
    """A move and all its earlier versions."""
    found: set[int] = set()
    at: int | None = move
    while at is not None and at not in found:
        found.add(at)
        row = database.execute("SELECT details FROM moves WHERE id = ?", (at,)).fetchone()
        at = details_of(row[0]).get("_insteadOf") if row else None
    return found
