"""Backups of a journal: complete copies, made while its writer runs, that never sign.

A backup is outdated from the journal's next frame on. Signing with it would reuse numbers, so every
custody in it is `read-only` from the start. It serves as evidence in court, and its custodies
settle by wallet signature. New custodies may be opened with it.
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
    """What a backup contains."""

    frames: int
    """Of all custodies."""
    custodies: tuple[tuple[bytes, Heads], ...]
    """(id, heads) of each."""


def back_up(journal: Path, target: Path, now_ns: int) -> BackedUp:
    """Copy a snapshot of a journal to `target`, readable by its owner only (0600), and sync it.

    The writer may run meanwhile, and does not wait. `now_ns` is stored in the backup as its time.

    Raises JournalError if `target` exists or there is no journal, JournalCorrupt if the journal is
    damaged (no incomplete backup is made), StorageError.
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
                # A single file: a separate log would be left behind when the backup is moved.
                copy.execute("PRAGMA journal_mode = DELETE")
                copy.execute("PRAGMA synchronous = EXTRA")
                made = _mark(target, copy, now_ns)
            # Read back before it gets its name: what does not open must not pass for a backup.
            with closing(connect_reader(draft)):
                pass
            sync_path(draft)
            # A hard link, unlike a rename, fails if the target exists.
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
    # A new lineage: the journal's high-water mark must not judge the backup.
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
    # A backup never signs, so it has nothing to recover before it may.
    copy.execute("DELETE FROM recovering")
    copy.execute("COMMIT")
    return BackedUp(frames, tuple(found))
