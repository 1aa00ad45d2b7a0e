"""The terms: the document that both parties accept at logon, identified by its keccak256.

Theory of operation. The document is strict JSON; `document` reads and writes it from the
dataclasses here, whose annotations say what each field is. A solver builds ``Terms`` in Python,
which makes the document; a trader gets the bytes, and ``Terms.parse`` keeps exactly those for the
hash. Both ways check each value's form, then the rules between values (``_check``). A ``Terms``
never changes, so sessions under the same document share one object. Nothing here is stored: the
bytes are in the custody's agreement, in journal and transcript.

Prices, quantities, rates and notionals are integers scaled by 10**18, token amounts integers in
token units, times and durations integers in nanoseconds, addresses checksummed strings. Every
refusal is a ``TermsError`` that names the field.

Public API: ``Terms`` and its parts. Errors: ``TermsError`` and its subclasses.
"""

from __future__ import annotations

import dataclasses
import json
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
    "RULES",
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
RULES: Final = "1"
"""The version of the rulebook that this program follows (``spec.md`` 9)."""
_MAX_BYTES: Final = 65_536
_MAX_INSTRUMENTS: Final = 256
_MAX_SIGNERS: Final = 16

MOST_FRAMES: Final = 1_024
MOST_BYTES: Final = 196_608
"""The most that a lane may send between checkpoints, in whole frames (``spec.md`` 10)."""
CLOSING_BYTES: Final = 98_304
"""What a lane at its limit may still send to checkpoint, settle, price and liquidate."""
ACCOUNT_BYTES: Final = 196_608
"""No account's document is longer: `MOST_OPEN` bounds it (``spec.md`` 11)."""
MOST_EVIDENCE: Final = 1_000_000
"""The most bytes that a court is shown by one side (``spec.md`` 14)."""
MOST_OPEN: Final = 64
"""The most orders, positions, quotes, and quote requests that may be open."""
MOST_SYMBOL: Final = 32
"""The longest symbol, in bytes: it stands in each order and position of an account."""
_OPENING_BYTES: Final = 32_768
"""Both Logons, UCPs and key changes, note openings, and the form around all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRef:
    """The chain and contracts of the collateral.

    Attributes:
        id: the chain id.
        psymm: the pool contract.
        registry: the registry contract.
        confirmations: how many blocks deep an event must be to count; 1 is its own block.
    """

    id: Whole
    psymm: Address
    registry: Address
    confirmations: Whole = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CollateralTerms:
    """The collateral's token and amounts; all amounts are token units.

    Attributes:
        decimals: of the token.
        trader_minimum: the least collateral of the trader that must be accepted before trading.
        solver_minimum: the same for the solver.
        trader_reserve: the part of the trader's collateral that PnL never reaches, for penalties.
        solver_reserve: the same for the solver.
    """

    token: Address
    decimals: Whole
    trader_minimum: Whole
    solver_minimum: Whole
    trader_reserve: Whole = 0
    solver_reserve: Whole = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What one side locks for a position, as shares of its notional.

    Attributes:
        cva: credit valuation adjustment: what a liquidated side pays to the other.
        lf: liquidation fee, for the side that liquidates.
        mm: maintenance margin; at least cva + lf.
    """

    cva: Decimal
    lf: Decimal
    mm: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """An instrument that can be traded.

    Attributes:
        tick: prices are multiples of it.
        lot: quantities are multiples of it.
        min_notional: of one order.
        max_notional: of one order.
        max_leverage: at most this many times a side's equity may be open in the instrument.
        trader: what the trader locks.
        solver: what the solver locks.
        open_fee: a share of an opening fill's notional.
        close_fee: a share of a closing fill's notional.
        fee_receiver: the side that gets the fees from the other.
        funding_epoch: the time between two funding payments.
        funding_window: the part of an epoch in which the solver may choose the time of its funding.
        funding_cap: the highest funding rate of one epoch.
        feed: the oracle's name for the price.
    """

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
    """Durations, in nanoseconds.

    Attributes:
        heartbeat: the time between two heartbeats of a silent party.
        acknowledgement: the T of legal time.
        skew: how far ahead of the receiver's clock a frame may be dated.
        quote_life: the longest life of a quote.
        force_cancel_cooldown: how long after a request a cancel can be forced.
        force_close_cooldown: the same for a close.
        settlement: how far ahead a settlement's deadline may be.
        idle_end: after this time without business, a custody is offered its settlement.
    """

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
    """The price oracle. Without signers no oracle price is ever in effect, and margin is computed
    at entry prices.

    Attributes:
        signers: whose signatures count.
        threshold: how many signers must agree.
        validity: how long a price may be used, nanoseconds.
    """

    signers: tuple[Address, ...] = ()
    threshold: Whole = 0
    validity: Seconds = 60 * NANOSECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """Costs, in token units.

    Attributes:
        evidence_byte: what the guilty side pays for each byte of evidence.
        notice: what a side pays for covering a frame only after a notice.
        relayer_cap: the highest fee of a relayer for one move.
    """

    evidence_byte: Whole = 0
    notice: Whole = 0
    relayer_cap: Whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may be open or sent.

    Attributes:
        open_orders: at once, at most 64; a position's close does not count.
        open_quotes: at once, at most 64; as many quote requests may be open.
        positions: at once, at most 64.
        price_band: the share by which an opening price may differ from the oracle's.
        frames_per_second: of one lane.
        frames: of one lane since the last checkpoint, at most 1,024.
        bytes: of one lane since the last checkpoint, in whole frames, at most 196,608.
        evidence_bytes: the most that a court is shown.
    """

    open_orders: Whole = MOST_OPEN
    open_quotes: Whole = MOST_OPEN
    positions: Whole = MOST_OPEN
    price_band: Decimal = UNIT // 10
    frames_per_second: Whole = 200
    frames: Whole = MOST_FRAMES
    bytes: Whole = MOST_BYTES
    evidence_bytes: Whole = MOST_EVIDENCE


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The terms.

    Attributes:
        rules: the version of the rulebook that the custody follows (``spec.md`` 9).
        force_close_gap: the share of the price that a forced close costs.
        end_date: nanoseconds since the epoch; from then on either side may close at the oracle's
            price.
        document: the bytes that are hashed. Two terms are equal iff their documents are.
    """

    rules: Text = field(default=RULES, compare=False)
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

        While an object of the same bytes exists, it is returned again, so a thousand sessions under
        one document share it.
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

    # Another version may rule anything else otherwise, so nothing below would be known to hold.
    if terms.rules != RULES:
        raise TermsUnknownVersion(found=f"rules {ascii(terms.rules)[:80]}", known=f"rules {RULES}")
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
    _check_limits(terms.limits)


def _check_limits(limits: Limits) -> None:
    for limit in dataclasses.fields(limits):
        if getattr(limits, limit.name) <= 0:
            raise TermsUnsound("a limit is zero", limit=limit.name)
    # The account must fit into evidence, and so must both lanes since the checkpoint. Evidence that
    # is too long counts as none, so its owner would lose (``spec.md`` 10, 11).
    for name, most in (
        ("open_orders", MOST_OPEN),
        ("open_quotes", MOST_OPEN),
        ("positions", MOST_OPEN),
        ("frames", MOST_FRAMES),
        ("bytes", MOST_BYTES),
        ("evidence_bytes", MOST_EVIDENCE),
    ):
        if getattr(limits, name) > most:
            raise TermsUnsound("a limit is above what fits into evidence", limit=name, most=most)
    needed = 2 * (limits.bytes + CLOSING_BYTES) + ACCOUNT_BYTES + _MAX_BYTES + _OPENING_BYTES
    if needed > limits.evidence_bytes:
        raise TermsUnsound(
            "what must be shown to a court is more than evidence may be",
            needed=needed,
            evidence_bytes=limits.evidence_bytes,
        )


def _check_oracle(oracle: Oracle) -> None:
    if len(oracle.signers) > _MAX_SIGNERS:
        raise TermsUnsound("there are at most 16 oracle signers", signers=len(oracle.signers))
    if len(set(oracle.signers)) != len(oracle.signers):
        raise TermsUnsound("an oracle signer is listed twice")
    if not (1 if oracle.signers else 0) <= oracle.threshold <= len(oracle.signers):
        raise TermsUnsound("the oracle's threshold is out of range", threshold=oracle.threshold)


def _check_instrument(each: Instrument) -> None:
    def unsound(rule: str, **values: object) -> None:
        raise TermsUnsound(rule, symbol=each.symbol, **values)

    # As JSON, which escapes some characters: so it stands in an account's document.
    if len(json.dumps(each.symbol, ensure_ascii=False).encode()) - 2 > MOST_SYMBOL:
        unsound("a symbol has at most 32 bytes as JSON")
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
