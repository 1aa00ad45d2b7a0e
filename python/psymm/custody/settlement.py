"""Settling a custody between its two parties: one CTC that pays both, or neither.

Both know the full openings of the custody's notes.  Each gives the other only the inner hash and
the sealed memo of the sole note that it wants to be paid into.  The proposer picks the orders at
random, signs and shows the public values; the other computes everything again from what it knows
itself and signs only if nothing differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from psymm._core import keccak256
from psymm.chain.addresses import ZERO_ADDRESS
from psymm.chain.calls import CtcCall
from psymm.custody.errors import DeadlinePassed, FeeTooHigh, NoteInvalid, ProposalRefused
from psymm.custody.notes import SOLVER, TRADER, Custody, Note, field_element
from psymm.custody.planning import (
    DEADLINE_STEP_S,
    CtcPlan,
    Output,
    Signatures,
    check_consent,
    paired,
    shuffled,
)
from psymm.typed_message import TypedMessage

MAX_LIFE_S = 65 * 60
"""spec.md 21: shorter than any case, so at seizure a signed settlement is mined or dead."""


@dataclass(frozen=True, slots=True)
class Payee:
    """What a party gives to be paid (UPY).  inner: H2(own sole custody id, blinding)."""

    inner: bytes
    memo: bytes = field(repr=False)

    def __post_init__(self) -> None:
        field_element("inner hash", self.inner)
        if len(self.memo) != 256:
            raise NoteInvalid("memo", f"must be 256 bytes, not {len(self.memo)}")


def payee_message(
    payee: Payee,
    amount: int,
    lane: int,
    chain_id: int,
    contract: str,
    custody: bytes,
    *,
    covers: int | None,
) -> TypedMessage:
    """What a wallet signs to name its payee where it signs no frames. amount: token units that
    the memo names. covers: the last solver frame that the trader's wallet covers with it; None for
    the solver's wallet."""
    return TypedMessage(
        chain_id,
        contract,
        "Payee",
        (
            ("custody", "bytes32"),
            ("lane", "uint8"),
            ("inner", "bytes32"),
            ("memo", "bytes32"),
            ("amount", "uint256"),
            ("covers", "uint64"),
        ),
        {
            "custody": custody,
            "lane": lane,
            "inner": payee.inner,
            "memo": keccak256(payee.memo),
            "amount": amount,
            "covers": covers or 0,
        },
    )


@dataclass(frozen=True, slots=True)
class SettlementProposal:
    """The public values of a settlement, and the proposer's signature (UST).

    payouts: token units for trader and solver before the fee, which the proposer's bears.
    empty_blinding: of the empty second input, where there is only one note; else None.
    """

    nullifiers: tuple[bytes, bytes]
    commitments: tuple[bytes, bytes]
    payouts: tuple[int, int]
    relayer: str
    fee_token: str
    fee: int
    deadline: int
    empty_blinding: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PlannedSettlement:
    """A settlement with all that its two parties know of it.  proposer: its lane."""

    plan: CtcPlan
    payouts: tuple[int, int]
    proposer: int

    @property
    def call(self) -> CtcCall:
        """The call without root and proof; its digest is what both wallets sign."""
        return self.plan.call

    @property
    def custody(self) -> Custody:
        return self.plan.custody

    @property
    def proposal(self) -> SettlementProposal:
        call = self.call
        empty = self.plan.inputs[1].blinding if self.plan.empty1 else None
        return SettlementProposal(
            nullifiers=call.nullifiers,
            commitments=call.commitments,
            payouts=self.payouts,
            relayer=call.relayer,
            fee_token=call.fee_token,
            fee=call.fee,
            deadline=call.deadline,
            empty_blinding=empty,
        )

    def consent(self, chain_id: int, contract: str, *, trader: bytes, solver: bytes) -> Signatures:
        """Both signatures, checked.  Raises ConsentInvalid naming whose is not right."""
        signatures = Signatures(trader, solver)
        signatures.check(self.custody, self.call.digest(chain_id, contract))
        return signatures

    def check_signature(self, chain_id: int, contract: str, lane: int, signature: bytes) -> None:
        """Raises ConsentInvalid unless it is that lane's wallet's over this settlement."""
        key = self.custody.trader if lane == TRADER else self.custody.solver
        role = "trader" if lane == TRADER else "solver"
        check_consent(role, self.call.digest(chain_id, contract), signature, key)


def payout_after_fee(payout: int, fee: int, *, proposes: bool) -> int:
    """What arrives in a party's note.  Raises FeeTooHigh if the proposer's payout is too small."""
    if not proposes:
        return payout
    if fee > payout:
        raise FeeTooHigh(fee, payout)
    return payout - fee


def propose_settlement(
    notes: Sequence[Note],
    payees: tuple[Payee, Payee],
    payouts: tuple[int, int],
    *,
    proposer: int,
    relayer: str = ZERO_ADDRESS,
    fee: int = 0,
    deadline: int,
) -> PlannedSettlement:
    """A settlement of all the custody's notes (one or two), with orders drawn at random.

    payees, payouts: trader's and solver's; payouts in token units, together worth the notes.
    proposer: 0 or 1, who bears the fee.  Raises NoteInvalid, FeeTooHigh.
    """
    inputs, empty = paired(notes)
    outputs = _outputs(payees, payouts, proposer, fee)
    plan = CtcPlan(inputs, empty, shuffled(outputs), relayer, fee, deadline)
    return PlannedSettlement(plan, payouts, proposer)


def accept_settlement(
    proposal: SettlementProposal,
    notes: Sequence[Note],
    payees: tuple[Payee, Payee],
    payouts: tuple[int, int],
    *,
    proposer: int,
    max_fee: int,
    now_s: float,
    min_life_s: int = 60,
) -> PlannedSettlement:
    """The settlement that the other side proposes, if it is the one that we compute ourselves.

    notes, payees, payouts: our own knowledge, as for `propose_settlement`; of the proposal only
    the two orders, relayer, fee and deadline are taken, within bounds.
    Raises ProposalRefused naming the field, FeeTooHigh, DeadlinePassed, NoteInvalid.
    """
    if proposal.payouts != payouts:
        raise ProposalRefused("payouts", payouts, proposal.payouts)
    if proposal.fee > max_fee:
        raise FeeTooHigh(proposal.fee, max_fee)
    if proposal.deadline < now_s + min_life_s:
        raise DeadlinePassed(proposal.deadline, int(now_s))
    if proposal.deadline > now_s + MAX_LIFE_S or proposal.deadline % DEADLINE_STEP_S:
        raise ProposalRefused(
            "deadline",
            f"a multiple of {DEADLINE_STEP_S} s within {MAX_LIFE_S} s from now",
            proposal.deadline,
        )
    if (len(notes) == 1) != (proposal.empty_blinding is not None):
        raise ProposalRefused("empty input", len(notes) == 1, proposal.empty_blinding is not None)
    if proposal.empty_blinding is not None:
        inputs, empty = paired(notes, field_element("blinding", proposal.empty_blinding))
    else:
        inputs, empty = paired(notes)
        if proposal.nullifiers[0] != inputs[0].nullifier:
            inputs = (inputs[1], inputs[0])
    outputs = _outputs(payees, payouts, proposer, proposal.fee)
    token = notes[0].token
    if proposal.commitments[0] != outputs[0].commitment(token):
        outputs = (outputs[1], outputs[0])
    plan = CtcPlan(inputs, empty, outputs, proposal.relayer, proposal.fee, proposal.deadline)
    settlement = PlannedSettlement(plan, payouts, proposer)
    ours = settlement.proposal
    for name in ("nullifiers", "commitments", "relayer", "fee_token", "fee", "deadline"):
        expected, found = getattr(ours, name), getattr(proposal, name)
        if expected != found:
            raise ProposalRefused(name, _shown(expected), _shown(found))
    return settlement


def _outputs(
    payees: tuple[Payee, Payee], payouts: tuple[int, int], proposer: int, fee: int
) -> tuple[Output, Output]:
    if proposer not in (TRADER, SOLVER):
        raise NoteInvalid("proposer", "is lane 0 or 1")
    trader, solver = (
        Output(
            payee.inner,
            payout_after_fee(payout, fee, proposes=lane == proposer),
            payee.memo,
        )
        for lane, (payee, payout) in enumerate(zip(payees, payouts, strict=True))
    )
    return trader, solver


def _shown(value: object) -> object:
    if isinstance(value, tuple):
        return " ".join("0x" + one.hex() for one in value)
    return value
