"""The journal's file: lock it for the one writer, open it, and check it.

Opening for writing: `hold_journal` locks the lock file and the journal's inode, then
`connect_writer` opens, checks and folds. Opening for reading: `connect_reader` opens and checks. A
second writer is refused under any path. Both check the file against its own heads and against the
high-water mark next to it. A journal that has lost frames does not open.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from psymm.errors import (
    JournalCorrupt,
    JournalError,
    JournalLocked,
    JournalOlder,
    JournalVersion,
    Missing,
)
from psymm.journal import retention
from psymm.journal.codec import reopen_logged_out
from psymm.journal.faults import as_journal_error, translate_journal_errors
from psymm.journal.heads import (
    frame_digest,
    heads_of,
    is_bytes,
    read_newer_heads,
    stored_heads,
    upsert_heads,
)
from psymm.journal.high_water_mark import (
    HighWaterMark,
    read_high_water_mark,
    write_high_water_mark,
)
from psymm.journal.rounds import last_place
from psymm.journal.schema import VERSION, check_pages, create_tables, version_of
from psymm.private_files import (
    keep_database_private,
    keep_private,
    private_directory,
    sync_path,
)
from psymm.storage import DiskFull, DiskReadOnly, FileForbidden, storage_error, translate_errors
from psymm.transcript.heads import Heads


@dataclass(frozen=True, slots=True)
class JournalIdentity:
    """What identifies a journal."""

    id: bytes
    lineage: bytes
    """Of this file. A backup of it has another."""
    frames: int
    """Of all custodies."""
    inode: tuple[int, int] = (0, 0)
    """(device, number) of the file."""
    doubtful: bool = False
    """Whether it was ever found without its high-water mark."""


def without_links(path: Path) -> Path:
    """The path without symbolic links. SQLite names the log after it. Raises StorageError."""
    with translate_errors(path):
        return path.resolve()


def expect_journal(path: Path) -> None:
    """Raises JournalError if there is no journal, StorageError if we cannot look."""
    with translate_errors(path):
        if not path.exists():
            raise JournalError("there is no journal here", path=path)


_held: set[tuple[int, int]] = set()
"""Journals that this process writes, by device and inode. Check this before opening a file: closing
any descriptor of a file drops the locks that SQLite holds on it in this process."""


@contextmanager
def hold_journal(path: Path, create: bool) -> Iterator[int]:
    """Be the only writer of the journal at `path`, which has no links.

    Yields the descriptor of `<path>.lock`. The journal's own inode is locked, too, so that neither
    another path nor a missing lock file admits a second writer. The kernel releases the locks when
    the process dies.

    Raises JournalLocked, StorageError, or JournalError if there is no journal and not `create`.
    """
    if not create:
        expect_journal(path)
    with ExitStack() as held:
        try:
            private_directory(path.parent)
            keep_private(path.with_name(path.name + ".lock"))
            keep_database_private(path, create=False)
            if path.exists():
                _free_here(path)
            # The lock file first: it is there before the journal is, so two processes that both
            # want to create the journal meet here.
            lock = _opened(held, path.with_name(path.name + ".lock"))
            _locked(path, lock)
            if not path.exists():
                _not_gone(path, lock)
            journal = _opened(held, path)
            _locked(path, journal)
            inode = inode_of(os.fstat(journal))
            if os.fstat(journal).st_nlink != 1:
                # SQLite would keep a separate write-ahead log for each name.
                raise JournalError(
                    "the journal has more than one name (hard links); leave it one",
                    journal=path,
                    links=os.fstat(journal).st_nlink,
                )
        except OSError as failed:
            raise as_journal_error(path, failed) from None
        _held.add(inode)
        try:
            yield lock
        finally:
            _held.discard(inode)


def connect_writer(
    path: Path, create: bool, lock: int
) -> tuple[sqlite3.Connection, JournalIdentity]:
    """A checked connection for writing. The caller holds the journal with `lock`.

    An empty file becomes a new journal if `create`. Raises JournalCorrupt, JournalOlder,
    JournalVersion, StorageError, JournalError.
    """
    with translate_journal_errors(path):
        new = path.stat().st_size == 0
        if new and not create:
            raise JournalCorrupt("the journal is empty", journal=path)
        base = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        with translate_journal_errors(path):
            new = new or (create and _never_begun(base))
            if new:
                _not_gone(path, lock)
            return base, _begin(path, base, new, lock)
    except BaseException:
        base.close()
        raise


def connect_reader(path: Path) -> sqlite3.Connection:
    """A checked connection for reading.

    Raises JournalCorrupt, JournalVersion, JournalError, StorageError, FileNotPrivate.
    """
    resolved = without_links(path)
    keep_database_private(resolved, create=False)
    # The mark first: frames that a running writer adds later cannot look like a loss.
    mark = mark_of(resolved)
    with translate_journal_errors(path):
        base = open_read_only(resolved)
    try:
        _check_mark(path, _check(path, base), mark)
    except BaseException:
        base.close()
        raise
    return base


def open_read_only(path: Path) -> sqlite3.Connection:
    """An unchecked connection for reading; `path` has no links.

    SQLite creates files next to a database even to read it, and cannot on a read-only or full disk.
    Then it is read without them. That is safe, because nobody writes it: a writer would have
    created them. Its write-ahead log is read, too; without it, an earlier moment would pass for the
    newest. Raises sqlite3.Error, OSError.
    """
    base = _connected(path, "mode=ro")
    try:
        # SQLite opens the extra files at the first read.
        base.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as failed:
        base.close()
        refused = storage_error(path, failed)
        if not isinstance(refused, DiskFull | DiskReadOnly | FileForbidden):
            raise
        if not _nobody_writes(path):
            raise
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size:
            base = _connected(path, "mode=ro&vfs=unix-none")
            base.execute("PRAGMA locking_mode = EXCLUSIVE")
        else:
            base = _connected(path, "immutable=1")
    return base


def _connected(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.as_uri()}?{how}", uri=True, isolation_level=None, check_same_thread=False
    )


def _nobody_writes(path: Path) -> bool:
    """Whether no process holds the journal for writing."""
    if inode_of(path.stat()) in _held:
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def inode_of(found: os.stat_result) -> tuple[int, int]:
    """(device, number): identifies a file independently of its names."""
    return found.st_dev, found.st_ino


def _opened(held: ExitStack, path: Path) -> int:
    new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    if new:
        os.fchmod(descriptor, 0o600)  # The umask may have removed bits.
    held.callback(os.close, descriptor)
    return descriptor


def _locked(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalLocked(journal=path) from None


def _free_here(path: Path) -> None:
    if inode_of(path.stat()) in _held:
        raise JournalLocked(journal=path)


def _never_begun(base: sqlite3.Connection) -> bool:
    """Whether a process died while it created the file: there is one page without tables."""
    (pages,) = base.execute("PRAGMA page_count").fetchone()
    (tables,) = base.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return bool(pages <= 1 and tables == 0)


def _not_gone(path: Path, lock: int) -> None:
    """Refuse to create a journal where one with frames has been: numbers would be reused."""
    mark = read_high_water_mark(lock)
    if mark is not None and mark.frames:
        raise JournalOlder(
            "the journal is gone or empty, though its high-water mark counts frames",
            journal=path,
            frames=mark.frames,
        )


def _begin(path: Path, base: sqlite3.Connection, new: bool, lock: int) -> JournalIdentity:
    """Create the tables of a new journal, or check existing ones. Then write the mark and fold."""
    if new:
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = FULL")
        base.execute("BEGIN IMMEDIATE")
        create_tables(base)
        base.execute(
            "INSERT INTO journal VALUES (?, ?, NULL, NULL, ?, NULL)",
            (VERSION, secrets.token_bytes(16), secrets.token_bytes(16)),
        )
        base.execute("COMMIT")
        # The file's name must survive a power loss, too: what it will hold is sent to peers.
        sync_path(path.parent)
    base.execute("PRAGMA synchronous = FULL")
    base.execute("PRAGMA foreign_keys = ON")
    mode = base.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise JournalError("this file system cannot hold a WAL journal", journal=path, mode=mode)
    identity = _check(path, base)
    mark = read_high_water_mark(lock)
    # Compared before it is written below: nothing else knows of frames that the file has lost.
    _check_mark(path, identity, mark)
    ours = mark is not None and mark.lineage == identity.lineage
    doubtful = not new and (not ours or (mark is not None and mark.doubtful))
    # Synced once: after a power loss, an old mark must not claim that the journal was closed in
    # order.
    write_high_water_mark(lock, identity.lineage, identity.frames, doubtful=doubtful)
    os.fsync(lock)
    reopen_logged_out(base)
    _fold_heads(path, base)
    return replace(identity, doubtful=doubtful)


def _fold_heads(path: Path, base: sqlite3.Connection) -> None:
    """Fold the heads of custodies with frames after their row of `heads`."""
    custodies = [row[0] for row in base.execute("SELECT custody FROM heads")]
    base.execute("BEGIN IMMEDIATE")
    for custody in custodies:
        stored, newest = stored_heads(path, base, custody), heads_of(path, base, custody)
        if newest != stored:
            upsert_heads(base, newest)
    base.execute("DELETE FROM newer_heads")
    base.execute("COMMIT")


def mark_of(path: Path) -> HighWaterMark | None:
    """The high-water mark next to a journal; None if it cannot be read."""
    try:
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDONLY)
    except OSError:
        return None
    try:
        return read_high_water_mark(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _check_mark(path: Path, identity: JournalIdentity, mark: HighWaterMark | None) -> None:
    if mark is not None and mark.lineage == identity.lineage and identity.frames < mark.frames:
        raise JournalOlder(journal=path, held=identity.frames, were=mark.frames)


def _check(path: Path, base: sqlite3.Connection) -> JournalIdentity:
    """Check SQLite's pages, our version, the heads, and that no lane misses a number."""
    with translate_journal_errors(path), one_moment(base):
        version = version_of(path, base)
        if version != VERSION:
            raise JournalVersion(journal=path, version=version, known=VERSION)
        check_pages(path, base)
        journal_id, lineage = base.execute("SELECT id, lineage FROM journal").fetchone()
        if not is_bytes(journal_id, 16) or not is_bytes(lineage, 16):
            raise JournalCorrupt("the journal's own row is damaged", journal=path)
        held = {row[0] for row in base.execute("SELECT custody FROM custodies")}
        kept = {row[0] for row in base.execute("SELECT custody FROM heads")}
        for custody in held ^ kept:
            lacks = "heads" if custody in held else "opening"
            raise JournalCorrupt(
                f"a custody's {lacks} are missing"
                if lacks == "heads"
                else "a custody's opening is missing",
                journal=path,
                missing=[Missing(bytes(custody), lacks)],
            )
        newer = read_newer_heads(base.execute("SELECT heads FROM newer_heads ORDER BY id"))
        frames = sum(
            _check_custody(path, base, custody, newer.get(custody)) for custody in sorted(held)
        )
        (every,) = base.execute("SELECT coalesce(sum(frames), 0) FROM rounds").fetchone()
        if every + sum(gone.arrivals for gone in retention.all_pruned(base).values()) != frames:
            raise JournalCorrupt("there are frames of no custody", journal=path, frames=every)
        return JournalIdentity(journal_id, lineage, frames, inode_of(path.stat()))


def _check_custody(
    path: Path, base: sqlite3.Connection, custody: bytes, newer: Heads | None
) -> int:
    """Check a custody and return its number of frames, including pruned ones.

    `newer` is what the last commits say about its heads.
    """
    kept, gone = heads_of(path, base, custody), retention.pruned_of(base, custody)
    (held,) = base.execute(
        "SELECT coalesce(sum(frames), 0) FROM rounds WHERE custody = ?", (custody,)
    ).fetchone()
    highest = max(last_place(base, custody), gone.arrivals)
    named, every = kept.heads, kept.heads.trader[0] + kept.heads.solver[0]
    if newer is not None and newer.trader[0] + newer.solver[0] > every:
        named, every = newer, newer.trader[0] + newer.solver[0]
    if not held + gone.arrivals == highest == kept.frames == every:
        raise JournalCorrupt(
            "frames are missing", journal=path, custody=custody, stated=every, held=held
        )
    for lane in (0, 1):
        seq, digest = named.of(lane)
        last_digest = frame_digest(path, base, custody, lane, seq) if seq else custody
        if last_digest != digest:
            raise JournalCorrupt(
                "the last frame is not the one that the heads name",
                journal=path,
                custody=custody,
                lane=lane,
                seq=seq,
            )
    return kept.frames


@contextmanager
def one_moment(base: sqlite3.Connection) -> Iterator[None]:
    """Read one consistent snapshot inside, even while the writer commits."""
    if base.in_transaction:
        yield
        return
    base.execute("BEGIN")
    try:
        yield
    finally:
        with suppress(sqlite3.Error):
            base.execute("ROLLBACK")
