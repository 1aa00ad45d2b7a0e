"""Sends rounds and ballots to any number of followers, each at its own pace.

There is no queue for a follower. The newest messages are in one ring that all share. A follower
that falls behind it reads older rounds from the store, a few at a time, and one that does not read
at all is cut off after SEND_S. So a slow follower costs a cursor, and delays nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import trio

from psymm.oracle.store import OracleStore

RING: Final = 64
"""Newest rounds, and newest ballots, that are kept in memory."""
_READS_AT_ONCE: Final = 2
"""Followers that read old rounds at one time; others wait for their turn."""


class RoundBroadcast:
    """Rounds, newest last. `after` gives each follower all rounds in rising order."""

    def __init__(self, store: OracleStore, newest: int) -> None:
        self._store = store
        self._ring: deque[tuple[int, str]] = deque()
        # All rounds up to here are in the store alone.
        self._floor = self.newest = newest
        self._more = trio.Event()
        self._reading = trio.CapacityLimiter(_READS_AT_ONCE)

    def publish(self, timestamp: int, text: str) -> None:
        """Hand a round that is in the store to all who follow. One that is older than the newest
        is for those alone who ask for history."""
        if timestamp <= self.newest:
            return
        self.newest = timestamp
        self._ring.append((timestamp, text))
        if len(self._ring) > RING:
            self._floor = self._ring.popleft()[0]
        self._more.set()
        self._more = trio.Event()

    async def after(self, cursor: int) -> AsyncGenerator[str, None]:
        """Texts of all rounds after a moment, and of the new ones, for ever. Raises StorageError,
        OracleStoreError."""
        while True:
            if cursor < self._floor:
                # A copy: while we read, new rounds push older ones out of the ring.
                floor = self._floor
                async with aclosing(self.between(cursor, floor)) as rows:
                    async for at, text in rows:
                        yield text
                        cursor = at
                # The store may have deleted rounds up to the floor. Without this we would ask for
                # them for ever.
                cursor = max(cursor, floor)
            elif self.newest <= cursor:
                await self._more.wait()
            else:
                at, text = next(one for one in self._ring if one[0] > cursor)
                yield text
                cursor = at

    async def between(self, after: int, last: int) -> AsyncGenerator[tuple[int, str], None]:
        """Moments and texts of the stored rounds after `after`, up to `last`, oldest first. Raises
        StorageError, OracleStoreError."""
        while rows := await trio.to_thread.run_sync(
            self._store.rounds, after, last, limiter=self._reading
        ):
            for row in rows:
                yield row
            after = rows[-1][0]


class BallotBroadcast:
    """What this signer signed last. A peer that falls behind gets the newest."""

    def __init__(self) -> None:
        self._ring: deque[tuple[int, str]] = deque(maxlen=RING)
        self._count = 0
        self._more = trio.Event()

    def publish(self, text: str) -> None:
        self._count += 1
        self._ring.append((self._count, text))
        self._more.set()
        self._more = trio.Event()

    async def follow(self) -> AsyncGenerator[str, None]:
        """The last ballots, and the new ones, for ever."""
        cursor = 0
        while True:
            if self._count <= cursor:
                await self._more.wait()
            else:
                cursor, text = next(one for one in self._ring if one[0] > cursor)
                yield text
