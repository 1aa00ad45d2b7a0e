"""Settlement between two ends: recomputed by the other, once, whatever dies in between."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from session_scene import (
    CHAIN_ID,
    PSYMM,
    SECOND,
    ChainCollateral,
    Scene,
    make_terms,
    scene,
)
from test_resume import Lives
from trio.testing import MockClock

from psymm.custody.errors import MoveFailed
from psymm.custody.planning import Signatures
from psymm.custody.sending import SendTerms
from psymm.custody.settlement import PlannedSettlement as Settlement_
from psymm.errors import NotNow, PSymmError, SettlementRefused
from psymm.messages import ChainFact, Settlement, SettlementAcceptance, SettlementOutput
from psymm.session.protocol import (
    CitationWaits,
    Delivered,
    FrameReceived,
    FrameSent,
    Resumed,
    SessionStatus,
)
from psymm.session.protocol.chain_facts import ChainView, Mined
from psymm.session.runtime.settlement import ANSWER_S, SettlementFlow
from psymm.terms import Timeouts

RELAYER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


def funds(stage: Scene) -> tuple[ChainCollateral, ChainCollateral]:
    near, far = stage.trader.collateral, stage.solver.collateral
    assert isinstance(near, ChainCollateral)
    assert isinstance(far, ChainCollateral)
    return near, far


async def test_either_side_can_propose(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        near, far = stage.both_settle()
        mined = await far.settle()
        assert await near.settle() == mined
        assert [one.worth() for one in funds(stage)] == [2_000_000_000, 5_000_000_000]
        await stage.heard.state(SessionStatus.CLOSED)
        await stage.agreed()
        assert stage.account(stage.near).ended


async def test_the_relayers_fee_comes_out_of_the_proposers_payout(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        near, _ = stage.both_settle()
        funds(stage)[0].offer = SendTerms(RELAYER, 40_000)
        await near.settle()
        assert [one.worth() for one in funds(stage)] == [1_999_960_000, 5_000_000_000]


async def test_a_fee_above_the_terms_cap_is_signed_by_nobody(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        near, _ = stage.both_settle()
        funds(stage)[0].offer = SendTerms(RELAYER, 60_000)
        with pytest.raises(PSymmError, match="wrong-payee"):
            await near.settle()
        assert not any(
            isinstance(entry.message, Settlement) for entry in stage.near.protocol.record
        )


async def test_an_open_position_is_not_settled(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        near, _ = stage.settling(stage.near, stage.heard)
        order = await stage.order("o1")
        await stage.report("e1", order)
        await stage.agreed()
        with pytest.raises(NotNow, match="flat"):
            await near.settle()


async def test_a_solver_that_does_not_want_to_settle_says_so(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        near, far = stage.both_settle()

        async def unwilling() -> bool:
            return False

        far._willing = unwilling
        with pytest.raises(SettlementRefused, match="not now"):
            await near.settle()


async def test_two_proposals_that_cross_become_one_settlement(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        near, far = stage.both_settle()
        found: list[object] = []

        async def settle(one: object) -> None:
            found.append(await one.settle())  # type: ignore[attr-defined]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(settle, near)
            nursery.start_soon(settle, far)
        assert found[0] == found[1]
        assert len(stage.chain.spent) == 2
        assert [one.worth() for one in funds(stage)] == [2_000_000_000, 5_000_000_000]
        await trio.sleep(5)
        await stage.agreed()


@pytest.mark.parametrize("moment", ["proposed", "accepted", "sent"])
async def test_a_settlement_survives_the_death_of_both(
    tmp_path: Path, autojump_clock: MockClock, moment: str
) -> None:
    lives = Lives(tmp_path)

    async def first(stage: Scene) -> None:
        await stage.heard.state(SessionStatus.TRADING)
        await stage.desk.listeners[0].state(SessionStatus.TRADING)
        near, _ = stage.both_settle()

        async def try_to() -> None:
            with trio.CancelScope():
                await near.settle()

        stage.nursery.start_soon(try_to)
        if moment == "proposed":
            await stage.heard.until(
                lambda event: (
                    (isinstance(event, FrameSent) and isinstance(event.entry.message, Settlement))
                    or None
                )
            )
        elif moment == "accepted":
            await stage.heard.until(
                lambda event: (
                    (
                        isinstance(event, FrameReceived)
                        and type(event.entry.message).__name__ == "SettlementAcceptance"
                    )
                    or None
                )
            )
        else:
            while not stage.chain.spent:
                await stage.chain.moved.wait()

    async def second(stage: Scene) -> None:
        near, _ = stage.settling(stage.near, stage.heard)
        await stage.desk.begun.wait()
        stage.settling(stage.far, stage.desk.listeners[0])
        await near.settle()
        await stage.heard.state(SessionStatus.CLOSED)
        assert len(stage.chain.spent) == 2
        assert [one.worth() for one in (lives.funds[0], lives.funds[1])] == [
            2_000_000_000,
            5_000_000_000,
        ]
        facts = [
            entry for entry in stage.near.protocol.record if isinstance(entry.message, ChainFact)
        ]
        assert len(facts) == 1

    await lives.live(open_first=True, work=first)
    await lives.live(open_first=False, work=second)


async def settle_after_restart(stage: Scene) -> SettlementFlow:
    """The trader settles once heads agree; both listen since before. Returns the trader's."""
    near, _ = stage.settling(stage.near, stage.heard)
    await stage.desk.begun.wait()
    stage.settling(stage.far, stage.desk.listeners[0])
    while not stage.near.protocol.synced:  # noqa: ASYNC110
        await trio.sleep(0.1)
    await near.settle()
    return near


async def test_a_payee_named_before_a_crash_is_answered_after_the_restart(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The solver had covered it and not yet answered; the trader does not name it again."""
    lives = Lives(tmp_path)

    async def first(stage: Scene) -> None:
        await stage.heard.state(SessionStatus.TRADING)
        near, _ = stage.settling(stage.near, stage.heard)
        with trio.move_on_after(ANSWER_S / 2):
            await near.settle()  # The solver covers, and does not settle yet.
        (said,) = [
            entry
            for entry in stage.far.protocol.record
            if isinstance(entry.message, SettlementOutput)
        ]
        assert stage.near.protocol.record.head(1).peer_seq >= said.frame.seq

    async def second(stage: Scene) -> None:
        await settle_after_restart(stage)
        assert [lives.funds[lane].worth() for lane in (0, 1)] == [2_000_000_000, 5_000_000_000]

    await lives.live(open_first=True, work=first)
    await lives.live(open_first=False, work=second)


async def test_a_proposal_cut_short_once_signed_is_taken_up_again_and_never_made_anew(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The wallet holds its notes for what it signed until the deadline: another proposal would
    find them busy, and the trader could not settle for half an hour."""
    lives = Lives(tmp_path)
    signed: list[bytes] = []

    async def first(stage: Scene) -> None:
        await stage.heard.state(SessionStatus.TRADING)
        near, _ = stage.both_settle()

        async def dying(settlement: Settlement_) -> bytes:
            signed.append(settlement.call.digest(CHAIN_ID, PSYMM))
            power.cancel()
            await trio.sleep_forever()
            raise AssertionError

        lives.funds[0].sign = dying  # type: ignore[method-assign]
        with trio.CancelScope() as power:
            await near.settle()
        del lives.funds[0].sign

    async def second(stage: Scene) -> None:
        near = await settle_after_restart(stage)
        (said,) = [
            entry.message
            for entry in stage.near.protocol.record
            if isinstance(entry.message, Settlement)
        ]
        (held,) = [
            kept
            for kept in await near._store.kept()
            if kept.call.digest(CHAIN_ID, PSYMM) == signed[0]
        ]
        assert held.call.commitments[0] == said.commitment0
        assert [lives.funds[lane].worth() for lane in (0, 1)] == [2_000_000_000, 5_000_000_000]

    await lives.live(open_first=True, work=first)
    await lives.live(open_first=False, work=second)


async def test_a_settlement_that_missed_its_deadline_is_proposed_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        near, _ = stage.both_settle()
        honest = funds(stage)[0].settle

        async def nobody_sends(*_: object) -> Mined:
            raise MoveFailed("settle", "no relayer answers")

        funds(stage)[0].settle = nobody_sends  # type: ignore[method-assign]
        with pytest.raises(MoveFailed):
            await near.settle()
        funds(stage)[0].settle = honest  # type: ignore[method-assign]
        assert stage.near.protocol.status is SessionStatus.SETTLING
        await trio.sleep(3_600)
        assert stage.near.protocol.status is SessionStatus.TRADING
        await near.settle()
        assert [one.worth() for one in funds(stage)] == [2_000_000_000, 5_000_000_000]


async def test_a_settlement_is_over_once_our_own_chain_has_it_whatever_the_peer_cites(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        near, _ = stage.both_settle()
        wallet, seen = funds(stage)[0], trio.Event()
        honest = wallet.settle

        async def late(settlement: Settlement_, signatures: Signatures) -> Mined:
            mined = await honest(settlement, signatures)
            await seen.wait()
            return mined

        async def look_up(cited: ChainFact) -> ChainView:
            await trio.lowlevel.checkpoint()
            return ChainView(cited.block_number - 1, cited.block_number - 1, None)

        wallet.settle = late  # type: ignore[method-assign]
        wallet.look_up = look_up  # type: ignore[method-assign]
        stage.nursery.start_soon(near.settle)
        await stage.heard.until(lambda event: isinstance(event, CitationWaits) or None)
        await trio.sleep(60)
        journal, custody = stage.trader.journal, stage.near.agreement.custody
        assert stage.far.protocol.status is SessionStatus.CLOSED
        assert stage.near.protocol.status is SessionStatus.SETTLING
        assert (await journal.custody(custody)).state == "settling"
        assert not await journal.facts(custody)
        seen.set()
        await stage.heard.state(SessionStatus.CLOSED)
        await stage.heard.until(lambda event: isinstance(event, Delivered) or None)
        await trio.sleep(1)
        assert (await journal.custody(custody)).state == "closed"
        assert len(await journal.facts(custody)) == 1


async def test_a_payee_that_was_lost_with_its_connection_is_resent_on_the_next(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        near, _ = stage.both_settle()
        wire = stage.wires[-1]

        def lose(message: str | bytes) -> list[str | bytes]:
            if isinstance(message, bytes) and b'"UPY"' in message:
                stage.nursery.start_soon(wire.inner.aclose)
                return []
            return [message]

        wire.bend = lose
        began = trio.current_time()
        await near.settle()
        assert len(stage.wires) == 2
        assert trio.current_time() - began < ANSWER_S
        assert [one.worth() for one in funds(stage)] == [2_000_000_000, 5_000_000_000]


async def test_a_proposal_is_answered_once_though_a_resume_asks_for_it_too(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        near, _ = stage.settling(stage.near, stage.heard)
        far, failed = stage.settling(stage.far, stage.desk.listeners[0])
        wallet, asked = funds(stage)[1], 0
        honest = wallet.sign

        async def slow(settlement: Settlement_) -> bytes:
            nonlocal asked
            asked += 1
            if asked == 1:
                far.on_event(Resumed(0, 0))
            await trio.sleep(1)
            return await honest(settlement)

        wallet.sign = slow  # type: ignore[method-assign]
        await near.settle()
        await stage.heard.state(SessionStatus.CLOSED)
        await trio.sleep(10)
        answers = [
            entry
            for entry in stage.near.protocol.record
            if isinstance(entry.message, SettlementAcceptance)
        ]
        assert (asked, len(answers), failed) == (1, 1, [])


@pytest.mark.parametrize("proposer", ["near", "far"])
async def test_a_proposal_that_the_other_side_refused_is_outlived_by_both(
    tmp_path: Path, autojump_clock: MockClock, proposer: str
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        near, far = stage.both_settle()
        one, other = (near, far) if proposer == "near" else (far, near)
        refuser = funds(stage)[1 if proposer == "near" else 0]
        honest = refuser.sign

        async def busy(*_: object) -> bytes:
            raise MoveFailed("settle", "the wallet does not answer")

        refuser.sign = busy  # type: ignore[method-assign]
        with pytest.raises(SettlementRefused):
            await one.settle()
        refuser.sign = honest  # type: ignore[method-assign]
        await trio.sleep(3_600)
        assert {runner.protocol.status for runner in (stage.near, stage.far)} == {
            SessionStatus.TRADING
        }
        await other.settle()
        assert [each.worth() for each in funds(stage)] == [2_000_000_000, 5_000_000_000]


async def test_nothing_is_traded_while_a_proposal_of_ours_that_lost_can_still_be_mined(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The solver's own short proposal goes first on the record, and dies first; the trader's
    signature lives on in the solver's hands and would undo whatever is traded meanwhile."""
    async with scene(tmp_path) as stage:
        await stage.open()
        near, far = stage.both_settle()

        async def offer(one: SettlementFlow, expires_in_s: int) -> None:
            one._terms = make_terms(timeouts=Timeouts(settlement=expires_in_s * SECOND))
            with contextlib.suppress(PSymmError):
                await one.settle()

        for one in funds(stage):
            one.sign = once(one.sign)  # type: ignore[method-assign]
        # The trader's proposal arrives late, so the solver signs before it has seen it.
        late: list[str | bytes] = []
        wire = stage.wires[0]

        def held(said: str | bytes) -> list[str | bytes]:
            if isinstance(said, str) or (not late and b'"UST"' not in said):
                return [said]
            late.append(said)
            return []

        wire.bend = held

        def deadlines(_: object = None) -> list[int]:
            return sorted({one.deadline for one in stage.near.protocol.options})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(offer, near, 1_800)
            nursery.start_soon(offer, far, 300)
            await stage.heard.until(lambda _: len(deadlines()) == 2 or None)
            first, second = deadlines()
            assert first < second
            wire.bend = lambda said: [said]
            for each in late:
                await wire.inner.send(each)
            await until(stage, first + 60)
            with pytest.raises(NotNow, match="can still be mined"):
                await stage.order("o1")
            await until(stage, second + 60)
            await stage.order("o2")
            nursery.cancel_scope.cancel()


def once(
    sign: Callable[[Settlement_], Awaitable[bytes]],
) -> Callable[[Settlement_], Awaitable[bytes]]:
    """A wallet that signs its own proposal, and then nothing more."""
    asked: list[object] = []

    async def signing(settlement: Settlement_) -> bytes:
        asked.append(settlement)
        if len(asked) > 1:
            raise MoveFailed("settle", "the wallet does not answer")
        return await sign(settlement)

    return signing


async def until(stage: Scene, time_s: int) -> None:
    await trio.sleep(time_s - stage.clock.now_ns() / SECOND)
