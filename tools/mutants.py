"""Mutation testing of the session protocol: do its scripts notice when its code is wrong?

    make test-mutants               200 mutants, drawn by a seed: a few minutes on an idle machine
    make test-mutants MUTANTS=6000  all of them: some hours
    make test-mutants SEED=7        others

A mutant is `psymm.session.protocol` with one change that mutmut makes: a comparison turned, a
number off by one, an argument left out. The session scripts and the tests of what sessions do on
their way (`TESTS`) run against each until one fails (see `mutant_runner`). A mutant that none fails
for survives: either a behaviour has no test, or the change makes no difference. Survivors of the
second kind stand in `tests/session/survivors.txt` with the reason; any other makes this fail.
Changed words of an error do not count.

It works on a copy in `build/mutants`, where mutmut finds the layout that it wants.
"""

from __future__ import annotations

import argparse
import json
import os
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
TESTS: Final = (
    "tests/session/test_protocol_pair.py",
    "tests/session/test_scripts.py",
    "tests/session/test_resume.py",
    "tests/session/test_recovery.py",
    "tests/session/test_settlement_flow.py",
    "tests/session/test_key_revocation.py",
    "tests/session/test_session_keys.py",
    "tests/session/test_final_ack.py",
    "tests/session/test_dates_and_citations.py",
    "tests/session/test_session_checkpoints.py",
    "tests/session/test_bad_input.py",
    "tests/session/test_logout.py",
)
CONFIG: Final = f"""
[tool.mutmut]
source_paths = ["src"]
only_mutate = ["src/{PACKAGE}/*.py"]
pytest_add_cli_args = ["-n", "0", "-x", "-p", "no:cacheprovider"]
# mutmut only writes the mutants here. It insists on running a test first, so it gets a quick one.
pytest_add_cli_args_test_selection = ["tests/session/test_script_format.py"]
use_git_change_detection = false
"""
SENTENCE: Final = re.compile(r'"[^"]* [^"]*"')
MUTANT: Final = re.compile(r"^(?:async )?\s*def (x\S+__mutmut_\d+)\(", re.MULTILINE)


def copy_tree() -> None:
    """The package where mutmut looks for it (`src`), and the tests."""
    shutil.rmtree(PLACE, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPO / "python" / "psymm", PLACE / "src" / "psymm", ignore=ignored)
    shutil.copytree(REPO / "tests", PLACE / "tests", ignore=ignored)
    (PLACE / "pyproject.toml").write_text((REPO / "pyproject.toml").read_text() + CONFIG)


def mutmut(*args: str) -> str:
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", "mutmut", *args],
        cwd=PLACE,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ).stdout


def all_mutants() -> list[str]:
    """Their names, once mutmut has written them into the copy."""
    found: list[str] = []
    for path in sorted((PLACE / "mutants" / "src" / PACKAGE).glob("*.py")):
        module = f"{PACKAGE}/{path.stem}".replace("/", ".")
        found += [f"{module}.{name}" for name in MUTANT.findall(path.read_text())]
    return found


def run(names: list[str]) -> dict[str, str]:
    """How each mutant ended; nothing of those that were not reached."""
    file = PLACE / "names.json"
    file.write_text(json.dumps(names))
    results = file.with_suffix(".results")
    results.unlink(missing_ok=True)
    ran = subprocess.run(  # noqa: S603
        [
            *(sys.executable, "-m", "pytest", "-p", "mutant_runner", "-n", "0", "-q"),
            # A place of its own for temporary files: other runs of pytest remove old ones.
            *("-p", "no:cacheprovider", f"--basetemp={PLACE / 'tmp'}"),
            *("-o", "tmp_path_retention_policy=none", *TESTS),
        ],
        cwd=PLACE / "mutants",
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={
            **os.environ,
            "MUTANTS": str(file),
            "PYTHONPATH": os.pathsep.join(("src", str(REPO / "tools"))),
        },
    )
    if ran.returncode:
        raise SystemExit(ran.stdout[-4_000:])
    return {name: how for name, how, _ in map(json.loads, results.read_text().splitlines())}


def change_of(mutant: str) -> tuple[str, ...]:
    """Its function, and the lines that it takes and gives."""
    function = mutant.rpartition("__mutmut_")[0].removeprefix(PACKAGE.replace("/", ".") + ".")
    function = re.sub(r"\.x_?", ".", function).replace("ǁ", ".").replace("..", ".")
    lines = mutmut("show", mutant).splitlines()
    changed = [one for one in lines if re.match(r"[-+](?![-+])", one)]
    return function, *(f"{one[0]} {one[1:].strip()}" for one in changed)


def only_words(change: tuple[str, ...]) -> bool:
    """Whether only texts for people differ: no test holds every word of an error."""
    without = [SENTENCE.sub('""', line[1:]) for line in change[1:]]
    return len(without) == 2 and without[0] == without[1]


def explained() -> set[tuple[str, ...]]:
    """The changes in `SURVIVORS`: blocks of a function, `-` and `+` lines, and a reason."""
    blocks = SURVIVORS.read_text().split("\n\n")
    return {
        tuple(line for line in block.splitlines() if line[:1] not in (" ", "#")) for block in blocks
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutants", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    copy_tree()
    # Nothing has this name: the mutants are written, and none is run.
    mutmut("run", "--max-children", "1", "nothing")
    names = all_mutants()
    drawn = random.Random(given.seed).sample(names, min(given.mutants, len(names)))  # noqa: S311
    print(f"{len(drawn)} of {len(names)} mutants", flush=True)
    state = run(drawn)
    known, failed = explained(), 0
    for name in drawn:
        how = state.get(name, "not reached")
        if how in ("killed", "timeout"):
            continue
        change = change_of(name)
        if only_words(change):
            continue
        new = change not in known
        failed += new
        print(f"\n{'SURVIVES' if new else 'explained'} ({how}) {name}")
        print("\n".join(change))
    print(f"\n{len(drawn)} mutants, {failed} that survive unexplained")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
