"""Prices that a market maker quotes around: constant ones, or a replayed real market series.

A replay goes through the recorded values in order and stays at the last. It advances with the
clock, `values_per_s` from its start, or with trading, `values_per_quote` after each firm quote;
then prices do not depend on the machine's speed. It never interpolates: every price is a recorded
one. The series come from the PyPI package `arch` (extra `demo`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal
from importlib import import_module
from typing import Protocol

from psymm.api.amounts import AmountInvalid, scaled
from psymm.cli.exit_status import CommandError, Exit

ONE = 10**18
NS = 10**9


class Feed(Protocol):
    """Prices by symbol, scaled 1e18, as a function of time and of the quotes given so far."""

    @property
    def symbols(self) -> Sequence[str]: ...

    def price(self, symbol: str, at_ns: int) -> int:
        """The price at `at_ns` since the epoch. KeyError for a symbol that is not in the feed."""
        ...

    def says(self, symbol: str, at_ns: int) -> str:
        """The source of that price, for a person, e.g. `sp500 Close of 2018-10-04`."""
        ...

    def quoted(self) -> None:
        """To be called after each firm quote; the next price may differ."""
        ...


@dataclass(frozen=True)
class ConstantFeed:
    """Prices that never change."""

    prices: Mapping[str, int]

    @property
    def symbols(self) -> Sequence[str]:
        return list(self.prices)

    def price(self, symbol: str, at_ns: int) -> int:
        return self.prices[symbol]

    def says(self, symbol: str, at_ns: int) -> str:
        return "constant"

    def quoted(self) -> None:
        pass


@dataclass(frozen=True)
class Series:
    """Recorded values, oldest first: the day, and the price scaled 1e18."""

    name: str
    values: Sequence[tuple[date, int]]


@dataclass
class ReplayFeed:
    """Several series, replayed together.

    Attributes:
        started_ns: when the replay starts, nanoseconds since the epoch.
        values_per_s: how far it advances with the clock.
        values_per_quote: how far it advances with each firm quote.
        quotes: how many quotes were given.
    """

    series: Mapping[str, Series]
    started_ns: int
    values_per_s: Decimal
    values_per_quote: int = 0
    quotes: int = 0

    @property
    def symbols(self) -> Sequence[str]:
        return list(self.series)

    def price(self, symbol: str, at_ns: int) -> int:
        return self._value(symbol, at_ns)[1]

    def says(self, symbol: str, at_ns: int) -> str:
        return f"{self.series[symbol].name} of {self._value(symbol, at_ns)[0].isoformat()}"

    def quoted(self) -> None:
        self.quotes += 1

    def _value(self, symbol: str, at_ns: int) -> tuple[date, int]:
        values = self.series[symbol].values
        gone_ns = max(0, at_ns - self.started_ns)
        place = int(gone_ns * self.values_per_s / NS) + self.quotes * self.values_per_quote
        return values[min(place, len(values) - 1)]


def load_series(name: str, first: date | None = None, last: date | None = None) -> Series:
    """A series of `arch.data`, named `module` or `module:column`, e.g. `sp500:Close`.

    Days without a value, or with one that is not above zero, are left out.

    Raises CommandError: `no-arch` (the extra `demo` is not installed), `no-series`, `empty-series`.
    """
    module, _, column = name.partition(":")
    try:
        import_module("arch.data")
    except ImportError:
        raise CommandError(
            "no-arch",
            "Replayed prices come from the package `arch`; install psymm[demo], "
            "or give constant prices.",
            Exit.USAGE,
        ) from None
    if not module.isidentifier():
        raise CommandError("no-series", f"{name!r} is not a series of arch.data.", Exit.USAGE)
    try:
        frame = import_module(f"arch.data.{module}").load()
    except (ImportError, AttributeError):
        raise CommandError(
            "no-series",
            f"arch.data has no series {module!r}; try sp500, nasdaq or wti.",
            Exit.USAGE,
        ) from None
    columns = [str(one) for one in frame.columns]
    chosen = column or ("Close" if "Close" in columns else columns[0])
    if chosen not in columns:
        raise CommandError(
            "no-series",
            f"arch.data.{module} has no column {chosen!r}; it has {', '.join(columns)}.",
            Exit.USAGE,
        )
    values: list[tuple[date, int]] = []
    for moment, value in frame[chosen].items():
        day = moment.date()
        if (first and day < first) or (last and day > last):
            continue
        # Floats end here. The series have few digits, so six decimals keep them exactly.
        price = Decimal(repr(float(value)))
        if price.is_finite() and price > 0:
            values.append((day, scaled(price.quantize(Decimal("0.000001"), ROUND_HALF_EVEN))))
    if not values:
        raise CommandError(
            "empty-series", f"{name} has no prices between {first} and {last}.", Exit.USAGE
        )
    return Series(f"{module} {chosen}", values)


def parse_price(text: str, name: str) -> int:
    """A positive decimal of a configuration, scaled 1e18; CommandError `bad-config` otherwise."""
    with suppress(AmountInvalid):
        if (price := scaled(text)) > 0:
            return price
    raise CommandError(
        "bad-config",
        f"{name}: {text!r} is not a positive decimal of at most 18 places.",
        Exit.USAGE,
    )
