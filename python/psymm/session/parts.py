"""What an engine's parts know of it: the ground that they stand on, and the ways out.

A part owns the state of its one subject and reads the record where it needs more. What only one
part asks of the engine stands beside that part.
"""

from __future__ import annotations

from typing import Protocol

from psymm.errors import PSymmError
from psymm.messages import Message
from psymm.session.lifecycle import Lifecycle
from psymm.session.rules import Rules
from psymm.session.turn import Turn
from psymm.transcript.record import Entry, Record


class Ground(Protocol):
    """The engine, as all its parts know it. lane: ours; peer: the other. turn: the one that is
    being made."""

    lane: int
    peer: int
    record: Record
    rules: Rules
    lifecycle: Lifecycle
    error: PSymmError | None
    turn: Turn

    def covers(self, now: int) -> int:
        """The highest peer frame that we may cover."""
        ...

    def sign(self, message: Message, now: int, *, covers: int | None = None) -> Entry:
        """Sign what the rulebook is known to take."""
        ...

    def tell(self, message: Message, now: int) -> None:
        """Say a text on the connection that stands."""
        ...

    def say_reject(self, now: int, kind: str, why: str) -> None:
        """Say in a text why something of the peer's has no effect. kind: its MsgType, or what it
        is."""
        ...

    def garble(self, now: int, kind: str, why: str) -> None:
        """Name noise to the peer, and count it."""
        ...

    def hang_up(self, error: PSymmError) -> None:
        """End the connection."""
        ...

    def stop(self, error: PSymmError) -> None:
        """Sign nothing more in this custody."""
        ...


__all__ = ["Ground"]
