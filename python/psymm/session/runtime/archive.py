"""Moves frames before a checkpoint in force out of the journal: into a file that verifies without
anything else, or for good.

What the other side may still ask for stays: every frame after those that the checkpoint counts,
and the few before them that a record needs to begin there.

What is durable when: the file is complete and on disk before any frame leaves the journal. All
frames leave in one commit. So a process that dies at any moment leaves the journal either as it was
or as it should be, and it is safe to repeat the command.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from psymm.errors import CheckpointRefused, JournalCorrupt, NoCheckpoint
from psymm.journal import retention
from psymm.journal.base_snapshot import base_snapshot_of, since
from psymm.journal.codec import JournalledFrame
from psymm.journal.export import write_whole
from psymm.journal.retention import Pruned
from psymm.journal.writer import Journal
from psymm.session.runtime.base_account import account_at
from psymm.storage import DiskFailed, translate_errors
from psymm.terms import Terms, TermsError
from psymm.transcript.agreement import CustodyAgreement, JournalledOpening
from psymm.transcript.checkpoint import BaseSnapshot, Point
from psymm.transcript.file import encode_file, parse_file, verify_frames
from psymm.transcript.retained import is_retained


@dataclass(frozen=True, slots=True)
class Archived:
    """What left the journal and what is still there.

    Attributes:
        frames: Frames that left the journal.
        kept: Frames that are still in it.
        point: The checkpoint at which the remaining frames begin.
    """

    frames: int
    kept: int
    point: Point


async def archive(journal: Journal, custody: bytes, path: Path) -> Archived:
    """Write all frames that the journal holds of a custody to a transcript file, verify the file,
    and remove from the journal what its newest checkpoint in force makes needless.

    The file begins where the journal's frames begin: at the first frame, or at the checkpoint of
    the last removal. So the files of one custody together are its whole transcript. A file holds
    the notes' openings if the journal is unlocked.

    Raises NoCheckpoint, UnknownCustody, JournalCorrupt if a frame is not valid, StorageError;
    then nothing has left the journal.
    Cancelled: the file may exist; all that should leave has left, or nothing.
    """
    held = await journal.custody(custody)
    frames = await journal.frames(custody)
    gone, point = await _leaving(journal, held.agreement, frames)
    starts_at = await base_snapshot_of(journal, custody, frames)
    notes: list[JournalledOpening] = await journal.openings(custody) if journal.unlocked else []
    facts = await journal.facts(custody)
    # The file must be on disk and verified before any frame leaves the journal.
    await journal.in_thread(_write_verified, path, held.agreement, starts_at, frames, notes, facts)
    return await _remove(journal, custody, gone, point, frames)


async def prune(journal: Journal, custody: bytes) -> Archived:
    """As `archive`, without a file: on this side, what leaves is gone for good.

    Raises NoCheckpoint, UnknownCustody, JournalCorrupt. Cancelled: all has left, or nothing.
    """
    held = await journal.custody(custody)
    frames = await journal.frames(custody)
    gone, point = await _leaving(journal, held.agreement, frames)
    return await _remove(journal, custody, gone, point, frames)


async def _leaving(
    journal: Journal, agreement: CustodyAgreement, frames: Sequence[JournalledFrame]
) -> tuple[Pruned, Point]:
    """What can leave. First checks that the checkpoint's account is complete: without it, the
    remaining frames could not be ruled."""
    custody = agreement.custody
    checkpoints = await journal.checkpoints(custody)
    if not checkpoints:
        raise NoCheckpoint(custody=custody)
    point, account = checkpoints[-1]
    before = await journal.pruned(custody)
    try:
        account_at(journal, custody, Terms.parse(agreement.terms), point, account)
        gone = retention.leaving(
            point, before, ((one.arrival, one.lane, one.seq, one.raw) for one in frames)
        )
    except (CheckpointRefused, TermsError) as bad:
        raise JournalCorrupt(
            f"its checkpoint does not stand: {bad}", journal=journal.path, custody=custody
        ) from None
    return gone, point


async def _remove(
    journal: Journal,
    custody: bytes,
    gone: Pruned,
    point: Point,
    frames: Sequence[JournalledFrame],
) -> Archived:
    leaves = [one for one in frames if one.arrival <= gone.arrivals]
    retained = [one for one in leaves if is_retained(one.raw)]
    await journal.remove_frames(custody, gone, retained)
    return Archived(len(leaves), len(frames) - len(leaves), point)


def _write_verified(
    path: Path,
    agreement: CustodyAgreement,
    starts_at: BaseSnapshot | None,
    frames: Sequence[JournalledFrame],
    notes: Sequence[JournalledOpening],
    facts: Sequence[str],
) -> None:
    """Write the file, verify it, and read it back. Blocks. Raises TranscriptFileError,
    StorageError."""
    kept = [one.raw for one in since(starts_at, frames)]
    raw = encode_file(agreement, kept, notes, facts, starts_at=starts_at)
    verify_frames(parse_file(raw))
    write_whole(path, raw)
    # Read the file back. Only what is really on disk may leave the journal.
    with translate_errors(path):
        if path.read_bytes() != raw:
            raise DiskFailed(path, "the file does not hold what was written to it")
