"""What happened to a call, read through our own node. A relayer's answer proves nothing."""

from __future__ import annotations

from typing import Final

import trio

from psymm.chain.calls import Call
from psymm.chain.contracts import Pool
from psymm.chain.errors import NotAnswered, OutOfGas, Reverted, TransactionPending
from psymm.chain.rpc import own_deadline
from psymm.chain.transactions import Receipt
from psymm.relayer.errors import RelayerLied, SpentElsewhere

SEARCHED_BLOCKS: Final = 50_000
"""How many blocks are searched for a move's transaction: days on any chain, and a call lives an
hour. Without a limit, a node that hides the event would make us read its whole chain."""
_STEP: Final = 500
_SEEN_AGAIN: Final = 3


class MoveConfirmation:
    """Confirms calls of one pool.

    Args:
        pool: read through our own node.
        depth: how many blocks deep a transaction must be.
        appear_s: how long our node may take to show a transaction that a relayer named.
        deepen_s: how long to wait for the depth while no new block comes.
    """

    def __init__(self, pool: Pool, depth: int, appear_s: float, deepen_s: float) -> None:
        self._pool = pool
        self._depth = depth
        self._appear_s = appear_s
        self._deepen_s = deepen_s

    async def confirm(self, call: Call, tx_hash: str | None, endpoint: str) -> Receipt:
        """The receipt from our own node, after checking that it is this call's."""
        if tx_hash is None:
            raise RelayerLied("it says mined and names no transaction", endpoint=endpoint)
        seen = -1
        with own_deadline(), trio.move_on_after(self._appear_s) as patience:
            while True:
                try:
                    receipt = await self._pool.chain.receipt(tx_hash, doing="the move")
                except (Reverted, OutOfGas):
                    # A relayer whose transaction failed says so. This one names a failed
                    # transaction as mined.
                    raise RelayerLied(
                        "the transaction that it reports as mined has failed",
                        tx=tx_hash,
                        endpoint=endpoint,
                    ) from None
                if receipt is not None:
                    if not self._makes(receipt, call):
                        raise RelayerLied(
                            "the transaction that it names does not make this move",
                            tx=tx_hash,
                            endpoint=endpoint,
                        )
                    head = await self._pool.chain.rpc.block_number()
                    if head - receipt.block + 1 >= self._depth:
                        return receipt
                    # The relayer has done its work. The depth is our own requirement, so wait for
                    # as long as the chain grows; if it does not, raise TransactionPending.
                    if head > seen:
                        seen = head
                        patience.deadline = trio.current_time() + self._deepen_s
                await trio.sleep(self._pool.chain.poll_s)
        if seen >= 0:
            raise TransactionPending(tx_hash, self._deepen_s)
        raise RelayerLied(
            "the transaction that it reports as mined is not on chain",
            tx=tx_hash,
            endpoint=endpoint,
        )

    async def mined(self, call: Call) -> Receipt | None:
        """The receipt of the transaction that made this move; None if it is not made.

        Raises SpentElsewhere if another move spent its first nullifier, or if no event of the last
        SEARCHED_BLOCKS blocks shows who did; NotAnswered if no node shows the transaction.
        """
        nullifier, chain = call.nullifiers[0], self._pool.chain
        if not await self._pool.is_spent(nullifier):
            return None
        tx_hash = await self._spender(nullifier, SEARCHED_BLOCKS)
        # State, logs and receipts can come from different nodes, of which some lag.
        for look in range(_SEEN_AGAIN):
            if tx_hash is not None:
                receipt = await chain.receipt(tx_hash)
                if receipt is not None and self._makes(receipt, call):
                    return receipt
                if receipt is not None:
                    raise SpentElsewhere(nullifier=nullifier, tx=tx_hash)
            chain.rpc.prefer_next()
            await trio.sleep(chain.poll_s * 2**look)
            tx_hash = await self._spender(nullifier, _STEP) or tx_hash
        if tx_hash is None:
            raise SpentElsewhere(nullifier=nullifier)
        raise NotAnswered(chain.rpc.endpoint, f"it does not show transaction {tx_hash}, yet")

    async def _spender(self, nullifier: bytes, back: int) -> str | None:
        """The transaction that spent a nullifier in the last `back` blocks."""
        chain = self._pool.chain
        topic = self._pool.abi.event("NullifierSpent").topic
        last = await chain.head()
        oldest = max(0, last - back)
        # Newest blocks first: it was spent while we waited, or shortly before.
        while last >= oldest:
            first = max(oldest, last - _STEP + 1)
            async for one in chain.logs(self._pool.address, [topic, nullifier], first, last):
                return one.tx_hash
            last = first - 1
        return None

    def _makes(self, receipt: Receipt, call: Call) -> bool:
        """Whether a transaction spent this call's notes and made its outputs."""
        spent, made = self._pool.effects(
            one for one in receipt.logs if one.address == self._pool.address
        )
        return set(call.nullifiers) <= set(spent) and set(call.outputs) <= set(made)
