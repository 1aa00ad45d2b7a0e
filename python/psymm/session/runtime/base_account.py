"""Restores the account of a checkpoint in force from a journal's bytes."""

from __future__ import annotations

from psymm.errors import JournalCorrupt
from psymm.journal.base_snapshot import first_checkpoint
from psymm.journal.reader import JournalReader
from psymm.rulebook import Account, AccountRefused, restore
from psymm.terms import Terms
from psymm.transcript.checkpoint import Point


def account_at(
    journal: JournalReader, custody: bytes, terms: Terms, point: Point, document: bytes
) -> Account:
    """The account of a journal's checkpoint. Raises JournalCorrupt if the document is not the one
    that both lanes signed at that point."""
    try:
        account = restore(document, terms, point.account_hash)
    except AccountRefused as bad:
        raise JournalCorrupt(
            f"the account of the checkpoint does not stand: {bad}",
            journal=journal.path,
            custody=custody,
        ) from None
    if account.seqs != point.seqs:
        raise JournalCorrupt(
            "the account is not of the frames that its checkpoint names",
            journal=journal.path,
            custody=custody,
        )
    return account


async def first_account(journal: JournalReader, custody: bytes, terms: Terms) -> Account | None:
    """The account with which a custody's frames in the journal begin; None if they begin with the
    very first frame.

    Raises JournalCorrupt. Cancelled: raises Cancelled; nothing changed.
    """
    base = await first_checkpoint(journal, custody)
    return None if base is None else account_at(journal, custody, terms, *base)
