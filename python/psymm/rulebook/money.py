"""Arithmetic on integers scaled by 10**18, and the direction of each rounding (``spec.md`` 60).

Money is computed once, for the trader, and floored towards −∞; the solver gets its negation. Locked
margin is rounded up, and so is a fee for its payer.
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
    """quantity·price·rate at 18 decimals, rounded up once."""
    return -(-quantity * price * rate // _SQUARE)


def share_down(quantity: int, price: int, rate: int) -> int:
    """quantity·price·rate at 18 decimals, rounded down."""
    return quantity * price * rate // _SQUARE


def margins(instrument: Instrument, notional: int) -> tuple[int, int]:
    """CVA + LF + MM of a notional at 36 decimals, each rounded up, for trader and solver."""
    # Written out for speed: every change of an order or position needs it.
    trader, solver = instrument.trader, instrument.solver
    return (
        -(-notional * trader.cva // _SQUARE)
        - (-notional * trader.lf // _SQUARE)
        - (-notional * trader.mm // _SQUARE),
        -(-notional * solver.cva // _SQUARE)
        - (-notional * solver.lf // _SQUARE)
        - (-notional * solver.mm // _SQUARE),
    )
