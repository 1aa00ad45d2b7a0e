"""`psymm tools`: installs the npm packages that proving and the devnet need, as in the lockfile.

The rest of pSymm runs without Node. The packages go to $PSYMM_NODE, else to psymm/node under the
user's data directory (XDG), with the wheel's scripts, which import them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import click

from psymm.cli.data_dir import data_directory
from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.options import Group, json_option
from psymm.cli.output import Screen
from psymm.storage import translate_errors

OLDEST_NODE = 20


def node_directory() -> Path:
    """The directory of the npm packages, whether it exists or not."""
    chosen = os.environ.get("PSYMM_NODE")
    return Path(chosen) if chosen else data_directory() / "node"


@click.group(cls=Group)
def tools() -> None:
    """Node tools for proving and the devnet."""


@tools.command("install")
@json_option
def install(screen: Screen) -> None:
    """Installs the npm packages of the lockfile that came with this psymm.

    Needs node (20 or newer) and npm on the PATH, and the npm registry that npm is configured for.
    Run it again to update an older installation.
    """
    node = _program("node")
    npm = _program("npm")
    version = _node_version(node)
    source = Path(str(files("psymm"))) / "artifacts" / "node"
    if not (source / "package-lock.json").is_file():
        raise CommandError(
            "no-artifacts",
            f"{source} has no package-lock.json, so this psymm was not built completely. "
            "Run `make setup` in a checkout, or install the wheel.",
            Exit.TOOLS,
        )
    target = node_directory()
    with translate_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted(source.iterdir()):
            if file.is_file():
                shutil.copyfile(file, target / file.name)
    screen.say(f"node {version}; npm ci in {target} …")
    # `ci` takes exactly what the lockfile names. No package may run a script of its own while it is
    # installed.
    arguments = ["ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
    ran = subprocess.run(  # noqa: S603 - found on the PATH above, arguments are constants
        [npm, *arguments], cwd=target, capture_output=True, text=True, check=False
    )
    if ran.returncode != 0:
        last = "\n".join((ran.stderr or ran.stdout).strip().splitlines()[-10:])
        raise CommandError(
            "npm-failed",
            f"npm ci ended with {ran.returncode} in {target}:\n{last}",
            Exit.TOOLS,
            npm_exit=ran.returncode,
        )
    versions = _installed(target)
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    screen.result(f"Installed in {target}: {listed}.", directory=str(target), packages=versions)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise CommandError(
            "no-node",
            f"{name} is not on the PATH. Install Node {OLDEST_NODE} or newer; "
            "only proving and the devnet need it.",
            Exit.TOOLS,
        )
    return found


def _node_version(node: str) -> str:
    ran = subprocess.run(  # noqa: S603 - found on the PATH
        [node, "--version"], capture_output=True, text=True, check=False
    )
    match = re.fullmatch(r"v(\d+)\.\S+", ran.stdout.strip())
    if ran.returncode != 0 or match is None:
        raise CommandError("no-node", f"{node} --version does not print a version.", Exit.TOOLS)
    if int(match.group(1)) < OLDEST_NODE:
        raise CommandError(
            "old-node",
            f"Node {ran.stdout.strip()} is too old; {OLDEST_NODE} or newer is needed.",
            Exit.TOOLS,
        )
    return ran.stdout.strip()


def _installed(target: Path) -> dict[str, str]:
    wanted = json.loads((target / "package.json").read_text()).get("dependencies", {})
    return {
        name: json.loads((target / "node_modules" / name / "package.json").read_text())["version"]
        for name in sorted(wanted)
    }
