"""Which bit was flipped in a transcript file that does not stand, if it was one.

A signature covers a whole frame, and the custody's id the whole opening, so a fault there says
nothing of where. But if one bit was flipped on the way, turning it back is the one change of a bit
after which everything stands again; so each bit in question is tried. A file that was altered on
purpose, or in more places, has no such bit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from mmap import mmap
from typing import Final

from psymm import _core
from psymm._core import Frame, FrameError, keccak256, locate_frame
from psymm.errors import TranscriptFileError
from psymm.messages import Logon, SessionKeyChange
from psymm.transcript.delegation import DelegationRefused, delegation_in
from psymm.transcript.file import (
    MAGIC,
    TranscriptFile,
    delegated_keys,
    field_at,
    open_file,
    started,
)
from psymm.transcript.record import Record

_START: Final = len(MAGIC) + 4
_HEADER: Final = 126
_TRAILER: Final = 97
# Each bit of what is searched costs some fifty microseconds.
_LONGEST_PAYLOAD: Final = 4096
_LONGEST_OPENING: Final = 8192
_HEX: Final = b"0123456789abcdef"
# Hexadecimal digits in a row that only the terms' hash can judge.
_LONG_DIGITS: Final = re.compile(rb"[0-9a-f]{1024,}")
# A flipped bit spoils one of these at most.
_KEY_FIELDS: Final = (b"SessionPublicKey", b"DelegationSignature")


@dataclass(frozen=True, slots=True)
class Flip:
    """offset: the byte in the file; bit: 0 for its lowest; where: the field it is in."""

    offset: int
    bit: int
    where: str


Check = Callable[[TranscriptFile], object]


def find_flip(
    raw: bytes | mmap, refused: TranscriptFileError, check: Check | None = None
) -> Flip | None:
    """The one bit that has to be turned back for the part of the file that `refused` names to
    stand; None if no bit does it, if several would, or if the part is longer than is searched
    (payloads of 4,096 bytes, openings of 8,192 beside the terms; the opening of a file that begins
    at a checkpoint is not searched). Blocks, up to some seconds.

    check: what else an opening must pass; raises TranscriptFileError where it does not.
    """
    if refused.reason == "not-a-transcript":
        return _in_magic(raw)
    search = _AgreementSearch(raw, check)
    if refused.frame is None:
        return search.find(refused)
    file = open_file(raw)
    _, start = locate_frame(raw, file.start, refused.offset)
    found = _in_frame(file, start)
    if found is None and refused.frame == 0:
        found = search.find(refused)
    return found


# --- in a frame ---------------------------------------------------------------------------------


def _in_frame(file: TranscriptFile, start: int) -> Flip | None:
    keys, _, _ = delegated_keys(file)
    try:
        keys = (*started(file)[1], *keys)
    except TranscriptFileError:
        return None
    agreement = file.agreement
    flip = _core.find_flip(file.raw, start, agreement.domain, agreement.custody, keys)
    if flip is None:
        flip = _in_key_carrier(file, start)
    if flip is None:
        return None
    return Flip(*flip, field_at(file, start, flip[0]))


def _in_key_carrier(file: TranscriptFile, start: int) -> tuple[int, int] | None:
    """The same for a frame whose own payload says which key signed it."""
    rest = bytes(file.raw[start : start + _HEADER + _LONGEST_PAYLOAD + _TRAILER])
    if not any(name in rest for name in _KEY_FIELDS):
        return None
    payload = int.from_bytes(rest[_HEADER - 4 : _HEADER])
    length = min(len(rest), _HEADER + payload + _TRAILER)
    for at, bit, repaired in _repaired(rest, range(length)):
        try:
            frame = Frame.parse(repaired)
            message = Record.decoded(frame)
            if isinstance(message, Logon | SessionKeyChange):
                frame.verify(file.agreement.domain, message.session_public_key)
                delegation_in(file.agreement, frame, message)
                return start + at, bit
        except (FrameError, DelegationRefused, ValueError):
            continue
    return None


# --- in the opening -----------------------------------------------------------------------------


def _in_magic(raw: bytes | mmap) -> Flip | None:
    differing = [at for at, byte in enumerate(MAGIC) if raw[at : at + 1] != bytes([byte])]
    if len(differing) != 1 or len(raw) < len(MAGIC):
        return None
    at = differing[0]
    changed = raw[at] ^ MAGIC[at]
    if changed & (changed - 1):
        return None
    return Flip(at, changed.bit_length() - 1, "the file's first eight bytes")


class _AgreementSearch:
    """The search in the opening of a file, which has to fit the first frame after it."""

    def __init__(self, raw: bytes | mmap, check: Check | None) -> None:
        self._raw = raw
        self._check = check
        self._end = _START + int.from_bytes(raw[len(MAGIC) : _START])
        self._head = bytes(raw[_START : self._end])

    def find(self, refused: TranscriptFileError) -> Flip | None:
        # A checkpoint's account is vouched for by a hash of another order, field by field.
        if b'"checkpoint":' in self._head or self._stands(self._head, self._end):
            return None
        return self._in_length() or self._in_terms(refused) or self._in_json()

    def _in_length(self) -> Flip | None:
        for at, bit, repaired in _repaired(bytes(self._raw[len(MAGIC) : _START]), range(4)):
            end = _START + int.from_bytes(repaired)
            if end <= len(self._raw) and self._stands(bytes(self._raw[_START:end]), end):
                return Flip(len(MAGIC) + at, bit, "the opening's length")
        return None

    def _in_terms(self, refused: TranscriptFileError) -> Flip | None:
        """A digit of the terms or of their hash that became another digit."""
        stated, computed = refused.values.get("stated"), refused.values.get("computed")
        if not isinstance(stated, bytes) or not isinstance(computed, bytes):
            return None
        head = self._head
        at = head.find(stated.hex().encode())
        for digit, (is_, should) in enumerate(
            zip(stated.hex().encode(), computed.hex().encode(), strict=True), max(at, 0)
        ):
            changed = is_ ^ should
            if changed and not changed & (changed - 1):
                repaired = head[:digit] + bytes([should]) + head[digit + 1 :]
                if self._stands(repaired, self._end):
                    return Flip(_START + digit, changed.bit_length() - 1, "termsHash")
        terms = re.search(rb'"terms":"0x([0-9a-f]*)"', head)
        if terms is None:
            return None
        for digit, bit, repaired in _repaired(terms[1], range(len(terms[1]))):
            if repaired[digit] in _HEX and keccak256(bytes.fromhex(repaired.decode())) == stated:
                return Flip(_START + terms.start(1) + digit, bit, "terms")
        return None

    def _in_json(self) -> Flip | None:
        # The first two may be the 0x before the digits, its x having become one, and the last
        # the quote after them.
        judged_by_hash = {
            at
            for run in _LONG_DIGITS.finditer(self._head)
            for at in range(run.start() + 2, run.end() - 1)
        }
        places = [at for at in range(len(self._head)) if at not in judged_by_hash]
        found = [
            Flip(_START + at, bit, _name_at(repaired, at))
            for at, bit, repaired in _repaired(self._head, places[:_LONGEST_OPENING])
            if self._stands(repaired, self._end)
        ]
        # Of unsigned parts more than one reading may be in form.
        return found[0] if len(found) == 1 else None

    def _stands(self, head: bytes, end: int) -> bool:
        """Whether an opening is in form and gives the custody and the domain of the frame after
        it."""
        raw = MAGIC + len(head).to_bytes(4) + head
        raw += self._raw[end : end + _HEADER + 65_536 + _TRAILER]
        try:
            file = open_file(raw)
            if self._check is not None:
                self._check(file)
            if file.start == len(raw):
                return True
            frame = Frame.parse(raw, file.start)
            message = Record.decoded(frame)
            if frame.custody != file.agreement.custody or not isinstance(message, Logon):
                return False
            delegation_in(file.agreement, frame, message)
        except (TranscriptFileError, FrameError, DelegationRefused):
            return False
        return True


def _name_at(head: bytes, at: int) -> str:
    """The field of the opening's JSON that a byte is in or next to."""
    names = re.findall(rb'"(\w+)":', head[: at + 1])
    return names[-1].decode() if names else "the opening"


def _repaired(raw: bytes, places: range | list[int]) -> Iterator[tuple[int, int, bytes]]:
    """(byte, bit, the bytes with that bit turned over), for each bit of some bytes."""
    for at in places:
        for bit in range(8):
            yield at, bit, raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]
