"""A session from handshake to settlement, on a mock clock and streams in memory."""

from pathlib import Path

import trio
from session_scene import scene
from trio.testing import MockClock

from psymm.messages import Side
from psymm.rulebook import Lane
from psymm.session.protocol import SessionStatus
from psymm.session.runtime.ledger import RulebookLedger
from psymm.terms import UNIT


async def test_both_sides_trade_once_collateral_stands(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        account = await stage.agreed()
        assert account.collateral(Lane.TRADER) == 2_000_000_000
        assert account.collateral(Lane.SOLVER) == 5_000_000_000


async def test_a_whole_fill_opens_a_position_on_both_sides(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        order = await stage.order("o1")
        await stage.report("e1", order)
        account = await stage.agreed()
        (position,) = account.positions.values()
        assert position.quantity == UNIT // 100
        assert stage.near.protocol.status is SessionStatus.TRADING


async def test_what_is_projected_from_frame_to_frame_is_what_the_rulebook_projects(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        for n in range(5):
            order = await stage.order(f"o{n}")
            for runner in (stage.near, stage.far):
                ledger = runner.protocol.state.rulebook
                assert isinstance(ledger, RulebookLedger)
                assert ledger.projected.hash == ledger._replay.projected().hash
                assert order.cl_ord_id in ledger.projected.orders
        await stage.report("e1", order)
        await stage.agreed()


async def test_several_instruments_and_every_covered_frame_leave_equal_accounts(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        for n, (symbol, price) in enumerate(
            [("BTC-USD", 50_000 * UNIT), ("ETH-USD", 3_000 * UNIT), ("BTC-USD", 50_100 * UNIT)]
        ):
            order = await stage.order(f"o{n}", symbol=symbol, price=price)
            await stage.report(f"e{n}", order, last_qty=order.order_qty // 2)
            await stage.agreed()
            await stage.report(f"f{n}", order, last_qty=order.order_qty // 2)
            account = await stage.agreed()
        assert {held.symbol for held in account.positions.values()} == {"BTC-USD", "ETH-USD"}


async def test_a_fill_that_was_covered_in_time_stays_in_time_in_what_is_previewed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A Heartbeat covers it and needs no cover itself, so it stays pending for as long as the
    solver is silent; what comes after it must not be taken for the first to cover the fill."""
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.report("e1", await stage.order("o1"))
        (position,) = (await stage.agreed()).positions.values()
        await trio.sleep(60)
        ledger = stage.near.protocol.state.rulebook
        assert isinstance(ledger, RulebookLedger)
        assert ledger.projected.positions
        await stage.order("c1", side=Side.SELL, position_id=position.position_id)
