"""Integers scaled by 10**18, and which way each of them is rounded.

Money is computed once, for the trader, floored towards −∞; the solver has its negation. What is
locked, and what a fee costs the one who pays, is rounded up.
"""

from __future__ import annotations

from typing import Final

from psymm.terms import Instrument

UNIT: Final = 10**18
_SQUARE: Final = UNIT * UNIT


def floor_product(a: int, b: int) -> int:
    """a·b at 18 decimals, floored towards −∞."""
    return a * b // UNIT


def share_up(quantity: int, price: int, rate: int) -> int:
    """quantity·price·rate at 18 decimals, rounded up; one rounding for both products."""
    return -(-quantity * price * rate // _SQUARE)


def share_down(quantity: int, price: int, rate: int) -> int:
    """quantity·price·rate at 18 decimals, rounded down."""
    return quantity * price * rate // _SQUARE


def margins(instrument: Instrument, notional: int) -> tuple[int, int]:
    """CVA + LF + MM of a notional at 36 decimals, each rounded up, for trader and solver."""
    # Written out: it is worked out for every order and position that changes.
    trader, solver = instrument.trader, instrument.solver
    return (
        -(-notional * trader.cva // _SQUARE)
        - (-notional * trader.lf // _SQUARE)
        - (-notional * trader.mm // _SQUARE),
        -(-notional * solver.cva // _SQUARE)
        - (-notional * solver.lf // _SQUARE)
        - (-notional * solver.mm // _SQUARE),
    )
