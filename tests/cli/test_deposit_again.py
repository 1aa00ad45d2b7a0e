"""A deposit that waits is reported when its command is repeated, and not made a second time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from psymm.chain.rpc import Rpc
from psymm.demo import Actor, Amounts, DemoError, Stage, _chain, _set_up

pytestmark = [pytest.mark.chain, pytest.mark.slow]


async def test_a_repeated_deposit_says_what_became_of_the_first(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    actors = [Actor(stage, name) for name in ("owner", "trader", "relayer", "solver", "rival")]
    owner, trader = actors[:2]
    async with _chain(stage, owner) as url, Rpc(url) as rpc:
        await _set_up(stage, url, actors, Amounts.of(1))
        deposit = ("deposit", "31", "--permit", "--yes")
        first: list[dict[str, Any]] = []

        async def pending() -> int:
            return await rpc.eth.get_transaction_count(trader.address, "pending")

        before = await pending()
        await rpc.call("evm_setAutomine", False)
        # The first one waits for three minutes, and its owner does not.
        async with trader._process(deposit, True, True):
            while await pending() == before:  # noqa: ASYNC110
                await trio.sleep(0.2)
        with pytest.raises(DemoError, match="not confirmed yet"):
            await trader.run(*deposit)
        assert await pending() == before + 1
        await rpc.call("anvil_mine", "0x2")
        await rpc.call("evm_setAutomine", True)
        done = await trader.run(*deposit, heard=first.append)
        assert done["earlier"] is True
        assert await pending() == before + 1
