"""SessionRunner: runs one side of a session. It joins protocol, journal, socket and custody.

The protocol decides; the runner acts. Every call into the protocol returns a list of effects, and
`perform` carries them out (`EffectInterpreter`, which says what is durable when).

Who calls whom: `attach` serves one connection. Its reader puts messages into an `Inlet`; the
party's `Rounds` then call `receive`. The party's deadlines call `tick`. Commands (`send`,
`checkpoint`, `log_out`) come from the application.

States: a runner outlives its connections. Between two connections it signs nothing. It ends when
it is cancelled, when the journal fails, or when a listener raises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

import trio

from psymm.errors import (
    Disconnected,
    Leaving,
    NotNow,
    OverBudget,
    PeerViolation,
    PSymmError,
    SessionClosed,
    WalletError,
)
from psymm.journal.writer import Journal
from psymm.messages import Message, Resume
from psymm.session.protocol import (
    Delivered,
    Effects,
    Event,
    FrameBatch,
    FundCollateral,
    HealthChanged,
    KeyChanged,
    KeyDue,
    SessionProtocol,
    SessionStatus,
    VerifyCollateral,
)
from psymm.session.protocol.budget import MOST_AHEAD, Load
from psymm.session.protocol.dispatch import Expect
from psymm.session.runtime.chain_tasks import ChainTasks
from psymm.session.runtime.clock import Clock
from psymm.session.runtime.collateral import Collateral
from psymm.session.runtime.interpreter import BACKLOG, NEVER, EffectInterpreter
from psymm.session.runtime.key_rotator import KeyRotator
from psymm.session.runtime.ledger import RulebookLedger
from psymm.session.runtime.peer_connection import PeerConnection
from psymm.session.runtime.rounds import Inlet, Item, Rounds
from psymm.session.runtime.stats import RunnerStatistics
from psymm.session.runtime.transport import GOING_AWAY, Socket, WebSocket
from psymm.transcript.checkpoint import Point
from psymm.transcript.record import RecordedFrame
from psymm.transcript.verifying import Claim, FrameVerifier
from psymm.waiting import Alarm

AT_ONCE: Final = 32
"""Frames of one message that we receive before other sessions have their turn."""


class Guard(Protocol):
    """Can keep an application from signing a message."""

    def check(self, message: Message, now_ns: int) -> None:
        """Raises a SessionError if the message must not be signed."""

    def signed(self, message: Message, now_ns: int) -> None:
        """The message was signed."""


class SessionRunner(EffectInterpreter):
    """One side of a session, across its connections. Nothing happens unless `run` is running.

    Attributes:
        guard: Checks the application's messages before they are signed.
        connections: How many there were so far, the current one included.
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
        self._rounds = rounds or Rounds(journal, clock, FrameVerifier())
        super().__init__(protocol, journal, clock, on_event, self._rounds.deadlines)
        self.collateral_amount = collateral_amount
        self._rotator = rotator
        # Makes the protocol look at its deadlines at `_due`.
        self._alarm: Alarm | None = None
        self.guard: Guard | None = None
        self.was_synced = False
        self.connections = 0
        self.at_end: list[Callable[[], None]] = []
        self._chain = ChainTasks(self, collateral)

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
            # Wake everybody who waits: their effects will never be done. The peer waits as well.
            self._finished()
            self.disconnect(Disconnected("the session is no longer in memory"))
            raise
        finally:
            for told in self.at_end:
                told()

    async def _run(self, nursery: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        self._chain.look_up_soon(nursery)
        if self._rotator is not None:
            self._rotator.begin(self.perform, self.report)
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
        return its error. The connection ends when `run` does.
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
        # `run` may have ended while we waited.
        if self.over is not None:
            return self.over
        connection = PeerConnection(socket, Inlet(self._rounds, self), self.stats)
        # Twice the terms' rate: a peer that keeps to the terms must never hit this limit.
        socket.allow(2 * self.protocol.params.frames_per_second + 100)
        self._connection = connection
        self.connections += 1
        self.stats.connected()
        try:
            with connection.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(connection.send_queued)
                    # Until now `_due` was 0, which keeps alarms off. `perform` sets the first one.
                    self._due = NEVER
                    now = self.clock.now_ns()
                    self.perform(self.protocol.connected(now, fresh=fresh, challenge=challenge))
                    await self._read_all(connection, first)
                    connection.scope.cancel()
            if connection.bug is not None:
                raise connection.bug
        finally:
            # Clear the connection before the protocol learns of the loss. Its effects then find
            # no socket, and nothing is signed until the next connection.
            self._connection = None
            self._void_alarm()
            self._due = 0
            self.was_synced = self.protocol.synced
            connection.gone.set()
            reason = connection.reason or Disconnected()
            self.perform(self.protocol.disconnected())
            self.journal.commit_soon()  # No answer follows any more to what the peer has asked.
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
        return self._chain.collateral

    @property
    def attached(self) -> bool:
        return self._connection is not None

    def statistics(self) -> RunnerStatistics:
        """What the session has done so far and what it holds now."""
        return RunnerStatistics(
            self.connections,
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

    async def send(self, message: Message, expect: Expect | None = None) -> RecordedFrame:
        """Sign a message; returns when it is durable and on its way. A lone session on a fast disk
        may return without a checkpoint. expect: As for `SessionProtocol.send`.

        Raises what `SessionProtocol.send` and the guard raise, JournalError, and JsonError (a
        ValueError) for a value that the vocabulary cannot carry.
        Cancelled: the frame is signed and will be sent (now or on resuming), but the caller does
        not learn its number.
        """
        entry, effects = self._signed(message, expect)
        self.perform(effects, alone=self._rounds.inlets <= 1)
        await self._until_done(self._taken)
        return entry

    def post(self, message: Message, *, alone: bool = False) -> RecordedFrame:
        """Like `send`, without waiting: signed now; durable and sent soon, before all that is
        signed later. Does not block.

        alone: Nothing else is posted with it, so its commit need not wait for more.
        """
        entry, effects = self._signed(message, None)
        self.perform(effects, alone=alone and self._rounds.inlets <= 1)
        return entry

    def _signed(self, message: Message, expect: Expect | None) -> tuple[RecordedFrame, Effects]:
        now = self.clock.now_ns()
        if self.guard is not None:
            self.guard.check(message, now)
        entry, effects = self.protocol.send(message, now, expect)
        # The guard counts what was really signed: `protocol.send` may still refuse.
        if self.guard is not None:
            self.guard.signed(message, now)
        return entry, effects

    async def send_text(self, message: Message) -> None:
        """Send a text. Raises NotNow without a connection. Cancelled: it may or may not be sent."""
        await self.flush(self.protocol.send_text(message, self.clock.now_ns()))

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
            if (failed := protocol.error or protocol.accounts_differ) is not None:
                raise failed
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

    async def _read_all(self, connection: PeerConnection, first: Sequence[str | bytes]) -> None:
        """Read until nothing more comes. The party's rounds receive what is read."""
        socket = connection.socket
        for message in first:
            if isinstance(message, str):
                # The heads come first. Nothing else may happen before we have compared them.
                self.stats.read(message)
                self.receive(message, self.clock.now_ns())
            else:
                await self._take(connection, message)
        if isinstance(socket, WebSocket):
            while already := socket.received():
                for message in already:
                    await self._take(connection, message)
            take, offer = partial(self._take, connection), partial(self._offer, connection)
            socket.divert(take, self._rounds.poller, offer)
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

    def _offer(self, connection: PeerConnection, message: bytes) -> bool:
        """Take a binary message if there is room for it and it is one batch. Does not block."""
        if not connection.inlet.free:
            return False
        batch = self.protocol.batch_of(message, 0, AT_ONCE)
        if batch.end < len(message):
            return False
        self.stats.read(message)
        connection.inlet.leave(batch)
        return True

    # --- psymm.session.runtime.rounds.Receiver ----------------------------------------------------

    def add_claims(self, batch: FrameBatch, claims: list[Claim]) -> None:
        """As `Receiver.add_claims`: signatures to verify together with those of other sessions."""
        key, frames = self.protocol.verifiable(batch)
        if key is not None:
            domain = self.agreement.domain
            for frame in frames:
                claims.append((domain, key, frame))

    def receive(self, item: Item, now_ns: int) -> bool:
        """As `Receiver.receive`: False if too many lists of effects wait for the journal."""
        if isinstance(item, str):
            self.perform(self.protocol.receive_text(item, now_ns))
        else:
            effects = self.protocol.receive_batch(item, now_ns)
            self.perform(effects, alone=self._rounds.inlets <= 1)
            if len(self.protocol.state.held) > MOST_AHEAD:
                self.disconnect(OverBudget("frames that are held back", most=MOST_AHEAD))
        return self._taken - self._done <= BACKLOG

    def failed(self, bug: Exception) -> None:
        """As `Receiver.failed`: `attach` raises the bug."""
        if self._connection is not None:
            self._connection.bug = bug
            self._connection.scope.cancel()

    # --- deadlines ------------------------------------------------------------------------------

    def _arm(self, wake_at: int) -> None:
        """Tick at `wake_at`, or at the protocol's next deadline if that moment has passed."""
        now = self.clock.now_ns()
        self._due = wake_at if wake_at > now else self.protocol.next_tick(now)
        self._void_alarm()
        self._alarm = Alarm(self.tick)
        self._deadlines.add(trio.current_time() + (self._due - now) / 1e9, self._alarm)

    def _void_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.asleep, self._alarm = False, None

    def tick(self) -> None:
        """The current alarm's moment has come."""
        self._void_alarm()
        self._due = NEVER
        try:
            self.perform(self.protocol.tick(self.clock.now_ns()))
        except Exception as bug:
            self.failed(bug)

    def _serve(self, event: Event) -> None:
        """Do what an event asks of the runner itself, in tasks of the session's nursery."""
        if self._nursery is None:
            return
        match event:
            case Delivered(seq):
                self.journal.mark_delivered(self.agreement.custody, seq)
            case VerifyCollateral(notes):
                self._nursery.start_soon(self._chain.verify, notes)
            case FundCollateral():
                self._nursery.start_soon(self._chain.fund, self.collateral_amount)
            case KeyDue() | HealthChanged() if self._rotator is not None:
                self._rotator.poke()
            case KeyChanged(public_key) if self._rotator is not None:
                self._rotator.changed(public_key)
            case _:
                pass

    def _ask_chain(self) -> None:
        if self._nursery is not None:
            self._chain.look_up_soon(self._nursery)
