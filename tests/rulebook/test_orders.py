"""Orders, fills and closes, one rule at a time.

This file is long because every rule of orders, fills and closes has its test here.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from rulebook_scene import BTC, ETH, START, Scene, dec, hit, limit, make_terms, quote, report, trade

from psymm._core import keccak256
from psymm.messages import (
    CxlRejReason,
    CxlRejResponseTo,
    ExecType,
    ForceAction,
    ForceKind,
    Heartbeat,
    Logout,
    OrderCancelReject,
    OrderCancelReplaceRequest,
    OrderCancelRequest,
    OrdType,
    Side,
)
from psymm.rulebook import Lane, OrderStatus, position_id
from psymm.terms import NANOSECONDS, Limits, Rates

SECOND = NANOSECONDS


def cancel(name: str, order: str) -> OrderCancelRequest:
    return OrderCancelRequest(cl_ord_id=name, orig_cl_ord_id=order)


def replacing(name: str, order: str, quantity: str, price: str) -> OrderCancelReplaceRequest:
    return OrderCancelReplaceRequest(
        cl_ord_id=name,
        orig_cl_ord_id=order,
        order_qty=dec(quantity),
        price=dec(price),
        expire_time=START + 600 * SECOND,
    )


def refuses(name: str, order: str, to: CxlRejResponseTo) -> OrderCancelReject:
    return OrderCancelReject(
        cl_ord_id=name,
        orig_cl_ord_id=order,
        cxl_rej_response_to=to,
        cxl_rej_reason=CxlRejReason.BROKER_OPTION,
    )


# --- opening -----------------------------------------------------------------------------------


def test_an_order_is_pending_once_it_takes_effect(scene: Scene) -> None:
    assert scene.trade(limit("o")) is None
    assert scene.account.status_of("o") is OrderStatus.PENDING


def test_an_order_that_no_solver_frame_covers_is_not_in_the_account(scene: Scene) -> None:
    scene.trader(limit("o"))
    assert scene.account.status_of("o") is None
    assert scene.replay.projected().status_of("o") is OrderStatus.PENDING


def test_a_whole_fill_opens_one_position_and_ends_the_order(scene: Scene) -> None:
    scene.trade(limit("o", "2", "1000"))
    assert scene.solver(trade("e", "o", "2", "1000")) is None
    (position,) = scene.account.positions.values()
    assert (position.quantity, position.entry_price) == (dec("2"), dec("1000"))
    assert scene.account.status_of("o") is OrderStatus.FILLED


def test_a_fill_may_come_in_the_frame_that_covers_the_order(scene: Scene) -> None:
    scene.trader(limit("o"))
    assert scene.solver(trade("e", "o")) is None
    assert scene.account.status_of("o") is OrderStatus.FILLED


def test_each_part_of_a_fill_is_a_position_and_the_rest_stays_pending(scene: Scene) -> None:
    scene.trade(limit("o", "3", "1000"))
    scene.solver(report("lock", "o", ExecType.NEW))
    assert scene.solver(trade("e1", "o", "1", "1000")) is None
    assert scene.account.status_of("o") is OrderStatus.PENDING
    assert scene.account.orders["o"].leaves == dec("2")
    assert scene.solver(trade("e2", "o", "2", "999.5")) is None
    assert {p.entry_price for p in scene.account.positions.values()} == {
        dec("1000"),
        dec("999.5"),
    }
    assert scene.account.status_of("o") is OrderStatus.FILLED


def test_rule_11_a_position_s_id_is_of_the_custody_and_the_frame_that_filled(scene: Scene) -> None:
    made = scene.opened()
    assert made == position_id(scene.account.custody, scene.account.solver_seq)
    assert made == keccak256(
        b"psymm-position" + scene.account.custody + scene.account.solver_seq.to_bytes(8, "big")
    )


def test_a_fill_above_what_is_left_is_refused(scene: Scene) -> None:
    scene.trade(limit("o", "2"))
    scene.violation_of_solver(trade("e1", "o", "2.001"), "fill-over-quantity")
    scene.solver(trade("e2", "o", "1.5"))
    scene.violation_of_solver(trade("e3", "o", "0.501"), "fill-over-quantity")


@pytest.mark.parametrize(
    ("side", "worse", "better"), [("1", "1000.5", "999"), ("2", "999.5", "1001")]
)
def test_the_solver_fills_no_worse_than_the_order_s_price(
    scene: Scene, side: str, worse: str, better: str
) -> None:
    scene.trade(limit("o", "1", "1000", Side(side)))
    scene.violation_of_solver(trade("e1", "o", "1", worse), "fill-worse-than-price")
    assert scene.solver(trade("e2", "o", "1", better)) is None


def test_a_fill_of_an_order_never_sent_is_refused(scene: Scene) -> None:
    scene.violation_of_solver(trade("e", "nothing"), "unknown-order")


def test_rule_11_two_fills_may_have_one_exec_id(scene: Scene) -> None:
    scene.trade(limit("o", "2"))
    assert scene.solver(trade("e", "o", "1")) is None
    assert scene.solver(trade("e", "o", "1")) is None
    assert len(scene.account.positions) == 2


def test_rule_11_an_order_id_must_differ_from_what_is_alive(scene: Scene) -> None:
    scene.trade(limit("o"))
    scene.violation_of_trader(limit("o"), "duplicate-id")
    scene.violation_of_trader(cancel("o", "o"), "duplicate-id")
    scene.trade(cancel("c", "o"))
    assert scene.trade(limit("o")) is None, "the first has ended"
    assert scene.solver(report("l", "o", ExecType.NEW)) is None
    assert scene.trade(replacing("n", "o", "2", "1000")) is None
    scene.violation_of_trader(limit("n"), "duplicate-id")
    scene.violation_of_trader(limit("o"), "duplicate-id")
    assert scene.solver(report("r", "o", ExecType.REPLACED)) is None
    assert scene.trade(limit("o")) is None


def test_rule_11_an_order_that_has_ended_leaves_nothing_in_the_account(scene: Scene) -> None:
    scene.opened()
    (position,) = scene.account.positions.values()
    closes = limit("c", "1", "1000", Side.SELL, closes=position.position_id)
    scene.trade(closes)
    scene.solver(trade("e", "c"))
    empty = len(scene.account.document())
    for _ in range(300):
        assert scene.trade(limit("again")) is None
        assert scene.solver(report("d", "again", ExecType.REJECTED)) is None
    assert len(scene.account.document()) <= empty + 20, "only numbers have grown"
    assert len(scene.account.ended_orders) <= 128


def test_what_a_fill_states_of_the_order_must_be_right(scene: Scene) -> None:
    scene.trade(limit("o", "2"))
    scene.violation_of_solver(trade("e1", "o", "1", cum_qty=dec("2")), "wrong-quantities")
    scene.violation_of_solver(trade("e2", "o", "1", leaves_qty=dec("2")), "wrong-quantities")
    right = trade("e3", "o", "1", cum_qty=dec("1"), leaves_qty=dec("1"))
    assert scene.solver(right) is None


@pytest.mark.parametrize(
    ("order", "rule"),
    [
        (limit("o", "1", "1000.25"), "off-tick"),
        (limit("o", "1", "0"), "off-tick"),
        (limit("o", "1.0005", "1000"), "off-lot"),
        (limit("o", "0", "1000"), "off-lot"),
        (limit("o", "0.009", "1000"), "notional-out-of-bounds"),
        (limit("o", "201", "1000"), "notional-out-of-bounds"),
        (limit("o", symbol="DOGE"), "unknown-symbol"),
        (limit("o", expire=START), "expired"),
        (replace(limit("o"), price=None), "missing-field"),
        (replace(limit("o"), quote_id="q"), "field-not-allowed"),
        (replace(limit("o"), ord_type=OrdType.PREVIOUSLY_QUOTED), "missing-field"),
        (replace(limit("o"), position_id=bytes(32)), "field-not-allowed"),
        (limit("o", "2", "1000", closes=bytes(32)), "unknown-position"),
        (replace(limit("o", closes=bytes(32)), position_id=None), "missing-field"),
    ],
)
def test_an_order_outside_the_instrument_s_rules_is_refused(
    scene: Scene, order: object, rule: str
) -> None:
    scene.violation_of_trader(order, rule)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fill", "rule"),
    [
        (trade("e", "o", "0.5", "999.75"), "off-tick"),
        (trade("e", "o", "0.0005"), "off-lot"),
        (trade("e", "o", "0"), "off-lot"),
        (report("e", "o", ExecType.TRADE), "missing-field"),
        (report("e", "o", ExecType.NEW, last_px=dec("1")), "field-not-allowed"),
    ],
)
def test_a_fill_outside_the_instrument_s_rules_is_refused(
    scene: Scene, fill: object, rule: str
) -> None:
    scene.trade(limit("o"))
    scene.violation_of_solver(fill, rule)  # type: ignore[arg-type]


def test_each_lane_sends_only_its_own_messages(scene: Scene) -> None:
    scene.violation_of_solver(limit("o"), "wrong-lane")
    scene.violation_of_trader(trade("e", "o"), "wrong-lane")


def test_no_more_orders_are_open_than_the_terms_allow() -> None:
    scene = Scene(make_terms(limits=Limits(open_orders=2))).open_for_trading()
    scene.trade(limit("o1", "0.1"))
    scene.trade(limit("o2", "0.1"))
    scene.violation_of_trader(limit("o3", "0.1"), "too-many-orders")
    scene.trade(cancel("c", "o1"))
    assert scene.trade(limit("o4", "0.1")) is None


def test_no_more_positions_are_open_than_the_terms_allow() -> None:
    scene = Scene(make_terms(limits=Limits(positions=1))).open_for_trading()
    scene.opened("0.1")
    scene.trade(limit("o", "0.1"))
    scene.violation_of_solver(trade("e", "o", "0.1"), "too-many-positions")


def test_nothing_opens_after_the_end_date_but_closes_go_on() -> None:
    scene = Scene(make_terms(end_date=START + 3600 * SECOND)).open_for_trading()
    held = scene.opened()
    late = START + 4000 * SECOND
    scene.trader(Heartbeat())
    scene.cover(late)
    scene.violation_of_trader(limit("o", expire=late + SECOND), "past-end-date")
    assert (
        scene.trade(limit("c", "1", "1000", Side.SELL, closes=held, expire=late + SECOND)) is None
    )
    assert scene.solver(trade("e", "c")) is None


def test_the_end_date_itself_is_still_in_time() -> None:
    end = START + 60 * SECOND
    scene = Scene(make_terms(end_date=end)).open_for_trading()
    scene.trader(limit("o", expire=end + SECOND), at=end)
    scene.trader(limit("p", expire=end + SECOND), at=end)
    assert scene.solver(trade("e", "o"), at=end) is None
    scene.now = end + 1
    scene.violation_of_solver(trade("e2", "p"), "past-end-date")
    wants = replace(replacing("n", "p", "2", "1000"), expire_time=end + SECOND)
    scene.violation_of_trader(wants, "past-end-date")


def test_a_fill_needs_margin_at_the_price_it_is_made() -> None:
    scene = Scene(make_terms(instruments=(replace(BTC, max_leverage=dec("100")),)))
    scene.open_for_trading(trader=1000, solver=100_000)
    assert scene.trade(limit("o", "11", "1000", Side.SELL)) is None
    found = scene.violation_of_solver(trade("e", "o", "11", "1030"), "margin")
    assert ("lane", "trader") in found.values
    assert scene.solver(trade("e2", "o", "11", "1010")) is None


def test_the_notional_bounds_themselves_are_allowed() -> None:
    scene = Scene().open_for_trading(trader=10**6, solver=10**6)
    assert scene.trade(limit("least", "0.01", "1000")) is None
    assert scene.trade(limit("most", "200", "1000")) is None
    scene.violation_of_trader(limit("over", "200", "1000.5"), "notional-out-of-bounds")
    scene.violation_of_trader(limit("under", "0.01", "999.5"), "notional-out-of-bounds")


def test_margin_may_be_used_to_the_last_unit() -> None:
    scene = Scene(make_terms(instruments=(replace(ETH, max_leverage=dec("100")),)))
    scene.open_for_trading(trader=1000, solver=100_000)
    over = limit("o1", "11.2500001", "1000", symbol="ETH")
    found = scene.violation_of_trader(over, "margin")
    assert found.values == (("lane", "trader"), ("short_by", "0.000008"))
    assert scene.trade(limit("o2", "11.25", "1000", symbol="ETH")) is None
    assert scene.account.available_for_orders(Lane.TRADER) == 0


def test_leverage_is_counted_for_each_instrument() -> None:
    light = Rates(cva=dec("0.01"), lf=dec("0.005"), mm=dec("0.02"))
    instruments = (replace(BTC, trader=light, open_fee=0), replace(ETH, trader=light))
    scene = Scene(make_terms(instruments=instruments))
    scene.open_for_trading(trader=1000, solver=100_000)
    scene.opened("5", "1000", symbol="ETH")
    assert scene.trade(limit("o1", "8.9", "1000")) is None, "not counted together"
    scene.violation_of_trader(limit("o2", "4.001", "1000", symbol="ETH"), "leverage")
    assert scene.trade(limit("o3", "4", "1000", symbol="ETH")) is None


# --- margin ------------------------------------------------------------------------------------


def test_an_order_needs_margin_on_the_trader_s_side() -> None:
    # 900 is allocated; 8 % and the fee of 0.05 % together bind 900 at a notional of 11,180.12
    scene = Scene(make_terms(instruments=(replace(BTC, max_leverage=dec("100")),)))
    scene.open_for_trading(trader=1000, solver=100_000)
    found = scene.violation_of_trader(limit("o1", "11.181"), "margin")
    assert ("lane", "trader") in found.values
    assert scene.trade(limit("o2", "11.180")) is None


def test_an_order_needs_margin_on_the_solver_s_side() -> None:
    scene = Scene(make_terms(instruments=(replace(BTC, max_leverage=dec("100")),)))
    scene.open_for_trading(trader=100_000, solver=1000)
    found = scene.violation_of_trader(limit("o1", "13.334"), "margin")
    assert ("lane", "solver") in found.values
    assert scene.trade(limit("o2", "13.333")) is None


def test_no_side_goes_above_the_instrument_s_leverage() -> None:
    scene = Scene().open_for_trading(trader=1000, solver=100_000)
    found = scene.violation_of_trader(limit("o", "9.001"), "leverage")
    assert ("lane", "trader") in found.values
    assert scene.trade(limit("o2", "9")) is None


def test_orders_not_yet_filled_count_against_margin(scene: Scene) -> None:
    scene.trade(limit("o", "10"))
    assert scene.account.pending(Lane.TRADER) == dec("800")
    assert scene.account.pending(Lane.SOLVER) == dec("600")
    scene.solver(trade("e", "o", "4"))
    assert scene.account.pending(Lane.TRADER) == dec("480")
    assert scene.account.locked(Lane.TRADER) == dec("320")
    scene.solver(report("d", "o", ExecType.REJECTED))
    assert scene.account.pending(Lane.TRADER) == 0


# --- last look, decline, cancel, replace --------------------------------------------------------


def test_a_lock_is_the_solver_s_last_look(scene: Scene) -> None:
    scene.trade(limit("o"))
    assert scene.solver(report("l", "o", ExecType.NEW)) is None
    assert scene.account.status_of("o") is OrderStatus.LOCKED
    scene.violation_of_solver(report("l2", "o", ExecType.NEW), "order-not-pending")


@pytest.mark.parametrize("locked", [False, True])
def test_declining_is_free_until_the_order_is_filled(scene: Scene, locked: bool) -> None:
    before = scene.account.payouts
    scene.trade(limit("o"))
    if locked:
        scene.solver(report("l", "o", ExecType.NEW))
    assert scene.solver(report("d", "o", ExecType.REJECTED)) is None
    assert scene.account.status_of("o") is OrderStatus.DECLINED
    assert scene.account.payouts == before
    scene.violation_of_solver(trade("e", "o"), "unknown-order")


def test_a_filled_order_cannot_be_declined(scene: Scene) -> None:
    scene.trade(limit("o"))
    scene.solver(trade("e", "o"))
    scene.violation_of_solver(report("d", "o", ExecType.REJECTED), "unknown-order")


def test_a_cancel_takes_a_pending_order_at_once(scene: Scene) -> None:
    scene.trade(limit("o"))
    assert scene.trade(cancel("c", "o")) is None
    assert scene.account.status_of("o") is OrderStatus.CANCELLED


def test_the_solver_may_confirm_how_an_order_has_ended(scene: Scene) -> None:
    scene.trade(limit("o"))
    scene.trade(replacing("n", "o", "2", "1000"))
    scene.trade(cancel("c", "n"))
    before = scene.account.ended_orders
    assert scene.solver(report("x", "o", ExecType.REPLACED)) is None
    assert scene.solver(report("y", "n", ExecType.CANCELED)) is None
    assert scene.account.ended_orders == before


def test_a_cancel_that_the_solver_had_seen_stops_the_fill(scene: Scene) -> None:
    scene.trade(limit("o"))
    scene.trader(cancel("c", "o"))
    found = scene.solver(trade("e", "o"))
    assert found is not None
    assert found.name == "unknown-order"
    assert not len(scene.account.positions)


def test_a_fill_that_crosses_the_cancel_stands(scene: Scene) -> None:
    scene.trade(limit("o"))
    _, seen = scene.replay.heads[::-1]
    scene.trader(cancel("c", "o"))
    assert scene.solver(trade("e", "o"), covers=seen) is None
    (ruling,) = scene.cover()
    assert ruling.violation is None, "the cancel crossed the fill and is no violation"
    assert scene.account.status_of("o") is OrderStatus.FILLED
    assert scene.solver(refuses("c", "o", CxlRejResponseTo.CANCEL)) is None


def test_a_cancel_of_a_locked_order_asks(scene: Scene) -> None:
    scene.trade(limit("o"))
    scene.solver(report("l", "o", ExecType.NEW))
    assert scene.trade(cancel("c", "o")) is None
    assert scene.account.status_of("o") is OrderStatus.CANCEL_PENDING
    scene.violation_of_trader(cancel("c2", "o"), "already-pending")
    assert scene.solver(report("x", "o", ExecType.CANCELED, orig_cl_ord_id="c")) is None
    assert scene.account.status_of("o") is OrderStatus.CANCELLED


def test_a_cancel_that_is_refused_leaves_the_order_locked(scene: Scene) -> None:
    scene.trade(limit("o"))
    scene.solver(report("l", "o", ExecType.NEW))
    scene.trade(cancel("c", "o"))
    scene.violation_of_solver(refuses("c", "o", CxlRejResponseTo.REPLACE), "nothing-pending")
    scene.violation_of_solver(refuses("z", "o", CxlRejResponseTo.CANCEL), "nothing-pending")
    assert scene.solver(refuses("c", "o", CxlRejResponseTo.CANCEL)) is None
    assert scene.account.status_of("o") is OrderStatus.LOCKED


def test_a_part_filled_while_its_cancel_is_pending_cancels_the_rest(scene: Scene) -> None:
    scene.trade(limit("o", "2"))
    scene.solver(report("l", "o", ExecType.NEW))
    scene.trade(cancel("c", "o"))
    assert scene.solver(trade("e", "o", "0.5")) is None
    assert scene.account.status_of("o") is OrderStatus.CANCELLED
    assert len(scene.account.positions) == 1


def test_a_cancel_is_accepted_only_where_it_was_asked_for(scene: Scene) -> None:
    scene.trade(limit("o"))
    scene.violation_of_solver(report("x", "o", ExecType.CANCELED), "nothing-pending")


def test_a_cancel_of_an_order_never_sent_is_refused(scene: Scene) -> None:
    before = scene.money_and_business()
    assert scene.trade(cancel("c", "nothing")) is None
    assert scene.money_and_business() == before


def test_a_pending_order_is_replaced_at_once(scene: Scene) -> None:
    scene.trade(limit("o", "1", "1000"))
    assert scene.trade(replacing("n", "o", "2", "1001")) is None
    assert scene.account.status_of("o") is OrderStatus.REPLACED
    made = scene.account.orders["n"]
    assert (made.quantity, made.price) == (dec("2"), dec("1001"))
    assert scene.solver(trade("e", "n", "2", "1001")) is None


def test_a_replacement_counts_what_was_filled(scene: Scene) -> None:
    scene.trade(limit("o", "2"))
    scene.solver(trade("e", "o", "1.5"))
    scene.violation_of_trader(replacing("n1", "o", "1.5", "1000"), "off-lot")
    assert scene.trade(replacing("n2", "o", "1.6", "1000")) is None
    assert scene.account.orders["n2"].leaves == dec("0.1")


def test_a_replacement_is_held_to_an_order_s_rules(scene: Scene) -> None:
    scene.trade(limit("o"))
    scene.violation_of_trader(replacing("n1", "o", "1", "1000.1"), "off-tick")
    scene.violation_of_trader(replacing("n2", "o", "150", "1000"), "margin")
    assert scene.account.status_of("o") is OrderStatus.PENDING


def test_a_replacement_is_asked_for_once_in_time_and_in_lots(scene: Scene) -> None:
    scene.trade(limit("o"))
    scene.violation_of_trader(replacing("n1", "o", "1.0001", "1000"), "off-lot")
    past = replace(replacing("n2", "o", "1", "1000"), expire_time=START)
    scene.violation_of_trader(past, "expired")
    assert scene.trade(replacing("n3", "nothing", "1", "1000")) is None
    end = scene.now + 1
    last = replace(replacing("n4", "o", "1", "1000"), expire_time=end)
    scene.trader(last, at=end)
    (ruling,) = scene.write(Lane.SOLVER, Heartbeat(), at=end)[:-1]
    assert ruling.violation is None, "its last nanosecond is in time"
    scene.trade(limit("p"))
    scene.solver(report("l", "p", ExecType.NEW))
    scene.trade(replacing("n5", "p", "2", "1000"))
    scene.violation_of_trader(replacing("n6", "p", "3", "1000"), "already-pending")


def test_a_replacement_that_crosses_the_end_of_its_order_changes_nothing(scene: Scene) -> None:
    scene.trade(limit("o"))
    scene.solver(trade("e", "o"))
    assert scene.trade(replacing("n", "o", "2", "1000")) is None
    assert scene.account.status_of("n") is None


def test_the_solver_agrees_only_to_a_replacement_that_is_still_possible(scene: Scene) -> None:
    scene.trade(limit("o", "2"))
    scene.solver(report("l", "o", ExecType.NEW))
    end = scene.now + SECOND
    scene.trade(replace(replacing("n", "o", "1", "1000"), expire_time=end))
    scene.solver(trade("e", "o", "1"))
    scene.violation_of_solver(report("x1", "o", ExecType.REPLACED), "off-lot")
    scene.cover(end + 1)
    scene.trade(limit("p"))
    scene.solver(report("l2", "p", ExecType.NEW))
    end = scene.now + SECOND
    scene.trade(replace(replacing("n2", "p", "2", "1000"), expire_time=end))
    scene.trader(Heartbeat())
    scene.cover(end + 1)
    scene.violation_of_solver(report("x2", "p", ExecType.REPLACED), "expired")
    assert scene.account.status_of("p") is OrderStatus.REPLACE_PENDING


def test_a_cancel_overrules_a_replacement_that_is_pending(scene: Scene) -> None:
    scene.trade(limit("o"))
    scene.solver(report("l", "o", ExecType.NEW))
    scene.trade(replacing("n", "o", "2", "1000"))
    assert scene.trade(cancel("c", "o")) is None
    assert scene.account.status_of("o") is OrderStatus.CANCEL_PENDING
    scene.violation_of_solver(report("x", "o", ExecType.REPLACED), "nothing-pending")


def test_a_locked_order_is_replaced_if_the_solver_agrees(scene: Scene) -> None:
    scene.trade(limit("o"))
    scene.solver(report("l", "o", ExecType.NEW))
    scene.trade(replacing("n", "o", "3", "1000"))
    assert scene.account.status_of("o") is OrderStatus.REPLACE_PENDING
    assert scene.solver(report("x", "o", ExecType.REPLACED)) is None
    assert scene.account.orders["n"].quantity == dec("3")


def test_a_replacement_that_is_refused_leaves_the_order(scene: Scene) -> None:
    scene.trade(limit("o"))
    scene.solver(report("l", "o", ExecType.NEW))
    scene.trade(replacing("n", "o", "3", "1000"))
    assert scene.solver(refuses("n", "o", CxlRejResponseTo.REPLACE)) is None
    assert scene.account.status_of("o") is OrderStatus.LOCKED
    assert scene.account.orders["o"].quantity == dec("1")


# --- time --------------------------------------------------------------------------------------


def test_a_fill_at_the_last_moment_of_the_order_is_in_time(scene: Scene) -> None:
    end = scene.now + 5 * SECOND
    scene.trade(limit("o", expire=end))
    assert scene.solver(trade("e", "o"), at=end) is None


def test_an_order_dies_a_nanosecond_after_its_time(scene: Scene) -> None:
    end = scene.now + 5 * SECOND
    scene.trade(limit("o", expire=end))
    found = scene.solver(trade("e", "o"), at=end + 1)
    assert found is not None
    assert found.name == "unknown-order"
    assert scene.account.status_of("o") is OrderStatus.EXPIRED


def test_a_locked_order_dies_too_and_may_be_reported_expired(scene: Scene) -> None:
    end = scene.now + 5 * SECOND
    scene.trade(limit("o", expire=end))
    scene.solver(report("l", "o", ExecType.NEW))
    scene.violation_of_solver(report("x", "o", ExecType.EXPIRED), "not-expired")
    assert scene.solver(report("y", "o", ExecType.EXPIRED), at=end + 1) is None
    assert scene.account.status_of("o") is OrderStatus.EXPIRED


# --- closing -----------------------------------------------------------------------------------


def close(name: str, held: bytes, quantity: str, price: str, side: Side = Side.SELL) -> object:
    return limit(name, quantity, price, side, closes=held, expire=START + 900 * SECOND)


def test_a_position_is_closed_in_parts(scene: Scene) -> None:
    held = scene.opened("2", "1000")
    assert scene.trade(close("c", held, "2", "1100")) is None  # type: ignore[arg-type]
    assert scene.account.status_of("c") is OrderStatus.CLOSE_PENDING
    assert scene.solver(trade("e1", "c", "0.5", "1100")) is None
    assert scene.account.positions[held].quantity == dec("1.5")
    assert scene.account.realised == dec("50")
    assert scene.solver(trade("e2", "c", "1.5", "1110")) is None
    assert held not in scene.account.positions
    assert scene.account.realised == dec("215")


def test_a_close_of_a_part_leaves_the_rest_open(scene: Scene) -> None:
    held = scene.opened("2")
    scene.trade(close("c", held, "0.5", "1000"))  # type: ignore[arg-type]
    scene.solver(trade("e", "c", "0.5"))
    assert scene.account.positions[held].quantity == dec("1.5")
    assert scene.trade(close("c2", held, "1.5", "1000")) is None  # type: ignore[arg-type]


def test_a_short_gains_when_the_price_falls(scene: Scene) -> None:
    held = scene.opened("1", "1000", Side.SELL)
    scene.trade(close("c", held, "1", "900", Side.BUY))  # type: ignore[arg-type]
    scene.solver(trade("e", "c", "1", "900"))
    assert scene.account.realised == dec("100")


def test_a_close_is_filled_no_worse_than_its_price(scene: Scene) -> None:
    held = scene.opened()
    scene.trade(close("c", held, "1", "1000"))  # type: ignore[arg-type]
    scene.violation_of_solver(trade("e", "c", "1", "999.5"), "fill-worse-than-price")


def test_a_market_close_is_filled_whole(scene: Scene) -> None:
    held = scene.opened("2")
    order = limit("c", "2", "990", Side.SELL, closes=held, ord_type=OrdType.MARKET)
    assert scene.trade(order) is None
    scene.violation_of_solver(trade("e1", "c", "1", "1000"), "partial-market-close")
    assert scene.solver(trade("e2", "c", "2", "991")) is None


@pytest.mark.parametrize(
    ("quantity", "side", "symbol"),
    [("2.001", Side.SELL, "BTC"), ("1", Side.BUY, "BTC"), ("1", Side.SELL, "ETH")],
)
def test_a_close_must_fit_its_position(
    scene: Scene, quantity: str, side: Side, symbol: str
) -> None:
    held = scene.opened("2")
    order = limit("c", quantity, "1000", side, closes=held, symbol=symbol)
    scene.violation_of_trader(order, "close-mismatch")


def test_a_position_has_one_close_at_a_time(scene: Scene) -> None:
    held = scene.opened("2")
    scene.trade(close("c", held, "1", "1000"))  # type: ignore[arg-type]
    scene.violation_of_trader(close("c2", held, "1", "1000"), "close-pending")  # type: ignore[arg-type]


def test_only_the_trader_closes(scene: Scene) -> None:
    held = scene.opened()
    scene.violation_of_solver(close("c", held, "1", "1000"), "wrong-lane")  # type: ignore[arg-type]


def test_a_close_is_never_locked(scene: Scene) -> None:
    held = scene.opened()
    scene.trade(close("c", held, "1", "1000"))  # type: ignore[arg-type]
    scene.violation_of_solver(report("l", "c", ExecType.NEW), "order-not-pending")


def test_a_close_that_is_declined_leaves_the_position_open(scene: Scene) -> None:
    held = scene.opened()
    scene.trade(close("c", held, "1", "1000"))  # type: ignore[arg-type]
    assert scene.solver(report("d", "c", ExecType.REJECTED)) is None
    assert scene.account.positions[held].close_order is None


def test_a_cancel_of_a_close_asks(scene: Scene) -> None:
    held = scene.opened()
    scene.trade(close("k", held, "1", "1000"))  # type: ignore[arg-type]
    scene.trade(cancel("c", "k"))
    assert scene.account.status_of("k") is OrderStatus.CANCEL_CLOSE_PENDING
    assert scene.solver(report("x", "k", ExecType.CANCELED)) is None
    assert scene.account.positions[held].close_order is None


def test_a_close_may_be_filled_while_its_cancel_is_pending(scene: Scene) -> None:
    held = scene.opened("2")
    scene.trade(close("k", held, "2", "1000"))  # type: ignore[arg-type]
    scene.trade(cancel("c", "k"))
    assert scene.solver(trade("e", "k", "1")) is None
    assert scene.account.status_of("k") is OrderStatus.CANCELLED
    assert scene.account.positions[held].quantity == dec("1")
    assert scene.account.positions[held].close_order is None


def test_a_cancel_of_a_close_that_is_refused_leaves_it_pending(scene: Scene) -> None:
    held = scene.opened()
    scene.trade(close("k", held, "1", "1000"))  # type: ignore[arg-type]
    scene.trade(cancel("c", "k"))
    assert scene.solver(refuses("c", "k", CxlRejResponseTo.CANCEL)) is None
    assert scene.account.status_of("k") is OrderStatus.CLOSE_PENDING


def test_a_close_that_expires_leaves_the_position_open(scene: Scene) -> None:
    held = scene.opened()
    end = scene.now + SECOND
    scene.trade(limit("c", "1", "1000", Side.SELL, closes=held, expire=end))
    scene.cover(end + 1)
    assert scene.account.status_of("c") is OrderStatus.EXPIRED
    assert scene.account.positions[held].close_order is None


def test_closes_cannot_be_replaced(scene: Scene) -> None:
    held = scene.opened()
    scene.trade(close("k", held, "1", "1000"))  # type: ignore[arg-type]
    scene.violation_of_trader(replacing("n", "k", "1", "1001"), "not-replaceable")


# --- forcing -----------------------------------------------------------------------------------


def test_a_cancel_unanswered_beyond_the_cooldown_is_forced(scene: Scene) -> None:
    held = scene.opened()
    scene.trade(close("k", held, "1", "1000"))  # type: ignore[arg-type]
    scene.trade(cancel("c", "k"))
    asked = scene.account.orders["k"].since
    cooldown = scene.terms.timeouts.force_cancel_cooldown
    early = ForceAction(force_kind=ForceKind.CANCEL, cl_ord_id="f1", orig_cl_ord_id="k")
    scene.violation_of_trader(early, "cooldown")
    scene.trader(Heartbeat())
    scene.trader(replace(early, cl_ord_id="f2"), at=asked + cooldown)
    (_, ruling) = scene.write(Lane.SOLVER, Heartbeat(), at=asked + cooldown)[:-1]
    assert ruling.violation is not None
    assert ruling.violation.name == "cooldown"
    assert scene.trade(replace(early, cl_ord_id="f3")) is None
    assert scene.account.status_of("k") is OrderStatus.CANCELLED


def test_only_a_pending_cancel_can_be_forced(scene: Scene) -> None:
    scene.trade(limit("o"))
    act = ForceAction(force_kind=ForceKind.CANCEL, cl_ord_id="f", orig_cl_ord_id="o")
    scene.violation_of_trader(act, "nothing-pending")


def test_a_forced_close_is_not_ruled_yet(scene: Scene) -> None:
    act = ForceAction(force_kind=ForceKind.CLOSE, cl_ord_id="f", orig_cl_ord_id="o")
    scene.violation_of_trader(act, "not-yet-in-force")


# --- logging out -------------------------------------------------------------------------------


@pytest.mark.parametrize("lane", list(Lane))
def test_after_a_logout_nothing_opens_and_everything_closes(scene: Scene, lane: Lane) -> None:
    held = scene.opened()
    scene.trade(limit("waiting"))
    scene.write(lane, Logout())
    scene.cover()
    assert scene.account.status_of("waiting") is OrderStatus.CANCELLED
    scene.violation_of_trader(limit("o"), "logged-out")
    later = scene.now + 10**9
    scene.violation_of_solver(quote("e1", later, symbol="ETH"), "logged-out")
    assert scene.solver(quote("q1", later)) is None, "it can close what is open in its symbol"
    scene.violation_of_trader(hit("o2", "q1"), "logged-out")
    assert scene.trade(close("c", held, "1", "1000")) is None  # type: ignore[arg-type]
    assert scene.solver(trade("e", "c")) is None
    assert scene.account.flat
    scene.violation_of_solver(quote("q2", later), "logged-out")
