"""The session's clock: nanoseconds since the epoch, as the machine's time of day has them.

A lane's dates may never go back, and one dated far ahead is dead until then, so a time of day that
is wrong for a moment must not be signed with. The time of day and a clock that only runs on (and
counts while the machine is suspended) are compared at each look:

- What both agree on is followed: also a jump over the hours that a machine was suspended.
- A small difference is the time of day being adjusted (NTP), and is followed.
- A jump that the steady clock did not see is followed, forward or back, once it has lasted. Until
  then the time is carried on by the steady clock, so a jump ahead and back is never seen here.

After a jump back the session signs nothing until its lane's last date has come (`ClockBehind`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

ADJUSTED_NS: Final = 1_000_000_000
"""A difference up to this is followed at once. Below every skew that terms are made with."""
LASTS_NS: Final = 30_000_000_000
"""How long a jump must last to be followed."""


class Clock(Protocol):
    def now_ns(self) -> int:
        """Nanoseconds since the epoch."""
        ...


_BOOT = getattr(time, "CLOCK_BOOTTIME", None)
steady_ns: Final[Callable[[], int]] = (
    time.monotonic_ns if _BOOT is None else partial(time.clock_gettime_ns, _BOOT)
)
"""Nanoseconds of a clock that is never set and counts while the machine is suspended, where the
system has one."""


class SystemClock:
    """The machine's. wall, steady: where the two times are read, nanoseconds."""

    def __init__(
        self,
        wall: Callable[[], int] = time.time_ns,
        steady: Callable[[], int] = steady_ns,
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()
        self._jump: tuple[int, int] | None = None  # to which offset, and since when

    def now_ns(self) -> int:
        steady = self._steady()
        offset = self._wall() - steady
        if abs(offset - self._offset) <= ADJUSTED_NS:
            self._offset, self._jump = offset, None
        elif self._jump is None or abs(offset - self._jump[0]) > ADJUSTED_NS:
            self._jump = offset, steady
        elif steady - self._jump[1] >= LASTS_NS:
            self._offset, self._jump = offset, None
        return steady + self._offset
