"""Files that only their owner can read (keystores, journals, notes), and a process without dumps.

Each file that may hold a secret gets mode 0600 and its directory 0700, regardless of the umask. It
is checked whenever it is opened: if others can read it, its mode is corrected; if it belongs to
somebody else or is a link, it is refused. A process that holds keys leaves no core dump.

On systems without owners (Windows), the directory's own protection must be enough.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from psymm.errors import FileNotPrivate
from psymm.storage import translate_errors

_OTHERS: Final = 0o077
_SQLITE: Final = ("", "-wal", "-shm", "-journal")
_PR_SET_DUMPABLE: Final = 4
_NO_LINKS: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_OWNERS: Final = hasattr(os, "geteuid")


def private_directory(path: Path) -> None:
    """Make a directory and its parents; new ones get mode 0700. Raises StorageError."""
    with translate_errors(path):
        missing = [one for one in (path, *path.parents) if not one.exists()]
        for one in reversed(missing):
            with suppress(FileExistsError):
                one.mkdir(mode=0o700)
                one.chmod(0o700)
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def create_private(path: Path) -> None:
    """Make an empty file with mode 0600. Blocks. Raises FileExistsError, StorageError."""
    with translate_errors(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINKS, 0o600))
        path.chmod(0o600)  # regardless of the umask


def sync_path(path: Path) -> None:
    """Make a file, or the names in a directory, durable. Blocks. Raises StorageError."""
    with translate_errors(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def keep_private(path: Path) -> None:
    """Check a file, if it exists, and remove the permissions of others.

    Blocks. Raises FileNotPrivate for a link, a special file, or somebody else's file; StorageError.
    """
    with translate_errors(path):
        _keep_private(path)


def _keep_private(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode):
        raise FileNotPrivate(
            "it is a symbolic link; secrets are only read from the file itself", path=path
        )
    if not stat.S_ISREG(found.st_mode):
        raise FileNotPrivate("it is not a regular file", path=path)
    if not _OWNERS:
        return
    if found.st_uid != os.geteuid():
        raise FileNotPrivate(
            f"it belongs to another user; run: chown {os.geteuid()} {path}",
            path=path,
            owner=found.st_uid,
            us=os.geteuid(),
        )
    if stat.S_IMODE(found.st_mode) & _OTHERS:
        # By path, not by descriptor: closing a descriptor would drop SQLite's locks on the file.
        path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)


def keep_database_private(path: Path, *, create: bool = True) -> None:
    """`keep_private` for an SQLite file and its companion files. First makes an empty private file
    if there is none, because SQLite would make one that others can read. Blocks. Raises like
    `keep_private`."""
    if create:
        private_directory(path.parent)
        with suppress(FileExistsError):
            create_private(path)
    for ending in _SQLITE:
        keep_private(path.with_name(path.name + ending))


def write_private(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a private file durably, whole or not at all. Blocks.

    Raises FileExistsError unless `replace`, and StorageError; after an error nothing is left.
    """
    private_directory(path.parent)
    with translate_errors(path):
        _write_private(path, content, replace)


def _write_private(path: Path, content: bytes, replace: bool) -> None:
    # Write a draft, make it durable, rename it, make the name durable. A crash at any point leaves
    # the old file or the new one, whole.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    # Left by a killed process with our number, or put there by somebody else, perhaps as a link. It
    # is never written to.
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            if _OWNERS:
                os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            draft.replace(path)
        else:
            os.link(draft, path)  # unlike a rename, it fails if the path exists
    finally:
        draft.unlink(missing_ok=True)
    sync_path(path.parent)


def forbid_core_dumps() -> None:
    """From now on a crash leaves no image of this process's memory, and on Linux no other process
    of the same user can read it. The command line calls this first; programs that open wallets
    should, too. Does what the system allows, and raises nothing."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
