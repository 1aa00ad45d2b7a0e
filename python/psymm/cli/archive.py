"""`psymm journal archive` and `prune`: remove frames before the newest checkpoint from the
journal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from psymm.cli.custodies import chosen, custody_option
from psymm.cli.data_dir import DataDir
from psymm.cli.exit_status import CommandError, Exit
from psymm.cli.options import Command, home_option, json_option, password_option
from psymm.cli.output import Screen
from psymm.cli.password import ask_password
from psymm.cli.streams import is_interactive
from psymm.cli.transcript import unlock

if TYPE_CHECKING:
    from psymm.journal.writer import Journal
    from psymm.session.runtime.archive import Archived


@click.command("archive", cls=Command)
@json_option
@home_option
@password_option
@custody_option
@click.option(
    "--openings",
    is_flag=True,
    help="Include the notes' openings, so that the account can be computed from the file alone; "
    "needs the password.",
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def archive_frames(
    screen: Screen,
    home: DataDir,
    password_fd: int | None,
    custody: str,
    openings: bool,
    file: Path,
) -> None:
    """Moves one custody's frames before its newest checkpoint to FILE.

    FILE can be verified alone (`psymm transcript verify`) and is on disk before a frame leaves the
    journal. Frames that the other party may still ask for stay. Stop the daemon first.
    """
    if file.exists():
        raise CommandError("file-exists", f"{file} exists; choose another name.", Exit.USAGE)
    password = ask_password(password_fd) if openings else None
    trio.run(partial(_archive, screen, home, custody, password, file))


@click.command("prune", cls=Command)
@json_option
@home_option
@custody_option
@click.option("--yes", is_flag=True, help="Do not ask before the frames are removed.")
def prune_frames(screen: Screen, home: DataDir, custody: str, yes: bool) -> None:
    """Deletes one custody's frames before its newest checkpoint.

    Both parties have signed the account at the checkpoint, so a court needs nothing before it. But
    this home can no longer show the trades before it; `psymm journal archive` keeps them in a file.
    Stop the daemon first.
    """
    if not yes:
        _confirm()
    trio.run(partial(_prune, screen, home, custody))


def _confirm() -> None:
    if not is_interactive():
        raise CommandError(
            "confirmation-needed",
            "Frames would be deleted, and there is no terminal to confirm it; add --yes.",
            Exit.USAGE,
        )
    click.echo("The frames before the checkpoint will be deleted.", err=True)
    if not click.confirm("Go on?", err=True):
        raise CommandError("not-confirmed", "Nothing was removed.", Exit.REFUSED)


async def _archive(
    screen: Screen, home: DataDir, custody: str, password: str | None, file: Path
) -> None:
    from psymm.session.runtime.archive import archive

    async with _writer(home, password) as held:
        key = (await chosen(held, custody)).agreement.custody
        done = await archive(held, key, file)
    _say(screen, key, done, f"archived in {file}", file=str(file))


async def _prune(screen: Screen, home: DataDir, custody: str) -> None:
    from psymm.session.runtime.archive import prune

    async with _writer(home, None) as held:
        key = (await chosen(held, custody)).agreement.custody
        done = await prune(held, key)
    _say(screen, key, done, "removed")


@asynccontextmanager
async def _writer(home: DataDir, password: str | None) -> AsyncIterator[Journal]:
    from psymm.journal.writer import open_journal

    async with open_journal(home.journal, create=False) as held:
        if password is not None:
            await unlock(held, home, password)
        yield held


def _say(screen: Screen, custody: bytes, done: Archived, what: str, **values: str) -> None:
    point = done.point
    screen.result(
        f"{done.frames} frames of 0x{custody.hex()} {what}; {done.kept} are left, from the "
        f"checkpoint after trader {point.trader_seq} and solver {point.solver_seq} on.",
        custody=custody,
        frames=done.frames,
        kept=done.kept,
        checkpoint={
            "account": point.account_hash,
            "traderSeq": point.trader_seq,
            "solverSeq": point.solver_seq,
        },
        **values,
    )
