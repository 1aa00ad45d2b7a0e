"""What a lane may send between two checkpoints, and how large an account can become (`spec.md` 10,
11)."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from rulebook_scene import (
    BTC,
    CUSTODY,
    OPENING,
    Scene,
    limit,
    make_terms,
)

from psymm.messages import (
    BusinessMessageReject,
    BusinessRejectReason,
    Heartbeat,
    OrdType,
    PositionEffect,
    Reject,
    Side,
    encode,
)
from psymm.rulebook import (
    Account,
    Lane,
    LiveOrder,
    LiveProposal,
    LiveQuote,
    NoteState,
    OpenRequest,
    OrderStatus,
    Position,
    Price,
    Replay,
    SessionKey,
)
from psymm.rulebook.account import (
    AgreedCheckpoint,
    CheckpointOffer,
    CheckpointRefusal,
    NamedPayee,
    Replacement,
)
from psymm.rulebook.checkpoint import offer
from psymm.rulebook.collateral import MOST_NOTES
from psymm.rulebook.inputs import FRAME_BYTES
from psymm.rulebook.settlement import MOST_PROPOSALS
from psymm.terms import ACCOUNT_BYTES, CLOSING_BYTES, MOST_OPEN, MOST_SYMBOL, Limits

RUBBISH = b"x" * 8_192


@pytest.fixture
def scene() -> Scene:
    return Scene(make_terms(limits=Limits(bytes=40_000))).open_for_trading()


def stuffed(scene: Scene, lane: Lane, until: int) -> None:
    """The lane writes rubbish until it has sent so many bytes, give or take a frame."""
    while scene.account.bytes_sent[lane] + len(RUBBISH) + FRAME_BYTES <= until:
        if lane is Lane.TRADER:
            scene.trader(RUBBISH)
            scene.cover()
        else:
            scene.trader(Heartbeat())
            scene.solver(RUBBISH)


@pytest.mark.parametrize("lane", list(Lane))
def test_rule_10_whole_frames_count_malformed_ones_too(scene: Scene, lane: Lane) -> None:
    before = scene.account.bytes_sent[lane]
    if lane is Lane.TRADER:
        scene.trader(b"\xff" * 100)
        scene.cover()
    else:
        scene.solver(b"\xff" * 100)
    assert scene.account.bytes_sent[lane] == before + 100 + FRAME_BYTES


@pytest.mark.parametrize("lane", list(Lane))
def test_rule_10_at_its_limit_a_lane_may_only_close(scene: Scene, lane: Lane) -> None:
    stuffed(scene, lane, 40_000)
    says = BusinessMessageReject(
        ref_msg_type="R", business_reject_reason=BusinessRejectReason.OTHER, text="y" * 1000
    )
    for _ in range(8):
        found = scene.trade(says) if lane is Lane.TRADER else scene.solver(says)
    assert found is not None
    assert found.name == "lane-at-limit"
    for closing in (Reject(ref_seq_num=1, violation="x"), Heartbeat()):
        found = scene.trade(closing) if lane is Lane.TRADER else scene.solver(closing)
        assert found is None
    scene.trader(Heartbeat())
    scene.cover()
    said = offer(scene.replay.projected(), scene.replay.named())
    assert said is not None
    assert scene.solver(said) is None
    assert scene.trade(said) is None
    assert scene.account.checkpoint is not None
    found = scene.trade(says) if lane is Lane.TRADER else scene.solver(says)
    assert found is None, "the checkpoint begins its limits anew"


def test_rule_10_beyond_all_that_a_lane_may_send_its_frames_do_not_exist(scene: Scene) -> None:
    stuffed(scene, Lane.SOLVER, 40_000 + CLOSING_BYTES)
    scene.trader(limit("o"))
    before = scene.account
    for late in (0, 0, 3 * 10**10):
        found = scene.solver(RUBBISH, at=scene.now + late)
        assert found is not None
        assert found.name == "lane-full"
        assert scene.account.document() == before.document(), "it moves nothing, and covers nothing"
    assert len(scene.replay.pending) == 1
    assert scene.replay.projected().status_of("o") is OrderStatus.PENDING


def test_rule_10_a_full_lane_of_the_trader_changes_nothing_more(scene: Scene) -> None:
    stuffed(scene, Lane.TRADER, 40_000 + CLOSING_BYTES)
    before = scene.account.bytes_sent[0]
    scene.trader(RUBBISH)
    found = scene.cover()[-1].violation
    assert found is not None
    assert found.name == "lane-full"
    assert scene.account.bytes_sent[0] == before


@pytest.mark.parametrize("seed", range(10))
def test_rule_10_whoever_lacks_frames_beyond_the_limit_has_the_same_account(seed: int) -> None:
    """Nobody has to keep or show them."""
    rng = Random(seed)
    terms = make_terms(limits=Limits(bytes=30_000))
    scene = Scene(terms).open_for_trading()
    full = 0
    for n in range(60):
        if rng.random() < 0.5:
            scene.trader(limit(f"o{n}", "0.1", expire=scene.now + 10**9))
        said = rng.choice([RUBBISH, encode(Heartbeat())])
        ruling = scene.write(Lane.SOLVER, said)[-1]
        if ruling.violation is not None and ruling.violation.name == "lane-full":
            full = ruling.seq
            break
        scene.trader(Heartbeat())
    assert full
    lacking = Replay.start(OPENING, terms)
    for frame in scene.frames:
        if frame.lane == Lane.TRADER or frame.seq < full:
            lacking.step(frame)
    assert lacking.account.document() == scene.account.document()
    assert lacking.projected().document() == scene.replay.projected().document()


def test_rule_11_the_largest_account_fits_into_evidence() -> None:
    """Everything that may be open, in its longest form."""
    number, word, symbol = 2**127, "x" * 60, "S" * MOST_SYMBOL
    big = 10**38

    def name(n: int) -> str:
        return f"{n:04d}" + word

    def word32(n: int) -> bytes:
        return n.to_bytes(32, "big", signed=False)

    def order(n: int, closes: bytes | None) -> LiveOrder:
        return LiveOrder(
            cl_ord_id=name(n),
            symbol=symbol,
            side=Side.BUY,
            quantity=big,
            filled=big,
            price=big,
            ord_type=OrdType.PREVIOUSLY_QUOTED,
            effect=PositionEffect.OPEN if closes is None else PositionEffect.CLOSE,
            expire_time=2**64 - 1,
            status=OrderStatus.CANCEL_CLOSE_PENDING,
            since=2**64 - 1,
            position_id=closes,
            quote_id=name(n),
            request_id=name(n),
            replacement=None
            if closes is not None
            else Replacement(quantity=big, price=big, expire_time=2**64 - 1),
        )

    positions = {
        word32(n): Position(
            position_id=word32(n),
            symbol=symbol,
            side=Side.BUY,
            quantity=big,
            entry_price=big,
            opened_at=2**64 - 1,
            cl_ord_id=name(n),
            close_order=name(n + 100),
        )
        for n in range(MOST_OPEN)
    }
    orders = [order(n, None) for n in range(MOST_OPEN)]
    orders += [order(n + 100, word32(n)) for n in range(MOST_OPEN)]
    key = SessionKey(public_key=bytes(64), from_seq=2**64 - 1, to_seq=2**64 - 1, expiry=2**64 - 1)
    account = Account(
        custody=CUSTODY,
        terms=make_terms(instruments=(replace(BTC, symbol=symbol),)),
        trader_seq=2**64 - 1,
        solver_seq=2**64 - 1,
        clock=2**64 - 1,
        bytes_sent=(2**64 - 1, 2**64 - 1),
        checkpoint=AgreedCheckpoint(
            account_hash=bytes(32),
            solver_seq=2**64 - 1,
            trader_seq=2**64 - 1,
            bytes_sent=(2**64 - 1,) * 2,
            said=(2**64 - 1,) * 2,
        ),
        offer=CheckpointOffer(
            lane=Lane.TRADER,
            seq=2**64 - 1,
            account_hash=bytes(32),
            solver_seq=2**64 - 1,
            trader_seq=2**64 - 1,
            bytes_sent=(2**64 - 1,) * 2,
            payouts=(number, number),
            flat=False,
            covered_at=2**64 - 1,
        ),
        refusals=(CheckpointRefusal(lane=Lane.TRADER, seq=2**64 - 1, ref_seq=2**64 - 1),) * 2,
        keys=((key, key), (key, key)),
        notes={
            word32(n): NoteState(
                commitment=word32(n),
                nullifier=word32(n),
                lane=Lane.TRADER,
                accepted=True,
                amount=number,
                accepted_in=2**64 - 1,
                spent=True,
            )
            for n in range(MOST_NOTES)
        },
        requests={
            name(n): OpenRequest(
                quote_req_id=name(n),
                symbol=symbol,
                quantity=big,
                expire_time=2**64 - 1,
                side=Side.BUY,
            )
            for n in range(MOST_OPEN)
        },
        quotes={
            name(n): LiveQuote(
                quote_id=name(n),
                seq=2**64 - 1,
                symbol=symbol,
                valid_until=2**64 - 1,
                request_id=name(n),
                bid_price=big,
                offer_price=big,
                bid_size=big,
                offer_size=big,
            )
            for n in range(MOST_OPEN)
        },
        orders={one.cl_ord_id: one for one in orders},
        positions=positions,
        prices={f"{n:032d}": Price(price=big, timestamp=2**64 - 1) for n in range(140)},
        realised=-(10**60),
        fees=-(10**60),
        funding=-(10**60),
        trader_payee=NamedPayee(inner=bytes(32), memo=bytes(256), amount=number),
        solver_payee=NamedPayee(inner=bytes(32), memo=bytes(256), amount=number),
        proposals={
            word32(n): LiveProposal(
                lane=Lane.TRADER,
                seq=2**64 - 1,
                nullifiers=(bytes(32), bytes(32)),
                commitments=(bytes(32), bytes(32)),
                payouts=(number, number),
                fee=number,
                deadline_s=2**64 - 1,
                accepted=True,
            )
            for n in range(MOST_PROPOSALS)
        },
        alive=word32(0),
    )
    size = len(account.document())
    print("largest account:", size)
    assert size <= ACCOUNT_BYTES


@pytest.mark.parametrize(
    ("name", "fits"), [("n" * 64, True), ("\x01" * 11, False), ('"' * 33, False)]
)
def test_rule_11_an_id_takes_no_more_room_in_the_account_than_on_the_wire(
    scene: Scene, name: str, fits: bool
) -> None:
    if fits:
        assert scene.trade(limit(name)) is None
    else:
        scene.violation_of_trader(limit(name), "id-too-long")


def test_rule_11_notes_and_proposals_are_few() -> None:
    assert MOST_NOTES == 16
    assert MOST_PROPOSALS == 4
