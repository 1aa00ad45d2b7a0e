"""Deposits through nodes that fail: made once, or reported as under way and continued later.

Every move of every kind goes through all faults in `tests/storms/node_storm.py`; here stand the
faults that users reported, one a test, with what must come of it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "chain"))

from faulty_node import FaultyNode, open_faulty_node

from psymm.chain.contracts import Token
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import Devnet
from psymm.chain.errors import ChainError, TransactionPending
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain
from psymm.custody.moves import Vault, open_vault
from psymm.custody.stored import DONE, SENT
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain


@dataclass
class Depositor:
    """A wallet of 150 units, and the node through which it deposits."""

    devnet: Devnet
    deployment: Deployment
    token: str
    node: FaultyNode
    wallet: KeyWallet
    home: Path

    @asynccontextmanager
    async def open_vault(self) -> AsyncIterator[Vault]:
        """As a new command would, with an own connection to the node."""
        async with Rpc(self.node.url, timeout_s=2, backoff_s=0.02) as rpc:
            chain = Chain(rpc, 31337, poll_s=0.02)
            opening = await open_vault(self.wallet, self.deployment, chain, home=self.home)
            async with opening as vault:
                yield vault

    async def deposit(self, vault: Vault, *, permit: bool = True, **named: Any) -> None:
        await vault.deposit(self.wallet, self.token, 100, permit=permit, **named)

    async def available(self, vault: Vault) -> int:
        return (await vault.balance(self.token)).available

    async def standing(self) -> tuple[int, int]:
        """What the wallet's account still holds, units, and its transactions on chain."""
        count = await self.devnet.rpc.eth.get_transaction_count(self.wallet.address, "latest")
        return await Token(self.devnet.chain, self.token).balance(self.wallet.address), count


@pytest.fixture
async def alice(
    devnet: Devnet, deployment: Deployment, token: str, funded_wallet, tmp_path: Path
) -> AsyncIterator[Depositor]:
    wallet = await funded_wallet(units=150)
    async with open_faulty_node(devnet.url) as node:
        yield Depositor(devnet, deployment, token, node, wallet, tmp_path)


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
    alice: Depositor, fault: str, permit: bool
) -> None:
    await alice.devnet.mine(3)
    for name, settings in REPORTED[fault]:
        alice.node.put(name, **settings)
    async with alice.open_vault() as vault:
        await alice.deposit(vault, permit=permit)
        assert await alice.available(vault) == 100
        done = ["deposit"] if permit else ["approve", "deposit"]
        moves = await vault.store.moves()
        assert [(move.purpose, move.status) for move in moves] == [(one, DONE) for one in done]
        await vault.acknowledge_ended()
    async with alice.open_vault() as vault:
        assert await vault.resume() == []
        assert await vault.ended() == [], "a reported move is reported again"
    assert await alice.standing() == (50, 1 if permit else 2)
    assert alice.node.met.total(), "the fault was on no call"


@pytest.mark.parametrize(
    "fault", ["null-receipt", "indexing", "rate-limit-html", "html", "closed-before"]
)
async def test_a_deposit_that_the_node_never_confirms_stays_under_way_until_the_next_command(
    alice: Depositor, fault: str
) -> None:
    async with alice.open_vault() as vault:
        on = {"eth_getTransactionReceipt", "eth_getTransactionByHash", "eth_getLogs"}
        alice.node.put(fault, on=on)
        with pytest.raises(TransactionPending) as pending:
            await alice.deposit(vault, timeout_s=1)
        (move,) = await vault.store.moves()
        assert move.status == SENT
        assert move.tx_hash is not None
        for words in ("sent as", move.tx_hash, "not confirmed yet"):
            assert words in str(pending.value)
    alice.node.heal()
    async with alice.open_vault() as vault:
        assert await vault.resume() == []
        assert [move.status for move in await vault.store.moves()] == [DONE]
        assert await alice.available(vault) == 100
    assert await alice.standing() == (50, 1)


async def test_a_deposit_whose_receipt_never_comes_is_done_once_the_tree_shows_it(
    alice: Depositor,
) -> None:
    async with alice.open_vault() as vault:
        alice.node.put("null-receipt")
        await alice.deposit(vault)
        assert await alice.available(vault) == 100
    assert await alice.standing() == (50, 1)


async def test_a_node_whose_floor_is_above_the_limit_ends_a_deposit_with_its_own_words(
    alice: Depositor,
) -> None:
    """No node accepted it, so nothing is under way: the next node gets the deposit, once."""
    async with alice.open_vault() as vault:
        alice.node.put("tip-floor")
        with pytest.raises(ChainError, match=r"minimum needed|max priority fee") as refused:
            await alice.deposit(vault, timeout_s=10)
        assert refused.value.code == "fee-refused"
    alice.node.heal()
    async with alice.open_vault() as vault:
        await vault.resume()
        if await alice.available(vault) == 0:
            await alice.deposit(vault)
        assert await vault.resume() == []
        assert await alice.available(vault) == 100
    assert await alice.standing() == (50, 1)
