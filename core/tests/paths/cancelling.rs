//! Errors that cancel: batches whose equations are wrong one by one and right in some sum of
//! small multiples, so that only unpredictable coefficients tell.

use super::oracle::{Judged, Keys, every_path_refuses_alike, judged};
use super::signing::{
    Case, Scalar, derived_y, drawn, ordinary, scalar, sign, sign_backwards, times_g,
};

/// A factor that may be negative.
fn factor(factor: i64) -> Scalar {
    let magnitude = Scalar::from(factor.unsigned_abs());
    if factor < 0 { -magnitude } else { magnitude }
}

/// Judges some wrong claims by themselves, next to each other and spread among right ones.
fn judged_alike_among_right_ones(what: &str, wrong: &[Case]) {
    let wrong = judged(wrong);
    assert!(
        wrong.iter().all(|judged| judged.verdict.is_some()),
        "{what}: a claim of these is right"
    );
    every_path_refuses_alike(what, &wrong, Keys::Once);
    let wrongs = wrong.len();
    for count in [6, 30, 62, 300] {
        let right = judged(&ordinary(what, count));
        let together: Vec<Judged> = right[..count / 2]
            .iter()
            .chain(&wrong)
            .chain(&right[count / 2..])
            .copied()
            .collect();
        every_path_refuses_alike(what, &together, Keys::Once);
        let mut spread = right;
        for (i, wrong) in wrong.iter().enumerate() {
            spread.insert((i + 1) * spread.len() / (wrongs + 1), *wrong);
        }
        every_path_refuses_alike(what, &spread, Keys::Once);
    }
}

#[test]
fn two_errors_that_cancel_are_both_found() {
    for (i, (one, other)) in [
        (1, -1),
        (1, 1),
        (1, -2),
        (2, -1),
        (3, -5),
        (7, -4),
        (1, -16),
        (255, -256),
        (1, i64::MIN + 1),
    ]
    .into_iter()
    .enumerate()
    {
        let error = scalar(&drawn("error", i));
        for error in [error, Scalar::from(1u64), -Scalar::from(1u64)] {
            let right = ordinary("shifted", 2);
            let wrong = [
                right[0].shifted(factor(one) * error),
                right[1].shifted(factor(other) * error),
            ];
            judged_alike_among_right_ones(&format!("{one} and {other}"), &wrong);
        }
    }
}

#[test]
fn three_errors_and_more_that_cancel_are_all_found() {
    for factors in [
        vec![1, 1, -2],
        vec![1, 2, -3],
        vec![1, -2, 1],
        vec![1, 1, 1, -1, -1, -1],
        vec![1, -1, 1, -1, 1, -1, 1, -1],
        vec![1, 2, 4, 8, -15],
        vec![5, -3, -3, 5, -4],
    ] {
        let error = scalar(&drawn("error", factors.len()));
        let right = ordinary("shifted", factors.len());
        let wrong: Vec<Case> = right
            .iter()
            .zip(&factors)
            .map(|(case, multiple)| case.shifted(factor(*multiple) * error))
            .collect();
        judged_alike_among_right_ones(&format!("{factors:?}"), &wrong);
    }
}

#[test]
fn a_batch_of_nothing_but_errors_that_cancel_is_refused_whole() {
    for count in [16, 64, 256, 1_024] {
        let error = scalar(&drawn("error", count));
        // Opposite neighbours, opposite halves, and a rising sequence with its sum taken back.
        for shape in 0..3 {
            let mut sum = 0i64;
            let wrong: Vec<Case> = ordinary("shifted", count)
                .iter()
                .enumerate()
                .map(|(i, case)| {
                    let multiple = match shape {
                        0 => 1 - 2 * (i as i64 % 2),
                        1 => 1 - 2 * i64::from(i < count / 2),
                        _ if i + 1 == count => -sum,
                        _ => i as i64 + 1,
                    };
                    sum += multiple;
                    case.shifted(factor(multiple) * error)
                })
                .collect();
            assert_eq!(sum, 0);
            let wrong = judged(&wrong);
            assert!(wrong.iter().all(|judged| judged.verdict.is_some()));
            every_path_refuses_alike("errors alone", &wrong, Keys::Once);
        }
    }
}

#[test]
fn two_points_replaced_by_their_opposites_are_both_found() {
    // The errors are −2R and 2R: signatures with opposite points, each stated with the other's.
    let secret = scalar(&drawn("secret", 0));
    let nonce = scalar(&drawn("nonce", 0));
    let both: Vec<Case> = (0..64)
        .map(|i| sign(secret, nonce, &drawn("digest", i)))
        .collect();
    let even = both.iter().find(|case| case.signature[64] == 27).unwrap();
    let odd = both.iter().find(|case| case.signature[64] == 28).unwrap();
    let turned = |case: &Case| {
        let turned = case.other_v();
        turned.with_r_y(derived_y(&turned.signature))
    };
    let wrong = [turned(even), turned(odd)];
    judged_alike_among_right_ones("opposite points", &wrong);
    let plain = wrong.map(|case| case.plain());
    judged_alike_among_right_ones("opposite points, derived", &plain);
    // And the two points exchanged between the two claims, which is the same in a plain sum.
    let exchanged = [
        Case {
            digest: odd.digest,
            ..*even
        },
        Case {
            digest: even.digest,
            ..*odd
        },
    ];
    judged_alike_among_right_ones("exchanged digests", &exchanged);
}

#[test]
fn two_keys_exchanged_between_equal_multipliers_are_both_found() {
    // u2·(P′ − P) and u2·(P − P′).
    let (one, other) = (scalar(&drawn("secret", 1)), scalar(&drawn("secret", 2)));
    let u2 = scalar(&drawn("multiplier", 0));
    let low = |secret: Scalar, wanted: Scalar| {
        (0..)
            .map(|i| sign_backwards(secret, scalar(&drawn("other multiplier", i)), wanted))
            .find(|case| scalar(&case.r()) / scalar(&case.s()) == wanted)
            .unwrap()
    };
    let wrong = [
        low(one, u2).under(&times_g(other)),
        low(other, u2).under(&times_g(one)),
    ];
    judged_alike_among_right_ones("exchanged keys", &wrong);
    // Under one key, with multipliers that add up to nothing: u2·(P′ − P) twice, once negated.
    let wrong = [
        low(one, u2).under(&times_g(other)),
        low(one, -u2).under(&times_g(other)),
    ];
    judged_alike_among_right_ones("opposite multipliers", &wrong);
}

#[test]
fn the_same_wrong_claim_an_even_number_of_times_is_found_each_time() {
    // Coefficients that are signs alone would let pairs of these cancel.
    let right = ordinary("repeated", 1)[0];
    let wrong = right.shifted(scalar(&drawn("error", 0)));
    for count in [2, 4, 64] {
        judged_alike_among_right_ones("repeated", &vec![wrong; count]);
    }
}

#[test]
fn right_and_wrong_claims_of_one_signature_are_told_apart() {
    let right = ordinary("told apart", 1)[0];
    let error = scalar(&drawn("error", 0));
    let mut cases = Vec::new();
    for i in 0..40u64 {
        cases.push(right);
        cases.push(right.shifted(error * Scalar::from(i + 1)));
        cases.push(right.shifted(-error * Scalar::from(i + 1)));
    }
    every_path_refuses_alike("one signature", &judged(&cases), Keys::Once);
}
