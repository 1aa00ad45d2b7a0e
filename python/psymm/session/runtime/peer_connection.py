"""PeerConnection: one open connection, with its inlet and its queue of outgoing messages.

A message goes straight to the socket if nothing is queued before it; otherwise `send_queued` sends
it in order. `disconnect` lets the queue drain before the connection ends. Other ends (the peer does
not read, a bug) cancel `scope` at once.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

from psymm.errors import Disconnected, OverBudget, PeerSilent, PeerViolation, PSymmError
from psymm.session.protocol.budget import OUTGOING_BYTES, OUTGOING_MESSAGES
from psymm.session.runtime.rounds import Inlet
from psymm.session.runtime.stats import SessionStats
from psymm.session.runtime.transport import Socket, WebSocket

SEND_S: Final = 20.0
"""Seconds that the peer may take to read one message."""


class PeerConnection:
    """One open connection.

    Attributes:
        outgoing: Messages that the socket could not take at once.
        waiting_bytes: Their size.
        reason: Why the connection ends, if that is known.
        bug: The bug that ends it, if it is one.
        gone: Set when the connection is over and cleaned up.
    """

    def __init__(self, socket: Socket, inlet: Inlet, stats: SessionStats) -> None:
        self.socket = socket
        self.inlet = inlet
        self.scope = trio.CancelScope()
        self.outgoing: deque[str | bytes] = deque()
        self.waiting_bytes = 0
        self.reason: PSymmError | None = None
        self.bug: Exception | None = None
        self.gone = trio.Event()
        self._stats = stats
        # Only a plain WebSocket has the short cut. Another `Socket` may be a wrapper that must see
        # every message.
        self._direct = socket if isinstance(socket, WebSocket) else None
        self._ending = False
        self._more = trio.Event()

    def disconnect(self, reason: PSymmError) -> None:
        if self.reason is None:
            self.reason = reason
        # What is queued still goes out. `send_queued` ends the connection when it is through.
        self._ending = True
        self._more.set()

    def put(self, message: str | bytes) -> None:
        """Send a message after those before it. If it cannot go at once, `send_queued` sends it."""
        if self._ending:
            return
        # The short cut must not overtake queued messages.
        if not self.outgoing and self._direct is not None and self._direct.send_now(message):
            self._stats.wrote(message)
        elif self.waiting_bytes > OUTGOING_BYTES or len(self.outgoing) >= OUTGOING_MESSAGES:
            # A peer that does not read must not fill our memory.
            self.reason = OverBudget(
                "the peer does not read", messages=len(self.outgoing), bytes=self.waiting_bytes
            )
            self.scope.cancel()
        else:
            self.outgoing.append(message)
            self.waiting_bytes += len(message)
            self._more.set()

    async def send_queued(self) -> None:
        """Until the connection ends: send what is queued, each message within SEND_S."""
        try:
            while self.outgoing or not self._ending:
                while self.outgoing:
                    message = self.outgoing[0]
                    # Leave the message in the queue while it is sent, so that `put` does not
                    # overtake it.
                    with trio.CancelScope(deadline=trio.current_time() + SEND_S) as late:
                        await self.socket.send(message)
                    if late.cancelled_caught:
                        self.reason = PeerSilent("the peer does not read", waited_s=SEND_S)
                        return
                    self.outgoing.popleft()
                    self.waiting_bytes -= len(message)
                    self._stats.wrote(message)
                if not self._ending:
                    self._more = trio.Event()
                    await self._more.wait()
        except (Disconnected, PeerViolation) as gone:
            self.reason = self.reason or gone
        finally:
            self.scope.cancel()

    def close(self) -> None:
        """Take and send nothing more."""
        self._ending = True
        self.inlet.close()
