"""The rulebook: the deterministic account of a custody.

It is pure: no clock, no randomness, no floats, no network, no disk. The same frames, openings and
facts of the chain give the same account on every machine. ``replay`` rules a whole history,
``Replay`` one frame at a time; ``preview`` says whether a message would be in order now.

Theory of operation.

    stepping     ``Replay``: steps frames, and tries messages before they are signed
    sequence     ``FrameSequence``: frames of two lanes in one order, each with its legal time
    rules        ``judge``: one frame changes the account, or is a violation
    orders, quotes, collateral, settlement, oracle, checkpoint
                 what each message of the vocabulary does, one function each
    checks       shared checks: ticks, margin, leverage
    totals       changes of the account's tables, and the sums over them
    live_account ``LiveAccount``: changes in place, with an undo log
    books        ``Account``, which never changes, and the formulas of both sides
    account      the values that an account is made of
    events       what a replay keeps of frames that it has ruled

Calls go one way: ``Replay → FrameSequence → judge → orders, quotes, … → checks, totals →
LiveAccount``. Nothing below ``sequence`` knows that lanes wait for each other. Nothing above
``rules`` knows messages.

One account, changed in place. A replay has one ``LiveAccount``; each change of it can be undone. A
rule changes it as it goes along. A broken rule raises, and ``judge`` undoes what it did: the frame
then keeps its seq and moves the clock, and changes nothing else. A message is judged before it is
signed in the same way: it is applied, and undone unless its frame comes next. An ``Account`` is a
snapshot that never changes, made where one is asked for.

Pending, in effect, decided. A trader frame is *pending* until a solver frame covers it; it takes
effect just before that one. A solver frame is *in effect* at once, and counts as in time for now.
It is *decided* once a trader frame in effect covers it: if it was late, it and all frames after it
are judged again. What is decided never changes, and a checkpoint can name only that.

Durable: nothing here. The journal keeps frames, facts and checkpoint accounts; a replay of these
gives the same state again.
"""

from __future__ import annotations

from psymm.rulebook.account import (
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
from psymm.rulebook.books import Account
from psymm.rulebook.checkpoint import Difference, first_difference, restore
from psymm.rulebook.events import Fault, Ruling
from psymm.rulebook.inputs import ChainFacts, ChainPlace, ReplayInputs, RuledFrame, VerifiedFrame
from psymm.rulebook.oracle import price_digest
from psymm.rulebook.settlement import DEADLINE_STEP_S
from psymm.rulebook.stepping import Replay, replay
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
    "Position",
    "PositionView",
    "Price",
    "Replay",
    "ReplayInputs",
    "RulebookError",
    "RuledFrame",
    "Ruling",
    "SessionKey",
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
