"""One end of a session, running: protocol, journal, socket and custody put together.

`perform` is the one place that carries effects out, in the order that `protocol.effects` promises:
what is stored goes to the journal in one write; once that is durable, `_fulfil` sends and tells the
rest in order. Lists follow one another through the journal, so they keep their order. What came
together, of whatever session, is one commit. A connection may come and go; the runner lives on, and
signs nothing between two of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Final, Protocol, cast, get_args

import trio

from psymm._core import Frame, JsonError
from psymm.errors import (
    CollateralRefused,
    Disconnected,
    Leaving,
    NotNow,
    OverBudget,
    PeerViolation,
    PSymmError,
    SessionClosed,
    WalletError,
)
from psymm.journal.codec import CustodyState
from psymm.journal.committer import Change
from psymm.journal.faults import JournalFailure
from psymm.journal.writer import Journal
from psymm.messages import Message, Resume
from psymm.session.protocol import (
    Delivered,
    Disconnect,
    Effect,
    Effects,
    Event,
    FrameBatch,
    FundCollateral,
    HealthChanged,
    ImportFrame,
    KeyChanged,
    KeyDue,
    ResendCompacted,
    RevokeFrames,
    SendFrame,
    SendText,
    SessionProtocol,
    SessionStatus,
    Stopped,
    StoreCheckpoint,
    StoreEvidence,
    StoreFact,
    StoreFrame,
    StoreHealth,
    StoreOpenings,
    StoreRevocations,
    StoreStatus,
    VerifyCollateral,
    provisional,
)
from psymm.session.protocol.budget import (
    MOST_AHEAD,
    MOST_REPEATED_BYTES,
    Load,
)
from psymm.session.protocol.effects import Send, Store
from psymm.session.runtime.clock import Clock
from psymm.session.runtime.collateral import Collateral, Note
from psymm.session.runtime.key_rotator import KeyRotator
from psymm.session.runtime.ledger import RulebookLedger
from psymm.session.runtime.peer_connection import PeerConnection
from psymm.session.runtime.rounds import Inlet, Item, Rounds
from psymm.session.runtime.stats import SessionStats, Traffic
from psymm.session.runtime.transport import GOING_AWAY, MAX_BURST_BYTES, Socket, WebSocket
from psymm.transcript.agreement import JournalledOpening
from psymm.transcript.checkpoint import Point
from psymm.transcript.record import RecordedFrame
from psymm.transcript.verifying import Claim, FrameVerifier
from psymm.waiting import Sleeper

BACKLOG: Final = 64
"""Turns that may wait for the journal before nothing more is read from the socket."""
AT_ONCE: Final = 32
"""Frames of one message that are received before other sessions have their turn."""
_NEVER: Final = 2**63
LOOK_UP_S: Final = 2.0
LOOK_UP_AGAIN_S: Final = 10.0
"""Between two looks at our own chain for what the peer cites; and where it does not answer."""

_STORES: Final = frozenset(get_args(Store))
_SENDS: Final = frozenset(get_args(Send))
_SILENT: Final = _STORES | _SENDS
"""Effects that are no events."""

_SERVED: Final = (Delivered, VerifyCollateral, FundCollateral, KeyDue, HealthChanged, KeyChanged)
"""Events for which something is done here."""

_JOURNAL_STATES: Final[dict[SessionStatus, CustodyState]] = {
    SessionStatus.LOGON: "open",
    SessionStatus.VERIFYING: "open",
    SessionStatus.TRADING: "open",
    SessionStatus.SETTLING: "settling",
    SessionStatus.CLOSED: "closed",
    SessionStatus.STOPPED: "stopped",
}


@dataclass(frozen=True, slots=True)
class RunnerStatistics:
    """connections: so far. frames: on the record. waiting: turns not yet durable. load: what is
    held for the peer now. last_in_ns, last_out_ns: by our clock, when the last
    frame of the peer's and of ours was durable, None before the first. covered_ns: how long the
    peer took to cover the last frame of ours of which that was measured, both journals included.
    """

    connections: int
    frames: int
    waiting: int
    state: SessionStatus
    connected: bool
    load: Load
    last_in_ns: int | None
    last_out_ns: int | None
    covered_ns: int | None
    traffic: Traffic


class _Alarm:
    """One moment at which a session looks at its deadlines; void once there is another."""

    __slots__ = ("_runner",)

    def __init__(self, runner: SessionRunner) -> None:
        self._runner = runner

    @property
    def asleep(self) -> bool:
        return self._runner.armed(self)

    def wake(self) -> None:
        self._runner.tick(self)


class Guard(Protocol):
    """What may keep an application from signing a message."""

    def check(self, message: Message, now_ns: int) -> None:
        """Raises the SessionError for which it is not signed."""
        ...

    def signed(self, message: Message, now_ns: int) -> None:
        """It was signed."""
        ...


class SessionRunner:
    """guard: asked before the application's messages are signed. was_synced: whether heads agreed
    on the connection that went last. at_end: called once `run` is over, whatever ended it; must
    not block and not raise.
    on_event: called with every event, in order, after what caused it is durable; it must not
    block and not raise. rounds: shared by all sessions of a party. `run` must be running for
    anything to happen."""

    def __init__(
        self,
        protocol: SessionProtocol,
        journal: Journal,
        clock: Clock,
        collateral: Collateral | None,
        on_event: Callable[[Event], None],
        *,
        collateral_amount: int = 0,
        rotator: KeyRotator | None = None,
        rounds: Rounds | None = None,
    ) -> None:
        self.protocol = protocol
        self._rounds = rounds or Rounds(journal, clock, FrameVerifier())
        self.agreement = protocol.record.agreement
        self.lane = protocol.lane
        self.journal = journal
        self.clock = clock
        self._collateral = collateral
        self.stats = SessionStats(
            protocol.record.agreement.custody, protocol.lane, clock, protocol.state
        )
        self._listener = on_event
        self.collateral_amount = collateral_amount
        self._rotator = rotator
        # What came before `run` did.
        self._early: list[Effects] = []
        # Durable, in order, and waiting for frames that are being read from the journal.
        self._behind: deque[Effects] = deque()
        self._reading = False
        self._taken = 0
        self._done = 0
        self._wake = trio.Event()
        self._waiters: list[tuple[int, int, Sleeper]] = []
        self._numbers = count()
        # When the protocol is to look at its deadlines, by its clock, and what will have it do so.
        self._due = 0
        self._alarm: _Alarm | None = None
        self.guard: Guard | None = None
        self.was_synced = False
        self._connection: PeerConnection | None = None
        self._connections = 0
        self._nursery: trio.Nursery | None = None
        self._failed: Exception | None = None
        self.at_end: list[Callable[[], None]] = []
        self._asking = False

    # --- life -------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write turns to the journal and carry them out; until cancelled.

        Raises JournalError or StorageError if the journal fails: the session is then over for
        this process.
        Cancelled: turns already taken are journalled or not as a whole; none is sent unless it
        was journalled.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    await self._run(nursery, task_status)
                finally:
                    # From here on the nursery may close, and nothing may be begun in it.
                    self._nursery = None
        except BaseException as failed:
            leaf = failed
            while isinstance(leaf, BaseExceptionGroup):
                leaf = leaf.exceptions[0]
            self._failed = leaf if isinstance(leaf, PSymmError) else SessionClosed()
            self._finished(0)
            raise
        finally:
            for told in self.at_end:
                told()

    async def _run(self, nursery: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        self._ask_chain()
        if self._rotator is not None:
            self._rotator.begin(self.perform, self._on_event)
            nursery.start_soon(self._rotator.run, nursery)
        early, self._early = self._early, []
        for effects in early:
            self._write(effects)
        task_status.started()
        while self._failed is None:
            self._wake = trio.Event()
            await self._wake.wait()
        raise self._failed

    @property
    def over(self) -> PSymmError | None:
        """What ended `run`, None while it runs. Nothing happens in this session any more."""
        failed = self._failed
        if failed is None or isinstance(failed, PSymmError):
            return failed
        # A bug of whoever listens; `run` raises that itself.
        return SessionClosed(f"a listener failed ({type(failed).__name__})")

    async def attach(
        self,
        socket: Socket,
        *,
        fresh: bool,
        first: Sequence[str | bytes] = (),
        challenge: bytes | None = None,
    ) -> PSymmError:
        """Serve one connection until it is gone; returns why it went.

        fresh: the handshake was on it. first: messages already read from it. challenge: ours, if
        the peer was told one on it already. A connection that stands is superseded: the caller has
        verified that this one is the peer's (`proves`). Where no session key of ours can prove who
        we are, the wallet is asked first, and its error returned. Cancelled: raises Cancelled; the
        socket is closed.
        """
        if self._rotator is not None:
            try:
                await self._rotator.prove()
            except WalletError as failed:
                return failed
        while (standing := self._connection) is not None:
            standing.reason = Disconnected("another connection took over this session")
            standing.scope.cancel()
            await standing.gone.wait()
        connection = PeerConnection(socket, Inlet(self._rounds, self), self.stats)
        socket.allow(2 * self.protocol.params.frames_per_second + 100)
        self._connection = connection
        self._connections += 1
        self.stats.connected()
        try:
            with connection.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(connection.send_queued)
                    self._due = _NEVER
                    self.perform(
                        self.protocol.connected(
                            self.clock.now_ns(), fresh=fresh, challenge=challenge
                        )
                    )
                    await self._read_all(connection, first)
                    connection.scope.cancel()
            if connection.bug is not None:
                raise connection.bug
        finally:
            self._connection = self._alarm = None
            self._due = 0
            self.was_synced = self.protocol.synced
            connection.gone.set()
            reason = connection.reason or Disconnected()
            self.perform(self.protocol.disconnected())
            connection.close()
            with trio.CancelScope(shield=True):
                code = 1000 if isinstance(reason, Disconnected | SessionClosed) else 1008
                code = GOING_AWAY if isinstance(reason, Leaving) else code
                await socket.aclose(code, (code == GOING_AWAY and reason.detail) or reason.code)
            self.stats.disconnected(reason)
        return reason

    def proves(self, theirs: Resume, challenge: bytes) -> None:
        """Whether heads are signed by the peer over `challenge`. Raises ResumeRefused."""
        self.protocol.heads_proved(theirs, challenge, self.clock.now_ns())

    def disconnect(self, reason: PSymmError) -> None:
        """Close the connection that stands, after what is queued on it."""
        if self._connection is not None:
            self._connection.disconnect(reason)

    def part(self, reason: PSymmError) -> None:
        """Close the connection that stands, for our own reason: once what the peer did is covered,
        and that and all that was signed before is durable and sent. Does not block."""
        if self._connection is None:
            return
        if self.over is not None:
            self.disconnect(reason)  # Nothing is carried out any more.
        else:
            self.perform(self.protocol.leave(reason, self.clock.now_ns()))

    async def leave(self, reason: str = "") -> None:
        """Close the connection that stands, with all that came covered and all that was signed
        sent, and mean to come back. Cancelled: what was not sent yet goes out on resuming."""
        standing = self._connection
        self.part(Leaving(reason))
        await self.drain()
        if standing is not None:
            await standing.gone.wait()

    @property
    def collateral(self) -> Collateral:
        """Our notes, proofs and chain. A journal that is repaired needs none."""
        assert self._collateral is not None  # noqa: S101
        return self._collateral

    @property
    def connections(self) -> int:
        """How many there have been, the standing one included."""
        return self._connections

    @property
    def attached(self) -> bool:
        return self._connection is not None

    def statistics(self) -> RunnerStatistics:
        return RunnerStatistics(
            self._connections,
            self.protocol.record.frames,
            self._taken - self._done,
            self.protocol.status,
            self.attached,
            self.load,
            self.stats.last_in_ns,
            self.stats.last_out_ns,
            self.stats.covered_ns,
            self.stats.traffic(),
        )

    @property
    def uncovered(self) -> int:
        """Frames of the peer that no frame of ours covers yet."""
        record = self.protocol.record
        return record.head(1 - self.lane).seq - record.head(self.lane).peer_seq

    @property
    def load(self) -> Load:
        """What this session holds for its peer now."""
        standing, ledger = self._connection, self.protocol.state.rulebook
        pending = 0
        if isinstance(ledger, RulebookLedger):
            account = ledger.account
            pending = len(account.requests) + len(account.quotes) + len(account.orders)
        return Load(
            0 if standing is None else len(standing.outgoing),
            0 if standing is None else standing.waiting_bytes,
            0 if standing is None else standing.socket.unread_bytes,
            self.uncovered,
            pending,
        )

    # --- commands -----------------------------------------------------------------------------

    async def send(self, message: Message) -> RecordedFrame:
        """Sign a message; returns once it is durable and on its way.

        Raises what `SessionProtocol.send` and the guard do, JournalError, and ValueError's kin
        JsonError for a value that the vocabulary cannot carry. Cancelled: the frame is signed and
        will be sent (now or on resuming), but the caller does not learn its number.
        """
        entry, effects = self._signed(message)
        self.perform(effects)
        await self._until_done(self._taken)
        return entry

    def post(self, message: Message) -> RecordedFrame:
        """As `send`, without waiting: signed now, durable and on its way soon, before all that is
        signed after it. Does not block."""
        entry, effects = self._signed(message)
        self.perform(effects)
        return entry

    def _signed(self, message: Message) -> tuple[RecordedFrame, Effects]:
        now = self.clock.now_ns()
        if self.guard is not None:
            self.guard.check(message, now)
        entry, effects = self.protocol.send(message, now)
        if self.guard is not None:
            self.guard.signed(message, now)
        return entry, effects

    async def send_text(self, message: Message) -> None:
        """Send a text. Raises NotNow without a connection. Cancelled: it may or may not go."""
        await self.flush(self.protocol.send_text(message, self.clock.now_ns()))

    async def flush(self, effects: Effects) -> None:
        """Carry effects out, and wait until that and all before it is done."""
        self.perform(effects)
        await self._until_done(self._taken)

    async def drain(self) -> None:
        """Wait until all that was begun before is durable and done."""
        await self._until_done(self._taken)

    async def checkpoint(self) -> Point:
        """Have a checkpoint with the peer that counts all that is on the record now, but for
        Heartbeats at its end; returns it once it is in force and kept.

        Waits for as long as the peer does not answer, over lost connections. Raises
        SessionClosed, AccountsDiffer where the two sides' accounts are found to differ, or the
        error that stopped the session. Cancelled: it goes on being made.
        """
        protocol = self.protocol
        target, effects = self.protocol.request_checkpoint(self.clock.now_ns())
        await self.flush(effects)
        while (point := protocol.checkpoint) is None or not protocol.checkpoint_counts(target):
            if (over := self.over) is not None:
                raise over
            if protocol.error is not None:
                raise protocol.error
            if protocol.accounts_differ is not None:
                raise protocol.accounts_differ
            if protocol.status is SessionStatus.CLOSED:
                raise SessionClosed(custody=self.agreement.custody)
            await self._until_done(self._done + 1)
        await self.drain()
        return point

    async def log_out(self, reason: str) -> None:
        """Sign a Logout. Raises NotNow, SessionClosed. Cancelled: it may or may not be signed."""
        await self.flush(self.protocol.log_out(reason, self.clock.now_ns()))

    async def rotate_key(self) -> None:
        """Put a new session key in force, see `KeyRotator.rotate`."""
        if self._rotator is None:
            raise NotNow("nobody keeps this session's keys")
        await self._rotator.rotate()

    # --- effects ----------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        self.stats.on_event(event)
        self._listener(event)

    def perform(self, effects: Effects) -> None:
        """Carry effects out, after those before them."""
        state = self.protocol.state
        if state.held or (state.rulebook is not None and state.rulebook.waits):
            self._ask_chain()
        if effects:
            self._taken += 1
            if self._nursery is None:
                self._early.append(effects)
            else:
                self._write(effects)
            # It is in the queue to the disk now, ahead of whatever is signed upon it.
            for offered in provisional(effects):
                self._listener(offered)
        connection = state.connection
        if connection is not None and connection.wake_at < self._due:
            self._arm(connection.wake_at)

    def _write(self, effects: Effects) -> None:
        changes = self._changes(effects)
        if changes or self._done < self._taken - 1:
            self.journal.write_soon(changes, partial(self._durable, effects))
        else:
            self._durable(effects, None)

    def _changes(self, effects: Effects) -> list[Change]:
        """What effects store, as changes of the journal, in their order."""
        changes: list[Change] = []
        frames: list[tuple[Frame, bytes]] = []
        for effect in effects:
            if type(effect) is StoreFrame:
                frames.append((effect.entry.frame, effect.entry.digest))
                continue
            if type(effect) not in _STORES:
                continue
            found = self._change(effect)
            if found:
                if frames:
                    changes.append(self.journal.to_append(frames))
                    frames = []
                changes += found
        if frames:
            changes.append(self.journal.to_append(frames))
        return changes

    def _change(self, effect: Effect) -> list[Change]:
        journal, custody = self.journal, self.agreement.custody
        match effect:
            case ImportFrame(entry):
                return [journal.to_restore([(entry.frame, entry.digest)])]
            case StoreHealth(health):
                return [journal.to_set_health(custody, health)]
            case RevokeFrames(entries):
                gone = [(entry.frame, entry.digest) for entry in entries]
                return [journal.to_revoke_frames(custody, 1 - self.lane, gone)] if gone else []
            case StoreRevocations(revoked):
                return [journal.to_keep_revocations(custody, revoked)]
            case StoreOpenings(lane, notes):
                return [journal.to_keep_openings(custody, _openings(lane, notes))]
            case StoreFact(fact):
                return [journal.to_keep_fact(custody, fact)]
            case StoreCheckpoint(point, account):
                return [journal.to_keep_checkpoint(custody, point, account.document)]
            case StoreEvidence(first, second):
                raw = first if isinstance(first, int) else first.raw
                return [journal.to_keep_evidence(custody, 1 - self.lane, raw, second.raw)]
            case StoreStatus(status):
                reason = str(self.protocol.error) if status is SessionStatus.STOPPED else ""
                return [journal.to_set_state(custody, _JOURNAL_STATES[status], reason)]
            case _:
                return []

    def _durable(self, effects: Effects, failed: JournalFailure | None) -> None:
        """What effects store is on disk: do the rest, unless frames that come before are still
        being read from the journal."""
        if failed is not None:
            self._fail(failed)
        elif self._reading:
            self._behind.append(effects)
        elif self._nursery is not None and ResendCompacted in map(type, effects):
            self._reading = True
            self._nursery.start_soon(self._read_and_fulfil, effects)
        else:
            self._fulfil(effects, {})

    async def _read_and_fulfil(self, effects: Effects) -> None:
        """The same where frames are to be sent again that only the journal holds."""
        found: dict[ResendCompacted, list[bytes]] = {}
        try:
            for effect in effects:
                if type(effect) is ResendCompacted:
                    frames = await self.journal.lane(
                        self.agreement.custody,
                        effect.lane,
                        effect.first,
                        effect.last,
                        at_most_bytes=MOST_REPEATED_BYTES,
                    )
                    found[effect] = [one.raw for one in frames]
        except PSymmError as failed:
            self._fail(failed)
            return
        finally:
            self._reading = False
        self._fulfil(effects, found)
        while self._behind and not self._reading:
            self._durable(self._behind.popleft(), None)

    def _fulfil(self, effects: Effects, read: Mapping[ResendCompacted, Sequence[bytes]]) -> None:
        """Send, tell, disconnect."""
        if self._nursery is not None and self._failed is None:
            try:
                if not _SENDS.isdisjoint(map(type, effects)):
                    self._put(effects, read)
                for effect in effects:
                    if isinstance(effect, Disconnect):
                        self.disconnect(effect.reason)
                    elif type(effect) not in _SILENT:
                        event = cast("Event", effect)
                        if type(event) in _SERVED:
                            self._serve(event)
                        self._on_event(event)
            except Exception as bug:
                # Of whoever listens. It ends this session, in `run`, and no other.
                self._fail(bug)
                return
        self._finished(1)

    def _fail(self, error: Exception) -> None:
        self._failed = self._failed or error
        self._wake.set()
        self._finished(0)

    def _finished(self, count: int) -> None:
        self._done += count
        standing = self._connection
        if standing is not None and standing.inlet.full and self._taken - self._done <= BACKLOG:
            standing.inlet.open()
        while self._waiters and (self._waiters[0][0] <= self._done or self._failed is not None):
            heappop(self._waiters)[2].wake()

    async def _until_done(self, effects: int) -> None:
        """Wait until so many turns are carried out. Raises what ended the session."""
        if self._done < effects and self._failed is None:
            done = Sleeper()
            heappush(self._waiters, (effects, next(self._numbers), done))
            await done.sleep()
        if self._done < effects and (over := self.over) is not None:
            raise over

    async def _read_all(self, connection: PeerConnection, first: Sequence[str | bytes]) -> None:
        """Until nothing more comes. What comes is received by the party's rounds."""
        socket, diverted = connection.socket, trio.Event()

        async def take(message: str | bytes) -> None:
            if not diverted.is_set():
                await diverted.wait()
            await self._take(connection, message)

        already: list[str | bytes] = []
        for message in first:
            if isinstance(message, str):
                # Heads are compared before anything else can happen here.
                self.stats.read(message)
                self.receive(message, self.clock.now_ns())
            else:
                already.append(message)
        if isinstance(socket, WebSocket):
            already += socket.divert(take)
        for message in already:
            await self._take(connection, message)
        diverted.set()
        try:
            while True:
                await self._take(connection, await socket.receive())
        except (Disconnected, PeerViolation) as gone:
            await connection.inlet.drained()
            connection.reason = connection.reason or self.protocol.dispute or gone

    async def _take(self, connection: PeerConnection, message: str | bytes) -> None:
        """Part by part, so that a long message keeps no other session waiting."""
        self.stats.read(message)
        if isinstance(message, str):
            await connection.inlet.put(message)
            return
        offset = 0
        while offset < len(message):
            batch = self.protocol.batch_of(message, offset, AT_ONCE)
            offset = batch.end
            await connection.inlet.put(batch)

    # --- psymm.session.runtime.rounds.Receiver ----------------------------------------------------

    def claims(self, batch: FrameBatch) -> list[Claim]:
        """See `Receiver.claims`."""
        key, frames = self.protocol.verifiable(batch)
        if key is None:
            return []
        return [(self.agreement.domain, key, frame) for frame in frames]

    def receive(self, item: Item, now_ns: int) -> bool:
        """See `Receiver.receive`."""
        if isinstance(item, str):
            self.perform(self.protocol.receive_text(item, now_ns))
        else:
            self.perform(self.protocol.receive_batch(item, now_ns))
            if self.protocol.held_back > MOST_AHEAD:
                self.disconnect(OverBudget("frames that are held back", most=MOST_AHEAD))
        return self._taken - self._done <= BACKLOG

    def failed(self, bug: Exception) -> None:
        """See `Receiver.failed`."""
        if self._connection is not None:
            self._connection.bug = bug
            self._connection.scope.cancel()

    # --- deadlines ------------------------------------------------------------------------------

    def _arm(self, wake_at: int) -> None:
        """Tick at that moment, or when the protocol says, where it does not know it yet. Most
        frames only put that off, and then nothing is done here."""
        now = self.clock.now_ns()
        self._due = wake_at if wake_at > now else self.protocol.next_tick(now)
        self._alarm = _Alarm(self)
        due = trio.current_time() + (self._due - now) / 1e9
        self._rounds.deadlines.add(due, self._alarm)

    def tick(self, alarm: _Alarm) -> None:
        """The moment has come."""
        if self._alarm is not alarm:
            return
        self._alarm, self._due = None, _NEVER
        try:
            self.perform(self.protocol.tick(self.clock.now_ns()))
        except Exception as bug:
            self.failed(bug)

    def armed(self, alarm: _Alarm) -> bool:
        """Whether it still counts."""
        return self._alarm is alarm

    async def keep_status(self, status: SessionStatus) -> None:
        """Have the journal say how the session stands. Cancelled: it may or may not be kept."""
        await self.journal.write(*self._change(StoreStatus(status, self.protocol.error)))

    async def keep_openings(self, lane: int, notes: Sequence[Note]) -> None:
        """Keep openings of notes of this custody. Cancelled: all are kept or none."""
        await self.journal.keep_openings(self.agreement.custody, _openings(lane, notes))

    def _put(self, effects: Effects, read: Mapping[ResendCompacted, Sequence[bytes]]) -> None:
        """Hand texts and frames to the socket's queue; neighbouring frames share a message."""
        connection, burst = self._connection, bytearray()
        if connection is None:
            return
        for effect in effects:
            if type(effect) is SendText:
                if burst:
                    connection.put(bytes(burst))
                    burst.clear()
                connection.put(effect.text)
                continue
            raws: Sequence[bytes] = ()
            if type(effect) is SendFrame:
                raws = (effect.entry.frame.raw,)
            elif type(effect) is ResendCompacted:
                raws = read.get(effect, ())
            for raw in raws:
                if burst and len(burst) + len(raw) > MAX_BURST_BYTES:
                    connection.put(bytes(burst))
                    burst.clear()
                burst += raw
        if burst:
            connection.put(bytes(burst))

    def _serve(self, event: Event) -> None:
        if self._nursery is None:
            return
        match event:
            case Delivered(seq):
                self.journal.mark_delivered(self.agreement.custody, seq)
            case VerifyCollateral(notes):
                self._nursery.start_soon(self._verify, notes)
            case FundCollateral():
                self._nursery.start_soon(self._fund)
            case KeyDue() | HealthChanged() if self._rotator is not None:
                self._rotator.poke()
            case KeyChanged(public_key) if self._rotator is not None:
                self._rotator.changed(public_key)
            case _:
                pass

    def _ask_chain(self) -> None:
        waits = self.protocol.cited is not None
        if waits and not self._asking and self._nursery is not None:
            self._asking = True
            self._nursery.start_soon(self._look_up)

    async def _look_up(self) -> None:
        """Ask our own chain of what the peer cites, for as long as that waits for it."""
        try:
            while (cited := self.protocol.cited) is not None:
                wait_s = LOOK_UP_S
                try:
                    view = await self.collateral.look_up(cited.said)
                except PSymmError:
                    wait_s = LOOK_UP_AGAIN_S
                else:
                    self.perform(self.protocol.chain_says(cited, view, self.clock.now_ns()))
                if self.protocol.cited == cited:
                    await trio.sleep(wait_s)
        finally:
            self._asking = False

    async def _verify(self, notes: tuple[Note, ...]) -> None:
        try:
            await self.collateral.verify(self.agreement, notes)
        except CollateralRefused as refused:
            self.perform(self.protocol.collateral_refused(refused, self.clock.now_ns()))
        except PSymmError as failed:
            self._give_up(failed)
        else:
            self.perform(self.protocol.collateral_verified(notes, self.clock.now_ns()))

    async def _fund(self) -> None:
        try:
            notes = await self.collateral.fund(
                self.agreement, self.lane, self.protocol.params.token, self.collateral_amount
            )
        except PSymmError as failed:
            self._give_up(failed)
        else:
            self.perform(self.protocol.collateral_funded(notes, self.clock.now_ns()))

    def _give_up(self, failed: PSymmError) -> None:
        """Something of our own failed (chain, proof, funds): the connection ends, the custody can
        be resumed when it works again."""
        self.perform(self.protocol.collateral_failed())
        self._on_event(Stopped(failed))
        self.disconnect(failed)


def _openings(lane: int, notes: Sequence[Note]) -> list[JournalledOpening]:
    return [
        JournalledOpening(note.commitment, lane, note.token, note.amount, note.blinding)
        for note in notes
    ]


__all__ = ["JsonError", "NotNow", "RunnerStatistics", "SessionRunner"]
