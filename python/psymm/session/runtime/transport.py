"""WebSockets as sessions use them: bounded in size and queue, with one kind of error.

trio-websocket's defaults (4 KiB receive buffer, a queue of one) slow a session down. All our
settings are here and nowhere else.

Two short cuts around the library save scheduler steps on the hot path. Both keep the order of
messages:

- `send_now` frames a message itself and writes it without waiting. If the socket takes only a part,
  `send` must finish that message before anything else goes out.
- `divert` gives incoming messages to a function in the library's reader task, in place of the
  channel that `receive` reads. Whole binary messages do not pass through the library at all.

Errors: each way in which a connection can end becomes Disconnected, PeerLeft, or the PeerViolation
for which `BoundedStream` cut the peer off.
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
from psymm.sockets.framing import LONGEST, binary_frame
from psymm.sockets.poller import Poller
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
"""Frames are joined into messages of up to this size."""
GOODBYE_S: Final = 5.0
GOING_AWAY: Final = 1001
"""RFC 6455's code of a side that leaves. Here it means that the side will be back."""
BOUNDS: Final = Bounds(message_bytes=MAX_MESSAGE_BYTES)


class Socket(Protocol):
    """A connection to a peer that carries texts and binary messages."""

    async def send(self, message: str | bytes) -> None:
        """Send a message. Raises as `receive`. Cancelled: the message may be cut off, so the socket
        must not be used again."""
        ...

    async def receive(self) -> str | bytes:
        """The next message. Raises Disconnected, or the PeerViolation that cut the peer off.
        Cancelled: no message is lost."""
        ...

    @property
    def unread_bytes(self) -> int:
        """Bytes received that `receive` has not taken yet."""
        ...

    def allow(self, small_frames: int) -> None:
        """Set how many short messages the peer may send in a second from now on."""
        ...

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye and close. Never raises. Cancelled: closed without a goodbye."""
        ...


Take = Callable[[str | bytes], Awaitable[None]]
Offer = Callable[[bytes], bool]


class WebSocket:
    """A `Socket` over trio-websocket, with two short cuts: `send_now` and `divert`.

    Args:
        remote: The peer's address.
        place: Its place among the listener's connections; without limits if we dialled.
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
        # Messages without extensions look the same, no matter which object frames them. So ours
        # need not take the connection's lock.
        self._framing = FrameProtocol(connection.is_client, [])
        # The message of which `send_now` could write only a part.
        self._half: str | bytes | None = None

    @property
    def unread_bytes(self) -> int:
        """Bytes received that `receive` has not taken yet."""
        return self._stream.unread_bytes

    def allow(self, small_frames: int) -> None:
        """Set how many short messages the peer may send in a second from now on."""
        self._stream.allow(small_frames)

    async def send(self, message: str | bytes) -> None:
        """Send a message. Errors and cancellation as for `Socket.send`."""
        try:
            # The stream already holds the whole message in its buffer: only flush it.
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
        """The next message. Errors and cancellation as for `Socket.receive`."""
        try:
            message = await self._connection.get_message()
        except ConnectionClosed as closed:
            raise self._disconnected(closed) from None
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise self._disconnected(None) from None
        # Frees the message's share of the limit on unread bytes.
        self._stream.took_message()
        return message

    def send_now(self, message: str | bytes) -> bool:
        """Send without waiting. Never raises. False: call `send` with this message next, and send
        nothing else before; bytes that are out already are not sent again."""
        if self._connection.closed is not None:
            return False
        if isinstance(message, bytes) and len(message) <= LONGEST:
            data: bytes | bytearray = binary_frame(message, client=self._framing.client)
        else:
            data = self._framing.send_data(message)
        try:
            taken = self._stream.send_now(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False  # `send` raises the reason.
        # Nothing taken: `send` may start over. A part taken: the rest must follow.
        if 0 < taken < len(data):
            self._half = message
        return taken == len(data)

    def received(self) -> list[str | bytes]:
        """The messages that were received and not taken yet. Never raises."""
        found = list[str | bytes]()
        with suppress(trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            while True:
                found.append(self._connection._recv_channel.receive_nowait())
                self._stream.took_message()
        return found

    def divert(self, take: Take, poller: Poller | None = None, offer: Offer | None = None) -> None:
        """From now on give messages to `take`, in the reader's task. `receive` then only raises at
        the end. While `take` waits, we read nothing more. First `received` must have returned
        nothing, in the same scheduler step: otherwise messages would change their order.

        poller, offer: As for `BoundedStream.divert`.
        """
        # The library passes messages through a channel, which costs a scheduler step for each. The
        # channel still closes when the connection ends.
        connection = self._connection
        connection._send_channel = _Diverted(take, self._stream, connection._send_channel)  # type: ignore[assignment]  # all that the library's reader does with a channel
        self._stream.divert(take, poller, offer)

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye and close, within GOODBYE_S. Never raises."""
        # The goodbye waits for the peer's answer. A silent peer must not delay us for long.
        with trio.move_on_after(GOODBYE_S):
            try:
                # RFC 6455 limits a close reason to 123 bytes.
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
        """Why the socket is gone: the peer's fault if there is one, else the peer's own words."""
        # Our own finding comes first: a peer that we cut off may say anything.
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
    """Replaces the channel between the library's reader and `receive`."""

    def __init__(
        self, take: Take, stream: BoundedStream, channel: trio.MemorySendChannel[str | bytes]
    ) -> None:
        self._take = take
        self._stream = stream
        self._channel = channel

    async def send(self, message: str | bytes) -> None:
        await self._take(message)
        # Only now is the message out of our hands, which lets the stream read more.
        self._stream.took_message()

    async def aclose(self) -> None:
        # The library closes its channel at the end, which wakes `receive`.
        await self._channel.aclose()


@asynccontextmanager
async def dial(
    endpoint: str,
    tls: ssl.SSLContext | None = None,
    *,
    plain: bool = False,
    private: bool = True,
) -> AsyncGenerator[WebSocket, None]:
    """Connect to ws:// or wss://. For wss:// we verify the server's chain and host name.

    Raises Disconnected and its subclasses; see `dial_websocket`. Leaving the block closes the
    connection.
    Cancelled: the connection is closed.

    Args:
        plain: Whether ws:// may go to another machine (`spec.md` 61).
        private: Whether it may be on this machine or a local network. False for endpoints that
            others wrote into the registry.
    """
    async with dial_websocket(endpoint, bounds=BOUNDS, tls=tls, plain=plain, private=private) as (
        connection,
        stream,
    ):
        socket = WebSocket(connection, stream, endpoint)
        try:
            yield socket
        finally:
            # Shielded, or a cancelled caller would leave the socket open.
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
        # A peer that does not finish the upgrade must not hold its place for long.
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
    """Both sides of a WebSocket over two ends of a stream, with the limits used on the network."""
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

    # Both sides must run at once: each waits for the other's half of the upgrade.
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
