"""A journal read back: every frame checked as if it had just arrived, or all of them in bulk."""

from __future__ import annotations

from trio.to_thread import run_sync

from psymm._core import Frame, FrameError, TranscriptError
from psymm.errors import JournalCorrupt, TranscriptFileError
from psymm.transcript.delegation import DelegationRefused
from psymm.transcript.file import Verified, encode_file, parse_file, verify_frames
from psymm.transcript.journal import JournalledFrame, JournalReader
from psymm.transcript.opening import Opening
from psymm.transcript.record import Record


async def read_record(journal: JournalReader, opening: Opening) -> Record:
    """A custody's record from the journal, every frame checked as if it had just arrived.

    Raises JournalCorrupt naming the frame. Cancelled: raises Cancelled, nothing changed.
    """
    record = Record(opening)
    for held in await journal.frames(opening.custody):
        try:
            frame = Frame.parse(held.raw)
            entry = record.append(frame)
        except (FrameError, TranscriptError, DelegationRefused) as bad:
            raise JournalCorrupt(
                f"a frame in the journal is not valid: {bad}",
                journal=journal.path,
                custody=opening.custody,
                lane=held.lane,
                seq=held.seq,
            ) from None
        if (frame.lane, frame.seq, entry.digest) != (held.lane, held.seq, held.digest):
            raise JournalCorrupt(
                "a frame in the journal is not the one it was",
                journal=journal.path,
                custody=opening.custody,
                lane=held.lane,
                seq=held.seq,
            )
    return record


async def verify_journal(journal: JournalReader) -> int:
    """Verify every custody of a journal: delegations, chain, signatures. Returns the frames.

    The core does it in bulk, in a thread. Raises JournalCorrupt naming custody and frame.
    Cancelled: raises Cancelled once the custody under way is through; nothing changed.
    """
    total = 0
    for held in await journal.custodies():
        frames = await journal.frames(held.opening.custody)
        try:
            verified = await run_sync(_verified, held.opening, frames)
        except TranscriptFileError as bad:
            place = "" if bad.frame is None else f", arrival {bad.frame + 1}"
            raise JournalCorrupt(
                f"a frame in the journal is not valid{place}: {bad.reason}",
                journal=journal.path,
                custody=held.opening.custody,
            ) from None
        total += verified.frames
    return total


def _verified(opening: Opening, frames: list[JournalledFrame]) -> Verified:
    file = parse_file(encode_file(opening, [frame.raw for frame in frames]))
    for held, frame in zip(frames, file.frames, strict=True):
        if (held.lane, held.seq, held.digest) != (
            frame.lane,
            frame.seq,
            frame.digest(opening.domain),
        ):
            raise TranscriptFileError(
                "not-the-same",
                "the frame is not the one that was kept",
                offset=0,
                frame=held.arrival - 1,
            )
    return verify_frames(file)
