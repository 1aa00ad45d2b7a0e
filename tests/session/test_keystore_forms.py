"""Keystores that are not what they say, or as other programs write them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from hashlib import scrypt
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from eth_account import Account

from psymm._core import SecretKey, keccak256
from psymm.errors import (
    KeystoreUnreadable,
    KeystoreUnsupported,
    WalletError,
    WrongPassword,
)
from psymm.wallet import load_keystore, save_keystore

KEY = SecretKey.from_bytes(b"\x11" * 32)
CHEAP = 2
Store = dict[str, Any]
Change = Callable[[Store], object]


@cache
def made(kdf: str, password: str) -> str:
    return json.dumps(
        Account.encrypt(KEY.expose_secret_bytes(), password, kdf=kdf, iterations=CHEAP)  # type: ignore[arg-type]
    )


def foreign(kdf: str = "scrypt", password: str = "pw") -> Store:  # noqa: S107
    store: Store = json.loads(made(kdf, password))
    return store


def put(*path: str, value: object) -> Change:
    def change(store: Store) -> None:
        for name in path[:-1]:
            store = store[name]
        store[path[-1]] = value

    return change


def drop(*path: str) -> Change:
    def change(store: Store) -> None:
        for name in path[:-1]:
            store = store[name]
        del store[path[-1]]

    return change


def every_hex(spell: Callable[[str], str]) -> Change:
    def change(store: Store) -> None:
        crypto = store["crypto"]
        for of, name in (
            (crypto, "ciphertext"),
            (crypto, "mac"),
            (crypto["cipherparams"], "iv"),
            (crypto["kdfparams"], "salt"),
        ):
            of[name] = spell(of[name])

    return change


def bend(name: str) -> Change:
    """Another digit at the end of a member of `crypto`."""

    def change(store: Store) -> None:
        held = store["crypto"]
        for of in (held, held["cipherparams"], held["kdfparams"]):
            if name in of:
                of[name] = of[name][:-1] + ("0" if of[name][-1] != "0" else "1")

    return change


def write(path: Path, store: object) -> None:
    path.write_bytes(store if isinstance(store, bytes) else json.dumps(store).encode())


async def opened(path: Path, store: object, password: str = "pw") -> str:  # noqa: S107
    write(path, store)
    return (await load_keystore(path, password)).address


TAKEN: dict[str, Change] = {
    "as eth-account writes it": lambda store: None,
    "names of members in capitals": lambda store: store.update(Crypto=store.pop("crypto")),
    "the version as text": put("version", value="3"),
    "no address": drop("address"),
    "an empty address": put("address", value=""),
    "the address checksummed": put("address", value=KEY.address),
    "the address in capitals": put("address", value="0X" + KEY.address[2:].upper()),
    "hex in capitals": every_hex(str.upper),
    "hex with 0x": every_hex(lambda digits: "0x" + digits),
    "the cipher in capitals": put("crypto", "cipher", value="AES-128-CTR"),
    "further members": lambda store: store.update({"x-ethers": {"client": "ethers"}, "name": "é"}),
    "no id": drop("id"),
}


@pytest.mark.parametrize("kdf", ["scrypt", "pbkdf2"])
async def test_what_other_programs_write_is_opened(tmp_path: Path, kdf: str) -> None:
    for name, change in TAKEN.items():
        store = foreign(kdf)
        change(store)
        assert await opened(tmp_path / "k", store) == KEY.address, name
    text = json.dumps(foreign(kdf), indent=2)
    for content in (b"\xef\xbb\xbf" + text.encode(), text.replace("\n", "\r\n").encode() + b"\n"):
        assert await opened(tmp_path / "k", content) == KEY.address


REFUSED: list[tuple[str, str, type[WalletError], str, Change]] = [
    # (its form, key derivation, error, a word of it, change)
    ("version 1", "scrypt", KeystoreUnsupported, "version", put("version", value=1)),
    ("version 4", "scrypt", KeystoreUnsupported, "version", put("version", value=4)),
    ("version true", "scrypt", KeystoreUnreadable, "version", put("version", value=True)),
    ("no version", "scrypt", KeystoreUnreadable, "version", drop("version")),
    ("cipher", "scrypt", KeystoreUnsupported, "cbc", put("crypto", "cipher", value="aes-128-cbc")),
    ("cipher 256", "scrypt", KeystoreUnsupported, "256",
     put("crypto", "cipher", value="aes-256-ctr")),
    ("no cipher", "scrypt", KeystoreUnreadable, "cipher", drop("crypto", "cipher")),
    ("kdf", "scrypt", KeystoreUnsupported, "argon2id", put("crypto", "kdf", value="argon2id")),
    ("another kdf's params", "scrypt", KeystoreUnreadable, "prf",
     put("crypto", "kdf", value="pbkdf2")),
    ("dklen 16", "scrypt", KeystoreUnsupported, "dklen",
     put("crypto", "kdfparams", "dklen", value=16)),
    ("dklen 16, pbkdf2", "pbkdf2", KeystoreUnsupported, "dklen",
     put("crypto", "kdfparams", "dklen", value=16)),
    ("n 2^30", "scrypt", KeystoreUnsupported, "memory",
     put("crypto", "kdfparams", "n", value=1 << 30)),
    ("r huge", "scrypt", KeystoreUnsupported, "memory",
     put("crypto", "kdfparams", "r", value=1 << 24)),
    ("p huge", "scrypt", KeystoreUnsupported, "time",
     put("crypto", "kdfparams", "p", value=1 << 24)),
    ("n no power of two", "scrypt", KeystoreUnreadable, "its n",
     put("crypto", "kdfparams", "n", value=4095)),
    ("n 1", "scrypt", KeystoreUnreadable, "its n", put("crypto", "kdfparams", "n", value=1)),
    ("n 0", "scrypt", KeystoreUnreadable, "its n", put("crypto", "kdfparams", "n", value=0)),
    ("r -1", "scrypt", KeystoreUnreadable, "its r", put("crypto", "kdfparams", "r", value=-1)),
    ("p text", "scrypt", KeystoreUnreadable, "its p", put("crypto", "kdfparams", "p", value="1")),
    ("n float", "scrypt", KeystoreUnreadable, "its n", put("crypto", "kdfparams", "n", value=2.0)),
    ("c huge", "pbkdf2", KeystoreUnsupported, "too long",
     put("crypto", "kdfparams", "c", value=1 << 40)),
    ("c 0", "pbkdf2", KeystoreUnreadable, "its c", put("crypto", "kdfparams", "c", value=0)),
    ("prf", "pbkdf2", KeystoreUnsupported, "sha512",
     put("crypto", "kdfparams", "prf", value="hmac-sha512")),
    ("no prf", "pbkdf2", KeystoreUnreadable, "prf", drop("crypto", "kdfparams", "prf")),
    ("no salt", "scrypt", KeystoreUnreadable, "salt", drop("crypto", "kdfparams", "salt")),
    ("salt empty", "scrypt", KeystoreUnreadable, "salt",
     put("crypto", "kdfparams", "salt", value="")),
    ("iv short", "scrypt", KeystoreUnreadable, "iv",
     put("crypto", "cipherparams", "iv", value="00" * 12)),
    ("iv a number", "scrypt", KeystoreUnreadable, "iv",
     put("crypto", "cipherparams", "iv", value=1)),
    ("mac short", "scrypt", KeystoreUnreadable, "mac", put("crypto", "mac", value="00" * 31)),
    ("ciphertext long", "scrypt", KeystoreUnreadable, "ciphertext",
     put("crypto", "ciphertext", value="00" * 33)),
    ("ciphertext no hex", "scrypt", KeystoreUnreadable, "ciphertext",
     put("crypto", "ciphertext", value="zz" * 32)),
    ("ciphertext spaced", "scrypt", KeystoreUnreadable, "ciphertext",
     put("crypto", "ciphertext", value=" 00" * 32)),
    ("crypto a list", "scrypt", KeystoreUnreadable, "crypto", put("crypto", value=[])),
    ("crypto twice", "scrypt", KeystoreUnreadable, "JSON",
     lambda store: store.update(Crypto=copy.deepcopy(store["crypto"]))),
    ("address no hex", "scrypt", KeystoreUnreadable, "address", put("address", value="z" * 40)),
    ("address short", "scrypt", KeystoreUnreadable, "address", put("address", value="00" * 19)),
    ("address a list", "scrypt", KeystoreUnreadable, "address", put("address", value=[1])),
    ("another's address", "scrypt", KeystoreUnreadable, "address",
     put("address", value="ab" * 20)),
    ("iv bent", "scrypt", KeystoreUnreadable, "address", bend("iv")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kdf", "error", "word", "change"), REFUSED, ids=lambda one: (
    one if isinstance(one, str) else None
))  # fmt: skip
async def test_what_is_not_what_it_says_is_refused_by_name(
    tmp_path: Path, name: str, kdf: str, error: type[WalletError], word: str, change: Change
) -> None:
    store = foreign(kdf)
    change(store)
    with pytest.raises(error) as caught:
        await opened(tmp_path / "k", store)
    assert type(caught.value) is error
    assert word in str(caught.value)
    # An address that nothing authenticates is shown nowhere, so that nobody pays to it.
    assert "abab" not in str(caught.value).lower()


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(foreign()).encode("utf-16"),
        json.dumps(foreign()).encode() + b"\n\0",
        json.dumps(foreign()).encode() + b" " * (1 << 16),
        b"[" * 100_000,
        b"\0" * 500,
        b'{"version": 3, "version": 3}',
    ],
    ids=["utf-16", "nul", "huge", "deep", "zeros", "twice"],
)
async def test_what_is_no_keystore_at_all_is_unreadable(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(KeystoreUnreadable):
        await opened(tmp_path / "k", content)


async def test_a_sealed_number_that_is_no_key_is_refused(tmp_path: Path) -> None:
    """A file without an address, under the right password, with 0 for a key."""
    store = foreign()
    del store["address"]
    crypto = store["crypto"]
    given = crypto["kdfparams"]
    key = scrypt(b"pw", salt=bytes.fromhex(given["salt"]), n=CHEAP, r=8, p=1, dklen=32)
    zero = Cipher(
        algorithms.AES(key[:16]), modes.CTR(bytes.fromhex(crypto["cipherparams"]["iv"]))
    ).encryptor()
    sealed = zero.update(bytes(32))
    crypto["ciphertext"], crypto["mac"] = sealed.hex(), keccak256(key[16:] + sealed).hex()
    with pytest.raises(KeystoreUnreadable, match="not a private key"):
        await opened(tmp_path / "k", store)


@pytest.mark.parametrize("member", ["ciphertext", "mac", "iv", "salt", "address"])
async def test_damage_of_a_keystore_of_ours_is_told_from_a_wrong_password(
    tmp_path: Path, member: str
) -> None:
    path = tmp_path / "keystore.json"
    await save_keystore(path, KEY, "pw", scrypt_cost=CHEAP)
    with pytest.raises(WrongPassword) as caught:
        await load_keystore(path, "other")
    assert "damaged" not in str(caught.value)
    store = json.loads(path.read_text())
    if member == "address":
        store["address"] = "ab" * 20
    else:
        bend(member)(store)
    with pytest.raises(KeystoreUnreadable, match="damaged"):
        await opened(path, store)


async def test_of_another_programs_keystore_both_reasons_are_named(tmp_path: Path) -> None:
    store = foreign()
    bend("ciphertext")(store)
    with pytest.raises(WrongPassword, match="wrong, or the keystore is damaged"):
        await opened(tmp_path / "k", store)


SPOKEN = "pâßwörd ﬁ"


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
async def test_a_password_opens_however_its_characters_were_composed(
    tmp_path: Path, form: Any
) -> None:
    """geth takes the bytes as they are typed, ethers NFKC; macOS gives NFD, Linux NFC."""
    assert await opened(tmp_path / "k", foreign("scrypt", normalize(form, SPOKEN)), SPOKEN)
    await save_keystore(tmp_path / "own", KEY, normalize(form, SPOKEN), scrypt_cost=CHEAP)
    await load_keystore(tmp_path / "own", normalize(form, SPOKEN))
    with pytest.raises(WrongPassword):
        await opened(tmp_path / "k", foreign("scrypt", SPOKEN), "passwörd fi")


async def test_a_password_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(WalletError, match="UTF-8"):
        await opened(tmp_path / "k", foreign(), "p\udce4ss")
