"""The stubs are the module: names, parameters and kinds."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_stubs_say_what_the_module_has() -> None:
    compared = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "psymm._core", "--concise"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert compared.returncode == 0, compared.stdout + compared.stderr
