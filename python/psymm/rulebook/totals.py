"""Totals: the sums over an account's tables, updated with each change.

Rules read totals instead of going through tables, so the cost of a frame does not grow with the
account. Every change of notes, orders, positions or prices that can move a total must go through a
``with_…`` function here. Each one must be called on the account *before* the change: it reads old
totals and old marks. ``totals_of`` computes all totals from the tables; property tests compare the
two after every frame. Totals are derived: they are neither hashed nor stored.
"""

from __future__ import annotations

from collections.abc import Mapping

from psymm.messages import PositionEffect
from psymm.rulebook.account import (
    Account,
    Lane,
    LiveOrder,
    NoteState,
    Position,
    Price,
    Totals,
)
from psymm.rulebook.money import margins
from psymm.rulebook.persistent_map import SmallMap
from psymm.rulebook.value import replace
from psymm.terms import Instrument


def with_order(account: Account, old: LiveOrder | None, new: LiveOrder | None) -> Totals:
    """The totals after ``new`` replaces ``old``; None means no order."""
    totals = account.totals
    # Only opening orders lock margin; a close frees it when it fills.
    before = 0 if old is None or old.effect is not PositionEffect.OPEN else 1
    after = 0 if new is None or new.effect is not PositionEffect.OPEN else 1
    either = new or old
    if either is None or not before + after:
        return totals
    was = (old.quantity - old.filled) * old.price if old is not None and before else 0
    now = (new.quantity - new.filled) * new.price if new is not None and after else 0
    # A lock, a cancel or a request changes only the status, and so no sum.
    if was == now and before == after:
        return totals
    instrument = account.terms.by_symbol[either.symbol]
    return replace(
        totals,
        pending=_moved(totals.pending, instrument, was, now),
        opening=totals.opening - before + after,
        exposure=_counted(totals.exposure, either.symbol, now - was),
    )


def with_position(account: Account, old: Position | None, new: Position | None) -> Totals:
    """The totals after ``new`` replaces ``old``; None means no position."""
    totals, either = account.totals, new or old
    if either is None:
        return totals
    instrument, mark = account.terms.by_symbol[either.symbol], account.mark(either)
    was = 0 if old is None else old.quantity * old.entry_price
    now = 0 if new is None else new.quantity * new.entry_price
    # Each position is floored on its own (`spec.md` 60), so a partial close changes the sum by the
    # difference of two floored values.
    gained = (0 if new is None else new.profit(mark)) - (0 if old is None else old.profit(mark))
    # A partial close keeps the count; it ends only with the position.
    opened = (0 if new is None else 1) - (0 if old is None else 1)
    return replace(
        totals,
        locked=_moved(totals.locked, instrument, was, now),
        upnl=totals.upnl + gained,
        held=_counted(totals.held, either.symbol, opened),
        exposure=_counted(totals.exposure, either.symbol, now - was),
    )


def with_price(account: Account, symbol: str, price: Price) -> Totals:
    """The totals after a price comes into effect. Only this symbol's positions change."""
    gained = sum(
        each.profit(price.price) - each.profit(account.mark(each))
        for each in account.positions.values()
        if each.symbol == symbol
    )
    return replace(account.totals, upnl=account.totals.upnl + gained)


def with_notes(account: Account, notes: SmallMap[bytes, NoteState]) -> Totals:
    """The totals with other notes. Notes are few and rarely change, so this sums them anew."""
    return replace(account.totals, collateral=_collateral(notes))


def totals_of(account: Account) -> Totals:
    """All totals, computed from the tables."""
    pending, locked, opening, upnl = (0, 0), (0, 0), 0, 0
    held: Mapping[str, int] = {}
    exposure: Mapping[str, int] = {}
    for order in account.orders.values():
        if order.opens:
            notional = order.leaves * order.price
            pending = _moved(pending, account.instrument(order.symbol), 0, notional)
            exposure = _counted(exposure, order.symbol, notional)
            opening += 1
    for position in account.positions.values():
        symbol, notional = position.symbol, position.quantity * position.entry_price
        locked = _moved(locked, account.instrument(symbol), 0, notional)
        exposure = _counted(exposure, symbol, notional)
        held = _counted(held, symbol, 1)
        upnl += position.profit(account.mark(position))
    return Totals(
        collateral=_collateral(account.notes),
        locked=locked,
        pending=pending,
        upnl=upnl,
        opening=opening,
        held=held,
        exposure=exposure,
    )


def _collateral(notes: Mapping[bytes, NoteState]) -> tuple[int, int]:
    # Spent notes stay counted: only the end of the custody follows from them.
    by_lane = [0, 0]
    for note in notes.values():
        if note.accepted:
            by_lane[note.lane] += note.amount
    return by_lane[Lane.TRADER], by_lane[Lane.SOLVER]


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


def _counted(table: Mapping[str, int], symbol: str, more: int) -> Mapping[str, int]:
    """The table with ``more`` added to a symbol. Entries of 0 are left out."""
    made = {**table, symbol: table.get(symbol, 0) + more}
    if not made[symbol]:
        del made[symbol]
    return made
