"""A scenario is read strictly, and single trades are a scenario too."""

from decimal import Decimal
from pathlib import Path

import pytest

from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.scenario import Step, load_scenario, single_trades

GOOD = """
[[step]]
do = "order"
name = "a"
symbol = "SPX"
side = "buy"
quantity = "2"
limit_bps = "-200"
cancel_after_s = 1
expect = "cancelled"
[[step]]
do = "hold"
seconds = 2
[[step]]
do = "close"
of = "a"
"""


def read(tmp_path: Path, text: str) -> list[Step]:
    path = tmp_path / "scenario.toml"
    path.write_text(text)
    return load_scenario(path)


def test_a_scenario_gives_its_steps_in_order(tmp_path: Path) -> None:
    order, hold, close = read(tmp_path, GOOD)
    assert (order.symbol, order.quantity, order.limit_bps) == ("SPX", Decimal(2), Decimal(-200))
    assert order.expect == "cancelled"
    assert hold.seconds == 2
    assert (close.do, close.of, close.expect) == ("close", "a", "filled")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('do = "order"', 'do = "pray"', "step 1"),
        ('side = "buy"', 'side = "long"', "side"),
        ('side = "buy"', "", "side"),
        ('quantity = "2"', "quantity = 2.0", "quantity"),
        ('quantity = "2"', 'quantity = "0"', "quantity"),
        ("seconds = 2", "seconds = -1", "seconds"),
        ("seconds = 2", "minutes = 2", "minutes"),
        ('of = "a"', 'of = "b"', "'b'"),
        ("[[step]]", "[step]", "step"),
        ("seconds = 2", "seconds = nan", "seconds"),
        ("seconds = 2", "seconds = 1e999", "seconds"),
        pytest.param("seconds = 2", "seconds = " + "1" * 5_000, "TOML", id="digits"),
        pytest.param("seconds = 2", "seconds = " + "[" * 100_000, "TOML", id="lists"),
        pytest.param("seconds = 2", "seconds = " + "{a=" * 100_000, "TOML", id="tables"),
    ],
)
def test_a_wrong_step_is_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    with pytest.raises(CommandError) as caught:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert caught.value.exit is Exit.USAGE
    assert named in caught.value.message


def test_two_steps_cannot_share_a_name(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="has the name of an earlier one"):
        read(tmp_path, GOOD.partition('[[step]]\ndo = "hold"')[0] * 2)


def test_single_trades_are_opened_held_and_closed() -> None:
    steps = single_trades(["SPX=1", "WTI=10"], ["NDX=0.5"], 3)
    assert [step.do for step in steps] == ["order", "order", "order", "hold", *["close"] * 3]
    assert [step.side for step in steps[:3]] == ["buy", "buy", "sell"]
    assert [step.of for step in steps[4:]] == [step.name for step in steps[:3]]


@pytest.mark.parametrize("text", ["SPX", "SPX=", "SPX=-1", "SPX=x"])
def test_a_trade_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(CommandError):
        single_trades([text], [], 0)
