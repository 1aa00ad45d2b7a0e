//! Eight field elements.

use core::arch::x86_64::{
    __m512i, _mm512_cmpeq_epi64_mask, _mm512_cmpge_epu64_mask, _mm512_i64gather_epi64,
    _mm512_mask_mov_epi64, _mm512_mask_sub_epi64, _mm512_storeu_si512, _mm512_test_epi64_mask,
};

use super::limbs::{
    TOP, add, and, carry, columns, high, left, limbs52, low, op, register, right, rows, rows_at,
    splat, splats, square_columns, sub, to_64, transpose, words,
};
use crate::secp256k1::field::{FOLD, Fe, P};
use crate::secp256k1::lanes::{FieldLanes, Mask, Pair};

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
        // multiplication takes anyway, and an excess e of at most 6 bits for column k + 1,
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
