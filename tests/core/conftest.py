"""The shared vectors, read once."""

import json
from pathlib import Path
from typing import Any

import pytest

VECTORS = Path(__file__).parents[1] / "vectors"


@pytest.fixture(scope="session")
def poseidon2_vectors() -> Any:
    return json.loads((VECTORS / "poseidon2.json").read_text())


@pytest.fixture(scope="session")
def frame_vectors() -> Any:
    return json.loads((VECTORS / "frame.json").read_text())
