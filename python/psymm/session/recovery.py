"""Frames that our journal has lost, of both lanes, fetched from the peer.

Each is verified as any frame is and taken after those that it covers; one that comes sooner waits.
Until the heads that the journal knew to be its newest are reached, nothing is signed, and a journal
that turns out not to have known the newest is no better than a backup: it never signs again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from psymm._core import Frame, FrameError, TranscriptError
from psymm.errors import Forked, JournalBehind, PeerSilent
from psymm.messages import LaneCode, ResendRequest, Resume
from psymm.session.budget import MOST_RESENT, SECOND
from psymm.session.context import ProtocolContext
from psymm.session.gap_fill import RESEND_TRIES
from psymm.session.holding import Holding
from psymm.session.keys import SessionKeys, signer
from psymm.session.params import Ledger
from psymm.transcript.agreement import SOLVER, TRADER
from psymm.transcript.delegation import DelegationRefused
from psymm.transcript.heads import Heads, Health
from psymm.transcript.record import RecordedFrame

MOST_SPARE_BYTES: Final = 64 * 1024 * 1024
"""Frames that were fetched and wait for others before them."""


class RecoveryContext(ProtocolContext, Protocol):
    """The protocol, as its fetching knows it. since: when the connection last got further on its
    way to agreement."""

    keys: SessionKeys
    holding: Holding
    since: int

    def arrived(self, entry: RecordedFrame, now: int) -> None:
        """A frame of the peer is on the record."""
        ...

    def apply(self, entry: RecordedFrame) -> None:
        """How far the custody has come with a frame that is in effect."""
        ...

    def contradicts(self, frame: Frame, why: str) -> None:
        """A signed frame cannot follow what its lane holds."""
        ...


class Recovery:
    """health: of the journal. due: when what is lacking is asked for again; None where nothing
    is. taken: frames fetched on this connection."""

    def __init__(
        self,
        protocol: RecoveryContext,
        ledger: Ledger,
        health: Health,
        newest: Heads | None,
        rescued: Iterable[Frame],
    ) -> None:
        self._protocol = protocol
        self._ledger = ledger
        self.health: Health = health
        self.due: int | None = None
        self.taken = 0
        self._tries = 0
        self._newest = newest
        self._spare: dict[tuple[int, int], Frame] = {}
        self._spare_bytes = 0
        for frame in rescued:
            self.keep(frame)

    def reconnected(self) -> None:
        """The peer's heads say anew what is to be had."""
        self.due = None
        self.taken = 0

    def fall_behind(self, error: JournalBehind) -> None:
        """Our journal is not the newest. One that was repaired is no better than a backup then."""
        if self.health == "recovering":
            self._settle("read-only")
        self._protocol.stop(error)

    def keep(self, frame: Frame) -> None:
        """A frame that may have to wait for others. What is too much is asked for again."""
        key = (frame.lane, frame.seq)
        near = frame.seq <= self._protocol.record.head(frame.lane).seq + MOST_RESENT
        if key in self._spare:
            self._spare_bytes -= len(self._spare.pop(key).raw)
        if near and self._spare_bytes + len(frame.raw) <= MOST_SPARE_BYTES:
            self._spare[key] = frame
            self._spare_bytes += len(frame.raw)

    def merge(self, now: int) -> None:
        """Take all fetched frames that follow: each after those that it covers."""
        record = self._protocol.record
        moved = True
        while moved and self._protocol.error is None:
            moved = False
            for lane in (TRADER, SOLVER):
                frame = self._spare.get((lane, record.head(lane).seq + 1))
                if frame is None:
                    continue
                try:
                    entry = record.append(frame)
                except (TranscriptError, FrameError, DelegationRefused) as bad:
                    if not isinstance(bad, TranscriptError) or bad.code != "ahead":
                        self._drop(frame)
                        self._unfit(frame, bad, now)
                    continue
                moved = True
                self._drop(frame)
                self._take(entry, now)
                if self._protocol.error is not None:
                    return
        self._conclude()

    def ask(self, theirs: Resume | None, now: int) -> None:
        """Ask the peer for what it says it has and we lack, of both lanes; again where it does not
        come. theirs: its heads, None where it has not said them."""
        if theirs is None:
            return
        head = self._protocol.record.head
        lacking = [
            lane
            for lane, seq in ((TRADER, theirs.trader_seq), (SOLVER, theirs.solver_seq))
            if seq > head(lane).seq
        ]
        tries = 0 if self.due is None else self._tries
        if not lacking:
            self.due = None
            return
        if tries >= RESEND_TRIES:
            self.due = None
            self._protocol.disconnect(PeerSilent("the peer does not resend what we lack"))
            return
        self.due, self._tries = now + (2 << tries) * SECOND, tries + 1
        for lane in lacking:
            begin = head(lane).seq + 1
            self._protocol.queue_text(
                ResendRequest(begin_seq_no=begin, end_seq_no=0, lane=LaneCode(str(lane))), now
            )

    def finished(self) -> None:
        """Heads agree: nothing is lacking."""
        self.due = None

    def _drop(self, frame: Frame) -> None:
        self._spare_bytes -= len(self._spare.pop((frame.lane, frame.seq)).raw)

    def _take(self, entry: RecordedFrame, now: int) -> None:
        protocol, lane, seq = self._protocol, entry.frame.lane, entry.frame.seq
        self.taken += 1
        protocol.since = now
        if self.due is not None:
            self.due, self._tries = now + 2 * SECOND, 0
        protocol.effects.fetched.append(entry)
        if self._newest is not None and lane == protocol.lane and seq > self._newest.of(lane)[0]:
            # Our word that those were the newest was wrong; then nothing makes it good again.
            self._settle("read-only")
        if self._newest is not None and self._newest.of(lane)[0] == seq:
            kept = self._newest.of(lane)[1]
            if kept != entry.digest:
                protocol.stop(Forked(custody=entry.frame.custody, lane=lane, seq=seq, ours=kept))
                return
        if lane != protocol.lane:
            protocol.arrived(entry, now)
            return
        protocol.holding.release_to(entry.frame.peer_seq, now)
        protocol.apply(entry)
        self._ledger.arrived(entry)

    def _unfit(self, frame: Frame, bad: Exception, now: int) -> None:
        """As for any frame: noise if nobody signed it, the end if a delegated key did."""
        code = getattr(bad, "code", "refused")
        if signer(self._protocol.record, frame) is None:
            self._protocol.report_malformed(
                now, "frame", f"{code} in frame {frame.lane}/{frame.seq}: {bad}"
            )
            return
        self._protocol.contradicts(frame, f"a signed frame contradicts the record: {code}")

    def _conclude(self) -> None:
        """Ground again, once both heads that were the newest are reached."""
        protocol = self._protocol
        if self.health != "recovering" or self._newest is None or protocol.error is not None:
            return
        if all(protocol.record.head(lane).seq >= self._newest.of(lane)[0] for lane in (0, 1)):
            protocol.keys.choose(protocol.record)
            self._settle("complete")

    def _settle(self, health: Health) -> None:
        self.health = self._protocol.effects.health = health


__all__ = ["Recovery"]
