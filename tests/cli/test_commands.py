"""The command line as a program sees it: exit codes, JSON, passwords by descriptor, no secrets."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from psymm.cli import psymm as root

PASSWORD = "correct horse battery"
KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
ADDRESS = "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def last(self) -> dict[str, object]:
        found = json.loads(self.out.splitlines()[-1])
        assert isinstance(found, dict)
        return found


def psymm(*arguments: str, secrets: tuple[str, ...] = ()) -> Ran:
    """Runs the command line; `{0}`, `{1}` in arguments become descriptors of `secrets`."""
    fds = []
    for secret in secrets:
        read, write = os.pipe()
        os.write(write, secret.encode())
        os.close(write)
        fds.append(read)
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "psymm", *(one.format(*fds) for one in arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            pass_fds=fds,
            check=False,
            timeout=600,
        )
    finally:
        for fd in fds:
            os.close(fd)
    return Ran(ran.returncode, ran.stdout, ran.stderr)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("party") / "home"
    ran = psymm(
        "wallet", "import", "--json", "--home", str(path),
        "--key-fd", "{0}", "--password-fd", "{1}",
        secrets=(KEY + "\n", PASSWORD + "\nwhat follows is not the password"),
    )  # fmt: skip
    assert ran.code == 0, ran
    assert ran.last["address"] == ADDRESS
    assert KEY not in ran.out + ran.err
    assert PASSWORD not in ran.out + ran.err
    return path


def test_a_home_and_its_keystore_are_readable_by_their_owner_only(home: Path) -> None:
    assert home.stat().st_mode & 0o077 == 0
    assert (home / "keystore.json").stat().st_mode & 0o077 == 0


def test_the_keystore_holds_no_key_in_the_clear(home: Path) -> None:
    assert KEY not in (home / "keystore.json").read_text()


def test_the_address_is_the_keys_and_not_what_the_file_says(home: Path, tmp_path: Path) -> None:
    ran = psymm(
        "wallet", "address", "--json", "--home", str(home), "--password-fd", "{0}",
        secrets=(PASSWORD,),
    )  # fmt: skip
    assert (ran.code, ran.last) == (0, {"address": ADDRESS})

    thief = "ab" * 20
    bent = tmp_path / "bent"
    bent.mkdir(mode=0o700)
    stored = json.loads((home / "keystore.json").read_text())
    stored = {name: stored[name] for name in ("crypto", "id", "version")} | {"address": thief}
    (bent / "keystore.json").write_text(json.dumps(stored))
    for secrets in ((PASSWORD,), ()):
        asked = ("--password-fd", "{0}") if secrets else ()
        ran = psymm("wallet", "address", "--home", str(bent), *asked, secrets=secrets)
        assert ran.code == 6
        assert thief not in (ran.out + ran.err).lower()


def test_an_imported_keystore_is_checked_and_sealed_anew(tmp_path: Path) -> None:
    from eth_account import Account

    file = tmp_path / "theirs.json"
    foreign = Account.encrypt(KEY, PASSWORD, kdf="pbkdf2", iterations=2)
    foreign["address"] = ""
    file.write_text(json.dumps(foreign))

    def imported(home: Path) -> Ran:
        return psymm(
            "wallet", "import", "--json", "--keystore", str(file), "--home", str(home),
            "--password-fd", "{0}", secrets=(PASSWORD,),
        )  # fmt: skip

    ran = imported(tmp_path / "home")
    assert (ran.code, ran.last["address"]) == (0, ADDRESS)
    sealed = json.loads((tmp_path / "home" / "keystore.json").read_text())
    assert sealed["crypto"]["kdf"] == "scrypt"
    assert bytes(Account.decrypt(sealed, PASSWORD)).hex() == KEY

    foreign["address"] = "ab" * 20
    file.write_text(json.dumps(foreign))
    ran = imported(tmp_path / "other")
    error = ran.last["error"]
    assert isinstance(error, dict)
    assert (ran.code, error["code"]) == (6, "keystore-unreadable")
    assert not (tmp_path / "other" / "keystore.json").exists()


def test_the_public_key_needs_the_password_and_hashes_to_the_address(home: Path) -> None:
    from psymm._core import address_of

    ran = psymm(
        "wallet", "public-key", "--json", "--home", str(home), "--password-fd", "{0}",
        secrets=(PASSWORD,),
    )  # fmt: skip
    assert ran.code == 0
    assert address_of(bytes.fromhex(str(ran.last["publicKey"])[2:])) == ADDRESS


def test_a_wrong_password_is_exit_6_and_shows_neither_password_nor_key(home: Path) -> None:
    ran = psymm(
        "wallet", "public-key", "--json", "--home", str(home), "--password-fd", "{0}",
        secrets=("not the password",),
    )  # fmt: skip
    assert ran.code == 6
    error = ran.last["error"]
    assert isinstance(error, dict)
    assert (error["code"], error["exit"]) == ("wrong-password", 6)
    assert "not the password" not in ran.out + ran.err


@pytest.mark.parametrize("secret", ["", "\n"])
def test_an_empty_password_is_refused(home: Path, secret: str) -> None:
    ran = psymm(
        "wallet", "public-key", "--home", str(home), "--password-fd", "{0}", secrets=(secret,)
    )
    assert ran.code == 6
    assert ran.out == ""
    assert "empty" in ran.err


@pytest.mark.parametrize("fd", ["1", "2", "199"])
def test_a_descriptor_that_cannot_give_a_password_is_refused(home: Path, fd: str) -> None:
    ran = psymm("wallet", "public-key", "--home", str(home), "--password-fd", fd)
    assert ran.code == 6


def test_without_a_terminal_the_password_is_not_waited_for(home: Path) -> None:
    ran = psymm("wallet", "public-key", "--home", str(home))
    assert ran.code == 6
    assert "--password-fd" in ran.err


def test_a_keystore_is_never_overwritten(home: Path) -> None:
    before = (home / "keystore.json").read_bytes()
    ran = psymm("wallet", "new", "--home", str(home), "--password-fd", "{0}", secrets=("x",))
    assert ran.code == 6
    assert (home / "keystore.json").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version": 3}', b"\xff\xfe", b"[1]"])
def test_a_damaged_keystore_is_exit_6(tmp_path: Path, content: bytes) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "keystore.json").write_bytes(content)
    ran = psymm(
        "wallet", "public-key", "--json", "--home", str(home), "--password-fd", "{0}",
        secrets=(PASSWORD,),
    )  # fmt: skip
    assert ran.code == 6
    error = ran.last["error"]
    assert isinstance(error, dict)
    assert error["code"] == "keystore-unreadable"


@pytest.mark.parametrize("key", ["00" * 32, "ff" * 32, "abcd", "zz" * 32])
def test_what_is_no_private_key_is_refused_and_not_echoed(tmp_path: Path, key: str) -> None:
    ran = psymm(
        "wallet", "import", "--json", "--home", str(tmp_path / "h"),
        "--key-fd", "{0}", "--password-fd", "{1}",
        secrets=(key, PASSWORD),
    )  # fmt: skip
    assert ran.code == 6
    assert key not in ran.out + ran.err
    assert not (tmp_path / "h" / "keystore.json").exists()


def test_a_home_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "open"
    home.mkdir()
    home.chmod(0o755)
    ran = psymm("wallet", "new", "--home", str(home), "--password-fd", "{0}", secrets=("x",))
    assert ran.code == 2
    assert "chmod 700" in ran.err


def test_an_unknown_command_is_exit_2_in_words_and_in_json() -> None:
    assert psymm("wallets").code == 2
    ran = psymm("wallets", "--json")
    error = ran.last["error"]
    assert isinstance(error, dict)
    assert (ran.code, error["code"]) == (2, "usage")


def test_a_command_without_a_deployment_says_how_to_get_one(tmp_path: Path) -> None:
    ran = psymm("registry", "list", "--role", "solver", "--home", str(tmp_path / "h"))
    assert ran.code == 2
    assert "--deployment" in ran.err


def every_command() -> dict[str, click.Command]:
    """All commands by their words, with the groups that do something themselves."""
    context = click.Context(root)
    found: dict[str, click.Command] = {}
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert command is not None, name
        if isinstance(command, click.Group):
            found.update({f"{name} {leaf}": one for leaf, one in command.commands.items()})
        if not isinstance(command, click.Group) or command.invoke_without_command:
            found[name] = command
    return found


@pytest.mark.parametrize("words", every_command())
def test_every_command_takes_a_password_descriptor(words: str) -> None:
    command = every_command()[words]
    (option,) = (one for one in command.params if "--password-fd" in one.opts)
    assert option.name == "password_fd"
    assert "--password-fd" in command.get_help(click.Context(command, info_name=words))


def test_a_password_that_no_command_asks_for_is_not_read(tmp_path: Path, home: Path) -> None:
    read, write = os.pipe()
    os.write(write, PASSWORD.encode())
    os.close(write)
    for words in (("solver", "kill"), ("solver", "revive"), ("docs",)):
        ran = subprocess.run(
            [sys.executable, "-m", "psymm", *words, "--password-fd", str(read)],
            pass_fds=[read],
            env=os.environ | {"PSYMM_HOME": str(home)},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
    assert os.read(read, 99) == PASSWORD.encode()
    os.close(read)


def test_help_of_every_command_explains_the_exit_codes() -> None:
    for words, command in every_command().items():
        if isinstance(command, click.Group):
            continue
        text = command.get_help(click.Context(command, info_name=words))
        assert "Exit codes:" in text, words
        assert "keystore missing or damaged" in text


def test_tools_install_without_node_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = psymm("tools", "install", "--json")
    error = ran.last["error"]
    assert isinstance(error, dict)
    assert (ran.code, error["code"]) == (9, "no-node")
