"""The peer's frames that are held back: on the record and durable, but not judged, covered or told
of yet, in their order.

A frame is held back for one of two reasons, and all after it in its lane with it, since covering a
frame covers all before it:

- It is dated further ahead of our clock than the skew (`spec.md` 66). It is released at its time.
- It cites a fact that our own view of the chain has not reached (`spec.md` 65). It is released
  once that view has the fact, or is past the place where it should be: then it is a violation.

Until then the rulebook does not have the frame, so it changes nothing and moves no clock, and what
we sign meanwhile does not cover it. What we covered before was judged before: it is not held back,
also after a restart on which our clock or our view of the chain is behind.
"""

from __future__ import annotations

from psymm.errors import DatedAhead, OverBudget
from psymm.messages import ChainFact
from psymm.rulebook.inputs import has_come
from psymm.session.protocol.budget import MOST_AHEAD, SECOND
from psymm.session.protocol.chain_facts import Citation
from psymm.session.protocol.effects import CitationWaits, Effects, HeldBack
from psymm.session.protocol.signing import send_reject
from psymm.session.protocol.state import SessionState, arm
from psymm.transcript.record import RecordedFrame


def due(s: SessionState) -> int | None:
    """When the first may be released, as far as its date goes; None where nothing is held."""
    return s.held[0].frame.sending_time - s.params.skew_ns if s.held else None


def cited(s: SessionState) -> Citation | None:
    """The frame that waits for our view of the chain, if one does."""
    if s.rulebook is None:
        return None
    if s.held:
        frame, message = s.held[0].frame, s.held[0].message
        if isinstance(message, ChainFact) and s.rulebook.awaits(s.held[0]):
            return Citation(frame.lane, frame.seq, message)
    return s.rulebook.cited


def hold(s: SessionState, out: Effects, entry: RecordedFrame, now: int) -> bool:
    """Hold a frame of the peer back that has just come on the record, if it must wait."""
    # We covered it, so it was judged; to hold it back now would change what we signed on.
    if entry.frame.seq <= s.record.heads[s.lane].peer_seq:
        return False
    if not s.held and not must_wait(s, entry, now):
        return False
    # All after it too: our cover names a number, and covers all before that.
    s.held.append(entry)
    s.attention = True
    if s.connection is not None:
        arm(s.connection, s.held[0].frame.sending_time - s.params.skew_ns)
    if len(s.held) == 1:
        tell(s, out, now)
    return True


def full(s: SessionState) -> OverBudget | None:
    """Why no more of the peer's frames are taken, where so many are held back."""
    if len(s.held) <= MOST_AHEAD:
        return None
    return OverBudget("frames that are held back", held=len(s.held), most=MOST_AHEAD)


def must_wait(s: SessionState, entry: RecordedFrame, now: int) -> bool:
    """Whether a frame cannot take effect yet."""
    if not has_come(entry.frame.sending_time, now, s.params.skew_ns):
        return True
    return (
        isinstance(entry.message, ChainFact) and s.rulebook is not None and s.rulebook.awaits(entry)
    )


def tell(s: SessionState, out: Effects, now: int) -> None:
    """Name the first, once: to the application, and to the peer if its date is why and far."""
    entry, frame = s.held[0], s.held[0].frame
    if frame.seq == s.held_told:
        return
    s.held_told = frame.seq
    if has_come(frame.sending_time, now, s.params.skew_ns):
        out.append(CitationWaits(entry))
        return
    ahead = DatedAhead(
        lane=frame.lane,
        seq=frame.seq,
        ahead_s=(frame.sending_time - now) // SECOND,
        skew_s=s.params.skew_ns / SECOND,
    )
    out.append(HeldBack(entry, ahead))
    if frame.sending_time - now > s.params.acknowledge_ns + s.params.skew_ns:
        # A clock that is a little ahead is no news. This one cannot be covered within T.
        kind = "frame" if entry.message is None else entry.message.MSG_TYPE
        send_reject(s, out, now, kind, str(ahead))
