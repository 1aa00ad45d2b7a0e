"""A contract's ABI: encoding calls; decoding results, events and refusals.

eth_abi and eth_utils do the work. This module turns their errors into ours and checksums addresses.
Both are slow to import, so they are imported for the first value that is encoded or decoded.
Values are plain Python: int, bool, str (checksummed addresses, text), bytes, lists and tuples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property
from typing import Any, Final

from psymm.addresses import checksum
from psymm.chain.errors import CallInvalid, Reverted


class Function:
    """A function, or a custom error, which has the same form.  Tuples are expanded in the types."""

    def __init__(self, entry: Any) -> None:
        from eth_utils.abi import function_abi_to_4byte_selector, get_abi_output_types

        self.name: Final[str] = entry["name"]
        self.selector: Final = bytes(function_abi_to_4byte_selector(entry))
        self.outputs: Final = get_abi_output_types(entry) if entry["type"] == "function" else []
        self._inputs: Final = _inputs(entry)

    def encode(self, *values: object) -> bytes:
        """Selector and arguments.  Raises CallInvalid for values that do not fit the types."""
        return self.selector + encode_values(self.name, [kind for _, kind in self._inputs], values)

    def decode(self, data: bytes) -> tuple[Any, ...]:
        """The returned values.  Raises CallInvalid if the bytes are not an encoding of them."""
        return decode_values(self.name, self.outputs, data)

    def arguments(self, data: bytes) -> dict[str, Any]:
        """The arguments of a call, or of an error, by name.  Raises CallInvalid."""
        return _by_name(self.name, self._inputs, data[4:])


class EventKind:
    """One kind of event."""

    def __init__(self, entry: Any) -> None:
        from eth_utils.abi import event_abi_to_log_topic

        self.name: Final[str] = entry["name"]
        self.topic: Final = bytes(event_abi_to_log_topic(entry))
        inputs = list(zip(_inputs(entry), entry["inputs"], strict=True))
        self._indexed: Final = [one for one, given in inputs if given["indexed"]]
        self._plain: Final = [one for one, given in inputs if not given["indexed"]]

    def decode(self, topics: Sequence[bytes], data: bytes) -> dict[str, Any]:
        """The event's values by name.  Raises CallInvalid if topics or data do not fit."""
        if not topics or topics[0] != self.topic or len(topics) != 1 + len(self._indexed):
            raise CallInvalid(self.name, "the log's topics are not this event's")
        # An indexed value longer than a word would be its hash. Our contracts index none.
        found = _by_name(self.name, self._indexed, b"".join(topics[1:]))
        return found | _by_name(self.name, self._plain, data)


class Abi:
    """The functions, events and errors of one contract."""

    def __init__(self, entries: Sequence[Mapping[str, Any]], name: str = "") -> None:
        self.name = name
        self._entries = entries

    @cached_property
    def functions(self) -> dict[str, Function]:
        return {one["name"]: Function(one) for one in self._of("function")}

    @cached_property
    def events(self) -> dict[str, EventKind]:
        return {one["name"]: EventKind(one) for one in self._of("event")}

    @cached_property
    def errors(self) -> dict[bytes, Function]:
        """By selector."""
        return {one.selector: one for one in map(Function, self._of("error"))}

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
        kinds = [kind for one in self._of("constructor") for _, kind in _inputs(one)]
        return encode_values("constructor", kinds, values)

    def _of(self, kind: str) -> list[Any]:
        return [one for one in self._entries if one.get("type") == kind]


_PANICS: Final = {
    0x01: "assertion failed",
    0x11: "arithmetic overflow",
    0x12: "division by zero",
    0x21: "bad enum value",
    0x32: "index out of range",
    0x41: "out of memory",
}
_SOLIDITYS: Final = Abi(
    [
        {"type": "error", "name": "Error", "inputs": [{"name": "reason", "type": "string"}]},
        {"type": "error", "name": "Panic", "inputs": [{"name": "number", "type": "uint256"}]},
    ]
)


class Refusals:
    """Every custom error of our contracts, and Solidity's own two."""

    def __init__(self, abis: Iterable[Abi]) -> None:
        self._abis = (*abis, _SOLIDITYS)

    @cached_property
    def _by_selector(self) -> dict[bytes, Function]:
        return {selector: error for abi in self._abis for selector, error in abi.errors.items()}

    def decode(self, doing: str, data: bytes) -> Reverted:
        """The named error in revert data; never raises."""
        if not data:
            return Reverted(doing, "a revert without a reason", {}, data=data)
        error = self._by_selector.get(data[:4])
        if error is not None:
            with suppress(CallInvalid):
                values = error.arguments(data)
                if error.name == "Panic":
                    values["reason"] = _PANICS.get(values["number"], "unknown")
                return Reverted(doing, error.name, values, data=data)
        return Reverted(doing, "an unknown error", {"selector": data[:4]}, data=data)


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
    # MemoryError: a length in the data may claim more than there is.
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


def _inputs(entry: Any) -> list[tuple[str, str]]:
    """Name and type of each input."""
    from eth_utils.abi import get_abi_input_names, get_abi_input_types

    pairs = zip(get_abi_input_names(entry), get_abi_input_types(entry), strict=True)
    return [(name or f"value{at}", kind) for at, (name, kind) in enumerate(pairs)]


def _by_name(where: str, inputs: Sequence[tuple[str, str]], data: bytes) -> dict[str, Any]:
    values = decode_values(where, [kind for _, kind in inputs], data)
    return dict(zip((name for name, _ in inputs), values, strict=True))
