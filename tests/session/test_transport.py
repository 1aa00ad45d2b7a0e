"""Real sockets: what cannot be reached, what is too big, and too many at once, have names."""

from __future__ import annotations

import pytest
import trio

from psymm.errors import Disconnected, MessageTooBig, ServerBusy
from psymm.session.transport import MAX_MESSAGE_BYTES, WebSocket, dial, listen
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
