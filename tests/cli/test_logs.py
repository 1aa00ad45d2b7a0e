"""A log line is one line, in words or JSON, and bytes never show."""

import ast
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import psymm
from psymm.cli.logs import BURST, CUSTODY_BURST, Allowance, start_logging

SECRET = bytes(range(32))


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """The package's logger belongs to the process, not to a test."""
    logger = logging.getLogger("psymm")
    before = (logger.level, logger.propagate, list(logger.handlers))
    yield
    level, logger.propagate, logger.handlers[:] = before
    logger.setLevel(level)


@pytest.mark.parametrize("as_json", [True, False])
def test_bytes_are_logged_as_their_length(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    start_logging(as_json)
    logging.getLogger("psymm.test").warning("sealed", extra={"key": SECRET, "nonce": 7})
    line = capsys.readouterr().err
    assert "<32 bytes>" in line
    assert SECRET.hex() not in line
    assert "000102" not in line
    assert line.count("\n") == 1


def test_json_logs_carry_time_level_event_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(True)
    logging.getLogger("psymm.test").info("taken", extra={"send": 3, "kind": "ctc"})
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["event"], line["send"], line["kind"]) == ("info", "taken", 3, "ctc")
    assert line["time"].endswith("Z")


def test_coins_are_logged_as_coins_for_people_and_in_wei_for_programs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lost = {"lost_wei": 25 * 10**14, "lost_wei_so_far": 10**18}
    for as_json, said in ((False, 'lost="0.0025 ETH" lost_so_far="1 ETH"'), (True, str(10**18))):
        start_logging(as_json)
        logging.getLogger("psymm.test").warning("gas-lost", extra=lost)
        assert said in capsys.readouterr().err


def test_an_exception_in_a_log_shows_its_type_and_not_its_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    start_logging(False)
    try:
        raise ValueError("what nobody chose to print")
    except ValueError:
        logging.getLogger("psymm.test").exception("a callback raised")
    line = capsys.readouterr().err
    assert "ValueError" in line
    assert "nobody chose" not in line


@pytest.mark.parametrize("as_json", [True, False])
def test_a_peers_words_neither_end_a_line_nor_reach_the_terminal(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    start_logging(as_json)
    words = 'x\n2026-01-01T00:00:00Z info psymm: paid custody=0x1\x1b[2J\u202e" a=b'
    logging.getLogger("psymm.test").warning("rejected", extra={"why": words})
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line[:-1].isprintable()
    if as_json:
        assert json.loads(line)["why"] == words


def record(event: str, custody: str) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "psymm.test", "msg": event})
    made.custody = custody
    return made


def test_one_custody_that_provokes_an_event_for_ever_leaves_few_lines_and_their_number() -> None:
    now = 0.0
    allowance = Allowance(lambda: now)
    written = sum(allowance.filter(record("malformed", "aa")) for _ in range(10_000))
    assert written == CUSTODY_BURST
    assert allowance.filter(record("malformed", "bb")), "another custody's line still comes"
    assert allowance.filter(record("stopped", "aa")), "and so does its own of another event"
    now = 3600.0
    last = record("malformed", "aa")
    assert allowance.filter(last)


def test_many_custodies_together_stay_within_an_events_allowance() -> None:
    now = 0.0
    allowance = Allowance(lambda: now)
    written = sum(allowance.filter(record("connected", str(n))) for n in range(10_000))
    assert written == BURST
    now = 1.0
    last = record("connected", "x")
    assert allowance.filter(last)
    assert last.__dict__["suppressed"] == 10_000 - BURST


def test_what_is_remembered_for_it_is_bounded() -> None:
    allowance = Allowance(lambda: 0.0)
    for n in range(20_000):
        allowance.filter(record("connected", str(n)))
    assert len(allowance._left) <= 4096


def test_every_event_of_the_package_has_a_name_that_can_be_searched_for() -> None:
    """Alarms need stable names: an event is a name, and everything variable is in its fields."""
    levels = {"debug", "info", "warning", "error", "exception", "critical"}
    found: list[str] = []
    for file in sorted(Path(psymm.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr=level),
                    args=[ast.Constant(value=str(event)), *more],
                ) if level in levels:
                    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", event), f"{file.name}: {event}"
                    assert not more, f"{file.name}: {event}"
                    found.append(event)
    assert len(found) > 20
