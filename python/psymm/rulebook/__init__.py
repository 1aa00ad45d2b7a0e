"""The rulebook: the deterministic account of a custody.

Pure: no clock, no randomness, no floats, no network, no disk. The same frames, openings and facts
of the chain give the same account on every machine. ``replay`` rules a whole history, ``Replay``
one frame after the other; ``preview`` says whether a message would be in order now.
"""

from __future__ import annotations

from psymm.rulebook.account import (
    Account,
    AgreedCheckpoint,
    CheckpointOffer,
    CheckpointRefusal,
    Lane,
    LiveOrder,
    LiveProposal,
    LiveQuote,
    NoteState,
    OpenRequest,
    OrderStatus,
    Position,
    Price,
    SessionKey,
    position_id,
)
from psymm.rulebook.beforehand import first_order_fault, size_fault
from psymm.rulebook.checkpoint import Difference, first_difference, restore
from psymm.rulebook.inputs import ChainFacts, ChainPlace, ReplayInputs, RuledFrame, VerifiedFrame
from psymm.rulebook.oracle import price_digest
from psymm.rulebook.persistent_map import PersistentMap, SmallMap
from psymm.rulebook.sequence import Fault, Replay, Ruling, replay
from psymm.rulebook.settlement import DEADLINE_STEP_S
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
    AccountRefused,
    FactsBehind,
    FrameOutOfOrder,
    RulebookError,
    Violation,
)

__all__ = [
    "CATALOGUE",
    "DEADLINE_STEP_S",
    "Account",
    "AccountRefused",
    "AgreedCheckpoint",
    "BalanceView",
    "ChainFacts",
    "ChainPlace",
    "CheckpointOffer",
    "CheckpointRefusal",
    "Difference",
    "FactsBehind",
    "Fault",
    "FrameOutOfOrder",
    "Lane",
    "LiveOrder",
    "LiveProposal",
    "LiveQuote",
    "NoteState",
    "OpenRequest",
    "OrderStatus",
    "OrderView",
    "PersistentMap",
    "Position",
    "PositionView",
    "Price",
    "Replay",
    "ReplayInputs",
    "RulebookError",
    "RuledFrame",
    "Ruling",
    "SessionKey",
    "SmallMap",
    "VerifiedFrame",
    "Violation",
    "balances",
    "first_difference",
    "first_order_fault",
    "open_orders",
    "position_id",
    "positions",
    "price_digest",
    "replay",
    "restore",
    "size_fault",
]
