"""Whatever a node or its gateway does, a payment is made once, or reported as under way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from faulty_node import FaultyNode, open_faulty_node
from node_faults import FAULTS, LOGS

from psymm.chain.artifacts import artifact
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import Devnet
from psymm.chain.errors import ChainError, TransactionPending, WrongChain
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain

ONCE = {"swallowed", "pool-full", "underpriced-after", "nonce-too-low-after", "already-known"}
"""Faults of the hand-over that end; all others are on every second call of their kind."""


@asynccontextmanager
async def through(node: FaultyNode) -> AsyncIterator[Chain]:
    async with Rpc(node.url, timeout_s=1, backoff_s=0.02) as rpc:
        yield Chain(rpc, 31337, poll_s=0.02)


@pytest.fixture
async def node(devnet: Devnet) -> AsyncIterator[FaultyNode]:
    async with open_faulty_node(devnet.url) as opened:
        yield opened


async def paid(devnet: Devnet, payer: KeyWallet, payee: str) -> tuple[int, int]:
    """What arrived, wei, and how many transactions of the payer are on chain."""
    count = await devnet.rpc.eth.get_transaction_count(payer.address, "latest")
    return await devnet.chain.balance(payee), count


def test_the_table_has_at_least_twenty_faults() -> None:
    assert len(FAULTS) >= 20


NOT_PAYING = {"batch-refused", "tip-floor", "wrong-chain", "unknown-block", "null-transaction"} | {
    one.name for one in FAULTS.values() if one.methods == LOGS
}
"""Faults of calls that a payment does not make, and faults with separate tests below."""


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - NOT_PAYING))
async def test_payments_through_a_faulty_node_are_each_made_once(
    devnet: Devnet, node: FaultyNode, fault: str
) -> None:
    payer, payee = await devnet.new_account(), KeyWallet.generate().address
    if fault in ("slow", "hanging", "hanging-after"):
        some = {"eth_sendRawTransaction", "eth_getTransactionReceipt", "eth_getBalance"}
        node.put(fault, on=some, times=1)
    else:
        node.put(fault, every=1 if fault in ONCE else 2, times=1 if fault in ONCE else None)
    async with through(node) as chain:
        await chain.transact(payer, payee, b"", value_wei=7)
        await chain.transact(payer, payee, b"", value_wei=8)
    assert await paid(devnet, payer, payee) == (15, 2)
    assert node.met[fault], "the fault was on no call"


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("fault", ["rate-limit-html", "closed-before"])
async def test_a_node_that_refuses_every_second_request_takes_a_payment(
    devnet: Devnet, node: FaultyNode, fault: str, first: int, forgotten: bool
) -> None:
    """Whichever turn the hand-over has, the first and the one of what the node forgot: what is
    asked in between must not always take the good one."""
    payer, payee = await devnet.new_account(), KeyWallet.generate().address
    async with through(node) as chain:
        prepared = await chain.prepare(payer.address, payee, b"", value_wei=7)
        if forgotten:
            node.put("swallowed", times=1)
            sent = await chain.send(payer, prepared)
        node.put(fault, every=2, after=first, overall=True)
        if not forgotten:
            sent = await chain.send(payer, prepared)
        await chain.wait(sent, timeout_s=20)
    assert await paid(devnet, payer, payee) == (7, 1)


@pytest.mark.parametrize(
    "fault", sorted(one.name for one in FAULTS.values() if one.methods == LOGS)
)
async def test_logs_come_whole_through_a_faulty_node(
    devnet: Devnet, deployment: Deployment, token: str, node: FaultyNode, fault: str
) -> None:
    minter = await devnet.new_account()
    mint = artifact("TestToken").abi.function("mint")
    first = await devnet.rpc.block_number() + 1
    for amount in range(5):
        await devnet.chain.transact(minter, token, mint.encode(minter.address, amount))
        await devnet.mine(4)
    spans = "refused" in fault or "large" in fault
    node.put(fault, every=1 if spans else 2, **({"most": 3} if spans else {}))
    padded = bytes(12) + bytes.fromhex(minter.address[2:])
    last = await devnet.rpc.block_number()
    async with through(node) as chain:
        for span in (4, 2_000):
            found = [
                int.from_bytes(log.data, "big")
                async for log in chain.logs(token, [None, None, padded], first, last, span=span)
            ]
            assert found == [0, 1, 2, 3, 4]
    assert node.met[fault], "the fault was on no call"


@pytest.mark.parametrize("fault", ["html", "rate-limit-json", "internal-error", "closed-before"])
async def test_only_a_refusal_of_the_range_makes_the_range_smaller(
    devnet: Devnet, token: str, node: FaultyNode, fault: str
) -> None:
    last = await devnet.rpc.block_number()
    first = max(0, last - 63)
    node.put(fault, on=LOGS, times=2)
    async with through(node) as chain:
        async for _ in chain.logs(token, [], first, last):
            pass
    assert node.asked["eth_getLogs"] == 3


@pytest.mark.parametrize(
    "fault",
    ["already-known", "502-after", "closed-after", "empty-after", "nonce-too-low-after",
     "underpriced-after", "hanging-after", "broken-off", "truncated", "wrong-id"],
)  # fmt: skip
async def test_an_answer_that_is_always_lost_after_the_hand_over_costs_no_second_nonce(
    devnet: Devnet, node: FaultyNode, fault: str
) -> None:
    payer, payee = await devnet.new_account(), KeyWallet.generate().address
    node.put(fault, on={"eth_sendRawTransaction"})
    async with through(node) as chain:
        await chain.transact(payer, payee, b"", value_wei=7)
    assert await paid(devnet, payer, payee) == (7, 1)
    assert len(set(node.handed)) == 1, "other bytes were signed for one payment"


@pytest.mark.parametrize(
    "fault",
    ["closed-before", "502-before", "rate-limit-html", "rate-limit-json", "html", "indexing",
     "null-receipt", "hanging", "internal-error", "other-receipt"],
)  # fmt: skip
async def test_a_node_that_never_shows_the_receipt_leaves_the_payment_under_way(
    devnet: Devnet, node: FaultyNode, fault: str
) -> None:
    """Whatever the node's fault is, a move that was handed over is reported as under way, with its
    hash."""
    payer, payee = await devnet.new_account(), KeyWallet.generate().address
    node.put(fault, on={"eth_getTransactionReceipt", "eth_getTransactionByHash"})
    async with through(node) as chain:
        sent = await chain.send(payer, await chain.prepare(payer.address, payee, b"", value_wei=7))
        with pytest.raises(TransactionPending) as pending:
            await chain.wait(sent, timeout_s=1)
        assert sent.tx_hash in str(pending.value)
        assert "not confirmed yet" in str(pending.value)
        node.heal()
        assert (await chain.wait(sent)).tx_hash == sent.tx_hash
    assert await paid(devnet, payer, payee) == (7, 1)


async def test_a_tip_below_the_nodes_floor_ends_with_the_nodes_words_or_a_higher_tip(
    devnet: Devnet, node: FaultyNode
) -> None:
    """A node whose minimum fee is above every limit: nothing is sent, and its message is shown."""
    payer, payee = await devnet.new_account(), KeyWallet.generate().address
    node.put("tip-floor")
    async with through(node) as chain:
        with pytest.raises(ChainError, match=r"minimum needed|max priority fee") as refused:
            await chain.transact(payer, payee, b"", value_wei=7, timeout_s=5)
    assert refused.value.code == "fee-refused"
    assert await paid(devnet, payer, payee) == (0, 0)


async def test_a_tip_below_the_nodes_floor_is_raised_and_replaces_by_nonce(
    devnet: Devnet, node: FaultyNode
) -> None:
    payer, payee = await devnet.new_account(), KeyWallet.generate().address
    node.put("tip-floor", times=2)
    async with through(node) as chain:
        await chain.transact(payer, payee, b"", value_wei=7)
    assert await paid(devnet, payer, payee) == (7, 1)


async def test_a_node_of_another_chain_is_named_before_anything_is_signed(
    devnet: Devnet, node: FaultyNode
) -> None:
    payer, payee = await devnet.new_account(), KeyWallet.generate().address
    node.put("wrong-chain")
    async with through(node) as chain:
        with pytest.raises(WrongChain):
            await chain.transact(payer, payee, b"", value_wei=7)
        assert (node.handed, await paid(devnet, payer, payee)) == ([], (0, 0))
        node.heal()
        await chain.transact(payer, payee, b"", value_wei=7)
    assert await paid(devnet, payer, payee) == (7, 1)


async def test_payments_one_after_another_through_a_lagging_view_are_each_made_once(
    devnet: Devnet, node: FaultyNode
) -> None:
    payer, payee = await devnet.new_account(), KeyWallet.generate().address
    await devnet.mine(4)
    for method in ("eth_blockNumber", "eth_getBlockByNumber", "eth_getTransactionCount"):
        node.put("lagging", on={method}, every=2, blocks=3)
    node.put("lagging", chance=0.5, blocks=2)
    async with through(node) as chain:
        for _ in range(4):
            await chain.transact(payer, payee, b"", value_wei=1)
    assert await paid(devnet, payer, payee) == (4, 4)
