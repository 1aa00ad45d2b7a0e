"""The registry: a party writes only its own entry; it is read in pages, and each entry is
checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from psymm.chain.deployment import Deployment
from psymm.chain.devnet import CHAIN_ID, Devnet
from psymm.chain.errors import BadReply, RegistrationInvalid, Reverted
from psymm.chain.nodes import Node
from psymm.chain.registry import Registry, Role, checked_endpoint
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain


@pytest.fixture
def registry(devnet: Devnet, deployment: Deployment) -> Registry:
    return deployment.party_registry(devnet.chain)


async def test_a_party_registers_updates_and_removes_itself(
    devnet: Devnet, registry: Registry
) -> None:
    solver = await devnet.new_account()
    first = await devnet.rpc.block_number() + 1
    assert await registry.get(Role.SOLVER, solver.address) is None
    await registry.register(solver, Role.SOLVER, "ws://127.0.0.1:9000/", solver.public_key)
    found = await registry.get(Role.SOLVER, solver.address)
    assert found is not None
    assert (found.endpoint, found.public_key) == ("ws://127.0.0.1:9000/", solver.public_key)
    await registry.register(solver, Role.SOLVER, "wss://maker.example/", solver.public_key)
    assert (await registry.get(Role.SOLVER, solver.address)).endpoint == "wss://maker.example/"
    assert await registry.get(Role.TRADER, solver.address) is None
    await registry.remove(solver, Role.SOLVER)
    assert await registry.get(Role.SOLVER, solver.address) is None
    with pytest.raises(Reverted) as refused:
        await registry.remove(solver, Role.SOLVER)
    assert refused.value.error == "PartyUnknown"

    last = await devnet.rpc.block_number()
    changes = [change async for change in registry.changes(first, last)]
    ours = [change for change in changes if change.account == solver.address]
    assert [change.endpoint for change in ours] == [
        "ws://127.0.0.1:9000/", "wss://maker.example/", None,
    ]  # fmt: skip
    assert [change.removed for change in ours] == [False, False, True]


async def test_a_node_that_answers_with_anothers_entry_is_caught(
    devnet: Devnet, deployment: Deployment, registry: Registry
) -> None:
    chosen, other = [await devnet.new_account() for _ in range(2)]
    for one in (chosen, other):
        await registry.register(one, Role.SOLVER, "ws://127.0.0.1:9000/", one.public_key)

    class Misleading(Rpc):
        async def raw_result(self, node: Node, method: str, params: Sequence[Any]) -> Any:
            asked = json.dumps(params).replace(
                chosen.address[2:].lower(), other.address[2:].lower()
            )
            return await super().raw_result(node, method, json.loads(asked))

    async with Misleading(devnet.url, patience_s=0) as rpc:
        with pytest.raises(BadReply, match="another account's entry"):
            await deployment.party_registry(Chain(rpc, CHAIN_ID)).get(Role.SOLVER, chosen.address)


async def test_an_entry_of_no_calendars_time_is_left_out(
    devnet: Devnet, deployment: Deployment, registry: Registry
) -> None:
    account = await devnet.new_account()
    await registry.register(account, Role.VALIDATOR, "ws://127.0.0.1:1/", account.public_key)
    entry = await registry.get(Role.VALIDATOR, account.address)
    assert entry is not None

    class Late(Rpc):
        async def raw_result(self, node: Node, method: str, params: Sequence[Any]) -> Any:
            answer = await super().raw_result(node, method, params)
            return json.loads(
                json.dumps(answer).replace(f"{entry.updated_at:064x}", f"{1 << 63:064x}")
            )

    async with Late(devnet.url, patience_s=0) as rpc:
        late = deployment.party_registry(Chain(rpc, CHAIN_ID))
        assert [one async for one in late.list(Role.VALIDATOR)] == []
        with pytest.raises(RegistrationInvalid, match="no block's time"):
            await late.get(Role.VALIDATOR, account.address)


async def test_lists_come_whole_in_pages_of_any_size(devnet: Devnet, registry: Registry) -> None:
    accounts = [await devnet.new_account() for _ in range(5)]
    for account in accounts:
        await registry.register(account, Role.WATCHER, "ws://w:1/", account.public_key)
    assert await registry.count(Role.WATCHER) == 5
    for page in (1, 2, 5, 100):
        found = [party.account async for party in registry.list(Role.WATCHER, page=page)]
        assert sorted(found) == sorted(account.address for account in accounts)


async def test_anothers_key_is_refused_here_and_by_the_contract(
    devnet: Devnet, registry: Registry
) -> None:
    account, other = await devnet.new_account(), KeyWallet.generate()
    for key in (other.public_key, b"", bytes(64), account.public_key + b"\0"):
        with pytest.raises(RegistrationInvalid):
            await registry.register(account, Role.SOLVER, "ws://a:1/", key)
    data = registry.abi.function("register").encode(2, "ws://a:1/", other.public_key)
    with pytest.raises(Reverted) as refused:
        await devnet.chain.transact(account, registry.address, data)
    assert refused.value.error == "PublicKeyNotOfSender"


async def test_an_entry_that_nobody_should_connect_to_is_left_out_of_lists(
    devnet: Devnet, registry: Registry
) -> None:
    evil, good = await devnet.new_account(), await devnet.new_account()
    data = registry.abi.function("register").encode(5, "file:///etc/passwd", evil.public_key)
    await devnet.chain.transact(evil, registry.address, data)
    await registry.register(good, Role.ORACLE, "ws://o:1/", good.public_key)
    listed = [party.account async for party in registry.list(Role.ORACLE)]
    assert listed == [good.address]
    with pytest.raises(RegistrationInvalid):
        await registry.get(Role.ORACLE, evil.address)


@pytest.mark.parametrize(
    "endpoint",
    [
        "", "ws://", "ws:///", "http://a", "ws://a:0/", "ws://a:99999/", "ws://u:p@a/", "ws://a/?k",
        "ws://a/#f", "ws://a b/", "ws://a/\n", "ws://ä/", "ws://0.0.0.0:1/", "ws://[::]:1/",
        "ws://-a/", "ws://" + "a" * 256, "ws://a/x", "ws://a/?", "ws://@a/", "ws://a//",
        "ws://a%00/", "ws://[fe80::1%25eth0]/", "ws://a/;x", "ws://a\\\\@b/",
    ],
)  # fmt: skip
def test_endpoints_that_are_none_are_refused(endpoint: str) -> None:
    with pytest.raises(RegistrationInvalid):
        checked_endpoint(endpoint)


@pytest.mark.parametrize(
    "endpoint", ["ws://127.0.0.1:1/", "wss://a.example", "ws://[::1]:9/", "ws://1host:5/"]
)
def test_endpoints_that_are_some_are_taken(endpoint: str) -> None:
    assert checked_endpoint(endpoint) == endpoint
