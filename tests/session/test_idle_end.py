"""The idle end: who has had no business for the terms' span is offered its settlement."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

sys.path.insert(0, str(Path(__file__).parent.parent / "api"))

from market import Maker, Market, entry_of, market
from session_scene import SECOND, Lives, make_terms

from psymm.api import BUY, SolverSession, connect
from psymm.session.protocol import Idle, SessionStatus
from psymm.session.runtime.idle import AFTER_YOU_S
from psymm.terms import Timeouts

Clock = MockClock
HOUR = 3_600
SHORT = {"timeouts": Timeouts(idle_end=HOUR * SECOND)}


class Told(Maker):
    idle: bool | None = None

    async def on_idle(self, session: SolverSession, flat: bool) -> None:
        self.idle = flat


async def until(trading: Market, state: SessionStatus, within_s: float) -> None:
    with trio.fail_after(within_s):
        while trading.session.state is not state:  # noqa: ASYNC110
            await trio.sleep(10)


async def test_a_flat_custody_without_business_is_settled(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with market(tmp_path, maker=Told, terms=SHORT) as trading:
        order = await trading.session.order(BUY, "BTC-USD", "0.01", price=50_000)
        await order.result()
        (position,) = trading.session.positions
        closing = await trading.session.close(position, price=50_000)
        await closing.result()
        await trio.sleep(HOUR - 200)
        assert trading.session.state is SessionStatus.TRADING
        await until(trading, SessionStatus.CLOSED, 600)
        assert isinstance(trading.maker, Told)
        assert trading.maker.idle is True
        assert trading.trader_funds.worth() > 0
        assert trading.solver_funds.worth() > 0


async def test_one_with_something_open_is_named_and_stays_open(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    heard: list[object] = []
    async with market(tmp_path, maker=Told, terms=SHORT, on_event=heard.append) as trading:
        order = await trading.session.order(BUY, "BTC-USD", "0.01", price=50_000)
        await order.result()
        await trio.sleep(HOUR + 2 * AFTER_YOU_S)
        assert isinstance(trading.maker, Told)
        assert trading.maker.idle is False
        assert [event.flat for event in heard if isinstance(event, Idle)] == [False]
        assert trading.session.state is SessionStatus.TRADING
        await trading.agreed()


async def test_business_keeps_a_custody_open(tmp_path: Path, autojump_clock: Clock) -> None:
    async with market(tmp_path, maker=Told, terms=SHORT) as trading:
        for _ in range(4):
            await trio.sleep(HOUR / 2)
            await trading.session.request_quote("BTC-USD", "0.01", BUY)
        assert isinstance(trading.maker, Told)
        assert trading.maker.idle is None


async def test_the_trader_offers_where_the_solver_does_not(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(Maker):
        """A solver whose own idle end does nothing."""

        async def on_settle(self, session: SolverSession) -> bool:
            return True

    async with market(tmp_path, maker=Deaf, terms=SHORT) as trading:
        dispatch = trading.maker.dispatches[trading.session.custody]
        monkeypatch.setattr(dispatch._settlement_flow, "_propose", _refuse)
        await until(trading, SessionStatus.CLOSED, HOUR + 3 * AFTER_YOU_S)


async def _refuse() -> None:
    from psymm.errors import NotNow

    await trio.lowlevel.checkpoint()
    raise NotNow("this solver does not offer")


async def test_the_span_goes_on_over_a_restart(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = replace(make_terms(), timeouts=SHORT["timeouts"])
    monkeypatch.setattr("session_scene.make_terms", lambda: terms)
    lives = Lives(tmp_path)
    for life in range(2):
        async with lives.process() as stage:
            maker = Maker(stage.solver, stage.terms, collateral=5_000)
            maker.run_callbacks(stage.nursery)
            stage.server = await maker.server()
            await stage.nursery.start(stage.server.run)
            custodies = await stage.trader.journal.custodies()
            async with connect(
                stage.trader,
                entry_of(stage),
                dial=stage.dial,
                resume=custodies[0] if custodies else None,
                collateral=2_000,
                decimals=6,
            ) as session:
                if life == 0:
                    await session.request_quote("BTC-USD", "0.01", BUY)
                    await trio.sleep(HOUR * 0.6)
                    continue
                with trio.fail_after(HOUR * 0.5):
                    while session.state is not SessionStatus.CLOSED:  # noqa: ASYNC110
                        await trio.sleep(10)
