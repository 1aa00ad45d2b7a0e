"""JSON-RPC with a node, over HTTP on trio: one request, one answer or one named error.

What is the same when asked twice is tried again, with growing pauses, when the node does not
answer or answers something else (`answers.py`); anything else is sent once.  Answers are checked
for shape before anybody uses them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import count
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import httpx
import trio

from psymm.chain.answers import Answer
from psymm.chain.errors import (
    BadReply,
    ChainDown,
    NotAnswered,
    ReplyTooLong,
    RpcError,
    RpcTimeout,
    WrongChain,
    clipped,
)
from psymm.strict_json import loads

T = TypeVar("T")

REPEATABLE: Final = frozenset(
    {
        "eth_blockNumber",
        "eth_call",
        "eth_chainId",
        "eth_createAccessList",
        "eth_estimateGas",
        "eth_feeHistory",
        "eth_gasPrice",
        "eth_getBalance",
        "eth_getBlockByHash",
        "eth_getBlockByNumber",
        "eth_getCode",
        "eth_getLogs",
        "eth_getStorageAt",
        "eth_getTransactionByHash",
        "eth_getTransactionCount",
        "eth_getTransactionReceipt",
        "eth_maxPriorityFeePerGas",
        "eth_syncing",
        "net_version",
        "web3_clientVersion",
    }
)
"""Methods that change nothing, so that asking twice is the same as asking once."""

MAX_REPLY_BYTES: Final = 8 * 1024 * 1024
"""Of one answer. Parsed, JSON takes up to thirty times its length. More logs than that are asked
for in smaller ranges."""
MAX_NUMBER: Final = (1 << 63) - 1
"""The highest block number or time of a block: what files and deadlines hold."""
_LONGEST_PAUSE_S: Final = 2.0
_NOT_THERE: Final = httpx.ConnectError.__name__
# The standard has no leading zeros, some nodes do; the number is the same.
_QUANTITY: Final = re.compile(r"0x[0-9a-f]{1,64}", re.IGNORECASE)
_BYTES: Final = re.compile(r"0x([0-9a-f]{2})*", re.IGNORECASE)


class _Unread(Exception):
    """Carries what is wrong with an answer to where it is asked for again."""

    def __init__(self, trouble: ChainDown | BadReply) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble


class Rpc:
    """A connection to one node.  Safe to share between tasks.

    url: http or https address.  timeout_s: for one answer.  What changes nothing is asked for
    again, with pauses that double from `backoff_s`: `read_attempts` times in all, and at least for
    `patience_s` where the node is there and does not answer what it is asked.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 20.0,
        read_attempts: int = 4,
        backoff_s: float = 0.1,
        patience_s: float = 20.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ChainDown("(no address)", "the address must start with http:// or https://")
        try:
            port = f":{parts.port}" if parts.port is not None else ""
        except ValueError:
            raise ChainDown("(no address)", "the address has a port that is no port") from None
        # Paths, queries and user names often are customers' keys, so only this much is shown.
        self.endpoint: Final = f"{parts.scheme}://{parts.hostname}{port}"
        self._url = url
        self._timeout_s = timeout_s
        self._attempts = max(1, read_attempts)
        self._backoff_s = backoff_s
        self._patience_s = patience_s
        self._next_id = 0
        self.newest = 0
        """The highest block that the node has shown; see `Chain.head`."""
        self._http = httpx.AsyncClient(
            timeout=None,  # noqa: S113 - each exchange has its own, as a trio scope
            trust_env=False,
            limits=httpx.Limits(max_connections=16),
        )

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

    async def call(self, method: str, *params: object) -> Any:
        """The result of one request.

        Raises ChainDown, RpcTimeout, NotAnswered, BadReply, RpcError.  Cancelled: raises
        Cancelled; a request that changes the chain may or may not have arrived.
        """
        return (await self._exchange([(method, params)], batched=False))[0]

    async def ask(self, method: str, *params: object, read: Callable[[Any], T]) -> T:
        """What `read` makes of a result.  What it refuses with NotAnswered or BadReply is asked
        for again, like what did not come.  Raises and is cancelled like `call`."""

        async def once() -> T:
            found = await self.call(method, *params)
            try:
                return read(found)
            except (NotAnswered, BadReply) as refused:
                raise _Unread(refused) from None

        return await self._again(once, repeatable=method in REPEATABLE)

    async def batch(self, requests: Sequence[tuple[str, Sequence[object]]]) -> list[Any]:
        """The results of several requests in one message, in the order asked.

        Raises like `call`, for the first request that failed.
        """
        if not requests:
            return []
        return await self._exchange(requests, batched=True)

    async def quantity(self, method: str, *params: object) -> int:
        """The result of a request that answers with a number."""
        return await self.ask(method, *params, read=partial(self.as_quantity, method))

    async def data(self, method: str, *params: object) -> bytes:
        """The result of a request that answers with bytes."""
        return await self.ask(method, *params, read=partial(self.as_bytes, method))

    async def chain_id(self) -> int:
        return await self.quantity("eth_chainId")

    async def expect_chain(self, chain_id: int) -> None:
        """Raises WrongChain if the node serves another chain."""
        found = await self.chain_id()
        if found != chain_id:
            raise WrongChain(self.endpoint, chain_id, found)

    async def block_number(self) -> int:
        method = "eth_blockNumber"
        head = await self.ask(method, read=partial(self.as_number, method))
        self.newest = max(self.newest, head)
        return head

    def as_number(self, method: str, found: object) -> int:
        """A block's number or time; BadReply where it is none or above MAX_NUMBER."""
        number = self.as_quantity(method, found)
        if number > MAX_NUMBER:
            raise BadReply(self.endpoint, method, "no chain has such a block")
        return number

    def as_quantity(self, method: str, found: object) -> int:
        """JSON-RPC's hexadecimal number as an int; BadReply if it is none."""
        if not isinstance(found, str) or not _QUANTITY.fullmatch(found):
            raise BadReply(self.endpoint, method, "a number was expected")
        return int(found, 16)

    def as_bytes(self, method: str, found: object, length: int | None = None) -> bytes:
        """JSON-RPC's hexadecimal bytes; BadReply if they are none, or not `length` many."""
        if not isinstance(found, str) or not _BYTES.fullmatch(found):
            raise BadReply(self.endpoint, method, "bytes were expected")
        raw = bytes.fromhex(found[2:])
        if length is not None and len(raw) != length:
            raise BadReply(self.endpoint, method, f"{length} bytes expected, {len(raw)} came")
        return raw

    async def _exchange(
        self, requests: Sequence[tuple[str, Sequence[object]]], *, batched: bool
    ) -> list[Any]:
        named = requests[0][0] if len(requests) == 1 else f"{len(requests)} requests"

        async def once() -> list[Any]:
            try:
                answers = await self._once(requests, named, batched=batched)
                return [
                    self._result(method, answer)
                    for (method, _), answer in zip(requests, answers, strict=True)
                ]
            except (ChainDown, BadReply) as trouble:
                raise _Unread(trouble) from None

        return await self._again(once, repeatable=all(one in REPEATABLE for one, _ in requests))

    async def _again(self, ask: Callable[[], Awaitable[T]], *, repeatable: bool) -> T:
        """Ask until there is an answer, with growing pauses.

        A node that is busy, cuts off or lags is asked until the patience is over; one that is not
        there, or answers nonsense, `read_attempts` times.
        """
        ends, pause_s = trio.current_time() + self._patience_s, self._backoff_s
        for attempt in count(1):
            try:
                return await ask()
            except _Unread as unread:
                trouble = unread.trouble
                there = isinstance(trouble, ChainDown) and trouble.reason != _NOT_THERE
                patient = there and trio.current_time() < ends
                if (
                    not repeatable
                    or isinstance(trouble, ReplyTooLong)
                    or (attempt >= self._attempts and not patient)
                ):
                    raise trouble from None
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        raise AssertionError("unreachable")

    async def _once(
        self, requests: Sequence[tuple[str, Sequence[object]]], named: str, *, batched: bool
    ) -> list[dict[str, Any]]:
        first = self._next_id + 1
        self._next_id += len(requests)
        body = [
            {"jsonrpc": "2.0", "id": first + at, "method": method, "params": list(params)}
            for at, (method, params) in enumerate(requests)
        ]
        raw = bytearray()
        with trio.move_on_after(self._timeout_s) as limit:
            try:
                async with self._http.stream(
                    "POST",
                    self._url,
                    content=json.dumps(body if batched else body[0]),
                    # Compressed, a few kilobytes would unpack into the whole memory.
                    headers={"content-type": "application/json", "accept-encoding": "identity"},
                ) as response:
                    if response.headers.get("content-encoding", "identity").lower() != "identity":
                        raise BadReply(self.endpoint, named, "compressed, which was not asked for")
                    async for piece in response.aiter_raw():
                        raw += piece
                        if len(raw) > MAX_REPLY_BYTES:
                            raise ReplyTooLong(
                                self.endpoint, named, f"more than {MAX_REPLY_BYTES} bytes"
                            )
                    status = response.status_code
            except httpx.HTTPError as failed:
                # The library's text can hold the whole address; its type says enough.
                raise ChainDown(self.endpoint, type(failed).__name__) from None
        if limit.cancelled_caught:
            raise RpcTimeout(self.endpoint, named, self._timeout_s)
        if status == 429 or status >= 500:
            raise NotAnswered(self.endpoint, f"HTTP status {status}")
        if 300 <= status < 400:
            # Never followed: what is signed and which key is in the address would go elsewhere.
            raise NotAnswered(
                self.endpoint, f"HTTP status {status}, it redirects: use the address it leads to"
            )
        try:
            reply = loads(raw)
        except ValueError:
            if status >= 400:
                raise NotAnswered(self.endpoint, f"HTTP status {status}") from None
            if not raw.strip() or raw.lstrip()[:1] == b"<":
                raise NotAnswered(self.endpoint, "a web page or nothing, not JSON") from None
            raise BadReply(self.endpoint, named, "not JSON") from None
        replies = reply if batched and isinstance(reply, list) else [reply]
        if batched and isinstance(reply, dict) and "error" in reply:
            self._result(named, reply)
        by_id: dict[int, dict[str, Any]] = {}
        for one in replies:
            if not isinstance(one, dict) or not isinstance(one.get("id"), int):
                # A node that could not even read the request answers with a null id.
                if isinstance(one, dict) and isinstance(one.get("error"), dict):
                    self._result(named, one)
                raise BadReply(self.endpoint, named, "not a JSON-RPC answer")
            by_id[one["id"]] = one
        wanted = [first + at for at in range(len(requests))]
        if sorted(by_id) != wanted or len(replies) != len(wanted):
            raise BadReply(self.endpoint, named, "answers to other requests than ours")
        return [by_id[number] for number in wanted]

    def _result(self, method: str, answer: dict[str, Any]) -> Any:
        error = answer.get("error")
        if error is not None:
            if not isinstance(error, dict):
                raise BadReply(self.endpoint, method, "an error that is no object")
            number = error.get("code")
            message = error.get("message")
            refused = RpcError(
                method,
                number if isinstance(number, int) else 0,
                message if isinstance(message, str) else "no reason given",
                error.get("data"),
            )
            if refused.answer is Answer.ELSEWHERE:
                raise NotAnswered(self.endpoint, clipped(refused.message))
            raise refused
        if "result" not in answer:
            raise BadReply(self.endpoint, method, "neither a result nor an error")
        return answer["result"]
