"""What a trade costs the session protocol, in Python calls: a measure without noise.

Counted is all that a frame passes between socket and disk on either side: protocol, rulebook,
messages, record. The core is native and counts nothing.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Final

from protocol_pair import ProtocolPair
from session_scene import SECOND

from psymm.messages import (
    ExecType,
    ExecutionReport,
    NewOrderSingle,
    OrdType,
    PositionEffect,
    Quote,
    QuoteRequest,
    Side,
)
from psymm.terms import UNIT

MOST_CALLS: Final = 305
"""For a trade and side. Lower it when a trade becomes cheaper; raise it for no less than a reason
that is written here."""
TRADES: Final = 40
PRICE: Final = 50_000 * UNIT


class Calls:
    """Counts the calls of the package's functions, and those that they make of other Python."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Calls:
        sys.setprofile(self._on)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _on(self, frame: FrameType, event: str, _arg: object) -> None:
        back = frame.f_back
        places = frame.f_code.co_filename, "" if back is None else back.f_code.co_filename
        if event == "call" and any("/psymm/" in place for place in places):
            self.count += 1


def trade(pair: ProtocolPair, number: int) -> None:
    """Request, quote, order, fill: in turn one that opens a position and one that closes it."""
    positions = list(pair.trader.account.positions)
    expires = pair.now + 30 * SECOND
    quantity = UNIT // 100
    pair.send(
        pair.trader,
        QuoteRequest(quote_req_id=f"r{number}", symbol="BTC-USD", order_qty=quantity),
    )
    pair.deliver()
    pair.send(
        pair.solver,
        Quote(
            quote_id=f"q{number}",
            symbol="BTC-USD",
            valid_until_time=expires,
            quote_req_id=f"r{number}",
            bid_px=PRICE,
            offer_px=PRICE,
        ),
    )
    pair.deliver()
    pair.send(
        pair.trader,
        NewOrderSingle(
            cl_ord_id=f"o{number}",
            symbol="BTC-USD",
            side=Side.SELL if positions else Side.BUY,
            order_qty=quantity,
            ord_type=OrdType.PREVIOUSLY_QUOTED,
            position_effect=PositionEffect.CLOSE if positions else PositionEffect.OPEN,
            expire_time=expires,
            price=PRICE,
            quote_id=f"q{number}",
            position_id=positions[0] if positions else None,
        ),
    )
    pair.deliver()
    pair.send(
        pair.solver,
        ExecutionReport(
            exec_id=f"e{number}",
            cl_ord_id=f"o{number}",
            exec_type=ExecType.TRADE,
            last_px=PRICE,
            last_qty=quantity,
        ),
    )
    pair.deliver()


def test_a_trade_costs_no_more_calls_than_it_did() -> None:
    pair = ProtocolPair()
    pair.trade()
    for number in range(4):
        trade(pair, number)
    with Calls() as calls:
        for number in range(4, 4 + TRADES):
            trade(pair, number)
    assert len(pair.trader.account.positions) == 0
    each = calls.count / TRADES / 2
    assert each <= MOST_CALLS, f"{each:.1f} calls for a trade and side"


def test_a_trade_costs_as_much_after_many() -> None:
    """Neither ids nor orders that have ended make the next dearer."""
    pair = ProtocolPair()
    pair.trade()
    counts: list[int] = []
    for number in range(120):
        with Calls() as calls:
            trade(pair, number)
        counts.append(calls.count)
    assert sum(counts[100:]) <= 1.02 * sum(counts[4:24])
