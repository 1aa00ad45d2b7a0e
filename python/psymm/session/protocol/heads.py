"""Our heads, and how we show them: signed over the peer's challenge (`spec.md` 69)."""

from __future__ import annotations

from psymm.messages import JournalStatus, Resume
from psymm.session.protocol import keys
from psymm.session.protocol.effects import Effects
from psymm.session.protocol.signing import send_text
from psymm.session.protocol.state import SessionState
from psymm.transcript.agreement import SOLVER, TRADER


def our_heads(s: SessionState) -> Resume:
    """Our heads as a Resume, unsigned."""
    trader, solver = s.record.heads[TRADER].seq, s.record.heads[SOLVER].seq
    return Resume(
        custody=s.record.agreement.custody,
        trader_seq=trader,
        trader_digest=s.record.digest(TRADER, trader),
        solver_seq=solver,
        solver_digest=s.record.digest(SOLVER, solver),
        journal_status=JournalStatus.RESTORED if s.recovery.health == "read-only" else None,
    )


def head_of(heads: Resume, lane: int) -> tuple[int, bytes]:
    """The head of one lane: its number and digest."""
    if lane == TRADER:
        return heads.trader_seq, heads.trader_digest
    return heads.solver_seq, heads.solver_digest


def same_heads(one: Resume, other: Resume) -> bool:
    """Whether two resumes state the same heads. Signatures are not compared."""
    return all(head_of(one, lane) == head_of(other, lane) for lane in (TRADER, SOLVER))


def show_heads(s: SessionState, out: Effects, now: int) -> bool:
    """Sign our heads over the peer's challenge and send them; False if that is not possible yet.

    The solver shows its heads only to a peer that has proved itself. The trader must begin, so it
    shows them to the peer that it dialled.
    """
    connection = s.connection
    if connection is None or connection.peer_challenge is None:
        return False
    if not connection.proven and s.lane != TRADER:
        return False
    prover = keys.prover(s, now)
    if prover is None:
        return False
    heads = our_heads(s)
    send_text(s, out, prover.sign(s.record.agreement, connection.peer_challenge, heads), now)
    return True


def announce_heads(s: SessionState, out: Effects, now: int) -> None:
    """Show our heads, and remember what we showed."""
    if s.connection is not None and show_heads(s, out, now):
        s.connection.shown_heads = our_heads(s)
