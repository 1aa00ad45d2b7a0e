//! What is right: libsecp256k1's recovery under Ethereum's rules; and the comparison of every
//! path with it.

use _core::cpu;
use _core::secp256k1::batch::{
    Claim, ClaimFault, Refusal, recover_batch, recover_batch_with, verify_batch, verify_batch_with,
};
use _core::secp256k1::{PublicKey, SignatureError};
use secp256k1::ecdsa::{RecoveryId, Signature};
use secp256k1::{PublicKey as LibPublicKey, SecretKey};
use std::collections::HashMap;

use super::signing::{Case, derived_y, octets, ordinary, recovered};

/// Form by libsecp256k1's own readers: a number that is a secret key is between 1 and n − 1,
/// and an s that normalising leaves alone is low.
fn form(signature: &[u8; 65]) -> Result<(), SignatureError> {
    let number =
        |at: usize| SecretKey::from_secret_bytes(signature[at..at + 32].try_into().unwrap());
    if number(0).is_err() {
        return Err(SignatureError::BadR);
    }
    if number(32).is_err() {
        return Err(SignatureError::BadS);
    }
    let parsed = Signature::from_compact(&signature[..64]).unwrap();
    let mut low = parsed;
    low.normalize_s();
    if low != parsed {
        return Err(SignatureError::HighS);
    }
    match signature[64] {
        27 | 28 => Ok(()),
        v => Err(SignatureError::BadV(v)),
    }
}

/// The key that Ethereum's rules recover.
pub(crate) fn recover(
    digest: &[u8; 32],
    signature: &[u8; 65],
) -> Result<LibPublicKey, SignatureError> {
    form(signature)?;
    let id = match signature[64] {
        27 => RecoveryId::Zero,
        _ => RecoveryId::One,
    };
    recovered(digest, signature[..64].try_into().unwrap(), id).ok_or(SignatureError::NoKey)
}

/// What is wrong with a claim, if anything is.
pub(crate) fn verdict(case: &Case) -> Option<ClaimFault> {
    let Some(key) = case.key else {
        return Some(ClaimFault::NoSuchKey);
    };
    if let Err(error) = form(&case.signature) {
        return Some(ClaimFault::Form(error));
    }
    match (case.r_y, derived_y(&case.signature)) {
        (None, None) => return Some(ClaimFault::Form(SignatureError::NoKey)),
        (Some(stated), derived) if derived != Some(stated) => return Some(ClaimFault::BadRY),
        _ => {}
    }
    match recover(&case.digest, &case.signature) {
        Ok(recovered) if octets(&recovered) == key => None,
        _ => Some(ClaimFault::BadSignature),
    }
}

/// A case with the oracle's verdict.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judged {
    /// The case.
    pub(crate) case: Case,
    /// What is wrong with it.
    pub(crate) verdict: Option<ClaimFault>,
}

/// The oracle's verdict on each case.
pub(crate) fn judged(cases: &[Case]) -> Vec<Judged> {
    cases
        .iter()
        .map(|case| Judged {
            case: *case,
            verdict: verdict(case),
        })
        .collect()
}

/// How the keys of some claims are laid out in a batch's list.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keys {
    /// Each key once, in the order in which the claims need them.
    Once,
    /// The key of every claim again, so that the list holds equal keys.
    EachTime,
    /// Each key once, backwards, and after keys that no claim names.
    AmongOthers,
}

/// All ways to lay out keys.
pub(crate) const EVERY_LAYOUT: [Keys; 3] = [Keys::Once, Keys::EachTime, Keys::AmongOthers];

/// The keys of a batch, and the place of each case's key among them.
fn lay_out(judged: &[Judged], keys: Keys) -> (Vec<PublicKey>, Vec<usize>) {
    let key_of = |key: &[u8; 64]| PublicKey::from_bytes(*key).unwrap();
    let mut list: Vec<[u8; 64]> = Vec::new();
    let mut places = Vec::with_capacity(judged.len());
    match keys {
        Keys::Once | Keys::AmongOthers => {
            let mut known: HashMap<[u8; 64], usize> = HashMap::new();
            for Judged { case, .. } in judged {
                places.push(case.key.map(|key| {
                    *known.entry(key).or_insert_with(|| {
                        list.push(key);
                        list.len() - 1
                    })
                }));
            }
        }
        Keys::EachTime => {
            for Judged { case, .. } in judged {
                list.extend(case.key);
                places.push(case.key.map(|_| list.len() - 1));
            }
        }
    }
    if matches!(keys, Keys::AmongOthers) {
        let others = ordinary("keys of nobody", 3);
        let last = list.len() + others.len();
        list.extend(others.iter().filter_map(|other| other.key));
        list.reverse();
        places
            .iter_mut()
            .flatten()
            .for_each(|place| *place = last - 1 - *place);
    }
    let missing = [list.len(), usize::MAX];
    let places = places
        .into_iter()
        .enumerate()
        .map(|(i, place)| place.unwrap_or(missing[i % 2]))
        .collect();
    (list.iter().map(key_of).collect(), places)
}

/// The threads that every backend is tried with.
const THREADS: [usize; 2] = [1, 2];

fn first_difference<T: PartialEq + core::fmt::Debug>(got: &[T], expected: &[T]) -> String {
    let at = got
        .iter()
        .zip(expected)
        .position(|(got, expected)| got != expected)
        .unwrap_or(got.len().min(expected.len()));
    format!(
        "{} where the oracle has {}; the first that differs: {:?} where the oracle has {:?}",
        got.len(),
        expected.len(),
        got.get(at),
        expected.get(at)
    )
}

/// Whether every path refuses exactly what the oracle does, and for the same reasons.
///
/// # Panics
/// If one does not.
pub(crate) fn every_path_refuses_alike(what: &str, judged: &[Judged], keys: Keys) {
    let (list, places) = lay_out(judged, keys);
    let claims: Vec<Claim<'_>> = judged
        .iter()
        .zip(&places)
        .map(|(Judged { case, .. }, place)| Claim {
            digest: case.digest,
            signature: &case.signature,
            r_y: case.r_y.as_ref(),
            key: *place,
        })
        .collect();
    let expected: Vec<Refusal> = judged
        .iter()
        .enumerate()
        .filter_map(|(index, Judged { verdict, .. })| verdict.map(|fault| Refusal { index, fault }))
        .collect();
    for backend in cpu::available() {
        for threads in THREADS {
            let got = verify_batch_with(*backend, &list, &claims, threads);
            assert!(
                got == expected,
                "{what}, {} claims, {keys:?}, {backend:?}, threads {threads}: refusals are {}",
                claims.len(),
                first_difference(&got, &expected)
            );
        }
    }
}

/// Whether the function in front, left to choose backend and threads, decides as the oracle.
///
/// # Panics
/// If it does not.
pub(crate) fn the_front_refuses_alike(judged: &[Judged], threads: usize) {
    let (list, places) = lay_out(judged, Keys::Once);
    let claims: Vec<Claim<'_>> = judged
        .iter()
        .zip(&places)
        .map(|(Judged { case, .. }, place)| Claim {
            digest: case.digest,
            signature: &case.signature,
            r_y: case.r_y.as_ref(),
            key: *place,
        })
        .collect();
    let got: Vec<(usize, ClaimFault)> = verify_batch(&list, &claims, threads)
        .into_iter()
        .map(|refusal| (refusal.index, refusal.fault))
        .collect();
    let expected: Vec<(usize, ClaimFault)> = judged
        .iter()
        .enumerate()
        .filter_map(|(index, judged)| Some((index, judged.verdict?)))
        .collect();
    assert_eq!(got, expected, "threads {threads}");
}

/// Whether every path recovers exactly the keys, or errors, that the oracle does.
///
/// # Panics
/// If one does not.
pub(crate) fn every_path_recovers_alike(what: &str, cases: &[Case]) {
    let signed: Vec<([u8; 32], &[u8; 65])> = cases
        .iter()
        .map(|case| (case.digest, &case.signature))
        .collect();
    let expected: Vec<Result<[u8; 64], SignatureError>> = cases
        .iter()
        .map(|case| recover(&case.digest, &case.signature).map(|key| octets(&key)))
        .collect();
    let octets_of = |results: Vec<Result<PublicKey, SignatureError>>| -> Vec<_> {
        results
            .into_iter()
            .map(|result| result.map(|key| *key.as_bytes()))
            .collect()
    };
    for backend in cpu::available() {
        for threads in THREADS {
            let got = octets_of(recover_batch_with(*backend, &signed, threads));
            assert!(
                got == expected,
                "{what}, {backend:?}, threads {threads}: keys are {}",
                first_difference(&got, &expected)
            );
        }
    }
    assert_eq!(octets_of(recover_batch(&signed, 0)), expected, "{what}");
}

/// Whether some cases are judged as the oracle does: each alone, with R.y and without, all in
/// one batch with every layout of keys, among right ones, backwards, and by recovery.
///
/// # Panics
/// If they are not.
pub(crate) fn judged_alike(what: &str, cases: &[Case]) -> Vec<Judged> {
    let plain: Vec<Case> = cases.iter().map(|case| case.plain()).collect();
    let (stated, derived) = (judged(cases), judged(&plain));
    for judged in stated.iter().chain(&derived) {
        every_path_refuses_alike(what, &[*judged], Keys::Once);
    }
    let right = judged(&ordinary("right ones around", cases.len() + 9));
    assert!(right.iter().all(|judged| judged.verdict.is_none()));
    for list in [&stated, &derived] {
        for keys in EVERY_LAYOUT {
            every_path_refuses_alike(what, list, keys);
        }
        let backwards: Vec<Judged> = list.iter().rev().copied().collect();
        every_path_refuses_alike(what, &backwards, Keys::Once);
        let mut among: Vec<Judged> = list
            .iter()
            .zip(&right)
            .flat_map(|(judged, right)| [*right, *judged])
            .collect();
        among.extend(&right[list.len()..]);
        every_path_refuses_alike(what, &among, Keys::Once);
    }
    // Every other one states its R.y.
    let mixed: Vec<Judged> = stated
        .iter()
        .zip(&derived)
        .enumerate()
        .map(|(i, (stated, derived))| if i % 2 == 0 { *stated } else { *derived })
        .collect();
    every_path_refuses_alike(what, &mixed, Keys::Once);
    every_path_recovers_alike(what, cases);
    stated
}

/// Whether the oracle accepts all of some cases, stated R.y or not: that they are what their
/// maker says.
///
/// # Panics
/// If it does not.
pub(crate) fn all_are_right(cases: &[Case]) {
    for (i, case) in cases.iter().enumerate() {
        assert_eq!(verdict(case), None, "case {i}: {case:?}");
        assert_eq!(verdict(&case.plain()), None, "case {i}: {case:?}");
    }
}
