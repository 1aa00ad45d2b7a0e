"""The encrypted part of a journal: session keys, openings of notes, pending settlements.

AES-256-GCM under a key that only the wallet can derive. Without it the journal can still be
verified, exported and shown.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from psymm._core import SecretKey
from psymm.errors import JournalCorrupt, JournalForeign, JournalRestored, JournalSealed
from psymm.journal.committer import JournalCommitter
from psymm.journal.connection import JournalIdentity
from psymm.journal.encryption import (
    decrypted_openings,
    decrypted_under,
    encrypted_openings,
    encrypted_under,
    opening_rows,
)
from psymm.journal.transaction import Change, Work
from psymm.transcript.agreement import JournalledOpening


class JournalSecrets(JournalCommitter):
    """Reads and writes a journal's secrets after `unlock`."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        identity: JournalIdentity,
        lock: int,
        run_sync: Callable[..., Awaitable[Any]] = trio.to_thread.run_sync,
    ) -> None:
        super().__init__(path, connection, identity, lock, run_sync)
        self._seal: AESGCM | None = None

    async def unlock(self, owner: str, secret: bytes) -> None:
        """Set the 32-byte key of this journal's secrets.

        The first unlock binds the journal to the wallet. Raises JournalForeign for another wallet.
        Cancelled: raises Cancelled; unlocking again is safe.

        Args:
            owner: the wallet's address.
            secret: the key, derived by the wallet.
        """
        seal = AESGCM(secret)
        row = await self._read(
            lambda base: base.execute("SELECT owner, seal_check FROM journal").fetchone()
        )
        if row[0] is None:
            check = encrypted_under(seal, self.id, b"pSymm journal")
            await self._write(
                lambda base: base.execute(
                    "UPDATE journal SET owner = ?, seal_check = ?", (owner, check)
                )
            )
        elif row[0] != owner:
            raise JournalForeign(journal=self.path, owner=row[0], wallet=owner)
        else:
            try:
                decrypted_under(seal, self.id, row[1])
            except InvalidTag:
                raise JournalForeign(
                    "the wallet's secret does not open this journal", journal=self.path
                ) from None
        # Last: a wallet that is refused leaves the journal locked.
        self._seal = seal

    @property
    def unlocked(self) -> bool:
        return self._seal is not None

    def _encryption(self) -> AESGCM:
        if self._seal is None:
            raise JournalSealed(journal=self.path)
        return self._seal

    async def keep_session_key(self, custody: bytes, from_seq: int, key: SecretKey) -> None:
        """Store our session key, encrypted. `from_seq`: the first frame that it may sign.

        Raises JournalSealed, or JournalConflict if another key has this `from_seq`. Cancelled: it
        may or may not be stored.
        """
        sealed = encrypted_under(
            self._encryption(), custody + from_seq.to_bytes(8), key.expose_secret_bytes()
        )
        await self._write(
            lambda base: base.execute(
                "INSERT INTO session_keys VALUES (?,?,?,?)",
                (custody, from_seq, key.public_key, sealed),
            )
        )

    async def session_keys(self, custody: bytes) -> list[tuple[int, SecretKey]]:
        """Our session keys, (fromSeq, key) in order.

        Raises JournalRestored if the custody must never sign again, JournalSealed, JournalCorrupt.
        """
        # Without a key no session can sign, even a faulty one. A frame of ours may be unknown here,
        # and signing its number again would be equivocation.
        if (await self.custody(custody)).health == "read-only":
            raise JournalRestored(journal=self.path, custody=custody)
        seal = self._encryption()
        rows = await self._read(
            lambda base: base.execute(
                "SELECT from_seq, sealed FROM session_keys WHERE custody = ? ORDER BY from_seq",
                (custody,),
            ).fetchall()
        )
        try:
            return [
                (
                    seq,
                    SecretKey.from_bytes(decrypted_under(seal, custody + seq.to_bytes(8), sealed)),
                )
                for seq, sealed in rows
            ]
        except InvalidTag:
            raise JournalCorrupt(
                "a sealed session key does not open", journal=self.path, custody=custody
            ) from None

    async def keep_openings(self, custody: bytes, notes: Sequence[JournalledOpening]) -> None:
        """Store openings of a custody's notes, encrypted. Raises JournalSealed.

        Cancelled: all are stored or none.
        """
        await self.write(self.to_keep_openings(custody, notes))

    def to_keep_openings(self, custody: bytes, notes: Sequence[JournalledOpening]) -> Change:
        """The change that `keep_openings` writes."""
        rows = encrypted_openings(self._encryption(), custody, notes)
        return Work(
            lambda base: base.executemany("INSERT OR REPLACE INTO openings VALUES (?,?,?,?)", rows)
        )

    async def openings(self, custody: bytes) -> list[JournalledOpening]:
        """The openings of this custody's notes. Raises JournalSealed, JournalCorrupt."""
        seal = self._encryption()
        rows = await self._read(lambda base: opening_rows(base, custody))
        try:
            return decrypted_openings(seal, custody, rows)
        except InvalidTag:
            raise JournalCorrupt(
                "a sealed opening does not open", journal=self.path, custody=custody
            ) from None

    async def keep_settlement(
        self, custody: bytes, digest: bytes, state: str, document: bytes
    ) -> None:
        """Store a pending settlement and its state. Cancelled: it may or may not be stored.

        `document` holds what the proof needs, and is encrypted.
        """
        sealed = encrypted_under(self._encryption(), custody + digest, document)
        await self._write(
            lambda base: base.execute(
                "INSERT OR REPLACE INTO settlements VALUES (?,?,?,?)",
                (custody, digest, state, sealed),
            )
        )

    async def settlements(self, custody: bytes) -> list[tuple[bytes, str, bytes]]:
        """(digest, state, document) of stored settlements. Raises JournalSealed, JournalCorrupt."""
        seal = self._encryption()
        rows = await self._read(
            lambda base: base.execute(
                "SELECT digest, state, sealed FROM settlements WHERE custody = ?", (custody,)
            ).fetchall()
        )
        try:
            return [
                (digest, state, decrypted_under(seal, custody + digest, sealed))
                for digest, state, sealed in rows
            ]
        except InvalidTag:
            raise JournalCorrupt("a sealed settlement does not open", journal=self.path) from None

    async def _write(self, work: Callable[[sqlite3.Connection], object]) -> None:
        await self.write(Work(work))
