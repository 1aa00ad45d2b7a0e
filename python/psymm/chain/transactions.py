"""Reading contracts and sending transactions: nonces, fees, gas, and waiting for depth.

A transaction is signed through a `Signer`, which sees one digest and returns one signature, so
that a key service or a device works as well as a key in memory.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any, Final, Protocol, TypeAlias

import trio

from psymm._core import keccak256
from psymm.chain.abi import ZERO_ADDRESS, Abi, Refusals, checksummed
from psymm.chain.answers import Answer, revert_data
from psymm.chain.artifacts import artifact, known_artifacts
from psymm.chain.errors import (
    BadReply,
    CallInvalid,
    ChainDown,
    ChainError,
    FeeRefused,
    NotAnswered,
    OutOfGas,
    ReplyTooLong,
    Reverted,
    RpcError,
    TransactionPending,
    TransactionReplaced,
    WalletWithoutGas,
)
from psymm.chain.rpc import Rpc

MAX_RESULT_BYTES: Final = 128 * 1024
"""Of what a function returns; a page of the registry is half of it. Its parts may be named any
number of times each, so it can decode to the square of its length."""
MAX_CODE_GAS_LIMIT: Final = 30_000_000
_LOG_SPAN: Final = 2_000
_LOOKS: Final = 6
_HAND_OVERS: Final = 4
_MOST_RAISED: Final = 4
"""By how much at most a fee is raised that the node refuses: what was shown before times this."""
MOST_TIP_WEI: Final = 100 * 10**9
"""The highest tip that is signed on a node's word, wei a gas. The base fee is the chain's own and
only bounded by what is signed; a tip is paid whole, to whoever makes the block."""
_DEVELOPMENT_CHAIN: Final = 31_337
MOST_AHEAD_S: Final = 900.0
"""How far ahead of this machine's clock a block may be dated; no chain's are ahead by minutes."""
MOST_FEE_WEI: Final = 10_000 * 10**9
"""The highest base fee that is believed, wei a gas; higher than any chain of ours has had."""
_MOST_NONCE: Final = (1 << 63) - 1


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
class Log:
    """One event log, as the node gave it and as the ABI decodes it."""

    address: str
    topics: tuple[bytes, ...]
    data: bytes
    block: int
    block_hash: bytes
    tx_hash: str
    index: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """A mined transaction.  cost_wei: what its gas cost; logs: all events, in order."""

    tx_hash: str
    block: int
    block_hash: bytes
    sender: str
    to: str | None
    contract: str | None
    gas_used: int
    cost_wei: int
    logs: tuple[Log, ...]


@dataclass(frozen=True, slots=True)
class Block:
    number: int
    hash: bytes
    parent: bytes
    timestamp_s: int
    base_fee_wei: int


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


class Chain:
    """One chain through one node.

    chain_id: checked before the first transaction is signed.  gas_margin: how much more gas than
    estimated a transaction may use.  poll_s: pause between looks at the chain.
    most_tip_wei, most_fee_wei: a node that names a higher tip or base fee, wei a gas, is not
    believed, and nothing is signed.
    most_ahead_s: a block dated further ahead of this machine's clock is not believed; None:
    MOST_AHEAD_S, but no limit on the development chain, whose owner moves its clock.
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
        self.rpc = rpc
        self._most_tip_wei = most_tip_wei
        self._most_fee_wei = most_fee_wei
        if most_ahead_s is None:
            most_ahead_s = math.inf if chain_id == _DEVELOPMENT_CHAIN else MOST_AHEAD_S
        self._most_ahead_s = most_ahead_s
        self.chain_id = chain_id
        self.poll_s = poll_s
        self._gas_margin = gas_margin
        self._refusals = refusals
        self._last: dict[str, tuple[int, str]] = {}
        self._locks: dict[str, trio.Lock] = {}
        self._chain_checked = False
        self._head_asked = False

    def __repr__(self) -> str:
        return f"Chain({self.chain_id}, {self.rpc.endpoint})"

    @property
    def refusals(self) -> Refusals:
        if self._refusals is None:
            self._refusals = Refusals(artifact(name).abi for name in known_artifacts())
        return self._refusals

    # --- reading ------------------------------------------------------------------------------

    async def check(self) -> None:
        """Raises WrongChain if the node serves another chain.  Asks once only."""
        if not self._chain_checked:
            await self.rpc.expect_chain(self.chain_id)
            self._chain_checked = True

    async def block(self, number: int | str = "latest") -> Block:
        """A block's header.  Raises NotAnswered where the node does not have it."""
        tag = hex(number) if isinstance(number, int) else number

        def read(found: object) -> Block:
            block = self._block(found)
            if isinstance(number, int) and block.number != number:
                raise BadReply(
                    self.rpc.endpoint, "eth_getBlockByNumber", "another block than asked"
                )
            return block

        block = await self.rpc.ask("eth_getBlockByNumber", tag, False, read=read)
        self.rpc.newest = max(self.rpc.newest, block.number)
        return block

    async def code(self, address: str) -> bytes:
        found = await self.rpc.data("eth_getCode", address, "latest")
        return found or await self.rpc.data("eth_getCode", address, hex(await self.head()))

    async def balance(self, address: str, *, block: int | str = "latest", at_least: int = 0) -> int:
        """The chain's coin that an address holds, in wei.

        at_least: where less is found, the newest block that is known is asked, for the first
        answer may be that of a view that lags."""
        where = hex(block) if isinstance(block, int) else block
        found = await self.rpc.quantity("eth_getBalance", address, where)
        if found >= at_least:
            return found
        return await self.rpc.quantity("eth_getBalance", address, hex(await self.head()))

    async def call(
        self,
        to: str,
        abi: Abi,
        function: str,
        *values: object,
        block: int | bytes | str = "latest",
        sender: str | None = None,
    ) -> Any:
        """What a function returns: one value bare, several as a tuple, none as None.

        block: a number, a hash (then exactly that block is meant) or a tag.
        Raises Reverted, BadReply and what `Rpc.call` raises.
        """
        kind = abi.function(function)
        data = await self.simulate(
            to, kind.encode(*values), doing=function, block=block, sender=sender
        )
        if len(data) > MAX_RESULT_BYTES:
            raise ReplyTooLong(self.rpc.endpoint, "eth_call", f"more than {MAX_RESULT_BYTES} bytes")
        if not data and kind.outputs and block == "latest":
            # A view that lags does not know a contract that was put there just now.
            data = await self.simulate(
                to, kind.encode(*values), doing=function, block=await self.head(), sender=sender
            )
        if not data and kind.outputs:
            raise BadReply(self.rpc.endpoint, "eth_call", f"there is no contract at {to}")
        try:
            found = kind.decode(data)
        except CallInvalid as bad:
            raise BadReply(self.rpc.endpoint, "eth_call", str(bad)) from None
        if not found:
            return None
        return found[0] if len(found) == 1 else found

    async def simulate(
        self,
        to: str | None,
        data: bytes,
        *,
        doing: str = "the call",
        block: int | bytes | str = "latest",
        sender: str | None = None,
        value_wei: int = 0,
        gas: int | None = None,
        overrides: Mapping[str, Mapping[str, object]] | None = None,
        time_s: int | None = None,
    ) -> bytes:
        """Run a transaction without sending it.  Raises Reverted with the contract's own error.

        overrides: what accounts hold instead for this run (`code`, `stateDiff`), by address; some
        nodes know none, and say so or ignore them.  time_s: the block's time instead.
        """
        request: dict[str, str] = {"data": "0x" + data.hex()}
        if to is not None:
            request["to"] = to
        if sender is not None:
            request["from"] = sender
        if value_wei:
            request["value"] = hex(value_wei)
        if gas is not None:
            request["gas"] = hex(gas)
        where: object
        if isinstance(block, bytes):
            where = {"blockHash": "0x" + block.hex()}
        else:
            where = hex(block) if isinstance(block, int) else block
        instead: list[object] = []
        if overrides is not None or time_s is not None:
            instead.append(overrides or {})
        if time_s is not None:
            instead.append({"time": hex(time_s)})
        try:
            return await self.rpc.data("eth_call", request, where, *instead)
        except RpcError as refused:
            error = self._refusal(doing, refused)
            if where != "latest" or not isinstance(error, Reverted):
                raise error from None
        # A view that lags refuses what only newer blocks allow: asked of the newest block that is
        # known, it says that it has no such block, and is asked again.
        where = hex(await self.head())
        try:
            return await self.rpc.data("eth_call", request, where, *instead)
        except RpcError as refused:
            raise self._refusal(doing, refused) from None

    async def head(self) -> int:
        """The number of the newest block.

        A view that lags behind what was seen before is asked again: the next answer may be another
        backend's.  If all are behind, the chain went back.
        """
        if not self._head_asked:
            # Of two nodes that answer in turn one may lag: by the second answer that is known.
            await self.rpc.block_number()
            self._head_asked = True
        seen, pause_s = self.rpc.newest, self.poll_s
        for _ in range(_LOOKS - 1):
            if (found := await self.rpc.block_number()) >= seen:
                return found
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)
        self.rpc.newest = await self.rpc.block_number()
        return self.rpc.newest

    async def logs(
        self,
        address: str,
        topics: Sequence[bytes | Sequence[bytes] | None],
        first: int,
        last: int,
        *,
        span: int = _LOG_SPAN,
    ) -> AsyncIterator[Log]:
        """Every log of a contract from block `first` to `last`, in the chain's order.

        Asked for in ranges of at most `span` blocks, halved where the node says that is too much.
        Raises BadReply for a log that was not asked for.
        """
        wanted = [
            None if one is None else _hex(one) if isinstance(one, bytes) else [_hex(t) for t in one]
            for one in topics
        ]
        start = first
        while start <= last:
            end = min(last, start + span - 1)
            try:
                logs = await self.rpc.ask(
                    "eth_getLogs",
                    {
                        "address": address,
                        "topics": wanted,
                        "fromBlock": hex(start),
                        "toBlock": hex(end),
                    },
                    read=partial(self._logs, checksummed("address", address), topics, start, end),
                )
            except (RpcError, ReplyTooLong) as refused:
                if isinstance(refused, RpcError) and refused.answer is not Answer.RANGE:
                    raise
                if end == start:
                    raise
                span = max(1, (end - start + 1) // 2)
                continue
            for log in logs:
                yield log
            start = end + 1

    # --- sending ------------------------------------------------------------------------------

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

    async def estimate(
        self,
        sender: str,
        to: str | None,
        data: bytes,
        *,
        value_wei: int = 0,
        doing: str = "the transaction",
    ) -> int:
        """The gas that a transaction would use now.  Raises Reverted where it would be refused."""
        request = {"from": sender, "data": "0x" + data.hex(), "value": hex(value_wei)}
        if to is not None:
            request["to"] = to
        try:
            return await self.rpc.quantity("eth_estimateGas", request)
        except RpcError as refused:
            error = self._refusal(doing, refused)
            if not isinstance(error, Reverted):
                raise error from None
        # Raises where the newest known block refuses, too; else this view lags. Asked about that
        # block, it says that it has none such, and is asked again.
        head = await self.head()
        await self.simulate(to, data, doing=doing, block=head, sender=sender, value_wei=value_wei)
        try:
            return await self.rpc.quantity("eth_estimateGas", request, hex(head))
        except RpcError:
            pass  # some nodes take no block here
        await trio.sleep(self.poll_s)
        try:
            return await self.rpc.quantity("eth_estimateGas", request)
        except RpcError as refused:
            raise self._refusal(doing, refused) from None

    def with_margin(self, gas: int) -> int:
        """The limit that is given where so much gas is estimated."""
        return math.ceil(gas * (1 + self._gas_margin))

    async def fees(self) -> Fees:
        """Fees that are mined soon: a tip as the node suggests, room for the base fee to double."""
        block = await self.block()
        try:
            tip = await self.rpc.quantity("eth_maxPriorityFeePerGas")
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
                        await self.rpc.call("eth_sendRawTransaction", _hex(sent.raw))
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
        self, sent: Sent, *, depth: int = 1, timeout_s: float = 180.0, doing: str = ""
    ) -> Receipt:
        """Wait until a transaction is `depth` blocks deep; 1 means mined.

        Only the chain's own proof ends the wait, at that depth: its receipt, or another
        transaction with its nonce.  A node that does not answer, or answers nonsense, is asked
        again until the time is up.  A transaction that it forgot is handed over again, the same
        bytes.

        Raises Reverted, OutOfGas, TransactionReplaced, TransactionPending.  Cancelled: raises
        Cancelled; the transaction lives on.
        """
        reason, missing, pause_s = "", 0, self.poll_s
        with trio.move_on_after(timeout_s):
            for look in count(1):
                try:
                    receipt = await self.receipt(sent.tx_hash, doing=doing, sent=sent, depth=depth)
                    if receipt is not None:
                        return receipt
                    # Not after each look: of two nodes that answer in turn, of which one lags, that
                    # one would then be asked for every receipt.
                    if look % 3 == 0:
                        missing = 0 if await self.knows(sent) else missing + 1
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

    async def is_mined(self, tx_hash: str) -> bool:
        """Whether the node shows a receipt, of success or failure, however deep."""
        return await self._receipt(tx_hash) is not None

    async def receipt(
        self, tx_hash: str, *, doing: str = "", sent: Sent | None = None, depth: int = 1
    ) -> Receipt | None:
        """The receipt of a transaction that is `depth` blocks deep, None while there is none.

        Raises Reverted or OutOfGas for one that failed and is as deep.
        """
        found = await self._receipt(tx_hash)
        if found is None:
            return None
        receipt, succeeded = found
        if depth > 1 and await self.head() - receipt.block + 1 < depth:
            return None
        if (await self.block(receipt.block)).hash != receipt.block_hash:
            return None
        if succeeded:
            return receipt
        doing = doing or f"transaction {tx_hash}"
        if sent is not None:
            plan = sent.prepared
            if receipt.gas_used >= plan.gas_limit:
                raise OutOfGas(doing, plan.gas_limit)
            # That it failed is proven. Why, this node need not be able to tell.
            with suppress(ChainDown, BadReply, RpcError):
                await self.simulate(
                    plan.to,
                    plan.data,
                    doing=doing,
                    block=receipt.block,
                    sender=plan.sender,
                    value_wei=plan.value_wei,
                )
        raise Reverted(doing, "a revert that cannot be repeated", {"transaction": tx_hash})

    async def _receipt(self, tx_hash: str) -> tuple[Receipt, bool] | None:
        """A receipt however deep, and whether the transaction succeeded."""
        method = "eth_getTransactionReceipt"
        raw = await self.rpc.call(method, tx_hash)
        if raw is None:
            return None
        if not isinstance(raw, dict) or str(raw.get("transactionHash")).lower() != tx_hash.lower():
            raise BadReply(self.rpc.endpoint, method, "the receipt of another transaction")
        gas_used = self.rpc.as_quantity(method, raw.get("gasUsed"))
        number = self.rpc.as_number(method, raw.get("blockNumber"))
        if raw.get("status") not in ("0x0", "0x1"):
            raise BadReply(self.rpc.endpoint, method, "neither success nor failure")
        price = self.rpc.as_quantity(method, raw.get("effectiveGasPrice", "0x0"))
        logs = raw.get("logs")
        if not isinstance(logs, list):
            raise BadReply(self.rpc.endpoint, method, "no logs")
        to, contract = raw.get("to"), raw.get("contractAddress")
        self.rpc.newest = max(self.rpc.newest, number)
        receipt = Receipt(
            tx_hash=tx_hash,
            block=number,
            block_hash=self.rpc.as_bytes(method, raw.get("blockHash"), 32),
            sender=checksummed("from", raw.get("from")),
            to=checksummed("to", to) if to else None,
            contract=checksummed("contractAddress", contract) if contract else None,
            gas_used=gas_used,
            cost_wei=gas_used * price,
            logs=tuple(self._log(one) for one in logs),
        )
        return receipt, raw.get("status") == "0x1"

    async def cost_wei(self, tx_hash: str) -> int:
        """What the gas of a mined transaction cost, whether it failed or not; 0 while there is
        none."""
        method = "eth_getTransactionReceipt"
        raw = await self.rpc.call(method, tx_hash)
        if raw is None:
            return 0
        if not isinstance(raw, dict):
            raise BadReply(self.rpc.endpoint, method, "no receipt")
        used = self.rpc.as_quantity(method, raw.get("gasUsed"))
        return used * self.rpc.as_quantity(method, raw.get("effectiveGasPrice", "0x0"))

    async def transact(
        self,
        signer: Signer,
        to: str | None,
        data: bytes,
        *,
        value_wei: int = 0,
        depth: int = 1,
        timeout_s: float = 180.0,
        doing: str = "the transaction",
        gas_limit: int | None = None,
        more_gas: int = 0,
        record: Callable[[Sent], Awaitable[None]] | None = None,
    ) -> Receipt:
        """Prepare, send and wait until it is `depth` blocks deep.

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
        pending = await self.rpc.quantity("eth_getTransactionCount", address, "pending")
        if pending > _MOST_NONCE:
            raise BadReply(self.rpc.endpoint, "eth_getTransactionCount", "no account has so many")
        last = self._last.get(address)
        # Some nodes are slow to count what they hold, and some views lag.  Our own count rules
        # while the node still knows the transaction that it rests on.  A chain can also go back;
        # one look that does not show it proves that no more than a view that lags.
        pause_s = self.poll_s
        if last is None or last[0] < pending:
            return pending
        for _ in range(_LOOKS):
            if await self.rpc.call("eth_getTransactionByHash", last[1]) is not None:
                return last[0] + 1
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)
        return pending

    async def _sign(self, signer: Signer, nonce: int, prepared: Prepared) -> Sent:
        unsigned = _unsigned(self.chain_id, nonce, prepared)
        answer = signer.sign_digest(keccak256(unsigned.envelope()))
        raw = unsigned.signed(await answer if inspect.isawaitable(answer) else answer)
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
                    await self.rpc.call("eth_sendRawTransaction", _hex(sent.raw))
            except (ChainDown, BadReply) as trouble:
                # It may or may not have arrived; the same bytes again can do no harm. Where every
                # other request is refused, a look between two hand-overs would take the good turn.
                lost, reason = True, str(trouble)
                with suppress(ChainDown, BadReply, RpcError):
                    if attempt % 2 == 0 and await self.knows(sent):
                        return ""
            except RpcError as refused:
                if refused.answer is Answer.KNOWN:
                    return ""
                # A gateway can hand it to several nodes, or twice to one, and give any answer.
                held = refused.answer in (Answer.NONCE_USED, Answer.NONCE_HELD)
                try:
                    if await self.knows(sent):
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

    async def knows(self, sent: Sent) -> bool:
        """Whether the node shows the transaction, waiting or mined."""
        return await self.rpc.call("eth_getTransactionByHash", sent.tx_hash) is not None

    async def nonce(self, account: str) -> int:
        """The nonce of an account's next transaction, mined ones counted."""
        return await self.rpc.quantity("eth_getTransactionCount", account, "latest")

    async def again(self, sent: Sent) -> None:
        """Hand signed bytes over once more.  What the node says of them proves nothing, so a
        refusal is not raised; raises what `Rpc.call` raises else."""
        with suppress(RpcError):
            await self.rpc.call("eth_sendRawTransaction", _hex(sent.raw))

    async def fill(self, signer: Signer, nonce: int) -> None:
        """Give a nonce that no transaction has to an empty one, so that later ones can be mined.

        Does nothing where the node knows a transaction with it.  What the node says to the empty
        one is not raised; raises what `prepare` raises.
        """
        prepared = await self.prepare(signer.address, signer.address, b"", doing="filling a gap")
        async with self._locks.setdefault(signer.address, trio.Lock()):
            if (
                await self.rpc.quantity("eth_getTransactionCount", signer.address, "pending")
                <= nonce
            ):
                await self.again(await self._sign(signer, nonce, prepared))

    async def _missed(self, sent: Sent, depth: int) -> None:
        """What is done about a transaction that the node does not show.

        Raises TransactionReplaced if another one with its nonce is mined as deep.
        """
        used = await self.rpc.quantity("eth_getTransactionCount", sent.sender, "latest")
        if used <= sent.nonce:
            for last in (False, True):
                try:
                    await self.rpc.call("eth_sendRawTransaction", _hex(sent.raw))
                    return
                except RpcError as refused:
                    if refused.answer is not Answer.KNOWN:
                        raise
                    return
                except (ChainDown, BadReply):
                    if last:
                        raise
                await trio.sleep(self.poll_s)
            return
        by = await self._miner_of(sent.sender, sent.nonce, depth)
        if by is not None and by != sent.tx_hash:
            raise TransactionReplaced(sent.tx_hash, sent.sender, sent.nonce, by)

    async def _miner_of(self, sender: str, nonce: int, depth: int) -> str | None:
        """The hash of the transaction that is mined with a nonce, `depth` blocks deep; None while
        the node shows none.

        The block is found by the account's count, looking back in growing steps from the head.
        Raises what `Rpc.call` raises, also where the node keeps no state that old.
        """

        async def counted(block: int) -> int:
            return await self.rpc.quantity("eth_getTransactionCount", sender, hex(block))

        after = await self.head() - depth + 1
        if after < 0 or await counted(after) <= nonce:
            return None
        before, step = after - 1, 1
        while before >= 0 and await counted(before) > nonce:
            after, step = before, 2 * step
            before = max(-1, after - step)
        while after - before > 1:
            middle = (before + after) // 2
            if await counted(middle) > nonce:
                after = middle
            else:
                before = middle
        method = "eth_getBlockByNumber"
        block = await self.rpc.call(method, hex(after), True)
        listed = block.get("transactions") if isinstance(block, dict) else None
        if not isinstance(listed, list):
            raise BadReply(self.rpc.endpoint, method, "a block without its transactions")
        for one in listed:
            if (
                isinstance(one, dict)
                and str(one.get("from")).lower() == sender.lower()
                and self.rpc.as_quantity(method, one.get("nonce")) == nonce
            ):
                return _hex(self.rpc.as_bytes(method, one.get("hash"), 32))
        return None

    def _refusal(self, doing: str, refused: RpcError) -> Exception:
        data = revert_data(refused.data)
        if data is not None:
            return self.refusals.decode(doing, data)
        if refused.answer is Answer.REVERTED:
            return Reverted(doing, "a revert without a reason", {})
        if refused.answer is Answer.OUT_OF_GAS:
            return OutOfGas(doing, 0)
        return refused

    def _block(self, raw: object) -> Block:
        method = "eth_getBlockByNumber"
        if raw is None:
            raise NotAnswered(self.rpc.endpoint, "it does not have that block, yet")
        if not isinstance(raw, dict):
            raise BadReply(self.rpc.endpoint, method, "no block")
        timestamp_s = self.rpc.as_number(method, raw.get("timestamp"))
        ahead_s = timestamp_s - time.time()
        if ahead_s > self._most_ahead_s:
            # Deadlines are reckoned from it: a far one lends our signature for years (`spec.md`
            # 21), and one that seems to have passed frees notes that a move may still spend.
            raise BadReply(
                self.rpc.endpoint,
                method,
                f"a block dated {ahead_s:.0f} s ahead of this machine's clock, which may be wrong",
            )
        return Block(
            number=self.rpc.as_number(method, raw.get("number")),
            hash=self.rpc.as_bytes(method, raw.get("hash"), 32),
            parent=self.rpc.as_bytes(method, raw.get("parentHash"), 32),
            timestamp_s=timestamp_s,
            base_fee_wei=self.rpc.as_quantity(method, raw.get("baseFeePerGas", "0x0")),
        )

    def _logs(
        self,
        address: str,
        topics: Sequence[bytes | Sequence[bytes] | None],
        first: int,
        last: int,
        raw: object,
    ) -> list[Log]:
        """The logs that were asked for.  Raises BadReply where they are others."""
        method = "eth_getLogs"
        if not isinstance(raw, list):
            raise BadReply(self.rpc.endpoint, method, "a list was expected")
        logs = [self._log(one) for one in raw]
        places = [(log.block, log.index) for log in logs]
        if places != sorted(set(places)):
            raise BadReply(self.rpc.endpoint, method, "logs out of order or twice")
        if not all(
            log.address == address and first <= log.block <= last and _match(log.topics, topics)
            for log in logs
        ):
            raise BadReply(self.rpc.endpoint, method, "a log that was not asked for")
        return logs

    def _log(self, raw: object) -> Log:
        method = "eth_getLogs"
        if not isinstance(raw, dict) or not isinstance(raw.get("topics"), list):
            raise BadReply(self.rpc.endpoint, method, "not a log")
        if raw.get("removed") is True:
            raise BadReply(self.rpc.endpoint, method, "a log of a block that was thrown away")
        return Log(
            address=checksummed("address", raw.get("address")),
            topics=tuple(self.rpc.as_bytes(method, one, 32) for one in raw["topics"]),
            data=self.rpc.as_bytes(method, raw.get("data")),
            block=self.rpc.as_number(method, raw.get("blockNumber")),
            block_hash=self.rpc.as_bytes(method, raw.get("blockHash"), 32),
            tx_hash=_hex(self.rpc.as_bytes(method, raw.get("transactionHash"), 32)),
            index=self.rpc.as_quantity(method, raw.get("logIndex")),
        )


# --- the bytes of a transaction -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Unsigned:
    """An EIP-1559 transaction's nine fields, ready for RLP."""

    fields: tuple[bytes | list[bytes], ...]

    def envelope(self) -> bytes:
        return b"\x02" + rlp(self.fields)

    def signed(self, signature: bytes) -> bytes:
        if len(signature) != 65 or signature[64] not in (27, 28):
            raise CallInvalid("signature", "a signature is 65 bytes, r ‖ s ‖ v with v 27 or 28")
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
        parity = number(signature[64] - 27)
        return b"\x02" + rlp((*self.fields, parity, number(r), number(s)))


def _unsigned(chain_id: int, nonce: int, prepared: Prepared) -> _Unsigned:
    return _Unsigned(
        (
            number(chain_id),
            number(nonce),
            number(prepared.fees.tip_wei),
            number(prepared.fees.max_wei),
            number(prepared.gas_limit),
            bytes.fromhex(prepared.to[2:]) if prepared.to is not None else b"",
            number(prepared.value_wei),
            prepared.data,
            [],
        )
    )


RlpItem: TypeAlias = "bytes | Sequence[RlpItem]"


def number(value: int) -> bytes:
    """RLP's form of a number: big-endian, no leading zeros, nothing for zero."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def rlp(item: RlpItem) -> bytes:
    """Recursive length prefix encoding of bytes and lists of them (Yellow Paper, appendix B)."""
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        return _prefixed(item, 0x80)
    return _prefixed(b"".join(rlp(one) for one in item), 0xC0)


def _prefixed(body: bytes, base: int) -> bytes:
    if len(body) < 56:
        return bytes([base + len(body)]) + body
    length = number(len(body))
    return bytes([base + 55 + len(length)]) + length + body


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _match(found: Sequence[bytes], wanted: Sequence[bytes | Sequence[bytes] | None]) -> bool:
    """Whether a log's topics are of those that were asked for (eth_getLogs)."""
    return len(found) >= len(wanted) and all(
        one is None or (topic == one if isinstance(one, bytes) else topic in one)
        for topic, one in zip(found, wanted, strict=False)
    )


def _dearer(fees: Fees) -> Fees:
    """The next try after a node refused a fee: twice the tip, a quarter more in all."""
    tip_wei = max(2 * fees.tip_wei, 10**8)
    return Fees(max(fees.max_wei * 5 // 4, fees.max_wei + tip_wei - fees.tip_wei) + 1, tip_wei)


__all__ = [
    "ZERO_ADDRESS",
    "Block",
    "Chain",
    "Fees",
    "Log",
    "Prepared",
    "Receipt",
    "Sent",
    "Signer",
]
