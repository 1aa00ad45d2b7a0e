"""Choosing a solver: ask several for terms and prices, hold them to the policy, rank the rest."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

import trio

from psymm._core import address_of
from psymm.api.amounts import Number, decimal_of, scaled, token_units
from psymm.api.client import Client, known_solvers
from psymm.api.costs import RoundTrip, fees_paid, round_trip
from psymm.api.orders import BUY, Indicative, indicative_of
from psymm.api.policy import TraderPolicy
from psymm.chain.registry import RegistryEntry, asking_order
from psymm.errors import Declined, NoSolver, PeerSilent, PSymmError
from psymm.messages import Side
from psymm.session.runtime.conversation import ask_price, shake_hands
from psymm.session.runtime.handshake import fresh_nonce
from psymm.session.runtime.party import LocalParty
from psymm.session.runtime.preflight import NamedToken, check_clocks, price_of
from psymm.session.runtime.trader import Dialer, dialer
from psymm.sockets.dialling import ask_each
from psymm.terms import UNIT, Instrument, Terms


@dataclass(frozen=True, slots=True)
class Offer:
    """The offer of a solver that answered.

    Attributes:
        price: Its indicative ask for a buy, bid for a sell.
        all_in: The price with both fees, by which offers are ranked: more for a buy, less for a
            sell.
        cost: Of opening and closing one unit at the prices shown; None if only one is shown. Fees
            that the solver would pay the trader count as nothing.
    """

    entry: RegistryEntry
    terms: Terms = field(repr=False)
    indicative: Indicative
    price: Decimal
    all_in: Decimal
    cost: RoundTrip | None


@dataclass(frozen=True, slots=True)
class Ranking:
    """The result of asking several solvers.

    Attributes:
        offers: Best first.
        failures: (account, error) of those that made no offer.
        not_asked: How many more there were than we dial for one question.
    """

    offers: tuple[Offer, ...]
    failures: tuple[tuple[str, PSymmError], ...]
    not_asked: int = 0

    @property
    def best(self) -> Offer:
        """The first offer. Raises NoSolver."""
        if not self.offers:
            said = "; ".join(f"{account}: {error}" for account, error in self.failures)
            if self.not_asked:
                said += f"; {self.not_asked} more were not asked, ask again for others"
            raise NoSolver(said)
        return self.offers[0]


async def best_solver(
    client: Client | LocalParty,
    solvers: Sequence[RegistryEntry],
    symbol: str,
    side: Side,
    *,
    collateral: Number | None = None,
    policy: TraderPolicy | None = None,
    decimals: int | None = None,
    token: str | None = None,
    timeout_s: float = 5,
    tls: ssl.SSLContext | None = None,
    plain: bool = False,
    dial: Callable[[RegistryEntry], Dialer] | None = None,
) -> Ranking:
    """Ask solvers for terms and an indicative price, and rank them by price after fees.

    We ask solvers first that we dealt with before. At most 16 are dialled at once and 64 in all,
    each for `timeout_s`. Private addresses are dialled only if the party allows it. Give `connect`
    the offer, so that the terms shown here are the terms there.

    Raises TokenUnnamed, but nothing for what one solver does: that is in `failures`.
    Cancelled: raises Cancelled; the connections are closed.

    Args:
        collateral: What you mean to put up, in whole tokens, for the limits that are shares of it.
        policy: As in `connect`. A solver that breaks it is a failure and not ranked.
    """
    party = client.party if isinstance(client, Client) else client
    policy, named = policy_for(party, policy, token, decimals)
    amount = None if collateral is None else token_units(collateral, named.decimals)
    offers: list[Offer] = []
    failures: list[tuple[str, PSymmError]] = []

    async def ask(entry: RegistryEntry) -> None:
        reach = (
            dialer(entry.endpoint, tls, plain=plain, private=party.dials_private)
            if dial is None
            else dial(entry)
        )
        try:
            with trio.fail_after(timeout_s):
                async with reach() as socket:
                    met = await shake_hands(party, socket, entry.public_key, 0, fresh_nonce())
                    instrument = met.terms.instrument(symbol)
                    if instrument is None:
                        raise Declined("the terms have no such instrument", symbol=symbol)
                    check_clocks(met.clock_off_ns, met.terms)
                    policy.check(met.terms, now_ns=party.clock.now_ns(), collateral=amount)
                    said = await ask_price(socket, symbol)
            found = price_of(said, symbol, side)
            if not found:
                # Nobody sells for nothing. A price of zero is only shown to be ranked first.
                raise Declined("no price on that side", symbol=symbol)
            shown, price = indicative_of(said), decimal_of(found)
            policy.check_prices(instrument, shown.bid, shown.ask)
            cost = None
            if shown.bid is not None and shown.ask is not None:
                cost = round_trip(instrument, side, 1, shown.bid, shown.ask)
            all_in = _after_fees(instrument, side, price)
            offers.append(Offer(entry, met.terms, shown, price, all_in, cost))
        except trio.TooSlowError:
            failures.append((entry.account, PeerSilent("no answer", waited_s=timeout_s)))
        except PSymmError as failed:
            show_tokens(party, failed, named)
            failures.append((entry.account, failed))

    # A party that is both trader and solver must not choose itself.
    ours = address_of(party.wallet.public_key)
    others = [entry for entry in solvers if address_of(entry.public_key) != ours]
    left = await ask_each(asking_order(others, await known_solvers(party.journal)), ask)
    # Ties by account, so that the order does not depend on who answered first.
    offers.sort(
        key=lambda offer: (offer.all_in if side is BUY else -offer.all_in, offer.entry.account)
    )
    return Ranking(tuple(offers), tuple(failures), len(left))


def _after_fees(instrument: Instrument, side: Side, price: Decimal) -> Decimal:
    """The price with both fees, to 18 places, rounded against the trader."""
    fees = sum(fees_paid(instrument))
    if side is BUY:
        return decimal_of(-(-scaled(price) * (UNIT + fees) // UNIT))
    return decimal_of(scaled(price) * (UNIT - fees) // UNIT)


def policy_for(
    party: LocalParty, policy: TraderPolicy | None, token: str | None, decimals: int | None
) -> tuple[TraderPolicy, NamedToken]:
    """The policy with token and decimals filled in, and that token as the user calls it.

    Raises TokenUnnamed, TokenDiffers."""
    policy = TraderPolicy() if policy is None else policy
    policy = replace(
        policy,
        token=token if policy.token is None else policy.token,
        decimals=decimals if policy.decimals is None else policy.decimals,
    ).for_token(party.tokens)
    assert policy.decimals is not None  # noqa: S101
    return policy, NamedToken(policy.token, policy.decimals, _symbol_of(party, policy.token))


def _symbol_of(party: LocalParty, token: str | None) -> str | None:
    return next((one.symbol for one in party.tokens if one.address == token), None)


def show_tokens(party: LocalParty, error: BaseException, token: NamedToken | None) -> None:
    """Make an error state amounts in whole tokens."""
    if isinstance(error, PSymmError) and token is not None:
        symbol = token.symbol or _symbol_of(party, token.address)
        error.in_tokens(token.decimals, symbol or "tokens")
