"""Session keys that their wallets revoked, as the registry shows them at a depth.

All wallets' revocations are read, with one query for each new block: a query for some wallets would
tell the node with whom we trade. A revocation that a reorganisation takes back no longer counts. A
single node that leaves out a revocation cannot be told from an honest one.

Theory of operation. Revocations up to block `_settled_to` are kept in the file; its hash is the
anchor. Those above, at least the newest UNSETTLED blocks, are read again whenever the head changes.
If the anchor is no longer on the chain, or the file cannot be read, everything is read again from
the registry's first block. So the file only saves time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

from psymm.chain.errors import ChainError
from psymm.chain.registry import Registry, Revocation
from psymm.chain.transactions import Block
from psymm.private_files import write_private
from psymm.storage import StorageError
from psymm.strict_json import loads

log = logging.getLogger(__name__)

POLL_S: Final = 2.0
"""Between two looks at the chain's head."""
UNSETTLED: Final = 64
"""How many of the newest blocks are read again each time; deeper ones only after a reorganisation
that deep."""


class RevocationWatch:
    """Follows one registry from block `first_block`; one task at a time may advance it.

    file: where deep revocations are kept; None keeps them in memory.
    """

    def __init__(
        self,
        registry: Registry,
        first_block: int,
        *,
        file: Path | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        self._registry = registry
        self._first = first_block
        self._file = file
        self._poll_s = poll_s
        self._head: Block | None = None
        self._settled: list[Revocation] = []
        self._settled_to = first_block - 1
        self._anchor: bytes | None = None
        self._recent: list[Revocation] = []
        self._deepest = 1
        self._version = 0
        self._listeners: dict[object, Callable[[], None]] = {}

    @property
    def version(self) -> int:
        """Changes whenever the result of `of` may have changed."""
        return self._version

    @property
    def block(self) -> int:
        """The head at the last `advance`; 0 before the first."""
        return 0 if self._head is None else self._head.number

    def of(self, wallet: str, depth: int) -> dict[str, int]:
        """A wallet's keys whose revocation is at least `depth` blocks deep (1: mined): by the key's
        address, the first frame that it may no longer sign."""
        # The deepest that anyone asks for. Beyond it a new head changes no answer; see `crossing`.
        self._deepest = max(self._deepest, depth)
        found: dict[str, int] = {}
        for one in (*self._settled, *self._recent):
            if one.wallet == wallet and self.block - one.block + 1 >= depth:
                # A wallet may revoke a key again, from an earlier frame. As in the contract, the
                # earliest rules.
                found[one.key] = min(one.from_seq, found.get(one.key, one.from_seq))
        return found

    def listen(self, on_change: Callable[[], None]) -> Callable[[], None]:
        """Call `on_change` whenever `version` changes; the returned function ends that.
        `on_change` must not block or raise."""
        one = object()
        self._listeners[one] = on_change

        def stop() -> None:
            self._listeners.pop(one, None)

        return stop

    async def advance(self) -> None:
        """Take in what is new, or was taken back, since the last call.

        Raises ChainError; what was known stays known. Cancelled: the same.
        """
        chain = self._registry.chain
        if self._head is None and self._file is not None:
            await trio.to_thread.run_sync(self._load, self._file)
        head = await chain.block()
        last = self._head
        if last is not None and head.hash == last.hash:
            return
        # A reorganisation may have removed the settled block. Then nothing read so far counts, and
        # everything is read again from the registry's first block.
        follows = last is not None and head.parent == last.hash
        settled, settled_to, anchor = self._settled, self._settled_to, self._anchor
        if (
            not follows
            and anchor is not None
            and (head.number < settled_to or (await chain.block(settled_to)).hash != anchor)
        ):
            settled, settled_to, anchor = [], self._first - 1, None
        # Blocks above the settled one are read again each time, so a reorganisation among them
        # needs no bookkeeping.
        recent = [one async for one in self._registry.revocations(settled_to + 1, head.number)]
        # In large steps, so that the file is not written for each block.
        moved = head.number - settled_to >= 2 * UNSETTLED
        if moved:
            settled_to = head.number - UNSETTLED
            anchor = (await chain.block(settled_to)).hash
            settled = settled + [one for one in recent if one.block <= settled_to]
            recent = [one for one in recent if one.block > settled_to]
        known = (*settled, *recent)
        differs = known != (*self._settled, *self._recent)
        # A new head alone can make a revocation deep enough for somebody, or no longer so.
        crossing = last is not None and (
            head.number < last.number
            or any(last.number - one.block + 1 < self._deepest for one in known)
        )
        # Nothing is assigned before all questions are answered: after an error, what was known
        # stays known.
        self._settled, self._settled_to, self._anchor = settled, settled_to, anchor
        self._recent, self._head = recent, head
        if moved and self._file is not None:
            await trio.to_thread.run_sync(self._save, self._file)
        if differs or crossing:
            self._version += 1
            for on_change in tuple(self._listeners.values()):
                on_change()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Advance for ever; `task_status` is set after the first time.

        Raises ChainError only from the first time; later errors are logged and tried again.
        Cancelled: raises Cancelled; what was known stays known.
        """
        await self.advance()
        task_status.started()
        failing = False
        while True:
            await trio.sleep(self._poll_s)
            try:
                await self.advance()
            except ChainError as failed:
                if not failing:
                    log.warning("revocations-not-read", extra={"code": failed.code})
                failing = True
            else:
                failing = False

    # --- the file -----------------------------------------------------------------------------

    def _load(self, file: Path) -> None:
        try:
            kept = loads(file.read_bytes())
            if [kept["chainId"], kept["registry"]] != self._whose():
                return
            if type(kept["block"]) is not int or kept["block"] < self._first:
                return
            anchor = bytes.fromhex(kept["hash"])
            settled = [Revocation(*map(_plain, row)) for row in kept["revoked"]]
        # The file only saves time, so a bad one is no error: everything is read from the chain.
        except (OSError, ValueError, TypeError, KeyError):
            return
        self._settled, self._settled_to, self._anchor = settled, kept["block"], anchor

    def _save(self, file: Path) -> None:
        whose = dict(zip(("chainId", "registry"), self._whose(), strict=True))
        kept = {
            **whose,
            "block": self._settled_to,
            "hash": (self._anchor or b"").hex(),
            "revoked": [[one.wallet, one.key, one.from_seq, one.block] for one in self._settled],
        }
        try:
            write_private(file, json.dumps(kept).encode())
        except StorageError as failed:
            log.warning("revocations-not-kept", extra={"code": failed.code})

    def _whose(self) -> list[object]:
        return [self._registry.chain.chain_id, self._registry.address]


def _plain(value: object) -> Any:
    if type(value) not in (int, str):
        raise TypeError("not what was written")
    return value


__all__ = ["POLL_S", "Revocation", "RevocationWatch"]
