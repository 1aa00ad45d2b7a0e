"""The solver's side: one server, many traders, none of whom can harm another.

A connection begins with introductions, terms and indicative prices as text, which cost nothing to
answer and leave nothing behind. The first valid Logon, or a proven resume of a custody in the
journal (`spec.md` 69), turns it into a session.
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
"""How long a connection without a session may say nothing: who funds sends heartbeats."""
INTRODUCED_S: Final = 1_800.0
"""How long a connection may stand without a session: a trader funds in this time."""
LEAVE_S: Final = 10.0
"""How long goodbyes may take, all together."""
TEXTS_PER_SECOND: Final = 50
NOISE_LIMIT: Final = 8
FORGET_S: Final = 300.0
"""How long a custody without collateral stays on disk once its trader has left."""
MOST_LEFT: Final = 1024
"""So many of them; then the one that was left first goes at once."""
DISK_FLOOR: Final = 256 * 1024 * 1024
MESSAGE_BYTES: Final = 64 * 1024
"""The longest message that is read of a stranger."""
PENALTY_S: Final = 2.0
"""How long a connection that was cut off for nonsense is left standing before it is closed."""
LOG_S: Final = 1.0
"""Between two lines of one kind that strangers can cause; statistics count them all."""
MOST_CHALLENGES: Final = 4
"""Custodies that one connection may ask us about before it is one of their sessions."""


class Application(Protocol):
    """What runs on top of the server: prices for everybody, and a listener for each session."""

    async def prices(self, request: MarketDataRequest) -> list[MarketDataSnapshotFullRefresh]:
        """Indicative prices. Raises PSymmError to refuse. Cancelled: the asker is gone."""
        ...

    def collateral_for(self, trader: str, introduced: int) -> int:
        """Our collateral against `introduced` token units of the trader with that address, whose
        word for it is not signed yet. Raises HandshakeRefused."""
        ...

    def session(self, runner: SessionRunner) -> Callable[[Event], None]:
        """A session begins (or is taken up again): returns what hears its events."""
        ...


@dataclass
class _Session:
    runner: SessionRunner
    scope: trio.CancelScope


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """connections: standing now. sessions: in memory, connected or not. runners: each by its
    custody. states: how many of them are in each state. waiting: their turns that are not yet
    durable. outgoing: their messages that wait for a peer to read. refused: introductions, Logons
    and connections refused before they were a session's, by error code. traffic: of all sessions
    since the server began, those that left memory included. admission: who was let in."""

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

    disk_floor: bytes that must be free beside the journal for a new custody to be taken.
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
        self._places: dict[bytes, ConnectionSlot] = {}
        self._left_at: dict[bytes, float] = {}
        self._party = party
        self._terms = terms
        self._host = Host(
            party.wallet.public_key, party.chain_id, party.contract, terms.document, secret
        )
        self._keys = IntroductionKeys(party.wallet, party.clock, party.chain_id, party.contract)
        self._application = application
        self._sessions: dict[bytes, _Session] = {}
        self._busy: dict[bytes, trio.Lock] = {}
        self._connections = 0
        self._refused: Counter[str] = Counter()
        self._logged: dict[tuple[str, object], float] = {}
        self._past = Traffic()
        self._nursery: trio.Nursery | None = None
        self._leaving: str | None = None
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
        """Serve until cancelled, or until `leave` is through; reports the port.

        Raises JournalError if the journal fails: nothing could be signed any more.
        Cancelled: connections close, sessions can be resumed from the journal.
        """
        with self._done:
            await self._serve(host, port, tls, task_status)

    async def _serve(
        self, host: str, port: int, tls: Tls | None, task_status: trio.TaskStatus[int]
    ) -> None:
        async with trio.open_nursery() as nursery:
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
        """Keep sessions alive, and take up those with a settlement under way; until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
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
                if early and custody.state in ("handshake", "open", "stopped"):
                    # Whether it is a stranger's is looked up when its time is over.
                    self._left_at[custody.agreement.custody] = trio.current_time()
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
                # From here on the nursery may close: no session is taken up in it.
                self._nursery = None

    @property
    def acknowledgement_s(self) -> float:
        """T of the terms, seconds: for so long either side can hold a frame back and still have it
        count from when it says that it was sent. What the price can do in that time belongs into
        the price."""
        return self._terms.timeouts.acknowledgement / 1e9

    def statistics(self) -> ServerStatistics:
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
        """Count that a peer was refused before it had a session, and log it now and then."""
        self._refused[error.code] += 1
        self._log(logging.WARNING, "refused", {"code": error.code})

    def _log(self, level: int, name: str, values: dict[str, object]) -> None:
        """What strangers can make us say is said once in LOG_S of each kind, and counted."""
        kind, now = (name, values.get("code")), trio.current_time()
        if now - self._logged.get(kind, float("-inf")) >= LOG_S:
            self._logged[kind] = now
            log.log(level, name, extra=values)

    def turn_away(self, reason: str) -> None:
        """Take no connection and no session any more; those that stand go on."""
        self._leaving = reason
        self.admission.close(reason)
        for scope in self._receptions:
            scope.cancel()

    async def leave(self, reason: str = "the solver restarts") -> None:
        """End on purpose, to come back: nobody new is taken, what is signed is flushed and sent,
        and every peer is told by WebSocket code 1001. Then `serve` returns.

        No Logout is signed, after which nothing opens any more: the next process goes on from the
        journal. At most LEAVE_S. Cancelled: connections are cut; nothing is lost.
        """
        self.turn_away(reason)
        with trio.move_on_after(LEAVE_S):
            async with trio.open_nursery() as nursery:
                for session in list(self._sessions.values()):
                    nursery.start_soon(session.runner.leave, reason)
        self._done.cancel()

    # --- connections ------------------------------------------------------------------------

    async def connection(self, socket: WebSocket | Socket) -> None:
        """Serve one connection to its end. Never raises but Cancelled: whatever one peer does or
        makes us do ends with its connection."""
        self._connections += 1
        code, reason = 1000, ""
        scope = trio.CancelScope()
        self._receptions.add(scope)
        try:
            with scope:
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
                # Unread and unanswered it keeps its place: who is cut off comes back no sooner.
                await trio.sleep(PENALTY_S)
        except Exception as failed:
            log.exception("connection-failed", extra={"error": type(failed).__name__})
            # A bug that one peer found must not take the others down; it is named, not shown.
            why = f"internal error ({type(failed).__name__})"
            await _refuse(socket, "session", why, BusinessRejectReason.NOT_AVAILABLE)
        finally:
            self._connections -= 1
            self._receptions.discard(scope)
            with trio.CancelScope(shield=True):
                await socket.aclose(code, reason)

    async def open(self, introduced: Introduced, frame: Frame) -> SessionRunner:
        """A session for a custody whose first frame this is, checked before anything is kept.

        Raises LogonRefused, KnownCustody, JournalError.
        """
        check_first(introduced.agreement, frame)
        agreement = introduced.agreement
        await self._party.journal.open_custody(
            agreement,
            SOLVER,
            self._party.clock.now_ns(),
            ours=introduced.collaterals[SOLVER],
            announced_collateral=introduced.collaterals[TRADER],
        )
        return await self._load_session(await self._party.journal.custody(agreement.custody))

    async def agreement_of(self, custody: bytes) -> CustodyAgreement | None:
        """The opening of a custody that we hold, its history unread; None where there is none."""
        session = self._sessions.get(custody)
        if session is not None:
            return session.runner.agreement
        try:
            held = await self._party.journal.custody(custody)
        except UnknownCustody:
            return None
        return held.agreement if held.lane == SOLVER else None

    def is_strangers(self, custody: bytes) -> bool:
        """Whether nothing has shown yet that anybody's collateral is in it."""
        session = self._sessions.get(custody)
        return custody in self._left_at if session is None else session.runner.protocol.is_stranger

    @property
    def now_ns(self) -> int:
        """By our clock."""
        return self._party.clock.now_ns()

    @property
    def skew_ns(self) -> int:
        """How far a peer's clock may be from ours."""
        return self._terms.timeouts.skew

    async def known(self, custody: bytes) -> SessionRunner | None:
        """The running end of a custody in the journal, or None where there is none.

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
        """One task at a time takes a custody up or forgets it: it never has two ends. What is done
        for one may wait for our wallet, so no other custody waits with it."""
        lock = self._busy.setdefault(custody, trio.Lock())
        async with lock:
            try:
                yield
            finally:
                if not lock.statistics().tasks_waiting:
                    del self._busy[custody]

    async def _load_session(self, custody: JournalledCustody) -> SessionRunner:
        key = custody.agreement.custody
        async with self._alone(key):
            if key in self._sessions:
                return self._sessions[key].runner
            listeners: list[Callable[[Event], None]] = []

            def on_event(event: Event) -> None:
                if isinstance(event, StatusChanged) and event.status is SessionStatus.TRADING:
                    place = self._places.get(key)
                    if place is not None:
                        place.keep()
                for listener in listeners:
                    listener(event)

            runner = await load_session(self._party, custody, on_event)
            if self._nursery is None:
                raise Disconnected("the server is not running")
            listeners.append(self._application.session(runner))
            self._left_at.pop(key, None)
            self._sessions[key] = _Session(runner, trio.CancelScope())
            await self._nursery.start(self._keep, key)
            return runner

    async def _keep(
        self, key: bytes, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        session = self._sessions[key]
        try:
            with session.scope:
                await session.runner.run(task_status=task_status)
        except* (JournalError, StorageError):
            raise  # all sessions share the journal: nothing can be signed any more
        except* Exception as failed:
            log.exception(
                "session-failed",
                extra={"custody": "0x" + key.hex(), "error": type(failed.exceptions[0]).__name__},
            )
        finally:
            if self._sessions.get(key) is session:
                del self._sessions[key]
                self._past = Traffic.sum((self._past, session.runner.stats.traffic()))

    @contextmanager
    def placed(self, runner: SessionRunner, place: ConnectionSlot) -> Iterator[None]:
        """Its connection has this place, which is safe from strangers once it trades."""
        key = runner.agreement.custody
        self._places[key] = place
        try:
            yield
        finally:
            if self._places.get(key) is place:
                del self._places[key]

    def engaged(self, scope: trio.CancelScope) -> None:
        """This connection is a session now, which says goodbye by itself."""
        self._receptions.discard(scope)

    def gone(self, runner: SessionRunner) -> None:
        """Its connection is over; a custody that has ended leaves memory, and a stranger's too."""
        if runner.attached:
            return  # Another connection took over.
        if runner.protocol.is_stranger:
            self._left_at.setdefault(runner.agreement.custody, trio.current_time())
        if runner.protocol.is_stranger or runner.protocol.status in (
            SessionStatus.CLOSED,
            SessionStatus.STOPPED,
        ):
            self.drop(runner)

    async def _forget_strangers(self) -> None:
        """Have custodies leave the disk that their traders left before our chain had collateral of
        theirs. We have signed nothing there but, at most, a refusal; a trader that comes back is
        met as if it came for the first time (`spec.md` 68)."""
        while True:
            await trio.sleep(FORGET_S / 5)
            await self._forget_left_before(trio.current_time() - FORGET_S)

    async def _forget_left_before(self, when: float) -> None:
        for custody in [one for one, at in self._left_at.items() if at <= when]:
            async with self._alone(custody):
                self._left_at.pop(custody, None)
                if custody not in self._sessions:
                    await self._party.journal.forget_stranger(custody)

    async def make_room(self) -> None:
        """Before a new custody is taken. Raises SolverUnable where the disk is nearly full; what
        trades goes on."""
        if self._disk_is_full():
            raise SolverUnable("the solver's disk is nearly full")
        if len(self._left_at) >= MOST_LEFT:
            await self._forget_left_before(min(self._left_at.values()))

    def _disk_is_full(self) -> bool:
        """One system call, as quick as a look at the clock."""
        try:
            free = disk_usage(Path(self._party.journal.path).parent).free
        except OSError:
            return False  # The journal itself says so where it cannot write.
        if free < self._disk_floor:
            self._log(logging.ERROR, "disk-nearly-full", {"free": free, "floor": self._disk_floor})
            return True
        return False

    def drop(self, runner: SessionRunner) -> None:
        """Forget a session in memory; its journal stays."""
        session = self._sessions.get(runner.agreement.custody)
        if session is not None and session.runner is runner:
            session.scope.cancel()

    # --- texts before a session -------------------------------------------------------------

    async def handshake(self, greeting: Introduction) -> tuple[list[Message], Introduced]:
        """Answer an introduction; signed where it brings collateral (`spec.md` 61). We promise only
        collateral that we have: what is not there, or is being put up for others, is refused before
        the trader funds. Nothing is kept for whoever introduces itself, so strangers cannot use it
        up.

        Raises HandshakeRefused, SolverUnable. Cancelled: raises Cancelled, nothing is kept.
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
        if ours and not await self._remembers(introduced.agreement.custody):
            try:
                await self._party.collateral.check_funds(self._terms, ours)
            except FundsTooLow as short:
                self._log(logging.WARNING, "out-of-funds", {"asked": ours, "code": short.code})
                raise SolverFundsTooLow() from None
        return [said, document], introduced

    async def _remembers(self, custody: bytes) -> bool:
        """Whether a custody is ours already, so that what we put up there is under way or there."""
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
    """A connection before it is a session."""

    def __init__(self, server: SolverServer, socket: Socket) -> None:
        self._server = server
        self._socket = socket
        self._place = socket.place if isinstance(socket, WebSocket) else ConnectionSlot()
        self._introduced: Introduced | None = None
        self._challenge: bytes | None = None
        self._theirs: dict[bytes, str] = {}
        self._noise = 0
        self._texts = TokenBucket(TEXTS_PER_SECOND, TEXTS_PER_SECOND, trio.current_time())

    async def run(self, scope: trio.CancelScope) -> None:
        """scope: cancelled where the server leaves before this is a session."""
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
                    fresh = isinstance(message, bytes)
                    asked = self._theirs.get(runner.agreement.custody)
                    first = [message] if asked is None else [asked, message]
                    try:
                        with self._server.placed(runner, self._place):
                            await runner.attach(
                                self._socket, fresh=fresh, first=first, challenge=self._challenge
                            )
                    except Exception:
                        # A bug met half way: what is in memory is no longer to be trusted. The
                        # next connection takes the custody up from its journal.
                        self._server.drop(runner)
                        raise
                    finally:
                        self._server.gone(runner)
                    return

    def _pace(self, size: int) -> None:
        """Before anything of a message is parsed. Raises PeerViolation."""
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
        except (HandshakeRefused, LogonRefused, KnownCustody) as refused:
            self._server.refused(refused)
            await self._noisy("UHI", str(refused), _reason_of(refused))
        return None

    async def _frame(self, data: bytes) -> SessionRunner:
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
            # Whoever saw the Logon can send it again: it proves nothing on this connection.
            raise KnownCustody("this custody has begun; resume it", custody=frame.custody)
        self._place.check()
        await self._server.make_room()
        return await self._server.open(introduced, frame)

    async def _text(self, message: Message) -> SessionRunner | None:
        match message:
            case Introduction():
                if message.collateral:
                    self._place.check()  # Funds are looked at, and the handshake is signed.
                answers, introduced = await self._server.handshake(message)
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
        """A challenge, answered with ours whatever we know of the custody; or heads, which must be
        signed over ours before its history is read, and before a connection that stands gives way.
        """
        if said.challenge is not None:
            if len(self._theirs) < MOST_CHALLENGES:
                self._theirs.setdefault(said.custody, encode_text(said))
            if self._challenge is None:
                self._challenge = token_bytes(32)
            await self._say(challenge_for(said.custody, self._challenge))
            return None
        met, server = self._introduced, self._server
        agreement = await server.agreement_of(said.custody)
        held = agreement is not None
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
                # Our wallet, journal and chain are asked again, as for a first Logon.
                self._place.check()
            known = await server.known(said.custody) if held else None
            if known is not None:
                known.proves(said, self._challenge)
                if not known.protocol.is_stranger:
                    # A Logon alone costs nothing, and its place none that is kept.
                    self._place.keep()
                return known
        except ResumeRefused as refused:
            await self._noisy("URS", str(refused))
            return None
        # Its Logon never reached us, and we keep nothing for a text. It begins anew.
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
    """The frame is a Logon that this custody's trader signed. Raises LogonRefused."""
    try:
        entry = Record(agreement).append(frame)
    except (TranscriptError, FrameError, DelegationRefused) as bad:
        raise LogonRefused(str(bad)) from None
    if frame.lane != TRADER or not isinstance(entry.message, Logon):
        raise LogonRefused("the first frame of a custody is the trader's Logon")


def _reason_of(refused: PSymmError) -> BusinessRejectReason:
    """Whether the refused may try again: a machine reads the reason, not the words."""
    if isinstance(refused, SolverUnable):
        return BusinessRejectReason.NOT_AVAILABLE
    if isinstance(refused, HandshakeRefused):
        return BusinessRejectReason.NOT_AUTHORIZED
    if isinstance(refused, LogonRefused | KnownCustody | PeerViolation):
        return BusinessRejectReason.OTHER
    # Trouble of our own: disk, chain, wallet.
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
