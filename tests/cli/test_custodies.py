"""Which custody a command is about."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "transcript"))

from custody_scene import Signers

from psymm.cli.custodies import chosen
from psymm.cli.exit_status import CommandError
from psymm.journal.writer import open_journal
from psymm.transcript.agreement import SOLVER, TRADER

CUSTODY = Signers().opening.custody.hex()


@pytest.mark.parametrize(
    ("start", "lane", "found"),
    [
        (CUSTODY, None, True),
        ("0x" + CUSTODY[:8].upper(), None, True),
        (CUSTODY[:8], SOLVER, True),
        (CUSTODY[:8], TRADER, False),
        (CUSTODY + "0", None, False),
    ],
)
async def test_a_custody_is_named_by_the_start_of_its_id_and_by_the_side_that_one_is_on(
    tmp_path: Path, start: str, lane: int | None, found: bool
) -> None:
    signers = Signers()
    async with open_journal(tmp_path / "journal.db") as journal:
        await journal.open_custody(signers.opening, SOLVER, signers.now_ns)
        if found:
            assert (await chosen(journal, start, lane)).agreement == signers.opening
        else:
            with pytest.raises(CommandError, match="0 custodies in the journal") as refused:
                await chosen(journal, start, lane)
            assert refused.value.code == "no-such-custody"
