"""What applications use: a solver is a class with a few callbacks, a trader an `async with`."""

from __future__ import annotations

from psymm.api.amounts import AmountInvalid, Number, decimal_of, scaled, token_units, tokens_of
from psymm.api.dealer import Dealer, VaultCollateral, dealing, open_dealer
from psymm.api.ended import deliver_ended
from psymm.api.policy import (
    RoundTrip,
    SolverPolicy,
    TraderPolicy,
    round_trip,
)
from psymm.api.solver import IncomingOrder, Prices, QuoteAsked, Solver, SolverSession
from psymm.api.trader import (
    BUY,
    SELL,
    Fill,
    Indicative,
    Offer,
    Order,
    OrderResult,
    Quote,
    Ranking,
    Session,
    Settled,
    best_solver,
    connect,
    planned,
)
from psymm.api.words import own_terms_in_words, terms_in_words
from psymm.session.preflight import PlannedOrder

__all__ = [
    "BUY",
    "SELL",
    "AmountInvalid",
    "Dealer",
    "Fill",
    "IncomingOrder",
    "Indicative",
    "Number",
    "Offer",
    "Order",
    "OrderResult",
    "PlannedOrder",
    "Prices",
    "Quote",
    "QuoteAsked",
    "Ranking",
    "RoundTrip",
    "Session",
    "Settled",
    "Solver",
    "SolverPolicy",
    "SolverSession",
    "TraderPolicy",
    "VaultCollateral",
    "best_solver",
    "connect",
    "dealing",
    "decimal_of",
    "deliver_ended",
    "open_dealer",
    "own_terms_in_words",
    "planned",
    "round_trip",
    "scaled",
    "terms_in_words",
    "token_units",
    "tokens_of",
]
