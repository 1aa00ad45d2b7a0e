"""Orders: from request to position, and from position to closed.

The states of an order that opens:

    PENDING → LOCKED → (filled)     the solver's last look (8, New), then its fills (8, Trade)
    PENDING → CANCELLED             a cancel (F) of a pending order needs no answer
    LOCKED → CANCEL_PENDING         a cancel of a locked order asks the solver
    LOCKED → REPLACE_PENDING        a replacement (G) of a locked order asks, too

An order that closes starts at CLOSE_PENDING and is never locked. A cancel of it always asks
(CANCEL_CLOSE_PENDING). The solver may decline any order free of charge until it is filled. A cancel
that the solver does not answer can be forced after a cooldown (``force``). An order ends FILLED,
CANCELLED, DECLINED, EXPIRED or REPLACED.

Every fill of an opening order creates a position of its own. Messages of the two sides may cross: a
request about an order that has ended meanwhile changes nothing, and is no violation.

Ids. A ClOrdID must differ only from those of live orders and open requests (``spec.md`` 11). An
order that has ended leaves no trace, so that the account stays small for ever.
"""

from __future__ import annotations

from psymm.messages import (
    CxlRejResponseTo,
    ExecType,
    ExecutionReport,
    ForceAction,
    ForceKind,
    NewOrderSingle,
    OrderCancelReject,
    OrderCancelReplaceRequest,
    OrderCancelRequest,
    OrdType,
    PositionEffect,
    Side,
)
from psymm.rulebook import quotes
from psymm.rulebook.account import (
    LiveOrder,
    LiveQuote,
    OrderStatus,
    Position,
    Replacement,
    position_id,
)
from psymm.rulebook.checks import (
    check_band,
    check_fresh,
    check_id,
    check_margin,
    check_notional,
    check_price,
    check_quantity,
    instrument_of,
    no_worse,
    traders_fee,
)
from psymm.rulebook.inputs import RuledFrame
from psymm.rulebook.live_account import LiveAccount
from psymm.rulebook.totals import drop_order, drop_position, put_order, put_position
from psymm.rulebook.value import replace
from psymm.rulebook.violation import decimal, refuse, violated

_CANCELLING = (OrderStatus.CANCEL_PENDING, OrderStatus.CANCEL_CLOSE_PENDING)
_CONFIRMS = (ExecType.EXPIRED, ExecType.CANCELED, ExecType.REPLACED)
"""Reports that may confirm how an order has already ended. They then change nothing."""
MOST_ENDED = 128
"""How many ended orders are remembered."""


# --- the trader's messages ---------------------------------------------------------------------


def send(account: LiveAccount, entry: RuledFrame, said: NewOrderSingle) -> None:
    """D: an order to open or to close."""
    _check_id(account, said.cl_ord_id)
    instrument = instrument_of(account, said.symbol)
    if said.expire_time < account.clock:
        refuse("expired", expire_time=said.expire_time, clock=account.clock)
    check_quantity(instrument, said.order_qty)
    price = _priced(account, entry, said)
    check_price(instrument, price)
    order = LiveOrder(
        cl_ord_id=said.cl_ord_id,
        symbol=said.symbol,
        side=said.side,
        quantity=said.order_qty,
        filled=0,
        price=price,
        ord_type=said.ord_type,
        effect=said.position_effect,
        expire_time=said.expire_time,
        status=OrderStatus.PENDING,
        since=account.clock,
        position_id=said.position_id,
        quote_id=said.quote_id,
    )
    if said.position_effect is PositionEffect.OPEN:
        if said.position_id is not None:
            refuse("field-not-allowed", field="PositionID")
        _send_open(account, order)
    else:
        _send_close(account, order)


def _priced(account: LiveAccount, entry: RuledFrame, said: NewOrderSingle) -> int:
    """The order's price. A quote that it hits ends."""
    if said.price is None:
        refuse("missing-field", field="Price")
    if said.quote_id is None:
        if said.ord_type is OrdType.PREVIOUSLY_QUOTED:
            refuse("missing-field", field="QuoteID")
        return said.price
    if said.ord_type is OrdType.LIMIT:
        refuse("field-not-allowed", field="QuoteID")
    quote = account.quotes.get(said.quote_id)
    # A quote that the trader has not seen may only have the name of one that has ended.
    if quote is None or quote.seq > entry.peer_seq:
        refuse("unknown-quote", quote_id=said.quote_id)
    price = _hit(quote, said)
    quotes.hit(account, quote)
    return price


def _hit(quote: LiveQuote, said: NewOrderSingle) -> int:
    buys = said.side is Side.BUY
    price = quote.offer_price if buys else quote.bid_price
    size = quote.offer_size if buys else quote.bid_size
    if quote.symbol != said.symbol or price is None:
        refuse("quote-mismatch", quote_id=quote.quote_id, symbol=said.symbol, side=said.side)
    if size is not None and said.order_qty > size:
        refuse(
            "quote-mismatch",
            quote_id=quote.quote_id,
            quantity=decimal(said.order_qty),
            size=decimal(size),
        )
    if said.price != price:
        refuse(
            "quote-mismatch",
            quote_id=quote.quote_id,
            price=decimal(said.price or 0),
            quoted=decimal(price),
        )
    return price


def _send_open(account: LiveAccount, order: LiveOrder) -> None:
    _check_openable(account)
    # Limits bound the account's size, which must fit into evidence (`spec.md` 11).
    if account.opening >= account.terms.limits.open_orders:
        refuse("too-many-orders", limit=account.terms.limits.open_orders)
    # Checked with the order in place: margin must count it.
    put_order(account, order)
    _check_order(account, order)


def _check_openable(account: LiveAccount) -> None:
    if any(account.logged_out):
        refuse("logged-out")
    if account.clock > account.terms.end_date:
        refuse("past-end-date", end_date=account.terms.end_date, clock=account.clock)


def _check_order(account: LiveAccount, order: LiveOrder) -> None:
    """Check an opening order that is already in the account."""
    instrument = account.terms.by_symbol[order.symbol]
    check_notional(instrument, order.quantity, order.price)
    check_band(account, order.symbol, order.price)
    check_fresh(account, order.symbol)
    left = order.quantity - order.filled
    fee = traders_fee(account, order.symbol, left, order.price, instrument.open_fee)
    check_margin(account, order.symbol, abs(fee))


def _send_close(account: LiveAccount, order: LiveOrder) -> None:
    if order.position_id is None:
        refuse("missing-field", field="PositionID")
    position = account.positions.get(order.position_id)
    if position is None:
        refuse("unknown-position", position_id=order.position_id)
    if position.symbol != order.symbol or position.side is order.side:
        refuse("close-mismatch", symbol=order.symbol, side=order.side)
    if order.quantity > position.quantity:
        refuse("close-mismatch", quantity=decimal(order.quantity), open=decimal(position.quantity))
    if position.close_order is not None:
        refuse("close-pending", cl_ord_id=position.close_order)
    # One close at a time: the position names it, so that two cannot close it twice.
    put_order(account, replace(order, status=OrderStatus.CLOSE_PENDING))
    put_position(account, replace(position, close_order=order.cl_ord_id))


def ask_cancel(account: LiveAccount, said: OrderCancelRequest) -> None:
    """F: cancel a pending order at once; ask the solver to cancel a locked order or a close.

    If the order has ended meanwhile, the request crossed its end and changes nothing.
    """
    _check_id(account, said.cl_ord_id)
    order = account.orders.get(said.orig_cl_ord_id)
    if order is None:
        return
    match order.status:
        # The solver has promised nothing yet, so it need not agree.
        case OrderStatus.PENDING:
            end_order(account, order, OrderStatus.CANCELLED)
            return
        case OrderStatus.CLOSE_PENDING:
            asked = OrderStatus.CANCEL_CLOSE_PENDING
        case OrderStatus.LOCKED | OrderStatus.REPLACE_PENDING:
            asked = OrderStatus.CANCEL_PENDING
        case _:
            refuse("already-pending", cl_ord_id=order.cl_ord_id, status=order.status)
    moved = replace(
        order, status=asked, since=account.clock, request_id=said.cl_ord_id, replacement=None
    )
    put_order(account, moved)


def ask_replace(account: LiveAccount, said: OrderCancelReplaceRequest) -> None:
    """G: replace a pending order at once; ask the solver to replace a locked one."""
    _check_id(account, said.cl_ord_id)
    order = account.orders.get(said.orig_cl_ord_id)
    if order is None:
        return
    if not order.opens or order.ord_type is not OrdType.LIMIT:
        refuse("not-replaceable", cl_ord_id=order.cl_ord_id)
    if order.status not in (OrderStatus.PENDING, OrderStatus.LOCKED):
        refuse("already-pending", cl_ord_id=order.cl_ord_id, status=order.status)
    instrument = account.instrument(order.symbol)
    check_price(instrument, said.price)
    check_quantity(instrument, said.order_qty)
    if said.order_qty <= order.filled:
        refuse("off-lot", quantity=decimal(said.order_qty), filled=decimal(order.filled))
    if said.expire_time < account.clock:
        refuse("expired", expire_time=said.expire_time, clock=account.clock)
    wanted = Replacement(
        quantity=said.order_qty,
        price=said.price,
        expire_time=said.expire_time,
    )
    # The replacement must pass an order's checks now, even if the solver still has to agree.
    before = len(account.log)
    _replace(account, order, said.cl_ord_id, wanted)
    if order.status is OrderStatus.PENDING:
        return
    account.undo_to(before)
    moved = replace(
        order,
        status=OrderStatus.REPLACE_PENDING,
        since=account.clock,
        request_id=said.cl_ord_id,
        replacement=wanted,
    )
    put_order(account, moved)


def _replace(account: LiveAccount, order: LiveOrder, cl_ord_id: str, wanted: Replacement) -> None:
    """Replace the order. Raises if the replacement fails an order's checks."""
    _check_openable(account)
    # The old order leaves first, so that margin does not count both.
    drop_order(account, order.cl_ord_id)
    _remember(account, order.cl_ord_id, OrderStatus.REPLACED)
    made = replace(
        order,
        cl_ord_id=cl_ord_id,
        quantity=wanted.quantity,
        price=wanted.price,
        expire_time=wanted.expire_time,
        status=OrderStatus.PENDING,
        since=account.clock,
        request_id=None,
        replacement=None,
    )
    put_order(account, made)
    _check_order(account, made)


def force(account: LiveAccount, said: ForceAction) -> None:
    """UFC: force a cancel that the solver has not answered within the cooldown."""
    if said.force_kind is ForceKind.CLOSE:
        refuse("not-yet-in-force", force_kind=said.force_kind)
    _check_id(account, said.cl_ord_id)
    order = account.orders.get(said.orig_cl_ord_id)
    if order is None:
        return
    if order.status not in _CANCELLING:
        refuse("nothing-pending", cl_ord_id=order.cl_ord_id, status=order.status)
    ready = order.since + account.terms.timeouts.force_cancel_cooldown
    if account.clock <= ready:
        refuse("cooldown", clock=account.clock, ready_after=ready)
    end_order(account, order, OrderStatus.CANCELLED)


# --- the solver's messages ---------------------------------------------------------------------


def report(account: LiveAccount, entry: RuledFrame, said: ExecutionReport) -> None:  # noqa: C901
    """8: what the solver does with an order."""
    # Complex because every ExecType has its case, in the order of the specification.
    if said.exec_type is not ExecType.TRADE:
        for name, value in (("LastPx", said.last_px), ("LastQty", said.last_qty)):
            if value is not None:
                refuse("field-not-allowed", field=name)
    order = account.orders.get(said.cl_ord_id)
    if order is None:
        # It may confirm how the order has ended.
        if said.exec_type in _CONFIRMS:
            return
        refuse("unknown-order", cl_ord_id=said.cl_ord_id)
    filled = order.filled + (said.last_qty or 0)
    if (said.cum_qty is not None and said.cum_qty != filled) or (
        said.leaves_qty is not None and said.leaves_qty not in _leaves_after(order, said, filled)
    ):
        refuse(
            "wrong-quantities", cum_qty=decimal(filled), leaves_qty=decimal(order.quantity - filled)
        )
    match said.exec_type:
        case ExecType.NEW:
            if order.status is not OrderStatus.PENDING:
                refuse("order-not-pending", cl_ord_id=order.cl_ord_id, status=order.status)
            # A lock is a promise to fill, so prices and margin must hold now (`spec.md` 43).
            check_fresh(account, order.symbol)
            check_margin(account, order.symbol)
            put_order(account, replace(order, status=OrderStatus.LOCKED, since=account.clock))
        # The solver may cancel only on request; otherwise it declines (Rejected).
        case ExecType.CANCELED:
            if order.status not in _CANCELLING:
                refuse("nothing-pending", cl_ord_id=order.cl_ord_id, status=order.status)
            end_order(account, order, OrderStatus.CANCELLED)
        case ExecType.REPLACED:
            if order.replacement is None:
                refuse("nothing-pending", cl_ord_id=order.cl_ord_id, status=order.status)
            # A fill or the clock may have overtaken the request meanwhile.
            if order.replacement.quantity <= order.filled:
                refuse(
                    "off-lot",
                    quantity=decimal(order.replacement.quantity),
                    filled=decimal(order.filled),
                )
            if order.replacement.expire_time < account.clock:
                refuse("expired", expire_time=order.replacement.expire_time, clock=account.clock)
            _replace(account, order, order.request_id or "", order.replacement)
        case ExecType.REJECTED:
            end_order(account, order, OrderStatus.DECLINED)
        case ExecType.TRADE:
            _fill(account, entry, order, said)
        case ExecType.EXPIRED:
            # The clock ends orders (`rules._expire`); a live order has not expired.
            raise violated("not-expired", expire_time=order.expire_time, clock=account.clock)


def _leaves_after(order: LiveOrder, said: ExecutionReport, filled: int) -> tuple[int, ...]:
    """The allowed values of LeavesQty: 0 if the report ends the order."""
    if said.exec_type in (ExecType.CANCELED, ExecType.REJECTED):
        return (0,)
    if said.exec_type is ExecType.REPLACED and order.replacement is not None:
        return (order.replacement.quantity - filled,)
    if said.exec_type is ExecType.TRADE and order.status in _CANCELLING:
        return (0, order.quantity - filled)
    return (order.quantity - filled,)


def _fill(account: LiveAccount, entry: RuledFrame, order: LiveOrder, said: ExecutionReport) -> None:
    if said.last_px is None or said.last_qty is None:
        refuse("missing-field", field="LastPx" if said.last_px is None else "LastQty")
    price, quantity = said.last_px, said.last_qty
    instrument = account.instrument(order.symbol)
    check_price(instrument, price)
    check_quantity(instrument, quantity)
    if quantity > order.leaves:
        refuse("fill-over-quantity", last_qty=decimal(quantity), leaves_qty=decimal(order.leaves))
    if not no_worse(order.side, price, order.price):
        refuse("fill-worse-than-price", last_px=decimal(price), price=decimal(order.price))
    # Shrink the order before the position exists, so that margin counts the quantity once.
    _shrink(account, order, quantity)
    if order.opens:
        _open_position(account, entry, order, quantity, price)
    else:
        _close_position(account, order, quantity, price)


def _shrink(account: LiveAccount, order: LiveOrder, quantity: int) -> None:
    """After a fill the order is pending again, or cancelled if a cancel was requested."""
    if quantity == order.leaves:
        end_order(account, order, OrderStatus.FILLED)
    # The partial fill answers the open cancel request: the rest is cancelled.
    elif order.status in _CANCELLING:
        end_order(account, order, OrderStatus.CANCELLED)
    else:
        left = replace(order, filled=order.filled + quantity)
        if order.status is OrderStatus.LOCKED:
            left = replace(left, status=OrderStatus.PENDING, since=account.clock)
        put_order(account, left)


def _open_position(
    account: LiveAccount, entry: RuledFrame, order: LiveOrder, quantity: int, price: int
) -> None:
    # A fill may be better than the order's price, and so may be out of the band (`spec.md` 49).
    _check_openable(account)
    check_band(account, order.symbol, price)
    if len(account.positions) >= account.terms.limits.positions:
        refuse("too-many-positions", limit=account.terms.limits.positions)
    position = Position(
        position_id=position_id(account.custody, entry.seq),
        symbol=order.symbol,
        side=order.side,
        quantity=quantity,
        entry_price=price,
        opened_at=account.clock,
        cl_ord_id=order.cl_ord_id,
    )
    rate = account.instrument(order.symbol).open_fee
    put_position(account, position)
    account.fees += traders_fee(account, order.symbol, quantity, price, rate)
    # Checked last, with the position and its fee in the account.
    check_fresh(account, order.symbol)
    check_margin(account, order.symbol)


def _close_position(account: LiveAccount, order: LiveOrder, quantity: int, price: int) -> None:
    if order.position_id is None:
        raise AssertionError("a close without a position was let in")
    # A partial fill of a market close would leave a rest that has no price.
    if order.ord_type is not OrdType.LIMIT and quantity != order.leaves:
        refuse("partial-market-close", last_qty=decimal(quantity), leaves_qty=decimal(order.leaves))
    position = account.positions[order.position_id]
    rate = account.instrument(order.symbol).close_fee
    # Closing needs no margin (`spec.md` 48), so nothing is checked here.
    if quantity == position.quantity:
        drop_position(account, position.position_id)
    else:
        put_position(account, replace(position, quantity=position.quantity - quantity))
    account.realised += position.profit(price, quantity)
    account.fees += traders_fee(account, order.symbol, quantity, price, rate)


def refuse_request(account: LiveAccount, said: OrderCancelReject) -> None:
    """9: the solver refuses a cancel or replace request.

    For an order that has ended it changes nothing: the request only came too late.
    """
    order = account.orders.get(said.orig_cl_ord_id)
    if order is None:
        return
    replaces = said.cxl_rej_response_to is CxlRejResponseTo.REPLACE
    asked = (OrderStatus.REPLACE_PENDING,) if replaces else _CANCELLING
    if order.status not in asked or order.request_id != said.cl_ord_id:
        refuse("nothing-pending", cl_ord_id=said.cl_ord_id, status=order.status)
    back = OrderStatus.LOCKED if order.opens else OrderStatus.CLOSE_PENDING
    put_order(
        account,
        replace(order, status=back, since=account.clock, request_id=None, replacement=None),
    )


# --- how an order moves ------------------------------------------------------------------------


def _check_id(account: LiveAccount, cl_ord_id: str) -> None:
    """Check that no live order and no open request has this id."""
    check_id(cl_ord_id)
    taken = cl_ord_id in account.orders or any(
        cl_ord_id == order.request_id for order in account.orders.values()
    )
    if taken:
        refuse("duplicate-id", kind="ClOrdID", id=cl_ord_id)


def end_order(account: LiveAccount, order: LiveOrder, status: OrderStatus) -> None:
    """End an order. A position that it would have closed is free for another close."""
    held = None if order.position_id is None else account.positions.get(order.position_id)
    if held is not None:
        put_position(account, replace(held, close_order=None))
    drop_order(account, order.cl_ord_id)
    _remember(account, order.cl_ord_id, status)


def _remember(account: LiveAccount, cl_ord_id: str, status: OrderStatus) -> None:
    """Remember for people how an order ended."""
    account.drop(account.ended_orders, cl_ord_id)
    account.put(account.ended_orders, cl_ord_id, status)
    if len(account.ended_orders) > MOST_ENDED:
        account.drop(account.ended_orders, next(iter(account.ended_orders)))
