"""The daemons' logs: one line for each event on standard error, as text or as JSON.

A line has a time, a level, the logger's name, the event, and the fields that the code passed in
`extra`. Secrets stay out: code that holds keys, blindings or passwords never logs them, and bytes
are printed as their length, so that a mistake shows nothing. A peer's text cannot end a line or
control the terminal.

A peer can provoke many of these events, as often as it likes. So each event has an allowance, in
total and for each custody. Lines beyond it are counted but not written, and the event's next line
has the count.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from psymm.cli.output import json_line
from psymm.errors import format_coins, printable
from psymm.rate import TokenBucket

BURST: Final = 100
"""How many lines of one event may come at once; each second adds PER_S."""
PER_S: Final = 1.0
CUSTODY_BURST: Final = 20
CUSTODY_PER_S: Final = 0.2
MOST_ALLOWANCES: Final = 4096

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Line(logging.Formatter):
    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        at = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields = {key: _shown(value) for key, value in vars(record).items() if key not in _PLAIN}
        message = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = record.exc_info[0].__name__
        if self._as_json:
            line = {
                "time": at,
                "level": record.levelname.lower(),
                "logger": record.name,
                "event": message,
                **fields,
            }
            return json_line(line)
        tail = "".join(
            f" {key}={_quoted(value)}" for key, value in map(_for_people, fields.items())
        )
        said = f"{at} {record.levelname.lower():<7} {record.name}: {message}{tail}"
        return printable(said, lines=False)


class Allowance(logging.Filter):
    """Passes each event BURST times and then PER_S times a second; for one custody CUSTODY_BURST
    times and then CUSTODY_PER_S. Remembers at most MOST_ALLOWANCES allowances.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._left: OrderedDict[tuple[str, str, str], TokenBucket] = OrderedDict()
        self._suppressed: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written. Its `suppressed` counts those before it that were not."""
        event = (record.name, str(record.msg))
        custody = str(getattr(record, "custody", ""))
        name = ".".join(event)
        # First the custody's own allowance, so that one peer cannot use up that of all.
        own = not custody or self._take((*event, custody), CUSTODY_BURST, CUSTODY_PER_S)
        if not own or not self._take((*event, ""), BURST, PER_S):
            self._suppressed[name] = self._suppressed.get(name, 0) + 1
            return False
        left_out = self._suppressed.pop(name, 0)
        if left_out:
            record.suppressed = left_out
        return True

    def _take(self, key: tuple[str, str, str], burst: int, per_s: float) -> bool:
        now = self._now()
        bucket = self._left.setdefault(key, TokenBucket(per_s, burst, now))
        self._left.move_to_end(key)
        if len(self._left) > MOST_ALLOWANCES:
            self._left.popitem(last=False)
        return bucket.take(1, now)


def start_logging(as_json: bool, level: str = "info") -> None:
    """Send the package's logs to standard error. Only the command line calls this, once."""
    # If a log line cannot be written, do not write a traceback instead.
    logging.raiseExceptions = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line(as_json))
    handler.addFilter(Allowance())
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


def _for_people(field: tuple[str, object]) -> tuple[str, object]:
    name, value = field
    if "_wei" in name and isinstance(value, int):
        return name.replace("_wei", ""), format_coins(value)
    return field


def _quoted(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and not set(text) & set(' "=')
    return text if plain and text else json.dumps(text, ensure_ascii=False)
