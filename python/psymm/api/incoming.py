"""What a solver's callbacks get: the session, and the trader's requests and orders to answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from psymm.api.amounts import Number, decimal_of, scaled
from psymm.errors import Refused
from psymm.messages import (
    ExecType,
    ExecutionReport,
    NewOrderSingle,
    OrdRejReason,
    PositionEffect,
    Quote,
    QuoteRequest,
    QuoteRequestReject,
    QuoteRequestRejectReason,
    Side,
)
from psymm.rulebook import Account, LiveOrder
from psymm.session.protocol import SECOND
from psymm.session.runtime.ledger import RulebookLedger
from psymm.session.runtime.protection import Caps, KillSwitch, Protection
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.stats import RunnerStatistics
from psymm.terms import Terms
from psymm.transcript.agreement import TRADER
from psymm.transcript.checkpoint import Point


class SolverSession:
    """One trader's custody, as a callback sees it."""

    def __init__(
        self,
        runner: SessionRunner,
        ledger: RulebookLedger,
        terms: Terms,
        switch: KillSwitch,
        caps: Caps,
        *,
        cancel_on_disconnect: bool,
    ) -> None:
        self.runner = runner
        self.terms = terms
        self._ledger = ledger
        self.protection = runner.guard = Protection(
            switch,
            caps,
            lambda: self.projected,
            lambda: runner.connections,
            self.next_id,
            runner.clock.now_ns,
            cancel_on_disconnect=cancel_on_disconnect,
            fresh=runner.protocol.record.frames == 0,
        )

    @property
    def custody(self) -> bytes:
        return self.runner.agreement.custody

    @property
    def trader(self) -> str:
        """The trader's address."""
        return self.runner.agreement.wallet_address(TRADER)

    @property
    def account(self) -> Account:
        """After our last frame. The trader's copy is the same."""
        return self._ledger.account

    @property
    def projected(self) -> Account:
        """The account with the trader's frames that we have not covered yet."""
        return self._ledger.projected

    def order(self, cl_ord_id: str) -> IncomingOrder | None:
        """The open order with this id. If there is none, the last one with it that was sent after
        the checkpoint at which our record begins; otherwise None."""
        # Not by the trader's messages: an id may come again after its order has ended.
        live = self.projected.orders.get(cl_ord_id)
        if live is not None:
            return IncomingOrder(self, as_sent(live))
        found: IncomingOrder | None = None
        for entry in self.runner.protocol.record:
            said = entry.message
            if isinstance(said, NewOrderSingle) and said.cl_ord_id == cl_ord_id:
                found = IncomingOrder(self, said)
        return found

    async def checkpoint(self) -> Point:
        """Agree with the trader on the account, so that earlier frames need not be kept or shown.

        Returns the checkpoint when it is in force. It counts all that either side has sent by now,
        except Heartbeats. A session also makes one on its own, well before the terms' limits.
        Raises AccountsDiffer, SessionClosed, or the error that stopped the session. Waits as long
        as the trader does not answer. Cancelled: the checkpoint is still made.
        """
        return await self.runner.checkpoint()

    async def rotate_key(self) -> None:
        """Put a new session key in force. A session also does so on its own, well before the
        current key ends. Returns when that is on the record, which needs a connection.

        Raises WalletError (the wallet refuses; the current key stays), SessionClosed, or the error
        that stopped the session. Cancelled: the rotation continues.
        """
        await self.runner.rotate_key()

    def statistics(self) -> RunnerStatistics:
        """What went over this session's connections, and what is waiting."""
        return self.runner.statistics()

    def next_id(self, kind: str) -> str:
        """An id that no earlier frame of ours has: it follows from our lane's head."""
        # Nothing waits between here and the signature, so no two callbacks get one id.
        return f"{kind}{self.runner.protocol.record.head(self.runner.lane).seq + 1}"


@dataclass(frozen=True, slots=True)
class IncomingQuoteRequest:
    """A trader's quote request. side: None asks for both sides."""

    session: SolverSession = field(repr=False)
    request: QuoteRequest = field(repr=False)

    @property
    def symbol(self) -> str:
        return self.request.symbol

    @property
    def quantity(self) -> Decimal:
        return decimal_of(self.request.order_qty)

    @property
    def side(self) -> Side | None:
        return self.request.side

    async def quote(
        self, *, bid: Number | None = None, ask: Number | None = None, valid_s: float = 10
    ) -> None:
        """Quote a firm price for the quantity asked; the trader can hit it once.

        It is signed when this returns, and sent as soon as it is durable.

        Raises Refused (off tick, crossed, too long …), NotNow.
        """
        runner = self.session.runner
        # The rules refuse a longer life.
        life = min(int(valid_s * SECOND), self.session.terms.timeouts.quote_life)
        # No wait: the terms bound how many quotes may be open, so none can pile up.
        runner.post(
            Quote(
                quote_id=self.session.next_id("q"),
                symbol=self.symbol,
                valid_until_time=runner.clock.now_ns() + life,
                quote_req_id=self.request.quote_req_id,
                bid_px=None if bid is None else scaled(bid),
                offer_px=None if ask is None else scaled(ask),
                bid_size=None if bid is None else self.request.order_qty,
                offer_size=None if ask is None else self.request.order_qty,
            ),
            alone=True,
        )

    async def reject(self, why: str = "") -> None:
        """Do not quote. That costs nothing. Raises NotNow. Cancelled: it may be signed."""
        await self.session.runner.send(
            QuoteRequestReject(
                quote_req_id=self.request.quote_req_id,
                quote_request_reject_reason=QuoteRequestRejectReason.OTHER,
                text=why or None,
            )
        )


@dataclass(frozen=True, slots=True)
class IncomingOrder:
    """A trader's order, to open or to close. side: from the trader's view.

    A trader may use an id again once its order has ended (`spec.md` 11). Replies name an order by
    its id alone, so each checks that the id still means this order. Without that, a trader could
    cancel the order that a callback considers, and have its `fill` fill another one.
    """

    session: SolverSession = field(repr=False)
    order: NewOrderSingle = field(repr=False)

    @property
    def cl_ord_id(self) -> str:
        return self.order.cl_ord_id

    @property
    def symbol(self) -> str:
        return self.order.symbol

    @property
    def side(self) -> Side:
        return self.order.side

    @property
    def quantity(self) -> Decimal:
        return decimal_of(self.order.order_qty)

    @property
    def closes(self) -> bool:
        return self.order.position_effect is PositionEffect.CLOSE

    @property
    def quote_id(self) -> str | None:
        """The quote that it hits; None for an order at the trader's own price."""
        return self.order.quote_id

    @property
    def price(self) -> Decimal:
        """The worst price that the trader accepts."""
        live = self._live()
        return decimal_of(self.order.price or 0 if live is None else live.price)

    @property
    def leaves(self) -> Decimal:
        """What is not filled yet; 0 if the order has ended."""
        live = self._live()
        return Decimal(0) if live is None else decimal_of(live.leaves)

    def _live(self) -> LiveOrder | None:
        """The order in the account; None once it has ended."""
        order = self.order
        live = self.session.projected.orders.get(order.cl_ord_id)
        # Two orders that agree in all of this mean the same to a solver.
        if live is None or (
            live.symbol != order.symbol
            or live.side is not order.side
            or live.quantity != order.order_qty
            or live.ord_type is not order.ord_type
            or live.effect is not order.position_effect
            or live.expire_time != order.expire_time
            or live.position_id != order.position_id
            or live.quote_id != order.quote_id
            # An order that hits a quote need not name its price. The account has the quote's.
            or order.price not in (None, live.price)
        ):
            return None
        return live

    def _expect_live(self) -> None:
        """Raises Refused if another order has this id. If none has, the rulebook refuses."""
        if self._live() is None and self.cl_ord_id in self.session.projected.orders:
            raise Refused(
                "this order has ended, and another one has its id now",
                rule="unknown-order",
                message=ExecutionReport.MSG_TYPE,
            )

    async def fill(self, price: Number | None = None, quantity: Number | None = None) -> None:
        """Fill the rest of the order, or `quantity` of it, at the order's price or a better one.

        Raises Refused (more than the rest, worse than the price, margin …), NotNow.
        Cancelled: the fill may be signed, and is sent then.
        """
        last_px = None if price is None else scaled(price)
        last_qty = None if quantity is None else scaled(quantity)
        if last_px is None or last_qty is None:
            live = self._live()
            if last_px is None:
                last_px = self.order.price or 0 if live is None else live.price
            if last_qty is None:
                last_qty = 0 if live is None else live.leaves
        await self._report(exec_type=ExecType.TRADE, last_px=last_px, last_qty=last_qty)

    async def lock(self) -> None:
        """Take a last look: until its ExpireTime the order is ours. Raises Refused, NotNow."""
        await self._report(exec_type=ExecType.NEW)

    async def decline(self, why: str = "") -> None:
        """Decline the rest. That costs nothing until it is filled. Raises Refused, NotNow."""
        await self._report(
            exec_type=ExecType.REJECTED, ord_rej_reason=OrdRejReason.BROKER_OPTION, text=why or None
        )

    async def _report(
        self,
        *,
        exec_type: ExecType,
        last_px: int | None = None,
        last_qty: int | None = None,
        ord_rej_reason: OrdRejReason | None = None,
        text: str | None = None,
    ) -> None:
        await self.session.runner.send(
            ExecutionReport(
                exec_id=self.session.next_id("e"),
                cl_ord_id=self.order.cl_ord_id,
                exec_type=exec_type,
                last_px=last_px,
                last_qty=last_qty,
                ord_rej_reason=ord_rej_reason,
                text=text,
            ),
            self._expect_live,
        )


def as_sent(order: LiveOrder) -> NewOrderSingle:
    """An order of the account, as its trader's message."""
    return NewOrderSingle(
        cl_ord_id=order.cl_ord_id,
        symbol=order.symbol,
        side=order.side,
        order_qty=order.quantity,
        ord_type=order.ord_type,
        position_effect=order.effect,
        expire_time=order.expire_time,
        price=order.price,
        quote_id=order.quote_id,
        position_id=order.position_id,
    )
