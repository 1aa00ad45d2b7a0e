"""What a signer gains who backdates, postdates or withholds, end to end between two sessions.

A price walks at random (the seed is in the test's name). The cheat knows all of it up to the moment
at which it shows its frame. What that is worth, against acting in time, is computed from the two
equal accounts at the end, and never exceeds what the price moved within T.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from pathlib import Path
from random import Random

import pytest
import trio
from rogue import fall_silent, sign_unchecked
from session_scene import SECOND, Scene, scene
from trio.testing import MockClock

from psymm.errors import ClockBehind, Refused
from psymm.messages import (
    ExecType,
    ExecutionReport,
    Heartbeat,
    NewOrderSingle,
    OrderCancelRequest,
    OrdType,
    PositionEffect,
    Quote,
    Side,
)
from psymm.rulebook import Account, Lane, OrderStatus
from psymm.session.runtime.runner import SessionRunner
from psymm.terms import UNIT

QUANTITY = UNIT // 10
T = 10 * SECOND
SKEW = 2 * SECOND
HELD = [0, SECOND, T // 2, T - 1, T, T + 1, 2 * T]
SEEDS = [1, 2, 3]


class Walk:
    """A price for each second, in whole ticks, as a random walk by `seed`; the same before it."""

    def __init__(self, seed: int, start_ns: int) -> None:
        self._random = Random(seed)
        self._start_ns = start_ns

    @cached_property
    def _steps(self) -> list[int]:
        prices = [50_000]
        for _ in range(120):
            prices.append(prices[-1] + self._random.choice((-40, -15, 0, 15, 40)))
        return prices

    def at(self, now_ns: int) -> int:
        return self._steps[max(0, (now_ns - self._start_ns) // SECOND)] * UNIT

    def moved(self, since_ns: int, span_ns: int) -> int:
        """The furthest that the price is from where it was, within a span."""
        seconds = range(since_ns, since_ns + span_ns + 1, SECOND)
        return max(abs(self.at(one) - self.at(since_ns)) for one in (*seconds, since_ns + span_ns))


@asynccontextmanager
async def silent_scene(path: Path) -> AsyncIterator[Scene]:
    """An open session whose ends sign only what the test has them sign."""
    async with scene(path) as stage:
        await stage.open()
        fall_silent(stage.far)
        fall_silent(stage.near)
        yield stage


@contextmanager
def frozen(stage: Scene, now_ns: int) -> Iterator[None]:
    """Both clocks stand at this very nanosecond."""
    stage.clock.now_ns = lambda: now_ns  # type: ignore[method-assign]
    try:
        yield
    finally:
        del stage.clock.now_ns


async def sleep_until(stage: Scene, at_ns: int) -> None:
    await trio.sleep(max(0.0, (at_ns - stage.clock.now_ns()) / SECOND))


async def cover(runner: SessionRunner, other: SessionRunner) -> None:
    """`runner` covers all it has, and `other` covers that, so that it takes effect."""
    for one in (runner, other):
        await arrived(runner, other)
        sign_unchecked(one, Heartbeat())
        await trio.lowlevel.checkpoint()
    await arrived(runner, other)


async def arrived(one: SessionRunner, other: SessionRunner) -> None:
    """Both have every frame of the other's."""
    while any(  # noqa: ASYNC110
        one.protocol.record.head(lane) != other.protocol.record.head(lane) for lane in (0, 1)
    ):
        await trio.sleep(0.001)


def worth(account: Account, price: int, lane: Lane) -> int:
    """What the open positions are worth to a lane at a price, scaled; fees apart."""
    traders = sum(one.profit(price) for one in account.positions.values())
    return traders if lane is Lane.TRADER else -traders


def limit(stage: Scene, price: int, expire: int, **given: object) -> NewOrderSingle:
    arguments: dict[str, object] = {
        "cl_ord_id": "o",
        "symbol": "BTC-USD",
        "side": Side.BUY,
        "order_qty": QUANTITY,
        "ord_type": OrdType.LIMIT,
        "position_effect": PositionEffect.OPEN,
        "expire_time": expire,
        "price": price,
    }
    return NewOrderSingle(**(arguments | given))  # type: ignore[arg-type]


def fill(price: int) -> ExecutionReport:
    return ExecutionReport(
        exec_id="e",
        cl_ord_id="o",
        exec_type=ExecType.TRADE,
        last_px=price,
        last_qty=QUANTITY,
    )


def a_second(stage: Scene) -> int:
    """The next full second of the clock, five seconds ahead."""
    return stage.clock.now_ns() // SECOND * SECOND + 5 * SECOND


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("held", HELD)
async def test_a_solver_that_backdates_a_fill_gains_at_most_what_moved_within_t(
    tmp_path: Path, autojump_clock: MockClock, held: int, seed: int
) -> None:
    """It lets the order's last moment pass, looks where the price goes, and then shows a fill
    that it dates back to that moment."""
    async with silent_scene(tmp_path) as stage:
        last_moment = a_second(stage)
        walk = Walk(seed, last_moment)
        price = walk.at(last_moment)
        await stage.near.send(limit(stage, price, last_moment))
        shown = last_moment + held
        await sleep_until(stage, shown)
        with frozen(stage, shown):
            await arrived(stage.near, stage.far)
            sign_unchecked(stage.far, fill(price), sending_time=last_moment)
            await cover(stage.near, stage.far)
        account = await stage.agreed()
        in_time = 0  # at the last moment the order's price was the market's
        gained = worth(account, walk.at(shown), Lane.SOLVER) - in_time
        assert (len(account.positions) == 1) is (held <= T)
        if held > T:
            assert gained == 0
            assert account.status_of("o") is OrderStatus.EXPIRED
            assert account.fees == 0
        assert abs(gained) * UNIT <= walk.moved(last_moment, T) * QUANTITY


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("held", HELD)
async def test_a_trader_that_leaves_a_fill_uncovered_gains_at_most_what_moved_within_t(
    tmp_path: Path, autojump_clock: MockClock, held: int, seed: int
) -> None:
    """It sees the fill and does not cover it until it knows where the price goes. Up to T the fill
    stands whatever it does; to undo it, it must have let T pass, and then it is undone whatever
    the price does afterwards."""
    async with silent_scene(tmp_path) as stage:
        filled = a_second(stage)
        walk = Walk(seed, filled)
        price = walk.at(filled)
        await sleep_until(stage, filled - SECOND)
        await stage.near.send(limit(stage, price, filled))
        await sleep_until(stage, filled)
        with frozen(stage, filled):
            await arrived(stage.near, stage.far)
            sign_unchecked(stage.far, fill(price))
        covered = filled + held
        await sleep_until(stage, covered)
        with frozen(stage, covered):
            await cover(stage.near, stage.far)
        account = await stage.agreed()
        assert (len(account.positions) == 1) is (held <= T)
        decided = min(covered, filled + T)
        at_once = (walk.at(decided) - price) * QUANTITY // UNIT
        gained = worth(account, walk.at(decided), Lane.TRADER) - at_once
        if held <= T:
            assert gained == 0
        assert gained * UNIT <= walk.moved(filled, T) * QUANTITY


@pytest.mark.parametrize("expires_in_s", [11, 60])
async def test_a_fill_left_uncovered_stands_where_its_order_lives_on(
    tmp_path: Path, autojump_clock: MockClock, expires_in_s: int
) -> None:
    """Late, it counts from its cover; an order that lives longer than that is filled all the
    same. Who wants no such option to be had gives orders a life beyond T."""
    async with silent_scene(tmp_path) as stage:
        filled = a_second(stage)
        await sleep_until(stage, filled)
        with frozen(stage, filled):
            await stage.near.send(limit(stage, 50_000 * UNIT, filled + expires_in_s * SECOND))
            await arrived(stage.near, stage.far)
            sign_unchecked(stage.far, fill(50_000 * UNIT))
        with frozen(stage, filled + T + 1):
            await cover(stage.near, stage.far)
        assert len((await stage.agreed()).positions) == 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("held", HELD)
async def test_a_trader_that_withholds_a_hit_gains_at_most_what_moved_within_t(
    tmp_path: Path, autojump_clock: MockClock, held: int, seed: int
) -> None:
    """It signs an order on a quote as of the quote's last moment, and shows it once it knows
    where the price goes. Later than T the quote is dead, and the solver's own rulebook refuses to
    sign the fill."""
    async with silent_scene(tmp_path) as stage:
        last_moment = a_second(stage)
        walk = Walk(seed, last_moment)
        offer = walk.at(last_moment)
        quoted = Quote(quote_id="q", symbol="BTC-USD", valid_until_time=last_moment, offer_px=offer)
        await stage.far.send(quoted)
        await arrived(stage.near, stage.far)
        shown = last_moment + held
        await sleep_until(stage, shown)
        hit = limit(
            stage,
            offer,
            shown + 60 * SECOND,
            ord_type=OrdType.PREVIOUSLY_QUOTED,
            quote_id="q",
        )
        with frozen(stage, shown):
            sign_unchecked(stage.near, hit, sending_time=last_moment)
            await arrived(stage.near, stage.far)
            if held <= T:
                await stage.far.send(fill(offer))
            else:
                with pytest.raises(Refused, match="unknown-order"):
                    await stage.far.send(fill(offer))
            await cover(stage.near, stage.far)
        account = await stage.agreed()
        assert (len(account.positions) == 1) is (held <= T)
        gained = worth(account, walk.at(shown), Lane.TRADER)  # hit in time, it is worth nothing
        assert (held <= T) or gained == 0
        assert gained * UNIT <= walk.moved(last_moment, T) * QUANTITY


@pytest.mark.parametrize("back_s", [1, 9, 11])
async def test_a_trader_that_backdates_a_cancel_to_before_a_fill_cancels_nothing(
    tmp_path: Path, autojump_clock: MockClock, back_s: int
) -> None:
    """A trader's frame takes effect where the solver covers it, whatever time it bears."""
    async with silent_scene(tmp_path) as stage:
        sent = a_second(stage)
        await sleep_until(stage, sent)
        with frozen(stage, sent):
            await stage.near.send(limit(stage, 50_000 * UNIT, sent + 60 * SECOND))
            await arrived(stage.near, stage.far)
        before_order = stage.near.protocol.record.head(1).seq
        filled = sent + back_s * SECOND
        with frozen(stage, filled):
            sign_unchecked(stage.far, fill(50_000 * UNIT))
            await arrived(stage.near, stage.far)
            cancel = OrderCancelRequest(cl_ord_id="c", orig_cl_ord_id="o")
            sign_unchecked(stage.near, cancel, sending_time=sent, covers=before_order)
            await cover(stage.near, stage.far)
        account = await stage.agreed()
        assert len(account.positions) == 1
        assert account.status_of("o") is OrderStatus.FILLED


@pytest.mark.parametrize(("ahead", "covered"), [(SKEW, True), (SKEW + 1, False)])
@pytest.mark.parametrize("lane", [0, 1])
async def test_a_frame_from_further_ahead_than_the_skew_is_covered_by_nobody_until_its_time(
    tmp_path: Path, autojump_clock: MockClock, ahead: int, covered: bool, lane: int
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        rogue, honest = (stage.near, stage.far) if lane == 0 else (stage.far, stage.near)
        await trio.sleep(3)
        now = stage.clock.now_ns()
        end = now + 60 * SECOND
        said = (
            limit(stage, 50_000 * UNIT, end)
            if lane == 0
            else Quote(quote_id="q", symbol="BTC-USD", valid_until_time=end, offer_px=50_000 * UNIT)
        )
        with frozen(stage, now):
            entry = sign_unchecked(rogue, said, sending_time=now + ahead)
            await arrived(stage.near, stage.far)
            await honest.send(Heartbeat())
            assert (honest.protocol.record.head(1 - lane).peer_seq >= entry.frame.seq) is covered
            if lane == 0 and not covered:
                assert stage.account(stage.far).status_of("o") is None
        await trio.sleep(5)
        assert honest.protocol.record.head(1 - lane).peer_seq >= entry.frame.seq


async def test_a_postdated_fill_binds_its_solver_and_not_its_trader(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A solver that dates a fill past the skew can sign nothing earlier any more. For its trader it
    is no fill before its time (`spec.md` 66): nothing opens, and no clock moves."""
    async with silent_scene(tmp_path) as stage:
        now = a_second(stage)
        await sleep_until(stage, now)
        with frozen(stage, now):
            await stage.near.send(limit(stage, 50_000 * UNIT, now + 3600 * SECOND))
            await arrived(stage.near, stage.far)
            ahead = now + 1800 * SECOND
            postdated = sign_unchecked(stage.far, fill(50_000 * UNIT), sending_time=ahead)
            await arrived(stage.near, stage.far)
            with pytest.raises(ClockBehind):
                await stage.far.send(Heartbeat())
            later = sign_unchecked(stage.far, Heartbeat(), sending_time=ahead)
            assert later.frame.sending_time == ahead
            await arrived(stage.near, stage.far)
            ours = await stage.near.send(Heartbeat())
            assert ours.frame.peer_seq < postdated.frame.seq
        assert not len(stage.account(stage.near).positions)
        assert stage.account(stage.near).clock < ahead


@pytest.mark.parametrize("seed", SEEDS)
def test_the_price_does_move_within_t(seed: int) -> None:
    """Else the bounds above would say nothing."""
    walk = Walk(seed, 0)
    assert walk.moved(0, T) > 0
    assert walk.at(T) != walk.at(2 * T)
