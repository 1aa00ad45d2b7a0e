"""The chain goes back 64 blocks in the middle of a move and after it, with two others under way:
nothing is lost and nothing happens twice.

The short form of `tests/storms/reorganisation_storm.py`, which goes back at any call of any move.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "storms"))

from reorganisation_storm import MOVES, STEPS, make, open_place

from psymm.chain.devnet import Devnet

pytestmark = pytest.mark.chain


@pytest.mark.parametrize(
    ("kind", "step"),
    [(kind, [*STEPS][at % len(STEPS)]) for at, kind in enumerate(MOVES)],
    ids=MOVES,
)
async def test_whenever_the_chain_goes_back_nothing_is_lost_and_nothing_happens_twice(
    own_devnet: Devnet, tmp_path: Path, kind: str, step: str
) -> None:
    async with open_place(own_devnet, tmp_path) as place:
        await make(place, kind, STEPS[step], again=True)
