"""`psymm transcript show`: any session readable, from a file or a journal, also while it runs."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import pytest
import trio
from test_commands import Ran, psymm
from trio.testing import MockClock

sys.path.insert(0, str(Path(__file__).parents[2] / "benches"))
sys.path.insert(0, str(Path(__file__).parents[1] / "session"))

from long_transcript import Writer, business, write_frames
from rogue import fall_silent, sign_unchecked
from session_scene import SECOND, Scene, scene

from psymm._core import Frame, SecretKey
from psymm.journal.export import export
from psymm.journal.writer import Journal, open_journal
from psymm.messages import (
    ExecType,
    ExecutionReport,
    Heartbeat,
    OrderCancelRequest,
    Side,
)
from psymm.terms import UNIT
from psymm.transcript.agreement import CustodyAgreement
from psymm.transcript.file import encode_file
from psymm.wallet import KeyWallet, save_keystore

HOSTILE = "q\x1b[2J\u202e"


async def session(stage: Scene, file: Path) -> None:
    """A fill, a declined order with a hostile id, a violation that is rejected, a fill that was
    held back and is reversed, and what is still pending."""
    await stage.open()
    desk = stage.desk.listeners[0]
    await stage.report("e1", await stage.order("o1"))
    await stage.report("e2", await stage.order(HOSTILE), exec_type=ExecType.REJECTED)
    await stage.agreed()
    unknown = ExecutionReport(
        exec_id="e3",
        cl_ord_id="nope",
        exec_type=ExecType.TRADE,
        last_px=50_000 * UNIT,
        last_qty=UNIT // 100,
    )
    sign_unchecked(stage.far, unknown)
    await trio.sleep(3)
    fall_silent(stage.far)
    order = await stage.order("o4", side=Side.SELL, expires_in_s=5)
    await trio.sleep(20)
    fill = ExecutionReport(
        exec_id="e4",
        cl_ord_id=order.cl_ord_id,
        exec_type=ExecType.TRADE,
        last_px=50_000 * UNIT,
        last_qty=order.order_qty,
    )
    # Written as of a second after the order, and shown now.
    sign_unchecked(stage.far, fill, sending_time=order.expire_time - 4 * SECOND)
    record = stage.far.protocol.record
    for _ in range(60):
        await trio.sleep(1)
        if record.head(0).peer_seq == record.head(1).seq:
            break
        # The clock of the test jumps over the time that a slow disk needs.
        time.sleep(0.02)  # noqa: ASYNC251
    await stage.far.send(Heartbeat())
    cancel = OrderCancelRequest(cl_ord_id="c1", orig_cl_ord_id="o1")
    sign_unchecked(stage.near, cancel)
    await desk.message(OrderCancelRequest)
    await export(stage.trader.journal, stage.near.agreement.custody, file)


PASSWORD = "a password"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trader's home with the journal of that session, and `session.psymm` in it."""
    path = tmp_path_factory.mktemp("party") / "home"
    path.mkdir(mode=0o700)

    async def run() -> None:
        key = SecretKey.generate()
        async with scene(path, trader_wallet=KeyWallet(key)) as stage:
            await session(stage, path.parent / "session.psymm")

        (path / "trader.db").rename(path / "journal.db")
        with trio.CancelScope(shield=True):
            await save_keystore(path / "keystore.json", key, PASSWORD, scrypt_cost=2)

    trio.run(run, clock=MockClock(autojump_threshold=0))
    return path


@pytest.fixture
def shown(home: Path) -> Path:
    return home.parent / "session.psymm"


def events(ran: Ran, kind: str) -> list[dict[str, object]]:
    assert ran.code == 0, ran.out + ran.err
    found = [json.loads(line) for line in ran.out.splitlines()]
    return [one for one in found if one.get("event") == kind]


def show(*arguments: str, secrets: tuple[str, ...] = ()) -> Ran:
    return psymm("transcript", "show", *arguments, secrets=secrets)


def test_a_frame_is_shown_by_its_fields_with_who_when_and_what_it_covers(shown: Path) -> None:
    said = show(str(shown)).out
    assert "ClOrdID o1, Symbol BTC-USD, Side BUY, OrderQty 0.01, OrdType LIMIT" in said
    assert "ExpireTime in 30 s, Price 50000" in said
    fill = "ExecID e1, ClOrdID o1, ExecType TRADE, LastPx 50000, LastQty 0.01"
    (line,) = [one for one in said.splitlines() if fill in one]
    assert line.split()[2:8] == ["←", "solver", "5", "covers", "4", "ExecutionReport"]
    assert "state: trading" in said
    assert "T        10 s: how long either party can hold a frame back" in said


def test_every_frame_gets_the_ruling_that_it_got(shown: Path) -> None:
    ran = show(str(shown), "--json")
    rulings = events(ran, "ruling")
    frames = events(ran, "frame")
    last = {(one["lane"], one["seq"]): one for one in rulings}
    fills = {
        str(json.loads(str(one["payload"]))["ExecID"]): ("solver", one["seq"])
        for one in frames
        if one["name"] == "ExecutionReport"
    }
    assert last[fills["e1"]]["outcome"] == "in-effect"
    assert (last[fills["e4"]]["outcome"], last[fills["e4"]]["again"]) == ("late", True)
    assert (last[fills["e3"]]["outcome"], last[fills["e3"]]["rule"]) == (
        "violation",
        "unknown-order",
    )
    pending = ran.last["pending"]
    assert isinstance(pending, list)
    assert {(one["lane"], one["seq"]) for one in frames} - set(last) == {
        ("trader", seq) for seq in pending
    }
    assert pending, "the cancel is covered by nobody yet"
    assert isinstance(ran.last["account"], str)


def test_a_reject_names_the_frame_that_it_rejects(shown: Path) -> None:
    ran = show(str(shown), "--json", "--type", "Reject", "--lane", "trader")
    (first, *_) = events(ran, "frame")
    (guilty,) = [
        one
        for one in events(show(str(shown), "--json"), "frame")
        if "ExecID e3, ClOrdID nope" in str(one["words"])
    ]
    assert first["rejects"] == {"lane": "solver", "seq": guilty["seq"]}
    assert str(first["words"]).startswith(f"RefSeqNum solver {guilty['seq']}, ")
    assert "RefMsgType 8" in str(first["words"])


def test_what_parties_wrote_reaches_no_terminal_unescaped(shown: Path) -> None:
    for options in ((), ("--raw",), ("--json", "--raw")):
        ran = show(str(shown), *options)
        assert ran.code == 0
        assert "q" in ran.out
        assert all(line.isprintable() for line in ran.out.splitlines())


def test_frames_are_chosen_by_lane_type_seq_time_and_order(shown: Path) -> None:
    def chosen(*options: str) -> list[dict[str, object]]:
        return events(show(str(shown), "--json", *options), "frame")

    everything = chosen()
    assert {one["lane"] for one in chosen("--lane", "solver")} == {"solver"}
    by_code, by_name = chosen("--type", "D"), chosen("--type", "newordersingle")
    assert by_code == by_name
    assert len(by_code) == 3
    assert {one["seq"] for one in chosen("--from", "3", "--to", "4")} == {3, 4}
    late = str(by_code[-1]["time"])[:26] + "Z"
    after = chosen("--from", late)
    assert 0 < len(after) < len(everything)
    assert len(after) + len(chosen("--to", late)) >= len(everything)
    about = [str(one["words"]) for one in chosen("--order", "o1")]
    assert [one.split(",")[0] for one in about] == ["ClOrdID o1", "ExecID e1", "ClOrdID c1"]
    assert chosen("--order", "nobody's") == []


def test_what_is_neither_a_seq_nor_a_time_is_refused(shown: Path) -> None:
    assert show(str(shown), "--from", "yesterday").code == 2


def test_file_and_custody_exclude_each_other(shown: Path) -> None:
    assert show().code == 2
    assert show(str(shown), "--custody", "aa").code == 2
    assert show(str(shown), "--follow").code == 2


def test_raw_shows_the_payload_as_it_was_sent_and_all_bytes(shown: Path) -> None:
    found = events(show(str(shown), "--json", "--raw", "--type", "A"), "frame")
    for one in found:
        frame = Frame.parse(bytes.fromhex(str(one["raw"])[2:]))
        assert frame.payload.decode() == one["payload"]


def test_a_file_whose_payloads_are_noise_is_shown_all_the_same(tmp_path: Path) -> None:
    writer = Writer(7)
    noise = [b"\xff\x00{", b'{"MsgType":"\x1b"}', b"[" * 60_000]
    frames = [writer.logon(0), writer.logon(1), *(writer.frame(0, one) for one in noise)]
    (tmp_path / "noise.psymm").write_bytes(encode_file(writer.opening, frames))
    ran = psymm("transcript", "show", str(tmp_path / "noise.psymm"), "--json")
    found = events(ran, "frame")
    assert len(found) == 5
    assert all(str(one["words"]).startswith("no message: ") for one in found[2:])


def test_a_file_that_cannot_be_read_is_named_with_the_byte(shown: Path, tmp_path: Path) -> None:
    raw = shown.read_bytes()
    terms = Writer(7).opening
    strange = CustodyAgreement(
        terms.chain_id, terms.contract, terms.trader, terms.solver, b"no terms", terms.salt
    )
    for name, content, reason in (
        ("cut", raw[:-1], "truncated"),
        ("other", b"x" + raw[1:], "not-a-transcript"),
        ("strange", encode_file(strange, []), "bad-terms"),
        ("empty", b"", "not-a-transcript"),
    ):
        (tmp_path / name).write_bytes(content)
        ran = show(str(tmp_path / name), "--json")
        assert ran.code == 7, (name, ran.out, ran.err)
        error = ran.last["error"]
        assert isinstance(error, dict)
        assert reason in json.dumps(error), error


# --- journals -----------------------------------------------------------------------------------


class Notebook:
    """A home whose journal a test writes frame by frame."""

    def __init__(self, home: Path, seed: int = 3) -> None:
        self.home = home
        self.writer = Writer(seed)
        self._written = 0

    @property
    def path(self) -> Path:
        return self.home / "journal.db"

    @asynccontextmanager
    async def journal(self) -> AsyncIterator[Journal]:
        async with open_journal(self.path) as journal:
            if not self._written:
                await journal.open_custody(self.writer.opening, 1, 1)
                await journal.set_state(self.writer.opening.custody, "open")
            yield journal

    async def write(self, journal: Journal, count: int = 1) -> None:
        for _ in range(count):
            n = self._written
            raw = self.writer.logon(n) if n < 2 else self.writer.frame(n % 2, business(n, 200))
            frame = Frame.parse(raw)
            await journal.append([(frame, frame.digest(self.writer.opening.domain))])
            self._written += 1


@asynccontextmanager
async def following(notebook: Notebook) -> AsyncIterator[tuple[trio.Process, Lines]]:
    custody = notebook.writer.opening.custody.hex()
    command = [sys.executable, "-m", "psymm", "transcript", "show", "--json", "--follow"]
    async with trio.open_nursery() as nursery:
        start = partial(
            trio.run_process,
            [*command, "--home", str(notebook.home), "--custody", custody],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
        )
        process = await nursery.start(start)
        yield process, Lines(process)
        if process.returncode is None:
            process.kill()


class Lines:
    def __init__(self, process: trio.Process) -> None:
        assert process.stdout is not None
        self._stream = process.stdout
        self._buffer = b""

    async def next(self) -> dict[str, object]:
        with trio.fail_after(600):
            while b"\n" not in self._buffer:
                more = await self._stream.receive_some(65_536)
                assert more, "it ended"
                self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        found = json.loads(line)
        assert isinstance(found, dict)
        return found

    async def frame(self) -> tuple[object, object]:
        while True:
            found = await self.next()
            if found.get("event") == "frame":
                return found["lane"], found["seq"]

    async def event(self, kind: str) -> dict[str, object]:
        while True:
            found = await self.next()
            if found.get("event") == kind:
                return found


def numbers(first: int, last: int) -> list[tuple[str, int]]:
    return [(("trader", "solver")[n % 2], n // 2 + 1) for n in range(first, last)]


async def test_a_live_session_is_followed_through_restarts_of_its_writer(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    async with notebook.journal() as journal:
        await notebook.write(journal, 4)
    async with following(notebook) as (process, lines):
        assert [await lines.frame() for _ in range(4)] == numbers(0, 4)
        for round_ in range(1, 4):
            async with notebook.journal() as journal:
                await notebook.write(journal, 4)
                first = round_ * 4
                assert [await lines.frame() for _ in range(4)] == numbers(first, first + 4)
        process.send_signal(signal.SIGINT)
        with trio.fail_after(300):
            while "frames" not in (last := await lines.next()):
                pass
            assert await process.wait() == 0
        assert last["frames"] == 16


async def test_a_follower_neither_locks_the_writer_nor_keeps_its_checkpoints_waiting(
    tmp_path: Path,
) -> None:
    notebook = Notebook(tmp_path)
    async with notebook.journal() as journal:
        await notebook.write(journal, 2)
        async with following(notebook) as (_, lines):
            assert [await lines.frame() for _ in range(2)] == numbers(0, 2)
            await notebook.write(journal, 200)
            assert [await lines.frame() for _ in range(200)] == numbers(2, 202)
            await lines_settled()
            with closing(sqlite3.connect(notebook.path)) as base:
                busy, *_ = base.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            assert busy == 0
            await notebook.write(journal, 2)
            assert [await lines.frame() for _ in range(2)] == numbers(202, 204)
            await journal.set_state(notebook.writer.opening.custody, "stopped", "forked\x1b: why")
            said = await lines.event("journal")
            assert (said["state"], said["reason"]) == ("stopped", "forked\x1b: why")


async def lines_settled() -> None:
    """The follower has read everything and waits before it looks again."""
    await trio.sleep(0.3)


async def test_a_journal_that_is_replaced_by_a_repaired_one_is_followed_on(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    async with notebook.journal() as journal:
        await notebook.write(journal, 4)
    async with following(notebook) as (_, lines):
        assert [await lines.frame() for _ in range(4)] == numbers(0, 4)
        copy = tmp_path / "copy.db"
        with closing(sqlite3.connect(notebook.path)) as old, closing(sqlite3.connect(copy)) as new:
            old.backup(new)
        for suffix in ("-wal", "-shm"):
            notebook.path.with_name(notebook.path.name + suffix).unlink(missing_ok=True)
        os.replace(copy, notebook.path)
        async with notebook.journal() as journal:
            await notebook.write(journal, 2)
            assert [await lines.frame() for _ in range(2)] == numbers(4, 6)


def test_a_journal_is_ruled_without_its_password(home: Path, shown: Path) -> None:
    with_openings = show(str(shown), "--json")
    custody = str(with_openings.last["custody"])
    common = ("--json", "--home", str(home), "--custody", custody[:14])
    ruled = show(*common)
    assert events(ruled, "unruled") == []
    (stated,) = events(ruled, "journal")
    assert stated["state"] == "open"
    file = shown.with_name("opened.psymm")
    exported = psymm(
        "transcript", "export", "--home", str(home), "--custody", custody, "--openings",
        "--password-fd", "{0}", str(file), secrets=(PASSWORD + "\n",),
    )  # fmt: skip
    assert exported.code == 0, exported.err
    from_file = show(str(file), "--json")
    assert ruled.last == from_file.last
    assert events(ruled, "ruling") == events(from_file, "ruling")


@pytest.mark.parametrize("fact", ["", "{}", "[" * 99_000])
async def test_a_chain_fact_that_was_changed_in_the_journal_is_named(
    tmp_path: Path, fact: str
) -> None:
    notebook = Notebook(tmp_path)
    async with notebook.journal() as journal:
        await notebook.write(journal, 2)
        (held,) = await journal.custodies()
        await journal.write(journal.to_keep_fact(held.agreement.custody, fact))
    ran = show("--home", str(tmp_path), "--custody", "", "--json")
    error = ran.last["error"]
    assert isinstance(error, dict)
    assert error["code"] == "journal-corrupt"


async def test_a_custody_that_the_journal_does_not_hold_is_named(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    async with notebook.journal() as journal:
        await notebook.write(journal, 2)
    ran = show("--home", str(tmp_path), "--custody", "ffff", "--json")
    assert ran.code == 2
    error = ran.last["error"]
    assert isinstance(error, dict)
    assert error["code"] == "no-such-custody"


def test_a_long_transcript_is_shown_within_bounded_memory(tmp_path: Path) -> None:
    def peak_kib(frames: int) -> int:
        file = tmp_path / f"{frames}.psymm"
        with file.open("wb") as out:
            write_frames(out, frames, 1000)
        code = (
            "import resource,sys; from psymm.cli import run;"
            f"run(['transcript','show',{str(file)!r},'--json','--from','999999999']);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        return int(ran.stderr)

    # The file itself is mapped and counts while it is in memory.
    assert peak_kib(12_000) - peak_kib(2_000) < 10_000 * 1.4 + 12_000


def test_a_frame_that_was_held_back_is_told_as_reversed(shown: Path) -> None:
    said = show(str(shown)).out
    (line,) = [one for one in said.splitlines() if "is reversed" in one]
    assert "it was covered late and counts from " in line
