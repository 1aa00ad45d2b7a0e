"""Verifying the other party's collateral: its note openings against the chain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from psymm.chain.sync import TreeSync
from psymm.custody.errors import NoteInvalid
from psymm.custody.notes import Custody, Note, NoteOpening
from psymm.errors import (
    CollateralForeign,
    CollateralMissing,
    CollateralNotListed,
    CollateralSpent,
    CollateralTooSmall,
    CollateralWrongToken,
)


async def verify_opening(
    opening: NoteOpening, custody: Custody, token: str, tree: TreeSync
) -> Note:
    """The note of an opening, if it is valid collateral in that custody and token.

    Raises CollateralWrongToken, CollateralForeign (the opening does not give this commitment in
    this custody), CollateralMissing (not in the tree at `tree`'s depth), CollateralSpent (its
    nullifier is spent, even in the newest block only), and what reading the chain raises.
    """
    if opening.token != token:
        raise CollateralWrongToken(
            commitment=opening.commitment, expected=token, found=opening.token
        )
    try:
        note = opening.note(custody)
    except NoteInvalid as bad:
        raise CollateralForeign(
            commitment=opening.commitment, custody=custody.id, reason=bad.reason
        ) from None
    await tree.advance()
    leaf = tree.leaf(note.commitment)
    if leaf is None:
        raise CollateralMissing(
            commitment=note.commitment, looked_until_block=tree.block, depth=tree.depth
        )
    # The depth protects against notes that a reorganisation removes. A spent nullifier counts at
    # any depth.
    _, just_spent = await tree.newest()
    if tree.spent_block(note.nullifier) is not None or note.nullifier in just_spent:
        raise CollateralSpent(commitment=note.commitment, nullifier=note.nullifier)
    return note


async def verify_collateral(
    openings: Sequence[NoteOpening],
    listed: Iterable[tuple[bytes, bytes]],
    custody: Custody,
    token: str,
    minimum: int,
    tree: TreeSync,
) -> list[Note]:
    """The notes of a party's deposit proof.

    Args:
        listed: (commitment, nullifier) of each note in its signed frames; the openings must be of
            exactly these.
        minimum: token units.

    Raises CollateralNotListed, CollateralTooSmall and what `verify_opening` raises.
    """
    nullifiers = dict(listed)
    # One note shown twice would count twice, and the account knows only the listed ones.
    shown = [opening.commitment for opening in openings]
    if len(set(shown)) != len(shown) or set(shown) != set(nullifiers):
        raise CollateralNotListed(listed=len(nullifiers), shown=len(set(shown)))
    notes: list[Note] = []
    for opening in openings:
        note = await verify_opening(opening, custody, token, tree)
        # The rulebook finds a settlement's inputs by the listed nullifiers. With a false one no
        # settlement could pass.
        if note.nullifier != nullifiers[note.commitment]:
            raise CollateralForeign(
                "the listed nullifier is not the note's", commitment=note.commitment
            )
        notes.append(note)
    total = sum(note.amount for note in notes)
    if total < minimum:
        raise CollateralTooSmall(found=total, minimum=minimum)
    return notes
