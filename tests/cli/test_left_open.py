"""The command line before and after collateral moves: what does not fit is refused while nothing
has moved, and whatever ends it afterwards, its last words say what stays open and how to go on."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_trade import MAKER, code_of, market, psymm

from psymm.demo import Actor, Amounts, _relayer, _service

pytestmark = [pytest.mark.chain, pytest.mark.proofs, pytest.mark.slow]

Line = dict[str, Any]


async def cut_short(
    actor: Actor, number: signal.Signals, when: Callable[[Line], bool], *arguments: str
) -> tuple[int, list[Line]]:
    """Exit code and lines of a command that is sent a signal once it has said something."""
    said: list[Line] = []
    async with actor._process(arguments, True, True) as (process, lines):
        async for line in lines:
            said.append(line)
            if when(line):
                process.send_signal(number)
        code = await process.wait()
    return code, said


async def available(actor: Actor) -> int:
    _, held = await psymm(actor, "notes")
    balances: Any = held["balances"]
    return int(balances[0]["available"])


async def test_what_does_not_fit_moves_nothing_and_what_stays_open_is_said(
    tmp_path: Path,
) -> None:
    async with market(tmp_path) as (stage, url, trader, relayer, solver):
        place = ("--deployment", str(tmp_path / "deployment.json"))
        run = partial(psymm, trader)
        trade = ("trade", *place, "--yes", "--collateral", "2000")
        named = ("--solver", solver.address)
        before = await available(trader)

        config = tmp_path / "solver.toml"
        config.write_text(MAKER.replace('put_up = "5000"', 'put_up = "90000000"'))
        async with (
            _relayer(stage, url, relayer),
            _service(stage, url, solver, "solver", "--config", str(config)),
        ):
            code, answer = await run(*trade, "--buy", "X=1")
            assert (code, code_of(answer)) == (1, "peer-refused"), answer
            assert "solver-funds-too-low" in str(answer)
            assert str(90_000_000 * 10**6) not in str(answer)

        config.write_text(MAKER)
        async with _service(stage, url, solver, "solver", "--config", str(config)):
            code, answer = await run(*trade, "--buy", "X=1")
            assert (code, code_of(answer)) == (5, "no-relayer"), answer
            async with _relayer(stage, url, relayer):
                for order, kind, words in (
                    ("X=1.05", "order-unfit", "off-lot"),
                    ("X=100000", "order-unfit", "notional-out-of-bounds"),
                    ("X=9000", "order-unfit", "margin"),
                    ("Y=1", "declined", "no such instrument"),
                ):
                    code, answer = await run(*trade, *named, "--buy", order)
                    assert (code, code_of(answer)) == (1, kind), answer
                    assert words in str(answer)
                assert await available(trader) == before
                listed = await trader.run("transcript", "list", unlock=False)
                assert listed["custodies"] == [], listed

                code, lines = await cut_short(
                    trader,
                    signal.SIGINT,
                    lambda line: line.get("event") == "funding",
                    *trade, "--buy", "X=1",
                )  # fmt: skip
                assert code == 130, lines
                (custody,) = {one["custody"] for one in lines if one.get("event") == "funding"}
                assert f"psymm trade --resume {custody}" in lines[-1]["error"]["message"]
                assert [one["state"] for one in lines if one.get("event") == "left-open"] == [
                    "funding"
                ]
                # The next command says so, too, and goes on with it: funded once.
                said: list[Line] = []
                code, left = await run(
                    "trade", "--resume", custody, "--yes", "--no-settle", said=said
                )
                assert (code, left["custody"]) == (0, custody), left
                assert custody in [
                    one["custody"] for one in said if one.get("event") == "still-open"
                ]

                code, lines = await cut_short(
                    trader,
                    signal.SIGTERM,
                    lambda line: line.get("event") == "hold",
                    *trade, "--buy", "X=1", "--hold", "600",
                )  # fmt: skip
                assert code == 130
                words = lines[-1]["error"]["message"]
                assert "open: 1 positions, 0 orders" in words
                (second,) = (one for one in lines if one.get("event") == "left-open")
                assert second["custody"] in words

                # An order is asked about here, too, with the price and the terms that it gets.
                said = []
                code, answer = await run(
                    "trade", "--resume", second["custody"], "--buy", "X=1", said=said
                )
                assert (code, code_of(answer)) == (2, "confirmation-needed")
                told = {str(one.get("event")): one for one in said}
                assert told["round-trip"]["quantity"] == "1"
                assert any("T = 10 s" in words for words in told["terms"]["words"])
                assert told["cost"]["action"] == "Ordering in that custody: buy 1 X"
                assert "trading" not in told

                scenario = tmp_path / "wrong.toml"
                scenario.write_text(
                    '[[step]]\ndo = "order"\nname = "a"\nsymbol = "X"\nside = "buy"\n'
                    'quantity = "1"\nexpect = "declined"\n'
                )
                code, answer = await run(
                    "trade", "--resume", second["custody"], "--yes", "--scenario", str(scenario)
                )
                assert (code, code_of(answer)) == (1, "unexpected")
                assert "open: 2 positions, 0 orders" in str(answer)

                for one in (custody, second["custody"]):
                    code, settled = await run("trade", "--resume", one, "--yes")
                    assert (code, settled.get("settled")) == (0, True), settled
                listed = await trader.run("transcript", "list", unlock=False)
        assert len(listed["custodies"]) == 2
        assert Amounts.of(1).trader_deposit * 10**6 - await available(trader) < 10 * 10**6
