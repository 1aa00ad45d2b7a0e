"""The package as its pages describe it: no circle of imports, no name used twice."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

import psymm

(PACKAGE,) = map(Path, psymm.__path__)


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
