"""Sending transactions: nonces, fees, gas, and waiting for depth.

A transaction is signed through a `Signer`, which sees one digest and returns one signature, so
that a key service or a device works as well as a key in memory.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final, Protocol

import trio

from psymm._core import keccak256
from psymm.chain.abi import Refusals
from psymm.chain.answers import Answer
from psymm.chain.errors import (
    BadReply,
    CallInvalid,
    ChainDown,
    ChainError,
    FeeRefused,
    NotKept,
    OutOfGas,
    Reverted,
    RpcError,
    TransactionPending,
    TransactionReplaced,
    WalletWithoutGas,
)
from psymm.chain.reading import LOOKS, Block, ChainReader, Log, Receipt
from psymm.chain.rpc import Rpc, own_deadline, time_left
from psymm.imports import recursion_limit_kept

MAX_CODE_GAS_LIMIT: Final = 30_000_000
_HAND_OVERS: Final = 4
WAIT_S: Final = 180.0
"""How long a transaction is waited for where nobody says."""
_READ_BACK: Final = 256
"""Blocks that are read whole; nodes that keep only new state have that of 128."""
_MOST_RAISED: Final = 4
"""By how much at most a fee is raised that the node refuses: what was shown before times this."""
MOST_TIP_WEI: Final = 100 * 10**9
"""The highest tip that is signed on a node's word, wei a gas. The base fee is the chain's own and
only bounded by what is signed; a tip is paid whole, to whoever makes the block."""
MOST_FEE_WEI: Final = 10_000 * 10**9
"""The highest base fee that is believed, wei a gas; higher than any chain of ours has had."""


class Signer(Protocol):
    """What sends and pays for transactions: `psymm.wallet.KeyWallet` is one."""

    @property
    def address(self) -> str:
        """Checksummed address."""
        ...

    def sign_digest(self, digest: bytes) -> bytes | Awaitable[bytes]:
        """65 bytes r ‖ s ‖ v over 32 bytes, low s, v 27 or 28; or a promise of them."""
        ...


@dataclass(frozen=True, slots=True)
class Fees:
    """Fees of one transaction, wei a gas (EIP-1559)."""

    max_wei: int
    tip_wei: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """A transaction before it is signed: what it would cost at most, for showing."""

    sender: str
    to: str | None
    data: bytes
    value_wei: int
    gas_limit: int
    fees: Fees

    @property
    def most_wei(self) -> int:
        return self.gas_limit * self.fees.max_wei + self.value_wei


@dataclass(frozen=True, slots=True)
class Sent:
    """A transaction that the node accepted; `raw` are its signed bytes."""

    tx_hash: str
    sender: str
    nonce: int
    raw: bytes
    prepared: Prepared


class Chain(ChainReader):
    """One chain, read and written.

    chain_id: checked before the first transaction is signed.  gas_margin: how much more gas than
    estimated a transaction may use.  poll_s, most_ahead_s: see ChainReader.
    most_tip_wei, most_fee_wei: a node that names a higher tip or base fee, wei a gas, is not
    believed, and nothing is signed.
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
        most_ahead_s: float | None = None,
    ) -> None:
        super().__init__(rpc, chain_id, poll_s=poll_s, refusals=refusals, most_ahead_s=most_ahead_s)
        self._most_tip_wei = most_tip_wei
        self._most_fee_wei = most_fee_wei
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

    async def send(
        self,
        signer: Signer,
        prepared: Prepared,
        *,
        nonce: int | None = None,
        record: Callable[[Sent], Awaitable[None]] | None = None,
    ) -> Sent:
        """Sign and hand over a transaction; does not wait for it.

        Tasks that share a signer queue up, so each gets its own nonce and none leaves a gap.
        nonce: replace the transaction that has it; fees must be higher than that one's.
        record: is given each signed transaction before the node is, to make it durable; what it
        raises ends the sending.
        A fee that the node refuses is raised, at most to _MOST_RAISED times what was prepared, with
        the same nonce; a given nonce's is the caller's to raise.
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
        most_wei = _MOST_RAISED * prepared.fees.max_wei
        async with self._locks.setdefault(signer.address, trio.Lock()):
            taken, tx_hash, chosen, by = -1, "", 0, ""
            for _ in range(16):
                if nonce is not None:
                    chosen = nonce
                else:
                    chosen = max(await self._nonce(signer.address), taken + 1)
                sent = await self._sign(signer, chosen, prepared)
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
                        or dearer.max_wei > most_wei
                        or dearer.tip_wei > self._most_tip_wei
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
        looks: int | None = None,
        doing: str = "",
    ) -> Receipt:
        """Wait until a transaction is `depth` blocks deep; 1 means mined.  timeout_s: None waits
        until the caller's deadline, or WAIT_S where it set none.  looks: for so many only, if that
        is sooner.

        Only the chain's own proof ends the wait, at that depth: its receipt, or another
        transaction with its nonce.  A node that does not answer, or answers nonsense, is asked
        again until the time is up.  A transaction that it forgot is handed over again, the same
        bytes.

        Raises Reverted, OutOfGas, TransactionReplaced, TransactionPending.  Cancelled: raises
        Cancelled; the transaction lives on.
        """
        reason, missing, pause_s = "", 0, self.poll_s
        timeout_s = time_left(WAIT_S) if timeout_s is None else timeout_s
        with own_deadline(), trio.move_on_after(timeout_s):
            for look in count(1) if looks is None else range(1, looks + 1):
                try:
                    receipt = await self.receipt(sent.tx_hash, doing=doing, sent=sent, depth=depth)
                    if receipt is not None:
                        return receipt
                    # Not after each look: of two nodes that answer in turn, of which one lags, that
                    # one would then be asked for every receipt.
                    if look % 3 == 0:
                        missing = 0 if await self.is_known(sent.tx_hash) else missing + 1
                    # Between two questions a block can come, so one odd answer proves nothing.
                    if missing >= 2:
                        missing = 0
                        await self._missed(sent, depth)
                    reason, pause_s = "", self.poll_s
                except (Reverted, OutOfGas, TransactionReplaced):
                    raise
                except ChainError as trouble:
                    reason, pause_s = str(trouble), min(2 * pause_s, max(10.0, self.poll_s))
                await trio.sleep(pause_s)
        raise TransactionPending(sent.tx_hash, timeout_s, reason)

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
        record: Callable[[Sent], Awaitable[None]] | None = None,
    ) -> Receipt:
        """Prepare, send and wait until it is `depth` blocks deep.  timeout_s: as in `wait`.

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

        async def keep(sent: Sent) -> None:
            if record is not None:
                await record(sent)
            signed.append(sent)

        # A hand-over that is not answered is waited for like one that is.
        with suppress(TransactionPending):
            await self.send(signer, prepared, record=keep)
        return await self.wait(signed[-1], depth=depth, timeout_s=timeout_s, doing=doing)

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

    async def _sign(self, signer: Signer, nonce: int, prepared: Prepared) -> Sent:
        raw = await signed(signer, self.chain_id, nonce, prepared)
        return Sent(_hex(keccak256(raw)), signer.address, nonce, raw, prepared)

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
                    by = await self._miner_of(sent.sender, sent.nonce, 1) if held else None
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

    async def again(self, sent: Sent) -> None:
        """Hand signed bytes over once more.  What the node says of them proves nothing, so a
        refusal is not raised; raises what `Rpc.call` raises else."""
        with suppress(RpcError):
            await self.rpc.send(sent.raw)

    async def fill(self, signer: Signer, nonce: int) -> None:
        """Give a nonce that no transaction has to an empty one, so that later ones can be mined.

        Does nothing where the node knows a transaction with it.  What the node says to the empty
        one is not raised; raises what `prepare` raises.
        """
        prepared = await self.prepare(signer.address, signer.address, b"", doing="filling a gap")
        async with self._locks.setdefault(signer.address, trio.Lock()):
            if await self.count(signer.address, "pending") <= nonce:
                await self.again(await self._sign(signer, nonce, prepared))

    async def _missed(self, sent: Sent, depth: int) -> None:
        """What is done about a transaction that the node does not show.

        Raises TransactionReplaced if another one with its nonce is mined as deep.
        """
        used = await self.count(sent.sender, "latest")
        if used <= sent.nonce:
            try:
                await self.rpc.send(sent.raw)
            except (ChainDown, BadReply):
                await trio.sleep(self.poll_s)
                await self.rpc.send(sent.raw)
            return
        by = await self._miner_of(sent.sender, sent.nonce, depth)
        if by is not None and by != sent.tx_hash:
            raise TransactionReplaced(sent.tx_hash, sent.sender, sent.nonce, by)

    async def _miner_of(self, sender: str, nonce: int, depth: int) -> str | None:
        """The hash of the transaction that is mined with a nonce, `depth` blocks deep; None while
        the node shows none.

        The block is found by the account's count, looking back in growing steps from the head.
        Where a node keeps no state that old, blocks are read one by one from there, at most
        _READ_BACK.  Raises what `Rpc.call` raises.
        """
        after = await self.head() - depth + 1
        if after < 0 or await self.count(sender, after) <= nonce:
            return None
        before, step = after - 1, 1
        try:
            while before >= 0 and await self.count(sender, before) > nonce:
                after, step = before, 2 * step
                before = max(-1, after - step)
            while after - before > 1:
                middle = (before + after) // 2
                if await self.count(sender, middle) > nonce:
                    after = middle
                else:
                    before = middle
        except NotKept:
            before = max(-1, after - _READ_BACK)
        for number in range(after, before, -1):
            block: Any = await self.rpc.eth.get_block(number, full_transactions=True)
            for one in block.get("transactions", ()):
                if one["from"] == sender and one["nonce"] == nonce:
                    return _hex(one["hash"])
        return None


async def signed(signer: Signer, chain_id: int, nonce: int, prepared: Prepared) -> bytes:
    """The bytes of an EIP-1559 transaction with its signature.  Raises CallInvalid for what is no
    signature, and what the signer raises."""
    with recursion_limit_kept():
        from eth_account.typed_transactions.typed_transaction import TypedTransaction

    fields: dict[str, Any] = {
        "type": 2,
        "chainId": chain_id,
        "nonce": nonce,
        "maxPriorityFeePerGas": prepared.fees.tip_wei,
        "maxFeePerGas": prepared.fees.max_wei,
        "gas": prepared.gas_limit,
        "to": prepared.to or b"",
        "value": prepared.value_wei,
        "data": prepared.data,
    }
    answer = signer.sign_digest(TypedTransaction.from_dict(fields).hash())
    signature = await answer if inspect.isawaitable(answer) else answer
    if len(signature) != 65 or signature[64] not in (27, 28):
        raise CallInvalid("signature", "a signature is 65 bytes, r ‖ s ‖ v with v 27 or 28")
    fields["r"] = int.from_bytes(signature[:32], "big")
    fields["s"] = int.from_bytes(signature[32:64], "big")
    fields["v"] = signature[64] - 27
    return TypedTransaction.from_dict(fields).encode()


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _dearer(fees: Fees) -> Fees:
    """The next try after a node refused a fee: twice the tip, a quarter more in all."""
    tip_wei = max(2 * fees.tip_wei, 10**8)
    return Fees(max(fees.max_wei * 5 // 4, fees.max_wei + tip_wei - fees.tip_wei) + 1, tip_wei)


__all__ = [
    "Block",
    "Chain",
    "Fees",
    "Log",
    "Prepared",
    "Receipt",
    "Sent",
    "Signer",
]
