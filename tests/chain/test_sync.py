"""Following the tree: depth, restart, reorganisations, and a node that lies."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from faulty_node import FaultyNode, open_faulty_node
from node_faults import Call, Fault

from psymm._core import FIELD_MODULUS
from psymm.chain.artifacts import artifact
from psymm.chain.contracts import Pool
from psymm.chain.deployment import Deployment, TokenInfo, deploy
from psymm.chain.devnet import Devnet
from psymm.chain.errors import BadReply, LyingNode, NotSynchronised, ReplyTooLong
from psymm.chain.nodes import Node
from psymm.chain.rpc import Rpc
from psymm.chain.sync import TreeCorrupt, open_tree
from psymm.chain.transactions import Chain
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain


class World:
    """A chain for this test with the contracts, and an account that deposits into random
    custodies."""

    def __init__(self, devnet: Devnet, deployment: Deployment, account: KeyWallet) -> None:
        self.devnet, self.deployment, self.account = devnet, deployment, account
        self.pool = deployment.pool(devnet.chain)

    async def deposit(self) -> None:
        inner = secrets.randbelow(FIELD_MODULUS).to_bytes(32, "big")
        data = self.pool.deposit_data(
            self.deployment.tokens[0].address, 1, inner, secrets.token_bytes(256)
        )
        await self.devnet.chain.transact(self.account, self.pool.address, data)

    async def tree(self, depth: int = 1, path: Path | None = None, pool: Pool | None = None):
        return await open_tree(
            pool or self.pool, self.deployment.first_block, depth=depth, path=path
        )


@pytest.fixture
async def world(own_devnet: Devnet) -> World:
    account = await own_devnet.new_account()
    put = await deploy(own_devnet.chain, account, test_token=TokenInfo("", "T", 6))
    token = put.tokens[0].address
    abi = artifact("TestToken").abi
    for data in (
        abi.function("mint").encode(account.address, 10**9),
        abi.function("approve").encode(put.portal, 10**9),
    ):
        await own_devnet.chain.transact(account, token, data)
    return World(own_devnet, put, account)


async def test_the_tree_grows_with_the_contracts_and_gives_paths_that_verify(world: World) -> None:
    tree = await world.tree()
    assert (await tree.advance()).inserted == ()
    for size in range(1, 8):
        await world.deposit()
        progress = await tree.advance()
        assert len(progress.inserted) == 1
        assert len(tree) == size
        assert tree.root == await world.pool.root()
        for leaf in tree.leaves:
            proof = tree.proof(leaf.commitment)
            assert proof.verify()
            assert proof.root == tree.root
    with pytest.raises(NotSynchronised):
        tree.proof(b"\x01" * 32)
    await tree.aclose()


async def test_a_block_counts_only_once_it_is_deep_enough(world: World) -> None:
    tree = await world.tree(depth=3)
    await world.deposit()
    assert (await tree.advance()).inserted == ()
    await world.devnet.mine(1)
    assert (await tree.advance()).inserted == ()
    await world.devnet.mine(1)
    assert len((await tree.advance()).inserted) == 1
    await tree.aclose()


async def test_a_restart_goes_on_where_it_stopped(world: World, tmp_path: Path) -> None:
    path = tmp_path / "tree.sqlite"
    for _ in range(3):
        await world.deposit()
    tree = await world.tree(path=path)
    await tree.advance()
    root, leaves, block = tree.root, tree.leaves, tree.block
    await tree.aclose()
    again = await world.tree(path=path)
    assert (again.root, again.leaves, again.block) == (root, leaves, block)
    await world.deposit()
    assert [leaf.position for leaf in (await again.advance()).inserted] == [3]
    await again.aclose()


async def test_a_restart_through_a_node_that_lags_forgets_nothing(
    world: World, tmp_path: Path
) -> None:
    """Otherwise a finished move would be reported again, as if it were new."""
    for _ in range(2):
        await world.deposit()
    tree = await world.tree(path=tmp_path / "tree.sqlite")
    await tree.advance()
    await tree.aclose()
    async with (
        open_faulty_node(world.devnet.url) as node,
        Rpc(node.url, backoff_s=0.02) as rpc,
    ):
        node.put("lagging", on={"eth_blockNumber"}, times=2, blocks=2)
        pool = world.deployment.pool(Chain(rpc, 31337, poll_s=0.02))
        again = await world.tree(path=tmp_path / "tree.sqlite", pool=pool)
        assert (await again.advance()).rolled_back_to is None
        assert node.met["lagging"] == 2
        await again.aclose()


async def test_a_node_that_knows_no_state_by_a_blocks_hash_is_asked_by_its_number(
    world: World,
) -> None:
    """Some refuse it, and some answer as if there were no contract."""

    async def has_none(node: FaultyNode, call: Call) -> dict[str, Any]:
        by_hash = len(call.params) > 1 and isinstance(call.params[1], dict)
        return call.result("0x") if by_hash else await node.pass_on(call)

    await world.deposit()
    async with open_faulty_node(world.devnet.url) as node, Rpc(node.url) as rpc:
        node.put(Fault("no-state-by-hash", frozenset({"eth_call"}), has_none))
        tree = await world.tree(pool=world.deployment.pool(Chain(rpc, 31337, poll_s=0.02)))
        await tree.advance()
        assert len(tree) == 1
        assert node.met["no-state-by-hash"]
        await tree.aclose()


async def test_what_a_reorganisation_threw_away_is_forgotten(world: World, tmp_path: Path) -> None:
    tree = await world.tree(path=tmp_path / "tree.sqlite")
    await world.deposit()
    await tree.advance()
    stays = tree.leaves
    await world.deposit()
    await world.deposit()
    await tree.advance()
    assert len(tree) == 3
    await world.devnet.reorganise(2)
    progress = await tree.advance()
    assert progress.rolled_back_to == stays[-1].block
    assert tree.leaves == stays
    assert tree.root == await world.pool.root()
    await world.deposit()
    await tree.advance()
    assert len(tree) == 2
    assert tree.root == await world.pool.root()
    kept = tree.leaves
    await tree.aclose()
    again = await world.tree(path=tmp_path / "tree.sqlite")
    assert again.leaves == kept
    await again.aclose()


async def test_a_chain_that_starts_over_is_read_from_the_start(world: World) -> None:
    before = await world.devnet.snapshot()
    tree = await world.tree()
    await world.deposit()
    await world.deposit()
    await tree.advance()
    await world.devnet.revert(before)
    await world.deposit()
    progress = await tree.advance()
    assert progress.rolled_back_to is not None
    assert len(tree) == 1
    assert tree.root == await world.pool.root()
    await tree.aclose()


async def test_the_transaction_that_inserted_a_note_is_found_with_all_that_it_did(
    world: World,
) -> None:
    tree = await world.tree()
    await world.deposit()
    await tree.advance()
    (leaf,) = tree.leaves
    found = await tree.transaction_with(leaf.commitment, spent=False)
    assert found is not None
    block, transaction, spent, inserted = found
    assert (block, spent, inserted) == (leaf.block, (), (leaf.commitment,))
    assert len(transaction) == 66
    assert tree.head >= block
    assert await tree.transaction_with(leaf.commitment, spent=True) is None
    assert await tree.transaction_with(bytes(32), spent=False) is None
    await tree.aclose()


async def test_many_that_look_at_once_cost_one_look(world: World) -> None:
    class Counting(Rpc):
        calls = 0

        async def call(self, method: str, *params: object) -> Any:
            Counting.calls += 1
            return await super().call(method, *params)

    async with Counting(world.devnet.url) as rpc:
        tree = await world.tree(pool=Pool(Chain(rpc, 31337), world.pool.address))
        await tree.advance_if_older(60.0)
        once = Counting.calls
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(tree.advance_if_older, 60.0)
        assert Counting.calls == once
        await tree.aclose()


class Liar(Rpc):
    """A node that changes some of its answers on the way."""

    def __init__(self, url: str, lie: Any) -> None:
        super().__init__(url)
        self._lie = lie

    async def raw_result(self, node: Node, method: str, params: Sequence[Any]) -> Any:
        return self._lie(method, await super().raw_result(node, method, params))


def without_last_log(method: str, answer: Any) -> Any:
    return answer[:-1] if method == "eth_getLogs" else answer


def other_leaf(method: str, answer: Any) -> Any:
    if method == "eth_getLogs" and answer:
        data = answer[-1]["data"]
        answer[-1]["data"] = data[:40] + ("1" if data[40] != "1" else "2") + data[41:]
    return answer


def skipped_index(method: str, answer: Any) -> Any:
    return answer[1:] if method == "eth_getLogs" else answer


def other_block_hash(method: str, answer: Any) -> Any:
    if method == "eth_getLogs" and answer:
        answer[-1]["blockHash"] = "0x" + "11" * 32
    return answer


def other_root(method: str, answer: Any) -> Any:
    if method == "eth_call" and len(answer) == 66 and int(answer, 16) > 1 << 64:
        return "0x" + "11" * 32
    return answer


def spent_twice(method: str, answer: Any) -> Any:
    if method == "eth_getLogs" and answer:
        topic = "0x" + artifact("PSymm").abi.event("NullifierSpent").topic.hex()
        spent = {**answer[-1], "topics": [topic, "0x" + "11" * 32], "data": "0x"}
        first = int(answer[-1]["logIndex"], 16) + 1
        answer += [{**spent, "logIndex": hex(first + at)} for at in range(2)]
    return answer


@pytest.mark.parametrize(
    "lie",
    [without_last_log, other_leaf, skipped_index, other_block_hash, other_root, spent_twice],
)
async def test_a_node_that_lies_is_named_and_nothing_of_the_lie_is_kept(
    world: World, lie: Any
) -> None:
    for _ in range(3):
        await world.deposit()
    async with Liar(world.devnet.url, lie) as rpc:
        tree = await world.tree(pool=Pool(Chain(rpc, 31337), world.pool.address))
        with pytest.raises(LyingNode) as caught:
            await tree.advance()
        assert caught.value.endpoint == world.devnet.url
        assert len(tree) == 0
        assert tree.root == bytes(32)
        await tree.aclose()


async def test_a_damaged_file_or_anothers_is_refused(world: World, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.sqlite"
    damaged.write_bytes(b"not a database" * 100)
    with pytest.raises(TreeCorrupt):
        await world.tree(path=damaged)
    path = tmp_path / "tree.sqlite"
    tree = await world.tree(path=path)
    await tree.aclose()
    with pytest.raises(TreeCorrupt):
        await open_tree(Pool(world.devnet.chain, world.deployment.registry), 1, path=path)


def head_of_no_chain(method: str, answer: Any) -> Any:
    return hex(1 << 200) if method == "eth_blockNumber" else answer


def time_of_no_chain(method: str, answer: Any) -> Any:
    return {**answer, "timestamp": "0x" + "f" * 64} if method == "eth_getBlockByNumber" else answer


def other_block(method: str, answer: Any) -> Any:
    return {**answer, "number": "0x0"} if method == "eth_getBlockByNumber" else answer


def bare_log(method: str, answer: Any) -> Any:
    return [{**one, "topics": []} for one in answer] if method == "eth_getLogs" else answer


@pytest.mark.parametrize("lie", [head_of_no_chain, time_of_no_chain, other_block, bare_log])
async def test_a_block_or_log_that_cannot_be_is_refused_by_name(world: World, lie: Any) -> None:
    await world.deposit()
    async with Liar(world.devnet.url, lie) as rpc:
        tree = await world.tree(pool=Pool(Chain(rpc, 31337), world.pool.address))
        with pytest.raises(BadReply):
            await tree.advance()
        assert len(tree) == 0
        await tree.aclose()


async def test_more_logs_than_one_answer_may_have_are_asked_for_in_smaller_ranges(
    world: World,
) -> None:
    for _ in range(3):
        await world.deposit()

    class Terse(Rpc):
        """A node whose answers to ranges of more than one block are too long."""

        async def call(self, method: str, *params: Any) -> Any:
            answer = await super().call(method, *params)
            if method == "eth_getLogs" and params[0]["fromBlock"] != params[0]["toBlock"]:
                raise ReplyTooLong(self.endpoint, method, "on purpose")
            return answer

    async with Terse(world.devnet.url) as rpc:
        tree = await world.tree(pool=Pool(Chain(rpc, 31337), world.pool.address))
        await tree.advance()
        assert len(tree) == 3
        await tree.aclose()
