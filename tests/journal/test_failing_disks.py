"""A disk that breaks, and a quota that is used up, under every file: named for what they are.

SQLite tells neither apart from other input/output errors (SQLITE_IOERR), whichever of its calls the
error met. What was in the files before is still there. See `failing_disk` for how it is done.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import failing_disk
import pytest
import trio
from custody_scene import ROOMS
from test_disks import NOT_SAID, _file, _journal, _keystore, _notes, _read, _relayer, _tree

from psymm.journal.backup import back_up
from psymm.journal.inspection import inspect
from psymm.storage import StorageError

pytestmark = pytest.mark.skipif(
    not failing_disk.is_possible(), reason="the kernel of this system gives no errors on request"
)

Use = Callable[[Path], Any]


def entered(use: Use) -> Use:
    async def run(place: Path) -> None:
        async with use(place):
            pass

    return run


async def _nothing(place: Path) -> None:
    pass


async def _survey(place: Path) -> None:
    await trio.to_thread.run_sync(inspect, place / "other.db")


async def _backup(place: Path) -> None:
    await trio.to_thread.run_sync(back_up, place / "other.db", place / "backup.db", 1)


WRITING: dict[str, Use] = {
    "notes": entered(_notes),
    "tree": entered(_tree),
    "relayer": entered(_relayer),
    "journal": entered(_journal),
    "keystore": entered(_keystore),
    "file": entered(_file),
    "backup": _backup,
}
READING: dict[str, Use] = {
    "notes": entered(_notes),
    "tree": entered(_tree),
    "relayer": entered(_relayer),
    "journal": entered(_journal),
    "reader": entered(_read),
    "survey": _survey,
    "backup": _backup,
}

CASES = [
    (calls, number, code, use)
    for calls, number, code, uses in (
        ("write", errno.EIO, "disk-failed", WRITING),
        ("write", errno.EDQUOT, "disk-full", WRITING),
        ("write", errno.ENOSPC, "disk-full", WRITING),
        ("write", errno.EROFS, "disk-read-only", WRITING),
        ("sync", errno.EIO, "disk-failed", WRITING),
        ("sync", errno.EDQUOT, "disk-full", WRITING),
        ("sync", errno.ENOSPC, "disk-full", WRITING),
        ("read", errno.EIO, "disk-failed", READING),
        ("read", errno.ESTALE, "disk-failed", READING),
    )
    for use in uses
]


def name_of(calls: str, number: int, use: str) -> str:
    return f"{calls}-{errno.errorcode[number]}-{use}"


def in_child(place: Path, use: Use, fail: Callable[[], None]) -> dict[str, str]:
    """What a process of its own says of a file."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = {"code": "none", "text": ""}
        try:
            fail()
            trio.run(use, place)
        except StorageError as error:
            said = {"code": error.code, "text": str(error).replace(str(error.path), "")}
        except BaseException as error:
            said = {"code": type(error).__name__, "text": str(error)}
        os.dup2(write, 1)  # the standard streams do not fail
        os.write(1, json.dumps(said).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        found = json.load(told)
    os.waitpid(child, 0)
    return dict(found)


def main(place: Path) -> None:
    """All cases, each with files of its own; one line of JSON, empty where nothing can fail."""
    tried = in_child(place, _nothing, partial(failing_disk.fail, "sync", errno.EIO))
    if tried["code"] != "none":
        print("{}")
        return
    (place / "written").mkdir()
    for use in (_notes, _relayer, _journal, _file):
        trio.run(entered(use), place / "written")
    shutil.copytree(place / "written", place / "read")
    trio.run(entered(_tree), place / "read")
    found = {}
    for calls, number, _, use in CASES:
        here = place / name_of(calls, number, use)
        shutil.copytree(place / ("read" if calls == "read" else "written"), here)
        run = (READING if calls == "read" else WRITING)[use]
        said = in_child(here, run, partial(failing_disk.fail, calls, number))
        healed = in_child(here, run, lambda: None)
        found[here.name] = {**said, "healed": healed["code"]}
    print(json.dumps(found))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Of each case: its code, its text, and what the same use says on a disk that is well."""
    ran = subprocess.run(
        [sys.executable, __file__, str(tmp_path_factory.mktemp("failing"))],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), *ROOMS)),
        },
        stdout=subprocess.PIPE,
        check=True,
    )
    found = json.loads(ran.stdout)
    if not found:
        pytest.skip("this kernel gives no errors on request")
    return dict(found)


@pytest.mark.parametrize(
    ("calls", "number", "code", "use"), CASES, ids=[name_of(c, n, u) for c, n, _, u in CASES]
)
def test_each_error_of_a_disk_is_named_and_costs_nothing_that_was_there(
    told: dict[str, dict[str, str]], calls: str, number: int, code: str, use: str
) -> None:
    found = told[name_of(calls, number, use)]
    assert found["code"] == code, found
    assert [word for word in NOT_SAID if word in found["text"]] == []
    assert found["healed"] == "none"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
