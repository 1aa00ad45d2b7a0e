"""The wheel in an empty environment, with neither Rust nor Node on the PATH.

It imports, verifies a transcript and talks to a chain. Only proving and the devnet need Node, and
they say so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from psymm.chain.deployment import Deployment

sys.path.insert(0, str(Path(__file__).parents[1] / "transcript"))

from custody_scene import Signers

from psymm.transcript.file import encode_file

REPO = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.slow


def test_it_holds_abis_bytecode_circuits_and_keys_and_no_node_modules(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "psymm/artifacts/contracts/PSymm.json",
        "psymm/artifacts/contracts/PartyRegistry.json",
        "psymm/artifacts/contracts/CtcVerifier.json",
        "psymm/artifacts/circuits/ctc.json",
        "psymm/artifacts/circuits/ctc.vk",
        "psymm/artifacts/circuits/cta.vk",
        "psymm/artifacts/node/prover.mjs",
        "psymm/artifacts/node/package-lock.json",
        "psymm/py.typed",
        "psymm/_core.pyi",
        "psymm/include/psymm.h",
        "psymm/docs/README.md",
        "psymm/docs/architecture.md",
        "psymm/docs/guarantees.md",
        "psymm/docs/what-you-lose.md",
    ):
        assert name in names
    assert not [name for name in names if "node_modules" in name]
    assert wheel.name.split("-")[2:4] == ["cp311", "abi3"]


def test_it_shows_the_pages_that_it_came_with(installed: Run) -> None:
    for page, name in (
        ("readme", "README.md"),
        ("guarantees", "docs/guarantees.md"),
        ("what-you-lose", "docs/what-you-lose.md"),
        ("architecture", "docs/architecture.md"),
    ):
        said = installed("psymm", "docs", page)
        assert said.returncode == 0, said.stderr
        assert said.stdout.rstrip() == (REPO / name).read_text().rstrip()
        assert page in installed("psymm", "docs").stdout


def test_it_imports_with_neither_rust_nor_node(installed: Run) -> None:
    said = installed(
        "python",
        "-c",
        "import shutil, psymm.api, psymm.capi, psymm.cli, psymm._core;"
        "assert not shutil.which('node') and not shutil.which('cargo');"
        "print(psymm._core.keccak256(b'').hex())",
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


def test_it_verifies_a_transcript_and_refuses_a_bent_one(installed: Run, tmp_path: Path) -> None:
    signers = Signers()
    raw = encode_file(signers.opening, [entry.frame.raw for entry in signers.talk(8)])
    good, bad = tmp_path / "good.psymm", tmp_path / "bad.psymm"
    good.write_bytes(raw)
    bad.write_bytes(raw[:-40] + bytes([raw[-40] ^ 1]) + raw[-39:])
    held = installed("psymm", "transcript", "verify", "--json", str(good))
    assert held.returncode == 0, held.stderr
    assert json.loads(held.stdout)["frames"] == 8
    bent = installed("psymm", "transcript", "verify", "--json", str(bad))
    assert bent.returncode == 7, bent.stdout


@pytest.mark.chain
def test_it_talks_to_a_chain(installed: Run, deployment: Deployment, devnet_url: str) -> None:
    code = (
        "import os, trio\n"
        "from psymm.chain.rpc import Rpc\n"
        "async def main():\n"
        "    async with Rpc(os.environ['RPC']) as rpc:\n"
        "        print(await rpc.call('eth_getCode', os.environ['PSYMM'], 'latest'))\n"
        "trio.run(main)\n"
    )
    said = installed("python", "-c", code, env={"RPC": devnet_url, "PSYMM": deployment.psymm})
    assert said.returncode == 0, said.stderr
    assert len(said.stdout) > 1000


def test_the_devnet_asks_for_node_and_says_what_to_run(installed: Run) -> None:
    said = installed("psymm", "devnet")
    assert said.returncode == 9
    assert "psymm tools install" in said.stderr + said.stdout
    assert "Traceback" not in said.stderr


def test_proving_asks_for_node_and_says_what_to_run(installed: Run) -> None:
    code = (
        "import trio\n"
        "from psymm.custody.prover import Prover\n"
        "from psymm.errors import PSymmError\n"
        "async def main():\n"
        "    try:\n"
        "        async with Prover() as prover:\n"
        "            await prover.start()\n"
        "    except PSymmError as refused:\n"
        "        print(type(refused).__name__, refused)\n"
        "trio.run(main)\n"
    )
    said = installed("python", "-c", code)
    assert said.returncode == 0, said.stderr
    assert "psymm tools install" in said.stdout
