"""A client of oracle signers believes none of them (`spec.md` 41, 42): rogues on real sockets."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

sys.path.insert(0, str(Path(__file__).parent))

from oracle_scene import DOMAIN, KEYS, STEP

from psymm._core import SecretKey, domain_separator
from psymm.errors import Disconnected, MessageTooBig
from psymm.oracle.client import (
    MOST_HISTORY,
    RECENT,
    OracleClient,
    OracleEndpoints,
    OracleLied,
    OracleStalled,
    OracleUnreachable,
    open_oracle,
)
from psymm.oracle.rounds import (
    OracleRound,
    RoundLeaf,
    SignedRound,
    SignerSet,
    encode_round,
    round_digest,
)
from psymm.oracle.wire import (
    AskHistory,
    FollowRounds,
    Greeting,
    decode_request,
    encode_end,
    encode_greeting,
)

PATIENCE_S = 60
NOW = 1_790_604_800 * STEP
SIGNERS = SignerSet(tuple(key.address for key in KEYS[:3]), 2)
GREETING = Greeting(DOMAIN, KEYS[0].address, bytes(32))
Serve = Callable[[WebSocketConnection, int], Awaitable[None]]


def round_at(step: int, *keys: SecretKey, value: int = 1, at: int | None = None) -> SignedRound:
    """A round `step` seconds after NOW, signed by the first two signers unless others are named."""
    made = OracleRound(NOW + step * STEP if at is None else at, (RoundLeaf("A", value),))
    digest = round_digest(DOMAIN, made.root, made.timestamp)
    return SignedRound(made, tuple(key.sign(digest) for key in keys or KEYS[:2]))


async def send(socket: WebSocketConnection, *rounds: SignedRound | str) -> None:
    for one in rounds:
        await socket.send_message(one if isinstance(one, str) else encode_round(one))


@asynccontextmanager
async def rogue(serve: Serve, greeting: Greeting | str = GREETING) -> AsyncIterator[str]:
    """A signer that does what the test says: `serve` gets the socket and the moment after which
    rounds were asked for."""

    async def handle(request: WebSocketRequest) -> None:
        socket = await request.accept()
        try:
            await socket.send_message(
                greeting if isinstance(greeting, str) else encode_greeting(greeting)
            )
            asked = decode_request(await socket.get_message())
            assert isinstance(asked, FollowRounds | AskHistory)
            await serve(socket, asked.after if isinstance(asked, FollowRounds) else asked.first - 1)
            await trio.sleep_forever()
        except ConnectionClosed:
            pass

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, handle, "127.0.0.1", 0, None))
        yield f"ws://127.0.0.1:{server.port}"
        nursery.cancel_scope.cancel()


def oracle(*endpoints: str, stall_s: float = 60.0) -> OracleEndpoints:
    return OracleEndpoints(endpoints, DOMAIN, SIGNERS, stall_s=stall_s)


@asynccontextmanager
async def client_of(
    *endpoints: str, stall_s: float = 60.0, since: int = 0, now: int = NOW + 100 * STEP
) -> AsyncIterator[OracleClient]:
    with trio.fail_after(PATIENCE_S):
        async with open_oracle(
            oracle(*endpoints, stall_s=stall_s), since=since, now=lambda: now
        ) as client:
            yield client


async def fault_of(client: OracleClient, endpoint: str) -> Exception:
    """The first fault of an endpoint, once there is one."""
    while True:
        (health,) = [one for one in client.health if one.endpoint == endpoint]
        if health.fault is not None:
            return health.fault
        await trio.sleep(0.02)


def honest(*steps: int) -> Serve:
    """Sends those of these rounds that were asked for."""

    async def serve(socket: WebSocketConnection, after: int) -> None:
        await send(socket, *(round_at(step) for step in steps if NOW + step * STEP > after))

    return serve


# --- what it hands out ------------------------------------------------------------------------


async def test_it_hands_out_the_newest_round_and_each_in_order() -> None:
    async with rogue(honest(1, 2, 3, 5)) as endpoint, client_of(endpoint) as client:
        assert (await client.wait_newer(NOW + 4 * STEP)) == round_at(5)
        assert client.newest == round_at(5)
        at, found = 0, []
        for _ in range(4):
            found.append(await client.next_after(at))
            at = found[-1].timestamp
        assert found == [round_at(step) for step in (1, 2, 3, 5)]


async def test_a_newer_round_wakes_who_waits() -> None:
    more = trio.Event()

    async def serve(socket: WebSocketConnection, _after: int) -> None:
        await send(socket, round_at(1))
        await more.wait()
        await send(socket, round_at(2))

    async with rogue(serve) as endpoint, client_of(endpoint) as client:
        assert await client.wait_newer(0) == round_at(1)
        with trio.move_on_after(0.05) as early:
            await client.wait_newer(NOW + STEP)
        assert early.cancelled_caught
        more.set()
        assert await client.next_after(NOW + STEP) == round_at(2)


async def test_by_default_it_begins_with_the_present() -> None:
    asked, answered = list[int](), trio.Event()

    async def serve(_socket: WebSocketConnection, after: int) -> None:
        asked.append(after)
        answered.set()

    async with rogue(serve) as endpoint, open_oracle(oracle(endpoint), now=lambda: NOW):
        with trio.fail_after(PATIENCE_S):
            await answered.wait()
    assert asked == [NOW - STEP]


async def test_memory_holds_the_recent_rounds_alone() -> None:
    clock = [NOW]

    async def serve(socket: WebSocketConnection, after: int) -> None:
        clock[0] = NOW + 2 * RECENT * STEP
        await honest(*range(1, RECENT + 20))(socket, after)

    async with (
        rogue(serve) as endpoint,
        open_oracle(oracle(endpoint), now=lambda: clock[0]) as client,
    ):
        with trio.fail_after(PATIENCE_S):
            await client.wait_newer(NOW + (RECENT + 18) * STEP)
        assert len(client._recent) == RECENT


async def test_history_is_what_all_signers_have_together() -> None:
    async with (
        rogue(history(1, 2, 5)) as one,
        rogue(history(2, 3)) as two,
        client_of(one, two) as client,
    ):
        found = await client.history(NOW + 2 * STEP, NOW + 5 * STEP)
        assert found == [round_at(step) for step in (2, 3, 5)]
        with pytest.raises(ValueError, match="at most"):
            await client.history(0, (MOST_HISTORY + 1) * STEP)


def history(*steps: int) -> Serve:
    async def serve(socket: WebSocketConnection, after: int) -> None:
        last = NOW + 5 * STEP
        await send(socket, *(round_at(step) for step in steps if NOW + step * STEP > after))
        await send(socket, encode_end(last))

    return serve


async def test_history_from_nobody_is_an_error_and_from_one_of_two_is_enough() -> None:
    async def lie(socket: WebSocketConnection, _after: int) -> None:
        await send(socket, round_at(3, KEYS[0]), encode_end(NOW + 5 * STEP))

    async with rogue(lie) as liar, rogue(history(3)) as good:
        async with client_of(liar) as client:
            with pytest.raises(OracleUnreachable):
                await client.history(NOW, NOW + 5 * STEP)
        async with client_of(liar, good) as client:
            assert await client.history(NOW, NOW + 5 * STEP) == [round_at(3)]


@pytest.mark.parametrize("steps", [(2, 1), (1, 1), (9,), (0,)])
async def test_history_out_of_order_or_range_is_a_lie(steps: tuple[int, ...]) -> None:
    async def serve(socket: WebSocketConnection, _after: int) -> None:
        await send(socket, *map(round_at, steps), encode_end(NOW + 5 * STEP))

    async with rogue(serve) as endpoint, client_of(endpoint) as client:
        with pytest.raises(OracleUnreachable):
            await client.history(NOW + STEP, NOW + 5 * STEP)


# --- whom it does not believe -----------------------------------------------------------------

SIXTEEN = [SecretKey.from_bytes(bytes(31) + bytes([n])) for n in range(50, 66)]
LIES: dict[str, tuple[SignedRound | str, ...]] = {
    "too-few": (round_at(2, KEYS[0]),),
    "twice-one": (round_at(2, KEYS[0], KEYS[0]),),
    "strangers": (round_at(2, KEYS[3], KEYS[0]),),
    "many-strangers": (round_at(2, *SIXTEEN),),
    "none": (SignedRound(round_at(2).round, ()),),
    "another-value": (SignedRound(round_at(2, value=2).round, round_at(2).signatures),),
    "another-moment": (SignedRound(round_at(3).round, round_at(2).signatures),),
    "off-grid": (round_at(0, at=NOW + 1),),
    "from-ahead": (round_at(2000),),
    "year-2554": (round_at(0, at=(2**64 - 1) // STEP * STEP),),
    "older": (round_at(2), round_at(1)),
    "again": (round_at(2), round_at(2)),
    "end": (encode_end(5),),
    "not-json": ("hello",),
    "not-canonical": (encode_round(round_at(2)) + " ",),
    "ballot": ('{"proposal":' + encode_round(round_at(2)) + "}",),
    "deep": ("[" * 10_000,),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_signer_that_lies_is_left_and_another_one_believed(lie: str) -> None:
    async def serve(socket: WebSocketConnection, _after: int) -> None:
        await send(socket, *LIES[lie])

    async with rogue(serve) as liar, rogue(honest(4)) as good, client_of(liar, good) as client:
        fault = await fault_of(client, liar)
        assert isinstance(fault, OracleLied), fault
        assert await client.wait_newer(NOW + 3 * STEP) == round_at(4)
        first = await client.next_after(0)
        assert first in (round_at(2), round_at(4))
        assert first == round_at(4) or lie in ("older", "again")


async def test_bytes_are_no_message() -> None:
    async def serve(socket: WebSocketConnection, _after: int) -> None:
        await socket.send_message(b"\0" * 10)

    async with rogue(serve) as liar, client_of(liar) as client:
        assert isinstance(await fault_of(client, liar), OracleLied)


async def test_a_huge_message_is_cut_off_before_it_is_in_memory() -> None:
    async def serve(socket: WebSocketConnection, _after: int) -> None:
        await socket.send_message("x" * 10_000_000)

    async with rogue(serve) as liar, rogue(honest(1)) as good, client_of(liar, good) as client:
        fault = await fault_of(client, liar)
        assert isinstance(fault, MessageTooBig | Disconnected), fault
        assert await client.wait_newer(0) == round_at(1)


async def test_a_signer_that_stalls_is_left_and_dialled_again() -> None:
    dialled: list[int] = []

    async def serve(socket: WebSocketConnection, after: int) -> None:
        dialled.append(after)
        if len(dialled) > 1:
            await send(socket, round_at(1))

    async with rogue(serve) as slow, client_of(slow, stall_s=0.5) as client:
        assert isinstance(await fault_of(client, slow), OracleStalled)
        assert await client.wait_newer(0) == round_at(1)


async def test_a_signer_that_never_greets_is_left() -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, silent, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with rogue(honest(1)) as good, client_of(f"ws://127.0.0.1:{port}", good) as client:
            assert await client.wait_newer(0) == round_at(1)
        nursery.cancel_scope.cancel()


async def test_a_signer_of_another_deployment_is_named() -> None:
    other = Greeting(domain_separator(1, bytes(20)), KEYS[0].address, bytes(32))
    async with rogue(honest(1), other) as endpoint, client_of(endpoint) as client:
        fault = await fault_of(client, endpoint)
        assert isinstance(fault, OracleLied)
        assert "another deployment" in str(fault)
        assert client.newest is None


async def test_what_greets_otherwise_is_left() -> None:
    async with rogue(honest(1), "<html>") as endpoint, client_of(endpoint) as client:
        await fault_of(client, endpoint)
        assert client.newest is None


async def test_a_signer_that_is_down_is_dialled_until_it_is_there(
    free_port: Callable[[], int],
) -> None:
    port = free_port()

    async def handle(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await socket.send_message(encode_greeting(GREETING))
        await socket.get_message()
        await send(socket, round_at(1))
        await trio.sleep_forever()

    async with client_of(f"ws://127.0.0.1:{port}") as client:
        await fault_of(client, f"ws://127.0.0.1:{port}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_websocket, handle, "127.0.0.1", port, None)
            assert await client.wait_newer(0) == round_at(1)
            nursery.cancel_scope.cancel()


async def test_two_roots_of_a_moment_prove_who_signed_both() -> None:
    """Rule 41: with two of three, one signer that signs twice makes two valid rounds."""
    second = round_at(1, KEYS[1], KEYS[2], value=2)

    async def late(socket: WebSocketConnection, _after: int) -> None:
        await first_seen.wait()
        await send(socket, second, round_at(2))

    first_seen = trio.Event()
    async with rogue(honest(1)) as one, rogue(late) as two, client_of(one, two) as client:
        assert await client.wait_newer(0) == round_at(1)
        first_seen.set()
        await client.wait_newer(NOW + STEP)
        # The first one stays.
        assert await client.next_after(0) == round_at(1)
        (conflict,) = client.conflicts
        assert (conflict.first, conflict.second) == (round_at(1), second)
        assert conflict.signers == {KEYS[1].address}


async def test_reconnecting_asks_only_for_what_this_signer_has_not_sent() -> None:
    asked: list[int] = []

    async def serve(socket: WebSocketConnection, after: int) -> None:
        asked.append(after)
        await send(socket, round_at(len(asked)))
        await socket.aclose()

    async with rogue(serve) as endpoint, client_of(endpoint, since=NOW) as client:
        await client.wait_newer(NOW + 2 * STEP)
        assert asked[:3] == [NOW, NOW + STEP, NOW + 2 * STEP]
        (health,) = client.health
        assert health.rounds >= 3
        assert isinstance(health.fault, Disconnected)


async def test_plain_text_to_another_machine_is_refused() -> None:
    """Rule 61: the endpoint is not dialled."""
    endpoint = "ws://192.0.2.1:9300"
    elsewhere = replace(oracle(endpoint), plain=False)
    async with open_oracle(elsewhere, since=0, now=lambda: NOW) as client:
        with trio.fail_after(PATIENCE_S):
            fault = await fault_of(client, endpoint)
    assert getattr(fault, "code", "") == "plain-refused"
