"""Libraries that are imported late, because they take long or change the interpreter."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def recursion_limit_kept() -> Iterator[None]:
    """Around an import of web3 or eth-account.

    A library under both raises the interpreter's recursion limit to 100,000, and with that whatever
    calls itself without end would end this process instead of raising.
    """
    limit = sys.getrecursionlimit()
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
