"""The outbox: ended custodies whose solver may lack our last frames, as their trader.

While a custody lasts, both sides compare heads on each connection and resend what is missing, so
nothing is stored about what was sent. After its end there may be no more connection, and no frame
need cover the trader's last one. The solver has what its frames cover. Beyond that, a custody
stores the highest number that the solver is known to have (`delivered`).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from psymm.journal.codec import JournalledCustody
from psymm.journal.heads import heads_of
from psymm.journal.rounds import frame_of
from psymm.transcript.agreement import SOLVER, TRADER

_PEER_SEQ: slice = slice(74, 82)
"""The place of peerSeq in a raw frame."""


def is_undelivered(path: Path, base: sqlite3.Connection, custody: JournalledCustody) -> bool:
    """Whether a custody has ended and its solver may lack frames of ours. Raises JournalCorrupt."""
    if custody.lane != TRADER or custody.state != "closed":
        return False
    key = custody.agreement.custody
    heads = heads_of(path, base, key).heads
    if custody.delivered >= heads.trader[0]:
        return False
    last = frame_of(path, base, key, SOLVER, heads.solver[0])
    covered = 0 if last is None else int.from_bytes(last.raw[_PEER_SEQ])
    return covered < heads.trader[0]
