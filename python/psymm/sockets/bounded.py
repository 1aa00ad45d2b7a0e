"""BoundedStream: a stream below a WebSocket that limits what its peer can make us do.

The WebSocket library answers every ping, keeps every fragment and queues whole messages, no matter
what they cost. So we read the frame headers here, on the way in, and limit:

- the bytes of the opening,
- the rates of control frames, small frames and fragments,
- a message's size and its number of fragments,
- the bytes received but not yet taken.

States: first HTTP (`_opening` collects it, `_open`), then frames (`_count` walks over them), until
the stream ends. If the peer oversteps, `fault` says why. We send a close frame if nothing of ours
is half sent, and cut the connection.

Backpressure: the session reports each message that it takes (`took_message`). If too many bytes
are waiting, `receive_some` reads nothing more until then.

A short cut: after `divert`, a binary message that arrives whole, in one frame, goes straight to its
taker. The header that we read anyway says all there is to know of it, and the library never sees
it. Everything else (texts, control frames, fragments, what is cut by a read, what breaks the
standard) takes the usual way. The order is kept: the library has handled all that came before when
it calls `receive_some` again.

With a `Poller` the reader need not even wake: while it sleeps in `receive_some`, `_ready` reads for
it and offers what comes to the taker. Anything but one whole binary message that is taken at once
wakes the reader, which goes on as above.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from psymm.errors import FloodingPeer, MessageTooBig, PSymmError
from psymm.rate import TokenBucket
from psymm.sockets.framing import binary_at, masked
from psymm.sockets.poller import Poller
from psymm.waiting import Sleeper

OPENING_BYTES: Final = 32 * 1024
"""The longest HTTP request or response that may open a WebSocket."""
SMALL_BYTES: Final = 4096
"""Frames of this size or more are limited by their bytes, smaller ones by their number."""
_TOO_BIG: Final = 1009
_AGAINST_POLICY: Final = 1008
_GOODBYE_S: Final = 1.0
_READ_BYTES: Final = 64 * 1024
_CLOSE: Final = 0x08


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a peer may do on one connection. Rates are per second, with twice that at once.

    Attributes:
        message_bytes: The longest message.
        unread_bytes: Received messages that nobody has taken yet. Beyond that we stop reading,
            and the peer's sending stalls. None: the reader does not report what it takes, and only
            the WebSocket library's queue is limited.
        small_frames: Frames shorter than SMALL_BYTES, a second.
        controls: Control frames a second.
        fragments: Fragments of one message.
    """

    message_bytes: int = 512 * 1024
    unread_bytes: int | None = 1024 * 1024
    small_frames: int = 500
    controls: int = 5
    fragments: int = 1024


class BoundedStream(trio.abc.Stream):
    """`inner` with `bounds`.

    A plain TCP socket is read and written without trio's own stream: that takes a third of the
    calls, and `send_now` never waits.

    Attributes:
        status: What a server answered to our opening; 0 before.
        fault: Why we cut the peer off; None while it behaves.
        ended: Set when nothing more can come, no matter which side ended it.

    Args:
        client: We opened the WebSocket.
    """

    def __init__(self, inner: trio.abc.Stream, bounds: Bounds, *, client: bool) -> None:
        self.fault: PSymmError | None = None
        self.status = 0
        self.ended = trio.Event()
        self.received = self.sent = 0
        self._inner = inner
        self.bounds = bounds
        self._client = client
        # Where we are in the incoming bytes: the HTTP opening (None after it), then the header
        # collected so far, the rest of the payload, and size and fragments of the message.
        self._opening: bytearray | None = bytearray()
        self._header = bytearray()
        self._payload_left = 0
        self._message = 0
        self._fragments = 0
        self._finishes = False
        # Who takes binary messages, until a close frame: what follows one does not count.
        self._take: Callable[[bytes], Awaitable[None]] | None = None
        # The poller that reads while the reader sleeps, and who is offered what it reads.
        self._poller: Poller | None = None
        self._offer: Callable[[bytes], bool] | None = None
        self._reader = Sleeper()
        self._polled = -1
        self._came: bytes | Exception | None = None
        # Sizes of messages that nobody has taken yet, oldest first.
        self._unread: deque[int] = deque()
        self._unread_bytes = 0
        self._taken = trio.Event()
        self._full = False
        self._small = _twice_at_once(bounds.small_frames)
        self._controls = _twice_at_once(bounds.controls)
        self._sending = False
        self._turn = trio.Lock()
        # What `send_now` has accepted and the operating system has not taken yet.
        self._rest = b""
        tcp = inner.socket if isinstance(inner, trio.SocketStream) else None
        self._tcp = tcp if os.name == "posix" else None

    @property
    def unread_bytes(self) -> int:
        """Bytes of payload received that nobody has taken yet."""
        return self._unread_bytes + self._message

    def allow(self, small_frames: int) -> None:
        """Set another rate of small frames, for the session that begins on this connection."""
        self._small = _twice_at_once(small_frames)

    def took_message(self) -> None:
        """The oldest message was taken, so there is room for more."""
        if self._unread:
            self._unread_bytes -= self._unread.popleft()
            if self._full:
                self._full = False
                self._taken.set()

    def divert(
        self,
        take: Callable[[bytes], Awaitable[None]],
        poller: Poller | None = None,
        offer: Callable[[bytes], bool] | None = None,
    ) -> None:
        """From now on give binary messages that arrive whole to `take`, in the reader's task. While
        it waits, nothing more is read.

        Args:
            poller: Reads for the reader's task while there is nothing else to do.
            offer: Takes such a message without waiting. False: it has no room; `take` gets it.
        """
        self._take = take
        if poller is not None and offer is not None and self._tcp is not None:
            self._poller, self._offer = poller, offer

    # --- trio.abc.Stream ----------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As the inner stream's. Raises BrokenResourceError when the peer has overstepped."""
        while True:
            # Whether the next byte begins a message, so that the library holds none in part.
            between = not (self._payload_left or self._header or self._fragments)
            data = await self._read(max_bytes, between=between)
            if not data:
                self.ended.set()
                return data
            self.received += len(data)
            if self._opening is not None:
                self._open(data)
            else:
                if self._take is not None and between:
                    data = await self._give(data, self._take)
                if data:
                    self._count(data)
            if self.fault is not None:
                await self._say_goodbye(self.fault)
                self.ended.set()
                raise trio.BrokenResourceError
            # Otherwise all of it was given away, and the library has nothing to do.
            if data:
                return data

    async def _read(self, max_bytes: int | None, *, between: bool) -> bytes:
        most = self.bounds.unread_bytes
        # Wait for the reader only if it has a message to take. One message alone must fit.
        while most is not None and self._unread and self.unread_bytes > most:
            self._full, self._taken = True, trio.Event()
            await self._taken.wait()
        if self.fault is not None:
            raise trio.BrokenResourceError from None
        try:
            poller = self._poller
            if poller is not None and between:
                return await self._polled_bytes(poller)
            if self._tcp is None:
                return bytes(await self._inner.receive_some(max_bytes))
            return await _receive(self._tcp, max_bytes or _READ_BYTES)
        except BaseException:
            self.ended.set()
            raise

    async def _polled_bytes(self, poller: Poller) -> bytes:
        """Sleep until something comes that `_ready` does not deal with."""
        assert self._tcp is not None  # noqa: S101
        fileno = self._tcp.fileno()
        if fileno < 0:
            raise trio.ClosedResourceError
        self._came = None
        poller.register(fileno, self._ready)
        self._polled = fileno
        try:
            await self._reader.sleep()
        finally:
            self._stop_polling()
        if self._came is None:
            # `aclose` woke us.
            raise trio.ClosedResourceError
        if isinstance(self._came, OSError):
            raise trio.BrokenResourceError from self._came
        if isinstance(self._came, Exception):
            raise self._came
        return self._came

    def _ready(self) -> None:
        """The poller: there is something to read."""
        try:
            data = os.read(self._polled, _READ_BYTES)
            if not self._offered(data):
                self._came = data
        except BlockingIOError:
            return
        except Exception as failed:
            self._came = failed
        if self._came is not None:
            # At once, or the next turn would read again before the reader runs.
            self._stop_polling()
            self._reader.wake()

    def _offered(self, data: bytes) -> bool:
        """Offer a read that is one whole binary message. False: it is none, or there is no room."""
        found = binary_at(data, 0, masked=not self._client) if data else None
        if found is None or found[1] < len(data) or self._take is None or self._offer is None:
            return False
        begins, ends = found
        self._charge(ends - begins, trio.current_time())
        if self.fault is not None:
            # The reader says goodbye.
            return False
        payload = data[begins:]
        if not self._client:
            payload = masked(payload, data[begins - 4 : begins])
        if self._offer(payload):
            self.received += len(data)
            return True
        # `_give` charges it again.
        if ends - begins < SMALL_BYTES:
            self._small.give_back(1)
        return False

    def _stop_polling(self) -> None:
        if self._poller is not None and self._polled >= 0:
            self._poller.unregister(self._polled)
        self._polled = -1

    async def _give(self, data: bytes, take: Callable[[bytes], Awaitable[None]]) -> bytes:
        """Give whole binary messages at the beginning of `data` to `take`. Returns the rest."""
        at, now = 0, trio.current_time()
        while at < len(data) and (found := binary_at(data, at, masked=not self._client)):
            begins, ends = found
            size = ends - begins
            self._charge(size, now)
            if self.fault is not None:
                break
            payload = data[begins:ends]
            if not self._client:
                payload = masked(payload, data[begins - 4 : begins])
            at = ends
            self._unread_bytes += size
            try:
                await take(payload)
            finally:
                self._unread_bytes -= size
        return data[at:]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the inner stream's, after what `send_now` left. Two callers take turns."""
        async with self._turn:
            self._sending = True
            try:
                rest, self._rest = self._rest, b""
                await self._inner.send_all(rest + data if rest else data)
            except BaseException:
                # A part may be out, so no close frame can follow.
                self.ended.set()
                raise
            self._sending = False
            self.sent += len(data)

    def send_now(self, data: bytes | bytearray) -> int:
        """Hand bytes to the operating system without waiting; returns how many it took.

        If it took only a part, we keep the rest, which goes before all that follows: call
        `send_all` next, with nothing if need be. Raises BrokenResourceError, ClosedResourceError.
        """
        # While something else is half sent, these bytes would land in the middle of it.
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
        # All of it counts as sent: what the system has not taken is in `_rest` now.
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
        # Before the socket is closed: another may have its number at once.
        self._stop_polling()
        self._reader.wake()
        self._poller = None
        await self._inner.aclose()

    # --- reading headers ----------------------------------------------------------------------

    def _open(self, data: bytes) -> None:
        """Collect HTTP until its blank line. Frames follow, unless the opening was refused."""
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
        """Walk over frames: read headers, skip payloads."""
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
            # The first two bytes say how long the header is.
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
        """Charge a frame by its header. Sets `fault` if the peer oversteps."""
        size = header[1] & 0x7F
        if size == 126:
            size = int.from_bytes(header[2:4], "big")
        elif size == 127:
            size = int.from_bytes(header[2:10], "big")
        self._payload_left = size
        self._finishes = False
        if header[0] & 0x08:
            if header[0] & 0x0F == _CLOSE:
                self._take = None
            if not self._controls.spend(1, now):
                self.fault = FloodingPeer("too many pings", per_second=self.bounds.controls)
        else:
            self._message += size
            self._fragments += 1
            self._finishes = bool(header[0] & 0x80)
            self._charge(size, now)
        if not size:
            self._end_frame()

    def _charge(self, size: int, now: float) -> None:
        """Charge a frame of a message. Sets `fault` if the peer oversteps."""
        message, bounds = self._message or size, self.bounds
        if size < SMALL_BYTES and not self._small.spend(1, now):
            self.fault = FloodingPeer("too many small messages or fragments")
        elif self._fragments > bounds.fragments:
            self.fault = FloodingPeer("a message in too many fragments", most=bounds.fragments)
        elif message > bounds.message_bytes:
            self.fault = MessageTooBig(size=message, most=bounds.message_bytes)

    def _end_frame(self) -> None:
        if self._finishes:
            if self.bounds.unread_bytes is not None:
                self._unread.append(self._message)
                self._unread_bytes += self._message
            self._message = self._fragments = 0
            self._finishes = False

    async def _say_goodbye(self, fault: PSymmError) -> None:
        """Send a close frame, if nothing of ours is half sent."""
        # Before the opening has ended, a frame would land in the middle of HTTP.
        if self._sending or self._rest or self._opening is not None:
            return
        code = _TOO_BIG if isinstance(fault, MessageTooBig) else _AGAINST_POLICY
        reason = fault.code.encode()[:100]
        body = code.to_bytes(2, "big") + reason
        # A client must mask; a mask of zeros changes nothing.
        head = bytes((0x88, 0x80 | len(body), 0, 0, 0, 0) if self._client else (0x88, len(body)))
        with trio.move_on_after(_GOODBYE_S):
            try:
                await self._inner.send_all(head + body)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                return
            except trio.BusyResourceError:
                return


async def _receive(tcp: trio.socket.SocketType, most: int) -> bytes:
    """Read what has come: at least one byte, unless the peer has ended the stream.

    Raises as `SocketStream.receive_some`. Cancelled: raises Cancelled; nothing was taken.
    """
    while True:
        fileno = tcp.fileno()
        if fileno < 0:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_readable(fileno)
        if tcp.fileno() != fileno:
            # Closed meanwhile. Another socket may have this number by now.
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
    """The length of the header that begins with these two bytes."""
    size = header[1] & 0x7F
    return 2 + {126: 2, 127: 8}.get(size, 0) + (4 if header[1] & 0x80 else 0)
