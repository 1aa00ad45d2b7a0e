"""Reading addresses that callers and nodes wrote."""

from __future__ import annotations

from psymm.addresses import ZERO_ADDRESS, checksum
from psymm.chain.errors import CallInvalid


def checksummed(field: str, address: object) -> str:
    """The address in checksum form.  Raises CallInvalid if it is not an address."""
    if not isinstance(address, str) or len(address) != 42 or not address.startswith("0x"):
        raise CallInvalid(field, "an address is 0x and 40 hexadecimal digits")
    try:
        right = checksum(bytes.fromhex(address[2:]))
    except ValueError:
        raise CallInvalid(field, "an address is 0x and 40 hexadecimal digits") from None
    mixed = address[2:] not in (address[2:].lower(), address[2:].upper())
    if mixed and address != right:
        raise CallInvalid(field, f"the checksum of {address} is wrong; it may be mistyped")
    return right


__all__ = ["ZERO_ADDRESS", "checksummed"]
