"""What the demo's parties are told: amounts that follow from SEED, makers' files, the scenario."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random

DECIMALS = 6
SYMBOL = "pUSD"
VALUES_PER_QUOTE = 5
RELAYER_FEE = "0.05"
RUNS_DAYS = 300
"""The days from now to the terms' end date."""
MARKETS = (
    ("SPX", "sp500:Close", "0.01", "0.001"),
    ("NDX", "nasdaq:Close", "0.01", "0.001"),
    ("WTI", "wti", "0.01", "0.1"),
)


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


def maker_file(amounts: Amounts, spread: str) -> str:
    """The configuration of `psymm solver`.  spread: in basis points."""
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


def scenario_file(amounts: Amounts) -> str:
    """The steps of `psymm trade`."""
    return SCENARIO.format(
        spx=amounts.spx,
        spx_third=f"{round(float(amounts.spx) * 333)}e-3",
        ndx=amounts.ndx,
        wti=amounts.wti,
        too_much="40",
        life=LIFE_S,
    )


def tokens(units: str | int) -> str:
    """An amount for people, in whole tokens."""
    sign = "-" if int(units) < 0 else ""
    whole, rest = divmod(abs(int(units)), 10**DECIMALS)
    return f"{sign}{whole}.{rest:0{DECIMALS}d}"
