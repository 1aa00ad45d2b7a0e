"""The deployment file: written, read, and checked against the chain."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from faulty_node import open_faulty_node
from trio.testing import wait_all_tasks_blocked

from psymm.chain.artifacts import artifact, built_for
from psymm.chain.checking import check
from psymm.chain.deployment import Deployment, TokenInfo, changed_tokens, deploy
from psymm.chain.devnet import Devnet, open_devnet
from psymm.chain.errors import ChainDown, DeploymentInvalid, Reverted, TokenChanged, WrongChain
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain
from psymm.wallet import KeyWallet

sys.path.insert(0, str(Path(__file__).parent))

from odd_tokens import become, put_token

pytestmark = pytest.mark.chain


async def test_what_is_written_is_read_back_and_stands_on_chain(
    devnet: Devnet, deployment: Deployment, tmp_path: Path
) -> None:
    path = tmp_path / "run" / "deployment.json"
    deployment.save(path)
    assert Deployment.load(path) == deployment
    await check(devnet.chain, Deployment.load(path))
    assert await deployment.pool(devnet.chain).domain_separator() == deployment.domain
    assert deployment.token("USDT") == deployment.token(deployment.tokens[0].address.lower())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("chainId", "31337"),
        ("chainId", True),
        ("chainId", -1),
        ("chainId", 1),
        ("firstBlock", 1.5),
        ("crs", "none"),
        ("psymm", "0x" + "00" * 20),
        ("psymm", "0x12"),
        ("portal", None),
        ("tokens", {}),
        ("tokens", [{"address": "0x" + "11" * 20}]),
        ("tokens", [{"address": "0x" + "11" * 20, "symbol": "A", "decimals": 19}]),
        ("codeHashes", {"psymm": 1}),
        ("extra", 1),
    ],
)
def test_a_file_with_a_wrong_field_is_refused_by_its_name(
    deployment: Deployment, field: str, value: object
) -> None:
    raw = {**deployment.to_json(), field: value}
    with pytest.raises(DeploymentInvalid) as refused:
        Deployment.from_json(raw)
    # The error names the reference string, also if the chain id in the file was changed.
    expected = "crs" if field == "chainId" and value is not True and value == 1 else field
    assert refused.value.field == expected


def test_a_file_without_a_field_or_that_is_no_object_is_refused(
    deployment: Deployment, tmp_path: Path
) -> None:
    for name in deployment.to_json():
        raw = deployment.to_json()
        del raw[name]
        with pytest.raises(DeploymentInvalid):
            Deployment.from_json(raw)
    for content in (b"", b"[]", b"7", b"\xff", b"[" * 100_000):
        path = tmp_path / "deployment.json"
        path.write_bytes(content)
        with pytest.raises(DeploymentInvalid):
            Deployment.load(path)
    with pytest.raises(DeploymentInvalid):
        Deployment.load(tmp_path / "nowhere.json")


async def test_addresses_that_hold_other_code_or_none_are_refused(
    devnet: Devnet, deployment: Deployment, token: str
) -> None:
    for name in ("psymm", "portal", "registry", "poseidon2", "ctc_verifier", "cta_verifier"):
        for wrong in (token, KeyWallet.generate().address):
            with pytest.raises(DeploymentInvalid):
                # Without the hashes that the file says, the artifacts alone must notice.
                await check(devnet.chain, replace(deployment, code_hashes={}, **{name: wrong}))
    swapped = replace(
        deployment,
        ctc_verifier=deployment.cta_verifier,
        cta_verifier=deployment.ctc_verifier,
        code_hashes={},
    )
    with pytest.raises(DeploymentInvalid):
        await check(devnet.chain, swapped)
    lied = {**deployment.code_hashes, "psymm": "0x" + "00" * 32}
    with pytest.raises(DeploymentInvalid, match="hashes to"):
        await check(devnet.chain, replace(deployment, code_hashes=lied))


async def test_one_changed_byte_of_a_contract_is_noticed(own_devnet: Devnet) -> None:
    deployer = await own_devnet.new_account()
    put = await deploy(own_devnet.chain, deployer)
    code = bytearray(await own_devnet.chain.code(put.psymm))
    code[len(code) // 2] ^= 1
    await own_devnet.rpc.call("anvil_setCode", put.psymm, "0x" + bytes(code).hex())
    with pytest.raises(DeploymentInvalid) as refused:
        await check(own_devnet.chain, replace(put, code_hashes={}))
    assert refused.value.field == "psymm"


async def test_a_second_pools_portal_is_not_this_ones(own_devnet: Devnet) -> None:
    deployer = await own_devnet.new_account()
    one = await deploy(own_devnet.chain, deployer)
    other = await deploy(own_devnet.chain, deployer)
    with pytest.raises(DeploymentInvalid) as refused:
        await check(own_devnet.chain, replace(one, portal=other.portal, code_hashes={}))
    assert refused.value.field == "portal"


async def test_development_proofs_are_for_the_development_chain_only(
    deployment: Deployment, devnet: Devnet
) -> None:
    if deployment.crs != "dev":
        pytest.skip("this package is built with the ceremony's string")
    async with open_devnet(chain_id=1) as other:
        deployer = await other.new_account()
        with pytest.raises(DeploymentInvalid) as refused:
            await deploy(other.chain, deployer)
        assert refused.value.field == "crs"
        assert await other.rpc.block_number() == 0
        # The contracts refuse it, too.
        for verifier in ("CtcVerifier", "CtaVerifier"):
            with pytest.raises(Reverted) as no:
                await other.chain.transact(deployer, None, artifact(verifier).linked({}))
            assert no.value.error == "DevelopmentReferenceString"
    with pytest.raises(WrongChain):
        await check(Chain(devnet.rpc, 1), replace(deployment, chain_id=1, crs="ignition"))


class InRounds(Rpc):
    """Answers when no task has anything more to ask; counts how often that happened."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked: list[tuple[trio.Event, Callable[[], Awaitable[Any]], list[Any]]] = []
        self.rounds = 0

    async def call(self, method: str, *params: Any) -> Any:
        answered, answer = trio.Event(), []
        self.asked.append((answered, partial(super().call, method, *params), answer))
        await answered.wait()
        return answer[0]

    async def answer(self) -> None:
        while True:
            await wait_all_tasks_blocked()
            asked, self.asked = self.asked, []
            self.rounds += 1
            # Nobody goes on before all have their answers.
            for _, ask, answer in asked:
                answer.append(await ask())
            for answered, _, _ in asked:
                answered.set()


async def test_a_deployment_is_checked_in_few_rounds_of_questions(
    devnet: Devnet, deployment: Deployment
) -> None:
    """A node that takes seconds for each answer held every command up for minutes."""
    async with InRounds(devnet.url) as rpc, trio.open_nursery() as nursery:
        nursery.start_soon(rpc.answer)
        await check(Chain(rpc, 31337), deployment)
        nursery.cancel_scope.cancel()
    assert rpc.rounds < 15


async def test_a_node_that_fails_in_the_middle_of_a_check_is_named(
    devnet: Devnet, deployment: Deployment
) -> None:
    async with open_faulty_node(devnet.url) as node, Rpc(node.url) as rpc:
        node.put("403", on={"eth_getCode"})
        with pytest.raises(ChainDown, match="403"):
            await check(Chain(rpc, 31337), deployment)
        node.heal()
        await check(Chain(rpc, 31337), deployment)


@pytest.mark.parametrize(
    ("habits", "decimals", "field", "before", "now"),
    [
        (None, 6, "code", "an ERC-20 with 6 decimals", "there is no contract"),
        (
            ("NO_DECIMALS",),
            6,
            "code",
            "an ERC-20 with 6 decimals",
            "it is not an ERC-20 with decimals",
        ),
        ((), 8, "decimals", "6", "8"),
        (("NO_SYMBOL",), 6, "symbol", "ODD", "0x"),
        (("PAUSED",), 6, "transfers", "exact", "'paused'"),
        (("TAKES_FEE",), 6, "transfers", "exact", "a fee"),
    ],
)
async def test_a_token_that_changed_is_a_finding_with_what_it_was_and_is(
    devnet: Devnet,
    deployment: Deployment,
    habits: tuple[str, ...] | None,
    decimals: int,
    field: str,
    before: str,
    now: str,
) -> None:
    changed, other = await put_token(devnet), await put_token(devnet, symbol=b"OTHER")
    tokens = (TokenInfo(changed, "ODD", 6), TokenInfo(other, "OTHER", 6))
    listing = replace(deployment, tokens=tokens)
    await check(devnet.chain, listing)
    assert await changed_tokens(devnet.chain, listing) == []
    new = None if habits is None else await put_token(devnet, *habits, decimals=decimals)
    await become(devnet, changed, new)
    await check(devnet.chain, listing)
    (found,) = await changed_tokens(devnet.chain, listing)
    assert (found.token, found.field, found.facts["before"]) == (changed, field, before)
    assert now in found.facts["now"]
    assert changed in str(found)
    await listing.expect_token(devnet.chain, other)
    if field != "transfers":
        with pytest.raises(TokenChanged, match=field):
            await listing.expect_token(devnet.chain, changed)


def test_the_file_is_json_that_people_can_read(deployment: Deployment, tmp_path: Path) -> None:
    deployment.save(tmp_path / "d.json")
    raw = json.loads((tmp_path / "d.json").read_text())
    assert raw["chainId"] == 31337
    assert raw["tokens"][0]["symbol"] == "USDT"
    assert built_for() == raw["crs"]
