"""Wallets: keystores that other Ethereum software reads, callbacks that are not trusted."""

import json
import os
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from session_scene import CHAIN_ID, PSYMM

from psymm._core import SecretKey, recover
from psymm.errors import (
    KeystoreExists,
    KeystoreUnreadable,
    UnsteadySigner,
    WalletError,
    WrongPassword,
    WrongSigner,
)
from psymm.typed_message import TypedMessage
from psymm.wallet import (
    CallbackWallet,
    KeyWallet,
    derive_secret,
    load_keystore,
    read_password,
    save_keystore,
)

MESSAGE = TypedMessage(
    CHAIN_ID,
    PSYMM,
    "SessionKey",
    (("wallet", "address"), ("custody", "bytes32"), ("lane", "uint8"), ("note", "string")),
    {"wallet": PSYMM, "custody": b"\x01" * 32, "lane": 1, "note": "hello"},
)
CHEAP = 1 << 10


def test_a_typed_digest_is_eth_accounts() -> None:
    signable = encode_typed_data(full_message=MESSAGE.full_message())
    key = SecretKey.generate()
    signed = Account.sign_message(signable, key.expose_secret_bytes())
    assert recover(MESSAGE.digest(), bytes(signed.signature)) == key.public_key


def test_a_time_in_nanoseconds_survives_a_browsers_json() -> None:
    fields = (("expiry", "uint64"), ("amount", "uint128"))
    values = {"expiry": 1_800_000_000_123_456_789, "amount": (1 << 128) - 1}
    message = TypedMessage(CHAIN_ID, PSYMM, "Timed", fields, values)
    text = json.dumps(message.full_message())
    # Every number of JavaScript is a double.
    seen = json.loads(text, parse_int=lambda digits: int(float(digits)))
    signable = encode_typed_data(full_message=seen)
    key = SecretKey.generate()
    signed = Account.sign_message(signable, key.expose_secret_bytes())
    assert recover(message.digest(), bytes(signed.signature)) == key.public_key


async def test_a_keystore_comes_back_and_is_its_owners_alone(tmp_path: Path) -> None:
    path, key = tmp_path / "keystore.json", SecretKey.generate()
    await save_keystore(path, key, "correct horse", scrypt_cost=CHEAP)
    assert (await load_keystore(path, "correct horse")).address == key.address
    assert os.stat(path).st_mode & 0o077 == 0
    secret = Account.decrypt(json.loads(path.read_bytes()), "correct horse")
    assert bytes(secret) == key.expose_secret_bytes()


async def test_a_wrong_password_is_named(tmp_path: Path) -> None:
    await save_keystore(tmp_path / "k", SecretKey.generate(), "right", scrypt_cost=CHEAP)
    with pytest.raises(WrongPassword):
        await load_keystore(tmp_path / "k", "wrong")


async def test_a_keystore_is_never_overwritten(tmp_path: Path) -> None:
    key = SecretKey.generate()
    await save_keystore(tmp_path / "k", key, "one", scrypt_cost=CHEAP)
    with pytest.raises(KeystoreExists):
        await save_keystore(tmp_path / "k", SecretKey.generate(), "two", scrypt_cost=CHEAP)
    assert (await load_keystore(tmp_path / "k", "one")).address == key.address


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version":3}'])
async def test_what_is_no_keystore_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "k").write_bytes(content)
    with pytest.raises(KeystoreUnreadable):
        await load_keystore(tmp_path / "k", "any")


async def test_no_error_and_no_repr_shows_a_secret(tmp_path: Path) -> None:
    key = SecretKey.generate()
    secret = key.expose_secret_bytes().hex()
    await save_keystore(tmp_path / "k", key, "hunter2", scrypt_cost=CHEAP)
    with pytest.raises(WrongPassword) as caught:
        await load_keystore(tmp_path / "k", "hunter3")
    for shown in (repr(KeyWallet(key)), str(caught.value), repr(caught.value)):
        assert secret not in shown
        assert "hunter" not in shown


async def test_a_callback_signs_for_its_key_only() -> None:
    key, other = SecretKey.generate(), SecretKey.generate()

    async def right(_: object, digest: bytes) -> bytes:
        return key.sign(digest)

    async def wrong(_: object, digest: bytes) -> bytes:
        return other.sign(digest)

    async def short(_: object, digest: bytes) -> bytes:
        return b"\x01" * 64

    signature = await CallbackWallet(key.public_key, right).sign_typed(MESSAGE)
    assert recover(MESSAGE.digest(), signature) == key.public_key
    with pytest.raises(WrongSigner):
        await CallbackWallet(key.public_key, wrong).sign_typed(MESSAGE)
    with pytest.raises(WalletError):
        await CallbackWallet(key.public_key, short).sign_typed(MESSAGE)


async def test_secrets_come_from_steady_signers_only() -> None:
    key = SecretKey.generate()
    wallet = KeyWallet(key)
    assert await derive_secret(wallet, MESSAGE, "a") == await derive_secret(wallet, MESSAGE, "a")
    assert await derive_secret(wallet, MESSAGE, "a") != await derive_secret(wallet, MESSAGE, "b")

    class Unsteady(KeyWallet):
        async def sign_typed(self, message: TypedMessage) -> bytes:
            return os.urandom(65)

    with pytest.raises(UnsteadySigner):
        await derive_secret(Unsteady(key), MESSAGE, "a")


def test_a_password_is_read_from_a_descriptor_and_never_empty() -> None:
    def piped(content: bytes) -> int:
        read, write = os.pipe()
        os.write(write, content)
        os.close(write)
        return read

    assert read_password(piped(b"secret\nmore")) == "secret"
    with pytest.raises(WalletError):
        read_password(piped(b"\n"))
    with pytest.raises(WalletError, match="longer"):
        read_password(piped(b"p" * 4097 + b"\n"))
    with pytest.raises(WalletError, match="UTF-8"):
        read_password(piped("pässword\n".encode("latin-1")))
    # As editors on Windows write it.
    assert read_password(piped("\ufeffpässword\r\n".encode())) == "pässword"
    with pytest.raises(WalletError):
        read_password(9999)
