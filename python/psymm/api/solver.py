"""A solver as a class with a few callbacks.

Override the callbacks that you trade with. Everything else (sessions, collateral, journal,
settlement, reconnects) works without you. If a callback raises, what it was asked for is declined,
other sessions are not affected, and the error's type is logged.

Who calls whom: `SolverServer` calls `Solver.session` for each session and sends its events to a
`_Dispatch`. The dispatch turns events into callbacks, each in a worker task. A callback answers
through `IncomingQuoteRequest` or `IncomingOrder`, which sign with the session's runner. The
session's `Protection` checks each signature, so a callback cannot get past the brakes.

States that matter to a callback: while heads do not agree nothing can be signed. On `Resumed` the
dispatch first signs what makes us safe again (`_resumed`), then looks at orders that still wait for
an answer (`_catch_up`). After `leave` no callback begins.

What is durable when: a callback may begin while the request is on its way to our disk. Its answer
is written after the request, so a crash loses the answer or both, and never the request alone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Final

import trio

from psymm.api.amounts import Number, decimal_of, scaled, token_units
from psymm.api.client import Client
from psymm.api.policy import SolverPolicy
from psymm.errors import (
    NotNow,
    PSymmError,
    SessionClosed,
    SessionError,
    TradingHalted,
    clip,
)
from psymm.messages import (
    CxlRejReason,
    CxlRejResponseTo,
    ExecType,
    ExecutionReport,
    MarketDataRequest,
    MarketDataSnapshotFullRefresh,
    MDEntry,
    MDEntryType,
    Message,
    NewOrderSingle,
    OrderCancelReject,
    OrderCancelRequest,
    OrdRejReason,
    PositionEffect,
    Quote,
    QuoteRequest,
    QuoteRequestReject,
    QuoteRequestRejectReason,
    Side,
)
from psymm.nursery import start_task
from psymm.rulebook import Account, LiveOrder, OrderStatus
from psymm.session.protocol import (
    SECOND,
    Event,
    FrameReceived,
    FramesRevoked,
    HeadsDiffer,
    Idle,
    KeyFailing,
    KeyRefused,
    ProvisionalFrame,
    Resumed,
    SessionStatus,
    StatusChanged,
    Stopped,
    TextReceived,
)
from psymm.session.runtime.idle import IdleEnd
from psymm.session.runtime.ledger import RulebookLedger
from psymm.session.runtime.party import LocalParty
from psymm.session.runtime.protection import Caps, KillSwitch, Protection, kill_switch_of
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.settlement import SettlementFlow
from psymm.session.runtime.solver import DISK_FLOOR, ServerStatistics, SolverServer
from psymm.session.runtime.stats import RunnerStatistics
from psymm.sockets.admission import AdmissionLimits
from psymm.sockets.serving import Tls
from psymm.terms import Terms
from psymm.transcript.agreement import TRADER
from psymm.transcript.checkpoint import Point
from psymm.typed_message import TypedMessage
from psymm.waiting import Workers
from psymm.wallet import derive_secret

log = logging.getLogger(__name__)

LOOK_S: Final = 0.5
"""Seconds between two looks at the kill switch while nothing is signed. Each signature looks, too.
"""
LEAVE_S: Final = 5.0
"""Seconds that running callbacks may take after the solver begins to leave."""
MOST_AT_ONCE: Final = 256
"""Callbacks of one session that may run at once. Beyond that we decline."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices at which we would buy and sell; None: not at all."""

    bid: Number | None
    ask: Number | None
    size: Number | None = None


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
        """An order by its id, if it is open or was sent after the checkpoint at which our record
        begins; otherwise None."""
        # The record has the trader's own message. The account has all that a reply needs.
        for entry in self.runner.protocol.record:
            said = entry.message
            if isinstance(said, NewOrderSingle) and said.cl_ord_id == cl_ord_id:
                return IncomingOrder(self, said)
        live = self.projected.orders.get(cl_ord_id)
        return None if live is None else IncomingOrder(self, _as_sent(live))

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

        Raises Refused (off tick, crossed, too long …), NotNow. Cancelled: it may be signed.
        """
        runner = self.session.runner
        # The rules refuse a longer life.
        life = min(int(valid_s * SECOND), self.session.terms.timeouts.quote_life)
        await runner.send(
            Quote(
                quote_id=self.session.next_id("q"),
                symbol=self.symbol,
                valid_until_time=runner.clock.now_ns() + life,
                quote_req_id=self.request.quote_req_id,
                bid_px=None if bid is None else scaled(bid),
                offer_px=None if ask is None else scaled(ask),
                bid_size=None if bid is None else self.request.order_qty,
                offer_size=None if ask is None else self.request.order_qty,
            )
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
    """A trader's order, to open or to close. side: from the trader's view."""

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
        return self.session.projected.orders.get(self.order.cl_ord_id)

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
            )
        )


class Solver:
    """Subclass it, override the callbacks, `await serve(…)`.

    Attributes:
        leaving: `leave` was called: no callback begins any more.

    Args:
        terms: The terms of every new custody.
        collateral: Whole tokens that we put up against each trader; at least the terms' minimum.
        policy: Which traders we accept, and what we put up against what.
        cancel_on_disconnect: Quotes do not outlive a lost connection. On resuming we cancel them,
            and decline orders that hit one meanwhile, before we sign anything for the application.
        caps: Market-maker protection of each session.
        limits: Who may connect.
        disk_floor: Bytes that must be free on the journal's disk before we accept a new trader.
        kill_switch: By default a file next to the journal.
    """

    def __init__(
        self,
        client: Client | LocalParty,
        terms: Terms,
        *,
        collateral: Number,
        policy: SolverPolicy | None = None,
        cancel_on_disconnect: bool = True,
        caps: Caps | None = None,
        limits: AdmissionLimits | None = None,
        disk_floor: int = DISK_FLOOR,
        kill_switch: KillSwitch | None = None,
    ) -> None:
        self.party = client.party if isinstance(client, Client) else client
        self.terms = terms
        self.sessions: dict[bytes, SolverSession] = {}
        self._collateral = token_units(collateral, terms.collateral.decimals)
        self.policy = policy or SolverPolicy()
        self.kill_switch = kill_switch or kill_switch_of(self.party.journal.path)
        self._cancel_on_disconnect = cancel_on_disconnect
        self._caps = caps or Caps()
        self._limits = limits
        self._disk_floor = disk_floor
        self._nursery: trio.Nursery | None = None
        self._workers: Workers | None = None
        self._server: SolverServer | None = None
        self._dispatches: dict[bytes, _Dispatch] = {}
        self.leaving = False
        # Now, not with the first trader: bad terms of our own must stop us before we serve.
        self.policy.check(terms, self._collateral, self.party.clock.now_ns())

    # --- callbacks --------------------------------------------------------------------------

    async def on_prices(self, symbol: str) -> Prices | None:
        """Indicative prices for anybody who asks; they bind nobody."""
        return None

    async def on_quote_request(self, request: IncomingQuoteRequest) -> None:
        """Answer with `request.quote(…)` or `request.reject()`.

        This and `on_order` are called while the request is still on its way to our disk; the answer
        follows it there. Before you act elsewhere because of an order, `await order.lock()` or
        `fill()`: when they return, it is on the record for good."""
        await request.reject("no quotes here")

    async def on_order(self, order: IncomingOrder) -> None:
        """Answer with `order.fill(…)` once or several times, `order.lock()` or `order.decline()`.
        What is left when this returns stays pending until it expires."""
        await order.decline("no orders here")

    async def on_close(self, order: IncomingOrder) -> None:
        """An order that closes a position or a part of it. By default as `on_order`."""
        await self.on_order(order)

    async def on_cancel(self, order: IncomingOrder) -> bool:
        """The trader wants to cancel the rest of an order; True agrees."""
        return True

    async def on_settle(self, session: SolverSession) -> bool:
        """The trader wants to settle the flat account; True agrees."""
        return True

    async def on_state(self, session: SolverSession, state: SessionStatus) -> None:
        """The session moved to another state."""

    async def on_idle(self, session: SolverSession, flat: bool) -> None:
        """There was no business for as long as the terms allow. flat: we offer a settlement now;
        otherwise the custody stays open."""

    async def on_failure(self, session: SolverSession, error: PSymmError) -> None:
        """Something ended or hindered the session: the peer's fault, the chain, a refusal, or a
        wallet that does not delegate the next session key."""

    # --- running ----------------------------------------------------------------------------

    async def serve(
        self,
        host: str,
        port: int,
        *,
        tls: Tls | None = None,
        task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled, or until `leave` has finished; reports the port.

        Raises JournalError, StorageError, WalletError.
        Cancelled: connections close; every session can be resumed.

        Args:
            tls: Serves wss://. A `Certificate` may be renewed meanwhile.
        """
        server = await self.server()
        async with trio.open_nursery() as nursery:
            self.run_callbacks(nursery)

            async def listening(*, task_status: trio.TaskStatus[int]) -> None:
                await server.serve(host, port, tls=tls, task_status=task_status)
                # `leave` ends the server alone; end the callbacks' nursery with it.
                nursery.cancel_scope.cancel()

            task_status.started(await nursery.start(listening))

    # --- brakes -------------------------------------------------------------------------------

    def kill(self, reason: str = "") -> None:
        """Throw the kill switch. In every session we cancel all quotes and decline what waits, now
        or as soon as we can sign. Until `revive` we sign no quote and no fill, even after a
        restart. Cancels, settlements and forced closes continue.

        Raises StorageError if the switch cannot be made durable; then nothing was cancelled.
        """
        # First the switch: from now on no callback can sign a new quote.
        self.kill_switch.kill(reason)
        for dispatch in list(self._dispatches.values()):
            dispatch.halt()

    def revive(self) -> None:
        """Trade again. Raises StorageError."""
        self.kill_switch.revive()

    async def leave(
        self, reason: str = "the solver restarts", *, within_s: float = LEAVE_S
    ) -> None:
        """Stop on purpose, meaning to start again. Then `serve` returns.

        No new connection, session or callback begins. Running callbacks get `within_s` and are then
        cancelled. With `cancel_on_disconnect` quotes are withdrawn. All that is signed is made
        durable and sent, and peers learn that we mean to come back. Custodies stay as they are;
        we log nobody out.

        Cancelled: connections are cut; every session can be resumed.
        """
        self.leaving = True
        server = await self.server()
        # The order matters: first no new work, then let running work end, then withdraw quotes,
        # because a running callback could still sign one.
        server.turn_away(reason)
        with trio.move_on_after(within_s):
            for dispatch in list(self._dispatches.values()):
                await dispatch.idle()
        for dispatch in list(self._dispatches.values()):
            dispatch.part()
        await server.leave(reason)

    async def _watch_switch(self) -> None:
        """Watch the switch, because another process may throw it."""
        was: str | None = None
        while True:
            now = self.kill_switch.reason
            if now is not None and was is None:
                for dispatch in list(self._dispatches.values()):
                    dispatch.halt()
            was = now
            await trio.sleep(LOOK_S)

    async def server(self) -> SolverServer:
        """The server, for applications that bring their own sockets; they must call
        `run_callbacks` first. Asks the wallet for a signature the first time."""
        if self._server is None:
            party = self.party
            message = TypedMessage(
                party.chain_id,
                party.contract,
                "MeetingSecret",
                (("purpose", "string"),),
                {"purpose": "Lets this pSymm solver remember whom it met."},
            )
            secret = await derive_secret(party.wallet, message, "handshake secret 1")
            self._server = SolverServer(
                party, self.terms, secret, self, self._limits, disk_floor=self._disk_floor
            )
        return self._server

    def statistics(self) -> ServerStatistics | None:
        """Of all sessions together; None before there is a server."""
        return None if self._server is None else self._server.statistics()

    def run_callbacks(self, nursery: trio.Nursery) -> None:
        """Run callbacks in this nursery. `serve` does it for you."""
        self._nursery = nursery
        self._workers = Workers(nursery)
        nursery.start_soon(self._watch_switch)

    # --- psymm.session.runtime.solver.Application -------------------------------------------------

    def collateral_for(self, trader: str, introduced: int) -> int:
        return self.policy.collateral_for(self.terms, self._collateral, trader, introduced)

    async def prices(self, request: MarketDataRequest) -> list[MarketDataSnapshotFullRefresh]:
        """Indicative prices of the symbols asked for, or of all. Raises nothing for a callback."""
        symbols = [each.symbol for each in request.no_related_sym] or [
            each.symbol for each in self.terms.instruments
        ]
        found = []
        for symbol in symbols:
            try:
                prices = await self.on_prices(symbol)
            except Exception as failed:
                # No price for this symbol; the others are still answered.
                log.warning("on-prices-failed", extra={"error": type(failed).__name__})
                prices = None
            entries = [] if prices is None else _entries(prices)
            found.append(
                MarketDataSnapshotFullRefresh(
                    md_req_id=request.md_req_id,
                    symbol=symbol,
                    transact_time=self.party.clock.now_ns(),
                    no_md_entries=tuple(entries),
                )
            )
        return found

    def session(self, runner: SessionRunner) -> Callable[[Event], None]:
        """Make the callbacks' side of a session; returns its listener."""
        if self._nursery is None or self._workers is None:
            raise NotNow("the solver is not serving")
        ledger = runner.protocol.state.rulebook
        if not isinstance(ledger, RulebookLedger):
            raise TypeError("a solver's session runs on the rulebook")
        session = SolverSession(
            runner,
            ledger,
            Terms.parse(runner.agreement.terms),
            self.kill_switch,
            self._caps,
            cancel_on_disconnect=self._cancel_on_disconnect,
        )
        dispatch = _Dispatch(self, session, self._nursery, self._workers)
        if runner.protocol.status not in (SessionStatus.CLOSED, SessionStatus.STOPPED):
            # Otherwise its trader only comes for frames that it lacks: there is nothing to trade.
            self.sessions[session.custody] = session
            self._dispatches[session.custody] = dispatch
        return dispatch.on_event


class _Dispatch:
    """Turns one session's events into callbacks, each in a task of its own while it runs."""

    def __init__(
        self,
        solver: Solver,
        session: SolverSession,
        nursery: trio.Nursery,
        workers: Workers,
    ) -> None:
        self._solver = solver
        self._session = session
        self._nursery = nursery
        self._workers = workers
        self._running = 0
        # Scopes of running callbacks, and of those that work on an order, by its id.
        self._callbacks: set[trio.CancelScope] = set()
        self._at_work: dict[str, trio.CancelScope] = {}
        # Set when no callback runs any more; made by who waits for it.
        self._quiet: trio.Event | None = None
        # Orders that a callback has seen. `_catch_up` does not show them again.
        self._seen: set[str] = set()
        # Frames that we answered when they were provisional. They come again when durable.
        self._early: set[int] = set()
        self._settlement_flow = SettlementFlow(
            session.runner,
            session.terms,
            nursery,
            lambda: session.projected,
            self._failed,
            willing=lambda: solver.on_settle(session),
        )
        self._watch = trio.CancelScope()
        idle = IdleEnd(
            session.runner,
            session.terms,
            lambda: session.projected,
            self._settlement_flow.settle,
            self._idle,
            self._failed,
        )
        start_task(nursery, self._watch_idle, idle)
        session.runner.at_end.append(self._over)

    async def _watch_idle(self, idle: IdleEnd) -> None:
        with self._watch:
            await idle.run()

    def _over(self) -> None:
        """The session has left memory, as every stranger's does (`spec.md` 68). Keep nothing of it
        here."""
        self._watch.cancel()
        # A newer session of this custody may have replaced ours.
        if self._solver._dispatches.get(self._session.custody) is self:
            self._solver.sessions.pop(self._session.custody, None)
            del self._solver._dispatches[self._session.custody]

    def on_event(self, event: Event) -> None:
        """Turn an event into callbacks. Does not block and does not raise."""
        solver, session = self._solver, self._session
        self._settlement_flow.on_event(event)
        match event:
            # Answer before the frame is durable, to save the time of a commit. The answer is
            # written after it.
            case ProvisionalFrame(entry) if session.runner.protocol.synced:
                self._early.add(entry.frame.seq)
                self._offered(entry.message)
            case FrameReceived(entry, None):
                if entry.frame.seq in self._early:
                    self._early.remove(entry.frame.seq)
                else:
                    # It came while heads did not agree, when nothing could be signed.
                    self._offered(entry.message)
                if isinstance(entry.message, OrderCancelRequest):
                    request = entry.message
                    self._start(lambda: self._cancel(request), None)
            case TextReceived(MarketDataRequest() as asked_prices):
                self._start(lambda: self._show(asked_prices), None)
            case StatusChanged(state):
                self._start(lambda: solver.on_state(session, state), None)
                if state in (SessionStatus.CLOSED, SessionStatus.STOPPED):
                    solver.sessions.pop(session.custody, None)
                    solver._dispatches.pop(session.custody, None)
            case (
                Stopped(error)
                | HeadsDiffer(error)
                | KeyFailing(error)
                | KeyRefused(_, error)
                | FramesRevoked(_, error)
            ):
                self._failed(error)
            case Resumed():
                self._resumed()
            case _:
                pass

    # --- brakes -------------------------------------------------------------------------------

    def halt(self) -> None:
        """The kill switch was thrown: withdraw and decline all, now or when heads agree."""
        why = self._session.protection.killed
        if why is not None and self._session.runner.protocol.synced:
            self._post(self._session.protection.everything(clip(f"halted: {why}", 500)))

    def part(self) -> None:
        """We leave: end the callbacks, and leave no quotes open while we are away."""
        for scope in self._callbacks:
            scope.cancel()
        protection = self._session.protection
        if protection.cancel_on_disconnect and self._session.runner.protocol.synced:
            self._post(protection.quotes())

    async def idle(self) -> None:
        """Wait until no callback runs. Cancelled: raises Cancelled; nothing changed."""
        while self._running:
            self._quiet = self._quiet or trio.Event()
            await self._quiet.wait()

    def _resumed(self) -> None:
        """Heads agree again. First sign what makes us safe. No callback can come in between, since
        nothing here waits, and callbacks cannot quote or fill until then."""
        protection = self._session.protection
        if protection.after_break:
            # Callbacks that work on an order rely on prices from before the break. Cancel them; the
            # orders are shown again.
            for name, scope in self._at_work.items():
                scope.cancel()
                self._seen.discard(name)
        if protection.killed is not None:
            self.halt()
        elif protection.after_break:
            self._post(protection.stale())
        # Only now may callbacks quote and fill again.
        protection.cleared()
        self._catch_up()

    def _post(self, messages: Iterable[Message]) -> None:
        try:
            for message in messages:
                self._session.runner.post(message)
        except PSymmError as failed:
            self._failed(failed)

    # --- callbacks ----------------------------------------------------------------------------

    def _offered(self, message: Message | None) -> None:
        match message:
            case QuoteRequest():
                self._asked(message)
            case NewOrderSingle():
                self._order(message)
            case _:
                pass

    def _asked(self, request: QuoteRequest) -> None:
        asked = IncomingQuoteRequest(self._session, request)
        halted = self._session.protection.killed
        if halted is not None:
            self._start(lambda: asked.reject("halted"), None)
        elif self._session.runner.protocol.synced:
            self._start(partial(self._solver.on_quote_request, asked), asked.reject)
        # Otherwise it was sent again on a resume. Its trader has given up by now, or asks again.

    def _order(self, order: NewOrderSingle) -> None:
        """Show an order to its callback, if we may answer it now. Otherwise `_catch_up` shows it
        later."""
        incoming = IncomingOrder(self._session, order)
        ready = self._session.runner.protocol.synced and not self._session.protection.after_break
        if not ready or self._solver.leaving:
            return  # `_catch_up` shows it when heads agree and stale quotes are gone.
        self._seen.add(order.cl_ord_id)
        if self._session.protection.killed is not None:
            self._start(lambda: incoming.decline("halted"), None)
            return
        answer = self._solver.on_close if incoming.closes else self._solver.on_order

        async def work() -> None:
            try:
                await answer(incoming)
            except NotNow:
                # The connection was lost during the callback. `_catch_up` shows the order again.
                if not self._session.runner.protocol.synced:
                    self._seen.discard(order.cl_ord_id)
                raise

        self._start(work, incoming.decline, order.cl_ord_id)

    def _catch_up(self) -> None:
        """After a break or a restart: show orders that no callback has seen yet."""
        orders = self._session.projected.orders
        record = self._session.runner.protocol.record
        if record.starts_at is not None:
            self._catch_up_older(orders.values())
        for entry in record:
            said = entry.message
            if not isinstance(said, NewOrderSingle) or said.cl_ord_id in self._seen:
                continue
            live = orders.get(said.cl_ord_id)
            if live is not None and live.status in _TO_ANSWER:
                self._order(said)

    def _catch_up_older(self, orders: Iterable[LiveOrder]) -> None:
        """Orders from before the checkpoint at which our record begins. The account has them."""
        messages = [entry.message for entry in self._session.runner.protocol.record]
        sent = {one.cl_ord_id for one in messages if isinstance(one, NewOrderSingle)}
        for order in orders:
            if order.cl_ord_id not in sent | self._seen and order.status in _TO_ANSWER:
                self._order(_as_sent(order))

    def _start(
        self,
        answer: Callable[[], Awaitable[object]],
        decline: Callable[[str], Awaitable[None]] | None,
        order: str | None = None,
    ) -> None:
        """Start a callback. order: the id of the order that it works on."""
        if self._solver.leaving:
            return
        # Too many run already. `_answer` then declines, which is quick.
        busy = self._running >= MOST_AT_ONCE
        try:
            self._workers.start(partial(self._run, answer, decline, busy, order))
        except SessionClosed:
            return  # No callback begins after the solver has ended.
        # Count it now, not when it runs, so that `idle` does not miss it.
        self._running += 1

    async def _run(
        self,
        answer: Callable[[], Awaitable[object]],
        decline: Callable[[str], Awaitable[None]] | None,
        busy: bool,
        order: str | None,
        scope: trio.CancelScope,
    ) -> None:
        """Run one callback, and count it while it runs."""
        self._callbacks.add(scope)
        if order is not None and not busy:
            self._at_work[order] = scope
        try:
            await self._answer(answer, decline, busy)
        finally:
            # A later callback may work on this order by now.
            if order is not None and self._at_work.get(order) is scope:
                del self._at_work[order]
            self._callbacks.discard(scope)
            self._running -= 1
            if not self._running and self._quiet is not None:
                self._quiet.set()
                self._quiet = None

    async def _answer(
        self,
        answer: Callable[[], Awaitable[object]],
        decline: Callable[[str], Awaitable[None]] | None,
        busy: bool,
    ) -> None:
        """Call back. If that fails, or if we are busy, decline what was asked, and report it."""
        try:
            if not busy:
                await answer()
            elif decline is not None:
                await decline("busy")
        except SessionError as refused:
            # Nothing was signed: we are between connections, or our own rulebook refused.
            # A brake stopped this callback, so quotes that it gave earlier must go, too.
            if isinstance(refused, TradingHalted) and self._session.runner.protocol.synced:
                self._post(self._session.protection.quotes())
            if self._session.runner.protocol.synced:
                await self._declined(decline, refused.code)
            self._failed(refused)
        except Exception as failed:
            # A bug of the application's. The trader still gets an answer.
            log.exception("callback-failed", extra={"error": type(failed).__name__})
            await self._declined(decline, "internal error")

    async def _declined(self, decline: Callable[[str], Awaitable[None]] | None, why: str) -> None:
        if decline is None:
            return
        try:
            await decline(why)
        except PSymmError as refused:
            # The order may have ended meanwhile.
            log.info("not-declined", extra={"error": refused.code})

    def _idle(self, idle: Idle) -> None:
        self._start(lambda: self._solver.on_idle(self._session, idle.flat), None)

    async def _show(self, request: MarketDataRequest) -> None:
        for snapshot in await self._solver.prices(request):
            await self._session.runner.send_text(snapshot)

    async def _cancel(self, request: OrderCancelRequest) -> None:
        """Answer a cancel request. A pending order is cancelled by the request alone; a locked one,
        or a close, needs our answer."""
        session, asked_id = self._session, request.orig_cl_ord_id
        live = session.projected.orders.get(asked_id)
        order = session.order(asked_id)
        # The order has ended meanwhile, or a newer request has replaced this one.
        if live is None or order is None or live.request_id != request.cl_ord_id:
            return
        if await self._solver.on_cancel(order):
            await session.runner.send(
                ExecutionReport(
                    exec_id=session.next_id("e"), cl_ord_id=asked_id, exec_type=ExecType.CANCELED
                )
            )
        else:
            await session.runner.send(
                OrderCancelReject(
                    cl_ord_id=request.cl_ord_id,
                    orig_cl_ord_id=asked_id,
                    cxl_rej_response_to=CxlRejResponseTo.CANCEL,
                    cxl_rej_reason=CxlRejReason.BROKER_OPTION,
                )
            )

    def _failed(self, error: PSymmError) -> None:
        with suppress(SessionClosed):
            start_task(self._nursery, self._report, error)

    async def _report(self, error: PSymmError) -> None:
        try:
            await self._solver.on_failure(self._session, error)
        except Exception as failed:
            log.exception("on-failure-failed", extra={"error": type(failed).__name__})


_TO_ANSWER: Final = (OrderStatus.PENDING, OrderStatus.LOCKED, OrderStatus.CLOSE_PENDING)


def _as_sent(order: LiveOrder) -> NewOrderSingle:
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


def _entries(prices: Prices) -> list[MDEntry]:
    size = None if prices.size is None else scaled(prices.size)
    return [
        MDEntry(md_entry_type=kind, md_entry_px=scaled(price), md_entry_size=size)
        for kind, price in ((MDEntryType.BID, prices.bid), (MDEntryType.OFFER, prices.ask))
        if price is not None
    ]


__all__ = [
    "IncomingOrder",
    "IncomingQuoteRequest",
    "Prices",
    "Solver",
    "SolverSession",
]
