//! Signatures made by hand to stand on the edges of the rules and of the group law, each alone
//! and in batches.

use ark_ff::Field as _;
use secp256k1::Message;
use secp256k1::ecdsa::{RecoveryId, Signature};

use _core::secp256k1::SignatureError;
use _core::secp256k1::batch::ClaimFault;

use super::oracle::{all_are_right, judged_alike, verdict};
use super::signing::{
    Case, Scalar, bytes, coordinates, derived_y, drawn, keyless, lambda, lift, modulus, octets,
    order, ordinary, plain_sum, recovered, scalar, sign, sign_backwards, small, times_g,
};

fn number(number: u64) -> Scalar {
    Scalar::from(number)
}

/// Secrets whose keys are where formulas go wrong: ±G, ±2G, G/2, and the images of G.
fn remarkable() -> Vec<Scalar> {
    let two = number(2);
    vec![
        number(1),
        -number(1),
        two,
        -two,
        number(3),
        two.inverse().unwrap(),
        -two.inverse().unwrap(),
        lambda(),
        -lambda(),
        lambda() * lambda(),
        -(lambda() * lambda()),
        lambda() + number(1),
        number(1) - lambda(),
        scalar(&drawn("an ordinary secret", 0)),
    ]
}

/// Each case, and each with one thing wrong.
fn with_faults(cases: &[Case]) -> Vec<Case> {
    let mut all = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        all.push(*case);
        let mut wrong = *case;
        match i % 3 {
            0 => wrong.digest[31] ^= 1,
            1 => wrong = wrong.other_v(),
            _ => wrong = wrong.under(&times_g(scalar(&drawn("another secret", i)))),
        }
        all.push(wrong);
    }
    all
}

#[test]
fn keys_that_are_multiples_of_the_generator_are_judged_alike() {
    let mut cases = Vec::new();
    for (i, secret) in remarkable().into_iter().enumerate() {
        for j in 0..2 {
            let nonce = scalar(&drawn("nonce", 10 * i + j));
            cases.push(sign(secret, nonce, &drawn("digest", j)));
        }
    }
    all_are_right(&cases);
    judged_alike("remarkable keys", &with_faults(&cases));
}

#[test]
fn nonces_that_are_remarkable_are_judged_alike() {
    let secret = scalar(&drawn("an ordinary secret", 1));
    let cases: Vec<Case> = remarkable()
        .into_iter()
        .enumerate()
        .map(|(i, nonce)| sign(secret, nonce, &drawn("digest", i)))
        .collect();
    all_are_right(&cases);
    judged_alike("remarkable nonces", &with_faults(&cases));
}

#[test]
fn a_key_that_is_the_signatures_own_point_is_judged_alike() {
    // P = R, P = −R and P = λR, for ordinary and for remarkable keys.
    let mut cases = Vec::new();
    for (i, secret) in remarkable().into_iter().enumerate() {
        for nonce in [secret, -secret, lambda() * secret] {
            cases.push(sign(secret, nonce, &drawn("digest", i)));
        }
    }
    all_are_right(&cases);
    judged_alike("P = ±R", &with_faults(&cases));
}

#[test]
fn multipliers_that_are_zero_or_remarkable_are_judged_alike() {
    let mut cases = Vec::new();
    for secret in [
        scalar(&drawn("an ordinary secret", 2)),
        number(1),
        -number(1),
    ] {
        // u1 = 0: the digest is a multiple of n. (u2 = 0 would need r = 0, which is out of form.)
        cases.push(sign(secret, scalar(&drawn("nonce", 0)), &[0; 32]));
        cases.push(sign(secret, scalar(&drawn("nonce", 1)), &order()));
        for u2 in remarkable() {
            for u1 in [number(0), number(1), -number(1), lambda()] {
                if u1 + u2 * secret != number(0) {
                    cases.push(sign_backwards(secret, u1, u2));
                }
            }
        }
    }
    all_are_right(&cases);
    judged_alike("multipliers", &cases);
    judged_alike("multipliers, wrong", &with_faults(&cases));
}

#[test]
fn two_halves_that_are_equal_or_opposite_are_judged_alike() {
    let mut cases = Vec::new();
    for (i, secret) in remarkable().into_iter().enumerate() {
        let u2 = scalar(&drawn("multiplier", i));
        // u1·G = u2·P: the last addition doubles. And u1·G = 2·u2·P, u1·G = −2·u2·P.
        for u1 in [
            u2 * secret,
            number(2) * u2 * secret,
            -number(2) * u2 * secret,
        ] {
            cases.push(sign_backwards(secret, u1, u2));
        }
    }
    all_are_right(&cases);
    // u1·G = −u2·P: the last addition gives infinity, which is the R of no signature.
    for (i, secret) in remarkable().into_iter().enumerate() {
        let case = sign(secret, scalar(&drawn("nonce", i)), &drawn("digest", i));
        let digest = bytes(-scalar(&case.r()) * secret);
        cases.push(Case { digest, ..case });
    }
    judged_alike("halves", &cases);
}

#[test]
fn a_signature_that_recovers_infinity_is_nobodys() {
    let mut cases = Vec::new();
    for (i, nonce) in remarkable().into_iter().enumerate() {
        // s·R = z·G, so the key would be (s·R − z·G)/r = infinity.
        let case = sign(number(5), nonce, &drawn("digest", i));
        let odd = case.signature[64] == 28;
        let (_, y) = coordinates(&times_g(nonce));
        let stated = if (y[31] & 1 == 1) == odd {
            nonce
        } else {
            -nonce
        };
        let digest = bytes(scalar(&case.s()) * stated);
        cases.push(Case { digest, ..case });
    }
    for case in &cases {
        assert_eq!(verdict(case), Some(ClaimFault::BadSignature));
        let error = super::oracle::recover(&case.digest, &case.signature);
        assert_eq!(error, Err(SignatureError::NoKey));
    }
    judged_alike("infinity", &cases);
}

#[test]
fn digests_at_and_beyond_the_order_are_reduced() {
    let n = order();
    let mut cases = Vec::new();
    let secret = scalar(&drawn("an ordinary secret", 3));
    let mut before = n;
    before[31] -= 1;
    for (i, digest) in [
        [0; 32],
        small(1),
        before,
        n,
        plain_sum(&n, &small(1)).unwrap(),
        plain_sum(&n, &small(0xffff)).unwrap(),
        modulus(),
        [0xff; 32],
    ]
    .into_iter()
    .enumerate()
    {
        let case = sign(secret, scalar(&drawn("nonce", i)), &digest);
        cases.push(case);
        // The digest's other form, where it has one, is signed by the same signature.
        if let Some(digest) = plain_sum(&digest, &n) {
            cases.push(Case { digest, ..case });
        }
    }
    assert!(cases.len() > 8);
    all_are_right(&cases);
    judged_alike("digests", &cases);
    judged_alike("digests, wrong", &with_faults(&cases));
}

#[test]
fn an_x_beyond_the_order_is_not_a_signatures() {
    let s = drawn("s below n/2", 0);
    let s = if s[0] < 0x7f { s } else { small(77) };
    let (mut cases, mut on_curve, mut off_curve) = (Vec::new(), 0, 0);
    for r in (1..200).map(small) {
        let beyond = plain_sum(&r, &order()).unwrap();
        for (odd, id) in [(false, RecoveryId::Two), (true, RecoveryId::Three)] {
            let Some(point) = lift(&beyond, odd) else {
                continue;
            };
            let digest = drawn("digest", usize::from(r[31]));
            let mut r_s = [0u8; 64];
            r_s[..32].copy_from_slice(&r);
            r_s[32..].copy_from_slice(&s);
            let key = recovered(&digest, &r_s, id).unwrap();
            // Plain ECDSA takes it: r is x(R) mod n. Ethereum's rules know only x(R) = r.
            let plain = Signature::from_compact(&r_s).unwrap();
            assert!(plain.verify(Message::from_digest(digest), &key).is_ok());
            let mut signature = [0u8; 65];
            signature[..64].copy_from_slice(&r_s);
            signature[64] = 27 + u8::from(odd);
            let case = Case {
                digest,
                signature,
                r_y: Some(coordinates(&point).1),
                key: Some(octets(&key)),
            };
            cases.push(case);
            cases.push(case.other_v());
            cases.push(case.with_v(29));
            cases.push(case.with_v(30));
            cases.push(case.with_r(&beyond));
            if let Some(y) = derived_y(&signature) {
                on_curve += 1;
                // The same r, as the x that it is, belongs to another key.
                cases.push(case.with_r_y(Some(y)));
                cases.push(keyless(&digest, &r, &s, odd).unwrap());
            } else {
                off_curve += 1;
                assert_eq!(
                    verdict(&case.plain()),
                    Some(ClaimFault::Form(SignatureError::NoKey))
                );
            }
        }
    }
    assert!(on_curve > 10 && off_curve > 10, "{on_curve} {off_curve}");
    let right = cases.iter().filter(|case| verdict(case).is_none()).count();
    assert_eq!(right, on_curve);
    judged_alike("r + n", &cases);
}

#[test]
fn an_r_that_is_no_x_of_the_curve_is_nobodys() {
    let cases: Vec<Case> = (0..40)
        .filter_map(|i| {
            let r = drawn("r", i);
            let case = ordinary("off the curve", 1)[0].with_r(&r);
            lift(&r, false).is_none().then_some(case)
        })
        .collect();
    assert!(cases.len() > 10);
    for case in &cases {
        let fault = ClaimFault::Form(SignatureError::NoKey);
        assert_eq!(verdict(&case.plain()), Some(fault));
        assert_eq!(verdict(case), Some(ClaimFault::BadRY));
    }
    judged_alike("r off the curve", &cases);
}

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    let (n, p) = (order(), modulus());
    let less = |bytes: [u8; 32]| {
        let mut bytes = bytes;
        bytes[31] -= 1;
        bytes
    };
    let half = bytes(-number(1) / number(2));
    let right = ordinary("range", 1)[0];
    let mut cases = Vec::new();
    for r in [
        [0; 32],
        small(1),
        less(n),
        n,
        plain_sum(&n, &small(1)).unwrap(),
        less(p),
        p,
        plain_sum(&p, &small(1)).unwrap(),
        plain_sum(&p, &small(976)).unwrap(),
        [0xff; 32],
    ] {
        cases.push(right.with_r(&r));
    }
    for s in [
        [0; 32],
        small(1),
        small(2),
        half,
        plain_sum(&half, &small(1)).unwrap(),
        bytes(-scalar(&right.s())),
        less(n),
        n,
        plain_sum(&n, &right.s()).unwrap_or(n),
        p,
        [0xff; 32],
    ] {
        cases.push(right.with_s(&s));
        cases.push(right.with_s(&s).other_v());
        cases.push(right.with_s(&s).with_r(&n));
    }
    for v in 0..=255 {
        cases.push(right.with_v(v));
    }
    for v in [0, 1, 26, 29, 255] {
        cases.push(right.with_v(v).with_s(&[0; 32]));
        cases.push(right.with_v(v).with_s(&less(n)));
        cases.push(right.with_v(v).with_r(&[0; 32]));
        cases.push(right.with_v(v).with_r_y(Some([0; 32])));
    }
    let judged = judged_alike("ranges", &cases);
    let right = judged.iter().filter(|judged| judged.verdict.is_none());
    assert_eq!(right.count(), 1);
    let named = |wanted: SignatureError| {
        let fault = Some(ClaimFault::Form(wanted));
        assert!(judged.iter().any(|judged| judged.verdict == fault));
    };
    named(SignatureError::BadR);
    named(SignatureError::BadS);
    named(SignatureError::HighS);
    named(SignatureError::BadV(0));
}

#[test]
fn the_largest_low_s_and_the_smallest_are_right() {
    let half = bytes(-number(1) / number(2));
    let cases: Vec<Case> = [small(1), small(2), half]
        .into_iter()
        .flat_map(|s| {
            (1..40).filter_map(move |i| keyless(&drawn("z", i), &drawn("x", i), &s, i % 2 == 0))
        })
        .collect();
    assert!(cases.len() > 30);
    all_are_right(&cases);
    judged_alike("extreme s", &cases);
}

#[test]
fn only_the_derived_r_y_is_taken() {
    let right = ordinary("R.y", 8);
    let p = modulus();
    let mut cases = Vec::new();
    for (i, case) in right.iter().enumerate() {
        let y = case.r_y.unwrap();
        let opposite = derived_y(&case.other_v().signature).unwrap();
        assert_eq!(plain_sum(&y, &opposite), Some(p));
        let next = right[(i + 1) % right.len()].r_y;
        for stated in [
            Some(opposite),
            next,
            Some([0; 32]),
            Some(p),
            Some([0xff; 32]),
            Some(case.r()),
        ] {
            cases.push(case.with_r_y(stated));
            // Of the other parity, as v says it: R is another point, and R.y its own.
            cases.push(case.other_v().with_r_y(stated));
        }
        for bit in [0, 1, 7, 100, 248, 255] {
            let mut off = y;
            off[bit / 8] ^= 1 << (bit % 8);
            cases.push(case.with_r_y(Some(off)));
        }
    }
    let judged = judged_alike("R.y", &cases);
    for judged in judged {
        let derived = judged.case.r_y == derived_y(&judged.case.signature);
        let expected = if derived {
            ClaimFault::BadSignature
        } else {
            ClaimFault::BadRY
        };
        assert_eq!(judged.verdict, Some(expected));
    }
}

/// Points whose y is so small that y + p takes 256 bits as well: (y, x), found by a cube root
/// of y² − 7.
const SMALL_Y: [(u64, &str); 4] = [
    (
        1,
        "1fe1e5ef3fceb5c135ab7741333ce5a6e80d68167653f6b2b24bcbcfaaaff507",
    ),
    (
        6,
        "c8b492e17665b9e65e4a124661e1103f1aebfcc849dcd94f7688dcf149f6f4f2",
    ),
    (
        11,
        "a95c7e1d4c5db1863b7c6fb26ac231479ff552c18707b69a9ac6bf9c3676f31b",
    ),
    (
        13,
        "c2b84dcef67220199a187064a65579cad41a3345bcf6974fe3a153128b81ca10",
    ),
];

#[test]
fn an_r_y_that_is_not_reduced_is_refused() {
    let (mut right, mut wrong) = (Vec::new(), Vec::new());
    for (y, x) in SMALL_Y {
        let x: [u8; 32] = hex::decode(x).unwrap().try_into().unwrap();
        let case = keyless(&drawn("digest", 0), &x, &small(12_345), y % 2 == 1).unwrap();
        assert_eq!(case.r_y, Some(small(y)));
        right.push(case);
        // y + p is the same y to whoever forgets to look; its parity is the other's.
        let unreduced = plain_sum(&small(y), &modulus()).unwrap();
        wrong.push(case.with_r_y(Some(unreduced)));
        wrong.push(case.other_v().with_r_y(Some(unreduced)));
    }
    all_are_right(&right);
    for case in &wrong {
        assert_eq!(verdict(case), Some(ClaimFault::BadRY));
    }
    judged_alike("small y", &[right, wrong].concat());
}

#[test]
fn a_claim_that_names_no_key_of_the_batch_is_refused_before_all_else() {
    let right = ordinary("no such key", 6);
    let mut cases = right.clone();
    for case in &right {
        let missing = Case { key: None, ..*case };
        cases.push(missing);
        cases.push(missing.with_v(0));
        cases.push(missing.with_r(&[0; 32]));
        cases.push(missing.with_r_y(Some([1; 32])));
    }
    let judged = judged_alike("no such key", &cases);
    for (i, judged) in judged.iter().enumerate() {
        let expected = (i >= right.len()).then_some(ClaimFault::NoSuchKey);
        assert_eq!(judged.verdict, expected);
    }
    // A batch that has no key at all.
    judged_alike("no key at all", &cases[right.len()..]);
}

#[test]
fn keys_and_signatures_exchanged_between_claims_are_refused() {
    let right = ordinary("exchanged", 12);
    let mut cases = Vec::new();
    for (i, case) in right.iter().enumerate() {
        let next = &right[(i + 1) % right.len()];
        cases.push(Case {
            digest: next.digest,
            ..*case
        });
        cases.push(Case {
            signature: next.signature,
            ..*case
        });
        cases.push(Case {
            r_y: next.r_y,
            ..*case
        });
        cases.push(Case {
            key: next.key,
            ..*case
        });
        cases.push(case.with_r(&next.r()));
        cases.push(case.with_s(&next.s()));
        // The opposite key: u2·P changes its sign and nothing else.
        let opposite = lift(
            case.key.unwrap()[..32].try_into().unwrap(),
            case.key.unwrap()[63] & 1 == 0,
        );
        cases.push(case.under(&opposite.unwrap()));
    }
    let judged = judged_alike("exchanged", &cases);
    assert!(judged.iter().all(|judged| judged.verdict.is_some()));
}
