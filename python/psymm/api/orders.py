"""A trader's order in progress, and the typed results of asking, ordering and filling."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from psymm.api.amounts import decimal_of
from psymm.errors import Declined
from psymm.messages import (
    MarketDataSnapshotFullRefresh,
    NewOrderSingle,
    OrderCancelReject,
    OrderCancelRequest,
    Side,
)
from psymm.rulebook import OrderStatus
from psymm.session.runtime.preflight import prices_of

if TYPE_CHECKING:
    from psymm.api.trader import Session

BUY, SELL = Side.BUY, Side.SELL
_ENDS: Final = {
    OrderStatus.FILLED: "filled",
    OrderStatus.CANCELLED: "cancelled",
    OrderStatus.DECLINED: "declined",
    OrderStatus.EXPIRED: "expired",
    OrderStatus.REPLACED: "replaced",
}


@dataclass(frozen=True, slots=True)
class Indicative:
    """What a solver shows to anybody; it binds nobody."""

    symbol: str
    bid: Decimal | None
    ask: Decimal | None


@dataclass(frozen=True, slots=True)
class FirmQuote:
    """A firm quote. It can be hit once, before `valid_until_ns`."""

    quote_id: str
    symbol: str
    quantity: Decimal
    bid: Decimal | None
    ask: Decimal | None
    valid_until_ns: int


@dataclass(frozen=True, slots=True)
class Fill:
    """One fill of an order, on the record."""

    price: Decimal
    quantity: Decimal
    exec_id: str


@dataclass(frozen=True, slots=True)
class OrderResult:
    """How an order ended: filled, cancelled, declined, expired."""

    status: str
    filled: Decimal
    average_price: Decimal | None
    reason: str
    fills: tuple[Fill, ...]


class Order:
    """An order in progress: `async for fill in order`, or `await order.result()`."""

    def __init__(self, session: Session, sent: NewOrderSingle) -> None:
        self._session = session
        self.sent = sent

    @property
    def cl_ord_id(self) -> str:
        return self.sent.cl_ord_id

    @property
    def status(self) -> OrderStatus | None:
        """By our account; None until a solver's frame covers the order."""
        return self._session.account.status_of(self.cl_ord_id)

    @property
    def fills(self) -> tuple[Fill, ...]:
        return self._session.fills_of(self.cl_ord_id)

    async def __aiter__(self) -> AsyncIterator[Fill]:
        """Fills as they come, until the order has ended. Cancelled: nothing is lost; the fills are
        in `fills`."""
        shown: list[Fill] = []

        # An end counts too: without it the wait below would last until the order's last moment.
        def more() -> str | None:
            return self._end() or ("more" if len(self.fills) > len(shown) else None)

        while True:
            found = await self._session.next_change(more, until_ns=self._last_moment_ns)
            for fill in self.fills[len(shown) :]:
                shown.append(fill)
                yield fill
            # The last fill and the end may come with one frame: show all fills before stopping.
            if found != "more" and len(self.fills) == len(shown):
                return

    async def result(self) -> OrderResult:
        """Wait until the order has ended: filled completely, declined, cancelled or expired.

        Raises the error that stopped the session. Cancelled: the order stays as it is.
        """
        ended = await self._session.next_change(self._end, until_ns=self._last_moment_ns)
        # The account may be ahead of the reports that we have received.
        await self._session.runner.drain()
        fills, filled, paid = self.fills, Decimal(0), Decimal(0)
        for fill in fills:
            filled += fill.quantity
            paid += fill.price * fill.quantity
        return OrderResult(
            status=ended or "expired",
            filled=filled,
            average_price=paid / filled if filled else None,
            reason=self._session.reason_of(self.cl_ord_id),
            fills=fills,
        )

    async def cancel(self) -> OrderResult:
        """Ask to cancel the rest of the order. A pending order is cancelled by the request alone.

        Raises Declined if the solver keeps the order (a fill may be on its way), Refused, NotNow.
        Cancelled: the request may have gone out.
        """
        session = self._session
        request = session.next_id("c")
        await session.runner.send(
            OrderCancelRequest(cl_ord_id=request, orig_cl_ord_id=self.cl_ord_id)
        )
        # Either may come first: the end of the order, or the solver's refusal to cancel.
        refused = await session.next_change(
            lambda: self._end() or session.cancel_refused(request),
            until_ns=self._last_moment_ns,
        )
        if isinstance(refused, OrderCancelReject):
            raise Declined(
                "the solver does not cancel", order=self.cl_ord_id, reason=refused.text or ""
            )
        return await self.result()

    def _end(self) -> str | None:
        status = self.status
        return None if status is None else _ENDS.get(status)

    @property
    def _last_moment_ns(self) -> int:
        # A fill counts if it was sent in time and covered within T. After that none can come.
        return self.sent.expire_time + self._session.terms.timeouts.acknowledgement


def indicative_of(said: MarketDataSnapshotFullRefresh) -> Indicative:
    bid, ask = (None if one is None else decimal_of(one) for one in prices_of(said))
    return Indicative(said.symbol, bid, ask)
