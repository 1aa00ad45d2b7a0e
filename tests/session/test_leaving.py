"""Who leaves on purpose has covered what the other side did, so that it stands however long it is
until both meet again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from session_scene import Scene, scene
from trio.testing import MockClock

from psymm.api import Session, connect
from psymm.messages import (
    ExecType,
    ExecutionReport,
    Heartbeat,
    NewOrderSingle,
    OrdType,
    PositionEffect,
    Side,
)
from psymm.session.protocol import SessionStatus

Clock = MockClock
LATER_S = 3600
"""Long after the order's ExpireTime and T."""


@asynccontextmanager
async def connected(stage: Scene, **given: Any) -> AsyncGenerator[Session, None]:
    async with connect(
        stage.trader,
        "memory",
        expected=stage.solver.wallet.public_key,
        dial=stage.dial,
        decimals=6,
        on_event=stage.heard,
        **given,
    ) as session:
        await stage.desk.listeners[-1].state(SessionStatus.TRADING)
        yield session


async def filled(stage: Scene, session: Session) -> None:
    """An order is sent and filled; left at the moment at which its trader hears of the fill."""
    order = NewOrderSingle(
        cl_ord_id="o1",
        symbol="BTC-USD",
        side=Side.BUY,
        order_qty=10**16,
        ord_type=OrdType.LIMIT,
        position_effect=PositionEffect.OPEN,
        expire_time=stage.clock.now_ns() + 30 * 10**9,
        price=50_000 * 10**18,
    )
    await session.runner.send(order)
    await stage.desk.listeners[-1].message(NewOrderSingle)
    await stage.far.send(
        ExecutionReport(
            exec_id="e1",
            cl_ord_id="o1",
            exec_type=ExecType.TRADE,
            last_px=order.price,
            last_qty=order.order_qty,
        )
    )
    await stage.heard.message(ExecutionReport)
    assert session.runner.uncovered


async def leave_the_block(_: Session) -> None:
    """The block ends, as `psymm trade` does once its order is filled."""


async def raise_an_error(_: Session) -> None:
    raise ZeroDivisionError


async def leave_the_end(session: Session) -> None:
    await session.runner.leave("for lunch")


async def log_out(session: Session) -> None:
    await session.log_out("enough")


@pytest.mark.parametrize("leaves", [leave_the_block, raise_an_error, leave_the_end, log_out])
async def test_a_fill_just_before_its_trader_leaves_stands_however_late_it_comes_back(
    tmp_path: Path, autojump_clock: Clock, leaves: Callable[[Session], Awaitable[None]]
) -> None:
    async with scene(tmp_path) as stage:
        await stage.nursery.start(stage.server.run)
        custody = b""
        try:
            async with connected(stage, collateral=2_000) as session:
                custody = session.custody
                await filled(stage, session)
                await leaves(session)
                stage.reachable = False
        except ZeroDivisionError:
            pass
        await trio.sleep(LATER_S)
        stage.reachable = True
        kept = await stage.trader.journal.custody(custody)
        async with connected(stage, resume=kept) as session:
            far = stage.desk.ends[-1]
            await trio.sleep(10)
            await far.send(Heartbeat())  # all that the trader signed takes effect
            await trio.sleep(1)
            assert session.account.hash == stage.account(far).hash
            assert len(session.account.positions) == 1


async def test_an_order_just_before_its_solver_leaves_is_covered(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.order("o1")
        head = stage.near.protocol.record.head(0).seq
        assert stage.far.protocol.record.head(1).peer_seq < head
        stage.reachable = False
        await stage.far.leave("a restart")
        await trio.sleep(1)
        assert stage.near.protocol.record.head(1).peer_seq == head
        assert len(stage.account(stage.near).orders) == 1


async def test_who_leaves_does_not_wait_for_a_peer_that_reads_nothing(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.nursery.start(stage.server.run)
        async with connected(stage, collateral=2_000) as session:
            await filled(stage, session)

            async def stuck(_: object) -> None:
                await trio.sleep_forever()

            stage.wires[-1].send = stuck  # type: ignore[method-assign]
            began = trio.current_time()
        assert trio.current_time() - began < 30
