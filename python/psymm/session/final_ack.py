"""Whether the solver has all that its trader signed in a custody that has ended.

After the end nobody signs a frame that would cover the trader's last one, its citation of the
settlement or the Heartbeat that covers the solver's, and only the trader can dial. So the trader
leaves a custody only once the solver is known to have that frame: it covers it, its heads
show it, or it answers what was asked behind it.
"""

from __future__ import annotations

from typing import Final

from psymm.messages import Resume, TestRequest
from psymm.session.context import ProtocolContext
from psymm.session.effects import Delivered
from psymm.transcript.agreement import TRADER

_ASKED: Final = "ended-"
"""How the TestRequests begin whose answer says that a frame has come."""


class FinalAck:
    """held: the highest frame of our lane that the peer is known to have, of a custody that had
    ended before; None of any other."""

    def __init__(self, protocol: ProtocolContext, held: int | None) -> None:
        self._protocol = protocol
        self._held = held or 0
        # It was known before, and nobody need hear of it again.
        self._told = held is not None and held >= self._head
        self._asked: int | None = None
        self._since: int | None = None

    @property
    def _head(self) -> int:
        return self._protocol.record.head(self._protocol.lane).seq

    @property
    def held(self) -> int:
        """The highest frame of our lane that the peer is known to have."""
        return max(self._held, self._protocol.record.head(self._protocol.peer).peer_seq)

    @property
    def owed(self) -> bool:
        """The custody has ended, and its solver may lack frames of ours."""
        protocol = self._protocol
        return protocol.lane == TRADER and protocol.lifecycle.over and self.held < self._head

    @property
    def due(self) -> int | None:
        """When this connection has been given its time, None while nothing is waited for."""
        return (
            None if self._since is None else self._since + self._protocol.params.response_timeout_ns
        )

    def reconnected(self) -> None:
        self._asked = self._since = None

    def shown(self, theirs: Resume) -> None:
        """The peer shows its heads."""
        protocol = self._protocol
        if protocol.lane != TRADER or theirs.custody != protocol.record.agreement.custody:
            return
        seq = theirs.trader_seq
        known = self._held < seq <= self._head and protocol.record.knows(TRADER, seq)
        if known and protocol.record.digest(TRADER, seq) == theirs.trader_digest:
            self._held = seq

    def answered(self, test_req_id: str | None) -> None:
        """A Heartbeat of the peer: it has read all that went before what it answers."""
        if self._asked is not None and test_req_id == f"{_ASKED}{self._asked}":
            self._held = max(self._held, self._asked)

    def advance(self, now: int) -> None:
        """Ask for what is owed, on a connection on which heads agree."""
        protocol = self._protocol
        if protocol.lane != TRADER or not protocol.lifecycle.over:
            return
        if not self.owed:
            self._since = None
            self._tell()
            return
        self._since = now if self._since is None else self._since
        if self._asked != self._head:
            self._asked = self._head
            protocol.queue_text(TestRequest(test_req_id=f"{_ASKED}{self._asked}"), now)

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            self._protocol.effects.events.append(Delivered(self._head))


__all__ = ["FinalAck"]
