"""Making a wallet's own moves, in steps of which each is durable before the next one starts:

    1. choose notes and plan the outputs (`_begin`)
    2. record the move as planned; from now on its notes are busy
    3. sign and prove (`_sign_and_prove`)
    4. record the proved call as sent; from now on it can happen
    5. hand it to senders in turn, then wait until the tree shows it (`sending.MoveTracker`)

A move that fails before step 4 frees its notes.  After it, only the chain or the deadline does.
Repeating a move is safe: a call has one pair of nullifiers, and the contract accepts each once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from psymm.chain.addresses import checksummed
from psymm.chain.calls import Call
from psymm.chain.deployment import Deployment
from psymm.chain.errors import CallInvalid, TransactionPending
from psymm.chain.transactions import Receipt
from psymm.custody.errors import FeeTooHigh, FundsTooLow, MoveFailed
from psymm.custody.notes import Custody, Note
from psymm.custody.planning import (
    CtaPlan,
    CtcPlan,
    Output,
    Plan,
    Signatures,
    deadline_after,
    paired,
    shuffled,
)
from psymm.custody.proving import MoveProver
from psymm.custody.sending import MoveTracker, Sender, SendTerms
from psymm.custody.store import NoteStore
from psymm.custody.stored import BUSY, FAILED, SENT, UNSPENT, StoredNote
from psymm.custody.viewing import ViewingKey
from psymm.errors import PSymmError
from psymm.wallet import Wallet

DEFAULT_FEE_PART: Final = 10
"""Without another limit, a relayer's fee is at most the amount divided by this."""

MOVE_S: Final = 300.0
"""How long to wait for a proved move if the caller sets no limit."""


@dataclass(frozen=True, slots=True)
class CompletedMove:
    """A move that is in the tree.

    Attributes:
        move: its number in the store.
        receipt: None if the tree showed it without one, such as when the other party sent it.
        fee: token units paid to the relayer.
        prove_ms: how long the proof took.
    """

    move: int
    receipt: Receipt | None
    call: Call
    fee: int
    prove_ms: int


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """A plan and our own notes that it makes, with their counters."""

    plan: Plan
    outputs: list[tuple[Note, int | None]]


@dataclass(frozen=True, slots=True)
class MoveOptions:
    """How to have a move sent.

    Attributes:
        senders: tried in turn.
        max_fee: the most that a relayer may take for each move, in token units; None allows a
            tenth of the amount.
        expires_in_s: the least time until the move's deadline.
        timeout_s: how long to wait for the move.
    """

    senders: Sequence[Sender]
    max_fee: int | None
    expires_in_s: int
    timeout_s: float


PlanMove = Callable[[tuple[Note, Note], bool, SendTerms, int], PlannedMove]
"""Plans a move from its two inputs, whether the second is empty, a sender's terms, a deadline."""


class MoveMaker:
    """Makes moves of one wallet's sole custody."""

    def __init__(
        self,
        wallet: Wallet,
        view: ViewingKey,
        deployment: Deployment,
        store: NoteStore,
        tracker: MoveTracker,
        prover: MoveProver,
    ) -> None:
        self._wallet: Final = wallet
        self._view: Final = view
        self._deployment: Final = deployment
        self._store: Final = store
        self._tracker: Final = tracker
        self._prover: Final = prover
        # Choosing notes and marking them busy is one step, or two tasks would choose the same note.
        self._choosing = trio.Lock()

    async def fund(
        self, custody: Custody, token: str, amount: int, options: MoveOptions
    ) -> tuple[Note, CompletedMove]:
        """CTC: move `amount` from the sole custody into a bilateral one, as one note."""
        # Reserved once, for the versions of all senders: each of them makes this same note.
        counters = await self._store.reserve(2)
        note = self._view.note(custody, token, amount, counters[0])
        memo = self._view.seal(note, counters[0])

        def plan(
            inputs: tuple[Note, Note], empty: bool, terms: SendTerms, deadline: int
        ) -> PlannedMove:
            left = inputs[0].amount + inputs[1].amount - amount - terms.fee
            change = self._view.note(self._view.sole, token, left, counters[1])
            # In random order, so that observers cannot tell which output is the change.
            outputs = shuffled(
                (
                    Output(note.inner, amount, memo),
                    Output(change.inner, left, self._view.seal(change, counters[1])),
                )
            )
            made = CtcPlan(inputs, empty, outputs, terms.relayer, terms.fee, deadline)
            return PlannedMove(made, [(note, counters[0]), (change, counters[1])])

        moved = await self.make(
            "fund", "ctc", token, amount, plan, options, awaited=note.commitment
        )
        return note, moved

    async def merge(self, token: str, options: MoveOptions) -> CompletedMove:
        """CTC: merge the two most valuable sole notes into one."""
        held = await self.spendable(token)
        if len(held) < 2:
            raise FundsTooLow(token, 0, sum(one.note.amount for one in held), 0)
        counters = await self._store.reserve(2)

        def plan(
            inputs: tuple[Note, Note], empty: bool, terms: SendTerms, deadline: int
        ) -> PlannedMove:
            total = inputs[0].amount + inputs[1].amount - terms.fee
            made = self._view.note(self._view.sole, token, total, counters[0])
            # A CTC has two outputs always; the second one is worth nothing here.
            rest = self._view.note(self._view.sole, token, 0, counters[1])
            outputs = shuffled(
                (
                    Output(made.inner, total, self._view.seal(made, counters[0])),
                    Output(rest.inner, 0, self._view.seal(rest, counters[1])),
                )
            )
            move = CtcPlan(inputs, empty, outputs, terms.relayer, terms.fee, deadline)
            return PlannedMove(move, [(made, counters[0]), (rest, counters[1])])

        exactly = [held[0].note, held[1].note]
        return await self.make("merge", "ctc", token, 0, plan, options, exactly=exactly)

    async def withdraw(
        self, token: str, amount: int, recipient: str, options: MoveOptions
    ) -> CompletedMove:
        """CTA: `amount` units leave the sole custody; the recipient gets them less the fee."""
        (counter,) = await self._store.reserve()

        def plan(
            inputs: tuple[Note, Note], empty: bool, terms: SendTerms, deadline: int
        ) -> PlannedMove:
            left = inputs[0].amount + inputs[1].amount - amount
            change = self._view.note(self._view.sole, token, left, counter)
            made = CtaPlan(
                inputs, empty, change, self._view.seal(change, counter), amount, recipient,
                terms.relayer, terms.fee, deadline,
            )  # fmt: skip
            return PlannedMove(made, [(change, counter)])

        return await self.make("withdraw", "cta", token, amount, plan, options, fee_on_top=False)

    async def make(
        self,
        purpose: str,
        kind: str,
        token: str,
        amount: int,
        plan: PlanMove,
        options: MoveOptions,
        *,
        fee_on_top: bool = True,
        awaited: bytes | None = None,
        exactly: list[Note] | None = None,
    ) -> CompletedMove:
        """Make one move, with one sender after another.

        Args:
            amount: units that the move needs without the fee; 0 if `exactly` says the inputs.
            fee_on_top: False: the fee comes out of the amount.
            awaited: the commitment that shows the move in the tree; None: its first output.
            exactly: the inputs; None: those that exceed the need by the least.

        Raises what `Vault.fund` raises.
        """
        self._prover.expect_prover()
        if not 0 <= amount < 1 << 128 or (amount == 0 and exactly is None):
            raise CallInvalid("amount", f"{amount} is not above 0 and below 2^128")
        token = checksummed("token", token)
        # Chosen once, for all senders: their versions spend the same notes, so at most one of them
        # can be mined.
        inputs: list[Note] | None = exactly
        failed: PSymmError | None = None
        before: int | None = None
        handed: list[tuple[int, Call, int]] = []
        for sender in options.senders:
            try:
                terms = await sender.terms(kind, token)
                needed = _needed(token, amount, terms.fee, fee_on_top, options.max_fee, inputs)
            except PSymmError as refused:
                failed = refused
                continue
            move, inputs, made = await self._begin(
                purpose, kind, token, needed, inputs, plan, terms, options, before
            )
            call, signatures, prove_ms = await self._sign_and_prove(move, made.plan)
            before = move
            handed.append((move, call, prove_ms))
            receipt: Receipt | None = None
            reprove = partial(self._prover.reprove_if_root_gone, move, made.plan, signatures)
            try:
                call, receipt = await self._tracker.send_rooted(sender, move, kind, call, reprove)
            except TransactionPending:
                # Do not ask another sender: it may be mined, and the next command continues it.
                raise
            except PSymmError as refused:
                failed = refused
                await self._tracker.release_if_void(move, sender, refused)
                # A sender that refused before may have sent its version all the same.
                mined = [one for one in handed if await self._tracker.is_made(one[1])]
                if not mined:
                    continue
                move, call, prove_ms = mined[-1]
            # If a reorganisation removes the move while we wait, this sender gets it again. An
            # earlier sender's version that was mined is only waited for.
            relay = None
            if move == before:
                relay = partial(self._tracker.send_rooted, sender, move, kind, call, reprove)
            await self._tracker.await_in_tree(
                move, awaited or call.outputs[0], options.timeout_s, relay
            )
            # A withdrawal stays unreported until its command has shown it: see
            # `Vault.acknowledge_ended`.
            await self._store.report(
                one for one, _, _ in handed if one != move or purpose != "withdraw"
            )
            return CompletedMove(move, receipt, call, call.fee, prove_ms)
        await self._store.report(one for one, _, _ in handed)
        if failed is None:
            raise MoveFailed(purpose, "no sender was given")
        raise failed

    async def _begin(
        self,
        purpose: str,
        kind: str,
        token: str,
        needed: int,
        inputs: list[Note] | None,
        plan: PlanMove,
        terms: SendTerms,
        options: MoveOptions,
        before: int | None,
    ) -> tuple[int, list[Note], PlannedMove]:
        """Choose notes unless `inputs` names them, plan, and record the move.  before: its earlier
        version.  Returns the move's number and its inputs."""
        deadline = deadline_after(await self._tracker.chain.now_s(), options.expires_in_s)
        while True:
            if inputs is None:
                await self.merge_until(token, needed, options)
            async with self._choosing:
                if inputs is None:
                    inputs = await self._select_notes(token, needed)
                if inputs is None:
                    continue  # another task was faster
                both, empty = paired(inputs)
                if empty:
                    await self._store.keep(both[1])  # a new proof needs its blinding again
                made = plan(both, empty, terms, deadline)
                # From here on the notes are busy for every other task and command.
                move = await self._store.begin(
                    kind,
                    purpose,
                    inputs=inputs,
                    outputs=made.outputs,
                    deadline=deadline,
                    details=made.plan.call.to_json(),
                    instead_of=before,
                )
                return move, inputs, made

    async def _sign_and_prove(self, move: int, plan: Plan) -> tuple[Call, Signatures, int]:
        """Sign and prove a planned move, and record it as sent.  Returns the call, its signatures,
        and how long the proof took, in ms."""
        try:
            signature = await self._wallet.sign_typed(
                plan.call.message(self._deployment.chain_id, self._deployment.psymm)
            )
            signatures = Signatures(signature, signature)
            call, prove_ms = await self._prover.prove(plan, signatures)
            # The order matters: recorded as sent, then sent. From here on it can happen even if
            # this process dies.
            await self._store.update(move, SENT, details=call.to_json())
        except BaseException as stopped:
            # Nobody has seen this call, so its notes are free. Shielded, because the error may be a
            # cancellation, which would also cancel the update.
            with trio.CancelScope(shield=True):
                await self._store.update(move, FAILED, reason=type(stopped).__name__)
                await self._store.report([move])
            raise
        return call, signatures, prove_ms

    async def merge_until(self, token: str, needed: int, options: MoveOptions) -> None:
        """Merge until two notes are worth enough.

        Waits for what moves under way will return, so that one large note can serve several moves
        at once.  Raises FundsTooLow before the first merge.
        """
        ends = trio.current_time() + options.timeout_s
        while True:
            held = await self.spendable(token)
            amounts = [one.note.amount for one in held]
            # A move spends two notes at most; the most valuable come first.
            if sum(amounts[:2]) >= needed:
                return
            if sum(amounts) >= needed:
                await self.merge(token, options)
                continue
            under_way = await self.under_way(token)
            if sum(amounts) + under_way < needed or trio.current_time() > ends:
                raise FundsTooLow(token, needed, sum(amounts), under_way)
            await trio.sleep(self._tracker.chain.poll_s)

    async def _select_notes(self, token: str, needed: int) -> list[Note] | None:
        """The one or two notes that exceed the need by the least; None if no two suffice."""
        held: list[Note] = [one.note for one in await self.spendable(token)]
        enough = [note for note in held if note.amount >= needed]
        if enough:
            return [min(enough, key=lambda note: note.amount)]
        pairs: list[tuple[Note, Note]] = [
            (first, second)
            for at, first in enumerate(held)
            for second in held[at + 1 :]
            if first.amount + second.amount >= needed
        ]
        if not pairs:
            return None
        best = min(pairs, key=lambda pair: pair[0].amount + pair[1].amount)
        return [*best]

    async def spendable(self, token: str) -> list[StoredNote]:
        """Sole notes that can be spent now, most valuable first."""
        await self._tracker.refresh()
        held = await self._store.notes(
            token=checksummed("token", token), status=UNSPENT, custody=self._view.sole.id
        )
        return sorted((one for one in held if one.note.amount), key=lambda one: -one.note.amount)

    async def under_way(self, token: str) -> int:
        """Units in sole notes that a move under way spends."""
        held = await self._store.notes(token=token, status=BUSY, custody=self._view.sole.id)
        return sum(one.note.amount for one in held)


def _needed(
    token: str,
    amount: int,
    fee: int,
    fee_on_top: bool,
    max_fee: int | None,
    inputs: Sequence[Note] | None,
) -> int:
    """The units that a move's inputs must hold, with a sender's fee. Raises FeeTooHigh,
    FundsTooLow."""
    held = sum(one.amount for one in inputs or ())
    allowed = (amount or held) // DEFAULT_FEE_PART if max_fee is None else max_fee
    if not fee_on_top:
        allowed = min(allowed, amount)
    if fee > allowed:
        raise FeeTooHigh(fee, allowed)
    needed = amount + (fee if fee_on_top else 0)
    if inputs is not None and held < needed:
        raise FundsTooLow(token, needed, held, 0)
    return needed
