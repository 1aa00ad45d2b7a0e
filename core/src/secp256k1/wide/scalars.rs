//! Eight scalars.

use core::arch::x86_64::__m512i;

use super::limbs::{
    LIMB, add, carry, columns, high, limbs52, low, register, right, rows, splat, splats, to_52,
    words,
};
use crate::field::inverse_of_word;
use crate::secp256k1::lanes::{MAX_WIDTH, Pair, ScalarLanes};
use crate::secp256k1::scalar::{N, Scalar};

/// Eight scalars for Montgomery's product with R = 2^260.
#[derive(Clone, Copy)]
pub(crate) struct Scalar8([__m512i; 5]);

const N_LIMBS: [u64; 5] = limbs52(N);

/// −n⁻¹ modulo 2^52.
const N_NEGATED_INVERSE: u64 = inverse_of_word(N[0]).wrapping_neg() & LIMB;

impl Scalar8 {
    /// The columns, each below 2^57, divided by 2^260 modulo n. A product of two numbers
    /// below 2^257 comes out below n + 2^254, which is strict.
    #[inline(always)]
    fn divide(mut c: [__m512i; 10]) -> Self {
        let inverse = splat(N_NEGATED_INVERSE);
        for i in 0..5 {
            let m = low(splat(0), c[i], inverse);
            c[i] = low(c[i], m, splat(N_LIMBS[0]));
            c[i + 1] = high(c[i + 1], m, splat(N_LIMBS[0]));
            for j in 1..5 {
                c[i + j] = low(c[i + j], m, splat(N_LIMBS[j]));
                c[i + j + 1] = high(c[i + j + 1], m, splat(N_LIMBS[j]));
            }
            // The lowest 52 bits are zero now.
            c[i + 1] = add(c[i + 1], right::<52>(c[i]));
        }
        Self(carry([c[5], c[6], c[7], c[8], c[9]]))
    }
}

impl ScalarLanes for Scalar8 {
    const WIDTH: usize = 8;
    const LIMB_BITS: u32 = 52;

    fn r_squared() -> Scalar {
        // 2^520 = (2^130)^4.
        let quarter = Scalar([0, 0, 4, 0]);
        let half = quarter.mul(quarter);
        half.mul(half)
    }

    #[inline(always)]
    fn splat(value: Scalar) -> Self {
        Self(splats(limbs52(value.0)))
    }

    #[inline(always)]
    fn lane(self, lane: usize) -> Scalar {
        let mut columns = [0u128; 5];
        for (column, limb) in columns.iter_mut().zip(self.0) {
            *column = u128::from(words(limb)[lane]);
        }
        Scalar::from_columns(&columns, Self::LIMB_BITS)
    }

    #[inline(always)]
    fn gather(values: &[Scalar]) -> Self {
        let mut rows = [Pair::NONE; 8];
        for (row, value) in rows.iter_mut().zip(values) {
            row.x = value.0;
        }
        Self::load(&rows).0
    }

    #[inline(always)]
    fn product(self, other: Self) -> Self {
        Self::divide(columns(&self.0, &other.0))
    }

    #[inline(always)]
    fn load(points: &[Pair]) -> (Self, Self) {
        let (x, y) = rows(points);
        (Self(x), Self(y))
    }

    #[inline(always)]
    fn load_random(values: &[u128], bias: u128) -> Self {
        let mut halves = [[0u64; 8]; 2];
        for (lane, value) in values[..8].iter().enumerate() {
            halves[0][lane] = *value as u64;
            halves[1][lane] = (value >> 64) as u64;
        }
        let zero = splat(0);
        let value = to_52([register(&halves[0]), register(&halves[1]), zero, zero]);
        // n − bias is positive, so this is value − bias + n < 2^257.
        let less_bias = limbs52(Scalar::from_u128(bias).neg().0);
        let mut sum = value;
        if bias != 0 {
            for (limb, addend) in sum.iter_mut().zip(less_bias) {
                *limb = add(*limb, splat(addend));
            }
        }
        Self(carry(sum))
    }

    #[inline(always)]
    fn columns(self) -> [[u64; MAX_WIDTH]; 5] {
        [
            words(self.0[0]),
            words(self.0[1]),
            words(self.0[2]),
            words(self.0[3]),
            words(self.0[4]),
        ]
    }
}
