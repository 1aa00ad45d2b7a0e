"""`psymm journal`: what is missing is named, a backup is made, and the peer repairs the rest."""

# ruff: noqa: S608  (statements that damage a journal are put together here)

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from test_commands import PASSWORD, Ran, psymm

sys.path.insert(0, str(Path(__file__).parents[1] / "session"))

from lost_frames import lose
from session_scene import Scene, SceneClock
from test_resume import Lives, resumed

from psymm.errors import SessionClosed
from psymm.journal.reader import open_journal_reader
from psymm.keystores import seal_keystore
from psymm.session.protocol import SessionStatus
from psymm.session.runtime.trader import dialer
from psymm.transcript.agreement import SOLVER, TRADER


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lives, Path]:
    """Both sides' journals of a session with a trade, closed in order."""
    path = tmp_path_factory.mktemp("traded")
    made: list[Lives] = []

    async def trade() -> None:
        lives = Lives(path)
        lives.clock = present()
        made.append(lives)

        async def work(stage: Scene) -> None:
            await stage.heard.state(SessionStatus.TRADING)
            await stage.desk.listeners[0].state(SessionStatus.TRADING)
            order = await stage.order("o1")
            await stage.report("e1", order)
            await stage.agreed()
            # This covers the fill, so that clients of later lives sign nothing when they leave.
            stage.client.leave(SessionClosed())
            await stage.agreed()

        await lives.live(open_first=True, work=work)

    trio.run(trade)
    return made[0], path


def present() -> SceneClock:
    """A scene's clock that follows the clock of the command, which runs in another process."""
    clock = SceneClock()
    clock.offset_ns = time.time_ns() - clock.now_ns()
    return clock


@pytest.fixture
def home(traded: tuple[Lives, Path], tmp_path: Path) -> Path:
    """A trader's home; the journal's high-water mark is in the same directory."""
    return home_of(traded, TRADER, tmp_path / "home")


def home_of(traded: tuple[Lives, Path], lane: int, home: Path) -> Path:
    lives, path = traded
    journal = path / ("trader.db", "solver.db")[lane]
    home.mkdir(mode=0o700)
    seal_keystore(home / "keystore.json", lives.wallets[lane].key, PASSWORD, 1 << 12)
    for each in journal.parent.glob(journal.name + "*"):
        shutil.copy(each, home / each.name.replace(journal.stem + ".db", "journal.db"))
    return home


def changed(home: Path, *statements: str) -> None:
    base = sqlite3.connect(home / "journal.db")
    for statement in statements:
        base.execute(statement)
    base.commit()
    base.close()


def journal(command: str, home: Path, *options: str, secrets: tuple[str, ...] = ()) -> Ran:
    return psymm("journal", command, "--json", "--home", str(home), *options, secrets=secrets)


def lines(ran: Ran, event: str) -> list[dict[str, object]]:
    every = [json.loads(line) for line in ran.out.splitlines()]
    return [line for line in every if line.get("event") == event]


def error(ran: Ran) -> dict[str, object]:
    found = ran.last["error"]
    assert isinstance(found, dict)
    return found


def test_a_whole_journal_is_said_to_be_whole(home: Path) -> None:
    ran = journal("check", home)
    assert (ran.code, ran.last["ok"], ran.last["custodies"]) == (0, True, 1)
    (custody,) = lines(ran, "custody")
    assert (custody["health"], custody["missing"]) == ("complete", [])
    assert "every signature is valid" in psymm("journal", "check", "--home", str(home)).out


def test_what_is_missing_is_named_and_is_exit_7(home: Path) -> None:
    lose(home / "journal.db", "lane = 1 AND seq IN (2, 3)")
    ran = journal("check", home)
    assert (ran.code, error(ran)["code"]) == (7, "journal-corrupt")
    (custody,) = lines(ran, "custody")
    assert custody["missing"] == [
        {
            "custody": custody["custody"],
            "what": "frames",
            "lane": "solver",
            "from": 2,
            "to": 3,
        }
    ]
    said = psymm("journal", "check", "--home", str(home))
    assert "frames of the solver 2 to 3" in said.err
    assert "sqlite" not in said.err.lower()


def test_a_file_that_is_no_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "words").write_bytes(b"words" * 4000)
    ran = journal("check", tmp_path, str(tmp_path / "words"))
    assert (ran.code, error(ran)["code"]) == (7, "journal-corrupt")


def test_a_backup_is_made_and_known_as_one_and_nothing_is_overwritten(
    home: Path, tmp_path: Path
) -> None:
    target = tmp_path / "backup.db"
    ran = journal("backup", home, str(target))
    assert ran.code == 0, ran
    (custody,) = lines(ran, "custody")
    assert target.stat().st_mode & 0o777 == 0o600
    checked = journal("check", home, str(target))
    assert (checked.code, checked.last["backupTime"]) == (0, ran.last["time"])
    (held,) = lines(checked, "custody")
    assert (held["health"], held["heads"]) == ("read-only", custody["heads"])
    before = target.read_bytes()
    assert journal("backup", home, str(target)).code == 7
    assert target.read_bytes() == before


def test_a_whole_journal_needs_no_repairing(home: Path) -> None:
    ran = journal("repair", home)
    assert (ran.code, ran.last["repaired"]) == (0, False)
    assert sorted(os.listdir(home)) == ["journal.db", "journal.db.lock", "keystore.json"]


def test_a_backup_repairs_what_it_holds_and_the_damaged_file_is_kept(
    home: Path, tmp_path: Path
) -> None:
    assert journal("backup", home, str(tmp_path / "backup.db")).code == 0
    lose(home / "journal.db", "arrival BETWEEN 4 AND 6")
    damaged = (home / "journal.db").read_bytes()
    ran = journal("repair", home, "--offline")
    assert (ran.code, error(ran)["code"]) == (7, "still-missing")
    (aside,) = lines(ran, "damaged-file")
    assert Path(str(aside["file"])).read_bytes() == damaged
    ran = journal("repair", home, "--offline", "--from", str(tmp_path / "backup.db"))
    assert (ran.code, ran.last["complete"]) == (0, 1)
    assert journal("check", home).code == 0


def test_a_journal_that_is_in_use_is_not_repaired(home: Path) -> None:
    changed(home, "DELETE FROM heads")
    holder = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.flock(f, fcntl.LOCK_EX);"
        " print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(home / "journal.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        ran = journal("repair", home)
        assert (ran.code, error(ran)["code"]) == (7, "journal-locked")
        process.communicate()


def test_without_its_mark_a_journal_is_repaired_but_signs_no_more(home: Path) -> None:
    lose(home / "journal.db", "arrival BETWEEN 4 AND 6")
    (home / "journal.db.lock").unlink()
    ran = journal("repair", home, "--offline")
    assert (ran.code, ran.last["complete"], ran.last["readOnly"]) == (0, 0, 1)


# --- from the peer ------------------------------------------------------------------------------


async def run_repair(home: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    return await trio.run_process(
        [
            *(sys.executable, "-m", "psymm", "journal", "repair", "--json", "--home", str(home)),
            *("--password-fd", "0"),
            *options,
        ],
        stdin=PASSWORD.encode(),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )


def both(traded: tuple[Lives, Path], tmp_path: Path, work: Callable[[Scene], object]) -> None:
    """A second life of both sides from copies of their journals."""
    lives, path = traded
    for each in path.iterdir():
        shutil.copy(each, tmp_path / each.name)

    async def live() -> None:
        kept, lives.path, lives.clock = lives.path, tmp_path, present()
        try:
            await lives.live(open_first=False, work=work)
        finally:
            lives.path = kept

    trio.run(live)


async def whole(home: Path) -> bool:
    async with open_journal_reader(home / "journal.db") as reader:
        return [one.health for one in await reader.custodies()] == ["complete"]


def test_a_trader_gets_both_lanes_back_from_its_solver(
    traded: tuple[Lives, Path], home: Path, tmp_path: Path
) -> None:
    lose(home / "journal.db", "arrival > 3")

    async def work(stage: Scene) -> None:
        await resumed(stage, 0)
        port = await stage.nursery.start(stage.server.serve, "127.0.0.1", 0)
        stage.client.leave(SessionClosed())
        changed(home, f"UPDATE custodies SET endpoint = 'ws://127.0.0.1:{port}'")
        ran = await run_repair(home)
        assert ran.returncode == 0, ran
        assert json.loads(ran.stdout.splitlines()[-1])["complete"] == 1
        assert await whole(home)

    (tmp_path / "peers").mkdir()
    both(traded, tmp_path / "peers", work)


def test_a_solver_gets_both_lanes_back_from_a_trader_that_returns(
    traded: tuple[Lives, Path], tmp_path: Path, free_port: Callable[[], int]
) -> None:
    home = home_of(traded, SOLVER, tmp_path / "solver")
    lose(home / "journal.db", "arrival > 3")
    port = free_port()

    async def work(stage: Scene) -> None:
        await resumed(stage, 0)
        stage.client.leave(SessionClosed())
        (held,) = await stage.trader.journal.custodies()
        client = stage.new_client(resume=held)
        client._dial = dialer(f"ws://127.0.0.1:{port}")
        stage.nursery.start_soon(client.run)
        ran = await run_repair(home, "--listen", f"127.0.0.1:{port}", "--wait", "600")
        assert ran.returncode == 0, ran
        assert json.loads(ran.stdout.splitlines()[-1])["complete"] == 1
        assert await whole(home)

    (tmp_path / "peers").mkdir()
    both(traded, tmp_path / "peers", work)


def test_a_peer_that_cannot_be_reached_leaves_what_came_and_is_asked_again(
    home: Path, free_port: Callable[[], int]
) -> None:
    lose(home / "journal.db", "arrival > 3")
    changed(
        home,
        f"UPDATE custodies SET endpoint = 'ws://127.0.0.1:{free_port()}'",
    )
    ran = journal("repair", home, "--wait", "5", "--password-fd", "{0}", secrets=(PASSWORD,))
    assert (ran.code, error(ran)["code"]) == (7, "still-missing")
    assert lines(ran, "not-yet")[0]["code"] == "unreachable"
    again = journal("repair", home, "--wait", "5", "--password-fd", "{0}", secrets=(PASSWORD,))
    assert lines(again, "damaged-file") == []
    assert again.code == 7
