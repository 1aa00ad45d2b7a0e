"""Who takes a finished move to the chain, and what becomes of it there.

A `Sender` is a relayer for a fee, or the party itself. A `Carrier` hands a wallet's moves to
senders and sees them through: after a restart, after a node that forgot them, and after a
reorganisation. What it hands over again is always the same call or the same signed bytes, so a
move happens at most once.

One file, though long: sending, waiting and handing over again share one list of what is pending and
of who can sign.
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
from psymm.custody.store import DONE, FAILED, PLANNED, SENT, Held, Move, NoteStore
from psymm.errors import PSymmError, format_amount

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


_MOST_SENT: Final = 4
"""How often one sender gets one move, where reorganisations take its root."""

_LOOKS: Final = 20
"""How often one thing is looked for before it is asked whether the chain went back meanwhile."""


Remake = Callable[[Call], Awaitable[Call | None]]
"""Proves a call anew under the newest root where a reorganisation took the root that it was proved
under, and writes it down; None where the root still stands.  What was signed stays the same, so it
is the same move: also if the old root comes back, only one of the two can be mined."""


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
    nonces, and raises fees that have become too low.  remake: proves a move's call anew, see
    `Remake`.
    """

    def __init__(
        self,
        tree: TreeSync,
        store: NoteStore,
        signer: Signer | None,
        remake: Callable[[Move, Call], Awaitable[Call | None]],
    ) -> None:
        self._remake: Final = remake
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

    async def send_rooted(
        self, sender: Sender, move: int, kind: str, call: Call, remake: Remake
    ) -> tuple[Call, Receipt | None]:
        """`send`, and again with a new proof where a reorganisation took the call's root while a
        relayer had it.  The call as it was sent last."""
        repeated = True
        for _ in range(_MOST_SENT):
            try:
                return call, await self.send(sender, move, kind, call)
            except TransactionPending:
                raise
            except PSymmError as refused:
                if isinstance(sender, DirectSender) or await self.happened(call):
                    raise
                try:
                    made = await remake(call)
                except PSymmError as unable:
                    log.info("move-not-remade", extra={"move": move, "code": unable.code})
                    raise refused from None
                if made is None and repeated:
                    raise
                # What a relayer says of the new one can still be of the old one: once more.
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
            # A hand-over that is not answered is waited for like one that is.
            with suppress(TransactionPending):
                await self.chain.send(signer, prepared, record=record)

        self._pending.pop(move, None)
        try:
            await hand_over(partial(self._record, move))
        except _NonceInUse:
            # The chain went back, and what it took goes out first, each with its own nonce.
            await self._restore(signer.address)
            await hand_over(partial(self._store.record, move))
        left_s = max(0.0, ends - trio.current_time())
        return await self._see(await self._store.move(move), doing, left_s, depth)

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
        self, move: Move, doing: str, timeout_s: float, depth: int = 1
    ) -> Receipt | None:
        """`PendingTransaction.wait`, and what a reorganisation took back is handed over again
        meanwhile.

        None where the tree shows the move, which proves it as well as a receipt.
        """
        pending = self._seen_through(move)
        ends = trio.current_time() + timeout_s
        while True:
            left_s = max(0.0, ends - trio.current_time())
            try:
                receipt = await pending.wait(
                    depth=depth, timeout_s=left_s, looks=_LOOKS, doing=doing
                )
                if receipt.tx_hash != move.tx_hash:
                    with suppress(PSymmError):  # what is mined stays so, on a full disk, too
                        await self._store.found_mined(move.id, receipt.tx_hash)
                return receipt
            except TransactionPending as waiting:
                await self._note(move.id, waiting)
                if not left_s:
                    raise waiting.after(timeout_s) from None
            with own_deadline(), trio.move_on_at(ends), suppress(ChainError):
                await self.refresh()
                found = await self._store.move(move.id)
                if found.outputs and found.status == DONE and depth <= self._tree.depth:
                    return None
                await self._again({pending.newest.sender})

    async def _note(self, move: int, waiting: TransactionPending) -> None:
        """Write down why a move under way waits, if that is its fee: commands tell its owner."""
        reason = ""
        if isinstance(waiting, TransactionUnderpriced):
            figures = {name: format_amount(wei, 9) for name, wei in waiting.figures.items()}
            reason = (
                f"it offers {figures['offered_wei']} gwei a gas at most, the newest block asks "
                f"{figures['base_fee_wei']}, and no more than {figures['limit_wei']} is offered"
            )
        found = await self._store.move(move)
        if found.status == SENT and found.reason != reason:
            await self._store.update(move, SENT, reason=reason)

    def _seen_through(self, move: Move) -> PendingTransaction:
        """A move's transaction: one for all tasks that wait for it, so that each knows of the
        versions that another made."""
        found = self._pending.get(move.id)
        if found is None or found.newest.nonce != move.versions[-1].nonce:
            found = self._pending[move.id] = PendingTransaction(
                self.chain,
                move.versions,
                signer=self._signers.get(move.versions[0].sender),
                record=partial(self._store.record, move.id),
            )
        return found

    async def hand_over(self, move: Move, senders: Sequence[Sender]) -> PSymmError | None:
        """Hand a finished move over again; the last sender's error if none took it.

        One that our own account signed a transaction for has no other way than that.
        """
        if move.sent is not None:
            self._take_signers(senders)
            try:
                await self.carry_on(move, 180.0)
            except PSymmError as refused:
                return refused
            return None
        failed: PSymmError = MoveFailed(move.purpose, "no sender was given")
        remake = partial(self._remake, move)
        for sender in senders:
            call = (await self._store.move(move.id)).call
            try:
                await self.send_rooted(sender, move.id, move.kind, call, remake)
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
            await self._see(move, f"the {move.purpose}", timeout_s)
        except TransactionPending:
            raise
        except ChainError as proof:
            # Either side can send a settlement, and notes that are spent are the tree's to tell.
            if move.purpose != "settle" and not _spent_before(proof):
                await self._store.update(move.id, FAILED, reason=str(proof))
            raise
        if not move.outputs:
            await self._store.update(move.id, DONE)  # the tree will show nothing of it

    def _take_signers(self, senders: Iterable[Sender]) -> None:
        """Their accounts can raise the fees of what they sent."""
        for one in senders:
            if isinstance(one, DirectSender):
                self._signers.setdefault(one.signer.address, one.signer)

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

    async def in_tree(
        self,
        move: int,
        commitment: bytes,
        timeout_s: float,
        relay: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Wait until a move that was mined is in the tree; after a reorganisation, the same bytes
        again.  relay: gives a call that a relayer sent to it once more.

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
            elif relay is not None:
                with own_deadline(), trio.move_on_at(ends), suppress(PSymmError):
                    await relay()
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
            for _, move in sorted(gone, key=lambda one: one[0].nonce):
                if move.status == DONE:
                    await self._store.update(move.id, SENT)
                await self._seen_through(move).again()
            signer = self._signers.get(account)
            if gone and signer is not None:
                held = {sent.nonce for sent, move in own if move.status != FAILED}
                for nonce in range(mined, max(sent.nonce for sent, _ in gone)):
                    if nonce not in held:
                        await self.chain.fill(signer, nonce)

    async def with_hash(self, move: Move) -> Move:
        """The move with the hash of the version that is mined, where the tree alone showed it."""
        if move.status == DONE and move.mined is None and len(move.versions) > 1:
            with suppress(ChainError):
                mined = await self._seen_through(move).mined()
                if mined is not None:
                    await self._store.found_mined(move.id, mined)
                    return await self._store.move(move.id)
        return move

    async def resume(self, senders: Sequence[Sender], patience_s: float) -> None:
        """Carry on with all moves under way, at once, for so many seconds."""
        self._take_signers(senders)
        with own_deadline(), trio.move_on_after(patience_s):
            async with trio.open_nursery() as nursery:
                for move in await self._store.moves(alive=True):
                    nursery.start_soon(self._resume, move, senders, patience_s)

    async def _resume(self, move: Move, senders: Sequence[Sender], patience_s: float) -> None:
        try:
            if move.sent is not None:
                await self.carry_on(move, patience_s)
            elif move.status == SENT and move.call.proof:
                await self._until_inputs_are_there(move)
                await self.hand_over(move, senders)
        except ChainError as still:
            log.info("move-not-confirmed", extra={"move": move.id, "code": still.code})

    async def _until_inputs_are_there(self, move: Move) -> None:
        """A reorganisation takes the notes that a move spends, too; they come back first."""
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
                    if await self._seen_through(move).is_known():
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
