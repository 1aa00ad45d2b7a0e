"""Checkpoints: offered by one lane, put in force by the other, and a history that begins there.

This file is long because checkpoints touch every other rule, and a drawn history needs a case for
each event.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rulebook_scene import (
    MS,
    OPENING,
    SOLVER_NOTE,
    START,
    TRADER_NOTE,
    UNITS,
    Scene,
    WrittenFrame,
    accepts,
    dec,
    limit,
    logon,
    make_terms,
    quote,
    report,
    trade,
)
from test_properties import EVENTS, TERMS, Party, solvers_idea, traders_idea

from psymm.messages import (
    Checkpoint,
    ExecType,
    Heartbeat,
    JsonError,
    Message,
    Reject,
    decode,
    encode,
)
from psymm.rulebook import (
    Account,
    AccountRefused,
    Lane,
    Price,
    Replay,
    first_difference,
    restore,
)
from psymm.rulebook.checkpoint import answer, naming, offer
from psymm.rulebook.live_account import LiveAccount
from psymm.rulebook.totals import put_price
from psymm.terms import NANOSECONDS, Limits, Terms

T_NS = 10 * NANOSECONDS
RUNS = int(os.environ.get("PSYMM_RULEBOOK_RUNS", "60"))
STEPS = {True: [2, 10, 4, 0, 1], False: [2, 8, 4, 3, 1]}
"""How often the clock moves on by each step."""


@pytest.fixture
def scene() -> Scene:
    return Scene().open_for_trading()


def right(scene: Scene) -> Checkpoint:
    """What either lane can offer now: the trader's last frame covers the solver's last, and the
    solver covers that one."""
    scene.trade(Heartbeat())
    said = offer(scene.account, scene.replay.named())
    assert said is not None
    return said


def agreed(scene: Scene, first: Lane = Lane.TRADER) -> Account:
    """A checkpoint in force, offered by `first`; the account that it names."""
    said = right(scene)
    if first is Lane.TRADER:
        scene.trader(said, covers=said.solver_seq)
        assert scene.solver(said) is None
    else:
        assert scene.solver(said) is None
        assert scene.trade(said) is None
    point = scene.account.checkpoint
    assert point is not None
    assert point.account_hash == said.account_hash
    found = scene.replay.agreed
    assert found is not None
    return found


@pytest.mark.parametrize("first", list(Lane))
def test_a_checkpoint_is_in_force_when_both_lanes_have_named_it(scene: Scene, first: Lane) -> None:
    scene.opened()
    account = agreed(scene, first)
    point = scene.account.checkpoint
    assert point is not None
    assert (point.solver_seq, point.trader_seq) == (account.solver_seq, account.trader_seq)
    assert point.account_hash == account.hash
    assert [type(scene_message(scene, lane, seq)) for lane, seq in enumerate(point.said)] == [
        Checkpoint,
        Checkpoint,
    ]
    assert scene.account.offer is None


def scene_message(scene: Scene, lane: int, seq: int) -> Message:
    (frame,) = (f for f in scene.frames if (f.lane, f.seq) == (lane, seq))
    return decode(frame.payload)


def test_one_lane_alone_puts_nothing_in_force(scene: Scene) -> None:
    assert scene.solver(right(scene)) is None
    assert scene.account.checkpoint is None
    assert scene.account.offer is not None


def test_another_hash_is_a_wrong_checkpoint(scene: Scene) -> None:
    said = replace(right(scene), account_hash=b"\x01" * 32)
    found = scene.violation_of_solver(said, "wrong-checkpoint")
    assert scene.replay.disputed is not None
    assert ("known", "0x" + scene.replay.disputed.hash.hex()) in found.values


def test_rule_13_a_checkpoint_states_what_the_account_would_pay(scene: Scene) -> None:
    scene.opened("2", "1000")
    scene.cover()
    said = right(scene)
    at = scene.replay.named().account
    assert at is not None
    both = sum(at.collaterals)
    assert (said.trader_payout, said.solver_payout) == at.payouts_now
    assert said.trader_payout + said.solver_payout == both
    assert not said.flat
    for wrong in (
        {"trader_payout": said.trader_payout + 1, "solver_payout": said.solver_payout - 1},
        {"flat": True},
    ):
        scene.violation_of_solver(replace(said, **wrong), "wrong-checkpoint")
    assert scene.solver(said) is None
    scene.trader(replace(said, trader_payout=said.trader_payout + 1))
    ruling = scene.cover()[0]
    assert ruling.violation is not None
    assert ruling.violation.name == "wrong-checkpoint"
    assert scene.trade(said) is None
    assert scene.account.checkpoint is not None


def test_rule_13_positions_count_at_the_prices_in_effect(scene: Scene) -> None:
    scene.opened("2", "1000")
    live = LiveAccount(scene.account)
    put_price(live, "BTC", Price(price=dec("1100"), timestamp=live.clock))
    at = live.snapshot()
    assert at.upnl(Lane.TRADER) == dec("200")
    assert at.payouts_now[0] == at.payouts[0] + 200 * UNITS
    put_price(live, "BTC", Price(price=dec("1"), timestamp=live.clock))
    worst = live.snapshot()
    assert sum(worst.payouts_now) == sum(worst.collaterals)


def test_rule_13_flat_says_that_nothing_is_open(scene: Scene) -> None:
    assert right(scene).flat
    scene.trade(limit("o"))
    scene.trader(Heartbeat())
    scene.cover()
    assert not right(scene).flat


def test_rule_13_a_checkpoint_has_one_form(scene: Scene) -> None:
    said = right(scene)
    payload = encode(said)
    fields = json.loads(payload)
    for other in (
        json.dumps(fields).encode(),
        json.dumps(
            dict([*list(fields.items())[:1], *list(fields.items())[:0:-1]]), separators=(",", ":")
        ).encode(),
    ):
        assert decode(payload) == said
        with pytest.raises(JsonError) as refused:
            decode(other)
        assert refused.value.code == "not-canonical"
        scene.violation_of_solver(other, "malformed")
    assert scene.solver(payload) is None


def test_an_answer_with_another_hash_is_a_wrong_checkpoint(scene: Scene) -> None:
    said = right(scene)
    assert scene.solver(said) is None
    scene.trader(replace(said, account_hash=b"\x01" * 32))
    (ruling, *_) = scene.cover()
    assert ruling.violation is not None
    assert ruling.violation.name == "wrong-checkpoint"
    assert scene.account.checkpoint is None
    assert scene.trade(said) is None, "the offer still stands"
    assert scene.account.checkpoint is not None


def test_only_the_last_solver_frame_that_the_trader_covers_is_named(scene: Scene) -> None:
    said = right(scene)
    scene.trade(Heartbeat())
    scene.violation_of_solver(said, "checkpoint-misplaced")
    later = right(scene)
    scene.violation_of_solver(
        replace(later, trader_seq=later.trader_seq - 1), "checkpoint-misplaced"
    )


def test_while_an_offer_stands_no_other_is_made(scene: Scene) -> None:
    said = right(scene)
    assert scene.solver(said) is None
    scene.violation_of_solver(said, "checkpoint-pending")
    scene.trader(replace(said, solver_seq=said.solver_seq + 1))
    (ruling, *_) = scene.cover()
    assert ruling.violation is not None
    assert ruling.violation.name == "checkpoint-pending"


def test_of_two_offers_that_cross_the_solver_s_stands(scene: Scene) -> None:
    scene.trade(Heartbeat())
    seen = scene.account.solver_seq
    solvers = offer(scene.account, scene.replay.named())
    assert solvers is not None
    assert scene.solver(solvers) is None
    # The trader, which has not seen it, covers one frame more and offers that.
    after = replace(solvers, solver_seq=seen, account_hash=bytes(32))
    scene.trader(after, covers=seen)
    (ruling, *_) = scene.cover()
    assert ruling.violation is None
    assert scene.account.offer is not None
    assert scene.account.offer.lane is Lane.SOLVER
    assert scene.trade(solvers) is None
    assert scene.account.checkpoint is not None


def test_two_offers_of_one_account_that_cross_put_it_in_force(scene: Scene) -> None:
    said = right(scene)
    assert scene.solver(said) is None
    scene.trader(said, covers=said.solver_seq)
    scene.cover()
    assert scene.account.checkpoint is not None


def test_a_checkpoint_begins_the_limits_anew_at_the_frames_that_it_names() -> None:
    scene = Scene(make_terms(limits=Limits(frames=12))).open_for_trading()
    while scene.account.since_checkpoint(Lane.TRADER)[0] < 12:
        scene.trade(Heartbeat())
    scene.trader(limit("late", "0.1"))
    (ruling, *_) = scene.cover()
    assert ruling.violation is not None
    assert ruling.violation.name == "lane-at-limit"
    later = right(scene)
    assert scene.solver(later) is None, "a lane at its limit may still checkpoint"
    assert scene.trade(later) is None
    frames, sent = scene.account.since_checkpoint(Lane.TRADER)
    assert frames == scene.account.trader_seq - later.trader_seq
    assert sent > 0
    assert scene.trade(limit("again", "0.1")) is None


def test_rule_11_an_id_stays_taken_across_checkpoints_while_it_is_alive(scene: Scene) -> None:
    scene.trade(limit("o", expire=START + 3000 * NANOSECONDS))
    account = agreed(scene)
    begun = Scene(scene.terms)
    begun.replay = Replay.at_checkpoint(OPENING, scene.terms, restored(account))
    begun.now = scene.now
    found = begun.trade(limit("o", "0.1"))
    assert found is not None
    assert found.name == "duplicate-id"
    assert begun.solver(report("d", "o", ExecType.REJECTED)) is None
    assert begun.trade(limit("o", "0.1")) is None


# --- refusing -----------------------------------------------------------------------------------


def faults(scene: Scene) -> list[tuple[Lane, str]]:
    return [(fault.lane, fault.violation.name) for fault in scene.replay.faults]


def test_to_go_on_for_longer_than_t_without_an_answer_is_a_fault_of_the_solver(
    scene: Scene,
) -> None:
    said = right(scene)
    scene.trader(said, covers=said.solver_seq)
    scene.cover()
    scene.cover(at=scene.now + T_NS)
    assert faults(scene) == []
    scene.cover(at=scene.now + MS)
    assert faults(scene) == [(Lane.SOLVER, "checkpoint-refused")]
    scene.cover(at=scene.now + T_NS)
    assert faults(scene) == [(Lane.SOLVER, "checkpoint-refused")], "once for an offer"


def test_to_go_on_for_longer_than_t_without_an_answer_is_a_fault_of_the_trader(
    scene: Scene,
) -> None:
    said = right(scene)
    assert scene.solver(said) is None
    scene.trade(Heartbeat())
    scene.now += T_NS
    scene.trade(Heartbeat())
    assert faults(scene) == [(Lane.TRADER, "checkpoint-refused")]


def test_a_lane_that_never_covered_an_offer_has_not_refused_it(scene: Scene) -> None:
    said = right(scene)
    seen = scene.account.solver_seq
    assert scene.solver(said) is None
    scene.now += T_NS * 2
    scene.trader(Heartbeat(), covers=seen)
    scene.cover()
    assert faults(scene) == []


def test_a_reject_of_a_right_checkpoint_is_a_fault_at_once(scene: Scene) -> None:
    said = right(scene)
    scene.trader(said, covers=said.solver_seq)
    assert (
        scene.solver(Reject(ref_seq_num=scene.replay.heads[0], violation="wrong-checkpoint"))
        is None
    )
    assert faults(scene) == [(Lane.SOLVER, "checkpoint-refused")]


def test_a_wrong_checkpoint_is_void_and_rejecting_it_is_no_refusal(scene: Scene) -> None:
    assert scene.solver(replace(right(scene), account_hash=bytes(32))) is not None
    scene.trade(Reject(ref_seq_num=scene.account.solver_seq, violation="wrong-checkpoint"))
    assert faults(scene) == []


def test_an_offer_can_be_answered_however_late_and_the_refusal_stays_until_the_next(
    scene: Scene,
) -> None:
    said = right(scene)
    assert scene.solver(said) is None
    scene.trade(Heartbeat())
    scene.now += T_NS * 2
    scene.trade(Heartbeat())
    assert scene.trade(said) is None
    assert scene.account.checkpoint is not None
    assert faults(scene) == [(Lane.TRADER, "checkpoint-refused")]
    agreed(scene)
    assert faults(scene) == []


def test_a_frame_found_late_is_not_named_by_an_account_that_others_were_ruled_on(
    scene: Scene,
) -> None:
    """A history from there could not know that a later frame was first ruled on another."""
    seen = scene.account.solver_seq
    assert scene.solver(quote("q1", scene.now + 30 * NANOSECONDS)) is None
    assert scene.solver(quote("q2", scene.now + 30 * NANOSECONDS)) is None
    scene.trader(Heartbeat(), at=scene.now + T_NS * 2, covers=seen + 1)
    scene.cover(at=scene.now + MS)
    assert scene.replay.named().account is not None
    assert not scene.replay.named().firm
    assert offer(scene.account, scene.replay.named()) is None
    at = scene.replay.named().account
    said = naming(at)
    assert scene.solver(said) is None
    assert scene.account.offer is None


# --- a history that begins there ----------------------------------------------------------------


def test_a_frame_void_by_the_date_of_one_before_it_is_not_behind_a_checkpoint(
    scene: Scene,
) -> None:
    """An order dated back to before what it says that it covers is void (``spec.md`` 66). A replay
    that begins at a checkpoint between the two would not know that date, and have the order."""
    back = scene.now + MS
    scene.trader(Heartbeat(), at=back)
    now = back + 5 * NANOSECONDS
    assert scene.solver(quote("q", now + 60 * NANOSECONDS), at=now) is None
    named = scene.account.solver_seq
    scene.trader(limit("o"), at=back)
    scene.trader(Heartbeat(), at=now)
    void, _ = scene.cover()
    assert void.violation is not None
    assert void.violation.name == "covers-ahead"
    assert offer(scene.account, scene.replay.named()) is None
    at = scene.replay.named().account
    assert at is not None
    assert at.solver_seq == named
    said = replace(naming(at), solver_seq=named)
    assert scene.solver(said) is None
    scene.trade(said)
    assert scene.account.checkpoint is None
    account = agreed(scene)
    begun = Replay.at_checkpoint(OPENING, scene.terms, restored(account))
    for frame in since(account, scene.frames):
        begun.step(frame)
    assert begun.account.hash == scene.account.hash
    assert not len(begun.account.orders)


def restored(account: Account, terms: Terms | None = None) -> Account:
    return restore(account.document(), terms or account.terms, account.hash)


class Talker(Party):
    """A party that remembers the order in which it saw the frames."""

    def __init__(self, lane: Lane) -> None:
        super().__init__(lane)
        self.seen: list[WrittenFrame] = []

    def take(self, frame: WrittenFrame) -> None:
        self.seen.append(frame)
        super().take(frame)

    def send(self, said: Message | bytes, at: int, covers: int | None = None) -> WrittenFrame:
        own, other = self.replay.heads if self.lane is Lane.TRADER else self.replay.heads[::-1]
        self.last = max(self.last, at)
        payload = said if isinstance(said, bytes) else encode(said)
        frame = WrittenFrame(
            self.lane, own + 1, other if covers is None else covers, self.last, payload
        )
        self.replay.step(frame)
        if self.lane is Lane.SOLVER:
            self.after[frame.seq] = self.replay.account.hash
        self.seen.append(frame)
        self.outbox.append(frame)
        return frame

    def covers(self) -> int:
        return self.replay.trader_covers if self.lane is Lane.TRADER else self.replay.heads[0]

    def idea(self, rng: Random) -> tuple[Message, int | None] | None:
        """A UCP: the one that is due, or one that is not right."""
        account = self.replay.projected()
        said = answer(account, self.lane)
        if said is None:
            said = offer(account, self.replay.named())
            covers = None if said is None else self.covers()
        else:
            covers = None
        if rng.randint(0, 5) == 0:
            at = account
            said = replace(
                naming(at),
                account_hash=rng.choice(
                    [at.hash, bytes(32), said.account_hash if said else b"\x01" * 32]
                ),
                solver_seq=max(1, at.solver_seq - rng.randint(0, 3)),
                trader_seq=max(1, at.trader_seq - rng.randint(0, 2)),
            )
        return None if said is None else (said, covers)


def deliver(frm: Talker, to: Talker) -> None:
    if frm.outbox:
        to.take(frm.outbox.popleft())


def since(account: Account, seen: Iterable[WrittenFrame]) -> list[WrittenFrame]:
    return [frame for frame in seen if frame.seq > account.seqs[frame.lane]]


@settings(max_examples=RUNS, deadline=None)
@given(seed=st.integers(0, 2**64 - 1))
@example(seed=1613)  # a UCP signed before the checkpoint's, out of place and rejected after it
def test_a_replay_from_a_checkpoint_is_the_replay_of_the_whole_history(seed: int) -> None:
    """At whatever frame it was made, with frames of both lanes in flight, some of them late."""
    checkpoints_in(seed)


@settings(max_examples=RUNS, deadline=None)
@given(seed=st.integers(0, 2**64 - 1))
def test_it_is_so_too_where_dates_and_covers_are_false(seed: int) -> None:
    checkpoints_in(seed, honest=False)


def checkpoints_in(seed: int, *, honest: bool = True) -> int:  # noqa: C901
    """Plays a history and begins anew at each of its checkpoints; how many there were."""
    # Complex since each event that may happen has its case.
    rng = Random(seed)
    stated = [0, 0]

    def send(me: Talker, said: Message | bytes, covers: int | None = None) -> None:
        """Dated and covering truly, or in any way that a transcript takes."""
        at, head = now, me.replay.heads[me.lane.other]
        if not honest and rng.randint(0, 2) == 0:
            ahead = rng.randint(-5, 3) * NANOSECONDS
            at = rng.choice([me.last, (me.last + now) // 2, now + ahead])
        if not honest and covers is None and rng.randint(0, 4) == 0:
            covers = rng.randint(stated[me.lane], head)
        stated[me.lane] = max(stated[me.lane], head if covers is None else covers)
        me.send(said, at, stated[me.lane])

    trader, solver = Talker(Lane.TRADER), Talker(Lane.SOLVER)
    now = START
    points: list[tuple[Account, Account]] = []
    trader.send(logon(TERMS, TRADER_NOTE), now)
    deliver(trader, solver)
    solver.send(logon(TERMS, SOLVER_NOTE), now)
    solver.send(accepts(TRADER_NOTE, name="a"), now)
    deliver(solver, trader)
    deliver(solver, trader)
    trader.send(accepts(SOLVER_NOTE, name="b"), now)
    deliver(trader, solver)
    for _ in range(rng.randint(20, 150)):
        now += rng.choices([0, MS, 500 * MS, 3 * NANOSECONDS, 11 * NANOSECONDS], STEPS[honest])[0]
        match rng.choice([*EVENTS, *["cp"] * 4, *([] if honest else ["void"] * 2)]):
            case "t":
                send(trader, traders_idea(rng, trader, now))
            case "s":
                send(solver, solvers_idea(rng, solver, now))
            case ">":
                deliver(trader, solver)
            case "<":
                deliver(solver, trader)
            case "T":
                send(trader, Heartbeat())
            case "S":
                send(solver, Heartbeat())
            case "void":  # an order dated before what it covers, and an offer of what lies between
                now += 3 * NANOSECONDS
                send(solver, solvers_idea(rng, solver, now))
                while trader.outbox or solver.outbox:
                    deliver(trader, solver)
                    deliver(solver, trader)
                trader.send(traders_idea(rng, trader, now), trader.last)
                trader.send(Heartbeat(), now)
                stated[Lane.TRADER] = trader.replay.heads[Lane.SOLVER]
                while trader.outbox:
                    deliver(trader, solver)
                said = solver.idea(rng)
                if said is not None:
                    send(solver, *said)
                deliver(solver, trader)
            case "cp":
                me = rng.choice([trader, solver])
                found = me.idea(rng)
                if found is not None:
                    send(me, *found)
        account = solver.replay.agreed
        if account is not None and (not points or points[-1][0] is not account):
            points.append((account, solver.replay.account))
    for _ in range(2):
        while trader.outbox or solver.outbox:
            deliver(trader, solver)
            deliver(solver, trader)
        trader.send(Heartbeat(), now)
        deliver(trader, solver)
        solver.send(Heartbeat(), now)
        deliver(solver, trader)
    assert trader.after == solver.after
    assert trader.replay.faults == solver.replay.faults
    for account, at_force in points:
        start = restored(account)
        for party in (trader, solver):
            begun = Replay.at_checkpoint(party.replay.inputs, TERMS, start)
            for frame in since(account, party.seen):
                begun.step(frame)
                seq = begun.account.solver_seq
                if frame.lane == Lane.SOLVER and party is solver and seq >= at_force.solver_seq:
                    assert begun.account.hash == party.after[seq]
            assert begun.account.hash == party.replay.account.hash
            assert begun.faults == party.replay.faults
            assert begun.pending == party.replay.pending
            assert begun.named().account == party.replay.named().account or (
                begun.named().account is not None
                and party.replay.named().account is not None
                and begun.named().account.hash == party.replay.named().account.hash
            )
    return len(points)


def test_such_histories_have_checkpoints() -> None:
    assert sum(checkpoints_in(seed) for seed in range(20)) >= 5
    assert sum(checkpoints_in(seed, honest=False) for seed in range(20)) >= 5


# --- bytes of an account ------------------------------------------------------------------------


def busy() -> Account:
    scene = Scene().open_for_trading()
    held = scene.opened()
    scene.opened(symbol="ETH")
    scene.trade(limit("open", "0.1"))
    scene.trade(limit("closes", "0.1", closes=held))
    scene.solver(quote("q", scene.now + 30 * NANOSECONDS))
    agreed(scene)
    order = limit("o9", "0.2", expire=scene.now + 10**13)
    scene.trade(order)
    scene.solver(trade("e9", "o9", "0.1"))
    return agreed(scene)


BUSY = busy()
DOCUMENT = BUSY.document()


def test_an_account_comes_back_from_its_bytes() -> None:
    again = restored(BUSY)
    assert again.hash == BUSY.hash
    assert again.document() == DOCUMENT
    assert replace(again, ended_orders=BUSY.ended_orders, next_expiry=BUSY.next_expiry) == BUSY


def test_an_account_of_other_terms_is_refused() -> None:
    with pytest.raises(AccountRefused, match="other terms"):
        restored(BUSY, make_terms(end_date=START + 7 * NANOSECONDS))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(DOCUMENT) * 8 - 1))
def test_no_flipped_bit_of_an_account_passes(bit: int) -> None:
    bent = bytearray(DOCUMENT)
    bent[bit // 8] ^= 1 << bit % 8
    with pytest.raises(AccountRefused):
        restore(bytes(bent), TERMS, BUSY.hash)


@given(
    st.recursive(
        st.none() | st.text(max_size=4) | st.integers(),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(
                st.sampled_from(["terms", "orders", "keys", "notes", "clock", "offer", "x"]),
                x,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_is_no_account_is_refused_by_name(found: object) -> None:
    for raw in (
        json.dumps(found).encode(),
        json.dumps(json.loads(DOCUMENT) | {"orders": found}).encode(),
    ):
        if raw == DOCUMENT:
            continue
        with pytest.raises(AccountRefused):
            restore(raw, TERMS, BUSY.hash)


def test_two_accounts_differ_first_in_the_field_that_is_named() -> None:
    position = next(iter(BUSY.positions.values()))
    table = {**BUSY.positions, position.position_id: replace(position, quantity=1)}
    theirs = replace(BUSY, positions=table, realised=5)
    found = first_difference(BUSY.document(), theirs.document())
    assert found is not None
    assert found.field == f"positions.0x{position.position_id.hex()}.quantity"
    assert (found.ours, found.theirs) == (f'"{position.quantity}"', '"1"')
    assert first_difference(BUSY.document(), BUSY.document()) is None


def test_a_field_that_only_one_side_has_is_named_absent() -> None:
    found = first_difference(BUSY.document(), replace(BUSY, checkpoint=None).document())
    assert found is not None
    assert (found.field, found.theirs) == ("checkpoint", "absent")


@pytest.mark.parametrize("raw", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"a":1,"a":2}'])
def test_what_cannot_be_compared_is_refused_by_name(raw: bytes) -> None:
    with pytest.raises(AccountRefused):
        first_difference(BUSY.document(), raw)
