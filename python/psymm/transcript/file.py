"""The transcript file (`*.psymm`): a custody's whole record in one file, for keeping and showing.

    8 bytes       "pSymmT1\\n"
    4 bytes       n, big-endian
    n bytes       JSON: chainId, contract, trader, solver, termsHash, salt, terms; and, so that
                  the rulebook can be replayed, notes (openings) and facts (chain facts); and,
                  where the frames begin after a checkpoint in force, that checkpoint: its
                  account, what both UCPs say, and the frames that the first ones rest on
    to the end    frames back to back in order of arrival

Whoever holds the file sees everything that was traded; it can spend nothing.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

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
from psymm.addresses import checksum
from psymm.errors import BadOpening, CheckpointRefused, TranscriptFileError
from psymm.messages import Logon, SessionKeyChange
from psymm.strict_json import KeyTwice, loads
from psymm.transcript.agreement import CustodyAgreement, JournalledOpening
from psymm.transcript.checkpoint import BaseSnapshot, Point, check_agreed
from psymm.transcript.delegation import Delegation, DelegationRefused, delegation_in
from psymm.transcript.record import Record

MAGIC: Final = b"pSymmT1\n"
_START: Final = len(MAGIC) + 4
_MAX_OPENING: Final = 1024 * 1024 * 1024
_KEYS: Final = {"chainId", "contract", "trader", "solver", "termsHash", "salt", "terms"}
_OPTIONAL: Final = {"notes", "facts", "checkpoint"}
_CHECKPOINT: Final = {
    *("account", "accountHash", "traderSeq", "solverSeq", "traderSaid", "solverSaid"),
    *("carriers", "trader", "solver"),
}
_KEY_CARRIERS: Final = (b"A", b"UKY")
_OVERHEAD: Final = 223

Keys = tuple[tuple[int, int, bytes], ...]
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class TranscriptFile:
    """A file whose opening is read; its frames are read where they are asked for.

    raw: the file's bytes, or the file mapped; start: the offset of the first frame; facts: JSON
    texts, opaque here; starts_at: the checkpoint after which its frames begin, None for the first
    of all.
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
        """The frames whose payload may be of one of these types, without a look at the others.
        Raises TranscriptFileError."""
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
        """Where each of `frames` starts. Raises TranscriptFileError."""
        return tuple(offset for offset, _ in self._all)


@dataclass(frozen=True, slots=True)
class Verified:
    """What the cryptography of a transcript proves. keys: (lane, fromSeq, public key)."""

    frames: int
    heads: tuple[Head, Head]
    keys: Keys


def encode_file(
    agreement: CustodyAgreement,
    frames: Sequence[bytes],
    notes: Sequence[JournalledOpening] = (),
    facts: Sequence[str] = (),
    *,
    starts_at: BaseSnapshot | None = None,
) -> bytes:
    """The file's bytes; the same for the same record. starts_at: where `frames` begin after a
    checkpoint."""
    document: dict[str, object] = {
        "chainId": str(agreement.chain_id),
        "contract": agreement.contract.lower(),
        "trader": "0x" + agreement.trader.hex(),
        "solver": "0x" + agreement.solver.hex(),
        "termsHash": "0x" + agreement.terms_hash.hex(),
        "salt": "0x" + agreement.salt.hex(),
        "terms": "0x" + agreement.terms.hex(),
        "notes": [
            {
                "lane": str(note.lane),
                "commitment": "0x" + note.commitment.hex(),
                "token": note.token.lower(),
                "amount": str(note.amount),
                "blinding": "0x" + note.blinding.hex(),
            }
            for note in sorted(notes, key=lambda note: note.commitment)
        ],
        "facts": list(facts),
    }
    if starts_at is not None:
        document["checkpoint"] = _checkpoint_document(starts_at)
    head = json.dumps(document, separators=(",", ":")).encode()
    return MAGIC + len(head).to_bytes(4) + head + b"".join(frames)


def parse_file(raw: bytes) -> TranscriptFile:
    """Read the form of the file and of all its frames. Raises TranscriptFileError with the byte,
    and the frame if in one."""
    file = open_file(raw)
    _ = file.frames
    return file


def open_file(raw: bytes | mmap.mmap) -> TranscriptFile:
    """Read the opening alone. The file may be mapped; it stays so for as long as it is used.

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
    length = int.from_bytes(raw[len(MAGIC) : _START])
    if len(raw) < _START or length > min(_MAX_OPENING, len(raw) - _START):
        raise TranscriptFileError(
            "truncated",
            "the opening's length goes beyond the file",
            offset=len(MAGIC),
            span=(len(MAGIC), _START),
        )
    start = _START + length
    try:
        return _opened(raw, start)
    except TranscriptFileError as bad:
        bad.span = (_START, start)
        raise


def _opened(raw: bytes | mmap.mmap, start: int) -> TranscriptFile:
    document = _json(bytes(raw[_START:start]))
    agreement = _agreement(document)
    stated = _hex(document, "termsHash", 32)
    if stated != agreement.terms_hash:
        raise TranscriptFileError(
            "wrong-terms",
            "the terms do not hash to what the opening states",
            offset=_START,
            stated=stated,
            computed=agreement.terms_hash,
        )
    return TranscriptFile(
        agreement=agreement,
        notes=tuple(_note(entry) for entry in _list(document, "notes")),
        facts=_facts(document),
        raw=raw,
        start=start,
        starts_at=_base_snapshot(document) if "checkpoint" in document else None,
    )


def verify_frames(
    file: TranscriptFile, *, threads: int = 1, progress: Progress | None = None
) -> Verified:
    """Delegations, chain and signatures of the whole file, by the core in one pass; of one that
    begins at a checkpoint, that both lanes signed it too.

    threads: 0 for one on each core. progress: called now and then with the frames and bytes that
    are through; what it raises ends the work. Raises TranscriptFileError naming the first frame
    that does not stand, and the byte.
    """
    keys, end, fault = delegated_keys(file)
    first, known = started(file)
    try:
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
    if fault is not None:
        raise fault
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
    """Of what the file begins at."""
    span = (_START, file.start)
    return TranscriptFileError("bad-checkpoint", detail, offset=_START, span=span)


def delegated_keys(file: TranscriptFile) -> tuple[Keys, int, TranscriptFileError | None]:
    """The session keys that the file's frames carry, each wallet's signature checked; up to which
    byte they suffice to judge the frames; and what is wrong with the frame there, if anything."""
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
        # A frame that is not its lane's next brings no key and is held against none, as on a
        # record; the core says what is wrong with it.
        follows = frame.seq == heads[frame.lane] + 1
        heads[frame.lane] = frame.seq
        # Of a frame beyond its key's reach the core may find more; of a key that was never
        # delegated it knows nothing.
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

# Of each fault that lies in one field: its name, its first byte and the one after its last.
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
    """Of an error whose offset is the file's."""
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
        # The trailer is where the length says, so that may be what is wrong.
        values["field"], length = _TRAILER_FIELDS[bad.code]
        span = (start + _LENGTH_AT, byte + length)
    elif bad.code in _FIELDS:
        values["field"], first, last = _FIELDS[bad.code]
        span = (start + first, start + last)
    else:
        span = (start, end)
    # What the core says of places counts from the first frame on, or says this once more.
    detail = str(bad).partition(": ")[2]
    return TranscriptFileError(bad.code, detail, offset=byte, frame=index, span=span, **values)


def _seq(file: TranscriptFile, start: int) -> int:
    return int.from_bytes(file.raw[start + 34 : start + 42])


# --- the opening's JSON -------------------------------------------------------------------------


def _refused(detail: str, at: int = 0) -> TranscriptFileError:
    return TranscriptFileError("bad-opening", detail, offset=_START + at)


def _json(raw: bytes) -> Mapping[str, Any]:
    try:
        document = loads(raw)
    except KeyTwice:
        raise _refused("a field stands twice") from None
    except json.JSONDecodeError as bad:
        at = len(bad.doc[: bad.pos].encode())
        raise _refused("the opening is not JSON", at) from None
    except UnicodeDecodeError as bad:
        raise _refused("the opening is not UTF-8", bad.start) from None
    except ValueError as bad:
        raise _refused(f"the opening is not JSON: {bad}") from None
    if not isinstance(document, dict):
        raise _refused("the opening is not a JSON object")
    if set(document) - _OPTIONAL != _KEYS:
        odd = sorted((set(document) - _OPTIONAL) ^ _KEYS)
        raise _refused(f"fields are missing or unknown: {', '.join(map(ascii, odd))[:200]}")
    return document


def _hex(document: Mapping[str, Any], name: str, length: int | None) -> bytes:
    value = document.get(name)
    if not isinstance(value, str) or not value.startswith("0x") or value != value.lower():
        raise _refused(f"{name} is not a lower-case 0x string")
    try:
        decoded = bytes.fromhex(value[2:])
    except ValueError:
        raise _refused(f"{name} is not hexadecimal") from None
    if length is not None and len(decoded) != length:
        raise _refused(f"{name} is {len(decoded)} bytes, not {length}")
    return decoded


def _number(document: Mapping[str, Any], name: str) -> int:
    """Every value is a string, and a number in its one form, so that no flip makes another."""
    value = document.get(name)
    if not isinstance(value, str) or not value.isascii() or not value.isdigit():
        raise _refused(f"{name} is not a string of digits")
    if len(value) > 78 or (value.startswith("0") and value != "0"):
        raise _refused(f"{name} is not a number in its shortest form, or above 2^256")
    return int(value)


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    value = document.get(name, [])
    if not isinstance(value, list):
        raise _refused(f"{name} is not a list")
    return value


def _facts(document: Mapping[str, Any]) -> tuple[str, ...]:
    facts = _list(document, "facts")
    if not all(isinstance(one, str) for one in facts):
        raise _refused("a fact is not a string")
    return tuple(facts)


def _agreement(document: Mapping[str, Any]) -> CustodyAgreement:
    from psymm._core import address_of

    try:
        agreement = CustodyAgreement(
            chain_id=_number(document, "chainId"),
            contract=checksum(_hex(document, "contract", 20)),
            trader=_hex(document, "trader", 64),
            solver=_hex(document, "solver", 64),
            terms=_hex(document, "terms", None),
            salt=_hex(document, "salt", 32),
        )
        for key in (agreement.trader, agreement.solver):
            address_of(key)
    except BadOpening as bad:
        raise _refused(str(bad)) from None
    except ValueError as bad:
        raise _refused(f"a public key is no point: {bad}") from None
    return agreement


def _checkpoint_document(starts_at: BaseSnapshot) -> dict[str, object]:
    point = starts_at.point
    return {
        "accountHash": "0x" + point.account_hash.hex(),
        "traderSeq": str(point.trader_seq),
        "solverSeq": str(point.solver_seq),
        "traderSaid": str(point.said[0]),
        "solverSaid": str(point.said[1]),
        "carriers": ["0x" + raw.hex() for raw in starts_at.carriers],
        "trader": "0x" + starts_at.trader.hex(),
        "solver": ["0x" + raw.hex() for raw in starts_at.solver],
        "account": starts_at.account.decode(),
    }


def _base_snapshot(document: Mapping[str, Any]) -> BaseSnapshot:
    found = document["checkpoint"]
    if not isinstance(found, dict) or set(found) != _CHECKPOINT:
        raise _refused("the checkpoint's fields are missing or unknown")
    carriers = [_hex({"carriers": each}, "carriers", None) for each in _list(found, "carriers")]
    if len(carriers) != 2:
        raise _refused("carriers are not two frames")
    account = found["account"]
    if not isinstance(account, str):
        raise _refused("account is not a string")
    return BaseSnapshot(
        Point(
            _hex(found, "accountHash", 32),
            _number(found, "traderSeq"),
            _number(found, "solverSeq"),
            (_number(found, "traderSaid"), _number(found, "solverSaid")),
        ),
        account.encode("utf-8", "replace"),
        (carriers[0], carriers[1]),
        _hex(found, "trader", None),
        tuple(_hex({"solver": each}, "solver", None) for each in _list(found, "solver")),
    )


def _note(entry: object) -> JournalledOpening:
    if not isinstance(entry, dict):
        raise _refused("a note is not an object")
    amount = _number(entry, "amount")
    if not 0 <= amount < 1 << 128 or _number(entry, "lane") not in (0, 1):
        raise _refused("a note's amount or lane is out of range")
    return JournalledOpening(
        commitment=_hex(entry, "commitment", 32),
        lane=_number(entry, "lane"),
        token=checksum(_hex(entry, "token", 20)),
        amount=amount,
        blinding=_hex(entry, "blinding", 32),
    )
