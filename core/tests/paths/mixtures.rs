//! Mixtures: batches drawn at random from right, remarkable and spoilt claims, with their
//! parts changed and exchanged.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;

use super::oracle::{
    EVERY_LAYOUT, every_path_recovers_alike, every_path_refuses_alike, judged,
    the_front_refuses_alike,
};
use super::signing::{
    Case, Scalar, bytes, derived_y, drawn, keyless, lambda, modulus, order, ordinary, plain_sum,
    scalar, sign, sign_backwards, small,
};

/// Right claims, ordinary and remarkable, that mixtures are made of.
static BASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let mut bases = ordinary("base", 24);
    let secret = |i| scalar(&drawn("base secret", i));
    let nonce = |i| scalar(&drawn("base nonce", i));
    let one = Scalar::from(1u64);
    for (i, remarkable) in [one, -one, one + one, lambda(), -lambda()]
        .into_iter()
        .enumerate()
    {
        bases.push(sign(remarkable, nonce(i), &drawn("base digest", i)));
        bases.push(sign(secret(0), remarkable, &drawn("base digest", i)));
        bases.push(sign(
            secret(0),
            secret(0) * remarkable,
            &drawn("base digest", i),
        ));
        bases.push(sign(
            secret(1),
            nonce(0) * remarkable,
            &drawn("base digest", 0),
        ));
        bases.push(sign_backwards(secret(1), remarkable, nonce(i)));
        bases.push(sign_backwards(secret(1), secret(1) * nonce(i), nonce(i)));
    }
    bases.push(sign(secret(0), nonce(1), &[0; 32]));
    bases.push(sign(secret(0), nonce(2), &order()));
    bases.push(sign(secret(0), nonce(3), &[0xff; 32]));
    bases.extend(
        (1..40).filter_map(|x| keyless(&drawn("base digest", 1), &small(x), &small(x), false)),
    );
    bases
});

/// A change to a claim.
#[derive(Clone, Debug)]
enum Change {
    FlipDigest(u8),
    FlipSignature(Index),
    FlipRY(u8),
    TakeDigest(Index),
    TakeSignature(Index),
    TakeR(Index),
    TakeS(Index),
    TakeRY(Index),
    TakeKey(Index),
    LeaveOutRY,
    DeriveRY,
    AddModulusToRY,
    OtherV,
    AnyV(u8),
    NegateS,
    AddOrderToDigest,
    SetR(Index),
    SetS(Index),
    Shift(i8),
    NoKey,
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<Index>;
    prop_oneof![
        1 => any::<u8>().prop_map(Change::FlipDigest),
        1 => index().prop_map(Change::FlipSignature),
        1 => any::<u8>().prop_map(Change::FlipRY),
        1 => index().prop_map(Change::TakeDigest),
        1 => index().prop_map(Change::TakeSignature),
        1 => index().prop_map(Change::TakeR),
        1 => index().prop_map(Change::TakeS),
        1 => index().prop_map(Change::TakeRY),
        1 => index().prop_map(Change::TakeKey),
        3 => Just(Change::LeaveOutRY),
        2 => Just(Change::DeriveRY),
        1 => Just(Change::AddModulusToRY),
        1 => Just(Change::OtherV),
        1 => any::<u8>().prop_map(Change::AnyV),
        1 => Just(Change::NegateS),
        1 => Just(Change::AddOrderToDigest),
        1 => index().prop_map(Change::SetR),
        1 => index().prop_map(Change::SetS),
        3 => any::<i8>().prop_map(Change::Shift),
        1 => Just(Change::NoKey),
    ]
}

fn remarkable_numbers() -> [[u8; 32]; 10] {
    let half = -Scalar::from(1u64) / Scalar::from(2u64);
    [
        [0; 32],
        small(1),
        small(2),
        order(),
        bytes(-Scalar::from(1u64)),
        bytes(half),
        bytes(half + Scalar::from(1u64)),
        modulus(),
        plain_sum(&order(), &small(3)).unwrap(),
        [0xff; 32],
    ]
}

fn changed(case: Case, change: &Change) -> Case {
    let mut case = case;
    let bases = &*BASES;
    let flip = |bytes: &mut [u8], bit: usize| bytes[bit / 8] ^= 1 << (bit % 8);
    match change {
        Change::FlipDigest(bit) => flip(&mut case.digest, usize::from(*bit)),
        Change::FlipSignature(bit) => flip(&mut case.signature, bit.index(520)),
        Change::FlipRY(bit) => case.r_y.iter_mut().for_each(|y| flip(y, usize::from(*bit))),
        Change::TakeDigest(from) => case.digest = from.get(bases).digest,
        Change::TakeSignature(from) => case.signature = from.get(bases).signature,
        Change::TakeR(from) => case = case.with_r(&from.get(bases).r()),
        Change::TakeS(from) => case = case.with_s(&from.get(bases).s()),
        Change::TakeRY(from) => case.r_y = from.get(bases).r_y,
        Change::TakeKey(from) => case.key = from.get(bases).key,
        Change::LeaveOutRY => case.r_y = None,
        Change::DeriveRY => case.r_y = derived_y(&case.signature),
        Change::AddModulusToRY => {
            case.r_y = case.r_y.map(|y| plain_sum(&y, &modulus()).unwrap_or(y));
        }
        Change::OtherV => case = case.other_v(),
        Change::AnyV(v) => case = case.with_v(*v),
        Change::NegateS => case = case.with_s(&bytes(-scalar(&case.s()))).other_v(),
        Change::AddOrderToDigest => {
            case.digest = plain_sum(&case.digest, &order()).unwrap_or(case.digest);
        }
        Change::SetR(which) => case = case.with_r(which.get(&remarkable_numbers())),
        Change::SetS(which) => case = case.with_s(which.get(&remarkable_numbers())),
        Change::Shift(by) => {
            let magnitude = Scalar::from(u64::from(by.unsigned_abs()));
            case = case.shifted(if *by < 0 { -magnitude } else { magnitude });
        }
        Change::NoKey => case.key = None,
    }
    case
}

/// A claim of a mixture: seldom changed, so that most of a batch is right.
fn claim() -> impl Strategy<Value = Case> {
    let changes = prop_oneof![
        6 => Just(Vec::new()),
        3 => Just(vec![Change::LeaveOutRY]),
        2 => prop::collection::vec(change(), 1..3),
    ];
    (any::<Index>(), changes)
        .prop_map(|(base, changes)| changes.iter().fold(*base.get(&BASES), changed))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::with_source_file(file!()) })]

    #[test]
    fn any_mixture_is_judged_as_by_the_oracle(
        cases in prop::collection::vec(claim(), 0..100), keys in 0usize..3, threads in 0usize..5,
    ) {
        let judged = judged(&cases);
        every_path_refuses_alike("a mixture", &judged, EVERY_LAYOUT[keys]);
        the_front_refuses_alike(&judged, threads);
    }

    #[test]
    fn any_mixture_is_recovered_as_by_the_oracle(cases in prop::collection::vec(claim(), 0..60)) {
        every_path_recovers_alike("a mixture", &cases);
    }

    #[test]
    fn one_change_to_a_right_batch_is_judged_as_by_the_oracle(
        count in 1usize..100, place in any::<Index>(), change in change(), keys in 0usize..3,
    ) {
        let mut cases: Vec<Case> = BASES.iter().cycle().take(count).copied().collect();
        let place = place.index(count);
        cases[place] = changed(cases[place], &change);
        every_path_refuses_alike("one change", &judged(&cases), EVERY_LAYOUT[keys]);
    }
}
