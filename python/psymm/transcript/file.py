"""The transcript file (`*.psymm`): a custody's whole record in one file, to keep and to show.

    8 bytes       "pSymmT1\\n"
    4 bytes       n, big-endian
    n bytes       JSON: chainId, contract, trader, solver, termsHash, salt, terms. For a replay
                  of the rulebook: notes (openings) and facts (chain facts). If the frames begin
                  after a checkpoint in force: that checkpoint, with its account, the content of
                  both UCPs, and the frames that the first ones need
    to the end    frames back to back in order of arrival

The file shows everything that was traded to anyone who has it, but cannot be used to spend
anything.

Verification has two passes. `delegated_keys` finds the frames that carry keys and checks the
wallets' signatures. Then the core checks links and signatures of all frames in one pass. Errors
name the first bad frame, the byte and the field.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from psymm._core import (
    Frame,
    FrameError,
    Head,
    TranscriptError,
    TranscriptStart,
    locate_frame,
    survey_frames,
    verify_transcript,
)
from psymm.errors import CheckpointRefused, TranscriptFileError
from psymm.messages import Logon, SessionKeyChange
from psymm.transcript.agreement import CustodyAgreement, JournalledOpening
from psymm.transcript.checkpoint import BaseSnapshot, check_agreed
from psymm.transcript.delegation import Delegation, DelegationRefused, delegation_in
from psymm.transcript.file_opening import MOST_BYTES, START, opening_json, read_opening
from psymm.transcript.record import Record

MAGIC: Final = b"pSymmT1\n"
_KEY_CARRIERS: Final = (b"A", b"UKY")
# Of a frame: 126 bytes before the payload, and after it 65 of signature and 32 of R.y.
_OVERHEAD: Final = 223

Keys = tuple[tuple[int, int, bytes], ...]
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class TranscriptFile:
    """A file whose opening has been read. Its frames are read on demand.

    Attributes:
        agreement: the custody's.
        notes: openings.
        facts: JSON texts, opaque here.
        raw: the file's bytes, or the mapped file.
        start: the offset of the first frame.
        starts_at: the checkpoint after which its frames begin; None for the first frame.
    """

    agreement: CustodyAgreement
    notes: tuple[JournalledOpening, ...] = field(repr=False)
    facts: tuple[str, ...]
    raw: bytes | mmap.mmap = field(repr=False)
    start: int
    starts_at: BaseSnapshot | None = None

    def each(self) -> Iterator[tuple[int, Frame]]:
        """Every frame with its offset, one at a time. Raises TranscriptFileError."""
        offset, index, end = self.start, 0, len(self.raw)
        while offset < end:
            frame = _parsed(self, offset, index)
            yield offset, frame
            offset += frame.length
            index += 1

    def carrying(self, *msg_types: bytes) -> Iterator[Frame]:
        """The frames whose payload may be of one of these types; the core skips the others.

        Raises TranscriptFileError.
        """
        at, index = self.start, 0
        while True:
            try:
                passed, at, why, _ = survey_frames(self.raw, at, msg_types, (None, None))
            except FrameError as bad:
                raise _out_of_form(self, bad) from None
            index += passed
            if why == "end":
                return
            frame = _parsed(self, at, index)
            yield frame
            at += frame.length
            index += 1

    @cached_property
    def _all(self) -> tuple[tuple[int, Frame], ...]:
        return tuple(self.each())

    @cached_property
    def frames(self) -> tuple[Frame, ...]:
        """All frames, in memory. Raises TranscriptFileError."""
        return tuple(frame for _, frame in self._all)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The offset of each of `frames`. Raises TranscriptFileError."""
        return tuple(offset for offset, _ in self._all)


@dataclass(frozen=True, slots=True)
class Verified:
    """What the cryptography of a transcript proves."""

    frames: int
    """How many there are."""
    heads: tuple[Head, Head]
    keys: Keys
    """(lane, fromSeq, public key) of each session key."""


def encode_file(
    agreement: CustodyAgreement,
    frames: Sequence[bytes],
    notes: Sequence[JournalledOpening] = (),
    facts: Sequence[str] = (),
    *,
    starts_at: BaseSnapshot | None = None,
) -> bytes:
    """The file's bytes; equal records give equal bytes.

    `starts_at` is the checkpoint after which `frames` begin; None for the first frame.
    """
    head = opening_json(agreement, notes, facts, starts_at)
    return MAGIC + len(head).to_bytes(4) + head + b"".join(frames)


def parse_file(raw: bytes) -> TranscriptFile:
    """Parse the file and all its frames.

    Raises TranscriptFileError with the byte, and the frame if the fault is in one.
    """
    file = open_file(raw)
    _ = file.frames
    return file


def open_file(raw: bytes | mmap.mmap) -> TranscriptFile:
    """Read only the opening. A mapped file must stay mapped while the result is used.

    Raises TranscriptFileError with the byte.
    """
    magic = bytes(raw[: len(MAGIC)])
    if magic != MAGIC:
        pairs = enumerate(zip(magic, MAGIC, strict=False))
        differs = next((at for at, (is_, should) in pairs if is_ != should), len(magic))
        raise TranscriptFileError(
            "not-a-transcript",
            "the file does not begin as one",
            offset=differs,
            span=(differs, len(MAGIC)),
        )
    length = int.from_bytes(raw[len(MAGIC) : START])
    if len(raw) < START or length > min(MOST_BYTES, len(raw) - START):
        raise TranscriptFileError(
            "truncated",
            "the opening's length goes beyond the file",
            offset=len(MAGIC),
            span=(len(MAGIC), START),
        )
    start = START + length
    try:
        return _opened(raw, start)
    except TranscriptFileError as bad:
        bad.span = (START, start)
        raise


def _opened(raw: bytes | mmap.mmap, start: int) -> TranscriptFile:
    opening = read_opening(bytes(raw[START:start]))
    return TranscriptFile(
        agreement=opening.agreement,
        notes=opening.notes,
        facts=opening.facts,
        raw=raw,
        start=start,
        starts_at=opening.starts_at,
    )


def verify_frames(
    file: TranscriptFile, *, threads: int = 1, progress: Progress | None = None
) -> Verified:
    """Verify delegations, links and signatures of the whole file.

    If it begins at a checkpoint, also verify that both lanes signed that. Raises
    TranscriptFileError naming the first bad frame and the byte.

    Args:
        file: the file.
        threads: how many the core may use; 0 means one for each core.
        progress: called regularly with the frames and bytes verified so far. If it raises, the
            verification ends.
    """
    keys, end, fault = delegated_keys(file)
    first, known = started(file)
    try:
        # Both views end here. While one exists, the mapped file cannot be closed.
        with memoryview(file.raw) as whole, whole[file.start : end] as frames:
            summary = verify_transcript(
                frames,
                file.agreement.domain,
                file.agreement.custody,
                keys,
                start=first,
                threads=threads,
                progress=progress,
            )
    except TranscriptError as bad:
        raise _not_following(file, bad) from None
    except FrameError as bad:
        bad.offset += file.start
        raise _out_of_form(file, bad) from None
    # The frames before the fault are sound, so this is the first fault.
    if fault is not None:
        raise fault
    # Last: the two UCPs prove the checkpoint only because the frames that carry them are verified.
    if file.starts_at is not None:
        _check_agreed(file, file.starts_at)
    return Verified(summary.frames, summary.heads, (*known, *keys))


def started(file: TranscriptFile) -> tuple[TranscriptStart | None, Keys]:
    """The core's start of a file that begins at a checkpoint, and the keys in force there.

    Raises TranscriptFileError.
    """
    if file.starts_at is None:
        return None, ()
    try:
        start, ruling = file.starts_at.check(file.agreement)
    except CheckpointRefused as bad:
        raise bad_checkpoint(file, str(bad)) from None
    return start, tuple((known.lane, since, known.public_key) for since, known in ruling)


def _check_agreed(file: TranscriptFile, starts_at: BaseSnapshot) -> None:
    point = starts_at.point
    said = [frame for frame in file.carrying(b"UCP") if frame.seq == point.said[frame.lane]]
    try:
        check_agreed(point, said)
    except CheckpointRefused as bad:
        raise bad_checkpoint(file, str(bad)) from None


def bad_checkpoint(file: TranscriptFile, detail: str) -> TranscriptFileError:
    """The error for a bad checkpoint in the file's opening."""
    span = (START, file.start)
    return TranscriptFileError("bad-checkpoint", detail, offset=START, span=span)


def delegated_keys(file: TranscriptFile) -> tuple[Keys, int, TranscriptFileError | None]:
    """Find the session keys in the file's frames and check each wallet's signature.

    Returns:
        The keys.
        The offset up to which they suffice to judge the frames.
        The fault of the frame at that offset, or None.
    """
    keys: list[tuple[int, int, bytes]] = []
    in_force: list[Delegation | None] = [None, None]
    heads = [0, 0]
    if file.starts_at is not None:
        heads = list(file.starts_at.point.seqs)
        try:
            in_force = [known for _, known in file.starts_at.check(file.agreement)[1]]
        except CheckpointRefused as bad:
            return (), file.start, bad_checkpoint(file, str(bad))
    at, index = file.start, 0
    while True:
        reach = (_reach(in_force[0]), _reach(in_force[1]))
        try:
            passed, at, why, seen = survey_frames(file.raw, at, _KEY_CARRIERS, reach)
        except FrameError as bad:
            return tuple(keys), _start_of(file, bad), _out_of_form(file, bad)
        index += passed
        heads = [last or before for last, before in zip(seen, heads, strict=True)]
        if why == "end":
            return tuple(keys), at, None
        try:
            frame = _parsed(file, at, index)
        except TranscriptFileError as bad_r_y:
            return tuple(keys), at, bad_r_y
        message = Record.decoded(frame) if why == "message" else None
        # As on a record, a frame that is not its lane's next brings no key and is checked against
        # none. The core reports its fault.
        follows = frame.seq == heads[frame.lane] + 1
        heads[frame.lane] = frame.seq
        # The core may find another fault in a frame beyond its key's range, so it judges that
        # frame, too. It cannot judge a frame whose key was never delegated.
        end = at
        try:
            if (
                isinstance(message, Logon | SessionKeyChange)
                and follows
                and frame.custody == file.agreement.custody
                and (frame.seq == 1) == isinstance(message, Logon)
            ):
                delegation = delegation_in(file.agreement, frame, message)
                in_force[frame.lane] = delegation
                keys.append((frame.lane, frame.seq, delegation.public_key))
            elif follows and (known := in_force[frame.lane]) is not None:
                end = at + frame.length
                known.check_frame(frame)
        except DelegationRefused as refused:
            fault = TranscriptFileError(
                refused.reason,
                str(refused),
                offset=at,
                frame=index,
                span=(at, at + frame.length),
                lane=frame.lane,
                seq=frame.seq,
            )
            return tuple(keys), end, fault
        at += frame.length
        index += 1


def _reach(known: Delegation | None) -> tuple[int, int, int] | None:
    return None if known is None else (known.from_seq, known.to_seq, known.expiry)


# --- where a fault is ---------------------------------------------------------------------------

# For each fault in a single field: the field's name, its first byte and the byte after its last.
_FIELDS: Final = {
    "bad-version": ("version", 0, 1),
    "bad-lane": ("lane", 33, 34),
    "wrong-custody": ("custody", 1, 33),
    "bad-seq": ("lane or seq", 33, 42),
    "bad-previous": ("previous", 42, 74),
    "time-backwards": ("sendingTime", 114, 122),
    "bad-peer-seq": ("peerSeq", 74, 82),
    "ahead": ("peerSeq", 74, 82),
    "bad-peer-digest": ("peerDigest", 82, 114),
    "payload-too-long": ("the payload's length", 122, 126),
}
_TRAILER_FIELDS: Final = {
    "bad-r": ("r", 32),
    "bad-s": ("s", 32),
    "high-s": ("s", 32),
    "bad-v": ("v", 1),
    "bad-r-y": ("R.y", 32),
}
_LENGTH_AT: Final = 122


def _start_of(file: TranscriptFile, bad: FrameError) -> int:
    return locate_frame(file.raw, file.start, bad.offset)[1]


def _parsed(file: TranscriptFile, offset: int, index: int) -> Frame:
    try:
        return Frame.parse(file.raw, offset)
    except FrameError as bad:
        raise _at_fault(file, bad, index, offset, bad.offset) from None


def _out_of_form(file: TranscriptFile, bad: FrameError) -> TranscriptFileError:
    """The error for a malformed frame; `bad.offset` is an offset in the file."""
    index, start = locate_frame(file.raw, file.start, bad.offset)
    return _at_fault(file, bad, index, start, bad.offset)


def _not_following(file: TranscriptFile, bad: TranscriptError) -> TranscriptFileError:
    start = file.start + bad.offset
    _, first, _ = _FIELDS.get(bad.code, ("", 0, 0))
    return _at_fault(file, bad, bad.index, start, start + first, lane=bad.lane, seq=bad.seq)


def _at_fault(
    file: TranscriptFile,
    bad: FrameError | TranscriptError,
    index: int,
    start: int,
    byte: int,
    **place: int,
) -> TranscriptFileError:
    end = len(file.raw)
    if start + 126 <= end:
        place = place or {"lane": file.raw[start + 33], "seq": _seq(file, start)}
        payload = int.from_bytes(file.raw[start + 122 : start + 126])
        if bad.code != "truncated":
            end = min(end, start + _OVERHEAD + payload)
    values: dict[str, object] = dict(place)
    if bad.code in _TRAILER_FIELDS:
        # The length field says where the trailer is, so that field may be wrong instead.
        values["field"], length = _TRAILER_FIELDS[bad.code]
        span = (start + _LENGTH_AT, byte + length)
    elif bad.code in _FIELDS:
        values["field"], first, last = _FIELDS[bad.code]
        span = (start + first, start + last)
    else:
        span = (start, end)
    # Drop the core's prefix: its places count from the first frame, or repeat what is said here.
    detail = str(bad).partition(": ")[2]
    return TranscriptFileError(bad.code, detail, offset=byte, frame=index, span=span, **values)


def _seq(file: TranscriptFile, start: int) -> int:
    return int.from_bytes(file.raw[start + 34 : start + 42])
