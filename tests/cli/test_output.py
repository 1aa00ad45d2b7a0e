"""Amounts are exact in both directions, JSON is one object per line, and money moves only after a
yes."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.output import Cost, Screen, confirm_cost, format_amount, parse_amount


def lines(screen_out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in screen_out.getvalue().splitlines()]


@given(st.integers(1, 2**128 - 1), st.integers(0, 18))
def test_an_amount_that_is_shown_reads_back_as_the_same_units(units: int, decimals: int) -> None:
    assert parse_amount(format_amount(units, decimals), decimals) == units


@pytest.mark.parametrize(
    ("units", "decimals", "text"),
    [(1_000_500_000, 6, "1000.5"), (-1, 6, "-0.000001"), (0, 6, "0"), (5, 0, "5")],
)
def test_an_amount_is_shown_in_its_shortest_exact_form(
    units: int, decimals: int, text: str
) -> None:
    assert format_amount(units, decimals) == text


@pytest.mark.parametrize(
    "text",
    [
        *["", ".", "1.", ".5", "-1", "+1", "1e3", "1,000", "0", "0.0", "1.0000001", "٣", "1 "],
        pytest.param("1" * 5_000, id="digits"),
    ],
)
def test_what_is_no_amount_is_refused_as_usage(text: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_amount(text, 6)
    assert caught.value.exit is Exit.USAGE
    assert caught.value.code == "bad-amount"


def test_json_is_one_object_a_line_with_bytes_as_hex() -> None:
    out = io.StringIO()
    screen = Screen(True, out)
    screen.say("for people only")
    screen.table(("a",), [["b"]])
    screen.event("sent", "Sent.", tx=b"\x01\xff", amounts=["1", None])
    screen.result("Done.", ok=True)
    assert lines(out) == [{"event": "sent", "tx": "0x01ff", "amounts": ["1", None]}, {"ok": True}]


def test_people_see_sentences_and_aligned_columns() -> None:
    out = io.StringIO()
    screen = Screen(False, out)
    screen.table(("name", "n"), [["long name", "1"]])
    screen.event("sent", "Sent.", tx="0x01")
    screen.result("Done.", ok=True)
    assert out.getvalue() == "name       n\nlong name  1\nSent.\nDone.\n"


def test_money_does_not_move_where_nobody_can_say_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        confirm_cost(Screen(False, out), "Paying", Cost(21_000, 10**9, 12), yes=False)
    assert caught.value.code == "confirmation-needed"
    assert "gas about 21,000" in out.getvalue()


def test_with_yes_the_cost_is_still_shown_before_money_moves() -> None:
    out = io.StringIO()
    confirm_cost(Screen(True, out), "Paying", Cost(0, 0, 3, "0.05 pUSD"), yes=True)
    assert lines(out)[0] == {
        "event": "cost",
        "action": "Paying",
        "gas": 0,
        "gasPriceWei": "0",
        "seconds": 3,
        "relayerFee": "0.05 pUSD",
    }


HOSTILE = "a\x1b[2Jb\x9b31m\u202ec\x00\r\x7f\n  0x00 solver → paid\ud800\U000e0001"


@pytest.mark.parametrize("as_json", [True, False])
def test_nothing_that_a_terminal_obeys_is_printed_no_matter_who_wrote_it(as_json: bool) -> None:
    out = io.StringIO()
    screen = Screen(as_json, out)
    screen.event("said", HOSTILE, words=HOSTILE, **{HOSTILE: "key"})
    line = out.getvalue()
    assert line.count("\n") == 1
    assert line[:-1].isprintable()
    if as_json:
        (said,) = lines(out)
        assert said["words"] == HOSTILE
    else:
        assert "a\\x1b[2Jb\\x9b31m\\u202ec" in line


def test_an_error_that_quotes_a_peer_is_one_line_without_controls(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Screen(False).error("peer-refused", HOSTILE, Exit.PEER, {})
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said[:-1].isprintable()


def test_an_answer_may_have_lines_of_its_own() -> None:
    out = io.StringIO()
    Screen(False, out).result("one\ntwo\x1b")
    assert out.getvalue() == "one\ntwo\\x1b\n"
