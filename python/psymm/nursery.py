"""A nursery around a block whose own error comes out as itself, not inside a group.

Who writes `async with connect(…)` wants to write `except Declined`, too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_block_nursery() -> AsyncGenerator[trio.Nursery, None]:
    """As `trio.open_nursery`, except that where the block raises an Exception, the tasks are
    cancelled and that very exception is raised. What tasks raise still comes as a group.

    Cancelled: as `trio.open_nursery`.
    """
    raised: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except Exception as error:
            raised = error
            nursery.cancel_scope.cancel()
    if raised is not None:
        raise raised
