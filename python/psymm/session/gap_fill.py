"""Gaps in a lane: what we lack of the peer's is asked for until it comes, and what the peer asks
for is sent again, byte for byte.
"""

from __future__ import annotations

from typing import Final, Protocol

from psymm._core import Frame
from psymm.errors import PeerSilent
from psymm.messages import ResendRequest
from psymm.session.budget import MOST_REPEATED, MOST_RESENT, MOST_RESENT_BYTES, SECOND
from psymm.session.context import ProtocolContext
from psymm.session.effects import Repeat
from psymm.session.keys import signer

RESEND_TRIES: Final = 5


class GapFillContext(ProtocolContext, Protocol):
    """The protocol, as its gaps know it. since: when the connection last got further on its way to
    agreement. last_sent: when anything was. resends_asked, frames_resent: counted since it was
    made."""

    since: int
    last_sent: int
    resends_asked: int
    frames_resent: int

    def show_heads(self, now: int) -> None:
        """Show ours, where the peer proved itself."""
        ...


class GapFill:
    """due: when a gap is asked for again; None where none is open. until: the highest number seen
    beyond one."""

    def __init__(self, protocol: GapFillContext) -> None:
        self._protocol = protocol
        self.due: int | None = None
        self.until = 0
        self._begin = self._tries = 0
        self._resent_at = [-SECOND, -SECOND]
        self._resent_from = [0, 0]

    def reconnected(self) -> None:
        """Heads say on each connection what is lacking."""
        self.due = None
        self.until = 0
        self._resent_from = [0, 0]

    # --- what we lack -----------------------------------------------------------------------

    def found(self, frame: Frame, now: int) -> None:
        """A frame of the peer lies beyond a gap: the gap is asked for."""
        protocol = self._protocol
        if frame.seq > self.until and signer(protocol.record, frame) is not None:
            self.until = frame.seq
        self.ask(protocol.record.head(protocol.peer).seq + 1, now)

    def ask(self, begin: int, now: int) -> None:
        """Ask for the peer's lane from `begin` on, unless that is under way."""
        if self.due is None or self._begin != begin:
            self._ask(begin, now, 1)

    def ask_again(self, now: int) -> None:
        """It is due, and has not come."""
        if self._tries >= RESEND_TRIES:
            self.due = None
            self._protocol.disconnect(
                PeerSilent("the peer does not resend what we lack", begin_seq=self._begin)
            )
            return
        self._ask(self._begin, now, self._tries + 1)

    def came(self, seq: int, now: int) -> None:
        """The peer's next frame is on the record while a gap is open: a resend under way is not
        asked for again at once, but one that stops short is."""
        if seq >= self.until:
            self.due = None
        else:
            self._begin, self.due, self._tries = seq + 1, now + 2 * SECOND, 1

    def forget(self) -> None:
        """Nothing is lacking any more of what was asked for."""
        self.due = None

    def _ask(self, begin: int, now: int, tries: int) -> None:
        self._begin, self.due, self._tries = begin, now + (1 << tries) * SECOND, tries
        self._protocol.resends_asked += 1
        self._protocol.queue_text(ResendRequest(begin_seq_no=begin, end_seq_no=0), now)

    # --- what the peer lacks ----------------------------------------------------------------

    def answer(self, asked: ResendRequest, now: int) -> None:
        """At most one answer a second for each lane, whoever asks."""
        lane = self._protocol.lane if asked.lane is None else int(asked.lane)
        sent = self.resend_at_most(asked.begin_seq_no, asked.end_seq_no, now, lane)
        if sent and asked.begin_seq_no > self._resent_from[lane]:
            # It gets further: it is given the time. One that asks for the same is not.
            self._resent_from[lane] = asked.begin_seq_no
            self._protocol.since = now

    def resend_at_most(self, begin: int, end: int, now: int, lane: int) -> int:
        """As `resend`; nothing within a second of the last time, for each lane."""
        if now - self._resent_at[lane] < SECOND:
            return 0
        self._resent_at[lane] = now
        return self.resend(begin, end, now, lane)

    def resend(self, begin: int, end: int, now: int, lane: int) -> int:
        """Send a lane's frames begin…end again, byte for byte, to its head where `end` is 0;
        returns how many. Where they begin before a checkpoint, only those before it: our heads say
        that there are more."""
        protocol = self._protocol
        head = protocol.record.head(lane).seq
        first, last = max(begin, 1), head if end == 0 else min(end, head)
        if first <= min(last, protocol.record.compacted(lane)):
            return self._repeat(lane, first, last, now)
        count = size = 0
        for seq in range(first, last + 1):
            if count >= MOST_RESENT or size >= MOST_RESENT_BYTES:
                # Our heads after it say that there is more: the peer shows how far it came.
                protocol.show_heads(now)
                break
            entry = protocol.record.entry(lane, seq)
            if entry is not None:
                protocol.effects.sends.append(entry)
                count += 1
                size += len(entry.frame.raw)
        if count:
            protocol.last_sent = now
            protocol.frames_resent += count
        return count

    def _repeat(self, lane: int, first: int, last: int, now: int) -> int:
        """Have the journal's frames sent again, as many as one answer holds."""
        protocol = self._protocol
        until = min(last, protocol.record.compacted(lane), first + MOST_REPEATED - 1)
        protocol.effects.repeats.append(Repeat(lane, first, until))
        if last > first:
            protocol.show_heads(now)
        protocol.last_sent = now
        protocol.frames_resent += until - first + 1
        return until - first + 1


__all__ = ["RESEND_TRIES", "GapFill"]
