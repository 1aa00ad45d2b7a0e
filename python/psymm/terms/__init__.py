"""The terms: the one document that both parties accept at logon, known by its keccak256.

Prices, quantities, rates and notionals are integers scaled by 10**18, token amounts integers in
token units, times integers in nanoseconds, addresses checksummed strings. ``Terms.parse`` is
strict; every refusal is a ``TermsError`` that names the field.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final
from weakref import WeakValueDictionary

from psymm._core import keccak256
from psymm.terms.document import (
    NANOSECONDS,
    UNIT,
    Address,
    Decimal,
    KindName,
    LaneName,
    Seconds,
    TermsBadValue,
    TermsDuplicateKey,
    TermsError,
    TermsMissingField,
    TermsNotJson,
    TermsUnknownField,
    TermsUnknownVersion,
    TermsUnsound,
    Text,
    Whole,
    check,
    checksummed,
    dump,
    load,
    read,
    write,
)

__all__ = [
    "NANOSECONDS",
    "SCHEMA",
    "UNIT",
    "ChainRef",
    "CollateralTerms",
    "Instrument",
    "Limits",
    "Oracle",
    "Rates",
    "Tariff",
    "Terms",
    "TermsBadValue",
    "TermsDuplicateKey",
    "TermsError",
    "TermsMissingField",
    "TermsNotJson",
    "TermsUnknownField",
    "TermsUnknownVersion",
    "TermsUnsound",
    "Timeouts",
    "checksummed",
]

SCHEMA: Final = "psymm-terms/1"
_MAX_BYTES: Final = 131_072
_MAX_INSTRUMENTS: Final = 256
_MAX_SIGNERS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRef:
    """Where the collateral lives. An event counts once it is ``confirmations`` blocks deep; 1 is
    the block that holds it."""

    id: Whole
    psymm: Address
    registry: Address
    confirmations: Whole = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CollateralTerms:
    """The token, the least that each side must have accepted before trading opens, and the part
    of each side's collateral that PnL never reaches (the penalty reserve), in token units."""

    token: Address
    decimals: Whole
    trader_minimum: Whole
    solver_minimum: Whole
    trader_reserve: Whole = 0
    solver_reserve: Whole = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What one side locks for a position, each as a share of its notional."""

    cva: Decimal
    lf: Decimal
    mm: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """What can be traded. Fees are shares of a fill's notional, paid to ``fee_receiver`` by the
    other side. At most ``max_leverage`` times a side's equity may be open in the instrument."""

    symbol: Text
    kind: KindName = "perpetual"
    tick: Decimal
    lot: Decimal
    min_notional: Decimal
    max_notional: Decimal
    max_leverage: Decimal
    trader: Rates
    solver: Rates
    open_fee: Decimal = 0
    close_fee: Decimal = 0
    fee_receiver: LaneName = "solver"
    funding_epoch: Seconds = 8 * 3600 * NANOSECONDS
    funding_window: Seconds = 300 * NANOSECONDS
    funding_cap: Decimal = UNIT // 100
    feed: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """All in nanoseconds. ``acknowledgement`` is the T of legal time; ``quote_life`` the longest
    that a quote may live; ``idle_end`` how long a silent custody stays open."""

    heartbeat: Seconds = 5 * NANOSECONDS
    acknowledgement: Seconds = 10 * NANOSECONDS
    skew: Seconds = 2 * NANOSECONDS
    quote_life: Seconds = 60 * NANOSECONDS
    force_cancel_cooldown: Seconds = 300 * NANOSECONDS
    force_close_cooldown: Seconds = 300 * NANOSECONDS
    settlement: Seconds = 3600 * NANOSECONDS
    idle_end: Seconds = 30 * 86_400 * NANOSECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle:
    """Who signs prices, how many must agree, and how long a price may be used. No signers: no
    oracle price is ever in effect, and margin is reckoned at entry prices."""

    signers: tuple[Address, ...] = ()
    threshold: Whole = 0
    validity: Seconds = 60 * NANOSECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """What the guilty side owes: for evidence in token units a byte, and for covering a frame
    only after a notice. The relayer's fee for one move is at most ``relayer_cap`` token units."""

    evidence_byte: Whole = 0
    notice: Whole = 0
    relayer_cap: Whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may be open or sent. Frames and bytes are of one lane since the last checkpoint;
    ``evidence_bytes`` bounds what a court is shown; ``price_band`` is the farthest that an
    opening price may stand from the oracle's, as a share of it."""

    open_orders: Whole = 64
    open_quotes: Whole = 256
    positions: Whole = 64
    price_band: Decimal = UNIT // 10
    frames_per_second: Whole = 200
    frames: Whole = 1_000_000
    bytes: Whole = 512_000_000
    evidence_bytes: Whole = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The terms. ``document`` is the bytes that were hashed; two terms are equal iff it is."""

    chain: ChainRef = field(compare=False)
    collateral: CollateralTerms = field(compare=False)
    instruments: tuple[Instrument, ...] = field(compare=False)
    timeouts: Timeouts = field(default_factory=Timeouts, compare=False)
    force_close_gap: Decimal = field(default=UNIT // 100, compare=False)
    end_date: Seconds = field(compare=False)
    oracle: Oracle = field(default_factory=Oracle, compare=False)
    tariff: Tariff = field(compare=False)
    limits: Limits = field(default_factory=Limits, compare=False)
    document: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check(self, Terms, "terms")
        object.__setattr__(self, "document", dump(SCHEMA, write(self, Terms)))
        _check(self)

    @staticmethod
    def parse(document: bytes) -> Terms:
        """Terms from their bytes, which are kept for the hash. Raises TermsError.

        While a value of the same bytes lives, it is given again: a thousand sessions under one
        document hold it once.
        """
        known = _parsed.get(document)
        if known is not None:
            return known
        if len(document) > _MAX_BYTES:
            raise TermsBadValue(field="terms", wanted=f"at most {_MAX_BYTES} bytes")
        found = load(document)
        schema = found.pop("schema", None)
        if schema is None:
            raise TermsMissingField(field="terms.schema")
        if schema != SCHEMA:
            raise TermsUnknownVersion(found=ascii(schema)[:80], known=SCHEMA)
        terms = read(Terms, found, "terms")
        object.__setattr__(terms, "document", bytes(document))
        _parsed[terms.document] = terms
        return terms

    @cached_property
    def hash(self) -> bytes:
        """keccak256 of the document's bytes."""
        return keccak256(self.document)

    @cached_property
    def by_symbol(self) -> dict[str, Instrument]:
        """The instruments by their symbol."""
        return {each.symbol: each for each in self.instruments}

    @cached_property
    def minima(self) -> tuple[int, int]:
        """The least collateral of trader and solver, in token units."""
        return self.collateral.trader_minimum, self.collateral.solver_minimum

    @cached_property
    def reserves(self) -> tuple[int, int]:
        """The penalty reserves of trader and solver, in token units."""
        return self.collateral.trader_reserve, self.collateral.solver_reserve

    def instrument(self, symbol: str) -> Instrument | None:
        """The instrument of that symbol, if the terms have it."""
        return self.by_symbol.get(symbol)

    def minimum(self, lane: int) -> int:
        """The least collateral of a lane, in token units."""
        return self.minima[lane]

    def reserve(self, lane: int) -> int:
        """The penalty reserve of a lane, in token units."""
        return self.reserves[lane]

    @cached_property
    def token_scale(self) -> int:
        """What one token unit is at 18 decimals."""
        return int(10 ** (18 - self.collateral.decimals))


_parsed: WeakValueDictionary[bytes, Terms] = WeakValueDictionary()


def _check(terms: Terms) -> None:
    def unsound(rule: str, **values: object) -> None:
        raise TermsUnsound(rule, **values)

    chain, collateral, times = terms.chain, terms.collateral, terms.timeouts
    if chain.confirmations < 1:
        unsound("an event needs at least the block that holds it", confirmations=0)
    if collateral.decimals > 18:
        unsound("the token has at most 18 decimals", decimals=collateral.decimals)
    for lane, name in enumerate(("trader", "solver")):
        if terms.reserve(lane) > terms.minimum(lane):
            unsound(f"the {name}'s reserve is above its minimum", reserve=terms.reserve(lane))
        if terms.minimum(lane) < 1:
            unsound(f"the {name} puts up nothing", minimum=terms.minimum(lane))
    if not 1 <= len(terms.instruments) <= _MAX_INSTRUMENTS:
        unsound("there are 1 to 256 instruments", instruments=len(terms.instruments))
    if len({each.symbol for each in terms.instruments}) != len(terms.instruments):
        unsound("two instruments have one symbol")
    for each in terms.instruments:
        _check_instrument(each)
    for span in dataclasses.fields(times):
        if getattr(times, span.name) <= 0:
            unsound("a timeout is zero", timeout=span.name)
    if times.skew >= times.acknowledgement:
        unsound("the skew is not below the acknowledgement timeout")
    _check_oracle(terms.oracle)
    for limit in dataclasses.fields(terms.limits):
        if getattr(terms.limits, limit.name) <= 0:
            unsound("a limit is zero", limit=limit.name)


def _check_oracle(oracle: Oracle) -> None:
    if len(oracle.signers) > _MAX_SIGNERS:
        raise TermsUnsound("there are at most 16 oracle signers", signers=len(oracle.signers))
    if len(set(oracle.signers)) != len(oracle.signers):
        raise TermsUnsound("an oracle signer stands twice")
    if not (1 if oracle.signers else 0) <= oracle.threshold <= len(oracle.signers):
        raise TermsUnsound("the oracle's threshold is out of range", threshold=oracle.threshold)


def _check_instrument(each: Instrument) -> None:
    def unsound(rule: str, **values: object) -> None:
        raise TermsUnsound(rule, symbol=each.symbol, **values)

    if each.tick <= 0 or each.lot <= 0:
        unsound("tick and lot are above zero")
    if each.max_notional <= 0 or each.min_notional > each.max_notional:
        unsound("the notional bounds leave nothing to trade")
    if each.max_leverage < UNIT:
        unsound("the maximum leverage is below 1")
    for name, rates in (("trader", each.trader), ("solver", each.solver)):
        if rates.mm < rates.cva + rates.lf:
            unsound(f"the {name}'s MM is below CVA + LF: a liquidation could not pay them")
        if rates.mm <= 0:
            unsound(f"the {name} locks no maintenance margin")
    if each.open_fee >= UNIT or each.close_fee >= UNIT:
        unsound("a fee is the whole notional or more")
    if each.funding_epoch <= 0 or not 0 < each.funding_window <= each.funding_epoch:
        unsound("the funding window does not fit into its epoch")
