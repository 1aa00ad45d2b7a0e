"""A payment through a node that answers wrongly: it is made once, and its true result is
reported."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio

from psymm.chain.addresses import checksummed
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import Devnet
from psymm.chain.errors import (
    BadReply,
    ChainDown,
    FeeRefused,
    Reverted,
    RpcError,
    TransactionPending,
    TransactionReplaced,
)
from psymm.chain.nodes import Node
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain, Fees, Sent
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain

SEND = "eth_sendRawTransaction"
Fault = Callable[["Faulty", str, tuple[object, ...]], Awaitable[Any]]


class Faulty(Rpc):
    """A node that answers some methods through `fault`, and all others as they are."""

    def __init__(self, url: str, methods: str | tuple[str, ...], fault: Fault) -> None:
        super().__init__(url)
        self._methods = (methods,) if isinstance(methods, str) else methods
        self._fault = fault
        self.asked: list[str] = []

    async def call(self, method: str, *params: object) -> Any:
        self.asked.append(method)
        if method in self._methods:
            return await self._fault(self, method, params)
        return await super().call(method, *params)

    async def truly(self, method: str, params: tuple[object, ...]) -> Any:
        return await super().call(method, *params)


def refusing(words: str, *, takes: bool, number: int = -32000) -> Fault:
    async def fault(rpc: Faulty, method: str, params: tuple[object, ...]) -> Any:
        if takes and rpc.asked.count(method) == 1:
            await rpc.truly(method, params)
        raise RpcError(method, number, words)

    return fault


async def lost(rpc: Faulty, method: str, params: tuple[object, ...]) -> Any:
    """The first answer is lost on its way."""
    answer = await rpc.truly(method, params)
    if rpc.asked.count(method) == 1:
        raise ChainDown(rpc.endpoint, "ReadError")
    return answer


async def malformed(rpc: Faulty, method: str, params: tuple[object, ...]) -> Any:
    """It accepts the transaction and never answers."""
    if rpc.asked.count(method) == 1:
        await rpc.truly(method, params)
    raise BadReply(rpc.endpoint, method, "not JSON")


@pytest.mark.parametrize(
    "fault",
    [
        refusing("already known", takes=True),
        refusing("nonce too low", takes=True),
        refusing("replacement transaction underpriced", takes=True),
        refusing("transaction underpriced", takes=True),
        refusing("invalid sender", takes=True),
        lost,
    ],
)
async def test_a_transaction_that_the_node_took_is_sent_once_whatever_it_answers(
    devnet: Devnet, fault: Fault
) -> None:
    payer, payee = await devnet.new_account(), KeyWallet.generate().address
    recorded: list[Sent] = []

    async def record(sent: Sent) -> None:
        recorded.append(sent)

    async with Faulty(devnet.url, SEND, fault) as rpc:
        chain = Chain(rpc, 31337, poll_s=0.01)
        plan = await chain.prepare(payer.address, payee, b"", value_wei=7)
        sent = await chain.send(payer, plan, record=record)
        assert (await chain.wait(sent)).tx_hash == sent.tx_hash
    assert recorded == [sent]
    assert await devnet.chain.balance(payee) == 7


async def test_a_node_that_never_confirms_leaves_the_hash_and_one_nonce(devnet: Devnet) -> None:
    payer, payee = await devnet.new_account(), KeyWallet.generate().address
    looks = ("eth_getTransactionReceipt", "eth_getTransactionByHash")
    async with Faulty(devnet.url, (SEND, *looks), malformed) as rpc:
        chain = Chain(rpc, 31337, poll_s=0.01)
        with pytest.raises(TransactionPending, match="not confirmed yet") as pending:
            await chain.transact(payer, payee, b"", value_wei=7, timeout_s=2)
    assert (await devnet.chain.receipt(pending.value.tx_hash)) is not None
    assert await devnet.chain.balance(payee) == 7


async def test_the_same_payment_again_through_a_node_that_lags_is_a_second_payment(
    devnet: Devnet,
) -> None:
    """The node still counts as before the first, so the second has the very same bytes."""

    async def before(rpc: Faulty, method: str, params: tuple[object, ...]) -> Any:
        return "0x0" if method == "eth_getTransactionCount" else None

    payer, payee = await devnet.new_account(), KeyWallet.generate().address
    lagging = ("eth_getTransactionCount", "eth_getTransactionByHash")
    async with Faulty(devnet.url, lagging, before) as rpc:
        chain = Chain(rpc, 31337, poll_s=0.01)
        plan = await chain.prepare(payer.address, payee, b"", value_wei=7)
        first, second = await chain.send(payer, plan), await chain.send(payer, plan)
    await devnet.chain.wait(second)
    assert second.nonce == first.nonce + 1
    assert await devnet.chain.balance(payee) == 14


@pytest.mark.parametrize("trouble", [ChainDown("node", "gone"), BadReply("node", "m", "nonsense")])
async def test_a_node_that_is_gone_after_the_hand_over_is_no_verdict(
    devnet: Devnet, trouble: Exception
) -> None:
    async def gone(rpc: Faulty, method: str, params: tuple[object, ...]) -> Any:
        raise trouble

    payer = await devnet.new_account()
    async with Faulty(devnet.url, "eth_getTransactionReceipt", gone) as rpc:
        chain = Chain(rpc, 31337, poll_s=0.01)
        sent = await chain.send(payer, await chain.prepare(payer.address, payer.address, b""))
        with pytest.raises(TransactionPending) as pending:
            await chain.wait(sent, timeout_s=0.3)
    assert pending.value.tx_hash == sent.tx_hash
    assert (await devnet.chain.wait(sent)).tx_hash == sent.tx_hash


@pytest.mark.parametrize(
    "method", ["eth_getTransactionReceipt", "eth_blockNumber", "eth_getBlockByNumber"]
)
@pytest.mark.parametrize(
    "trouble",
    [
        ChainDown("node", "HTTP status 502"),
        RpcError("m", -32000, "no such method today"),
        BadReply("node", "m", "x"),
    ],
)
async def test_troubles_that_pass_while_waiting_cost_time_only(
    devnet: Devnet, method: str, trouble: Exception
) -> None:
    async def at_first(rpc: Faulty, method: str, params: tuple[object, ...]) -> Any:
        if rpc.asked.count(method) <= 2:
            raise trouble
        return await rpc.truly(method, params)

    payer = await devnet.new_account()
    sent = await devnet.chain.send(
        payer, await devnet.chain.prepare(payer.address, payer.address, b"")
    )
    await devnet.mine(1)
    async with Faulty(devnet.url, method, at_first) as rpc:
        receipt = await Chain(rpc, 31337, poll_s=0.01).wait(sent, depth=2)
    assert receipt.tx_hash == sent.tx_hash


async def test_a_count_that_is_too_high_is_no_proof_that_another_was_mined(
    own_devnet: Devnet,
) -> None:
    async def counted(rpc: Faulty, method: str, params: tuple[object, ...]) -> Any:
        return "0x9" if params[1] == "latest" else await rpc.truly(method, params)

    payer = await own_devnet.new_account()
    await own_devnet.rpc.call("evm_setAutomine", False)
    chain = own_devnet.chain
    sent = await chain.send(payer, await chain.prepare(payer.address, payer.address, b""))
    await own_devnet.rpc.call("anvil_dropTransaction", sent.tx_hash)
    async with Faulty(own_devnet.url, "eth_getTransactionCount", counted) as rpc:
        with pytest.raises(TransactionPending):
            await Chain(rpc, 31337, poll_s=0.01).wait(sent, timeout_s=1)


async def test_a_transaction_that_failed_has_failed_only_as_deep_as_asked(
    own_devnet: Devnet,
) -> None:
    payer, chain = await own_devnet.new_account(), own_devnet.chain
    where = KeyWallet.generate().address
    await own_devnet.rpc.call("anvil_setCode", where, "0x5f5ffd")  # always reverts
    plan = await chain.prepare(payer.address, where, b"", gas_limit=100_000)
    sent = await chain.send(payer, plan)
    with pytest.raises(TransactionPending):
        await chain.wait(sent, depth=3, timeout_s=1)
    await own_devnet.mine(2)
    with pytest.raises(Reverted):
        await chain.wait(sent, depth=3)


async def test_a_fee_that_the_node_refuses_is_raised_with_the_same_nonce(devnet: Devnet) -> None:
    async def floor(rpc: Faulty, method: str, params: tuple[object, ...]) -> Any:
        if rpc.asked.count(method) < 3:
            raise RpcError(method, -32000, "transaction underpriced: minimum needed 2500000000")
        return await rpc.truly(method, params)

    payer = await devnet.new_account()
    async with Faulty(devnet.url, SEND, floor) as rpc:
        chain = Chain(rpc, 31337, poll_s=0.01)
        plan = await chain.prepare(payer.address, payer.address, b"")
        sent = await chain.send(payer, plan)
        await chain.wait(sent)
    assert sent.nonce == 0
    assert sent.prepared.fees.tip_wei > plan.fees.tip_wei
    assert plan.fees.max_wei < sent.prepared.fees.max_wei <= 4 * plan.fees.max_wei


async def test_a_fee_that_the_node_always_refuses_ends_with_its_words(devnet: Devnet) -> None:
    payer = await devnet.new_account()
    words = "transaction underpriced: gas tip cap 1, minimum needed 25000000000"
    async with Faulty(devnet.url, SEND, refusing(words, takes=False)) as rpc:
        with pytest.raises(FeeRefused, match="minimum needed 25000000000"):
            await Chain(rpc, 31337, poll_s=0.01).transact(payer, payer.address, b"")
    await devnet.chain.transact(payer, payer.address, b"")
    assert await devnet.rpc.eth.get_transaction_count(payer.address, "pending") == 1


async def test_only_a_refused_range_makes_the_range_smaller(
    devnet: Devnet, deployment: Deployment
) -> None:
    ranges: list[int] = []

    async def short(rpc: Faulty, method: str, params: tuple[Any, ...]) -> Any:
        asked = params[0]
        ranges.append(int(asked["toBlock"], 16) - int(asked["fromBlock"], 16) + 1)
        if ranges[-1] > 10:
            raise RpcError(method, -32600, "requests with up to a 10 block range")
        return []

    async with Faulty(devnet.url, "eth_getLogs", short) as rpc:
        chain = Chain(rpc, 31337)
        assert [log async for log in chain.logs(deployment.psymm, [], 0, 39)] == []
    assert ranges == [40, 20, 10, 10, 10, 10]

    refused = refusing("method not allowed for this key", takes=False)
    async with Faulty(devnet.url, "eth_getLogs", refused) as rpc:
        with pytest.raises(RpcError, match="not allowed"):
            _ = [log async for log in Chain(rpc, 31337).logs(deployment.psymm, [], 0, 39)]
        assert rpc.asked == ["eth_getLogs"]


async def test_a_pool_that_holds_anothers_transaction_with_our_nonce_is_waited_out(
    own_devnet: Devnet,
) -> None:
    """Its own count hides what waits, so our nonce is the other program's, too."""
    payer, ours, theirs = await own_devnet.new_account(), "0x" + "a1" * 20, "0x" + "b2" * 20
    await own_devnet.rpc.call("evm_setAutomine", False)
    plan = await own_devnet.chain.prepare(payer.address, checksummed("to", theirs), b"")
    dear = replace(plan, fees=Fees(4 * plan.fees.max_wei, 4 * plan.fees.tip_wei))
    held = await own_devnet.chain.send(payer, dear)

    class Hiding(Rpc):
        offered = 0
        enough = trio.Event()

        async def raw_result(self, node: Node, method: str, params: Sequence[Any]) -> Any:
            if method == "eth_getTransactionCount" and params[1] == "pending":
                params = (params[0], "latest")
            self.offered += method == SEND
            if self.offered == 5:
                self.enough.set()
            return await super().raw_result(node, method, params)

    async with Hiding(own_devnet.url) as rpc, trio.open_nursery() as nursery:

        async def mine() -> None:
            await rpc.enough.wait()
            await own_devnet.mine()

        nursery.start_soon(mine)
        with pytest.raises(TransactionReplaced) as replaced:
            await Chain(rpc, 31337, poll_s=0.01).transact(
                payer, checksummed("to", ours), b"", value_wei=7
            )
    assert replaced.value.by == held.tx_hash
    assert await own_devnet.chain.balance(checksummed("to", ours)) == 0
    assert await own_devnet.chain.count(payer.address, "pending") == 1
