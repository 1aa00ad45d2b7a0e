"""Files in TOML that a command is given: a market, a scenario."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psymm.cli.exits import CommandError


def read_toml(path: Path, refused: Callable[[str], CommandError]) -> dict[str, Any]:
    """The file's tables. Raises what `refused` makes of the reason why it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise refused(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        # The reader lets pass what int() and deep nesting raise in it.
        raise refused(f"{path} is not TOML: {error}") from None
