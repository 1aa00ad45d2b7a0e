"""Typed errors for files that the system or SQLite refuses.

A full or read-only disk, somebody else's file, too many open files: none of these changes the
file's content. So they are a family of errors of their own, and never reported as damage. Only a
checksum, or SQLite itself, shows that a file is damaged. For those errors `storage_error` returns
None, and the file's own module reports them.

SQLite often hides the cause. It "cannot open" a database on a read-only file system, and reports an
exhausted quota as an input/output error. In these cases the directory is examined for the cause.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from psymm.errors import PSymmError


class StorageError(PSymmError):
    """This machine cannot read or write a file. The file's content is unchanged."""

    code = "storage"
    what = "the system refuses a file"
    remedy = "The file's content is unchanged. Fix what the system reports, then try again"

    def __init__(self, path: Path | None = None, reason: str = "") -> None:
        self.path = path
        self.reason = reason
        values: dict[str, object] = {} if path is None else {"path": _shortened(str(path))}
        if reason:
            values["reason"] = reason
        super().__init__("", **values)


def _shortened(path: str) -> str:
    """A path shortened for display; one that is too long for the system would fill the screen."""
    return path if len(path) <= 400 else f"{path[:150]}…{path[-150:]}"


class DiskFull(StorageError):
    """No room: the disk, a quota, or the largest size that a file may have."""

    code = "disk-full"
    what = "the disk is full"
    remedy = "Nothing half-written was kept. Free some space, then try again"


class DiskReadOnly(StorageError):
    code = "disk-read-only"
    what = "the disk is read-only"
    remedy = "Nothing was written. Mount it for writing, then try again"


class FileForbidden(StorageError):
    code = "file-forbidden"
    what = "the system does not allow this user to use the file"
    remedy = "Check the owner and mode of the file and of its directory (ls -ld)"


class DiskFailed(StorageError):
    code = "disk-failed"
    what = "the disk reports an error"
    remedy = "Check the disk and the system's log (dmesg), then try again"


class FileBusy(StorageError):
    code = "file-busy"
    what = "another process uses the file"
    remedy = "Stop that process first, or try again once it has ended"


class FileUnavailable(StorageError):
    code = "file-unavailable"
    what = "the file cannot be opened"
    remedy = "Check that its path exists, and that no part of it was moved or unmounted"


class PathUnusable(StorageError):
    code = "path-unusable"
    what = "no file can be at this path"
    remedy = "Choose another path, or remove what is in the way"


class TooManyFiles(StorageError):
    code = "too-many-open-files"
    what = "no more files can be opened"
    remedy = "Close other programs, or raise the limit (ulimit -n)"


class OutOfMemory(StorageError):
    code = "out-of-memory"
    what = "there is no memory left"
    remedy = "Close other programs, then try again"


class NoHome(PSymmError):
    """The directory for this user's files is not known."""

    code = "no-home"
    what = "$HOME is not set, and the system does not know this user"
    remedy = "Give --home DIRECTORY or set $PSYMM_HOME, or set $HOME to an absolute path"


def user_directory(variable: str, *below: str) -> Path:
    """$`variable`, an XDG base directory; if it is not set, `below` in the user's home.

    Raises NoHome, also for a relative $HOME, which would depend on the current directory.
    """
    chosen = os.environ.get(variable)
    if chosen:
        return Path(chosen)
    if os.environ.get("HOME") == "":
        raise NoHome("$HOME is empty")
    try:
        home = Path.home()
    except RuntimeError:
        raise NoHome() from None
    if not home.is_absolute():
        raise NoHome("$HOME is not an absolute path", home=home)
    return home.joinpath(*below)


_BY_ERRNO: Final[dict[int, type[StorageError]]] = {
    errno.ENOSPC: DiskFull,
    errno.EDQUOT: DiskFull,
    errno.EFBIG: DiskFull,
    errno.EROFS: DiskReadOnly,
    errno.EACCES: FileForbidden,
    errno.EPERM: FileForbidden,
    errno.EIO: DiskFailed,
    errno.ENXIO: DiskFailed,
    errno.ENODEV: DiskFailed,
    errno.ESTALE: DiskFailed,
    errno.EBUSY: FileBusy,
    errno.ETXTBSY: FileBusy,
    errno.ENOLCK: FileBusy,
    errno.EDEADLK: FileBusy,
    errno.ENOENT: FileUnavailable,
    errno.ENAMETOOLONG: PathUnusable,
    errno.ENOTDIR: PathUnusable,
    errno.EISDIR: PathUnusable,
    errno.ELOOP: PathUnusable,
    errno.EMFILE: TooManyFiles,
    errno.ENFILE: TooManyFiles,
    errno.ENOMEM: OutOfMemory,
}

# SQLite's primary result codes, as numbers so that a command without a database need not load
# SQLite.
_FULL, _READONLY, _IOERR, _CANTOPEN, _PERM, _AUTH = 13, 8, 10, 14, 3, 23
_BUSY, _LOCKED, _PROTOCOL, _NOMEM, _NOLFS = 5, 6, 15, 7, 22
_ERROR = 1
_BY_SQLITE: Final[dict[int, type[StorageError]]] = {
    _FULL: DiskFull,
    _READONLY: DiskReadOnly,
    _IOERR: DiskFailed,
    _CANTOPEN: FileUnavailable,
    _PERM: FileForbidden,
    _AUTH: FileForbidden,
    _BUSY: FileBusy,
    _LOCKED: FileBusy,
    _PROTOCOL: FileBusy,
    _NOMEM: OutOfMemory,
    _NOLFS: DiskFull,
}
_HIDES_THE_CAUSE: Final = (_READONLY, _IOERR, _CANTOPEN)
_IOERR_OF_CONTENT: Final = (_IOERR | 2 << 8, _IOERR | 32 << 8)
"""SHORT_READ: the file is shorter than its header says; DATA: a checksum is wrong. CORRUPTFS is not
included, because SQLite uses it for a read that failed with EIO."""

_SQLITE_PATH_BYTES: Final = 500
"""SQLite accepts paths of 512 bytes, including the suffixes of its companion files."""
_BESIDE: Final = ("", "-wal", "-shm", "-journal")
_PROBE_BYTES: Final = 65_536


def storage_error(path: Path | None, failed: BaseException) -> StorageError | None:
    """The typed error for an exception of a call on the file at `path`.

    path: None if only `failed` knows it.
    Returns None if the machine is not the cause: SQLite reports a problem with the file's content
    (such as SQLITE_CORRUPT or SQLITE_NOTADB), or `failed` has nothing to do with files.
    """
    if isinstance(failed, StorageError):
        return failed
    if isinstance(failed, MemoryError):
        return OutOfMemory(path)
    if isinstance(failed, OSError):
        return _of_errno(path, failed)
    code = getattr(failed, "sqlite_errorcode", None)
    if not isinstance(code, int) or code in _IOERR_OF_CONTENT:
        return None
    kind = _BY_SQLITE.get(code & 0xFF)
    if kind is None:
        return None
    if path is not None and code & 0xFF in _HIDES_THE_CAUSE:
        cause = _cause(path)
        if cause is not None:
            return _named(_BY_ERRNO.get(cause, kind), path, cause)
    return kind(path, str(failed))


def is_form_error(failed: BaseException) -> bool:
    """Whether SQLite misses a table or column: the file is intact but of another form, such as that
    of another version."""
    return getattr(failed, "sqlite_errorcode", None) == _ERROR


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Inside, errors of the system or SQLite about the file at `path` become a StorageError.

    FileExistsError and sqlite3 errors about the content pass unchanged.
    """
    try:
        yield
    # Callers make a file only if there is none, and tell this case by Python's own error.
    except FileExistsError:
        raise
    except Exception as failed:
        found = storage_error(path, failed)
        if found is None and isinstance(failed, OSError):
            found = StorageError(path, failed.strerror or type(failed).__name__)
        if found is None:
            raise
        raise found from None


def _of_errno(path: Path | None, failed: OSError) -> StorageError | None:
    # These are OSErrors, too, but of the network.
    if isinstance(failed, ConnectionError | TimeoutError) or failed.errno is None:
        return None
    kind = _BY_ERRNO.get(failed.errno)
    if path is None and isinstance(failed.filename, str | bytes):
        path = Path(os.fsdecode(failed.filename))
    return None if kind is None else _named(kind, path, failed.errno)


def _named(kind: type[StorageError], path: Path | None, number: int) -> StorageError:
    return kind(path, os.strerror(number))


def _cause(path: Path) -> int | None:
    """The errno that caused an SQLite error at `path`; None if the directory is in order.

    The database itself is not opened, because closing it would drop SQLite's locks.
    """
    directory = path.parent
    try:
        _open_as_many_as_sqlite()
        if len(os.fsencode(path)) > _SQLITE_PATH_BYTES:
            return errno.ENAMETOOLONG
        state = os.statvfs(directory)
        if state.f_flag & os.ST_RDONLY:
            return errno.EROFS
        if path.is_dir():
            return errno.EISDIR
        if not os.access(directory, os.W_OK | os.X_OK):
            return errno.EACCES
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            return errno.EACCES
        if _size_limit_reached(path):
            return errno.EFBIG
        _write_probe(directory)
    except OSError as failed:
        return failed.errno
    return None


def _open_as_many_as_sqlite() -> None:
    """Raises OSError if as many files as SQLite needs cannot be open at once: a database, its
    companion files, and their directory."""
    opened: list[int] = []
    try:
        for _ in (*_BESIDE, "directory"):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for one in opened:
            os.close(one)


def _size_limit_reached(path: Path) -> bool:
    try:
        import resource
    except ImportError:
        return False
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit == resource.RLIM_INFINITY:
        return False
    sizes = [0]
    for ending in _BESIDE:
        with suppress(OSError):
            sizes.append(path.with_name(path.name + ending).stat().st_size)
    return max(sizes) + _PROBE_BYTES > limit


def _write_probe(directory: Path) -> None:
    """Write and delete a small file next to the database, because a quota shows in no other way."""
    probe = directory / f".psymm-{secrets.token_hex(8)}"
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        left = _PROBE_BYTES
        while left:
            left -= os.write(descriptor, bytes(left))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        probe.unlink()
