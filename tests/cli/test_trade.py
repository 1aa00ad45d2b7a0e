"""Trading from the command line: a refusal moves nothing, and what was left open is resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from psymm.demo import Actor, Amounts, Stage, _chain, _relayer, _service, _set_up

pytestmark = [pytest.mark.chain, pytest.mark.proofs, pytest.mark.slow]

MAKER = f"""
token = "pUSD"
trader_minimum = "1000"
solver_minimum = "1000"
put_up = "5000"
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
    said: list[dict[str, object]] | None = None,
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
    async with _chain(stage, owner) as url:
        amounts = Amounts.of(1)
        await _set_up(stage, url, (owner, trader, relayer, solver, rival), amounts)
        (tmp_path / "solver.toml").write_text(MAKER)
        yield stage, url, trader, relayer, solver


async def test_refusals_move_nothing_and_a_session_left_open_is_resumed(tmp_path: Path) -> None:
    async with market(tmp_path) as (stage, url, trader, relayer, solver):
        place = ("--deployment", str(tmp_path / "deployment.json"))
        run = partial(psymm, trader)
        trade = ("trade", *place, "--buy", "X=10", "--yes")

        code, answer = await run(*trade, "--collateral", "2000")
        assert (code, code_of(answer)) == (5, "no-solver")

        config = ("--config", str(tmp_path / "solver.toml"), "--metrics", "127.0.0.1:0")
        async with (
            _relayer(stage, url, relayer),
            _service(stage, url, solver, "solver", *config) as ready,
        ):
            code, answer = await run(*trade, "--collateral", "999")
            assert (code, code_of(answer)) == (1, "peer-refused")
            code, answer = await run(*trade, "--collateral", "20000000")
            assert (code, code_of(answer)) == (8, "funds-too-low")
            stranger = "0x" + "77" * 20
            code, answer = await run(*trade, "--collateral", "2000", "--solver", stranger)
            assert (code, code_of(answer)) == (5, "not-registered")
            code, answer = await run("trade", *place, "--buy", "X=10", "--collateral", "2000")
            assert (code, code_of(answer)) == (2, "confirmation-needed")

            _, held = await run("notes")
            balances = held["balances"]
            assert isinstance(balances, list)
            assert balances[0]["available"] == str(Amounts.of(1).trader_deposit * 10**6)

            said: list[dict[str, object]] = []
            code, left = await run(*trade, "--collateral", "2000", "--no-settle", said=said)
            assert (code, left["settled"]) == (0, False), left
            custody = str(left["custody"])
            (told,) = (one for one in said if one.get("event") == "holding-back")
            assert told["acknowledgementNs"] == str(10 * 10**9)
            async with httpx.AsyncClient(trust_env=False) as client:
                scraped = (
                    await client.get(f"http://127.0.0.1:{ready['metricsPort']}/metrics")
                ).text
            samples = {
                (one.name, one.labels.get("direction")): one.value
                for family in text_string_to_metric_families(scraped)
                for one in family.samples
            }
            assert samples["psymm_frames_total", "in"] > 0
            assert custody[2:10] not in scraped
            said = []
            show = ("transcript", "show", "--custody", custody)
            code, shown = await run(*show, said=said, unlock=False)
            assert code == 0, shown
            # What the solver still sent while the command ended is in the journal, too.
            frames: Any = shown["frames"]
            assert frames >= left["frames"]
            assert isinstance(shown["account"], str)
            assert {one["state"] for one in said if one.get("event") == "state"} >= {"trading"}
            code, answer = await run("trade", "--resume", "0xff", "--yes")
            assert (code, code_of(answer)) == (2, "no-such-custody")
            code, settled = await run("trade", "--resume", custody, "--yes")
            assert (code, settled["settled"], settled["custody"]) == (0, True, custody), settled

        recipient = "0x" + "55" * 20
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
