"""A client of oracle signers: follows their rounds and believes none of them.

What it believes is a round that a threshold of the signers signed, on the grid, not dated ahead of
our clock. It verifies that itself, so it does not matter which signer, or who in between, sent it.
It connects to several signers at once: one that is down, stalls or withholds rounds delays nothing
as long as another one answers.

    signer ── round ──► verified? ──► recent rounds by moment ──► newest, wait_newer, next_after
    (each)                 └─ no: disconnected, and dialled again later and later

A connection is ended by its first fault: a round that too few signed, one that is malformed, off
the grid, dated ahead or out of order, a message that is too long, or silence. Rounds of one
connection come in rising order, so a signer cannot keep us busy with old ones.

Two valid rounds of one moment with different roots prove that signers signed twice. The first one
stays. The second is kept as a `RoundConflict`, which a party should see before it goes to court.

It asks for whole rounds only, never for a feed (`spec.md` 42).
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection
from wsproto.utilities import LocalProtocolError

from psymm.errors import Disconnected, PSymmError
from psymm.nursery import open_block_nursery
from psymm.oracle.rounds import (
    OracleError,
    SignedRound,
    SignerSet,
    decode_round,
    encode_round,
)
from psymm.oracle.wire import (
    MOST_ANSWER_BYTES,
    AskHistory,
    FollowRounds,
    HistoryEnd,
    Request,
    decode_answer,
    decode_greeting,
    encode_request,
)
from psymm.sockets.bounded import Bounds
from psymm.sockets.dialling import dial_websocket

log = logging.getLogger(__name__)

RECENT: Final = 600
"""Rounds that are kept in memory: ten minutes of a grid of one second, about 5 MB of 256 feeds."""
MOST_HISTORY: Final = 3600
"""Steps of the grid that one call of `OracleClient.history` may span."""
_MOST_CONFLICTS: Final = 16
_FIRST_RETRY_S: Final = 0.5
_LAST_RETRY_S: Final = 30.0
_AHEAD_NS: Final = 2 * 10**9
"""How far a round may be ahead of our clock."""
_BOUNDS: Final = Bounds(
    message_bytes=MOST_ANSWER_BYTES,
    # What we have not taken waits in the library's queue of a few messages, and then at the signer.
    unread_bytes=None,
    # Rounds of few feeds are short, and history comes as fast as we read it.
    small_frames=5_000,
)
_GONE: Final = (ConnectionClosed, LocalProtocolError, trio.BrokenResourceError)


class OracleLied(OracleError):
    """A signer sent what no honest one sends."""

    code = "oracle-lied"
    what = "the signer sent a round that is not valid here"
    remedy = (
        "Nothing of it was used; other signers are asked. If all do so, check the configuration"
    )


class OracleStalled(OracleError):
    code = "oracle-stalled"
    what = "the signer sent nothing for too long"
    remedy = "It is dialled again; other signers are asked meanwhile"


class OracleUnreachable(OracleError):
    """No signer gave an answer."""

    code = "oracle-unreachable"
    what = "none of the oracle's signers answered"
    remedy = "Check the network and the signers' endpoints"


@dataclass(frozen=True, slots=True)
class OracleEndpoints:
    """Which oracle to follow, and where.

    Attributes:
        endpoints: ws:// or wss:// addresses of its signers; one is enough, more are better.
        domain: the deployment's domain separator, 32 bytes.
        grid_ns: the step of the grid.
        plain: whether ws:// may leave this machine.
        private: whether endpoints may be on this machine or a local network.
        tls: verifies wss:// servers; None: the system's authorities.
        stall_s: a connection that brings nothing for so long is given up.
    """

    endpoints: Sequence[str]
    domain: bytes
    signers: SignerSet
    grid_ns: int = 10**9
    plain: bool = False
    private: bool = True
    tls: ssl.SSLContext | None = None
    stall_s: float = 10.0


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """One endpoint, as seen from here.

    Attributes:
        newest: the moment of the newest round that it sent; 0 if none.
        rounds: valid rounds that it sent.
        faults: how often it was disconnected.
        fault: the last reason; None if there was none.
    """

    endpoint: str
    connected: bool = False
    newest: int = 0
    rounds: int = 0
    faults: int = 0
    fault: PSymmError | None = None


@dataclass(frozen=True, slots=True)
class RoundConflict:
    """Two valid rounds of one moment with different roots, and who signed both."""

    first: SignedRound
    second: SignedRound
    signers: frozenset[str]


@asynccontextmanager
async def open_oracle(
    oracle: OracleEndpoints,
    *,
    since: int | None = None,
    now: Callable[[], int] = time.time_ns,
) -> AsyncGenerator[OracleClient, None]:
    """A client that follows rounds until the block ends.

    since: rounds after this moment are fetched, too; None: only those from now on.
    Raises nothing of its own: signers that cannot be reached are dialled again.
    """
    client = OracleClient(oracle, since=since, now=now)
    async with open_block_nursery() as nursery:
        for endpoint in dict.fromkeys(oracle.endpoints):
            nursery.start_soon(client.follow, endpoint)
        try:
            yield client
        finally:
            nursery.cancel_scope.cancel()


class OracleClient:
    """Rounds of one oracle. Made by `open_oracle`. Several tasks may use it.

    Attributes:
        conflicts: proofs that signers signed two roots of one moment.
    """

    def __init__(
        self, oracle: OracleEndpoints, *, since: int | None, now: Callable[[], int]
    ) -> None:
        self.conflicts: list[RoundConflict] = []
        self._oracle = oracle
        self._now = now
        self._since = now() - oracle.grid_ns if since is None else since
        # Texts, not objects: they take a sixth of the memory.
        self._recent: dict[int, str] = {}
        self._newest: SignedRound | None = None
        self._arrived = trio.Event()
        self._health = {one: EndpointHealth(one) for one in oracle.endpoints}

    @property
    def newest(self) -> SignedRound | None:
        """The newest round; None if there is none yet. Its age is for the caller to judge."""
        return self._newest

    @property
    def health(self) -> list[EndpointHealth]:
        return list(self._health.values())

    async def wait_newer(self, timestamp: int) -> SignedRound:
        """The newest round, once it is later than `timestamp`. Cancelled: raises Cancelled."""
        while self._newest is None or self._newest.timestamp <= timestamp:
            await self._arrived.wait()
        return self._newest

    async def next_after(self, timestamp: int) -> SignedRound:
        """The first round after `timestamp` that is here, once there is one. Called with each
        result's moment it hands out rounds in order, of the last RECENT ones; `history` has what
        came later than a newer one. Cancelled: raises Cancelled."""
        while True:
            found = min((at for at in self._recent if at > timestamp), default=None)
            if found is not None:
                return decode_round(self._recent[found])
            await self._arrived.wait()

    async def history(self, first: int, last: int) -> list[SignedRound]:
        """The rounds of a range, both ends included, oldest first, as all signers together have
        them. A moment without a round was agreed by nobody, or is kept by nobody who answered.

        Raises OracleUnreachable if no signer answered to the end, ValueError for a range of more
        than MOST_HISTORY steps. Cancelled: raises Cancelled.
        """
        if not 0 <= last - first <= MOST_HISTORY * self._oracle.grid_ns:
            raise ValueError(f"a range has at most {MOST_HISTORY} steps of the grid")
        found: dict[int, SignedRound] = {}
        answered = 0

        async def ask(endpoint: str) -> None:
            nonlocal answered
            try:
                await self._collect(endpoint, AskHistory(first, last), found)
                answered += 1
            except* (PSymmError, *_GONE) as group:
                self._note_fault(endpoint, group)

        async with trio.open_nursery() as nursery:
            for endpoint in dict.fromkeys(self._oracle.endpoints):
                nursery.start_soon(ask, endpoint)
        if not answered:
            raise OracleUnreachable(endpoints=len(self._oracle.endpoints))
        return [found[at] for at in sorted(found)]

    # --- one endpoint -------------------------------------------------------------------------

    async def follow(self, endpoint: str) -> None:
        """Follow one signer until cancelled. `open_oracle` runs it for each."""
        retry_s = _FIRST_RETRY_S
        while True:
            before = self._health[endpoint].rounds
            fault: Exception | None = None
            try:
                await self._follow_once(endpoint)
            except* (PSymmError, *_GONE) as group:
                fault = self._note_fault(endpoint, group)
            # A signer that sent rounds and then went away may be back at once.
            if self._health[endpoint].rounds > before and not isinstance(fault, OracleLied):
                retry_s = _FIRST_RETRY_S
            await trio.sleep(retry_s)
            retry_s = min(retry_s * 2, _LAST_RETRY_S)

    async def _follow_once(self, endpoint: str) -> None:
        oldest = self._now() - RECENT * self._oracle.grid_ns
        # It goes on where it left off, so what it sent while it was away from us comes, too.
        last = max(self._since, self._health[endpoint].newest, oldest)
        async with self._open(endpoint) as socket:
            await self._send(socket, FollowRounds(last))
            self._update(endpoint, connected=True)
            try:
                while True:
                    answer = await self._receive(socket)
                    if isinstance(answer, HistoryEnd) or answer.timestamp <= last:
                        raise OracleLied("it sends rounds out of order")
                    self._take(answer)
                    last = answer.timestamp
                    count = self._health[endpoint].rounds + 1
                    self._update(endpoint, newest=last, rounds=count)
            finally:
                self._update(endpoint, connected=False)

    async def _collect(
        self, endpoint: str, asked: AskHistory, found: dict[int, SignedRound]
    ) -> None:
        async with self._open(endpoint) as socket:
            await self._send(socket, asked)
            last = asked.first - 1
            while True:
                answer = await self._receive(socket)
                if isinstance(answer, HistoryEnd):
                    return
                if not last < answer.timestamp <= asked.last:
                    raise OracleLied("it sends rounds out of order")
                last = answer.timestamp
                known = found.get(last)
                if known is None or known.round != answer.round:
                    self._check(answer)
                    found[last] = self._first_of(known, answer)

    @asynccontextmanager
    async def _open(self, endpoint: str) -> AsyncGenerator[WebSocketConnection, None]:
        """A connection to a signer of this deployment."""
        oracle = self._oracle
        async with dial_websocket(
            endpoint, bounds=_BOUNDS, tls=oracle.tls, plain=oracle.plain, private=oracle.private
        ) as (socket, stream):
            try:
                with _limit(oracle.stall_s):
                    greeting = decode_greeting(await socket.get_message())
                if greeting.domain != oracle.domain:
                    raise OracleLied("it signs for another deployment")
                yield socket
            except ConnectionClosed:
                # Our own bounds closed the socket: their fault says why, ConnectionClosed does not.
                if stream.fault is not None:
                    raise stream.fault from None
                raise

    async def _send(self, socket: WebSocketConnection, request: Request) -> None:
        with _limit(self._oracle.stall_s):
            await socket.send_message(encode_request(request))

    async def _receive(self, socket: WebSocketConnection) -> SignedRound | HistoryEnd:
        with _limit(self._oracle.stall_s):
            text = await socket.get_message()
        try:
            return decode_answer(text)
        except OracleError as wrong:
            raise OracleLied(f"its message is malformed: {wrong}") from None

    def _update(self, endpoint: str, **changes: Any) -> None:
        self._health[endpoint] = replace(self._health[endpoint], **changes)

    def _note_fault(self, endpoint: str, group: BaseExceptionGroup[Exception]) -> Exception:
        """Keep and return why a connection ended."""
        why: BaseException = group
        while isinstance(why, BaseExceptionGroup):
            why = why.exceptions[0]
        fault = why if isinstance(why, PSymmError) else Disconnected(endpoint=endpoint)
        self._update(endpoint, faults=self._health[endpoint].faults + 1, fault=fault)
        log.info("oracle-connection-ended", extra={"endpoint": endpoint, "code": fault.code})
        return fault

    # --- rounds -------------------------------------------------------------------------------

    def _take(self, signed: SignedRound) -> None:
        """Verify a round and keep it. Raises OracleLied."""
        at, text = signed.timestamp, self._recent.get(signed.timestamp)
        if text is not None:
            known = decode_round(text)
            if known.round != signed.round:
                self._check(signed)
                self._first_of(known, signed)
            return
        self._check(signed)
        self._recent[at] = encode_round(signed)
        if len(self._recent) > RECENT:
            del self._recent[min(self._recent)]
        if self._newest is None or at > self._newest.timestamp:
            self._newest = signed
        self._arrived.set()
        self._arrived = trio.Event()

    def _check(self, signed: SignedRound) -> None:
        """Raises OracleLied unless the round is one that may be believed."""
        if signed.timestamp > self._now() + _AHEAD_NS:
            raise OracleLied("a round is dated ahead of our clock", timestamp=signed.timestamp)
        try:
            signed.round.check_grid(self._oracle.grid_ns)
            signed.check(self._oracle.domain, self._oracle.signers)
        except OracleError as wrong:
            raise OracleLied(f"a round is not valid: {wrong}") from None

    def _first_of(self, known: SignedRound | None, other: SignedRound) -> SignedRound:
        """The round that is kept of two valid ones of a moment. The other one proves a fault."""
        if known is None:
            return other
        both = known.check(self._oracle.domain, self._oracle.signers) & other.check(
            self._oracle.domain, self._oracle.signers
        )
        seen = {(one.first.timestamp, one.second.root) for one in self.conflicts}
        if (other.timestamp, other.root) not in seen and len(self.conflicts) < _MOST_CONFLICTS:
            self.conflicts.append(RoundConflict(known, other, frozenset(both)))
            log.error(
                "oracle-conflict",
                extra={"timestamp": other.timestamp, "signers": ", ".join(sorted(both))},
            )
        return known


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raises OracleStalled if the block takes longer."""
    with trio.move_on_after(seconds) as late:
        yield
    if late.cancelled_caught:
        raise OracleStalled(waited_s=seconds)
