"""What a session asks of custody: put up collateral, verify the peer's, and settle.

`Collateral` is the only interface between the session and notes, proofs and chain. The session
decides when; the implementation decides how. Every method may take seconds (proofs) or longer
(confirmations). It must be safe to call again after a crash: no move is ever made twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from psymm.custody.notes import Note
from psymm.custody.planning import Signatures
from psymm.custody.sending import SendTerms
from psymm.custody.settlement import Payee, PlannedSettlement
from psymm.errors import JournalCorrupt, Missing
from psymm.journal.reader import JournalReader
from psymm.messages import ChainFact
from psymm.session.protocol.chain_facts import ChainView, Fact, Mined
from psymm.terms import Terms
from psymm.transcript.agreement import CustodyAgreement
from psymm.typed_message import TypedMessage


async def kept_facts(journal: JournalReader, custody: bytes) -> list[Fact]:
    """The chain facts that the journal holds of a custody, in their order. Raises JournalCorrupt.
    Cancelled: raises Cancelled; nothing changed."""
    try:
        return [Fact.from_json(text) for text in await journal.facts(custody)]
    except ValueError as bad:
        raise JournalCorrupt(
            f"a chain fact is not what was written: {bad}",
            journal=journal.path,
            missing=[Missing(custody, "a chain fact")],
        ) from None


class Collateral(Protocol):
    """Custody, as a session sees it."""

    async def fund(
        self, agreement: CustodyAgreement, lane: int, token: str, amount: int
    ) -> Sequence[Note]:
        """Move `amount` of our own into the bilateral custody. Returns its notes when they are in
        the tree as deep as the terms demand. A second call for the same agreement returns the same
        notes and moves nothing. Raises PSymmError subclasses (no funds, chain down, no relayer …).
        Cancelled: raises Cancelled; a move that was sent still happens, and the next call finds it.
        """
        ...

    async def check(
        self, agreement: CustodyAgreement, amount: int, symbol: str | None, now_ns: int
    ) -> None:
        """Check whether `fund` would succeed, as far as we can know before anything moves:

        - the token on chain matches the terms,
        - our notes cover `amount` and a sender's fee,
        - a sender answers with a fee within the terms' cap,
        - the chain's time fits ours.

        Collateral that was funded for this agreement before, or is on its way, needs no funds.

        Raises TokenDiffers, ClocksDiffer, FundsTooLow, FeeTooHigh, and what chain and senders
        raise.
        Cancelled: raises Cancelled; nothing changed.

        Args:
            amount: Token units.
            symbol: What the user calls the token; None for no name.
            now_ns: Our clock.
        """
        ...

    async def check_funds(self, terms: Terms, amount: int) -> None:
        """Check whether we could put up `amount` and a fee now, on top of all that is being put up.
        Raises FundsTooLow and what reading the chain raises. Cancelled: raises Cancelled."""
        ...

    async def verify(self, agreement: CustodyAgreement, notes: Sequence[Note]) -> None:
        """Check that the notes are in the tree, deep enough, and their nullifiers unspent.

        The caller has checked that commitment and nullifier follow from the opening. Raises
        CollateralMissing, CollateralSpent; other PSymmErrors if the chain does not answer.
        Cancelled: raises Cancelled; nothing changed.
        """
        ...

    async def payee(self, token: str, amount: int) -> Payee:
        """A fresh payee in our own sole custody for `amount`. Cancelled: a counter is skipped."""
        ...

    async def relayer(self, token: str, cap: int) -> SendTerms:
        """The cheapest relayer for a CTC that asks at most `cap`; without one, we send it
        ourselves. Cancelled: raises Cancelled; nothing changed."""
        ...

    async def sign(self, settlement: PlannedSettlement) -> bytes:
        """Our wallet's signature over the settlement. The peer can use it until the deadline, so
        the notes are reserved until then. Signing again gives the same signature. Cancelled: the
        notes stay reserved."""
        ...

    async def sign_payee(self, message: TypedMessage) -> bytes:
        """Our wallet's signature over `payee_message`, for a side that signs no frames. Raises
        WalletError. Cancelled: raises Cancelled; nothing changed."""
        ...

    async def settle(self, settlement: PlannedSettlement, signatures: Signatures) -> Mined:
        """Prove and send. Returns when the settlement is mined deep enough, no matter who sent it.

        Raises PSymmErrors; calling again is safe. Cancelled: what was sent still happens.
        """
        ...

    async def look_up(self, cited: ChainFact) -> ChainView:
        """What our own chain says now about what a frame cites. Every session with a waiting
        citation asks every few seconds, so an implementation shares one look among them.

        Raises PSymmErrors if the chain does not answer. Cancelled: nothing changed.
        """
        ...

    async def wait_spent(self, settlement: PlannedSettlement) -> Mined | None:
        """Wait until the settlement is mined deep enough. Returns None if it is not and the
        chain's time has passed its deadline. Cancelled: raises Cancelled; nothing changed."""
        ...


__all__ = [
    "Collateral",
    "Note",
    "Payee",
    "PlannedSettlement",
    "SendTerms",
    "Signatures",
]
