"""A reorganisation removes a relayer's mined transaction: its later ones do not wait for ever."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio
from reorganisation_storm import Agreeing

from psymm.chain.contracts import Token
from psymm.custody.moves import open_vault
from psymm.relayer.sender import RelayerSender
from psymm.wallet import KeyWallet

from .conftest import World, finished_withdrawal, running_relayer

pytestmark = pytest.mark.chain


async def test_a_nonce_that_a_reorganisation_freed_holds_up_no_later_call(
    own_world: World, tmp_path: Path
) -> None:
    world, chain = own_world, own_world.chain
    owner, relayer = await world.wallet(units=100), await world.wallet()
    put, recipient = world.place.deployment, KeyWallet.generate().address
    async with await open_vault(owner, put, chain, prover=Agreeing()) as vault:
        for _ in range(2):
            await vault.deposit(owner, world.token, 50)
        calls = [
            await finished_withdrawal(world, vault, relayer.address, recipient, 50, fee=1)
            for _ in range(2)
        ]
    client = RelayerSender(world.pool, world.listed)
    with trio.fail_after(180):
        async with running_relayer(
            world, tmp_path / "r.db", wallet=relayer, fee=1, replace_after_s=0.5
        ) as served:
            submit = partial(client.submit, endpoint=served.endpoint)
            await submit(calls[0])
            await chain.rpc.call("evm_setAutomine", False)
            async with trio.open_nursery() as waiting:
                waiting.start_soon(submit, calls[1])
                while await chain.count(relayer.address, "pending") < 2:  # noqa: ASYNC110
                    await trio.sleep(0.05)
                await chain.rpc.call("anvil_reorg", 1, [])
                await chain.rpc.call("evm_setAutomine", True)
    assert await Token(chain, world.token).balance(recipient) == 2 * (50 - 1)
    assert await chain.count(relayer.address, "latest") == 2
