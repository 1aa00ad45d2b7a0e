"""What all daemons of pSymm do alike: say when they are ready, end on a signal, die with a parent.

A daemon prints one ready line with its role, endpoint and PID, so that whoever started it can wait
for it. SIGINT, SIGTERM, or the end of standard input with --until-stdin-closes ends it: first it
takes leave, in a bounded time, then its tasks are cancelled, sockets closed, and the process exits
with 0. Whatever was under way is in the journal and is taken up at the next start. A second signal
ends the process at once.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, ParamSpec, TypeVar

import click
import trio

from psymm.cli.exit_status import CommandError, Exit, leaves
from psymm.cli.output import Screen, Value

P = ParamSpec("P")
R = TypeVar("R")

Ready = Callable[..., None]
Service = Callable[[Ready], Awaitable[None]]
LEAVE_S: Final = 20.0
"""How long taking leave may last, all together."""


def stdin_option(function: Callable[P, R]) -> Callable[P, R]:
    """Adds --until-stdin-closes; the command gets `until_stdin_closes`."""
    return click.option(
        "--until-stdin-closes",
        is_flag=True,
        help="End when standard input closes, so that no child outlives the parent.",
    )(function)


def run_daemon(
    screen: Screen,
    role: str,
    service: Service,
    until_stdin_closes: bool,
    leave: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Runs `service` until it ends by itself, a signal comes, or standard input closes.

    `service` gets `ready(endpoint, **fields)`, to be called once when it can be used. Its errors
    pass through; an end by signal is no error. leave: awaited before the service is cancelled, for
    at most LEAVE_S.
    """
    trio.run(functools.partial(_run, screen, role, service, until_stdin_closes, leave))


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


async def _run(
    screen: Screen,
    role: str,
    service: Service,
    until_stdin_closes: bool,
    leave: Callable[[], Awaitable[None]] | None,
) -> None:
    def ready(endpoint: str, **fields: Value) -> None:
        screen.event(
            "ready",
            f"{role} ready at {endpoint}, PID {os.getpid()}",
            role=role,
            endpoint=endpoint,
            pid=os.getpid(),
            **fields,
        )

    ending = trio.Event()
    with _hearing_signals(ending, screen, _daemons_last_words):
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            if until_stdin_closes:
                nursery.start_soon(_end_on_closed_stdin, ending)
            nursery.start_soon(_take_leave, ending, leave, scope)
            await service(ready)
            scope.cancel()


async def _take_leave(
    ending: trio.Event, leave: Callable[[], Awaitable[None]] | None, scope: trio.CancelScope
) -> None:
    await ending.wait()
    if leave is not None:
        with trio.move_on_after(LEAVE_S):
            await leave()
    scope.cancel()


@asynccontextmanager
async def end_early(with_stdin: bool, at_once: Callable[[], str]) -> AsyncIterator[None]:
    """Cancels its block on SIGINT, on SIGTERM, or, `with_stdin`, when standard input closes, and
    raises KeyboardInterrupt then: the block says goodbye and closes its journal. A second signal
    ends the process at once, which loses nothing that was signed; `at_once` gives its last words.
    """
    ending = trio.Event()
    with _hearing_signals(ending, None, at_once), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            if with_stdin:
                nursery.start_soon(_end_on_closed_stdin, ending)

            async def end() -> None:
                await ending.wait()
                scope.cancel()

            nursery.start_soon(end)
            yield
            nursery.cancel_scope.cancel()
    if scope.cancelled_caught:
        raise KeyboardInterrupt


def _daemons_last_words() -> str:
    return "What was signed is kept, and the next start takes it up."


@contextmanager
def _hearing_signals(
    ending: trio.Event, screen: Screen | None, at_once: Callable[[], str]
) -> Iterator[None]:
    """Sets `ending` at the first SIGINT or SIGTERM; the second one ends the process at once, also
    while the block is being left. For inside trio.

    screen: where the first is told. at_once: what is said at the second.
    """
    token = trio.lowlevel.current_trio_token()
    heard = False

    def end(number: int) -> None:
        if screen is not None:
            screen.event("ending", f"{signal.Signals(number).name}: ending", signal=number)
        ending.set()

    def hear(number: int, _frame: object) -> None:
        nonlocal heard
        if heard:
            # Python's own buffers may be in the middle of a write.
            with suppress(OSError):
                os.write(2, f"\nInterrupted twice, ended at once. {at_once()}\n".encode())
            os._exit(Exit.INTERRUPTED)
        heard = True
        token.run_sync_soon(end, number)

    before = {one: signal.signal(one, hear) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


async def _end_on_closed_stdin(ending: trio.Event) -> None:
    stream = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    async with stream:
        while await stream.receive_some(4096):
            pass
    ending.set()
