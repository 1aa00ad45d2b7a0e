"""What trading costs: the fees of an instrument, and opening and closing at given prices."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from psymm.api.amounts import Number, decimal_of, scaled
from psymm.messages import Side
from psymm.terms import UNIT, Instrument


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """What it costs to open and close a quantity at two prices that do not move, with both fees.

    Attributes:
        cost: In the token.
        share: Of the notional at which it opens.
    """

    cost: Decimal
    share: Decimal


def fees_paid(instrument: Instrument) -> tuple[int, int]:
    """What a trader pays on opening and on closing, as shares at 18 decimals. Fees that the solver
    pays count as nothing: otherwise a solver could promise large ones to be chosen."""
    if instrument.fee_receiver == "trader":
        return 0, 0
    return instrument.open_fee, instrument.close_fee


def round_trip(
    instrument: Instrument, side: Side, quantity: Number, bid: Number, ask: Number
) -> RoundTrip:
    """The all-in cost of opening `quantity` on `side` and closing it at these prices."""
    opening, closing = fees_paid(instrument)
    first, last = (ask, bid) if side is Side.BUY else (bid, ask)
    spread = abs(scaled(ask) - scaled(bid))
    each = spread * UNIT + scaled(first) * opening + scaled(last) * closing
    notional = scaled(first) * UNIT
    # Round up: never show a cost as less than it is.
    cost = -(-each * scaled(quantity) // UNIT**2)
    share = -(-each * UNIT // notional) if notional else 0
    return RoundTrip(decimal_of(cost), decimal_of(share))
