"""Check an order against the rules before its custody exists."""

from __future__ import annotations

from psymm._core import JsonError
from psymm.messages import NewOrderSingle, encode
from psymm.rulebook import checks, orders
from psymm.rulebook.account import Lane, NoteState
from psymm.rulebook.books import Account
from psymm.rulebook.inputs import RuledFrame
from psymm.rulebook.live_account import LiveAccount
from psymm.rulebook.totals import put_note
from psymm.rulebook.violation import RuleBroken, Violation, refuse
from psymm.terms import Terms


def first_order_fault(
    terms: Terms, collaterals: tuple[int, int], order: NewOrderSingle, now: int
) -> Violation | None:
    """The violation if `order` were the first of a custody, or None.

    Args:
        terms: the custody's.
        collaterals: what trader and solver put up, token units.
        order: the order.
        now: nanoseconds since the epoch.
    """
    account = LiveAccount(Account(custody=bytes(32), terms=terms, clock=now))
    for lane in Lane:
        note = NoteState(
            commitment=bytes([lane]),
            nullifier=bytes([lane]),
            lane=lane,
            accepted=True,
            amount=collaterals[lane],
        )
        put_note(account, note)
    try:
        if not account.trading_open:
            refuse("trading-not-open", msg_type=order.MSG_TYPE)
        entry = RuledFrame(Lane.TRADER, 1, 0, now, len(encode(order)), order)
        orders.send(account, entry, order)
    except JsonError as error:
        return Violation("malformed", (("code", error.code),))
    except RuleBroken as refused:
        return refused.violation
    return None


def size_fault(terms: Terms, symbol: str, quantity: int) -> Violation | None:
    """The violation in an order's instrument or quantity, for any account; or None."""
    try:
        instrument = checks.instrument_of(Account(custody=bytes(32), terms=terms), symbol)
        checks.check_quantity(instrument, quantity)
    except RuleBroken as refused:
        return refused.violation
    return None
