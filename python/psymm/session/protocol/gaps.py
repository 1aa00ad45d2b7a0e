"""Gaps in a lane: request missing frames of the peer, and resend the frames that it requests.

We repeat a request with growing delays, at most `RESEND_TRIES` times, then disconnect. Frames are
resent byte for byte.
"""

from __future__ import annotations

from typing import Final

from psymm._core import Frame
from psymm.errors import PeerSilent
from psymm.messages import ResendRequest
from psymm.session.protocol import keys
from psymm.session.protocol.budget import MOST_REPEATED, MOST_RESENT, MOST_RESENT_BYTES, SECOND
from psymm.session.protocol.effects import Effects, ResendCompacted, SendFrame
from psymm.session.protocol.heads import show_heads
from psymm.session.protocol.signing import disconnect, send_text
from psymm.session.protocol.state import AGAIN_NS, ConnectionState, SessionState, arm

RESEND_TRIES: Final = 5

# --- what we lack --------------------------------------------------------------------------------


def found(s: SessionState, connection: ConnectionState, out: Effects, frame: Frame) -> None:
    """A frame of the peer lies beyond a gap: ask for the missing frames."""
    # Only a frame that the peer signed says how far its lane goes.
    if frame.seq > connection.gap.until and keys.signer(s.record, frame) is not None:
        connection.gap.until = frame.seq
    ask(s, connection, out, s.record.heads[s.peer].seq + 1)


def ask(s: SessionState, connection: ConnectionState, out: Effects, begin: int) -> None:
    """Ask for the peer's lane from `begin` on, unless a request for it is pending."""
    if connection.gap.due is None or connection.gap.begin != begin:
        _ask(s, connection, out, begin, 1)


def ask_again(s: SessionState, connection: ConnectionState, out: Effects) -> None:
    """The requested frames did not arrive in time: ask again, or give up."""
    gap = connection.gap
    if gap.tries >= RESEND_TRIES:
        gap.due = None
        lacking = PeerSilent("the peer does not resend what we lack", begin_seq=gap.begin)
        disconnect(s, out, lacking)
        return
    _ask(s, connection, out, gap.begin, gap.tries + 1)


def came(s: SessionState, connection: ConnectionState, seq: int) -> None:
    """The peer's next frame was recorded while a gap is open.

    Each frame restarts the timer. So we do not repeat a request that is being answered, but do
    repeat it if the answer stops short.
    """
    gap = connection.gap
    if seq >= gap.until:
        gap.due = None
    else:
        gap.begin, gap.due, gap.tries = seq + 1, s.now + 2 * SECOND, 1
        arm(connection, gap.due)


def _ask(
    s: SessionState, connection: ConnectionState, out: Effects, begin: int, tries: int
) -> None:
    gap = connection.gap
    # Two seconds, then twice as long each time: a slow answer must not be asked for over and over.
    gap.begin, gap.due, gap.tries = begin, s.now + (1 << tries) * SECOND, tries
    arm(connection, gap.due)
    s.resends_asked += 1
    send_text(s, out, ResendRequest(begin_seq_no=begin, end_seq_no=0), s.now)


# --- what the peer lacks -------------------------------------------------------------------------


def answer(
    s: SessionState, connection: ConnectionState, out: Effects, asked: ResendRequest
) -> None:
    """Answer a resend request. At most one answer a second for each lane."""
    lane = s.lane if asked.lane is None else int(asked.lane)
    sent = resend_at_most(s, out, asked.begin_seq_no, asked.end_seq_no, lane)
    if sent and asked.begin_seq_no > connection.asked_from[lane]:
        # The peer asks for later frames, so it makes progress: extend the resume timeout. A peer
        # that repeats the same request gets no extension.
        connection.asked_from[lane] = asked.begin_seq_no
        connection.progress = s.now


def resend_at_most(s: SessionState, out: Effects, begin: int, end: int, lane: int) -> int:
    """As `resend`, at most once a second for each lane."""
    # Counted for the custody, not the connection, so a peer cannot evade it by reconnecting.
    if s.now - s.resent_at[lane] < AGAIN_NS:
        return 0
    s.resent_at[lane] = s.now
    return resend(s, out, begin, end, lane)


def resend(s: SessionState, out: Effects, begin: int, end: int, lane: int) -> int:
    """Resend a lane's frames begin…end, byte for byte. Returns how many.

    If they begin before a checkpoint, only the compacted ones are sent. Our heads then tell the
    peer that there are more.

    Args:
        begin: the first frame.
        end: the last frame; 0 means the lane's head.
        lane: 0 trader, 1 solver.
    """
    head = s.record.heads[lane].seq
    first, last = max(begin, 1), head if end == 0 else min(end, head)
    if first <= min(last, s.record.compacted(lane)):
        return _resend_compacted(s, out, lane, first, last)
    count = size = 0
    for seq in range(first, last + 1):
        if count >= MOST_RESENT or size >= MOST_RESENT_BYTES:
            # Our heads tell the peer that there is more. It then asks from where it has come to.
            show_heads(s, out, s.now)
            break
        entry = s.record.entry(lane, seq)
        if entry is not None:
            out.append(SendFrame(entry))
            count += 1
            size += len(entry.frame.raw)
    if count:
        _count(s, count)
    return count


def _resend_compacted(s: SessionState, out: Effects, lane: int, first: int, last: int) -> int:
    """Resend frames from the journal, as many as one answer holds."""
    until = min(last, s.record.compacted(lane), first + MOST_REPEATED - 1)
    out.append(ResendCompacted(lane, first, until))
    if last > first:
        show_heads(s, out, s.now)
    _count(s, until - first + 1)
    return until - first + 1


def _count(s: SessionState, frames: int) -> None:
    s.frames_resent += frames
    if s.connection is not None:
        s.connection.last_sent = s.now
