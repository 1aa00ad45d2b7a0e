"""Who takes a finished move to the chain, and what becomes of it there.

A `Sender` is a relayer for a fee, or the party itself. A `Carrier` hands a wallet's moves to
senders and sees them through: after a restart, after a node that forgot them, and after a
reorganisation. What it hands over again is always the same call or the same signed bytes, so a
move happens at most once.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import trio

from psymm.chain.addresses import ZERO_ADDRESS
from psymm.chain.calls import Call
from psymm.chain.contracts import Pool
from psymm.chain.errors import (
    BadReply,
    ChainDown,
    ChainError,
    Reverted,
    TransactionPending,
)
from psymm.chain.rpc import own_deadline, time_left
from psymm.chain.sync import TreeCorrupt, TreeSync
from psymm.chain.transactions import WAIT_S, Chain, Receipt, Sent, Signer
from psymm.custody.errors import MoveFailed, MoveUnderWay
from psymm.custody.store import DONE, FAILED, PLANNED, SENT, Held, Move, NoteStore
from psymm.errors import PSymmError

log = logging.getLogger(__name__)


class _NonceInUse(Exception):
    """A new transaction was given the nonce of one that is on its way or done."""


@dataclass(frozen=True, slots=True)
class SendTerms:
    """What a sender asks for one move.  fee: token units; relayer: the address that gets it.

    No fee: relayer is the zero address.
    """

    relayer: str = ZERO_ADDRESS
    fee: int = 0


_LOOKS: Final = 20
"""How often one thing is looked for before it is asked whether the chain went back meanwhile."""


class Sender(Protocol):
    """Takes finished moves to the chain.  The relayer's client is one, DirectSender another."""

    async def terms(self, kind: str, token: str) -> SendTerms:
        """What a move of a kind ("ctc" or "cta") in a token costs.  Asked before it is signed."""
        ...

    async def send(self, kind: str, call: Call) -> Receipt:
        """Take a finished move to the chain and wait until it is mined.

        Raises a PSymmError if it was refused or its fate is unknown; either way it may still be
        mined until its deadline.  Cancelled: likewise.
        """
        ...


class DirectSender:
    """Sends moves from an account of one's own, which everybody sees and which pays the gas."""

    def __init__(
        self, pool: Pool, signer: Signer, *, depth: int = 1, timeout_s: float | None = None
    ):
        self.pool: Final = pool
        self.signer: Final = signer
        self.depth: Final = depth
        self.timeout_s: Final = timeout_s

    def __repr__(self) -> str:
        return f"DirectSender({self.signer.address})"

    async def terms(self, kind: str, token: str) -> SendTerms:
        return SendTerms()

    async def send(self, kind: str, call: Call) -> Receipt:
        """Raises like `Chain.transact`.  A `Carrier` sends in its stead, and writes down what it
        signed."""
        return await self.pool.send_move(
            self.signer, call, depth=self.depth, timeout_s=self.timeout_s
        )


class Carrier:
    """Sees one wallet's moves through.

    store: where they are written down before anybody else sees them.  tree: what shows that they
    happened.  signer: the wallet's own account, if it can sign: it fills gaps among its
    nonces.
    """

    def __init__(self, tree: TreeSync, store: NoteStore, signer: Signer | None) -> None:
        self._signer: Final = signer
        self._tree: Final = tree
        self._store: Final = store

    @property
    def chain(self) -> Chain:
        return self._tree.pool.chain

    # --- sending ------------------------------------------------------------------------------

    async def transact(
        self,
        move: int,
        signer: Signer,
        to: str,
        data: bytes,
        *,
        doing: str,
        timeout_s: float,
        more_gas: int = 0,
    ) -> None:
        """Send a move as a transaction of one's own account, and wait until it is mined.

        Raises like `Chain.transact`; on every error but TransactionPending the move has failed.
        Cancelled: raises Cancelled; once it was handed over, the move stays under way.
        """
        try:
            await self._transact(
                move, signer, to, data, doing, timeout_s=timeout_s, more_gas=more_gas
            )
        except TransactionPending:
            raise
        except BaseException as stopped:
            with trio.CancelScope(shield=True):
                await self._stopped(move, stopped)
            raise

    async def _stopped(self, move: int, stopped: BaseException) -> None:
        """Write down what ended a move's first sending, unless it may be on its way."""
        signed = (await self._store.move(move)).status != PLANNED
        if signed and not isinstance(stopped, PSymmError):
            return  # cancelled after the hand-over
        reason = str(stopped) if isinstance(stopped, PSymmError) else type(stopped).__name__
        await self._store.update(move, FAILED, reason=reason)
        await self._store.report([move])

    async def send(self, sender: Sender, move: int, kind: str, call: Call) -> Receipt | None:
        """Give a finished call to a sender; None where the tree showed it before its receipt came.
        Raises and is cancelled like `Sender.send`."""
        if not isinstance(sender, DirectSender):
            return await sender.send(kind, call)
        pool = sender.pool
        return await self._transact(
            move,
            sender.signer,
            pool.address,
            pool.move_data(call),
            call.doing,
            timeout_s=sender.timeout_s,
            depth=sender.depth,
        )

    async def _transact(
        self,
        move: int,
        signer: Signer,
        to: str,
        data: bytes,
        doing: str,
        *,
        timeout_s: float | None,
        more_gas: int = 0,
        depth: int = 1,
    ) -> Receipt | None:
        timeout_s = time_left(WAIT_S) if timeout_s is None else timeout_s
        ends = trio.current_time() + timeout_s
        transact = partial(
            self.chain.transact,
            signer,
            to,
            data,
            doing=doing,
            depth=depth,
            timeout_s=min(timeout_s, _LOOKS * self.chain.poll_s),
            more_gas=more_gas,
        )
        try:
            try:
                return await transact(record=partial(self._record, move))
            except _NonceInUse:
                # The chain went back, and what it took goes out first, each with its own nonce.
                await self._restore(signer.address)
                return await transact(record=partial(self._store.record, move))
        except TransactionPending as pending:
            sent = (await self._store.move(move)).sent
            left_s = ends - trio.current_time()
            if sent is None or left_s <= 0:
                raise TransactionPending(pending.tx_hash, timeout_s, pending.reason) from None
            return await self._see(move, sent, doing, left_s, depth)

    async def _record(self, move: int, sent: Sent) -> None:
        """Write down what was signed.  Raises _NonceInUse where another move's transaction has its
        nonce and is not known to be refused."""
        for other in await self._store.moves():
            if (
                other.id != move
                and other.status in (SENT, DONE)
                and other.sent is not None
                and (other.sent.sender, other.sent.nonce) == (sent.sender, sent.nonce)
            ):
                raise _NonceInUse(other.id, sent.nonce)
        await self._store.record(move, sent)

    async def _see(
        self, move: int, sent: Sent, doing: str, timeout_s: float, depth: int = 1
    ) -> Receipt | None:
        """`Chain.wait`, and what a reorganisation took back is handed over again meanwhile.

        None where the tree shows the move, which proves it as well as a receipt.
        """
        ends = trio.current_time() + timeout_s
        while True:
            left_s = max(0.0, ends - trio.current_time())
            try:
                return await self.chain.wait(
                    sent, depth=depth, timeout_s=left_s, looks=_LOOKS, doing=doing
                )
            except TransactionPending as pending:
                if not left_s:
                    raise TransactionPending(sent.tx_hash, timeout_s, pending.reason) from None
            with own_deadline(), trio.move_on_at(ends), suppress(ChainError):
                await self.refresh()
                found = await self._store.move(move)
                if found.outputs and found.status == DONE and depth <= self._tree.depth:
                    return None
                await self._again({sent.sender})

    async def hand_over(self, move: Move, senders: Sequence[Sender]) -> PSymmError | None:
        """Hand a finished move over again; the last sender's error if none took it.

        One that our own account signed a transaction for has no other way than that.
        """
        if move.sent is not None:
            try:
                await self.carry_on(move, 180.0)
            except PSymmError as refused:
                return refused
            return None
        failed: PSymmError = MoveFailed(move.purpose, "no sender was given")
        for sender in senders:
            try:
                await self.send(sender, move.id, move.kind, move.call)
            except TransactionPending as pending:
                return pending
            except PSymmError as refused:
                failed = refused
                if move.purpose != "settle" and not isinstance(refused, ChainDown | BadReply):
                    await self.give_up(move.id, sender, refused)
                continue
            return None
        return None if await self.happened(move.call) else failed

    async def give_up(self, move: int, sender: Sender, refused: PSymmError) -> None:
        """A call that no relayer got, and that does not happen, frees its notes.

        That is one which the contract refuses, or which our own account could not send: of that,
        `Chain.transact` raises TransactionPending wherever it is not sure.
        """
        if _spent_before(refused) or not (
            isinstance(sender, DirectSender) or isinstance(refused, Reverted)
        ):
            return
        call = (await self._store.move(move)).call
        if call.relayer == ZERO_ADDRESS:
            await self._store.update(move, FAILED, reason=str(refused))

    # --- waiting ------------------------------------------------------------------------------

    async def carry_on(self, move: Move, timeout_s: float) -> None:
        """Wait for a transaction that was signed before, the same bytes again if need be.

        Raises TransactionPending, and on proof what `Chain.wait` raises.
        """
        assert move.sent is not None  # noqa: S101 - the callers ask for no other
        try:
            await self._see(move.id, move.sent, f"the {move.purpose}", timeout_s)
        except TransactionPending:
            raise
        except ChainError as proof:
            # Either side can send a settlement, and notes that are spent are the tree's to tell.
            if move.purpose != "settle" and not _spent_before(proof):
                await self._store.update(move.id, FAILED, reason=str(proof))
            raise
        if not move.outputs:
            await self._store.update(move.id, DONE)  # the tree will show nothing of it

    async def happened(self, call: Call) -> bool:
        """Whether a call that its sender reported failed is mined all the same."""
        try:
            await self._tree.advance()
            commitments, nullifiers = await self._tree.newest()
        except ChainError:
            return False
        # All of them: calls made one instead of the other share a note, and often an output.
        return all(
            self._tree.spent_block(one) is not None or one in nullifiers for one in call.nullifiers
        ) and all(self._tree.leaf(one) is not None or one in commitments for one in call.outputs)

    async def in_tree(self, move: int, commitment: bytes, timeout_s: float) -> None:
        """Wait until a move that was mined is in the tree; after a reorganisation, the same bytes
        again.

        Raises TransactionPending or, where somebody else sent it, MoveUnderWay when the time is
        up; on proof what `Chain.wait` raises.
        """
        ends = trio.current_time() + timeout_s
        while True:
            unseen: ChainError | None = None
            try:
                with own_deadline(), trio.move_on_at(ends):
                    # Counted, not timed: a look that is cut off teaches nothing, however often.
                    for _ in range(_LOOKS):
                        await self.refresh()
                        if self._tree.leaf(commitment) is not None:
                            return
                        await trio.sleep(self.chain.poll_s)
            except TreeCorrupt:
                raise  # of the file, not of the node
            except ChainError as trouble:
                unseen = trouble
            waiting = await self._store.move(move)
            left_s = max(0.0, ends - trio.current_time())
            if not left_s and waiting.tx_hash is None:
                raise MoveUnderWay(waiting.purpose, None) from unseen
            if not left_s:
                raise TransactionPending(waiting.tx_hash or "", timeout_s) from unseen
            if waiting.sent is not None:
                await self.carry_on(waiting, left_s)
            await trio.sleep(self.chain.poll_s)

    # --- after a restart, and after a reorganisation ------------------------------------------

    async def refresh(self) -> list[Held]:
        """Take in new blocks; notes of ours that were found by their memos alone.

        What a reorganisation took back is handed over again.  Raises what reading the chain and
        the file raises.
        """
        await self._tree.advance()
        found, taken_back = await self._store.reconcile(self._tree, await self.counted_time_s())
        if taken_back:
            moves = [await self._store.move(one) for one in taken_back]
            with suppress(ChainError):
                await self._again({move.sent.sender for move in moves if move.sent})
        return found

    async def counted_time_s(self) -> int:
        """The newest counted block's time, seconds; 0 before the first."""
        if self._tree.block < 0:
            return 0
        return (await self.chain.block(self._tree.block)).timestamp_s

    async def _again(self, accounts: Collection[str]) -> None:
        """Hand over, in their order, all transactions of these accounts that the chain does not
        have: none is mined before those with lower nonces, and none may lose its nonce to a new
        one.  An approval that was done is among them; the tree does not show that it went.

        One that failed in a block that is gone is not sent again, for now it might not fail. An
        empty transaction gets its nonce, or all later ones would wait for ever.
        """
        for account in accounts:
            mined = await self.chain.nonce(account)
            own = [
                (move.sent, move)
                for move in await self._store.moves()
                if move.sent is not None and move.sent.sender == account
            ]
            gone = [
                (sent, move)
                for sent, move in own
                if sent.nonce >= mined
                and (move.status == SENT or (move.status == DONE and not move.outputs))
            ]
            for sent, move in sorted(gone, key=lambda one: one[0].nonce):
                if move.status == DONE:
                    await self._store.update(move.id, SENT)
                await self.chain.again(sent)
            if gone and self._signer is not None and account == self._signer.address:
                held = {sent.nonce for sent, move in own if move.status != FAILED}
                for nonce in range(mined, max(sent.nonce for sent, _ in gone)):
                    if nonce not in held:
                        await self.chain.fill(self._signer, nonce)

    async def resume(self, senders: Sequence[Sender], patience_s: float) -> None:
        """Carry on with all moves under way, at once, for so many seconds."""
        with own_deadline(), trio.move_on_after(patience_s):
            async with trio.open_nursery() as nursery:
                for move in await self._store.moves(alive=True):
                    nursery.start_soon(self._resume, move, senders, patience_s)

    async def _resume(self, move: Move, senders: Sequence[Sender], patience_s: float) -> None:
        try:
            if move.sent is not None:
                await self.carry_on(move, patience_s)
            elif move.status == SENT and move.call.proof:
                await self.hand_over(move, senders)
        except ChainError as still:
            log.info("move-not-confirmed", extra={"move": move.id, "code": still.code})

    async def after_earlier(self, account: str, timeout_s: float) -> None:
        """Wait for what an account's deposits under way leave of allowance and permit nonces.

        The chain takes an account's transactions in their order, so a later one gains nothing by
        not waiting, unless the node does not take the earlier one any more: then the nonce is the
        later one's, and one of the two happens.  Raises MoveUnderWay when the time is up.
        """
        for move in await self._store.moves(alive=True):
            if move.purpose in ("deposit", "approve") and move.sent and move.sent.sender == account:
                try:
                    await self.carry_on(move, timeout_s)
                except TransactionPending as pending:
                    if await self.chain.is_known(move.sent.tx_hash):
                        raise MoveUnderWay(move.purpose, None) from pending
                except ChainError as ended:
                    log.info("move-failed", extra={"move": move.id, "code": ended.code})
        done = [
            move.sent.nonce
            for move in await self._store.moves(alive=False)
            if move.status == DONE and move.sent is not None and move.sent.sender == account
        ]
        if done and await self.chain.nonce(account) <= max(done):
            await self._restore(account)

    async def _restore(self, account: str) -> None:
        """Hand over what a reorganisation took of an account's transactions."""
        await self.refresh()
        await self._again({account})


def _spent_before(refused: PSymmError) -> bool:
    return isinstance(refused, Reverted) and refused.error == "NullifierAlreadySpent"
