"""The compiled contracts and circuits that come with the package, and where Node's tools are."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from psymm.chain.abi import Abi
from psymm.chain.errors import ArtifactMissing, DeploymentInvalid, ToolsMissing
from psymm.storage import FileUnavailable, NoHome, translate_errors, user_directory

ARTIFACTS: Final = Path(__file__).resolve().parent.parent / "artifacts"
CRS_KINDS: Final = ("dev", "ignition")
"""Which reference string the verifiers are for; `dev` works on the development chain only."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One compiled contract.

    Attributes:
        links: by library, the byte offsets of its address in the code.
    """

    name: str
    abi: Abi
    bytecode: str
    links: dict[str, tuple[int, ...]]

    def linked(self, libraries: dict[str, str]) -> bytes:
        """The creation code with every library's address in its place.

        Raises DeploymentInvalid naming a library that is not given.
        """
        text = self.bytecode.removeprefix("0x")
        for library, offsets in self.links.items():
            if library not in libraries:
                raise DeploymentInvalid(self.name, f"needs the address of library {library}")
            address = libraries[library].removeprefix("0x").lower()
            for offset in offsets:
                at = 2 * offset
                # The compiler left 20 bytes free for the library's address.
                text = text[:at] + address + text[at + 40 :]
        try:
            return bytes.fromhex(text)
        except ValueError:
            raise DeploymentInvalid(self.name, "its bytecode is not hexadecimal") from None


@cache
def artifact(name: str) -> Artifact:
    """The artifact of a contract.  Raises ArtifactMissing, DeploymentInvalid."""
    path = ARTIFACTS / "contracts" / f"{name}.json"
    try:
        with translate_errors(path):
            raw: Any = json.loads(path.read_bytes())
    except FileUnavailable:
        raise ArtifactMissing(str(path)) from None
    except ValueError:
        raise DeploymentInvalid(name, "its artifact is not JSON") from None
    if not isinstance(raw, dict) or "abi" not in raw or "bytecode" not in raw:
        raise DeploymentInvalid(name, "its artifact lacks abi or bytecode")
    links: dict[str, tuple[int, ...]] = {}
    for libraries in raw.get("linkReferences", {}).values():
        for library, places in libraries.items():
            links[library] = tuple(int(place["start"]) for place in places)
    return Artifact(name, Abi(raw["abi"], name), str(raw["bytecode"]), links)


def known_artifacts() -> list[str]:
    """Names of all contracts that came with the package."""
    return sorted(path.stem for path in (ARTIFACTS / "contracts").glob("*.json"))


def node_program() -> str:
    """The path of Node's executable.  Raises ToolsMissing."""
    found = shutil.which("node")
    if found is None:
        raise ToolsMissing("Node (the program `node`)")
    return found


def anvil_program() -> Path:
    """The native program of anvil for this machine.  Raises ToolsMissing.

    `.bin/anvil` would not do. Without npm's install scripts it is a Node program that starts the
    native one, and that one would survive when only the first is killed.
    """
    machine = platform.machine().lower()
    processor = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    system = "win32" if sys.platform == "win32" else platform.system().lower()
    package = f"@foundry-rs/anvil-{system}-{processor}"
    name = "anvil.exe" if system == "win32" else "anvil"
    program = tools_directory(package) / "node_modules" / package / "bin" / name
    if not program.exists():
        raise ToolsMissing(str(program))
    return program


def tools_directory(wanted: str) -> Path:
    """The directory of Node's tools that holds `node_modules/<wanted>`.

    It is looked for in $PSYMM_NODE. Without that, in the source checkout's `node`, then in
    psymm/node under $XDG_DATA_HOME (~/.local/share).  Raises ToolsMissing with these places.
    """
    places: list[Path] = []
    if os.environ.get("PSYMM_NODE"):
        places.append(Path(os.environ["PSYMM_NODE"]))
    else:
        places.append(ARTIFACTS.parents[2] / "node")
        with suppress(NoHome):
            places.append(user_directory("XDG_DATA_HOME", ".local", "share") / "psymm" / "node")
    for place in places:
        if (place / "node_modules" / wanted).exists():
            return place
    raise ToolsMissing(wanted, tuple(str(place) for place in places))


def built_for() -> str:
    """The reference string that this package's verifiers are for: "dev" or "ignition".

    Raises ArtifactMissing, DeploymentInvalid.
    """
    path = ARTIFACTS / "circuits" / "reference.json"
    try:
        with translate_errors(path):
            kind = json.loads(path.read_bytes())["kind"]
    except FileUnavailable:
        raise ArtifactMissing(str(path)) from None
    except (ValueError, KeyError, TypeError):
        kind = None
    if kind not in CRS_KINDS:
        raise DeploymentInvalid("crs", f"{path} does not name a known reference string")
    return str(kind)
