"""A proof has no time limit of its own; the caller can cancel it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from psymm.custody.prover import Prover

FAKE = """#!{python}
import json, os, sys, time
if sys.argv[1:] == ["--version"]:
    print("v22.0.0")
    sys.exit()
say = lambda line: print(json.dumps(line), flush=True)
say({{"ready": True}})
for line in sys.stdin:
    open({asked!r}, "w").close()
    while not os.path.exists({go!r}):
        time.sleep(0.01)
    shown = ["0x" + "11" * 32]
    times = {{"witness_ms": 1, "prove_ms": 1}}
    say({{"id": json.loads(line)["id"], "proof": "0x" + "22" * 32, "publicInputs": shown, **times}})
"""
EXPECTED = [b"\x11" * 32]


async def there(file: Path) -> None:
    """Waits in the machine's time, which is not the test's."""

    def wait() -> None:
        while not file.exists():
            time.sleep(0.01)

    await trio.to_thread.run_sync(wait)


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A prover that answers once the second file is there; the first says that it was asked."""
    asked, go, node = tmp_path / "asked", tmp_path / "go", tmp_path / "node"
    node.write_text(FAKE.format(python=sys.executable, asked=str(asked), go=str(go)))
    node.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return asked, go


async def test_a_proof_that_takes_an_hour_is_waited_for(
    slow: tuple[Path, Path], mock_clock: MockClock
) -> None:
    asked, go = slow
    async with Prover() as prover, trio.open_nursery() as nursery:

        async def hours() -> None:
            await there(asked)
            mock_clock.jump(3_600)
            await trio.testing.wait_all_tasks_blocked()
            go.touch()

        nursery.start_soon(hours)
        made = await prover.prove("ctc", {}, EXPECTED)
        assert made.proof == b"\x22" * 32


async def test_a_prover_that_hangs_is_ended_by_who_cancels_and_the_next_proof_is_made(
    slow: tuple[Path, Path], mock_clock: MockClock
) -> None:
    asked, go = slow
    async with Prover() as prover:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(prover.prove, "ctc", {}, EXPECTED)
            await there(asked)
            nursery.cancel_scope.cancel()
        assert prover.pid is None
        go.touch()
        made = await prover.prove("ctc", {}, EXPECTED)
        assert made.public_inputs == tuple(EXPECTED)


async def test_a_ctrl_c_at_the_terminal_does_not_reach_the_prover(slow: tuple[Path, Path]) -> None:
    """A terminal sends it to the whole group; the command alone decides what ends."""
    async with Prover() as prover:
        await prover.start()
        assert prover.pid is not None
        assert os.getpgid(prover.pid) != os.getpgrp()
