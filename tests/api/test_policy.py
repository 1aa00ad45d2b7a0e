"""What a party accepts (spec.md 62): a rogue solver's terms, one by one, and a solver's traders.

This file is long because a policy has many limits, and each is shown where it is kept: alone, in
words, at a handshake, at discovery.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from market import Maker, entry_of, market
from session_scene import PSYMM, SECOND, START_NS, TOKEN, Scene, make_terms, scene
from trio.testing import MockClock

from psymm.api import (
    BUY,
    SELL,
    Prices,
    SolverPolicy,
    TraderPolicy,
    best_solver,
    connect,
    own_terms_in_words,
    round_trip,
    terms_in_words,
)
from psymm.chain.deployment import TokenInfo
from psymm.errors import (
    HandshakeRefused,
    NoSolver,
    PeerRefused,
    PolicyRefused,
    PSymmError,
    TermsChanged,
    TokenDiffers,
    TokenUnnamed,
)
from psymm.session.protocol import SessionStatus
from psymm.terms import (
    UNIT,
    Instrument,
    Limits,
    Oracle,
    Rates,
    Tariff,
    Terms,
    TermsUnsound,
    Timeouts,
)
from psymm.wallet import KeyWallet

OTHER = "0x2260FAC5E5542a773Aa44fBCfeDf7C193bc2C599"
YEAR = 365 * 86_400 * SECOND
COLLATERAL = 2_000_000_000
HOUR = 3600 * SECOND
NAMED = TraderPolicy(token=TOKEN, decimals=6)


def instrument(**changes: Any) -> Instrument:
    (first, _) = make_terms().instruments
    return replace(first, **changes)


def one(**changes: Any) -> dict[str, Any]:
    return {"instruments": (instrument(**changes),)}


def collateral(**changes: Any) -> dict[str, Any]:
    return {"collateral": replace(make_terms().collateral, **changes)}


def times(**changes: Any) -> dict[str, Any]:
    return {"timeouts": replace(Timeouts(), **changes)}


SIGNERS = tuple(KeyWallet.generate().address for _ in range(4))
WIDE = Rates(cva=UNIT // 10, lf=UNIT // 10, mm=UNIT // 5)
THIN = Rates(cva=0, lf=0, mm=1)

ROGUE: dict[str, tuple[dict[str, Any], str]] = {
    "60 % on opening, 99 % on closing": (
        one(open_fee=UNIT * 60 // 100, close_fee=UNIT * 99 // 100),
        "openFee",
    ),
    "all of the fee on closing": (one(open_fee=0, close_fee=UNIT // 100), "closeFee"),
    "each fee just within its limit": (
        one(open_fee=UNIT // 500, close_fee=UNIT // 500),
        "openFee + closeFee",
    ),
    "a fee that the trader is to receive": (
        one(open_fee=UNIT // 2, fee_receiver="trader"),
        "openFee",
    ),
    "a fee on an instrument that nobody asked for": (
        {"instruments": (instrument(), instrument(symbol="X", feed="X", open_fee=UNIT // 2))},
        "X: openFee",
    ),
    "another token": (collateral(token=OTHER), "collateral.token"),
    "other decimals": (collateral(decimals=8), "collateral.decimals"),
    "the minimum is all reserve": (
        collateral(trader_minimum=COLLATERAL, trader_reserve=COLLATERAL),
        "traderReserve",
    ),
    "a reserve of a fifth": (
        collateral(trader_minimum=COLLATERAL, trader_reserve=COLLATERAL // 5),
        "traderReserve",
    ),
    "funding takes everything in a day": (one(funding_cap=UNIT), "fundingCap"),
    "a small funding every second": (
        one(funding_cap=UNIT // 1000, funding_epoch=SECOND, funding_window=SECOND),
        "fundingCap",
    ),
    "a funding window of a day": (
        one(
            funding_cap=1,
            funding_epoch=24 * HOUR,
            funding_window=24 * HOUR,
        ),
        "fundingWindow",
    ),
    "no price band": ({"limits": Limits(price_band=10 * UNIT)}, "priceBand"),
    "a forced close at half the price": ({"force_close_gap": UNIT // 2}, "forceCloseGap"),
    "an end date in a minute": ({"end_date": START_NS + 60 * SECOND}, "endDate"),
    "an end date that is past": ({"end_date": START_NS - YEAR}, "endDate"),
    "an end date in a hundred years": ({"end_date": START_NS + 100 * YEAR}, "endDate"),
    "an end date at the end of time": ({"end_date": 2**64 - 1}, "endDate"),
    "a leverage of a thousand": (one(max_leverage=1000 * UNIT), "maxLeverage"),
    "margins that lock a third": (one(trader=WIDE, solver=WIDE), "CVA + LF + MM"),
    "a liquidation that takes a tenth": (
        one(
            trader=Rates(cva=UNIT // 20, lf=UNIT // 20, mm=UNIT // 10),
            solver=Rates(cva=UNIT // 20, lf=UNIT // 20, mm=UNIT // 10),
        ),
        "CVA + LF",
    ),
    "a solver that locks nothing": (one(solver=THIN), "the solver's CVA"),
    "T of an hour": (times(acknowledgement=HOUR), "timeouts.acknowledgement"),
    "a skew of a minute": (
        times(acknowledgement=30 * SECOND, skew=29 * SECOND),
        "timeouts.skew",
    ),
    "a heartbeat of a day": (times(heartbeat=24 * HOUR), "timeouts.heartbeat"),
    "a settlement that never dies": (times(settlement=24 * HOUR), "timeouts.settlement"),
    "a settlement that dies at once": (times(settlement=SECOND), "timeouts.settlement"),
    "a forced cancel after a day": (
        times(force_cancel_cooldown=24 * HOUR),
        "timeouts.forceCancelCooldown",
    ),
    "a forced close after a day": (
        times(force_close_cooldown=24 * HOUR),
        "timeouts.forceCloseCooldown",
    ),
    "a custody that never idles": (times(idle_end=10 * YEAR), "timeouts.idleEnd"),
    "a relayer that takes all": (
        {"tariff": Tariff(relayer_cap=COLLATERAL)},
        "tariff.relayerCap",
    ),
    "evidence that costs all": (
        {"tariff": Tariff(evidence_byte=10_000, relayer_cap=50_000)},
        "tariff",
    ),
    "a notice that costs all": (
        {"tariff": Tariff(notice=COLLATERAL, relayer_cap=50_000)},
        "tariff",
    ),
    "events that never count": (
        {"chain": replace(make_terms().chain, confirmations=1_000_000)},
        "chain.confirmations",
    ),
    "one signer, nobody's but the solver's": (
        {"oracle": Oracle(signers=SIGNERS[:1], threshold=1)},
        "oracle.signers",
    ),
    "a lane of four frames": ({"limits": Limits(frames=4)}, "limits.frames"),
    "a lane of a few bytes": ({"limits": Limits(bytes=1000)}, "limits.bytes"),
    "quotes that die on their way": (times(quote_life=1), "timeouts.quoteLife"),
    "one frame a second": ({"limits": Limits(frames_per_second=1)}, "limits.framesPerSecond"),
    "a symbol in other letters": (one(symbol="ВTC-USD"), "symbol"),
    "a symbol that clears the screen": (one(symbol="BTC-USD\x1b[2J"), "symbol"),
    "a symbol that turns the line round": (one(symbol="BTC-USD\u202e"), "symbol"),
    "a feed that clears the screen": (one(feed="\x1b]0;owned\x07"), "feed"),
    "a symbol with a space after it": (one(symbol="BTC-USD "), "symbol"),
    "two symbols that differ by case": (
        {"instruments": (instrument(), instrument(symbol="btc-usd"))},
        "symbol",
    ),
}


@pytest.mark.parametrize(("changes", "field"), ROGUE.values(), ids=ROGUE)
def test_terms_that_break_a_limit_are_refused_with_field_value_and_limit(
    changes: dict[str, Any], field: str
) -> None:
    terms = Terms.parse(make_terms(**changes).document)
    with pytest.raises(PolicyRefused) as refused:
        NAMED.check(terms, now_ns=START_NS, collateral=COLLATERAL, solver_collateral=COLLATERAL)
    assert field in refused.value.field
    said = str(refused.value)
    assert str(refused.value.value) in said
    assert str(refused.value.limit) in said
    assert said.isprintable()


def test_the_terms_of_an_honest_solver_keep_the_defaults() -> None:
    limits = {"now_ns": START_NS, "collateral": COLLATERAL, "solver_collateral": COLLATERAL}
    assert list(NAMED.broken(make_terms(), **limits)) == []
    # What stands exactly at its limit is within it.
    terms = make_terms(
        **one(open_fee=UNIT * 15 // 10_000, close_fee=UNIT * 15 // 10_000),
        tariff=Tariff(relayer_cap=COLLATERAL // 50),
        end_date=START_NS + 86_400 * SECOND,
    )
    assert list(NAMED.broken(terms, **limits)) == []


def test_thousands_of_instruments_are_no_terms() -> None:
    many = tuple(instrument(symbol=f"S{i}", feed=f"S{i}") for i in range(257))
    with pytest.raises(TermsUnsound):
        make_terms(instruments=many)


def test_a_solver_that_puts_up_next_to_nothing_is_refused() -> None:
    with pytest.raises(PolicyRefused, match="the solver's collateral"):
        NAMED.check(
            make_terms(), now_ns=START_NS, collateral=COLLATERAL, solver_collateral=100_000_000
        )


def test_an_oracle_is_the_one_that_the_trader_names() -> None:
    def broken(policy: TraderPolicy, **oracle: Any) -> list[str]:
        terms = make_terms(oracle=Oracle(**oracle))
        return [each.field for each in policy.broken(terms, now_ns=START_NS)]

    named = replace(NAMED, oracle_signers=[one.lower() for one in SIGNERS])
    assert broken(named, signers=SIGNERS, threshold=3) == []
    assert broken(named, signers=SIGNERS, threshold=2) == ["oracle.threshold"]
    stranger = KeyWallet.generate().address
    assert broken(named, signers=(*SIGNERS[:2], stranger), threshold=2) == ["oracle.signers"]
    assert broken(named, signers=SIGNERS, threshold=3, validity=24 * HOUR) == ["oracle.validity"]
    assert broken(named) == []
    assert broken(replace(named, needs_oracle=True)) == ["oracle.signers"]


def test_an_instrument_is_priced_by_the_feed_of_its_name() -> None:
    oracle = Oracle(signers=SIGNERS, threshold=3)
    named = replace(NAMED, oracle_signers=SIGNERS)
    terms = make_terms(oracle=oracle, **one(feed="DOGE-USD"))
    with pytest.raises(PolicyRefused, match="feed"):
        named.check(terms, now_ns=START_NS)
    replace(named, feeds={"BTC-USD": "DOGE-USD"}).check(terms, now_ns=START_NS)


def test_only_instruments_that_are_named_are_held_to_the_limits() -> None:
    terms = make_terms(
        instruments=(instrument(), instrument(symbol="X", feed="X", open_fee=UNIT // 2))
    )
    replace(NAMED, symbols=("BTC-USD",)).check(terms, now_ns=START_NS)
    with pytest.raises(PolicyRefused, match="instruments"):
        replace(NAMED, symbols=("BTC-USD", "SOL-USD")).check(terms, now_ns=START_NS)


@pytest.mark.parametrize(
    "changes",
    [{"open_fee": "-1"}, {"skew_s": -1}, {"symbols": "BTC-USD"}, {"open_fee": "many"}],
)
def test_a_limit_out_of_form_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        TraderPolicy(**changes)


# --- the token ---------------------------------------------------------------------------------


USDT, USDC = TokenInfo(TOKEN, "USDT", 6), TokenInfo(OTHER, "USDC", 8)


def test_the_token_is_the_one_that_was_named() -> None:
    assert TraderPolicy().for_token([USDT]).token == TOKEN
    assert TraderPolicy(token="USDC").for_token([USDT, USDC]).decimals == 8
    assert TraderPolicy(token=OTHER.lower()).for_token([USDT, USDC]).token == OTHER
    foreign = TraderPolicy(token=PSYMM, decimals=18)
    assert foreign.for_token([USDT]) == foreign


@pytest.mark.parametrize(
    ("policy", "tokens"),
    [
        (TraderPolicy(), []),
        (TraderPolicy(decimals=6), []),
        (TraderPolicy(), [USDT, USDC]),
        (TraderPolicy(token="USDC"), [USDT]),
        (TraderPolicy(token=PSYMM), [USDT]),
        (TraderPolicy(token="USDT"), [USDT, replace(USDC, symbol="USDT")]),
    ],
)
def test_a_token_that_nobody_named_is_not_put_up(
    policy: TraderPolicy, tokens: list[TokenInfo]
) -> None:
    with pytest.raises(TokenUnnamed):
        policy.for_token(tokens)


def test_decimals_that_the_token_does_not_have_are_refused() -> None:
    with pytest.raises(TokenDiffers):
        TraderPolicy(decimals=18).for_token([USDT])


@pytest.mark.parametrize(
    ("bid", "ask", "tick", "field"),
    [
        ("49990", "50010", "0.1", None),
        (None, "50010", "0.1", None),
        ("1000", "50010", "0.1", "the prices shown"),
        ("49990", None, "10000", "tick"),
        (None, "50010", "10000", "tick"),
    ],
)
def test_prices_that_a_close_would_pay_for_are_refused(
    bid: str | None, ask: str | None, tick: str, field: str | None
) -> None:
    each = instrument(tick=int(Decimal(tick) * UNIT))
    if field is None:
        NAMED.check_prices(each, bid, ask)
        return
    with pytest.raises(PolicyRefused) as refused:
        NAMED.check_prices(each, bid, ask)
    assert field in refused.value.field


# --- in words ----------------------------------------------------------------------------------


def test_a_round_trip_costs_spread_and_both_fees() -> None:
    each = instrument(open_fee=UNIT // 1000, close_fee=UNIT // 500)
    found = round_trip(each, BUY, "0.1", 49_990, 50_010)
    # 0.1 · (20 + 50.01 + 99.98)
    assert found.cost == Decimal("16.999")
    assert found.share == Decimal("0.003399120175964808")  # rounded up
    assert round_trip(each, SELL, "0.1", 49_990, 50_010).cost == Decimal("17.001")


def test_what_the_solver_promises_to_pay_makes_nothing_cheaper() -> None:
    each = instrument(open_fee=UNIT // 2, fee_receiver="trader")
    assert round_trip(each, BUY, 1, 100, 100).cost == 0


def test_terms_are_told_in_a_traders_words() -> None:
    words = "\n".join(terms_in_words(make_terms(), "BTC-USD"))
    for part in (
        "fees: 0.05 % on opening, 0 % on closing, to the solver",
        "prices: by nobody but the solver",
        "penalty reserve: 0.1 of yours",
        "funding: at most 1 % every 28800 s",
        "T = 10 s",
        "a relayer may take 0.05 a move",
        "if it stops answering, it stays locked",
    ):
        assert part in words
    own = KeyWallet.generate().address
    oracle = Oracle(signers=(own,), threshold=1)
    words = "\n".join(terms_in_words(make_terms(oracle=oracle), "BTC-USD", own))
    assert "by 1 of 1 signers" in words
    assert "the solver among them" in words


def test_terms_are_told_in_a_solvers_words() -> None:
    words = "\n".join(own_terms_in_words(make_terms(), 5_000 * 10**6))
    for part in (
        "for each trader you put up 5000",
        "BTC-USD: fees 0.05 % on opening, 0 % on closing, to you",
        "penalty reserve: 0.1 of yours",
        "a trader can hold a frame back for T = 10 s",
        "only with the trader's signature",
    ):
        assert part in words


# --- at a handshake -----------------------------------------------------------------------------


async def refused_by(stage: Scene, maker: Maker, **given: Any) -> PSymmError:
    maker.run_callbacks(stage.nursery)
    stage.server = await maker.server()
    await stage.nursery.start(stage.server.run)
    with pytest.raises(PSymmError) as refused:
        async with connect(
            stage.trader, entry_of(stage), dial=stage.dial, **({"collateral": 2_000} | given)
        ):
            pass
    return refused.value


def moves(stage: Scene) -> int:
    made: int = stage.trader.collateral.moves  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize(
    "changes",
    [
        one(open_fee=UNIT * 60 // 100, close_fee=UNIT * 99 // 100),
        collateral(token=OTHER),
        {"end_date": START_NS + 60 * SECOND},
        one(symbol="BTC-USD\x1b[2J"),
    ],
)
async def test_nothing_is_kept_or_funded_under_terms_that_break_the_policy(
    changes: dict[str, Any], tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path, **changes) as stage:
        maker = Maker(stage.solver, stage.terms, collateral=5_000)
        assert isinstance(await refused_by(stage, maker), PolicyRefused | TokenDiffers)
        assert moves(stage) == 0
        assert await stage.trader.journal.custodies() == []


async def test_the_solvers_collateral_is_held_against_ours(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        refused = await refused_by(stage, Maker(stage.solver, stage.terms, collateral=100))
        assert isinstance(refused, PolicyRefused)
        assert refused.field == "the solver's collateral"
        assert moves(stage) == 0


async def test_a_solver_says_how_much_free_disk_it_needs_to_take_a_trader(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        maker = Maker(stage.solver, stage.terms, collateral=5_000, disk_floor=1 << 62)
        refused = await refused_by(stage, maker)
        assert "disk" in str(refused)
        assert moves(stage) == 0
    async with market(tmp_path / "again", solver={"disk_floor": 0}) as trading:
        assert trading.session.state is SessionStatus.TRADING


async def test_a_trader_that_means_to_may_accept_more(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    dear = one(open_fee=UNIT // 100)
    async with market(
        tmp_path, terms=dear, policy=TraderPolicy(open_fee="0.01", round_trip_fee="0.01")
    ) as trading:
        assert trading.session.state is SessionStatus.TRADING


async def test_an_instrument_that_the_policy_does_not_name_is_not_opened(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path, policy=TraderPolicy(symbols=("BTC-USD",))) as trading:
        with pytest.raises(PolicyRefused, match="BTC-USD"):
            await trading.session.order(BUY, "ETH-USD", "0.1", price=50_000)


async def test_the_policy_is_not_asked_of_a_custody_that_goes_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path) as trading:
        stage = trading.stage
        (held,) = await stage.trader.journal.custodies()
        await trading.session.runner.leave("for now")
        narrow = TraderPolicy(open_fee="0", round_trip_fee="0")
        async with connect(
            stage.trader, entry_of(stage), dial=stage.dial, resume=held, policy=narrow
        ) as again:
            assert again.policy is None
            assert again.terms.hash == held.agreement.terms_hash


# --- discovery ---------------------------------------------------------------------------------


class Flat(Maker):
    shown: tuple[str, str] = ("49990", "50010")

    async def on_prices(self, symbol: str) -> Prices:
        return Prices(bid=self.shown[0], ask=self.shown[1])


class Street:
    """Several solvers under one key, each with terms and prices of its own."""

    def __init__(self, stage: Scene) -> None:
        self.stage = stage
        self.servers: list[Any] = []

    async def add(self, terms: Terms, bid: str = "49990", ask: str = "50010") -> Any:
        maker = Flat(self.stage.solver, terms, collateral=5_000)
        maker.shown = (bid, ask)
        maker.run_callbacks(self.stage.nursery)
        server = await maker.server()
        await self.stage.nursery.start(server.run)
        self.servers.append(server)
        entry = entry_of(self.stage)
        return replace(entry, account=f"0x{len(self.servers):040x}")

    def dial(self, entry: Any) -> Callable[[], Any]:
        # Many are dialled at once: each dial has a scene with its own server.
        view = copy(self.stage)
        view.server = self.servers[int(entry.account, 16) - 1]
        return view.dial


async def test_solvers_are_ranked_by_price_after_both_fees(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        street = Street(stage)
        dear_later = await street.add(
            make_terms(**one(open_fee=0, close_fee=UNIT // 500)), ask="50000"
        )
        dear_now = await street.add(make_terms(**one(open_fee=UNIT // 1000)), ask="50001")
        honest = await street.add(make_terms(**one(open_fee=0)), ask="50010")
        gifts = await street.add(
            make_terms(**one(open_fee=UNIT // 500, fee_receiver="trader")), ask="50020"
        )
        ranking = await best_solver(
            stage.trader,
            [dear_later, dear_now, honest, gifts],
            "BTC-USD",
            BUY,
            dial=street.dial,
            collateral=2_000,
        )
        assert ranking.failures == ()
        order = [offer.entry.account for offer in ranking.offers]
        assert order == [each.account for each in (honest, gifts, dear_now, dear_later)]
        assert ranking.best.all_in == 50_010
        assert ranking.best.cost is not None
        assert ranking.best.cost.cost == 20
        assert ranking.offers[-1].all_in == Decimal("50100")


async def test_a_sale_is_ranked_by_what_is_left_of_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        street = Street(stage)
        dear = await street.add(make_terms(**one(open_fee=UNIT // 1000)), bid="50000")
        fair = await street.add(make_terms(**one(open_fee=0)), bid="49990")
        ranking = await best_solver(stage.trader, [dear, fair], "BTC-USD", SELL, dial=street.dial)
        assert [offer.all_in for offer in ranking.offers] == [Decimal(49_990), Decimal(49_950)]


async def test_who_breaks_the_policy_is_named_and_never_ranked(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        street = Street(stage)
        rogue = await street.add(
            make_terms(**one(open_fee=UNIT * 60 // 100, close_fee=UNIT * 99 // 100)), ask="1"
        )
        relayed = await street.add(make_terms(tariff=Tariff(relayer_cap=100_000_000)), ask="2")
        ranking = await best_solver(
            stage.trader,
            [rogue, relayed],
            "BTC-USD",
            BUY,
            dial=street.dial,
            collateral=2_000,
        )
        assert ranking.offers == ()
        found = dict(ranking.failures)
        assert isinstance(found[rogue.account], PolicyRefused)
        assert isinstance(found[relayed.account], PolicyRefused)
        with pytest.raises(NoSolver, match="openFee"):
            _ = ranking.best


async def test_a_price_of_nothing_is_no_price(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with scene(tmp_path) as stage:
        street = Street(stage)
        bait = await street.add(make_terms(), bid="0", ask="0")
        ranking = await best_solver(stage.trader, [bait], "BTC-USD", BUY, dial=street.dial)
        assert ranking.offers == ()
        assert [error.code for _, error in ranking.failures] == ["declined"]


async def test_terms_that_change_after_they_were_shown_are_refused(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        street = Street(stage)
        entry = await street.add(make_terms(**one(open_fee=0)))
        ranking = await best_solver(stage.trader, [entry], "BTC-USD", BUY, dial=street.dial)
        # Both sets are within the policy: only the hash tells.
        await street.add(make_terms(**one(open_fee=UNIT // 1000)))
        street.servers[0] = street.servers[1]
        with pytest.raises(TermsChanged):
            async with connect(
                stage.trader, ranking.best, dial=street.dial(entry), collateral=2_000
            ):
                pass
        assert moves(stage) == 0
        assert await stage.trader.journal.custodies() == []


async def test_terms_that_were_shown_are_those_of_the_session(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        street = Street(stage)
        entry = await street.add(make_terms())
        ranking = await best_solver(stage.trader, [entry], "BTC-USD", BUY, dial=street.dial)
        async with connect(
            stage.trader, ranking.best, dial=street.dial(entry), collateral=2_000
        ) as session:
            assert session.terms.hash == ranking.best.terms.hash


# --- a solver's own -----------------------------------------------------------------------------


async def test_a_solver_trades_with_whom_it_names(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        others = SolverPolicy(traders=[KeyWallet.generate().address])
        refused = await refused_by(
            stage, Maker(stage.solver, stage.terms, collateral=5_000, policy=others)
        )
        assert isinstance(refused, PeerRefused)
        assert "others only" in str(refused)
        assert moves(stage) == 0


async def test_a_solver_asks_before_it_trades(tmp_path: Path, autojump_clock: MockClock) -> None:
    asked: list[tuple[str, int]] = []

    def never(trader: str, offered: int) -> bool:
        asked.append((trader, offered))
        return False

    async with scene(tmp_path) as stage:
        policy = SolverPolicy(accept=never)
        refused = await refused_by(
            stage, Maker(stage.solver, stage.terms, collateral=5_000, policy=policy)
        )
        assert isinstance(refused, PeerRefused)
        assert asked == [(stage.trader.wallet.address, COLLATERAL)]


def test_a_solver_bounds_what_it_trades_against_and_what_it_puts_up() -> None:
    terms, ours, trader = make_terms(), 5_000_000_000, KeyWallet.generate().address
    policy = SolverPolicy(least=200, most=4_000, ratio="0.5", traders=[trader.lower()])
    assert policy.collateral_for(terms, ours, trader, 1_000_000_001) == 500_000_000
    assert policy.collateral_for(terms, ours, trader, 200_000_000) == 100_000_000
    assert SolverPolicy(ratio=2).collateral_for(terms, ours, trader, 4_000_000_000) == ours
    assert SolverPolicy(ratio=1).collateral_for(terms, ours, trader, 1) == terms.minimum(1)
    for offered in (199_999_999, 4_000_000_001):
        with pytest.raises(HandshakeRefused):
            policy.collateral_for(terms, ours, trader, offered)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        (collateral(solver_reserve=100_000_000), "solverReserve"),
        ({"tariff": Tariff(relayer_cap=100_000_000)}, "relayerCap"),
        ({"end_date": START_NS - 1}, "endDate"),
        (collateral(solver_minimum=900_000_000), "collateral"),
    ],
)
def test_a_solver_does_not_serve_terms_that_harm_itself(
    changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(PolicyRefused) as refused:
        SolverPolicy().check(make_terms(**changes), 500_000_000, START_NS)
    assert field in refused.value.field
