"""A move that was handed over stays under way until something is proved, and happens once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from psymm.chain.contracts import Token
from psymm.chain.deployment import Deployment, TokenInfo, deploy
from psymm.chain.devnet import ETHER, Devnet
from psymm.chain.errors import TransactionPending, WalletWithoutGas
from psymm.custody.moves import Vault, open_vault
from psymm.custody.prover import Prover
from psymm.custody.sending import DirectSender
from psymm.custody.store import DONE, FAILED, SENT
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain

Minting = Callable[[Devnet, Deployment, str, int], Awaitable[None]]


class Place:
    """A chain of one test, whose blocks come when the test wants them."""

    def __init__(self, net: Devnet, put: Deployment, home: Path, owner: KeyWallet) -> None:
        self.net, self.put, self.home, self.owner = net, put, home, owner
        self.token = put.tokens[0].address

    async def open(self, prover: Prover | None = None) -> Vault:
        return await open_vault(self.owner, self.put, self.net.chain, home=self.home, prover=prover)

    async def mining(self, on: bool) -> None:
        await self.net.rpc.call("evm_setAutomine", on)

    async def nonce(self, tag: str) -> int:
        return await self.net.rpc.eth.get_transaction_count(self.owner.address, tag)

    async def known(self, tx_hash: str | None) -> bool:
        return await self.net.rpc.call("eth_getTransactionByHash", tx_hash) is not None


@pytest.fixture
async def place(own_devnet: Devnet, minting: Minting, tmp_path: Path) -> Place:
    owner = await own_devnet.new_account()
    put = await deploy(own_devnet.chain, owner, test_token=TokenInfo("", "T", 6))
    await minting(own_devnet, put, owner.address, 100)
    await Token(own_devnet.chain, put.tokens[0].address).approve(owner, put.portal, 100)
    return Place(own_devnet, put, tmp_path, owner)


async def left_under_way(place: Place) -> str:
    """A deposit of 40 that its owner stopped waiting for; its transaction."""
    async with await place.open() as vault:
        await place.mining(False)
        with pytest.raises(TransactionPending) as told:
            await vault.deposit(place.owner, place.token, 40, timeout_s=0.5)
        (move,) = await vault.store.moves(alive=True)
        assert move.status == SENT
        assert f"sent as {move.tx_hash}, not confirmed yet" in str(told.value)
        return told.value.tx_hash


async def test_a_deposit_that_the_node_forgot_is_sent_again_as_the_same_bytes(
    place: Place,
) -> None:
    before = await place.nonce("latest")
    tx_hash = await left_under_way(place)
    await place.net.rpc.call("anvil_dropTransaction", tx_hash)
    assert not await place.known(tx_hash)
    async with await place.open() as vault:
        (move,) = await vault.resume(patience_s=5)
        assert move.tx_hash == tx_hash
        assert await place.known(tx_hash)
        assert await vault.ended() == []
        await place.mining(True)
        await place.net.mine(1)
        assert await vault.resume() == []
        assert (await vault.balance(place.token)).available == 40
        (done,) = await vault.ended()
        assert (done.status, done.tx_hash) == (DONE, tx_hash)
        await vault.store.report([done.id])
        assert await vault.ended() == []
    assert await place.nonce("latest") == before + 1


async def test_an_old_deposit_that_can_no_longer_happen_does_not_end_the_new_command(
    place: Place,
) -> None:
    tx_hash = await left_under_way(place)
    await place.net.rpc.call("anvil_dropTransaction", tx_hash)
    await place.mining(True)
    # Another program of the same owner takes the nonce.
    await Token(place.net.chain, place.token).approve(place.owner, place.put.portal, 60)
    async with await place.open() as vault:
        assert await vault.resume(patience_s=60) == []
        (ended,) = await vault.ended()
        assert ended.status == FAILED
        assert "took the nonce" in ended.reason
        await vault.deposit(place.owner, place.token, 60)
        assert (await vault.balance(place.token)).available == 60


async def test_a_deposit_that_the_node_refused_is_not_sent_by_a_later_command(
    place: Place,
) -> None:
    class Emptied:
        """Its coin is gone by the time that it has signed."""

        address = place.owner.address

        async def sign_digest(self, digest: bytes) -> bytes:
            await place.net.rpc.call("anvil_setBalance", self.address, "0x0")
            return place.owner.sign_digest(digest)

    before = await place.nonce("latest")
    async with await place.open() as vault:
        with pytest.raises(WalletWithoutGas):
            await vault.deposit(Emptied(), place.token, 40)
        await place.net.rpc.call("anvil_setBalance", place.owner.address, hex(10 * ETHER))
    async with await place.open() as vault:
        assert await vault.resume(patience_s=5) == []
        assert await vault.ended() == []
        assert [move.status for move in await vault.store.moves()] == [FAILED]
    assert await place.nonce("pending") == before
    assert await Token(place.net.chain, place.token).balance(place.owner.address) == 100


@pytest.mark.proofs
async def test_a_withdrawal_of_ones_own_that_waits_is_neither_made_anew_nor_sent_twice(
    place: Place, prover: Prover
) -> None:
    recipient = KeyWallet.generate().address
    pool = place.put.pool(place.net.chain)
    senders = [DirectSender(pool, place.owner, timeout_s=0.5)] * 2
    async with await place.open(prover) as vault:
        await vault.deposit(place.owner, place.token, 50)
        before = await place.nonce("latest")
        await place.mining(False)
        with pytest.raises(TransactionPending) as told:
            await vault.withdraw(place.token, 30, recipient, senders)
        tx_hash = told.value.tx_hash
    await place.net.rpc.call("anvil_dropTransaction", tx_hash)
    async with await place.open(prover) as vault:
        (move,) = await vault.resume(senders, patience_s=5)
        assert (move.purpose, move.tx_hash) == ("withdraw", tx_hash)
        assert await place.known(tx_hash)
        await place.mining(True)
        await place.net.mine(1)
        assert await vault.resume(senders) == []
        assert [move.status for move in await vault.store.moves()] == [DONE, DONE]
        assert (await vault.balance(place.token)).available == 20
    assert await place.nonce("pending") == before + 1
    assert await Token(place.net.chain, place.token).balance(recipient) == 30
