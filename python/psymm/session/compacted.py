"""Frames that a checkpoint counts and memory no longer holds, out of the journal: sent again to a
peer that lost them, and shown as evidence against one that signed their numbers twice.
"""

from __future__ import annotations

from collections.abc import Iterable

from psymm._core import Frame
from psymm.session.budget import MOST_REPEATED_BYTES
from psymm.session.effects import CompactedFrame, Repeat
from psymm.transcript.journal import Journal


async def repeated(journal: Journal, custody: bytes, repeat: Repeat) -> list[bytes]:
    """The raw frames to send again, as many as one answer holds; those that were pruned are not
    among them. Raises JournalCorrupt. Cancelled: raises Cancelled, nothing changed."""
    found = await journal.lane(
        custody, repeat.lane, repeat.first, repeat.last, at_most_bytes=MOST_REPEATED_BYTES
    )
    return [one.raw for one in found]


async def keep_evidence(
    journal: Journal,
    custody: bytes,
    lane: int,
    pairs: Iterable[tuple[Frame | CompactedFrame, Frame]],
    *,
    stopped: str | None = None,
) -> None:
    """Keep pairs of frames of the peer's `lane` that prove it wrong, and the custody stopped with
    them if it is. A pair whose first was pruned is not kept: only an archive can prove it.

    Raises JournalError. Cancelled: each pair is kept or not.
    """
    for first, second in pairs:
        if isinstance(first, CompactedFrame):
            held = await journal.frame(custody, lane, first.seq)
            if held is None:
                continue
            first = Frame.parse(held.raw)
        await journal.keep_equivocation(custody, first, second, stopped=stopped)


__all__ = ["keep_evidence", "repeated"]
