"""Retention: a journal's checkpoints, and what it keeps of frames that were pruned.

Pruning removes frames from the oldest arrival on, without holes, and never one that a record needs
to begin at its checkpoint. A session must know a few kinds of frames for its whole life: logons,
keys, notes, settlements, and Rejects of these. Pruned frames of these kinds are kept in a table of
their own.

All functions run in the journal's thread, within its transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from psymm._core import Frame
from psymm.errors import CheckpointRefused, JournalConflict
from psymm.journal.rounds import delete_before
from psymm.transcript.agreement import SOLVER, TRADER
from psymm.transcript.checkpoint import Point

SCHEMA: Final = """
CREATE TABLE checkpoints (
  custody BLOB NOT NULL REFERENCES custodies, trader_seq INTEGER NOT NULL,
  solver_seq INTEGER NOT NULL, account_hash BLOB NOT NULL, trader_said INTEGER NOT NULL,
  solver_said INTEGER NOT NULL, account BLOB NOT NULL, PRIMARY KEY (custody, solver_seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE pruned (
  custody BLOB PRIMARY KEY REFERENCES custodies, arrivals INTEGER NOT NULL,
  trader_seq INTEGER NOT NULL, solver_seq INTEGER NOT NULL, begins INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE retained (
  custody BLOB NOT NULL REFERENCES custodies, arrival INTEGER NOT NULL,
  lane INTEGER NOT NULL, seq INTEGER NOT NULL, digest BLOB NOT NULL, raw BLOB NOT NULL,
  PRIMARY KEY (custody, arrival)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was pruned of a custody."""

    arrivals: int = 0
    """The first places, up to this one."""
    trader_seq: int = 0
    """The trader's frames up to this one."""
    solver_seq: int = 0
    """The solver's frames up to this one."""
    starts_at: int = 0
    """The solver_seq of the checkpoint at which the rest begins; 0 if nothing was pruned."""

    @property
    def seqs(self) -> tuple[int, int]:
        """By lane."""
        return self.trader_seq, self.solver_seq


def pruned_of(base: sqlite3.Connection, custody: bytes) -> Pruned:
    row = base.execute(
        "SELECT arrivals, trader_seq, solver_seq, begins FROM pruned WHERE custody = ?", (custody,)
    ).fetchone()
    return Pruned() if row is None else Pruned(*row)


def all_pruned(base: sqlite3.Connection) -> dict[bytes, Pruned]:
    """What was pruned, by custody. Custodies without pruned frames are left out."""
    rows = base.execute("SELECT custody, arrivals, trader_seq, solver_seq, begins FROM pruned")
    return {bytes(row[0]): Pruned(*row[1:]) for row in rows}


def keep(base: sqlite3.Connection, custody: bytes, point: Point, account: bytes) -> None:
    """Store a checkpoint in force, and delete older ones that are not needed.

    The one at which the held frames begin is still needed.
    """
    base.execute(
        "INSERT OR IGNORE INTO checkpoints VALUES (?,?,?,?,?,?,?)",
        (custody, *point.seqs, point.account_hash, *point.said, account),
    )
    base.execute(
        "DELETE FROM checkpoints WHERE custody = ? AND solver_seq < ? AND solver_seq != ?",
        (custody, point.solver_seq, pruned_of(base, custody).starts_at),
    )


def checkpoints_of(base: sqlite3.Connection, custody: bytes) -> list[tuple[Point, bytes]]:
    """Checkpoints with their accounts' documents, the oldest first."""
    rows = base.execute(
        "SELECT account_hash, trader_seq, solver_seq, trader_said, solver_said, account"
        " FROM checkpoints WHERE custody = ? ORDER BY solver_seq",
        (custody,),
    )
    return [(Point(bytes(row[0]), row[1], row[2], (row[3], row[4])), bytes(row[5])) for row in rows]


def retained_of(
    base: sqlite3.Connection, custody: bytes
) -> list[tuple[int, int, int, bytes, bytes]]:
    """Arrival, lane, seq, digest and bytes of pruned frames that are kept."""
    return base.execute(
        "SELECT arrival, lane, seq, digest, raw FROM retained WHERE custody = ? ORDER BY arrival",
        (custody,),
    ).fetchall()


def leaving(point: Point, before: Pruned, frames: Iterable[tuple[int, int, int, bytes]]) -> Pruned:
    """What can be pruned if the record begins at `point`.

    `frames` is (arrival, lane, seq, raw) of all held frames, in order. Raises CheckpointRefused if
    a frame that the record needs is not among them.
    """
    held = list(frames)
    heads = (raw for _, lane, seq, raw in held if (lane, seq) == (TRADER, point.trader_seq))
    head = next(heads, None)
    if head is None:
        raise CheckpointRefused("a frame that it needs is not here", solver_seq=point.solver_seq)
    covered = Frame.parse(head).peer_seq
    first = min(
        arrival
        for arrival, lane, seq, _ in held
        if (lane == TRADER and seq >= point.trader_seq) or (lane == SOLVER and seq > covered)
    )
    gone = [before.trader_seq, before.solver_seq]
    for arrival, lane, seq, _ in held:
        if arrival >= first:
            break
        gone[lane] = seq
    return Pruned(first - 1, gone[TRADER], gone[SOLVER], point.solver_seq)


def remove(
    path: Path,
    base: sqlite3.Connection,
    custody: bytes,
    gone: Pruned,
    retained: Sequence[tuple[int, int, int, bytes, bytes]],
) -> None:
    """Remove the frames that `gone` counts, and keep the rows `retained` of them.

    Raises JournalConflict if the checkpoint is no longer the newest; then nothing has changed.
    """
    newest = base.execute(
        "SELECT max(solver_seq) FROM checkpoints WHERE custody = ?", (custody,)
    ).fetchone()[0]
    # The caller chose the frames before this transaction began, and the session may have agreed on
    # another checkpoint since.
    if newest != gone.starts_at or pruned_of(base, custody).arrivals > gone.arrivals:
        raise JournalConflict(
            "a newer checkpoint came into force meanwhile; nothing was removed, do it again",
            custody=custody,
        )
    base.executemany(
        "INSERT OR REPLACE INTO retained VALUES (?,?,?,?,?,?)",
        [(custody, *row) for row in retained],
    )
    delete_before(path, base, custody, gone.arrivals + 1)
    base.execute(
        "INSERT OR REPLACE INTO pruned VALUES (?,?,?,?,?)",
        (custody, gone.arrivals, gone.trader_seq, gone.solver_seq, gone.starts_at),
    )
    base.execute(
        "DELETE FROM checkpoints WHERE custody = ? AND solver_seq < ?", (custody, gone.starts_at)
    )
