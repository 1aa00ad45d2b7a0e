"""The session's clock: nanoseconds since the epoch, from the machine's time of day.

A lane's dates must never go back, and a lane with a date far ahead cannot sign until then. So we
must not sign with a time of day that is wrong for a moment. Each reading therefore compares the
time of day with a steady clock, which nobody sets and which counts while the machine is suspended:

- If both agree, we follow. That includes a jump over the hours of a suspension.
- A small difference is the time of day being adjusted (NTP). We follow.
- A jump that the steady clock did not see is followed, forward or back, after it has lasted
  LASTS_NS. Until then the steady clock carries the time on, so a jump ahead and back has no effect.

After a jump back the session signs nothing until its lane's last date has come (`ClockBehind`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

ADJUSTED_NS: Final = 1_000_000_000
"""We follow a difference up to this at once. Below every skew that terms are made with."""
LASTS_NS: Final = 30_000_000_000
"""How long a jump must last before we follow it."""


class Clock(Protocol):
    """Where a session reads the time."""

    def now_ns(self) -> int:
        """Nanoseconds since the epoch."""
        ...


_BOOT = getattr(time, "CLOCK_BOOTTIME", None)
steady_ns: Final[Callable[[], int]] = (
    time.monotonic_ns if _BOOT is None else partial(time.clock_gettime_ns, _BOOT)
)
"""Nanoseconds of a clock that is never set. It counts while the machine is suspended, if the system
has such a clock."""


class SystemClock:
    """The machine's clock.

    Args:
        wall: Reads the time of day, in nanoseconds.
        steady: Reads the steady clock, in nanoseconds.
    """

    def __init__(
        self,
        wall: Callable[[], int] = time.time_ns,
        steady: Callable[[], int] = steady_ns,
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()
        self._jump: tuple[int, int] | None = None  # To which offset, and since when (steady).

    def now_ns(self) -> int:
        """Nanoseconds since the epoch; see the module for how jumps are treated."""
        steady = self._steady()
        offset = self._wall() - steady
        if abs(offset - self._offset) <= ADJUSTED_NS:
            # Both clocks agree, or the time of day was adjusted a little: follow it.
            self._offset, self._jump = offset, None
        elif self._jump is None or abs(offset - self._jump[0]) > ADJUSTED_NS:
            # A jump, or a jump to another time: wait whether it lasts.
            self._jump = offset, steady
        elif steady - self._jump[1] >= LASTS_NS:
            # It has lasted: follow it.
            self._offset, self._jump = offset, None
        return steady + self._offset
