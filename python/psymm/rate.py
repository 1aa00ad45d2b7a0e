"""The token bucket, which all rate limits of the package use."""

from __future__ import annotations


class TokenBucket:
    """Starts full with `most` tokens and gains `per_second` each second, up to `most`.

    It has no clock: callers pass `now` in seconds, from any clock.
    """

    __slots__ = ("_left", "_most", "_per_second", "_seen")

    def __init__(self, per_second: float, most: float, now: float = 0.0) -> None:
        self._per_second = per_second
        self._most = self._left = most
        self._seen = now

    def left(self, now: float) -> float:
        """The tokens that are left now; a negative number is a debt."""
        # If the clock goes back, no tokens are lost.
        passed = max(now - self._seen, 0.0)
        self._left = min(self._most, self._left + passed * self._per_second)
        self._seen = now
        return self._left

    def take(self, cost: float, now: float) -> bool:
        """Take `cost` tokens if there are so many; False otherwise."""
        if self.left(now) < cost:
            return False
        self._left -= cost
        return True

    def spend(self, cost: float, now: float) -> bool:
        """Take `cost` tokens in any case; False if that makes a debt, which later tokens pay
        first."""
        passed = now - self._seen
        left = self._left + passed * self._per_second if passed > 0 else self._left
        self._left = left = (left if left < self._most else self._most) - cost
        self._seen = now
        return self._left >= 0

    def give_back(self, cost: float) -> None:
        """Undo a `take` or `spend`."""
        self._left = min(self._most, self._left + cost)
