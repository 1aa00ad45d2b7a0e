"""What one peer may cost this process: frames and texts a second, and memory at any time.

Rates belong to the custody, not to the connection, so that disconnecting and resuming is no way
around them. What a resume or a gap brings again is counted apart, frames that we lack only, as many
at once as one resend holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psymm.rate import TokenBucket

SECOND: Final = 1_000_000_000
MOST_RESENT: Final = 20_000
"""Frames sent again for one request; who lacks more asks again."""
MOST_RESENT_BYTES: Final = 4 * 1024 * 1024
MOST_REPEATED: Final = 4_096
MOST_REPEATED_BYTES: Final = 1024 * 1024
"""The same where they are read from the journal, which all sessions share."""
OUTGOING_MESSAGES: Final = 1024
OUTGOING_BYTES: Final = 16 * 1024 * 1024
"""What may wait for a peer that reads slowly before its connection is cut."""
MOST_AHEAD: Final = 1024
"""Frames from further ahead of our clock than the skew: they cannot be covered yet."""
EARLY_FRAMES: Final = 64
EARLY_BYTES: Final = 64 * 1024
"""What a custody may hold, of both lanes, until both sides have accepted collateral."""
FRAME_BYTES: Final = 1024
"""Bytes a second that come with each frame a second of the terms."""
BYTES_AT_ONCE: Final = 256 * 1024
TEXT_BYTES: Final = 4096
"""A text this long counts as two."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a session holds for its peer now, beside its limits. Bytes are of messages.

    outgoing: signed or said, not yet sent. unread: received, not yet looked at. uncovered: the
    peer's frames that we have not covered. pending: requests and orders without an end.
    """

    outgoing_messages: int
    outgoing_bytes: int
    unread_bytes: int
    uncovered: int
    pending: int
    most_outgoing_bytes: int = OUTGOING_BYTES


class PeerRate:
    """per_second: the terms' frames a second; texts count as frames, and long ones as several.
    Times in nanoseconds. A false answer ends the connection."""

    def __init__(self, per_second: int) -> None:
        self._fresh = TokenBucket(per_second, per_second * 2)
        self._repeated = TokenBucket(per_second * 10, MOST_RESENT)
        bytes_per_second = per_second * FRAME_BYTES
        self._fresh_bytes = TokenBucket(bytes_per_second, max(bytes_per_second * 2, BYTES_AT_ONCE))
        self._repeated_bytes = TokenBucket(bytes_per_second * 10, 4 * MOST_RESENT_BYTES)

    def pardon(self) -> None:
        """The text that came just now costs nothing."""
        self._fresh.give_back(1)

    def text(self, characters: int, now: int) -> bool:
        return self._fresh.spend(1 + characters // TEXT_BYTES, now / SECOND)

    def frame(self, now: int, *, repeated: bool, size: int = 0) -> bool:
        """repeated: one that we lack, where a resume or a gap asked for it. size: its bytes."""
        now_s = now / SECOND
        if repeated:
            return self._repeated.spend(1, now_s) and self._repeated_bytes.spend(size, now_s)
        return self._fresh.spend(1, now_s) and self._fresh_bytes.spend(size, now_s)


__all__ = [
    "EARLY_BYTES",
    "EARLY_FRAMES",
    "MOST_AHEAD",
    "MOST_REPEATED",
    "MOST_REPEATED_BYTES",
    "MOST_RESENT",
    "MOST_RESENT_BYTES",
    "OUTGOING_BYTES",
    "OUTGOING_MESSAGES",
    "Load",
    "PeerRate",
]
