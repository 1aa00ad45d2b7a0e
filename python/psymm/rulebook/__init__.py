"""The rulebook: the deterministic account of a custody.

It is pure: no clock, no randomness, no floats, no network, no disk. The same frames, openings and
facts of the chain give the same account on every machine. ``replay`` rules a whole history,
``Replay`` one frame at a time; ``preview`` says whether a message would be in order now.

Theory of operation.

    sequence     ``Replay``: frames of two lanes in one order, each with its legal time
    rules        ``judge``: one account and one frame give an account and perhaps a violation
    orders, quotes, collateral, settlement, oracle, checkpoint
                 what each message of the vocabulary does, one function each
    checks       shared checks: ids, ticks, margin, leverage
    account      what is open and owed, and the formulas of both sides
    totals       the sums over an account's tables, updated with each change
    events       what a replay keeps of frames that it has ruled

Calls go one way: ``Replay → judge → orders, quotes, … → checks, totals → account``. Nothing below
``sequence`` knows that lanes wait for each other. Nothing above ``rules`` knows messages.

Values. ``Account`` and ``Replay`` are immutable: a step returns a new one, which shares what is
unchanged. So a frame can be judged before it is signed, and the result (``DryRun``) kept until the
frame takes effect. A broken rule raises, and ``judge`` catches it: the frame then keeps its seq and
moves the clock, and changes nothing else.

Pending, in effect, decided. A trader frame is *pending* until a solver frame covers it; it takes
effect just before that one. A solver frame is *in effect* at once, and counts as in time for now.
It is *decided* once a trader frame in effect covers it: if it was late, it and all frames after it
are judged again. What is decided never changes, and a checkpoint can name only that.

Durable: nothing here. The journal keeps frames, facts and checkpoint accounts; a replay of these
gives the same state again.
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
from psymm.rulebook.events import Fault, Ruling
from psymm.rulebook.inputs import ChainFacts, ChainPlace, ReplayInputs, RuledFrame, VerifiedFrame
from psymm.rulebook.oracle import price_digest
from psymm.rulebook.persistent_map import PersistentMap, SmallMap
from psymm.rulebook.sequence import Replay, replay
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
