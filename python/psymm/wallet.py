"""A wallet: whatever signs EIP-712 messages for a party's long-lived secp256k1 key.

Two kinds: `KeyWallet` holds the key in the core's `SecretKey` (from an Ethereum version 3
keystore, scrypt), `CallbackWallet` asks a function (hardware device, KMS, browser). Key bytes
live only in the core and, for the moment of sealing or opening, in a bytearray that is wiped.
Nothing here prints, logs or raises a secret.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import trio
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from psymm._core import SecretKey, address_of, keccak256, recover
from psymm._core import domain_separator as core_domain_separator
from psymm.errors import (
    KeystoreExists,
    KeystoreUnreadable,
    UnsteadySigner,
    WalletError,
    WrongPassword,
    WrongSigner,
)
from psymm.private_files import keep_private, write_private
from psymm.strict_json import loads

if TYPE_CHECKING:
    from eth_account import Account

Scalar: TypeAlias = int | str | bytes


@dataclass(frozen=True, slots=True)
class TypedMessage:
    """One EIP-712 struct under the domain `pSymm`, version 1.

    fields: (name, type) in order; types: bytes32, address, string, bytes, uintN. values: bytes
    of 32 for bytes32, checksummed str for address, int for uintN.
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
        """The JSON object that `eth_signTypedData_v4` and eth-account take."""
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
            "message": {
                name: "0x" + value.hex() if isinstance(value, bytes) else value
                for name, value in self.values.items()
            },
        }


class Wallet(Protocol):
    """What the package asks of a wallet."""

    @property
    def address(self) -> str:
        """Checksummed address."""
        ...

    @property
    def public_key(self) -> bytes:
        """64 bytes, x ‖ y."""
        ...

    async def sign_typed(self, message: TypedMessage) -> bytes:
        """65 bytes r ‖ s ‖ v, low s, by this wallet's key over `message.digest()`.

        Raises WalletError. Cancelled: raises Cancelled; a device may still show the request, and
        whatever it answers is thrown away.
        """
        ...


class KeyWallet:
    """A wallet whose key is in this process, inside the core's `SecretKey`."""

    __slots__ = ("_key",)

    def __init__(self, key: SecretKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> KeyWallet:
        return cls(SecretKey.generate())

    @property
    def address(self) -> str:
        return self._key.address

    @property
    def public_key(self) -> bytes:
        return self._key.public_key

    @property
    def key(self) -> SecretKey:
        """The core's key object, for those who sign transactions; it hides its bytes too."""
        return self._key

    def sign_digest(self, digest: bytes) -> bytes:
        """65 bytes over a 32-byte digest, deterministic (RFC 6979). Does not block."""
        return self._key.sign(digest)

    async def sign_typed(self, message: TypedMessage) -> bytes:
        """See `Wallet.sign_typed`. A checkpoint; never blocks."""
        await trio.lowlevel.checkpoint()
        return self._key.sign(message.digest())

    def __repr__(self) -> str:
        return f"KeyWallet({self.address})"


class CallbackWallet:
    """A wallet behind a function: a hardware device, a key service, a person.

    sign: given the EIP-712 object of `eth_signTypedData_v4` and its digest, returns 65 bytes.
    Every answer is checked: it must recover to `public_key` with a low s.
    """

    __slots__ = ("_public_key", "_sign")

    def __init__(
        self,
        public_key: bytes,
        sign: Callable[[dict[str, object], bytes], Awaitable[bytes]],
    ) -> None:
        if len(public_key) != 64:
            raise WalletError("a public key is 64 bytes, x ‖ y", length=len(public_key))
        self._public_key = public_key
        self._sign = sign

    @property
    def address(self) -> str:
        return address_of(self._public_key)

    @property
    def public_key(self) -> bytes:
        return self._public_key

    async def sign_typed(self, message: TypedMessage) -> bytes:
        """See `Wallet.sign_typed`. Raises WrongSigner if the answer is another key's."""
        digest = message.digest()
        signature = _normal(await self._sign(message.full_message(), digest))
        try:
            signer = recover(digest, signature)
        except ValueError as refused:
            raise WrongSigner(
                f"the signature is malformed: {refused}", wallet=self.address
            ) from None
        if signer != self._public_key:
            raise WrongSigner(wallet=self.address, signer=address_of(signer))
        return signature

    def __repr__(self) -> str:
        return f"CallbackWallet({self.address})"


# --- secrets that a wallet's signature gives --------------------------------------------------


async def derive_secret(wallet: Wallet, message: TypedMessage, purpose: str) -> bytes:
    """32 bytes that only this wallet can make again: HKDF-SHA256 of its signature.

    The signature is asked twice and refused (UnsteadySigner) if the two differ. Cancelled:
    raises Cancelled, nothing is kept.
    """
    first = await wallet.sign_typed(message)
    second = await wallet.sign_typed(message)
    if first != second:
        raise UnsteadySigner(wallet=wallet.address)
    return HKDF(
        algorithm=SHA256(), length=32, salt=message.digest(), info=b"pSymm " + purpose.encode()
    ).derive(first[:64])


# --- keystores --------------------------------------------------------------------------------

SCRYPT_COST: Final = 1 << 18
"""scrypt's n for new keystores: about a second and 256 MB."""


async def save_keystore(
    path: Path, key: SecretKey, password: str, *, scrypt_cost: int = SCRYPT_COST
) -> None:
    """Write a new version 3 keystore, readable by its owner only.

    Raises KeystoreExists. The file appears whole or not at all. Cancelled: the thread finishes;
    the file may or may not stand.
    """
    await trio.to_thread.run_sync(_save_keystore, path, key, password, scrypt_cost)


async def load_keystore(path: Path, password: str) -> KeyWallet:
    """Open a version 3 keystore (scrypt or pbkdf2).

    Raises KeystoreUnreadable, WrongPassword. Cancelled: the thread finishes, its key is dropped.
    """
    return await trio.to_thread.run_sync(_load_keystore, path, password)


def keystore_address(path: Path) -> str | None:
    """The address a keystore says it holds, without its password; None if it says none."""
    stated = _read_keystore(path).get("address")
    if not isinstance(stated, str) or len(stated.removeprefix("0x")) != 40:
        return None
    from eth_utils.address import to_checksum_address

    return str(to_checksum_address("0x" + stated.removeprefix("0x")))


def read_password(descriptor: int) -> str:
    """The password that waits on an open file descriptor: its first line. Blocks; closes it.

    Raises WalletError where the descriptor is not open or gives nothing.
    """
    try:
        with os.fdopen(descriptor, "rb") as stream:
            line = stream.readline(4096)
    except OSError as failed:
        raise WalletError(
            "no password could be read from the file descriptor",
            descriptor=descriptor,
            reason=failed.strerror,
        ) from None
    try:
        password = line.rstrip(b"\r\n").decode()
    except UnicodeDecodeError:
        raise WalletError("the password is not UTF-8", descriptor=descriptor) from None
    if not password:
        raise WalletError("the file descriptor gave an empty password", descriptor=descriptor)
    return password


def _accounts() -> type[Account]:
    """eth-account, which takes long to import and so is imported when it is needed.

    A library under it raises the interpreter's recursion limit to 100,000, and with that whatever
    calls itself without end would end this process instead of raising.
    """
    limit = sys.getrecursionlimit()
    from eth_account import Account

    sys.setrecursionlimit(limit)
    return Account


def _save_keystore(path: Path, key: SecretKey, password: str, scrypt_cost: int) -> None:
    account = _accounts()
    if path.exists():
        raise KeystoreExists(path=path)
    sealed = account.encrypt(
        key.expose_secret_bytes(), password, kdf="scrypt", iterations=scrypt_cost
    )
    try:
        write_private(path, json.dumps(sealed).encode(), replace=False)
    except FileExistsError:
        raise KeystoreExists(path=path) from None


def _read_keystore(path: Path) -> dict[str, object]:
    try:
        keep_private(path)
        sealed = loads(path.read_bytes())
    except OSError as failed:
        raise KeystoreUnreadable(path=path, reason=failed.strerror) from None
    except ValueError:
        raise KeystoreUnreadable(path=path) from None
    if not isinstance(sealed, dict) or sealed.get("version") != 3:
        raise KeystoreUnreadable(path=path)
    return sealed


def _load_keystore(path: Path, password: str) -> KeyWallet:
    account = _accounts()
    sealed = _read_keystore(path)
    try:
        secret = bytearray(account.decrypt(sealed, password))
    except ValueError as refused:
        if "MAC mismatch" in str(refused):
            raise WrongPassword(path=path) from None
        raise KeystoreUnreadable(path=path) from None
    except Exception:
        raise KeystoreUnreadable(path=path) from None
    try:
        return KeyWallet(SecretKey.from_bytes(bytes(secret)))
    finally:
        secret[:] = bytes(len(secret))


# --- EIP-712 words ----------------------------------------------------------------------------


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


_HALF_ORDER: Final = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
_ORDER: Final = 2 * _HALF_ORDER + 1


def _normal(signature: bytes) -> bytes:
    """Devices answer with v 0/1 and sometimes a high s; the one valid form is 27/28 and low."""
    if len(signature) != 65:
        raise WalletError("a signature is 65 bytes, r ‖ s ‖ v", length=len(signature))
    s, v = int.from_bytes(signature[32:64], "big"), signature[64]
    if v in (0, 1):
        v += 27
    if _HALF_ORDER < s < _ORDER and v in (27, 28):
        s, v = _ORDER - s, 55 - v
    return signature[:32] + s.to_bytes(32, "big") + bytes([v])
