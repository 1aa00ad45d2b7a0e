"""The rulebook is pure, and every violation it can name says what to do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import psymm.rulebook
from psymm.rulebook import CATALOGUE, Violation

SOURCES = sorted(Path(psymm.rulebook.__file__).parent.glob("*.py"))
ALLOWED = {
    *(
        "__future__",
        "bisect",
        "collections",
        "dataclasses",
        "enum",
        "functools",
        "json",
        "re",
        "types",
        "typing",
        "zlib",
    ),
    "psymm",
}
ROOMS = {"_core", "errors", "messages", "rulebook", "strict_json", "terms"}


def nodes(kind: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kind):
                yield path.name, node


def test_it_imports_nothing_that_has_a_clock_a_dice_a_disk_or_a_socket() -> None:
    for name, node in nodes(ast.ImportFrom):
        assert isinstance(node, ast.ImportFrom)
        assert node.module is not None
        parts = node.module.split(".")
        assert parts[0] in ALLOWED, name
        if parts[0] == "psymm" and len(parts) > 1:
            assert parts[1] in ROOMS, name
    for name, node in nodes(ast.Import):
        assert isinstance(node, ast.Import)
        assert {alias.name.split(".")[0] for alias in node.names} <= ALLOWED, name


def test_it_has_no_floats() -> None:
    for name, node in nodes(ast.Constant):
        assert isinstance(node, ast.Constant)
        assert not isinstance(node.value, float), name
    for name, node in nodes(ast.BinOp):
        assert isinstance(node, ast.BinOp)
        assert not isinstance(node.op, ast.Div), f"{name} line {node.lineno}"
    for name, node in nodes(ast.Name):
        assert isinstance(node, ast.Name)
        assert node.id not in ("float", "round", "open", "hash", "id", "input"), name


def named_in_the_rules() -> set[str]:
    found = set()
    for _, node in nodes(ast.Call):
        assert isinstance(node, ast.Call)
        if getattr(node.func, "id", "") in ("refuse", "violated"):
            (first, *_) = node.args
            if isinstance(first, ast.Constant):
                found.add(str(first.value))
    return found


def test_every_rule_s_name_is_in_the_catalogue_and_none_is_idle() -> None:
    assert named_in_the_rules() == set(CATALOGUE)


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_a_violation_says_its_name_its_values_and_what_to_do(name: str) -> None:
    said = str(Violation(name, (("quantity", "5"),)))
    what, remedy = CATALOGUE[name]
    assert said == f"{name}: {what} (quantity=5); {remedy}"
