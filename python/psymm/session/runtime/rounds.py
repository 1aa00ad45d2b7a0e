"""Rounds: what comes on many connections at one moment is received together.

Each connection's reader leaves one message at a time in its `Inlet`: a text, or some frames of a
binary message. One task of the party takes all that was left, a round: it reads the clock once,
verifies all frames in one batch and has each session receive its own. What sessions store of it is
one commit, since they write in one turn of the scheduler. A reader goes on reading while its
message waits here, and waits itself where the one before has not been received yet: that is felt
by the peer as backpressure.

A round takes MOST_TOGETHER connections at most. Longer ones move this process and its peers in
lockstep: all of them compute, then all wait for the disk.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

import trio

from psymm.session.protocol import FrameBatch
from psymm.session.runtime.clock import Clock
from psymm.transcript.verifying import Claim, FrameVerifier
from psymm.waiting import Deadlines, Sleeper

MOST_TOGETHER: Final = 32

Item = str | FrameBatch


class Receiver(Protocol):
    """A session that receives what its connection's inlet brings."""

    def claims(self, batch: FrameBatch) -> list[Claim]:
        """What is worth verifying of a batch before it is received."""
        ...

    def receive(self, item: Item, now_ns: int) -> bool:
        """False: it has no room for more; `Inlet.open` follows once it has."""
        ...

    def failed(self, bug: Exception) -> None:
        """`receive` raised this: a bug, which ends this connection and no other."""
        ...


class Committing(Protocol):
    """What a round writes to."""

    async def yield_to_commit(self) -> None:
        """Wait while much stands before the disk."""
        ...


class Rounds:
    """One party's. Its task is a system task: it serves sessions whatever the scope they live in,
    and ends with the event loop. deadlines: of all its sessions."""

    def __init__(self, journal: Committing, clock: Clock, verifier: FrameVerifier) -> None:
        self._journal = journal
        self._clock = clock
        self._verifier = verifier
        # How many connections there are.
        self.inlets = 0
        self._waiting: deque[Inlet] = deque()
        self._running = False
        self._more = Sleeper()
        self.deadlines = Deadlines()

    async def receive_alone(self, inlet: Inlet) -> None:
        """Receive at once what the only connection brings. Cancelled: raises Cancelled, and it may
        or may not be received."""
        await self._journal.yield_to_commit()
        claims = inlet.claims()
        if len(claims) != 1:
            # Much may follow, and others are to have their turn.
            await trio.lowlevel.checkpoint()
            await self._verifier.prefetch(claims)
        inlet.receive(self._clock.now_ns())

    def add(self, inlet: Inlet) -> None:
        """It holds a message; it is received in one of the next rounds."""
        self._waiting.append(inlet)
        if not self._running:
            self._running = True
            trio.lowlevel.spawn_system_task(self._run)
        self._more.wake()

    async def _run(self) -> None:
        try:
            while True:
                if not self._waiting:
                    await self._more.sleep()
                await self._journal.yield_to_commit()
                inlets, claims = list[Inlet](), list[Claim]()
                while self._waiting and len(inlets) < MOST_TOGETHER:
                    inlets.append(self._waiting.popleft())
                    claims += inlets[-1].claims()
                await self._verifier.prefetch(claims)
                now = self._clock.now_ns()
                for inlet in inlets:
                    inlet.receive(now)
                if self._waiting:
                    # Whoever answers, and whoever writes, has its turn between two rounds.
                    await trio.lowlevel.checkpoint()
        finally:
            self._running = False


class Inlet:
    """Of one connection, from its reader to its session."""

    def __init__(self, rounds: Rounds, receiver: Receiver) -> None:
        self._rounds = rounds
        self._receiver = receiver
        self._item: Item | None = None
        # The session had no room for more after what it received last.
        self.full = False
        self._closed = False
        rounds.inlets += 1
        self._parked = 0
        self._moved = trio.lowlevel.ParkingLot()

    async def put(self, item: Item) -> None:
        """Leave a message, once the one before was received and there is room. After `close` it is
        thrown away. Cancelled: raises Cancelled, it was not left."""
        while self._item is not None or self.full:
            await self._wait()
        if self._closed:
            return
        self._item = item
        if self._rounds.inlets == 1:
            await self._rounds.receive_alone(self)  # There is nothing to gather.
        else:
            self._rounds.add(self)

    async def drained(self) -> None:
        """Wait until all that was left here is received. Cancelled: raises Cancelled."""
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
        """The connection is over: nothing more is received."""
        if not self._closed:
            self._closed = True
            self._rounds.inlets -= 1
        self._item = None
        self.full = False
        self._moved.unpark_all()

    # --- for the round ------------------------------------------------------------------------

    def claims(self) -> list[Claim]:
        """What is worth verifying of what was left here."""
        item = self._item
        return [] if item is None or isinstance(item, str) else self._receiver.claims(item)

    def receive(self, now_ns: int) -> None:
        """Have the session receive what was left here."""
        item, self._item = self._item, None
        if item is None:
            return
        try:
            self.full = not self._receiver.receive(item, now_ns) and not self._closed
        except Exception as bug:
            self._receiver.failed(bug)
        if self._parked:
            self._moved.unpark_all()
