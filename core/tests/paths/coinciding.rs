//! Batches whose points are equal, opposite, or multiples of one another, so that sums inside
//! meet doublings and infinity where a formula for unequal points gives nonsense.

use super::oracle::{EVERY_LAYOUT, Judged, every_path_refuses_alike, judged, verdict};
use super::signing::{Case, Scalar, drawn, lambda, scalar, sign};

/// Judges right claims as they are, without R.y, and with a few of them spoilt.
fn judged_alike_in_bulk(what: &str, right: &[Case]) {
    let stated = judged(right);
    assert!(
        stated.iter().all(|judged| judged.verdict.is_none()),
        "{what}"
    );
    for keys in EVERY_LAYOUT {
        every_path_refuses_alike(what, &stated, keys);
    }
    let plain: Vec<Judged> = stated
        .iter()
        .map(|judged| Judged {
            case: judged.case.plain(),
            verdict: None,
        })
        .collect();
    every_path_refuses_alike(what, &plain, EVERY_LAYOUT[0]);
    let mut wrong = stated;
    let count = wrong.len();
    for (i, place) in [0, count / 3, count / 3 + 1, count - 1]
        .into_iter()
        .enumerate()
    {
        let mut case = wrong[place].case;
        if i % 2 == 0 {
            case.digest[31] ^= 1;
        } else {
            case = case.other_v().plain();
        }
        wrong[place] = Judged {
            case,
            verdict: verdict(&case),
        };
    }
    every_path_refuses_alike(what, &wrong, EVERY_LAYOUT[0]);
}

fn secret(number: usize) -> Scalar {
    scalar(&drawn("coinciding secret", number))
}

fn nonce(number: usize) -> Scalar {
    scalar(&drawn("coinciding nonce", number))
}

fn digest(number: usize) -> [u8; 32] {
    drawn("coinciding digest", number)
}

#[test]
fn the_same_claim_many_times_over_is_judged_each_time() {
    let right = sign(secret(0), nonce(0), &digest(0));
    for count in [2, 3, 8, 9, 64, 1_000] {
        judged_alike_in_bulk("identical", &vec![right; count]);
    }
    let mut wrong = right;
    wrong.digest[0] ^= 1;
    for count in [2, 9, 300] {
        every_path_refuses_alike(
            "identical, wrong",
            &judged(&vec![wrong; count]),
            EVERY_LAYOUT[0],
        );
        every_path_refuses_alike(
            "identical, wrong",
            &judged(&vec![wrong.plain(); count]),
            EVERY_LAYOUT[0],
        );
    }
}

#[test]
fn the_same_point_under_several_digests_and_keys_is_judged_alike() {
    for keys in [1, 2, 40] {
        let right: Vec<Case> = (0..160)
            .map(|i| sign(secret(i % keys), nonce(0), &digest(i)))
            .collect();
        judged_alike_in_bulk("one R", &right);
    }
}

#[test]
fn a_point_and_its_opposite_in_one_batch_are_judged_alike() {
    for count in [2, 4, 16, 130, 700] {
        // Which of ±R a signature has is decided by its s; both come about equally often.
        let right: Vec<Case> = (0..count)
            .map(|i| sign(secret(i % 2), nonce(0), &digest(i)))
            .collect();
        let odd = right.iter().filter(|case| case.signature[64] == 28).count();
        assert!(count < 16 || (odd > count / 5 && odd < count * 4 / 5));
        judged_alike_in_bulk("±R", &right);
    }
}

#[test]
fn images_under_the_endomorphism_in_one_batch_are_judged_alike() {
    let lambda = lambda();
    let images = [Scalar::from(1u64), lambda, lambda * lambda];
    for count in [3, 6, 33, 300] {
        // R, λR and λ²R, which add up to nothing; and the same of the keys.
        let of_points: Vec<Case> = (0..count)
            .map(|i| sign(secret(0), nonce(0) * images[i % 3], &digest(i)))
            .collect();
        judged_alike_in_bulk("λR", &of_points);
        let of_keys: Vec<Case> = (0..count)
            .map(|i| sign(secret(0) * images[i % 3], nonce(i), &digest(i)))
            .collect();
        judged_alike_in_bulk("λP", &of_keys);
        let of_both: Vec<Case> = (0..count)
            .map(|i| {
                sign(
                    secret(0) * images[i % 3],
                    nonce(0) * images[i / 3 % 3],
                    &digest(i),
                )
            })
            .collect();
        judged_alike_in_bulk("λR and λP", &of_both);
    }
}

#[test]
fn nonces_in_arithmetic_progression_are_judged_alike() {
    for count in [9, 65, 300] {
        for (what, start, step) in [
            ("G, 2G, 3G …", Scalar::from(1u64), Scalar::from(1u64)),
            ("R, 2R, 3R …", nonce(0), nonce(0)),
            ("R, R + D, R + 2D …", nonce(0), nonce(1)),
            ("R, R − G, R − 2G …", nonce(0), -Scalar::from(1u64)),
        ] {
            let mut next = start;
            let right: Vec<Case> = (0..count)
                .map(|i| {
                    let case = sign(secret(i % 2), next, &digest(i));
                    next += step;
                    case
                })
                .collect();
            judged_alike_in_bulk(what, &right);
        }
    }
}

#[test]
fn nonces_that_double_are_judged_alike() {
    let mut next = nonce(0);
    let right: Vec<Case> = (0..256)
        .map(|i| {
            let case = sign(secret(0), next, &digest(i));
            next += next;
            case
        })
        .collect();
    judged_alike_in_bulk("R, 2R, 4R …", &right);
}

#[test]
fn a_few_small_multiples_again_and_again_are_judged_alike() {
    // So few different points that sums of them are equal or opposite wherever two meet.
    let base = nonce(0);
    for few in [2u64, 3, 4, 9] {
        let right: Vec<Case> = (0..800)
            .map(|i| {
                let multiple = Scalar::from(1 + i as u64 * i as u64 % few);
                sign(secret(i % 3), base * multiple, &digest(i))
            })
            .collect();
        judged_alike_in_bulk("few multiples", &right);
    }
}

#[test]
fn keys_in_arithmetic_progression_are_judged_alike() {
    for (what, start, step) in [
        ("G, 2G, 3G …", Scalar::from(1u64), Scalar::from(1u64)),
        ("P, 2P, 3P …", secret(0), secret(0)),
        ("−P, P − P′ …", -secret(0), secret(1)),
    ] {
        let mut next = start;
        let right: Vec<Case> = (0..200)
            .map(|i| {
                let case = sign(next, nonce(i), &digest(i));
                next += step;
                case
            })
            .collect();
        judged_alike_in_bulk(what, &right);
    }
}

#[test]
fn opposite_keys_in_one_batch_are_judged_alike() {
    for count in [2, 10, 128] {
        let right: Vec<Case> = (0..count)
            .map(|i| {
                let secret = if i % 2 == 0 { secret(0) } else { -secret(0) };
                sign(secret, nonce(i / 2), &digest(i / 4))
            })
            .collect();
        judged_alike_in_bulk("±P", &right);
    }
}

#[test]
fn keys_and_points_that_are_all_small_multiples_of_g_are_judged_alike() {
    let right: Vec<Case> = (0..400u64)
        .map(|i| {
            let (secret, nonce) = (Scalar::from(1 + i % 7), Scalar::from(1 + i * i % 31));
            let digest = if i % 5 == 0 {
                [0; 32]
            } else {
                super::signing::small(i)
            };
            sign(secret, nonce, &digest)
        })
        .collect();
    judged_alike_in_bulk("small multiples of G", &right);
}
