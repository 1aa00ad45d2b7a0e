"""A maker's configuration gives sound terms and a style, or says which key is wrong."""

from decimal import Decimal
from pathlib import Path

import pytest

from psymm.chain.deployment import Deployment, TokenInfo
from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.feed import NS, ONE
from psymm.cli.market import Style, load_market

GOOD = """
token = "pUSD"
trader_minimum = "1000"
solver_minimum = "2000"
collateral = "5000"
trader_reserve = "50"
relayer_cap = "1"
end_date = 2030-01-01
spread_bps = "10"
decline_above = "50000"
[feed]
kind = "replay"
values_per_second = "2"
from = 2018-10-01
to = 2018-12-31
[[instrument]]
symbol = "SPX"
series = "sp500:Close"
tick = "0.01"
lot = "0.001"
[[instrument]]
symbol = "WTI"
series = "wti"
tick = "0.01"
lot = "0.1"
mm = "0.05"
"""


def address(number: int) -> str:
    return "0x" + f"{number}" * 40


DEPLOYMENT = Deployment(
    31337, "dev", 1, address(1), address(2), address(3), address(4), address(5), address(6),
    tokens=(TokenInfo(address(7), "pUSD", 6),),
)  # fmt: skip


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "maker.toml"
    path.write_text(text)
    return path


def test_a_configuration_gives_terms_in_token_units_and_scaled_rates(tmp_path: Path) -> None:
    market = load_market(written(tmp_path, GOOD), DEPLOYMENT, 0)
    terms = market.terms
    assert terms.collateral.trader_minimum == 1000 * 10**6
    assert terms.reserve(0) == 50 * 10**6
    assert terms.reserve(1) == 0
    assert [one.symbol for one in terms.instruments] == ["SPX", "WTI"]
    assert terms.instruments[1].trader.mm == ONE // 20
    assert market.collateral == 5000 * 10**6
    assert market.style.quote_life_ns == 20 * NS
    assert market.feed.says("WTI", 0) == "wti DCOILWTICO of 2018-10-01"


def test_the_same_configuration_gives_the_same_terms_whenever_it_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    first = load_market(path, DEPLOYMENT, 0).terms.hash
    assert load_market(path, DEPLOYMENT, 10**18).terms.hash == first


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('token = "pUSD"', "", "token"),
        ('collateral = "5000"', 'collateral = "1"', "collateral"),
        ('collateral = "5000"', "collateral = 5000", "collateral"),
        ("end_date = 2030-01-01", 'end_date = "soon"', "end_date"),
        ('spread_bps = "10"', 'spread_bps = "0"', "spread_bps"),
        ('spread_bps = "10"', 'spread_bps = "10"\nspeed = "2"', "speed"),
        ('kind = "replay"', 'kind = "random"', "random"),
        ('values_per_second = "2"', "", "values_per_quote"),
        (
            'values_per_second = "2"',
            'values_per_second = "2"\nvalues_per_quote = 2',
            "either values_per_second or values_per_quote",
        ),
        ('values_per_second = "2"', "values_per_quote = 0", "values_per_quote"),
        ('values_per_second = "2"', "values_per_quote = true", "values_per_quote"),
        ('spread_bps = "10"', 'spread_bps = "10"\nquote_life_s = 2147483648', "at most 2147483647"),
        ('mm = "0.05"', 'mm = "-1"', "mm"),
        ('tick = "0.01"', 'tock = "0.01"', "tock"),
        ("[feed]", "[feed", "TOML"),
        pytest.param('mm = "0.05"', "mm = " + "[" * 100_000, "TOML", id="lists"),
        pytest.param('mm = "0.05"', "mm = " + "1" * 5_000, "TOML", id="digits"),
        pytest.param('mm = "0.05"', 'mm = "1e999999999"', "mm", id="exponent"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    with pytest.raises(CommandError) as caught:
        load_market(written(tmp_path, GOOD.replace(old, new, 1)), DEPLOYMENT, 0)
    assert caught.value.exit is Exit.USAGE
    assert named in caught.value.message


def test_it_buys_below_and_sells_above_the_price_on_the_tick() -> None:
    style = Style(Decimal(5), 1, 1, 1, 1)
    tick = ONE // 100
    price = 2500 * ONE + 123_456
    assert style.bid(price, tick) == 249875 * tick
    assert style.offer(price, tick) == 250126 * tick
    assert style.bid(price, tick) < price < style.offer(price, tick)
