"""A wallet: whatever signs EIP-712 messages for a party's long-lived secp256k1 key.

Two kinds: `KeyWallet` holds the key in the core's `SecretKey` (from an Ethereum version 3
keystore, scrypt), `CallbackWallet` asks a function (hardware device, KMS, browser). Key bytes
live only in the core and, for the moment of sealing or opening, in a bytearray that is wiped.
Nothing here prints, logs or raises a secret.
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


SignFunction: TypeAlias = Callable[
    [dict[str, object] | None, bytes], Awaitable[bytes | bytearray | memoryview | str]
]


class CallbackWallet:
    """A wallet behind a function: a hardware device, a key service, a person.

    sign: given the EIP-712 object of `eth_signTypedData_v4` (None where a transaction is signed)
    and the digest of 32 bytes, returns a signature in any form that `signature_by` reads.
    secrets_key: a key on this machine from which the wallet's secrets (viewing, journal) are
    derived instead of from its signatures. A wallet that signs differently each time, as KMS and
    HSM do, needs one. It signs nothing for the wallet. Keep it as a keystore, and back that up:
    without it notes cannot be found nor spent again.
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
        """65 bytes over a transaction's digest, so that the wallet can pay for it. Raises and is
        cancelled like `sign_typed`."""
        return signature_by(self.address, digest, await self._sign(None, digest))

    def __repr__(self) -> str:
        return f"CallbackWallet({self.address})"


# --- secrets that a wallet's signature gives --------------------------------------------------


async def derive_secret(wallet: Wallet, message: TypedMessage, purpose: str) -> bytes:
    """32 bytes that only this wallet can make again: HKDF-SHA256 of its signature.

    Of a wallet with a `secrets_key`, that key's signature is taken and the wallet's public key
    added, so that one key serves several wallets. The signature is asked twice and refused
    (UnsteadySigner) if the two differ. Cancelled: raises Cancelled, nothing is kept.
    """
    signer, info = wallet, b"pSymm " + purpose.encode()
    if isinstance(wallet, CallbackWallet) and wallet.secrets_key is not None:
        signer, info = wallet.secrets_key, info + b" of " + wallet.public_key
    first = await signer.sign_typed(message)
    second = await signer.sign_typed(message)
    if first != second:
        raise UnsteadySigner(wallet=wallet.address)
    return HKDF(algorithm=SHA256(), length=32, salt=message.digest(), info=info).derive(first[:64])


# --- keystores --------------------------------------------------------------------------------

SCRYPT_COST: Final = 1 << 18
"""scrypt's n for new keystores: about a second and 256 MB."""
_MOST_PASSWORD_BYTES: Final = 4096


async def save_keystore(
    path: Path, key: SecretKey, password: str, *, scrypt_cost: int = SCRYPT_COST
) -> None:
    """Write a new version 3 keystore, readable by its owner only.

    Raises KeystoreExists, StorageError. The file appears whole or not at all. Cancelled: the
    thread finishes; the file may or may not stand.
    """
    await trio.to_thread.run_sync(seal_keystore, path, key, password, scrypt_cost)


async def load_keystore(path: Path, password: str) -> KeyWallet:
    """Open a version 3 keystore (aes-128-ctr; scrypt, or pbkdf2 with hmac-sha256).

    A password that is not ASCII is tried as given and in Unicode's four normal forms, since
    programs and keyboards differ. The wallet's address is the key's; a file that states another
    is refused.
    Raises KeystoreUnreadable (damaged, or no keystore), KeystoreUnsupported (another cipher or key
    derivation, or one that would take too much memory or time), WrongPassword, FileNotPrivate,
    StorageError.
    Cancelled: the thread finishes, its key is dropped.
    """
    return KeyWallet(await trio.to_thread.run_sync(open_keystore, path, password))


def read_password(descriptor: int) -> str:
    """The password that waits on an open file descriptor: its first line. Blocks; closes it.

    Raises WalletError where the descriptor is not open or gives nothing.
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
        password = line.rstrip(b"\r\n").decode("utf-8-sig")  # editors put a mark before UTF-8
    except UnicodeDecodeError:
        raise WalletError("the password is not UTF-8", descriptor=descriptor) from None
    if not password:
        raise WalletError("the file descriptor gave an empty password", descriptor=descriptor)
    return password


# --- EIP-712 words ----------------------------------------------------------------------------
