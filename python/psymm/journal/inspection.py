"""Inspection: report what a journal's file still holds and what it lacks. Changes nothing.

Reading does not stop at a damaged page. Each table is read from both ends, and rounds are also read
one by one in between. A row counts only if its checksum, digest or seal proves that it is the one
that was written. What is missing follows from comparing: heads say how many frames there were, and
the high-water mark says how many there were in total.

`repair` builds on the reports; opening a damaged journal adds `JournalReport.missing` to its error.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

from psymm._core import Frame, FrameError
from psymm.errors import BadOpening, CheckpointRefused, Missing
from psymm.journal.codec import CustodyState, JournalledFrame, is_handshake
from psymm.journal.connection import expect_journal, mark_of, open_read_only, without_links
from psymm.journal.heads import is_bytes, read_heads, read_newer_heads
from psymm.journal.high_water_mark import HighWaterMark
from psymm.journal.retention import Pruned
from psymm.journal.rounds import SHORTEST, read_round
from psymm.messages import CollAsgnRespType, CollateralResponse
from psymm.storage import storage_error
from psymm.transcript.agreement import CustodyAgreement
from psymm.transcript.checkpoint import BaseSnapshot, Point, base_snapshot
from psymm.transcript.heads import Heads, Health
from psymm.transcript.record import Record

BESIDE: Final = (
    "session_keys",
    "openings",
    "settlements",
    "equivocations",
    "facts",
    "revocations",
    "revoked_frames",
    "checkpoints",
    "pruned",
    "retained",
    "rescued",
)
"""Tables whose rows belong to one custody and are copied as they are."""


OF_CHECKPOINTS: Final = ("checkpoints", "pruned", "retained")


_DAMAGE: Final = (sqlite3.Error, OverflowError, UnicodeDecodeError)
"""Errors of reading a damaged file. UnicodeDecodeError: SQLite's message quotes the damage."""


_MISREAD: Final = (TypeError, ValueError, IndexError, OverflowError, struct.error)


_BEYOND: Final = 4096
"""How many rounds to try after an unreadable one, if the last round cannot be found."""


_KEYS: Final = {
    "session_keys": "from_seq",
    "openings": "commitment",
    "settlements": "digest",
    "equivocations": "lane, seq",
    "facts": "position",
    "revocations": "lane, key",
    "revoked_frames": "digest",
    "checkpoints": "solver_seq",
    "pruned": "custody",
    "retained": "arrival",
    "rescued": "lane, seq",
}


@dataclass(frozen=True, slots=True)
class CustodyReport:
    """What a file holds of one custody.

    Attributes:
        agreement: None if its row is damaged.
        row: of `custodies`; None if it is damaged.
        lane: ours; None if nothing says.
        heads: the highest known number of each lane, with its digest if that is known.
        count: how many frames the journal held at least.
        frames: the intact frames, by lane and seq.
        other_rows: the rows of the other tables, by table.
        missing: what is lost.
    """

    custody: bytes
    agreement: CustodyAgreement | None
    row: tuple[Any, ...] | None = field(repr=False)
    lane: int | None
    health: Health
    heads: tuple[tuple[int, bytes | None], tuple[int, bytes | None]]
    count: int
    frames: dict[tuple[int, int], JournalledFrame] = field(repr=False)
    other_rows: dict[str, list[tuple[Any, ...]]] = field(repr=False)
    missing: tuple[Missing, ...]


@dataclass(frozen=True, slots=True)
class JournalReport:
    """What a journal's file holds and lacks.

    Attributes:
        version: the schema's; None if the journal's own row is damaged.
        identity: the journal's own row; None if it is damaged.
        backup_ns: when it was made as a backup; None if it was not.
        high_water_mark: the mark next to the file, if it belongs to it.
        fault: what SQLite says about the file as a whole; empty if nothing.
    """

    version: int | None
    identity: tuple[Any, ...] | None = field(repr=False)
    backup_ns: int | None
    custodies: tuple[CustodyReport, ...]
    high_water_mark: HighWaterMark | None
    fault: str

    @property
    def frames(self) -> int:
        return sum(len(one.frames) for one in self.custodies)

    @property
    def missing(self) -> tuple[Missing, ...]:
        return tuple(lack for one in self.custodies for lack in one.missing)

    @property
    def lost(self) -> int:
        """Frames that the high-water mark counts and of which not even the numbers are left."""
        if self.high_water_mark is None:
            return 0
        return max(0, self.high_water_mark.frames - sum(one.count for one in self.custodies))

    @property
    def newest(self) -> bool:
        """Whether the heads found are certainly the newest that there were.

        Each custody's count is at most the true one. So if their sum reaches the most that there
        can have been, every count is the true one.
        """
        return self.high_water_mark is not None and self.high_water_mark.most == sum(
            one.count for one in self.custodies
        )

    @property
    def complete(self) -> bool:
        return self.sound and not self.missing

    @property
    def sound(self) -> bool:
        """Whether the journal is as it was written.

        Frames may be missing only in custodies that are under repair or never sign again.
        """
        return not (
            self.fault
            or self.lost
            or any(one.missing for one in self.custodies if one.health == "complete")
        )


def inspect(path: Path) -> JournalReport:
    """Read a journal's file as far as possible. Changes nothing.

    Raises JournalError if there is none. Raises StorageError if the machine refuses to read it,
    which says nothing about the file's content.
    """
    path = without_links(path)
    expect_journal(path)
    try:
        base = open_read_only(path)
    except (sqlite3.Error, OSError) as failed:
        if (refused := storage_error(path, failed)) is not None:
            raise refused from None
        # Even the first page is damaged: connect without reading anything yet.
        base = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)
    with closing(base):
        base.text_factory = _text
        return _inspect(path, base)


def _text(raw: bytes) -> str | bytes:
    """Text of a damaged row may not be UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _inspect(path: Path, base: sqlite3.Connection) -> JournalReport:
    # The mark first, then one snapshot of the rest. A running writer then only adds frames between
    # the two, which cannot look like a loss.
    mark = mark_of(path)
    with suppress(*_DAMAGE):
        base.execute("BEGIN")
    fault = _fault(path, base)
    own = _safely(base, "SELECT version, id, owner, seal_check, lineage, backup_ns FROM journal")
    identity = own[0] if len(own) == 1 else None
    # SQLite gives back damaged values without complaint, so check each shape.
    if identity is not None and not (
        isinstance(identity[0], int) and is_bytes(identity[1], 16) and is_bytes(identity[4], 16)
    ):
        identity = None
    if identity is None and not fault:
        fault = "the journal's own row is damaged"
    # Any table may name a custody whose own row is damaged.
    ids = {
        key
        for table in ("custodies", "heads", *BESIDE)
        for (key,) in _both_ways(base, table, "DISTINCT custody", "custody", "", ())
        if is_bytes(key, 32)
    }
    frames = _read_frames(base)
    newer = read_newer_heads(_safely(base, "SELECT heads FROM newer_heads ORDER BY id"))
    ids |= frames.keys() | newer.keys()
    # A mark of another file says nothing about this one.
    if mark is not None and (identity is None or mark.lineage != identity[4]):
        mark = None
    return JournalReport(
        version=None if identity is None else identity[0],
        identity=identity,
        backup_ns=None if identity is None else identity[5],
        custodies=tuple(
            _custody_report(base, custody, frames.get(custody, {}), newer.get(custody))
            for custody in sorted(ids)
        ),
        high_water_mark=mark,
        fault=fault,
    )


def _fault(path: Path, base: sqlite3.Connection) -> str:
    try:
        # SQLite then checks the cells of each page that it reads, and reports damage early.
        base.execute("PRAGMA cell_size_check = ON")
        found = base.execute("PRAGMA quick_check(1)").fetchone()
        return "" if found == ("ok",) else str(found[0]) if found else "nothing can be read"
    except sqlite3.Error as failed:
        refused = storage_error(path, failed)
        if refused is not None:
            raise refused from None
        return str(failed)
    except UnicodeDecodeError:
        return "the file's own description of its tables is damaged"


def _custody_report(
    base: sqlite3.Connection,
    custody: bytes,
    frames: dict[tuple[int, int], JournalledFrame],
    newer: Heads | None,
) -> CustodyReport:
    missing: list[Missing] = []
    rows = _safely(base, "SELECT * FROM custodies WHERE custody = ?", (custody,))
    row = tuple(rows[0]) if len(rows) == 1 else None
    agreement = None if row is None else _opening(custody, row)
    # A row that does not give its own custody id cannot be trusted in any column.
    if agreement is None:
        row = None
        missing.append(Missing(custody, "opening"))
    kept = [
        held
        for each in _safely(base, "SELECT * FROM heads WHERE custody = ?", (custody,))
        if (held := read_heads(each)) is not None and held.custody == custody
    ]
    if not kept:
        missing.append(Missing(custody, "heads"))
    # Without the row nothing says that we may not sign; `repair` decides by the mark.
    heads = kept[0] if kept else None
    health: Health = "complete" if heads is None else heads.health
    target = _safely(base, "SELECT * FROM recovering WHERE custody = ?", (custody,))
    # Without its target heads, nobody can say when the recovery is complete.
    if health == "recovering" and not target:
        health = "read-only"
    other_rows = {
        table: [
            tuple(each)
            for each in _both_ways(base, table, "*", _KEYS[table], "custody = ?", (custody,))
        ]
        for table in BESIDE
    }
    gone = Pruned() if agreement is None else start_of(agreement, other_rows, frames)[0]
    newest: list[tuple[int, bytes | None]] = []
    count = 0
    for lane in (0, 1):
        # The highest number that anything names: row, newer heads, frames, recovery target.
        last = max((seq for of, seq in frames if of == lane), default=0)
        seq, digest = (0, None) if heads is None else heads.heads.of(lane)
        if newer is not None and newer.of(lane)[0] > seq:
            seq, digest = newer.of(lane)
        if last > seq:
            seq, digest = last, frames[lane, last].digest
        count += seq
        if health == "recovering" and target[0][1 + 2 * lane] > seq:
            seq, digest = target[0][1 + 2 * lane : 3 + 2 * lane]
        newest.append((seq, custody if seq == 0 else digest))
        # What was pruned is gone on purpose.
        missing.extend(
            Missing(custody, "frames", lane, first, end)
            for first, end in _runs(
                n for n in range(gone.seqs[lane] + 1, seq + 1) if (lane, n) not in frames
            )
        )
    ours = heads.lane if heads is not None else None if row is None else row[1]
    # A lane with frames needs the key that signed them; note openings are needed to settle.
    if ours in (0, 1) and newest[ours][0] and not other_rows["session_keys"]:
        missing.append(Missing(custody, "session-keys"))
    opened = {row[1] for row in other_rows["openings"]}
    missing.extend(
        Missing(custody, f"note 0x{note.hex()}") for note in _accepted(frames) if note not in opened
    )
    return CustodyReport(
        custody,
        agreement,
        row,
        ours if ours in (0, 1) else None,
        health,
        (newest[0], newest[1]),
        count,
        frames,
        other_rows,
        tuple(missing),
    )


def start_of(
    agreement: CustodyAgreement,
    other_rows: Mapping[str, Sequence[tuple[Any, ...]]],
    candidates: Mapping[tuple[int, int], JournalledFrame],
) -> tuple[Pruned, BaseSnapshot | None, list[JournalledFrame]]:
    """Where the frames of a pruned custody begin, if everything that its checkpoint needs is there.

    Otherwise all frames must be fetched from the first one on; an archive has what was pruned.

    Returns:
        What was pruned.
        The checkpoint at which the rest begins; None if nothing was pruned.
        The frames up to the checkpoint that are held.
    """
    gone = _gone(other_rows)
    whole = (Pruned(), None, list[JournalledFrame]())
    # Each place is one frame of one lane, so the two counts must agree.
    if not gone.arrivals or sum(gone.seqs) != gone.arrivals:
        return whole
    try:
        for _, trader, solver, account_hash, *said, account in other_rows["checkpoints"]:
            if solver != gone.starts_at:
                continue
            point = Point(account_hash, trader, solver, (said[0], said[1]))
            before = [
                candidates[lane, seq]
                for lane in (0, 1)
                for seq in range(gone.seqs[lane] + 1, point.seqs[lane] + 1)
            ]
            earlier = [Frame.parse(row[5]) for row in other_rows["retained"]]
            starts_at = base_snapshot(
                point, account, (*earlier, *(Frame.parse(held.raw) for held in before))
            )
            # Raises if the record cannot begin there.
            Record(agreement, starts_at)
            before.sort(key=lambda held: held.arrival)
            return gone, starts_at, before
    except (KeyError, CheckpointRefused, FrameError, *_MISREAD):
        return whole
    return whole


def _gone(other_rows: Mapping[str, Sequence[tuple[Any, ...]]]) -> Pruned:
    """What was pruned of a custody; nothing if its row cannot be read."""
    for row in other_rows.get("pruned", ()):
        if len(row) == 5 and all(isinstance(one, int) and one >= 0 for one in row[1:]):
            return Pruned(*row[1:])
    return Pruned()


def _opening(custody: bytes, row: Sequence[Any]) -> CustodyAgreement | None:
    try:
        agreement = CustodyAgreement(row[2], row[3], row[4], row[5], row[6], row[7])
        intact = (
            agreement.custody == custody
            and row[1] in (0, 1)
            and isinstance(row[8], str)
            and is_handshake(row[9])
            and row[10] in get_args(CustodyState)
            and isinstance(row[11], str)
            and isinstance(row[13], int)
        )
    except (BadOpening, TypeError, ValueError, OverflowError):
        return None
    return agreement if intact else None


def _accepted(frames: dict[tuple[int, int], JournalledFrame]) -> list[bytes]:
    """Commitments of accepted notes. Both sides must know the openings of these."""
    found: list[bytes] = []
    for held in frames.values():
        # Cheap filter on the start of the payload; only an AZ accepts notes.
        if b'"AZ"' not in held.raw[126:160]:
            continue
        with suppress(FrameError):
            said = Record.decoded(Frame.parse(held.raw))
            if (
                isinstance(said, CollateralResponse)
                and said.coll_asgn_resp_type is CollAsgnRespType.ACCEPTED
            ):
                found.extend(one.commitment for one in said.commitments)
    return found


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    first = last = None
    for number in numbers:
        if last is not None and number == last + 1:
            last = number
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = number
    if first is not None and last is not None:
        yield first, last


def _read_frames(base: sqlite3.Connection) -> dict[bytes, dict[tuple[int, int], JournalledFrame]]:
    """Every intact frame, by custody, and by lane and seq."""
    found: dict[bytes, dict[tuple[int, int], JournalledFrame]] = {}
    for custody, arrival, body in _read_rounds(base):
        if not is_bytes(custody, 32) or not isinstance(body, bytes):
            continue
        frames = found.setdefault(custody, {})
        with suppress(*_MISREAD):
            # The row may be wrong about the number of frames, so use the most that fit.
            for frame in read_round(custody, arrival, len(body) // SHORTEST, body):
                if isinstance(frame, JournalledFrame):
                    frames[frame.lane, frame.seq] = frame
    return found


def _read_rounds(base: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """All readable rounds. Raises StorageError if the machine refuses to read.

    Reads from the first and from the last round up to an unreadable one, then those in between one
    by one.
    """
    query = "SELECT id, custody, arrival, body FROM rounds"
    last = 0
    try:
        for row in base.execute(query + " ORDER BY id"):
            last = row[0]
            yield row[1:]
    except _DAMAGE as failed:
        if (refused := storage_error(None, failed)) is not None:
            raise refused from None
    else:
        return
    # The index may still lead to the rows behind the damage.
    first: int | None = None
    for row in _safely(base, query + " WHERE id > ? ORDER BY id DESC", (last,)):
        first = row[0]
        yield row[1:]
    for number in range(last + 1, last + _BEYOND if first is None else first):
        for row in _safely(base, query + " WHERE id = ?", (number,)):
            yield row[1:]


def _safely(base: sqlite3.Connection, query: str, given: Sequence[Any] = ()) -> list[Any]:
    """The rows up to the first damaged one.

    Raises StorageError if the machine refuses to read: a row that it withholds may be intact.
    """
    found: list[Any] = []
    try:
        for row in base.execute(query, given):
            found.append(row)
    except _DAMAGE as failed:
        if (refused := storage_error(None, failed)) is not None:
            raise refused from None
    return found


def _both_ways(
    base: sqlite3.Connection, table: str, what: str, key: str, where: str, given: Sequence[Any]
) -> list[Any]:
    """The rows from the first and from the last on, each up to an unreadable one."""
    limit = f" WHERE {where}" if where else ""
    back = ", ".join(f"{one} DESC" for one in key.split(", "))
    query = f"SELECT {what} FROM {table}{limit} ORDER BY "  # noqa: S608  (names of our own)
    # A dict keeps the order and drops rows that were found twice.
    found = dict.fromkeys(_safely(base, query + key, given))
    return list(found | dict.fromkeys(_safely(base, query + back, given)))
