"""What a session knows of the chain: facts, citations of them, and where a settlement was mined."""

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
    """Where a settlement was mined, as deep as the terms ask. transaction: its hash."""

    block: int
    transaction: bytes


@dataclass(frozen=True, slots=True)
class Fact:
    """What one transaction did to a custody's notes, as deep as the terms ask.

    denied: a frame, (lane, seq), that cites of the transaction what our chain did not have when it
    came; then block is how far our chain went, and nothing was spent or inserted.
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
        """Raises ValueError unless the text is in the one form that `to_json` gives."""
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
"""Blocks above our chain's head that the peer's own head may be ahead of ours."""


@dataclass(frozen=True, slots=True)
class Citation:
    """A frame that cites something of the chain."""

    lane: int
    seq: int
    said: ChainFact


@dataclass(frozen=True, slots=True)
class ChainView:
    """What our own chain says of a citation. head: its newest block. deep: the newest that is as
    deep as the terms ask; up to there the view is complete. fact: what the transaction did in
    which the thing cited happened, if it has happened that deep."""

    head: int
    deep: int
    fact: Fact | None

    def settles(self, said: ChainFact) -> bool | None:
        """Whether what is cited is true; None while that remains to be seen."""
        if self.fact is not None:
            return self.fact.transaction == said.transaction_hash
        if self.deep < said.block_number <= self.head + CITED_AHEAD:
            return None
        return False


def custody_of(agreement: CustodyAgreement) -> Custody:
    """The custody that an opening is of, as custody's notes name it."""
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
