"""Replay is linear whatever the order and lateness, and nobody covers what he cannot have seen
(`spec.md` 2, 66, 67)."""

from __future__ import annotations

from random import Random

import pytest
from rulebook_scene import OPENING, START, Scene, WrittenFrame, limit, make_terms, trade

from psymm.messages import Heartbeat, Message, Reject, encode
from psymm.rulebook import ChainFacts, Fault, Lane, OrderStatus, Replay
from psymm.rulebook import sequence as sequence_module
from psymm.rulebook.inputs import RuledFrame
from psymm.rulebook.live_account import LiveAccount
from psymm.rulebook.rules import MOST_UNCOVERED
from psymm.terms import NANOSECONDS

SECOND = NANOSECONDS
T = make_terms().timeouts.acknowledgement
SKEW = make_terms().timeouts.skew


class Count:
    """How often a frame is ruled."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.rulings = 0
        ruled = sequence_module.judge

        def counted(*given: object) -> object:
            self.rulings += 1
            return ruled(*given)  # type: ignore[arg-type]

        patch.setattr(sequence_module, "judge", counted)


def beat(lane: Lane, seq: int, covers: int, at: int) -> RuledFrame:
    return RuledFrame(lane, seq, covers, at, len(encode(Heartbeat())), Heartbeat())


def started() -> Replay:
    return Replay.start(OPENING, make_terms())


@pytest.mark.parametrize("frames", [150, 300])
def test_many_late_frames_that_one_frame_covers_are_applied_again_once(
    frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the trader's decides one late frame; once that was N^2 / 2 rulings."""
    at, count = started(), Count(monkeypatch)
    for i in range(frames):
        at.step_entry(beat(Lane.SOLVER, i + 1, 0, START + i))
    for i in range(frames):
        at.step_entry(beat(Lane.TRADER, i + 1, i + 1, START + 10 * T + i))
    at.step_entry(beat(Lane.SOLVER, frames + 1, frames, START + 10 * T + frames))
    assert count.rulings <= 3 * frames + 1


@pytest.mark.parametrize("frames", [150, 300])
def test_late_frames_that_are_covered_one_by_one_cost_a_bounded_part_each(
    frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cover comes into effect by a frame of its own, so each is applied again by itself: no
    frame more often than so many may be uncovered in front of it."""
    at, count = started(), Count(monkeypatch)
    for i in range(frames):
        at.step_entry(beat(Lane.SOLVER, i + 1, 0, START + i))
    for i in range(frames):
        late = START + 10 * T + i
        at.step_entry(beat(Lane.TRADER, i + 1, i + 1, late))
        at.step_entry(beat(Lane.SOLVER, frames + i + 1, i + 1, late))
    assert count.rulings <= 3 * frames * (MOST_UNCOVERED + 1)


def test_at_most_so_many_solver_frames_are_uncovered_and_then_only_heartbeats(
    scene: Scene,
) -> None:
    scene.trader(Heartbeat())
    scene.cover()
    covered = scene.account.trader_covers
    while scene.account.solver_seq < covered + MOST_UNCOVERED:
        assert scene.solver(Reject(ref_seq_num=1, violation="x")) is None
    clock = scene.account.clock
    refused = scene.replay.preview(Lane.SOLVER, Reject(ref_seq_num=1, violation="x"), scene.now)
    assert refused is not None
    assert refused.name == "too-many-uncovered"
    scene.violation_of_solver(Reject(ref_seq_num=1, violation="x"), "too-many-uncovered")
    assert scene.solver(Heartbeat()) is None
    assert scene.account.clock == clock, "beyond the limit nothing moves the clock"
    scene.trader(Heartbeat())
    scene.cover()
    assert scene.solver(Reject(ref_seq_num=1, violation="x")) is None


def test_a_frame_of_the_trader_that_is_dated_ahead_waits_for_a_cover_that_can_have_seen_it(
    scene: Scene,
) -> None:
    now = scene.now
    ahead = now + 600 * SECOND
    scene.trader(limit("o", expire=ahead + SECOND), at=ahead)
    rulings = scene.write(Lane.SOLVER, Heartbeat(), at=now + SECOND)
    assert [one.lane for one in rulings] == [Lane.SOLVER], "it is not covered"
    assert rulings[0].violation is not None
    assert rulings[0].violation.name == "covers-ahead"
    assert scene.account.status_of("o") is None
    assert scene.account.clock == now + SECOND
    assert scene.cover(ahead - SKEW)[-1].legal_time == ahead
    assert scene.account.status_of("o") is OrderStatus.PENDING


def test_to_date_back_a_cover_takes_nothing_from_what_it_covers(scene: Scene) -> None:
    """A trader that dates its lane back would else have the choice of every fill: covered by a
    frame from before its time less the skew it would be void."""
    scene.trader(Heartbeat())
    scene.cover()
    back = scene.now
    scene.trade(limit("o", expire=back + 60 * SECOND))
    filled = back + 5 * SECOND
    assert scene.solver(trade("e", "o"), at=filled) is None
    fill = scene.account.solver_seq
    scene.trader(Heartbeat(), at=filled - SKEW - 1)
    rulings = scene.write(Lane.SOLVER, Heartbeat(), at=filled + SECOND)
    assert rulings[0].violation is not None
    assert rulings[0].violation.name == "covers-ahead"
    assert len(scene.account.positions) == 1
    assert scene.account.trader_covers == fill - 1
    scene.trader(Heartbeat(), at=filled + SECOND)
    scene.cover()
    assert len(scene.account.positions) == 1
    assert scene.account.trader_covers >= fill


def test_a_frame_at_just_the_skew_is_covered(scene: Scene) -> None:
    now = scene.now
    scene.trader(limit("o", expire=now + 60 * SECOND), at=now + SECOND + SKEW)
    (ruling,) = scene.cover(now + SECOND)
    assert ruling.violation is None


@pytest.mark.parametrize(("ahead", "void"), [(SKEW, False), (SKEW + 1, True), (10**18, True)])
def test_a_frame_that_the_chain_had_before_its_time_is_void(ahead: int, void: bool) -> None:
    sent = START + 50 * SECOND + ahead
    scene = Scene(facts=ChainFacts(noticed={(0, 3): START + 50 * SECOND})).open_for_trading()
    scene.trader(limit("o", expire=sent + SECOND), at=sent)
    ruling = scene.cover(sent)[-1]
    assert (ruling.violation is not None) is void
    assert scene.account.trader_seq == 3, "it keeps its seq"
    if void and ruling.violation is not None:
        assert ruling.violation.name == "dated-ahead"
        assert scene.account.status_of("o") is None


# --- any history -------------------------------------------------------------------------------


def by_definition(frames: list[WrittenFrame]) -> tuple[object, ...]:
    """The account of frames by what legal time means: each frame's by the first that covers it,
    then all in their order, each ruled once. Without a limit or a date ahead in them."""
    solvers = [one for one in frames if one.lane == Lane.SOLVER]
    traders = [one for one in frames if one.lane == Lane.TRADER]
    covered = solvers[-1].peer_seq
    order: list[WrittenFrame] = []
    for one in solvers:
        done = sum(1 for each in order if each.lane == Lane.TRADER)
        order += traders[done : one.peer_seq]
        order.append(one)

    def legal(one: WrittenFrame) -> int:
        others = traders[:covered] if one.lane == Lane.SOLVER else solvers
        first = next((other for other in others if other.peer_seq >= one.seq), None)
        late = first is not None and first.sending_time > one.sending_time + T
        return one.sending_time if first is None or not late else first.sending_time

    scene = Scene()
    account, named = LiveAccount(scene.account), scene.replay.named()
    for one in order:
        sequence_module.judge(
            account, RuledFrame.read(one), legal(one), scene.replay.inputs, ChainFacts(), named
        )
    return account.snapshot().hash, account.clock


def history(seed: int) -> list[WrittenFrame]:
    """Orders and fills, covered now and then, many of them late."""
    rng = Random(seed)
    scene = Scene().open_for_trading()
    orders: list[str] = []
    for _ in range(rng.randint(5, 60)):
        scene.now += rng.choice([1, SECOND, T // 2, T, 2 * T])
        lane = rng.choice(list(Lane))
        said: Message = Heartbeat()
        if lane is Lane.TRADER and rng.random() < 0.5:
            orders.append(scene.name("o"))
            life = rng.choice([SECOND, T, 5 * T, 50 * T])
            said = limit(orders[-1], expire=scene.now + life)
        elif orders and lane is Lane.SOLVER and rng.random() < 0.6:
            said = trade(scene.name("e"), rng.choice(orders))
        elif rng.random() < 0.1:
            said = Reject(ref_seq_num=1, violation="x")
        heads = scene.replay.heads
        last = [one for one in scene.frames if one.lane == lane][-1]
        # No frame covers what is dated after it: `now` never goes back here.
        scene.write(lane, said, covers=rng.randint(last.peer_seq, heads[lane.other]))
    scene.write(Lane.SOLVER, Heartbeat())
    return scene.frames


@pytest.mark.parametrize("seed", range(25))
def test_every_account_is_what_legal_time_says_by_its_definition(seed: int) -> None:
    frames, at = history(seed), Scene()
    for i, frame in enumerate(frames):
        at.replay.step(frame)
        if frame.lane == Lane.SOLVER:
            expected = by_definition(frames[: i + 1])
            assert (at.account.hash, at.account.clock) == expected


def test_a_fault_that_is_rejected_in_time_is_one_however_late_the_frame(scene: Scene) -> None:
    scene.trader(Heartbeat())
    scene.cover()
    scene.trade(limit("o"))
    bad = scene.solver(trade("e", "o", "1", "2000"))
    assert bad is not None
    seq = scene.account.solver_seq
    scene.trader(Heartbeat(), covers=seq - 1)
    scene.trader(Reject(ref_seq_num=seq, violation=bad.name), at=scene.now + 3 * T)
    scene.cover()
    assert Fault(seq, bad) in scene.replay.faults
    assert not len(scene.account.positions)
