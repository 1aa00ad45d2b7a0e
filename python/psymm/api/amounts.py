"""Numbers at the edge of the package: decimals outside, integers scaled by 10**18 inside.

Floats are refused: 0.1 is not a price.
"""

from __future__ import annotations

from decimal import Context, Decimal, InvalidOperation
from typing import TypeAlias

Number: TypeAlias = Decimal | str | int
"""A price, quantity or amount: Decimal("50000.5"), "50000.5" or 50000."""

_EXACT = Context(prec=120)


def scaled(value: Number) -> int:
    """As an integer scaled by 10**18. Raises TypeError for a float, ValueError for what is no
    decimal of at most 18 places."""
    return _units(value, 18)


def decimal_of(value: int) -> Decimal:
    """From an integer scaled by 10**18."""
    return _shortest(Decimal(value).scaleb(-18, context=_EXACT))


def token_units(value: Number, decimals: int) -> int:
    """Whole tokens as units of a token with that many decimals. Raises as `scaled`."""
    return _units(value, decimals)


def tokens_of(units: int, decimals: int) -> Decimal:
    """Units as whole tokens."""
    return _shortest(Decimal(units).scaleb(-decimals, context=_EXACT))


def _shortest(value: Decimal) -> Decimal:
    """Without trailing zeros, and without an exponent when printed."""
    plain = value.normalize(_EXACT)
    exponent = plain.as_tuple().exponent
    if isinstance(exponent, int) and exponent > 0:
        return plain.quantize(Decimal(1), context=_EXACT)
    return plain


def _units(value: Number, places: int) -> int:
    if isinstance(value, float | bool) or not isinstance(value, Decimal | str | int):
        raise TypeError(f"give a Decimal, str or int, not {type(value).__name__}")
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise ValueError(f"{value!r} is no decimal") from None
    if not number.is_finite():
        raise ValueError(f"{value!r} is no finite decimal")
    moved = number.scaleb(places, context=_EXACT)
    if moved != moved.to_integral_value():
        raise ValueError(f"{value} has more than {places} decimal places")
    return int(moved)
