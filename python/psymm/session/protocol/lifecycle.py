"""The lifecycle of a custody: Logons, notes listed and accepted, settlements, Logouts.

It is derived from frames alone, so it is the same after a restart. What only the chain or a clock
can know comes in through `forget_output`, `expire` and the rulebook.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from psymm.messages import (
    BusinessMessageReject,
    ChainFact,
    Checkpoint,
    CollAsgnRespType,
    CollateralAssignment,
    CollateralResponse,
    FactKind,
    Heartbeat,
    Logon,
    Logout,
    NoteRef,
    QuoteCancel,
    Reject,
    SessionKeyChange,
    Settlement,
    SettlementAcceptance,
    SettlementOutput,
)
from psymm.session.protocol.budget import SECOND
from psymm.session.protocol.effects import Effects, StatusChanged, StoreStatus
from psymm.session.protocol.state import LifecycleState, SessionState
from psymm.session.protocol.status import SessionStatus
from psymm.transcript.agreement import SOLVER, TRADER
from psymm.transcript.record import RecordedFrame

READ: Final = (
    ChainFact,
    CollateralAssignment,
    CollateralResponse,
    Logon,
    Logout,
    Settlement,
    SettlementAcceptance,
)
"""Messages of the peer that change the lifecycle. Only for these must a violation be known."""

NO_BUSINESS: Final = (
    BusinessMessageReject,
    Checkpoint,
    Heartbeat,
    QuoteCancel,
    Reject,
    SessionKeyChange,
    Settlement,
    SettlementAcceptance,
    SettlementOutput,
)
"""Messages that ask nothing, offer nothing and change nothing: not business."""

APPLIED: Final = frozenset(
    (
        ChainFact,
        Checkpoint,
        CollateralAssignment,
        CollateralResponse,
        Logon,
        Logout,
        Reject,
        Settlement,
        SettlementAcceptance,
    )
)
"""Messages that `apply` handles. All others are business: they change no step or status."""


def apply(s: SessionState, entry: RecordedFrame) -> None:
    """Apply a frame that is in effect, ours or the peer's, new or from the journal."""
    if type(entry.message) in APPLIED:
        s.attention = True
        _apply(s, entry)


def _apply(s: SessionState, entry: RecordedFrame) -> None:
    life, lane, seq = s.lifecycle, entry.frame.lane, entry.frame.seq
    match entry.message:
        case Logon() as logon:
            # A later Logon must not add notes to those that the peer verifies.
            if life.logons[lane] is None:
                life.logons[lane] = logon
                _list(life, lane, seq, logon.notes)
        case CollateralAssignment() as assigned:
            _list(life, lane, seq, assigned.notes)
        case CollateralResponse() as answer:
            _answer(life, lane, seq, answer)
        case Logout():
            life.logouts[lane] = True
        case Reject() as reject:
            if lane == s.lane:
                life.rejected.add(reject.ref_seq_num)
        case Settlement() as proposal:
            # The peer holds our wallet's signature, even if the record refuses the proposal.
            if lane == s.lane:
                life.offered.append(proposal)
            # If two proposals cross, only the first one is alive.
            if _comes_first(s, entry):
                life.proposal = (lane, entry, proposal)
                life.acceptance = None
        case SettlementAcceptance() as accepted:
            alive = life.proposal
            if alive and alive[0] != lane and alive[1].frame.seq == accepted.ref_seq_num:
                life.acceptance = accepted
        case ChainFact() as fact:
            _cite(s, fact)
        case _:
            pass


def _answer(life: LifecycleState, lane: int, seq: int, answer: CollateralResponse) -> None:
    if answer.coll_asgn_resp_type is not CollAsgnRespType.ACCEPTED:
        life.turned_down[1 - lane] = answer
        return
    listed = life.listed[1 - lane]
    life.accepted[1 - lane].update(
        ref.commitment for ref in answer.commitments if ref.commitment in listed
    )
    # Trading waits until every listed note is accepted.
    complete = bool(listed) and life.accepted[1 - lane] >= set(listed)
    if complete and not life.accepted_at[1 - lane]:
        life.accepted_at[1 - lane] = seq


def _cite(s: SessionState, fact: ChainFact) -> None:
    life = s.lifecycle
    if fact.fact_kind is FactKind.SPENT and fact.nullifier is not None:
        life.spent.add(fact.nullifier)
        if _ends(life, fact.nullifier):
            life.settled = fact
    if fact.commitment is not None and s.rulebook and s.rulebook.occupied(fact.commitment):
        forget_output(life, fact.commitment)


# --- how far -------------------------------------------------------------------------------------


def status_of(s: SessionState) -> SessionStatus:
    """The session's status now. The first rule that applies decides."""
    life = s.lifecycle
    if s.error is not None:
        return SessionStatus.STOPPED
    if life.settled is not None:
        return SessionStatus.CLOSED if ended(s) else SessionStatus.SETTLING
    if life.offered or life.proposal is not None:
        return SessionStatus.SETTLING
    if life.trading_open or _opens_trading(s):
        return SessionStatus.TRADING
    return SessionStatus.LOGON if None in life.logons else SessionStatus.VERIFYING


def restate(s: SessionState, out: Effects) -> None:
    """Store and report the status if it changed. A journal under repair keeps its stored one."""
    status = status_of(s)
    if status is not s.status:
        s.status = status
        # Stored before it is reported: a restart never knows less than the application.
        if s.rulebook is not None:
            out.append(StoreStatus(status, s.error))
        out.append(StatusChanged(status))


def ended(s: SessionState) -> bool:
    """Whether the custody has ended.

    It has if no accepted note is unspent (`spec.md` 63) and no recorded frame waits to be ruled. A
    settlement that the peer cites counts once our chain has it. A Logout ends nothing: collateral
    can still be accepted after it, and only a settlement pays it out.
    """
    return s.lifecycle.settled is not None and not (s.rulebook and s.rulebook.waits)


def options(life: LifecycleState) -> list[Settlement]:
    """Settlements that may still be mined.

    These are the live proposal, and all that our wallet offered. The latter count even if the
    record refused them, because the peer holds the signature.
    """
    return [*life.offered, *([] if life.proposal is None else [life.proposal[2]])]


def forget_output(life: LifecycleState, commitment: bytes) -> None:
    """The tree already has this commitment: no settlement that creates it can be mined."""
    if life.proposal is not None and _makes(life.proposal[2], commitment):
        life.proposal = life.acceptance = None
    life.offered = [one for one in life.offered if not _makes(one, commitment)]


def forget_unsigned(life: LifecycleState, proposal: Settlement) -> None:
    """Drop a void proposal of the peer. Only its proposer has signed it."""
    alive = life.proposal
    if alive is not None and alive[2] is proposal and life.acceptance is None:
        life.proposal = None


def expire(life: LifecycleState, now: int) -> None:
    """Drop proposals whose deadline has passed without being mined. now: nanoseconds."""
    if life.proposal is not None and now >= life.proposal[2].deadline * SECOND:
        life.proposal = life.acceptance = None
    life.offered = [one for one in life.offered if now < one.deadline * SECOND]


def keep_expired(life: LifecycleState, before: LifecycleState) -> None:
    """After frames were revoked and the rest applied again: keep expired proposals expired."""
    life.offered = [one for one in life.offered if one in before.offered]
    if before.proposal is None:
        life.proposal = life.acceptance = None


def _comes_first(s: SessionState, entry: RecordedFrame) -> bool:
    """Whether a proposal comes alive.

    If two cross, the first in the linear order does: the solver's, unless it covers the trader's.
    """
    if s.lifecycle.proposal is None:
        return True
    lane, alive, proposal = s.lifecycle.proposal
    if entry.frame.sending_time > proposal.deadline * SECOND + s.params.skew_ns:
        return True
    return entry.frame.lane == SOLVER and lane == TRADER and entry.frame.peer_seq < alive.frame.seq


def _list(life: LifecycleState, lane: int, seq: int, notes: Iterable[NoteRef]) -> None:
    for note in notes:
        life.listed[lane].setdefault(note.commitment, note)
        life.listed_at[lane] = seq


def _ends(life: LifecycleState, spent: bytes) -> bool:
    """Whether every accepted note is spent, once this nullifier is."""
    alive = None if life.proposal is None else life.proposal[2]
    if alive is not None and spent in (alive.nullifier0, alive.nullifier1):
        return True
    notes = {
        listed[commitment].nullifier
        for listed, accepted in zip(life.listed, life.accepted, strict=True)
        for commitment in accepted
    }
    return bool(notes) and life.spent >= notes


def _opens_trading(s: SessionState) -> bool:
    """Whether both acceptances are in the linear order.

    The trader's is once a solver frame covers it.
    """
    life = s.lifecycle
    by_trader = life.accepted_at[SOLVER]
    life.trading_open = (
        bool(life.accepted_at[TRADER])
        and bool(by_trader)
        and s.record.heads[SOLVER].peer_seq >= by_trader
    )
    return life.trading_open


def _makes(proposal: Settlement, commitment: bytes) -> bool:
    return commitment in (proposal.commitment0, proposal.commitment1)
