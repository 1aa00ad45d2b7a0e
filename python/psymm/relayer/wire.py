"""The messages between client and relayer: one JSON object in each WebSocket text message.

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
the fields of the contract's struct. The client chooses `id`, and the answer repeats it, so one
socket can carry several requests. Unknown or missing fields, duplicate keys and other types are
refused as `bad-request`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias, TypeVar

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SkipValidation,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic.alias_generators import to_camel

from psymm._core import keccak256
from psymm.addresses import checksum
from psymm.chain.calls import Call, call_from_json
from psymm.chain.errors import CallInvalid
from psymm.relayer.errors import BadRequest, RelayerLied, RelayerRefusal
from psymm.strict_json import KeyTwice, loads

T = TypeVar("T")

MAX_MESSAGE_BYTES: Final = 160 * 1024
"""The longest message: more than a call with the longest proof, in hex."""
GAS: Final[Mapping[str, int]] = {"ctc": 1_200_000, "cta": 1_200_000}
"""The expected gas of a move, from which gas-based fees are computed and judged (design section 8).
"""
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,77}")
_ADDRESS: Final = re.compile(r"0x[0-9a-f]{40}")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,32}")
_EXACT: Final = ConfigDict(extra="forbid", alias_generator=to_camel)
"""On the wire all members are strings; each type below reads a string and nothing else."""


def _below(bits: int) -> BeforeValidator:
    def read(text: object) -> int:
        if not isinstance(text, str) or not _NUMBER.fullmatch(text) or int(text) >> bits:
            raise ValueError(f"must be a decimal string below 2^{bits}")
        return int(text)

    return BeforeValidator(read)


def _read_address(text: object) -> str:
    if not isinstance(text, str) or not _ADDRESS.fullmatch(text):
        raise ValueError("must be 0x and 40 lower-case hex digits")
    return checksum(bytes.fromhex(text[2:]))


_U32: TypeAlias = Annotated[int, _below(32), PlainSerializer(str)]
_U64: TypeAlias = Annotated[int, _below(64), PlainSerializer(str)]
_U128: TypeAlias = Annotated[int, _below(128), PlainSerializer(str)]
_Address: TypeAlias = Annotated[str, BeforeValidator(_read_address), PlainSerializer(str.lower)]
_Hash: TypeAlias = Annotated[str, StringConstraints(pattern="^0x[0-9a-f]{64}$")]
_Id: TypeAlias = Annotated[str, StringConstraints(pattern=f"^{_ID.pattern}$")]


@dataclass(frozen=True, slots=True)
class TokenFee:
    """A relayer's fee in one token, in units, for each kind of move."""

    __pydantic_config__: ClassVar = _EXACT
    token: _Address
    ctc: _U128
    cta: _U128

    def of(self, kind: str) -> int:
        return self.ctc if kind == "ctc" else self.cta


@dataclass(frozen=True, slots=True)
class RelayerTerms:
    """A relayer's offer.

    Attributes:
        min_deadline_s: how far ahead a call's deadline must be when it arrives.
        valid_until_s: until when its fees hold, seconds since the epoch.
    """

    __pydantic_config__: ClassVar = _EXACT
    chain_id: _U64
    contract: _Address
    relayer: _Address
    fees: Annotated[tuple[TokenFee, ...], Field(max_length=256)]
    min_deadline_s: Annotated[_U32, Field(alias="minDeadlineSeconds")]
    valid_until_s: Annotated[_U64, Field(alias="validUntil")]

    def fee(self, token: str, kind: str) -> int | None:
        """The fee in `token`; None if the relayer does not accept it."""
        return next((one.of(kind) for one in self.fees if one.token == token), None)


@dataclass(frozen=True, slots=True)
class AskTerms:
    __pydantic_config__: ClassVar = _EXACT
    id: _Id


@dataclass(frozen=True, slots=True)
class Submit:
    __pydantic_config__: ClassVar = _EXACT
    id: _Id
    chain_id: _U64
    contract: _Address
    call: Annotated[SkipValidation[Call], PlainSerializer(lambda call: call.to_json())]


Request = AskTerms | Submit


@dataclass(frozen=True, slots=True)
class SendProgress:
    """The state of a submitted call: queued, sent (tx known) or mined (block and gas known)."""

    __pydantic_config__: ClassVar = _EXACT
    status: Literal["queued", "sent", "mined"]
    tx: _Hash | None = None
    block: _U64 | None = None
    gas_used: _U64 | None = None


_FIELDS: Final = {"queued": 1, "sent": 2, "mined": 4}
"""How many members a progress has in each state; they come in the order of the fields."""


def identity(call: Call) -> bytes:
    """32 bytes that are equal for two calls of the same move; proof and root do not count."""
    # After a reorganisation the client proves the same move under another root. It is then still
    # the same call, and its notes conflict with no other.
    body = {name: value for name, value in call.to_json().items() if name not in ("proof", "root")}
    return keccak256(json.dumps([call.kind, body], sort_keys=True).encode())


# --- requests -----------------------------------------------------------------------------------


def encode_request(request: Request) -> str:
    if isinstance(request, AskTerms):
        return _dump({"id": request.id, "method": "terms"})
    return _dump({**_members(request), "method": "submit", "kind": request.call.kind})


def request_id(text: str) -> str:
    """The id of a request, even an invalid one; '' if it has none."""
    try:
        found = loads(text)
    except ValueError:
        return ""
    name = found.get("id") if isinstance(found, dict) else None
    return name if isinstance(name, str) and _ID.fullmatch(name) else ""


def decode_request(text: str) -> Request:
    """The request in a text message. Raises BadRequest, naming the field."""
    body = _load(text)
    method = body.pop("method", None)
    if method == "terms":
        return _read(AskTerms, body)
    if method == "submit":
        call = _call(body.pop("kind", None), body.get("call"))
        return _read(Submit, {**body, "call": call})
    raise BadRequest("there is no such method", method=_brief(method))


# --- answers ------------------------------------------------------------------------------------


def encode_terms(id: str, terms: RelayerTerms) -> str:
    return _dump({"id": id, "terms": _members(terms)})


def progress_json(progress: SendProgress) -> dict[str, object]:
    return _members(progress)


def refusal_json(refusal: RelayerRefusal) -> dict[str, object]:
    values = {name: _text(value) for name, value in refusal.values.items()}
    error = {"code": refusal.code, "message": refusal.detail or refusal.what, "values": values}
    return {"error": error}


def encode_answer(id: str, body: Mapping[str, object]) -> str:
    """An answer of `progress_json` or `refusal_json` with the id of its request."""
    return _dump({"id": id, **body})


def decode_terms(text: str, id: str) -> RelayerTerms:
    """A relayer's terms. Raises the RelayerRefusal that it sent, or RelayerLied for an invalid
    answer."""
    return _answered(text, id, _terms)


def _terms(body: dict[str, Any]) -> RelayerTerms:
    if list(body) != ["terms"]:
        raise BadRequest("an answer with other members than terms")
    terms = _read(RelayerTerms, body["terms"])
    if len({one.token for one in terms.fees}) != len(terms.fees):
        raise BadRequest("a token has two fees")
    return terms


def decode_progress(text: str, id: str) -> SendProgress:
    """The progress of a submitted call. Raises the RelayerRefusal that it sent, or RelayerLied."""
    return _answered(text, id, _progress)


def _progress(body: dict[str, Any]) -> SendProgress:
    progress = _read(SendProgress, body)
    if len(body) != _FIELDS[progress.status] or len(_members(progress)) != len(body):
        raise BadRequest("an answer whose fields do not fit its status")
    return progress


# --- parts --------------------------------------------------------------------------------------


def _load(text: str) -> dict[str, Any]:
    if len(text) > MAX_MESSAGE_BYTES:
        raise BadRequest("the message is too long", length=len(text))
    try:
        found = loads(text)
    except KeyTwice as bad:
        raise BadRequest("a key occurs twice", key=_brief(bad.key)) from None
    except ValueError:
        raise BadRequest("it is not JSON") from None
    if not isinstance(found, dict):
        raise BadRequest("the message must be a JSON object")
    return found


def _answered(text: str, id: str, read: Callable[[dict[str, Any]], T]) -> T:
    """An answer's content by `read`. Raises the RelayerRefusal in it, or RelayerLied."""
    try:
        body = _load(text)
        # The refusal of a message that the relayer did not parse has no id.
        if (name := body.pop("id", None)) not in (id, ""):
            raise BadRequest("an answer to another request", id=_brief(name))
        if "error" not in body:
            return read(body)
        refusal = _refusal(body["error"])
    except BadRequest as nonsense:
        raise RelayerLied(f"its answer is invalid: {nonsense.detail}") from None
    raise refusal


def _refusal(error: object) -> RelayerRefusal:
    if not isinstance(error, dict):
        raise BadRequest("an error that is no object")
    code, message, values = error.get("code"), error.get("message"), error.get("values", {})
    if not isinstance(code, str) or not isinstance(message, str) or not isinstance(values, dict):
        raise BadRequest("an error without code and message")
    family = RelayerRefusal.known.get(code, RelayerRefusal)
    # A stranger wrote it and a person's terminal will show it, so it is shortened and printable.
    shown = {
        name: _printable(value)
        for name, value in list(values.items())[:8]
        if isinstance(value, str) and _NAME.fullmatch(name) and name not in ("detail", "self")
    }
    detail = _printable(message)
    return family(
        detail if family is not RelayerRefusal else f"{_printable(code)}: {detail}", **shown
    )


def _read(kind: type[T], body: object) -> T:
    """An object of type `kind`. Raises BadRequest, naming the field."""
    try:
        found: T = _adapters()[kind].validate_python(body)
        return found
    except ValidationError as bad:
        first = bad.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise BadRequest(first["msg"].removeprefix("Value error, "), field=_brief(field)) from None


def _members(of: object) -> dict[str, object]:
    """The members for the wire, without those that are None."""
    adapter = _adapters()[type(of)]
    dumped: dict[str, object] = adapter.dump_python(of, by_alias=True, exclude_none=True)
    return dumped


@cache
def _adapters() -> dict[type, TypeAdapter[Any]]:
    return {kind: TypeAdapter(kind) for kind in (AskTerms, Submit, RelayerTerms, SendProgress)}


def _call(kind: object, body: object) -> Call:
    try:
        call = call_from_json(str(kind), body)
    except CallInvalid as bad:
        raise BadRequest(_printable(str(bad))) from None
    if not call.proof:
        raise BadRequest("the call has no proof")
    return call


def _text(value: object) -> str:
    return "0x" + value.hex() if isinstance(value, bytes | bytearray) else str(value)


def _brief(value: object) -> str:
    return _printable(str(value))[:64]


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text[:300])


def _dump(body: Mapping[str, object]) -> str:
    return json.dumps(body, separators=(",", ":"))
