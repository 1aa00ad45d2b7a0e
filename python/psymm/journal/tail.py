"""Follow a custody's frames as they enter a journal, while a daemon writes it.

Reading takes no lock that the writer would wait for. It keeps no snapshot open between two polls,
so SQLite's checkpoints are not blocked. The writer may stop, be killed and restart, and its file
may be replaced (repaired, or restored from a backup): the reader then opens the file again and
continues where it was.
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
"""How many frames are in memory at once."""
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
    """All frames of a custody, and then each new one. Never ends.

    Also yields the custody itself: first, and whenever its state or reason has changed.

    Raises UnknownCustody, JournalCorrupt (also if the journal lost frames that were yielded
    before), JournalVersion, StorageError. Cancelled: raises Cancelled, nothing changed.
    """
    after = 0
    shown: tuple[str, str] | None = None
    while True:
        try:
            # Before opening: if the file is replaced in between, the places differ and we open
            # again.
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
            await trio.sleep(POLL_S)  # SQLite recovers from a killed writer.
        except (JournalError, StorageError):
            if shown is None:
                raise
            await trio.sleep(POLL_S)  # The file is being replaced.


def _place(path: Path) -> tuple[int, int]:
    with translate_errors(path):
        return inode_of(path.stat())
