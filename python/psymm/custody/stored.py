"""What a wallet's store keeps: notes and moves as typed records, and their states.

A note is
    expected   not in the tree: the output of a move that is under way, or that failed
    unspent    in the tree, its nullifier is not spent, no move under way spends it
    busy       in the tree, and a move under way spends it
    spent      its nullifier is spent

A move is
    planned    nobody outside has seen it; it fails when the file is opened again
    signed     the other party holds our signature: it can happen until its deadline
    sent       handed to a relayer or to the chain: it can happen until its deadline
    done       its outputs are in the tree
    failed     it can no longer happen
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psymm.chain.calls import Call, call_from_json
from psymm.chain.errors import CallInvalid
from psymm.chain.transactions import Sent
from psymm.custody.errors import StoreCorrupt
from psymm.custody.notes import Note

EXPECTED, UNSPENT, BUSY, SPENT = "expected", "unspent", "busy", "spent"
PLANNED, SIGNED, SENT, DONE, FAILED = "planned", "signed", "sent", "done", "failed"


@dataclass(frozen=True, slots=True)
class StoredNote:
    """A note in the file.

    Attributes:
        status: EXPECTED, UNSPENT, BUSY or SPENT.
        counter: None for a counterparty's note.
        position: of its leaf; None while it is not in the tree.
        block: in which it was inserted.
        spent_block: in which it was spent.
    """

    note: Note
    status: str
    counter: int | None
    position: int | None
    block: int | None
    spent_block: int | None

    @property
    def mine(self) -> bool:
        return self.counter is not None


@dataclass(frozen=True, slots=True)
class Move:
    """A move in the file.

    Attributes:
        kind: "approve", "deposit", "ctc" or "cta".
        purpose: "approve", "deposit", "fund", "merge", "settle" or "withdraw".
        status: PLANNED, SIGNED, SENT, DONE or FAILED.  An approval makes no note, so only its
            receipt ends it.
        deadline: seconds since the epoch; None for a deposit or approval.
        details: public values that are enough to send it again: a call's JSON, or a transaction's
            data.
        versions: the transactions that our own account signed for it, oldest first: one call and
            one nonce at rising fees.  Empty if it signed none.
        mined: the hash of the mined version, if it was recorded.
        reason: why it failed, or why it waits.
        reported: whether its end was reported to the wallet's owner.
        inputs: nullifiers.
        outputs: commitments.
    """

    id: int
    kind: str
    purpose: str
    status: str
    deadline: int | None
    details: dict[str, Any]
    versions: tuple[Sent, ...]
    mined: str | None
    reason: str
    reported: bool
    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]

    @property
    def alive(self) -> bool:
        return self.status in (PLANNED, SIGNED, SENT)

    @property
    def sent(self) -> Sent | None:
        """The newest version."""
        return self.versions[-1] if self.versions else None

    @property
    def tx_hash(self) -> str | None:
        """The hash of the mined version, or of the newest if none is known to be mined."""
        return self.mined or (None if self.sent is None else self.sent.tx_hash)

    @property
    def call(self) -> Call:
        """Raises StoreCorrupt if the file holds no valid call for this move."""
        try:
            return call_from_json(self.kind, self.details)
        except CallInvalid as bad:
            raise StoreCorrupt(reason=str(bad)) from None
