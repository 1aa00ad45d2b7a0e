"""An oracle signer's configuration file (TOML): the signers, and where this one's prices come from.

    threshold = 2                   # how many must sign the same root; more than half
    tolerance = "0.002"             # the share by which another's price may differ from ours
    rate_tolerance = "0.00001"      # the difference allowed between two funding rates
    grid_s = 1                      # a round for each of these seconds; as the terms have it
    keep_days = 30                  # how long rounds are kept
    [[signer]]                      # every signer, this one among them
    address = "0x…"
    endpoint = "wss://oracle-1.example:9300"
    [source]
    kind = "lines"                  # prices as JSON lines: {"feed":"BTC/USD","price":"67012.5"}
    socket = "prices.sock"          # a Unix socket in --home; default: standard input
    stale_s = 5                     # a price that is older is left out of the round
    [[feed]]
    name = "BTC/USD"                # as the terms name it: 1 to 32 ASCII characters, no spaces

A replay of recorded series (extra `demo`), the same at every signer:

    [source]
    kind = "replay"
    values_per_second = "1"
    started = 2026-01-01T00:00:00Z
    from = 2018-10-01
    to = 2018-12-31
    funding_epoch_s = 28800         # only where a feed has a funding_rate
    [[feed]]
    name = "sp500:Close"
    series = "sp500:Close"          # default: the name
    funding_rate = "0.0001"         # for each epoch; default: none

With kind = "lines" a funding rate comes as {"feed":"BTC/USD","epoch":"…","rate":"-0.0001"}, where
epoch is the moment that it is charged for, in nanoseconds since 1970. Every amount is a string with
a plain decimal, so that none is ever a float. Unknown keys are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from psymm.api.amounts import AmountInvalid, scaled
from psymm.cli.configuration import (
    bad_config,
    date_of,
    known_keys,
    positive_decimal,
    read_toml,
    text_of,
    whole,
)
from psymm.cli.feed import NS, ReplayFeed, load_series, parse_price
from psymm.oracle.agreement import Tolerance
from psymm.oracle.rounds import FEED_BYTES, RoundLeaf, SignerSet, is_feed
from psymm.oracle.sources import PriceBoard, PriceSource
from psymm.signatures import unhex

MOST_FEEDS: Final = 256
_TOP: Final = frozenset(
    {
        "threshold",
        "tolerance",
        "rate_tolerance",
        "grid_s",
        "keep_days",
        "signer",
        "source",
        "feed",
    }
)
_SIGNER: Final = frozenset({"address", "endpoint"})
_LINES: Final = frozenset({"kind", "socket", "stale_s"})
_REPLAY: Final = frozenset(
    {"kind", "values_per_second", "started", "from", "to", "funding_epoch_s"}
)
_FEED_OF_LINES: Final = frozenset({"name"})
_FEED_OF_REPLAY: Final = frozenset({"name", "series", "funding_rate"})


@dataclass(frozen=True)
class ReplaySource:
    """Recorded series as a `PriceSource`.

    Attributes:
        rates: funding rates by feed, 18 decimals.
        epoch_ns: the time between two funding payments.
    """

    feed: ReplayFeed
    rates: Mapping[str, int]
    epoch_ns: int

    def read(self, at_ns: int) -> list[RoundLeaf]:
        """As in `PriceSource`."""
        epoch = at_ns // self.epoch_ns * self.epoch_ns
        prices = [RoundLeaf(name, self.feed.price(name, at_ns)) for name in self.feed.symbols]
        rates = [RoundLeaf(name, rate, epoch) for name, rate in self.rates.items() if epoch]
        return prices + rates


@dataclass(frozen=True)
class OracleSettings:
    """A checked configuration.

    Attributes:
        endpoints: of all signers, by address.
        source: this signer's own prices.
        board: the source, if prices come as lines.
        socket: the name of the socket in the home for lines; None: standard input.
        keep_s: how long rounds are kept.
    """

    signers: SignerSet
    endpoints: Mapping[str, str]
    tolerance: Tolerance
    grid_ns: int
    keep_s: int
    source: PriceSource
    board: PriceBoard | None
    socket: str | None


def load_oracle(path: Path) -> OracleSettings:
    """Read a signer's configuration.

    Raises CommandError `bad-config` (exit 2) naming the key, or as `load_series` does;
    SignersUnsound; StorageError.
    """
    raw = read_toml(path, bad_config)
    known_keys(raw, _TOP, "the file")
    signers = [known_keys(one, _SIGNER, "a signer") for one in _tables(raw, "signer")]
    endpoints = {_address(one): text_of(one, "endpoint") for one in signers}
    if len(endpoints) != len(signers):
        raise bad_config("an address is named for two signers")
    table = raw.get("source")
    if not isinstance(table, dict):
        raise bad_config("source is written as [source]")
    feeds = _tables(raw, "feed")
    if len(feeds) > MOST_FEEDS:
        raise bad_config(f"there are at most {MOST_FEEDS} feeds")
    names = [_feed_name(one) for one in feeds]
    if len(set(names)) != len(names):
        raise bad_config("a feed is named twice")
    board: PriceBoard | None = None
    source: PriceSource
    match table.get("kind"):
        case "lines":
            known_keys(table, _LINES, "[source] of kind lines")
            for one in feeds:
                known_keys(one, _FEED_OF_LINES, "a feed of kind lines")
            source = board = PriceBoard(names, whole(table, "stale_s", 5) * NS)
        case "replay":
            source = _replay(table, feeds, names)
        case _:
            raise bad_config('source.kind is "lines" or "replay"')
    return OracleSettings(
        signers=SignerSet(tuple(endpoints), whole(raw, "threshold")),
        endpoints=endpoints,
        tolerance=Tolerance(
            parse_price(text_of(raw, "tolerance"), "tolerance"),
            parse_price(text_of(raw, "rate_tolerance", "0.00001"), "rate_tolerance"),
        ),
        grid_ns=whole(raw, "grid_s", 1) * NS,
        keep_s=whole(raw, "keep_days", 30) * 86_400,
        source=source,
        board=board,
        socket=text_of(table, "socket") if "socket" in table else None,
    )


def _replay(
    table: dict[str, Any], feeds: Sequence[dict[str, Any]], names: Sequence[str]
) -> ReplaySource:
    known_keys(table, _REPLAY, "[source] of kind replay")
    for one in feeds:
        known_keys(one, _FEED_OF_REPLAY, "a feed of kind replay")
    started = table.get("started")
    if not isinstance(started, datetime) or started.tzinfo is None:
        # By default each signer would start at another place.
        raise bad_config("source.started is a time with its zone, like 2026-01-01T00:00:00Z")
    first, last = (date_of(table, name) if name in table else None for name in ("from", "to"))
    series = {
        name: load_series(text_of(one, "series", name), first, last)
        for name, one in zip(names, feeds, strict=True)
    }
    rates = {
        name: _rate(one) for name, one in zip(names, feeds, strict=True) if "funding_rate" in one
    }
    if rates and "funding_epoch_s" not in table:
        raise bad_config("[source] needs funding_epoch_s, since a feed has a funding_rate")
    return ReplaySource(
        ReplayFeed(
            series, int(started.timestamp()) * NS, positive_decimal(table, "values_per_second")
        ),
        rates,
        whole(table, "funding_epoch_s", 28_800) * NS,
    )


def _feed_name(table: Mapping[str, Any]) -> str:
    name = text_of(table, "name")
    if not is_feed(name):
        raise bad_config(f"feed {name!a} is not 1 to {FEED_BYTES} ASCII characters without spaces")
    return name


def _address(table: Mapping[str, Any]) -> str:
    from psymm.addresses import checksum

    text = text_of(table, "address")
    raw = unhex(text)
    if raw is None or len(raw) != 20:
        raise bad_config(f"address {text!a} is not 0x and 40 digits")
    if text not in (checksum(raw), "0x" + raw.hex()):
        raise bad_config(f"address {text} has a typing error: its capitals are wrong")
    return checksum(raw)


def _rate(table: Mapping[str, Any]) -> int:
    text = text_of(table, "funding_rate")
    try:
        return scaled(text)
    except AmountInvalid:
        raise bad_config(f"funding_rate: {text!r} is not a decimal of at most 18 places") from None


def _tables(raw: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = raw.get(name)
    if not isinstance(found, list) or not found or not all(isinstance(one, dict) for one in found):
        raise bad_config(f"it needs at least one [[{name}]]")
    return found
