//! Batches of every size at which an algorithm may change its ways, with few keys and many,
//! with R.y and without, all right and with faults in every kind of place.

use std::sync::LazyLock;

use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, PublicKey, SecretKey};

use super::oracle::{
    EVERY_LAYOUT, Judged, Keys, every_path_recovers_alike, every_path_refuses_alike, judged,
    the_front_refuses_alike, verdict,
};
use super::signing::{Case, bytes, derived_y, drawn, octets, order, scalar};

const SMALL: [usize; 16] = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65];
const MIDDLE: [usize; 4] = [127, 129, 255, 257];

/// By libsecp256k1 itself, with nonces of RFC 6979.
fn signed(secret: &SecretKey, digest: [u8; 32]) -> Case {
    let made = RecoverableSignature::sign_ecdsa_recoverable(Message::from_digest(digest), secret);
    let (id, r_s) = made.serialize_compact();
    let mut signature = [0u8; 65];
    signature[..64].copy_from_slice(&r_s);
    signature[64] = 27 + u8::from(id == RecoveryId::One);
    Case {
        digest,
        signature,
        r_y: derived_y(&signature),
        key: Some(octets(&PublicKey::from_secret_key(secret))),
    }
}

fn secret(subject: &str, number: usize) -> SecretKey {
    SecretKey::from_secret_bytes(drawn(subject, number)).unwrap()
}

/// Right claims, with the oracle's verdicts.
fn pool(count: usize, secret_of: impl Fn(usize) -> SecretKey) -> Vec<Judged> {
    let cases: Vec<Case> = (0..count)
        .map(|i| signed(&secret_of(i), drawn("digest", i)))
        .collect();
    let pool = judged(&cases);
    assert!(pool.iter().all(|judged| judged.verdict.is_none()));
    pool
}

static ONE_KEY: LazyLock<Vec<Judged>> =
    LazyLock::new(|| pool(4_096, |_| secret("the only secret", 0)));
static TWO_KEYS: LazyLock<Vec<Judged>> =
    LazyLock::new(|| pool(20_000, |i| secret("one of two secrets", i % 2)));
static SEVEN_KEYS: LazyLock<Vec<Judged>> =
    LazyLock::new(|| pool(4_096, |i| secret("one of seven secrets", i * i % 7)));
static OWN_KEYS: LazyLock<Vec<Judged>> = LazyLock::new(|| pool(20_000, |i| secret("secret", i)));

/// Whether R.y is stated.
#[derive(Clone, Copy, Debug)]
enum RY {
    Stated,
    Derived,
    Mixed,
}

const EVERY_R_Y: [RY; 3] = [RY::Stated, RY::Derived, RY::Mixed];

/// A right claim is as right without its R.y, so the verdicts of a pool stay.
fn batch(pool: &[Judged], count: usize, r_y: RY) -> Vec<Judged> {
    pool[..count]
        .iter()
        .enumerate()
        .map(|(i, judged)| {
            let stated = match r_y {
                RY::Stated => true,
                RY::Derived => false,
                RY::Mixed => i % 3 != 1,
            };
            let case = if stated {
                judged.case
            } else {
                judged.case.plain()
            };
            Judged { case, ..*judged }
        })
        .collect()
}

/// A claim spoilt in one of its parts; `kind` counts through them.
fn spoilt(case: &Case, kind: usize) -> Case {
    let mut spoilt = *case;
    match kind % 14 {
        0 => spoilt.digest[kind % 32] ^= 1 << (kind % 8),
        1 => spoilt.signature[kind % 32] ^= 1 << (kind % 8),
        2 => spoilt.signature[32 + 16 + kind % 16] ^= 1 << (kind % 8),
        3 => spoilt = spoilt.other_v(),
        4 => {
            spoilt = spoilt
                .other_v()
                .with_r_y(derived_y(&spoilt.other_v().signature))
        }
        5 => spoilt = spoilt.with_v(26),
        6 => {
            spoilt = spoilt.with_s(&bytes(-scalar(&spoilt.s()))).other_v();
        }
        7 => spoilt.r_y.iter_mut().for_each(|y| y[kind % 31] ^= 0x10),
        8 => spoilt.r_y = derived_y(&spoilt.other_v().signature),
        9 => {
            spoilt.key = Some(octets(&PublicKey::from_secret_key(&secret(
                "stranger", kind,
            ))))
        }
        10 => spoilt.key = None,
        11 => spoilt = spoilt.with_r(&[0; 32]),
        12 => spoilt = spoilt.with_r(&order()),
        _ => spoilt = spoilt.with_s(&[0; 32]),
    }
    spoilt
}

/// The batch with the claims at some places spoilt, each in another way.
fn with_faults(
    batch: &[Judged],
    places: impl IntoIterator<Item = usize>,
    kind: usize,
) -> Vec<Judged> {
    let mut batch = batch.to_vec();
    for (i, place) in places.into_iter().enumerate() {
        let case = spoilt(&batch[place].case, kind + i);
        batch[place] = Judged {
            case,
            verdict: verdict(&case),
        };
    }
    batch
}

/// Faults at both ends, in the middle, several, at every other place and everywhere.
fn every_damage(name: &str, right: &[Judged], keys: Keys) {
    let count = right.len();
    every_path_refuses_alike(&format!("{name}, all right"), right, keys);
    if count == 0 {
        return;
    }
    let every: [(&str, Vec<usize>); 6] = [
        ("the first wrong", vec![0]),
        ("the last wrong", vec![count - 1]),
        ("the middle one wrong", vec![count / 2]),
        (
            "several wrong",
            (0..count).filter(|i| i * i % 11 == 3).collect(),
        ),
        ("every other one wrong", (0..count).step_by(2).collect()),
        ("all wrong", (0..count).collect()),
    ];
    for (i, (damage, places)) in every.into_iter().enumerate() {
        let wrong = with_faults(right, places, count + 5 * i);
        every_path_refuses_alike(&format!("{name}, {damage}"), &wrong, keys);
    }
}

#[test]
fn small_batches_are_refused_exactly_where_the_oracle_refuses() {
    for (name, pool) in [
        ("one key", &*ONE_KEY),
        ("two keys", &TWO_KEYS),
        ("seven keys", &SEVEN_KEYS),
        ("own keys", &OWN_KEYS),
    ] {
        for count in SMALL {
            for (r_y, keys) in EVERY_R_Y.into_iter().zip(EVERY_LAYOUT) {
                let right = batch(pool, count, r_y);
                every_damage(&format!("{name}, {r_y:?}"), &right, keys);
            }
        }
    }
}

#[test]
fn middling_batches_are_refused_exactly_where_the_oracle_refuses() {
    for (i, (name, pool)) in [
        ("one key", &*ONE_KEY),
        ("two keys", &TWO_KEYS),
        ("seven keys", &SEVEN_KEYS),
        ("own keys", &OWN_KEYS),
    ]
    .into_iter()
    .enumerate()
    {
        for (j, count) in MIDDLE.into_iter().enumerate() {
            let (r_y, keys) = (EVERY_R_Y[(i + j) % 3], EVERY_LAYOUT[j % 3]);
            every_damage(&format!("{name}, {r_y:?}"), &batch(pool, count, r_y), keys);
        }
    }
}

#[test]
fn every_kind_of_fault_at_every_place_of_a_batch_is_found() {
    let right = batch(&SEVEN_KEYS, 19, RY::Mixed);
    for place in 0..right.len() {
        for kind in 0..14 {
            let wrong = with_faults(&right, [place], kind);
            every_path_refuses_alike("one wrong", &wrong, Keys::Once);
        }
    }
}

#[test]
fn a_thousand_claims_are_refused_exactly_where_the_oracle_refuses() {
    every_damage(
        "one key, R.y stated",
        &batch(&ONE_KEY, 1_000, RY::Stated),
        Keys::AmongOthers,
    );
    every_damage(
        "own keys, R.y derived",
        &batch(&OWN_KEYS, 1_000, RY::Derived),
        Keys::Once,
    );
}

#[test]
fn four_thousand_claims_are_refused_exactly_where_the_oracle_refuses() {
    for (pool, r_y, keys) in [
        (&*SEVEN_KEYS, RY::Mixed, Keys::EachTime),
        (&TWO_KEYS, RY::Derived, Keys::Once),
    ] {
        let right = batch(pool, 4_096, r_y);
        every_path_refuses_alike("all right", &right, keys);
        let wrong = with_faults(&right, [0, 17, 2_047, 2_048, 4_095], 3);
        every_path_refuses_alike("five wrong", &wrong, keys);
    }
}

#[test]
fn twenty_thousand_claims_are_refused_exactly_where_the_oracle_refuses() {
    let frames = batch(&TWO_KEYS, 20_000, RY::Stated);
    every_path_refuses_alike("two keys, all right", &frames, Keys::Once);
    let wrong = with_faults(&frames, [1, 9_999, 19_998], 0);
    every_path_refuses_alike("two keys, three wrong", &wrong, Keys::Once);
    let plain = batch(&OWN_KEYS, 20_000, RY::Derived);
    let wrong = with_faults(&plain, [12_345], 9);
    every_path_refuses_alike("own keys, one wrong", &wrong, Keys::Once);
}

#[test]
fn claims_in_another_order_are_refused_in_that_order() {
    for (count, places) in [(33, vec![2, 3, 20]), (500, vec![0, 250, 251, 499])] {
        let wrong = with_faults(&batch(&SEVEN_KEYS, count, RY::Mixed), places, 1);
        for order in 0..6 {
            let mut permuted: Vec<(usize, Judged)> = wrong.iter().copied().enumerate().collect();
            match order {
                0 => permuted.reverse(),
                1 => permuted.rotate_left(count / 3),
                2 => permuted.sort_by_key(|(_, judged)| judged.case.key),
                3 => permuted.sort_by_key(|(_, judged)| judged.verdict.is_none()),
                _ => permuted.sort_by_key(|(i, _)| drawn("order", i * 7 + order)),
            }
            let permuted: Vec<Judged> = permuted.into_iter().map(|(_, judged)| judged).collect();
            for keys in EVERY_LAYOUT {
                every_path_refuses_alike("permuted", &permuted, keys);
            }
        }
    }
}

#[test]
fn the_front_decides_as_every_path_with_any_number_of_threads() {
    let wrong = with_faults(&batch(&SEVEN_KEYS, 700, RY::Mixed), [0, 350, 699], 2);
    for threads in [0, 1, 2, 3, 5, 64, 1_000] {
        the_front_refuses_alike(&wrong, threads);
        the_front_refuses_alike(&wrong[..3], threads);
        the_front_refuses_alike(&[], threads);
    }
}

#[test]
fn keys_are_recovered_in_batches_of_every_size() {
    for count in SMALL.into_iter().chain(MIDDLE).chain([1_000]) {
        for faults in [0, 1, 5] {
            let right = batch(&OWN_KEYS, count, RY::Derived);
            let places = (0..count).filter(|i| faults > 0 && i % (1 + count / faults) == 1);
            let some = with_faults(&right, places, faults + count);
            let cases: Vec<Case> = some.iter().map(|judged| judged.case).collect();
            every_path_recovers_alike("sizes", &cases);
        }
    }
    let cases: Vec<Case> = OWN_KEYS.iter().map(|judged| judged.case).collect();
    every_path_recovers_alike("four thousand", &cases[..4_096]);
}
