"""A log line is one line, in words or JSON, and bytes never show."""

import json
import logging

import pytest

from psymm.cli.logs import start_logging

SECRET = bytes(range(32))


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
