"""The peer's frames judged, and its violations rejected: each once, by the first frame of ours that
covers it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from psymm.errors import clip
from psymm.messages import Heartbeat, Reject, SessionRejectReason
from psymm.rulebook import FactsBehind
from psymm.session.context import ProtocolContext
from psymm.session.effects import FrameViolation
from psymm.session.params import Ledger
from psymm.transcript.agreement import SOLVER
from psymm.transcript.record import RecordedFrame


class RejectsContext(ProtocolContext, Protocol):
    """The protocol, as its rejects know it."""

    def may_sign(self, now: int) -> bool:
        """Whether anything may be signed now."""
        ...

    def within_limit(self) -> bool:
        """Whether that may be more than a Heartbeat."""
        ...


class Rejects:
    """owed: those yet to be signed, in the order in which the violations were found."""

    def __init__(self, protocol: RejectsContext, ledger: Ledger) -> None:
        self._protocol = protocol
        self._ledger = ledger
        self.queued: list[Reject] = []

    def judge(self, entry: RecordedFrame) -> FrameViolation | None:
        """The violation that a peer's frame is, or None; answered by a Reject."""
        protocol = self._protocol
        if entry.bad_payload is not None:
            bad = entry.bad_payload
            broken = FrameViolation(
                protocol.peer, bad.code, f"{bad.code} at byte {bad.offset} of the payload"
            )
            self.queue(entry, broken)
            for other in self._ledger.arrived(entry):
                if other.seq not in (None, entry.frame.seq) or other.lane != protocol.peer:
                    self.queue(entry, other)
            return broken
        own: FrameViolation | None = None
        if entry.message is not None and protocol.lane == SOLVER:
            frame = entry.frame
            own = self._ledger.refuses(
                protocol.peer,
                entry.message,
                frame.sending_time,
                len(frame.payload),
                covers=frame.peer_seq,
            )
            if own is not None and own.rule == FactsBehind.code:
                own = None
            elif own is not None:
                self.queue(entry, own)
        for broken in self._ledger.arrived(entry):
            self.queue(entry, broken)
            if broken.lane == protocol.peer and broken.seq in (None, entry.frame.seq):
                own = broken
        return own

    def queue(self, entry: RecordedFrame, broken: FrameViolation) -> None:
        """Remember to reject a violation of the peer's; never a Reject itself (no endless talk)."""
        protocol = self._protocol
        seq = entry.frame.seq if broken.seq is None else broken.seq
        if broken.lane != protocol.peer:
            return
        guilty = protocol.record.entry(protocol.peer, seq)
        if guilty is None or isinstance(guilty.message, Reject | Heartbeat):
            return
        if seq in protocol.lifecycle.rejected or any(
            reject.ref_seq_num == seq for reject in self.queued
        ):
            return
        reason = _REASONS.get(broken.rule)
        if reason is None:
            bad = guilty.bad_payload is not None
            reason = SessionRejectReason.INCORRECT_FORMAT if bad else SessionRejectReason.OTHER
        self.queued.append(
            Reject(
                ref_seq_num=seq,
                violation=clip(broken.rule, 64),
                ref_msg_type=None if guilty.message is None else guilty.message.MSG_TYPE,
                session_reject_reason=reason,
                text=clip(broken.detail) or None,
            )
        )

    def queue_all(self, violations: Iterable[FrameViolation]) -> None:
        """The same for violations of frames that waited for a fact."""
        for broken in violations:
            if broken.seq is not None:
                entry = self._protocol.record.entry(broken.lane, broken.seq)
                if entry is not None:
                    self.queue(entry, broken)

    def flush(self, now: int) -> None:
        """Sign the Rejects that are owed, each the first frame of ours to cover its violation."""
        protocol = self._protocol
        while (
            self.queued
            and protocol.may_sign(now)
            and protocol.within_limit()
            and protocol.lifecycle.logons[protocol.lane] is not None
        ):
            reject = self.queued[0]
            covers = max(reject.ref_seq_num, protocol.record.head(protocol.lane).peer_seq)
            if covers > protocol.covers(now):
                return
            self.queued.pop(0)
            protocol.sign(reject, now, covers=covers)

    def drop_signed(self) -> None:
        """What the record rejects already is owed no more."""
        rejected = self._protocol.lifecycle.rejected
        self.queued = [reject for reject in self.queued if reject.ref_seq_num not in rejected]

    def revoke_from(self, seq: int) -> None:
        """The peer's frames from `seq` on left the record."""
        self.queued = [reject for reject in self.queued if reject.ref_seq_num < seq]


_REASONS: Final = {
    "unknown-message": SessionRejectReason.INVALID_MSG_TYPE,
    "missing-field": SessionRejectReason.REQUIRED_TAG_MISSING,
    "unknown-field": SessionRejectReason.UNDEFINED_TAG,
    "bad-enum": SessionRejectReason.VALUE_INCORRECT,
}

__all__ = ["Rejects"]
