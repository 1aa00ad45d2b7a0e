"""What a command leaves open is its last word: which custodies, what lies there, how to go on.

How to go on is a whole command line, with the options that this command was given: the home, the
token, who may send. It works when it is pasted into the shell that the command was typed into.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import trio

from psymm.cli.output import Screen
from psymm.errors import JournalError
from psymm.storage import StorageError

if TYPE_CHECKING:
    from psymm.session.left import LeftOpen
    from psymm.transcript.journal import Journal

MOST: Final = 20
"""So many custodies are told one by one."""


GoOn = Callable[[bytes], str]
"""The command line that goes on with a custody."""


def said_of(one: LeftOpen, go_on: GoOn) -> str:
    """A custody in words, with the command that goes on with it here."""
    return str(one).replace(one.command, f"`{go_on(one.custody)}`")


@contextmanager
def last_words(go_on: GoOn) -> Iterator[list[LeftOpen]]:
    """Whatever ends the block names the custodies in the list that it gives; for around trio."""
    left: list[LeftOpen] = []
    try:
        yield left
    except BaseException as error:
        for one in left:
            # The session's own note knows neither the home nor the options.
            _forget_notes(error, one.custody.hex())
            error.add_note(said_of(one, go_on))
        raise


def _forget_notes(error: BaseException, words: str) -> None:
    if hasattr(error, "__notes__"):
        error.__notes__ = [note for note in error.__notes__ if words not in note]
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            _forget_notes(inner, words)


@asynccontextmanager
async def telling_left(
    screen: Screen, journal: Journal, resumed: str | None, left: list[LeftOpen], go_on: GoOn
) -> AsyncIterator[None]:
    """Says at once which of our trades are still open, and if an error, a signal or the end of
    standard input ends the block, puts into `left` those that were begun or resumed in it.

    resumed: the beginning of a custody's id. Raises JournalCorrupt. Cancelled: `left` is filled.
    """
    from psymm.session.left import open_custodies
    from psymm.transcript.opening import TRADER

    before = await open_custodies(journal, TRADER)
    tell(screen, "still-open", before, go_on)
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
                    tell(screen, "left-open", [one], go_on)
        raise


def tell(screen: Screen, event: str, custodies: list[LeftOpen], go_on: GoOn) -> None:
    """One event for each custody, the newest, and one that says how many more there are."""
    for one in custodies[-MOST:]:
        fields = one.fields() | {"goOnWith": go_on(one.custody)}
        screen.event(event, said_of(one, go_on), **fields)
    more = len(custodies) - MOST
    if more > 0:
        screen.event(event, f"and {more} more: psymm transcript list shows all", more=more)
