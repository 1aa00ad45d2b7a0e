"""The plain C library, built once, and what the tests of the C face are made of."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def frame_vectors() -> Any:
    return json.loads((ROOT / "tests" / "vectors" / "frame.json").read_text())


@pytest.fixture(scope="session")
def c_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with lib/libpsymm.so and include/psymm.h."""
    directory = tmp_path_factory.mktemp("libpsymm")
    built = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "c_library.py"), str(directory)],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return directory
