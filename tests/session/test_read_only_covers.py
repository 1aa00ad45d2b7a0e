"""A side that says its journal is restored signs no frames, so it covers by its wallet's word: no
settlement is signed over a fill that the trader may still void."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from rogue import fall_silent, sign_unchecked, speak_again
from session_scene import CHAIN_ID, PSYMM, TOKEN, Lives, Scene, scene
from test_recovery import put_back
from trio.testing import MockClock

from psymm.custody.notes import Note, random_blinding, sole_custody
from psymm.custody.settlement import Payee, payee_message
from psymm.errors import PeerSilent, SettlementRefused
from psymm.journal.backup import back_up
from psymm.messages import (
    Heartbeat,
    JournalStatus,
    Resume,
    Settlement,
    SettlementOutput,
    Side,
)
from psymm.session.protocol import PeerRestored, SessionState, SessionStatus, heads, resume
from psymm.transcript.agreement import SOLVER, TRADER

MEMO = bytes(256)


async def uncovered_close(stage: Scene) -> int:
    """A position is closed at a loss by a fill that the trader has not covered, and does not;
    the number of that fill."""
    order = await stage.order("o1")
    await stage.report("e1", order)
    (position,) = (await stage.agreed()).positions
    await stage.near.send(Heartbeat())
    await trio.sleep(2)
    close = await stage.order(
        "c1", side=Side.SELL, position_id=position, price=49_000 * 10**18, expires_in_s=15
    )
    fall_silent(stage.near)
    await stage.report("e2", close)
    await trio.sleep(0.5)
    account = stage.account(stage.far)
    assert account.flat
    assert stage.account(stage.near).hash == account.hash
    fill = stage.far.protocol.record.head(SOLVER).seq
    assert stage.far.protocol.record.head(TRADER).peer_seq < fill
    return fill


async def reconnected_as_restored(stage: Scene) -> None:
    """The trader, whose journal is whole, says on its next connection that it is a backup."""
    liar, honest = stage.near.protocol.state, heads.our_heads

    def our_heads(s: SessionState) -> Resume:
        said = honest(s)
        return replace(said, journal_status=JournalStatus.RESTORED) if s is liar else said

    heads.our_heads = resume.our_heads = our_heads  # of no other state: it may stay
    seen = len(stage.desk.listeners[0].events)
    await stage.wires[-1].inner.aclose()
    await stage.desk.listeners[0].until(
        lambda event: isinstance(event, PeerRestored) or None, after=seen
    )
    while not (stage.near.protocol.synced and stage.far.protocol.synced):  # noqa: ASYNC110
        await trio.sleep(0.1)


async def payee_said(stage: Scene, covers: int | None) -> SettlementOutput:
    """The trader's payee for what the account pays it, under its wallet's signature."""
    amount = stage.account(stage.far).payouts[TRADER]
    note = Note(sole_custody(stage.trader.wallet.public_key), TOKEN, amount, random_blinding())
    message = payee_message(
        Payee(note.inner, MEMO),
        amount,
        TRADER,
        CHAIN_ID,
        PSYMM,
        stage.near.agreement.custody,
        covers=covers,
    )
    return SettlementOutput(
        inner=note.inner,
        memo=MEMO,
        amount=amount,
        ref_seq_num=covers,
        signature=await stage.trader.wallet.sign_typed(message),
    )


def proposals(stage: Scene) -> int:
    return sum(isinstance(one.message, Settlement) for one in stage.far.protocol.record)


@pytest.mark.parametrize("covers", ["nothing", "all but the fill"])
async def test_a_trader_that_says_restored_gets_no_signature_over_a_fill_it_may_still_void(
    tmp_path: Path, autojump_clock: MockClock, covers: str
) -> None:
    """With our signature it could settle with the fill, or void it by covering it late and go on
    without it, as the price goes, until the deadline."""
    async with scene(tmp_path) as stage:
        await stage.open()
        settlement_flow, failures = stage.settling(stage.far, stage.desk.listeners[0])
        fill = await uncovered_close(stage)
        await reconnected_as_restored(stage)
        said = await payee_said(stage, None if covers == "nothing" else fill - 1)
        await stage.near.send_text(said)
        await trio.sleep(100)
        assert failures
        assert proposals(stage) == 0
        # Nor at our own wish: it names its payee anew in its answer, or there is none.
        with pytest.raises((PeerSilent, SettlementRefused)):
            await settlement_flow.settle()
        assert proposals(stage) == 0
        # The honest end of it: late as this cover is, it voids the fill, and nobody signed a thing.
        speak_again(stage.near)
        sign_unchecked(stage.near, Heartbeat())
        await trio.sleep(1)
        await stage.far.send(Heartbeat())
        await trio.sleep(1)
        assert len(stage.account(stage.far).positions) == 1
        assert stage.far.protocol.status is SessionStatus.TRADING
        assert not stage.far.protocol.options


async def test_what_a_wallet_covers_stays_valid_no_matter_what_is_covered_late_after_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        stage.settling(stage.far, stage.desk.listeners[0])
        fill = await uncovered_close(stage)
        payouts = stage.account(stage.far).payouts
        await reconnected_as_restored(stage)
        await trio.sleep(60)
        await stage.near.send_text(await payee_said(stage, fill))
        await stage.heard.message(Settlement)
        # It is not restored at all, and covers now, late.
        speak_again(stage.near)
        sign_unchecked(stage.near, Heartbeat())
        await trio.sleep(1)
        await stage.far.send(Heartbeat())
        await trio.sleep(1)
        for runner in (stage.near, stage.far):
            account = stage.account(runner)
            assert account.flat
            assert account.payouts == payouts
            assert account.settlement is not None
        assert stage.account(stage.near).hash == stage.account(stage.far).hash


async def test_a_restored_trader_settles_with_the_fill_that_it_had_not_covered(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    lives = Lives(tmp_path)
    payouts: list[int] = []

    async def first(stage: Scene) -> None:
        await stage.heard.state(SessionStatus.TRADING)
        await stage.desk.listeners[0].state(SessionStatus.TRADING)
        back_up(tmp_path / "trader.db", tmp_path / "backup.db", 7)
        await uncovered_close(stage)
        payouts.extend(stage.account(stage.far).payouts)

    async def second(stage: Scene) -> None:
        await stage.desk.begun.wait()
        near, _ = stage.both_settle()
        while not stage.near.protocol.synced:  # noqa: ASYNC110
            await trio.sleep(1)
        assert stage.near.protocol.health == "read-only"
        before = stage.near.protocol.record.head(TRADER).seq
        await trio.sleep(3_600)
        await near.settle()
        assert stage.near.protocol.record.head(TRADER).seq == before
        assert [funds.worth() for funds in lives.funds.values()] == payouts

    await lives.live(open_first=True, work=first)
    put_back(tmp_path / "backup.db", tmp_path / "trader.db")
    await lives.live(open_first=False, work=second)
