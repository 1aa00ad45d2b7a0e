"""The checks before the irreversible step: before a trader's collateral moves.

Collateral in a bilateral custody comes out by both signatures only. So we check beforehand all that
can be known, in a fixed order, and each check has its own error. Local checks come first, the chain
and the relayers last. We write nothing down meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from psymm.errors import ClocksDiffer, Declined, HandshakeRefused, OrderUnfit, TokenDiffers
from psymm.messages import (
    MarketDataSnapshotFullRefresh,
    MDEntryType,
    NewOrderSingle,
    OrdType,
    PositionEffect,
    Side,
)
from psymm.rulebook import Violation, first_order_fault, size_fault
from psymm.session.protocol import SECOND
from psymm.session.runtime.handshake import Introduced
from psymm.session.runtime.party import LocalParty
from psymm.terms import Terms
from psymm.transcript.agreement import SOLVER

BLOCK_AHEAD_S: Final = 15.0
"""Nodes accept a block that is dated ahead of their clocks by at most this much."""


@dataclass(frozen=True, slots=True)
class NamedToken:
    """The token that the user named.

    Attributes:
        address: Checksummed; None if only the decimals were named.
        symbol: What the user calls it; None if it was named by its address alone.
    """

    address: str | None
    decimals: int
    symbol: str | None = None


@dataclass(frozen=True, slots=True)
class PlannedOrder:
    """An opening order to send when trading is open.

    Attributes:
        quantity: At 18 decimals.
        price: At 18 decimals; None: at about what the solver shows.
    """

    symbol: str
    side: Side
    quantity: int
    price: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a trader demands of its session before anything is funded.

    Attributes:
        token: None takes the terms' token, if the chain has it as the terms say.
        orders: The orders that it means to send. The first is tried against the future account,
            the others by instrument and lot only.
        accept: Checks introductions and terms; raises a HandshakeRefused if they break the trader's
            own policy (`spec.md` 62).
    """

    token: NamedToken | None = None
    orders: Sequence[PlannedOrder] = ()
    accept: Callable[[Introduced, Terms], None] | None = None


async def check_before_funding(
    party: LocalParty,
    introduced: Introduced,
    terms: Terms,
    wanted: Wanted,
    shown: MarketDataSnapshotFullRefresh | None,
) -> None:
    """Make every check, in order; collateral may move if this returns. The handshake has compared
    the clocks already.

    Raises TokenDiffers, HandshakeRefused, OrderUnfit, Declined (no price), and what `wanted.accept`
    and `Collateral.check` raise.
    Cancelled: raises Cancelled; nothing changed.

    Args:
        shown: The solver's price of the first order's symbol; None if no price is needed.
    """
    if wanted.token is not None:
        check_token(terms, wanted.token)
    ours, theirs = introduced.collaterals
    if not ours:
        raise HandshakeRefused("a session needs collateral of ours", ours=ours)
    # What the solver puts up is the most that we can win.
    if theirs < max(1, terms.minimum(SOLVER)):
        raise HandshakeRefused(
            "the solver promises less than its own terms ask of it",
            promised=theirs,
            minimum=terms.minimum(SOLVER),
        )
    if wanted.accept is not None:
        wanted.accept(introduced, terms)
    check_orders(terms, introduced.collaterals, wanted.orders, shown, party.clock.now_ns())
    symbol = None if wanted.token is None else wanted.token.symbol
    await party.collateral.check(introduced.agreement, ours, symbol, party.clock.now_ns())


def check_clocks(off_ns: int, terms: Terms) -> None:
    """Raises ClocksDiffer if the two clocks certainly differ by more than the skew."""
    if abs(off_ns) > terms.timeouts.skew:
        by_s, skew_s = off_ns / SECOND, terms.timeouts.skew / SECOND
        raise ClocksDiffer(
            f"the solver's clock is {abs(by_s):.1f} s {'ahead of' if by_s > 0 else 'behind'} ours; "
            f"its terms allow {skew_s:g} s",
            by_s=round(by_s, 3),
            skew_s=skew_s,
        )


def which_clock(theirs_s: float, block_s: float, late_s: float | None) -> str:
    """Say which of two clocks is wrong, as far as the chain's newest block can tell.

    A block is dated when it is made, so no right clock is behind it by more than a little.

    Args:
        theirs_s: By how much the peer's clock is ahead of ours.
        block_s: By how much the block's time is ahead of ours.
        late_s: How old the newest block of this chain may be; None if blocks are made only on
            request.
    """
    clocks = (("our clock", block_s), ("the solver's clock", block_s - theirs_s))
    newest = "The chain's newest block is"
    for name, ahead_s in clocks:
        if ahead_s > BLOCK_AHEAD_S:
            return f"{newest} {ahead_s:.0f} s ahead of {name}, so {name} is behind."
    for name, ahead_s in clocks:
        if late_s is not None and -ahead_s > late_s:
            return (
                f"{newest} {-ahead_s:.0f} s behind {name}, so {name} is ahead, or the node has"
                " stopped."
            )
    return "The chain's newest block does not tell which of the two clocks is wrong."


def check_token(terms: Terms, token: NamedToken) -> None:
    """Check that the terms' token is the one that was named. Raises TokenDiffers."""
    theirs = terms.collateral
    if token.address not in (None, theirs.token):
        raise TokenDiffers(terms=theirs.token, named=token.address)
    if theirs.decimals != token.decimals:
        raise TokenDiffers(
            "the terms count the token in other decimals than were named",
            token=theirs.token,
            terms=theirs.decimals,
            named=token.decimals,
        )


def check_orders(
    terms: Terms,
    collaterals: tuple[int, int],
    orders: Sequence[PlannedOrder],
    shown: MarketDataSnapshotFullRefresh | None,
    now: int,
) -> None:
    """Check by the rulebook's own rules that the planned orders fit the terms, and that the first
    fits the collaterals. Raises OrderUnfit, and Declined if a price is needed but none is shown."""
    for order in orders:
        _refuse(order, size_fault(terms, order.symbol, order.quantity))
    if not orders:
        return
    first = orders[0]
    price = first.price
    if price is None:
        instrument = terms.instrument(first.symbol)
        price = None if shown is None else price_of(shown, first.symbol, first.side)
        if price is None or instrument is None:
            raise Declined("the solver shows no price on that side", symbol=first.symbol)
        # This price binds nobody; a firm quote will be on the tick.
        price = max(instrument.tick, price - price % instrument.tick)
    said = NewOrderSingle(
        cl_ord_id="o1",
        symbol=first.symbol,
        side=first.side,
        order_qty=first.quantity,
        ord_type=OrdType.LIMIT,
        position_effect=PositionEffect.OPEN,
        expire_time=now,
        price=price,
    )
    _refuse(first, first_order_fault(terms, collaterals, said, now))


def prices_of(shown: MarketDataSnapshotFullRefresh) -> tuple[int | None, int | None]:
    """The indicative bid and ask, at 18 decimals; None for a side that is not shown.

    Raises Declined for two prices of one side: the solver could win the ranking with one, and be
    measured by the other (`spec.md` 62).
    """
    found: dict[MDEntryType, int] = {}
    for one in shown.no_md_entries:
        if one.md_entry_type in found:
            raise Declined("the solver shows two prices of one side", symbol=ascii(shown.symbol))
        found[one.md_entry_type] = one.md_entry_px
    return found.get(MDEntryType.BID), found.get(MDEntryType.OFFER)


def price_of(shown: MarketDataSnapshotFullRefresh, symbol: str, side: Side) -> int | None:
    """The indicative price at which we would trade, at 18 decimals; None if none is shown. Raises
    as `prices_of`."""
    if shown.symbol != symbol:
        return None
    bid, ask = prices_of(shown)
    return ask if side is Side.BUY else bid


def _refuse(order: PlannedOrder, broken: Violation | None) -> None:
    if broken is not None:
        raise OrderUnfit(
            f"{broken.what}; {broken.remedy}",
            rule=broken.name,
            symbol=order.symbol,
            **{key: value for key, value in broken.values if key not in ("rule", "symbol")},
        )
