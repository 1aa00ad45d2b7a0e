"""A wallet signs EIP-712 messages with a party's long-lived secp256k1 key.

There are two kinds: `KeyWallet` holds the key in the core's `SecretKey` (from an Ethereum version 3
keystore), `CallbackWallet` calls a function (hardware device, KMS, browser). Key bytes are only in
the core and, while a keystore is written or opened, in a bytearray that is then wiped. Nothing here
prints, logs or raises a secret.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import trio
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from psymm._core import SecretKey, address_of
from psymm.errors import UnsteadySigner, WalletError
from psymm.keystores import open_keystore, seal_keystore
from psymm.signatures import signature_by
from psymm.typed_message import TypedMessage


class Wallet(Protocol):
    """The interface of a wallet."""

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
        its answer is dropped.
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
        """The core's key object, which hides its bytes, too."""
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


SignFunction: TypeAlias = Callable[
    [dict[str, object] | None, bytes], Awaitable[bytes | bytearray | memoryview | str]
]


class CallbackWallet:
    """A wallet that signs through a function: a hardware device, a key service, a person.

    Args:
        public_key: 64 bytes, x ‖ y.
        sign: gets the EIP-712 object of `eth_signTypedData_v4` (None for a transaction) and the
            32-byte digest; returns a signature in any form that `signature_by` reads.
        secrets_key: a local key from which the wallet's secrets (viewing, journal) are derived,
            instead of from its signatures. A KMS or HSM, which signs differently each time, needs
            one. It signs nothing for the wallet. Keep it in a keystore and back that up: without it
            notes can be neither found nor spent.
    """

    __slots__ = ("_public_key", "_sign", "secrets_key")

    def __init__(
        self, public_key: bytes, sign: SignFunction, *, secrets_key: KeyWallet | None = None
    ) -> None:
        if len(public_key) != 64:
            raise WalletError("a public key is 64 bytes, x ‖ y", length=len(public_key))
        self._public_key = public_key
        self._sign = sign
        self.secrets_key = secrets_key

    @property
    def address(self) -> str:
        return address_of(self._public_key)

    @property
    def public_key(self) -> bytes:
        return self._public_key

    async def sign_typed(self, message: TypedMessage) -> bytes:
        """See `Wallet.sign_typed`. Raises WrongSigner, SignatureMalformed, what `sign` raises."""
        digest = message.digest()
        return signature_by(self.address, digest, await self._sign(message.full_message(), digest))

    async def sign_digest(self, digest: bytes) -> bytes:
        """65 bytes over a transaction's digest, so that the wallet can pay for transactions. Raises
        and is cancelled like `sign_typed`."""
        return signature_by(self.address, digest, await self._sign(None, digest))

    def __repr__(self) -> str:
        return f"CallbackWallet({self.address})"


# --- secrets derived from a wallet's signature ------------------------------------------------


async def derive_secret(wallet: Wallet, message: TypedMessage, purpose: str) -> bytes:
    """32 bytes that only this wallet can derive again: HKDF-SHA256 of its signature.

    If the wallet has a `secrets_key`, that key signs instead and the wallet's public key is added,
    so one secrets key can serve several wallets. The signature is requested twice; raises
    UnsteadySigner if the two differ. Cancelled: raises Cancelled; nothing is kept.
    """
    signer, info = wallet, b"pSymm " + purpose.encode()
    if isinstance(wallet, CallbackWallet) and wallet.secrets_key is not None:
        signer, info = wallet.secrets_key, info + b" of " + wallet.public_key
    first = await signer.sign_typed(message)
    second = await signer.sign_typed(message)
    # Such a wallet would give another secret after a restart, and the notes could not be found
    # again.
    if first != second:
        raise UnsteadySigner(wallet=wallet.address)
    return HKDF(algorithm=SHA256(), length=32, salt=message.digest(), info=info).derive(first[:64])


# --- keystores --------------------------------------------------------------------------------

SCRYPT_COST: Final = 1 << 18
"""scrypt's n for new keystores; takes about a second and 256 MB."""
_MOST_PASSWORD_BYTES: Final = 4096


async def save_keystore(
    path: Path, key: SecretKey, password: str, *, scrypt_cost: int = SCRYPT_COST
) -> None:
    """Write a new version 3 keystore that only its owner can read.

    Raises KeystoreExists, StorageError. The file appears whole or not at all. Cancelled: the
    thread finishes; the file may exist or not.
    """
    await trio.to_thread.run_sync(seal_keystore, path, key, password, scrypt_cost)


async def load_keystore(path: Path, password: str) -> KeyWallet:
    """Open a version 3 keystore (aes-128-ctr; scrypt, or pbkdf2 with hmac-sha256).

    A password that is not ASCII is tried as given and in Unicode's four normal forms, because
    programs and keyboards differ. The wallet's address is derived from the key; a file with another
    address is refused.
    Raises KeystoreUnreadable (damaged, or no keystore), KeystoreUnsupported (another cipher or key
    derivation, or one that would take too much memory or time), WrongPassword, FileNotPrivate,
    StorageError.
    Cancelled: the thread finishes, its key is dropped.
    """
    return KeyWallet(await trio.to_thread.run_sync(open_keystore, path, password))


def read_password(descriptor: int) -> str:
    """The password from an open file descriptor: its first line. Blocks; closes the descriptor.

    Raises WalletError if the descriptor is not open or has no data.
    """
    try:
        with os.fdopen(descriptor, "rb") as stream:
            line = stream.readline(_MOST_PASSWORD_BYTES + 1)
    except OSError as failed:
        raise WalletError(
            "no password could be read from the file descriptor",
            descriptor=descriptor,
            reason=failed.strerror,
        ) from None
    if len(line) > _MOST_PASSWORD_BYTES:
        raise WalletError(
            f"the password is longer than {_MOST_PASSWORD_BYTES} bytes", descriptor=descriptor
        )
    try:
        password = line.rstrip(b"\r\n").decode("utf-8-sig")  # some editors add a byte order mark
    except UnicodeDecodeError:
        raise WalletError("the password is not UTF-8", descriptor=descriptor) from None
    if not password:
        raise WalletError("the file descriptor gave an empty password", descriptor=descriptor)
    return password


# --- EIP-712 words ----------------------------------------------------------------------------
