"""A stream below a WebSocket that bounds what its peer can make us do.

The WebSocket library answers every ping, keeps every fragment and queues whole messages without
asking what they cost, so headers are read here, on the way in: opening bytes, control frames,
small frames and fragments are limited by rate, a message by its size and its number of fragments,
and what was received but not yet taken by its bytes. Whoever oversteps is told by a close frame
where it can be, and cut off; `fault` then says why.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from typing import Final

import trio

from psymm.errors import FloodingPeer, MessageTooBig, PSymmError
from psymm.rate import TokenBucket

OPENING_BYTES: Final = 32 * 1024
"""The most that an HTTP request or response that opens a WebSocket may be long."""
SMALL_BYTES: Final = 4096
"""Frames at least this long are bounded by their bytes, shorter ones by their number."""
_TOO_BIG: Final = 1009
_AGAINST_POLICY: Final = 1008
_GOODBYE_S: Final = 1.0
_READ_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a peer may do on one connection. Rates are a second, with twice that at once.

    unread_bytes: received messages that nobody has taken yet; then nothing more is read, which
    the peer feels as backpressure. None: whoever takes them does not say so, and the WebSocket
    library's queue is the only bound.
    """

    message_bytes: int = 512 * 1024
    unread_bytes: int | None = 1024 * 1024
    small_frames: int = 500
    controls: int = 5
    fragments: int = 1024


class BoundedStream(trio.abc.Stream):
    """`inner` with `bounds`. client: we are the one that opened the WebSocket.

    status: what a server answered to our opening, 0 before. fault: why the peer was cut off, None
    while it behaves. ended: set once nothing can come any more, whoever ended it.

    A plain TCP socket is read and written without trio's own stream: that takes a third of the
    calls, and `send_now` never waits.
    """

    def __init__(self, inner: trio.abc.Stream, bounds: Bounds, *, client: bool) -> None:
        self.fault: PSymmError | None = None
        self.status = 0
        self.ended = trio.Event()
        self.received = self.sent = 0
        self._inner = inner
        self.bounds = bounds
        self._client = client
        self._opening: bytearray | None = bytearray()
        self._header = bytearray()
        self._payload_left = 0
        self._message = 0
        self._fragments = 0
        self._finishes = False
        self._unread: deque[int] = deque()
        self._unread_bytes = 0
        self._taken = trio.Event()
        self._full = False
        self._small = _twice_at_once(bounds.small_frames)
        self._controls = _twice_at_once(bounds.controls)
        self._sending = False
        self._turn = trio.Lock()
        # What `send_now` has promised and the operating system has not taken yet.
        self._rest = b""
        tcp = inner.socket if isinstance(inner, trio.SocketStream) else None
        self._tcp = tcp if os.name == "posix" else None

    @property
    def unread_bytes(self) -> int:
        """Payload received that nobody has taken yet."""
        return self._unread_bytes + self._message

    def allow(self, small_frames: int) -> None:
        """Another rate of small frames from now on: what the session that begins here needs."""
        self._small = _twice_at_once(small_frames)

    def took_message(self) -> None:
        """The oldest message was taken; there is room for more."""
        if self._unread:
            self._unread_bytes -= self._unread.popleft()
            if self._full:
                self._full = False
                self._taken.set()

    # --- trio.abc.Stream ----------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As the inner stream's; raises BrokenResourceError once the peer has overstepped."""
        most = self.bounds.unread_bytes
        while most is not None and self._unread and self.unread_bytes > most:
            self._full, self._taken = True, trio.Event()
            await self._taken.wait()
        if self.fault is not None:
            raise trio.BrokenResourceError from None
        try:
            if self._tcp is None:
                data = bytes(await self._inner.receive_some(max_bytes))
            else:
                data = await _receive(self._tcp, max_bytes or _READ_BYTES)
        except BaseException:
            self.ended.set()
            raise
        if not data:
            self.ended.set()
            return data
        self.received += len(data)
        if self._opening is None:
            self._count(data)
        else:
            self._open(data)
        if self.fault is not None:
            await self._say_goodbye(self.fault)
            self.ended.set()
            raise trio.BrokenResourceError
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the inner stream's, behind what `send_now` left. Two callers take turns."""
        async with self._turn:
            self._sending = True
            try:
                rest, self._rest = self._rest, b""
                await self._inner.send_all(rest + data if rest else data)
            except BaseException:
                # It may have been cut off half way: no close frame can follow.
                self.ended.set()
                raise
            self._sending = False
            self.sent += len(data)

    def send_now(self, data: bytes | bytearray) -> int:
        """Hand bytes to the operating system without waiting; returns how many it took.

        Where it took some of them, the rest is kept and goes before all that follows: `send_all`,
        of nothing if need be, takes it along. Raises BrokenResourceError, ClosedResourceError.
        """
        if self._tcp is None or self._sending or self._rest:
            return 0
        try:
            taken = os.write(self._tcp.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError as gone:
            self.ended.set()
            if self._tcp.fileno() < 0:
                raise trio.ClosedResourceError from None
            raise trio.BrokenResourceError from gone
        self.sent += len(data)
        if taken < len(data):
            self._rest = bytes(data[taken:])
        return taken

    async def wait_send_all_might_not_block(self) -> None:
        """As the inner stream's."""
        await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """As the inner stream's."""
        self.ended.set()
        self._taken.set()
        await self._inner.aclose()

    # --- reading headers ----------------------------------------------------------------------

    def _open(self, data: bytes) -> None:
        """HTTP until its blank line; what follows are frames, unless the opening was refused."""
        opening = self._opening
        assert opening is not None  # noqa: S101
        opening += data
        end = opening.find(b"\r\n\r\n")
        if end >= 0 and opening[9:12].isdigit():
            self.status = int(opening[9:12])
        refused = self._client and end >= 0 and self.status != 101
        if end < 0 or refused:
            if len(opening) > OPENING_BYTES:
                self.fault = MessageTooBig("the peer's handshake is too long", most=OPENING_BYTES)
            return
        self._opening = None
        self._count(bytes(opening[end + 4 :]))

    def _count(self, data: bytes) -> None:
        """Walk over frames: headers are read, payloads are skipped."""
        now = trio.current_time()
        at, end, header = 0, len(data), self._header
        while at < end and self.fault is None:
            if self._payload_left:
                step = min(self._payload_left, end - at)
                self._payload_left -= step
                at += step
                if not self._payload_left:
                    self._end_frame()
                continue
            # Two bytes say how long the header is.
            many = _header_bytes(header) if len(header) > 1 else 2
            while len(header) < many and at < end:
                step = min(many - len(header), end - at)
                header += data[at : at + step]
                at += step
                if len(header) >= 2:
                    many = _header_bytes(header)
            if len(header) == many:
                self._begin_frame(header, now)
                header.clear()

    def _begin_frame(self, header: bytearray, now: float) -> None:
        size = header[1] & 0x7F
        if size == 126:
            size = int.from_bytes(header[2:4], "big")
        elif size == 127:
            size = int.from_bytes(header[2:10], "big")
        self._payload_left = size
        self._finishes = False
        if header[0] & 0x08:
            if not self._controls.spend(1, now):
                self.fault = FloodingPeer("too many pings", per_second=self.bounds.controls)
        else:
            self._message += size
            self._fragments += 1
            self._finishes = bool(header[0] & 0x80)
            if size < SMALL_BYTES and not self._small.spend(1, now):
                self.fault = FloodingPeer("too many small messages or fragments")
            elif self._fragments > self.bounds.fragments:
                self.fault = FloodingPeer(
                    "a message in too many fragments", most=self.bounds.fragments
                )
            elif self._message > self.bounds.message_bytes:
                self.fault = MessageTooBig(size=self._message, most=self.bounds.message_bytes)
        if not size:
            self._end_frame()

    def _end_frame(self) -> None:
        if self._finishes:
            if self.bounds.unread_bytes is not None:
                self._unread.append(self._message)
                self._unread_bytes += self._message
            self._message = self._fragments = 0
            self._finishes = False

    async def _say_goodbye(self, fault: PSymmError) -> None:
        """A close frame, if nothing of ours is half sent."""
        if self._sending or self._rest or self._opening is not None:
            return
        code = _TOO_BIG if isinstance(fault, MessageTooBig) else _AGAINST_POLICY
        reason = fault.code.encode()[:100]
        body = code.to_bytes(2, "big") + reason
        # A client masks; a mask of zeros changes nothing.
        head = bytes((0x88, 0x80 | len(body), 0, 0, 0, 0) if self._client else (0x88, len(body)))
        with trio.move_on_after(_GOODBYE_S):
            try:
                await self._inner.send_all(head + body)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                return
            except trio.BusyResourceError:
                return


async def _receive(tcp: trio.socket.SocketType, most: int) -> bytes:
    """What has come, at least a byte of it unless the peer has ended the stream.

    Raises as `SocketStream.receive_some`. Cancelled: raises Cancelled, nothing was taken.
    """
    while True:
        fileno = tcp.fileno()
        if fileno < 0:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_readable(fileno)
        if tcp.fileno() != fileno:
            # Closed meanwhile: the number may be another socket's by now.
            raise trio.ClosedResourceError
        try:
            return os.read(fileno, most)
        except BlockingIOError:
            continue
        except OSError as gone:
            raise trio.BrokenResourceError from gone


def _twice_at_once(per_second: float) -> TokenBucket:
    return TokenBucket(per_second, per_second * 2, trio.current_time())


def _header_bytes(header: bytearray) -> int:
    """How long the header is that begins with these two bytes."""
    size = header[1] & 0x7F
    return 2 + {126: 2, 127: 8}.get(size, 0) + (4 if header[1] & 0x80 else 0)
