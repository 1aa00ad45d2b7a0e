"""How long a neighbour waits for a quote while strangers send nonsense, over real sockets.

    python benches/strangers.py [--seconds N] [--strangers N]

The solver lives in this process, strangers in another, so that their own work is not counted as the
neighbour's wait. Issue 10 asks that the median never exceeds twice what it is alone. On a busy
machine the figures mean nothing.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import trio

ROOT = Path(__file__).parent.parent
sys.path.extend([str(ROOT / "tests" / "session"), str(ROOT / "tests" / "api")])

NONSENSE = ("{", "[" * 4000, '{"MsgType":"URS"}', b"\x01" * 2000, '{"MsgType":"1","TestReqID":"x"}')


async def babble(port: int) -> None:
    """One stranger: says nonsense as fast as it may, and comes back whenever it is cut off."""
    from psymm.errors import PSymmError
    from psymm.session.runtime.transport import dial

    while True:
        try:
            async with dial(f"ws://127.0.0.1:{port}") as socket:
                while True:
                    for each in NONSENSE:
                        await socket.send(each)
        except PSymmError:
            await trio.sleep(0.05)


async def strangers(port: int, count: int) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(babble, port)


async def measure(seconds: float, count: int) -> None:
    from market import market

    from psymm.api import BUY

    with tempfile.TemporaryDirectory() as place:
        async with market(Path(place)) as trading:
            server = trading.stage.server
            port = await trading.stage.nursery.start(partial(server.serve, "127.0.0.1", 0))

            async def quotes(name: str) -> list[float]:
                waits: list[float] = []
                until = time.perf_counter() + seconds
                while time.perf_counter() < until:
                    began = time.perf_counter()
                    await trading.session.request_quote("BTC-USD", "0.01", BUY)
                    waits.append(time.perf_counter() - began)
                    await trio.sleep(0.1)
                tenths = statistics.quantiles(waits, n=10)
                print(
                    f"{name}: {len(waits)} quotes, median {tenths[4] * 1e3:.2f} ms,"
                    f" p90 {tenths[8] * 1e3:.2f} ms"
                )
                return [tenths[4], tenths[8]]

            await quotes("warm-up")
            alone = await quotes("alone")
            command = [sys.executable, __file__, "--port", str(port), "--strangers", str(count)]
            others = subprocess.Popen(command)  # noqa: ASYNC220
            try:
                await trio.sleep(2)
                beside = await quotes(f"beside {count} strangers")
            finally:
                others.kill()
            ratios = [one / other for one, other in zip(beside, alone, strict=True)]
            print(f"median {ratios[0]:.2f} times, p90 {ratios[1]:.2f} times what it is alone")
            print("refused:", dict(server.statistics().refused))
            trading.stage.nursery.cancel_scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--strangers", type=int, default=12)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.port is not None:
        trio.run(strangers, given.port, given.strangers)
    else:
        trio.run(measure, given.seconds, given.strangers)


if __name__ == "__main__":
    main()
