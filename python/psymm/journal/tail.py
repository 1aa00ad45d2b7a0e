"""A custody's frames as they come into a journal, read beside the daemon that writes it.

Reading takes no lock that the writer would wait for and keeps no snapshot open between two looks,
so the writer's checkpoints go on. The writer may stop, be killed and come back, and its file may
be replaced (repaired, restored from a backup): the reader opens it again and goes on where it was.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

import trio

from psymm.errors import (
    JournalCorrupt,
    JournalError,
    JournalLocked,
    JournalVersion,
    UnknownCustody,
)
from psymm.journal.codec import JournalledCustody, JournalledFrame
from psymm.journal.connection import inode_of
from psymm.journal.reader import JournalReader, open_journal_reader
from psymm.storage import StorageError, translate_errors

CHUNK: Final = 256
"""Frames in memory at once."""
POLL_S: Final = 0.2


async def read_frames(
    journal: JournalReader, custody: bytes
) -> AsyncGenerator[JournalledFrame, None]:
    """All frames of a custody, in order of arrival, CHUNK of them in memory at a time.

    Raises JournalCorrupt. Cancelled: raises Cancelled, nothing changed.
    """
    after = 0
    while frames := await journal.frames(custody, after=after, at_most=CHUNK):
        for frame in frames:
            yield frame
        after = frames[-1].arrival


async def tail(
    path: Path, custody: bytes
) -> AsyncGenerator[JournalledFrame | JournalledCustody, None]:
    """All frames of a custody, and then each as it comes; between them the custody itself, first
    of all and whenever its state or reason has changed. Never ends by itself.

    Raises UnknownCustody, JournalCorrupt (a journal that lost frames already given included),
    JournalVersion, StorageError. Cancelled: raises Cancelled, nothing changed.
    """
    after = 0
    shown: tuple[str, str] | None = None
    while True:
        try:
            place = _place(path)
            async with open_journal_reader(path) as journal:
                version: int | None = None
                while _place(path) == place:
                    current = await journal.version()
                    if current == version:
                        await trio.sleep(POLL_S)
                        continue
                    version = current
                    held = await journal.custody(custody)
                    if (held.state, held.reason) != shown:
                        shown = (held.state, held.reason)
                        yield held
                    if held.frames < after:
                        raise JournalCorrupt(
                            "the journal holds fewer frames than it did",
                            journal=path,
                            held=held.frames,
                            read=after,
                        )
                    while frames := await journal.frames(custody, after=after, at_most=CHUNK):
                        for frame in frames:
                            yield frame
                        after = frames[-1].arrival
        except (JournalCorrupt, JournalVersion, UnknownCustody):
            raise
        except JournalLocked:
            await trio.sleep(POLL_S)  # a writer that was killed is being recovered from
        except (JournalError, StorageError):
            if shown is None:
                raise
            await trio.sleep(POLL_S)  # on its way to being replaced


def _place(path: Path) -> tuple[int, int]:
    with translate_errors(path):
        return inode_of(path.stat())
