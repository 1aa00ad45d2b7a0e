"""The emergency brake, TLS and the limits, as an operator types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner

from psymm.cli import psymm, run
from psymm.session.runtime.protection import kill_switch_of


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert isinstance(answer, dict)
    return answer


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


def test_kill_and_revive_need_no_running_solver_and_no_password(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["solver", "kill", "--json", "--home", str(home), "--reason", "a bad feed"]) == 0
    assert said(capsys)["reason"] == "a bad feed"
    assert kill_switch_of(home / "journal.db").reason == "a bad feed"
    assert run(["solver", "revive", "--json", "--home", str(home)]) == 0
    assert said(capsys)["reason"] == "a bad feed"
    assert kill_switch_of(home / "journal.db").reason is None
    assert run(["solver", "revive", "--json", "--home", str(home)]) == 0
    assert said(capsys)["reason"] is None


def test_a_home_that_is_none_is_not_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["solver", "kill", "--json", "--home", str(tmp_path / "typo")]) == 2
    assert said(capsys)["error"]["code"] == "home"  # type: ignore[index]
    assert not (tmp_path / "typo").exists()


def test_a_switch_that_cannot_be_written_says_so(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "journal.killed").mkdir()
    (home / "journal.killed" / "x").touch()
    for command in ("kill", "revive"):
        assert run(["solver", command, "--json", "--home", str(home)]) == 10
        assert said(capsys)["error"]["code"] == "path-unusable"  # type: ignore[index]


def test_a_solver_without_a_configuration_is_a_usage_error(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["solver", "--json", "--home", str(home)]) == 2
    assert "--config" in said(capsys)["error"]["message"]  # type: ignore[index]


@pytest.mark.parametrize("command", ["solver", "relayer"])
def test_a_certificate_without_its_key_is_a_usage_error(
    command: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cert").touch()
    more = ["--fee", "X=1"] if command == "relayer" else []
    arguments = [command, "--json", "--home", str(home), "--tls-cert", str(tmp_path / "cert")]
    assert run([*arguments, *more]) == 2
    assert "--tls-key" in said(capsys)["error"]["message"]  # type: ignore[index]


def test_files_that_are_no_certificate_end_a_daemon_by_name(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cert", "key", "config"):
        (tmp_path / name).write_text("nothing of the kind")
    read, write = os.pipe()
    os.write(write, b"password\n")
    os.close(write)
    code = run(
        [
            "solver", "--json", "--home", str(home), "--config", str(tmp_path / "config"),
            "--tls-cert", str(tmp_path / "cert"), "--tls-key", str(tmp_path / "key"),
            "--password-fd", str(read),
        ]
    )  # fmt: skip
    assert code == 2
    assert said(capsys)["error"]["code"] == "certificate-invalid"  # type: ignore[index]


@pytest.mark.parametrize("command", [["trade"], ["solver"], ["withdraw"]])
def test_clients_can_trust_an_authority_of_their_own(command: list[str]) -> None:
    shown = CliRunner().invoke(psymm, [*command, "--help"]).output
    assert "--tls-ca" in shown
    assert "password" not in [word for word in shown.split() if word.startswith("--tls-pass")]


DAEMON = """
import sys, trio
from psymm.cli.daemon import run_daemon
from psymm.cli.output import Screen
screen = Screen(True)
left = []
async def service(ready):
    ready("ws://nowhere")
    try:
        await trio.sleep_forever()
    finally:
        screen.event("closed", "closed", left=len(left))
async def leave():
    screen.event("leaving", "leaving")
    await trio.sleep(float(sys.argv[1]))
    left.append(True)
run_daemon(screen, "test", service, False, leave)
"""


def daemon(leave_s: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DAEMON), str(leave_s)],
        stdout=subprocess.PIPE,
        text=True,
    )


def until(process: subprocess.Popen[str], event: str) -> dict[str, object]:
    assert process.stdout is not None
    for line in process.stdout:
        found = json.loads(line)
        if found["event"] == event:
            assert isinstance(found, dict)
            return found
    raise AssertionError(f"no {event}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_takes_leave_before_anything_is_closed(number: signal.Signals) -> None:
    with daemon(0) as process:
        until(process, "ready")
        process.send_signal(number)
        until(process, "leaving")
        assert until(process, "closed")["left"] == 1
        assert process.wait(20) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_the_process_at_once(second: signal.Signals) -> None:
    with daemon(1e6) as process:
        until(process, "ready")
        process.send_signal(signal.SIGTERM)
        until(process, "leaving")
        process.send_signal(second)
        assert process.wait(20) == 130


CLIENT = """
import json, sys, trio
from psymm.cli.daemon import cancel_on_signal
GOODBYE_S = float(sys.argv[1])
async def main():
    try:
        async with cancel_on_signal(False, lambda: "Go on with that."):
            print(json.dumps({"event": "ready"}), flush=True)
            try:
                await trio.sleep_forever()
            finally:
                print(json.dumps({"event": "closed"}), flush=True)
                with trio.CancelScope(shield=True):
                    await trio.sleep(GOODBYE_S)
    except KeyboardInterrupt:
        print(json.dumps({"event": "interrupted"}), flush=True)
trio.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_ended_closes_what_it_has_open(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        until(process, "ready")
        process.send_signal(number)
        until(process, "closed")
        until(process, "interrupted")
        assert process.wait(20) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_wait_for_a_commands_goodbye(second: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, "3600"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until(process, "ready")
        process.send_signal(signal.SIGINT)
        until(process, "closed")
        process.send_signal(second)
        try:
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
        assert (process.returncode, "Go on with that." in said) == (130, True)
