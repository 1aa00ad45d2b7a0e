"""Where a signer's own prices come from.

`PriceSource` is the interface. `PriceBoard` holds the newest values that a program wrote line by
line, from `psymm oracle`'s standard input or a local socket. The command line adds a replay of
recorded series.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, Protocol

from psymm._core import JsonError, parse_decimal
from psymm.oracle.rounds import OracleError, RoundLeaf
from psymm.strict_json import loads

MOST_LINE_BYTES: Final = 1024
_NESTING: Final = 1


class LineInvalid(OracleError):
    """A line that is no price and no funding rate."""

    code = "oracle-line"
    what = "the line is no price"
    remedy = (
        'Write a price as {"feed":"BTC/USD","price":"67012.5"}, and a funding rate as '
        '{"feed":"BTC/USD","epoch":"1700000000000000000","rate":"-0.0001"}, one a line'
    )


class PriceSource(Protocol):
    """A signer's own prices."""

    def read(self, at_ns: int) -> Sequence[RoundLeaf]:
        """The prices and funding rates for a moment of the grid, which is now or a moment ago.
        A feed without a price that is fresh enough is left out. Does not block or raise."""
        ...


class PriceBoard:
    """The newest value of each feed that was written.

    Args:
        feeds: all feeds that may be written.
        stale_ns: a price that was written longer ago is left out.
    """

    def __init__(self, feeds: Collection[str], stale_ns: int) -> None:
        self._feeds = frozenset(feeds)
        self._stale_ns = stale_ns
        self._prices: dict[str, tuple[int, RoundLeaf]] = {}
        self._rates: dict[str, RoundLeaf] = {}

    def write(self, line: str | bytes, now_ns: int) -> None:
        """Take one line. A rate of an epoch before the newest of its feed is left out. Raises
        LineInvalid, LeafInvalid; then nothing changes."""
        leaf = decode_line(line)
        if leaf.feed not in self._feeds:
            raise LineInvalid("this feed is not configured", feed=leaf.feed)
        if not leaf.epoch:
            self._prices[leaf.feed] = now_ns, leaf
        elif leaf.feed not in self._rates or leaf.epoch >= self._rates[leaf.feed].epoch:
            self._rates[leaf.feed] = leaf

    def read(self, at_ns: int) -> list[RoundLeaf]:
        """As in `PriceSource`. A rate is left out until its epoch has come."""
        fresh = [leaf for at, leaf in self._prices.values() if at_ns - at <= self._stale_ns]
        return fresh + [leaf for leaf in self._rates.values() if leaf.epoch <= at_ns]


def decode_line(line: str | bytes) -> RoundLeaf:
    """The leaf of a line. Raises LineInvalid, LeafInvalid."""
    if len(line) > MOST_LINE_BYTES:
        raise LineInvalid("it is too long", most=MOST_LINE_BYTES)
    try:
        found = loads(line, _NESTING)
    except ValueError:
        raise LineInvalid("it is not JSON") from None
    match found:
        case {"feed": str(feed), "price": str(price), **rest} if not rest:
            return RoundLeaf(feed, _decimal(price))
        case {"feed": str(feed), "epoch": str(epoch), "rate": str(rate), **rest} if not rest:
            if not epoch.isascii() or not epoch.isdigit() or len(epoch) > 20 or epoch[0] == "0":
                raise LineInvalid("its epoch is no moment")
            return RoundLeaf(feed, _decimal(rate), int(epoch))
    raise LineInvalid()


def _decimal(text: str) -> int:
    try:
        return parse_decimal(text)
    except JsonError:
        raise LineInvalid(f"{text[:48]!a} is no decimal in its shortest form") from None
