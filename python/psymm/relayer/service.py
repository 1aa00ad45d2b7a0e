"""The relayer's server: quotes its fee, accepts finished calls and reports their progress.

Admission. A call passes these checks in order, each with a refusal of its own: rates of requests
and bytes; shape; chain; contract; the relayer that it names; the fee's token; a fee of at least a
quote that still holds; a deadline that is far enough and within 65 minutes (`spec.md` 21); no other
call under way with one of its nullifiers or commitments; space in the queue, in total and for the
address; a simulation by the contract. Cheap checks come before the simulation, which costs the node
a proof's verification. Then the call is on disk, and the client gets "queued".

`lane.NonceLane` then sends it, and clients get each new state as progress (`_stream_progress`).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, WebSocketRequest
from wsproto.utilities import LocalProtocolError

from psymm.chain.calls import Call
from psymm.chain.contracts import Pool
from psymm.chain.errors import ChainError
from psymm.chain.signing import hash_of
from psymm.chain.transactions import Chain, Signer
from psymm.rate import TokenBucket
from psymm.relayer.config import RelayerConfig
from psymm.relayer.errors import (
    BadRequest,
    Busy,
    ChainTrouble,
    Conflict,
    DeadlineTooFar,
    DeadlineTooNear,
    FeeTooLow,
    OtherChain,
    OtherContract,
    OtherRelayer,
    RelayerFault,
    RelayerRefusal,
    TokenRefused,
    TooManyRequests,
)
from psymm.relayer.lane import NonceLane, Statistics
from psymm.relayer.simulation import Simulation
from psymm.relayer.store import Send, SendState, Store
from psymm.relayer.wire import (
    GAS,
    MAX_MESSAGE_BYTES,
    AskTerms,
    RelayerTerms,
    SendProgress,
    Submit,
    TokenFee,
    decode_request,
    encode_answer,
    encode_terms,
    identity,
    progress_json,
    refusal_json,
    request_id,
)
from psymm.sockets.admission import Admission, AdmissionLimits, ConnectionSlot, block_of, network_of
from psymm.sockets.bounded import BoundedStream, Bounds
from psymm.sockets.serving import Tls, serve_websockets

log = logging.getLogger(__name__)

_GONE: Final = (
    ConnectionClosed,
    HandshakeError,
    LocalProtocolError,
    trio.TooSlowError,
    trio.BrokenResourceError,
)
"""What a socket raises if the peer is gone or does not read."""

_CONNECTIONS_PER_S: Final = 4096
"""Connections per second from one address: in effect unlimited, because requests are limited."""

MAX_DEADLINE_S: Final = 65 * 60
"""How far ahead a deadline may be (`spec.md` 21), so that every call under way ends."""

LOG_S: Final = 1.0
"""The least time between two log lines for refusals of one kind."""
PENALTY_S: Final = 0.5
"""How long a connection is not read after its address exceeded a rate."""
SEND_S = 20.0
"""How long a peer may take to read one answer."""

_SIMULATIONS_AT_ONCE: Final = 4
"""The most simulations at once; each costs the node a proof's verification."""


@dataclass(slots=True)
class _Caller:
    """One address, or a whole IPv6 /48.

    Attributes:
        share: how many single addresses it counts for.
        requests: what it may still ask.
        bytes: what it may still send.
        asked_at: the time of its last request, by trio's clock.
        under_way: the numbers of its calls.
    """

    share: int
    requests: TokenBucket
    bytes: TokenBucket
    connections: int = 0
    asked_at: float = 0.0
    under_way: set[int] = field(default_factory=set)


class RelayerService:
    """One relayer: one wallet, one contract, one store.

    Several tasks may use `statistics` and `terms`; run `serve` once.
    """

    def __init__(
        self,
        chain: Chain,
        pool: Pool,
        wallet: Signer,
        store: Store,
        config: RelayerConfig,
    ) -> None:
        self._chain = chain
        self._pool = pool
        self._wallet = wallet
        self._store = store
        self._config = config
        self._statistics = Statistics()
        self._logged: dict[str, float] = {}
        self._known_peers: dict[str, _Caller] = {}
        self._quotes: deque[RelayerTerms] = deque()
        self._changes: dict[int, trio.Event] = {}
        self._owners: dict[int, tuple[_Caller, ...]] = {}
        self._admission = trio.Lock()
        self._simulating = trio.CapacityLimiter(_SIMULATIONS_AT_ONCE)
        self._simulation = Simulation(pool, wallet.address)
        self._lane = NonceLane(
            chain,
            pool,
            wallet,
            store,
            config,
            self._simulation,
            self._statistics,
            self._wake,
            self._release,
        )

    def statistics(self) -> Statistics:
        return replace(self._statistics)

    async def serve(
        self,
        host: str,
        port: int,
        *,
        tls: Tls | None = None,
        task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled; `task_status` gets the port once sockets listen.

        Resumes what an earlier run left under way first. Raises WrongChain, ChainDown, and OSError
        if the address cannot be bound. Cancelled: closes all sockets; calls under way stay in the
        store.
        """
        await self._chain.check()
        async with trio.open_nursery() as nursery:
            await self._lane.resume(nursery)
            nursery.start_soon(self._lane.run, nursery)
            task_status.started(
                await nursery.start(
                    partial(
                        serve_websockets,
                        host,
                        port,
                        self._serve_connection,
                        Admission(self._limits()),
                        bounds=Bounds(message_bytes=MAX_MESSAGE_BYTES, unread_bytes=None),
                        tls=tls,
                    )
                )
            )

    # --- peers -----------------------------------------------------------------------------------

    def _limits(self) -> AdmissionLimits:
        """The limits on connections; loopback counts as one address, as for requests."""
        return AdmissionLimits(
            connections=self._config.connections,
            per_address=self._config.connections_per_peer,
            per_second=_CONNECTIONS_PER_S,
            burst=_CONNECTIONS_PER_S,
            addresses_per_network=self._config.addresses_per_network,
            limit_loopback=True,
        )

    def _peers(self, name: str) -> tuple[_Caller, ...]:
        """Whose shares an address uses: its own, and that of its IPv6 /48 if it has one."""
        found = [self._peer(block_of(name), 1)]
        network = network_of(name)
        if network is not None:
            found.append(self._peer(network, self._config.addresses_per_network))
        return tuple(found)

    def _peer(self, block: str, share: int) -> _Caller:
        def bucket(per_minute: int) -> TokenBucket:
            most = per_minute * share
            return TokenBucket(most / 60, most, trio.current_time())

        requests, size = self._config.requests_per_minute, self._config.bytes_per_minute
        return self._known_peers.setdefault(block, _Caller(share, bucket(requests), bucket(size)))

    async def _serve_connection(
        self, request: WebSocketRequest, _stream: BoundedStream, name: str, place: ConnectionSlot
    ) -> None:
        peers = self._peers(name)
        for peer in peers:
            peer.connections += 1
        self._statistics.connections += 1
        try:
            await self._serve_requests(await request.accept(), peers, place)
        except* _GONE:
            pass  # only this peer's connection ends
        finally:
            for peer in peers:
                peer.connections -= 1
            self._forget_idle_peers()

    async def _serve_requests(
        self, socket: WebSocketConnection, peers: tuple[_Caller, ...], place: ConnectionSlot
    ) -> None:
        running = 0

        async def serve_one(text: str) -> None:
            nonlocal running
            try:
                await self._answer(socket, text, peers, place)
            except _GONE:
                raise
            except Exception:
                # A bug in one request must not end all the others.
                log.exception("request-failed")
                await self._refuse(socket, "", RelayerFault())
            finally:
                running -= 1

        async with trio.open_nursery() as nursery:
            while True:
                with trio.move_on_after(self._config.idle_s) as idle:
                    message = await socket.get_message()
                if idle.cancelled_caught:
                    if running:
                        # A client that waits for its call is not idle.
                        continue
                    return
                if not self._may_ask(peers, len(message)):
                    # It is not parsed, so the refusal has no id. The pause slows the peer down.
                    await self._refuse(socket, "", TooManyRequests())
                    await trio.sleep(PENALTY_S)
                elif isinstance(message, bytes):
                    await self._refuse(socket, "", BadRequest("binary messages are not supported"))
                elif running >= self._config.requests_at_once:
                    await self._refuse(socket, request_id(message), TooManyRequests())
                else:
                    running += 1
                    nursery.start_soon(serve_one, message)

    async def _answer(
        self,
        socket: WebSocketConnection,
        text: str,
        peers: tuple[_Caller, ...],
        place: ConnectionSlot,
    ) -> None:
        name = request_id(text)
        try:
            request = decode_request(text)
            if isinstance(request, AskTerms):
                await _send_text(socket, encode_terms(name, await self.terms()))
                return
            send = await self._admit(request, peers, place)
            await self._stream_progress(socket, name, send.id)
        except RelayerRefusal as refusal:
            await self._refuse(socket, name, refusal)
        except ChainError as trouble:
            log.warning("chain-trouble", extra={"error": type(trouble).__name__})
            await self._refuse(socket, name, ChainTrouble())

    async def _refuse(
        self, socket: WebSocketConnection, name: str, refusal: RelayerRefusal
    ) -> None:
        self._statistics.refused += 1
        now = trio.current_time()
        if now - self._logged.get(refusal.code, float("-inf")) >= LOG_S:
            # Anybody can cause refusals. Statistics count all of them; the log must not fill up.
            self._logged[refusal.code] = now
            log.info("refused", extra={"code": refusal.code})
        await _send_text(socket, encode_answer(name, refusal_json(refusal)))

    async def _stream_progress(self, socket: WebSocketConnection, name: str, number: int) -> None:
        """Send a client each new state of a send until its end."""
        said: tuple[SendState, tuple[bytes, ...]] | None = None
        while True:
            # The event before the state: a change between the two then wakes us.
            changed = self._changes.setdefault(number, trio.Event())
            send = await trio.to_thread.run_sync(self._store.get, number)
            if send is None:
                return
            if said != (send.state, send.transactions):
                said = (send.state, send.transactions)
                await _send_text(socket, encode_answer(name, _progress_of(send)))
            if send.state in (SendState.MINED, SendState.FAILED):
                self._changes.pop(number, None)
                return
            await changed.wait()

    def _may_ask(self, peers: tuple[_Caller, ...], size: int) -> bool:
        now = trio.current_time()
        for peer in peers:
            peer.asked_at = now
        # First look, then take: an address over its own rate must not use up its network's share.
        if any(peer.requests.left(now) < 1 or peer.bytes.left(now) < size for peer in peers):
            return False
        return all(peer.requests.take(1, now) and peer.bytes.take(size, now) for peer in peers)

    def _forget_idle_peers(self) -> None:
        if len(self._known_peers) > 4 * self._config.connections:
            now = trio.current_time()
            # After a minute without requests its buckets are full again, so forgetting it gives it
            # nothing.
            self._known_peers = {
                name: peer
                for name, peer in self._known_peers.items()
                if peer.connections or peer.under_way or now - peer.asked_at < 60
            }

    # --- the offer -------------------------------------------------------------------------------

    async def terms(self) -> RelayerTerms:
        """The present offer; its fees are honoured until `valid_until_s`. Raises ChainError."""
        price_wei = 0
        if any(price.units_per_eth for price in self._config.prices.values()):
            price_wei = (await self._chain.fees()).max_wei
        now_s = int(time.time())
        terms = RelayerTerms(
            chain_id=self._chain.chain_id,
            contract=self._pool.address,
            relayer=self._wallet.address,
            fees=tuple(
                TokenFee(token, price.fee(GAS["ctc"], price_wei), price.fee(GAS["cta"], price_wei))
                for token, price in self._config.prices.items()
            ),
            min_deadline_s=self._config.min_deadline_s,
            valid_until_s=now_s + self._config.quote_life_s,
        )
        while self._quotes and self._quotes[0].valid_until_s < now_s:
            self._quotes.popleft()
        same_fees = self._quotes and self._quotes[-1].fees == terms.fees
        # The newer quote of the same fees is valid for longer, so the list grows only when fees
        # change.
        if same_fees:
            self._quotes.pop()
        self._quotes.append(terms)
        return terms

    async def _least_fee(self, token: str, kind: str) -> int:
        now_s = int(time.time())
        quoted = [
            fee
            for terms in (*self._quotes, await self.terms())
            if terms.valid_until_s >= now_s and (fee := terms.fee(token, kind)) is not None
        ]
        return min(quoted)

    # --- admission -------------------------------------------------------------------------------

    async def _admit(
        self, request: Submit, peers: tuple[_Caller, ...], place: ConnectionSlot
    ) -> Send:
        call = request.call
        if request.chain_id != self._chain.chain_id:
            raise OtherChain(asked=request.chain_id, served=self._chain.chain_id)
        if request.contract != self._pool.address:
            raise OtherContract(asked=request.contract, served=self._pool.address)
        if call.relayer != self._wallet.address:
            raise OtherRelayer(named=call.relayer, this=self._wallet.address)
        digest = identity(call)
        # A client that lost its connection submits the same call again. It gets the earlier send,
        # also if the fee or the capacity has changed since.
        known = await self._known(digest, call)
        if known is not None:
            return known
        # The checks from here on concern new calls only.
        token = call.fee_token
        if token not in self._config.prices:
            raise TokenRefused(token=token, taken=" ".join(self._config.prices))
        least = await self._least_fee(token, call.kind)
        if call.fee < least:
            raise FeeTooLow(fee=call.fee, quote=least)
        now_s = await self._chain.now_s()
        if call.deadline < now_s + self._config.min_deadline_s:
            raise DeadlineTooNear(
                deadline=call.deadline, needed=now_s + self._config.min_deadline_s
            )
        if call.deadline > now_s + MAX_DEADLINE_S:
            raise DeadlineTooFar(deadline=call.deadline, latest=now_s + MAX_DEADLINE_S)
        # Before the simulation, which costs the node a proof's verification, and again after it,
        # because other calls can come in meanwhile.
        await self._check_capacity(call, digest, peers)
        async with self._simulating:
            await self._simulation.simulate(call)
        # One call at a time from the last check to the store, so that two calls on one note, or two
        # for the last place, do not both get in.
        async with self._admission:
            known = await self._known(digest, call)
            if known is not None:
                return known
            await self._check_capacity(call, digest, peers)
            # On disk before the client hears "queued": from then on the relayer owes it a result.
            send = await trio.to_thread.run_sync(
                self._store.add,
                digest,
                call.kind,
                call.to_json(),
                call.deadline,
                call.conflict_keys,
            )
        for peer in peers:
            # Nothing waits from the store to the lane. A client that goes just now must not leave a
            # call on disk that the lane does not have.
            peer.under_way.add(send.id)
        self._owners[send.id] = peers
        place.keep()  # not for a known call: anybody could repeat that one for nothing
        self._statistics.taken += 1
        log.info("taken", extra={"send": send.id, "kind": send.kind})
        self._lane.put(send.id)
        return send

    async def _known(self, digest: bytes, call: Call) -> Send | None:
        """An earlier send of the same call that is under way or mined; its client gets the same
        answer again."""
        last = await trio.to_thread.run_sync(self._store.last, digest)
        # A call that failed may be possible by now, so it is tried again.
        if last is None or last.state is SendState.FAILED:
            return None
        if last.state is SendState.MINED and not await self._pool.is_spent(call.nullifiers[0]):
            return None  # a reorganisation took it back
        return last

    async def _check_capacity(self, call: Call, digest: bytes, peers: tuple[_Caller, ...]) -> None:
        other = await trio.to_thread.run_sync(self._store.conflicting, call.conflict_keys, digest)
        if other is not None:
            raise Conflict(state=other.state.value)
        under_way = await trio.to_thread.run_sync(self._store.under_way)
        if len(under_way) >= self._config.queue:
            raise Busy(under_way=len(under_way))
        if any(len(peer.under_way) >= self._config.calls_per_peer * peer.share for peer in peers):
            raise Busy("this address has too many calls under way")

    def _release(self, number: int) -> None:
        for peer in self._owners.pop(number, ()):
            peer.under_way.discard(number)
        self._wake(number)

    def _wake(self, number: int) -> None:
        changed = self._changes.pop(number, None)
        if changed is not None:
            changed.set()


async def _send_text(socket: WebSocketConnection, text: str) -> None:
    """Raises TooSlowError if the peer does not read, which ends its connection."""
    with trio.fail_after(SEND_S):
        await socket.send_message(text)


def _progress_of(send: Send) -> dict[str, object]:
    if send.state is SendState.QUEUED:
        return progress_json(SendProgress("queued"))
    if send.state is SendState.SENT:
        return progress_json(SendProgress("sent", tx=hash_of(send.transactions[-1])))
    return dict(send.answer)
