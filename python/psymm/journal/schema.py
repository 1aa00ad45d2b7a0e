"""A journal's tables.

journal         one row: version, id, owner, the wallet's seal check, lineage, time of backup
custodies       one row for each custody
heads           its heads and health, with a checksum
newer_heads     the heads that the last commits moved
session_keys, openings, settlements
                encrypted (`psymm.journal.secret_store`)
equivocations   pairs of frames that prove a fault of the peer
facts           learned facts of the chain
revocations     revoked session keys
revoked_frames  frames that left the record because their key was revoked
recovering      the heads up to which frames must be fetched
rescued         frames that survived damage but follow missing ones
rounds          the frames (`psymm.journal.rounds`)
checkpoints, pruned, retained
                `psymm.journal.retention`
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from psymm.errors import JournalCorrupt
from psymm.journal import retention, rounds

VERSION: Final = 3

_SCHEMA: Final = (
    """
CREATE TABLE journal (
  version INTEGER NOT NULL, id BLOB NOT NULL, owner TEXT, seal_check BLOB,
  lineage BLOB NOT NULL, backup_ns INTEGER
) STRICT;
CREATE TABLE custodies (
  custody BLOB PRIMARY KEY, lane INTEGER NOT NULL CHECK (lane IN (0, 1)),
  chain_id INTEGER NOT NULL, contract TEXT NOT NULL, trader BLOB NOT NULL, solver BLOB NOT NULL,
  terms BLOB NOT NULL, salt BLOB NOT NULL, endpoint TEXT NOT NULL, handshake BLOB NOT NULL,
  state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', opened_ns INTEGER NOT NULL,
  delivered INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE heads (
  custody BLOB PRIMARY KEY REFERENCES custodies, lane INTEGER NOT NULL, health TEXT NOT NULL,
  frames INTEGER NOT NULL, trader_seq INTEGER NOT NULL, trader_digest BLOB NOT NULL,
  solver_seq INTEGER NOT NULL, solver_digest BLOB NOT NULL, checksum BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE newer_heads (id INTEGER PRIMARY KEY, heads BLOB NOT NULL) STRICT;
CREATE TABLE session_keys (
  custody BLOB NOT NULL REFERENCES custodies, from_seq INTEGER NOT NULL, public_key BLOB NOT NULL,
  sealed BLOB NOT NULL, PRIMARY KEY (custody, from_seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE openings (
  custody BLOB NOT NULL REFERENCES custodies, commitment BLOB NOT NULL, lane INTEGER NOT NULL,
  sealed BLOB NOT NULL, PRIMARY KEY (custody, commitment)
) STRICT, WITHOUT ROWID;
CREATE TABLE settlements (
  custody BLOB NOT NULL REFERENCES custodies, digest BLOB NOT NULL, state TEXT NOT NULL,
  sealed BLOB NOT NULL, PRIMARY KEY (custody, digest)
) STRICT, WITHOUT ROWID;
CREATE TABLE equivocations (
  custody BLOB NOT NULL REFERENCES custodies, lane INTEGER NOT NULL, seq INTEGER NOT NULL,
  first BLOB NOT NULL, second BLOB NOT NULL, PRIMARY KEY (custody, lane, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE facts (
  custody BLOB NOT NULL REFERENCES custodies, position INTEGER NOT NULL, fact TEXT NOT NULL,
  PRIMARY KEY (custody, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE revocations (
  custody BLOB NOT NULL REFERENCES custodies, lane INTEGER NOT NULL, key TEXT NOT NULL,
  from_seq INTEGER NOT NULL, cut INTEGER NOT NULL, PRIMARY KEY (custody, lane, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE revoked_frames (
  custody BLOB NOT NULL REFERENCES custodies, digest BLOB NOT NULL, lane INTEGER NOT NULL,
  seq INTEGER NOT NULL, raw BLOB NOT NULL, PRIMARY KEY (custody, digest)
) STRICT, WITHOUT ROWID;
CREATE TABLE recovering (
  custody BLOB PRIMARY KEY REFERENCES custodies,
  trader_seq INTEGER NOT NULL, trader_digest BLOB NOT NULL,
  solver_seq INTEGER NOT NULL, solver_digest BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE rescued (
  custody BLOB NOT NULL REFERENCES custodies, lane INTEGER NOT NULL, seq INTEGER NOT NULL,
  raw BLOB NOT NULL, PRIMARY KEY (custody, lane, seq)
) STRICT, WITHOUT ROWID;
"""
    + rounds.SCHEMA
    + retention.SCHEMA
)


def create_tables(base: sqlite3.Connection) -> None:
    """Create the tables, within the open transaction."""
    for statement in _SCHEMA.split(";"):
        base.execute(statement)


def version_of(path: Path, base: sqlite3.Connection) -> int:
    """The version that a file states. Raises JournalCorrupt if it states none."""
    row = base.execute("SELECT version FROM journal").fetchall()
    if len(row) != 1 or not isinstance(row[0][0], int):
        raise JournalCorrupt("the journal's own row is missing", journal=path)
    return int(row[0][0])


def check_pages(path: Path, base: sqlite3.Connection) -> None:
    """Check SQLite's own structure. Raises JournalCorrupt with SQLite's message."""
    found = base.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise JournalCorrupt(str(found), journal=path)
