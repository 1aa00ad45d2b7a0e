"""A wallet revokes a session key on chain: whose frames stand, whose are taken back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio
from key_scene import (
    KeyedLives,
    Revoked,
    changes,
    expect_sound,
    key_of,
    losses,
    of,
    request,
    trade,
    uky,
)
from rogue import forge
from session_scene import SECOND, UNIT, Scene
from trio.testing import MockClock

from psymm._core import Frame, SecretKey, address_of
from psymm.errors import JournalBehind, KeyRevoked, WalletError
from psymm.messages import (
    ExecType,
    ExecutionReport,
    NewOrderSingle,
    OrdType,
    PositionEffect,
    Side,
    encode,
)
from psymm.rulebook import Account
from psymm.session.protocol import (
    FramesRevoked,
    KeyChanged,
    KeyFailing,
    KeyRefused,
    OwnFrameImported,
    Resumed,
    SessionStatus,
    StatusChanged,
    Stopped,
)

Clock = MockClock


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
