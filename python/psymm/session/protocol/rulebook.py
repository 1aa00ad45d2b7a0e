"""The rulebook as a session needs it: fed every frame in order of arrival.

`psymm.session.runtime.ledger.RulebookLedger` implements it. A session without one (a journal under
repair) judges nothing and signs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from psymm.messages import Checkpoint, Message
from psymm.rulebook import Account, Ruling, Violation
from psymm.session.protocol.chain_facts import Citation, Fact
from psymm.transcript.checkpoint import Point
from psymm.transcript.record import RecordedFrame


class Rulebook(Protocol):
    """One custody's rulebook. Nothing here waits, and nothing raises because of what a frame
    says."""

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

    def arrived(self, entry: RecordedFrame) -> Sequence[Ruling]:
        """A frame is on the record. Returns the rulings with a violation of all frames that this
        one brought into effect, its own included."""
        ...

    def refuses(
        self,
        lane: int,
        message: Message,
        now_ns: int,
        size: int | None = None,
        *,
        covers: int | None = None,
    ) -> Violation | None:
        """Would this message, sent now after all that is on the record, break a rule?

        size: of its payload in bytes, where it has one already.
        covers: its peerSeq, by default all of the other lane that is on the record.
        """
        ...

    def drop(self, lane: int, seq: int) -> bool:
        """Forget a lane's frames from `seq` on, none of which the other lane covers. False where
        that is not all: then nothing has arrived, and every frame left is to arrive again."""
        ...

    def occupied(self, commitment: bytes) -> bool:
        """Whether the chain is known to have this commitment by a transaction that spent nothing of
        this custody: a settlement that would make it can be mined no more."""
        ...

    def learn_fact(self, fact: Fact) -> Sequence[Ruling]:
        """Know what one transaction did. Returns rulings with a violation of frames that waited
        for it."""
        ...

    # --- checkpoints ----------------------------------------------------------------------------

    @property
    def point(self) -> Point | None:
        """The checkpoint in force, once each lane covers the other's UCP."""
        ...

    @property
    def agreed(self) -> Account | None:
        """The account of the checkpoint in force."""
        ...

    def compact(self) -> None:
        """What is ruled again is ruled from the checkpoint in force on: the frames that it counts
        arrive no more."""
        ...

    @property
    def disputed(self) -> Account | None:
        """The last account that a frame of the peer gave another hash for."""
        ...

    def near_limit(self) -> bool:
        """Has a lane used half of what it may send between two checkpoints?"""
        ...

    def ids(self) -> int:
        """How many ids the account has to name for good: a checkpoint's cost grows with them."""
        ...

    def answer_due(self, lane: int) -> tuple[Checkpoint, int] | None:
        """The UCP that we owe the peer's offer, and the frame that the offer is."""
        ...

    def offer_due(self, lane: int) -> tuple[Checkpoint, int] | None:
        """A UCP that would be a right offer now, and what our frame has to cover for it."""
        ...

    def offer_stands(self) -> bool:
        """Is an offer, of either side, unanswered, or answered by a frame yet to be covered?"""
        ...

    def account_at(self, solver_seq: int, trader_seq: int) -> Account | None:
        """The account that we have for what a UCP of ours names; None once it is settled."""
        ...
