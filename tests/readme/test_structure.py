"""The package as its pages describe it: no circle of imports, no name used twice, no long file
without a reason."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

import psymm

(PACKAGE,) = map(Path, psymm.__path__)
ROOT = Path(__file__).parents[2]
ARCHITECTURE = ROOT / "docs/architecture.md"
LONG = 500


def test_no_module_imports_itself_through_others() -> None:
    """What is imported for its types alone does not count: nothing runs in a circle."""
    graph = grimp.build_graph("psymm", exclude_type_checking_imports=True)
    imports = {one: graph.find_modules_directly_imported_by(one) for one in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def test_no_two_classes_share_a_name() -> None:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(str(path.relative_to(PACKAGE)))
    assert len(found) > 500
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def defined(path: Path) -> set[str]:
    """Names of the functions and classes of a file, those in classes as `Class.name`."""
    found: set[str] = set()

    def look(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                look(node.body, f"{prefix}{node.name}.")

    look(ast.parse(path.read_bytes()).body, "")
    return found


def test_the_page_on_architecture_names_functions_that_exist() -> None:
    page = ARCHITECTURE.read_text()
    named = re.findall(r"`([\w/]+\.py)(?:::([\w.]+))?`", page)
    assert len(named) > 40
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (PACKAGE / path).is_file() or (name and name not in defined(PACKAGE / path))
    ]
    assert missing == []


def test_a_long_file_says_in_its_head_why_it_is_long() -> None:
    """As the linter wants a reason beside each function that is too complex."""
    kinds = ("*.py", "*.rs", "*.ts", "*.sol", "*.nr")
    listed = subprocess.run(
        ["git", "ls-files", "-z", *kinds], cwd=ROOT, capture_output=True, check=True, text=True
    )
    silent = set()
    for name in filter(None, listed.stdout.split("\0")):
        lines = (ROOT / name).read_text().splitlines() if (ROOT / name).is_file() else []
        if len(lines) > LONG and "This file is long because" not in "\n".join(lines[:40]):
            silent.add(name)
    assert silent == set()
