"""Version 3 keystores: encrypting a key with a password, and opening the files of any program.

The file is untrusted until the password has opened it. Its MAC covers only the ciphertext, not the
address or the iv. So the address is always derived from the key, and an address in the file must
equal it. eth-account does the cryptography but checks few of the members, so the form is checked
here. For example, with `dklen` 16 a MAC could be right under every password.

Everything here blocks; `psymm.wallet.save_keystore` and `load_keystore` run it in a thread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from unicodedata import normalize

from psymm._core import SecretKey, keccak256
from psymm.errors import (
    KeystoreExists,
    KeystoreMissing,
    KeystoreUnreadable,
    KeystoreUnsupported,
    WalletError,
    WrongPassword,
    clip,
)
from psymm.imports import recursion_limit_kept
from psymm.private_files import keep_private, write_private
from psymm.signatures import unhex
from psymm.storage import FileUnavailable, translate_errors
from psymm.strict_json import KeyTwice, loads

if TYPE_CHECKING:
    from eth_account import Account

_CHECKSUM: Final = "x-psymm-checksum"
_MOST_KEYSTORE_BYTES: Final = 1 << 16
# The most that a keystore may cost us: four times the memory of the usual scrypt (n 2^18, r 8),
# eight times its time, and ten times the rounds of the usual pbkdf2.
_MOST_SCRYPT_BYTES: Final = 1 << 30
_MOST_SCRYPT_STEPS: Final = 1 << 24
_MOST_PBKDF2_ROUNDS: Final = 10_000_000


def _accounts() -> type[Account]:
    """eth-account, imported on first use because that is slow."""
    with recursion_limit_kept():
        from eth_account import Account

    return Account


def seal_keystore(path: Path, key: SecretKey, password: str, scrypt_cost: int) -> None:
    account = _accounts()
    with translate_errors(path):
        if path.exists():
            raise KeystoreExists(path=path)
    # In NFC, so that another keyboard's encoding of the same characters opens it, too.
    spelled = _spellings(password)[1]
    sealed = account.encrypt(
        key.expose_secret_bytes(), spelled, kdf="scrypt", iterations=scrypt_cost
    )
    sealed[_CHECKSUM] = _checksum(sealed)
    try:
        write_private(path, json.dumps(sealed).encode(), replace=False)
    except FileExistsError:
        raise KeystoreExists(path=path) from None


def open_keystore(path: Path, password: str) -> SecretKey:
    account = _accounts()
    keystore = _read_keystore(path)
    secret = bytearray()
    # Each spelling costs a whole key derivation. An ASCII password has only one.
    for spelled in dict.fromkeys(_spellings(password)):
        try:
            secret[:] = account.decrypt({"version": 3, "crypto": keystore.crypto}, spelled)
            break
        except ValueError as refused:
            if "MAC mismatch" not in str(refused):
                raise KeystoreUnreadable("it cannot be decrypted", path=path) from None
        except MemoryError:
            raise KeystoreUnsupported(
                "its key derivation takes more memory than there is", path=path
            ) from None
    if not secret:
        said = "" if keystore.whole else "the password is wrong, or the keystore is damaged"
        raise WrongPassword(said, path=path)
    try:
        key = SecretKey.from_bytes(secret)
    except ValueError:
        raise KeystoreUnreadable("its content is not a private key", path=path) from None
    finally:
        # From here on the key is only in the core.
        secret[:] = bytes(len(secret))
    if keystore.address is not None and key.address[2:].lower() != keystore.address:
        # The address is not shown: an attacker may have put it there to be paid.
        raise KeystoreUnreadable(
            "its address is not that of its key; the file was damaged or changed", path=path
        )
    return key


def _spellings(password: str) -> list[str]:
    """The password as given, then in each of Unicode's normal forms, NFC first, because keyboards
    and programs encode the same characters differently. Raises WalletError."""
    try:
        password.encode()
    except UnicodeEncodeError:
        raise WalletError("the password is not UTF-8") from None
    return [password, *(normalize(form, password) for form in ("NFC", "NFD", "NFKC", "NFKD"))]


@dataclass(frozen=True, slots=True)
class _Keystore:
    """A keystore whose form was checked.

    Attributes:
        crypto: in eth-account's form.
        address: the 40 hex digits in the file, which nothing authenticates; None if it has none.
        whole: it is one of ours and its checksum is right.
    """

    crypto: dict[str, object] = field(repr=False)
    address: str | None
    whole: bool


def _read_keystore(path: Path) -> _Keystore:
    keep_private(path)
    try:
        with translate_errors(path), path.open("rb") as file:
            content = file.read(_MOST_KEYSTORE_BYTES + 1)
    except FileUnavailable:
        raise KeystoreMissing(path=path) from None
    try:
        stored = _lower(loads(content.removeprefix(b"\xef\xbb\xbf")))
    except ValueError:
        raise KeystoreUnreadable(path=path) from None
    if not isinstance(stored, dict) or len(content) > _MOST_KEYSTORE_BYTES:
        raise KeystoreUnreadable(path=path)
    found = _Members(stored, path)
    found.expect("version", 3, "3")
    crypto = found.table("crypto")
    if _CHECKSUM in stored and stored[_CHECKSUM] != _checksum(stored):
        raise KeystoreUnreadable("its checksum is wrong: it is damaged", path=path)
    crypto.expect("cipher", "aes-128-ctr")
    kdf, given = crypto.expect("kdf", "scrypt", "pbkdf2"), crypto.table("kdfparams")
    given.expect("dklen", 32)
    return _Keystore(
        {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": crypto.table("cipherparams").hex("iv", 16)},
            "ciphertext": crypto.hex("ciphertext", 32),
            "kdf": kdf,
            "kdfparams": {
                **(_scrypt_cost(given) if kdf == "scrypt" else _pbkdf2_cost(given)),
                "dklen": 32,
                "salt": given.hex("salt"),
            },
            "mac": crypto.hex("mac", 32),
        },
        found.hex("address", 20) if stored.get("address") else None,
        _CHECKSUM in stored,
    )


@dataclass(frozen=True, slots=True)
class _Members:
    """One object of a keystore. Each method raises KeystoreUnreadable naming the member if it is
    missing or malformed."""

    members: dict[str, object] = field(repr=False)
    path: Path

    def damaged(self, name: str) -> KeystoreUnreadable:
        return KeystoreUnreadable(f"its {name} is missing or malformed", path=self.path)

    def expect(self, name: str, *known: int | str) -> int | str:
        """One of the known values. Raises KeystoreUnsupported for another."""
        found = self.members.get(name)
        if isinstance(found, bool) or not isinstance(found, int | str):
            raise self.damaged(name)
        found = found.lower() if isinstance(found, str) else found
        if found not in known:
            raise KeystoreUnsupported(path=self.path, member=name, found=clip(str(found), 60))
        return found

    def table(self, name: str) -> _Members:
        found = self.members.get(name)
        if not isinstance(found, dict):
            raise self.damaged(name)
        return _Members(found, self.path)

    def number(self, name: str) -> int:
        """A whole number above 0."""
        found = self.members.get(name)
        if isinstance(found, bool) or not isinstance(found, int) or found < 1:
            raise self.damaged(name)
        return found

    def hex(self, name: str, length: int | None = None) -> str:
        """Hex digits of `length` bytes (None: 1 to 256), in lower case and without 0x."""
        found = unhex(self.members.get(name))
        if not found or len(found) > 256 or length not in (None, len(found)):
            raise self.damaged(name)
        return found.hex()


def _scrypt_cost(given: _Members) -> dict[str, object]:
    n, r, p = (given.number(name) for name in "nrp")
    if n == 1 or n & (n - 1):
        raise given.damaged("n")
    if 128 * n * r > _MOST_SCRYPT_BYTES or n * r * p > _MOST_SCRYPT_STEPS:
        raise KeystoreUnsupported(
            "its scrypt takes too much memory or time", path=given.path, n=n, r=r, p=p
        )
    return {"n": n, "r": r, "p": p}


def _pbkdf2_cost(given: _Members) -> dict[str, object]:
    prf, rounds = given.expect("prf", "hmac-sha256"), given.number("c")
    if rounds > _MOST_PBKDF2_ROUNDS:
        raise KeystoreUnsupported("its pbkdf2 takes too long", path=given.path, c=rounds)
    return {"prf": prf, "c": rounds}


def _lower(value: object) -> object:
    """The value with members' names in lower case, because programs differ. Raises KeyTwice."""
    if not isinstance(value, dict):
        return value
    lowered = {name.lower(): _lower(one) for name, one in value.items()}
    if len(lowered) != len(value):
        raise KeyTwice("in two cases")
    return lowered


def _checksum(keystore: Mapping[str, object]) -> str:
    """A checksum over a keystore's content, to tell damage from a wrong password. It authenticates
    nothing, because anybody can compute it."""
    parts = [keystore.get("crypto"), keystore.get("address")]
    return keccak256(json.dumps(parts, sort_keys=True).encode()).hex()
