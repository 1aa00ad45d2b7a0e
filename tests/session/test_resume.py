"""Connections break, processes die: heads agree again, and nothing is signed twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio
from session_scene import (
    Desk,
    Listener,
    Lives,
    Scene,
    scene,
    verified,
)
from trio.testing import MockClock

from psymm.errors import Disconnected, JournalBehind, JournalError, NotNow
from psymm.journal.transaction import Change, Durable
from psymm.journal.writer import Journal
from psymm.messages import ExecType, ExecutionReport, Resume, decode_text, encode_text
from psymm.session.protocol import HeadsDiffer, Resumed, SessionStatus, Stopped
from psymm.session.runtime.party import load_session
from psymm.session.runtime.solver import SolverServer
from psymm.session.runtime.trader import ConnectionLost
from psymm.terms import UNIT

Clock = MockClock


def dropping(kind: type) -> Callable[[str | bytes], list[str | bytes]]:
    """Loses every message of that Python type."""
    return lambda message: [] if isinstance(message, kind) else [message]


async def lost(stage: Scene, *, back: bool = True) -> None:
    """Cut the connection and wait until the trader has noticed; `back`: it may dial again."""
    seen = len(stage.heard.events)
    stage.reachable = False
    await stage.wires[-1].inner.aclose()
    await stage.heard.until(
        lambda event: True if isinstance(event, ConnectionLost) else None, after=seen
    )
    stage.reachable = back


async def resumed(stage: Scene, after: int) -> Resumed:
    return await stage.heard.until(
        lambda event: event if isinstance(event, Resumed) else None, after=after
    )


async def test_a_broken_connection_is_resumed_and_the_application_is_told(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        seen = len(stage.heard.events)
        await lost(stage)
        event = await resumed(stage, seen)
        assert (event.repeated, event.received) == (0, 0)
        order = await stage.order("o1")
        await stage.report("e1", order)
        await stage.agreed()


async def test_frames_that_were_lost_with_the_connection_are_sent_again_byte_for_byte(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        seen = len(stage.heard.events)
        stage.wires[-1].bend = dropping(bytes)
        entry = await stage.near.send(_request("r1"))
        await lost(stage)
        event = await resumed(stage, seen)
        assert event.repeated == 1
        await stage.agreed()
        held = stage.far.protocol.record.entry(0, entry.frame.seq)
        assert held is not None
        assert held.frame.raw == entry.frame.raw


async def test_nothing_is_signed_between_two_connections(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await lost(stage, back=False)
        before = len(stage.near.protocol.record)
        with pytest.raises(NotNow):
            await stage.near.send(_request("r1"))
        assert len(stage.near.protocol.record) == before


async def test_both_sides_lost_frames_and_both_come_again(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        order = await stage.order("o1")
        await stage.agreed()
        stage.wires[-1].bend = dropping(bytes)
        await stage.near.send(_request("r1"))
        far_socket = stage.far._connection
        assert far_socket is not None
        # The solver's fill is journalled, then its connection is gone before it is sent.
        far_socket.disconnect(Disconnected())
        await stage.far.send(
            ExecutionReport(
                exec_id="e1",
                cl_ord_id="o1",
                exec_type=ExecType.TRADE,
                last_px=order.price,
                last_qty=order.order_qty,
            )
        )
        await trio.sleep(20)
        account = await stage.agreed()
        assert len(account.positions) == 1
        assert "r1" in account.requests


async def test_a_silent_peer_is_tested_and_then_left(tmp_path: Path, autojump_clock: Clock) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        stage.wires[-1].bend = lambda message: []
        event = await stage.heard.until(
            lambda event: event if isinstance(event, ConnectionLost) else None
        )
        assert event.reason.code in ("peer-silent", "disconnected")
        await trio.sleep(20)
        order = await stage.order("o1")
        await stage.report("e1", order)
        await stage.agreed()


async def test_heartbeats_keep_an_idle_session_without_new_frames(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await trio.sleep(5)
        before = len(stage.near.protocol.record)
        await trio.sleep(3600)
        assert stage.near.attached
        assert len(stage.near.protocol.record) == before
        assert not any(isinstance(event, ConnectionLost) for event in stage.heard.events)


async def test_a_resume_with_other_digests_is_left_and_stops_nobody(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        heads = stage.near.protocol.heads()
        lie = Resume(
            custody=heads.custody,
            trader_seq=heads.trader_seq,
            trader_digest=b"\x01" * 32,
            solver_seq=heads.solver_seq,
            solver_digest=heads.solver_digest,
        )
        near = stage.near.protocol
        prover = near.resume_signer(stage.clock.now_ns())
        challenge = near.state.connection.peer_challenge
        assert prover is not None
        assert challenge is not None
        await stage.wires[-1].inner.send(encode_text(lie))  # unsigned, it is noise
        lie = prover.sign(stage.near.agreement, challenge, lie)
        await stage.wires[-1].inner.send(encode_text(lie))
        differ = await stage.desk.listeners[0].until(
            lambda event: event if isinstance(event, HeadsDiffer) else None
        )
        assert differ.error.code == "forked"
        seen = len(stage.heard.events)
        await resumed(stage, seen)
        order = await stage.order("o1")
        await stage.report("e1", order)
        await stage.agreed()
        custody = await stage.solver.journal.custody(heads.custody)
        assert custody.state == "open"


async def test_a_resume_of_a_custody_nobody_knows_is_refused_by_name(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with scene(tmp_path) as stage, stage.dial() as socket:
        unknown = b"\x09" * 32
        await socket.send(
            encode_text(
                Resume(
                    custody=unknown,
                    trader_seq=0,
                    trader_digest=unknown,
                    solver_seq=0,
                    solver_digest=unknown,
                )
            )
        )
        answer = decode_text(await socket.receive())
        assert "unknown-custody" in (getattr(answer, "text", None) or "")


async def test_both_processes_die_and_go_on_from_their_journals(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = Lives(tmp_path)
    heads: list[object] = []

    async def first(stage: Scene) -> None:
        await stage.heard.state(SessionStatus.TRADING)
        order = await stage.order("o1")
        await stage.report("e1", order)
        await stage.agreed()
        heads.append([stage.near.protocol.record.head(lane) for lane in (0, 1)])

    async def second(stage: Scene) -> None:
        await resumed(stage, 0)
        assert [stage.near.protocol.record.head(lane) for lane in (0, 1)] == heads[0]
        await stage.desk.begun.wait()
        order = await stage.order("o2")
        await stage.report("e2", order)
        account = await stage.agreed()
        assert len(account.positions) == 2
        custody = stage.near.agreement.custody
        for each in (stage.trader, stage.solver):
            assert await verified(each.journal, custody) == len(stage.near.protocol.record)

    await lives.live(open_first=True, work=first)
    await lives.live(open_first=False, work=second)


@pytest.mark.parametrize("frames", [0, 1, 2, 3, 4, 5, 6])
async def test_a_trader_that_dies_after_any_frame_of_the_logon_comes_back_to_trade(
    tmp_path: Path, autojump_clock: Clock, frames: int
) -> None:
    lives = Lives(tmp_path)

    async def until_frames(stage: Scene) -> None:
        while len(stage.near.protocol.record) < frames:  # noqa: ASYNC110
            await trio.sleep(0.001)

    async def then_trade(stage: Scene) -> None:
        near = stage.near.protocol
        while not (near.synced and near.status is SessionStatus.TRADING):  # noqa: ASYNC110
            await trio.sleep(0.1)
        await stage.desk.begun.wait()
        order = await stage.order("o1")
        await stage.report("e1", order)
        await stage.agreed()
        assert [funds.moves for funds in lives.funds.values()] == [1, 1]

    await lives.live(open_first=True, work=until_frames)
    await lives.live(open_first=False, work=then_trade)


@pytest.mark.parametrize("side", ["trader", "solver"])
async def test_a_process_that_dies_before_any_write_of_the_opening_can_settle_after_its_restart(
    tmp_path: Path, autojump_clock: Clock, side: str
) -> None:
    for nth in range(1, 100):
        path = tmp_path / str(nth)
        path.mkdir()
        if not await _died_before_write(Lives(path), side, nth):
            break
    assert 4 < nth < 30


async def _died_before_write(lives: Lives, side: str, nth: int) -> bool:
    """Kill that side before its nth write, and settle after the restart. False: it wrote less."""
    written = 0

    async def first(stage: Scene) -> None:
        journal = getattr(stage, side).journal
        with trio.CancelScope() as power:
            _die_at(journal, power)
            await stage.heard.state(SessionStatus.TRADING)
            await stage.desk.listeners[0].state(SessionStatus.TRADING)
            await trio.sleep(5)

    def _die_at(journal: Journal, power: trio.CancelScope) -> None:
        """All that this process writes goes through `write_soon`."""
        original = journal.write_soon

        def mortal(changes: Sequence[Change], then: Durable, *how: bool) -> None:
            nonlocal written
            written += 1
            if written >= nth:
                power.cancel()
            else:
                original(changes, then, *how)

        journal.write_soon = mortal  # type: ignore[method-assign]

    async def second(stage: Scene) -> None:
        await stage.desk.begun.wait()
        for runner in (stage.near, stage.far):
            while not (runner.protocol.synced and runner.protocol.status is SessionStatus.TRADING):  # noqa: ASYNC110
                await trio.sleep(0.1)
        near, _ = stage.both_settle()
        await near.settle()
        assert [lives.funds[lane].worth() for lane in (0, 1)] == [2_000_000_000, 5_000_000_000]

    await lives.live(open_first=True, work=first)
    if written >= nth:
        with trio.fail_after(3_600):
            await lives.live(open_first=False, work=second)
    return written >= nth


async def test_frames_journalled_but_never_sent_go_out_after_the_restart(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = Lives(tmp_path)
    signed: list[bytes] = []

    async def first(stage: Scene) -> None:
        await stage.heard.state(SessionStatus.TRADING)
        stage.wires[-1].bend = dropping(bytes)
        signed.append((await stage.near.send(_request("r1"))).frame.raw)

    async def second(stage: Scene) -> None:
        assert (await resumed(stage, 0)).repeated == 1
        await stage.agreed()
        record = stage.far.protocol.record
        assert signed[0] in [entry.frame.raw for entry in record]

    await lives.live(open_first=True, work=first)
    await lives.live(open_first=False, work=second)


def move_journal(source: Path, target: Path, *, copy: bool = False) -> None:
    """Put the trader's journal elsewhere, in place of any that stands there."""
    target.mkdir(exist_ok=True)
    for old in target.glob("trader.db*"):
        old.unlink()
    for path in list(source.glob("trader.db*")):
        shutil.copy(path, target / path.name)
        if not copy:
            path.unlink()


async def test_a_stale_journal_signs_nothing_and_says_so(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    lives = Lives(tmp_path)

    async def first(stage: Scene) -> None:
        await stage.heard.state(SessionStatus.TRADING)
        await stage.agreed()

    async def more(stage: Scene) -> None:
        await resumed(stage, 0)
        await stage.desk.begun.wait()
        await stage.order("o1")

    async def stale(stage: Scene) -> None:
        stopped = await stage.heard.until(
            lambda event: event if isinstance(event, Stopped) else None
        )
        assert isinstance(stopped.error, JournalBehind)
        before = len(stage.near.protocol.record)
        with pytest.raises(JournalBehind):
            await stage.near.send(_request("r9"))
        assert len(stage.near.protocol.record) == before
        await trio.sleep(30)

    await lives.live(open_first=True, work=first)
    move_journal(tmp_path, tmp_path / "old")
    move_journal(tmp_path / "old", tmp_path, copy=True)
    await lives.live(open_first=False, work=more)
    move_journal(tmp_path / "old", tmp_path)
    with pytest.raises((JournalBehind, ExceptionGroup)):
        await lives.live(open_first=False, work=stale)


async def test_a_journal_that_fails_ends_the_session_before_anything_is_sent(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    sent: list[str | bytes] = []

    async def fill_the_disk() -> None:
        async with scene(tmp_path) as stage:
            await stage.open()
            wire = stage.wires[-1]
            stage.trader.journal._broken = JournalError("the disk is full")
            before = len(wire.sent)
            with pytest.raises(JournalError, match="disk is full"):
                await stage.near.send(_request("r1"))
            sent.extend(wire.sent[before:])
            await trio.sleep(30)

    with pytest.raises(ExceptionGroup) as caught:
        await fill_the_disk()
    assert caught.group_contains(JournalError, match="disk is full")
    assert not any(isinstance(message, bytes) for message in sent)


def _request(name: str) -> object:
    from psymm.messages import QuoteRequest

    return QuoteRequest(quote_req_id=name, symbol="BTC-USD", order_qty=UNIT // 100)


__all__ = ["Desk", "Listener", "SolverServer", "load_session"]
