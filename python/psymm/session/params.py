"""What binds a session: the terms, as `SessionParams`, and the rulebook, as `Ledger`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from psymm.messages import Message
from psymm.session.budget import SECOND
from psymm.session.checkpoints import CheckpointLedger
from psymm.session.collateral import Citation, Fact
from psymm.session.effects import FrameViolation
from psymm.transcript.record import RecordedFrame


class Ledger(CheckpointLedger, Protocol):
    """The rulebook as a session needs it: fed every frame in order of arrival."""

    @property
    def waits(self) -> bool:
        """Whether frames cannot be ruled yet: they cite what our own view of the chain lacks."""
        ...

    @property
    def cited(self) -> Citation | None:
        """The frame on the record that cites what `waits` waits for, if that is why."""
        ...

    def awaits(self, entry: RecordedFrame) -> bool:
        """Whether a frame of the peer, the next of its lane, cites what we do not know of the
        chain, so that it cannot be ruled yet."""
        ...

    @property
    def trader_covers(self) -> int:
        """The highest solver frame that the trader's frames here cover, as the rulebook has it."""
        ...

    @property
    def decided(self) -> int:
        """The highest solver frame that the trader covers, by its frames here or by its wallet."""
        ...

    def arrived(self, entry: RecordedFrame) -> Sequence[FrameViolation]:
        """A frame is on the record. Returns the violations of all frames that this one brought
        into effect, its own included."""
        ...

    def refuses(
        self,
        lane: int,
        message: Message,
        now_ns: int,
        size: int | None = None,
        *,
        covers: int | None = None,
    ) -> FrameViolation | None:
        """Would this message, sent now after all that is on the record, break a rule? size: of its
        payload in bytes, where it has one already. covers: its peerSeq, by default all of the other
        lane that is on the record."""
        ...

    def drop(self, lane: int, seq: int) -> bool:
        """Forget a lane's frames from `seq` on, none of which the other lane covers. False where
        that is not all: then nothing has arrived, and every frame left is to arrive again."""
        ...

    def occupied(self, commitment: bytes) -> bool:
        """Whether the chain is known to have this commitment by a transaction that spent nothing of
        this custody: a settlement that would make it can be mined no more."""
        ...

    def learn_fact(self, fact: Fact) -> Sequence[FrameViolation]:
        """Know what one transaction did. Returns violations of frames that waited for it."""
        ...


@dataclass(frozen=True, slots=True)
class SessionParams:
    """What a session reads of the terms. Spans in nanoseconds, amounts in token units."""

    token: str
    terms_hash: bytes
    heartbeat_s: int
    acknowledge_ns: int
    skew_ns: int
    minimum_collateral: int
    frames_per_second: int
    response_timeout_ns: int = 20 * SECOND
    """How long a Logon, a resume or a resend may stay unanswered."""

    @property
    def cover_after_ns(self) -> int:
        """A frame left uncovered this long is covered by a Heartbeat frame: well below T."""
        return min(self.acknowledge_ns // 4, SECOND)


__all__ = ["Ledger", "SessionParams"]
