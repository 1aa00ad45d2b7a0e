//! The lanes against the scalar code and the bounds that the words above promise.

use super::*;
use crate::cpu::{self, Backend};
use crate::field::MODULUS;
use crate::poseidon2::constants::INNER_DIAGONAL;
use ark_ff::PrimeField;
use proptest::prelude::*;

type Ark = ark_bn254::Fr;

/// The number that limbs stand for, carried or not, mod p.
fn number(limbs: &Wide) -> Ark {
    let base = Ark::from(1u64 << LIMB_BITS);
    let from_the_top = limbs.iter().rev();
    from_the_top.fold(Ark::from(0u64), |sum, limb| sum * base + Ark::from(*limb))
}

fn power_of_two(exponent: u32) -> Ark {
    (0..exponent).fold(Ark::from(1u64), |power, _| power + power)
}

fn ark(element: Fr) -> Ark {
    Ark::from_be_bytes_mod_order(&element.to_bytes())
}

/// That a number, given by its top limb with everything carried into it, is below
/// `hundredths` of p, up to one unit of that limb.
fn is_below(limbs: &Wide, hundredths: u64) -> bool {
    u128::from(limbs[4]) * 100 <= u128::from(hundredths) * u128::from(MODULUS_WIDE[4] + 1)
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn load(numbers: &[Wide; LANES]) -> Number {
    let lane = |limb: usize| numbers.map(|number| number[limb]);
    [0, 1, 2, 3, 4].map(|limb| from_lanes(&lane(limb)))
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn store(number: Number) -> [Wide; LANES] {
    let limbs = number.map(|limb| to_lanes(limb));
    [0, 1, 2, 3, 4, 5, 6, 7].map(|lane| limbs.map(|limb| limb[lane]))
}

/// All results for two numbers. Products are loose; the others are carried.
struct Computed {
    product: [Wide; LANES],
    square: [Wide; LANES],
    scaled: [[Wide; LANES]; WIDTH],
    /// The same with [`UNCARRIED`] added to the addend limb by limb.
    scaled_loosely: [[Wide; LANES]; WIDTH],
    shrunk: [Wide; LANES],
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn compute_here(a: &[Wide; LANES], b: &[Wide; LANES]) -> Computed {
    let (a, b) = (load(a), load(b));
    Computed {
        product: store(multiply(&a, &b)),
        square: store(square(&a)),
        scaled: [0, 1, 2, 3].map(|i| store(tighten(scale(&DIAGONAL[i], &a, &b)))),
        scaled_loosely: {
            let sum = add_constant(b, &UNCARRIED);
            [0, 1, 2, 3].map(|i| store(tighten(scale(&DIAGONAL[i], &a, &sum))))
        },
        shrunk: store(shrink(a)),
    }
}

fn compute(a: &[Wide; LANES], b: &[Wide; LANES]) -> Option<Computed> {
    // SAFETY: the features are there if the backend is.
    (cpu::best() == Backend::Avx512).then(|| unsafe { compute_here(a, b) })
}

fn carried(mut limbs: Wide) -> Wide {
    for i in 1..LIMBS {
        limbs[i] += limbs[i - 1] >> LIMB_BITS;
        limbs[i - 1] &= LIMB_MASK;
    }
    limbs
}

/// Holds every primitive against arkworks, and its result to its bound.
fn check(a: [Wide; LANES], b: [Wide; LANES]) {
    let Some(computed) = compute(&a, &b) else {
        return;
    };
    let radix = power_of_two(260);
    for lane in 0..LANES {
        let (x, y) = (number(&a[lane]), number(&b[lane]));
        for (product, other, top) in [
            (computed.product[lane], y, b[lane][4]),
            (computed.square[lane], x, a[lane][4]),
        ] {
            assert_eq!(number(&product) * radix, x * other);
            assert!(product.iter().all(|limb| *limb < 1 << 57));
            let share = (u128::from(a[lane][4] + 1) * u128::from(top + 1)) >> LIMB_BITS;
            let excess = carried(product)[4].saturating_sub(share as u64 + 1);
            assert!(is_below(&[0, 0, 0, 0, excess], 224));
        }
        for (scaled, constant) in computed.scaled.iter().zip(INNER_DIAGONAL) {
            assert_eq!(number(&scaled[lane]), x * ark(constant) + y);
            assert!(is_below(&scaled[lane], 1166));
        }
        for (scaled, constant) in computed.scaled_loosely.iter().zip(INNER_DIAGONAL) {
            assert_eq!(
                number(&scaled[lane]),
                x * ark(constant) + y + number(&UNCARRIED)
            );
            assert!(is_below(&scaled[lane], 1166));
        }
        assert_eq!(number(&computed.shrunk[lane]), x);
        assert!(is_below(&computed.shrunk[lane], 165));
    }
}

/// The most that a tight number brings without touching the top limb.
const UNCARRIED: Wide = [LIMB_MASK, LIMB_MASK, LIMB_MASK, LIMB_MASK, 0];

const GREATEST: Wide = [LIMB_MASK; LIMBS];

#[test]
fn the_greatest_numbers_that_limbs_hold_stay_within_their_bounds() {
    let mut lone = [[0; LIMBS]; LANES];
    for (i, number) in lone.iter_mut().enumerate() {
        number[i % LIMBS] = LIMB_MASK;
    }
    for a in [
        [GREATEST; LANES],
        lone,
        [MODULUS_WIDE; LANES],
        [COMPLEMENT; LANES],
    ] {
        for b in [[GREATEST; LANES], lone, [[0; LIMBS]; LANES]] {
            check(a, b);
            check(b, a);
        }
    }
}

#[test]
fn what_is_above_fifty_two_bits_is_not_read_by_products() {
    let noisy = GREATEST.map(|limb| limb | 0xfff << LIMB_BITS);
    let (Some(quiet), Some(noisy)) = (
        compute(&[GREATEST; LANES], &[GREATEST; LANES]),
        compute(&[noisy; LANES], &[GREATEST; LANES]),
    ) else {
        return;
    };
    assert_eq!(quiet.product, noisy.product);
    assert_eq!(quiet.square, noisy.square);
    assert_eq!(quiet.scaled, noisy.scaled);
}

#[test]
fn the_four_constants_of_the_fold_are_powers_and_sum_below_their_bound() {
    for (i, constant) in FOLDED.iter().enumerate() {
        let back = power_of_two(LIMB_BITS * (4 - i as u32));
        assert_eq!(number(constant) * back, Ark::from(1u64));
    }
    let sum = FOLDED.iter().map(|constant| constant[4] + 1).sum();
    assert!(is_below(&[0, 0, 0, 0, sum], 124));
}

#[test]
fn the_modulus_and_its_complement_make_up_the_range() {
    assert_eq!(number(&MODULUS_WIDE), Ark::from(0u64));
    assert_eq!(number(&COMPLEMENT), power_of_two(260));
    assert_eq!(MODULI_IN_RANGE, 84);
    assert_eq!(
        NEGATED_INVERSE.wrapping_mul(MODULUS[0]) & LIMB_MASK,
        LIMB_MASK
    );
}

#[test]
fn limbs_of_fifty_two_bits_and_of_sixty_four_are_the_same_number() {
    let greatest = [MODULUS[0] - 1, MODULUS[1], MODULUS[2], MODULUS[3]];
    for limbs in [[0; 4], [1, 0, 0, 0], greatest, [u64::MAX; 4]] {
        assert_eq!(narrowed(widened(limbs, 0)), limbs);
        let mut bytes = Vec::new();
        limbs
            .iter()
            .for_each(|limb| bytes.extend(limb.to_le_bytes()));
        let expected = Ark::from_le_bytes_mod_order(&bytes);
        assert_eq!(number(&widened(limbs, 4)), expected * Ark::from(16u64));
    }
}

fn limb() -> impl Strategy<Value = u64> {
    prop_oneof![
        1 => Just(0),
        1 => Just(1),
        2 => Just(LIMB_MASK),
        4 => 0..=LIMB_MASK,
    ]
}

fn wide() -> impl Strategy<Value = [Wide; LANES]> {
    prop::array::uniform8(prop::array::uniform5(limb()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn lanes_compute_as_arkworks_and_within_their_bounds(a in wide(), b in wide()) {
        check(a, b);
    }
}
