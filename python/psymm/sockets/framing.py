"""The one WebSocket frame that nearly all traffic is: a whole binary message (RFC 6455, 5.2).

The library frames and reads everything else. It takes some fifty calls for any frame; for this one
a few comparisons are enough.
"""

from __future__ import annotations

import os
from typing import Final

LONGEST: Final = 0xFFFF
"""Bytes of payload. Longer frames have another header."""
_BINARY: Final = 0x82
"""The first byte: binary, final, without extensions."""


def binary_at(data: bytes, at: int, *, masked: bool) -> tuple[int, int] | None:
    """Where the payload of the frame at `at` begins and ends, if it is a binary message in one
    frame of at most 65,535 bytes, and whole. None for anything else, and for a header that breaks
    the standard (RFC 6455, 5.2): the library knows what to say of that.

    Args:
        masked: Whether the sender must mask, as a client must.
    """
    end = len(data)
    if data[at] != _BINARY or end - at < 4:
        return None
    size = data[at + 1] - (0x80 if masked else 0)
    begins = at + (6 if masked else 2)
    if size == 126:
        size, begins = data[at + 2] << 8 | data[at + 3], begins + 2
        if size < 126:
            return None
    elif not 0 < size < 126:
        return None
    return (begins, begins + size) if begins + size <= end else None


def masked(payload: bytes, key: bytes) -> bytes:
    """A payload with its mask put on or taken off (RFC 6455, 5.3). key: four bytes."""
    size = len(payload)
    repeated = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(size)


def binary_frame(payload: bytes, *, client: bool) -> bytes:
    """A binary message in one frame of at most 65,535 bytes, as `binary_at` reads it."""
    size = len(payload)
    bit = 0x80 if client else 0
    if size < 126:
        head = bytes((_BINARY, bit | size))
    else:
        head = bytes((_BINARY, bit | 126, size >> 8, size & 0xFF))
    if not client:
        return head + payload
    key = os.urandom(4)
    return head + key + masked(payload, key)
