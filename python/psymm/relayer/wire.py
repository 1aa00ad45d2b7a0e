"""What a client and a relayer say to each other: one JSON object a WebSocket text message.

    → {"id":"1","method":"terms"}
    ← {"id":"1","terms":{"chainId":"31337","contract":"0x…","relayer":"0x…",
                         "fees":[{"token":"0x…","ctc":"50000","cta":"50000"}],
                         "minDeadlineSeconds":"90","validUntil":"1893456000"}}
    → {"id":"2","method":"submit","chainId":"31337","contract":"0x…","kind":"ctc","call":{…}}
    ← {"id":"2","status":"queued"}
    ← {"id":"2","status":"sent","tx":"0x…"}
    ← {"id":"2","status":"mined","tx":"0x…","block":"12","gasUsed":"812345"}
    ← {"id":"2","error":{"code":"fee-too-low","message":"…","values":{"quote":"50000"}}}

Every value is a string; bytes are 0x hex in lower case, numbers plain decimals. A call has exactly
the fields of the contract's struct. `id` is the client's and comes back unchanged, so one socket
can carry several requests. Unknown or missing fields, duplicate keys and other types are refused as
`bad-request`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from psymm._core import keccak256
from psymm.chain.addresses import checksummed
from psymm.chain.calls import Call, CtcCall, call_from_json
from psymm.chain.errors import CallInvalid
from psymm.relayer.errors import BadRequest, Refusal, RelayerLied
from psymm.strict_json import KeyTwice, loads

Kind = Literal["ctc", "cta"]

T = TypeVar("T")

MAX_MESSAGE_BYTES: Final = 160 * 1024
"""More than a call with the longest proof, in hex."""
GAS: Final[Mapping[Kind, int]] = {"ctc": 1_200_000, "cta": 1_200_000}
"""What a move may take in gas, by which fees that follow the gas price are made and weighed
(design section 8)."""
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,77}")
_HEX: Final = re.compile(r"0x(?:[0-9a-f]{2})*")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,32}")


@dataclass(frozen=True, slots=True)
class TokenFee:
    """What a relayer asks in one token, in its units, for each kind of move."""

    token: str
    ctc: int
    cta: int

    def of(self, kind: Kind) -> int:
        return self.ctc if kind == "ctc" else self.cta


@dataclass(frozen=True, slots=True)
class Terms:
    """A relayer's offer. valid_until_s: seconds since the epoch up to which its fees hold.
    min_deadline_s: how far ahead a call's deadline must be when it arrives."""

    chain_id: int
    contract: str
    relayer: str
    fees: tuple[TokenFee, ...]
    min_deadline_s: int
    valid_until_s: int

    def fee(self, token: str, kind: Kind) -> int | None:
        """The fee in `token`, None if the relayer does not take it."""
        return next((one.of(kind) for one in self.fees if one.token == token), None)


@dataclass(frozen=True, slots=True)
class AskTerms:
    id: str


@dataclass(frozen=True, slots=True)
class Submit:
    id: str
    chain_id: int
    contract: str
    call: Call


Request = AskTerms | Submit


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a submitted call is: queued, sent (tx known) or mined (block and gas known)."""

    status: Literal["queued", "sent", "mined"]
    tx: str | None = None
    block: int | None = None
    gas_used: int | None = None


def kind_of(call: Call) -> Kind:
    return "ctc" if isinstance(call, CtcCall) else "cta"


def fee_token(call: Call) -> str:
    """The token that the relayer's fee is paid in."""
    return call.fee_token if isinstance(call, CtcCall) else call.token


def marks(call: Call) -> list[bytes]:
    """Everything of a call that the chain takes once only: nullifiers and commitments."""
    outputs = call.commitments if isinstance(call, CtcCall) else (call.change,)
    return [*call.nullifiers, *outputs]


def identity(call: Call) -> bytes:
    """32 bytes that two calls share if they do the same: everything but proof and root."""
    body = {name: value for name, value in call.to_json().items() if name not in ("proof", "root")}
    return keccak256(json.dumps([call.kind, body], sort_keys=True).encode())


# --- requests -----------------------------------------------------------------------------------


def encode_request(request: Request) -> str:
    if isinstance(request, AskTerms):
        return _dump({"id": request.id, "method": "terms"})
    return _dump(
        {
            "id": request.id,
            "method": "submit",
            "chainId": str(request.chain_id),
            "contract": request.contract.lower(),
            "kind": kind_of(request.call),
            "call": request.call.to_json(),
        }
    )


def request_id(text: str) -> str:
    """The id of a request that may otherwise be nonsense, '' if it has none."""
    try:
        found = loads(text)
    except ValueError:
        return ""
    name = found.get("id") if isinstance(found, dict) else None
    return name if isinstance(name, str) and _ID.fullmatch(name) else ""


def decode_request(text: str) -> Request:
    """The request in a text message. Raises BadRequest, naming the field."""
    body = _load(text)
    method = body.get("method")
    if method == "terms":
        _only(body, "request", ("id", "method"))
        return AskTerms(_id(body))
    if method == "submit":
        _only(body, "request", ("id", "method", "chainId", "contract", "kind", "call"))
        return Submit(
            id=_id(body),
            chain_id=_number(body, "chainId", 64),
            contract=_address(body, "contract"),
            call=_call(body["kind"], body["call"]),
        )
    raise BadRequest("there is no such method", method=_brief(method))


# --- answers ------------------------------------------------------------------------------------


def encode_terms(id: str, terms: Terms) -> str:
    return _dump(
        {
            "id": id,
            "terms": {
                "chainId": str(terms.chain_id),
                "contract": terms.contract.lower(),
                "relayer": terms.relayer.lower(),
                "fees": [
                    {"token": one.token.lower(), "ctc": str(one.ctc), "cta": str(one.cta)}
                    for one in terms.fees
                ],
                "minDeadlineSeconds": str(terms.min_deadline_s),
                "validUntil": str(terms.valid_until_s),
            },
        }
    )


def progress_json(progress: Progress) -> dict[str, object]:
    body: dict[str, object] = {"status": progress.status}
    if progress.tx is not None:
        body["tx"] = progress.tx
    if progress.block is not None:
        body["block"] = str(progress.block)
    if progress.gas_used is not None:
        body["gasUsed"] = str(progress.gas_used)
    return body


def refusal_json(refusal: Refusal) -> dict[str, object]:
    values = {name: _text(value) for name, value in refusal.values.items()}
    error = {"code": refusal.code, "message": refusal.detail or refusal.what, "values": values}
    return {"error": error}


def encode_answer(id: str, body: Mapping[str, object]) -> str:
    """An answer of `progress_json` or `refusal_json` with the id of its request."""
    return _dump({"id": id, **body})


def decode_terms(text: str, id: str) -> Terms:
    """A relayer's terms. Raises the Refusal that it sent instead, or RelayerLied for nonsense."""
    return _answered(text, id, _terms)


def _terms(body: dict[str, Any]) -> Terms:
    _only(body, "answer", ("id", "terms"))
    terms = _object(body, "terms")
    names = ("chainId", "contract", "relayer", "fees", "minDeadlineSeconds", "validUntil")
    _only(terms, "terms", names)
    fees = terms["fees"]
    if not isinstance(fees, list) or len(fees) > 256:
        raise BadRequest("fees must be a list of at most 256")
    offered: list[TokenFee] = []
    for one in fees:
        if not isinstance(one, dict):
            raise BadRequest("a fee must be an object")
        _only(one, "fee", ("token", "ctc", "cta"))
        offered.append(
            TokenFee(_address(one, "token"), _number(one, "ctc", 128), _number(one, "cta", 128))
        )
    if len({one.token for one in offered}) != len(offered):
        raise BadRequest("a token has two fees")
    return Terms(
        chain_id=_number(terms, "chainId", 64),
        contract=_address(terms, "contract"),
        relayer=_address(terms, "relayer"),
        fees=tuple(offered),
        min_deadline_s=_number(terms, "minDeadlineSeconds", 32),
        valid_until_s=_number(terms, "validUntil", 64),
    )


def decode_progress(text: str, id: str) -> Progress:
    """A relayer's word on a submitted call. Raises the Refusal that it sent, or RelayerLied."""
    return _answered(text, id, _progress)


def _progress(body: dict[str, Any]) -> Progress:
    status = body.get("status")
    if status == "queued":
        _only(body, "answer", ("id", "status"))
        return Progress("queued")
    if status == "sent":
        _only(body, "answer", ("id", "status", "tx"))
        return Progress("sent", tx="0x" + _bytes(body, "tx", 32).hex())
    if status == "mined":
        _only(body, "answer", ("id", "status", "tx", "block", "gasUsed"))
        return Progress(
            "mined",
            tx="0x" + _bytes(body, "tx", 32).hex(),
            block=_number(body, "block", 64),
            gas_used=_number(body, "gasUsed", 64),
        )
    raise BadRequest("there is no such status", status=_brief(status))


# --- parts --------------------------------------------------------------------------------------


def _load(text: str) -> dict[str, Any]:
    if len(text) > MAX_MESSAGE_BYTES:
        raise BadRequest("the message is too long", length=len(text))
    try:
        found = loads(text)
    except KeyTwice as bad:
        raise BadRequest("a key stands twice", key=_brief(bad.key)) from None
    except ValueError:
        raise BadRequest("that is not JSON") from None
    if not isinstance(found, dict):
        raise BadRequest("the message must be a JSON object")
    return found


def _answered(text: str, id: str, read: Callable[[dict[str, Any]], T]) -> T:
    """What `read` makes of an answer. Raises the Refusal that it is, or RelayerLied."""
    try:
        body = _load(text)
        if body.get("id") not in (id, ""):
            raise BadRequest("an answer to another request", id=_brief(body.get("id")))
        if "error" not in body:
            return read(body)
        refusal = _refusal(body["error"])
    except BadRequest as nonsense:
        raise RelayerLied(f"its answer makes no sense: {nonsense.detail}") from None
    raise refusal


def _refusal(error: object) -> Refusal:
    if not isinstance(error, dict):
        raise BadRequest("an error that is no object")
    code, message, values = error.get("code"), error.get("message"), error.get("values", {})
    if not isinstance(code, str) or not isinstance(message, str) or not isinstance(values, dict):
        raise BadRequest("an error without code and message")
    family = Refusal.known.get(code, Refusal)
    # What a stranger wrote goes to a person's terminal, so it is short and printable.
    shown = {
        name: _printable(value)
        for name, value in list(values.items())[:8]
        if isinstance(value, str) and _NAME.fullmatch(name) and name not in ("detail", "self")
    }
    detail = _printable(message)
    return family(detail if family is not Refusal else f"{_printable(code)}: {detail}", **shown)


def _only(body: Mapping[str, object], where: str, names: Sequence[str]) -> None:
    unknown = [name for name in body if name not in names]
    missing = [name for name in names if name not in body]
    if unknown:
        raise BadRequest(f"the {where} has a field that does not exist", field=_brief(unknown[0]))
    if missing:
        raise BadRequest(f"the {where} lacks a field", field=missing[0])


def _id(body: Mapping[str, object]) -> str:
    name = body["id"]
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise BadRequest("id must be 1 to 32 letters, digits, - or _")
    return name


def _object(body: Mapping[str, object], name: str) -> dict[str, Any]:
    found = body.get(name)
    if not isinstance(found, dict):
        raise BadRequest(f"{name} must be an object")
    return found


def _number(body: Mapping[str, object], name: str, bits: int) -> int:
    text = body[name]
    if not isinstance(text, str) or not _NUMBER.fullmatch(text) or int(text) >> bits:
        raise BadRequest(f"{name} must be a decimal string below 2^{bits}", found=_brief(text))
    return int(text)


def _call(kind: object, body: object) -> Call:
    try:
        call = call_from_json(str(kind), body)
    except CallInvalid as bad:
        raise BadRequest(_printable(str(bad))) from None
    if not call.proof:
        raise BadRequest("the call has no proof")
    return call


def _bytes(body: Mapping[str, object], name: str, length: int) -> bytes:
    text = body[name]
    if not isinstance(text, str) or not _HEX.fullmatch(text) or len(text) != 2 + 2 * length:
        raise BadRequest(f"{name} must be 0x and {2 * length} lower-case hex digits")
    return bytes.fromhex(text[2:])


def _address(body: Mapping[str, object], name: str) -> str:
    raw = _bytes(body, name, 20)
    return checksummed(name, "0x" + raw.hex())


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _text(value: object) -> str:
    return _hex(bytes(value)) if isinstance(value, bytes | bytearray) else str(value)


def _brief(value: object) -> str:
    return _printable(str(value))[:64]


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text[:300])


def _dump(body: Mapping[str, object]) -> str:
    return json.dumps(body, separators=(",", ":"))
