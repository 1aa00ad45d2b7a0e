"""The development chain starts on a free port and ends with the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from psymm.chain.devnet import open_devnet
from psymm.chain.errors import ChainDown, DevnetFailed, ToolsMissing
from psymm.chain.rpc import Rpc

pytestmark = pytest.mark.chain


async def gone(url: str) -> bool:
    async with Rpc(url, read_attempts=1, timeout_s=1) as rpc:
        for _ in range(2_000):
            try:
                await rpc.chain_id()
            except ChainDown:
                return True
            await trio.sleep(0.05)
    return False


async def test_two_run_side_by_side_and_end_with_their_blocks() -> None:
    async with open_devnet() as one, open_devnet(chain_id=5, block_time_s=1) as two:
        assert one.port != two.port
        assert await two.rpc.chain_id() == 5
    assert await gone(one.url)
    assert await gone(two.url)


async def test_an_error_inside_comes_out_as_it_is_and_the_chain_ends() -> None:
    with pytest.raises(KeyError):
        async with open_devnet() as one:
            raise KeyError
    assert await gone(one.url)


async def test_a_cancelled_block_ends_the_chain() -> None:
    with trio.CancelScope() as scope:
        async with open_devnet() as one:
            scope.cancel()
            await trio.sleep_forever()
    assert await gone(one.url)


async def test_a_killed_program_takes_its_chain_along() -> None:
    script = (
        "import trio\n"
        "from psymm.chain.devnet import open_devnet\n"
        "async def main():\n"
        "    async with open_devnet() as one:\n"
        "        print(one.url, flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", script], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    url = (await process.stdout.receive_some()).decode().strip()
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    assert await gone(url)


async def test_a_port_that_is_taken_is_reported() -> None:
    async with open_devnet() as one:
        with pytest.raises(DevnetFailed, match=r"(?i)in use"):
            async with open_devnet(port=one.port):
                pass


async def test_missing_tools_say_what_to_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PSYMM_NODE", str(tmp_path))
    with pytest.raises(ToolsMissing, match="psymm tools install") as missing:
        async with open_devnet():
            pass
    assert str(tmp_path) in missing.value.looked_in


async def test_a_reaper_that_is_told_to_stop_takes_its_chain_along() -> None:
    async with open_devnet() as one:
        os.kill(one.pid, signal.SIGTERM)
        assert await gone(one.url)
