"""One run of eight pairs, which all tests of this room share; PAIRS and SEED choose others.

A second run is made only where a test has to know whether what it saw lasts.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent))

from likenesses import STRATEGIES, Likeness
from trading_floor import Run, run_pairs


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    pairs = int(os.environ.get("PAIRS", "8"))
    seed = int(os.environ.get("SEED", "0")) or secrets.randbits(32)
    print(f"\nprivacy run of {pairs} pairs, SEED={seed}")
    return trio.run(partial(run_pairs, pairs, seed, tmp_path_factory.mktemp("floor")))


@pytest.fixture(scope="session")
def another_run(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Run]:
    """Makes a second run, of other pairs, when it is first called."""

    @cache
    def made() -> Run:
        pairs, seed = len(run.pairs), run.seed + 1
        print(f"\nanother privacy run of {pairs} pairs, SEED={seed}")
        return trio.run(partial(run_pairs, pairs, seed, tmp_path_factory.mktemp("another floor")))

    return made


@pytest.fixture(scope="session")
def likenesses(run: Run) -> dict[str, Likeness]:
    """What each strategy finds alike in the run; some take seconds."""
    return {name: strategy(run.observation) for name, strategy in STRATEGIES.items()}
