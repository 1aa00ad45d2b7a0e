"""What applications use: a solver subclasses `Solver`; a trader writes `async with connect(…)`."""

from __future__ import annotations

from psymm.api.amounts import AmountInvalid, Number, decimal_of, scaled, token_units, tokens_of
from psymm.api.choosing import Offer, Ranking, best_solver
from psymm.api.client import Client, VaultCollateral, open_client, open_client_on
from psymm.api.connecting import connect, planned
from psymm.api.costs import RoundTrip, round_trip
from psymm.api.ended import deliver_ended
from psymm.api.incoming import IncomingOrder, IncomingQuoteRequest, SolverSession
from psymm.api.orders import BUY, SELL, Fill, FirmQuote, Indicative, Order, OrderResult
from psymm.api.policy import SolverPolicy, TraderPolicy
from psymm.api.solver import Prices, Solver
from psymm.api.trader import Session, Settled
from psymm.api.words import own_terms_in_words, terms_in_words
from psymm.session.runtime.preflight import PlannedOrder

__all__ = [
    "BUY",
    "SELL",
    "AmountInvalid",
    "Client",
    "Fill",
    "FirmQuote",
    "IncomingOrder",
    "IncomingQuoteRequest",
    "Indicative",
    "Number",
    "Offer",
    "Order",
    "OrderResult",
    "PlannedOrder",
    "Prices",
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
    "decimal_of",
    "deliver_ended",
    "open_client",
    "open_client_on",
    "own_terms_in_words",
    "planned",
    "round_trip",
    "scaled",
    "terms_in_words",
    "token_units",
    "tokens_of",
]
