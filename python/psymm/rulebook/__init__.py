"""The rulebook: the deterministic account of a custody.

Pure: no clock, no randomness, no floats, no network, no disk. The same frames, openings and facts
of the chain give the same account on every machine. ``replay`` rules a whole history, ``Replay``
one frame after the other; ``preview`` says whether a message would be in order now.
"""

from __future__ import annotations

from psymm.rulebook.account import (
    Account,
    Lane,
    LiveQuote,
    NoteState,
    OpenRequest,
    Order,
    OrderStatus,
    Position,
    Price,
    Proposal,
    SessionKey,
    position_id,
)
from psymm.rulebook.inputs import ChainFacts, Entry, Holding, Opening, Place, VerifiedFrame
from psymm.rulebook.oracle import price_digest
from psymm.rulebook.sequence import Fault, Replay, Ruling, replay
from psymm.rulebook.settlement import DEADLINE_STEP_S
from psymm.rulebook.table import Table
from psymm.rulebook.views import (
    BalanceView,
    OrderView,
    PositionView,
    balances,
    open_orders,
    positions,
)
from psymm.rulebook.violation import (
    CATALOGUE,
    FactsBehind,
    FrameOutOfOrder,
    OpeningUnknown,
    RulebookError,
    Violation,
)

__all__ = [
    "CATALOGUE",
    "DEADLINE_STEP_S",
    "Account",
    "BalanceView",
    "ChainFacts",
    "Entry",
    "FactsBehind",
    "Fault",
    "FrameOutOfOrder",
    "Holding",
    "Lane",
    "LiveQuote",
    "NoteState",
    "OpenRequest",
    "Opening",
    "OpeningUnknown",
    "Order",
    "OrderStatus",
    "OrderView",
    "Place",
    "Position",
    "PositionView",
    "Price",
    "Proposal",
    "Replay",
    "RulebookError",
    "Ruling",
    "SessionKey",
    "Table",
    "VerifiedFrame",
    "Violation",
    "balances",
    "open_orders",
    "position_id",
    "positions",
    "price_digest",
    "replay",
]
