"""The final acknowledgement: the solver has every frame of its trader, in an ended custody.

The trader's last frame is its citation of the settlement, or the Heartbeat that covers the
solver's. Nobody signs a frame that would cover it, and only the trader can dial. So the trader
leaves a custody only when it knows that the solver has that frame. It knows if the solver covers
it, shows it in its heads, or answers a TestRequest that was sent after it.
"""

from __future__ import annotations

from typing import Final

from psymm.messages import Resume, TestRequest
from psymm.session.protocol.effects import Delivered, Effects
from psymm.session.protocol.signing import send_text
from psymm.session.protocol.state import ConnectionState, SessionState, arm
from psymm.transcript.agreement import TRADER

_ASKED: Final = "ended-"
"""The prefix of TestRequests whose answer confirms that a frame has arrived."""


def acknowledged(s: SessionState) -> int:
    """The highest frame of our lane that the peer is known to have."""
    return max(s.final_ack.acknowledged, s.record.heads[s.peer].peer_seq)


def is_owed(s: SessionState) -> bool:
    """Whether the custody has ended and its solver may lack frames of ours."""
    has_ended = s.lane == TRADER and s.lifecycle.settled is not None
    return has_ended and acknowledged(s) < s.record.heads[s.lane].seq


def on_heads(s: SessionState, theirs: Resume) -> None:
    """The peer shows its heads."""
    if s.lane != TRADER or theirs.custody != s.record.agreement.custody:
        return
    seq, head = theirs.trader_seq, s.record.heads[TRADER].seq
    # The digest counts, not the number alone: the solver may hold another frame of this number.
    known = s.final_ack.acknowledged < seq <= head and s.record.knows(TRADER, seq)
    if known and s.record.digest(TRADER, seq) == theirs.trader_digest:
        s.final_ack.acknowledged = seq


def on_heartbeat(s: SessionState, connection: ConnectionState, test_req_id: str | None) -> None:
    """A Heartbeat of the peer. The peer has read everything sent before the request it answers."""
    asked = connection.final_asked
    if asked is not None and test_req_id == f"{_ASKED}{asked}":
        s.final_ack.acknowledged = max(s.final_ack.acknowledged, asked)


def advance(s: SessionState, connection: ConnectionState, out: Effects, now: int) -> None:
    """Ask for the acknowledgement, on a connection on which heads agree."""
    if s.lane != TRADER or s.lifecycle.settled is None:
        return
    head = s.record.heads[TRADER].seq
    if not is_owed(s):
        connection.final_since = None
        if not s.final_ack.told:
            s.final_ack.told = True
            out.append(Delivered(head))
        return
    if connection.final_since is None:
        connection.final_since = now
        arm(connection, now + s.params.response_timeout_ns)
    # A connection keeps order, so the answer proves that the peer has read all frames before it.
    if connection.final_asked != head:
        connection.final_asked = head
        send_text(s, out, TestRequest(test_req_id=f"{_ASKED}{head}"), now)
