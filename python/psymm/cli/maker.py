"""The built-in market maker: quotes around a feed, fills at its quotes, large orders in parts.

It buys a little below the feed and sells a little above it. It declines orders that are too large,
and fills a limit order as soon as its own quote reaches the limit. It does not hedge.
"""

from __future__ import annotations

from decimal import ROUND_DOWN, Decimal
from typing import Final

import trio

from psymm._core import format_decimal
from psymm.api.client import Client
from psymm.api.incoming import IncomingOrder, IncomingQuoteRequest, SolverSession
from psymm.api.solver import Prices, Solver
from psymm.cli.market import Market
from psymm.cli.output import Screen, format_amount, plain
from psymm.errors import PSymmError
from psymm.messages import Side
from psymm.session.protocol import SessionStatus
from psymm.sockets.admission import AdmissionLimits

LOOK_S: Final = 0.25
"""How often a resting order is compared with the feed."""
BETWEEN_PARTS_S: Final = 0.3


class Maker(Solver):
    """The market maker.  screen: shows everything that binds this solver."""

    def __init__(
        self,
        client: Client,
        market: Market,
        screen: Screen,
        *,
        cancel_on_disconnect: bool = True,
        limits: AdmissionLimits | None = None,
        disk_floor: int,
    ) -> None:
        units, decimals = market.collateral, market.terms.collateral.decimals
        super().__init__(
            client,
            market.terms,
            collateral=format_amount(units, decimals),
            cancel_on_disconnect=cancel_on_disconnect,
            caps=market.caps,
            policy=market.policy,
            limits=limits,
            disk_floor=disk_floor,
        )
        self._market = market
        self._screen = screen

    # --- prices ---------------------------------------------------------------------------------

    async def on_prices(self, symbol: str) -> Prices | None:
        found = self._prices(symbol)
        return None if found is None else Prices(*found)

    async def on_quote_request(self, request: IncomingQuoteRequest) -> None:
        found = self._prices(request.symbol)
        if found is None:
            await request.reject("no price for this instrument")
            return
        bid, ask = found
        source = self._market.feed.says(request.symbol, self._now())
        # The feed advances with each quote: the next request gets the next price, and until then
        # limit orders are filled at this one.
        self._market.feed.quoted()
        await request.quote(
            bid=None if request.side is Side.BUY else bid,
            ask=None if request.side is Side.SELL else ask,
            valid_s=self._market.style.quote_life_ns / 1e9,
        )
        self._say(
            request.session,
            "quoted",
            f"{request.symbol} {plain(bid)} / {plain(ask)} ({source})",
            symbol=request.symbol,
            bid=plain(bid),
            ask=plain(ask),
        )

    def _prices(self, symbol: str) -> tuple[Decimal, Decimal] | None:
        """Our present bid and ask; None for an instrument that we do not trade."""
        instrument = self.terms.instrument(symbol)
        if instrument is None or symbol not in self._market.feed.symbols:
            return None
        price = self._market.feed.price(symbol, self._now())
        style = self._market.style
        return (
            _decimal(style.bid(price, instrument.tick)),
            _decimal(style.offer(price, instrument.tick)),
        )

    def _now(self) -> int:
        return self.party.clock.now_ns()

    # --- orders ---------------------------------------------------------------------------------

    async def on_order(self, order: IncomingOrder) -> None:
        limit = _decimal(self._market.style.decline_above)
        if order.quantity * order.price > limit:
            price = order.price  # an order that has ended has none
            await order.decline(f"above {plain(limit)}, the largest order that is accepted")
            self._told(order, "declined", price)
            return
        await self._work(order)

    async def on_close(self, order: IncomingOrder) -> None:
        await self._work(order)

    async def _work(self, order: IncomingOrder) -> None:
        """Fill an order, in parts if needed, whenever its trader accepts our price."""
        while order.leaves > 0:
            price = self._acceptable(order)
            if price is None:
                await trio.sleep(LOOK_S)
                continue
            part = self._part(order, price)
            await order.fill(price, part)
            self._told(order, "filled", price, part)
            if order.leaves > 0:
                await trio.sleep(BETWEEN_PARTS_S)

    def _acceptable(self, order: IncomingOrder) -> Decimal | None:
        """The price to fill at; None while our quote does not reach the trader's limit."""
        # It hits our quote, which binds us to its price.
        if order.quote_id is not None:
            return order.price
        found = self._prices(order.symbol)
        if found is None:
            return None
        bid, ask = found
        if order.side is Side.BUY:
            return ask if ask <= order.price else None
        return bid if bid >= order.price else None

    def _part(self, order: IncomingOrder, price: Decimal) -> Decimal:
        """How much of an order the next fill takes, in whole lots."""
        instrument = self.terms.instrument(order.symbol)
        if instrument is None or (order.closes and order.quote_id is not None):
            return order.leaves  # a close at a quote is filled whole or not at all
        style = self._market.style
        at_most = style.close_at_most if order.closes else style.fill_at_most
        lot = _decimal(instrument.lot)
        most = (_decimal(at_most) / price / lot).to_integral(ROUND_DOWN)
        return min(order.leaves, max(most, Decimal(1)) * lot)

    # --- the session -----------------------------------------------------------------------------

    async def on_cancel(self, order: IncomingOrder) -> bool:
        self._told(order, "cancelled", order.price)
        return True

    async def on_state(self, session: SolverSession, state: SessionStatus) -> None:
        self._say(session, "state", state.value, state=state.value)

    async def on_idle(self, session: SolverSession, flat: bool) -> None:
        words = "settlement offered" if flat else "not flat, kept open"
        self._say(session, "idle", f"idle for long: {words}", flat=str(flat).lower())

    async def on_failure(self, session: SolverSession, error: PSymmError) -> None:
        self._say(session, "trouble", str(error), code=error.code)

    def _told(
        self, order: IncomingOrder, what: str, price: Decimal, part: Decimal | None = None
    ) -> None:
        side = "buy" if order.side is Side.BUY else "sell"
        quantity = order.quantity if part is None else part
        done = f"{plain(quantity)} at {plain(price)}"
        if part is not None and part != order.quantity:
            done = f"{plain(quantity)} of {plain(order.quantity)} at {plain(price)}"
        effect = "close" if order.closes else "open"
        self._say(
            order.session,
            what,
            f"{side} {order.symbol} to {effect}: {done}",
            order=order.cl_ord_id,
            symbol=order.symbol,
            side=side,
            effect=effect,
            quantity=plain(quantity),
            price=plain(price),
        )

    def _say(self, session: SolverSession, what: str, text: str, **fields: str) -> None:
        name = session.custody.hex()[:8]
        self._screen.event(what, f"{name} {what:<9} {text}", custody=name, **fields)


def _decimal(scaled: int) -> Decimal:
    """An integer scaled 1e18 as a decimal in its shortest form."""
    return Decimal(format_decimal(scaled))
