"""The peer's frames judged, and its violations rejected: each once, by the first frame of ours that
covers it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from psymm.errors import clip
from psymm.messages import Heartbeat, Reject, SessionRejectReason
from psymm.rulebook import FactsBehind
from psymm.session.parts import Ground
from psymm.session.rules import Ledger
from psymm.session.turn import Violation
from psymm.transcript.opening import SOLVER
from psymm.transcript.record import Entry


class RejectingEngine(Ground, Protocol):
    """The engine, as its rejects know it."""

    def may_sign(self, now: int) -> bool:
        """Whether anything may be signed now."""
        ...

    def within_limit(self) -> bool:
        """Whether that may be more than a Heartbeat."""
        ...


class Rejects:
    """owed: those yet to be signed, in the order in which the violations were found."""

    def __init__(self, engine: RejectingEngine, ledger: Ledger) -> None:
        self._engine = engine
        self._ledger = ledger
        self.owed: list[Reject] = []

    def judge(self, entry: Entry) -> Violation | None:
        """The violation that a peer's frame is, or None; answered by a Reject."""
        engine = self._engine
        if entry.bad_payload is not None:
            bad = entry.bad_payload
            broken = Violation(
                engine.peer, bad.code, f"{bad.code} at byte {bad.offset} of the payload"
            )
            self.owe(entry, broken)
            for other in self._ledger.arrived(entry):
                if other.seq not in (None, entry.frame.seq) or other.lane != engine.peer:
                    self.owe(entry, other)
            return broken
        own: Violation | None = None
        if entry.message is not None and engine.lane == SOLVER:
            frame = entry.frame
            own = self._ledger.refuses(
                engine.peer,
                entry.message,
                frame.sending_time,
                len(frame.payload),
                covers=frame.peer_seq,
            )
            if own is not None and own.rule == FactsBehind.code:
                own = None
            elif own is not None:
                self.owe(entry, own)
        for broken in self._ledger.arrived(entry):
            self.owe(entry, broken)
            if broken.lane == engine.peer and broken.seq in (None, entry.frame.seq):
                own = broken
        return own

    def owe(self, entry: Entry, broken: Violation) -> None:
        """Remember to reject a violation of the peer's; never a Reject itself (no endless talk)."""
        engine = self._engine
        seq = entry.frame.seq if broken.seq is None else broken.seq
        if broken.lane != engine.peer:
            return
        guilty = engine.record.entry(engine.peer, seq)
        if guilty is None or isinstance(guilty.message, Reject | Heartbeat):
            return
        if seq in engine.lifecycle.rejected or any(owed.ref_seq_num == seq for owed in self.owed):
            return
        reason = _REASONS.get(broken.rule)
        if reason is None:
            bad = guilty.bad_payload is not None
            reason = SessionRejectReason.INCORRECT_FORMAT if bad else SessionRejectReason.OTHER
        self.owed.append(
            Reject(
                ref_seq_num=seq,
                violation=clip(broken.rule, 64),
                ref_msg_type=None if guilty.message is None else guilty.message.MSG_TYPE,
                session_reject_reason=reason,
                text=clip(broken.detail) or None,
            )
        )

    def owe_all(self, violations: Iterable[Violation]) -> None:
        """The same for violations of frames that waited for a fact."""
        for broken in violations:
            if broken.seq is not None:
                entry = self._engine.record.entry(broken.lane, broken.seq)
                if entry is not None:
                    self.owe(entry, broken)

    def pay(self, now: int) -> None:
        """Sign the Rejects that are owed, each the first frame of ours to cover its violation."""
        engine = self._engine
        while (
            self.owed
            and engine.may_sign(now)
            and engine.within_limit()
            and engine.lifecycle.logons[engine.lane] is not None
        ):
            owed = self.owed[0]
            covers = max(owed.ref_seq_num, engine.record.head(engine.lane).peer_seq)
            if covers > engine.covers(now):
                return
            self.owed.pop(0)
            engine.sign(owed, now, covers=covers)

    def drop_signed(self) -> None:
        """What the record rejects already is owed no more."""
        rejected = self._engine.lifecycle.rejected
        self.owed = [owed for owed in self.owed if owed.ref_seq_num not in rejected]

    def set_aside(self, seq: int) -> None:
        """The peer's frames from `seq` on left the record."""
        self.owed = [owed for owed in self.owed if owed.ref_seq_num < seq]


_REASONS: Final = {
    "unknown-message": SessionRejectReason.INVALID_MSG_TYPE,
    "missing-field": SessionRejectReason.REQUIRED_TAG_MISSING,
    "unknown-field": SessionRejectReason.UNDEFINED_TAG,
    "bad-enum": SessionRejectReason.VALUE_INCORRECT,
}

__all__ = ["Rejects"]
