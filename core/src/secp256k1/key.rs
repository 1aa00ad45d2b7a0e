//! The secret key and its signatures.
//!
//! # Blinding
//!
//! To sign is to compute k·G for a secret nonce k. libsecp256k1 does this in constant time: no
//! branch and no address depends on k. As a second line, against a compiler or a processor that
//! leaks all the same, a context holds a random number b; it computes (k − b)·G + b·G, from random
//! projective coordinates. What leaks then tells of k − b.
//!
//! The crate draws a new b after each signature, which costs as much as the signature itself, and
//! none before a thread's first. We draw it before a thread's first signature, and before each
//! sixteenth after it. This stays sound:
//!
//! - No signature depends on b. Nonces are those of RFC 6979, so its bytes are the same for any b.
//! - No two digests share a nonce, so there are no traces of one k to average. Who has one digest
//!   signed many times gets at most sixteen of one k − b.
//! - What becomes weaker is the second line alone: whoever could read bits of k − b would learn of
//!   differences between sixteen nonces. That takes a leak in the code that is written and tested
//!   to have none.
//! - libsecp256k1 asks for one draw after a context is made and recommends more "before every few
//!   computations"; Bitcoin Core draws once, when it starts.
//!
//! A context belongs to one thread and is borrowed for one call, so no draw meets a signature.

use core::cell::Cell;
use core::{fmt, ptr};

use ::secp256k1 as libsecp256k1;
use libsecp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use libsecp256k1::ffi::{self, CPtr as _};
use libsecp256k1::{PublicKey as LibPublicKey, SecretKey as LibSecretKey};
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
        // x(R) ≥ n happens once in 2^127 nonces and cannot be written with v 27 or 28; with
        // other nonce data the nonce is another.
        let mut attempt = 0u8;
        loop {
            let nonce_data = [attempt; 32];
            let signed = self.sign_recoverable(digest, (attempt > 0).then_some(&nonce_data));
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

    /// Signs as the crate's own function does, but for the draw after it.
    fn sign_recoverable(
        &self,
        digest: &Digest,
        nonce_data: Option<&[u8; 32]>,
    ) -> RecoverableSignature {
        if BLINDING.with(Blinding::is_due) {
            self.blind(digest);
        }
        let mut signature = ffi::recovery::RecoverableSignature::new();
        let signed = libsecp256k1::with_raw_global_context(
            // SAFETY: the context is this thread's, can sign, and is borrowed for the call. Digest
            // and secret are 32 bytes, the nonce data too or null, and all outlive the call.
            |context| unsafe {
                ffi::recovery::secp256k1_ecdsa_sign_recoverable(
                    context.as_ptr(),
                    &mut signature,
                    digest.as_ptr(),
                    self.secret.as_c_ptr(),
                    ffi::secp256k1_nonce_function_rfc6979,
                    nonce_data.map_or(ptr::null(), |data| data.as_ptr().cast()),
                )
            },
            None,
        );
        assert_eq!(signed, 1, "a key in range signs every digest");
        RecoverableSignature::from(signature)
    }

    /// Draws another b for this thread's context. Each draw mixes in the one before.
    fn blind(&self, digest: &Digest) {
        let mut seed = Zeroizing::new([0u8; 32]);
        if getrandom::fill(seed.as_mut()).is_err() {
            // Nobody else knows this either; it is the crate's own seed.
            *seed = self.secret.to_secret_bytes();
            seed.iter_mut().zip(digest).for_each(|(s, d)| *s ^= d);
        }
        libsecp256k1::rerandomize_global_context(&seed);
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

/// So many signatures share a b.
const SIGNATURES_PER_BLINDING: u32 = 16;

thread_local! {
    static BLINDING: Blinding = const { Blinding(Cell::new(0)) };
}

/// Counts a thread's signatures down to its next draw.
struct Blinding(Cell<u32>);

impl Blinding {
    /// Whether the signature that follows needs another b first.
    fn is_due(&self) -> bool {
        let left = self.0.get();
        self.0.set(
            if left == 0 {
                SIGNATURES_PER_BLINDING
            } else {
                left
            } - 1,
        );
        left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libsecp256k1::Message;

    #[test]
    fn the_first_signature_and_each_sixteenth_after_it_are_blinded_anew() {
        let blinding = Blinding(Cell::new(0));
        let due: Vec<usize> = (0..50).filter(|_| blinding.is_due()).collect();
        assert_eq!(due, [0, 16, 32, 48]);
    }

    #[test]
    fn signatures_equal_those_of_the_crate_whatever_blinds_them() {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let sign_many = || {
            for n in 0..3 * SIGNATURES_PER_BLINDING as u8 {
                let digest = [n; 32];
                let message = Message::from_digest(digest);
                let data = [n; 32];
                assert_eq!(
                    key.sign_recoverable(&digest, None),
                    RecoverableSignature::sign_ecdsa_recoverable(message, &key.secret)
                );
                assert_eq!(
                    key.sign_recoverable(&digest, Some(&data)),
                    RecoverableSignature::sign_ecdsa_recoverable_with_noncedata(
                        message,
                        &key.secret,
                        &data
                    )
                );
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(sign_many);
            }
            sign_many();
        });
    }
}
