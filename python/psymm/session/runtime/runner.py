"""SessionRunner: runs one side of a session. It joins protocol, journal, socket and custody.

The protocol decides; the runner acts. Every call into the protocol returns a list of effects, and
`perform` is the only place that carries effects out.

The way of one list of effects:

1. `perform` numbers it (`_taken`) and hands what it stores to the journal as one write.
2. When that write is on disk, the journal calls `_durable`.
3. `_fulfil` sends, reports events and disconnects, in the order that `protocol.effects` promises.
   Then the list counts as done (`_done`), and callers that wait for it wake.

What is durable when: nothing is sent, and no event is reported, before all that its list stores is
on disk. `ProvisionalFrame` is the one exception: the listener sees it as soon as it is queued.
The journal keeps the order of its writes, so lists are fulfilled in the order in which they were
performed. All writes of one scheduler step, of all sessions, share one commit.

Who calls whom: `attach` serves one connection. Its reader puts messages into an `Inlet`; the
party's `Rounds` then call `receive`. The party's deadlines call `tick`. Commands (`send`,
`checkpoint`, `log_out`) come from the application.

States: a runner outlives its connections. Between two connections it signs nothing. It ends when
it is cancelled, when the journal fails, or when a listener raises.
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
"""Lists of effects that may wait for the journal. Beyond that we stop reading the socket."""
AT_ONCE: Final = 32
"""Frames of one message that we receive before other sessions have their turn."""
_NEVER: Final = 2**63
LOOK_UP_S: Final = 2.0
LOOK_UP_AGAIN_S: Final = 10.0
"""Seconds between two looks at our own chain for what the peer cites, and the longer wait if the
chain does not answer."""

_STORES: Final = frozenset(get_args(Store))
_SENDS: Final = frozenset(get_args(Send))
_SILENT: Final = _STORES | _SENDS
"""Effects that are not events."""

_SERVED: Final = (Delivered, VerifyCollateral, FundCollateral, KeyDue, HealthChanged, KeyChanged)
"""Events on which the runner itself acts, before the listener sees them."""

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
    """What a runner has done so far and what it holds now.

    Attributes:
        connections: Connections so far.
        frames: Frames on the record.
        waiting: Lists of effects that are not yet durable.
        load: What we hold for the peer now.
        last_in_ns: Our clock when the peer's last frame was durable; None before the first.
        last_out_ns: Our clock when our last frame was durable; None before the first.
        covered_ns: How long the peer took to cover the last frame of ours that we measured, both
            journals included.
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
    """One moment at which a session looks at its deadlines. A newer alarm voids it."""

    __slots__ = ("_runner",)

    def __init__(self, runner: SessionRunner) -> None:
        self._runner = runner

    @property
    def asleep(self) -> bool:
        return self._runner.armed(self)

    def wake(self) -> None:
        self._runner.tick(self)


class Guard(Protocol):
    """Can keep an application from signing a message."""

    def check(self, message: Message, now_ns: int) -> None:
        """Raises a SessionError if the message must not be signed."""
        ...

    def signed(self, message: Message, now_ns: int) -> None:
        """The message was signed."""
        ...


class SessionRunner:
    """One side of a session, across its connections. Nothing happens unless `run` is running.

    Attributes:
        guard: Checks the application's messages before they are signed.
        was_synced: Whether heads agreed on the connection that ended last.
        at_end: Called when `run` ends, for any reason. Must not block and must not raise.

    Args:
        on_event: Receives every event, in order, after its cause is durable. Must not block and
            must not raise.
        collateral: None for a repair, which needs no custody.
        rounds: Shared by all sessions of a party.
    """

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
        # Effects from before `run` started: there is no nursery to carry them out in yet.
        self._early: list[Effects] = []
        # Durable effects, in order, that wait until the journal has read frames to resend.
        self._behind: deque[Effects] = deque()
        self._reading = False
        # Lists of effects performed and done, as running counts. Waiters sleep for a value of
        # `_done`; the number beside it keeps equal entries of the heap comparable.
        self._taken = 0
        self._done = 0
        self._wake = trio.Event()
        self._waiters: list[tuple[int, int, Sleeper]] = []
        self._numbers = count()
        # When the protocol must look at its deadlines next, by its own clock, and the alarm that
        # makes it look.
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
        """Carry effects out until cancelled.

        Raises JournalError or StorageError if the journal fails; the session is then over for
        this process.
        Cancelled: the journal holds each list of effects completely or not at all. We send
        nothing that is not in the journal.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    await self._run(nursery, task_status)
                finally:
                    # From here on the nursery may close, so we must not start tasks in it.
                    self._nursery = None
        except BaseException as failed:
            # trio wraps the cause in exception groups, one per nursery. `over` needs the cause.
            leaf = failed
            while isinstance(leaf, BaseExceptionGroup):
                leaf = leaf.exceptions[0]
            self._failed = leaf if isinstance(leaf, PSymmError) else SessionClosed()
            # Wake everybody who waits: their effects will never be done.
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
        # Write in the order in which they were performed. `_nursery` is set by now, so any newer
        # effects go to the journal after these.
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
        """The error that ended `run`; None while it runs. After it, this session does nothing."""
        failed = self._failed
        if failed is None or isinstance(failed, PSymmError):
            return failed
        # A bug in a listener. `run` raises the bug itself.
        return SessionClosed(f"a listener failed ({type(failed).__name__})")

    async def attach(
        self,
        socket: Socket,
        *,
        fresh: bool,
        first: Sequence[str | bytes] = (),
        challenge: bytes | None = None,
    ) -> PSymmError:
        """Serve one connection until it ends; returns the reason.

        The new connection replaces the current one: the caller has verified that it is the peer's
        (`proves`). If no session key of ours can prove who we are, we ask the wallet first and
        return its error.
        Cancelled: raises Cancelled; the socket is closed.

        Args:
            fresh: The handshake took place on this connection.
            first: Messages already read from the socket.
            challenge: Ours, if we already sent one to the peer on this connection.
        """
        if self._rotator is not None:
            try:
                await self._rotator.prove()
            except WalletError as failed:
                return failed
        # A custody has one connection. Wait until the old one has cleaned up, or both would feed
        # the same protocol.
        while (standing := self._connection) is not None:
            standing.reason = Disconnected("another connection took over this session")
            standing.scope.cancel()
            await standing.gone.wait()
        connection = PeerConnection(socket, Inlet(self._rounds, self), self.stats)
        # Twice the terms' rate: a peer that keeps to the terms must never hit this limit.
        socket.allow(2 * self.protocol.params.frames_per_second + 100)
        self._connection = connection
        self._connections += 1
        self.stats.connected()
        try:
            with connection.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(connection.send_queued)
                    # Until now `_due` was 0, which keeps alarms off. `perform` sets the first one.
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
            # Clear the connection before the protocol learns of the loss. Its effects then find
            # no socket, and nothing is signed until the next connection.
            self._connection = self._alarm = None
            self._due = 0
            self.was_synced = self.protocol.synced
            connection.gone.set()
            reason = connection.reason or Disconnected()
            self.perform(self.protocol.disconnected())
            connection.close()
            with trio.CancelScope(shield=True):
                # 1008 says that the peer broke a rule; 1001, that we will be back.
                code = 1000 if isinstance(reason, Disconnected | SessionClosed) else 1008
                code = GOING_AWAY if isinstance(reason, Leaving) else code
                await socket.aclose(code, (code == GOING_AWAY and reason.detail) or reason.code)
            self.stats.disconnected(reason)
        return reason

    def proves(self, theirs: Resume, challenge: bytes) -> None:
        """Check that the peer signed its heads over `challenge`. Raises ResumeRefused."""
        self.protocol.heads_proved(theirs, challenge, self.clock.now_ns())

    def disconnect(self, reason: PSymmError) -> None:
        """Close the current connection after sending what is queued on it."""
        if self._connection is not None:
            self._connection.disconnect(reason)

    def part(self, reason: PSymmError) -> None:
        """Close the current connection for a reason of our own. First we cover what the peer did,
        and make durable and send all that we signed. Does not block."""
        if self._connection is None:
            return
        if self.over is not None:
            self.disconnect(reason)  # Effects are no longer carried out.
        else:
            self.perform(self.protocol.leave(reason, self.clock.now_ns()))

    async def leave(self, reason: str = "") -> None:
        """Close the current connection and mean to come back: cover all that came and send all
        that we signed. Cancelled: what is not sent yet goes out on resuming."""
        standing = self._connection
        self.part(Leaving(reason))
        await self.drain()
        if standing is not None:
            await standing.gone.wait()

    @property
    def collateral(self) -> Collateral:
        """Our notes, proofs and chain. A repair has none and needs none."""
        assert self._collateral is not None  # noqa: S101
        return self._collateral

    @property
    def connections(self) -> int:
        """Connections so far, the current one included."""
        return self._connections

    @property
    def attached(self) -> bool:
        return self._connection is not None

    def statistics(self) -> RunnerStatistics:
        """What the session has done so far and what it holds now."""
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
            account = ledger.latest
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
        """Sign a message; returns when it is durable and on its way.

        Raises what `SessionProtocol.send` and the guard raise, JournalError, and JsonError (a
        ValueError) for a value that the vocabulary cannot carry.
        Cancelled: the frame is signed and will be sent (now or on resuming), but the caller does
        not learn its number.
        """
        entry, effects = self._signed(message)
        self.perform(effects)
        await self._until_done(self._taken)
        return entry

    def post(self, message: Message) -> RecordedFrame:
        """Like `send`, without waiting: signed now; durable and sent soon, before all that is
        signed later. Does not block."""
        entry, effects = self._signed(message)
        self.perform(effects)
        return entry

    def _signed(self, message: Message) -> tuple[RecordedFrame, Effects]:
        now = self.clock.now_ns()
        if self.guard is not None:
            self.guard.check(message, now)
        entry, effects = self.protocol.send(message, now)
        # The guard counts what was really signed: `protocol.send` may still refuse.
        if self.guard is not None:
            self.guard.signed(message, now)
        return entry, effects

    async def send_text(self, message: Message) -> None:
        """Send a text. Raises NotNow without a connection. Cancelled: it may or may not be sent."""
        await self.flush(self.protocol.send_text(message, self.clock.now_ns()))

    async def flush(self, effects: Effects) -> None:
        """Carry effects out; returns when they and all earlier ones are done."""
        self.perform(effects)
        await self._until_done(self._taken)

    async def drain(self) -> None:
        """Wait until all earlier effects are durable and done."""
        await self._until_done(self._taken)

    async def checkpoint(self) -> Point:
        """Agree on a checkpoint with the peer and return it when it is in force and kept. It
        counts all that is on the record now, except Heartbeats at the end.

        Waits as long as the peer does not answer, across lost connections. Raises SessionClosed,
        AccountsDiffer if the two sides find different accounts, or the error that stopped the
        session.
        Cancelled: the checkpoint is still made.
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
            # Any effect may have changed the answer: look again after the next one.
            await self._until_done(self._done + 1)
        # In force is not yet kept: wait until the journal has it.
        await self.drain()
        return point

    async def log_out(self, reason: str) -> None:
        """Sign a Logout. Raises NotNow, SessionClosed. Cancelled: it may or may not be signed."""
        await self.flush(self.protocol.log_out(reason, self.clock.now_ns()))

    async def rotate_key(self) -> None:
        """Put a new session key in force. Raises as `KeyRotator.rotate`."""
        if self._rotator is None:
            raise NotNow("nobody keeps this session's keys")
        await self._rotator.rotate()

    # --- effects ----------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        self.stats.on_event(event)
        self._listener(event)

    def perform(self, effects: Effects) -> None:
        """Carry effects out, after all earlier ones. Does not block."""
        state = self.protocol.state
        if state.held or (state.rulebook is not None and state.rulebook.waits):
            self._ask_chain()
        if effects:
            self._taken += 1
            if self._nursery is None:
                self._early.append(effects)
            else:
                self._write(effects)
            # The frame is queued for the disk now, ahead of anything that is signed because of it.
            for offered in provisional(effects):
                self._listener(offered)
        connection = state.connection
        if connection is not None and connection.wake_at < self._due:
            self._arm(connection.wake_at)

    def _write(self, effects: Effects) -> None:
        changes = self._changes(effects)
        # Effects that store nothing may skip the journal, but only if no earlier list is still
        # waiting for it: otherwise they would overtake.
        if changes or self._done < self._taken - 1:
            self.journal.write_soon(changes, partial(self._durable, effects))
        else:
            self._durable(effects, None)

    def _changes(self, effects: Effects) -> list[Change]:
        """What the effects store, as changes of the journal, in their order."""
        changes: list[Change] = []
        frames: list[tuple[Frame, bytes]] = []
        for effect in effects:
            # Neighbouring frames become one append. Any other change flushes them first, because
            # the journal applies changes in the order given.
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
        """The changes of the journal for one effect; none if it stores nothing."""
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
        """The effects' write is on disk. Carry out the rest, unless earlier effects still wait for
        frames from the journal."""
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
        """Read the frames to resend that only the journal still holds, then carry effects out."""
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
        # A waiting list may need the journal too. It then sets `_reading`, and the rest waits on.
        while self._behind and not self._reading:
            self._durable(self._behind.popleft(), None)

    def _fulfil(self, effects: Effects, read: Mapping[ResendCompacted, Sequence[bytes]]) -> None:
        """Send, report events and disconnect."""
        if self._nursery is not None and self._failed is None:
            try:
                # Queue messages first: after a `disconnect` the connection takes no more.
                if not _SENDS.isdisjoint(map(type, effects)):
                    self._put(effects, read)
                for effect in effects:
                    if isinstance(effect, Disconnect):
                        self.disconnect(effect.reason)
                    elif type(effect) not in _SILENT:
                        event = cast("Event", effect)
                        # The runner acts first, so that the listener finds the rotator and the
                        # journal up to date.
                        if type(event) in _SERVED:
                            self._serve(event)
                        self._on_event(event)
            except Exception as bug:
                # A bug in the listener. It ends this session, through `run`, and no other.
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
        # The inlet closed at BACKLOG. The journal has caught up, so read from the socket again.
        if standing is not None and standing.inlet.full and self._taken - self._done <= BACKLOG:
            standing.inlet.open()
        while self._waiters and (self._waiters[0][0] <= self._done or self._failed is not None):
            heappop(self._waiters)[2].wake()

    async def _until_done(self, effects: int) -> None:
        """Wait until that many lists are carried out. Raises the error that ended the session."""
        if self._done < effects and self._failed is None:
            done = Sleeper()
            heappush(self._waiters, (effects, next(self._numbers), done))
            await done.sleep()
        if self._done < effects and (over := self.over) is not None:
            raise over

    async def _read_all(self, connection: PeerConnection, first: Sequence[str | bytes]) -> None:
        """Read until nothing more comes. The party's rounds receive what is read."""
        socket, diverted = connection.socket, trio.Event()

        async def take(message: str | bytes) -> None:
            # The library's reader may run before the messages read earlier are in the inlet.
            if not diverted.is_set():
                await diverted.wait()
            await self._take(connection, message)

        already: list[str | bytes] = []
        for message in first:
            if isinstance(message, str):
                # The heads come first. Nothing else may happen before we have compared them.
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
            # What arrived before the end still counts, so the rounds must have received it.
            await connection.inlet.drained()
            # A dispute explains the loss better than the loss itself.
            connection.reason = connection.reason or self.protocol.dispute or gone

    async def _take(self, connection: PeerConnection, message: str | bytes) -> None:
        """Take a message in batches, so that a long one does not delay other sessions."""
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
        """As `Receiver.claims`: signatures to verify together with those of other sessions."""
        key, frames = self.protocol.verifiable(batch)
        if key is None:
            return []
        return [(self.agreement.domain, key, frame) for frame in frames]

    def receive(self, item: Item, now_ns: int) -> bool:
        """As `Receiver.receive`: False if too many lists of effects wait for the journal."""
        if isinstance(item, str):
            self.perform(self.protocol.receive_text(item, now_ns))
        else:
            self.perform(self.protocol.receive_batch(item, now_ns))
            if self.protocol.held_back > MOST_AHEAD:
                self.disconnect(OverBudget("frames that are held back", most=MOST_AHEAD))
        return self._taken - self._done <= BACKLOG

    def failed(self, bug: Exception) -> None:
        """As `Receiver.failed`: the bug ends this connection; `attach` raises it."""
        if self._connection is not None:
            self._connection.bug = bug
            self._connection.scope.cancel()

    # --- deadlines ------------------------------------------------------------------------------

    def _arm(self, wake_at: int) -> None:
        """Tick at `wake_at`, or at the protocol's next deadline if that moment has passed. Most
        frames only postpone the deadline, and then nothing happens here."""
        now = self.clock.now_ns()
        self._due = wake_at if wake_at > now else self.protocol.next_tick(now)
        self._alarm = _Alarm(self)
        due = trio.current_time() + (self._due - now) / 1e9
        self._rounds.deadlines.add(due, self._alarm)

    def tick(self, alarm: _Alarm) -> None:
        """The alarm's moment has come."""
        if self._alarm is not alarm:
            return
        self._alarm, self._due = None, _NEVER
        try:
            self.perform(self.protocol.tick(self.clock.now_ns()))
        except Exception as bug:
            self.failed(bug)

    def armed(self, alarm: _Alarm) -> bool:
        """Whether the alarm is still the current one."""
        return self._alarm is alarm

    async def keep_status(self, status: SessionStatus) -> None:
        """Write the session's status to the journal. Cancelled: it may or may not be kept."""
        await self.journal.write(*self._change(StoreStatus(status, self.protocol.error)))

    async def keep_openings(self, lane: int, notes: Sequence[Note]) -> None:
        """Keep openings of this custody's notes. Cancelled: all are kept or none."""
        await self.journal.keep_openings(self.agreement.custody, _openings(lane, notes))

    def _put(self, effects: Effects, read: Mapping[ResendCompacted, Sequence[bytes]]) -> None:
        """Queue texts and frames on the socket. Neighbouring frames share a message."""
        connection, burst = self._connection, bytearray()
        if connection is None:
            return
        for effect in effects:
            if type(effect) is SendText:
                # A text must not overtake the frames before it.
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
        """Do what an event asks of the runner itself, in tasks of the session's nursery."""
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
        """Ask our own chain about what the peer cites, as long as a frame waits for the answer."""
        try:
            while (cited := self.protocol.cited) is not None:
                wait_s = LOOK_UP_S
                try:
                    view = await self.collateral.look_up(cited.said)
                except PSymmError:
                    wait_s = LOOK_UP_AGAIN_S
                else:
                    self.perform(self.protocol.chain_says(cited, view, self.clock.now_ns()))
                # The answer may have released a frame, and another citation may wait now. That one
                # is asked at once.
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
        """Something of our own failed (chain, proof, funds). Close the connection. The custody can
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
