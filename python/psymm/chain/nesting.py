"""JSON from strangers, read only if it is not nested so deeply that reading it could crash us.

Python's own guard is its recursion limit, which a library that eth-account imports raises to
100,000; with that, a few thousand brackets end the process instead of raising.
"""

from __future__ import annotations

import json
from typing import Any, Final

MAX_NESTING: Final = 64
_OPEN: Final = b"[{"
_NOT_BRACKETS: Final = bytes(sorted(set(range(256)) - set(b"[]{}")))


def loads(raw: bytes | bytearray, max_nesting: int = MAX_NESTING) -> Any:
    """As json.loads.  Raises ValueError for what is no JSON, and for nesting over the limit.

    Brackets inside strings count too, which no answer of a node comes near.
    """
    depth = 0
    brackets = bytes(raw).translate(None, _NOT_BRACKETS)
    if sum(brackets.count(one) for one in (b"[", b"{")) > max_nesting:
        for sign in brackets:
            depth += 1 if sign in _OPEN else -1
            if depth > max_nesting:
                raise ValueError(f"nested more than {max_nesting} deep")
    return json.loads(raw)
