"""Terms in the words of the side that agrees to them: a line for each thing that can cost money."""

from __future__ import annotations

from datetime import UTC, datetime

from psymm._core import format_decimal
from psymm.api.amounts import tokens_of
from psymm.terms import NANOSECONDS, UNIT, Terms


def terms_in_words(terms: Terms, symbol: str, solver: str = "") -> list[str]:
    """What a trader agrees to: one line for each thing that can cost it money.

    solver: Its address, to say whether it is among the oracle's signers.
    """
    collateral, tariff, times = terms.collateral, terms.tariff, terms.timeouts

    def tokens(units: int) -> str:
        return f"{tokens_of(units, collateral.decimals):f}"

    lines = [f"token: {collateral.token}, {collateral.decimals} decimals"]
    each = terms.instrument(symbol)
    if each is not None:
        receiver = "you" if each.fee_receiver == "trader" else "the solver"
        lines += [
            f"fees: {percent(each.open_fee)} on opening, {percent(each.close_fee)} on closing, "
            f"to {receiver}",
            f"funding: at most {percent(each.funding_cap)} every {seconds(each.funding_epoch)}",
            f"margin: {percent(each.trader.cva + each.trader.lf + each.trader.mm)} of the notional "
            f"is locked, leverage at most {format_decimal(each.max_leverage)}",
        ]
    oracle = terms.oracle
    if oracle.signers:
        own = ", the solver among them" if solver in oracle.signers else ""
        who = f"{oracle.threshold} of {len(oracle.signers)} signers ({', '.join(oracle.signers)})"
        lines.append(f"prices: by {who}{own}")
    else:
        lines.append("prices: by nobody but the solver")
    lines += [
        f"penalty reserve: {tokens(collateral.trader_reserve)} of yours, "
        f"{tokens(collateral.solver_reserve)} of the solver's",
        f"a relayer may take {tokens(tariff.relayer_cap)} a move",
        f"either side can hold a frame back for T = {seconds(times.acknowledgement)} and see "
        "meanwhile where the price goes",
        "no court: what you put up leaves the custody only with the solver's signature; if it "
        "stops answering, it stays locked: put up no more than you would lend to it",
        f"end date: {date(terms.end_date)}; from then on either side may close",
        f"events count {terms.chain.confirmations} blocks deep",
    ]
    return lines


def own_terms_in_words(terms: Terms, amount: int) -> list[str]:
    """What a solver offers to every trader, and what it could lose by it.

    amount: What it puts up for one trader, in token units.
    """
    collateral, tariff, times = terms.collateral, terms.tariff, terms.timeouts

    def tokens(units: int) -> str:
        return f"{tokens_of(units, collateral.decimals):f}"

    lines = [
        f"token: {collateral.token}, {collateral.decimals} decimals",
        f"for each trader you put up {tokens(amount)}; a trader puts up at least "
        f"{tokens(collateral.trader_minimum)}",
    ]
    for each in terms.instruments:
        receiver = "the trader" if each.fee_receiver == "trader" else "you"
        margin = each.solver.cva + each.solver.lf + each.solver.mm
        lines.append(
            f"{each.symbol}: fees {percent(each.open_fee)} on opening, {percent(each.close_fee)} "
            f"on closing, to {receiver}; {percent(margin)} of the notional is locked of yours; in "
            f"steps of {format_decimal(each.lot)}, "
            f"{format_decimal(each.min_notional)} to {format_decimal(each.max_notional)} an order"
        )
    lines += [
        "prices: by nobody but you"
        if not terms.oracle.signers
        else f"prices: by {terms.oracle.threshold} of {len(terms.oracle.signers)} signers",
        f"penalty reserve: {tokens(collateral.solver_reserve)} of yours, "
        f"{tokens(collateral.trader_reserve)} of the trader's",
        f"a relayer may take {tokens(tariff.relayer_cap)} a move",
        f"a trader can hold a frame back for T = {seconds(times.acknowledgement)} and see "
        "meanwhile where the price goes: let your spread pay for that",
        "no court: what you put up leaves a custody only with the trader's signature; if it "
        "stops answering, it stays locked",
        f"end date: {date(terms.end_date)}; from then on either side may close",
        f"events count {terms.chain.confirmations} blocks deep",
    ]
    return lines


def percent(share: int) -> str:
    """A share at 18 decimals as a percentage."""
    return f"{format_decimal(share * 100)} %"


def seconds(nanoseconds: int) -> str:
    return f"{format_decimal(nanoseconds * (UNIT // NANOSECONDS))} s"


def date(nanoseconds: int) -> str:
    try:
        return datetime.fromtimestamp(nanoseconds // NANOSECONDS, UTC).strftime("%Y-%m-%d %H:%MZ")
    except (ValueError, OverflowError, OSError):
        return f"{nanoseconds // NANOSECONDS} s since 1970"


__all__ = ["own_terms_in_words", "terms_in_words"]
