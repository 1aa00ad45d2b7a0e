"""One nonce's transaction until it is mined: waiting, handing it over again, raising its fee.

A transaction whose fee has become too low is never mined, and neither are the later ones of its
account. So it is replaced: the same call with the same nonce at a higher fee, repeatedly up to a
limit. At most one of these versions can be mined, and any of them makes the move.

States:
    waiting   the node has the newest version, and its fee is high enough
    missing   the node does not show it: the same bytes are handed over again
    short     the newest block asks more than is offered, or several blocks passed without it, and
              it is the account's next: a version at a higher fee is signed, recorded, handed over
    at limit  nothing more may be offered: it keeps waiting, and the error says why

Only the chain moves it between states (its blocks, their base fee, the account's count); no clock
does.

Durable when: each version is recorded before a node sees it. From then until it is in `_versions`
no cancellation can come between, or a mined version of ours would look like another program's.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import trio

from psymm.chain.errors import (
    BadReply,
    ChainDown,
    OutOfGas,
    Reverted,
    RpcError,
    StatePruned,
    TransactionPending,
    TransactionReplaced,
    TransactionUnderpriced,
)
from psymm.chain.node_errors import NodeErrorKind
from psymm.chain.rpc import own_deadline, time_left
from psymm.chain.signing import Fees, Sent, Signer, sign
from psymm.errors import PSymmError

if TYPE_CHECKING:
    from psymm.chain.reading import Block, ChainReader, Receipt
    from psymm.chain.transactions import Chain

log = logging.getLogger(__name__)

WAIT_S: Final = 180.0
"""How long to wait for a transaction if the caller sets no limit."""
Record = Callable[[Sent], Awaitable[None]]

PATIENCE_BLOCKS: Final = 12
"""How many blocks may pass without a transaction that pays their base fee, before its tip is
raised."""
_READ_BACK: Final = 256
"""The most blocks that are read one by one; nodes without old state keep that of 128."""


class PendingTransaction:
    """One nonce's transaction with its replacements.  Tasks may share one.

    Args:
        versions: oldest first, at least one, all of one nonce and one call.  The oldest one's fee
            sets the limit.
        signer: signs replacements; None: the fee is never raised.
        record: makes each replacement durable before a node sees it.
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
        # Tasks share this object; only one of them may sign the next version.
        self._raising = trio.Lock()
        # Looks in a row that did not find the newest version.
        self._missing = 0
        # The block from which PATIENCE_BLOCKS counts; None before the first look.
        self._since: int | None = None
        # Why it is not mined, for the error; empty while its fee is high enough.
        self._short: dict[str, int] = {}

    @property
    def newest(self) -> Sent:
        """The version with the highest fee."""
        return self._versions[-1]

    async def wait(
        self,
        *,
        depth: int = 1,
        timeout_s: float | None = None,
        looks: int | None = None,
        doing: str = "",
    ) -> Receipt:
        """Wait until one of the versions is `depth` blocks deep.

        Args:
            depth: 1 means mined.
            timeout_s: None waits until the caller's deadline, or WAIT_S if there is none.
            looks: the most often that the chain is asked.
            doing: what the transaction does, for errors.

        Only a proof on chain at that depth ends the wait: a version's receipt, or another
        transaction with the nonce.  A node that does not answer, or answers nonsense, is asked
        again until the time is up.

        Raises Reverted, OutOfGas, TransactionReplaced, TransactionPending.  Cancelled: raises
        Cancelled; the transaction stays under way, and each version of it was recorded.
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
                    # Only every third time. Behind a load balancer that alternates between two
                    # nodes, a fixed number of requests each round would send every receipt request
                    # to the same node, which may be the lagging one.
                    if look % 3 == 0:
                        await self._check_unmined(depth)
                    reason, pause_s = "", poll_s
                except (Reverted, OutOfGas, TransactionReplaced):
                    raise
                except PSymmError as trouble:
                    # The node failed; or the signer or the disk did when the fee was to be raised.
                    reason, pause_s = str(trouble), min(2 * pause_s, max(10.0, poll_s))
                await trio.sleep(pause_s)
        kind = TransactionUnderpriced if self._short else TransactionPending
        raise kind(self.newest.tx_hash, timeout_s, reason, **self._short)

    async def mined(self) -> str | None:
        """The hash of the version that is mined at any depth; None if none is."""
        for one in reversed(self._versions):
            if await self._chain.mined(one.tx_hash) is not None:
                return one.tx_hash
        return None

    async def is_known(self) -> bool:
        """Whether the node shows any version, waiting or mined."""
        return await self._held() is not None

    async def rebroadcast(self) -> None:
        """Hand over the newest version again, or a replacement if its fee is too low.

        A node's refusal proves nothing, so it is not raised.  Raises what else `Rpc.call` raises.
        """
        with suppress(RpcError):
            await self._resend_newest()
            await self._raise_if_short()

    # --- parts --------------------------------------------------------------------------------

    async def _held(self) -> Sent | None:
        """The newest version that the node shows."""
        for one in reversed(self._versions):
            if await self._chain.is_known(one.tx_hash):
                return one
        return None

    async def _receipt(self, depth: int, doing: str, *, older: bool) -> Receipt | None:
        # The newest version is the likeliest to be mined; each question costs a round trip.
        for one in reversed(self._versions if older else self._versions[-1:]):
            receipt = await self._chain.receipt(one.tx_hash, doing=doing, sent=one, depth=depth)
            if receipt is not None:
                return receipt
        return None

    async def _check_unmined(self, depth: int) -> None:
        """Act on a transaction that is not mined yet: hand it over again, or raise its fee.

        Raises TransactionReplaced if another one with its nonce is mined as deep.
        """
        newest = self.newest
        if await self._chain.is_known(newest.tx_hash):
            self._missing = 0
            await self._raise_if_short()
            return
        self._missing += 1
        # A block can arrive between two requests, so a single odd answer proves nothing.
        if self._missing < 2:
            return
        self._missing = 0
        used = await self._chain.count(newest.sender, "latest")
        if used <= newest.nonce:
            await self._resend_newest()
            return
        # The count alone proves nothing: the node that answered may be on another branch. The hash
        # of the block's own transaction is proof.
        by = await miner_of(self._chain, newest.sender, newest.nonce, depth)
        if by is not None and by not in {one.tx_hash for one in self._versions}:
            raise TransactionReplaced(newest.tx_hash, newest.sender, newest.nonce, by)

    async def _resend_newest(self) -> None:
        """Send the newest version's bytes again; a replacement if the node refuses the fee."""
        newest, rpc = self.newest, self._chain.rpc
        try:
            try:
                await rpc.send(newest.raw)
            except (ChainDown, BadReply):
                # The same bytes again do no harm, even if the first request arrived.
                await trio.sleep(self._chain.poll_s)
                await rpc.send(newest.raw)
        except RpcError as refused:
            short = refused.kind is NodeErrorKind.FEE
            if refused.kind is NodeErrorKind.NONCE_HELD:
                # An older version of ours holds the nonce and is to be replaced. Otherwise another
                # program's transaction does, and we wait.
                short = len(self._versions) > 1 and await self.is_known()
            if not short:
                raise
            await self._raise(newest)

    async def _raise_if_short(self) -> None:
        """Replace the newest version if its fee is too low for the chain."""
        newest = self.newest
        head = await self._chain.block()
        if self._since is None:
            self._since = head.number
        # Below the base fee no block can hold it. Above it, producers may prefer higher tips; after
        # PATIENCE_BLOCKS we assume that they do.
        asks_more = head.base_fee_wei > newest.prepared.fees.max_wei
        if not asks_more and head.number - self._since < PATIENCE_BLOCKS:
            self._short = {}
            return
        if await self._chain.count(newest.sender, "latest") != newest.nonce:
            # It is mined, or waits for earlier ones: a higher fee would not help.
            self._since = head.number
            return
        await self._raise(newest)

    async def _raise(self, short: Sent) -> None:
        """Replace a version whose fee is too low, again for as long as the node asks for more, up
        to the limit."""
        chain = self._chain
        async with self._raising:
            if self.newest is not short:
                return  # another task was faster
            # The limit comes from the first version, whose fee the user was shown. With the newest
            # one it would grow with each replacement.
            asked, limit = await chain.fees(), chain.fee_limit(self._versions[0].prepared.fees)
            head = await chain.block()
            # A replacement must exceed what the node holds. A version that the node refused does
            # not count.
            held = (await self._held() or short).prepared.fees
            signer = self._signer
            for bid in () if signer is None else _bids(held, asked, limit):
                newest = self.newest
                before = newest.prepared.fees
                if bid.max_wei <= before.max_wei and bid.tip_wei <= before.tip_wei:
                    # This bid, or a higher one, was signed before, and the node does not hold it.
                    continue
                self._note_offer(bid, head, limit, most=False)
                assert signer is not None  # noqa: S101 - without one there is no bid
                if await self._replaced(newest, bid, signer):
                    return
            self._note_offer(self.newest.prepared.fees, head, limit, most=True)

    def _note_offer(self, fees: Fees, head: Block, limit: Fees, *, most: bool) -> None:
        """Start counting blocks from this offer.  Keep its figures for the error if it is the
        most that may be offered, or less than the newest block asks."""
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
        """Sign, record and hand over a replacement; False if the node asks for more."""
        chain = self._chain
        raised = await sign(
            signer, chain.chain_id, newest.nonce, replace(newest.prepared, fees=bid)
        )
        # Recording it and adding it to `_versions` must not be separated by a cancellation: once
        # mined, a version that is not listed would pass for another program's transaction.
        with trio.CancelScope(shield=True):
            if self._record is not None:
                await self._record(raised)
            self._versions.append(raised)
            log.info("fee-raised", extra={"tx": raised.tx_hash, "max_wei": bid.max_wei})
            # Before it is sent. If the answer gets lost, the node may have dropped the older
            # version, and `_nonce` would think that the account's last transaction is gone.
            chain.note_replacement(newest, raised)
            try:
                await chain.rpc.send(raised.raw)
            except RpcError as refused:
                # A gateway may refuse what one of its nodes has taken.
                taken = await chain.is_known(raised.tx_hash)
                if not taken and refused.kind not in (NodeErrorKind.FEE, NodeErrorKind.NONCE_HELD):
                    raise
            else:
                taken = True
        return taken


def _bids(held: Fees, asked: Fees, limit: Fees) -> Iterator[Fees]:
    """What to offer instead of `held`; the next one whenever a node refuses the last."""
    last: Fees | None = None
    for attempt in count():
        bid = held.raised(attempt, asked, limit)
        if bid is None or bid == last:
            return
        last = bid
        yield bid


async def miner_of(chain: ChainReader, sender: str, nonce: int, depth: int) -> str | None:
    """The hash of the transaction mined with a nonce, `depth` blocks deep; None while the node
    shows none.

    The account's count finds the block: growing steps back from the head, then bisection.  If the
    node has pruned the state, at most _READ_BACK blocks are read one by one.  Raises what
    `Rpc.call` raises.
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
    # It was mined in block `after` or earlier. A node without old state cannot say more, so the
    # blocks themselves are read.
    except StatePruned:
        before = max(-1, after - _READ_BACK)
    for number in range(after, before, -1):
        block: Any = await chain.rpc.eth.get_block(number, full_transactions=True)
        for one in block.get("transactions", ()):
            if one["from"] == sender and one["nonce"] == nonce:
                return "0x" + bytes(one["hash"]).hex()
    return None
