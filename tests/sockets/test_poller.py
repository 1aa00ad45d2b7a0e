"""Reading by the poller looks the same as reading by each connection's own task."""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from raw_peer import BINARY, CLOSE, REQUEST, TEXT, frame

from psymm.errors import FloodingPeer
from psymm.session.runtime.transport import WebSocket, over_streams
from psymm.sockets.bounded import BoundedStream, Bounds
from psymm.sockets.poller import Poller

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no epoll")


class Connection:
    """A client's socket, and our stream whose reader does as the WebSocket library's does."""

    def __init__(self, poller: Poller, bounds: Bounds) -> None:
        near, far = trio.socket.socketpair()
        self.near = trio.SocketStream(near)
        self.far = trio.SocketStream(far)
        self.stream = BoundedStream(self.far, bounds, client=False)
        self.poller = poller
        self.offered: list[bytes] = []
        self.taken: list[bytes] = []
        self.library = b""
        self.room = True
        self.more_room = trio.Event()
        self.end: Exception | None = None
        self.bug: Exception | None = None

    async def begin(self, nursery: trio.Nursery) -> None:
        await self.near.send_all(REQUEST + b"\r\n")
        await self.stream.receive_some()
        self.stream.divert(self.take, self.poller, self.offer)
        nursery.start_soon(self.read)

    async def read(self) -> None:
        try:
            while data := await self.stream.receive_some():
                self.library += data
        except Exception as end:
            self.end = end

    def offer(self, message: bytes) -> bool:
        if self.bug is not None:
            raise self.bug
        if self.room:
            self.offered.append(message)
        return self.room

    async def take(self, message: bytes) -> None:
        if not self.room:
            await self.more_room.wait()
        self.taken.append(message)


@asynccontextmanager
async def connections(
    many: int, bounds: Bounds | None = None
) -> AsyncGenerator[tuple[list[Connection], Poller], None]:
    poller = Poller()
    async with trio.open_nursery() as nursery:
        found = [Connection(poller, bounds or Bounds()) for _ in range(many)]
        for one in found:
            await one.begin(nursery)
        await trio.testing.wait_all_tasks_blocked()
        # A reader that began to wait when it was alone still waits for itself.
        for one in found:
            await one.near.send_all(frame(TEXT))
        await settle()
        for one in found:
            one.library = b""
        yield found, poller
        nursery.cancel_scope.cancel()
    for one in found:
        await one.stream.aclose()
    assert not poller._ready


async def settle() -> None:
    for _ in range(3):
        await trio.testing.wait_all_tasks_blocked(0.005)


async def test_whole_messages_of_many_sockets_are_offered_and_wake_no_reader() -> None:
    async with connections(50) as (found, poller):
        assert len(poller._ready) == 50
        for number in range(4):
            for one in found:
                await one.near.send_all(frame(BINARY, b"%d" % number))
            await settle()
        for one in found:
            assert one.offered == [b"0", b"1", b"2", b"3"]
            assert not one.taken
            assert not one.library


async def test_what_has_no_room_goes_to_the_reader_and_nothing_more_is_read() -> None:
    async with connections(2) as ([full, other], poller):
        full.room = False
        for number in range(3):
            await full.near.send_all(frame(BINARY, b"%d" % number))
            await settle()
        await other.near.send_all(frame(BINARY, b"other"))
        await settle()
        assert other.offered == [b"other"]
        assert full.offered == full.taken == []
        assert full.stream.unread_bytes == 1
        assert len(poller._ready) == 1
        full.room = True
        full.more_room.set()
        await settle()
        await full.near.send_all(frame(BINARY, b"3"))
        await settle()
        assert [*full.taken, *full.offered] == [b"0", b"1", b"2", b"3"]
        assert len(poller._ready) == 2


@pytest.mark.parametrize("seed", range(4))
async def test_the_order_is_kept_however_the_bytes_come(seed: int) -> None:
    rng = random.Random(seed)
    poller = Poller()
    messages: list[str | bytes] = [
        f"text {n}" if rng.random() < 0.2 else os.urandom(rng.choice((1, 200, 5_000, 70_000)))
        for n in range(100)
    ]
    async with trio.open_nursery() as nursery:
        one, other = trio.socket.socketpair()
        ends = await over_streams(nursery, trio.SocketStream(one), trio.SocketStream(other))
        got: list[list[str | bytes]] = [[], []]
        offers = 0
        for end, mine in zip(ends, got, strict=True):

            async def take(message: str | bytes, mine: list[str | bytes] = mine) -> None:
                await trio.lowlevel.checkpoint()
                mine.append(message)

            def offer(message: bytes, mine: list[str | bytes] = mine) -> bool:
                nonlocal offers
                if rng.random() < 0.2:
                    return False
                offers += 1
                mine.append(message)
                return True

            end.divert(take, poller, offer)

        async def send(end: WebSocket) -> None:
            for message in messages:
                await end.send(message)
                if rng.random() < 0.5:
                    await settle()

        async with trio.open_nursery() as senders:
            for end in ends:
                senders.start_soon(send, end)
        await settle()
        assert got == [messages, messages]
        assert offers > 20
        for end in ends:
            assert not end.unread_bytes
        nursery.cancel_scope.cancel()


async def test_a_cut_message_a_close_and_the_end_go_to_the_reader() -> None:
    async with connections(2) as ([one, _], poller):
        whole = frame(BINARY, b"whole")
        await one.near.send_all(whole[:4])
        await settle()
        await one.near.send_all(whole[4:])
        await settle()
        assert one.library == whole
        one.library = b""
        await one.near.send_all(frame(CLOSE, b"\x03\xe8"))
        await settle()
        await one.near.send_all(whole)
        await settle()
        assert one.library == frame(CLOSE, b"\x03\xe8") + whole
        assert not one.offered
        await one.near.aclose()
        await settle()
        assert one.stream.ended.is_set()
        assert len(poller._ready) == 1


async def test_a_peer_that_floods_is_cut_off_and_no_other() -> None:
    async with connections(2, Bounds(small_frames=10)) as ([one, other], _):
        for _ in range(30):
            await one.near.send_all(frame(BINARY, b"x"))
            await settle()
        assert isinstance(one.stream.fault, FloodingPeer)
        assert isinstance(one.end, trio.BrokenResourceError)
        assert 15 < len(one.offered) < 30
        await other.near.send_all(frame(BINARY, b"x"))
        await settle()
        assert other.offered == [b"x"]


async def test_a_closed_socket_is_forgotten_before_its_number_is_used_again() -> None:
    async with connections(3) as (found, poller):
        closed, _, _ = found
        number = closed.far.socket.fileno()
        # No lower number may be free, or the next socket gets that one.
        gc.collect()
        lower = [os.dup(0)]
        while lower[-1] < number:
            lower.append(os.dup(0))
        await closed.stream.aclose()
        async with trio.open_nursery() as nursery:
            again = Connection(poller, Bounds())
            for one in lower:
                os.close(one)
            assert number in (again.far.socket.fileno(), again.near.socket.fileno())
            await again.begin(nursery)
            await settle()
            assert isinstance(closed.end, trio.ClosedResourceError)
            await again.near.send_all(frame(BINARY, b"mine"))
            await settle()
            assert again.offered == [b"mine"]
            assert not closed.offered
            nursery.cancel_scope.cancel()
        await again.stream.aclose()


async def test_a_bug_in_the_taker_ends_its_own_reader() -> None:
    async with connections(2) as ([one, other], _):
        one.bug = KeyError("bug")
        for each in (one, other):
            await each.near.send_all(frame(BINARY, b"x"))
        await settle()
        assert one.end is one.bug
        assert other.offered == [b"x"]
