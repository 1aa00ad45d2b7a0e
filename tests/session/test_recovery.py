"""Backups and repaired journals: what they fetch, what they never sign, how they settle.

This file is long because backups, repaired journals and refusing disks are told by one story of a
custody.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from lost_frames import lose
from session_scene import ChainCollateral, Scene, found, proven, scene
from test_resume import Lives, _request, resumed
from trio.testing import MockClock

from psymm._core import Frame
from psymm.errors import (
    Equivocation,
    JournalRestored,
    SettlementRefused,
)
from psymm.journal.backup import back_up
from psymm.journal.inspection import inspect
from psymm.journal.repair import repair_journal
from psymm.messages import (
    BusinessMessageReject,
    ExecType,
    ExecutionReport,
    Heartbeat,
    LaneCode,
    ResendRequest,
    Resume,
    SettlementAcceptance,
    Side,
    decode_text,
    encode_text,
)
from psymm.session.protocol import (
    Effects,
    PeerRestored,
    Resumed,
    SessionState,
    SessionStatus,
    Stopped,
    StoreEvidence,
    TextReceived,
    gaps,
)
from psymm.session.runtime.runner import SessionRunner
from psymm.storage import StorageError
from psymm.transcript.agreement import SOLVER, TRADER
from psymm.transcript.record import Record

NAMES = ("trader.db", "solver.db")
PAID = [1_999_899_750, 5_000_000_000]


def put_back(backup: Path, journal: Path) -> None:
    for old in journal.parent.glob(journal.name + "*"):
        old.unlink()
    shutil.copy(backup, journal)


async def traded(stage: Scene) -> None:
    """A position is opened and closed again at a loss, so that the account is flat and moved."""
    await stage.heard.state(SessionStatus.TRADING)
    await stage.desk.listeners[0].state(SessionStatus.TRADING)


async def in_and_out(stage: Scene, backed_up: Callable[[], None]) -> None:
    await traded(stage)
    order = await stage.order("o1")
    await stage.report("e1", order)
    account = await stage.agreed()
    backed_up()
    (position,) = account.positions.values()
    close = await stage.order(
        "c1", side=Side.SELL, position_id=position.position_id, price=49_000 * 10**18
    )
    await stage.report("e2", close)
    account = await stage.agreed()
    assert account.flat


class Story:
    """A trade, a backup in its middle, and a second life of one side from that backup."""

    def __init__(self, path: Path, lane: int) -> None:
        self.path = path
        self.lane = lane
        self.lives = Lives(path)
        self.payouts: tuple[int, int] = (0, 0)

    async def first(self) -> None:
        async def work(stage: Scene) -> None:
            journal = self.path / NAMES[self.lane]
            await in_and_out(stage, lambda: back_up(journal, self.path / "backup.db", 7) and None)
            self.payouts = stage.account(stage.near).payouts

        await self.lives.live(open_first=True, work=work)
        put_back(self.path / "backup.db", self.path / NAMES[self.lane])

    async def second(self, work: Callable[[Scene], Awaitable[None]]) -> None:
        async def begun(stage: Scene) -> None:
            await resumed(stage, 0)
            await stage.desk.begun.wait()
            # The solver's side agrees a message later.
            await stage.desk.listeners[0].until(lambda event: isinstance(event, Resumed) or None)
            await work(stage)

        await self.lives.live(open_first=False, work=begun)

    def ends(self, stage: Scene) -> tuple[SessionRunner, SessionRunner]:
        """(restored, intact)."""
        pair = (stage.near, stage.far)
        return pair[self.lane], pair[1 - self.lane]


@pytest.mark.parametrize("lane", [TRADER, SOLVER])
@pytest.mark.parametrize("proposes", ["intact", "read-only"])
async def test_a_restored_backup_settles_by_wallet_signature_what_the_account_says(
    tmp_path: Path, autojump_clock: MockClock, lane: int, proposes: str
) -> None:
    story = Story(tmp_path, lane)
    await story.first()

    async def settle(stage: Scene) -> None:
        near, far = stage.both_settle()
        restored, intact = story.ends(stage)
        ours, theirs = (near, far) if lane == TRADER else (far, near)
        assert restored.protocol.health == "read-only"
        before = restored.protocol.record.head(lane).seq
        while not intact.protocol.synced:  # noqa: ASYNC110
            await trio.sleep(1)
        await (theirs if proposes == "intact" else ours).settle()
        while intact.protocol.settled is None:  # noqa: ASYNC110
            await trio.sleep(1)
        assert restored.protocol.record.head(lane).seq == before
        paid = [funds.worth() for funds in story.lives.funds.values()]
        assert paid == list(story.payouts)
        assert story.payouts[TRADER] < 2_000_000_000
        while restored.protocol.status is not SessionStatus.CLOSED:  # noqa: ASYNC110
            await trio.sleep(1)

    await story.second(settle)


async def test_a_stale_copy_stops_and_a_backup_of_it_settles(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    story = Story(tmp_path, TRADER)
    await story.first()
    base = sqlite3.connect(tmp_path / "trader.db")
    base.execute("UPDATE custodies SET state = 'stopped', reason = 'journal-behind: …'")
    base.commit()
    base.close()

    async def settle(stage: Scene) -> None:
        _, far = stage.both_settle()
        while not stage.far.protocol.synced:  # noqa: ASYNC110
            await trio.sleep(1)
        await far.settle()
        assert [one.worth() for one in story.lives.funds.values()] == list(story.payouts)

    await story.second(settle)


@pytest.mark.parametrize("lane", [TRADER, SOLVER])
async def test_a_restored_backup_fetches_both_lanes_and_signs_no_frame(
    tmp_path: Path, autojump_clock: MockClock, lane: int
) -> None:
    story = Story(tmp_path, lane)
    await story.first()

    async def idle(stage: Scene) -> None:
        restored, intact = story.ends(stage)
        heard = stage.desk.listeners[0] if lane == TRADER else stage.heard
        assert any(isinstance(event, PeerRestored) for event in heard.events)
        for each in (TRADER, SOLVER):
            assert restored.protocol.record.head(each) == intact.protocol.record.head(each)
        held = restored.protocol.record.head(lane)
        with pytest.raises(JournalRestored, match="wallet signature"):
            await restored.send(_request("r9"))
        with pytest.raises(JournalRestored):
            await restored.log_out("enough")
        if lane == SOLVER:
            await intact.send(_request("r1"))
        await trio.sleep(600)
        assert restored.protocol.record.head(lane) == held
        assert restored.protocol.record.head(1 - lane) == intact.protocol.record.head(1 - lane)

    await story.second(idle)
    kept = inspect(tmp_path / NAMES[lane])
    assert kept.complete
    assert [one.health for one in kept.custodies] == ["read-only"]


async def test_the_journal_itself_refuses_what_an_protocol_might_sign_with_a_backup(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    story = Story(tmp_path, TRADER)
    await story.first()

    async def force(stage: Scene) -> None:
        restored, _ = story.ends(stage)
        journal, custody = stage.trader.journal, restored.agreement.custody
        with pytest.raises(JournalRestored):
            await journal.session_keys(custody)
        last = restored.protocol.record.entry(TRADER, restored.protocol.record.head(TRADER).seq)
        assert last is not None
        with pytest.raises(JournalRestored):
            await journal.append([(last.frame, last.digest)])

    await story.second(force)


async def test_new_custodies_may_be_opened_with_a_restored_backup(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    story = Story(tmp_path, TRADER)
    await story.first()

    async def again(stage: Scene) -> None:
        client = stage.new_client()
        await stage.nursery.start(client.run)
        assert client.runner is not None
        while client.runner.protocol.status is not SessionStatus.TRADING:  # noqa: ASYNC110
            await trio.sleep(1)
        await client.runner.send(_request("r1"))

    await story.second(again)


async def test_a_signature_outside_the_record_that_is_not_the_wallets_is_refused_by_name(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    story = Story(tmp_path, TRADER)
    await story.first()

    async def lie(stage: Scene) -> None:
        stage.settling(stage.near, stage.heard)
        far, failures = stage.settling(stage.far, stage.desk.listeners[0])
        funds = stage.trader.collateral
        assert isinstance(funds, ChainCollateral)
        honest = funds.sign

        async def other(settlement: object) -> bytes:
            signature = bytearray(await honest(settlement))  # type: ignore[arg-type]
            signature[40] ^= 1
            return bytes(signature)

        funds.sign = other  # type: ignore[method-assign]
        stage.nursery.start_soon(tolerant, far.settle)
        said = await stage.heard.until(
            lambda event: (
                event.message
                if isinstance(event, TextReceived)
                and isinstance(event.message, BusinessMessageReject)
                else None
            )
        )
        assert said.ref_msg_type == "USA"
        assert not stage.chain.spent
        alive = stage.far.protocol.proposal
        assert alive is not None
        for wrong in (alive[1].frame.seq + 1, 0):
            await stage.near.send_text(SettlementAcceptance(ref_seq_num=wrong, signature=bytes(65)))
        await trio.sleep(5)
        assert failures == []
        assert stage.far.protocol.acceptance is None
        right = await honest(far._settlement)  # type: ignore[arg-type]
        await stage.near.send_text(
            SettlementAcceptance(ref_seq_num=alive[1].frame.seq, signature=right)
        )
        while not stage.chain.spent:
            await stage.chain.moved.wait()

    await story.second(lie)


async def tolerant(settle: Callable[[], Awaitable[object]]) -> None:
    try:
        await settle()
    except SettlementRefused:
        return


async def test_the_intact_side_that_died_with_the_signature_outside_the_record_mines_it_later(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    story = Story(tmp_path, TRADER)
    await story.first()

    async def until_signed(stage: Scene) -> None:
        _, far = stage.both_settle()
        funds = stage.solver.collateral
        assert isinstance(funds, ChainCollateral)
        sending = trio.Event()

        async def dies(*_: object) -> None:
            sending.set()
            await trio.sleep_forever()

        funds.settle = dies  # type: ignore[method-assign,assignment]
        stage.nursery.start_soon(tolerant, far.settle)
        await sending.wait()
        del funds.settle

    async def later(stage: Scene) -> None:
        # The restored side is silent now: what it signed is in the intact side's journal.
        stage.settling(stage.far, stage.desk.listeners[0])
        while not stage.chain.spent:
            await stage.chain.moved.wait()
        assert [one.worth() for one in story.lives.funds.values()] == list(story.payouts)

    await story.second(until_signed)
    await story.second(later)


# --- repairing from the peer --------------------------------------------------------------------


def heads_of_nothing(custody: bytes) -> Resume:
    """What a journal that has lost all of a custody's frames says of them."""
    return Resume(
        custody=custody, trader_seq=0, trader_digest=custody, solver_seq=0, solver_digest=custody
    )


@pytest.mark.parametrize("lane", [TRADER, SOLVER])
@pytest.mark.parametrize("where", ["lane = 0", "lane = 1", "seq BETWEEN 2 AND 4", "arrival > 6"])
async def test_a_repaired_journal_fetches_what_it_lost_from_the_peer_and_trades_on(
    tmp_path: Path, autojump_clock: MockClock, lane: int, where: str
) -> None:
    lives = Lives(tmp_path)
    frames: list[list[bytes]] = []

    async def first(stage: Scene) -> None:
        await in_and_out(stage, lambda: None)
        frames.append([entry.frame.raw for entry in stage.near.protocol.record])

    async def second(stage: Scene) -> None:
        await resumed(stage, 0)
        await stage.desk.begun.wait()
        runner = (stage.near, stage.far)[lane]
        assert runner.protocol.health == "complete"
        assert {entry.frame.raw for entry in runner.protocol.record} >= set(frames[0])
        order = await stage.order("o2")
        await stage.report("e9", order)
        await stage.agreed()

    await lives.live(open_first=True, work=first)
    path = tmp_path / NAMES[lane]
    lose(path, where)
    result = repair_journal(path, [], 5)
    assert result is not None
    assert [one.health for one in result.custodies] == ["recovering"]
    await lives.live(open_first=False, work=second)
    assert inspect(path).complete


@pytest.mark.parametrize("shown", ["a part of ours", "a part of its own"])
async def test_a_peer_that_shows_a_part_only_gets_no_second_signature(
    tmp_path: Path,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    shown: str,
) -> None:
    """The solver keeps back the end of a lane: the trader knows that there is more, and waits."""
    lives = Lives(tmp_path)

    async def first(stage: Scene) -> None:
        await in_and_out(stage, lambda: None)

    async def second(stage: Scene) -> None:
        hidden = TRADER if shown == "a part of ours" else SOLVER
        await stage.desk.begun.wait()
        far = stage.far.protocol.state
        head = far.record.head(hidden).seq
        honest = gaps.resend

        def prefix(s: SessionState, out: Effects, begin: int, end: int, lane: int) -> int:
            hides = s is far and lane == hidden
            return honest(s, out, begin, head - 1 if hides else end, lane)

        monkeypatch.setattr(gaps, "resend", prefix)
        await trio.sleep(300)
        assert stage.near.protocol.health == "recovering"
        assert not stage.near.protocol.synced
        assert not any(isinstance(event, Stopped) for event in stage.heard.events)
        monkeypatch.undo()
        while not stage.near.protocol.synced:  # noqa: ASYNC110
            await trio.sleep(1)
        assert stage.near.protocol.health == "complete"
        await stage.order("o2")

    await lives.live(open_first=True, work=first)
    lose(tmp_path / "trader.db", "arrival > 6")
    assert repair_journal(tmp_path / "trader.db", [], 5) is not None
    await lives.live(open_first=False, work=second)


async def test_a_frame_of_ours_after_the_newest_that_we_knew_ends_all_signing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    lives = Lives(tmp_path)
    heads: list[tuple[int, bytes]] = []

    async def first(stage: Scene) -> None:
        await in_and_out(stage, lambda: None)
        record = stage.near.protocol.record
        head = record.head(TRADER).seq
        heads.extend((seq, record.digest(TRADER, seq)) for seq in (head, head - 1))

    async def second(stage: Scene) -> None:
        await resumed(stage, 0)
        assert stage.near.protocol.health == "read-only"
        assert stage.near.protocol.record.head(TRADER).seq == heads[0][0]
        with pytest.raises(JournalRestored):
            await stage.near.send(_request("r9"))

    await lives.live(open_first=True, work=first)
    path = tmp_path / "trader.db"
    lose(path, "arrival > 6")
    assert repair_journal(path, [], 5) is not None
    base = sqlite3.connect(path)
    # As if the high-water mark had been wrong about the newest.
    base.execute("UPDATE recovering SET trader_seq = ?, trader_digest = ?", heads[1])
    base.commit()
    base.close()
    await lives.live(open_first=False, work=second)


async def test_frames_of_either_lane_are_resent_as_they_were_and_once_a_second(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.order("o1")
        await stage.agreed()
        record = stage.far.protocol.record
        (held,) = await stage.solver.journal.custodies()
        stage.reachable = False
        await stage.wires[-1].inner.aclose()
        await trio.sleep(1)
        stage.reachable = True
        stage.client.leave(JournalRestored())
        async with stage.dial() as socket:
            custody = held.agreement.custody
            nothing = heads_of_nothing(custody)
            await socket.send(encode_text(await proven(socket, stage.near, nothing)))
            ask = ResendRequest(begin_seq_no=1, end_seq_no=2, lane=LaneCode.TRADER)
            for _ in range(5):
                await socket.send(encode_text(ask))
            got: list[Frame] = []
            with trio.move_on_after(5):
                while True:
                    said = await socket.receive()
                    if isinstance(said, bytes):
                        offset = 0
                        while offset < len(said):
                            frame = Frame.parse(said, offset)
                            got.append(frame)
                            offset += frame.length
                    else:
                        assert not isinstance(decode_text(said), BusinessMessageReject)
        ours = [frame.raw for frame in got if frame.lane == TRADER]
        theirs = [frame.raw for frame in got if frame.lane == SOLVER]
        lane = [entry.frame.raw for entry in record if entry.frame.lane == TRADER]
        assert ours == [*lane, *lane[:2]], "shown to who lacks it, then once for five requests"
        assert theirs == [entry.frame.raw for entry in record if entry.frame.lane == SOLVER]


# --- a disk that refuses ------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", ["full", "read-only"])
async def test_nothing_is_sent_that_a_refusing_disk_did_not_take_and_the_next_life_goes_on(
    tmp_path: Path, autojump_clock: MockClock, refusal: str
) -> None:
    lives = Lives(tmp_path)
    sent: list[bytes] = []
    signed: list[bytes] = []

    async def first(stage: Scene) -> None:
        await traded(stage)
        base = stage.trader.journal._connection
        if refusal == "full":
            (pages,) = base.execute("PRAGMA page_count").fetchone()
            base.execute(f"PRAGMA max_page_count = {pages}")
        else:
            base.execute("PRAGMA query_only = ON")
        wire = stage.wires[-1]
        before = len(wire.sent)

        async def until_refused() -> None:
            for number in range(200):
                signed.append((await stage.near.send(_request(f"r{number}"))).frame.raw)

        with pytest.raises(StorageError):
            await until_refused()
        sent.extend(message for message in wire.sent[before:] if isinstance(message, bytes))
        await trio.sleep(30)

    async def second(stage: Scene) -> None:
        await resumed(stage, 0)
        record = stage.near.protocol.record
        held = b"".join(entry.frame.raw for entry in record)
        assert all(message in held for message in sent)
        assert [raw for raw in signed if raw not in held] == []
        await stage.desk.begun.wait()
        await stage.near.send(_request("after"))
        await stage.agreed()

    with pytest.raises(ExceptionGroup) as caught:
        await lives.live(open_first=True, work=first)
    assert caught.group_contains(StorageError)
    await lives.live(open_first=False, work=second)


async def test_a_peer_that_hides_what_it_signed_must_sign_one_of_its_numbers_again_to_propose(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The solver shows the restored trader its lane only up to an earlier flat account, and
    proposes there: its proposal and the frame that it hid are the proof of its guilt."""
    async with scene(tmp_path) as stage:
        await stage.open()
        record = stage.far.protocol.record
        key = stage.far.protocol.state.keys.key
        assert key is not None
        await stage.order("o1")
        hidden = await stage.far.send(
            ExecutionReport(
                exec_id="e1",
                cl_ord_id="o1",
                exec_type=ExecType.TRADE,
                last_px=50_000 * 10**18,
                last_qty=10**16,
            )
        )
        earlier = Record(record.agreement)
        for entry in record:
            if entry.frame.lane == SOLVER and entry.frame.seq >= hidden.frame.seq:
                break
            earlier.append(entry.frame)
        proposal = earlier.sign(key, SOLVER, Heartbeat(), stage.clock.now_ns())
        # The trader's newest journal, found again, or whoever has the frame that was hidden:
        protocol = stage.near.protocol
        await stage.agreed()
        effects = protocol.receive_binary(proposal.frame.raw, stage.clock.now_ns())
        assert isinstance(found(effects, Stopped).error, Equivocation)
        evidence = found(effects, StoreEvidence)
        assert isinstance(evidence.first, Frame)
        first, second = evidence.first, evidence.second
        assert {first.raw, second.raw} == {hidden.frame.raw, proposal.frame.raw}
