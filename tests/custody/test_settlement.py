"""A proposal that differs in any field from our own result is refused, and the error names the
field."""

from __future__ import annotations

from dataclasses import replace

import pytest

from psymm.chain.addresses import ZERO_ADDRESS
from psymm.chain.errors import CallInvalid
from psymm.custody.errors import (
    ConsentInvalid,
    DeadlinePassed,
    FeeTooHigh,
    NoteInvalid,
    ProposalRefused,
)
from psymm.custody.notes import Custody, Note
from psymm.custody.planning import deadline_after
from psymm.custody.settlement import Payee, accept_settlement, propose_settlement
from psymm.wallet import KeyWallet

TOKEN = "0x" + "11" * 20
RELAYER = "0x" + "22" * 20
PLACE = (31337, "0x" + "33" * 20)
NOW = 1_800_000_000
TRADER, SOLVER = KeyWallet.generate(), KeyWallet.generate()
CUSTODY = Custody(TRADER.public_key, SOLVER.public_key, b"\x01" * 32, b"\x02" * 32)
NOTES = [
    Note(CUSTODY, TOKEN, 600, b"\x01" * 32),
    Note(CUSTODY, TOKEN, 2_000, b"\x02" * 32),
]
PAYEES = (Payee(b"\x03" * 32, b"\x0a" * 256), Payee(b"\x04" * 32, b"\x0b" * 256))
PAYOUTS = (700, 1_900)


def proposed(**changes):
    values = {
        "proposer": 1, "relayer": RELAYER, "fee": 5, "deadline": deadline_after(NOW), **changes,
    }  # fmt: skip
    return propose_settlement(NOTES, PAYEES, PAYOUTS, **values)


def accepted(proposal, notes=NOTES, payees=PAYEES, payouts=PAYOUTS, **changes):
    values = {"proposer": 1, "max_fee": 5, "now_s": NOW, **changes}
    return accept_settlement(proposal, notes, payees, payouts, **values)


def test_both_sides_sign_one_digest_whatever_the_orders() -> None:
    seen = set()
    for _ in range(64):
        ours = proposed()
        theirs = accepted(ours.proposal, notes=NOTES[::-1])
        assert theirs.call == ours.call
        assert theirs.call.digest(*PLACE) == ours.call.digest(*PLACE)
        first_in = ours.call.nullifiers[0] == NOTES[0].nullifier
        first_out = ours.plan.outputs[0].inner == PAYEES[0].inner
        seen.add((first_in, first_out))
    assert len(seen) == 4


def test_the_fee_comes_out_of_the_proposers_payout() -> None:
    for lane in (0, 1):
        paid = {one.inner: one.amount for one in proposed(proposer=lane).plan.outputs}
        assert paid[PAYEES[lane].inner] == PAYOUTS[lane] - 5
        assert paid[PAYEES[1 - lane].inner] == PAYOUTS[1 - lane]
    with pytest.raises(FeeTooHigh):
        proposed(fee=1_901)


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"nullifiers": (b"\x05" * 32, NOTES[1].nullifier)}, ProposalRefused, "nullifiers"),
        ({"nullifiers": (NOTES[0].nullifier, NOTES[0].nullifier)}, ProposalRefused, "nullifiers"),
        ({"commitments": (b"\x05" * 32, b"\x06" * 32)}, ProposalRefused, "commitments"),
        ({"payouts": (701, 1_899)}, ProposalRefused, "payouts"),
        ({"payouts": (1_900, 700)}, ProposalRefused, "payouts"),
        ({"fee_token": RELAYER}, ProposalRefused, "fee_token"),
        ({"deadline": NOW + 601}, ProposalRefused, "deadline"),
        ({"deadline": NOW - NOW % 300 + 300 * 300}, ProposalRefused, "deadline"),
        ({"deadline": NOW}, DeadlinePassed, None),
        ({"fee": 6}, FeeTooHigh, None),
        ({"fee": 4}, ProposalRefused, "commitments"),
        ({"empty_blinding": b"\x01" * 32}, ProposalRefused, "empty input"),
        ({"relayer": ZERO_ADDRESS}, CallInvalid, "fee"),
    ],
)
def test_a_changed_proposal_is_refused(changes: dict, error: type, field: str | None) -> None:
    good = proposed().proposal
    accepted(good)
    with pytest.raises(error) as refused:
        accepted(replace(good, **changes))
    if field is not None:
        assert refused.value.field == field


def test_a_proposal_for_other_notes_payees_or_payouts_than_ours_is_refused() -> None:
    good = proposed().proposal
    other = Note(CUSTODY, TOKEN, 600, b"\x09" * 32)
    with pytest.raises(ProposalRefused):
        accepted(good, notes=[other, NOTES[1]])
    with pytest.raises(ProposalRefused):
        accepted(good, payees=(PAYEES[1], PAYEES[0]))
    swapped = (Payee(PAYEES[0].inner, b"\x0c" * 256), PAYEES[1])
    settlement = accepted(good, payees=swapped)
    # Another memo makes no other public value, but another digest: its signature will not fit.
    signature = SOLVER.sign_digest(proposed().call.digest(*PLACE))
    with pytest.raises(ConsentInvalid):
        settlement.check_signature(*PLACE, 1, signature)
    with pytest.raises(ProposalRefused):
        accepted(good, payouts=(600, 2_000))


def test_amounts_that_do_not_add_up_are_no_settlement() -> None:
    with pytest.raises(NoteInvalid):
        propose_settlement(NOTES, PAYEES, (700, 1_901), proposer=0, deadline=deadline_after(NOW))
    foreign = Note(replace(CUSTODY, salt=b"\x07" * 32), TOKEN, 2_000, b"\x02" * 32)
    for notes in ([NOTES[0], foreign], [], [*NOTES, NOTES[0]], [NOTES[0], NOTES[0]]):
        with pytest.raises(NoteInvalid):
            propose_settlement(notes, PAYEES, PAYOUTS, proposer=0, deadline=deadline_after(NOW))


def test_signatures_are_told_apart() -> None:
    settlement = proposed()
    digest = settlement.call.digest(*PLACE)
    by_trader, by_solver = TRADER.sign_digest(digest), SOLVER.sign_digest(digest)
    settlement.consent(*PLACE, trader=by_trader, solver=by_solver)
    for trader, solver, role in (
        (by_solver, by_solver, "trader"),
        (by_trader, by_trader, "solver"),
        (bytes(65), by_solver, "trader"),
        (by_trader, by_solver[:64], "solver"),
        (TRADER.sign_digest(bytes(32)), by_solver, "trader"),
    ):
        with pytest.raises(ConsentInvalid) as refused:
            settlement.consent(*PLACE, trader=trader, solver=solver)
        assert refused.value.role == role
    with pytest.raises(ConsentInvalid):
        settlement.check_signature(1, PLACE[1], 0, by_trader)


def test_deadlines_are_whole_five_minutes_and_far_enough() -> None:
    for now in range(NOW, NOW + 600, 7):
        deadline = deadline_after(now, 1_800)
        assert deadline % 300 == 0
        assert now + 1_800 <= deadline < now + 2_100


def test_a_payee_of_another_shape_is_refused() -> None:
    with pytest.raises(NoteInvalid):
        Payee(b"\xff" * 32, bytes(256))
    with pytest.raises(NoteInvalid):
        Payee(bytes(32), bytes(255))
