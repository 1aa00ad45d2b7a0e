"""What a replay keeps of the frames that it has ruled."""

from __future__ import annotations

from dataclasses import dataclass

from psymm.messages import Checkpoint, Message, Reject
from psymm.rulebook.account import Account, CheckpointRefusal, Lane
from psymm.rulebook.checkpoint import Named
from psymm.rulebook.inputs import RuledFrame
from psymm.rulebook.violation import Violation, violated


@dataclass(frozen=True, slots=True)
class Ruling:
    """What became of a frame. ``again``: it was ruled before, and this replaces that, because a
    frame that it rested on turned out to be late."""

    lane: Lane
    seq: int
    message: Message | None
    legal_time: int
    violation: Violation | None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """A solver frame that broke a rule and that the trader's first covering frame rejects; or a
    frame of either lane that refuses a right checkpoint."""

    seq: int
    violation: Violation
    lane: Lane = Lane.SOLVER


@dataclass(frozen=True, slots=True)
class Event:
    """A frame that took effect, with the account before it and how it was ruled: last, and at
    first, when its sender could still have known better. ``shaken``: these may differ, since a
    frame before it was late. ``named``: what a UCP may name there."""

    entry: RuledFrame
    legal_time: int
    before: Account
    violation: Violation | None
    first: Violation | None
    named: Named
    shaken: bool = False


def fault_of(refusal: CheckpointRefusal) -> Fault:
    found = violated("checkpoint-refused", ref_seq=refusal.ref_seq).violation
    return Fault(refusal.seq, found, refusal.lane)


def is_fault(event: Event, entry: RuledFrame) -> bool:
    """Whether a trader frame rejects a solver frame that broke a rule. A UCP out of place is void
    and no fault (``spec.md`` 28): a replay that begins at a checkpoint does not have what one from
    before it named."""
    said = entry.message
    rejects = isinstance(said, Reject) and said.ref_seq_num == event.entry.seq
    return rejects and not isinstance(event.entry.message, Checkpoint)
