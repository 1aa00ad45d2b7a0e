"""EffectInterpreter: the only place that carries a session's effects out.

The way of one list of effects:

1. `perform` numbers it (`_taken`) and hands what it stores to the journal as one write.
2. When that write is on disk, the journal calls `_durable`.
3. `_fulfil` sends, reports events and disconnects, in the order that `protocol.effects` promises.
   Then the list counts as done (`_done`), and callers that wait for it wake.

What is durable when: nothing is sent, and no event is reported, before all that its list stores is
on disk. `ProvisionalFrame` is the one exception: the listener sees it as soon as it is queued.
The journal keeps the order of its writes, so lists are fulfilled in the order in which they were
performed. All writes of one scheduler step, of all sessions, share one commit. A lone session
has nobody to share with: what it signs is on disk, sent and reported when `perform` returns. What
the peer asks or offers is committed together with the answer to it, or after ANSWER_S.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Final, get_args

import trio

from psymm._core import Frame
from psymm.errors import PSymmError, SessionClosed
from psymm.journal.codec import CustodyState
from psymm.journal.faults import JournalFailure
from psymm.journal.transaction import Change
from psymm.journal.writer import Journal
from psymm.session.protocol import (
    Delivered,
    Disconnect,
    Effect,
    Effects,
    Event,
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
from psymm.session.protocol.budget import MOST_REPEATED_BYTES
from psymm.session.protocol.effects import Send, Store
from psymm.session.runtime.clock import Clock
from psymm.session.runtime.collateral import Note
from psymm.session.runtime.peer_connection import PeerConnection
from psymm.session.runtime.stats import SessionStats
from psymm.session.runtime.transport import MAX_BURST_BYTES
from psymm.transcript.agreement import JournalledOpening
from psymm.waiting import Alarm, Deadlines, Sleeper

BACKLOG: Final = 64
"""Lists of effects that may wait for the journal. Beyond that we stop reading the socket."""
NEVER: Final = 2**63
ANSWER_S: Final = 0.1
"""Seconds that a lone session's answer may take and still share a commit with what it answers."""

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


class EffectInterpreter(ABC):
    """The half of `SessionRunner` that carries effects out.

    Args:
        on_event: As for `SessionRunner`.
        deadlines: Shared by all sessions of a party.
    """

    def __init__(
        self,
        protocol: SessionProtocol,
        journal: Journal,
        clock: Clock,
        on_event: Callable[[Event], None],
        deadlines: Deadlines,
    ) -> None:
        self.protocol = protocol
        self.agreement = protocol.record.agreement
        self.lane = protocol.lane
        self.journal = journal
        self.clock = clock
        self.stats = SessionStats(protocol.record.agreement.custody, protocol.lane, protocol.state)
        self._listener = on_event
        self._deadlines = deadlines
        # Effects from before `run` started: there is no nursery to carry them out in yet.
        self._early: list[Effects] = []
        # Durable effects, in order, that wait until the journal has read frames to resend.
        self._behind: deque[Effects] = deque()
        self._reading = False
        # Lists of effects performed and done, as running counts. Waiters sleep for a value of
        # `_done`; the number beside it keeps equal entries of the heap comparable.
        self._taken = 0
        self._done = 0
        self._waiters: list[tuple[int, int, Sleeper]] = []
        self._numbers = count()
        self._connection: PeerConnection | None = None
        # Set while `run` runs.
        self._nursery: trio.Nursery | None = None
        self._failed: Exception | None = None
        self._wake = trio.Event()
        # When the protocol must look at its deadlines next, by its own clock.
        self._due = 0
        # Rings when the answer to an offer takes too long to share its commit.
        self._late: Alarm | None = None

    # --- what the runner adds -----------------------------------------------------------------

    @abstractmethod
    def _serve(self, event: Event) -> None:
        """Do what an event of `_SERVED` asks of the runner itself. Must not block."""

    @abstractmethod
    def _ask_chain(self) -> None:
        """Ask our own chain about what the peer cites, if a frame waits for it."""

    @abstractmethod
    def _arm(self, wake_at: int) -> None:
        """Tick at `wake_at`, by the protocol's clock."""

    # --- the way of a list --------------------------------------------------------------------

    def perform(self, effects: Effects, *, alone: bool = False) -> None:
        """Carry effects out, after all earlier ones. Does not block.

        alone: No other session has anything to add to the commit, so it need not wait for them.
        """
        state = self.protocol.state
        # During business no frame waits for the chain.
        if state.attention:
            self._ask_chain()
        if effects:
            self._taken += 1
            offers = provisional(effects)
            if self._nursery is None:
                self._early.append(effects)
            else:
                # What the peer asks or offers may be answered at once: one commit for both. Only if
                # nothing else waits for this one: each offer is stored and reported, no more.
                lingers = alone and bool(offers) and len(effects) == 2 * len(offers)
                self._write(effects, at_once=alone and not offers, lingers=lingers)
                if lingers:
                    self._expect_answer()
            # The frame is queued for the disk now, ahead of anything that is signed because of it.
            for offered in offers:
                self._listener(offered)
        connection = state.connection
        if connection is not None and connection.wake_at < self._due:
            self._arm(connection.wake_at)

    def _expect_answer(self) -> None:
        """Have what lingers committed within ANSWER_S, if no answer does it before."""
        # One alarm serves all offers until it comes. Most are answered by then, and an alarm for
        # each would cost more than it saves.
        if self._late is None or not self._late.asleep:
            self._late = Alarm(self.journal.commit_soon)
            self._deadlines.add(trio.current_time() + ANSWER_S, self._late)

    def _write(self, effects: Effects, *, at_once: bool = False, lingers: bool = False) -> None:
        """Hand what the effects store to the journal, in their order."""
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
        # Effects that store nothing may skip the journal, but only if no earlier list is still
        # waiting for it: otherwise they would overtake.
        if changes or self._done < self._taken - 1:
            self.journal.write_soon(changes, partial(self._durable, effects), at_once, lingers)
        else:
            self._durable(effects, None)

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
                        event: Event = effect  # type: ignore[assignment]  # not silent: an event
                        # The runner acts first, so that the listener finds the rotator and the
                        # journal up to date.
                        if type(event) in _SERVED:
                            self._serve(event)
                        self.stats.on_event(event)
                        self._listener(event)
            except Exception as bug:
                # A bug in the listener. It ends this session, through `run`, and no other.
                self._fail(bug)
                return
        self._done += 1
        standing = self._connection
        if self._waiters or (standing is not None and standing.inlet.full):
            self._finished()

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

    def disconnect(self, reason: PSymmError) -> None:
        """Close the current connection after sending what is queued on it."""
        if self._connection is not None:
            self._connection.disconnect(reason)

    def report(self, event: Event) -> None:
        """Count, log and pass on an event that no list brings. Does not block."""
        self.stats.on_event(event)
        self._listener(event)

    # --- waiting for it -----------------------------------------------------------------------

    @property
    def over(self) -> PSymmError | None:
        """The error that ended `run`; None while it runs. After it, this session does nothing."""
        failed = self._failed
        if failed is None or isinstance(failed, PSymmError):
            return failed
        # A bug in a listener. `run` raises the bug itself.
        return SessionClosed(f"a listener failed ({type(failed).__name__})")

    def _fail(self, error: Exception) -> None:
        self._failed = self._failed or error
        self._wake.set()
        self._finished()

    def _finished(self) -> None:
        """Wake who waits for lists that are done now."""
        standing = self._connection
        # The inlet closed at BACKLOG. The journal has caught up, so read from the socket again.
        if standing is not None and standing.inlet.full and self._taken - self._done <= BACKLOG:
            standing.inlet.open()
        while self._waiters and (self._waiters[0][0] <= self._done or self._failed is not None):
            heappop(self._waiters)[2].wake()

    async def _until_done(self, effects: int) -> None:
        """Wait until that many lists are carried out. Raises the error that ended the session."""
        if self._done < effects and self._failed is None:
            # What lingers might be what we wait for, and nobody else may answer it.
            self.journal.commit_soon()
            done = Sleeper()
            heappush(self._waiters, (effects, next(self._numbers), done))
            await done.sleep()
        if self._done < effects and (over := self.over) is not None:
            raise over

    async def flush(self, effects: Effects) -> None:
        """Carry effects out; returns when they and all earlier ones are done."""
        self.perform(effects)
        await self._until_done(self._taken)

    async def drain(self) -> None:
        """Wait until all earlier effects are durable and done."""
        await self._until_done(self._taken)

    # --- what is kept outside of a list ---------------------------------------------------------

    async def keep_status(self, status: SessionStatus) -> None:
        """Write the session's status to the journal. Cancelled: it may or may not be kept."""
        await self.journal.write(*self._change(StoreStatus(status, self.protocol.error)))

    async def keep_openings(self, lane: int, notes: Sequence[Note]) -> None:
        """Keep openings of this custody's notes. Cancelled: all are kept or none."""
        await self.journal.keep_openings(self.agreement.custody, _openings(lane, notes))


def _openings(lane: int, notes: Sequence[Note]) -> list[JournalledOpening]:
    return [
        JournalledOpening(note.commitment, lane, note.token, note.amount, note.blinding)
        for note in notes
    ]
