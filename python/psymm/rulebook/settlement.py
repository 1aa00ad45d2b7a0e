"""Settlement: name payees, propose on a flat account, accept, cite the chain.

The steps:

    UPY     each side names its payee (``name_payee``)
    UST     a side proposes; its wallet has signed (``propose``). The account is frozen
    USA     the other side accepts; both wallets have signed (``accept``)
    UCF     a frame cites the mined settlement (``cite``). The custody has ended

A signed settlement is an option on the account as it is. So at most one is alive, and nothing may
change the account meanwhile. It dies when its deadline and the skew have passed
(``release_freeze``), or when a cited fact shows that it can no longer be mined. The relayer's fee
comes out of the proposer's payout; the stated payouts are before that fee.

A proposal comes alive only if it can be mined for this account. Both payees must be on the record,
and commitments, memos and the proposer's signature are computed again from them. If anything
differs, the proposal is a violation and freezes nothing (``spec.md`` 64). The record holds each
whole memo, because the wallets sign the hash of both memos together, and two separate hashes would
not give that.

Only the chain knows whether the tree already has an output, and that may change at any time. It
counts once a frame cites it (UCF, ``inserted``): then a payee of that output leaves the record, and
a proposal with it is dead. So session and judge rule on the same input.

Payees belong to the flat account as it is. A new order removes them, and so does the end of the
proposal that they were for.
"""

from __future__ import annotations

from collections.abc import Sequence

from psymm._core import FIELD_MODULUS, domain_separator, keccak256, poseidon2_hash, recover
from psymm.errors import format_amount
from psymm.messages import (
    ChainFact,
    FactKind,
    Settlement,
    SettlementAcceptance,
    SettlementKind,
    SettlementOutput,
)
from psymm.rulebook.account import Lane, LiveProposal, NamedPayee
from psymm.rulebook.books import Books
from psymm.rulebook.inputs import ChainFacts, ChainPlace, ReplayInputs, RuledFrame
from psymm.rulebook.live_account import LiveAccount
from psymm.rulebook.totals import put_note
from psymm.rulebook.value import replace
from psymm.rulebook.violation import FactsBehind, refuse
from psymm.terms import NANOSECONDS, Terms

MOST_PROPOSALS = 4
"""How many proposals are kept, alive or dead (``spec.md`` 11)."""
DEADLINE_STEP_S = 300
"""Deadlines are multiples of this, in seconds, so that they cannot tell sessions apart."""


def name_payee(
    account: LiveAccount, entry: RuledFrame, said: SettlementOutput, inputs: ReplayInputs
) -> None:
    """UPY: set the sender's payee.

    With a wallet's signature it is the other lane's payee: a party whose journal was restored signs
    no frames. The trader's wallet then also covers (``sequence``), because nobody can settle an
    account whose fills may still become void.
    """
    lane = entry.lane
    _check_covers(entry, said)
    if said.signature is not None:
        lane = lane.other
        digest = payee_digest(account.terms, account.custody, lane, said)
        _check_signed(digest, said.signature, inputs.wallets[lane])
    # Open positions would change the payouts that the payee's amount is made for.
    if not account.flat:
        refuse("not-flat", positions=len(account.positions), orders=len(account.orders))
    if not 0 < int.from_bytes(said.inner, "big") < FIELD_MODULUS:
        refuse("bad-inner", inner=said.inner)
    other = account.payee(lane.other)
    # Equal inner hashes and amounts would give one commitment, which the tree takes only once.
    if other is not None and other.inner == said.inner:
        refuse("same-payee", inner=said.inner)
    # Its amount is the payout less a relayer's fee that nobody knows yet.
    most = account.payouts[lane]
    if not most - account.terms.tariff.relayer_cap <= said.amount <= most:
        refuse("wrong-payee", amount=_tokens(account, said.amount), payout=_tokens(account, most))
    _set_payee(account, lane, NamedPayee(inner=said.inner, memo=said.memo, amount=said.amount))


def _check_covers(entry: RuledFrame, said: SettlementOutput) -> None:
    covers = said.ref_seq_num
    if said.signature is None or entry.lane is Lane.TRADER:
        if covers is not None:
            refuse("field-not-allowed", field="RefSeqNum")
    elif covers is None:
        refuse("missing-field", field="RefSeqNum")
    elif not covers < entry.seq:
        refuse("unknown-frame", ref_seq_num=covers)


def forget_payees(account: LiveAccount) -> None:
    """Remove both payees: the account that they were named for has changed."""
    account.trader_payee = account.solver_payee = None


def _set_payee(account: LiveAccount, lane: Lane, payee: NamedPayee | None) -> None:
    if lane is Lane.TRADER:
        account.trader_payee = payee
    else:
        account.solver_payee = payee


def payee_digest(terms: Terms, custody: bytes, lane: Lane, said: SettlementOutput) -> bytes:
    """The EIP-712 digest that a wallet signs to name its payee without a frame."""
    return _typed(
        terms,
        b"Payee(bytes32 custody,uint8 lane,bytes32 inner,bytes32 memo,uint256 amount,"
        b"uint64 covers)",
        custody,
        _word(lane),
        said.inner,
        keccak256(said.memo),
        _word(said.amount),
        _word(said.ref_seq_num or 0),
    )


def settlement_digest(terms: Terms, said: Settlement) -> bytes:
    """The EIP-712 digest that both wallets sign: the contract's CustodyToCustody."""
    return _typed(
        terms,
        b"CustodyToCustody(bytes32 nullifier0,bytes32 nullifier1,bytes32 commitment0,"
        b"bytes32 commitment1,address relayer,address feeToken,uint256 fee,bytes32 memos,"
        b"uint256 deadline)",
        said.nullifier0,
        said.nullifier1,
        said.commitment0,
        said.commitment1,
        bytes(12) + said.relayer,
        bytes(12) + said.fee_token,
        _word(said.fee),
        said.memos,
        _word(said.deadline),
    )


def _typed(terms: Terms, kind: bytes, *words: bytes) -> bytes:
    domain = domain_separator(terms.chain.id, bytes.fromhex(terms.chain.psymm[2:]))
    return keccak256(b"\x19\x01" + domain + keccak256(b"".join((keccak256(kind), *words))))


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _check_signed(digest: bytes, signature: bytes, wallet: bytes) -> None:
    try:
        signer = recover(digest, signature)
    except ValueError:
        signer = b""
    if signer != wallet:
        refuse("wrong-signature", signer=signer, wallet=wallet)


def propose(
    account: LiveAccount, entry: RuledFrame, said: Settlement, inputs: ReplayInputs
) -> None:
    """UST: a settlement comes alive, if it is exactly what account and payees give.

    Its proposer's wallet has signed it. Releases and merges are not in force yet.
    """
    if said.ust_kind is not SettlementKind.SETTLE:
        refuse("not-yet-in-force", ust_kind=said.ust_kind)
    if not account.flat:
        refuse("not-flat", positions=len(account.positions), orders=len(account.orders))
    for name, value in (("TraderPayout", said.trader_payout), ("SolverPayout", said.solver_payout)):
        if value is None:
            refuse("missing-field", field=name)
    if said.amount is not None:
        refuse("field-not-allowed", field="Amount")
    # Both sides compute the payouts; a proposal only repeats them.
    payouts = account.payouts
    if (said.trader_payout, said.solver_payout) != payouts:
        refuse(
            "wrong-payout", trader=_tokens(account, payouts[0]), solver=_tokens(account, payouts[1])
        )
    _check_inputs(account, said)
    _check_fee(account, said, payouts[entry.lane])
    _check_deadline(account, said.deadline)
    _check_outputs(account, entry.lane, said)
    # The signature last: it costs more than all checks above.
    _check_signed(
        settlement_digest(account.terms, said), said.signature, inputs.wallets[entry.lane]
    )
    proposal = LiveProposal(
        lane=entry.lane,
        seq=entry.seq,
        nullifiers=(said.nullifier0, said.nullifier1),
        commitments=(said.commitment0, said.commitment1),
        payouts=payouts,
        fee=said.fee,
        deadline_s=said.deadline,
    )
    # Kept by commitment even after it dies: the chain may still have mined it. The oldest one died
    # long before a fifth can be signed; if it was mined, its notes are cited as spent (``cite``).
    if len(account.proposals) >= MOST_PROPOSALS:
        oldest = min(account.proposals.values(), key=lambda each: (each.deadline_s, each.seq))
        account.drop(account.proposals, oldest.commitments[0])
    account.put(account.proposals, said.commitment0, proposal)
    account.alive = said.commitment0


def _check_inputs(account: Books, said: Settlement) -> None:
    """Check that both inputs differ and that every accepted note is one of them.

    With a single note left, the other input is the circuit's empty note. Only the two parties can
    know its nullifier, so it cannot be checked here.
    """
    # Every accepted note must go in: one left behind could not be settled later.
    inputs = {said.nullifier0, said.nullifier1}
    notes = {n.nullifier for n in account.notes.values() if n.accepted and not n.spent}
    if len(inputs) != 2 or not notes or not notes <= inputs:
        refuse("wrong-inputs", notes=len(notes))
    if said.commitment0 == said.commitment1:
        refuse("wrong-inputs", commitment0=said.commitment0)


def _check_outputs(account: Books, proposer: Lane, said: Settlement) -> None:
    """Check that commitments and memos are those of both payees, in either order.

    Which output belongs to whom stays between the two sides.
    """
    outputs: list[tuple[bytes, bytes]] = []
    for lane in Lane:
        payee = account.payee(lane)
        if payee is None:
            refuse("payee-missing", lane=lane.name.lower())
        paid = account.payouts[lane] - (said.fee if lane is proposer else 0)
        if payee.amount != paid:
            refuse(
                "wrong-payee",
                lane=lane.name.lower(),
                amount=_tokens(account, payee.amount),
                payout=_tokens(account, paid),
            )
        outputs.append((_output(account, payee), payee.memo))
    stated = (said.commitment0, said.commitment1, said.memos)
    # Both orders are valid, so that the chain does not see which output is whose.
    for first, second in (outputs, outputs[::-1]):
        if stated == (first[0], second[0], keccak256(first[1] + second[1])):
            return
    refuse("wrong-output", trader=outputs[0][0], solver=outputs[1][0])


def _tokens(account: Books, units: int) -> str:
    """Token units as whole tokens, for people."""
    return format_amount(units, account.terms.collateral.decimals)


def _output(account: Books, payee: NamedPayee) -> bytes:
    """The commitment of the note that pays a payee: H3(inner, token, amount)."""
    token = bytes(12) + bytes.fromhex(account.terms.collateral.token[2:])
    return poseidon2_hash([payee.inner, token, _word(payee.amount)])


def _check_fee(account: Books, said: Settlement, payout: int) -> None:
    nothing = bytes(20)
    token = bytes.fromhex(account.terms.collateral.token[2:])
    # The contract wants zero addresses without a fee, and the token of the fee with one.
    if said.fee:
        stated = said.relayer != nothing and said.fee_token == token
    else:
        stated = said.relayer == nothing and said.fee_token == nothing
    # The proposer pays the fee, so it cannot be more than the proposer gets.
    cap = min(account.terms.tariff.relayer_cap, payout)
    if not stated or said.fee > cap:
        refuse("wrong-fee", fee=_tokens(account, said.fee), cap=_tokens(account, cap))


def _check_deadline(account: Books, deadline_s: int) -> None:
    # A signed settlement must be dead or mined before a seizure can happen (``spec.md`` 21).
    latest = account.clock + account.terms.timeouts.settlement + DEADLINE_STEP_S * NANOSECONDS
    at = deadline_s * NANOSECONDS
    if deadline_s % DEADLINE_STEP_S or not account.clock < at <= latest:
        refuse("wrong-deadline", deadline=deadline_s, clock=account.clock)


def accept(account: LiveAccount, entry: RuledFrame, said: SettlementAcceptance) -> None:
    """USA: the other side accepts the live proposal; both wallets have now signed."""
    alive = account.settlement
    if (
        account.alive is None
        or alive is None
        or alive.lane is entry.lane
        or alive.seq != said.ref_seq_num
        or alive.accepted
    ):
        refuse("no-proposal", ref_seq_num=said.ref_seq_num)
    # The account stays frozen: the settlement may be mined at any time now.
    account.put(account.proposals, account.alive, replace(alive, accepted=True))


def release_freeze(account: LiveAccount) -> None:
    """End a proposal once its deadline and the skew have passed on the rulebook's clock.

    The chain's clock may run behind by as much as the skew.
    """
    alive = account.settlement
    if alive is None:
        return
    end = alive.deadline_s * NANOSECONDS + account.terms.timeouts.skew
    if account.clock > end:
        _end_proposal(account)


def _end_proposal(account: LiveAccount) -> None:
    """End the live proposal, which can no longer be mined."""
    account.alive = None
    forget_payees(account)


def cite(account: LiveAccount, entry: RuledFrame, said: ChainFact, facts: ChainFacts) -> None:
    """UCF: a frame cites a fact of the chain, and the account follows.

    The transaction counts, not the block: a reorganisation may move it (``spec.md`` 16). A
    settlement counts as mined if the cited transaction spent its input and inserted its output,
    even if its deadline has passed here. Raises FactsBehind if the facts do not reach the cited
    block (``spec.md`` 65).
    """
    spends = said.fact_kind is FactKind.SPENT
    what = said.nullifier if spends else said.commitment
    if what is None:
        refuse("missing-field", field="Nullifier" if spends else "Commitment")
    if (said.commitment if spends else said.nullifier) is not None:
        refuse("field-not-allowed", field="Commitment" if spends else "Nullifier")
    place = (facts.spent if spends else facts.inserted).get(what)
    denied = (int(entry.lane), entry.seq) in facts.denied
    # Unknown is not false: wait until the facts reach the block. A denial is final.
    if place is None and not denied and said.block_number > facts.block:
        raise FactsBehind(cited=said.block_number, known=facts.block)
    if place is None or denied or place.transaction != said.transaction_hash:
        refuse("false-citation", cited=what, block=said.block_number)
    if not spends:
        _occupied(account, what, place, facts)
        return
    # Dead proposals count, too: the chain's clock decides what was mined.
    for proposal in account.proposals.values():
        output = facts.inserted.get(proposal.commitments[0])
        if what in proposal.nullifiers and output == place:
            _spend(account, proposal.nullifiers)
            _end_proposal(account)
            account.ended = True
            return
    if not any(note.nullifier == what for note in account.notes.values()):
        refuse("unknown-note", nullifier=what)
    # Spent by something that no valid frame names: a seizure, or a settlement that both wallets
    # signed although the rules had refused it. The custody ends when no accepted note is unspent
    # (``spec.md`` 63).
    _spend(account, (what,))
    if all(note.spent for note in account.notes.values() if note.accepted):
        _end_proposal(account)
        account.ended = True


def _occupied(
    account: LiveAccount, commitment: bytes, place: ChainPlace, facts: ChainFacts
) -> None:
    """The tree has this commitment and takes it only once.

    So a payee or proposal with this output can no longer be paid, except by the settlement that
    inserted it.
    """
    alive = account.settlement
    if alive is not None:
        # If the same transaction spent its input, the settlement itself created the output.
        mined = facts.spent.get(alive.nullifiers[0]) == place
        if commitment in alive.commitments and not mined:
            _end_proposal(account)
        return
    for lane in Lane:
        payee = account.payee(lane)
        if payee is not None and _output(account, payee) == commitment:
            _set_payee(account, lane, None)


def _spend(account: LiveAccount, nullifiers: Sequence[bytes]) -> None:
    for note in list(account.notes.values()):
        if note.nullifier in nullifiers:
            put_note(account, replace(note, spent=True))
