"""What the parts of the session protocol know of it, and what they may have it do.

A part owns the state of its one subject and reads the record where it needs more. What only one
part asks of the protocol stands beside that part.
"""

from __future__ import annotations

from typing import Protocol

from psymm.errors import PSymmError
from psymm.messages import Message
from psymm.session.effects import Effects
from psymm.session.lifecycle import Lifecycle
from psymm.session.params import SessionParams
from psymm.transcript.record import Record, RecordedFrame


class ProtocolContext(Protocol):
    """The protocol, as all its parts know it. lane: ours; peer: the other. effects: the one that is
    being made."""

    lane: int
    peer: int
    record: Record
    params: SessionParams
    lifecycle: Lifecycle
    error: PSymmError | None
    effects: Effects

    def covers(self, now: int) -> int:
        """The highest peer frame that we may cover."""
        ...

    def sign(self, message: Message, now: int, *, covers: int | None = None) -> RecordedFrame:
        """Sign what the rulebook is known to take."""
        ...

    def queue_text(self, message: Message, now: int) -> None:
        """Say a text on the connection that stands."""
        ...

    def queue_business_reject(self, now: int, kind: str, why: str) -> None:
        """Say in a text why something of the peer's has no effect. kind: its MsgType, or what it
        is."""
        ...

    def report_malformed(self, now: int, kind: str, why: str) -> None:
        """Name noise to the peer, and count it."""
        ...

    def disconnect(self, error: PSymmError) -> None:
        """End the connection."""
        ...

    def stop(self, error: PSymmError) -> None:
        """Sign nothing more in this custody."""
        ...


__all__ = ["ProtocolContext"]
