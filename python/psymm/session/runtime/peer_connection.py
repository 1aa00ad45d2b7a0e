"""One connection that stands: what comes waits in its inlet, what goes is sent or queued."""

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
"""How long the peer may take to read one message."""


class PeerConnection:
    """One that stands. outgoing: what its socket could not take at once, with its bytes.

    reason: why it ends, once that is known. bug: what ends it where that is a bug.
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
        # What stands between us and the peer may only be passed by where nothing is.
        self._direct = socket if isinstance(socket, WebSocket) else None
        self._ending = False
        self._more = trio.Event()

    def disconnect(self, reason: PSymmError) -> None:
        if self.reason is None:
            self.reason = reason
        # What is queued still goes out: the sender ends the connection when it is through.
        self._ending = True
        self._more.set()

    def put(self, message: str | bytes) -> None:
        """Send a message, after those before it; what cannot go at once waits for the sender."""
        if self._ending:
            return
        if not self.outgoing and self._direct is not None and self._direct.send_now(message):
            self._stats.wrote(message)
        elif self.waiting_bytes > OUTGOING_BYTES or len(self.outgoing) >= OUTGOING_MESSAGES:
            self.reason = OverBudget(
                "the peer does not read", messages=len(self.outgoing), bytes=self.waiting_bytes
            )
            self.scope.cancel()
        else:
            self.outgoing.append(message)
            self.waiting_bytes += len(message)
            self._more.set()

    async def send_queued(self) -> None:
        """Until the connection ends: send what waits, each message within SEND_S."""
        try:
            while self.outgoing or not self._ending:
                while self.outgoing:
                    message = self.outgoing[0]
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
        """Nothing more comes or goes."""
        self._ending = True
        self.inlet.close()
