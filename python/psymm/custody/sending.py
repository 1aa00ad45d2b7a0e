"""Sending a finished move, and tracking it until the tree shows it.

A `Sender` is a relayer that takes a fee, or the party's own account. A `MoveTracker` hands a
wallet's moves to senders and tracks them through restarts, forgetful nodes and reorganisations. It
always hands over the same call or the same signed bytes again, so a move happens at most once.

A move ends in one of these ways:
    done      the tree shows all its outputs (an approval: its receipt is there)
    failed    the chain proves that it cannot happen, or it was never handed over
    pending   neither is proven in time: TransactionPending or MoveUnderWay is raised, the move
              stays recorded as sent, and the next command continues with it

Reorganisations. `refresh` compares the store with the tree. Moves that were done and are gone again
become sent. Their transactions are handed over in the order of their nonces, because a node mines
none before the ones with lower nonces. An empty transaction fills a gap. If a reorganisation
removed the root of a relayed call's proof, the call is proved again under the newest root
(`Reprove`); it stays the same move, because the root is not part of what is signed.

This file is long because sending, waiting and handing over again share the list of pending
transactions and of known signers.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
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
    TransactionUnderpriced,
)
from psymm.chain.rpc import own_deadline, time_left
from psymm.chain.sync import TreeCorrupt, TreeSync
from psymm.chain.transactions import WAIT_S, Chain, PendingTransaction, Receipt, Sent, Signer
from psymm.custody.errors import MoveFailed, MoveUnderWay
from psymm.custody.store import NoteStore
from psymm.custody.stored import DONE, FAILED, PLANNED, SENT, Move, StoredNote
from psymm.errors import PSymmError, format_amount

log = logging.getLogger(__name__)


class _NonceInUse(Exception):
    """A new transaction got the nonce of one that is under way or done."""


@dataclass(frozen=True, slots=True)
class SendTerms:
    """What a sender asks for one move.

    Attributes:
        relayer: the address that gets the fee; the zero address if there is none.
        fee: token units.
    """

    relayer: str = ZERO_ADDRESS
    fee: int = 0


_MOST_SENT: Final = 4
"""How often a sender gets one move if reorganisations keep removing its root."""

_LOOKS: Final = 20
"""After this many looks for a transaction or note, check whether the chain was reorganised."""


Reprove = Callable[[Call], Awaitable[Call | None]]
"""Proves a call again under the newest root, and records it, if a reorganisation removed the root
of its proof; None if the root is still known.  What was signed does not change, so it is the same
move: even if the old root comes back, only one of the two can be mined."""


class Sender(Protocol):
    """Sends finished moves: the relayer's client, or DirectSender."""

    async def terms(self, kind: str, token: str) -> SendTerms:
        """The cost of a move of a kind ("ctc" or "cta") in a token.  Asked before it is signed."""
        ...

    async def send(self, kind: str, call: Call) -> Receipt:
        """Send a finished move and wait until it is mined.

        Raises a PSymmError if it was refused or its fate is unknown; either way it may still be
        mined until its deadline.  Cancelled: likewise.
        """
        ...


class DirectSender:
    """Sends moves from the party's own account, which pays the gas and which everybody sees."""

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
        """Raises like `Chain.transact`.  A `MoveTracker` does not call this: it sends with the
        signer itself and records what was signed."""
        return await self.pool.send_move(
            self.signer, call, depth=self.depth, timeout_s=self.timeout_s
        )


class MoveTracker:
    """Sends and tracks one wallet's moves.

    Args:
        tree: shows which moves happened.
        store: records each step before anybody else sees it.
        signer: the wallet's own account, if it can sign. It fills gaps among its nonces and raises
            fees that have become too low.
        reprove: proves a move's call again; see `Reprove`.
    """

    def __init__(
        self,
        tree: TreeSync,
        store: NoteStore,
        signer: Signer | None,
        reprove: Callable[[Move, Call], Awaitable[Call | None]],
    ) -> None:
        self._reprove: Final = reprove
        self._signers: Final = {} if signer is None else {signer.address: signer}
        self._pending: Final[dict[int, PendingTransaction]] = {}
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
        """Send a move as a transaction of the party's own account, and wait until it is mined.

        Raises like `Chain.transact`; after any error except TransactionPending the move has
        failed.  Cancelled: raises Cancelled; once handed over, the move stays under way.
        """
        try:
            await self._transact(
                move, signer, to, data, doing, timeout_s=timeout_s, more_gas=more_gas
            )
        except TransactionPending:
            # A node may have it, so the move stays under way and its notes stay busy.
            raise
        except BaseException as stopped:
            # Shielded, because a cancellation would also cancel the record of it.
            with trio.CancelScope(shield=True):
                await self._record_failure(move, stopped)
            raise

    async def _record_failure(self, move: int, stopped: BaseException) -> None:
        """Record why a move could not be sent, unless it may be under way all the same."""
        signed = (await self._store.move(move)).status != PLANNED
        if signed and not isinstance(stopped, PSymmError):
            return  # cancelled after the hand-over
        reason = str(stopped) if isinstance(stopped, PSymmError) else type(stopped).__name__
        await self._store.update(move, FAILED, reason=reason)
        await self._store.report([move])

    async def send(self, sender: Sender, move: int, kind: str, call: Call) -> Receipt | None:
        """Give a finished call to a sender.  None if the tree showed it before its receipt came.
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

    async def send_rooted(
        self, sender: Sender, move: int, kind: str, call: Call, reprove: Reprove
    ) -> tuple[Call, Receipt | None]:
        """`send`, repeated with a new proof if a reorganisation removes the call's root while a
        relayer has it.  Returns the call that was sent last, too."""
        repeated = True
        for _ in range(_MOST_SENT):
            try:
                return call, await self.send(sender, move, kind, call)
            except TransactionPending:
                raise
            except PSymmError as refused:
                if isinstance(sender, DirectSender) or await self.is_made(call):
                    raise
                try:
                    made = await reprove(call)
                except PSymmError as unable:
                    log.info("move-not-reproved", extra={"move": move, "code": unable.code})
                    raise refused from None
                if made is None and repeated:
                    raise
                # The relayer's refusal may still concern the old proof, so try once more.
                call, repeated = made or call, made is None
        return call, await self.send(sender, move, kind, call)

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
        ends = trio.current_time() + time_left(timeout_s, WAIT_S)
        self._signers.setdefault(signer.address, signer)

        async def hand_over(record: Callable[[Sent], Awaitable[None]]) -> None:
            prepared = await self.chain.prepare(
                signer.address, to, data, doing=doing, more_gas=more_gas
            )
            # Without an answer the node may still have it, so we wait all the same.
            with suppress(TransactionPending):
                await self.chain.send(signer, prepared, record=record)

        # What was kept for this move watches an earlier nonce.
        self._pending.pop(move, None)
        try:
            await hand_over(partial(self._record, move))
        except _NonceInUse:
            # A reorganisation took back an earlier transaction with this nonce. It goes out first.
            await self._restore(signer.address)
            await hand_over(partial(self._store.record, move))
        left_s = max(0.0, ends - trio.current_time())
        return await self._wait_mined(await self._store.move(move), doing, left_s, depth)

    async def _record(self, move: int, sent: Sent) -> None:
        """Record what was signed.  Raises _NonceInUse if another move's transaction has its nonce
        and may still be mined."""
        for other in await self._store.moves():
            if (
                other.id != move
                and other.status in (SENT, DONE)
                and other.sent is not None
                and (other.sent.sender, other.sent.nonce) == (sent.sender, sent.nonce)
            ):
                raise _NonceInUse(other.id, sent.nonce)
        await self._store.record(move, sent)

    async def _wait_mined(
        self, move: Move, doing: str, timeout_s: float, depth: int = 1
    ) -> Receipt | None:
        """`PendingTransaction.wait`, which also hands over again what a reorganisation took back.

        None if the tree shows the move, which proves it as well as a receipt.
        """
        pending = self._pending_transaction(move)
        ends = trio.current_time() + timeout_s
        while True:
            left_s = max(0.0, ends - trio.current_time())
            try:
                receipt = await pending.wait(
                    depth=depth, timeout_s=left_s, looks=_LOOKS, doing=doing
                )
                if receipt.tx_hash != move.tx_hash:
                    with suppress(PSymmError):  # a full disk does not undo what is mined
                        await self._store.record_mined(move.id, receipt.tx_hash)
                return receipt
            except TransactionPending as waiting:
                await self._record_fee_wait(move.id, waiting)
                if not left_s:
                    raise waiting.after(timeout_s) from None
            with own_deadline(), trio.move_on_at(ends), suppress(ChainError):
                await self.refresh()
                found = await self._store.move(move.id)
                if found.outputs and found.status == DONE and depth <= self._tree.depth:
                    return None
                await self._rebroadcast({pending.newest.sender})

    async def _record_fee_wait(self, move: int, waiting: TransactionPending) -> None:
        """Record that a move waits because of its fee, for commands to show; clear it otherwise."""
        reason = ""
        if isinstance(waiting, TransactionUnderpriced):
            figures = {name: format_amount(wei, 9) for name, wei in waiting.figures.items()}
            reason = (
                f"it offers at most {figures['offered_wei']} gwei per gas, the newest block asks "
                f"{figures['base_fee_wei']}, and the limit is {figures['limit_wei']}"
            )
        found = await self._store.move(move)
        # This runs after every wait; the disk is written only when something changed.
        if found.status == SENT and found.reason != reason:
            await self._store.update(move, SENT, reason=reason)

    def _pending_transaction(self, move: Move) -> PendingTransaction:
        """A move's PendingTransaction.  All tasks that wait for a move share one, so that each
        knows the replacements that another made."""
        found = self._pending.get(move.id)
        # Another nonce means that the move has a new transaction: the old one watches a nonce that
        # another transaction took.
        if found is None or found.newest.nonce != move.versions[-1].nonce:
            found = self._pending[move.id] = PendingTransaction(
                self.chain,
                move.versions,
                signer=self._signers.get(move.versions[0].sender),
                record=partial(self._store.record, move.id),
            )
        return found

    async def hand_over(self, move: Move, senders: Sequence[Sender]) -> PSymmError | None:
        """Hand a finished move over again.  Returns the last sender's error if none took it.

        If our own account signed a transaction for it, only that transaction is tried.
        """
        if move.sent is not None:
            self._add_signers(senders)
            try:
                await self.wait_for_signed(move, 180.0)
            except PSymmError as refused:
                return refused
            return None
        failed: PSymmError = MoveFailed(move.purpose, "no sender was given")
        reprove = partial(self._reprove, move)
        for sender in senders:
            # Read again each time: for an earlier sender it may have been proved again.
            call = (await self._store.move(move.id)).call
            try:
                await self.send_rooted(sender, move.id, move.kind, call, reprove)
            except TransactionPending as pending:
                return pending
            except PSymmError as refused:
                failed = refused
                # A settlement stays: the other party may send it. A node that does not answer
                # proves nothing.
                if move.purpose != "settle" and not isinstance(refused, ChainDown | BadReply):
                    await self.release_if_void(move.id, sender, refused)
                continue
            return None
        return None if await self.is_made(move.call) else failed

    async def release_if_void(self, move: int, sender: Sender, refused: PSymmError) -> None:
        """Free the notes of a call that no relayer got and that cannot happen.

        Either the contract refuses it, or our own account could not send it. In the second case
        `Chain.transact` raises TransactionPending whenever it is not sure.
        """
        if _spent_before(refused) or not (
            isinstance(sender, DirectSender) or isinstance(refused, Reverted)
        ):
            return
        call = (await self._store.move(move)).call
        # The notes of a call that names a relayer stay busy until its deadline: that relayer may
        # have it, even if it says that it does not.
        if call.relayer == ZERO_ADDRESS:
            await self._store.update(move, FAILED, reason=str(refused))

    # --- waiting ------------------------------------------------------------------------------

    async def wait_for_signed(self, move: Move, timeout_s: float) -> None:
        """Wait for a transaction that was signed before, handing over the same bytes if needed.

        Raises TransactionPending, and once it is proven what `Chain.wait` raises.
        """
        assert move.sent is not None  # noqa: S101 - callers check it
        try:
            await self._wait_mined(move, f"the {move.purpose}", timeout_s)
        except TransactionPending:
            raise
        except ChainError as proof:
            # A settlement may still come from the other party. If notes are spent, the tree will
            # show by which move.
            if move.purpose != "settle" and not _spent_before(proof):
                await self._store.update(move.id, FAILED, reason=str(proof))
            raise
        if not move.outputs:
            await self._store.update(move.id, DONE)  # the tree will show nothing of it

    def _add_signers(self, senders: Iterable[Sender]) -> None:
        """Remember the signers of direct senders, to raise the fees of what they sent."""
        for one in senders:
            if isinstance(one, DirectSender):
                self._signers.setdefault(one.signer.address, one.signer)

    async def is_made(self, call: Call) -> bool:
        """Whether a call is mined, though its sender reported a failure."""
        try:
            await self._tree.advance()
            commitments, nullifiers = await self._tree.newest()
        except ChainError:
            return False
        # Check all of them: alternative versions of a move share a note, and often an output.
        return all(
            self._tree.spent_block(one) is not None or one in nullifiers for one in call.nullifiers
        ) and all(self._tree.leaf(one) is not None or one in commitments for one in call.outputs)

    async def await_in_tree(
        self,
        move: int,
        commitment: bytes,
        timeout_s: float,
        relay: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Wait until a mined move is in the tree, handing it over again after a reorganisation.

        relay: gives the call to its relayer again.
        Raises TransactionPending when the time is up, or MoveUnderWay if somebody else sent it;
        once it is proven, what `Chain.wait` raises.
        """
        ends = trio.current_time() + timeout_s
        while True:
            unseen: ChainError | None = None
            try:
                with own_deadline(), trio.move_on_at(ends):
                    # Counted, not timed: a look that a timeout cuts off shows nothing, and with a
                    # slow node every look would be cut off.
                    for _ in range(_LOOKS):
                        await self.refresh()
                        if self._tree.leaf(commitment) is not None:
                            return
                        await trio.sleep(self.chain.poll_s)
            except TreeCorrupt:
                raise  # the file is damaged; asking the node again would not help
            except ChainError as trouble:
                unseen = trouble
            waiting = await self._store.move(move)
            left_s = max(0.0, ends - trio.current_time())
            if not left_s and waiting.tx_hash is None:
                raise MoveUnderWay(waiting.purpose, None) from unseen
            if not left_s:
                raise TransactionPending(waiting.tx_hash or "", timeout_s) from unseen
            if waiting.sent is not None:
                await self.wait_for_signed(waiting, left_s)
            elif relay is not None:
                with own_deadline(), trio.move_on_at(ends), suppress(PSymmError):
                    await relay()
            await trio.sleep(self.chain.poll_s)

    # --- after a restart, and after a reorganisation ------------------------------------------

    async def refresh(self) -> list[StoredNote]:
        """Take in new blocks.  Returns notes of ours that only their memos revealed.

        What a reorganisation took back is handed over again.  Raises what reading the chain and
        the file raises.
        """
        await self._tree.advance()
        # Deadlines are judged by the newest block that counts. A newer block, or our clock, could
        # call a move late that is mined in time and not deep enough yet.
        found, taken_back = await self._store.reconcile(self._tree, await self.counted_time_s())
        if taken_back:
            moves = [await self._store.move(one) for one in taken_back]
            # If no node takes them now, the tasks that wait for these moves, or the next command's
            # `resume`, hand them over.
            with suppress(ChainError):
                await self._rebroadcast({move.sent.sender for move in moves if move.sent})
        return found

    async def counted_time_s(self) -> int:
        """The time of the newest block that counts, seconds; 0 before the first."""
        if self._tree.block < 0:
            return 0
        return (await self.chain.block(self._tree.block)).timestamp_s

    async def _rebroadcast(self, accounts: Collection[str]) -> None:
        """Hand over all transactions of these accounts that the chain lacks, lowest nonce first.

        A node mines none before those with lower nonces, and a new transaction must not take the
        nonce of an old one.  Finished approvals are included, because the tree does not show that
        they are gone.

        A transaction that failed in an abandoned block is not sent again: now it might succeed. An
        empty transaction takes its nonce, or all later ones would wait for ever.
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
            for _, move in sorted(gone, key=lambda one: one[0].nonce):
                if move.status == DONE:
                    # On disk before it is handed over: the tree shows nothing of an approval, so
                    # only this makes a restart wait for it.
                    await self._store.update(move.id, SENT)
                await self._pending_transaction(move).rebroadcast()
            # A node keeps a transaction waiting while a lower nonce is missing. Nonces that none of
            # our living moves has are filled with empty transactions.
            signer = self._signers.get(account)
            if gone and signer is not None:
                held = {sent.nonce for sent, move in own if move.status != FAILED}
                for nonce in range(mined, max(sent.nonce for sent, _ in gone)):
                    if nonce not in held:
                        await self.chain.fill_nonce(signer, nonce)

    async def with_mined_hash(self, move: Move) -> Move:
        """The move with the hash of its mined version, which is unknown if only the tree showed
        the move."""
        if move.status == DONE and move.mined is None and len(move.versions) > 1:
            with suppress(ChainError):
                mined = await self._pending_transaction(move).mined()
                if mined is not None:
                    await self._store.record_mined(move.id, mined)
                    return await self._store.move(move.id)
        return move

    async def resume(self, senders: Sequence[Sender], patience_s: float) -> None:
        """Continue with all moves under way at once, for at most `patience_s` seconds."""
        self._add_signers(senders)
        with own_deadline(), trio.move_on_after(patience_s):
            async with trio.open_nursery() as nursery:
                for move in await self._store.moves(alive=True):
                    nursery.start_soon(self._resume, move, senders, patience_s)

    async def _resume(self, move: Move, senders: Sequence[Sender], patience_s: float) -> None:
        # Settlements that are only signed are left out: their session holds both signatures and
        # continues them.
        try:
            if move.sent is not None:
                await self.wait_for_signed(move, patience_s)
            elif move.status == SENT and move.call.proof:
                await self._until_inputs_are_there(move)
                await self.hand_over(move, senders)
        except ChainError as still:
            log.info("move-not-confirmed", extra={"move": move.id, "code": still.code})

    async def _until_inputs_are_there(self, move: Move) -> None:
        """Wait for the notes that a move spends: a reorganisation can take them back, too, and
        they must be in the tree first."""
        while True:
            gone = [
                held
                for held in await self._store.notes()
                if held.note.nullifier in move.inputs and held.position is None
            ]
            if not gone:
                return
            await trio.sleep(self.chain.poll_s)
            await self.refresh()

    async def await_earlier(self, account: str, timeout_s: float) -> None:
        """Wait for an account's earlier deposits, which change its allowance and permit nonces.

        The chain takes an account's transactions in order, so not waiting would gain nothing.  Only
        if no node has the earlier one any more, the new one takes its nonce, and one of the two
        happens.  Raises MoveUnderWay when the time is up.
        """
        for move in await self._store.moves(alive=True):
            if move.purpose in ("deposit", "approve") and move.sent and move.sent.sender == account:
                try:
                    await self.wait_for_signed(move, timeout_s)
                except TransactionPending as pending:
                    if await self._pending_transaction(move).is_known():
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
        """Hand over the account's transactions that a reorganisation took back."""
        await self.refresh()
        await self._rebroadcast({account})


def _spent_before(refused: PSymmError) -> bool:
    return isinstance(refused, Reverted) and refused.error == "NullifierAlreadySpent"
