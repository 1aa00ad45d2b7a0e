"""The relayer's server: quotes its fee, takes finished calls, sends them and says how it went.

A call passes these gates in order, each with a refusal of its own: rates of requests and bytes;
shape; chain; contract; relayer named; fee token taken; fee at least a quote that still holds;
deadline far enough and within 65 minutes (`spec.md` 21); no other call under way that uses up one
of its nullifiers or commitments; room in the queue, for all and for one address; and the contract's
own verdict in a simulation. Then it is written down and its sender hears "queued".

One note can be offered to several relayers, and one of them is paid. So the contract is asked
again at the last moment before a call is broadcast, on the node's pending block: a move that the
node has heard of and that spends the same note is a refusal, and costs nothing. What the node does
not see (another node's pool, a private order flow, the same instant) cannot be known before; such a
call is mined and reverts. That is counted (`Statistics.beaten`, `lost_wei`) and logged with its
cost, so that an owner sees it and sets the fee accordingly.

One task, the nonce lane, signs and sends calls one after the other; waiting for them happens beside
it. A transaction is on disk before it is broadcast. One that is not mined in time is replaced with
the same nonce and a higher fee, or, where the contract would refuse it by now, by an empty one, so
the lane never blocks. After a restart every call under way is taken up where it was.
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
"""What a peer does that is gone, or does not read."""

_OFTEN: Final = 4096
"""Connections a second from one address: what they ask is limited, not how often they come."""

DEAREST: Final = 8
"""A replacement pays at most this many times what the chain asks at that time."""

LONGEST_S: Final = 65 * 60
"""How far ahead a deadline may be (`spec.md` 21), so that what is under way ends."""

LOG_S: Final = 1.0
"""Between two lines of the log on refusals of one kind."""
PENALTY_S: Final = 0.5
"""How long nothing more is read of a connection whose address asks too much."""
SEND_S = 20.0
"""How long a peer may take to read one answer."""

_JUDGED_AT_ONCE: Final = 4
"""Simulations at once: each costs the node a proof's verification."""


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """How a relayer prices its work in one token.

    flat: units asked for any move. units_per_eth: if above 0, the expected gas is added at the gas
    price of the moment and this rate. The sum is rounded up to two digits, so that fees of one
    hour look alike.
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
    """What a relayer's owner decides.

    prices: by token address (checksummed); also the allow-list of fee tokens.
    quote_life_s: how long a quoted fee is honoured.
    min_deadline_s: how much time a call must leave.
    queue: calls under way at once.
    connections: at once. A quarter is kept for those whose call was taken; where strangers hold
        the others, the address with most of them loses its oldest to one with fewer.
    connections_per_peer, requests_per_minute, bytes_per_minute: for one address.
    calls_per_peer: calls under way at once for one address.
    addresses_per_network: how many times the share of one address an IPv6 /48 has.
    replace_after_s: when an unmined transaction gets a higher fee.
    depth: blocks until a call counts as mined.
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
            raise RelayerConfigError("no token is named in which fees are taken")
        for token, price in self.prices.items():
            if price.flat < 0 or price.units_per_eth < 0:
                raise RelayerConfigError("a fee is below zero", token=token)
            if price.flat + price.units_per_eth == 0:
                raise RelayerConfigError(
                    "a fee of zero names no relayer, so it cannot be taken", token=token
                )
        for one in fields(self):
            if one.name != "prices" and getattr(self, one.name) <= 0:
                raise RelayerConfigError("it must be above zero", setting=one.name)


@dataclass(slots=True)
class Statistics:
    """Counts since the start, for the log and for tests.

    beaten: calls that were mined and reverted because another move had spent their note, in wei of
    gas for nothing: lost_wei, which counts all that reverted.
    """

    connections: int = 0
    refused: int = 0
    taken: int = 0
    mined: int = 0
    failed: int = 0
    gas_spent_wei: int = 0
    beaten: int = 0
    lost_wei: int = 0


@dataclass(slots=True)
class _Caller:
    """One address, or all of an IPv6 /48.

    share: how many addresses' shares it has.
    requests, bytes: what it may still ask and send.
    under_way: its calls.
    """

    share: int
    requests: TokenBucket
    bytes: TokenBucket
    connections: int = 0
    asked_at: float = 0.0
    under_way: set[int] = field(default_factory=set)


class RelayerService:
    """One relayer: one wallet, one contract, one store.

    Several tasks may use `statistics` and `terms`; `serve` is run once.
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
        self._judging = trio.CapacityLimiter(_JUDGED_AT_ONCE)
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
        """Serves until cancelled; `task_status` gets the port once sockets listen.

        Takes up what an earlier run left under way first. Raises WrongChain, ChainDown, OSError
        where the address cannot be bound. Cancelled: closes all sockets; what is under way stays
        in the store.
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
                        self._meet,
                        Admission(self._limits()),
                        bounds=Bounds(message_bytes=MAX_MESSAGE_BYTES, unread_bytes=None),
                        tls=tls,
                    )
                )
            )

    # --- peers -----------------------------------------------------------------------------------

    def _limits(self) -> AdmissionLimits:
        """Loopback is one address like any other, as it is for requests."""
        return AdmissionLimits(
            connections=self._config.connections,
            per_address=self._config.connections_per_peer,
            per_second=_OFTEN,
            burst=_OFTEN,
            addresses_per_network=self._config.addresses_per_network,
            limit_loopback=True,
        )

    def _peers(self, name: str) -> tuple[_Caller, ...]:
        """What an address counts for: itself, and its IPv6 /48 if it has one."""
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

    async def _meet(
        self, request: WebSocketRequest, _stream: BoundedStream, name: str, place: ConnectionSlot
    ) -> None:
        peers = self._peers(name)
        for peer in peers:
            peer.connections += 1
        self._statistics.connections += 1
        try:
            await self._listen(await request.accept(), peers, place)
        except* _GONE:
            pass  # the peer is gone, or does not read: only its own connection ends
        finally:
            for peer in peers:
                peer.connections -= 1
            self._forget_idle_peers()

    async def _listen(
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
                # A fault of ours at one request must not end the requests of all others.
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
                    # Not even parsed, so it has no id; and the next one is not read at once.
                    await self._refuse(socket, "", TooManyRequests())
                    await trio.sleep(PENALTY_S)
                elif isinstance(message, bytes):
                    await self._refuse(socket, "", BadRequest("binary messages mean nothing here"))
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
                await _say(socket, encode_terms(name, await self.terms()))
                return
            send = await self._admit(request, peers, place)
            await self._follow(socket, name, send.id)
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
            # Anybody may cause it: statistics count them all, the log is not theirs to fill.
            self._logged[refusal.code] = now
            log.info("refused", extra={"code": refusal.code})
        await _say(socket, encode_answer(name, refusal_json(refusal)))

    async def _follow(self, socket: WebSocketConnection, name: str, number: int) -> None:
        """Tells a client each state of a send that it has not heard, until the end."""
        said: tuple[SendState, tuple[bytes, ...]] | None = None
        while True:
            changed = self._changes.setdefault(number, trio.Event())
            send = await trio.to_thread.run_sync(self._store.get, number)
            if send is None:
                return
            if said != (send.state, send.transactions):
                said = (send.state, send.transactions)
                await _say(socket, encode_answer(name, _word(send)))
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
        """This moment's offer; its fees are honoured until it says. Raises ChainError."""
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

    # --- taking a call on ------------------------------------------------------------------------

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
        if call.deadline > now_s + LONGEST_S:
            raise DeadlineTooFar(deadline=call.deadline, latest=now_s + LONGEST_S)
        # Looked at before the simulation, which costs the node a proof's verification.
        await self._make_room(call, digest, peers)
        async with self._judging:
            await self._judge(call)
        async with self._admission:
            known = await self._known(digest, call)
            if known is not None:
                return known
            await self._make_room(call, digest, peers)
            send = await trio.to_thread.run_sync(
                self._store.add, digest, call.kind, call.to_json(), call.deadline, call.marks
            )
        for peer in peers:
            peer.under_way.add(send.id)
        self._owners[send.id] = peers
        place.keep()  # not for a call that was known: everybody may send that again, for nothing
        self._statistics.taken += 1
        log.info("taken", extra={"send": send.id, "kind": send.kind})
        self._lane_in.send_nowait(send.id)
        return send

    async def _known(self, digest: bytes, call: Call) -> Send | None:
        """The same call, under way or mined: its sender gets the same answer again."""
        last = await trio.to_thread.run_sync(self._store.last, digest)
        if last is None or last.state is SendState.FAILED:
            return None
        if last.state is SendState.MINED and not await self._pool.is_spent(call.nullifiers[0]):
            return None  # a reorganisation took it back
        return last

    async def _make_room(self, call: Call, digest: bytes, peers: tuple[_Caller, ...]) -> None:
        other = await trio.to_thread.run_sync(self._store.conflicting, call.marks, digest)
        if other is not None:
            raise Conflict(state=other.state.value)
        under_way = await trio.to_thread.run_sync(self._store.under_way)
        if len(under_way) >= self._config.queue:
            raise Busy(under_way=len(under_way))
        if any(len(peer.under_way) >= self._config.calls_per_peer * peer.share for peer in peers):
            raise Busy("this address has as many calls under way as one may have")

    async def _judge(self, call: Call) -> None:
        """The contract's own verdict, without sending, after all moves that the node has heard of.

        Raises AlreadySpent, WouldRevert and what reading the chain raises.
        """
        try:
            await self._judge_on(call, "pending")
        except (RpcError, NotAnswered):
            # Not every node shows a pending block.
            await self._judge_on(call, "latest")

    async def _judge_on(self, call: Call, block: str) -> None:
        for nullifier in call.nullifiers:
            if await self._pool.is_spent(nullifier, block):
                raise AlreadySpent(nullifier=nullifier)
        try:
            await self._pool.simulate_move(call, self._wallet.address, block)
        except Reverted as refused:
            if block == "pending" and refused.error == "RootUnknown":
                # The sender's node can have a block that this view has not heard of.
                return await self._judge_on(call, "latest")
            raise WouldRevert(f"the contract refuses this call: {refused.error}") from None
        except OutOfGas:
            raise WouldRevert("the call runs out of gas") from None
        return None

    # --- the nonce lane --------------------------------------------------------------------------

    async def _resume(self, nursery: trio.Nursery) -> None:
        for send in await trio.to_thread.run_sync(self._store.under_way):
            if send.transactions:
                nursery.start_soon(self._see_through, send.id)
            else:
                self._lane_in.send_nowait(send.id)

    async def _lane(self, nursery: trio.Nursery) -> None:
        async for number in self._lane_out:
            if await self._start(number):
                nursery.start_soon(self._see_through, number)

    async def _start(self, number: int) -> bool:
        """Signs and sends one call. False where it ended before that."""
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
                # As late as can be: the same note may have been offered to others.
                await self._judge(call)
                await self._chain.send(self._wallet, prepared, record=partial(self._record, number))
            except RelayerRefusal as refusal:
                await self._end(number, refusal)
                return False
            except WalletWithoutGas as poor:
                log.error("wallet-without-gas", extra={"balance_wei": poor.balance_wei})
                await self._end(number, RelayerOutOfGas())
                return False
            except Reverted as refused:
                await self._end(number, await self._why(call, refused))
                return False
            except ChainError as trouble:
                # Sent or not, the store knows; and a call that is in time is worth another try.
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
        """Keeps a signed transaction before the node hears of it."""
        await trio.to_thread.run_sync(self._store.signed, number, sent.raw)
        log.info("sent", extra={"send": number, "tx": sent.tx_hash, "nonce": sent.nonce})

    async def _see_through(self, number: int) -> None:
        """Waits until a sent call is mined; raises its fee, or takes a new nonce, if it must."""
        pause_s = 0.5
        while True:
            try:
                if await self._look_after(number):
                    return
            except ChainError as trouble:
                # What goes wrong while a failure is dealt with comes here too: one call's trouble
                # must not end the others.
                name = "chain-down" if isinstance(trouble, ChainDown) else "chain-trouble"
                log.warning(name, extra={"error": type(trouble).__name__})
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, 10.0)

    async def _look_after(self, number: int) -> bool:
        """One round of that; True at the call's end. Raises ChainError: worth another round."""
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
            # While one before it is missing, no fee gets it mined.
            if not await self._fill_gap(newest.nonce):
                await self._replace(number, call, newest)
            return False
        except TransactionReplaced:
            # Another transaction has the nonce: an older one of ours, or another program's.
            receipt = await self._first_mined(await self._get(number))
            if receipt is not None:
                return await self._ended_by(number, receipt)
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
            await self._count_loss(number, send, beaten=spent is not None)
            if spent is not None:
                refusal = AlreadySpent(nullifier=spent)
            elif time.time() > call.deadline:
                refusal = Stale(deadline=call.deadline)
            await self._end(number, refusal)
        return True

    async def _ended_by(self, number: int, receipt: Receipt) -> bool:
        """True at the call's end: it was made, or its nonce was given up, and it is refused."""
        if receipt.to == self._wallet.address:
            return not await self._start(number)
        await self._mined(number, receipt)
        return True

    async def _why(self, call: Call, refused: Reverted) -> RelayerRefusal:
        spent = await self._spent_of(call)
        if spent is not None:
            return AlreadySpent(nullifier=spent)
        return WouldRevert(f"the contract refuses this call: {refused.error}")

    async def _spent_of(self, call: Call) -> bytes | None:
        """A nullifier of a call that another move has spent."""
        for nullifier in call.nullifiers:
            if await self._pool.is_spent(nullifier):
                return nullifier
        return None

    async def _count_loss(self, number: int, send: Send, *, beaten: bool) -> None:
        """Gas that was paid for nothing is never unnoticed."""
        lost_wei = 0
        for raw in send.transactions:
            if (receipt := await self._chain.mined(hash_of(raw))) is not None:
                lost_wei += receipt.cost_wei
        self._statistics.lost_wei += lost_wei
        self._statistics.beaten += beaten
        log.warning(
            "gas-lost",
            extra={
                "send": number,
                "beaten": beaten,
                "lost_wei": lost_wei,
                "beaten_so_far": self._statistics.beaten,
                "lost_wei_so_far": self._statistics.lost_wei,
            },
        )

    async def _first_mined(self, send: Send) -> Receipt | None:
        """The receipt of whichever of a send's transactions was mined. Raises Reverted."""
        for raw in send.transactions:
            if await self._chain.mined(hash_of(raw)) is not None:
                sent = read_signed(raw)
                return await self._chain.wait(sent, depth=self._config.depth, doing="the call")
        return None

    async def _fill_gap(self, nonce: int) -> bool:
        """Whether transactions of ours before this nonce are not mined. Those of sends that have
        ended went with a reorganisation: they are handed over again, the same bytes; where the
        contract would refuse them by now, an empty one gets their nonce."""
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
                    continue  # it is looked after itself
                with suppress(RelayerRefusal):
                    await self._judge_on(call_from_json(send.kind, send.call), "latest")
                    await PendingTransaction(self._chain, [sent]).again()
            log.info("filling-gap", extra={"nonce": at})
            await self._chain.fill(self._wallet, at)
        return True

    async def _replace(self, number: int, call: Call, newest: Sent) -> None:
        """The same call and nonce, for a quarter more a gas; but never for many times what the
        chain asks now, which the call's fee was not quoted for.

        Nothing in its place where the contract would refuse the call by now: its root is gone after
        a reorganisation, its note is spent, its deadline is over.
        """
        old = newest.prepared.fees
        now = await self._chain.fees()
        fees = Fees(
            max(now.max_wei, old.max_wei * 5 // 4 + 1), max(now.tip_wei, old.tip_wei * 5 // 4 + 1)
        )
        if fees.max_wei > now.max_wei * DEAREST:
            log.warning("not-replaced", extra={"send": number, "nonce": newest.nonce})
            return
        plan, event = newest.prepared, "replacing"
        try:
            await self._judge_on(call, "latest")
        except RelayerRefusal as refusal:
            if plan.data:
                own = self._wallet.address
                plan = await self._chain.prepare(own, own, b"", doing="giving a nonce up")
            event = "giving-up"
            log.info("no-longer-taken", extra={"send": number, "code": refusal.code})
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
        self._over(number)

    async def _end(self, number: int, refusal: RelayerRefusal) -> None:
        self._statistics.failed += 1
        await trio.to_thread.run_sync(
            self._store.end, number, SendState.FAILED, refusal_json(refusal)
        )
        log.warning("failed", extra={"send": number, "code": refusal.code})
        self._over(number)

    def _over(self, number: int) -> None:
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


async def _say(socket: WebSocketConnection, text: str) -> None:
    """Raises TooSlowError for a peer that does not read; its connection then ends."""
    with trio.fail_after(SEND_S):
        await socket.send_message(text)


def _word(send: Send) -> dict[str, object]:
    if send.state is SendState.QUEUED:
        return progress_json(SendProgress("queued"))
    if send.state is SendState.SENT:
        return progress_json(SendProgress("sent", tx=hash_of(send.transactions[-1])))
    return dict(send.answer)
