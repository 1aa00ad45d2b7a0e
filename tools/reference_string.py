"""Makes the development reference string for the build: build/crs/dev/bn254_g1.dat and _g2.dat.

    python tools/reference_string.py dev
    python tools/reference_string.py ignition     does nothing: Barretenberg fetches that string

The secret of the development string is in the core's source, so anybody can forge proofs under it.
Contracts built with it refuse deposits on every chain except the devnet (chain id 31337).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from psymm._core import dev_crs
from psymm.custody.crs import POINTS

DEV = Path(__file__).resolve().parents[1] / "build" / "crs" / "dev"


def main(kind: str) -> None:
    if kind == "ignition":
        print("ignition: Barretenberg fetches and keeps it")
        return
    if kind != "dev":
        sys.exit(f"{kind}: the reference string must be dev or ignition")
    DEV.mkdir(parents=True, exist_ok=True)
    g1, g2 = dev_crs(POINTS)
    for name, content in (("bn254_g1.dat", g1), ("bn254_g2.dat", g2)):
        draft = DEV / f".{name}"
        draft.write_bytes(content)
        os.replace(draft, DEV / name)
    print(f"{POINTS} points in {DEV}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "dev")
