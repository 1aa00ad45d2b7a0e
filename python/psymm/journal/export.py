"""Export a custody's record from the journal as a transcript file."""

from __future__ import annotations

from pathlib import Path

from trio.to_thread import run_sync

from psymm.journal.base_snapshot import base_snapshot_of, newest_snapshot, since
from psymm.journal.reader import JournalReader
from psymm.journal.writer import Journal
from psymm.private_files import write_private
from psymm.transcript.agreement import JournalledOpening
from psymm.transcript.file import encode_file


async def export(
    journal: JournalReader, custody: bytes, path: Path, *, since_checkpoint: bool = False
) -> int:
    """Write a custody's record to `path`, completely or not at all. Returns the number of frames.

    The file begins where the journal's frames do, or at the newest checkpoint in force if
    `since_checkpoint` is set. It includes openings if the journal is unlocked.

    Raises UnknownCustody, NoCheckpoint, JournalError, OSError. Cancelled: raises Cancelled; nothing
    is written.
    """
    held = await journal.custody(custody)
    frames = await journal.frames(custody)
    facts = await journal.facts(custody)
    notes: list[JournalledOpening] = []
    if isinstance(journal, Journal) and journal.unlocked:
        notes = await journal.openings(custody)
    starts_at = await (newest_snapshot if since_checkpoint else base_snapshot_of)(
        journal, custody, frames
    )
    frames = since(starts_at, frames)
    raw = encode_file(
        held.agreement, [one.raw for one in frames], notes, facts, starts_at=starts_at
    )
    await run_sync(write_whole, path, raw)
    return len(frames)


def write_whole(path: Path, raw: bytes) -> None:
    """Write a private file, completely or not at all. Blocks. Raises OSError."""
    write_private(path, raw)
