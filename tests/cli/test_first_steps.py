"""Commands in the wrong order: each error names the next command, and pasting those, one after the
other, leads from an empty home to a trade that only waits for a yes. On the way a running solver
is topped up and looked at."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from psymm.cli import run

PASSWORD = "correct horse battery"
NEXT = re.compile(r"Next(?:, in another terminal)?: `(.+?)`", re.IGNORECASE)
ASKS = ("psymm deploy", "psymm deposit", "psymm solver --config")
"""What asks whether money may move."""


@dataclass
class Terminal:
    """A shell in a folder, in which `psymm` is this package's and the password is typed."""

    place: Path
    stack: ExitStack
    variables: dict[str, str] = field(default_factory=dict)
    daemons: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def command(self, words: str) -> list[str]:
        return ["bash", "-c", f"{words} --password-fd 3 3<<<'{PASSWORD}'"]

    @property
    def environment(self) -> dict[str, str]:
        bare = {name: text for name, text in os.environ.items() if not name.startswith("PSYMM_RPC")}
        found = f"{self.place / 'bin'}:{os.environ['PATH']}"
        return bare | {"PATH": found, "PYTHONUNBUFFERED": "1"} | self.variables

    def run(self, words: str, *, yes: bool = True) -> tuple[int, str]:
        """Exit code and all output of a command. yes: agree that money may move."""
        if yes and words.startswith(ASKS):
            words += " --yes"
        ran = subprocess.run(
            self.command(words),
            cwd=self.place,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return ran.returncode, ran.stdout

    def interrupt(self, words: str, at: str) -> tuple[int, str]:
        """The same at a terminal, with a Ctrl-C after the output `at`, and another if needed."""
        master, slave = pty.openpty()
        process = subprocess.Popen(
            self.command(words),
            cwd=self.place,
            env=self.environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        said, sent = "", 0
        with suppress(OSError):  # nobody has the other end any more
            while True:
                # Python misses a signal that comes between its last look and its read, so there may
                # be a second one; a third would end any command.
                if select.select([master], [], [], 10)[0]:
                    piece = os.read(master, 65_536)
                    if not piece:
                        break
                    said += piece.decode()
                    if sent or at not in said:
                        continue
                elif sent != 1:
                    continue
                sent += 1
                os.killpg(process.pid, signal.SIGINT)
        os.close(master)
        return process.wait(), said

    def start(self, words: str, ready: str = " ready at ") -> tuple[int, str]:
        """The same for a daemon: 0 and its output until it was ready, or how it ended."""
        asked = words + " --yes" if words.startswith(ASKS) else words
        process = subprocess.Popen(
            self.command(asked),
            cwd=self.place,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if ready in line:
                self.daemons[words] = process
                self.stack.callback(end, process)
                return 0, said
        return process.wait(), said


def end(process: subprocess.Popen[str]) -> None:
    """A daemon and the shell that runs it."""
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "psymm"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m psymm "$@"\n')
    program.chmod(0o700)
    with ExitStack() as stack:
        yield Terminal(tmp_path, stack)


def follow(terminal: Terminal, words: str, port: int) -> list[str]:
    """Follow the errors' advice until `words` needs only a yes. Returns the commands that worked,
    in order."""
    done: list[str] = []
    waiting = [words]
    for _ in range(60):
        now = waiting[-1]
        if now.startswith("export "):
            name, _, value = now.removeprefix("export ").partition("=")
            # The one thing that is not as written: tests that run at once need ports of their own.
            terminal.variables[name] = value.replace("8545", str(port))
            code, said = 0, ""
        elif now.startswith(("psymm devnet --port", "psymm solver")):
            listening = " --listen 127.0.0.1:0" if now.startswith("psymm solver") else ""
            code, said = terminal.start(now + listening)
        else:
            code, said = terminal.run(now, yes=now != words and "trade" not in now)
        if "confirmation-needed" in said:
            return [*done, now]
        # What was typed is repeated whole, how the password came, too.
        found = [one.replace(" --password-fd 3", "") for one in NEXT.findall(said)]
        if code == 0:
            done.append(now)
            waiting.pop()
            if not found:
                continue
        assert found, said
        assert found[-1] not in waiting, f"{now} asks again for {found[-1]}: {said}"
        waiting.append(found[-1])
    raise AssertionError(waiting)


@pytest.mark.chain
@pytest.mark.slow
def test_each_error_names_the_next_command_until_only_a_yes_is_missing(
    terminal: Terminal, free_port: Callable[[], int]
) -> None:
    port = free_port()
    done = follow(terminal, "psymm trade --collateral 2000 --buy BTC-USD=0.1 --home me", port)
    assert [re.sub(r"0x\w{40}", "0x…", one) for one in done] == [
        "psymm wallet new --home me",
        "export PSYMM_RPC=http://127.0.0.1:8545",
        f"psymm devnet --port {port}",
        "psymm devnet fund 0x… --ether 10 --home me",
        "psymm deploy --test-token pUSD:6 --home me",
        "psymm docs maker.toml > maker.toml",
        "psymm wallet new --home maker",
        f"psymm devnet fund 0x… --ether 10 --home maker --rpc http://127.0.0.1:{port}",
        "psymm solver --config maker.toml --register --direct --home maker "
        f"--deployment me/deployment.json --rpc http://127.0.0.1:{port}",
        "psymm devnet fund 0x… --token 0x… --amount 5001 --home maker",
        "psymm deposit 5001 --home maker",
        "psymm devnet fund 0x… --token 0x… --amount 2000 --home me",
        "psymm deposit 2000 --home me",
        "psymm trade --collateral 2000 --buy BTC-USD=0.1 --home me --direct",
    ]

    # What a trader agrees to, and what a solver offers, was said before; nobody has to answer.
    code, said = terminal.interrupt(done[-1], at="Go on? [y/N]")
    # On a slow machine the second signal may come while the first one's command is being left.
    assert (code, "Interrupted" in said) == (130, True), said
    for words in ("T = 10 s", "if it stops answering, it stays locked", "to buy 0.1 BTC-USD"):
        assert words in said
    assert said.index("T = 10 s") < said.index("Putting up 2000 pUSD")
    (solver,) = (one for words, one in terminal.daemons.items() if "solver" in words)

    # Beside the solver, which goes on.
    code, said = terminal.run("psymm notes --home maker")
    assert (code, "spendable: 5001 pUSD" in said) == (0, True), said
    for words in ("journal check", "transcript list", "solver status", "journal backup copy.db"):
        code, said = terminal.run(f"psymm {words} --home maker")
        assert code == 0, said
        assert "locked" not in said
    code, said = terminal.run("psymm withdraw 0x00000000000000000000000000000000DeaDBeef=1 "
                              "--direct --home maker")  # fmt: skip
    assert (code, "note-store-locked" in said) == (7, True), said
    assert solver.poll() is None

    # The solver trades with what was deposited while it ran.
    code, said = terminal.start(f"{done[-1]} --yes", "collateral moves into custody")
    assert code == 0, said
    assert solver.poll() is None

    # Another node for one command does not change the home's.
    kept = (terminal.place / "maker" / "rpc.url").read_text()
    assert kept == f"http://127.0.0.1:{port}\n"
    other = f"http://localhost:{port}"
    code, said = terminal.run(f"psymm registry list --role solver --home maker --rpc {other}")
    assert code == 0, said
    assert (terminal.place / "maker" / "rpc.url").read_text() == kept


Here = Callable[..., tuple[int, str, bool]]


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    """Runs a command in this process, in an empty folder: exit code, all that was said, and whether
    the password was read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PSYMM_RPC", raising=False)

    def ran(*words: str) -> tuple[int, str, bool]:
        read, write = os.pipe()
        os.write(write, PASSWORD.encode())
        os.close(write)
        keep = os.dup(read)  # to look whether it was read: a reader closes its own
        at = words.index("--") if "--" in words else len(words)
        code = run([*words[:at], "--password-fd", str(read), *words[at:]])
        asked = os.read(keep, 99) == b""
        os.close(keep)
        if not asked:
            os.close(read)
        said = capsys.readouterr()
        return code, said.out + said.err, asked

    return ran


EMPTY = (
    "trade --collateral 1 --buy X=1",
    "trade --resume 0x12",
    "deposit 1",
    "notes",
    "withdraw 0x00000000000000000000000000000000DeaDBeef=1",
    "registry list --role solver",
    "registry register --role solver --endpoint ws://127.0.0.1:1/",
    "registry remove --role solver",
    "relayer --fee pUSD=1",
    "deploy",
    "deploy --check",
    "wallet address",
    "wallet public-key",
    "solver",
    "solver --config none.toml",
    "solver status",
    "key list",
    "key revoke --custody 0x12",
    "journal check",
    "journal repair",
    "journal backup there.db",
    "journal archive --custody 0x12 there.psymm",
    "journal prune --custody 0x12 --yes",
    "transcript list",
    "transcript show --custody 0x12",
    "transcript export --custody 0x12 there.psymm",
    "devnet fund --ether 1",
)


@pytest.mark.parametrize("words", EMPTY)
def test_on_an_empty_home_every_command_names_the_next_and_leaves_it_empty(
    words: str, tmp_path: Path, here: Here
) -> None:
    home = tmp_path / "it's mine"
    code, said, asked = here(*words.split(), "--home", str(home))
    assert code not in (0, 1, 70), said
    assert re.search(r"`(psymm|export) .+?`", said), said
    if "--home" in said:
        assert f"--home {shlex.quote(str(home))}" in said
    assert not home.exists()
    assert not asked


@pytest.mark.parametrize("name", ["it's mine", "дом", "two\nlines"])
def test_a_command_that_is_named_is_about_the_same_path_on_a_terminal_that_has_no_such_letters(
    name: str, tmp_path: Path
) -> None:
    home = tmp_path / name
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ran = subprocess.run(
        [sys.executable, "-m", "psymm", "notes", "--home", str(home)],
        env=os.environ | plain,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    assert ran.returncode == 6, ran
    named = re.search(rb"Next: `psymm (.+?)`", ran.stderr, re.DOTALL)
    assert named
    shell = subprocess.run(["bash", "-c", b"printf '%s|' " + named[1]], capture_output=True)
    assert shell.stdout.endswith(b"wallet|new|--home|" + os.fsencode(home) + b"|"), ran


def test_nodes_that_were_given_are_repeated_where_none_can_be_a_key(
    tmp_path: Path, here: Here
) -> None:
    near = ("--rpc", "http://127.0.0.1:1", "--rpc", "http://localhost:2", "--agree")
    (tmp_path / "keystore.json").write_text("{}")
    _, said, _ = here("notes", "--home", str(tmp_path), *near)
    assert f"{tmp_path} {' '.join(near)}`" in said
    far = ("--rpc", "http://127.0.0.1:1", "--rpc", "https://node.example/a-key")
    _, said, _ = here("notes", "--home", str(tmp_path), *far)
    assert f"{tmp_path}`" in said
    assert "a-key" not in said


WRONG = (
    ("deposit 1e3", "not an amount"),
    ("deposit 0", "zero"),
    ("deposit 1.0000001", "the token has 6"),
    ("deposit -- -1", "not an amount"),
    ("deposit 1 --rpc localhost:8545", "It comes from --rpc"),
    ("deposit 1 --rpc http://h:99999", "its port is not a number up to 65535"),
    ("deposit 1 --agree", "Next: `psymm deposit --help`"),
    ("devnet fund", "Next: `psymm devnet fund --help`"),
    ("registry list", "Next: `psymm registry list --help`"),
    ("withdraw 0x12=5", "recipient"),
    ("withdraw 0x00000000000000000000000000000000DeaDBeef=5,1", "not an amount"),
    ("withdraw 0x00000000000000000000000000000000DeaDBeef=1 --max-fee x", "not an amount"),
    ("withdraw 0x00000000000000000000000000000000DeaDBeef=1 --pause nan", "--pause"),
    ("trade --collateral 1,5 --buy X=1", "not an amount"),
    ("trade --collateral 1 --buy X=1_0", "decimal"),
    ("trade --collateral 1 --buy X=1e99", "decimal"),
    ("trade --collateral 1 --buy X=0.0000000000000000001", "decimal"),
    ("trade --collateral 1 --buy X=nan", "decimal"),
    ("trade --collateral 1 --buy X=-1", "above zero"),
    ("trade --collateral 1 --buy X=٣", "decimal"),
    ("trade --collateral 1 --buy =1", "SYMBOL=QUANTITY"),
    ("trade --collateral 1 --buy Х=1", "ASCII"),
    ("trade --collateral 1 --buy X=1 --hold nan", "--hold"),
    ("trade --collateral 1 --buy X=1 --hold inf", "--hold"),
    ("trade --collateral 1 --buy X=1 --max-fee -1", "not an amount"),
    ("trade --collateral 1 --buy X=1 --solver 0x12", "solver"),
    ("trade --collateral 1 --buy X=1 --token DAI", "DAI"),
    ("trade --collateral 1 --buy X=1 --max-round-trip x", "x"),
    ("trade --resume maker", "custody"),
    ("relayer --fee pUSD=x", "not an amount"),
    ("relayer --fee DAI=1", "DAI"),
    ("devnet fund --token pUSD --amount 1.0000001", "the token has 6"),
    ("devnet fund --ether 1e99999999", "not an amount"),
    ("solver --config maker.toml", "tick"),
)


@pytest.mark.parametrize(("words", "named"), WRONG)
def test_what_is_written_wrong_is_said_before_a_password_is_asked_for(
    words: str, named: str, tmp_path: Path, here: Here
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "keystore.json").write_text("{}")
    (home / "rpc.url").write_text("http://127.0.0.1:9\n")
    (home / "deployment.json").write_text(json.dumps(DEPLOYMENT))
    (tmp_path / "maker.toml").write_text(MAKER)
    before = sorted(one.name for one in home.iterdir())
    head, *rest = words.split(" -- ")
    tail = ["--", *rest[0].split()] if rest else []
    code, said, asked = here(*head.split(), "--home", str(home), *tail)
    assert code in (1, 2, 3), said
    assert named in said, said
    assert not asked
    assert sorted(one.name for one in home.iterdir()) == before


DEPLOYMENT = {
    "version": 1,
    "chainId": 31337,
    "crs": "dev",
    "firstBlock": 1,
    **{
        name: "0x" + f"{at:02x}" * 20
        for at, name in enumerate(
            ("psymm", "portal", "registry", "poseidon2", "ctcVerifier", "ctaVerifier"), 0x11
        )
    },
    "tokens": [{"address": "0x" + "22" * 20, "symbol": "pUSD", "decimals": 6}],
    "codeHashes": {},
}
MAKER = """
token = "pUSD"
trader_minimum = "1000"
solver_minimum = "1000"
collateral = "5000"
relayer_cap = "1"
end_date = 2030-01-01
spread_bps = "10"
[[instrument]]
symbol = "X"
price = "100"
tick = "little"
lot = "0.1"
"""
