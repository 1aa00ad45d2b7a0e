"""A clock that jumps is followed or refused, never signed with frozen (`spec.md` 66)."""

from __future__ import annotations

import pytest

from psymm.session.runtime.clock import LASTS_NS, SystemClock

SECOND = 1_000_000_000
EPOCH = 1_790_000_000 * SECOND


class Machine:
    """A time of day and a steady clock, set by hand."""

    def __init__(self) -> None:
        self.wall, self.steady = EPOCH, 7 * SECOND
        self.clock = SystemClock(lambda: self.wall, lambda: self.steady)

    def passes(self, span_ns: int) -> None:
        self.wall += span_ns
        self.steady += span_ns

    @property
    def wrong_ns(self) -> int:
        return self.clock.now_ns() - self.wall


def test_time_that_both_clocks_saw_pass_is_followed_however_long() -> None:
    machine = Machine()
    machine.passes(8 * 3600 * SECOND)  # as after a night's suspension
    assert machine.wrong_ns == 0


@pytest.mark.parametrize("by", [SECOND, -SECOND, 3])
def test_a_small_adjustment_is_followed_at_once(by: int) -> None:
    machine = Machine()
    machine.wall += by
    assert machine.wrong_ns == 0


@pytest.mark.parametrize("by", [365 * 86_400 * SECOND, 5 * SECOND, -5 * SECOND, -3600 * SECOND])
def test_a_jump_and_back_is_never_seen(by: int) -> None:
    machine = Machine()
    before = machine.clock.now_ns()
    machine.wall += by
    machine.passes(SECOND)
    assert machine.clock.now_ns() == before + SECOND
    machine.passes(LASTS_NS - 2 * SECOND)
    machine.clock.now_ns()
    machine.wall -= by
    assert machine.wrong_ns == 0
    machine.passes(LASTS_NS)
    assert machine.wrong_ns == 0


@pytest.mark.parametrize("by", [3600 * SECOND, -3600 * SECOND])
def test_a_jump_that_lasts_is_followed(by: int) -> None:
    machine = Machine()
    machine.wall += by
    assert machine.wrong_ns == -by
    machine.passes(LASTS_NS - 1)
    assert machine.wrong_ns == -by
    machine.passes(1)
    assert machine.wrong_ns == 0


def test_a_time_of_day_that_keeps_jumping_is_not_followed() -> None:
    machine = Machine()
    for _ in range(10):
        machine.wall += 3600 * SECOND
        machine.passes(LASTS_NS - SECOND)
        machine.clock.now_ns()
    assert machine.clock.now_ns() == EPOCH + 10 * (LASTS_NS - SECOND)
