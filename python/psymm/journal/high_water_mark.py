"""The high-water mark next to a journal: how many frames were durable at its last commit.

SQLite cannot notice that its last commits are gone. A lost, truncated or damaged write-ahead log,
or an older copy of the file, opens as a sound database of an earlier moment. So the writer stores
the number of durable frames in `<journal>.lock`, which it holds open anyway. It writes the mark
after every commit, before anything is sent. Before the commit it writes how many frames there will
be.

- A journal with fewer frames than the mark has lost some.
- A journal with as many frames as there can have been has lost none.

The mark costs no fsync. So it is exact only if nothing of it can have been lost: the journal was
closed in order (then the mark is synced), or the machine has not been restarted since. Otherwise it
is a lower bound: it can prove a loss, but cannot exclude one. A journal without a mark may be an
older copy. It is opened, because somebody may just have deleted the lock file, but its new mark
stays a lower bound forever ("doubtful").

    8 bytes    "pSymmY1\\n"
    16         the journal's lineage: a mark of another file says nothing about this one
    8          durable frames of all custodies, big-endian
    8          the most that there can have been: more than the former while a commit is under way
    16         the id of the machine's boot; zero if the system does not tell
    1          1 if the journal was closed in order; plus 2 if it was ever found without a mark
    15         the start of the SHA-256 of the bytes before
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

MAGIC: Final = b"pSymmY1\n"
_LENGTH: Final = 72


@dataclass(frozen=True, slots=True)
class HighWaterMark:
    """A high-water mark."""

    lineage: bytes
    """The file that it belongs to."""
    frames: int
    """How many frames were durable at least."""
    most: int | None
    """How many there can have been at most; None if the mark is only a lower bound."""
    doubtful: bool = False
    """Whether the journal was ever found without a mark."""


def read_high_water_mark(descriptor: int) -> HighWaterMark | None:
    """The high-water mark in an open file; None if there is none or it is damaged."""
    raw = os.pread(descriptor, _LENGTH, 0)
    # A torn write counts as no mark: the journal then opens as doubtful, and never as proven.
    if len(raw) != _LENGTH or raw[:8] != MAGIC or sha256(raw[:57]).digest()[:15] != raw[57:]:
        return None
    boot = raw[40:56]
    closed, doubtful = bool(raw[56] & 1), bool(raw[56] & 2)
    complete = not doubtful and (closed or (any(boot) and boot == _BOOT))
    most = int.from_bytes(raw[32:40]) if complete else None
    return HighWaterMark(raw[8:24], int.from_bytes(raw[24:32]), most, doubtful)


def write_high_water_mark(
    descriptor: int,
    lineage: bytes,
    frames: int,
    *,
    most: int | None = None,
    closed: bool = False,
    doubtful: bool = False,
) -> None:
    """Write the mark. Synced only if `closed`. Raises OSError.

    Args:
        descriptor: of the lock file.
        lineage: the journal's.
        frames: how many are durable.
        most: how many there will be, if a commit is about to begin.
        closed: whether the journal was closed in order.
        doubtful: whether there may have been more frames before.
    """
    highest = frames if most is None else most
    body = (
        MAGIC
        + lineage
        + frames.to_bytes(8)
        + highest.to_bytes(8)
        + _BOOT
        + bytes([closed | doubtful << 1])
    )
    os.pwrite(descriptor, body + sha256(body).digest()[:15], 0)
    if closed:
        os.fsync(descriptor)


def _boot_id() -> bytes:
    try:
        said = Path("/proc/sys/kernel/random/boot_id").read_text()
        return bytes.fromhex(said.strip().replace("-", "").rjust(32, "0"))[:16]
    except (OSError, ValueError):
        return bytes(16)


_BOOT: Final = _boot_id()
