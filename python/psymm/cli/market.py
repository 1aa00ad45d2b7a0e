"""A market maker's configuration file (TOML): its terms, its prices, and how it quotes.

    token = "pUSD"                  # collateral, by symbol or address
    trader_minimum = "1000"         # what each side must put up at least
    solver_minimum = "1000"
    collateral = "5000"             # what this solver puts up for each trader
    trader_reserve = "50"           # penalty reserves, never reached by PnL
    solver_reserve = "50"
    relayer_cap = "1"               # the most that a relayer may take for settling
    end_date = 2030-01-01           # from then on either side may close
    spread_bps = "10"               # between bid and offer
    quote_life_s = 20
    decline_above = "50000"         # orders worth more are declined
    fill_at_most = "20000"          # orders worth more are filled in parts of this
    fills_at_most = 50              # market-maker protection: fills in cap_interval_s, and
    notional_at_most = "500000"     # their worth; reached, quotes are withdrawn for that long
    cap_interval_s = 60
    close_at_most = "20000"         # the same for closes at a limit; default: fill_at_most
    [policy]                        # whom it trades with; all of it may be left out
    least = "1000"                  # what a trader must, and may, put up
    most = "100000"
    ratio = "2"                     # puts up at most this for one token of the trader's
    traders = ["0x…"]               # nobody else
    [feed]
    kind = "replay"                 # or "constant"
    values_per_second = "2"         # prices move with the clock, or, with values_per_quote = 5
                                    # instead, with each firm quote that is given
    started = 2026-01-01T00:00:00Z  # default: when this program starts
    from = 2018-10-01
    to = 2018-12-31
    [[instrument]]
    symbol = "SPX"
    series = "sp500:Close"          # constant: price = "2500"
    tick = "0.01"
    lot = "0.001"

Every amount is a string with a plain decimal, so that none is ever a float. Instruments may also
have min_notional, max_notional, max_leverage, cva, lf, mm, open_fee, close_fee; the defaults are
below. Unknown keys are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from psymm.api.amounts import AmountInvalid, scaled
from psymm.cli.configuration import (
    bad_config,
    date_of,
    known_keys,
    positive_decimal,
    read_toml,
    text_of,
    whole,
)
from psymm.cli.feed import (
    NS,
    ConstantFeed,
    Feed,
    ReplayFeed,
    load_series,
    parse_price,
)
from psymm.cli.output import parse_amount
from psymm.cli.policy import solver_policy

if TYPE_CHECKING:
    from psymm.api.policy import SolverPolicy
    from psymm.chain.deployment import Deployment
    from psymm.session.runtime.protection import Caps
    from psymm.terms import Terms

BPS: Final = 10_000
_TOP: Final = frozenset(
    {
        "token",
        "trader_minimum",
        "solver_minimum",
        "collateral",
        "trader_reserve",
        "solver_reserve",
        "relayer_cap",
        "end_date",
        "spread_bps",
        "quote_life_s",
        "decline_above",
        "fill_at_most",
        "close_at_most",
        "fills_at_most",
        "notional_at_most",
        "cap_interval_s",
        "confirmations",
        "feed",
        "instrument",
        "policy",
    }
)
_FEED: Final = frozenset(
    {
        "kind",
        "values_per_second",
        "values_per_quote",
        "started",
        "from",
        "to",
    }
)
_INSTRUMENT: Final = frozenset(
    {
        "symbol",
        "series",
        "price",
        "tick",
        "lot",
        "min_notional",
        "max_notional",
        "max_leverage",
        "cva",
        "lf",
        "mm",
        "open_fee",
        "close_fee",
    }
)
_DEFAULTS: Final = {
    "min_notional": "1",
    "max_notional": "1000000",
    "max_leverage": "20",
    "cva": "0.005",
    "lf": "0.005",
    "mm": "0.02",
    "open_fee": "0.0004",
    "close_fee": "0.0004",
}


@dataclass(frozen=True)
class Style:
    """How a maker quotes and fills. Money is scaled 1e18.

    Attributes:
        half_spread_bps: on each side of the feed's price.
        quote_life_ns: how long a quote is firm.
        decline_above: orders of a larger notional are declined.
        fill_at_most: the largest notional of one fill that opens; the rest follows in more fills.
        close_at_most: the same for a fill that closes.
    """

    half_spread_bps: Decimal
    quote_life_ns: int
    decline_above: int
    fill_at_most: int
    close_at_most: int

    def bid(self, price: int, tick: int) -> int:
        """The price at which it buys: below the feed's, rounded down to the tick."""
        return self._away(price, -1) // tick * tick

    def offer(self, price: int, tick: int) -> int:
        """The price at which it sells: above the feed's, rounded up to the tick."""
        return -(-self._away(price, +1) // tick) * tick

    def _away(self, price: int, side: int) -> int:
        return price + side * int(price * self.half_spread_bps / BPS)


@dataclass(frozen=True)
class Market:
    """A checked configuration.  collateral: token units for each trader."""

    terms: Terms
    feed: Feed
    style: Style
    collateral: int
    caps: Caps
    policy: SolverPolicy


def load_market(path: Path, deployment: Deployment, now_ns: int) -> Market:
    """Read a maker's configuration for a deployment. A replay starts at `now_ns`.

    Raises CommandError `bad-config` or `bad-policy` (exit 2) naming the key; TermsError for terms
    that are unsound; PolicyRefused for terms that harm the maker itself; TokenUnlisted for a
    token that the deployment does not list.
    """
    raw = read_toml(path, bad_config)
    known_keys(raw, _TOP, "the file")
    token = deployment.token(text_of(raw, "token"))
    instruments = raw.get("instrument")
    if not isinstance(instruments, list) or not instruments:
        raise bad_config("it needs at least one [[instrument]]")
    for one in instruments:
        if not isinstance(one, dict):
            raise bad_config("instrument is written as [[instrument]]")
        known_keys(one, _INSTRUMENT, "an instrument")
    feed_table = raw.get("feed", {})
    if not isinstance(feed_table, dict):
        raise bad_config("feed is written as [feed]")
    known_keys(feed_table, _FEED, "[feed]")

    def units(name: str, default: str | None = None) -> int:
        return parse_amount(text_of(raw, name, default), token.decimals)

    def reserve(name: str) -> int:
        text = text_of(raw, name, "0")
        return 0 if text == "0" else parse_amount(text, token.decimals)

    minimums = (units("trader_minimum"), units("solver_minimum"))
    terms = _terms(
        raw,
        deployment,
        token.address,
        token.decimals,
        minimums,
        (reserve("trader_reserve"), reserve("solver_reserve")),
        units("relayer_cap"),
        instruments,
    )
    collateral = units("collateral")
    if collateral < minimums[1]:
        raise bad_config("collateral is below solver_minimum, so no session could begin")
    spread = positive_decimal(raw, "spread_bps")
    at_most = text_of(raw, "fill_at_most", "1000000")
    style = Style(
        half_spread_bps=spread / 2,
        quote_life_ns=min(whole(raw, "quote_life_s", 20) * NS, terms.timeouts.quote_life),
        decline_above=parse_price(text_of(raw, "decline_above", "1000000"), "decline_above"),
        fill_at_most=parse_price(at_most, "fill_at_most"),
        close_at_most=parse_price(text_of(raw, "close_at_most", at_most), "close_at_most"),
    )
    policy = solver_policy(raw.get("policy", {}))
    policy.check(terms, collateral, now_ns)
    feed = _feed(feed_table, instruments, now_ns)
    return Market(terms, feed, style, collateral, _caps(raw), policy)


def _caps(raw: Mapping[str, Any]) -> Caps:
    from psymm.session.runtime.protection import Caps

    notional = text_of(raw, "notional_at_most", "0")
    return Caps(
        fills=whole(raw, "fills_at_most", 1) if "fills_at_most" in raw else None,
        notional=None if notional == "0" else _whole_text(notional, "notional_at_most"),
        interval_s=whole(raw, "cap_interval_s", 60),
    )


def _terms(
    raw: Mapping[str, Any],
    deployment: Deployment,
    token: str,
    decimals: int,
    minimums: tuple[int, int],
    reserves: tuple[int, int],
    relayer_cap: int,
    instruments: list[dict[str, Any]],
) -> Terms:
    from psymm.terms import ChainRef, CollateralTerms, Instrument, Rates, Tariff, Terms

    def made(one: dict[str, Any]) -> Instrument:
        def number(name: str) -> int:
            return _scaled(text_of(one, name, _DEFAULTS.get(name)), name)

        rates = Rates(cva=number("cva"), lf=number("lf"), mm=number("mm"))
        symbol = text_of(one, "symbol")
        return Instrument(
            symbol=symbol,
            tick=number("tick"),
            lot=number("lot"),
            min_notional=number("min_notional"),
            max_notional=number("max_notional"),
            max_leverage=number("max_leverage"),
            trader=rates,
            solver=rates,
            open_fee=number("open_fee"),
            close_fee=number("close_fee"),
            feed=text_of(one, "series", "constant"),
        )

    return Terms(
        chain=ChainRef(
            id=deployment.chain_id,
            psymm=deployment.psymm,
            registry=deployment.registry,
            confirmations=whole(raw, "confirmations", 1),
        ),
        collateral=CollateralTerms(
            token=token,
            decimals=decimals,
            trader_minimum=minimums[0],
            solver_minimum=minimums[1],
            trader_reserve=reserves[0],
            solver_reserve=reserves[1],
        ),
        instruments=tuple(made(one) for one in instruments),
        end_date=int(
            datetime.combine(date_of(raw, "end_date"), datetime.min.time(), UTC).timestamp()
        )
        * NS,
        tariff=Tariff(relayer_cap=relayer_cap),
    )


def _feed(table: Mapping[str, Any], instruments: list[dict[str, Any]], now_ns: int) -> Feed:
    kind = text_of(table, "kind", "constant")
    if kind == "constant":
        return ConstantFeed(
            {
                text_of(one, "symbol"): parse_price(text_of(one, "price"), "price")
                for one in instruments
            }
        )
    if kind != "replay":
        raise bad_config(f"feed.kind is replay or constant, not {kind!r}")
    first, last = (date_of(table, name) if name in table else None for name in ("from", "to"))
    series = {
        text_of(one, "symbol"): load_series(text_of(one, "series"), first, last)
        for one in instruments
    }
    started = table.get("started")
    if started is not None:
        if not isinstance(started, datetime) or started.tzinfo is None:
            raise bad_config("feed.started is a time with its zone, like 2026-01-01T00:00:00Z")
        now_ns = int(started.timestamp()) * NS
    if ("values_per_second" in table) == ("values_per_quote" in table):
        raise bad_config("[feed] of kind replay needs either values_per_second or values_per_quote")
    if "values_per_quote" in table:
        return ReplayFeed(series, now_ns, Decimal(0), whole(table, "values_per_quote", 1))
    return ReplayFeed(series, now_ns, positive_decimal(table, "values_per_second"))


def _whole_text(text: str, name: str) -> int:
    if not text.isdecimal() or len(text) > 78 or int(text) == 0:
        raise bad_config(f'{name} is a whole number in a string, like {name} = "500000"')
    return int(text)


def _scaled(text: str, name: str) -> int:
    """A decimal of zero or more, scaled 1e18."""
    with suppress(AmountInvalid):
        if (value := scaled(text)) >= 0:
            return value
    raise bad_config(f"{name}: {text!r} is not a decimal of at most 18 places")
