"""Transactions that are not moves (registry entries, revocations), kept until they are final.

The note store keeps moves and hands them over again.  Everything else that an account sends is
recorded here before a node sees it.  Whenever neither chain nor pool has it any more, the same
bytes are handed over again, in the order of their nonces.  An entry leaves the file once it is
SETTLED blocks deep, or once the chain proves that it failed or that another transaction has its
nonce.

The file belongs to a home, and several programs may use it at once: a command writes what a daemon
later hands over again.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from psymm.chain.errors import ChainError, OutOfGas, Reverted
from psymm.chain.pending import PendingTransaction, miner_of
from psymm.chain.raw import read_signed
from psymm.chain.signing import Sent, Signer
from psymm.errors import PSymmError
from psymm.private_files import keep_database_private
from psymm.storage import StorageError, storage_error

if TYPE_CHECKING:
    from psymm.chain.transactions import Chain

log = logging.getLogger(__name__)

T = TypeVar("T")
SETTLED: Final = 64
"""How many blocks deep, its own included, a transaction must be to leave the file."""
POLL_S: Final = 2.0
_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS outbox (
    version INTEGER PRIMARY KEY AUTOINCREMENT, entry INTEGER NOT NULL, chain_id INTEGER NOT NULL,
    nonce INTEGER NOT NULL, raw BLOB NOT NULL UNIQUE);
"""


class OutboxInvalid(ChainError):
    """The file of transactions under way was not made by this version."""

    code = "outbox-invalid"
    what = "the file of transactions under way is damaged, or of another version"
    remedy = "Move it away; what it held may have to be sent again"


class Outbox:
    """The file at `path`, which is created by the first record."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def record(self, entry: int, chain_id: int, sent: Sent) -> None:
        """Store a signed transaction before a node sees it; versions at lower fees stay.

        entry: any number that identifies the task.  Versions with another nonce are deleted: that
        nonce was taken by another transaction.
        Raises StorageError, OutboxInvalid.  Cancelled: it is stored, or not.
        """

        def work(database: sqlite3.Connection) -> None:
            database.execute(
                "DELETE FROM outbox WHERE entry = ? AND nonce <> ?", (entry, sent.nonce)
            )
            database.execute(
                "INSERT OR IGNORE INTO outbox (entry, chain_id, nonce, raw) VALUES (?, ?, ?, ?)",
                (entry, chain_id, sent.nonce, sent.raw),
            )

        await self._do(work, create=True)

    async def forget(self, entry: int) -> None:
        """Delete an entry that is final or can no longer be mined.  Raises like `record`."""
        await self._do(
            lambda database: database.execute("DELETE FROM outbox WHERE entry = ?", (entry,))
        )

    async def entries(self, chain_id: int) -> dict[int, list[Sent]]:
        """The entries of a chain by nonce, the versions of each oldest first.  Raises like
        `record`."""
        rows = await self._do(
            lambda database: database.execute(
                "SELECT entry, raw FROM outbox WHERE chain_id = ? ORDER BY nonce, version",
                (chain_id,),
            ).fetchall()
        )
        found: dict[int, list[Sent]] = {}
        try:
            for entry, raw in rows or ():
                found.setdefault(entry, []).append(read_signed(raw))
        except ValueError as bad:
            raise OutboxInvalid(path=self._path, reason=str(bad)) from None
        return found

    async def rebroadcast(self, chain: Chain, signer: Signer | None = None) -> None:
        """Hand over what the chain no longer has; delete what is final.

        signer: signs replacements where a fee of its own account has become too low.
        Raises what reading the chain and the file raises.  Cancelled: the next call does the rest.
        """
        for entry, versions in (await self.entries(chain.chain_id)).items():
            if await self._is_settled(chain, entry, versions, signer):
                await self.forget(entry)

    async def hand_over(self, chain: Chain, signer: Signer, nonce: int) -> bool:
        """Hand over the entry with this nonce of the signer's account again, at a higher fee if
        needed; False if there is none.  Raises like `rebroadcast`."""
        for entry, versions in (await self.entries(chain.chain_id)).items():
            if (versions[-1].sender, versions[-1].nonce) == (signer.address, nonce):
                await self._pending(chain, entry, versions, signer).rebroadcast()
                return True
        return False

    async def follow(
        self, chain: Chain, signer: Signer | None = None, poll_s: float = POLL_S
    ) -> None:
        """Run `rebroadcast` for each new head, for ever; errors are logged.  Cancelled: raises
        Cancelled."""
        seen = b""
        while True:
            try:
                head = (await chain.block()).hash
                if head != seen:
                    await self.rebroadcast(chain, signer)
                    seen = head
            except PSymmError as trouble:
                log.warning("outbox-check-failed", extra={"code": trouble.code})
            await trio.sleep(poll_s)

    # --- parts --------------------------------------------------------------------------------

    def _pending(
        self, chain: Chain, entry: int, versions: list[Sent], signer: Signer | None
    ) -> PendingTransaction:
        ours = signer is not None and signer.address == versions[-1].sender
        return PendingTransaction(
            chain,
            versions,
            signer=signer if ours else None,
            record=partial(self.record, entry, chain.chain_id),
        )

    async def _is_settled(
        self, chain: Chain, entry: int, versions: list[Sent], signer: Signer | None
    ) -> bool:
        newest = versions[-1]
        head = await chain.head()
        for one in versions:
            try:
                receipt = await chain.receipt(one.tx_hash, sent=one)
            except (Reverted, OutOfGas):
                return True  # it failed; sent again after a reorganisation, it might succeed
            # Mined, but a reorganisation may still take it back. Then these bytes are needed.
            if receipt is not None:
                return head - receipt.block + 1 >= SETTLED
        # The nonce is used, and by none of our versions. Only a deep block makes that final.
        if await chain.count(newest.sender, "latest") > newest.nonce:
            by = await miner_of(chain, newest.sender, newest.nonce, SETTLED)
            return by is not None and by not in {one.tx_hash for one in versions}
        log.info("handed-over-again", extra={"tx": newest.tx_hash, "nonce": newest.nonce})
        await self._pending(chain, entry, versions, signer).rebroadcast()
        return False

    async def _do(
        self, work: Callable[[sqlite3.Connection], T], *, create: bool = False
    ) -> T | None:
        """Run `work` in a transaction of its own; None if there is no file."""

        # The file is opened for each transaction: a command and a daemon of one home share it.
        def transaction() -> T | None:
            if not create and not self._path.exists():
                return None
            keep_database_private(self._path)
            try:
                with closing(sqlite3.connect(self._path, timeout=10)) as database:
                    # Durable when `record` returns: a node may see the bytes right after.
                    database.execute("PRAGMA synchronous=FULL")
                    (version,) = database.execute("PRAGMA user_version").fetchone()
                    if version not in (0, _VERSION):
                        raise OutboxInvalid(path=self._path, found=version, expected=_VERSION)
                    with database:
                        # The write lock at once, so that another program is waited for. A
                        # transaction that read first would fail instead, because the other's write
                        # makes its view stale.
                        database.execute("BEGIN IMMEDIATE")
                        database.execute(_SCHEMA)
                        database.execute(f"PRAGMA user_version={_VERSION}")
                        return work(database)
            except sqlite3.Error as failed:
                raise self._refused(failed) from None

        return await trio.to_thread.run_sync(transaction)

    def _refused(self, failed: sqlite3.Error) -> StorageError | OutboxInvalid:
        return storage_error(self._path, failed) or OutboxInvalid(
            path=self._path, reason=str(failed)
        )
