"""A custody's heads, the last frame of each lane, and whether it may sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Health = Literal["complete", "recovering", "read-only"]
"""Whether a custody may sign. whole: yes. repairing: frames up to its newest heads, which are
known, are still to be fetched; then it is whole. restored: from a backup, or repaired without its
newest heads being known; it serves in court and settles by wallet signature, and never signs a
frame."""


@dataclass(frozen=True, slots=True)
class Heads:
    """(seq, digest) of each lane; the digest of seq 0 is the custody's id."""

    trader: tuple[int, bytes]
    solver: tuple[int, bytes]

    def of(self, lane: int) -> tuple[int, bytes]:
        return self.solver if lane else self.trader
