"""Where a custody's frames in the journal begin: at the first frame, or at a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from psymm._core import Frame, FrameError
from psymm.errors import CheckpointRefused, JournalCorrupt, NoCheckpoint
from psymm.journal.codec import JournalledFrame
from psymm.journal.reader import JournalReader
from psymm.transcript.checkpoint import BaseSnapshot, Point, base_snapshot


async def base_snapshot_of(
    journal: JournalReader, custody: bytes, frames: Sequence[JournalledFrame]
) -> BaseSnapshot | None:
    """The checkpoint at which the held frames begin; None if nothing was pruned.

    Raises JournalCorrupt. Cancelled: raises Cancelled, nothing changed.
    """
    base = await first_checkpoint(journal, custody)
    return None if base is None else await _base_snapshot(journal, custody, *base, frames)


async def first_checkpoint(journal: JournalReader, custody: bytes) -> tuple[Point, bytes] | None:
    """The checkpoint at which the held frames begin, with its account's document.

    None if nothing was pruned.

    Raises JournalCorrupt. Cancelled: raises Cancelled, nothing changed.
    """
    gone = await journal.pruned(custody)
    if not gone.arrivals:
        return None
    for point, account in await journal.checkpoints(custody):
        if point.solver_seq == gone.starts_at:
            return point, account
    raise JournalCorrupt(
        "the checkpoint at which its frames begin is missing", journal=journal.path, custody=custody
    )


def since(
    starts_at: BaseSnapshot | None, frames: Sequence[JournalledFrame]
) -> list[JournalledFrame]:
    """The frames that the checkpoint at the beginning does not count."""
    return [one for one in frames if starts_at is None or not starts_at.counts(one.lane, one.seq)]


async def newest_snapshot(
    journal: JournalReader, custody: bytes, frames: Sequence[JournalledFrame]
) -> BaseSnapshot:
    """The newest checkpoint in force. Raises NoCheckpoint, JournalCorrupt.

    Cancelled: raises Cancelled, nothing changed.
    """
    checkpoints = await journal.checkpoints(custody)
    if not checkpoints:
        raise NoCheckpoint(custody=custody)
    return await _base_snapshot(journal, custody, *checkpoints[-1], frames)


async def _base_snapshot(
    journal: JournalReader,
    custody: bytes,
    point: Point,
    account: bytes,
    frames: Sequence[JournalledFrame],
) -> BaseSnapshot:
    earlier = await journal.retained(custody)
    try:
        return base_snapshot(point, account, (Frame.parse(one.raw) for one in (*earlier, *frames)))
    except (CheckpointRefused, FrameError) as bad:
        raise JournalCorrupt(
            f"its checkpoint does not stand: {bad}", journal=journal.path, custody=custody
        ) from None
