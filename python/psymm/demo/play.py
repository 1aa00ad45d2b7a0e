"""The demo's course, from an empty chain to withdrawals."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from psymm._core import SecretKey
from psymm.demo.documents import (
    DECIMALS,
    MARKETS,
    RELAYER_FEE,
    SYMBOL,
    VALUES_PER_QUOTE,
    Amounts,
    maker_file,
    scenario_file,
    tokens,
)
from psymm.demo.results import show_results
from psymm.demo.stage import Actor, DemoError, Stage


async def play(stage: Stage, seed: int) -> None:
    """The whole demo. Raises DemoError at the first wrong result."""
    amounts = Amounts.of(seed)
    owner, trader, relayer, solver, rival = (
        Actor(stage, name) for name in ("owner", "trader", "relayer", "solver", "rival")
    )
    everybody = (owner, trader, relayer, solver, rival)
    # The blocks nest in the order in which parts depend on each other: the chain ends last.
    async with open_chain(stage, owner) as url:
        deployment = await set_up(stage, url, everybody, amounts)
        stage.title("A relayer and two solvers enter the registry")
        async with run_relayer(stage, url, relayer):
            async with run_solvers(stage, url, (solver, rival), amounts):
                result = await _trade(stage, trader, amounts)
                await _verified(stage, trader, result)
            ends = await _withdrawals(stage, trader, solver, result)
        actors = (relayer, trader, solver, rival)
        await show_results(stage, url, deployment, actors, amounts, result, ends)


@asynccontextmanager
async def open_chain(stage: Stage, owner: Actor) -> AsyncIterator[str]:
    stage.title("A chain")
    async with (
        stage.timed("chain"),
        owner.daemon("devnet", "--port", "0", unlock=False, at_home=False) as ready,
    ):
        stage.line(f"anvil at {ready['endpoint']}, chain {ready['chainId']}, PID {ready['pid']}")
        yield str(ready["endpoint"])


async def set_up(
    stage: Stage, url: str, everybody: Sequence[Actor], amounts: Amounts
) -> dict[str, Any]:
    owner, trader, _, solver, rival = everybody
    stage.title("Wallets, contracts, money")
    async with stage.timed("wallets"), trio.open_nursery() as nursery:

        async def make(actor: Actor) -> None:
            # The passwords are long and random, so slow encryption would only cost time.
            made = await actor.run("wallet", "new", "--light")
            actor.address = str(made["address"])
            fund = ("devnet", "fund", actor.address, "--ether", "10", "--rpc", url)
            await actor.run(*fund, unlock=False)
            stage.line(f"{actor.name:<8} {actor.address}, home {actor.home}")

        for actor in everybody:
            nursery.start_soon(make, actor)
    deployed: dict[str, Any] = {}
    async with stage.timed("deploy"):
        file = stage.home / "deployment.json"

        def on_event(line: dict[str, Any]) -> None:
            if line.get("event") == "deployed":
                stage.line(f"{line['contract']:<14} {line['address']}  {line['gasUsed']:>9,} gas")

        token = f"{SYMBOL}:{DECIMALS}"
        deployed = await owner.run(
            "deploy",
            "--rpc",
            url,
            "--test-token",
            token,
            "--out",
            str(file),
            "--yes",
            on_event=on_event,
        )
    async with stage.timed("deposits"), trio.open_nursery() as nursery:

        async def deposit(actor: Actor, amount: int) -> None:
            place = ("--rpc", url, "--deployment", str(file))
            mint = ("--token", SYMBOL, "--amount", str(amount))
            await actor.run("devnet", "fund", actor.address, *mint, *place, unlock=False)
            done = await actor.run("deposit", str(amount), "--token", SYMBOL, *place, "--yes")
            stage.line(
                f"{actor.name:<8} deposits {amount} {SYMBOL} into its own custody, "
                f"note {done['commitment'][:12]}…"
            )

        nursery.start_soon(deposit, trader, amounts.trader_deposit)
        nursery.start_soon(deposit, solver, amounts.solver_deposit)
        nursery.start_soon(deposit, rival, amounts.solver_deposit)
    return dict(deployed["deployment"])


@asynccontextmanager
async def run_relayer(stage: Stage, url: str, relayer: Actor) -> AsyncIterator[None]:
    fee = f"{SYMBOL}={RELAYER_FEE}"
    async with run_service(stage, url, relayer, "relayer", "--fee", fee):
        yield


@asynccontextmanager
async def run_solvers(
    stage: Stage, url: str, makers: tuple[Actor, Actor], amounts: Amounts
) -> AsyncIterator[None]:
    """Run the solver, and a rival whose quotes lose because of its wider spread."""
    shown = ", ".join(f"{one[0]} = arch.data {one[1]}" for one in MARKETS)
    stage.line(
        f"prices: {shown}, from {amounts.first_day:%Y-%m-%d}, "
        f"{VALUES_PER_QUOTE} trading days further with each firm quote"
    )
    for actor, spread in zip(makers, ("8", "30"), strict=True):
        (stage.home / f"{actor.name}.toml").write_text(maker_file(amounts, spread))

    async def serve(
        actor: Actor, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        config = str(stage.home / f"{actor.name}.toml")
        async with run_service(stage, url, actor, "solver", "--config", config):
            task_status.started()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        async with stage.timed("solvers"), trio.open_nursery() as starting:
            for actor in makers:
                starting.start_soon(nursery.start, serve, actor)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def run_service(
    stage: Stage, url: str, actor: Actor, *arguments: str
) -> AsyncIterator[dict[str, Any]]:
    """Run a relayer or a solver until the block ends; yields its ready line."""

    def on_event(line: dict[str, Any]) -> None:
        if line.get("event") in ("quoted", "filled", "declined", "cancelled", "trouble"):
            names = ("side", "symbol", "quantity", "price", "bid", "ask", "code")
            words = " ".join(str(line[name]) for name in names if name in line)
            stage.line(f"{actor.name:<8} {line['event']} {words}")

    place = ("--deployment", str(stage.home / "deployment.json"), "--rpc", url)
    listing = ("--listen", "127.0.0.1:0", "--register", "--yes")
    async with actor.daemon(*arguments, *place, *listing, on_event=on_event) as ready:
        stage.line(f"{actor.name:<8} {ready['role']} at {ready['endpoint']}, PID {ready['pid']}")
        yield ready


async def _trade(stage: Stage, trader: Actor, amounts: Amounts) -> dict[str, Any]:
    stage.title("The trade")
    scenario = stage.home / "scenario.toml"
    scenario.write_text(scenario_file(amounts))
    last = time.monotonic()

    def on_event(line: dict[str, Any]) -> None:
        nonlocal last
        event = line.get("event")
        if event == "state":
            now = time.monotonic()
            stage.timings.append((f"until {line['state']}", now - last))
            last = now
        text = {
            "started": "trader, PID {pid}",
            "offer": "asks {solver}: {symbol} {bid} / {ask}",
            "chosen": "takes {solver}",
            "cost": "{action}, relayer's fee {relayerFee}",
            "state": "session: {state}",
            "trading": "custody {custody}",
            "order": "{what}: {status} {fills}",
            "lost": "connection lost: {code}",
            "settling": "settling: both sign one move, proved and sent through the relayer",
        }.get(str(event))
        if text is not None:
            fills = ", ".join(
                f"{one['quantity']} at {one['price']}" for one in line.get("fills", [])
            )
            stage.line(f"trader   {text.format(**{**line, 'fills': fills})}")

    place = ("--deployment", str(stage.home / "deployment.json"))
    result = await trader.run(
        "trade", "--collateral", str(amounts.trader_collateral), "--token", SYMBOL,
        "--scenario", str(scenario), *place, "--yes", "--until-stdin-closes",
        # Each firm quote moves the replayed market by a week, so allow any slippage.
        "--slippage", "1", on_event=on_event,
    )  # fmt: skip
    stage.line(
        f"trader   settled in block {result['block']}: put up {tokens(result['collateral'])}, "
        f"paid {tokens(result['payout'])} {SYMBOL}"
    )
    return result


async def _verified(stage: Stage, trader: Actor, result: dict[str, Any]) -> None:
    stage.title("The transcript")
    async with stage.timed("verify"):
        verified = await trader.run(
            "transcript", "verify", result["transcript"], unlock=False, at_home=False
        )
    result["verified"] = verified
    stage.line(
        f"{verified['frames']} frames: every signature, hash and delegation is valid, "
        f"{len(verified['violations'])} broken rules"
    )
    if verified["sides"]["trader"]["payout"] != result["payout"] or verified["violations"]:
        raise DemoError("the transcript's account is not the one that was settled")


async def _withdrawals(
    stage: Stage, trader: Actor, solver: Actor, result: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Both withdraw most of their tokens, in round parts, to fresh addresses. The rest stays in
    custody, because an odd amount would show an observer what was won."""
    stage.title("Withdrawals, in parts, to fresh addresses")
    path = stage.home / "solver.psymm"
    await solver.run(
        "transcript", "export", "--custody", result["custody"], "--openings", str(path)
    )
    other = await solver.run("transcript", "verify", str(path), unlock=False, at_home=False)
    if other["account"] != result["verified"]["account"]:
        raise DemoError("the two sides' journals give two accounts")
    stage.line(f"both sides' journals give one account, {other['account'][:18]}…")
    ends: dict[str, dict[str, Any]] = {}
    async with stage.timed("withdrawals"), trio.open_nursery() as nursery:

        async def withdraw(actor: Actor) -> None:
            notes = await actor.run("notes")
            total = int(notes["balances"][0]["available"])
            round_parts = [total * share // 10 ** (DECIMALS + 4) * 100 for share in (45, 35)]
            parts = [f"{SecretKey.generate().address}={part}" for part in round_parts]

            def on_event(line: dict[str, Any]) -> None:
                if line.get("event") == "withdrawn":
                    stage.line(
                        f"{actor.name:<8} {line['recipient']} gets {tokens(line['received'])}"
                    )

            ends[actor.name] = await actor.run("withdraw", *parts, "--yes", on_event=on_event)

        for actor in (trader, solver):
            nursery.start_soon(withdraw, actor)
    return ends
