"""A signer's memory, in SQLite: what it signed, all rounds, and proofs against other signers.

What is signed is on disk before its signature leaves the process. So after a crash the signer knows
the last moment that it may have signed, and signs no second root of it.

All methods block for at most one disk write; the service calls them in a thread.
"""

from __future__ import annotations

import sqlite3
import zlib
from pathlib import Path
from typing import Any, Final

from psymm.oracle.agreement import SignerConvicted
from psymm.oracle.rounds import OracleError, SignedRound, encode_round
from psymm.owned_database import OwnedDatabase

VERSION: Final = 1
CHUNK: Final = 32
"""Rounds that are read at once."""
_TABLES: Final = """
CREATE TABLE votes (timestamp INTEGER PRIMARY KEY, root BLOB NOT NULL) STRICT;
CREATE TABLE rounds (
    timestamp INTEGER PRIMARY KEY,
    root BLOB NOT NULL,
    packed BLOB NOT NULL
) STRICT;
CREATE TABLE conflicts (
    timestamp INTEGER NOT NULL,
    root BLOB NOT NULL,
    packed BLOB NOT NULL,
    PRIMARY KEY (timestamp, root)
) STRICT, WITHOUT ROWID;
CREATE TABLE convictions (
    signer TEXT PRIMARY KEY,
    timestamp INTEGER NOT NULL,
    first_root BLOB NOT NULL,
    first_signature BLOB NOT NULL,
    second_root BLOB NOT NULL,
    second_signature BLOB NOT NULL
) STRICT;
"""
_NS: Final = 10**9
_INTEGER_END: Final = 1 << 63
"""SQLite's integers are signed. As a moment this is the year 2262."""


class OracleStoreError(OracleError):
    """The file cannot be used; nothing more is signed."""

    code = "oracle-store"
    what = "the signer's file cannot be used"
    remedy = "Nothing more was signed. Use another --home, or put the file back"


class OracleStore(OwnedDatabase):
    """The file. Only one process can open it; another gets OracleStoreError."""

    role = "signer"
    tables = _TABLES
    version = VERSION
    unusable = OracleStoreError

    def __init__(self, path: Path, chain_id: int, contract: str, signer: str, keep_s: int) -> None:
        """Open or create the file, for one signer of one deployment.

        keep_s: how long votes and rounds are kept, by their own time.
        Raises as `OwnedDatabase` does.
        """
        self._keep_ns = keep_s * _NS
        super().__init__(path, {"chainId": str(chain_id), "contract": contract, "signer": signer})

    # --- what we sign -------------------------------------------------------------------------

    def last_vote(self) -> int:
        """The last moment that we may have signed; 0 if none."""
        return self._number("SELECT max(timestamp) FROM votes")

    def vote(self, timestamp: int, root: bytes) -> bool:
        """Make durable that we sign this root. False if we may have signed this moment or a later
        one already; then nothing may be signed."""
        with self._transaction():
            # Compared with the newest vote, not with the row of this moment: old rows are deleted.
            # The newest never is, so that no moment opens again.
            last = self._db.execute("SELECT max(timestamp) FROM votes").fetchone()[0]
            if last is not None and timestamp <= last:
                return False
            self._db.execute("INSERT INTO votes VALUES (?, ?)", (timestamp, root))
            self._db.execute("DELETE FROM votes WHERE timestamp < ?", (timestamp - self._keep_ns,))
        return True

    # --- rounds -------------------------------------------------------------------------------

    def add(self, signed: SignedRound) -> bool:
        """Keep a round that a threshold signed. False if its moment has one already. A second one
        with another root is kept as a proof, and never given out."""
        if signed.timestamp >= _INTEGER_END:
            return False
        row = (signed.timestamp, signed.root, zlib.compress(encode_round(signed).encode(), 1))
        with self._transaction():
            known = self._db.execute(
                "SELECT root FROM rounds WHERE timestamp = ?", (signed.timestamp,)
            ).fetchone()
            if known is not None:
                if known[0] != signed.root:
                    self._db.execute("INSERT OR IGNORE INTO conflicts VALUES (?, ?, ?)", row)
                return False
            self._db.execute("INSERT INTO rounds VALUES (?, ?, ?)", row)
            self._db.execute(
                "DELETE FROM rounds WHERE timestamp < ?", (signed.timestamp - self._keep_ns,)
            )
        return True

    def newest(self) -> int:
        """The moment of the newest round; 0 if there is none."""
        return self._number("SELECT max(timestamp) FROM rounds")

    def rounds(self, after: int, last: int) -> list[tuple[int, str]]:
        """Moments and texts of at most CHUNK rounds after `after`, up to `last`, oldest first."""
        bounds = (min(after, _INTEGER_END - 1), min(last, _INTEGER_END - 1), CHUNK)
        rows = self._read(
            "SELECT timestamp, packed FROM rounds WHERE timestamp > ? AND timestamp <= ? "
            "ORDER BY timestamp LIMIT ?",
            bounds,
        )
        return [(at, self._unpack(packed)) for at, packed in rows]

    def conflicts(self) -> list[str]:
        """Texts of valid rounds that had another root than the one given out for their moment."""
        rows = self._read("SELECT packed FROM conflicts ORDER BY timestamp", ())
        return [self._unpack(packed) for (packed,) in rows]

    # --- proofs -------------------------------------------------------------------------------

    def convict(self, proof: SignerConvicted) -> None:
        """Keep the proof that a signer signed two roots of one moment."""
        # The first proof is enough. `INSERT OR IGNORE` keeps it.
        row = (
            proof.signer,
            proof.timestamp,
            proof.roots[0],
            proof.signatures[0],
            proof.roots[1],
            proof.signatures[1],
        )
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO convictions VALUES (?, ?, ?, ?, ?, ?)", row)

    def convictions(self) -> list[SignerConvicted]:
        return [
            SignerConvicted(signer, at, (one, two), (first, second))
            for signer, at, one, first, two, second in self._read("SELECT * FROM convictions", ())
        ]

    def _unpack(self, packed: bytes) -> str:
        try:
            return zlib.decompress(packed).decode()
        except (zlib.error, ValueError):
            raise OracleStoreError("a round in it is damaged", path=self._path) from None

    def _number(self, statement: str) -> int:
        found = self._read(statement, ())[0][0]
        return 0 if found is None else int(found)

    def _read(self, statement: str, values: tuple[int, ...]) -> list[Any]:
        try:
            with self._lock:
                return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._refused(error) from None
