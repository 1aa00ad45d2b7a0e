"""Transactions on a real node: their bytes, nonces under concurrency, refusals by name, depth."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
import trio
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from psymm._core import SecretKey
from psymm.chain.abi import Abi, Refusals, encode_values
from psymm.chain.addresses import checksummed
from psymm.chain.artifacts import artifact
from psymm.chain.contracts import Token
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import Devnet
from psymm.chain.errors import (
    BadReply,
    CallInvalid,
    OutOfGas,
    Reverted,
    TransactionPending,
    TransactionReplaced,
    WalletWithoutGas,
    WrongChain,
)
from psymm.chain.nodes import Node
from psymm.chain.rpc import Rpc
from psymm.chain.signing import sign
from psymm.chain.transactions import WAIT_S, Chain, Fees, Prepared, Sent
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain


@given(
    nonce=st.integers(0, 2**64 - 1),
    gas=st.integers(0, 2**40),
    tip=st.integers(0, 2**64),
    value=st.integers(0, 2**128),
    data=st.binary(max_size=300),
    to=st.none() | st.binary(min_size=20, max_size=20),
)
async def test_a_signed_transaction_is_what_eth_account_signs_of_the_same_fields(
    nonce: int, gas: int, tip: int, value: int, data: bytes, to: bytes | None
) -> None:
    key = b"\x07" * 32
    wallet = KeyWallet(SecretKey.from_bytes(key))
    address = None if to is None else checksummed("to", "0x" + to.hex())
    plan = Prepared(wallet.address, address, data, value, gas, Fees(tip * 2, tip))
    fields = {
        "type": 2, "chainId": 31337, "nonce": nonce, "gas": gas, "maxFeePerGas": tip * 2,
        "maxPriorityFeePerGas": tip, "value": value, "data": data,
    }  # fmt: skip
    if address is not None:
        fields["to"] = address
    theirs = bytes(Account.sign_transaction(fields, key).raw_transaction)
    assert (await sign(wallet, 31337, nonce, plan)).raw == theirs


async def test_tasks_that_share_a_wallet_each_get_their_own_nonce(devnet: Devnet) -> None:
    payer, payee = await devnet.new_account(), KeyWallet.generate().address
    receipts = []

    async def pay(wei: int) -> None:
        receipts.append(await devnet.chain.transact(payer, payee, b"", value_wei=wei))

    async with trio.open_nursery() as nursery:
        for wei in range(1, 13):
            nursery.start_soon(pay, wei)
    assert await devnet.chain.balance(payee) == sum(range(1, 13))
    assert len({receipt.tx_hash for receipt in receipts}) == 12


async def test_two_programs_that_share_a_wallet_do_not_lose_a_payment(devnet: Devnet) -> None:
    payer, payee = await devnet.new_account(), KeyWallet.generate().address
    other = Chain(devnet.rpc, devnet.chain.chain_id, poll_s=0.05)
    async with trio.open_nursery() as nursery:
        for wei in range(1, 9):
            chain = (devnet.chain, other)[wei % 2]
            nursery.start_soon(lambda c=chain, w=wei: c.transact(payer, payee, b"", value_wei=w))
    assert await devnet.chain.balance(payee) == sum(range(1, 9))


async def test_a_wallet_without_gas_is_told_how_much_it_lacks(devnet: Devnet) -> None:
    poor = await devnet.new_account(1_000)
    with pytest.raises(WalletWithoutGas) as broke:
        await devnet.chain.transact(poor, poor.address, b"")
    assert broke.value.address == poor.address
    assert broke.value.balance_wei == 1_000 < broke.value.needed_wei


async def test_a_contracts_refusal_comes_with_its_name_and_values(
    devnet: Devnet, deployment: Deployment, token: str
) -> None:
    payer = await devnet.new_account()
    pool = deployment.pool(devnet.chain)
    with pytest.raises(Reverted) as refused:
        await devnet.chain.transact(
            payer, pool.address, pool.deposit_data(token, 0, b"\x01" * 32, bytes(256))
        )
    assert refused.value.error == "AmountZero"
    bad_memo = pool.abi.function("addressToCustody").encode(token, 1, 1, bytes(255))
    with pytest.raises(Reverted) as refused:
        await devnet.chain.transact(payer, pool.address, bad_memo)
    assert (refused.value.error, refused.value.values) == ("MemoLength", {"length": 255})


async def test_a_transaction_that_fails_when_mined_says_why(
    devnet: Devnet, deployment: Deployment, token: str
) -> None:
    payer = await devnet.new_account()
    pool = deployment.pool(devnet.chain)
    data = pool.deposit_data(token, 0, b"\x01" * 32, bytes(256))
    with pytest.raises(Reverted) as refused:
        await devnet.chain.transact(payer, pool.address, data, gas_limit=200_000)
    assert refused.value.error == "AmountZero"
    code = artifact("Poseidon2").linked({})
    with pytest.raises(OutOfGas):
        await devnet.chain.transact(payer, None, code, gas_limit=400_000)


async def test_a_transaction_counts_once_it_is_as_deep_as_asked(own_devnet: Devnet) -> None:
    payer = await own_devnet.new_account()
    chain = own_devnet.chain
    sent = await chain.send(payer, await chain.prepare(payer.address, payer.address, b""))
    with pytest.raises(TransactionPending):
        await chain.wait(sent, depth=3, timeout_s=0.2)
    await own_devnet.mine(2)
    receipt = await chain.wait(sent, depth=3)
    assert await own_devnet.rpc.block_number() == receipt.block + 2


async def test_a_transaction_whose_nonce_another_took_is_reported_replaced(
    own_devnet: Devnet,
) -> None:
    payer, payee = await own_devnet.new_account(), KeyWallet.generate().address
    chain = own_devnet.chain
    await own_devnet.rpc.call("evm_setAutomine", False)
    plan = await chain.prepare(payer.address, payee, b"", value_wei=1)
    first = await chain.send(payer, plan)
    dearer = Prepared(
        payer.address, payee, b"", 2, plan.gas_limit,
        Fees(plan.fees.max_wei * 3, plan.fees.tip_wei * 3),
    )  # fmt: skip
    second = await chain.send(payer, dearer, nonce=first.nonce)
    await own_devnet.mine()
    await chain.wait(second)
    with pytest.raises(TransactionReplaced) as lost:
        await chain.wait(first)
    assert (lost.value.nonce, lost.value.by) == (first.nonce, second.tx_hash)
    assert await chain.balance(payee) == 2


async def test_a_transaction_that_the_node_forgot_is_handed_over_again(own_devnet: Devnet) -> None:
    payer, payee = await own_devnet.new_account(), KeyWallet.generate().address
    chain = own_devnet.chain
    await own_devnet.rpc.call("evm_setAutomine", False)
    sent = await chain.send(payer, await chain.prepare(payer.address, payee, b"", value_wei=9))
    await own_devnet.rpc.call("anvil_dropTransaction", sent.tx_hash)
    assert await own_devnet.rpc.call("eth_getTransactionByHash", sent.tx_hash) is None
    await own_devnet.rpc.call("evm_setAutomine", True)
    await chain.wait(sent)
    assert await chain.balance(payee) == 9


async def test_after_the_chain_went_back_the_next_nonce_is_the_chains(own_devnet: Devnet) -> None:
    payer = await own_devnet.new_account()
    before = await own_devnet.snapshot()
    for _ in range(3):
        await own_devnet.chain.transact(payer, payer.address, b"")
    await own_devnet.revert(before)
    await own_devnet.chain.transact(payer, payer.address, b"")
    count = await own_devnet.rpc.eth.get_transaction_count(payer.address, "latest")
    assert count == 1


async def test_nothing_is_signed_for_another_chain(devnet: Devnet) -> None:
    payer = await devnet.new_account()
    elsewhere = Chain(devnet.rpc, 1)

    class Watched:
        address = payer.address
        asked = False

        def sign_digest(self, digest: bytes) -> bytes:
            self.asked = True
            return payer.sign_digest(digest)

    signer = Watched()
    with pytest.raises(WrongChain):
        await elsewhere.transact(signer, payer.address, b"")
    assert not signer.asked


@pytest.mark.parametrize(
    ("method", "lie"),
    [
        ("eth_maxPriorityFeePerGas", lambda _: hex(101 * 10**9)),
        ("eth_maxPriorityFeePerGas", lambda _: hex(10**15)),
        ("eth_getBlockByNumber", lambda block: {**block, "baseFeePerGas": hex(10**15)}),
    ],
)
async def test_fees_that_a_node_makes_up_are_neither_signed_nor_paid(
    devnet: Devnet, method: str, lie: Callable[[Any], Any]
) -> None:
    payer = await devnet.new_account()
    asked: list[bytes] = []

    class Watched:
        address = payer.address

        def sign_digest(self, digest: bytes) -> bytes:
            asked.append(digest)
            return payer.sign_digest(digest)

    class Dear(Rpc):
        async def call(self, name: str, *params: object) -> Any:
            answer = await super().call(name, *params)
            return lie(answer) if name == method else answer

    async with Dear(devnet.url) as rpc:
        with pytest.raises(BadReply, match="wei per gas"):
            await Chain(rpc, 31337).transact(Watched(), payer.address, b"")
        assert not asked
        dear = Chain(rpc, 31337, most_tip_wei=1 << 60, most_fee_wei=1 << 60)
        assert (await dear.fees()).max_wei > 100 * 10**9


async def test_a_block_from_the_future_is_not_believed(devnet: Devnet) -> None:
    """Deadlines start from it: one far ahead would keep a signature valid for years."""

    class Ahead(Rpc):
        async def call(self, name: str, *params: object) -> Any:
            answer = await super().call(name, *params)
            if name == "eth_getBlockByNumber":
                return {**answer, "timestamp": hex(int(time.time()) + 10 * 365 * 86_400)}
            return answer

    async with Ahead(devnet.url) as rpc:
        for chain in (Chain(rpc, 1), Chain(rpc, 31337, most_ahead_s=900)):
            with pytest.raises(BadReply, match="ahead of this machine's clock"):
                await chain.block()
        # A development chain's clock is its owner's to move.
        await Chain(rpc, 31337).block()


@pytest.mark.parametrize("hash_", [5, None, [], {}, "0x" + "11" * 32])
async def test_a_receipt_of_something_else_is_refused_by_name(
    devnet: Devnet, hash_: object
) -> None:
    payer = await devnet.new_account()
    mined = await devnet.chain.transact(payer, payer.address, b"")

    class Other(Rpc):
        async def raw_result(self, node: Node, method: str, params: Sequence[Any]) -> Any:
            answer = await super().raw_result(node, method, params)
            return {**answer, "transactionHash": hash_} if isinstance(answer, dict) else answer

    async with Other(devnet.url) as rpc:
        with pytest.raises(BadReply, match=r"another transaction|bytes were expected"):
            await Chain(rpc, 31337).receipt(mined.tx_hash)


def test_a_refusals_reason_is_short_however_long_the_node_makes_it() -> None:
    refused = Reverted("the call", "Error", {"reason": "x" * 10**6, "amount": 7})
    assert len(str(refused)) < 1_000
    assert refused.values["amount"] == 7


async def test_a_key_service_signs_through_a_coroutine(devnet: Devnet) -> None:
    payer = await devnet.new_account()

    class Service:
        address = payer.address

        async def sign_digest(self, digest: bytes) -> bytes:
            await trio.lowlevel.checkpoint()
            return payer.sign_digest(digest)

    receipt = await devnet.chain.transact(Service(), payer.address, b"")
    assert receipt.sender == payer.address


async def test_reading_where_no_contract_is_says_so(devnet: Devnet) -> None:
    with pytest.raises(BadReply, match="no contract"):
        await Token(devnet.chain, KeyWallet.generate().address).balance(
            KeyWallet.generate().address
        )


async def test_logs_come_whole_and_in_order_however_small_the_ranges(
    devnet: Devnet, deployment: Deployment, token: str
) -> None:
    minter = await devnet.new_account()
    mint = artifact("TestToken").abi.function("mint")
    first = await devnet.rpc.block_number() + 1
    for amount in range(5):
        await devnet.chain.transact(minter, token, mint.encode(minter.address, amount))
    last = await devnet.rpc.block_number()
    padded = bytes(12) + bytes.fromhex(minter.address[2:])
    found = []
    for span in (1, 2, 1_000):
        logs = devnet.chain.logs(token, [None, None, padded], first, last, span=span)
        found.append([int.from_bytes(log.data, "big") async for log in logs])
    assert found == [[0, 1, 2, 3, 4]] * 3


@given(st.binary(max_size=300))
def test_any_revert_data_gives_a_named_error_and_no_exception(data: bytes) -> None:
    refusals = Refusals([artifact("PSymm").abi, artifact("TokenPortal").abi])
    assert isinstance(refusals.decode("it", data), Reverted)


def test_revert_reasons_and_panics_are_decoded() -> None:
    refusals = Refusals([])
    reason = bytes.fromhex("08c379a0") + encode_values("e", ["string"], ["no"])
    assert refusals.decode("it", reason).values == {"reason": "no"}
    panic = bytes.fromhex("4e487b71") + encode_values("p", ["uint256"], [0x11])
    assert refusals.decode("it", panic).values == {"number": 17, "reason": "arithmetic overflow"}


@pytest.mark.parametrize(
    "address",
    ["", "0x", "0x" + "g" * 40, "1" * 42, "0x" + "1" * 39, None, 7,
     "0x5aaeb6053F3E94C9b9A09f33669435E7Ef1BeAed"],
)  # fmt: skip
def test_an_address_that_is_none_or_mistyped_is_refused(address: object) -> None:
    with pytest.raises(CallInvalid):
        checksummed("to", address)


def test_calls_are_encoded_only_from_values_that_fit() -> None:
    abi = Abi(
        [{"type": "function", "name": "f", "inputs": [{"name": "", "type": "uint8"}],
          "outputs": []}]
    )  # fmt: skip
    for bad in (256, -1, "1", None, b"\x01"):
        with pytest.raises(CallInvalid):
            abi.function("f").encode(bad)
    with pytest.raises(CallInvalid):
        abi.function("g")


async def test_the_callers_deadline_decides_how_long_a_transaction_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    class Never(Chain):
        async def receipt(self, *_: Any, **__: Any) -> None:
            return None

        async def is_known(self, _: str) -> bool:
            return True

    account = KeyWallet.generate().address
    sent = Sent("0x" + "11" * 32, account, 0, b"", Prepared(account, None, b"", 0, 0, Fees(0, 0)))
    async with Rpc("http://127.0.0.1:9") as rpc:
        chain = Never(rpc, 31337)
        for given_s in (None, 10, 1_000):
            began = trio.current_time()
            with trio.move_on_after(math.inf if given_s is None else given_s):
                with suppress(TransactionPending):
                    await chain.wait(sent)
            assert trio.current_time() - began == pytest.approx(given_s or WAIT_S, abs=1)
