//! Signatures made to measure: with any nonce, over any digest, or backwards from the two
//! multipliers that a verifier will compute. Nothing here is the core's.

use ark_ff::{BigInteger as _, Field as _, Fp256, MontBackend, MontConfig, PrimeField as _};
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, PublicKey, SecretKey};
use sha2::{Digest as _, Sha256};

/// The integers modulo the order n of the group.
#[derive(MontConfig)]
#[modulus = "115792089237316195423570985008687907852837564279074904382605163141518161494337"]
#[generator = "7"]
pub(crate) struct Order;

/// A number modulo n.
pub(crate) type Scalar = Fp256<MontBackend<Order, 4>>;

/// The order n, big-endian.
pub(crate) fn order() -> [u8; 32] {
    Scalar::MODULUS.to_bytes_be().try_into().unwrap()
}

/// The curve's modulus p = 2^256 − 2^32 − 977, big-endian.
pub(crate) fn modulus() -> [u8; 32] {
    let mut p = [0xff; 32];
    p[24..].copy_from_slice(&(u64::MAX - (1 << 32) - 976).to_be_bytes());
    p
}

/// The multiplier of the curve's endomorphism: λ·(x, y) = (β·x, y).
pub(crate) fn lambda() -> Scalar {
    // n − 1 is a multiple of 3; of the two cube roots of 1 beside 1 itself, either will do.
    let third: [u64; 4] = {
        let mut digits = (-Scalar::ONE).into_bigint().0;
        let mut rest = 0u128;
        for digit in digits.iter_mut().rev() {
            let whole = (rest << 64) | u128::from(*digit);
            (*digit, rest) = ((whole / 3) as u64, whole % 3);
        }
        digits
    };
    let root = (2u64..)
        .map(|base| Scalar::from(base).pow(third))
        .find(|root| *root != Scalar::ONE)
        .unwrap();
    assert_eq!(root * root + root + Scalar::ONE, Scalar::from(0u64));
    root
}

/// A big-endian number, reduced modulo n.
pub(crate) fn scalar(bytes: &[u8; 32]) -> Scalar {
    Scalar::from_be_bytes_mod_order(bytes)
}

/// The 32 bytes of a number, big-endian.
pub(crate) fn bytes(scalar: Scalar) -> [u8; 32] {
    scalar.into_bigint().to_bytes_be().try_into().unwrap()
}

/// The sum of two big-endian numbers; `None` if it takes more than 32 bytes.
pub(crate) fn plain_sum(a: &[u8; 32], b: &[u8; 32]) -> Option<[u8; 32]> {
    let mut sum = [0u8; 32];
    let mut carry = 0u16;
    for i in (0..32).rev() {
        let digit = u16::from(a[i]) + u16::from(b[i]) + carry;
        sum[i] = digit as u8;
        carry = digit >> 8;
    }
    (carry == 0).then_some(sum)
}

/// A number below 2^64 as 32 bytes.
pub(crate) fn small(number: u64) -> [u8; 32] {
    let mut bytes = [0u8; 32];
    bytes[24..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// 32 bytes that depend on a subject and a number and on nothing else.
pub(crate) fn drawn(subject: &str, number: usize) -> [u8; 32] {
    Sha256::digest(format!("{subject} {number}")).into()
}

/// The multiple of G by a number that is not zero.
pub(crate) fn times_g(scalar: Scalar) -> PublicKey {
    let secret = SecretKey::from_secret_bytes(bytes(scalar)).expect("not zero");
    PublicKey::from_secret_key(&secret)
}

/// The x and the y of a point.
pub(crate) fn coordinates(point: &PublicKey) -> ([u8; 32], [u8; 32]) {
    let whole = point.serialize_uncompressed();
    (
        whole[1..33].try_into().unwrap(),
        whole[33..].try_into().unwrap(),
    )
}

/// The point of an x whose y is odd or even, if there is one.
pub(crate) fn lift(x: &[u8; 32], odd: bool) -> Option<PublicKey> {
    let mut compressed = [0u8; 33];
    compressed[0] = 2 + u8::from(odd);
    compressed[1..].copy_from_slice(x);
    PublicKey::from_byte_array_compressed(compressed).ok()
}

/// What libsecp256k1 recovers from r and s, with any of its four recovery ids.
pub(crate) fn recovered(digest: &[u8; 32], r_s: &[u8; 64], id: RecoveryId) -> Option<PublicKey> {
    RecoverableSignature::from_compact(r_s, id)
        .and_then(|signature| signature.recover(Message::from_digest(*digest)))
        .ok()
}

/// A signature and everything that it is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    /// What was signed.
    pub(crate) digest: [u8; 32],
    /// r ‖ s ‖ v.
    pub(crate) signature: [u8; 65],
    /// The y of R, if it is stated.
    pub(crate) r_y: Option<[u8; 32]>,
    /// x ‖ y of the key; `None` where the claim names a key that the batch does not have.
    pub(crate) key: Option<[u8; 64]>,
}

impl Case {
    /// The same without R.y.
    pub(crate) fn plain(self) -> Self {
        Self { r_y: None, ..self }
    }

    /// The same under another key.
    pub(crate) fn under(self, key: &PublicKey) -> Self {
        Self {
            key: Some(octets(key)),
            ..self
        }
    }

    /// r, big-endian.
    pub(crate) fn r(&self) -> [u8; 32] {
        self.signature[..32].try_into().unwrap()
    }

    /// s, big-endian.
    pub(crate) fn s(&self) -> [u8; 32] {
        self.signature[32..64].try_into().unwrap()
    }

    /// The same with another r.
    pub(crate) fn with_r(mut self, r: &[u8; 32]) -> Self {
        self.signature[..32].copy_from_slice(r);
        self
    }

    /// The same with another s.
    pub(crate) fn with_s(mut self, s: &[u8; 32]) -> Self {
        self.signature[32..64].copy_from_slice(s);
        self
    }

    /// The same with another v.
    pub(crate) fn with_v(mut self, v: u8) -> Self {
        self.signature[64] = v;
        self
    }

    /// The same with the other of the two v.
    pub(crate) fn other_v(self) -> Self {
        self.with_v(self.signature[64] ^ 27 ^ 28)
    }

    /// The same with R.y − or the lack of it − as given.
    pub(crate) fn with_r_y(self, r_y: Option<[u8; 32]>) -> Self {
        Self { r_y, ..self }
    }

    /// The same with the digest moved so that its multiplier of G grows by a number.
    pub(crate) fn shifted(self, by: Scalar) -> Self {
        let digest = scalar(&self.digest) + by * scalar(&self.s());
        Self {
            digest: bytes(digest),
            ..self
        }
    }
}

/// x ‖ y of a point.
pub(crate) fn octets(point: &PublicKey) -> [u8; 64] {
    point.serialize_uncompressed()[1..].try_into().unwrap()
}

/// The y of the point that a signature's r and v give.
pub(crate) fn derived_y(signature: &[u8; 65]) -> Option<[u8; 32]> {
    let point = lift(signature[..32].try_into().unwrap(), signature[64] == 28)?;
    Some(coordinates(&point).1)
}

/// The signature of a digest with a nonce, in its low form and with R.y.
pub(crate) fn sign(secret: Scalar, nonce: Scalar, digest: &[u8; 32]) -> Case {
    let (x, _) = coordinates(&times_g(nonce));
    assert!(x < order(), "x(R) is its own remainder");
    let s = (scalar(digest) + scalar(&x) * secret) / nonce;
    finish(digest, nonce, s, &times_g(secret))
}

/// The signature whose verifier computes R as u1·G + u2·P, up to the sign of both.
pub(crate) fn sign_backwards(secret: Scalar, u1: Scalar, u2: Scalar) -> Case {
    let nonce = u1 + u2 * secret;
    let s = scalar(&coordinates(&times_g(nonce)).0) / u2;
    finish(&bytes(u1 * s), nonce, s, &times_g(secret))
}

fn finish(digest: &[u8; 32], nonce: Scalar, s: Scalar, key: &PublicKey) -> Case {
    assert_ne!(s, Scalar::from(0u64));
    let high = s.into_bigint() > (-s).into_bigint();
    let (s, nonce) = if high { (-s, -nonce) } else { (s, nonce) };
    let (x, y) = coordinates(&times_g(nonce));
    let mut signature = [0u8; 65];
    signature[..32].copy_from_slice(&x);
    signature[32..64].copy_from_slice(&bytes(s));
    signature[64] = 27 + (y[31] & 1);
    Case {
        digest: *digest,
        signature,
        r_y: Some(y),
        key: Some(octets(key)),
    }
}

/// A right signature of which nobody knows the nonce or the secret: R from its x, the key by
/// recovery.
pub(crate) fn keyless(digest: &[u8; 32], x: &[u8; 32], s: &[u8; 32], odd: bool) -> Option<Case> {
    let (_, y) = coordinates(&lift(x, odd)?);
    let mut signature = [0u8; 65];
    signature[..32].copy_from_slice(x);
    signature[32..64].copy_from_slice(s);
    signature[64] = 27 + u8::from(odd);
    let id = if odd {
        RecoveryId::One
    } else {
        RecoveryId::Zero
    };
    let key = recovered(digest, signature[..64].try_into().unwrap(), id)?;
    Some(Case {
        digest: *digest,
        signature,
        r_y: Some(y),
        key: Some(octets(&key)),
    })
}

/// Some right signatures by a few ordinary keys.
pub(crate) fn ordinary(subject: &str, count: usize) -> Vec<Case> {
    (0..count)
        .map(|i| {
            let secret = scalar(&drawn("ordinary secret", i % 3));
            let nonce = scalar(&drawn(&format!("{subject} nonce"), i));
            sign(secret, nonce, &drawn(subject, i))
        })
        .collect()
}
