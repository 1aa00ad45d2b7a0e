"""A disk that answers with an error of one's choice, for this process from now on.

The kernel itself gives the error in the place of the call (seccomp), so that Python and SQLite meet
what they would meet on a disk that breaks, or whose owner's quota is used up. Any user of Linux may
ask for that; nothing has to be mounted or preloaded.
"""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Final

_MACHINES: Final = {
    # (its name for the kernel's audit, numbers of calls)
    "x86_64": (
        0xC000003E,
        {
            "seccomp": 317, "write": 1, "pread64": 17, "pwrite64": 18, "fsync": 74,
            "fdatasync": 75,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "seccomp": 277, "write": 64, "pread64": 67, "pwrite64": 68, "fsync": 82,
            "fdatasync": 83,
        },
    ),
}  # fmt: skip
_LOAD, _EQUAL, _ABOVE, _RETURN = 0x20, 0x15, 0x25, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCH, _FIRST = 0, 4, 16
"""Where the kernel shows a call's number, its machine, and the lower half of its first argument."""
_NO_NEW_PRIVILEGES, _FILTER, _ALL_THREADS = 38, 1, 1

CALLS: Final = {
    "write": ("write", "pwrite64"),
    "sync": ("fsync", "fdatasync"),
    "read": ("pread64",),
}


class _Step(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("yes", ctypes.c_uint8),
        ("no", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("steps", ctypes.POINTER(_Step)))


def is_possible() -> bool:
    return platform.system() == "Linux" and platform.machine() in _MACHINES


def fail(kind: str, error: int) -> None:
    """From now on, in all threads, calls of a kind of `CALLS` give `error`; not those on the
    standard streams.  Raises OSError where the kernel does not do that."""
    machine, numbers = _MACHINES[platform.machine()]
    refused = [numbers[call] for call in CALLS[kind]]
    steps = [
        _Step(_LOAD, 0, 0, _ARCH),
        _Step(_EQUAL, 1, 0, machine),
        _Step(_RETURN, 0, 0, _ALLOW),
        _Step(_LOAD, 0, 0, _NUMBER),
    ]
    for left, number in zip(range(len(refused) - 1, -1, -1), refused, strict=True):
        steps.append(_Step(_EQUAL, left + 1, 0, number))
    steps += [
        _Step(_RETURN, 0, 0, _ALLOW),
        _Step(_LOAD, 0, 0, _FIRST),
        _Step(_ABOVE, 1, 0, 2),
        _Step(_RETURN, 0, 0, _ALLOW),
        _Step(_RETURN, 0, 0, _ERRNO | error),
    ]
    program = _Program(len(steps), (_Step * len(steps))(*steps))
    kernel = ctypes.CDLL(None, use_errno=True)
    if kernel.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or kernel.syscall(
        numbers["seccomp"], _FILTER, _ALL_THREADS, ctypes.byref(program)
    ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
