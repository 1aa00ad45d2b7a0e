"""Reporting what a command leaves open: which custodies, what is in them, how to resume.

The resume command is a whole command line with this command's options: the home, the token, the
senders. It works when pasted into the same shell.
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
    from psymm.session.runtime.left import LeftOpen

MOST: Final = 20
"""The most custodies that are reported one by one."""


ResumeCommand = Callable[[bytes], str]
"""The command line that resumes a custody."""


def said_of(one: LeftOpen, resume_command: ResumeCommand) -> str:
    """A custody in words, with the command that resumes it."""
    return str(one).replace(one.command, f"`{resume_command(one.custody)}`")


@contextmanager
def note_left_open(resume_command: ResumeCommand) -> Iterator[list[LeftOpen]]:
    """Add a note for each custody in the yielded list to the error that ends the block. Use it
    around `trio.run`."""
    left: list[LeftOpen] = []
    try:
        yield left
    except BaseException as error:
        # Repeating the typed command would open another custody, so that advice is removed.
        if left and _forget_notes(error, LATER):
            error.add_note("Nothing is lost: everything signed is kept. Once the chain answers:")
        for one in left:
            # The session's own note lacks the home and the options.
            _forget_notes(error, one.custody.hex())
            error.add_note(said_of(one, resume_command))
        raise


def _forget_notes(error: BaseException, words: str) -> bool:
    """Remove the notes that contain these words. True if there were any."""
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
async def report_open_on_failure(
    screen: Screen,
    journal: Path,
    resumed: str | None,
    left: list[LeftOpen],
    resume_command: ResumeCommand,
) -> AsyncIterator[Callable[[], None]]:
    """If the block ends before a trade can start, report the open trades from the journal's file
    alone, and put the one to be resumed into `left`. The block calls the yielded function once
    everything is open.

    Raises what ends the block. Cancelled: reports the same.
    """
    opened = False

    def all_is_open() -> None:
        nonlocal opened
        opened = True

    try:
        yield all_is_open
    except BaseException:
        if not opened:
            # The block often ends by a cancellation, and the report must be read all the same.
            with trio.CancelScope(shield=True):
                kept = await _kept(journal)
            prefix = None if resumed is None else resumed.lower().removeprefix("0x")
            meant = [one for one in kept if prefix and one.custody.hex().startswith(prefix)]
            left += meant
            report(screen, "still-open", [one for one in kept if one not in meant], resume_command)
            if screen.as_json:
                report(screen, "left-open", meant, resume_command)
        raise


async def _kept(journal: Path) -> list[LeftOpen]:
    """Our trades that have not ended; none if the file cannot be read, because the error that ended
    the command matters more."""
    from psymm.journal.reader import open_journal_reader
    from psymm.session.runtime.left import open_custodies
    from psymm.transcript.agreement import TRADER

    try:
        async with open_journal_reader(journal) as reader:
            return await open_custodies(reader, TRADER)
    except (JournalError, StorageError):
        return []


@asynccontextmanager
async def collect_left_open(
    screen: Screen,
    journal: Journal,
    resumed: str | None,
    left: list[LeftOpen],
    resume_command: ResumeCommand,
) -> AsyncIterator[None]:
    """Report at once which of our trades are open. If an error, a signal or the end of standard
    input ends the block, put those that it opened or resumed into `left`.

    resumed: the start of a custody's id. Raises JournalCorrupt. Cancelled: `left` is filled.
    """
    from psymm.session.runtime.left import open_custodies
    from psymm.transcript.agreement import TRADER

    before = await open_custodies(journal, TRADER)
    report(screen, "still-open", before, resume_command)
    known = {one.custody for one in before}
    prefix = None if resumed is None else resumed.lower().removeprefix("0x")
    try:
        yield
    except BaseException:
        with trio.CancelScope(shield=True):
            try:
                now = await open_custodies(journal, TRADER)
            except (JournalError, StorageError):
                now = before  # the error that ended the block reports the journal's problem
        for one in now:
            if one.custody not in known or (prefix and one.custody.hex().startswith(prefix)):
                left.append(one)
                if screen.as_json:
                    report(screen, "left-open", [one], resume_command)
        raise


def report(
    screen: Screen, event: str, custodies: list[LeftOpen], resume_command: ResumeCommand
) -> None:
    """One event for each of the newest custodies, and one with the number of all others."""
    for one in custodies[-MOST:]:
        fields = one.fields() | {"resumeWith": resume_command(one.custody)}
        screen.event(event, said_of(one, resume_command), **fields)
    more = len(custodies) - MOST
    if more > 0:
        screen.event(event, f"and {more} more: psymm transcript list shows all", more=more)
