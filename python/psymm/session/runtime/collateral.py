"""What a session asks of custody: put up collateral, verify the peer's, and settle.

`Collateral` is the one face between the session and notes, proofs and chain. The session decides
when; whoever implements this decides how. Every method may take seconds (proofs) or longer
(confirmations) and must survive being called again after a crash: a move is never made twice.
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
    Cancelled: raises Cancelled, nothing changed."""
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
        """Move `amount` of our own into the bilateral custody; returns its notes once they are in
        the tree as deep as the terms ask. Called again for one opening, it returns the same notes
        and moves nothing. Raises PSymmError subclasses (no funds, chain down, no relayer …).
        Cancelled: raises Cancelled; a move that was sent still happens and is found again.
        """
        ...

    async def check(
        self, agreement: CustodyAgreement, amount: int, symbol: str | None, now_ns: int
    ) -> None:
        """Whether `fund` would go through, as far as that can be known before anything moves: the
        token is on chain as the terms have it, our notes cover `amount` and a sender's fee, a
        sender answers with a fee within the terms' cap, and the chain's time fits ours.

        amount: token units. symbol: what the user calls the token, None for no name. now_ns: our
        clock. What was funded for this opening before, or is under way, needs no funds. Raises
        TokenDiffers, ClocksDiffer, FundsTooLow, FeeTooHigh, and what chain and senders raise.
        Cancelled: raises Cancelled, nothing changed.
        """
        ...

    async def check_funds(self, terms: Terms, amount: int) -> None:
        """Whether `amount`, a fee on top, could be put up now beside all that is being put up.
        Raises FundsTooLow and what reading the chain raises. Cancelled: raises Cancelled."""
        ...

    async def verify(self, agreement: CustodyAgreement, notes: Sequence[Note]) -> None:
        """The notes are in the tree, deep enough, and their nullifiers unspent.

        That commitment and nullifier follow from the opening was checked before. Raises
        CollateralMissing, CollateralSpent; other PSymmErrors where the chain does not answer.
        Cancelled: raises Cancelled, nothing changed.
        """
        ...

    async def payee(self, token: str, amount: int) -> Payee:
        """A fresh place in our own sole custody for `amount`. Cancelled: a counter is skipped."""
        ...

    async def relayer(self, token: str, cap: int) -> SendTerms:
        """The cheapest relayer that answers at most `cap` for a CTC, or no relayer (we send it
        ourselves). Cancelled: raises Cancelled, nothing changed."""
        ...

    async def sign(self, settlement: PlannedSettlement) -> bytes:
        """Our wallet's signature over it: an option for the peer until its deadline, so the notes
        are busy until then. Signing it again gives the same. Cancelled: they stay busy."""
        ...

    async def sign_payee(self, message: TypedMessage) -> bytes:
        """Our wallet's signature over `payee_message`, for who signs no frames. Raises WalletError.
        Cancelled: raises Cancelled, nothing changed."""
        ...

    async def settle(self, settlement: PlannedSettlement, signatures: Signatures) -> Mined:
        """Prove and send; returns once it is mined deep enough, by whomever it was sent.

        Raises PSymmErrors; calling again is safe. Cancelled: what was sent still happens.
        """
        ...

    async def look_up(self, cited: ChainFact) -> ChainView:
        """What our own chain says now of what a frame cites. Asked every few seconds by each
        session in which a citation waits, so it shares one look at the chain among them.

        Raises PSymmErrors where the chain does not answer. Cancelled: nothing changed.
        """
        ...

    async def wait_spent(self, settlement: PlannedSettlement) -> Mined | None:
        """Waits until the settlement is mined deep enough, or returns None once the chain's time
        is past its deadline and it is not. Cancelled: raises Cancelled, nothing changed."""
        ...


__all__ = [
    "Collateral",
    "Note",
    "Payee",
    "PlannedSettlement",
    "SendTerms",
    "Signatures",
]
