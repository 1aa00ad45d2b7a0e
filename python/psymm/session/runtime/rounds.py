"""Rounds: messages that arrive on many connections at one moment are received together.

The way of a message:

1. The connection's reader puts it into its `Inlet`, one at a time: a text, or some frames of a
   binary message. The reader continues to read. Where the system can, the party's `Poller` reads
   what comes, and wakes a reader only for what is more than one binary message of a few frames.
2. One task of the party (`Rounds._run`) takes what is in all inlets: a round. It reads the clock
   once and verifies all frames in one batch.
3. Each session receives its own. All sessions write in one scheduler step, so the journal makes
   one commit of it.

Backpressure: a reader waits if its previous message has not been received yet, or if the session
has no room (`Inlet.full`). Then the peer's sending stalls, too.

A round takes at most MOST_TOGETHER connections. Longer ones move this process and its peers in
lockstep: all of them compute, then all wait for the disk.

A single connection has nothing to share: a frame that comes alone on it is received where it is
left, without a round.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

import trio

from psymm.session.protocol import FrameBatch
from psymm.session.runtime.clock import Clock
from psymm.sockets.poller import new_poller
from psymm.transcript.verifying import Claim, FrameVerifier
from psymm.waiting import Deadlines, Sleeper

MOST_TOGETHER: Final = 32

Item = str | FrameBatch


class Receiver(Protocol):
    """A session that receives what its connection's inlet brings."""

    def add_claims(self, batch: FrameBatch, claims: list[Claim]) -> None:
        """Add the signatures that are worth verifying before the batch is received."""
        ...

    def receive(self, item: Item, now_ns: int) -> bool:
        """Receive an item. False: no room for more; `Inlet.open` follows when there is."""
        ...

    def failed(self, bug: Exception) -> None:
        """`receive` raised this. It is a bug, which ends this connection and no other."""
        ...


class Committing(Protocol):
    """The journal, as a round needs it."""

    @property
    def has_room(self) -> bool:
        """Whether `yield_to_commit` would not wait."""
        ...

    async def yield_to_commit(self) -> None:
        """Wait while too much is queued for the disk."""
        ...


class Rounds:
    """The rounds of one party.

    Its task is a system task: it serves sessions in any scope, and ends with the event loop.

    Attributes:
        inlets: How many connections there are.
        deadlines: Of all its sessions.
        poller: Reads the sockets of all its sessions; None if the system has none.
    """

    def __init__(self, journal: Committing, clock: Clock, verifier: FrameVerifier) -> None:
        self._journal = journal
        self._clock = clock
        self._verifier = verifier
        # Each `Inlet` counts itself in and out.
        self.inlets = 0
        self._waiting: deque[Inlet] = deque()
        self._running = False
        self._more = Sleeper()
        self.deadlines = Deadlines()
        self.poller = new_poller()

    def add(self, inlet: Inlet) -> None:
        """Note that an inlet holds a message. It is received now or in one of the next rounds."""
        if self.inlets == 1 and not self._waiting and self._journal.has_room:
            claims = list[Claim]()
            inlet.add_claims(claims)
            # More frames take longer, and other tasks must get their turn before.
            if len(claims) == 1:
                inlet.receive(self._clock.now_ns())
                return
        self._waiting.append(inlet)
        if not self._running:
            self._running = True
            trio.lowlevel.spawn_system_task(self._run)
        elif self._more.asleep:
            self._more.wake()

    async def _run(self) -> None:
        """Make rounds for as long as inlets hold messages, then sleep until one does."""
        try:
            while True:
                if not self._waiting:
                    await self._more.sleep()
                # Wait if the disk is behind: what this round stores would only queue up.
                await self._journal.yield_to_commit()
                inlets, claims = list[Inlet](), list[Claim]()
                while self._waiting and len(inlets) < MOST_TOGETHER:
                    inlets.append(self._waiting.popleft())
                    inlets[-1].add_claims(claims)
                await self._verifier.prefetch(claims)
                # One reading of the clock for all: they arrived at about the same moment.
                now = self._clock.now_ns()
                for inlet in inlets:
                    inlet.receive(now)
                if self._waiting:
                    # Let senders and the journal's writer run between two rounds.
                    await trio.lowlevel.checkpoint()
        finally:
            self._running = False


class Inlet:
    """Where one connection's reader leaves messages for its session."""

    def __init__(self, rounds: Rounds, receiver: Receiver) -> None:
        self._rounds = rounds
        self._receiver = receiver
        self._item: Item | None = None
        # The session had no room after its last message.
        self.full = False
        self._closed = False
        rounds.inlets += 1
        self._parked = 0
        self._moved = trio.lowlevel.ParkingLot()

    async def put(self, item: Item) -> None:
        """Leave a message, after the one before was received and there is room. After `close` it is
        dropped. Cancelled: raises Cancelled; the message was not left."""
        while self._item is not None or self.full:
            await self._wait()
        if self._closed:
            return
        self._item = item
        self._rounds.add(self)

    @property
    def free(self) -> bool:
        """Whether a message can be left now."""
        return self._item is None and not self.full and not self._closed

    def leave(self, item: Item) -> None:
        """Leave a message in a free inlet. Does not block."""
        self._item = item
        self._rounds.add(self)

    async def drained(self) -> None:
        """Wait until all messages left here are received. Cancelled: raises Cancelled."""
        while self._item is not None:
            await self._wait()

    async def _wait(self) -> None:
        self._parked += 1
        try:
            await self._moved.park()
        finally:
            self._parked -= 1

    def open(self) -> None:
        """There is room again."""
        if self.full:
            self.full = False
            self._moved.unpark_all()

    def close(self) -> None:
        """The connection is over: receive nothing more."""
        if not self._closed:
            self._closed = True
            self._rounds.inlets -= 1
        self._item = None
        self.full = False
        self._moved.unpark_all()

    # --- for the round ------------------------------------------------------------------------

    def add_claims(self, claims: list[Claim]) -> None:
        """Add the signatures that are worth verifying of the message here."""
        item = self._item
        if item is not None and not isinstance(item, str):
            self._receiver.add_claims(item, claims)

    def receive(self, now_ns: int) -> None:
        """Have the session receive the message here."""
        # Cleared first: after a bug in `receive`, no round may receive it again.
        item, self._item = self._item, None
        if item is None:
            return
        try:
            self.full = not self._receiver.receive(item, now_ns) and not self._closed
        except Exception as bug:
            self._receiver.failed(bug)
        if self._parked:
            self._moved.unpark_all()
