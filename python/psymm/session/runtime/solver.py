"""The solver's side: one server, many traders, none of whom can harm another.

Who calls whom: `listen` calls `connection`, which runs a `Reception`. The reception asks the
server, and hands its socket to the `SessionRunner` that `SolverSessions` opened or loaded.

Failures: an error of one peer ends its connection. A bug that one peer triggers ends its session.
Only a failing journal ends the server.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from typing import Final, Protocol

import trio

from psymm._core import address_of
from psymm.custody.errors import FundsTooLow
from psymm.errors import (
    Disconnected,
    HandshakeRefused,
    NotNow,
    PeerViolation,
    PSymmError,
    SolverFundsTooLow,
    SolverUnable,
)
from psymm.messages import (
    BusinessRejectReason,
    Introduction,
    MarketDataRequest,
    MarketDataSnapshotFullRefresh,
    Message,
    SecurityEntry,
    SecurityList,
    SecurityListRequest,
    SecurityRequestResult,
    SubscriptionRequestType,
)
from psymm.session.protocol import Event, SessionStatus
from psymm.session.runtime.handshake import Host, Introduced, IntroductionKeys, check_greeting
from psymm.session.runtime.party import LocalParty
from psymm.session.runtime.reception import Reception, reason_of, refuse
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.solver_sessions import SolverSessions
from psymm.session.runtime.stats import RunnerStatistics, Traffic
from psymm.session.runtime.transport import GOING_AWAY, Socket, WebSocket, listen
from psymm.sockets.admission import Admission, AdmissionLimits, AdmissionStatistics
from psymm.sockets.serving import Tls
from psymm.terms import Terms
from psymm.transcript.agreement import TRADER

log = logging.getLogger(__name__)

LEAVE_S: Final = 10.0
"""Seconds that all goodbyes together may take."""
DISK_FLOOR: Final = 256 * 1024 * 1024
PENALTY_S: Final = 2.0
"""Seconds that a connection cut off for nonsense stays open before we close it."""
LOG_S: Final = 1.0
"""Seconds between two log lines of one kind that strangers can cause. Statistics count them all."""


class Application(Protocol):
    """Runs on top of the server: prices for everybody, and a listener for each session."""

    async def prices(self, request: MarketDataRequest) -> list[MarketDataSnapshotFullRefresh]:
        """Indicative prices. Raises PSymmError to refuse. Cancelled: the asker has left."""
        ...

    def collateral_for(self, trader: str, introduced: int) -> int:
        """Our collateral against `introduced` token units of the trader with that address. Nothing
        proves yet that the trader is who it says. Raises HandshakeRefused."""
        ...

    def session(self, runner: SessionRunner) -> Callable[[Event], None]:
        """A session begins or is loaded again. Returns the listener for its events."""
        ...


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """What the server holds now, and what it has done since it began.

    Attributes:
        connections: Connections open now.
        sessions: Sessions in memory, connected or not.
        runners: Each session's statistics, by its custody.
        states: How many sessions are in each state.
        waiting: Lists of effects of all sessions that are not yet durable.
        outgoing: Messages of all sessions that wait for a peer to read.
        refused: Introductions, Logons and connections refused before they became a session's, by
            error code.
        traffic: Of all sessions since the server began, including those that have left memory.
        admission: Which connections were let in.
    """

    connections: int
    sessions: int
    runners: Mapping[bytes, RunnerStatistics]
    states: Mapping[SessionStatus, int]
    waiting: int
    outgoing: int
    refused: Mapping[str, int]
    traffic: Traffic
    admission: AdmissionStatistics


class SolverServer:
    """Serves custodies under one set of terms; older custodies keep the terms they began with.

    Args:
        secret: Keys the nonces of handshakes; see `Host`.
        disk_floor: Bytes that must be free on the journal's disk before we open a new custody.
    """

    def __init__(
        self,
        party: LocalParty,
        terms: Terms,
        secret: bytes,
        application: Application,
        limits: AdmissionLimits | None = None,
        *,
        disk_floor: int = DISK_FLOOR,
    ) -> None:
        self.admission = Admission(limits)
        self._disk_floor = disk_floor
        self._party = party
        self._terms = terms
        self._host = Host(
            party.wallet.public_key, party.chain_id, party.contract, terms.document, secret
        )
        self._keys = IntroductionKeys(party.wallet, party.clock, party.chain_id, party.contract)
        self._application = application
        self.sessions = SolverSessions(party, application.session)
        self._connections = 0
        self._refused: Counter[str] = Counter()
        self._logged: dict[tuple[str, object], float] = {}
        self._leaving: str | None = None
        # Connections without a session. `leave` cancels them; sessions say goodbye themselves.
        self._receptions: set[trio.CancelScope] = set()
        self._done = trio.CancelScope()

    async def serve(
        self,
        host: str,
        port: int,
        *,
        tls: Tls | None = None,
        task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled, or until `leave` has finished; reports the port.

        Raises JournalError if the journal fails: nothing can be signed any more.
        Cancelled: connections close; sessions can be resumed from the journal.
        """
        with self._done:
            await self._serve(host, port, tls, task_status)

    async def _serve(
        self, host: str, port: int, tls: Tls | None, task_status: trio.TaskStatus[int]
    ) -> None:
        async with trio.open_nursery() as nursery:
            # Sessions before the listener: a peer may resume with its first message.
            await nursery.start(self.run)

            async def start_listening(
                *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
            ) -> None:
                await listen(
                    host,
                    port,
                    self.connection,
                    tls=tls,
                    admission=self.admission,
                    task_status=task_status,
                )

            task_status.started(await nursery.start(start_listening))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the sessions until cancelled. First load those with a settlement in progress."""
        async with trio.open_nursery() as nursery:
            # The first key before the first stranger, so that no handshake has to wait.
            await nursery.start(self._keys.run)
            log.info(
                "serving",
                extra={
                    "terms": "0x" + self._terms.hash.hex(),
                    "acknowledgement_s": self.acknowledgement_s,
                    "note": "either side can hold a frame back for at most T = "
                    f"{self.acknowledgement_s:g} s: price it",
                },
            )
            with self.sessions.running(nursery):
                await self.sessions.load_settling()
                task_status.started()
                await trio.sleep_forever()

    @property
    def acknowledgement_s(self) -> float:
        """T of the terms, in seconds. For this long either side can hold a frame back and still
        have it count from when it says that it was sent. Price in what the market can do in that
        time."""
        return self._terms.timeouts.acknowledgement / 1e9

    def statistics(self) -> ServerStatistics:
        """What the server holds now and has done so far."""
        ends = {key: runner.statistics() for key, runner in self.sessions.runners().items()}
        return ServerStatistics(
            connections=self._connections,
            sessions=len(ends),
            runners=ends,
            states=Counter(one.state for one in ends.values()),
            waiting=sum(one.waiting for one in ends.values()),
            outgoing=sum(one.load.outgoing_messages for one in ends.values()),
            refused=dict(self._refused),
            traffic=self.sessions.traffic(),
            admission=self.admission.statistics(),
        )

    def refused(self, error: PSymmError) -> None:
        """Count a peer that we refused before it had a session, and log it now and then."""
        self._refused[error.code] += 1
        self._log(logging.WARNING, "refused", {"code": error.code})

    def _log(self, level: int, name: str, values: dict[str, object]) -> None:
        """Log what strangers can cause, at most one line of each kind per LOG_S."""
        kind, now = (name, values.get("code")), trio.current_time()
        if now - self._logged.get(kind, float("-inf")) >= LOG_S:
            self._logged[kind] = now
            log.log(level, name, extra=values)

    def turn_away(self, reason: str) -> None:
        """Accept no more connections and sessions. Existing sessions continue."""
        self._leaving = reason
        self.admission.close(reason)
        for scope in self._receptions:
            scope.cancel()

    async def leave(self, reason: str = "the solver restarts") -> None:
        """End on purpose, meaning to come back. Accept nobody new, make durable and send all that
        is signed, and tell every peer with WebSocket code 1001. Then `serve` returns.

        We sign no Logout, because after a Logout nothing opens any more: the next process continues
        from the journal. Takes at most LEAVE_S.
        Cancelled: connections are cut; nothing is lost.
        """
        self.turn_away(reason)
        with trio.move_on_after(LEAVE_S):
            async with trio.open_nursery() as nursery:
                for runner in self.sessions.runners().values():
                    nursery.start_soon(runner.leave, reason)
        self._done.cancel()

    # --- connections ------------------------------------------------------------------------

    async def connection(self, socket: WebSocket | Socket) -> None:
        """Serve one connection to its end. Raises only Cancelled: anything that one peer does, or
        makes us do, ends with its connection."""
        self._connections += 1
        code, reason = 1000, ""
        scope = trio.CancelScope()
        self._receptions.add(scope)
        try:
            with scope:
                # A connection may come in between `turn_away` and the end of the listener.
                if self._leaving is not None:
                    scope.cancel()
                await Reception(self, socket).run(scope)
            if scope.cancelled_caught:
                code, reason = GOING_AWAY, self._leaving or ""
        except Disconnected:
            pass
        except PSymmError as refused:
            self.refused(refused)
            await refuse(socket, "session", str(refused), reason_of(refused))
            if isinstance(refused, PeerViolation):
                # Leave it unread and unanswered, still holding its place, so that a peer that we
                # cut off cannot come back sooner.
                await trio.sleep(PENALTY_S)
        except Exception as failed:
            log.exception("connection-failed", extra={"error": type(failed).__name__})
            # A bug that one peer found must not take the others down. Name it; do not show it.
            why = f"internal error ({type(failed).__name__})"
            await refuse(socket, "session", why, BusinessRejectReason.NOT_AVAILABLE)
        finally:
            self._connections -= 1
            self._receptions.discard(scope)
            with trio.CancelScope(shield=True):
                await socket.aclose(code, reason)

    @property
    def now_ns(self) -> int:
        """Our clock."""
        return self._party.clock.now_ns()

    @property
    def skew_ns(self) -> int:
        """How far a peer's clock may be from ours."""
        return self._terms.timeouts.skew

    def engaged(self, scope: trio.CancelScope) -> None:
        """The connection belongs to a session now, which says goodbye on its own."""
        self._receptions.discard(scope)

    async def make_room(self) -> None:
        """Check for room before we open a new custody. Raises SolverUnable if the disk is nearly
        full. Existing sessions continue."""
        if self._disk_is_full():
            raise SolverUnable("the solver's disk is nearly full")
        await self.sessions.forget_first_left()

    def _disk_is_full(self) -> bool:
        """Whether less than the floor is free. One system call, about as quick as the clock."""
        try:
            free = disk_usage(Path(self._party.journal.path).parent).free
        except OSError:
            return False  # If the journal cannot write, it reports that itself.
        if free < self._disk_floor:
            self._log(logging.ERROR, "disk-nearly-full", {"free": free, "floor": self._disk_floor})
            return True
        return False

    # --- texts before a session -------------------------------------------------------------

    async def handshake(self, greeting: Introduction) -> tuple[list[Message], Introduced]:
        """Answer an introduction; signed if it brings collateral (`spec.md` 61).

        We promise only collateral that we have. If it is not there, or reserved for others, we
        refuse before the trader funds. We keep nothing for an introduction, so strangers cannot use
        our collateral up.

        Raises HandshakeRefused, SolverUnable. Cancelled: raises Cancelled; nothing is kept.
        """
        check_greeting(greeting)
        offered = greeting.collateral or 0
        if 0 < offered < self._terms.minimum(TRADER):
            raise HandshakeRefused(
                "the terms ask for more collateral",
                offered=offered,
                minimum=self._terms.minimum(TRADER),
            )
        ours = 0
        if offered:
            await self.make_room()
            ours = self._application.collateral_for(address_of(greeting.public_key), offered)
        key = await self._keys.get() if offered else None
        now = self._party.clock.now_ns()
        said, document, introduced = self._host.answer(greeting, ours, key, now)
        # For a custody that we already hold, our collateral is in it or on its way, so we must not
        # demand free funds for it again.
        if ours and not await self.sessions.remembers(introduced.agreement.custody):
            try:
                await self._party.collateral.check_funds(self._terms, ours)
            except FundsTooLow as short:
                self._log(logging.WARNING, "out-of-funds", {"asked": ours, "code": short.code})
                raise SolverFundsTooLow() from None
        return [said, document], introduced

    async def prices(self, request: MarketDataRequest) -> list[MarketDataSnapshotFullRefresh]:
        if request.subscription_request_type is not SubscriptionRequestType.SNAPSHOT:
            raise NotNow("prices are shown once for each request; subscriptions are not served")
        return await self._application.prices(request)

    def instruments(self, request: SecurityListRequest) -> SecurityList:
        """The terms' instruments, or the one that was asked for."""
        found = [
            SecurityEntry(
                symbol=each.symbol,
                security_type=each.kind,
                min_price_increment=each.tick,
                round_lot=each.lot,
            )
            for each in self._terms.instruments
            if request.symbol is None or each.symbol == request.symbol
        ]
        return SecurityList(
            security_req_id=request.security_req_id,
            security_request_result=SecurityRequestResult.VALID
            if found
            else SecurityRequestResult.NONE_FOUND,
            no_related_sym=tuple(found),
        )
