"""Converting signatures of devices, browsers and key services into the form used here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from psymm._core import address_of, recover
from psymm.errors import SignatureMalformed, WrongSigner

_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def signature_by(address: str, digest: bytes, answer: object) -> bytes:
    """A signature in its only valid form (65 bytes r ‖ s ‖ v, low s, v 27 or 28), if the key of
    `address` made it over `digest`.

    answer: bytes-like or hex text in any form that devices use: r ‖ s ‖ v with v 0, 1, 27, 28 or
    EIP-155's; r ‖ s; r ‖ s with v in its top bit (EIP-2098); DER. s may be high.
    Raises SignatureMalformed for any other form, WrongSigner if another key made it.
    """
    if isinstance(answer, str):
        raw = unhex(answer)
    else:
        raw = bytes(answer) if isinstance(answer, bytes | bytearray | memoryview) else None
    if raw is None:
        raise SignatureMalformed(wallet=address, kind=type(answer).__name__)
    signer = ""
    for r, s, odd in _readings(raw):
        if not (0 < r < _ORDER and 0 < s < _ORDER):
            continue
        # (r, s) and (r, −s) with the other parity are one signature. Only the form with the low s
        # is valid, here and on chain.
        if s > _ORDER // 2:
            s, odd = _ORDER - s, not odd
        signature = r.to_bytes(32) + s.to_bytes(32) + bytes([27 + odd])
        with suppress(ValueError):
            found = address_of(recover(digest, signature))
            if found == address:
                return signature
            signer = signer or found
    if not signer:
        raise SignatureMalformed(wallet=address, length=len(raw))
    raise WrongSigner(wallet=address, signer=signer)


def _readings(raw: bytes) -> Iterator[tuple[int, int, bool]]:
    """r, s and whether R's y is odd, for each form that `raw` can have. The right one is the one
    that recovers the wallet's key."""
    r, s, rest = int.from_bytes(raw[:32]), int.from_bytes(raw[32:64]), raw[64:]
    if len(raw) == 64:
        yield r, s & ~(1 << 255), bool(s >> 255)
        yield r, s, False
        yield r, s, True
    elif 64 < len(raw) <= 72:
        v = int.from_bytes(rest)
        # EIP-155: v is twice the chain id plus 35 or 36. Some devices give only its last byte.
        if v in (0, 1, 27, 28) or v >= 35:
            yield r, s, v == 1 or (v > 1 and v % 2 == 0)
    with suppress(ValueError):
        r, s = decode_dss_signature(raw)
        yield r, s, False
        yield r, s, True


def unhex(text: object) -> bytes | None:
    """The bytes of hex text, with or without 0x, in either case; None if it is not hex."""
    if not isinstance(text, str) or not re.fullmatch("(?:0[xX])?(?:[0-9a-fA-F]{2})*", text):
        return None
    return bytes.fromhex(text[2:] if text[:2] in ("0x", "0X") else text)
