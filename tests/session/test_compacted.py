"""Frames that a checkpoint counts leave memory, and nothing that rests on them is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from key_scene import KeyedLives, of, trade
from rogue import forge, sign_unchecked
from session_scene import SECOND, Lives, Scene, found, proven, scene, verified
from test_key_revocation import filled_after_all, robbed
from test_recovery import NAMES, heads_of_nothing, lose
from test_resume import lost
from test_session_checkpoints import request
from trio.testing import MockClock

from psymm._core import Frame
from psymm.errors import Equivocation, JournalBehind, JournalRestored
from psymm.journal.inspection import inspect
from psymm.journal.repair import repair_journal
from psymm.messages import (
    Checkpoint,
    LaneCode,
    Reject,
    ResendRequest,
    Settlement,
    SettlementKind,
    encode,
    encode_text,
)
from psymm.session.protocol import SessionStatus, Stopped, checkpoints, gaps
from psymm.session.protocol.lifecycle import expire
from psymm.session.runtime.archive import prune
from psymm.session.runtime.idle import IdleEnd
from psymm.session.runtime.party import load_session
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.solver import SolverServer
from psymm.terms import UNIT
from psymm.transcript.agreement import SOLVER, TRADER

Clock = MockClock


async def traded(stage: Scene, name: str) -> None:
    await stage.report(f"e{name}", await stage.order(f"o{name}"))
    await stage.agreed()


async def traded_across_a_checkpoint(stage: Scene) -> None:
    await traded(stage, "1")
    await stage.near.checkpoint()
    await stage.far.checkpoint()
    await traded(stage, "2")


async def lanes(stage: Scene) -> tuple[list[bytes], list[bytes]]:
    """Both lanes of the custody, raw, out of the solver's journal."""
    frames = await stage.solver.journal.frames(stage.far.agreement.custody)
    by_seq = sorted(frames, key=lambda one: one.seq)
    first, second = ([one.raw for one in by_seq if one.lane == lane] for lane in (0, 1))
    return first, second


@pytest.mark.parametrize("again", [False, True])
async def test_frames_that_a_checkpoint_counts_are_resent_from_the_journal_to_a_peer_that_lost_them(
    tmp_path: Path, autojump_clock: Clock, again: bool
) -> None:
    """Whether the process that made the checkpoint still lives, or one began at it (`again`)."""
    async with scene(tmp_path) as stage:
        await stage.open()
        await traded_across_a_checkpoint(stage)
        custody = stage.far.agreement.custody
        ours, theirs = await lanes(stage)
        assert stage.far.protocol.record.entry(TRADER, 4) is None
        await lost(stage, back=False)
        stage.client.leave(JournalRestored())
        stage.reachable = True
        if again:
            stage.server = SolverServer(stage.solver, stage.terms, b"\x07" * 32, stage.desk)
            await stage.nursery.start(stage.server.run)
        got: tuple[dict[int, bytes], dict[int, bytes]] = ({}, {})
        async with stage.dial() as socket:
            nothing = heads_of_nothing(custody)
            await socket.send(encode_text(await proven(socket, stage.near, nothing)))
            for _ in range(4):
                for lane, code in enumerate((LaneCode.TRADER, LaneCode.SOLVER)):
                    begin = max(got[lane], default=0) + 1
                    ask = ResendRequest(begin_seq_no=begin, end_seq_no=0, lane=code)
                    await socket.send(encode_text(ask))
                with trio.move_on_after(2):
                    while True:
                        said = await socket.receive()
                        offset = 0
                        while isinstance(said, bytes) and offset < len(said):
                            frame = Frame.parse(said, offset)
                            got[frame.lane].setdefault(frame.seq, frame.raw)
                            offset += frame.length
        assert [got[TRADER][seq] for seq in sorted(got[TRADER])] == ours
        assert [got[SOLVER][seq] for seq in sorted(got[SOLVER])] == theirs


@pytest.mark.parametrize("lane", [TRADER, SOLVER])
@pytest.mark.parametrize("where", ["lane = 0", "lane = 1", "seq BETWEEN 2 AND 4"])
async def test_a_journal_that_lost_frames_from_before_a_checkpoint_is_repaired_by_the_peer(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, lane: int, where: str
) -> None:
    """In more answers than one, where one does not hold them all."""
    monkeypatch.setattr(gaps, "MOST_REPEATED", 2)
    lives = Lives(tmp_path)
    frames: list[int] = []

    async def first(stage: Scene) -> None:
        await stage.heard.state(SessionStatus.TRADING)
        await stage.desk.listeners[0].state(SessionStatus.TRADING)
        await traded_across_a_checkpoint(stage)
        frames.append(stage.far.protocol.record.frames)

    async def second(stage: Scene) -> None:
        await stage.desk.begun.wait()
        runner = (stage.near, stage.far)[lane]
        while not runner.protocol.synced:  # noqa: ASYNC110
            await trio.sleep(1)
        assert runner.protocol.health == "complete"
        await traded(stage, "3")
        journal = (stage.trader, stage.solver)[lane].journal
        assert len(await journal.frames(runner.agreement.custody)) > frames[0]

    await lives.live(open_first=True, work=first)
    path = tmp_path / NAMES[lane]
    lose(path, where)
    assert repair_journal(path, [], 5) is not None
    await lives.live(open_first=False, work=second)
    assert inspect(path).complete


@pytest.mark.parametrize("pruned", [False, True])
async def test_a_number_that_a_checkpoint_counts_signed_again_is_still_proof(
    tmp_path: Path, autojump_clock: Clock, pruned: bool
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await traded(stage, "1")
        await traded(stage, "2")
        await stage.near.checkpoint()
        await traded(stage, "3")
        custody, journal = stage.far.agreement.custody, stage.solver.journal
        number = 4
        held = await journal.frame(custody, TRADER, number)
        assert held is not None
        assert stage.far.protocol.record.entry(TRADER, number) is None
        twin = forge(stage.near, encode(request(7)), seq=number, covers=2)
        await stage.wires[-1].inner.send(held.raw)
        await trio.sleep(1)
        assert stage.far.protocol.error is None
        if pruned:
            await prune(journal, custody)
        await stage.wires[-1].inner.send(twin.raw)
        stopped = await of(stage.desk.listeners[0], Stopped)
        assert isinstance(stopped, Stopped)
        assert isinstance(stopped.error, Equivocation)
        await trio.sleep(1)
        kept = [] if pruned else [(held.raw, twin.raw)]
        assert await journal.equivocations(custody) == kept
        assert (await journal.custody(custody)).state == "stopped"


async def test_our_own_number_that_a_checkpoint_counts_shown_otherwise_ends_our_signing(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """Somebody has our journal and our key: a frame of ours that we never signed."""
    async with scene(tmp_path) as stage:
        await stage.open()
        await traded(stage, "1")
        await stage.near.checkpoint()
        held = await stage.trader.journal.frame(stage.near.agreement.custody, TRADER, 4)
        assert held is not None
        now = stage.clock.now_ns()
        assert not stage.near.protocol.receive_binary(held.raw, now)
        other = forge(stage.near, encode(request(7)), seq=4, covers=2)
        effects = stage.near.protocol.receive_binary(other.raw, now)
        assert isinstance(found(effects, Stopped).error, JournalBehind)


async def test_what_was_rejected_has_no_effect_after_a_checkpoint_and_a_restart(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """A settlement that breaks a rule, with a deadline a year away, would end trading if it were
    taken for one that may be mined."""
    async with scene(tmp_path) as stage:
        await stage.open()
        deadline = stage.clock.now_ns() // SECOND + 365 * 86_400
        away = bytes([17]) * 32
        proposal = Settlement(
            ust_kind=SettlementKind.SETTLE,
            nullifier0=away,
            nullifier1=bytes([18]) * 32,
            commitment0=away,
            commitment1=bytes([18]) * 32,
            memos=away,
            relayer=bytes(20),
            fee_token=bytes(20),
            fee=0,
            deadline=deadline,
            signature=bytes([17]) * 65,
            trader_payout=1,
            solver_payout=1,
        )
        entry = sign_unchecked(stage.near, proposal)
        reject = await stage.heard.message(Reject)
        assert reject.ref_seq_num == entry.frame.seq
        expire(stage.near.protocol.state.lifecycle, (deadline + 1) * SECOND)
        await stage.far.checkpoint()
        custody = stage.far.agreement.custody
        assert stage.far.protocol.status is SessionStatus.TRADING
        for step in ("unpruned", "pruned"):
            if step == "pruned":
                await prune(stage.solver.journal, custody)
            held = await stage.solver.journal.custody(custody)
            again = await load_session(stage.solver, held, lambda event: None)
            assert entry.frame.seq in [one.frame.seq for one in again.protocol.record.before]
            assert again.protocol.status is SessionStatus.TRADING, step


async def test_a_stolen_fill_after_a_checkpoint_leaves_the_account_as_the_checkpoint_has_it(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """The solver's frames are ruled again without those taken off the record: from the checkpoint
    on."""
    lives = KeyedLives(tmp_path)
    async with lives.live() as stage:
        await trade(stage, "0")
        order = await stage.order("o1", expires_in_s=600)
        await stage.near.checkpoint()
        await trio.sleep(3)
        account = await stage.agreed()
        assert stage.near.protocol.record.entry(TRADER, 4) is None
        assert (await robbed(lives, stage, order)).positions == account.positions
        assert stage.near.protocol.record.knows(TRADER, 1)
        await filled_after_all(stage, order)
        for each in (stage.trader, stage.solver):
            assert await verified(each.journal, stage.near.agreement.custody)


@pytest.mark.parametrize("answered", [True, False])
async def test_a_checkpoint_is_offered_once_many_frames_are_held(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    """However far the terms' limits are; and where the peer does not answer, not with every
    frame."""
    monkeypatch.setattr(checkpoints, "MOST_HELD", 30)
    async with scene(tmp_path) as stage:
        await stage.open()
        if not answered:
            stage.far.protocol.state.rulebook.answer_due = lambda lane: None  # type: ignore[method-assign]
            stage.far.protocol.state.checkpoints.offer_at = 10**9
        for n in range(40):
            await stage.order(f"o{n}", quantity=UNIT // 1000)
        await trio.sleep(5)
        if answered:
            await stage.agreed()
            assert len(stage.near.protocol.record) < 60
            assert len(stage.far.protocol.record) < 60
        offered = [
            entry
            for entry in stage.near.protocol.record
            if entry.frame.lane == TRADER and isinstance(entry.message, Checkpoint)
        ]
        assert answered or len(offered) == 1


def watched(stage: Scene, runner: SessionRunner) -> IdleEnd:
    return IdleEnd(
        runner,
        stage.terms,
        lambda: stage.account(runner),
        trio.lowlevel.checkpoint,
        lambda idle: None,
        lambda failed: None,
    )


async def test_business_that_left_memory_unseen_keeps_a_custody_from_its_idle_end(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        watch = watched(stage, stage.near)
        logged_on = watch.last_business()
        await trio.sleep(1_000)
        sent = await stage.near.send(request(1))
        await trio.sleep(1_000)
        await stage.near.checkpoint()
        assert stage.near.protocol.record.entry(TRADER, sent.frame.seq) is None
        assert watch.last_business() == sent.frame.sending_time > logged_on
        # Who begins at the checkpoint knows no better than that nothing came after it.
        held = await stage.trader.journal.custody(stage.near.agreement.custody)
        again = await load_session(stage.trader, held, lambda event: None)
        assert watched(stage, again).last_business() >= sent.frame.sending_time
