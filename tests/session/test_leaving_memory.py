"""A session leaves the solver's memory while its trader comes back (`SolverSessions.drop`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from session_scene import scene
from trio.testing import MockClock, memory_stream_pair

from psymm.errors import SessionClosed
from psymm.messages import ExecType, ExecutionReport
from psymm.session.protocol import Resumed
from psymm.session.runtime.transport import Socket, over_streams

SOON_S = 5
"""Less than the silence after which a trader gives a connection up."""


def report(exec_id: str, cl_ord_id: str) -> ExecutionReport:
    return ExecutionReport(exec_id=exec_id, cl_ord_id=cl_ord_id, exec_type=ExecType.NEW)


@asynccontextmanager
async def silent_peer() -> AsyncGenerator[Socket, None]:
    """The solver's side of a connection on which nothing comes."""
    near, far = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        _, served = await over_streams(nursery, near, far)
        yield served
        nursery.cancel_scope.cancel()


async def test_a_custody_that_leaves_memory_is_loaded_again_when_its_old_session_has_ended(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        old, sessions = stage.far, stage.server.sessions
        order = await stage.order("o1")
        old.post(report("e1", order.cl_ord_id))
        # The report is only queued for the disk when a connection comes back.
        sessions.drop(old)
        new = await sessions.known(old.agreement.custody)
        assert new is not None
        assert new is not old
        assert old.over is not None
        assert new.over is None
        assert new.protocol.record.head(1) == old.protocol.record.head(1)
        assert sessions.runners() == {old.agreement.custody: new}


async def test_a_connection_ends_with_its_session_so_that_the_trader_comes_back_at_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        seen = len(stage.heard.events)
        stage.server.sessions.drop(stage.far)
        with trio.fail_after(SOON_S):
            await stage.heard.until(lambda event: isinstance(event, Resumed), after=seen)
            # What the scene looks at as the solver's session.
            stage.desk.ends[0], stage.desk.listeners[0] = (
                stage.desk.ends[1],
                stage.desk.listeners[1],
            )
            order = await stage.order("o1")
            await stage.far.send(report("e1", order.cl_ord_id))
            await stage.heard.message(ExecutionReport)


async def test_a_connection_that_takes_over_from_one_with_a_bug_ends_with_the_session(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The bug ends the session that both connections are of."""
    async with scene(tmp_path) as stage:
        await stage.open()
        old, stage.desk.begun = stage.far, trio.Event()
        async with silent_peer() as socket:
            old.failed(ValueError("a bug"))
            with trio.fail_after(SOON_S):
                await old.attach(socket, fresh=False)
        assert old.over is not None
        with trio.fail_after(SOON_S):
            await stage.desk.begun.wait()


async def test_a_session_that_has_ended_takes_no_connection(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        old = stage.far
        stage.server.sessions.drop(old)
        await stage.server.sessions.known(old.agreement.custody)
        async with silent_peer() as socket:
            assert isinstance(await old.attach(socket, fresh=False), SessionClosed)
        assert not old.attached
