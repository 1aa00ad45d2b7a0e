"""The faults of real nodes and gateways, one a line of `FAULTS`; `faulty_node` puts them on calls.

Each is something that users of other projects reported of their nodes. A fault is a function of the
proxy and one call: it gives the JSON-RPC answer, or raises the `Page` to answer with instead.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import trio

from psymm._core import keccak256

if TYPE_CHECKING:
    from faulty_node import FaultyNode

SENDING: Final = frozenset({"eth_sendRawTransaction"})
RECEIPTS: Final = frozenset({"eth_getTransactionReceipt"})
LOGS: Final = frozenset({"eth_getLogs"})
STATES: Final = frozenset({"eth_call", "eth_getBalance", "eth_getCode", "eth_getTransactionCount"})
NUMBERS: Final = frozenset(
    {
        "eth_blockNumber",
        "eth_estimateGas",
        "eth_gasPrice",
        "eth_getBalance",
        "eth_getTransactionCount",
        "eth_maxPriorityFeePerGas",
    }
)
ALL: Final[frozenset[str]] = frozenset()
"""Of every call."""

Json: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True, slots=True)
class Call:
    """One JSON-RPC request. body: as it goes to the upstream; n: it is the n-th of its method;
    of_all: and the so-manieth of all."""

    id: object
    method: str
    params: list[Any]
    n: int
    of_all: int = 0

    @property
    def body(self) -> Json:
        return {"jsonrpc": "2.0", "id": self.id, "method": self.method, "params": self.params}

    def result(self, found: object) -> Json:
        return {"jsonrpc": "2.0", "id": self.id, "result": found}

    def error(self, code: int, message: str, **more: object) -> Json:
        said = {"code": code, "message": message, **more}
        return {"jsonrpc": "2.0", "id": self.id, "error": said}


class Page(Exception):
    """Raised by a fault: the HTTP answer to the whole request. cut: end the connection before the
    last `cut` bytes of what was announced; None says nothing at all."""

    def __init__(
        self,
        status: int = 200,
        body: bytes = b"",
        kind: str = "text/html",
        *,
        cut: int | None = 0,
        **headers: str,
    ) -> None:
        super().__init__(status)
        self.status, self.body, self.cut = status, body, cut
        self.headers = [("content-type", kind), *headers.items()]


Act: TypeAlias = "Callable[..., Awaitable[Json]]"


@dataclass(frozen=True, slots=True)
class Fault:
    """What a node does to a call. methods: the calls on which it was observed; none means all.
    batches: it is on calls in a batch only."""

    name: str
    methods: frozenset[str]
    act: Act
    batches: bool = False


def refuses(code: int, *messages: str) -> Act:
    """An error of JSON-RPC, without passing the call on; the messages in turn."""

    async def act(node: FaultyNode, call: Call) -> Json:
        return call.error(code, messages[call.n % len(messages)])

    return act


def shows(status: int, body: bytes, kind: str = "text/html", **headers: str) -> Act:
    """Answer with a web page, without forwarding the call."""

    async def act(node: FaultyNode, call: Call) -> Json:
        raise Page(status, body, kind, **headers)

    return act


def after(act: Act) -> Act:
    """The call is passed on, then its answer is lost to a fault."""

    async def passed(node: FaultyNode, call: Call) -> Json:
        await node.pass_on(call)
        return await act(node, call)

    return passed


def instead(found: Callable[[Call, Any], Any]) -> Act:
    """The true result, changed; errors are left as they are."""

    async def act(node: FaultyNode, call: Call) -> Json:
        answer = await node.pass_on(call)
        return call.result(found(call, answer["result"])) if "result" in answer else answer

    return act


async def closes(node: FaultyNode, call: Call) -> Json:
    raise Page(cut=None)


async def truncates(node: FaultyNode, call: Call) -> Json:
    body = json.dumps(await node.pass_on(call)).encode()
    raise Page(200, body[: len(body) * 2 // 3], "application/json")


async def breaks_off(node: FaultyNode, call: Call) -> Json:
    body = json.dumps(await node.pass_on(call)).encode()
    raise Page(200, body, "application/json", cut=len(body) // 3)


async def compresses(node: FaultyNode, call: Call) -> Json:
    body = gzip.compress(json.dumps(await node.pass_on(call)).encode())
    raise Page(200, body, "application/json", **{"content-encoding": "gzip"})


async def is_slow(node: FaultyNode, call: Call, *, seconds: float = 1.0) -> Json:
    answer = await node.pass_on(call)
    await trio.sleep(seconds)
    return answer


async def hangs(node: FaultyNode, call: Call) -> Json:
    await trio.sleep_forever()
    raise AssertionError("unreachable")


async def swallows(node: FaultyNode, call: Call) -> Json:
    """The transaction is taken and forgotten: the pool was full, or it restarted."""
    return call.result("0x" + keccak256(bytes.fromhex(call.params[0][2:])).hex())


async def answers_another(node: FaultyNode, call: Call) -> Json:
    answer = await node.pass_on(call)
    return {**answer, "id": call.id + 1 if isinstance(call.id, int) else "another"}


async def gives_another_receipt(node: FaultyNode, call: Call) -> Json:
    """A cache gives the receipt of the transaction that was asked for before."""
    answer = await node.pass_on(call)
    if answer.get("result"):
        answer["result"] = {**answer["result"], "transactionHash": "0x" + "5a" * 32}
    return answer


async def counts_late(node: FaultyNode, call: Call) -> Json:
    """The account's count is that of some blocks ago."""
    head = int(await node.ask("eth_blockNumber"), 16)
    found = await node.ask("eth_getTransactionCount", call.params[0], hex(max(0, head - 2)))
    return call.result(found)


def spans(code: int, *messages: str) -> Act:
    """Logs of more than `most` blocks are refused."""

    async def act(node: FaultyNode, call: Call, *, most: int = 10, status: int = 200) -> Json:
        asked = call.params[0]
        head = await node.ask("eth_blockNumber")
        first, last = (
            int(asked[end] if str(asked.get(end, "latest")).startswith("0x") else head, 16)
            for end in ("fromBlock", "toBlock")
        )
        if last - first < most:
            return await node.pass_on(call)
        refusal = call.error(code, messages[call.n % len(messages)])
        if status != 200:
            raise Page(status, json.dumps(refusal).encode(), "application/json")
        return refusal

    return act


async def lags(node: FaultyNode, call: Call, *, blocks: int = 1) -> Json:
    """A backend of the balancer that lacks the newest blocks."""
    head = max(0, int(await node.ask("eth_blockNumber"), 16) - blocks)
    method, params = call.method, list(call.params)
    if method == "eth_blockNumber":
        return call.result(hex(head))
    if method == "eth_getBlockByNumber":
        at = head if not str(params[0]).startswith("0x") else int(params[0], 16)
        known = at <= head
        return call.result(await node.ask(method, hex(at), params[1]) if known else None)
    if method in ("eth_getTransactionReceipt", "eth_getTransactionByHash", "eth_getBlockByHash"):
        answer = await node.pass_on(call)
        found = answer.get("result")
        number = "number" if method == "eth_getBlockByHash" else "blockNumber"
        if found and found.get(number) and int(found[number], 16) > head:
            return call.result(None)
        return answer
    if method in STATES or method == "eth_estimateGas":
        at = params[1] if len(params) > 1 else "latest"
        if isinstance(at, dict):
            block = await node.ask("eth_getBlockByHash", at["blockHash"], False)
            if block is None or int(block["number"], 16) > head:
                return call.error(-32000, "header for hash not found")
        elif not str(at).startswith("0x"):
            return await node.pass_on(Call(call.id, method, [params[0], hex(head)], call.n))
        elif int(at, 16) > head:
            return call.error(-32000, "header not found")
    if method == "eth_getLogs":
        asked = dict(params[0])
        for end in ("fromBlock", "toBlock"):
            if not str(asked.get(end, "latest")).startswith("0x"):
                asked[end] = hex(head)
        if int(asked["fromBlock"], 16) > head:
            return call.result([])
        asked["toBlock"] = hex(min(head, int(asked["toBlock"], 16)))
        return await node.pass_on(Call(call.id, method, [asked], call.n))
    return await node.pass_on(call)


async def goes_back(node: FaultyNode, call: Call, *, blocks: int = 64) -> Json:
    """Before the answer, the chain drops its newest blocks and everything in them."""
    head = int(await node.ask("eth_blockNumber"), 16)
    if blocks < head:
        await node.go_back(blocks)
    return await node.pass_on(call)


def _one_more_zero(_: Call, found: Any) -> Any:
    return "0x0" + found[2:] if isinstance(found, str) and found.startswith("0x") else found


def _removed(_: Call, logs: Any) -> Any:
    return [{**one, "removed": True} for one in logs]


def _twice(_: Call, logs: Any) -> Any:
    return [one for one in logs for _ in range(2)]


_SPANS: Final = (
    "under the free tier plan you can make eth_getLogs requests with up to a 10 block range",
    "query returned more than 10000 results",
    "exceed maximum block range: 5000",
    "block range is too wide",
    "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range",
    "query exceeds max block range 1024",
    "logs are limited to a 10000 block range",
)
_TOO_MANY: Final = b"<html><head><title>429</title></head><h1>Too Many Requests</h1></html>"
_UPKEEP: Final = b"<!doctype html><html><body>down for maintenance</body></html>"

_TABLE: Final[Sequence[Fault]] = (
    # The connection.
    Fault("closed-before", ALL, closes),
    Fault("closed-after", ALL, after(closes)),
    Fault("broken-off", ALL, breaks_off),
    Fault("slow", ALL, is_slow),
    Fault("hanging", ALL, hangs),
    Fault("hanging-after", ALL, after(hangs)),
    # The proxy between us and the node.
    Fault("rate-limit-html", ALL, shows(429, _TOO_MANY, **{"retry-after": "1"})),
    Fault(
        "rate-limit-json",
        ALL,
        refuses(-32005, "daily request count exceeded, request rate limited", "rate limit"),
    ),
    Fault("html", ALL, shows(200, _UPKEEP)),
    Fault("redirect", ALL, shows(308, b"", "text/plain", location="http://127.0.0.1:9/")),
    Fault("502-before", ALL, shows(502, b"<html>Bad Gateway</html>")),
    Fault("502-after", ALL, after(shows(502, b"busy", "text/plain"))),
    Fault("403", ALL, shows(403, b"<html>Attention Required!</html>")),
    Fault("empty", ALL, shows(200, b"", "application/json")),
    Fault("empty-after", ALL, after(shows(200, b"", "application/json"))),
    Fault("truncated", ALL, truncates),
    Fault("compressed", ALL, compresses),
    Fault("wrong-id", ALL, answers_another),
    Fault("batch-refused", ALL, refuses(-32600, "batch requests are not allowed"), batches=True),
    Fault("internal-error", ALL, refuses(-32603, "Internal error", "request timed out")),
    # What the node knows.
    Fault("lagging", ALL, lags),
    Fault(
        "unknown-block",
        STATES,
        refuses(-32000, "header not found", "missing trie node 5a (path ) <nil>", "unknown block"),
    ),
    Fault("no-block", frozenset({"eth_getBlockByNumber"}), instead(lambda call, found: None)),
    Fault("leading-zero", NUMBERS, instead(_one_more_zero)),
    Fault(
        "wrong-chain", frozenset({"eth_chainId", "net_version"}), instead(lambda call, found: "0x1")
    ),
    Fault("span-refused", LOGS, spans(-32602, *_SPANS)),
    Fault("result-too-large", LOGS, spans(-32008, "Response is too big", "response too large")),
    Fault("removed-logs", LOGS, instead(_removed)),
    Fault("logs-twice", LOGS, instead(_twice)),
    # What becomes of a transaction.
    Fault("already-known", SENDING, after(refuses(-32000, "already known", "AlreadyKnown"))),
    Fault(
        "nonce-too-low-after",
        SENDING,
        after(refuses(-32000, "nonce too low", "nonce too low: next nonce 9, tx nonce 8")),
    ),
    Fault(
        "underpriced-after", SENDING, after(refuses(-32000, "replacement transaction underpriced"))
    ),
    Fault(
        "tip-floor",
        SENDING,
        refuses(
            -32000,
            "transaction underpriced: gas tip cap 1000000000, minimum needed 25000000000",
            "max priority fee per gas less than block base fee",
        ),
    ),
    Fault("swallowed", SENDING, swallows),
    Fault("pool-full", SENDING, refuses(-32000, "txpool is full", "transaction pool is full")),
    Fault("null-receipt", RECEIPTS, instead(lambda call, found: None)),
    Fault("null-transaction", frozenset({"eth_getTransactionByHash"}), instead(lambda c, f: None)),
    Fault("indexing", RECEIPTS, refuses(-32000, "transaction indexing is in progress")),
    Fault("other-receipt", RECEIPTS, gives_another_receipt),
    Fault("nonce-late", frozenset({"eth_getTransactionCount"}), counts_late),
)

FAULTS: Final = {one.name: one for one in _TABLE}
GOES_BACK: Final = Fault("goes-back", ALL, goes_back)
"""A reorganisation. It is no fault of the node, so it is not in the table: what is done about it
can cost transactions."""
