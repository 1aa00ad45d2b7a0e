"""What is durable when: nothing is sent before it, only offers are heard before it, and what is
heard together is written together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio
from session_scene import Scene, scene
from test_resume import Lives, resumed
from trio.testing import MockClock

from psymm.journal.writer import Journal
from psymm.messages import (
    ExecType,
    ExecutionReport,
    NewOrderSingle,
    OrdType,
    PositionEffect,
    Quote,
    QuoteRequest,
    QuoteResponse,
    QuoteRespType,
    Side,
)
from psymm.session.protocol import Event, FrameReceived, ProvisionalFrame, SessionStatus
from psymm.session.runtime.interpreter import BACKLOG
from psymm.terms import UNIT


@contextmanager
def stuck(journal: Journal) -> Iterator[list[Any]]:
    """Nothing reaches the disk in this block; what was to be written is let go at its end."""
    held: list[Any] = []
    journal.write_soon = lambda *write: held.append(write)  # type: ignore[method-assign]
    try:
        yield held
    finally:
        del journal.write_soon  # type: ignore[method-assign]
        for write in held:
            journal.write_soon(*write)


def heard(events: list[Any], event: type, kind: type) -> int:
    return sum(isinstance(one, event) and isinstance(one.entry.message, kind) for one in events)


def request(name: str) -> QuoteRequest:
    return QuoteRequest(quote_req_id=name, symbol="BTC-USD", order_qty=UNIT // 100)


def quoting(stage: Scene) -> Callable[[Event], None]:
    """A solver that quotes as soon as it is asked."""

    async def quote(asked: QuoteRequest) -> None:
        await stage.far.send(
            Quote(
                quote_id=f"q-{asked.quote_req_id}",
                symbol=asked.symbol,
                valid_until_time=stage.clock.now_ns() + 5 * 10**9,
                quote_req_id=asked.quote_req_id,
                bid_px=50_000 * UNIT,
                offer_px=50_000 * UNIT,
            )
        )

    def listen(event: Event) -> None:
        if isinstance(event, ProvisionalFrame) and isinstance(event.entry.message, QuoteRequest):
            stage.nursery.start_soon(quote, event.entry.message)

    return listen


async def test_a_request_and_the_answer_to_it_share_one_commit(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.agreed()
        stage.desk.listeners[0].also.append(quoting(stage))
        before = stage.solver.journal.statistics()
        await stage.near.send(request("r1"))
        await stage.heard.message(Quote)
        after = stage.solver.journal.statistics()
        assert after.commits - before.commits == 1
        assert after.writes - before.writes == 2


async def test_an_answer_is_not_sent_before_it_and_what_it_answers_are_durable(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.agreed()
        solver = stage.desk.listeners[0]
        solver.also.append(quoting(stage))
        with stuck(stage.solver.journal) as held:
            await stage.near.send(request("r1"))
            await trio.sleep(3)
            assert heard(solver.events, ProvisionalFrame, QuoteRequest) == 1
            assert heard(solver.events, FrameReceived, QuoteRequest) == 0
            assert len(held) >= 2
            assert stage.near.protocol.record.head(1).seq < stage.far.protocol.record.head(1).seq
        await stage.heard.message(Quote)
        assert heard(solver.events, FrameReceived, QuoteRequest) == 1
        await stage.agreed()


async def test_a_fill_is_heard_only_once_it_is_durable(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The trader may act on it elsewhere, so it must be able to prove it after any crash."""
    async with scene(tmp_path) as stage:
        await stage.open()
        order = await stage.order("o1")
        await stage.agreed()
        with stuck(stage.trader.journal):
            await stage.report("e1", order)
            await trio.sleep(0.5)
            assert stage.near.protocol.record.head(1) == stage.far.protocol.record.head(1)
            assert not any(
                isinstance(event, ProvisionalFrame | FrameReceived)
                and isinstance(event.entry.message, ExecutionReport)
                for event in stage.heard.events
            )
        await stage.heard.message(ExecutionReport)


async def test_a_solver_that_dies_between_an_order_and_the_disk_is_offered_it_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It had answered already. Neither the order nor the answer was kept, nobody was shown the
    answer, and the second life signs its number for the first time that counts."""
    lives = Lives(tmp_path)
    lost: list[bytes] = []

    async def first(stage: Scene) -> None:
        await stage.heard.state(SessionStatus.TRADING)
        await stage.agreed()
        solver = stage.desk.listeners[0]
        held: list[Any] = []
        stage.solver.journal.write_soon = lambda *write: held.append(write)  # type: ignore[method-assign]
        sent = len(stage.wires[-1].sent)
        await stage.near.send(_order(stage))
        await solver.until(lambda event: True if isinstance(event, ProvisionalFrame) else None)
        head = stage.far.protocol.record.head(1).seq
        assert len(stage.wires[-1].sent) > sent
        stage.nursery.start_soon(_fill, stage)
        await trio.sleep(1)
        signed = stage.far.protocol.record.entry(1, head + 1)
        assert signed is not None
        lost.append(signed.digest)
        assert stage.near.protocol.record.head(1).seq == head
        # What was held dies with the process.

    async def second(stage: Scene) -> None:
        assert (await resumed(stage, 0)).repeated == 1
        await stage.desk.begun.wait()
        solver = stage.desk.listeners[0]
        await solver.until(
            lambda event: (
                True
                if isinstance(event, ProvisionalFrame)
                and isinstance(event.entry.message, NewOrderSingle)
                else None
            )
        )
        await _fill(stage)
        account = await stage.agreed()
        assert len(account.positions) == 1
        assert lost[0] not in [entry.digest for entry in stage.near.protocol.record]

    await lives.live(open_first=True, work=first)
    await lives.live(open_first=False, work=second)


async def test_while_the_disk_is_stuck_nothing_more_is_read_and_the_peer_feels_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.agreed()
        with stuck(stage.solver.journal):
            for number in range(4 * BACKLOG):
                # Of these any number may be sent, while the terms limit open requests.
                passes = QuoteResponse(
                    quote_resp_id=f"p{number}",
                    quote_id="none",
                    quote_resp_type=QuoteRespType.PASS,
                )
                await stage.near.send(passes)
                await trio.sleep(0.01)
            # One for what was read last, a few for timers.
            assert stage.far.statistics().waiting <= BACKLOG + 4
            assert stage.far.protocol.record.head(0).seq < stage.near.protocol.record.head(0).seq
        await stage.agreed()
        await trio.sleep(0.1)
        assert stage.far.statistics().waiting == 0


def _order(stage: Scene) -> NewOrderSingle:
    return NewOrderSingle(
        cl_ord_id="o1",
        symbol="BTC-USD",
        side=Side.BUY,
        order_qty=UNIT // 100,
        ord_type=OrdType.LIMIT,
        position_effect=PositionEffect.OPEN,
        expire_time=stage.clock.now_ns() + 600 * 10**9,
        price=50_000 * UNIT,
    )


async def _fill(stage: Scene) -> None:
    await stage.far.send(
        ExecutionReport(
            exec_id="e1",
            cl_ord_id="o1",
            exec_type=ExecType.TRADE,
            last_px=50_000 * UNIT,
            last_qty=UNIT // 100,
        )
    )
