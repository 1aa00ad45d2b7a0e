"""A settlement as messages, and as the document that the journal keeps.

The journal keeps, encrypted, what proving needs, before a signature leaves us. So either side can
continue after a crash.
"""

from __future__ import annotations

import json

from psymm._core import keccak256
from psymm.chain.addresses import ZERO_ADDRESS, checksummed
from psymm.custody.notes import Note
from psymm.custody.planning import CtcPlan, Output
from psymm.custody.settlement import Payee, PlannedSettlement, SettlementProposal
from psymm.errors import SettlementRefused
from psymm.messages import Settlement as ProposalMessage
from psymm.messages import SettlementKind
from psymm.rulebook.account import NamedPayee
from psymm.session.runtime.runner import SessionRunner
from psymm.transcript.agreement import TRADER
from psymm.transcript.record import RecordedFrame


def in_order(lane: int, ours: NamedPayee, theirs: NamedPayee) -> tuple[Payee, Payee]:
    """The trader's payee and the solver's, in this order. lane: ours."""
    own, other = Payee(ours.inner, ours.memo), Payee(theirs.inner, theirs.memo)
    return (own, other) if lane == TRADER else (other, own)


def message_of(settlement: PlannedSettlement, signature: bytes) -> ProposalMessage:
    """The UST of a settlement, with its proposer's signature."""
    call = settlement.call
    return ProposalMessage(
        ust_kind=SettlementKind.SETTLE,
        nullifier0=call.nullifiers[0],
        nullifier1=call.nullifiers[1],
        commitment0=call.commitments[0],
        commitment1=call.commitments[1],
        memos=keccak256(call.memos[0] + call.memos[1]),
        relayer=bytes.fromhex(call.relayer[2:]),
        fee_token=bytes.fromhex(call.fee_token[2:]),
        fee=call.fee,
        deadline=call.deadline,
        signature=signature,
        trader_payout=settlement.payouts[0],
        solver_payout=settlement.payouts[1],
    )


def is_proposal(
    settlement: PlannedSettlement, alive: tuple[int, RecordedFrame, ProposalMessage] | None
) -> bool:
    """Whether a settlement is the live proposal. Compares all of it: two proposals that cross may
    create the same notes."""
    return (
        alive is not None
        and settlement.proposer == alive[0]
        and message_of(settlement, alive[2].signature) == alive[2]
    )


def proposal_of(said: ProposalMessage) -> SettlementProposal:
    """What a UST proposes. Raises SettlementRefused if it states no payouts."""
    if said.trader_payout is None or said.solver_payout is None:
        raise SettlementRefused("the proposal states no payouts")
    return SettlementProposal(
        nullifiers=(said.nullifier0, said.nullifier1),
        commitments=(said.commitment0, said.commitment1),
        payouts=(said.trader_payout, said.solver_payout),
        relayer=checksummed("relayer", "0x" + said.relayer.hex()),
        fee_token=checksummed("fee token", "0x" + said.fee_token.hex()),
        fee=said.fee,
        deadline=said.deadline,
    )


def document_of(settlement: PlannedSettlement, signatures: dict[int, bytes]) -> bytes:
    """A settlement as the journal keeps it. signatures: Those that we have, by lane."""
    plan = settlement.plan
    return json.dumps(
        {
            "inputs": [note.commitment.hex() for note in plan.inputs],
            "empty": plan.inputs[1].blinding.hex() if plan.empty1 else None,
            "outputs": [[one.inner.hex(), str(one.amount), one.memo.hex()] for one in plan.outputs],
            "relayer": plan.relayer,
            "fee": str(plan.fee),
            "deadline": plan.deadline,
            "payouts": [str(one) for one in settlement.payouts],
            "proposer": settlement.proposer,
            "signatures": {str(lane): one.hex() for lane, one in signatures.items()},
        }
    ).encode()


def settlement_from(document: bytes, notes: dict[bytes, Note]) -> PlannedSettlement | None:
    """The settlement from its document; None if its notes are not known."""
    raw = json.loads(document)
    inputs = [notes.get(bytes.fromhex(one)) for one in raw["inputs"]]
    # A session's settlement spends two notes, one of each side, so it never has an empty input. A
    # note is unknown only if its opening was lost.
    if raw["empty"] is not None or inputs[0] is None or inputs[1] is None:
        return None
    first, second = (
        Output(bytes.fromhex(inner), int(amount), bytes.fromhex(memo))
        for inner, amount, memo in raw["outputs"]
    )
    plan = CtcPlan(
        (inputs[0], inputs[1]),
        False,
        (first, second),
        raw["relayer"] or ZERO_ADDRESS,
        int(raw["fee"]),
        raw["deadline"],
    )
    trader, solver = (int(one) for one in raw["payouts"])
    return PlannedSettlement(plan, (trader, solver), raw["proposer"])


class SettlementStore:
    """What the journal of `runner` keeps of its settlements: all that our wallet signs."""

    def __init__(self, runner: SessionRunner) -> None:
        self._runner = runner

    async def keep(
        self, settlement: PlannedSettlement, state: str, signatures: dict[int, bytes]
    ) -> None:
        """Write a settlement to the journal; returns when it is durable.

        Args:
            state: How far it is: `planned`, `proposed`, `signed` or `mined`.
            signatures: Those that we have, by lane.
        """
        agreement = self._runner.agreement
        await self._runner.journal.keep_settlement(
            agreement.custody,
            settlement.call.digest(agreement.chain_id, agreement.contract),
            state,
            document_of(settlement, signatures),
        )

    async def kept(self) -> list[PlannedSettlement]:
        """All settlements in the journal."""
        return [settlement for settlement, _ in await self.kept_signed()]

    async def kept_signed(self) -> list[tuple[PlannedSettlement, dict[str, str]]]:
        """The same, with the signatures kept for each: in hex, by lane."""
        found = [
            (settlement_from(document, self.notes()), json.loads(document)["signatures"])
            for _digest, _state, document in await self._runner.journal.settlements(
                self._runner.agreement.custody
            )
        ]
        return [(settlement, signed) for settlement, signed in found if settlement is not None]

    def notes(self) -> dict[bytes, Note]:
        protocol = self._runner.protocol
        return {**protocol.notes, **protocol.peer_notes}
