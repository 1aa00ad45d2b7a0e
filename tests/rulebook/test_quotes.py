"""Quotes: asked for, made, hit once, withdrawn, passed on, outlived."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rulebook_scene import Scene, dec, hit, limit, logon, make_terms, quote, report, trade

from psymm.messages import (
    ExecType,
    Heartbeat,
    OrdType,
    QuoteCancel,
    QuoteCancelType,
    QuoteRequest,
    QuoteRequestReject,
    QuoteRequestRejectReason,
    QuoteResponse,
    QuoteRespType,
    Side,
)
from psymm.rulebook import Lane
from psymm.terms import NANOSECONDS, Limits

SECOND = NANOSECONDS


def asks(name: str, quantity: str = "1", **changes: object) -> QuoteRequest:
    values = {"quote_req_id": name, "symbol": "BTC", "order_qty": dec(quantity)}
    return QuoteRequest(**(values | changes))  # type: ignore[arg-type]


def test_a_request_a_quote_an_order_and_a_fill(scene: Scene) -> None:
    assert scene.trade(asks("r")) is None
    assert scene.solver(quote("q", scene.now + 30 * SECOND, quote_req_id="r")) is None
    assert scene.trade(hit("o", "q")) is None
    assert scene.account.orders["o"].price == dec("1001")
    assert scene.solver(trade("e", "o", "1", "1001")) is None


def test_a_hit_ends_the_request_that_was_answered_with_its_other_quotes(scene: Scene) -> None:
    scene.trade(asks("r"))
    scene.trade(asks("other"))
    end = scene.now + 30 * SECOND
    for name, request in (("q", "r"), ("q2", "r"), ("q3", "other"), ("q4", None)):
        assert scene.solver(quote(name, end, quote_req_id=request)) is None
    assert scene.trade(hit("o", "q")) is None
    assert set(scene.account.requests) == {"other"}
    assert set(scene.account.quotes) == {"q3", "q4"}
    scene.violation_of_trader(hit("o2", "q2"), "unknown-quote")
    scene.violation_of_solver(quote("q5", end, quote_req_id="r"), "unknown-quote-request")


def test_a_refused_hit_ends_nothing(scene: Scene) -> None:
    scene.trade(asks("r"))
    scene.solver(quote("q", scene.now + 30 * SECOND, quote_req_id="r"))
    scene.violation_of_trader(hit("o", "q", "6"), "quote-mismatch")
    assert set(scene.account.requests) == {"r"}
    assert set(scene.account.quotes) == {"q"}


def test_a_fast_trader_by_request_never_meets_the_limit_of_quotes(scene: Scene) -> None:
    for n in range(3 * scene.terms.limits.open_quotes):
        assert scene.trade(asks(f"r{n}", "0.01")) is None
        end = scene.now + 30 * SECOND
        assert scene.solver(quote(f"q{n}", end, quote_req_id=f"r{n}")) is None
        assert scene.trade(hit(f"o{n}", f"q{n}", "0.01")) is None
        declined = report(f"e{n}", f"o{n}", ExecType.REJECTED)
        assert scene.solver(declined) is None


def test_a_sell_hits_the_bid(scene: Scene) -> None:
    scene.solver(quote("q", scene.now + SECOND))
    assert scene.trade(hit("o", "q", side=Side.SELL)) is None
    assert scene.account.orders["o"].price == dec("999")


def test_a_quote_is_hit_once(scene: Scene) -> None:
    scene.solver(quote("q", scene.now + 30 * SECOND))
    scene.trade(hit("o1", "q"))
    scene.violation_of_trader(hit("o2", "q"), "unknown-quote")


def test_a_quote_is_good_until_its_last_nanosecond(scene: Scene) -> None:
    end = scene.now + 5 * SECOND
    scene.solver(quote("q", end))
    scene.trader(hit("o", "q"), at=end)
    (ruling,) = scene.cover(end + SECOND)
    assert ruling.violation is None


def test_a_quote_hit_after_its_life_is_refused(scene: Scene) -> None:
    end = scene.now + 5 * SECOND
    scene.solver(quote("q", end))
    scene.trader(hit("o", "q"), at=end + 1)
    (ruling,) = scene.cover()
    assert ruling.violation is not None
    assert ruling.violation.name == "unknown-quote"


def test_a_quote_withdrawn_before_the_order_takes_effect_cannot_be_hit(scene: Scene) -> None:
    scene.solver(quote("q", scene.now + 30 * SECOND))
    withdraw = QuoteCancel(quote_cancel_type=QuoteCancelType.QUOTE, quote_id="q")
    covered, _ = scene.replay.heads
    scene.trader(hit("o", "q"))
    assert scene.solver(withdraw, covers=covered) is None
    (ruling,) = scene.cover()
    assert ruling.violation is not None
    assert ruling.violation.name == "unknown-quote"


def test_a_quote_hit_before_it_is_withdrawn_stays_hit(scene: Scene) -> None:
    scene.solver(quote("q", scene.now + 30 * SECOND))
    scene.trade(hit("o", "q"))
    withdraw = QuoteCancel(quote_cancel_type=QuoteCancelType.QUOTE, quote_id="q")
    assert scene.solver(withdraw) is None
    assert scene.solver(trade("e", "o", "1", "1001")) is None


@pytest.mark.parametrize(
    ("kind", "symbol", "left"),
    [(QuoteCancelType.ALL, None, set()), (QuoteCancelType.SYMBOL, "ETH", {"q"})],
)
def test_quotes_are_withdrawn_together(
    scene: Scene, kind: QuoteCancelType, symbol: str | None, left: set[str]
) -> None:
    scene.solver(quote("q", scene.now + SECOND))
    scene.solver(quote("q2", scene.now + SECOND, symbol="ETH"))
    assert scene.solver(QuoteCancel(quote_cancel_type=kind, symbol=symbol)) is None
    assert set(scene.account.quotes) == left


def test_a_quote_passed_on_is_gone(scene: Scene) -> None:
    scene.solver(quote("q", scene.now + SECOND))
    passes = QuoteResponse(quote_resp_id="p", quote_id="q", quote_resp_type=QuoteRespType.PASS)
    assert scene.trade(passes) is None
    scene.violation_of_trader(hit("o", "q"), "unknown-quote")
    before = scene.money_and_business()
    assert scene.trade(replace(passes, quote_id="z")) is None, "what has ended leaves no trace"
    assert scene.money_and_business() == before


def test_a_request_refused_cannot_be_quoted(scene: Scene) -> None:
    scene.trade(asks("r"))
    no = QuoteRequestReject(
        quote_req_id="r", quote_request_reject_reason=QuoteRequestRejectReason.NO_QUOTES
    )
    assert scene.solver(no) is None
    late = quote("q", scene.now + SECOND, quote_req_id="r")
    scene.violation_of_solver(late, "unknown-quote-request")
    scene.violation_of_solver(no, "unknown-quote-request")


def test_a_request_outside_the_rules_is_refused(scene: Scene) -> None:
    scene.violation_of_trader(asks("r1", "0.0001"), "off-lot")
    scene.violation_of_trader(asks("r2", symbol="DOGE"), "unknown-symbol")
    scene.violation_of_trader(asks("r3", expire_time=scene.now), "expired")
    scene.trade(asks("r4"))
    scene.violation_of_trader(asks("r4"), "duplicate-id")


def test_a_request_may_end_sooner_than_the_terms_say(scene: Scene) -> None:
    end = scene.now + SECOND
    scene.trader(asks("r", expire_time=end), at=end)
    scene.write(Lane.SOLVER, Heartbeat(), at=end)
    assert "r" in scene.account.requests
    scene.cover(end + 1)
    assert "r" not in scene.account.requests


def test_a_quote_may_live_as_long_as_the_terms_allow(scene: Scene) -> None:
    at = scene.now + SECOND
    life = scene.terms.timeouts.quote_life
    scene.solver(quote("q", at + life), at=at)
    assert "q" in scene.account.quotes
    scene.solver(quote("q2", at + life + 1), at=at)
    assert "q2" not in scene.account.quotes
    scene.solver(quote("q3", at), at=at)
    assert "q3" in scene.account.quotes
    scene.solver(quote("q4", at + 1, bid_px=dec("1000"), offer_px=dec("1000")), at=at)
    assert "q4" in scene.account.quotes, "a bid at the offer is not crossed"


def test_rule_11_a_quote_id_must_differ_from_what_is_alive(scene: Scene) -> None:
    scene.solver(quote("q", scene.now + SECOND))
    scene.violation_of_solver(quote("q", scene.now + SECOND), "duplicate-id")
    scene.solver(QuoteCancel(quote_cancel_type=QuoteCancelType.ALL))
    passes = QuoteResponse(quote_resp_id="p", quote_id="q", quote_resp_type=QuoteRespType.PASS)
    assert scene.trade(passes) is None, "it crossed the withdrawal"
    assert scene.solver(quote("q", scene.now + SECOND)) is None


def test_rule_11_a_message_means_the_live_quote_only_if_its_frame_covers_it(scene: Scene) -> None:
    """The solver withdraws a quote and makes another of the same id while the trader's answers to
    the first are on their way."""
    scene.solver(quote("q", scene.now + 30 * SECOND))
    seen = scene.account.solver_seq
    scene.solver(QuoteCancel(quote_cancel_type=QuoteCancelType.ALL))
    scene.solver(quote("q", scene.now + 30 * SECOND))
    passes = QuoteResponse(quote_resp_id="p", quote_id="q", quote_resp_type=QuoteRespType.PASS)
    scene.trader(passes, covers=seen)
    scene.trader(hit("o", "q"), covers=seen)
    passed, ordered = scene.cover()
    assert passed.violation is None
    assert ordered.violation is not None
    assert ordered.violation.name == "unknown-quote"
    assert "q" in scene.account.quotes
    assert scene.trade(hit("o", "q")) is None


def test_rule_11_a_request_id_is_taken_while_a_quote_that_answers_it_lives(scene: Scene) -> None:
    scene.trader(asks("r", expire_time=scene.now + SECOND))
    assert scene.solver(quote("q", scene.now + 30 * SECOND, quote_req_id="r")) is None
    scene.cover(scene.now + 2 * SECOND)
    assert "r" not in scene.account.requests
    scene.violation_of_trader(asks("r"), "duplicate-id")
    scene.solver(QuoteCancel(quote_cancel_type=QuoteCancelType.ALL))
    assert scene.trade(asks("r")) is None


def test_rule_11_a_hit_carries_its_price(scene: Scene) -> None:
    scene.solver(quote("q", scene.now + 30 * SECOND))
    scene.violation_of_trader(replace(hit("o", "q"), price=None), "missing-field")


def test_a_quote_answers_a_request_for_its_own_symbol(scene: Scene) -> None:
    scene.trade(asks("r"))
    other = quote("q", scene.now + SECOND, symbol="ETH", quote_req_id="r")
    scene.violation_of_solver(other, "unknown-quote-request")


@pytest.mark.parametrize(
    "says",
    [
        QuoteCancel(quote_cancel_type=QuoteCancelType.SYMBOL),
        QuoteCancel(quote_cancel_type=QuoteCancelType.QUOTE),
    ],
)
def test_a_withdrawal_says_what_it_withdraws(scene: Scene, says: QuoteCancel) -> None:
    scene.violation_of_solver(says, "missing-field")
    never = QuoteCancel(quote_cancel_type=QuoteCancelType.QUOTE, quote_id="never")
    assert scene.solver(never) is None


def test_a_request_lives_no_longer_than_a_quote_may(scene: Scene) -> None:
    scene.trade(asks("r"))
    life = scene.terms.timeouts.quote_life
    scene.cover(scene.account.requests["r"].expire_time + 1)
    assert "r" not in scene.account.requests
    assert life == 60 * SECOND


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"bid_px": None, "offer_px": None}, "quote-without-price"),
        ({"bid_px": dec("1002")}, "quote-crossed"),
        ({"bid_px": dec("999.1")}, "off-tick"),
        ({"bid_size": dec("0.0001")}, "off-lot"),
        ({"bid_px": None}, "field-not-allowed"),
        ({"symbol": "DOGE"}, "unknown-symbol"),
        ({"quote_req_id": "never"}, "unknown-quote-request"),
        ({"valid_until_time": 1}, "expired"),
        ({"valid_until_time": 2**63}, "life-too-long"),
    ],
)
def test_a_quote_outside_the_rules_is_refused(
    scene: Scene, changes: dict[str, object], rule: str
) -> None:
    scene.violation_of_solver(quote("q", scene.now + SECOND, **changes), rule)


@pytest.mark.parametrize(
    "order",
    [
        hit("o", "q", "5.001"),
        replace(hit("o", "q"), symbol="ETH"),
        replace(hit("o", "q"), price=dec("1000")),
    ],
)
def test_an_order_must_be_what_was_quoted(scene: Scene, order: object) -> None:
    scene.solver(quote("q", scene.now + SECOND))
    scene.violation_of_trader(order, "quote-mismatch")  # type: ignore[arg-type]
    assert scene.trade(hit("o2", "q")) is None, "a mismatch does not use the quote up"


def test_a_side_that_was_not_quoted_cannot_be_hit(scene: Scene) -> None:
    scene.solver(quote("q", scene.now + SECOND, bid_px=None, bid_size=None))
    scene.violation_of_trader(hit("o", "q", side=Side.SELL), "quote-mismatch")


def test_a_market_order_may_hit_a_quote_or_name_its_worst_price(scene: Scene) -> None:
    scene.solver(quote("q", scene.now + SECOND))
    assert scene.trade(replace(hit("o1", "q"), ord_type=OrdType.MARKET)) is None
    assert scene.trade(limit("o2", ord_type=OrdType.MARKET)) is None
    bare = replace(limit("o3", ord_type=OrdType.MARKET), price=None)
    scene.violation_of_trader(bare, "missing-field")


def test_no_more_quotes_are_open_than_the_terms_allow() -> None:
    scene = Scene(make_terms(limits=Limits(open_quotes=1))).open_for_trading()
    scene.solver(quote("q1", scene.now + SECOND))
    scene.violation_of_solver(quote("q2", scene.now + SECOND), "too-many-quotes")
    scene.trade(asks("r1"))
    scene.violation_of_trader(asks("r2"), "too-many-quotes")


def test_nothing_is_quoted_before_both_collaterals_are_accepted() -> None:
    scene = Scene()
    scene.trade(logon(scene.terms))
    scene.solver(logon(scene.terms))
    scene.violation_of_trader(asks("r"), "trading-not-open")
    scene.violation_of_solver(quote("q", scene.now + SECOND), "trading-not-open")
    scene.violation_of_trader(limit("o"), "trading-not-open")
