"""`psymm journal archive` and `prune`, and what `psymm transcript` says of files that begin at a
checkpoint."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import trio
from test_commands import psymm

sys.path.insert(0, str(Path(__file__).parents[1] / "transcript"))

from custody_scene import Signers

from psymm.journal.writer import open_journal
from psymm.messages import Heartbeat
from psymm.transcript.agreement import TRADER


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose journal holds one custody with a checkpoint in force."""
    signers = Signers()

    async def fill() -> None:
        async with open_journal(tmp_path / "journal.db") as journal:
            await journal.open_custody(signers.opening, TRADER, signers.now_ns)
            signers.talk(12)
            point, account = signers.agree()
            signers.sign(TRADER, Heartbeat())
            await journal.append([(one.frame, one.digest) for one in signers.record])
            await journal.keep_checkpoint(signers.opening.custody, point, lambda: account)

    trio.run(fill)
    return tmp_path


CUSTODY = Signers().opening.custody.hex()
FRAMES = 19


def test_what_is_archived_verifies_and_so_does_what_is_left(home: Path) -> None:
    ran = psymm(
        "journal",
        "archive",
        "--home",
        str(home),
        "--custody",
        CUSTODY[:8],
        "--json",
        str(home / "a.psymm"),
    )
    assert ran.code == 0, ran.err
    gone, kept = ran.last["frames"], ran.last["kept"]
    assert isinstance(gone, int)
    assert isinstance(kept, int)
    assert gone > 0
    verified = psymm("transcript", "verify", "--json", str(home / "a.psymm"))
    assert (verified.code, verified.last["frames"], verified.last["checkpoint"]) == (
        0,
        gone + kept,
        None,
    )
    left = str(home / "left.psymm")
    assert psymm("transcript", "export", "--home", str(home), "--custody", CUSTODY, left).code == 0
    verified = psymm("transcript", "verify", "--json", left)
    assert verified.code == 0, verified.err
    assert verified.last["checkpoint"] == ran.last["checkpoint"]
    assert "both lanes signed it" in psymm("transcript", "verify", left).out
    for shown, told in (
        (psymm("transcript", "show", "--json", left), []),
        (
            psymm("transcript", "show", "--home", str(home), "--custody", CUSTODY[:8], "--json"),
            ["before-checkpoint"],
        ),
    ):
        assert shown.code == 0, shown.err
        lines = [json.loads(line) for line in shown.out.splitlines()]
        assert [line["code"] for line in lines if line.get("event") == "unruled"] == told
        assert any(line.get("event") == "ruling" for line in lines)


def test_an_export_can_begin_at_the_newest_checkpoint(home: Path) -> None:
    file = str(home / "since.psymm")
    ran = psymm(
        "transcript",
        "export",
        "--home",
        str(home),
        "--custody",
        CUSTODY,
        "--since-checkpoint",
        "--json",
        file,
    )
    assert ran.code == 0, ran.err
    assert isinstance(ran.last["frames"], int)
    assert ran.last["frames"] < FRAMES
    verified = psymm("transcript", "verify", "--json", file)
    assert (verified.code, verified.last["frames"]) == (0, ran.last["frames"])
    assert verified.last["checkpoint"] is not None


def test_pruning_for_good_wants_a_yes(home: Path) -> None:
    ran = psymm("journal", "prune", "--home", str(home), "--custody", CUSTODY, "--json")
    assert ran.code == 2
    assert "confirmation-needed" in ran.err + ran.out
    ran = psymm("journal", "prune", "--home", str(home), "--custody", CUSTODY, "--yes", "--json")
    assert ran.code == 0, ran.err
    assert ran.last["frames"] != 0


def test_a_file_that_is_there_is_not_written_over(home: Path) -> None:
    (home / "a.psymm").write_bytes(b"mine")
    ran = psymm(
        "journal", "archive", "--home", str(home), "--custody", CUSTODY, str(home / "a.psymm")
    )
    assert ran.code == 2
    assert (home / "a.psymm").read_bytes() == b"mine"


def test_without_a_checkpoint_it_says_so(tmp_path: Path) -> None:
    async def fill() -> None:
        async with open_journal(tmp_path / "journal.db") as journal:
            await journal.open_custody(Signers().opening, TRADER, 1)

    trio.run(fill)
    ran = psymm("journal", "prune", "--home", str(tmp_path), "--custody", CUSTODY, "--yes")
    assert ran.code == 7
    assert "no checkpoint is in force" in ran.err
