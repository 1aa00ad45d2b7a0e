"""What a hostile or broken peer sends: named, answered, and without effect.

This file is long because it lists what a bad peer can send, from a flipped bit to collateral of
another custody.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from rogue import forge, sign_unchecked
from session_scene import (
    CHAIN_ID,
    PSYMM,
    SECOND,
    Scene,
    Wire,
    scene,
    verified,
)
from trio.testing import MockClock

from psymm._core import Frame
from psymm.errors import (
    AttemptEnded,
    CollateralForeign,
    CollateralMissing,
    CollateralRefused,
    CollateralSpent,
    CollateralTooSmall,
    CollateralWrongToken,
    Equivocation,
    FloodingPeer,
    Forked,
    HandshakeRefused,
    PeerRefused,
    PSymmError,
    TermsRefused,
    WrongParty,
)
from psymm.messages import (
    BusinessMessageReject,
    ExecType,
    ExecutionReport,
    Heartbeat,
    Introduction,
    NewOrderSingle,
    OrdType,
    PositionEffect,
    Quote,
    Reject,
    Side,
    encode_text,
)
from psymm.session.protocol import Event, Stopped
from psymm.session.runtime.conversation import shake_hands
from psymm.session.runtime.handshake import Host, fresh_nonce
from psymm.session.runtime.trader import ConnectionLost
from psymm.terms import UNIT

Clock = MockClock


def digests_by_number(stage: Scene) -> dict[tuple[bytes, int, int], set[bytes]]:
    """Every digest that the trader ever sent for one number, over all connections."""
    found: dict[tuple[bytes, int, int], set[bytes]] = {}
    for wire in stage.wires:
        for message in wire.sent:
            offset = 0
            while isinstance(message, bytes) and offset < len(message):
                frame = Frame.parse(message, offset)
                offset += len(frame.raw)
                digest = frame.digest(stage.near.agreement.domain)
                found.setdefault((frame.custody, frame.lane, frame.seq), set()).add(digest)
    return found


async def expect_sound(stage: Scene) -> None:
    """Both accounts agree, both journals verify, nothing was signed twice."""
    await stage.agreed()
    custody = stage.near.agreement.custody
    for party in (stage.trader, stage.solver):
        assert await verified(party.journal, custody) == len(stage.near.protocol.record)
    assert all(len(digests) == 1 for digests in digests_by_number(stage).values())


def bent(change: Callable[[bytes], bytes]) -> Callable[[str | bytes], list[str | bytes]]:
    """Bends the next binary message only."""
    left = [change]

    def bend(message: str | bytes) -> list[str | bytes]:
        if isinstance(message, bytes) and left:
            return [left.pop()(message)]
        return [message]

    return bend


def flip(bit: int) -> Callable[[bytes], bytes]:
    def change(message: bytes) -> bytes:
        damaged = bytearray(message)
        damaged[bit // 8 % len(damaged)] ^= 1 << bit % 8
        return bytes(damaged)

    return change


BITS = [0, 8, 100, 33 * 8, 34 * 8 + 63, 42 * 8, 82 * 8, 113 * 8, 114 * 8 + 3, 122 * 8, 125 * 8]
BITS += [126 * 8, 150 * 8 + 1, -1, -8 * 33, -8 * 34, -8 * 60, -8 * 97]


@pytest.mark.parametrize("bit", BITS)
async def test_a_frame_with_a_flipped_bit_has_no_effect_and_is_sent_again(
    tmp_path: Path, autojump_clock: Clock, bit: int
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        wire = stage.wires[-1]
        wire.bend = bent(flip(bit))
        order = NewOrderSingle(
            cl_ord_id="o1",
            symbol="BTC-USD",
            side=Side.BUY,
            order_qty=UNIT // 100,
            ord_type=OrdType.LIMIT,
            position_effect=PositionEffect.OPEN,
            expire_time=stage.clock.now_ns() + 30 * SECOND,
            price=50_000 * UNIT,
        )
        await stage.near.send(order)
        await trio.sleep(1)
        ours = {entry.digest for entry in stage.near.protocol.record}
        held = [entry for entry in stage.far.protocol.record if entry.frame.lane == 0]
        assert {entry.digest for entry in held} <= ours
        # The next frame shows the gap; the damaged one is asked for and comes as it was signed.
        second = await stage.order("o2")
        await stage.report("e2", second)
        await expect_sound(stage)
        assert stage.account(stage.near).orders.get("o1") is not None


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda raw: raw[:100], "truncated"),
        (lambda raw: raw[:-1], "truncated"),
        (lambda raw: raw[:122] + b"\x00\x01\x00\x01" + raw[126:], "payload-too-long"),
        (lambda raw: raw[:122] + b"\x00\x00\xff\xff" + raw[126:], "truncated"),
        (lambda raw: b"\x02" + raw[1:], "bad-version"),
        (lambda raw: raw[:33] + b"\x07" + raw[34:], "bad-lane"),
        (lambda raw: raw[:1] + b"\x55" * 32 + raw[33:], "wrong-custody"),
        (lambda raw: raw[:33] + b"\x01" + raw[34:], "wrong-lane"),
    ],
)
async def test_a_frame_that_lies_about_its_form_is_answered_by_name(
    tmp_path: Path, autojump_clock: Clock, change: Callable[[bytes], bytes], code: str
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        stage.wires[-1].bend = bent(change)
        await stage.near.send(_order(stage, "o1"))

        def named(event: Event | ConnectionLost) -> bool | None:
            said = getattr(event, "message", None)
            if isinstance(said, BusinessMessageReject):
                return code in (said.text or "") or None
            return None

        await stage.heard.until(named)
        await stage.near.send(_order(stage, "o2"))
        await trio.sleep(3)
        await expect_sound(stage)


async def test_noise_that_persists_is_cut_off_and_the_session_resumes(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        for _ in range(8):
            await stage.wires[-1].inner.send(b"\x00" * 300)
        lost = await stage.heard.until(
            lambda event: event if isinstance(event, ConnectionLost) else None
        )
        assert "peer-violation" in str(lost.reason)
        await trio.sleep(5)
        order = await stage.order("o1")
        await stage.report("e1", order)
        await expect_sound(stage)


async def test_texts_that_are_not_the_vocabularys_change_nothing(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        before = stage.account(stage.far).hash
        for text in ('{"MsgType":"ZZ"}', "[]", '{"MsgType":"0","MsgType":"0"}', '{"A":'):
            await stage.wires[-1].inner.send(text)
        await trio.sleep(1)
        assert stage.account(stage.far).hash == before
        await expect_sound(stage)


@pytest.mark.parametrize(
    ("payload", "rule"),
    [
        (b'{"MsgType":"ZZ"}', "unknown-message"),
        (b'{"MsgType":"0","Colour":"red"}', "unknown-field"),
        (b'{"MsgType":"F","ClOrdID":"a","ClOrdID":"b","OrigClOrdID":"c"}', "duplicate-key"),
        (b'{"MsgType":"F","ClOrdID":"a"}', "missing-field"),
        (b'{"MsgType":"R","QuoteReqID":"a","Symbol":"B","OrderQty":"1.0"}', "bad-decimal"),
        (b'{"MsgType":"R","QuoteReqID":1,"Symbol":"B","OrderQty":"1"}', "not-a-string"),
        (b"\xff\xfe", "not-utf8"),
        (b"", "not-object"),
        (b'{"MsgType":"0"} ', "trailing-bytes"),
    ],
)
async def test_a_signed_payload_outside_the_vocabulary_keeps_its_place_and_is_rejected(
    tmp_path: Path, autojump_clock: Clock, payload: bytes, rule: str
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        entry = sign_unchecked(stage.near, payload)
        reject = await stage.heard.message(Reject)
        assert (reject.ref_seq_num, reject.violation) == (entry.frame.seq, rule)
        order = await stage.order("o1")
        await stage.report("e1", order)
        await expect_sound(stage)


def _order(stage: Scene, cl_ord_id: str, **given: object) -> NewOrderSingle:
    arguments: dict[str, object] = {
        "cl_ord_id": cl_ord_id,
        "symbol": "BTC-USD",
        "side": Side.BUY,
        "order_qty": UNIT // 100,
        "ord_type": OrdType.LIMIT,
        "position_effect": PositionEffect.OPEN,
        "expire_time": stage.clock.now_ns() + 30 * SECOND,
        "price": 50_000 * UNIT,
    }
    return NewOrderSingle(**(arguments | given))  # type: ignore[arg-type]


async def test_a_quote_hit_after_its_life_is_rejected(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.far.send(
            Quote(
                quote_id="q1",
                symbol="BTC-USD",
                valid_until_time=stage.clock.now_ns() + 2 * SECOND,
                offer_px=50_000 * UNIT,
                offer_size=UNIT,
            )
        )
        await trio.sleep(10)
        entry = sign_unchecked(
            stage.near, _order(stage, "o1", quote_id="q1", ord_type=OrdType.PREVIOUSLY_QUOTED)
        )
        reject = await stage.heard.message(Reject)
        assert (reject.ref_seq_num, reject.violation) == (entry.frame.seq, "unknown-quote")
        await expect_sound(stage)
        assert len(stage.account(stage.near).orders) == 0


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"last_px": 50_001 * UNIT}, "fill-worse-than-price"),
        ({"last_qty": UNIT // 50}, "fill-over-quantity"),
        ({"cl_ord_id": "never"}, "unknown-order"),
    ],
)
async def test_a_fill_against_the_order_changes_nothing_and_is_a_fault(
    tmp_path: Path, autojump_clock: Clock, given: dict[str, object], rule: str
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        order = await stage.order("o1")
        arguments: dict[str, object] = {
            "exec_id": "e1",
            "cl_ord_id": "o1",
            "exec_type": ExecType.TRADE,
            "last_px": order.price,
            "last_qty": order.order_qty,
        }
        entry = sign_unchecked(stage.far, ExecutionReport(**(arguments | given)))  # type: ignore[arg-type]
        reject = await stage.desk.listeners[0].message(Reject)
        assert (reject.ref_seq_num, reject.violation) == (entry.frame.seq, rule)
        await trio.sleep(3)
        await expect_sound(stage)
        assert len(stage.account(stage.near).positions) == 0
        assert (entry.frame.seq, rule) in stage.near.protocol.state.rulebook.faults  # type: ignore[attr-defined]


async def test_two_frames_with_one_number_stop_the_session_and_are_kept_as_proof(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        number = stage.near.protocol.record.head(0).seq
        twin = forge(stage.near, b'{"MsgType":"0"}', seq=number, covers=3)
        await stage.wires[-1].inner.send(twin.raw)
        stopped = await stage.desk.listeners[0].until(
            lambda event: event if isinstance(event, Stopped) else None
        )
        assert isinstance(stopped.error, Equivocation)
        await trio.sleep(1)
        custody = stage.near.agreement.custody
        ((first, second),) = await stage.solver.journal.equivocations(custody)
        assert second == twin.raw
        assert Frame.parse(first).seq == Frame.parse(second).seq
        assert (await stage.solver.journal.custody(custody)).state == "stopped"
        before = await verified(stage.solver.journal, custody)
        await trio.sleep(120)  # however often the trader comes back, nothing more is signed
        assert len(stage.wires) > 2
        assert await verified(stage.solver.journal, custody) == before


@pytest.mark.parametrize("fault", ["previous", "time"])
async def test_a_signed_frame_that_contradicts_its_lane_stops_the_session(
    tmp_path: Path, autojump_clock: Clock, fault: str
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        given = {"previous": b"\x01" * 32} if fault == "previous" else {"sending_time": 1}
        frame = forge(stage.near, b'{"MsgType":"0"}', **given)  # type: ignore[arg-type]
        await stage.wires[-1].inner.send(frame.raw)
        stopped = await stage.desk.listeners[0].until(
            lambda event: event if isinstance(event, Stopped) else None
        )
        assert isinstance(stopped.error, Forked)


async def test_a_flood_of_frames_is_cut_off(tmp_path: Path, autojump_clock: Clock) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        for _ in range(450):
            sign_unchecked(stage.near, Heartbeat())
        lost = await stage.heard.until(
            lambda event: event if isinstance(event, ConnectionLost) else None
        )
        assert FloodingPeer.code in str(lost.reason)
        await trio.sleep(30)
        await expect_sound(stage)


async def test_a_frame_from_beyond_the_skew_is_covered_only_when_its_time_has_come(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        ahead = stage.clock.now_ns() + 6 * SECOND
        entry = sign_unchecked(stage.near, _order(stage, "o1"), sending_time=ahead)
        await trio.sleep(3)
        assert stage.far.protocol.record.head(0).seq == entry.frame.seq
        assert stage.far.protocol.record.head(1).peer_seq < entry.frame.seq
        await trio.sleep(3)
        assert stage.far.protocol.record.head(1).peer_seq == entry.frame.seq
        assert stage.clock.now_ns() < ahead + 2 * SECOND


# --- handshake ----------------------------------------------------------------------------------


async def test_a_solver_with_another_key_than_the_registrys_is_refused(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        client = stage.new_client()
        client._expected = stage.trader.wallet.public_key
        await stage.nursery.start(stage.server.run)
        with pytest.raises(WrongParty):
            await client.run()
        assert stage.trader.collateral.moves == 0  # type: ignore[attr-defined]


async def test_terms_of_an_unknown_version_are_refused_before_anything_is_funded(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        document = stage.terms.document.replace(b"psymm-terms/1", b"psymm-terms/9")
        host = Host(stage.solver.wallet.public_key, CHAIN_ID, PSYMM, document, b"\x07" * 32)
        stage.server._host = host
        await stage.nursery.start(stage.server.run)
        with pytest.raises(TermsRefused, match="terms-unknown-version"):
            await stage.client.run()
        assert stage.trader.collateral.moves == 0  # type: ignore[attr-defined]


async def test_an_introduction_of_an_unknown_version_is_answered_by_name(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage, stage.dial() as socket:
        said = Introduction(
            version="2", public_key=stage.trader.wallet.public_key, nonce=fresh_nonce()
        )
        await socket.send(encode_text(said))
        assert "another version" in str(await socket.receive())


async def test_less_collateral_than_the_terms_ask_is_refused(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage, stage.dial() as socket:
        with pytest.raises((HandshakeRefused, PeerRefused), match="more collateral"):
            await shake_hands(stage.trader, socket, None, 5, fresh_nonce())


async def test_a_logon_for_anothers_custody_is_refused_by_name(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        logon = stage.near.protocol.record.entry(0, 1)
        assert logon is not None
        async with stage.dial() as socket:
            await shake_hands(stage.trader, socket, None, 2_000_000_000, fresh_nonce())
            await socket.send(logon.frame.raw)
            assert "another custody" in str(await socket.receive())


async def test_a_frame_before_any_introduction_is_refused_by_name(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        logon = stage.near.protocol.record.entry(0, 1)
        assert logon is not None
        async with stage.dial() as socket:
            await socket.send(logon.frame.raw)
            assert "introduce yourself" in str(await socket.receive())


async def babble(socket: Wire) -> None:
    for _ in range(200):
        await socket.send("{")
        await socket.receive()


async def test_one_bad_peer_does_not_disturb_another(tmp_path: Path, autojump_clock: Clock) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        async with stage.dial() as socket:
            assert isinstance(socket, Wire)
            with pytest.raises(PSymmError):
                await babble(socket)
        order = await stage.order("o1")
        await stage.report("e1", order)
        await expect_sound(stage)


# --- collateral ---------------------------------------------------------------------------------


async def collateral_refusal(stage: Scene) -> CollateralRefused | PSymmError:
    """What the trader is told when the solver refuses its collateral."""
    await stage.nursery.start(stage.server.run)
    with pytest.raises(PSymmError) as caught:
        await stage.client.run()
    return caught.value


async def test_collateral_that_is_not_on_chain_is_refused(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        stage.trader.collateral.insert_notes = False  # type: ignore[attr-defined]
        assert isinstance(await collateral_refusal(stage), CollateralMissing)
        assert stage.solver.collateral.moves == 0  # type: ignore[attr-defined]


async def test_collateral_that_is_spent_is_refused(tmp_path: Path, autojump_clock: Clock) -> None:
    async with scene(tmp_path) as stage:

        def spend(notes: list[object]) -> list[object]:
            for note in notes:
                stage.chain.spent[note.nullifier] = None  # type: ignore[attr-defined, assignment]
            return notes

        stage.trader.collateral.shown = spend  # type: ignore[attr-defined]
        assert isinstance(await collateral_refusal(stage), CollateralSpent)
        assert stage.solver.collateral.moves == 0  # type: ignore[attr-defined]


async def test_collateral_worth_less_than_promised_is_refused(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    from psymm.custody.notes import Note

    async with scene(tmp_path) as stage:

        def less(notes: list[Note]) -> list[Note]:
            small = [Note(note.custody, note.token, 200_000_000, note.blinding) for note in notes]
            stage.chain.insert(*(note.commitment for note in small))
            return small

        stage.trader.collateral.shown = less  # type: ignore[attr-defined]
        assert isinstance(await collateral_refusal(stage), CollateralTooSmall)
        assert stage.solver.collateral.moves == 0  # type: ignore[attr-defined]


async def test_collateral_in_two_notes_is_refused_before_anything_is_put_up(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """A lane has one accepted note (`spec.md` 64): to accept two would be a violation of ours, and
    ours would be in a custody that never opens."""
    from psymm.custody.notes import Note, random_blinding

    async with scene(tmp_path) as stage:

        def halves(notes: list[Note]) -> list[Note]:
            (note,) = notes
            made = [
                Note(note.custody, note.token, note.amount // 2, random_blinding())
                for _ in range(2)
            ]
            stage.chain.insert(*(one.commitment for one in made))
            return made

        stage.trader.collateral.shown = halves  # type: ignore[attr-defined]
        with trio.fail_after(60):
            assert "put up one note" in str(await collateral_refusal(stage))
        assert stage.solver.collateral.moves == 0  # type: ignore[attr-defined]


async def test_collateral_in_another_token_is_refused(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    from psymm.custody.notes import Note

    async with scene(tmp_path) as stage:

        def other(notes: list[Note]) -> list[Note]:
            return [Note(note.custody, PSYMM, note.amount, note.blinding) for note in notes]

        stage.trader.collateral.shown = other  # type: ignore[attr-defined]
        assert isinstance(await collateral_refusal(stage), CollateralWrongToken)


async def test_collateral_in_another_custody_is_refused(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    from psymm.custody.notes import Note, sole_custody

    async with scene(tmp_path) as stage:

        def other(notes: list[Note]) -> list[Note]:
            sole = sole_custody(stage.trader.wallet.public_key)
            return [Note(sole, note.token, note.amount, note.blinding) for note in notes]

        stage.trader.collateral.shown = other  # type: ignore[attr-defined]
        # What opens it is a text, which somebody between may have changed: once is no refusal.
        error = await collateral_refusal(stage)
        assert isinstance(error, AttemptEnded)
        assert CollateralForeign.code in str(error)
        assert stage.solver.collateral.moves == 0  # type: ignore[attr-defined]


async def test_the_solvers_collateral_is_refused_likewise(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        stage.solver.collateral.insert_notes = False  # type: ignore[attr-defined]
        assert isinstance(await collateral_refusal(stage), CollateralMissing)
