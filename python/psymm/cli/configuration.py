"""Reading TOML files that a command is given: a market, a policy, a scenario."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from psymm.cli.exit_status import CommandError, Exit
from psymm.storage import translate_errors

MOST_WHOLE: Final = (1 << 31) - 1
"""The largest count or number of seconds that a configuration may have."""


def read_toml(path: Path, refused: Callable[[str], CommandError]) -> dict[str, Any]:
    """The file's tables. Raises StorageError, and the error of `refused` if it is not TOML."""
    try:
        with translate_errors(path):
            return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        # tomllib does not catch what int() and deep nesting raise inside it.
        raise refused(f"{path} is not TOML: {error}") from None


def bad_config(what: str) -> CommandError:
    """The error for a service's configuration."""
    return CommandError("bad-config", f"Configuration: {what}.", Exit.USAGE)


def known_keys(table: dict[str, Any], names: frozenset[str], where: str) -> dict[str, Any]:
    """The table itself. Raises `bad_config` for a key that is not in `names`."""
    for name in table:
        if name not in names:
            raise bad_config(f"{where} has no key {name!r}; it may have {', '.join(sorted(names))}")
    return table


def text_of(table: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """A key's text, which is not empty. Raises `bad_config`."""
    value = table.get(name, default)
    if value is None:
        raise bad_config(f"{name} is missing")
    if not isinstance(value, str) or not value:
        raise bad_config(f'{name} is written as a string, like {name} = "1"')
    return value


def positive_decimal(table: Mapping[str, Any], name: str) -> Decimal:
    """A key's decimal above zero, written as text. Raises `bad_config`."""
    text = text_of(table, name)
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise bad_config(f"{name}: {text!r} is not a decimal") from None
    if not value.is_finite() or value <= 0:
        raise bad_config(f"{name} must be above zero")
    return value


def whole(table: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A key's whole number from 1 to MOST_WHOLE. Raises `bad_config`."""
    value = table.get(name, default)
    # TOML's `true` would be an int to Python.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MOST_WHOLE:
        raise bad_config(f"{name} is a whole number above zero, at most {MOST_WHOLE}")
    return value


def date_of(table: Mapping[str, Any], name: str) -> date:
    """A key's date, without a time. Raises `bad_config`."""
    value = table.get(name)
    if not isinstance(value, date) or isinstance(value, datetime):
        raise bad_config(f"{name} is a date, like {name} = 2030-01-01")
    return value
