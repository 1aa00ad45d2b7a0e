"""A relayer's sends, in SQLite, so that a restart neither repeats nor forgets one.

A call is on disk before its client gets "queued", a signed transaction before it is broadcast. So
after a crash an accepted call is either still to be sent, or its transactions are known and can be
looked up and broadcast again, byte for byte.

All methods block for at most one disk write; the service calls them in a thread.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from psymm.owned_database import OwnedDatabase
from psymm.relayer.errors import RelayerStoreError
from psymm.strict_json import loads

VERSION = 1
KEPT = 1_000
"""How many ended sends are kept to answer repeated calls; older ones are deleted, so that a stream
of calls cannot fill the disk."""
_TABLES = """
CREATE TABLE sends (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL,
    kind TEXT NOT NULL,
    call TEXT NOT NULL,
    deadline INTEGER NOT NULL,
    state TEXT NOT NULL,
    answer TEXT NOT NULL DEFAULT '{}'
) STRICT;
CREATE INDEX sends_digest ON sends (digest);
CREATE INDEX sends_state ON sends (state);
CREATE TABLE conflict_keys (
    key TEXT NOT NULL,
    send INTEGER NOT NULL REFERENCES sends (id),
    PRIMARY KEY (key, send)
) STRICT, WITHOUT ROWID;
CREATE TABLE transactions (
    send INTEGER NOT NULL REFERENCES sends (id),
    raw BLOB NOT NULL,
    UNIQUE (send, raw)
) STRICT;
"""


class SendState(StrEnum):
    """The state of a send. QUEUED and SENT are under way; the others are final."""

    QUEUED = "queued"
    SENT = "sent"
    MINED = "mined"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Send:
    """One call that a relayer accepted.

    Attributes:
        digest: `wire.identity` of the call, 32 bytes.
        kind: "ctc" or "cta".
        call: the wire's JSON.
        deadline: seconds since the epoch.
        answer: the last message to the client (mined, or an error); empty while under way.
        transactions: signed bytes, oldest first; a replacement has the same nonce and a higher fee.
    """

    id: int
    digest: bytes
    kind: str
    call: dict[str, object]
    deadline: int
    state: SendState
    answer: dict[str, object]
    transactions: tuple[bytes, ...]


class Store(OwnedDatabase):
    """The file. Only one process can open it; another gets RelayerStoreError."""

    role = "relayer"
    tables = _TABLES
    version = VERSION
    unusable = RelayerStoreError

    def __init__(self, path: Path, chain_id: int, contract: str, relayer: str) -> None:
        """Open or create the file, for one relayer on one contract. Raises as `OwnedDatabase`
        does."""
        super().__init__(path, {"chainId": str(chain_id), "contract": contract, "relayer": relayer})

    def add(
        self,
        digest: bytes,
        kind: str,
        call: dict[str, object],
        deadline: int,
        conflict_keys: list[bytes],
    ) -> Send:
        """Store an accepted call as QUEUED, with the nullifiers and commitments that it uses up."""
        with self._transaction():
            row = self._db.execute(
                "INSERT INTO sends (digest, kind, call, deadline, state) VALUES (?, ?, ?, ?, ?)",
                (digest, kind, json.dumps(call), deadline, SendState.QUEUED),
            )
            number = row.lastrowid
            self._db.executemany(
                "INSERT INTO conflict_keys VALUES (?, ?)",
                [(key.hex(), number) for key in set(conflict_keys)],
            )
        found = self.get(number or 0)
        if found is None:
            raise RelayerStoreError("a send was not stored", path=self._path)
        return found

    def get(self, number: int) -> Send | None:
        """The send with this id."""
        return next(self._sends("id = ?", (number,)), None)

    def last(self, digest: bytes) -> Send | None:
        """The newest send of this very call."""
        return next(self._sends("digest = ? ORDER BY id DESC LIMIT 1", (digest,)), None)

    def under_way(self) -> list[Send]:
        """QUEUED and SENT, oldest first."""
        return list(self._sends("state IN ('queued', 'sent') ORDER BY id", ()))

    def all(self) -> list[Send]:
        """All stored sends, oldest first."""
        return list(self._sends("1 ORDER BY id", ()))

    def conflicting(self, conflict_keys: list[bytes], digest: bytes) -> Send | None:
        """A send of another call, under way, that uses up one of `conflict_keys`."""
        return next(
            self._sends(
                "state IN ('queued', 'sent') AND digest != ? AND id IN (SELECT send FROM "
                "conflict_keys WHERE key IN (SELECT value FROM json_each(?))) LIMIT 1",
                (digest, json.dumps([key.hex() for key in conflict_keys])),
            ),
            None,
        )

    def signed(self, number: int, raw: bytes) -> None:
        """Store a signed transaction; the send is SENT from now on."""
        with self._transaction():
            # Together: after a restart the lane tells by its transactions whether a call has its
            # nonce.
            self._db.execute("UPDATE sends SET state = ? WHERE id = ?", (SendState.SENT, number))
            self._db.execute("INSERT OR IGNORE INTO transactions VALUES (?, ?)", (number, raw))

    def end(self, number: int, state: SendState, answer: dict[str, object]) -> None:
        """Mark a send as MINED or FAILED, with the client's answer from now on."""
        with self._transaction():
            self._db.execute(
                "UPDATE sends SET state = ?, answer = ? WHERE id = ?",
                (state, json.dumps(answer), number),
            )
            # Old sends are deleted here, so the file stays bounded. Their children go first,
            # because of the foreign keys.
            newest = self._db.execute("SELECT max(id) FROM sends").fetchone()[0]
            ended = "SELECT id FROM sends WHERE id <= ? AND state IN ('mined', 'failed')"
            for table in ("conflict_keys", "transactions"):
                self._db.execute(
                    f"DELETE FROM {table} WHERE send IN ({ended})",  # noqa: S608  (constants)
                    (newest - KEPT,),
                )
            self._db.execute(
                "DELETE FROM sends WHERE id <= ? AND state IN ('mined', 'failed')",
                (newest - KEPT,),
            )

    def _sends(self, where: str, values: tuple[object, ...]) -> Iterator[Send]:
        try:
            with self._lock:
                rows = self._db.execute(
                    "SELECT id, digest, kind, call, deadline, state, answer "  # noqa: S608
                    f"FROM sends WHERE {where}",  # conditions are constants of this module
                    values,
                ).fetchall()
                transactions = {
                    row[0]: self._db.execute(
                        "SELECT raw FROM transactions WHERE send = ? ORDER BY rowid", (row[0],)
                    ).fetchall()
                    for row in rows
                }
        except sqlite3.Error as error:
            raise self._refused(error) from None
        for row in rows:
            try:
                send = Send(
                    id=row[0],
                    digest=row[1],
                    kind=row[2],
                    call=loads(row[3]),
                    deadline=row[4],
                    state=SendState(row[5]),
                    answer=loads(row[6]),
                    transactions=tuple(raw for (raw,) in transactions[row[0]]),
                )
            except ValueError as bad:
                raise RelayerStoreError(f"send {row[0]}: {bad}", path=self._path) from None
            yield send
