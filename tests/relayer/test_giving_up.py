"""If a call becomes void while its transaction waits, an empty transaction replaces it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "chain"))

from pools import KeepingPool
from reorganisation_storm import Agreeing

from psymm.chain.contracts import Token
from psymm.chain.transactions import Chain
from psymm.custody.moves import open_vault
from psymm.custody.sending import DirectSender
from psymm.relayer.errors import AlreadySpent
from psymm.relayer.sender import RelayerSender
from psymm.wallet import KeyWallet

from .conftest import CHAIN_ID, World, finished_withdrawal, running_relayer

pytestmark = pytest.mark.chain


async def test_a_call_that_became_void_while_it_waited_costs_no_failed_transaction(
    own_world: World, tmp_path: Path
) -> None:
    """Another move spends its note first: the client hears that, and the nonce is free again."""
    world, chain = own_world, own_world.chain
    owner, relayer = await world.wallet(units=100), await world.wallet()
    put, token, pool = world.place.deployment, world.token, world.pool
    recipient, rival = KeyWallet.generate().address, KeyWallet.generate().address
    async with (
        await open_vault(owner, put, chain, prover=Agreeing()) as vault,
        KeepingPool(world.place.url, leaves_out=lambda one: bool(one.does[2])) as rpc,
    ):
        await vault.deposit(owner, token, 100)
        call = await finished_withdrawal(world, vault, relayer.address, recipient, 50, fee=1)
        behind = replace(world, chain=Chain(rpc, CHAIN_ID, poll_s=0.05))
        ended: list[Exception] = []
        async with running_relayer(
            behind, tmp_path / "r.db", wallet=relayer, fee=1, replace_after_s=0.5
        ) as served:

            async def submit() -> None:
                try:
                    await RelayerSender(pool, world.listed).submit(call, served.endpoint)
                except AlreadySpent as told:
                    ended.append(told)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(submit)
                await rpc.taken.wait()
                # Another of its owner's programs, which knows nothing of that call.
                async with await open_vault(owner, put, chain, prover=Agreeing()) as other:
                    await other.withdraw(token, 30, rival, [DirectSender(pool, owner)])
            assert len(ended) == 1
            statistics = served.service.statistics()
    assert (statistics.lost_races, statistics.lost_wei) == (0, 0)
    erc20 = Token(chain, token)
    assert (await erc20.balance(rival), await erc20.balance(recipient)) == (30, 0)
    assert await chain.count(relayer.address, "latest") == 1
    assert {one.nonce for one in rpc.given} == {0}
