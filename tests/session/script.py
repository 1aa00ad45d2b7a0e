"""Session scripts: one rule a file, read into lines that `script_stage` and `race_stage` play.

The format is described in SCRIPTS.md. What cannot be read is an error that names file and line.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
LANES: Final = ("trader", "solver")
HEADINGS: Final = ("Name", "Rule", "Ends", "Terms")
UNITS: Final = {"": 1, "ns": 1, "ms": 10**6, "s": 10**9}


class BadScript(Exception):
    """A script that cannot be read. It fails its test, whatever the session does."""


class ScriptFailed(AssertionError):
    """The session broke the script's rule at this line."""

    def __init__(self, script: Script, number: int, why: str) -> None:
        self.script = script.name
        self.number = number
        self.why = why
        line = script.source[number - 1].strip() if 0 < number <= len(script.source) else "the end"
        super().__init__(f"{script.name}:{number}: {line}\n  {why}\n  rule: {script.rule}")


@dataclass(frozen=True, slots=True)
class Line:
    """One directive. conditions: all must hold, or the line does not count."""

    number: int
    word: str
    arguments: tuple[str, ...]
    conditions: tuple[str, ...] = ()

    def counts(self, facts: frozenset[str]) -> bool:
        return all(
            (each[1:] not in facts) if each.startswith("!") else (each in facts)
            for each in self.conditions
        )


@dataclass(frozen=True, slots=True)
class Script:
    """name: the file's stem. ends: lanes that it runs for; none where both ends are real."""

    name: str
    rule: str
    ends: tuple[str, ...]
    terms: Mapping[str, str]
    lines: tuple[Line, ...]
    source: tuple[str, ...]

    @property
    def is_race(self) -> bool:
        return not self.ends


def read(path: Path) -> Script:
    """Raises BadScript."""
    source = path.read_text(encoding="utf-8").splitlines()
    headings: dict[str, str] = {}
    lines: list[Line] = []
    for number, text in enumerate(source, 1):
        stripped = text.strip()
        if not stripped or stripped.startswith("#"):
            continue
        heading = re.fullmatch(r"([A-Z][a-z]+): +(.+)", stripped)
        if heading is not None and not lines:
            name, value = heading.groups()
            if name not in HEADINGS or name in headings:
                raise BadScript(f"{path.name}:{number}: heading {name} is unknown or repeated")
            headings[name] = value
            continue
        lines.append(_line(path, number, stripped))
    for name in ("Name", "Rule"):
        if name not in headings:
            raise BadScript(f"{path.name}: the heading {name} is missing")
    if headings["Name"] != path.stem:
        raise BadScript(f"{path.name}: the name {headings['Name']} is not the file's")
    if not lines:
        raise BadScript(f"{path.name}: nothing happens in it")
    ends = tuple(headings.get("Ends", "trader solver").split())
    if ends == ("together",):
        ends = ()
    elif any(end not in LANES for end in ends):
        raise BadScript(f"{path.name}: ends are trader, solver, or together")
    terms = dict(_pair(path, word) for word in shlex.split(headings.get("Terms", "")))
    return Script(path.stem, headings["Rule"], ends, terms, tuple(lines), tuple(source))


def read_all() -> list[Script]:
    return [read(path) for path in sorted(FOLDER.glob("*.script"))]


def _line(path: Path, number: int, text: str) -> Line:
    try:
        words = shlex.split(text)
    except ValueError as bad:
        raise BadScript(f"{path.name}:{number}: {bad}") from None
    conditions: list[str] = []
    while words and words[0].startswith("@"):
        conditions.append(words.pop(0)[1:])
    if not words:
        raise BadScript(f"{path.name}:{number}: a condition without a line")
    return Line(number, words[0], tuple(words[1:]), tuple(conditions))


def _pair(path: Path, word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise BadScript(f"{path.name}: {word} is not name=value")
    return name, value


def duration_ns(text: str) -> int:
    """'5s', '20ms', '-1s' or plain nanoseconds. Raises BadScript."""
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?)(ns|ms|s|)", text)
    if found is None:
        raise BadScript(f"{text} is not a span of time")
    return int(float(found[1]) * UNITS[found[2]])


def evaluate(text: str, known: Mapping[str, int]) -> str:
    """A value as the script means it: `$name±number` is reckoned, all else stands for itself.

    Raises BadScript.
    """
    if not text.startswith("$"):
        return text
    found = re.fullmatch(r"\$([a-z]+)(?:([+-])(\d+(?:\.\d+)?(?:ns|ms|s)?))?", text)
    if found is None or found[1] not in known:
        raise BadScript(f"{text} is not one of {sorted(known)} with a number added")
    offset = 0 if found[2] is None else duration_ns(found[3])
    return str(known[found[1]] + (-offset if found[2] == "-" else offset))


def assignments(words: tuple[str, ...] | list[str]) -> dict[str, str]:
    """name=value and name~part (a part of the value, kept as `name~`). Raises BadScript."""
    made: dict[str, str] = {}
    for word in words:
        found = re.match(r"([A-Za-z][A-Za-z0-9]*)([=~])", word)
        if found is None:
            raise BadScript(f"{word} is not name=value")
        name = found[1] + ("~" if found[2] == "~" else "")
        if name in made:
            raise BadScript(f"{name} is given twice")
        made[name] = word[found.end() :]
    return made
