"""How a frozen dataclass declares a message: wire types, and the schema made from them.

A message class is the only place that declares its fields. Both the typed Python value and the
schema for the core's strict parser (``schema_definition``) come from it, so they cannot drift
apart. A field has a Python name (``cl_ord_id``) and a FIX name on the wire (``ClOrdID``).

A value on its way: ``to_mapping`` → the core encodes by the schema; the core parses by the schema →
``from_mapping``. Rules, types and readers are derived from a class once and cached, because these
functions run for every frame.
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
    """Where a message may be used."""

    RECORD = "record"
    """The payload of a signed frame: it binds its sender."""
    TEXT = "text"
    """A WebSocket text: unsigned, it binds nobody."""


@dataclasses.dataclass(frozen=True, slots=True)
class Wire:
    """A wire type, as the core's schema names it."""

    kind: str
    limits: tuple[tuple[str, int], ...] = ()
    """Further keys of the schema, such as ("max", 64)."""


def _string(max_bytes: int) -> Wire:
    return Wire("str", (("max", max_bytes),))


def _hex(length_bytes: int) -> Wire:
    return Wire("hex", (("length", length_bytes),))


Id = Annotated[str, _string(64)]
"""An identifier that its sender chose, unique among its own of that kind; 1 to 64 UTF-8 bytes."""
Symbol = Annotated[str, _string(64)]
"""An instrument's symbol, as in the terms."""
Note = Annotated[str, _string(1024)]
"""Text for people; no rule reads it."""
Word = Annotated[str, _string(64)]
"""A short name: of a violation, of a message type."""
Count = Annotated[int, Wire("int")]
"""An unsigned 64-bit integer."""
Nanoseconds = Annotated[int, Wire("int")]
"""Nanoseconds since the epoch."""
Seconds = Annotated[int, Wire("int")]
"""Seconds: a duration (HeartBtInt), or since the epoch (Deadline, which a contract reads)."""
Flag = Annotated[bool, Wire("bool")]
"""Yes or no: Y or N on the wire."""
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
"""256 bytes: the encrypted memo of a note."""
Piece = Annotated[bytes, Wire("hexdata", (("max", 65_536),))]
"""Up to 64 KiB of bytes: a part of something longer."""
Document = Annotated[bytes, Wire("hexdata", (("max", 131_072),))]
"""Up to 128 KiB of bytes: the terms, exactly as hashed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entries:
    """A repeating group."""

    max: int
    """The most entries."""
    some: bool = False
    """Whether at least one is required. If not, an empty group is left out on the wire."""


class GroupEntry:
    """An entry of a repeating group."""

    __slots__ = ()


class Message:
    """Base of all messages. ``MSG_TYPE`` is FIX's MsgType (35), ``FLOWS`` where it may be used."""

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
    """One field of a message or entry, derived from its class.

    Attributes:
        attribute: its Python name.
        name: its FIX name.
        wire: its wire type, for plain values.
        choices: its enum, if it is one.
        entries: its limits, if it is a group.
        entry: the class of the group's entries.
        required: whether it must be on the wire.
    """

    attribute: str
    name: str
    wire: Wire | None
    choices: type[enum.StrEnum] | None
    entries: Entries | None
    entry: type[GroupEntry] | None
    required: bool


# FIX writes these two in capitals.
_SPELLING = {"id": "ID", "md": "MD"}


def wire_name(attribute: str) -> str:
    """The FIX name of a Python attribute: ``cl_ord_id`` gives ``ClOrdID``."""
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
            # An empty group is left out, so a group on the wire has at least one entry.
            field |= {"min": 1, "max": rule.entries.max}
        elif rule.choices is not None:
            field |= {"type": "enum", "values": [choice.value for choice in rule.choices]}
        elif rule.wire is not None:
            field |= {"type": rule.wire.kind} | dict(rule.wire.limits)
        made.append(field)
    return made


def to_mapping(value: Message | GroupEntry) -> dict[str, object]:
    """A message as the core encodes it: FIX names, no absent fields, groups as lists."""
    made: dict[str, object] = {}
    for rule in _rules.get(type(value)) or field_rules(type(value)):
        held = getattr(value, rule.attribute)
        # An empty group has the same form as an absent one, so that each message has one encoding.
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
    """Whether decoding the message's bytes would certainly give an equal message.

    True if each value has exactly the type that decoding gives. A message with groups is never
    exact.
    """
    for attribute, kind in _types.get(type(value)) or _types_of(type(value)):
        held = getattr(value, attribute)
        if held is not None and type(held) is not kind:
            return False
    return True


_types: dict[type, tuple[tuple[str, type | None], ...]] = {}
_PYTHON = {"str": str, "bool": bool, "int": int, "uint": int, "decimal": int, "udecimal": int}


def _types_of(cls: type[Message]) -> tuple[tuple[str, type | None], ...]:
    def kind(rule: FieldRule) -> type | None:
        # None for a group: no value has that type, so a message with groups is never exact.
        if rule.wire is None:
            return rule.choices
        return _PYTHON.get(rule.wire.kind, bytes)

    made = tuple((rule.attribute, kind(rule)) for rule in field_rules(cls))
    _types[cls] = made
    return made


def from_mapping(cls: type[M] | type[P], mapping: Mapping[str, Any]) -> M | P:
    """The inverse of ``to_mapping``, for a mapping that the core has parsed by the schema."""
    attributes, names, converters = _readers.get(cls) or _reader_of(cls)
    # No Python loop over the fields: this runs for every frame that arrives.
    made: dict[str, Any] = dict(zip(attributes, map(mapping.get, names), strict=True))
    for attribute, choices, entry in converters:
        held = made[attribute]
        if entry is not None:
            made[attribute] = tuple(from_mapping(entry, each) for each in held or ())
        elif held is not None:
            # The core has checked it against these choices: they are in the schema.
            made[attribute] = choices[held]
    return cls(**made)


_Reader = tuple[
    tuple[str, ...],
    tuple[str, ...],
    tuple[tuple[str, Mapping[str, enum.StrEnum], type[GroupEntry] | None], ...],
]
_readers: dict[type, _Reader] = {}


def _reader_of(cls: type[Message] | type[GroupEntry]) -> _Reader:
    """All attributes, their FIX names, and the converters of enums and groups.

    A converter is an enum's members by value, or the class of a group's entries.
    """
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
