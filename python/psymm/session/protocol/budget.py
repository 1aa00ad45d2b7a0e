"""Limits on what one peer may cost this process: frames and texts a second, and memory.

Rates belong to the custody, not to the connection, so a peer cannot evade them by reconnecting.
Frames that a resume or a gap repeats have a separate budget, as large as one resend. It counts only
frames that we really lack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psymm.rate import TokenBucket

SECOND: Final = 1_000_000_000
MOST_RESENT: Final = 20_000
"""Most frames resent for one request. A peer that lacks more asks again."""
MOST_RESENT_BYTES: Final = 4 * 1024 * 1024
MOST_REPEATED: Final = 4_096
MOST_REPEATED_BYTES: Final = 1024 * 1024
"""The same for frames read from the journal, which all sessions share."""
OUTGOING_MESSAGES: Final = 1024
OUTGOING_BYTES: Final = 16 * 1024 * 1024
"""Most output that may wait for a slow peer before we disconnect it."""
MOST_AHEAD: Final = 1024
"""Most frames held back: they are dated too far ahead, or wait for the chain."""
EARLY_FRAMES: Final = 64
EARLY_BYTES: Final = 64 * 1024
"""Most that both lanes may hold until both sides have accepted collateral (`spec.md` 68)."""
FRAME_BYTES: Final = 1024
"""Bytes a second for each frame a second that the terms allow."""
BYTES_AT_ONCE: Final = 256 * 1024
TEXT_BYTES: Final = 4096
"""A text this long counts as two."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a session holds for its peer now. Bytes are those of messages.

    Attributes:
        outgoing_messages: messages not yet sent.
        outgoing_bytes: the bytes of these messages.
        unread_bytes: bytes received and not yet processed.
        uncovered: the peer's frames that we have not covered.
        pending: requests and orders that are still open.
        most_outgoing_bytes: the limit on `outgoing_bytes`.
    """

    outgoing_messages: int
    outgoing_bytes: int
    unread_bytes: int
    uncovered: int
    pending: int
    most_outgoing_bytes: int = OUTGOING_BYTES


class PeerRate:
    """The rate limits of one peer. The caller disconnects if an answer is False.

    Texts count as frames, and long ones as several. Times are in nanoseconds.
    """

    def __init__(self, per_second: int) -> None:
        self._fresh = TokenBucket(per_second, per_second * 2)
        self._repeated = TokenBucket(per_second * 10, MOST_RESENT)
        bytes_per_second = per_second * FRAME_BYTES
        self._fresh_bytes = TokenBucket(bytes_per_second, max(bytes_per_second * 2, BYTES_AT_ONCE))
        self._repeated_bytes = TokenBucket(bytes_per_second * 10, 4 * MOST_RESENT_BYTES)

    def pardon(self) -> None:
        """Give back what the last text cost."""
        self._fresh.give_back(1)

    def text(self, characters: int, now: int) -> bool:
        return self._fresh.spend(1 + characters // TEXT_BYTES, now / SECOND)

    def frame(self, now: int, *, repeated: bool, size: int = 0) -> bool:
        """Count one frame; False if it exceeds the rate.

        Args:
            now: our clock, nanoseconds.
            repeated: a resume or a gap asked for it, and we lack it.
            size: its bytes.
        """
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
