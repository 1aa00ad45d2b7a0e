"""WebSockets as sessions use them: bounded in size and queue, and with one named error.

trio-websocket's defaults (4 KiB receive buffer, a queue of one) slow a session down; ours are set
here and nowhere else.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol

import trio
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    wrap_client_stream,
    wrap_server_stream,
)
from wsproto.frame_protocol import FrameProtocol
from wsproto.utilities import LocalProtocolError

from psymm.errors import Disconnected, PeerLeft, PSymmError
from psymm.sockets.admission import Admission, ConnectionSlot
from psymm.sockets.bounded import BoundedStream, Bounds
from psymm.sockets.dialling import dial_websocket
from psymm.sockets.serving import (
    HANDSHAKE_S,
    QUEUED_MESSAGES,
    RECEIVE_BYTES,
    Tls,
    serve_websockets,
)

MAX_MESSAGE_BYTES: Final = 512 * 1024
"""Above the longest text there is: terms of 128 KiB in hexadecimal."""
MAX_BURST_BYTES: Final = 256 * 1024
"""Frames are sent back to back in messages up to this."""
GOODBYE_S: Final = 5.0
GOING_AWAY: Final = 1001
"""RFC 6455's code of an end that leaves: here, one that will be back."""
BOUNDS: Final = Bounds(message_bytes=MAX_MESSAGE_BYTES)


class Socket(Protocol):
    """A connection to a peer that carries texts and binary messages."""

    async def send(self, message: str | bytes) -> None:
        """Raises as `receive`. Cancelled: the message may be cut off, so the socket is of no
        further use."""
        ...

    async def receive(self) -> str | bytes:
        """The next message. Raises Disconnected, or the PeerViolation that cut the peer off.
        Cancelled: no message is lost."""
        ...

    @property
    def unread_bytes(self) -> int:
        """Received and not yet taken by `receive`."""
        ...

    def allow(self, small_frames: int) -> None:
        """How many short messages the peer may send a second from now on."""
        ...

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye and close. Never raises. Cancelled: closed without a goodbye."""
        ...


Take = Callable[[str | bytes], Awaitable[None]]


class WebSocket:
    """A `Socket` over trio-websocket, with two shorter ways beside it: `send_now` and `divert`.

    remote: the peer's address. place: among the connections of the listener, without limits where
    we dialled.
    """

    def __init__(
        self,
        connection: WebSocketConnection,
        stream: BoundedStream,
        remote: str = "",
        place: ConnectionSlot | None = None,
    ) -> None:
        self.remote = remote
        self.place = place or ConnectionSlot()
        self._connection = connection
        self._stream = stream
        # Data messages without extensions are the same whoever frames them, so ours need not pass
        # the connection's lock.
        self._framing = FrameProtocol(connection.is_client, [])
        self._half: str | bytes | None = None

    @property
    def unread_bytes(self) -> int:
        """See `Socket.unread_bytes`."""
        return self._stream.unread_bytes

    def allow(self, small_frames: int) -> None:
        """See `Socket.allow`."""
        self._stream.allow(small_frames)

    async def send(self, message: str | bytes) -> None:
        """See `Socket.send`."""
        try:
            if message is self._half:
                self._half = None
                await self._stream.send_all(b"")
            else:
                await self._connection.send_message(message)
        except ConnectionClosed as closed:
            raise self._disconnected(closed) from None
        except (OSError, LocalProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise self._disconnected(None) from None

    async def receive(self) -> str | bytes:
        """See `Socket.receive`."""
        try:
            message = await self._connection.get_message()
        except ConnectionClosed as closed:
            raise self._disconnected(closed) from None
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise self._disconnected(None) from None
        self._stream.took_message()
        return message

    def send_now(self, message: str | bytes) -> bool:
        """Send without waiting. False: `send` it next, and nothing else before; what went already
        is not sent again. Never raises."""
        if self._connection.closed is not None:
            return False
        data = self._framing.send_data(message)
        try:
            taken = self._stream.send_now(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False  # `send` says so.
        if 0 < taken < len(data):
            self._half = message
        return taken == len(data)

    def divert(self, take: Take) -> list[str | bytes]:
        """From now on messages are given to `take`, in the reader's task, in place of `receive`,
        which only raises at the end. While `take` waits, nothing more is read.

        Returns what was received and not taken yet.
        """
        # The library hands messages over in a channel, which costs a turn of a task for each. It
        # is closed as before when the connection ends.
        connection, found = self._connection, list[str | bytes]()
        with suppress(trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            while True:
                found.append(connection._recv_channel.receive_nowait())
                self._stream.took_message()
        connection._send_channel = _Diverted(take, self._stream, connection._send_channel)  # type: ignore[assignment]  # all that the library's reader does with a channel
        return found

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """See `Socket.aclose`."""
        with trio.move_on_after(GOODBYE_S):
            try:
                await self._connection.aclose(code, reason.encode()[:120].decode(errors="ignore"))
            except (
                ConnectionClosed,
                LocalProtocolError,
                OSError,
                trio.BrokenResourceError,
                trio.ClosedResourceError,
            ):
                return

    def _disconnected(self, closed: ConnectionClosed | None) -> PSymmError:
        """Why the socket is gone: the peer's fault, else its own words."""
        if self._stream.fault is not None:
            return self._stream.fault
        reason = None if closed is None else closed.reason
        if reason is None:
            return Disconnected()
        said = reason.reason or reason.name
        if reason.code == GOING_AWAY:
            return PeerLeft(f"the peer left and means to come back: {said}")
        return Disconnected(f"the peer closed the connection: {said}", close_code=reason.code)


class _Diverted:
    """What takes the place of the channel between the library's reader and `receive`."""

    def __init__(
        self, take: Take, stream: BoundedStream, channel: trio.MemorySendChannel[str | bytes]
    ) -> None:
        self._take = take
        self._stream = stream
        self._channel = channel

    async def send(self, message: str | bytes) -> None:
        await self._take(message)
        self._stream.took_message()

    async def aclose(self) -> None:
        await self._channel.aclose()


@asynccontextmanager
async def dial(
    endpoint: str,
    tls: ssl.SSLContext | None = None,
    *,
    plain: bool = False,
    private: bool = True,
) -> AsyncGenerator[WebSocket, None]:
    """Connect to ws:// or wss://; chain and host name of a wss:// server are verified. plain:
    whether ws:// may go to another machine (`spec.md` 61). private: it may be on this machine or a
    local network; False for what others wrote into the registry.

    Raises Disconnected by its kinds, see `dial_websocket`. Leaving closes the connection.
    Cancelled: the connection is closed.
    """
    async with dial_websocket(endpoint, bounds=BOUNDS, tls=tls, plain=plain, private=private) as (
        connection,
        stream,
    ):
        socket = WebSocket(connection, stream, endpoint)
        try:
            yield socket
        finally:
            with trio.CancelScope(shield=True):
                await socket.aclose()


async def listen(
    host: str,
    port: int,
    serve: Callable[[WebSocket], Awaitable[None]],
    *,
    tls: Tls | None = None,
    admission: Admission | None = None,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve every connection that `admission` lets in with `serve`; reports the port.

    `serve` must not raise. Runs until cancelled; then all connections are closed.
    """

    async def welcome(
        request: WebSocketRequest, stream: BoundedStream, address: str, place: ConnectionSlot
    ) -> None:
        connection = None
        with trio.move_on_after(HANDSHAKE_S):
            try:
                connection = await request.accept()
            except (ConnectionClosed, LocalProtocolError, OSError):
                return
        if connection is None:
            return
        await serve(WebSocket(connection, stream, address, place))

    await serve_websockets(
        host,
        port,
        welcome,
        admission or Admission(),
        bounds=BOUNDS,
        tls=tls,
        nursery=handler_nursery,
        task_status=task_status,
    )


async def over_streams(
    nursery: trio.Nursery, client: trio.abc.Stream, server: trio.abc.Stream
) -> tuple[WebSocket, WebSocket]:
    """Both ends of a WebSocket over two ends of a stream, with the bounds used on the net."""
    accepted: list[WebSocket] = []
    near = BoundedStream(client, BOUNDS, client=True)
    far = BoundedStream(server, BOUNDS, client=False)

    async def accept() -> None:
        request = await wrap_server_stream(
            nursery,
            far,
            message_queue_size=QUEUED_MESSAGES,
            max_message_size=MAX_MESSAGE_BYTES,
            receive_buffer_size=RECEIVE_BYTES,
        )
        accepted.append(WebSocket(await request.accept(), far))

    async with trio.open_nursery() as handshake:
        handshake.start_soon(accept)
        connected = WebSocket(
            await wrap_client_stream(
                nursery,
                near,  # type: ignore[arg-type]  # any stream will do
                "peer",
                "/",
                message_queue_size=QUEUED_MESSAGES,
                max_message_size=MAX_MESSAGE_BYTES,
                receive_buffer_size=RECEIVE_BYTES,
            ),
            near,
        )
    return connected, accepted[0]
