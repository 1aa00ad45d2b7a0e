"""The session protocol driven by hand, as `protocol_pair` shows.

This file is long because it drives each part of the protocol that no script reaches.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from protocol_pair import (
    AGREEMENT,
    SESSION_KEYS,
    TERMS,
    WALLETS,
    ProtocolPair,
    note_of,
    record_of,
)
from session_scene import CHAIN_ID, PSYMM, SECOND, TOKEN

from psymm._core import SecretKey, sign_frame
from psymm.custody.notes import Note, sole_custody
from psymm.custody.planning import deadline_after
from psymm.custody.settlement import Payee, propose_settlement
from psymm.errors import (
    Equivocation,
    KeyRevoked,
    Leaving,
    NotNow,
    OverBudget,
    PeerViolation,
    Refused,
)
from psymm.messages import (
    ExecType,
    ExecutionReport,
    Logon,
    NewOrderSingle,
    OrdType,
    PositionEffect,
    Quote,
    QuoteRequest,
    Reject,
    Resume,
    SessionKeyChange,
    SettlementOutput,
    Side,
    encode,
    encode_text,
)
from psymm.session.protocol import (
    Disconnect,
    Effects,
    FrameReceived,
    HealthChanged,
    HeldBack,
    ImportFrame,
    KeyRefused,
    Resumed,
    SessionStatus,
    Stopped,
    StoreEvidence,
    StoreFact,
    begin_session,
    holding,
    signing,
)
from psymm.session.protocol.chain_facts import ChainView, Fact
from psymm.session.runtime.party import params_of
from psymm.session.runtime.settlement_documents import message_of
from psymm.terms import UNIT
from psymm.transcript.agreement import SOLVER, TRADER
from psymm.transcript.delegation import Delegation
from psymm.transcript.heads import Heads
from psymm.transcript.resumption import PROVES_ONLY, ResumeSigner


def order(pair: ProtocolPair, cl_ord_id: str) -> NewOrderSingle:
    return NewOrderSingle(
        cl_ord_id=cl_ord_id,
        symbol="BTC-USD",
        side=Side.BUY,
        order_qty=UNIT // 100,
        ord_type=OrdType.LIMIT,
        position_effect=PositionEffect.OPEN,
        expire_time=pair.now + 30 * SECOND,
        price=50_000 * UNIT,
    )


def fill(exec_id: str, wanted: NewOrderSingle) -> ExecutionReport:
    return ExecutionReport(
        exec_id=exec_id,
        cl_ord_id=wanted.cl_ord_id,
        exec_type=ExecType.TRADE,
        last_px=wanted.price,
        last_qty=wanted.order_qty,
    )


def quote(pair: ProtocolPair, quote_id: str) -> Quote:
    return Quote(
        quote_id=quote_id,
        symbol="BTC-USD",
        valid_until_time=pair.now + 30 * SECOND,
        bid_px=50_000 * UNIT,
    )


def trading() -> ProtocolPair:
    pair = ProtocolPair()
    pair.trade()
    return pair


def agree(pair: ProtocolPair) -> bool:
    """Both have the same frames, on record and stored, and the same account."""
    near, far = pair.sides
    heads = [[side.protocol.record.head(lane) for lane in (0, 1)] for side in pair.sides]
    stored = [[record_of(side.frames).head(lane) for lane in (0, 1)] for side in pair.sides]
    same = heads[0] == heads[1] == stored[0] == stored[1]
    return same and near.account.hash == far.account.hash


def show_heads(pair: ProtocolPair, heads: Resume) -> None:
    """The trader receives heads that the solver's key signs, true or not."""
    logon = pair.solver.protocol.record.entry(SOLVER, 1)
    connection = pair.trader.protocol.state.connection
    assert logon is not None
    assert isinstance(logon.message, Logon)
    assert connection is not None
    prover = ResumeSigner.of(SESSION_KEYS[SOLVER], SOLVER, logon.message)
    pair.receive(pair.trader, encode_text(prover.sign(AGREEMENT, connection.challenge, heads)))


def test_two_log_on_and_trade() -> None:
    pair = trading()
    for side in pair.sides:
        assert side.protocol.status is SessionStatus.TRADING
        assert list(side.protocol.peer_notes.values()) == [note_of(1 - side.lane)]

    wanted = order(pair, "1")
    pair.send(pair.trader, wanted)
    pair.deliver()
    assert pair.solver.heard(FrameReceived)[-1].entry.message == wanted

    filled = fill("f", wanted)
    pair.send(pair.solver, filled)
    pair.deliver()
    assert pair.trader.heard(FrameReceived)[-1].entry.message == filled
    pair.pass_time(2 * SECOND)  # The trader covers the fill.
    assert agree(pair)
    (position,) = pair.trader.account.positions.values()
    assert (position.quantity, position.entry_price) == (wanted.order_qty, wanted.price)


def test_a_lost_connection_is_resumed() -> None:
    pair = trading()
    wanted = order(pair, "lost on the way")
    pair.send(pair.trader, wanted)
    pair.disconnect()
    with pytest.raises(NotNow):
        pair.send(pair.solver, fill("f", wanted))

    pair.connect()
    pair.deliver()
    assert pair.trader.heard(Resumed) == [Resumed(repeated=1, received=0)]
    assert pair.solver.heard(Resumed) == [Resumed(repeated=0, received=1)]
    assert pair.solver.heard(FrameReceived)[-1].entry.message == wanted
    pair.send(pair.solver, fill("f", wanted))
    pair.pass_time(2 * SECOND)
    assert agree(pair)


def test_a_restart_goes_on_from_what_was_stored() -> None:
    pair = trading()
    wanted = order(pair, "1")
    pair.send(pair.trader, wanted)
    for side in pair.sides:  # The order is on the trader's disk, and nowhere else.
        pair.restart(side)
        assert side.protocol.status is SessionStatus.TRADING
    pair.connect()
    pair.deliver()
    pair.send(pair.solver, fill("f", wanted))
    pair.pass_time(2 * SECOND)
    assert agree(pair)
    assert len(pair.trader.account.positions) == 1


@pytest.mark.parametrize("lane", [TRADER, SOLVER])
def test_a_citation_waits_where_the_journal_lost_what_the_chain_said(lane: int) -> None:
    pair = trading()
    side, fact = pair.sides[lane], Fact(9, bytes(32), (), (b"\x01" * 32,))
    pair.perform(pair.trader, pair.trader.protocol.output_occupied(fact, b"\x01" * 32, pair.now))
    pair.deliver()
    cited = pair.solver.protocol.cited
    assert cited is not None
    view = ChainView(9, 9, fact)
    pair.perform(pair.solver, pair.solver.protocol.chain_says(cited, view, pair.now))
    pair.pass_time(2 * SECOND)
    assert agree(pair)

    side.stored = [one for one in side.stored if not isinstance(one, StoreFact)]
    pair.restart(side)
    assert side.protocol.cited == cited
    pair.connect()
    pair.deliver()
    with pytest.raises(Refused, match="facts-behind"):
        pair.send(side, order(pair, "1") if lane == TRADER else quote(pair, "1"))
    pair.perform(side, side.protocol.chain_says(cited, view, pair.now))
    pair.send(side, order(pair, "1") if lane == TRADER else quote(pair, "1"))
    pair.pass_time(2 * SECOND)
    assert agree(pair)


def test_a_gap_is_filled() -> None:
    pair = trading()
    pair.send(pair.trader, QuoteRequest(quote_req_id="1", symbol="BTC-USD", order_qty=UNIT))
    pair.trader.sent.clear()  # The network loses it.
    pair.send(pair.trader, QuoteRequest(quote_req_id="2", symbol="BTC-USD", order_qty=UNIT))
    pair.deliver()
    assert pair.solver.protocol.state.resends_asked == 1
    asked = [one.entry.message for one in pair.solver.heard(FrameReceived)]
    assert [one.quote_req_id for one in asked if isinstance(one, QuoteRequest)] == ["1", "2"]
    pair.pass_time(2 * SECOND)
    assert agree(pair)


def test_equivocation_stops_and_is_proven() -> None:
    pair = trading()
    first = pair.send(pair.solver, quote(pair, "1")).frame
    pair.deliver()
    second = sign_frame(
        SESSION_KEYS[SOLVER],
        AGREEMENT.domain,
        first.custody,
        first.lane,
        first.seq,
        first.previous,
        first.peer_seq,
        first.peer_digest,
        first.sending_time,
        encode(quote(pair, "2")),
    )
    pair.receive(pair.trader, second.raw)
    (stopped,) = pair.trader.heard(Stopped)
    assert isinstance(stopped.error, Equivocation)
    assert pair.trader.heard(Disconnect) == [Disconnect(stopped.error)]
    assert StoreEvidence(first, second) in pair.trader.stored
    assert pair.trader.protocol.status is SessionStatus.STOPPED

    pair.connect()
    pair.deliver()
    with pytest.raises(Equivocation):
        pair.send(pair.trader, order(pair, "1"))


def test_nothing_is_traded_while_a_settlement_may_be_mined() -> None:
    pair = trading()
    payees: list[Payee] = []
    for side in pair.sides:
        inner = Note(
            sole_custody(WALLETS[side.lane].public_key),
            TOKEN,
            0,
            (9 + side.lane).to_bytes(32, "big"),
        ).inner
        payees.append(Payee(inner, bytes(256)))
        amount = side.account.payouts[side.lane]
        pair.send(side, SettlementOutput(inner=inner, memo=bytes(256), amount=amount))
        pair.deliver()
        pair.pass_time(2 * SECOND)
    settlement = propose_settlement(
        [note_of(TRADER), note_of(SOLVER)],
        (payees[0], payees[1]),
        pair.solver.account.payouts,
        proposer=SOLVER,
        deadline=deadline_after(pair.now / SECOND, 1_800),
    )
    signature = WALLETS[SOLVER].sign(settlement.call.message(CHAIN_ID, PSYMM).digest())
    proposal = message_of(settlement, signature)
    pair.send(pair.solver, proposal)
    pair.deliver()
    for side in pair.sides:
        assert side.protocol.status is SessionStatus.SETTLING
        assert side.protocol.options[-1] == proposal
    with pytest.raises((NotNow, Refused)):
        pair.send(pair.trader, order(pair, "1"))

    # Before its deadline it may still be mined.
    for side in pair.sides:
        pair.perform(side, side.protocol.proposal_expired(pair.now))
        assert side.protocol.status is SessionStatus.SETTLING

    # Past its deadline on chain nothing came of it, and trading goes on.
    pair.pass_time(2_400 * SECOND)
    for side in pair.sides:
        pair.perform(side, side.protocol.proposal_expired(pair.now))
        assert side.protocol.status is SessionStatus.TRADING
    pair.send(pair.trader, order(pair, "1"))


def test_frames_of_a_revoked_key_of_ours_end_a_connection_on_which_heads_agreed() -> None:
    """The peer covers frames that we did not sign: they are fetched on a connection that begins
    with the comparison of heads."""
    pair = trading()
    trader, solver = (side.protocol for side in pair.sides)
    head = trader.record.head(TRADER).seq
    revoked = {SESSION_KEYS[TRADER].address: head + 1}
    pair.perform(pair.trader, trader.revocations_learned(revoked, {}, pair.now))
    assert trader.synced
    show_heads(pair, replace(solver.heads(), trader_seq=head + 1, trader_digest=bytes(32)))
    (ended,) = pair.trader.heard(Disconnect)
    assert isinstance(ended.reason, KeyRevoked)
    assert trader.error is None


def test_what_a_solver_has_shown_that_it_holds_stays_acknowledged() -> None:
    """Whether a trader may leave an ended custody hangs on this: later heads take nothing back."""
    pair = trading()
    trader, solver = (side.protocol for side in pair.sides)
    earlier = solver.heads()
    sent = pair.send(pair.trader, order(pair, "1")).frame.seq
    assert trader.acknowledged < sent
    pair.deliver()
    show_heads(pair, solver.heads())
    assert trader.acknowledged == sent
    show_heads(pair, earlier)
    assert trader.acknowledged == sent
    unseen = pair.send(pair.trader, order(pair, "2")).frame.seq
    show_heads(pair, replace(earlier, trader_seq=unseen, trader_digest=bytes(32)))
    assert trader.acknowledged == sent
    assert not trader.final_ack_owed, "nothing has ended"
    # The trader's heads are numbers of its own lane: to the solver they acknowledge nothing.
    for _ in range(2):
        pair.disconnect()
        pair.connect()
        pair.deliver()
    covered = solver.record.heads[TRADER].peer_seq
    assert solver.acknowledged == covered < solver.record.head(TRADER).seq


def test_the_same_inputs_give_the_same_effects() -> None:
    runs = []
    for _ in range(2):
        pair = trading()
        wanted = order(pair, "1")
        pair.send(pair.trader, wanted)
        pair.disconnect()
        pair.connect()
        pair.deliver()
        pair.send(pair.solver, fill("f", wanted))
        pair.pass_time(60 * SECOND)
        runs.append([side.effects for side in pair.sides])
    assert runs[0] == runs[1]
    assert all(len(effects) > 40 for effects in runs[0])


def test_a_session_without_a_rulebook_recovers_what_its_journal_lost() -> None:
    pair = trading()
    wanted = order(pair, "1")
    pair.send(pair.trader, wanted)
    pair.deliver()
    pair.send(pair.solver, fill("f", wanted))
    pair.pass_time(2 * SECOND)
    pair.disconnect()

    # The solver's journal keeps its first three frames, and knows how many there were.
    kept, lost = pair.solver.frames[:3], pair.solver.frames[3:]
    record = pair.solver.protocol.record
    trader, solver = ((record.head(lane).seq, record.head(lane).digest) for lane in (0, 1))
    pair.solver.stored = pair.solver.stored[:0]
    pair.solver.protocol = begin_session(
        record_of(kept),
        None,
        SOLVER,
        params_of(TERMS, SOLVER),
        now=pair.now,
        health="recovering",
        newest=Heads(trader, solver),
    )
    pair.solver.protocol.set_proving_key(proving_key(pair))
    pair.connect()
    pair.deliver()
    imported = [one.entry.frame for one in pair.solver.stored if isinstance(one, ImportFrame)]
    assert sorted(imported, key=bytes) == sorted((one.frame for one in lost), key=bytes)
    assert pair.solver.heard(HealthChanged) == [HealthChanged("complete")]
    assert pair.solver.protocol.record.head(TRADER) == record.head(TRADER)


def proving_key(pair: ProtocolPair) -> ResumeSigner:
    """A key that signs no frame: the wallet delegates it to prove who we are."""
    key = SecretKey.from_bytes(bytes(31) + b"\x07")
    delegation = Delegation(
        SOLVER, key.public_key, PROVES_ONLY, PROVES_ONLY, pair.now + 3_600 * SECOND
    )
    signature = WALLETS[SOLVER].sign(delegation.message(AGREEMENT).digest())
    return ResumeSigner(key, delegation, signature)


def test_what_a_send_released_is_kept_whatever_is_wrong_with_its_message() -> None:
    pair = trading()
    pair.now += 10 * SECOND  # The trader's clock is ahead; the solver holds its order back.
    bad = replace(order(pair, "1"), symbol="DOGE-USD")
    pair.perform(pair.trader, sign_anyhow(pair, bad))
    pair.now -= 10 * SECOND
    pair.deliver()
    assert len(pair.solver.heard(HeldBack)) == 1

    pair.now += 10 * SECOND
    with pytest.raises(AttributeError):
        pair.send(pair.solver, None)  # type: ignore[arg-type]
    pair.perform(pair.solver, pair.solver.protocol.tick(pair.now))
    told = pair.solver.heard(FrameReceived)[-1]
    assert told.entry.message == bad
    assert told.violation is not None
    reject = pair.solver.frames[-1].message
    assert isinstance(reject, Reject)
    pair.pass_time(2 * SECOND)
    assert agree(pair)


def test_a_frame_dated_ahead_takes_effect_at_its_time_and_not_at_the_next_heartbeat() -> None:
    pair, ahead = trading(), 4 * SECOND
    pair.now += ahead
    wanted = order(pair, "1")
    pair.perform(pair.trader, sign_anyhow(pair, wanted))
    pair.now -= ahead
    pair.deliver()
    assert len(pair.solver.heard(HeldBack)) == 1

    def received() -> bool:
        return pair.solver.heard(FrameReceived)[-1].entry.message == wanted

    due = pair.now + ahead - TERMS.timeouts.skew
    assert pair.solver.protocol.next_tick(pair.now) == due
    pair.perform(pair.solver, pair.solver.protocol.tick(due - 1))
    assert not received()
    pair.perform(pair.solver, pair.solver.protocol.tick(due))
    assert received()


def sign_anyhow(pair: ProtocolPair, message: NewOrderSingle) -> Effects:
    """The trader signs what its own rulebook would refuse."""
    effects: Effects = []
    signing.sign(pair.trader.protocol.state, effects, message, pair.now)
    return effects


def test_nothing_is_read_and_no_time_kept_on_a_connection_that_is_being_ended() -> None:
    pair = trading()
    (left,) = pair.trader.protocol.leave(Leaving("later"), pair.now)
    assert isinstance(left, Disconnect)
    late = pair.send(pair.solver, quote(pair, "1"))
    for message in (late.frame.raw, '{"MsgType":"1","TestReqID":"1"}', "noise"):
        pair.receive(pair.trader, message)
    assert pair.trader.protocol.record.head(SOLVER).seq == late.frame.seq - 1
    assert not pair.trader.sent
    beat = pair.trader.protocol.params.heartbeat_s * SECOND
    assert pair.trader.protocol.next_tick(pair.now + 60 * SECOND) == pair.now + 60 * SECOND + beat

    pair.disconnect()
    pair.connect()
    pair.deliver()
    pair.pass_time(2 * SECOND)
    assert agree(pair)


def test_frames_that_a_new_key_endorses_count_among_those_held_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(holding, "MOST_AHEAD", 1)
    pair = trading()
    old, new = SESSION_KEYS[TRADER], SecretKey.from_bytes(bytes(31) + b"\x08")
    head = pair.trader.protocol.record.head(TRADER).seq
    revoked = {old.address: head + 1}
    pair.perform(pair.solver, pair.solver.protocol.revocations_learned({}, revoked, pair.now))
    pair.now += 10 * SECOND  # The trader's clock is ahead.
    for number in range(4):
        wanted = QuoteRequest(quote_req_id=str(number), symbol="BTC-USD", order_qty=UNIT)
        pair.send(pair.trader, wanted)
    change = Delegation(TRADER, new.public_key, head + 5, 10**6, pair.now + 3_600 * SECOND)
    pair.perform(
        pair.trader,
        pair.trader.protocol.key_delegated(
            new,
            SessionKeyChange(
                session_public_key=new.public_key,
                from_seq=change.from_seq,
                to_seq=change.to_seq,
                expiry=change.expiry,
                delegation_signature=WALLETS[TRADER].sign(change.message(AGREEMENT).digest()),
            ),
            pair.now,
        ),
    )
    pair.now -= 10 * SECOND
    pair.deliver()
    assert len(pair.solver.heard(KeyRefused)) == 4
    assert pair.solver.protocol.held_back == 2
    (ended,) = pair.solver.heard(Disconnect)
    assert isinstance(ended.reason, OverBudget)


def test_a_tick_that_comes_too_early_does_nothing_and_says_when_to_come_again() -> None:
    """Business postpones timeouts; a cover that is due is still signed in time."""
    pair = ProtocolPair()
    pair.trade()
    request = QuoteRequest(quote_req_id="early", symbol="BTC-USD", order_qty=UNIT)
    pair.send(pair.trader, request)
    pair.deliver()
    state = pair.solver.protocol.state
    assert state.connection is not None
    due = pair.now + state.params.cover_after_ns
    pair.now += state.params.cover_after_ns // 2
    head = state.record.heads[SOLVER].seq
    assert pair.solver.protocol.tick(pair.now) == []
    assert not state.attention
    assert pair.now < state.connection.wake_at <= due
    pair.now = due
    pair.perform(pair.solver, pair.solver.protocol.tick(pair.now))
    assert state.record.heads[SOLVER].seq == head + 1
    assert state.record.heads[SOLVER].peer_seq == state.record.heads[TRADER].seq


def test_noise_that_persists_is_counted_and_ends_the_connection_with_its_last_fault() -> None:
    pair = trading()
    for number in range(1, signing.MALFORMED_LIMIT + 1):
        assert not pair.trader.heard(Disconnect)
        pair.receive(pair.trader, b"\0" * 300)
        assert pair.trader.protocol.state.malformed == number
    (gone,) = pair.trader.heard(Disconnect)
    assert isinstance(gone.reason, PeerViolation)
    assert gone.reason.values["last"]
