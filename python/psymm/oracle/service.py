"""Runs one oracle signer: reads prices, agrees with its peers, keeps rounds and broadcasts them.

    source ──► reading ──► Agreement ──► SignRound ──► store ──► signature ──► peers
    peers ──► ballots ──────┘   └──► RoundAgreed ──► store ──► followers
    peers ──► rounds (OracleClient) ──────────────────┘        what was agreed without us

One task (`_agree`) drives the agreement: it waits for the next slot or a ballot, and carries the
effects out one after the other. Another one listens to each peer, and each connection has its own.

Durable when: a vote before its signature exists, a round before anybody gets it. A process that is
killed at any moment signs no second root (`agreement`), and its peers give it what it missed.

Everybody may follow rounds and ask for history. Ballots are for the peers, who prove themselves so
that strangers cannot take their places.
"""

from __future__ import annotations

import logging
import secrets
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
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

from psymm._core import SecretKey
from psymm.errors import Disconnected, FloodingPeer, PSymmError
from psymm.oracle.agreement import (
    Agreement,
    AgreementEffect,
    Ballot,
    Countersignature,
    Proposal,
    RoundAgreed,
    RoundRefused,
    SignerConvicted,
    SignRound,
    Tolerance,
)
from psymm.oracle.broadcast import BallotBroadcast, RoundBroadcast
from psymm.oracle.client import (
    OracleClient,
    OracleEndpoints,
    OracleLied,
    OracleStalled,
    OracleUnreachable,
    open_oracle,
)
from psymm.oracle.rounds import (
    OracleError,
    OracleRound,
    SignedRound,
    SignerSet,
    encode_round,
    round_digest,
    signers_of,
)
from psymm.oracle.sources import PriceSource
from psymm.oracle.store import OracleStore
from psymm.oracle.wire import (
    MOST_ANSWER_BYTES,
    MOST_REQUEST_BYTES,
    AskHistory,
    FollowBallots,
    FollowRounds,
    Greeting,
    MessageMalformed,
    decode_ballot,
    decode_greeting,
    decode_request,
    encode_ballot,
    encode_end,
    encode_greeting,
    encode_request,
    peer_digest,
)
from psymm.rate import TokenBucket
from psymm.sockets.admission import Admission, AdmissionLimits, ConnectionSlot
from psymm.sockets.bounded import BoundedStream, Bounds
from psymm.sockets.dialling import dial_websocket
from psymm.sockets.serving import Tls, serve_websockets

log = logging.getLogger(__name__)

SEND_S: Final = 20.0
"""How long a follower may take to read one message."""
ASK_S: Final = 10.0
"""How long a peer may take to ask, or to greet."""
_INBOX: Final = 64
"""Ballots that wait for the agreement; then peers' connections wait."""
_BALLOTS: Final = 8
"""Ballots of one peer for a step of the grid; an honest one sends two."""
_REDIAL_S: Final = 1.0
_PAGE: Final = 600
"""Steps of the grid that are fetched at once of what was missed."""
_SILENT: Final = 10
"""After so many steps without a round the log says so."""
_LOG_S: Final = 60.0
"""The least time between two log lines about refused proposals of one signer."""
_NS: Final = 10**9
_GONE: Final = (
    ConnectionClosed,
    HandshakeError,
    LocalProtocolError,
    trio.TooSlowError,
    trio.BrokenResourceError,
)
"""What a socket raises if the peer is gone or does not read."""


@dataclass(frozen=True, slots=True)
class OracleConfig:
    """What all signers of an oracle agree on, and where this one finds the others.

    Attributes:
        domain: the deployment's domain separator, 32 bytes.
        peers: the endpoints of the other signers, by address.
        grid_ns: the step of the grid.
        plain: whether a peer's ws:// may be on another machine.
        tls: verifies peers' wss:// servers; None: the system's authorities.
        connections: followers and peers at once; a quarter is kept for peers.
    """

    domain: bytes
    signers: SignerSet
    tolerance: Tolerance
    peers: Mapping[str, str]
    grid_ns: int = 10**9
    plain: bool = False
    tls: ssl.SSLContext | None = None
    connections: int = 1024


@dataclass(slots=True)
class OracleStatistics:
    """Counts since the start.

    Attributes:
        signed: roots that we signed.
        agreed: rounds that we have seen agreed.
        fetched: rounds that a peer gave us whole.
        refused: peers' proposals that we did not sign.
        peers: peers whose ballots reach us now.
    """

    signed: int = 0
    agreed: int = 0
    fetched: int = 0
    refused: int = 0
    peers: int = 0


@dataclass(slots=True)
class _LogLimit:
    """Lets one line a minute through for each name."""

    seen: dict[str, float] = field(default_factory=dict)

    def allows(self, name: str) -> bool:
        now = trio.current_time()
        if now - self.seen.get(name, float("-inf")) < _LOG_S:
            return False
        self.seen[name] = now
        return True


class OracleService:
    """One signer: one key, one store, one source of prices. Run `serve` once."""

    def __init__(
        self,
        key: SecretKey,
        config: OracleConfig,
        store: OracleStore,
        source: PriceSource,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self._key = key
        self._config = config
        self._store = store
        self._source = source
        self._now = now
        self._statistics = OracleStatistics()
        self._ballots = BallotBroadcast()
        self._limit = _LogLimit()
        self._ballots_in: trio.MemorySendChannel[Ballot]
        self._ballots_out: trio.MemoryReceiveChannel[Ballot]
        self._ballots_in, self._ballots_out = trio.open_memory_channel(_INBOX)
        self._rounds: RoundBroadcast
        self._agreement: Agreement

    def statistics(self) -> OracleStatistics:
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

        Raises OSError if the address cannot be bound; StorageError or OracleStoreError if the
        store cannot be written: a signer that cannot remember what it signed signs nothing.
        Cancelled: closes all sockets.
        """
        config, store = self._config, self._store
        newest = await trio.to_thread.run_sync(store.newest)
        last = await trio.to_thread.run_sync(store.last_vote)
        convicted = await trio.to_thread.run_sync(store.convictions)
        self._rounds = RoundBroadcast(store, newest)
        self._agreement = Agreement(
            self._key.address,
            config.domain,
            config.signers,
            config.tolerance,
            config.grid_ns,
            max(last + 1, self._now()),
            [one.signer for one in convicted],
        )
        limits = AdmissionLimits(connections=config.connections)
        async with trio.open_nursery() as nursery:
            port = await nursery.start(
                partial(
                    serve_websockets,
                    host,
                    port,
                    self._serve_connection,
                    Admission(limits),
                    bounds=Bounds(message_bytes=MOST_REQUEST_BYTES, unread_bytes=None),
                    tls=tls,
                )
            )
            for address, endpoint in config.peers.items():
                nursery.start_soon(self._listen, address, endpoint)
            if config.peers:
                nursery.start_soon(self._follow_peers, newest)
            nursery.start_soon(self._agree)
            task_status.started(port)

    # --- the agreement ------------------------------------------------------------------------

    async def _agree(self) -> None:
        begun = last_round = self._now() // self._config.grid_ns
        while True:
            now = self._now()
            step = now // self._config.grid_ns
            if step < begun and self._limit.allows("clock-went-back"):
                # Moments are signed in rising order, so nothing is signed until then.
                log.warning("clock-went-back", extra={"steps": begun - step})
            if step > begun:
                begun = step
                moment = step * self._config.grid_ns
                self._agreement.begin(moment, self._read(moment))
            await self._perform(self._agreement.advance(now))
            newest = self._rounds.newest // self._config.grid_ns
            if newest > last_round:
                last_round = newest
            elif step - last_round > _SILENT and self._limit.allows("no-round"):
                log.warning(
                    "no-round",
                    extra={"steps": step - last_round, "peers": self._statistics.peers},
                )
            await self._hear((self._agreement.next_due(now) - self._now()) / _NS)

    async def _hear(self, wait_s: float) -> None:
        """Take the ballots that are here; if there are none, wait for one, at most so long."""
        # Also where no time is left: a slow disk must not make us deaf.
        ballots = [
            self._ballots_out.receive_nowait()
            for _ in range(self._ballots_out.statistics().current_buffer_used)
        ]
        if not ballots:
            with trio.move_on_after(max(wait_s, 0)):
                ballots = [await self._ballots_out.receive()]
        for ballot in ballots:
            await self._perform(self._agreement.receive(ballot, self._now()))

    def _read(self, moment: int) -> OracleRound | None:
        """Our own values for a moment; None if there are none."""
        leaves = self._source.read(moment)
        if not leaves:
            if self._limit.allows("no-prices"):
                log.warning("no-prices", extra={"timestamp": moment})
            return None
        try:
            return OracleRound.of(moment, leaves)
        except OracleError as wrong:
            log.error("source-invalid", extra={"error": str(wrong)})
            return None

    async def _perform(self, effects: list[AgreementEffect]) -> None:
        # Effects may bring more: our own signature can complete a round.
        for effect in effects:
            match effect:
                case SignRound():
                    await self._perform(await self._sign(effect))
                case RoundAgreed(signed):
                    self._statistics.agreed += 1
                    await self._keep(signed)
                case RoundRefused(signer, timestamp, reason):
                    self._statistics.refused += 1
                    if self._limit.allows(signer):
                        log.warning(
                            "proposal-refused",
                            extra={"signer": signer, "timestamp": timestamp, "reason": reason},
                        )
                case SignerConvicted():
                    await trio.to_thread.run_sync(self._store.convict, effect)
                    log.error(
                        "signer-equivocated",
                        extra={"signer": effect.signer, "timestamp": effect.timestamp},
                    )

    async def _sign(self, wanted: SignRound) -> list[AgreementEffect]:
        at, root = wanted.round.timestamp, wanted.round.root
        # On disk before the signature exists. Otherwise a crash between the two could end in a
        # second root of this moment.
        if not await trio.to_thread.run_sync(self._store.vote, at, root):
            return []
        signature = self._key.sign(round_digest(self._config.domain, root, at))
        self._statistics.signed += 1
        ballot: Ballot = (
            Proposal(SignedRound(wanted.round, (signature,)))
            if wanted.proposed
            else Countersignature(at, root, signature)
        )
        self._ballots.publish(encode_ballot(ballot))
        return self._agreement.signed(at, root, signature)

    async def _keep(self, signed: SignedRound) -> bool:
        """Store a round and hand it out. False if its moment has one already."""
        # Stored before it is sent: a follower that falls behind reads it from the store.
        kept = await trio.to_thread.run_sync(self._store.add, signed)
        if kept:
            self._rounds.publish(signed.timestamp, encode_round(signed))
        return kept

    # --- peers --------------------------------------------------------------------------------

    async def _listen(self, address: str, endpoint: str) -> None:
        """Receive a peer's ballots until cancelled."""
        while True:
            why: BaseException | None = None
            try:
                await self._listen_once(address, endpoint)
            except* (PSymmError, *_GONE) as group:
                why = group
            while isinstance(why, BaseExceptionGroup):
                why = why.exceptions[0]
            if self._limit.allows(endpoint):
                code = why.code if isinstance(why, PSymmError) else Disconnected.code
                log.warning("peer-lost", extra={"signer": address, "code": code})
            await trio.sleep(_REDIAL_S)

    async def _listen_once(self, address: str, endpoint: str) -> None:
        config = self._config
        bounds = Bounds(message_bytes=MOST_ANSWER_BYTES, unread_bytes=None)
        per_s = _BALLOTS * _NS / config.grid_ns
        async with dial_websocket(
            endpoint, bounds=bounds, tls=config.tls, plain=config.plain, private=True
        ) as (socket, _):
            with trio.move_on_after(ASK_S) as late:
                greeting = decode_greeting(await socket.get_message())
            if late.cancelled_caught:
                raise OracleStalled(waited_s=ASK_S)
            if greeting.domain != config.domain:
                raise OracleLied("it signs for another deployment", endpoint=endpoint)
            if greeting.signer != address:
                raise OracleLied("it is another signer", endpoint=endpoint, found=greeting.signer)
            # It names whom we dialled, so that signer cannot use our proof towards another one.
            digest = peer_digest(config.domain, greeting.challenge, address)
            await _send_text(socket, encode_request(FollowBallots(self._key.sign(digest))))
            rate = TokenBucket(per_s, 4 * _BALLOTS, trio.current_time())
            self._statistics.peers += 1
            try:
                while True:
                    ballot = decode_ballot(await socket.get_message())
                    if not rate.take(1, trio.current_time()):
                        raise FloodingPeer("a peer sends too many ballots", endpoint=endpoint)
                    await self._ballots_in.send(ballot)
            finally:
                self._statistics.peers -= 1

    async def _follow_peers(self, newest: int) -> None:
        """Keep the rounds that were agreed without us."""
        config = self._config
        oracle = OracleEndpoints(
            tuple(config.peers.values()),
            config.domain,
            config.signers,
            config.grid_ns,
            plain=config.plain,
            tls=config.tls,
        )
        started = self._now()
        async with (
            open_oracle(oracle, since=started - config.grid_ns, now=self._now) as client,
            trio.open_nursery() as nursery,
        ):
            if newest:
                nursery.start_soon(self._fetch_missed, client, newest, started)
            at = proven = 0
            while True:
                signed = await client.next_after(at)
                at = signed.timestamp
                self._agreement.agreed(at)
                self._statistics.fetched += await self._keep(signed)
                for conflict in client.conflicts[proven:]:
                    # A second round of its moment is kept as a proof.
                    await self._keep(conflict.second)
                proven = len(client.conflicts)

    async def _fetch_missed(self, client: OracleClient, newest: int, until: int) -> None:
        """Fetch the rounds from our newest up to our start."""
        page = _PAGE * self._config.grid_ns
        while newest < until:
            last = min(newest + page, until)
            try:
                found = await client.history(newest + 1, last)
            except OracleUnreachable:
                await trio.sleep(_REDIAL_S)
                continue
            for signed in found:
                self._statistics.fetched += await self._keep(signed)
            newest = last

    # --- followers ----------------------------------------------------------------------------

    async def _serve_connection(
        self,
        request: WebSocketRequest,
        _stream: BoundedStream,
        _address: str,
        place: ConnectionSlot,
    ) -> None:
        try:
            socket = await request.accept()
            await self._serve_request(socket, place)
        except* _GONE:
            pass  # only this follower's connection ends
        except* MessageMalformed as group:
            log.info("request-malformed", extra={"error": str(group.exceptions[0])})

    async def _serve_request(self, socket: WebSocketConnection, place: ConnectionSlot) -> None:
        challenge = secrets.token_bytes(32)
        own = self._key.address
        await _send_text(socket, encode_greeting(Greeting(self._config.domain, own, challenge)))
        with trio.fail_after(ASK_S):
            request = decode_request(await socket.get_message())
        match request:
            case FollowRounds(after):
                await _send_all(socket, self._rounds.after(after))
            case AskHistory(first, last):
                async with aclosing(self._rounds.between(first - 1, last)) as rows:
                    async for _, text in rows:
                        await _send_text(socket, text)
                await _send_text(socket, encode_end(last))
                with trio.move_on_after(ASK_S):
                    await socket.aclose()
            case FollowBallots(signature):
                digest = peer_digest(self._config.domain, challenge, own)
                if not signers_of(digest, [signature]) & set(self._config.signers.addresses):
                    raise MessageMalformed("it is no signer's request")
                place.keep()
                await _send_all(socket, self._ballots.follow())


async def _send_all(socket: WebSocketConnection, texts: AsyncGenerator[str, None]) -> None:
    async with aclosing(texts):
        async for text in texts:
            await _send_text(socket, text)


async def _send_text(socket: WebSocketConnection, text: str) -> None:
    """Raises TooSlowError if the peer does not read, which ends its connection."""
    with trio.fail_after(SEND_S):
        await socket.send_message(text)
