"""Seeing one nonce's transaction through: waiting, handing it over again, raising its fee.

A transaction whose fee has become too low waits for ever, and so do all later ones of its account.
So it is replaced: the same call with the same nonce at a higher fee, again and again up to a limit.
At most one of these versions can be mined, and whichever it is, it is the move.

    waiting   the node has the newest version; the chain has had no reason to leave it out
    missing   the node does not show it: the same bytes are handed over again
    short     the newest block asks more than is offered, or blocks go by without it, and it is the
              account's next: a dearer version is signed, recorded, then handed over
    at limit  nothing more may be offered: it goes on waiting, and says what is offered and asked

What decides is the chain: its blocks, their base fee, the account's count. No clock does.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import trio

from psymm.chain.answers import Answer
from psymm.chain.errors import (
    BadReply,
    ChainDown,
    NotKept,
    OutOfGas,
    Reverted,
    RpcError,
    TransactionPending,
    TransactionReplaced,
    TransactionUnderpriced,
)
from psymm.chain.rpc import own_deadline, time_left
from psymm.chain.signing import Fees, Sent, Signer, sign
from psymm.errors import PSymmError

if TYPE_CHECKING:
    from psymm.chain.reading import Block, ChainReader, Receipt
    from psymm.chain.transactions import Chain

log = logging.getLogger(__name__)

WAIT_S: Final = 180.0
"""How long a transaction is waited for where nobody says."""
Record = Callable[[Sent], Awaitable[None]]

PATIENCE_BLOCKS: Final = 12
"""Blocks that may go by without a transaction that pays their base fee, before its tip is
raised."""
_READ_BACK: Final = 256
"""Blocks that are read whole; nodes that keep only new state have that of 128."""


class PendingTransaction:
    """One nonce's transaction and what was sent in its place.

    versions: oldest first, all of one nonce and one call; at least one.  The oldest one's fee sets
    the limit.  signer: signs dearer versions; None: none is made.  record: makes each of them
    durable before a node sees it.
    Tasks may share one.
    """

    def __init__(
        self,
        chain: Chain,
        versions: Sequence[Sent],
        *,
        signer: Signer | None = None,
        record: Record | None = None,
    ) -> None:
        self._chain = chain
        self._signer = signer
        self._record = record
        self._versions = list(versions)
        self._raising = trio.Lock()
        self._missing = 0
        self._since: int | None = None
        self._short: dict[str, int] = {}

    @property
    def newest(self) -> Sent:
        """The dearest version."""
        return self._versions[-1]

    async def wait(
        self,
        *,
        depth: int = 1,
        timeout_s: float | None = None,
        looks: int | None = None,
        doing: str = "",
    ) -> Receipt:
        """Wait until one of the versions is `depth` blocks deep; 1 means mined.  timeout_s: None
        waits until the caller's deadline, or WAIT_S where it set none.  looks: for so many only, if
        that is sooner.

        Only the chain's own proof ends the wait, at that depth: a version's receipt, or another
        transaction with the nonce.  A node that does not answer, or answers nonsense, is asked
        again until the time is up.

        Raises Reverted, OutOfGas, TransactionReplaced, TransactionPending.  Cancelled: raises
        Cancelled; the transaction lives on, and each version of it was recorded.
        """
        poll_s = self._chain.poll_s
        reason, pause_s = "", poll_s
        timeout_s = time_left(timeout_s, WAIT_S)
        with own_deadline(), trio.move_on_after(timeout_s):
            for look in count(1) if looks is None else range(1, looks + 1):
                try:
                    receipt = await self._receipt(depth, doing, older=look % 3 == 1)
                    if receipt is not None:
                        return receipt
                    # Not after each look: of two nodes that answer in turn, of which one lags, that
                    # one would then be asked for every receipt.
                    if look % 3 == 0:
                        await self._tend(depth)
                    reason, pause_s = "", poll_s
                except (Reverted, OutOfGas, TransactionReplaced):
                    raise
                except PSymmError as trouble:
                    # Of the node; or of a signer or a disk that lets no fee be raised.
                    reason, pause_s = str(trouble), min(2 * pause_s, max(10.0, poll_s))
                await trio.sleep(pause_s)
        kind = TransactionUnderpriced if self._short else TransactionPending
        raise kind(self.newest.tx_hash, timeout_s, reason, **self._short)

    async def mined(self) -> str | None:
        """The hash of the version that is mined, however deep; None where none is."""
        for one in reversed(self._versions):
            if await self._chain.mined(one.tx_hash) is not None:
                return one.tx_hash
        return None

    async def is_known(self) -> bool:
        """Whether the node shows any version, waiting or mined."""
        return await self._held() is not None

    async def again(self) -> None:
        """Hand the newest version over once more, or a dearer one if the chain asks for that.

        What the node says of them proves nothing, so a refusal is not raised; raises what
        `Rpc.call` raises else.
        """
        with suppress(RpcError):
            await self._give_again()
            await self._raise_if_short()

    # --- parts --------------------------------------------------------------------------------

    async def _held(self) -> Sent | None:
        """The newest version that the node shows."""
        for one in reversed(self._versions):
            if await self._chain.is_known(one.tx_hash):
                return one
        return None

    async def _receipt(self, depth: int, doing: str, *, older: bool) -> Receipt | None:
        for one in reversed(self._versions if older else self._versions[-1:]):
            receipt = await self._chain.receipt(one.tx_hash, doing=doing, sent=one, depth=depth)
            if receipt is not None:
                return receipt
        return None

    async def _tend(self, depth: int) -> None:
        """What is done about a transaction that is not mined.

        Raises TransactionReplaced if another one with its nonce is mined as deep.
        """
        newest = self.newest
        if await self._chain.is_known(newest.tx_hash):
            self._missing = 0
            await self._raise_if_short()
            return
        self._missing += 1
        # Between two questions a block can come, so one odd answer proves nothing.
        if self._missing < 2:
            return
        self._missing = 0
        used = await self._chain.count(newest.sender, "latest")
        if used <= newest.nonce:
            await self._give_again()
            return
        by = await miner_of(self._chain, newest.sender, newest.nonce, depth)
        if by is not None and by not in {one.tx_hash for one in self._versions}:
            raise TransactionReplaced(newest.tx_hash, newest.sender, newest.nonce, by)

    async def _give_again(self) -> None:
        """The newest version's bytes once more; dearer ones where the node refuses its fee."""
        newest, rpc = self.newest, self._chain.rpc
        try:
            try:
                await rpc.send(newest.raw)
            except (ChainDown, BadReply):
                await trio.sleep(self._chain.poll_s)
                await rpc.send(newest.raw)
        except RpcError as refused:
            short = refused.answer is Answer.FEE
            if refused.answer is Answer.NONCE_HELD:
                # By an older version of ours, which is to be replaced; or by another program's
                # transaction, which is waited out.
                short = len(self._versions) > 1 and await self.is_known()
            if not short:
                raise
            await self._raise(newest)

    async def _raise_if_short(self) -> None:
        """A dearer version, if the chain leaves this one out."""
        newest = self.newest
        head = await self._chain.block()
        if self._since is None:
            self._since = head.number
        asks_more = head.base_fee_wei > newest.prepared.fees.max_wei
        if not asks_more and head.number - self._since < PATIENCE_BLOCKS:
            self._short = {}
            return
        if await self._chain.count(newest.sender, "latest") != newest.nonce:
            # Mined, or behind earlier ones: a higher fee would not help.
            self._since = head.number
            return
        await self._raise(newest)

    async def _raise(self, short: Sent) -> None:
        """Put a dearer version in the place of one that is short, as often as the node wants more;
        none at the limit."""
        chain = self._chain
        async with self._raising:
            if self.newest is not short:
                return  # another task was faster
            asked, limit = await chain.fees(), chain.fee_limit(self._versions[0].prepared.fees)
            head = await chain.block()
            held = (await self._held() or short).prepared.fees
            signer = self._signer
            for bid in () if signer is None else _bids(held, asked, limit):
                newest = self.newest
                before = newest.prepared.fees
                if bid.max_wei <= before.max_wei and bid.tip_wei <= before.tip_wei:
                    continue
                self._offered(bid, head, limit, most=False)
                assert signer is not None  # noqa: S101 - without one there is no bid
                if await self._replaced(newest, bid, signer):
                    return
            self._offered(self.newest.prepared.fees, head, limit, most=True)

    def _offered(self, fees: Fees, head: Block, limit: Fees, *, most: bool) -> None:
        """Count blocks anew from this offer; remember its figures if it is the most that may be
        offered, or less than the newest block asks."""
        self._since, known = head.number, self._short
        self._short = {}
        if most or fees.max_wei < head.base_fee_wei:
            self._short = {
                "offered_wei": fees.max_wei,
                "base_fee_wei": head.base_fee_wei,
                "limit_wei": limit.max_wei,
                "nonce": self.newest.nonce,
            }
            if not known:
                log.warning("fee-at-limit", extra={"tx": self.newest.tx_hash, **self._short})

    async def _replaced(self, newest: Sent, bid: Fees, signer: Signer) -> bool:
        """Sign, record and hand over a dearer version; False where the node wants more."""
        chain = self._chain
        dearer = await sign(
            signer, chain.chain_id, newest.nonce, replace(newest.prepared, fees=bid)
        )
        # What is recorded must be known here, too: mined, it would pass for somebody else's.
        with trio.CancelScope(shield=True):
            if self._record is not None:
                await self._record(dearer)
            self._versions.append(dearer)
            log.info("fee-raised", extra={"tx": dearer.tx_hash, "max_wei": bid.max_wei})
            chain.replaced(newest, dearer)
            try:
                await chain.rpc.send(dearer.raw)
            except RpcError as refused:
                taken = await chain.is_known(dearer.tx_hash)
                if not taken and refused.answer not in (Answer.FEE, Answer.NONCE_HELD):
                    raise
            else:
                taken = True
        return taken


def _bids(held: Fees, asked: Fees, limit: Fees) -> Iterator[Fees]:
    """What to offer instead of `held`, each time a node refuses the one before."""
    last: Fees | None = None
    for attempt in count():
        bid = held.raised(attempt, asked, limit)
        if bid is None or bid == last:
            return
        last = bid
        yield bid


async def miner_of(chain: ChainReader, sender: str, nonce: int, depth: int) -> str | None:
    """The hash of the transaction that is mined with a nonce, `depth` blocks deep; None while
    the node shows none.

    The block is found by the account's count, looking back in growing steps from the head.
    Where a node keeps no state that old, blocks are read one by one from there, at most
    _READ_BACK.  Raises what `Rpc.call` raises.
    """
    after = await chain.head() - depth + 1
    if after < 0 or await chain.count(sender, after) <= nonce:
        return None
    before, step = after - 1, 1
    try:
        while before >= 0 and await chain.count(sender, before) > nonce:
            after, step = before, 2 * step
            before = max(-1, after - step)
        while after - before > 1:
            middle = (before + after) // 2
            if await chain.count(sender, middle) > nonce:
                after = middle
            else:
                before = middle
    except NotKept:
        before = max(-1, after - _READ_BACK)
    for number in range(after, before, -1):
        block: Any = await chain.rpc.eth.get_block(number, full_transactions=True)
        for one in block.get("transactions", ()):
            if one["from"] == sender and one["nonce"] == nonce:
                return "0x" + bytes(one["hash"]).hex()
    return None
