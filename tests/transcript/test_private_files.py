"""Files that hold secrets are their owner's alone, whoever made them, and no crash shows a key."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from psymm._core import SecretKey
from psymm.cli.data_dir import DataDir
from psymm.errors import FileNotPrivate, JournalError, KeystoreExists
from psymm.journal.backup import back_up
from psymm.journal.export import write_whole
from psymm.journal.writer import open_journal
from psymm.private_files import keep_database_private, keep_private, write_private
from psymm.relayer.store import Store
from psymm.wallet import load_keystore, save_keystore

WORDS = "correct horse"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def modes(directory: Path) -> dict[str, int]:
    """Name and mode of all that stands in a directory."""
    return {one.name: mode(one) for one in directory.iterdir()}


@pytest.fixture(params=[0o000, 0o022, 0o777], ids=["umask000", "umask022", "umask777"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


async def test_whatever_the_umask_what_is_made_is_its_owners(umask: int, tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    await save_keystore(home / "keystore.json", SecretKey.generate(), WORDS, scrypt_cost=2)
    async with open_journal(home / "journal.db"):
        assert set(modes(home).values()) == {0o600}
        assert {"journal.db", "journal.db-wal", "journal.db-shm", "journal.db.lock"} <= set(
            modes(home)
        )
    back_up(home / "journal.db", home / "backup.db", 1)
    with Store(home / "relayer.db", 31337, "0x" + "11" * 20, "0x" + "22" * 20):
        pass
    write_whole(home / "transcripts" / "one.psymm", b"frames")
    write_private(home / "rpc.url", b"https://node.example/customer")
    found = modes(home)
    assert found.pop("transcripts") == 0o700
    assert found == dict.fromkeys(found, 0o600)
    assert mode(home / "transcripts" / "one.psymm") == 0o600
    assert mode(home) == mode(home.parent) == 0o700


async def test_what_others_could_read_is_tightened_when_it_is_opened(tmp_path: Path) -> None:
    await save_keystore(tmp_path / "keystore.json", SecretKey.generate(), WORDS, scrypt_cost=2)
    async with open_journal(tmp_path / "journal.db"):
        pass
    with Store(tmp_path / "relayer.db", 31337, "0x" + "11" * 20, "0x" + "22" * 20):
        pass
    log = tmp_path / "journal.db-wal"
    log.touch()
    for name in modes(tmp_path):
        (tmp_path / name).chmod(0o666)
    await load_keystore(tmp_path / "keystore.json", WORDS)
    async with open_journal(tmp_path / "journal.db"):
        assert mode(log) == 0o600
    with Store(tmp_path / "relayer.db", 31337, "0x" + "11" * 20, "0x" + "22" * 20):
        pass
    assert set(modes(tmp_path).values()) == {0o600}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
async def test_a_file_of_another_user_is_refused_by_name_and_left_alone(tmp_path: Path) -> None:
    await save_keystore(tmp_path / "keystore.json", SecretKey.generate(), WORDS, scrypt_cost=2)
    async with open_journal(tmp_path / "journal.db"):
        pass
    for name in modes(tmp_path):
        os.chown(tmp_path / name, 12_345, 12_345)
        (tmp_path / name).chmod(0o644)
    with pytest.raises(FileNotPrivate, match="chown"):
        await load_keystore(tmp_path / "keystore.json", WORDS)
    with pytest.raises(FileNotPrivate, match="12345"):
        async with open_journal(tmp_path / "journal.db"):
            pass
    assert mode(tmp_path / "keystore.json") == 0o644
    for ending in ("-wal", "-shm"):
        own = tmp_path / f"notes{ending}.sqlite"
        keep_database_private(own)
        planted = own.with_name(own.name + ending)
        planted.touch()
        os.chown(planted, 12_345, 12_345)
        with pytest.raises(FileNotPrivate):
            keep_database_private(own)


async def test_a_secret_is_not_read_or_written_through_a_link(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere"
    real.write_bytes(b"somebody's file")
    link = tmp_path / "keystore.json"
    link.symlink_to(real)
    with pytest.raises(FileNotPrivate, match="link"):
        await load_keystore(link, WORDS)
    with pytest.raises(KeystoreExists):
        await save_keystore(link, SecretKey.generate(), WORDS, scrypt_cost=2)
    # Replacing a link replaces the link, and not what it leads to.
    write_private(link, b"ours")
    assert real.read_bytes() == b"somebody's file"
    assert link.read_bytes() == b"ours"
    assert not link.is_symlink()
    # Nor is a link that was put where a draft will be followed.
    draft = tmp_path / f".rpc.url.{os.getpid()}"
    draft.symlink_to(real)
    write_private(tmp_path / "rpc.url", b"node")
    assert real.read_bytes() == b"somebody's file"
    lock = tmp_path / "journal.db.lock"
    lock.symlink_to(real)
    with pytest.raises((FileNotPrivate, JournalError)):
        async with open_journal(tmp_path / "journal.db"):
            pass
    assert real.read_bytes() == b"somebody's file"


def test_a_pipe_is_no_file_for_a_secret(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "notes.sqlite")
    with pytest.raises(FileNotPrivate, match="regular file"):
        keep_private(tmp_path / "notes.sqlite")
    keep_private(tmp_path / "none at all")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_private(tmp_path / "a", b"one")
    with pytest.raises(FileExistsError):
        write_private(tmp_path / "a", b"two", replace=False)
    assert (tmp_path / "a").read_bytes() == b"one"
    assert [one.name for one in tmp_path.iterdir()] == ["a"], "no draft is left"


def test_a_deployment_that_a_home_imports_is_the_owners(tmp_path: Path) -> None:
    given = tmp_path / "given.json"
    given.write_text("{}")
    given.chmod(0o666)
    home = DataDir(tmp_path / "home")
    home.adopt_deployment(given)
    assert mode(home.deployment) == 0o600
    assert mode(home.path) == 0o700


SHOW = """
import ctypes, resource, sys
from psymm import cli
sys.argv = ["psymm", "--version"]
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
try:
    cli.main()
except SystemExit:
    pass
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux says it")
def test_a_command_leaves_no_core_dump_and_shows_its_memory_to_nobody() -> None:
    said = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "(0, 0) 0"
