"""Reading a chain: headers, state, calls and their reverts, logs, receipts.

web3 encodes requests and decodes answers (`Rpc.eth`). This module adds what web3 does not handle:
nodes that lag, block ranges that are too large for a node, our contracts' errors.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import trio

from psymm.chain.abi import Abi, Refusals
from psymm.chain.addresses import checksummed
from psymm.chain.artifacts import artifact, known_artifacts
from psymm.chain.errors import (
    BadReply,
    CallInvalid,
    ChainDown,
    LyingNode,
    OutOfGas,
    ReplyTooLong,
    Reverted,
    RpcError,
)
from psymm.chain.node_errors import NodeErrorKind, revert_data
from psymm.chain.rpc import Rpc
from psymm.chain.signing import Sent

T = TypeVar("T")

_LOG_SPAN: Final = 2_000
MANY_BLOCKS: Final = 100_000
"""After this many blocks we check that a chain can have made them."""
_BLOCKS_A_S: Final = 100
"""The most blocks per second that we believe; the fastest chains make about ten."""
MOST_LOGS: Final = 1_000_000
"""The most logs of one question; no chain has the gas for so many in its range of blocks."""
HEAD_ATTEMPTS: Final = 6
"""How often we ask before we believe a head that is lower than one seen before."""
DEVELOPMENT_CHAIN: Final = 31_337
MOST_AHEAD_S: Final = 900.0
"""How far ahead of this machine's clock a block's time may be; chains are ahead by seconds."""


@dataclass(frozen=True, slots=True)
class Log:
    """One event log, not decoded yet."""

    address: str
    topics: tuple[bytes, ...]
    data: bytes
    block: int
    block_hash: bytes
    tx_hash: str
    index: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """A mined transaction.

    Attributes:
        contract: the address of the contract that it created, if it did.
        cost_wei: what its gas cost.
        logs: all its events, in order.
    """

    tx_hash: str
    block: int
    block_hash: bytes
    sender: str
    to: str | None
    contract: str | None
    gas_used: int
    cost_wei: int
    logs: tuple[Log, ...]
    succeeded: bool


@dataclass(frozen=True, slots=True)
class Block:
    number: int
    hash: bytes
    parent: bytes
    timestamp_s: int
    base_fee_wei: int


class ChainReader:
    """Reads one chain; `psymm.chain.transactions.Chain` also sends.

    Args:
        poll_s: the pause between two looks at the chain.
        refusals: decodes reverts; None: those of all our contracts.
        most_ahead_s: a block dated further ahead of this machine's clock is not believed. None:
            MOST_AHEAD_S, but no limit on the development chain, whose owner moves its clock.
    """

    def __init__(
        self,
        rpc: Rpc,
        chain_id: int,
        *,
        poll_s: float = 0.25,
        refusals: Refusals | None = None,
        most_ahead_s: float | None = None,
    ) -> None:
        self.rpc = rpc
        if most_ahead_s is None:
            most_ahead_s = math.inf if chain_id == DEVELOPMENT_CHAIN else MOST_AHEAD_S
        self._most_ahead_s = most_ahead_s
        self.chain_id = chain_id
        self.poll_s = poll_s
        self._refusals = refusals
        self._chain_checked = False
        self._head_asked = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.chain_id}, {self.rpc.endpoint})"

    @property
    def refusals(self) -> Refusals:
        if self._refusals is None:
            self._refusals = Refusals(artifact(name).abi for name in known_artifacts())
        return self._refusals

    async def check(self) -> None:
        """Raises WrongChain if the node serves another chain.  Asks only once."""
        if not self._chain_checked:
            await self.rpc.expect_chain(self.chain_id)
            self._chain_checked = True

    async def block(self, number: int | str = "latest") -> Block:
        """A block's header.  Raises NotAnswered if the node does not have it."""
        found = await self.rpc.eth.get_block(number)
        ahead_s = found["timestamp"] - time.time()
        if ahead_s > self._most_ahead_s:
            # Deadlines are computed from block times. A far one would make our signature valid for
            # years (`spec.md` 21); one that seems to have passed would free notes that a move can
            # still spend.
            raise BadReply(
                self.rpc.endpoint,
                "eth_getBlockByNumber",
                f"a block dated {ahead_s:.0f} s ahead of this machine's clock, which may be wrong",
            )
        # From now on a lower head means a node that lags (`head`).
        self.rpc.newest = max(self.rpc.newest, found["number"])
        return Block(
            found["number"],
            bytes(found["hash"]),
            bytes(found["parentHash"]),
            found["timestamp"],
            found.get("baseFeePerGas", 0),
        )

    async def time_s(self) -> int:
        """The newest block's time, seconds; contracts judge deadlines by it, and so do we."""
        return (await self.block()).timestamp_s

    async def now_s(self) -> int:
        """The time that new deadlines start from, seconds: the later of the newest block's and
        this machine's."""
        return max(await self.time_s(), int(time.time()))

    async def code(self, address: str) -> bytes:
        eth = self.rpc.eth
        # No code may mean that the node lags: asked about the newest known block, it must have
        # that.
        return bytes(await eth.get_code(address) or await eth.get_code(address, await self.head()))

    async def balance(self, address: str, *, at_least: int = 0) -> int:
        """The chain's coin that an address holds, in wei.

        at_least: if the answer is lower, it is read again at the newest known block, because the
        node may lag.
        """
        found = int(await self.rpc.eth.get_balance(address))
        if found >= at_least:
            return found
        return int(await self.rpc.eth.get_balance(address, await self.head()))

    async def count(self, address: str, block: int | str) -> int:
        """How many transactions of an account are mined up to a block; "pending" also counts those
        in the pool."""
        return int(await self.rpc.eth.get_transaction_count(address, block))

    async def call(
        self,
        to: str,
        abi: Abi,
        function: str,
        *values: object,
        block: int | bytes | str = "latest",
    ) -> Any:
        """What a function returns: one value alone, several as a tuple, none as None.

        block: a number, a hash (exactly that block) or a tag.
        Raises Reverted, BadReply and what `Rpc.call` raises.
        """
        kind = abi.function(function)
        if block == "latest" and self.rpc.agree:
            block = await self.head()  # two nodes can only agree on the state of one block
        asked = kind.encode(*values)
        data = await self.simulate(to, asked, doing=function, block=block)
        if not data and kind.outputs and block == "latest":
            # A lagging node does not know a contract that was deployed just now.
            data = await self.simulate(to, asked, doing=function, block=await self.head())
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
        overrides: Mapping[str, Mapping[str, object]] | None = None,
        time_s: int | None = None,
    ) -> bytes:
        """Run a transaction without sending it.  Raises Reverted with the contract's own error.

        Args:
            to: None simulates a creation.
            overrides: by address, the account's `code` or `stateDiff` for this run. Some nodes do
                not support it; they refuse or ignore it.
            time_s: the block time for this run.
        """
        request: dict[str, str] = {"data": "0x" + data.hex()}
        if to is not None:
            request["to"] = to
        if sender is not None:
            request["from"] = sender
        if value_wei:
            request["value"] = hex(value_wei)
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

        async def run(at: object) -> bytes:
            answer = self.rpc.call("eth_call", request, at, *instead)
            return _bytes(await self._named(doing, answer))

        try:
            return await run(where)
        except Reverted:
            if where != "latest":
                raise
        # A lagging node refuses what only newer blocks allow. Asked about the newest known block,
        # it says that it does not have it, and `Rpc` asks again.
        return await run(hex(await self.head()))

    async def head(self) -> int:
        """The number of the newest block.

        An answer below what was seen before is asked for again: the next may come from another
        backend.  If all answers are below it, the chain was reorganised.
        """
        if not self._head_asked:
            # If two nodes answer in turn and one lags, the second answer shows it.
            await self.rpc.block_number()
            self._head_asked = True
        seen, pause_s = self.rpc.newest, self.poll_s
        for _ in range(HEAD_ATTEMPTS - 1):
            if (found := await self.rpc.block_number()) >= seen:
                return found
            self.rpc.prefer_next()
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

        Read in ranges of at most `span` blocks, halved whenever the node says that is too much.
        Raises BadReply for a log that was not asked for, ReplyTooLong for more than MOST_LOGS,
        LyingNode for more blocks than a chain can have made.
        """
        wanted: Any = {
            "address": checksummed("address", address),
            "topics": [
                None
                if one is None
                else _hex(one)
                if isinstance(one, bytes)
                else list(map(_hex, one))
                for one in topics
            ],
        }
        start, expected, count = first, first + MANY_BLOCKS, 0
        while start <= last:
            if start >= expected:
                await self.expect_made(start - MANY_BLOCKS, start)
                expected = start + MANY_BLOCKS
            end = min(last, start + span - 1)
            try:
                wanted |= {"fromBlock": start, "toBlock": end}
                logs = await self.rpc.eth.get_logs(wanted)
            except (RpcError, ReplyTooLong) as refused:
                if isinstance(refused, RpcError) and refused.kind is not NodeErrorKind.RANGE:
                    raise
                # One block cannot be halved.
                if end == start:
                    raise
                span = max(1, (end - start + 1) // 2)
                continue
            count += len(logs)
            if count > MOST_LOGS:
                raise ReplyTooLong(
                    self.rpc.endpoint,
                    "eth_getLogs",
                    f"more than {MOST_LOGS} logs in blocks {first} to {end}",
                )
            for log in logs:
                yield log_of(log)
            start = end + 1

    async def expect_made(self, first: int, last: int) -> None:
        """Raises LyingNode if a chain cannot have made so many blocks in the time between these
        two.  A node can claim any head, but its block times cannot be later than now."""
        # The development chain's owner moves its clock and mines at will.
        if self._most_ahead_s == math.inf:
            return
        one, other = await self.block(first), await self.block(last)
        most = _BLOCKS_A_S * (other.timestamp_s - one.timestamp_s + 1)
        if last - first > most:
            raise LyingNode(
                self.rpc.endpoint,
                f"how many blocks there are between {one.timestamp_s} and {other.timestamp_s} s",
                f"at most {most}",
                last - first,
            )

    async def estimate(
        self,
        sender: str,
        to: str | None,
        data: bytes,
        *,
        value_wei: int = 0,
        doing: str = "the transaction",
    ) -> int:
        """The gas that a transaction would use now.  Raises Reverted if it would be refused."""
        request: Any = {"from": sender, "data": _hex(data), "value": value_wei}
        if to is not None:
            request["to"] = to
        estimate = self.rpc.eth.estimate_gas
        with suppress(Reverted):
            return int(await self._named(doing, estimate(request)))
        # This raises if the newest known block refuses, too. Otherwise the node lags: asked about
        # that block, it says that it does not have it, and `Rpc` asks again.
        head = await self.head()
        await self.simulate(to, data, doing=doing, block=head, sender=sender, value_wei=value_wei)
        with suppress(RpcError):  # some nodes take no block here
            return int(await estimate(request, head))
        await trio.sleep(self.poll_s)
        return int(await self._named(doing, estimate(request)))

    async def receipt(
        self, tx_hash: str, *, doing: str = "", sent: Sent | None = None, depth: int = 1
    ) -> Receipt | None:
        """The receipt of a transaction, once it is `depth` blocks deep; None until then.

        sent: the transaction itself, if known; with it the reason of a failure can be found.
        Raises Reverted or OutOfGas for one that failed and is as deep.
        """
        receipt = await self.mined(tx_hash)
        if receipt is None:
            return None
        if depth > 1 and await self.head() - receipt.block + 1 < depth:
            return None
        # A receipt from an abandoned block proves nothing.
        if (await self.block(receipt.block)).hash != receipt.block_hash:
            return None
        if receipt.succeeded:
            return receipt
        doing = doing or f"transaction {tx_hash}"
        if sent is not None:
            plan = sent.prepared
            # The receipt says only that it failed. That all gas is used is the one reason that it
            # shows.
            if receipt.gas_used >= plan.gas_limit:
                raise OutOfGas(doing, plan.gas_limit)
            # The failure is proven; the node may be unable to tell the reason.
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

    async def mined(self, tx_hash: str) -> Receipt | None:
        """The receipt of a transaction at any depth, successful or not; None while the node shows
        none."""
        found = await self.rpc.found(self.rpc.eth.get_transaction_receipt(tx_hash))
        if found is None:
            return None
        self.rpc.newest = max(self.rpc.newest, found["blockNumber"])
        return Receipt(
            tx_hash=tx_hash,
            block=found["blockNumber"],
            block_hash=bytes(found["blockHash"]),
            sender=found["from"],
            to=found.get("to"),
            contract=found.get("contractAddress"),
            gas_used=found["gasUsed"],
            cost_wei=found["gasUsed"] * found.get("effectiveGasPrice", 0),
            logs=tuple(log_of(one) for one in found["logs"]),
            succeeded=found["status"] == 1,
        )

    async def is_known(self, tx_hash: str) -> bool:
        """Whether a node shows the transaction, waiting or mined."""
        return await self.rpc.found(self.rpc.eth.get_transaction(tx_hash)) is not None

    async def _named(self, doing: str, answer: Awaitable[T]) -> T:
        """The answer, with a contract's revert as Reverted."""
        try:
            return await answer
        except RpcError as refused:
            raise self._refusal(doing, refused) from None

    def _refusal(self, doing: str, refused: RpcError) -> Exception:
        # A contract's own data first. The node's words differ from node to node.
        data = revert_data(refused.data)
        if data is not None:
            return self.refusals.decode(doing, data)
        if refused.kind is NodeErrorKind.REVERTED:
            return Reverted(doing, "a revert without a reason", {})
        if refused.kind is NodeErrorKind.OUT_OF_GAS:
            return OutOfGas(doing, 0)
        return refused


def log_of(found: Mapping[str, Any]) -> Log:
    """A log from web3's form."""
    return Log(
        found["address"],
        tuple(map(bytes, found["topics"])),
        bytes(found["data"]),
        found["blockNumber"],
        bytes(found["blockHash"]),
        _hex(found["transactionHash"]),
        found["logIndex"],
    )


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])
