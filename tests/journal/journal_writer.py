"""Programs that write a journal in a process of their own, to be killed or refused there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from custody_scene import ROOMS

_FRAME: Final = """
import os, sys, trio
sys.path[:0] = sys.argv[3:]
from pathlib import Path
from custody_scene import Signers
from psymm.messages import Heartbeat
from psymm.journal.writer import open_journal
async def main():
    signers = Signers()
    async with open_journal(Path(sys.argv[1])) as journal:
        await journal.open_custody(signers.opening, 0, 1)
        entries = signers.talk(int(sys.argv[2]))
        await journal.append([(e.frame, e.digest) for e in entries])
        await write(journal, signers)
trio.run(main)
"""


def writing(write: str, path: Path, *, frames: int = 2) -> list[str]:
    """The command of a program that opens a custody at `path`, appends its first frames and then
    runs `write`: the text of an `async def write(journal, signers)`."""
    return [sys.executable, "-c", write + _FRAME, str(path), str(frames), *ROOMS]
