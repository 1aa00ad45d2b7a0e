"""Deposits through nodes that fail: made once, or reported as under way and continued later.

Every move of every kind goes through all faults in `tests/storms/node_storm.py`; here stand the
faults that users reported, one a test, with what must come of it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "chain"))

from faulty_node import FaultyNode, open_faulty_node

from psymm.chain.contracts import Token
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import Devnet
from psymm.chain.errors import ChainError, TransactionPending
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain
from psymm.custody.moves import open_vault
from psymm.custody.stored import DONE, SENT
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain


@pytest.fixture
async def node(devnet: Devnet) -> AsyncIterator[FaultyNode]:
    async with open_faulty_node(devnet.url) as opened:
        yield opened


@pytest.fixture
async def chain(node: FaultyNode) -> AsyncIterator[Chain]:
    async with Rpc(node.url, timeout_s=2, backoff_s=0.02) as rpc:
        yield Chain(rpc, 31337, poll_s=0.02)


async def standing(devnet: Devnet, token: str, wallet: KeyWallet) -> tuple[int, int]:
    """What a wallet's account still holds, units, and how many transactions it has on chain."""
    count = await devnet.rpc.eth.get_transaction_count(wallet.address, "latest")
    return await Token(devnet.chain, token).balance(wallet.address), count


SECOND = {"every": 2, "overall": True}
"""Every second request, whatever it asks."""

REPORTED = {
    "a gateway that hands over twice": [("already-known", {})],
    "the second hand-over comes after the block": [("nonce-too-low-after", {})],
    "an index that lags": [("indexing", {"times": 3})],
    "every second request is over the limit": [("rate-limit-html", SECOND)],
    "the limit in JSON": [("rate-limit-json", SECOND)],
    "every second request is a page": [("html", SECOND)],
    "a balancer with a view two blocks behind": [("lagging", {"every": 2, "blocks": 2})],
    "requests in turn to a view one block behind": [("lagging", {**SECOND, "blocks": 1})],
    "requests in turn to a view three blocks behind": [("lagging", {**SECOND, "blocks": 3})],
    "the answer to the hand-over is lost": [("closed-after", {"on": {"eth_sendRawTransaction"}})],
    "the hand-over ends with 502": [("502-after", {"on": {"eth_sendRawTransaction"}})],
    "slow answers": [("slow", {"seconds": 0.1})],
    "leading zeros": [("leading-zero", {"every": 2})],
    "receipts come late": [("null-receipt", {"times": 3})],
    "ten blocks of logs at a time": [("span-refused", {"most": 10})],
    "ten blocks of logs, and HTTP 400": [("span-refused", {"most": 10, "status": 400})],
    "a redirect now and then": [("redirect", {"every": 2})],
    "a node that forgets what it took": [("swallowed", {"times": 1})],
    "an account counted late": [("nonce-late", {"every": 2}), ("lagging", {"chance": 0.3})],
    "all at once": [
        ("already-known", {"times": 1}),
        ("502-after", {"chance": 0.1}),
        ("html", {"chance": 0.1}),
        ("closed-before", {"chance": 0.1}),
        ("null-receipt", {"chance": 0.5}),
        ("lagging", {"chance": 0.3}),
    ],
}


APPROVING = (
    "a gateway that hands over twice",
    "a balancer with a view two blocks behind",
    "an account counted late",
    "all at once",
)


@pytest.mark.parametrize(
    ("fault", "permit"),
    # An approval is a transaction before the deposit; the faults are the same.
    [(name, True) for name in REPORTED] + [(name, False) for name in APPROVING],
)
async def test_a_deposit_through_a_faulty_node_is_made_once(
    devnet: Devnet,
    deployment: Deployment,
    token: str,
    node: FaultyNode,
    chain: Chain,
    funded_wallet,
    tmp_path: Path,
    fault: str,
    permit: bool,
) -> None:
    alice = await funded_wallet(units=150)
    await devnet.mine(3)
    for name, settings in REPORTED[fault]:
        node.put(name, **settings)
    async with await open_vault(alice, deployment, chain, home=tmp_path) as vault:
        await vault.deposit(alice, token, 100, permit=permit)
        assert (await vault.balance(token)).available == 100
        done = ["deposit"] if permit else ["approve", "deposit"]
        moves = await vault.store.moves()
        assert [(move.purpose, move.status) for move in moves] == [(one, DONE) for one in done]
        await vault.acknowledge_ended()
    async with Rpc(node.url, timeout_s=2, backoff_s=0.02) as rpc:
        again = Chain(rpc, 31337, poll_s=0.02)
        async with await open_vault(alice, deployment, again, home=tmp_path) as vault:
            assert await vault.resume() == []
            assert await vault.ended() == [], "a reported move is reported again"
    assert await standing(devnet, token, alice) == (50, 1 if permit else 2)
    assert node.met.total(), "the fault was on no call"


@pytest.mark.parametrize(
    "fault", ["null-receipt", "indexing", "rate-limit-html", "html", "closed-before"]
)
async def test_a_deposit_that_the_node_never_confirms_stays_under_way_until_the_next_command(
    devnet: Devnet,
    deployment: Deployment,
    token: str,
    node: FaultyNode,
    chain: Chain,
    funded_wallet,
    tmp_path: Path,
    fault: str,
) -> None:
    alice = await funded_wallet(units=150)
    async with await open_vault(alice, deployment, chain, home=tmp_path) as vault:
        node.put(fault, on={"eth_getTransactionReceipt", "eth_getTransactionByHash", "eth_getLogs"})
        with pytest.raises(TransactionPending) as pending:
            await vault.deposit(alice, token, 100, permit=True, timeout_s=1)
        (move,) = await vault.store.moves()
        assert move.status == SENT
        assert move.tx_hash is not None
        for words in ("sent as", move.tx_hash, "not confirmed yet"):
            assert words in str(pending.value)
    node.heal()
    async with await open_vault(alice, deployment, chain, home=tmp_path) as vault:
        assert await vault.resume() == []
        assert [move.status for move in await vault.store.moves()] == [DONE]
        assert (await vault.balance(token)).available == 100
    assert await standing(devnet, token, alice) == (50, 1)


async def test_a_deposit_whose_receipt_never_comes_is_done_once_the_tree_shows_it(
    devnet: Devnet,
    deployment: Deployment,
    token: str,
    node: FaultyNode,
    chain: Chain,
    funded_wallet,
    tmp_path: Path,
) -> None:
    alice = await funded_wallet(units=150)
    async with await open_vault(alice, deployment, chain, home=tmp_path) as vault:
        node.put("null-receipt")
        await vault.deposit(alice, token, 100, permit=True)
        assert (await vault.balance(token)).available == 100
    assert await standing(devnet, token, alice) == (50, 1)


async def test_a_node_whose_floor_is_above_the_limit_ends_a_deposit_with_its_own_words(
    devnet: Devnet,
    deployment: Deployment,
    token: str,
    node: FaultyNode,
    chain: Chain,
    funded_wallet,
    tmp_path: Path,
) -> None:
    """No node accepted it, so nothing is under way: the next node gets the deposit, once."""
    alice = await funded_wallet(units=150)
    async with await open_vault(alice, deployment, chain, home=tmp_path) as vault:
        node.put("tip-floor")
        with pytest.raises(ChainError, match=r"minimum needed|max priority fee") as refused:
            await vault.deposit(alice, token, 100, permit=True, timeout_s=10)
        assert refused.value.code == "fee-refused"
    node.heal()
    async with await open_vault(alice, deployment, chain, home=tmp_path) as vault:
        await vault.resume()
        if (await vault.balance(token)).available == 0:
            await vault.deposit(alice, token, 100, permit=True)
        assert await vault.resume() == []
        assert (await vault.balance(token)).available == 100
    assert await standing(devnet, token, alice) == (50, 1)
