"""What a damaged journal still holds, what it lacks, and a new journal made of what is left.

Reading stops at no damaged page: tables are read from both ends and their rows one by one between,
and a row counts only if its checksum, digest or seal says that it is the one that was written.

Where the line is. A party never signs one number twice, so a repaired custody signs again only if
it is certain that no frame of ours is unknown. A peer cannot give that certainty: it could show our
lane up to some frame and keep back the rest, and our next frame would be its proof of our guilt.
Nor can the damaged file itself: a write-ahead log that lost its end reads as an earlier moment.
The high-water mark can (`psymm.journal.high_water_mark`): where the frames counted from what is
left are as many as it says that there can have been, then the heads that are left are the newest,
since each of the numbers counted is at most the true one. Such a custody is `repairing` until all
frames up to those heads are there, each with its signature, its place in the chain and at the end
the digest of the head; then it is whole. In every other case it is `restored`: whatever the peer
shows is taken as evidence, and nothing is ever signed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, get_args

from psymm._core import Frame, FrameError, TranscriptError
from psymm.errors import (
    BadOpening,
    CheckpointRefused,
    JournalCorrupt,
    Missing,
)
from psymm.journal.codec import (
    FRAMES,
    CustodyState,
    JournalledFrame,
    custody_row,
    frame_checksum,
    insert_custody,
    is_handshake,
    read_frame,
)
from psymm.journal.connection import expect_journal, hold_journal, open_read_only, without_links
from psymm.journal.faults import translate_journal_errors
from psymm.journal.heads import HeldHeads, is_bytes, read_heads, upsert_heads
from psymm.journal.high_water_mark import HighWaterMark, read_high_water_mark, write_high_water_mark
from psymm.journal.retention import Pruned
from psymm.journal.schema import VERSION, create_tables
from psymm.messages import CollAsgnRespType, CollateralResponse
from psymm.private_files import create_private, sync_path
from psymm.storage import storage_error, translate_errors
from psymm.transcript.agreement import CustodyAgreement
from psymm.transcript.checkpoint import BaseSnapshot, Point, base_snapshot
from psymm.transcript.delegation import DelegationRefused
from psymm.transcript.file import MAGIC as TRANSCRIPT
from psymm.transcript.file import parse_file
from psymm.transcript.heads import Heads, Health
from psymm.transcript.record import Record

_BESIDE: Final = (
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
"""Tables whose rows belong to one custody and are taken as they are."""
_OF_CHECKPOINTS: Final = ("checkpoints", "pruned", "retained")
_SEALED: Final = ("session_keys", "openings", "settlements")


@dataclass(frozen=True, slots=True)
class CustodyReport:
    """What a file holds of one custody.

    row: of `custodies`, None where it is damaged. lane: ours, None where nothing says. heads: the
    highest known number of each lane, with its digest where that is known. count: frames that the
    journal held at least. frames: by lane and seq. beside: rows of the other tables.
    """

    custody: bytes
    agreement: CustodyAgreement | None
    row: tuple[Any, ...] | None = field(repr=False)
    lane: int | None
    health: Health
    heads: tuple[tuple[int, bytes | None], tuple[int, bytes | None]]
    count: int
    frames: dict[tuple[int, int], JournalledFrame] = field(repr=False)
    beside: dict[str, list[tuple[Any, ...]]] = field(repr=False)
    missing: tuple[Missing, ...]


@dataclass(frozen=True, slots=True)
class JournalReport:
    """What a journal's file holds and lacks. fault: what SQLite says of the file as a whole, empty
    where nothing. newest: whether the heads found are certainly the newest that there were."""

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
        """Frames that the high-water mark counts and of which nothing is left, not even their
        numbers."""
        if self.high_water_mark is None:
            return 0
        return max(0, self.high_water_mark.frames - sum(one.count for one in self.custodies))

    @property
    def newest(self) -> bool:
        return self.high_water_mark is not None and self.high_water_mark.most == sum(
            one.count for one in self.custodies
        )

    @property
    def complete(self) -> bool:
        return self.sound and not self.missing

    @property
    def sound(self) -> bool:
        """As it was written; what is missing is being repaired, or will never be needed to sign."""
        return not (
            self.fault
            or self.lost
            or any(one.missing for one in self.custodies if one.health == "complete")
        )


def inspect(path: Path) -> JournalReport:
    """Read a journal's file as far as it can be read; changes nothing.

    Raises JournalError where there is none, StorageError where the machine does not let it be
    read: that says nothing of what the file holds.
    """
    path = without_links(path)
    expect_journal(path)
    try:
        base = open_read_only(path)
    except (sqlite3.Error, OSError) as failed:
        if (refused := storage_error(path, failed)) is not None:
            raise refused from None
        # Damaged from its first page on.
        base = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)
    with closing(base):
        base.text_factory = _text
        return _inspect(path, base)


def _text(raw: bytes) -> str | bytes:
    """Text of a damaged row may be none."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _inspect(path: Path, base: sqlite3.Connection) -> JournalReport:
    # First the high-water mark, then one moment of the rest: its writer may run meanwhile.
    mark = _high_water_mark(path)
    with suppress(*_DAMAGE):
        base.execute("BEGIN")
    fault = _fault(path, base)
    own = _safely(base, "SELECT version, id, owner, seal_check, lineage, backup_ns FROM journal")
    identity = own[0] if len(own) == 1 else None
    if identity is not None and not (
        isinstance(identity[0], int) and is_bytes(identity[1], 16) and is_bytes(identity[4], 16)
    ):
        identity = None
    if identity is None and not fault:
        fault = "the journal's own row is damaged"
    ids = {
        key
        for table in ("custodies", "heads", "frames", *_BESIDE)
        for (key,) in _both_ways(base, table, "DISTINCT custody", "custody", "", ())
        if is_bytes(key, 32)
    }
    if mark is not None and (identity is None or mark.lineage != identity[4]):
        mark = None
    return JournalReport(
        version=None if identity is None else identity[0],
        identity=identity,
        backup_ns=None if identity is None else identity[5],
        custodies=tuple(_custody_report(base, custody) for custody in sorted(ids)),
        high_water_mark=mark,
        fault=fault,
    )


_DAMAGE: Final = (sqlite3.Error, OverflowError, UnicodeDecodeError)
"""What reading a damaged file raises; the last where SQLite's own words quote the damage."""


def _fault(path: Path, base: sqlite3.Connection) -> str:
    try:
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


def _high_water_mark(path: Path) -> HighWaterMark | None:
    try:
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDONLY)
    except OSError:
        return None
    try:
        return read_high_water_mark(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _custody_report(base: sqlite3.Connection, custody: bytes) -> CustodyReport:
    missing: list[Missing] = []
    rows = _safely(base, "SELECT * FROM custodies WHERE custody = ?", (custody,))
    row = tuple(rows[0]) if len(rows) == 1 else None
    agreement = None if row is None else _opening(custody, row)
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
    heads = kept[0] if kept else None
    frames = _read_frames(base, custody, None if heads is None else heads.frames)
    health: Health = "complete" if heads is None else heads.health
    target = _safely(base, "SELECT * FROM recovering WHERE custody = ?", (custody,))
    if health == "recovering" and not target:
        health = "read-only"
    beside = {
        table: [
            tuple(each)
            for each in _both_ways(base, table, "*", _KEYS[table], "custody = ?", (custody,))
        ]
        for table in _BESIDE
    }
    gone = Pruned() if agreement is None else _base_snapshot(agreement, beside, frames)[0]
    newest: list[tuple[int, bytes | None]] = []
    count = 0
    for lane in (0, 1):
        last = max((seq for of, seq in frames if of == lane), default=0)
        seq, digest = (0, None) if heads is None else heads.heads.of(lane)
        if last > seq:
            seq, digest = last, frames[lane, last].digest
        count += seq
        if health == "recovering" and target[0][1 + 2 * lane] > seq:
            seq, digest = target[0][1 + 2 * lane : 3 + 2 * lane]
        newest.append((seq, custody if seq == 0 else digest))
        missing.extend(
            Missing(custody, "frames", lane, first, end)
            for first, end in _runs(
                n for n in range(gone.seqs[lane] + 1, seq + 1) if (lane, n) not in frames
            )
        )
    ours = heads.lane if heads is not None else None if row is None else row[1]
    if ours in (0, 1) and newest[ours][0] and not beside["session_keys"]:
        missing.append(Missing(custody, "session-keys"))
    opened = {row[1] for row in beside["openings"]}
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
        beside,
        tuple(missing),
    )


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
        )
    except (BadOpening, TypeError, ValueError, OverflowError):
        return None
    return agreement if intact else None


def _accepted(frames: dict[tuple[int, int], JournalledFrame]) -> list[bytes]:
    """Notes that a side accepted, so that both sides know their openings."""
    found: list[bytes] = []
    for held in frames.values():
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


# --- reading past damage ------------------------------------------------------------------------


def _safely(base: sqlite3.Connection, query: str, given: Sequence[Any] = ()) -> list[Any]:
    """The rows up to the first that is damaged. Raises StorageError where the machine refuses: a
    row that it does not give may be whole."""
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
    """The rows from the first and from the last on, each up to one that cannot be read."""
    limit = f" WHERE {where}" if where else ""
    back = ", ".join(f"{one} DESC" for one in key.split(", "))
    query = f"SELECT {what} FROM {table}{limit} ORDER BY "  # noqa: S608  (names of our own)
    found = dict.fromkeys(_safely(base, query + key, given))
    return list(found | dict.fromkeys(_safely(base, query + back, given)))


def _read_frames(
    base: sqlite3.Connection, custody: bytes, stated: int | None
) -> dict[tuple[int, int], JournalledFrame]:
    """Every frame whose row is as it was written, by lane and seq."""
    query = FRAMES + " WHERE custody = ? ORDER BY arrival"
    rows = {row[0]: row for row in _safely(base, query, (custody,))}
    if stated is None or len(rows) < stated:
        rows |= {row[0]: row for row in _safely(base, query + " DESC", (custody,))}
        arrivals = [one for one in rows if isinstance(one, int)]
        for place in range(1, max([*arrivals, stated or 0], default=0) + 1):
            if place not in rows:
                for row in _safely(
                    base, FRAMES + " WHERE custody = ? AND arrival = ?", (custody, place)
                ):
                    rows[row[0]] = row
    found: dict[tuple[int, int], JournalledFrame] = {}
    for row in rows.values():
        frame = read_frame(custody, row)
        if frame is not None:
            found[frame.lane, frame.seq] = frame
    return found


# --- repairing ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RepairedCustody:
    """What became of one custody. frames: verified and in order. missing: still lacking."""

    custody: bytes
    health: Health | None
    """None: its opening is lost, so nothing of it could be taken over."""
    lane: int | None
    endpoint: str
    frames: int
    missing: tuple[Missing, ...]


@dataclass(frozen=True, slots=True)
class RepairResult:
    """damaged_file: where the damaged file was put."""

    damaged_file: Path
    custodies: tuple[RepairedCustody, ...]


def repair_journal(path: Path, sources: Sequence[Path], now_ns: int) -> RepairResult | None:
    """Make a new journal of what is left of a damaged one and of `sources`, in its place.

    sources: transcript files, backups or other copies of the journal. The damaged file is kept
    beside, `<journal>.damaged-<now_ns>`; nothing is overwritten. Custodies that lack frames up to
    heads that are certainly their newest are `repairing`; see the module for which may sign.
    None: the journal is sound, or no source is given for what it lacks; nothing was changed.

    Raises JournalLocked while a process writes it, JournalCorrupt where not even the journal's own
    row can be read, TranscriptFileError or JournalError for a source that is none, StorageError.
    """
    path = without_links(path)
    with hold_journal(path, create=False) as lock:
        report = inspect(path)
        if report.complete or (report.sound and not sources):
            return None
        identity = report.identity or _identity_of(sources)
        owner = None if identity is None else identity[2]
        others = [one for source in sources for one in _read_source(source, owner)]
        if identity is None:
            raise JournalCorrupt(
                f"nothing of the journal can be read: {report.fault}",
                journal=path,
            )
        with translate_journal_errors(path):
            return _repaired(path, lock, report, identity, others, now_ns)


def _repaired(
    path: Path,
    lock: int,
    report: JournalReport,
    identity: Sequence[Any],
    others: Sequence[CustodyReport],
    now_ns: int,
) -> RepairResult:
    draft = path.with_name(f".{path.name}.repaired-{now_ns}")
    create_private(draft)
    try:
        return _made(draft, path, lock, report, identity, others, now_ns)
    finally:
        draft.unlink(missing_ok=True)


def _made(
    draft: Path,
    path: Path,
    lock: int,
    report: JournalReport,
    identity: Sequence[Any],
    others: Sequence[CustodyReport],
    now_ns: int,
) -> RepairResult:
    lineage = secrets.token_bytes(16)
    with closing(sqlite3.connect(draft, isolation_level=None)) as base:
        base.execute("PRAGMA synchronous = FULL")
        base.execute("BEGIN IMMEDIATE")
        create_tables(base)
        base.execute(
            "INSERT INTO journal VALUES (?,?,?,?,?,?)",
            (VERSION, identity[1], identity[2], identity[3], lineage, identity[5]),
        )
        known = {one.custody: one for one in report.custodies}
        for other in others:
            known.setdefault(other.custody, replace(other, health="read-only"))
        outcome = [
            _write_custody(
                base,
                one,
                [other for other in others if other.custody == one.custody],
                # A custody that only a source tells of has no heads that we knew.
                newest=report.newest and one in report.custodies,
                owner=identity[2],
            )
            for one in known.values()
        ]
        base.execute("COMMIT")
    sync_path(draft)
    aside = _put_aside(path, now_ns)
    draft.replace(path)
    sync_path(path.parent)
    write_high_water_mark(lock, lineage, sum(one.frames for one in outcome), closed=True)
    return RepairResult(aside, tuple(outcome))


def _write_custody(
    base: sqlite3.Connection,
    one: CustodyReport,
    others: Sequence[CustodyReport],
    *,
    newest: bool,
    owner: object,
) -> RepairedCustody:
    held = [other for other in others if other.agreement is not None]
    agreement = one.agreement or (held[0].agreement if held else None)
    row = one.row or next((other.row for other in held if other.row is not None), None)
    if agreement is None:
        return RepairedCustody(one.custody, None, one.lane, "", 0, one.missing)
    lane = one.lane if one.lane is not None else _lane_of(agreement, owner)
    if row is None:
        row = custody_row(agreement, lane, "open")
    row = (row[0], lane, *row[2:])
    candidates = {key: held for other in reversed(others) for key, held in other.frames.items()}
    candidates = _waiting(agreement, one) | candidates | one.frames
    gone, starts_at, before = _base_snapshot(agreement, one.beside, candidates)
    record, left = _replay(agreement, one, candidates, starts_at)
    kept = [
        *((held.lane, held.seq, held.digest, held.raw) for held in before),
        *((entry.frame.lane, entry.frame.seq, entry.digest, entry.frame.raw) for entry in record),
    ]
    count = gone.arrivals + len(kept)
    heads = Heads(
        (record.head(0).seq, record.digest(0, record.head(0).seq)),
        (record.head(1).seq, record.digest(1, record.head(1).seq)),
    )
    # What a source shows beyond the heads that we thought the newest says that they are not.
    beyond = heads.of(lane)[0] > one.heads[lane][0]
    missing = [
        Missing(one.custody, "frames", of, heads.of(of)[0] + 1, one.heads[of][0])
        for of in (0, 1)
        if heads.of(of)[0] < one.heads[of][0]
    ]
    contradicts = any(
        not (seq > heads.of(of)[0] or digest is None or record.digest(of, seq) == digest)
        for of, (seq, digest) in enumerate(one.heads)
    )
    keys = _beside(one, others, "session_keys")
    lost_keys = not keys and one.heads[lane][0] > 0
    health: Health = "complete"
    doubtful = beyond or contradicts or any(digest is None for _, digest in one.heads)
    if one.health == "read-only" or not newest or lost_keys or doubtful:
        health = "read-only"
    elif missing:
        health = "recovering"
    insert_custody(base, row)
    upsert_heads(base, HeldHeads(one.custody, lane, health, heads, count))
    sent = {key for key, frame in one.frames.items() if frame.sent}
    base.executemany(
        "INSERT INTO frames VALUES (?,?,?,?,?,?,?,?)",
        [
            (
                one.custody,
                place,
                of,
                seq,
                digest,
                raw,
                int(of != lane or (of, seq) in sent),
                frame_checksum(one.custody, place, of, seq, digest, raw),
            )
            for place, (of, seq, digest, raw) in enumerate(kept, gone.arrivals + 1)
        ],
    )
    if starts_at is not None:
        for table in _OF_CHECKPOINTS:
            for each in one.beside[table]:
                marks = ",".join("?" * len(each))
                base.execute(f"INSERT INTO {table} VALUES ({marks})", each)  # noqa: S608
    if health == "recovering":
        (trader_seq, trader_digest), (solver_seq, solver_digest) = one.heads
        base.execute(
            "INSERT INTO recovering VALUES (?,?,?,?,?)",
            (one.custody, trader_seq, trader_digest, solver_seq, solver_digest),
        )
    base.executemany(
        "INSERT OR IGNORE INTO rescued VALUES (?,?,?,?)",
        [(one.custody, frame.lane, frame.seq, frame.raw) for frame in left],
    )
    for table in _BESIDE:
        if table in (*_OF_CHECKPOINTS, "rescued"):
            continue
        for each in _beside(one, others, table):
            with suppress(sqlite3.IntegrityError):  # a damaged row of a table that has no seal
                marks = ",".join("?" * len(each))
                base.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", each)  # noqa: S608
    lacks = [lack for lack in one.missing if lack.what not in ("frames", "heads", "opening")]
    if keys:
        lacks = [lack for lack in lacks if lack.what != "session-keys"]
    return RepairedCustody(one.custody, health, lane, row[8], count, (*missing, *lacks))


def _beside(
    one: CustodyReport, others: Sequence[CustodyReport], table: str
) -> list[tuple[Any, ...]]:
    """Rows of ours first; a source's fill up what is lacking, the numbered ones only as a whole."""
    mine = one.beside.get(table, [])
    theirs = max((other.beside.get(table, []) for other in others), key=len, default=[])
    if table == "facts":
        return mine if len(mine) >= len(theirs) else theirs
    return [*mine, *theirs]


def _gone(beside: Mapping[str, Sequence[tuple[Any, ...]]]) -> Pruned:
    """What was pruned of a custody, as far as its row can be read."""
    for row in beside.get("pruned", ()):
        if len(row) == 5 and all(isinstance(one, int) and one >= 0 for one in row[1:]):
            return Pruned(*row[1:])
    return Pruned()


def _base_snapshot(
    agreement: CustodyAgreement,
    beside: Mapping[str, Sequence[tuple[Any, ...]]],
    candidates: Mapping[tuple[int, int], JournalledFrame],
) -> tuple[Pruned, BaseSnapshot | None, list[JournalledFrame]]:
    """Where the frames of a pruned custody begin, if all that the checkpoint rests on is there:
    what is gone before it, and the frames up to it that are held.

    Else everything is to be fetched from its first frame on; an archive has what was pruned.
    """
    gone = _gone(beside)
    whole = (Pruned(), None, list[JournalledFrame]())
    if not gone.arrivals or sum(gone.seqs) != gone.arrivals:
        return whole
    try:
        for _, trader, solver, account_hash, *said, account in beside["checkpoints"]:
            if solver != gone.starts_at:
                continue
            point = Point(account_hash, trader, solver, (said[0], said[1]))
            before = [
                candidates[lane, seq]
                for lane in (0, 1)
                for seq in range(gone.seqs[lane] + 1, point.seqs[lane] + 1)
            ]
            earlier = [Frame.parse(row[5]) for row in beside["retained"]]
            starts_at = base_snapshot(
                point, account, (*earlier, *(Frame.parse(held.raw) for held in before))
            )
            Record(agreement, starts_at)
            before.sort(key=lambda held: held.arrival)
            return gone, starts_at, before
    except (KeyError, CheckpointRefused, FrameError, *_MISREAD):
        return whole
    return whole


_MISREAD: Final = (TypeError, ValueError, IndexError, OverflowError)


def _replay(
    agreement: CustodyAgreement,
    one: CustodyReport,
    candidates: dict[tuple[int, int], JournalledFrame],
    starts_at: BaseSnapshot | None,
) -> tuple[Record, list[Frame]]:
    """As many frames as follow from one another, each verified; and those that have to wait.

    In the order of arrival where that is known; a frame that comes from elsewhere goes where it is
    first needed, since all that counts is that it comes after what it covers.
    """
    record = Record(agreement, starts_at)
    reached = (record.head(0).seq, record.head(1).seq)
    waiting = {key: held for key, held in candidates.items() if key[1] > reached[key[0]]}
    moved = True
    while moved:
        moved = False
        heads = [waiting.get((lane, record.head(lane).seq + 1)) for lane in (0, 1)]
        ready = sorted(
            (held for held in heads if held is not None),
            key=lambda held: (
                one.frames.get((held.lane, held.seq)) is not held,
                held.arrival,
            ),
        )
        for held in ready:
            try:
                record.append(Frame.parse(held.raw))
            except TranscriptError as refused:
                if refused.code != "ahead":
                    del waiting[held.lane, held.seq]
                continue
            except (FrameError, DelegationRefused):
                del waiting[held.lane, held.seq]
                continue
            del waiting[held.lane, held.seq]
            moved = True
            break
    left = []
    for held in waiting.values():
        with suppress(FrameError):
            left.append(Frame.parse(held.raw))
    return record, left


def _waiting(
    agreement: CustodyAgreement, one: CustodyReport
) -> dict[tuple[int, int], JournalledFrame]:
    """Frames that an earlier repairing left over because others before them were lacking."""
    found: dict[tuple[int, int], JournalledFrame] = {}
    for _, lane, seq, raw in one.beside.get("rescued", []):
        with suppress(FrameError, TypeError):
            frame = Frame.parse(raw)
            if (frame.custody, frame.lane, frame.seq) == (one.custody, lane, seq):
                digest = frame.digest(agreement.domain)
                found[lane, seq] = JournalledFrame(one.count, lane, seq, digest, raw, sent=False)
    return found


def _lane_of(agreement: CustodyAgreement, owner: object) -> int:
    return 1 if agreement.wallet_address(1) == owner else 0


def _identity_of(sources: Sequence[Path]) -> tuple[Any, ...] | None:
    """A journal's own row from a copy of it, where the damaged one's is lost."""
    for source in sources:
        if not _is_transcript(source):
            report = inspect(source)
            if report.identity is not None:
                return report.identity
    return None


def _is_transcript(source: Path) -> bool:
    with translate_errors(source), source.open("rb") as file:
        return file.read(len(TRANSCRIPT)) == TRANSCRIPT


def _read_source(source: Path, owner: object) -> Iterator[CustodyReport]:
    if not _is_transcript(source):
        report = inspect(source)
        if report.identity is None:
            raise JournalCorrupt(f"nothing of it can be read: {report.fault}", journal=source)
        for one in report.custodies:
            # What another wallet has sealed opens for nobody here.
            beside = dict(one.beside)
            if report.identity[2] != owner:
                beside |= {table: [] for table in _SEALED}
            yield replace(one, beside=beside)
        return
    with translate_errors(source):
        raw = source.read_bytes()
    file = parse_file(raw)
    custody = file.agreement.custody
    heads: list[tuple[int, bytes | None]] = [(0, custody), (0, custody)]
    frames: dict[tuple[int, int], JournalledFrame] = {}
    for place, frame in enumerate(file.frames, 1):
        digest = frame.digest(file.agreement.domain)
        frames[frame.lane, frame.seq] = JournalledFrame(
            place, frame.lane, frame.seq, digest, frame.raw, sent=True
        )
        if frame.seq > heads[frame.lane][0]:
            heads[frame.lane] = (frame.seq, digest)
    facts: list[tuple[Any, ...]] = [
        (custody, place, fact) for place, fact in enumerate(file.facts, 1)
    ]
    yield CustodyReport(
        custody,
        file.agreement,
        None,
        None,
        "read-only",
        (heads[0], heads[1]),
        len(frames),
        frames,
        {"facts": facts},
        (),
    )


def _put_aside(path: Path, now_ns: int) -> Path:
    """Copy the damaged file away, and move its write-ahead log, which must not be taken for the
    new one's."""
    aside = path.with_name(f"{path.name}.damaged-{now_ns}")
    create_private(aside)
    try:
        shutil.copyfile(path, aside)
        sync_path(aside)
    except BaseException:
        aside.unlink()
        raise
    log = path.with_name(path.name + "-wal")
    if log.exists():
        log.rename(aside.with_name(aside.name + "-wal"))
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    sync_path(path.parent)
    return aside


__all__ = [
    "CustodyReport",
    "JournalReport",
    "RepairResult",
    "RepairedCustody",
    "inspect",
    "repair_journal",
]
