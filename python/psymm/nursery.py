"""Nurseries with plain errors instead of exception groups.

`open_block_nursery`: lets callers of `async with connect(…)` write `except Declined`.
`start_task`: a closed nursery means that the session has ended; that is not a bug.
`all_of`: runs independent calls at once and raises the first error, not a group of errors.
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
    """Like `trio.open_nursery`, but if the block raises an Exception, the tasks are cancelled and
    that exception itself is raised. Errors of tasks still come as a group.

    Cancelled: like `trio.open_nursery`.
    """
    raised: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        # Not BaseException: Cancelled must reach the nursery, and an interrupt must not wait here.
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
    """`nursery.start_soon` for callers that may outlive the nursery.

    Raises SessionClosed if the nursery is closed; nothing was started.
    """
    try:
        nursery.start_soon(work, *given)
    except RuntimeError:  # trio raises it for a closed nursery
        raise SessionClosed("what runs this session has ended; resume the custody") from None


async def all_of(*works: Callable[[], Awaitable[_T]]) -> list[_T]:
    """The results of all `works`, in order; they run at once.

    Raises the first Exception of any of them and cancels the others.
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
