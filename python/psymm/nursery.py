"""What trio's nurseries do not say in this package's words.

`open_block_nursery`: who writes `async with connect(…)` wants to write `except Declined`, too.
`start_task`: a nursery whose block is over takes no task, which is a session's end and no bug.
`all_of`: what does not depend on each other is asked at once, and the first error is raised as it
is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar, TypeVarTuple, Unpack

import trio

from psymm.errors import SessionClosed

_Given = TypeVarTuple("_Given")
_T = TypeVar("_T")


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


def start_task(
    nursery: trio.Nursery,
    work: Callable[[Unpack[_Given]], Awaitable[object]],
    *given: *_Given,
) -> None:
    """As `nursery.start_soon`, for callers that may outlive the nursery's block.

    Raises SessionClosed where the nursery takes no task any more; nothing was started.
    """
    try:
        nursery.start_soon(work, *given)
    except RuntimeError:  # the one that trio raises of a closed nursery
        raise SessionClosed("what runs this session has ended; resume the custody") from None


async def all_of(*works: Callable[[], Awaitable[_T]]) -> list[_T]:
    """What each of `works` gives, in their order; all run at once.

    Raises the first Exception that one of them raises; the others are cancelled.
    Cancelled: cancels all of them.
    """
    results: dict[int, _T] = {}
    raised: list[Exception] = []
    async with trio.open_nursery() as nursery:

        async def run(at: int, work: Callable[[], Awaitable[_T]]) -> None:
            try:
                results[at] = await work()
            except Exception as error:
                raised.append(error)
                nursery.cancel_scope.cancel()

        for at, work in enumerate(works):
            nursery.start_soon(run, at, work)
    if raised:
        raise raised[0]
    return [results[at] for at in range(len(works))]
