"""Lost connections: the application is told, waits grow, and nobody who waits hangs."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from session_scene import Listener, Scene, Wire, proven, scene
from trio.testing import MockClock, memory_stream_pair

sys.path.insert(0, str(Path(__file__).parent.parent / "api"))

from market import market

from psymm.api import BUY
from psymm.errors import Disconnected, PeerLeft, PeerSilent, ServerBusy, TlsRefused, Unreachable
from psymm.messages import BusinessMessageReject, decode_text, encode_text
from psymm.session.protocol import Resumed
from psymm.session.runtime.trader import Backoff, ConnectionLost
from psymm.session.runtime.transport import Socket, over_streams
from psymm.transcript.resumption import nothing_yet

Clock = MockClock


def losses(heard: Listener) -> list[ConnectionLost]:
    return [event for event in heard.events if isinstance(event, ConnectionLost)]


@asynccontextmanager
async def dropping() -> AsyncGenerator[Socket, None]:
    """A server that accepts and drops at once."""
    near, far = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        client, served = await over_streams(nursery, near, far)
        nursery.start_soon(served.aclose)
        yield client
        nursery.cancel_scope.cancel()


def failing(error: Exception) -> Callable[[], object]:
    @asynccontextmanager
    async def dial() -> AsyncGenerator[Socket, None]:
        await trio.lowlevel.checkpoint()
        raise error
        yield  # pragma: no cover

    return dial


async def cut(stage: Scene) -> None:
    await stage.wires[-1].inner.aclose()


@pytest.mark.parametrize(
    "dial",
    [
        dropping,
        failing(Unreachable("no such name")),
        failing(TlsRefused("expired")),
        failing(Disconnected()),
    ],
    ids=["accepts and drops", "no such name", "certificate", "refused"],
)
async def test_waits_grow_while_it_fails_and_start_anew_once_it_stood(
    tmp_path: Path, autojump_clock: Clock, dial: Callable[[], object]
) -> None:
    async with scene(tmp_path) as stage:
        stage.client = stage.new_client()
        await stage.open()
        stage.client._backoff.random.seed(1)
        stage.client._dial = dial  # type: ignore[assignment]
        await cut(stage)
        await trio.sleep(60)
        waits = [event.retry_s for event in losses(stage.heard)]
        assert len(waits) < 25
        for number, wait in enumerate(waits):
            ceiling = min(5.0, 0.2 * 2**number)
            assert ceiling / 2 <= wait <= ceiling
        assert len(set(waits)) == len(waits), "jitter"
        stage.client._dial = stage.dial
        seen = len(stage.heard.events)
        await stage.heard.until(
            lambda event: True if isinstance(event, Resumed) else None, after=seen
        )
        await trio.sleep(30)
        await cut(stage)
        await trio.sleep(5)
        assert losses(stage.heard)[-1].retry_s <= 0.2


async def test_a_server_that_resumes_and_drops_again_is_not_hammered(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.agreed()
        dial = stage.dial

        @asynccontextmanager
        async def flapping() -> AsyncGenerator[Socket, None]:
            async with dial() as socket, trio.open_nursery() as nursery:

                async def drop() -> None:
                    await trio.sleep(0.05)
                    await socket.aclose()

                nursery.start_soon(drop)
                yield socket
                nursery.cancel_scope.cancel()

        stage.client._dial = flapping
        await cut(stage)
        await trio.sleep(120)
        assert len(losses(stage.heard)) < 45


async def test_a_busy_server_is_given_the_time_that_it_asks_for(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        stage.client._dial = failing(  # type: ignore[assignment]
            ServerBusy(status=503, retry_after_s=20)
        )
        await cut(stage)
        await trio.sleep(60)
        busy = [one for one in losses(stage.heard) if isinstance(one.reason, ServerBusy)]
        assert 2 <= len(busy) <= 4
        assert all(one.retry_s > 20 for one in busy)


async def test_the_waits_of_clients_that_lost_one_server_differ() -> None:
    waits = {Backoff().wait_s(8) for _ in range(50)}
    assert len(waits) == 50
    assert all(15 <= wait <= 30 for wait in waits)


async def hang(work: Callable[[], Awaitable[object]]) -> object:
    with trio.fail_after(1_000):
        return await work()


async def test_who_waits_for_a_quote_across_a_break_gets_it_or_an_error(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with market(tmp_path) as trading:
        session, stage = trading.session, trading.stage
        stage.reachable = False
        await cut(stage)
        with pytest.raises(Disconnected, match="nothing was signed"):
            await hang(lambda: session.request_quote("BTC-USD", "0.01", BUY))
        with pytest.raises(Disconnected):
            await hang(lambda: session.order(BUY, "BTC-USD", "0.01", price=50_000))
        with pytest.raises(Disconnected):
            await hang(session.settle)
        stage.reachable = True
        quote = await hang(lambda: session.request_quote("BTC-USD", "0.01", BUY, timeout_s=60))
        assert quote is not None


async def test_a_quote_asked_for_just_before_a_break_ends_in_an_error_in_its_time(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with market(tmp_path) as trading:
        stage = trading.stage
        stage.wires[-1].bend = lambda message: []
        with pytest.raises(PeerSilent):
            await hang(lambda: trading.session.request_quote("BTC-USD", "0.01", BUY))


async def test_an_order_waited_for_across_a_break_ends(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with market(tmp_path) as trading:
        stage, session = trading.stage, trading.session
        stage.wires[-1].bend = lambda message: []
        order = await session.order(BUY, "BTC-USD", "0.01", price=50_000)
        stage.reachable = False
        await cut(stage)
        never = await hang(order.result)
        assert never.status == "expired"  # type: ignore[attr-defined]
        stage.reachable = True
        await trio.sleep(20)
        trading.maker.manner = "fill"
        again = await session.order(BUY, "BTC-USD", "0.01", price=50_000)
        await cut(stage)
        result = await hang(again.result)
        assert result.status == "filled"  # type: ignore[attr-defined]
        await trading.agreed()


async def test_a_peer_that_vanishes_without_a_word_is_found_out_on_both_sides(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        near, far = memory_stream_pair()

        @asynccontextmanager
        async def silent() -> AsyncGenerator[Socket, None]:
            async with trio.open_nursery() as nursery:
                client, _served = await over_streams(nursery, near, far)
                yield client
                nursery.cancel_scope.cancel()

        # The network eats everything: neither side hears of the other's end.
        async def eaten(message: str | bytes) -> None:
            await trio.lowlevel.checkpoint()

        stage.client._dial = silent
        stage.wires[-1].bend = lambda message: []
        assert stage.far._connection is not None
        stage.far._connection.socket.send = eaten  # type: ignore[method-assign]
        await trio.sleep(60)
        assert not stage.far.attached
        assert losses(stage.heard)[0].reason.code == "peer-silent"


async def test_a_peer_that_leaves_on_purpose_is_told_apart_from_one_that_is_lost(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.far.leave("back at noon")
        await trio.sleep(1)
        first = losses(stage.heard)[0]
        assert isinstance(first.reason, PeerLeft)
        assert "back at noon" in str(first.reason)
        await trio.sleep(5)
        order = await stage.order("o1")
        await stage.report("e1", order)
        await stage.agreed()


async def test_a_stranger_who_knows_the_custody_cannot_take_its_connection_over(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.agreed()
        custody = stage.near.agreement.custody
        heads = stage.near.protocol.heads()
        guesses = [
            nothing_yet(custody),
            replace(heads, trader_digest=b"\x01" * 32),
            replace(
                heads,
                trader_seq=heads.trader_seq + 5,
                trader_digest=b"\x01" * 32,
                solver_seq=0,
                solver_digest=custody,
            ),
        ]
        async with stage.dial() as stranger:
            before = await proven(stranger, stage.near)
            for guess in [*guesses, heads]:
                await stranger.send(encode_text(guess))
                answer = decode_text(await stranger.receive())
                assert isinstance(answer, BusinessMessageReject)
        async with stage.dial() as stranger:
            # What it saw the trader sign on another connection is nothing on this one.
            await proven(stranger, stage.near)
            await stranger.send(encode_text(before))
            assert isinstance(decode_text(await stranger.receive()), BusinessMessageReject)
        await trio.sleep(20)
        assert not losses(stage.heard)
        order = await stage.order("o1")
        await stage.report("e1", order)
        await stage.agreed()


async def test_a_trader_that_lost_its_end_takes_over_from_the_half_open_one(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.agreed()
        first = stage.far._connection
        assert first is not None
        async with stage.dial() as second:
            await second.send(encode_text(await proven(second, stage.near)))
            await trio.sleep(1)
            assert first.gone.is_set()
            assert stage.far.attached


async def test_a_frame_that_is_replayed_before_a_resume_ends_no_attempt(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        old = next(each for each in stage.wires[-1].sent if isinstance(each, bytes))
        send = Wire.send

        async def replay(wire: Wire, message: str | bytes) -> None:
            if not wire.sent:
                await wire.inner.send(old)
            await send(wire, message)

        with monkeypatch.context() as replaying:
            replaying.setattr(Wire, "send", replay)
            await stage.wires[-1].inner.aclose()
            await trio.sleep(2)
            assert len(stage.wires) > 1
        await trio.sleep(30)
        assert stage.near.protocol.synced
