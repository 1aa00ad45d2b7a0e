"""The frame that we read and write ourselves is the library's, and nothing else passes for it."""

from __future__ import annotations

import os
import random

import pytest
import trio
from raw_peer import BINARY, CLOSE, REQUEST, frame
from trio.testing import memory_stream_pair
from wsproto.frame_protocol import FrameProtocol, Opcode

from psymm.errors import FloodingPeer, MessageTooBig, PSymmError
from psymm.session.runtime.transport import over_streams
from psymm.sockets.bounded import BoundedStream, Bounds
from psymm.sockets.framing import LONGEST, binary_at, binary_frame, masked

SIZES = (1, 2, 125, 126, 127, 4_000, LONGEST)


def library(*, client: bool) -> FrameProtocol:
    return FrameProtocol(client, [])


@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_what_we_frame_the_library_reads(size: int, client: bool) -> None:
    payload = os.urandom(size)
    reader = library(client=not client)
    reader.receive_bytes(binary_frame(payload, client=client))
    (frame,) = reader.received_frames()
    assert (frame.opcode, frame.payload) == (Opcode.BINARY, payload)
    assert frame.frame_finished
    assert frame.message_finished


@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_what_the_library_frames_we_read(size: int, client: bool) -> None:
    payload = os.urandom(size)
    data = b"before" + bytes(library(client=client).send_data(payload)) + b"after"
    found = binary_at(data, 6, masked=client)
    assert found is not None
    begins, ends = found
    assert data[ends:] == b"after"
    shown = data[begins:ends]
    assert (masked(shown, data[begins - 4 : begins]) if client else shown) == payload
    # Cut anywhere, it is not whole.
    for cut in {7, 8, 9, 10, begins, begins + size // 2, ends - 1}:
        assert cut >= ends or binary_at(data[:cut], 6, masked=client) is None


@pytest.mark.parametrize(
    "head",
    [
        b"\x81\x02",  # a text
        b"\x02\x02",  # a fragment that more follow
        b"\x80\x02",  # a continuation
        b"\x89\x02",  # a ping
        b"\x88\x02",  # a close
        b"\xc2\x02",  # an extension
        b"\x82\x00",  # empty
        b"\x82\x7e\x00\x02",  # a length in more bytes than it takes
        b"\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x02",
    ],
)
@pytest.mark.parametrize("mask", [True, False])
def test_anything_else_is_left_to_the_library(head: bytes, mask: bool) -> None:
    bit = 0x80 if mask else 0
    rest = (b"\0\0\0\0" if mask else b"") + b"ab" + b"\0" * 200
    data = head[:1] + bytes((head[1] | bit,)) + head[2:] + rest
    assert binary_at(data, 0, masked=mask) is None
    # And the right frame, masked by who must not or not masked by who must.
    right = bytes((0x82, 2 | bit)) + rest
    assert binary_at(right, 0, masked=mask) is not None
    assert binary_at(right, 0, masked=not mask) is None


class Chopped(trio.abc.Stream):
    """Delivers what comes in pieces of any size, as a network may."""

    def __init__(self, inner: trio.abc.Stream, seed: int) -> None:
        self._inner = inner
        self._random = random.Random(seed)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        most = self._random.choice((1, 3, 7, 40, 1_000, 60_000))
        return bytes(await self._inner.receive_some(most))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._inner.aclose()


@pytest.mark.parametrize("seed", range(6))
async def test_both_ways_together_keep_the_order_however_the_bytes_come(seed: int) -> None:
    rng = random.Random(seed)
    messages: list[str | bytes] = [
        f"text {n}" if rng.random() < 0.3 else os.urandom(rng.choice((1, 100, 126, 500, 70_000)))
        for n in range(60)
    ]
    async with trio.open_nursery() as nursery:
        one, other = memory_stream_pair()
        near, far = await over_streams(nursery, Chopped(one, seed), Chopped(other, ~seed))
        for sender, receiver in ((near, far), (far, near)):
            taken: list[str | bytes] = []

            async def take(message: str | bytes, taken: list[str | bytes] = taken) -> None:
                await trio.lowlevel.checkpoint()
                taken.append(message)

            receiver.divert(take)
            for message in messages:
                await sender.send(message)
            await trio.testing.wait_all_tasks_blocked()
            assert taken == messages
            assert not receiver.unread_bytes
        nursery.cancel_scope.cancel()


async def diverted(bounds: Bounds) -> tuple[trio.abc.Stream, BoundedStream, list[bytes]]:
    """A client's end, our end behind the handshake, and what that gives to its taker."""
    near, far = memory_stream_pair()
    stream = BoundedStream(far, bounds, client=False)
    await near.send_all(REQUEST + b"\r\n")
    await stream.receive_some()
    taken: list[bytes] = []

    async def take(message: bytes) -> None:
        await trio.lowlevel.checkpoint()
        taken.append(message)

    stream.divert(take)
    return near, stream, taken


@pytest.mark.parametrize(
    ("data", "most", "fault"),
    [
        (frame(BINARY, b"x") * 50, 20, FloodingPeer),
        (frame(BINARY, bytes(900)) + frame(BINARY, bytes(1_001)), 1, MessageTooBig),
    ],
)
async def test_the_short_cut_has_the_same_bounds(
    data: bytes, most: int, fault: type[PSymmError]
) -> None:
    near, stream, taken = await diverted(Bounds(message_bytes=1_000, small_frames=10))
    await near.send_all(data)
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    assert isinstance(stream.fault, fault)
    assert len(taken) == most


async def test_after_a_close_frame_nothing_is_taken() -> None:
    one = frame(BINARY, b"one")
    near, stream, taken = await diverted(Bounds())
    await near.send_all(one + frame(CLOSE, b"\x03\xe8") + one)
    assert await stream.receive_some()
    await near.send_all(one)
    assert await stream.receive_some() == one
    assert taken == [b"one"]


async def test_while_one_message_is_taken_nothing_more_is_read() -> None:
    near, stream, _ = await diverted(Bounds())
    taken: list[bytes] = []
    room = trio.Event()

    async def take(message: bytes) -> None:
        taken.append(message)
        await room.wait()

    stream.divert(take)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive_some)
        for _ in range(3):
            await near.send_all(frame(BINARY, bytes(500)))
            await trio.testing.wait_all_tasks_blocked()
        assert (len(taken), stream.unread_bytes) == (1, 500)
        room.set()
        await trio.testing.wait_all_tasks_blocked()
        assert (len(taken), stream.unread_bytes) == (3, 0)
        nursery.cancel_scope.cancel()
