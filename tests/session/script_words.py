"""The words of a session script: messages as scripts write them, and what is compared with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from script import LANES, BadScript, Script, assignments, duration_ns, evaluate
from session_scene import make_terms

from psymm._core import Frame, JsonError
from psymm.messages import Resume, decode_text
from psymm.terms import Limits, Terms, Timeouts
from psymm.transcript.agreement import TRADER


@dataclass(frozen=True, slots=True)
class Closed:
    """The end closed the connection, with this reason."""

    reason: str


Item = str | Frame | Closed


def resume_in(text: str) -> Resume | None:
    try:
        said = decode_text(text)
    except JsonError:
        return None
    return said if isinstance(said, Resume) else None


def business(lane: int) -> tuple[str, str]:
    """What stands for a message of the application: the trader asks for a quote, the solver
    gives one. MsgType and the field that names it."""
    return ("R", "QuoteReqID") if lane == TRADER else ("S", "QuoteID")


DEFAULTS: dict[str, dict[str, str]] = {
    "R": {"Symbol": "BTC-USD", "OrderQty": "0.01"},
    "S": {
        "Symbol": "BTC-USD",
        "ValidUntilTime": "$now+30s",
        "BidPx": "49999",
        "OfferPx": "50001",
    },
    "D": {
        "Symbol": "BTC-USD",
        "Side": "1",
        "OrderQty": "0.01",
        "OrdType": "2",
        "PositionEffect": "O",
        "ExpireTime": "$now+30s",
        "Price": "50000",
    },
    "G": {"OrderQty": "0.02", "Price": "50000", "ExpireTime": "$now+30s"},
    "8": {"ExecType": "F"},
    "Z": {"QuoteCancelType": "5"},
    "9": {"CxlRejResponseTo": "1", "CxlRejReason": "0"},
    "AJ": {"QuoteRespType": "6"},
}
"""What a field is where a script does not say; `Field=-` leaves one out."""


def payload_of(kind: str, given: dict[str, str], known: dict[str, int]) -> bytes:
    """A payload by MsgType and fields, not checked against any schema."""
    fields = DEFAULTS.get(kind, {}) | given
    if kind == "8" and fields["ExecType"] == "F":
        fields = {"LastPx": "50000", "LastQty": "0.01"} | fields
    made: dict[str, object] = {"MsgType": kind}
    for name, value in fields.items():
        if value != "-":
            reckoned = evaluate(value, known)
            made[name] = json.loads(reckoned) if reckoned.startswith("[{") else reckoned
    return json.dumps(made, separators=(",", ":"), ensure_ascii=False).encode()


def split_fields(words: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Fields of the message (FIX names) and of the frame's header (lower case first)."""
    given = assignments(tuple(words))
    fields = {name: value for name, value in given.items() if name[0].isupper()}
    header = {name: value for name, value in given.items() if not name[0].isupper()}
    return fields, header


def shown(item: Item) -> str:
    """What went out, for a failure."""
    if isinstance(item, str):
        return f"text {item[:300]}"
    if isinstance(item, Closed):
        return f"close {item.reason}"
    return (
        f"frame seq={item.seq} peerSeq={item.peer_seq} "
        f"{item.payload[:300].decode('utf-8', 'replace')}"
    )


class Mismatch(Exception):
    """Why a line of a script does not hold."""


def match_fields(held: dict[str, Any], wanted: dict[str, str], known: dict[str, int]) -> None:
    """Raises Mismatch."""
    for name, value in wanted.items():
        reckoned = evaluate(value, known)
        if name.endswith("~"):
            if reckoned not in str(held.get(name[:-1], "")):
                raise Mismatch(f"{name[:-1]} does not hold {reckoned!r}")
        elif value == "-":
            if name in held:
                raise Mismatch(f"{name} is {held[name]!r}, not left out")
        elif held.get(name) != reckoned:
            raise Mismatch(f"{name} is {held.get(name)!r}, not {reckoned!r}")


def terms_of(script: Script) -> Terms:
    """The scene's terms, with the script's spans and limits. Raises BadScript."""
    spans = {
        name: duration_ns(value)
        for name, value in script.terms.items()
        if name in Timeouts.__dataclass_fields__
    }
    limits = {
        name: int(value)
        for name, value in script.terms.items()
        if name in Limits.__dataclass_fields__
    }
    if unknown := set(script.terms) - set(spans) - set(limits):
        raise BadScript(f"{script.name}: the terms have no {sorted(unknown)}")
    return make_terms(timeouts=Timeouts(**spans), limits=Limits(**limits))


def compare_account(account: Any, words: Sequence[str]) -> None:
    """Raises Mismatch, BadScript."""
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise BadScript(f"{word} is not name=value")
        part, _, key = name.partition(".")
        came: object
        match part:
            case "order":
                came = str(account.status_of(key) or "absent")
            case "filled":
                order = account.orders.get(key)
                came = "absent" if order is None else _decimal(order.filled)
            case "positions" | "orders" | "quotes" | "requests":
                came = str(len(getattr(account, part)))
            case "request":
                came = "live" if key in account.requests else "absent"
            case "quote":
                came = "live" if key in account.quotes else "absent"
            case "long":
                came = _decimal(sum(p.quantity for p in account.positions.values()))
            case "entry":
                came = ",".join(sorted(_decimal(p.entry_price) for p in account.positions.values()))
            case "realised":
                came = _decimal(account.realised)
            case "collateral":
                came = str(account.collateral(LANES.index(key)))
            case _:
                raise BadScript(f"an account has no {part}")
        if came != value:
            raise Mismatch(f"{name} is {came}, not {value}")


def _decimal(scaled: int) -> str:
    from psymm._core import format_decimal

    return format_decimal(scaled)


def attribute_of(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


def outcome(words: Sequence[str]) -> tuple[Sequence[str], str | None]:
    if "->" not in words:
        return words, None
    at = list(words).index("->")
    return words[:at], " ".join(words[at + 1 :])


def numbers_in(text: str, known: dict[str, int]) -> range:
    first, _, last = text.partition("..")
    begin = int(evaluate(first, known))
    return range(begin, int(evaluate(last, known)) + 1 if last else begin + 1)


def parts_of(words: Sequence[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "&":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def bent(raw: bytes, header: dict[str, str]) -> bytes:
    """The bytes as they arrive: cut, grown, or with one bit another."""
    if "flip" in header:
        byte, _, bit = header.pop("flip").partition(".")
        damaged = bytearray(raw)
        damaged[int(byte)] ^= 1 << int(bit or "0")
        raw = bytes(damaged)
    if "cut" in header:
        raw = raw[: int(header.pop("cut"))]
    if "tail" in header:
        raw += bytes.fromhex(header.pop("tail"))
    if "version" in header:
        raw = bytes([int(header.pop("version"))]) + raw[1:]
    if "rawSeq" in header:
        raw = raw[:34] + int(header.pop("rawSeq")).to_bytes(8, "big") + raw[42:]
    if "length" in header:
        raw = raw[:122] + int(header.pop("length")).to_bytes(4, "big") + raw[126:]
    return raw
