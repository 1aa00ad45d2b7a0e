//! The secret key and its signatures.

use core::fmt;

use ::secp256k1 as libsecp256k1;
use libsecp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use libsecp256k1::{Message, PublicKey as LibPublicKey, SecretKey as LibSecretKey};
use zeroize::Zeroizing;

use crate::keccak::Digest;
use crate::secp256k1::signature::{PublicKey, Signature, SignatureError, checksum_address};

/// A secret key. It is wiped when dropped and shows only its address.
pub struct SecretKey {
    /// On the heap, so that moving the key leaves no copies of the secret behind.
    secret: Box<LibSecretKey>,
    public: PublicKey,
}

impl SecretKey {
    /// A fresh key from the operating system's randomness.
    ///
    /// # Errors
    /// [`SignatureError::NoRandomness`] if there is none.
    pub fn generate() -> Result<Self, SignatureError> {
        let mut bytes = Zeroizing::new([0u8; 32]);
        loop {
            getrandom::fill(bytes.as_mut()).map_err(|_| SignatureError::NoRandomness)?;
            // One draw in 2^128 is out of range.
            if let Ok(key) = Self::from_bytes(&bytes) {
                return Ok(key);
            }
        }
    }

    /// The key of a big-endian number.
    ///
    /// # Errors
    /// [`SignatureError::BadSecretKey`] if it is zero or not below the group's order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, SignatureError> {
        let secret = LibSecretKey::from_secret_bytes(*bytes)
            .map(Box::new)
            .map_err(|_| SignatureError::BadSecretKey)?;
        let public = PublicKey::from_lib(&LibPublicKey::from_secret_key(&secret));
        Ok(Self { secret, public })
    }

    /// The public key.
    #[must_use]
    pub const fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// The secret itself, for a keystore. The copy is wiped when dropped.
    #[must_use]
    pub fn expose_secret_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.to_secret_bytes())
    }

    /// The signature of a digest, deterministic (RFC 6979), with low s.
    #[must_use]
    pub fn sign(&self, digest: &Digest) -> Signature {
        let message = Message::from_digest(*digest);
        // x(R) ≥ n happens once in 2^127 nonces and cannot be written with v 27 or 28; with
        // other nonce data the nonce is another.
        let mut attempt = 0u8;
        loop {
            let signed = if attempt == 0 {
                RecoverableSignature::sign_ecdsa_recoverable(message, &self.secret)
            } else {
                RecoverableSignature::sign_ecdsa_recoverable_with_noncedata(
                    message,
                    &self.secret,
                    &[attempt; 32],
                )
            };
            let (recovery_id, r_s) = signed.serialize_compact();
            let v = match recovery_id {
                RecoveryId::Zero => 27,
                RecoveryId::One => 28,
                RecoveryId::Two | RecoveryId::Three => {
                    attempt += 1;
                    continue;
                }
            };
            let mut signature = [0u8; 65];
            signature[..64].copy_from_slice(&r_s);
            signature[64] = v;
            return signature;
        }
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        // Volatile writes inside; the type gives no mutable view that zeroize could take.
        self.secret.non_secure_erase();
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", checksum_address(&self.public.address()))
    }
}
