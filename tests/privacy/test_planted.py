"""Every strategy finds what it looks for: the same run with one leak planted is joined whole.

So is every run that bad luck could have made: no timing hides a planted leak, or doubles it.
"""

from __future__ import annotations

import math

import pytest
from bad_luck import unlucky
from doctor import LEAKS, Doctor, Edit
from joining import Joined, join
from likenesses import STRATEGIES
from test_joining import LIMIT, rank
from trading_floor import Run

pytestmark = [pytest.mark.chain, pytest.mark.proofs, pytest.mark.slow]

PLANTED = [(name, edit) for name, edits in LEAKS.items() for edit in edits]
TIMED = ("deadlines", "gas used", "senders and relayers", "root ages")
"""What bad luck changes most, so that more of it is tried."""
SEEDS = range(12)


def planted(run: Run, strategy: str, leak: Edit) -> Joined:
    doctor = Doctor(run)
    leak(doctor)
    found, _ = join(doctor.observation(), {strategy: STRATEGIES[strategy]})
    return found


def strangers(found: Joined, run: Run) -> list[float]:
    return [score for pair, score in found.scores.items() if pair not in run.truth.items()]


@pytest.fixture(scope="module")
def unlucky_runs(run: Run) -> list[Run]:
    return [unlucky(run, seed) for seed in SEEDS]


def test_no_strategy_is_without_a_leak_that_it_must_find() -> None:
    assert set(LEAKS) == set(STRATEGIES)


@pytest.mark.parametrize(
    ("strategy", "leak"), PLANTED, ids=[f"{name}-{edit.__name__}" for name, edit in PLANTED]
)
def test_a_planted_leak_joins_every_pair(run: Run, strategy: str, leak: Edit) -> None:
    found = planted(run, strategy, leak)
    print(found)
    assert found.hits(run.truth) == len(run.pairs)
    if len(run.pairs) >= 8:
        assert rank(found, run.truth) < LIMIT


@pytest.mark.parametrize(
    ("strategy", "leak"), PLANTED, ids=[f"{name}-{edit.__name__}" for name, edit in PLANTED]
)
def test_a_planted_leak_joins_every_pair_however_unlucky_the_run(
    unlucky_runs: list[Run], strategy: str, leak: Edit
) -> None:
    """The truth is the one pairing of the highest total: no tie is left for the hash to decide."""
    for unfortunate in unlucky_runs if strategy in TIMED else unlucky_runs[:2]:
        found, truth = planted(unfortunate, strategy, leak), unfortunate.truth
        assert found.hits(truth) == len(truth)
        assert rank(found, truth) == pytest.approx(1 / math.factorial(len(truth)))


@pytest.mark.parametrize("strategy", TIMED)
def test_bad_luck_makes_strangers_look_alike(unlucky_runs: list[Run], strategy: str) -> None:
    """Else the unlucky runs would show nothing about the leaks. How much alike differs from run to
    run: a root that eighteen share is a likeness of a seventeenth."""
    honest = [join(one.observation, {strategy: STRATEGIES[strategy]})[0] for one in unlucky_runs]
    assert max(max(strangers(found, unlucky_runs[0])) for found in honest) > 0


def test_an_undoctored_run_reads_the_same_through_the_doctor(run: Run) -> None:
    """So what a doctored run shows more is the leak alone."""
    assert Doctor(run).observation() == run.observation
