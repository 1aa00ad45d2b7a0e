"""A peer that speaks WebSocket byte by byte, so that it can break every rule of it."""

from __future__ import annotations

import trio

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: peer\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
TEXT, BINARY, CLOSE, PING, PONG, MORE = 1, 2, 8, 9, 10, 0


def frame(
    opcode: int, payload: bytes = b"", *, final: bool = True, size: int | None = None
) -> bytes:
    """A client's frame with a mask of zeros. size: what the header claims."""
    claimed = len(payload) if size is None else size
    head = bytes([(0x80 if final else 0) | opcode])
    if claimed < 126:
        head += bytes([0x80 | claimed])
    elif claimed < 1 << 16:
        head += b"\xfe" + claimed.to_bytes(2, "big")
    else:
        head += b"\xff" + claimed.to_bytes(8, "big")
    return head + bytes(4) + payload


class RawPeer:
    """A stream with a WebSocket opened on it, or not yet."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.answer = b""

    async def open(self, extra: bytes = b"") -> bytes:
        """Shake hands; gives the server's whole answer."""
        await self.stream.send_all(REQUEST + extra + b"\r\n")
        while b"\r\n\r\n" not in self.answer:
            more = await self.stream.receive_some(65536)
            if not more:
                break
            self.answer += more
        return self.answer

    async def send(self, *frames: bytes) -> None:
        await self.stream.send_all(b"".join(frames))

    async def until_closed(self) -> bytes:
        """All that still comes until the server has closed."""
        found = b""
        try:
            while more := await self.stream.receive_some(65536):
                found += more
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        return found

    async def push(self, *frames: bytes, times: int) -> int:
        """Send again and again until the server closes or `times` is reached; gives how often."""
        sent = 0
        try:
            while sent < times:
                await self.stream.send_all(b"".join(frames))
                sent += 1
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        return sent


async def raw_peer(port: int) -> RawPeer:
    return RawPeer(await trio.open_tcp_stream("127.0.0.1", port))
