"""Backups of a journal: made while its writer runs, whole, and marked so that they never sign.

A backup is older than the journal from the next frame on. Whoever signed with it would sign
numbers that are taken, so every custody in it is `restored` from the moment it is made: it serves
in court and settles by wallet signature. New custodies may be opened with it.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from psymm.errors import JournalError
from psymm.journal.connection import connect_reader, expect_journal, without_links
from psymm.journal.faults import translate_journal_errors
from psymm.journal.heads import heads_of, upsert_heads
from psymm.private_files import create_private, private_directory, sync_path
from psymm.transcript.heads import Heads


@dataclass(frozen=True, slots=True)
class BackedUp:
    """custodies: (id, heads) as they stand in the backup. frames: of all of them."""

    frames: int
    custodies: tuple[tuple[bytes, Heads], ...]


def back_up(journal: Path, target: Path, now_ns: int) -> BackedUp:
    """Copy a journal to `target` as of one moment, for its owner alone (0600), synced.

    Its writer may run meanwhile, and waits for nothing. now_ns: when, which the backup states.
    Raises JournalError if something stands at `target` or there is no journal, JournalCorrupt for
    a journal that is damaged (a backup that lacks frames is not made), StorageError.
    """
    journal = without_links(journal)
    expect_journal(journal)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    with translate_journal_errors(target):
        private_directory(target.parent)
        if os.path.lexists(target):
            raise JournalError("something stands here; a backup overwrites nothing", path=target)
        create_private(draft)
        try:
            with (
                closing(connect_reader(journal)) as source,
                closing(sqlite3.connect(draft, isolation_level=None)) as copy,
            ):
                source.backup(copy)
                # One file: a log beside it would be left behind when it is moved.
                copy.execute("PRAGMA journal_mode = DELETE")
                copy.execute("PRAGMA synchronous = EXTRA")
                made = _mark(target, copy, now_ns)
            with closing(connect_reader(draft)):
                pass
            sync_path(draft)
            try:
                target.hardlink_to(draft)
            except FileExistsError:
                raise JournalError(
                    "something stands here; a backup overwrites nothing", path=target
                ) from None
        finally:
            draft.unlink(missing_ok=True)
        sync_path(target.parent)
    return made


def _mark(path: Path, copy: sqlite3.Connection, now_ns: int) -> BackedUp:
    copy.execute("BEGIN IMMEDIATE")
    copy.execute("UPDATE journal SET backup_ns = ?, lineage = ?", (now_ns, secrets.token_bytes(16)))
    found: list[tuple[bytes, Heads]] = []
    frames = 0
    for (custody,) in copy.execute("SELECT custody FROM heads ORDER BY custody").fetchall():
        held = heads_of(path, copy, custody)
        upsert_heads(copy, replace(held, health="read-only"))
        found.append((held.custody, held.heads))
        frames += held.frames
    copy.execute("DELETE FROM newer_heads")
    copy.execute("DELETE FROM recovering")
    copy.execute("COMMIT")
    return BackedUp(frames, tuple(found))
