"""Translate errors of SQLite, the disk and damaged rows into the journal's errors."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psymm.errors import (
    BadOpening,
    JournalCorrupt,
    JournalError,
    JournalLocked,
)
from psymm.storage import FileBusy, StorageError, storage_error

JournalFailure = JournalError | StorageError
"""Why a journal cannot be read or written: its own state, or the machine under it."""


@contextmanager
def translate_journal_errors(path: Path) -> Iterator[None]:
    """Translate errors raised inside.

    Errors of the disk and of SQLite become a StorageError or a JournalError. A row of the wrong
    shape becomes JournalCorrupt.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as failed:
        raise as_journal_error(path, failed) from None
    except (
        TypeError,
        ValueError,
        OverflowError,
        IndexError,
        struct.error,
        BadOpening,
    ) as damaged:
        raise JournalCorrupt(
            f"a row is not what was written there ({type(damaged).__name__})", journal=path
        ) from None


def as_journal_error(
    path: Path, failed: sqlite3.Error | OSError | UnicodeDecodeError
) -> JournalFailure:
    """The error that says whether the machine refuses, another process writes, or damage."""
    if isinstance(failed, UnicodeDecodeError):
        # SQLite's message quotes the damaged bytes, so it is left out.
        return JournalCorrupt("the file is damaged", journal=path)
    found = storage_error(path, failed)
    if isinstance(found, FileBusy):
        return JournalLocked(journal=path)
    if found is not None:
        return found
    if isinstance(failed, OSError):
        return StorageError(path, failed.strerror or type(failed).__name__)
    if isinstance(failed, sqlite3.ProgrammingError | sqlite3.InterfaceError):
        return JournalError(f"SQLite refuses ({failed})", journal=path)
    return JournalCorrupt(f"the file is damaged ({failed})", journal=path)
