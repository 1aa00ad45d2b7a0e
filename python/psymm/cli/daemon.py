"""What all daemons of pSymm share: a ready line, shutdown on a signal or with the parent.

A daemon prints one ready line with its role, endpoint and PID, so that a parent can wait for it.
SIGINT or SIGTERM ends it; with --until-stdin-closes, so does the end of standard input. First it
shuts down gracefully within a time limit; then its tasks are cancelled, its sockets closed, and the
process exits with 0. Everything under way is in the journal and continues at the next start. A
second signal ends the process at once.
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
"""The time limit of a graceful shutdown."""


def stdin_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add --until-stdin-closes; the command gets `until_stdin_closes`."""
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
    """Run `service` until it returns, a signal comes, or standard input closes.

    Args:
        service: gets `ready(endpoint, **fields)` and calls it once it can be used. Its errors pass
            through; ending on a signal is not an error.
        leave: awaited before the service is cancelled, for at most LEAVE_S.
    """
    trio.run(functools.partial(_run, screen, role, service, until_stdin_closes, leave))


def cannot_listen(
    listen: tuple[str, int], errors: BaseExceptionGroup[OSError], option: str = "--listen"
) -> CommandError:
    """The error of a service whose address cannot be bound."""
    reason = next((one.strerror for one in leaves(errors) if isinstance(one, OSError)), "")
    return CommandError(
        "cannot-listen",
        f"Cannot listen on {listen[0]}:{listen[1]}: {reason}. Choose another with {option}.",
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
    with _handle_signals(ending, screen, _daemon_second_signal):
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            if until_stdin_closes:
                nursery.start_soon(_end_on_closed_stdin, ending)
            nursery.start_soon(_shut_down, ending, leave, scope)
            await service(ready)
            scope.cancel()


async def _shut_down(
    ending: trio.Event, leave: Callable[[], Awaitable[None]] | None, scope: trio.CancelScope
) -> None:
    await ending.wait()
    if leave is not None:
        # A peer that does not answer must not hold up the end.
        with trio.move_on_after(LEAVE_S):
            await leave()
    scope.cancel()


@asynccontextmanager
async def cancel_on_signal(with_stdin: bool, at_once: Callable[[], str]) -> AsyncIterator[None]:
    """Cancel the block on SIGINT or SIGTERM and raise KeyboardInterrupt, so that it can leave its
    session and close its journal. A second signal ends the process at once; everything signed is
    on disk by then.

    Args:
        with_stdin: also cancel when standard input closes.
        at_once: returns what to print at the second signal.
    """
    ending = trio.Event()
    with _handle_signals(ending, None, at_once), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            if with_stdin:
                nursery.start_soon(_end_on_closed_stdin, ending)

            async def end() -> None:
                await ending.wait()
                scope.cancel()

            nursery.start_soon(end)
            yield
            nursery.cancel_scope.cancel()
    # A block that finished at the same moment was not interrupted.
    if scope.cancelled_caught:
        raise KeyboardInterrupt


def _daemon_second_signal() -> str:
    return "Everything signed is on disk; the next start continues with it."


@contextmanager
def _handle_signals(
    ending: trio.Event, screen: Screen | None, at_once: Callable[[], str]
) -> Iterator[None]:
    """Set `ending` at the first SIGINT or SIGTERM; end the process at the second. Use inside trio.

    Args:
        screen: reports the first signal, if given.
        at_once: returns what to print at the second.
    """
    token = trio.lowlevel.current_trio_token()
    received = False

    def end(number: int) -> None:
        if screen is not None:
            screen.event("ending", f"{signal.Signals(number).name}: ending", signal=number)
        ending.set()

    def on_signal(number: int, _frame: object) -> None:
        nonlocal received
        if received:
            # Not through Python's buffers, which may be in the middle of a write.
            with suppress(OSError):
                os.write(2, f"\nInterrupted twice, ended at once. {at_once()}\n".encode())
            os._exit(Exit.INTERRUPTED)
        received = True
        # This runs between any two instructions of the program, so trio does the rest at a safe
        # point.
        token.run_sync_soon(end, number)

    before = {one: signal.signal(one, on_signal) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


async def _end_on_closed_stdin(ending: trio.Event) -> None:
    # A copy, because the stream closes what it reads. Descriptor 0 itself must stay taken.
    stream = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    async with stream:
        while await stream.receive_some(4096):
            pass
    ending.set()
