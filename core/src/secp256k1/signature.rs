//! Signatures and public keys: their one form, recovery, and addresses. All of it is public.

use core::fmt;

use ::secp256k1 as libsecp256k1;
use libsecp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use libsecp256k1::{Message, PublicKey as LibPublicKey};

use crate::keccak::{Digest, keccak256};

/// r ‖ s ‖ v.
pub type Signature = [u8; 65];

/// The order n of the group, big-endian.
pub const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe,
    0xba, 0xae, 0xdc, 0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36, 0x41, 0x41,
];

/// The largest s that is low: (n − 1) / 2, big-endian.
pub const HALF_ORDER: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0x5d, 0x57, 0x6e, 0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
];

/// What is wrong with a key or a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureError {
    /// r is zero or at least the group's order.
    BadR,
    /// s is zero or at least the group's order.
    BadS,
    /// s is in the upper half.
    HighS,
    /// v is neither 27 nor 28.
    BadV(u8),
    /// No key can have made the signature: r is not the x of a point, or the key would be
    /// the point at infinity.
    NoKey,
    /// The 64 bytes are not the coordinates of a point of the curve.
    BadPublicKey,
    /// The 32 bytes are zero or at least the group's order.
    BadSecretKey,
    /// The operating system gave no random bytes.
    NoRandomness,
}

impl SignatureError {
    /// The name by which programs tell the errors apart.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::BadR => "bad-r",
            Self::BadS => "bad-s",
            Self::HighS => "high-s",
            Self::BadV(_) => "bad-v",
            Self::NoKey => "no-key",
            Self::BadPublicKey => "bad-public-key",
            Self::BadSecretKey => "bad-secret-key",
            Self::NoRandomness => "no-randomness",
        }
    }
}

impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadR => f.write_str("r is not between 1 and the group's order less 1"),
            Self::BadS => f.write_str("s is not between 1 and the group's order less 1"),
            Self::HighS => f.write_str(
                "s is in the upper half of the group's order; sign with low s (replace s by n − s \
                 and flip v)",
            ),
            Self::BadV(v) => write!(f, "v is {v}; it must be 27 or 28"),
            Self::NoKey => f.write_str("no public key can be recovered from this signature"),
            Self::BadPublicKey => {
                f.write_str("the public key is not a point of secp256k1; give x ‖ y, 64 bytes")
            }
            Self::BadSecretKey => f.write_str(
                "the secret key is not between 1 and the group's order less 1; draw another",
            ),
            Self::NoRandomness => {
                f.write_str("the operating system gave no random bytes; try again")
            }
        }
    }
}

impl std::error::Error for SignatureError {}

/// A point of the curve that is not infinity, as x ‖ y.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub(super) [u8; 64]);

impl PublicKey {
    /// The key of coordinates x ‖ y, big-endian.
    ///
    /// # Errors
    /// [`SignatureError::BadPublicKey`] if they are not those of a point.
    pub fn from_bytes(bytes: [u8; 64]) -> Result<Self, SignatureError> {
        point(&bytes).ok_or(SignatureError::BadPublicKey)?;
        Ok(Self(bytes))
    }

    pub(super) fn from_lib(key: &LibPublicKey) -> Self {
        let mut bytes = [0u8; 64];
        bytes.copy_from_slice(&key.serialize_uncompressed()[1..]);
        Self(bytes)
    }

    /// x ‖ y, big-endian.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// The Ethereum address: the last 20 bytes of the key's Keccak-256.
    #[must_use]
    pub fn address(&self) -> [u8; 20] {
        let mut address = [0u8; 20];
        address.copy_from_slice(&keccak256(&self.0)[12..]);
        address
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", checksum_address(&self.address()))
    }
}

/// The mixed-case form of an address (EIP-55).
#[must_use]
pub fn checksum_address(address: &[u8; 20]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut lower = [0u8; 40];
    for (i, byte) in address.iter().enumerate() {
        lower[2 * i] = DIGITS[usize::from(byte >> 4)];
        lower[2 * i + 1] = DIGITS[usize::from(byte & 15)];
    }
    let digest = keccak256(&lower);
    let mut text = String::with_capacity(42);
    text.push_str("0x");
    for (i, digit) in lower.iter().enumerate() {
        let nibble = digest[i / 2] >> (if i % 2 == 0 { 4 } else { 0 }) & 15;
        text.push(char::from(if nibble >= 8 {
            digit.to_ascii_uppercase()
        } else {
            *digit
        }));
    }
    text
}

/// The point of coordinates x ‖ y, if it is one.
fn point(coordinates: &[u8; 64]) -> Option<LibPublicKey> {
    let mut uncompressed = [0u8; 65];
    uncompressed[0] = 4;
    uncompressed[1..].copy_from_slice(coordinates);
    LibPublicKey::from_byte_array_uncompressed(uncompressed).ok()
}

/// Refuses a signature whose r, s or v are out of range or not in their one form.
///
/// # Errors
/// `BadR`, `BadS`, `HighS` or `BadV`, in this order.
pub fn check_form(signature: &Signature) -> Result<(), SignatureError> {
    let (r, s, v) = (&signature[..32], &signature[32..64], signature[64]);
    if r == [0; 32] || r >= &ORDER[..] {
        return Err(SignatureError::BadR);
    }
    if s == [0; 32] || s >= &ORDER[..] {
        return Err(SignatureError::BadS);
    }
    if s > &HALF_ORDER[..] {
        return Err(SignatureError::HighS);
    }
    if v != 27 && v != 28 {
        return Err(SignatureError::BadV(v));
    }
    Ok(())
}

/// The key that made a signature of a digest. Variable time: everything here is public.
///
/// # Errors
/// As [`check_form`], and `NoKey` if no key can have made it.
pub fn recover(digest: &Digest, signature: &Signature) -> Result<PublicKey, SignatureError> {
    check_form(signature)?;
    let recovery_id = if signature[64] == 27 {
        RecoveryId::Zero
    } else {
        RecoveryId::One
    };
    RecoverableSignature::from_compact(&signature[..64], recovery_id)
        .and_then(|parsed| parsed.recover(Message::from_digest(*digest)))
        .map(|key| PublicKey::from_lib(&key))
        .map_err(|_| SignatureError::NoKey)
}

/// Whether a signature of a digest was made by a key: recovery gives exactly that key.
#[must_use]
pub fn verify(digest: &Digest, signature: &Signature, key: &PublicKey) -> bool {
    recover(digest, signature).is_ok_and(|recovered| recovered == *key)
}

/// The y of a signature's point R, from the public r and v alone.
///
/// # Errors
/// As [`check_form`], and `NoKey` if r is not the x of a point.
pub fn point_y(signature: &Signature) -> Result<[u8; 32], SignatureError> {
    check_form(signature)?;
    let mut compressed = [0u8; 33];
    // v 27 says that y is even, as prefix 2 does.
    compressed[0] = signature[64] - 25;
    compressed[1..].copy_from_slice(&signature[..32]);
    let key =
        LibPublicKey::from_byte_array_compressed(compressed).map_err(|_| SignatureError::NoKey)?;
    let mut y = [0u8; 32];
    y.copy_from_slice(&key.serialize_uncompressed()[33..]);
    Ok(y)
}

/// Whether y is exactly the y of the signature's point R: on the curve with r as x, below
/// the curve's modulus, and of the parity that v says. Costs no square root.
#[must_use]
pub fn is_point_y(signature: &Signature, y: &[u8; 32]) -> bool {
    let mut coordinates = [0u8; 64];
    coordinates[..32].copy_from_slice(&signature[..32]);
    coordinates[32..].copy_from_slice(y);
    check_form(signature).is_ok()
        && y[31] & 1 == signature[64] - 27
        && point(&coordinates).is_some()
}
