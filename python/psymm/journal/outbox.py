"""Our frames that the journal does not count as sent.

A frame counts once it was handed to a socket: what is lost on the way comes again on resuming. In
a custody that has ended nobody resumes for its own sake, and a trader's frame counts only once its
solver is known to have it.
"""

from __future__ import annotations

import sqlite3


def unmark(base: sqlite3.Connection, custody: bytes, lane: int, after: int) -> None:
    """Our frames after number `after` count as unsent again."""
    base.execute(
        "UPDATE frames SET sent = 0 WHERE custody = ? AND lane = ? AND seq > ?",
        (custody, lane, after),
    )


def first_of(base: sqlite3.Connection, custody: bytes) -> int | None:
    """The lowest number that counts as unsent, None where there is none."""
    (seq,) = base.execute(
        "SELECT min(seq) FROM frames WHERE custody = ? AND sent = 0", (custody,)
    ).fetchone()
    return None if seq is None else int(seq)


def custodies_with(base: sqlite3.Connection) -> list[bytes]:
    """The custodies that have such frames."""
    found = base.execute("SELECT DISTINCT custody FROM frames WHERE sent = 0 ORDER BY custody")
    return [row[0] for row in found]
