"""The reference string that proofs need: which one this package uses, and where it is.

`CRS_PATH` names its directory.  If it is not set, the development string is made here once, from
its published secret, into a cache; Barretenberg itself fetches and keeps Ignition's.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import trio

from psymm._core import dev_crs
from psymm.chain.artifacts import ARTIFACTS
from psymm.chain.errors import ArtifactMissing
from psymm.custody.errors import CrsInvalid
from psymm.storage import FileUnavailable, translate_errors, user_directory

POINTS: Final = 1 << 17
"""As many powers of the secret as the circuits have rows."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The reference string of this package's verifiers.  g2: its [x]₂, 128 bytes."""

    kind: str
    g2: bytes


@cache
def reference() -> Reference:
    """Raises ArtifactMissing, CrsInvalid."""
    path = ARTIFACTS / "circuits" / "reference.json"
    try:
        with translate_errors(path):
            raw = json.loads(path.read_bytes())
        g2 = b"".join(bytes.fromhex(one.removeprefix("0x")) for one in raw["g2"])
        kind = raw["kind"]
    except FileUnavailable:
        raise ArtifactMissing(str(path)) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CrsInvalid(f"{path} does not name its reference string") from None
    if kind not in ("dev", "ignition") or len(g2) != 128:
        raise CrsInvalid(f"{path} does not name its reference string")
    return Reference(kind, g2)


def cache_directory() -> Path:
    """The directory for files that can be made again: $XDG_CACHE_HOME/psymm. Raises NoHome."""
    return user_directory("XDG_CACHE_HOME", ".cache") / "psymm"


async def crs_path() -> Path | None:
    """The prover's CRS_PATH; None lets Barretenberg fetch Ignition's string.

    Makes the development string if it is needed and missing (about 8 MB, seconds).  Raises
    CrsInvalid, StorageError, NoHome.  Cancelled: the thread finishes; the files appear whole or
    not at all.
    """
    if os.environ.get("CRS_PATH"):
        return Path(os.environ["CRS_PATH"])
    wanted = reference()
    if wanted.kind == "ignition":
        return None
    return await trio.to_thread.run_sync(_make_dev, wanted)


def _make_dev(wanted: Reference) -> Path:
    built = ARTIFACTS.parents[2] / "build" / "crs" / "dev"
    kept = cache_directory() / "crs" / "dev"
    for place in (built, kept):
        if _is_whole(place, wanted):
            return place
    g1, g2 = dev_crs(POINTS)
    # Proofs under another string are well formed, and only the contract refuses them.
    if g2 != wanted.g2:
        raise CrsInvalid("the verifiers are for another development string than this core makes")
    with translate_errors(kept):
        kept.mkdir(parents=True, exist_ok=True)
        # `_is_whole` trusts the directory only with the second file, so that one comes last.
        for name, content in (("bn254_g1.dat", g1), ("bn254_g2.dat", g2)):
            draft = kept / f".{name}.{os.getpid()}"
            try:
                draft.write_bytes(content)
                draft.replace(kept / name)
            finally:
                draft.unlink(missing_ok=True)
    return kept


def _is_whole(place: Path, wanted: Reference) -> bool:
    try:
        return (place / "bn254_g2.dat").read_bytes() == wanted.g2 and (
            place / "bn254_g1.dat"
        ).stat().st_size >= POINTS * 64
    except OSError:
        return False
