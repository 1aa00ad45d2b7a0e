//! The scalar field of BN254: the numbers that circuits, commitments and the tree are made of.
//!
//! An element is kept in Montgomery form, a·2^256 mod p, in four 64-bit limbs, least
//! significant first, always fully reduced. Everything is `const`, so that the constants of
//! Poseidon2 are computed by the compiler and no table is copied from anywhere.
//!
//! Multiplication is the coarsely integrated method of Koç, Acar and Kaliski (1996), row by
//! row, without the extra carry word, for which the top limb of p leaves room. Nothing here is
//! secret-independent in time by promise.

use core::fmt;

/// The modulus p, least significant limb first.
pub const MODULUS: [u64; 4] = [
    0x43e1_f593_f000_0001,
    0x2833_e848_79b9_7091,
    0xb850_45b6_8181_585d,
    0x3064_4e72_e131_a029,
];

/// −p⁻¹ mod 2^64.
pub(crate) const NEGATED_INVERSE: u64 = inverse_of_word(MODULUS[0]).wrapping_neg();

/// The inverse of an odd number modulo 2^64, by Newton's iteration: each round doubles the number
/// of right bits.
pub(crate) const fn inverse_of_word(odd: u64) -> u64 {
    let mut inverse = 1u64;
    let mut round = 0;
    while round < 6 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        round += 1;
    }
    inverse
}

/// 2^512 mod p, which takes a number into Montgomery form: 512 doublings of one.
const R_SQUARED: [u64; 4] = {
    let mut value = [1, 0, 0, 0];
    let mut round = 0;
    while round < 512 {
        value = add_limbs(value, value);
        round += 1;
    }
    value
};

/// An element of the field, fully reduced.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fr([u64; 4]);

/// Bytes that are not a field element: the number is at or above the modulus. It is not
/// repeated here, since it may have been meant as a blinding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotInField;

impl fmt::Display for NotInField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the number is not below the BN254 modulus; reduce it, or draw another, \
             before it is used as a field element",
        )
    }
}

impl std::error::Error for NotInField {}

/// a + b + carry, and the new carry.
#[inline(always)]
const fn add_carry(a: u64, b: u64, carry: bool) -> (u64, bool) {
    let (sum, over) = a.overflowing_add(b);
    let (sum, over_too) = sum.overflowing_add(carry as u64);
    (sum, over | over_too)
}

/// a − b − borrow, and the new borrow.
#[inline(always)]
const fn subtract_borrow(a: u64, b: u64, borrow: bool) -> (u64, bool) {
    let (difference, under) = a.overflowing_sub(b);
    let (difference, under_too) = difference.overflowing_sub(borrow as u64);
    (difference, under | under_too)
}

/// The value less `subtrahend`, unless that is larger.
#[inline(always)]
const fn subtract_if_not_below(v: [u64; 4], subtrahend: [u64; 4]) -> [u64; 4] {
    let (r0, b) = subtract_borrow(v[0], subtrahend[0], false);
    let (r1, b) = subtract_borrow(v[1], subtrahend[1], b);
    let (r2, b) = subtract_borrow(v[2], subtrahend[2], b);
    let (r3, b) = subtract_borrow(v[3], subtrahend[3], b);
    if b { v } else { [r0, r1, r2, r3] }
}

/// The value itself if it is below p, else the value less p. Holds for any value below 2p.
#[inline(always)]
pub(crate) const fn reduce_once(v: [u64; 4]) -> [u64; 4] {
    subtract_if_not_below(v, MODULUS)
}

/// The sum of limbs; right if it is below 2^256.
#[inline(always)]
const fn sum_limbs(a: [u64; 4], b: [u64; 4]) -> [u64; 4] {
    let (r0, c) = add_carry(a[0], b[0], false);
    let (r1, c) = add_carry(a[1], b[1], c);
    let (r2, c) = add_carry(a[2], b[2], c);
    let (r3, _) = add_carry(a[3], b[3], c);
    [r0, r1, r2, r3]
}

/// a + b mod p. Both are below p < 2^254, so the sum needs no fifth limb.
#[inline(always)]
const fn add_limbs(a: [u64; 4], b: [u64; 4]) -> [u64; 4] {
    reduce_once(sum_limbs(a, b))
}

/// Both halves of a product, the low one first.
#[inline(always)]
const fn product(a: u64, b: u64) -> (u64, u64) {
    // (2^64 − 1)² < 2^128: it always fits, so no check is wanted here.
    let wide = (a as u128).wrapping_mul(b as u128);
    (wide as u64, (wide >> 64) as u64)
}

/// a·b of four limbs by one. All low halves and all high halves are there before the one
/// chain of carries starts, which is quicker than a carry from each product into the next.
#[inline(always)]
const fn row(a: [u64; 4], b: u64) -> [u64; 5] {
    let (r0, h0) = product(a[0], b);
    let (l1, h1) = product(a[1], b);
    let (l2, h2) = product(a[2], b);
    let (l3, h3) = product(a[3], b);
    let (r1, c) = add_carry(h0, l1, false);
    let (r2, c) = add_carry(h1, l2, c);
    let (r3, c) = add_carry(h2, l3, c);
    // a·b < 2^320, so its top limb has room for the carry.
    [r0, r1, r2, r3, h3.wrapping_add(c as u64)]
}

/// The sum, which must be below 2^320.
#[inline(always)]
const fn add_row(t: [u64; 5], row: [u64; 5]) -> [u64; 5] {
    let (r0, c) = add_carry(t[0], row[0], false);
    let (r1, c) = add_carry(t[1], row[1], c);
    let (r2, c) = add_carry(t[2], row[2], c);
    let (r3, c) = add_carry(t[3], row[3], c);
    [
        r0,
        r1,
        r2,
        r3,
        t[4].wrapping_add(row[4]).wrapping_add(c as u64),
    ]
}

/// One step of Montgomery's reduction: (t + m·p) / 2^64 for the m that makes it whole.
#[inline(always)]
const fn step(t: [u64; 5]) -> [u64; 5] {
    let m = t[0].wrapping_mul(NEGATED_INVERSE);
    let [_, a, b, c, d] = add_row(t, row(MODULUS, m));
    [a, b, c, d, 0]
}

/// a·b·2^−256 mod p, not reduced: below a·b / 2^256 + p, for a below 4.2 p and any b.
///
/// After each step t < a + p, by induction: (t + a·bᵢ + m·p) / 2^64 < (a + p)·2^64 / 2^64. As
/// 5.2 p < 2^256, it fits four limbs, and before the step five.
#[inline(always)]
const fn multiply_lazily(a: [u64; 4], b: [u64; 4]) -> [u64; 4] {
    let t = step(row(a, b[0]));
    let t = step(add_row(t, row(a, b[1])));
    let t = step(add_row(t, row(a, b[2])));
    let [r0, r1, r2, r3, _] = step(add_row(t, row(a, b[3])));
    [r0, r1, r2, r3]
}

/// a·b·2^−256 mod p, for a below 4.2 p and b with a·b < 2^256·p: below 2p before it is reduced.
#[inline(always)]
const fn multiply_limbs(a: [u64; 4], b: [u64; 4]) -> [u64; 4] {
    reduce_once(multiply_lazily(a, b))
}

const fn is_below_modulus(v: [u64; 4]) -> bool {
    let (_, b) = subtract_borrow(v[0], MODULUS[0], false);
    let (_, b) = subtract_borrow(v[1], MODULUS[1], b);
    let (_, b) = subtract_borrow(v[2], MODULUS[2], b);
    let (_, b) = subtract_borrow(v[3], MODULUS[3], b);
    b
}

/// 2p.
const TWICE_MODULUS: [u64; 4] = sum_limbs(MODULUS, MODULUS);

/// An element in Montgomery form that is not fully reduced, for long computations that add
/// and multiply by turns. What stands here are limbs below 2^256 = 5.29 p; the bound of each
/// value is the caller's to know.
#[derive(Clone, Copy)]
pub(crate) struct Residue([u64; 4]);

impl Residue {
    /// The element, below p.
    #[inline(always)]
    pub(crate) const fn of(element: Fr) -> Self {
        Self(element.0)
    }

    /// The sum, which the bounds must keep below 5.29 p.
    #[inline(always)]
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self(sum_limbs(self.0, other.0))
    }

    /// Less 2p, if it is not below: what was below 4p is below 2p.
    #[inline(always)]
    pub(crate) const fn trimmed(self) -> Self {
        Self(subtract_if_not_below(self.0, TWICE_MODULUS))
    }

    /// The product, below a·b / 5.29 + 1 for factors below a and b times p, a at most 4.2.
    #[inline(always)]
    pub(crate) const fn times(self, other: Self) -> Self {
        Self(multiply_lazily(self.0, other.0))
    }

    /// The element, of what is below 4p.
    #[inline(always)]
    pub(crate) const fn element(self) -> Fr {
        Fr(reduce_once(self.trimmed().0))
    }
}

impl Fr {
    /// Zero.
    pub const ZERO: Self = Self([0; 4]);
    /// One.
    pub const ONE: Self = Self::from_u64(1);

    /// The element of a 64-bit number.
    #[must_use]
    pub const fn from_u64(value: u64) -> Self {
        Self(multiply_limbs([value, 0, 0, 0], R_SQUARED))
    }

    /// The element of a 128-bit number.
    #[must_use]
    pub const fn from_u128(value: u128) -> Self {
        Self(multiply_limbs(
            [value as u64, (value >> 64) as u64, 0, 0],
            R_SQUARED,
        ))
    }

    /// The element of a number given by its limbs, least significant first; `None` at or
    /// above the modulus.
    #[must_use]
    pub const fn from_limbs(limbs: [u64; 4]) -> Option<Self> {
        if is_below_modulus(limbs) {
            Some(Self(multiply_limbs(limbs, R_SQUARED)))
        } else {
            None
        }
    }

    /// The element of a big-endian number.
    ///
    /// # Errors
    /// [`NotInField`] at or above the modulus: there is one form of every element.
    pub const fn from_bytes(bytes: [u8; 32]) -> Result<Self, NotInField> {
        let mut limbs = [0u64; 4];
        let mut i = 0;
        while i < 32 {
            limbs[3 - i / 8] = limbs[3 - i / 8] << 8 | bytes[i] as u64;
            i += 1;
        }
        match Self::from_limbs(limbs) {
            Some(element) => Ok(element),
            None => Err(NotInField),
        }
    }

    /// The element of a big-endian number of any size below 2^256, reduced. For constants
    /// that are made from hashes, never for what a peer sent.
    #[must_use]
    pub const fn from_bytes_reduced(bytes: [u8; 32]) -> Self {
        let mut value = Self::ZERO;
        let mut i = 0;
        while i < 32 {
            let mut bit = 0;
            while bit < 8 {
                value = value.double();
                if bytes[i] >> (7 - bit) & 1 == 1 {
                    value = value.add(Self::ONE);
                }
                bit += 1;
            }
            i += 1;
        }
        value
    }

    /// The number's limbs, least significant first, out of Montgomery form.
    #[must_use]
    pub const fn to_limbs(self) -> [u64; 4] {
        multiply_limbs(self.0, [1, 0, 0, 0])
    }

    /// The number, big-endian.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 32] {
        let limbs = self.to_limbs();
        let mut bytes = [0u8; 32];
        let mut i = 0;
        while i < 32 {
            bytes[i] = (limbs[3 - i / 8] >> (56 - 8 * (i % 8))) as u8;
            i += 1;
        }
        bytes
    }

    /// The limbs of Montgomery form, a·2^256 mod p.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) const fn montgomery_limbs(self) -> [u64; 4] {
        self.0
    }

    /// The element whose Montgomery form is congruent to this number, which is below 2p.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) const fn from_montgomery_below_two_moduli(limbs: [u64; 4]) -> Self {
        Self(reduce_once(limbs))
    }

    /// The sum.
    #[inline(always)]
    #[must_use]
    pub const fn add(self, other: Self) -> Self {
        Self(add_limbs(self.0, other.0))
    }

    /// Twice the element.
    #[inline(always)]
    #[must_use]
    pub const fn double(self) -> Self {
        Self(add_limbs(self.0, self.0))
    }

    /// The product.
    #[inline(always)]
    #[must_use]
    pub const fn mul(self, other: Self) -> Self {
        Self(multiply_limbs(self.0, other.0))
    }

    /// The square.
    #[inline(always)]
    #[must_use]
    pub const fn square(self) -> Self {
        self.mul(self)
    }
}

impl fmt::Debug for Fr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        for byte in self.to_bytes() {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ark_ff::{AdditiveGroup, BigInteger, Field, PrimeField};
    use proptest::prelude::*;

    fn ark(element: Fr) -> ark_bn254::Fr {
        ark_bn254::Fr::from_be_bytes_mod_order(&element.to_bytes())
    }

    fn ours(element: ark_bn254::Fr) -> Fr {
        let bytes = element.into_bigint().to_bytes_be();
        Fr::from_bytes(bytes.try_into().unwrap()).unwrap()
    }

    /// Random elements, with the edges of the field and of its limbs drawn often.
    fn element() -> impl Strategy<Value = Fr> {
        prop_oneof![
            1 => Just(Fr::ZERO),
            1 => Just(Fr::ONE),
            1 => Just(Fr::from_limbs([MODULUS[0] - 1, MODULUS[1], MODULUS[2], MODULUS[3]]).unwrap()),
            2 => prop::array::uniform4(prop_oneof![Just(0), Just(u64::MAX), any::<u64>()])
                .prop_map(|[a, b, c, d]| Fr::from_limbs([a, b, c, d % MODULUS[3]]).unwrap()),
            8 => any::<[u8; 32]>().prop_map(Fr::from_bytes_reduced),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn sums_and_products_equal_those_of_arkworks(a in element(), b in element()) {
            prop_assert_eq!(ark(a.add(b)), ark(a) + ark(b));
            prop_assert_eq!(ark(a.mul(b)), ark(a) * ark(b));
            prop_assert_eq!(ark(a.double()), ark(a) + ark(a));
            prop_assert_eq!(ark(a.square()), ark(a) * ark(a));
            prop_assert_eq!(ours(ark(a)), a);
        }

        #[test]
        fn residues_equal_elements_of_arkworks(a in element(), b in element()) {
            let (x, y) = (Residue::of(a), Residue::of(b));
            let four = x.plus(x).plus(y).plus(y);
            prop_assert_eq!(ark(four.element()), (ark(a) + ark(b)).double());
            prop_assert_eq!(ark(four.times(y).element()), (ark(a) + ark(b)).double() * ark(b));
            prop_assert_eq!(ark(x.plus(y).trimmed().element()), ark(a) + ark(b));
        }

        #[test]
        fn bytes_reduce_as_those_of_arkworks(bytes in any::<[u8; 32]>()) {
            prop_assert_eq!(
                ark(Fr::from_bytes_reduced(bytes)),
                ark_bn254::Fr::from_be_bytes_mod_order(&bytes)
            );
        }

        #[test]
        fn an_element_has_one_form_in_bytes(bytes in any::<[u8; 32]>()) {
            match Fr::from_bytes(bytes) {
                Ok(element) => prop_assert_eq!(element.to_bytes(), bytes),
                Err(NotInField) => {
                    prop_assert_ne!(Fr::from_bytes_reduced(bytes).to_bytes(), bytes);
                }
            }
        }
    }

    #[test]
    fn the_greatest_factors_that_a_lazy_product_takes_stay_below_its_bound() {
        let number = |limbs: [u64; 4]| {
            let limbs = limbs.iter().rev();
            limbs.fold(ark_bn254::Fr::from(0u64), |sum, limb| {
                sum * ark_bn254::Fr::from(1u128 << 64) + ark_bn254::Fr::from(*limb)
            })
        };
        // 4p and an eighth of what is left up to 2^256: less than 4.2 p.
        let mut greatest = sum_limbs(TWICE_MODULUS, TWICE_MODULUS);
        greatest[3] += (u64::MAX - greatest[3]) / 8;
        let radix = ark_bn254::Fr::from(1u128 << 64).square().square();
        for a in [
            greatest,
            TWICE_MODULUS,
            MODULUS,
            [u64::MAX, 0, u64::MAX, 0],
            [0; 4],
        ] {
            for b in [
                [u64::MAX; 4],
                greatest,
                MODULUS,
                [0, 0, 0, u64::MAX],
                [1, 0, 0, 0],
            ] {
                let product = multiply_lazily(a, b);
                assert_eq!(number(product) * radix, number(a) * number(b));
                assert!(product[3] <= sum_limbs(a, MODULUS)[3]);
            }
        }
    }

    #[test]
    fn the_modulus_is_that_of_arkworks() {
        assert_eq!(MODULUS, ark_bn254::Fr::MODULUS.0);
    }

    #[test]
    fn the_modulus_itself_is_refused_and_its_predecessor_is_not() {
        assert!(Fr::from_limbs(MODULUS).is_none());
        assert!(Fr::from_limbs([MODULUS[0] - 1, MODULUS[1], MODULUS[2], MODULUS[3]]).is_some());
        assert!(Fr::from_bytes([0xff; 32]).is_err());
    }

    #[test]
    fn small_numbers_come_back_as_themselves() {
        assert_eq!(Fr::from_u64(7).to_limbs(), [7, 0, 0, 0]);
        assert_eq!(
            Fr::from_u128(u128::MAX).to_limbs(),
            [u64::MAX, u64::MAX, 0, 0]
        );
    }
}
