"""Signatures in the forms in which devices give them, read or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from session_scene import CHAIN_ID, PSYMM

from psymm._core import SecretKey
from psymm.errors import SignatureMalformed, WrongSigner
from psymm.signatures import signature_by
from psymm.typed_message import TypedMessage
from psymm.wallet import CallbackWallet

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
MESSAGE = TypedMessage(CHAIN_ID, PSYMM, "X", (("a", "uint256"),), {"a": 1})
# Digests enough that both parities of R occur, and r and s with a leading zero byte.
KEY = SecretKey.from_bytes(b"\x07" * 32)
DIGESTS = [n.to_bytes(32) for n in range(600)]


def parts(signature: bytes) -> tuple[int, int, int]:
    return int.from_bytes(signature[:32]), int.from_bytes(signature[32:64]), signature[64] - 27


def high(signature: bytes) -> bytes:
    r, s, odd = parts(signature)
    return r.to_bytes(32) + (ORDER - s).to_bytes(32) + bytes([28 - odd])


def compact(signature: bytes) -> bytes:
    r, s, odd = parts(signature)
    return r.to_bytes(32) + (s | odd << 255).to_bytes(32)


def der(signature: bytes) -> bytes:
    r, s, _ = parts(signature)
    return encode_dss_signature(r, s)


def with_v(offset: int, length: int = 1) -> Callable[[bytes], bytes]:
    def make(signature: bytes) -> bytes:
        v = (parts(signature)[2] + offset) & (1 << 8 * length) - 1
        return signature[:64] + v.to_bytes(length)

    return make


def zero_v(signature: bytes) -> bytes:
    return with_v(0)(signature)


FORMS: dict[str, Callable[[bytes], Any]] = {
    "v 27 or 28": bytes,
    "v 0 or 1": zero_v,
    "high s": high,
    "high s, v 0 or 1": lambda plain: zero_v(high(plain)),
    "EIP-2098": compact,
    "r and s, no v": lambda plain: plain[:64],
    "r and s, high, no v": lambda plain: high(plain)[:64],
    "EIP-155 of chain 1": with_v(37),
    "EIP-155 of chain 31337, last byte": with_v(31337 * 2 + 35),
    "EIP-155 of chain 31337, two bytes": with_v(31337 * 2 + 35, 2),
    "EIP-155 of a chain id of four bytes": with_v(1313161554 * 2 + 35, 4),
    "DER": der,
    "DER, high s": lambda plain: der(high(plain)),
    "bytearray": bytearray,
    "memoryview": memoryview,
    "hex text": lambda plain: "0x" + plain.hex(),
    "hex text, upper case, no 0x": lambda plain: compact(plain).hex().upper(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_known_form_is_read_into_the_one_valid_form(form: str) -> None:
    for digest in DIGESTS:
        plain = KEY.sign(digest)
        made = signature_by(KEY.address, digest, FORMS[form](plain))
        assert (type(made), made) == (bytes, plain)


@pytest.mark.parametrize("form", FORMS)
def test_another_keys_signature_is_refused_in_every_form(form: str) -> None:
    other = SecretKey.from_bytes(b"\x08" * 32)
    for digest in DIGESTS[:8]:
        with pytest.raises(WrongSigner):
            signature_by(KEY.address, digest, FORMS[form](other.sign(digest)))


@pytest.mark.parametrize(
    "answer",
    [
        None,
        7,
        (27, 1, 1),
        b"",
        bytes(64),
        bytes(65),
        b"\x01" * 63,
        b"\x01" * 73,
        b"0D" + bytes(70),
        ORDER.to_bytes(32) + b"\x01" * 32 + b"\x1b",
        b"\x01" * 64 + b"\x02",
        b"\x01" * 64 + b"\x1d",
        b"\x01" * 64 + b"\x22",
        der(KEY.sign(DIGESTS[0])) + b"\0",
        "0x",
        "0x123",
        "not hex",
        "0x" + " 01" * 65,
    ],
    ids=lambda answer: repr(answer)[:24],
)
def test_what_has_no_known_form_is_refused_by_name(answer: object) -> None:
    with pytest.raises(SignatureMalformed):
        signature_by(KEY.address, DIGESTS[0], answer)


async def test_a_callback_wallet_takes_every_form_for_messages_and_transactions() -> None:
    for form in FORMS.values():
        seen: list[dict[str, object] | None] = []

        async def sign(message: dict[str, object] | None, digest: bytes) -> Any:
            seen.append(message)  # noqa: B023 - awaited within the round
            return form(KEY.sign(digest))  # noqa: B023

        wallet = CallbackWallet(KEY.public_key, sign)
        assert await wallet.sign_typed(MESSAGE) == KEY.sign(MESSAGE.digest())
        assert await wallet.sign_digest(DIGESTS[1]) == KEY.sign(DIGESTS[1])
        # A transaction has no typed message to show.
        assert seen == [MESSAGE.full_message(), None]
