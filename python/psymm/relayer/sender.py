"""The client of relayers: has a move sent by somebody else, whoever of the registry does it.

It is a `psymm.custody.sending.Sender`: `terms` picks a relayer before a move is signed, since its
address and fee are signed and proved with the call, and `send` hands the finished call over and
sees it on chain. A relayer that is dead, slow, lies or refuses is passed over for a while, so a
caller that asks for terms again, and makes the call anew, gets another one. All such calls spend
the same notes, so at most one of them is ever mined.

A relayer's word is never enough and its silence proves nothing: what happened is read from the
chain through the caller's own node.

A relayer learns the call, which becomes public anyway, and the address that the socket came from.
Every conversation has its own socket, carries nothing but the call, and relayers are asked in
random order unless told otherwise. Sending with one's own wallet shows who moves, so it happens
only where the caller says so, by putting a `DirectSender` behind this one.
"""

from __future__ import annotations

import logging
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection
from wsproto.utilities import LocalProtocolError

from psymm.chain.abi import ZERO_ADDRESS
from psymm.chain.calls import Call, CtaCall
from psymm.chain.contracts import Pool
from psymm.chain.registry import Party
from psymm.chain.transactions import Receipt
from psymm.custody.sending import Sender, SendTerms
from psymm.errors import Disconnected, PeerViolation, PSymmError
from psymm.relayer.errors import (
    NoRelayer,
    RelayerDead,
    RelayerError,
    RelayerLied,
    SpentElsewhere,
    TokenRefused,
)
from psymm.relayer.wire import (
    MAX_MESSAGE_BYTES,
    AskTerms,
    Progress,
    Submit,
    Terms,
    decode_progress,
    decode_terms,
    encode_request,
)
from psymm.sockets.bounded import Bounds
from psymm.sockets.dialling import dial_websocket

log = logging.getLogger(__name__)

GOODBYE_S: Final = 2.0

Order = Literal["random", "cheapest"]
Said = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Quote:
    """What one relayer asks for one move. fee: units of `token`; it holds until valid_until_s,
    and a call's deadline must be at least min_deadline_s ahead when it arrives."""

    relayer: str
    endpoint: str
    token: str
    kind: str
    fee: int
    min_deadline_s: int
    valid_until_s: int


class RelayerSender:
    """Sends moves of one pool through relayers.

    Args:
        pool: read through the caller's own node, never through a relayer.
        relayers: gives the registry's relayers whenever asked.
        order: whom to ask first.
        max_fee: the most to pay for a move, by token (checksummed); a token that is not named has
            no limit here.
        at_most: how many relayers are asked for a quote.
        answer_timeout_s: for a connection, a quote, and the first word on a call.
        mined_timeout_s: from then until the call is mined.
        avoid_s: how long a relayer that failed is passed over.
        depth: how deep the transaction must be.
        said: hears of each progress, for a screen.
        tls: what wss:// relayers are verified with; by default the system's authorities. plain:
        whether ws:// relayers on other machines are asked, too (`spec.md` 61).

    May be shared by tasks. Keeps no connection between calls.
    """

    def __init__(
        self,
        pool: Pool,
        relayers: Callable[[], Awaitable[Sequence[Party]]],
        *,
        order: Order = "random",
        max_fee: Mapping[str, int] | None = None,
        at_most: int = 5,
        answer_timeout_s: float = 10.0,
        mined_timeout_s: float = 120.0,
        avoid_s: float = 600.0,
        depth: int = 1,
        said: Said | None = None,
        tls: ssl.SSLContext | None = None,
        plain: bool = False,
    ) -> None:
        self._pool = pool
        self._relayers = relayers
        self._order = order
        self._max_fee = dict(max_fee or {})
        self._at_most = at_most
        self._answer_timeout_s = answer_timeout_s
        self._mined_timeout_s = mined_timeout_s
        self._avoid_s = avoid_s
        self._depth = depth
        self._said = said
        self._tls = tls
        self._plain = plain
        self._failed: dict[str, tuple[float, str]] = {}
        self._endpoints: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"RelayerSender({self._order})"

    def senders(self, direct: Sender | None = None) -> tuple[Sender, ...]:
        """This one once for each relayer that may be tried, then `direct` if it is given: what
        `Vault`'s moves take."""
        return (self,) * self._at_most if direct is None else ((self,) * self._at_most + (direct,))

    # --- psymm.custody.sending.Sender -------------------------------------------------------------

    async def terms(self, kind: str, token: str) -> SendTerms:
        """The relayer that the next move of this kind should name, and its fee.

        Raises NoRelayer with a reason for each, and what the registry raises. Cancelled: closes
        its sockets.
        """
        quote = (await self.quotes(kind, token))[0]
        return SendTerms(quote.relayer, quote.fee)

    async def send(self, kind: str, call: Call) -> Receipt:
        """Has a finished call sent by the relayer that it names, and sees it on chain.

        Raises the relayer's Refusal, RelayerDead, RelayerLied, SpentElsewhere, NoRelayer for a
        call that names none, and what reading the chain raises; except after a Refusal the call
        may still be mined until its deadline. Cancelled: the call may be mined.
        """
        if call.relayer == ZERO_ADDRESS:
            raise NoRelayer("the call names no relayer")
        try:
            return await self.submit(call, await self._endpoint(call.relayer))
        except RelayerError as failed:
            self._failed[call.relayer] = (trio.current_time(), str(failed))
            log.info("relayer-failed", extra={"relayer": call.relayer, "code": failed.code})
            receipt = await self.mined(call)
            if receipt is None:
                raise
            return receipt

    # --- the same in steps ------------------------------------------------------------------------

    async def quotes(self, kind: str, token: str) -> list[Quote]:
        """Quotes of at most `at_most` relayers, in the order in which they should be tried.

        Those that are dead, serve another contract, take another token, ask more than `max_fee` or
        failed lately are left out. Raises NoRelayer with a reason for each if none is left.
        """
        parties = list(await self._relayers())
        secrets.SystemRandom().shuffle(parties)
        found: list[Quote] = []
        reasons: dict[str, str] = {}
        now = trio.current_time()
        for party in list(parties):
            since, reason = self._failed.get(party.account, (-self._avoid_s, ""))
            if now - since < self._avoid_s and reason:
                reasons[party.account] = f"passed over: {reason}"
                parties.remove(party)

        async def ask(party: Party) -> None:
            try:
                found.append(await self._quote(party, kind, token))
            except RelayerError as no:
                reasons[party.account] = str(no)

        async with trio.open_nursery() as nursery:
            for party in parties[: self._at_most]:
                nursery.start_soon(ask, party)
        if not found:
            raise NoRelayer(**(reasons or {"registry": "it lists no relayer"}))
        if self._order == "cheapest":
            found.sort(key=lambda quote: quote.fee)
        else:
            # Answers come in the order of distance, which would always favour the same one.
            secrets.SystemRandom().shuffle(found)
        for quote in found:
            self._endpoints[quote.relayer] = quote.endpoint
        return found

    async def submit(self, call: Call, endpoint: str) -> Receipt:
        """Has one finished call sent by the relayer at `endpoint`, and sees it on chain.

        Raises the relayer's Refusal, RelayerDead, RelayerLied. Cancelled: the call may be mined.
        """
        request = Submit("1", self._pool.chain.chain_id, self._pool.address, call)
        hash_: str | None = None
        async with _conversation(
            endpoint, self._answer_timeout_s, self._tls, self._plain
        ) as socket:
            await _say(socket, encode_request(request), endpoint, self._answer_timeout_s)
            deadline = trio.current_time() + self._mined_timeout_s
            wait_s = self._answer_timeout_s
            while hash_ is None:
                progress = decode_progress(await _hear(socket, endpoint, wait_s), request.id)
                if self._said is not None:
                    self._said(progress)
                if progress.status == "mined":
                    hash_ = progress.tx
                wait_s = deadline - trio.current_time()
                if hash_ is None and wait_s <= 0:
                    raise RelayerDead("the call was not mined in time", endpoint=endpoint)
        return await self._seen_on_chain(call, hash_, endpoint)

    async def mined(self, call: Call) -> Receipt | None:
        """The receipt of the transaction that made this very move; None while it is unmade.

        Raises SpentElsewhere if its first nullifier was spent by something else.
        """
        nullifier = call.nullifiers[0]
        if not await self._pool.is_spent(nullifier):
            return None
        chain = self._pool.chain
        topic = self._pool.abi.event("NullifierSpent").topic
        last = await chain.rpc.block_number()
        # Newest first: it was spent while we waited, or shortly before.
        while last >= 0:
            first = max(0, last - 499)
            async for one in chain.logs(self._pool.address, [topic, nullifier], first, last):
                receipt = await chain.receipt(one.tx_hash)
                if receipt is not None and self._does(receipt, call):
                    return receipt
                raise SpentElsewhere(nullifier=nullifier, tx=one.tx_hash)
            last = first - 1
        raise SpentElsewhere(nullifier=nullifier)

    # --- parts ------------------------------------------------------------------------------------

    async def _endpoint(self, relayer: str) -> str:
        if relayer not in self._endpoints:
            self._endpoints |= {party.account: party.endpoint for party in await self._relayers()}
        if relayer not in self._endpoints:
            raise RelayerDead("the registry does not list it", relayer=relayer)
        return self._endpoints[relayer]

    async def _quote(self, party: Party, kind: str, token: str) -> Quote:
        endpoint = party.endpoint
        async with _conversation(
            endpoint, self._answer_timeout_s, self._tls, self._plain
        ) as socket:
            await _say(socket, encode_request(AskTerms("1")), endpoint, self._answer_timeout_s)
            text = await _hear(socket, endpoint, self._answer_timeout_s)
        return self._offer(decode_terms(text, "1"), party, kind, token)

    def _offer(self, terms: Terms, party: Party, kind: str, token: str) -> Quote:
        if terms.relayer != party.account:
            raise RelayerLied(
                "it names another address than the registry's",
                named=terms.relayer,
                registered=party.account,
            )
        if terms.chain_id != self._pool.chain.chain_id or terms.contract != self._pool.address:
            raise RelayerLied("it serves another contract", contract=terms.contract)
        fee = terms.fee(token, "ctc" if kind == "ctc" else "cta")
        limit = self._max_fee.get(token)
        if fee is None:
            raise TokenRefused(token=token)
        if fee == 0:
            raise RelayerLied("a fee of zero names no relayer", relayer=terms.relayer)
        if limit is not None and fee > limit:
            raise RelayerError("it asks more than the caller's limit", fee=fee, limit=limit)
        return Quote(
            relayer=terms.relayer,
            endpoint=party.endpoint,
            token=token,
            kind=kind,
            fee=fee,
            min_deadline_s=terms.min_deadline_s,
            valid_until_s=terms.valid_until_s,
        )

    async def _seen_on_chain(self, call: Call, tx_hash: str | None, endpoint: str) -> Receipt:
        """The receipt, from our own node, if it really is this call's."""
        if tx_hash is None:
            raise RelayerLied("it says mined and names no transaction", endpoint=endpoint)
        with trio.move_on_after(self._answer_timeout_s) as patience:
            while True:
                receipt = await self._pool.chain.receipt(tx_hash, doing="the move")
                if receipt is not None:
                    if not self._does(receipt, call):
                        raise RelayerLied(
                            "the transaction that it names is not this move",
                            tx=tx_hash,
                            endpoint=endpoint,
                        )
                    head = await self._pool.chain.rpc.block_number()
                    if head - receipt.block + 1 >= self._depth:
                        return receipt
                    # It did its work; how deep that must be is our own wish, and takes its time.
                    patience.deadline = trio.current_time() + self._answer_timeout_s
                await trio.sleep(self._pool.chain.poll_s)
        raise RelayerLied(
            "the transaction that it calls mined is not on chain", tx=tx_hash, endpoint=endpoint
        )

    def _does(self, receipt: Receipt, call: Call) -> bool:
        """Whether a receipt spent exactly this call's notes and made exactly its outputs."""
        ours = [log_ for log_ in receipt.logs if log_.address == self._pool.address]
        spent_topic = self._pool.abi.event("NullifierSpent").topic
        inserted_topic = self._pool.abi.event("NoteInserted").topic
        spent = {self._pool.spent(one) for one in ours if one.topics[0] == spent_topic}
        made = {self._pool.leaf(one)[1] for one in ours if one.topics[0] == inserted_topic}
        outputs = {call.change} if isinstance(call, CtaCall) else set(call.commitments)
        return set(call.nullifiers) <= spent and outputs <= made


@asynccontextmanager
async def _conversation(
    endpoint: str, timeout_s: float, tls: ssl.SSLContext | None, plain: bool
) -> AsyncIterator[WebSocketConnection]:
    """One socket for one question. Raises RelayerDead for whatever a broken peer can do to it."""
    bounds = Bounds(message_bytes=MAX_MESSAGE_BYTES, unread_bytes=None)
    try:
        with trio.move_on_after(timeout_s) as opening:
            async with dial_websocket(endpoint, bounds=bounds, tls=tls, plain=plain) as (
                socket,
                _stream,
            ):
                opening.deadline = float("inf")
                try:
                    yield socket
                finally:
                    with trio.move_on_after(GOODBYE_S, shield=True):
                        await socket.aclose()
    except (
        Disconnected,
        PeerViolation,
        OSError,
        ConnectionClosed,
        LocalProtocolError,
        trio.BrokenResourceError,
    ) as broken:
        reason = broken.code if isinstance(broken, PSymmError) else type(broken).__name__
        raise RelayerDead(endpoint=endpoint, reason=reason) from None
    if opening.cancelled_caught:
        raise RelayerDead("it does not answer", endpoint=endpoint)


async def _say(socket: WebSocketConnection, text: str, endpoint: str, timeout_s: float) -> None:
    with trio.move_on_after(timeout_s) as late:
        await socket.send_message(text)
    if late.cancelled_caught:
        raise RelayerDead("it does not read", endpoint=endpoint)


async def _hear(socket: WebSocketConnection, endpoint: str, timeout_s: float) -> str:
    with trio.move_on_after(timeout_s) as late:
        message = await socket.get_message()
    if late.cancelled_caught:
        raise RelayerDead("it does not answer in time", endpoint=endpoint)
    if not isinstance(message, str):
        raise RelayerLied("it sends bytes where text was asked for", endpoint=endpoint)
    return message
