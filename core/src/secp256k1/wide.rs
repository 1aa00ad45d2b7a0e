//! Eight field elements, or eight scalars, side by side with AVX-512 IFMA.
//!
//! A number is five limbs of 52 bits, a limb of all eight lanes in one register. IFMA takes
//! the low 52 bits of two words, multiplies them, and adds the low or the high half of the
//! product to a third: exact as long as what goes in is below 2^52. So every value that these
//! types hold is *strict*: limbs 0 to 3 below 2^52, limb 4 below 2^49. The value itself is
//! then below 2^257, and stands for its remainder.
//!
//! # Safety
//! The methods are safe to call only where the instructions exist. Values of these types are
//! made and used nowhere but in [`crate::secp256k1::backends::Wide`], whose callers have seen
//! that the instructions are there; that is the reason every `SAFETY` below refers to.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_cmpeq_epi64_mask, _mm512_cmpge_epu64_mask,
    _mm512_i64gather_epi64, _mm512_loadu_si512, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64,
    _mm512_mask_mov_epi64, _mm512_mask_sub_epi64, _mm512_or_si512, _mm512_set1_epi64,
    _mm512_shrdi_epi64, _mm512_shuffle_i64x2, _mm512_slli_epi64, _mm512_srli_epi64,
    _mm512_storeu_si512, _mm512_sub_epi64, _mm512_test_epi64_mask, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi64,
};

use crate::field::inverse_of_word;
use crate::secp256k1::field::{FOLD, Fe, P};
use crate::secp256k1::lanes::{FieldLanes, MAX_WIDTH, Mask, NEGATIVE, Pair, ScalarLanes};
use crate::secp256k1::scalar::{N, Scalar};

const LIMB: u64 = (1 << 52) - 1;
const TOP: u64 = (1 << 48) - 1;

/// The 52-bit limbs of a number below 2^256.
const fn limbs52(v: [u64; 4]) -> [u64; 5] {
    [
        v[0] & LIMB,
        (v[0] >> 52 | v[1] << 12) & LIMB,
        (v[1] >> 40 | v[2] << 24) & LIMB,
        (v[2] >> 28 | v[3] << 36) & LIMB,
        v[3] >> 16,
    ]
}

/// Shorthand for intrinsics that take and give registers only.
macro_rules! op {
    ($name:ident$(::<$constant:literal>)?($($argument:expr),*)) => {{
        // SAFETY: register arithmetic; the instructions exist, see the module's words.
        unsafe { $name$(::<$constant>)?($($argument),*) }
    }};
}

#[inline(always)]
fn splat(value: u64) -> __m512i {
    op!(_mm512_set1_epi64(value as i64))
}

#[inline(always)]
fn add(a: __m512i, b: __m512i) -> __m512i {
    op!(_mm512_add_epi64(a, b))
}

#[inline(always)]
fn sub(a: __m512i, b: __m512i) -> __m512i {
    op!(_mm512_sub_epi64(a, b))
}

#[inline(always)]
fn and(a: __m512i, b: __m512i) -> __m512i {
    op!(_mm512_and_si512(a, b))
}

#[inline(always)]
fn or(a: __m512i, b: __m512i) -> __m512i {
    op!(_mm512_or_si512(a, b))
}

/// A register a limb, the same in all lanes.
#[inline(always)]
fn splats(limbs: [u64; 5]) -> [__m512i; 5] {
    [
        splat(limbs[0]),
        splat(limbs[1]),
        splat(limbs[2]),
        splat(limbs[3]),
        splat(limbs[4]),
    ]
}

#[inline(always)]
fn low(addend: __m512i, a: __m512i, b: __m512i) -> __m512i {
    op!(_mm512_madd52lo_epu64(addend, a, b))
}

#[inline(always)]
fn high(addend: __m512i, a: __m512i, b: __m512i) -> __m512i {
    op!(_mm512_madd52hi_epu64(addend, a, b))
}

#[inline(always)]
fn right<const BITS: u32>(a: __m512i) -> __m512i {
    // SAFETY: register arithmetic; the instructions exist.
    unsafe { _mm512_srli_epi64::<BITS>(a) }
}

#[inline(always)]
fn left<const BITS: u32>(a: __m512i) -> __m512i {
    // SAFETY: register arithmetic; the instructions exist.
    unsafe { _mm512_slli_epi64::<BITS>(a) }
}

/// Rows of eight words become columns of eight words.
#[inline(always)]
fn transpose(r: [__m512i; 8]) -> [__m512i; 8] {
    let mut even = [r[0]; 4];
    let mut odd = [r[0]; 4];
    for i in 0..4 {
        even[i] = op!(_mm512_unpacklo_epi64(r[2 * i], r[2 * i + 1]));
        odd[i] = op!(_mm512_unpackhi_epi64(r[2 * i], r[2 * i + 1]));
    }
    // Quarter k of even[i] holds column 2k of rows 2i and 2i + 1, of odd[i] column 2k + 1.
    let [c0, c2, c4, c6] = quarters(even);
    let [c1, c3, c5, c7] = quarters(odd);
    [c0, c1, c2, c3, c4, c5, c6, c7]
}

/// Quarter k of all four, one after the other, for each k.
#[inline(always)]
fn quarters(q: [__m512i; 4]) -> [__m512i; 4] {
    let a = op!(_mm512_shuffle_i64x2::<0x88>(q[0], q[1]));
    let b = op!(_mm512_shuffle_i64x2::<0xdd>(q[0], q[1]));
    let c = op!(_mm512_shuffle_i64x2::<0x88>(q[2], q[3]));
    let d = op!(_mm512_shuffle_i64x2::<0xdd>(q[2], q[3]));
    [
        op!(_mm512_shuffle_i64x2::<0x88>(a, c)),
        op!(_mm512_shuffle_i64x2::<0x88>(b, d)),
        op!(_mm512_shuffle_i64x2::<0xdd>(a, c)),
        op!(_mm512_shuffle_i64x2::<0xdd>(b, d)),
    ]
}

/// Four columns of 64 bits as five of 52.
#[inline(always)]
fn to_52(v: [__m512i; 4]) -> [__m512i; 5] {
    let mask = splat(LIMB);
    [
        and(v[0], mask),
        and(op!(_mm512_shrdi_epi64::<52>(v[0], v[1])), mask),
        and(op!(_mm512_shrdi_epi64::<40>(v[1], v[2])), mask),
        and(op!(_mm512_shrdi_epi64::<28>(v[2], v[3])), mask),
        right::<16>(v[3]),
    ]
}

/// Five columns of 52 bits, the value below 2^256, as four of 64.
#[inline(always)]
fn to_64(v: [__m512i; 5]) -> [__m512i; 4] {
    [
        or(v[0], left::<52>(v[1])),
        or(right::<12>(v[1]), left::<40>(v[2])),
        or(right::<24>(v[2]), left::<28>(v[3])),
        or(right::<36>(v[3]), left::<16>(v[4])),
    ]
}

#[inline(always)]
fn words(v: __m512i) -> [u64; 8] {
    let mut words = [0u64; 8];
    // SAFETY: 64 bytes are there; the store needs no alignment; the instructions exist.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), v) };
    words
}

#[inline(always)]
fn register(words: &[u64; 8]) -> __m512i {
    // SAFETY: 64 bytes are there; the load needs no alignment; the instructions exist.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline(always)]
fn pair(point: &Pair) -> __m512i {
    // SAFETY: a Pair is 64 bytes, all of them integers; the instructions exist.
    unsafe { _mm512_loadu_si512(core::ptr::from_ref(point).cast()) }
}

/// Eight rows at indices, as the columns of x and of y.
#[inline(always)]
fn rows_at(points: &[Pair], indices: &[u32]) -> ([__m512i; 5], [__m512i; 5]) {
    let mut rows = [splat(0); 8];
    for (row, index) in rows.iter_mut().zip(&indices[..8]) {
        *row = pair(&points[(index & !NEGATIVE) as usize]);
    }
    columns_of(rows)
}

#[inline(always)]
fn rows(points: &[Pair]) -> ([__m512i; 5], [__m512i; 5]) {
    let mut rows = [splat(0); 8];
    for (row, point) in rows.iter_mut().zip(&points[..8]) {
        *row = pair(point);
    }
    columns_of(rows)
}

#[inline(always)]
fn columns_of(rows: [__m512i; 8]) -> ([__m512i; 5], [__m512i; 5]) {
    let c = transpose(rows);
    (
        to_52([c[0], c[1], c[2], c[3]]),
        to_52([c[4], c[5], c[6], c[7]]),
    )
}

/// Makes limbs 0 to 4 strict, given that each is below 2^60 and the value below 2^312: the
/// carries go up once, what is above 2^256 having been folded to the bottom before.
#[inline(always)]
fn carry(c: [__m512i; 5]) -> [__m512i; 5] {
    let mask = splat(LIMB);
    let c1 = add(c[1], right::<52>(c[0]));
    let c2 = add(c[2], right::<52>(c1));
    let c3 = add(c[3], right::<52>(c2));
    let c4 = add(c[4], right::<52>(c3));
    [
        and(c[0], mask),
        and(c1, mask),
        and(c2, mask),
        and(c3, mask),
        c4,
    ]
}

/// The columns of a product: column k is the sum of all low halves of a_i·b_j with i + j = k
/// and all high halves with i + j = k − 1. Each is at most nine times 2^52.
#[inline(always)]
fn columns(a: &[__m512i; 5], b: &[__m512i; 5]) -> [__m512i; 10] {
    let zero = splat(0);
    let mut lows = [zero; 10];
    let mut highs = [zero; 10];
    for i in 0..5 {
        for j in 0..5 {
            lows[i + j] = low(lows[i + j], a[i], b[j]);
            highs[i + j + 1] = high(highs[i + j + 1], a[i], b[j]);
        }
    }
    let mut sums = [zero; 10];
    sums[0] = lows[0];
    for k in 1..9 {
        sums[k] = add(lows[k], highs[k]);
    }
    sums[9] = highs[9];
    sums
}

/// The columns of a square: the products of different limbs once, then doubled.
#[inline(always)]
fn square_columns(a: &[__m512i; 5]) -> [__m512i; 10] {
    let zero = splat(0);
    let mut lows = [zero; 10];
    let mut highs = [zero; 10];
    for i in 0..5 {
        for j in i + 1..5 {
            lows[i + j] = low(lows[i + j], a[i], a[j]);
            highs[i + j + 1] = high(highs[i + j + 1], a[i], a[j]);
        }
    }
    let mut sums = [zero; 10];
    for k in 1..9 {
        sums[k] = left::<1>(add(lows[k], highs[k]));
    }
    for i in 0..5 {
        sums[2 * i] = low(sums[2 * i], a[i], a[i]);
        sums[2 * i + 1] = high(sums[2 * i + 1], a[i], a[i]);
    }
    sums
}

/// Eight field elements.
#[derive(Clone, Copy)]
pub(crate) struct Fe8([__m512i; 5]);

/// Limbs of 2p and of 4p, each no less than any strict limb (or two of them), so that a
/// difference needs no borrow.
const TWO_P: [u64; 5] = {
    let p = limbs52(P);
    [2 * p[0], 2 * p[1], 2 * p[2], 2 * p[3], 2 * p[4]]
};

impl Fe8 {
    /// A strict value of what is below 2^60 a limb: what limb 4 has above 2^256 comes back
    /// at the bottom as so many times 2^256 − p. The carries then leave limb 4 below
    /// 2^48 + 2^9.
    #[inline(always)]
    fn fold_top(mut c: [__m512i; 5]) -> Self {
        let top = right::<48>(c[4]);
        c[4] = and(c[4], splat(TOP));
        // At most 2^12 · 2^33: no high half.
        c[0] = low(c[0], top, splat(FOLD));
        Self(carry(c))
    }

    /// The element of ten columns, each below 2^58, plus `extra` limbs below 2^56.
    #[inline(always)]
    fn reduce(c: [__m512i; 10], extra: Option<[__m512i; 5]>) -> Self {
        // 2^260 ≡ 16·FOLD, a number of 37 bits. Column 5 + k is its low 52 bits, which the
        // multiplication takes by itself, and an excess e of at most 6 bits for column k + 1,
        // whose product has no high half. Column 9 has no excess: a4·b4 is below 2^98.
        let fold = splat(FOLD << 4);
        let mut r = [c[0], c[1], c[2], c[3], c[4]];
        if let Some(extra) = extra {
            for (limb, more) in r.iter_mut().zip(extra) {
                *limb = add(*limb, more);
            }
        }
        let mut s = [splat(0); 5];
        for k in 0..5 {
            r[k] = low(r[k], c[5 + k], fold);
        }
        for k in 0..4 {
            s[k + 1] = high(s[k + 1], c[5 + k], fold);
            r[k + 1] = low(r[k + 1], right::<52>(c[5 + k]), fold);
        }
        for k in 1..5 {
            r[k] = add(r[k], s[k]);
        }
        // What is left above: the high half of column 9's product, worth 2^260, and the bits
        // of limb 4 from 2^256 on. Together below 2^39.
        let above = high(splat(0), c[9], fold);
        let top = add(right::<48>(r[4]), left::<4>(above));
        r[4] = and(r[4], splat(TOP));
        r[0] = low(r[0], top, splat(FOLD));
        r[1] = high(r[1], top, splat(FOLD));
        Self(carry(r))
    }

    /// 2p − v, limb by limb; not strict.
    #[inline(always)]
    fn minus(v: &[__m512i; 5]) -> [__m512i; 5] {
        [
            sub(splat(TWO_P[0]), v[0]),
            sub(splat(TWO_P[1]), v[1]),
            sub(splat(TWO_P[2]), v[2]),
            sub(splat(TWO_P[3]), v[3]),
            sub(splat(TWO_P[4]), v[4]),
        ]
    }

    #[inline(always)]
    fn sum(a: [__m512i; 5], b: [__m512i; 5]) -> [__m512i; 5] {
        [
            add(a[0], b[0]),
            add(a[1], b[1]),
            add(a[2], b[2]),
            add(a[3], b[3]),
            add(a[4], b[4]),
        ]
    }

    /// The lanes whose limbs are these.
    #[inline(always)]
    fn equal_limbs(self, limbs: [u64; 5]) -> Mask {
        let mut mask = u8::MAX;
        for (register, limb) in self.0.into_iter().zip(limbs) {
            mask &= op!(_mm512_cmpeq_epi64_mask(register, splat(limb)));
        }
        mask
    }

    /// The same with every value below 2^256. A strict value is at most a little above it,
    /// and hardly ever is.
    #[inline(always)]
    fn below_2_256(self) -> Self {
        if op!(_mm512_test_epi64_mask(self.0[4], splat(!TOP))) == 0 {
            return self;
        }
        // What remains after the fold is tiny where anything was folded: no carry is left.
        Self::fold_top(self.0)
    }
}

impl FieldLanes for Fe8 {
    const WIDTH: usize = 8;

    #[inline(always)]
    fn splat(value: Fe) -> Self {
        Self(splats(limbs52(value.0)))
    }

    #[inline(always)]
    fn lane(self, lane: usize) -> Fe {
        let limbs = to_64(self.below_2_256().0);
        Fe([
            words(limbs[0])[lane],
            words(limbs[1])[lane],
            words(limbs[2])[lane],
            words(limbs[3])[lane],
        ])
    }

    #[inline(always)]
    fn gather(values: &[Fe]) -> Self {
        let mut rows = [Pair::NONE; 8];
        for (row, value) in rows.iter_mut().zip(values) {
            row.x = value.0;
        }
        Self::load(&rows).0
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self::fold_top(Self::sum(self.0, other.0))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self::fold_top(Self::sum(self.0, Self::minus(&other.0)))
    }

    #[inline(always)]
    fn neg(self) -> Self {
        Self::fold_top(Self::minus(&self.0))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self::reduce(columns(&self.0, &other.0), None)
    }

    #[inline(always)]
    fn square(self) -> Self {
        Self::reduce(square_columns(&self.0), None)
    }

    #[inline(always)]
    fn mul_add(self, other: Self, a: Self, b: Self) -> Self {
        let mut sums = columns(&self.0, &other.0);
        for (sum, more) in sums.iter_mut().zip(columns(&a.0, &b.0)) {
            *sum = add(*sum, more);
        }
        Self::reduce(sums, None)
    }

    #[inline(always)]
    fn mul_sub(self, other: Self, c: Self) -> Self {
        Self::reduce(columns(&self.0, &other.0), Some(Self::minus(&c.0)))
    }

    #[inline(always)]
    fn square_sub(self, c: Self, d: Self) -> Self {
        let extra = Self::sum(Self::minus(&c.0), Self::minus(&d.0));
        Self::reduce(square_columns(&self.0), Some(extra))
    }

    #[inline(always)]
    fn mul_small(self, small: u64) -> Self {
        // Low and high halves apart: a limb times 2^10 has up to ten bits above 2^52.
        let small = splat(small);
        let zero = splat(0);
        let mut c = [zero; 5];
        for (product, limb) in c.iter_mut().zip(self.0) {
            *product = low(zero, limb, small);
        }
        for k in 0..4 {
            c[k + 1] = high(c[k + 1], self.0[k], small);
        }
        // Limb 4 times 2^10 may reach beyond 52 bits by a few: they are worth 2^260.
        let above = high(zero, self.0[4], small);
        let top = add(right::<48>(c[4]), left::<4>(above));
        c[4] = and(c[4], splat(TOP));
        c[0] = low(c[0], top, splat(FOLD));
        Self(carry(c))
    }

    #[inline(always)]
    fn zeros(self) -> Mask {
        // A strict value is below 2p, so zero is 0 or p.
        self.equal_limbs([0; 5]) | self.equal_limbs(limbs52(P))
    }

    #[inline(always)]
    fn odds(self) -> Mask {
        let limbs = self.below_2_256().0;
        let p = limbs52(P);
        let mut reaches_p = op!(_mm512_cmpge_epu64_mask(limbs[0], splat(p[0])));
        for k in 1..5 {
            reaches_p &= op!(_mm512_cmpeq_epi64_mask(limbs[k], splat(p[k])));
        }
        // p is odd, so taking it off turns the parity.
        op!(_mm512_test_epi64_mask(limbs[0], splat(1))) ^ reaches_p
    }

    #[inline(always)]
    fn replace(self, mask: Mask, other: Self) -> Self {
        let mut limbs = self.0;
        for (limb, of_other) in limbs.iter_mut().zip(other.0) {
            *limb = op!(_mm512_mask_mov_epi64(*limb, mask, of_other));
        }
        Self(limbs)
    }

    #[inline(always)]
    fn load(points: &[Pair]) -> (Self, Self) {
        let (x, y) = rows(points);
        (Self(x), Self(y))
    }

    #[inline(always)]
    fn load_at(points: &[Pair], indices: &[u32]) -> (Self, Self) {
        let (x, y) = rows_at(points, indices);
        let mut signs = 0u8;
        for (lane, index) in indices[..8].iter().enumerate() {
            signs |= ((index >> 31) as u8) << lane;
        }
        if signs == 0 {
            return (Self(x), Self(y));
        }
        let mut negated = y;
        for (limb, two_p) in negated.iter_mut().zip(TWO_P) {
            *limb = op!(_mm512_mask_sub_epi64(*limb, signs, splat(two_p), *limb));
        }
        (Self(x), Self::fold_top(negated))
    }

    #[inline(always)]
    fn store(x: Self, y: Self, points: &mut [Pair]) {
        let [x0, x1, x2, x3] = to_64(x.below_2_256().0);
        let [y0, y1, y2, y3] = to_64(y.below_2_256().0);
        let rows = transpose([x0, x1, x2, x3, y0, y1, y2, y3]);
        for (point, row) in points[..8].iter_mut().zip(rows) {
            // SAFETY: a Pair is 64 bytes and any bytes make one; the instructions exist.
            unsafe { _mm512_storeu_si512(core::ptr::from_mut(point).cast(), row) };
        }
    }

    #[inline(always)]
    fn select(table: &[Self], stride: usize, choices: &[u8]) -> Self {
        let mut offsets = [0u64; 8];
        for (lane, (offset, choice)) in offsets.iter_mut().zip(choices).enumerate() {
            let at = usize::from(*choice) * stride;
            assert!(at < table.len(), "the choice is in the table");
            *offset = (at * 40 + lane) as u64;
        }
        let offsets = register(&offsets);
        let mut limbs = [splat(0); 5];
        for (k, limb) in limbs.iter_mut().enumerate() {
            let offsets = add(offsets, splat(8 * k as u64));
            // SAFETY: an Fe8 is 40 words; word 8k + lane of element `at` was seen to be in
            // the table; the instructions exist.
            *limb = unsafe { _mm512_i64gather_epi64::<8>(offsets, table.as_ptr().cast()) };
        }
        Self(limbs)
    }
}

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
