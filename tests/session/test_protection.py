"""A solver's brakes: kill switch, cancel-on-disconnect, caps; and how it leaves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio
from session_scene import Lives, Scene
from trio.testing import MockClock

sys.path.insert(0, str(Path(__file__).parent.parent / "api"))

from market import Maker, Market, entry_of, market

from psymm.api import BUY, FirmQuote, IncomingOrder, connect
from psymm.errors import Declined, PeerLeft, Refused, TradingHalted
from psymm.messages import ExecutionReport, QuoteCancel
from psymm.messages import Quote as QuoteMessage
from psymm.session.protocol import Resumed, SessionStatus
from psymm.session.runtime.protection import Caps, KillSwitch
from psymm.session.runtime.trader import ConnectionLost
from psymm.storage import PathUnusable

Clock = MockClock


async def quoted(trading: Market, quantity: str = "0.01") -> FirmQuote:
    return await trading.session.request_quote("BTC-USD", quantity, BUY)


async def broken(trading: Market, *, away_s: float = 1) -> None:
    """Cut the connection for a while."""
    trading.stage.reachable = False
    # Not waited for: the session closes the same socket meanwhile.
    trading.stage.nursery.start_soon(trading.stage.wires[-1].inner.aclose)
    await trio.sleep(away_s)
    trading.stage.reachable = True


def solvers_frames(trading: Market) -> list[object]:
    return [entry.message for entry in trading.far.runner.protocol.record if entry.frame.lane == 1]


# --- cancel on disconnect -----------------------------------------------------------------------


async def test_a_quote_does_not_outlive_the_connection_and_its_cancel_goes_first(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with market(tmp_path) as trading:
        quote = await quoted(trading)
        await trio.sleep(2)
        before = len(solvers_frames(trading))
        await broken(trading)
        await trio.sleep(10)
        after = solvers_frames(trading)[before:]
        assert isinstance(after[0], QuoteCancel)
        with pytest.raises(Refused, match="quote"):
            await trading.session.order(BUY, "BTC-USD", "0.01", quote=quote)
        await trading.agreed()


async def test_an_order_that_hit_a_quote_in_the_break_is_declined(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with market(tmp_path) as trading:
        quote = await quoted(trading)
        await quoted(trading, "0.02")
        stage = trading.stage
        stage.wires[-1].bend = lambda message: [] if isinstance(message, bytes) else [message]
        order = await trading.session.order(BUY, "BTC-USD", "0.01", quote=quote)
        await broken(trading)
        result = await order.result()
        assert (result.status, result.filled) == ("declined", 0)
        assert "lost connection" in result.reason
        frames = solvers_frames(trading)
        cancel = next(n for n, one in enumerate(frames) if isinstance(one, QuoteCancel))
        report = next(n for n, one in enumerate(frames) if isinstance(one, ExecutionReport))
        assert cancel < report
        await trading.agreed()


async def test_an_order_at_its_own_price_that_came_with_the_resend_is_looked_at(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with market(tmp_path) as trading:
        stage = trading.stage
        stage.wires[-1].bend = lambda message: [] if isinstance(message, bytes) else [message]
        order = await trading.session.order(BUY, "BTC-USD", "0.01", price=50_000)
        await broken(trading)
        assert (await order.result()).status == "filled"
        await trading.agreed()


async def test_a_callback_of_before_the_break_fills_nothing_and_is_asked_anew(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    asked: list[float] = []

    class Slow(Maker):
        async def on_order(self, order: IncomingOrder) -> None:
            asked.append(trio.current_time())
            await trio.sleep(4)
            await order.fill()

    async with market(tmp_path, maker=Slow) as trading:
        order = await trading.session.order(BUY, "BTC-USD", "0.01", price=50_000)
        await trio.sleep(1)
        await broken(trading)
        assert (await order.result()).status == "filled"
        assert len(asked) == 2
        await trading.agreed()


async def test_quotes_outlive_the_connection_where_the_operator_wants_it(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with market(tmp_path, solver={"cancel_on_disconnect": False}) as trading:
        quote = await quoted(trading)
        await broken(trading)
        await trio.sleep(2)
        order = await trading.session.order(BUY, "BTC-USD", "0.01", quote=quote)
        assert (await order.result()).status == "filled"
        assert not any(isinstance(one, QuoteCancel) for one in solvers_frames(trading))


# --- kill switch --------------------------------------------------------------------------------


async def test_a_killed_solver_withdraws_declines_and_signs_no_quote_and_no_fill(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with market(tmp_path) as trading:
        trading.maker.manner = "wait"
        quote = await quoted(trading)
        order = await trading.session.order(BUY, "BTC-USD", "0.01", price=50_000)
        await trio.sleep(2)
        trading.maker.kill("a fat finger")
        result = await order.result()
        assert result.status == "declined"
        assert "a fat finger" in result.reason
        await trio.sleep(2)
        with pytest.raises(Refused):
            await trading.session.order(BUY, "BTC-USD", "0.01", quote=quote)
        with pytest.raises(Declined, match="halted"):
            await quoted(trading)
        trading.maker.manner = "fill"
        again = await trading.session.order(BUY, "BTC-USD", "0.01", price=50_000)
        assert (await again.result()).status == "declined"
        incoming = trading.far.order(again.cl_ord_id)
        assert incoming is not None
        with pytest.raises(TradingHalted):
            await incoming.fill(50_000, "0.01")
        assert trading.far.protection.statistics(0).killed == "a fat finger"
        trading.maker.revive()
        filled = await trading.session.order(BUY, "BTC-USD", "0.01", price=50_000)
        assert (await filled.result()).status == "filled"
        await trading.agreed()


async def test_a_callback_under_way_cannot_fill_once_the_switch_is_thrown(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with market(tmp_path) as trading:
        trading.maker.manner = "halves"
        order = await trading.session.order(BUY, "BTC-USD", "0.02", price=50_000)
        await trio.sleep(0.5)
        trading.maker.kill("enough")
        result = await order.result()
        assert (result.status, str(result.filled)) == ("declined", "0.01")
        await trading.agreed()


async def test_a_switch_thrown_by_another_process_is_obeyed(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with market(tmp_path) as trading:
        await quoted(trading)
        path = trading.maker.kill_switch.path
        assert path is not None
        KillSwitch(path).kill("from outside")
        await trio.sleep(2)
        assert any(isinstance(one, QuoteCancel) for one in solvers_frames(trading))
        with pytest.raises(Declined):
            await quoted(trading)
        KillSwitch(path).revive()
        await quoted(trading)


async def test_a_kill_while_a_trader_is_away_is_made_good_when_it_is_back(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with market(tmp_path) as trading:
        trading.maker.manner = "wait"
        order = await trading.session.order(BUY, "BTC-USD", "0.01", price=50_000, expires_in_s=60)
        await trio.sleep(2)
        trading.stage.reachable = False
        trading.stage.nursery.start_soon(trading.stage.wires[-1].inner.aclose)
        await trio.sleep(1)
        trading.maker.kill("while away")
        trading.stage.reachable = True
        assert (await order.result()).status == "declined"
        await trading.agreed()


def test_the_switch_outlives_the_process_and_fails_closed(tmp_path: Path) -> None:
    path = tmp_path / "journal.killed"
    assert KillSwitch(path).reason is None
    KillSwitch(path).kill("two\nlines")
    assert KillSwitch(path).reason == "two lines"
    KillSwitch(path).revive()
    assert KillSwitch(path).reason is None
    KillSwitch(path).revive()
    path.mkdir()
    assert "cannot be read" in (KillSwitch(path).reason or "")
    with pytest.raises(PathUnusable, match="directory"):
        KillSwitch(path).kill("again")


# --- caps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "caps", [Caps(fills=2, interval_s=60), Caps(notional=1_100, interval_s=60)]
)
async def test_a_cap_that_is_reached_withdraws_quotes_and_holds_fills_for_its_time(
    tmp_path: Path, autojump_clock: Clock, caps: Caps
) -> None:
    async with market(tmp_path, solver={"caps": caps}) as trading:
        session = trading.session
        results = []
        for _ in range(3):
            order = await session.order(BUY, "BTC-USD", "0.01", price=50_000)
            results.append((await order.result()).status)
        assert results == ["filled", "filled", "declined"]
        with pytest.raises(Declined):
            await quoted(trading)
        await trio.sleep(61)
        order = await session.order(BUY, "BTC-USD", "0.01", price=50_000)
        assert (await order.result()).status == "filled"
        await trading.agreed()


# --- leaving ------------------------------------------------------------------------------------


async def test_a_solver_that_leaves_finishes_its_callbacks_and_says_that_it_will_be_back(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    heard: list[object] = []
    async with market(tmp_path, on_event=heard.append) as trading:
        trading.maker.manner = "halves"
        order = await trading.session.order(BUY, "BTC-USD", "0.02", price=50_000)
        await trio.sleep(0.5)
        await trading.maker.leave("a new version")
        await trio.sleep(1)
        lost = [event for event in heard if isinstance(event, ConnectionLost)]
        assert isinstance(lost[0].reason, PeerLeft)
        assert "a new version" in str(lost[0].reason)
        assert (await order.result()).filled == order.fills[0].quantity * 2
        assert trading.session.state is SessionStatus.TRADING, "nothing was logged out"


async def test_quotes_do_not_stand_while_the_solver_is_away(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with market(tmp_path) as trading:
        await quoted(trading)
        await trading.maker.leave()
        await trio.sleep(1)
        assert not trading.session.account.quotes
        last = [
            entry.message
            for entry in trading.session.runner.protocol.record
            if entry.frame.lane == 1
        ][-1]
        assert isinstance(last, QuoteCancel)


async def test_a_callback_that_does_not_end_is_not_waited_for_beyond_the_bound(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    class Endless(Maker):
        async def on_order(self, order: IncomingOrder) -> None:
            await trio.sleep_forever()

    async with market(tmp_path, maker=Endless) as trading:
        await trading.session.order(BUY, "BTC-USD", "0.01", price=50_000)
        await trio.sleep(1)
        began = trio.current_time()
        await trading.maker.leave(within_s=3)
        assert trio.current_time() - began < 3 + 10


async def test_a_leaving_solver_takes_nobody_new(tmp_path: Path, autojump_clock: Clock) -> None:
    async with market(tmp_path) as trading:
        await trading.maker.leave("closing")
        async with trading.stage.dial() as socket:
            with pytest.raises(PeerLeft, match="closing"):
                await socket.receive()


async def test_a_session_that_was_left_goes_on_in_the_next_process(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = Lives(tmp_path)

    async def with_maker(stage: Scene) -> Maker:
        maker = Maker(stage.solver, stage.terms, collateral=5_000)
        maker.run_callbacks(stage.nursery)
        stage.server = await maker.server()
        await stage.nursery.start(stage.server.run)
        return maker

    async with lives.process() as stage:
        maker = await with_maker(stage)
        async with connect(
            stage.trader, entry_of(stage), dial=stage.dial, collateral=2_000, decimals=6
        ) as session:
            order = await session.order(BUY, "BTC-USD", "0.01", price=50_000)
            assert (await order.result()).status == "filled"
            quote = await session.request_quote("BTC-USD", "0.01", BUY)
            await maker.leave()
        frames = len(session.runner.protocol.record)
    async with lives.process() as stage:
        await with_maker(stage)
        (custody,) = await stage.trader.journal.custodies()
        heard: list[object] = []
        async with connect(
            stage.trader,
            entry_of(stage),
            dial=stage.dial,
            resume=custody,
            decimals=6,
            on_event=heard.append,
        ) as session:
            with pytest.raises(Refused):
                await session.order(BUY, "BTC-USD", "0.01", quote=quote)
            assert any(isinstance(event, Resumed) for event in heard)
            assert len(session.runner.protocol.record) >= frames
            order = await session.order(BUY, "BTC-USD", "0.01", price=50_000)
            assert (await order.result()).status == "filled"


__all__ = ["QuoteMessage"]
