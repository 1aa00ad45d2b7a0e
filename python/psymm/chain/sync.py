"""A copy of the chain's tree: every note inserted and every nullifier spent, up to a depth.

Theory of operation. `advance` reads the pool's events in ranges of blocks, oldest first, up to the
confirmation depth. A range is taken in whole or not at all:

    1. read the last block's header, then the events
    2. insert the leaves into the tree in memory
    3. compare root and size with the contract's in that very block; read the header again
    4. write the range to SQLite in one transaction, then update the other fields in memory

An error before step 4 truncates the tree again. A reorganisation is noticed by the hashes of the
blocks that were read (anchors): everything above the newest anchor that the chain still has is
deleted, in the file first.

Durable when: `advance` returns. The file is a cache; it can be made again from the chain.

What is caught: a node whose logs, headers and contract state disagree, or that leaves out a note.
What is not: a node that shows one false chain consistently, and one that leaves out only spent
nullifiers. The contract keeps no sum of the nullifiers, and asking for one would reveal it.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import trio

from psymm._core import LeanIMT, MerkleProof
from psymm.chain.contracts import Pool
from psymm.chain.errors import (
    BadReply,
    ChainError,
    LyingNode,
    NotAnswered,
    NotSynchronised,
    RpcError,
)
from psymm.chain.reading import MANY_BLOCKS
from psymm.private_files import keep_database_private
from psymm.storage import StorageError, is_form_error, storage_error

T = TypeVar("T")
_SPAN: Final = 2_000
_TAKE_ATTEMPTS: Final = 4
_ANCHORS: Final = 512
"""How many block hashes are kept; after a deeper reorganisation all is read from the start."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS origin (chain_id INTEGER, contract TEXT, first_block INTEGER);
CREATE TABLE IF NOT EXISTS leaves (
    position INTEGER PRIMARY KEY, commitment BLOB NOT NULL, memo BLOB NOT NULL,
    block INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS spent (nullifier BLOB PRIMARY KEY, block INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS anchors (block INTEGER PRIMARY KEY, hash BLOB NOT NULL);
"""


class TreeCorrupt(ChainError):
    """The tree's file does not hold what was written to it."""

    code = "tree-corrupt"
    what = "the tree's file is damaged"
    remedy = "Delete the file; it is made again from the chain"


class TreeForeign(TreeCorrupt):
    """The tree's file belongs to another deployment or version."""

    code = "tree-foreign"
    what = "the tree's file belongs to another deployment or version of psymm"
    remedy = "Use a home for each deployment (--home)"


@dataclass(frozen=True, slots=True)
class Leaf:
    """One note in the tree.  position: from 0."""

    position: int
    commitment: bytes
    memo: bytes = field(repr=False)
    block: int


@dataclass(frozen=True, slots=True)
class SyncProgress:
    """What one call of `advance` changed.

    Attributes:
        block: the newest block that counts.
        rolled_back_to: after a reorganisation, the last block that was kept; None otherwise.
        inserted: the new leaves.
        spent: the new nullifiers.
    """

    block: int
    rolled_back_to: int | None
    inserted: tuple[Leaf, ...]
    spent: tuple[bytes, ...]


class TreeSync:
    """Follows one pool.  Open with `open_tree`; one task at a time may advance it.

    Args:
        first_block: the block of the deployment.
        depth: how deep a block must be to count; 1 counts the newest.
        path: of the file, for errors.
    """

    def __init__(
        self,
        pool: Pool,
        first_block: int,
        depth: int,
        database: sqlite3.Connection,
        path: Path | None = None,
    ) -> None:
        if depth < 1:
            raise ValueError("a depth is at least 1")
        self.pool: Final = pool
        self.depth: Final = depth
        self._first = first_block
        self._database = database
        self._path = path
        # `_lock`: the tree changes, or is read as a whole. `_looking`: only to look once for many.
        self._lock = trio.Lock()
        self._looking = trio.Lock()
        self._tree = LeanIMT()
        self._leaves: list[Leaf] = []
        self._positions: dict[bytes, int] = {}
        self._spent: dict[bytes, int] = {}
        self._anchors: dict[int, bytes] = {}
        self._block = first_block - 1
        self._head = first_block - 1
        self._looked = -math.inf

    # --- what is known ------------------------------------------------------------------------

    @property
    def block(self) -> int:
        """The newest block that counts; before the first `advance`, one before the deployment."""
        return self._block

    @property
    def head(self) -> int:
        """The chain's newest block at the last `advance`, deep or not."""
        return self._head

    @property
    def root(self) -> bytes:
        return self._tree.root

    @property
    def leaves(self) -> list[Leaf]:
        """All leaves in order.  A copy."""
        return list(self._leaves)

    def __len__(self) -> int:
        return len(self._leaves)

    def leaf(self, commitment: bytes) -> Leaf | None:
        at = self._positions.get(commitment)
        return None if at is None else self._leaves[at]

    def spent_block(self, nullifier: bytes) -> int | None:
        """The block in which a nullifier was spent; None if it is not."""
        return self._spent.get(nullifier)

    def proof(self, commitment: bytes) -> MerkleProof:
        """A path under the newest root.  Raises NotSynchronised if the leaf is not there yet."""
        at = self._positions.get(commitment)
        if at is None:
            raise NotSynchronised("note 0x" + commitment.hex(), 0)
        return self._tree.proof(at)

    # --- following ----------------------------------------------------------------------------

    async def advance(self) -> SyncProgress:
        """Take in all blocks that are deep enough by now.

        Raises LyingNode, which keeps nothing of the false range, and what `Chain.logs` raises.
        Cancelled: raises Cancelled; each range of blocks is kept whole or not at all.
        """
        async with self._lock:
            await self.pool.chain.check()
            # A new process has not seen any head, but its file has. It must not be rolled back
            # because the first node that answers lags.
            rpc = self.pool.chain.rpc
            rpc.newest = max(rpc.newest, self._block)
            rolled_back = await self._roll_back()
            head = await self.pool.chain.head()
            target = head - self.depth + 1
            self._head = head
            inserted: list[Leaf] = []
            spent: list[bytes] = []
            began = max(self._block, self._first)
            while self._block < target:
                end = min(target, self._block + _SPAN)
                if self._block - began >= MANY_BLOCKS:
                    await self.pool.chain.expect_made(began, self._block)
                    began = self._block
                taken = await self._take_patiently(self._block + 1, end)
                if taken is None:
                    # A reorganisation came in between. The next call starts with the roll-back.
                    break
                leaves, nullifiers = taken
                inserted += leaves
                spent += nullifiers
            self._looked = trio.current_time()
            return SyncProgress(self._block, rolled_back, tuple(inserted), tuple(spent))

    async def advance_if_older(self, within_s: float) -> None:
        """`advance`, unless that was done in the last `within_s` seconds: many callers cost the
        node one answer.  Raises and is cancelled like `advance`."""
        async with self._looking:
            if trio.current_time() - self._looked > within_s:
                await self.advance()

    async def newest(self) -> tuple[set[bytes], set[bytes]]:
        """Commitments and nullifiers in blocks that are not deep enough to count yet.

        All of them are read, so that the node does not learn which one matters.
        """
        head = await self.pool.chain.head()
        if head > self._head + _SPAN:
            # The blocks between were not read, and a node can claim any head.
            raise NotSynchronised(f"block {head}", 0)
        logs = [one async for one in self.pool.events(self._block + 1, head)]
        spends, inserts = self.pool.effects(logs)
        return set(inserts), set(spends)

    async def transaction_with(
        self, thing: bytes, *, spent: bool
    ) -> tuple[int, str, tuple[bytes, ...], tuple[bytes, ...]] | None:
        """Block and hash of the transaction that spent a nullifier, or inserted a commitment, with
        all nullifiers and commitments of it; None if no such block counts yet.

        Reads all events of that block, so that the node does not learn which one matters.
        """
        leaf = self.leaf(thing)
        block = self._spent.get(thing) if spent else None if leaf is None else leaf.block
        if block is None:
            return None
        logs = [one async for one in self.pool.events(block, block)]
        for tx_hash in dict.fromkeys(one.tx_hash for one in logs):
            spends, inserts = self.pool.effects(one for one in logs if one.tx_hash == tx_hash)
            if thing in (spends if spent else inserts):
                return block, tx_hash, tuple(spends), tuple(inserts)
        return None

    def locked(self) -> trio.Lock:
        """`async with tree.locked()`: the tree does not change inside, so several reads, also from
        a thread, are consistent.  Not around `advance`, which takes the same lock."""
        return self._lock

    async def aclose(self) -> None:
        """Close the file.  Not cut short by cancellation."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._database.close)

    # --- parts --------------------------------------------------------------------------------

    async def _take_patiently(self, first: int, last: int) -> tuple[list[Leaf], list[bytes]] | None:
        """`_take`, again after a contradiction.

        A node behind an address may lack the newest blocks and leave out their logs, or mix the
        state of two blocks while it writes one.  So only a contradiction that persists is a lie.
        """
        chain = self.pool.chain
        for attempt in range(1, _TAKE_ATTEMPTS):
            try:
                return await self._take(first, last, attempt)
            except LyingNode:
                await trio.sleep(chain.poll_s * 2 ** (attempt - 1))
        return await self._take(first, last, _TAKE_ATTEMPTS)

    async def _take(
        self, first: int, last: int, looks: int
    ) -> tuple[list[Leaf], list[bytes]] | None:
        """Take in one range; None, and nothing is kept, if the chain was reorganised meanwhile.

        looks: how often the logs are asked for; the last answer counts. If two nodes answer in
        turn, a fixed number of requests would send this one to the same node at every attempt.
        """
        chain, pool = self.pool.chain, self.pool
        # The same header before and after all the reading proves that no reorganisation came
        # between the logs and the state that they are compared with.
        before = await chain.block(last)
        leaves: list[Leaf] = []
        nullifiers: list[tuple[bytes, int]] = []
        anchors = {last: before.hash}
        size = len(self._leaves)
        for _ in range(looks):
            logs = [one async for one in pool.events(first, last)]
        for log in logs:
            if anchors.setdefault(log.block, log.block_hash) != log.block_hash:
                raise self._lie(
                    f"the hash of block {log.block}", anchors[log.block], log.block_hash
                )
            if pool.is_spending(log):
                nullifiers.append((pool.spent(log), log.block))
                continue
            position, commitment, memo = pool.leaf(log)
            expected = size + len(leaves)
            if position != expected:
                raise self._lie(f"the next leaf in block {log.block}", expected, position)
            leaves.append(Leaf(position, commitment, memo, log.block))
        try:
            self._insert(leaves)
            root, count = await self._state_at(before.hash, last)
            after = await chain.block(last)
            if after.hash != before.hash:
                self._tree.truncate(size)
                return None
            # The contract's own root proves that no leaf is missing, false or out of order. Nothing
            # on chain proves the same of nullifiers.
            if count != len(self._tree):
                raise self._lie(f"the number of leaves in block {last}", count, len(self._tree))
            if root != self._tree.root:
                raise self._lie(f"the root in block {last}", root, self._tree.root)
            named = {nullifier for nullifier, _ in nullifiers}
            if len(named) < len(nullifiers) or not named.isdisjoint(self._spent):
                raise self._lie("a nullifier", "spent once", "spent twice")
            # The file before memory: after a crash, memory is restored from the file.
            await self._thread(lambda: self._keep(leaves, nullifiers, anchors))
        except BaseException:
            # The leaves were inserted in advance, to compare the root.
            self._tree.truncate(size)
            raise
        for leaf in leaves:
            self._positions[leaf.commitment] = leaf.position
        self._leaves += leaves
        self._spent.update(nullifiers)
        self._anchors.update(anchors)
        for old in sorted(self._anchors)[:-_ANCHORS]:
            del self._anchors[old]
        self._block = last
        return leaves, [nullifier for nullifier, _ in nullifiers]

    def _insert(self, leaves: Iterable[Leaf]) -> None:
        try:
            self._tree.insert_many([leaf.commitment for leaf in leaves])
        except ValueError:
            raise self._lie(
                "a leaf", "a field element that is not zero", "something else"
            ) from None

    async def _state_at(self, block_hash: bytes, number: int) -> tuple[bytes, int]:
        """The contract's root and size in exactly that block."""
        try:
            return await self.pool.root(block_hash), await self.pool.size(block_hash)
        except (RpcError, NotAnswered, BadReply):
            # Not every node accepts a block hash here, or knows that of an abandoned block; some
            # then answer as if there were no contract. By number is safe: the caller compares the
            # header again.
            return await self.pool.root(number), await self.pool.size(number)

    async def _roll_back(self) -> int | None:
        """Go back to the newest block of ours that the chain still has; None if nothing changed."""
        if self._block < self._first:
            return None
        head = await self.pool.chain.head()
        common = self._first - 1
        # Newest first: without a reorganisation, one header settles it.
        for number in sorted(self._anchors, reverse=True):
            if number <= head:
                block = await self.pool.chain.block(number)
                if block.hash == self._anchors[number]:
                    common = number
                    break
        if common == self._block:
            return None
        # The file first: if it fails, memory still agrees with it.
        await self._thread(lambda: self._forget(common))
        while self._leaves and self._leaves[-1].block > common:
            del self._positions[self._leaves.pop().commitment]
        self._tree.truncate(len(self._leaves))
        self._spent = {one: block for one, block in self._spent.items() if block <= common}
        self._anchors = {one: hash_ for one, hash_ in self._anchors.items() if one <= common}
        self._block = common
        return common

    def _lie(self, about: str, expected: object, found: object) -> LyingNode:
        return LyingNode(self.pool.chain.rpc.endpoint, about, _shown(expected), _shown(found))

    # --- the file -----------------------------------------------------------------------------

    async def _thread(self, work: Callable[[], T]) -> T:
        # Shielded: once the file has the range, memory must take it in, too.
        with trio.CancelScope(shield=True):
            try:
                done = await trio.to_thread.run_sync(work)
            except sqlite3.Error as failed:
                raise _refused(self._path, failed) from None
        return done

    def _keep(
        self,
        leaves: Iterable[Leaf],
        nullifiers: Iterable[tuple[bytes, int]],
        anchors: dict[int, bytes],
    ) -> None:
        with self._database:
            self._database.executemany(
                "INSERT INTO leaves VALUES (?, ?, ?, ?)",
                [(one.position, one.commitment, one.memo, one.block) for one in leaves],
            )
            self._database.executemany("INSERT INTO spent VALUES (?, ?)", list(nullifiers))
            self._database.executemany(
                "INSERT OR REPLACE INTO anchors VALUES (?, ?)", list(anchors.items())
            )
            self._database.execute(
                "DELETE FROM anchors WHERE block NOT IN "
                "(SELECT block FROM anchors ORDER BY block DESC LIMIT ?)",
                (_ANCHORS,),
            )

    def _forget(self, common: int) -> None:
        with self._database:
            for table in ("leaves", "spent", "anchors"):
                self._database.execute(
                    f"DELETE FROM {table} WHERE block > ?",  # noqa: S608 - fixed names
                    (common,),
                )

    def _restore(self) -> None:
        """Fill memory from the file.  Raises TreeCorrupt."""
        try:
            rows = self._database.execute(
                "SELECT position, commitment, memo, block FROM leaves ORDER BY position"
            ).fetchall()
            self._spent = dict(self._database.execute("SELECT nullifier, block FROM spent"))
            self._anchors = dict(self._database.execute("SELECT block, hash FROM anchors"))
            self._leaves = [Leaf(*row) for row in rows]
            if [leaf.position for leaf in self._leaves] != list(range(len(rows))):
                raise TreeCorrupt()
            self._tree = LeanIMT([leaf.commitment for leaf in self._leaves])
        except (sqlite3.Error, ValueError, TypeError) as failed:
            raise _refused(self._path, failed) from None
        self._positions = {leaf.commitment: leaf.position for leaf in self._leaves}
        # Each range leaves an anchor at its last block, even if nothing happened in it.
        self._block = max(self._anchors, default=self._first - 1)


async def open_tree(
    pool: Pool, first_block: int, *, depth: int = 1, path: Path | None = None
) -> TreeSync:
    """The tree of a pool that was deployed in `first_block`.

    Args:
        depth: see TreeSync.
        path: the SQLite file that makes a restart quick; None keeps everything in memory.

    Raises TreeCorrupt if the file is damaged, TreeForeign if it is another pool's, StorageError.
    """

    def start() -> TreeSync:
        if path is not None:
            keep_database_private(path)
        try:
            database = sqlite3.connect(path or ":memory:", check_same_thread=False)
            try:
                _prepare(database, (pool.chain.chain_id, pool.address, first_block), path)
                sync = TreeSync(pool, first_block, depth, database, path)
                sync._restore()
            except BaseException:
                database.close()
                raise
        except sqlite3.Error as failed:
            raise _refused(path, failed) from None
        return sync

    return await trio.to_thread.run_sync(start)


def _prepare(database: sqlite3.Connection, ours: tuple[int, str, int], path: Path | None) -> None:
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.executescript(_SCHEMA)
    kept = database.execute("SELECT * FROM origin").fetchone()
    if kept is None:
        with database:
            database.execute("INSERT INTO origin VALUES (?, ?, ?)", ours)
    elif kept != ours:
        raise TreeForeign(path=path)


def _refused(path: Path | None, failed: Exception) -> TreeCorrupt | StorageError:
    found = storage_error(path, failed)
    if found is None and is_form_error(failed):
        return TreeForeign(path=path, reason=str(failed))
    return found or TreeCorrupt(path=path, reason=type(failed).__name__)


def _shown(value: object) -> object:
    return "0x" + value.hex() if isinstance(value, bytes) else value
