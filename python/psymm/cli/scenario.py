"""A list of trades as data, and executing it in a session.

    [[step]]
    do = "order"            # at the solver's firm quote, or at a limit
    name = "a"
    symbol = "SPX"
    side = "buy"
    quantity = "2"
    limit_bps = "-200"      # a limit this far from the indicative price instead of a quote
    cancel_after_s = 1.0    # cancel what is left after this time
    expect = "filled"       # how it must end; otherwise the command fails
    fills = 2               # how many fills it must have had
    expires_in_s = 30.0     # how long to wait for its price or quote, and then how long it lives
    [[step]]
    do = "close"            # close what the order named in `of` opened
    of = "a"
    quantity = "1"          # default: all of it
    limit_bps = "100"       # as for an order; above 0 it is filled at once, maybe in parts
    [[step]]
    do = "hold"
    seconds = 2.0

Unknown keys are refused by name, and so is a step that refers to an unknown order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_UP, Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import trio

from psymm.api.amounts import scaled
from psymm.cli.configuration import read_toml
from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.output import Screen, plain

if TYPE_CHECKING:
    from psymm.api.orders import Indicative, Order, OrderResult
    from psymm.api.trader import Session
    from psymm.messages import Side
    from psymm.session.runtime.preflight import PlannedOrder

BPS: Final = 10_000
SLIPPAGE: Final = Decimal("0.05")
"""The default share by which a quote may be worse than the price shown before."""
_MOST_DIGITS: Final = 40
"""The most digits before the point, which no real amount needs."""
_KEYS: Final = {
    "order": (
        "name symbol side quantity limit_bps cancel_after_s expect fills expires_in_s",
        ("symbol", "side", "quantity"),
    ),
    "close": ("of quantity limit_bps expect fills expires_in_s", ("of",)),
    "hold": ("seconds", ("seconds",)),
}


@dataclass(frozen=True)
class Step:
    """One step of a scenario; see the module. Fields that its kind does not use have defaults."""

    do: Literal["order", "close", "hold"]
    name: str = ""
    symbol: str = ""
    side: str = ""
    quantity: Decimal | None = None
    limit_bps: Decimal | None = None
    cancel_after_s: float | None = None
    expect: str = "filled"
    fills: int | None = None
    expires_in_s: float = 30.0
    of: str = ""
    seconds: float = 0.0


def load_scenario(path: Path) -> list[Step]:
    """Read a scenario. Raises CommandError `bad-scenario` (exit 2) naming step and key."""
    raw = read_toml(path, _bad)
    steps = raw.get("step")
    if set(raw) != {"step"} or not isinstance(steps, list) or not steps:
        raise _bad("it consists of [[step]] tables only, at least one")
    found = [_step(f"step {at}", one) for at, one in enumerate(steps, 1)]
    names: set[str] = set()
    for at, step in enumerate(found, 1):
        if step.do == "close" and step.of not in names:
            raise _bad(f"step {at} closes {step.of!r}, but no earlier order has that name")
        if step.name in names:
            raise _bad(f"step {at} has the name of an earlier one, {step.name!r}")
        if step.name:
            names.add(step.name)
    return found


def single_trades(buys: Sequence[str], sells: Sequence[str], hold_s: float) -> list[Step]:
    """Orders of `SYMBOL=QUANTITY` each, a pause, and a close for each of them."""
    steps: list[Step] = []
    for side, texts in (("buy", buys), ("sell", sells)):
        for text in texts:
            symbol, sign, quantity = text.partition("=")
            if not sign or not symbol:
                raise CommandError("usage", f"{text!r} is not SYMBOL=QUANTITY.", Exit.USAGE)
            name = f"{side}{len(steps) + 1}"
            table = {"do": "order", "name": name, "symbol": symbol, "side": side}
            steps.append(_step(text, {**table, "quantity": quantity}))
    closes = [Step("close", of=step.name) for step in steps]
    return [*steps, Step("hold", seconds=hold_s), *closes]


def planned_orders(steps: Sequence[Step]) -> list[PlannedOrder]:
    """The orders of a scenario, to be checked before anything is funded."""
    from psymm.api.connecting import planned

    return [
        planned(_side(step.side), step.symbol, step.quantity or 0)
        for step in steps
        if step.do == "order"
    ]


class Trading:
    """Executes steps in a session, one after the other, and shows each.

    An indicative price binds nobody: without a limit, a solver could show a good price to be chosen
    and then quote another. So a price must be close to the one that the user agreed to. In a
    resumed session the user agreed to none. There a close is compared with the price at which its
    position was opened, and an order with the first price that the solver shows, which is printed.

    Args:
        shown: by symbol, the prices that the user agreed to.
        slippage: the share by which a price may be worse than the agreed one.
    """

    def __init__(
        self,
        session: Session,
        screen: Screen,
        shown: Mapping[str, Indicative] | None = None,
        slippage: Decimal = SLIPPAGE,
    ) -> None:
        self._session = session
        self._screen = screen
        self._shown = shown or {}
        self._first: dict[str, Indicative] = {}
        self._slippage = slippage
        self._orders: dict[str, Order] = {}

    async def run(self, steps: Sequence[Step]) -> None:
        """Raises CommandError `unexpected` (exit 1) if a step does not end as expected, and what
        the session raises. Cancelled: orders that were sent stay open."""
        for step in steps:
            if step.do == "hold":
                self._screen.event("hold", f"holding for {step.seconds:g} s", seconds=step.seconds)
                await trio.sleep(step.seconds)
            elif step.do == "order":
                await self._order(step)
            else:
                await self._close(step)

    async def close_all(self) -> None:
        """Close every open position at the solver's quotes."""
        from psymm.errors import NotNow

        held = list(self._session.account.positions.values())
        for position in [one.position_id for one in held]:
            try:
                if position in self._session.account.positions:
                    await self._close_one(Step("close"), position, None)
            except NotNow:
                # A position disappears if its fill was covered too late and is reversed.
                if position in self._session.account.positions:
                    raise

    async def _order(self, step: Step) -> None:
        session, side = self._session, _side(step.side)
        quantity = step.quantity or Decimal(0)
        if step.limit_bps is None:
            quote = await session.request_quote(step.symbol, quantity, side, step.expires_in_s)
            shown = quote.ask if step.side == "buy" else quote.bid
            await self._agree(step.symbol, step.side, shown, None, step.expires_in_s)
            self._screen.event(
                "quote",
                f"quote {step.symbol}: {step.side} {quantity} at {plain(shown)}",
                symbol=step.symbol,
                price=plain(shown),
            )
            order = await session.order(
                side, step.symbol, quantity, quote=quote, expires_in_s=step.expires_in_s
            )
        else:
            price = await self._limit(step.symbol, step.side, step.limit_bps, step.expires_in_s)
            await self._agree(step.symbol, step.side, price, None, step.expires_in_s)
            order = await session.order(
                side, step.symbol, quantity, price=price, expires_in_s=step.expires_in_s
            )
        if step.name:
            self._orders[step.name] = order
        if step.cancel_after_s is not None:
            await trio.sleep(step.cancel_after_s)
            result = await order.cancel()
        else:
            result = await order.result()
        self._told(step, f"{step.side} {quantity} {step.symbol}", result)

    async def _limit(self, symbol: str, side: str, bps: Decimal, expires_in_s: float) -> Decimal:
        """A limit price at this distance from the indicative one; above 0 is more willing to
        trade."""
        shown = await self._session.indicative(symbol, expires_in_s)
        price = shown.ask if side == "buy" else shown.bid
        instrument = self._session.terms.instrument(symbol)
        if price is None or instrument is None:
            raise CommandError("no-price", f"The solver shows no price for {symbol}.", Exit.PEER)
        away = price * bps / BPS
        tick = Decimal(instrument.tick) / 10**18
        wanted, rounding = (price + away, ROUND_DOWN) if side == "buy" else (price - away, ROUND_UP)
        return (wanted / tick).to_integral(rounding) * tick

    async def _close(self, step: Step) -> None:
        opened = self._orders.get(step.of)
        if opened is None:
            raise CommandError("unexpected", f"{step.of!r} was never sent.", Exit.REFUSED)
        left = step.quantity
        for held in list(self._session.account.positions.values()):
            if held.cl_ord_id != opened.cl_ord_id or left == 0:
                continue
            whole = Decimal(held.quantity) / 10**18
            part = whole if left is None else min(left, whole)
            await self._close_one(step, held.position_id, part)
            left = None if left is None else left - part

    async def _close_one(self, step: Step, position: bytes, quantity: Decimal | None) -> None:
        from psymm.messages import Side

        session = self._session
        held = session.account.positions[position]
        size = Decimal(held.quantity) / 10**18 if quantity is None else quantity
        size = Decimal(f"{size.normalize():f}")
        side = Side.SELL if held.side is Side.BUY else Side.BUY
        word = "sell" if side is Side.SELL else "buy"
        entry = Decimal(held.entry_price) / 10**18
        if step.limit_bps is None:
            quote = await session.request_quote(held.symbol, size, side, step.expires_in_s)
            quoted = quote.ask if word == "buy" else quote.bid
            await self._agree(held.symbol, word, quoted, entry, step.expires_in_s)
            order = await session.close(
                position, quote=quote, quantity=size, expires_in_s=step.expires_in_s
            )
        else:
            price = await self._limit(held.symbol, word, step.limit_bps, step.expires_in_s)
            await self._agree(held.symbol, word, price, entry, step.expires_in_s)
            order = await session.close(
                position, price=price, quantity=size, expires_in_s=step.expires_in_s
            )
        result = await order.result()
        self._told(step, f"close: {word} {size} {held.symbol}", result)

    async def _agree(
        self,
        symbol: str,
        word: str,
        quoted: Decimal | None,
        entry: Decimal | None,
        expires_in_s: float,
    ) -> None:
        """Raises CommandError `quote-worse` if a price is worse than the agreed one by more than
        the slippage, and `no-price` if there is nothing to compare it with.

        entry: the entry price of the position to close; None for an opening order.
        """
        known, words = self._shown.get(symbol), "the price shown was"
        if known is None and entry is None:
            known = await self._first_shown(symbol, expires_in_s)
        agreed = None if known is None else known.ask if word == "buy" else known.bid
        if agreed is None:
            # The user has not agreed to what the solver shows now, so the entry price counts.
            agreed, words = entry, "the position was opened at"
        if quoted is None or agreed is None:
            raise CommandError(
                "no-price", f"The solver shows no price to {word} {symbol}.", Exit.PEER
            )
        worse = quoted - agreed if word == "buy" else agreed - quoted
        if worse > agreed * self._slippage:
            custody = self._session.custody.hex()[:16]
            raise CommandError(
                "quote-worse",
                f"The price to {word} {symbol} is {plain(quoted)}, and {words} {plain(agreed)};"
                f" --slippage allows a share of {plain(self._slippage)}. Nothing was sent. The"
                f" custody stays open: go on with --resume {custody} and another --slippage.",
                Exit.REFUSED,
                symbol=symbol,
                quoted=plain(quoted),
                shown=plain(agreed),
            )

    async def _first_shown(self, symbol: str, expires_in_s: float) -> Indicative:
        """The first price that the solver shows in a resumed session; it is printed once."""
        if symbol not in self._first:
            first = self._first[symbol] = await self._session.indicative(symbol, expires_in_s)
            self._screen.event(
                "shown",
                f"the solver shows {symbol} {plain(first.bid)} / {plain(first.ask)}",
                symbol=symbol,
                bid=plain(first.bid),
                ask=plain(first.ask),
            )
        return self._first[symbol]

    def _told(self, step: Step, what: str, result: OrderResult) -> None:
        fills = " + ".join(f"{plain(one.quantity)} at {plain(one.price)}" for one in result.fills)
        reason = f" ({result.reason})" if result.reason else ""
        self._screen.event(
            "order",
            f"{what}: {result.status}{reason}" + (f", {fills}" if fills else ""),
            step=step.name or step.of,
            what=what,
            status=result.status,
            reason=result.reason,
            fills=[
                {"quantity": plain(one.quantity), "price": plain(one.price)} for one in result.fills
            ],
        )
        if result.status != step.expect:
            raise CommandError(
                "unexpected",
                f"{what} ended as {result.status}{reason}; {step.expect} was expected.",
                Exit.REFUSED,
                step=step.name or step.of,
            )
        if step.fills is not None and len(result.fills) != step.fills:
            raise CommandError(
                "unexpected",
                f"{what} had {len(result.fills)} fills; {step.fills} were expected.",
                Exit.REFUSED,
                step=step.name or step.of,
            )


def _side(word: str) -> Side:
    from psymm.messages import Side

    return Side.BUY if word == "buy" else Side.SELL


def _step(where: str, raw: object) -> Step:
    if not isinstance(raw, dict) or raw.get("do") not in _KEYS:
        raise _bad(f"{where}: do is one of {', '.join(_KEYS)}")
    allowed, needed = _KEYS[raw["do"]]
    for name in raw:
        if name != "do" and name not in allowed.split():
            raise _bad(f"{where}: {raw['do']} has no key {name!r}; it may have {allowed}")
    for name in needed:
        if name not in raw:
            raise _bad(f"{where}: {name} is missing")
    side = _text(where, raw, "side")
    if raw["do"] == "order" and side not in ("buy", "sell"):
        raise _bad(f"{where}: side is buy or sell")
    quantity = _decimal(where, raw, "quantity")
    if quantity is not None and quantity <= 0:
        raise _bad(f"{where}: quantity must be above zero")
    symbol = _text(where, raw, "symbol")
    if not symbol.isascii() or not symbol.isprintable() or " " in symbol:
        raise _bad(f"{where}: symbol is printable ASCII without spaces")
    fills = raw.get("fills")
    if fills is not None and (not isinstance(fills, int) or isinstance(fills, bool) or fills < 0):
        raise _bad(f"{where}: fills is a whole number")
    return Step(
        do=raw["do"],
        name=_text(where, raw, "name"),
        symbol=symbol,
        side=side,
        quantity=quantity,
        limit_bps=_decimal(where, raw, "limit_bps"),
        cancel_after_s=_seconds(where, raw, "cancel_after_s"),
        expect=_text(where, raw, "expect") or "filled",
        fills=fills,
        expires_in_s=_seconds(where, raw, "expires_in_s") or 30.0,
        of=_text(where, raw, "of"),
        seconds=_seconds(where, raw, "seconds") or 0.0,
    )


def _text(where: str, raw: Mapping[str, Any], name: str) -> str:
    value = raw.get(name, "")
    if not isinstance(value, str):
        raise _bad(f"{where}: {name} is a string")
    return value


def _decimal(where: str, raw: Mapping[str, Any], name: str) -> Decimal | None:
    value = raw.get(name)
    if value is None:
        return None
    try:
        # Decimal would also accept digits of other scripts, and underscores.
        if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?", value):
            number = Decimal(value)
            if number.is_finite() and number.adjusted() < _MOST_DIGITS:
                scaled(number)
                return number
    except (InvalidOperation, ValueError):
        pass
    raise _bad(f'{where}: {name} is a decimal of at most 18 places in quotes, like {name} = "1.5"')


def _seconds(where: str, raw: Mapping[str, Any], name: str) -> float | None:
    value = raw.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 86_400:
        raise _bad(f"{where}: {name} is a number of seconds below a day")
    return float(value)


def _bad(what: str) -> CommandError:
    return CommandError("bad-scenario", f"Scenario: {what}.", Exit.USAGE)
