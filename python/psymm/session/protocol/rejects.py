"""The peer's frames judged, and its violations rejected: each once, by the first frame of ours that
covers it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from psymm.errors import clip
from psymm.messages import Heartbeat, Reject, SessionRejectReason
from psymm.rulebook import FactsBehind, Ruling, Violation
from psymm.session.protocol.state import SessionState
from psymm.transcript.agreement import SOLVER
from psymm.transcript.record import RecordedFrame

_REASONS: Final = {
    "unknown-message": SessionRejectReason.INVALID_MSG_TYPE,
    "missing-field": SessionRejectReason.REQUIRED_TAG_MISSING,
    "unknown-field": SessionRejectReason.UNDEFINED_TAG,
    "bad-enum": SessionRejectReason.VALUE_INCORRECT,
}


def judge(s: SessionState, entry: RecordedFrame) -> Violation | None:
    """The violation that a peer's frame is, or None. A Reject is queued for it.

    Without a rulebook nothing is one.
    """
    if s.rulebook is None:
        return None
    frame, own = entry.frame, None
    if entry.bad_payload is not None:
        bad = entry.bad_payload
        own = Violation(bad.code, (("byte", str(bad.offset)),))
        queue_for(s, entry, own)
    elif s.lane == SOLVER and entry.message is not None:
        # The trader's frame takes effect later. What is wrong with it by now is said at once.
        # The trader learns of it now, and not with the next solver frame that covers it.
        own = s.rulebook.refuses(
            s.peer, entry.message, frame.sending_time, len(frame.payload), covers=frame.peer_seq
        )
        if own is not None and own.name == FactsBehind.code:
            own = None
        elif own is not None:
            queue_for(s, entry, own)
    for ruling in s.rulebook.arrived(entry):
        is_its_own = ruling.lane == s.peer and ruling.seq == frame.seq
        if is_its_own and entry.bad_payload is not None:
            continue  # named more exactly above
        queue(s, ruling)
        if is_its_own:
            own = ruling.violation
    return own


def queue(s: SessionState, ruling: Ruling) -> None:
    """Remember to reject the violation of a ruling, if it is the peer's."""
    if ruling.violation is not None and ruling.lane == s.peer:
        guilty = s.record.entry(s.peer, ruling.seq)
        if guilty is not None:
            queue_for(s, guilty, ruling.violation)


def queue_all(s: SessionState, rulings: Iterable[Ruling]) -> None:
    """The same for frames that waited for a fact."""
    for ruling in rulings:
        queue(s, ruling)


def queue_for(s: SessionState, guilty: RecordedFrame, violation: Violation) -> None:
    """Remember to reject a frame of the peer. Never a Reject itself: that would not end."""
    seq, message = guilty.frame.seq, guilty.message
    # Two ends would reject each other's Rejects without an end.
    if isinstance(message, Reject | Heartbeat) or seq in s.lifecycle.rejected:
        return
    if any(queued.ref_seq_num == seq for queued in s.rejects):
        return
    reason = _REASONS.get(violation.name)
    if reason is None:
        bad = guilty.bad_payload is not None
        reason = SessionRejectReason.INCORRECT_FORMAT if bad else SessionRejectReason.OTHER
    s.rejects.append(
        Reject(
            ref_seq_num=seq,
            violation=clip(violation.name, 64),
            ref_msg_type=None if message is None else message.MSG_TYPE,
            session_reject_reason=reason,
            text=clip(str(violation)) or None,
        )
    )


def drop_signed(s: SessionState) -> None:
    """What the record rejects already is queued no more."""
    s.rejects = [one for one in s.rejects if one.ref_seq_num not in s.lifecycle.rejected]
