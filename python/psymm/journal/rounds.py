"""The frames of a journal: one row, a round, holds the frames of one custody from one commit.

    id         the order of writing, over all custodies
    custody    its id
    arrival    the place of the first frame among the custody's frames, from 1
    frames     how many frames
    body       for each frame: length (4 bytes), lane (1), seq (8), digest (32), checksum (8), all
               big-endian; then the frame as it was sent

The table has a rowid. A round is often above a kilobyte, and SQLite would give it a page of its own
in a table without rowid. Only the small index over (custody, arrival) follows the custody's order.

No index finds a frame by lane and number. Places have no holes and both lanes only grow: a frame's
place is the sum of both lanes' numbers up to it. So a binary search finds it.

A frame's checksum binds it to its place, not to its round, so rounds can be cut in two.

All functions run in the journal's thread, within its transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from struct import Struct
from typing import Final

from psymm.errors import JournalCorrupt, Missing
from psymm.journal.codec import JournalledFrame

SCHEMA: Final = """
CREATE TABLE rounds (
  id INTEGER PRIMARY KEY, custody BLOB NOT NULL REFERENCES custodies, arrival INTEGER NOT NULL,
  frames INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (custody, arrival)
) STRICT;
"""
MOST_BYTES: Final = 64 * 1024
"""A round ends with the frame that reaches this: reading a frame reads its whole round."""

_HEADER: Final = Struct(">IBQ32s8s")
_PLACE: Final = Struct(">32sQBQ32s")

SHORTEST: Final = _HEADER.size + 223
"""The least that one frame takes in a round, in bytes."""

Written = tuple[int, int, bytes, bytes]
"""Lane, seq, digest and raw bytes of a frame to be written."""


def _checksum(place: bytes, raw: bytes) -> bytes:
    """Binds a frame's bytes to its place, to detect damage. Its signature detects forgery."""
    return blake2b(place + raw, digest_size=8).digest()


def insert_frames(
    base: sqlite3.Connection, custody: bytes, arrival: int, frames: Sequence[Written]
) -> None:
    """Write frames of a custody from place `arrival` on, as one round unless they are very long.

    Raises sqlite3.IntegrityError if a round starts there already.
    """
    parts: list[bytes] = []
    size, first, place, last = 0, arrival, arrival, arrival + len(frames) - 1
    for lane, seq, digest, raw in frames:
        # `_checksum` written out: this loop runs for every frame.
        bound = _PLACE.pack(custody, place, lane, seq, digest) + raw
        check = blake2b(bound, digest_size=8).digest()
        parts += (_HEADER.pack(len(raw), lane, seq, digest, check), raw)
        size += len(raw)
        # A new round only between frames: one that is cut in two could not be read.
        if size >= MOST_BYTES or place == last:
            base.execute(
                "INSERT INTO rounds (custody, arrival, frames, body) VALUES (?,?,?,?)",
                (custody, first, place - first + 1, b"".join(parts)),
            )
            parts, size, first = [], 0, place + 1
        place += 1


class Damaged(tuple[int, int, int]):
    """Place, lane and seq of a damaged frame; lane and seq as far as they can be read."""

    __slots__ = ()


def read_round(
    custody: bytes, arrival: int, frames: int, body: bytes
) -> Iterator[JournalledFrame | Damaged]:
    """The frames of a round, one for each place.

    Raises TypeError, ValueError or struct.error for a row of the wrong shape.
    """
    at, end = 0, len(body)
    for place in range(arrival, arrival + frames):
        if at + _HEADER.size > end:
            yield Damaged((place, -1, -1))
            continue
        length, lane, seq, digest, check = _HEADER.unpack_from(body, at)
        at += _HEADER.size
        raw = body[at : at + length]
        if _checksum(_PLACE.pack(custody, place, lane, seq, digest), raw) == check:
            at += length
            yield JournalledFrame(place, lane, seq, digest, raw)
        else:
            # A damaged header may state a wrong length. The frame states its own length, too, so
            # that the next frames can still be found.
            own = _own_length(body, at)
            if own is not None and not _header_at(body, at + length, end):
                length = own
            at += length
            yield Damaged((place, lane, seq))


def _own_length(body: bytes, at: int) -> int | None:
    """The length that a raw frame states: 126 bytes, the payload, 97 bytes."""
    if at + 126 > len(body):
        return None
    return 223 + int.from_bytes(body[at + 122 : at + 126])


def _header_at(body: bytes, at: int, end: int) -> bool:
    """Whether the round ends here, or a plausible header and frame follow."""
    if at == end:
        return True
    if at + _HEADER.size + 126 > end:
        return False
    length, lane, *_ = _HEADER.unpack_from(body, at)
    return lane in (0, 1) and length == _own_length(body, at + _HEADER.size)


def _intact(path: Path, custody: bytes, row: tuple[int, int, bytes]) -> Iterator[JournalledFrame]:
    """The frames of a row (arrival, frames, body).

    Raises JournalCorrupt, naming the frame, if one is damaged.
    """
    for frame in read_round(custody, *row):
        if isinstance(frame, Damaged):
            raise _corrupt(path, custody, frame)
        yield frame


def _corrupt(path: Path, custody: bytes, damaged: Damaged) -> JournalCorrupt:
    _, lane, seq = damaged
    missing = [Missing(custody, "frames", lane, seq, seq)] if lane in (0, 1) else []
    return JournalCorrupt(
        "a frame in the journal is not the one it was",
        journal=path,
        custody=custody,
        lane=lane,
        seq=seq,
        missing=missing,
    )


_ROUNDS: Final = "SELECT arrival, frames, body FROM rounds WHERE custody = ?"


def iterate_frames(
    path: Path, base: sqlite3.Connection, custody: bytes, after: int = 0
) -> Iterator[JournalledFrame]:
    """A custody's frames after place `after`, in order of arrival, one round in memory at a time.

    Raises JournalCorrupt if a place is missing or a frame is damaged.
    """
    gone = base.execute("SELECT arrivals FROM pruned WHERE custody = ?", (custody,)).fetchone()
    # Pruned places are gone on purpose; any other missing place is a loss.
    expected = max(after, 0 if gone is None else gone[0]) + 1
    # A round may start before the place asked for.
    first = _row_at(base, custody, expected)
    query = _ROUNDS + " AND arrival >= ? ORDER BY arrival"
    with closing(base.execute(query, (custody, 0 if first is None else first[0]))) as rows:
        for row in rows:
            for frame in read_round(custody, *row):
                # Damage before the first frame asked for does not matter here.
                place = frame[0] if isinstance(frame, Damaged) else frame.arrival
                if place < expected:
                    continue
                if isinstance(frame, Damaged):
                    raise _corrupt(path, custody, frame)
                if place != expected:
                    raise JournalCorrupt(
                        "a frame is missing", journal=path, custody=custody, place=expected
                    )
                expected += 1
                yield frame


def frames_of(
    path: Path, base: sqlite3.Connection, custody: bytes, after: int, at_most: int | None
) -> list[JournalledFrame]:
    """At most `at_most` frames of a custody after place `after`.

    Raises JournalCorrupt if a place is missing or a frame is damaged.
    """
    found: list[JournalledFrame] = []
    for frame in iterate_frames(path, base, custody, after):
        if at_most is not None and len(found) >= at_most:
            break
        found.append(frame)
    return found


def lane_of(
    path: Path,
    base: sqlite3.Connection,
    custody: bytes,
    lane: int,
    between: tuple[int, int],
    at_most_bytes: int,
) -> list[JournalledFrame]:
    """The frames of a lane that are held, by number.

    Raises JournalCorrupt if one is damaged.

    Args:
        path: the journal's, for errors.
        base: the connection.
        custody: its id.
        lane: 0 trader, 1 solver.
        between: the first and the last number, both included.
        at_most_bytes: stop after the frame that reaches this many raw bytes.
    """
    first, last = between
    start = _round_with(path, base, custody, lane, first)
    found: list[JournalledFrame] = []
    size = 0
    for frame in iterate_frames(path, base, custody, 0 if start is None else start[0] - 1):
        if frame.lane != lane or frame.seq < first:
            continue
        if frame.seq > last:
            break
        found.append(frame)
        size += len(frame.raw)
        if size >= at_most_bytes or frame.seq == last:
            break
    return found


def frame_of(
    path: Path, base: sqlite3.Connection, custody: bytes, lane: int, seq: int
) -> JournalledFrame | None:
    """A frame by its lane and number, or None. Raises JournalCorrupt if it is damaged."""
    row = _round_with(path, base, custody, lane, seq)
    for frame in () if row is None else read_round(custody, *row):
        if isinstance(frame, Damaged):
            # With an unreadable lane it may be the one asked for.
            if frame[1:] == (lane, seq) or frame[1] not in (0, 1):
                raise _corrupt(path, custody, frame)
        elif (frame.lane, frame.seq) == (lane, seq):
            return frame
    return None


def _round_with(
    path: Path, base: sqlite3.Connection, custody: bytes, lane: int, seq: int
) -> tuple[int, int, bytes] | None:
    """The round that would hold a lane's frame, or None.

    Raises JournalCorrupt if damage hides the answer.
    """
    found: tuple[int, int, bytes] | None = None
    # A frame's place is at least its number.
    low, high = seq, last_place(base, custody)
    while low <= high:
        middle = (low + high) // 2
        row = _row_at(base, custody, middle)
        if row is None:
            low = middle + 1
            continue
        damaged: Damaged | None = None
        before = seq
        for frame in read_round(custody, *row):
            if isinstance(frame, Damaged):
                damaged = damaged or frame
                continue
            # The lane's number just before this frame: places minus the other lane's number.
            before = frame.seq - 1 if frame.lane == lane else frame.arrival - frame.seq
            break
        # The round starts at or before the frame. A later round may, too.
        if before < seq:
            found = row
            low = max(middle + 1, row[0] + row[1])
        # The first frames of the round are damaged, and the one asked for may be among them.
        elif damaged is not None:
            raise _corrupt(path, custody, damaged)
        else:
            high = row[0] - 1
    return found


def _row_at(base: sqlite3.Connection, custody: bytes, place: int) -> tuple[int, int, bytes] | None:
    """The round that contains a place, or the last one before it."""
    found: tuple[int, int, bytes] | None = base.execute(
        _ROUNDS + " AND arrival <= ? ORDER BY arrival DESC LIMIT 1", (custody, place)
    ).fetchone()
    return found


def last_place(base: sqlite3.Connection, custody: bytes) -> int:
    """The place of a custody's last frame; 0 if there is none."""
    row = base.execute(
        "SELECT arrival + frames - 1 FROM rounds WHERE custody = ? ORDER BY arrival DESC LIMIT 1",
        (custody,),
    ).fetchone()
    return 0 if row is None else int(row[0])


# --- deleting frames ----------------------------------------------------------------------------


def delete_before(path: Path, base: sqlite3.Connection, custody: bytes, place: int) -> None:
    """Delete a custody's frames before `place`.

    Raises JournalCorrupt if a frame of the round that contains it is damaged.
    """
    row = _row_at(base, custody, place)
    # Cut the round that contains the place; whole rounds before it are deleted below.
    if row is not None and row[0] < place < row[0] + row[1]:
        stay = [_written(one) for one in _intact(path, custody, row) if one.arrival >= place]
        base.execute("DELETE FROM rounds WHERE custody = ? AND arrival = ?", (custody, row[0]))
        insert_frames(base, custody, place, stay)
    base.execute("DELETE FROM rounds WHERE custody = ? AND arrival < ?", (custody, place))


def delete_from(path: Path, base: sqlite3.Connection, custody: bytes, place: int) -> None:
    """Delete a custody's frames from `place` on. Raises as `delete_before`."""
    row = _row_at(base, custody, place)
    if row is not None and row[0] < place < row[0] + row[1]:
        stay = [_written(one) for one in _intact(path, custody, row) if one.arrival < place]
        base.execute("DELETE FROM rounds WHERE custody = ? AND arrival = ?", (custody, row[0]))
        insert_frames(base, custody, row[0], stay)
    base.execute("DELETE FROM rounds WHERE custody = ? AND arrival >= ?", (custody, place))


def _written(frame: JournalledFrame) -> Written:
    return frame.lane, frame.seq, frame.digest, frame.raw
