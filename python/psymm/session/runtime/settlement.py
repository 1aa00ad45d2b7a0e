"""SettlementFlow: how two sides turn a flat account into one CTC.

The proposer states where it wants to be paid (UPY), and the other side does the same. The proposer
signs the settlement (UST). Once the other side has signed too (USA), the proposer proves and sends
it. The rulebook recomputes the outputs from both payees. The side that answers recomputes the rest
from its own knowledge before it signs. If both begin at once and each payee assumes that its own
side proposes, the trader yields: it names a payee for its whole payout, and the solver proposes.

A side with a restored journal signs no frames. Its UPY and USA are texts that its wallet signed,
which is all that the chain asks for. The other side puts the UPY on its own lane's record
unchanged. Only the wallet's owner can name its payee: the signature decides whose payee it is. To
settle, a restored side sends its UPY unasked, and the other side proposes. A restored trader's UPY
also covers the solver's frames. Otherwise a trader that only claims to be restored could void a
fill after we signed a settlement with it. What a restored side knows of the account comes from the
other side. A peer that hides frames which it covered or signed would have to sign one of its
numbers again to propose, and that is equivocation.

`SettlementStage` says how far the settlement is, `SettlementStep` what goes on towards it.
`settlement_record` reads what is on the record, `settlement_documents` what the journal keeps.

What is durable when: the planned settlement before our wallet signs it, our signature before it is
sent, both signatures before the move is sent. So either side can continue after a crash, and the
chain accepts the move only once, from either side.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from enum import Enum, auto
from typing import Final, Literal, TypeVar, cast

import trio

from psymm._core import JsonError
from psymm.custody.errors import CustodyError, MoveFailed
from psymm.custody.notes import commitment
from psymm.custody.planning import deadline_after
from psymm.custody.settlement import (
    PlannedSettlement,
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
    NewOrderSingle,
    Quote,
    QuoteRequest,
    SettlementAcceptance,
    SettlementOutput,
)
from psymm.messages import Settlement as ProposalMessage
from psymm.nursery import start_task
from psymm.rulebook import Account
from psymm.rulebook.account import NamedPayee
from psymm.session.protocol import (
    SECOND,
    Event,
    FrameReceived,
    FrameSent,
    ProvisionalFrame,
    Resumed,
    SessionStatus,
    TextReceived,
)
from psymm.session.protocol.chain_facts import Mined
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.settlement_documents import (
    SettlementStore,
    in_order,
    is_proposal,
    message_of,
    proposal_of,
)
from psymm.session.runtime.settlement_record import SettlementRecord
from psymm.terms import Terms
from psymm.transcript.agreement import SOLVER, TRADER

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


class SettlementStage(Enum):
    """How far a settlement is, as this side sees it."""

    OPEN = auto()
    """Nothing of ours is under way; the peer may propose."""
    PROPOSING = auto()
    """From `settle` on we name, plan, sign and send a proposal of our own."""
    MINED = auto()
    """On chain, and deep enough. It is final."""


class SettlementStep(Enum):
    """What may go on beside other work, and only once at a time."""

    NAME = auto()
    """Answer the peer's payee with ours."""
    CONSENT = auto()
    """Check and sign the peer's proposal."""
    WATCH = auto()
    """Wait until what the peer sends is mined."""
    SEND = auto()
    """Wait for the peer's signature, prove and send."""
    OUTLIVE = auto()
    """Wait until nothing that we signed can be mined any more."""


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
        self._record = SettlementRecord(runner, account)
        self._store = SettlementStore(runner)
        self._said: SettlementOutput | None = None
        self._stage = SettlementStage.OPEN
        self._steps: set[SettlementStep] = set()
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
                if self._record.is_alive(entry.frame.seq):
                    self._enter(SettlementStage.OPEN)
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
        if self._runner.protocol.options and SettlementStep.OUTLIVE not in self._steps:
            self._begin(self._guarded, self._once, SettlementStep.OUTLIVE, self._outlive)
        self._wake()

    def _resume(self) -> None:
        """Continue what was cut short, now that heads agree. A frame that is on the record causes
        no second event, so an unanswered payee is looked for here."""
        lane, state = self._runner.lane, self._runner.protocol.status
        payee = self._record.payee
        if state in (SessionStatus.SETTLING, SessionStatus.CLOSED):
            self._begin(self._guarded, self._go_on)
        elif state is SessionStatus.TRADING and payee(1 - lane) and not payee(lane):
            self._answer_soon()

    def _answer_soon(self) -> None:
        """Name our payee. Our own proposal is an answer, too."""
        if self._stage is SettlementStage.OPEN and SettlementStep.NAME not in self._steps:
            self._begin(self._guarded, self._once, SettlementStep.NAME, self._name_ours)

    def _begin(self, work: Callable[..., Awaitable[None]], *given: object) -> None:
        """A task of its own; none once what runs us has ended, since the next start goes on."""
        with suppress(SessionClosed):
            start_task(self._nursery, work, *given)

    def _enter(self, stage: SettlementStage) -> None:
        if self._stage is not SettlementStage.MINED:
            self._stage = stage

    async def _once(
        self, step: SettlementStep, work: Callable[..., Awaitable[_T]], *given: object
    ) -> _T | None:
        """Does a step, unless it goes on already."""
        if step in self._steps:
            return None
        self._steps.add(step)
        try:
            return await work(*given)
        finally:
            self._steps.discard(step)

    def _wake(self) -> None:
        if self._waiting:  # Most events come while nobody waits here.
            self._changed.unpark_all()

    async def _guarded(self, work: Callable[..., Awaitable[None]], *given: object) -> None:
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
        self._enter(SettlementStage.PROPOSING)
        try:
            await self._propose()
        except BaseException:
            self._enter(SettlementStage.OPEN)
            raise
        return await self._until_mined()

    async def _ask_for_proposal(self) -> None:
        """Name our payee in a text; the other side, which knows that we cannot sign frames, then
        proposes."""
        runner = self._runner
        await self._name_payee(self._record.flat_payouts()[runner.lane])
        try:
            await self._wait(lambda: runner.protocol.proposal, "propose a settlement")
        finally:
            self._said = None

    async def _take_payee(self, said: SettlementOutput) -> None:
        """The peer signs no frames, and names its payee with its wallet's signature: it goes on our
        record. Unless we propose already, we do then, at our own fee, if we will."""
        if said.signature is None:
            raise SettlementRefused("a payee in a text needs the wallet's signature")
        if self._stage is SettlementStage.PROPOSING:
            await self._put_on_record(said)
            return
        self._enter(SettlementStage.PROPOSING)
        try:
            if self._willing is not None and not await self._willing():
                raise SettlementRefused("not now")
            if self._runner.protocol.status is not SessionStatus.TRADING:
                raise SettlementRefused("not trading", state=self._runner.protocol.status)
            await self._put_on_record(said)
        except BaseException:
            self._enter(SettlementStage.OPEN)
            raise
        await self.settle()

    async def _put_on_record(self, said: SettlementOutput) -> None:
        known = self._record.payee(1 - self._runner.lane)
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
        runner, lane, record = self._runner, self._runner.lane, self._record
        # Until the solver has covered an order of ours it may still fill it at an earlier time.
        # A restored trader covers where it names its payee.
        await self._wait(
            lambda: (
                (record.all_covered and (record.decided or runner.protocol.peer_restored)) or None
            ),
            "cover what we sent before",
        )
        payouts = record.flat_payouts()
        settlement = await self._begun(payouts)
        if settlement is None:
            settlement = await self._planned(payouts)
        if settlement is None:
            self._enter(SettlementStage.OPEN)
            await self._wait(lambda: runner.protocol.proposal, "propose a settlement")
            return
        # Naming the payees took frames, too: what came of them is covered within moments.
        await self._wait(
            lambda: (record.all_covered and record.decided) or None,
            "cover what was sent meanwhile",
        )
        if record.flat_payouts() != payouts:
            raise NotNow("the account changed while the payees were named")
        # Kept before it is signed: the wallet keeps its notes for this one until the deadline, so
        # one that was cut short here is taken up again and never made anew.
        await self._store.keep(settlement, "planned", {})
        signature = await self._signed(settlement)
        await self._store.keep(settlement, "proposed", {lane: signature})
        if record.theirs_is_alive():
            return  # it came first, and is answered elsewhere
        self._settlement = settlement
        await runner.send(message_of(settlement, signature))

    async def _begun(self, payouts: tuple[int, int]) -> PlannedSettlement | None:
        """A proposal of ours that was cut short before it was on the record, and still holds."""
        runner = self._runner
        said = {
            entry.message.commitment0
            for entry in runner.protocol.record
            if isinstance(entry.message, ProposalMessage)
        }
        least = runner.clock.now_ns() / SECOND + LEAST_LIFE_S
        payees = {
            None if one is None else one.inner for one in map(self._record.payee, (TRADER, SOLVER))
        }
        for kept in await self._store.kept():
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
            lambda: self._record.their_payee(payouts), "say where it wants to be paid"
        )
        ours = self._record.payee(lane)
        if isinstance(theirs, NamedPayee):
            await self._check_free(self._output(theirs))
        else:
            if not self._record.theirs_is_alive():
                await self._name_payee(payouts[lane])
            return None
        if ours is None or ours.amount != paid:
            raise NotNow("the account changed while the payees were named")
        return propose_settlement(
            [*runner.protocol.notes.values(), *runner.protocol.peer_notes.values()],
            in_order(lane, ours, theirs),
            payouts,
            proposer=lane,
            relayer=offer.relayer,
            fee=offer.fee,
            deadline=deadline_after(
                runner.clock.now_ns() / SECOND,
                min(1_800, self._terms.timeouts.settlement // SECOND),
            ),
        )

    async def _name_payee(self, amount: int) -> None:
        """Have our payee for `amount` on the record, or in a text where we sign no frames. One that
        is there stays, since the peer may be signing for it; if a stolen key named it, our wallet
        does not sign for what it cannot open."""
        runner = self._runner
        known = self._record.payee(runner.lane)
        restored = runner.protocol.health == "read-only"
        covers = runner.protocol.covers() if restored and runner.lane == TRADER else None
        stands = covers is None or self._record.decided
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

    async def _until_decided(self, said: ProposalMessage) -> None:
        """Wait until the account that a proposal of the peer's rests on can change no more. Raises
        SettlementRefused where the proposal falls with a late frame; it freezes nothing then."""
        runner = self._runner

        def found() -> bool | None:
            alive = runner.protocol.proposal
            if alive is None or alive[2] is not said or self._account().alive != said.commitment0:
                return False
            return self._record.decided or None

        if not await self._wait(found, "cover what it rests on", for_ever=True):
            await runner.flush(runner.protocol.proposal_fell(said, runner.clock.now_ns()))
            raise SettlementRefused("the proposal is alive no more")

    async def _until_mined(self) -> Mined:
        if self._runner.protocol.settled is not None:
            await self._go_on()
        elif self._stage is SettlementStage.PROPOSING and self._settlement is not None:
            await self._once(SettlementStep.SEND, self._prove_and_send, self._settlement)

        def ended() -> Mined | Literal["over"] | None:
            over = self._mined is None and not self._runner.protocol.options
            return "over" if over and self._runner.protocol.settled is None else self._mined

        mined = await self._wait(ended, "settle", for_ever=True)
        if not isinstance(mined, Mined):
            raise MoveFailed("settle", "its deadline has passed and nobody sent it")
        return mined

    async def _prove_and_send(self, settlement: PlannedSettlement) -> None:
        """Our proposal: once the peer has signed it, prove and send it."""
        runner, lane = self._runner, self._runner.lane
        deadline_ns = settlement.call.deadline * SECOND
        wait_s = max(1.0, (deadline_ns - runner.clock.now_ns()) / SECOND)

        def answered() -> SettlementAcceptance | Literal["lost"] | None:
            alive = runner.protocol.proposal
            if alive is None or not is_proposal(settlement, alive):
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
        await self._store.keep(settlement, "signed", {TRADER: pair[0], SOLVER: pair[1]})
        await self._done(await runner.collateral.settle(settlement, signatures))

    # --- answering --------------------------------------------------------------------------

    async def _name_ours(self) -> None:
        runner, lane = self._runner, self._runner.lane
        if self._willing is not None and not await self._willing():
            raise SettlementRefused("not now")
        theirs = self._record.payee(1 - lane)
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
        if SettlementStep.CONSENT in self._steps:
            return
        answered = self._runner.protocol.proposal
        try:
            settlement = await self._once(SettlementStep.CONSENT, self._consent)
        finally:
            if self._record.theirs_is_alive() and self._runner.protocol.proposal is not answered:
                self._begin(self._guarded, self._answer_proposal)  # it came meanwhile
        if settlement is not None:
            await self._once(SettlementStep.WATCH, self._watch, settlement)

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
        ours, theirs = self._record.payee(lane), self._record.payee(1 - lane)
        if ours is None or theirs is None:
            raise SettlementRefused("the proposal is alive no more")
        settlement = accept_settlement(
            proposal_of(said),
            [*runner.protocol.notes.values(), *runner.protocol.peer_notes.values()],
            in_order(lane, ours, theirs),
            account.payouts,
            proposer=1 - lane,
            max_fee=self._terms.tariff.relayer_cap,
            now_s=runner.clock.now_ns() / SECOND,
        )
        agreement = runner.agreement
        settlement.check_signature(agreement.chain_id, agreement.contract, 1 - lane, said.signature)
        await self._check_free(*settlement.call.commitments)
        own = await self._signed(settlement)
        await self._store.keep(settlement, "signed", {lane: own, 1 - lane: said.signature})
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
        mined = await self._seen(settlement)
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
        while self._mined is None and (options := runner.protocol.options):
            last = max(option.deadline for option in options)
            left = last * SECOND + runner.protocol.params.skew_ns - runner.clock.now_ns()
            if left >= 0:
                # In short steps: the system's clock may be set.
                await trio.sleep(min(left / SECOND + 0.001, LOOK_AGAIN_S))
                continue
            wanted = {option.commitment0 for option in options}
            for settlement in await self._store.kept():
                if settlement.call.commitments[0] not in wanted:
                    continue
                mined = await self._seen(settlement)
                if mined is not None:
                    self._settlement = settlement
                    await self._done(mined)
                    return
            self._settlement, self._refused = None, None
            self._enter(SettlementStage.OPEN)
            await runner.flush(runner.protocol.proposal_expired(runner.clock.now_ns()))
            self._wake()

    async def _done(self, mined: Mined) -> None:
        if self._mined is not None:
            return
        self._mined = mined
        self._stage = SettlementStage.MINED
        await self._runner.flush(
            self._runner.protocol.settlement_mined(mined, self._runner.clock.now_ns())
        )
        if self._settlement is not None:
            await self._store.keep(self._settlement, "mined", {})
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
            self._enter(SettlementStage.PROPOSING)
            await self._once(SettlementStep.SEND, self._prove_and_send, settlement)

    async def _at_hand(self) -> PlannedSettlement | None:
        """The settlement that is the proposal alive, if we or the journal have it."""
        alive = self._runner.protocol.proposal
        if self._settlement is None or not is_proposal(self._settlement, alive):
            await self._recall()
        settlement = self._settlement
        return settlement if settlement is not None and is_proposal(settlement, alive) else None

    async def _recall(self) -> None:
        """The settlement as the journal kept it."""
        alive = self._runner.protocol.proposal
        for kept, signatures in await self._store.kept_signed():
            if alive is None or not is_proposal(kept, alive):
                continue
            self._settlement = kept
            theirs = signatures.get(str(1 - self._runner.lane))
            if alive[0] == self._runner.lane and theirs is not None:
                self._beside = SettlementAcceptance(
                    ref_seq_num=alive[1].frame.seq, signature=bytes.fromhex(theirs)
                )

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
            ours = {note.nullifier for note in self._store.notes().values()}
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
