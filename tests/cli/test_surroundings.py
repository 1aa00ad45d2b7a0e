"""What surrounds the process: its streams, its locale, its directories, its signals.

None of it is a bug in psymm, none of it ends a command that is moving money, and each has an exit
code that a script can tell from the others.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from test_commands import PASSWORD, psymm
from test_key import Wallet

from psymm._core import SecretKey
from psymm.chain.deployment import Deployment
from psymm.cli import run
from psymm.journal.writer import open_journal
from psymm.wallet import save_keystore

PSYMM = [sys.executable, "-m", "psymm"]


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`command` in a shell, where psymm is "$@"; its output is not decoded."""
    return subprocess.run(
        ["bash", "-c", command, "bash", *PSYMM],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=300,
    )


def is_named(said: bytes) -> bool:
    """An error of ours with its name, and nothing of the interpreter's."""
    return b"error: " in said and not any(
        one in said for one in (b"Traceback", b"bug in psymm", b"Exception ignored")
    )


async def make_home(path: Path) -> None:
    await save_keystore(path / "keystore.json", SecretKey.generate(), PASSWORD, scrypt_cost=2)
    async with open_journal(path / "journal.db"):
        pass


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("surroundings") / "home"
    trio.run(make_home, path)
    return path


# --- streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        '"$@" journal check --home "$H" >&-',
        '"$@" journal check --home "$H" >/dev/full',
        '"$@" journal check --json --home "$H" >/dev/full',
        '"$@" journal check --help >/dev/full',
        '"$@" --help >/dev/full',
    ],
)
def test_output_that_cannot_be_written_has_an_exit_code_of_its_own(
    command: str, home: Path
) -> None:
    ran = shell(command, H=str(home))
    assert ran.returncode == 11
    assert is_named(ran.stderr)
    assert b"[output]" in ran.stderr


def test_a_pipe_that_nobody_reads_ends_no_command_half_way(home: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run(
        [*PSYMM, "journal", "check", "--home", str(home)],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
        timeout=300,
    )
    os.close(write)
    assert (ran.returncode, is_named(ran.stderr)) == (11, True)
    assert b"nobody reads it" in ran.stderr


def test_an_error_is_told_by_its_own_exit_code_where_nothing_can_be_written(home: Path) -> None:
    for streams in (">&- 2>&-", ">/dev/full 2>/dev/full", "<&- >&- 2>&-"):
        ran = shell(f'"$@" journal check --home "$H/none" {streams}', H=str(home))
        assert (ran.returncode, ran.stdout, ran.stderr) == (7, b"", b"")
    told = shell('"$@" journal check --json --home "$H/none" >/dev/full', H=str(home))
    assert told.returncode == 7
    assert b"[journal]" in told.stderr


def test_what_a_closed_stream_would_have_shown_is_not_written_into_a_file(home: Path) -> None:
    before = (home / "keystore.json").read_bytes()
    for streams in ("<&- >&- 2>&-", ">&- 2>&-", "2>&-"):
        shell(f'"$@" wallet address --home "$H" --password-fd 3 3<<<x {streams}', H=str(home))
        shell(f'"$@" journal check --home "$H" {streams}', H=str(home))
    assert (home / "keystore.json").read_bytes() == before
    assert shell('"$@" journal check --home "$H"', H=str(home)).returncode == 0


@pytest.mark.parametrize("stdin", ["<&-", "</dev/null"])
def test_without_standard_input_nobody_is_asked(stdin: str, home: Path) -> None:
    ran = shell(f'"$@" wallet public-key --home "$H" {stdin}', H=str(home))
    assert (ran.returncode, is_named(ran.stderr)) == (6, True)
    assert b"--password-fd" in ran.stderr


@pytest.mark.chain
def test_a_deposit_that_nobody_listens_to_any_more_is_made_and_recorded(
    tmp_path: Path, devnet_url: str, deployment: Deployment
) -> None:
    key = SecretKey.generate().expose_secret_bytes().hex()
    wallet = Wallet(tmp_path, key, devnet_url, deployment)

    funded = psymm(
        "devnet", "fund", wallet.address, "--token", deployment.tokens[0].symbol,
        "--amount", "1000", "--deployment", str(wallet.file), "--rpc", devnet_url,
    )  # fmt: skip
    assert funded.code == 0, funded
    given = f'--home "{wallet.home}" --deployment "{wallet.file}" --rpc {devnet_url}'
    said = f"{given} --password-fd 3 3<<<'{PASSWORD}'"
    ran = shell(f'"$@" deposit 5 --yes {said} >/dev/full')
    assert (ran.returncode, is_named(ran.stderr)) == (11, True)
    notes = shell(f'"$@" notes --json {said}')
    assert notes.returncode == 0, notes
    balances = json.loads(notes.stdout.splitlines()[-1])["balances"]
    assert [one["available"] for one in balances] == ["5000000"]


# --- letters ------------------------------------------------------------------------------------

ENCODINGS = {
    "ascii": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "strict": {"PYTHONIOENCODING": "ascii:strict"},
    "dumb": {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "0"},
    "narrow": {"COLUMNS": "1"},
    "optimized": {"PYTHONOPTIMIZE": "2"},
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_terminal_is_told_in_letters_that_it_has(name: str, home: Path) -> None:
    strange = home.parent / "Ω…→\n\x1b[2J"
    for command, code in (
        ('"$@" journal check --home "$H"', 0),
        ('"$@" journal --help', 0),
        ('"$@" journal check --home "$S"', 7),
        ('"$@" journal check --json --home "$S"', 7),
    ):
        ran = shell(command, H=str(home), S=str(strange), **ENCODINGS[name])
        assert ran.returncode == code, ran
        assert b"\x1b" not in ran.stdout + ran.stderr
        if code:
            assert is_named(ran.stderr) or json.loads(ran.stdout)["error"]["exit"] == code


@pytest.mark.parametrize(
    "name", ["with space", "two\nlines", "Ωмир", "latin\udce9", "%41?#&mode=rw"]
)
async def test_a_home_may_have_any_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    await make_home(path)
    ran = await trio.to_thread.run_sync(
        lambda: shell('"$@" journal check --home "$H"', H=str(path))
    )
    assert ran.returncode == 0, ran


# --- directories --------------------------------------------------------------------------------


@pytest.mark.parametrize("home_variable", [None, "", "relative"])
def test_without_a_home_directory_it_says_how_to_give_one(
    home_variable: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def unknown(_uid: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("PSYMM_HOME", "XDG_DATA_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if home_variable is not None:
        monkeypatch.setenv("HOME", home_variable)
    assert run(["journal", "check"]) == 2
    said = capsys.readouterr().err
    assert "[no-home]" in said
    assert "--home" in said
    assert "$PSYMM_HOME" in said


def test_with_a_home_given_no_home_directory_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PSYMM_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "")
    assert run(["notes", "--home", str(tmp_path)]) == 6
    assert f"`psymm wallet new --home {tmp_path}`" in capsys.readouterr().err


def test_a_node_whose_address_is_none_is_named_before_a_deployment_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "keystore.json").touch()
    # The remedy for the missing deployment shows the node, if it is on this machine.
    assert run(["notes", "--home", str(tmp_path), "--rpc", "http://[::1"]) == 2
    assert "[no-deployment]" in capsys.readouterr().err


def test_paths_at_which_no_file_can_be_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    long = tmp_path.joinpath(*["d" * 200] * 25)
    for path in (long, tmp_path / ("n" * 300), tmp_path / "file" / "below"):
        read, write = os.pipe()
        os.write(write, b"pw\n")
        os.close(write)
        fd = ("--password-fd", str(read))
        assert run(["wallet", "new", "--light", "--home", str(path), *fd]) == 10
        said = capsys.readouterr().err
        assert "[path-unusable]" in said
        assert len(said) < 1_000
        os.close(read)


def test_a_working_directory_that_is_gone_matters_only_to_relative_paths(
    home: Path, tmp_path: Path
) -> None:
    (tmp_path / "gone").mkdir()
    here = f'cd "{tmp_path}/gone" && rmdir "{tmp_path}/gone" && '
    assert shell(here + '"$@" journal check --home "$H"', H=str(home)).returncode == 0
    (tmp_path / "gone").mkdir()
    ran = shell(here + '"$@" journal check --home x')
    assert (ran.returncode, is_named(ran.stderr)) == (10, True)


# --- signals ------------------------------------------------------------------------------------


def new_wallet(home: Path, fd: int) -> list[str]:
    return ["wallet", "new", "--light", "--home", str(home), "--password-fd", str(fd)]


@contextmanager
def waiting_for_password(
    program: Sequence[str], home: Path, before: Callable[[], object] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`wallet new` once it has its home, and where its password is to be written.

    program: what runs `psymm`. before: runs in the process before that.
    """
    read, write = os.pipe()
    process = subprocess.Popen(
        [*program, *new_wallet(home, read)],
        pass_fds=[read],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=before,
    )
    while not home.exists():
        assert process.poll() is None
        time.sleep(0.05)
    yield process, write
    os.close(write)
    os.close(read)


def expect_interrupted(process: subprocess.Popen[bytes]) -> None:
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert is_named(err)
    assert b"[interrupted]" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_interrupted_ends_in_order(
    number: signal.Signals, tmp_path: Path
) -> None:
    default = partial(signal.signal, number, signal.SIG_DFL)
    with waiting_for_password(PSYMM, tmp_path / "h", default) as (process, _):
        process.send_signal(number)
        expect_interrupted(process)


PLACED = """
import signal, sys
from psymm.cli import main

class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

def from_a_string():
    exec("signal.raise_signal(signal.SIGTERM)")

signal.signal(signal.SIGUSR1, lambda *_: PLACE() and None)
main()
"""


@pytest.mark.parametrize("place", ["Finalized", "from_a_string"])
def test_an_interrupt_that_comes_where_python_treats_it_otherwise_ends_in_order(
    tmp_path: Path, place: str
) -> None:
    """Inside a finalizer Python drops it; the command must not wait for its password for ever.
    After one inside code from a string, a `python -m` kills itself at exit."""
    (tmp_path / "placed.py").write_text(PLACED.replace("PLACE()", f"{place}()"))
    program = ["env", f"PYTHONPATH={tmp_path}", sys.executable, "-m", "placed"]
    with waiting_for_password(program, tmp_path / "h") as (process, _):
        process.send_signal(signal.SIGUSR1)
        expect_interrupted(process)


def test_a_hangup_that_a_parent_ignores_stays_ignored(tmp_path: Path) -> None:
    with waiting_for_password(["nohup", *PSYMM], tmp_path / "h") as (process, password):
        process.send_signal(signal.SIGHUP)
        os.write(password, b"pw\n")
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_help_names_every_exit_code(home: Path) -> None:
    ran = psymm("journal", "check", "--help")
    for code in (*range(12), 70, 130):
        assert f" {code:>3}  " in ran.out
