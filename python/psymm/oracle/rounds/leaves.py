"""One leaf of a round: the price of a feed, or its funding rate for one epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psymm._core import keccak256
from psymm.oracle.rounds.errors import LeafInvalid

FEED_BYTES: Final = 32
"""A contract compares feeds as one word."""
_VALUE_END: Final = 10**38
"""Values of decimals: at most 20 digits before the point and 18 after it."""
_WORD: Final = 1 << 256
TIME_END: Final = 1 << 64
"""Moments are nanoseconds since the epoch in 8 bytes."""


def is_feed(name: str) -> bool:
    """Whether a feed can have this name: 1 to 32 printable ASCII characters without spaces."""
    return 1 <= len(name) <= FEED_BYTES and all("!" <= one <= "~" for one in name)


@dataclass(frozen=True, slots=True)
class RoundLeaf:
    """A price, or a funding rate. Raises LeafInvalid for one that no round can hold.

    Attributes:
        feed: the oracle's name for what is priced.
        value: 18 decimals. A price is above zero; a rate is signed, positive: long pays short.
        epoch: 0 for a price; for a rate the moment that it is charged for, nanoseconds since 1970.
    """

    feed: str
    value: int
    epoch: int = 0

    def __post_init__(self) -> None:
        if not is_feed(self.feed):
            raise LeafInvalid("no feed has this name", feed=self.feed[:FEED_BYTES])
        if not 0 <= self.epoch < TIME_END:
            raise LeafInvalid("the epoch is no moment", feed=self.feed, epoch=self.epoch)
        if not -_VALUE_END < self.value < _VALUE_END:
            raise LeafInvalid("the value has too many digits", feed=self.feed)
        if self.epoch == 0 and self.value <= 0:
            raise LeafInvalid("the price is not above zero", feed=self.feed, value=self.value)

    @property
    def key(self) -> tuple[str, int]:
        """What leaves are sorted by: the feed's bytes, then the epoch."""
        return self.feed, self.epoch

    @property
    def hash(self) -> bytes:
        """32 bytes."""
        return keccak256(
            self.feed.encode().ljust(FEED_BYTES, b"\0")
            + self.epoch.to_bytes(32)
            + (self.value % _WORD).to_bytes(32)
        )
