"""WebSockets as sessions use them: bounded in size and queue, and with one named error.

trio-websocket's defaults (4 KiB receive buffer, a queue of one) slow a session down; ours are set
here and nowhere else.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, Protocol
from urllib.parse import urlsplit

import trio
from trio_websocket import (
    ConnectionClosed,
    HandshakeError,
    WebSocketConnection,
    WebSocketRequest,
    connect_websocket_url,
    serve_websocket,
    wrap_client_stream,
    wrap_server_stream,
)

from psymm.errors import Disconnected
from psymm.nursery import open_block_nursery

MAX_MESSAGE_BYTES: Final = 512 * 1024
"""Above the longest text there is: terms of 128 KiB in hexadecimal."""
MAX_BURST_BYTES: Final = 256 * 1024
"""Frames are sent back to back in messages up to this."""
QUEUED_MESSAGES: Final = 32
RECEIVE_BYTES: Final = 64 * 1024
HANDSHAKE_S: Final = 15.0
GOODBYE_S: Final = 5.0


class Socket(Protocol):
    """A connection to a peer that carries texts and binary messages."""

    async def send(self, message: str | bytes) -> None:
        """Raises Disconnected. Cancelled: the message may be cut off, so the socket is of no
        further use."""
        ...

    async def receive(self) -> str | bytes:
        """The next message. Raises Disconnected. Cancelled: no message is lost."""
        ...

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye and close. Never raises. Cancelled: closed without a goodbye."""
        ...


class WebSocket:
    """A `Socket` over trio-websocket."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self._connection = connection

    @property
    def remote(self) -> str:
        return str(self._connection.remote)

    async def send(self, message: str | bytes) -> None:
        """See `Socket.send`."""
        try:
            await self._connection.send_message(message)
        except ConnectionClosed as closed:
            raise _disconnected(closed) from None
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise Disconnected() from None

    async def receive(self) -> str | bytes:
        """See `Socket.receive`."""
        try:
            return await self._connection.get_message()
        except ConnectionClosed as closed:
            raise _disconnected(closed) from None
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise Disconnected() from None

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """See `Socket.aclose`."""
        with trio.move_on_after(GOODBYE_S):
            try:
                await self._connection.aclose(code, reason.encode()[:120].decode(errors="ignore"))
            except (ConnectionClosed, OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                return


@asynccontextmanager
async def dial(endpoint: str, tls: ssl.SSLContext | None = None) -> AsyncGenerator[WebSocket, None]:
    """Connect to ws:// or wss:// (certificate verified).

    Raises Disconnected if nobody answers within HANDSHAKE_S. Leaving closes the connection.
    Cancelled: the connection is closed.
    """
    if urlsplit(endpoint).scheme not in ("ws", "wss"):
        raise Disconnected("an endpoint is a ws:// or wss:// address", endpoint=endpoint)
    failed: str | None = None
    try:
        async with open_block_nursery() as nursery:
            connection: WebSocketConnection | None = None
            try:
                with trio.fail_after(HANDSHAKE_S):
                    connection = await connect_websocket_url(
                        nursery,
                        endpoint,
                        ssl_context=tls,
                        message_queue_size=QUEUED_MESSAGES,
                        max_message_size=MAX_MESSAGE_BYTES,
                        receive_buffer_size=RECEIVE_BYTES,
                    )
            except (OSError, HandshakeError, ValueError, trio.TooSlowError) as refused:
                failed = str(refused) or type(refused).__name__
            if connection is not None:
                socket = WebSocket(connection)
                try:
                    yield socket
                finally:
                    with trio.CancelScope(shield=True):
                        await socket.aclose()
                    nursery.cancel_scope.cancel()
    except ExceptionGroup as group:
        # The library's reader raises in our nursery, for one where the handshake is refused.
        theirs, others = group.split((HandshakeError, ConnectionClosed, OSError))
        if theirs is None or others is not None:
            raise
        failed = repr(theirs.exceptions[0])
    if failed is not None:
        raise Disconnected(f"no connection to the peer: {failed}", endpoint=endpoint)


async def listen(
    host: str,
    port: int,
    serve: Callable[[WebSocket], Awaitable[None]],
    *,
    tls: ssl.SSLContext | None = None,
    connections: int = 1024,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve every connection with `serve`, at most `connections` at once; reports the port.

    `serve` must not raise. Runs until cancelled; then all connections are closed.
    """
    slots = trio.Semaphore(connections)

    async def accept(request: WebSocketRequest) -> None:
        try:
            slots.acquire_nowait()
        except trio.WouldBlock:
            await request.reject(503, body=b"busy")
            return
        try:
            connection = await request.accept()
            await serve(WebSocket(connection))
        except (ConnectionClosed, HandshakeError, OSError, trio.BrokenResourceError):
            return
        finally:
            slots.release()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            _serve_websocket, accept, host, port, tls, handler_nursery or nursery
        )
        task_status.started(server.port)


async def _serve_websocket(
    accept: Callable[[WebSocketRequest], Awaitable[None]],
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    handler_nursery: trio.Nursery,
    *,
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> None:
    await serve_websocket(
        accept,
        host,
        port,
        tls,
        handler_nursery=handler_nursery,
        message_queue_size=QUEUED_MESSAGES,
        max_message_size=MAX_MESSAGE_BYTES,
        receive_buffer_size=RECEIVE_BYTES,
        connect_timeout=HANDSHAKE_S,
        disconnect_timeout=GOODBYE_S,
        task_status=task_status,
    )


async def over_streams(
    nursery: trio.Nursery, client: trio.abc.Stream, server: trio.abc.Stream
) -> tuple[WebSocket, WebSocket]:
    """Both ends of a WebSocket over two ends of a stream, with the sizes used on the net."""
    accepted: list[WebSocket] = []

    async def accept() -> None:
        request = await wrap_server_stream(
            nursery,
            server,
            message_queue_size=QUEUED_MESSAGES,
            max_message_size=MAX_MESSAGE_BYTES,
            receive_buffer_size=RECEIVE_BYTES,
        )
        accepted.append(WebSocket(await request.accept()))

    async with trio.open_nursery() as handshake:
        handshake.start_soon(accept)
        connected = WebSocket(
            await wrap_client_stream(
                nursery,
                client,  # type: ignore[arg-type]  # any stream will do
                "peer",
                "/",
                message_queue_size=QUEUED_MESSAGES,
                max_message_size=MAX_MESSAGE_BYTES,
                receive_buffer_size=RECEIVE_BYTES,
            )
        )
    return connected, accepted[0]


def _disconnected(closed: ConnectionClosed) -> Disconnected:
    reason = closed.reason
    if reason is None:
        return Disconnected()
    said = reason.reason or reason.name
    return Disconnected(f"the peer closed the connection: {said}", close_code=reason.code)
