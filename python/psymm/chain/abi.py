"""What a contract's ABI says: encoding calls, decoding results, events and refusals.

eth_abi and eth_utils do the work; this gives their errors our names and addresses their checksum.
They take long to import, so that is done for the first value that is encoded or decoded.
Values are Python's own: int, bool, str (checksummed addresses, text), bytes, lists and tuples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final

from psymm.addresses import checksum
from psymm.chain.errors import CallInvalid, Reverted


@dataclass(frozen=True, slots=True)
class Function:
    """A function, or a custom error, which is written like one.  Types have tuples written out."""

    name: str
    selector: bytes
    inputs: tuple[str, ...]
    names: tuple[str, ...]
    outputs: tuple[str, ...]

    def encode(self, *values: object) -> bytes:
        """Selector and arguments.  Raises CallInvalid for values that do not fit the types."""
        return self.selector + encode_values(self.name, self.inputs, values)

    def decode(self, data: bytes) -> tuple[Any, ...]:
        """The returned values.  Raises CallInvalid if the bytes are not an encoding of them."""
        return decode_values(self.name, self.outputs, data)

    def arguments(self, data: bytes) -> dict[str, Any]:
        """The arguments of a call, or of an error, by name.  Raises CallInvalid."""
        return dict(zip(self.names, decode_values(self.name, self.inputs, data[4:]), strict=True))


@dataclass(frozen=True, slots=True)
class EventKind:
    """An event.  Each input: name, type, whether it is indexed."""

    name: str
    topic: bytes
    inputs: tuple[tuple[str, str, bool], ...]

    def decode(self, topics: Sequence[bytes], data: bytes) -> dict[str, Any]:
        """The event's values by name.  Raises CallInvalid if topics or data do not fit."""
        indexed = [(name, kind) for name, kind, is_topic in self.inputs if is_topic]
        if not topics or topics[0] != self.topic or len(topics) != 1 + len(indexed):
            raise CallInvalid(self.name, "the log's topics are not this event's")
        found: dict[str, Any] = {}
        for (name, kind), topic in zip(indexed, topics[1:], strict=True):
            (found[name],) = decode_values(self.name, [kind], topic)
        plain = [(name, kind) for name, kind, is_topic in self.inputs if not is_topic]
        values = decode_values(self.name, [kind for _, kind in plain], data)
        found.update(zip((name for name, _ in plain), values, strict=True))
        return found


class Abi:
    """The functions, events and errors of one contract."""

    def __init__(self, entries: Sequence[Mapping[str, Any]], name: str = "") -> None:
        self.name = name
        self._entries = entries

    @cached_property
    def functions(self) -> dict[str, Function]:
        return {one["name"]: _function(one) for one in self._of("function")}

    @cached_property
    def events(self) -> dict[str, EventKind]:
        return {one["name"]: _event(one) for one in self._of("event")}

    @cached_property
    def errors(self) -> dict[bytes, Function]:
        """By selector."""
        return {one.selector: one for one in map(_function, self._of("error"))}

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
        kinds = [kind for one in self._of("constructor") for kind in _inputs(one)]
        return encode_values("constructor", kinds, values)

    def _of(self, kind: str) -> list[Any]:
        return [one for one in self._entries if one.get("type") == kind]


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
                return Reverted(doing, error.name, error.arguments(data), data=data)
        except CallInvalid:
            pass
        return Reverted(doing, "an unknown error", {"selector": selector}, data=data)


def encode_values(where: str, kinds: Sequence[str], values: Sequence[object]) -> bytes:
    """ABI encoding of values.  Raises CallInvalid naming `where`, never showing a value."""
    if len(kinds) != len(values):
        raise CallInvalid(where, f"takes {len(kinds)} values, not {len(values)}")
    from eth_abi.abi import encode
    from eth_abi.exceptions import EncodingError

    try:
        return encode(list(kinds), list(values))
    except (EncodingError, TypeError, ValueError, OverflowError):
        raise CallInvalid(where, f"a value does not fit ({', '.join(kinds)})") from None


def decode_values(where: str, kinds: Sequence[str], data: bytes) -> tuple[Any, ...]:
    """ABI decoding, addresses checksummed.  Raises CallInvalid."""
    from eth_abi.exceptions import DecodingError

    try:
        return _decode()(list(kinds), data)
    except (DecodingError, ValueError, OverflowError, UnicodeDecodeError, MemoryError):
        raise CallInvalid(where, f"not an encoding of ({', '.join(kinds)})") from None


@cache
def _decode() -> Callable[[list[str], bytes], tuple[Any, ...]]:
    """eth_abi's decoder, giving addresses their checksum."""
    from eth_abi.codec import ABIDecoder
    from eth_abi.decoding import AddressDecoder
    from eth_abi.registry import registry

    class Checksummed(AddressDecoder):
        decoder_fn = staticmethod(checksum)  # type: ignore[assignment]

    ours = registry.copy()  # type: ignore[no-untyped-call]
    ours.unregister_decoder("address")
    ours.register_decoder("address", Checksummed)
    return ABIDecoder(ours).decode


def _inputs(entry: Any) -> list[str]:
    from eth_utils.abi import get_abi_input_types

    return get_abi_input_types(entry)


def _function(entry: Any) -> Function:
    from eth_utils.abi import function_abi_to_4byte_selector, get_abi_output_types

    names = (one.get("name") or f"value{at}" for at, one in enumerate(entry.get("inputs", ())))
    return Function(
        entry["name"],
        bytes(function_abi_to_4byte_selector(entry)),
        tuple(_inputs(entry)),
        tuple(names),
        tuple(get_abi_output_types(entry)) if entry["type"] == "function" else (),
    )


def _event(entry: Any) -> EventKind:
    from eth_utils.abi import event_abi_to_log_topic

    inputs = zip(entry["inputs"], _inputs(entry), strict=True)
    return EventKind(
        entry["name"],
        bytes(event_abi_to_log_topic(entry)),
        tuple((one["name"], kind, one["indexed"]) for one, kind in inputs),
    )
