"""Questions to nodes over JSON-RPC, on trio: one answer that fits the question, or a named error.

`Rpc` is what web3 asks through (`Rpc.eth`): each of its requests is one call here, with a bound on
the answer's size and time, the table of what errors mean (`answers.py`) and the shapes of answers
(`replies.py`). web3's own sessions, retries, caches and middleware are not used.

What changes nothing is asked again, with growing pauses, where a node does not answer or answers
something else; where there are several nodes, of each in turn. A transaction is handed to the
first node that takes it. Anything else is sent once, to the first.
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
from urllib.parse import urlsplit

import trio

from psymm.chain import replies
from psymm.chain.answers import SEND, Answer
from psymm.chain.errors import (
    BadReply,
    ChainDown,
    NoAddress,
    NodesDisagree,
    NotAnswered,
    NotKept,
    ReplyTooLong,
    RpcError,
    WrongChain,
    clipped,
)
from psymm.imports import recursion_limit_kept
from psymm.strict_json import loads

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

_FOUND: Final = frozenset({"eth_getTransactionByHash", "eth_getTransactionReceipt"})
"""Where null only means that this node has none, and another one may."""
_WHERE: Final = {"eth_call": 1, "eth_getTransactionCount": 1, "eth_getBlockByNumber": 0}
"""Which parameter names the block."""

AGREE: Final = "agree"
"""Among addresses: two nodes must give the same answers."""
MAX_REPLY_BYTES: Final = 8 * 1024 * 1024
"""Of one answer. Parsed, JSON takes up to thirty times its length. More logs than that are asked
for in smaller ranges."""
MAX_RESULT_BYTES: Final = 128 * 1024
"""Of what a call returns; a page of the registry is half of it. Its parts may be named any number
of times each, so it can decode to the square of its length."""
_LONGEST_PAUSE_S: Final = 2.0
_NOT_THERE: Final = "ConnectError"
"""httpx's name for it."""


_own: ContextVar[bool] = ContextVar("own deadline", default=False)


@contextmanager
def own_deadline() -> Iterator[None]:
    """For our own waits, which look again by themselves: deadlines that are set inside are not the
    caller's, so each question has its usual time."""
    before = _own.set(True)
    try:
        yield
    finally:
        _own.reset(before)


def callers_deadline() -> float:
    """Until when the caller waits, by trio's clock; infinity where it set no deadline."""
    return math.inf if _own.get() else trio.current_effective_deadline()


def time_left(timeout_s: float | None, default_s: float) -> float:
    """How long a wait lasts: `timeout_s` if given, else until the caller's deadline, else
    `default_s`."""
    if timeout_s is not None:
        return timeout_s
    deadline = callers_deadline()
    return default_s if deadline == math.inf else max(0.0, deadline - trio.current_time())


class Node:
    """One node's address, and the part of it that is shown: paths, queries and user names often
    are customers' keys."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise NoAddress("it must start with http:// or https:// and name a host")
        try:
            port = f":{parts.port}" if parts.port is not None else ""
        except ValueError:
            raise NoAddress("its port is no port") from None
        self.url: Final = url
        self.serves: int | None = None
        """The chain that it was seen to serve."""
        self.endpoint: Final = f"{parts.scheme}://{parts.hostname}{port}"


def nodes_of(urls: str | Sequence[str], agree: bool = False) -> tuple[list[Node], bool]:
    """The nodes at some addresses, and whether two must agree, as `Rpc` takes them.  Raises
    NoAddress."""
    given = dict.fromkeys(urls.split() if isinstance(urls, str) else urls)
    agree = agree or AGREE in given
    nodes = [Node(url) for url in given if url != AGREE]
    if not nodes or (agree and len(nodes) < 2):
        raise NoAddress("two nodes are needed that agree" if agree else "there is none")
    return nodes, agree


class Rpc:
    """A connection to one node, or to several of the same chain.  Safe to share between tasks.

    urls: one http or https address, or several, the preferred first; a text may hold several with
        spaces between, and the word AGREE for `agree`.
    timeout_s: for one answer.
    patience_s: for how long a node that is there, or was, is asked at least, where it does not
        answer what it is asked, and the caller set no deadline.  Where it did (`trio.fail_after`
        and its like), nodes that do not answer are asked until then, however near or far that is,
        and what they said last is raised while there is still time.
    read_attempts: how often in all it is asked where none was ever there or all answer nonsense.
    backoff_s: the first pause; pauses double.
    agree: answers about what is settled (state at a given block, logs, receipts, headers by
        number) are asked of two nodes and must be equal, else NodesDisagree; the head is the
        lower of the two.  Needs at least two nodes.
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
        """What may be shown of the nodes' addresses."""
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
        """web3's AsyncEth, asked through `call`.  Its methods raise what `call` raises, and
        TransactionNotFound where a transaction or receipt is not there.

        Untyped: web3's own types for addresses, hashes and blocks would be casts everywhere.
        """
        return _web3(self)

    async def call(self, method: str, *params: Any) -> Any:
        """The result of one request, as JSON holds it.

        Raises ChainDown, NotAnswered, BadReply, NodesDisagree, RpcError.  Cancelled:
        raises Cancelled; a request that changes the chain may or may not have arrived.
        """
        if method == SEND:
            return await self._hand_over(params)
        if method not in replies.SHAPES:
            return await self._once(self._nodes[0], method, params)
        now, pause_s, deadline = trio.current_time(), self._backoff_s, callers_deadline()
        ends = now + self._patience_s if deadline == math.inf else deadline
        for attempt in count(1):
            try:
                if self.agree and _settled(method, params):
                    return await self._both(method, params)
                return await self._any(method, params)
            except ReplyTooLong:
                raise
            except (ChainDown, BadReply) as trouble:
                gone = trouble.reason == _NOT_THERE and (self._answered or deadline < math.inf)
                if deadline < math.inf and trio.current_time() + pause_s >= deadline:
                    raise
                patient = (gone or _passes(trouble)) and trio.current_time() < ends
                if attempt >= self._attempts and not patient:
                    raise
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        raise AssertionError("unreachable")

    async def send(self, raw: bytes) -> None:
        """Hand over a signed transaction, to the first node that takes it or has it already.

        Raises like `call`.  Where one node may have it and all others refuse it, nothing is
        certain, and the former's trouble is raised.
        """
        try:
            await self.call(SEND, "0x" + raw.hex())
        except RpcError as refused:
            if refused.answer is not Answer.KNOWN:
                raise

    def pass_on(self) -> None:
        """Ask the next node first from now on: this one's view lags."""
        self._first = (self._first + 1) % len(self._nodes)

    async def found(self, answer: Awaitable[T]) -> T | None:
        """What one of `eth`'s methods finds; None where the nodes show no such transaction."""
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
        """Raises WrongChain if a node serves another chain.  One that does not answer now is
        asked before its first answer is used."""
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
            if answer is not None or method not in _FOUND:
                self._first = self._nodes.index(node)
                return answer
        if len(troubles) < len(self._nodes):
            return None
        raise max(troubles, key=_weight)

    async def _both(self, method: str, params: Sequence[Any]) -> Any:
        """The answer that two nodes give alike."""
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
        if method == "eth_blockNumber":
            return min(first, second, key=lambda head: int(head, 16))
        if method in _FOUND and (first is None or second is None):
            return None  # one of them lags, and what one alone shows is not proven
        if isinstance(first, RpcError) and isinstance(second, RpcError):
            if (first.answer, first.data) == (second.answer, second.data):
                raise first
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
                if refused.answer is Answer.KNOWN:
                    raise
                refusals.append(refused)
            except (ChainDown, BadReply) as trouble:
                lost = trouble
            else:
                self._first = self._nodes.index(node)
                return answer
        if lost is not None:
            raise lost
        held = [one for one in refusals if one.answer in (Answer.NONCE_USED, Answer.NONCE_HELD)]
        raise (held or refusals)[0]

    async def _once(self, node: Node, method: str, params: Sequence[Any]) -> Any:
        """What one node answers to one request, checked; also that it serves our chain."""
        if self._chain_id is not None and node.serves is None and method != "eth_chainId":
            await self._once(node, "eth_chainId", ())
        answer = await self.said(node, method, params)
        self._answered = True
        if answer is None and method == "eth_getBlockByNumber":
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

    async def said(self, node: Node, method: str, params: Sequence[Any]) -> Any:
        """What one node says to one request, bounded in size and time, and not yet checked."""
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
            if refused.answer is Answer.PRUNED:
                raise NotKept(node.endpoint, clipped(refused.message))
            if refused.answer is Answer.ELSEWHERE:
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
            except httpx.HTTPError as failed:
                # The library's text can hold the whole address; its type says enough.
                raise ChainDown(node.endpoint, type(failed).__name__) from None
        if limit.cancelled_caught:
            raise ChainDown(node.endpoint, f"no answer to {method} within {self._timeout_s:g} s")
        if status == 429 or status >= 500:
            raise NotAnswered(node.endpoint, f"HTTP status {status}")
        if 300 <= status < 400:
            # Never followed: what is signed and which key is in the address would go elsewhere.
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
        # A node that could not even read the request answers with an error and a null id.
        unread = reply.get("id") is None and isinstance(reply.get("error"), dict)
        if not unread and (type(reply.get("id")) is not int or reply["id"] != number):
            raise BadReply(node.endpoint, method, "an answer to another request than ours")
        return reply


def _passes(trouble: ChainDown | BadReply) -> bool:
    """Whether waiting helps: the node is there, and says something else than what it was asked."""
    return (
        isinstance(trouble, ChainDown)
        and not isinstance(trouble, NotKept)
        and trouble.reason != _NOT_THERE
    )


def _weight(trouble: ChainDown | BadReply) -> int:
    """Which of several nodes' troubles counts: one that asking differently helps against, then
    one that waiting does."""
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
        trust_env=False,
        limits=httpx.Limits(max_connections=16),
    )


def _web3(rpc: Rpc) -> Any:
    """web3 over an Rpc.  Imported here: it takes most of a second."""
    with recursion_limit_kept():
        from web3 import AsyncWeb3
        from web3.providers.async_base import AsyncBaseProvider
        from web3.types import RPCEndpoint, RPCResponse

    class Provider(AsyncBaseProvider):
        # A contract must not make us ask addresses of its choice (EIP-3668).
        global_ccip_read_enabled = False

        async def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
            return {"jsonrpc": "2.0", "id": 0, "result": await rpc.call(method, *params)}

    # Without middleware: each would ask more, fill in or repeat what nobody sees here.
    return AsyncWeb3(Provider(), middleware=[]).eth
