"""A wallet's money in pSymm: deposit, fund, merge, withdraw, settle, and resuming after a restart.

A `Vault` joins a wallet with its notes, the tree, the prover and the contracts.  Each move goes
through the same steps, and each step is durable before the next one starts:

    1. choose notes and plan the outputs (`_select_notes`, under `_choosing`)
    2. record the move as planned; from now on its notes are busy
    3. sign and prove
    4. record the proved call as sent; from now on it can happen
    5. hand it to senders in turn, then wait until the tree shows it

A move that fails before step 4 frees its notes.  After it, only the chain or the deadline does.
Repeating a move is safe: a deposit has one commitment and a call one pair of nullifiers, and the
contract accepts each once.  `sending.MoveTracker` does step 5.

This file is long because all moves share the methods that choose notes, plan and prove, and their
locks.

A move can reveal its owner by its amount, address or time.  The caller weighs that: see
`warnings.withdrawal_warnings`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Self

import trio

from psymm.chain.addresses import ZERO_ADDRESS, checksummed
from psymm.chain.calls import Call, CtcCall
from psymm.chain.contracts import Permit, Pool, Token, insertion_gas
from psymm.chain.deployment import Deployment
from psymm.chain.errors import (
    CallInvalid,
    NotSynchronised,
    TransactionPending,
)
from psymm.chain.rpc import own_deadline, time_left
from psymm.chain.sync import TreeSync, open_tree
from psymm.chain.tokens import try_deposit, try_payment
from psymm.chain.transactions import WAIT_S, Chain, Receipt, Signer
from psymm.custody.errors import (
    CustodyError,
    DeadlinePassed,
    FeeTooHigh,
    FundsTooLow,
    MoveFailed,
    NoteBusy,
    NoteInvalid,
    ProposalRefused,
)
from psymm.custody.notes import Custody, Note
from psymm.custody.planning import (
    CtaPlan,
    CtcPlan,
    Output,
    Plan,
    Signatures,
    deadline_after,
    paired,
    plan_of,
    shuffled,
)
from psymm.custody.prover import Prover
from psymm.custody.sending import (
    DirectSender,
    MoveTracker,
    Sender,
    SendTerms,
)
from psymm.custody.settlement import Payee, PlannedSettlement, payout_after_fee
from psymm.custody.store import (
    BUSY,
    DONE,
    EXPECTED,
    FAILED,
    SENT,
    SIGNED,
    UNSPENT,
    Move,
    NoteStore,
    StoredNote,
    open_store,
)
from psymm.custody.viewing import ViewingKey, viewing_key
from psymm.errors import PSymmError
from psymm.private_files import private_directory
from psymm.wallet import CallbackWallet, KeyWallet, Wallet

log = logging.getLogger(__name__)

DEFAULT_FEE_PART: Final = 10
"""Without another limit, a relayer's fee is at most the amount divided by this."""

PROOF_TIME_S: Final = 30
"""A move whose deadline is nearer than this is not proved."""

MOVE_S: Final = 300.0
"""How long to wait for a proved move if the caller sets no limit."""
PATIENCE_S: Final = 20.0
"""How long `resume` waits for old moves before the new command continues."""


@dataclass(frozen=True, slots=True)
class Balance:
    """Units of one token in sole notes.

    Attributes:
        available: in notes that can be spent now.
        under_way: in notes that a move under way spends.
    """

    token: str
    available: int
    under_way: int


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
class Funded:
    """A note in a bilateral custody, made by `Vault.fund`.  moved: None if it existed before."""

    note: Note
    moved: CompletedMove | None


class Vault:
    """One wallet's notes on one deployment.  Open with `open_vault`, use in `async with`.

    Moves that do not share notes can run at once, in several tasks.  They wait for the chain for
    `timeout_s`; without it until the caller's deadline (`trio.fail_after` and its like), or for
    their own default if there is none.
    """

    def __init__(
        self,
        wallet: Wallet,
        view: ViewingKey,
        deployment: Deployment,
        tree: TreeSync,
        store: NoteStore,
        prover: Prover | None,
    ) -> None:
        self.wallet: Final = wallet
        self.view: Final = view
        self.deployment: Final = deployment
        self.tree: Final = tree
        self.store: Final = store
        self.prover: Final = prover
        self.pool: Final[Pool] = tree.pool
        self._tracker: Final = MoveTracker(
            tree,
            store,
            wallet if isinstance(wallet, KeyWallet | CallbackWallet) else None,
            self._reprove_from_store,
        )
        # One deposit at a time: all deposits of an account share its allowance and permit nonces.
        self._depositing = trio.Lock()
        # Choosing notes and marking them busy is one step, or two tasks would choose the same note.
        self._choosing = trio.Lock()
        # A settlement that is signed twice at once is recorded once.
        self._consenting = trio.Lock()
        # By custody: two calls of `fund` at once must not make two notes.
        self._funders: dict[bytes, trio.Lock] = {}

    def __repr__(self) -> str:
        return f"Vault({self.wallet.address})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the files, not the prover.  Not cut short by cancellation."""
        await self.store.aclose()
        await self.tree.aclose()

    @property
    def chain(self) -> Chain:
        return self.pool.chain

    # --- reading ------------------------------------------------------------------------------

    async def refresh(self) -> list[StoredNote]:
        """Take in new blocks.  Returns notes of ours that only their memos revealed."""
        return await self._tracker.refresh()

    async def balance(self, token: str) -> Balance:
        """As of the last refresh."""
        notes = await self.store.notes(token=token, custody=self.view.sole.id)
        return Balance(
            token,
            sum(held.note.amount for held in notes if held.status == UNSPENT),
            sum(held.note.amount for held in notes if held.status == BUSY),
        )

    async def pending_change(self, token: str) -> int:
        """Units that our moves under way will return to sole notes, as of the last refresh."""
        made = {one for move in await self.store.moves(alive=True) for one in move.outputs}
        back: dict[int | None, int] = {}
        for held in await self.store.notes(token=token, custody=self.view.sole.id):
            if held.status == EXPECTED and held.note.commitment in made:
                # Alternative versions of one move share a counter, and one of them happens. Count
                # the smallest.
                worth = held.note.amount
                back[held.counter] = min(worth, back.get(held.counter, worth))
        return sum(back.values())

    async def is_funding(self, custody: Custody) -> bool:
        """Whether a note of ours is in a bilateral custody, or on its way there."""
        alive = [one for one in await self.store.moves(alive=True) if one.purpose == "fund"]
        return any(
            held.position is not None or any(held.note.commitment in one.outputs for one in alive)
            for held in await self.store.notes(custody=custody.id, mine=True)
        )

    async def mined_in(self, call: Call) -> tuple[int, str] | None:
        """Block and transaction hash of a move; None until it is as deep as this vault counts."""
        commitment = call.outputs[0]
        if self.tree.leaf(commitment) is None:
            return None
        found = await self.tree.transaction_with(call.nullifiers[0], spent=True)
        return None if found is None else found[:2]

    async def relayers_used(self) -> frozenset[str]:
        """Accounts of the relayers that this wallet named in a move that is in the tree."""
        return frozenset(
            move.call.relayer
            for move in await self.store.moves()
            if move.status == DONE
            and move.purpose in ("fund", "merge", "withdraw")
            and move.call.relayer != ZERO_ADDRESS
        )

    async def now_s(self) -> int:
        """The time that new deadlines start from, seconds: the later of the newest block's and
        this machine's."""
        return max((await self.chain.block()).timestamp_s, int(time.time()))

    async def chain_time_s(self) -> int:
        """The newest block's time, seconds; the contract judges deadlines by it, and so do we."""
        return (await self.chain.block()).timestamp_s

    # --- deposit ------------------------------------------------------------------------------

    async def deposit(
        self,
        signer: Signer,
        token: str,
        amount: int,
        *,
        permit: bool = False,
        approve: bool = True,
        timeout_s: float | None = None,
    ) -> Note:
        """ATC: deposit `amount` units of a token into the wallet's own sole custody.

        Args:
            signer: the account that holds the tokens and pays the gas; everybody sees it.
            permit: allow the transfer by signature (EIP-2612) in the same transaction.
            approve: send an approval first if one is needed; False raises AllowanceTooLow instead.

        Returns when the note is in the tree.  Raises TransactionPending if it was handed over and
        is not confirmed; `resume` continues with it.  Any other error means that this deposit does
        not happen: WrongChain, DeploymentInvalid, TokenBalanceTooLow, AllowanceTooLow, and
        TokenUnfit, TokenChanged or PermitMissing before anything is signed; WalletWithoutGas,
        Reverted and what reading the chain raises.  Cancelled: raises Cancelled; once handed over,
        the deposit stays under way.
        """
        timeout_s = time_left(timeout_s, WAIT_S)
        erc20 = Token(self.chain, checksummed("token", token))
        if not 0 < amount < 1 << 128:
            raise CallInvalid("amount", f"{amount} is not above 0 and below 2^128")
        portal = self.deployment.portal
        # Checked again, though it was checked at opening: a chain's id can change, and tokens in a
        # development pool on another chain could be stolen with a forged proof.
        self.deployment.expect_crs_fits()
        await self.chain.rpc.expect_chain(self.deployment.chain_id)
        await self.deployment.expect_token(self.chain, erc20.address)
        await erc20.expect(signer.address, None, amount)
        await try_deposit(self.chain, erc20.address, portal, signer.address, amount)
        async with self._depositing:
            # Earlier deposits use up allowance and permit nonces that this one would count on.
            await self._tracker.await_earlier(signer.address, timeout_s)
            signed: Permit | None = None
            if permit:
                ends = deadline_after(await self.now_s())
                signed = await erc20.permit(signer, portal, amount, ends)
            elif approve:
                await self._approve(signer, erc20, amount, timeout_s)
            else:
                await erc20.expect(signer.address, portal, amount)
            # The counter is on disk before its blinding is used, so no blinding is used twice.
            (counter,) = await self.store.reserve()
            note = self.view.note(self.view.sole, erc20.address, amount, counter)
            memo = self.view.seal(note, counter)
            # The move is on disk before its transaction exists, so a restart finds it.
            data = self.pool.deposit_data(erc20.address, amount, note.inner, memo, signed)
            move = await self.store.begin(
                "deposit",
                "deposit",
                inputs=(),
                outputs=[(note, counter)],
                deadline=None,
                details={"data": "0x" + data.hex()},
            )
            await self._tracker.transact(
                move,
                signer,
                self.pool.address,
                data,
                doing="the deposit",
                timeout_s=timeout_s,
                more_gas=insertion_gas(len(self.tree)),
            )
        await self._tracker.await_in_tree(move, note.commitment, timeout_s)
        return note

    async def _approve(self, signer: Signer, erc20: Token, amount: int, timeout_s: float) -> None:
        """Approve the portal for an amount, if needed.  It is recorded as a move of its own."""
        for data in await erc20.approvals(signer.address, self.deployment.portal, amount):
            move = await self.store.begin(
                "approve",
                "approve",
                inputs=(),
                deadline=None,
                details={"token": erc20.address, "data": "0x" + data.hex()},
            )
            await self._tracker.transact(
                move, signer, erc20.address, data, doing="approving the portal", timeout_s=timeout_s
            )
            await self.store.update(move, DONE)

    # --- fund ---------------------------------------------------------------------------------

    async def fund(
        self,
        custody: Custody,
        token: str,
        amount: int,
        senders: Sequence[Sender],
        *,
        max_fee: int | None = None,
        expires_in_s: int = 1_800,
        timeout_s: float | None = None,
        top_up: bool = False,
    ) -> Funded:
        """CTC: move `amount` from the sole custody into a bilateral one, as one note.

        If the custody is funded already, this returns that note and moves nothing; a funding that a
        restart interrupted is finished first.  Notes are merged first if no two are worth enough.

        Args:
            senders: tried in turn.
            max_fee: the most that a relayer may take for each move, in token units; None allows a
                tenth of the amount.
            expires_in_s: the least time until the move's deadline.
            top_up: make another note even if the custody is funded.

        Returns when the note is in the tree.  Raises NoteInvalid if it was funded with another
        amount, FundsTooLow, FeeTooHigh, ProverError and its subclasses, MoveFailed, and the last
        sender's error.  Cancelled: raises Cancelled; the move may still happen.
        """
        timeout_s = time_left(timeout_s, MOVE_S)
        if custody.is_sole:
            raise NoteInvalid("custody", "funding goes into a custody of two")
        custody.lane_of(self.wallet.public_key)
        token = checksummed("token", token)
        async with self._funders.setdefault(custody.id, trio.Lock()):
            if not top_up:
                before = await self._earlier_funding(custody, token, amount, senders, timeout_s)
                if before is not None:
                    return before
            return await self._fund_anew(
                custody, token, amount, senders, max_fee, expires_in_s, timeout_s
            )

    async def _fund_anew(
        self,
        custody: Custody,
        token: str,
        amount: int,
        senders: Sequence[Sender],
        max_fee: int | None,
        expires_in_s: int,
        timeout_s: float,
    ) -> Funded:
        # Reserved once, for the versions of all senders: each of them makes this same note.
        counters = await self.store.reserve(2)
        note = self.view.note(custody, token, amount, counters[0])
        memo = self.view.seal(note, counters[0])

        def plan(
            inputs: tuple[Note, Note], empty: bool, terms: SendTerms, deadline: int
        ) -> _PlannedMove:
            left = inputs[0].amount + inputs[1].amount - amount - terms.fee
            change = self.view.note(self.view.sole, token, left, counters[1])
            # In random order, so that observers cannot tell which output is the change.
            outputs = shuffled(
                (
                    Output(note.inner, amount, memo),
                    Output(change.inner, left, self.view.seal(change, counters[1])),
                )
            )
            made = CtcPlan(inputs, empty, outputs, terms.relayer, terms.fee, deadline)
            return _PlannedMove(made, [(note, counters[0]), (change, counters[1])])

        moved = await self._move(
            "fund", "ctc", token, amount, True, plan, senders, max_fee, expires_in_s, timeout_s,
            note.commitment,
        )  # fmt: skip
        return Funded(note, moved)

    async def _earlier_funding(
        self,
        custody: Custody,
        token: str,
        amount: int,
        senders: Sequence[Sender],
        timeout_s: float,
    ) -> Funded | None:
        """The note of an earlier call of `fund` for this custody, waiting for it if it is under
        way; None if there is none."""
        await self.refresh()
        moves = await self.store.moves(alive=True)
        for held in await self.store.notes(custody=custody.id, mine=True):
            commitment = held.note.commitment
            waiting = [
                move
                for move in moves
                if move.purpose == "fund" and move.status == SENT and commitment in move.outputs
            ]
            if held.position is None and not waiting:
                continue
            if (held.note.token, held.note.amount) != (token, amount):
                raise NoteInvalid(
                    "amount", f"this custody was funded with {held.note.amount}, not {amount}"
                )
            if held.position is None:
                # All versions of this move spend the same notes, so at most one is mined. The
                # newest one has the latest deadline.
                failed = await self._tracker.hand_over(waiting[-1], senders)
                if failed is not None:
                    raise failed
                await self._tracker.await_in_tree(waiting[-1].id, commitment, timeout_s)
            await self.store.report(move.id for move in waiting)
            return Funded(held.note, None)
        return None

    async def merge(
        self,
        token: str,
        senders: Sequence[Sender],
        *,
        max_fee: int | None = None,
        expires_in_s: int = 1_800,
        timeout_s: float | None = None,
    ) -> CompletedMove:
        """CTC: merge the two most valuable sole notes into one.  Raises like `fund`."""
        timeout_s = time_left(timeout_s, MOVE_S)
        held = await self._spendable(token)
        if len(held) < 2:
            raise FundsTooLow(token, 0, sum(one.note.amount for one in held), 0)
        counters = await self.store.reserve(2)

        def plan(
            inputs: tuple[Note, Note], empty: bool, terms: SendTerms, deadline: int
        ) -> _PlannedMove:
            total = inputs[0].amount + inputs[1].amount - terms.fee
            made = self.view.note(self.view.sole, token, total, counters[0])
            # A CTC has two outputs always; the second one is worth nothing here.
            rest = self.view.note(self.view.sole, token, 0, counters[1])
            outputs = shuffled(
                (
                    Output(made.inner, total, self.view.seal(made, counters[0])),
                    Output(rest.inner, 0, self.view.seal(rest, counters[1])),
                )
            )
            move = CtcPlan(inputs, empty, outputs, terms.relayer, terms.fee, deadline)
            return _PlannedMove(move, [(made, counters[0]), (rest, counters[1])])

        worth = held[0].note.amount + held[1].note.amount
        return await self._move(
            "merge", "ctc", token, 0, True, plan, senders, max_fee, expires_in_s, timeout_s, None,
            exactly=[held[0].note, held[1].note] if worth else None,
        )  # fmt: skip

    # --- withdraw -----------------------------------------------------------------------------

    async def withdraw(
        self,
        token: str,
        amount: int,
        recipient: str,
        senders: Sequence[Sender],
        *,
        max_fee: int | None = None,
        expires_in_s: int = 1_800,
        timeout_s: float | None = None,
    ) -> CompletedMove:
        """CTA: `amount` units leave the sole custody; the recipient gets them less the fee.

        Returns when it is in the tree.  Raises like `fund`; FeeTooHigh also if the fee exceeds the
        amount; TokenChanged before anything is signed; TokenUnfit if the token does not pay this
        recipient, which is known early only if no relayer is asked.  Cancelled: raises Cancelled;
        the move may still happen.
        """
        timeout_s = time_left(timeout_s, MOVE_S)
        recipient = checksummed("recipient", recipient)
        await self.deployment.expect_token(self.chain, checksummed("token", token))
        # Only if no relayer is asked: the trial would show recipient and amount to our node.
        if senders and all(isinstance(one, DirectSender) for one in senders):
            portal = self.deployment.portal
            await try_payment(self.chain, checksummed("token", token), portal, recipient, amount)
        (counter,) = await self.store.reserve()

        def plan(
            inputs: tuple[Note, Note], empty: bool, terms: SendTerms, deadline: int
        ) -> _PlannedMove:
            left = inputs[0].amount + inputs[1].amount - amount
            change = self.view.note(self.view.sole, token, left, counter)
            made = CtaPlan(
                inputs, empty, change, self.view.seal(change, counter), amount, recipient,
                terms.relayer, terms.fee, deadline,
            )  # fmt: skip
            return _PlannedMove(made, [(change, counter)])

        return await self._move(
            "withdraw",
            "cta",
            token,
            amount,
            False,
            plan,
            senders,
            max_fee,
            expires_in_s,
            timeout_s,
            None,
        )

    async def withdraw_parts(
        self,
        token: str,
        parts: Sequence[tuple[str, int]],
        senders: Sequence[Sender],
        *,
        max_fee: int | None = None,
        pause: Callable[[int], Awaitable[None]] | None = None,
    ) -> list[CompletedMove]:
        """Several withdrawals, one after another: (recipient, amount) each.

        pause: awaited between two parts with the number of parts done.  Waiting there for a while,
        and until others have moved, keeps observers from linking the parts.  Raises like
        `withdraw`; parts that are done stay done.
        """
        total = sum(amount for _, amount in parts)
        available = sum(held.note.amount for held in await self._spendable(token))
        if total > available:
            raise FundsTooLow(token, total, available, (await self.balance(token)).under_way)
        done: list[CompletedMove] = []
        for at, (recipient, amount) in enumerate(parts):
            if at and pause is not None:
                await pause(at)
            done.append(await self.withdraw(token, amount, recipient, senders, max_fee=max_fee))
        return done

    # --- settle -------------------------------------------------------------------------------

    async def payee(self, token: str, amount: int) -> Payee:
        """What the other party needs to pay us `amount`, which is after any fee that we bear.

        The note is in the store from now on, and is found once it is in the tree.
        """
        (counter,) = await self.store.reserve()
        note = self.view.note(self.view.sole, token, amount, counter)
        await self.store.keep(note, counter)
        return Payee(note.inner, self.view.seal(note, counter))

    async def sign_settlement(self, settlement: PlannedSettlement) -> bytes:
        """Sign a settlement.  The signature is an option for the other party until the deadline.

        Our notes in it are busy from before the signature exists until the settlement is mined or
        its deadline has passed.  Signing one again gives the same signature.
        Raises NoteBusy, DeadlinePassed, WalletError, and ProposalRefused if it does not pay our
        payout into a note that our own memo opens, or could never be mined.  Cancelled: raises
        Cancelled; the notes stay busy until the deadline.
        """
        call = settlement.call
        now = await self.chain_time_s()
        if call.deadline <= now:
            raise DeadlinePassed(call.deadline, now)
        note, counter = self._own_output(settlement)
        # All of this is on disk before the signature exists. From then on the other party can have
        # the settlement mined, even if this process dies.
        await self.store.keep(note, counter)
        async with self._consenting:
            if await self._settling(call) is None:
                await self._reserve_for(settlement)
        return await self.wallet.sign_typed(
            call.message(self.deployment.chain_id, self.deployment.psymm)
        )

    async def _reserve_for(self, settlement: PlannedSettlement) -> None:
        """Record that our notes are busy for this settlement until its deadline."""
        call = settlement.call
        await self.tree.advance()
        for commitment in call.commitments:
            # The contract accepts a commitment once. This settlement could never be mined, but
            # would block both parties' notes until its deadline.
            if self.tree.leaf(commitment) is not None:
                raise ProposalRefused("output", "a new note", "one that is on chain already")
        for note in settlement.plan.inputs:
            await self.store.keep(note)
        await self.store.begin(
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
        lane = plan.custody.lane_of(self.wallet.public_key)
        proposes = settlement.proposer == lane
        due = payout_after_fee(settlement.payouts[lane], plan.fee, proposes=proposes)
        found = [
            own
            for output in plan.outputs
            if (own := self.view.find(output.commitment(plan.token), output.memo)) is not None
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
        place = (self.deployment.chain_id, self.deployment.psymm)
        settlement.consent(*place, trader=signatures.trader, solver=signatures.solver)
        await self.sign_settlement(settlement)
        move = await self._settling(settlement.call)
        if move is None:
            raise MoveFailed("settle", "it is not in the store")
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
        call, prove_ms = await self._prove(settlement.plan, signatures)
        # Recorded before any sender has the call, so that a restart hands over the same one.
        await self.store.update(move.id, SENT, details=call.to_json())
        reprove = partial(self._reprove_if_root_gone, move.id, settlement.plan, signatures)
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

    async def await_settlement(
        self, settlement: PlannedSettlement, *, timeout_s: float | None = None
    ) -> None:
        """Wait until a settlement that the other party sends is in the tree.

        Raises NotSynchronised when the time is up, MoveFailed when its deadline has passed.
        """
        timeout_s = time_left(timeout_s, MOVE_S)
        call = settlement.call
        with own_deadline(), trio.move_on_after(timeout_s):
            while True:
                await self.refresh()
                if self.tree.leaf(call.commitments[0]) is not None:
                    return
                # By the time of the counted blocks: a newer block could still be replaced by one
                # that contains the settlement.
                if await self._tracker.counted_time_s() > call.deadline:
                    raise MoveFailed("settle", "its deadline has passed and nobody sent it")
                await trio.sleep(self.chain.poll_s)
        raise NotSynchronised("settlement 0x" + call.commitments[0].hex(), timeout_s)

    async def _settling(self, call: CtcCall) -> Move | None:
        """The move of this settlement.  Settlements are the same if what was signed is the same."""
        place = (self.deployment.chain_id, self.deployment.psymm)
        for move in await self.store.moves():
            if (
                move.purpose == "settle"
                and move.status != FAILED
                and move.call.digest(*place) == call.digest(*place)
            ):
                return move
        return None

    # --- restart ------------------------------------------------------------------------------

    async def resume(
        self, senders: Sequence[Sender] = (), *, patience_s: float = PATIENCE_S
    ) -> list[Move]:
        """Continue with what a restart interrupted.  Returns the moves still under way.

        The tree shows what happened meanwhile.  A transaction of our own account is waited for; if
        the node forgot it, the same bytes are handed over again.  A call for a relayer is handed
        over again unchanged.  All moves run at once, for at most `patience_s` seconds.  An old move
        does not delay the new command longer, and its error does not end the command.
        Raises what reading the chain and the file raises.  Cancelled: raises Cancelled; the moves
        stay under way.
        """
        await self.refresh()
        await self._tracker.resume(senders, patience_s)
        await self.refresh()
        return await self.store.moves(alive=True)

    async def ended(self) -> list[Move]:
        """Deposits, fundings and withdrawals that have ended and are not reported to their owner
        yet, also those of this run: see `acknowledge_ended`."""
        return [
            await self._tracker.with_mined_hash(move)
            for move in await self.store.moves(alive=False)
            if not move.reported and move.purpose in ("deposit", "fund", "withdraw")
        ]

    async def acknowledge_ended(self) -> None:
        """Record that all ended moves are reported to their owner.

        Call it after the report. If it came first and the command were cut off between the two, the
        owner would repeat the command, and the next one could not tell that it was done.
        """
        await self.store.report(move.id for move in await self.ended())

    # --- parts --------------------------------------------------------------------------------

    async def _move(  # noqa: C901 - one sequence, read from top to bottom
        self,
        purpose: str,
        kind: str,
        token: str,
        amount: int,
        fee_on_top: bool,
        plan: Callable[[tuple[Note, Note], bool, SendTerms, int], _PlannedMove],
        senders: Sequence[Sender],
        max_fee: int | None,
        expires_in_s: int,
        timeout_s: float,
        awaited: bytes | None,
        exactly: list[Note] | None = None,
    ) -> CompletedMove:
        """Choose notes, plan, sign, prove and send, with one sender after another."""
        if self.prover is None:
            raise CustodyError("this vault was opened without a prover, so it only looks")
        if not 0 <= amount < 1 << 128 or (amount == 0 and exactly is None):
            raise CallInvalid("amount", f"{amount} is not above 0 and below 2^128")
        token = checksummed("token", token)
        # Chosen once, for all senders: their versions spend the same notes, so at most one of them
        # can be mined.
        inputs: list[Note] | None = exactly
        failed: PSymmError | None = None
        before: int | None = None
        handed: list[tuple[int, Call, int]] = []
        for sender in senders:
            try:
                terms = await sender.terms(kind, token)
                needed = _needed(token, amount, terms.fee, fee_on_top, max_fee, inputs)
            except PSymmError as refused:
                failed = refused
                continue
            deadline = deadline_after(await self.now_s(), expires_in_s)
            while True:
                if inputs is None:
                    await self._merge_until(
                        token, needed, senders, max_fee, expires_in_s, timeout_s
                    )
                async with self._choosing:
                    if inputs is None:
                        inputs = await self._select_notes(token, needed)
                    if inputs is None:
                        continue  # another task was faster
                    both, empty = paired(inputs)
                    if empty:
                        await self.store.keep(both[1])  # a new proof needs its blinding again
                    made = plan(both, empty, terms, deadline)
                    call = made.plan.call
                    # From here on the notes are busy for every other task and command.
                    move = await self.store.begin(
                        kind,
                        purpose,
                        inputs=inputs,
                        outputs=made.outputs,
                        deadline=deadline,
                        details=call.to_json(),
                        instead_of=before,
                    )
                    break
            try:
                signature = await self.wallet.sign_typed(
                    call.message(self.deployment.chain_id, self.deployment.psymm)
                )
                signatures = Signatures(signature, signature)
                call, prove_ms = await self._prove(made.plan, signatures)
                # The order matters: recorded as sent, then sent. From here on it can happen even
                # if this process dies.
                await self.store.update(move, SENT, details=call.to_json())
            except BaseException as stopped:
                # Nobody has seen this call, so its notes are free. Shielded, because the error may
                # be a cancellation, which would also cancel the update.
                with trio.CancelScope(shield=True):
                    await self.store.update(move, FAILED, reason=type(stopped).__name__)
                    await self.store.report([move])
                raise
            before = move
            handed.append((move, call, prove_ms))
            receipt: Receipt | None = None
            reprove = partial(self._reprove_if_root_gone, move, made.plan, signatures)
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
            await self._tracker.await_in_tree(move, awaited or call.outputs[0], timeout_s, relay)
            # A withdrawal stays unreported until its command has shown it: see `acknowledge_ended`.
            await self.store.report(
                one for one, _, _ in handed if one != move or purpose != "withdraw"
            )
            return CompletedMove(move, receipt, call, call.fee, prove_ms)
        await self.store.report(one for one, _, _ in handed)
        if failed is None:
            raise MoveFailed(purpose, "no sender was given")
        raise failed

    async def _merge_until(
        self,
        token: str,
        needed: int,
        senders: Sequence[Sender],
        max_fee: int | None,
        expires_in_s: int,
        timeout_s: float,
    ) -> None:
        """Merge until two notes are worth enough.

        Waits for what moves under way will return, so that one large note can serve several moves
        at once.  Raises FundsTooLow before the first merge.
        """
        ends = trio.current_time() + timeout_s
        while True:
            held = await self._spendable(token)
            amounts = [one.note.amount for one in held]
            # A move spends two notes at most; the most valuable come first.
            if sum(amounts[:2]) >= needed:
                return
            if sum(amounts) >= needed:
                await self.merge(
                    token, senders, max_fee=max_fee, expires_in_s=expires_in_s, timeout_s=timeout_s
                )
                continue
            under_way = (await self.balance(token)).under_way
            if sum(amounts) + under_way < needed or trio.current_time() > ends:
                raise FundsTooLow(token, needed, sum(amounts), under_way)
            await trio.sleep(self.chain.poll_s)

    async def _select_notes(self, token: str, needed: int) -> list[Note] | None:
        """The one or two notes that exceed the need by the least; None if no two suffice."""
        held: list[Note] = [one.note for one in await self._spendable(token)]
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

    async def _spendable(self, token: str) -> list[StoredNote]:
        """Sole notes that can be spent now, most valuable first."""
        await self.refresh()
        held = await self.store.notes(
            token=checksummed("token", token), status=UNSPENT, custody=self.view.sole.id
        )
        return sorted((one for one in held if one.note.amount), key=lambda one: -one.note.amount)

    async def _prove(self, plan: Plan, signatures: Signatures) -> tuple[Call, int]:
        """Prove a plan under the newest root.  Returns the finished call and the time in ms."""
        if self.prover is None:
            raise CustodyError("this vault was opened without a prover, so it only looks")
        chain_id, contract = self.deployment.chain_id, self.deployment.psymm
        unproved = plan.call
        # A proof takes seconds and much memory, so first check everything that would waste it: the
        # deadline, the signatures, and that the notes are unspent.
        now = await self.chain_time_s()
        if unproved.deadline < now + PROOF_TIME_S:
            raise DeadlinePassed(unproved.deadline, now)
        digest = unproved.digest(chain_id, contract)
        signatures.check(plan.custody, digest)
        await self.tree.advance()
        real = plan.inputs[:1] if plan.empty1 else plan.inputs
        for note in real:
            if self.tree.spent_block(note.nullifier) is not None:
                raise NoteBusy(note.commitment, "spent")
        # The signatures do not cover the root. So a move can be proved again under another root
        # without asking the wallet, or the other party.
        paths = [self.tree.proof(note.commitment) for note in real]
        root = self.tree.root
        rooted: Call
        if isinstance(plan, CtcPlan):
            rooted = replace(plan.call, root=root)
            inputs = plan.witness(rooted, digest, signatures, paths)
        else:
            rooted = replace(plan.call, root=root)
            inputs = plan.witness(rooted, digest, signatures, paths)
        made = await self.prover.prove(
            rooted.kind, inputs, rooted.public_inputs(chain_id, contract)
        )
        return rooted.proved(made.proof), made.prove_ms

    async def _reprove_if_root_gone(
        self, move: int, plan: Plan, signatures: Signatures, call: Call
    ) -> Call | None:
        """A `sending.Reprove`.  Raises DeadlinePassed, and NotSynchronised while the chain lacks
        the notes that the move spends, too."""
        if not await self._root_gone(call):
            return None
        return await self._reprove(move, plan, signatures)

    async def _reprove(self, move: int, plan: Plan, signatures: Signatures) -> Call:
        made, _ = await self._prove(plan, signatures)
        # Recorded before it is sent, like the first proof.
        await self.store.update(move, SENT, details=made.to_json())
        log.info("move-reproved", extra={"move": move})
        return made

    async def _root_gone(self, call: Call) -> bool:
        return not await self.pool.is_known_root(call.root, await self.chain.head())

    async def _reprove_from_store(self, move: Move, call: Call) -> Call | None:
        """The same for a move from an earlier run, rebuilt from the store; None also if the store
        lacks one of its notes."""
        plan = plan_of(call, move.inputs, [held.note for held in await self.store.notes()])
        # Without the other party's signature, a settlement cannot be proved here.
        if plan is None or not plan.custody.is_sole or not await self._root_gone(call):
            return None
        message = call.message(self.deployment.chain_id, self.deployment.psymm)
        signature = await self.wallet.sign_typed(message)
        return await self._reprove(move.id, plan, Signatures(signature, signature))


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


@dataclass(frozen=True, slots=True)
class _PlannedMove:
    """A plan and our own notes that it makes, with their counters."""

    plan: Plan
    outputs: list[tuple[Note, int | None]]


async def open_vault(
    wallet: Wallet,
    deployment: Deployment,
    chain: Chain,
    *,
    home: Path | None = None,
    prover: Prover | None = None,
    depth: int = 1,
    view: ViewingKey | None = None,
) -> Vault:
    """Open a wallet's vault and bring it up to date.

    Args:
        home: the directory of its two files; None keeps everything in memory.
        prover: None: the vault only reads.
        depth: how many blocks deep a note must be to count.
        view: the viewing key, if it is known; otherwise the wallet signs to derive it.

    Raises WrongChain, StoreForeign, StoreLocked, StoreCorrupt, TreeCorrupt, UnsteadySigner.
    """
    await chain.check()
    if view is None:
        view = await viewing_key(wallet, deployment.chain_id, deployment.psymm)
    elif (view.public_key, view.chain_id, view.contract) != (
        wallet.public_key,
        deployment.chain_id,
        deployment.psymm,
    ):
        raise NoteInvalid("viewing key", "is another wallet's or another deployment's")
    if home is not None:
        await trio.to_thread.run_sync(private_directory, home)
    # The store first: its lock also protects the tree's file.
    store = await open_store(view, home / "notes.sqlite" if home else None)
    try:
        tree = await open_tree(
            deployment.pool(chain),
            deployment.first_block,
            depth=depth,
            path=home / "tree.sqlite" if home else None,
        )
    except BaseException:
        await store.aclose()
        raise
    vault = Vault(wallet, view, deployment, tree, store, prover)
    try:
        await vault.refresh()
    except BaseException:
        await vault.aclose()
        raise
    return vault
