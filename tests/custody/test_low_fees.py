"""A move whose fee became too low is replaced with the same nonce, also after restarts, and happens
once."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "chain"))
sys.path.insert(0, str(Path(__file__).parent.parent / "storms"))

from pools import KeepingPool, mine_at, mining_at
from reorganisation_storm import ACCEPTS, Agreeing

from psymm.chain.contracts import Token
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import Devnet
from psymm.chain.transactions import Chain
from psymm.custody.moves import Vault, open_vault
from psymm.custody.sending import DirectSender
from psymm.custody.stored import DONE
from psymm.errors import format_amount
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain


class Place:
    """A deposit of 40 that a command left under way when blocks asked twice what it offers."""

    def __init__(self, net: Devnet, put: Deployment, owner: KeyWallet, home: Path) -> None:
        self.net, self.put, self.owner, self.home = net, put, owner, home
        self.token = put.tokens[0].address
        self.asked = 0

    @asynccontextmanager
    async def vault(self, pool: KeepingPool) -> AsyncIterator[Vault]:
        chain = Chain(pool, self.put.chain_id, poll_s=0.02)
        async with await open_vault(
            self.owner, self.put, chain, home=self.home, prover=Agreeing()
        ) as opened:
            yield opened

    async def leave_a_deposit(self, pool: KeepingPool) -> None:
        await self.net.rpc.call("evm_setAutomine", False)
        async with self.vault(pool) as vault, trio.open_nursery() as nursery:

            async def raise_the_price() -> None:
                await pool.taken.wait()
                self.asked = 2 * pool.given[0].max_wei
                await mine_at(self.net, self.asked)
                nursery.cancel_scope.cancel()

            nursery.start_soon(raise_the_price)
            await vault.deposit(self.owner, self.token, 40)

    async def expect_one_deposit(self, before: int) -> None:
        assert await Token(self.net.chain, self.token).balance(self.put.portal) == 40
        assert await self.net.chain.count(self.owner.address, "latest") == before + 1


@pytest.fixture
def place(
    own_devnet: Devnet, own_deployment: tuple[Deployment, KeyWallet], tmp_path: Path
) -> Place:
    put, owner = own_deployment
    return Place(own_devnet, put, owner, tmp_path)


async def test_the_next_command_raises_the_fee_of_what_an_earlier_one_left(place: Place) -> None:
    before = await place.net.chain.count(place.owner.address, "latest")
    async with KeepingPool(place.net.url) as pool:
        await place.leave_a_deposit(pool)
        assert len(pool.versions) == 1
        async with place.vault(pool) as vault, trio.open_nursery() as nursery:
            nursery.start_soon(mining_at, place.net, place.asked)
            assert await vault.resume(patience_s=120) == []
            nursery.cancel_scope.cancel()
            (move,) = await vault.store.moves()
            assert move.status == DONE
            assert move.tx_hash in {one.hash for one in pool.versions[1:]}
    assert {(one.nonce, one.does) for one in pool.versions} == {
        (pool.versions[0].nonce, pool.versions[0].does)
    }
    await place.expect_one_deposit(before)


async def test_a_version_that_is_mined_after_a_dearer_one_was_recorded_is_the_deposit(
    place: Place,
) -> None:
    """A restart comes between, so the older one is known from the file."""
    before = await place.net.chain.count(place.owner.address, "latest")
    chosen: set[int] = {0}
    async with KeepingPool(
        place.net.url,
        leaves_out=lambda one: one.max_wei not in chosen and place.asked > 0,
    ) as pool:
        await place.leave_a_deposit(pool)
        first = pool.versions[0]
        async with place.vault(pool) as vault, trio.open_nursery() as nursery:
            nursery.start_soon(vault.resume)
            await pool.replaced.wait()
            nursery.cancel_scope.cancel()
        await mine_at(place.net, first.max_wei // 3)
        await place.net.rpc.call("eth_sendRawTransaction", first.raw)
        await mine_at(place.net, first.max_wei // 3)
        async with place.vault(pool) as vault:
            assert await vault.resume(patience_s=120) == []
            (move,) = await vault.ended()
            assert (move.status, move.tx_hash) == (DONE, first.hash)
            assert [one.tx_hash for one in move.versions] == [one.hash for one in pool.versions]
    await place.expect_one_deposit(before)


async def test_a_later_move_is_not_held_up_by_an_earlier_one_whose_fee_is_too_low(
    place: Place,
) -> None:
    """Its own task has ended, so the later one's task also finishes the earlier one."""
    await place.net.rpc.call("anvil_setCode", place.put.cta_verifier, ACCEPTS)
    recipient = KeyWallet.generate().address
    async with KeepingPool(place.net.url) as pool:
        async with place.vault(pool) as vault:
            await vault.deposit(place.owner, place.token, 20)
        pool.forget()
        await place.leave_a_deposit(pool)
        async with place.vault(pool) as vault, trio.open_nursery() as nursery:
            nursery.start_soon(mining_at, place.net, place.asked)
            sender = DirectSender(place.put.pool(vault.chain), place.owner)
            await vault.withdraw(place.token, 20, recipient, [sender])
            nursery.cancel_scope.cancel()
            assert {one.status for one in await vault.store.moves()} == {DONE}
    assert await Token(place.net.chain, place.token).balance(place.put.portal) == 40
    assert await Token(place.net.chain, place.token).balance(recipient) == 20


async def test_at_the_limit_a_move_stays_under_way_says_why_and_happens_when_the_price_falls(
    place: Place,
) -> None:
    before = await place.net.chain.count(place.owner.address, "latest")
    async with KeepingPool(place.net.url) as pool:
        await place.leave_a_deposit(pool)
        asked, limit = 20 * place.asked, 2 * place.asked
        await mine_at(place.net, asked)
        async with place.vault(pool) as vault, trio.open_nursery() as nursery:
            nursery.start_soon(partial(vault.resume, patience_s=600))
            while True:
                (move,) = await vault.store.moves(alive=True)
                if move.reason:
                    break
                await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
        offered = pool.versions[-1].max_wei
        assert offered <= limit
        for figure in (asked, limit, offered):
            assert format_amount(figure, 9) in move.reason
        async with place.vault(pool) as vault, trio.open_nursery() as nursery:
            nursery.start_soon(mining_at, place.net, place.asked // 2)
            assert await vault.resume(patience_s=600) == []
            nursery.cancel_scope.cancel()
            assert [(one.status, one.reason) for one in await vault.store.moves()] == [(DONE, "")]
    await place.expect_one_deposit(before)
