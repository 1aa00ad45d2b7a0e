"""Records that a replay keeps of the frames that it has ruled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from psymm.messages import Checkpoint, Message, Reject
from psymm.rulebook.account import CheckpointRefusal, Lane
from psymm.rulebook.checkpoint import Named
from psymm.rulebook.inputs import RuledFrame
from psymm.rulebook.violation import Violation, violated


class Ruling(NamedTuple):
    """The outcome of a frame."""

    lane: Lane
    seq: int
    message: Message | None
    legal_time: int
    """Nanoseconds."""
    violation: Violation | None
    again: bool = False
    """Whether it replaces an earlier ruling, because an earlier frame turned out to be late."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault (``spec.md`` 28).

    Either a solver frame that broke a rule and that the trader's first covering frame rejects, or a
    frame of either lane that refuses a valid checkpoint.
    """

    seq: int
    violation: Violation
    lane: Lane = Lane.SOLVER


class Event(NamedTuple):
    """A frame that took effect."""

    entry: RuledFrame
    legal_time: int
    mark: int
    """The place in the account's undo log before the frame."""
    solver_seq: int
    """The last solver frame in effect after it."""
    violation: Violation | None
    """Its latest ruling."""
    first: Violation | None
    """Its first ruling: the violation that its sender could have avoided."""
    named: Named
    """What a UCP may name there."""
    shaken: bool = False
    """Whether a frame before it turned out to be late, so that the two rulings may differ."""


def fault_of(refusal: CheckpointRefusal) -> Fault:
    found = violated("checkpoint-refused", ref_seq=refusal.ref_seq).violation
    return Fault(refusal.seq, found, refusal.lane)


def is_fault(event: Event, entry: RuledFrame) -> bool:
    """Whether a trader frame rejects a solver frame that broke a rule.

    A misplaced UCP is void but no fault (``spec.md`` 28): a replay from a checkpoint lacks what an
    earlier UCP named.
    """
    said = entry.message
    rejects = isinstance(said, Reject) and said.ref_seq_num == event.entry.seq
    return rejects and not isinstance(event.entry.message, Checkpoint)
