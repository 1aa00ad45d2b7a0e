"""`python -m psymm.demo`: a private trade from discovery to withdrawal, on real parts.

It starts a development chain, deploys the contracts with a token of six decimals, and runs a
relayer, two solvers and a trader. Each is a process with its own home and wallet; they share only
the chain and sockets. Everything goes through the command line, so it can be repeated by hand; the
commands are in commands.log.

Prices are closing values of real markets from the package `arch`. They advance with each firm quote
and never with the clock, so the outcome does not depend on the machine's speed. SEED (an
environment variable) chooses the amounts and the days; two runs with the same SEED differ in keys,
proofs and times. The demo ends with three results: what each party gained and lost, what an
observer of the chain saw, and the transcript with the command that verifies it. Any difference
between the tokens on chain and the rulebook's account is an error.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import trio

from psymm._core import SecretKey
from psymm.chain.contracts import Token
from psymm.chain.deployment import Deployment
from psymm.chain.devnet import end_child
from psymm.chain.rpc import Rpc
from psymm.chain.transactions import Chain
from psymm.cli.exit_status import leaves

DECIMALS = 6
SYMBOL = "pUSD"
VALUES_PER_QUOTE = 5
RELAYER_FEE = "0.05"
READY_S = 600
"""After this time we assume that a daemon hangs; even a busy machine needs less."""
RUNS_DAYS = 300
"""The days from now to the terms' end date."""
MARKETS = (
    ("SPX", "sp500:Close", "0.01", "0.001"),
    ("NDX", "nasdaq:Close", "0.01", "0.001"),
    ("WTI", "wti", "0.01", "0.1"),
)


class DemoError(Exception):
    """A step of the demo did not do what it must."""


@dataclass
class Stage:
    """The demo's directory, output and timings."""

    home: Path
    began: float = field(default_factory=time.monotonic)
    steps: int = 0
    timings: list[tuple[str, float]] = field(default_factory=list)

    def title(self, text: str) -> None:
        self.steps += 1
        print(
            f"\n\x1b[1m{self.steps}. {text}\x1b[0m"
            if sys.stdout.isatty()
            else f"\n{self.steps}. {text}"
        )
        sys.stdout.flush()

    def line(self, text: str) -> None:
        print(f"  {time.monotonic() - self.began:6.1f} s  {text}", flush=True)

    @asynccontextmanager
    async def timed(self, name: str) -> AsyncIterator[None]:
        began = time.monotonic()
        yield
        self.timings.append((name, time.monotonic() - began))

    def log_command(self, arguments: Sequence[str]) -> None:
        with (self.home / "commands.log").open("a") as file:
            file.write(shlex.join(["psymm", *arguments]) + "\n")


@dataclass
class Actor:
    """A party: a name, a home, and a password that is only passed through pipes."""

    stage: Stage
    name: str
    password: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)
    address: str = ""

    @property
    def home(self) -> Path:
        return self.stage.home / self.name

    async def run(
        self,
        *arguments: str,
        unlock: bool = True,
        at_home: bool = True,
        on_event: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Run one command and return its last JSON line. Raises DemoError."""
        last: dict[str, Any] = {}
        async with self._process(arguments, unlock, at_home) as (process, lines):
            async for line in lines:
                last = line
                if on_event is not None:
                    on_event(line)
            await process.wait()
        if process.returncode != 0 or "error" in last:
            error = last.get("error", {})
            raise DemoError(
                f"{self.name}: psymm {arguments[0]} ended with {process.returncode}: "
                f"{error.get('message', 'see its log')} [{error.get('code', '')}]"
            )
        return last

    @asynccontextmanager
    async def daemon(
        self,
        *arguments: str,
        unlock: bool = True,
        at_home: bool = True,
        on_event: Callable[[dict[str, Any]], None] | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """Run a daemon until the block ends; yields its ready line."""
        ready = trio.Event()
        first: dict[str, Any] = {}

        async def follow(lines: AsyncIterator[dict[str, Any]]) -> None:
            async for line in lines:
                if line.get("event") == "ready":
                    first.update(line)
                    ready.set()
                elif "error" in line:
                    error = line["error"]
                    raise DemoError(f"{self.name}: {error['message']} [{error['code']}]")
                elif on_event is not None:
                    on_event(line)
            if not ready.is_set():
                raise DemoError(f"{self.name}: psymm {arguments[0]} ended before it was ready")

        flags = ("--until-stdin-closes",)
        async with (
            self._process((*arguments, *flags), unlock, at_home) as (_, lines),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(follow, lines)
            with trio.move_on_after(READY_S) as late:
                await ready.wait()
            if late.cancelled_caught:
                raise DemoError(f"{self.name}: psymm {arguments[0]} is not ready after {READY_S} s")
            try:
                yield first
            finally:
                nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def _process(
        self, arguments: Sequence[str], unlock: bool, at_home: bool
    ) -> AsyncIterator[tuple[trio.Process, AsyncIterator[dict[str, Any]]]]:
        """A command's process with its output as JSON; it is always ended."""
        read = -1
        home = ["--home", str(self.home)] if at_home else []
        self.stage.log_command([*arguments, *home])
        command = [sys.executable, "-m", "psymm", *arguments, *home, "--json"]
        if unlock:
            read, write = os.pipe()
            os.write(write, self.password.encode() + b"\n")
            os.close(write)
            command += ["--password-fd", str(read)]
        log = (self.stage.home / f"{self.name}.log").open("ab")
        try:
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=[read] if unlock else [],
                start_new_session=True,
            )
        finally:
            log.close()
            if unlock:
                os.close(read)
        try:
            yield process, _json_lines(process)
        finally:
            await end_child(process)


async def _json_lines(process: trio.Process) -> AsyncIterator[dict[str, Any]]:
    assert process.stdout is not None  # noqa: S101 - asked for when it was started
    rest = b""
    async for piece in process.stdout:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if line.strip():
                yield json.loads(line)


# --- the demo -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Amounts:
    """What SEED chooses. Money is in whole tokens, quantities in units of the instruments."""

    first_day: datetime
    trader_deposit: int
    trader_collateral: int
    solver_deposit: int
    solver_collateral: int
    spx: str
    ndx: str
    wti: str

    @staticmethod
    def of(seed: int) -> Amounts:
        random = Random(seed)  # noqa: S311 - amounts of a demonstration, no secret
        # In 2018 all three markets rose and fell by a tenth or more.
        first_day = datetime(2018, 1, 2, tzinfo=UTC) + timedelta(days=random.randrange(90))
        collateral = 50 * random.randint(160, 240)
        return Amounts(
            first_day=first_day,
            trader_deposit=collateral + 100 * random.randint(5, 30),
            trader_collateral=collateral,
            solver_deposit=30_000 + 1_000 * random.randint(0, 20),
            solver_collateral=12_000 + 500 * random.randint(0, 8),
            spx=f"{random.randint(5_400, 6_600)}e-3",
            ndx=f"{random.randint(3_500, 4_500)}e-3",
            wti=f"{random.randint(1_000, 2_400)}e-1",
        )


MAKER = """
token = "{symbol}"
trader_minimum = "1000"
solver_minimum = "1000"
collateral = "{collateral}"
trader_reserve = "100"
solver_reserve = "100"
relayer_cap = "1"
end_date = {end_date}
spread_bps = "{spread}"
quote_life_s = 60
decline_above = "60000"
fill_at_most = "20000"
close_at_most = "8000"
[feed]
kind = "replay"
values_per_quote = {speed}
from = {first}
to = 2018-12-31
"""

INSTRUMENT = """
[[instrument]]
symbol = "{symbol}"
series = "{series}"
tick = "{tick}"
lot = "{lot}"
"""

LIFE_S = 600
"""How long each order lives: long enough on any machine, so none expires."""

SCENARIO = """
[[step]]
do = "order"
name = "whole"
symbol = "SPX"
side = "sell"
quantity = "{spx}"
fills = 1
expires_in_s = {life}
[[step]]
do = "order"
name = "parts"
symbol = "NDX"
side = "sell"
quantity = "{ndx}"
fills = 2
expires_in_s = {life}
[[step]]
do = "order"
name = "cancelled"
symbol = "WTI"
side = "buy"
quantity = "{wti}"
limit_bps = "-1500"
cancel_after_s = 0.5
expect = "cancelled"
expires_in_s = {life}
[[step]]
do = "order"
name = "declined"
symbol = "SPX"
side = "sell"
quantity = "{too_much}"
expect = "declined"
expires_in_s = {life}
[[step]]
do = "order"
name = "oil"
symbol = "WTI"
side = "buy"
quantity = "{wti}"
fills = 1
expires_in_s = {life}
[[step]]
do = "close"
of = "whole"
quantity = "{spx_third}"
expires_in_s = {life}
[[step]]
do = "close"
of = "whole"
limit_bps = "50"
fills = 2
expires_in_s = {life}
[[step]]
do = "close"
of = "parts"
expires_in_s = {life}
[[step]]
do = "close"
of = "oil"
expires_in_s = {life}
"""


async def play(stage: Stage, seed: int) -> None:
    """The whole demo. Raises DemoError at the first wrong result."""
    amounts = Amounts.of(seed)
    owner, trader, relayer, solver, rival = (
        Actor(stage, name) for name in ("owner", "trader", "relayer", "solver", "rival")
    )
    everybody = (owner, trader, relayer, solver, rival)
    # The blocks nest in the order in which parts depend on each other: the chain ends last.
    async with _chain(stage, owner) as url:
        deployment = await _set_up(stage, url, everybody, amounts)
        stage.title("A relayer and two solvers enter the registry")
        async with _relayer(stage, url, relayer):
            async with _solvers(stage, url, (solver, rival), amounts):
                result = await _trade(stage, trader, amounts)
                await _verified(stage, trader, result)
            ends = await _withdrawals(stage, trader, solver, result)
        actors = (relayer, trader, solver, rival)
        await _ending(stage, url, deployment, actors, amounts, result, ends)


@asynccontextmanager
async def _chain(stage: Stage, owner: Actor) -> AsyncIterator[str]:
    stage.title("A chain")
    async with (
        stage.timed("chain"),
        owner.daemon("devnet", "--port", "0", unlock=False, at_home=False) as ready,
    ):
        stage.line(f"anvil at {ready['endpoint']}, chain {ready['chainId']}, PID {ready['pid']}")
        yield str(ready["endpoint"])


async def _set_up(
    stage: Stage, url: str, everybody: Sequence[Actor], amounts: Amounts
) -> dict[str, Any]:
    owner, trader, _relayer, solver, rival = everybody
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
async def _relayer(stage: Stage, url: str, relayer: Actor) -> AsyncIterator[None]:
    fee = f"{SYMBOL}={RELAYER_FEE}"
    async with _service(stage, url, relayer, "relayer", "--fee", fee):
        yield


@asynccontextmanager
async def _solvers(
    stage: Stage, url: str, makers: tuple[Actor, Actor], amounts: Amounts
) -> AsyncIterator[None]:
    """Run the solver, and a rival whose quotes lose because of its wider spread."""
    shown = ", ".join(f"{one[0]} = arch.data {one[1]}" for one in MARKETS)
    stage.line(
        f"prices: {shown}, from {amounts.first_day:%Y-%m-%d}, "
        f"{VALUES_PER_QUOTE} trading days further with each firm quote"
    )
    for actor, spread in zip(makers, ("8", "30"), strict=True):
        (stage.home / f"{actor.name}.toml").write_text(_maker(amounts, spread))

    async def serve(
        actor: Actor, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        config = str(stage.home / f"{actor.name}.toml")
        async with _service(stage, url, actor, "solver", "--config", config):
            task_status.started()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        async with stage.timed("solvers"), trio.open_nursery() as starting:
            for actor in makers:
                starting.start_soon(nursery.start, serve, actor)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _service(
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


def _maker(amounts: Amounts, spread: str) -> str:
    head = MAKER.format(
        symbol=SYMBOL,
        collateral=amounts.solver_collateral,
        spread=spread,
        end_date=(datetime.now(UTC) + timedelta(days=RUNS_DAYS)).date(),
        speed=VALUES_PER_QUOTE,
        first=f"{amounts.first_day:%Y-%m-%d}",
    )
    return head + "".join(
        INSTRUMENT.format(symbol=symbol, series=series, tick=tick, lot=lot)
        for symbol, series, tick, lot in MARKETS
    )


async def _trade(stage: Stage, trader: Actor, amounts: Amounts) -> dict[str, Any]:
    stage.title("The trade")
    scenario = stage.home / "scenario.toml"
    scenario.write_text(
        SCENARIO.format(
            spx=amounts.spx,
            spx_third=f"{round(float(amounts.spx) * 333)}e-3",
            ndx=amounts.ndx,
            wti=amounts.wti,
            too_much="40",
            life=LIFE_S,
        )
    )
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
        f"trader   settled in block {result['block']}: put up {_tokens(result['collateral'])}, "
        f"paid {_tokens(result['payout'])} {SYMBOL}"
    )
    return result


def _tokens(units: str | int) -> str:
    sign = "-" if int(units) < 0 else ""
    whole, rest = divmod(abs(int(units)), 10**DECIMALS)
    return f"{sign}{whole}.{rest:0{DECIMALS}d}"


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
                        f"{actor.name:<8} {line['recipient']} gets {_tokens(line['received'])}"
                    )

            ends[actor.name] = await actor.run("withdraw", *parts, "--yes", on_event=on_event)

        for actor in (trader, solver):
            nursery.start_soon(withdraw, actor)
    return ends


# --- the results --------------------------------------------------------------------------------


async def _ending(
    stage: Stage,
    url: str,
    deployment: dict[str, Any],
    actors: tuple[Actor, Actor, Actor, Actor],
    amounts: Amounts,
    result: dict[str, Any],
    ends: dict[str, dict[str, Any]],
) -> None:
    """Print the three results. Raises DemoError if chain and rulebook differ."""
    relayer, trader, solver, _rival = actors
    contracts = Deployment.from_json(deployment)
    async with Rpc(url) as rpc:
        chain = Chain(rpc, contracts.chain_id)
        token = Token(chain, contracts.tokens[0].address)
        sides = result["verified"]["sides"]
        fee = round(float(RELAYER_FEE) * 10**DECIMALS)
        stage.title(f"What each gained and lost, in {SYMBOL}")
        print(
            f"  {'':<8} {'deposited':>14} {'withdrawn':>14} {'in custody':>14} "
            f"{'relayer fees':>13} {'gain':>14} {'by the rulebook':>16}"
        )
        all_fees = 0
        for actor, deposited, moves in (
            (trader, amounts.trader_deposit, 2),
            (solver, amounts.solver_deposit, 1),
        ):
            end = ends[actor.name]
            got = sum([await token.balance(part["recipient"]) for part in end["parts"]])
            fees = fee * (moves + len(end["parts"]))
            start = deposited * 10**DECIMALS
            kept = int(end["available"])
            gain, ruled = got + kept + fees - start, int(sides[actor.name]["gain"])
            all_fees += fees
            print(
                f"  {actor.name:<8} {_tokens(start):>14} {_tokens(got):>14} {_tokens(kept):>14} "
                f"{_tokens(fees):>13} {_tokens(gain):>14} {_tokens(ruled):>16}"
            )
            if gain != ruled:
                raise DemoError(f"{actor.name} gained {gain} units, the rulebook says {ruled}")
        earned = await token.balance(relayer.address)
        print(f"  {'relayer':<8} {'':>14} {_tokens(earned):>14}")
        if earned != all_fees:
            raise DemoError(f"the relayer earned {earned} units of {all_fees} that were paid")
        winner = max(sides, key=lambda name: int(sides[name]["gain"]))
        print(
            f"  The {winner} was paid {_tokens(sides[winner]['payout'])}, more than the "
            f"{_tokens(sides[winner]['collateral'])} that it put up."
        )
        stage.title("What an observer of the chain saw")
        await _observe(chain, contracts, {one.address: one.name for one in actors}, result)
    stage.title("The transcript, for the two parties")
    for line in _how_to_verify(result["transcript"], stage.home / "commands.log"):
        print(f"  {line}")
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stage.timings)
    print(f"\n  {time.monotonic() - stage.began:.1f} s in all: {spent}")


def _how_to_verify(transcript: str, commands: Path) -> list[str]:
    """The transcript's path, and commands that can be pasted."""
    file = shlex.quote(os.path.relpath(transcript))
    # `psymm` may not be on the PATH of the shell that ran `make demo`, but this interpreter exists.
    psymm = f"{shlex.quote(os.path.relpath(sys.executable))} -m psymm"
    return [
        file,
        f"verify it:  {psymm} transcript verify {file}",
        f"show it:    {psymm} transcript show {file}",
        f"every command of this run: {os.path.relpath(commands)}",
    ]


async def _observe(
    chain: Chain, contracts: Deployment, names: dict[str, str], result: dict[str, Any]
) -> None:
    """Print everything in the pool's events, and check that they contain no secret."""
    pool = contracts.pool(chain)
    events = {event.topic: event for event in pool.abi.events.values()}
    head = await chain.rpc.block_number()
    rows: dict[str, list[str]] = {}
    blob = bytearray()
    async for log in chain.logs(pool.address, [], contracts.first_block, head):
        event = events[log.topics[0]]
        values = event.decode(log.topics, log.data)
        blob += b"".join(log.topics) + log.data
        words = rows.setdefault(log.tx_hash, [])
        if event.name == "Deposited":
            words.append(f"{_name(values['from'], names)} deposits {_tokens(values['amount'])}")
        elif event.name == "NoteInserted":
            words.append(f"note {values['index']}")
        elif event.name == "NullifierSpent":
            words.append("a nullifier")
        elif event.name == "FeePaid":
            words.append(f"fee {_tokens(values['fee'])}")
        elif event.name == "Withdrawn":
            words.append(
                f"{_tokens(values['amount'])} leaves for {_name(values['recipient'], names)}"
            )
    transactions: list[dict[str, Any]] = []
    for number in range(contracts.first_block, head + 1):
        block = await chain.rpc.call("eth_getBlockByNumber", hex(number), True)
        transactions += block["transactions"]
    for sent in transactions:
        blob += bytes.fromhex(sent["input"][2:])
        if sent["hash"] in rows:
            sender = _name(sent["from"], names)
            print(
                f"  block {int(sent['blockNumber'], 16):>3}, sent by {sender}: "
                + ", ".join(rows[sent["hash"]])
            )
    secrets_of_both = {
        "custody id": bytes.fromhex(result["custody"][2:]),
        "terms hash": bytes.fromhex(result["verified"]["termsHash"][2:]),
        "account": bytes.fromhex(result["verified"]["account"][2:]),
    }
    found = [name for name, secret in secrets_of_both.items() if secret in blob]
    if found:
        raise DemoError(f"the chain shows the {', '.join(found)}")
    print(
        f"  In all {len(blob):,} bytes of calldata and events: no {', no '.join(secrets_of_both)}."
    )
    print("  Who traded with whom, what, at which price, and who won: not there.")


def _name(address: str, names: dict[str, str]) -> str:
    known = next((name for one, name in names.items() if one.lower() == address.lower()), None)
    return f"the {known}" if known else f"{address[:8]}…{address[-4:]}"


def main() -> int:
    """Run the demo and return its exit code."""
    text = os.environ.get("SEED", "1")
    if not text.isdigit():
        print("SEED must be a whole number", file=sys.stderr)
        return 2
    runs = Path(os.environ.get("PSYMM_RUNS", "runs")).resolve()
    runs.mkdir(parents=True, exist_ok=True)
    # Two demos may start in the same second. The directory gets mode 0700.
    home = Path(tempfile.mkdtemp(prefix=f"{datetime.now(UTC):%Y%m%d-%H%M%S}-", dir=runs))
    stage = Stage(home)
    print(f"pSymm: a private trade, from discovery to withdrawal. SEED={text}, files in {home}")
    code = 0
    try:
        trio.run(play, stage, int(text))
    except* DemoError as failed:
        code = 1
        for error in leaves(failed):
            print(f"\n  FAILED: {error}\n  Logs: {home}/*.log", file=sys.stderr)
    except* KeyboardInterrupt:
        code = 130
        print("\n  Interrupted; every process was ended.", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
