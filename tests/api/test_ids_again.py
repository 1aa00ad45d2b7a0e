"""A trader uses an order's id again once the order has ended (`spec.md` 11): a solver's callback
answers the order that it was shown, and no other."""

from __future__ import annotations

from pathlib import Path

import trio
from market import Maker, Market, market
from trio.testing import MockClock

from psymm.api import BUY, SELL, IncomingOrder, scaled
from psymm.errors import Refused
from psymm.messages import (
    NewOrderSingle,
    OrderCancelRequest,
    OrdType,
    PositionEffect,
    Side,
)
from psymm.session.protocol import SECOND


class Slow(Maker):
    """Thinks for three seconds over its first order, and keeps all others waiting."""

    shown: tuple[IncomingOrder, ...] = ()
    does = "fill"

    async def on_order(self, order: IncomingOrder) -> None:
        self.shown = (*self.shown, order)
        if len(self.shown) > 1:
            return
        await trio.sleep(3)
        if self.does == "fill":
            await order.fill()
        elif self.does == "fill-named":
            await order.fill(price=50000, quantity="0.01")
        elif self.does == "lock":
            await order.lock()
        else:
            await order.decline("no")


async def send(trading: Market, symbol: str, side: Side, price: int, lives_s: int = 60) -> None:
    """An order of the one id that this trader knows."""
    runner = trading.session.runner
    await runner.send(
        NewOrderSingle(
            cl_ord_id="x",
            symbol=symbol,
            side=side,
            order_qty=scaled("0.01"),
            ord_type=OrdType.LIMIT,
            position_effect=PositionEffect.OPEN,
            expire_time=runner.clock.now_ns() + lives_s * SECOND,
            price=scaled(price),
        )
    )


async def swap(trading: Market) -> None:
    """While the callback thinks over the first order, the trader puts another one in its place."""
    await send(trading, "BTC-USD", SELL, 50000)
    await trio.sleep(1)
    await trading.session.runner.send(OrderCancelRequest(cl_ord_id="c", orig_cl_ord_id="x"))
    await send(trading, "ETH-USD", SELL, 50000)
    await trio.sleep(10)


async def swapped(path: Path, does: str) -> None:
    async with market(path, maker=Slow) as trading:
        trading.maker.does = does
        await swap(trading)
        (refused,) = trading.maker.failures
        assert isinstance(refused, Refused)
        assert refused.values["rule"] == "unknown-order"
        live = trading.far.account.orders["x"]
        assert (live.symbol, live.filled, live.status.value) == ("ETH-USD", 0, "pending")
        assert not trading.far.account.positions
        first, second = trading.maker.shown
        assert (first.symbol, first.leaves) == ("BTC-USD", 0)
        assert (second.symbol, second.leaves) == ("ETH-USD", second.quantity)
        await trading.agreed()


async def test_a_fill_fills_the_order_that_its_callback_was_shown(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    await swapped(tmp_path, "fill")


async def test_a_fill_at_a_named_price_and_quantity_too(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    await swapped(tmp_path, "fill-named")


async def test_a_last_look_too(tmp_path: Path, autojump_clock: MockClock) -> None:
    await swapped(tmp_path, "lock")


async def test_a_refusal_too(tmp_path: Path, autojump_clock: MockClock) -> None:
    await swapped(tmp_path, "decline")


async def test_an_order_of_an_id_that_was_seen_is_shown_after_a_break(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path, maker=Slow) as trading:
        trading.maker.does = "decline"
        await send(trading, "BTC-USD", BUY, 50000)
        await trio.sleep(5)
        trading.stage.wires[-1].bend = lambda message: []
        await send(trading, "ETH-USD", SELL, 50000, lives_s=600)
        await trio.sleep(120)
        assert trading.session.losses == 1
        assert [order.symbol for order in trading.maker.shown] == ["BTC-USD", "ETH-USD"]
        found = trading.far.order("x")
        assert found is not None
        assert (found.symbol, found.side) == ("ETH-USD", SELL)
