"""The account's formulas, collateral and settlement.

This file is long because every formula of the account and every rule of collateral and settlement
has its test here.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from eth_utils import keccak
from rulebook_scene import (
    BTC,
    CUSTODY,
    ETH,
    INNERS,
    MEMOS,
    SOLVER_NOTE,
    START,
    TOKEN,
    TRADER_NOTE,
    UNITS,
    WALLETS,
    Scene,
    accepts,
    dec,
    limit,
    logon,
    make_terms,
    name_payees,
    outputs,
    payee,
    quote,
    report,
    settles,
    trade,
)

from psymm._core import FIELD_MODULUS, keccak256
from psymm.chain.calls import CtcCall
from psymm.custody.settlement import Payee, payee_message
from psymm.errors import format_amount
from psymm.messages import (
    ChainFact,
    CollAsgnReason,
    CollAsgnRespType,
    CollateralAssignment,
    CollateralResponse,
    ExecType,
    FactKind,
    Heartbeat,
    NoteRef,
    Reject,
    SessionKeyChange,
    Settlement,
    SettlementAcceptance,
    SettlementKind,
    Side,
)
from psymm.rulebook import (
    Account,
    ChainFacts,
    ChainPlace,
    FactsBehind,
    Lane,
    Price,
    Replay,
    balances,
    open_orders,
    positions,
)
from psymm.rulebook.checkpoint import restore
from psymm.rulebook.live_account import LiveAccount
from psymm.rulebook.settlement import payee_digest, settlement_digest
from psymm.rulebook.totals import put_price
from psymm.terms import NANOSECONDS, UNIT, CollateralTerms, Limits, Rates

T, S = Lane.TRADER, Lane.SOLVER
SECOND = NANOSECONDS
EXTRA = NoteRef(commitment=b"\x31" * 32, nullifier=b"\x32" * 32)


def priced(scene: Scene, symbol: str, price: str) -> None:
    """An oracle price in effect, as UPX leaves it (its signatures have their own tests)."""
    account = scene.account
    made = Price(price=dec(price), timestamp=account.clock)
    account = in_effect(account, symbol, made)
    scene.replay = Replay.at_checkpoint(scene.replay.inputs, scene.terms, account)


def in_effect(account: Account, symbol: str, price: Price) -> Account:
    """The account with a price in effect."""
    live = LiveAccount(account)
    put_price(live, symbol, price)
    return live.snapshot()


# --- formulas ----------------------------------------------------------------------------------


def test_allocated_is_collateral_less_reserve_at_first(scene: Scene) -> None:
    assert scene.account.allocated(T) == dec("9900")
    assert scene.account.allocated(S) == dec("9800")


def test_a_fee_moves_from_the_one_who_pays_to_the_one_who_receives(scene: Scene) -> None:
    scene.opened("2", "1000")
    assert scene.account.allocated(T) == dec("9899")
    assert scene.account.allocated(S) == dec("9801")


def test_a_fee_to_the_trader_is_paid_by_the_solver() -> None:
    scene = Scene(make_terms(instruments=(replace(BTC, fee_receiver="trader"),)))
    scene.open_for_trading().opened("2", "1000")
    assert scene.account.allocated(T) == dec("9901")
    assert scene.account.allocated(S) == dec("9799")


def test_locked_is_cva_lf_and_mm_of_each_side_s_own_rates(scene: Scene) -> None:
    scene.opened("2", "1000")
    assert scene.account.locked(T) == dec("160")
    assert scene.account.locked(S) == dec("120")
    assert scene.account.maintenance(T) == dec("100")
    assert scene.account.maintenance(S) == dec("80")


def test_upnl_is_at_the_latest_oracle_price_and_zero_without_one(scene: Scene) -> None:
    scene.opened("2", "1000")
    assert scene.account.upnl(T) == 0
    priced(scene, "BTC", "1010")
    assert scene.account.upnl(T) == dec("20")
    assert scene.account.upnl(S) == dec("-20")
    assert scene.account.equity(T) == dec("9919")


def test_health_is_zero_where_nothing_is_allocated_above_mm(scene: Scene) -> None:
    assert scene.account.health(T) == UNIT
    scene.opened("2", "1000")
    priced(scene, "BTC", "900")
    assert scene.account.health(T) == (dec("9699") - dec("100")) * UNIT // (
        dec("9899") - dec("100")
    )
    gone = replace(scene.account, realised=dec("-9900"))
    assert gone.health(T) == 0


def test_flagged_counts_pending_orders_and_liquidatable_does_not(scene: Scene) -> None:
    scene.opened("2", "1000")
    scene.trade(limit("o", "1", "1000"))
    allocated = dec("9899")
    room_flagged = allocated - dec("100") - dec("80")
    at_edge = replace(scene.account, realised=scene.account.realised - room_flagged + dec("20"))
    account = in_effect(at_edge, "BTC", Price(price=dec("990"), timestamp=0))
    assert account.upnl(T) == dec("-20")
    assert not account.flagged(T)
    worse = replace(account, realised=account.realised - 1)
    assert worse.flagged(T)
    assert not worse.liquidatable(T)
    assert replace(account, realised=account.realised - dec("80") - 1).liquidatable(T)


def test_the_seeds_availability_subtracts_maintenance_twice_and_the_design_does_not(
    scene: Scene,
) -> None:
    """Seed 003: AvailableForOrders = Equity − LockedMargin − MaintenanceMargin, where the locked
    margin "engages across all live positions". Design: equity − locked − pending."""
    scene.opened("2", "1000")
    account = scene.account
    assert account.available_for_orders(T) == account.equity(T) - account.locked(T)
    of_the_seed = account.equity(T) - account.locked(T) - account.maintenance(T)
    assert account.available_for_orders(T) != of_the_seed


def test_the_seed_s_worked_example_disagrees_with_itself_and_the_design_rules() -> None:
    """Seed 003: 100 put up, 0.09 of fees, uPnL +0.15, yet "$99.91 + $0.0218 = $100.064". Equity
    is allocated (net of fees) + uPnL, so 100.06; and "Locked = 50 − CVA − fees − uPnL" is not a
    lock at all: locked is Σ (CVA + LF + MM) at entry."""
    rates = Rates(cva=dec("0.02"), lf=dec("0.01"), mm=dec("0.05"))
    instrument = replace(BTC, open_fee=dec("0.0018"), trader=rates, solver=rates)
    terms = make_terms(
        instruments=(instrument,),
        collateral=CollateralTerms(
            token=TOKEN, decimals=6, trader_minimum=UNITS, solver_minimum=UNITS
        ),
    )
    scene = Scene(terms).open_for_trading(trader=100, solver=100)
    scene.opened("0.05", "1000")
    priced(scene, "BTC", "1003")
    assert scene.account.allocated(T) == dec("99.91")
    assert scene.account.upnl(T) == dec("0.15")
    assert scene.account.equity(T) == dec("100.06")
    assert scene.account.locked(T) == dec("4")


def test_the_seeds_liquidation_trigger_is_the_design_s_flag(scene: Scene) -> None:
    """Seed 001 liquidates at uPnL < −(allocated − mm − pending); by the design that only flags,
    and liquidation asks again once pending orders are cancelled."""
    scene.opened("2", "1000")
    scene.trade(limit("o", "1", "1000"))
    # flagged from −uPnL above 9,899 − 100 − 80; liquidatable from above 9,899 − 100
    account = replace(scene.account, realised=scene.account.realised - dec("9730"))
    account = in_effect(account, "BTC", Price(price=dec("990"), timestamp=0))
    assert account.flagged(T)
    assert not account.liquidatable(T)


# --- payouts -----------------------------------------------------------------------------------


def test_payouts_are_both_collaterals_and_the_trader_s_is_floored(scene: Scene) -> None:
    account = replace(scene.account, realised=dec("0.0000019"))
    assert account.payouts == (10_000 * UNITS + 1, 10_000 * UNITS - 1)
    account = replace(scene.account, realised=-1)
    assert account.payouts == (10_000 * UNITS - 1, 10_000 * UNITS + 1)


@pytest.mark.parametrize("loss", ["9900", "9901", "1000000"])
def test_pnl_never_reaches_into_the_trader_s_reserve(scene: Scene, loss: str) -> None:
    account = replace(scene.account, realised=-dec(loss))
    assert account.payouts == (100 * UNITS, 19_900 * UNITS)


@pytest.mark.parametrize("loss", ["9800", "9801", "1000000"])
def test_pnl_never_reaches_into_the_solver_s_reserve(scene: Scene, loss: str) -> None:
    account = replace(scene.account, realised=dec(loss))
    assert account.payouts == (19_800 * UNITS, 200 * UNITS)


def test_a_token_of_18_decimals_pays_to_the_last_unit() -> None:
    terms = make_terms(
        collateral=CollateralTerms(token=TOKEN, decimals=18, trader_minimum=1, solver_minimum=1)
    )
    scene = Scene(terms)
    scene.trade(logon(terms, TRADER_NOTE))
    scene.solver(logon(terms, SOLVER_NOTE))
    scene.solver(accepts(TRADER_NOTE, amount=10**22))
    scene.trade(accepts(SOLVER_NOTE, amount=10**22))
    account = replace(scene.account, realised=-1)
    assert account.payouts == (10**22 - 1, 10**22 + 1)


def test_realised_pnl_is_floored_for_the_trader_no_matter_who_gains() -> None:
    scene = Scene(make_terms(instruments=(replace(ETH, tick=1, lot=1, min_notional=0),)))
    scene.open_for_trading()
    held = scene.opened("0.5", "1000.000000000000000001", symbol="ETH")
    order = limit("c", "0.5", "1000", Side.SELL, symbol="ETH", closes=held)
    scene.trade(order)
    scene.solver(trade("e", "c", "0.5", "1000"))
    assert scene.account.realised == -1, "half of the smallest step, lost: floored towards −∞"
    held = scene.opened("0.5", "1000", symbol="ETH")
    scene.trade(limit("c2", "0.5", "1000", Side.SELL, symbol="ETH", closes=held))
    scene.solver(trade("e2", "c2", "0.5", "1000.000000000000000001"))
    assert scene.account.realised == -1, "half of the smallest step, gained: floored to nothing"
    assert scene.account.flow(S) == 1


def test_funding_has_its_place_in_the_account(scene: Scene) -> None:
    account = replace(scene.account, funding=dec("-3"))
    assert account.allocated(T) == dec("9897")
    assert account.allocated(S) == dec("9803")


# --- identity ----------------------------------------------------------------------------------


def test_the_account_s_hash_is_keccak_of_its_canonical_bytes(scene: Scene) -> None:
    scene.opened()
    scene.trade(limit("o"))
    scene.solver(quote("q", scene.now + SECOND))
    assert scene.account.hash == keccak(scene.account.document())
    parsed = json.loads(scene.account.document())
    assert parsed["orders"]["o"]["status"] == "pending"
    assert parsed["terms"] == "0x" + scene.terms.hash.hex()


def test_canonical_bytes_hold_strings_only(scene: Scene) -> None:
    def scalars(value: object) -> list[object]:
        if isinstance(value, dict):
            return [s for each in value.values() for s in scalars(each)]
        if isinstance(value, list):
            return [s for each in value for s in scalars(each)]
        return [value]

    assert {type(s) for s in scalars(json.loads(scene.account.document()))} == {str}


def test_views_show_decimals(scene: Scene) -> None:
    held = scene.opened("2", "1000")
    scene.trade(limit("k", "0.5", "1010.5", Side.SELL, closes=held))
    priced(scene, "BTC", "1000.5")
    (mine,) = positions(scene.account, T)
    (theirs,) = positions(scene.account, S)
    assert (mine.direction, mine.upnl, mine.quantity) == ("long", "1", "2")
    assert (theirs.direction, theirs.upnl) == ("short", "-1")
    assert mine.status == "close-pending"
    (order,) = open_orders(scene.account)
    assert (order.effect, order.price, order.leaves) == ("close", "1010.5", "0.5")
    view = balances(scene.account, T)
    assert (view.collateral, view.reserve, view.allocated) == ("10000", "100", "9899")
    assert (view.equity, view.payout, view.payout_units) == ("9900", "9999", 9999 * UNITS)


# --- collateral --------------------------------------------------------------------------------


def test_covering_alone_accepts_no_note() -> None:
    scene = Scene()
    scene.trade(logon(scene.terms, TRADER_NOTE))
    scene.solver(logon(scene.terms, SOLVER_NOTE))
    scene.trade(Heartbeat())
    assert scene.account.collateral(T) == scene.account.collateral(S) == 0
    assert not scene.account.trading_open


def test_trading_opens_when_both_have_accepted() -> None:
    scene = Scene()
    scene.trade(logon(scene.terms, TRADER_NOTE))
    scene.solver(logon(scene.terms, SOLVER_NOTE))
    scene.solver(accepts(TRADER_NOTE))
    assert not scene.account.trading_open
    scene.trade(accepts(SOLVER_NOTE))
    assert scene.account.trading_open


def test_trading_stays_shut_below_the_terms_minimum() -> None:
    scene = Scene()
    scene.trade(logon(scene.terms, TRADER_NOTE))
    scene.solver(logon(scene.terms, SOLVER_NOTE))
    scene.solver(accepts(TRADER_NOTE, amount=999 * UNITS))
    scene.trade(accepts(SOLVER_NOTE))
    assert not scene.account.trading_open


def test_a_lane_accepts_only_what_the_other_listed(scene: Scene) -> None:
    scene.violation_of_trader(accepts(TRADER_NOTE), "note-not-listed")
    scene.violation_of_trader(accepts(EXTRA), "note-not-listed")
    scene.violation_of_trader(accepts(SOLVER_NOTE, name="again"), "note-accepted")


def test_a_note_is_listed_once(scene: Scene) -> None:
    def lists(name: str, *notes: NoteRef) -> CollateralAssignment:
        return CollateralAssignment(
            coll_asgn_id=name, coll_asgn_reason=CollAsgnReason.MARGIN_DEFICIENCY, notes=notes
        )

    scene.violation_of_trader(lists("a1", SOLVER_NOTE), "note-listed")
    scene.violation_of_trader(lists("a2", EXTRA, EXTRA), "note-listed")
    twin = NoteRef(commitment=b"\x41" * 32, nullifier=TRADER_NOTE.nullifier)
    scene.violation_of_trader(lists("a3", twin), "note-listed")


def test_a_lane_has_one_accepted_note_while_merging_is_not_in_force() -> None:
    scene = Scene()
    scene.trade(logon(scene.terms, TRADER_NOTE, EXTRA))
    scene.solver(logon(scene.terms, SOLVER_NOTE))
    scene.violation_of_solver(accepts(TRADER_NOTE, EXTRA), "too-many-notes")
    assert scene.solver(accepts(TRADER_NOTE, name="one")) is None
    scene.violation_of_solver(accepts(EXTRA, name="two"), "too-many-notes")


@pytest.mark.parametrize("accepted", [False, True])
def test_no_second_note_is_listed_while_merging_is_not_in_force(accepted: bool) -> None:
    scene = Scene()
    scene.trade(logon(scene.terms, TRADER_NOTE))
    scene.solver(logon(scene.terms))
    if accepted:
        scene.solver(accepts(TRADER_NOTE))
    more = CollateralAssignment(
        coll_asgn_id="a", coll_asgn_reason=CollAsgnReason.SCHEDULED, notes=(EXTRA,)
    )
    scene.violation_of_trader(more, "too-many-notes")
    assert EXTRA.commitment not in scene.account.notes
    assert scene.solver(replace(more, notes=(SOLVER_NOTE,))) is None
    scene.violation_of_solver(replace(more, coll_asgn_id="b"), "too-many-notes")


def test_a_note_in_another_token_is_no_collateral() -> None:
    scene = Scene()
    scene.trade(logon(scene.terms, TRADER_NOTE))
    scene.solver(logon(scene.terms))
    scene.violation_of_solver(accepts(TRADER_NOTE, token="0x" + "0" * 40), "note-wrong-token")


def test_who_listed_a_note_rejects_what_misstates_it_and_it_is_accepted_anew() -> None:
    """`spec.md` 64: AZ states what a note holds, and nobody but its owner knows better."""
    scene = Scene()
    scene.trade(logon(scene.terms, TRADER_NOTE))
    scene.solver(logon(scene.terms, SOLVER_NOTE))
    scene.solver(accepts(TRADER_NOTE, amount=1))
    lied = scene.account.solver_seq
    assert scene.trade(Reject(ref_seq_num=lied, violation="note-misstated")) is None
    assert scene.account.collateral(T) == 0
    assert not scene.account.notes[TRADER_NOTE.commitment].accepted
    assert scene.solver(accepts(TRADER_NOTE, name="again")) is None
    assert scene.account.collateral(T) == 10_000 * UNITS


def test_no_reject_takes_back_what_an_order_rests_on(scene: Scene) -> None:
    scene.trade(limit("o"))
    accepted = scene.account.notes[TRADER_NOTE.commitment].accepted_in
    before = scene.account.notes
    assert scene.trade(Reject(ref_seq_num=accepted, violation="note-misstated")) is None
    assert scene.account.notes == before


def test_a_rejection_accepts_nothing(scene: Scene) -> None:
    says_no = CollateralResponse(coll_resp_id="n", coll_asgn_resp_type=CollAsgnRespType.REJECTED)
    assert scene.solver(says_no) is None
    odd = replace(accepts(TRADER_NOTE, name="odd"), coll_asgn_resp_type=CollAsgnRespType.REJECTED)
    scene.violation_of_solver(odd, "field-not-allowed")
    empty = CollateralResponse(coll_resp_id="e", coll_asgn_resp_type=CollAsgnRespType.ACCEPTED)
    scene.violation_of_solver(empty, "missing-field")


def test_a_key_change_is_recorded_from_its_own_frame(scene: Scene) -> None:
    change = SessionKeyChange(
        session_public_key=b"\x0a" * 64,
        from_seq=1,
        to_seq=100,
        expiry=START + 10**14,
        delegation_signature=bytes(65),
    )
    assert scene.trade(change) is None
    key = scene.account.key_in_force(T)
    assert key is not None
    assert (key.public_key, key.from_seq) == (b"\x0a" * 64, scene.account.trader_seq)


# --- settlement --------------------------------------------------------------------------------


def proposes(scene: Scene, lane: Lane = S, **changes: object) -> Settlement:
    """As `settles`, once both have named their payees."""
    name_payees(scene, lane, int(str(changes.get("fee", 0))))
    return settles(scene.account, scene.now, lane, **changes)


def mined(scene: Scene, block: int = 7) -> ChainFact:
    """The chain has the settlement in a block; the frame that cites it."""
    place = ChainPlace(block, b"\x77" * 32)
    scene.replay.learn(
        ChainFacts(
            block=block,
            spent={TRADER_NOTE.nullifier: place, SOLVER_NOTE.nullifier: place},
            inserted=dict.fromkeys(outputs(scene.account.payouts), place),
        )
    )
    return ChainFact(
        fact_kind=FactKind.SPENT,
        block_number=block,
        transaction_hash=place.transaction,
        nullifier=TRADER_NOTE.nullifier,
    )


@pytest.mark.parametrize("lane", list(Lane))
def test_either_lane_proposes_the_other_accepts_and_the_chain_ends_it(
    scene: Scene, lane: Lane
) -> None:
    scene.write(lane, proposes(scene, lane))
    scene.cover()
    proposal = scene.account.settlement
    assert proposal is not None
    assert proposal.lane is lane
    scene.write(lane.other, SettlementAcceptance(ref_seq_num=proposal.seq, signature=bytes(65)))
    scene.cover()
    accepted = scene.account.settlement
    assert accepted is not None
    assert accepted.accepted
    assert scene.solver(mined(scene)) is None
    assert scene.account.ended
    scene.violation_of_trader(limit("o"), "custody-ended")
    assert scene.trade(Heartbeat()) is None


def test_a_settlement_is_signed_on_a_flat_account_only(scene: Scene) -> None:
    said = proposes(scene)
    scene.trade(limit("o"))
    scene.violation_of_solver(said, "not-flat")
    scene.violation_of_solver(payee(S, 10_000 * UNITS), "not-flat")
    scene.solver(trade("e", "o"))
    scene.violation_of_solver(said, "not-flat")


def test_while_a_settlement_is_alive_nothing_changes_the_account(scene: Scene) -> None:
    assert scene.solver(proposes(scene)) is None
    scene.violation_of_trader(limit("o"), "frozen")
    scene.violation_of_solver(quote("q", scene.now + SECOND), "frozen")
    scene.violation_of_trader(settles(scene.account, scene.now, T), "frozen")
    scene.violation_of_trader(payee(T, 10_000 * UNITS, inner=b"\x0c" * 32), "frozen")
    assert scene.trade(Heartbeat()) is None


def test_a_settlement_unspent_at_its_deadline_and_the_skew_no_longer_binds(scene: Scene) -> None:
    proposal = proposes(scene)
    scene.solver(proposal)
    end = proposal.deadline * SECOND + scene.terms.timeouts.skew
    scene.trader(Heartbeat())
    scene.cover(end)
    assert scene.account.settlement is not None
    scene.cover(end + 1)
    assert scene.account.settlement is None
    assert scene.trade(limit("o", expire=end + SECOND)) is None


def test_a_settlement_mined_but_cited_late_still_ends_the_custody(scene: Scene) -> None:
    proposal = proposes(scene)
    scene.solver(proposal)
    scene.trader(Heartbeat())
    scene.cover(proposal.deadline * SECOND + 10 * SECOND)
    assert scene.account.settlement is None
    assert scene.solver(mined(scene)) is None
    assert scene.account.ended


def test_a_settlement_pays_what_the_account_gives(scene: Scene) -> None:
    trader, solver = scene.account.payouts
    more = proposes(scene, T, trader_payout=trader + 1, solver_payout=solver - 1)
    found = scene.violation_of_trader(more, "wrong-payout")
    assert dict(found.values)["trader"] == format_amount(trader, 6)


TOKEN_BYTES = bytes.fromhex(TOKEN[2:])


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"fee": 1}, "wrong-fee"),
        ({"relayer": b"\x01" * 20}, "wrong-fee"),
        ({"fee": 1, "relayer": b"\x01" * 20, "fee_token": b"\x02" * 20}, "wrong-fee"),
        ({"fee": 5 * UNITS + 1, "relayer": b"\x01" * 20, "fee_token": TOKEN_BYTES}, "wrong-fee"),
        ({"nullifier1": TRADER_NOTE.nullifier}, "wrong-inputs"),
        ({"nullifier1": b"\x99" * 32}, "wrong-inputs"),
        ({"commitment1": outputs((10_000 * UNITS, 10_000 * UNITS))[0]}, "wrong-inputs"),
        ({"commitment1": b"\x51" * 32}, "wrong-output"),
        ({"memos": bytes(32)}, "wrong-output"),
        ({"memos": keccak256(MEMOS[1] + MEMOS[0])}, "wrong-output"),
        ({"signature": bytes(65)}, "wrong-signature"),
        ({"signature": WALLETS[0].sign(b"\x01" * 32)}, "wrong-signature"),
        ({"fee": 1, "relayer": b"\x01" * 20, "fee_token": TOKEN_BYTES}, "wrong-payee"),
        ({"trader_payout": None}, "missing-field"),
        ({"amount": 1}, "field-not-allowed"),
        ({"deadline": START // SECOND + 301}, "wrong-deadline"),
        ({"deadline": 300}, "wrong-deadline"),
        ({"deadline": 300 * 10**8}, "wrong-deadline"),
        ({"ust_kind": SettlementKind.RELEASE}, "not-yet-in-force"),
        ({"ust_kind": SettlementKind.MERGE}, "not-yet-in-force"),
    ],
)
def test_a_settlement_outside_the_rules_is_refused(
    scene: Scene, changes: dict[str, object], rule: str
) -> None:
    name_payees(scene)
    scene.violation_of_solver(settles(scene.account, scene.now, **changes), rule)


def test_a_settlement_through_a_relayer_states_its_fee(scene: Scene) -> None:
    fee = {"fee": 5 * UNITS, "relayer": b"\x01" * 20, "fee_token": TOKEN_BYTES}
    assert scene.solver(proposes(scene, **fee)) is None


def test_only_the_other_lane_accepts_and_only_once(scene: Scene) -> None:
    scene.solver(proposes(scene))
    seq = scene.account.solver_seq
    yes = SettlementAcceptance(ref_seq_num=seq, signature=bytes(65))
    scene.violation_of_solver(yes, "no-proposal")
    scene.violation_of_trader(replace(yes, ref_seq_num=seq + 1), "no-proposal")
    assert scene.trade(yes) is None
    scene.violation_of_trader(yes, "no-proposal")


@pytest.mark.parametrize(
    "changes",
    [
        {"transaction_hash": bytes(32)},
        {"nullifier": b"\x99" * 32},
    ],
)
def test_a_false_citation_is_named(scene: Scene, changes: dict[str, object]) -> None:
    scene.solver(proposes(scene))
    fact = mined(scene)
    scene.violation_of_solver(replace(fact, **changes), "false-citation")  # type: ignore[arg-type]


def test_another_block_of_the_same_transaction_is_no_fault(scene: Scene) -> None:
    """After a reorganisation the transaction may stand elsewhere (`spec.md` 16)."""
    scene.solver(proposes(scene))
    fact = mined(scene)
    assert scene.solver(replace(fact, block_number=6)) is None
    assert scene.account.ended


def test_a_citation_that_was_denied_when_it_came_stays_false(scene: Scene) -> None:
    """`spec.md` 65: what a session has rejected does not come true after a restart."""
    scene.solver(proposes(scene))
    fact = mined(scene)
    _, head = scene.replay.heads
    denied = replace(scene.replay.facts, denied=frozenset({(1, head + 1)}))
    scene.replay.learn(denied)
    scene.violation_of_solver(fact, "false-citation")
    assert scene.solver(fact) is None


def test_a_block_beyond_the_facts_is_not_ruled_but_asked_for(scene: Scene) -> None:
    scene.solver(proposes(scene))
    fact = mined(scene)
    scene.replay.learn(ChainFacts(block=6))
    with pytest.raises(FactsBehind):
        scene.solver(fact)


def test_a_custody_whose_notes_another_move_spent_has_ended(scene: Scene) -> None:
    scene.solver(proposes(scene))
    fact = mined(scene)
    facts = scene.replay.facts
    elsewhere = ChainPlace(7, b"\x78" * 32)
    scene.replay.learn(
        replace(facts, inserted=dict.fromkeys(outputs(scene.account.payouts), elsewhere))
    )
    assert scene.solver(fact) is None
    assert scene.account.notes[TRADER_NOTE.commitment].spent
    assert not scene.account.ended
    assert scene.solver(replace(fact, nullifier=SOLVER_NOTE.nullifier)) is None
    assert scene.account.ended


def test_a_nullifier_of_no_note_listed_here_is_nobody_s_business(scene: Scene) -> None:
    place = ChainPlace(7, b"\x77" * 32)
    facts = ChainFacts(block=7, spent={b"\x99" * 32: place})
    scene.replay.learn(facts)
    fact = ChainFact(
        fact_kind=FactKind.SPENT,
        block_number=7,
        transaction_hash=place.transaction,
        nullifier=b"\x99" * 32,
    )
    scene.violation_of_solver(fact, "unknown-note")


def test_an_insertion_cited_rightly_changes_nothing(scene: Scene) -> None:
    mined(scene)
    fact = ChainFact(
        fact_kind=FactKind.INSERTED,
        block_number=7,
        transaction_hash=b"\x77" * 32,
        commitment=outputs(scene.account.payouts)[0],
    )
    before = scene.money_and_business()
    assert scene.solver(fact) is None
    assert scene.money_and_business() == before
    scene.violation_of_solver(replace(fact, nullifier=bytes(32)), "field-not-allowed")
    scene.violation_of_solver(replace(fact, commitment=None), "missing-field")


def test_a_lane_at_its_limit_may_only_wind_up() -> None:
    scene = Scene(make_terms(limits=Limits(frames=4))).open_for_trading()
    scene.trade(limit("o", "0.1"))
    scene.trade(Heartbeat())
    scene.violation_of_trader(limit("o2", "0.1"), "lane-at-limit")
    assert scene.trade(Heartbeat()) is None


# --- payees -------------------------------------------------------------------------------------

HALF = 10_000 * UNITS


def test_the_digests_are_those_that_wallets_sign(scene: Scene) -> None:
    terms = scene.terms
    memos, memo = (MEMOS[0], MEMOS[1]), MEMOS[0]
    call = CtcCall(
        root=bytes(32),
        nullifiers=(TRADER_NOTE.nullifier, SOLVER_NOTE.nullifier),
        commitments=(INNERS[0], INNERS[1]),
        relayer=TOKEN,
        fee_token=TOKEN,
        fee=5,
        deadline=300,
        memos=memos,
    )
    said = settles(
        scene.account,
        START,
        fee=5,
        relayer=TOKEN_BYTES,
        fee_token=TOKEN_BYTES,
        deadline=300,
        commitment0=INNERS[0],
        commitment1=INNERS[1],
    )
    chain = terms.chain
    assert settlement_digest(terms, said) == call.digest(chain.id, chain.psymm)
    for covers in (None, 9):
        typed = payee_message(
            Payee(INNERS[0], memo), 7, 0, chain.id, chain.psymm, CUSTODY, covers=covers
        )
        named = payee(T, 7, ref_seq_num=covers)
        assert payee_digest(terms, CUSTODY, T, named) == typed.digest()


def test_outputs_may_stand_in_either_order(scene: Scene) -> None:
    first, second = outputs(scene.account.payouts)
    swapped = proposes(
        scene,
        commitment0=second,
        commitment1=first,
        memos=keccak256(MEMOS[1] + MEMOS[0]),
    )
    assert scene.solver(swapped) is None


@pytest.mark.parametrize("named", [(), (T,), (S,)])
def test_a_settlement_needs_both_payees_on_the_record(
    scene: Scene, named: tuple[Lane, ...]
) -> None:
    for lane in named:
        scene.write(lane, payee(lane, HALF))
    scene.cover()
    scene.violation_of_solver(settles(scene.account, scene.now), "payee-missing")


def test_the_newest_payee_is_the_one_that_is_paid(scene: Scene) -> None:
    name_payees(scene)
    old = settles(scene.account, scene.now)
    other = payee(T, HALF, inner=b"\x0c" * 32)
    assert scene.trade(other) is None
    scene.violation_of_solver(old, "wrong-output")
    assert scene.trade(payee(T, HALF)) is None
    assert scene.solver(old) is None


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"inner": bytes(32)}, "bad-inner"),
        ({"inner": FIELD_MODULUS.to_bytes(32, "big")}, "bad-inner"),
        ({"inner": b"\xff" * 32}, "bad-inner"),
        ({"inner": INNERS[0]}, "same-payee"),
        ({"amount": HALF + 1}, "wrong-payee"),
        ({"amount": HALF - 5 * UNITS - 1}, "wrong-payee"),
        ({"signature": bytes(65), "ref_seq_num": 1}, "wrong-signature"),
    ],
)
def test_a_payee_that_cannot_be_paid_is_refused(
    scene: Scene, changes: dict[str, object], rule: str
) -> None:
    assert scene.trade(payee(T, HALF)) is None
    scene.violation_of_solver(payee(S, **({"amount": HALF} | changes)), rule)  # type: ignore[arg-type]


def test_a_payee_is_named_for_the_other_lane_by_its_wallet_alone(scene: Scene) -> None:
    """A party whose journal was restored signs no frames."""
    said = payee(T, HALF, ref_seq_num=1)
    digest = payee_digest(scene.terms, CUSTODY, T, said)
    forged = replace(said, signature=WALLETS[1].sign(digest))
    scene.violation_of_solver(forged, "wrong-signature")
    right = replace(said, signature=WALLETS[0].sign(digest))
    scene.violation_of_trader(right, "field-not-allowed")
    scene.violation_of_trader(replace(right, ref_seq_num=None), "wrong-signature")
    scene.violation_of_solver(replace(right, ref_seq_num=2), "wrong-signature")
    scene.violation_of_solver(replace(right, ref_seq_num=None), "missing-field")
    scene.violation_of_solver(replace(right, ref_seq_num=1_000), "unknown-frame")
    scene.violation_of_solver(replace(right, signature=None), "field-not-allowed")
    assert scene.solver(right) is None
    assert scene.solver(payee(S, HALF)) is None
    assert scene.solver(settles(scene.account, scene.now)) is None


@pytest.mark.parametrize("covered", [True, False])
def test_what_the_traders_wallet_covers_is_not_late_whenever_it_is_covered_after_it(
    scene: Scene, covered: bool
) -> None:
    scene.trade(limit("o"))
    assert scene.solver(trade("e", "o")) is None
    (position,) = scene.account.positions
    scene.trader(Heartbeat())
    scene.trade(limit("c", side=Side.SELL, closes=position))
    assert scene.solver(trade("f", "c")) is None
    assert scene.account.flat
    fill = scene.account.solver_seq
    before = scene.account.payouts
    said = payee(T, before[T], ref_seq_num=fill if covered else fill - 1)
    digest = payee_digest(scene.terms, CUSTODY, T, said)
    assert scene.solver(replace(said, signature=WALLETS[0].sign(digest))) is None
    assert scene.replay.decided == said.ref_seq_num
    scene.now += 3_600 * SECOND
    scene.trader(Heartbeat())
    scene.cover()
    assert scene.account.flat is covered
    if covered:
        assert scene.account.payouts == before


def test_payees_are_of_the_account_as_it_is(scene: Scene) -> None:
    """An old consent is none for another account: an order, or the end of a proposal, ends it."""
    name_payees(scene)
    scene.trade(limit("o"))
    assert scene.account.payee(T) is scene.account.payee(S) is None
    scene.solver(report("x", "o", ExecType.REJECTED))
    said = proposes(scene)
    assert scene.solver(said) is None
    scene.cover(said.deadline * SECOND + scene.terms.timeouts.skew + 1)
    assert scene.account.settlement is None
    again = replace(said, deadline=said.deadline + 300)
    scene.violation_of_solver(again, "payee-missing")


def occupied(scene: Scene, commitment: bytes) -> ChainFact:
    """Somebody else put this commitment into the tree; the frame that cites it."""
    place = ChainPlace(9, b"\x99" * 32)
    facts = scene.replay.facts
    scene.replay.learn(replace(facts, block=9, inserted={**facts.inserted, commitment: place}))
    return ChainFact(
        fact_kind=FactKind.INSERTED,
        block_number=9,
        transaction_hash=place.transaction,
        commitment=commitment,
    )


def test_a_payee_whose_output_is_in_the_tree_already_cannot_be_proposed_to(scene: Scene) -> None:
    name_payees(scene)
    assert scene.trade(occupied(scene, outputs(scene.account.payouts)[1])) is None
    assert scene.account.payee(S) is None
    scene.violation_of_solver(settles(scene.account, scene.now), "payee-missing")


@pytest.mark.parametrize("output", [0, 1])
def test_a_proposal_whose_output_comes_into_the_tree_freezes_nothing_more(
    scene: Scene, output: int
) -> None:
    """It can be mined no more: a commitment has one life."""
    scene.solver(proposes(scene))
    assert scene.account.settlement is not None
    taken = outputs(scene.account.payouts)[output]
    assert scene.trade(occupied(scene, taken)) is None
    assert scene.account.settlement is None
    assert scene.trade(limit("o")) is None


def test_a_proposal_that_was_mined_is_not_called_dead_by_its_own_output(scene: Scene) -> None:
    scene.solver(proposes(scene))
    cited = mined(scene)
    inserted = ChainFact(
        fact_kind=FactKind.INSERTED,
        block_number=cited.block_number,
        transaction_hash=cited.transaction_hash,
        commitment=outputs(scene.account.payouts)[0],
    )
    assert scene.trade(inserted) is None
    assert scene.account.settlement is not None
    assert scene.solver(cited) is None
    assert scene.account.ended


def test_payees_outlive_a_checkpoint(scene: Scene) -> None:
    name_payees(scene)
    again = restore(scene.account.document(), scene.terms, scene.account.hash)
    assert again == scene.account
    assert again.payee(T) is not None


def test_a_lane_at_its_limit_can_still_name_its_payee() -> None:
    scene = Scene(make_terms(limits=Limits(frames=3))).open_for_trading()
    scene.trade(Heartbeat())
    scene.violation_of_trader(limit("o2", "0.1"), "lane-at-limit")
    assert scene.trade(payee(T, HALF)) is None
