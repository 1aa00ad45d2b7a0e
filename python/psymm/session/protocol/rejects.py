"""Judge the peer's frames, and queue a Reject for each violation.

Each violation is rejected once, by our first frame that covers it: only then is it a fault
(`spec.md` 28). `ruling.flush_rejects` signs the queue.
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
    """The violation in a frame of the peer, or None. Queues a Reject for it.

    Without a rulebook nothing is a violation.
    """
    if s.rulebook is None:
        return None
    frame, own = entry.frame, None
    if entry.bad_payload is not None:
        bad = entry.bad_payload
        own = Violation(bad.code, (("byte", str(bad.offset)),))
        queue_for(s, entry, own)
    elif s.lane == SOLVER and entry.message is not None:
        # A trader frame takes effect only when we cover it. Judge it now as well, so that the
        # trader learns of a violation at once.
        own = s.rulebook.refuses(
            s.peer, entry.message, frame.sending_time, len(frame.payload), covers=frame.peer_seq
        )
        # Our chain may reach the cited block before the frame takes effect.
        if own is not None and own.name == FactsBehind.code:
            own = None
        elif own is not None:
            queue_for(s, entry, own)
    for ruling in s.rulebook.arrived(entry):
        is_its_own = ruling.lane == s.peer and ruling.seq == frame.seq
        if is_its_own and entry.bad_payload is not None:
            continue  # The Reject queued above is more exact.
        queue(s, ruling)
        if is_its_own:
            own = ruling.violation
    return own


def queue(s: SessionState, ruling: Ruling) -> None:
    """Queue a Reject for the violation of a ruling, if it is the peer's."""
    if ruling.violation is not None and ruling.lane == s.peer:
        guilty = s.record.entry(s.peer, ruling.seq)
        if guilty is not None:
            queue_for(s, guilty, ruling.violation)


def queue_all(s: SessionState, rulings: Iterable[Ruling]) -> None:
    """Queue Rejects for several rulings."""
    for ruling in rulings:
        queue(s, ruling)


def queue_for(s: SessionState, guilty: RecordedFrame, violation: Violation) -> None:
    """Queue a Reject for a frame of the peer, once. Never for a Reject or a Heartbeat."""
    seq, message = guilty.frame.seq, guilty.message
    # Otherwise both sides would reject each other's Rejects forever.
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
    """Remove queued Rejects of frames that the record already rejects."""
    s.rejects = [one for one in s.rejects if one.ref_seq_num not in s.lifecycle.rejected]
