"""A peer with a true key that dates its frames ahead, or cites what no chain has (`spec.md` 65 to
67): what it can do to the other side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from rogue import fall_silent, forge, sign_unchecked, speak_again
from session_scene import SECOND, Lives, Scene, scene
from trio.testing import MockClock

from psymm.errors import ClockBehind, Refused
from psymm.messages import (
    ChainFact,
    CollAsgnRespType,
    CollateralResponse,
    ExecType,
    ExecutionReport,
    FactKind,
    Heartbeat,
    Logout,
    Message,
    NewOrderSingle,
    OrdType,
    PositionEffect,
    Quote,
    QuoteRequest,
    Reject,
    Side,
    encode,
)
from psymm.rulebook.rules import MOST_UNCOVERED
from psymm.session.protocol import CitationWaits, HeldBack, OwnClockBehind, SessionStatus
from psymm.session.protocol.chain_facts import CITED_AHEAD, Fact
from psymm.session.runtime.runner import SessionRunner
from psymm.terms import UNIT
from psymm.transcript.record import RecordedFrame

SKEW = 2 * SECOND
DAY = 86_400 * SECOND
NOBODYS = b"\x00" * 31 + b"\x01"


def rejected(runner: SessionRunner, entry: RecordedFrame) -> str | None:
    """The rule for which `runner` rejects a frame of its peer."""
    for each in runner.protocol.record:
        said = each.message
        ours = each.frame.lane == runner.lane
        if ours and isinstance(said, Reject) and said.ref_seq_num == entry.frame.seq:
            return said.violation
    return None


def covered(runner: SessionRunner, entry: RecordedFrame) -> bool:
    return runner.protocol.record.head(runner.lane).peer_seq >= entry.frame.seq


def cites(block: int, *, transaction: bytes = bytes(32), nullifier: bytes = NOBODYS) -> ChainFact:
    return ChainFact(
        fact_kind=FactKind.SPENT,
        block_number=block,
        transaction_hash=transaction,
        nullifier=nullifier,
    )


def sides(stage: Scene, lane: int) -> tuple[SessionRunner, SessionRunner]:
    """The rogue in a lane, and the honest other."""
    return (stage.near, stage.far) if lane == 0 else (stage.far, stage.near)


def business(stage: Scene, runner: SessionRunner, name: str, at: int | None = None) -> Message:
    if runner.lane == 0:
        return QuoteRequest(quote_req_id=name, symbol="BTC-USD", order_qty=UNIT // 100)
    until = (stage.clock.now_ns() if at is None else at) + 20 * SECOND
    return Quote(quote_id=name, symbol="BTC-USD", valid_until_time=until, offer_px=50_000 * UNIT)


# --- dates --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [SKEW + 1, 29 * DAY])
async def test_a_heartbeat_dated_ahead_leaves_its_trader_free_to_close(
    tmp_path: Path, autojump_clock: MockClock, ahead: int
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.report("e1", await stage.order("o1"))
        await stage.agreed()
        clock = stage.account(stage.near).clock
        now = stage.clock.now_ns()
        held = sign_unchecked(stage.far, Heartbeat(), sending_time=now + ahead + SECOND)
        await stage.heard.until(lambda event: isinstance(event, HeldBack) or None)
        account = stage.account(stage.near)
        assert account.clock < now + SKEW + SECOND
        assert account.clock >= clock
        (position,) = account.positions.values()
        await stage.near.send(
            NewOrderSingle(
                cl_ord_id="c",
                symbol="BTC-USD",
                side=Side.SELL,
                order_qty=position.quantity,
                ord_type=OrdType.LIMIT,
                position_effect=PositionEffect.CLOSE,
                expire_time=now + 30 * SECOND,
                price=49_000 * UNIT,
                position_id=position.position_id,
            )
        )
        assert not covered(stage.near, held)


@pytest.mark.parametrize("lane", [0, 1])
@pytest.mark.parametrize(
    "said",
    [
        Logout(),
        Heartbeat(),
        cites(1),
        b'{"MsgType":"ZZ"}',
        Reject(ref_seq_num=1, violation="x"),
        CollateralResponse(
            coll_resp_id="1",
            coll_asgn_resp_type=CollAsgnRespType.REJECTED,
            commitments=(),
        ),
    ],
    ids=lambda said: said.MSG_TYPE if isinstance(said, Message) else "raw",
)
async def test_what_is_dated_into_next_year_changes_nothing_whatever_it_says(
    tmp_path: Path, autojump_clock: MockClock, said: Message | bytes, lane: int
) -> None:
    """And all after it with it; the other side still signs, and can log out."""
    async with scene(tmp_path) as stage:
        await stage.open()
        rogue, honest = sides(stage, lane)
        fall_silent(rogue)
        await trio.sleep(2)
        before = stage.account(honest)
        ahead = stage.clock.now_ns() + 29 * DAY
        first = sign_unchecked(rogue, said, sending_time=ahead)
        sign_unchecked(rogue, business(stage, rogue, "b1"), sending_time=ahead)
        await trio.sleep(5)
        assert stage.account(honest).hash == before.hash
        assert honest.protocol.status is SessionStatus.TRADING
        await honest.send(business(stage, honest, "b2"))
        assert not covered(honest, first)
        assert rejected(honest, first) is None
        await honest.log_out("its clock is wrong")
        assert not covered(honest, first)


@pytest.mark.parametrize("lane", [0, 1])
async def test_held_frames_outlive_a_restart_and_take_effect_at_their_time(
    tmp_path: Path, autojump_clock: MockClock, lane: int
) -> None:
    lives = Lives(tmp_path)
    ahead: list[RecordedFrame] = []

    async def first(stage: Scene) -> None:
        await stage.heard.state(SessionStatus.TRADING)
        await stage.desk.listeners[0].state(SessionStatus.TRADING)
        rogue, _ = sides(stage, lane)
        fall_silent(rogue)
        at = stage.clock.now_ns() + 60 * SECOND
        ahead.append(sign_unchecked(rogue, business(stage, rogue, "b1", at), sending_time=at))
        ahead.append(sign_unchecked(rogue, business(stage, rogue, "b1", at), sending_time=at))
        await trio.sleep(5)

    async def second(stage: Scene) -> None:
        while not (stage.client.runner and stage.near.protocol.synced and stage.desk.ends):  # noqa: ASYNC110
            await trio.sleep(0.1)
        _, honest = sides(stage, lane)
        await trio.sleep(10)
        assert not covered(honest, ahead[0])
        assert honest.protocol.held_back == 2
        await trio.sleep(60)
        assert covered(honest, ahead[1])
        assert rejected(honest, ahead[0]) is None
        assert rejected(honest, ahead[1]) == "duplicate-id"

    await lives.live(open_first=True, work=first)
    await lives.live(open_first=False, work=second)


async def test_a_fill_dated_ahead_fills_at_its_time_and_no_sooner(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        order = await stage.order("o1", expires_in_s=600)
        at = stage.clock.now_ns() + 30 * SECOND
        fill = ExecutionReport(
            exec_id="e1",
            cl_ord_id="o1",
            exec_type=ExecType.TRADE,
            last_px=order.price,
            last_qty=order.order_qty,
        )
        sign_unchecked(stage.far, fill, sending_time=at)
        await trio.sleep(25)
        assert not len(stage.account(stage.near).positions)
        await trio.sleep(10)
        assert len((await stage.agreed()).positions) == 1


@pytest.mark.parametrize("lane", [0, 1])
async def test_what_is_held_back_is_bounded_and_over_many_connections_too(
    tmp_path: Path,
    autojump_clock: MockClock,
    lane: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for where in ("runtime.runner", "protocol.holding"):
        monkeypatch.setattr(f"psymm.session.{where}.MOST_AHEAD", 20)
    async with scene(tmp_path) as stage:
        await stage.open()
        rogue, honest = sides(stage, lane)
        fall_silent(rogue)
        ahead = stage.clock.now_ns() + DAY
        for _ in range(200):
            sign_unchecked(rogue, Heartbeat(), sending_time=ahead)
            await trio.sleep(0.5)
        assert honest.stats.traffic().disconnects["over-budget"] >= 2
        assert honest.protocol.held_back <= 21
        assert honest.protocol.error is None


async def test_what_a_frame_may_say_of_its_time_ends_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The greatest number that fits: no delegation lasts as long, so it is no frame of the lane."""
    async with scene(tmp_path) as stage:
        await stage.open()
        frame = forge(stage.near, encode(Heartbeat()), sending_time=2**64 - 1)
        await stage.wires[-1].send(frame.raw)
        await trio.sleep(3)
        assert stage.far.protocol.error is None
        await stage.far.send(business(stage, stage.far, "q"))


@pytest.mark.parametrize("lane", [0, 1])
async def test_our_own_clock_that_was_ahead_signs_nothing_until_it_has_caught_up(
    tmp_path: Path, autojump_clock: MockClock, lane: int
) -> None:
    """Frames from while it was ahead hold; a date that stands still is signed with by nobody."""
    async with scene(tmp_path) as stage:
        await stage.open()
        ours, _ = sides(stage, lane)
        heard = stage.heard if lane == 0 else stage.desk.listeners[0]
        stage.clock.offset_ns = 60 * SECOND
        last = await ours.send(business(stage, ours, "b1"))
        stage.clock.offset_ns = 0
        with pytest.raises(ClockBehind) as refused:
            await ours.send(business(stage, ours, "b2"))
        assert "ahead_s=" in str(refused.value)
        await heard.until(lambda event: isinstance(event, OwnClockBehind) or None)
        with pytest.raises(ClockBehind):
            await ours.log_out("")
        assert ours.protocol.record.head(lane).seq == last.frame.seq
        await trio.sleep(61)
        after = await ours.send(business(stage, ours, "b3"))
        assert after.frame.sending_time == max(stage.clock.now_ns(), last.frame.sending_time)


# --- covers -------------------------------------------------------------------------------------


async def test_a_cover_that_is_dated_back_does_not_undo_a_fill(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        order = await stage.order("o1", expires_in_s=60)
        fall_silent(stage.near)
        await trio.sleep(4)
        await stage.report("e1", order)
        await trio.sleep(1)
        last = stage.near.protocol.record.head(0).sending_time
        back = sign_unchecked(
            stage.near,
            business(stage, stage.near, "r1"),
            sending_time=max(last, stage.clock.now_ns() - 4 * SECOND),
        )
        await trio.sleep(2)
        assert rejected(stage.far, back) == "covers-ahead"
        assert len(stage.account(stage.far).positions) == 1


# --- the limit of what is uncovered -------------------------------------------------------------


async def test_a_solver_signs_no_more_than_heartbeats_to_a_trader_that_covers_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        fall_silent(stage.near)
        await trio.sleep(2)
        uncovered = stage.far.protocol.record.head(1).seq - stage.account(stage.far).trader_covers
        for number in range(MOST_UNCOVERED - uncovered):
            await stage.far.send(Reject(ref_seq_num=1, violation=f"x{number}"))
            await trio.sleep(0.05)
        with pytest.raises(Refused, match="too-many-uncovered"):
            await stage.far.send(business(stage, stage.far, "q"))
        await stage.far.send(Heartbeat())
        await trio.sleep(1)
        speak_again(stage.near)  # it covers again
        await trio.sleep(3)
        await stage.far.send(business(stage, stage.far, "again"))


async def test_a_trader_covers_soon_enough_for_its_solver_to_go_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        for number in range(3 * MOST_UNCOVERED):
            await stage.far.send(Reject(ref_seq_num=1, violation=f"x{number}"))
            await trio.sleep(0.012)
        await stage.agreed()


# --- citations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lane", [0, 1])
@pytest.mark.parametrize("above", [CITED_AHEAD + 1, 2**40, 2**63, 2**64 - 1])
async def test_a_block_that_our_chain_cannot_have_is_a_violation_at_once(
    tmp_path: Path, autojump_clock: MockClock, lane: int, above: int
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        rogue, honest = sides(stage, lane)
        block = min(stage.chain.block + above, 2**64 - 1)
        entry = sign_unchecked(rogue, cites(block))
        await trio.sleep(3)
        assert rejected(honest, entry) == "false-citation"
        await honest.send(business(stage, honest, "b"))
        near, far = stage.both_settle()
        await (near if honest is stage.near else far).settle()
        await trio.sleep(30)
        assert honest.protocol.status is SessionStatus.CLOSED


@pytest.mark.parametrize("lane", [0, 1])
async def test_a_citation_just_ahead_waits_and_locks_nothing(
    tmp_path: Path, autojump_clock: MockClock, lane: int
) -> None:
    """For as long as the chain stands still; no more than one look every few seconds."""
    async with scene(tmp_path) as stage:
        await stage.open()
        rogue, honest = sides(stage, lane)
        fall_silent(rogue)
        collateral = honest.collateral
        entry = sign_unchecked(rogue, cites(stage.chain.block + 1))
        later = sign_unchecked(rogue, business(stage, rogue, "b1"))
        await trio.sleep(100)
        assert collateral.looked_up <= 55  # type: ignore[attr-defined]
        assert rejected(honest, entry) is None
        await honest.send(business(stage, honest, "b2"))
        assert not covered(honest, entry)
        assert not honest.protocol.state.rulebook.waits
        stage.chain.block += 1
        await trio.sleep(5)
        assert rejected(honest, entry) == "false-citation"
        assert rejected(honest, later) is None
        assert covered(honest, later)


@pytest.mark.parametrize("lane", [0, 1])
@pytest.mark.parametrize("comes", [True, False])
async def test_a_citation_that_waits_over_a_restart_is_judged_by_the_chain_as_it_then_is(
    tmp_path: Path, autojump_clock: MockClock, lane: int, comes: bool
) -> None:
    lives = Lives(tmp_path)
    cited: list[RecordedFrame] = []

    async def first(stage: Scene) -> None:
        await stage.heard.state(SessionStatus.TRADING)
        await stage.desk.listeners[0].state(SessionStatus.TRADING)
        rogue, honest = sides(stage, lane)
        fall_silent(rogue)
        nullifier = next(iter(honest.protocol.notes.values())).nullifier
        said = cites(stage.chain.block + 1, transaction=b"\x09" * 32, nullifier=nullifier)
        cited.append(sign_unchecked(rogue, said))
        await trio.sleep(5)
        stage.chain.block += 1
        if comes:
            fact = Fact(stage.chain.block + 1, b"\x09" * 32, (nullifier,), ())
            stage.chain.facts.append(fact)

    async def second(stage: Scene) -> None:
        while not (stage.client.runner and stage.near.protocol.synced and stage.desk.ends):  # noqa: ASYNC110
            await trio.sleep(0.1)
        _, honest = sides(stage, lane)
        await trio.sleep(5)
        assert covered(honest, cited[0])
        assert rejected(honest, cited[0]) == (None if comes else "false-citation")

    await lives.live(open_first=True, work=first)
    await lives.live(open_first=False, work=second)


@pytest.mark.parametrize("lane", [0, 1])
@pytest.mark.parametrize(
    ("bend", "rule"),
    [
        (lambda fact, note: cites(fact.block, transaction=b"\x13" * 32, nullifier=note), "false"),
        (lambda fact, _: cites(fact.block, transaction=fact.transaction), "unknown-note"),
    ],
    ids=["another-transaction", "a-stranger-s-note"],
)
async def test_a_true_fact_cited_falsely_is_a_violation(
    tmp_path: Path,
    autojump_clock: MockClock,
    lane: int,
    bend: Callable[[Fact, bytes], ChainFact],
    rule: str,
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        rogue, honest = sides(stage, lane)
        note = next(iter(honest.protocol.notes.values())).nullifier
        fact = Fact(stage.chain.block, b"\x12" * 32, (note, NOBODYS), ())
        stage.chain.facts.append(fact)
        before = stage.account(honest).notes
        entry = sign_unchecked(rogue, bend(fact, note))
        await trio.sleep(3)
        assert (rejected(honest, entry) or "").startswith(rule)
        assert stage.account(honest).notes == before


async def test_a_waiting_citation_is_told_of_to_the_application(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        sign_unchecked(stage.far, cites(stage.chain.block + 1))
        await stage.heard.until(lambda event: isinstance(event, CitationWaits) or None)
