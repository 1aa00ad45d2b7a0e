"""A deployment: the checks before its first contract, and its state after it was cut off."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from odd_tokens import put_token

import psymm.chain.reaper
from psymm.chain import deployment as deployments
from psymm.chain.artifacts import anvil_program
from psymm.chain.checking import check
from psymm.chain.deployment import Deployment, TokenInfo, deploy
from psymm.chain.devnet import CHAIN_ID, Devnet, open_devnet
from psymm.chain.errors import (
    ChainDown,
    ChainUnfit,
    DeploymentInvalid,
    RpcError,
    TokenUnfit,
    WalletWithoutGas,
)
from psymm.chain.rpc import Rpc
from psymm.chain.signing import hash_of
from psymm.chain.transactions import Chain, PendingTransaction
from psymm.wallet import KeyWallet

pytestmark = pytest.mark.chain

CONTRACTS = ("CtcVerifier", "CtaVerifier", "Poseidon2", "PSymm", "PartyRegistry")


async def sent_by(devnet: Devnet, wallet: KeyWallet) -> int:
    return await devnet.rpc.eth.get_transaction_count(wallet.address, "pending")


def files_in(path: Path) -> list[str]:
    return sorted(one.name for one in path.iterdir())


@pytest.mark.parametrize(
    ("habits", "decimals", "reason"),
    [(("TAKES_FEE",), 6, "fee"), ((), 24, "24 decimals"), (("NO_DECIMALS",), 6, "decimals")],
)
async def test_a_token_that_cannot_be_held_stops_it_before_the_first_contract(
    devnet: Devnet, tmp_path: Path, habits: tuple[str, ...], decimals: int, reason: str
) -> None:
    deployer = await devnet.new_account()
    good = await put_token(devnet, symbol=b"GOOD")
    bad = await put_token(devnet, *habits, symbol=b"BAD", decimals=decimals)
    file = tmp_path / "deployment.json"
    with pytest.raises(TokenUnfit, match=reason):
        await deploy(devnet.chain, deployer, tokens=(good, bad), file=file)
    assert await sent_by(devnet, deployer) == 0
    assert files_in(tmp_path) == []


async def test_one_name_for_two_tokens_stops_it(devnet: Devnet, deployment: Deployment) -> None:
    deployer = await devnet.new_account()
    one, other = await put_token(devnet, symbol=b"DAI"), await put_token(devnet, symbol=b"dai")
    with pytest.raises(DeploymentInvalid, match="two are called"):
        await deploy(devnet.chain, deployer, tokens=(one, other))
    with pytest.raises(DeploymentInvalid, match="two are called"):
        await deploy(devnet.chain, deployer, tokens=(one,), test_token=TokenInfo("", "Dai", 18))
    assert await sent_by(devnet, deployer) == 0
    raw = deployment.to_json()
    raw["tokens"] = [*raw["tokens"], {**raw["tokens"][0], "address": "0x" + "11" * 20}]
    with pytest.raises(DeploymentInvalid, match="two are called USDT"):
        Deployment.from_json(raw)


async def test_a_deployer_that_cannot_pay_for_all_of_it_pays_for_nothing(devnet: Devnet) -> None:
    rich = await devnet.new_account()
    agreed: list[int] = []
    await deploy(devnet.chain, rich, agree=agreed.append)
    used = 0
    poor = await devnet.new_account()

    def spent(_name: str, _address: str, gas: int) -> None:
        nonlocal used
        used += gas

    await deploy(devnet.chain, poor, progress=spent)
    # What was agreed to was enough, and not a multiple of what it took.
    assert used <= agreed[0] <= 2 * used
    most_wei = used * (await devnet.chain.fees()).max_wei
    short = await devnet.new_account(most_wei * 9 // 10)
    with pytest.raises(WalletWithoutGas) as refused:
        await deploy(devnet.chain, short)
    assert refused.value.needed_wei > most_wei
    assert await sent_by(devnet, short) == 0


async def test_a_no_when_the_cost_is_shown_leaves_nothing_behind(
    devnet: Devnet, tmp_path: Path
) -> None:
    class No(Exception):
        pass

    def refuse(_gas: int) -> None:
        raise No

    deployer = await devnet.new_account()
    with pytest.raises(No):
        await deploy(devnet.chain, deployer, file=tmp_path / "d.json", agree=refuse)
    assert await sent_by(devnet, deployer) == 0
    assert files_in(tmp_path) == []


@asynccontextmanager
async def anvil(*options: str) -> AsyncIterator[tuple[Rpc, Chain]]:
    """A development chain with other rules than those of `open_devnet`."""
    command = [
        sys.executable, "-I", str(psymm.chain.reaper.__file__), "Listening on",
        str(anvil_program()), "--host=127.0.0.1", "--port=0", f"--chain-id={CHAIN_ID}",
        "--accounts=1", *options,
    ]  # fmt: skip
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        heard = b""
        while not (found := re.search(rb"Listening on \S+:(\d+)", heard)):
            piece = await process.stdout.receive_some()
            assert piece, heard
            heard += piece
        async with Rpc(f"http://127.0.0.1:{int(found[1])}") as rpc:
            yield rpc, Chain(rpc, CHAIN_ID, poll_s=0.05)
    finally:
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()
            await process.wait()


@pytest.mark.parametrize(
    ("fork", "lacks"), [("london", "PUSH0"), ("shanghai", "MCOPY"), ("istanbul", "PUSH0")]
)
async def test_a_chain_without_our_instructions_is_refused_by_what_it_lacks(
    fork: str, lacks: str
) -> None:
    async with anvil(f"--hardfork={fork}") as (rpc, chain):
        deployer = KeyWallet.generate()
        await rpc.call("anvil_setBalance", deployer.address, hex(10**21))
        with pytest.raises(ChainUnfit, match=lacks):
            await deploy(chain, deployer)
        assert await rpc.eth.get_transaction_count(deployer.address, "pending") == 0


@pytest.mark.parametrize("lacks", ["eth_getLogs", "EIP-1898", "synchronising"])
async def test_a_node_that_could_not_serve_the_contracts_is_refused(
    devnet: Devnet, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    asked = devnet.rpc.call

    async def call(method: str, *params: object) -> object:
        if method == "eth_getLogs" == lacks:
            raise RpcError(method, -32601, "not on this plan")
        if lacks == "EIP-1898" and method == "eth_call" and isinstance(params[1], dict):
            raise RpcError(method, -32602, "invalid block tag")
        if method == "eth_syncing" and lacks == "synchronising":
            return {"currentBlock": "0x1", "highestBlock": "0x100"}
        return await asked(method, *params)

    monkeypatch.setattr(devnet.rpc, "call", call)
    deployer = await devnet.new_account()
    with pytest.raises(ChainUnfit, match=lacks):
        await deploy(devnet.chain, deployer)
    assert await sent_by(devnet, deployer) == 0


class Cut(Exception):
    """The program ends here."""


@pytest.mark.parametrize("after", range(5))
async def test_a_deployment_that_was_cut_off_goes_on_with_what_it_sent(
    devnet: Devnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Cut off when the node has the transaction, before its result is known."""
    deployer, file = await devnet.new_account(), tmp_path / "deployment.json"
    waited = PendingTransaction.wait
    count = 0

    async def wait(*given: object, **named: object) -> object:
        nonlocal count
        count += 1
        if count == after + 1:
            raise Cut
        return await waited(*given, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(PendingTransaction, "wait", wait)
        with pytest.raises(Cut):
            await deploy(devnet.chain, deployer, file=file)
    assert not file.exists()
    agreed: list[int] = []
    put: list[str] = []
    made = await deploy(
        devnet.chain,
        deployer,
        file=file,
        agree=agreed.append,
        progress=lambda name, _address, _gas: put.append(name),
    )
    assert await sent_by(devnet, deployer) == len(CONTRACTS)
    assert put == list(CONTRACTS)
    assert len(agreed) == (0 if after == 4 else 1)
    assert Deployment.load(file) == made
    assert files_in(tmp_path) == [file.name]


async def test_what_is_still_under_way_is_waited_for_and_not_sent_again(
    own_devnet: Devnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployer, file = await own_devnet.new_account(), tmp_path / "deployment.json"
    await own_devnet.rpc.call("evm_setAutomine", False)

    async def wait(*_given: object, **_named: object) -> object:
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(PendingTransaction, "wait", wait)
        with pytest.raises(Cut):
            await deploy(own_devnet.chain, deployer, file=file)
    assert await sent_by(own_devnet, deployer) == 1
    record = json.loads((tmp_path / "deployment.json.under-way").read_text())
    ((key, (first,)),) = record["sent"].items()
    assert key.startswith("CtcVerifier")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deploy_and_stop_mining, own_devnet, deployer, file, nursery)
        while True:
            await trio.sleep(0.05)
            await own_devnet.mine()
    made = Deployment.load(file)
    receipt = await own_devnet.chain.receipt(hash_of(bytes.fromhex(first[2:])))
    assert receipt is not None
    assert receipt.contract == made.ctc_verifier
    assert await sent_by(own_devnet, deployer) == len(CONTRACTS)


async def deploy_and_stop_mining(
    devnet: Devnet, deployer: KeyWallet, file: Path, nursery: trio.Nursery
) -> None:
    await deploy(devnet.chain, deployer, file=file)
    nursery.cancel_scope.cancel()


async def test_a_record_of_a_transaction_that_another_replaced_is_sent_anew(
    devnet: Devnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployer, file = await devnet.new_account(), tmp_path / "deployment.json"

    async def lost(*_given: object, **_named: object) -> object:
        raise Cut

    with monkeypatch.context() as patch:
        # Recorded, and then never handed over.
        patch.setattr(devnet.chain, "_hand_over", lost)
        with pytest.raises(Cut):
            await deploy(devnet.chain, deployer, file=file)
    await devnet.chain.transact(deployer, deployer.address, b"")
    made = await deploy(devnet.chain, deployer, file=file)
    assert await sent_by(devnet, deployer) == 1 + len(CONTRACTS)
    await check(devnet.chain, made)


async def test_a_deployment_whose_check_fails_is_saved_and_taken_up(
    devnet: Devnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployer, file = await devnet.new_account(), tmp_path / "deployment.json"

    async def down(*_given: object) -> None:
        raise ChainDown("http://node", "gone")

    with monkeypatch.context() as patch:
        patch.setattr(deployments, "check", down)
        with pytest.raises(ChainDown):
            await deploy(devnet.chain, deployer, file=file, test_token=TokenInfo("", "T", 6))
    saved = Deployment.load(file)
    sent = await sent_by(devnet, deployer)
    again = await deploy(devnet.chain, deployer, file=file, test_token=TokenInfo("", "T", 6))
    assert again == saved
    assert await sent_by(devnet, deployer) == sent
    assert files_in(tmp_path) == [file.name]


async def test_tokens_are_added_to_a_deployment_that_stands(
    devnet: Devnet, deployment: Deployment, tmp_path: Path
) -> None:
    deployer, file = await devnet.new_account(), tmp_path / "deployment.json"
    deployment.save(file)
    token, fee = await put_token(devnet, symbol=b"NEW"), await put_token(devnet, "TAKES_FEE")
    more = await deploy(devnet.chain, deployer, file=file, tokens=(token,))
    assert more.tokens == (*deployment.tokens, TokenInfo(token, "NEW", 6))
    assert replace(more, tokens=deployment.tokens) == deployment
    assert await sent_by(devnet, deployer) == 0
    with pytest.raises(TokenUnfit):
        await deploy(devnet.chain, deployer, file=file, tokens=(fee,))
    assert Deployment.load(file) == more
    await deploy(devnet.chain, deployer, file=file, test_token=TokenInfo("", "PLAY", 0))
    assert [one.symbol for one in Deployment.load(file).tokens] == ["USDT", "NEW", "PLAY"]
    assert await sent_by(devnet, deployer) == 1


async def test_a_file_of_another_chain_is_never_replaced(
    devnet: Devnet, deployment: Deployment, tmp_path: Path
) -> None:
    file = tmp_path / "deployment.json"
    raw = {**deployment.to_json(), "chainId": 1, "crs": "ignition"}
    file.write_text(json.dumps(raw))
    deployer = await devnet.new_account()
    with pytest.raises(DeploymentInvalid, match=r"is for chain 1, this is 31337"):
        await deploy(devnet.chain, deployer, file=file)
    assert json.loads(file.read_text()) == raw
    assert await sent_by(devnet, deployer) == 0


async def test_a_development_chain_that_was_begun_anew_gets_its_contracts_anew(
    tmp_path: Path,
) -> None:
    file = tmp_path / "deployment.json"
    deployer = KeyWallet.generate()
    found = []
    for _ in range(2):
        async with open_devnet() as fresh:
            await fresh.fund(deployer.address)
            found.append(await deploy(fresh.chain, deployer, file=file))
            await check(fresh.chain, Deployment.load(file))
    assert Deployment.load(file) == found[1]


async def test_a_record_from_a_chain_that_is_gone_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transactions have numbers that the wallet has not reached on the new chain."""
    file, deployer = tmp_path / "deployment.json", KeyWallet.generate()

    async def wait(*_given: object, **_named: object) -> object:
        raise Cut

    async with open_devnet() as old:
        await old.fund(deployer.address)
        await old.chain.transact(deployer, deployer.address, b"")
        with monkeypatch.context() as patch:
            patch.setattr(PendingTransaction, "wait", wait)
            with pytest.raises(Cut):
                await deploy(old.chain, deployer, file=file)
    async with open_devnet() as new:
        await new.fund(deployer.address)
        await deploy(new.chain, deployer, file=file)
        assert await sent_by(new, deployer) == len(CONTRACTS)
        await check(new.chain, Deployment.load(file))


def test_what_could_not_be_read_back_is_not_written(deployment: Deployment, tmp_path: Path) -> None:
    usdt = deployment.tokens[0]
    for wrong in (
        replace(usdt, decimals=24),
        replace(usdt, symbol=""),
        replace(usdt, symbol="A" * 33),
        replace(usdt, symbol="USD\u200bT"),
        replace(usdt, symbol="0x12345678"),
        replace(usdt, address="0x" + "00" * 20),
    ):
        with pytest.raises(DeploymentInvalid) as refused:
            replace(deployment, tokens=(wrong,)).save(tmp_path / "d.json")
        assert refused.value.field == "tokens"
    assert files_in(tmp_path) == []
    unnamed = replace(deployment, tokens=(replace(usdt, symbol=usdt.address[:10]),))
    unnamed.save(tmp_path / "d.json")
    assert Deployment.load(tmp_path / "d.json") == unnamed


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"\xff", b'{"version": 2, "chainId": 31337}']
    + [b'{"version":2,"chainId":31337,"firstBlock":1,"sent":{"x":[%s]}}' % raw for raw in
       (b'"0x02c0"', b'"0x"', b'"0xzz"', b"1")],
)  # fmt: skip
async def test_a_record_that_is_none_is_named(
    devnet: Devnet, tmp_path: Path, content: bytes
) -> None:
    record = tmp_path / "deployment.json.under-way"
    record.write_bytes(content)
    deployer = await devnet.new_account()
    with pytest.raises(DeploymentInvalid, match="is not the record of a deployment"):
        await deploy(devnet.chain, deployer, file=tmp_path / "deployment.json")
    assert await sent_by(devnet, deployer) == 0
    assert record.read_bytes() == content
