"""Reading TOML files that a command is given: a market, a policy, a scenario."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psymm.cli.exit_status import CommandError
from psymm.storage import translate_errors


def read_toml(path: Path, refused: Callable[[str], CommandError]) -> dict[str, Any]:
    """The file's tables. Raises StorageError, and the error of `refused` if it is not TOML."""
    try:
        with translate_errors(path):
            return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        # tomllib does not catch what int() and deep nesting raise inside it.
        raise refused(f"{path} is not TOML: {error}") from None
