"""The network storm: traders and a solver whose connections all pass through a bad network.

    python tests/storms/network_storm.py [--seed N] [--seconds N] [--traders N]

It cuts connections (also one end only), stalls, delays, fragments, puts noise between bytes,
doubles and replays whole messages, old ones too, flips bits, lies about heads, and slips in
garbage. Time is simulated (trio's `MockClock`), streams are in memory, and everything that is
drawn is drawn from the seed, the order of trio's tasks included, so with `--no-flips` one seed is
one storm: the fingerprint at the end says whether two were the same. Journals, rulebook, keys and
frames are real; the chain is the ledger of the session's tests.

This file is long because the weather, the line that it hits and the storm's final count belong to
one seed.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final, TextIO

import trio
from h11 import LocalProtocolError
from storm_load import HARMLESS, Maker, flatten, standing, storm_terms, trade
from trio.testing import MockClock, memory_stream_pair
from trio_websocket import HandshakeError

sys.path.insert(0, str(Path(__file__).parent.parent / "session"))

from session_scene import (
    CHAIN_ID,
    PSYMM,
    REGISTRY,
    START_NS,
    TOKEN,
    ChainCollateral,
    LedgerChain,
    SceneClock,
    party,
)

from psymm._core import Frame, SecretKey, keccak256
from psymm.api import Session, connect
from psymm.errors import Disconnected, HandshakeFailed, PSymmError
from psymm.journal import committer
from psymm.messages import Heartbeat, NewOrderSingle, Resume, decode_text, encode_text
from psymm.nursery import open_block_nursery
from psymm.rulebook import OrderStatus
from psymm.session.protocol import CheckpointInForce, Event, Resumed, Stopped
from psymm.session.runtime.interpreter import BACKLOG
from psymm.session.runtime.ledger import RulebookLedger
from psymm.session.runtime.party import LocalParty
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.solver import SolverServer
from psymm.session.runtime.trader import Backoff, ConnectionLost
from psymm.session.runtime.transport import Socket, WebSocket, over_streams
from psymm.terms import ChainRef
from psymm.transcript.record import Record
from psymm.wallet import KeyWallet

RESENT_FOR_A_LIE: Final = 400
"""Frames of a lane that heads from long ago are answered with, at most so many on average."""
SECOND: Final = 10**9
ENDS: Final = frozenset(
    {
        OrderStatus.FILLED,
        OrderStatus.CANCELLED,
        OrderStatus.DECLINED,
        OrderStatus.EXPIRED,
        OrderStatus.REPLACED,
    }
)
CONNECTING: Final = HARMLESS | {
    "peer-behind",
    "peer-refused",
    "peer-violation",
    "flooding-peer",
    "handshake-refused",
    "terms-refused",
    "wrong-party",
    "bad-introduction",
    "forked",
    "journal-behind",
}
"""Codes that a connection may end with, after what the network did. None stops a custody."""


class StormFailed(Exception):
    """A guarantee was broken; the text says which, and where."""


@dataclass
class Weather:
    """What the network does, drawn from one source; `calm` ends it.

    flips: single bits too, which no TLS would let through. Session keys are the system's random
    bytes, and what a flip in one does depends on them: then one seed is not quite one storm.
    """

    random: Random
    flips: bool = True
    calm: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    trace: Any = field(default_factory=hashlib.sha256)
    log: TextIO | None = None
    began: float = field(default_factory=trio.current_time)

    def chance(self, name: str, likelihood: float) -> bool:
        happens = not self.calm and self.random.random() < likelihood
        self.counts[name] += happens
        return happens

    def note(self, *words: object) -> None:
        line = repr((round(trio.current_time() - self.began, 6), *words))
        self.trace.update(line.encode())
        if self.log is not None:
            print(line, file=self.log)


class Line:
    """One connection through the network: two pumps, either of which can be cut."""

    def __init__(self, weather: Weather) -> None:
        self.weather = weather
        self.near, self._near_inside = memory_stream_pair()
        self._far_inside, self.far = memory_stream_pair()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, self._near_inside, self._far_inside)
            nursery.start_soon(self._pump, self._far_inside, self._near_inside)

    async def _pump(self, source: Any, target: Any) -> None:
        weather, random = self.weather, self.weather.random
        try:
            while True:
                piece = await source.receive_some(random.choice((7, 200, 4096, 65_536)))
                if not piece:
                    break
                if weather.chance("delay", 0.2):
                    await trio.sleep(random.expovariate(8))
                if weather.chance("stall", 0.006):
                    await trio.sleep(random.uniform(1, 60))
                if weather.chance("noise", 0.003):
                    at = random.randrange(len(piece))
                    noise = bytes(random.randrange(128, 256) for _ in range(8))
                    piece = piece[:at] + noise + piece[at:]
                if weather.flips and weather.chance("flip", 0.003):
                    at = random.randrange(len(piece))
                    flipped = piece[at] ^ 1 << random.randrange(8)
                    piece = piece[:at] + bytes([flipped]) + piece[at + 1 :]
                if weather.chance("half open", 0.004):
                    # One end is told; the other hears nothing more and finds out by itself.
                    await source.aclose()
                    await trio.sleep(random.uniform(0, 40))
                    break
                if weather.chance("cut", 0.008):
                    await target.send_all(piece[: random.randrange(len(piece) + 1)])
                    break
                if weather.chance("fragment", 0.1):
                    at = random.randrange(len(piece) + 1)
                    await target.send_all(piece[:at])
                    await trio.sleep(random.expovariate(20))
                    piece = piece[at:]
                await target.send_all(piece)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        await source.aclose()
        await target.aclose()


class Bent:
    """A socket whose messages are doubled and replayed, with garbage between them."""

    def __init__(self, inner: Socket, storm: Storm, name: str) -> None:
        self._inner, self._storm, self._name = inner, storm, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def send(self, message: str | bytes) -> None:
        storm, weather = self._storm, self._storm.weather
        storm.sent(self._name, message)
        old = storm.old.setdefault(self._name, [])
        if len(old) < 500:
            old.append(message)
        elif weather.random.random() < 0.1:
            old[weather.random.randrange(500)] = message
        said = decode_text(message) if isinstance(message, str) else None
        if isinstance(said, Resume) and weather.chance("lie", 0.1):
            message = self._lie(said, message)
        await self._inner.send(message)
        if weather.chance("doubled", 0.02):
            await self._inner.send(message)
        if weather.chance("replayed", 0.03):
            await self._inner.send(weather.random.choice(old))
        if weather.chance("garbage", 0.01):
            await self._inner.send(self._garbage(message))

    def _lie(self, heads: Resume, told: str | bytes) -> str | bytes:
        """Heads with one field altered, by someone on the way (then the signature tells) or by
        their own sender, which signs the lie."""
        random = self._storm.weather.random
        lane, by = random.choice(("trader", "solver")), random.randrange(-3, 4)
        lie = (
            replace(heads, **{f"{lane}_seq": max(0, getattr(heads, f"{lane}_seq") + by)})
            if by
            else replace(heads, **{f"{lane}_digest": bytes(32)})
        )
        runner, signed = self._storm.end_of(self._name, heads.custody), random.random() < 0.5
        connection = None if runner is None else runner.protocol.state.connection
        challenge = None if connection is None else connection.peer_challenge
        if runner is None or challenge is None or heads.signature is None or not signed:
            return encode_text(lie)
        prover = runner.protocol.resume_signer(runner.clock.now_ns())
        return (
            told if prover is None else encode_text(prover.sign(runner.agreement, challenge, lie))
        )

    def _garbage(self, message: str | bytes) -> str | bytes:
        random = self._storm.weather.random
        kind = random.randrange(4)
        if kind == 0:
            return random.randbytes(random.randrange(1, 600))
        if kind == 1:
            return '{"MsgType":"' + "x" * random.randrange(1, 300)
        if isinstance(message, str):
            return message[: random.randrange(len(message))]
        at = random.randrange(len(message))
        if kind == 2:
            return message[:at]
        return message[:at] + bytes([message[at] ^ 1 << random.randrange(8)]) + message[at + 1 :]

    async def receive(self) -> str | bytes:
        return await self._inner.receive()

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        await self._inner.aclose(code, reason)


class Storm:
    """A solver, its traders, the network between them, and what is known of all their frames."""

    def __init__(
        self, seed: int, traders: int, log: TextIO | None = None, *, flips: bool = True
    ) -> None:
        self.seed = seed
        self.weather = Weather(Random(f"{seed}/weather"), flips, log=log)
        self.chain = LedgerChain()
        self.traders = traders
        self.old: dict[str, list[str | bytes]] = {}
        self.messages: Counter[str] = Counter()
        self.digests: dict[tuple[bytes, int, int], bytes] = {}
        self.sessions: dict[int, Session] = {}
        self.connections = 0
        self.resumes = self.checkpoints = 0
        self.waiting = 0
        self.done: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.faults: list[str] = []
        self.server: SolverServer | None = None
        self.maker: Maker | None = None

    # --- what is seen -----------------------------------------------------------------------

    def sent(self, name: str, message: str | bytes) -> None:
        self.weather.note(name, type(message).__name__, len(message))
        if isinstance(message, str):
            heartbeat = isinstance(decode_text(message), Heartbeat)
            self.messages["heartbeat" if heartbeat else "text"] += 1
            return
        self.messages["binary"] += 1
        place = 0
        while place < len(message):
            frame = Frame.parse(message, place)
            place += len(frame.raw)
            key = (frame.custody, frame.lane, frame.seq)
            if self.digests.setdefault(key, keccak256(frame.raw)) != keccak256(frame.raw):
                self.faults.append(f"signed twice: {frame.lane}/{frame.seq}")
            self.messages["frames"] += 1

    def heard(self, index: int, event: Event | ConnectionLost) -> None:
        if isinstance(event, Stopped) and event.error.code not in CONNECTING:
            self.faults.append(f"trader {index} stopped: {event.error!r}")
        if isinstance(event, Resumed):
            self.resumes += 1
            self.weather.note("resumed", index, event.repeated, event.received)
            self.compare(index)
        if isinstance(event, CheckpointInForce):
            self.checkpoints += 1

    def compare(self, index: int) -> None:
        """What both hold is the same, whoever is ahead; so are accounts at equal heads."""
        session = self.sessions.get(index)
        far = None if session is None else self.far(session.custody)
        if session is None or far is None:
            return
        near = session.runner
        for lane in (0, 1):
            common = min(runner.protocol.record.head(lane).seq for runner in (near, far))
            if near.protocol.record.digest(lane, common) != far.protocol.record.digest(
                lane, common
            ):
                self.faults.append(f"trader {index}: lane {lane} differs at {common}")
        ledgers = [_ledger(runner) for runner in (near, far)]
        if ledgers[0].heads == ledgers[1].heads and (
            ledgers[0].account.hash != ledgers[1].account.hash
        ):
            self.faults.append(f"trader {index}: accounts differ at heads {ledgers[0].heads}")

    def far(self, custody: bytes) -> SessionRunner | None:
        assert self.maker is not None
        found = self.maker.sessions.get(custody)
        return None if found is None else found.runner

    def end_of(self, name: str, custody: bytes) -> SessionRunner | None:
        """Whoever says something under that name."""
        side, _, index = name.partition(" ")
        if side == "solver":
            return self.far(custody)
        session = self.sessions.get(int(index))
        return None if session is None or session.custody != custody else session.runner

    def check(self) -> None:
        assert self.maker is not None
        for error in self.maker.lasting:
            if error.code not in CONNECTING:
                self.faults.append(f"the solver: {error!r}")
        self.maker.lasting.clear()
        if self.faults:
            raise StormFailed("; ".join(self.faults[:5]))

    # --- running ----------------------------------------------------------------------------

    @asynccontextmanager
    async def dial(self, index: int) -> AsyncGenerator[Socket, None]:
        assert self.server is not None
        if self.weather.chance("refused", 0.05):
            raise Disconnected("nobody answers", endpoint="memory")
        self.connections += 1
        line = Line(self.weather)
        connected: WebSocket | None = None
        async with _shaken_hands(), open_block_nursery() as nursery:
            nursery.start_soon(line.run)
            try:
                with trio.fail_after(15):
                    async with trio.open_nursery() as handshake:
                        connected, served = await over_streams(nursery, line.near, line.far)
                        handshake.cancel_scope.cancel()
                nursery.start_soon(self.server.connection, Bent(served, self, f"solver {index}"))
            except Exception as failed:
                nursery.cancel_scope.cancel()
                self.done[f"handshake: {type(failed).__name__}"] += 1
            if connected is not None:
                socket = Bent(connected, self, f"trader {index}")
                try:
                    yield socket
                finally:
                    with trio.CancelScope(shield=True):
                        await socket.aclose()
                    nursery.cancel_scope.cancel()
        if connected is None:
            raise Disconnected("no connection came about", endpoint="memory")

    async def keep(self, index: int, client: LocalParty, solver: bytes) -> None:
        """One trader: holds its session through everything, trades, and at last settles."""
        random = Random(f"{self.seed}/trader {index}")
        while True:
            async with AsyncExitStack() as stack:
                known = [
                    held for held in await client.journal.custodies() if held.state != "closed"
                ]
                try:
                    session = await stack.enter_async_context(
                        connect(
                            client,
                            "memory",
                            expected=solver,
                            collateral=2_000,
                            resume=known[0] if known else None,
                            dial=partial(self.dial, index),
                            decimals=6,
                            on_event=partial(self.heard, index),
                            backoff=Backoff(0.25, 8.0, Random(f"{self.seed}/backoff {index}")),
                        )
                    )
                    self.sessions[index] = session
                    await trade(session, random, self.done, 5.0)
                except PSymmError as refused:
                    self.done[refused.code] += 1
                    if refused.code not in CONNECTING:
                        raise
            await trio.sleep(random.uniform(0.1, 2))

    async def watch(self) -> None:
        """Queues stay bounded, all the time."""
        assert self.maker is not None
        while True:
            await trio.sleep(1)
            ends = [session.runner for session in self.sessions.values()]
            ends += [session.runner for session in self.maker.sessions.values()]
            for runner in ends:
                if runner.protocol.error is not None:
                    self.faults.append(f"a custody stopped: {runner.protocol.error!r}")
            self.waiting = max([self.waiting, *(runner.statistics().waiting for runner in ends)])
            self.check()

    async def agree(self, within_s: float = 300) -> None:
        """In peace, wait until every session is flat and both ends stand alike."""
        assert self.maker is not None
        with trio.move_on_after(within_s):
            async with trio.open_nursery() as nursery:
                for session in self.sessions.values():
                    nursery.start_soon(flatten, session)
            while True:
                await trio.sleep(1)
                pairs = [
                    (standing(session.runner), far)
                    for session in self.sessions.values()
                    if (far := self.far(session.custody)) is not None
                ]
                if len(pairs) == self.traders and all(
                    near == standing(far) and near["synced"] and near["flat"] for near, far in pairs
                ):
                    return
        raise StormFailed(
            f"no agreement after {within_s} s of peace:"
            f" {[standing(session.runner) for session in self.sessions.values()]}"
            f" {[standing(session.runner) for session in self.maker.sessions.values()]}"
        )

    async def orders_ended(self, clients: Sequence[LocalParty]) -> Counter[str]:
        """How every order ended that was ever signed; the same on both sides, and for good.

        unknown: rejected, reversed because it rested on a frame that was found late, or forgotten.
        An account keeps its last ended orders alone, and a life that began at a checkpoint has
        none from before (`spec.md` 11). That both accounts are worth the same is checked apart.
        """
        found: Counter[str] = Counter()
        for index, session in self.sessions.items():
            far = self.far(session.custody)
            assert far is not None
            accounts = [_ledger(runner).account for runner in (session.runner, far)]
            covered = session.runner.protocol.record.head(1).peer_seq
            for held in await clients[index].journal.frames(session.runner.agreement.custody):
                said = Record.decoded(Frame.parse(held.raw))
                if not isinstance(said, NewOrderSingle):
                    continue
                ends = {account.status_of(said.cl_ord_id) for account in accounts} - {None}
                if len(ends) > 1 or not ends <= ENDS or (not ends and held.seq > covered):
                    raise StormFailed(f"order {said.cl_ord_id} ended as {ends}")
                found["unknown" if not ends else str(*ends)] += 1
        return found


@asynccontextmanager
async def _shaken_hands() -> AsyncGenerator[None, None]:
    """What the library's reader raises of a malformed handshake, named as `dial_websocket` does."""
    failed = False
    try:
        yield
    except* (LocalProtocolError, HandshakeError):
        failed = True
    if failed:
        raise HandshakeFailed(endpoint="memory")


def _ledger(runner: SessionRunner) -> RulebookLedger:
    assert isinstance(runner.protocol.state.rulebook, RulebookLedger)
    return runner.protocol.state.rulebook


def wallet(seed: int, name: str) -> KeyWallet:
    return KeyWallet(SecretKey.from_bytes(keccak256(f"{seed}/{name}".encode())))


async def blow(
    seed: int, seconds: float, traders: int, home: Path, log: TextIO | None, flips: bool
) -> Storm:
    """One storm from end to end. Raises StormFailed, or whatever broke."""
    storm = Storm(seed, traders, log, flips=flips)
    terms = storm_terms(
        ChainRef(id=CHAIN_ID, psymm=PSYMM, registry=REGISTRY),
        TOKEN,
        START_NS + 365 * 86_400 * SECOND,
    )
    async with AsyncExitStack() as stack:
        clock = SceneClock()
        host = await stack.enter_async_context(
            party(wallet(seed, "solver"), storm.chain, clock, home / "solver.db")
        )
        clients = []
        for index in range(traders):
            own = SceneClock()
            own.offset_ns = storm.weather.random.randrange(-SECOND // 2, SECOND // 2)
            clients.append(
                await stack.enter_async_context(
                    party(wallet(seed, f"trader {index}"), storm.chain, own, home / f"{index}.db")
                )
            )
        nursery = await stack.enter_async_context(open_block_nursery())
        storm.maker = Maker(host, terms, collateral=5_000, random=Random(f"{seed}/maker"))
        storm.maker.run_callbacks(nursery)
        storm.server = await storm.maker.server()
        await nursery.start(storm.server.run)
        async with trio.open_nursery() as load:
            for index, client in enumerate(clients):
                load.start_soon(storm.keep, index, client, host.wallet.public_key)
            load.start_soon(storm.watch)
            await trio.sleep(seconds)
            storm.weather.calm = storm.maker.calm = True
            with trio.move_on_after(600) as opening:
                while len(storm.sessions) < traders:  # noqa: ASYNC110
                    await trio.sleep(1)
            if opening.cancelled_caught:
                raise StormFailed("a session never opened")
            load.cancel_scope.cancel()
        await _peace(storm, clients, host, terms)
        nursery.cancel_scope.cancel()
    return storm


async def _peace(storm: Storm, clients: list[LocalParty], host: LocalParty, terms: Any) -> None:
    """After the storm: come back, go flat, agree, settle."""
    storm.sessions.clear()
    async with AsyncExitStack() as stack:
        for index, client in enumerate(clients):
            (held,) = await client.journal.custodies()
            storm.sessions[index] = await stack.enter_async_context(
                connect(
                    client,
                    "memory",
                    expected=host.wallet.public_key,
                    resume=held,
                    dial=partial(storm.dial, index),
                    decimals=6,
                    on_event=partial(storm.heard, index),
                    backoff=Backoff(0.25, 8.0, Random(f"{storm.seed}/peace {index}")),
                )
            )
        await storm.agree()
        storm.ends = await storm.orders_ended(clients)
        storm.check()
        for session in storm.sessions.values():
            far = storm.far(session.custody)
            assert far is not None
            payouts = session.account.payouts
            settled = await session.settle()
            assert settled.mined.block
            assert sum(payouts) == 7_000_000_000
        for client in clients:
            (held,) = await client.journal.custodies()
            if held.state != "closed":
                raise StormFailed(f"a custody is {held.state} after its settlement")
        funds = [each.collateral for each in (host, *clients)]
        worth = sum(fund.worth() for fund in funds if isinstance(fund, ChainCollateral))
        if worth != 7_000_000_000 * len(clients):
            raise StormFailed(f"{worth} came out of {7_000_000_000 * len(clients)}")


def run(
    seed: int,
    seconds: float,
    traders: int,
    log: TextIO | None = None,
    *,
    flips: bool = True,
) -> Storm:
    """A storm whose every decision follows from the seed, the scheduler's included."""
    scheduler = trio._core._run
    assert hasattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING")
    assert hasattr(scheduler, "_r")
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    # Which commits go through a thread would follow the disk's pace, not the seed.
    assert hasattr(committer, "QUICK_COMMIT_S")
    committer.QUICK_COMMIT_S = float("inf")  # type: ignore[misc]
    with tempfile.TemporaryDirectory(prefix="storm-") as directory, _bare():
        return trio.run(
            partial(blow, seed, seconds, traders, Path(directory), log, flips),
            clock=MockClock(autojump_threshold=0),
        )


@contextmanager
def _bare() -> Iterator[None]:
    """What a nursery wrapped, by itself again."""
    try:
        yield
    except ExceptionGroup as group:
        failed, _ = group.split(StormFailed)
        while isinstance(failed, ExceptionGroup):
            failed = failed.exceptions[0]  # type: ignore[assignment]
        if failed is None:
            raise
        raise failed from None


def show(storm: Storm, seconds: float) -> str:
    messages = dict(storm.messages)
    return (
        f"network storm, SEED={storm.seed}, {seconds:.0f} s: {storm.connections} connections,"
        f" {storm.resumes} resumes, {storm.checkpoints} checkpoints,"
        f" {len(storm.digests)} frames in {messages},"
        f" at most {storm.waiting} turns waiting\n"
        f"  network: {dict(sorted(storm.weather.counts.items()))}\n"
        f"  load: {dict(sorted(storm.done.items()))}\n"
        f"  orders ended: {dict(sorted(storm.ends.items()))}\n"
        f"  fingerprint {storm.weather.trace.hexdigest()[:32]}"
    )


def bounds(storm: Storm) -> None:
    """No endless talk, and no queue that grows. Raises StormFailed."""
    sent, lies = storm.messages["frames"], storm.weather.counts["lie"]
    if sent > 2 * len(storm.digests) + RESENT_FOR_A_LIE * lies:
        raise StormFailed(f"{sent} frames were sent of {len(storm.digests)}, for {lies} lies")
    texts = storm.messages["text"] / max(1, storm.connections + len(storm.digests))
    if texts > 4:
        raise StormFailed(f"{texts:.1f} texts for each connection and frame")
    if storm.waiting > 2 * BACKLOG:
        raise StormFailed(f"{storm.waiting} turns waited for the journal")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600, help="simulated")
    parser.add_argument("--traders", type=int, default=3)
    parser.add_argument("--trace", type=Path, help="write down every message that is sent")
    parser.add_argument(
        "--no-flips", action="store_true", help="no single bits flipped, as TLS would have it"
    )
    given = parser.parse_args()
    log = None if given.trace is None else given.trace.open("w")
    try:
        storm = run(given.seed, given.seconds, given.traders, log, flips=not given.no_flips)
        print(show(storm, given.seconds))
        bounds(storm)
    except StormFailed as failed:
        print(f"SEED={given.seed}: {failed}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
