"""Settlement: proposed on a flat account, accepted, and ended by a fact of the chain.

A signed settlement is an option, so at most one is alive, and while it is nothing may change the
account. The fee of the relayer comes out of the proposer's payout; the payouts stated are before
that fee.
"""

from __future__ import annotations

from collections.abc import Sequence

from psymm.messages import (
    ChainFact,
    FactKind,
    Settlement,
    SettlementAcceptance,
    SettlementKind,
)
from psymm.rulebook.account import Account, Proposal
from psymm.rulebook.inputs import ChainFacts, Entry
from psymm.rulebook.value import replace
from psymm.rulebook.violation import FactsBehind, refuse
from psymm.terms import NANOSECONDS

DEADLINE_STEP_S = 300
"""Deadlines are rounded up to this many seconds, so that they do not tell sessions apart."""


def propose(account: Account, entry: Entry, said: Settlement) -> Account:
    """UST: a settlement comes alive. Release and merge have their own issue."""
    if said.ust_kind is not SettlementKind.SETTLE:
        refuse("not-yet-in-force", ust_kind=said.ust_kind)
    if not account.flat:
        refuse("not-flat", positions=len(account.positions), orders=len(account.orders))
    for name, value in (("TraderPayout", said.trader_payout), ("SolverPayout", said.solver_payout)):
        if value is None:
            refuse("missing-field", field=name)
    if said.amount is not None:
        refuse("field-not-allowed", field="Amount")
    payouts = account.payouts
    if (said.trader_payout, said.solver_payout) != payouts:
        refuse("wrong-payout", trader=payouts[0], solver=payouts[1])
    _check_inputs(account, said)
    _check_fee(account, said, payouts[entry.lane])
    _check_deadline(account, said.deadline)
    proposal = Proposal(
        lane=entry.lane,
        seq=entry.seq,
        nullifiers=(said.nullifier0, said.nullifier1),
        commitments=(said.commitment0, said.commitment1),
        payouts=payouts,
        fee=said.fee,
        deadline_s=said.deadline,
    )
    return replace(
        account,
        proposals=account.proposals.put(said.commitment0, proposal),
        alive=said.commitment0,
    )


def _check_inputs(account: Account, said: Settlement) -> None:
    """Both inputs differ, and every accepted note is one of them. With a single note left, the
    other input is the circuit's empty one, whose nullifier only its makers can know."""
    inputs = {said.nullifier0, said.nullifier1}
    notes = {n.nullifier for n in account.notes.values() if n.accepted and not n.spent}
    if len(inputs) != 2 or not notes or not notes <= inputs:
        refuse("wrong-inputs", notes=len(notes))
    if len({said.commitment0, said.commitment1}) != 2 or said.commitment0 in account.proposals:
        refuse("wrong-inputs", commitment0=said.commitment0)


def _check_fee(account: Account, said: Settlement, payout: int) -> None:
    nothing = bytes(20)
    token = bytes.fromhex(account.terms.collateral.token[2:])
    if said.fee:
        stated = said.relayer != nothing and said.fee_token == token
    else:
        stated = said.relayer == nothing and said.fee_token == nothing
    cap = min(account.terms.tariff.relayer_cap, payout)
    if not stated or said.fee > cap:
        refuse("wrong-fee", fee=said.fee, cap=cap)


def _check_deadline(account: Account, deadline_s: int) -> None:
    latest = account.clock + account.terms.timeouts.settlement + DEADLINE_STEP_S * NANOSECONDS
    at = deadline_s * NANOSECONDS
    if deadline_s % DEADLINE_STEP_S or not account.clock < at <= latest:
        refuse("wrong-deadline", deadline=deadline_s, clock=account.clock)


def accept(account: Account, entry: Entry, said: SettlementAcceptance) -> Account:
    """USA: both wallets have signed."""
    alive = account.settlement
    if (
        account.alive is None
        or alive is None
        or alive.lane is entry.lane
        or alive.seq != said.ref_seq_num
        or alive.accepted
    ):
        refuse("no-proposal", ref_seq_num=said.ref_seq_num)
    accepted = replace(alive, accepted=True)
    return replace(account, proposals=account.proposals.put(account.alive, accepted))


def thaw(account: Account) -> Account:
    """A proposal is alive until its deadline and the skew have passed on the rulebook's clock:
    the chain's clock may run behind by that much."""
    alive = account.settlement
    if alive is None:
        return account
    end = alive.deadline_s * NANOSECONDS + account.terms.timeouts.skew
    return replace(account, alive=None) if account.clock > end else account


def cite(account: Account, entry: Entry, said: ChainFact, facts: ChainFacts) -> Account:
    """UCF: the chain says what the frame cites, and the account follows.

    What counts is the transaction: after a reorganisation it may stand in another block
    (``spec.md`` 16). A settlement counts as mined if its input's nullifier was spent and its output
    inserted in the transaction cited, whether or not its deadline has passed here. Raises
    FactsBehind if the facts do not reach the block cited.
    """
    spends = said.fact_kind is FactKind.SPENT
    what = said.nullifier if spends else said.commitment
    if what is None:
        refuse("missing-field", field="Nullifier" if spends else "Commitment")
    if (said.commitment if spends else said.nullifier) is not None:
        refuse("field-not-allowed", field="Commitment" if spends else "Nullifier")
    place = (facts.spent if spends else facts.inserted).get(what)
    denied = (int(entry.lane), entry.seq) in facts.denied
    if place is None and not denied and said.block_number > facts.block:
        raise FactsBehind(cited=said.block_number, known=facts.block)
    if place is None or denied or place.transaction != said.transaction_hash:
        refuse("false-citation", cited=what, block=said.block_number)
    if not spends:
        return account
    for proposal in account.proposals.values():
        output = facts.inserted.get(proposal.commitments[0])
        if what in proposal.nullifiers and output == place:
            return replace(_spent(account, proposal.nullifiers), alive=None, ended=True)
    if not any(note.nullifier == what for note in account.notes.values()):
        refuse("unknown-note", nullifier=what)
    # Spent by a move that stands in no frame in force: a seizure, or one that both wallets signed
    # although the rules had refused its proposal. Without notes there is nothing to trade against.
    account = _spent(account, (what,))
    gone = all(note.spent for note in account.notes.values() if note.accepted)
    return replace(account, alive=None, ended=True) if gone else account


def _spent(account: Account, nullifiers: Sequence[bytes]) -> Account:
    notes = account.notes
    for commitment, note in account.notes.items():
        if note.nullifier in nullifiers:
            notes = notes.put(commitment, replace(note, spent=True))
    return replace(account, notes=notes)
