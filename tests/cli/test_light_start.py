"""A command that touches no chain starts without the libraries for chains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_HEAVY = {"aiohttp", "eth_abi", "eth_account", "eth_utils", "httpx", "pydantic", "web3"}
_RUN = """
import sys
from psymm.cli import main
sys.argv = ["psymm", *sys.argv[1:]]
try:
    main()
except SystemExit:
    pass
print(*sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "deposit --help",
        "trade --help",
        "solver --help",
        "oracle --help",
        "wallet address",
        "journal check",
        "transcript list",
    ],
)
def test_a_command_that_touches_no_chain_loads_no_library_for_one(
    command: str, tmp_path: Path
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _RUN, *command.split()],
        capture_output=True,
        text=True,
        env={"HOME": str(tmp_path), "LANG": "C.UTF-8"},
        timeout=120,
    )
    loaded = set(ran.stderr.splitlines()[-1].split())
    assert "psymm" in loaded, ran.stderr
    assert not loaded & _HEAVY
