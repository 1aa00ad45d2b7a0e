"""A custody that has ended is left once its solver has what its trader signed last."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from session_scene import Listener, Lives, Scene, scene
from trio.testing import MockClock

from psymm._core import Frame
from psymm.api import connect, deliver_ended
from psymm.errors import Disconnected, Leaving, SessionClosed
from psymm.journal.codec import JournalledFrame
from psymm.journal.writer import Journal
from psymm.messages import ChainFact, Heartbeat, Message, decode, encode_text
from psymm.session.protocol import Delivered, FrameSent, SessionStatus
from psymm.session.runtime.party import load_session
from psymm.session.runtime.trader import Backoff

Clock = MockClock


def swallow(stage: Scene, kind: type[Message], after: type[Message] | None = None) -> trio.Event:
    """From now on, the trader's frames of that kind are lost on the way, and the connection with
    them. after: only those that come behind its own or its solver's frame of that kind."""
    wire, lost = stage.wires[-1], trio.Event()

    def bend(message: str | bytes) -> list[str | bytes]:
        if lost.is_set():
            return []
        if isinstance(message, bytes) and isinstance(decode(Frame.parse(message).payload), kind):
            ended = after is None or any(
                isinstance(entry.message, after) for entry in stage.near.protocol.record
            )
            if ended:
                lost.set()
                return []
        return [message]

    wire.bend = bend
    return lost


async def frames(journal: Journal) -> list[JournalledFrame]:
    (custody,) = await journal.custodies()
    held = await journal.frames(custody.agreement.custody)
    return sorted(held, key=lambda one: (one.lane, one.seq))


async def alike(stage: Scene) -> bool:
    near, far = await frames(stage.trader.journal), await frames(stage.solver.journal)
    return [one.raw for one in near] == [one.raw for one in far]


@asynccontextmanager
async def trading(stage: Scene) -> AsyncIterator[None]:
    """Both ends trade; left once the trader's session has returned by itself."""
    await stage.nursery.start(stage.server.run)
    async with trio.open_nursery() as nursery:
        await nursery.start(stage.client.run)
        await stage.heard.state(SessionStatus.TRADING)
        await stage.desk.listeners[0].state(SessionStatus.TRADING)
        yield


async def settled(stage: Scene) -> None:
    """A settlement whose last Heartbeat the trader has signed and the network has eaten."""
    await stage.heard.state(SessionStatus.TRADING)
    await stage.desk.listeners[0].state(SessionStatus.TRADING)
    lost = swallow(stage, Heartbeat, after=ChainFact)
    near, _ = stage.both_settle()
    stage.nursery.start_soon(near.settle)
    await lost.wait()


async def test_who_leaves_a_settled_custody_leaves_once_the_solver_has_the_last_frame(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        near, _ = stage.both_settle()

        def leave(event: object) -> None:
            if isinstance(event, FrameSent) and isinstance(event.entry.message, Heartbeat):
                stage.client.leave(Leaving())

        stage.heard.also.append(leave)
        await near.settle()
        await stage.heard.until(lambda event: isinstance(event, Delivered) or None)
        await trio.sleep(1)
        assert len(stage.wires) == 1
        assert not stage.near.attached
        assert await alike(stage)


async def test_the_last_heartbeat_of_a_settled_custody_is_resent_over_a_new_connection(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = Lives(tmp_path)

    async def work(stage: Scene) -> None:
        await settled(stage)
        assert not await alike(stage)
        await stage.wires[-1].inner.aclose()
        await stage.heard.until(lambda event: isinstance(event, Delivered) or None)
        await trio.sleep(1)
        assert await alike(stage)
        assert not await stage.trader.journal.undelivered()

    await lives.live(open_first=True, work=work)


async def test_a_heartbeat_that_answers_another_question_or_none_acknowledges_nothing(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await settled(stage)
        # Nothing more reaches the solver. Its own signs of life still come.
        stage.far._connection.put(encode_text(Heartbeat()))  # type: ignore[union-attr]
        stage.far._connection.put(encode_text(Heartbeat(test_req_id="another")))  # type: ignore[union-attr]
        await trio.sleep(1)
        assert stage.near.attached
        assert stage.near.protocol.final_ack_owed


async def test_a_solver_that_lives_on_and_takes_no_last_frame_is_dialled_anew(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await settled(stage)
        stage.wires[-1].bend = lambda message: (
            [message] if isinstance(message, str) and "ended-" not in message else []
        )
        with trio.fail_after(300):
            await stage.heard.until(lambda event: isinstance(event, Delivered) or None)
        assert len(stage.wires) == 2
        assert await alike(stage)


async def test_a_trader_that_died_with_its_last_frame_unsent_brings_it_in_its_next_life(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = Lives(tmp_path)
    await lives.live(open_first=True, work=settled)
    async with lives.process() as stage:
        (owing,) = await stage.trader.journal.undelivered()
        assert owing.state == "closed"
        assert not await alike(stage)
        await stage.nursery.start(stage.server.run)
        delivered = await deliver_ended(stage.trader, dial=lambda custody: stage.dial)
        assert delivered == 1
        assert await alike(stage)
    async with lives.process() as stage:
        assert not await stage.trader.journal.undelivered()
        assert await deliver_ended(stage.trader, dial=lambda custody: stage.dial) == 0
        assert not stage.wires


@pytest.mark.parametrize("peer", ["away", "mute"])
async def test_a_solver_that_takes_nothing_is_tried_for_a_while_and_again_in_the_next_life(
    tmp_path: Path, autojump_clock: Clock, peer: str
) -> None:
    lives = Lives(tmp_path)
    await lives.live(open_first=True, work=settled)
    async with lives.process() as stage:
        if peer == "away":
            stage.reachable = False
        else:

            async def hear_nothing(socket: Any) -> None:
                with suppress(Disconnected):
                    while True:
                        await socket.receive()

            stage.server.connection = hear_nothing  # type: ignore[method-assign]
        delivered = await deliver_ended(
            stage.trader, dial=lambda custody: stage.dial, backoff=Backoff(0.2, 5.0)
        )
        assert delivered == 0
        assert len(await stage.trader.journal.undelivered()) == 1


async def test_a_custody_that_had_ended_is_not_gone_on_with(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = Lives(tmp_path)
    await lives.live(open_first=True, work=settled)
    async with lives.process() as stage:
        (custody,) = await stage.trader.journal.custodies()
        before = custody.frames
        await stage.nursery.start(stage.server.run)
        stage.heard = Listener()
        client = stage.new_client(resume=custody)
        await client.run()
        assert (await stage.trader.journal.custody(custody.agreement.custody)).frames == before
        assert await alike(stage)


async def test_a_peer_that_connects_to_an_ended_custody_is_told_so_once_it_has_every_frame(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = Lives(tmp_path)
    await lives.live(open_first=True, work=settled)
    async with lives.process() as stage:
        (custody,) = await stage.trader.journal.custodies()
        await stage.nursery.start(stage.server.run)
        expected = stage.solver.wallet.public_key
        for connections in (1, 1):
            with pytest.raises(SessionClosed):
                async with connect(
                    stage.trader,
                    "memory",
                    expected=expected,
                    resume=await stage.trader.journal.custody(custody.agreement.custody),
                    dial=stage.dial,
                    decimals=6,
                ):
                    pass
            assert len(stage.wires) == connections
            assert await alike(stage)


@pytest.mark.parametrize("side", ["trader", "solver"])
async def test_who_died_before_the_journal_had_the_end_has_it_closed_in_the_next_life(
    tmp_path: Path, autojump_clock: Clock, side: str
) -> None:
    lives = Lives(tmp_path)
    await lives.live(open_first=True, work=settled)
    async with lives.process() as stage:
        journal = getattr(stage, side).journal
        (custody,) = await journal.custodies()
        await journal.set_state(custody.agreement.custody, "settling")
        before = await load_session(
            getattr(stage, side), await journal.custody(custody.agreement.custody), stage.heard
        )
        assert before.protocol.status is SessionStatus.CLOSED
        assert (await journal.custody(custody.agreement.custody)).state == "closed"
        assert len(await journal.undelivered()) == (side == "trader")


async def test_the_proof_that_ends_a_custody_and_its_end_are_kept_together(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        journal, custody = stage.trader.journal, stage.near.agreement.custody
        first, second = (one.frame for one in list(stage.near.protocol.record)[:2])
        before = journal.statistics().writes
        await journal.write(
            journal.to_keep_evidence(custody, first.lane, first.raw, second.raw),
            journal.to_set_state(custody, "stopped", "equivocation: two frames"),
        )
        assert journal.statistics().writes == before + 1
        assert await journal.equivocations(custody)
        kept = await journal.custody(custody)
        assert (kept.state, kept.reason) == ("stopped", "equivocation: two frames")
