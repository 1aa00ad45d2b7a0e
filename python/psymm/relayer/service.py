"""The relayer's server: quotes its fee, accepts finished calls, sends them and reports progress.

Admission. A call passes these checks in order, each with a refusal of its own: rates of requests
and bytes; shape; chain; contract; the relayer that it names; the fee's token; a fee of at least a
quote that still holds; a deadline that is far enough and within 65 minutes (`spec.md` 21); no other
call under way with one of its nullifiers or commitments; space in the queue, in total and for the
address; a simulation by the contract. Cheap checks come before the simulation, which costs the node
a proof's verification. Then the call is on disk, and the client gets "queued".

Races. A note can be offered to several relayers, and only one of them is paid. So the call is
simulated again just before it is broadcast, on the node's pending block: if a move in the node's
pool spends the same note, the call is refused and costs nothing. Moves that the node does not see
(another node's pool, a private order flow, the same moment) cannot be known; then the call is mined
and reverts. That is counted (`Statistics.lost_races`, `lost_wei`) and logged with its cost, so that
the owner can set the fee accordingly.

Sending. One task, the nonce lane, signs and sends calls one after the other, so nonces have no
gaps. Each sent call has a task that waits for it (`_track`). A transaction is on disk before it is
broadcast. If it is not mined in time, it is replaced with the same nonce at a higher fee; if the
contract would refuse it by now, by an empty transaction. So the lane never blocks. After a restart
every call under way continues from its state on disk.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Final

import trio
from trio_websocket import (
    ConnectionClosed,
    HandshakeError,
    WebSocketConnection,
    WebSocketRequest,
)
from wsproto.utilities import LocalProtocolError

from psymm.chain.calls import Call, call_from_json
from psymm.chain.contracts import Pool
from psymm.chain.errors import (
    ChainDown,
    ChainError,
    NotAnswered,
    OutOfGas,
    Reverted,
    RpcError,
    TransactionPending,
    TransactionReplaced,
    WalletWithoutGas,
)
from psymm.chain.raw import read_signed
from psymm.chain.signing import hash_of
from psymm.chain.transactions import (
    Chain,
    Fees,
    PendingTransaction,
    Receipt,
    Sent,
    Signer,
)
from psymm.rate import TokenBucket
from psymm.relayer.errors import (
    AlreadySpent,
    BadRequest,
    Busy,
    ChainTrouble,
    Conflict,
    DeadlineTooFar,
    DeadlineTooNear,
    DidRevert,
    FeeTooLow,
    OtherChain,
    OtherContract,
    OtherRelayer,
    RelayerConfigError,
    RelayerFault,
    RelayerOutOfGas,
    RelayerRefusal,
    Stale,
    TokenRefused,
    TooManyRequests,
    WouldRevert,
)
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
from psymm.sockets.admission import (
    Admission,
    AdmissionLimits,
    ConnectionSlot,
    block_of,
    network_of,
)
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

MAX_REPLACEMENT_MULTIPLE: Final = 8
"""A replacement pays at most this many times what the chain asks at the time."""

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


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """How a relayer prices a move in one token.

    Attributes:
        flat: units for any move.
        units_per_eth: units for one ETH of gas. If above 0, the expected gas at the present price
            is added, and the sum is rounded up to two digits, so that fees of one hour look alike.
    """

    flat: int
    units_per_eth: int = 0

    def fee(self, gas: int, gas_price_wei: int) -> int:
        gas_part = -(-gas * gas_price_wei * self.units_per_eth // 10**18)
        total = self.flat + gas_part
        step = 10 ** max(0, len(str(total)) - 2)
        return -(-total // step) * step if gas_part else total


@dataclass(frozen=True, slots=True)
class RelayerConfig:
    """A relayer's settings.

    Attributes:
        prices: by token address (checksummed); also the list of accepted fee tokens.
        quote_life_s: how long a quoted fee is honoured.
        min_deadline_s: how far ahead a call's deadline must be.
        queue: calls under way at once.
        connections: at once. A quarter is reserved for clients whose call was accepted. If the
            others are full, the address with the most connections loses its oldest one to an
            address with fewer.
        connections_per_peer: for one address.
        requests_per_minute: for one address.
        bytes_per_minute: for one address.
        calls_per_peer: calls under way at once for one address.
        addresses_per_network: an IPv6 /48 has this many times the share of one address.
        requests_at_once: for one connection.
        idle_s: a connection without requests is closed after this time.
        replace_after_s: after this time an unmined transaction gets a higher fee.
        depth: how many blocks deep a call must be to count as mined.
    """

    prices: Mapping[str, TokenPrice]
    quote_life_s: int = 300
    min_deadline_s: int = 60
    queue: int = 64
    connections: int = 256
    connections_per_peer: int = 16
    requests_per_minute: int = 120
    bytes_per_minute: int = 8 * 1024 * 1024
    calls_per_peer: int = 32
    addresses_per_network: int = 4
    requests_at_once: int = 8
    idle_s: float = 120.0
    replace_after_s: float = 60.0
    depth: int = 1

    def __post_init__(self) -> None:
        if not self.prices:
            raise RelayerConfigError("no fee token is named")
        for token, price in self.prices.items():
            if price.flat < 0 or price.units_per_eth < 0:
                raise RelayerConfigError("a fee is negative", token=token)
            if price.flat + price.units_per_eth == 0:
                raise RelayerConfigError(
                    "the fee is zero; a call without a fee names no relayer", token=token
                )
        for one in fields(self):
            if one.name != "prices" and getattr(self, one.name) <= 0:
                raise RelayerConfigError("it must be above zero", setting=one.name)


@dataclass(slots=True)
class Statistics:
    """Counts since the start.

    Attributes:
        taken: calls that were accepted.
        lost_races: calls that reverted because another move had spent their note.
        lost_wei: the gas cost of all calls that reverted.
    """

    connections: int = 0
    refused: int = 0
    taken: int = 0
    mined: int = 0
    failed: int = 0
    gas_spent_wei: int = 0
    lost_races: int = 0
    lost_wei: int = 0


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
        self._lane_in: trio.MemorySendChannel[int]
        self._lane_out: trio.MemoryReceiveChannel[int]
        self._lane_in, self._lane_out = trio.open_memory_channel(math.inf)

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
            await self._resume(nursery)
            nursery.start_soon(self._lane, nursery)
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
        if any(peer.requests.left(now) < 1 or peer.bytes.left(now) < size for peer in peers):
            return False
        return all(peer.requests.take(1, now) and peer.bytes.take(size, now) for peer in peers)

    def _forget_idle_peers(self) -> None:
        if len(self._known_peers) > 4 * self._config.connections:
            now = trio.current_time()
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
        token = call.fee_token
        if token not in self._config.prices:
            raise TokenRefused(token=token, taken=" ".join(self._config.prices))
        least = await self._least_fee(token, call.kind)
        if call.fee < least:
            raise FeeTooLow(fee=call.fee, quote=least)
        head = await self._chain.block()
        now_s = max(head.timestamp_s, int(time.time()))
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
            await self._simulate(call)
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
            peer.under_way.add(send.id)
        self._owners[send.id] = peers
        place.keep()  # not for a known call: anybody could repeat that one for nothing
        self._statistics.taken += 1
        log.info("taken", extra={"send": send.id, "kind": send.kind})
        self._lane_in.send_nowait(send.id)
        return send

    async def _known(self, digest: bytes, call: Call) -> Send | None:
        """An earlier send of the same call that is under way or mined; its client gets the same
        answer again."""
        last = await trio.to_thread.run_sync(self._store.last, digest)
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

    async def _simulate(self, call: Call) -> None:
        """Simulate a call after all moves in the node's pool.

        Raises AlreadySpent, WouldRevert and what reading the chain raises.
        """
        try:
            await self._simulate_on(call, "pending")
        except (RpcError, NotAnswered):
            # Not every node serves a pending block.
            await self._simulate_on(call, "latest")

    async def _simulate_on(self, call: Call, block: str) -> None:
        for nullifier in call.nullifiers:
            if await self._pool.is_spent(nullifier, block):
                raise AlreadySpent(nullifier=nullifier)
        try:
            await self._pool.simulate_move(call, self._wallet.address, block)
        except Reverted as refused:
            if block == "pending" and refused.error == "RootUnknown":
                # The pending state may be built on an older block than the client's root.
                return await self._simulate_on(call, "latest")
            raise WouldRevert(f"the contract refuses this call: {refused.error}") from None
        except OutOfGas:
            raise WouldRevert("the call runs out of gas") from None
        return None

    # --- the nonce lane --------------------------------------------------------------------------

    async def _resume(self, nursery: trio.Nursery) -> None:
        for send in await trio.to_thread.run_sync(self._store.under_way):
            # With a transaction it has a nonce and must not get a second one.
            if send.transactions:
                nursery.start_soon(self._track, send.id)
            else:
                self._lane_in.send_nowait(send.id)

    async def _lane(self, nursery: trio.Nursery) -> None:
        # One after the other: nonces are given in order, and a call is simulated after the one
        # before it is in the node's pool.
        async for number in self._lane_out:
            if await self._start(number):
                nursery.start_soon(self._track, number)

    async def _start(self, number: int) -> bool:
        """Sign and send one call. False if it ended without being sent."""
        send = await self._get(number)
        call = call_from_json(send.kind, send.call)
        pause_s = 0.5
        while True:
            try:
                prepared = await self._chain.prepare(
                    self._wallet.address,
                    self._pool.address,
                    self._pool.move_data(call),
                    doing="the call",
                )
                # As late as possible: the same note may have been offered to other relayers.
                await self._simulate(call)
                await self._chain.send(self._wallet, prepared, record=partial(self._record, number))
            except RelayerRefusal as refusal:
                await self._end(number, refusal)
                return False
            except WalletWithoutGas as poor:
                log.error("wallet-without-gas", extra={"balance_wei": poor.balance_wei})
                await self._end(number, RelayerOutOfGas())
                return False
            except Reverted as refused:
                await self._end(number, await self._refusal_of(call, refused))
                return False
            except ChainError as trouble:
                # The store knows whether it was signed. If not, try again while there is time.
                if (await self._get(number)).transactions:
                    return True
                if time.time() + self._config.min_deadline_s / 2 > call.deadline:
                    await self._end(number, ChainTrouble())
                    return False
                log.warning("chain-trouble", extra={"error": type(trouble).__name__})
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, 10.0)
                continue
            self._wake(number)
            return True

    async def _record(self, number: int, sent: Sent) -> None:
        """Record a signed transaction before a node sees it."""
        await trio.to_thread.run_sync(self._store.signed, number, sent.raw)
        log.info("sent", extra={"send": number, "tx": sent.tx_hash, "nonce": sent.nonce})

    async def _track(self, number: int) -> None:
        """Wait until a sent call is mined; raise its fee or take a new nonce if needed."""
        pause_s = 0.5
        while True:
            try:
                if await self._check_send(number):
                    return
            except ChainError as trouble:
                # Also for errors while another error is handled: one call must not end the others.
                name = "chain-down" if isinstance(trouble, ChainDown) else "chain-trouble"
                log.warning(name, extra={"error": type(trouble).__name__})
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, 10.0)

    async def _check_send(self, number: int) -> bool:
        """One round of `_track`; True if the call has ended. Raises ChainError: try again."""
        send = await self._get(number)
        call = call_from_json(send.kind, send.call)
        newest = read_signed(send.transactions[-1])
        try:
            receipt = await self._first_mined(send)
            if receipt is None:
                receipt = await self._chain.wait(
                    newest,
                    depth=self._config.depth,
                    timeout_s=self._config.replace_after_s,
                    doing="the call",
                )
            return await self._ended_by(number, receipt)
        except TransactionPending:
            # While a lower nonce is missing, a higher fee does not help.
            if not await self._fill_gap(newest.nonce):
                await self._replace(number, call, newest)
            return False
        except TransactionReplaced:
            # The nonce is taken by an older version of ours, or by another program.
            receipt = await self._first_mined(await self._get(number))
            if receipt is not None:
                return await self._ended_by(number, receipt)
            # Another program used the nonce. Send the call again unless its note is spent.
            if await self._pool.is_spent(call.nullifiers[0]):
                await self._end(number, AlreadySpent(nullifier=call.nullifiers[0]))
            else:
                return not await self._start(number)
        except (Reverted, OutOfGas) as failed:
            reason = failed.error if isinstance(failed, Reverted) else "out of gas"
            refusal: RelayerRefusal = DidRevert(
                f"the call was mined and reverted: {reason}", tx=newest.tx_hash
            )
            spent = await self._spent_of(call)
            await self._count_loss(number, send, lost_race=spent is not None)
            if spent is not None:
                refusal = AlreadySpent(nullifier=spent)
            elif time.time() > call.deadline:
                refusal = Stale(deadline=call.deadline)
            await self._end(number, refusal)
        return True

    async def _ended_by(self, number: int, receipt: Receipt) -> bool:
        """Act on a mined transaction of a call; True if the call has ended. It has not if only the
        empty transaction was mined and the call could be sent again."""
        if receipt.to == self._wallet.address:
            # The empty transaction took the nonce, but the call may be possible again.
            return not await self._start(number)
        await self._mined(number, receipt)
        return True

    async def _refusal_of(self, call: Call, refused: Reverted) -> RelayerRefusal:
        spent = await self._spent_of(call)
        if spent is not None:
            return AlreadySpent(nullifier=spent)
        return WouldRevert(f"the contract refuses this call: {refused.error}")

    async def _spent_of(self, call: Call) -> bytes | None:
        """A nullifier of the call that is spent; None if none is."""
        for nullifier in call.nullifiers:
            if await self._pool.is_spent(nullifier):
                return nullifier
        return None

    async def _count_loss(self, number: int, send: Send, *, lost_race: bool) -> None:
        """Count and log gas that was paid for nothing."""
        lost_wei = 0
        for raw in send.transactions:
            if (receipt := await self._chain.mined(hash_of(raw))) is not None:
                lost_wei += receipt.cost_wei
        self._statistics.lost_wei += lost_wei
        self._statistics.lost_races += lost_race
        log.warning(
            "gas-lost",
            extra={
                "send": number,
                "lost_race": lost_race,
                "lost_wei": lost_wei,
                "lost_races_so_far": self._statistics.lost_races,
                "lost_wei_so_far": self._statistics.lost_wei,
            },
        )

    async def _first_mined(self, send: Send) -> Receipt | None:
        """The receipt of the mined one among a send's transactions. Raises Reverted."""
        for raw in send.transactions:
            if await self._chain.mined(hash_of(raw)) is not None:
                sent = read_signed(raw)
                return await self._chain.wait(sent, depth=self._config.depth, doing="the call")
        return None

    async def _fill_gap(self, nonce: int) -> bool:
        """Whether lower nonces of ours are not mined. Those of ended sends were taken back by a
        reorganisation: the same bytes are handed over again; if the contract would refuse them by
        now, an empty transaction takes their nonce."""
        mined = await self._chain.nonce(self._wallet.address)
        if mined >= nonce:
            return False
        held: dict[int, tuple[Send, Sent]] = {}
        for send in await trio.to_thread.run_sync(self._store.all):
            held |= {sent.nonce: (send, sent) for sent in map(read_signed, send.transactions)}
        for at in range(mined, nonce):
            if at in held:
                send, sent = held[at]
                if send.state not in (SendState.MINED, SendState.FAILED):
                    continue  # its own task tracks it
                # If the contract refuses it by now, it would cost gas for nothing; the empty
                # transaction below takes its nonce.
                with suppress(RelayerRefusal):
                    await self._simulate_on(call_from_json(send.kind, send.call), "latest")
                    await PendingTransaction(self._chain, [sent]).rebroadcast()
            log.info("filling-gap", extra={"nonce": at})
            await self._chain.fill_nonce(self._wallet, at)
        return True

    async def _replace(self, number: int, call: Call, newest: Sent) -> None:
        """Send the same call and nonce at a fee at least a quarter higher, but not for many times
        what the chain asks now, which the quoted fee does not cover.

        If the contract would refuse the call by now (a reorganisation removed its root, its note is
        spent, its deadline has passed), send an empty transaction with the nonce instead.
        """
        old = newest.prepared.fees
        now = await self._chain.fees()
        fees = Fees(
            max(now.max_wei, old.max_wei * 5 // 4 + 1), max(now.tip_wei, old.tip_wei * 5 // 4 + 1)
        )
        if fees.max_wei > now.max_wei * MAX_REPLACEMENT_MULTIPLE:
            # The chain does not ask for so much: a higher fee is not what the transaction lacks.
            log.warning("not-replaced", extra={"send": number, "nonce": newest.nonce})
            return
        plan, event = newest.prepared, "replacing"
        try:
            await self._simulate_on(call, "latest")
        except RelayerRefusal as refusal:
            if plan.data:
                own = self._wallet.address
                plan = await self._chain.prepare(own, own, b"", doing="giving a nonce up")
            event = "giving-up"
            log.info("call-void", extra={"send": number, "code": refusal.code})
        log.info(event, extra={"send": number, "nonce": newest.nonce})
        await self._chain.send(
            self._wallet,
            replace(plan, fees=fees),
            nonce=newest.nonce,
            record=partial(self._record, number),
        )
        self._wake(number)

    async def _mined(self, number: int, receipt: Receipt) -> None:
        self._statistics.mined += 1
        self._statistics.gas_spent_wei += receipt.cost_wei
        word = SendProgress("mined", receipt.tx_hash, receipt.block, receipt.gas_used)
        await trio.to_thread.run_sync(self._store.end, number, SendState.MINED, progress_json(word))
        log.info("mined", extra={"send": number, "tx": receipt.tx_hash, "gas": receipt.gas_used})
        self._release(number)

    async def _end(self, number: int, refusal: RelayerRefusal) -> None:
        self._statistics.failed += 1
        await trio.to_thread.run_sync(
            self._store.end, number, SendState.FAILED, refusal_json(refusal)
        )
        log.warning("failed", extra={"send": number, "code": refusal.code})
        self._release(number)

    def _release(self, number: int) -> None:
        for peer in self._owners.pop(number, ()):
            peer.under_way.discard(number)
        self._wake(number)

    async def _get(self, number: int) -> Send:
        send = await trio.to_thread.run_sync(self._store.get, number)
        if send is None:
            raise KeyError(number)
        return send

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
