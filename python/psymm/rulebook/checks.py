"""Checks that several rules share: ticks and lots, notional, oracle band, margin, leverage."""

from __future__ import annotations

import json

from psymm.messages import Side
from psymm.rulebook.account import LANES, Lane
from psymm.rulebook.books import Books
from psymm.rulebook.money import UNIT, share_down, share_up
from psymm.rulebook.violation import decimal, refuse
from psymm.terms import Instrument


def check_id(name: str) -> None:
    """Check that an id takes at most 64 bytes in the account's document (``spec.md`` 11).

    JSON writes one byte of it as up to six.
    """
    if len(name) > 10 and len(json.dumps(name, ensure_ascii=False).encode()) > 66:
        refuse("id-too-long", id=ascii(name))


def instrument_of(account: Books, symbol: str) -> Instrument:
    instrument = account.terms.by_symbol.get(symbol)
    if instrument is None:
        refuse("unknown-symbol", symbol=symbol)
    return instrument


def check_price(instrument: Instrument, price: int) -> None:
    if price <= 0 or price % instrument.tick:
        refuse("off-tick", price=decimal(price), tick=decimal(instrument.tick))


def check_quantity(instrument: Instrument, quantity: int) -> None:
    if quantity <= 0 or quantity % instrument.lot:
        refuse("off-lot", quantity=decimal(quantity), lot=decimal(instrument.lot))


def check_notional(instrument: Instrument, quantity: int, price: int) -> None:
    low, high = instrument.min_notional * UNIT, instrument.max_notional * UNIT
    if not low <= quantity * price <= high:
        refuse(
            "notional-out-of-bounds",
            notional=decimal(quantity * price // UNIT),
            least=decimal(instrument.min_notional),
            most=decimal(instrument.max_notional),
        )


def check_band(account: Books, symbol: str, price: int) -> None:
    """Check that a price is within the terms' band around the oracle's, if there is one."""
    oracle = account.prices.get(symbol)
    if oracle is None:
        return
    if abs(price - oracle.price) * UNIT > oracle.price * account.terms.limits.price_band:
        refuse("price-out-of-band", price=decimal(price), oracle=decimal(oracle.price))


def check_fresh(account: Books, symbol: str) -> None:
    """Check that no price used in a margin check of ``symbol`` is too old (``spec.md`` 43)."""
    # Without any oracle price, positions are marked at entry, which does not age.
    if not account.prices:
        return
    validity = account.terms.oracle.validity
    for each in sorted({symbol, *account.held}):
        price = account.prices.get(each)
        if price is not None and price.timestamp + validity < account.clock:
            refuse("price-stale", symbol=each, timestamp=price.timestamp, clock=account.clock)


def check_margin(account: Books, symbol: str, fee: int = 0) -> None:
    """Check both sides' margin, and their leverage in ``symbol``.

    Args:
        account: the account with the order or position in it.
        symbol: the instrument.
        fee: what a future fill will cost its payer.
    """
    most = account.terms.by_symbol[symbol].max_leverage
    # Both sides, because a fill binds the solver as much as the trader.
    payer = fee_payer(account, symbol) if fee else None
    exposure = account.exposure.get(symbol, 0)
    for lane in LANES:
        equity = account.equity(lane)
        available = equity - account.margin_locked[lane] - account.margin_pending[lane]
        if lane is payer:
            available -= fee
        if available < 0:
            refuse("margin", lane=lane.name.lower(), short_by=decimal(-available))
        if exposure > most * equity:
            refuse("leverage", lane=lane.name.lower(), notional=decimal(exposure // UNIT))


def fee_payer(account: Books, symbol: str) -> Lane:
    receiver = account.terms.by_symbol[symbol].fee_receiver
    return Lane.TRADER if receiver == "solver" else Lane.SOLVER


def traders_fee(account: Books, symbol: str, quantity: int, price: int, rate: int) -> int:
    """The fee of a fill as the trader's flow, floored towards −∞; negative if it pays."""
    if fee_payer(account, symbol) is Lane.TRADER:
        return -share_up(quantity, price, rate)
    return share_down(quantity, price, rate)


def no_worse(side: Side, fill: int, price: int) -> bool:
    """Whether the trader gets ``price`` or better."""
    return fill <= price if side is Side.BUY else fill >= price
