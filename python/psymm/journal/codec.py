"""Rows of custodies in a journal: their content, and how damage to them is detected."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from psymm.errors import JournalCorrupt, Missing
from psymm.transcript.agreement import SOLVER, CustodyAgreement
from psymm.transcript.heads import Heads, Health
from psymm.transcript.introduction import INTRODUCTION_BYTES, SignedIntroduction

CustodyState = Literal["handshake", "funding", "open", "settling", "closed", "stopped"]


@dataclass(frozen=True, slots=True)
class JournalledFrame:
    """A frame as the journal holds it."""

    arrival: int
    """Its place in the custody, from 1."""
    lane: int
    seq: int
    digest: bytes
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class HeldHeads:
    """A custody's heads."""

    custody: bytes
    lane: int
    """Ours."""
    health: Health
    heads: Heads
    frames: int = 0
    """Of both lanes, including pruned ones."""


@dataclass(frozen=True, slots=True)
class JournalledCustody:
    """A custody as the journal holds it."""

    agreement: CustodyAgreement
    lane: int
    """Ours."""
    endpoint: str
    """The peer's; empty for a solver."""
    nonce: bytes = field(repr=False)
    """Ours in the handshake."""
    ours: int
    """What we announced as collateral, token units."""
    announced_collateral: int
    """What the peer announced, token units."""
    state: CustodyState
    reason: str
    """Why it is in this state; may be empty."""
    frames: int
    """Of both lanes, including pruned ones."""
    health: Health = "complete"
    introduction: SignedIntroduction | None = field(default=None, repr=False)
    """What the solver signed before we funded; None if we are the solver."""
    delivered: int = 0
    """Our highest frame that the peer is known to have. Covers are not counted here."""


def custody_row(
    agreement: CustodyAgreement,
    lane: int,
    state: CustodyState,
    *,
    endpoint: str = "",
    handshake: bytes = bytes(64),
    opened_ns: int = 0,
) -> tuple[Any, ...]:
    """A row of `custodies`.

    `handshake` is our nonce (32 bytes), then our and the peer's announced collateral (16 bytes
    each). A trader's continues with what the solver signed.
    """
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
        0,
    )


def insert_custody(base: sqlite3.Connection, row: Sequence[Any]) -> None:
    """Write a row of `custodies`."""
    base.execute(
        "INSERT INTO custodies (custody, lane, chain_id, contract, trader, solver, terms, salt,"
        " endpoint, handshake, state, reason, opened_ns, delivered)"
        " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        row,
    )


_OF_A_CUSTODY: Final = (
    *("rounds", "heads", "session_keys", "openings", "settlements", "equivocations", "facts"),
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
"""The tables with rows of a custody. Tables that others reference come last."""


def is_strangers(base: sqlite3.Connection, custody: bytes) -> bool:
    """Whether the custody can be forgotten: only its trader spoke, and ours is the solver's lane.

    We signed nothing, or only refused its collateral and stopped. The journal lost nothing of it,
    and no note is known to be in it.
    """
    found = base.execute(
        "SELECT c.lane, c.state, c.reason, h.health, h.solver_seq FROM custodies c"
        " JOIN heads h ON h.custody = c.custody WHERE c.custody = ?",
        (custody,),
    ).fetchone()
    if found is None or found[0] != SOLVER or found[3] != "complete":
        return False
    # Two frames at most: our Logon and the AZ that refuses.
    refused = found[1] == "stopped" and found[2].startswith("collateral-") and found[4] <= 2
    kept = [
        base.execute(f"SELECT 1 FROM {table} WHERE custody = ?", (custody,)).fetchone()  # noqa: S608
        for table in ("openings", "settlements", "facts", "equivocations")
    ]
    return (found[4] == 0 or refused) and not any(kept)


def drop_custody(base: sqlite3.Connection, custody: bytes) -> int:
    """Delete all rows of a custody; returns how many frames there were."""
    query = "SELECT coalesce(sum(frames), 0) FROM rounds WHERE custody = ?"
    ((frames,),) = base.execute(query, (custody,))
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


def update_delivered(base: sqlite3.Connection, custody: bytes, seq: int) -> None:
    """The peer has our frames up to `seq`."""
    base.execute(
        "UPDATE custodies SET delivered = max(delivered, ?) WHERE custody = ?", (seq, custody)
    )


def update_introduction(
    base: sqlite3.Connection, custody: bytes, introduction: SignedIntroduction
) -> None:
    """Store what the solver signed for the same handshake. Only its last signature counts."""
    ((handshake,),) = base.execute("SELECT handshake FROM custodies WHERE custody = ?", (custody,))
    base.execute(
        "UPDATE custodies SET handshake = ? WHERE custody = ?",
        (handshake[:64] + introduction.to_bytes(), custody),
    )


def reopen_logged_out(base: sqlite3.Connection) -> None:
    """Reopen custodies that an earlier version closed because both sides had logged out.

    Every settled custody has the chain fact that says so. All others can still be settled
    (`spec.md` 63).
    """
    base.execute(
        "UPDATE custodies SET state = 'open' WHERE state = 'closed'"
        " AND NOT EXISTS (SELECT 1 FROM facts WHERE facts.custody = custodies.custody)"
    )


def custody_rows(base: sqlite3.Connection, custody: bytes | None = None) -> list[tuple[Any, ...]]:
    """Rows for `custody_of`: of one custody, or of all, oldest first."""
    columns = (
        "SELECT custody, chain_id, contract, trader, solver, terms, salt, lane, endpoint,"
        " handshake, state, reason, delivered FROM custodies"
    )
    if custody is None:
        return base.execute(columns + " ORDER BY opened_ns, custody").fetchall()
    return base.execute(columns + " WHERE custody = ?", (custody,)).fetchall()


def is_handshake(value: object) -> bool:
    """Whether it can be what a row of `custodies` keeps of the handshake."""
    return isinstance(value, bytes) and len(value) in (64, 64 + INTRODUCTION_BYTES)


def custody_of(row: tuple[Any, ...], heads: HeldHeads) -> JournalledCustody:
    """A row of `custody_rows`, with the custody's heads. Raises JournalCorrupt, BadOpening where
    it is damaged."""
    key, chain_id, contract, trader, solver, terms, salt = row[:7]
    lane, endpoint, handshake, state, reason, delivered = row[7:]
    agreement = CustodyAgreement(chain_id, contract, trader, solver, terms, salt)
    if agreement.custody != key:
        raise JournalCorrupt(
            "an opening does not give its custody id",
            missing=[Missing(key, "opening")] if isinstance(key, bytes) else [],
        )
    intact = (
        lane == heads.lane
        and is_handshake(handshake)
        and isinstance(endpoint, str)
        and isinstance(reason, str)
        and isinstance(delivered, int)
        and state in get_args(CustodyState)
    )
    if not intact:
        raise JournalCorrupt(
            "a custody's row is damaged", missing=[Missing(agreement.custody, "opening")]
        )
    return JournalledCustody(
        agreement=agreement,
        lane=heads.lane,
        endpoint=endpoint,
        nonce=handshake[:32],
        ours=int.from_bytes(handshake[32:48]),
        announced_collateral=int.from_bytes(handshake[48:64]),
        state=state,
        reason=reason,
        frames=heads.frames,
        health=heads.health,
        introduction=SignedIntroduction.from_bytes(handshake[64:]) if handshake[64:] else None,
        delivered=delivered,
    )
