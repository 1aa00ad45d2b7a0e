"""Proving moves: each plan under the newest root, and again if a reorganisation removes that root.

A signature does not cover the root.  So a move can be proved again without asking the wallet, or
the other party, and stays the same move.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from psymm.chain.calls import Call
from psymm.chain.deployment import Deployment
from psymm.chain.sync import TreeSync
from psymm.chain.transactions import Chain
from psymm.custody.errors import CustodyError, DeadlinePassed, NoteBusy
from psymm.custody.planning import CtcPlan, Plan, Signatures, plan_of
from psymm.custody.prover import Prover
from psymm.custody.store import NoteStore
from psymm.custody.stored import SENT, Move
from psymm.wallet import Wallet

log = logging.getLogger(__name__)

PROOF_TIME_S: Final = 30
"""A move whose deadline is nearer than this is not proved."""


class MoveProver:
    """Proves the moves of one wallet.  prover: None if the vault only reads."""

    def __init__(
        self,
        wallet: Wallet,
        deployment: Deployment,
        tree: TreeSync,
        store: NoteStore,
        prover: Prover | None,
    ) -> None:
        self._wallet: Final = wallet
        self._deployment: Final = deployment
        self._tree: Final = tree
        self._store: Final = store
        self._prover: Final = prover

    @property
    def _chain(self) -> Chain:
        return self._tree.pool.chain

    def expect_prover(self) -> Prover:
        """Raises CustodyError if there is none."""
        if self._prover is None:
            raise CustodyError("this vault was opened without a prover, so it only looks")
        return self._prover

    async def prove(self, plan: Plan, signatures: Signatures) -> tuple[Call, int]:
        """Prove a plan under the newest root.  Returns the finished call and the time in ms."""
        prover = self.expect_prover()
        chain_id, contract = self._deployment.chain_id, self._deployment.psymm
        unproved = plan.call
        # A proof takes seconds and much memory, so first check everything that would waste it: the
        # deadline, the signatures, and that the notes are unspent.
        now = await self._chain.time_s()
        if unproved.deadline < now + PROOF_TIME_S:
            raise DeadlinePassed(unproved.deadline, now)
        digest = unproved.digest(chain_id, contract)
        signatures.check(plan.custody, digest)
        await self._tree.advance()
        real = plan.inputs[:1] if plan.empty1 else plan.inputs
        for note in real:
            if self._tree.spent_block(note.nullifier) is not None:
                raise NoteBusy(note.commitment, "spent")
        paths = [self._tree.proof(note.commitment) for note in real]
        root = self._tree.root
        rooted: Call
        if isinstance(plan, CtcPlan):
            rooted = replace(plan.call, root=root)
            inputs = plan.witness(rooted, digest, signatures, paths)
        else:
            rooted = replace(plan.call, root=root)
            inputs = plan.witness(rooted, digest, signatures, paths)
        made = await prover.prove(rooted.kind, inputs, rooted.public_inputs(chain_id, contract))
        return rooted.proved(made.proof), made.prove_ms

    async def reprove_if_root_gone(
        self, move: int, plan: Plan, signatures: Signatures, call: Call
    ) -> Call | None:
        """A `sending.Reprove`.  Raises DeadlinePassed, and NotSynchronised while the chain lacks
        the notes that the move spends, too."""
        if not await self._root_gone(call):
            return None
        return await self._reprove(move, plan, signatures)

    async def _reprove(self, move: int, plan: Plan, signatures: Signatures) -> Call:
        made, _ = await self.prove(plan, signatures)
        # Recorded before it is sent, like the first proof.
        await self._store.update(move, SENT, details=made.to_json())
        log.info("move-reproved", extra={"move": move})
        return made

    async def _root_gone(self, call: Call) -> bool:
        return not await self._tree.pool.is_known_root(call.root, await self._chain.head())

    async def reprove_from_store(self, move: Move, call: Call) -> Call | None:
        """The same for a move from an earlier run, rebuilt from the store; None also if the store
        lacks one of its notes."""
        plan = plan_of(call, move.inputs, [held.note for held in await self._store.notes()])
        # Without the other party's signature, a settlement cannot be proved here.
        if plan is None or not plan.custody.is_sole or not await self._root_gone(call):
            return None
        message = call.message(self._deployment.chain_id, self._deployment.psymm)
        signature = await self._wallet.sign_typed(message)
        return await self._reprove(move.id, plan, Signatures(signature, signature))
