"""What a contract's ABI says: encoding calls, decoding results, events and refusals.

Values are Python's own: int, bool, str (checksummed addresses, text), bytes, lists and tuples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from eth_abi import abi as codec
from eth_abi.exceptions import DecodingError, EncodingError
from eth_utils.address import to_checksum_address

from psymm._core import keccak256
from psymm.chain.errors import CallInvalid, Reverted

ZERO_ADDRESS: Final = "0x" + "00" * 20


@dataclass(frozen=True, slots=True)
class Parameter:
    """One input or output: its canonical type, tuples written out."""

    name: str
    kind: str
    indexed: bool = False


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...]

    @property
    def signature(self) -> str:
        return f"{self.name}({','.join(one.kind for one in self.inputs)})"

    @property
    def selector(self) -> bytes:
        return keccak256(self.signature.encode())[:4]

    def encode(self, *values: object) -> bytes:
        """Selector and arguments.  Raises CallInvalid for values that do not fit the types."""
        return self.selector + encode_values(self.name, [one.kind for one in self.inputs], values)

    def decode(self, data: bytes) -> tuple[Any, ...]:
        """The returned values.  Raises CallInvalid if the bytes are not an encoding of them."""
        return decode_values(self.name, [one.kind for one in self.outputs], data)


@dataclass(frozen=True, slots=True)
class EventKind:
    name: str
    inputs: tuple[Parameter, ...]

    @property
    def topic(self) -> bytes:
        kinds = ",".join(one.kind for one in self.inputs)
        return keccak256(f"{self.name}({kinds})".encode())

    def decode(self, topics: Sequence[bytes], data: bytes) -> dict[str, Any]:
        """The event's values by name.  Raises CallInvalid if topics or data do not fit."""
        indexed = [one for one in self.inputs if one.indexed]
        if not topics or topics[0] != self.topic or len(topics) != 1 + len(indexed):
            raise CallInvalid(self.name, "the log's topics are not this event's")
        found: dict[str, Any] = {}
        for one, topic in zip(indexed, topics[1:], strict=True):
            (found[one.name],) = decode_values(self.name, [one.kind], topic)
        plain = [one for one in self.inputs if not one.indexed]
        values = decode_values(self.name, [one.kind for one in plain], data)
        found.update(zip((one.name for one in plain), values, strict=True))
        return found


class Abi:
    """The functions, events and errors of one contract."""

    def __init__(self, entries: Iterable[Mapping[str, Any]], name: str = "") -> None:
        self.name = name
        self.functions: dict[str, Function] = {}
        self.events: dict[str, EventKind] = {}
        self.errors: dict[bytes, Function] = {}
        self.constructor: tuple[Parameter, ...] = ()
        for entry in entries:
            inputs = tuple(_parameter(one) for one in entry.get("inputs", ()))
            match entry.get("type"):
                case "function":
                    outputs = tuple(_parameter(one) for one in entry.get("outputs", ()))
                    function = Function(entry["name"], inputs, outputs)
                    key = function.name if function.name not in self.functions else None
                    self.functions[key or function.signature] = function
                case "event":
                    self.events[entry["name"]] = EventKind(entry["name"], inputs)
                case "error":
                    refusal = Function(entry["name"], inputs, ())
                    self.errors[refusal.selector] = refusal
                case "constructor":
                    self.constructor = inputs
                case _:
                    pass

    def function(self, name: str) -> Function:
        """Raises CallInvalid if the contract has no such function."""
        try:
            return self.functions[name]
        except KeyError:
            raise CallInvalid(name, f"contract {self.name} has no such function") from None

    def event(self, name: str) -> EventKind:
        """Raises CallInvalid if the contract has no such event."""
        try:
            return self.events[name]
        except KeyError:
            raise CallInvalid(name, f"contract {self.name} has no such event") from None

    def encode_constructor(self, *values: object) -> bytes:
        return encode_values("constructor", [one.kind for one in self.constructor], values)


class Refusals:
    """Every custom error that any of our contracts can raise, by selector."""

    _PANICS: Final = {
        0x01: "assertion failed",
        0x11: "arithmetic overflow",
        0x12: "division by zero",
        0x21: "bad enum value",
        0x32: "index out of range",
        0x41: "out of memory",
    }

    def __init__(self, abis: Iterable[Abi]) -> None:
        self._abis = tuple(abis)

    @cached_property
    def _by_selector(self) -> dict[bytes, Function]:
        return {selector: error for abi in self._abis for selector, error in abi.errors.items()}

    def decode(self, doing: str, data: bytes) -> Reverted:
        """The named error that revert data stands for; never raises."""
        selector, rest = data[:4], data[4:]
        if not data:
            return Reverted(doing, "a revert without a reason", {}, data=data)
        try:
            if selector == bytes.fromhex("08c379a0"):
                (text,) = decode_values("Error", ["string"], rest)
                return Reverted(doing, "Error", {"reason": text}, data=data)
            if selector == bytes.fromhex("4e487b71"):
                (number,) = decode_values("Panic", ["uint256"], rest)
                reason = self._PANICS.get(number, "unknown")
                return Reverted(doing, "Panic", {"number": number, "reason": reason}, data=data)
            error = self._by_selector.get(selector)
            if error is not None:
                values = decode_values(error.name, [one.kind for one in error.inputs], rest)
                names = [one.name or f"value{at}" for at, one in enumerate(error.inputs)]
                return Reverted(doing, error.name, dict(zip(names, values, strict=True)), data=data)
        except CallInvalid:
            pass
        return Reverted(doing, "an unknown error", {"selector": selector}, data=data)


def encode_values(where: str, kinds: Sequence[str], values: Sequence[object]) -> bytes:
    """ABI encoding of values.  Raises CallInvalid naming `where`, never showing a value."""
    if len(kinds) != len(values):
        raise CallInvalid(where, f"takes {len(kinds)} values, not {len(values)}")
    try:
        return codec.encode(list(kinds), list(values))
    except (EncodingError, TypeError, ValueError, OverflowError):
        raise CallInvalid(where, f"a value does not fit ({', '.join(kinds)})") from None


def decode_values(where: str, kinds: Sequence[str], data: bytes) -> tuple[Any, ...]:
    """ABI decoding, addresses checksummed.  Raises CallInvalid."""
    try:
        values = codec.decode(list(kinds), data)
    except (DecodingError, ValueError, OverflowError, UnicodeDecodeError, MemoryError):
        raise CallInvalid(where, f"not an encoding of ({', '.join(kinds)})") from None
    return tuple(_checksummed(kind, value) for kind, value in zip(kinds, values, strict=True))


def checksummed(field: str, address: object) -> str:
    """The address in checksum form.  Raises CallInvalid if it is none."""
    if not isinstance(address, str) or len(address) != 42 or not address.startswith("0x"):
        raise CallInvalid(field, "an address is 0x and 40 hexadecimal digits")
    try:
        raw = bytes.fromhex(address[2:])
    except ValueError:
        raise CallInvalid(field, "an address is 0x and 40 hexadecimal digits") from None
    right = str(to_checksum_address(raw))
    mixed = address[2:] not in (address[2:].lower(), address[2:].upper())
    if mixed and address != right:
        raise CallInvalid(field, f"the checksum of {address} is wrong; it may be mistyped")
    return right


def _parameter(entry: Mapping[str, Any]) -> Parameter:
    return Parameter(entry.get("name", ""), _kind(entry), bool(entry.get("indexed", False)))


def _kind(entry: Mapping[str, Any]) -> str:
    kind = str(entry["type"])
    if kind.startswith("tuple"):
        return "(" + ",".join(_kind(one) for one in entry["components"]) + ")" + kind[5:]
    return kind


def _checksummed(kind: str, value: Any) -> Any:
    if kind == "address":
        return str(to_checksum_address(value))
    if kind.endswith("]"):
        inner = kind[: kind.rindex("[")]
        return [_checksummed(inner, one) for one in value]
    if kind.startswith("("):
        return tuple(
            _checksummed(one, part) for one, part in zip(_members(kind), value, strict=True)
        )
    return value


def _members(kind: str) -> list[str]:
    """The types inside "(…)", split at the commas of the outermost level."""
    parts: list[str] = []
    depth, start = 0, 1
    for at, sign in enumerate(kind):
        if sign == "(":
            depth += 1
        elif sign == ")":
            depth -= 1
            if depth == 0:
                parts.append(kind[start:at])
        elif sign == "," and depth == 1:
            parts.append(kind[start:at])
            start = at + 1
    return [part for part in parts if part]
