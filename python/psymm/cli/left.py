"""What a command leaves open is its last word: which custodies, what lies there, how to go on.

How to go on is a whole command line, with the options that this command was given: the home, the
token, who may send. It works when it is pasted into the shell that the command was typed into.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from psymm.cli.output import Screen
from psymm.cli.typed import LATER
from psymm.errors import JournalError
from psymm.storage import StorageError

if TYPE_CHECKING:
    from psymm.journal.writer import Journal
    from psymm.session.left import LeftOpen

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
        # The command that was typed may begin another one.
        if left and _forget_notes(error, LATER):
            error.add_note("Nothing is lost: what was signed is kept. Once the chain answers:")
        for one in left:
            # The session's own note knows neither the home nor the options.
            _forget_notes(error, one.custody.hex())
            error.add_note(said_of(one, go_on))
        raise


def _forget_notes(error: BaseException, words: str) -> bool:
    """Takes the notes away that hold these words; whether there were any."""
    notes = getattr(error, "__notes__", [])
    kept = [note for note in notes if words not in note]
    found = len(kept) < len(notes)
    if found:
        error.__notes__ = kept
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            found |= _forget_notes(inner, words)
    return found


@asynccontextmanager
async def telling_kept(
    screen: Screen, journal: Path, resumed: str | None, left: list[LeftOpen], go_on: GoOn
) -> AsyncIterator[Callable[[], None]]:
    """Where an error or a signal ends the block before all is open that a trade needs: says which
    of our trades are open, by the journal's file alone, and puts the one that was to be resumed
    into `left`. The block calls what it gets once all is open.

    Raises what ends the block. Cancelled: the same is said.
    """
    opened = False

    def all_is_open() -> None:
        nonlocal opened
        opened = True

    try:
        yield all_is_open
    except BaseException:
        if not opened:
            with trio.CancelScope(shield=True):
                kept = await _kept(journal)
            prefix = None if resumed is None else resumed.lower().removeprefix("0x")
            meant = [one for one in kept if prefix and one.custody.hex().startswith(prefix)]
            left += meant
            tell(screen, "still-open", [one for one in kept if one not in meant], go_on)
            if screen.as_json:
                tell(screen, "left-open", meant, go_on)
        raise


async def _kept(journal: Path) -> list[LeftOpen]:
    """Our trades that have not ended; none where the file cannot be read, which what ended the
    command is graver than."""
    from psymm.journal.reader import open_journal_reader
    from psymm.session.left import open_custodies
    from psymm.transcript.agreement import TRADER

    try:
        async with open_journal_reader(journal) as reader:
            return await open_custodies(reader, TRADER)
    except (JournalError, StorageError):
        return []


@asynccontextmanager
async def telling_left(
    screen: Screen, journal: Journal, resumed: str | None, left: list[LeftOpen], go_on: GoOn
) -> AsyncIterator[None]:
    """Says at once which of our trades are still open, and if an error, a signal or the end of
    standard input ends the block, puts into `left` those that were begun or resumed in it.

    resumed: the beginning of a custody's id. Raises JournalCorrupt. Cancelled: `left` is filled.
    """
    from psymm.session.left import open_custodies
    from psymm.transcript.agreement import TRADER

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
