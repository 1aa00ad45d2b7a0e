"""How many frames a second the rulebook rules, and how much memory it holds meanwhile.

One custody trades on and on: quote requests and quotes, hits, limit orders with partial fills,
locks, cancels, closes, heartbeats; now and then a late frame and a violation. Both lanes agree to a
checkpoint at half a limit. Each frame's JSON is decoded as a session decodes it. The frames are
made in rounds outside the time that is measured.

Set QUICK=1 for fewer frames, FRAMES for another number.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "rulebook"))

from rulebook_scene import (
    MS,
    OPENING,
    SOLVER_NOTE,
    START,
    TRADER_NOTE,
    UNITS,
    accepts,
    dec,
    hit,
    limit,
    logon,
    make_terms,
    quote,
    report,
    trade,
)

from psymm.messages import (
    ExecType,
    Heartbeat,
    Message,
    OrderCancelRequest,
    OrdType,
    QuoteRequest,
    Side,
    encode,
)
from psymm.rulebook import Lane, Replay
from psymm.rulebook.checkpoint import answer, offer
from psymm.terms import NANOSECONDS

FRAMES = int(os.environ.get("FRAMES", "20000" if os.environ.get("QUICK") else "1000000"))
ROUND = 2_000


@dataclass(slots=True)
class _Frame:
    lane: int
    seq: int
    peer_seq: int
    sending_time: int
    payload: bytes


class _Desk:
    """Both ends: writes the frames of a mixed day, and rules them once to know what comes next."""

    def __init__(self) -> None:
        self.terms = make_terms(end_date=START + 10**9 * NANOSECONDS)
        self.replay = Replay.start(OPENING, self.terms)
        self.now = START
        self.count = 0
        self.frames: list[_Frame] = []
        self.trader(logon(self.terms, TRADER_NOTE, to_seq=2**62, expiry=2**62))
        self.solver(logon(self.terms, SOLVER_NOTE, to_seq=2**62, expiry=2**62))
        self.solver(accepts(TRADER_NOTE, amount=10**6 * UNITS))
        self.trader(accepts(SOLVER_NOTE, amount=10**6 * UNITS))
        self.solver(Heartbeat())

    def write(self, lane: Lane, said: Message | bytes, later: int = MS) -> None:
        self.now += later
        own, other = self.replay.heads[lane], self.replay.heads[1 - lane]
        payload = said if isinstance(said, bytes) else encode(said)
        frame = _Frame(int(lane), own + 1, other, self.now, payload)
        self.replay.step(frame)
        self.frames.append(frame)

    def trader(self, said: Message | bytes, later: int = MS) -> None:
        self.write(Lane.TRADER, said, later)

    def solver(self, said: Message | bytes, later: int = MS) -> None:
        self.write(Lane.SOLVER, said, later)

    def name(self) -> str:
        self.count += 1
        return f"{self.count:x}"

    def request_and_hit(self, side: Side) -> None:
        """R, S, D, 8: one trade by request for quote."""
        request, quoted, order = self.name(), self.name(), self.name()
        self.trader(QuoteRequest(quote_req_id=request, symbol="BTC", order_qty=dec("1"), side=side))
        made = quote(quoted, self.now + 30 * NANOSECONDS, quote_req_id=request)
        self.solver(made)
        self.trader(hit(order, quoted, side=side, expire=self.now + 60 * NANOSECONDS))
        price = "1001" if side is Side.BUY else "999"
        self.solver(trade(self.name(), order, price=price))

    def limit_in_parts(self) -> None:
        """A limit order: locked, filled in two parts."""
        order = self.name()
        self.trader(limit(order, "2", "1000", expire=self.now + 60 * NANOSECONDS, symbol="ETH"))
        self.solver(report(self.name(), order, ExecType.NEW))
        self.solver(trade(self.name(), order, "1", "1000"))
        self.trader(Heartbeat())
        self.solver(trade(self.name(), order, "1", "999.5"))

    def cancelled(self) -> None:
        """An order that is locked, asked to be cancelled, and cancelled."""
        order = self.name()
        self.trader(limit(order, "1", "900", expire=self.now + 60 * NANOSECONDS))
        self.solver(report(self.name(), order, ExecType.NEW))
        self.trader(OrderCancelRequest(cl_ord_id=self.name(), orig_cl_ord_id=order))
        self.solver(report(self.name(), order, ExecType.CANCELED))

    def close_all(self) -> None:
        """Close every position."""
        for position in list(self.replay.projected().positions.values()):
            order = self.name()
            side = Side.SELL if position.side is Side.BUY else Side.BUY
            quantity = str(position.quantity // 10**18)
            closes = limit(
                order,
                quantity,
                "1000",
                side,
                symbol=position.symbol,
                expire=self.now + 60 * NANOSECONDS,
                closes=position.position_id,
                ord_type=OrdType.LIMIT,
            )
            self.trader(closes)
            self.solver(trade(self.name(), order, quantity, "1000"))

    def checkpoint(self) -> None:
        """Both lanes agree to one."""
        self.trader(Heartbeat())
        self.solver(Heartbeat())
        said = offer(self.replay.projected(), self.replay.named())
        if said is not None:
            self.solver(said)
            answered = answer(self.replay.projected(), Lane.TRADER)
            if answered is not None:
                self.trader(answered)
                self.solver(Heartbeat())

    def day(self) -> None:
        self.request_and_hit(Side.BUY)
        self.request_and_hit(Side.SELL)
        self.limit_in_parts()
        self.cancelled()
        self.solver(b'{"MsgType":"8"')
        self.close_all()
        # A late answer: what the solver sent is judged again.
        self.solver(Heartbeat())
        self.trader(Heartbeat(), 11 * NANOSECONDS)
        self.solver(Heartbeat())
        if self.replay.latest.since_checkpoint(Lane.SOLVER)[0] > 500:
            self.checkpoint()

    def round(self) -> list[_Frame]:
        """The next frames."""
        while len(self.frames) < ROUND:
            self.day()
        frames, self.frames = self.frames, []
        return frames


def memory_mb() -> float:
    """The most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    desk = _Desk()
    replay = Replay.start(OPENING, desk.terms)
    ruled, spent, broken = 0, 0.0, 0
    best = 0.0
    started: float | None = None
    while ruled < FRAMES:
        frames = desk.round()
        begun = time.process_time()
        for frame in frames:
            for ruling in replay.step(frame):
                broken += ruling.violation is not None
        taken = time.process_time() - begun
        ruled, spent, best = ruled + len(frames), spent + taken, max(best, len(frames) / taken)
        if started is None and ruled >= FRAMES // 10:
            started = memory_mb()
    gc.collect()
    if replay.account.hash != desk.replay.account.hash:
        raise SystemExit("the two replays differ")
    size = len(replay.account.document())
    print(f"{ruled:,} frames, {broken:,} of them violations")
    print(f"{ruled / spent:,.0f} frames a second of CPU, JSON included; best round {best:,.0f}")
    print(f"memory {started or 0:.1f} MB after a tenth, {memory_mb():.1f} MB at the end")
    print(f"account document {size:,} bytes")


if __name__ == "__main__":
    main()
