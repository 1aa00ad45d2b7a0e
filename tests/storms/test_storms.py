"""The storms, in short; `make soak` blows them in full."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOM = Path(__file__).parent


def blow(storm: str, *arguments: str) -> str:
    """A storm in a process of its own: it forks, or it turns trio's scheduler into a fixed one."""
    done = subprocess.run(
        [sys.executable, str(ROOM / f"{storm}.py"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.chain
@pytest.mark.proofs
@pytest.mark.slow
def test_a_trader_and_a_solver_that_are_killed_again_and_again_lose_and_repeat_nothing() -> None:
    said = blow(
        "crash_storm",
        "--seed",
        "1",
        "--kills",
        "25",
        "--rounds",
        "1",
        "--custodies",
        "1",
        "--short",
    )
    assert "nothing was lost, nothing was signed twice" in said


@pytest.mark.chain
@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 7, 10])
def test_whatever_the_nodes_do_every_unit_is_accounted_for_and_no_move_is_repeated(
    seed: int,
) -> None:
    said = blow("node_storm", "--seed", str(seed), "--moves", "12")
    assert "every unit is accounted for, no move was repeated" in said


@pytest.mark.parametrize("seed", [*range(1, 12), 77])
def test_whatever_the_network_does_both_ends_agree_afterwards(seed: int) -> None:
    said = blow("network_storm", "--seed", str(seed), "--seconds", "120", "--traders", "2")
    assert "orders ended" in said


def test_one_seed_is_one_storm() -> None:
    given = ("network_storm", "--seconds", "20", "--traders", "2", "--no-flips")
    first, again, other = (
        blow(*given, "--seed", seed).splitlines()[-1] for seed in ("7", "7", "8")
    )
    assert "fingerprint" in first
    assert first == again
    assert first != other
