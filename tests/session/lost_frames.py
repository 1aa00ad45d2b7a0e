# ruff: noqa: S608  (what is lost is said in SQL)
"""Frames that a journal has lost, as damage would take them: no other frame is touched."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from psymm.journal.codec import JournalledFrame
from psymm.journal.rounds import insert_frames, read_round


@contextmanager
def _frames_apart(path: Path) -> Iterator[sqlite3.Connection]:
    """The journal with each frame as a round of its own, and a table `frames` that says which
    (custody, arrival, lane, seq) is which."""
    with closing(sqlite3.connect(path)) as base:
        base.execute(
            "CREATE TEMP TABLE frames (custody BLOB, arrival INTEGER, lane INTEGER, seq INTEGER)"
        )
        rounds = base.execute("SELECT custody, arrival, frames, body FROM rounds").fetchall()
        base.execute("DELETE FROM rounds")
        for custody, *row in rounds:
            for one in read_round(custody, *row):
                assert isinstance(one, JournalledFrame)
                insert_frames(
                    base, custody, one.arrival, [(one.lane, one.seq, one.digest, one.raw)]
                )
                base.execute(
                    "INSERT INTO temp.frames VALUES (?,?,?,?)",
                    (custody, one.arrival, one.lane, one.seq),
                )
        yield base
        base.commit()


def lose(path: Path, where: str) -> None:
    """Frames are gone; where: of (custody, arrival, lane, seq), in SQL."""
    with _frames_apart(path) as base:
        base.execute(
            "DELETE FROM rounds WHERE (custody, arrival) IN"
            f" (SELECT custody, arrival FROM temp.frames WHERE {where})"
        )


def swap(path: Path, place: int, first: bytes, second: bytes) -> None:
    """Frames of two custodies, both at `place`, stand in each other's."""
    with _frames_apart(path) as base:
        base.execute("PRAGMA foreign_keys = OFF")
        for old, new in ((first, bytes(32)), (second, first), (bytes(32), second)):
            base.execute(
                "UPDATE rounds SET custody = ? WHERE custody = ? AND arrival = ?",
                (new, old, place),
            )


def bend(path: Path, raw: bytes, at: int) -> None:
    """One bit of a frame is another, `at` bytes after where it begins."""
    with closing(sqlite3.connect(path)) as base:
        for number, body in base.execute("SELECT id, body FROM rounds").fetchall():
            if raw in body:
                bent = bytearray(body)
                bent[body.index(raw) + at] ^= 1
                base.execute("UPDATE rounds SET body = ? WHERE id = ?", (bytes(bent), number))
                base.commit()
                return
    raise AssertionError("the frame is in no round")
