"""Every strategy finds what it looks for: the same run with one leak planted is joined whole."""

from __future__ import annotations

import pytest
from doctor import LEAKS, Doctor, Edit
from test_joining import LIMIT, rank
from trading_floor import Run

from psymm.observer import STRATEGIES, join

pytestmark = [pytest.mark.chain, pytest.mark.proofs, pytest.mark.slow]

PLANTED = [(name, edit) for name, edits in LEAKS.items() for edit in edits]


def test_no_strategy_is_without_a_leak_that_it_must_find() -> None:
    assert set(LEAKS) == set(STRATEGIES)


@pytest.mark.parametrize(
    ("strategy", "leak"), PLANTED, ids=[f"{name}-{edit.__name__}" for name, edit in PLANTED]
)
def test_a_planted_leak_joins_every_pair(run: Run, strategy: str, leak: Edit) -> None:
    doctor = Doctor(run)
    leak(doctor)
    found, _ = join(doctor.observation(), {strategy: STRATEGIES[strategy]})
    print(found)
    assert found.hits(run.truth) == len(run.pairs)
    if len(run.pairs) >= 8:
        assert rank(found, run.truth) < LIMIT


def test_an_undoctored_run_reads_the_same_through_the_doctor(run: Run) -> None:
    """So what a doctored run shows more is the leak alone."""
    assert Doctor(run).observation() == run.observation
