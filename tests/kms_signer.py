"""A key service as AWS KMS, YubiHSM and Keycard are: it signs with a nonce drawn at random, so that
no two signatures of one digest are alike, and gives them in DER, with a high s half of the time."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from psymm.wallet import CallbackWallet, KeyWallet


def kms_wallet(secrets_key: KeyWallet | None, number: int | None = None) -> CallbackWallet:
    """number: the secret key, for the same wallet in another life."""
    key = ec.generate_private_key(ec.SECP256K1())
    if number is not None:
        key = ec.derive_private_key(number, ec.SECP256K1())
    point = key.public_key().public_numbers()

    async def sign(_: object, digest: bytes) -> bytes:
        # OpenSSL mixes fresh randomness into each nonce.
        return key.sign(digest, ec.ECDSA(Prehashed(SHA256())))

    return CallbackWallet(
        point.x.to_bytes(32) + point.y.to_bytes(32), sign, secrets_key=secrets_key
    )
