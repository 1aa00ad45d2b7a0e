"""The wheel, built from what is built already, and an environment that holds nothing else."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as `make wheel` builds it, from what is built already."""
    out = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "maturin", "build", "--release", "--quiet", "--out", str(out)],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def place(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment that holds the wheel and what it depends on, in a folder of its own."""
    home = tmp_path_factory.mktemp("empty")
    place = home / "venv"
    venv.create(place, with_pip=True)
    pinned = home / "pinned.txt"
    pinned.write_text(
        "\n".join(
            line.split(" ")[0]
            for line in (REPO / "requirements" / "dev.lock").read_text().splitlines()
            if line and not line[0].isspace() and not line.startswith("#")
        )
    )
    pip = [str(place / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    got = subprocess.run(
        [*pip, "--constraint", str(pinned), str(wheel)], capture_output=True, text=True
    )
    assert got.returncode == 0, got.stderr
    return place


@pytest.fixture(scope="session")
def installed(place: Path) -> Run:
    """Runs a command of that environment, with nothing else on the PATH."""
    home = place.parent
    environment = {
        "PATH": f"{place / 'bin'}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
    }

    def run(*command: str, **more: object) -> subprocess.CompletedProcess[str]:
        program = str(place / "bin" / command[0])
        return subprocess.run(
            [program, *command[1:]],
            env=environment | dict(more.get("env", {})),  # type: ignore[call-overload]
            cwd=home,
            capture_output=True,
            text=True,
            timeout=1_200,
        )

    return run
