"""A replayed price is always one that the market had, at the stated speed."""

from datetime import date
from decimal import Decimal

import pytest

from psymm.cli.exit_status import CommandError
from psymm.cli.feed import NS, ONE, ConstantFeed, ReplayFeed, load_series, parse_price

FIRST, LAST = date(2018, 10, 1), date(2018, 12, 31)


def test_a_series_holds_the_values_of_the_package_exactly() -> None:
    series = load_series("sp500:Close", FIRST, LAST)
    assert series.values[-1] == (date(2018, 12, 31), 2506_850098 * 10**12)
    assert all(price > 0 for _, price in series.values)
    assert [day for day, _ in series.values] == sorted(day for day, _ in series.values)


def test_days_without_a_price_are_left_out() -> None:
    series = load_series("wti", date(2018, 12, 21), date(2018, 12, 26))
    assert [day for day, _ in series.values] == [date(2018, 12, 21), date(2018, 12, 26)]


def test_a_replay_moves_at_its_speed_and_holds_the_last_value() -> None:
    series = load_series("nasdaq", FIRST, LAST)
    feed = ReplayFeed({"NDQ": series}, started_ns=100 * NS, values_per_s=Decimal(2))
    assert feed.price("NDQ", 0) == series.values[0][1]
    assert feed.price("NDQ", 100 * NS) == series.values[0][1]
    assert feed.price("NDQ", 101 * NS) == series.values[2][1]
    assert feed.price("NDQ", 10**9 * NS) == series.values[-1][1]
    assert feed.says("NDQ", 101 * NS) == "nasdaq Close of 2018-10-03"


def test_a_replay_can_move_with_each_firm_quote_and_not_with_time() -> None:
    series = load_series("nasdaq", FIRST, LAST)
    feed = ReplayFeed({"NDQ": series}, 0, Decimal(0), values_per_quote=5)
    assert feed.price("NDQ", 0) == feed.price("NDQ", 10**9 * NS) == series.values[0][1]
    feed.quoted()
    assert feed.price("NDQ", 0) == feed.price("NDQ", 10**9 * NS) == series.values[5][1]
    for _ in range(len(series.values)):
        feed.quoted()
    assert feed.price("NDQ", 0) == series.values[-1][1]


def test_a_constant_feed_stays() -> None:
    feed = ConstantFeed({"X": 5 * ONE})
    assert feed.price("X", 0) == feed.price("X", 10**18) == 5 * ONE


@pytest.mark.parametrize("name", ["gold", "sp500:Opening", "../sp500", "utility", ""])
def test_a_series_that_does_not_exist_is_named(name: str) -> None:
    with pytest.raises(CommandError) as caught:
        load_series(name)
    assert caught.value.code == "no-series"


def test_a_span_without_prices_is_refused() -> None:
    with pytest.raises(CommandError) as caught:
        load_series("sp500", date(2030, 1, 1))
    assert caught.value.code == "empty-series"


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e-19", "x", ""])
def test_a_configured_price_is_a_positive_exact_decimal(text: str) -> None:
    with pytest.raises(CommandError):
        parse_price(text, "price")
