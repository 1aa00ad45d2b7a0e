"""SettlementFlow: how two sides turn a flat account into one CTC.

This file is long because the steps of both sides, healthy or restored, are cases of one flow and
wait for each other.

The usual course:

1. The proposer names its payee (UPY), and the other side answers with its own.
2. The proposer signs the settlement (UST). The rulebook recomputes the outputs from both payees.
3. The other side recomputes the rest from its own knowledge, and signs (USA).
4. The proposer proves the move and sends it. The other side watches the chain.

If both begin at once, and each payee assumes that its own side proposes, the trader yields: it
names a payee for its whole payout, and the solver proposes.

A side with a restored journal signs no frames. Its UPY and USA are texts that its wallet signed,
which is all that the chain asks for. The other side puts the UPY on its own lane's record
unchanged. Only the wallet's owner can name its payee: the signature decides whose payee it is. To
settle, a restored side sends its UPY unasked, and the other side proposes. A restored trader's UPY
also covers the solver's frames. Otherwise a trader that only claims to be restored could void a
fill after we signed a settlement with it. What a restored side knows of the account comes from the
other side. A peer that hides frames which it covered or signed would have to sign one of its
numbers again to propose, and that is equivocation.

States: `SettlementStage` says how far the settlement is; `SettlementStep` names the tasks in
progress. A step runs at most once at a time.

Who calls whom: the application calls `settle`, the runner's listener calls `on_event`. Both start
steps as tasks in `nursery`. Steps wait in `_wait`, which every event wakes. `SettlementRecord`
reads what is on the record; `SettlementStore` reads and writes what the journal keeps.

What is durable when: the planned settlement before our wallet signs it, our signature before it is
sent, both signatures before the move is sent. So either side can continue after a crash, and the
chain accepts the move only once, from either side.

Proposing, answering and resuming stay in one file, so that a reader sees together what is kept,
signed and sent, and in which order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from enum import Enum, auto
from typing import Final, Literal, TypeVar

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
"""Seconds that the other side may take to name its payee, and then to sign."""
LEAST_LIFE_S: Final = 120.0
"""Seconds. We resume an interrupted proposal if its deadline is at least this far away."""
LOOK_AGAIN_S: Final = 10.0
"""Seconds between two looks at a clock that may be set, or at a chain that is down."""

FRAMES: Final = (FrameReceived, FrameSent, ProvisionalFrame)
TRADING: Final = (QuoteRequest, Quote, NewOrderSingle, ExecutionReport)
"""Messages that never begin a settlement. They are nearly all the traffic."""


class SettlementStage(Enum):
    """How far a settlement is, as this side sees it."""

    OPEN = auto()
    """Nothing of ours is in progress; the peer may propose."""
    PROPOSING = auto()
    """From `settle` on: we name our payee, plan, sign and send a proposal of our own."""
    MINED = auto()
    """On chain and deep enough. It is final."""


class SettlementStep(Enum):
    """A task in progress. Each runs at most once at a time."""

    NAME = auto()
    """Answer the peer's payee with ours."""
    CONSENT = auto()
    """Check and sign the peer's proposal."""
    WATCH = auto()
    """Wait until the peer's move is mined."""
    SEND = auto()
    """Wait for the peer's signature, prove and send."""
    OUTLIVE = auto()
    """Wait until nothing that we signed can be mined any more."""


class SettlementFlow:
    """One custody's settlement, seen from one side. Give it every event.

    Args:
        nursery: Where its tasks run.
        account: The account, with frames that are not covered yet.
        failed: Receives errors that no caller waits for.
        willing: Decides whether we answer when the peer wants to settle. False: no answer.
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
        # Our payee as a text. A text does not survive its connection, so we send it again.
        self._said: SettlementOutput | None = None
        self._stage = SettlementStage.OPEN
        self._steps: set[SettlementStep] = set()
        self._settlement: PlannedSettlement | None = None
        self._mined: Mined | None = None
        self._refused: str | None = None
        # The peer's signature that came as a text, not on the record.
        self._text_signature: SettlementAcceptance | None = None
        self._changed = trio.lowlevel.ParkingLot()
        self.waiting = 0
        runner.at_end.append(self._wake)
        if runner.protocol.synced:
            self._resume()  # Heads agreed before we listened, so no `Resumed` will come.

    @property
    def mined(self) -> Mined | None:
        """Where the settlement was mined, if it is deep enough."""
        return self._mined

    # --- events -----------------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        """Act on an event. Does not block and does not raise."""
        # Fast path: trading messages only wake the steps that wait for the account to change.
        if isinstance(event, FRAMES) and type(event.entry.message) in TRADING:
            if self.waiting:
                self._wake()
            return
        match event:
            case FrameReceived(entry, None) if isinstance(entry.message, SettlementOutput):
                # With a signature it is our own payee: our journal is restored, so the peer
                # recorded it for us.
                if entry.message.signature is None:
                    self._answer_soon()
            case TextReceived(SettlementOutput() as said) if self._runner.protocol.peer_restored:
                self._begin(self._guarded, self._take_payee, said)
            case FrameReceived(entry, None) if isinstance(entry.message, ProposalMessage):
                if self._record.alive_seq(1 - self._runner.lane) == entry.frame.seq:
                    # The peer was first. We answer its proposal and give ours up.
                    self._enter(SettlementStage.OPEN)
                    self._begin(self._guarded, self._answer_proposal)
            case TextReceived(SettlementAcceptance() as said):
                self._begin(self._guarded, self._take_text_signature, said)
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
                # The peer saw it mined before we did. We ask our own chain to be sure.
                self._begin(self._guarded, self._go_on)
            case _:
                pass
        # As long as the chain may accept something that we signed, one task watches it.
        if self._runner.protocol.options and SettlementStep.OUTLIVE not in self._steps:
            self._begin(self._guarded, self._once, SettlementStep.OUTLIVE, self._outlive)
        self._wake()

    def _resume(self) -> None:
        """Continue what was interrupted, now that heads agree. A frame that is already on the
        record causes no second event, so look for an unanswered payee here."""
        lane, state = self._runner.lane, self._runner.protocol.status
        payee = self._record.payee
        if state in (SessionStatus.SETTLING, SessionStatus.CLOSED):
            self._begin(self._guarded, self._go_on)
        elif state is SessionStatus.TRADING and payee(1 - lane) and not payee(lane):
            self._answer_soon()

    def _answer_soon(self) -> None:
        """Name our payee. If we are proposing ourselves, that is an answer too."""
        if self._stage is SettlementStage.OPEN and SettlementStep.NAME not in self._steps:
            self._begin(self._guarded, self._once, SettlementStep.NAME, self._name_ours)

    def _begin(self, work: Callable[..., Awaitable[None]], *given: object) -> None:
        """Start a task. If the nursery has ended, start none: the next process continues."""
        with suppress(SessionClosed):
            start_task(self._nursery, work, *given)

    def _enter(self, stage: SettlementStage) -> None:
        # Final: a late step must not reopen a settlement that is mined.
        if self._stage is not SettlementStage.MINED:
            self._stage = stage

    async def _once(
        self, step: SettlementStep, work: Callable[..., Awaitable[_T]], *given: object
    ) -> _T | None:
        """Do a step, unless it is in progress already."""
        if step in self._steps:
            return None
        self._steps.add(step)
        try:
            return await work(*given)
        finally:
            self._steps.discard(step)

    def _wake(self) -> None:
        if self.waiting:  # Most events come while nothing waits here.
            self._changed.unpark_all()

    async def _guarded(self, work: Callable[..., Awaitable[None]], *given: object) -> None:
        try:
            await work(*given)
        # Refusals go to the peer, so that it need not wait for its timeout. Trouble of our own
        # (chain, wallet, journal) is no business of the peer's.
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
        """Propose a settlement of the flat account and wait until it is mined. With a restored
        journal: ask the other side to propose, and sign its proposal with the wallet.

        Raises NotNow if orders or positions are open or heads do not agree, SettlementRefused with
        the peer's words, PeerSilent, and what custody raises.
        Cancelled: raises Cancelled. What was signed stays signed, and the next process continues.
        """
        if self._mined is not None:
            return self._mined
        # Something signed is out already. A second proposal could only compete with it.
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
        """Name our payee in a text. The other side knows that we cannot sign frames, so it
        proposes."""
        runner = self._runner
        await self._name_payee(self._record.flat_payouts()[runner.lane])
        try:
            await self._wait(lambda: runner.protocol.proposal, "propose a settlement")
        finally:
            self._said = None

    async def _take_payee(self, said: SettlementOutput) -> None:
        """Put the payee of a peer that signs no frames on our record. Then propose at our own fee,
        if we are willing and are not proposing already."""
        if said.signature is None:
            raise SettlementRefused("a payee in a text needs the wallet's signature")
        # `_planned` waits for this payee. A second `settle` here would propose twice.
        if self._stage is SettlementStage.PROPOSING:
            await self._put_on_record(said)
            return
        # Set before the first await: a second text that comes meanwhile takes the branch above.
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
        # The peer sends its text again on each connection. Record it only if it says anything new.
        known = self._record.payee(1 - self._runner.lane)
        covers = said.ref_seq_num or 0
        if (
            known is None
            or (known.inner, known.amount) != (said.inner, said.amount)
            or covers > self._runner.protocol.decided
        ):
            await self._runner.send(said)

    async def _take_text_signature(self, said: SettlementAcceptance) -> None:
        """Take the peer's signature from a text, if it is its wallet's signature over our proposal.
        Otherwise refuse it; nothing of ours changes."""
        runner = self._runner
        # Check against the live proposal: a signature over an older one would not send the move.
        fits = self._record.alive_seq(runner.lane) == said.ref_seq_num
        settlement = await self._at_hand()
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
                self._text_signature = said
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
        """Plan, sign and send a proposal of ours, or wait for the peer's. The waits make sure that
        no frame can still change the account that we sign."""
        runner, lane, record = self._runner, self._runner.lane, self._record
        # Until the solver has covered an order of ours, it can still fill it as of an earlier
        # time. A restored trader covers in the text that names its payee.
        await self._wait(
            lambda: (
                (record.all_covered and (record.decided or runner.protocol.peer_restored)) or None
            ),
            "cover what we sent before",
        )
        payouts = record.flat_payouts()
        # Resume an interrupted proposal. A new one would need other notes: the wallet reserves
        # those of the old one until its deadline.
        settlement = await self._begun(payouts)
        if settlement is None:
            settlement = await self._planned(payouts)
        if settlement is None:
            self._enter(SettlementStage.OPEN)
            await self._wait(lambda: runner.protocol.proposal, "propose a settlement")
            return
        # Naming the payees took frames too. They are covered within moments.
        await self._wait(
            lambda: (record.all_covered and record.decided) or None,
            "cover what was sent meanwhile",
        )
        # The payees were named for these payouts. With others the peer would refuse.
        if record.flat_payouts() != payouts:
            raise NotNow("the account changed while the payees were named")
        # Keep it before signing. The wallet reserves its notes for this settlement until the
        # deadline, so after a crash we must find this one again and not make another.
        await self._store.keep(settlement, "planned", {})
        signature = await self._signed(settlement)
        # Keep our signature before it leaves: from then on the peer can send the move.
        await self._store.keep(settlement, "proposed", {lane: signature})
        if record.theirs_is_alive():
            return  # The peer proposed first; `_answer_proposal` deals with it.
        self._settlement = settlement
        await runner.send(message_of(settlement, signature))

    async def _begun(self, payouts: tuple[int, int]) -> PlannedSettlement | None:
        """A proposal of ours that was interrupted before it was on the record and is still good."""
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
            # Same payouts, enough time, never sent, and for the payees that are on record.
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
            # Our move would fail on chain if the peer's output exists there already.
            await self._check_free(self._output(theirs))
        else:
            # We yield. Our payee assumed that we pay the fee, so name one for the whole payout.
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
        """Have our payee for `amount` on the record, or in a text if we sign no frames. Keep one
        that is already there, since the peer may be signing for it. If a stolen key named that
        payee, our wallet will not sign: it signs only for what it can open."""
        runner = self._runner
        known = self._record.payee(runner.lane)
        restored = runner.protocol.health == "read-only"
        covers = runner.protocol.covers() if restored and runner.lane == TRADER else None
        stands = covers is None or self._record.decided
        # A fresh payee uses up a place of our custody, so ask for one only if we need it.
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
        """Send our payee again: a text does not survive its connection."""
        with suppress(NotNow):
            await self._runner.send_text(said)

    async def _until_decided(self, said: ProposalMessage) -> None:
        """Wait until the account under the peer's proposal can no longer change. Raises
        SettlementRefused if a late frame voids the proposal; it then freezes nothing."""
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
        """Our proposal: when the peer has signed it, prove and send it."""
        runner, lane = self._runner, self._runner.lane
        deadline_ns = settlement.call.deadline * SECOND
        wait_s = max(1.0, (deadline_ns - runner.clock.now_ns()) / SECOND)

        def answered() -> SettlementAcceptance | Literal["lost"] | None:
            alive = runner.protocol.proposal
            if alive is None or not is_proposal(settlement, alive):
                return "lost"
            in_text = self._text_signature
            if in_text is not None and in_text.ref_seq_num == alive[1].frame.seq:
                return in_text
            return runner.protocol.acceptance

        accepted = await self._wait(answered, "sign the settlement", within_s=wait_s)
        if not isinstance(accepted, SettlementAcceptance):
            return  # The peer's proposal crossed ours and came first; it is answered elsewhere.
        own = await self._own_signature(settlement)
        pair = (own, accepted.signature) if lane == TRADER else (accepted.signature, own)
        agreement = runner.agreement
        signatures = settlement.consent(
            agreement.chain_id, agreement.contract, trader=pair[0], solver=pair[1]
        )
        # Both signatures are kept before the move is sent. After a crash we send the same move.
        await self._store.keep(settlement, "signed", {TRADER: pair[0], SOLVER: pair[1]})
        await self._done(await runner.collateral.settle(settlement, signatures))

    # --- answering --------------------------------------------------------------------------

    async def _name_ours(self) -> None:
        """Answer the peer's payee with ours, if we are willing and the account is flat."""
        runner, lane = self._runner, self._runner.lane
        # Ask before anything is signed: from our payee on, the peer can propose.
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
        """Sign the peer's proposal, or say what differs. One at a time: both its frame and a resume
        may ask for it."""
        if SettlementStep.CONSENT in self._steps:
            return
        answered = self._runner.protocol.proposal
        try:
            settlement = await self._once(SettlementStep.CONSENT, self._consent)
        finally:
            if self._record.theirs_is_alive() and self._runner.protocol.proposal is not answered:
                self._begin(self._guarded, self._answer_proposal)  # A newer one came meanwhile.
        if settlement is not None:
            await self._once(SettlementStep.WATCH, self._watch, settlement)

    async def _consent(self) -> PlannedSettlement | None:
        """Put our signature on the record for the peer's live proposal, and return it."""
        runner, alive = self._runner, self._runner.protocol.proposal
        if alive is None or alive[0] == runner.lane:
            return None
        _, entry, said = alive
        settlement = await self._at_hand()
        # After a crash the journal may know the settlement. We then sign the same again, or find
        # that our acceptance is on the record already.
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
        """Recompute the peer's proposal, sign it, and keep both signatures."""
        runner, lane = self._runner, self._runner.lane
        # First let the account settle: we must not sign payouts that a late fill could change.
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
        # Check the peer's signature before we sign. With a bad one nobody could send the move, yet
        # our own signature would reserve our notes.
        settlement.check_signature(agreement.chain_id, agreement.contract, 1 - lane, said.signature)
        await self._check_free(*settlement.call.commitments)
        own = await self._signed(settlement)
        # Keep before we answer. From our answer on, the peer can send the move.
        await self._store.keep(settlement, "signed", {lane: own, 1 - lane: said.signature})
        return settlement, own

    async def _accept(self, seq: int, signature: bytes) -> None:
        """Send our wallet's signature: in a frame, or in a text if we must not sign frames."""
        answer = SettlementAcceptance(ref_seq_num=seq, signature=signature)
        if self._runner.protocol.health == "read-only":
            await self._runner.send_text(answer)
        else:
            await self._runner.send(answer)

    async def _watch(self, settlement: PlannedSettlement) -> None:
        """The other side sends the move. Wait until it is mined or its deadline passes."""
        mined = await self._seen(settlement)
        if mined is not None:
            await self._done(mined)

    async def _seen(self, settlement: PlannedSettlement) -> Mined | None:
        """As `Collateral.wait_spent`, but ask again when the chain is down."""
        while True:
            try:
                return await self._runner.collateral.wait_spent(settlement)
            except PSymmError as failed:
                self._failed(failed)
                await trio.sleep(LOOK_AGAIN_S)

    async def _outlive(self) -> None:
        """Watch everything that we signed until it can no longer be mined. A deadline must pass on
        our clock, with the rulebook's skew added, and then on the chain's. If the move was not
        mined, trading continues."""
        runner = self._runner
        while self._mined is None and (options := runner.protocol.options):
            last = max(option.deadline for option in options)
            left = last * SECOND + runner.protocol.params.skew_ns - runner.clock.now_ns()
            if left >= 0:
                # Sleep in short steps: the system's clock may be set.
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
            # Nothing was mined and nothing can be. Release the account.
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
        """After a resume: do what is left of a live settlement."""
        runner, alive = self._runner, self._runner.protocol.proposal
        if alive is None or self._mined is not None:
            return
        if alive[0] != runner.lane:
            await self._answer_proposal()
            return
        settlement = await self._at_hand()
        if settlement is not None:
            # Both sides may send. The chain accepts the move once, so a repeat does no harm.
            self._enter(SettlementStage.PROPOSING)
            await self._once(SettlementStep.SEND, self._prove_and_send, settlement)

    async def _at_hand(self) -> PlannedSettlement | None:
        """The settlement behind the live proposal, if we or the journal have it."""
        alive = self._runner.protocol.proposal
        if self._settlement is None or not is_proposal(self._settlement, alive):
            await self._recall()
        settlement = self._settlement
        return settlement if settlement is not None and is_proposal(settlement, alive) else None

    async def _recall(self) -> None:
        """Load the settlement from the journal."""
        alive = self._runner.protocol.proposal
        for kept, signatures in await self._store.kept_signed():
            if alive is None or not is_proposal(kept, alive):
                continue
            self._settlement = kept
            theirs = signatures.get(str(1 - self._runner.lane))
            # The peer's signature may have come as a text, which is not on the record.
            if alive[0] == self._runner.lane and theirs is not None:
                self._text_signature = SettlementAcceptance(
                    ref_seq_num=alive[1].frame.seq, signature=bytes.fromhex(theirs)
                )

    # --- parts ------------------------------------------------------------------------------

    def _output(self, payee: NamedPayee) -> bytes:
        """The commitment of the note that pays this payee."""
        return commitment(payee.inner, self._terms.collateral.token, payee.amount)

    async def _check_free(self, *outputs: bytes) -> None:
        """Check that no output is in the tree already. A commitment can be inserted only once, so
        such a settlement could never be mined, yet would freeze both sides until its deadline. We
        sign nothing towards it, and cite what our own chain says, which takes it off the record
        (`spec.md` 64). Raises SettlementRefused, and what the chain raises if it does not answer.
        """
        runner = self._runner
        for one in outputs:
            asked = ChainFact(
                fact_kind=FactKind.INSERTED,
                block_number=0,
                transaction_hash=bytes(32),
                commitment=one,
            )
            fact = (await runner.collateral.look_up(asked)).fact
            # If the same transaction spent our notes, it is this very settlement, already mined.
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
        """Wait until `found` returns something. It is called after each event.

        Raises SettlementRefused with the peer's words, what ended or stopped the session, and
        PeerSilent after `within_s`, unless `for_ever`.

        Args:
            what: What the other side must do, for the error.
        """
        # Look before parking: the condition may hold already, and then no event will come.
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
                self.waiting += 1
                try:
                    await self._changed.park()
                finally:
                    self.waiting -= 1
        raise PeerSilent(f"the other side did not {what}", waited_s=within_s)
