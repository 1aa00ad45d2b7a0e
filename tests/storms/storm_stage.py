"""The stage of a crash storm: a development chain, its contracts, money, and a relayer.

Everything here runs in processes of its own, so that the supervisor never has a thread or a trio
run when it forks.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

import psymm.chain.reaper
from psymm._core import SecretKey, keccak256
from psymm.chain.artifacts import anvil_program, artifact
from psymm.chain.contracts import Token
from psymm.chain.deployment import Deployment, TokenInfo, deploy
from psymm.chain.devnet import CHAIN_ID, ETHER
from psymm.chain.registry import Role
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain
from psymm.relayer.config import RelayerConfig, TokenPrice
from psymm.relayer.service import RelayerService
from psymm.relayer.store import Store
from psymm.wallet import KeyWallet

RELAYER_FEE = 50_000


@contextmanager
def open_chain() -> Iterator[str]:
    """A development chain's address, until the block ends."""
    with subprocess.Popen(
        [
            sys.executable,
            "-I",
            str(Path(psymm.chain.reaper.__file__)),
            "Listening on",
            str(anvil_program()),
            "--host=127.0.0.1",
            "--port=0",
            f"--chain-id={CHAIN_ID}",
            "--accounts=1",
            "--no-request-size-limit",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as reaper:
        assert reaper.stdout is not None
        assert reaper.stdin is not None
        try:
            for line in reaper.stdout:
                found = re.search(rb"Listening on \S+:(\d+)", line)
                if found:
                    yield f"http://127.0.0.1:{int(found[1])}"
                    return
            raise RuntimeError("anvil did not start")
        finally:
            reaper.stdin.close()
            reaper.wait(10)


def apart(work: Callable[[], None]) -> None:
    """Run something in a process of its own and wait for it."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError("the stage could not be set")


async def prepare(url: str, file: Path, wallets: list[KeyWallet], units: int) -> None:
    """Deploy, and give each wallet coin and tokens."""
    async with Rpc(url) as rpc:
        chain = Chain(rpc, CHAIN_ID, poll_s=0.05)
        deployer = KeyWallet(SecretKey.from_bytes(keccak256(b"deployer")))
        for wallet in [deployer, *wallets]:
            await rpc.call("anvil_setBalance", wallet.address, hex(1_000_000 * ETHER))
        deployment = await deploy(chain, deployer, test_token=TokenInfo("", "USDT", 6))
        deployment.save(file)
        for wallet in wallets:
            mint = artifact("TestToken").abi.function("mint").encode(wallet.address, units)
            await chain.transact(deployer, deployment.tokens[0].address, mint, doing="minting")


async def relay(url: str, home: Path, deployment: Deployment, wallet: KeyWallet, port: int) -> None:
    """A relayer that is in the registry, until killed."""
    await trio.Path(home).mkdir(exist_ok=True)
    async with Rpc(url) as rpc:
        chain = Chain(rpc, CHAIN_ID, poll_s=0.05)
        await rpc.call("anvil_setBalance", wallet.address, hex(1_000 * ETHER))
        config = RelayerConfig({deployment.tokens[0].address: TokenPrice(RELAYER_FEE)})
        with Store(home / "sends.sqlite", CHAIN_ID, deployment.psymm, wallet.address) as store:
            service = RelayerService(chain, deployment.pool(chain), wallet, store, config)
            async with trio.open_nursery() as nursery:

                async def serve(
                    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
                ) -> None:
                    await service.serve("127.0.0.1", port, task_status=task_status)

                bound = await nursery.start(serve)
                await deployment.party_registry(chain).register(
                    wallet, Role.RELAYER, f"ws://127.0.0.1:{bound}/", wallet.public_key
                )
                await trio.Path(home / "ready").touch()


async def set_forward(url: str, seconds: int) -> None:
    """Set the chain's clock forward and mine a block there."""
    async with Rpc(url) as rpc:
        await rpc.call("evm_increaseTime", hex(seconds))
        await rpc.call("anvil_mine", "0x1")


async def balances(url: str, deployment: Deployment, addresses: list[str], file: Path) -> None:
    """Write down how many units of the token each address holds."""
    async with Rpc(url) as rpc:
        token = Token(Chain(rpc, CHAIN_ID), deployment.tokens[0].address)
        held = [await token.balance(address) for address in addresses]
        await trio.Path(file).write_text(" ".join(map(str, held)))
