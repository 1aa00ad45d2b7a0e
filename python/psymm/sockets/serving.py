"""Accepting WebSockets: admission, TLS, the handshake, and bugs kept to their own connection.

The library's own server lets errors of one connection's reader out of its nursery, and they end
all connections: a ping during the closing handshake is enough. Here each connection has a nursery
of its own, and an error of the library ends that connection alone.

The course of a connection (`_serve_one`): a place for its handshakes, TLS, the WebSocket request,
a place among the connections, then `welcome` until its end.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, wrap_server_stream
from wsproto.utilities import LocalProtocolError

from psymm.errors import TooManyConnections
from psymm.nursery import open_block_nursery
from psymm.sockets.admission import Admission, ConnectionSlot
from psymm.sockets.bounded import BoundedStream, Bounds
from psymm.sockets.tls import Certificate

log = logging.getLogger(__name__)

RECEIVE_BYTES = 64 * 1024
QUEUED_MESSAGES = 32
HANDSHAKE_S = 15.0
RETRY_AFTER_S = 5

_GONE = (ConnectionClosed, LocalProtocolError, OSError)
"""What the library raises if the peer has gone when we answer."""

Tls = ssl.SSLContext | Certificate
Welcome = Callable[[WebSocketRequest, BoundedStream, str, ConnectionSlot], Awaitable[None]]
"""Accepts or rejects a request, and serves it to its end. Receives the peer's address and place."""


async def serve_websockets(
    host: str,
    port: int,
    welcome: Welcome,
    admission: Admission,
    *,
    bounds: Bounds,
    tls: Tls | None = None,
    nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; reports the port.

    Raises OSError if the address cannot be bound, and what `welcome` raises.

    Args:
        nursery: Where connections run. By default a nursery of its own, so that they end with it.
    """
    listeners = await trio.open_tcp_listeners(port, host=host)
    serve = partial(_serve_one, welcome=welcome, admission=admission, bounds=bounds, tls=tls)
    bound: int = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as own:
        await own.start(
            partial(trio.serve_listeners, serve, listeners, handler_nursery=nursery or own)
        )
        task_status.started(bound)


async def _serve_one(
    tcp: trio.SocketStream,
    *,
    welcome: Welcome,
    admission: Admission,
    bounds: Bounds,
    tls: Tls | None,
) -> None:
    """Serve one connection from its first byte to its end. Raises only what `welcome` raises."""
    try:
        address = str(tcp.socket.getpeername()[0])
    except OSError:
        # The peer has gone already.
        await trio.aclose_forcefully(tcp)
        return
    stream: trio.abc.Stream = tcp
    try:
        async with open_block_nursery() as nursery:
            try:
                opened = None
                try:
                    with admission.opening(address):
                        opened = await _open(nursery, tcp, bounds, tls)
                except TooManyConnections:
                    return  # Answer nobody before the handshakes: that would cost us more.
                if opened is None:
                    return
                request, bounded = opened
                stream = bounded
                try:
                    with admission.standing(address) as place:
                        await welcome(request, bounded, address, place)
                except TooManyConnections as refused:
                    # The peer has shown some effort, so tell it when to come back. If it has gone
                    # already, that must end nothing but its own connection.
                    with trio.move_on_after(HANDSHAKE_S), suppress(*_GONE):
                        await request.reject(
                            503,
                            extra_headers=[(b"Retry-After", str(RETRY_AFTER_S).encode())],
                            body=str(refused).encode()[:200],
                        )
            finally:
                # The library's reader ends with its connection.
                nursery.cancel_scope.cancel()
    except ExceptionGroup as group:
        # From the library's reader: something that it did not expect of this peer.
        log.info("connection-broke-rules", extra={"error": type(group.exceptions[0]).__name__})
    finally:
        await trio.aclose_forcefully(stream)


async def _open(
    nursery: trio.Nursery, tcp: trio.SocketStream, bounds: Bounds, tls: Tls | None
) -> tuple[WebSocketRequest, BoundedStream] | None:
    """Do both handshakes within HANDSHAKE_S. None if the peer does not finish them; it gets no
    answer."""
    stream: trio.abc.Stream = tcp
    with trio.move_on_after(HANDSHAKE_S):
        if tls is not None:
            context = tls.context() if isinstance(tls, Certificate) else tls
            encrypted = trio.SSLStream(tcp, context, server_side=True, https_compatible=True)
            try:
                await encrypted.do_handshake()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            stream = encrypted
        bounded = BoundedStream(stream, bounds, client=False)
        request: WebSocketRequest | None = None
        async with trio.open_nursery() as race:

            async def gone() -> None:
                await bounded.ended.wait()
                race.cancel_scope.cancel()

            # The library waits for a request even after the stream has ended. `gone` ends that.
            race.start_soon(gone)
            request = await wrap_server_stream(
                nursery,
                bounded,
                message_queue_size=QUEUED_MESSAGES,
                max_message_size=bounds.message_bytes,
                receive_buffer_size=RECEIVE_BYTES,
            )
            race.cancel_scope.cancel()
        return None if request is None else (request, bounded)
    return None
