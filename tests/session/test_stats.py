"""What an operator sees: each event once, counters that add up, and never a secret."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
from rogue import forge, sign_unchecked
from session_scene import CHAIN_ID, PSYMM, Scene, scene
from trio.testing import MockClock

from psymm._core import JsonError
from psymm.cli.logs import start_logging
from psymm.custody.viewing import viewing_key
from psymm.errors import JournalError
from psymm.journal.writer import open_journal
from psymm.messages import ExecType, ExecutionReport, Heartbeat, Reject, Side, decode, encode
from psymm.rulebook.violation import CATALOGUE
from psymm.session.protocol import SessionStatus
from psymm.session.runtime.party import journal_secret
from psymm.session.runtime.stats import EVENTS, REASONS, Traffic
from psymm.terms import UNIT


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """Every record of the package, at any level."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger, handler = logging.getLogger("psymm"), Keep()
    before = (logger.level, logger.propagate, list(logger.handlers))
    logger.setLevel(logging.DEBUG)
    logger.handlers[:] = [handler]
    yield records
    level, logger.propagate, logger.handlers[:] = before
    logger.setLevel(level)


def of(
    logged: list[logging.LogRecord], event: str, lane: int | None = None
) -> list[dict[str, object]]:
    return [
        vars(one)
        for one in logged
        if one.msg == event and (lane is None or vars(one).get("lane") == lane)
    ]


async def settle(stage: Scene) -> None:
    trader, _ = stage.both_settle()
    await trader.settle()
    await stage.heard.state(SessionStatus.CLOSED)


def unknown_fill(exec_id: str) -> ExecutionReport:
    return ExecutionReport(
        exec_id=exec_id,
        cl_ord_id="nobody's",
        exec_type=ExecType.TRADE,
        last_px=50_000 * UNIT,
        last_qty=UNIT // 100,
    )


async def test_a_sessions_life_is_logged_once_with_stable_names_and_fields(
    tmp_path: Path, autojump_clock: MockClock, logged: list[logging.LogRecord]
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        sign_unchecked(stage.far, unknown_fill("e1"))
        await trio.sleep(3)
        await stage.wires[-1].aclose()
        await trio.sleep(5)
        await stage.near.send(Heartbeat())
        await trio.sleep(1)
        custody = "0x" + stage.near.agreement.custody.hex()
    for one in logged:
        if one.name == "psymm.session.runtime.stats":
            assert str(one.msg) in EVENTS
            named = EVENTS[str(one.msg)].partition(":")[0].split(", ")
            assert {"custody", "lane"} <= set(named)
            assert all(field in vars(one) for field in named), one.msg
            assert vars(one)["custody"] == custody
    (violation,) = of(logged, "violation")
    assert (violation["lane"], violation["code"]) == (1, "unknown-order")
    (rejected,) = of(logged, "rejected")
    assert (rejected["lane"], rejected["seq"]) == (1, violation["seq"])
    for lane in (0, 1):
        assert len(of(logged, "connected", lane)) == 2
        assert len(of(logged, "disconnected", lane)) >= 1
        assert len(of(logged, "resumed", lane)) == 1
        assert [one["state"] for one in of(logged, "state", lane)] == ["verifying", "trading"]
    (serving,) = of(logged, "serving")
    assert serving["acknowledgement_s"] == 10
    assert "hold a frame back for at most T = 10 s" in str(serving["note"])


async def test_what_a_session_stops_for_is_an_error_in_the_log(
    tmp_path: Path, autojump_clock: MockClock, logged: list[logging.LogRecord]
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.report("e1", await stage.order("o1"))
        await stage.agreed()
        head = stage.near.protocol.record.head(0)
        twin = forge(
            stage.near,
            encode(Heartbeat()),
            seq=head.seq,
            covers=head.peer_seq,
            sending_time=head.sending_time,
        )
        await stage.wires[-1].inner.send(twin.raw)
        await trio.sleep(1)
    (stopped,) = of(logged, "stopped", 1)
    assert "stopped" not in {one["state"] for one in of(logged, "state")}, "said once"
    assert (stopped["levelname"], stopped["code"]) == ("ERROR", "equivocation")


async def test_the_words_of_a_peer_are_in_no_log_line_and_in_no_counter(
    tmp_path: Path, autojump_clock: MockClock, logged: list[logging.LogRecord]
) -> None:
    words = "invented\x1b[2J"
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.report("e1", await stage.order("o1"))
        await stage.agreed()
        seq = stage.far.protocol.record.head(1).seq
        for _ in range(50):
            said = Reject(ref_seq_num=seq, violation=words, text=words)
            sign_unchecked(stage.near, said)
        await trio.sleep(3)
        received = stage.far.statistics().traffic.rejects_received
    assert set(received) == {"other"}
    assert received["other"] == 50
    assert len(of(logged, "rejected", 1)) == 50
    assert not any("invented" in str(vars(one)) for one in logged)


async def test_statistics_of_both_ends_and_the_server_add_up(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        await stage.report("e1", await stage.order("o1"))
        sign_unchecked(stage.far, unknown_fill("e2"))
        await trio.sleep(3)
        await stage.wires[-1].aclose()
        await trio.sleep(5)
        await stage.wires[-1].inner.send("no JSON")
        await trio.sleep(3)
        await stage.agreed()
        near, far = stage.near.statistics(), stage.far.statistics()
        record = stage.near.protocol.record
        server = stage.server.statistics()
        assert (near.frames, far.frames) == (len(record), len(record))
        assert near.traffic.frames_out == far.traffic.frames_in == record.head(0).seq
        # One solver frame was put on the record behind the protocol's back.
        assert far.traffic.frames_out == record.head(1).seq - 1
        assert near.traffic.frames_in == record.head(1).seq
        assert near.traffic.rejects_sent == {"unknown-order": 1}
        assert far.traffic.rejects_received == {"unknown-order": 1}
        assert (near.connections, near.traffic.reconnects) == (2, 1)
        assert far.traffic.malformed == 1
        assert far.traffic.bytes_in == stage_bytes(stage) + len("no JSON")
        assert near.last_in_ns is not None
        assert near.last_out_ns is not None
        assert near.covered_ns is not None
        assert 0 <= near.covered_ns <= 2_000_000_000
        assert (near.waiting, far.waiting, near.load.outgoing_messages) == (0, 0, 0)
        assert server.traffic == far.traffic
        assert near.traffic.disconnects == far.traffic.disconnects == {"disconnected": 1}
        client = stage.client.statistics()
        assert (client.losses, client.runner) == (1, near)
        assert dict(server.states) == {SessionStatus.TRADING: 1}
        journal = stage.solver.journal.statistics()
        assert journal.commit_seconds.values == journal.commits == journal.commit_writes.values
        assert journal.commit_writes.total == journal.writes
        assert not journal.broken


def stage_bytes(stage: Scene) -> int:
    """What the trader handed to its sockets since its first frame; before it is no session."""
    first, *later = [wire.sent for wire in stage.wires]
    begins = next(at for at, one in enumerate(first) if isinstance(one, bytes))
    session = [*first[begins:], *(one for sent in later for one in sent)]
    return sum(len(one.encode() if isinstance(one, str) else one) for one in session)


async def test_what_a_session_counted_stays_with_the_server_when_it_leaves_memory(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with scene(tmp_path) as stage:
        await stage.open()
        before = stage.server.statistics().traffic
        assert before.frames_in > 0
        stage.server.sessions.drop(stage.far)
        await trio.sleep(0.1)
        after = stage.server.statistics()
        assert after.traffic.frames_in >= before.frames_in
        assert Traffic.sum([after.traffic, Traffic()]) == after.traffic


async def test_no_secret_of_either_side_is_anywhere_in_the_logs_of_a_whole_session(
    tmp_path: Path,
    autojump_clock: MockClock,
    logged: list[logging.LogRecord],
    capsys: pytest.CaptureFixture[str],
) -> None:
    secrets: dict[str, bytes] = {}
    async with scene(tmp_path) as stage:
        logger = logging.getLogger("psymm")
        kept = list(logger.handlers)
        start_logging(True, "debug")
        logger.handlers += kept
        await stage.open()
        await stage.report("e1", await stage.order("o1"))
        sign_unchecked(stage.far, unknown_fill("e2"))
        await trio.sleep(3)
        await stage.wires[-1].aclose()
        await trio.sleep(5)
        (held,) = stage.account(stage.near).positions
        close = await stage.order("o2", side=Side.SELL, position_id=held)
        await stage.report("e3", close)
        await stage.agreed()
        await settle(stage)
        for runner, party in ((stage.near, stage.trader), (stage.far, stage.solver)):
            name = f"lane {runner.lane}"
            wallet = party.wallet
            agreement = runner.agreement
            secrets[f"{name}: session key"] = runner.protocol.state.keys.key.expose_secret_bytes()
            secrets[f"{name}: wallet key"] = wallet._key.expose_secret_bytes()  # type: ignore[attr-defined]
            viewing = await viewing_key(wallet, CHAIN_ID, PSYMM)
            secrets[f"{name}: viewing secret"] = viewing.secret
            secrets[f"{name}: journal secret"] = await journal_secret(wallet, CHAIN_ID, PSYMM)
            held_custody = await party.journal.custody(agreement.custody)
            if runner.lane == 0:
                secrets[f"{name}: nonce"] = held_custody.nonce
            for note in await party.journal.openings(agreement.custody):
                secrets[f"{name}: blinding"] = note.blinding
            secrets[f"{name}: salt"] = agreement.salt
    said = capsys.readouterr().err
    assert len(logged) >= len(said.splitlines()) > 10
    lines = [json.loads(line) for line in said.splitlines()]
    assert {
        "connected",
        "violation",
        "disconnected",
        "settlement-proposed",
        "settlement-cited",
    } <= {line["event"] for line in lines}
    haystack = (said + " ".join(str(vars(one)) for one in logged)).lower()
    assert len(secrets) > 10
    for name, secret in secrets.items():
        digits = secret.hex()
        windows = (digits[at : at + 16] for at in range(len(digits) - 15))
        assert not any(one in haystack for one in windows if len(set(one)) > 4), name
        assert repr(secret)[2:20].lower() not in haystack, name
        assert str(int.from_bytes(secret)) not in haystack, name


async def test_a_journal_that_can_write_no_more_is_said_once_and_shows_in_its_statistics(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    async with open_journal(tmp_path / "journal.db") as journal:
        assert not journal.statistics().broken
        with closing(sqlite3.connect(journal.path)) as other:
            other.execute("DROP TABLE facts")
        for _ in range(3):
            with pytest.raises(JournalError):
                await journal.keep_fact(bytes(32), "{}")
        assert journal.statistics().broken
    (failed,) = of(logged, "journal-failed")
    assert (failed["levelname"], failed["code"]) == ("CRITICAL", "journal-corrupt")


def test_every_name_that_a_rule_can_have_is_a_reason_of_its_own() -> None:
    assert set(CATALOGUE) <= REASONS
    faults = [
        b"\xff", b"{", b"[]", b'{"A":"1"}', b'{"MsgType":"??"}', b'{"MsgType":"0","X":"1"}',
        b'{"MsgType":"5","Text":"a","Text":"b"}', b'{"MsgType":"5","Text":1}', b'{"MsgType":"3"}',
        b'{"MsgType":"3","RefSeqNum":"x","Violation":"v"}', b'{"MsgType":"5","Text":""}',
        b'{"MsgType":"5","Text":"\\ud800"}', b'{"MsgType":"0"} ',
        b'{"MsgType":"5","Text":"' + b"x" * 2000 + b'"}',
    ]  # fmt: skip
    for payload in faults:
        with pytest.raises(JsonError) as caught:
            decode(payload)
        assert caught.value.code in REASONS
