"""Peers that cost too much are cut off; another session trades on as if alone."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from rogue import sign_unchecked
from session_scene import Listener, Scene, found, party, scene
from trio.testing import MockClock, lockstep_stream_pair

sys.path.insert(0, str(Path(__file__).parent.parent / "api"))

from market import Market, market

from psymm.api import BUY
from psymm.errors import FloodingPeer, OverBudget, PeerSilent, PSymmError
from psymm.messages import Heartbeat, QuoteRequest, ResendRequest, encode_text
from psymm.messages import TestRequest as AskedForLife
from psymm.nursery import open_block_nursery
from psymm.session.protocol import Disconnect, Resumed, SessionProtocol, SessionStatus
from psymm.session.protocol.budget import MOST_RESENT, OUTGOING_BYTES, PeerRate
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.trader import ConnectionLost, TraderSession
from psymm.session.runtime.transport import Socket, over_streams
from psymm.terms import UNIT
from psymm.wallet import KeyWallet

Clock = MockClock
SECOND = 1_000_000_000


class Throttled(trio.abc.Stream):
    """Reads as it is told: all, a byte now and then, or nothing."""

    def __init__(self, inner: trio.abc.Stream) -> None:
        self.inner = inner
        self.pause_s = 0.0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self.pause_s:
            return bytes(await self.inner.receive_some(max_bytes))
        await trio.sleep(self.pause_s)
        return bytes(await self.inner.receive_some(1))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.inner.aclose()


class Hostile:
    """A second trader of the same solver, with a stream that it can slow down."""

    def __init__(self, trading: Market) -> None:
        self.trading = trading
        self.stream: Throttled | None = None
        self.socket: Socket | None = None
        self.client: TraderSession | None = None

    @asynccontextmanager
    async def dial(self) -> AsyncGenerator[Socket, None]:
        near, far = lockstep_stream_pair()
        self.stream = Throttled(near)
        async with open_block_nursery() as nursery:
            client, served = await over_streams(nursery, self.stream, far)
            self.trading.stage.nursery.start_soon(self.trading.stage.server.connection, served)
            self.socket = client
            try:
                yield client
            finally:
                nursery.cancel_scope.cancel()

    @property
    def far(self) -> SessionRunner:
        """The solver's end of it."""
        assert self.client is not None
        assert self.client.runner is not None
        return self.trading.maker.sessions[self.client.runner.agreement.custody].runner

    def go_deaf(self, pause_s: float) -> None:
        """Read so slowly from now on, and do not mind that nothing comes."""
        assert self.stream is not None
        assert self.client is not None
        assert self.client.runner is not None
        self.stream.pause_s = pause_s
        self.client.runner.protocol.tick = lambda now: []  # type: ignore[method-assign]

    async def say(self, *texts: str) -> None:
        """Until it is cut off."""
        assert self.socket is not None
        with suppress(PSymmError):
            for text in texts:
                await self.socket.send(text)

    async def chatter(self) -> None:
        """It speaks on, so that only its not reading is wrong."""
        while True:
            await self.say(encode_text(Heartbeat()))
            await trio.sleep(2)


@asynccontextmanager
async def open_hostile(path: Path) -> AsyncGenerator[Hostile, None]:
    async with market(path) as trading:
        stage = trading.stage
        async with party(
            KeyWallet.generate(), stage.chain, stage.clock, path / "hostile.db"
        ) as other:
            hostile, heard = Hostile(trading), Listener()
            hostile.client = TraderSession(
                other,
                hostile.dial,
                heard,
                expected=stage.solver.wallet.public_key,
                collateral=2_000_000_000,
            )
            async with trio.open_nursery() as nursery:
                await nursery.start(hostile.client.run)
                await heard.state(SessionStatus.TRADING)
                await trio.sleep(2)
                yield hostile
                nursery.cancel_scope.cancel()


async def trades(trading: Market, times: int, every_s: float) -> None:
    """The healthy session's day: each trade takes no time of the mock clock, as if alone."""
    for _ in range(times):
        began = trio.current_time()
        order = await trading.session.order(BUY, "BTC-USD", "0.001", price=50_000)
        assert (await order.result()).status == "filled"
        assert trio.current_time() - began < 0.01
        await trio.sleep(every_s)
    assert trading.session.losses == 0


@pytest.mark.parametrize("pause_s", [1.0, 1e9], ids=["a byte a second", "never"])
async def test_a_peer_that_does_not_read_is_cut_off_and_nobody_else_notices(
    tmp_path: Path, autojump_clock: Clock, pause_s: float
) -> None:
    async with open_hostile(tmp_path) as hostile:
        far = hostile.far
        standing = far._connection
        assert standing is not None
        hostile.go_deaf(pause_s)
        hostile.trading.stage.nursery.start_soon(hostile.chatter)
        most = 0
        with trio.move_on_after(5):
            for _ in range(100):
                await hostile.say(encode_text(AskedForLife(test_req_id="x" * 60)))
                most = max(most, far.load.outgoing_bytes)
        await trades(hostile.trading, 40, 1)
        assert standing.gone.is_set()
        assert isinstance(standing.reason, PeerSilent | OverBudget)
        assert most <= OUTGOING_BYTES


async def test_more_than_the_budget_for_a_peer_that_does_not_read_cuts_it_at_once(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psymm.session.runtime.peer_connection.OUTGOING_BYTES", 2_000)
    async with open_hostile(tmp_path) as hostile:
        standing = hostile.far._connection
        assert standing is not None
        hostile.go_deaf(1e9)
        with trio.move_on_after(5):
            for _ in range(100):
                await hostile.say(encode_text(AskedForLife(test_req_id="x" * 60)))
        await trades(hostile.trading, 3, 1)
        assert isinstance(standing.reason, OverBudget)


@pytest.mark.parametrize(
    "text",
    [
        encode_text(Heartbeat()),
        encode_text(ResendRequest(begin_seq_no=1, end_seq_no=0)),
        encode_text(AskedForLife(test_req_id="1")),
        '{"MsgType":"0","TestReqID":"' + "x" * 60 + '"}',
    ],
    ids=["heartbeats", "resend requests", "test requests", "long"],
)
async def test_a_flood_of_texts_is_cut_off_and_nobody_else_notices(
    tmp_path: Path, autojump_clock: Clock, text: str
) -> None:
    async with open_hostile(tmp_path) as hostile:
        standing = hostile.far._connection
        assert standing is not None

        async def flood() -> None:
            for _ in range(5_000):
                await hostile.say(text)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            nursery.start_soon(trades, hostile.trading, 5, 1)
        assert standing.gone.is_set()
        assert isinstance(standing.reason, FloodingPeer)


async def test_a_long_text_counts_as_many() -> None:
    rate = PeerRate(200)
    assert rate.text(500_000, 0)
    assert rate.text(500_000, 0)
    assert rate.text(500_000, 0)
    assert not rate.text(500_000, 0)


def until_cut(protocol: SessionProtocol, receive: Callable[[], object]) -> int:
    """How often something may be received before the connection is ended."""
    for count in range(2_000):
        receive()
        if protocol.state.connection is None or protocol.state.connection.closing is not None:
            return count
    return 2_000


async def test_disconnecting_does_not_refill_what_a_peer_may_send(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        protocol = stage.far.protocol
        now = stage.clock.now_ns()
        text = encode_text(Heartbeat())
        first = until_cut(protocol, lambda: protocol.receive_text(text, now))
        assert first <= 2 * protocol.params.frames_per_second
        protocol.disconnected()
        protocol.connected(now, fresh=False)
        assert isinstance(found(protocol.receive_text(text, now), Disconnect).reason, FloodingPeer)
        later = now + SECOND
        protocol.connected(later, fresh=False)
        assert until_cut(protocol, lambda: protocol.receive_text(text, later + 10 * SECOND))


async def test_a_resume_brings_many_frames_again_but_not_without_end() -> None:
    rate = PeerRate(10)
    assert all(rate.frame(0, repeated=True) for _ in range(MOST_RESENT))
    assert not rate.frame(0, repeated=True)
    assert rate.frame(0, repeated=False)
    assert rate.frame(SECOND * 1_000, repeated=True)


async def test_frames_that_are_not_the_next_ones_are_no_resume(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """While heads do not agree, old frames over and over are a flood all the same."""
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.agreed()
        protocol, now = stage.far.protocol, stage.clock.now_ns()
        old = stage.near.protocol.record.entry(0, 1)
        assert old is not None
        protocol.disconnected()
        protocol.connected(now, fresh=False)
        passed = until_cut(protocol, lambda: protocol.receive_binary(old.frame.raw, now))
        assert passed <= 2 * protocol.params.frames_per_second


async def lose(stage: Scene, frames: int) -> None:
    stage.wires[-1].bend = lambda message: [] if isinstance(message, bytes) else [message]
    for number in range(frames):
        await stage.near.send(
            QuoteRequest(quote_req_id=f"r{number}", symbol="BTC-USD", order_qty=UNIT // 100)
        )


@pytest.mark.parametrize(
    ("name", "most"), [("MOST_RESENT", 5), ("MOST_RESENT_BYTES", 1_000)], ids=["frames", "bytes"]
)
async def test_what_is_more_than_one_resend_comes_in_parts_on_one_connection(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, name: str, most: int
) -> None:
    monkeypatch.setattr(f"psymm.session.protocol.gaps.{name}", most)
    async with scene(tmp_path) as stage:
        await stage.open()
        await lose(stage, 23)
        seen = len(stage.heard.events)
        stage.nursery.start_soon(stage.wires[-1].inner.aclose)
        event = await stage.heard.until(
            lambda event: event if isinstance(event, Resumed) else None, after=seen
        )
        assert event.repeated >= 23
        assert sum(isinstance(one, ConnectionLost) for one in stage.heard.events) == 1
        await stage.agreed()


async def test_a_gap_that_is_more_than_one_resend_is_filled_in_parts(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psymm.session.protocol.gaps.MOST_RESENT", 5)
    async with scene(tmp_path) as stage:
        await stage.open()
        await lose(stage, 12)
        stage.wires[-1].bend = lambda message: [message]
        await stage.near.send(
            QuoteRequest(quote_req_id="last", symbol="BTC-USD", order_qty=UNIT // 100)
        )
        await trio.sleep(20)
        assert not any(isinstance(one, ConnectionLost) for one in stage.heard.events)
        await stage.agreed()


async def test_frames_from_too_far_ahead_are_bounded(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psymm.session.runtime.runner.MOST_AHEAD", 3)
    async with scene(tmp_path) as stage:
        await stage.open()
        standing = stage.far._connection
        assert standing is not None
        for _ in range(6):
            sign_unchecked(
                stage.near, Heartbeat(), sending_time=stage.clock.now_ns() + 3_600 * SECOND
            )
        await trio.sleep(1)
        assert isinstance(standing.reason, OverBudget)


async def test_statistics_say_what_each_session_holds(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with market(tmp_path) as trading:
        await trading.session.request_quote("BTC-USD", "0.01", BUY)
        found = trading.stage.server.statistics()
        assert found.admission.standing == 0, "this one came through memory"
        (end,) = found.runners.values()
        assert end.load.pending >= 1
        assert end.load.most_outgoing_bytes == OUTGOING_BYTES
        assert end.load.outgoing_bytes == 0
