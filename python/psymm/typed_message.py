"""One EIP-712 struct under the domain `pSymm`: what wallets and session keys sign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from psymm._core import domain_separator as core_domain_separator
from psymm._core import keccak256

Scalar: TypeAlias = int | str | bytes


@dataclass(frozen=True, slots=True)
class TypedMessage:
    """One EIP-712 struct under the domain `pSymm`, version 1.

    Attributes:
        fields: (name, type) in order; types: bytes32, address, string, bytes, uintN.
        values: by name: 32 bytes for bytes32, a checksummed str for address, an int for uintN.
    """

    chain_id: int
    contract: str
    primary_type: str
    fields: Sequence[tuple[str, str]]
    values: Mapping[str, Scalar] = field(repr=False)

    @property
    def type_hash(self) -> bytes:
        members = ",".join(f"{kind} {name}" for name, kind in self.fields)
        return keccak256(f"{self.primary_type}({members})".encode())

    @property
    def domain(self) -> bytes:
        return core_domain_separator(self.chain_id, bytes.fromhex(self.contract[2:]))

    def digest(self) -> bytes:
        """The 32 bytes that are signed: keccak256(0x1901 ‖ domain ‖ hashStruct)."""
        struct = self.type_hash + b"".join(
            _word(kind, self.values[name]) for name, kind in self.fields
        )
        return keccak256(b"\x19\x01" + self.domain + keccak256(struct))

    def full_message(self) -> dict[str, object]:
        """The JSON object that `eth_signTypedData_v4` and eth-account take. Integers are decimal
        strings."""
        return {
            "types": {
                "EIP712Domain": [
                    {"name": "name", "type": "string"},
                    {"name": "version", "type": "string"},
                    {"name": "chainId", "type": "uint256"},
                    {"name": "verifyingContract", "type": "address"},
                ],
                self.primary_type: [{"name": name, "type": kind} for name, kind in self.fields],
            },
            "primaryType": self.primary_type,
            "domain": {
                "name": "pSymm",
                "version": "1",
                "chainId": self.chain_id,
                "verifyingContract": self.contract,
            },
            "message": {name: _for_json(value) for name, value in self.values.items()},
        }


def _for_json(value: Scalar) -> str:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    # A browser's JSON numbers are exact only to 2^53, less than a time in nanoseconds.
    return str(value)


def _word(kind: str, value: Scalar) -> bytes:
    if kind == "bytes32":
        if not isinstance(value, bytes) or len(value) != 32:
            raise ValueError("a bytes32 is 32 bytes")
        return value
    if kind == "address":
        if not isinstance(value, str) or len(value) != 42:
            raise ValueError("an address is a 0x string of 20 bytes")
        return bytes(12) + bytes.fromhex(value[2:])
    if kind.startswith("uint"):
        if not isinstance(value, int) or not 0 <= value < 1 << int(kind[4:]):
            raise ValueError(f"not a {kind}: {value!r}")
        return value.to_bytes(32, "big")
    if kind == "string" and isinstance(value, str):
        return keccak256(value.encode())
    if kind == "bytes" and isinstance(value, bytes):
        return keccak256(value)
    raise ValueError(f"no EIP-712 encoding here for {kind}")
