"""Connecting to ws:// and wss://: each way to fail has a type, and no peer can make us wait.

Solvers and relayers are dialled here and nowhere else. The opening handshake names the peer's own
host and `/`. We do not follow redirects. `ask_each` limits what a registry full of strangers can
make a client do.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar, cast

import trio
from trio_websocket import (
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)

from psymm.errors import (
    Disconnected,
    HandshakeFailed,
    ServerBusy,
    TlsRefused,
    Unreachable,
    clip,
)
from psymm.nursery import open_block_nursery
from psymm.sockets.bounded import BoundedStream, Bounds
from psymm.sockets.endpoints import Endpoint, parse_endpoint, resolve
from psymm.sockets.serving import HANDSHAKE_S, QUEUED_MESSAGES, RECEIVE_BYTES
from psymm.sockets.tls import client_context

AT_ONCE: Final = 16
"""Entries of the registry that we dial at once."""
IN_ALL: Final = 64
"""Entries of the registry that we dial for one question."""

_BUSY: Final = (429, 503)
_ADDRESS_S: Final = 5.0
"""Seconds for one of several addresses of a name."""

T = TypeVar("T")


@asynccontextmanager
async def dial_websocket(
    endpoint: str,
    *,
    bounds: Bounds,
    tls: ssl.SSLContext | None = None,
    plain: bool = False,
    private: bool = False,
) -> AsyncGenerator[tuple[WebSocketConnection, BoundedStream], None]:
    """A WebSocket to ws:// or wss://.

    Raises a subclass of Disconnected: BadEndpoint, PlainRefused, PrivateAddress, TlsRefused,
    Unreachable (no such name, nobody listens), ServerBusy, HandshakeFailed; all within HANDSHAKE_S.
    Leaving the block closes the socket without a goodbye. Cancelled: the same.

    Args:
        tls: Verifies a wss:// server; by default with the system's authorities. The host name is
            verified in any case.
        plain: Whether ws:// may leave this machine (`spec.md` 61).
        private: Whether it may be on this machine or a local network. For endpoints from the
            registry only if the user asked for that.
    """
    parts = parse_endpoint(endpoint)
    stream: trio.abc.AsyncResource | None = None
    failed: Disconnected | None = None
    try:
        async with open_block_nursery() as nursery:
            try:
                opened: tuple[WebSocketConnection, BoundedStream] | None = None
                # One limit for name, TCP, TLS and WebSocket together.
                with trio.move_on_after(HANDSHAKE_S) as late:
                    tcp = stream = await _reach(parts, plain, private)
                    if parts.secure:
                        stream = await _encrypt(endpoint, parts, tcp, tls or client_context())
                    bounded = BoundedStream(cast(trio.abc.Stream, stream), bounds, client=True)
                    connection = await _shake_hands(nursery, parts, bounded)
                    if connection is None:
                        raise _not_opened(endpoint, bounded)
                    opened = connection, bounded
                if late.cancelled_caught or opened is None:
                    raise Unreachable("no answer in time", endpoint=endpoint, waited_s=HANDSHAKE_S)
                yield opened
            finally:
                nursery.cancel_scope.cancel()
    except ExceptionGroup as group:
        # From the library's reader: the server refused, or sent what is not WebSocket.
        failed = _failure(endpoint, group)
    finally:
        # The library may be in any state, so close below it, without a goodbye.
        if stream is not None:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)
    if failed is not None:
        raise failed


async def ask_each(
    entries: Sequence[T],
    ask: Callable[[T], Awaitable[None]],
    *,
    enough: Callable[[], bool] = lambda: False,
) -> Sequence[T]:
    """Await `ask` for the entries, in their order. At most AT_ONCE run at a time and IN_ALL in all,
    so that a registry with ten thousand entries makes nobody dial ten thousand hosts. Returns the
    entries that were not asked. Cancelled: all calls in progress end.

    Args:
        ask: Must limit its own time, and must not raise anything that one entry can cause.
        enough: No further entry is asked when this returns True.
    """
    waiting = list(reversed(entries[:IN_ALL]))

    async def work() -> None:
        while waiting and not enough():
            await ask(waiting.pop())

    async with trio.open_nursery() as nursery:
        for _ in range(min(AT_ONCE, len(waiting))):
            nursery.start_soon(work)
    return [*reversed(waiting), *entries[IN_ALL:]]


async def check_plain(endpoint: str, plain: bool) -> None:
    """Check that an endpoint may be listed for others to dial. Everyone on the way can read and
    change plain traffic, so it must be wss://, or ws:// at loopback, or `plain`.

    Raises BadEndpoint, PlainRefused, Unreachable. Cancelled: raises Cancelled.
    """
    parts = parse_endpoint(endpoint)
    if not parts.secure and not plain:
        await resolve(parts, plain=plain, private=True)


async def _reach(endpoint: Endpoint, plain: bool, private: bool) -> trio.SocketStream:
    why = "no answer in time"
    for address in await resolve(endpoint, plain=plain, private=private):
        try:
            # One dead address of a name must not use up the time of the others.
            with trio.move_on_after(_ADDRESS_S):
                return await trio.open_tcp_stream(address, endpoint.port)
        except OSError as bad:
            # trio wraps the error of the address that it tried in an OSError.
            first = bad.__cause__
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            why = getattr(first or bad, "strerror", None) or str(bad)
    raise Unreachable(f"no connection to the peer: {why}", endpoint=endpoint.text)


async def _encrypt(
    endpoint: str, parts: Endpoint, tcp: trio.SocketStream, context: ssl.SSLContext
) -> trio.SSLStream[trio.SocketStream]:
    # WebSockets have a goodbye of their own, so TLS need not have one.
    stream = trio.SSLStream(tcp, context, server_hostname=parts.host, https_compatible=True)
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as broken:
        raise _tls_refused(endpoint, broken.__cause__) from None
    return stream


def _tls_refused(endpoint: str, why: BaseException | None) -> TlsRefused:
    if isinstance(why, ssl.SSLCertVerificationError):
        return TlsRefused(
            f"the server's certificate is not to be trusted: {why.verify_message}",
            endpoint=endpoint,
            reason=why.verify_message,
        )
    if isinstance(why, ssl.SSLError) and why.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        return TlsRefused("the server does not speak TLS here; is it ws://?", endpoint=endpoint)
    reason = getattr(why, "reason", None) or "the server ended the connection"
    return TlsRefused(f"no encrypted connection: {reason}", endpoint=endpoint, reason=str(reason))


async def _shake_hands(
    nursery: trio.Nursery, parts: Endpoint, bounded: BoundedStream
) -> WebSocketConnection | None:
    """The WebSocket; None if the connection ended before it was open."""
    connection: WebSocketConnection | None = None
    async with trio.open_nursery() as race:

        async def gone() -> None:
            await bounded.ended.wait()
            race.cancel_scope.cancel()

        # The library waits for an answer even after the stream has ended; `gone` ends that wait.
        race.start_soon(gone)
        connection = await wrap_client_stream(
            nursery,
            bounded,  # type: ignore[arg-type]  # any stream will do
            parts.netloc,
            "/",
            message_queue_size=QUEUED_MESSAGES,
            max_message_size=bounded.bounds.message_bytes,
            receive_buffer_size=RECEIVE_BYTES,
        )
        race.cancel_scope.cancel()
    return connection


def _not_opened(endpoint: str, stream: BoundedStream) -> Disconnected:
    if stream.status in _BUSY:
        return ServerBusy(endpoint=endpoint, status=stream.status, retry_after_s=0)
    if stream.fault is not None:
        return HandshakeFailed(stream.fault.detail, endpoint=endpoint)
    return HandshakeFailed(endpoint=endpoint)


def _failure(endpoint: str, group: ExceptionGroup) -> Disconnected:
    """The error for what the library's tasks raised."""
    first: Exception = group
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    if isinstance(first, ConnectionRejected):
        said = clip((first.body or b"").decode("utf-8", "replace"), 200)
        if first.status_code in _BUSY:
            return ServerBusy(
                f"the server takes no connection now ({first.status_code}): {said}",
                endpoint=endpoint,
                status=first.status_code,
                retry_after_s=_retry_after(first),
            )
        return HandshakeFailed(
            f"the server answers {first.status_code} and opens no WebSocket",
            endpoint=endpoint,
            status=first.status_code,
        )
    if isinstance(first, HandshakeError):
        return HandshakeFailed(endpoint=endpoint)
    return HandshakeFailed(
        "the server broke the rules of WebSockets",
        endpoint=endpoint,
        error=type(first).__name__,
    )


def _retry_after(rejected: ConnectionRejected) -> int:
    """Seconds that the server asks for, at most a minute; 0 if it does not say."""
    for name, value in rejected.headers:
        if name.lower() == b"retry-after" and value.isdigit():
            return min(int(value[:6]), 60)
    return 0
