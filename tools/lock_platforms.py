"""Completes node/package-lock.json with the optional packages of other platforms.

    npm --prefix node install --package-lock-only --ignore-scripts && python tools/lock_platforms.py

A mirror may lack the binaries of some platforms. npm then leaves these packages out of the
lockfile, and `npm ci` refuses a lockfile without them. This script pins each to the version that
its parent asks for, without an integrity hash, because its bytes are not available here.
"""

from __future__ import annotations

import json
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "node" / "package-lock.json"
SYSTEMS = ("linux", "darwin", "win32")
CPUS = {"amd64": "x64", "x64": "x64", "arm64": "arm64", "arm": "arm"}


def main() -> None:
    lock = json.loads(LOCK.read_bytes())
    packages = lock["packages"]
    for parent in list(packages.values()):
        for name, version in parent.get("optionalDependencies", {}).items():
            place = f"node_modules/{name}"
            if place in packages:
                continue
            words = name.rsplit("/", 1)[-1].split("-")
            system = next(word for word in words if word in SYSTEMS)
            cpu = next(CPUS[word] for word in words if word in CPUS)
            entry = {"version": version, "cpu": [cpu], "optional": True, "os": [system]}
            if parent.get("dev"):
                entry["dev"] = True
            packages[place] = entry
    root = packages.pop("")
    lock["packages"] = {"": root, **dict(sorted(packages.items()))}
    LOCK.write_text(json.dumps(lock, indent=2) + "\n")


if __name__ == "__main__":
    main()
