"""A solver as a class with a few callbacks.

Override the callbacks that you trade with. Everything else (sessions, collateral, journal,
settlement, reconnects) works without you. If a callback raises, what it was asked for is declined,
other sessions are not affected, and the error's type is logged.

Who calls whom: `SolverServer` calls `Solver.session` for each session and sends its events to a
`callbacks.CallbackDispatch`, which calls back in worker tasks. A callback answers through
`incoming.IncomingQuoteRequest` or `incoming.IncomingOrder`.

What is durable when: a callback may begin while the request is on its way to our disk. Its answer
is written after the request, so a crash loses the answer or both, and never the request alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from psymm.api.amounts import Number, scaled, token_units
from psymm.api.callbacks import CallbackDispatch
from psymm.api.client import Client
from psymm.api.incoming import IncomingOrder, IncomingQuoteRequest, SolverSession
from psymm.api.policy import SolverPolicy
from psymm.errors import NotNow, PSymmError
from psymm.messages import MarketDataRequest, MarketDataSnapshotFullRefresh, MDEntry, MDEntryType
from psymm.session.protocol import Event, SessionStatus
from psymm.session.runtime.ledger import RulebookLedger
from psymm.session.runtime.party import LocalParty
from psymm.session.runtime.protection import Caps, KillSwitch, kill_switch_of
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.solver import DISK_FLOOR, ServerStatistics, SolverServer
from psymm.sockets.admission import AdmissionLimits
from psymm.sockets.serving import Tls
from psymm.terms import Terms
from psymm.typed_message import TypedMessage
from psymm.waiting import Workers
from psymm.wallet import derive_secret

log = logging.getLogger(__name__)

LOOK_S: Final = 0.5
"""Seconds between two looks at the kill switch while nothing is signed. Each signature looks, too.
"""
LEAVE_S: Final = 5.0
"""Seconds that running callbacks may take after the solver begins to leave."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices at which we would buy and sell; None: not at all."""

    bid: Number | None
    ask: Number | None
    size: Number | None = None


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
        self.dispatches: dict[bytes, CallbackDispatch] = {}
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
        for dispatch in list(self.dispatches.values()):
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
            for dispatch in list(self.dispatches.values()):
                await dispatch.idle()
        for dispatch in list(self.dispatches.values()):
            dispatch.part()
        await server.leave(reason)

    async def _watch_switch(self) -> None:
        """Watch the switch, because another process may throw it."""
        was: str | None = None
        while True:
            now = self.kill_switch.reason
            if now is not None and was is None:
                for dispatch in list(self.dispatches.values()):
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
        dispatch = CallbackDispatch(self, session, self._nursery, self._workers)
        if runner.protocol.status not in (SessionStatus.CLOSED, SessionStatus.STOPPED):
            # Otherwise its trader only comes for frames that it lacks: there is nothing to trade.
            self.sessions[session.custody] = session
            self.dispatches[session.custody] = dispatch
        return dispatch.on_event


def _entries(prices: Prices) -> list[MDEntry]:
    size = None if prices.size is None else scaled(prices.size)
    return [
        MDEntry(md_entry_type=kind, md_entry_px=scaled(price), md_entry_size=size)
        for kind, price in ((MDEntryType.BID, prices.bid), (MDEntryType.OFFER, prices.ask))
        if price is not None
    ]
