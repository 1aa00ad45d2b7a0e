"""What all daemons of pSymm do alike: say when they are ready, end on a signal, die with a parent.

A daemon prints one ready line with its role, endpoint and PID, so that whoever started it can wait
for it. SIGINT, SIGTERM, or the end of standard input with --until-stdin-closes ends it: its tasks
are cancelled, sockets closed, and the process exits with 0. Whatever was under way is in the
journal and is taken up at the next start. A second signal ends the process at once.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

import click
import trio

from psymm.cli.exits import CommandError, Exit, leaves
from psymm.cli.output import Screen, Value

P = ParamSpec("P")
R = TypeVar("R")

Ready = Callable[..., None]
Service = Callable[[Ready], Awaitable[None]]


def stdin_option(function: Callable[P, R]) -> Callable[P, R]:
    """Adds --until-stdin-closes; the command gets `until_stdin_closes`."""
    return click.option(
        "--until-stdin-closes",
        is_flag=True,
        help="End when standard input closes, so that no child outlives the parent.",
    )(function)


def run_daemon(screen: Screen, role: str, service: Service, until_stdin_closes: bool) -> None:
    """Runs `service` until it ends by itself, a signal comes, or standard input closes.

    `service` gets `ready(endpoint, **fields)`, to be called once when it can be used. Its errors
    pass through; an end by signal is no error.
    """
    trio.run(functools.partial(_run, screen, role, service, until_stdin_closes))


def cannot_listen(
    listen: tuple[str, int], errors: BaseExceptionGroup[OSError], option: str = "--listen"
) -> CommandError:
    """The error of a service whose address cannot be bound."""
    reason = next((one.strerror for one in leaves(errors) if isinstance(one, OSError)), "")
    return CommandError(
        "cannot-listen",
        f"{listen[0]}:{listen[1]} cannot be listened on: {reason}. Choose another with {option}.",
        Exit.USAGE,
    )


async def _run(screen: Screen, role: str, service: Service, until_stdin_closes: bool) -> None:
    def ready(endpoint: str, **fields: Value) -> None:
        screen.event(
            "ready",
            f"{role} ready at {endpoint}, PID {os.getpid()}",
            role=role,
            endpoint=endpoint,
            pid=os.getpid(),
            **fields,
        )

    async with trio.open_nursery() as nursery:
        scope = nursery.cancel_scope
        await nursery.start(_end_on_signal, screen, scope)
        if until_stdin_closes:
            nursery.start_soon(_end_on_closed_stdin, scope)
        await service(ready)
        scope.cancel()


async def _end_on_signal(
    screen: Screen,
    scope: trio.CancelScope,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            if scope.cancel_called:
                os._exit(128 + number)
            screen.event("ending", f"{signal.Signals(number).name}: ending", signal=int(number))
            for again in (signal.SIGINT, signal.SIGTERM):
                signal.signal(again, lambda second, _frame: os._exit(128 + second))
            scope.cancel()


@asynccontextmanager
async def end_with_stdin(wanted: bool) -> AsyncIterator[None]:
    """Cancels its block when standard input closes, if `wanted`; raises KeyboardInterrupt then."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            if wanted:
                nursery.start_soon(_end_on_closed_stdin, scope)
            yield
            nursery.cancel_scope.cancel()
    if scope.cancelled_caught:
        raise KeyboardInterrupt


async def _end_on_closed_stdin(scope: trio.CancelScope) -> None:
    stream = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    async with stream:
        while await stream.receive_some(4096):
            pass
    scope.cancel()
