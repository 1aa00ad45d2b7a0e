"""One order for two lanes, and legal time: when a frame counts as sent."""

from __future__ import annotations

import pytest
from rulebook_scene import OPENING, START, Scene, dec, limit, logon, make_terms, report, trade

from psymm import messages
from psymm._core import keccak256
from psymm.messages import (
    ExecType,
    Heartbeat,
    OrderCancelRequest,
    Reject,
    encode,
)
from psymm.rulebook import (
    ChainFacts,
    Fault,
    FrameOutOfOrder,
    Lane,
    OrderStatus,
    Replay,
    replay,
)
from psymm.rulebook.inputs import FRAME_BYTES
from psymm.terms import NANOSECONDS, Limits

SECOND = NANOSECONDS


def quote_request() -> messages.QuoteRequest:
    return messages.QuoteRequest(quote_req_id="r", symbol="BTC", order_qty=dec("1"))


def acknowledged(scene: Scene) -> int:
    """The trader covers all that the solver has sent; T of the terms."""
    scene.trader(Heartbeat())
    scene.cover()
    return scene.terms.timeouts.acknowledgement


def test_a_trader_frame_takes_effect_just_before_the_first_solver_frame_that_covers_it(
    scene: Scene,
) -> None:
    scene.trader(limit("o1"))
    scene.trader(limit("o2"))
    first, _ = scene.replay.heads
    scene.write(Lane.SOLVER, Heartbeat(), covers=first - 1)
    assert scene.account.status_of("o1") is OrderStatus.PENDING
    assert scene.account.status_of("o2") is None
    (ruling, own) = scene.write(Lane.SOLVER, Heartbeat())
    assert (ruling.seq, own.lane) == (first, Lane.SOLVER)
    assert scene.account.status_of("o2") is OrderStatus.PENDING


def test_a_frame_covered_within_t_counts_from_its_own_time(scene: Scene) -> None:
    t = scene.terms.timeouts.acknowledgement
    sent = scene.now + SECOND
    scene.trader(limit("o", expire=sent), at=sent)
    (ruling,) = scene.cover(sent + t)
    assert ruling.legal_time == sent
    assert ruling.violation is None


def test_a_frame_covered_later_than_t_counts_from_its_cover(scene: Scene) -> None:
    t = scene.terms.timeouts.acknowledgement
    sent = scene.now + SECOND
    scene.trader(limit("o", expire=sent + t), at=sent)
    (ruling,) = scene.cover(sent + t + 1)
    assert ruling.legal_time == sent + t + 1
    assert ruling.violation is not None
    assert ruling.violation.name == "expired"


def test_a_frame_on_chain_within_t_is_timely_however_late_its_cover() -> None:
    t = Scene().terms.timeouts.acknowledgement
    sent = START + 50 * SECOND
    scene = Scene(facts=ChainFacts(noticed={(0, 3): sent + t})).open_for_trading()
    scene.trader(limit("o", expire=sent), at=sent)
    assert scene.replay.pending[0].seq == 3
    ruling = scene.cover(sent + 100 * t)[-1]
    assert ruling.legal_time == sent
    assert ruling.violation is None


def test_a_late_frame_counts_from_the_earlier_of_cover_and_chain() -> None:
    t = Scene().terms.timeouts.acknowledgement
    sent = START + 50 * SECOND
    scene = Scene(facts=ChainFacts(noticed={(0, 3): sent + 2 * t})).open_for_trading()
    scene.trader(limit("o"), at=sent)
    ruling = scene.cover(sent + 3 * t)[-1]
    assert ruling.legal_time == sent + 2 * t


def test_the_clock_is_the_running_maximum_of_legal_times(scene: Scene) -> None:
    ahead = scene.now + SECOND
    scene.cover(ahead)
    assert scene.account.clock == ahead
    scene.trader(Heartbeat(), at=ahead - 1)
    scene.write(Lane.SOLVER, Heartbeat(), at=ahead)
    assert scene.account.clock == ahead


def test_a_late_solver_frame_is_reversed_where_it_is_first_covered(scene: Scene) -> None:
    t = acknowledged(scene)
    end = scene.now + 2 * SECOND
    scene.trade(limit("o", expire=end))
    scene.trader(Heartbeat())
    assert scene.solver(trade("e", "o"), at=end) is None
    assert len(scene.account.positions) == 1
    scene.trader(Heartbeat(), at=end + t + 1)
    rulings = scene.write(Lane.SOLVER, Heartbeat(), at=end + t + 2)
    reversed_fill = rulings[0]
    assert reversed_fill.again
    assert reversed_fill.legal_time == end + t + 1
    assert reversed_fill.violation is not None
    assert reversed_fill.violation.name == "unknown-order"
    assert not len(scene.account.positions)
    assert scene.account.status_of("o") is OrderStatus.EXPIRED
    assert scene.replay.faults == (), "to be late is no fault"


@pytest.mark.parametrize(("after", "stands"), [(0, True), (1, False)])
def test_a_solver_frame_on_chain_within_t_stands_however_late_its_cover(
    scene: Scene, after: int, stands: bool
) -> None:
    t = acknowledged(scene)
    end = scene.now + 2 * SECOND
    scene.trade(limit("o", expire=end))
    scene.trader(Heartbeat())
    scene.solver(trade("e", "o"), at=end)
    noticed = {(1, scene.account.solver_seq): end + t + after}
    scene.replay.learn(ChainFacts(noticed=noticed))
    scene.trader(Heartbeat(), at=end + 9 * t)
    rulings = scene.write(Lane.SOLVER, Heartbeat(), at=end + 9 * t)
    assert (len(scene.account.positions) == 1) is stands
    if not stands:
        assert rulings[0].legal_time == end + t + 1, "the chain saw it before the cover was sent"


def test_what_rested_on_a_late_frame_is_reversed_with_it(scene: Scene) -> None:
    t = acknowledged(scene)
    end = scene.now + 2 * SECOND
    scene.trade(limit("o", expire=end))
    scene.trader(Heartbeat())
    scene.solver(trade("e", "o"), at=end)
    (held,) = scene.account.positions
    _, before_fill = scene.replay.heads
    # the trader closes without having covered the fill, so nothing is decided yet
    late_close = limit("c", "1", "1000", limit("x").side.SELL, closes=held, expire=end + 10 * t)
    scene.trader(late_close, at=end + 1, covers=before_fill - 1)
    scene.solver(trade("e2", "c"), at=end + 2)
    assert scene.account.flat
    assert scene.account.fees < 0
    scene.trader(Heartbeat(), at=end + t + 1)
    names = {
        (r.lane, r.violation.name)
        for r in scene.write(Lane.SOLVER, Heartbeat(), at=end + t + 2)
        if r.again and r.violation is not None
    }
    assert names == {
        (Lane.SOLVER, "unknown-order"),
        (Lane.TRADER, "unknown-position"),
        (Lane.SOLVER, "unknown-order"),
    }
    assert scene.account.fees == 0


def test_nothing_before_a_late_frame_changes(scene: Scene) -> None:
    t = acknowledged(scene)
    held = scene.opened()
    scene.trader(Heartbeat())
    scene.cover()
    before = scene.account.positions[held]
    late = scene.now + 1
    scene.solver(Heartbeat(), at=late)
    scene.trade(quote_request())
    seq = scene.account.solver_seq
    scene.solver(Heartbeat())
    scene.trader(Heartbeat(), at=late + 5 * t)
    rulings = scene.cover(late + 5 * t + 1)
    assert scene.account.positions[held] == before
    again = [r.seq for r in rulings if r.again]
    assert again == [seq], "what is ruled as before is not reported again"


def test_a_solver_frame_is_decided_once_by_its_first_cover(scene: Scene) -> None:
    t = acknowledged(scene)
    scene.trade(limit("o"))
    scene.solver(trade("e", "o"))
    scene.trader(Heartbeat())
    scene.cover()
    scene.trader(Heartbeat(), at=scene.now + 9 * t)
    rulings = scene.cover()
    assert not any(r.again for r in rulings if r.message is not None and r.message.MSG_TYPE == "8")
    assert len(scene.account.positions) == 1


def test_a_violation_keeps_its_seq_and_changes_nothing(scene: Scene) -> None:
    seq = scene.account.trader_seq
    scene.violation_of_trader(b"{}", "malformed")
    assert scene.account.trader_seq == seq + 1
    assert scene.trade(limit("o")) is None


def test_a_malformed_payload_is_named_with_the_parser_s_code(scene: Scene) -> None:
    found = scene.violation_of_trader(b'{"MsgType":"0","MsgType":"0"}', "malformed")
    assert dict(found.values)["code"] == "duplicate-key"


def test_a_solver_s_violation_is_a_fault_if_the_first_covering_frame_rejects_it(
    scene: Scene,
) -> None:
    acknowledged(scene)
    scene.solver(trade("e", "nothing"))
    seq = scene.account.solver_seq
    scene.trader(Reject(ref_seq_num=seq, violation="unknown-order"))
    scene.cover()
    (fault,) = scene.replay.faults
    assert isinstance(fault, Fault)
    assert (fault.seq, fault.violation.name) == (seq, "unknown-order")


def test_a_violation_that_the_first_covering_frame_lets_pass_is_no_fault(scene: Scene) -> None:
    acknowledged(scene)
    scene.solver(trade("e", "nothing"))
    seq = scene.account.solver_seq
    scene.trader(Heartbeat())
    scene.trader(Reject(ref_seq_num=seq, violation="unknown-order"))
    scene.cover()
    assert scene.replay.faults == ()


def test_a_reject_of_a_frame_in_order_is_no_fault_of_its_signer(scene: Scene) -> None:
    acknowledged(scene)
    scene.solver(Heartbeat())
    scene.trader(Reject(ref_seq_num=scene.account.solver_seq, violation="unknown-order"))
    scene.cover()
    assert scene.replay.faults == ()


def test_a_frame_that_only_a_late_one_turned_into_a_violation_is_no_fault(scene: Scene) -> None:
    t = acknowledged(scene)
    end = scene.now + 2 * SECOND
    scene.trade(limit("o", "2", expire=end))
    scene.trader(Heartbeat())
    scene.solver(report("l", "o", ExecType.NEW), at=end - 1)
    late = scene.account.solver_seq
    scene.solver(trade("e", "o", "2"), at=end)
    rests = scene.account.solver_seq
    scene.trader(Heartbeat(), at=end + t, covers=late)
    scene.trader(Reject(ref_seq_num=rests, violation="unknown-order"), at=end + 2 * t)
    rulings = scene.write(Lane.SOLVER, Heartbeat(), at=end + 2 * t)
    assert any(r.again and r.seq == rests and r.violation is not None for r in rulings)
    assert scene.replay.faults == ()


def test_a_late_violation_is_still_a_fault(scene: Scene) -> None:
    t = acknowledged(scene)
    scene.solver(trade("e", "nothing"))
    seq = scene.account.solver_seq
    scene.trader(Reject(ref_seq_num=seq, violation="unknown-order"), at=scene.now + 5 * t)
    scene.cover()
    assert [fault.seq for fault in scene.replay.faults] == [seq]


def test_a_reject_names_a_frame_that_its_sender_had_processed(scene: Scene) -> None:
    scene.violation_of_trader(Reject(ref_seq_num=10**6, violation="malformed"), "unknown-frame")
    scene.violation_of_trader(Reject(ref_seq_num=0, violation="malformed"), "unknown-frame")


def test_frames_are_ruled_in_their_lane_s_order(scene: Scene) -> None:
    again = Replay.start(OPENING, scene.terms)
    with pytest.raises(FrameOutOfOrder):
        again.step(scene.frames[-1])
    with pytest.raises(FrameOutOfOrder):
        again.step(next(f for f in scene.frames if f.lane == 1))


def test_replay_is_the_same_whichever_lane_arrives_first(scene: Scene) -> None:
    held = scene.opened("2")
    order = limit("c", "2", "1000", limit("x").side.SELL, closes=held)
    _, covered = scene.replay.heads
    scene.solver(Heartbeat())
    scene.trader(order, covers=covered)
    scene.solver(trade("e", "c", "1", "1010"))
    traders_first: list[object] = []
    waiting = list(scene.frames)
    seen = [0, 0]
    while waiting:
        ready = [f for f in waiting if f.peer_seq <= seen[1 - f.lane] and f.seq == seen[f.lane] + 1]
        frame = min(ready, key=lambda f: f.lane)
        waiting.remove(frame)
        seen[frame.lane] = frame.seq
        traders_first.append(frame)
    assert traders_first != scene.frames
    inputs = scene.replay.inputs
    assert replay(inputs, scene.terms, traders_first).hash == scene.account.hash  # type: ignore[arg-type]


def test_a_step_leaves_the_accounts_it_came_from_as_they_were(scene: Scene) -> None:
    before, digest = scene.account, scene.account.hash
    scene.opened()
    assert keccak256(before.document()) == before.hash == digest
    assert scene.account.hash != digest


# --- preview -----------------------------------------------------------------------------------


def test_a_preview_says_what_the_rules_will_say_and_changes_nothing(scene: Scene) -> None:
    digest = scene.account.hash
    now = scene.now + 1
    assert scene.replay.preview(Lane.TRADER, limit("o"), now) is None
    found = scene.replay.preview(Lane.TRADER, limit("o", "1.0001"), now)
    assert found is not None
    assert found.name == "off-lot"
    found = scene.replay.preview(Lane.SOLVER, trade("e", "o"), now)
    assert found is not None
    assert found.name == "unknown-order"
    assert scene.account.hash == digest


def test_a_preview_counts_one_s_own_frames_that_are_still_pending(scene: Scene) -> None:
    scene.trader(limit("o"))
    now = scene.now + 1
    found = scene.replay.preview(Lane.TRADER, limit("o"), now)
    assert found is not None
    assert found.name == "duplicate-id"
    ask = OrderCancelRequest(cl_ord_id="c", orig_cl_ord_id="o")
    assert scene.replay.preview(Lane.TRADER, ask, now) is None
    assert scene.replay.preview(Lane.SOLVER, trade("e", "o"), now) is None


def test_a_message_that_cannot_be_written_is_malformed_in_a_preview(scene: Scene) -> None:
    found = scene.replay.preview(Lane.TRADER, limit("o" * 65), scene.now)
    assert found is not None
    assert found.name == "malformed"
    found = scene.replay.preview(Lane.TRADER, messages.TestRequest(test_req_id="t"), scene.now)
    assert found is not None
    assert dict(found.values)["code"] == "unknown-message"


def test_a_preview_counts_the_bytes_of_the_message() -> None:
    scene = Scene().open_for_trading()
    sent = scene.account.bytes_sent[Lane.TRADER]
    room = len(encode(limit("o"))) + FRAME_BYTES
    for limit_bytes, rule in ((sent + room, None), (sent + room - 1, "lane-at-limit")):
        tight = Scene(make_terms(limits=Limits(bytes=limit_bytes))).open_for_trading()
        found = tight.replay.preview(Lane.TRADER, limit("o"), tight.now)
        assert (found and found.name) == rule
        ruled = tight.trade(limit("o"))
        assert (ruled and ruled.name) == rule


def test_a_trader_s_preview_knows_what_its_own_frame_will_reverse(scene: Scene) -> None:
    t = acknowledged(scene)
    end = scene.now + 2 * SECOND
    scene.trade(limit("o", expire=end))
    scene.trader(Heartbeat())
    scene.solver(trade("e", "o"), at=end)
    (held,) = scene.account.positions
    order = limit("c", "1", "1000", limit("x").side.SELL, closes=held, expire=end + 10 * t)
    assert scene.replay.preview(Lane.TRADER, order, end + t) is None
    found = scene.replay.preview(Lane.TRADER, order, end + t + 1)
    assert found is not None
    assert found.name == "unknown-position"


def test_a_solver_s_preview_may_cover_less_than_it_has_seen(scene: Scene) -> None:
    scene.trade(limit("o"))
    covered, _ = scene.replay.heads
    scene.trader(OrderCancelRequest(cl_ord_id="c", orig_cl_ord_id="o"))
    fill = trade("e", "o")
    assert scene.replay.preview(Lane.SOLVER, fill, scene.now, peer_seq=covered) is None
    found = scene.replay.preview(Lane.SOLVER, fill, scene.now)
    assert found is not None
    assert found.name == "unknown-order"


# --- keys and logon ----------------------------------------------------------------------------


def test_the_first_message_of_a_lane_is_its_logon() -> None:
    scene = Scene()
    scene.violation_of_trader(limit("o"), "not-logged-on")
    scene.violation_of_solver(Heartbeat(), "not-logged-on")
    assert scene.trade(logon(scene.terms)) is None
    scene.violation_of_trader(logon(scene.terms), "already-logged-on")


def test_a_logon_names_the_custody_s_terms() -> None:
    scene = Scene()
    scene.violation_of_trader(logon(scene.terms, terms_hash=bytes(32)), "wrong-terms")


@pytest.mark.parametrize(
    "changes", [{"from_seq": 2}, {"to_seq": 0}, {"expiry": START - 1}], ids=str
)
def test_a_delegation_holds_for_the_frame_that_brings_it(changes: dict[str, int]) -> None:
    scene = Scene()
    scene.violation_of_trader(logon(scene.terms, **changes), "bad-delegation")


def test_a_delegation_holds_at_its_very_last_seq_and_moment() -> None:
    scene = Scene()
    last = logon(scene.terms, from_seq=1, to_seq=1, expiry=START)
    scene.trader(last, at=START)
    (ruling,) = scene.write(Lane.SOLVER, Heartbeat(), at=START)[:-1]
    assert ruling.violation is None


def test_a_session_key_ends_with_its_seq_or_its_time() -> None:
    scene = Scene()
    scene.trade(logon(scene.terms, to_seq=2))
    assert scene.trade(Heartbeat()) is None
    scene.violation_of_trader(Heartbeat(), "session-key-expired")
    scene = Scene()
    scene.trade(logon(scene.terms, expiry=START + SECOND))
    scene.now = START + SECOND
    scene.violation_of_trader(Heartbeat(), "session-key-expired")


def test_a_declined_order_leaves_no_trace_in_money(scene: Scene) -> None:
    before = scene.account.allocated(Lane.TRADER), scene.account.allocated(Lane.SOLVER)
    scene.trade(limit("o"))
    scene.solver(report("d", "o", ExecType.REJECTED))
    assert before == (
        scene.account.allocated(Lane.TRADER),
        scene.account.allocated(Lane.SOLVER),
    )
