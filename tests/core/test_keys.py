"""Keys and signatures, held against eth-account and coincurve."""

import copy
import pickle
from typing import Any

import pytest
from coincurve import PrivateKey
from coincurve import PublicKey as OtherPublicKey
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from psymm import _core

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

secrets = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(32, "big"))
digests = st.binary(min_size=32, max_size=32)


@given(secrets, digests)
def test_keys_and_signatures_equal_those_of_other_libraries(secret: bytes, digest: bytes) -> None:
    key = _core.SecretKey.from_bytes(secret)
    account = Account.from_key(secret)
    assert key.address == account.address == _core.address_of(key.public_key)
    assert key.public_key == PrivateKey(secret).public_key.format(compressed=False)[1:]
    signature = key.sign(digest)
    theirs = account.unsafe_sign_hash(digest)
    assert signature == theirs.signature
    assert _core.recover(digest, signature) == key.public_key
    recoverable = signature[:64] + bytes([signature[64] - 27])
    other = OtherPublicKey.from_signature_and_message(recoverable, digest, hasher=None)
    assert other.format(compressed=False)[1:] == key.public_key
    assert _core.verify(digest, signature, key.public_key)


@given(secrets, digests)
def test_the_high_form_of_a_signature_is_refused(secret: bytes, digest: bytes) -> None:
    key = _core.SecretKey.from_bytes(secret)
    signature = key.sign(digest)
    s = ORDER - int.from_bytes(signature[32:64], "big")
    high = signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])
    # Ethereum's own precompile would take it.
    account = Account._recover_hash(digest, signature=high)
    assert account == key.address
    assert not _core.verify(digest, high, key.public_key)
    with pytest.raises(_core.SignatureError) as caught:
        _core.recover(digest, high)
    assert caught.value.code == "high-s"


def part(r: int = 1, s: int = 1, v: int = 27) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([v])


@pytest.mark.parametrize(
    ("signature", "code"),
    [
        (part(r=0), "bad-r"),
        (part(r=ORDER), "bad-r"),
        (part(s=0), "bad-s"),
        (part(s=ORDER), "bad-s"),
        (part(s=ORDER // 2 + 1), "high-s"),
        (part(v=0), "bad-v"),
        (part(v=29), "bad-v"),
        (part(r=5), "no-key"),
    ],
)
def test_a_signature_out_of_form_is_named(signature: bytes, code: str) -> None:
    with pytest.raises(_core.SignatureError) as caught:
        _core.recover(bytes(32), signature)
    assert caught.value.code == code
    key = _core.SecretKey.from_bytes(bytes([1] * 32))
    assert _core.verify(bytes(32), signature, key.public_key) is False


@pytest.mark.parametrize("number", [0, ORDER, 2**256 - 1])
def test_a_secret_out_of_range_is_refused_without_being_shown(number: int) -> None:
    with pytest.raises(_core.SignatureError) as caught:
        _core.SecretKey.from_bytes(number.to_bytes(32, "big"))
    assert caught.value.code == "bad-secret-key"
    assert number.to_bytes(32, "big").hex() not in str(caught.value)


def test_a_secret_of_a_wrong_length_is_refused_without_being_shown() -> None:
    with pytest.raises(ValueError, match="must be 32 bytes, not 31") as caught:
        _core.SecretKey.from_bytes(b"\xab" * 31)
    assert "ab" * 4 not in str(caught.value)


def test_a_secret_key_shows_nothing_but_its_address() -> None:
    secret = bytes(range(1, 33))
    key = _core.SecretKey.from_bytes(secret)
    for shown in (repr(key), str(key), f"{key}"):
        assert shown == f"SecretKey({key.address})"
    assert key.expose_secret_bytes() == secret


def test_a_secret_key_can_be_neither_pickled_nor_copied() -> None:
    key = _core.SecretKey.generate()
    with pytest.raises(TypeError):
        pickle.dumps(key)
    with pytest.raises(TypeError):
        copy.deepcopy(key)


def test_generated_keys_differ() -> None:
    assert len({_core.SecretKey.generate().public_key for _ in range(8)}) == 8


def test_an_address_is_of_a_point_of_the_curve() -> None:
    with pytest.raises(_core.SignatureError) as caught:
        _core.address_of(bytes(64))
    assert caught.value.code == "bad-public-key"
    assert _core.verify(bytes(32), part(), bytes(64)) is False
    with pytest.raises(ValueError, match="64 bytes, not 65"):
        _core.address_of(b"\x04" + bytes(64))


def test_vectors_are_signed_and_recovered_alike(frame_vectors: Any) -> None:
    def octets(text: str) -> bytes:
        return bytes.fromhex(text.removeprefix("0x"))

    keys = [_core.SecretKey.from_bytes(octets(key["secret"])) for key in frame_vectors["keys"]]
    assert [key.address for key in keys] == [key["address"] for key in frame_vectors["keys"]]
    for case in frame_vectors["authorisations"]:
        digest, key = octets(case["digest"]), keys[case["signer"]]
        assert key.sign(digest) == octets(case["signature"])
        assert _core.recover(digest, octets(case["signature"])) == key.public_key
