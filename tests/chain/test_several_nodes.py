"""Several nodes: if one does not answer, the next is asked; where money depends on it, two must
agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from psymm.chain.deployment import Deployment
from psymm.chain.devnet import CHAIN_ID, Devnet
from psymm.chain.errors import (
    BadReply,
    ChainDown,
    LyingNode,
    NodesDisagree,
    NotAnswered,
    ReplyTooLong,
    RpcError,
    StatePruned,
    TransactionPending,
    TransactionReplaced,
    WrongChain,
)
from psymm.chain.nodes import Node
from psymm.chain.registry import Role
from psymm.chain.rpc import Rpc
from psymm.chain.sync import open_tree
from psymm.chain.transactions import Chain
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain

SEND = "eth_sendRawTransaction"
Word = Callable[[str, Sequence[Any]], Any]
TRUTH = object()


class Several(Rpc):
    """Two addresses of one node; each address can change the answers."""

    def __init__(self, url: str, first: Word, second: Word | None = None, **more: Any) -> None:
        port = url.rsplit(":", 1)[1]
        super().__init__([url, f"http://localhost:{port}/?key=SECRET"], **more)
        self._words = (first, second or (lambda *_: TRUTH))
        self.asked: list[tuple[int, str]] = []

    async def raw_result(self, node: Node, method: str, params: Sequence[Any]) -> Any:
        at = int("localhost" in node.url)
        self.asked.append((at, method))
        word = self._words[at](method, params)
        if isinstance(word, Exception):
            raise word
        return await super().raw_result(node, method, params) if word is TRUTH else word


def silent(method: str, params: Sequence[Any]) -> Any:
    return ChainDown("http://first", "ConnectError")


def only(name: str, word: Any) -> Word:
    return lambda method, params: word if method == name else TRUTH


@pytest.mark.parametrize(
    "trouble",
    [
        ChainDown("http://first", "ReadError"),
        NotAnswered("http://first", "header not found"),
        BadReply("http://first", "eth_call", "not JSON"),
        StatePruned("http://first", "missing trie node"),
        "0xnonsense",
    ],
)
async def test_what_one_node_does_not_answer_another_does(
    devnet: Devnet, deployment: Deployment, trouble: object
) -> None:
    async with Several(devnet.url, lambda *_: trouble) as rpc:
        chain = Chain(rpc, CHAIN_ID)
        assert await deployment.pool(chain).size() >= 0
        payer = await devnet.new_account()
        assert (await chain.transact(payer, payer.address, b"", value_wei=1)).block > 0
    assert {at for at, _ in rpc.asked} == {0, 1}


async def test_the_one_that_answers_is_asked_first_from_then_on(devnet: Devnet) -> None:
    async with Several(devnet.url, silent) as rpc:
        for _ in range(5):
            await rpc.block_number()
    assert [at for at, _ in rpc.asked] == [0, 1, 1, 1, 1, 1]


async def test_where_no_node_answers_the_error_says_so_and_shows_no_key(devnet: Devnet) -> None:
    async with Several(devnet.url, silent, silent, backoff_s=0) as rpc:
        with pytest.raises(ChainDown) as down:
            await rpc.block_number()
    assert "SECRET" not in f"{down.value} {rpc!r} {rpc.endpoint}"


async def test_a_node_of_another_chain_is_never_used(devnet: Devnet) -> None:
    other = only("eth_chainId", "0x1")
    async with Several(devnet.url, silent, other, backoff_s=0) as rpc:
        with pytest.raises(WrongChain):
            await Chain(rpc, CHAIN_ID).check()
    # Silent when the chain was checked, and asked before its first answer is used.
    words: list[Word] = [silent]
    async with Several(devnet.url, lambda *_: TRUTH, lambda *one: words[0](*one)) as rpc:
        await Chain(rpc, CHAIN_ID).check()
        rpc.prefer_next()
        words[0] = other
        with pytest.raises(WrongChain):
            await rpc.block_number()


async def test_a_transaction_goes_to_the_first_node_that_takes_it(devnet: Devnet) -> None:
    payer = await devnet.new_account()
    dear = only(SEND, RpcError(SEND, -32000, "transaction underpriced"))
    async with Several(devnet.url, dear) as rpc:
        await Chain(rpc, CHAIN_ID, poll_s=0.05).transact(payer, payer.address, b"", value_wei=1)
    assert [at for at, method in rpc.asked if method == SEND] == [0, 1]
    assert await devnet.chain.count(payer.address, "latest") == 1


async def test_where_one_may_have_it_and_the_other_refuses_nothing_is_certain(
    devnet: Devnet,
) -> None:
    payer = await devnet.new_account()
    lost = only(SEND, ChainDown("http://first", "ReadError"))
    refuses = only(SEND, RpcError(SEND, -32000, "transaction underpriced"))
    async with Several(devnet.url, lost, refuses) as rpc:
        chain = Chain(rpc, CHAIN_ID, poll_s=0.01)
        plan = await chain.prepare(payer.address, payer.address, b"")
        with pytest.raises(TransactionPending):
            await chain.send(payer, plan)


async def test_proof_comes_from_any_node(devnet: Devnet) -> None:
    payer = await devnet.new_account()

    def behind(method: str, params: Sequence[Any]) -> Any:
        proofs = ("eth_getTransactionReceipt", "eth_getTransactionByHash")
        return None if method in proofs else TRUTH

    async with Several(devnet.url, behind) as rpc:
        chain = Chain(rpc, CHAIN_ID, poll_s=0.05)
        assert await chain.transact(payer, payer.address, b"", value_wei=1)


async def test_two_that_agree_are_believed(devnet: Devnet, deployment: Deployment) -> None:
    payer = await devnet.new_account()
    async with Several(devnet.url, lambda *_: TRUTH, agree=True) as rpc:
        chain = Chain(rpc, CHAIN_ID, poll_s=0.05)
        tree = await open_tree(deployment.pool(chain), deployment.first_block)
        await tree.advance()
        assert tree.block > 0
        assert not await tree.pool.is_spent(b"\1" * 32)
        await chain.transact(payer, payer.address, b"", value_wei=1, depth=1)
        await tree.aclose()
    for name in ("eth_getLogs", "eth_call", "eth_blockNumber", "eth_getTransactionReceipt"):
        asked = [at for at, method in rpc.asked if method == name]
        assert asked.count(0) == asked.count(1) > 0, name


@pytest.mark.parametrize("name", ["eth_call", "eth_getLogs", "eth_getBlockByNumber"])
async def test_two_that_do_not_agree_are_named(
    devnet: Devnet, deployment: Deployment, name: str
) -> None:
    class Other(Several):
        async def raw_result(self, node: Node, method: str, params: Sequence[Any]) -> Any:
            truth = await super().raw_result(node, method, params)
            if method != name or "localhost" not in node.url:
                return truth
            return {
                "eth_call": lambda: f"0x{int(truth, 16) + 1:064x}",
                "eth_getLogs": lambda: truth[:-1],
                "eth_getBlockByNumber": lambda: {**truth, "hash": "0x" + "11" * 32},
            }[name]()

    payer = await devnet.new_account()
    revoked = await deployment.party_registry(devnet.chain).revoke_key(payer, payer.address, 1)
    async with Other(devnet.url, lambda *_: TRUTH, agree=True, backoff_s=0) as rpc:
        chain = Chain(rpc, CHAIN_ID)
        registry = deployment.party_registry(chain)

        async def revocations() -> None:
            [one async for one in registry.revocations(revoked.block, revoked.block)]

        asked = {
            "eth_call": lambda: deployment.pool(chain).size(revoked.block_hash),
            "eth_getLogs": revocations,
            "eth_getBlockByNumber": lambda: chain.block(revoked.block),
        }
        with pytest.raises(NodesDisagree) as found:
            await asked[name]()
        assert "SECRET" not in str(found.value)
        assert "localhost" in str(found.value)


async def test_the_head_is_the_lower_of_two(devnet: Devnet) -> None:
    far = only("eth_blockNumber", hex(10**9))
    async with Several(devnet.url, far, agree=True) as rpc:
        assert await rpc.block_number() == await devnet.rpc.block_number()


async def test_a_head_that_one_of_two_refuses_is_no_head(devnet: Devnet) -> None:
    refusal = RpcError("eth_blockNumber", -32000, "project id is unknown")
    one, both = only("eth_blockNumber", refusal), {"agree": True, "patience_s": 0, "backoff_s": 0}
    async with Several(devnet.url, one, **both) as rpc:
        with pytest.raises(NodesDisagree):
            await rpc.block_number()
    async with Several(devnet.url, one, one, **both) as rpc:
        with pytest.raises(RpcError, match="project id"):
            await rpc.block_number()


async def test_two_nodes_are_needed_that_agree() -> None:
    with pytest.raises(ChainDown, match="two nodes"):
        Rpc("http://127.0.0.1:1", agree=True)


# --- heads and lists without end ----------------------------------------------------------------


class Endless(Several):
    """A node whose chain has a billion more blocks, all made just now."""

    def __init__(self, url: str, time_s: int) -> None:
        super().__init__(url, self.word)
        self.time_s = time_s

    def word(self, method: str, params: Sequence[Any]) -> Any:
        if method == "eth_blockNumber":
            return hex(10**9)
        if method == "eth_getBlockByNumber":
            number = 10**9 if params[0] == "latest" else int(params[0], 16)
            return {
                "number": hex(number),
                "hash": f"0x{number:064x}",
                "parentHash": f"0x{number - 1:064x}",
                "timestamp": hex(self.time_s),
            }
        empty = {"eth_getLogs": [], "eth_call": f"0x{0:064x}"}
        return empty.get(method, TRUTH)


async def test_a_head_that_no_chain_can_have_costs_a_bounded_number_of_questions(
    devnet: Devnet, deployment: Deployment
) -> None:
    now_s = (await devnet.chain.block()).timestamp_s
    async with Endless(devnet.url, now_s) as rpc:
        chain = Chain(rpc, CHAIN_ID, most_ahead_s=10**9)
        tree = await open_tree(deployment.pool(chain), deployment.first_block)
        with pytest.raises(LyingNode, match="how many blocks"):
            await tree.advance()
        await tree.aclose()
        registry = deployment.party_registry(chain)
        with pytest.raises(LyingNode, match="how many blocks"):
            [one async for one in registry.revocations(deployment.first_block, 10**9)]
    assert len(rpc.asked) < 2_000


async def test_a_registry_without_end_is_not_read_without_end(
    devnet: Devnet, deployment: Deployment
) -> None:
    registry = deployment.party_registry(devnet.chain)
    count = registry.abi.function("count").selector.hex()
    pages = 0

    def word(method: str, params: Sequence[Any]) -> Any:
        nonlocal pages
        if method != "eth_call" or params[0]["to"] != registry.address:
            return TRUTH
        if params[0]["data"].startswith("0x" + count):
            return f"0x{1 << 200:064x}"
        pages += 1
        return TRUTH

    async with Several(devnet.url, word, backoff_s=0) as rpc:
        chain = Chain(rpc, CHAIN_ID)
        with pytest.raises((BadReply, ReplyTooLong)):
            [one async for one in deployment.party_registry(chain).list(Role.WATCHER)]
    assert pages == 1


async def test_a_node_without_old_state_still_names_who_took_a_nonce(own_devnet: Devnet) -> None:
    payer = await own_devnet.new_account()
    chain = own_devnet.chain
    plan = await chain.prepare(payer.address, payer.address, b"", value_wei=1)
    other = await chain.transact(payer, KeyWallet.generate().address, b"", value_wei=7)
    await own_devnet.mine(20)
    head = await own_devnet.rpc.block_number()

    def word(method: str, params: Sequence[Any]) -> Any:
        old = method == "eth_getTransactionCount" and params[1] in map(hex, range(head - 5))
        return StatePruned("http://first", "missing trie node") if old else TRUTH

    async with Several(own_devnet.url, word, word, backoff_s=0) as rpc:
        pruned = Chain(rpc, CHAIN_ID, poll_s=0.01)
        with pytest.raises(TransactionReplaced) as replaced:
            await pruned.send(payer, plan, nonce=0)
    assert replaced.value.by == other.tx_hash
