"""JSON-RPC to one or several nodes, on trio: an answer that fits the question, or a typed error.

web3 asks through `Rpc` (`Rpc.eth`). Each of its requests is one call here, with limits on the
answer's size and time, the table of what errors mean (`node_errors.py`) and the shapes of answers
(`replies.py`). web3's own sessions, retries, caches and middleware are not used.

A request that changes nothing is repeated, with growing pauses and at each node in turn, while a
node does not answer or answers something else. A transaction goes to the first node that takes it.
Anything else is sent once, to the first node.

What an `Rpc` remembers between requests, so that tasks may share it: the node that answered last,
which is asked first; the highest block that a node has shown (`newest`), against which
`ChainReader.head` notices a node that lags; which nodes were found to serve our chain; and whether
any node ever answered. Each of these changes in one step, with no await in between.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import trio

from psymm.chain import replies
from psymm.chain.errors import (
    BadReply,
    ChainDown,
    NodesDisagree,
    NotAnswered,
    ReplyTooLong,
    RpcError,
    StatePruned,
    WrongChain,
    clipped,
)
from psymm.chain.node_errors import SEND, NodeErrorKind
from psymm.chain.nodes import Node, nodes_of
from psymm.imports import recursion_limit_kept
from psymm.strict_json import loads

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

_FOUND: Final = frozenset({"eth_getTransactionByHash", "eth_getTransactionReceipt"})
"""For these methods null only means that this node has none; another node may have it."""
_WHERE: Final = {"eth_call": 1, "eth_getTransactionCount": 1, "eth_getBlockByNumber": 0}
"""Which parameter is the block."""

MAX_REPLY_BYTES: Final = 8 * 1024 * 1024
"""The limit for one answer. Parsed JSON takes up to thirty times its length. If logs exceed it,
they are read in smaller ranges."""
MAX_RESULT_BYTES: Final = 128 * 1024
"""The limit for a call's result; a page of the registry takes half of it. ABI offsets may point to
the same part many times, so a result can decode to the square of its length."""
_LONGEST_PAUSE_S: Final = 2.0
_NOT_THERE: Final = "ConnectError"
"""httpx's name for a node that does not accept connections."""


_own: ContextVar[bool] = ContextVar("own deadline", default=False)


@contextmanager
def own_deadline() -> Iterator[None]:
    """For our own polling loops: deadlines set inside are not the caller's, so each request keeps
    its usual time."""
    before = _own.set(True)
    try:
        yield
    finally:
        _own.reset(before)


def callers_deadline() -> float:
    """The caller's deadline by trio's clock; infinity if it set none."""
    return math.inf if _own.get() else trio.current_effective_deadline()


def time_left(timeout_s: float | None, default_s: float) -> float:
    """How long a wait lasts: `timeout_s` if given, else until the caller's deadline, else
    `default_s`."""
    if timeout_s is not None:
        return timeout_s
    deadline = callers_deadline()
    return default_s if deadline == math.inf else max(0.0, deadline - trio.current_time())


class Rpc:
    """A connection to one node, or to several of the same chain.  Safe to share between tasks.

    Args:
        urls: one http or https address, or several, the preferred first. A text may hold several,
            separated by spaces, and the word AGREE for `agree`.
        timeout_s: for one answer.
        read_attempts: how often a request is sent in all if no node ever answered, or all answer
            nonsense.
        backoff_s: the first pause between attempts; pauses double.
        patience_s: without a caller's deadline, how long a node that answered before, or answers
            something else, is asked again.  With one (`trio.fail_after` and its like), nodes are
            asked until then, and their last error is raised just before it.
        agree: two nodes must give equal answers about settled facts (state at a given block, logs,
            receipts, headers by number), else NodesDisagree; the head is the lower of the two.
            Needs at least two nodes.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        timeout_s: float = 20.0,
        read_attempts: int = 4,
        backoff_s: float = 0.1,
        patience_s: float = 20.0,
        agree: bool = False,
    ) -> None:
        self._nodes, agree = nodes_of(urls, agree)
        self.endpoint: Final = ", ".join(node.endpoint for node in self._nodes)
        """The part of the nodes' addresses that may be shown."""
        self.agree: Final = agree
        self._timeout_s = timeout_s
        self._attempts = max(1, read_attempts)
        self._backoff_s = backoff_s
        self._patience_s = patience_s
        self._first = 0
        self._answered = False
        self._chain_id: int | None = None
        self._next_id = 0
        self.newest = 0
        """The highest block that a node has shown; see `Chain.head`."""
        self._http = _client()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections.  Cancelled: they are closed all the same."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
            await self._http.aclose()

    def __repr__(self) -> str:
        return f"Rpc({self.endpoint})"

    @cached_property
    def eth(self) -> Any:
        """web3's AsyncEth over `call`.  Its methods raise what `call` raises, and
        TransactionNotFound if a transaction or receipt is not there.

        Untyped: web3's own types for addresses, hashes and blocks would need casts everywhere.
        """
        return _web3(self)

    async def call(self, method: str, *params: Any) -> Any:
        """The result of one request, as parsed JSON.

        Raises ChainDown, NotAnswered, BadReply, NodesDisagree, RpcError.  Cancelled:
        raises Cancelled; a request that changes the chain may or may not have arrived.
        """
        if method == SEND:
            return await self._hand_over(params)
        if method not in replies.SHAPES:
            # A method that may change something, such as a development node's. A lost answer must
            # not have it done twice.
            return await self._once(self._nodes[0], method, params)
        now, pause_s, deadline = trio.current_time(), self._backoff_s, callers_deadline()
        ends = now + self._patience_s if deadline == math.inf else deadline
        for attempt in count(1):
            try:
                if self.agree and _settled(method, params):
                    return await self._both(method, params)
                return await self._any(method, params)
            except ReplyTooLong:
                # The same request gets the same answer; only the caller can ask for less.
                raise
            except (ChainDown, BadReply) as trouble:
                # A refused connection is worth waiting for only if the node ever answered: then it
                # may be starting again. Otherwise its address is likely wrong, and waiting would
                # hide that.
                gone = trouble.reason == _NOT_THERE and (self._answered or deadline < math.inf)
                # Raised while there is time. A moment later the caller would get Cancelled, without
                # a cause.
                if deadline < math.inf and trio.current_time() + pause_s >= deadline:
                    raise
                patient = (gone or _passes(trouble)) and trio.current_time() < ends
                if attempt >= self._attempts and not patient:
                    raise
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        raise AssertionError("unreachable")

    async def send(self, raw: bytes) -> None:
        """Hand over a signed transaction to the first node that takes it or already has it.

        Raises like `call`.  If one node may have it and all others refuse it, nothing is certain,
        and that node's error is raised.
        """
        try:
            await self.call(SEND, "0x" + raw.hex())
        except RpcError as refused:
            if refused.kind is not NodeErrorKind.KNOWN:
                raise

    def prefer_next(self) -> None:
        """From now on ask the next node first, because this one lags."""
        self._first = (self._first + 1) % len(self._nodes)

    async def found(self, answer: Awaitable[T]) -> T | None:
        """The result of one of `eth`'s methods; None instead of TransactionNotFound."""
        from web3.exceptions import TransactionNotFound

        try:
            return await answer
        except TransactionNotFound:
            return None

    async def block_number(self) -> int:
        head = int(await self.eth.get_block_number())
        self.newest = max(self.newest, head)
        return head

    async def chain_id(self) -> int:
        return int(await self.eth.chain_id)

    async def expect_chain(self, chain_id: int) -> None:
        """Raises WrongChain if a node serves another chain.  A node that does not answer now is
        checked before its first answer is used."""
        self._chain_id = chain_id
        await self.chain_id()

    # --- parts --------------------------------------------------------------------------------

    def _in_turn(self) -> list[Node]:
        return self._nodes[self._first :] + self._nodes[: self._first]

    async def _any(self, method: str, params: Sequence[Any]) -> Any:
        """The answer of the first node that gives one."""
        troubles: list[ChainDown | BadReply] = []
        for node in self._in_turn():
            try:
                answer = await self._once(node, method, params)
            except (ChainDown, BadReply) as trouble:
                troubles.append(trouble)
                continue
            # A node without a receipt may lag, so None is the answer only if no node shows one.
            if answer is not None or method not in _FOUND:
                # This node is asked first from now on. Otherwise one that is down would cost its
                # timeout at every request.
                self._first = self._nodes.index(node)
                return answer
        if len(troubles) < len(self._nodes):
            return None
        raise max(troubles, key=_weight)

    async def _both(self, method: str, params: Sequence[Any]) -> Any:
        """The answer on which two nodes agree."""
        answers: list[tuple[Node, Any]] = []
        troubles: list[ChainDown | BadReply] = []
        for node in self._in_turn():
            try:
                answers.append((node, await self._once(node, method, params)))
            except RpcError as refused:
                answers.append((node, refused))
            except (ChainDown, BadReply) as trouble:
                troubles.append(trouble)
            if len(answers) == 2:
                break
        else:
            raise max(troubles, key=_weight)
        (one, first), (other, second) = answers
        refusals = [answer for _, answer in answers if isinstance(answer, RpcError)]
        if len(refusals) == 2:
            # Two node programs word the same refusal differently, so the texts are not compared.
            if (first.kind, first.data) == (second.kind, second.data):
                raise first
        elif method in _FOUND and (first is None or second is None):
            return None  # one of them lags, and one node alone proves nothing
        elif method == "eth_blockNumber" and not refusals:
            # The lower head is the one that both have.
            return min(first, second, key=lambda head: int(head, 16))
        elif first == second:
            return first
        raise NodesDisagree(one.endpoint, other.endpoint, method)

    async def _hand_over(self, params: Sequence[Any]) -> Any:
        lost: ChainDown | BadReply | None = None
        refusals: list[RpcError] = []
        for node in self._in_turn():
            try:
                answer = await self._once(node, SEND, params)
            except RpcError as refused:
                # It has these very bytes; `send` takes that for success. Another node might refuse
                # them now.
                if refused.kind is NodeErrorKind.KNOWN:
                    raise
                refusals.append(refused)
            except (ChainDown, BadReply) as trouble:
                lost = trouble
            else:
                self._first = self._nodes.index(node)
                return answer
        # That node may have it, so the others' refusals do not decide.
        if lost is not None:
            raise lost
        # If the nonce is taken, the caller looks for the transaction that took it. So that refusal
        # counts before one about fee or balance.
        held = [
            one
            for one in refusals
            if one.kind in (NodeErrorKind.NONCE_USED, NodeErrorKind.NONCE_HELD)
        ]
        raise (held or refusals)[0]

    async def _once(self, node: Node, method: str, params: Sequence[Any]) -> Any:
        """One node's checked answer to one request, after checking that it serves our chain."""
        # Before the first other answer is used: a node that joined late may serve another chain.
        if self._chain_id is not None and node.serves is None and method != "eth_chainId":
            await self._once(node, "eth_chainId", ())
        answer = await self.raw_result(node, method, params)
        self._answered = True
        if answer is None and method == "eth_getBlockByNumber":
            # Not BadReply: another node may have the block, and this one soon will.
            raise NotAnswered(node.endpoint, "it does not have that block, yet")
        try:
            answer = replies.checked(method, params, answer)
        except ValueError as bad:
            raise BadReply(node.endpoint, method, str(bad)) from None
        if method == "eth_call" and len(answer) > 2 + 2 * MAX_RESULT_BYTES:
            raise ReplyTooLong(node.endpoint, method, f"more than {MAX_RESULT_BYTES} bytes")
        if method == "eth_chainId" and self._chain_id is not None:
            if int(answer, 16) != self._chain_id:
                raise WrongChain(node.endpoint, self._chain_id, int(answer, 16))
            node.serves = self._chain_id
        return answer

    async def raw_result(self, node: Node, method: str, params: Sequence[Any]) -> Any:
        """One node's result for one request, bounded in size and time but not checked."""
        error = (reply := await self._exchange(node, method, params)).get("error")
        if error is not None:
            if not isinstance(error, dict):
                raise BadReply(node.endpoint, method, "an error that is no object")
            number = error.get("code")
            message = error.get("message")
            refused = RpcError(
                method,
                number if isinstance(number, int) else 0,
                message if isinstance(message, str) else "no reason given",
                error.get("data"),
            )
            if refused.kind is NodeErrorKind.PRUNED:
                raise StatePruned(node.endpoint, clipped(refused.message))
            if refused.kind is NodeErrorKind.NOT_ANSWERED:
                raise NotAnswered(node.endpoint, clipped(refused.message))
            raise refused
        if "result" not in reply:
            raise BadReply(node.endpoint, method, "neither a result nor an error")
        return reply["result"]

    async def _exchange(self, node: Node, method: str, params: Sequence[Any]) -> dict[str, Any]:
        self._next_id += 1
        number = self._next_id
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}
        import httpx

        raw = bytearray()
        with trio.move_on_after(self._timeout_s) as limit:
            try:
                async with self._http.stream(
                    "POST",
                    node.url,
                    content=json.dumps(request, default=lambda one: "0x" + bytes(one).hex()),
                    # Compressed, a few kilobytes would unpack into the whole memory.
                    headers={"content-type": "application/json", "accept-encoding": "identity"},
                ) as response:
                    if response.headers.get("content-encoding", "identity").lower() != "identity":
                        raise BadReply(node.endpoint, method, "compressed, which was not asked for")
                    async for piece in response.aiter_raw():
                        raw += piece
                        if len(raw) > MAX_REPLY_BYTES:
                            raise ReplyTooLong(
                                node.endpoint, method, f"more than {MAX_REPLY_BYTES} bytes"
                            )
                    status = response.status_code
            except (httpx.HTTPError, httpx.InvalidURL) as failed:
                # The library's message can contain the whole address; the type says enough.
                raise ChainDown(node.endpoint, type(failed).__name__) from None
        if limit.cancelled_caught:
            raise ChainDown(node.endpoint, f"no answer to {method} within {self._timeout_s:g} s")
        if status == 429 or status >= 500:
            raise NotAnswered(node.endpoint, f"HTTP status {status}")
        if 300 <= status < 400:
            # Never followed: another host would get what we signed and the key in the address.
            raise NotAnswered(
                node.endpoint, f"HTTP status {status}, it redirects: use the address it leads to"
            )
        try:
            reply = loads(raw)
        except ValueError:
            if status >= 400:
                raise NotAnswered(node.endpoint, f"HTTP status {status}") from None
            if not raw.strip() or raw.lstrip()[:1] == b"<":
                raise NotAnswered(node.endpoint, "a web page or nothing, not JSON") from None
            raise BadReply(node.endpoint, method, "not JSON") from None
        if not isinstance(reply, dict):
            raise BadReply(node.endpoint, method, "not a JSON-RPC answer")
        # A node that cannot parse the request answers with an error and a null id.
        unread = reply.get("id") is None and isinstance(reply.get("error"), dict)
        # The type counts, too: in Python `True` equals 1.
        if not unread and (type(reply.get("id")) is not int or reply["id"] != number):
            raise BadReply(node.endpoint, method, "an answer to another request")
        return reply


def _passes(trouble: ChainDown | BadReply) -> bool:
    """Whether waiting helps: the node is there, but answers something else."""
    return (
        isinstance(trouble, ChainDown)
        and not isinstance(trouble, StatePruned)
        and trouble.reason != _NOT_THERE
    )


def _weight(trouble: ChainDown | BadReply) -> int:
    """The rank of a node's error among several: first those that a smaller request avoids, then
    those that waiting helps."""
    if isinstance(trouble, ReplyTooLong):
        return 3
    if _passes(trouble):
        return 2
    return 0 if isinstance(trouble, ChainDown) and trouble.reason == _NOT_THERE else 1


def _settled(method: str, params: Sequence[Any]) -> bool:
    """Whether every honest node that has the block answers this alike."""
    if method in _WHERE:
        where = params[_WHERE[method]]
        plain = method != "eth_call" or len(params) == 2
        return plain and (not isinstance(where, str) or where.startswith("0x"))
    return method in _FOUND or method in ("eth_blockNumber", "eth_getLogs")


def _client() -> httpx.AsyncClient:
    import httpx

    return httpx.AsyncClient(
        timeout=None,  # noqa: S113 - each exchange has its own, as a trio scope
        # A proxy from the environment would see the keys in the nodes' addresses.
        trust_env=False,
        limits=httpx.Limits(max_connections=16),
    )


def _web3(rpc: Rpc) -> Any:
    """web3 over an Rpc.  Imported here, because that takes most of a second."""
    with recursion_limit_kept():
        from web3 import AsyncWeb3
        from web3.providers.async_base import AsyncBaseProvider
        from web3.types import RPCEndpoint, RPCResponse

    class Provider(AsyncBaseProvider):
        # A contract must not make us fetch URLs of its choice (EIP-3668).
        global_ccip_read_enabled = False

        async def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
            return {"jsonrpc": "2.0", "id": 0, "result": await rpc.call(method, *params)}

    # No middleware: it would send, fill in or repeat requests without our knowledge.
    return AsyncWeb3(Provider(), middleware=[]).eth
