"""Numbers at the edge of the package: decimals outside, integers scaled by 10**18 inside.

We take a number exactly or refuse it. Floats are refused: 0.1 is not a price. So are texts that
Python reads as numbers but people may read otherwise (`1_000`, digits of other scripts, spaces).
"""

from __future__ import annotations

import operator
import re
from decimal import Context, Decimal
from typing import Final, TypeAlias

from psymm.errors import PSymmError, clip

Number: TypeAlias = Decimal | str | int
"""A price, quantity or amount: Decimal("50000.5"), "50000.5" or 50000."""

_MOST_BITS: Final = 256
"""The most bits of a number in units; no contract counts higher."""
_MOST_DECIMALS: Final = 18
_MOST_TEXT: Final = 400
_EXACT: Final = Context(prec=_MOST_TEXT)
_TEXT: Final = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")


class AmountInvalid(PSymmError, TypeError, ValueError):
    """Not a number, or not one that we can take exactly.

    It is also a TypeError and a ValueError, because Python's own conversions raise those.
    """

    code = "bad-amount"
    remedy = 'Give a Decimal, a str such as "1000.5", or an int'

    def __init__(self, given: object, reason: str) -> None:
        self.given = given
        self.reason = reason
        super().__init__(f"{_shown(given)} {reason}")


def token_units(value: Number, decimals: int) -> int:
    """Whole tokens as units of a token with that many decimals, 0 to 18. Raises AmountInvalid as
    `scaled` does, and below zero."""
    units = scaled(value, _places(decimals))
    if units < 0:
        raise AmountInvalid(value, "is below zero, and an amount of tokens is not")
    return units


def tokens_of(units: int, decimals: int) -> Decimal:
    """Units as whole tokens. Raises AmountInvalid if the value is not an integer."""
    return decimal_of(units, _places(decimals))


def decimal_of(value: int, places: int = _MOST_DECIMALS) -> Decimal:
    """From an integer scaled by 10**places. Raises AmountInvalid if the value is not one."""
    number = value if type(value) is int else _integer(value)
    if number is None or number.bit_length() > _MOST_BITS:
        raise AmountInvalid(value, "is no integer of at most 256 bits")
    whole, part = divmod(number, 10**places)
    if not part:
        return Decimal(whole)
    return Decimal(number).scaleb(-places, context=_EXACT).normalize(_EXACT)


def scaled(value: Number, places: int = _MOST_DECIMALS) -> int:
    """As an integer scaled by 10**places. Raises AmountInvalid unless the value is a finite decimal
    of at most that many places."""
    number = value if type(value) is int else _integer(value)
    if number is not None:
        digits, exponent, negative = abs(number), 0, number < 0
        if number.bit_length() > _MOST_BITS:
            raise AmountInvalid(value, "is too large")
    else:
        digits, exponent, negative = _parts(value)
    if digits == 0:
        return 0
    exponent += places
    if exponent < 0:
        # Zeros at the end carry nothing. Any other digit would be lost.
        units, lost = divmod(digits, int(10 ** min(-exponent, _MOST_TEXT + 1)))
        if lost:
            raise AmountInvalid(value, f"has more than {places} decimal places")
    elif exponent > _MOST_BITS:
        raise AmountInvalid(value, "is too large")
    else:
        units = digits * int(10**exponent)
    if units.bit_length() > _MOST_BITS:
        raise AmountInvalid(value, "is too large")
    return -units if negative else units


def _parts(value: object) -> tuple[int, int, bool]:
    """(digits, exponent, negative) of a Decimal or a text."""
    if isinstance(value, str):
        if len(value) > _MOST_TEXT:
            raise AmountInvalid(value, f"is longer than {_MOST_TEXT} characters")
        if not _TEXT.fullmatch(value):
            raise AmountInvalid(value, "is no decimal")
        value = Decimal(value)
    if not isinstance(value, Decimal):
        kind = type(value).__name__
        said = "is a float and so may not be what was meant" if isinstance(value, float) else ""
        raise AmountInvalid(value, said or f"is of type {kind}, which is no number")
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise AmountInvalid(value, "is no finite decimal")
    if len(digits) > _MOST_TEXT:
        raise AmountInvalid(value, f"has more than {_MOST_TEXT} digits")
    return int("".join(map(str, digits)) or "0"), exponent, bool(sign)


def _integer(value: object) -> int | None:
    """An int, or what converts to one exactly, as NumPy's integers do."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    try:
        return operator.index(value)
    except TypeError:  # An array of several.
        return None


def _places(decimals: int) -> int:
    if isinstance(decimals, bool) or not isinstance(decimals, int):
        raise AmountInvalid(decimals, "is no number of decimals")
    if not 0 <= decimals <= _MOST_DECIMALS:
        raise AmountInvalid(decimals, f"is no number of decimals from 0 to {_MOST_DECIMALS}")
    return decimals


def _shown(given: object) -> str:
    if isinstance(given, int) and given.bit_length() > _MOST_BITS:
        return f"an integer of {given.bit_length()} bits"
    if isinstance(given, Decimal | str | int | float | bytes | None):
        return clip(repr(given[:60] if isinstance(given, str | bytes) else given), 60)
    return f"a value of type {type(given).__name__}"
