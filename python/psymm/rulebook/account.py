"""The account of a custody: what is open, what is owed, and the formulas of both sides.

An ``Account`` is immutable. Money, prices and quantities are integers scaled by 10**18; note
amounts and payouts are in token units; times are nanoseconds. Flows of money are kept once, as the
trader's; the solver's are their negation, so no money is created or lost (``spec.md`` 60).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from functools import cached_property
from typing import Final

from psymm._core import keccak256
from psymm.messages import OrdType, PositionEffect, Side
from psymm.rulebook.money import UNIT, floor_product, margins, share_up
from psymm.rulebook.persistent_map import PersistentMap, SmallMap
from psymm.terms import Instrument, Rates, Terms

NEVER: Final = 2**64


class Lane(IntEnum):
    """The two ends of a custody."""

    TRADER = 0
    SOLVER = 1

    @property
    def other(self) -> Lane:
        return Lane.SOLVER if self is Lane.TRADER else Lane.TRADER


LANES: Final = (Lane.TRADER, Lane.SOLVER)
"""By number. A tuple, because iterating over an enum is much slower."""


class OrderStatus(StrEnum):
    """The status of an order. In the last five the order has ended."""

    PENDING = "pending"
    LOCKED = "locked"
    CANCEL_PENDING = "cancel-pending"
    REPLACE_PENDING = "replace-pending"
    CLOSE_PENDING = "close-pending"
    CANCEL_CLOSE_PENDING = "cancel-close-pending"
    FILLED = "filled"
    CANCELLED = "cancelled"
    DECLINED = "declined"
    EXPIRED = "expired"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """The new values of a locked order, if the solver agrees."""

    cl_ord_id: str
    quantity: int
    price: int
    expire_time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveOrder:
    """A live order.

    Attributes:
        side: the trader's.
        price: the limit, or the quote's price.
        since: the clock at its last change of status.
        position_id: the position that it closes.
        quote_id: the quote that it hit.
        request_id: the ClOrdID of the open cancel or replace request.
        replacement: what the open replace request asks for.
    """

    cl_ord_id: str
    symbol: str
    side: Side
    quantity: int
    filled: int
    price: int
    ord_type: OrdType
    effect: PositionEffect
    expire_time: int
    status: OrderStatus
    since: int
    position_id: bytes | None = None
    quote_id: str | None = None
    request_id: str | None = None
    replacement: Replacement | None = None

    @property
    def leaves(self) -> int:
        """The quantity that is not filled yet."""
        return self.quantity - self.filled

    @property
    def opens(self) -> bool:
        return self.effect is PositionEffect.OPEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """An open position.

    Attributes:
        side: the trader's: BUY is long.
        opened_at: the clock at its fill.
        cl_ord_id: the order that opened it.
        close_order: the ClOrdID of the order that closes it, if one is open.
    """

    position_id: bytes
    symbol: str
    side: Side
    quantity: int
    entry_price: int
    opened_at: int
    cl_ord_id: str
    close_order: str | None = None

    def profit(self, price: int, quantity: int | None = None) -> int:
        """The trader's profit on ``quantity`` (all of it by default) at ``price``, floored."""
        move = price - self.entry_price if self.side is Side.BUY else self.entry_price - price
        return floor_product(move, self.quantity if quantity is None else quantity)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveQuote:
    """A quote that can still be hit."""

    quote_id: str
    symbol: str
    valid_until: int
    bid_price: int | None = None
    offer_price: int | None = None
    bid_size: int | None = None
    offer_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    """A quote request that can still be answered."""

    quote_req_id: str
    symbol: str
    quantity: int
    expire_time: int
    side: Side | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteState:
    """A note that a lane listed.

    Attributes:
        lane: the lane that listed it.
        accepted: whether the other lane accepted it.
        amount: what it holds, by its acceptance; 0 before that.
        accepted_in: the other lane's frame that accepted it; 0 before that.
        spent: whether a citation names it as spent.
    """

    commitment: bytes
    nullifier: bytes
    lane: Lane
    accepted: bool = False
    amount: int = 0
    accepted_in: int = 0
    spent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionKey:
    """A session key as its delegation states it."""

    public_key: bytes
    from_seq: int
    to_seq: int
    expiry: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """An oracle price in effect."""

    price: int
    timestamp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPayee:
    """Where a settlement of the flat account is to pay a lane.

    Attributes:
        inner: the inner hash of the output note.
        memo: the whole memo.
        amount: what the memo names, in token units.
    """

    inner: bytes
    memo: bytes
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveProposal:
    """A settlement that a wallet has signed.

    Attributes:
        lane: the proposer's.
        seq: the proposing frame.
        nullifiers: its two inputs.
        commitments: its two outputs.
        payouts: the trader's and the solver's, before the fee, in token units.
        fee: the relayer's, in token units, paid by the proposer.
        deadline_s: seconds since the epoch.
        accepted: whether the other wallet has signed, too.
    """

    lane: Lane
    seq: int
    nullifiers: tuple[bytes, bytes]
    commitments: tuple[bytes, bytes]
    payouts: tuple[int, int]
    fee: int
    deadline_s: int
    accepted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointOffer:
    """A valid UCP that the other lane has not answered yet.

    Attributes:
        lane: who offers.
        seq: the frame of the offer.
        account_hash: of the account that it names.
        solver_seq: the named account is the one after this solver frame.
        trader_seq: the trader's last frame in that account.
        bytes_sent: what each lane had sent by then.
        covered_at: the clock when the other lane first covered the offer.
    """

    lane: Lane
    seq: int
    account_hash: bytes
    solver_seq: int
    trader_seq: int
    bytes_sent: tuple[int, int]
    covered_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreedCheckpoint:
    """A checkpoint in force. ``said``: the seqs of the trader's and of the solver's UCP."""

    account_hash: bytes
    solver_seq: int
    trader_seq: int
    bytes_sent: tuple[int, int]
    said: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRefusal:
    """Frame ``seq`` of ``lane`` refuses the valid UCP in frame ``ref_seq`` of the other lane."""

    lane: Lane
    seq: int
    ref_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over an account's tables, so that rules need not go through them; see ``totals``.

    Pairs are by lane.
    """

    collateral: tuple[int, int] = (0, 0)
    """Accepted notes, in token units."""
    locked: tuple[int, int] = (0, 0)
    """Σ (CVA + LF + MM) over open positions."""
    pending: tuple[int, int] = (0, 0)
    """Σ (CVA + LF + MM) over the unfilled part of opening orders."""
    upnl: int = 0
    """The trader's unrealised profit, each position floored."""
    opening: int = 0
    """How many live orders would open a position."""
    held: Mapping[str, int] = field(default_factory=dict)
    """How many positions are open, by symbol. Symbols with 0 are left out."""
    exposure: Mapping[str, int] = field(default_factory=dict)
    """Notional of positions and opening orders, by symbol, at 36 decimals. No 0 entries."""


DERIVED: Final = frozenset(("next_expiry", "totals"))
"""Fields of an account that are derived from the others: neither hashed nor stored."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """The state of a custody after trader frame ``trader_seq`` and solver frame ``solver_seq``.

    Pairs are by lane. Field names are part of the account's hash.

    Attributes:
        trader_covers: the last solver frame that the trader covers.
        clock: the maximum of all legal times so far.
        bytes_sent: each lane's payload bytes from its first frame on.
        checkpoint: the one in force.
        offer: the unanswered UCP.
        refusals: refused checkpoints since the one in force.
        keys: each lane's session keys; the last one is in force.
        ended_orders: how each ended order ended.
        used_ids: every id ever used.
        realised: the trader's realised PnL.
        fees: the trader's fees; negative if it paid.
        funding: the trader's funding.
        proposals: every settlement ever proposed, by its first commitment.
        alive: the first commitment of the live proposal.
        ended: whether no accepted note is unspent.
        next_expiry: no request, quote or order expires before this time.
        totals: sums over the tables.
    """

    custody: bytes
    terms: Terms
    trader_seq: int = 0
    solver_seq: int = 0
    trader_covers: int = 0
    clock: int = 0
    bytes_sent: tuple[int, int] = (0, 0)
    checkpoint: AgreedCheckpoint | None = None
    offer: CheckpointOffer | None = None
    refusals: tuple[CheckpointRefusal, ...] = ()
    logged_on: tuple[bool, bool] = (False, False)
    logged_out: tuple[bool, bool] = (False, False)
    keys: tuple[tuple[SessionKey, ...], tuple[SessionKey, ...]] = ((), ())
    notes: SmallMap[bytes, NoteState] = field(default_factory=SmallMap)
    requests: SmallMap[str, OpenRequest] = field(default_factory=SmallMap)
    quotes: SmallMap[str, LiveQuote] = field(default_factory=SmallMap)
    orders: SmallMap[str, LiveOrder] = field(default_factory=SmallMap)
    ended_orders: PersistentMap[str, OrderStatus] = field(default_factory=PersistentMap)
    positions: SmallMap[bytes, Position] = field(default_factory=SmallMap)
    used_ids: PersistentMap[str, str] = field(default_factory=PersistentMap)
    prices: SmallMap[str, Price] = field(default_factory=SmallMap)
    realised: int = 0
    fees: int = 0
    funding: int = 0
    trader_payee: NamedPayee | None = None
    solver_payee: NamedPayee | None = None
    proposals: SmallMap[bytes, LiveProposal] = field(default_factory=SmallMap)
    alive: bytes | None = None
    ended: bool = False
    next_expiry: int = NEVER
    totals: Totals = field(default_factory=Totals)

    # --- money -----------------------------------------------------------------------------

    def collateral(self, lane: Lane) -> int:
        """The lane's accepted notes, in token units."""
        return self.totals.collateral[lane]

    def reserve(self, lane: Lane) -> int:
        """The part of the lane's collateral that PnL never reaches, in token units.

        At most its collateral, so that the allocated balance does not start negative.
        """
        return min(self.terms.reserves[lane], self.collateral(lane))

    def flow(self, lane: Lane) -> int:
        """Realised PnL, fees and funding of the lane, signed."""
        traders = self.realised + self.fees + self.funding
        return traders if lane is Lane.TRADER else -traders

    def allocated(self, lane: Lane) -> int:
        """Collateral − reserve + realised PnL − fees + fees received ± funding."""
        own = self.totals.collateral[lane]
        own -= min(self.terms.reserves[lane], own)
        return own * self.terms.token_scale + self.flow(lane)

    def mark(self, position: Position) -> int:
        """The latest oracle price in effect; without one, the position's entry price."""
        price = self.prices.get(position.symbol)
        return position.entry_price if price is None else price.price

    def upnl(self, lane: Lane) -> int:
        """Unrealised profit of the lane, each position floored for the trader."""
        traders = self.totals.upnl
        return traders if lane is Lane.TRADER else -traders

    def equity(self, lane: Lane) -> int:
        traders = self.totals.upnl
        return self.allocated(lane) + (traders if lane is Lane.TRADER else -traders)

    def maintenance(self, lane: Lane) -> int:
        """Σ MM over open positions."""
        return sum(
            share_up(p.quantity, p.entry_price, self.rates(p.symbol, lane).mm)
            for p in self.positions.values()
        )

    def locked(self, lane: Lane) -> int:
        """Σ (CVA + LF + MM) over open positions."""
        return self.totals.locked[lane]

    def pending(self, lane: Lane) -> int:
        """Σ (CVA + LF + MM) over the unfilled part of opening orders."""
        return self.totals.pending[lane]

    def available_for_orders(self, lane: Lane) -> int:
        totals = self.totals
        return self.equity(lane) - totals.locked[lane] - totals.pending[lane]

    def health(self, lane: Lane) -> int:
        """(equity − MM) / (allocated − MM) at 18 decimals; 0 where allocated ≤ MM."""
        maintenance = self.maintenance(lane)
        room = self.allocated(lane) - maintenance
        return 0 if room <= 0 else (self.equity(lane) - maintenance) * UNIT // room

    def flagged(self, lane: Lane) -> bool:
        room = self.allocated(lane) - self.maintenance(lane) - self.pending(lane)
        return self.upnl(lane) < -room

    def liquidatable(self, lane: Lane) -> bool:
        """Whether it is liquidatable once its pending orders are cancelled (``spec.md`` 53)."""
        return self.upnl(lane) < -(self.allocated(lane) - self.maintenance(lane))

    @property
    def payouts(self) -> tuple[int, int]:
        """What a settlement pays trader and solver, in token units; together, all collateral."""
        # The trader's payout is floored; the remainder, at most one unit, is the solver's
        # (``spec.md`` 60).
        scale = self.terms.token_scale
        trader, solver = self.allocated(Lane.TRADER), self.allocated(Lane.SOLVER)
        clamped = max(0, min(trader, trader + solver))
        to_trader = self.reserve(Lane.TRADER) + clamped // scale
        return to_trader, self.collateral(Lane.TRADER) + self.collateral(Lane.SOLVER) - to_trader

    def margin(self, symbol: str, lane: Lane, quantity: int, price: int) -> int:
        """CVA + LF + MM of a quantity at a price, each rounded up."""
        return margins(self.instrument(symbol), quantity * price)[lane]

    def rates(self, symbol: str, lane: Lane) -> Rates:
        instrument = self.instrument(symbol)
        return instrument.trader if lane is Lane.TRADER else instrument.solver

    def instrument(self, symbol: str) -> Instrument:
        """The instrument of an open order or position. The terms have it."""
        return self.terms.by_symbol[symbol]

    # --- state -----------------------------------------------------------------------------

    @property
    def seqs(self) -> tuple[int, int]:
        """The last frames in effect, the trader's and the solver's."""
        return self.trader_seq, self.solver_seq

    def since_checkpoint(self, lane: Lane) -> tuple[int, int]:
        """The lane's frames and payload bytes since the checkpoint in force.

        That is what a side would have to show in court (``spec.md`` 10).
        """
        seq = self.trader_seq if lane is Lane.TRADER else self.solver_seq
        last = self.checkpoint
        if last is None:
            return seq, self.bytes_sent[lane]
        counted = last.trader_seq if lane is Lane.TRADER else last.solver_seq
        return seq - counted, self.bytes_sent[lane] - last.bytes_sent[lane]

    @property
    def trading_open(self) -> bool:
        """Whether both lanes' accepted collateral reaches the terms' minimum."""
        (trader, solver), least = self.totals.collateral, self.terms.minima
        return trader >= max(1, least[0]) and solver >= max(1, least[1])

    @property
    def flat(self) -> bool:
        """No position and no order is open."""
        return not self.positions and not self.orders

    @property
    def settlement(self) -> LiveProposal | None:
        """The live proposal. It lives from its signature until it is mined or out of time."""
        return None if self.alive is None else self.proposals[self.alive]

    def payee(self, lane: Lane) -> NamedPayee | None:
        """The lane's payee on the record. A live proposal pays this one."""
        return self.trader_payee if lane is Lane.TRADER else self.solver_payee

    def status_of(self, cl_ord_id: str) -> OrderStatus | None:
        """The status of an order, live or ended; None if it was never sent."""
        order = self.orders.get(cl_ord_id)
        return self.ended_orders.get(cl_ord_id) if order is None else order.status

    def key_in_force(self, lane: Lane) -> SessionKey | None:
        """The lane's latest session key."""
        return self.keys[lane][-1] if self.keys[lane] else None

    # --- identity --------------------------------------------------------------------------

    def canonical(self) -> bytes:
        """The account as bytes that are the same on every machine.

        JSON with sorted keys and no whitespace; integers are decimal strings, bytes are hex. The
        terms are replaced by their hash, and the tables that only grow (ended orders, used ids) by
        their digest.
        """
        return _json(_plain(self, whole=False))

    def document(self) -> bytes:
        """``canonical()`` with the growing tables written out.

        ``rulebook.checkpoint.restore`` makes the account from it.
        """
        return _json(_plain(self, whole=True))

    @cached_property
    def hash(self) -> bytes:
        """keccak256 of ``canonical()``."""
        return keccak256(self.canonical())


def _json(plain: object) -> bytes:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _plain(value: object, *, whole: bool) -> object:
    if isinstance(value, Terms):
        return "0x" + value.hash.hex()
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, bool):
        return "Y" if value else "N"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, tuple):
        return [_plain(each, whole=whole) for each in value]
    if isinstance(value, PersistentMap) and not whole:
        return "0x" + value.digest().hex()
    if isinstance(value, PersistentMap | SmallMap):
        return {
            ("0x" + key.hex() if isinstance(key, bytes) else key): _plain(each, whole=whole)
            for key, each in value.items()
        }
    if dataclasses.is_dataclass(value):
        return {
            f.name: _plain(held, whole=whole)
            for f in dataclasses.fields(value)
            if f.name not in DERIVED and (held := getattr(value, f.name)) is not None
        }
    return value


def position_id(custody: bytes, cl_ord_id: str, exec_id: str) -> bytes:
    """A position's id: keccak256 of the custody and the ids of its order and its fill."""
    # With their lengths, so that no two pairs of ids give the same bytes.
    parts = [part.encode() for part in (cl_ord_id, exec_id)]
    sized = b"".join(len(part).to_bytes(2, "big") + part for part in parts)
    return keccak256(b"psymm-position" + custody + sized)
