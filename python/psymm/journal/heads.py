"""A custody's heads in the journal, stored apart from its frames, and whether it may sign.

Heads are stored apart so that a loss of frames is noticed. A row of `heads` has its own checksum
and includes the custody's `Health`. It is rewritten ("folded") every few commits, and when the
journal is opened and closed. In between, each commit leaves one row in `newer_heads` with the heads
that it moved.

The valid heads are derived: those of the row, moved on by the frames after it. `newer_heads` is
only compared with them, to name frames that are gone. A damaged row of it is ignored.
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
"""Packs a custody id, then seq and digest of the trader's and of the solver's head."""


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
    """The content of a row of `heads`; None if it is damaged."""
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
    """A custody's row of `heads`. Raises UnknownCustody, or JournalCorrupt if it is damaged."""
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
    """A custody's heads: its row of `heads`, moved on by the frames written after it.

    Raises UnknownCustody, or JournalCorrupt if the row or a frame is damaged or missing.
    """
    stored = stored_heads(path, base, custody)
    heads, frames = [stored.heads.trader, stored.heads.solver], stored.frames
    for frame in iterate_frames(path, base, custody, stored.frames):
        # The row's heads join on to the frames only if none is gone in between.
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
    """Write the heads that a commit moved: concatenated results of `pack_heads`."""
    check = blake2b(moved, digest_size=8).digest()
    base.execute("INSERT INTO newer_heads (heads) VALUES (?)", (check + moved,))


def read_newer_heads(rows: Iterable[tuple[object]]) -> dict[bytes, Heads]:
    """The heads that commits since the last fold left, by custody.

    `rows` is the column `heads`, in the order of the commits.
    """
    found: dict[bytes, Heads] = {}
    for (row,) in rows:
        if isinstance(row, bytes) and blake2b(row[8:], digest_size=8).digest() == row[:8]:
            for custody, *heads in _PACKED.iter_unpack(row[8:]):
                found[custody] = Heads((heads[0], heads[1]), (heads[2], heads[3]))
    return found


def recovering_of(base: sqlite3.Connection, custody: bytes) -> Heads | None:
    """The heads up to which frames must still be fetched, or None."""
    row = base.execute("SELECT * FROM recovering WHERE custody = ?", (custody,)).fetchone()
    return None if row is None else Heads((row[1], row[2]), (row[3], row[4]))


def update_health(path: Path, base: sqlite3.Connection, custody: bytes, health: Health) -> None:
    """Set the health of a custody under repair.

    Raises JournalRestored if a read-only one is to sign again, JournalCorrupt if frames up to the
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
                # Signing from here would reuse the numbers that are missing.
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
    """A frame's digest, or None. Raises JournalCorrupt if the frame is damaged."""
    frame = frame_of(path, base, custody, lane, seq)
    return None if frame is None else frame.digest


def is_bytes(value: object, length: int) -> bool:
    """Whether a column holds bytes of this length."""
    return isinstance(value, bytes) and len(value) == length


def _heads_checksum(held: HeldHeads) -> bytes:
    body = b"".join(
        (
            held.custody,
            bytes([held.lane]),
            # Under the checksum, so that a damaged byte cannot turn a backup into a custody that
            # signs.
            held.health.encode(),
            held.frames.to_bytes(8),
            *(seq.to_bytes(8) + digest for seq, digest in (held.heads.trader, held.heads.solver)),
        )
    )
    return blake2b(body, digest_size=8).digest()
