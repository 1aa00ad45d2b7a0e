"""Integers scaled by 10**18, and which way each of them is rounded.

Money is computed once, for the trader, floored towards −∞; the solver has its negation. What is
locked, and what a fee costs the one who pays, is rounded up.
"""

from __future__ import annotations

UNIT = 10**18


def floor_product(a: int, b: int) -> int:
    """a·b at 18 decimals, floored towards −∞."""
    return a * b // UNIT


def share_up(quantity: int, price: int, rate: int) -> int:
    """quantity·price·rate at 18 decimals, rounded up; one rounding for both products."""
    return -(-quantity * price * rate // (UNIT * UNIT))


def share_down(quantity: int, price: int, rate: int) -> int:
    """quantity·price·rate at 18 decimals, rounded down."""
    return quantity * price * rate // (UNIT * UNIT)
