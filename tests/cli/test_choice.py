"""The policy on the command line: limits as a file, and what is shown before a person agrees."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from psymm._core import SecretKey
from psymm.api import Indicative, Offer, Ranking, SolverPolicy, TraderPolicy, round_trip
from psymm.chain.registry import RegistryEntry, Role
from psymm.cli.choice import Choice
from psymm.cli.exit_status import CommandError
from psymm.cli.output import Screen
from psymm.cli.policy import load_policy, solver_policy
from psymm.cli.scenario import Step, Trading, single_trades
from psymm.cli.trade import trade
from psymm.errors import NoSolver, PolicyRefused
from psymm.messages import Side
from psymm.terms import UNIT, ChainRef, CollateralTerms, Instrument, Rates, Tariff, Terms

TOKEN = "0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0"
RATES = Rates(cva=UNIT // 200, lf=UNIT // 200, mm=UNIT // 50)


def terms(**changes: Any) -> Terms:
    each = Instrument(
        symbol="X",
        tick=UNIT // 100,
        lot=UNIT // 10,
        min_notional=UNIT,
        max_notional=1_000_000 * UNIT,
        max_leverage=20 * UNIT,
        trader=RATES,
        solver=RATES,
        open_fee=UNIT // 1000,
        feed="X",
    )
    return Terms(
        chain=ChainRef(id=31337, psymm=TOKEN, registry=TOKEN),
        collateral=CollateralTerms(token=TOKEN, decimals=6, trader_minimum=1, solver_minimum=1),
        instruments=(replace(each, **changes),),
        end_date=1_900_000_000 * 10**9,
        tariff=Tariff(relayer_cap=50_000),
    )


def party(at: int) -> RegistryEntry:
    key = SecretKey.generate()
    return RegistryEntry(key.address, Role.SOLVER, f"wss://solver{at}.example/", key.public_key, 0)


# --- limits as a file --------------------------------------------------------------------------


def test_a_file_sets_the_limits_that_it_names(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(
        'open_fee = "0.0005"\nacknowledgement_s = 5\nsymmetric_margin = false\n'
        f'oracle_signers = ["{TOKEN}"]\n[feeds]\nX = "sp500:Close"\n'
    )
    found = load_policy(file, None)
    assert found == TraderPolicy(
        open_fee="0.0005",
        acknowledgement_s=5,
        symmetric_margin=False,
        oracle_signers=[TOKEN],
        feeds={"X": "sp500:Close"},
    )
    assert load_policy(None, None) == TraderPolicy()
    assert load_policy(file, "0.004").round_trip_fee == "0.004"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('open_fees = "1"', "open_fees"),
        ('token = "X"', "token"),
        ("open_fee = 0.001", "open_fee"),
        ('open_fee = "much"', "much"),
        ('open_fee = "-1"', "open_fee"),
        ('skew_s = "2"', "skew_s"),
        ("oracle_signers = [1]", "oracle_signers"),
        ('feeds = "X"', "feeds"),
        ("open_fee = ", "TOML"),
    ],
)
def test_a_limit_that_cannot_be_read_is_named(text: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    with pytest.raises(CommandError, match=named) as refused:
        load_policy(file, None)
    assert refused.value.code == "bad-policy"


def test_a_makers_table_says_whom_it_trades_with() -> None:
    assert solver_policy({}) == SolverPolicy()
    assert solver_policy({"least": "5", "ratio": "1", "traders": [TOKEN]}) == SolverPolicy(
        least="5", ratio="1", traders=[TOKEN]
    )
    for wrong in ({"lest": "5"}, {"least": 5}, {"ratio": "x"}, {"traders": TOKEN}, []):
        with pytest.raises(CommandError) as refused:
            solver_policy(wrong)
        assert refused.value.code == "bad-policy"


def test_a_share_out_of_form_is_a_matter_of_usage() -> None:
    for wrong in ("-0.1", "much", "NaN"):
        ran = CliRunner().invoke(trade, ["--slippage", wrong, "--buy", "X=1", "--collateral", "1"])
        assert ran.exit_code == 2


# --- what is shown -----------------------------------------------------------------------------


class Solvers:
    """A client that knows some solvers."""

    def __init__(self, *entries: RegistryEntry) -> None:
        self.entries = list(entries)

    async def solvers(self) -> list[RegistryEntry]:
        return self.entries

    async def solver(self, account: str) -> RegistryEntry:
        return next(one for one in self.entries if one.account == account)


def offer(entry: RegistryEntry, made: Terms, bid: str, ask: str) -> Offer:
    indicative = Indicative("X", Decimal(bid), Decimal(ask))
    cost = round_trip(made.instruments[0], Side.BUY, 1, bid, ask)
    return Offer(entry, made, indicative, Decimal(ask), Decimal(ask), cost)


@asynccontextmanager
async def chosen(
    monkeypatch: pytest.MonkeyPatch, ranking: Ranking, *, as_json: bool = False
) -> AsyncIterator[tuple[Choice, io.StringIO, list[TraderPolicy]]]:
    asked: list[TraderPolicy] = []

    async def answer(*given: Any, policy: TraderPolicy, **named: Any) -> Ranking:
        asked.append(policy)
        return ranking

    monkeypatch.setattr("psymm.api.choosing.best_solver", answer)
    out = io.StringIO()
    entries = [one.entry for one in ranking.offers]
    client: Any = Solvers(*entries)
    yield (
        Choice(Screen(as_json, out), client, TraderPolicy(token=TOKEN), "2000", None, False),
        out,
        asked,
    )


async def test_the_cost_of_a_round_trip_and_the_terms_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    best = offer(party(1), terms(), "99.9", "100.1")
    async with chosen(monkeypatch, Ranking((best,), ())) as (choice, out, asked):
        found, shown = await choice.make(single_trades(["X=10"], [], 0), None)
    assert found is best
    assert shown == {"X": best.indicative}
    assert asked == [choice.policy]
    said = out.getvalue()
    # 10 · (0.2 + 0.1001)
    assert "to buy 10 X and to close it at the prices shown costs 3.001" in said
    for part in ("0.2998 % of the notional", "penalty reserve", "by nobody but the solver", "T = "):
        assert part in said
    assert best.terms.hash.hex() in said


async def test_a_program_gets_the_same_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    best = offer(party(1), terms(), "99.9", "100.1")
    async with chosen(monkeypatch, Ranking((best,), ()), as_json=True) as (choice, out, _):
        await choice.make(single_trades([], ["X=10"], 0), None)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    told = {line["event"]: line for line in lines}
    assert told["round-trip"]["cost"] == "2.999"
    assert told["terms"]["termsHash"] == "0x" + best.terms.hash.hex()
    assert any("end date" in words for words in told["terms"]["words"])


async def test_who_breaks_the_policy_is_told_with_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rogue = party(2)
    why = PolicyRefused("X\x1b[2J: openFee", "0.6", "at most 0.002")
    ranking = Ranking((), ((rogue.account, why),))
    async with chosen(monkeypatch, ranking) as (choice, out, _):
        with pytest.raises(NoSolver):
            await choice.make(single_trades(["X=1"], [], 0), None)
    assert "at most 0.002" in out.getvalue()
    assert "\x1b" not in out.getvalue()


async def test_a_solver_that_was_named_and_will_not_do_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    best = offer(party(1), terms(), "99.9", "100.1")
    why = PolicyRefused("openFee", "0.6", "at most 0.002")
    ranking = Ranking((best,), ((best.entry.account, why),))
    async with chosen(monkeypatch, ranking) as (choice, _, _):
        with pytest.raises(PolicyRefused):
            await choice.make(single_trades(["X=1"], [], 0), best.entry.account)


# --- the quote ----------------------------------------------------------------------------------


class Session:
    """A session whose solver quotes any price."""

    custody = bytes(32)

    def __init__(self, bid: str, ask: str) -> None:
        self.quote = SimpleNamespace(bid=Decimal(bid), ask=Decimal(ask))
        self.sent = 0

    async def request_quote(self, *given: Any) -> Any:
        return self.quote

    async def indicative(self, *given: Any) -> Indicative:
        return Indicative("X", self.quote.bid, self.quote.ask)

    @property
    def terms(self) -> Terms:
        return terms()

    @property
    def account(self) -> Any:
        held = SimpleNamespace(
            position_id=b"1", symbol="X", side=Side.BUY, quantity=UNIT, entry_price=100 * UNIT
        )
        return SimpleNamespace(positions={b"1": held})

    async def order(self, *given: Any, **named: Any) -> Any:
        self.sent += 1
        raise NoSolver("the test ends here")

    close = order


@pytest.mark.parametrize(
    ("side", "bid", "ask", "sent"),
    [
        ("buy", "99", "105.105", True),
        ("buy", "99", "105.106", False),
        ("sell", "94.905", "200", True),
        ("sell", "94.904", "100", False),
        ("buy", "1", "2", True),
    ],
)
async def test_a_quote_is_hit_only_near_the_price_that_was_agreed_to(
    side: str, bid: str, ask: str, sent: bool
) -> None:
    session: Any = Session(bid, ask)
    agreed = {"X": Indicative("X", Decimal("99.9"), Decimal("100.1"))}
    trading = Trading(session, Screen(True, io.StringIO()), agreed, Decimal("0.05"))
    step = Step("order", symbol="X", side=side, quantity=Decimal(1))
    if sent:
        with pytest.raises(NoSolver):
            await trading.run([step])
    else:
        with pytest.raises(CommandError, match="slippage") as refused:
            await trading.run([step])
        assert refused.value.code == "quote-worse"
    assert session.sent == int(sent)


@pytest.mark.parametrize("agreed", [{}, {"X": Indicative("X", None, Decimal(100))}])
@pytest.mark.parametrize(("bid", "sent"), [("95", True), ("94.9", False), ("0.01", False)])
async def test_a_close_that_nobody_saw_a_price_for_is_held_against_the_entry(
    bid: str, sent: bool, agreed: dict[str, Indicative]
) -> None:
    """In a resumed session, and with a solver that showed only one side (spec.md 62)."""
    session: Any = Session(bid, "100")
    trading = Trading(session, Screen(True, io.StringIO()), agreed, Decimal("0.05"))
    refused = NoSolver if sent else CommandError
    with pytest.raises(refused, match=r"test ends|opened at 100"):
        await trading.close_all()
    assert session.sent == int(sent)


async def test_a_limit_is_not_reckoned_from_a_price_that_nobody_agreed_to() -> None:
    session: Any = Session("1000", "1001")
    agreed = {"X": Indicative("X", Decimal("99.9"), Decimal("100.1"))}
    trading = Trading(session, Screen(True, io.StringIO()), agreed, Decimal("0.05"))
    step = Step("order", symbol="X", side="buy", quantity=Decimal(1), limit_bps=Decimal(10))
    with pytest.raises(CommandError) as refused:
        await trading.run([step])
    assert (refused.value.code, session.sent) == ("quote-worse", 0)


async def test_an_order_in_a_session_that_goes_on_is_held_against_what_is_shown_first() -> None:
    session: Any = Session("99", "100")
    out = io.StringIO()
    trading = Trading(session, Screen(True, out), None, Decimal("0.05"))
    step = Step("order", symbol="X", side="buy", quantity=Decimal(1))
    with pytest.raises(NoSolver):
        await trading.run([step])
    assert '"event": "shown"' in out.getvalue() or '"event":"shown"' in out.getvalue()
    session.quote = SimpleNamespace(bid=Decimal(200), ask=Decimal(201))
    with pytest.raises(CommandError) as refused:
        await trading.run([step])
    assert (refused.value.code, session.sent) == ("quote-worse", 1)
