"""The interface through which a session uses the rulebook.

It gets every frame in order of arrival. `psymm.session.runtime.ledger.RulebookLedger` implements
it. A session without one (a journal under repair) judges nothing and signs nothing.
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
    """One custody's rulebook. Nothing here blocks, and no frame content makes it raise."""

    near_limit: bool
    """Whether a lane has used half of what it may send between two checkpoints."""

    @property
    def waits(self) -> bool:
        """Whether frames cannot be ruled yet, because our view of the chain lacks a cited fact."""
        ...

    @property
    def cited(self) -> Citation | None:
        """The recorded frame whose citation `waits` waits for, or None."""
        ...

    def awaits(self, entry: RecordedFrame) -> bool:
        """Whether the peer's next frame cites a fact that our view of the chain lacks."""
        ...

    @property
    def trader_covers(self) -> int:
        """The highest solver frame that the trader's frames cover, by the rulebook."""
        ...

    @property
    def decided(self) -> int:
        """The highest solver frame that the trader covers, by its frames or by its wallet."""
        ...

    def arrived(self, entry: RecordedFrame) -> Sequence[Ruling]:
        """A frame was recorded. Returns the rulings with a violation that it brought into effect.

        These may be of earlier frames, and of this one.
        """
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
        """The rule that this message would break if it were the lane's next frame, or None.

        Args:
            lane: the sender's.
            message: what would be sent.
            now_ns: its sendingTime.
            size: its payload in bytes, if already encoded.
            covers: its peerSeq; by default the other lane's head.
        """
        ...

    def drop(self, lane: int, seq: int) -> bool:
        """Forget a lane's frames from `seq` on. The other lane covers none of them.

        False if their effects cannot be undone. Then the rulebook is empty, and every frame left
        must arrive again.
        """
        ...

    def occupied(self, commitment: bytes) -> bool:
        """Whether a transaction that spent nothing of this custody inserted this commitment.

        Then no settlement that creates it can be mined.
        """
        ...

    def learn_fact(self, fact: Fact) -> Sequence[Ruling]:
        """Learn what one transaction did. Returns the violations of frames that waited for it."""
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
        """Drop the frames that the checkpoint in force counts. Later replays start from it."""
        ...

    @property
    def disputed(self) -> Account | None:
        """The last account of ours for which a frame of the peer named another hash."""
        ...

    def is_full(self, lane: int, size: int) -> bool:
        """Whether a lane can send no more frame of so many bytes before a checkpoint.

        Such a frame does not exist for the rules (`spec.md` 10): it is not kept and not covered.
        """
        ...

    def answer_due(self, lane: int) -> tuple[Checkpoint, int] | None:
        """The UCP that answers the peer's offer, and the number of the offer's frame."""
        ...

    def offer_due(self, lane: int) -> tuple[Checkpoint, int] | None:
        """A UCP that would be a valid offer now, and what our frame has to cover for it."""
        ...

    def offer_stands(self) -> bool:
        """Whether an offer of either side is unanswered, or its answer is not covered yet."""
        ...

    def account_at(self, solver_seq: int, trader_seq: int) -> Account | None:
        """Our account for the frames that a UCP of ours names; None once that is settled."""
        ...
