"""Counts of measured values in fixed buckets, for cheap statistics."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """A histogram's counts.

    Attributes:
        bounds: each bucket's highest value, ascending.
        counts: how many values fell into each bucket; the last is for values above all bounds.
        total: the sum of all values, in the bounds' unit.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def values(self) -> int:
        """How many values were measured."""
        return sum(self.counts)


class Histogram:
    """Counts values in buckets.  Raises ValueError unless the bounds ascend."""

    def __init__(self, bounds: Sequence[float]) -> None:
        if not bounds or list(bounds) != sorted(set(bounds)):
            raise ValueError("a histogram's bounds ascend")
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def counts(self) -> Counts:
        return Counts(self._bounds, tuple(self._counts), self._total)
