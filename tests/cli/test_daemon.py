"""Daemons say when they are ready, end gracefully on a signal, and do not outlive their parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.chain]


def devnet(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "psymm", "devnet", "--json", "--port", "0", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ready_line(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    line = json.loads(process.stdout.readline())
    assert isinstance(line, dict)
    return line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_daemon_with_exit_code_0(number: signal.Signals) -> None:
    with devnet() as process:
        ready = ready_line(process)
        assert ready["event"] == "ready"
        assert ready["pid"] == process.pid
        assert str(ready["endpoint"]).startswith("http://127.0.0.1:")
        process.send_signal(number)
        assert process.wait(20) == 0
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["event"] == "ending"


def test_closing_its_standard_input_ends_a_daemon_that_was_asked_to_watch_it() -> None:
    with devnet("--until-stdin-closes") as process:
        ready_line(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0


def test_a_port_that_is_taken_is_an_error_and_not_a_wait() -> None:
    with devnet("--until-stdin-closes") as first:
        port = str(ready_line(first)["endpoint"]).rpartition(":")[2]
        second = subprocess.run(
            [sys.executable, "-m", "psymm", "devnet", "--json", "--port", port],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert second.returncode == 3
        assert json.loads(second.stdout)["error"]["code"] == "devnet-failed"
        assert first.stdin is not None
        first.stdin.close()


def test_a_devnet_without_the_npm_tools_says_how_to_install_them(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "psymm", "devnet", "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "PSYMM_NODE": str(tmp_path)},
    )
    error = json.loads(ran.stdout)["error"]
    assert (ran.returncode, error["code"]) == (9, "tools-missing")
    assert "psymm tools install" in error["message"]
