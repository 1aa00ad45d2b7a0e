"""What a party accepts (`spec.md` 62): a trader's limits on terms, a solver's limits on traders.

A solver writes the terms and a trader reads them. So everything in them that can cost the trader
money has a limit here, with a default that an honest solver keeps easily. We check before anything
is journalled or funded; the error names the field, its value and the limit. A limit cannot judge
how good a price is, or who runs an oracle. `psymm.api.words` shows such things to the user.

Shares are decimals: "0.002" is 0.2 %. Amounts in terms are token units. Limits on them are shares
of what the trader puts up, so that one policy fits every size.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from psymm._core import format_decimal
from psymm.api.amounts import Number, scaled, token_units
from psymm.api.words import date, seconds
from psymm.errors import HandshakeRefused, PolicyRefused, TokenDiffers, TokenUnnamed, format_amount
from psymm.terms import NANOSECONDS, UNIT, Instrument, Terms, checksummed

if TYPE_CHECKING:
    from psymm.chain.deployment import TokenInfo

DAY_S: Final = 86_400
EVIDENCE_BYTES: Final = 884_736
"""The most evidence of one side that a court sees (`spec.md` 10 and 27)."""
# `spec.md` 27: a reserve must cover all evidence and this many notices.
NOTICES: Final = 4
_ADDRESS: Final = re.compile("0x[0-9a-fA-F]{40}")
SYMBOL_BYTES: Final = 64
"""The longest symbol that an order can name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraderPolicy:
    """The limits within which a trader accepts terms. Raises ValueError for a malformed limit.

    Attributes:
        token: Symbol or address of what we put up; None: the deployment's only token.
        decimals: The token's; None: the deployment's.
        symbols: Instruments that the terms must have. If some are named, only these must keep the
            limits, and only these can be opened.
        feeds: The oracle's feed that prices each symbol; a symbol that is not named has a feed of
            its own name.

        open_fee: The highest fee of an opening fill, as a share of the notional, no matter who
            receives it.
        close_fee: The same, of a closing fill.
        round_trip_fee: The same, of both together.
        reserve: The most of what we put up that PnL never reaches.
        tariff: The most of what we put up that evidence and notices can cost the guilty side.
        relayer_cap: The most of what we put up that a relayer may take for one move.
        solver_collateral: The least that the solver puts up, as a share of ours. We cannot win
            more than that.

        funding_per_day: The most that funding can take in a day, as a share of the notional.
        funding_window_s: The longest time in which a solver may choose the moment of an epoch's
            funding.
        price_band: The most by which an opening price may differ from the oracle's.
        force_close_gap: The most that a forced close costs.
        spread: The largest spread of the prices shown, as a share of the ask. A solver is chosen
            by one price, but positions close at the other.
        tick: The largest tick, as a share of the price shown: the next price may be that far away.
        leverage: The highest maximum leverage.
        margin: The most that is locked for a position of ours: CVA + LF + MM.
        liquidation: The most that a liquidation costs us: CVA + LF.
        symmetric_margin: Whether the solver must lock at least as much as we do.

        shortest_life_s: The shortest time until the end date.
        longest_life_s: The longest time until the end date.
        shortest_quote_s: The shortest quote life. A quote that expires on its way cannot be hit.
        acknowledgement_s: The longest T, for which either side can hold a frame back.
        skew_s: The longest skew.
        heartbeat_s: The longest heartbeat interval.
        settlement_s: The longest deadline of a settlement.
        cooldown_s: The longest cooldown, of forced cancels and of forced closes.
        shortest_settlement_s: The shortest deadline of a settlement.
        idle_end_s: The longest that a custody without business stays open.
        confirmations: The most blocks that an event must be deep.
        frames: The least number of frames that a lane may send between checkpoints.
        frame_bytes: The least number of bytes that a lane may send between checkpoints.
        frames_per_second: The least number of frames that a lane may send in a second.
        positions: The most positions open at once. Each fill is a position and takes its own
            close; each frame is computed over all of them.
        quotes: The most quotes open at once.

        oracle_signers: Addresses that may sign prices. We refuse terms that name another. We accept
            terms without an oracle unless `needs_oracle`.
        needs_oracle: Whether the terms must have an oracle.
        oracle_validity_s: The longest that a price may be used.
    """

    token: str | None = None
    decimals: int | None = None
    symbols: tuple[str, ...] = ()
    feeds: Mapping[str, str] = field(default_factory=dict)

    open_fee: Number = "0.002"
    close_fee: Number = "0.002"
    round_trip_fee: Number = "0.003"
    reserve: Number = "0.1"
    tariff: Number = "0.1"
    relayer_cap: Number = "0.02"
    solver_collateral: Number = "0.5"

    funding_per_day: Number = "0.03"
    funding_window_s: int = 3_600
    price_band: Number = "0.1"
    force_close_gap: Number = "0.05"
    spread: Number = "0.02"
    tick: Number = "0.01"
    leverage: Number = 125
    margin: Number = "0.2"
    liquidation: Number = "0.05"
    symmetric_margin: bool = True

    shortest_life_s: int = DAY_S
    longest_life_s: int = 5 * 366 * DAY_S
    shortest_quote_s: int = 1
    acknowledgement_s: int = 30
    skew_s: int = 10
    heartbeat_s: int = 60
    shortest_settlement_s: int = 300
    settlement_s: int = 4 * 3_600
    cooldown_s: int = 3_600
    idle_end_s: int = 90 * DAY_S
    confirmations: int = 128
    frames: int = 256
    frame_bytes: int = 65_536
    frames_per_second: int = 10
    positions: int = 64
    quotes: int = 256

    oracle_signers: Collection[str] = ()
    needs_oracle: bool = False
    oracle_validity_s: int = 300

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if one.type == "Number" and scaled(value) < 0:
                raise ValueError(f"{one.name} is below zero: {value}")
            if one.type == "int" and (not isinstance(value, int) or value < 0):
                raise ValueError(f"{one.name} is a whole number of zero or more: {value!r}")
        for name in ("symbols", "oracle_signers"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is a collection of strings")

    def for_token(self, tokens: Collection[TokenInfo]) -> TraderPolicy:
        """This policy with token and decimals filled in: the token that the user named, as the
        deployment lists it.

        Raises TokenUnnamed if neither says which token it is or how many decimals it has, and
        TokenDiffers if the deployment has other decimals.
        """
        named = self.token
        found = [
            one
            for one in tokens
            if named is None or named == one.symbol or named.lower() == one.address.lower()
        ]
        if len(found) == 1:
            (one,) = found
            if self.decimals not in (None, one.decimals):
                raise TokenDiffers(
                    "the token has another number of decimals than were named",
                    token=one.symbol,
                    named=self.decimals,
                    decimals=one.decimals,
                )
            return dataclasses.replace(self, token=one.address, decimals=one.decimals)
        if found or named is None or not _ADDRESS.fullmatch(named) or self.decimals is None:
            raise TokenUnnamed(
                token=named, decimals=self.decimals, known=", ".join(one.symbol for one in tokens)
            )
        return dataclasses.replace(self, token=checksummed(named.lower()))

    def check(
        self,
        terms: Terms,
        *,
        now_ns: int,
        collateral: int | None = None,
        solver_collateral: int | None = None,
    ) -> None:
        """Raises PolicyRefused for the first limit that the terms break.

        Args:
            collateral: What we put up, in token units. None leaves out the limits that are shares
                of it.
            solver_collateral: What the solver puts up, in token units.
        """
        for broken in self.broken(
            terms, now_ns=now_ns, collateral=collateral, solver_collateral=solver_collateral
        ):
            raise broken

    def broken(
        self,
        terms: Terms,
        *,
        now_ns: int,
        collateral: int | None = None,
        solver_collateral: int | None = None,
    ) -> Iterator[PolicyRefused]:
        """Every limit that the terms break. Arguments as in `check`."""
        yield from self._token(terms)
        yield from self._shares(terms, collateral, solver_collateral)
        yield from self._times(terms, now_ns)
        yield from self._oracle(terms)
        for limit, value, least in (
            ("frames", terms.limits.frames, self.frames),
            ("bytes", terms.limits.bytes, self.frame_bytes),
            ("framesPerSecond", terms.limits.frames_per_second, self.frames_per_second),
        ):
            if value < least:
                yield PolicyRefused(f"limits.{limit}", value, f"at least {least}")
        for limit, value, most in (
            ("positions", terms.limits.positions, self.positions),
            ("openQuotes", terms.limits.open_quotes, self.quotes),
        ):
            if value > most:
                yield PolicyRefused(f"limits.{limit}", value, f"at most {most}")
        yield from _most("limits.priceBand", terms.limits.price_band, self.price_band)
        yield from _most("forceCloseGap", terms.force_close_gap, self.force_close_gap)
        yield from self._symbols(terms)
        for each in terms.instruments:
            if not self.symbols or each.symbol in self.symbols:
                yield from self._instrument(each, bool(terms.oracle.signers))

    def check_prices(self, instrument: Instrument, bid: Number | None, ask: Number | None) -> None:
        """Check the prices that a solver shows against the limits that need a price. If it shows
        one side only, the spread is not known. Raises PolicyRefused."""
        symbol = ascii(instrument.symbol)[1:-1]
        for price in (bid, ask):
            if price is not None and instrument.tick * UNIT > scaled(self.tick) * scaled(price):
                raise PolicyRefused(
                    f"{symbol}: tick",
                    format_decimal(instrument.tick),
                    f"at most {self.tick} of the price {price} that it shows",
                )
        if bid is not None and ask is not None:
            apart = (scaled(ask) - scaled(bid)) * UNIT
            if apart > scaled(self.spread) * scaled(ask):
                raise PolicyRefused(
                    f"{symbol}: the prices shown",
                    f"{bid} / {ask}",
                    f"apart by at most {self.spread} of the ask",
                )

    def _token(self, terms: Terms) -> Iterator[PolicyRefused]:
        collateral = terms.collateral
        if self.token is not None and self.token.lower() != collateral.token.lower():
            yield PolicyRefused("collateral.token", collateral.token, self.token)
        if self.decimals is not None and self.decimals != collateral.decimals:
            yield PolicyRefused("collateral.decimals", collateral.decimals, self.decimals)

    def _shares(
        self, terms: Terms, ours: int | None, theirs: int | None
    ) -> Iterator[PolicyRefused]:
        if ours is None:
            return
        tariff = terms.tariff
        # All that a case can cost: the evidence of one side, and the notices.
        penalties = tariff.evidence_byte * EVIDENCE_BYTES + NOTICES * tariff.notice
        for name, units, share in (
            ("collateral.traderReserve", terms.collateral.trader_reserve, self.reserve),
            ("tariff", penalties, self.tariff),
            ("tariff.relayerCap", tariff.relayer_cap, self.relayer_cap),
        ):
            if units * UNIT > scaled(share) * ours:
                yield PolicyRefused(
                    name, _tokens(terms, units), f"{share} of the {_tokens(terms, ours)} put up"
                )
        if theirs is not None and theirs * UNIT < scaled(self.solver_collateral) * ours:
            yield PolicyRefused(
                "the solver's collateral",
                _tokens(terms, theirs),
                f"at least {self.solver_collateral} of the {_tokens(terms, ours)} put up",
            )

    def _times(self, terms: Terms, now_ns: int) -> Iterator[PolicyRefused]:
        times = terms.timeouts
        life = terms.end_date - now_ns
        if life < self.shortest_life_s * NANOSECONDS:
            least = f"at least {self.shortest_life_s} s from now"
            yield PolicyRefused("endDate", date(terms.end_date), least)
        if life > self.longest_life_s * NANOSECONDS:
            most = f"at most {self.longest_life_s} s from now"
            yield PolicyRefused("endDate", date(terms.end_date), most)
        for name, value, most_s in (
            ("heartbeat", times.heartbeat, self.heartbeat_s),
            ("acknowledgement", times.acknowledgement, self.acknowledgement_s),
            ("skew", times.skew, self.skew_s),
            ("settlement", times.settlement, self.settlement_s),
            ("forceCancelCooldown", times.force_cancel_cooldown, self.cooldown_s),
            ("forceCloseCooldown", times.force_close_cooldown, self.cooldown_s),
            ("idleEnd", times.idle_end, self.idle_end_s),
        ):
            if value > most_s * NANOSECONDS:
                yield PolicyRefused(f"timeouts.{name}", seconds(value), f"at most {most_s} s")
        if times.settlement < self.shortest_settlement_s * NANOSECONDS:
            least = f"at least {self.shortest_settlement_s} s"
            yield PolicyRefused("timeouts.settlement", seconds(times.settlement), least)
        if times.quote_life < self.shortest_quote_s * NANOSECONDS:
            least = f"at least {self.shortest_quote_s} s"
            yield PolicyRefused("timeouts.quoteLife", seconds(times.quote_life), least)
        if terms.chain.confirmations > self.confirmations:
            most = f"at most {self.confirmations}"
            yield PolicyRefused("chain.confirmations", terms.chain.confirmations, most)

    def _oracle(self, terms: Terms) -> Iterator[PolicyRefused]:
        oracle = terms.oracle
        if not oracle.signers:
            if self.needs_oracle:
                yield PolicyRefused("oracle.signers", "none", "an oracle that you name")
            return
        known = {one.lower() for one in self.oracle_signers}
        for signer in oracle.signers:
            if signer.lower() not in known:
                yield PolicyRefused("oracle.signers", signer, "signers that you name")
        # With half of them, two different roots of one round could both be signed (`spec.md` 41).
        if 2 * oracle.threshold <= len(oracle.signers):
            yield PolicyRefused(
                "oracle.threshold",
                oracle.threshold,
                f"more than half of the {len(oracle.signers)} signers",
            )
        if oracle.validity > self.oracle_validity_s * NANOSECONDS:
            most = f"at most {self.oracle_validity_s} s"
            yield PolicyRefused("oracle.validity", seconds(oracle.validity), most)

    def _symbols(self, terms: Terms) -> Iterator[PolicyRefused]:
        seen: set[str] = set()
        for each in terms.instruments:
            for name, text in (("symbol", each.symbol), ("feed", each.feed)):
                # Letters of other alphabets look like ASCII, and control characters can fool a
                # terminal.
                if not text.isascii() or not text.isprintable() or " " in text:
                    yield PolicyRefused(name, ascii(text), "printable ASCII without spaces")
            if len(each.symbol) > SYMBOL_BYTES:
                yield PolicyRefused(
                    "symbol", ascii(each.symbol[:80]), f"at most {SYMBOL_BYTES} bytes"
                )
            if each.symbol.casefold() in seen:
                yield PolicyRefused("symbol", ascii(each.symbol), "one of its name, in any case")
            seen.add(each.symbol.casefold())
        for wanted in self.symbols:
            if terms.instrument(wanted) is None:
                yield PolicyRefused("instruments", "absent", wanted)

    def _instrument(self, each: Instrument, priced: bool) -> Iterator[PolicyRefused]:
        symbol = ascii(each.symbol)[1:-1]
        ours, theirs = each.trader, each.solver
        # A day may touch one epoch more than fits into it.
        epochs = -(-DAY_S * NANOSECONDS // each.funding_epoch)
        for name, value, most in (
            ("openFee", each.open_fee, self.open_fee),
            ("closeFee", each.close_fee, self.close_fee),
            ("openFee + closeFee", each.open_fee + each.close_fee, self.round_trip_fee),
            ("fundingCap, in a day", each.funding_cap * epochs, self.funding_per_day),
            ("maxLeverage", each.max_leverage, self.leverage),
            ("the trader's CVA + LF + MM", ours.cva + ours.lf + ours.mm, self.margin),
            ("the trader's CVA + LF", ours.cva + ours.lf, self.liquidation),
        ):
            yield from _most(f"{symbol}: {name}", value, most)
        if each.funding_window > self.funding_window_s * NANOSECONDS:
            yield PolicyRefused(
                f"{symbol}: fundingWindow",
                seconds(each.funding_window),
                f"at most {self.funding_window_s} s",
            )
        if self.symmetric_margin:
            for name in ("cva", "lf", "mm"):
                if getattr(theirs, name) < getattr(ours, name):
                    yield PolicyRefused(
                        f"{symbol}: the solver's {name.upper()}",
                        format_decimal(getattr(theirs, name)),
                        f"at least the trader's {format_decimal(getattr(ours, name))}",
                    )
        feed = self.feeds.get(each.symbol, each.symbol)
        if (priced or each.symbol in self.feeds) and each.feed != feed:
            yield PolicyRefused(f"{symbol}: feed", ascii(each.feed), feed)


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverPolicy:
    """Whom a solver trades with, and what it puts up against them.

    Attributes:
        least: The least that a trader must put up, in whole tokens; None: the terms' minimum.
        most: The most that a trader may put up, in whole tokens; None: no limit.
        ratio: The most that we put up for one token of the trader's, so that a small trader does
            not lock up much of ours. Never below the terms' minimum. None: always the full amount.
        traders: Addresses that may trade; None: anybody.
        accept: Called last, with the trader's address and token units; False refuses.
        reserve: The most of our own collateral that our terms may hold back as penalty reserve.
        relayer_cap: The most of our own collateral that our terms may give a relayer for one move.
    """

    least: Number | None = None
    most: Number | None = None
    ratio: Number | None = None
    traders: Collection[str] | None = None
    accept: Callable[[str, int], bool] | None = None
    reserve: Number = "0.1"
    relayer_cap: Number = "0.02"

    def collateral_for(self, terms: Terms, ours: int, trader: str, offered: int) -> int:
        """What we put up against a trader's `offered`, in token units; at most `ours`.

        Raises HandshakeRefused if we do not trade with it.
        """
        decimals = terms.collateral.decimals
        least = 0 if self.least is None else token_units(self.least, decimals)
        if offered < least:
            raise HandshakeRefused(
                "this solver asks for more collateral",
                offered=_tokens(terms, offered),
                least=_tokens(terms, least),
            )
        if self.most is not None and offered > token_units(self.most, decimals):
            raise HandshakeRefused(
                "this solver takes less collateral",
                offered=_tokens(terms, offered),
                most=_tokens(terms, token_units(self.most, decimals)),
            )
        if self.traders is not None and trader.lower() not in {one.lower() for one in self.traders}:
            raise HandshakeRefused("this solver trades with others only", trader=trader)
        if self.accept is not None and not self.accept(trader, offered):
            raise HandshakeRefused("this solver does not trade with you now", trader=trader)
        if self.ratio is None:
            return ours
        against = offered * scaled(self.ratio) // UNIT
        return max(terms.collateral.solver_minimum, min(ours, against))

    def check(self, terms: Terms, ours: int, now_ns: int) -> None:
        """Check that our own terms are good enough to trade under with `ours` token units.

        Raises PolicyRefused.
        """
        if ours < terms.collateral.solver_minimum:
            minimum = terms.collateral.solver_minimum
            least_words = f"at least the terms' minimum {_tokens(terms, minimum)}"
            raise PolicyRefused("collateral", _tokens(terms, ours), least_words)
        if terms.end_date <= now_ns:
            raise PolicyRefused("endDate", date(terms.end_date), "in the future")
        for name, units, share in (
            ("collateral.solverReserve", terms.collateral.solver_reserve, self.reserve),
            ("tariff.relayerCap", terms.tariff.relayer_cap, self.relayer_cap),
        ):
            if units * UNIT > scaled(share) * ours:
                raise PolicyRefused(
                    name, _tokens(terms, units), f"{share} of the {_tokens(terms, ours)} put up"
                )


def _tokens(terms: Terms, units: int) -> str:
    """Units of the collateral as words."""
    return f"{format_amount(units, terms.collateral.decimals)} tokens"


def _most(field_name: str, value: int, most: Number) -> Iterator[PolicyRefused]:
    if value > scaled(most):
        yield PolicyRefused(field_name, format_decimal(value), f"at most {most}")
