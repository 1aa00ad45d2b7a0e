"""Verifying the other side's collateral: what it shows of a note against what the chain shows."""

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
    """The note behind an opening, if it is good collateral in that custody and token.

    Raises CollateralWrongToken, CollateralForeign (the commitment is not that of these values in
    this custody), CollateralMissing (not in the tree at the depth that `tree` asks for),
    CollateralSpent (its nullifier is spent, in the newest block already), and what reading the
    chain raises.
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
    # Depth protects against notes that vanish; a spending counts as soon as it is seen at all.
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
    """The notes behind a party's deposit proof.

    listed: (commitment, nullifier) of the notes that its signed frames list; the openings must
    be of exactly these.  minimum: token units.  Raises CollateralNotListed, CollateralTooSmall
    and what `verify_opening` raises.
    """
    promised = dict(listed)
    shown = [opening.commitment for opening in openings]
    if len(set(shown)) != len(shown) or set(shown) != set(promised):
        raise CollateralNotListed(listed=len(promised), shown=len(set(shown)))
    notes: list[Note] = []
    for opening in openings:
        note = await verify_opening(opening, custody, token, tree)
        if note.nullifier != promised[note.commitment]:
            raise CollateralForeign(
                "the nullifier that was listed is not the note's", commitment=note.commitment
            )
        notes.append(note)
    total = sum(note.amount for note in notes)
    if total < minimum:
        raise CollateralTooSmall(found=total, minimum=minimum)
    return notes
