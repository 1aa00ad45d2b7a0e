//! Limbs of 52 bits in registers, eight lanes each: their arithmetic, and how they come from and go
//! to memory.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_loadu_si512, _mm512_madd52hi_epu64,
    _mm512_madd52lo_epu64, _mm512_or_si512, _mm512_set1_epi64, _mm512_shrdi_epi64,
    _mm512_shuffle_i64x2, _mm512_slli_epi64, _mm512_srli_epi64, _mm512_storeu_si512,
    _mm512_sub_epi64, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
};

use crate::secp256k1::lanes::{NEGATIVE, Pair};

pub(super) const LIMB: u64 = (1 << 52) - 1;
pub(super) const TOP: u64 = (1 << 48) - 1;

/// The 52-bit limbs of a number below 2^256.
pub(super) const fn limbs52(v: [u64; 4]) -> [u64; 5] {
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
pub(super) use op;

#[inline(always)]
pub(super) fn splat(value: u64) -> __m512i {
    op!(_mm512_set1_epi64(value as i64))
}

#[inline(always)]
pub(super) fn add(a: __m512i, b: __m512i) -> __m512i {
    op!(_mm512_add_epi64(a, b))
}

#[inline(always)]
pub(super) fn sub(a: __m512i, b: __m512i) -> __m512i {
    op!(_mm512_sub_epi64(a, b))
}

#[inline(always)]
pub(super) fn and(a: __m512i, b: __m512i) -> __m512i {
    op!(_mm512_and_si512(a, b))
}

#[inline(always)]
pub(super) fn or(a: __m512i, b: __m512i) -> __m512i {
    op!(_mm512_or_si512(a, b))
}

/// A register a limb, the same in all lanes.
#[inline(always)]
pub(super) fn splats(limbs: [u64; 5]) -> [__m512i; 5] {
    [
        splat(limbs[0]),
        splat(limbs[1]),
        splat(limbs[2]),
        splat(limbs[3]),
        splat(limbs[4]),
    ]
}

#[inline(always)]
pub(super) fn low(addend: __m512i, a: __m512i, b: __m512i) -> __m512i {
    op!(_mm512_madd52lo_epu64(addend, a, b))
}

#[inline(always)]
pub(super) fn high(addend: __m512i, a: __m512i, b: __m512i) -> __m512i {
    op!(_mm512_madd52hi_epu64(addend, a, b))
}

#[inline(always)]
pub(super) fn right<const BITS: u32>(a: __m512i) -> __m512i {
    // SAFETY: register arithmetic; the instructions exist.
    unsafe { _mm512_srli_epi64::<BITS>(a) }
}

#[inline(always)]
pub(super) fn left<const BITS: u32>(a: __m512i) -> __m512i {
    // SAFETY: register arithmetic; the instructions exist.
    unsafe { _mm512_slli_epi64::<BITS>(a) }
}

/// Rows of eight words become columns of eight words.
#[inline(always)]
pub(super) fn transpose(r: [__m512i; 8]) -> [__m512i; 8] {
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
pub(super) fn quarters(q: [__m512i; 4]) -> [__m512i; 4] {
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
pub(super) fn to_52(v: [__m512i; 4]) -> [__m512i; 5] {
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
pub(super) fn to_64(v: [__m512i; 5]) -> [__m512i; 4] {
    [
        or(v[0], left::<52>(v[1])),
        or(right::<12>(v[1]), left::<40>(v[2])),
        or(right::<24>(v[2]), left::<28>(v[3])),
        or(right::<36>(v[3]), left::<16>(v[4])),
    ]
}

#[inline(always)]
pub(super) fn words(v: __m512i) -> [u64; 8] {
    let mut words = [0u64; 8];
    // SAFETY: 64 bytes are there; the store needs no alignment; the instructions exist.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), v) };
    words
}

#[inline(always)]
pub(super) fn register(words: &[u64; 8]) -> __m512i {
    // SAFETY: 64 bytes are there; the load needs no alignment; the instructions exist.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline(always)]
pub(super) fn pair(point: &Pair) -> __m512i {
    // SAFETY: a Pair is 64 bytes, all of them integers; the instructions exist.
    unsafe { _mm512_loadu_si512(core::ptr::from_ref(point).cast()) }
}

/// Eight rows at indices, as the columns of x and of y.
#[inline(always)]
pub(super) fn rows_at(points: &[Pair], indices: &[u32]) -> ([__m512i; 5], [__m512i; 5]) {
    let mut rows = [splat(0); 8];
    for (row, index) in rows.iter_mut().zip(&indices[..8]) {
        *row = pair(&points[(index & !NEGATIVE) as usize]);
    }
    columns_of(rows)
}

#[inline(always)]
pub(super) fn rows(points: &[Pair]) -> ([__m512i; 5], [__m512i; 5]) {
    let mut rows = [splat(0); 8];
    for (row, point) in rows.iter_mut().zip(&points[..8]) {
        *row = pair(point);
    }
    columns_of(rows)
}

#[inline(always)]
pub(super) fn columns_of(rows: [__m512i; 8]) -> ([__m512i; 5], [__m512i; 5]) {
    let c = transpose(rows);
    (
        to_52([c[0], c[1], c[2], c[3]]),
        to_52([c[4], c[5], c[6], c[7]]),
    )
}

/// Makes limbs 0 to 4 strict, given that each is below 2^60 and the value below 2^312: the
/// carries go up once, what is above 2^256 having been folded to the bottom before.
#[inline(always)]
pub(super) fn carry(c: [__m512i; 5]) -> [__m512i; 5] {
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
pub(super) fn columns(a: &[__m512i; 5], b: &[__m512i; 5]) -> [__m512i; 10] {
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
pub(super) fn square_columns(a: &[__m512i; 5]) -> [__m512i; 10] {
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
