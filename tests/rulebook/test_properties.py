"""What holds whatever the two do and however the network delays it.

Two replicas play against each other: each rules its own frames as it sends them and the other's
as they arrive, so they see the frames in different orders. Every account that either has after a
solver frame is the same as the other's after that frame.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rulebook_scene import (
    BTC,
    CUSTODY,
    ETH,
    MS,
    OPENING,
    SOLVER_NOTE,
    START,
    TRADER_NOTE,
    WrittenFrame,
    accepts,
    dec,
    logon,
    make_terms,
    payee,
    quote,
    report,
    settles,
)

from psymm.messages import (
    CxlRejReason,
    CxlRejResponseTo,
    ExecType,
    Heartbeat,
    Logout,
    Message,
    NewOrderSingle,
    OrderCancelReject,
    OrderCancelReplaceRequest,
    OrderCancelRequest,
    OrdType,
    PositionEffect,
    QuoteCancel,
    QuoteCancelType,
    Reject,
    Side,
    encode,
)
from psymm.rulebook import (
    Account,
    Lane,
    Position,
    Replay,
    Ruling,
    replay,
)
from psymm.rulebook.checks import fee_payer, traders_fee
from psymm.rulebook.live_account import LiveAccount
from psymm.rulebook.totals import totals_of
from psymm.terms import NANOSECONDS, UNIT

TERMS = make_terms()
TRADERS_IDEAS = [
    "open",
    "open",
    "hit",
    "close",
    "close",
    "market",
    "cancel",
    "replace",
    "no",
    "bad",
]
SOLVERS_IDEAS = [
    *("fill", "fill", "fill", "lock", "decline", "accept", "refuse"),
    *("replaced", "quote", "withdraw", "beat", "bad"),
]
EVENTS = [
    *("t", "t", "t", "s", "s", "s", "s", ">", ">", ">", ">", "<", "<", "<", "<"),
    *("T", "T", "S", "settle", "out"),
]
RUNS = int(os.environ.get("PSYMM_RULEBOOK_RUNS", "40"))


class Party:
    """One end: its replica, its outbox, and what it may think of doing."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        inputs = OPENING
        self.replay = Replay.start(inputs, TERMS)
        self.outbox: deque[WrittenFrame] = deque()
        self.after: dict[int, bytes] = {}
        self.rulings: list[Ruling] = []
        self.last = 0
        self.count = 0

    def take(self, frame: WrittenFrame) -> None:
        self.replay.step(frame)
        account = self.replay.account
        if frame.lane == Lane.SOLVER:
            self.after[frame.seq] = account.hash
        conserved(account)

    def send(self, said: Message | bytes, at: int) -> WrittenFrame:
        own, other = self.replay.heads if self.lane is Lane.TRADER else self.replay.heads[::-1]
        self.last = max(self.last, at)
        expected: object = ...
        if isinstance(said, Message):
            before = untouched(self.replay)
            expected = self.replay.preview(self.lane, said, self.last)
            assert untouched(self.replay) == before, "to try it changes nothing"
            # What was tried just before the step must not matter.
            if self.count % 2:
                self.replay.preview(self.lane, Heartbeat(), self.last)
        payload = said if isinstance(said, bytes) else encode(said)
        frame = WrittenFrame(self.lane, own + 1, other, self.last, payload)
        rulings = self.replay.step(frame)
        if expected is not ... and self.lane is Lane.SOLVER:
            assert rulings[-1].violation == expected, "a preview is what the rules will say"
        self.rulings.extend(rulings)
        if self.lane is Lane.SOLVER:
            self.after[frame.seq] = self.replay.account.hash
        conserved(self.replay.account)
        self.outbox.append(frame)
        return frame

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.lane:d}{self.count}"


def untouched(replay: Replay) -> tuple[object, ...]:
    """What must stay as it is where a frame is only tried."""
    named = replay.named()
    return (
        replay.account.hash,
        replay.projected().hash,
        replay.faults,
        replay.pending,
        replay.heads,
        replay.decided,
        named.firm,
        named.account,
    )


def conserved(account: Account) -> None:
    """Nothing is made or lost, and nobody is paid what is not there."""
    both = account.collateral(Lane.TRADER) + account.collateral(Lane.SOLVER)
    assert sum(account.payouts) == both
    assert min(account.payouts) >= 0
    for lane in Lane:
        assert account.payouts[lane] >= account.reserve(lane)
    reserves = account.reserve(Lane.TRADER) + account.reserve(Lane.SOLVER)
    scale = account.terms.token_scale
    allocated = account.allocated(Lane.TRADER) + account.allocated(Lane.SOLVER)
    assert allocated == (both - reserves) * scale
    assert account.upnl(Lane.TRADER) == -account.upnl(Lane.SOLVER)
    for name, total in totals_of(account).items():
        assert getattr(account, name) == total, "what is kept is what the tables give"
    for position in account.positions.values():
        assert position.quantity > 0
        if position.close_order is not None:
            assert account.orders[position.close_order].leaves <= position.quantity
    for order in account.orders.values():
        assert 0 < order.leaves <= order.quantity


def some(rng: Random, table: Mapping[str, object] | Mapping[bytes, object]) -> object:
    keys = sorted(table)  # type: ignore[type-var]
    return rng.choice(keys) if keys else None


def traders_idea(rng: Random, me: Party, now: int) -> Message | bytes:
    account = me.replay.projected()
    symbol = rng.choice(["BTC", "ETH"])
    price = rng.randint(1980, 2020) * dec("0.5")
    quantity = rng.randint(5, 3000) * dec("0.001")
    side = rng.choice(list(Side))
    expire = now + rng.choice([NANOSECONDS, 30 * NANOSECONDS, 600 * NANOSECONDS])
    order, held = some(rng, account.orders), some(rng, account.positions)
    quoted = some(rng, account.quotes)
    kind = rng.choice(TRADERS_IDEAS)
    name = me.name("o")
    if kind == "hit" and quoted is not None:
        return NewOrderSingle(
            cl_ord_id=name,
            symbol="BTC",
            side=side,
            order_qty=quantity,
            ord_type=OrdType.PREVIOUSLY_QUOTED,
            position_effect=PositionEffect.OPEN,
            expire_time=expire,
            quote_id=str(quoted),
        )
    if kind in ("close", "market") and isinstance(held, bytes):
        position = account.positions[held]
        return NewOrderSingle(
            cl_ord_id=name,
            symbol=position.symbol,
            side=Side.SELL if position.side is Side.BUY else Side.BUY,
            order_qty=min(position.quantity, quantity),
            ord_type=OrdType.LIMIT if kind == "close" else OrdType.MARKET,
            position_effect=PositionEffect.CLOSE,
            expire_time=expire,
            price=price,
            position_id=held,
        )
    if kind == "cancel" and order is not None:
        return OrderCancelRequest(cl_ord_id=name, orig_cl_ord_id=str(order))
    if kind == "replace" and order is not None:
        return OrderCancelReplaceRequest(
            cl_ord_id=name,
            orig_cl_ord_id=str(order),
            order_qty=quantity,
            price=price,
            expire_time=expire,
        )
    if kind == "no" and account.solver_seq:
        return Reject(ref_seq_num=account.solver_seq, violation="malformed")
    if kind == "bad":
        return b'{"MsgType":"D"'
    return NewOrderSingle(
        cl_ord_id=name,
        symbol=symbol,
        side=side,
        order_qty=quantity,
        ord_type=OrdType.LIMIT,
        position_effect=PositionEffect.OPEN,
        expire_time=expire,
        price=price,
    )


def solvers_idea(rng: Random, me: Party, now: int) -> Message | bytes:
    account = me.replay.projected()
    order = some(rng, account.orders)
    kind = rng.choice(SOLVERS_IDEAS)
    name = me.name("e")
    if kind == "quote" or order is None:
        end = now + rng.choice([MS, NANOSECONDS, 60 * NANOSECONDS])
        return quote(name, end)
    if kind == "withdraw":
        return QuoteCancel(quote_cancel_type=QuoteCancelType.ALL)
    if kind == "bad":
        return b"\xff"
    if kind == "beat":
        return Heartbeat()
    live = account.orders[str(order)]
    if kind == "fill":
        part = rng.randint(1, 4)
        quantity = max(live.leaves * part // 4 // dec("0.001") * dec("0.001"), dec("0.001"))
        better = rng.choice([0, 0, dec("0.5"), -dec("0.5")])
        return report(
            name, live.cl_ord_id, ExecType.TRADE, last_qty=quantity, last_px=live.price + better
        )
    if kind == "refuse":
        return OrderCancelReject(
            cl_ord_id=live.request_id or "nothing",
            orig_cl_ord_id=live.cl_ord_id,
            cxl_rej_response_to=rng.choice(list(CxlRejResponseTo)),
            cxl_rej_reason=CxlRejReason.OTHER,
        )
    exec_type = {
        "lock": ExecType.NEW,
        "decline": ExecType.REJECTED,
        "accept": ExecType.CANCELED,
        "replaced": ExecType.REPLACED,
    }[kind]
    return report(name, live.cl_ord_id, exec_type)


def settling(rng: Random, me: Party, now: int) -> Message:
    """A payee, or a settlement that is right where both are named."""
    account = me.replay.projected()
    if rng.randint(0, 2):
        return payee(me.lane, account.payouts[me.lane])
    return settles(account, now, me.lane)


def deliver(frm: Party, to: Party) -> None:
    if frm.outbox:
        to.take(frm.outbox.popleft())


@settings(max_examples=RUNS, deadline=None)
@given(seed=st.integers(0, 2**64 - 1))
def test_both_sides_have_one_account_after_every_solver_frame(seed: int) -> None:
    rng = Random(seed)
    trader, solver = Party(Lane.TRADER), Party(Lane.SOLVER)
    now = START
    trader.send(logon(TERMS, TRADER_NOTE), now)
    deliver(trader, solver)
    solver.send(logon(TERMS, SOLVER_NOTE), now)
    solver.send(accepts(TRADER_NOTE, name="a"), now)
    deliver(solver, trader)
    deliver(solver, trader)
    trader.send(accepts(SOLVER_NOTE, name="b"), now)
    deliver(trader, solver)
    for _ in range(rng.randint(5, 120)):
        now += rng.choices([0, MS, 500 * MS, 11 * NANOSECONDS], [2, 10, 4, 1])[0]
        match rng.choice(EVENTS):
            case "t":
                trader.send(traders_idea(rng, trader, now), now)
            case "s":
                solver.send(solvers_idea(rng, solver, now), now)
            case ">":
                deliver(trader, solver)
            case "<":
                deliver(solver, trader)
            case "T":
                trader.send(Heartbeat(), now)
            case "S":
                solver.send(Heartbeat(), now)
            case "settle" if rng.randint(0, 3) == 0:
                me = rng.choice([trader, solver])
                if me.replay.projected().flat:
                    me.send(settling(rng, me, now), now)
            case "out" if rng.randint(0, 49) == 0:
                trader.send(Logout(), now)
    for _ in range(2):  # everything arrives, and everything is covered
        while trader.outbox or solver.outbox:
            deliver(trader, solver)
            deliver(solver, trader)
        trader.send(Heartbeat(), now)
        deliver(trader, solver)
        solver.send(Heartbeat(), now)
        deliver(solver, trader)
    assert not trader.replay.pending
    assert trader.after == solver.after
    assert trader.replay.account == solver.replay.account
    assert trader.replay.account.hash == solver.replay.account.hash
    assert trader.replay.faults == solver.replay.faults


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**64 - 1))
def test_replay_in_one_go_is_the_account_of_step_by_step(seed: int) -> None:
    rng = Random(seed)
    party = Party(Lane.SOLVER)
    trader = Party(Lane.TRADER)
    sent: list[WrittenFrame] = []
    now = START

    def both(me: Party, other: Party, said: Message | bytes) -> None:
        sent.append(me.send(said, now))
        deliver(me, other)

    both(trader, party, logon(TERMS, TRADER_NOTE))
    both(party, trader, logon(TERMS, SOLVER_NOTE))
    both(party, trader, accepts(TRADER_NOTE, name="a"))
    both(trader, party, accepts(SOLVER_NOTE, name="b"))
    for _ in range(rng.randint(1, 25)):
        now += rng.choices([MS, 11 * NANOSECONDS], [5, 1])[0]
        idea = traders_idea(rng, trader, now)
        told = isinstance(idea, Message)
        expected = trader.replay.preview(Lane.TRADER, idea, now) if told else None
        both(trader, party, idea)
        both(party, trader, solvers_idea(rng, party, now))
        ruled = [r for r in party.rulings if r.lane is Lane.TRADER and not r.again][-1]
        if told:
            assert ruled.violation == expected, "covered in time, it is what the preview said"
    at_once = replay(party.replay.inputs, TERMS, sent)
    assert at_once.hash == party.replay.account.hash == trader.replay.account.hash


@given(
    side=st.sampled_from(list(Side)),
    quantity=st.integers(1, 10**24),
    entry=st.integers(1, 10**24),
    price=st.integers(1, 10**24),
)
def test_profit_is_never_more_than_the_trader_earned_and_off_by_less_than_one(
    side: Side, quantity: int, entry: int, price: int
) -> None:
    position = Position(
        position_id=bytes(32),
        symbol="BTC",
        side=side,
        quantity=quantity,
        entry_price=entry,
        opened_at=0,
        cl_ord_id="o",
    )
    move = price - entry if side is Side.BUY else entry - price
    earned = Fraction(move * quantity, UNIT)
    assert earned - 1 < position.profit(price) <= earned


@given(
    quantity=st.integers(1, 10**24),
    price=st.integers(1, 10**24),
    receiver=st.sampled_from(["trader", "solver"]),
)
def test_a_fee_is_floored_for_the_trader_no_matter_who_pays_it(
    quantity: int, price: int, receiver: str
) -> None:
    terms = make_terms(instruments=(replace(BTC, fee_receiver=receiver), ETH))
    account = Account(custody=CUSTODY, terms=terms)
    fee = traders_fee(account, "BTC", quantity, price, BTC.open_fee)
    sign = -1 if fee_payer(account, "BTC") is Lane.TRADER else 1
    exact = sign * Fraction(quantity * price * BTC.open_fee, UNIT * UNIT)
    assert exact - 1 < fee <= exact


@given(quantity=st.integers(1, 10**24), price=st.integers(1, 10**24))
def test_what_is_locked_is_never_less_than_the_rates_say(quantity: int, price: int) -> None:
    account = Account(custody=CUSTODY, terms=TERMS)
    rate = BTC.trader.cva + BTC.trader.lf + BTC.trader.mm
    exact = Fraction(quantity * price * rate, UNIT * UNIT)
    assert exact <= account.margin("BTC", Lane.TRADER, quantity, price) < exact + 3


@given(st.lists(st.tuples(st.sampled_from("pdsum"), st.text(max_size=2), st.integers(0, 3))))
def test_whatever_is_done_to_the_live_account_can_be_undone(
    steps: list[tuple[str, str, int]],
) -> None:
    live = LiveAccount(Account(custody=CUSTODY, terms=TERMS))
    history = [(len(live.log), live.snapshot())]
    for kind, key, value in steps:
        if kind == "p":
            live.put(live.held, key, value)
        elif kind == "d":
            live.drop(live.held, key)
        elif kind == "s":
            live.clock = value
        elif kind == "u":
            at = value % len(history)
            live.undo_to(history[at][0])
            del history[at + 1 :]
        else:
            at = value % len(history)
            trimmed = history[at][0]
            live.forget(trimmed)
            history = [(mark - trimmed, then) for mark, then in history[at:]]
        assert live.snapshot() == live.snapshot(len(live.log))
        history.append((len(live.log), live.snapshot()))
        for mark, then in history:
            assert live.snapshot(mark) == then
            assert live.was(mark, "clock") == then.clock


def test_a_snapshot_never_changes() -> None:
    live = LiveAccount(Account(custody=CUSTODY, terms=TERMS))
    then = live.snapshot()
    live.put(live.held, "BTC", 1)
    assert "BTC" not in then.held
    with pytest.raises(AttributeError):
        then.clock = 1
    with pytest.raises(TypeError):
        then.held["BTC"] = 1  # type: ignore[index]
