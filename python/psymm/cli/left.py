"""What a command leaves open is its last word: which custodies, what lies there, how to go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import trio

from psymm.cli.endings import notes_of
from psymm.cli.output import Screen
from psymm.errors import JournalError
from psymm.storage import StorageError

if TYPE_CHECKING:
    from psymm.session.left import LeftOpen
    from psymm.transcript.journal import Journal

MOST: Final = 20
"""So many custodies are told one by one."""


@contextmanager
def last_words() -> Iterator[list[LeftOpen]]:
    """Whatever ends the block names the custodies in the list that it gives; for around trio."""
    left: list[LeftOpen] = []
    try:
        yield left
    except BaseException as error:
        said = " ".join(notes_of(error))
        for one in left:
            if one.custody.hex() not in said:
                error.add_note(str(one))
        raise


@asynccontextmanager
async def telling_left(
    screen: Screen, journal: Journal, resumed: str | None, left: list[LeftOpen]
) -> AsyncIterator[None]:
    """Says at once which of our trades are still open, and if an error, a signal or the end of
    standard input ends the block, puts into `left` those that were begun or resumed in it.

    resumed: the beginning of a custody's id. Raises JournalCorrupt. Cancelled: `left` is filled.
    """
    from psymm.session.left import open_custodies
    from psymm.transcript.opening import TRADER

    before = await open_custodies(journal, TRADER)
    tell(screen, "still-open", before)
    known = {one.custody for one in before}
    prefix = None if resumed is None else resumed.lower().removeprefix("0x")
    try:
        yield
    except BaseException:
        with trio.CancelScope(shield=True):
            try:
                now = await open_custodies(journal, TRADER)
            except (JournalError, StorageError):
                now = before  # what is wrong with the journal is said by what ended the block
        for one in now:
            if one.custody not in known or (prefix and one.custody.hex().startswith(prefix)):
                left.append(one)
                if screen.as_json:
                    screen.event("left-open", str(one), **one.fields())
        raise


def tell(screen: Screen, event: str, custodies: list[LeftOpen]) -> None:
    """One event for each custody, the newest, and one that says how many more there are."""
    for one in custodies[-MOST:]:
        screen.event(event, str(one), **one.fields())
    more = len(custodies) - MOST
    if more > 0:
        screen.event(event, f"and {more} more: psymm transcript list shows all", more=more)
