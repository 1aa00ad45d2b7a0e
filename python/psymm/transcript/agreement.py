"""The agreement of a custody: what both parties agreed on before their first frame.

custodyId = H5(key(trader), key(solver), terms.hi, terms.lo, salt); key(P) = H4 of the 128-bit
halves of x and y (design section 5).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from psymm._core import (
    FIELD_MODULUS,
    address_of,
    domain_separator,
    keccak256,
    poseidon2_hash,
)
from psymm.errors import BadOpening

TRADER: Final = 0
SOLVER: Final = 1


@dataclass(frozen=True)
class CustodyAgreement:
    """A custody's parties and terms.

    Raises BadOpening if a part has the wrong length or is not a field element.

    Attributes:
        chain_id: of the chain with the contract.
        contract: the checksummed address of PSymm.
        trader: the wallet's public key, 64 bytes.
        solver: the same for the solver.
        terms: the document's bytes.
        salt: 32 bytes, a field element.
    """

    chain_id: int
    contract: str
    trader: bytes
    solver: bytes
    terms: bytes = field(repr=False)
    salt: bytes = field(repr=False)

    def __post_init__(self) -> None:
        for name, key in (("trader", self.trader), ("solver", self.solver)):
            if len(key) != 64:
                raise BadOpening(f"the {name}'s public key is not 64 bytes", length=len(key))
        if len(self.salt) != 32 or int.from_bytes(self.salt, "big") >= FIELD_MODULUS:
            raise BadOpening("the salt is not a field element of 32 bytes")
        if len(self.contract) != 42 or not self.contract.startswith("0x"):
            raise BadOpening("the contract is not an address", contract=self.contract)
        if not 0 < self.chain_id < 1 << 64:
            raise BadOpening("the chain id is out of range", chain_id=self.chain_id)

    @cached_property
    def terms_hash(self) -> bytes:
        return keccak256(self.terms)

    @cached_property
    def custody(self) -> bytes:
        """The custody's id."""
        return custody_id(self.trader, self.solver, self.terms_hash, self.salt)

    @cached_property
    def domain(self) -> bytes:
        """The EIP-712 domain separator under which its frames are signed."""
        return domain_separator(self.chain_id, bytes.fromhex(self.contract[2:]))

    def wallet_key(self, lane: int) -> bytes:
        """The 64-byte wallet key of a lane."""
        return self.solver if lane else self.trader

    def wallet_address(self, lane: int) -> str:
        return address_of(self.wallet_key(lane))


def halves(word: bytes) -> tuple[bytes, bytes]:
    """The two 128-bit halves of 32 bytes, high first, each as a field element."""
    # The field is smaller than 2^256, so a whole word could stand for two values.
    return bytes(16) + word[:16], bytes(16) + word[16:]


def key_hash(public_key: bytes) -> bytes:
    """key(P) of a 64-byte public key."""
    return poseidon2_hash([*halves(public_key[:32]), *halves(public_key[32:])])


def custody_id(trader: bytes, solver: bytes, terms_hash: bytes, salt: bytes) -> bytes:
    """H5 of both keys' hashes, the halves of the terms' hash, and the salt."""
    return poseidon2_hash([key_hash(trader), key_hash(solver), *halves(terms_hash), salt])


def salt_of(trader_nonce: bytes, solver_nonce: bytes) -> bytes:
    """salt = H2(trader's nonce, solver's nonce)."""
    return poseidon2_hash([trader_nonce, solver_nonce])


@dataclass(frozen=True, slots=True)
class JournalledOpening:
    """A note's opening, ours or the peer's. `lane` is the lane that listed the note."""

    commitment: bytes
    lane: int
    token: str
    amount: int
    blinding: bytes = field(repr=False)
