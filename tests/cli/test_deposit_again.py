"""A command is killed in the middle of a move and repeated: the move happens once."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent.parent / "chain"))

from faulty_node import FaultyNode, open_faulty_node
from node_faults import RECEIPTS, SENDING

from psymm.chain.contracts import Token
from psymm.chain.deployment import Deployment, TokenInfo, deploy
from psymm.chain.devnet import ETHER, Devnet
from psymm.demo.stage import Actor, DemoError, Stage
from psymm.wallet import KeyWallet

pytestmark = [pytest.mark.chain, pytest.mark.slow]

Minting = Callable[[Devnet, Deployment, str, int], Awaitable[None]]

CUTS: dict[str, tuple[str, frozenset[str]]] = {
    "recorded, not handed over": ("hanging", SENDING),
    "handed over, not mined": ("hanging-after", SENDING),
    "mined, its receipt not seen": ("hanging", RECEIPTS),
}
MINTED = 100_000_000


@dataclass
class Home:
    """A trader's home, whose commands reach the chain through a node that can fail."""

    net: Devnet
    put: Deployment
    node: FaultyNode
    trader: Actor

    async def run(
        self, *arguments: str, heard: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        return await self.trader.run(*self._placed(arguments), on_event=heard)

    async def killed(self, fault: str, on: frozenset[str], *arguments: str) -> None:
        """A command that is killed as soon as a fault has met one of its calls."""
        self.node.put(fault, on=on)
        already = self.node.met[fault]
        async with self.trader._process(self._placed(arguments), True, True) as (process, _):
            with trio.fail_after(300):
                while self.node.met[fault] == already:
                    assert process.poll() is None, "the command ended before the fault"
                    await trio.sleep(0.05)
            process.kill()
        self.node.heal()

    async def held(self) -> tuple[int, int]:
        """Units in the trader's account; how many transactions it has in blocks or waiting."""
        count = await self.net.chain.count(self.trader.address, "pending")
        return await Token(self.net.chain, self.put.tokens[0].address).balance(
            self.trader.address
        ), count

    def _placed(self, arguments: tuple[str, ...]) -> tuple[str, ...]:
        file = str(self.trader.stage.home / "deployment.json")
        return (*arguments, "--deployment", file, "--rpc", self.node.url)


@pytest.fixture
async def home(own_devnet: Devnet, minting: Minting, tmp_path: Path) -> AsyncIterator[Home]:
    net = own_devnet
    owner, trader = await net.new_account(), Actor(Stage(tmp_path), "trader")
    put = await deploy(net.chain, owner, test_token=TokenInfo("", "pUSD", 6))
    put.save(tmp_path / "deployment.json")
    trader.address = str((await trader.run("wallet", "new", "--light"))["address"])
    await net.rpc.call("anvil_setBalance", trader.address, hex(10 * ETHER))
    await minting(net, put, trader.address, MINTED)
    async with open_faulty_node(net.url) as node:
        yield Home(net, put, node, trader)


@pytest.mark.parametrize("cut", CUTS)
async def test_a_deposit_that_was_cut_off_is_made_once_when_its_command_is_repeated(
    home: Home, cut: str
) -> None:
    waits = cut == "handed over, not mined"
    deposit = ("deposit", "31", "--permit", "--yes")
    await home.net.rpc.call("evm_setAutomine", not waits)
    await home.killed(*CUTS[cut], *deposit)
    if waits:
        with pytest.raises(DemoError, match=r"sent as 0x\w+, not confirmed yet"):
            await home.run(*deposit)
        await home.net.rpc.call("evm_setAutomine", True)
        await home.net.mine(1)
    done = await home.run(*deposit)
    assert (done["earlier"], done["purpose"], done["units"]) == (True, "deposit", "31000000")
    assert len(set(home.node.handed)) == 1
    assert await home.held() == (MINTED - 31_000_000, 1)
    # MoveRequest once more, it is another deposit.
    again = await home.run(*deposit)
    assert again["available"] == "62000000"
    assert await home.held() == (MINTED - 62_000_000, 2)


async def test_a_deposit_cut_off_while_a_daemon_runs_is_resumed_when_the_daemon_is_gone(
    home: Home,
) -> None:
    deposit = ("deposit", "31", "--permit", "--yes")
    # As a daemon does, from its start to its end.
    held = sqlite3.connect(home.trader.home / "notes.sqlite", isolation_level=None)
    held.execute("BEGIN EXCLUSIVE")
    await home.killed(*CUTS["recorded, not handed over"], *deposit)
    held.close()
    said: list[dict[str, Any]] = []
    (note,) = (await home.run("notes", heard=said.append))["notes"]
    assert (note["units"], note["status"]) == ("31000000", "unspent")
    assert [
        (one["purpose"], one["status"]) for one in said if one.get("event") == "earlier-move"
    ] == [("deposit", "done")]
    assert await home.held() == (MINTED - 31_000_000, 1)


@pytest.mark.proofs
async def test_a_withdrawal_that_was_mined_when_its_command_was_killed_is_not_made_again(
    home: Home,
) -> None:
    await home.run("deposit", "50", "--permit", "--yes")
    recipient = KeyWallet.generate().address
    withdraw = ("withdraw", f"{recipient}=20", "--direct", "--yes")
    await home.killed(*CUTS["mined, its receipt not seen"], *withdraw)
    done = await home.run(*withdraw)
    assert (done["earlier"], done["purpose"], done["recipient"]) == (True, "withdraw", recipient)
    assert await Token(home.net.chain, home.put.tokens[0].address).balance(recipient) == 20_000_000
    assert await home.held() == (MINTED - 50_000_000, 2)
    (note,) = (await home.run("notes"))["notes"]
    assert note["units"] == "30000000"
