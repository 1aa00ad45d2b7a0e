"""Settling a custody of two: name a payee, sign, prove and send, or wait for the other party.

It differs from a wallet's own moves: both parties sign, and either may send.  So from our signature
on, the settlement can happen until its deadline, even if we send nothing; our notes stay busy until
then.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import trio

from psymm.chain.calls import CtcCall
from psymm.chain.deployment import Deployment
from psymm.chain.errors import NotSynchronised, TransactionPending
from psymm.chain.rpc import own_deadline, time_left
from psymm.chain.sync import TreeSync
from psymm.custody.errors import DeadlinePassed, MoveFailed, ProposalRefused
from psymm.custody.making import MOVE_S, CompletedMove
from psymm.custody.notes import Note
from psymm.custody.planning import Signatures
from psymm.custody.proving import MoveProver
from psymm.custody.sending import MoveTracker, Sender
from psymm.custody.settlement import Payee, PlannedSettlement, payout_after_fee
from psymm.custody.store import NoteStore
from psymm.custody.stored import DONE, FAILED, SENT, SIGNED, Move
from psymm.custody.viewing import ViewingKey
from psymm.errors import PSymmError
from psymm.wallet import Wallet


class SettlementMoves:
    """One party's side of the settlements of its custodies; see `settlement` for the documents."""

    def __init__(
        self,
        wallet: Wallet,
        view: ViewingKey,
        deployment: Deployment,
        tree: TreeSync,
        store: NoteStore,
        tracker: MoveTracker,
        prover: MoveProver,
    ) -> None:
        self._wallet: Final = wallet
        self._view: Final = view
        self._deployment: Final = deployment
        self._tree: Final = tree
        self._store: Final = store
        self._tracker: Final = tracker
        self._prover: Final = prover
        # A settlement that is signed twice at once is recorded once.
        self._consenting = trio.Lock()

    async def payee(self, token: str, amount: int) -> Payee:
        """What the other party needs to pay us `amount`, which is after any fee that we bear.

        The note is in the store from now on, and is found once it is in the tree.
        """
        (counter,) = await self._store.reserve()
        note = self._view.note(self._view.sole, token, amount, counter)
        await self._store.keep(note, counter)
        return Payee(note.inner, self._view.seal(note, counter))

    async def sign(self, settlement: PlannedSettlement) -> bytes:
        """Sign a settlement.  The signature is an option for the other party until the deadline.

        Our notes in it are busy from before the signature exists until the settlement is mined or
        its deadline has passed.  Signing one again gives the same signature.
        Raises NoteBusy, DeadlinePassed, WalletError, and ProposalRefused if it does not pay our
        payout into a note that our own memo opens, or could never be mined.  Cancelled: raises
        Cancelled; the notes stay busy until the deadline.
        """
        call = settlement.call
        now = await self._tracker.chain.time_s()
        if call.deadline <= now:
            raise DeadlinePassed(call.deadline, now)
        note, counter = self._own_output(settlement)
        # All of this is on disk before the signature exists. From then on the other party can have
        # the settlement mined, even if this process dies.
        await self._store.keep(note, counter)
        # Another settlement of these notes gets NoteBusy until this one has ended. So our signature
        # is never on two living ones that pay differently.
        async with self._consenting:
            if await self._settling(call) is None:
                await self._reserve_for(settlement)
        return await self._wallet.sign_typed(
            call.message(self._deployment.chain_id, self._deployment.psymm)
        )

    async def _reserve_for(self, settlement: PlannedSettlement) -> None:
        """Record that our notes are busy for this settlement until its deadline."""
        call = settlement.call
        await self._tree.advance()
        for commitment in call.commitments:
            # The contract accepts a commitment once. This settlement could never be mined, but
            # would block both parties' notes until its deadline.
            if self._tree.leaf(commitment) is not None:
                raise ProposalRefused("output", "a new note", "one that is on chain already")
        for note in settlement.plan.inputs:
            await self._store.keep(note)
        await self._store.begin(
            "ctc",
            "settle",
            inputs=[note for note in settlement.plan.inputs if note.amount],
            other_outputs=call.commitments,
            deadline=call.deadline,
            details=call.to_json(),
            status=SIGNED,
        )

    def _own_output(self, settlement: PlannedSettlement) -> tuple[Note, int]:
        """The note that a settlement pays us, with its counter.  It is opened from the memo, not
        looked up in the store: after a loss of all files, the memo is all that we have."""
        plan = settlement.plan
        lane = plan.custody.lane_of(self._wallet.public_key)
        proposes = settlement.proposer == lane
        due = payout_after_fee(settlement.payouts[lane], plan.fee, proposes=proposes)
        found = [
            own
            for output in plan.outputs
            if (own := self._view.find(output.commitment(plan.token), output.memo)) is not None
            and own[0].custody.is_sole
        ]
        if not any(note.amount == due for note, _ in found):
            amounts = ", ".join(str(note.amount) for note, _ in found) or "none"
            raise ProposalRefused("our own output", due, amounts)
        return next(own for own in found if own[0].amount == due)

    async def settle(
        self,
        settlement: PlannedSettlement,
        signatures: Signatures,
        senders: Sequence[Sender],
        *,
        timeout_s: float | None = None,
    ) -> CompletedMove:
        """Prove a settlement that both parties have signed, and send it.

        Either party may do this, or both at once; it happens once.

        senders: tried in turn; those of the relayer that it names, or a `DirectSender` if it names
        none.
        Raises ConsentInvalid, ProverError and its subclasses, MoveFailed, and the last sender's
        error.
        """
        timeout_s = time_left(timeout_s, MOVE_S)
        place = (self._deployment.chain_id, self._deployment.psymm)
        settlement.consent(*place, trader=signatures.trader, solver=signatures.solver)
        # Signing again changes nothing, except that a store that was rebuilt from the chain gets
        # the move back.
        await self.sign(settlement)
        move = await self._settling(settlement.call)
        if move is None:
            raise MoveFailed("settle", "it is not in the store")
        # The other party may have had it mined already.
        if move.status == DONE:
            return CompletedMove(move.id, None, settlement.call, settlement.plan.fee, 0)
        awaited = settlement.call.commitments[0]
        failed: PSymmError | None = None
        if move.sent is not None:
            failed = await self._tracker.hand_over(move, ())
            if failed is None or await self._tracker.is_made(move.call):
                await self._tracker.await_in_tree(move.id, awaited, timeout_s)
                return CompletedMove(move.id, None, move.call, move.call.fee, 0)
            if isinstance(failed, TransactionPending):
                raise failed
            # The sent transaction can no longer succeed, most likely because a reorganisation
            # removed the root of its proof. The settlement itself still can, with a new proof.
        call, prove_ms = await self._prover.prove(settlement.plan, signatures)
        # Recorded before any sender has the call, so that a restart hands over the same one.
        await self._store.update(move.id, SENT, details=call.to_json())
        reprove = partial(self._prover.reprove_if_root_gone, move.id, settlement.plan, signatures)
        for sender in senders:
            try:
                call, receipt = await self._tracker.send_rooted(
                    sender, move.id, "ctc", call, reprove
                )
            except PSymmError as refused:
                failed = refused
                # A refusal proves nothing: the other party may have sent the settlement meanwhile.
                if await self._tracker.is_made(call):
                    failed = None
                    receipt = None
                elif isinstance(refused, TransactionPending):
                    raise
                else:
                    continue
            await self._tracker.await_in_tree(move.id, awaited, timeout_s)
            return CompletedMove(move.id, receipt, call, call.fee, prove_ms)
        raise failed or MoveFailed("settle", "no sender was given")

    async def await_mined(
        self, settlement: PlannedSettlement, *, timeout_s: float | None = None
    ) -> None:
        """Wait until a settlement that the other party sends is in the tree.

        Raises NotSynchronised when the time is up, MoveFailed when its deadline has passed.
        """
        timeout_s = time_left(timeout_s, MOVE_S)
        call = settlement.call
        with own_deadline(), trio.move_on_after(timeout_s):
            while True:
                await self._tracker.refresh()
                if self._tree.leaf(call.commitments[0]) is not None:
                    return
                # By the time of the counted blocks: a newer block could still be replaced by one
                # that contains the settlement.
                if await self._tracker.counted_time_s() > call.deadline:
                    raise MoveFailed("settle", "its deadline has passed and nobody sent it")
                await trio.sleep(self._tracker.chain.poll_s)
        raise NotSynchronised("settlement 0x" + call.commitments[0].hex(), timeout_s)

    async def mined_in(self, settlement: PlannedSettlement) -> tuple[int, str] | None:
        """Block and transaction hash of a settlement; None until it is as deep as the vault
        counts."""
        call = settlement.call
        if self._tree.leaf(call.commitments[0]) is None:
            return None
        found = await self._tree.transaction_with(call.nullifiers[0], spent=True)
        return None if found is None else found[:2]

    async def _settling(self, call: CtcCall) -> Move | None:
        """The move of this settlement.  Settlements are the same if what was signed is the same."""
        place = (self._deployment.chain_id, self._deployment.psymm)
        for move in await self._store.moves():
            if (
                move.purpose == "settle"
                and move.status != FAILED
                and move.call.digest(*place) == call.digest(*place)
            ):
                return move
        return None
