"""The session's clock: nanoseconds since the epoch that never run backwards within a process."""

from __future__ import annotations

import time
from typing import Protocol

import trio


class Clock(Protocol):
    def now_ns(self) -> int:
        """Nanoseconds since the epoch."""
        ...


class SystemClock:
    """The system's time of day, carried on by trio's clock.

    Between two looks at the time of day it follows trio's clock, so timeouts do not jump with
    the former; once the two differ by more than `tolerance_s`, the time of day wins, but never
    backwards.
    """

    def __init__(self, tolerance_s: float = 0.05) -> None:
        self._tolerance_ns = int(tolerance_s * 1e9)
        self._wall = time.time_ns()
        self._steady = trio.current_time()
        self._last = self._wall

    def now_ns(self) -> int:
        carried = self._wall + int((trio.current_time() - self._steady) * 1e9)
        wall = time.time_ns()
        if abs(wall - carried) > self._tolerance_ns:
            self._wall, self._steady = wall, trio.current_time()
            carried = wall
        self._last = max(self._last, carried)
        return self._last
