"""The account of a custody: its fields, and the formulas of both sides.

``Books`` has fields and formulas. It comes in two forms: an ``Account`` never changes, and the one
``LiveAccount`` of a replay is changed by the rules. Money, prices and quantities are integers
scaled by 10**18; note amounts and payouts are in token units; times are nanoseconds. Flows of money
are kept once, as the trader's; the solver's are their negation, so no money is created or lost
(``spec.md`` 60).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

from psymm._core import keccak256
from psymm.rulebook.account import (
    AgreedCheckpoint,
    CheckpointOffer,
    CheckpointRefusal,
    Lane,
    LiveOrder,
    LiveProposal,
    LiveQuote,
    NamedPayee,
    NoteState,
    OpenRequest,
    OrderStatus,
    Position,
    Price,
    SessionKey,
)
from psymm.rulebook.money import UNIT, margins, share_up
from psymm.terms import Instrument, Rates, Terms

NEVER: Final = 2**64
TABLES: Final = (
    "notes",
    "requests",
    "quotes",
    "orders",
    "ended_orders",
    "positions",
    "prices",
    "proposals",
    "held",
    "exposure",
)
"""The fields that are mappings."""
KEYS: Final = {
    "notes": "commitment",
    "requests": "quote_req_id",
    "quotes": "quote_id",
    "orders": "cl_ord_id",
    "positions": "position_id",
}
"""The field of an entry that is its key. It is written once only."""
DERIVED: Final = frozenset(
    (
        "next_expiry",
        "ended_orders",
        "collaterals",
        "trading_open",
        "margin_locked",
        "margin_pending",
        "traders_upnl",
        "opening",
        "held",
        "exposure",
    )
)
"""Fields that are neither hashed nor stored. All but ``ended_orders`` follow from the others."""


@dataclass(kw_only=True)
class Books:
    """The state of a custody after trader frame ``trader_seq`` and solver frame ``solver_seq``.

    Pairs are by lane. Field names are part of the account's hash.

    Attributes:
        trader_covers: the last solver frame that the trader covers.
        clock: the maximum of all legal times so far.
        bytes_sent: each lane's bytes, in whole frames, from its first on.
        checkpoint: the one in force.
        offer: the unanswered UCP.
        refusals: refused checkpoints since the one in force.
        keys: each lane's session keys; the last one is in force.
        realised: the trader's realised PnL.
        fees: the trader's fees; negative if it paid.
        funding: the trader's funding.
        proposals: every settlement ever proposed, by its first commitment.
        alive: the first commitment of the live proposal.
        ended: whether no accepted note is unspent.
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
    notes: Mapping[bytes, NoteState] = field(default_factory=dict)
    requests: Mapping[str, OpenRequest] = field(default_factory=dict)
    quotes: Mapping[str, LiveQuote] = field(default_factory=dict)
    orders: Mapping[str, LiveOrder] = field(default_factory=dict)
    positions: Mapping[bytes, Position] = field(default_factory=dict)
    prices: Mapping[str, Price] = field(default_factory=dict)
    realised: int = 0
    fees: int = 0
    funding: int = 0
    trader_payee: NamedPayee | None = None
    solver_payee: NamedPayee | None = None
    proposals: Mapping[bytes, LiveProposal] = field(default_factory=dict)
    alive: bytes | None = None
    ended: bool = False

    ended_orders: Mapping[str, OrderStatus] = field(default_factory=dict)
    """How the last orders ended, for people: no rule may read it (``spec.md`` 11)."""
    next_expiry: int = NEVER
    """No request, quote or order expires before this time."""
    collaterals: tuple[int, int] = (0, 0)
    """Accepted notes of each lane, in token units."""
    trading_open: bool = False
    """Whether both lanes' accepted collateral reaches the terms' minimum."""
    margin_locked: tuple[int, int] = (0, 0)
    """Σ (CVA + LF + MM) over open positions, by lane."""
    margin_pending: tuple[int, int] = (0, 0)
    """Σ (CVA + LF + MM) over the unfilled part of opening orders, by lane."""
    traders_upnl: int = 0
    """The trader's unrealised profit, each position floored."""
    opening: int = 0
    """How many live orders would open a position."""
    held: Mapping[str, int] = field(default_factory=dict)
    """How many positions are open, by symbol. Symbols with 0 are left out."""
    exposure: Mapping[str, int] = field(default_factory=dict)
    """Notional of positions and opening orders, by symbol, at 36 decimals. No 0 entries."""

    # --- money -----------------------------------------------------------------------------

    def collateral(self, lane: Lane) -> int:
        """The lane's accepted notes, in token units."""
        return self.collaterals[lane]

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
        own = self.collaterals[lane]
        own -= min(self.terms.reserves[lane], own)
        return own * self.terms.token_scale + self.flow(lane)

    def mark_of(self, position: Position) -> int:
        """The latest oracle price in effect; without one, the position's entry price."""
        price = self.prices.get(position.symbol)
        return position.entry_price if price is None else price.price

    def upnl(self, lane: Lane) -> int:
        """Unrealised profit of the lane, each position floored for the trader."""
        traders = self.traders_upnl
        return traders if lane is Lane.TRADER else -traders

    def equity(self, lane: Lane) -> int:
        traders = self.traders_upnl
        return self.allocated(lane) + (traders if lane is Lane.TRADER else -traders)

    def maintenance(self, lane: Lane) -> int:
        """Σ MM over open positions."""
        return sum(
            share_up(p.quantity, p.entry_price, self.rates(p.symbol, lane).mm)
            for p in self.positions.values()
        )

    def locked(self, lane: Lane) -> int:
        """Σ (CVA + LF + MM) over open positions."""
        return self.margin_locked[lane]

    def pending(self, lane: Lane) -> int:
        """Σ (CVA + LF + MM) over the unfilled part of opening orders."""
        return self.margin_pending[lane]

    def available_for_orders(self, lane: Lane) -> int:
        return self.equity(lane) - self.margin_locked[lane] - self.margin_pending[lane]

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

    @property
    def payouts_now(self) -> tuple[int, int]:
        """``payouts`` if every position closed at the prices in effect, without fees.

        A checkpoint states them (``spec.md`` 13). On a flat account they are the payouts.
        """
        scale = self.terms.token_scale
        trader, solver = self.equity(Lane.TRADER), self.equity(Lane.SOLVER)
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
        """The lane's frames and their bytes since the checkpoint in force.

        That is what a side would have to show in court (``spec.md`` 10).
        """
        seq = self.trader_seq if lane is Lane.TRADER else self.solver_seq
        last = self.checkpoint
        if last is None:
            return seq, self.bytes_sent[lane]
        counted = last.trader_seq if lane is Lane.TRADER else last.solver_seq
        return seq - counted, self.bytes_sent[lane] - last.bytes_sent[lane]

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
        """The status of an order: live, or one of the last that ended; otherwise None."""
        order = self.orders.get(cl_ord_id)
        return self.ended_orders.get(cl_ord_id) if order is None else order.status

    def key_in_force(self, lane: Lane) -> SessionKey | None:
        """The lane's latest session key."""
        return self.keys[lane][-1] if self.keys[lane] else None


class Account(Books):
    """An account that never changes: a snapshot of a ``LiveAccount``, or one read from bytes."""

    def __post_init__(self) -> None:
        for name in TABLES:
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        self.__dict__["_made"] = True

    def __setattr__(self, name: str, value: object) -> None:
        if "_made" in self.__dict__:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    __hash__ = None  # type: ignore[assignment]

    # --- identity --------------------------------------------------------------------------

    def document(self) -> bytes:
        """The account as bytes that are the same on every machine.

        JSON with sorted keys and no whitespace; integers are decimal strings, bytes are hex. The
        terms are replaced by their hash. ``rulebook.checkpoint.restore`` makes the account from it.
        """
        plain = _plain(self)
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode()

    @cached_property
    def hash(self) -> bytes:
        """keccak256 of ``document()``."""
        return keccak256(self.document())


def _plain(value: object, known: str | None = None) -> object:
    """A value as JSON-ready objects, lists and strings. ``known``: a field to leave out."""
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
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return _table(value, None)
    if dataclasses.is_dataclass(value):
        return {
            f.name: _table(held, KEYS[f.name]) if f.name in KEYS else _plain(held)
            for f in dataclasses.fields(value)
            if f.name not in DERIVED
            and f.name != known
            and (held := getattr(value, f.name)) is not None
        }
    return value


def _table(table: Mapping[Any, object], known: str | None) -> dict[str, object]:
    return {
        ("0x" + key.hex() if isinstance(key, bytes) else key): _plain(each, known)
        for key, each in table.items()
    }
