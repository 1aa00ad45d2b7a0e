"""The client of relayers: has a relayer from the registry send a move.

It is a `psymm.custody.sending.Sender`. `terms` picks a relayer before a move is signed, because its
address and fee are signed and proved with the call. `send` submits the finished call and confirms
it on chain. A relayer that is dead, slow, lies or refuses is skipped for a while. So a caller that
asks for terms again gets another relayer, and makes the call again for that one. All these calls
spend the same notes, so at most one of them is ever mined.

A relayer's answer is never trusted, and its silence proves nothing: the client reads from the
chain, through its own node, what happened.

Privacy. A relayer learns the call, which becomes public anyway, and the address of the socket. Each
question has a socket of its own and contains nothing else. Sending from the party's own account
reveals it, so that happens only if the caller adds a `DirectSender` after this sender.

Price. Anybody can register and ask any fee, and nobody tells a client what gas costs in a token. So
several relayers are asked and the cheapest is taken, but for at most MAX_FEE_MULTIPLE times the
usual fee. The usual fee is the lowest of the relayers that served us before; without any, the
median of what was asked (the lower of two). The caller's limits (`max_fee`, `cap_fee`) and the
vault's share of the amount apply as well. A relayer whose account cannot pay a move's gas is left
out, so a thousand fake relayers cost their owner the gas of a thousand moves.

Whom to ask. Relayers that served us come first, so a flood of entries cannot hide them. Some of the
others are taken at random; see `asking_order` and `ask_each`. Once one has answered, the others
have LINGER_S more.
"""

from __future__ import annotations

import logging
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection
from wsproto.utilities import LocalProtocolError

from psymm.chain.addresses import ZERO_ADDRESS
from psymm.chain.calls import Call
from psymm.chain.contracts import Pool
from psymm.chain.registry import RegistryEntry, asking_order
from psymm.chain.transactions import Receipt
from psymm.custody.sending import Sender, SendTerms
from psymm.errors import Disconnected, PeerViolation, PSymmError
from psymm.relayer.confirming import MoveConfirmation
from psymm.relayer.errors import NoRelayer, RelayerDead, RelayerError, RelayerLied, TokenRefused
from psymm.relayer.wire import (
    GAS,
    MAX_MESSAGE_BYTES,
    AskTerms,
    RelayerTerms,
    SendProgress,
    Submit,
    decode_progress,
    decode_terms,
    encode_request,
)
from psymm.sockets.bounded import Bounds
from psymm.sockets.dialling import ask_each, dial_websocket
from psymm.sockets.endpoints import private_allowed

log = logging.getLogger(__name__)

CLOSE_S: Final = 2.0
QUOTE_S: Final = 5.0
"""The time for one relayer's connection and quote together."""
LINGER_S: Final = 3.0
"""How long to wait for other quotes after the first."""
ENOUGH_QUOTES: Final = 8
"""After this many quotes nobody else is asked."""
MAX_FEE_MULTIPLE: Final = 3
"""The highest fee that is paid, as a multiple of the usual one."""
QUOTE_MEMORY_S: Final = 3600.0
"""How long a quote counts for the usual fee."""
_REASONS: Final = 8
_STRANGERS: Final = 2
"""After this many failed strangers, relayers that served us are preferred at any price."""

Order = Literal["random", "cheapest"]
OnProgress = Callable[[SendProgress], None]


@dataclass(frozen=True, slots=True)
class RelayerQuote:
    """What one relayer asks for one move.

    Attributes:
        kind: "ctc" or "cta".
        fee: units of `token`.
        min_deadline_s: how far ahead a call's deadline must be when it arrives.
        valid_until_s: until when the fee holds, seconds since the epoch.
    """

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
        relayers: returns the registry's relayers.
        order: which relayer to take: the cheapest, or any whose fee is within the limits.
        max_fee: by token (checksummed), the most to pay for a move.
        known: returns the accounts of relayers that served us before; they are asked first and
            define the usual fee.
        at_most: how many relayers are tried for one move.
        answer_timeout_s: for a connection, a quote, and the first progress of a call.
        mined_timeout_s: from then until the call is mined.
        avoid_s: how long a relayer that failed is skipped.
        depth: how many blocks deep the transaction must be.
        on_progress: called with each progress, for display.
        tls: verifies wss:// relayers; None: the system's authorities.
        plain: also ask ws:// relayers on other machines (`spec.md` 61).
        private: allow endpoints on this machine or a local network; None: only on the development
            chain.

    May be shared by tasks. Keeps no connection between calls.
    """

    def __init__(
        self,
        pool: Pool,
        relayers: Callable[[], Awaitable[Sequence[RegistryEntry]]],
        *,
        order: Order = "cheapest",
        max_fee: Mapping[str, int] | None = None,
        known: Callable[[], Awaitable[Collection[str]]] | None = None,
        at_most: int = 5,
        answer_timeout_s: float = 10.0,
        mined_timeout_s: float = 120.0,
        avoid_s: float = 600.0,
        depth: int = 1,
        on_progress: OnProgress | None = None,
        tls: ssl.SSLContext | None = None,
        plain: bool = False,
        private: bool | None = None,
    ) -> None:
        self._pool = pool
        self._relayers = relayers
        self._order = order
        self._max_fee = dict(max_fee or {})
        self._at_most = at_most
        self._answer_timeout_s = answer_timeout_s
        self._mined_timeout_s = mined_timeout_s
        self._avoid_s = avoid_s
        self._confirmation = MoveConfirmation(pool, depth, answer_timeout_s, mined_timeout_s)
        self._on_progress = on_progress
        self._tls = tls
        self._plain = plain
        self._private = private_allowed(pool.chain.chain_id, private)
        self._known = known
        self._failed: dict[str, tuple[float, str]] = {}
        self._silent: dict[str, tuple[float, str]] = {}
        self._serving: Collection[str] = ()
        self._quoted: dict[tuple[str, str], dict[str, tuple[float, int]]] = {}
        self._endpoints: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"RelayerSender({self._order})"

    def senders(self, direct: Sender | None = None) -> tuple[Sender, ...]:
        """The senders for a `Vault`'s move: this one once for each relayer that may be tried, then
        `direct` if it is given."""
        return (self,) * self._at_most if direct is None else ((self,) * self._at_most + (direct,))

    # --- psymm.custody.sending.Sender ------------------------------------------------------------

    async def terms(self, kind: str, token: str) -> SendTerms:
        """The relayer that the next move of this kind should name, and its fee.

        Raises NoRelayer with each relayer's reason, and what the registry raises. Cancelled: closes
        its sockets.
        """
        quote = (await self.quotes(kind, token))[0]
        return SendTerms(quote.relayer, quote.fee)

    async def send(self, kind: str, call: Call) -> Receipt:
        """Submit a finished call to the relayer that it names, and confirm it on chain.

        Raises the relayer's RelayerRefusal, RelayerDead, RelayerLied, SpentElsewhere, NoRelayer for
        a call that names none, and what reading the chain raises. After any of them except a
        RelayerRefusal the call may still be mined until its deadline. Cancelled: likewise.
        """
        if call.relayer == ZERO_ADDRESS:
            raise NoRelayer("the call names no relayer")
        try:
            return await self.submit(call, await self._endpoint(call.relayer))
        except RelayerError as failed:
            self._failed[call.relayer] = (trio.current_time(), str(failed))
            log.info("relayer-failed", extra={"relayer": call.relayer, "code": failed.code})
            # A relayer that failed or refused may have sent the call all the same.
            receipt = await self._confirmation.mined(call)
            if receipt is None:
                raise
            return receipt

    # --- the same in steps -----------------------------------------------------------------------

    async def quotes(self, kind: str, token: str) -> list[RelayerQuote]:
        """The quotes of usable relayers, in the order in which to try them.

        Left out are relayers that are dead, serve another contract, refuse the token, cannot pay
        the gas, ask more than `fee_limit` allows, or failed recently. Raises NoRelayer with reasons
        if none is left, and what reading the chain and the registry raises.
        """
        known = frozenset(await self._known()) if self._known is not None else frozenset()
        reasons: dict[str, Any] = {}
        parties = self._worth_asking(asking_order(list(await self._relayers()), known), reasons)
        found: list[RelayerQuote] = []

        async def ask(party: RegistryEntry) -> None:
            try:
                with trio.move_on_after(min(QUOTE_S, self._answer_timeout_s)) as late:
                    found.append(await self._quote(party, kind, token))
                    self._silent.pop(party.account, None)
                    # With one quote at hand, slower relayers get only a little more time.
                    asking.deadline = min(asking.deadline, trio.current_time() + LINGER_S)
                if late.cancelled_caught:
                    raise RelayerDead("it does not answer", endpoint=party.endpoint)
            except RelayerError as no:
                reasons[party.account] = no
                if isinstance(no, RelayerDead):
                    self._silent[party.account] = (trio.current_time(), "silent")

        left: Sequence[RegistryEntry] = ()
        with trio.CancelScope() as asking:
            left = await ask_each(parties, ask, enough=lambda: len(found) >= ENOUGH_QUOTES)
        found = await self._usable(found, kind, token, known, reasons)
        if not found:
            raise _no_relayer(reasons, len(left))
        for quote in found:
            self._endpoints[quote.relayer] = quote.endpoint
        return found

    def fee_limit(self, kind: str, token: str) -> int | None:
        """The most that we would pay for such a move now, in token units; None if no relayer was
        asked yet and the caller set no limit."""
        fees = self._usual_fees(kind, token)
        # The lower median, so that a minority of expensive relayers cannot raise the limit.
        usual = sorted(fees)[(len(fees) - 1) // 2] if fees else None
        limits = [] if usual is None else [MAX_FEE_MULTIPLE * usual]
        if token in self._max_fee:
            limits.append(self._max_fee[token])
        return min(limits, default=None)

    def cap_fee(self, token: str, fee: int) -> None:
        """From now on pay at most `fee` units for a move: the amount that the user agreed to."""
        self._max_fee[token] = min(fee, self._max_fee.get(token, fee))

    async def submit(self, call: Call, endpoint: str) -> Receipt:
        """Submit one finished call to the relayer at `endpoint`, and confirm it on chain.

        Raises the relayer's RelayerRefusal, RelayerDead, RelayerLied. Cancelled: the call may be
        mined.
        """
        request = Submit("1", self._pool.chain.chain_id, self._pool.address, call)
        hash_: str | None = None
        async with self._conversation(endpoint) as socket:
            await _send_text(socket, encode_request(request), endpoint, self._answer_timeout_s)
            deadline = trio.current_time() + self._mined_timeout_s
            wait_s = self._answer_timeout_s
            while hash_ is None:
                progress = decode_progress(
                    await _receive_text(socket, endpoint, wait_s), request.id
                )
                if self._on_progress is not None:
                    self._on_progress(progress)
                if progress.status == "mined":
                    hash_ = progress.tx
                # One deadline for all progress together: repeating "sent" gains a relayer no time.
                wait_s = deadline - trio.current_time()
                if hash_ is None and wait_s <= 0:
                    raise RelayerDead("the call was not mined in time", endpoint=endpoint)
        return await self._confirmation.confirm(call, hash_, endpoint)

    # --- parts -----------------------------------------------------------------------------------

    def _worth_asking(
        self, parties: Sequence[RegistryEntry], reasons: dict[str, Any]
    ) -> list[RegistryEntry]:
        """The entries without recently failed relayers; recently silent ones come last."""
        now = trio.current_time()
        for kept in (self._failed, self._silent):
            for account in [one for one, (at, _) in kept.items() if now - at >= self._avoid_s]:
                del kept[account]
        for party in parties:
            if party.account in self._failed:
                reasons[party.account] = f"passed over: {self._failed[party.account][1]}"
        asked = [party for party in parties if party.account not in self._failed]
        return sorted(asked, key=lambda party: party.account in self._silent)

    async def _usable(
        self,
        found: Sequence[RelayerQuote],
        kind: str,
        token: str,
        known: Collection[str],
        reasons: dict[str, Any],
    ) -> list[RelayerQuote]:
        now = trio.current_time()
        quoted = self._quoted.setdefault((kind, token), {})
        able: list[RelayerQuote] = []
        for quote in found:
            if await self._can_pay(quote):
                able.append(quote)
                # Only of relayers that can pay: fakes must not decide what the usual fee is.
                quoted[quote.relayer] = (now, quote.fee)
            else:
                reasons[quote.relayer] = "its account cannot pay the gas of a move"
        self._serving = known
        most = self.fee_limit(kind, token)
        fair = [quote for quote in able if most is None or quote.fee <= most]
        for quote in able:
            if most is not None and quote.fee > most:
                reasons[quote.relayer] = RelayerError(
                    "it asks more than is paid", fee=quote.fee, most=most
                )
        # Shuffle equal fees: in the order of the answers, the nearest relayer would always win.
        secrets.SystemRandom().shuffle(fair)
        if self._order == "cheapest":
            fair.sort(key=lambda quote: quote.fee)
        if sum(account not in known for account in self._failed) >= _STRANGERS:
            # Each stranger that asks little and then does nothing costs us a proof.
            fair.sort(key=lambda quote: quote.relayer not in known)
        return fair

    def _usual_fees(self, kind: str, token: str) -> list[int]:
        """The fees that define the usual one: the lowest of relayers that served us; without any,
        those of all strangers that did not fail."""
        now = trio.current_time()
        quoted = {
            relayer: fee
            for relayer, (at, fee) in self._quoted.get((kind, token), {}).items()
            if now - at < QUOTE_MEMORY_S
        }
        served = [fee for relayer, fee in quoted.items() if relayer in self._serving]
        # The lowest: a relayer that served us once cannot raise the limit later.
        if served:
            return [min(served)]
        return [fee for relayer, fee in quoted.items() if relayer not in self._failed]

    async def _can_pay(self, quote: RelayerQuote) -> bool:
        chain = self._pool.chain
        price = (await chain.fees()).max_wei
        # Half, because `fees` already doubles the present base fee.
        return await chain.balance(quote.relayer) >= GAS[quote.kind] * price // 2

    async def _endpoint(self, relayer: str) -> str:
        if relayer not in self._endpoints:
            self._endpoints |= {party.account: party.endpoint for party in await self._relayers()}
        if relayer not in self._endpoints:
            raise RelayerDead("the registry does not list it", relayer=relayer)
        return self._endpoints[relayer]

    async def _quote(self, party: RegistryEntry, kind: str, token: str) -> RelayerQuote:
        endpoint = party.endpoint
        async with self._conversation(endpoint) as socket:
            await _send_text(
                socket, encode_request(AskTerms("1")), endpoint, self._answer_timeout_s
            )
            text = await _receive_text(socket, endpoint, self._answer_timeout_s)
        return self._offer(decode_terms(text, "1"), party, kind, token)

    def _offer(
        self, terms: RelayerTerms, party: RegistryEntry, kind: str, token: str
    ) -> RelayerQuote:
        if terms.relayer != party.account:
            raise RelayerLied(
                "it names another address than the registry's",
                named=terms.relayer,
                registered=party.account,
            )
        if terms.chain_id != self._pool.chain.chain_id or terms.contract != self._pool.address:
            raise RelayerLied("it serves another contract", contract=terms.contract)
        fee = terms.fee(token, kind)
        if fee is None:
            raise TokenRefused(token=token)
        if fee == 0:
            raise RelayerLied("a fee of zero names no relayer", relayer=terms.relayer)
        return RelayerQuote(
            relayer=terms.relayer,
            endpoint=party.endpoint,
            token=token,
            kind=kind,
            fee=fee,
            min_deadline_s=terms.min_deadline_s,
            valid_until_s=terms.valid_until_s,
        )

    def _conversation(self, endpoint: str) -> AbstractAsyncContextManager[WebSocketConnection]:
        return _conversation(
            endpoint, self._answer_timeout_s, self._tls, self._plain, self._private
        )


def _no_relayer(reasons: Mapping[str, Any], not_asked: int) -> NoRelayer:
    """NoRelayer with the first few reasons, so that a full registry does not fill the screen."""
    shown = dict(list(reasons.items())[:_REASONS])
    if not reasons:
        shown = {"registry": "it lists no relayer"}
    rest = len(reasons) - len(shown) + not_asked
    if rest > 0:
        shown["others"] = f"{rest} more, {not_asked} of them not asked"
    return NoRelayer(**shown)


@asynccontextmanager
async def _conversation(
    endpoint: str,
    timeout_s: float,
    tls: ssl.SSLContext | None,
    plain: bool,
    private: bool,
) -> AsyncIterator[WebSocketConnection]:
    """One socket for one question. Raises RelayerDead for any failure of the peer or network."""
    bounds = Bounds(message_bytes=MAX_MESSAGE_BYTES, unread_bytes=None)
    try:
        with trio.move_on_after(timeout_s) as opening:
            async with dial_websocket(
                endpoint, bounds=bounds, tls=tls, plain=plain, private=private
            ) as (socket, _stream):
                # Only dialling is timed here. Each message has a time of its own.
                opening.deadline = float("inf")
                try:
                    yield socket
                finally:
                    with trio.move_on_after(CLOSE_S, shield=True):
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


async def _send_text(
    socket: WebSocketConnection, text: str, endpoint: str, timeout_s: float
) -> None:
    with trio.move_on_after(timeout_s) as late:
        await socket.send_message(text)
    if late.cancelled_caught:
        raise RelayerDead("it does not read", endpoint=endpoint)


async def _receive_text(socket: WebSocketConnection, endpoint: str, timeout_s: float) -> str:
    with trio.move_on_after(timeout_s) as late:
        message = await socket.get_message()
    if late.cancelled_caught:
        raise RelayerDead("it does not answer in time", endpoint=endpoint)
    if not isinstance(message, str):
        raise RelayerLied("it sends bytes where text was asked for", endpoint=endpoint)
    return message
