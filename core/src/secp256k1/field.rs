//! The field of secp256k1's coordinates, one element at a time: p = 2^256 − 2^32 − 977.
//!
//! An element is four 64-bit limbs, least significant first, of any value below 2^256; the
//! value p and those above it stand for the same elements as their remainders. Only
//! [`Fe::reduced`] gives the one form. Everything runs in variable time on public values:
//! secrets stay with libsecp256k1.

use crate::secp256k1::inverse::{Invertible, Modulus, invert_var};

/// 2^256 − p.
pub(crate) const FOLD: u64 = 0x1_0000_03d1;

/// p, least significant limb first.
pub(crate) const P: [u64; 4] = [0xffff_fffe_ffff_fc2f, u64::MAX, u64::MAX, u64::MAX];

static MODULUS: Modulus = Modulus::new(P);

/// A cube root of one: (β·x, y) is λ·(x, y), see [`crate::secp256k1::scalar::LAMBDA`].
pub(crate) const BETA: Fe = Fe([
    0xc139_6c28_7195_01ee,
    0x9cf0_4975_12f5_8995,
    0x6e64_479e_ac34_34e9,
    0x7ae9_6a2b_657c_0710,
]);

/// An element, not always in its one form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fe(pub(crate) [u64; 4]);

#[inline(always)]
pub(crate) const fn add_multiply(addend: u64, a: u64, b: u64, carry: u64) -> (u64, u64) {
    // (2^64 − 1)² + 2·(2^64 − 1) = 2^128 − 1: it always fits.
    let wide = (a as u128)
        .wrapping_mul(b as u128)
        .wrapping_add(addend as u128)
        .wrapping_add(carry as u128);
    (wide as u64, (wide >> 64) as u64)
}

#[inline(always)]
pub(crate) const fn add_carry(a: u64, b: u64, carry: u64) -> (u64, u64) {
    let wide = (a as u128)
        .wrapping_add(b as u128)
        .wrapping_add(carry as u128);
    (wide as u64, (wide >> 64) as u64)
}

#[inline(always)]
pub(crate) const fn subtract_borrow(a: u64, b: u64, borrow: u64) -> (u64, u64) {
    let wide = (a as u128)
        .wrapping_sub(b as u128)
        .wrapping_sub(borrow as u128);
    (wide as u64, (wide >> 64) as u64 & 1)
}

/// The eight limbs of a product.
#[inline(always)]
pub(crate) const fn multiply_wide(a: &[u64; 4], b: &[u64; 4]) -> [u64; 8] {
    let (t0, c) = add_multiply(0, a[0], b[0], 0);
    let (t1, c) = add_multiply(0, a[1], b[0], c);
    let (t2, c) = add_multiply(0, a[2], b[0], c);
    let (t3, t4) = add_multiply(0, a[3], b[0], c);
    let (t1, c) = add_multiply(t1, a[0], b[1], 0);
    let (t2, c) = add_multiply(t2, a[1], b[1], c);
    let (t3, c) = add_multiply(t3, a[2], b[1], c);
    let (t4, t5) = add_multiply(t4, a[3], b[1], c);
    let (t2, c) = add_multiply(t2, a[0], b[2], 0);
    let (t3, c) = add_multiply(t3, a[1], b[2], c);
    let (t4, c) = add_multiply(t4, a[2], b[2], c);
    let (t5, t6) = add_multiply(t5, a[3], b[2], c);
    let (t3, c) = add_multiply(t3, a[0], b[3], 0);
    let (t4, c) = add_multiply(t4, a[1], b[3], c);
    let (t5, c) = add_multiply(t5, a[2], b[3], c);
    let (t6, t7) = add_multiply(t6, a[3], b[3], c);
    [t0, t1, t2, t3, t4, t5, t6, t7]
}

/// v + carry·2^256, for a carry below 2^35, as a value below 2^256.
#[inline(always)]
const fn fold_carry(v: [u64; 4], carry: u64) -> [u64; 4] {
    let (r0, c) = add_multiply(v[0], carry, FOLD, 0);
    let (r1, c) = add_carry(v[1], c, 0);
    let (r2, c) = add_carry(v[2], 0, c);
    let (r3, c) = add_carry(v[3], 0, c);
    // A carry here leaves less than 2^70 behind, so the last fold cannot carry again.
    let (r0, c) = add_carry(r0, c.wrapping_neg() & FOLD, 0);
    let (r1, c) = add_carry(r1, 0, c);
    [r0, r1, r2.wrapping_add(c), r3]
}

/// The element of a product of eight limbs.
#[inline(always)]
const fn reduce_wide(t: [u64; 8]) -> Fe {
    let (r0, c) = add_multiply(t[0], t[4], FOLD, 0);
    let (r1, c) = add_multiply(t[1], t[5], FOLD, c);
    let (r2, c) = add_multiply(t[2], t[6], FOLD, c);
    let (r3, c) = add_multiply(t[3], t[7], FOLD, c);
    Fe(fold_carry([r0, r1, r2, r3], c))
}

impl Fe {
    pub(crate) const ZERO: Self = Self([0; 4]);
    pub(crate) const ONE: Self = Self::from_u64(1);

    pub(crate) const fn from_u64(value: u64) -> Self {
        Self([value, 0, 0, 0])
    }

    /// The element's one form, big-endian.
    #[cfg(test)]
    pub(crate) fn to_bytes(self) -> [u8; 32] {
        bytes_of(&self.reduced().0)
    }

    /// The element's one form, below p.
    pub(crate) const fn reduced(self) -> Self {
        // v ≥ p exactly if v + FOLD reaches 2^256, and then that sum is v − p.
        let (r0, c) = add_carry(self.0[0], FOLD, 0);
        let (r1, c) = add_carry(self.0[1], 0, c);
        let (r2, c) = add_carry(self.0[2], 0, c);
        let (r3, c) = add_carry(self.0[3], 0, c);
        if c == 1 { Self([r0, r1, r2, r3]) } else { self }
    }

    /// The inverse; zero for zero.
    pub(crate) fn invert(self) -> Self {
        Self(invert_var(&self.reduced().0, &MODULUS))
    }

    pub(crate) fn is_zero(self) -> bool {
        self.0 == [0; 4] || self.0 == P
    }

    #[cfg(test)]
    pub(crate) fn equals(self, other: Self) -> bool {
        self.reduced().0 == other.reduced().0
    }

    pub(crate) const fn is_odd(self) -> bool {
        self.reduced().0[0] & 1 == 1
    }

    #[inline(always)]
    pub(crate) const fn add(self, other: Self) -> Self {
        let (a, b) = (&self.0, &other.0);
        let (r0, c) = add_carry(a[0], b[0], 0);
        let (r1, c) = add_carry(a[1], b[1], c);
        let (r2, c) = add_carry(a[2], b[2], c);
        let (r3, c) = add_carry(a[3], b[3], c);
        Self(fold_carry([r0, r1, r2, r3], c))
    }

    #[inline(always)]
    pub(crate) const fn sub(self, other: Self) -> Self {
        let (a, b) = (&self.0, &other.0);
        let (r0, c) = subtract_borrow(a[0], b[0], 0);
        let (r1, c) = subtract_borrow(a[1], b[1], c);
        let (r2, c) = subtract_borrow(a[2], b[2], c);
        let (r3, c) = subtract_borrow(a[3], b[3], c);
        // What is below zero wrapped to 2^256 more; 2^256 ≡ FOLD. That can borrow once more.
        let (r0, c) = subtract_borrow(r0, c.wrapping_neg() & FOLD, 0);
        let (r1, c) = subtract_borrow(r1, 0, c);
        let (r2, c) = subtract_borrow(r2, 0, c);
        let (r3, c) = subtract_borrow(r3, 0, c);
        // Then the value is just below 2^256, and the lowest limb is large.
        Self([r0.wrapping_sub(c.wrapping_neg() & FOLD), r1, r2, r3])
    }

    #[inline(always)]
    pub(crate) const fn neg(self) -> Self {
        Self::ZERO.sub(self)
    }

    #[inline]
    pub(crate) const fn mul(self, other: Self) -> Self {
        reduce_wide(multiply_wide(&self.0, &other.0))
    }

    #[inline(always)]
    pub(crate) const fn square(self) -> Self {
        self.mul(self)
    }

    /// The product with a number below 2^32.
    #[inline(always)]
    pub(crate) const fn mul_small(self, small: u64) -> Self {
        let (r0, c) = add_multiply(0, self.0[0], small, 0);
        let (r1, c) = add_multiply(0, self.0[1], small, c);
        let (r2, c) = add_multiply(0, self.0[2], small, c);
        let (r3, c) = add_multiply(0, self.0[3], small, c);
        Self(fold_carry([r0, r1, r2, r3], c))
    }
}

impl Invertible for Fe {
    const ONE: Self = Self::ONE;

    #[inline]
    fn mul(self, other: Self) -> Self {
        Fe::mul(self, other)
    }

    fn is_zero(self) -> bool {
        Fe::is_zero(self)
    }

    fn invert(self) -> Self {
        Fe::invert(self)
    }
}

/// The limbs of a big-endian number, least significant first.
#[inline(always)]
pub(crate) fn limbs_of(bytes: &[u8; 32]) -> [u64; 4] {
    core::array::from_fn(|i| {
        let mut limb = [0u8; 8];
        limb.copy_from_slice(&bytes[24 - 8 * i..32 - 8 * i]);
        u64::from_be_bytes(limb)
    })
}

/// The big-endian number of limbs.
pub(crate) fn bytes_of(limbs: &[u64; 4]) -> [u8; 32] {
    let mut bytes = [0u8; 32];
    for (i, limb) in limbs.iter().enumerate() {
        bytes[24 - 8 * i..32 - 8 * i].copy_from_slice(&limb.to_be_bytes());
    }
    bytes
}
