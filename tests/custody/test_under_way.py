"""A move that was handed over stays under way until the chain proves its result; it happens
once."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from psymm.chain.contracts import Token
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import ETHER, Devnet
from psymm.chain.errors import TransactionPending, WalletWithoutGas
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain
from psymm.custody.errors import DeadlinePassed
from psymm.custody.moves import Vault, open_vault
from psymm.custody.notes import Custody
from psymm.custody.planning import deadline_after
from psymm.custody.prover import Prover
from psymm.custody.sending import DirectSender
from psymm.custody.settlement import propose_settlement
from psymm.custody.stored import DONE, FAILED, SENT
from psymm.errors import PSymmError
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain


class Meddled:
    """The wallet's signer; when first asked to sign, another program of its owner is faster."""

    def __init__(self, wallet: KeyWallet, other: Callable[[], Awaitable[object]]) -> None:
        self.wallet, self.other, self.asked = wallet, other, 0

    @property
    def address(self) -> str:
        return self.wallet.address

    async def sign_digest(self, digest: bytes) -> bytes:
        self.asked += 1
        if self.asked == 1:
            await self.other()
        return self.wallet.sign_digest(digest)


class Place:
    """A chain for one test, which makes blocks when the test asks for them."""

    def __init__(self, net: Devnet, put: Deployment, home: Path, owner: KeyWallet) -> None:
        self.net, self.put, self.home, self.owner = net, put, home, owner
        self.token = put.tokens[0].address

    async def open(self, prover: Prover | None = None) -> Vault:
        return await open_vault(self.owner, self.put, self.net.chain, home=self.home, prover=prover)

    async def other_program(self) -> None:
        """Another program that pays with the same account and does not know about this one."""
        chain = Chain(self.net.rpc, self.net.chain.chain_id, poll_s=0.05)
        pay = await chain.prepare(self.owner.address, self.owner.address, b"", value_wei=1)
        await chain.send(self.owner, pay)

    async def mining(self, on: bool) -> None:
        await self.net.rpc.call("evm_setAutomine", on)

    async def nonce(self, tag: str) -> int:
        return await self.net.rpc.eth.get_transaction_count(self.owner.address, tag)

    async def known(self, tx_hash: str | None) -> bool:
        return await self.net.rpc.call("eth_getTransactionByHash", tx_hash) is not None


@pytest.fixture
def place(
    own_devnet: Devnet, own_deployment: tuple[Deployment, KeyWallet], tmp_path: Path
) -> Place:
    put, owner = own_deployment
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
        await vault.acknowledge_ended()
        assert await vault.ended() == []
    assert await place.nonce("latest") == before + 1


async def test_an_old_deposit_that_can_no_longer_happen_does_not_end_the_new_command(
    place: Place,
) -> None:
    tx_hash = await left_under_way(place)
    await place.net.rpc.call("anvil_dropTransaction", tx_hash)
    await place.mining(True)
    await place.other_program()
    async with await place.open() as vault:
        assert await vault.resume(patience_s=60) == []
        (ended,) = await vault.ended()
        assert ended.status == FAILED
        assert "took the nonce" in ended.reason
        await vault.acknowledge_ended()
        await vault.deposit(place.owner, place.token, 60)
        assert (await vault.balance(place.token)).available == 60
    # Cut off here, nobody was told of the new one either.
    async with await place.open() as vault:
        assert [move.status for move in await vault.ended()] == [DONE]


@pytest.mark.parametrize("permit", [False, True], ids=["approve", "permit"])
async def test_what_the_chain_took_back_keeps_its_nonce_from_the_next_deposit(
    place: Place, permit: bool
) -> None:
    before = await place.nonce("latest")
    async with await place.open() as vault:
        await vault.deposit(place.owner, place.token, 40, permit=permit)
        await place.net.rpc.call("anvil_reorg", 1, [])
        assert await place.nonce("latest") == before
        await vault.deposit(place.owner, place.token, 60, permit=permit)
        assert [one.status for one in await vault.store.moves()] == [DONE, DONE]
        assert (await vault.balance(place.token)).available == 100
    assert await place.nonce("latest") == before + 2


async def test_a_chain_that_goes_back_while_a_deposit_is_prepared_costs_no_earlier_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, prepare = await place.nonce("latest"), Chain.prepare

    async def prepare_and_go_back(chain: Chain, *given: Any, **named: Any) -> Any:
        monkeypatch.undo()
        made = await prepare(chain, *given, **named)
        await place.net.rpc.call("anvil_reorg", 1, [])
        return made

    async with await place.open() as vault:
        await vault.deposit(place.owner, place.token, 40)
        monkeypatch.setattr(Chain, "prepare", prepare_and_go_back)
        await vault.deposit(place.owner, place.token, 60)
        assert [one.status for one in await vault.store.moves()] == [DONE, DONE]
        assert (await vault.balance(place.token)).available == 100
    assert await place.nonce("latest") == before + 2


async def test_a_deposit_that_the_node_refused_is_not_sent_by_a_later_command(
    place: Place,
) -> None:
    class Emptied:
        """The account's coins are gone when the transaction is signed."""

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


async def test_a_wrong_clock_of_this_machine_refuses_no_settlement(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contract judges the deadline by the chain's clock, and so does who signs."""
    other, right = KeyWallet.generate(), time.time
    custody = Custody(place.owner.public_key, other.public_key, b"\x11" * 32, b"\x02" * 32)
    async with await place.open() as vault:
        (counter,) = await vault.store.reserve()
        settlement = propose_settlement(
            [vault.view.note(custody, place.token, 50, counter)],
            (
                await vault.settlements.payee(place.token, 50),
                await vault.settlements.payee(place.token, 0),
            ),
            (50, 0),
            proposer=0,
            deadline=deadline_after(await vault.chain.now_s()),
        )
        monkeypatch.setattr(time, "time", lambda: right() + 7_200)
        signature = await vault.settlements.sign(settlement)
        monkeypatch.undo()
        assert await vault.settlements.sign(settlement) == signature
        await place.net.mine(2, interval_s=7_200)
        with pytest.raises(DeadlinePassed):
            await vault.settlements.sign(settlement)


# --- a second program on one wallet -------------------------------------------------------------


async def test_a_nonce_that_another_program_took_costs_no_second_deposit(place: Place) -> None:
    before = await place.nonce("latest")
    async with await place.open() as vault:
        signer = Meddled(place.owner, place.other_program)
        await vault.deposit(signer, place.token, 40)
        assert [move.status for move in await vault.store.moves()] == [DONE]
    assert await place.nonce("pending") == before + 2
    assert await Token(place.net.chain, place.token).balance(place.owner.address) == 60


async def test_a_deposit_whose_nonce_another_program_holds_ends_by_that_name_and_is_not_sent(
    place: Place,
) -> None:
    await place.mining(False)
    async with await place.open() as vault:
        signer = Meddled(place.owner, place.other_program)
        with pytest.raises(TransactionPending) as told:
            await vault.deposit(signer, place.token, 40, timeout_s=0.5)
        assert not await place.known(told.value.tx_hash)
    await place.mining(True)
    await place.net.mine(1)
    async with await place.open() as vault:
        assert await vault.resume(patience_s=60) == []
        (ended,) = await vault.ended()
        assert (ended.status, ended.tx_hash) == (FAILED, told.value.tx_hash)
        assert "took the nonce" in ended.reason
        assert await Token(place.net.chain, place.token).balance(place.owner.address) == 100
        await vault.deposit(place.owner, place.token, 40)
    assert await Token(place.net.chain, place.token).balance(place.owner.address) == 60


async def test_two_homes_of_one_wallet_can_deposit_at_once(place: Place, tmp_path: Path) -> None:
    """Each gets its own nonces; one that fails says so and can be repeated."""

    async def one(home: Path) -> None:
        async with (
            Rpc(place.net.url) as rpc,
            await open_vault(
                place.owner, place.put, Chain(rpc, place.put.chain_id, poll_s=0.05), home=home
            ) as vault,
        ):
            for attempt in range(10):
                assert await vault.resume(patience_s=60) == []
                if [move for move in await vault.store.moves() if move.status == DONE]:
                    return
                print(home.name, attempt)
                with suppress(PSymmError):
                    await vault.deposit(place.owner, place.token, 40, permit=True)

    async with trio.open_nursery() as nursery:
        for name in ("first", "second"):
            nursery.start_soon(one, tmp_path / name)
    assert await Token(place.net.chain, place.token).balance(place.owner.address) == 20
    async with await place.open() as vault:
        assert (await vault.balance(place.token)).available == 80
