"""Builds libpsymm, the C interface as a shared library that needs no Python, and its header.

    python tools/c_library.py [DIRECTORY]        default: build/library

Writes DIRECTORY/lib/libpsymm.so (.dylib or .dll on other systems) and DIRECTORY/include/psymm.h.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# cargo's name of the library, and the name under which it is copied.
NAMES = {"lib_core.so": "libpsymm.so", "lib_core.dylib": "libpsymm.dylib", "_core.dll": "psymm.dll"}


def build(directory: Path) -> Path:
    """Build the library into a directory. Returns the path of the library."""
    cargo = ["cargo", "rustc", "--package", "psymm-core", "--release", "--lib"]
    what = ["--crate-type", "cdylib", "--features", "c", "--message-format", "json"]
    # The table of exported symbols stays; the names of all others are dead weight.
    how = ["--", "-C", "strip=symbols"]
    made = subprocess.run(  # noqa: S603 - arguments of this file only
        [*cargo, *what, *how], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    messages = [json.loads(line) for line in made.stdout.splitlines()]
    files = [
        Path(name)
        for message in messages
        if message["reason"] == "compiler-artifact" and message["target"]["name"] == "_core"
        for name in message["filenames"]
    ]
    (built,) = [file for file in files if file.name in NAMES]
    library = directory / "lib" / NAMES[built.name]
    header = directory / "include" / "psymm.h"
    for source, target in [(built, library), (ROOT / "include" / "psymm.h", header)]:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return library


if __name__ == "__main__":
    print(build(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "build" / "library"))
