"""The opening of a transcript file: the JSON document before its frames.

Every value is a string in one canonical form, so that no changed byte can pass unnoticed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from psymm.addresses import checksum
from psymm.errors import BadOpening, TranscriptFileError
from psymm.strict_json import KeyTwice, loads
from psymm.transcript.agreement import CustodyAgreement, JournalledOpening
from psymm.transcript.checkpoint import BaseSnapshot, Point

_KEYS: Final = {"chainId", "contract", "trader", "solver", "termsHash", "salt", "terms"}
_OPTIONAL: Final = {"notes", "facts", "checkpoint"}
_CHECKPOINT: Final = {
    *("account", "accountHash", "traderSeq", "solverSeq", "traderSaid", "solverSaid"),
    *("carriers", "trader", "solver"),
}
START: Final = 12
"""The opening's offset in the file: after 8 bytes that name the format, and its length."""
MOST_BYTES: Final = 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileOpening:
    """The content of a file's opening."""

    agreement: CustodyAgreement
    notes: tuple[JournalledOpening, ...] = field(repr=False)
    facts: tuple[str, ...]
    """JSON texts, opaque here."""
    starts_at: BaseSnapshot | None
    """The checkpoint after which the frames begin; None for the first frame."""


def opening_json(
    agreement: CustodyAgreement,
    notes: Sequence[JournalledOpening],
    facts: Sequence[str],
    starts_at: BaseSnapshot | None,
) -> bytes:
    """The opening's bytes; equal records give equal bytes."""
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
    return json.dumps(document, separators=(",", ":")).encode()


def read_opening(raw: bytes) -> FileOpening:
    """The inverse of `opening_json`. Raises TranscriptFileError with the byte of the file."""
    document = _json(raw)
    agreement = _agreement(document)
    stated = _hex(document, "termsHash", 32)
    if stated != agreement.terms_hash:
        raise TranscriptFileError(
            "wrong-terms",
            "the terms do not hash to what the opening states",
            offset=START,
            stated=stated,
            computed=agreement.terms_hash,
        )
    return FileOpening(
        agreement=agreement,
        notes=tuple(_note(entry) for entry in _list(document, "notes")),
        facts=_facts(document),
        starts_at=_base_snapshot(document) if "checkpoint" in document else None,
    )


def _refused(detail: str, at: int = 0) -> TranscriptFileError:
    return TranscriptFileError("bad-opening", detail, offset=START + at)


def _json(raw: bytes) -> Mapping[str, Any]:
    try:
        document = loads(raw)
    except KeyTwice:
        raise _refused("a field occurs twice") from None
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
    if not isinstance(value, str) or not value.startswith("0x"):
        raise _refused(f"{name} is not a lower-case 0x string")
    try:
        decoded = bytes.fromhex(value[2:])
    except ValueError:
        raise _refused(f"{name} is not hexadecimal") from None
    # `fromhex` also reads capitals, and spaces between two bytes.
    if value != "0x" + decoded.hex():
        raise _refused(f"{name} is not a lower-case 0x string")
    if length is not None and len(decoded) != length:
        raise _refused(f"{name} is {len(decoded)} bytes, not {length}")
    return decoded


def _number(document: Mapping[str, Any], name: str) -> int:
    """A number in its shortest form, so that no changed byte gives the same number."""
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
