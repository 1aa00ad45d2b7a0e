"""The demo's parties: each is a home, a wallet, and processes of the command line."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from psymm.chain.devnet import end_child

READY_S = 600
"""After this time we assume that a daemon hangs; even a busy machine needs less."""


class DemoError(Exception):
    """A step of the demo did not do what it must."""


@dataclass
class Stage:
    """The demo's directory, output and timings."""

    home: Path
    began: float = field(default_factory=time.monotonic)
    steps: int = 0
    timings: list[tuple[str, float]] = field(default_factory=list)

    def title(self, text: str) -> None:
        self.steps += 1
        print(
            f"\n\x1b[1m{self.steps}. {text}\x1b[0m"
            if sys.stdout.isatty()
            else f"\n{self.steps}. {text}"
        )
        sys.stdout.flush()

    def line(self, text: str) -> None:
        print(f"  {time.monotonic() - self.began:6.1f} s  {text}", flush=True)

    @asynccontextmanager
    async def timed(self, name: str) -> AsyncIterator[None]:
        began = time.monotonic()
        yield
        self.timings.append((name, time.monotonic() - began))

    def log_command(self, arguments: Sequence[str]) -> None:
        with (self.home / "commands.log").open("a") as file:
            file.write(shlex.join(["psymm", *arguments]) + "\n")


@dataclass
class Actor:
    """A party: a name, a home, and a password that is only passed through pipes."""

    stage: Stage
    name: str
    password: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)
    address: str = ""

    @property
    def home(self) -> Path:
        return self.stage.home / self.name

    async def run(
        self,
        *arguments: str,
        unlock: bool = True,
        at_home: bool = True,
        on_event: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Run one command and return its last JSON line. Raises DemoError."""
        last: dict[str, Any] = {}
        async with self._process(arguments, unlock, at_home) as (process, lines):
            async for line in lines:
                last = line
                if on_event is not None:
                    on_event(line)
            await process.wait()
        if process.returncode != 0 or "error" in last:
            error = last.get("error", {})
            raise DemoError(
                f"{self.name}: psymm {arguments[0]} ended with {process.returncode}: "
                f"{error.get('message', 'see its log')} [{error.get('code', '')}]"
            )
        return last

    @asynccontextmanager
    async def daemon(
        self,
        *arguments: str,
        unlock: bool = True,
        at_home: bool = True,
        on_event: Callable[[dict[str, Any]], None] | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """Run a daemon until the block ends; yields its ready line."""
        ready = trio.Event()
        first: dict[str, Any] = {}

        async def follow(lines: AsyncIterator[dict[str, Any]]) -> None:
            async for line in lines:
                if line.get("event") == "ready":
                    first.update(line)
                    ready.set()
                elif "error" in line:
                    error = line["error"]
                    raise DemoError(f"{self.name}: {error['message']} [{error['code']}]")
                elif on_event is not None:
                    on_event(line)
            if not ready.is_set():
                raise DemoError(f"{self.name}: psymm {arguments[0]} ended before it was ready")

        flags = ("--until-stdin-closes",)
        async with (
            self._process((*arguments, *flags), unlock, at_home) as (_, lines),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(follow, lines)
            with trio.move_on_after(READY_S) as late:
                await ready.wait()
            if late.cancelled_caught:
                raise DemoError(f"{self.name}: psymm {arguments[0]} is not ready after {READY_S} s")
            try:
                yield first
            finally:
                nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def _process(
        self, arguments: Sequence[str], unlock: bool, at_home: bool
    ) -> AsyncIterator[tuple[trio.Process, AsyncIterator[dict[str, Any]]]]:
        """A command's process with its output as JSON; it is always ended."""
        read = -1
        home = ["--home", str(self.home)] if at_home else []
        self.stage.log_command([*arguments, *home])
        command = [sys.executable, "-m", "psymm", *arguments, *home, "--json"]
        if unlock:
            read, write = os.pipe()
            os.write(write, self.password.encode() + b"\n")
            os.close(write)
            command += ["--password-fd", str(read)]
        log = (self.stage.home / f"{self.name}.log").open("ab")
        try:
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=[read] if unlock else [],
                start_new_session=True,
            )
        finally:
            log.close()
            if unlock:
                os.close(read)
        try:
            yield process, _json_lines(process)
        finally:
            await end_child(process)


async def _json_lines(process: trio.Process) -> AsyncIterator[dict[str, Any]]:
    assert process.stdout is not None  # noqa: S101 - asked for when it was started
    rest = b""
    async for piece in process.stdout:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if line.strip():
                yield json.loads(line)
