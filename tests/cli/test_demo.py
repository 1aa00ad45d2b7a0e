"""The demo, run as a newcomer runs it: every process through the command line, real proofs."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from psymm.cli.feed import load_series
from psymm.demo.documents import MARKETS, VALUES_PER_QUOTE, Amounts

pytestmark = [pytest.mark.chain, pytest.mark.proofs, pytest.mark.slow]


def demo(runs: Path, seed: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "psymm.demo"],
        env={**os.environ, "SEED": seed, "PSYMM_RUNS": str(runs)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def processes_of(runs: Path) -> list[int]:
    """Every process that works in `runs`, and the provers and chains that they started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(runs).encode() in words:
                found.append(int(entry.name))
    return found


def psymm(*arguments: str) -> tuple[int, dict[str, object]]:
    ran = subprocess.run(
        [sys.executable, "-m", "psymm", *arguments, "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    last = json.loads(ran.stdout.splitlines()[-1])
    assert isinstance(last, dict)
    return ran.returncode, last


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    runs = tmp_path_factory.mktemp("runs")
    process = demo(runs, "7")
    text, _ = process.communicate(timeout=3_000)
    assert process.returncode == 0, text
    (home,) = runs.iterdir()
    yield home, text
    assert processes_of(runs) == []


def test_the_demo_shows_the_whole_trade(run: tuple[Path, str]) -> None:
    _, text = run
    assert len(set(re.findall(r"PID (\d+)", text))) == 5  # chain, relayer, two solvers, trader
    for line in (
        r"sell [\d.]+ SPX: filled [\d.]+ at [\d.]+$",
        r"sell [\d.]+ NDX: filled [\d.]+ at [\d.]+, [\d.]+ at [\d.]+$",
        r"buy [\d.]+ WTI: cancelled",
        r"sell [\d.]+ SPX: declined",
        r"close: buy [\d.]+ SPX: filled [\d.]+ at [\d.]+, [\d.]+ at [\d.]+$",
        r"both sides' journals give one account",
        r"was paid [\d.]+, more than the [\d.]+ that it put up",
        r"no custody id, no terms hash, no account",
    ):
        assert re.search(line, text, re.MULTILINE), line


def test_the_rival_with_the_wider_spread_is_asked_and_not_taken(run: tuple[Path, str]) -> None:
    _, text = run
    asked = re.findall(r"asks (0x\w+)", text)
    taken = re.findall(r"takes (0x\w+)", text)
    rival = re.findall(r"rival +(0x\w+)", text)
    assert len(asked) == 2
    assert rival[0] in asked
    assert taken == [one for one in asked if one != rival[0]]


def test_what_each_gained_is_what_the_rulebook_says_on_any_machine(run: tuple[Path, str]) -> None:
    _, text = run
    gains = {}
    for name in ("trader", "solver"):
        columns = r" +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +(-?[\d.]+) +(-?[\d.]+)$"
        row = re.search(rf"^  {name}{columns}", text, re.MULTILINE)
        assert row is not None
        assert row[5] == row[6]
        gains[name] = row[5]
    # Prices move with quotes, never with time: what a seed comes to is the same everywhere.
    assert gains == {"trader": "-359.246784", "solver": "359.246784"}


def test_every_order_of_every_seed_is_filled_as_the_scenario_says() -> None:
    """Whichever seed, the notional of each order stays between the maker's limits."""
    year = {
        symbol: load_series(name, date(2018, 1, 1), date(2018, 12, 31)).values
        for symbol, name, _, _ in MARKETS
    }
    quotes, spread = 10, 1 + 8 / 10_000
    for seed in range(300):
        amounts = Amounts.of(seed)
        prices = {
            symbol: [price / 10**18 for day, price in values if day >= amounts.first_day.date()][
                : quotes * VALUES_PER_QUOTE + 1
            ]
            for symbol, values in year.items()
        }
        assert all(len(values) > quotes * VALUES_PER_QUOTE for values in prices.values())
        spx, ndx, wti = (float(amounts.spx), float(amounts.ndx), float(amounts.wti))
        low = {symbol: min(values) / spread for symbol, values in prices.items()}
        high = {symbol: max(values) * spread for symbol, values in prices.items()}
        assert spx * high["SPX"] < 20_000
        assert ndx * low["NDX"] > 20_000
        assert ndx * high["NDX"] < 40_000
        assert wti * high["WTI"] < 20_000
        assert 40 * low["SPX"] > 60_000
        # The close at a limit: two thirds of it, in two parts.
        assert spx * 0.666 * low["SPX"] > 8_000
        assert spx * 0.668 * high["SPX"] < 16_000


def test_keystores_and_transcripts_are_for_their_owners_eyes(run: tuple[Path, str]) -> None:
    home, _ = run
    private = [
        *home.glob("*/keystore.json"),
        *home.glob("*/transcripts/*"),
        *home.glob("*/rpc.url"),
    ]
    assert len(private) > 6
    for path in private:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_no_command_line_carries_a_password(run: tuple[Path, str]) -> None:
    home, _ = run
    commands = (home / "commands.log").read_text()
    assert "psymm trade" in commands
    assert "password" not in commands


def test_the_transcript_verifies_and_a_changed_one_does_not(
    run: tuple[Path, str], tmp_path: Path
) -> None:
    home, _ = run
    (file,) = home.glob("trader/transcripts/*.psymm")
    code, verified = psymm("transcript", "verify", str(file))
    assert (code, verified["ok"], verified["settled"]) == (0, True, True)
    raw = bytearray(file.read_bytes())
    changed = tmp_path / "changed.psymm"
    for place in (0, 9, len(raw) // 2, len(raw) - 1):
        raw[place] ^= 1
        changed.write_bytes(raw)
        raw[place] ^= 1
        code, refused = psymm("transcript", "verify", str(changed))
        assert code == 7, (place, refused)
        assert "error" in refused
    changed.write_bytes(raw[:-1])
    assert psymm("transcript", "verify", str(changed))[0] == 7


def test_a_transcript_is_shown_frame_by_frame(run: tuple[Path, str]) -> None:
    home, _ = run
    (file,) = home.glob("trader/transcripts/*.psymm")
    code, shown = psymm("transcript", "show", str(file))
    assert code == 0
    _, listed = psymm("transcript", "list", "--home", str(home / "trader"))
    custodies = listed["custodies"]
    assert isinstance(custodies, list)
    assert [one["custody"] for one in custodies] == [shown["custody"]]
    assert custodies[0]["state"] == "closed"


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_a_demo_that_is_ended(tmp_path: Path, signal_: signal.Signals) -> None:
    process = demo(tmp_path, "3")
    assert process.stdout is not None
    for line in process.stdout:
        if "solver at ws://" in line:
            break
    assert len(processes_of(tmp_path)) >= 3
    process.send_signal(signal_)
    process.stdout.read()
    process.wait(600)
    until = time.monotonic() + 600
    while processes_of(tmp_path) and time.monotonic() < until:
        time.sleep(0.2)
    assert processes_of(tmp_path) == []
