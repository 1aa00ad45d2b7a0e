"""Importing libraries that change the interpreter."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def recursion_limit_kept() -> Iterator[None]:
    """Use around an import of web3 or eth-account, to restore the recursion limit.

    A dependency of both raises it to 100,000. Then endless recursion would crash this process
    instead of raising RecursionError.
    """
    limit = sys.getrecursionlimit()
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
