"""Checkpoints between two ends: offered in good time, answered, and begun at again.

This file is long because an offer of a checkpoint is followed through every crash and disagreement.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from rogue import sign_unchecked
from session_scene import Listener, Scene, found, scene
from test_resume import lost, resumed
from trio.testing import MockClock

from psymm._core import Frame, keccak256
from psymm.errors import AccountsDiffer, LaneAtLimit, NotNow
from psymm.journal.export import export
from psymm.messages import (
    AccountPart,
    Checkpoint,
    ExecType,
    Heartbeat,
    NewOrderSingle,
    QuoteRequest,
    QuoteResponse,
    QuoteRespType,
    decode,
    encode_text,
)
from psymm.rulebook import Lane
from psymm.rulebook.checkpoint import naming
from psymm.session.protocol import (
    CheckpointInForce,
    Disagreed,
    Disconnect,
    Event,
    FrameReceived,
    FrameSent,
    PeerRejected,
    SendFrame,
    SendText,
    StoreFrame,
)
from psymm.session.runtime.archive import archive, prune
from psymm.session.runtime.party import load_session, read_record
from psymm.session.runtime.report import verify_file
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.trader import ConnectionLost
from psymm.terms import UNIT, Limits
from psymm.transcript.checkpoint import Point

Clock = MockClock


async def in_force(listener: Listener, after: int = 0) -> Point:
    return await listener.until(
        lambda event: event.point if isinstance(event, CheckpointInForce) else None, after
    )


def request(n: int) -> QuoteRequest:
    return QuoteRequest(quote_req_id=f"r{n}", symbol="BTC-USD", order_qty=10**16)


def said(runner: SessionRunner) -> list[int]:
    return [
        entry.frame.seq
        for entry in runner.protocol.record
        if entry.frame.lane == runner.lane and isinstance(entry.message, Checkpoint)
    ]


@pytest.mark.parametrize("who", ["near", "far"])
async def test_an_application_asks_for_a_checkpoint_and_both_sides_keep_it(
    tmp_path: Path, autojump_clock: Clock, who: str
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        order = await stage.order("o1")
        await stage.report("e1", order)
        runner: SessionRunner = getattr(stage, who)
        point = await runner.checkpoint()
        other = stage.desk.listeners[0] if who == "near" else stage.heard
        assert await in_force(other) == point
        account = await stage.agreed()
        assert account.checkpoint is not None
        assert account.checkpoint.account_hash == point.account_hash
        for one in (stage.trader, stage.solver):
            ((kept, document),) = await one.journal.checkpoints(runner.agreement.custody)
            assert kept == point
            assert json.loads(document)["positions"]


async def test_the_solver_gets_a_checkpoint_where_the_trader_has_only_heartbeats_to_cover(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        first = await stage.far.checkpoint()
        await stage.near.send(request(1))
        await trio.sleep(3)
        second = await stage.far.checkpoint()
        assert second.solver_seq > first.solver_seq
        held = await stage.trader.journal.frame(stage.near.agreement.custody, 1, second.solver_seq)
        assert held is not None
        assert isinstance(decode(Frame.parse(held.raw).payload), Heartbeat)


def received(stage: Scene) -> list[str | bytes]:
    return stage.wires[-1].sent


async def test_where_nothing_happened_since_the_last_checkpoint_it_is_that_one(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        point = await stage.near.checkpoint()
        await trio.sleep(20)
        frames = len(stage.near.protocol.record)
        assert await stage.near.checkpoint() == point
        assert await stage.far.checkpoint() == point
        assert len(stage.near.protocol.record) <= frames + 1


async def test_both_ask_at_once_and_one_checkpoint_comes_of_it(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.order("o1")
        await trio.sleep(3)
        points: list[Point] = []

        async def ask(runner: SessionRunner) -> None:
            points.append(await runner.checkpoint())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, stage.near)
            nursery.start_soon(ask, stage.far)
        assert points[0] == points[1]
        await stage.agreed()


async def test_a_session_outlives_its_limit_of_frames_by_checkpoints(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """Four times as many frames as the terms allow between two, both lanes busy, with no pause.
    No more of them are held than come between two."""
    limits = Limits(frames=60)
    held: list[int] = []
    async with scene(tmp_path, limits=limits) as stage:
        await stage.open()
        await stage.order("o0")

        async def trader() -> None:
            for n in range(1, 120):
                await stage.order(f"o{n}", quantity=UNIT // 1000)
                passes = QuoteResponse(
                    quote_resp_id=f"p{n}", quote_id="none", quote_resp_type=QuoteRespType.PASS
                )
                await stage.near.send(passes)
                held.extend(len(runner.protocol.record) for runner in (stage.near, stage.far))

        async def solver() -> None:
            for n in range(120):
                order = await stage.desk.listeners[0].until(ordered(f"o{n}"))
                if n < 40:
                    await stage.report(f"e{n}", order)
                else:
                    await stage.report(f"e{n}", order, exec_type=ExecType.REJECTED)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trader)
            nursery.start_soon(solver)
        account = await stage.agreed()
        points = [e for e in stage.heard.events if isinstance(e, CheckpointInForce)]
        assert len(points) >= 4
        assert account.trader_seq > 4 * limits.frames
        assert stage.near.statistics().frames > 6 * limits.frames
        assert max(held) < 2 * limits.frames
        assert all(account.since_checkpoint(lane)[0] < limits.frames for lane in Lane)
        assert not [e for e in stage.heard.events if isinstance(e, PeerRejected)]
        assert not stage.near.protocol.state.rulebook.faults  # type: ignore[attr-defined]


def ordered(name: str) -> Callable[[Event | ConnectionLost], NewOrderSingle | None]:
    def found(event: Event | ConnectionLost) -> NewOrderSingle | None:
        said = event.entry.message if isinstance(event, FrameReceived) else None
        return said if isinstance(said, NewOrderSingle) and said.cl_ord_id == name else None

    return found


async def test_a_peer_that_never_answers_a_right_checkpoint_stops_the_lane_by_name(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path, limits=Limits(frames=20)) as stage:
        await stage.open()
        stage.far.protocol.state.rulebook.answer_due = lambda lane: None  # type: ignore[method-assign]
        stage.far.protocol.state.rulebook.offer_due = lambda lane: None  # type: ignore[method-assign]

        async def until_refused() -> None:
            for n in range(40):
                await stage.near.send(request(n))
                await trio.sleep(0.1)

        with pytest.raises(LaneAtLimit) as caught:
            await until_refused()
        assert caught.value.code == "lane-at-limit"
        assert "court" in str(caught.value)
        assert len(said(stage.near)) == 1, "one offer, which stands"
        await trio.sleep(30)
        await sign_and_wait(stage)
        faults = [rule for _, rule in stage.near.protocol.state.rulebook.faults]  # type: ignore[attr-defined]
        assert faults == ["checkpoint-refused"]


async def sign_and_wait(stage: Scene) -> None:
    """The solver goes on, as if it had nothing to answer."""
    for _ in range(2):
        sign_unchecked(stage.far, Heartbeat())
        await trio.sleep(11)


# --- crashes ------------------------------------------------------------------------------------


def without_checkpoints(message: str | bytes) -> list[str | bytes]:
    is_one = isinstance(message, bytes) and b'"MsgType":"UCP"' in message
    return [] if is_one else [message]


async def test_an_offer_that_was_journalled_but_not_sent_is_answered_after_the_resume(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.order("o1")
        seen = len(stage.heard.events)
        stage.wires[-1].bend = without_checkpoints
        signed = trio.Event()
        stage.heard.also.append(
            lambda event: (
                signed.set()
                if isinstance(event, FrameSent) and isinstance(event.entry.message, Checkpoint)
                else None
            )
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.near.checkpoint)
            await signed.wait()
            assert not said(stage.far)
            await lost(stage)
            await resumed(stage, seen)
            await in_force(stage.desk.listeners[0])
        assert len(said(stage.near)) == len(said(stage.far)) == 1
        await stage.agreed()


async def test_a_process_that_died_before_it_kept_the_checkpoint_finds_it_in_its_frames(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        order = await stage.order("o1")
        await stage.report("e1", order)
        point = await stage.near.checkpoint()
        await stage.agreed()
        await lost(stage, back=False)
        journal, custody = stage.trader.journal, stage.near.agreement.custody
        await journal._write(lambda base: base.execute("DELETE FROM checkpoints"))
        held = await journal.custody(custody)
        assert (await read_record(journal, held.agreement)).starts_at is None
        again = await load_session(stage.trader, held, lambda event: None)
        ((kept, _),) = await journal.checkpoints(custody)
        assert kept == point
        once_more = await load_session(stage.trader, held, lambda event: None)
        assert once_more.protocol.record.starts_at is not None
        assert stage.account(once_more).hash == stage.account(again).hash


async def test_a_session_goes_on_from_its_checkpoint_after_a_restart(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """Pruned on both sides, with a position and an order open, frames in flight, on both ends."""
    async with scene(tmp_path) as stage:
        await stage.open()
        order = await stage.order("o1")
        await stage.report("e1", order)
        await stage.order("o2")
        await trio.sleep(2)
        await stage.near.checkpoint()
        await stage.near.send(request(1))
        before = await stage.agreed()
        await lost(stage, back=False)
        custody = stage.near.agreement.custody
        ends = []
        for one in (stage.trader, stage.solver):
            gone = await prune(one.journal, custody)
            assert gone.frames > 0
            held = await one.journal.custody(custody)
            ends.append(await load_session(one, held, lambda event: None))
        near, far = ends
        for runner in ends:
            assert runner.protocol.record.starts_at is not None
            assert stage.account(runner).hash == before.hash
            assert len(runner.protocol.record) < before.trader_seq + before.solver_seq
        assert near.protocol.record.head(0) == far.protocol.record.head(0)
        converse(near, far)
        assert near.protocol.synced
        assert far.protocol.synced
        _, effects = near.protocol.send(request(2), near.clock.now_ns())
        entry = found(effects, StoreFrame).entry
        far.protocol.receive_binary(entry.frame.raw, far.clock.now_ns())
        assert far.protocol.record.head(0).seq == entry.frame.seq
        with pytest.raises(Exception, match="duplicate-id"):
            near.protocol.send(request(2), near.clock.now_ns())


def converse(near: SessionRunner, far: SessionRunner) -> None:
    """Both protocols connect and hear each other until neither has anything to say."""
    now = near.clock.now_ns()
    waiting = [(far, near.protocol.connected(now, fresh=False))]
    waiting.append((near, far.protocol.connected(now, fresh=False)))
    while waiting:
        to, effects = waiting.pop(0)
        frm = near if to is far else far
        for each in effects:
            if isinstance(each, SendText):
                waiting.append((frm, to.protocol.receive_text(each.text, now)))
            elif isinstance(each, SendFrame):
                waiting.append((frm, to.protocol.receive_binary(each.entry.frame.raw, now)))


async def test_heads_from_before_a_checkpoint_are_an_old_journal_s(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.order("o1")
        await stage.near.checkpoint()
        await stage.agreed()
        await lost(stage, back=False)
        custody = stage.near.agreement.custody
        await prune(stage.trader.journal, custody)
        held = await stage.trader.journal.custody(custody)
        near = await load_session(stage.trader, held, lambda event: None)
        now = near.clock.now_ns()
        challenge = b"\x07" * 32
        near.protocol.connected(now, fresh=False, challenge=challenge)
        heads = near.protocol.heads()
        old = replace(heads, trader_seq=1, trader_digest=b"\x01" * 32)
        prover = stage.far.protocol.resume_signer(now)
        assert prover is not None
        old = prover.sign(near.agreement, challenge, old)
        effects = near.protocol.receive_text(encode_text(old), now)
        assert found(effects, Disconnect).reason.code == "peer-behind"
        assert near.protocol.error is None


# --- what leaves the journal --------------------------------------------------------------------


async def test_what_left_the_journal_and_what_is_left_verify_each_by_itself(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        custody = stage.near.agreement.custody
        journal = stage.trader.journal
        files = []
        for n in range(3):
            order = await stage.order(f"o{n}")
            await stage.report(f"e{n}", order)
            await stage.near.checkpoint()
            await stage.agreed()
            files.append(tmp_path / f"{n}.psymm")
            await archive(journal, custody, files[-1])
        await stage.near.send(request(1))
        account = await stage.agreed()
        last = tmp_path / "last.psymm"
        await export(journal, custody, last)
        reports = [verify_file(path) for path in (*files, last)]
        assert [report.starts_at is None for report in reports] == [True, False, False, False]
        assert reports[-1].account is not None
        assert reports[-1].account.hash == account.hash
        for earlier, later in pairwise(reports):
            assert later.starts_at is not None
            assert earlier.account is not None
            known = earlier.account.checkpoint
            assert known is not None
            assert known.account_hash == later.starts_at.account_hash, "one begins where one ended"


# --- disagreement -------------------------------------------------------------------------------


async def disagreed(listener: Listener) -> Disagreed:
    return await listener.until(lambda event: event if isinstance(event, Disagreed) else None)


@pytest.mark.parametrize("liar", ["near", "far"])
async def test_two_accounts_that_differ_are_named_by_their_first_field_and_trading_goes_on(
    tmp_path: Path, autojump_clock: Clock, liar: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One side's rulebook has lost a cent; each side is told where."""
    async with scene(tmp_path) as stage:
        await stage.open()
        order = await stage.order("o1")
        await stage.report("e1", order)
        await trio.sleep(3)
        runner: SessionRunner = getattr(stage, liar)
        ledger = runner.protocol.state.rulebook
        replay = ledger._replay  # type: ignore[attr-defined]
        named = replay.named()
        assert named.account is not None
        named.account = replace(named.account, fees=named.account.fees + 1)
        replay._sequence.account.fees += 1
        with pytest.raises(AccountsDiffer) as caught:
            await runner.checkpoint()
        assert caught.value.values["field"] == "fees"
        near, far = await disagreed(stage.heard), await disagreed(stage.desk.listeners[0])
        assert near.field == far.field == "fees"
        assert (near.ours, near.theirs) == (far.theirs, far.ours)
        logged = [one for one in caplog.records if one.getMessage() == "accounts-differ"]
        assert len(logged) == 2
        for one in logged:
            assert not {near.ours, near.theirs} & {str(value) for value in vars(one).values()}
        assert stage.account(stage.near).checkpoint is None
        seen = len(stage.desk.listeners[0].events)
        await stage.near.send(request(9))
        await stage.desk.listeners[0].message(QuoteRequest, seen)


async def test_a_forged_hash_is_rejected_and_only_its_liar_s_account_is_asked_for(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.order("o1")
        await trio.sleep(3)
        account = await stage.agreed()
        named = stage.far.protocol.state.rulebook._replay.named().account  # type: ignore[attr-defined]
        lie = replace(naming(named), account_hash=b"\x01" * 32)
        sign_unchecked(stage.far, lie)
        rejected = await stage.desk.listeners[0].until(
            lambda event: event if isinstance(event, PeerRejected) else None
        )
        assert rejected.reject.violation == "wrong-checkpoint"
        assert any("UCA" in text for text in received(stage) if isinstance(text, str))
        assert account.checkpoint is None
        assert await stage.near.checkpoint()


async def test_parts_of_an_account_that_nobody_disputes_are_dropped(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await trio.sleep(3)
        named = stage.near.protocol.state.rulebook._replay.named().account  # type: ignore[attr-defined]
        for content, changes in [
            (named.document(), {}),
            (b"{}", {"part": 2}),
            (b"{}", {"part": 0}),
            (b"{}", {"parts": 10**6}),
            (b"no", {"solver_seq": 10**9}),
            (b"[" * 50_000, {}),
        ]:
            part = {
                "solver_seq": named.solver_seq,
                "trader_seq": named.trader_seq,
                "account_hash": keccak256(content),
                "part": 1,
                "parts": 1,
                "content": content,
            } | changes
            await stage.far.send_text(AccountPart(**part))  # type: ignore[arg-type]
        await trio.sleep(1)
        assert not stage.near.protocol.error
        dispute = stage.near.protocol.state.checkpoints.dispute
        assert dispute is None or not dispute.parts
        await stage.near.send(request(1))


async def test_a_checkpoint_is_not_signed_without_a_connection(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await lost(stage, back=False)
        frames = len(stage.near.protocol.record)
        with trio.move_on_after(5):
            await stage.near.checkpoint()
        assert len(stage.near.protocol.record) == frames
        with pytest.raises(NotNow):
            await stage.near.send(request(1))
