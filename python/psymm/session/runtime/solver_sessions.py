"""SolverSessions: the custodies that a solver has in memory, each with a task that runs it.

A session outlives its connections: it runs in a task of its own (`_keep`) in the server's nursery.
A custody never has two runners: one task at a time loads or forgets it (`_alone`), and loading
waits until a runner that `drop` ended has left. A connection that came to that runner too late
ends with it, so its trader reconnects at once.

What is durable when: nothing before the Logon. `open` checks the Logon, then the journal keeps the
custody, and only then does a session exist. A custody without collateral on chain is a stranger's.
It leaves memory with its connection and the journal after FORGET_S.

Failures: a bug that one peer triggers ends its session. Only a failing journal ends them all.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from psymm._core import Frame, FrameError, TranscriptError
from psymm.errors import (
    Disconnected,
    JournalError,
    LogonRefused,
    PSymmError,
    UnknownCustody,
)
from psymm.messages import (
    Logon,
)
from psymm.session.protocol import Event, SessionStatus, StatusChanged
from psymm.session.protocol.budget import EARLY_FRAMES
from psymm.session.runtime.handshake import Introduced
from psymm.session.runtime.party import LocalParty, load_session
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.stats import Traffic
from psymm.sockets.admission import ConnectionSlot
from psymm.storage import StorageError
from psymm.transcript.agreement import SOLVER, TRADER, CustodyAgreement
from psymm.transcript.delegation import DelegationRefused
from psymm.transcript.record import Record

log = logging.getLogger(__name__)

FORGET_S: Final = 300.0
"""Seconds that a custody without collateral stays on disk after its trader has left."""
MOST_LEFT: Final = 1024
"""Custodies of that kind that we keep. Beyond that the one left first goes at once."""


@dataclass
class _Session:
    runner: SessionRunner
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)


class SolverSessions:
    """The sessions of one server.

    Args:
        begun: A session begins or is loaded again. Returns the listener for its events.
    """

    def __init__(
        self, party: LocalParty, begun: Callable[[SessionRunner], Callable[[Event], None]]
    ) -> None:
        self._party = party
        self._begun = begun
        self._sessions: dict[bytes, _Session] = {}
        # Each attached session's place among the connections.
        self._places: dict[bytes, ConnectionSlot] = {}
        # When strangers left, by custody; trio's clock.
        self._left_at: dict[bytes, float] = {}
        # Locks of custodies that a task is loading or forgetting now.
        self._busy: dict[bytes, trio.Lock] = {}
        self._past = Traffic()
        self._nursery: trio.Nursery | None = None

    @contextmanager
    def running(self, nursery: trio.Nursery) -> Iterator[None]:
        """Run sessions in this nursery while the block lasts."""
        self._nursery = nursery
        nursery.start_soon(self._forget_strangers)
        try:
            yield
        finally:
            # From here on the nursery may close: load no more sessions in it.
            self._nursery = None

    def runners(self) -> dict[bytes, SessionRunner]:
        """The runners in memory, by custody."""
        return {key: session.runner for key, session in self._sessions.items()}

    def traffic(self) -> Traffic:
        """Of all sessions since the server began, including those that have left memory."""
        now = (session.runner.stats.traffic() for session in self._sessions.values())
        return Traffic.sum([self._past, *now])

    async def load_settling(self) -> None:
        """Load the sessions with a settlement in progress, and note who may be a stranger."""
        for custody in await self._party.journal.custodies():
            early = custody.lane == SOLVER and custody.frames <= EARLY_FRAMES
            # Only few frames: it may be a stranger's that its trader left before we stopped.
            if early and custody.state in ("handshake", "open", "stopped"):
                # `forget_stranger` finds out whether it is, when its time is over.
                self._left_at[custody.agreement.custody] = trio.current_time()
            # A settlement has deadlines, so it cannot wait until its trader comes back.
            if custody.lane == SOLVER and custody.state == "settling":
                try:
                    await self._load_session(custody.agreement.custody)
                except PSymmError as failed:
                    log.error(
                        "session-not-loaded",
                        extra={
                            "custody": "0x" + custody.agreement.custody.hex(),
                            "code": failed.code,
                        },
                    )

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
        return await self._load_session(agreement.custody)

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

    async def known(self, custody: bytes) -> SessionRunner | None:
        """The runner of a custody in the journal; None if the journal has none.

        Raises JournalCorrupt and what `load_session` raises.
        """
        runner = self._runner_of(custody)
        if runner is not None:
            return runner
        return await self._load_session(custody) if await self.remembers(custody) else None

    def _runner_of(self, custody: bytes) -> SessionRunner | None:
        """The runner in memory; None if there is none, or if `drop` ends it."""
        session = self._sessions.get(custody)
        return None if session is None or session.scope.cancel_called else session.runner

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

    async def _load_session(self, key: bytes) -> SessionRunner:
        """Load a custody and run its session, or return the one that is running already."""
        async with self._alone(key):
            # Another task may have loaded it while we waited for the lock.
            if (running := self._runner_of(key)) is not None:
                return running
            if (ending := self._sessions.get(key)) is not None:
                await ending.ended.wait()
            # Writes of an earlier runner may still be queued. The journal keeps their order, so an
            # empty write puts them on disk before we read.
            await self._party.journal.write()
            custody = await self._party.journal.custody(key)
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
            listeners.append(self._begun(runner))
            self._left_at.pop(key, None)
            self._sessions[key] = _Session(runner)
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
            del self._sessions[key]
            self._past = Traffic.sum((self._past, session.runner.stats.traffic()))
            session.ended.set()

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

    async def forget_first_left(self) -> None:
        """Forget the stranger that left first, if there are too many."""
        if len(self._left_at) >= MOST_LEFT:
            await self._forget_left_before(min(self._left_at.values()))

    def drop(self, runner: SessionRunner) -> None:
        """Drop a session from memory; its journal stays."""
        session = self._sessions.get(runner.agreement.custody)
        if session is not None and session.runner is runner:
            # `_keep` takes it out of `_sessions` when its run has ended. Doing that here would let
            # the custody be loaded again while the old runner still writes.
            session.scope.cancel()

    async def remembers(self, custody: bytes) -> bool:
        """Whether we hold this custody already, so that our collateral is in it or on its way."""
        if custody in self._sessions:
            return True
        try:
            return (await self._party.journal.custody(custody)).lane == SOLVER
        except UnknownCustody:
            return False


def check_first(agreement: CustodyAgreement, frame: Frame) -> None:
    """Check that the frame is a Logon of this custody's trader. Raises LogonRefused."""
    try:
        entry = Record(agreement).append(frame)
    except (TranscriptError, FrameError, DelegationRefused) as bad:
        raise LogonRefused(str(bad)) from None
    if frame.lane != TRADER or not isinstance(entry.message, Logon):
        raise LogonRefused("the first frame of a custody is the trader's Logon")
