//! The numbers modulo the group's order n, one at a time, and the split of a scalar in two
//! halves by the curve's endomorphism. Variable time, for public values only.

use crate::secp256k1::field::{add_carry, add_multiply, multiply_wide, subtract_borrow};
use crate::secp256k1::inverse::{Invertible, Modulus, invert_var};

/// n, least significant limb first.
pub(crate) const N: [u64; 4] = [
    0xbfd2_5e8c_d036_4141,
    0xbaae_dce6_af48_a03b,
    0xffff_ffff_ffff_fffe,
    u64::MAX,
];

/// 2^256 − n, a number of 129 bits.
const FOLD: [u64; 3] = [0x402d_a173_2fc9_bebf, 0x4551_2319_50b7_5fc4, 1];

static MODULUS: Modulus = Modulus::new(N);

/// λ·(x, y) is (β·x, y): a cube root of one modulo n.
pub(crate) const LAMBDA: Scalar = Scalar([
    0xdf02_967c_1b23_bd72,
    0x122e_22ea_2081_6678,
    0xa526_1c02_8812_645a,
    0x5363_ad4c_c05c_30e0,
]);

/// A number below n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scalar(pub(crate) [u64; 4]);

/// A number with a sign, of less than 2^128 but for the sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Half {
    pub(crate) negative: bool,
    pub(crate) magnitude: u128,
}

const fn is_below_order(v: &[u64; 4]) -> bool {
    let (_, b) = subtract_borrow(v[0], N[0], 0);
    let (_, b) = subtract_borrow(v[1], N[1], b);
    let (_, b) = subtract_borrow(v[2], N[2], b);
    let (_, b) = subtract_borrow(v[3], N[3], b);
    b == 1
}

const fn subtract_order(v: [u64; 4]) -> [u64; 4] {
    let (r0, b) = subtract_borrow(v[0], N[0], 0);
    let (r1, b) = subtract_borrow(v[1], N[1], b);
    let (r2, b) = subtract_borrow(v[2], N[2], b);
    let (r3, _) = subtract_borrow(v[3], N[3], b);
    [r0, r1, r2, r3]
}

/// low + high·2^256 with 2^256 replaced by FOLD, for a high part of K limbs: at most K + 3
/// limbs, written to the front of eight.
fn fold_once<const K: usize>(low: [u64; 4], high: [u64; K]) -> [u64; 8] {
    let mut sum = [0u64; 8];
    sum[..4].copy_from_slice(&low);
    for (i, limb) in high.into_iter().enumerate() {
        let mut carry = 0;
        for (j, of_fold) in FOLD.into_iter().enumerate() {
            (sum[i + j], carry) = add_multiply(sum[i + j], limb, of_fold, carry);
        }
        let mut at = i + 3;
        while carry != 0 {
            (sum[at], carry) = add_carry(sum[at], carry, 0);
            at += 1;
        }
    }
    sum
}

fn reduce_wide(t: [u64; 8]) -> Scalar {
    // 512 bits → 386 → 260 → 257 → below n.
    let [a, b, c, d, e, f, g, _] = fold_once([t[0], t[1], t[2], t[3]], [t[4], t[5], t[6], t[7]]);
    let [a, b, c, d, e, ..] = fold_once([a, b, c, d], [e, f, g]);
    let [a, b, c, d, e, ..] = fold_once([a, b, c, d], [e]);
    let [a, b, c, d, ..] = fold_once([a, b, c, d], [e]);
    Scalar::reduce([a, b, c, d])
}

impl Scalar {
    pub(crate) const ZERO: Self = Self([0; 4]);
    pub(crate) const ONE: Self = Self([1, 0, 0, 0]);

    /// The remainder of a number below 2^256.
    pub(crate) const fn reduce(limbs: [u64; 4]) -> Self {
        if is_below_order(&limbs) {
            Self(limbs)
        } else {
            Self(subtract_order(limbs))
        }
    }

    #[cfg(test)]
    pub(crate) const fn from_u64(value: u64) -> Self {
        Self([value, 0, 0, 0])
    }

    pub(crate) const fn from_u128(value: u128) -> Self {
        Self([value as u64, (value >> 64) as u64, 0, 0])
    }

    /// The remainder of Σ columns\[i\]·2^(bits·i), each column below 2^100.
    pub(crate) fn from_columns(columns: &[u128; 5], bits: u32) -> Self {
        let radix = Self::from_u128(1 << bits);
        let mut sum = Self::ZERO;
        for column in columns.iter().rev() {
            sum = sum.mul(radix).add(Self::from_u128(*column));
        }
        sum
    }

    /// The number, big-endian.
    #[cfg(test)]
    pub(crate) fn to_bytes(self) -> [u8; 32] {
        crate::secp256k1::field::bytes_of(&self.0)
    }

    pub(crate) fn is_zero(self) -> bool {
        self.0 == [0; 4]
    }

    pub(crate) fn add(self, other: Self) -> Self {
        let (a, b) = (&self.0, &other.0);
        let (r0, c) = add_carry(a[0], b[0], 0);
        let (r1, c) = add_carry(a[1], b[1], c);
        let (r2, c) = add_carry(a[2], b[2], c);
        let (r3, c) = add_carry(a[3], b[3], c);
        let sum = [r0, r1, r2, r3];
        if c == 1 {
            Self(subtract_order(sum))
        } else {
            Self::reduce(sum)
        }
    }

    pub(crate) fn neg(self) -> Self {
        if self.is_zero() {
            return self;
        }
        let (r0, b) = subtract_borrow(N[0], self.0[0], 0);
        let (r1, b) = subtract_borrow(N[1], self.0[1], b);
        let (r2, b) = subtract_borrow(N[2], self.0[2], b);
        let (r3, _) = subtract_borrow(N[3], self.0[3], b);
        Self([r0, r1, r2, r3])
    }

    pub(crate) fn mul(self, other: Self) -> Self {
        reduce_wide(multiply_wide(&self.0, &other.0))
    }

    /// The inverse; zero for zero.
    pub(crate) fn invert(self) -> Self {
        Self(invert_var(&self.0, &MODULUS))
    }

    /// Halves k1 and k2, each below 2^128 but for its sign, with k1 + k2·λ = self.
    ///
    /// Gallant, Lambert and Vanstone (2001). The vectors (a1, b1) and (a2, b2) are the two
    /// shortest of the lattice of all (x, y) with x + y·λ ≡ 0; the self's nearest lattice
    /// point is found with b2/n and −b1/n as fixed-point numbers of 384 bits, and what is
    /// left of self after it is short.
    pub(crate) fn split(self) -> (Half, Half) {
        /// −b1.
        const MINUS_B1: Scalar = Scalar([0x6f54_7fa9_0abf_e4c3, 0xe443_7ed6_010e_8828, 0, 0]);
        /// −b2 modulo n.
        const MINUS_B2: Scalar = Scalar([
            0xd765_cda8_3db1_562c,
            0x8a28_0ac5_0774_346d,
            0xffff_ffff_ffff_fffe,
            u64::MAX,
        ]);
        /// b2·2^384 / n, rounded.
        const G1: [u64; 4] = [
            0xe893_209a_45db_b031,
            0x3daa_8a14_71e8_ca7f,
            0xe86c_90e4_9284_eb15,
            0x3086_d221_a7d4_6bcd,
        ];
        /// −b1·2^384 / n, rounded.
        const G2: [u64; 4] = [
            0x1571_b4ae_8ac4_7f71,
            0x2212_08ac_9df5_06c6,
            0x6f54_7fa9_0abf_e4c4,
            0xe443_7ed6_010e_8828,
        ];
        let rounded = |g: &[u64; 4]| {
            let wide = multiply_wide(&self.0, g);
            let (low, carry) = add_carry(wide[6], wide[5] >> 63, 0);
            Self([low, wide[7].wrapping_add(carry), 0, 0])
        };
        let (c1, c2) = (rounded(&G1), rounded(&G2));
        let k2 = c1.mul(MINUS_B1).add(c2.mul(MINUS_B2));
        let k1 = self.add(k2.mul(LAMBDA).neg());
        (k1.half(), k2.half())
    }

    /// The signed number of less than 2^128 that this is the remainder of.
    fn half(self) -> Half {
        let negative = self.0[3] != 0;
        let v = if negative { self.neg() } else { self };
        debug_assert!(v.0[2] == 0 && v.0[3] == 0, "a half has 128 bits");
        Half {
            negative,
            magnitude: u128::from(v.0[0]) | u128::from(v.0[1]) << 64,
        }
    }
}

impl Invertible for Scalar {
    const ONE: Self = Self::ONE;

    #[inline]
    fn mul(self, other: Self) -> Self {
        Scalar::mul(self, other)
    }

    fn is_zero(self) -> bool {
        Scalar::is_zero(self)
    }

    fn invert(self) -> Self {
        Scalar::invert(self)
    }
}
