"""Settlement: payees named, proposed on a flat account, accepted, and ended by a fact of the chain.

A signed settlement is an option, so at most one is alive, and while it is nothing may change the
account. The fee of the relayer comes out of the proposer's payout; the payouts stated are before
that fee.

A proposal is alive only if it can be mined as the account has it: both payees stand on the record
(UPY), and commitments, memos and the proposer's signature are computed again from them. What
differs is a violation and freezes nothing (``spec.md`` 64). So the whole memo stands on the record,
not its hash: what is signed is the hash of both memos together, which two hashes do not give.

Whether the tree has an output already is known to the chain alone, and may change after any frame.
It counts once a frame cites it (UCF, ``inserted``): a payee of that output is off the record, and a
proposal with it is dead. So session and judge rule one input.

Payees are of the flat account as it is: an order takes them off the record, and so does the end of
the proposal that they were for.
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
from psymm.rulebook.account import Account, Lane, LiveProposal, NamedPayee
from psymm.rulebook.inputs import ChainFacts, ChainPlace, ReplayInputs, RuledFrame
from psymm.rulebook.value import replace
from psymm.rulebook.violation import FactsBehind, refuse
from psymm.terms import NANOSECONDS, Terms

DEADLINE_STEP_S = 300
"""Deadlines are rounded up to this many seconds, so that they do not tell sessions apart."""


def name_payee(
    account: Account, entry: RuledFrame, said: SettlementOutput, inputs: ReplayInputs
) -> Account:
    """UPY: the sender's payee, in place of the one before. With a signature it is the other lane's,
    whose wallet signed it: a party whose journal was restored signs no frames. The trader's wallet
    then covers for it (``sequence``): an account whose fills may still be void is nothing to settle
    on."""
    lane = entry.lane
    _check_covers(entry, said)
    if said.signature is not None:
        lane = lane.other
        digest = payee_digest(account.terms, account.custody, lane, said)
        _check_signed(digest, said.signature, inputs.wallets[lane])
    if not account.flat:
        refuse("not-flat", positions=len(account.positions), orders=len(account.orders))
    if not 0 < int.from_bytes(said.inner, "big") < FIELD_MODULUS:
        refuse("bad-inner", inner=said.inner)
    other = account.payee(lane.other)
    if other is not None and other.inner == said.inner:
        refuse("same-payee", inner=said.inner)
    most = account.payouts[lane]
    if not most - account.terms.tariff.relayer_cap <= said.amount <= most:
        refuse("wrong-payee", amount=_tokens(account, said.amount), payout=_tokens(account, most))
    return _with_payee(
        account, lane, NamedPayee(inner=said.inner, memo=said.memo, amount=said.amount)
    )


def _check_covers(entry: RuledFrame, said: SettlementOutput) -> None:
    covers = said.ref_seq_num
    if said.signature is None or entry.lane is Lane.TRADER:
        if covers is not None:
            refuse("field-not-allowed", field="RefSeqNum")
    elif covers is None:
        refuse("missing-field", field="RefSeqNum")
    elif not covers < entry.seq:
        refuse("unknown-frame", ref_seq_num=covers)


def forget_payees(account: Account) -> Account:
    """The account is another: what was named for it is off the record."""
    if account.trader_payee is None and account.solver_payee is None:
        return account
    return _with_payee(_with_payee(account, Lane.TRADER, None), Lane.SOLVER, None)


def _with_payee(account: Account, lane: Lane, payee: NamedPayee | None) -> Account:
    if account.payee(lane) == payee:
        return account
    if lane is Lane.TRADER:
        return replace(account, trader_payee=payee)
    return replace(account, solver_payee=payee)


def payee_digest(terms: Terms, custody: bytes, lane: Lane, said: SettlementOutput) -> bytes:
    """What a wallet signs to name its payee where it signs no frame (EIP-712)."""
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
    """What both wallets sign for a settlement: the contract's CustodyToCustody (EIP-712)."""
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


def propose(account: Account, entry: RuledFrame, said: Settlement, inputs: ReplayInputs) -> Account:
    """UST: a settlement comes alive: the one that account and payees give, signed by its
    proposer's wallet. Release and merge have their own issue."""
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
        refuse(
            "wrong-payout", trader=_tokens(account, payouts[0]), solver=_tokens(account, payouts[1])
        )
    _check_inputs(account, said)
    _check_fee(account, said, payouts[entry.lane])
    _check_deadline(account, said.deadline)
    _check_outputs(account, entry.lane, said)
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
    return replace(
        account,
        proposals=account.proposals.put(said.commitment0, proposal),
        alive=said.commitment0,
    )


def _check_inputs(account: Account, said: Settlement) -> None:
    """Both inputs differ, and every accepted note is one of them. With a single note left, the
    other input is the circuit's empty one, whose nullifier only its makers can know."""
    # All that was accepted must go in: what stayed behind could not be settled later.
    inputs = {said.nullifier0, said.nullifier1}
    notes = {n.nullifier for n in account.notes.values() if n.accepted and not n.spent}
    if len(inputs) != 2 or not notes or not notes <= inputs:
        refuse("wrong-inputs", notes=len(notes))
    if said.commitment0 == said.commitment1:
        refuse("wrong-inputs", commitment0=said.commitment0)


def _check_outputs(account: Account, proposer: Lane, said: Settlement) -> None:
    """Commitments and memos are those of both payees, in either order: which output is whose
    stays between the two."""
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
    # The order of outputs tells nothing, so both orders are right.
    for first, second in (outputs, outputs[::-1]):
        if stated == (first[0], second[0], keccak256(first[1] + second[1])):
            return
    refuse("wrong-output", trader=outputs[0][0], solver=outputs[1][0])


def _tokens(account: Account, units: int) -> str:
    """Token units as whole tokens, for people."""
    return format_amount(units, account.terms.collateral.decimals)


def _output(account: Account, payee: NamedPayee) -> bytes:
    """The commitment of the note that pays a payee: H3(inner, token, amount)."""
    token = bytes(12) + bytes.fromhex(account.terms.collateral.token[2:])
    return poseidon2_hash([payee.inner, token, _word(payee.amount)])


def _check_fee(account: Account, said: Settlement, payout: int) -> None:
    nothing = bytes(20)
    token = bytes.fromhex(account.terms.collateral.token[2:])
    if said.fee:
        stated = said.relayer != nothing and said.fee_token == token
    else:
        stated = said.relayer == nothing and said.fee_token == nothing
    cap = min(account.terms.tariff.relayer_cap, payout)
    if not stated or said.fee > cap:
        refuse("wrong-fee", fee=_tokens(account, said.fee), cap=_tokens(account, cap))


def _check_deadline(account: Account, deadline_s: int) -> None:
    latest = account.clock + account.terms.timeouts.settlement + DEADLINE_STEP_S * NANOSECONDS
    at = deadline_s * NANOSECONDS
    if deadline_s % DEADLINE_STEP_S or not account.clock < at <= latest:
        refuse("wrong-deadline", deadline=deadline_s, clock=account.clock)


def accept(account: Account, entry: RuledFrame, said: SettlementAcceptance) -> Account:
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


def release_freeze(account: Account) -> Account:
    """A proposal is alive until its deadline and the skew have passed on the rulebook's clock:
    the chain's clock may run behind by that much."""
    alive = account.settlement
    if alive is None:
        return account
    end = alive.deadline_s * NANOSECONDS + account.terms.timeouts.skew
    return _dead(account) if account.clock > end else account


def _dead(account: Account) -> Account:
    """The proposal that was alive can be mined no more."""
    return forget_payees(replace(account, alive=None))


def cite(account: Account, entry: RuledFrame, said: ChainFact, facts: ChainFacts) -> Account:
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
        return _occupied(account, what, place, facts)
    # Also one that is past its deadline here: the chain's clock decides what was mined.
    for proposal in account.proposals.values():
        output = facts.inserted.get(proposal.commitments[0])
        if what in proposal.nullifiers and output == place:
            return replace(_dead(_spent(account, proposal.nullifiers)), ended=True)
    if not any(note.nullifier == what for note in account.notes.values()):
        refuse("unknown-note", nullifier=what)
    # Spent by a move that stands in no frame in force: a seizure, or one that both wallets signed
    # although the rules had refused its proposal. Without notes there is nothing to trade against.
    account = _spent(account, (what,))
    gone = all(note.spent for note in account.notes.values() if note.accepted)
    return replace(_dead(account), ended=True) if gone else account


def _occupied(account: Account, commitment: bytes, place: ChainPlace, facts: ChainFacts) -> Account:
    """The tree has this commitment, and takes it no second time: nothing can be paid into it but
    by the settlement that put it there."""
    alive = account.settlement
    if alive is not None:
        mined = facts.spent.get(alive.nullifiers[0]) == place
        return _dead(account) if commitment in alive.commitments and not mined else account
    for lane in Lane:
        payee = account.payee(lane)
        if payee is not None and _output(account, payee) == commitment:
            account = _with_payee(account, lane, None)
    return account


def _spent(account: Account, nullifiers: Sequence[bytes]) -> Account:
    notes = account.notes
    for commitment, note in account.notes.items():
        if note.nullifier in nullifiers:
            notes = notes.put(commitment, replace(note, spent=True))
    return replace(account, notes=notes)
