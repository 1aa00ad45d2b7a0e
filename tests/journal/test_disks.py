"""A disk that is full, read-only or limited is told apart from damage, and what is healthy is read.

Each disk is a file system of its own in memory. A user who cannot mount one skips these tests,
except those of the largest size that a file may have, which anyone can set.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from custody_scene import Signers
from journal_writer import writing

from psymm._core import SecretKey
from psymm.chain.sync import TreeCorrupt, open_tree
from psymm.cli.exit_report import exit_report_of
from psymm.cli.exit_status import Exit
from psymm.custody.store import open_store
from psymm.custody.viewing import viewing_key
from psymm.errors import JournalCorrupt
from psymm.journal.backup import back_up
from psymm.journal.inspection import inspect
from psymm.journal.reader import open_journal_reader
from psymm.journal.repair import repair_journal
from psymm.journal.writer import open_journal
from psymm.private_files import write_private
from psymm.relayer.store import Store
from psymm.session.runtime.protection import KillSwitch
from psymm.storage import DiskFull, DiskReadOnly, FileBusy, StorageError, translate_errors
from psymm.wallet import KeyWallet, save_keystore

NOT_SAID = ("damage", "delete", "repair")
"""Words that only a checksum or SQLite itself may bring about."""


class Disk:
    """A small file system. `refuse` makes it full, or read-only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def refuse(self, how: str) -> None:
        if how == "read-only":
            self.mount("remount,ro")
            return
        with (self.path / "fill").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1024))

    def recover(self) -> None:
        self.mount("remount,rw")
        (self.path / "fill").unlink(missing_ok=True)

    def mount(self, options: str) -> None:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)],
            check=True,
            capture_output=True,
        )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    made = Disk(path)
    try:
        made.mount("size=12m")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user cannot mount a file system")
    try:
        yield made
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


ENDINGS = {
    "killed": "async def write(journal, signers): os._exit(0)",
    "closed": "async def write(journal, signers): pass",
}


@pytest.fixture(scope="module", params=ENDINGS)
def healthy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of 12 frames, whose writer was killed (all of them are in its write-ahead log) or
    closed it."""
    home = tmp_path_factory.mktemp("healthy")
    ending = ENDINGS[request.param]
    subprocess.run(writing(ending, home / "journal.db", frames=12), check=True)
    log = home / "journal.db-wal"
    assert (log.exists() and log.stat().st_size > 0) == (request.param == "killed")
    return home


@pytest.fixture
def journal(healthy: Path, disk: Disk) -> Path:
    """That journal on a disk of its own, without the index that SQLite makes for a reader."""
    for one in healthy.iterdir():
        if not one.name.endswith("-shm"):
            shutil.copy(one, disk.path)
    return disk.path / "journal.db"


@pytest.mark.parametrize("how", ["read-only", "full"])
async def test_a_healthy_journal_is_read_to_its_newest_frame_on_a_disk_that_refuses(
    how: str, disk: Disk, journal: Path, tmp_path: Path
) -> None:
    before = {one: one.read_bytes() for one in journal.parent.iterdir()}
    disk.refuse(how)
    custody = Signers().opening.custody
    async with open_journal_reader(journal) as reader:
        assert len(await reader.frames(custody)) == 12
    assert intact(journal)
    assert back_up(journal, tmp_path / "backup.db", 1).frames == 12
    assert {one: one.read_bytes() for one in before} == before
    disk.recover()
    async with open_journal(journal) as writer:
        assert len(await writer.frames(custody)) == 12


@pytest.mark.parametrize("how", ["read-only", "full"])
async def test_a_journal_that_cannot_be_written_is_not_repaired_but_left_as_it_was(
    how: str, disk: Disk, journal: Path
) -> None:
    disk.refuse(how)
    refused = {"read-only": DiskReadOnly, "full": DiskFull}[how]
    with pytest.raises(refused) as caught:
        async with open_journal(journal):
            pass
    quiet(caught.value)
    with pytest.raises(refused) as caught:
        await trio.to_thread.run_sync(repair_journal, journal, [journal], 1)
    quiet(caught.value)
    disk.recover()
    assert intact(journal)
    assert not list(journal.parent.glob("*repaired*"))
    assert not list(journal.parent.glob("*damaged*"))


async def test_damage_is_still_named_on_a_disk_that_is_read_only(disk: Disk, journal: Path) -> None:
    for one in (journal, journal.with_name("journal.db-wal")):
        if one.exists():
            one.write_bytes(b"nonsense" * 2_000)
    disk.refuse("read-only")
    with pytest.raises(JournalCorrupt):
        async with open_journal_reader(journal):
            pass
    assert not intact(journal)


def intact(journal: Path) -> bool:
    """All 12 frames are there; what is missing are the session keys, which nobody put in."""
    report = inspect(journal)
    missing = {one.what for one in report.missing}
    return (report.fault, report.lost, report.frames, missing) == ("", 0, 12, {"session-keys"})


def quiet(error: StorageError) -> None:
    said = str(error).replace(str(error.path), "")
    assert [word for word in NOT_SAID if word in said] == []


# --- every other file ---------------------------------------------------------------------------


@asynccontextmanager
async def _notes(place: Path) -> AsyncIterator[None]:
    view = await viewing_key(KeyWallet(SecretKey.from_bytes(bytes([7]) * 32)), 1, "0x" + "11" * 20)
    async with await open_store(view, place / "notes.sqlite") as store:
        for _ in range(200):
            await store.keep(view.note(view.sole, "0x" + "12" * 20, 5, (await store.reserve())[0]))
    yield


class _Pool:
    """Of a pool, what a tree is named by."""

    address = "0x" + "11" * 20

    class chain:  # noqa: N801
        chain_id = 1


@asynccontextmanager
async def _tree(place: Path) -> AsyncIterator[None]:
    tree = await open_tree(_Pool(), 1, path=place / "tree.sqlite")  # type: ignore[arg-type]
    await tree.aclose()
    yield


@asynccontextmanager
async def _relayer(place: Path) -> AsyncIterator[None]:
    with Store(place / "relayer.db", 31337, "0x" + "11" * 20, "0x" + "22" * 20) as store:
        for number in range(200):
            store.add(
                number.to_bytes(32), "ctc", {"proof": "0x" + "00" * 1000}, 1, [number.to_bytes(32)]
            )
    yield


@asynccontextmanager
async def _keystore(place: Path) -> AsyncIterator[None]:
    await save_keystore(place / "k" / "keystore.json", SecretKey.generate(), "pw", scrypt_cost=2)
    yield


@asynccontextmanager
async def _file(place: Path) -> AsyncIterator[None]:
    write_private(place / "rpc.url", b"the new one" * 1000)
    yield


@asynccontextmanager
async def _journal(place: Path) -> AsyncIterator[None]:
    async with open_journal(place / "other.db"):
        yield


@asynccontextmanager
async def _read(place: Path) -> AsyncIterator[None]:
    async with open_journal_reader(place / "other.db"):
        yield


FILES: list[Callable[[Path], Any]] = [_notes, _tree, _relayer, _keystore, _file, _journal]


@pytest.mark.parametrize("how", ["read-only", "full"])
@pytest.mark.parametrize("use", FILES, ids=lambda use: use.__name__[1:])
async def test_every_file_says_what_the_disk_refuses_and_works_again_after_it(
    use: Callable[[Path], Any], how: str, disk: Disk
) -> None:
    (disk.path / "rpc.url").write_bytes(b"the old one")
    disk.refuse(how)
    with pytest.raises({"read-only": DiskReadOnly, "full": DiskFull}[how]) as caught:
        async with use(disk.path):
            pass
    quiet(caught.value)
    assert (disk.path / "rpc.url").read_bytes() == b"the old one"
    disk.recover()
    async with use(disk.path):
        pass
    assert [one.name for one in disk.path.rglob(".*")] == []


def test_the_kill_switch_works_on_a_full_disk(disk: Disk) -> None:
    disk.refuse("full")
    switch = KillSwitch(disk.path / "journal.killed")
    switch.kill("by hand")
    assert KillSwitch(disk.path / "journal.killed").reason is not None
    switch.revive()
    assert switch.reason is None


async def test_a_tree_that_another_process_holds_is_busy_and_one_that_is_nonsense_is_damaged(
    tmp_path: Path,
) -> None:
    import sqlite3

    async with _tree(tmp_path):
        pass
    holder = sqlite3.connect(tmp_path / "tree.sqlite", isolation_level=None)
    holder.execute("PRAGMA journal_mode = DELETE")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(FileBusy) as caught:
        async with _tree(tmp_path):
            pass
    quiet(caught.value)
    holder.close()
    (tmp_path / "tree.sqlite").write_bytes(b"nonsense" * 1000)
    with pytest.raises(TreeCorrupt):
        async with _tree(tmp_path):
            pass


# --- what the system says -----------------------------------------------------------------------

CODES = {
    "disk-full": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "disk-read-only": (errno.EROFS,),
    "file-forbidden": (errno.EACCES, errno.EPERM),
    "disk-failed": (errno.EIO, errno.ESTALE),
    "too-many-open-files": (errno.EMFILE, errno.ENFILE),
    "path-unusable": (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
    "file-unavailable": (errno.ENOENT,),
    "file-busy": (errno.EBUSY,),
    "storage": (errno.EINVAL,),
}


@pytest.mark.parametrize(
    ("code", "number"), [(code, one) for code, numbers in CODES.items() for one in numbers]
)
def test_each_thing_that_the_system_says_has_a_name(code: str, number: int, tmp_path: Path) -> None:
    said = OSError(number, os.strerror(number))
    with pytest.raises(StorageError) as caught, translate_errors(tmp_path / "file"):
        raise said
    quiet(caught.value)
    assert caught.value.code == code
    assert os.strerror(number) in str(caught.value)
    ending = exit_report_of(said)
    assert ending.exit is (Exit.INTERNAL if code == "storage" else Exit.MACHINE)


# --- the largest size that a file may have ------------------------------------------------------

LIMITED = """
import resource, sys, trio
from pathlib import Path
from psymm._core import SecretKey
from psymm.custody.store import open_store
from psymm.custody.viewing import viewing_key
from psymm.private_files import write_private
from psymm.storage import DiskFull
from psymm.wallet import KeyWallet
async def main():
    place = Path(sys.argv[1])
    write_private(place / "rpc.url", b"old")
    view = await viewing_key(KeyWallet(SecretKey.from_bytes(bytes([7]) * 32)), 1, "0x" + "11" * 20)
    kept = 0
    async with await open_store(view, place / "notes.sqlite") as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
        try:
            for number in range(10_000):
                await store.keep(view.note(view.sole, "0x" + "12" * 20, 5, number), number)
                kept += 1
        except DiskFull as error:
            print(kept, error.code, flush=True)
        try:
            write_private(place / "rpc.url", bytes(200_000))
        except DiskFull as error:
            print(error.code, flush=True)
trio.run(main)
"""


async def test_what_a_limit_on_files_refuses_is_named_and_what_was_durable_before_is_kept(
    tmp_path: Path,
) -> None:
    ran = await trio.run_process(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_stdout=True
    )
    notes, file = ran.stdout.decode().splitlines()
    kept, code = notes.split()
    assert (code, file) == ("disk-full", "disk-full")
    assert (tmp_path / "rpc.url").read_bytes() == b"old"
    view = await viewing_key(KeyWallet(SecretKey.from_bytes(bytes([7]) * 32)), 1, "0x" + "11" * 20)
    async with await open_store(view, tmp_path / "notes.sqlite") as store:
        assert len(await store.notes()) == int(kept) > 0


@contextmanager
def open_files_left(spare: int) -> Iterator[None]:
    """No more than `spare` files can be opened inside."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(int(one) for one in os.listdir("/proc/self/fd")) + 20
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        with suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(spare):
            os.close(held.pop())
        yield
    finally:
        for one in held:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("spare", [0, 1, 2])
@pytest.mark.parametrize("use", [_tree, _read], ids=["tree", "journal"])
async def test_too_many_open_files_are_named_however_many_are_lacking(
    use: Callable[[Path], Any], spare: int, tmp_path: Path
) -> None:
    """SQLite says only that it cannot open the file, and has let go of what it had by then."""
    async with _tree(tmp_path), _journal(tmp_path):
        pass
    with open_files_left(spare), pytest.raises(StorageError) as caught:
        async with use(tmp_path):
            pass
    assert caught.value.code == "too-many-open-files"
