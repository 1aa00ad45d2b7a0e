"""The process's standard streams, whatever they are: closed, full, a broken pipe, ASCII only.

A command that moves money must not end half way because nobody reads what it says. So writing to
standard output or standard error never raises: the first failure is remembered, what comes after
it is dropped, and the exit code tells (`output_failure`, exit 11).

A descriptor from 0 to 2 that is closed would be given to the next file that is opened, and what a
library prints would then be written into that file. So all three are opened before anything else.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import Final, TextIO, cast

_PLAIN: Final = {
    "…": "...",
    "→": "->",
    "–": "-",
    "—": "-",
    "×": "x",
    "‖": "||",
    "≥": ">=",
    "≤": "<=",
}


def prepare_streams() -> None:
    """Make all three standard streams usable. Called once, before anything else is opened."""
    for number in (0, 1, 2):
        with suppress(OSError):
            if _is_closed(number):
                os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor, which is this one
    codecs.register_error("psymm-plain", _in_plain_letters)
    if sys.stdin is None:
        sys.stdin = io.StringIO()
    sys.stdout = _lasting(sys.stdout, 1)
    sys.stderr = _lasting(sys.stderr, 2)


def output_failure() -> OSError | None:
    """Why standard output could not be written, None while all of it was."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failed if isinstance(raw, _Lasting) else None


def somebody_can_answer() -> bool:
    """Standard input is a terminal."""
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


class _Lasting(io.RawIOBase):
    """A descriptor to write to that remembers its first failure instead of raising it."""

    def __init__(self, descriptor: int, failed: OSError | None) -> None:
        super().__init__()
        self.failed = failed
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        while self.failed is None:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                # Somebody who shares it made it so; it is waited for.
                waiting = select.poll()
                waiting.register(self._descriptor, select.POLLOUT)
                waiting.poll()
            except OSError as failed:
                self.failed = failed
        return len(data)


def _lasting(stream: TextIO | None, descriptor: int) -> TextIO:
    closed = OSError(errno.EBADF, "it is closed") if stream is None else None
    raw = _Lasting(descriptor, closed)
    return io.TextIOWrapper(
        io.BufferedWriter(cast(io.FileIO, raw)),  # typeshed wants more than BufferedWriter does
        encoding=(stream and stream.encoding) or "utf-8",
        errors="psymm-plain",
        line_buffering=raw.isatty(),
    )


def _is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    """What a terminal's encoding lacks, in letters that it has."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = "".join(
        _PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode() for one in text
    )
    return plain, error.end
