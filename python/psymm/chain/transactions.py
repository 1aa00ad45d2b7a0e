"""Sending transactions: nonces, fees and gas.  What becomes of them is `pending`'s."""

from __future__ import annotations

import math
import secrets
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from psymm.chain.abi import Refusals
from psymm.chain.answers import Answer
from psymm.chain.errors import (
    BadReply,
    CallInvalid,
    ChainDown,
    ChainError,
    FeeRefused,
    RpcError,
    TransactionPending,
    TransactionReplaced,
    WalletWithoutGas,
)
from psymm.chain.pending import WAIT_S, PendingTransaction, Record, miner_of
from psymm.chain.reading import LOOKS, Block, ChainReader, Log, Receipt
from psymm.chain.rpc import Rpc
from psymm.chain.signing import Fees, Prepared, Sent, Signer, sign
from psymm.errors import PSymmError

if TYPE_CHECKING:
    from psymm.chain.outbox import Outbox

MAX_CODE_GAS_LIMIT: Final = 30_000_000
_HAND_OVERS: Final = 4
MOST_RAISED: Final = 4
"""How far a fee is raised that is too low: what was shown before times this."""
MOST_TIP_WEI: Final = 100 * 10**9
"""The highest tip that is signed on a node's word, wei a gas. The base fee is the chain's own and
only bounded by what is signed; a tip is paid whole, to whoever makes the block."""
MOST_FEE_WEI: Final = 10_000 * 10**9
"""The highest base fee that is believed, wei a gas; higher than any chain of ours has had."""


class Chain(ChainReader):
    """One chain, read and written.

    chain_id: checked before the first transaction is signed.  gas_margin: how much more gas than
    estimated a transaction may use.  poll_s, most_ahead_s: see ChainReader.
    most_tip_wei, most_fee_wei: a node that names a higher tip or base fee, wei a gas, is not
    believed, and nothing is signed.  most_raised: a fee that turns out too low is raised to this
    many times what was prepared, at most.  outbox: keeps what `transact` sends and nobody else
    records.
    """

    def __init__(
        self,
        rpc: Rpc,
        chain_id: int,
        *,
        gas_margin: float = 0.25,
        poll_s: float = 0.25,
        refusals: Refusals | None = None,
        most_tip_wei: int = MOST_TIP_WEI,
        most_fee_wei: int = MOST_FEE_WEI,
        most_raised: int = MOST_RAISED,
        most_ahead_s: float | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        super().__init__(rpc, chain_id, poll_s=poll_s, refusals=refusals, most_ahead_s=most_ahead_s)
        self._most_tip_wei = most_tip_wei
        self._most_fee_wei = most_fee_wei
        self._most_raised = most_raised
        self.outbox: Final = outbox
        self._gas_margin = gas_margin
        self._last: dict[str, tuple[int, str]] = {}
        self._locks: dict[str, trio.Lock] = {}

    async def prepare(
        self,
        sender: str,
        to: str | None,
        data: bytes,
        *,
        value_wei: int = 0,
        doing: str = "the transaction",
        gas_limit: int | None = None,
        more_gas: int = 0,
    ) -> Prepared:
        """Estimate gas and fees.  Sends nothing.

        more_gas: what it can use beyond the estimate and its margin, because of what others do
        before it is mined; what is not used is not paid.
        Raises Reverted where the contract would refuse, WalletWithoutGas where the sender
        could not pay, BadReply for fees above what is paid.
        """
        fees = await self.fees()
        if gas_limit is None:
            estimate = await self.estimate(sender, to, data, value_wei=value_wei, doing=doing)
            gas_limit = min(self.with_margin(estimate) + more_gas, MAX_CODE_GAS_LIMIT)
        prepared = Prepared(sender, to, data, value_wei, gas_limit, fees)
        balance = await self.balance(sender, at_least=prepared.most_wei)
        if balance < prepared.most_wei:
            raise WalletWithoutGas(sender, balance, prepared.most_wei)
        return prepared

    def with_margin(self, gas: int) -> int:
        """The limit that is given where so much gas is estimated."""
        return math.ceil(gas * (1 + self._gas_margin))

    async def fees(self) -> Fees:
        """Fees that are mined soon: a tip as the node suggests, room for the base fee to double."""
        block = await self.block()
        try:
            tip = int(await self.rpc.eth.max_priority_fee)
        except RpcError:
            tip = 10**9
        if tip > self._most_tip_wei:
            raise BadReply(
                self.rpc.endpoint,
                "eth_maxPriorityFeePerGas",
                f"a tip of {tip} wei a gas, above the {self._most_tip_wei} that are paid",
            )
        if block.base_fee_wei > self._most_fee_wei:
            raise BadReply(
                self.rpc.endpoint,
                "eth_getBlockByNumber",
                f"a fee of {block.base_fee_wei} wei a gas, above the {self._most_fee_wei} that "
                "are paid",
            )
        return Fees(2 * block.base_fee_wei + tip, tip)

    def fee_limit(self, prepared: Fees) -> Fees:
        """The highest fees that are offered where these were prepared."""
        return Fees(self._most_raised * prepared.max_wei, self._most_tip_wei)

    async def send(
        self,
        signer: Signer,
        prepared: Prepared,
        *,
        nonce: int | None = None,
        record: Record | None = None,
    ) -> Sent:
        """Sign and hand over a transaction; does not wait for it.

        Tasks that share a signer queue up, so each gets its own nonce and none leaves a gap.
        nonce: replace the transaction that has it; fees must be higher than that one's.
        record: is given each signed transaction before the node is, to make it durable; what it
        raises ends the sending.
        A fee that the node refuses is raised, at most to `most_raised` times what was prepared,
        with the same nonce; a given nonce's is the caller's to raise.
        Programs that share a wallet each get a nonce of their own, unless they send the very same
        bytes: then that is one transaction.  Another nonce is taken only after the chain showed
        another transaction mined with the first one.

        Raises WalletWithoutGas, FeeRefused, Reverted, RpcError, WrongChain: the node did not take
        it.  TransactionPending: it may have, and nothing proves it yet.  TransactionReplaced:
        another one with the given nonce is mined.  ChainDown, BadReply: nothing was handed over.
        Cancelled: raises Cancelled; what was recorded may have been handed over.
        """
        await self.check()
        if prepared.sender != signer.address:
            raise CallInvalid("sender", "prepared for another sender than the signer")
        limit = self.fee_limit(prepared.fees)
        async with self._locks.setdefault(signer.address, trio.Lock()):
            taken, tx_hash, chosen, by = -1, "", 0, ""
            for _ in range(16):
                if nonce is not None:
                    chosen = nonce
                else:
                    chosen = max(await self._nonce(signer.address), taken + 1)
                sent = await sign(signer, self.chain_id, chosen, prepared)
                tx_hash = sent.tx_hash
                if nonce is None and self._last.get(signer.address) == (chosen, sent.tx_hash):
                    # The node lags or forgot: these are the bytes of our last one, which would
                    # then stand for two.  It gets that one again, and this one the next nonce.
                    with suppress(ChainError):
                        await self.rpc.send(sent.raw)
                    taken = chosen
                    continue
                if record is not None:
                    await record(sent)
                try:
                    by = await self._hand_over(sent)
                except FeeRefused:
                    dearer = _dearer(prepared.fees)
                    if (
                        nonce is not None
                        or dearer.max_wei > limit.max_wei
                        or dearer.tip_wei > limit.tip_wei
                    ):
                        raise
                    prepared = replace(prepared, fees=dearer)
                    taken = chosen - 1
                    continue
                except TransactionPending:
                    if nonce is None:
                        self._last[signer.address] = (chosen, sent.tx_hash)
                    raise
                if not by:
                    if nonce is None:
                        self._last[signer.address] = (chosen, sent.tx_hash)
                    return sent
                if nonce is not None:
                    break
                # Another program used this wallet meanwhile: look again.
                taken = chosen
            raise TransactionReplaced(tx_hash, signer.address, chosen, by)

    async def wait(
        self,
        sent: Sent,
        *,
        depth: int = 1,
        timeout_s: float | None = None,
        doing: str = "",
    ) -> Receipt:
        """See one transaction through, as `PendingTransaction.wait` does; its fee stays as it
        is."""
        pending = PendingTransaction(self, [sent])
        return await pending.wait(depth=depth, timeout_s=timeout_s, doing=doing)

    async def transact(
        self,
        signer: Signer,
        to: str | None,
        data: bytes,
        *,
        value_wei: int = 0,
        depth: int = 1,
        timeout_s: float | None = None,
        doing: str = "the transaction",
        gas_limit: int | None = None,
        more_gas: int = 0,
        record: Record | None = None,
    ) -> Receipt:
        """Prepare, send and wait until it is `depth` blocks deep, at a higher fee if need be.
        timeout_s: as in `PendingTransaction.wait`.

        Raises TransactionPending wherever a node may have the bytes and nothing proves their end.
        Every other error means that this transaction does not happen: it was never signed, the node
        refused it, it failed in a block, or another one took its nonce. A refused transaction's
        nonce goes to this account's next one, so of the two at most one can be mined.
        Cancelled: raises Cancelled; if `record` was called, the transaction may be mined.
        """
        prepared = await self.prepare(
            signer.address,
            to,
            data,
            value_wei=value_wei,
            doing=doing,
            gas_limit=gas_limit,
            more_gas=more_gas,
        )
        signed: list[Sent] = []
        outbox, entry = (None if record else self.outbox), secrets.randbits(62)

        async def keep(sent: Sent) -> None:
            if record is not None:
                await record(sent)
            if outbox is not None:
                await outbox.record(entry, self.chain_id, sent)
            signed.append(sent)

        try:
            # A hand-over that is not answered is waited for like one that is.
            with suppress(TransactionPending):
                await self.send(signer, prepared, record=keep)
            versions = [one for one in signed if one.nonce == signed[-1].nonce]
            pending = PendingTransaction(self, versions, signer=signer, record=keep)
            return await pending.wait(depth=depth, timeout_s=timeout_s, doing=doing)
        except TransactionPending:
            raise
        except PSymmError:
            if outbox is not None and signed:
                with suppress(PSymmError):
                    await outbox.forget(entry)
            raise

    # --- parts --------------------------------------------------------------------------------

    async def _nonce(self, address: str) -> int:
        pending = await self.count(address, "pending")
        last = self._last.get(address)
        # Some nodes are slow to count what they hold, and some views lag.  Our own count rules
        # while the node still knows the transaction that it rests on.  A chain can also go back;
        # one look that does not show it proves that no more than a view that lags.
        pause_s = self.poll_s
        if last is None or last[0] < pending:
            return pending
        for _ in range(LOOKS):
            if await self.is_known(last[1]):
                return last[0] + 1
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)
        return pending

    async def _hand_over(self, sent: Sent) -> str:
        """Give signed bytes to the node; "" once it has them, else the hash of the transaction
        that is mined with their nonce.

        Raises TransactionPending where neither is proven; what `send` names where the node
        certainly did not take them.  Cancelled: raises Cancelled; the node may have them.
        """
        began, lost, reason = trio.current_time(), False, ""
        for attempt in range(1, _HAND_OVERS + 1):
            try:
                # Cut short, it could not be told whether the node has it.
                with trio.CancelScope(shield=True):
                    await self.rpc.send(sent.raw)
            except (ChainDown, BadReply) as trouble:
                # It may or may not have arrived; the same bytes again can do no harm. Where every
                # other request is refused, a look between two hand-overs would take the good turn.
                lost, reason = True, str(trouble)
                with suppress(ChainDown, BadReply, RpcError):
                    if attempt % 2 == 0 and await self.is_known(sent.tx_hash):
                        return ""
            except RpcError as refused:
                # A gateway can hand it to several nodes, or twice to one, and give any answer.
                held = refused.answer in (Answer.NONCE_USED, Answer.NONCE_HELD)
                try:
                    if await self.is_known(sent.tx_hash):
                        return ""
                    by = await miner_of(self, sent.sender, sent.nonce, 1) if held else None
                    if by is not None:
                        return "" if by == sent.tx_hash else by
                except (ChainDown, BadReply, RpcError) as trouble:
                    lost, reason = True, str(trouble)
                else:
                    if not held and not lost:
                        raise await self._not_taken(sent, refused) from None
                    reason = refused.message
            else:
                return ""
            if attempt < _HAND_OVERS:
                await trio.sleep(self.poll_s * 2**attempt)
        raise TransactionPending(sent.tx_hash, trio.current_time() - began, reason)

    async def _not_taken(self, sent: Sent, refused: RpcError) -> Exception:
        if refused.answer is Answer.FEE:
            fees = sent.prepared.fees
            return FeeRefused(refused.message, fees.max_wei, fees.tip_wei)
        if refused.answer is Answer.COIN:
            balance = await self.balance(sent.sender)
            return WalletWithoutGas(sent.sender, balance, sent.prepared.most_wei)
        return self._refusal("sending the transaction", refused)

    async def nonce(self, account: str) -> int:
        """The nonce of an account's next transaction, mined ones counted."""
        return await self.count(account, "latest")

    def replaced(self, older: Sent, dearer: Sent) -> None:
        """Take note that a dearer transaction stands for this one's nonce."""
        if self._last.get(older.sender) == (older.nonce, older.tx_hash):
            self._last[older.sender] = (dearer.nonce, dearer.tx_hash)

    async def fill(self, signer: Signer, nonce: int) -> None:
        """Give a nonce that no transaction has to an empty one, so that later ones can be mined.

        Does nothing where the node knows a transaction with it, or the outbox has one.  What the
        node says to the empty one is not raised; raises what `prepare` raises.
        """
        if self.outbox is not None and await self.outbox.hand_over(self, signer, nonce):
            return
        prepared = await self.prepare(signer.address, signer.address, b"", doing="filling a gap")
        async with self._locks.setdefault(signer.address, trio.Lock()):
            if await self.count(signer.address, "pending") <= nonce:
                empty = await sign(signer, self.chain_id, nonce, prepared)
                await PendingTransaction(self, [empty]).again()


def _dearer(fees: Fees) -> Fees:
    """The next try after a node refused a fee: twice the tip, a quarter more in all."""
    tip_wei = max(2 * fees.tip_wei, 10**8)
    return Fees(max(fees.max_wei * 5 // 4, fees.max_wei + tip_wei - fees.tip_wei) + 1, tip_wei)


__all__ = [
    "WAIT_S",
    "Block",
    "Chain",
    "Fees",
    "Log",
    "PendingTransaction",
    "Prepared",
    "Receipt",
    "Sent",
    "Signer",
]
