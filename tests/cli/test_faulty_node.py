"""`psymm deposit` through nodes that fail, as a user runs it: one transaction, and correct
output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "chain"))

from faulty_node import FaultyNode, open_faulty_node

from psymm._core import keccak256
from psymm.chain.contracts import Token
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import Devnet

pytestmark = pytest.mark.chain

PASSWORD = "a password for tests"


@dataclass
class Ran:
    code: int
    out: str
    err: str


@dataclass
class Depositor:
    """A home on disk whose wallet holds 150 units."""

    home: Path
    address: str
    deployment: Path
    process: subprocess.Popen[bytes] | None = None
    """The newest command."""

    async def psymm(self, *arguments: str) -> Ran:
        read, write = os.pipe()
        os.write(write, PASSWORD.encode())
        os.close(write)
        try:
            self.process = await trio.to_thread.run_sync(
                partial(
                    subprocess.Popen,
                    [sys.executable, "-m", "psymm", *arguments, "--password-fd", str(read),
                     "--home", str(self.home), "--json"],
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                    pass_fds=[read],
                )
            )  # fmt: skip
        finally:
            os.close(read)
        with self.process as process:
            out, err = await trio.to_thread.run_sync(process.communicate)
        return Ran(process.returncode, out.decode(), err.decode())

    async def deposit(self, node: FaultyNode) -> Ran:
        return await self.psymm(
            "deposit", "0.0001", "--permit", "--yes", "--rpc", node.url,
            "--deployment", str(self.deployment),
        )  # fmt: skip


@pytest.fixture
async def node(devnet: Devnet) -> AsyncIterator[FaultyNode]:
    async with open_faulty_node(devnet.url) as opened:
        yield opened


@pytest.fixture
async def alice(devnet: Devnet, minting, deployment: Deployment, tmp_path: Path) -> Depositor:
    file = tmp_path / "deployment.json"
    deployment.save(file)
    made = Depositor(tmp_path / "home", "", file)
    ran = await made.psymm("wallet", "new", "--light")
    assert ran.code == 0, ran
    made.address = json.loads(ran.out.splitlines()[-1])["address"]
    await devnet.fund(made.address)
    await minting(devnet, deployment, made.address, 150)
    return made


async def standing(devnet: Devnet, token: str, alice: Depositor) -> tuple[int, int]:
    count = await devnet.rpc.eth.get_transaction_count(alice.address, "latest")
    return await Token(devnet.chain, token).balance(alice.address), count


@pytest.mark.parametrize(
    ("fault", "settings"),
    [
        ("already-known", {}),
        ("502-after", {"on": {"eth_sendRawTransaction"}}),
        ("lagging", {"every": 2, "overall": True, "blocks": 2}),
        ("rate-limit-html", {"every": 2, "overall": True}),
    ],
)
async def test_a_deposit_through_a_faulty_node_is_made_once_and_said_to_be(
    devnet: Devnet, token: str, node: FaultyNode, alice: Depositor, fault: str, settings
) -> None:
    node.put(fault, **settings)
    ran = await alice.deposit(node)
    assert ran.code == 0, ran
    assert json.loads(ran.out.splitlines()[-1])["available"] == "100"
    assert await standing(devnet, token, alice) == (50, 1)


async def test_a_fee_that_the_node_refuses_is_shown_in_the_nodes_words(
    devnet: Devnet, token: str, node: FaultyNode, alice: Depositor
) -> None:
    node.put("tip-floor")
    ran = await alice.deposit(node)
    assert ran.code not in (0, 1), ran
    error = json.loads(ran.out.splitlines()[-1])["error"]
    assert error["code"] == "fee-refused"
    assert "minimum needed" in str(error) or "max priority fee" in str(error)
    assert await standing(devnet, token, alice) == (150, 0)
    node.heal()
    ran = await alice.deposit(node)
    assert ran.code == 0, ran
    assert await standing(devnet, token, alice) == (50, 1)
    ran = await alice.psymm("notes", "--rpc", node.url, "--deployment", str(alice.deployment))
    notes = json.loads(ran.out.splitlines()[-1])["notes"]
    # What the first would have made never comes and is not shown as if it did.
    assert [(one["units"], one["status"]) for one in notes] == [("100", "unspent")]


async def test_a_command_that_is_interrupted_says_what_it_has_sent(
    devnet: Devnet, token: str, node: FaultyNode, alice: Depositor
) -> None:
    """So that the owner does not repeat it by other means; the next command continues it."""
    for fault in ("null-receipt", "null-transaction"):
        node.put(fault)
    ended: list[Ran] = []
    # In no block, else the tree ends the wait, too.
    await devnet.rpc.call("evm_setAutomine", False)
    async with trio.open_nursery() as nursery:

        async def deposit() -> None:
            ended.append(await alice.deposit(node))

        nursery.start_soon(deposit)
        while not node.handed:  # noqa: ASYNC110 - another process hands it over
            await trio.sleep(0.1)
        assert alice.process is not None
        alice.process.send_signal(signal.SIGINT)
    await devnet.rpc.call("evm_setAutomine", True)
    await devnet.mine(1)
    (ran,) = ended
    assert ran.code == 130, ran
    error = json.loads(ran.out.splitlines()[-1])["error"]
    (tx_hash,) = {keccak(one) for one in node.handed}
    assert f"sent as {tx_hash}, not confirmed yet" in error["message"]
    node.heal()
    ran = await alice.deposit(node)
    assert (ran.code, "earlier" in ran.out) == (0, True), ran
    assert await standing(devnet, token, alice) == (50, 1)


def keccak(raw: str) -> str:
    return "0x" + keccak256(bytes.fromhex(raw[2:])).hex()
