"""Frames of the peer that are held back: recorded and durable, but not judged, covered or reported.

A frame is held back for one of two reasons:

- It is dated further ahead of our clock than the skew (`spec.md` 66). It is released at its time.
- It cites a fact that our view of the chain has not reached (`spec.md` 65). It is released once the
  view has the fact, or has passed its block without it; then the citation is a violation.

All later frames of the lane wait with it, because a cover of one frame covers all before it.

The rulebook does not see a held frame. So the frame changes nothing and moves no clock, and the
frames that we sign meanwhile do not cover it. A frame that we covered before was judged before, so
it is not held back, even if a restart finds our clock or our view of the chain behind.
"""

from __future__ import annotations

from psymm.errors import DatedAhead, OverBudget
from psymm.messages import ChainFact
from psymm.rulebook.inputs import has_come
from psymm.session.protocol.budget import MOST_AHEAD, SECOND
from psymm.session.protocol.chain_facts import Citation
from psymm.session.protocol.effects import CitationWaits, Effects, HeldBack
from psymm.session.protocol.signing import send_reject
from psymm.session.protocol.state import SessionState
from psymm.transcript.record import RecordedFrame


def due(s: SessionState) -> int | None:
    """When the date of the first held frame allows its release; None if nothing is held."""
    return s.held[0].frame.sending_time - s.params.skew_ns if s.held else None


def cited(s: SessionState) -> Citation | None:
    """The frame that waits for our view of the chain, or None."""
    if s.rulebook is None:
        return None
    if s.held:
        frame, message = s.held[0].frame, s.held[0].message
        if isinstance(message, ChainFact) and s.rulebook.awaits(s.held[0]):
            return Citation(frame.lane, frame.seq, message)
    return s.rulebook.cited


def hold(s: SessionState, out: Effects, entry: RecordedFrame, now: int) -> bool:
    """Hold back a frame of the peer that was just recorded, if it must wait. True if held."""
    # We covered it, so it was judged. Holding it back now would change what we signed on.
    if entry.frame.seq <= s.record.heads[s.lane].peer_seq:
        return False
    if not s.held and not must_wait(s, entry, now):
        return False
    # Later frames wait, too: our cover names a number, and covers all frames up to it.
    s.held.append(entry)
    s.attention = True  # So the deadlines are read anew, too.
    if len(s.held) == 1:
        tell(s, out, now)
    return True


def full(s: SessionState) -> OverBudget | None:
    """The error if too many frames are held back to accept more, or None."""
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
    """Report the first held frame once to the application.

    The peer hears of it, too, if the frame is dated so far ahead that we cannot cover it within T.
    """
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
        # A clock that is slightly ahead is normal. This frame cannot be covered within T.
        kind = "frame" if entry.message is None else entry.message.MSG_TYPE
        send_reject(s, out, now, kind, str(ahead))
