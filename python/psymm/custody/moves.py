"""A wallet's money in pSymm: deposit, fund, merge, withdraw, and resuming after a restart.

A `Vault` joins a wallet with its notes, the tree, the prover and the contracts.  Deposits are
transactions of an account and are made here.  Moves of notes are made by `making.MoveMaker`, and
settlements, which both parties sign, by `settling.SettlementMoves` (`Vault.settlements`).
`sending.MoveTracker` hands all of them over and waits for them.

A move can reveal its owner by its amount, address or time.  The caller weighs that: see
`warnings.withdrawal_warnings`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import trio

from psymm.chain.addresses import ZERO_ADDRESS, checksummed
from psymm.chain.contracts import Permit, Pool, Token, insertion_gas
from psymm.chain.deployment import Deployment
from psymm.chain.errors import CallInvalid
from psymm.chain.rpc import time_left
from psymm.chain.sync import TreeSync, open_tree
from psymm.chain.tokens import try_deposit, try_payment
from psymm.chain.transactions import WAIT_S, Chain, Signer
from psymm.custody.errors import FundsTooLow, NoteInvalid
from psymm.custody.making import MOVE_S, CompletedMove, MoveMaker, MoveOptions
from psymm.custody.notes import Custody, Note
from psymm.custody.planning import deadline_after
from psymm.custody.prover import Prover
from psymm.custody.proving import MoveProver
from psymm.custody.sending import DirectSender, MoveTracker, Sender
from psymm.custody.settling import SettlementMoves
from psymm.custody.store import NoteStore, open_store
from psymm.custody.stored import BUSY, DONE, EXPECTED, SENT, UNSPENT, Move, StoredNote
from psymm.custody.viewing import ViewingKey, viewing_key
from psymm.private_files import private_directory
from psymm.wallet import CallbackWallet, KeyWallet, Wallet

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
        self.proving: Final = MoveProver(wallet, deployment, tree, store, prover)
        signer = wallet if isinstance(wallet, KeyWallet | CallbackWallet) else None
        self._tracker: Final = MoveTracker(tree, store, signer, self.proving.reprove_from_store)
        self.making: Final = MoveMaker(wallet, view, deployment, store, self._tracker, self.proving)
        self.settlements: Final = SettlementMoves(
            wallet, view, deployment, tree, store, self._tracker, self.proving
        )
        # One deposit at a time: all deposits of an account share its allowance and permit nonces.
        self._depositing = trio.Lock()
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
        try:
            await self.tree.aclose()
        finally:
            # Last: its lock also protects the tree's file.
            await self.store.aclose()

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

    async def relayers_used(self) -> frozenset[str]:
        """Accounts of the relayers that this wallet named in a move that is in the tree."""
        return frozenset(
            move.call.relayer
            for move in await self.store.moves()
            if move.status == DONE
            and move.purpose in ("fund", "merge", "withdraw")
            and move.call.relayer != ZERO_ADDRESS
        )

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
                ends = deadline_after(await self.chain.now_s())
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
            options = MoveOptions(senders, max_fee, expires_in_s, timeout_s)
            return Funded(*await self.making.fund(custody, token, amount, options))

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
            # The output of a funding that failed: it will never be in the tree.
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
        return await self.making.merge(
            token, MoveOptions(senders, max_fee, expires_in_s, timeout_s)
        )

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
        options = MoveOptions(senders, max_fee, expires_in_s, timeout_s)
        return await self.making.withdraw(token, amount, recipient, options)

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
        available = sum(held.note.amount for held in await self.making.spendable(token))
        if total > available:
            raise FundsTooLow(token, total, available, await self.making.under_way(token))
        done: list[CompletedMove] = []
        for at, (recipient, amount) in enumerate(parts):
            if at and pause is not None:
                await pause(at)
            done.append(await self.withdraw(token, amount, recipient, senders, max_fee=max_fee))
        return done

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
    # Before the wallet signs for a chain that the node does not serve.
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
