"""Real sockets: what cannot be reached, what is too big, and too many at once, have names."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from psymm.errors import Disconnected, MessageTooBig, ServerBusy
from psymm.session.runtime.transport import MAX_MESSAGE_BYTES, WebSocket, dial, listen, over_streams
from psymm.sockets.admission import Admission, AdmissionLimits


async def nothing() -> None:
    async with dial("ws://127.0.0.1:9"):
        raise AssertionError("somebody listens on the discard port")


async def elsewhere() -> None:
    async with dial("http://127.0.0.1:9"):
        raise AssertionError("an http address was dialled")


async def test_nobody_listening_is_named() -> None:
    with pytest.raises(Disconnected, match="no connection"):
        await nothing()


async def test_an_address_that_is_no_websocket_is_named() -> None:
    with pytest.raises(Disconnected, match="ws://"):
        await elsewhere()


async def echo(socket: WebSocket) -> None:
    try:
        while True:
            await socket.send(await socket.receive())
    except (Disconnected, MessageTooBig):
        return


async def test_messages_pass_and_a_giant_one_ends_its_own_connection_only() -> None:
    async with trio.open_nursery() as nursery:
        port = await nursery.start(listen, "127.0.0.1", 0, echo)
        address = f"ws://127.0.0.1:{port}"
        async with dial(address) as good, dial(address) as bad:
            await good.send(b"\x01" * 1000)
            assert await good.receive() == b"\x01" * 1000
            with pytest.raises((Disconnected, MessageTooBig)):
                await overwhelm(bad)
            await good.send("still here")
            assert await good.receive() == "still here"
        nursery.cancel_scope.cancel()


async def overwhelm(socket: WebSocket) -> None:
    await socket.send(b"\x00" * (MAX_MESSAGE_BYTES + 1))
    await socket.receive()


async def test_connections_above_the_limit_are_turned_away() -> None:
    async def limited(*, task_status: trio.TaskStatus[int]) -> None:
        limits = AdmissionLimits(connections=1)
        await listen("127.0.0.1", 0, echo, admission=Admission(limits), task_status=task_status)

    async def second(port: int) -> None:
        async with dial(f"ws://127.0.0.1:{port}"):
            raise AssertionError("a second connection was accepted")

    async with trio.open_nursery() as nursery:
        port = await nursery.start(limited)
        async with dial(f"ws://127.0.0.1:{port}") as first:
            await first.send("hello")
            assert await first.receive() == "hello"
            with pytest.raises(ServerBusy) as busy:
                await second(port)
            assert busy.value.values["status"] == 503
        nursery.cancel_scope.cancel()


async def test_an_error_inside_the_block_comes_out_as_itself() -> None:
    async def fail(port: int) -> None:
        async with dial(f"ws://127.0.0.1:{port}"):
            raise KeyError("mine")

    async with trio.open_nursery() as nursery:
        port = await nursery.start(listen, "127.0.0.1", 0, echo)
        with pytest.raises(KeyError, match="mine"):
            await fail(port)
        nursery.cancel_scope.cancel()


async def tcp_pair(nursery: trio.Nursery) -> tuple[WebSocket, WebSocket]:
    near, far = trio.socket.socketpair()
    return await over_streams(nursery, trio.SocketStream(near), trio.SocketStream(far))


async def test_what_is_sent_at_once_comes_in_order_also_where_the_peer_was_slow() -> None:
    async with trio.open_nursery() as nursery:
        for near, far in (pair := await tcp_pair(nursery)), pair[::-1]:
            messages = [bytes([n % 256]) * 60_000 for n in range(40)]
            waited = 0

            async def send(near: WebSocket = near, messages: list[bytes] = messages) -> None:
                nonlocal waited
                for message in messages:
                    if not near.send_now(message):
                        waited += 1
                        await near.send(message)

            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            assert [await far.receive() for _ in messages] == messages
            assert waited
        nursery.cancel_scope.cancel()


async def test_nothing_goes_before_what_was_sent_in_part() -> None:
    async with trio.open_nursery() as nursery:
        near, far = await tcp_pair(nursery)
        sent = 0
        while near.send_now(b"x" * 60_000):
            sent += 1
        assert not near.send_now("text")
        async with trio.open_nursery() as both:
            both.start_soon(near.send, b"x" * 60_000)
            for _ in range(sent):
                assert await far.receive() == b"x" * 60_000
        nursery.cancel_scope.cancel()


async def test_on_a_connection_that_is_over_nothing_is_sent_at_once() -> None:
    async with trio.open_nursery() as nursery:
        near, far = await tcp_pair(nursery)
        await far.aclose()
        with pytest.raises(Disconnected):
            await near.receive()
        assert not near.send_now("text")
        with pytest.raises(Disconnected):
            await near.send("text")
        nursery.cancel_scope.cancel()


async def test_what_is_diverted_comes_in_order_and_is_felt_as_backpressure() -> None:
    async with trio.open_nursery() as nursery:
        near, far = await tcp_pair(nursery)
        for n in range(3):
            assert near.send_now(str(n))
        await trio.testing.wait_all_tasks_blocked()
        taken: list[str | bytes] = []
        room = trio.Event()

        async def take(message: str | bytes) -> None:
            taken.append(message)
            await room.wait()

        assert far.received() == ["0", "1", "2"]
        far.divert(take)
        nursery.start_soon(far.receive)  # raises once the connection ends, and gives nothing
        for n in range(3, 6):
            assert near.send_now(str(n))
        await trio.testing.wait_all_tasks_blocked()
        assert taken == ["3"]
        assert far.unread_bytes
        room.set()
        await trio.testing.wait_all_tasks_blocked()
        assert taken == ["3", "4", "5"]
        assert not far.unread_bytes
        nursery.cancel_scope.cancel()
