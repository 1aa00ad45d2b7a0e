"""The session protocol stays sans-IO, and its handlers call one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from psymm.session import protocol

PACKAGE = "psymm.session.protocol"
MODULES = {path.stem: path for path in Path(protocol.__file__).parent.glob("*.py")}
FORBIDDEN = ("asyncio", "datetime", "socket", "sqlite3", "threading", "time", "trio")
"""What waits, reads a clock, or has input and output."""
OUTSIDE = {
    "psymm.chain": {"psymm.chain.addresses"},
    "psymm.custody": {"psymm.custody.errors", "psymm.custody.notes"},
    "psymm.journal": set(),
    "psymm.transcript": {
        f"psymm.transcript.{module}"
        for module in (
            "agreement",
            "checkpoint",
            "delegation",
            "heads",
            "retained",
            "record",
            "resumption",
        )
    },
}
"""What may be imported of these packages: data, and what is computed from it alone."""


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) for each name that a module imports; the name is empty for whole modules."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names):
                yield from ((each.name, "") for each in names)
            case ast.ImportFrom(module, names, level):
                assert not level, f"{path.name} imports by a relative name"
                yield from ((module or "", each.name) for each in names)


def siblings(module: str) -> set[str]:
    """Modules of the package that a module of it imports."""
    found: set[str] = set()
    for name, what in imported(MODULES[module]):
        if name == PACKAGE and what in MODULES:
            found.add(what)
        elif name.startswith(f"{PACKAGE}."):
            found.add(name.removeprefix(f"{PACKAGE}."))
    return found


def test_nothing_waits_or_has_input_and_output() -> None:
    for path in MODULES.values():
        for module, name in imported(path):
            where = f"{path.name}: from {module} import {name}"
            assert module.split(".")[0] not in FORBIDDEN, where
            for package, allowed in OUTSIDE.items():
                inside = module == package or module.startswith(f"{package}.")
                assert not inside or module in allowed or module.startswith(PACKAGE), where


def test_handlers_never_call_dispatch() -> None:
    importers = {module for module in MODULES if "dispatch" in siblings(module)}
    assert importers == {"__init__", "beginning"}


def test_calls_go_one_way() -> None:
    order = TopologicalSorter({module: siblings(module) for module in MODULES}).static_order()
    assert list(order)[-3:] == ["dispatch", "beginning", "__init__"]
