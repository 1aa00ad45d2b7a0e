"""Mutation testing of the session protocol: do its scripts notice when its code is wrong?

    make test-mutants               forty mutants, drawn by a seed: an hour on an idle machine
    make test-mutants MUTANTS=400   more
    make test-mutants SEED=7        others

A mutant is `psymm.session.protocol` with one change that mutmut makes: a comparison turned, a
number off by one, an argument left out. The session scripts, and the tests of the protocol pair, of
resuming, settlements and keys, run against each until one fails. A mutant that none fails for
survives: either a behaviour has no test, or the change makes no difference. Survivors of the second
kind stand in `tests/session/survivors.txt` with the reason; any other makes this fail.

It works on a copy in `build/mutants`, where mutmut finds the layout that it wants.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

REPO: Final = Path(__file__).resolve().parents[1]
PLACE: Final = REPO / "build" / "mutants"
PACKAGE: Final = "psymm/session/protocol"
SURVIVORS: Final = REPO / "tests" / "session" / "survivors.txt"
CONFIG: Final = f"""
[tool.mutmut]
source_paths = ["src"]
only_mutate = ["src/{PACKAGE}/*.py"]
pytest_add_cli_args = ["-n", "0", "-x", "-p", "no:cacheprovider"]
pytest_add_cli_args_test_selection = [
    "tests/session/test_protocol_pair.py",
    "tests/session/test_scripts.py",
    "tests/session/test_resume.py",
    "tests/session/test_recovery.py",
    "tests/session/test_settlement_flow.py",
    "tests/session/test_key_revocation.py",
    "tests/session/test_session_keys.py",
]
timeout_multiplier = 2.0
timeout_constant = 10.0
use_git_change_detection = false
"""
MUTANT: Final = re.compile(r"^(?:async )?\s*def (x\S+__mutmut_\d+)\(", re.MULTILINE)


def copy_tree() -> None:
    """The package where mutmut looks for it (`src`), and the tests."""
    shutil.rmtree(PLACE, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPO / "python" / "psymm", PLACE / "src" / "psymm", ignore=ignored)
    shutil.copytree(REPO / "tests", PLACE / "tests", ignore=ignored)
    (PLACE / "pyproject.toml").write_text((REPO / "pyproject.toml").read_text() + CONFIG)


def mutmut(*args: str, quiet: bool = False) -> str:
    out = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "mutmut", *args],
        cwd=PLACE,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ).stdout
    if not quiet:
        print(out[-2_000:])
    return out


def all_mutants() -> list[str]:
    """Their names, once mutmut has written them into the copy."""
    found: list[str] = []
    for path in sorted((PLACE / "mutants" / "src" / PACKAGE).glob("*.py")):
        module = f"{PACKAGE}/{path.stem}".replace("/", ".")
        found += [f"{module}.{name}" for name in MUTANT.findall(path.read_text())]
    return found


def change_of(mutant: str) -> tuple[str, ...]:
    """Its function, and the lines that it takes and gives."""
    function = mutant.rpartition("__mutmut_")[0].removeprefix(PACKAGE.replace("/", ".") + ".")
    function = re.sub(r"\.x_?", ".", function).replace("ǁ", ".").replace("..", ".")
    lines = mutmut("show", mutant, quiet=True).splitlines()
    changed = [one for one in lines if re.match(r"[-+](?![-+])", one)]
    return function, *(f"{one[0]} {one[1:].strip()}" for one in changed)


def explained() -> set[tuple[str, ...]]:
    """The changes in `SURVIVORS`: blocks of a function, `-` and `+` lines, and a reason."""
    blocks = SURVIVORS.read_text().split("\n\n")
    return {
        tuple(line for line in block.splitlines() if line[:1] not in (" ", "#")) for block in blocks
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutants", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    copy_tree()
    # Nothing has this name: the mutants are written, and which test reaches which is learned.
    mutmut("run", "--max-children", "1", "nothing", quiet=True)
    names = all_mutants()
    drawn = random.Random(given.seed).sample(names, min(given.mutants, len(names)))  # noqa: S311
    print(f"{len(drawn)} of {len(names)} mutants")
    mutmut("run", "--max-children", "1", *drawn, quiet=True)
    state: dict[str, str] = {}
    for line in mutmut("results", "--all", "true", quiet=True).splitlines():
        name, _, how = line.strip().partition(": ")
        state[name] = how
    known, failed = explained(), 0
    for name in drawn:
        if state.get(name) in ("killed", "timeout", "segfault"):
            continue
        change = change_of(name)
        new = change not in known
        failed += new
        print(f"\n{'SURVIVES' if new else 'explained'} ({state.get(name)}) {name}")
        print("\n".join(change))
    print(f"\n{len(drawn)} mutants, {failed} that survive unexplained")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
