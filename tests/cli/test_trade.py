"""Trading from the command line, in one market: what does not fit is refused while nothing has
moved, and whatever ends a trade early, at whatever moment, its last words say what stays open and
give the command that goes on with it, which does."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

sys.path.insert(0, str(Path(__file__).parent.parent / "chain"))

from faulty_node import open_faulty_node

from psymm.demo.documents import Amounts
from psymm.demo.play import open_chain, run_relayer, run_service, set_up
from psymm.demo.stage import Actor, Stage

pytestmark = [pytest.mark.chain, pytest.mark.proofs, pytest.mark.slow]

MAKER = f"""
token = "pUSD"
trader_minimum = "1000"
solver_minimum = "1000"
collateral = "5000"
relayer_cap = "1"
end_date = {(datetime.now(UTC) + timedelta(days=300)).date()}
spread_bps = "10"
[feed]
kind = "constant"
[[instrument]]
symbol = "X"
price = "100"
tick = "0.01"
lot = "0.1"
"""


async def psymm(
    actor: Actor,
    *arguments: str,
    said: list[dict[str, Any]] | None = None,
    unlock: bool = True,
) -> tuple[int, dict[str, object]]:
    """Exit code and last JSON line of one command of a party. said: gets all lines. unlock: the
    command takes the password."""
    read, write = os.pipe()
    os.write(write, actor.password.encode())
    os.close(write)
    try:
        ran = await trio.run_process(
            [
                sys.executable, "-m", "psymm", *arguments, "--json",
                "--home", str(actor.home), *(("--password-fd", str(read)) if unlock else ()),
            ],
            pass_fds=[read],
            stdin=subprocess.DEVNULL,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )  # fmt: skip
    finally:
        os.close(read)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    if said is not None:
        said += lines
    last = lines[-1]
    assert isinstance(last, dict)
    return ran.returncode, last


def code_of(answer: dict[str, object]) -> object:
    error = answer["error"]
    assert isinstance(error, dict)
    return error["code"]


@asynccontextmanager
async def market(tmp_path: Path) -> AsyncIterator[tuple[Stage, str, Actor, Actor, Actor]]:
    """A chain, a relayer's and a solver's wallets, and a trader with money; nothing serves yet."""
    stage = Stage(tmp_path)
    owner, trader, relayer, solver, rival = (
        Actor(stage, name) for name in ("owner", "trader", "relayer", "solver", "rival")
    )
    async with open_chain(stage, owner) as url:
        amounts = Amounts.of(1)
        await set_up(stage, url, (owner, trader, relayer, solver, rival), amounts)
        (tmp_path / "solver.toml").write_text(MAKER)
        yield stage, url, trader, relayer, solver


@dataclass
class Ended:
    """A command that was cut off. said: its lines; err: its standard error."""

    code: int
    said: list[dict[str, Any]]
    err: str

    def named(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.said if one.get("event") == event]

    @property
    def error(self) -> dict[str, Any]:
        error = self.said[-1]["error"]
        assert isinstance(error, dict)
        return error


Cut = Callable[[trio.Process], Awaitable[None]]


def signals(*numbers: signal.Signals) -> Cut:
    async def send(process: trio.Process) -> None:
        for number in numbers:
            process.send_signal(number)

    return send


async def cut_short(actor: Actor, at: str, cut: Cut, *arguments: str) -> Ended:
    """Runs a command and cuts it as soon as it says the event, or is in the state, `at`."""
    said: list[dict[str, Any]] = []
    log = actor.stage.home / f"{actor.name}.log"
    before = log.stat().st_size if log.exists() else 0
    waiting = True
    at_home = "--home" not in arguments
    async with actor._process(arguments, True, at_home) as (process, lines):
        async for line in lines:
            said.append(line)
            if waiting and at in (line.get("event"), line.get("state")):
                waiting = False
                await cut(process)
        code = await process.wait()
    assert not waiting, said
    return Ended(code, said, log.read_bytes()[before:].decode())


async def available(actor: Actor) -> int:
    _, held = await psymm(actor, "notes")
    balances: Any = held["balances"]
    return int(balances[0]["available"])


def trade(tmp_path: Path, *more: str) -> tuple[str, ...]:
    place = ("--deployment", str(tmp_path / "deployment.json"))
    return ("trade", *place, "--yes", "--collateral", "2000", *more)


async def test_refusals_move_nothing_and_what_ends_early_goes_on_by_the_command_it_names(
    tmp_path: Path,
) -> None:
    async with market(tmp_path) as (stage, url, trader, relayer, solver):
        run, config = partial(psymm, trader), tmp_path / "solver.toml"
        serving = (stage, url, solver, "solver", "--config", str(config))

        code, answer = await run(*trade(tmp_path, "--buy", "X=10"))
        assert (code, code_of(answer)) == (5, "no-solver")
        config.write_text(MAKER.replace('collateral = "5000"', 'collateral = "90000000"'))
        async with run_relayer(stage, url, relayer), run_service(*serving):
            code, answer = await run(*trade(tmp_path, "--buy", "X=1"))
            assert (code, code_of(answer)) == (1, "peer-refused"), answer
            assert "solver-funds-too-low" in str(answer)
            assert str(90_000_000 * 10**6) not in str(answer)
        config.write_text(MAKER)
        async with run_service(*serving, "--metrics", "127.0.0.1:0") as ready:
            code, answer = await run(*trade(tmp_path, "--buy", "X=1"))
            assert (code, code_of(answer)) == (5, "no-relayer"), answer
            async with run_relayer(stage, url, relayer):
                await refused(trader, solver, tmp_path)
                custody = await interrupted(trader, tmp_path)
                await watched(trader, custody, int(ready["metricsPort"]))
        async with run_relayer(stage, url, relayer):
            await solver_gone(trader, custody, tmp_path, serving)
            async with run_service(*serving):
                await settled_in_the_end(trader, custody, url)
        listed = await trader.run("transcript", "list", unlock=False)
        assert len(listed["custodies"]) == 1
        assert Amounts.of(1).trader_deposit * 10**6 - await available(trader) < 10 * 10**6
        await withdrawn(trader)


async def refused(trader: Actor, solver: Actor, tmp_path: Path) -> None:
    run, before = partial(psymm, trader), await available(trader)
    assert before == Amounts.of(1).trader_deposit * 10**6
    for more, exit, kind, words in (
        (("--buy", "X=1.05"), 1, "order-unfit", "off-lot"),
        (("--buy", "X=100000"), 1, "order-unfit", "notional-out-of-bounds"),
        (("--buy", "X=9000"), 1, "order-unfit", "margin"),
        (("--buy", "Y=1"), 1, "declined", "no such instrument"),
        (("--buy", "X=10", "--collateral", "999"), 1, "peer-refused", ""),
        (("--buy", "X=10", "--collateral", "20000000"), 8, "funds-too-low", ""),
        (("--buy", "X=10", "--solver", "0x" + "77" * 20), 5, "not-registered", ""),
    ):
        named = () if "--solver" in more else ("--solver", solver.address)
        code, answer = await run(*trade(tmp_path, *named, *more))
        assert (code, code_of(answer)) == (exit, kind), answer
        assert words in str(answer)
    place = ("--deployment", str(tmp_path / "deployment.json"))
    code, answer = await run("trade", *place, "--buy", "X=10", "--collateral", "2000")
    assert (code, code_of(answer)) == (2, "confirmation-needed")
    assert await available(trader) == before
    listed = await trader.run("transcript", "list", unlock=False)
    assert listed["custodies"] == [], listed


async def interrupted(trader: Actor, tmp_path: Path) -> str:
    """At each step up to a position that is held: one custody, which is funded once."""
    ended = await cut_short(
        trader, "chosen", signals(signal.SIGTERM), *trade(tmp_path, "--buy", "X=1")
    )
    assert (ended.code, ended.named("left-open")) == (130, [])

    ended = await cut_short(
        trader, "funding", signals(signal.SIGINT), *trade(tmp_path, "--buy", "X=1")
    )
    (custody,) = (str(one["custody"]) for one in ended.named("funding"))
    resume_command = named_by(ended, 130, custody, "funding")

    # In a custody that goes on, too, the price and the terms are told before an order is asked
    # about; and that it is still open, before all.
    ended = await run_on(trader, *resume_command, "--buy", "X=1")
    assert (ended.code, ended.error["code"]) == (2, "confirmation-needed")
    assert custody in [one["custody"] for one in ended.named("still-open")]
    assert ended.named("round-trip")[0]["quantity"] == "1"
    assert any("T = 10 s" in words for words in ended.named("terms")[0]["words"])
    assert ended.named("cost")[0]["action"] == "Ordering in that custody: buy 1 X"
    assert not ended.named("trading")

    # Between a quote and its fill.
    ended = await cut_short(
        trader, "quote", signals(signal.SIGTERM), *resume_command, "--yes", "--buy", "X=1"
    )
    assert ended.named("holding-back")[0]["acknowledgementNs"] == str(10 * 10**9)
    resume_command = named_by(ended, 130, custody, "open")

    # A second signal does not wait for a goodbye, and says how to go on, too.
    ended = await cut_short(
        trader, "hold", signals(signal.SIGINT, signal.SIGTERM),
        *resume_command, "--yes", "--buy", "X=1", "--hold", "600",
    )  # fmt: skip
    assert (ended.code, ended.said[-1]["event"]) == (130, "hold")
    assert f"`{shlex.join(('psymm', *resume_command))}`" in ended.err

    scenario = tmp_path / "wrong.toml"
    scenario.write_text(
        '[[step]]\ndo = "order"\nname = "a"\nsymbol = "X"\nside = "buy"\n'
        'quantity = "1"\nexpect = "declined"\n'
    )
    ended = await run_on(trader, *resume_command, "--yes", "--scenario", str(scenario))
    assert ended.error["code"] == "unexpected"
    assert named_by(ended, 1, custody, "open") == resume_command
    assert "0 orders" in ended.error["message"]

    ended = await run_on(trader, *resume_command, "--no-settle")
    left = ended.said[-1]
    assert (ended.code, left["settled"]) == (0, False)
    assert shlex.split(left["resumeWith"])[1:] == list(resume_command)
    said: list[dict[str, Any]] = []
    show = ("transcript", "show", "--custody", custody)
    code, shown = await psymm(trader, *show, said=said, unlock=False)
    assert (code, shown["frames"]) == (0, left["frames"]), shown
    assert isinstance(shown["account"], str)
    assert {one["state"] for one in said if one.get("event") == "state"} >= {"trading"}
    return custody


async def watched(trader: Actor, custody: str, metrics_port: int) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        scraped = (await client.get(f"http://127.0.0.1:{metrics_port}/metrics")).text
    samples = {
        (one.name, one.labels.get("direction")): one.value
        for family in text_string_to_metric_families(scraped)
        for one in family.samples
    }
    assert samples["psymm_frames_total", "in"] > 0
    assert custody[2:10] not in scraped
    code, answer = await psymm(trader, "trade", "--resume", "0xff", "--yes")
    assert (code, code_of(answer)) == (2, "no-such-custody")


async def solver_gone(
    trader: Actor, custody: str, tmp_path: Path, serving: tuple[Any, ...]
) -> None:
    """A solver that dies while a position is held."""
    scenario = tmp_path / "gone.toml"
    scenario.write_text(
        '[[step]]\ndo = "order"\nname = "a"\nsymbol = "X"\nside = "buy"\nquantity = "1"\n'
        '[[step]]\ndo = "hold"\nseconds = 0.0\n'
        '[[step]]\ndo = "close"\nof = "a"\nexpires_in_s = 0.5\n'
    )
    async with AsyncExitStack() as alive:
        ready = await alive.enter_async_context(run_service(*serving))

        async def kill(_process: trio.Process) -> None:
            os.kill(int(ready["pid"]), signal.SIGKILL)

        ended = await cut_short(
            trader, "hold", kill,
            "trade", "--home", str(trader.home), "--resume", custody, "--yes",
            "--scenario", str(scenario),
        )  # fmt: skip
    named_by(ended, 5, custody, "open")
    assert "positions, 0 orders" in ended.error["message"]


async def settled_in_the_end(trader: Actor, custody: str, url: str) -> None:
    """A node that dies, and signals, while the settlement is made: each time the command that is
    named goes on."""
    home = ("--home", str(trader.home))
    async with AsyncExitStack() as alive:
        node = await alive.enter_async_context(open_faulty_node(url))

        async def stop(_process: trio.Process) -> None:
            await alive.aclose()

        resumed = ("trade", *home, "--resume", custody, "--rpc", node.url)
        ended = await cut_short(trader, "settling", stop, *resumed)
    resume_command = named_by(ended, 3, custody)
    # The node was for this command only; the one that comes next has the home's again.
    assert resume_command[-2:] == ("--rpc", node.url)
    assert "nothing is lost" in ended.error["message"].lower()
    # With that node there is nothing to be opened; what is open is said all the same.
    ended = await run_on(trader, *resume_command)
    assert named_by(ended, 3, custody) == resume_command
    assert ended.error["code"] == "chain-down"
    assert "Nothing is lost" in ended.error["message"]
    assert "0 positions, 0 orders" in ended.error["message"]
    code, answer = await psymm(trader, "deposit", "1", "--yes", "--rpc", node.url)
    assert (code, code_of(answer)) == (3, "chain-down")
    assert "Once the chain answers, go on with `psymm deposit 1" in str(answer)
    resume_command = resume_command[:-2]
    ended = await cut_short(trader, "settling", signals(signal.SIGINT), *resume_command)
    assert named_by(ended, 130, custody) == resume_command
    ended = await run_on(trader, *resume_command)
    assert (ended.code, ended.said[-1].get("settled")) == (0, True), ended.said
    assert ended.said[-1]["custody"] == custody
    ended = await run_on(trader, *resume_command)
    assert (ended.code, ended.error["code"]) == (1, "session-closed")


async def withdrawn(trader: Actor) -> None:
    run, recipient = partial(psymm, trader), "0x" + "55" * 20
    code, answer = await run("withdraw", f"{recipient}=99999999", "--yes")
    assert (code, code_of(answer)) == (8, "funds-too-low")
    code, answer = await run("withdraw", f"{recipient}=100", "--yes")
    assert (code, code_of(answer)) == (5, "no-relayer")
    code, done = await run("withdraw", f"{recipient}=100", "--direct", "--yes")
    assert code == 0
    parts = done["parts"]
    assert isinstance(parts, list)
    assert [(one["fee"], one["received"]) for one in parts] == [("0", "100000000")]

    _, kept = await run("notes")
    _, rebuilt = await run("notes", "--rebuild")
    spendable = [one for one in _notes(kept) if one["status"] == "unspent"]
    again = [one for one in _notes(rebuilt) if one["status"] == "unspent" and one["sole"]]
    assert [one["commitment"] for one in again] == [one["commitment"] for one in spendable]


def named_by(ended: Ended, code: int, custody: str, state: str | None = None) -> tuple[str, ...]:
    """The arguments of the command that continues; error and event name the same ones."""
    assert ended.code == code, ended.said
    (left,) = ended.named("left-open")
    assert left["custody"] == custody
    assert state in (None, left["state"]), left
    assert f"Go on with: `{left['resumeWith']}`" in ended.error["message"]
    name, *words = shlex.split(left["resumeWith"])
    assert name == "psymm"
    return tuple(words)


async def run_on(trader: Actor, *arguments: str) -> Ended:
    return await cut_short(trader, "started", signals(), *arguments)


def _notes(answer: dict[str, object]) -> list[dict[str, object]]:
    notes = answer["notes"]
    assert isinstance(notes, list)
    return notes


def test_the_amounts_of_a_seed_are_its_own() -> None:
    assert Amounts.of(5) == Amounts.of(5)
    assert len({Amounts.of(seed) for seed in range(20)}) > 15
    assert all(
        one.first_day < datetime(2018, 4, 15, tzinfo=UTC) for one in map(Amounts.of, range(50))
    )
