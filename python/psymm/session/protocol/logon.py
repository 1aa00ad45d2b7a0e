"""The logon sequence: steps that an end takes unprompted, one frame at a time.

They are its Logon, its collateral, the answer to a Logout, and the citation of the settlement,
which closes the custody. `dispatch` calls `step` until nothing is due. Each call derives the next
step from the record.

    trader                                  solver
    signs its Logon, opens its notes
                                            verifies the notes on chain, signs its Logon
                                            funds and lists its notes (AY)
                                            accepts the trader's notes (AZ)
    covers the listing                      opens its notes
    verifies and accepts them (AZ)          covers the acceptance: trading is open

A Logout stops none of these steps: it forbids opening and nothing else (`spec.md` 63). The answer
records that this side opens nothing more, either.
"""

from __future__ import annotations

from psymm.errors import LogonRefused
from psymm.messages import ChainFact, FactKind, Heartbeat, Logon, Logout
from psymm.session.protocol import collateral
from psymm.session.protocol.effects import Effects, KeyDue
from psymm.session.protocol.signing import (
    coverable,
    is_uncovered,
    may_sign,
    send_reject,
    sign,
    stop,
)
from psymm.session.protocol.state import SessionState, arm
from psymm.transcript.agreement import SOLVER, TRADER


def step(s: SessionState, out: Effects, now: int) -> bool:
    """Take one step towards trading, or towards the end. False if nothing is due."""
    if not may_sign(s, now):
        return False
    mine, theirs = s.lifecycle.logons[s.lane], s.lifecycle.logons[s.peer]
    if mine is None:
        return _log_on(s, out, theirs, now)
    # The solver signs nothing before it has verified the notes, so the trader opens them first.
    if theirs is None:
        return s.lane == TRADER and collateral.send_openings(s, out, now)
    if s.lane == TRADER:
        refusal = refuses_logon(s, theirs)
        if refusal is not None:
            stop(s, out, refusal)
            return False
    turned_down = s.lifecycle.turned_down[s.lane]
    if turned_down is not None and not s.lifecycle.accepted_at[s.lane]:
        stop(s, out, collateral.refusal_of(turned_down))
        return False
    if collateral.send_openings(s, out, now) or collateral.step(s, out, now):
        return True
    # The collateral step may have refused the peer's notes and stopped the session.
    return s.error is None and _step_out(s, out, now)


def _log_on(s: SessionState, out: Effects, theirs: Logon | None, now: int) -> bool:
    """Sign our Logon.

    The trader signs first. The solver signs once the trader's Logon is in order and its notes are
    on chain.
    """
    if s.lane == SOLVER:
        if theirs is None:
            return False
        refusal = refuses_logon(s, theirs)
        if refusal is not None:
            send_reject(s, out, now, "A", str(refusal))
            stop(s, out, refusal)
            return False
        if not collateral.is_judged(s):
            # A stranger gets no frame of ours before our chain has its notes: so a custody that it
            # leaves can be forgotten (`spec.md` 68).
            collateral.step_verify(s, out)
            return False
    if s.keys.logon is None:
        return False
    sign(s, out, s.keys.logon, now)
    if s.connection is not None:
        arm(s.connection, s.connection.progress + s.params.response_timeout_ns)
    out.append(KeyDue())
    return True


def _step_out(s: SessionState, out: Effects, now: int) -> bool:
    """The steps that end a custody: the answer to a Logout, the citation, and its cover."""
    life = s.lifecycle
    # Answered even while something is open: a Logout forbids only opening.
    if life.logouts[s.peer] and not life.logouts[s.lane]:
        sign(s, out, Logout(), now)
        return True
    if s.mined is not None and life.settled is None and life.proposal is not None:
        return _cite(s, out, now)
    if life.settled is not None and is_uncovered(s) and coverable(s):
        sign(s, out, Heartbeat(), now)
        return True
    return False


def _cite(s: SessionState, out: Effects, now: int) -> bool:
    """Cite the mined settlement. One citation is enough.

    The solver cites at once, because its frames take effect where they are. The trader cites only
    if the solver has not done so after half a response timeout.
    """
    if s.mined is None or s.lifecycle.proposal is None:
        return False
    mined, learned_at = s.mined
    if s.lane == TRADER and now < learned_at + s.params.response_timeout_ns // 2:
        return False
    citation = ChainFact(
        fact_kind=FactKind.SPENT,
        block_number=mined.block,
        transaction_hash=mined.transaction,
        nullifier=s.lifecycle.proposal[2].nullifier0,
    )
    sign(s, out, citation, now)
    return True


def refuses_logon(s: SessionState, logon: Logon) -> LogonRefused | None:
    """Why we refuse the peer's Logon, or None."""
    if logon.terms_hash != s.params.terms_hash:
        return LogonRefused(
            "the Logon names other terms", theirs=logon.terms_hash, ours=s.params.terms_hash
        )
    if not 1 <= logon.heart_bt_int <= 3600:
        return LogonRefused("HeartBtInt is out of range", heart_bt_int=logon.heart_bt_int)
    if s.peer == TRADER and not logon.notes:
        return LogonRefused("the trader's Logon lists no notes")
    return s.bad_logon
