"""How often something may happen: the token bucket behind every rate limit of the package."""

from __future__ import annotations


class TokenBucket:
    """Starts full with `most` tokens and gains `per_second` each second, up to `most`.

    It has no clock: `now` is in seconds and comes from its owner's, which may be a session's.
    """

    __slots__ = ("_left", "_most", "_per_second", "_seen")

    def __init__(self, per_second: float, most: float, now: float = 0.0) -> None:
        self._per_second = per_second
        self._most = self._left = most
        self._seen = now

    def left(self, now: float) -> float:
        """The tokens there are now; below zero for a debt."""
        # A clock that goes back takes nothing away.
        passed = max(now - self._seen, 0.0)
        self._left = min(self._most, self._left + passed * self._per_second)
        self._seen = now
        return self._left

    def take(self, cost: float, now: float) -> bool:
        """Take `cost` if it is there."""
        if self.left(now) < cost:
            return False
        self._left -= cost
        return True

    def spend(self, cost: float, now: float) -> bool:
        """Take `cost` in any case; False where it was not there. Time pays the debt off first."""
        passed = max(now - self._seen, 0.0)
        self._left = min(self._most, self._left + passed * self._per_second) - cost
        self._seen = now
        return self._left >= 0

    def give_back(self, cost: float) -> None:
        """Undo a `take` or `spend`."""
        self._left = min(self._most, self._left + cost)
