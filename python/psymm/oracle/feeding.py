"""Brings lines from standard input or a local socket to a `PriceBoard`.

A line that is malformed is logged and left out, a huge one is skipped to its end: what feeds
prices can be restarted or mended while the signer runs, and until then its feeds grow stale.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from psymm.oracle.rounds import OracleError
from psymm.oracle.sources import MOST_LINE_BYTES, PriceBoard
from psymm.storage import translate_errors

log = logging.getLogger(__name__)

_READ_BYTES: Final = 65_536
_WRITERS: Final = 8
"""Programs that may write prices to the socket at once."""


async def read_lines(
    stream: trio.abc.ReceiveStream, board: PriceBoard, now: Callable[[], int] = time.time_ns
) -> None:
    """Write all lines of a stream to the board, until it ends. Cancelled: raises Cancelled."""
    rest = b""
    skipping = False
    while True:
        try:
            data = await stream.receive_some(_READ_BYTES)
        except trio.BrokenResourceError:
            return
        if not data:
            return
        *lines, rest = (rest + bytes(data)).split(b"\n")
        for line in lines:
            if skipping:
                skipping = False
            elif line.strip():
                _write(board, line, now())
        if len(rest) > MOST_LINE_BYTES:
            if not skipping:
                log.warning("price-line-too-long", extra={"most": MOST_LINE_BYTES})
            rest, skipping = b"", True


async def serve_lines(
    path: Path,
    board: PriceBoard,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Read lines from everybody who connects to a Unix socket, which only its owner may, until
    cancelled. Raises StorageError if the socket cannot be made. Cancelled: removes it."""
    limiter = trio.CapacityLimiter(_WRITERS)

    async def serve(stream: trio.SocketStream) -> None:
        async with limiter:
            await read_lines(stream, board)

    with translate_errors(path):
        made = _bind(path)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(made))
    try:
        task_status.started()
        await trio.serve_listeners(serve, [listener])
    finally:
        with suppress(OSError):
            os.unlink(path)


def _bind(path: Path) -> socket.socket:
    """A listening socket that only its owner may connect to."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            made.bind(str(path))
        except OSError as taken:
            if taken.errno != errno.EADDRINUSE or _is_served(path):
                raise
            # Left behind by a process that was killed.
            path.unlink()
            made.bind(str(path))
        # Set before it listens, so nobody could connect under the mode that the umask left.
        path.chmod(0o600)
        made.listen(_WRITERS)
    except BaseException:
        made.close()
        raise
    return made


def _is_served(path: Path) -> bool:
    """Whether it is anything but a socket that nobody listens at."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        try:
            asking.connect(str(path))
        except ConnectionRefusedError:
            return False
    return True


def _write(board: PriceBoard, line: bytes, now_ns: int) -> None:
    try:
        board.write(line, now_ns)
    except OracleError as wrong:
        log.warning("price-line-invalid", extra={"error": str(wrong)})
