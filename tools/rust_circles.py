"""Modules of the Rust core depend one way: this finds circles in the paths that they name.

    tools/rust_circles.py core/src

A module depends on each module that a path in its code leads into, be it after `use` or not. To
declare a module is no dependency; tests are left out, since they may look anywhere. Re-exports
count for the module that writes them, so modules inside a folder name each other, not the folder.
"""

import re
import sys
from pathlib import Path

Module = tuple[str, ...]

# Comments, raw strings, strings and characters, whichever begins first.
_NO_CODE = re.compile(
    r"""//[^\n]*|/\*.*?\*/|r(\#*)".*?"\1|"(?:\\.|[^"\\])*"|'(?:\\[^u]|[^'\\\n])'""", re.DOTALL
)
_TESTS = re.compile(r"^#\[cfg\(test\)\]\n(?:pub(?:\(\w+\))? )?mod (\w+)( \{.*?^\}|;)", re.M | re.S)
_USE = re.compile(r"\buse\s+([^;]+);")
_PATH = re.compile(r"(?<![\w:>])[a-z_]\w*(?:\s*::\s*\w+)+")


def sources(root: Path) -> dict[Module, str]:
    """Each module's code by its path, without comments, strings and tests."""
    modules: dict[Module, str] = {}
    tests: set[Module] = set()
    for file in sorted(root.rglob("*.rs")):
        path = file.relative_to(root).with_suffix("").parts
        module = path[:-1] if path[-1] in ("mod", "lib") else path
        code = _NO_CODE.sub("", file.read_text())
        tests |= {(*module, name) for name, body in _TESTS.findall(code) if body == ";"}
        modules[module] = _TESTS.sub("", code)
    return {
        module: code
        for module, code in modules.items()
        if not any(module[: len(test)] == test for test in tests)
    }


def branches(tree: str) -> list[str]:
    """The paths of a `use`: `a::{b, c::{d, e}}` is a::b, a::c::d and a::c::e."""
    tree = " ".join(tree.split())
    opening = tree.find("{")
    if opening < 0:
        return [tree.split(" as ")[0].strip()]
    paths, depth, start = [], 0, opening + 1
    for at, sign in enumerate(tree[opening:], opening):
        depth += (sign == "{") - (sign == "}")
        if (depth == 0 and sign == "}") or (depth == 1 and sign == ","):
            if branch := tree[start:at].strip():
                paths += [tree[:opening].strip() + path for path in branches(branch)]
            start = at + 1
    return paths


def target(path: str, here: Module, modules: dict[Module, str]) -> Module | None:
    """The module that a path written in another leads into, if it is one of ours."""
    names = [name.strip() for name in path.split("::")]
    base: Module = here
    if names[0] == "crate":
        base = ()
    elif names[0] in ("super", "self"):
        while names[0] in ("super", "self"):
            base = base[:-1] if names.pop(0) == "super" else base
        names = ["", *names]
    elif (*here, names[0]) in modules:
        names = ["", *names]
    else:
        return None
    for length in range(len(names), 0, -1):
        if (module := (*base, *names[1:length])) in modules:
            return module
    return None


def dependencies(root: Path) -> dict[Module, set[Module]]:
    """For each module, those that it depends on."""
    modules = sources(root)
    found: dict[Module, set[Module]] = {}
    for module, code in modules.items():
        paths = [path for tree in _USE.findall(code) for path in branches(tree)]
        paths += _PATH.findall(_USE.sub("", code))
        targets = {target(path, module, modules) for path in paths}
        found[module] = {other for other in targets if other is not None and other != module}
    return found


def circle(graph: dict[Module, set[Module]]) -> list[Module] | None:
    """Modules each of which depends on the next, and the last on the first; None if none do."""
    done: set[Module] = set()

    def search(trail: list[Module]) -> list[Module] | None:
        module = trail[-1]
        if module in trail[:-1]:
            return trail[trail.index(module) :]
        if module not in done:
            for other in sorted(graph[module]):
                if found := search([*trail, other]):
                    return found
            done.add(module)
        return None

    return next(filter(None, (search([start]) for start in sorted(graph))), None)


def main() -> int:
    found = circle(dependencies(Path(sys.argv[1])))
    if found:
        print("modules in a circle: " + " -> ".join("::".join(("crate", *m)) for m in found))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
