"""The terms as a document: the kinds of fields, and strict JSON to and from the dataclasses.

Every scalar is a string: decimals plain and in their shortest form, times as decimal seconds,
addresses as lower-case hex. Every field is present, none is unknown, none occurs twice.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Annotated, Any, TypeVar, cast

from psymm._core import JsonError, format_decimal, parse_decimal
from psymm.addresses import checksum
from psymm.errors import PSymmError
from psymm.strict_json import KeyTwice, loads

UNIT = 10**18
NANOSECONDS = 10**9


class TermsError(PSymmError):
    """The base of all refusals of terms. Nothing was accepted."""

    code = "terms"
    remedy = "Ask the other side for terms that this version reads"


class TermsNotJson(TermsError):
    code = "terms-not-json"
    what = "the terms are not one strict JSON object"


class TermsUnknownVersion(TermsError):
    code = "terms-unknown-version"
    what = "the terms are of a version that this program does not know"
    remedy = "Update the program, or ask for terms of a version that it knows"


class TermsUnknownField(TermsError):
    code = "terms-unknown-field"
    what = "the terms have a field that their version does not know"


class TermsMissingField(TermsError):
    code = "terms-missing-field"
    what = "the terms lack a field of their version"


class TermsDuplicateKey(TermsError):
    code = "terms-duplicate-key"
    what = "the terms give a field twice"


class TermsBadValue(TermsError):
    code = "terms-bad-value"
    what = "a value does not fit its field, or is not in its only valid form"


class TermsUnsound(TermsError):
    code = "terms-unsound"
    what = "the terms contradict themselves or leave a party without protection"
    remedy = "Do not trade under them; correct the named values"


class Form:
    """A kind of scalar: reads its string and writes it."""

    def read(self, text: str) -> object:
        raise NotImplementedError

    def write(self, value: Any) -> str:
        raise NotImplementedError


class _Text(Form):
    def read(self, text: str) -> str:
        if not 1 <= len(text.encode()) <= 256:
            raise ValueError("1 to 256 bytes of UTF-8")
        return text

    def write(self, value: str) -> str:
        return value


class _Whole(Form):
    """An integer from 0 to 2**128 − 1, no leading zeros."""

    def read(self, text: str) -> int:
        if not (text.isascii() and text.isdigit()) or (text[0] == "0" and text != "0"):
            raise ValueError("an integer without sign or leading zeros")
        if len(text) > 39 or int(text) >= 2**128:
            raise ValueError("an integer below 2**128")
        return int(text)

    def write(self, value: int) -> str:
        return str(value)


class _Decimal(Form):
    """A decimal ≥ 0, scaled by 10**18."""

    def read(self, text: str) -> int:
        try:
            value = parse_decimal(text)
        except JsonError as error:
            raise ValueError("a plain decimal in its shortest form") from error
        if value < 0:
            raise ValueError("a decimal that is not negative")
        return value

    def write(self, value: int) -> str:
        return format_decimal(value)


class _Seconds(_Decimal):
    """A time or duration in decimal seconds, held as nanoseconds."""

    def read(self, text: str) -> int:
        scaled = super().read(text)
        if scaled % (UNIT // NANOSECONDS):
            raise ValueError("seconds with at most 9 decimals")
        value = scaled // (UNIT // NANOSECONDS)
        if value >= 2**64:
            raise ValueError("a time below 2**64 nanoseconds")
        return value

    def write(self, value: int) -> str:
        return format_decimal(value * (UNIT // NANOSECONDS))


class _Address(Form):
    """20 bytes; lower-case hex in the document, checksummed in Python."""

    def read(self, text: str) -> str:
        if len(text) != 42 or text[:2] != "0x" or set(text[2:]) - set("0123456789abcdef"):
            raise ValueError("0x and 40 lower-case hex digits")
        return checksummed(text)

    def write(self, value: str) -> str:
        return value.lower()


class _Choice(Form):
    def __init__(self, *values: str) -> None:
        self.values = values

    def read(self, text: str) -> str:
        if text not in self.values:
            raise ValueError("one of " + ", ".join(self.values))
        return text

    def write(self, value: str) -> str:
        return value


def checksummed(address: str) -> str:
    """The EIP-55 form of a lower-case hex address."""
    return checksum(bytes.fromhex(address[2:]))


Text = Annotated[str, _Text()]
Whole = Annotated[int, _Whole()]
Decimal = Annotated[int, _Decimal()]
Seconds = Annotated[int, _Seconds()]
Address = Annotated[str, _Address()]
LaneName = Annotated[str, _Choice("trader", "solver")]
KindName = Annotated[str, _Choice("perpetual", "future", "forward", "cfd")]

T = TypeVar("T")


def key_of(attribute: str) -> str:
    """The document's key for a Python attribute: ``minNotional`` for ``min_notional``."""
    first, *rest = attribute.split("_")
    return first + "".join(word.capitalize() for word in rest)


def load(document: bytes) -> dict[str, object]:
    """The document as a JSON object. Raises TermsNotJson or TermsDuplicateKey."""
    try:
        found = loads(document)
    except KeyTwice as bad:
        raise TermsDuplicateKey(key=ascii(bad.key)) from None
    except ValueError as error:
        raise TermsNotJson(at=getattr(error, "start", getattr(error, "pos", 0))) from None
    if not isinstance(found, dict):
        raise TermsNotJson(found=type(found).__name__)
    return found


def read(cls: type[T], found: object, path: str) -> T:
    """A dataclass of terms from its JSON object; ``path`` names the place in errors."""
    if not isinstance(found, dict):
        raise TermsBadValue(field=path, wanted="an object", found=type(found).__name__)
    hints = typing.get_type_hints(cls, include_extras=True)
    names = [f.name for f in dataclasses.fields(cast(Any, cls)) if f.init]
    keys = {key_of(name): name for name in names}
    for key in found:
        if key not in keys:
            raise TermsUnknownField(field=f"{path}.{ascii(key)[1:-1]}")
    made: dict[str, object] = {}
    for key, name in keys.items():
        if key not in found:
            raise TermsMissingField(field=f"{path}.{key}")
        made[name] = _read_value(hints[name], found[key], f"{path}.{key}")
    return cls(**made)


def _read_value(hint: Any, found: object, path: str) -> object:
    if typing.get_origin(hint) is tuple:
        if not isinstance(found, list):
            raise TermsBadValue(field=path, wanted="a list", found=type(found).__name__)
        entry = typing.get_args(hint)[0]
        return tuple(_read_value(entry, each, f"{path}[{i}]") for i, each in enumerate(found))
    if dataclasses.is_dataclass(hint):
        return read(cast(type[object], hint), found, path)
    form = cast(Form, typing.get_args(hint)[1])
    if not isinstance(found, str):
        raise TermsBadValue(field=path, wanted="a string", found=type(found).__name__)
    try:
        return form.read(found)
    except ValueError as error:
        raise TermsBadValue(field=path, wanted=str(error), found=ascii(found[:80])) from None


def check(value: object, hint: Any, path: str) -> None:
    """Raises TermsBadValue unless ``value``, made in Python, is what ``read`` would give."""
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            raise TermsBadValue(field=path, wanted="a tuple", found=type(value).__name__)
        for i, each in enumerate(value):
            check(each, typing.get_args(hint)[0], f"{path}[{i}]")
        return
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, cast(type[object], hint)):
            raise TermsBadValue(field=path, wanted=str(hint), found=type(value).__name__)
        hints = typing.get_type_hints(cast(type[object], hint), include_extras=True)
        for f in dataclasses.fields(hint):
            if f.init:
                check(getattr(value, f.name), hints[f.name], f"{path}.{key_of(f.name)}")
        return
    base, form = typing.get_args(hint)[:2]
    if type(value) is not base:
        raise TermsBadValue(field=path, wanted=base.__name__, found=type(value).__name__)
    try:
        same = form.read(form.write(value))
    except ValueError as error:
        raise TermsBadValue(field=path, wanted=str(error), found=value) from None
    if same != value:
        raise TermsBadValue(field=path, wanted=same, found=value)


def write(value: object, hint: Any) -> object:
    """The inverse of ``read``, as JSON-ready objects, lists and strings."""
    if typing.get_origin(hint) is tuple:
        entry = typing.get_args(hint)[0]
        return [write(each, entry) for each in cast(tuple[object, ...], value)]
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(cast(type[object], hint), include_extras=True)
        return {
            key_of(f.name): write(getattr(value, f.name), hints[f.name])
            for f in dataclasses.fields(hint)
            if f.init
        }
    return cast(Form, typing.get_args(hint)[1]).write(value)


def dump(schema: str, body: object) -> bytes:
    """The document's bytes: the schema first, no whitespace."""
    whole = {"schema": schema} | cast(dict[str, object], body)
    return json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()
