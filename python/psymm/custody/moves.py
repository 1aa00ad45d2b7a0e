"""A wallet's money in pSymm: deposit, fund, withdraw, settle, and carrying on after a restart.

A `Vault` joins a wallet with its notes, the tree, the prover and the contracts.  Each move is
written down before anybody outside sees any of it, and what can be repeated is repeated as the
same bytes: a deposit has one commitment and a move one pair of nullifiers, and the contract takes
each once.  How a move reaches the chain and is seen through is `sending.Carrier`'s.

One file, though long: all moves choose notes, plan and prove by the same few methods, under the
same locks.

What a move gives away is for the caller to weigh: `withdrawal_warnings` names what would give the
owner of a withdrawal away.
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
    Carrier,
    DirectSender,
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
    Held,
    Move,
    NoteStore,
    open_store,
)
from psymm.custody.viewing import ViewingKey, viewing_key
from psymm.errors import PSymmError
from psymm.private_files import private_directory
from psymm.wallet import CallbackWallet, KeyWallet, Wallet

log = logging.getLogger(__name__)

DEFAULT_FEE_PART: Final = 10
"""A relayer's fee is at most the amount divided by this, where no limit is given."""

PROOF_TIME_S: Final = 30
"""A move whose deadline is nearer than this is not begun."""

MOVE_S: Final = 300.0
"""How long a proved move is waited for where nobody says."""
PATIENCE_S: Final = 20.0
"""How long `resume` waits for old moves before the new command goes on."""


@dataclass(frozen=True, slots=True)
class Balance:
    """Units of one token in sole notes.  under_way: in notes that a move under way spends."""

    token: str
    available: int
    under_way: int


@dataclass(frozen=True, slots=True)
class Moved:
    """A move that is in the tree.  receipt: None where somebody else's sending of it won.
    fee: token units paid to the relayer."""

    move: int
    receipt: Receipt | None
    call: Call
    fee: int
    prove_ms: int


@dataclass(frozen=True, slots=True)
class Funded:
    """A note in a bilateral custody, made by `Vault.fund`.  moved: None where it stood before."""

    note: Note
    moved: Moved | None


class Vault:
    """One wallet's notes on one deployment.  Open with `open_vault`; an `async with`.

    Moves that do not share notes can run at once, in several tasks.  They wait for the chain until
    the caller's deadline (`trio.fail_after` and its like), or their own default where it set none;
    timeout_s says otherwise.
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
        self._carrier: Final = Carrier(
            tree,
            store,
            wallet if isinstance(wallet, KeyWallet | CallbackWallet) else None,
            self._remade,
        )
        self._depositing = trio.Lock()
        self._choosing = trio.Lock()
        self._consenting = trio.Lock()
        self._funders: dict[bytes, trio.Lock] = {}

    def __repr__(self) -> str:
        return f"Vault({self.wallet.address})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the files.  Not cut short by cancellation.  The prover is its maker's to close."""
        await self.store.aclose()
        await self.tree.aclose()

    @property
    def chain(self) -> Chain:
        return self.pool.chain

    # --- looking ------------------------------------------------------------------------------

    async def refresh(self) -> list[Held]:
        """Take in new blocks; notes of ours that were found by their memos alone."""
        return await self._carrier.refresh()

    async def balance(self, token: str) -> Balance:
        """As of the last refresh."""
        notes = await self.store.notes(token=token, custody=self.view.sole.id)
        return Balance(
            token,
            sum(held.note.amount for held in notes if held.status == UNSPENT),
            sum(held.note.amount for held in notes if held.status == BUSY),
        )

    async def coming(self, token: str) -> int:
        """Units that our own moves under way bring back into sole notes, as of the last refresh."""
        made = {one for move in await self.store.moves(alive=True) for one in move.outputs}
        back: dict[int | None, int] = {}
        for held in await self.store.notes(token=token, custody=self.view.sole.id):
            if held.status == EXPECTED and held.note.commitment in made:
                # Moves made one instead of another share a counter; one of them happens.
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
        """Block and transaction hash in which a move happened; None if it has not, as deep as
        this vault counts."""
        commitment = call.outputs[0]
        if self.tree.leaf(commitment) is None:
            return None
        found = await self.tree.transaction_with(call.nullifiers[0], spent=True)
        return None if found is None else found[:2]

    async def relayers_used(self) -> frozenset[str]:
        """Accounts of the relayers that this wallet chose for a move which is in the tree."""
        return frozenset(
            move.call.relayer
            for move in await self.store.moves()
            if move.status == DONE
            and move.purpose in ("fund", "merge", "withdraw")
            and move.call.relayer != ZERO_ADDRESS
        )

    async def now_s(self) -> int:
        """What a new deadline is reckoned from: the later of the chain's newest block and this
        machine's clock, seconds."""
        return max((await self.chain.block()).timestamp_s, int(time.time()))

    async def chain_time_s(self) -> int:
        """What a deadline is judged by, here as by the contract: the chain's newest block."""
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
        """ATC: bring `amount` units of a token into one's own sole custody.

        signer: the account that holds the tokens and pays the gas; everybody sees it.  permit:
        allow by signature (EIP-2612) in the same transaction.  approve: allow that amount in a
        transaction of its own where needed; False raises AllowanceTooLow instead.
        Returns when the note is in the tree.  Raises TransactionPending where it was handed over
        and is not confirmed; `resume` carries it on.  Any other error means that this deposit does
        not happen: WrongChain, DeploymentInvalid, TokenBalanceTooLow, AllowanceTooLow, and
        TokenUnfit, TokenChanged or PermitMissing before anything is signed; WalletWithoutGas,
        Reverted and what reading the chain raises.  Cancelled: raises Cancelled; once it was handed
        over, likewise.
        """
        timeout_s = time_left(timeout_s, WAIT_S)
        erc20 = Token(self.chain, checksummed("token", token))
        if not 0 < amount < 1 << 128:
            raise CallInvalid("amount", f"{amount} is not above 0 and below 2^128")
        portal = self.deployment.portal
        # Asked again, though it was asked when all was opened: a chain's id can change, and what a
        # development pool takes in on another chain could never be proved out again.
        self.deployment.expect_crs_fits()
        await self.chain.rpc.expect_chain(self.deployment.chain_id)
        await self.deployment.expect_token(self.chain, erc20.address)
        await erc20.expect(signer.address, None, amount)
        await try_deposit(self.chain, erc20.address, portal, signer.address, amount)
        async with self._depositing:
            await self._carrier.after_earlier(signer.address, timeout_s)
            signed: Permit | None = None
            if permit:
                ends = deadline_after(await self.now_s())
                signed = await erc20.permit(signer, portal, amount, ends)
            elif approve:
                await self._approve(signer, erc20, amount, timeout_s)
            else:
                await erc20.expect(signer.address, portal, amount)
            (counter,) = await self.store.reserve()
            note = self.view.note(self.view.sole, erc20.address, amount, counter)
            memo = self.view.seal(note, counter)
            data = self.pool.deposit_data(erc20.address, amount, note.inner, memo, signed)
            move = await self.store.begin(
                "deposit",
                "deposit",
                inputs=(),
                outputs=[(note, counter)],
                deadline=None,
                details={"data": "0x" + data.hex()},
            )
            await self._carrier.transact(
                move,
                signer,
                self.pool.address,
                data,
                doing="the deposit",
                timeout_s=timeout_s,
                more_gas=insertion_gas(len(self.tree)),
            )
        await self._carrier.in_tree(move, note.commitment, timeout_s)
        return note

    async def _approve(self, signer: Signer, erc20: Token, amount: int, timeout_s: float) -> None:
        """Allow the portal an amount where it is not allowed yet; a move like any other."""
        for data in await erc20.approvals(signer.address, self.deployment.portal, amount):
            move = await self.store.begin(
                "approve",
                "approve",
                inputs=(),
                deadline=None,
                details={"token": erc20.address, "data": "0x" + data.hex()},
            )
            await self._carrier.transact(
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
        """CTC: move `amount` from one's sole custody into a bilateral one, as one note.

        Once a custody is funded, calling it again returns the same note and moves nothing;
        a funding that a restart interrupted is carried on first (`top_up` makes another note).
        senders: tried in turn.  max_fee: the most that a relayer may take for each move, in
        token units; None allows a tenth of the amount.  Notes are merged first where no two
        are worth enough.  Returns when the note is in the tree.  Raises NoteInvalid where it was
        funded with another amount, FundsTooLow, FeeTooHigh, ProverError and its kin, MoveFailed,
        and the last sender's error.  Cancelled: raises Cancelled; the move may still happen.
        """
        timeout_s = time_left(timeout_s, MOVE_S)
        if custody.is_sole:
            raise NoteInvalid("custody", "funding goes into a custody of two")
        custody.lane_of(self.wallet.public_key)
        token = checksummed("token", token)
        async with self._funders.setdefault(custody.id, trio.Lock()):
            if not top_up:
                before = await self._funding(custody, token, amount, senders, timeout_s)
                if before is not None:
                    return before
            return await self._fund(
                custody, token, amount, senders, max_fee, expires_in_s, timeout_s
            )

    async def _fund(
        self,
        custody: Custody,
        token: str,
        amount: int,
        senders: Sequence[Sender],
        max_fee: int | None,
        expires_in_s: int,
        timeout_s: float,
    ) -> Funded:
        counters = await self.store.reserve(2)
        note = self.view.note(custody, token, amount, counters[0])
        memo = self.view.seal(note, counters[0])

        def plan(inputs: tuple[Note, Note], empty: bool, terms: SendTerms, deadline: int) -> _Made:
            left = inputs[0].amount + inputs[1].amount - amount - terms.fee
            change = self.view.note(self.view.sole, token, left, counters[1])
            outputs = shuffled(
                (
                    Output(note.inner, amount, memo),
                    Output(change.inner, left, self.view.seal(change, counters[1])),
                )
            )
            made = CtcPlan(inputs, empty, outputs, terms.relayer, terms.fee, deadline)
            return _Made(made, [(note, counters[0]), (change, counters[1])])

        moved = await self._move(
            "fund", "ctc", token, amount, True, plan, senders, max_fee, expires_in_s, timeout_s,
            note.commitment,
        )  # fmt: skip
        return Funded(note, moved)

    async def _funding(
        self,
        custody: Custody,
        token: str,
        amount: int,
        senders: Sequence[Sender],
        timeout_s: float,
    ) -> Funded | None:
        """What an earlier call of `fund` for this custody made, or is still about to make."""
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
                failed = await self._carrier.hand_over(waiting[-1], senders)
                if failed is not None:
                    raise failed
                await self._carrier.in_tree(waiting[-1].id, commitment, timeout_s)
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
    ) -> Moved:
        """CTC: make one note of one's two most valuable sole notes.  Raises like `fund`."""
        timeout_s = time_left(timeout_s, MOVE_S)
        held = await self._spendable(token)
        if len(held) < 2:
            raise FundsTooLow(token, 0, sum(one.note.amount for one in held), 0)
        counters = await self.store.reserve(2)

        def plan(inputs: tuple[Note, Note], empty: bool, terms: SendTerms, deadline: int) -> _Made:
            total = inputs[0].amount + inputs[1].amount - terms.fee
            made = self.view.note(self.view.sole, token, total, counters[0])
            rest = self.view.note(self.view.sole, token, 0, counters[1])
            outputs = shuffled(
                (
                    Output(made.inner, total, self.view.seal(made, counters[0])),
                    Output(rest.inner, 0, self.view.seal(rest, counters[1])),
                )
            )
            move = CtcPlan(inputs, empty, outputs, terms.relayer, terms.fee, deadline)
            return _Made(move, [(made, counters[0]), (rest, counters[1])])

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
    ) -> Moved:
        """CTA: `amount` units leave one's sole custody; the recipient gets them less the fee.

        Returns when it is in the tree.  Raises like `fund`; FeeTooHigh also where the fee is
        more than the amount.  TokenChanged before anything is signed.  TokenUnfit where the token
        does not pay this recipient; known early only if no relayer is asked.  Cancelled: raises
        Cancelled; the move may still happen.
        """
        timeout_s = time_left(timeout_s, MOVE_S)
        recipient = checksummed("recipient", recipient)
        await self.deployment.expect_token(self.chain, checksummed("token", token))
        if senders and all(isinstance(one, DirectSender) for one in senders):
            portal = self.deployment.portal
            await try_payment(self.chain, checksummed("token", token), portal, recipient, amount)
        (counter,) = await self.store.reserve()

        def plan(inputs: tuple[Note, Note], empty: bool, terms: SendTerms, deadline: int) -> _Made:
            left = inputs[0].amount + inputs[1].amount - amount
            change = self.view.note(self.view.sole, token, left, counter)
            made = CtaPlan(
                inputs, empty, change, self.view.seal(change, counter), amount, recipient,
                terms.relayer, terms.fee, deadline,
            )  # fmt: skip
            return _Made(made, [(change, counter)])

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
    ) -> list[Moved]:
        """Several withdrawals, one after another: (recipient, amount) each.

        pause: awaited with the number of parts done between two of them; waiting there for a
        while, and for others to move, is what keeps the parts from being joined.  Raises like
        `withdraw`; parts done before stay done.
        """
        total = sum(amount for _, amount in parts)
        available = sum(held.note.amount for held in await self._spendable(token))
        if total > available:
            raise FundsTooLow(token, total, available, (await self.balance(token)).under_way)
        done: list[Moved] = []
        for at, (recipient, amount) in enumerate(parts):
            if at and pause is not None:
                await pause(at)
            done.append(await self.withdraw(token, amount, recipient, senders, max_fee=max_fee))
        return done

    # --- settle -------------------------------------------------------------------------------

    async def payee(self, token: str, amount: int) -> Payee:
        """What to give the other side to be paid `amount` (after a fee that one bears).

        The note is expected from now on and found when it is in the tree.
        """
        (counter,) = await self.store.reserve()
        note = self.view.note(self.view.sole, token, amount, counter)
        await self.store.keep(note, counter)
        return Payee(note.inner, self.view.seal(note, counter))

    async def sign_settlement(self, settlement: PlannedSettlement) -> bytes:
        """Sign a settlement: an option for the other side until its deadline.

        Our notes in it are busy from before the signature exists until it is mined or the
        deadline has passed.  Signing one again gives the same signature.
        Raises NoteBusy, DeadlinePassed, WalletError, and ProposalRefused where it does not pay
        our payout into a note that our own memo opens, or could never be mined.  Cancelled: raises
        Cancelled; the notes stay busy until the deadline.
        """
        call = settlement.call
        now = await self.chain_time_s()
        if call.deadline <= now:
            raise DeadlinePassed(call.deadline, now)
        note, counter = self._own_output(settlement)
        await self.store.keep(note, counter)
        async with self._consenting:
            if await self._settling(call) is None:
                await self._take_for(settlement)
        return await self.wallet.sign_typed(
            call.message(self.deployment.chain_id, self.deployment.psymm)
        )

    async def _take_for(self, settlement: PlannedSettlement) -> None:
        """Write down that our notes are the settlement's until its deadline."""
        call = settlement.call
        await self.tree.advance()
        for commitment in call.commitments:
            # A commitment has one life: this settlement could never be mined, yet would keep the
            # notes of both until its deadline.
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
        """The note that a settlement pays us.  Our own word for it is not asked: it is opened
        from the memo, as it will have to be after a loss of all files."""
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
    ) -> Moved:
        """Prove a settlement that both have signed and take it to the chain.

        senders: those whose relayer it names (`DirectSender` where it names none) in turn.
        Either side may do this, and both at once; it happens once.  Raises ConsentInvalid,
        ProverError and its kin, MoveFailed, and the last sender's error.
        """
        timeout_s = time_left(timeout_s, MOVE_S)
        place = (self.deployment.chain_id, self.deployment.psymm)
        settlement.consent(*place, trader=signatures.trader, solver=signatures.solver)
        await self.sign_settlement(settlement)
        move = await self._settling(settlement.call)
        if move is None:
            raise MoveFailed("settle", "the file lost it")
        if move.status == DONE:
            return Moved(move.id, None, settlement.call, settlement.plan.fee, 0)
        awaited = settlement.call.commitments[0]
        failed: PSymmError | None = None
        if move.sent is not None:
            failed = await self._carrier.hand_over(move, ())
            if failed is None or await self._carrier.happened(move.call):
                await self._carrier.in_tree(move.id, awaited, timeout_s)
                return Moved(move.id, None, move.call, move.call.fee, 0)
            if isinstance(failed, TransactionPending):
                raise failed
            # What was sent can no longer happen, most likely for the root that it was proved
            # under: a reorganisation took that away. The settlement itself still can.
        call, prove_ms = await self._prove(settlement.plan, signatures)
        await self.store.update(move.id, SENT, details=call.to_json())
        remake = partial(self._prove_anew, move.id, settlement.plan, signatures)
        for sender in senders:
            try:
                call, receipt = await self._carrier.send_rooted(
                    sender, move.id, "ctc", call, remake
                )
            except PSymmError as refused:
                failed = refused
                if await self._carrier.happened(call):
                    failed = None
                    receipt = None
                elif isinstance(refused, TransactionPending):
                    raise
                else:
                    continue
            await self._carrier.in_tree(move.id, awaited, timeout_s)
            return Moved(move.id, receipt, call, call.fee, prove_ms)
        raise failed or MoveFailed("settle", "no sender was given")

    async def await_settlement(
        self, settlement: PlannedSettlement, *, timeout_s: float | None = None
    ) -> None:
        """Wait until a settlement that the other side sends is in the tree.

        Raises NotSynchronised when the time is up, MoveFailed when its deadline has passed.
        """
        timeout_s = time_left(timeout_s, MOVE_S)
        call = settlement.call
        with own_deadline(), trio.move_on_after(timeout_s):
            while True:
                await self.refresh()
                if self.tree.leaf(call.commitments[0]) is not None:
                    return
                if await self._carrier.counted_time_s() > call.deadline:
                    raise MoveFailed("settle", "its deadline has passed and nobody sent it")
                await trio.sleep(self.chain.poll_s)
        raise NotSynchronised("settlement 0x" + call.commitments[0].hex(), timeout_s)

    async def _settling(self, call: CtcCall) -> Move | None:
        """The move of exactly this settlement: what was signed is what tells them apart."""
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
        """Carry on with what a restart interrupted; the moves that still are under way after.

        What happened meanwhile is found in the tree.  A transaction that our own account signed is
        waited for, and handed over again, the same bytes, where the node forgot it; a call that a
        relayer got is handed over again, the same call.  All at once, for `patience_s` seconds: an
        old move never ends the new command with an error of its own, and never holds it up longer.
        Raises what reading the chain and the file raises.  Cancelled: raises Cancelled; the moves
        stay under way.
        """
        await self.refresh()
        await self._carrier.resume(senders, patience_s)
        await self.refresh()
        return await self.store.moves(alive=True)

    async def ended(self) -> list[Move]:
        """Deposits, fundings and withdrawals that have ended and that their owner did not hear of
        yet.  A deposit or withdrawal of this very run is one, too: see `acknowledge_ended`."""
        return [
            await self._carrier.with_hash(move)
            for move in await self.store.moves(alive=False)
            if not move.reported and move.purpose in ("deposit", "fund", "withdraw")
        ]

    async def acknowledge_ended(self) -> None:
        """Note that the owner has heard of all that has ended.

        Called once he has: a command that is cut off before it says that money moved would be
        repeated, and nothing would tell the next one that it was done.
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
        plan: Callable[[tuple[Note, Note], bool, SendTerms, int], _Made],
        senders: Sequence[Sender],
        max_fee: int | None,
        expires_in_s: int,
        timeout_s: float,
        awaited: bytes | None,
        exactly: list[Note] | None = None,
    ) -> Moved:
        """Choose notes, plan, sign, prove and send, with one sender after another."""
        if self.prover is None:
            raise CustodyError("this vault was opened without a prover, so it only looks")
        if not 0 <= amount < 1 << 128 or (amount == 0 and exactly is None):
            raise CallInvalid("amount", f"{amount} is not above 0 and below 2^128")
        token = checksummed("token", token)
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
                    await self._gather(token, needed, senders, max_fee, expires_in_s, timeout_s)
                async with self._choosing:
                    if inputs is None:
                        inputs = await self._choose(token, needed)
                    if inputs is None:
                        continue  # another task was faster
                    both, empty = paired(inputs)
                    if empty:
                        await self.store.keep(both[1])  # to prove the move anew, if need be
                    made = plan(both, empty, terms, deadline)
                    call = made.plan.call
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
                # From here on it can happen, whatever becomes of us.
                await self.store.update(move, SENT, details=call.to_json())
            except BaseException as stopped:
                with trio.CancelScope(shield=True):
                    await self.store.update(move, FAILED, reason=type(stopped).__name__)
                    await self.store.report([move])
                raise
            before = move
            handed.append((move, call, prove_ms))
            receipt: Receipt | None = None
            remake = partial(self._prove_anew, move, made.plan, signatures)
            try:
                call, receipt = await self._carrier.send_rooted(sender, move, kind, call, remake)
            except TransactionPending:
                # Nobody else is asked: it may be mined, and the next command takes it up.
                raise
            except PSymmError as refused:
                failed = refused
                await self._carrier.give_up(move, sender, refused)
                # One that was asked before, and said no, may have sent it all the same.
                mined = [one for one in handed if await self._carrier.happened(one[1])]
                if not mined:
                    continue
                move, call, prove_ms = mined[-1]
            relay = None
            if move == before:
                relay = partial(self._carrier.send_rooted, sender, move, kind, call, remake)
            await self._carrier.in_tree(move, awaited or call.outputs[0], timeout_s, relay)
            await self.store.report(
                one for one, _, _ in handed if one != move or purpose != "withdraw"
            )
            return Moved(move, receipt, call, call.fee, prove_ms)
        await self.store.report(one for one, _, _ in handed)
        if failed is None:
            raise MoveFailed(purpose, "no sender was given")
        raise failed

    async def _gather(
        self,
        token: str,
        needed: int,
        senders: Sequence[Sender],
        max_fee: int | None,
        expires_in_s: int,
        timeout_s: float,
    ) -> None:
        """Merge until two notes are worth enough.

        What moves under way will bring back is waited for, so that one large note can serve
        several moves at once.  Raises FundsTooLow before the first merge.
        """
        ends = trio.current_time() + timeout_s
        while True:
            held = await self._spendable(token)
            amounts = [one.note.amount for one in held]
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

    async def _choose(self, token: str, needed: int) -> list[Note] | None:
        """One or two notes that are worth enough, as little above it as can be; None: no two."""
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

    async def _spendable(self, token: str) -> list[Held]:
        """Sole notes that can be spent now, most valuable first."""
        await self.refresh()
        held = await self.store.notes(
            token=checksummed("token", token), status=UNSPENT, custody=self.view.sole.id
        )
        return sorted((one for one in held if one.note.amount), key=lambda one: -one.note.amount)

    async def _prove(self, plan: Plan, signatures: Signatures) -> tuple[Call, int]:
        """The finished call, under the newest root."""
        if self.prover is None:
            raise CustodyError("this vault was opened without a prover, so it only looks")
        chain_id, contract = self.deployment.chain_id, self.deployment.psymm
        unproved = plan.call
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

    async def _prove_anew(
        self, move: int, plan: Plan, signatures: Signatures, call: Call
    ) -> Call | None:
        """See `sending.Remake`.  Raises DeadlinePassed, and NotSynchronised while the chain does
        not have the notes that it spends either."""
        if not await self._root_gone(call):
            return None
        return await self._under_new_root(move, plan, signatures)

    async def _under_new_root(self, move: int, plan: Plan, signatures: Signatures) -> Call:
        made, _ = await self._prove(plan, signatures)
        await self.store.update(move, SENT, details=made.to_json())
        log.info("move-proved-anew", extra={"move": move})
        return made

    async def _root_gone(self, call: Call) -> bool:
        return not await self.pool.is_known_root(call.root, await self.chain.head())

    async def _remade(self, move: Move, call: Call) -> Call | None:
        """The same for a move of which only the file is left; None also where that does not hold
        all of its notes."""
        plan = plan_of(call, move.inputs, [held.note for held in await self.store.notes()])
        if plan is None or not plan.custody.is_sole or not await self._root_gone(call):
            return None
        message = call.message(self.deployment.chain_id, self.deployment.psymm)
        signature = await self.wallet.sign_typed(message)
        return await self._under_new_root(move.id, plan, Signatures(signature, signature))


def _needed(
    token: str,
    amount: int,
    fee: int,
    fee_on_top: bool,
    max_fee: int | None,
    inputs: Sequence[Note] | None,
) -> int:
    """What a move takes with a sender's fee. Raises FeeTooHigh, FundsTooLow."""
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
class _Made:
    """A plan and the own notes that come out of it, with their counters."""

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

    home: the directory of its two files; None keeps all in memory.  view: where the viewing key
    is at hand; else the wallet is asked for the signature.  depth: confirmations.
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
    # The store first: who holds it writes the tree's file, too.
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
