"""A custody on the stage: two lanes that write frames, and the rulebook that watches.

Frames here are values with a place, a time and a payload, as they come out of a transcript that
has verified them; the payloads are the real vocabulary's bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from psymm._core import SecretKey, keccak256
from psymm.custody.notes import commitment
from psymm.messages import (
    AcceptedNote,
    CollAsgnRespType,
    CollateralResponse,
    ExecType,
    ExecutionReport,
    Heartbeat,
    Logon,
    Message,
    NewOrderSingle,
    NoteRef,
    OrdType,
    PositionEffect,
    Quote,
    Settlement,
    SettlementKind,
    SettlementOutput,
    Side,
    encode,
)
from psymm.rulebook import Account, ChainFacts, Lane, Replay, ReplayInputs, Ruling, Violation
from psymm.rulebook.settlement import settlement_digest
from psymm.terms import (
    NANOSECONDS,
    UNIT,
    ChainRef,
    CollateralTerms,
    Instrument,
    Limits,
    Oracle,
    Rates,
    Tariff,
    Terms,
    checksummed,
)

MS = 10**6
START = 1_700_000_000 * NANOSECONDS
TOKEN = checksummed("0x" + "beef" * 10)
CUSTODY = bytes(31) + b"\x07"
WALLETS = (SecretKey.from_bytes(b"\x01" * 32), SecretKey.from_bytes(b"\x02" * 32))
OPENING = ReplayInputs(CUSTODY, (WALLETS[0].public_key, WALLETS[1].public_key))
TRADER_NOTE = NoteRef(commitment=b"\x11" * 32, nullifier=b"\x12" * 32)
SOLVER_NOTE = NoteRef(commitment=b"\x21" * 32, nullifier=b"\x22" * 32)
UNITS = 10**6


def dec(text: str) -> int:
    """A decimal at 18 decimals."""
    whole, _, part = text.partition(".")
    sign = -1 if whole.startswith("-") else 1
    return sign * (abs(int(whole)) * UNIT + int(part.ljust(18, "0") or 0))


BTC = Instrument(
    symbol="BTC",
    tick=dec("0.5"),
    lot=dec("0.001"),
    min_notional=dec("10"),
    max_notional=dec("200000"),
    max_leverage=dec("10"),
    trader=Rates(cva=dec("0.02"), lf=dec("0.01"), mm=dec("0.05")),
    solver=Rates(cva=dec("0.01"), lf=dec("0.01"), mm=dec("0.04")),
    open_fee=dec("0.0005"),
    close_fee=dec("0.0002"),
    feed="BTC/USD",
)
ETH = replace(
    BTC, symbol="ETH", tick=dec("0.01"), lot=dec("0.0000001"), open_fee=0, close_fee=0, feed="ETH"
)


def make_terms(**changes: object) -> Terms:
    """The terms of the stage, with what a test wants otherwise."""
    values: dict[str, object] = {
        "chain": ChainRef(
            id=31337,
            psymm=checksummed("0x" + "a1" * 20),
            registry=checksummed("0x" + "b2" * 20),
        ),
        "collateral": CollateralTerms(
            token=TOKEN,
            decimals=6,
            trader_minimum=1000 * UNITS,
            solver_minimum=1000 * UNITS,
            trader_reserve=100 * UNITS,
            solver_reserve=200 * UNITS,
        ),
        "instruments": (BTC, ETH),
        "end_date": START + 86_400 * NANOSECONDS,
        "oracle": Oracle(),
        "tariff": Tariff(relayer_cap=5 * UNITS),
        "limits": Limits(open_orders=8, positions=8, open_quotes=8),
    }
    return Terms(**(values | changes))  # type: ignore[arg-type]


@dataclass(frozen=True)
class WrittenFrame:
    """A frame whose place in its transcript holds."""

    lane: int
    seq: int
    peer_seq: int
    sending_time: int
    payload: bytes


class Scene:
    """Both lanes at one table: each frame covers all before it, a millisecond apart, unless a
    test says otherwise."""

    def __init__(self, terms: Terms | None = None, facts: ChainFacts | None = None) -> None:
        self.terms = terms or make_terms()
        self.replay = Replay.start(OPENING, self.terms, facts)
        self.now = START
        self.frames: list[WrittenFrame] = []
        self.ids = 0

    @property
    def account(self) -> Account:
        return self.replay.account

    def name(self, kind: str) -> str:
        self.ids += 1
        return f"{kind}-{self.ids}"

    def write(
        self,
        lane: Lane,
        said: Message | bytes,
        at: int | None = None,
        covers: int | None = None,
    ) -> tuple[Ruling, ...]:
        if at is None:
            self.now += MS
        else:
            self.now = max(self.now, at)
        own, other = self.replay.heads if lane is Lane.TRADER else self.replay.heads[::-1]
        frame = WrittenFrame(
            lane,
            own + 1,
            other if covers is None else covers,
            self.now if at is None else at,
            said if isinstance(said, bytes) else encode(said),
        )
        rulings = self.replay.step(frame)
        self.frames.append(frame)
        return rulings

    def solver(
        self, said: Message | bytes, at: int | None = None, covers: int | None = None
    ) -> Violation | None:
        """The solver writes a frame; what it is found to be."""
        return self.write(Lane.SOLVER, said, at, covers)[-1].violation

    def trader(
        self, said: Message | bytes, at: int | None = None, covers: int | None = None
    ) -> None:
        """The trader writes a frame, which waits to be covered."""
        assert self.write(Lane.TRADER, said, at, covers) == ()

    def cover(self, at: int | None = None) -> tuple[Ruling, ...]:
        """A heartbeat of the solver covers all; the rulings of what it covered."""
        return self.write(Lane.SOLVER, Heartbeat(), at)[:-1]

    def trade(self, said: Message | bytes) -> Violation | None:
        """The trader writes a frame and the solver covers it at once; what it is found to be."""
        self.trader(said)
        return self.cover()[-1].violation

    def open_for_trading(self, trader: int = 10_000, solver: int = 10_000) -> Scene:
        """Both log on and accept each other's notes, worth so many whole tokens."""
        self.trader(logon(self.terms, TRADER_NOTE))
        assert self.solver(logon(self.terms, SOLVER_NOTE)) is None
        assert self.solver(accepts(TRADER_NOTE, amount=trader * UNITS)) is None
        assert self.trade(accepts(SOLVER_NOTE, amount=solver * UNITS)) is None
        assert self.account.trading_open
        return self

    def opened(
        self, quantity: str = "1", price: str = "1000", side: Side = Side.BUY, symbol: str = "BTC"
    ) -> bytes:
        """A position, opened whole by a limit order; its id."""
        before = set(self.account.positions)
        order = limit(
            self.name("o"), quantity, price, side, symbol=symbol, expire=self.now + 10**13
        )
        assert self.trade(order) is None
        assert self.solver(trade(self.name("e"), order.cl_ord_id, quantity, price)) is None
        (made,) = set(self.account.positions) - before
        return made

    def violation_of_trader(self, said: Message | bytes, rule: str) -> Violation:
        before = self.money_and_business()
        found = self.trade(said)
        assert found is not None
        assert found.name == rule
        assert self.money_and_business() == before, "a violation changes nothing"
        return found

    def violation_of_solver(self, said: Message | bytes, rule: str) -> Violation:
        before = self.money_and_business()
        found = self.solver(said)
        assert found is not None
        assert found.name == rule
        assert self.money_and_business() == before, "a violation changes nothing"
        return found

    def money_and_business(self) -> Account:
        """The account without seqs, counts and clock, which every frame moves."""
        return replace(
            self.account,
            trader_seq=0,
            solver_seq=0,
            clock=0,
            trader_covers=0,
            bytes_sent=(0, 0),
            offer=None,
        )


def logon(terms: Terms, *notes: NoteRef, **changes: object) -> Logon:
    values: dict[str, object] = {
        "terms_hash": terms.hash,
        "session_public_key": b"\x05" * 64,
        "from_seq": 1,
        "to_seq": 10**9,
        "expiry": START + 10**15,
        "delegation_signature": b"\x06" * 65,
        "heart_bt_int": 5,
        "notes": notes,
    }
    return Logon(**(values | changes))  # type: ignore[arg-type]


def accepts(
    *notes: NoteRef, name: str | None = None, amount: int = 10_000 * UNITS, token: str = TOKEN
) -> CollateralResponse:
    """amount: what each of them is said to hold, in token units."""
    return CollateralResponse(
        coll_resp_id=name or f"r-{notes[0].commitment.hex()[:8]}",
        coll_asgn_resp_type=CollAsgnRespType.ACCEPTED,
        commitments=tuple(
            AcceptedNote(commitment=note.commitment, token=bytes.fromhex(token[2:]), amount=amount)
            for note in notes
        ),
    )


def limit(
    name: str,
    quantity: str = "1",
    price: str = "1000",
    side: Side = Side.BUY,
    *,
    symbol: str = "BTC",
    expire: int = START + 600 * NANOSECONDS,
    closes: bytes | None = None,
    ord_type: OrdType = OrdType.LIMIT,
) -> NewOrderSingle:
    """An order at a price; ``closes`` names a position."""
    return NewOrderSingle(
        cl_ord_id=name,
        symbol=symbol,
        side=side,
        order_qty=dec(quantity),
        ord_type=ord_type,
        position_effect=PositionEffect.OPEN if closes is None else PositionEffect.CLOSE,
        expire_time=expire,
        price=dec(price),
        position_id=closes,
    )


def hit(
    name: str,
    quote_id: str,
    quantity: str = "1",
    side: Side = Side.BUY,
    *,
    expire: int = START + 600 * NANOSECONDS,
    price: str | None = None,
) -> NewOrderSingle:
    """An order that hits a quote; its price is that of `quote` unless `price` says otherwise."""
    if price is None:
        price = "1001" if side is Side.BUY else "999"
    return NewOrderSingle(
        cl_ord_id=name,
        symbol="BTC",
        side=side,
        order_qty=dec(quantity),
        ord_type=OrdType.PREVIOUSLY_QUOTED,
        position_effect=PositionEffect.OPEN,
        expire_time=expire,
        price=dec(price),
        quote_id=quote_id,
    )


def quote(name: str, valid_until: int, **changes: object) -> Quote:
    values: dict[str, object] = {
        "quote_id": name,
        "symbol": "BTC",
        "valid_until_time": valid_until,
        "bid_px": dec("999"),
        "offer_px": dec("1001"),
        "bid_size": dec("5"),
        "offer_size": dec("5"),
    }
    return Quote(**(values | changes))  # type: ignore[arg-type]


def report(name: str, order: str, exec_type: ExecType, **changes: object) -> ExecutionReport:
    return ExecutionReport(exec_id=name, cl_ord_id=order, exec_type=exec_type, **changes)  # type: ignore[arg-type]


def trade(
    name: str, order: str, quantity: str = "1", price: str = "1000", **changes: object
) -> ExecutionReport:
    """A fill."""
    return report(
        name, order, ExecType.TRADE, last_qty=dec(quantity), last_px=dec(price), **changes
    )


INNERS = (b"\x0a" * 32, b"\x0b" * 32)
MEMOS = (b"\xaa" * 256, b"\xbb" * 256)


def payee(lane: Lane, amount: int, **changes: object) -> SettlementOutput:
    """Where a lane wants to be paid so much."""
    values: dict[str, object] = {"inner": INNERS[lane], "memo": MEMOS[lane], "amount": amount}
    return SettlementOutput(**(values | changes))  # type: ignore[arg-type]


def name_payees(scene: Scene, proposer: Lane = Lane.SOLVER, fee: int = 0) -> None:
    """Both lanes name theirs for what the account gives, the proposer's after the fee."""
    paid = [scene.account.payouts[lane] - (fee if lane is proposer else 0) for lane in Lane]
    assert scene.trade(payee(Lane.TRADER, paid[0])) is None
    assert scene.solver(payee(Lane.SOLVER, paid[1])) is None


def outputs(payouts: tuple[int, int], proposer: Lane = Lane.SOLVER, fee: int = 0) -> list[bytes]:
    """The commitments that pay both payees: H3(inner, token, amount)."""
    paid = [payouts[lane] - (fee if lane is proposer else 0) for lane in Lane]
    return [commitment(INNERS[lane], TOKEN, paid[lane]) for lane in Lane]


def settles(account: Account, now: int, lane: Lane = Lane.SOLVER, **changes: object) -> Settlement:
    """A right proposal to settle by a lane, or one that is wrong in `changes`, signed by its wallet
    as it is unless they say otherwise."""
    payouts = account.payouts
    first, second = outputs(payouts, lane, int(str(changes.get("fee", 0))))
    values: dict[str, object] = {
        "ust_kind": SettlementKind.SETTLE,
        "nullifier0": TRADER_NOTE.nullifier,
        "nullifier1": SOLVER_NOTE.nullifier,
        "commitment0": first,
        "commitment1": second,
        "memos": keccak256(MEMOS[0] + MEMOS[1]),
        "relayer": bytes(20),
        "fee_token": bytes(20),
        "fee": 0,
        "deadline": -(-now // NANOSECONDS // 300) * 300 + 300,
        "signature": bytes(65),
        "trader_payout": payouts[0],
        "solver_payout": payouts[1],
    }
    said = Settlement(**(values | changes))  # type: ignore[arg-type]
    if "signature" in changes:
        return said
    return replace(said, signature=WALLETS[lane].sign(settlement_digest(account.terms, said)))
