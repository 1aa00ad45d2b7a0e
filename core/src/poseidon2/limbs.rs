//! The field in limbs of 52 bits: the constants that [`super::lanes`] computes with, made by the
//! compiler.

use super::constants::{FULL_ROUNDS, INNER_DIAGONAL, PARTIAL_ROUNDS, ROUND_CONSTANTS, WIDTH};
use crate::field::{Fr, MODULUS};

pub(super) const LIMBS: usize = 5;
pub(super) const LIMB_BITS: u32 = 52;
pub(super) const LIMB_MASK: u64 = (1 << LIMB_BITS) - 1;

/// A number of 260 bits in limbs of 52.
pub(super) type Wide = [u64; LIMBS];

/// The same number times 2^shift, for a shift of at most 4.
pub(super) const fn widened(limbs: [u64; 4], shift: u32) -> Wide {
    let [a, b, c, d] = limbs;
    [
        a << shift & LIMB_MASK,
        (a >> (52 - shift) | b << (12 + shift)) & LIMB_MASK,
        (b >> (40 - shift) | c << (24 + shift)) & LIMB_MASK,
        (c >> (28 - shift) | d << (36 + shift)) & LIMB_MASK,
        d >> (16 - shift),
    ]
}

/// The number, which must be below 2^256, in limbs of 64 bits.
pub(super) const fn narrowed(wide: Wide) -> [u64; 4] {
    let [a, b, c, d, e] = wide;
    [
        a | b << 52,
        b >> 12 | c << 40,
        c >> 24 | d << 28,
        d >> 36 | e << 16,
    ]
}

pub(super) const MODULUS_WIDE: Wide = widened(MODULUS, 0);

/// 2^260 − p: adding q times this, mod 2^260, takes q·p away.
pub(super) const COMPLEMENT: Wide = {
    let mut complement = [0; LIMBS];
    let mut carry = 1;
    let mut i = 0;
    while i < LIMBS {
        let limb = (MODULUS_WIDE[i] ^ LIMB_MASK) + carry;
        complement[i] = limb & LIMB_MASK;
        carry = limb >> LIMB_BITS;
        i += 1;
    }
    complement
};

/// −p⁻¹ mod 2^52.
pub(super) const NEGATED_INVERSE: u64 = crate::field::NEGATED_INVERSE & LIMB_MASK;

/// ⌊2^260 / p⌋: how many p go into one of a top limb's full ranges.
pub(super) const MODULI_IN_RANGE: u64 = quotient([1, 0, 0, 0])[0];

/// 2^(52(i − 4)) mod p for i from 0 to 3.
pub(super) const FOLDED: [Wide; 4] = {
    // Half of p + 1 is the inverse of 2.
    let half = match Fr::from_limbs([
        MODULUS[0] >> 1 | MODULUS[1] << 63,
        MODULUS[1] >> 1 | MODULUS[2] << 63,
        MODULUS[2] >> 1 | MODULUS[3] << 63,
        MODULUS[3] >> 1,
    ]) {
        Some(floor) => floor.add(Fr::ONE),
        None => panic!("half the modulus is below the modulus"),
    };
    let mut folded = [[0; LIMBS]; 4];
    let mut power = Fr::ONE;
    let mut i = 4;
    while i > 0 {
        i -= 1;
        let mut bit = 0;
        while bit < LIMB_BITS {
            power = power.mul(half);
            bit += 1;
        }
        folded[i] = widened(power.to_limbs(), 0);
    }
    folded
};

/// ⌊d·2^260 / p⌋ for d below p, by long division.
pub(super) const fn quotient(d: [u64; 4]) -> Wide {
    let mut remainder = d;
    let mut quotient = [0; LIMBS];
    let mut bit = 5 * LIMB_BITS;
    while bit > 0 {
        bit -= 1;
        // The remainder is below p < 2^254, so its double has room.
        let [r0, r1, r2, r3] = remainder;
        let doubled = [
            r0 << 1,
            r1 << 1 | r0 >> 63,
            r2 << 1 | r1 >> 63,
            r3 << 1 | r2 >> 63,
        ];
        remainder = crate::field::reduce_once(doubled);
        let [a, b, c, d] = remainder;
        if a != doubled[0] || b != doubled[1] || c != doubled[2] || d != doubled[3] {
            quotient[(bit / LIMB_BITS) as usize] |= 1 << (bit % LIMB_BITS);
        }
    }
    quotient
}

/// A constant of the inner matrix with its quotient by p.
pub(super) struct Factor {
    pub(super) value: Wide,
    pub(super) quotient: Wide,
}

impl Factor {
    pub(super) const fn new(element: Fr) -> Self {
        Self {
            value: widened(element.to_limbs(), 0),
            quotient: quotient(element.to_limbs()),
        }
    }
}

/// The diagonal as plain numbers: times an element in Montgomery form they give one.
pub(super) static DIAGONAL: [Factor; WIDTH] = [
    Factor::new(INNER_DIAGONAL[0]),
    Factor::new(INNER_DIAGONAL[1]),
    Factor::new(INNER_DIAGONAL[2]),
    Factor::new(INNER_DIAGONAL[3]),
];

/// The element in Montgomery form for R = 2^260, reduced.
pub(super) const fn montgomery(element: Fr) -> Wide {
    widened(element.mul(Fr::from_u64(16)).montgomery_limbs(), 0)
}

pub(super) struct WideConstants {
    pub(super) first_full: [[Wide; WIDTH]; FULL_ROUNDS / 2],
    pub(super) partial: [Wide; PARTIAL_ROUNDS],
    pub(super) last_full: [[Wide; WIDTH]; FULL_ROUNDS / 2],
}

pub(super) static CONSTANTS: WideConstants = {
    let mut constants = WideConstants {
        first_full: [[[0; LIMBS]; WIDTH]; FULL_ROUNDS / 2],
        partial: [[0; LIMBS]; PARTIAL_ROUNDS],
        last_full: [[[0; LIMBS]; WIDTH]; FULL_ROUNDS / 2],
    };
    let mut i = 0;
    while i < FULL_ROUNDS / 2 * WIDTH {
        let (round, at) = (i / WIDTH, i % WIDTH);
        constants.first_full[round][at] = montgomery(ROUND_CONSTANTS.first_full[round][at]);
        constants.last_full[round][at] = montgomery(ROUND_CONSTANTS.last_full[round][at]);
        i += 1;
    }
    i = 0;
    while i < PARTIAL_ROUNDS {
        constants.partial[i] = montgomery(ROUND_CONSTANTS.partial[i]);
        i += 1;
    }
    constants
};
