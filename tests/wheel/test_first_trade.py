"""From an empty machine to a first trade: the README's commands, as printed and in their order,
typed at terminals of an environment that holds the wheel alone, with a real chain and real proofs.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

pytestmark = [pytest.mark.chain, pytest.mark.proofs, pytest.mark.slow]

README = Path(__file__).parents[2] / "README.md"
PASSWORD = "correct horse battery"
ANSWERS = (
    (re.compile(r"(Password|Repeat for confirmation): $"), PASSWORD),
    (re.compile(r"Go on\? \[y/N\]: $"), "y"),
)


def block(name: str) -> str:
    """The commands after the marker of `name`."""
    marker = rf"<!-- the tests run this block as printed: {re.escape(name)} -->"
    (code,) = re.findall(marker + r"\n```sh\n(.*?)\n```\n", README.read_text(), re.DOTALL)
    assert isinstance(code, str)
    return code


class Terminal:
    """Types a block of commands at a terminal, and a password or a yes where one is asked for."""

    def __init__(self, commands: str, folder: Path, environment: dict[str, str]) -> None:
        self.said = ""
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            ["bash", "-e", "-c", commands],
            cwd=folder,
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)

    def until(self, words: str | None) -> None:
        """Until it says that, or, without words, until all commands have ended well."""
        answered = 0
        while words is None or words not in self.said:
            try:
                piece = os.read(self._master, 65_536)
            except OSError:  # nobody has the other end any more
                piece = b""
            if not piece:
                break
            self.said += piece.decode().replace("\r\n", "\n")
            for asked, answer in ANSWERS:
                found = asked.search(self.said, answered)
                if found:
                    answered = len(self.said)
                    os.write(self._master, answer.encode() + b"\n")
        if words is None:
            assert self.process.wait() == 0, self.said
        assert words is None or words in self.said, self.said

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        os.close(self._master)
        self.process.wait()


@pytest.fixture
def environment(place: Path) -> dict[str, str]:
    node = shutil.which("node")
    assert node is not None
    own = Path.home()
    # npm asks for nothing that it has; for the rest, the registry that it is set to.
    npm = {
        "npm_config_cache": str(own / ".npm"),
        "npm_config_userconfig": str(own / ".npmrc"),
        "npm_config_prefer_offline": "true",
    }
    passed = ("npm_config_", "http_proxy", "https_proxy", "no_proxy", "node_extra_ca_certs")
    return {
        "PATH": f"{place / 'bin'}:{Path(node).parent}:/usr/bin:/bin",
        "HOME": str(place.parent / "newcomer"),
        "LANG": "C.UTF-8",
        **npm,
        **{name: text for name, text in os.environ.items() if name.lower().startswith(passed)},
    }


def test_the_readmes_commands_lead_from_the_wheel_to_a_first_trade(
    environment: dict[str, str], tmp_path: Path, free_port: Callable[[], int]
) -> None:
    Path(environment["HOME"]).mkdir()
    port = str(free_port())

    def at_own_ports(commands: str) -> str:
        # All that is not as printed: tests that run at once need ports of their own.
        commands = commands.replace(":8545", f":{port}")
        commands = commands.replace("psymm devnet --state", f"psymm devnet --port {port} --state")
        return commands.replace(
            "psymm solver --config", "psymm solver --listen 127.0.0.1:0 --config"
        )

    with ExitStack() as stack:

        def terminal(name: str) -> Terminal:
            made = Terminal(at_own_ports(block(name)), tmp_path, environment)
            stack.callback(made.end)
            return made

        chain, maker = terminal("chain.sh"), None
        chain.until("devnet ready at")
        maker = terminal("maker.sh")
        maker.until("solver ready at")
        trader = terminal("trader.sh")
        trader.until(None)
        assert maker.process.poll() is None
        assert chain.process.poll() is None

    for words in (
        "10000 pUSD in custody, 5000 for each trader",
        "for each trader you put up 5000; a trader puts up at least 1000",
        "a trader can hold a frame back for T = 10 s",
    ):
        assert words in maker.said
    said = trader.said
    # T and what may be lost are said before the money moves.
    for words in ("T = 10 s", "if it stops answering, it stays locked"):
        assert said.index(words) < said.index("Putting up 2000 pUSD")
    # 0.1 bought at 64032 and sold at 63968, 0.04 % of each as a fee
    assert "buy 0.1 BTC-USD: filled, 0.1 at 64032" in said
    assert "put up 2000, paid 1988.48 pUSD, gain -11.52" in said
    assert "spendable: 2988.48 pUSD, under way: 0 pUSD" in said
    assert "0x00000000000000000000000000000000DeaDBeef got 1000 pUSD" in said
    assert "a daemon runs on this home" in said
    assert "0 custodies are open, 1 have ended." in said
    assert "Traceback" not in chain.said + maker.said + said
