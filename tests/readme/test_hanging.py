"""A test that hangs fails by its name, whatever it waits for, and the tests after it run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parents[1]
PROGRAM: Final = """
import time
import conftest
import pytest
import trio

conftest.HANGS_S[""] = 1


def test_asleep():
    time.sleep(60)


async def test_in_trio():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)


async def test_busy():
    while True:
        pass


@pytest.fixture
def never():
    trio.run(trio.sleep_forever)


def test_in_a_fixture(never):
    pass


async def test_after_them():
    await trio.sleep(0)
"""


def test_a_test_that_hangs_is_named_and_the_next_one_runs(tmp_path: Path) -> None:
    file = tmp_path / "test_hangs.py"
    file.write_text(PROGRAM)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\nmarkers = slow: takes long")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "-n", "0", "-rA", "--tb=short", file],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
    )
    for name in ("test_asleep", "test_in_trio", "test_busy", "test_in_a_fixture"):
        assert f"test_hangs.py::{name} hangs: it has run for 1 s" in ran.stdout, ran.stdout
    assert "3 failed, 1 passed, 1 error" in ran.stdout, ran.stdout
