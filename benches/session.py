"""Round trips through the session as users get it: two processes, one WebSocket on loopback, both
journals durable (SQLite, full synchronisation), rulebook and margin checks at both ends.

    python benches/session.py [ROUNDS]

A round is QuoteRequest → Quote → NewOrderSingle → ExecutionReport, alternately opening and closing
a position: four frames, and heartbeat frames where something would be left uncovered. Collateral
is real (devnet, proofs), put up before the clock starts.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import trio

from psymm.api import (
    BUY,
    Dealer,
    IncomingOrder,
    QuoteAsked,
    Session,
    Solver,
    connect,
    open_dealer,
    scaled,
)
from psymm.chain.artifacts import artifact
from psymm.chain.deployment import Deployment, TokenInfo, deploy
from psymm.chain.devnet import Devnet, open_devnet
from psymm.terms import Chain, Collateral, Instrument, Limits, Rates, Tariff, Terms
from psymm.wallet import KeyWallet, load_keystore, save_keystore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

PASSWORD = "bench"  # noqa: S105 - a wallet that lives as long as the bench
UNIT = 10**6


class Maker(Solver):
    """Quotes one price and fills at once."""

    async def on_quote_request(self, request: QuoteAsked) -> None:
        await request.quote(bid=50_000, ask=50_000)

    async def on_order(self, order: IncomingOrder) -> None:
        await order.fill()


def terms_of(deployment: Deployment) -> Terms:
    token = deployment.tokens[0]
    rates = Rates(cva=scaled("0.005"), lf=scaled("0.005"), mm=scaled("0.02"))
    instrument = Instrument(
        symbol="BTC-USD",
        feed="BTC-USD",
        tick=scaled("0.1"),
        lot=scaled("0.001"),
        min_notional=scaled(1),
        max_notional=scaled(1_000_000),
        max_leverage=scaled(20),
        trader=rates,
        solver=rates,
    )
    return Terms(
        chain=Chain(id=deployment.chain_id, psymm=deployment.psymm, registry=deployment.registry),
        collateral=Collateral(
            token=token.address, decimals=6, trader_minimum=UNIT, solver_minimum=UNIT
        ),
        instruments=(instrument,),
        end_date=4_102_444_800 * 10**9,
        tariff=Tariff(relayer_cap=0),
        limits=Limits(frames_per_second=1_000_000, open_quotes=1_000_000),
    )


@asynccontextmanager
async def dealer_of(home: Path, deployment: Deployment, rpc: str) -> AsyncGenerator[Dealer, None]:
    wallet = await load_keystore(home / "keystore.json", PASSWORD)
    async with open_dealer(wallet, deployment, rpc, home, direct=True) as dealer:
        yield dealer


async def solver(home: Path, deployment: Deployment, rpc: str) -> None:
    async with dealer_of(home, deployment, rpc) as dealer, trio.open_nursery() as nursery:
        maker = Maker(dealer, terms_of(deployment), collateral=5_000)
        port = await nursery.start(maker.serve, "127.0.0.1", 0)
        print(port, flush=True)


async def prepare(devnet: Devnet, place: Path) -> tuple[Deployment, KeyWallet]:
    """Contracts, and two wallets with collateral in their own custody."""
    deployment = await deploy(
        devnet.chain, await devnet.new_account(), test_token=TokenInfo("", "USDT", 6)
    )
    deployment.save(place / "deployment.json")
    minter = await devnet.new_account()
    wallets = [await devnet.new_account() for _ in range(2)]
    for name, wallet in zip(("solver", "trader"), wallets, strict=True):
        home = place / name
        home.mkdir()
        token = deployment.tokens[0].address
        mint = artifact("TestToken").abi.function("mint").encode(wallet.address, 10_000 * UNIT)
        await devnet.chain.transact(minter, token, mint, doing="minting")
        await save_keystore(home / "keystore.json", wallet.key, PASSWORD, scrypt_cost=1 << 10)
        async with dealer_of(home, deployment, devnet.url) as dealer:
            await dealer.vault.deposit(wallet, token, 9_000 * UNIT)
    return deployment, wallets[0]


async def one_round(session: Session, times: dict[str, list[float]]) -> None:
    began = perf_counter()
    quote = await session.request_quote("BTC-USD", "0.01", None)
    quoted = perf_counter()
    if session.positions:
        order = await session.close(session.positions[0], quote=quote)
    else:
        order = await session.order(BUY, "BTC-USD", "0.01", quote=quote)
    result = await order.result()
    filled = perf_counter()
    if result.status != "filled":
        raise SystemExit(f"the order ended as {result.status}: {result.reason}")
    times["request to quote"].append(quoted - began)
    times["order to fill"].append(filled - quoted)
    times["round"].append(filled - began)


def milliseconds(times: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=1000)
    return {
        name: round(cuts[at] * 1e3, 2) for name, at in (("p50", 499), ("p99", 989), ("p99.9", 998))
    }


async def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        async with open_devnet() as devnet:
            deployment, wallet = await prepare(devnet, place)
            process = await trio.lowlevel.open_process(
                [sys.executable, __file__, "solver", str(place), devnet.url],
                stdout=subprocess.PIPE,
            )
            assert process.stdout is not None
            try:
                port = int((await process.stdout.receive_some(64)).decode())
                endpoint = f"ws://127.0.0.1:{port}/"
                async with (
                    dealer_of(place / "trader", deployment, devnet.url) as dealer,
                    connect(
                        dealer, endpoint, expected=wallet.public_key, collateral=2_000
                    ) as session,
                ):
                    await measure(session, rounds)
            finally:
                process.terminate()
                await process.wait()


async def measure(session: Session, rounds: int) -> None:
    warm: dict[str, list[float]] = {"request to quote": [], "order to fill": [], "round": []}
    for _ in range(min(50, rounds)):
        await one_round(session, warm)
    times: dict[str, list[float]] = {name: [] for name in warm}
    before = len(session.end.engine.record)
    began = perf_counter()
    for _ in range(rounds):
        await one_round(session, times)
    took = perf_counter() - began
    frames = len(session.end.engine.record) - before
    print(
        json.dumps(
            {
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "python": platform.python_version(),
                "rounds": rounds,
                "rounds_per_second": round(rounds / took, 1),
                "frames_per_second": round(frames / took, 1),
                "milliseconds": {name: milliseconds(values) for name, values in times.items()},
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["solver"]:
        where = Path(sys.argv[2])
        trio.run(solver, where / "solver", Deployment.load(where / "deployment.json"), sys.argv[3])
    else:
        trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 500)
