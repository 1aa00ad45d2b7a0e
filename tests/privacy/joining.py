"""The adversary: joins a trader's transactions to a solver's, with one strategy after another.

Each strategy looks for one kind of likeness between transactions (`likenesses`). What it finds
is followed from a trader's own transactions to a solver's, over any number of transactions in
between.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from likenesses import STRATEGIES, Likeness, Strategy
from observer import Observation

from psymm._core import keccak256


@dataclass(frozen=True)
class Joined:
    """What one strategy makes of an observation.

    scores: for each trader and solver, 0 (nothing joins them) to 1.  guess: each trader's solver
    in the assignment, one to one, of the highest total score; ties fall by a hash, so that no
    order of the chain's decides them.
    """

    strategy: str
    scores: Mapping[tuple[str, str], float] = field(repr=False)
    guess: Mapping[str, str]

    @property
    def says_nothing(self) -> bool:
        """All scores are the same, so the guess is the hash's."""
        return len(set(self.scores.values())) <= 1

    def hits(self, truth: Mapping[str, str]) -> int:
        return sum(self.guess.get(trader) == solver for trader, solver in truth.items())

    def __str__(self) -> str:
        if self.says_nothing:
            return f"{self.strategy}: nothing"
        shown = ", ".join(
            f"{trader[:8]} → {solver[:8]} ({self.scores[trader, solver]:.3g})"
            for trader, solver in self.guess.items()
        )
        return f"{self.strategy}: {shown}"


def join(
    observation: Observation, strategies: Mapping[str, Strategy] | None = None
) -> list[Joined]:
    """Every strategy's guess, and last the one of their scores' sum."""
    found = []
    for name, strategy in (STRATEGIES if strategies is None else strategies).items():
        found.append(_joined(observation, name, _scores(observation, strategy(observation))))
    total: dict[tuple[str, str], float] = defaultdict(float)
    for one in found:
        for pair, score in _levelled(one.scores).items():
            total[pair] += score
    found.append(_joined(observation, "all together", total))
    return found


def chance_of_hits(traders: int, solvers: int, hits: int) -> float:
    """How likely a guess by lot, one solver for each trader and none twice, hits at least so
    many.  For eight and eight: 4 hits 1.9 %, 5 hits 0.35 %, 6 hits 0.07 %."""
    fewer, more = sorted((traders, solvers))
    ways = 0
    for exact in range(hits, fewer + 1):
        rest = fewer - exact
        ways += math.comb(fewer, exact) * sum(
            (-1) ** wrong * math.comb(rest, wrong) * math.perm(more - exact - wrong, rest - wrong)
            for wrong in range(rest + 1)
        )
    return ways / math.perm(more, fewer)


def _joined(observation: Observation, name: str, scores: Mapping[tuple[str, str], float]) -> Joined:
    def lot(account: str) -> bytes:
        return keccak256(f"{name} {account}".encode())

    traders = sorted(observation.traders, key=lot)
    solvers = sorted(observation.solvers, key=lot)
    table = [[scores.get((trader, solver), 0.0) for solver in solvers] for trader in traders]
    full = {(t, s): table[i][j] for i, t in enumerate(traders) for j, s in enumerate(solvers)}
    pairs = _assignment(table)
    return Joined(name, full, {traders[i]: solvers[j] for i, j in pairs})


def _scores(observation: Observation, likeness: Likeness) -> dict[tuple[str, str], float]:
    """The strongest way from each trader's transactions to each solver's: the product of the
    likenesses along it.  It never leads through a third party's own transactions."""
    near: dict[int, dict[int, float]] = defaultdict(dict)
    for (first, second), value in likeness.items():
        if value > 0:
            near[first][second] = near[second][first] = min(1.0, value)
    owner = {tx: account for account, txs in observation.of_account.items() for tx in txs}
    scores = {}
    for trader in observation.traders:
        best = dict.fromkeys(observation.of_account[trader], 1.0)
        done: set[int] = set()
        while open_ := {tx: value for tx, value in best.items() if tx not in done}:
            at = max(open_, key=lambda tx: open_[tx])
            done.add(at)
            if owner.get(at, trader) != trader:
                continue
            for other, value in near[at].items():
                if best[at] * value > best.get(other, 0.0):
                    best[other] = best[at] * value
        for solver in observation.solvers:
            reached = [best.get(tx, 0.0) for tx in observation.of_account[solver]]
            scores[trader, solver] = max(reached, default=0.0)
    return scores


def _levelled(scores: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Scores on one scale for every strategy: ranks from 0 to 1, equal ones alike."""
    ranked = sorted(set(scores.values()))
    if len(ranked) <= 1:
        return dict.fromkeys(scores, 0.0)
    place = {value: at / (len(ranked) - 1) for at, value in enumerate(ranked)}
    return {pair: place[value] for pair, value in scores.items()}


def _assignment(table: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Rows to columns one to one with the highest sum (Kuhn and Munkres, by shortest paths)."""
    if not table or not table[0]:
        return []
    if len(table) > len(table[0]):
        turned = [list(column) for column in zip(*table, strict=True)]
        return sorted((row, column) for column, row in _assignment(turned))
    rows, columns = len(table), len(table[0])
    of_row, of_column = [0.0] * (rows + 1), [0.0] * (columns + 1)
    taken, way = [0] * (columns + 1), [0] * (columns + 1)
    for row in range(1, rows + 1):
        taken[0], column = row, 0
        least, seen = [math.inf] * (columns + 1), [False] * (columns + 1)
        while True:
            seen[column] = True
            at, following = taken[column], 0
            step: float = math.inf
            for one in range(1, columns + 1):
                if seen[one]:
                    continue
                cost = -table[at - 1][one - 1] - of_row[at] - of_column[one]
                if cost < least[one]:
                    least[one], way[one] = cost, column
                if least[one] < step:
                    step, following = least[one], one
            for one in range(columns + 1):
                if seen[one]:
                    of_row[taken[one]] += step
                    of_column[one] -= step
                else:
                    least[one] -= step
            column = following
            if not taken[column]:
                break
        while column:
            taken[column], column = taken[way[column]], way[column]
    return sorted((taken[one] - 1, one - 1) for one in range(1, columns + 1) if taken[one])
