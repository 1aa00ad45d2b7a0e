"""Signers as real processes of `psymm oracle`, each with a home, a key and a configuration."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from psymm._core import SecretKey, domain_separator
from psymm.chain.deployment import Deployment
from psymm.oracle.client import OracleEndpoints
from psymm.oracle.rounds import SignerSet
from psymm.wallet import save_keystore

STEP = 10**9
PASSWORD = "correct horse"
KEYS = [SecretKey.from_bytes(bytes(31) + bytes([n])) for n in (1, 2, 3, 4)]
CHAIN_ID = 31337
CONTRACTS = ["0x" + f"{n:040x}" for n in range(0xC1, 0xC7)]
DOMAIN = domain_separator(CHAIN_ID, bytes.fromhex(CONTRACTS[0][2:]))
PATIENCE_S = 240
"""After so long a test hangs. No test waits for a moment of its own choosing."""

SERIES = """
kind = "replay"
values_per_second = "1"
started = 2026-01-01T00:00:00Z
from = {first}
to = {last}
funding_epoch_s = 3600
"""
LINES = """
kind = "lines"
socket = "prices.sock"
stale_s = 3600
"""


@dataclass
class SignerHome:
    """One signer: its files, and its process while it runs.

    Attributes:
        source: the [source] and [[feed]] tables of its configuration.
    """

    number: int
    path: Path
    source: str
    port: int
    process: subprocess.Popen[str] | None = None
    log: list[str] = field(default_factory=list)

    @property
    def key(self) -> SecretKey:
        return KEYS[self.number]

    @property
    def endpoint(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def home(self) -> Path:
        return self.path / f"signer-{self.number}"

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        reading, writing = os.pipe()
        os.write(writing, PASSWORD.encode() + b"\n")
        os.close(writing)
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "psymm", "oracle", "--json"),
                    *("--home", str(self.home), "--config", str(self.home / "oracle.toml")),
                    *("--listen", f"127.0.0.1:{self.port}", "--password-fd", str(reading)),
                    "--until-stdin-closes",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                pass_fds=(reading,),
            )
        os.close(reading)

    def wait_ready(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        line = json.loads(self.process.stdout.readline())
        assert line.get("event") == "ready", (line, (self.home / "log").read_text())
        assert line["account"] == self.key.address
        assert str(line["endpoint"]).rstrip("/") == self.endpoint

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it with a signal; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        self._close()
        return code

    def _close(self) -> None:
        process, self.process = self.process, None
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()

    def write(self, *lines: dict[str, str]) -> None:
        """Write prices to its socket."""
        import socket

        with socket.socket(socket.AF_UNIX) as made:
            made.connect(str(self.home / "prices.sock"))
            made.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in lines))

    def events(self) -> list[dict[str, object]]:
        """Its log so far."""
        return [json.loads(line) for line in (self.home / "log").read_text().splitlines()]


def oracle_endpoints(signers: Sequence[SignerHome], many: int, threshold: int) -> OracleEndpoints:
    """What a client of these signers is given."""
    addresses = tuple(key.address for key in KEYS[:many])
    return OracleEndpoints(
        [one.endpoint for one in signers], DOMAIN, SignerSet(addresses, threshold), stall_s=60
    )


def make_signers(
    path: Path, free_port: Callable[[], int], sources: Sequence[str], threshold: int
) -> list[SignerHome]:
    """Homes of signers who know each other; none runs yet."""
    made = [SignerHome(n, path, source, free_port()) for n, source in enumerate(sources)]
    deployment = Deployment(CHAIN_ID, "dev", 1, *CONTRACTS)
    tables = "".join(
        f'[[signer]]\naddress = "{one.key.address}"\nendpoint = "{one.endpoint}"\n' for one in made
    )
    for one in made:
        one.home.mkdir(mode=0o700)
        trio.run(save, one)
        deployment.save(one.home / "deployment.json")
        (one.home / "oracle.toml").write_text(
            f'threshold = {threshold}\ntolerance = "0.01"\nrate_tolerance = "0.0001"\n'
            f"{tables}{one.source}"
        )
    return made


async def save(one: SignerHome) -> None:
    await save_keystore(one.home / "keystore.json", one.key, PASSWORD, scrypt_cost=2)


def replay(first: str = "2018-10-01", last: str = "2018-12-31") -> str:
    """A source: two real series, one of them with a funding rate."""
    return (
        "[source]"
        + SERIES.format(first=first, last=last)
        + '[[feed]]\nname = "sp500:Close"\nfunding_rate = "0.0001"\n'
        + '[[feed]]\nname = "OIL"\nseries = "wti"\n'
    )


def lines(*feeds: str) -> str:
    """A source: prices that the test writes."""
    return "[source]" + LINES + "".join(f'[[feed]]\nname = "{one}"\n' for one in feeds)


def now_ns() -> int:
    return time.time_ns()
