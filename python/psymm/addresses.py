"""Checksummed addresses (EIP-55)."""

from __future__ import annotations

from typing import Final

from psymm._core import keccak256

ZERO_ADDRESS: Final = "0x" + "00" * 20


def checksum(address: bytes) -> str:
    """The checksummed form of 20 bytes, whose capitals reveal most typing errors."""
    digits = address.hex()
    digest = keccak256(digits.encode()).hex()
    pairs = zip(digits, digest, strict=False)
    return "0x" + "".join(d.upper() if int(h, 16) >= 8 else d for d, h in pairs)
