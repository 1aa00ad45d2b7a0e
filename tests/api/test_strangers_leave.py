"""What a stranger's session leaves in a solver's own program: nothing (`spec.md` 68)."""

from __future__ import annotations

from pathlib import Path

import trio
from market import market
from test_strangers import Stranger
from trio.testing import MockClock, wait_all_tasks_blocked


async def test_who_logs_on_without_collateral_and_leaves_leaves_no_session_and_no_task(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        stage, maker = trading.stage, trading.maker
        await wait_all_tasks_blocked()
        sessions, tasks = len(maker.sessions), len(stage.nursery.child_tasks)
        for _ in range(5):
            async with stage.dial() as socket:
                await Stranger(stage, socket).log_on()
                await trio.sleep(1)
                assert len(maker.sessions) == sessions + 1
            await trio.sleep(1)
        assert len(maker.sessions) == len(maker.dispatches) == sessions
        assert len(stage.nursery.child_tasks) == tasks
        await trading.agreed()
