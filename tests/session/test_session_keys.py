"""Session keys end, change and are revoked, and the session goes on."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
import trio
from key_scene import LIFE_S, KeyedLives, Revoked
from rogue import forge
from session_scene import SECOND, UNIT, Listener, Scene, verified
from trio.testing import MockClock

from psymm._core import Frame, SecretKey, address_of, sign_frame
from psymm.errors import (
    JournalBehind,
    JournalCorrupt,
    KeyRevoked,
    NotNow,
    SessionKeyEnded,
    WalletError,
)
from psymm.messages import (
    ExecType,
    ExecutionReport,
    NewOrderSingle,
    OrdType,
    PositionEffect,
    QuoteRequest,
    ResendRequest,
    SessionKeyChange,
    Side,
    encode,
    encode_text,
)
from psymm.rulebook import Account
from psymm.session.protocol import (
    Event,
    FramesRevoked,
    KeyChanged,
    KeyFailing,
    KeyRefused,
    OwnFrameImported,
    Resumed,
    SessionStatus,
    StatusChanged,
    Stopped,
    TextReceived,
)
from psymm.session.runtime.runner import SessionRunner
from psymm.session.runtime.trader import ConnectionLost
from psymm.transcript.delegation import Delegation, DelegationRefused

Clock = MockClock


def request(name: str) -> QuoteRequest:
    return QuoteRequest(quote_req_id=name, symbol="BTC-USD", order_qty=UNIT // 100)


def key_of(runner: SessionRunner, lane: int | None = None) -> bytes:
    known = runner.protocol.record.delegation(runner.lane if lane is None else lane)
    assert known is not None
    return known.public_key


def changes(runner: SessionRunner, lane: int) -> list[int]:
    """The numbers of a lane's UKYs."""
    return [
        entry.frame.seq
        for entry in (*runner.protocol.record.before, *runner.protocol.record)
        if entry.frame.lane == lane and isinstance(entry.message, SessionKeyChange)
    ]


def losses(stage: Scene) -> int:
    return sum(isinstance(event, ConnectionLost) for event in stage.heard.events)


async def of(listener: Listener, kind: type, after: int = 0) -> Event:
    return await listener.until(  # type: ignore[return-value]
        lambda event: event if isinstance(event, kind) else None, after=after
    )


async def expect_sound(stage: Scene) -> None:
    """Both accounts agree and both journals verify, frame by frame."""
    await stage.agreed()
    custody = stage.near.agreement.custody
    for each in (stage.trader, stage.solver):
        assert await verified(each.journal, custody) == len(stage.near.protocol.record)


async def trade(stage: Scene, name: str) -> None:
    """An order and its fill, once heads agree."""
    while not (stage.near.protocol.synced and stage.far.protocol.synced):  # noqa: ASYNC110
        await trio.sleep(0.05)
    await stage.report(f"e{name}", await stage.order(f"o{name}"))


def digests_by_number(stages: list[Scene]) -> dict[int, set[bytes]]:
    """Every digest that the trader ever sent for one number."""
    found: dict[int, set[bytes]] = {}
    for stage in stages:
        for wire in stage.wires:
            for message in wire.sent:
                offset = 0
                while isinstance(message, bytes) and offset < len(message):
                    frame = Frame.parse(message, offset)
                    offset += len(frame.raw)
                    if frame.lane == 0:
                        digest = frame.digest(stage.near.agreement.domain)
                        found.setdefault(frame.seq, set()).add(digest)
    return found


# --- rotation ---------------------------------------------------------------------------------


async def test_keys_rotate_well_before_they_expire_with_orders_under_way(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with KeyedLives(tmp_path).live() as stage:
        first = [key_of(runner) for runner in (stage.near, stage.far)]
        pending = await stage.order("o1", expires_in_s=4 * LIFE_S)
        for n in range(2, 6):
            await trio.sleep(LIFE_S * 0.7)
            await trade(stage, str(n))
        await stage.report("e1", pending)
        account = await stage.agreed()
        assert len(account.positions) == 5
        assert losses(stage) == 0
        for runner, old in zip((stage.near, stage.far), first, strict=True):
            assert key_of(runner) != old
            record = runner.protocol.record
            for seq in changes(runner, runner.lane):
                before, uky = record.signer(runner.lane, seq - 1), record.entry(runner.lane, seq)
                assert before is not None
                assert uky is not None
                left_s = (before.expiry - uky.frame.sending_time) / SECOND
                assert LIFE_S / 4 < left_s <= LIFE_S / 3
            assert 3 <= len(changes(runner, runner.lane)) <= 5
        assert account.key_in_force(0).public_key == key_of(stage.far, 0)  # type: ignore
        await expect_sound(stage)


async def test_keys_rotate_before_their_numbers_run_out(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path, key_frames=40)
    async with lives.live() as stage:
        before = stage.near.protocol.record.head(0).seq
        for n in range(before, 38):
            await stage.near.send(request(f"r{n}"))
            await trio.sleep(1)
        await stage.agreed()
        (uky,) = changes(stage.near, 0)
        assert 35 <= uky <= 38
        known = stage.far.protocol.record.delegation(0)
        assert known is not None
        assert known.to_seq >= uky + 35


async def test_an_application_rotates_when_it_likes(tmp_path: Path, autojump_clock: Clock) -> None:
    async with KeyedLives(tmp_path).live() as stage:
        for runner in (stage.near, stage.far):
            old = key_of(runner)
            await runner.rotate_key()
            assert key_of(runner) != old
            assert runner.protocol.state.keys.key.public_key == key_of(runner)
            held = await runner.journal.frame(
                runner.agreement.custody, runner.lane, changes(runner, runner.lane)[0]
            )
            assert held is not None, "its UKY is durable"
        await trade(stage, "1")
        assert losses(stage) == 0
        await expect_sound(stage)


async def test_rotations_wished_for_at_once_are_one(tmp_path: Path, autojump_clock: Clock) -> None:
    lives = KeyedLives(tmp_path)
    lives.devices[0].thinks_s = 5
    async with lives.live() as stage:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(stage.near.rotate_key)
        assert len(changes(stage.near, 0)) == 1


async def test_a_slow_wallet_holds_up_nobody(tmp_path: Path, autojump_clock: Clock) -> None:
    lives = KeyedLives(tmp_path)
    async with lives.live() as stage:
        lives.devices[0].thinks_s = 600
        seen = len(stage.heard.events)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.near.rotate_key)
            await trio.sleep(1)
            for n in range(5):
                await trade(stage, str(n))
            assert not changes(stage.near, 0)
            failing = await of(stage.heard, KeyFailing, seen)
            assert isinstance(failing, KeyFailing)
            assert isinstance(failing.error, WalletError), "the application hears that it waits"
        await stage.agreed()
        (uky,) = changes(stage.far, 0)
        known = stage.far.protocol.record.delegation(0)
        assert known is not None
        assert known.from_seq < uky, "it was delegated before those orders, and rules after them"
        await expect_sound(stage)


async def test_a_wallet_that_refuses_is_told_of_in_time_and_nothing_is_signed_at_the_end(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path)
    async with lives.live() as stage:
        lives.devices[0].willing = False
        with pytest.raises(WalletError):
            await stage.near.rotate_key()
        failing = await of(stage.heard, KeyFailing)
        assert isinstance(failing, KeyFailing)
        assert failing.expiry - lives.clock.now_ns() > LIFE_S * SECOND // 2
        await trio.sleep(LIFE_S * 0.95)
        await trade(stage, "1")
        heard = [event for event in stage.heard.events if isinstance(event, KeyFailing)]
        assert 3 <= len(heard) <= 20, "it was asked again, and not without end"
        await trio.sleep(LIFE_S * 0.1)
        await stage.agreed()
        before = stage.near.protocol.record.head(0)
        with pytest.raises(SessionKeyEnded):
            await stage.near.send(request("r1"))
        assert issubclass(SessionKeyEnded, NotNow)
        await trio.sleep(60)
        assert stage.near.protocol.record.head(0) == before, "not even a Heartbeat is signed"
        assert stage.near.protocol.error is None
        lives.devices[0].willing = True
        await stage.near.rotate_key()
        await trade(stage, "2")
        await expect_sound(stage)


async def test_a_signer_that_breaks_is_named_without_its_words(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path)

    async def broken(message: object) -> bytes:
        raise RuntimeError("secret words")

    async with lives.live() as stage:
        lives.devices[0].sign_typed = broken  # type: ignore[method-assign, assignment]
        with pytest.raises(WalletError) as failed:
            await stage.near.rotate_key()
        assert "secret" not in str(failed.value)
        await trade(stage, "1")


async def test_a_new_key_wished_for_without_a_connection_comes_first_on_the_next(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with KeyedLives(tmp_path).live() as stage:
        stage.reachable = False
        await stage.wires[-1].inner.aclose()
        await of(stage.heard, ConnectionLost)
        head = stage.near.protocol.record.head(0).seq
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.near.rotate_key)
            await trio.sleep(10)
            assert stage.near.protocol.record.head(0).seq == head, "nothing is signed between two"
            stage.reachable = True
        assert changes(stage.near, 0) == [head + 1]
        await trade(stage, "1")


# --- lives ------------------------------------------------------------------------------------


async def test_a_crash_before_the_wallet_signed_loses_nothing_and_the_kept_key_is_used(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path)
    lives.devices[0].thinks_s = 0
    async with lives.live() as stage:
        first = key_of(stage.near)
        lives.devices[0].thinks_s = 1e6
        stage.nursery.start_soon(stage.near.rotate_key)
        await trio.sleep(1)
        kept = await stage.trader.journal.session_keys(stage.near.agreement.custody)
        assert len(kept) == 2, "kept before the wallet is asked"
    lives.devices[0].thinks_s = 0
    async with lives.live(resume=True) as stage:
        await of(stage.heard, Resumed)
        assert key_of(stage.near) == first
        await stage.near.rotate_key()
        assert key_of(stage.near) == kept[1][1].public_key
        await stage.desk.begun.wait()
        await trade(stage, "1")
        await expect_sound(stage)


@pytest.mark.parametrize("sent", [False, True])
async def test_a_crash_after_the_uky_was_kept_goes_on_with_the_new_key(
    tmp_path: Path, autojump_clock: Clock, sent: bool
) -> None:
    lives = KeyedLives(tmp_path)
    stages: list[Scene] = []
    async with lives.live() as stage:
        stages.append(stage)
        if not sent:
            stage.wires[-1].bend = lambda message: [] if isinstance(message, bytes) else [message]
        await stage.near.rotate_key()
        await stage.near.send(request("r1"))
        new = key_of(stage.near)
        if sent:
            await stage.agreed()
    async with lives.live(resume=True) as stage:
        stages.append(stage)
        await of(stage.heard, Resumed)
        await stage.desk.begun.wait()
        assert stage.near.protocol.state.keys.key.public_key == key_of(stage.far, 0) == new
        await trade(stage, "1")
        await expect_sound(stage)
        assert all(len(found) == 1 for found in digests_by_number(stages).values())


async def test_a_former_key_that_a_checkpoint_has_forgotten_is_never_brought_again(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path)
    ours: list[bytes] = []
    async with lives.live() as stage:
        ours.append(key_of(stage.near))
        await stage.near.rotate_key()
        ours.append(key_of(stage.near))
        await trade(stage, "1")
        await stage.agreed()
        await stage.near.checkpoint()
    async with lives.live(resume=True) as stage:
        await of(stage.heard, Resumed)
        for _ in range(3):
            await stage.near.rotate_key()
            ours.append(key_of(stage.near))
        # And its party proves itself on the next connection.
        await stage.wires[-1].inner.aclose()
        await of(stage.heard, ConnectionLost)
        await trade(stage, "2")
        await expect_sound(stage)
    assert len(set(ours)) == len(ours)


async def test_a_key_that_expired_while_nobody_ran_is_changed_first_thing(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path)
    async with lives.live() as stage:
        await trade(stage, "1")
        await stage.agreed()
        heads = [stage.near.protocol.record.head(lane).seq for lane in (0, 1)]
    await trio.sleep(2 * LIFE_S)
    async with lives.live(resume=True) as stage:
        await of(stage.heard, KeyChanged)
        await stage.desk.begun.wait()
        await of(stage.desk.listeners[0], KeyChanged)
        assert [changes(runner, runner.lane)[0] for runner in (stage.near, stage.far)] == [
            head + 1 for head in heads
        ]
        await trade(stage, "2")
        await expect_sound(stage)


async def test_frames_of_an_ended_key_are_still_resent_and_taken(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path)
    async with lives.live() as stage:
        stage.wires[-1].bend = lambda message: [] if isinstance(message, bytes) else [message]
        lost = await stage.near.send(request("r1"))
        await stage.near.rotate_key()
    await trio.sleep(2 * LIFE_S)
    async with lives.live(resume=True) as stage:
        event = await of(stage.heard, Resumed)
        assert isinstance(event, Resumed)
        assert event.repeated >= 2
        held = stage.far.protocol.record.entry(0, lost.frame.seq)
        assert held is not None
        assert held.frame.raw == lost.frame.raw
        await of(stage.heard, KeyChanged)
        asked = encode_text(ResendRequest(begin_seq_no=1, end_seq_no=0))
        before = len(stage.wires[-1].sent)
        stage.far._connection.put(asked)  # type: ignore[union-attr]
        await trio.sleep(5)
        assert any(isinstance(one, bytes) for one in stage.wires[-1].sent[before:])
        assert stage.far.protocol.state.connection.malformed == 0
        await expect_sound(stage)


# --- the end of a key, seen by the other side ---------------------------------------------------


@pytest.mark.parametrize("late_ns", [0, 1])
async def test_a_key_signs_until_its_last_nanosecond_and_not_after(
    tmp_path: Path, autojump_clock: Clock, late_ns: int
) -> None:
    lives = KeyedLives(tmp_path)
    async with lives.live() as stage:
        lives.devices[0].willing = False
        await trio.sleep(LIFE_S * 0.999)
        known = stage.far.protocol.record.delegation(0)
        assert known is not None
        frame = forge(stage.near, encode(request("r1")), sending_time=known.expiry + late_ns)
        await stage.wires[-1].inner.send(frame.raw)
        if late_ns:
            said = await stage.heard.until(
                lambda event: event if isinstance(event, TextReceived) else None
            )
            assert "expired" in str(said.message)
            assert stage.far.protocol.record.head(0).seq == frame.seq - 1
            assert stage.far.protocol.error is None
        else:
            await trio.sleep(0.5)
            assert stage.far.protocol.record.head(0).seq == frame.seq


async def test_a_wallets_own_key_is_no_session_key(tmp_path: Path, autojump_clock: Clock) -> None:
    lives = KeyedLives(tmp_path)
    async with lives.live() as stage:
        own = lives.wallets[0].key
        record = stage.far.protocol.record
        seq = record.head(0).seq + 1
        with pytest.raises(DelegationRefused) as refused:
            record.append(await uky(stage, own, seq))
        assert refused.value.reason == "wallets-own-key"
        assert record.head(0).seq == seq - 1


async def uky(stage: Scene, key: SecretKey, seq: int, **delegated: int) -> Frame:
    """A UKY of the trader's wallet, signed by the key that it brings."""
    record = stage.far.protocol.record
    given = {
        "from_seq": seq,
        "to_seq": seq + 100,
        "expiry": stage.clock.now_ns() + LIFE_S * SECOND,
    } | delegated
    delegation = Delegation(lane=0, public_key=key.public_key, **given)
    wallet = stage.trader.wallet
    signature = await wallet.sign_typed(delegation.message(record.agreement))
    change = SessionKeyChange(
        session_public_key=key.public_key, delegation_signature=signature, **given
    )
    peer = record.head(1)
    return sign_frame(
        key,
        record.agreement.domain,
        record.agreement.custody,
        0,
        seq,
        record.digest(0, seq - 1),
        record.head(0).peer_seq,
        record.digest(1, record.head(0).peer_seq),
        max(stage.clock.now_ns(), record.head(0).sending_time, peer.sending_time),
        encode(change),
    )


@pytest.mark.parametrize(
    ("delegated", "holds"), [({"from_seq": 1}, True), ({"from_seq": 1000}, False)]
)
async def test_a_delegation_must_hold_the_frame_that_carries_it(
    tmp_path: Path, autojump_clock: Clock, delegated: dict[str, int], holds: bool
) -> None:
    async with KeyedLives(tmp_path).live() as stage:
        await stage.agreed()
        record, key = stage.far.protocol.record, SecretKey.generate()
        frame = await uky(stage, key, record.head(0).seq + 1, **delegated)
        if holds:
            record.append(frame)
            delegated = record.keys()
            assert (0, frame.seq, key.public_key) in delegated
        else:
            with pytest.raises(DelegationRefused):
                record.append(frame)


# --- revocation ---------------------------------------------------------------------------------


def an_order(stage: Scene, name: str) -> NewOrderSingle:
    return NewOrderSingle(
        cl_ord_id=name,
        symbol="BTC-USD",
        side=Side.BUY,
        order_qty=UNIT // 100,
        ord_type=OrdType.LIMIT,
        position_effect=PositionEffect.OPEN,
        expire_time=stage.clock.now_ns() + 30 * SECOND,
        price=50_000 * UNIT,
    )


async def robbed(lives: KeyedLives, stage: Scene, order: NewOrderSingle) -> Account:
    """A thief of the solver's key fills an order and the trader takes it, until the wallet revokes
    the key. The trader's account without it; heads agree again when this returns."""
    fill = ExecutionReport(
        exec_id="thief",
        cl_ord_id=order.cl_ord_id,
        exec_type=ExecType.TRADE,
        last_px=order.price,
        last_qty=order.order_qty,
    )
    stolen = forge(stage.far, encode(fill))
    seen = len(stage.heard.events)
    stage.far._connection.put(stolen.raw)  # type: ignore[union-attr]
    await stage.heard.message(ExecutionReport, seen)
    assert len(stage.account(stage.near).positions) == 2
    lives.revoked.revoke(lives.wallets[1].address, address_of(key_of(stage.far)), stolen.seq)
    await of(stage.heard, FramesRevoked)
    left = stage.account(stage.near)
    await of(stage.desk.listeners[0], KeyChanged)
    await of(stage.heard, Resumed, seen)
    await stage.agreed()
    while not stage.far.protocol.synced:  # noqa: ASYNC110
        await trio.sleep(0.05)
    return left


async def filled_after_all(stage: Scene, order: NewOrderSingle) -> None:
    """The key's owner fills the order that the thief had filled."""
    await stage.report("e1", order)
    account = await stage.agreed()
    assert len(account.positions) == 2


async def test_a_wallets_revocation_changes_its_key_at_once_and_the_session_goes_on(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path)
    async with lives.live() as stage:
        for runner in (stage.near, stage.far):
            await stage.agreed()
            old, seq = key_of(runner), runner.protocol.record.head(runner.lane).seq
            listener = stage.heard if runner is stage.near else stage.desk.listeners[0]
            seen = len(listener.events)
            lives.revoked.revoke(lives.wallets[runner.lane].address, address_of(old), seq + 1)
            await of(listener, KeyChanged, seen)
            assert changes(runner, runner.lane) == [seq + 1]
            assert key_of(runner) != old
        await trade(stage, "1")
        assert losses(stage) == 0
        await expect_sound(stage)


async def test_a_revoked_key_of_ours_signs_nothing_while_the_wallet_refuses(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path)
    async with lives.live() as stage:
        await stage.agreed()
        lives.devices[0].willing = False
        seq = stage.near.protocol.record.head(0).seq
        lives.revoked.revoke(lives.wallets[0].address, address_of(key_of(stage.near)), seq + 1)
        await of(stage.heard, KeyFailing)
        with pytest.raises(KeyRevoked):
            await stage.near.send(request("r1"))
        assert stage.near.protocol.record.head(0).seq == seq


async def test_a_thiefs_frame_is_refused_by_name_and_its_number_is_its_owners(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path)
    lives.devices[0].thinks_s = 0
    async with lives.live() as stage:
        await stage.agreed()
        lives.devices[0].thinks_s = 5
        stolen = forge(stage.near, encode(an_order(stage, "thief")))
        lives.revoked.revoke(lives.wallets[0].address, address_of(key_of(stage.near)), stolen.seq)
        await stage.wires[-1].inner.send(stolen.raw)
        event = await of(stage.desk.listeners[0], KeyRefused)
        assert isinstance(event, KeyRefused)
        assert (event.seq, event.error.code) == (stolen.seq, "key-revoked")
        await of(stage.heard, KeyChanged)
        await stage.agreed()
        assert changes(stage.far, 0) == [stolen.seq], "the owner's UKY has the number"
        # Shown once more, the pair is kept as evidence; the record stands.
        await stage.wires[-1].inner.send(stolen.raw)
        await trade(stage, "1")
        pairs = await stage.solver.journal.equivocations(stage.far.agreement.custody)
        assert [pair[1] for pair in pairs] == [stolen.raw]
        await expect_sound(stage)


async def test_a_thiefs_frame_that_was_not_covered_is_revoked_and_kept(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path)
    async with lives.live() as stage:
        await stage.agreed()
        stolen = forge(stage.near, encode(an_order(stage, "thief")))
        before = stage.account(stage.far).hash
        await stage.wires[-1].inner.send(stolen.raw)
        await stage.desk.listeners[0].message(NewOrderSingle)
        lives.revoked.revoke(lives.wallets[0].address, address_of(key_of(stage.near)), stolen.seq)
        event = await of(stage.desk.listeners[0], FramesRevoked)
        assert isinstance(event, FramesRevoked)
        assert [entry.frame.raw for entry in event.entries] == [stolen.raw]
        assert event.error.code == "key-revoked"
        assert stage.account(stage.far).hash == before
        custody = stage.far.agreement.custody
        assert await stage.solver.journal.revoked_frames(custody) == [stolen.raw]
        await of(stage.heard, KeyChanged)
        await stage.agreed()
        assert changes(stage.far, 0) == [stolen.seq]
        await trade(stage, "1")
        await expect_sound(stage)
    async with lives.live(resume=True) as stage:
        await of(stage.heard, Resumed)
        await stage.desk.begun.wait()
        await trade(stage, "2")
        await expect_sound(stage)


@pytest.mark.parametrize("thinks_s", [0, 30])
async def test_what_was_under_way_when_its_owner_revoked_the_key_is_not_lost(
    tmp_path: Path, autojump_clock: Clock, thinks_s: int
) -> None:
    """The next key builds on it, so it was its party's word after all."""
    lives = KeyedLives(tmp_path)
    async with lives.live() as stage:
        await stage.agreed()
        lives.devices[0].thinks_s = thinks_s
        # One frame has arrived and is not covered, two are on their way.
        first = await stage.near.send(an_order(stage, "o0"))
        await stage.desk.listeners[0].message(NewOrderSingle)
        stage.wires[-1].bend = lambda message: [] if isinstance(message, bytes) else [message]
        for name in ("o1", "o2"):
            await stage.near.send(an_order(stage, name))
        lives.revoked.revoke(lives.wallets[0].address, address_of(key_of(stage.near)), 1)
        gone = await of(stage.desk.listeners[0], FramesRevoked)
        assert isinstance(gone, FramesRevoked)
        assert [entry.frame.raw for entry in gone.entries] == [first.frame.raw]
        await of(stage.heard, KeyChanged)
        await stage.agreed()
        assert changes(stage.far, 0) == [first.frame.seq + 3]
        held = [stage.far.protocol.record.entry(0, first.frame.seq + n) for n in range(3)]
        assert [one and one.message and one.message.cl_ord_id for one in held] == [  # type: ignore[union-attr]
            "o0",
            "o1",
            "o2",
        ]
        await trade(stage, "9")
        await expect_sound(stage)


async def test_a_thiefs_fill_that_was_not_covered_leaves_the_account(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """The solver's key is the stolen one: what it filled had taken effect where it stands."""
    lives = KeyedLives(tmp_path)
    async with lives.live() as stage:
        await trade(stage, "0")
        order = await stage.order("o1", expires_in_s=600)
        await trio.sleep(3)
        await stage.agreed()
        assert len((await robbed(lives, stage, order)).positions) == 1
        await filled_after_all(stage, order)
        await expect_sound(stage)


async def test_trading_that_only_a_revoked_key_began_begins_again_with_the_next(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path)
    async with lives.live() as stage:
        opened = stage.near.protocol
        assert opened.status is SessionStatus.TRADING
        last = opened.record.head(1).seq
        assert opened.record.head(0).peer_seq < last
        seen = len(stage.heard.events)
        lives.revoked.revoke(lives.wallets[1].address, address_of(key_of(stage.far)), last)
        await of(stage.heard, FramesRevoked)
        states = [one.status for one in stage.heard.events[seen:] if isinstance(one, StatusChanged)]
        assert states == [SessionStatus.VERIFYING]
        await of(stage.desk.listeners[0], KeyChanged)
        await stage.agreed()
        assert opened.status is SessionStatus.TRADING
        await trade(stage, "1")
        await expect_sound(stage)


async def test_what_was_covered_before_stands_and_its_owner_imports_it(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path)
    taken: list[tuple[str, list[Frame]]] = []

    async def robbed() -> None:
        async with lives.live() as stage:
            await stage.agreed()
            stolen = forge(stage.near, encode(an_order(stage, "thief")))
            taken.append((address_of(key_of(stage.near)), [stolen]))
            await stage.wires[-1].inner.send(stolen.raw)
            await trio.sleep(60)

    with pytest.raises(ExceptionGroup) as stopped:
        await robbed()
    assert stopped.group_contains(JournalBehind), "its owner learns of it"
    ((old, (stolen,)),) = taken
    lives.revoked.revoke(lives.wallets[0].address, old, stolen.seq)
    async with lives.live(resume=True) as stage:
        imported = await of(stage.heard, OwnFrameImported)
        assert isinstance(imported, OwnFrameImported)
        assert imported.entry.frame.raw == stolen.raw
        await of(stage.heard, KeyChanged)
        await stage.agreed()
        assert changes(stage.near, 0) == [stolen.seq + 1], "the new key follows what stands"
        assert "thief" in stage.account(stage.near).orders or stage.account(stage.near).status_of(
            "thief"
        )
        await trade(stage, "1")
        await expect_sound(stage)


async def test_all_that_a_thief_traded_with_a_copied_journal_is_imported_once_the_key_is_revoked(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """Frames of both lanes, each covering others that the owner has never seen."""
    lives = KeyedLives(tmp_path)
    async with lives.live() as stage:
        await trade(stage, "1")
        await stage.agreed()
        old, head = address_of(key_of(stage.near)), stage.near.protocol.record.head(0).seq
    shutil.copy(tmp_path / "trader.db", tmp_path / "thief.db")
    async with lives.live(resume=True, trader_journal="thief.db") as stage:
        await of(stage.heard, Resumed)
        await stage.desk.begun.wait()
        for name in ("2", "3", "4"):
            await trade(stage, name)
        await stage.agreed()
        await trio.sleep(5)
        # Its last Heartbeat needs no cover and has none: that one is void.
        covered = stage.far.protocol.record.head(1).peer_seq
        assert covered == stage.near.protocol.record.head(0).seq - 1
    lives.revoked.revoke(lives.wallets[0].address, old, head + 1)
    async with lives.live(resume=True) as stage:
        await of(stage.heard, KeyChanged)
        await stage.agreed()
        imported = [event for event in stage.heard.events if isinstance(event, OwnFrameImported)]
        assert [one.entry.frame.seq for one in imported] == list(range(head + 1, covered + 1))
        assert len(stage.account(stage.near).positions) == 4
        await trade(stage, "5")
        await expect_sound(stage)
    async with lives.live(resume=True) as stage:
        await of(stage.heard, Resumed)
        await stage.desk.begun.wait()
        await trade(stage, "6")
        await expect_sound(stage)


async def test_a_copied_journal_without_a_revocation_signs_nothing(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path)
    async with lives.live() as stage:
        await stage.agreed()
    shutil.copy(tmp_path / "trader.db", tmp_path / "thief.db")
    async with lives.live(resume=True, trader_journal="thief.db") as stage:
        await of(stage.heard, Resumed)
        await stage.desk.begun.wait()
        await trade(stage, "1")
        await stage.agreed()

    async def owner() -> None:
        async with lives.live(resume=True):
            await trio.sleep(60)

    with pytest.raises(ExceptionGroup) as stopped:
        await owner()
    assert stopped.group_contains(JournalBehind)


async def test_a_revocation_that_the_chain_took_back_counts_no_more(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path)
    lives.watched = (Revoked(), lives.revoked)
    async with lives.live() as stage:
        await stage.agreed()
        seq = stage.near.protocol.record.head(0).seq
        lives.revoked.revoke(lives.wallets[0].address, address_of(key_of(stage.near)), seq + 1)
        await trio.sleep(0.1)
        await stage.near.send(request("r1"))
        await of(stage.desk.listeners[0], KeyRefused)
        custody = stage.far.agreement.custody
        assert len(await stage.solver.journal.revocations(custody)) == 1
        lives.revoked.take_back()
        await stage.wires[-1].inner.aclose()
        await stage.agreed()
        assert await stage.solver.journal.revocations(custody) == []
        await trade(stage, "1")


async def test_what_was_refused_stays_refused_after_a_restart(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path)
    lives.watched = (Revoked(), lives.revoked)
    async with lives.live() as stage:
        await stage.agreed()
        seq = stage.near.protocol.record.head(0).seq
        lives.revoked.revoke(lives.wallets[0].address, address_of(key_of(stage.near)), 1)
        await trio.sleep(0.1)
        assert stage.far.protocol.record.head(0).seq == seq, "what was covered stands"
        await stage.near.send(request("r1"))
        await of(stage.desk.listeners[0], KeyRefused)
    async with lives.live(resume=True) as stage:
        await stage.desk.begun.wait()
        await of(stage.desk.listeners[0], KeyRefused)
        assert stage.far.protocol.record.head(0).seq == seq
        assert stage.far.protocol.error is None


async def test_a_logon_by_a_key_that_was_revoked_before_is_refused(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path)
    lives.watched = (Revoked(), lives.revoked)
    async with lives.live() as stage:
        await stage.agreed()
        key = SecretKey.generate()
        lives.revoked.revoke(lives.wallets[0].address, key.address, 1)
        await trio.sleep(0.1)
        frame = await uky(stage, key, stage.far.protocol.record.head(0).seq + 1)
        await stage.wires[-1].inner.send(frame.raw)
        await of(stage.desk.listeners[0], KeyRefused)
        assert not changes(stage.far, 0)
        await trade(stage, "1")


async def test_two_frames_of_one_number_by_a_key_that_stands_are_still_guilt(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path)
    lives.watched = (Revoked(), lives.revoked)
    async with lives.live() as stage:
        first = await stage.near.send(request("r1"))
        await stage.agreed()
        other = forge(stage.near, encode(request("r2")), seq=first.frame.seq)
        await stage.wires[-1].inner.send(other.raw)
        stopped = await of(stage.desk.listeners[0], Stopped)
        assert isinstance(stopped, Stopped)
        assert stopped.error.code == "equivocation"


async def test_a_journal_without_the_key_in_force_says_so(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path)
    async with lives.live() as stage:
        await stage.agreed()
    with sqlite3.connect(tmp_path / "trader.db") as base:
        base.execute("DELETE FROM session_keys")
    base.close()

    async def again() -> None:
        async with lives.live(resume=True):
            await trio.sleep(1)

    with pytest.raises(JournalCorrupt) as named:
        await again()
    assert "session-keys" in str(named.value)


async def test_a_kept_key_that_was_revoked_before_its_use_is_passed_over(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = KeyedLives(tmp_path)
    async with lives.live() as stage:
        lives.devices[0].willing = False
        with pytest.raises(WalletError):
            await stage.near.rotate_key()
        custody = stage.near.agreement.custody
        kept = await stage.trader.journal.session_keys(custody)
        lives.revoked.revoke(lives.wallets[0].address, kept[1][1].address, 1)
        lives.devices[0].willing = True
        await trio.sleep(1)
        await stage.near.rotate_key()
        assert key_of(stage.near) not in [key.public_key for _, key in kept]
        assert len(await stage.trader.journal.session_keys(custody)) == 3
        await trade(stage, "1")
        await expect_sound(stage)
