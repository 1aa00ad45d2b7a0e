"""Whose last frames the peer may lack: custodies of ours, as their trader, that have ended.

While a custody lasts, both sides show their heads when they meet and send again what is lacking,
so nothing is kept of what was sent. After its end nobody need meet again, and no frame need cover
the trader's last. What the solver's frames cover it has; of what else it is known to have, a
custody keeps the highest number (`delivered`).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from psymm.journal.codec import JournalledCustody
from psymm.journal.heads import heads_of
from psymm.journal.rounds import frame_of
from psymm.transcript.agreement import SOLVER, TRADER

_PEER_SEQ: slice = slice(74, 82)
"""Where a raw frame has the number of the other lane that it covers."""


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
