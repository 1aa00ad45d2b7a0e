"""What goes over an oracle signer's WebSocket. Pure: parsing and writing.

All messages are texts of JSON. The signer greets; the peer asks once; the signer answers until the
peer leaves, or until the end of what it asked for.

    signer  {"oracle":{"domain":"0x…","signer":"0x…","challenge":"0x…"}}
    peer    {"follow":{"after":"…"}}            all rounds after this moment, and then new ones
    peer    {"history":{"first":"…","last":"…"}}   the rounds of this range, ends included
    peer    {"ballots":{"signature":"0x…"}}     what this signer signs; for its peers
    signer  {"timestamp":…}                     a whole round, as `rounds.text` writes it
    signer  {"end":"…"}                         the history's last moment was reached
    signer  {"proposal":{"timestamp":…}}
    signer  {"countersignature":{"timestamp":"…","root":"0x…","signature":"0x…"}}

Nobody can ask for a single feed (`spec.md` 42): what a party looks at is nobody's business.

A peer proves that it is a signer by its signature of EIP-712
`OraclePeer(bytes32 challenge,address signer)`, where `signer` is the one that it dialled. Proposals
and countersignatures prove themselves; the proof only keeps the peer's place from strangers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from psymm._core import keccak256
from psymm.oracle.agreement import Ballot, Countersignature, Proposal
from psymm.oracle.rounds import (
    MOST_ROUND_BYTES,
    OracleError,
    SignedRound,
    decode_round,
    encode_round,
)
from psymm.strict_json import loads

MOST_REQUEST_BYTES: Final = 1024
MOST_ANSWER_BYTES: Final = MOST_ROUND_BYTES + 256
_NESTING: Final = 4
_PEER_TYPE: Final = keccak256(b"OraclePeer(bytes32 challenge,address signer)")
_MOMENT: Final = re.compile("0|[1-9][0-9]{0,19}")
_HEX: Final = re.compile("0x(?:[0-9a-f]{2})*")
_ADDRESS: Final = re.compile("0x[0-9a-fA-F]{40}")
_ROUND_START: Final = '{"timestamp":"'
_PROPOSAL_START: Final = '{"proposal":'


class MessageMalformed(OracleError):
    """A message that is none of the above."""

    code = "oracle-message"
    what = "the message is malformed"
    remedy = "Nothing of it was used"


@dataclass(frozen=True, slots=True)
class Greeting:
    """The first message of a signer.

    Attributes:
        domain: the domain separator of its deployment, 32 bytes.
        signer: its address.
        challenge: 32 random bytes of this connection.
    """

    domain: bytes
    signer: str
    challenge: bytes


@dataclass(frozen=True, slots=True)
class FollowRounds:
    """Asks for all rounds after a moment, and the new ones. after: nanoseconds since the epoch."""

    after: int


@dataclass(frozen=True, slots=True)
class AskHistory:
    """Asks for the rounds of a range. first, last: nanoseconds since the epoch, both included."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class FollowBallots:
    """Asks for what the signer signs. signature: of `peer_digest`, 65 bytes."""

    signature: bytes


@dataclass(frozen=True, slots=True)
class HistoryEnd:
    """All rounds of the history up to this moment have been sent."""

    last: int


Request: TypeAlias = FollowRounds | AskHistory | FollowBallots


def peer_digest(domain: bytes, challenge: bytes, signer: str) -> bytes:
    """What a peer signs to prove itself to the signer that it dialled. challenge: 32 bytes."""
    struct = keccak256(_PEER_TYPE + challenge + bytes(12) + bytes.fromhex(signer[2:]))
    return keccak256(b"\x19\x01" + domain + struct)


def encode_greeting(greeting: Greeting) -> str:
    return _encode(
        "oracle",
        {
            "domain": "0x" + greeting.domain.hex(),
            "signer": greeting.signer,
            "challenge": "0x" + greeting.challenge.hex(),
        },
    )


def decode_greeting(text: str | bytes) -> Greeting:
    """Raises MessageMalformed."""
    name, body = _one(text, MOST_REQUEST_BYTES)
    if name != "oracle":
        raise MessageMalformed("a signer's first message is a greeting")
    found = _members(body, domain=_hex(32), signer=_address, challenge=_hex(32))
    return Greeting(**found)


def encode_request(request: Request) -> str:
    match request:
        case FollowRounds(after):
            return _encode("follow", {"after": str(after)})
        case AskHistory(first, last):
            return _encode("history", {"first": str(first), "last": str(last)})
        case FollowBallots(signature):
            return _encode("ballots", {"signature": "0x" + signature.hex()})


def decode_request(text: str | bytes) -> Request:
    """Raises MessageMalformed."""
    name, body = _one(text, MOST_REQUEST_BYTES)
    match name:
        case "follow":
            return FollowRounds(**_members(body, after=_moment))
        case "history":
            return AskHistory(**_members(body, first=_moment, last=_moment))
        case "ballots":
            return FollowBallots(**_members(body, signature=_hex(65)))
    raise MessageMalformed("it is no request")


def encode_end(last: int) -> str:
    return json.dumps({"end": str(last)}, separators=(",", ":"))


def decode_answer(text: str | bytes) -> SignedRound | HistoryEnd:
    """A round, or the end of the history. Raises MessageMalformed, RoundInvalid, LeafInvalid."""
    if isinstance(text, str) and text.startswith(_ROUND_START):
        return decode_round(text)
    name, body = _one(text, MOST_REQUEST_BYTES)
    if name != "end":
        raise MessageMalformed("it is no answer")
    return HistoryEnd(_moment(body))


def encode_ballot(ballot: Ballot) -> str:
    if isinstance(ballot, Proposal):
        return _PROPOSAL_START + encode_round(ballot.signed) + "}"
    return _encode(
        "countersignature",
        {
            "timestamp": str(ballot.timestamp),
            "root": "0x" + ballot.root.hex(),
            "signature": "0x" + ballot.signature.hex(),
        },
    )


def decode_ballot(text: str | bytes) -> Ballot:
    """Raises MessageMalformed, RoundInvalid, LeafInvalid."""
    if isinstance(text, str) and text.startswith(_PROPOSAL_START) and text.endswith("}"):
        signed = decode_round(text[len(_PROPOSAL_START) : -1])
        if len(signed.signatures) != 1:
            raise MessageMalformed("a proposal has one signature")
        return Proposal(signed)
    name, body = _one(text, MOST_REQUEST_BYTES)
    if name != "countersignature":
        raise MessageMalformed("it is no ballot")
    found = _members(body, timestamp=_moment, root=_hex(32), signature=_hex(65))
    return Countersignature(**found)


def _encode(name: str, body: dict[str, str]) -> str:
    return json.dumps({name: body}, separators=(",", ":"))


def _one(text: str | bytes, most: int) -> tuple[str, object]:
    """Name and body of an object with one member."""
    if not isinstance(text, str) or len(text) > most:
        raise MessageMalformed("it is no text, or too long")
    try:
        found = loads(text, _NESTING)
    except ValueError:
        raise MessageMalformed("it is not JSON") from None
    if not isinstance(found, dict) or len(found) != 1:
        raise MessageMalformed("it is no object with one member")
    ((name, body),) = found.items()
    return name, body


def _members(body: object, **readers: Callable[[object], Any]) -> dict[str, Any]:
    if not isinstance(body, dict) or body.keys() != readers.keys():
        raise MessageMalformed(f"its members are not {', '.join(readers)}")
    return {name: read(body[name]) for name, read in readers.items()}


def _hex(length: int) -> Callable[[object], bytes]:
    def read(value: object) -> bytes:
        if not isinstance(value, str) or len(value) != 2 + 2 * length or not _HEX.fullmatch(value):
            raise MessageMalformed(f"it is not 0x and {2 * length} digits")
        return bytes.fromhex(value[2:])

    return read


def _address(value: object) -> str:
    if not isinstance(value, str) or not _ADDRESS.fullmatch(value):
        raise MessageMalformed("it is no address")
    return value


def _moment(value: object) -> int:
    if not isinstance(value, str) or not _MOMENT.fullmatch(value) or int(value) >= 1 << 64:
        raise MessageMalformed("it is no moment")
    return int(value)
