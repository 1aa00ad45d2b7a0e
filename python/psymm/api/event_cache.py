"""The events of a trader's session: their answers are kept, and the calls that wait are woken."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar, cast

import trio

from psymm.errors import PSymmError, SessionClosed
from psymm.messages import (
    ExecutionReport,
    MarketDataSnapshotFullRefresh,
    Message,
    OrderCancelReject,
    QuoteRequestReject,
    Reject,
)
from psymm.messages import Quote as QuoteMessage
from psymm.session.protocol import (
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
from psymm.session.runtime.settlement import FRAMES, TRADING, SettlementFlow
from psymm.session.runtime.trader import ConnectionLost
from psymm.waiting import Deadlines, Sleeper

T = TypeVar("T")


class EventCache:
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
            # A quote binds the solver alone, so it may be used before it is on our disk. What
            # moves money is kept only after that, below.
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
        flow = self.settlement_flow
        if flow is not None and not isinstance(event, ConnectionLost):
            # Plain trading concerns only its steps that wait for the account to change.
            trading = isinstance(event, FRAMES) and type(event.entry.message) in TRADING
            if flow.waiting or not trading:
                flow.on_event(event)
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

    def __init__(self, found: Callable[[], object], even_closed: bool) -> None:
        self.found = found
        self.even_closed = even_closed
        self.value: object = None
        self.error: Exception | None = None
