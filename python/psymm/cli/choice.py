"""Choosing a solver for `psymm trade`, and showing a trader what a trade costs.

Everything is shown before the user agrees. The chosen offer binds the session to the terms that
were shown, by their hash (`spec.md` 62).
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.output import Screen, plain
from psymm.errors import ClocksDiffer

if TYPE_CHECKING:
    from psymm.api.choosing import Offer, Ranking
    from psymm.api.client import Client
    from psymm.api.orders import Indicative
    from psymm.api.policy import TraderPolicy
    from psymm.chain.registry import RegistryEntry
    from psymm.cli.scenario import Step
    from psymm.errors import PSymmError
    from psymm.terms import Terms


@dataclass(frozen=True)
class Choice:
    """Chooses a solver.

    Attributes:
        collateral: whole tokens.
        plain_too: also use ws:// to other machines.
    """

    screen: Screen
    client: Client
    policy: TraderPolicy
    collateral: str
    tls: ssl.SSLContext | None
    plain_too: bool

    async def make(
        self, steps: Sequence[Step], named: str | None
    ) -> tuple[Offer, dict[str, Indicative]]:
        """The named solver, or the one with the best price after fees for the first order; and the
        prices that it shows, by symbol.

        Raises NoSolver, or the reason why the named one cannot be used. Cancelled: raises
        Cancelled.
        """
        orders = [step for step in steps if step.do == "order"]
        if not orders:
            raise CommandError("usage", "Say what to trade: there is no order.", Exit.USAGE)
        if named is None:
            asked = await self.client.solvers()
        else:
            asked = [await self.client.solver(named)]
        ranking = await self._ask(asked, orders[0])
        if named is not None and ranking.failures:
            error = ranking.failures[0][1]
            if isinstance(error, ClocksDiffer):
                error.add_note(await self.client.which_clock(error))
            raise error
        if not (ranking.offers or ranking.failures or ranking.not_asked):
            raise CommandError("no-solver", "The registry names no other solver.", Exit.PEER)
        best = self._best(ranking, orders[0])
        shown = await self._shown(best.entry, orders, ranking)
        self._terms(best.terms, orders[0].symbol, best.entry.account)
        return best, shown

    async def shown_again(
        self, entry: RegistryEntry, kept: Terms, steps: Sequence[Step]
    ) -> dict[str, Indicative]:
        """The prices that the solver of an open custody shows now, by symbol, for more orders in
        it; the custody's terms are shown, too. Cancelled: raises Cancelled."""
        orders = [step for step in steps if step.do == "order"]
        shown = await self._shown(entry, orders, await self._ask([entry], orders[0]), kept)
        self._terms(kept, orders[0].symbol, entry.account)
        return shown

    async def _shown(
        self,
        entry: RegistryEntry,
        orders: Sequence[Step],
        ranking: Ranking,
        kept: Terms | None = None,
    ) -> dict[str, Indicative]:
        """The prices that a solver shows for each order.

        ranking: its answer for the first order. kept: the terms of the custody; None: the solver's
        present terms.
        """
        shown: dict[str, Indicative] = {}
        for step in orders:
            if step.symbol in shown:
                continue
            if step is not orders[0]:
                ranking = await self._ask([entry], step)
            for account, error in ranking.failures if kept is not None else ():
                self._unusable(account, error)
            for offer in ranking.offers:
                if offer.entry == entry:
                    shown[step.symbol] = offer.indicative
                    self._costs(kept or offer.terms, offer.indicative, step)
        return shown

    async def _ask(self, solvers: Sequence[RegistryEntry], step: Step) -> Ranking:
        from psymm.api.choosing import best_solver
        from psymm.api.orders import BUY, SELL

        return await best_solver(
            self.client,
            solvers,
            step.symbol,
            BUY if step.side == "buy" else SELL,
            collateral=self.collateral,
            policy=self.policy,
            tls=self.tls,
            plain=self.plain_too,
        )

    def _best(self, ranking: Ranking, step: Step) -> Offer:
        for account, error in ranking.failures:
            self._unusable(account, error)
        if ranking.not_asked:
            self.screen.event(
                "not-asked",
                f"{ranking.not_asked} solvers were not asked; name one with --solver",
                solvers=ranking.not_asked,
            )
        for offer in ranking.offers:
            self.screen.event(
                "offer",
                f"{offer.entry.account} {step.symbol} "
                f"{plain(offer.indicative.bid)} / {plain(offer.indicative.ask)}, "
                f"{plain(offer.all_in)} with both fees, "
                f"T {offer.terms.timeouts.acknowledgement / 1e9:g} s",
                solver=offer.entry.account,
                endpoint=offer.entry.endpoint,
                symbol=step.symbol,
                bid=plain(offer.indicative.bid),
                ask=plain(offer.indicative.ask),
                allIn=plain(offer.all_in),
                termsHash=offer.terms.hash,
                acknowledgementNs=str(offer.terms.timeouts.acknowledgement),
            )
        best = ranking.best
        self.screen.event("chosen", f"best: {best.entry.account}", solver=best.entry.account)
        return best

    def _unusable(self, account: str, error: PSymmError) -> None:
        self.screen.event("unusable", f"{account}: {error}", solver=account, code=error.code)

    def _costs(self, terms: Terms, prices: Indicative, step: Step) -> None:
        """Show what it costs to open and close the order's quantity at the prices shown."""
        from psymm.api.costs import round_trip
        from psymm.messages import Side

        instrument = terms.instrument(step.symbol)
        if instrument is None or step.quantity is None:
            return
        if prices.bid is None or prices.ask is None:
            self.screen.event(
                "round-trip",
                f"{step.symbol}: only one price is shown, so the cost of closing is not known",
                symbol=step.symbol,
                cost=None,
            )
            return
        side = Side.BUY if step.side == "buy" else Side.SELL
        cost = round_trip(instrument, side, step.quantity, prices.bid, prices.ask)
        quantity = plain(Decimal(step.quantity))
        self.screen.event(
            "round-trip",
            f"to {step.side} {quantity} {step.symbol} and to close it at the prices shown costs "
            f"{plain(cost.cost)}, all in: {cost.share * 100:.4f} % of the notional",
            symbol=step.symbol,
            side=step.side,
            quantity=quantity,
            cost=plain(cost.cost),
            share=plain(cost.share),
        )

    def _terms(self, terms: Terms, symbol: str, solver: str) -> None:
        from psymm.api.words import terms_in_words

        words = terms_in_words(terms, symbol, solver)
        if self.screen.as_json:
            self.screen.event("terms", "", termsHash=terms.hash, words=words)
            return
        self.screen.say(f"terms 0x{terms.hash.hex()}:")
        for line in words:
            self.screen.event("terms", f"  {line}")


__all__ = ["Choice"]
