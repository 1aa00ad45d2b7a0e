"""A run as bad luck could have made it: what timing decides is drawn anew, so that strangers meet.

Who holds which place in the tree, which roots, deadlines, tips and margins are shared and by how
many, what gas is left unexplained, a word that proofs have in common, and relayed moves that were
sent twice and failed once: all drawn from the seed, whoever trades with whom.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from doctor import Doctor, deadlines_of, pad, set_deadline
from trading_floor import Run

from psymm._core import LeanIMT


def unlucky(run: Run, seed: int) -> Run:
    lot = random.Random(seed)
    shuffled = _shuffled(run, lot)
    doctor = Doctor(shuffled)
    _redraw_roots(doctor, lot)
    doctor.read_again()
    _redraw_deadlines(doctor, lot)
    _redraw_payment(doctor, lot)
    _redraw_proofs(doctor, lot)
    doctor.read_again()
    _send_twice(doctor, lot)
    return replace(shuffled, observation=doctor.observation())


def few(lot: random.Random) -> Callable[[], int]:
    """Draws out of so few values, or so many, that all, some or just two are the same."""
    values = lot.choice([1, 2, 3, 8, 15, 30, 60])
    return lambda: lot.randrange(values)


def _shuffled(run: Run, lot: random.Random) -> Run:
    """The same transactions; those of one kind have changed places among themselves."""
    seen = run.observation
    of_kind: dict[str, list[int]] = {}
    for tx in {tx for one in run.parties for _, tx in one.txs}:
        of_kind.setdefault(seen.kinds[tx], []).append(tx)
    now = list(range(len(seen.transactions)))
    for places in of_kind.values():
        for tx, place in zip(places, lot.sample(places, len(places)), strict=True):
            now[tx] = place
    before = {place: tx for tx, place in enumerate(now)}

    doctor = Doctor(run)
    doctor.transactions = [seen.transactions[before[place]] for place in range(len(now))]
    doctor.times_s = {now[tx]: time_s for tx, time_s in doctor.times_s.items()}
    pairs = [
        replace(
            pair,
            **{
                side: replace(one, txs=[(purpose, now[tx]) for purpose, tx in one.txs])
                for side, one in (("trader", pair.trader), ("solver", pair.solver))
            },
        )
        for pair in run.pairs
    ]
    return replace(run, pairs=pairs, observation=doctor.observation())


def _redraw_roots(doctor: Doctor, lot: random.Random) -> None:
    tree, roots = LeanIMT(), []
    for deposit in doctor.seen.deposits:
        tree.insert(deposit.commitment)
        roots.append(tree.root)
    draw, skipped = few(lot), lot.randrange(len(roots))
    for move in doctor.seen.moves:
        doctor.swap(move.tx, {move.call.root: roots[(skipped + draw()) % len(roots)]})


def _redraw_deadlines(doctor: Doctor, lot: random.Random) -> None:
    draw, late = few(lot), few(lot)
    for tx, deadline in deadlines_of(doctor):
        set_deadline(doctor, tx, deadline, deadline + 300 * draw() + 7 * (late() == 0))


def _redraw_payment(doctor: Doctor, lot: random.Random) -> None:
    margin, tip, gas = few(lot), few(lot), few(lot)
    for tx, one in enumerate(doctor.transactions):
        used = one.gas_used + 1_500 * gas()
        doctor.change(
            tx,
            gas_used=used,
            gas_limit=used * (11 + margin()) // 10,
            tip_wei=1_000_000_000 + tip(),
        )


def _redraw_proofs(doctor: Doctor, lot: random.Random) -> None:
    draw = few(lot)
    for move in doctor.seen.moves:
        proof = move.call.proof
        new = proof[:960] + pad(f"by chance {draw()}", 32) + proof[992:]
        doctor.swap(move.tx, {proof: new})


def _send_twice(doctor: Doctor, lot: random.Random) -> None:
    for move in lot.sample(doctor.seen.moves, lot.randrange(8)):
        one = doctor.transactions[move.tx]
        doctor.transactions.append(replace(one, succeeded=False, logs=(), gas_used=60_000))
