"""No repr of the package's records shows a secret: reprs end in logs and tracebacks."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re

import psymm
from psymm._core import SecretKey
from psymm.custody.notes import Custody, Note
from psymm.wallet import KeyWallet

SECRET = re.compile(r"salt|blinding|secret|nonce|password|witness|seed(?!s?_)|mnemonic", re.I)
# A number or a count is none, nor is the length of time that a proof took.
PLAIN = {"int", "int | None", "float", "bool"}


def records() -> set[type]:
    found: set[type] = set()
    for module in pkgutil.walk_packages(psymm.__path__, "psymm."):
        if module.name.endswith("__main__"):
            continue
        for one in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(one) and one.__module__.startswith("psymm."):
                found.add(one)
    return {one for one in found if dataclasses.is_dataclass(one) or issubclass(one, tuple)}


def shown(one: type) -> list[tuple[str, str]]:
    """Name and type of the fields in its repr."""
    if not dataclasses.is_dataclass(one):
        return [(name, "") for name in getattr(one, "_fields", ())]
    if "__repr__" not in vars(one):
        return []
    return [(each.name, str(each.type)) for each in dataclasses.fields(one) if each.repr]


def test_no_field_that_names_a_secret_is_in_a_repr() -> None:
    every = records()
    assert {Custody, Note} <= every
    assert len(every) > 200
    assert [
        f"{one.__module__}.{one.__qualname__}.{name}: {kind}"
        for one in sorted(every, key=lambda one: (one.__module__, one.__qualname__))
        for name, kind in shown(one)
        if SECRET.search(name) and kind not in PLAIN
    ] == []


def test_neither_a_custody_nor_a_note_shows_salt_or_blinding() -> None:
    one, other = KeyWallet.generate(), KeyWallet.generate()
    salt, blinding = b"\x05" * 32, b"\x06" * 32
    custody = Custody(one.public_key, other.public_key, b"\x01" * 32, salt)
    note = Note(custody, "0x" + "11" * 20, 5, blinding)
    key = SecretKey.generate()
    for said in (repr(custody), repr(note), repr(note.opening), repr(KeyWallet(key)), repr(key)):
        for secret in (salt, blinding, key.expose_secret_bytes()):
            assert repr(secret)[2:-1] not in said
            assert secret.hex() not in said
