"""Sending transactions: nonces, fees and gas.  `pending` waits for them and raises their fees.

Theory of operation. `send` takes these steps while it holds the account's lock:

    1. choose the nonce, by the chain's count and our own last transaction
    2. sign
    3. `record`: from here on the bytes are durable
    4. hand over, and look what became of it if the answer is lost or doubtful
    5. remember nonce and hash as the account's last

A crash between 3 and 5 leaves bytes that a node may or may not have. The outbox, the note store or
the relayer, which recorded them, hands over the same bytes again. So nothing is sent twice.

Nonces. Tasks that share an account queue up on its lock, so each transaction gets the next nonce
and no gap appears. Another program can use the same account: `send` takes a new nonce only after
the chain shows another transaction mined with the first one. So a transaction is never sent under
two nonces that could both be mined.

An error after `record` may still leave the transaction with a node. Only TransactionPending says
so; all other errors of `send` and `transact` prove that the transaction does not happen.
"""

from __future__ import annotations

import math
import secrets
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from psymm.chain.abi import Refusals
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
from psymm.chain.node_errors import NodeErrorKind
from psymm.chain.pending import WAIT_S, PendingTransaction, Record, miner_of
from psymm.chain.reading import HEAD_ATTEMPTS, Block, ChainReader, Log, Receipt
from psymm.chain.rpc import Rpc
from psymm.chain.signing import Fees, Prepared, Sent, Signer, sign
from psymm.errors import PSymmError

if TYPE_CHECKING:
    from psymm.chain.outbox import Outbox

MAX_CODE_GAS_LIMIT: Final = 30_000_000
_HAND_OVERS: Final = 4
MOST_RAISED: Final = 4
"""A fee is raised to at most this many times the one that was shown."""
MOST_TIP_WEI: Final = 100 * 10**9
"""The highest tip, in wei per gas, that we sign because a node suggests it. The chain sets the base
fee and charges no more than it is; a tip is always paid in full, to the block's producer."""
MOST_FEE_WEI: Final = 10_000 * 10**9
"""The highest base fee that we believe, in wei per gas; higher than any of our chains ever had."""


class Chain(ChainReader):
    """One chain, read and written.

    Args:
        chain_id: checked before the first transaction is signed.
        gas_margin: the share of gas that a transaction may use above its estimate.
        poll_s: see ChainReader.
        most_tip_wei: wei per gas; if a node suggests a higher tip, nothing is signed.
        most_fee_wei: wei per gas; if a node shows a higher base fee, nothing is signed.
        most_raised: a fee that is too low is raised to at most this many times the prepared one.
        most_ahead_s: see ChainReader.
        outbox: keeps what `transact` sends if the caller gives no `record`.
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
        # By account: nonce and hash of the last transaction that a node may have from us. Only in
        # memory: after a restart the chain's count decides, and what was recorded is handed over
        # again.
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

        more_gas: gas beyond the estimate and its margin that it may need because of what others do
        before it is mined.  Unused gas is not paid.
        Raises Reverted if the contract would refuse, WalletWithoutGas if the sender cannot pay,
        BadReply for fees above our limits.
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
        """The gas limit for an estimate."""
        return math.ceil(gas * (1 + self._gas_margin))

    async def fees(self) -> Fees:
        """Fees that will be mined soon: the tip that the node suggests, and twice the base fee."""
        block = await self.block()
        try:
            tip = int(await self.rpc.eth.max_priority_fee)
        except RpcError:
            # Some nodes do not offer the method. Then a gwei is offered.
            tip = 10**9
        if tip > self._most_tip_wei:
            raise BadReply(
                self.rpc.endpoint,
                "eth_maxPriorityFeePerGas",
                f"a tip of {tip} wei per gas, above the limit of {self._most_tip_wei}",
            )
        if block.base_fee_wei > self._most_fee_wei:
            raise BadReply(
                self.rpc.endpoint,
                "eth_getBlockByNumber",
                f"a base fee of {block.base_fee_wei} wei per gas, above the limit of "
                f"{self._most_fee_wei}",
            )
        # A base fee rises by at most an eighth for each block (EIP-1559), so twice of it lasts for
        # five full blocks. What the block does not ask is not paid.
        return Fees(2 * block.base_fee_wei + tip, tip)

    def fee_limit(self, prepared: Fees) -> Fees:
        """The highest fees that may be offered for a transaction prepared with these."""
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

        Args:
            nonce: replace the transaction that has it.  The fees must be higher than that one's,
                and the caller raises them if the node refuses.
            record: awaited with each signed transaction before a node sees it, to make it durable.
                What it raises ends the sending.

        Without `nonce`, a fee that the node refuses is raised with the same nonce, to at most
        `most_raised` times the prepared one.  Programs that share a wallet get different nonces,
        unless they send the very same bytes: those are one transaction.  Another nonce is taken
        only after the chain showed another transaction mined with the first one.

        Raises WalletWithoutGas, FeeRefused, Reverted, RpcError, WrongChain: the node did not take
        it.  TransactionPending: it may have taken it.  TransactionReplaced: another one with the
        given nonce is mined.  ChainDown, BadReply: nothing was handed over.
        Cancelled: raises Cancelled; what was recorded may have been handed over.
        """
        await self.check()
        if prepared.sender != signer.address:
            raise CallInvalid("sender", "prepared for another sender than the signer")
        limit = self.fee_limit(prepared.fees)
        # Held until the node has it: two tasks must not get the same nonce.
        async with self._locks.setdefault(signer.address, trio.Lock()):
            taken, tx_hash, chosen, by = -1, "", 0, ""
            # Bounded, because the node decides how often this repeats: it can show any nonce as
            # taken.
            for _ in range(16):
                if nonce is not None:
                    chosen = nonce
                else:
                    # A node that lags may give once more the nonce that was just proven taken.
                    chosen = max(await self._nonce(signer.address), taken + 1)
                sent = await sign(signer, self.chain_id, chosen, prepared)
                tx_hash = sent.tx_hash
                if nonce is None and self._last.get(signer.address) == (chosen, sent.tx_hash):
                    # The node lags or forgot, so it gave the nonce of our last transaction, and the
                    # same call gives the same bytes: two calls would become one transaction.  Hand
                    # the last one over again, and take the next nonce for this one.
                    with suppress(ChainError):
                        await self.rpc.send(sent.raw)
                    taken = chosen
                    continue
                # Recorded first: after a crash, the same bytes are handed over again.
                if record is not None:
                    await record(sent)
                try:
                    by = await self._hand_over(sent)
                except FeeRefused:
                    raised = _raised_fees(prepared.fees)
                    if (
                        nonce is not None
                        or raised.max_wei > limit.max_wei
                        or raised.tip_wei > limit.tip_wei
                    ):
                        raise
                    # The same nonce: at most one of the two versions can be mined.
                    prepared = replace(prepared, fees=raised)
                    taken = chosen - 1
                    continue
                except TransactionPending:
                    # The node may have it, so the next transaction must not get this nonce.
                    if nonce is None:
                        self._last[signer.address] = (chosen, sent.tx_hash)
                    raise
                # The node has it, so from here on `_nonce` counts past it. A replacement does not
                # move the account's end.
                if not by:
                    if nonce is None:
                        self._last[signer.address] = (chosen, sent.tx_hash)
                    return sent
                if nonce is not None:
                    break
                # Another program used this account meanwhile: ask for the nonce again.
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
        """Wait for one transaction like `PendingTransaction.wait`, without raising its fee."""
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
        """Prepare, send and wait until it is `depth` blocks deep, at a higher fee if needed.

        Args:
            timeout_s: as in `PendingTransaction.wait`.
            record: as in `send`; None: the outbox records it.

        Raises TransactionPending if a node may have the bytes and nothing proves their fate.
        Every other error means that this transaction does not happen: it was never signed, the node
        refused it, it failed in a block, or another one took its nonce. The account's next
        transaction gets a refused one's nonce, so at most one of the two can be mined.
        Cancelled: raises Cancelled; if it was recorded, the transaction may be mined.
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
        # Random, because several programs write to the outbox at once; below SQLite's 63 bits.
        outbox, entry = (None if record else self.outbox), secrets.randbits(62)

        async def keep(sent: Sent) -> None:
            if record is not None:
                await record(sent)
            if outbox is not None:
                await outbox.record(entry, self.chain_id, sent)
            signed.append(sent)

        try:
            # Without an answer the node may still have it, so we wait all the same.
            with suppress(TransactionPending):
                await self.send(signer, prepared, record=keep)
            # `send` left each earlier nonce only after it was proven taken, so only these can be
            # mined.
            versions = [one for one in signed if one.nonce == signed[-1].nonce]
            pending = PendingTransaction(self, versions, signer=signer, record=keep)
            return await pending.wait(depth=depth, timeout_s=timeout_s, doing=doing)
        except TransactionPending:
            raise
        except PSymmError:
            # It does not happen, so a restart must not send it. If the disk fails too, the first
            # error is the one to report.
            if outbox is not None and signed:
                with suppress(PSymmError):
                    await outbox.forget(entry)
            raise

    # --- parts --------------------------------------------------------------------------------

    async def _nonce(self, address: str) -> int:
        pending = await self.count(address, "pending")
        last = self._last.get(address)
        # Some nodes are slow to count their own pool, and some lag.  So our own count applies for
        # as long as the node knows our last transaction.  It may also be gone for good, after a
        # reorganisation; a lagging node looks the same, so one look is not enough to tell.
        pause_s = self.poll_s
        if last is None or last[0] < pending:
            return pending
        for _ in range(HEAD_ATTEMPTS):
            if await self.is_known(last[1]):
                return last[0] + 1
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)
        # Gone for good, as after a reorganisation: the chain's count is right, and the nonce is
        # free.
        return pending

    async def _hand_over(self, sent: Sent) -> str:
        """Give signed bytes to the node.  "" once it has them; else the hash of the transaction
        that is mined with their nonce.

        Raises TransactionPending if neither is proven, and what `send` lists if the node certainly
        did not take them.  Cancelled: raises Cancelled; the node may have them.
        """
        began, lost, reason = trio.current_time(), False, ""
        for attempt in range(1, _HAND_OVERS + 1):
            try:
                # If a cancellation cut this short, nobody would know whether the node has it.
                with trio.CancelScope(shield=True):
                    await self.rpc.send(sent.raw)
            except (ChainDown, BadReply) as trouble:
                # It may have arrived; sending the same bytes again does no harm. We look for it
                # only every second time: if a gateway refuses every other request, a look between
                # two hand-overs would use up the accepted one.
                lost, reason = True, str(trouble)
                with suppress(ChainDown, BadReply, RpcError):
                    if attempt % 2 == 0 and await self.is_known(sent.tx_hash):
                        return ""
            except RpcError as refused:
                # A gateway can pass it to several nodes, or twice to one, and return any answer.
                held = refused.kind in (NodeErrorKind.NONCE_USED, NodeErrorKind.NONCE_HELD)
                try:
                    if await self.is_known(sent.tx_hash):
                        return ""
                    by = await miner_of(self, sent.sender, sent.nonce, 1) if held else None
                    if by is not None:
                        return "" if by == sent.tx_hash else by
                except (ChainDown, BadReply, RpcError) as trouble:
                    lost, reason = True, str(trouble)
                else:
                    # After a lost answer a refusal proves nothing: that request may have delivered
                    # the bytes.
                    if not held and not lost:
                        raise await self._not_taken(sent, refused) from None
                    reason = refused.message
            else:
                return ""
            if attempt < _HAND_OVERS:
                await trio.sleep(self.poll_s * 2**attempt)
        raise TransactionPending(sent.tx_hash, trio.current_time() - began, reason)

    async def _not_taken(self, sent: Sent, refused: RpcError) -> Exception:
        if refused.kind is NodeErrorKind.FEE:
            fees = sent.prepared.fees
            return FeeRefused(refused.message, fees.max_wei, fees.tip_wei)
        if refused.kind is NodeErrorKind.COIN:
            balance = await self.balance(sent.sender)
            return WalletWithoutGas(sent.sender, balance, sent.prepared.most_wei)
        return self._refusal("sending the transaction", refused)

    async def nonce(self, account: str) -> int:
        """The nonce after an account's mined transactions."""
        return await self.count(account, "latest")

    def note_replacement(self, older: Sent, raised: Sent) -> None:
        """Remember that a replacement now has this transaction's nonce."""
        if self._last.get(older.sender) == (older.nonce, older.tx_hash):
            self._last[older.sender] = (raised.nonce, raised.tx_hash)

    async def fill_nonce(self, signer: Signer, nonce: int) -> None:
        """Send an empty transaction with an unused nonce, so that later ones can be mined.

        If the outbox has a transaction with this nonce, that one is handed over instead.  Does
        nothing if the node knows one.  A refusal by the node is not raised; raises what `prepare`
        raises.
        """
        if self.outbox is not None and await self.outbox.hand_over(self, signer, nonce):
            return
        prepared = await self.prepare(signer.address, signer.address, b"", doing="filling a gap")
        async with self._locks.setdefault(signer.address, trio.Lock()):
            if await self.count(signer.address, "pending") <= nonce:
                # Not recorded. If it gets lost, the gap is found and filled again.
                empty = await sign(signer, self.chain_id, nonce, prepared)
                await PendingTransaction(self, [empty]).rebroadcast()


def _raised_fees(fees: Fees) -> Fees:
    """What to offer after a node refused a fee: twice the tip, and at least a quarter more."""
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
