"""A development chain: anvil from npm on a free port, ended with the block that opened it.

async with open_devnet() as devnet:
    chain = devnet.chain
    signer = await devnet.new_account()
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from psymm._core import SecretKey
from psymm.chain.artifacts import anvil_program
from psymm.chain.errors import ChainDown, DevnetFailed
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain
from psymm.wallet import KeyWallet

CHAIN_ID: Final = 31337
"""The only chain id on which contracts with the development reference string work."""

ETHER: Final = 10**18
_LISTENING: Final = re.compile(rb"Listening on (\S+):(\d+)")


@dataclass(frozen=True, slots=True)
class Devnet:
    """A running development chain.

    Attributes:
        url: of its JSON-RPC.
        pid: of the process that runs it.
    """

    url: str
    port: int
    pid: int
    rpc: Rpc
    chain: Chain

    async def new_account(self, wei: int = 1_000 * ETHER) -> KeyWallet:
        """A fresh wallet with that much of the chain's coin."""
        wallet = KeyWallet(SecretKey.generate())
        await self.fund(wallet.address, wei)
        return wallet

    async def fund(self, address: str, wei: int = 1_000 * ETHER) -> None:
        """Set an address's balance of the chain's coin."""
        await self.rpc.call("anvil_setBalance", address, hex(wei))

    async def mine(self, blocks: int = 1, interval_s: int = 1) -> None:
        """Mine that many blocks at once, `interval_s` apart by the chain's clock."""
        await self.rpc.call("anvil_mine", hex(blocks), hex(interval_s))

    async def reorganise(self, depth: int) -> None:
        """Replace the newest `depth` blocks by as many empty ones."""
        await self.rpc.call("anvil_reorg", depth, [])

    async def snapshot(self) -> str:
        found = await self.rpc.call("evm_snapshot")
        return str(found)

    async def revert(self, snapshot: str) -> None:
        """Go back to a snapshot; raises DevnetFailed if it no longer exists."""
        if await self.rpc.call("evm_revert", snapshot) is not True:
            raise DevnetFailed(f"snapshot {snapshot} is gone")


@asynccontextmanager
async def open_devnet(
    *,
    port: int = 0,
    block_time_s: float | None = None,
    chain_id: int = CHAIN_ID,
    start_timeout_s: float = 30.0,
    state: Path | None = None,
) -> AsyncIterator[Devnet]:
    """Start anvil and yield it once it answers; it is always killed at the end.

    Args:
        port: 0 takes a free one.
        block_time_s: None mines a block for each transaction.
        state: a file that the chain's state is read from, if it exists, and written to.

    Raises ToolsMissing, DevnetFailed.  If this process is killed, the chain dies with it.
    """
    program = anvil_program()
    command = [
        sys.executable,
        "-I",
        str(Path(__file__).with_name("reaper.py")),
        "Listening on",
        str(program),
        "--host=127.0.0.1",
        f"--port={port}",
        f"--chain-id={chain_id}",
        "--accounts=1",
        "--no-request-size-limit",
    ]
    if block_time_s is not None:
        command.append(f"--block-time={block_time_s:g}")
    if state is not None:
        command.append(f"--state={state}")
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        output = bytearray()
        bound: int | None = None
        with trio.move_on_after(start_timeout_s):
            bound = await _listening(process, output)
        if bound is None:
            raise DevnetFailed(_last_lines(output) or "it did not start in time")
        url = f"http://127.0.0.1:{bound}"
        async with Rpc(url) as rpc:
            await _answers(rpc, start_timeout_s)
            yield Devnet(url, bound, process.pid, rpc, Chain(rpc, chain_id, poll_s=0.05))
    finally:
        await end_child(process)


async def end_child(process: trio.Process) -> None:
    """Close a child's standard input, which is its signal to end, and kill it if it does not end
    within seconds. Not cut short by cancellation."""
    with trio.CancelScope(shield=True):
        if process.stdin is not None:
            await process.stdin.aclose()
        with trio.move_on_after(5):
            await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
        if process.stdout is not None:
            await process.stdout.aclose()


async def _listening(process: trio.Process, output: bytearray) -> int | None:
    """The port that anvil says it listens on; None if it ends before that."""
    assert process.stdout is not None  # noqa: S101 - asked for when it was started
    # Read only up to this line. The reaper drops the rest, so a full pipe cannot stop anvil.
    async for piece in process.stdout:
        output += piece
        found = _LISTENING.search(output)
        if found:
            return int(found[2])
    return None


async def _answers(rpc: Rpc, timeout_s: float) -> None:
    with trio.move_on_after(timeout_s):
        while True:
            try:
                await rpc.call("eth_chainId")
            except ChainDown:
                await trio.sleep(0.05)
            else:
                return
    raise DevnetFailed("it listens and does not answer")


def _last_lines(output: bytes | bytearray) -> str:
    lines = bytes(output).decode(errors="replace").strip().splitlines()
    return " ".join(line.strip() for line in lines[-4:])
