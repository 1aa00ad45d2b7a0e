"""Facts of our own chain: the rulebook learns them, and we cite them on the record.

A fact is stored (`StoreFact`) when the rulebook learns it, so that a replay rules as we did.
"""

from __future__ import annotations

from psymm.messages import ChainFact, FactKind
from psymm.session.protocol import holding, rejects, signing
from psymm.session.protocol.chain_facts import ChainView, Citation, Fact, Mined
from psymm.session.protocol.effects import Effects, StoreFact
from psymm.session.protocol.state import SessionState


def on_occupied(s: SessionState, out: Effects, fact: Fact, commitment: bytes, now: int) -> None:
    """Our own chain already has an output that a settlement would create: cite the fact.

    No settlement that creates this output can be mined any more.
    """
    if s.rulebook is None:
        return
    # Our rulebook must know the fact first: it judges our citation like the peer's.
    if not s.rulebook.occupied(commitment):
        _learn(s, out, fact)
    if signing.may_sign(s, now):
        citation = ChainFact(
            fact_kind=FactKind.INSERTED,
            block_number=fact.block,
            transaction_hash=fact.transaction,
            commitment=commitment,
        )
        if s.rulebook.refuses(s.lane, citation, now) is None:
            signing.sign(s, out, citation, now)


def on_mined(s: SessionState, out: Effects, mined: Mined, now: int) -> None:
    """The settlement is on chain: the rulebook learns it, and our citation closes the custody.

    If heads do not agree now, we cite it once they do.
    """
    if s.lifecycle.proposal is not None:
        proposal = s.lifecycle.proposal[2]
        spent = (proposal.nullifier0, proposal.nullifier1)
        inserted = (proposal.commitment0, proposal.commitment1)
        _learn(s, out, Fact(mined.block, mined.transaction, spent, inserted))
        # `logon.step` cites it, as soon as we may sign.
        s.mined = mined, now


def on_view(s: SessionState, out: Effects, cited: Citation, view: ChainView) -> None:
    """What our own chain says about the frame that waits for it (`cited`).

    A citation that the chain contradicts is false, finally. One that the chain has not reached
    keeps waiting (`spec.md` 65).
    """
    # The answer may be stale: the frame was revoked, or another one waits now.
    if holding.cited(s) == cited:
        true = view.settles(cited.said)
        # A denial is a fact, too: replay must rule the same citation false again.
        denied = Fact(view.head, cited.said.transaction_hash, (), (), (cited.lane, cited.seq))
        fact = view.fact if true else denied
        if true is not None and fact is not None:
            _learn(s, out, fact)


def _learn(s: SessionState, out: Effects, fact: Fact) -> None:
    if s.rulebook is not None:
        rejects.queue_all(s, s.rulebook.learn_fact(fact))
        out.append(StoreFact(fact.to_json()))
