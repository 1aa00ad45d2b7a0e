"""Settling a custody: one CTC that pays both parties, or neither.

Both parties know the full openings of the custody's notes.  Each gives the other the inner hash and
the sealed memo of the sole note into which it wants to be paid, and nothing more.  The proposer
draws the order of inputs and outputs, signs, and shows the public values.  The other party computes
the settlement again from its own knowledge and signs only if nothing differs.
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
"""Shorter than any court case (`spec.md` 21): when a custody is seized, a signed settlement is
either mined or expired."""


@dataclass(frozen=True, slots=True)
class Payee:
    """What a party gives to be paid (UPY).

    Attributes:
        inner: H2(its sole custody's id, blinding).
        memo: 256 bytes.
    """

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
    """What a wallet signs to name its payee if it cannot sign frames.

    Args:
        amount: token units that the memo names.
        covers: the last solver frame that the trader's wallet covers by this; None for the solver.
    """
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
    """The public values of a settlement (UST).

    Attributes:
        payouts: token units for trader and solver, before the fee.
        fee: token units, taken from the proposer's payout.
        deadline: seconds since the epoch.
        empty_blinding: of the empty second input if there is only one note; else None.
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
    """A settlement with everything that its two parties know about it.  proposer: a lane."""

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
        """Both signatures, checked.  Raises ConsentInvalid naming the party whose one is wrong."""
        signatures = Signatures(trader, solver)
        signatures.check(self.custody, self.call.digest(chain_id, contract))
        return signatures

    def check_signature(self, chain_id: int, contract: str, lane: int, signature: bytes) -> None:
        """Raises ConsentInvalid unless that lane's wallet signed this settlement so."""
        key = self.custody.trader if lane == TRADER else self.custody.solver
        role = "trader" if lane == TRADER else "solver"
        check_consent(role, self.call.digest(chain_id, contract), signature, key)


def payout_after_fee(payout: int, fee: int, *, proposes: bool) -> int:
    """The amount of a party's new note.  Raises FeeTooHigh if it cannot bear the fee."""
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
    """A settlement of all the custody's notes, in random order.

    Args:
        notes: one or two.
        payees: the trader's and the solver's.
        payouts: token units for trader and solver; together they equal the notes.
        proposer: the lane that bears the fee, 0 or 1.

    Raises NoteInvalid, FeeTooHigh.
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
    """The other party's proposed settlement, if it equals the one that we compute.

    notes, payees, payouts: our own knowledge, as for `propose_settlement`.  Only the two orders,
    relayer, fee and deadline come from the proposal, within bounds.
    Raises ProposalRefused naming the field, FeeTooHigh, DeadlinePassed, NoteInvalid.
    """
    if proposal.payouts != payouts:
        raise ProposalRefused("payouts", payouts, proposal.payouts)
    if proposal.fee > max_fee:
        raise FeeTooHigh(proposal.fee, max_fee)
    if proposal.deadline < now_s + min_life_s:
        raise DeadlinePassed(proposal.deadline, int(now_s))
    # On the grid of all deadlines: an odd one would mark this move on chain as a settlement.
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
    # If neither order gives the proposal, the comparison below names the field that differs.
    if proposal.commitments[0] != outputs[0].commitment(token):
        outputs = (outputs[1], outputs[0])
    # We sign this plan, made of our own values. The proposal is only compared with it.
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
