"""A Logout forbids opening and nothing else (`spec.md` 63): what both sides put up is paid out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from session_scene import Lives, Scene, scene
from trio.testing import MockClock

from psymm.errors import NotNow
from psymm.messages import Logout, Side
from psymm.session.protocol import Resumed, SessionStatus
from psymm.terms import UNIT


async def both_log_out(stage: Scene) -> None:
    await stage.near.log_out("")
    await stage.desk.listeners[0].message(Logout)
    await stage.heard.message(Logout)
    await trio.sleep(3)


async def trading(stage: Scene) -> None:
    await stage.heard.state(SessionStatus.TRADING)
    await stage.desk.listeners[0].state(SessionStatus.TRADING)


@pytest.mark.parametrize("proposer", [0, 1])
@pytest.mark.parametrize("written", ["open", "closed"])
async def test_a_custody_of_which_both_logged_out_is_settled_by_either_in_a_later_life(
    tmp_path: Path, autojump_clock: MockClock, proposer: int, written: str
) -> None:
    """written: what the journals say of it; an earlier version took two Logouts for the end."""
    lives = Lives(tmp_path)

    async def first(stage: Scene) -> None:
        await trading(stage)
        await both_log_out(stage)
        assert [stage.near.protocol.status, stage.far.protocol.status] == [
            SessionStatus.TRADING
        ] * 2
        assert stage.near.attached

    await lives.live(open_first=True, work=first)
    async with lives.process() as stage:
        for party in (stage.trader, stage.solver):
            (held,) = await party.journal.custodies()
            assert held.state == "open"
            if written == "closed":
                await party.journal.set_state(held.agreement.custody, "closed")

    async def second(stage: Scene) -> None:
        await stage.heard.until(lambda event: isinstance(event, Resumed) or None)
        await stage.both_settle()[proposer].settle()
        await trio.sleep(5)
        assert [stage.near.protocol.status, stage.far.protocol.status] == [SessionStatus.CLOSED] * 2
        for party in (stage.trader, stage.solver):
            (held,) = await party.journal.custodies()
            assert held.state == "closed"
        funds = (stage.trader.collateral, stage.solver.collateral)
        assert [one.worth() for one in funds] == [2_000_000_000, 5_000_000_000]  # type: ignore[attr-defined]

    await lives.live(open_first=False, work=second)


async def test_a_session_takes_up_a_journal_that_calls_an_unsettled_custody_closed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The journal was open before: nothing but the session itself sees that it is not settled."""
    lives = Lives(tmp_path)

    async def first(stage: Scene) -> None:
        await trading(stage)
        await both_log_out(stage)

    await lives.live(open_first=True, work=first)
    async with lives.process() as stage:
        (held,) = await stage.trader.journal.custodies()
        await stage.trader.journal.set_state(held.agreement.custody, "closed")
        await stage.solver.journal.set_state(held.agreement.custody, "closed")
        (held,) = await stage.trader.journal.custodies()
        stage.client = stage.new_client(resume=held)
        await stage.nursery.start(stage.server.run)
        await stage.nursery.start(stage.client.run)
        await stage.heard.until(lambda event: isinstance(event, Resumed) or None)
        (held,) = await stage.trader.journal.custodies()
        assert held.state == "open"
        await stage.both_settle()[0].settle()


async def test_what_is_open_is_closed_after_both_logouts_and_then_settled(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        order = await stage.order("o1")
        await stage.report("e1", order)
        await both_log_out(stage)
        near, _ = stage.both_settle()
        with pytest.raises(NotNow, match="flat"):
            await near.settle()
        (held,) = stage.account(stage.near).positions
        closing = await stage.order("c1", side=Side.SELL, price=40_000 * UNIT, position_id=held)
        await stage.report("e2", closing)
        await trio.sleep(3)
        await near.settle()
        await stage.heard.state(SessionStatus.CLOSED)
        assert (await stage.agreed()).ended


@pytest.mark.parametrize("who", ["near", "far"])
async def test_a_logout_while_collateral_is_verified_leaves_it_to_be_accepted_and_paid_out(
    tmp_path: Path, autojump_clock: MockClock, who: str
) -> None:
    """Else one Logout would strand what the trader has listed already."""
    async with scene(tmp_path) as stage:
        fund = stage.solver.collateral.fund
        logged_out = trio.Event()

        async def slow(*given: Any) -> Any:
            await logged_out.wait()
            return await fund(*given)

        stage.solver.collateral.fund = slow  # type: ignore[method-assign]
        await stage.nursery.start(stage.server.run)
        await stage.nursery.start(stage.client.run)
        await stage.heard.state(SessionStatus.VERIFYING)
        await trio.sleep(2)
        await getattr(stage, who).log_out("")
        await trio.sleep(2)
        assert all(stage.account(stage.near).logged_out)
        assert stage.near.protocol.status is SessionStatus.VERIFYING
        assert stage.near.attached
        logged_out.set()
        await trading(stage)
        await stage.both_settle()[0].settle()
        assert len(stage.chain.spent) == 2
