"""A custody's heads, the last frame of each lane, and whether it may sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Health = Literal["complete", "recovering", "read-only"]
"""Whether a custody may sign.

complete: yes.
recovering: not yet. Its newest heads are known, and frames up to them must still be fetched.
read-only: never. It comes from a backup, or was repaired and its newest heads are not known. It
serves as evidence in court and settles by wallet signature.
"""


@dataclass(frozen=True, slots=True)
class Heads:
    """(seq, digest) of each lane's head; the digest of seq 0 is the custody's id."""

    trader: tuple[int, bytes]
    solver: tuple[int, bytes]

    def of(self, lane: int) -> tuple[int, bytes]:
        return self.solver if lane else self.trader
