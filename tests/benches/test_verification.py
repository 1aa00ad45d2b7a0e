"""The bench of verification: that its table is whole.  What it says about speed is for a quiet
machine and no test."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench_module import load_bench

from psymm import _core

REPO = Path(__file__).resolve().parents[2]
BENCH = REPO / "benches" / "verification.py"


bench = load_bench(BENCH)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The table of a quick run, and what it was made from."""
    place = tmp_path_factory.mktemp("bench")
    done = subprocess.run(
        [sys.executable, BENCH, "--quick", "--place", place],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout, json.loads((place / "verification.json").read_text())


def rows_of(measured: dict[str, Any], title: str) -> set[str]:
    (section,) = [one for one in measured["sections"] if one["title"].startswith(title)]
    return {row["name"] for row in section["rows"]}


PEERS_OF = {
    "Transcript": {
        "libsecp256k1, verify",
        "libsecp256k1, recover",
        "k256, verify",
        "k256, recover",
    },
    "Plain signatures of 8 keys": {"libsecp256k1, verify", "k256, verify"},
    "Plain signatures, every key another: verify": {"libsecp256k1, verify", "k256, verify"},
    "Plain signatures, every key another: recover": {"libsecp256k1, recover", "k256, recover"},
    "Keccak": {"sha3", "tiny-keccak", "keccak-asm"},
    "Digests": set(),
    "Poseidon2": {
        "taceo-poseidon2",
        "pso-poseidon",
        "bn254_blackbox_solver (Noir)",
        "Barretenberg, one native call",
        "Barretenberg, a call a hash",
    },
    "Tree": {"taceo-poseidon2, only as many hashes", "pso-poseidon, only as many hashes"},
    "From Python": {
        "coincurve verify",
        "coincurve recover",
        "eth-account recover_hash",
        "eth-account recover_message",
    },
}


@pytest.mark.parametrize("title", PEERS_OF)
def test_each_section_has_us_and_every_peer(quick: tuple[str, dict[str, Any]], title: str) -> None:
    rows = rows_of(quick[1], title)
    assert rows >= PEERS_OF[title]
    assert any(row.lower().startswith("psymm") for row in rows)


def test_every_backend_of_the_processor_is_measured(quick: tuple[str, dict[str, Any]]) -> None:
    measured = quick[1]
    assert measured["backends"][0] == "portable"
    for title in (
        "Transcript",
        "Plain signatures of 8 keys",
        "Keccak",
        "Digests",
        "Poseidon2",
        "Tree",
    ):
        rows = rows_of(measured, title)
        for backend in measured["backends"]:
            assert any(row.startswith(f"pSymm {backend}, ") for row in rows), (title, backend)


def test_every_row_is_in_the_table_with_a_figure(quick: tuple[str, dict[str, Any]]) -> None:
    table, measured = quick
    for section in measured["sections"]:
        assert section["title"] in table
        for row in section["rows"]:
            assert f"  {row['name']} " in table
            assert any(one and one["median_ns"] > 0 for one in row["cells"])


def test_memory_is_measured_in_a_process_of_its_own(quick: tuple[str, dict[str, Any]]) -> None:
    table, measured = quick
    assert [row["threads"] for row in measured["memory"]] == [1, 2]
    assert all(row["peak_resident_bytes"] > row["file_bytes"] for row in measured["memory"])
    assert "the file plus 256 MB" in table


def test_the_table_names_machine_compilers_peers_and_date(
    quick: tuple[str, dict[str, Any]],
) -> None:
    table = quick[0]
    for word in ("date: ", "processor: ", "rustc ", "secp256k1 0.", "Barretenberg ", "coincurve "):
        assert word in table


def cell(median: float, sampled: bool = False) -> dict[str, Any]:
    return {
        "lower_ns": median * 0.9,
        "median_ns": median,
        "upper_ns": median * 1.1,
        "rounds": 9,
        "sampled": sampled,
    }


def section(target: float | None) -> dict[str, Any]:
    return {
        "title": "Race",
        "per": "lap",
        "columns": ["1", "2"],
        "rows": [
            {"name": "hare", "cells": [cell(10.0), cell(2_000.0)]},
            {"name": "fox", "cells": [cell(40.0), None]},
            {"name": "tortoise", "cells": [cell(50.0), cell(9_000.0, sampled=True)]},
        ],
        "ratios": [
            {"name": "the field", "slow": ["fox", "tortoise"], "fast": "hare", "target": target}
        ],
    }


def test_a_ratio_is_against_the_fastest_of_the_others() -> None:
    ((_, values),) = bench.ratios_of(section(None))
    assert values == [4.0, 4.5]


def test_a_target_is_judged_by_the_last_column() -> None:
    assert "4.50 × of 4.2: reached" in "\n".join(bench.target_lines([section(4.2)]))
    assert "4.50 × of 4.6: NOT reached" in "\n".join(bench.target_lines([section(4.6)]))
    assert bench.target_lines([section(None)]) == []


def test_a_sample_and_a_gap_are_told_as_such() -> None:
    lines = bench.section_lines(section(None), 12)
    assert lines[3].split()[1:] == ["40.0", "ns", "±10%", "–"]
    assert lines[4].split()[-3:] == ["~9.00", "µs", "±10%"]


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


def test_python_inputs_are_a_transcript() -> None:
    inputs = bench.make_inputs(5, seed=1)
    keys = [(lane, 1, key) for lane, key in enumerate(inputs.keys)]
    summary = _core.verify_transcript(inputs.data, bench.DOMAIN, inputs.custody, keys)
    assert summary.frames == 5
