"""Making the standard streams safe: they may be closed, full, a broken pipe, or ASCII only.

A command that moves money must not stop half-way because nobody reads its output. So writing to
standard output or standard error never raises: the first failure is stored, later output is
dropped, and the exit code is 11 (`output_failure`).

If a descriptor from 0 to 2 is closed, the next opened file would get it, and a library's output
would go into that file. So all three are opened before anything else.
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
    """Make all three standard streams usable. Call it once, before anything else is opened."""
    for number in (0, 1, 2):
        with suppress(OSError):
            if _is_closed(number):
                os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor, which is this one
    codecs.register_error("psymm-plain", _in_plain_letters)
    if sys.stdin is None:
        sys.stdin = io.StringIO()
    sys.stdout = _fail_safe(sys.stdout, 1)
    sys.stderr = _fail_safe(sys.stderr, 2)


def output_failure() -> OSError | None:
    """Why standard output could not be written; None if all of it was."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failed if isinstance(raw, _FailSafeOutput) else None


def is_interactive() -> bool:
    """Whether standard input is a terminal, so that somebody can answer a question."""
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


class _FailSafeOutput(io.RawIOBase):
    """An output descriptor that stores its first failure instead of raising it."""

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
                # Another process that shares the descriptor made it non-blocking, so wait.
                waiting = select.poll()
                waiting.register(self._descriptor, select.POLLOUT)
                waiting.poll()
            except OSError as failed:
                self.failed = failed
        # Dropped. `output_failure` reports it when the command has finished.
        return len(data)


def _fail_safe(stream: TextIO | None, descriptor: int) -> TextIO:
    closed = OSError(errno.EBADF, "it is closed") if stream is None else None
    raw = _FailSafeOutput(descriptor, closed)
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
    """Replace characters that the terminal's encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = "".join(
        _PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode() for one in text
    )
    return plain, error.end
