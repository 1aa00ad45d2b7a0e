"""The account for people: positions, orders and balances, with every number a decimal string."""

from __future__ import annotations

from dataclasses import dataclass

from psymm._core import format_decimal
from psymm.messages import Side
from psymm.rulebook.account import Lane
from psymm.rulebook.books import Account


@dataclass(frozen=True, slots=True)
class PositionView:
    """One position as a lane sees it: the trader's long is the solver's short."""

    position_id: str
    symbol: str
    direction: str
    quantity: str
    entry_price: str
    mark_price: str
    upnl: str
    locked: str
    status: str


@dataclass(frozen=True, slots=True)
class OrderView:
    """One live order; ``side`` is the trader's."""

    cl_ord_id: str
    symbol: str
    side: str
    effect: str
    price: str
    quantity: str
    filled: str
    leaves: str
    status: str
    expire_time_ns: int


@dataclass(frozen=True, slots=True)
class BalanceView:
    """One side's balances, in whole tokens at 18 decimals; ``payout_units`` in token units."""

    lane: str
    collateral: str
    reserve: str
    allocated: str
    upnl: str
    equity: str
    locked: str
    pending: str
    available_for_orders: str
    account_health: str
    flagged: bool
    liquidatable: bool
    payout: str
    payout_units: int


def positions(account: Account, lane: Lane) -> tuple[PositionView, ...]:
    """The open positions, oldest first."""
    ordered = sorted(account.positions.values(), key=lambda p: (p.opened_at, p.position_id))
    made = []
    for position in ordered:
        long = (position.side is Side.BUY) is (lane is Lane.TRADER)
        profit = position.profit(account.mark_of(position))
        order = None if position.close_order is None else account.orders[position.close_order]
        made.append(
            PositionView(
                position_id="0x" + position.position_id.hex(),
                symbol=position.symbol,
                direction="long" if long else "short",
                quantity=format_decimal(position.quantity),
                entry_price=format_decimal(position.entry_price),
                mark_price=format_decimal(account.mark_of(position)),
                upnl=format_decimal(profit if lane is Lane.TRADER else -profit),
                locked=format_decimal(
                    account.margin(position.symbol, lane, position.quantity, position.entry_price)
                ),
                status="opened" if order is None else order.status.value,
            )
        )
    return tuple(made)


def open_orders(account: Account) -> tuple[OrderView, ...]:
    """The live orders, by id."""
    return tuple(
        OrderView(
            cl_ord_id=order.cl_ord_id,
            symbol=order.symbol,
            side="buy" if order.side is Side.BUY else "sell",
            effect="open" if order.opens else "close",
            price=format_decimal(order.price),
            quantity=format_decimal(order.quantity),
            filled=format_decimal(order.filled),
            leaves=format_decimal(order.leaves),
            status=order.status.value,
            expire_time_ns=order.expire_time,
        )
        for order in sorted(account.orders.values(), key=lambda o: o.cl_ord_id)
    )


def balances(account: Account, lane: Lane) -> BalanceView:
    """One side's balances by the formulas of the design."""
    scale = account.terms.token_scale
    payout = account.payouts[lane]
    return BalanceView(
        lane=lane.name.lower(),
        collateral=format_decimal(account.collateral(lane) * scale),
        reserve=format_decimal(account.reserve(lane) * scale),
        allocated=format_decimal(account.allocated(lane)),
        upnl=format_decimal(account.upnl(lane)),
        equity=format_decimal(account.equity(lane)),
        locked=format_decimal(account.locked(lane)),
        pending=format_decimal(account.pending(lane)),
        available_for_orders=format_decimal(account.available_for_orders(lane)),
        account_health=format_decimal(account.health(lane)),
        flagged=account.flagged(lane),
        liquidatable=account.liquidatable(lane),
        payout=format_decimal(payout * scale),
        payout_units=payout,
    )
