"""Numbered points of a process's life, and death by SIGKILL at the k-th passing of one.

Nothing of this is in the product: a life of the crash storm wraps, in its own process, what is
written, sent and broadcast. A name that is wrapped and no longer there stops the storm at once.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import trio

import psymm.session.runtime.solver_sessions
import psymm.session.runtime.trader
from psymm.chain.rpc import Rpc
from psymm.custody.prover import Prover
from psymm.custody.store import NoteStore
from psymm.journal.committer import Change
from psymm.journal.writer import Journal
from psymm.session.runtime.solver_sessions import SolverSessions
from psymm.session.runtime.transport import WebSocket
from psymm.sockets.bounded import BoundedStream
from psymm.sockets.poller import Poller
from psymm.transcript.record import Record

WRITES: Final = (
    "keep_checkpoint",
    "keep_fact",
    "keep_openings",
    "keep_session_key",
    "keep_settlement",
    "open_custody",
    "set_state",
)
"""Writes of the journal, each a half of a turn that needs several."""


def both(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}.{when}" for name in names for when in ("before", "after"))


TRADING: Final = (
    *both("commit", "append", "send-text", "send-frames", "load_session"),
    "commit.inside",
    "sign.after",
    "receive-text.after",
    "receive-frames.after",
    "wire.half",
    *both("keep_session_key", "keep_checkpoint"),
)
"""Points that any life passes while it trades."""
OPENING: Final = {
    "trader": (
        *both("store", "broadcast", "open_custody", "set_state"),
        "proof.after",
        *both("keep_session_key", "keep_openings"),
    ),
    "solver": (
        *both("store", "broadcast"),
        "accept.before",
        *both("open_custody", "keep_session_key"),
        "accept.after",
        *both("keep_openings"),
        "proof.after",
        *both("set_state"),
    ),
}
"""Points between a deposit and the first order, as they come."""
SETTLING: Final = {
    "trader": (
        *both("keep_settlement", "store"),
        "proof.after",
        *both("broadcast", "keep_fact", "set_state", "mark_delivered"),
    ),
    "solver": both("store", "keep_settlement", "keep_fact", "set_state"),
}
"""Points of a settlement that the trader proposes, as they come."""
WITHDRAWING: Final = (*both("store"), "proof.after", *both("broadcast"))
"""Points of a withdrawal, as they come."""
OFTEN: Final = frozenset(
    {
        *both("commit", "append", "send-text", "send-frames", "store"),
        "commit.inside",
        "sign.after",
        "receive-text.after",
        "receive-frames.after",
        "wire.half",
    }
)
"""Points that are passed again and again, so that a later passing can be chosen."""


class Reaper:
    """Kills its own process at the `occurrence`-th passing of `point`; counts what is passed."""

    def __init__(self, say: Callable[[str], None], point: str = "", occurrence: int = 0) -> None:
        self.passed: Counter[str] = Counter()
        self._say = say
        self._point = point
        self._left = occurrence

    def at(self, point: str) -> None:
        if self.due(point):
            self.die(point)

    def due(self, point: str) -> bool:
        self.passed[point] += 1
        if point != self._point:
            return False
        self._left -= 1
        return self._left == 0

    def die(self, point: str) -> None:
        self._say(point)
        os.kill(os.getpid(), signal.SIGKILL)


def instrument(reaper: Reaper, tap: Callable[[bytes], None]) -> None:
    """Wrap this process. tap: is given every binary message before it goes out."""
    for name in WRITES:
        _around(Journal, name, name, reaper)
    _around(NoteStore, "_do", "store", reaper)
    _around(Prover, "prove", "proof", reaper)
    _around(SolverSessions, "open", "accept", reaper)
    _around(psymm.session.runtime.trader, "load_session", "load_session", reaper)
    _around(psymm.session.runtime.solver_sessions, "load_session", "load_session", reaper)
    _append(reaper)
    _mark_delivered(reaper)
    _commit(reaper)
    _sign(reaper)
    _socket(reaper, tap)
    _wire(reaper)
    _broadcast(reaper)


def _original(owner: Any, name: str) -> Callable[..., Any]:
    found = getattr(owner, name, None)
    assert callable(found), f"{owner.__name__}.{name} is gone: the storm must be told its new name"
    return found  # type: ignore[no-any-return]


def _around(owner: Any, name: str, point: str, reaper: Reaper) -> None:
    original: Callable[..., Awaitable[Any]] = _original(owner, name)

    async def wrapped(*given: Any, **named: Any) -> Any:
        reaper.at(f"{point}.before")
        found = await original(*given, **named)
        reaper.at(f"{point}.after")
        return found

    setattr(owner, name, wrapped)


def _append(reaper: Reaper) -> None:
    original = _original(Journal, "write_soon")

    def wrapped(*given: Any, **named: Any) -> None:
        reaper.at("append.before")
        original(*given, **named)
        reaper.at("append.after")

    Journal.write_soon = wrapped  # type: ignore[method-assign]


def _mark_delivered(reaper: Reaper) -> None:
    original = _original(Journal, "mark_delivered")

    def wrapped(journal: Journal, custody: bytes, seq: int) -> None:
        reaper.at("mark_delivered.before")
        original(journal, custody, seq)
        reaper.at("mark_delivered.after")

    Journal.mark_delivered = wrapped  # type: ignore[method-assign]


def _commit(reaper: Reaper) -> None:
    original = _original(Journal, "_commit")

    def wrapped(journal: Journal, batch: Sequence[Any], *rest: Any) -> Any:
        reaper.at("commit.before")
        if batch:
            last = batch[-1]

            def dying(_: Any) -> None:
                reaper.at("commit.inside")

            last.changes = [*last.changes, Change(dying, light=True)]
        found = original(journal, batch, *rest)
        reaper.at("commit.after")
        return found

    Journal._commit = wrapped  # type: ignore[method-assign]


def _sign(reaper: Reaper) -> None:
    original = _original(Record, "sign")

    def wrapped(*given: Any, **named: Any) -> Any:
        entry = original(*given, **named)
        reaper.at("sign.after")
        return entry

    Record.sign = wrapped  # type: ignore[method-assign]


def _socket(reaper: Reaper, tap: Callable[[bytes], None]) -> None:
    send, receive = _original(WebSocket, "send"), _original(WebSocket, "receive")

    async def sending(socket: WebSocket, message: str | bytes) -> None:
        kind = "text" if isinstance(message, str) else "frames"
        reaper.at(f"send-{kind}.before")
        if not isinstance(message, str):
            tap(message)
        await send(socket, message)
        reaper.at(f"send-{kind}.after")

    async def receiving(socket: WebSocket) -> str | bytes:
        message: str | bytes = await receive(socket)
        reaper.at(f"receive-{'text' if isinstance(message, str) else 'frames'}.after")
        return message

    now, divert = _original(WebSocket, "send_now"), _original(WebSocket, "divert")

    def sending_now(socket: WebSocket, message: str | bytes) -> bool:
        kind = "text" if isinstance(message, str) else "frames"
        reaper.at(f"send-{kind}.before")
        if not isinstance(message, str):
            tap(message)
        sent: bool = now(socket, message)
        if sent:
            reaper.at(f"send-{kind}.after")
        return sent

    def diverting(
        socket: WebSocket,
        take: Callable[[str | bytes], Awaitable[None]],
        poller: Poller | None,
        offer: Callable[[bytes], bool],
    ) -> None:
        def offering(message: bytes) -> bool:
            taken = offer(message)
            if taken:
                reaper.at("receive-frames.after")
            return taken

        async def taking(message: str | bytes) -> None:
            reaper.at(f"receive-{'text' if isinstance(message, str) else 'frames'}.after")
            await take(message)

        divert(socket, taking, poller, offering)

    WebSocket.send = sending  # type: ignore[method-assign]
    WebSocket.receive = receiving  # type: ignore[method-assign]
    WebSocket.send_now = sending_now  # type: ignore[method-assign]
    WebSocket.divert = diverting  # type: ignore[method-assign]


def _wire(reaper: Reaper) -> None:
    """Half of what goes to a peer, then death. What goes to the node has points of its own."""
    original = _original(trio.SocketStream, "send_all")

    async def wrapped(stream: trio.SocketStream, data: Any) -> None:
        if (
            bytes(data[:5]) not in (b"POST ", b"GET /")
            and len(data) > 1
            and reaper.due("wire.half")
        ):
            await original(stream, bytes(data[: len(data) // 2]))
            reaper.die("wire.half")
        await original(stream, data)

    trio.SocketStream.send_all = wrapped  # type: ignore[method-assign]
    now = _original(BoundedStream, "send_now")

    def sending_now(stream: BoundedStream, data: bytes | bytearray) -> int:
        if len(data) > 1 and reaper.due("wire.half"):
            now(stream, data[: len(data) // 2])
            reaper.die("wire.half")
        taken: int = now(stream, data)
        return taken

    BoundedStream.send_now = sending_now  # type: ignore[method-assign]


def _broadcast(reaper: Reaper) -> None:
    original = _original(Rpc, "call")

    async def wrapped(rpc: Rpc, method: str, *given: object) -> Any:
        if method != "eth_sendRawTransaction":
            return await original(rpc, method, *given)
        reaper.at("broadcast.before")
        found = await original(rpc, method, *given)
        reaper.at("broadcast.after")
        return found

    Rpc.call = wrapped  # type: ignore[method-assign]
