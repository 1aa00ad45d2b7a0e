"""Many sessions on one solver process: none waits for another's flood, silence or lies."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from session_scene import Listener, Scene, in_place, make_terms, scene
from trio.testing import MockClock

from psymm._core import split_frames
from psymm.api import IncomingOrder, IncomingQuoteRequest, Solver
from psymm.messages import QuoteRequest, QuoteResponse, QuoteRespType
from psymm.session.protocol import Event, FrameReceived, SessionStatus
from psymm.session.runtime.ledger import RulebookLedger
from psymm.session.runtime.party import load_session
from psymm.session.runtime.runner import AT_ONCE
from psymm.session.runtime.trader import TraderSession
from psymm.session.runtime.transport import Socket
from psymm.terms import UNIT, Limits
from psymm.transcript.record import Record

OTHERS = 9
FLOOD = 160
LONG = 480
"""Frames of one message: what a second's rate allows twice."""
FAST = Limits(frames_per_second=LONG // 2)


async def traders(stage: Scene, count: int) -> list[TraderSession]:
    """So many sessions on the scene's server, all trading."""
    await stage.nursery.start(stage.server.run)
    made = []
    for _ in range(count):
        heard = Listener()
        client = stage.new_client()
        client._on_event = heard
        await stage.nursery.start(client.run)
        await heard.state(SessionStatus.TRADING)
        made.append(client)
    for listener in stage.desk.listeners:
        await listener.state(SessionStatus.TRADING)
    return made


def ask(client: TraderSession, name: str) -> bytes:
    """Sign a request at once; its bytes, which are on their way when this returns."""
    assert client.runner is not None
    asked = QuoteRequest(quote_req_id=name, symbol="BTC-USD", order_qty=UNIT // 100)
    entry, effects = client.runner.protocol.send(asked, client.runner.clock.now_ns())
    client.runner.perform(effects)
    return entry.frame.raw


def passing(client: TraderSession, name: str) -> bytes:
    """As `ask`, with a message of which any number may be sent: it passes on a quote."""
    assert client.runner is not None
    said = QuoteResponse(quote_resp_id=name, quote_id="none", quote_resp_type=QuoteRespType.PASS)
    entry, effects = client.runner.protocol.send(said, client.runner.clock.now_ns())
    client.runner.perform(effects)
    return entry.frame.raw


def order_of_arrival(stage: Scene) -> list[int]:
    """Which session the solver hears a request or an answer of, one after the other."""
    heard: list[int] = []

    def listen(number: int) -> None:
        def hear(event: Event) -> None:
            if isinstance(event, FrameReceived) and isinstance(
                event.entry.message, QuoteRequest | QuoteResponse
            ):
                heard.append(number)

        stage.desk.listeners[number].also.append(hear)

    for number in range(len(stage.desk.listeners)):
        listen(number)
    return heard


def forging(message: str | bytes) -> list[str | bytes]:
    """Another s in every frame's signature."""
    if isinstance(message, str):
        return [message]
    return [
        b"".join(
            frame.raw[:-40] + bytes([frame.raw[-40] ^ 1]) + frame.raw[-39:]
            for frame in split_frames(message)
        )
    ]


async def test_a_flood_of_messages_lets_the_others_through(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path, limits=FAST) as stage:
        flooder, *others = await traders(stage, 1 + OTHERS)
        heard = order_of_arrival(stage)
        for number in range(FLOOD):
            passing(flooder, f"f{number}")
        for number, other in enumerate(others):
            ask(other, f"o{number}")
        with trio.fail_after(20):
            while len(heard) < FLOOD + OTHERS:  # noqa: ASYNC110
                await trio.sleep(0.1)
        assert max(at for at, who in enumerate(heard) if who) < FLOOD // 2


async def test_a_message_of_many_frames_lets_the_others_through(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """All that a peer's rate allows at once, back to back in one message."""
    async with scene(tmp_path, limits=FAST) as stage:
        flooder, *others = await traders(stage, 1 + OTHERS)
        heard = order_of_arrival(stage)
        wire = stage.wires[0]
        wire.bend = lambda message: []
        flood = b"".join(passing(flooder, f"f{number}") for number in range(LONG))
        await trio.sleep(1)
        with trio.fail_after(20):
            await wire.inner.send(flood)
            for number, other in enumerate(others):
                ask(other, f"o{number}")
            while len(heard) < LONG + OTHERS:  # noqa: ASYNC110
                await trio.sleep(0.1)
        assert max(at for at, who in enumerate(heard) if who) < LONG - 4 * AT_ONCE


class Slow(Solver):
    """Thinks for an hour about whatever its first trader asks."""

    first: bytes | None = None

    async def on_quote_request(self, request: IncomingQuoteRequest) -> None:
        if self.first is None:
            self.first = request.session.custody
        if request.session.custody == self.first:
            await trio.sleep(3600)
        await request.quote(bid=50_000, ask=50_000)

    async def on_order(self, order: IncomingOrder) -> None:
        await order.fill()


async def test_a_callback_that_takes_its_time_keeps_no_other_session_waiting(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path, limits=FAST) as stage:
        maker = Slow(stage.solver, make_terms(limits=FAST), collateral=5_000)
        maker.run_callbacks(stage.nursery)
        stage.server = await maker.server()
        await stage.nursery.start(stage.server.run)
        clients, listeners = [], []
        for _ in range(1 + OTHERS):
            listeners.append(Listener())
            clients.append(stage.new_client())
            clients[-1]._on_event = listeners[-1]
            await stage.nursery.start(clients[-1].run)
            await listeners[-1].state(SessionStatus.TRADING)
        ask(clients[0], "slow")
        await trio.sleep(0.5)
        began = trio.current_time()
        for client in clients[1:]:
            ask(client, "quick")
        for client in clients[1:]:
            assert client.runner is not None
            while client.runner.protocol.record.head(1).seq < 4:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert trio.current_time() - began < 1


async def test_a_custody_that_spoils_a_shared_batch_is_left_alone_and_the_others_share_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path, limits=FAST) as stage:
        liar, *others = await traders(stage, 1 + OTHERS)
        heard = order_of_arrival(stage)
        # From now on, what the liar's connections carry is not what its key signed.
        stage.wires[0].bend = forging

        @asynccontextmanager
        async def crooked() -> AsyncGenerator[Socket, None]:
            async with stage.dial() as socket:
                stage.wires[-1].bend = forging
                yield socket

        liar._dial = crooked
        verifier = stage.solver.verifier
        for round_ in range(3):
            for number, client in enumerate((liar, *others)):
                ask(client, f"r{round_}-{number}")
            await trio.sleep(0.05)
        with trio.fail_after(20):
            while len(heard) < 3 * OTHERS:  # noqa: ASYNC110
                await trio.sleep(0.1)
        assert 0 not in heard
        assert verifier.statistics().refused <= 1
        assert sum(verifier.statistics().sizes.values()) >= 3


async def test_a_custody_s_history_is_replayed_where_it_keeps_no_session_waiting(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it is: every frame is checked and ruled in the journal's thread."""
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.report("e1", await stage.order("o1"))
        await stage.agreed()
        custody = stage.far.agreement.custody
        held = await stage.solver.journal.custody(custody)
        inside = [False]
        replayed: list[bool] = []

        async def thread(work: Callable[..., object], *given: object) -> object:
            inside[0] = True
            try:
                return await in_place(work, *given)
            finally:
                inside[0] = False

        def watched(owner: type, name: str) -> None:
            honest = getattr(owner, name)

            def wrapped(*given: object) -> object:
                replayed.append(inside[0])
                return honest(*given)

            monkeypatch.setattr(owner, name, wrapped)

        stage.solver.journal._run_sync = thread
        watched(Record, "append")
        watched(RulebookLedger, "arrived")
        runner = await load_session(stage.solver, held, lambda event: None)
        assert runner.protocol.record.frames * 2 == len(replayed)
        assert all(replayed)
