"""A journal's rows of custodies and frames: what each says, and how a damaged one is told.

Each frame has a checksum that binds it to its place.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Literal, get_args

from psymm.errors import JournalCorrupt, Missing
from psymm.journal import retention
from psymm.journal.heads import read_heads
from psymm.transcript.agreement import SOLVER, CustodyAgreement
from psymm.transcript.heads import Health
from psymm.transcript.introduction import INTRODUCTION_BYTES, SignedIntroduction

FRAMES: Final = "SELECT arrival, lane, seq, digest, raw, sent, checksum FROM frames"
"""Rows for `read_frame`."""
CustodyState = Literal["handshake", "funding", "open", "settling", "closed", "stopped"]


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
class JournalledCustody:
    """A custody as the journal holds it. lane: ours. endpoint: the peer's, '' for a solver.
    nonce: ours at the handshake. announced_collateral: what the peer said it would put up, token
    units; ours: what we did. introduction: what the solver signed before we funded, where we are
    the trader."""

    agreement: CustodyAgreement
    lane: int
    endpoint: str
    nonce: bytes = field(repr=False)
    ours: int
    announced_collateral: int
    state: CustodyState
    reason: str
    frames: int
    health: Health = "complete"
    introduction: SignedIntroduction | None = field(default=None, repr=False)


def frame_checksum(
    custody: bytes, arrival: int, lane: int, seq: int, digest: bytes, raw: bytes
) -> bytes:
    """Binds a frame's bytes to its place, against damage; against forgery it has its signature."""
    place = custody + arrival.to_bytes(8) + bytes([lane]) + seq.to_bytes(8) + digest
    return blake2b(place + raw, digest_size=8).digest()


def read_frame(custody: bytes, row: Sequence[Any]) -> JournalledFrame | None:
    """A row of `FRAMES` as it was written, or None where it is damaged."""
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


def journalled(path: Path, custody: bytes, row: Sequence[Any]) -> JournalledFrame:
    """As `read_frame`. Raises JournalCorrupt, naming it, where it is damaged."""
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


def frames_of(
    path: Path, base: sqlite3.Connection, custody: bytes, after: int, at_most: int | None
) -> list[JournalledFrame]:
    """A custody's frames after place `after`, the first `at_most` of them.

    Raises JournalCorrupt where a place is missing or a frame is damaged.
    """
    frames = [
        journalled(path, custody, row)
        for row in base.execute(
            FRAMES + " WHERE custody = ? AND arrival > ? ORDER BY arrival LIMIT ?",
            (custody, after, -1 if at_most is None else at_most),
        )
    ]
    gone = retention.pruned_of(base, custody).arrivals
    for place, frame in enumerate(frames, max(after, gone) + 1):
        if frame.arrival != place:
            raise JournalCorrupt("a frame is missing", journal=path, custody=custody, place=place)
    return frames


def lane_of(
    path: Path,
    base: sqlite3.Connection,
    custody: bytes,
    lane: int,
    between: tuple[int, int],
    at_most_bytes: int,
) -> list[JournalledFrame]:
    """A lane's frames by number, the first and the last included, those that are there; they end
    with the one that makes `at_most_bytes` of raw frames full.

    Raises JournalCorrupt where one is damaged.
    """
    rows = base.execute(
        FRAMES + " WHERE custody = ? AND lane = ? AND seq BETWEEN ? AND ? ORDER BY seq",
        (custody, lane, *between),
    )
    frames: list[JournalledFrame] = []
    size = 0
    for row in rows:
        frames.append(journalled(path, custody, row))
        size += len(frames[-1].raw)
        if size >= at_most_bytes:
            break
    rows.close()
    return frames


def custody_row(
    agreement: CustodyAgreement,
    lane: int,
    state: CustodyState,
    *,
    endpoint: str = "",
    handshake: bytes = bytes(64),
    opened_ns: int = 0,
) -> tuple[Any, ...]:
    """A row of `custodies`. handshake: our nonce (32 bytes), then what we put up and what the peer
    promised, 16 bytes each; a trader's goes on with what the solver signed."""
    return (
        agreement.custody,
        lane,
        agreement.chain_id,
        agreement.contract,
        agreement.trader,
        agreement.solver,
        agreement.terms,
        agreement.salt,
        endpoint,
        handshake,
        state,
        "",
        opened_ns,
    )


def insert_custody(base: sqlite3.Connection, row: Sequence[Any]) -> None:
    """Write a row of `custodies`."""
    base.execute(
        "INSERT INTO custodies (custody, lane, chain_id, contract, trader, solver, terms, salt,"
        " endpoint, handshake, state, reason, opened_ns) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
        row,
    )


_OF_A_CUSTODY: Final = (
    *("frames", "heads", "session_keys", "openings", "settlements", "equivocations", "facts"),
    *(
        "revocations",
        "revoked_frames",
        "recovering",
        "rescued",
        "checkpoints",
        "pruned",
        "retained",
    ),
    "custodies",
)
"""The tables with a custody's rows, those that others refer to last."""


def is_strangers(base: sqlite3.Connection, custody: bytes) -> bool:
    """Whether only its trader spoke in a custody, ours being the solver's lane: we signed nothing,
    or refused its collateral and stopped; nothing was lost, and no note is known to be in it."""
    found = base.execute(
        "SELECT c.lane, c.state, c.reason, h.health, h.solver_seq FROM custodies c"
        " JOIN heads h ON h.custody = c.custody WHERE c.custody = ?",
        (custody,),
    ).fetchone()
    if found is None or found[0] != SOLVER or found[3] != "complete":
        return False
    refused = found[1] == "stopped" and found[2].startswith("collateral-") and found[4] <= 2
    kept = [
        base.execute(f"SELECT 1 FROM {table} WHERE custody = ?", (custody,)).fetchone()  # noqa: S608
        for table in ("openings", "settlements", "facts", "equivocations")
    ]
    return (found[4] == 0 or refused) and not any(kept)


def drop_custody(base: sqlite3.Connection, custody: bytes) -> int:
    """Delete all rows of a custody; returns how many frames there were."""
    ((frames,),) = base.execute("SELECT count(*) FROM frames WHERE custody = ?", (custody,))
    for table in _OF_A_CUSTODY:
        base.execute(f"DELETE FROM {table} WHERE custody = ?", (custody,))  # noqa: S608
    return int(frames)


def update_state(
    base: sqlite3.Connection, custody: bytes, state: CustodyState, reason: str
) -> None:
    """Change a custody's state."""
    base.execute(
        "UPDATE custodies SET state = ?, reason = ? WHERE custody = ?", (state, reason, custody)
    )


def update_introduction(
    base: sqlite3.Connection, custody: bytes, introduction: SignedIntroduction
) -> None:
    """The solver has signed the same handshake again: only what it signed last is in force."""
    ((handshake,),) = base.execute("SELECT handshake FROM custodies WHERE custody = ?", (custody,))
    base.execute(
        "UPDATE custodies SET handshake = ? WHERE custody = ?",
        (handshake[:64] + introduction.to_bytes(), custody),
    )


def reopen_logged_out(base: sqlite3.Connection) -> None:
    """Custodies that an earlier version called closed because both sides had logged out: none that
    is settled is without the chain fact that says so, and all others can still be (`spec.md` 63).
    """
    base.execute(
        "UPDATE custodies SET state = 'open' WHERE state = 'closed'"
        " AND NOT EXISTS (SELECT 1 FROM facts WHERE facts.custody = custodies.custody)"
    )


def custody_rows(
    base: sqlite3.Connection, custody: bytes | None = None
) -> list[tuple[object, ...]]:
    """Rows for `custody_of`: of one custody, or of all, oldest first."""
    columns = (
        "SELECT chain_id, contract, trader, solver, terms, salt, c.lane, endpoint, handshake,"
        " state, reason, c.custody, h.* FROM custodies c LEFT JOIN heads h ON h.custody = c.custody"
    )
    if custody is None:
        return base.execute(columns + " ORDER BY opened_ns, c.custody").fetchall()
    return base.execute(columns + " WHERE c.custody = ?", (custody,)).fetchall()


def is_handshake(value: object) -> bool:
    """Whether it can be what a row of `custodies` keeps of the handshake."""
    return isinstance(value, bytes) and len(value) in (64, 64 + INTRODUCTION_BYTES)


def custody_of(row: tuple[object, ...]) -> JournalledCustody:
    """A row of `custody_rows`. Raises JournalCorrupt, BadOpening where it is damaged."""
    chain_id, contract, trader, solver, terms, salt = row[:6]
    lane, endpoint, handshake, state, reason, key = row[6:12]
    agreement = CustodyAgreement(chain_id, contract, trader, solver, terms, salt)  # type: ignore[arg-type]
    if agreement.custody != key:
        raise JournalCorrupt(
            "an opening does not give its custody id",
            missing=[Missing(key, "opening")] if isinstance(key, bytes) else [],
        )
    heads = read_heads(row[12:])
    if heads is None or heads.custody != key:
        raise JournalCorrupt(
            "a custody's heads are damaged", missing=[Missing(agreement.custody, "heads")]
        )
    intact = (
        lane == heads.lane
        and is_handshake(handshake)
        and isinstance(endpoint, str)
        and isinstance(reason, str)
        and state in get_args(CustodyState)
    )
    if not intact:
        raise JournalCorrupt(
            "a custody's row is damaged", missing=[Missing(agreement.custody, "opening")]
        )
    nonce: bytes = handshake  # type: ignore[assignment]
    return JournalledCustody(
        agreement=agreement,
        lane=heads.lane,
        endpoint=endpoint,  # type: ignore[arg-type]
        nonce=nonce[:32],
        ours=int.from_bytes(nonce[32:48]),
        announced_collateral=int.from_bytes(nonce[48:64]),
        state=state,  # type: ignore[arg-type]
        reason=reason,  # type: ignore[arg-type]
        frames=heads.frames,
        health=heads.health,
        introduction=SignedIntroduction.from_bytes(nonce[64:]) if nonce[64:] else None,
    )
