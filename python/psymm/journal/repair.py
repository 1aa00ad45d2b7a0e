"""Repair: build a new journal from what is left of a damaged one, and from other files.

Which custodies may sign again. A party must never sign one number twice. So a repaired custody
signs again only if no frame of ours can be unknown.

- A peer cannot prove that. It could show our lane up to some frame and withhold the rest. Our next
  frame would then be its proof of our guilt.
- The damaged file cannot prove it. A write-ahead log that lost its end reads as an earlier moment.
- The high-water mark can (`psymm.journal.high_water_mark`). It says how many frames there can have
  been. Each number counted from the rest is at most the true one. So if the counts add up to the
  mark, the remaining heads are the newest.

If the mark proves it, the custody is `recovering` until all frames up to those heads are there.
Each needs its signature and its place in the chain, and the last one the digest of the head. Then
it is `complete`. In every other case it is `read-only`: it takes frames from the peer as evidence,
and never signs.

Durable when. The new journal is written to a draft and synced. The damaged file is copied aside
before the draft replaces it. The new high-water mark is written last. The new file has a lineage of
its own, so a crash before that leaves only a mark that says nothing about it. The journal's lock is
held throughout.
"""

from __future__ import annotations

import secrets
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from psymm._core import Frame, FrameError, TranscriptError
from psymm.errors import (
    JournalCorrupt,
    Missing,
)
from psymm.journal.codec import (
    HeldHeads,
    JournalledFrame,
    custody_row,
    insert_custody,
)
from psymm.journal.connection import hold_journal, without_links
from psymm.journal.faults import translate_journal_errors
from psymm.journal.heads import upsert_heads
from psymm.journal.high_water_mark import write_high_water_mark
from psymm.journal.inspection import (
    BESIDE,
    OF_CHECKPOINTS,
    CustodyReport,
    JournalReport,
    inspect,
    start_of,
)
from psymm.journal.rounds import insert_frames
from psymm.journal.schema import VERSION, create_tables
from psymm.private_files import create_private, sync_path
from psymm.storage import translate_errors
from psymm.transcript.agreement import CustodyAgreement
from psymm.transcript.checkpoint import BaseSnapshot
from psymm.transcript.delegation import DelegationRefused
from psymm.transcript.file import MAGIC as TRANSCRIPT
from psymm.transcript.file import parse_file
from psymm.transcript.heads import Heads, Health
from psymm.transcript.record import Record

_SEALED: Final = ("session_keys", "openings", "settlements")


# --- repairing ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RepairedCustody:
    """The result for one custody."""

    custody: bytes
    health: Health | None
    """None: its opening is lost, so nothing of it could be taken over."""
    lane: int | None
    endpoint: str
    frames: int
    """How many are verified and in order."""
    missing: tuple[Missing, ...]
    """What is still missing."""


@dataclass(frozen=True, slots=True)
class RepairResult:
    """The result of a repair."""

    damaged_file: Path
    """Where the damaged file is kept."""
    custodies: tuple[RepairedCustody, ...]


def repair_journal(path: Path, sources: Sequence[Path], now_ns: int) -> RepairResult | None:
    """Replace a damaged journal by a new one, made from its rest and from `sources`.

    The damaged file is kept as `<journal>.damaged-<now_ns>`; nothing is overwritten. The module
    says which custodies may sign again.

    Args:
        path: the journal.
        sources: transcript files, backups or other copies of the journal.
        now_ns: our clock, nanoseconds.

    Returns:
        None if the journal is sound, or lacks something and no source is given. Then nothing was
            changed.

    Raises:
        JournalLocked: a process is writing the journal.
        JournalCorrupt: not even the journal's own row can be read.
        TranscriptFileError, JournalError: a source is not valid.
        StorageError: the machine refuses.
    """
    path = without_links(path)
    with hold_journal(path, create=False) as lock:
        report = inspect(path)
        # A sound journal that still recovers may gain frames from sources.
        if report.complete or (report.sound and not sources):
            return None
        identity = report.identity or _identity_of(sources)
        # All sources are read before anything is written.
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
    # Built apart: the damaged file is not touched before the draft is complete and synced.
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
    # A new lineage: the old mark must not judge this file, nor the new mark the damaged one.
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
        # A custody that only a source has may lack our newest frames.
        for other in others:
            known.setdefault(other.custody, replace(other, health="read-only"))
        outcome = [
            _write_custody(
                base,
                one,
                [other for other in others if other.custody == one.custody],
                # We never knew the heads of a custody that only a source has.
                newest=report.newest and one in report.custodies,
                owner=identity[2],
            )
            for one in known.values()
        ]
        base.execute("COMMIT")
    # The order matters: new file on disk, old one safe, replace, then the mark that vouches for it.
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
    # Our lane follows from the journal's owner, if the row that says it is damaged.
    lane = one.lane if one.lane is not None else _lane_of(agreement, owner)
    # The rest of the row is lost, but the agreement says what must not be lost.
    if row is None:
        row = custody_row(agreement, lane, "open")
    row = (row[0], lane, *row[2:])
    # Our own frames win over a source's; all are verified below.
    candidates = {key: held for other in reversed(others) for key, held in other.frames.items()}
    candidates = _waiting(agreement, one) | candidates | one.frames
    gone, starts_at, before = start_of(agreement, one.other_rows, candidates)
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
    # If a source shows frames of ours beyond the newest heads, those were not the newest.
    beyond = heads.of(lane)[0] > one.heads[lane][0]
    missing = [
        Missing(one.custody, "frames", of, heads.of(of)[0] + 1, one.heads[of][0])
        for of in (0, 1)
        if heads.of(of)[0] < one.heads[of][0]
    ]
    # A record that disagrees with a known digest belongs to another history.
    contradicts = any(
        not (seq > heads.of(of)[0] or digest is None or record.digest(of, seq) == digest)
        for of, (seq, digest) in enumerate(one.heads)
    )
    # Without session keys, or with any doubt about the heads, it must never sign again.
    keys = _rows_of(one, others, "session_keys")
    lost_keys = not keys and one.heads[lane][0] > 0
    health: Health = "complete"
    doubtful = beyond or contradicts or any(digest is None for _, digest in one.heads)
    if one.health == "read-only" or not newest or lost_keys or doubtful:
        health = "read-only"
    elif missing:
        health = "recovering"
    insert_custody(base, row)
    upsert_heads(base, HeldHeads(one.custody, lane, health, heads, count))
    if kept:
        insert_frames(base, one.custody, gone.arrivals + 1, kept)
    # These rows only make sense if the record really begins at the checkpoint.
    if starts_at is not None:
        for table in OF_CHECKPOINTS:
            for each in one.other_rows[table]:
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
    for table in BESIDE:
        if table in (*OF_CHECKPOINTS, "rescued"):
            continue
        for each in _rows_of(one, others, table):
            with suppress(sqlite3.IntegrityError):  # A damaged row of a table without a seal.
                marks = ",".join("?" * len(each))
                base.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", each)  # noqa: S608
    lacks = [lack for lack in one.missing if lack.what not in ("frames", "heads", "opening")]
    if keys:
        lacks = [lack for lack in lacks if lack.what != "session-keys"]
    return RepairedCustody(one.custody, health, lane, row[8], count, (*missing, *lacks))


def _rows_of(
    one: CustodyReport, others: Sequence[CustodyReport], table: str
) -> list[tuple[Any, ...]]:
    """Our rows first, then a source's to fill gaps."""
    mine = one.other_rows.get(table, [])
    theirs = max((other.other_rows.get(table, []) for other in others), key=len, default=[])
    # Facts are numbered, so two lists must not be mixed: take the longer one.
    if table == "facts":
        return mine if len(mine) >= len(theirs) else theirs
    return [*mine, *theirs]


def _replay(
    agreement: CustodyAgreement,
    one: CustodyReport,
    candidates: dict[tuple[int, int], JournalledFrame],
    starts_at: BaseSnapshot | None,
) -> tuple[Record, list[Frame]]:
    """The record of all frames that follow one another, each verified; and the frames left over.

    Frames come in their order of arrival if that is known. A frame from another source comes where
    it is first needed: it only has to come after the frames that it covers.
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
                # "ahead": it covers a frame of the other lane that has not been placed yet.
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
    """Frames that an earlier repair left over because earlier ones were missing."""
    found: dict[tuple[int, int], JournalledFrame] = {}
    for _, lane, seq, raw in one.other_rows.get("rescued", []):
        with suppress(FrameError, TypeError):
            frame = Frame.parse(raw)
            if (frame.custody, frame.lane, frame.seq) == (one.custody, lane, seq):
                digest = frame.digest(agreement.domain)
                found[lane, seq] = JournalledFrame(one.count, lane, seq, digest, raw)
    return found


def _lane_of(agreement: CustodyAgreement, owner: object) -> int:
    return 1 if agreement.wallet_address(1) == owner else 0


def _identity_of(sources: Sequence[Path]) -> tuple[Any, ...] | None:
    """The journal's own row from a copy, if the damaged file has lost it."""
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
            # Secrets of another wallet cannot be decrypted here.
            other_rows = dict(one.other_rows)
            if report.identity[2] != owner:
                other_rows |= {table: [] for table in _SEALED}
            yield replace(one, other_rows=other_rows)
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
            place, frame.lane, frame.seq, digest, frame.raw
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
    """Copy the damaged file aside, and move its write-ahead log.

    SQLite would otherwise apply the old log to the new file.
    """
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
