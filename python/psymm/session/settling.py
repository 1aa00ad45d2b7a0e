"""SettlementFlow: the talk between two ends that makes one CTC out of a flat account.

The proposer puts on record where it wants to be paid (UPY), the other does the same, the proposer
signs (UST), and proves and sends once the other has signed too (USA). The rulebook recomputes the
outputs from both payees; who answers computes the rest again from what it knows itself before it
signs. Where both begin at once and each payee is made for a proposer's payout, the trader gives
way: it names one for its whole payout, and the solver proposes.

A side whose journal was restored signs no frame, so its UPY and USA are texts with its wallet's
signature: that is what the chain asks for. The other side puts the UPY on its own lane's record as
it is, and a signature makes it the payee of whose wallet it is: nobody else can name one. Where the
restored side wants to settle it sends its UPY unasked, and the other side proposes. A restored
trader's UPY covers the solver's frames, too: whoever says that it is restored, and is not, could
void a fill after we have signed a settlement with it. What the restored side knows of the account
it has from the other side; but a peer that hides frames which it has covered or signed would have
to sign one of its numbers again to propose, and that is equivocation.

What proving needs is in the journal, sealed, before a signature leaves, so either side can go on
after a crash; the move on chain happens once whoever sends it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final, Literal, TypeVar, cast

import trio

from psymm._core import JsonError, keccak256
from psymm.chain.addresses import ZERO_ADDRESS, checksummed
from psymm.custody.errors import CustodyError, MoveFailed
from psymm.custody.notes import Note, commitment
from psymm.custody.planning import CtcPlan, Output, deadline_after
from psymm.custody.settlement import (
    Payee,
    PlannedSettlement,
    SettlementProposal,
    accept_settlement,
    payee_message,
    payout_after_fee,
    propose_settlement,
)
from psymm.errors import (
    NotNow,
    PeerSilent,
    PSymmError,
    Refused,
    SessionClosed,
    SettlementRefused,
    clip,
)
from psymm.messages import (
    BusinessMessageReject,
    BusinessRejectReason,
    ChainFact,
    ExecutionReport,
    FactKind,
    Heartbeat,
    NewOrderSingle,
    Quote,
    QuoteRequest,
    SettlementAcceptance,
    SettlementKind,
    SettlementOutput,
)
from psymm.messages import Settlement as ProposalMessage
from psymm.nursery import start_task
from psymm.rulebook import Account, Lane
from psymm.rulebook.account import NamedPayee
from psymm.session.collateral import Mined
from psymm.session.protocol import (
    NO_BUSINESS,
    SECOND,
    Event,
    FrameReceived,
    FrameSent,
    ProvisionalFrame,
    Resumed,
    SessionStatus,
    TextReceived,
)
from psymm.session.runner import SessionRunner
from psymm.terms import Terms
from psymm.transcript.agreement import SOLVER, TRADER
from psymm.transcript.record import RecordedFrame

_T = TypeVar("_T")

ANSWER_S: Final = 60.0
"""How long the other side may take to show its output, and then to sign."""
LEAST_LIFE_S: Final = 120.0
"""A proposal that was cut short is taken up again if its deadline is at least this far away."""
LOOK_AGAIN_S: Final = 10.0
"""Between two looks at a clock that may be set, or at a chain that is down."""

_FRAMES: Final = (FrameReceived, FrameSent, ProvisionalFrame)
_TRADING: Final = (QuoteRequest, Quote, NewOrderSingle, ExecutionReport)
"""Messages with which no settlement begins, and nearly all that there are."""


class SettlementFlow:
    """One custody's settlement, seen from one end. Feed it every event; it runs in `nursery`.

    willing: asked when the peer wants to settle; False leaves it unanswered.
    """

    def __init__(
        self,
        runner: SessionRunner,
        terms: Terms,
        nursery: trio.Nursery,
        account: Callable[[], Account],
        failed: Callable[[PSymmError], None],
        *,
        willing: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._runner = runner
        self._terms = terms
        self._nursery = nursery
        self._account = account
        self._failed = failed
        self._willing = willing
        self._said: SettlementOutput | None = None
        self._proposing = False
        self._answering = False
        self._consenting = False
        self._carrying = False
        self._watching = False
        self._outliving = False
        self._settlement: PlannedSettlement | None = None
        self._mined: Mined | None = None
        self._refused: str | None = None
        self._beside: SettlementAcceptance | None = None
        self._changed = trio.lowlevel.ParkingLot()
        self._waiting = 0
        runner.at_end.append(self._wake)
        if runner.protocol.synced:
            self._resume()  # Heads agreed before we listened: there is no event to come.

    @property
    def mined(self) -> Mined | None:
        """Where the settlement was mined, once it is deep enough."""
        return self._mined

    # --- events -----------------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        """Does not block and does not raise."""
        if type(event) in _FRAMES and type(cast("FrameReceived", event).entry.message) in _TRADING:
            self._wake()
            return
        match event:
            case FrameReceived(entry, None) if isinstance(entry.message, SettlementOutput):
                if entry.message.signature is None:
                    self._answer_soon()
            case TextReceived(SettlementOutput() as said) if self._runner.protocol.peer_restored:
                self._begin(self._guarded, self._take_payee, said)
            case FrameReceived(entry, None) if isinstance(entry.message, ProposalMessage):
                if self._is_alive(entry.frame.seq):
                    self._proposing = False
                    self._begin(self._guarded, self._answer_proposal)
            case TextReceived(SettlementAcceptance() as said):
                self._begin(self._guarded, self._take_beside, said)
            case TextReceived(BusinessMessageReject() as said) if said.ref_msg_type in (
                "UST",
                "UPY",
            ):
                self._refused = said.text or "no reason given"
            case Resumed() if self._said is not None:
                self._begin(self._say_again, self._said)
            case Resumed():
                self._resume()
            case FrameReceived(entry, None) if isinstance(entry.message, ChainFact):
                # The peer saw it mined before we did: our own chain has the last word.
                self._begin(self._guarded, self._go_on)
            case _:
                pass
        if self._runner.protocol.options and not self._outliving:
            self._outliving = True
            self._begin(self._guarded, self._outlive)
        self._wake()

    def _resume(self) -> None:
        """Continue what was cut short, now that heads agree. A frame that is on the record causes
        no second event, so an unanswered payee is looked for here."""
        lane, state = self._runner.lane, self._runner.protocol.status
        if state in (SessionStatus.SETTLING, SessionStatus.CLOSED):
            self._begin(self._guarded, self._go_on)
        elif state is SessionStatus.TRADING and self._payee(1 - lane) and not self._payee(lane):
            self._answer_soon()

    def _answer_soon(self) -> None:
        """Name our payee, in one task at a time, however many payees the peer names in a row. Our
        own proposal is an answer, too."""
        if not (self._proposing or self._answering):
            self._answering = True
            self._begin(self._guarded, self._answer_payee)

    def _begin(self, work: Callable[..., Awaitable[None]], *given: object) -> None:
        """A task of its own; none once what runs us has ended, since the next start goes on."""
        with suppress(SessionClosed):
            start_task(self._nursery, work, *given)

    def _wake(self) -> None:
        if self._waiting:  # Most events come while nobody waits here.
            self._changed.unpark_all()

    def _is_alive(self, seq: int) -> bool:
        alive = self._runner.protocol.proposal
        return alive is not None and alive[0] != self._runner.lane and alive[1].frame.seq == seq

    async def _guarded(
        self,
        work: Callable[..., Awaitable[None]],
        *given: SettlementAcceptance | SettlementOutput,
    ) -> None:
        try:
            await work(*given)
        except CustodyError as refused:
            await self._refuse(str(refused))
        except (SettlementRefused, Refused) as refused:
            await self._refuse(str(refused))
        except PSymmError as failed:
            self._failed(failed)

    async def _refuse(self, why: str) -> None:
        self._failed(SettlementRefused(why))
        try:
            await self._runner.send_text(
                BusinessMessageReject(
                    ref_msg_type="UST",
                    business_reject_reason=BusinessRejectReason.OTHER,
                    text=clip(why),
                )
            )
        except (NotNow, JsonError):
            return

    # --- proposing --------------------------------------------------------------------------

    async def settle(self) -> Mined:
        """Propose a settlement of the flat account, and see it mined. With a restored journal: ask
        the other side to propose it, and sign what it proposes with the wallet.

        Raises NotNow where orders or positions are open or heads do not agree, SettlementRefused
        with the peer's words, PeerSilent, and what custody raises.
        Cancelled: raises Cancelled; what was signed stays signed, and goes on at the next start.
        """
        if self._mined is not None:
            return self._mined
        if (
            self._runner.protocol.status is SessionStatus.SETTLING
            or self._runner.protocol.settled is not None
        ):
            return await self._until_mined()
        if self._runner.protocol.status is not SessionStatus.TRADING:
            raise NotNow("only a trading session settles", state=self._runner.protocol.status)
        self._refused = None
        if self._runner.protocol.health == "read-only":
            await self._ask_for_proposal()
            return await self._until_mined()
        self._proposing = True
        try:
            await self._propose()
        except BaseException:
            self._proposing = False
            raise
        return await self._until_mined()

    async def _ask_for_proposal(self) -> None:
        """Name our payee in a text; the other side, which knows that we cannot sign frames, then
        proposes."""
        runner = self._runner
        await self._name_payee(self._flat_payouts()[runner.lane])
        try:
            await self._wait(lambda: runner.protocol.proposal, "propose a settlement")
        finally:
            self._said = None

    async def _take_payee(self, said: SettlementOutput) -> None:
        """The peer signs no frames, and names its payee with its wallet's signature: it goes on our
        record. Unless we propose already, we do then, at our own fee, if we will."""
        if said.signature is None:
            raise SettlementRefused("a payee in a text needs the wallet's signature")
        if self._proposing:
            await self._put_on_record(said)
            return
        self._proposing = True
        try:
            if self._willing is not None and not await self._willing():
                raise SettlementRefused("not now")
            if self._runner.protocol.status is not SessionStatus.TRADING:
                raise SettlementRefused("not trading", state=self._runner.protocol.status)
            await self._put_on_record(said)
        except BaseException:
            self._proposing = False
            raise
        await self.settle()

    async def _put_on_record(self, said: SettlementOutput) -> None:
        known = self._payee(1 - self._runner.lane)
        covers = said.ref_seq_num or 0
        if (
            known is None
            or (known.inner, known.amount) != (said.inner, said.amount)
            or covers > self._runner.protocol.decided
        ):
            await self._runner.send(said)

    async def _take_beside(self, said: SettlementAcceptance) -> None:
        """The peer's signature beside the record: taken if it is its wallet's over our proposal,
        refused by name else; nothing of ours changes by it."""
        runner, alive = self._runner, self._runner.protocol.proposal
        settlement = await self._at_hand()
        fits = (
            alive is not None and alive[0] == runner.lane and alive[1].frame.seq == said.ref_seq_num
        )
        why = "it answers no proposal of ours that is alive"
        if fits and settlement is not None:
            agreement = runner.agreement
            try:
                settlement.check_signature(
                    agreement.chain_id, agreement.contract, 1 - runner.lane, said.signature
                )
            except CustodyError as bad:
                why = str(bad)
            else:
                self._beside = said
                self._wake()
                return
        with suppress(NotNow):
            await runner.send_text(
                BusinessMessageReject(
                    ref_msg_type="USA",
                    business_reject_reason=BusinessRejectReason.OTHER,
                    text=clip(why),
                )
            )

    async def _propose(self) -> None:
        runner, lane = self._runner, self._runner.lane
        # Until the solver has covered an order of ours it may still fill it at an earlier time.
        # A restored trader covers where it names its payee.
        await self._wait(
            lambda: (
                (self._all_covered and (self._decided or runner.protocol.peer_restored)) or None
            ),
            "cover what we sent before",
        )
        payouts = self._flat_payouts()
        settlement = await self._begun(payouts)
        if settlement is None:
            settlement = await self._planned(payouts)
        if settlement is None:
            self._proposing = False
            await self._wait(lambda: runner.protocol.proposal, "propose a settlement")
            return
        # Naming the payees took frames, too: what came of them is covered within moments.
        await self._wait(
            lambda: (self._all_covered and self._decided) or None, "cover what was sent meanwhile"
        )
        if self._flat_payouts() != payouts:
            raise NotNow("the account changed while the payees were named")
        # Kept before it is signed: the wallet keeps its notes for this one until the deadline, so
        # one that was cut short here is taken up again and never made anew.
        await self._keep(settlement, "planned", {})
        signature = await self._signed(settlement)
        await self._keep(settlement, "proposed", {lane: signature})
        if self._theirs_is_alive():
            return  # it came first, and is answered elsewhere
        self._settlement = settlement
        await runner.send(_message_of(settlement, signature))

    async def _begun(self, payouts: tuple[int, int]) -> PlannedSettlement | None:
        """A proposal of ours that was cut short before it was on the record, and still holds."""
        runner = self._runner
        said = {
            entry.message.commitment0
            for entry in runner.protocol.record
            if isinstance(entry.message, ProposalMessage)
        }
        least = runner.clock.now_ns() / SECOND + LEAST_LIFE_S
        payees = {None if one is None else one.inner for one in map(self._payee, (TRADER, SOLVER))}
        for kept in await self._kept():
            if (
                kept.proposer == runner.lane
                and kept.payouts == payouts
                and kept.call.deadline >= least
                and kept.call.commitments[0] not in said
                and {one.inner for one in kept.plan.outputs} == payees
            ):
                return kept
        return None

    async def _planned(self, payouts: tuple[int, int]) -> PlannedSettlement | None:
        """Name our payee, wait for the peer's, and plan the move. None: the peer proposes."""
        runner, lane = self._runner, self._runner.lane
        token = self._terms.collateral.token
        offer = await runner.collateral.relayer(token, self._terms.tariff.relayer_cap)
        paid = payout_after_fee(payouts[lane], offer.fee, proposes=True)
        await self._name_payee(paid)
        theirs = await self._wait(
            lambda: self._their_payee(payouts), "say where it wants to be paid"
        )
        ours = self._payee(lane)
        if isinstance(theirs, NamedPayee):
            await self._check_free(self._output(theirs))
        else:
            if not self._theirs_is_alive():
                await self._name_payee(payouts[lane])
            return None
        if ours is None or ours.amount != paid:
            raise NotNow("the account changed while the payees were named")
        return propose_settlement(
            [*runner.protocol.notes.values(), *runner.protocol.peer_notes.values()],
            _in_order(lane, ours, theirs),
            payouts,
            proposer=lane,
            relayer=offer.relayer,
            fee=offer.fee,
            deadline=deadline_after(
                runner.clock.now_ns() / SECOND,
                min(1_800, self._terms.timeouts.settlement // SECOND),
            ),
        )

    def _payee(self, lane: int) -> NamedPayee | None:
        """On the record now. The account's clock stands still between frames: with a proposal whose
        time is over by ours, its payees go."""
        account = self._account()
        over = account.alive is not None and self._runner.protocol.proposal is None
        return None if over else account.payee(Lane(lane))

    def _theirs_is_alive(self) -> bool:
        alive = self._runner.protocol.proposal
        return alive is not None and alive[0] != self._runner.lane

    def _their_payee(self, payouts: tuple[int, int]) -> NamedPayee | Literal["proposes"] | None:
        """The peer's payee for what our proposal would pay it; or it proposes itself: it has, or
        its payee is made for less, and of two that begin at once the solver goes on."""
        lane, theirs = self._runner.lane, self._payee(1 - self._runner.lane)
        if self._theirs_is_alive():
            return "proposes"
        if theirs is None or theirs.amount == payouts[1 - lane]:
            return theirs
        return "proposes" if lane == TRADER else None

    async def _name_payee(self, amount: int) -> None:
        """Have our payee for `amount` on the record, or in a text where we sign no frames. One that
        is there stays, since the peer may be signing for it; if a stolen key named it, our wallet
        does not sign for what it cannot open."""
        runner = self._runner
        known = self._payee(runner.lane)
        restored = runner.protocol.health == "read-only"
        covers = runner.protocol.covers() if restored and runner.lane == TRADER else None
        stands = covers is None or self._decided
        if known is not None and known.amount == amount and stands:
            return
        payee = await runner.collateral.payee(self._terms.collateral.token, amount)
        said = SettlementOutput(inner=payee.inner, memo=payee.memo, amount=amount)
        if not restored:
            await runner.send(said)
            return
        message = payee_message(
            payee,
            amount,
            runner.lane,
            runner.agreement.chain_id,
            runner.agreement.contract,
            runner.agreement.custody,
            covers=covers,
        )
        signature = await runner.collateral.sign_payee(message)
        self._said = replace(said, ref_seq_num=covers, signature=signature)
        await runner.send_text(self._said)

    async def _say_again(self, said: SettlementOutput) -> None:
        """A text is lost with its connection."""
        with suppress(NotNow):
            await self._runner.send_text(said)

    @property
    def _all_covered(self) -> bool:
        """The solver's frames take effect where they stand; the trader's once they are covered."""
        record = self._runner.protocol.record
        covered = record.head(SOLVER).peer_seq
        sent = range(covered + 1, record.head(TRADER).seq + 1)
        pending = [record.entry(TRADER, seq) for seq in sent]
        return self._runner.lane == SOLVER or all(
            entry is not None and isinstance(entry.message, Heartbeat | SettlementOutput)
            for entry in pending
        )

    @property
    def _decided(self) -> bool:
        """Whether the trader covers what the solver did: until then a fill may still turn out to
        be late and void, so whoever holds a signature over an account that rests on it may choose
        until the deadline. A trader whose journal was restored covers with its wallet; nobody's
        word that it is restored counts for a cover."""
        protocol = self._runner.protocol
        seqs = range(protocol.decided + 1, protocol.record.head(SOLVER).seq + 1)
        return all(
            entry is None or isinstance(entry.message, (*NO_BUSINESS, SettlementOutput))
            for entry in (protocol.record.entry(SOLVER, seq) for seq in seqs)
        )

    async def _until_decided(self, said: ProposalMessage) -> None:
        """Wait until the account that a proposal of the peer's rests on can change no more. Raises
        SettlementRefused where the proposal falls with a late frame; it freezes nothing then."""
        runner = self._runner

        def found() -> bool | None:
            alive = runner.protocol.proposal
            if alive is None or alive[2] is not said or self._account().alive != said.commitment0:
                return False
            return self._decided or None

        if not await self._wait(found, "cover what it rests on", for_ever=True):
            await runner.flush(runner.protocol.proposal_fell(said, runner.clock.now_ns()))
            raise SettlementRefused("the proposal is alive no more")

    def _flat_payouts(self) -> tuple[int, int]:
        account = self._account()
        if not account.flat:
            raise NotNow(
                "a settlement is signed on a flat account only: close positions, cancel orders",
                positions=len(account.positions),
                orders=len(account.orders),
            )
        return account.payouts

    async def _until_mined(self) -> Mined:
        if self._runner.protocol.settled is not None:
            await self._go_on()
        elif self._proposing and self._mined is None and self._settlement is not None:
            await self._carry_out(self._settlement)

        def ended() -> Mined | Literal["over"] | None:
            over = self._mined is None and not self._runner.protocol.options
            return "over" if over and self._runner.protocol.settled is None else self._mined

        mined = await self._wait(ended, "settle", for_ever=True)
        if not isinstance(mined, Mined):
            raise MoveFailed("settle", "its deadline has passed and nobody sent it")
        return mined

    async def _carry_out(self, settlement: PlannedSettlement) -> None:
        """Our proposal: once accepted, prove and send it; one task at a time."""
        if self._carrying:
            return
        self._carrying = True
        try:
            await self._prove_and_send(settlement)
        finally:
            self._carrying = False

    async def _prove_and_send(self, settlement: PlannedSettlement) -> None:
        runner, lane = self._runner, self._runner.lane
        deadline_ns = settlement.call.deadline * SECOND
        wait_s = max(1.0, (deadline_ns - runner.clock.now_ns()) / SECOND)

        def answered() -> SettlementAcceptance | Literal["lost"] | None:
            alive = runner.protocol.proposal
            if alive is None or not _is(settlement, alive):
                return "lost"
            beside = self._beside
            if beside is not None and beside.ref_seq_num == alive[1].frame.seq:
                return beside
            return runner.protocol.acceptance

        accepted = await self._wait(answered, "sign the settlement", within_s=wait_s)
        if not isinstance(accepted, SettlementAcceptance):
            return  # the peer's proposal crossed ours and came first; it is answered elsewhere
        own = await self._own_signature(settlement)
        pair = (own, accepted.signature) if lane == TRADER else (accepted.signature, own)
        agreement = runner.agreement
        signatures = settlement.consent(
            agreement.chain_id, agreement.contract, trader=pair[0], solver=pair[1]
        )
        await self._keep(settlement, "signed", {TRADER: pair[0], SOLVER: pair[1]})
        await self._done(await runner.collateral.settle(settlement, signatures))

    # --- answering --------------------------------------------------------------------------

    async def _answer_payee(self) -> None:
        try:
            await self._name_ours()
        finally:
            self._answering = False

    async def _name_ours(self) -> None:
        runner, lane = self._runner, self._runner.lane
        if self._willing is not None and not await self._willing():
            raise SettlementRefused("not now")
        theirs = self._payee(1 - lane)
        if theirs is not None:
            await self._check_free(self._output(theirs))
        if runner.protocol.status is not SessionStatus.TRADING:
            return  # A proposal or the end came meanwhile; `_resume` and `on_event` handle those.
        account = self._account()
        if not account.flat:
            raise SettlementRefused(
                "not flat here",
                positions=len(account.positions),
                orders=len(account.orders),
            )
        await self._name_payee(account.payouts[lane])

    async def _answer_proposal(self) -> None:
        """Sign what the peer proposes, or say what differs. One at a time: its frame and a resume
        may both ask for it."""
        if self._consenting:
            return
        self._consenting = True
        answered = self._runner.protocol.proposal
        try:
            settlement = await self._consent()
        finally:
            self._consenting = False
            if self._theirs_is_alive() and self._runner.protocol.proposal is not answered:
                self._begin(self._guarded, self._answer_proposal)  # it came meanwhile
        if settlement is not None:
            await self._watch(settlement)

    async def _consent(self) -> PlannedSettlement | None:
        """The peer's proposal that is alive, with our signature on the record."""
        runner, alive = self._runner, self._runner.protocol.proposal
        if alive is None or alive[0] == runner.lane:
            return None
        _, entry, said = alive
        settlement = await self._at_hand()
        if settlement is None:
            settlement, own = await self._agreed(said)
        elif runner.protocol.acceptance is None:
            own = await self._signed(settlement)
        else:
            return settlement
        self._settlement = settlement
        await self._accept(entry.frame.seq, own)
        return settlement

    async def _agreed(self, said: ProposalMessage) -> tuple[PlannedSettlement, bytes]:
        """Recompute what the peer proposes, sign it, and keep both."""
        runner, lane = self._runner, self._runner.lane
        await self._until_decided(said)
        account = self._account()
        ours, theirs = self._payee(lane), self._payee(1 - lane)
        if ours is None or theirs is None:
            raise SettlementRefused("the proposal is alive no more")
        settlement = accept_settlement(
            _proposal_of(said),
            [*runner.protocol.notes.values(), *runner.protocol.peer_notes.values()],
            _in_order(lane, ours, theirs),
            account.payouts,
            proposer=1 - lane,
            max_fee=self._terms.tariff.relayer_cap,
            now_s=runner.clock.now_ns() / SECOND,
        )
        agreement = runner.agreement
        settlement.check_signature(agreement.chain_id, agreement.contract, 1 - lane, said.signature)
        await self._check_free(*settlement.call.commitments)
        own = await self._signed(settlement)
        await self._keep(settlement, "signed", {lane: own, 1 - lane: said.signature})
        return settlement, own

    async def _accept(self, seq: int, signature: bytes) -> None:
        """Our wallet's signature: in a frame, or beside the record where we must sign none."""
        answer = SettlementAcceptance(ref_seq_num=seq, signature=signature)
        if self._runner.protocol.health == "read-only":
            await self._runner.send_text(answer)
        else:
            await self._runner.send(answer)

    async def _watch(self, settlement: PlannedSettlement) -> None:
        """The other side sends it; we wait for the chain, or for the deadline."""
        if self._watching:
            return
        self._watching = True
        try:
            mined = await self._seen(settlement)
        finally:
            self._watching = False
        if mined is not None:
            await self._done(mined)

    async def _seen(self, settlement: PlannedSettlement) -> Mined | None:
        """As `Collateral.wait_spent`; a chain that is down is asked again."""
        while True:
            try:
                return await self._runner.collateral.wait_spent(settlement)
            except PSymmError as failed:
                self._failed(failed)
                await trio.sleep(LOOK_AGAIN_S)

    async def _outlive(self) -> None:
        """While anything is signed that may be mined: once its deadline has passed, on our clock
        with the rulebook's skew and then on the chain's, see whether it was; if not, go on."""
        runner = self._runner
        try:
            while self._mined is None and (options := runner.protocol.options):
                last = max(option.deadline for option in options)
                left = last * SECOND + runner.protocol.params.skew_ns - runner.clock.now_ns()
                if left >= 0:
                    # In short steps: the system's clock may be set.
                    await trio.sleep(min(left / SECOND + 0.001, LOOK_AGAIN_S))
                    continue
                wanted = {option.commitment0 for option in options}
                for settlement in await self._kept():
                    if settlement.call.commitments[0] not in wanted:
                        continue
                    mined = await self._seen(settlement)
                    if mined is not None:
                        self._settlement = settlement
                        await self._done(mined)
                        return
                self._settlement, self._proposing, self._refused = None, False, None
                await runner.flush(runner.protocol.proposal_expired(runner.clock.now_ns()))
                self._wake()
        finally:
            self._outliving = False

    async def _done(self, mined: Mined) -> None:
        if self._mined is not None:
            return
        self._mined = mined
        await self._runner.flush(
            self._runner.protocol.settlement_mined(mined, self._runner.clock.now_ns())
        )
        if self._settlement is not None:
            await self._keep(self._settlement, "mined", {})
        self._wake()

    # --- after a break ----------------------------------------------------------------------

    async def _go_on(self) -> None:
        """Resumed while a settlement was alive: do what is left of it."""
        runner, alive = self._runner, self._runner.protocol.proposal
        if alive is None or self._mined is not None:
            return
        if alive[0] != runner.lane:
            await self._answer_proposal()
            return
        settlement = await self._at_hand()
        if settlement is not None:
            self._proposing = True
            await self._carry_out(settlement)

    async def _at_hand(self) -> PlannedSettlement | None:
        """The settlement that is the proposal alive, if we or the journal have it."""
        alive = self._runner.protocol.proposal
        if self._settlement is None or not _is(self._settlement, alive):
            await self._recall()
        settlement = self._settlement
        return settlement if settlement is not None and _is(settlement, alive) else None

    async def _recall(self) -> None:
        """The settlement as the journal kept it."""
        alive = self._runner.protocol.proposal
        for kept, signatures in await self._kept_signed():
            if alive is None or not _is(kept, alive):
                continue
            self._settlement = kept
            theirs = signatures.get(str(1 - self._runner.lane))
            if alive[0] == self._runner.lane and theirs is not None:
                self._beside = SettlementAcceptance(
                    ref_seq_num=alive[1].frame.seq, signature=bytes.fromhex(theirs)
                )

    async def _kept(self) -> list[PlannedSettlement]:
        """What the journal kept: all that our wallet signed."""
        return [settlement for settlement, _ in await self._kept_signed()]

    async def _kept_signed(self) -> list[tuple[PlannedSettlement, dict[str, str]]]:
        """The same with the signatures that were kept, in hex by lane."""
        found = [
            (_settlement_from(document, self._notes()), json.loads(document)["signatures"])
            for _digest, _state, document in await self._runner.journal.settlements(
                self._runner.agreement.custody
            )
        ]
        return [(settlement, signed) for settlement, signed in found if settlement is not None]

    def _notes(self) -> dict[bytes, Note]:
        protocol = self._runner.protocol
        return {**protocol.notes, **protocol.peer_notes}

    # --- parts ------------------------------------------------------------------------------

    def _output(self, payee: NamedPayee) -> bytes:
        """The commitment of the note that pays a payee."""
        return commitment(payee.inner, self._terms.collateral.token, payee.amount)

    async def _check_free(self, *outputs: bytes) -> None:
        """A commitment has one life: a settlement whose output is in the tree could never be mined,
        yet would freeze both sides until its deadline. So we sign nothing towards it, and cite what
        our own chain says, which takes it off the record (`spec.md` 64). Raises SettlementRefused,
        and what the chain raises where it does not answer."""
        runner = self._runner
        for one in outputs:
            asked = ChainFact(
                fact_kind=FactKind.INSERTED,
                block_number=0,
                transaction_hash=bytes(32),
                commitment=one,
            )
            fact = (await runner.collateral.look_up(asked)).fact
            ours = {note.nullifier for note in self._notes().values()}
            if fact is not None and not ours.intersection(fact.spent):
                await runner.flush(
                    runner.protocol.output_occupied(fact, one, runner.clock.now_ns())
                )
                raise SettlementRefused("an output of it is in the tree already", commitment=one)

    async def _signed(self, settlement: PlannedSettlement) -> bytes:
        return await self._runner.collateral.sign(settlement)

    async def _own_signature(self, settlement: PlannedSettlement) -> bytes:
        alive = self._runner.protocol.proposal
        if alive is not None and alive[0] == self._runner.lane:
            return alive[2].signature
        return await self._signed(settlement)

    async def _keep(
        self, settlement: PlannedSettlement, state: str, signatures: dict[int, bytes]
    ) -> None:
        agreement = self._runner.agreement
        await self._runner.journal.keep_settlement(
            agreement.custody,
            settlement.call.digest(agreement.chain_id, agreement.contract),
            state,
            _document_of(settlement, signatures),
        )

    async def _wait(
        self,
        found: Callable[[], _T | None],
        what: str,
        *,
        within_s: float = ANSWER_S,
        for_ever: bool = False,
    ) -> _T:
        with trio.move_on_after(float("inf") if for_ever else within_s):
            while True:
                value = found()
                if value is not None:
                    return value
                if self._refused is not None:
                    raise SettlementRefused(f"the other side refused: {self._refused}")
                if self._runner.protocol.error is not None:
                    raise self._runner.protocol.error
                if (over := self._runner.over) is not None:
                    raise over
                self._waiting += 1
                try:
                    await self._changed.park()
                finally:
                    self._waiting -= 1
        raise PeerSilent(f"the other side did not {what}", waited_s=within_s)


# --- to and from messages and the journal -------------------------------------------------------


def _in_order(lane: int, ours: NamedPayee, theirs: NamedPayee) -> tuple[Payee, Payee]:
    """The trader's payee and the solver's. lane: ours."""
    own, other = Payee(ours.inner, ours.memo), Payee(theirs.inner, theirs.memo)
    return (own, other) if lane == TRADER else (other, own)


def _message_of(settlement: PlannedSettlement, signature: bytes) -> ProposalMessage:
    call = settlement.call
    return ProposalMessage(
        ust_kind=SettlementKind.SETTLE,
        nullifier0=call.nullifiers[0],
        nullifier1=call.nullifiers[1],
        commitment0=call.commitments[0],
        commitment1=call.commitments[1],
        memos=keccak256(call.memos[0] + call.memos[1]),
        relayer=bytes.fromhex(call.relayer[2:]),
        fee_token=bytes.fromhex(call.fee_token[2:]),
        fee=call.fee,
        deadline=call.deadline,
        signature=signature,
        trader_payout=settlement.payouts[0],
        solver_payout=settlement.payouts[1],
    )


def _is(
    settlement: PlannedSettlement, alive: tuple[int, RecordedFrame, ProposalMessage] | None
) -> bool:
    """Whether a settlement is the proposal alive. Two that cross may make the same notes."""
    return (
        alive is not None
        and settlement.proposer == alive[0]
        and _message_of(settlement, alive[2].signature) == alive[2]
    )


def _proposal_of(said: ProposalMessage) -> SettlementProposal:
    if said.trader_payout is None or said.solver_payout is None:
        raise SettlementRefused("the proposal states no payouts")
    return SettlementProposal(
        nullifiers=(said.nullifier0, said.nullifier1),
        commitments=(said.commitment0, said.commitment1),
        payouts=(said.trader_payout, said.solver_payout),
        relayer=checksummed("relayer", "0x" + said.relayer.hex()),
        fee_token=checksummed("fee token", "0x" + said.fee_token.hex()),
        fee=said.fee,
        deadline=said.deadline,
    )


def _document_of(settlement: PlannedSettlement, signatures: dict[int, bytes]) -> bytes:
    plan = settlement.plan
    return json.dumps(
        {
            "inputs": [note.commitment.hex() for note in plan.inputs],
            "empty": plan.inputs[1].blinding.hex() if plan.empty1 else None,
            "outputs": [[one.inner.hex(), str(one.amount), one.memo.hex()] for one in plan.outputs],
            "relayer": plan.relayer,
            "fee": str(plan.fee),
            "deadline": plan.deadline,
            "payouts": [str(one) for one in settlement.payouts],
            "proposer": settlement.proposer,
            "signatures": {str(lane): one.hex() for lane, one in signatures.items()},
        }
    ).encode()


def _settlement_from(document: bytes, notes: dict[bytes, Note]) -> PlannedSettlement | None:
    """The settlement again, where its notes are known."""
    raw = json.loads(document)
    inputs = [notes.get(bytes.fromhex(one)) for one in raw["inputs"]]
    if raw["empty"] is not None or inputs[0] is None or inputs[1] is None:
        return None
    first, second = (
        Output(bytes.fromhex(inner), int(amount), bytes.fromhex(memo))
        for inner, amount, memo in raw["outputs"]
    )
    plan = CtcPlan(
        (inputs[0], inputs[1]),
        False,
        (first, second),
        raw["relayer"] or ZERO_ADDRESS,
        int(raw["fee"]),
        raw["deadline"],
    )
    trader, solver = (int(one) for one in raw["payouts"])
    return PlannedSettlement(plan, (trader, solver), raw["proposer"])
