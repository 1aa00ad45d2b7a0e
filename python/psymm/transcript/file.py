"""The transcript file (`*.psymm`): a custody's whole record in one file, for keeping and showing.

    8 bytes       "pSymmT1\\n"
    4 bytes       n, big-endian
    n bytes       JSON: chainId, contract, trader, solver, termsHash, salt, terms; and, so that
                  the rulebook can be replayed, notes (openings) and facts (chain facts)
    to the end    frames back to back in order of arrival

Whoever holds the file sees everything that was traded; it can spend nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from psymm._core import Frame, FrameError, Head, TranscriptError, verify_transcript
from psymm.errors import BadOpening, TranscriptFileError
from psymm.messages import Logon, SessionKeyChange
from psymm.transcript.delegation import DelegationRefused, delegation_in
from psymm.transcript.journal import Journal, JournalledOpening, JournalReader
from psymm.transcript.opening import Opening, checksummed
from psymm.transcript.record import Record

MAGIC: Final = b"pSymmT1\n"
_START: Final = len(MAGIC) + 4
_MAX_OPENING: Final = 16 * 1024 * 1024
_KEYS: Final = {"chainId", "contract", "trader", "solver", "termsHash", "salt", "terms"}


@dataclass(frozen=True, slots=True)
class TranscriptFile:
    """A parsed file. start: the offset of the first frame; facts: JSON texts, opaque here."""

    opening: Opening
    notes: tuple[JournalledOpening, ...] = field(repr=False)
    facts: tuple[str, ...]
    frames: tuple[Frame, ...] = field(repr=False)
    offsets: tuple[int, ...] = field(repr=False)
    raw: bytes = field(repr=False)
    start: int


@dataclass(frozen=True, slots=True)
class Verified:
    """What the cryptography of a transcript proves. keys: (lane, fromSeq, public key)."""

    frames: int
    heads: tuple[Head, Head]
    keys: tuple[tuple[int, int, bytes], ...]


def encode_file(
    opening: Opening,
    frames: Sequence[bytes],
    notes: Sequence[JournalledOpening] = (),
    facts: Sequence[str] = (),
) -> bytes:
    """The file's bytes; the same for the same record."""
    document: dict[str, object] = {
        "chainId": str(opening.chain_id),
        "contract": opening.contract.lower(),
        "trader": "0x" + opening.trader.hex(),
        "solver": "0x" + opening.solver.hex(),
        "termsHash": "0x" + opening.terms_hash.hex(),
        "salt": "0x" + opening.salt.hex(),
        "terms": "0x" + opening.terms.hex(),
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
    head = json.dumps(document, separators=(",", ":")).encode()
    return MAGIC + len(head).to_bytes(4) + head + b"".join(frames)


def parse_file(raw: bytes) -> TranscriptFile:
    """Read the file's form. Raises TranscriptFileError with the byte, and the frame if in one."""
    if raw[: len(MAGIC)] != MAGIC:
        raise TranscriptFileError("not-a-transcript", "the file does not begin as one", offset=0)
    length = int.from_bytes(raw[len(MAGIC) : _START])
    if len(raw) < _START or length > min(_MAX_OPENING, len(raw) - _START):
        raise TranscriptFileError(
            "truncated", "the opening's length goes beyond the file", offset=len(MAGIC)
        )
    start = _START + length
    document = _json(raw[_START:start])
    opening = _opening(document)
    stated = _hex(document, "termsHash", 32)
    if stated != opening.terms_hash:
        raise TranscriptFileError(
            "wrong-terms",
            "the terms do not hash to what the opening states",
            offset=_START,
            stated=stated,
            computed=opening.terms_hash,
        )
    frames: list[Frame] = []
    offsets: list[int] = []
    offset = start
    while offset < len(raw):
        try:
            frame = Frame.parse(raw, offset)
        except FrameError as bad:
            raise TranscriptFileError(
                bad.code, str(bad), offset=bad.offset, frame=len(frames)
            ) from None
        frames.append(frame)
        offsets.append(offset)
        offset += len(frame.raw)
    return TranscriptFile(
        opening=opening,
        notes=tuple(_note(entry) for entry in _list(document, "notes")),
        facts=tuple(str(fact) for fact in _list(document, "facts")),
        frames=tuple(frames),
        offsets=tuple(offsets),
        raw=raw,
        start=start,
    )


def verify_frames(file: TranscriptFile) -> Verified:
    """Delegations, chain and signatures of the whole file, by the core in one pass.

    Raises TranscriptFileError naming the frame and the byte.
    """
    keys: list[tuple[int, int, bytes]] = []
    in_force: dict[int, Any] = {}
    for index, (frame, offset) in enumerate(zip(file.frames, file.offsets, strict=True)):
        message = Record.decoded(frame)
        try:
            if isinstance(message, Logon | SessionKeyChange) and (
                (frame.seq == 1) == isinstance(message, Logon)
            ):
                delegation = delegation_in(file.opening, frame, message)
                in_force[frame.lane] = delegation
                keys.append((frame.lane, frame.seq, delegation.public_key))
            elif frame.lane in in_force:
                in_force[frame.lane].check_frame(frame)
        except DelegationRefused as refused:
            raise TranscriptFileError(
                refused.reason, str(refused), offset=offset, frame=index
            ) from None
    try:
        summary = verify_transcript(
            file.raw[file.start :], file.opening.domain, file.opening.custody, keys
        )
    except TranscriptError as bad:
        raise TranscriptFileError(
            bad.code,
            str(bad),
            offset=file.start + bad.offset,
            frame=bad.index,
            lane=bad.lane,
            seq=bad.seq,
        ) from None
    except FrameError as bad:
        raise TranscriptFileError(bad.code, str(bad), offset=file.start + bad.offset) from None
    return Verified(summary.frames, summary.heads, tuple(keys))


async def export(journal: JournalReader, custody: bytes, path: Path) -> int:
    """Write a custody's record to `path`, whole or not at all; returns the number of frames.

    Openings go in where the journal is unlocked. Raises UnknownCustody, JournalError, OSError.
    Cancelled: raises Cancelled; nothing is written.
    """
    from trio.to_thread import run_sync

    held = await journal.custody(custody)
    frames = await journal.frames(custody)
    facts = await journal.facts(custody)
    notes: list[JournalledOpening] = []
    if isinstance(journal, Journal) and journal.unlocked:
        notes = await journal.openings(custody)
    raw = encode_file(held.opening, [frame.raw for frame in frames], notes, facts)
    await run_sync(_write_whole, path, raw)
    return len(frames)


def _write_whole(path: Path, raw: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.draft")
    draft.touch(mode=0o600)
    draft.write_bytes(raw)
    draft.replace(path)


# --- the opening's JSON -------------------------------------------------------------------------


def _refused(detail: str) -> TranscriptFileError:
    return TranscriptFileError("bad-opening", detail, offset=_START)


def _json(raw: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise _refused("the opening is not JSON") from None
    if not isinstance(document, dict):
        raise _refused("the opening is not a JSON object")
    if set(document) - {"notes", "facts"} != _KEYS:
        odd = sorted(set(document) ^ _KEYS - {"notes", "facts"})
        raise _refused(f"fields are missing or unknown: {', '.join(map(ascii, odd))[:200]}")
    return document


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _refused("a field stands twice")
    return found


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
    value = document.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str) or not value.isascii() or not value.isdigit():
        raise _refused(f"{name} is not a whole number")
    return int(value[:80])


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    value = document.get(name, [])
    if not isinstance(value, list):
        raise _refused(f"{name} is not a list")
    return value


def _opening(document: Mapping[str, Any]) -> Opening:
    from psymm._core import address_of

    try:
        opening = Opening(
            chain_id=_number(document, "chainId"),
            contract=checksummed(_hex(document, "contract", 20)),
            trader=_hex(document, "trader", 64),
            solver=_hex(document, "solver", 64),
            terms=_hex(document, "terms", None),
            salt=_hex(document, "salt", 32),
        )
        for key in (opening.trader, opening.solver):
            address_of(key)
    except BadOpening as bad:
        raise _refused(str(bad)) from None
    except ValueError as bad:
        raise _refused(f"a public key is no point: {bad}") from None
    return opening


def _note(entry: object) -> JournalledOpening:
    if not isinstance(entry, dict):
        raise _refused("a note is not an object")
    amount = _number(entry, "amount")
    if not 0 <= amount < 1 << 128 or _number(entry, "lane") not in (0, 1):
        raise _refused("a note's amount or lane is out of range")
    return JournalledOpening(
        commitment=_hex(entry, "commitment", 32),
        lane=_number(entry, "lane"),
        token=checksummed(_hex(entry, "token", 20)),
        amount=amount,
        blinding=_hex(entry, "blinding", 32),
    )
