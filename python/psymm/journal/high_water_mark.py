"""The high-water mark beside a journal: how many frames were durable when it was last written to.

SQLite cannot tell that its last commits are gone: a lost, cut or bent write-ahead log, or an older
copy put in the file's place, opens as a sound database of an earlier moment. So the number of
frames that are durable is written, after every commit and before anything of it is sent, into
`<journal>.lock`, which every writer holds anyhow; and before the commit, how many there will be. A
journal with fewer frames than its high-water mark has lost some; one with as many as there can have
been has lost none.

It costs no fsync, and so it is complete only where nothing of it can have been lost: closed in
order (then it is synced), or written since the machine was started. Otherwise it is a lower bound,
which can convict a journal but not acquit it. A journal that is found without its high-water mark
may be an older one: it is opened, since somebody may only have deleted a lock file, but the
high-water mark that it gets then stays a lower bound for good.

    8 bytes    "pSymmY1\\n"
    16         the journal's lineage: another file's high-water mark says nothing about this one
    8          frames that were durable, of all custodies, big-endian
    8          the most that there can have been: more than that while a commit was under way
    16         the boot during which it was written, zero where the system does not say
    1          1 if the journal was closed in order; 2 more if it was ever found without its
    high-water mark
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
    """lineage: whose. frames: that were durable at least. most: that there can have been, or None
    where nothing says."""

    lineage: bytes
    frames: int
    most: int | None
    doubtful: bool = False


def read_high_water_mark(descriptor: int) -> HighWaterMark | None:
    """The high-water mark in an open file, or None where there is none, or it is damaged."""
    raw = os.pread(descriptor, _LENGTH, 0)
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
    """Write it; synced only where the journal is `closed`.

    most: where a commit is about to begin, the frames that there will be. doubtful: whether there
    may have been more before. Raises OSError.
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
