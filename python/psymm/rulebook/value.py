"""A changed copy of a value: what `dataclasses.replace` gives, at a quarter of its price.

The rules make a new account out of an old one several times a frame, so this is where their time
went. A frozen dataclass without checks of its own is nothing but its fields; they are copied as
they are.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Shape:
    """names: of the fields. slotted: they are in slots, not in a dict. checked: making one does
    more than to set fields."""

    names: tuple[str, ...]
    known: frozenset[str]
    slotted: bool
    checked: bool


_shapes: dict[type, _Shape] = {}
_set = object.__setattr__


def replace(value: T, **changes: Any) -> T:
    """A copy of a dataclass with some fields changed. Raises TypeError for an unknown name."""
    cls = type(value)
    shape = _shapes.get(cls) or _shape(cls)
    if shape.checked:
        return dataclasses.replace(value, **changes)  # type: ignore[type-var]
    if not changes.keys() <= shape.known:
        raise TypeError(f"{cls.__name__} has no field {sorted(changes.keys() - shape.known)}")
    made: T = object.__new__(cls)
    if shape.slotted:
        for name in shape.names:
            _set(made, name, changes[name] if name in changes else getattr(value, name))
        return made
    held = value.__dict__
    if len(held) == len(shape.names):
        made.__dict__.update(held, **changes)
    else:
        # What was worked out of the old fields (a cached property) is not the new value's.
        made.__dict__.update({name: held[name] for name in shape.names}, **changes)
    return made


def _shape(cls: type) -> _Shape:
    fields = dataclasses.fields(cls)
    names = tuple(field.name for field in fields)
    shape = _Shape(
        names,
        frozenset(names),
        not hasattr(cls, "__dict__") or "__dict__" not in dir(cls),
        hasattr(cls, "__post_init__") or not all(field.init for field in fields),
    )
    _shapes[cls] = shape
    return shape
