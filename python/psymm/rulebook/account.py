"""What an account is made of: orders, positions, quotes, notes, keys, prices, proposals.

All are values that never change. Units as in ``books``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from psymm._core import keccak256
from psymm.messages import OrdType, PositionEffect, Side
from psymm.rulebook.money import floor_product


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
    """The new values of a locked order, if the solver agrees. Its ClOrdID is the request's."""

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
    """A quote that can still be hit.

    Attributes:
        seq: the solver frame that made it.
        request_id: the quote request that it answers.
    """

    quote_id: str
    seq: int
    symbol: str
    valid_until: int
    request_id: str | None = None
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
        payouts: what the named account would pay then, in token units.
        flat: whether nothing is open in it.
        covered_at: the clock when the other lane first covered the offer.
    """

    lane: Lane
    seq: int
    account_hash: bytes
    solver_seq: int
    trader_seq: int
    bytes_sent: tuple[int, int]
    payouts: tuple[int, int]
    flat: bool
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


def position_id(custody: bytes, solver_seq: int) -> bytes:
    """A position's id: keccak256 of the custody and the solver frame that filled its order."""
    return keccak256(b"psymm-position" + custody + solver_seq.to_bytes(8, "big"))
