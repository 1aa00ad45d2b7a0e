"""Whatever a peer does below the session's messages ends its own connection, and nobody else's."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.lowlevel
from raw_peer import BINARY, CLOSE, MORE, PING, PONG, REQUEST, TEXT, RawPeer, frame, raw_peer
from trio.testing import MockClock, memory_stream_pair

from psymm.errors import FloodingPeer, MessageTooBig, PSymmError
from psymm.session.runtime.transport import BOUNDS, WebSocket, dial, listen
from psymm.sockets.admission import Admission, AdmissionLimits
from psymm.sockets.bounded import BoundedStream, Bounds


class Echo:
    """A server that sends back what comes, and remembers why each connection ended."""

    def __init__(self) -> None:
        self.ends: list[PSymmError] = []
        self.port = 0
        self.admission = Admission()

    async def serve(self, socket: WebSocket) -> None:
        try:
            while True:
                await socket.send(await socket.receive())
        except PSymmError as end:
            self.ends.append(end)

    async def ended(self) -> PSymmError:
        while not self.ends:  # noqa: ASYNC110
            await trio.sleep(0.01)
        return self.ends[0]


@asynccontextmanager
async def open_echo(limits: AdmissionLimits | None = None) -> AsyncGenerator[Echo, None]:
    """A server with a healthy connection that must still answer when the block is over."""
    echo = Echo()
    echo.admission = Admission(limits)

    async def serve(*, task_status: trio.TaskStatus[int]) -> None:
        await listen("127.0.0.1", 0, echo.serve, admission=echo.admission, task_status=task_status)

    async with trio.open_nursery() as nursery:
        echo.port = await nursery.start(serve)
        async with dial(f"ws://127.0.0.1:{echo.port}") as healthy:
            yield echo
            await healthy.send("still here")
            assert await healthy.receive() == "still here"
            async with dial(f"ws://127.0.0.1:{echo.port}") as newcomer:
                await newcomer.send("let in")
                assert await newcomer.receive() == "let in"
        nursery.cancel_scope.cancel()


async def test_a_ping_is_answered() -> None:
    async with open_echo() as echo:
        peer = await raw_peer(echo.port)
        await peer.open()
        await peer.send(frame(PING, b"are you there"))
        assert await peer.stream.receive_some(100) == b"\x8a\x0dare you there"
        await peer.stream.aclose()


async def test_what_the_standard_allows_between_the_parts_of_a_message_is_taken() -> None:
    """A ping between two fragments, and a pong that nobody asked for (RFC 6455, 5.4 and 5.5.3)."""
    async with open_echo() as echo:
        peer = await raw_peer(echo.port)
        await peer.open()
        await peer.send(
            frame(PONG, b"unasked"),
            frame(TEXT, b"two ", final=False),
            frame(PING, b"p"),
            frame(MORE, b"parts"),
        )
        got = b""
        while len(got) < len(b"\x8a\x01p\x81\x09two parts"):
            got += await peer.stream.receive_some(100)
        assert got == b"\x8a\x01p\x81\x09two parts"
        await peer.stream.aclose()


async def test_a_flood_of_pings_is_cut_off_and_named() -> None:
    async with open_echo() as echo:
        peer = await raw_peer(echo.port)
        await peer.open()
        await peer.push(frame(PING) * 1000, times=1000)
        assert b"flooding-peer" in await peer.until_closed()
        assert isinstance(await echo.ended(), FloodingPeer)


async def test_pings_that_nobody_reads_the_answers_of_are_cut_off() -> None:
    async with open_echo() as echo:
        peer = await raw_peer(echo.port)
        await peer.open()
        assert await peer.push(frame(PING, bytes(125)) * 100, times=10_000) < 10_000
        assert isinstance(await echo.ended(), FloodingPeer)


async def test_a_flood_of_empty_fragments_is_cut_off() -> None:
    async with open_echo() as echo:
        peer = await raw_peer(echo.port)
        await peer.open()
        await peer.send(frame(BINARY, final=False))
        await peer.push(frame(MORE, final=False) * 1000, times=1000)
        assert isinstance(await echo.ended(), FloodingPeer)


async def test_a_message_in_tiny_fragments_is_cut_off() -> None:
    async with open_echo() as echo:
        peer = await raw_peer(echo.port)
        await peer.open()
        await peer.send(frame(BINARY, b"\x01", final=False))
        await peer.push(frame(MORE, b"\x01", final=False) * 1000, times=1000)
        assert isinstance(await echo.ended(), FloodingPeer)


async def test_a_giant_message_in_large_fragments_is_cut_off_before_it_is_whole() -> None:
    async with open_echo() as echo:
        peer = await raw_peer(echo.port)
        await peer.open()
        await peer.send(frame(BINARY, bytes(60_000), final=False))
        sent = await peer.push(frame(MORE, bytes(60_000), final=False), times=1000)
        assert sent < 1000
        assert isinstance(await echo.ended(), MessageTooBig)


async def test_a_giant_length_is_refused_by_its_header_alone() -> None:
    async with open_echo() as echo:
        peer = await raw_peer(echo.port)
        await peer.open()
        await peer.send(frame(BINARY, size=1 << 40))
        closing = await peer.until_closed()
        assert struct.pack(">H", 1009) in closing
        assert isinstance(await echo.ended(), MessageTooBig)


async def test_a_ping_during_the_closing_handshake_ends_that_connection_alone() -> None:
    async def hang_up(socket: WebSocket) -> None:
        await socket.aclose()

    async with trio.open_nursery() as nursery:
        port = await nursery.start(listen, "127.0.0.1", 0, hang_up)
        for _ in range(3):
            peer = await raw_peer(port)
            await peer.open()
            await peer.stream.receive_some(100)  # its close frame
            await peer.send(frame(PING), frame(TEXT, b"late"))
            await peer.until_closed()
        async with dial(f"ws://127.0.0.1:{port}"):
            pass
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00" * 20,
        b"GET / HTTP/1.1\r\n\r\n",
        b"nonsense\r\n\r\n",
        REQUEST + b"\r\n" + REQUEST + b"\r\n",
        b"GET /" + b"a" * 100_000,
        REQUEST + b"X: " + b"a" * 100_000,
    ],
    ids=["tls", "plain http", "noise", "twice", "endless target", "endless header"],
)
async def test_a_handshake_that_is_none_ends_that_connection_alone(noise: bytes) -> None:
    async with open_echo() as echo:
        peer = await raw_peer(echo.port)
        await peer.push(noise, times=1)
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(2):
            await peer.until_closed()
        await peer.stream.aclose()


@pytest.mark.parametrize(
    "bad",
    [
        frame(3, b"reserved"),
        frame(TEXT, b"\xff\xfe"),
        frame(MORE, b"of nothing"),
        b"\xc1\x85\x00\x00\x00\x00hello",
        b"\x81\x05hello",
        frame(CLOSE, b"\x00"),
        frame(CLOSE, b"\x00\x01"),
        frame(CLOSE, struct.pack(">H", 1005)),
        frame(CLOSE, struct.pack(">H", 1000) + b"\xff\xfe"),
        frame(TEXT, b"\xed\xa0\x80"),
        frame(PING, bytes(126)),
        frame(BINARY, size=(1 << 63) + 5),
        frame(PING, final=False),
        frame(TEXT, b"a", final=False) + frame(TEXT, b"b"),
    ],
    ids=[
        "reserved opcode",
        "text that is no UTF-8",
        "continuation of nothing",
        "compressed",
        "unmasked",
        "short close",
        "bad close code",
        "a close code that is never sent",
        "a close reason that is no UTF-8",
        "half a character",
        "a ping that is too long",
        "a length of 2^63 and more",
        "fragmented ping",
        "interleaved",
    ],
)
async def test_a_frame_against_the_standard_ends_that_connection_alone(bad: bytes) -> None:
    async with open_echo() as echo:
        peer = await raw_peer(echo.port)
        await peer.open()
        await peer.send(bad)
        await peer.until_closed()
        await echo.ended()


async def reset(port: int, text: bytes) -> None:
    """Send a text and reset the connection at once."""
    peer = await raw_peer(port)
    await peer.stream.send_all(text)
    peer.stream.socket.setsockopt(  # type: ignore[attr-defined]
        trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    await peer.stream.aclose()


async def test_a_peer_that_resets_in_the_middle_of_its_handshake_ends_alone() -> None:
    async with open_echo() as echo:
        for text in (b"garbage", REQUEST, REQUEST + b"\r\n"):
            await reset(echo.port, text)


@pytest.mark.parametrize("more", [b"", b"\x00" * 20, frame(PING, b"") * 3])
async def test_a_peer_that_is_refused_and_has_gone_already_ends_alone(more: bytes) -> None:
    # The healthy connection and the one below are all that one address may hold.
    async with open_echo(AdmissionLimits(per_address=2, limit_loopback=True)) as echo:
        async with dial(f"ws://127.0.0.1:{echo.port}"):
            for refused in range(1, 9):
                await reset(echo.port, REQUEST + b"\r\n" + more)
                while echo.admission.statistics().refused < refused:  # noqa: ASYNC110
                    await trio.sleep(0.01)
        while echo.admission.statistics().standing > 1:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_compression_is_never_agreed() -> None:
    async with open_echo() as echo:
        peer = await raw_peer(echo.port)
        answer = await peer.open(
            b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
        )
        assert b" 101 " in answer
        assert b"extensions" not in answer.lower()
        await peer.stream.aclose()


@pytest.mark.parametrize("said", [b"", REQUEST + b"A: b\r\n" * 1000], ids=["nothing", "slowly"])
async def test_connections_that_never_speak_are_closed_and_give_their_places_back(
    autojump_clock: MockClock, said: bytes
) -> None:
    """Through memory: autojump must see that everybody waits."""
    from psymm.sockets.serving import HANDSHAKE_S, _open

    near, far = memory_stream_pair()

    async def speak() -> None:
        for one in said:
            await near.send_all(bytes([one]))
            await trio.sleep(0.2)

    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        nursery.start_soon(speak)
        assert await _open(nursery, far, BOUNDS, None) is None  # type: ignore[arg-type]
        assert trio.current_time() - began == HANDSHAKE_S
        nursery.cancel_scope.cancel()


async def test_a_handshake_flood_takes_no_more_than_its_places() -> None:
    limits = AdmissionLimits(opening=4)
    async with open_echo(limits) as echo:
        silent = [await raw_peer(echo.port) for _ in range(12)]
        turned_away = 0
        with trio.move_on_after(300):
            async with trio.open_nursery() as nursery:

                async def watch(peer: RawPeer) -> None:
                    nonlocal turned_away
                    await peer.until_closed()
                    turned_away += 1
                    if turned_away == 8:
                        nursery.cancel_scope.cancel()

                for peer in silent:
                    nursery.start_soon(watch, peer)
        assert turned_away == 8
        assert echo.admission.statistics().opening == 4
        for peer in silent:
            await peer.stream.aclose()
        while echo.admission.statistics().opening:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_one_address_that_opens_and_says_nothing_keeps_no_other_out() -> None:
    """`spec.md` 70: a slow loris has its own places and no more, however often it comes."""
    limits = AdmissionLimits(opening=24, limit_loopback=True)
    echo = Echo()
    echo.admission = Admission(limits)

    async def serve(*, task_status: trio.TaskStatus[int]) -> None:
        await listen("127.0.0.1", 0, echo.serve, admission=echo.admission, task_status=task_status)

    async with trio.open_nursery() as nursery:
        echo.port = await nursery.start(serve)
        silent = [
            RawPeer(
                await trio.open_tcp_stream("127.0.0.1", echo.port, local_address=f"127.0.0.{at}")
            )
            for at in (9, 10)
            for _ in range(40)
        ]
        for half in silent[::3]:
            with suppress(trio.BrokenResourceError):
                await half.stream.send_all(b"GET / HTTP/1.1\r\nX-Never-Ends: ")
        newcomer = RawPeer(
            await trio.open_tcp_stream("127.0.0.1", echo.port, local_address="127.0.0.2")
        )
        with trio.fail_after(300):
            assert b" 101 " in await newcomer.open()
        assert echo.admission.statistics().opening <= limits.opening
        for peer in silent:
            await peer.stream.aclose()
        nursery.cancel_scope.cancel()


async def test_what_nobody_takes_stops_being_read(autojump_clock: MockClock) -> None:
    """Backpressure in bytes: a peer cannot fill memory with messages that wait."""
    near, far = memory_stream_pair()
    bounds = Bounds(message_bytes=1000, unread_bytes=2000, small_frames=10_000)
    stream = BoundedStream(far, bounds, client=False)
    await near.send_all(REQUEST + b"\r\n")
    await stream.receive_some()
    read = 0
    with trio.move_on_after(0.2):
        while True:
            await near.send_all(frame(BINARY, bytes(900)))
            await stream.receive_some()
            read += 1
    assert read == 3
    assert stream.unread_bytes == 2700
    stream.took_message()
    with trio.fail_after(300):
        await stream.receive_some()


async def test_a_burst_within_the_bounds_passes() -> None:
    async with open_echo() as echo:
        async with dial(f"ws://127.0.0.1:{echo.port}") as socket:
            for number in range(500):
                await socket.send(f"{number}")
                assert await socket.receive() == f"{number}"
        await echo.ended()
        assert not isinstance(echo.ends[0], FloodingPeer)
