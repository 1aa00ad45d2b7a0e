"""Which custody of a home's journal a command is about: the one whose id begins as was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import click

from psymm.cli.exit_status import CommandError, Exit

if TYPE_CHECKING:
    from psymm.journal.codec import JournalledCustody
    from psymm.journal.reader import JournalReader

P = ParamSpec("P")
R = TypeVar("R")

LANES: Final = ("trader", "solver")


def custody_option(function: Callable[P, R]) -> Callable[P, R]:
    """Adds --custody; the command gets `custody`, for `chosen`."""
    return click.option(
        "--custody", required=True, metavar="HEX", help="The custody's id, or its start."
    )(function)


async def chosen(journal: JournalReader, start: str, lane: int | None = None) -> JournalledCustody:
    """The one custody whose id begins so, in which the journal's owner is at `lane` if one is
    given. Raises CommandError `no-such-custody`. Cancelled: raises Cancelled, nothing changed."""
    wanted = start.lower().removeprefix("0x")
    fits = [
        one
        for one in await journal.custodies()
        if lane in (None, one.lane) and one.agreement.custody.hex().startswith(wanted)
    ]
    if len(fits) != 1:
        role = "" if lane is None else f", as {LANES[lane]},"
        raise CommandError(
            "no-such-custody",
            f"{len(fits)} custodies of the journal{role} begin with {start}; "
            "`psymm transcript list` shows them.",
            Exit.USAGE,
        )
    return fits[0]
