"""What a session knows about the chain: facts, citations of facts, and a mined settlement."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from psymm.custody.notes import Custody, Note
from psymm.messages import ChainFact
from psymm.strict_json import loads
from psymm.transcript.agreement import CustodyAgreement


@dataclass(frozen=True, slots=True)
class Mined:
    """Where a settlement was mined, with the confirmations that the terms require."""

    block: int
    transaction: bytes
    """Its hash."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What one transaction did to a custody's notes, with the confirmations of the terms.

    Attributes:
        block: the block of the transaction; for a denied citation, our chain's newest block then.
        transaction: its hash.
        spent: the nullifiers that it spent.
        inserted: the commitments that it inserted.
        denied: (lane, seq) of a frame that cites this transaction for what our chain did not have.
            Then nothing was spent or inserted.
    """

    block: int
    transaction: bytes
    spent: tuple[bytes, ...]
    inserted: tuple[bytes, ...]
    denied: tuple[int, int] | None = None

    def to_json(self) -> str:
        said: dict[str, object] = {
            "block": str(self.block),
            "transaction": "0x" + self.transaction.hex(),
            "spent": ["0x" + one.hex() for one in self.spent],
            "inserted": ["0x" + one.hex() for one in self.inserted],
        }
        if self.denied is not None:
            said["denied"] = [str(number) for number in self.denied]
        return json.dumps(said, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Fact:
        """Parse what `to_json` writes. Raises ValueError for any other form."""
        raw = loads(text)
        try:
            lane, seq = (int(one) for one in raw.get("denied", ("0", "0")))
            fact = cls(
                int(raw["block"]),
                bytes.fromhex(raw["transaction"][2:]),
                tuple(bytes.fromhex(one[2:]) for one in raw["spent"]),
                tuple(bytes.fromhex(one[2:]) for one in raw["inserted"]),
                (lane, seq) if "denied" in raw else None,
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as bad:
            raise ValueError(f"not a chain fact: {bad}") from None
        if fact.to_json() != text:
            raise ValueError("not a chain fact in its one form")
        return fact


CITED_AHEAD: Final = 8
"""How many blocks the peer's chain may be ahead of ours (`spec.md` 65)."""


@dataclass(frozen=True, slots=True)
class Citation:
    """A frame that cites a fact of the chain."""

    lane: int
    seq: int
    said: ChainFact


@dataclass(frozen=True, slots=True)
class ChainView:
    """What our own chain says about a citation.

    Attributes:
        head: its newest block.
        deep: its newest block with the confirmations of the terms. The view is complete up to here.
        fact: the transaction in which the cited event happened, if that is as deep.
    """

    head: int
    deep: int
    fact: Fact | None

    def settles(self, said: ChainFact) -> bool | None:
        """Whether the citation is true; None while our chain cannot say yet."""
        # Another block number is no lie: a reorganisation moves transactions (`spec.md` 16).
        if self.fact is not None:
            return self.fact.transaction == said.transaction_hash
        # Our chain has not confirmed that block yet, and an honest peer may be this far ahead.
        if self.deep < said.block_number <= self.head + CITED_AHEAD:
            return None
        return False


def custody_of(agreement: CustodyAgreement) -> Custody:
    """The custody of an agreement, as its notes name it."""
    return Custody(agreement.trader, agreement.solver, agreement.terms_hash, agreement.salt)


__all__ = [
    "CITED_AHEAD",
    "ChainView",
    "Citation",
    "Custody",
    "Fact",
    "Mined",
    "Note",
    "custody_of",
]
