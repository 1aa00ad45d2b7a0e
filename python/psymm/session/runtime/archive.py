"""Frames before a checkpoint in force leave the journal: into a file that verifies by itself, or
for good.

What the other side may still ask for stays: every frame after those that the checkpoint counts,
and the few before them that a record needs to begin there. The file is whole and on the disk
before a frame leaves the journal, and all of them leave in one commit, so a process that dies at
any instant leaves the journal as it was or as it should be, and doing it again is safe.
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
    """frames: how many left the journal. kept: how many are left in it. point: the checkpoint at
    which these begin."""

    frames: int
    kept: int
    point: Point


async def archive(journal: Journal, custody: bytes, path: Path) -> Archived:
    """Write all frames that the journal holds of a custody to a transcript file at `path`, verify
    it, and remove from the journal what its newest checkpoint in force makes needless.

    The file begins where the journal's frames do: at the first, or at the checkpoint before which
    they were removed already; so the files of one custody, one after the other, are all of it. It
    holds the notes' openings where the journal is unlocked. Raises NoCheckpoint,
    UnknownCustody, JournalCorrupt where a frame does not stand, StorageError; then nothing has
    left the journal. Cancelled: the file may be there; all that should leave has left, or nothing.
    """
    held = await journal.custody(custody)
    frames = await journal.frames(custody)
    gone, point = await _leaving(journal, held.agreement, frames)
    starts_at = await base_snapshot_of(journal, custody, frames)
    notes: list[JournalledOpening] = await journal.openings(custody) if journal.unlocked else []
    facts = await journal.facts(custody)
    await journal.in_thread(_write_verified, path, held.agreement, starts_at, frames, notes, facts)
    return await _remove(journal, custody, gone, point, frames)


async def prune(journal: Journal, custody: bytes) -> Archived:
    """As `archive`, without a file: what leaves is gone for good, from this side.

    Raises NoCheckpoint, UnknownCustody, JournalCorrupt. Cancelled: all has left, or nothing.
    """
    held = await journal.custody(custody)
    frames = await journal.frames(custody)
    gone, point = await _leaving(journal, held.agreement, frames)
    return await _remove(journal, custody, gone, point, frames)


async def _leaving(
    journal: Journal, agreement: CustodyAgreement, frames: Sequence[JournalledFrame]
) -> tuple[Pruned, Point]:
    """What can leave, once it is seen that the checkpoint's account is there whole."""
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
    kept = [one.raw for one in since(starts_at, frames)]
    raw = encode_file(agreement, kept, notes, facts, starts_at=starts_at)
    verify_frames(parse_file(raw))
    write_whole(path, raw)
    # What leaves the journal now is on the disk, or there is an error and it stays.
    with translate_errors(path):
        if path.read_bytes() != raw:
            raise DiskFailed(path, "the file does not hold what was written to it")
