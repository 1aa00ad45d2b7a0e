"""A node that is down, slow, wrong or hostile gives a named error, and nobody's key is shown."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import trio

from psymm.chain.addresses import ZERO_ADDRESS
from psymm.chain.errors import (
    BadReply,
    ChainDown,
    NotAnswered,
    ReplyTooLong,
    RpcError,
    WrongChain,
)
from psymm.chain.rpc import MAX_REPLY_BYTES, Rpc, own_deadline

Answer = Callable[[object], bytes | None]


@asynccontextmanager
async def node(answer: Answer, status: str = "200 OK") -> AsyncIterator[tuple[str, list[object]]]:
    """An HTTP server that answers each request's JSON with given bytes; None never answers."""
    asked: list[object] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            heard = b""
            while b"\r\n\r\n" not in heard:
                piece = await stream.receive_some()
                if not piece:
                    return
                heard += piece
            head, body = heard.split(b"\r\n\r\n", 1)
            length = int(
                next(
                    line.split(b":")[1]
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
            )
            while len(body) < length:
                body += await stream.receive_some()
            request = json.loads(body)
            asked.append(request)
            said = answer(request)
            if said is None:
                await trio.sleep_forever()
                return
            await stream.send_all(
                b"HTTP/1.1 %s\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
                % (status.encode(), len(said))
                + said
            )

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        yield f"http://127.0.0.1:{port}/v3/SECRETKEY?apikey=SECRETKEY", asked
        nursery.cancel_scope.cancel()


def result(value: object) -> Answer:
    def say(request: object) -> bytes:
        return json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": value}).encode()

    return say


async def test_a_chain_that_is_down_is_named_without_the_key_in_its_address() -> None:
    async with Rpc(
        "http://user:SECRETKEY@127.0.0.1:1/v3/SECRETKEY?k=SECRETKEY", read_attempts=2, backoff_s=0
    ) as rpc:
        with pytest.raises(ChainDown) as down:
            await rpc.chain_id()
        assert "SECRETKEY" not in str(down.value) + repr(down.value) + repr(rpc)
        assert down.value.endpoint == "http://127.0.0.1:1"
        assert down.value.code == "chain-down"


@pytest.mark.parametrize(
    "address",
    [
        "", "ftp://host", "http://", "127.0.0.1:8545", "http://h:99999", "http://[::1",
        "http://a..b",
    ],
)  # fmt: skip
async def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ChainDown):
        Rpc(address)


async def test_an_address_that_the_client_refuses_is_named_without_its_key() -> None:
    # The client's own rules for host names are stricter than the system's.
    async with Rpc(["http://\N{GRINNING FACE}.example/SECRETKEY"], patience_s=0) as rpc:
        with pytest.raises(ChainDown, match="InvalidURL") as down:
            await rpc.block_number()
    assert "SECRETKEY" not in str(down.value)


async def test_an_ip_address_of_six_is_shown_as_it_is_written() -> None:
    assert Rpc("http://[::1]:8545/SECRETKEY").endpoint == "http://[::1]:8545"


async def test_reads_are_asked_again_and_what_is_not_repeatable_is_not(autojump_clock) -> None:
    async with (
        node(lambda _: b"", status="503 Unavailable") as (url, asked),
        Rpc(url, read_attempts=3, patience_s=0) as rpc,
    ):
        with pytest.raises(ChainDown, match="503"):
            await rpc.block_number()
        assert len(asked) == 3
        with pytest.raises(ChainDown):
            await rpc.call("anvil_mine", "0x1")
        assert len(asked) == 4


async def test_a_node_that_never_answers_times_out_by_name() -> None:
    async with (
        node(lambda _: None) as (url, _),
        Rpc(url, timeout_s=0.05, read_attempts=1, patience_s=0) as rpc,
    ):
        with pytest.raises(ChainDown, match="no answer to eth_chainId within 0"):
            await rpc.chain_id()


@pytest.mark.parametrize(
    "said",
    [
        b"\xff\xfe",
        b"null",
        b"7",
        b"[]",
        b"{}",
        b'{"id":1}',
        b'{"id":999,"result":"0x1"}',
        b'{"id":"1","result":"0x1"}',
        b'{"id":1,"result":null}',
        b'{"id":1,"result":"0x"}',
        b'{"id":1,"result":"0x01x"}',
        b'{"id":1,"result":"31337"}',
        b'{"id":1,"result":31337}',
        b'{"id":1,"result":"0x' + b"f" * 65 + b'"}',
        b'{"id":1,"error":"no"}',
        b"[" * 100_000,
        b'{"jsonrpc":"2.0","id":1,"result":' + b"1" * 5_000 + b"}",
        b'{"jsonrpc":"2.0","id":1,"result":NaN}',
        b'{"jsonrpc":"2.0","id":1,"result":"0x1","result":"0x2"}',
    ],
)
async def test_nonsense_is_named_nonsense(said: bytes) -> None:
    async with node(lambda _: said) as (url, _), Rpc(url, read_attempts=1) as rpc:
        with pytest.raises(BadReply):
            await rpc.chain_id()


@pytest.mark.parametrize("said", [b"", b" \n", b"<html>503</html>", b" <!DOCTYPE html>"])
@pytest.mark.parametrize("status", ["200 OK", "429 Too Many Requests", "403 Forbidden"])
async def test_a_web_page_instead_of_an_answer_is_asked_again(
    autojump_clock, said: bytes, status: str
) -> None:
    async with (
        node(lambda _: said, status=status) as (url, asked),
        Rpc(url, patience_s=60) as rpc,
    ):
        began = trio.current_time()
        with pytest.raises(NotAnswered):
            await rpc.chain_id()
        assert trio.current_time() - began > 60
        assert 30 < len(asked) < 60, "the pauses do not grow, or for ever"


@pytest.mark.parametrize("given_s", [5, 300])
async def test_the_callers_deadline_decides_how_long_a_node_is_asked(
    autojump_clock, given_s: int
) -> None:
    async with (
        node(lambda _: b"", status="503 Unavailable") as (url, _),
        Rpc(url, patience_s=60) as rpc,
    ):
        began = trio.current_time()
        with trio.fail_after(given_s), pytest.raises(NotAnswered, match="503"):
            await rpc.chain_id()
        # By its name, in time: no longer than one pause before the caller gives up.
        assert given_s - 2.5 < trio.current_time() - began < given_s
        # Inside one of our own waits, the deadline cuts no question short.
        began = trio.current_time()
        with own_deadline(), trio.fail_after(900), pytest.raises(NotAnswered):
            await rpc.chain_id()
        assert 60 < trio.current_time() - began < 65


async def test_a_node_that_starts_again_is_waited_for_and_one_that_never_was_is_not(
    autojump_clock,
) -> None:
    class Restarting(Rpc):
        down_until = 0.0

        async def raw_result(self, *asked: Any) -> Any:
            if trio.current_time() < self.down_until:
                raise ChainDown(self.endpoint, "ConnectError")
            return "0x2a"

    async with Restarting("http://127.0.0.1:1") as rpc:
        assert await rpc.block_number() == 42
        rpc.down_until = trio.current_time() + 10
        assert await rpc.block_number() == 42
    async with Restarting("http://127.0.0.1:1") as rpc:
        rpc.down_until = trio.current_time() + 10
        with pytest.raises(ChainDown):
            await rpc.block_number()
        assert trio.current_time() < rpc.down_until


async def test_a_redirect_is_not_followed_and_is_named(autojump_clock) -> None:
    async with node(lambda _: b"", status="308 Moved") as (url, _), Rpc(url) as rpc:
        with pytest.raises(NotAnswered, match="redirects") as moved:
            await rpc.chain_id()
        assert "SECRETKEY" not in str(moved.value)


@pytest.mark.parametrize(
    "words", ["header not found", "transaction indexing is in progress", "rate limit exceeded"]
)
async def test_a_node_that_speaks_of_something_else_is_asked_again(
    autojump_clock, words: str
) -> None:
    def say(request: object) -> bytes:
        if len(asked) < 3:
            error = {"code": -32000, "message": words}
            return json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}).encode()
        return result("0x2a")(request)

    async with node(lambda request: say(request)) as (url, asked), Rpc(url) as rpc:
        assert await rpc.eth.get_balance(ZERO_ADDRESS, "latest") == 42
        assert len(asked) == 3


async def test_a_number_with_leading_zeros_is_the_same_number() -> None:
    async with node(result("0x007a69")) as (url, _), Rpc(url) as rpc:
        assert await rpc.chain_id() == 31337


async def test_a_refusal_keeps_the_nodes_number_and_words() -> None:
    said = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no such method"}}'
    async with node(lambda _: said) as (url, _), Rpc(url) as rpc:
        with pytest.raises(RpcError) as refused:
            await rpc.chain_id()
        assert (refused.value.number, refused.value.message) == (-32601, "no such method")


async def test_another_chain_is_refused() -> None:
    async with node(result("0x1")) as (url, _), Rpc(url) as rpc:
        with pytest.raises(WrongChain) as other:
            await rpc.expect_chain(31337)
        assert (other.value.expected, other.value.found) == (31337, 1)


@asynccontextmanager
async def raw_node(head: bytes, body: bytes, times: int = 1) -> AsyncIterator[str]:
    """An HTTP server that answers anything with a head and `times` a body; its address."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            with suppress(trio.BrokenResourceError):
                await stream.send_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n" + head + b"\r\n")
                for _ in range(times):
                    await stream.send_all(body)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        nursery.cancel_scope.cancel()


async def test_an_answer_of_any_length_costs_a_bounded_part_of_it() -> None:
    # As many lists as fit: parsed, each takes some thirty times its two bytes.
    async with (
        raw_node(b"", b'{"jsonrpc":"2.0","id":1,"result":[' + b"[]," * 350_000, 200) as url,
        Rpc(url) as rpc,
    ):
        with pytest.raises(ReplyTooLong, match=str(MAX_REPLY_BYTES)):
            await rpc.block_number()


async def test_an_answer_that_unpacks_into_the_whole_memory_is_not_unpacked() -> None:
    bomb = bytes(64 * 1024 * 1024)
    for _ in range(2):
        bomb = gzip.compress(bomb)
    head = b"content-encoding: gzip, gzip\r\ncontent-length: %d\r\n" % len(bomb)
    async with raw_node(head, bomb) as url, Rpc(url) as rpc:
        tracemalloc.start()
        try:
            with pytest.raises(BadReply, match="compressed"):
                await rpc.block_number()
            assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("head", [1 << 63, (1 << 256) - 1])
async def test_a_block_that_no_chain_has_is_no_head(head: int) -> None:
    async with node(result(hex(head))) as (url, _), Rpc(url) as rpc:
        with pytest.raises(BadReply, match="a block number beyond any chain's"):
            await rpc.block_number()
