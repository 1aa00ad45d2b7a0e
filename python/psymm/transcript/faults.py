"""What SQLite, the disk and a damaged row say while a journal is read or written, as our errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from psymm.errors import (
    BadOpening,
    JournalCorrupt,
    JournalError,
    JournalLocked,
    JournalUnwritable,
)


@contextmanager
def typed(path: Path) -> Iterator[None]:
    """Whatever damage makes of a row on its way to us has a name.

    Inside, what SQLite raises becomes a JournalError, a row of the wrong shape JournalCorrupt.
    """
    try:
        yield
    except sqlite3.Error as failed:
        raise as_journal_error(path, failed) from None
    except (TypeError, ValueError, OverflowError, IndexError, BadOpening) as damaged:
        raise JournalCorrupt(
            f"a row is not what was written there ({type(damaged).__name__})", journal=path
        ) from None


def as_journal_error(
    path: Path, failed: sqlite3.Error | OSError | UnicodeDecodeError
) -> JournalError:
    """Whether the disk refuses, another process writes, or the file is damaged."""
    if isinstance(failed, UnicodeDecodeError):
        # SQLite's words for what is wrong quote the damage.
        return JournalCorrupt("the file is damaged", journal=path)
    if isinstance(failed, OSError):
        why = failed.strerror or type(failed).__name__
        return JournalUnwritable(f"the disk refuses: {why}", journal=path)
    code = getattr(failed, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return JournalLocked(journal=path)
    if code == sqlite3.SQLITE_IOERR_SHORT_READ:
        return JournalCorrupt("the file is cut off", journal=path)
    if code & 0xFF in _UNWRITABLE:
        return JournalUnwritable(f"{_UNWRITABLE[code & 0xFF]} ({failed})", journal=path)
    return JournalCorrupt(f"the file is damaged ({failed})", journal=path)


_UNWRITABLE: Final = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the journal is read-only",
    sqlite3.SQLITE_IOERR: "the disk reports an error",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
    sqlite3.SQLITE_PERM: "the file may not be opened",
    sqlite3.SQLITE_NOMEM: "there is no memory left",
}
