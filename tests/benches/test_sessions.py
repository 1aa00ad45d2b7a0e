"""The bench of sessions: that it runs and its table is whole. What it says about speed is for a
quiet machine and no test."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench_module import load_bench

REPO = Path(__file__).resolve().parents[2]
BENCH = REPO / "benches" / "sessions.py"


sys.path.insert(0, str(BENCH.parent))
bench = load_bench(BENCH)


@pytest.fixture(scope="module")
def quick() -> tuple[str, dict[str, Any]]:
    """A quick run without QuickFIX, which takes minutes to build."""
    done = subprocess.run(
        [sys.executable, BENCH, "--quick", "floor", "psymm", "idle"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout, json.loads((REPO / "build" / "bench" / "sessions.json").read_text())


def test_sessions_of_two_processes_trade_and_are_counted(quick: tuple[str, dict[str, Any]]) -> None:
    measured = quick[1]["psymm"]
    assert [row["sessions"] for row in measured] == [1, 3]
    for row in measured:
        assert row["trades_per_second"] > 0
        assert row["p50"] <= row["p99"] <= row["p99.9"]
        assert row["acceptor_cpu_us"] > 0
        assert row["initiator_cpu_us"] > 0
        assert row["writes_per_commit"] > 1


def test_what_lies_beneath_is_measured_in_the_same_run(quick: tuple[str, dict[str, Any]]) -> None:
    assert set(quick[1]["floor"]) == {"four echoes", "four fsyncs", "four commits"}


def test_idle_sessions_are_weighed(quick: tuple[str, dict[str, Any]]) -> None:
    idle = quick[1]["idle"]
    assert idle["sessions"] == 3
    assert idle["resident"] >= idle["empty"] > 10**6


def test_the_table_says_what_it_is(quick: tuple[str, dict[str, Any]]) -> None:
    for word in ("date: ", "processor: ", "SQLite ", "trio-websocket ", "QuickFIX 1.16.0", "QUICK"):
        assert word in quick[0]
    assert "taken on their word" in quick[0]


def figures(trades_per_second: float, p50: float, sessions: int) -> dict[str, Any]:
    return {
        "sessions": sessions,
        "trades": 10,
        "trades_per_second": trades_per_second,
        "initiator_cpu_us": 1,
        "acceptor_cpu_us": 1,
        "p50": p50,
        "p99": p50,
        "p99.9": p50,
    }


def test_targets_are_judged_by_the_figures_of_the_run() -> None:
    beneath = {"p50": 1000.0, "p99": 1.0, "p99.9": 1.0}
    measured = {
        "floor": {"four echoes": beneath, "four fsyncs": beneath},
        "psymm": [figures(1.0, 3999.0, 1), figures(500.0, 1.0, 100)],
        "quickfix": [figures(501.0, 1.0, 100)],
        "synced": [figures(499.0, 1.0, 100)],
        "idle": {"sessions": 1000, "resident": 299 * 10**6},
    }
    said = bench.targets(measured)
    assert said[1].endswith("at most 2: reached")
    assert said[2].endswith("QuickFIX's Python 501: NOT reached")
    assert said[3].endswith("synchronised 499: reached")
    assert said[4].endswith("below 300: reached")
    measured["psymm"][0]["p50"] = 4001.0
    measured["idle"]["resident"] = 300 * 10**6
    said = bench.targets(measured)
    assert said[1].endswith("NOT reached")
    assert said[4].endswith("NOT reached")


def test_writing_the_table_leaves_the_rest_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{bench.BEGIN}\nold\n{bench.END}\nafter\n")
    monkeypatch.setattr(bench, "README", page)
    bench.write_readme("new\n")
    assert page.read_text() == f"before\n{bench.BEGIN}\n```\nnew\n```\n{bench.END}\nafter\n"


def test_the_page_has_a_place_for_the_table() -> None:
    page = (REPO / "benches" / "README.md").read_text()
    assert page.count(bench.BEGIN) == page.count(bench.END) == 1
