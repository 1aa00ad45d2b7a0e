"""Custodies and notes, and the values computed from them: section 5 of the design.

    key(P)     = H4(x.hi, x.lo, y.hi, y.lo)             128-bit halves of the public key
    custodyId  = H5(key(trader), key(solver), terms.hi, terms.lo, salt)
    inner      = H2(custodyId, blinding)
    commitment = H3(inner, token, amount)               amount < 2^128
    nullifier  = H3(commitment, blinding, 1)

H_n is the core's Poseidon2.  All values are bytes of 32, big-endian, below the field's modulus;
the terms' hash is a keccak256 and enters in two halves.  Reprs hide blindings and salts.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from psymm._core import FIELD_MODULUS, address_of, poseidon2_hash
from psymm.chain.addresses import checksummed
from psymm.chain.errors import CallInvalid
from psymm.custody.errors import NoteInvalid
from psymm.transcript.agreement import custody_id, key_hash

ZERO: Final = bytes(32)
_ONE: Final = (1).to_bytes(32, "big")
MAX_AMOUNT: Final = (1 << 128) - 1
TRADER, SOLVER = 0, 1


@dataclass(frozen=True)
class Custody:
    """Who may spend: two public keys (64 bytes), the terms' hash and a salt.

    A sole custody is one key twice, terms and salt zero.
    """

    trader: bytes
    solver: bytes
    terms_hash: bytes = ZERO
    salt: bytes = field(default=ZERO, repr=False)

    def __post_init__(self) -> None:
        for name, key in (("trader", self.trader), ("solver", self.solver)):
            if len(key) != 64:
                raise NoteInvalid(f"{name}'s key", "must be 64 bytes, x then y")
            try:
                address_of(key)
            except ValueError:
                raise NoteInvalid(f"{name}'s key", "is not a point of the curve") from None
        if len(self.terms_hash) != 32:
            raise NoteInvalid("terms' hash", "must be 32 bytes")
        field_element("salt", self.salt)
        if self.is_sole:
            if self.terms_hash != ZERO or self.salt != ZERO:
                raise NoteInvalid("custody", "one key twice takes no terms and no salt")
        # A court opens no case of a custody of two without terms (`spec.md` 17).
        elif self.terms_hash == ZERO:
            raise NoteInvalid("custody", "two keys need terms")

    @property
    def is_sole(self) -> bool:
        return self.trader == self.solver

    @cached_property
    def id(self) -> bytes:
        return custody_id(self.trader, self.solver, self.terms_hash, self.salt)

    def lane_of(self, public_key: bytes) -> int:
        """0 for the trader's key, 1 for the solver's.  Raises NoteInvalid for another."""
        if public_key == self.trader:
            return TRADER
        if public_key == self.solver:
            return SOLVER
        raise NoteInvalid("key", "belongs to neither party of this custody")

    def other(self, public_key: bytes) -> bytes:
        return self.solver if self.lane_of(public_key) == TRADER else self.trader


def sole_custody(public_key: bytes) -> Custody:
    """The custody of one owner, who spends alone."""
    return Custody(public_key, public_key)


@dataclass(frozen=True)
class Note:
    """An amount of one token bound to a custody.  This is its full opening; keep it private.

    Attributes:
        token: checksummed address.
        amount: token units, below 2^128.
    """

    custody: Custody
    token: str
    amount: int
    blinding: bytes = field(repr=False)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "token", checksummed("token", self.token))
        except CallInvalid as bad:
            raise NoteInvalid("token", bad.reason) from None
        if not 0 <= self.amount <= MAX_AMOUNT:
            raise NoteInvalid("amount", "must be at least 0 and below 2^128")
        field_element("blinding", self.blinding)

    @cached_property
    def inner(self) -> bytes:
        """What a payer needs in order to pay into this note."""
        return inner(self.custody.id, self.blinding)

    @cached_property
    def commitment(self) -> bytes:
        return commitment(self.inner, self.token, self.amount)

    @cached_property
    def nullifier(self) -> bytes:
        return nullifier(self.commitment, self.blinding)

    @property
    def opening(self) -> NoteOpening:
        return NoteOpening(self.commitment, self.token, self.amount, self.blinding)


@dataclass(frozen=True, slots=True)
class NoteOpening:
    """What one party shows the other about a note in their common custody (UOP)."""

    commitment: bytes
    token: str
    amount: int
    blinding: bytes = field(repr=False)

    def note(self, custody: Custody) -> Note:
        """The note, if it is one of that custody.  Raises NoteInvalid if the commitment differs."""
        note = Note(custody, self.token, self.amount, self.blinding)
        if note.commitment != self.commitment:
            raise NoteInvalid("commitment", "does not match this opening in this custody")
        return note

    def to_json(self) -> dict[str, str]:
        return {
            "Commitment": "0x" + self.commitment.hex(),
            "Token": self.token.lower(),
            "Amount": str(self.amount),
            "Blinding": "0x" + self.blinding.hex(),
        }

    @classmethod
    def from_typed(cls, given: Mapping[str, Any]) -> NoteOpening:
        """From a parsed message's group: Commitment and Blinding bytes of 32, Token bytes of 20
        or an address, Amount an int.  Raises NoteInvalid."""
        try:
            token, amount = given["Token"], given["Amount"]
            found, blinding = given["Commitment"], given["Blinding"]
        except KeyError as missing:
            raise NoteInvalid(str(missing.args[0]), "is missing") from None
        if isinstance(token, bytes):
            token = "0x" + token.hex()
        try:
            token = checksummed("token", token)
        except CallInvalid as bad:
            raise NoteInvalid("Token", bad.reason) from None
        if not isinstance(amount, int) or isinstance(amount, bool):
            raise NoteInvalid("Amount", "must be a whole number")
        field_element("Commitment", found)
        field_element("Blinding", blinding)
        return cls(found, token, amount, blinding)


def inner(custody_id: bytes, blinding: bytes) -> bytes:
    return poseidon2_hash([custody_id, blinding])


def commitment(inner: bytes, token: str, amount: int) -> bytes:
    return poseidon2_hash([inner, address_field(token), amount.to_bytes(32, "big")])


def nullifier(commitment: bytes, blinding: bytes) -> bytes:
    return poseidon2_hash([commitment, blinding, _ONE])


def address_field(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address[2:])


def field_element(name: str, value: object) -> bytes:
    """The value, if it is 32 bytes below the modulus.  Raises NoteInvalid, without the value."""
    if not isinstance(value, bytes) or len(value) != 32:
        raise NoteInvalid(name, "must be 32 bytes")
    if int.from_bytes(value, "big") >= FIELD_MODULUS:
        raise NoteInvalid(name, "is not below the field's modulus")
    return value


def random_blinding() -> bytes:
    """A uniform field element, for notes that nobody needs to find again."""
    return (secrets.randbits(512) % FIELD_MODULUS).to_bytes(32, "big")


def empty_note(like: Note, blinding: bytes | None = None) -> Note:
    """A note of amount 0 in the same custody and token: the second input of a move with one
    note."""
    return Note(like.custody, like.token, 0, blinding or random_blinding())


__all__ = [
    "SOLVER",
    "TRADER",
    "ZERO",
    "Custody",
    "Note",
    "NoteOpening",
    "address_field",
    "commitment",
    "empty_note",
    "field_element",
    "inner",
    "key_hash",
    "nullifier",
    "random_blinding",
    "sole_custody",
]
