"""Leaving a session says goodbye where there is somebody to hear it, and waits for nobody else."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from market import Scene, market
from trio.testing import MockClock

from psymm.session.runtime.transport import Socket


async def test_a_session_whose_solver_is_gone_is_left_at_once(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    dial, asked = Scene.dial, trio.Event()

    @asynccontextmanager
    async def unanswered(stage: Scene) -> AsyncGenerator[Socket, None]:
        if not stage.reachable:
            asked.set()
            await trio.sleep_forever()
        async with dial(stage) as socket:
            yield socket

    monkeypatch.setattr(Scene, "dial", unanswered)
    async with market(tmp_path) as trading:
        trading.stage.reachable = False
        await trading.stage.wires[-1].inner.aclose()
        await asked.wait()
        left = trio.current_time()
    assert trio.current_time() - left < 1
