"""The pages in docs/: every test and session script that they name exists, every script has its
line, and the figures that they quote are those of the code and of the benches."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from psymm.chain.revocations import POLL_S
from psymm.custody.planning import deadline_after
from psymm.session.runtime.party import KEY_LIFE_NS
from psymm.session.runtime.trader import Backoff
from psymm.terms import Limits, Timeouts

ROOT = Path(__file__).parents[2]
GUARANTEES = ROOT / "docs" / "guarantees.md"
LOSSES = ROOT / "docs" / "what-you-lose.md"
SCRIPTS = ROOT / "tests" / "session"
SECOND = 10**9
_DEFINED = {
    ".py": r"^\s*(?:async )?def {}\(",
    ".sol": r"^\s*function {}\(",
    ".rs": r"^\s*fn {}\(",
}


def named(page: Path) -> list[tuple[str, str]]:
    """(file, test) wherever a page says `file::test`."""
    found = re.findall(r"`([^`\s:]+\.\w+)::(\w+)`", page.read_text())
    return [(str(file), str(test)) for file, test in found]


def scripts_named(page: Path) -> list[str]:
    """All mentions of `name.script` in the pages; a `*` in one matches anything."""
    return [str(name) for name in re.findall(r"`([a-z*-]+\.script)`", page.read_text())]


def rows(page: Path) -> list[list[str]]:
    """The cells of all tables, their heads and rules left out."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = [at for at, row in enumerate(cells) if set(row[0]) <= set("-")]
    heads = {at - 1 for at in rules} | set(rules)
    return [row for at, row in enumerate(cells) if at not in heads]


@pytest.mark.parametrize(("file", "test"), named(GUARANTEES) + named(LOSSES))
def test_a_test_that_a_page_names_exists(file: str, test: str) -> None:
    path = ROOT / file
    assert path.is_file(), file
    pattern = _DEFINED[path.suffix].format(re.escape(test))
    assert re.search(pattern, path.read_text(), re.MULTILINE), f"{file} has no {test}"


@pytest.mark.parametrize(
    "name", [name for name in scripts_named(GUARANTEES) if name != "name.script"]
)
def test_a_script_that_a_page_names_exists(name: str) -> None:
    assert list(SCRIPTS.glob(name))


def test_every_session_script_has_its_line() -> None:
    told = {path for name in scripts_named(GUARANTEES) for path in SCRIPTS.glob(name)}
    assert {path.name for path in set(SCRIPTS.glob("*.script")) - told} == set()


def test_every_guarantee_names_the_test_that_proves_it() -> None:
    found = rows(GUARANTEES)
    assert len(found) > 100
    for guarantee, *proofs in found:
        assert len(proofs) == 1
        assert re.search(r"`[^`]+(::\w+|\.script)`", proofs[0]), guarantee


def test_every_loss_says_its_time_its_gas_and_its_way_out() -> None:
    for row in rows(LOSSES):
        assert all(row), row
        assert len(row) in (3, 5), row


def test_spans_on_the_pages_are_the_defaults_of_terms_and_client() -> None:
    text = LOSSES.read_text()
    spans = Timeouts()
    assert f"| {spans.acknowledgement // SECOND} s | terms' default" in text
    heartbeat = spans.heartbeat / SECOND
    assert f"| {heartbeat:g} s; {heartbeat * 2.5:g} s |" in text
    assert f"| {spans.skew // SECOND} s | terms' default |" in text
    assert f"| {KEY_LIFE_NS // (86_400 * SECOND)} d |" in text
    backoff = Backoff()
    assert f"| {backoff.first_s:g} s; {backoff.last_s:g} s, each with jitter |" in text
    lives = [deadline_after(now) - now for now in range(1_000_000, 1_000_600)]
    assert (min(lives) // 60, -(-max(lives) // 60)) == (30, 35)
    assert "| 30 to 35 min |" in text
    told = GUARANTEES.read_text()
    assert f"{spans.acknowledgement // SECOND} s unless the terms say otherwise" in told
    assert f"the skew ({spans.skew // SECOND} s)" in told


@pytest.mark.parametrize(
    ("move", "row"),
    [
        ("CTC with fee", "one move between custodies (CTC), a relayer paid"),
        ("CTA with fee", "one withdrawal (CTA), a relayer paid"),
        ("ATC", "one deposit (ATC)"),
    ],
)
def test_gas_on_the_pages_is_what_the_benches_measured(move: str, row: str) -> None:
    benches = (ROOT / "benches" / "README.md").read_text()
    measured = re.search(rf"^\| {move} \| [\d,]+ \| ([\d,]+) \|", benches, re.MULTILINE)
    assert measured is not None
    millions = int(measured[1].replace(",", "")) / 1e6
    assert f"| {row} | {millions:.2f} M gas |" in LOSSES.read_text()


def test_gas_of_a_revocation_is_what_the_benches_measured() -> None:
    benches = (ROOT / "benches" / "README.md").read_text()
    sentence = r"revoked: ([\d,]+) by its wallet.* ([\d,]+) submitted by another"
    measured = re.search(sentence, benches)
    assert measured is not None
    own, submitted = measured[1], measured[2]
    assert f"its wallet; submitted by another | {own}; {submitted} gas |" in LOSSES.read_text()
    assert f"{own}, or {submitted} submitted by another" in LOSSES.read_text()


def test_what_a_lane_may_send_between_checkpoints_is_the_terms_default() -> None:
    limits = Limits()
    assert f"| {limits.frames:,}; {limits.bytes:,}, in whole frames |" in LOSSES.read_text()
    assert f"at {limits.frames:,} frames or {limits.bytes:,} bytes of a lane" in LOSSES.read_text()


def test_a_revocation_is_looked_for_as_often_as_the_page_says() -> None:
    assert f"| the client asks once every {POLL_S:g} s |" in LOSSES.read_text()
