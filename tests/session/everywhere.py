"""Functions of the protocol replaced wherever a module of it has them by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any


def replace_everywhere(
    function: Callable[..., Any], stand_in: Callable[..., Any], put: Callable[[Any, str, Any], None]
) -> None:
    """Have `put` (setattr, or a test's own that is undone) replace a function in every module of
    the session protocol that has it."""
    assert isinstance(function, FunctionType)
    for name, module in list(sys.modules.items()):
        if name.startswith("psymm.session.protocol"):
            for held, value in list(vars(module).items()):
                if value is function:
                    put(module, held, stand_in)
