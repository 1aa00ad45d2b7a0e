"""A node that fails as real nodes and gateways do: an HTTP proxy before a real anvil.

    async with open_faulty_node(devnet.url, seed=7) as node:
        node.put("already-known", times=1)
        node.put("html", on={"eth_call"}, every=2)
        async with Rpc(node.url) as rpc: ...

Each fault of the table `FAULTS` is something that users of other projects reported of their nodes.
`put` says which calls it is on: by method, by count, by chance. Whether a rule meets the n-th call
of a method follows from the seed alone, so one seed is one set of faults, however tasks interleave.

A request goes through the rules in the order in which they were put; the first that meets it
answers it, and what none meets goes to anvil as it is. A batch is taken apart: a fault of one of
its calls changes that answer, a fault of the connection ends the whole. The upstream is asked on
connections of its own and never with a fault, so that tests can look at the truth at any time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit

import h11
import trio
from node_faults import FAULTS, SENDING, Call, Fault, Json, Page


class FaultyNode:
    """The running proxy. url: its own address; upstream: the real node's."""

    def __init__(self, upstream: str, seed: int) -> None:
        self.upstream: Final = upstream
        self.seed: Final = seed
        self.url = ""
        self.asked: Counter[str] = Counter()
        """How often each method was asked for."""
        self.met: Counter[str] = Counter()
        """How often each fault was put on a call."""
        self.handed: list[str] = []
        """Raw transactions that clients handed over, as often as they did."""
        self._rules: list[Rule] = []
        self._passing = 0
        self._alone = trio.Lock()
        self._host = urlsplit(upstream)

    def put(
        self,
        fault: str | Fault,
        *,
        on: Collection[str] | None = None,
        times: int | None = None,
        after: int = 0,
        every: int = 1,
        chance: float = 1.0,
        overall: bool = False,
        **settings: Any,
    ) -> Rule:
        """Put a fault on calls from now on.

        on: methods; None takes those that the fault is known from. times: so many calls of each
        method and no more. after: not the first so many. every: of those, each so-manieth.
        chance: of those, each with this probability. overall: `after` and `every` count all calls
        and not each method's own, as a limit on requests does. settings: what the fault takes.
        """
        found = FAULTS[fault] if isinstance(fault, str) else fault
        methods = found.methods if on is None else frozenset(on)
        rule = Rule(
            found, methods, times, after, every, chance, overall, settings, Counter(self.asked)
        )
        self._rules.append(rule)
        return rule

    def heal(self) -> None:
        """Remove all faults."""
        self._rules.clear()

    async def ask(self, method: str, *params: object) -> Any:
        """The upstream's true result; an error that it gives is an AssertionError."""
        answer = await self.pass_on(Call(1, method, list(params), 0))
        assert "error" not in answer, answer
        return answer["result"]

    async def pass_on(self, call: Call) -> Json:
        """The upstream's answer to a call."""
        async with self._alone:
            self._passing += 1
        try:
            return json.loads(await self._post(json.dumps(call.body).encode()))
        finally:
            self._passing -= 1

    async def go_back(self, blocks: int) -> None:
        """Remove the newest blocks and everything in them.

        Alone, while anvil mines nothing: it takes blocks away one by one, and what it answers or
        mines meanwhile is of no chain.
        """
        async with self._alone:
            while self._passing:  # noqa: ASYNC110
                await trio.sleep(0.01)
            at_once = await self._upstream("anvil_getAutomine")
            for _ in range(100 if at_once else 0):
                if int((await self._upstream("txpool_status"))["pending"], 16) == 0:
                    break
                await trio.sleep(0.02)
            await self._upstream("evm_setAutomine", False)
            await self._upstream("anvil_reorg", blocks, [])
            await self._upstream("evm_setAutomine", at_once)

    async def _upstream(self, method: str, *params: object) -> Any:
        answer = json.loads(
            await self._post(json.dumps(Call(1, method, list(params), 0).body).encode())
        )
        assert "error" not in answer, answer
        return answer["result"]

    # --- answering ----------------------------------------------------------------------------

    async def answer(self, body: bytes) -> tuple[bytes, Page | None]:
        """The body that answers a request, or the page that a fault puts in its place."""
        asked = json.loads(body)
        batched = isinstance(asked, list)
        calls = []
        for one in asked if batched else [asked]:
            self.asked[one["method"]] += 1
            calls.append(
                Call(
                    one["id"],
                    one["method"],
                    one.get("params", []),
                    self.asked[one["method"]],
                    self.asked.total(),
                )
            )
            if one["method"] in SENDING:
                self.handed.append(one["params"][0])
        try:
            answers = [await self._one(call, batched) for call in calls]
        except Page as page:
            return b"", page
        return json.dumps(answers if batched else answers[0]).encode(), None

    async def _one(self, call: Call, batched: bool) -> Json:
        for rule in self._rules:
            if rule.meets(call, self.seed) and (batched or not rule.fault.batches):
                self.met[rule.fault.name] += 1
                rule.met[call.method] += 1
                return await rule.fault.act(self, call, **rule.settings)
        return await self.pass_on(call)

    async def serve(self, stream: trio.SocketStream) -> None:
        """One client's connection."""
        async with stream:
            connection = h11.Connection(h11.SERVER)
            try:
                while await self._exchange(stream, connection):
                    connection.start_next_cycle()
            except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
                pass  # the client gave up

    async def _exchange(self, stream: trio.SocketStream, connection: h11.Connection) -> bool:
        body = await _read(stream, connection)
        if body is None:
            return False
        answer, page = await self.answer(body)
        if page is None:
            page = Page(200, answer, "application/json")
        if page.cut is None:
            return False
        headers = [*page.headers, ("content-length", str(len(page.body)))]
        head = connection.send(h11.Response(status_code=page.status, headers=headers))
        assert head is not None
        await stream.send_all(head)
        if page.cut:
            await stream.send_all(page.body[: -page.cut])
            return False
        for event in (h11.Data(page.body), h11.EndOfMessage()):
            await stream.send_all(connection.send(event) or b"")
        return connection.our_state is not h11.MUST_CLOSE

    async def _post(self, body: bytes) -> bytes:
        host, port = self._host.hostname or "", self._host.port or 80
        connection = h11.Connection(h11.CLIENT)
        headers = [
            ("host", f"{host}:{port}"),
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        async with await trio.open_tcp_stream(host, port) as stream:
            for event in (
                h11.Request(method="POST", target="/", headers=headers),
                h11.Data(body),
                h11.EndOfMessage(),
            ):
                await stream.send_all(connection.send(event) or b"")
            answer = await _read(stream, connection)
        assert answer is not None, "anvil closed the connection"
        return answer


async def _read(stream: trio.SocketStream, connection: h11.Connection) -> bytes | None:
    """The body of the next message; None if the other side ends without one."""
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return bytes(body)
        elif isinstance(event, h11.ConnectionClosed):
            return None


@asynccontextmanager
async def open_faulty_node(upstream: str, *, seed: int = 1) -> AsyncIterator[FaultyNode]:
    """A proxy on a free port, until the block ends. It starts without a fault."""
    node = FaultyNode(upstream, seed)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, node.serve, 0, host="127.0.0.1"))
        node.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield node
        nursery.cancel_scope.cancel()


@dataclass(slots=True)
class Rule:
    """A fault and the calls that it is on; see `FaultyNode.put`."""

    fault: Fault
    methods: frozenset[str]
    times: int | None
    after: int
    every: int
    chance: float
    overall: bool
    settings: dict[str, Any]
    since: Counter[str]
    met: Counter[str] = field(default_factory=Counter)

    def meets(self, call: Call, seed: int) -> bool:
        if self.methods and call.method not in self.methods:
            return False
        if self.times is not None and self.met[call.method] >= self.times:
            return False
        if self.overall:
            n = call.of_all - self.since.total() - self.after
        else:
            n = call.n - self.since[call.method] - self.after
        if n < 1 or n % self.every:
            return False
        if self.chance >= 1:
            return True
        return Random(f"{seed} {self.fault.name} {call.method} {n}").random() < self.chance
