"""What both sides do while a storm blows: quotes, orders, partial fills, cancels, declines, closes.

Who decides is always a `Random` that the caller seeded; nothing here looks at a clock but the
party's.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any, Final

import trio

from psymm.api import (
    BUY,
    SELL,
    IncomingOrder,
    IncomingQuoteRequest,
    Prices,
    Session,
    Solver,
    SolverSession,
    decimal_of,
)
from psymm.api.connecting import session_projected
from psymm.errors import Declined, Disconnected, NotNow, PeerSilent, PSymmError, Refused
from psymm.messages import OrderCancelRequest
from psymm.rulebook import OrderStatus
from psymm.session.protocol import SessionStatus, checkpoints
from psymm.session.protocol.signing import is_uncovered
from psymm.session.runtime.ledger import RulebookLedger
from psymm.session.runtime.runner import SessionRunner
from psymm.terms import (
    UNIT,
    ChainRef,
    CollateralTerms,
    Instrument,
    Limits,
    Rates,
    Tariff,
    Terms,
    Timeouts,
)

checkpoints.MOST_HELD = 40  # type: ignore[misc]
"""So few frames are held before a checkpoint that a storm blows across many."""

SYMBOLS: Final = ("BTC-USD", "ETH-USD")
MID: Final = 50_000
SIZES: Final = ("0.002", "0.004", "0.01")
MOST_POSITIONS: Final = 6
HARMLESS: Final = frozenset(
    {
        *("disconnected", "unreachable", "handshake-failed", "server-busy", "peer-left"),
        *("peer-silent", "not-now", "refused", "declined", "session-closed"),
    }
)
"""Codes of what a lost connection, or the other side's will, makes of a wish."""


def storm_terms(chain: ChainRef, token: str, end_date_ns: int, **limits: int) -> Terms:
    rates = Rates(cva=UNIT // 200, lf=UNIT // 200, mm=UNIT // 50)

    def instrument(symbol: str) -> Instrument:
        return Instrument(
            symbol=symbol,
            tick=UNIT // 10,
            lot=UNIT // 1000,
            min_notional=UNIT,
            max_notional=1_000_000 * UNIT,
            max_leverage=20 * UNIT,
            trader=rates,
            solver=rates,
            open_fee=UNIT // 2000,
            feed=symbol,
        )

    return Terms(
        chain=chain,
        collateral=CollateralTerms(
            token=token,
            decimals=6,
            trader_minimum=100_000_000,
            solver_minimum=100_000_000,
            trader_reserve=100_000,
            solver_reserve=100_000,
        ),
        instruments=tuple(instrument(symbol) for symbol in SYMBOLS),
        timeouts=Timeouts(),
        end_date=end_date_ns,
        tariff=Tariff(relayer_cap=1_000_000),
        limits=Limits(frames_per_second=100_000, **limits),
    )


class Maker(Solver):
    """A solver that quotes, fills whole or in parts, locks, declines, or just leaves it.

    Args:
        random: decides.
        calm: it quotes and fills everything, as a solver at rest would.
        rotations: the share of quotes before which it changes its session key.
    """

    def __init__(
        self,
        *given: Any,
        random: Random,
        calm: bool = False,
        rotations: float = 0.03,
        **named: Any,
    ) -> None:
        super().__init__(*given, **named)
        self.random = random
        self.calm = calm
        self.rotations = rotations
        self.failures: Counter[str] = Counter()
        self.lasting: list[PSymmError] = []

    async def on_prices(self, symbol: str) -> Prices:
        return Prices(bid=MID - 10, ask=MID + 10)

    async def on_quote_request(self, request: IncomingQuoteRequest) -> None:
        if not self.calm and self.random.random() < self.rotations:
            with trio.move_on_after(1):
                await request.session.rotate_key()
        if not self.calm and self.random.random() < 0.1:
            await request.reject("not now")
        else:
            await request.quote(bid=MID - 10, ask=MID + 10, valid_s=5)

    async def on_order(self, order: IncomingOrder) -> None:
        roll = 0.0 if self.calm else self.random.random()
        if roll < 0.45:
            await order.fill()
        elif roll < 0.65:
            await order.fill(quantity="0.001")
            await trio.sleep(self.random.uniform(0, 0.05))
            await order.fill()
        elif roll < 0.75:
            await order.lock()
            await trio.sleep(self.random.uniform(0, 0.05))
            await order.fill()
        elif roll < 0.85:
            await order.decline("not at this price")
        elif roll < 0.95:
            await order.fill(quantity="0.001")
        # Else it stays as it is, to be cancelled or to expire.

    async def on_cancel(self, order: IncomingOrder) -> bool:
        return self.calm or self.random.random() < 0.8

    async def on_failure(self, session: SolverSession, error: PSymmError) -> None:
        self.failures[error.code] += 1
        if error.code not in HARMLESS:
            self.lasting.append(error)


async def trade(
    session: Session, random: Random, done: Counter[str], pause_s: float = 0.02
) -> None:
    """Trade until cancelled. What the other side or a lost connection refuses is counted."""
    while True:
        try:
            with trio.move_on_after(random.uniform(0.2, 2)):
                await _act(session, random, done)
        except (Declined, NotNow, PeerSilent, Refused) as refused:
            done[f"{refused.code}"] += 1
        await trio.sleep(random.uniform(0, pause_s))


async def _act(session: Session, random: Random, done: Counter[str]) -> None:
    symbol, size = random.choice(SYMBOLS), random.choice(SIZES)
    side = random.choice((BUY, SELL))
    positions = session.account.positions
    roll = random.random()
    if len(positions) >= MOST_POSITIONS or (positions and roll < 0.35):
        held = random.choice([*session.account.positions.values()])
        part = "0.001" if roll < 0.1 else None
        if random.random() < 0.5:
            quote = await session.request_quote(
                held.symbol, part or decimal_of(held.quantity), timeout_s=2
            )
            order = await session.close(held, quote=quote, quantity=part, expires_in_s=3)
        else:
            price = MID - 20 if held.side is BUY else MID + 20
            order = await session.close(held, price=price, quantity=part, expires_in_s=3)
        done["closes"] += 1
        done[(await order.result()).status] += 1
    elif roll < 0.7:
        quote = await session.request_quote(symbol, size, timeout_s=2)
        done["quotes"] += 1
        if random.random() < 0.8:
            order = await session.order(side, symbol, size, quote=quote, expires_in_s=3)
            done[(await order.result()).status] += 1
    elif roll < 0.95:
        order = await session.order(side, symbol, size, price=MID, expires_in_s=3)
        done["limits"] += 1
        if random.random() < 0.5:
            done[(await order.result()).status] += 1
        else:
            await trio.sleep(random.uniform(0, 0.05))
            done[f"cancel: {(await order.cancel()).status}"] += 1
    else:
        aside = random.choice(ASIDES)
        await aside(session, random)
        done[aside.__name__] += 1


async def look_at_prices(session: Session, random: Random) -> None:
    await session.indicative(random.choice(SYMBOLS), timeout_s=2)


async def rotate_key(session: Session, random: Random) -> None:
    await session.rotate_key()


ASIDES: Final = (look_at_prices, rotate_key)
"""What a trader does now and then between its trades; each is as likely as the others."""


async def flatten(session: Session) -> None:
    """Cancel what is open and close all positions, whatever it takes; returns once that is so."""
    while not is_flat(session.runner):
        try:
            await _flatten(session)
        except (Declined, Disconnected, NotNow, PeerSilent, Refused):
            await trio.sleep(0.2)


async def _flatten(session: Session) -> None:
    # As it will be: a fill that was covered late never was, and its position is open yet.
    account = session_projected(session.runner)
    closing = set()
    for order in account.orders.values():
        if order.status in (OrderStatus.PENDING, OrderStatus.LOCKED, OrderStatus.CLOSE_PENDING):
            await session.runner.send(
                OrderCancelRequest(cl_ord_id=session.next_id("c"), orig_cl_ord_id=order.cl_ord_id)
            )
        closing.add(order.position_id)
    for position in account.positions.values():
        if position.position_id in closing:
            continue
        size = decimal_of(position.quantity)
        quote = await session.request_quote(position.symbol, size, timeout_s=2)
        with trio.move_on_after(5):
            await (await session.close(position, quote=quote, expires_in_s=4)).result()
    await trio.sleep(0.3)


def is_flat(runner: SessionRunner) -> bool:
    """Whether nothing is open, and nothing comes to be: a fill that is covered late never was."""
    ledger = runner.protocol.state.rulebook
    assert isinstance(ledger, RulebookLedger)
    return ledger.account.flat and ledger.projected.flat and not is_uncovered(runner.protocol.state)


def standing(runner: SessionRunner) -> dict[str, Any]:
    """Where one end stands, to be compared with the other's."""
    ledger = runner.protocol.state.rulebook
    assert isinstance(ledger, RulebookLedger)
    account = ledger.account
    heads = [runner.protocol.record.head(lane) for lane in (0, 1)]
    return {
        "state": str(runner.protocol.status),
        "heads": [
            [head.seq, runner.protocol.record.digest(lane, head.seq).hex()]
            for lane, head in enumerate(heads)
        ],
        "hash": account.hash.hex(),
        "flat": is_flat(runner),
        "synced": runner.protocol.synced or runner.protocol.status is SessionStatus.CLOSED,
        "waiting": runner.statistics().waiting,
        "payouts": list(account.payouts),
    }
