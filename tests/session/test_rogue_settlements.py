"""Settlements that a rogue signs with its true keys: each is refused by name, freezes nothing, and
keeps nobody from settling rightly (`spec.md` 64)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio
from rogue import fall_silent, sign_unchecked
from session_scene import CHAIN_ID, PSYMM, SECOND, TOKEN, ChainCollateral, Scene, scene
from trio.testing import MockClock

from psymm.custody.notes import Note, random_blinding, sole_custody
from psymm.custody.planning import deadline_after
from psymm.custody.settlement import Payee, PlannedSettlement, propose_settlement
from psymm.messages import (
    AcceptedNote,
    ChainFact,
    CollAsgnReason,
    CollAsgnRespType,
    CollateralAssignment,
    CollateralResponse,
    Heartbeat,
    NewOrderSingle,
    NoteRef,
    OrdType,
    PositionEffect,
    Reject,
    SettlementAcceptance,
    SettlementOutput,
    Side,
)
from psymm.messages import Settlement as ProposalMessage
from psymm.rulebook import Lane
from psymm.session.protocol import SessionStatus
from psymm.session.runtime.settlement import SettlementFlow
from psymm.session.runtime.settlement_documents import message_of
from psymm.transcript.agreement import SOLVER, TRADER

MEMO = bytes(256)


@dataclass
class Rogue:
    """A solver that proposes by hand. ours, theirs: the payees on the record."""

    stage: Scene
    ours: Note
    theirs: Payee

    @property
    def payouts(self) -> tuple[int, int]:
        return self.stage.account(self.stage.far).payouts

    def plan(
        self,
        payouts: tuple[int, int] | None = None,
        theirs: Payee | None = None,
        expires_in_s: int = 1_800,
    ) -> PlannedSettlement:
        protocol = self.stage.far.protocol
        return propose_settlement(
            [*protocol.notes.values(), *protocol.peer_notes.values()],
            (theirs or self.theirs, Payee(self.ours.inner, MEMO)),
            payouts or self.payouts,
            proposer=1,
            deadline=deadline_after(self.stage.clock.now_ns() / SECOND, expires_in_s),
        )

    async def signed(self, settlement: PlannedSettlement, **changes: Any) -> ProposalMessage:
        message = settlement.call.message(CHAIN_ID, PSYMM)
        said = message_of(settlement, await self.stage.solver.wallet.sign_typed(message))
        return replace(said, **changes)


async def one_more(rogue: Rogue) -> ProposalMessage:
    trader, solver = rogue.payouts
    return await rogue.signed(rogue.plan((trader - 1, solver + 1)))


async def one_more_unsaid(rogue: Rogue) -> ProposalMessage:
    trader, solver = rogue.payouts
    settlement = rogue.plan((trader - 1, solver + 1))
    return await rogue.signed(settlement, trader_payout=trader, solver_payout=solver)


async def all_to_itself(rogue: Rogue) -> ProposalMessage:
    own = Note(sole_custody(rogue.stage.solver.wallet.public_key), TOKEN, 0, random_blinding())
    return await rogue.signed(rogue.plan(theirs=Payee(own.inner, MEMO)))


async def another_memo(rogue: Rogue) -> ProposalMessage:
    """The trader would never find its note again."""
    return await rogue.signed(rogue.plan(theirs=replace(rogue.theirs, memo=b"\x01" * 256)))


async def unsigned(rogue: Rogue) -> ProposalMessage:
    return await rogue.signed(rogue.plan(), signature=bytes(64) + b"\x1b")


async def signed_by_the_trader(rogue: Rogue) -> ProposalMessage:
    settlement = rogue.plan()
    digest = settlement.call.message(CHAIN_ID, PSYMM)
    return message_of(settlement, await rogue.stage.trader.wallet.sign_typed(digest))


async def in_a_year(rogue: Rogue) -> ProposalMessage:
    return await rogue.signed(rogue.plan(expires_in_s=365 * 86_400))


async def with_a_payee_that_it_replaced(rogue: Rogue) -> ProposalMessage:
    said = await rogue.signed(rogue.plan())
    other = Note(sole_custody(rogue.stage.solver.wallet.public_key), TOKEN, 0, random_blinding())
    await rogue.stage.far.send(
        SettlementOutput(inner=other.inner, memo=MEMO, amount=rogue.payouts[1])
    )
    return said


async def named(stage: Scene) -> Rogue:
    """Both payees are on the record."""
    own = Note(sole_custody(stage.solver.wallet.public_key), TOKEN, 0, random_blinding())
    payouts = stage.account(stage.far).payouts
    said = SettlementOutput(inner=own.inner, memo=MEMO, amount=payouts[1])
    await stage.far.send(said)
    answer = await stage.desk.listeners[0].message(SettlementOutput)
    assert answer.amount == payouts[0]
    return Rogue(stage, own, Payee(answer.inner, answer.memo))


def honest_again(stage: Scene) -> None:
    """The rogue's own session takes what it signed for an option; it thinks better of it."""
    life = stage.far.protocol.state.lifecycle
    life.proposal = life.acceptance = None
    life.offered.clear()
    stage.far.perform(stage.far.protocol.proposal_expired(stage.clock.now_ns()))


async def settles_at_once(stage: Scene, near: SettlementFlow) -> None:
    honest_again(stage)
    stage.settling(stage.far, stage.desk.listeners[0])
    before = trio.current_time()
    await near.settle()
    assert trio.current_time() - before < 60, "no deadline is waited for"
    assert len(stage.chain.spent) == 2
    funds = stage.trader.collateral
    assert isinstance(funds, ChainCollateral)
    assert funds.worth() == 2_000_000_000


@pytest.mark.parametrize(
    ("tamper", "rule"),
    [
        (one_more, "wrong-payout"),
        (one_more_unsaid, "wrong-output"),
        (all_to_itself, "wrong-output"),
        (another_memo, "wrong-output"),
        (unsigned, "wrong-signature"),
        (signed_by_the_trader, "wrong-signature"),
        (in_a_year, "wrong-deadline"),
        (with_a_payee_that_it_replaced, "wrong-output"),
    ],
)
async def test_a_proposal_that_is_not_what_the_record_gives_freezes_nothing(
    tmp_path: Path, autojump_clock: MockClock, tamper: Callable[[Rogue], Any], rule: str
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        near, _ = stage.settling(stage.near, stage.heard)
        entry = sign_unchecked(stage.far, await tamper(await named(stage)))
        reject = await stage.desk.listeners[0].message(Reject)
        assert (reject.ref_seq_num, reject.violation) == (entry.frame.seq, rule)
        await trio.sleep(5)
        assert stage.near.protocol.status is SessionStatus.TRADING
        assert stage.account(stage.near).settlement is None
        assert not any(
            isinstance(each.message, SettlementAcceptance) for each in stage.near.protocol.record
        )
        await settles_at_once(stage, near)


@pytest.mark.parametrize("moment", ["before it is named", "before it is proposed", "once signed"])
async def test_an_output_that_is_in_the_tree_already_freezes_nothing(
    tmp_path: Path, autojump_clock: MockClock, moment: str
) -> None:
    """A commitment has one life, so such a settlement could never be mined."""
    async with scene(tmp_path) as stage:
        await stage.open()
        near, _ = stage.settling(stage.near, stage.heard)
        if moment == "before it is named":
            worth = stage.account(stage.far).payouts[1]
            own = Note(
                sole_custody(stage.solver.wallet.public_key), TOKEN, worth, random_blinding()
            )
            stage.chain.occupy(own.commitment)
            await stage.far.send(SettlementOutput(inner=own.inner, memo=MEMO, amount=worth))
            await stage.desk.listeners[0].message(ChainFact)
            await trio.sleep(5)
            assert stage.account(stage.far).solver_payee is None
        else:
            rogue = await named(stage)
            settlement = rogue.plan()
            outputs = {one.inner: one.commitment(TOKEN) for one in settlement.plan.outputs}
            if moment == "before it is proposed":
                stage.chain.occupy(outputs[rogue.ours.inner])
            sign_unchecked(stage.far, await rogue.signed(settlement))
            if moment == "once signed":
                await stage.desk.listeners[0].message(SettlementAcceptance)
                stage.chain.occupy(outputs[rogue.ours.inner])
                await trio.sleep(5)
                # Our signature is out, but can do nothing: whoever sees it may say so.
                (fact,) = stage.chain.facts
                commitment = outputs[rogue.ours.inner]
                runner = stage.near
                runner.perform(
                    runner.protocol.output_occupied(fact, commitment, runner.clock.now_ns())
                )
            await stage.desk.listeners[0].message(ChainFact)
        await trio.sleep(5)
        assert stage.near.protocol.status is SessionStatus.TRADING
        assert not stage.near.protocol.options
        assert stage.account(stage.near).settlement is None
        await settles_at_once(stage, near)


@pytest.mark.parametrize("wrong", [{"amount": 1}, {"amount": 2**127}, {"token": b"\x01" * 20}])
async def test_an_acceptance_that_misstates_our_note_opens_nothing_and_a_right_one_does(
    tmp_path: Path, autojump_clock: MockClock, wrong: dict[str, Any]
) -> None:
    async with scene(tmp_path) as stage:
        asked = trio.Event()

        async def never(*_: object) -> list[Note]:
            asked.set()
            await trio.sleep_forever()
            raise AssertionError

        stage.solver.collateral.fund = never  # type: ignore[method-assign]
        await stage.nursery.start(stage.server.run)
        await stage.nursery.start(stage.client.run)
        await asked.wait()
        (note,) = stage.near.protocol.notes.values()
        right = {"token": bytes.fromhex(note.token[2:]), "amount": note.amount}

        def accepts(name: str, **holds: Any) -> CollateralResponse:
            return CollateralResponse(
                coll_resp_id=name,
                coll_asgn_resp_type=CollAsgnRespType.ACCEPTED,
                commitments=(AcceptedNote(commitment=note.commitment, **(right | holds)),),
            )

        entry = sign_unchecked(stage.far, accepts("lie", **wrong))
        reject = await stage.desk.listeners[0].message(Reject)
        assert reject.ref_seq_num == entry.frame.seq
        assert reject.violation in ("note-misstated", "note-wrong-token")
        await trio.sleep(2)
        assert stage.account(stage.near).collateral(Lane.TRADER) == 0
        assert stage.near.protocol.status is SessionStatus.VERIFYING
        sign_unchecked(stage.far, accepts("truth"))
        await trio.sleep(2)
        assert stage.account(stage.near).collateral(Lane.TRADER) == note.amount


@pytest.mark.parametrize("lane", [TRADER, SOLVER])
async def test_a_second_note_while_collateral_is_put_up_is_refused_and_all_of_it_comes_back(
    tmp_path: Path, autojump_clock: MockClock, lane: int
) -> None:
    """The other side has put up its own, or is about to, and may accept one note of a lane."""
    async with scene(tmp_path) as stage:
        funding, go_on = trio.Event(), trio.Event()
        funds = stage.solver.collateral
        assert isinstance(funds, ChainCollateral)
        honest = funds.fund

        async def slow(*given: Any) -> Any:
            funding.set()
            await go_on.wait()
            return await honest(*given)

        funds.fund = slow  # type: ignore[method-assign]
        await stage.nursery.start(stage.server.run)
        await stage.nursery.start(stage.client.run)
        await funding.wait()
        if lane == SOLVER:
            go_on.set()
            await stage.heard.message(CollateralAssignment)
        runner = (stage.near, stage.far)[lane]
        more = CollateralAssignment(
            coll_asgn_id="more",
            coll_asgn_reason=CollAsgnReason.SCHEDULED,
            notes=(NoteRef(commitment=b"\x01" * 32, nullifier=b"\x02" * 32),),
        )
        entry = sign_unchecked(runner, more)
        # The rogue itself counts on nothing that it lists so.
        del runner.protocol.state.lifecycle.listed[lane][more.notes[0].commitment]
        await trio.sleep(1)
        go_on.set()
        with trio.fail_after(60):
            reject = await (stage.heard, stage.desk.listeners[0])[lane].message(Reject)
            assert (reject.ref_seq_num, reject.violation) == (entry.frame.seq, "too-many-notes")
            await stage.heard.state(SessionStatus.TRADING)
            await stage.desk.listeners[0].state(SessionStatus.TRADING)
            near, _ = stage.both_settle()
            await near.settle()
        assert [one.collateral.worth() for one in (stage.trader, stage.solver)] == [  # type: ignore[attr-defined]
            2_000_000_000,
            5_000_000_000,
        ]


async def test_no_wallet_signs_a_settlement_that_rests_on_a_fill_which_is_not_covered(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A trader that covers nothing can still void a fill by covering it late (`spec.md` 2). With
    our signature it could settle with the fill or go on without it, as the price goes, until the
    deadline."""
    async with scene(tmp_path) as stage:
        await stage.open()
        _, failures = stage.settling(stage.far, stage.desk.listeners[0])
        order = await stage.order("o1")
        await stage.report("e1", order)
        (position,) = (await stage.agreed()).positions
        near, heard = stage.near, stage.desk.listeners[0]
        await near.send(Heartbeat())
        fall_silent(near)
        covers = near.protocol.record.head(0).peer_seq
        now = near.clock.now_ns()
        close = NewOrderSingle(
            cl_ord_id="c1",
            symbol=order.symbol,
            side=Side.SELL,
            order_qty=order.order_qty,
            ord_type=OrdType.LIMIT,
            position_effect=PositionEffect.CLOSE,
            expire_time=now + 15 * SECOND,
            price=order.price,
            position_id=position,
        )
        sign_unchecked(near, close, covers=covers)
        await heard.message(NewOrderSingle)
        await trio.sleep(0.5)
        await stage.report("e2", close)
        await trio.sleep(0.5)
        assert stage.account(stage.far).flat
        payouts = stage.account(stage.far).payouts
        own = Note(sole_custody(stage.trader.wallet.public_key), TOKEN, 0, random_blinding())
        sign_unchecked(
            near,
            SettlementOutput(inner=own.inner, memo=MEMO, amount=payouts[0]),
            covers=covers,
            sending_time=now,
        )
        await trio.sleep(2)
        theirs = stage.account(stage.far).solver_payee
        assert theirs is not None
        settlement = propose_settlement(
            [*near.protocol.notes.values(), *near.protocol.peer_notes.values()],
            (Payee(own.inner, MEMO), Payee(theirs.inner, theirs.memo)),
            payouts,
            proposer=0,
            deadline=deadline_after(now / SECOND, 1_800),
        )
        message = settlement.call.message(CHAIN_ID, PSYMM)
        said = message_of(settlement, await stage.trader.wallet.sign_typed(message))
        sign_unchecked(near, said, covers=covers, sending_time=now)
        await trio.sleep(20)
        assert not any(
            isinstance(each.message, SettlementAcceptance) for each in stage.far.protocol.record
        )
        sign_unchecked(near, Heartbeat())
        await trio.sleep(2)
        assert "the proposal is alive no more" in str(failures)
        assert not stage.far.protocol.options
        await stage.far.send(Heartbeat())
        assert len(stage.account(stage.far).positions) == 1, "the fill was late"
        assert stage.far.protocol.status is SessionStatus.TRADING
        assert not any(
            isinstance(each.message, SettlementAcceptance) for each in stage.far.protocol.record
        )
