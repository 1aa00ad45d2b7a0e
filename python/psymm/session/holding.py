"""The peer's frames that are held back: on the record and durable, but not judged, covered or told
of yet, in their order.

A frame is held back for one of two reasons, and all after it in its lane with it, since covering a
frame covers all before it:

- It is dated further ahead of our clock than the skew (`spec.md` 66). It is released at its time.
- It cites a fact that our own view of the chain has not reached (`spec.md` 65). It is released
  once that view has the fact, or is past the place where it should be: then it is a violation.

Until then the rulebook does not have the frame, so it changes nothing and moves no clock, and what
we sign meanwhile does not cover it. Whatever we covered before was judged before: it is not held
back, also after a restart on which our clock or our view of the chain is behind.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from psymm.errors import DatedAhead, OverBudget
from psymm.messages import ChainFact
from psymm.rulebook.inputs import has_come
from psymm.session.budget import MOST_AHEAD, SECOND
from psymm.session.collateral import Citation
from psymm.session.context import ProtocolContext
from psymm.session.effects import CitationWaits, HeldBack
from psymm.session.params import Ledger
from psymm.transcript.record import RecordedFrame


class HoldingContext(ProtocolContext, Protocol):
    """The protocol, as what it holds back knows it."""

    def judged(self, entry: RecordedFrame, now: int, *, waited: bool = False) -> None:
        """A frame of the peer may take effect."""
        ...


class Holding:
    """frames: in their order, the first being the one for which the others wait."""

    def __init__(self, protocol: HoldingContext, ledger: Ledger) -> None:
        self._protocol = protocol
        self._ledger = ledger
        self.frames: deque[RecordedFrame] = deque()
        self._told = 0

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def first(self) -> int | None:
        """The number of the first frame held back."""
        return self.frames[0].frame.seq if self.frames else None

    @property
    def due(self) -> int | None:
        """When the first may be released, as far as its date goes; None where nothing is held."""
        if not self.frames:
            return None
        return self.frames[0].frame.sending_time - self._protocol.params.skew_ns

    @property
    def cited(self) -> Citation | None:
        """The frame that waits for our view of the chain, if one does."""
        if self.frames:
            frame, said = self.frames[0].frame, self.frames[0].message
            if isinstance(said, ChainFact) and self._ledger.awaits(self.frames[0]):
                return Citation(frame.lane, frame.seq, said)
        return self._ledger.cited

    def reconnected(self) -> None:
        """On each connection the frame that waits is named anew."""
        self._told = 0

    def keeps(self, entry: RecordedFrame, now: int) -> bool:
        """Whether a frame of the peer that has just come on the record is held back; then it is
        among `frames`."""
        protocol = self._protocol
        if entry.frame.seq <= protocol.record.head(protocol.lane).peer_seq:
            return False
        if not self.frames and not self._must_wait(entry, now):
            return False
        self.frames.append(entry)
        if len(self.frames) == 1:
            self._tell(now)
        return True

    def full(self) -> OverBudget | None:
        """Why no more of the peer's frames are taken, where so many are held back."""
        if len(self.frames) <= MOST_AHEAD:
            return None
        return OverBudget("frames that are held back", held=len(self.frames), most=MOST_AHEAD)

    def release(self, now: int) -> None:
        """Judge all that need not wait any more."""
        protocol = self._protocol
        while self.frames and protocol.error is None:
            if self._must_wait(self.frames[0], now):
                self._tell(now)
                return
            protocol.judged(self.frames.popleft(), now, waited=True)

    def release_to(self, seq: int, now: int) -> None:
        """Judge all up to a frame that our own lane turns out to cover."""
        while self.frames and self.frames[0].frame.seq <= seq:
            self._protocol.judged(self.frames.popleft(), now)

    def revoke_from(self, seq: int) -> None:
        """The peer's frames from `seq` on left the record."""
        self.frames = deque(one for one in self.frames if one.frame.seq < seq)

    def _must_wait(self, entry: RecordedFrame, now: int) -> bool:
        return not self._has_come(entry, now) or self._waits_for_fact(entry)

    def _has_come(self, entry: RecordedFrame, now: int) -> bool:
        return has_come(entry.frame.sending_time, now, self._protocol.params.skew_ns)

    def _waits_for_fact(self, entry: RecordedFrame) -> bool:
        return isinstance(entry.message, ChainFact) and self._ledger.awaits(entry)

    def _tell(self, now: int) -> None:
        """Name the first, once: to the application, and to the peer if its date is why and far."""
        entry = self.frames[0]
        frame = entry.frame
        if frame.seq == self._told:
            return
        self._told = frame.seq
        protocol = self._protocol
        if self._has_come(entry, now):
            protocol.effects.events.append(CitationWaits(entry))
            return
        ahead = DatedAhead(
            lane=frame.lane,
            seq=frame.seq,
            ahead_s=(frame.sending_time - now) // SECOND,
            skew_s=protocol.params.skew_ns / SECOND,
        )
        protocol.effects.events.append(HeldBack(entry, ahead))
        if frame.sending_time - now > protocol.params.acknowledge_ns + protocol.params.skew_ns:
            # A clock that is a little ahead is no news. This one cannot be covered within T.
            kind = "frame" if entry.message is None else entry.message.MSG_TYPE
            protocol.queue_business_reject(now, kind, str(ahead))


__all__ = ["Holding"]
