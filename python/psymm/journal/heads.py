"""A custody's heads as a journal keeps them, apart from its frames, and whether it may sign.

A row of `heads` has a checksum of its own, so that frames that are gone are missed. The custody's
`Health` is part of that row. It is written again not with every frame but now and then, and when
the journal is opened and closed: then the heads are folded. In between, each commit leaves one row
in `newer_heads` with the heads that it moved.

The heads that count follow from the frames: those of the row and of the frames after it. What
`newer_heads` says is only compared with them, and names frames that are gone; a row of it that is
damaged says nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from struct import Struct
from typing import Any, Final, get_args

from psymm.errors import JournalCorrupt, JournalRestored, Missing, UnknownCustody
from psymm.journal.codec import HeldHeads
from psymm.journal.rounds import frame_of, iterate_frames
from psymm.transcript.heads import Heads, Health

_PACKED: Final = Struct(">32sQ32sQ32s")
pack_heads: Final = _PACKED.pack
"""Of custody, then seq and digest of the trader's and of the solver's head."""


def upsert_heads(base: sqlite3.Connection, held: HeldHeads) -> None:
    """Write a custody's row of `heads`."""
    base.execute(
        "INSERT OR REPLACE INTO heads VALUES (?,?,?,?,?,?,?,?,?)",
        (
            held.custody,
            held.lane,
            held.health,
            held.frames,
            *held.heads.trader,
            *held.heads.solver,
            _heads_checksum(held),
        ),
    )


def read_heads(row: Sequence[Any]) -> HeldHeads | None:
    """A row of `heads` as it was written, or None where it is damaged."""
    custody, lane, health, frames, trader_seq, trader_digest, solver_seq, solver_digest, kept = row
    try:
        if not all(is_bytes(one, 32) for one in (custody, trader_digest, solver_digest)):
            return None
        held = HeldHeads(
            custody,
            lane,
            health,
            Heads((trader_seq, trader_digest), (solver_seq, solver_digest)),
            frames,
        )
        intact = health in get_args(Health) and _heads_checksum(held) == kept
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return held if intact else None


def stored_heads(path: Path, base: sqlite3.Connection, custody: bytes) -> HeldHeads:
    """A custody's row of `heads`. Raises UnknownCustody, JournalCorrupt where it is damaged."""
    row = base.execute("SELECT * FROM heads WHERE custody = ?", (custody,)).fetchone()
    if row is None:
        raise UnknownCustody(custody=custody, journal=path)
    held = read_heads(row)
    if held is None or held.custody != custody:
        raise JournalCorrupt(
            "a custody's heads are damaged", journal=path, missing=[Missing(custody, "heads")]
        )
    return held


def heads_of(path: Path, base: sqlite3.Connection, custody: bytes) -> HeldHeads:
    """A custody's heads: its row of `heads`, and the frames that were written after that.

    Raises UnknownCustody, JournalCorrupt where the row or a frame is damaged, or one is missing.
    """
    stored = stored_heads(path, base, custody)
    heads, frames = [stored.heads.trader, stored.heads.solver], stored.frames
    for frame in iterate_frames(path, base, custody, stored.frames):
        if frame.seq != heads[frame.lane][0] + 1:
            raise JournalCorrupt(
                "frames are missing",
                journal=path,
                custody=custody,
                lane=frame.lane,
                held=frame.seq,
                head=heads[frame.lane][0],
            )
        heads[frame.lane] = (frame.seq, frame.digest)
        frames = frame.arrival
    if frames == stored.frames:
        return stored
    return replace(stored, heads=Heads(heads[0], heads[1]), frames=frames)


def insert_newer_heads(base: sqlite3.Connection, moved: bytes) -> None:
    """Leave the heads that a commit moved, each as `pack_heads` gives them."""
    check = blake2b(moved, digest_size=8).digest()
    base.execute("INSERT INTO newer_heads (heads) VALUES (?)", (check + moved,))


def read_newer_heads(rows: Iterable[tuple[object]]) -> dict[bytes, Heads]:
    """By custody, what the last commits since the heads were folded say. rows: the column `heads`,
    in the order of the commits."""
    found: dict[bytes, Heads] = {}
    for (row,) in rows:
        if isinstance(row, bytes) and blake2b(row[8:], digest_size=8).digest() == row[:8]:
            for custody, *heads in _PACKED.iter_unpack(row[8:]):
                found[custody] = Heads((heads[0], heads[1]), (heads[2], heads[3]))
    return found


def recovering_of(base: sqlite3.Connection, custody: bytes) -> Heads | None:
    """The newest heads, where frames up to them are still to be fetched; else None."""
    row = base.execute("SELECT * FROM recovering WHERE custody = ?", (custody,)).fetchone()
    return None if row is None else Heads((row[1], row[2]), (row[3], row[4]))


def update_health(path: Path, base: sqlite3.Connection, custody: bytes, health: Health) -> None:
    """A custody being repaired is whole, or it turns out that it cannot be.

    Raises JournalRestored if a restored one is to sign again, JournalCorrupt if frames up to the
    newest heads are still missing, UnknownCustody.
    """
    held = heads_of(path, base, custody)
    if held.health == "read-only" and health != "read-only":
        raise JournalRestored(journal=path, custody=custody)
    newest = recovering_of(base, custody)
    if health == "complete" and newest is not None:
        for lane in (0, 1):
            seq, digest = newest.of(lane)
            if (custody if seq == 0 else frame_digest(path, base, custody, lane, seq)) != digest:
                reached = held.heads.of(lane)[0]
                raise JournalCorrupt(
                    "frames are still missing",
                    journal=path,
                    missing=[Missing(custody, "frames", lane, reached + 1, seq)],
                )
    if health != "recovering":
        base.execute("DELETE FROM recovering WHERE custody = ?", (custody,))
    if health == "complete":
        base.execute("DELETE FROM rescued WHERE custody = ?", (custody,))
    upsert_heads(base, replace(held, health=health))


def frame_digest(
    path: Path, base: sqlite3.Connection, custody: bytes, lane: int, seq: int
) -> bytes | None:
    """A frame's digest, None where it is not there. Raises JournalCorrupt where it is damaged."""
    frame = frame_of(path, base, custody, lane, seq)
    return None if frame is None else frame.digest


def is_bytes(value: object, length: int) -> bool:
    """Whether a column holds the bytes that were put there, as far as their number tells."""
    return isinstance(value, bytes) and len(value) == length


def _heads_checksum(held: HeldHeads) -> bytes:
    body = b"".join(
        (
            held.custody,
            bytes([held.lane]),
            held.health.encode(),
            held.frames.to_bytes(8),
            *(seq.to_bytes(8) + digest for seq, digest in (held.heads.trader, held.heads.solver)),
        )
    )
    return blake2b(body, digest_size=8).digest()
