"""Read a journal back: check each frame as if it had just arrived, or all frames in bulk."""

from __future__ import annotations

from typing import Final

from trio.to_thread import run_sync

from psymm._core import Frame, FrameError, TranscriptError
from psymm.errors import CheckpointRefused, JournalCorrupt, TranscriptFileError
from psymm.journal.base_snapshot import base_snapshot_of, since
from psymm.journal.codec import JournalledFrame
from psymm.journal.reader import JournalReader
from psymm.transcript.agreement import SOLVER, TRADER, CustodyAgreement
from psymm.transcript.checkpoint import BaseSnapshot, Point, base_snapshot
from psymm.transcript.delegation import DelegationRefused
from psymm.transcript.file import Verified, encode_file, parse_file, verify_frames
from psymm.transcript.record import Record
from psymm.transcript.retained import is_retained


async def read_record(journal: JournalReader, agreement: CustodyAgreement) -> Record:
    """A custody's record from the journal, from the newest checkpoint in force on, if there is one.

    Every frame is checked as if it had just arrived. Runs in a thread, so that a long record does
    not block the event loop.

    Raises JournalCorrupt naming the frame. Cancelled: raises Cancelled, nothing changed.
    """
    custody = agreement.custody
    held = await journal.frames(custody)
    checkpoints = await journal.checkpoints(custody)
    earlier = await journal.retained(custody)
    newest = checkpoints[-1] if checkpoints else None
    return await journal.in_thread(_read, journal, agreement, held, newest, earlier)


def _read(
    journal: JournalReader,
    agreement: CustodyAgreement,
    held: list[JournalledFrame],
    newest: tuple[Point, bytes] | None,
    earlier: list[JournalledFrame],
) -> Record:
    if newest is None:
        return _appended(journal, Record(agreement), held)
    point, account = newest
    before = [
        (_frame(journal, agreement, one), one.digest)
        for one in held
        if one.seq <= point.seqs[one.lane]
    ]
    frames = [_frame(journal, agreement, one) for one in earlier] + [one for one, _ in before]
    try:
        record = Record(agreement, base_snapshot(point, account, frames))
    except CheckpointRefused as bad:
        raise JournalCorrupt(
            f"the record cannot begin at its checkpoint: {bad}",
            journal=journal.path,
            custody=agreement.custody,
        ) from None
    for frame in frames:
        if is_retained(frame.raw):
            record.retain(frame)
    for lane in (TRADER, SOLVER):
        record.know(lane, [one for one in before if one[0].lane == lane])
    return _appended(journal, record, [one for one in held if one.seq > point.seqs[one.lane]])


def _frame(journal: JournalReader, agreement: CustodyAgreement, held: JournalledFrame) -> Frame:
    """A frame from before a checkpoint. Its digest was checked when it was journalled."""
    try:
        frame = Frame.parse(held.raw)
    except FrameError as bad:
        raise _corrupt(
            journal, agreement, held, f"a frame in the journal is not valid: {bad}"
        ) from None
    if (frame.lane, frame.seq, frame.digest(agreement.domain)) != (
        held.lane,
        held.seq,
        held.digest,
    ):
        raise _corrupt(journal, agreement, held, _NOT_THE_SAME)
    return frame


def _appended(journal: JournalReader, record: Record, frames: list[JournalledFrame]) -> Record:
    for held in frames:
        try:
            frame = Frame.parse(held.raw)
            entry = record.append(frame)
        except (FrameError, TranscriptError, DelegationRefused) as bad:
            raise _corrupt(
                journal, record.agreement, held, f"a frame in the journal is not valid: {bad}"
            ) from None
        if (frame.lane, frame.seq, entry.digest) != (held.lane, held.seq, held.digest):
            raise _corrupt(journal, record.agreement, held, _NOT_THE_SAME)
    return record


_NOT_THE_SAME: Final = "a frame in the journal is not the one it was"


def _corrupt(
    journal: JournalReader, agreement: CustodyAgreement, held: JournalledFrame, why: str
) -> JournalCorrupt:
    return JournalCorrupt(
        why, journal=journal.path, custody=agreement.custody, lane=held.lane, seq=held.seq
    )


async def verify_journal(journal: JournalReader) -> int:
    """Verify every custody of a journal: delegations, chain, signatures. Returns the frames.

    If old frames of a custody were pruned, the rest is verified from its checkpoint on. The core
    verifies in bulk, in a thread. Raises JournalCorrupt naming custody and frame. Cancelled: raises
    Cancelled after the current custody; nothing changed.
    """
    total = 0
    for held in await journal.custodies():
        frames = await journal.frames(held.agreement.custody)
        starts_at = await base_snapshot_of(journal, held.agreement.custody, frames)
        frames = since(starts_at, frames)
        try:
            verified = await run_sync(_verified, held.agreement, starts_at, frames)
        except TranscriptFileError as bad:
            place = "" if bad.frame is None else f", arrival {frames[bad.frame].arrival}"
            raise JournalCorrupt(
                f"a frame in the journal is not valid{place}: {bad.reason}",
                journal=journal.path,
                custody=held.agreement.custody,
            ) from None
        total += verified.frames
    return total


def _verified(
    agreement: CustodyAgreement, starts_at: BaseSnapshot | None, frames: list[JournalledFrame]
) -> Verified:
    file = parse_file(encode_file(agreement, [frame.raw for frame in frames], starts_at=starts_at))
    # The verification below sees the frames alone. Numbers and digests in the rows are compared
    # here.
    for index, (held, frame) in enumerate(zip(frames, file.frames, strict=True)):
        if (held.lane, held.seq, held.digest) != (
            frame.lane,
            frame.seq,
            frame.digest(agreement.domain),
        ):
            raise TranscriptFileError(
                "not-the-same",
                "the frame is not the one that was kept",
                offset=0,
                frame=index,
            )
    return verify_frames(file)
