"""Numbers as users of exchange SDKs pass them: each comes in exactly, or is refused by name."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psymm.api import AmountInvalid, decimal_of, scaled, token_units, tokens_of
from psymm.errors import PSymmError


class Five:
    """As NumPy's integers are: no int, and exactly one."""

    def __index__(self) -> int:
        return 5


@pytest.mark.parametrize(
    ("value", "exact"),
    [
        (1, "1"),
        ("1", "1"),
        (Five(), "5"),
        ("1e-7", "0.0000001"),
        ("1E3", "1000"),
        (Decimal("1E-7"), "0.0000001"),
        (Decimal("1E+3"), "1000"),
        (Decimal("-0"), "0"),
        ("-0", "0"),
        ("0", "0"),
        ("00.1", "0.1"),
        ("+1", "1"),
        (".5", "0.5"),
        ("5.", "5"),
        ("-1.5", "-1.5"),
        ("1." + "0" * 300, "1"),
        ("0e9999", "0"),
        (Decimal("0e-9999"), "0"),
        (10**50, "1" + "0" * 50),
    ],
    ids=lambda one: str(one)[:20],
)
def test_what_is_exact_comes_in_exactly(value: object, exact: str) -> None:
    units = scaled(value)  # type: ignore[arg-type]
    assert Fraction(units, 10**18) == Fraction(exact)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (0.1, "float"),
        (0.1 + 0.2, "float"),
        (1e21, "float"),
        (-0.0, "float"),
        (float("nan"), "float"),
        (float("inf"), "float"),
        (Decimal("NaN"), "no finite"),
        (Decimal("sNaN"), "no finite"),
        (Decimal("-Infinity"), "no finite"),
        ("nan", "no decimal"),
        ("Infinity", "no decimal"),
        (True, "type bool"),
        (None, "type NoneType"),
        (b"1", "type bytes"),
        (1 + 0j, "type complex"),
        (Fraction(1, 2), "type Fraction"),
        ([1], "type list"),
        ("", "no decimal"),
        (" 1", "no decimal"),
        ("1\n", "no decimal"),
        ("1_000", "no decimal"),
        ("1,5", "no decimal"),
        ("٣", "no decimal"),
        ("１", "no decimal"),
        ("0x10", "no decimal"),
        ("--1", "no decimal"),
        (".", "no decimal"),
        ("e5", "no decimal"),
        ("1\0", "no decimal"),
        ("\ud800", "no decimal"),
        ("1e99999", "no decimal"),
        ("1.0000000000000000001", "more than 18 decimal places"),
        ("1e-19", "more than 18 decimal places"),
        ("1e-9999", "more than 18 decimal places"),
        # Rounded to a hundred digits, these would have been whole.
        ("1." + "0" * 150 + "1", "more than 18 decimal places"),
        (Decimal("1." + "0" * 150 + "1"), "more than 18 decimal places"),
        ("9" * 300, "too large"),
        ("9" * 401, "longer than"),
        (Decimal("9" * 5_000), "more than 400 digits"),
        (Decimal("1e999999"), "too large"),
        (10**100, "too large"),
        (10**6_000, "too large"),
        (-(10**6_000), "too large"),
    ],
    ids=lambda one: str(one)[:20] if not isinstance(one, int) else "integer",
)
def test_what_is_not_is_refused_by_name(value: object, why: str) -> None:
    for take in (scaled, lambda one: token_units(one, 6)):
        with pytest.raises(AmountInvalid) as refused:
            take(value)  # type: ignore[arg-type]
        said = str(refused.value)
        assert isinstance(refused.value, PSymmError)
        assert said.isprintable()
        assert len(said) < 250
    with pytest.raises(AmountInvalid, match=why):
        scaled(value)  # type: ignore[arg-type]


def test_an_amount_of_tokens_has_their_decimals_and_is_not_below_zero() -> None:
    assert token_units("0.000001", 6) == 1
    assert token_units("7", 0) == 7
    assert token_units("-0", 6) == 0
    for value, decimals in (("0.0000001", 6), ("0.5", 0), ("-1", 6), (-1, 0)):
        with pytest.raises(AmountInvalid):
            token_units(value, decimals)


@pytest.mark.parametrize("decimals", [-1, 19, 24, True, None, "6", 6.0])
def test_decimals_that_no_token_has_are_refused(decimals: object) -> None:
    with pytest.raises(AmountInvalid, match="number of decimals"):
        token_units("1", decimals)  # type: ignore[arg-type]
    with pytest.raises(AmountInvalid, match="number of decimals"):
        tokens_of(1, decimals)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, 1.0, "1", True, 10**100, Decimal(1)])
def test_what_is_no_integer_is_shown_as_none(value: object) -> None:
    for show in (decimal_of, lambda one: tokens_of(one, 6)):
        with pytest.raises(AmountInvalid):
            show(value)  # type: ignore[arg-type]


@given(st.integers(-(2**256) + 1, 2**256 - 1), st.integers(0, 18))
def test_every_amount_comes_back_as_it_went_out(units: int, decimals: int) -> None:
    assert scaled(decimal_of(units)) == units
    assert scaled(str(decimal_of(units))) == units
    if units >= 0:
        assert token_units(tokens_of(units, decimals), decimals) == units


@given(st.one_of(st.text(max_size=40), st.decimals(), st.floats(), st.integers(), st.binary()))
def test_anything_else_ends_in_a_number_or_in_this_error(value: object) -> None:
    try:
        units = scaled(value)  # type: ignore[arg-type]
    except AmountInvalid:
        return
    assert isinstance(value, str | int | Decimal)
    assert Fraction(units, 10**18) == Fraction(value)
