"""A trader's session: `async with connect(…) as session`, then quotes, orders, closes, settlement.

The session survives lost connections: what was signed is in the journal and is sent again. A call
that waits for an answer keeps waiting until its own time is up.

Who calls whom: `connect` runs a `TraderSession` in a nursery of its own. The session's events go
through `_EventCache`, which keeps the answers and wakes the calls that wait for them
(`_EventCache.until`). `Session` and `Order` are thin: they sign messages and read the account.

States: `connect` yields when the session is trading or settling. Leaving its block closes the
connection; the custody stays as it is. After that, calls that sign or wait raise.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import Final, TypeVar, cast

import trio

from psymm._core import address_of
from psymm.api.amounts import Number, decimal_of, scaled, token_units, tokens_of
from psymm.api.client import Client, known_solvers
from psymm.api.policy import RoundTrip, TraderPolicy, fees_paid, round_trip
from psymm.chain.registry import RegistryEntry, asking_order
from psymm.chain.rpc import own_deadline
from psymm.errors import (
    Declined,
    Disconnected,
    Leaving,
    NoSolver,
    NotNow,
    PeerSilent,
    PolicyRefused,
    PSymmError,
    SessionClosed,
    TermsChanged,
)
from psymm.journal.codec import JournalledCustody
from psymm.messages import (
    ExecType,
    ExecutionReport,
    MarketDataSnapshotFullRefresh,
    Message,
    NewOrderSingle,
    OrderCancelReject,
    OrderCancelRequest,
    OrdType,
    PositionEffect,
    QuoteRequest,
    QuoteRequestReject,
    Reject,
    Side,
)
from psymm.messages import Quote as QuoteMessage
from psymm.nursery import open_block_nursery
from psymm.rulebook import (
    Account,
    BalanceView,
    Lane,
    OrderStatus,
    Position,
    PositionView,
    balances,
    positions,
)
from psymm.session.protocol import (
    SECOND,
    Event,
    FrameReceived,
    FrameSent,
    FramesRevoked,
    PeerRejected,
    ProvisionalFrame,
    Resumed,
    SessionStatus,
    StatusChanged,
    Stopped,
    TextReceived,
)
from psymm.session.protocol.chain_facts import Mined
from psymm.session.runtime.handshake import Introduced, fresh_nonce
from psymm.session.runtime.idle import IdleEnd
from psymm.session.runtime.ledger import RulebookLedger
from psymm.session.runtime.party import LocalParty
from psymm.session.runtime.preflight import (
    NamedToken,
    PlannedOrder,
    Wanted,
    check_clocks,
    price_of,
    prices_of,
)
from psymm.session.runtime.runner import RunnerStatistics, SessionRunner
from psymm.session.runtime.settlement import SettlementFlow
from psymm.session.runtime.trader import (
    Backoff,
    ConnectionLost,
    Dialer,
    TraderSession,
    ask_price,
    dialer,
    market_data,
    shake_hands,
)
from psymm.session.runtime.transport import GOODBYE_S
from psymm.sockets.dialling import ask_each
from psymm.terms import UNIT, Instrument, Terms
from psymm.transcript.checkpoint import Point
from psymm.waiting import Deadlines, Sleeper

log = logging.getLogger(__name__)

T = TypeVar("T")
QUOTE_S: Final = 10.0
SYNC_S: Final = 60.0
"""Seconds that `settle` waits for a lost connection."""
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
        fills = self.fills
        filled = sum((fill.quantity for fill in fills), Decimal(0))
        paid = sum((fill.price * fill.quantity for fill in fills), Decimal(0))
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


class Session:
    """A custody with one solver; `connect` makes it."""

    def __init__(self, party: LocalParty, runner: SessionRunner, events: _EventCache) -> None:
        ledger = runner.protocol.state.rulebook
        if not isinstance(ledger, RulebookLedger):
            raise TypeError("a session runs on the rulebook")
        self.runner = runner
        self.terms = Terms.parse(runner.agreement.terms)
        self.party = party
        self.policy: TraderPolicy | None = None
        self._ledger = ledger
        self._events = events
        self._settlement_flow: SettlementFlow | None = None

    # --- looking ----------------------------------------------------------------------------

    @property
    def custody(self) -> bytes:
        return self.runner.agreement.custody

    @property
    def solver(self) -> str:
        """The solver's address."""
        return self.runner.agreement.wallet_address(Lane.SOLVER)

    @property
    def state(self) -> SessionStatus:
        return self.runner.protocol.status

    @property
    def account(self) -> Account:
        """After the solver's last frame. The solver's copy is the same."""
        return self._ledger.account

    @property
    def balances(self) -> BalanceView:
        """Our balances by the account, in the terms' words."""
        return balances(self.account, Lane.TRADER)

    @property
    def positions(self) -> tuple[PositionView, ...]:
        return positions(self.account, Lane.TRADER)

    @property
    def acknowledgement_s(self) -> float:
        """T of the terms, in seconds. For this long either side can hold a frame back and still
        have it count from when it says that it was sent. Price in what the market can do in that
        time."""
        return self.terms.timeouts.acknowledgement / SECOND

    def statistics(self) -> RunnerStatistics:
        """What went over this session's connections, and what is waiting."""
        return self.runner.statistics()

    @property
    def losses(self) -> int:
        """How often the connection was lost."""
        return self._events.losses

    def fills_of(self, cl_ord_id: str) -> tuple[Fill, ...]:
        """All fills of an order that are in the account, in order."""
        return tuple(
            Fill(decimal_of(said.last_px or 0), decimal_of(said.last_qty or 0), said.exec_id)
            for said in self._events.reports.get(cl_ord_id, ())
            if said.exec_type is ExecType.TRADE
        )

    def reason_of(self, cl_ord_id: str) -> str:
        said = self._events.reports.get(cl_ord_id, ())
        return next((each.text for each in reversed(said) if each.text), "")

    def cancel_refused(self, request: str) -> OrderCancelReject | None:
        return self._events.cancels.get(request)

    def next_id(self, kind: str) -> str:
        """An id that no earlier frame of ours has: it follows from our lane's head."""
        return f"{kind}{self.runner.protocol.record.head(self.runner.lane).seq + 1}"

    async def next_change(
        self, found: Callable[[], T | None], *, until_ns: int | None = None
    ) -> T | None:
        """Wait until `found` returns something, or until the time has come (then None). Raises the
        error that stopped the session, SessionClosed. Cancelled: raises Cancelled."""
        return await self._events.until(found, self._seconds_to(until_ns))

    def _seconds_to(self, until_ns: int | None) -> float:
        if until_ns is None:
            return float("inf")
        return max(0.0, (until_ns - self.party.clock.now_ns()) / SECOND)

    # --- trading ----------------------------------------------------------------------------

    async def indicative(self, symbol: str, timeout_s: float = QUOTE_S) -> Indicative:
        """The solver's current prices. Raises PeerSilent, NotNow, and Declined if it shows two
        prices of one side. Cancelled: the answer is dropped."""
        request = f"v{self._events.count}"
        await self.runner.send_text(market_data(request, [symbol]))
        found = await self._events.until(
            lambda: self._events.snapshots.pop((request, symbol), None), timeout_s
        )
        if found is None:
            raise PeerSilent("no price came", symbol=symbol, waited_s=timeout_s)
        return _indicative(found)

    async def request_quote(
        self,
        symbol: str,
        quantity: Number,
        side: Side | None = None,
        timeout_s: float = QUOTE_S,
    ) -> FirmQuote:
        """Ask for a firm quote.

        Raises Declined, PeerSilent, Refused, NotNow, and Disconnected if the connection is lost and
        does not come back within `timeout_s`.
        Cancelled: the request stays on the record, and its quote can still be hit.
        """
        await self._when_synced(timeout_s)
        request = self.next_id("r")
        # `post`, not `send`: an answer proves that the request was durable, so do not wait twice.
        self.runner.post(
            QuoteRequest(
                quote_req_id=request,
                symbol=symbol,
                order_qty=scaled(quantity),
                side=side,
                expire_time=self.party.clock.now_ns()
                # The rules give a request no longer than a quote.
                + min(int(timeout_s * SECOND), self.terms.timeouts.quote_life),
            )
        )
        answer = await self._events.until(lambda: self._events.quotes.get(request), timeout_s)
        if answer is None:
            raise PeerSilent("no quote came", symbol=symbol, waited_s=timeout_s)
        if isinstance(answer, QuoteRequestReject):
            raise Declined("the solver does not quote", reason=answer.text or "")
        assert isinstance(answer, QuoteMessage)  # noqa: S101
        return FirmQuote(
            quote_id=answer.quote_id,
            symbol=answer.symbol,
            quantity=Decimal(quantity),
            bid=None if answer.bid_px is None else decimal_of(answer.bid_px),
            ask=None if answer.offer_px is None else decimal_of(answer.offer_px),
            valid_until_ns=answer.valid_until_time,
        )

    async def order(
        self,
        side: Side,
        symbol: str,
        quantity: Number,
        *,
        price: Number | None = None,
        quote: FirmQuote | None = None,
        expires_in_s: float = 30,
    ) -> Order:
        """Send an order to open: at a limit `price`, or hitting a `quote`, or both. Returns when it
        is durable and on its way.

        Raises PolicyRefused if the policy names instruments and this is not one of them, Refused
        (margin, tick, an expired quote …), NotNow, SessionClosed, and Disconnected if the
        connection is lost and does not come back within `expires_in_s`. Then nothing was signed.
        Cancelled: it may be signed.
        """
        if self.policy is not None and self.policy.symbols and symbol not in self.policy.symbols:
            # We held only the named instruments to the policy's limits.
            raise PolicyRefused("symbol", symbol, ", ".join(self.policy.symbols))
        return await self._send(
            side, symbol, quantity, PositionEffect.OPEN, price, quote, None, expires_in_s
        )

    async def close(
        self,
        position: Position | PositionView | bytes,
        *,
        price: Number | None = None,
        quote: FirmQuote | None = None,
        quantity: Number | None = None,
        expires_in_s: float = 30,
    ) -> Order:
        """Send an order to close a position, or `quantity` of it. Raises as `order`."""
        key = _position_id(position)
        held = self.account.positions.get(key)
        if held is None:
            raise NotNow("no such position is open", position=key)
        return await self._send(
            SELL if held.side is BUY else BUY,
            held.symbol,
            decimal_of(held.quantity) if quantity is None else quantity,
            PositionEffect.CLOSE,
            price,
            quote,
            key,
            expires_in_s,
        )

    async def _send(
        self,
        side: Side,
        symbol: str,
        quantity: Number,
        effect: PositionEffect,
        price: Number | None,
        quote: FirmQuote | None,
        position: bytes | None,
        expires_in_s: float,
    ) -> Order:
        """Sign an order and return it; see `order` for what is raised."""
        if price is None and quote is None:
            raise ValueError("an order needs a price or a quote")
        # The hit names its price, so that it cannot mean another quote of the same id.
        if price is None and quote is not None:
            price = quote.ask if side is Side.BUY else quote.bid
        await self._when_synced(expires_in_s)
        order = NewOrderSingle(
            cl_ord_id=self.next_id("o"),
            symbol=symbol,
            side=side,
            order_qty=scaled(quantity),
            ord_type=OrdType.LIMIT if quote is None else OrdType.PREVIOUSLY_QUOTED,
            position_effect=effect,
            expire_time=self.party.clock.now_ns() + int(expires_in_s * SECOND),
            price=None if price is None else scaled(price),
            quote_id=None if quote is None else quote.quote_id,
            position_id=position,
        )
        await self.runner.send(order)
        return Order(self, order)

    async def _when_synced(self, within_s: float) -> None:
        """Wait for a lost connection to come back; nothing is signed in between."""
        if self.runner.protocol.synced:
            return
        synced = await self._events.until(lambda: self.runner.protocol.synced or None, within_s)
        if synced is None:
            lost = self._events.lost
            raise Disconnected(
                "the connection is lost and did not come back in time; nothing was signed",
                waited_s=within_s,
                reason="none" if lost is None else lost.code,
            )

    # --- ending -----------------------------------------------------------------------------

    async def settle(self) -> Settled:
        """Settle the flat account on chain: both sides are paid, or neither.

        Raises NotNow if something is open, SettlementRefused, PeerSilent, Disconnected, and what
        proving and sending raise.
        Cancelled: what was signed can be used until its deadline, and continues when the session is
        resumed.
        """
        if self._settlement_flow is None:
            raise NotNow("the session has ended")
        await self._when_synced(SYNC_S)
        mined = await self._settlement_flow.settle()
        payout = self.account.payouts[Lane.TRADER]
        # The end is on chain already. Give both sides a few heartbeats to say so on the record.
        await self._events.until(
            lambda: True if self.state is SessionStatus.CLOSED else None,
            float(self.terms.timeouts.heartbeat / SECOND) * 4,
            even_closed=True,
        )
        decimals = self.terms.collateral.decimals
        return Settled(
            payout=tokens_of(payout, decimals),
            gain=tokens_of(payout - self.account.collateral(Lane.TRADER), decimals),
            mined=mined,
        )

    async def checkpoint(self) -> Point:
        """Agree with the solver on the account, so that earlier frames need not be kept or shown.

        Returns the checkpoint when it is in force. It counts all that either side has sent by now,
        except Heartbeats. A session also makes one on its own, well before the terms' limits.
        Raises AccountsDiffer, SessionClosed, or the error that stopped the session. Waits as long
        as the solver does not answer. Cancelled: the checkpoint is still made.
        """
        return await self.runner.checkpoint()

    async def rotate_key(self) -> None:
        """Put a new session key in force. A session also does so on its own, well before the
        current key ends. Returns when that is on the record, which needs a connection.

        Raises WalletError (the wallet refuses; the current key stays), SessionClosed, or the error
        that stopped the session. Cancelled: the rotation continues.
        """
        await self.runner.rotate_key()

    async def log_out(self, reason: str = "") -> None:
        """Open nothing more, for good: orders that wait to open are cancelled. Positions can still
        be closed and the custody settled, now or after a resume. The solver logs out too. Raises
        NotNow, SessionClosed. Cancelled: it may be signed."""
        await self.runner.log_out(reason)


@dataclass(frozen=True, slots=True)
class Settled:
    """What a settlement paid.

    Attributes:
        payout: In whole tokens, before the relayer's fee.
        gain: What the payout exceeds our collateral by.
    """

    payout: Decimal
    gain: Decimal
    mined: Mined


class _EventCache:
    """What the session's events left, for the calls that wait.

    States: `failed` once the session has stopped, `closed` once the custody has ended. Waiting
    calls then raise, except those with `even_closed`.
    """

    def __init__(self, deadlines: Deadlines) -> None:
        self.quotes: dict[str, QuoteMessage | QuoteRequestReject] = {}
        self.reports: dict[str, list[ExecutionReport]] = {}
        self.cancels: dict[str, OrderCancelReject] = {}
        self.snapshots: dict[tuple[str, str], MarketDataSnapshotFullRefresh] = {}
        self.rejects: list[Reject] = []
        self.losses = 0
        self.lost: PSymmError | None = None
        self.count = 0
        self.failed: PSymmError | None = None
        self.closed = False
        self.state: SessionStatus | None = None
        self.settlement_flow: SettlementFlow | None = None
        self.listeners: list[Callable[[Event | ConnectionLost], None]] = []
        self._deadlines = deadlines
        self._waiting: dict[_Wait, None] = {}

    def on_event(self, event: Event | ConnectionLost) -> None:
        """Keep what an event brings, pass it on, and wake the calls that wait for it. The runner
        takes an error here for a bug and ends the session."""
        self.count += 1
        match event:
            case ProvisionalFrame(entry):
                self._offered(entry.message)
            case FrameReceived(entry, None):
                self._received(entry.message)
            case TextReceived(MarketDataSnapshotFullRefresh() as said):
                self.snapshots[said.md_req_id, said.symbol] = said
                # Prices that nobody took must not fill memory.
                if len(self.snapshots) > 1024:
                    del self.snapshots[next(iter(self.snapshots))]
            case PeerRejected(reject, _):
                self.rejects.append(reject)
            case FramesRevoked(entries, _):
                for entry in entries:
                    self._undone(entry.message)
            case ConnectionLost(reason):
                self.losses += 1
                self.lost = reason
            case StatusChanged(state):
                self.state = state
                self.closed = state is SessionStatus.CLOSED
            case Stopped(error):
                self.failed = error
            case Resumed() | _:
                pass
        # Before the listeners and waiting calls, so that they see the settlement's new state.
        if self.settlement_flow is not None and not isinstance(event, ConnectionLost):
            self.settlement_flow.on_event(event)
        for listener in self.listeners:
            listener(event)
        if not isinstance(event, FrameSent):
            # Our own frame takes effect with the solver's next one: no call waits for it.
            self.wake()

    def _offered(self, message: Message | None) -> None:
        match message:
            case QuoteMessage(quote_req_id=str(asked)):
                self.quotes[asked] = message
            case QuoteRequestReject():
                self.quotes[message.quote_req_id] = message
            case _:
                pass

    def _received(self, message: Message | None) -> None:
        match message:
            case ExecutionReport():
                self.reports.setdefault(message.cl_ord_id, []).append(message)
            case OrderCancelReject():
                self.cancels[message.cl_ord_id] = message
            case _:
                pass

    def _undone(self, message: Message | None) -> None:
        """A revoked key of the solver's signed this, so it is off the record."""
        match message:
            case QuoteMessage(quote_req_id=str(asked)):
                self.quotes.pop(asked, None)
            case QuoteRequestReject():
                self.quotes.pop(message.quote_req_id, None)
            case ExecutionReport():
                # One that broke a rule was never kept.
                with suppress(ValueError):
                    self.reports.get(message.cl_ord_id, []).remove(message)
            case OrderCancelReject():
                self.cancels.pop(message.cl_ord_id, None)
            case _:
                pass

    def wake(self) -> None:
        """Wake the calls whose answer is here now. The others keep sleeping, at no cost."""
        for wait in list(self._waiting):
            # `found` may raise. Its own call gets the error, and no other.
            try:
                wait.value = self._look(wait.found, wait.even_closed)
            except Exception as error:
                wait.error = error
            if wait.value is not None or wait.error is not None:
                del self._waiting[wait]
                wait.wake()

    async def until(
        self, found: Callable[[], T | None], timeout_s: float, *, even_closed: bool = False
    ) -> T | None:
        """Return what `found` returns when that is not None; None after `timeout_s`. `found` is
        called with each event. Raises what ended the session, and what `found` raises.
        Cancelled: raises Cancelled."""
        # Look first: the answer may be here already, and then no event will come.
        value = self._look(found, even_closed)
        if value is not None or timeout_s <= 0:
            return value
        wait = _Wait(found, even_closed)
        self._waiting[wait] = None
        if timeout_s < float("inf"):
            self._deadlines.add(trio.current_time() + timeout_s, wait)
        try:
            await wait.sleep()
        finally:
            self._waiting.pop(wait, None)
        if wait.error is not None:
            raise wait.error
        return cast("T | None", wait.value)

    def _look(self, found: Callable[[], T | None], even_closed: bool) -> T | None:
        value = found()
        # An answer that is here counts, even after the session has ended.
        if value is None:
            if self.failed is not None:
                raise self.failed
            if self.closed and not even_closed:
                raise SessionClosed()
        return value


class _Wait(Sleeper):
    """One call of `until`, and its result."""

    __slots__ = ("error", "even_closed", "found", "value")

    def __init__(self, found: Callable[[], object], even_closed: bool) -> None:
        super().__init__()
        self.found = found
        self.even_closed = even_closed
        self.value: object = None
        self.error: Exception | None = None


@asynccontextmanager
async def connect(
    client: Client | LocalParty,
    solver: Offer | RegistryEntry | str,
    *,
    collateral: Number = 0,
    policy: TraderPolicy | None = None,
    expected: bytes | None = None,
    resume: JournalledCustody | None = None,
    tls: ssl.SSLContext | None = None,
    plain: bool = False,
    dial: Dialer | None = None,
    on_event: Callable[[Event | ConnectionLost], None] | None = None,
    backoff: Backoff | None = None,
    decimals: int | None = None,
    token: str | None = None,
    orders: Sequence[PlannedOrder] = (),
    timeout_s: float = 600,
) -> AsyncGenerator[Session, None]:
    """Meet a solver, put up `collateral`, and trade when both sides have accepted.

    Before funding, `psymm.session.runtime.preflight` checks all that can be known: token, policy,
    promises, clocks, orders, own funds, relayer. If a check fails, nothing is kept.

    Leaving the block covers what the solver did, so that its fills count, and closes the
    connection: within six seconds, or at once if there is no connection. The custody stays as it is
    and can be resumed. An error that leaves it open has a note with its id and what is in it.

    Raises TokenUnnamed, WrongParty, BadIntroduction, TermsRefused and its subclasses (TokenDiffers,
    TermsChanged, PolicyRefused), HandshakeRefused and its subclasses (ClocksDiffer, OrderUnfit),
    PeerRefused, FundsTooLow, NoRelayer, FeeTooHigh, CollateralRefused and its subclasses,
    PeerSilent, Disconnected, and what funding raises; AttemptEnded if a custody exists already and
    trying again would not help.
    Cancelled: as leaving the block.

    Args:
        solver: An offer of `best_solver`, and we demand its terms by their hash; or an entry of the
            registry, and we demand its key; or an endpoint, with `expected`.
        collateral: Whole tokens.
        policy: What the terms must keep (`spec.md` 62). Default: `TraderPolicy()`.
        expected: The solver's public key, for an endpoint.
        resume: A custody of the journal to continue. It keeps the terms that it began with, and
            the policy is not checked again.
        plain: Also reach ws:// endpoints on other machines.
        on_event: Receives every event.
        decimals: The token's, if the policy does not say them.
        token: The collateral's symbol or address, if the policy does not say it. Token and decimals
            may both be left out if the deployment lists one token only.
        orders: What you mean to send; see `planned`.
        timeout_s: For handshake, funding and verifying together.
    """
    party = client.party if isinstance(client, Client) else client
    shown = solver.terms.hash if isinstance(solver, Offer) else None
    entry = solver.entry if isinstance(solver, Offer) else solver
    endpoint = entry if isinstance(entry, str) else entry.endpoint
    peer = expected if isinstance(entry, str) else entry.public_key
    # An endpoint that the caller names itself may be anywhere.
    near = party.dials_private or isinstance(entry, str)
    amount, wanted = 0, Wanted()
    if resume is None:
        policy, named = _policy_of(party, policy, token, decimals)
        amount = token_units(collateral, named.decimals)
        wanted = Wanted(named, orders, partial(_accept, party, policy, shown))
    else:
        policy = None
        log.info(
            "terms-kept",
            extra={
                "custody": "0x" + resume.agreement.custody.hex(),
                "terms": "0x" + resume.agreement.terms_hash.hex(),
                "note": "a custody keeps the terms that it began with; the policy is not asked",
            },
        )
    events = _EventCache(party.rounds.deadlines)
    if on_event is not None:
        events.listeners.append(on_event)
    trader = TraderSession(
        party,
        dial or dialer(endpoint, tls, plain=plain, private=near),
        events.on_event,
        expected=peer,
        collateral=amount,
        endpoint=endpoint,
        resume=resume,
        backoff=backoff,
        wanted=wanted,
    )
    try:
        async with _connected(party, trader, events, timeout_s) as session:
            session.policy = policy
            yield session
    except BaseException as error:
        _show_tokens(party, error, wanted.token or _token_of(resume))
        # The user must learn of collateral that stays in a custody.
        left = trader.left_open()
        if left is not None:
            error.add_note(str(left))
        raise
    left = trader.left_open()
    if left is not None:
        log.warning("left-open", extra=left.fields())


@asynccontextmanager
async def _connected(
    party: LocalParty, client: TraderSession, events: _EventCache, timeout_s: float
) -> AsyncGenerator[Session, None]:
    """The session of `connect`, from its first connection to its goodbye."""
    ended: list[Exception] = []
    finished = trio.Event()

    async def run(
        *, task_status: trio.TaskStatus[SessionRunner] = trio.TASK_STATUS_IGNORED
    ) -> None:
        try:
            await client.run(task_status=task_status)
        except Exception as failed:
            while isinstance(failed, ExceptionGroup):
                failed = failed.exceptions[0]
            # Before the session exists, `nursery.start` raises the error to the caller. Later, the
            # waiting calls do.
            if client.runner is None:
                raise failed from None
            ended.append(failed)
            events.failed = failed if isinstance(failed, PSymmError) else Disconnected(str(failed))
        finally:
            # It may have ended before the cache received any event.
            events.closed |= client.runner is not None and client.runner.protocol.ended
            finished.set()
        events.wake()

    opened: PSymmError | None = None
    async with open_block_nursery() as nursery:
        session: Session | None = None
        try:
            with own_deadline(), trio.fail_after(timeout_s):
                end = await nursery.start(run)
                session = Session(party, end, events)
                session._settlement_flow = events.settlement_flow = SettlementFlow(
                    end, session.terms, nursery, lambda: session_projected(end), cache_failed
                )
                idle = IdleEnd(
                    end,
                    session.terms,
                    lambda: session_projected(end),
                    session._settlement_flow.settle,
                    events.on_event,
                    cache_failed,
                )
                nursery.start_soon(idle.run)
                # A resumed custody may be settling already; then there is nothing to wait for.
                await events.until(
                    lambda: (
                        True
                        if end.protocol.status in (SessionStatus.TRADING, SessionStatus.SETTLING)
                        else None
                    ),
                    float("inf"),
                )
        except trio.TooSlowError:
            opened = PeerSilent("the session did not open in time", waited_s=timeout_s)
        except PSymmError as failed:
            opened = failed
        try:
            if opened is None and session is not None:
                yield session
        finally:
            # Without a connection there is nobody to say goodbye to.
            stands = client.runner is not None and client.runner.attached
            client.leave(Leaving())
            # Shielded while connected: a cancelled caller still covers the solver's fills.
            with trio.move_on_after(GOODBYE_S + 1 if stands else 0, shield=stands):
                await finished.wait()
            nursery.cancel_scope.cancel()
            # Calls that still wait on the session must learn that nothing more will come.
            events.failed = events.failed or SessionClosed("its block was left")
            events.wake()
    if opened is not None:
        raise opened


def planned(side: Side, symbol: str, quantity: Number, price: Number | None = None) -> PlannedOrder:
    """An order for `connect` to check before funding. price: the worst acceptable one; None: about
    what the solver shows. Raises as `scaled`."""
    return PlannedOrder(symbol, side, scaled(quantity), None if price is None else scaled(price))


def _policy_of(
    party: LocalParty, policy: TraderPolicy | None, token: str | None, decimals: int | None
) -> tuple[TraderPolicy, NamedToken]:
    """The policy with token and decimals filled in, and that token as the user calls it.

    Raises TokenUnnamed, TokenDiffers."""
    policy = TraderPolicy() if policy is None else policy
    policy = replace(
        policy,
        token=token if policy.token is None else policy.token,
        decimals=decimals if policy.decimals is None else policy.decimals,
    ).for_token(party.tokens)
    assert policy.decimals is not None  # noqa: S101
    return policy, NamedToken(policy.token, policy.decimals, _symbol_of(party, policy.token))


def _symbol_of(party: LocalParty, token: str | None) -> str | None:
    return next((one.symbol for one in party.tokens if one.address == token), None)


def _token_of(resumed: JournalledCustody | None) -> NamedToken | None:
    if resumed is None:
        return None
    collateral = Terms.parse(resumed.agreement.terms).collateral
    return NamedToken(collateral.token, collateral.decimals)


def _show_tokens(party: LocalParty, error: BaseException, token: NamedToken | None) -> None:
    """Make an error state amounts in whole tokens."""
    if isinstance(error, PSymmError) and token is not None:
        symbol = token.symbol or _symbol_of(party, token.address)
        error.in_tokens(token.decimals, symbol or "tokens")


def _accept(
    party: LocalParty,
    policy: TraderPolicy,
    shown: bytes | None,
    introduced: Introduced,
    terms: Terms,
) -> None:
    """Check a new handshake against the offer and the policy, before anything is kept or funded."""
    if shown is not None and terms.hash != shown:
        raise TermsChanged(shown=shown, now=terms.hash)
    ours, theirs = introduced.collaterals
    policy.check(terms, now_ns=party.clock.now_ns(), collateral=ours, solver_collateral=theirs)


def session_projected(runner: SessionRunner) -> Account:
    """The account with the trader's pending frames."""
    ledger = runner.protocol.state.rulebook
    if not isinstance(ledger, RulebookLedger):
        raise TypeError("a session runs on the rulebook")
    return ledger.projected


def cache_failed(error: PSymmError) -> None:
    """Does nothing: `settle` itself raises the refusals of a settlement to its caller."""


# --- choosing -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offer:
    """The offer of a solver that answered.

    Attributes:
        price: Its indicative ask for a buy, bid for a sell.
        all_in: The price with both fees, by which offers are ranked: more for a buy, less for a
            sell.
        cost: Of opening and closing one unit at the prices shown; None if only one is shown. Fees
            that the solver would pay the trader count as nothing.
    """

    entry: RegistryEntry
    terms: Terms = field(repr=False)
    indicative: Indicative
    price: Decimal
    all_in: Decimal
    cost: RoundTrip | None


@dataclass(frozen=True, slots=True)
class Ranking:
    """The result of asking several solvers.

    Attributes:
        offers: Best first.
        failures: (account, error) of those that made no offer.
        not_asked: How many more there were than we dial for one question.
    """

    offers: tuple[Offer, ...]
    failures: tuple[tuple[str, PSymmError], ...]
    not_asked: int = 0

    @property
    def best(self) -> Offer:
        """The first offer. Raises NoSolver."""
        if not self.offers:
            said = "; ".join(f"{account}: {error}" for account, error in self.failures)
            if self.not_asked:
                said += f"; {self.not_asked} more were not asked, ask again for others"
            raise NoSolver(said)
        return self.offers[0]


async def best_solver(
    client: Client | LocalParty,
    solvers: Sequence[RegistryEntry],
    symbol: str,
    side: Side,
    *,
    collateral: Number | None = None,
    policy: TraderPolicy | None = None,
    decimals: int | None = None,
    token: str | None = None,
    timeout_s: float = 5,
    tls: ssl.SSLContext | None = None,
    plain: bool = False,
    dial: Callable[[RegistryEntry], Dialer] | None = None,
) -> Ranking:
    """Ask solvers for terms and an indicative price, and rank them by price after fees.

    We ask solvers first that we dealt with before. At most 16 are dialled at once and 64 in all,
    each for `timeout_s`. Private addresses are dialled only if the party allows it. Give `connect`
    the offer, so that the terms shown here are the terms there.

    Raises TokenUnnamed, but nothing for what one solver does: that is in `failures`.
    Cancelled: raises Cancelled; the connections are closed.

    Args:
        collateral: What you mean to put up, in whole tokens, for the limits that are shares of it.
        policy: As in `connect`. A solver that breaks it is a failure and not ranked.
    """
    party = client.party if isinstance(client, Client) else client
    policy, named = _policy_of(party, policy, token, decimals)
    amount = None if collateral is None else token_units(collateral, named.decimals)
    offers: list[Offer] = []
    failures: list[tuple[str, PSymmError]] = []

    async def ask(entry: RegistryEntry) -> None:
        reach = (
            dialer(entry.endpoint, tls, plain=plain, private=party.dials_private)
            if dial is None
            else dial(entry)
        )
        try:
            with trio.fail_after(timeout_s):
                async with reach() as socket:
                    met = await shake_hands(party, socket, entry.public_key, 0, fresh_nonce())
                    instrument = met.terms.instrument(symbol)
                    if instrument is None:
                        raise Declined("the terms have no such instrument", symbol=symbol)
                    check_clocks(met.clock_off_ns, met.terms)
                    policy.check(met.terms, now_ns=party.clock.now_ns(), collateral=amount)
                    said = await ask_price(socket, symbol)
            found = price_of(said, symbol, side)
            if not found:
                # Nobody sells for nothing. A price of zero is only shown to be ranked first.
                raise Declined("no price on that side", symbol=symbol)
            shown, price = _indicative(said), decimal_of(found)
            policy.check_prices(instrument, shown.bid, shown.ask)
            cost = None
            if shown.bid is not None and shown.ask is not None:
                cost = round_trip(instrument, side, 1, shown.bid, shown.ask)
            all_in = _after_fees(instrument, side, price)
            offers.append(Offer(entry, met.terms, shown, price, all_in, cost))
        except trio.TooSlowError:
            failures.append((entry.account, PeerSilent("no answer", waited_s=timeout_s)))
        except PSymmError as failed:
            _show_tokens(party, failed, named)
            failures.append((entry.account, failed))

    # A party that is both trader and solver must not choose itself.
    ours = address_of(party.wallet.public_key)
    others = [entry for entry in solvers if address_of(entry.public_key) != ours]
    left = await ask_each(asking_order(others, await known_solvers(party.journal)), ask)
    # Ties by account, so that the order does not depend on who answered first.
    offers.sort(
        key=lambda offer: (offer.all_in if side is BUY else -offer.all_in, offer.entry.account)
    )
    return Ranking(tuple(offers), tuple(failures), len(left))


def _after_fees(instrument: Instrument, side: Side, price: Decimal) -> Decimal:
    """The price with both fees, to 18 places, rounded against the trader."""
    fees = sum(fees_paid(instrument))
    if side is BUY:
        return decimal_of(-(-scaled(price) * (UNIT + fees) // UNIT))
    return decimal_of(scaled(price) * (UNIT - fees) // UNIT)


def _indicative(said: MarketDataSnapshotFullRefresh) -> Indicative:
    bid, ask = (None if one is None else decimal_of(one) for one in prices_of(said))
    return Indicative(said.symbol, bid, ask)


def _position_id(position: Position | PositionView | bytes) -> bytes:
    if isinstance(position, bytes):
        return position
    if isinstance(position, PositionView):
        return bytes.fromhex(position.position_id[2:])
    return position.position_id
