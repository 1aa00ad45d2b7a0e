"""Session keys end, change and are revoked, and the session goes on."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import trio
from key_scene import (
    LIFE_S,
    KeyedLives,
    changes,
    digests_by_number,
    expect_sound,
    key_of,
    losses,
    of,
    request,
    trade,
    uky,
)
from rogue import forge
from session_scene import SECOND, Scene
from test_key_revocation import Clock

from psymm._core import SecretKey
from psymm.errors import JournalCorrupt, NotNow, SessionKeyEnded, WalletError
from psymm.messages import ResendRequest, encode, encode_text
from psymm.session.protocol import KeyChanged, KeyFailing, Resumed, TextReceived
from psymm.session.runtime.trader import ConnectionLost
from psymm.transcript.delegation import DelegationRefused

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


async def test_a_former_key_that_a_checkpoint_has_forgotten_is_never_delegated_again(
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
