"""OwnedDatabase: a service's SQLite file, which one process of one owner has open.

A commit is on the disk when its block ends. A file of another owner, version or process is refused
by name, with the error of the service.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from psymm.errors import PSymmError
from psymm.private_files import keep_database_private
from psymm.storage import FileBusy, StorageError, storage_error

_FACTS = "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT"


class OwnedDatabase:
    """The file. All methods block for at most one disk write.

    Attributes:
        role: what its owner is called, for error texts.
        tables: the statements that make its tables.
        version: of its tables.
        unusable: the error for a file that cannot be used.
    """

    role: ClassVar[str]
    tables: ClassVar[str]
    version: ClassVar[int]
    unusable: ClassVar[type[PSymmError]]

    def __init__(self, path: Path, owner: Mapping[str, str]) -> None:
        """Open or create the file.

        owner: by name, what the file belongs to.
        Raises StorageError if the system refuses; `unusable` if the file is damaged, of another
        version or owner, or open in another process.
        """
        self._path = path
        self._lock = threading.Lock()
        keep_database_private(path)
        try:
            self._db = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=1.0
            )
            try:
                # Another process would do the same work again. FULL, because in WAL mode anything
                # less can lose the last commits when power fails, and others may have what they
                # record.
                self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute("PRAGMA foreign_keys = ON")
                self._open(owner)
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            raise self._refused(error) from None

    def _open(self, owner: Mapping[str, str]) -> None:
        with self._transaction():
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in (_FACTS, *self.tables.split(";")):
                    self._db.execute(statement)
                self._db.executemany("INSERT INTO facts VALUES (?, ?)", owner.items())
                self._db.execute(f"PRAGMA user_version = {self.version}")
                return
            if version != self.version:
                raise self.unusable(
                    "it was written by another version of this program",
                    path=self._path,
                    found=version,
                    expected=self.version,
                )
            known = dict(self._db.execute("SELECT name, value FROM facts").fetchall())
            for name, value in owner.items():
                if known.get(name) != value:
                    raise self.unusable(
                        f"it belongs to another {name}; use another home for this {self.role}",
                        path=self._path,
                        found=known.get(name),
                        expected=value,
                    )

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._db.execute("COMMIT")
                except BaseException:
                    # SQLite may have rolled back already, for example on a full disk.
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except (sqlite3.Error, OverflowError) as error:
                raise self._refused(error) from None

    def _refused(self, failed: Exception) -> PSymmError:
        found: StorageError | None = storage_error(self._path, failed)
        if isinstance(found, FileBusy):
            return self.unusable("another process has it open", path=self._path)
        return found or self.unusable(str(failed), path=self._path)
