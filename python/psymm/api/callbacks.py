"""From a session's events to a solver's callbacks.

`CallbackDispatch.on_event` turns events into callbacks, each in a worker task. A callback answers
through `IncomingQuoteRequest` or `IncomingOrder`, which sign with the session's runner. The
session's `Protection` checks each signature, so a callback cannot get past the brakes.

States that matter to a callback: while heads do not agree nothing can be signed. On `Resumed` the
dispatch first signs what makes us safe again (`_resumed`), then looks at orders that still wait for
an answer (`_catch_up`). After `leave` no callback begins.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from psymm.api.incoming import IncomingOrder, IncomingQuoteRequest, SolverSession, as_sent
from psymm.errors import NotNow, PSymmError, SessionClosed, SessionError, TradingHalted, clip
from psymm.messages import (
    CxlRejReason,
    CxlRejResponseTo,
    ExecType,
    ExecutionReport,
    MarketDataRequest,
    Message,
    NewOrderSingle,
    OrderCancelReject,
    OrderCancelRequest,
    QuoteRequest,
)
from psymm.nursery import start_task
from psymm.rulebook import OrderStatus
from psymm.session.protocol import (
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
from psymm.session.runtime.settlement import FRAMES, TRADING, SettlementFlow
from psymm.waiting import Worker, Workers

if TYPE_CHECKING:
    from psymm.api.solver import Solver

log = logging.getLogger(__name__)

MOST_AT_ONCE: Final = 256
"""Callbacks of one session that may run at once. Beyond that we decline."""


class CallbackDispatch:
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
        # What runs the callbacks, and those that work on an order, by its id.
        self._callbacks: set[Worker] = set()
        self._at_work: dict[str, Worker] = {}
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
        if self._solver.dispatches.get(self._session.custody) is self:
            self._solver.sessions.pop(self._session.custody, None)
            del self._solver.dispatches[self._session.custody]

    def on_event(self, event: Event) -> None:
        """Turn an event into callbacks. Does not block and does not raise."""
        solver, session = self._solver, self._session
        # Plain trading concerns only a settlement's steps that wait for the account to change.
        trading = isinstance(event, FRAMES) and type(event.entry.message) in TRADING
        if self._settlement_flow.waiting or not trading:
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
                    solver.dispatches.pop(session.custody, None)
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
        for worker in self._callbacks:
            worker.cancel()
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
            for name, worker in self._at_work.items():
                worker.cancel()
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
            # `_catch_up` shows it when heads agree and stale quotes are gone. What we saw under
            # this id was an earlier order, which has ended.
            self._seen.discard(order.cl_ord_id)
            return
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
        # Ids of orders that have ended mean nothing any more, and there may be many.
        self._seen &= orders.keys()
        # From the account, not from the trader's messages: an earlier message may have the id of an
        # open order, and ask for something else.
        for order in list(orders.values()):
            if order.cl_ord_id not in self._seen and order.status in _TO_ANSWER:
                self._order(as_sent(order))

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
        worker: Worker,
    ) -> None:
        """Run one callback, and count it while it runs."""
        self._callbacks.add(worker)
        if order is not None and not busy:
            self._at_work[order] = worker
        try:
            await self._answer(answer, decline, busy)
        finally:
            # A later callback may work on this order by now.
            if order is not None and self._at_work.get(order) is worker:
                del self._at_work[order]
            self._callbacks.discard(worker)
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
