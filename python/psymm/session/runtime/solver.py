"""The solver's side: one server, many traders, none of whom can harm another.

States of a connection:

1. Reception (`_Reception`): introductions, terms and indicative prices, all as text. They cost
   little to answer and leave nothing in memory or journal.
2. Session: the first valid Logon opens a custody (`SolverServer.open`). A proven resume loads a
   custody that is in the journal (`SolverServer.known`, `spec.md` 69). From then on the connection
   belongs to a `SessionRunner`.

Who calls whom: `listen` calls `connection`, which runs a `_Reception`. The reception asks the
server, and hands its socket to `SessionRunner.attach`. Each session runs in a task of its own
(`_keep`) in the server's nursery, so it outlives its connections.

What is durable when: nothing before the Logon. `open` checks the Logon, then the journal keeps the
custody, and only then does a session exist. A custody without collateral on chain is a stranger's.
It leaves memory with its connection and the journal after FORGET_S.

Failures: an error of one peer ends its connection. A bug that one peer triggers ends its session.
Only a failing journal ends the server.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes
from shutil import disk_usage
from typing import Final, Protocol

import trio

from psymm._core import Frame, FrameError, JsonError, TranscriptError, address_of
from psymm.custody.errors import FundsTooLow
from psymm.errors import (
    Disconnected,
    HandshakeRefused,
    JournalError,
    KnownCustody,
    LogonRefused,
    MessageTooBig,
    NotNow,
    PeerViolation,
    PSymmError,
    ResumeRefused,
    SolverFundsTooLow,
    SolverUnable,
    UnknownCustody,
    clip,
)
from psymm.journal.codec import JournalledCustody
from psymm.messages import (
    BusinessMessageReject,
    BusinessRejectReason,
    Heartbeat,
    Introduction,
    Logon,
    MarketDataRequest,
    MarketDataSnapshotFullRefresh,
    Message,
    Resume,
    SecurityEntry,
    SecurityList,
    SecurityListRequest,
    SecurityRequestResult,
    SubscriptionRequestType,
    TestRequest,
    decode_text,
    encode_text,
)
from psymm.rate import TokenBucket
from psymm.session.protocol import Event, SessionStatus, StatusChanged
from psymm.session.protocol.budget import EARLY_FRAMES
from psymm.session.runtime.handshake import Host, Introduced, IntroductionKeys, check_greeting
from psymm.session.runtime.party import LocalParty, load_session
from psymm.session.runtime.runner import RunnerStatistics, SessionRunner
from psymm.session.runtime.stats import Traffic
from psymm.session.runtime.transport import GOING_AWAY, Socket, WebSocket, listen
from psymm.sockets.admission import Admission, AdmissionLimits, AdmissionStatistics, ConnectionSlot
from psymm.sockets.serving import Tls
from psymm.storage import StorageError
from psymm.terms import Terms
from psymm.transcript.agreement import SOLVER, TRADER, CustodyAgreement
from psymm.transcript.delegation import DelegationRefused
from psymm.transcript.record import Record
from psymm.transcript.resumption import challenge_for, check_resume, nothing_yet

log = logging.getLogger(__name__)

SILENT_S: Final = 60.0
"""Seconds that a connection without a session may be silent. A trader that funds sends
heartbeats."""
INTRODUCED_S: Final = 1_800.0
"""Seconds that a connection may live without a session. A trader funds in this time."""
LEAVE_S: Final = 10.0
"""Seconds that all goodbyes together may take."""
TEXTS_PER_SECOND: Final = 50
NOISE_LIMIT: Final = 8
FORGET_S: Final = 300.0
"""Seconds that a custody without collateral stays on disk after its trader has left."""
MOST_LEFT: Final = 1024
"""Custodies of that kind that we keep. Beyond that the one left first goes at once."""
DISK_FLOOR: Final = 256 * 1024 * 1024
MESSAGE_BYTES: Final = 64 * 1024
"""The longest message that we read from a stranger."""
PENALTY_S: Final = 2.0
"""Seconds that a connection cut off for nonsense stays open before we close it."""
LOG_S: Final = 1.0
"""Seconds between two log lines of one kind that strangers can cause. Statistics count them all."""
MOST_CHALLENGES: Final = 4
"""Custodies that one connection may ask about before it is a session's."""


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


@dataclass
class _Session:
    runner: SessionRunner
    scope: trio.CancelScope


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
        # Each attached session's place among the connections.
        self._places: dict[bytes, ConnectionSlot] = {}
        # When strangers left, by custody; trio's clock.
        self._left_at: dict[bytes, float] = {}
        self._party = party
        self._terms = terms
        self._host = Host(
            party.wallet.public_key, party.chain_id, party.contract, terms.document, secret
        )
        self._keys = IntroductionKeys(party.wallet, party.clock, party.chain_id, party.contract)
        self._application = application
        self._sessions: dict[bytes, _Session] = {}
        # Locks of custodies that a task is loading or forgetting now.
        self._busy: dict[bytes, trio.Lock] = {}
        self._connections = 0
        self._refused: Counter[str] = Counter()
        self._logged: dict[tuple[str, object], float] = {}
        self._past = Traffic()
        self._nursery: trio.Nursery | None = None
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
            self._nursery = nursery
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
            nursery.start_soon(self._forget_strangers)
            for custody in await self._party.journal.custodies():
                early = custody.lane == SOLVER and custody.frames <= EARLY_FRAMES
                # Only few frames: it may be a stranger's that its trader left before we stopped.
                if early and custody.state in ("handshake", "open", "stopped"):
                    # `forget_stranger` finds out whether it is, when its time is over.
                    self._left_at[custody.agreement.custody] = trio.current_time()
                # A settlement has deadlines, so it cannot wait until its trader comes back.
                if custody.lane == SOLVER and custody.state == "settling":
                    try:
                        await self._load_session(custody)
                    except PSymmError as failed:
                        log.error(
                            "session-not-loaded",
                            extra={
                                "custody": "0x" + custody.agreement.custody.hex(),
                                "code": failed.code,
                            },
                        )
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                # From here on the nursery may close: load no more sessions in it.
                self._nursery = None

    @property
    def acknowledgement_s(self) -> float:
        """T of the terms, in seconds. For this long either side can hold a frame back and still
        have it count from when it says that it was sent. Price in what the market can do in that
        time."""
        return self._terms.timeouts.acknowledgement / 1e9

    def statistics(self) -> ServerStatistics:
        """What the server holds now and has done so far."""
        ends = {key: session.runner.statistics() for key, session in self._sessions.items()}
        return ServerStatistics(
            connections=self._connections,
            sessions=len(ends),
            runners=ends,
            states=Counter(one.state for one in ends.values()),
            waiting=sum(one.waiting for one in ends.values()),
            outgoing=sum(one.load.outgoing_messages for one in ends.values()),
            refused=dict(self._refused),
            traffic=Traffic.sum([self._past, *(one.traffic for one in ends.values())]),
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
                for session in list(self._sessions.values()):
                    nursery.start_soon(session.runner.leave, reason)
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
                await _Reception(self, socket).run(scope)
            if scope.cancelled_caught:
                code, reason = GOING_AWAY, self._leaving or ""
        except Disconnected:
            pass
        except PSymmError as refused:
            self.refused(refused)
            await _refuse(socket, "session", str(refused), _reason_of(refused))
            if isinstance(refused, PeerViolation):
                # Leave it unread and unanswered, still holding its place, so that a peer that we
                # cut off cannot come back sooner.
                await trio.sleep(PENALTY_S)
        except Exception as failed:
            log.exception("connection-failed", extra={"error": type(failed).__name__})
            # A bug that one peer found must not take the others down. Name it; do not show it.
            why = f"internal error ({type(failed).__name__})"
            await _refuse(socket, "session", why, BusinessRejectReason.NOT_AVAILABLE)
        finally:
            self._connections -= 1
            self._receptions.discard(scope)
            with trio.CancelScope(shield=True):
                await socket.aclose(code, reason)

    async def open(self, introduced: Introduced, frame: Frame) -> SessionRunner:
        """A session for a custody whose first frame this is. We check the frame before we keep
        anything.

        Raises LogonRefused, KnownCustody, JournalError.
        """
        check_first(introduced.agreement, frame)
        agreement = introduced.agreement
        # From this write on, a repeated Logon is a KnownCustody.
        await self._party.journal.open_custody(
            agreement,
            SOLVER,
            self._party.clock.now_ns(),
            ours=introduced.collaterals[SOLVER],
            announced_collateral=introduced.collaterals[TRADER],
        )
        return await self._load_session(await self._party.journal.custody(agreement.custody))

    async def agreement_of(self, custody: bytes) -> CustodyAgreement | None:
        """The agreement of a custody that we hold, without its history; None if we hold none."""
        session = self._sessions.get(custody)
        if session is not None:
            return session.runner.agreement
        try:
            held = await self._party.journal.custody(custody)
        except UnknownCustody:
            return None
        return held.agreement if held.lane == SOLVER else None

    def is_strangers(self, custody: bytes) -> bool:
        """Whether we have seen no collateral of anybody in this custody yet."""
        session = self._sessions.get(custody)
        return custody in self._left_at if session is None else session.runner.protocol.is_stranger

    @property
    def now_ns(self) -> int:
        """Our clock."""
        return self._party.clock.now_ns()

    @property
    def skew_ns(self) -> int:
        """How far a peer's clock may be from ours."""
        return self._terms.timeouts.skew

    async def known(self, custody: bytes) -> SessionRunner | None:
        """The runner of a custody in the journal; None if the journal has none.

        Raises JournalCorrupt and what `load_session` raises.
        """
        session = self._sessions.get(custody)
        if session is not None:
            return session.runner
        try:
            held = await self._party.journal.custody(custody)
        except UnknownCustody:
            return None
        if held.lane != SOLVER:
            return None
        return await self._load_session(held)

    @asynccontextmanager
    async def _alone(self, custody: bytes) -> AsyncGenerator[None, None]:
        """Let one task at a time load or forget a custody, so that it never has two runners. There
        is one lock for each custody: loading may wait for our wallet, and others must not wait."""
        lock = self._busy.setdefault(custody, trio.Lock())
        async with lock:
            try:
                yield
            finally:
                # Drop the lock with its last user, or strangers could fill memory with locks.
                if not lock.statistics().tasks_waiting:
                    del self._busy[custody]

    async def _load_session(self, custody: JournalledCustody) -> SessionRunner:
        """Load a custody and run its session, or return the one that is running already."""
        key = custody.agreement.custody
        async with self._alone(key):
            # Another task may have loaded it while we waited for the lock.
            if key in self._sessions:
                return self._sessions[key].runner
            listeners: list[Callable[[Event], None]] = []

            def on_event(event: Event) -> None:
                # A trader with a trading session must not lose its place to strangers.
                if isinstance(event, StatusChanged) and event.status is SessionStatus.TRADING:
                    place = self._places.get(key)
                    if place is not None:
                        place.keep()
                for listener in listeners:
                    listener(event)

            runner = await load_session(self._party, custody, on_event)
            # The server may have ended while we loaded.
            if self._nursery is None:
                raise Disconnected("the server is not running")
            # Only now: the application's `session` needs the runner, and `load_session` needs a
            # listener. No event is lost, since the runner is not running yet.
            listeners.append(self._application.session(runner))
            self._left_at.pop(key, None)
            self._sessions[key] = _Session(runner, trio.CancelScope())
            await self._nursery.start(self._keep, key)
            return runner

    async def _keep(
        self, key: bytes, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run one session to its end, and keep its errors from other sessions."""
        session = self._sessions[key]
        try:
            with session.scope:
                await session.runner.run(task_status=task_status)
        except* (JournalError, StorageError):
            raise  # All sessions share the journal: nothing can be signed any more.
        except* Exception as failed:
            log.exception(
                "session-failed",
                extra={"custody": "0x" + key.hex(), "error": type(failed.exceptions[0]).__name__},
            )
        finally:
            # A newer session of this custody may have replaced ours.
            if self._sessions.get(key) is session:
                del self._sessions[key]
                self._past = Traffic.sum((self._past, session.runner.stats.traffic()))

    @contextmanager
    def placed(self, runner: SessionRunner, place: ConnectionSlot) -> Iterator[None]:
        """Hold this place for the session's connection. It is safe from strangers when the session
        trades."""
        key = runner.agreement.custody
        self._places[key] = place
        try:
            yield
        finally:
            if self._places.get(key) is place:
                del self._places[key]

    def engaged(self, scope: trio.CancelScope) -> None:
        """The connection belongs to a session now, which says goodbye on its own."""
        self._receptions.discard(scope)

    def gone(self, runner: SessionRunner) -> None:
        """A session's connection has ended. Drop ended custodies and strangers' from memory."""
        if runner.attached:
            return  # Another connection took over.
        # The time counts from the first loss: coming and going does not prolong it.
        if runner.protocol.is_stranger:
            self._left_at.setdefault(runner.agreement.custody, trio.current_time())
        if runner.protocol.is_stranger or runner.protocol.status in (
            SessionStatus.CLOSED,
            SessionStatus.STOPPED,
        ):
            self.drop(runner)

    async def _forget_strangers(self) -> None:
        """Remove custodies from the disk that their traders left before collateral of theirs was on
        chain. There we have signed a refusal at most. A trader that comes back is treated as new
        (`spec.md` 68)."""
        while True:
            await trio.sleep(FORGET_S / 5)
            await self._forget_left_before(trio.current_time() - FORGET_S)

    async def _forget_left_before(self, when: float) -> None:
        for custody in [one for one, at in self._left_at.items() if at <= when]:
            async with self._alone(custody):
                self._left_at.pop(custody, None)
                # Its trader may have come back while we waited for the lock.
                if custody not in self._sessions:
                    await self._party.journal.forget_stranger(custody)

    async def make_room(self) -> None:
        """Check for room before we open a new custody. Raises SolverUnable if the disk is nearly
        full. Existing sessions continue."""
        if self._disk_is_full():
            raise SolverUnable("the solver's disk is nearly full")
        if len(self._left_at) >= MOST_LEFT:
            await self._forget_left_before(min(self._left_at.values()))

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

    def drop(self, runner: SessionRunner) -> None:
        """Drop a session from memory; its journal stays."""
        session = self._sessions.get(runner.agreement.custody)
        if session is not None and session.runner is runner:
            session.scope.cancel()

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
        if ours and not await self._remembers(introduced.agreement.custody):
            try:
                await self._party.collateral.check_funds(self._terms, ours)
            except FundsTooLow as short:
                self._log(logging.WARNING, "out-of-funds", {"asked": ours, "code": short.code})
                raise SolverFundsTooLow() from None
        return [said, document], introduced

    async def _remembers(self, custody: bytes) -> bool:
        """Whether we hold this custody already, so that our collateral is in it or on its way."""
        if custody in self._sessions:
            return True
        try:
            return (await self._party.journal.custody(custody)).lane == SOLVER
        except UnknownCustody:
            return False

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


class _Reception:
    """A connection before it is a session's."""

    def __init__(self, server: SolverServer, socket: Socket) -> None:
        self._server = server
        self._socket = socket
        self._place = socket.place if isinstance(socket, WebSocket) else ConnectionSlot()
        self._introduced: Introduced | None = None
        self._challenge: bytes | None = None
        # Texts with which the peer asked for our challenge, by custody. The session sees them too.
        self._theirs: dict[bytes, str] = {}
        self._noise = 0
        self._texts = TokenBucket(TEXTS_PER_SECOND, TEXTS_PER_SECOND, trio.current_time())

    async def run(self, scope: trio.CancelScope) -> None:
        """Answer texts until the connection becomes a session's, then serve that session.

        scope: Cancelled if the server leaves before that.
        """
        # Two limits: heartbeats prolong the silence, but not the time without a session.
        until = trio.current_time() + INTRODUCED_S
        with trio.move_on_after(SILENT_S) as idle:
            while True:
                message = await self._socket.receive()
                idle.deadline = min(until, trio.current_time() + SILENT_S)
                self._pace(len(message))
                runner = await self._receive(message)
                if runner is not None:
                    idle.deadline = float("inf")
                    self._server.engaged(scope)
                    # A frame is the Logon of a new custody; a text is a resume.
                    fresh = isinstance(message, bytes)
                    asked = self._theirs.get(runner.agreement.custody)
                    first = [message] if asked is None else [asked, message]
                    try:
                        with self._server.placed(runner, self._place):
                            await runner.attach(
                                self._socket, fresh=fresh, first=first, challenge=self._challenge
                            )
                    except Exception:
                        # A bug struck half way, so we cannot trust what is in memory. The next
                        # connection loads the custody from its journal.
                        self._server.drop(runner)
                        raise
                    finally:
                        self._server.gone(runner)
                    return

    def _pace(self, size: int) -> None:
        """Limit size and rate, before we parse anything. Raises PeerViolation."""
        if size > MESSAGE_BYTES:
            raise MessageTooBig(size=size, most=MESSAGE_BYTES)
        self._place.read(size)
        if not self._texts.spend(1, trio.current_time()):
            raise PeerViolation("too many messages", per_second=TEXTS_PER_SECOND)

    async def _receive(self, message: str | bytes) -> SessionRunner | None:
        try:
            if isinstance(message, bytes):
                return await self._frame(message)
            return await self._text(decode_text(message))
        except JsonError as bad:
            await self._noisy("text", f"{bad.code} at byte {bad.offset}")
        except FrameError as bad:
            await self._noisy("frame", f"{bad.code} at byte {bad.offset}")
        # These may be honest mistakes, so the connection may try again, up to NOISE_LIMIT.
        except (HandshakeRefused, LogonRefused, KnownCustody) as refused:
            self._server.refused(refused)
            await self._noisy("UHI", str(refused), _reason_of(refused))
        return None

    async def _frame(self, data: bytes) -> SessionRunner:
        """Open a session for the first frame of a custody that was introduced on this connection.
        Raises LogonRefused, KnownCustody, FrameError, and what `SolverServer.open` and
        `make_room` raise."""
        frame = Frame.parse(data)
        introduced = self._introduced
        if introduced is None:
            raise LogonRefused("introduce yourself (UHI) before the first frame")
        if frame.custody != introduced.agreement.custody:
            raise LogonRefused(
                "the Logon is of another custody than the one introduced here",
                custody=frame.custody,
                introduced=introduced.agreement.custody,
            )
        if await self._server.agreement_of(frame.custody) is not None:
            # Anyone who saw the Logon can send it again: it proves nothing on this connection.
            raise KnownCustody("this custody has begun; resume it", custody=frame.custody)
        # Both before `open`: a new custody costs a wallet's signature, disk and chain look-ups.
        self._place.check()
        await self._server.make_room()
        return await self._server.open(introduced, frame)

    async def _text(self, message: Message) -> SessionRunner | None:
        """Answer one text. Returns the runner if it resumed a session."""
        match message:
            case Introduction():
                if message.collateral:
                    self._place.check()  # We look at funds and sign the handshake.
                answers, introduced = await self._server.handshake(message)
                # Only a signed handshake can be followed by a Logon.
                self._introduced = introduced if message.collateral else None
                for each in answers:
                    await self._say(each)
            case Resume():
                return await self._resume(message)
            case MarketDataRequest():
                try:
                    snapshots = await self._server.prices(message)
                except PSymmError as refused:
                    await _refuse(self._socket, "V", str(refused))
                    return None
                for snapshot in snapshots:
                    await self._say(snapshot)
            case SecurityListRequest():
                await self._say(self._server.instruments(message))
            case TestRequest():
                await self._say(Heartbeat(test_req_id=message.test_req_id))
            case Heartbeat():
                pass
            case _:
                await self._noisy(message.MSG_TYPE, "there is no session on this connection yet")
        return None

    async def _resume(self, said: Resume) -> SessionRunner | None:
        """Answer a challenge with ours, for any custody, known or not. Heads must be signed over
        our challenge before we read the custody's history, and before its current connection is
        replaced.
        """
        if said.challenge is not None:
            if len(self._theirs) < MOST_CHALLENGES:
                self._theirs.setdefault(said.custody, encode_text(said))
            # One challenge per connection: all custodies asked about here share it.
            if self._challenge is None:
                self._challenge = token_bytes(32)
            await self._say(challenge_for(said.custody, self._challenge))
            return None
        met, server = self._introduced, self._server
        agreement = await server.agreement_of(said.custody)
        held = agreement is not None
        # Not in the journal, but introduced on this connection: the agreement is enough to check
        # the signature.
        if agreement is None and met is not None and met.agreement.custody == said.custody:
            agreement = met.agreement
        if agreement is None:
            why = f"unknown-custody: 0x{said.custody.hex()}"
            await self._noisy("URS", why, BusinessRejectReason.UNKNOWN_ID)
            return None
        try:
            if self._challenge is None:
                raise ResumeRefused("ask for our challenge first")
            check_resume(agreement, TRADER, self._challenge, said, server.now_ns - server.skew_ns)
            if held and server.is_strangers(said.custody):
                # Loading costs wallet, journal and chain as much as a first Logon does.
                self._place.check()
            known = await server.known(said.custody) if held else None
            if known is not None:
                known.proves(said, self._challenge)
                if not known.protocol.is_stranger:
                    # A Logon alone costs a stranger nothing, so it does not secure a place.
                    self._place.keep()
                return known
        except ResumeRefused as refused:
            await self._noisy("URS", str(refused))
            return None
        # Its Logon never reached us, and we keep nothing for a text. The trader begins again.
        await self._say(nothing_yet(said.custody))
        return None

    async def _say(self, message: Message) -> None:
        await self._socket.send(encode_text(message))

    async def _noisy(
        self, kind: str, why: str, reason: BusinessRejectReason = BusinessRejectReason.OTHER
    ) -> None:
        self._noise += 1
        self._place.noise()
        await _refuse(self._socket, kind, why, reason)
        if self._noise >= NOISE_LIMIT:
            raise PeerViolation("the peer keeps sending what is not valid", last=why)


def check_first(agreement: CustodyAgreement, frame: Frame) -> None:
    """Check that the frame is a Logon of this custody's trader. Raises LogonRefused."""
    try:
        entry = Record(agreement).append(frame)
    except (TranscriptError, FrameError, DelegationRefused) as bad:
        raise LogonRefused(str(bad)) from None
    if frame.lane != TRADER or not isinstance(entry.message, Logon):
        raise LogonRefused("the first frame of a custody is the trader's Logon")


def _reason_of(refused: PSymmError) -> BusinessRejectReason:
    """Tells the peer whether to try again. Programs read the reason, not the words."""
    if isinstance(refused, SolverUnable):
        return BusinessRejectReason.NOT_AVAILABLE
    if isinstance(refused, HandshakeRefused):
        return BusinessRejectReason.NOT_AUTHORIZED
    if isinstance(refused, LogonRefused | KnownCustody | PeerViolation):
        return BusinessRejectReason.OTHER
    # Trouble of our own: disk, chain or wallet. It may pass.
    return BusinessRejectReason.NOT_AVAILABLE


async def _refuse(
    socket: Socket, kind: str, why: str, reason: BusinessRejectReason = BusinessRejectReason.OTHER
) -> None:
    said = BusinessMessageReject(
        ref_msg_type=kind,
        business_reject_reason=reason,
        text=clip(why) or "refused",
    )
    try:
        with trio.move_on_after(5):
            await socket.send(encode_text(said))
    except (Disconnected, PeerViolation):
        return
