"""Logs of the daemons: one line an event, on standard error, as words or as JSON.

A line has a time, a level, the logger's name, the event and the fields that the code gave through
`extra`. Secrets have no way in: code that holds keys, blindings or passwords never passes them to a
logger, and bytes of any kind are printed as their length, so that a mistake shows nothing.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Line(logging.Formatter):
    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        time = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields = {key: _shown(value) for key, value in vars(record).items() if key not in _PLAIN}
        message = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = record.exc_info[0].__name__
        if self._as_json:
            line = {
                "time": time,
                "level": record.levelname.lower(),
                "logger": record.name,
                "event": message,
                **fields,
            }
            return json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        tail = "".join(f" {key}={_quoted(value)}" for key, value in fields.items())
        return f"{time} {record.levelname.lower():<7} {record.name}: {message}{tail}"


def start_logging(as_json: bool, level: str = "info") -> None:
    """Sends the package's logs to standard error. Called once, by the command line only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line(as_json))
    logger = logging.getLogger("psymm")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def _shown(value: object) -> object:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return str(value)


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or " " in text else text
