"""The README's solver and trader, run exactly as printed, on a real chain with a real relayer."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from psymm.chain.deployment import Deployment

pytestmark = [pytest.mark.chain, pytest.mark.proofs, pytest.mark.slow]

README = Path(__file__).parents[2] / "README.md"
PASSWORD = "correct horse battery staple"
RECIPIENT = "0x00000000000000000000000000000000DeaDBeef"


def block(name: str) -> str:
    """The code after the marker of `name`."""
    marker = rf"<!-- the tests run this block as printed: {re.escape(name)} -->"
    (code,) = re.findall(marker + r"\n```python\n(.*?)\n```\n", README.read_text(), re.DOTALL)
    assert isinstance(code, str)
    return code


def cli(*arguments: str) -> str:
    said = subprocess.run(
        [sys.executable, "-m", "psymm", *arguments, "--json", "--password-fd", "0"],
        input=PASSWORD + "\n",
        capture_output=True,
        text=True,
        timeout=3_000,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


def start(stack: ExitStack, *command: str) -> subprocess.Popen[str]:
    """A program with the password on its standard input; ended with the test."""
    process = subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdin is not None
    process.stdin.write(PASSWORD + "\n")
    process.stdin.flush()

    def end() -> None:
        process.terminate()
        process.wait(20)

    stack.callback(end)
    return process


@pytest.fixture
def files(tmp_path: Path, deployment: Deployment) -> Path:
    (tmp_path / "solver.py").write_text(block("solver.py"))
    (tmp_path / "trader.py").write_text(block("trader.py"))
    deployment.save(tmp_path / "deployment.json")
    return tmp_path


def test_a_screen_each(files: Path, devnet_url: str, free_port: Callable[[], int]) -> None:
    place = ["--deployment", str(files / "deployment.json"), "--rpc", devnet_url]
    for name, coins in (("solver", "6000"), ("trader", "3000"), ("relayer", "0")):
        home = ["--home", str(files / name)]
        cli("wallet", "new", "--light", *home)
        address = json.loads((files / name / "keystore.json").read_text())["address"]
        target = "0x" + str(address).removeprefix("0x")
        fund = [sys.executable, "-m", "psymm", "devnet", "fund", target, "--rpc", devnet_url]
        subprocess.run([*fund, "--ether", "10", *home], check=True, capture_output=True)
        if coins != "0":
            tokens = ["--token", "USDT", "--amount", coins, *place[:2], *home]
            subprocess.run([*fund, *tokens], check=True, capture_output=True)
            cli("deposit", coins, "--yes", *place, *home)

    with ExitStack() as stack:
        relayer = start(
            stack, "-m", "psymm", "relayer", "--fee", "USDT=0.05", "--listen", "127.0.0.1:0",
            "--register", "--yes", "--json", "--password-fd", "0",
            "--home", str(files / "relayer"), *place,
        )  # fmt: skip
        assert relayer.stdout is not None
        assert any("ready" in line for line in iter(relayer.stdout.readline, ""))

        port = str(free_port())
        common = [str(files / "deployment.json"), devnet_url]
        solver = start(stack, str(files / "solver.py"), str(files / "solver"), *common, port)
        wait_for_port(solver, int(port))
        trader = subprocess.run(
            [sys.executable, str(files / "trader.py"), str(files / "trader"), *common, RECIPIENT],
            input=PASSWORD + "\n",
            capture_output=True,
            text=True,
            timeout=3_000,
        )
    assert trader.returncode == 0, trader.stdout + trader.stderr
    lines = trader.stdout.splitlines()
    # 0.1 bought at 64020 with a fee of 0.05 %, closed at 63980
    assert lines == [
        # 40 between bid and offer, and 0.05 % of 64020
        "opening and closing 1 costs 72.01",
        "bought 0.1 at 64020",
        "sold 0.1 at 63980",
        "paid 1992.799, gain -7.201",
        f"withdrew 1000 to {RECIPIENT}",
    ]


def wait_for_port(process: subprocess.Popen[str], port: int) -> None:
    for _ in range(6_000):
        assert process.poll() is None, process.communicate()[0]
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("the solver does not listen")
