"""Poller: one task that reads many sockets.

A task that waits for a socket costs a wake and two system calls for each message. Here one task
waits for all of them, through an epoll of its own, and calls whose socket has something to read.
Only Linux has it; elsewhere each connection's reader waits for itself.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from typing import Final

import trio

MOST_READ: Final = 32
"""Sockets that are read in one turn. The others keep what they have for the next."""


class Poller:
    """The sockets of one party. Its task is a system task: it serves sessions in any scope."""

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._ready: dict[int, Callable[[], None]] = {}

    def register(self, fileno: int, ready: Callable[[], None]) -> None:
        """Call `ready` whenever the socket can be read, until `unregister`, which must come before
        the socket is closed. It must read, or unregister, and must neither block nor raise."""
        if self._epoll is None:
            self._epoll = select.epoll()
            trio.lowlevel.spawn_system_task(self._run, self._epoll)
        self._epoll.register(fileno, select.EPOLLIN)
        self._ready[fileno] = ready

    def unregister(self, fileno: int) -> None:
        del self._ready[fileno]
        if self._epoll is not None:
            self._epoll.unregister(fileno)

    async def _run(self, epoll: select.epoll) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(epoll.fileno())
                for fileno, _ in epoll.poll(0, MOST_READ):
                    # An earlier one of this turn may have unregistered it.
                    ready = self._ready.get(fileno)
                    if ready is not None:
                        ready()
        finally:
            self._epoll = None
            epoll.close()


def new_poller() -> Poller | None:
    """A poller, if the system has what it takes."""
    return Poller() if sys.platform == "linux" else None
