"""How a frozen dataclass declares a message: the types of the wire, and the schema made from them.

A message class is the one place where its fields are declared. From it come both the typed
Python value and the schema that the core's strict parser is given (``schema_definition``), so
the two cannot drift apart. A field is named in Python's way (``cl_ord_id``) and in FIX's on the
wire (``ClOrdID``).
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, TypeVar, dataclass_transform


class Flow(enum.Enum):
    """Where a message may stand."""

    RECORD = "record"
    """Payload of a signed frame: it binds its sender for good."""
    TEXT = "text"
    """WebSocket text: unsigned, binds nobody."""


@dataclasses.dataclass(frozen=True, slots=True)
class Wire:
    """A type of the wire, as the core's schema names it."""

    kind: str
    limits: tuple[tuple[str, int], ...] = ()


def _string(max_bytes: int) -> Wire:
    return Wire("str", (("max", max_bytes),))


def _hex(length_bytes: int) -> Wire:
    return Wire("hex", (("length", length_bytes),))


Id = Annotated[str, _string(64)]
"""An identifier that its sender chose, unique among its own; 1 to 64 bytes of UTF-8."""
Symbol = Annotated[str, _string(64)]
"""An instrument's symbol, as in the terms."""
Note = Annotated[str, _string(1024)]
"""Words for people; no rule reads them."""
Word = Annotated[str, _string(64)]
"""A short name: of a violation, of a message type."""
Count = Annotated[int, Wire("int")]
"""An unsigned 64-bit integer."""
Nanoseconds = Annotated[int, Wire("int")]
"""Nanoseconds since the epoch."""
Seconds = Annotated[int, Wire("int")]
"""Seconds: a span (HeartBtInt), or since the epoch where a contract reads it (Deadline)."""
Units = Annotated[int, Wire("uint")]
"""An amount of a token in its smallest unit, below 2**128."""
Amount = Annotated[int, Wire("decimal")]
"""A signed decimal, as an integer scaled by 10**18."""
Positive = Annotated[int, Wire("udecimal")]
"""A decimal that is never negative, as an integer scaled by 10**18: prices and quantities."""
Digest = Annotated[bytes, _hex(32)]
"""32 bytes: a digest, commitment, nullifier, nonce or field element."""
Address = Annotated[bytes, _hex(20)]
"""20 bytes: a chain address."""
PublicKey = Annotated[bytes, _hex(64)]
"""64 bytes: x and y of a secp256k1 point."""
Signature = Annotated[bytes, _hex(65)]
"""65 bytes: r, s, v; s low, v 27 or 28."""
Memo = Annotated[bytes, _hex(256)]
"""256 bytes: the sealed memo of a note."""
Piece = Annotated[bytes, Wire("hexdata", (("max", 65_536),))]
"""Up to 64 KiB of bytes: a part of something longer."""
Document = Annotated[bytes, Wire("hexdata", (("max", 131_072),))]
"""Up to 128 KiB of bytes: the terms, exactly as hashed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entries:
    """A repeating group of at most ``max`` entries. ``some``: at least one is required; otherwise
    none is allowed, and stands on the wire as the field left out."""

    max: int
    some: bool = False


class GroupEntry:
    """An entry of a repeating group."""

    __slots__ = ()


class Message:
    """Base of all messages. ``MSG_TYPE`` is FIX's MsgType (35), ``FLOWS`` where it may stand."""

    __slots__ = ()
    MSG_TYPE: ClassVar[str]
    FLOWS: ClassVar[frozenset[Flow]]


M = TypeVar("M", bound=Message)
P = TypeVar("P", bound=GroupEntry)

_registry: dict[str, type[Message]] = {}


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,)
)
def message(msg_type: str, *flows: Flow) -> Callable[[type[M]], type[M]]:
    """Declare a message: a frozen dataclass known by ``msg_type`` in ``flows``."""

    def declare(cls: type[M]) -> type[M]:
        made = dataclasses.dataclass(frozen=True, slots=True, kw_only=True)(cls)
        if msg_type in _registry:
            raise AssertionError(f"MsgType {msg_type} is declared twice")
        made.MSG_TYPE = msg_type
        made.FLOWS = frozenset(flows)
        _registry[msg_type] = made
        return made

    return declare


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,)
)
def group_entry(cls: type[P]) -> type[P]:
    """Declare the entry of a repeating group: a frozen dataclass."""
    return dataclasses.dataclass(frozen=True, slots=True, kw_only=True)(cls)


def message_types(flow: Flow) -> Mapping[str, type[Message]]:
    """All message classes of ``flow`` by MsgType, in the order of declaration."""
    return {name: cls for name, cls in _registry.items() if flow in cls.FLOWS}


@dataclasses.dataclass(frozen=True, slots=True)
class FieldRule:
    """One field of a message or entry, read from its class."""

    attribute: str
    name: str
    wire: Wire | None
    choices: type[enum.StrEnum] | None
    entries: Entries | None
    entry: type[GroupEntry] | None
    required: bool


_SPELLING = {"id": "ID", "md": "MD"}


def wire_name(attribute: str) -> str:
    """FIX's name of a Python attribute: ``cl_ord_id`` is ``ClOrdID``."""
    return "".join(_SPELLING.get(word, word.capitalize()) for word in attribute.split("_"))


_rules: dict[type, tuple[FieldRule, ...]] = {}


def field_rules(cls: type[Message] | type[GroupEntry]) -> tuple[FieldRule, ...]:
    """The fields of ``cls`` in the order of declaration, which is their order on the wire."""
    known = _rules.get(cls)
    if known is None:
        hints = typing.get_type_hints(cls, include_extras=True)
        known = tuple(
            _field_rule(field.name, hints[field.name])
            for field in dataclasses.fields(cls)  # type: ignore[arg-type]
        )
        _rules[cls] = known
    return known


def _field_rule(attribute: str, hint: Any) -> FieldRule:
    required = True
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = [arm for arm in typing.get_args(hint) if arm is not type(None)]
        required = False
    wire: Wire | None = None
    choices: type[enum.StrEnum] | None = None
    entries: Entries | None = None
    entry: type[GroupEntry] | None = None
    if typing.get_origin(hint) is Annotated:
        base, mark = typing.get_args(hint)[:2]
        if isinstance(mark, Entries):
            entries, entry = mark, typing.get_args(base)[0]
            required = mark.some
        else:
            wire = mark
    else:
        choices = hint
    return FieldRule(attribute, wire_name(attribute), wire, choices, entries, entry, required)


def schema_definition(flow: Flow) -> bytes:
    """The vocabulary of ``flow`` as data: the JSON that ``psymm._core.Schema`` is made from."""
    messages = {
        name: {"name": cls.__name__, "fields": _fields(cls)}
        for name, cls in message_types(flow).items()
    }
    return json.dumps({"messages": messages}, separators=(",", ":")).encode()


def _fields(cls: type[Message] | type[GroupEntry]) -> list[dict[str, object]]:
    made: list[dict[str, object]] = []
    for rule in field_rules(cls):
        field: dict[str, object] = {"name": rule.name, "required": rule.required}
        if rule.entries is not None and rule.entry is not None:
            field |= {"type": "group", "fields": _fields(rule.entry)}
            field |= {"min": 1, "max": rule.entries.max}
        elif rule.choices is not None:
            field |= {"type": "enum", "values": [choice.value for choice in rule.choices]}
        elif rule.wire is not None:
            field |= {"type": rule.wire.kind} | dict(rule.wire.limits)
        made.append(field)
    return made


def to_mapping(value: Message | GroupEntry) -> dict[str, object]:
    """The wire's view of a message: FIX names, absent fields left out, groups as lists."""
    made: dict[str, object] = {}
    for rule in _rules.get(type(value)) or field_rules(type(value)):
        held = getattr(value, rule.attribute)
        # An empty group and an absent one are the same on the wire: left out.
        if held is None or (rule.entries is not None and not held):
            continue
        if rule.entries is not None:
            made[rule.name] = [to_mapping(entry) for entry in held]
        elif rule.choices is not None:
            made[rule.name] = str(held)
        else:
            made[rule.name] = held
    return made


def is_exact(value: Message) -> bool:
    """Whether each value has the very type that its bytes would be read as, so that to decode them
    would give this message again. Not asked of groups: a message with entries is not exact."""
    for attribute, kind in _types.get(type(value)) or _types_of(type(value)):
        held = getattr(value, attribute)
        if held is not None and type(held) is not kind:
            return False
    return True


_types: dict[type, tuple[tuple[str, type | None], ...]] = {}
_PYTHON = {"str": str, "int": int, "uint": int, "decimal": int, "udecimal": int}


def _types_of(cls: type[Message]) -> tuple[tuple[str, type | None], ...]:
    def kind(rule: FieldRule) -> type | None:
        if rule.wire is None:
            return rule.choices
        return _PYTHON.get(rule.wire.kind, bytes)

    made = tuple((rule.attribute, kind(rule)) for rule in field_rules(cls))
    _types[cls] = made
    return made


def from_mapping(cls: type[M] | type[P], mapping: Mapping[str, Any]) -> M | P:
    """The inverse of ``to_mapping``, for a mapping that the core has parsed by the schema."""
    attributes, names, converters = _readers.get(cls) or _reader_of(cls)
    # No loop and no comprehension over the fields: this runs for every frame that arrives.
    made: dict[str, Any] = dict(zip(attributes, map(mapping.get, names), strict=True))
    for attribute, choices, entry in converters:
        held = made[attribute]
        if entry is not None:
            made[attribute] = tuple(from_mapping(entry, each) for each in held or ())
        elif held is not None:
            made[attribute] = choices[held]
    return cls(**made)


_Reader = tuple[
    tuple[str, ...],
    tuple[str, ...],
    tuple[tuple[str, Mapping[str, enum.StrEnum], type[GroupEntry] | None], ...],
]
_readers: dict[type, _Reader] = {}


def _reader_of(cls: type[Message] | type[GroupEntry]) -> _Reader:
    """All attributes, their names on the wire, and what converts those that are not taken as they
    are: an enum's members by value, or the class of a group's entries."""
    rules = field_rules(cls)
    made = (
        tuple(each.attribute for each in rules),
        tuple(each.name for each in rules),
        tuple(
            (each.attribute, {one.value: one for one in each.choices or ()}, each.entry)
            for each in rules
            if each.choices or each.entry
        ),
    )
    _readers[cls] = made
    return made
