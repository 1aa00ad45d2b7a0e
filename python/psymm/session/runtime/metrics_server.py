"""Serves metrics over HTTP: `GET /metrics` and nothing else.

It has its own port and no effect on sessions. We read a few kilobytes of request at most, answer in
one piece and close the connection. Few connections are served at once, and none for long. There is
no authentication, so bind it to a loopback or otherwise private address.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import h11
import trio

from psymm.session.runtime.metrics import CONTENT_TYPE

MOST_CONNECTIONS: Final = 8
REQUEST_S: Final = 5.0
_RECEIVE_BYTES: Final = 4096
_MOST_HEAD_BYTES: Final = 8192


async def serve_metrics(
    text: Callable[[], bytes],
    host: str,
    port: int,
    *,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve what `text` returns, until cancelled; reports the port.

    Raises OSError if the address cannot be bound. Never raises for what a client does.
    Cancelled: connections close.
    """
    room = trio.CapacityLimiter(MOST_CONNECTIONS)
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, partial(_answer, text, room), port, host=host)
        )
        bound: int = listeners[0].socket.getsockname()[1]
        task_status.started(bound)


async def _answer(
    text: Callable[[], bytes], room: trio.CapacityLimiter, stream: trio.SocketStream
) -> None:
    """Serve one connection, if there is room, for REQUEST_S at most."""
    try:
        room.acquire_nowait()
    except trio.WouldBlock:
        # Close at once rather than let requests queue up.
        await trio.aclose_forcefully(stream)
        return
    try:
        # A client that sends its request byte by byte would otherwise keep its place for ever.
        with trio.move_on_after(REQUEST_S):
            await _exchange(text, stream)
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        room.release()


async def _exchange(text: Callable[[], bytes], stream: trio.SocketStream) -> None:
    """Read one request and answer it."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_HEAD_BYTES)
    try:
        request = await _request(connection, stream)
    except h11.RemoteProtocolError as bad:
        await _say(connection, stream, bad.error_status_hint or 400, b"")
        return
    if request is None:
        return
    path, _, _ = request.target.partition(b"?")
    if request.method != b"GET":
        await _say(connection, stream, 405, b"")
    elif path != b"/metrics":
        await _say(connection, stream, 404, b"")
    else:
        await _say(connection, stream, 200, text())


async def _request(connection: h11.Connection, stream: trio.SocketStream) -> h11.Request | None:
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        connection.receive_data(await stream.receive_some(_RECEIVE_BYTES))


async def _say(
    connection: h11.Connection, stream: trio.SocketStream, status: int, body: bytes
) -> None:
    # After a protocol error h11 may not allow an answer any more.
    if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    headers = [("Content-Length", str(len(body))), ("Connection", "close")]
    headers += [("Content-Type", CONTENT_TYPE)] if status == 200 else []
    headers += [("Allow", "GET")] if status == 405 else []
    parts = [
        connection.send(h11.Response(status_code=status, headers=headers)),
        connection.send(h11.Data(data=body)),
        connection.send(h11.EndOfMessage()),
    ]
    await stream.send_all(b"".join(part for part in parts if part))
