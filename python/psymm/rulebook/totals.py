"""Totals: the sums over an account's tables, kept true with each change.

Rules read totals instead of going through tables, so the cost of a frame does not grow with the
account. Orders, positions, prices and notes change only through the functions here, which put an
entry into its table and move the sums in the same step. ``totals_of`` computes all totals from the
tables; property tests compare the two after every frame. Totals are neither hashed nor stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from psymm.messages import PositionEffect
from psymm.rulebook.account import Lane, LiveOrder, NoteState, Position, Price
from psymm.rulebook.books import NEVER, Account
from psymm.rulebook.live_account import LiveAccount
from psymm.rulebook.money import margins
from psymm.terms import Instrument, Terms


class Totals(TypedDict):
    """The fields of an account that are sums over its tables; see ``Books``."""

    collaterals: tuple[int, int]
    trading_open: bool
    margin_locked: tuple[int, int]
    margin_pending: tuple[int, int]
    traders_upnl: int
    opening: int
    held: Mapping[str, int]
    exposure: Mapping[str, int]


def put_order(account: LiveAccount, order: LiveOrder) -> None:
    """Set a live order."""
    old = account.orders.get(order.cl_ord_id)
    _move_order(account, old, order)
    account.put(account.orders, order.cl_ord_id, order)
    if order.expire_time < account.next_expiry:
        account.next_expiry = order.expire_time


def drop_order(account: LiveAccount, cl_ord_id: str) -> None:
    """Remove a live order."""
    _move_order(account, account.orders[cl_ord_id], None)
    account.drop(account.orders, cl_ord_id)


def _move_order(account: LiveAccount, old: LiveOrder | None, new: LiveOrder | None) -> None:
    """Move the sums from ``old`` to ``new``; None means no order."""
    # Only opening orders lock margin; a close frees it when it fills.
    before = 0 if old is None or old.effect is not PositionEffect.OPEN else 1
    after = 0 if new is None or new.effect is not PositionEffect.OPEN else 1
    either = new or old
    if either is None or not before + after:
        return
    was = (old.quantity - old.filled) * old.price if old is not None and before else 0
    now = (new.quantity - new.filled) * new.price if new is not None and after else 0
    # A lock, a cancel or a request changes only the status, and so no sum.
    if was == now and before == after:
        return
    instrument = account.terms.by_symbol[either.symbol]
    account.margin_pending = _moved(account.margin_pending, instrument, was, now)
    account.opening += after - before
    _count(account, account.exposure, either.symbol, now - was)


def put_position(account: LiveAccount, position: Position) -> None:
    """Set a position."""
    _move_position(account, account.positions.get(position.position_id), position)
    account.put(account.positions, position.position_id, position)


def drop_position(account: LiveAccount, position_id: bytes) -> None:
    """Remove a position."""
    _move_position(account, account.positions[position_id], None)
    account.drop(account.positions, position_id)


def _move_position(account: LiveAccount, old: Position | None, new: Position | None) -> None:
    """Move the sums from ``old`` to ``new``; None means no position."""
    either = new or old
    if either is None or (old is not None and new is not None and old.quantity == new.quantity):
        return
    instrument, mark = account.terms.by_symbol[either.symbol], account.mark_of(either)
    was = 0 if old is None else old.quantity * old.entry_price
    now = 0 if new is None else new.quantity * new.entry_price
    account.margin_locked = _moved(account.margin_locked, instrument, was, now)
    # Each position is floored on its own (`spec.md` 60), so a partial close changes the sum by the
    # difference of two floored values.
    gained = (0 if new is None else new.profit(mark)) - (0 if old is None else old.profit(mark))
    account.traders_upnl += gained
    # A partial close keeps the count; it ends only with the position.
    opened = (0 if new is None else 1) - (0 if old is None else 1)
    if opened:
        _count(account, account.held, either.symbol, opened)
    _count(account, account.exposure, either.symbol, now - was)


def put_price(account: LiveAccount, symbol: str, price: Price) -> None:
    """Put a price into effect. Only this symbol's positions change."""
    account.traders_upnl += sum(
        each.profit(price.price) - each.profit(account.mark_of(each))
        for each in account.positions.values()
        if each.symbol == symbol
    )
    account.put(account.prices, symbol, price)


def put_note(account: LiveAccount, note: NoteState) -> None:
    """Set a note. Notes are few and rarely change, so they are summed anew."""
    account.put(account.notes, note.commitment, note)
    account.collaterals = _collaterals(account.notes)
    account.trading_open = _suffices(account.terms, account.collaterals)


def totals_of(account: Account) -> Totals:
    """All totals, computed from the tables."""
    pending, locked, opening, upnl = (0, 0), (0, 0), 0, 0
    held: dict[str, int] = {}
    exposure: dict[str, int] = {}
    for order in account.orders.values():
        if order.opens:
            notional = order.leaves * order.price
            pending = _moved(pending, account.instrument(order.symbol), 0, notional)
            exposure[order.symbol] = exposure.get(order.symbol, 0) + notional
            opening += 1
    for position in account.positions.values():
        symbol, notional = position.symbol, position.quantity * position.entry_price
        locked = _moved(locked, account.instrument(symbol), 0, notional)
        exposure[symbol] = exposure.get(symbol, 0) + notional
        held[symbol] = held.get(symbol, 0) + 1
        upnl += position.profit(account.mark_of(position))
    return Totals(
        collaterals=_collaterals(account.notes),
        trading_open=_suffices(account.terms, _collaterals(account.notes)),
        margin_locked=locked,
        margin_pending=pending,
        traders_upnl=upnl,
        opening=opening,
        held=held,
        exposure={symbol: notional for symbol, notional in exposure.items() if notional},
    )


def first_expiry(account: Account | LiveAccount) -> int:
    """When the first request, quote or order expires."""
    times = [request.expire_time for request in account.requests.values()]
    times += [quote.valid_until for quote in account.quotes.values()]
    times += [order.expire_time for order in account.orders.values()]
    return min(times, default=NEVER)


def _collaterals(notes: Mapping[bytes, NoteState]) -> tuple[int, int]:
    # Spent notes stay counted: only the end of the custody follows from them.
    by_lane = [0, 0]
    for note in notes.values():
        if note.accepted:
            by_lane[note.lane] += note.amount
    return by_lane[Lane.TRADER], by_lane[Lane.SOLVER]


def _suffices(terms: Terms, collaterals: tuple[int, int]) -> bool:
    """Whether both lanes' collateral reaches the terms' minimum."""
    return all(
        put_up >= max(1, least) for put_up, least in zip(collaterals, terms.minima, strict=True)
    )


def _moved(total: tuple[int, int], instrument: Instrument, was: int, now: int) -> tuple[int, int]:
    """A sum of margins after a notional changed from ``was`` to ``now``; 0 has no margin.

    Margins are rounded up for each item, so subtract the old margin whole and add the new one. The
    margin of the difference would be rounded differently.
    """
    trader, solver = total
    # Each lane has its own rates, so both sums move.
    if was:
        less = margins(instrument, was)
        trader, solver = trader - less[0], solver - less[1]
    if now:
        more = margins(instrument, now)
        trader, solver = trader + more[0], solver + more[1]
    return trader, solver


def _count(account: LiveAccount, table: Mapping[str, int], symbol: str, more: int) -> None:
    """Add ``more`` to a symbol's entry. Entries of 0 are left out."""
    made = table.get(symbol, 0) + more
    if made:
        account.put(table, symbol, made)
    else:
        account.drop(table, symbol)
