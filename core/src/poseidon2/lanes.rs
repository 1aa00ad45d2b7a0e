//! Eight permutations side by side, one in each 64-bit lane, on AVX-512 with 52-bit products.
//!
//! # Form
//!
//! An element is five limbs of 52 bits, least significant first, each a vector of eight
//! lanes, in Montgomery form with R = 2^260 = 84.64 p. Values are not reduced; what is known
//! of them is a bound, written below as a multiple of p. A number is
//!
//! - *loose*, if its limbs may be beyond 52 bits (never beyond 63): sums are taken so;
//! - *carried*, if all limbs but for what stands above their low 52 bits give the number, which
//!   is below 2^260. The products read no more than those 52 bits, so nothing is masked;
//! - *tight*, if it is carried and masked. Only a tight number may be added again.
//!
//! # Products
//!
//! A general product ([`multiply`], [`square`]) is reduced from below. Its ten columns t₀ … t₉
//! are carried up to t₃, then t₀ … t₃ leave together: tᵢ·2^(52 i) = 2^208·tᵢ·(2^(52(i − 4)) mod p),
//! four independent products by constants ([`FOLDED`]) instead of four rounds of Montgomery
//! that wait for each other. One such round then takes away the limb that is left over. With
//! the sum of the four constants below 1.24 p,
//!
//! > multiply(a, b) < a·b / 2^260 + 2.24 p.
//!
//! A product by a constant d of the inner matrix ([`scale`]) is reduced from above, after Shoup:
//! with µ = ⌊d·2^260 / p⌋, the quotient of d·x by p is about x·µ / 2^260, of which only the
//! columns that reach it are computed, and the remainder is computed mod 2^260 only. That
//! takes 75 products of limbs in place of 100. What is added to it, s, is counted in the
//! quotient by its top limb. The quotient is never too large and too small by less than
//!
//! - 9 for the columns left out (at 2^208: five low and four high halves, each below 2^52),
//! - 1 for the rounding of µ,
//! - 1.65 for s (1 for the rounding down, and 0.65 as R/p is 84.64 and 84 is used),
//!
//! and a speck (below 2^−40) for all columns further down, so
//!
//! > 0 ≤ scale(d, x, s) = d·x + s mod p < 11.66 p, for any x and s below 2^260.
//!
//! # Rounds
//!
//! [`shrink`] brings any number below 2^260 under 1.65 p. It is applied after each outer layer,
//! whose rows sum to 16 at most.
//!
//! - Full rounds: x < 1.65 + 1; x², x⁴, x⁵ < 7.1 / 84.6 + 2.24 < 2.33; the outer layer then has
//!   16·2.33 < 38 < 84.
//! - Partial rounds: all elements < 11.66, the first with its constant; x² < 3.85, x⁴ < 2.42,
//!   x⁵ < 2.58; the sum of the row is then below 2.58 + 3·11.66 < 38, with the constant below
//!   39 < 84.
//! - What is absorbed is below 16 p and a state below 1.65 p; shrunk together they are below
//!   1.65 p again, and the first outer layer has 16·1.65 < 27.
//!
//! Limbs: a column has at most ten halves of products (eighteen in a square), the fold adds
//! eight and the last round two, so a product's loose limbs are below 28·2^52 < 2^57; an outer
//! layer makes that 16 times as much, below 2^61.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_loadu_si512, _mm512_madd52hi_epu64,
    _mm512_madd52lo_epu64, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_srli_epi64,
    _mm512_storeu_si512,
};

use super::constants::{INNER_DIAGONAL, ROUND_CONSTANTS};
use super::{FULL_ROUNDS, PARTIAL_ROUNDS, RATE, WIDTH};
use crate::field::{Fr, MODULUS};

/// How many permutations a vector holds.
pub(super) const LANES: usize = 8;

const LIMBS: usize = 5;
const LIMB_BITS: u32 = 52;
const LIMB_MASK: u64 = (1 << LIMB_BITS) - 1;

/// A number of 260 bits in limbs of 52.
type Wide = [u64; LIMBS];

/// The same number times 2^shift, for a shift of at most 4.
const fn widened(limbs: [u64; 4], shift: u32) -> Wide {
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
const fn narrowed(wide: Wide) -> [u64; 4] {
    let [a, b, c, d, e] = wide;
    [
        a | b << 52,
        b >> 12 | c << 40,
        c >> 24 | d << 28,
        d >> 36 | e << 16,
    ]
}

const MODULUS_WIDE: Wide = widened(MODULUS, 0);

/// 2^260 − p: adding q times this, mod 2^260, takes q·p away.
const COMPLEMENT: Wide = {
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
const NEGATED_INVERSE: u64 = crate::field::NEGATED_INVERSE & LIMB_MASK;

/// ⌊2^260 / p⌋: how many p go into one of a top limb's full ranges.
const MODULI_IN_RANGE: u64 = quotient([1, 0, 0, 0])[0];

/// 2^(52(i − 4)) mod p for i from 0 to 3.
const FOLDED: [Wide; 4] = {
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
const fn quotient(d: [u64; 4]) -> Wide {
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
struct Factor {
    value: Wide,
    quotient: Wide,
}

impl Factor {
    const fn new(element: Fr) -> Self {
        Self {
            value: widened(element.to_limbs(), 0),
            quotient: quotient(element.to_limbs()),
        }
    }
}

/// The diagonal as plain numbers: times an element in Montgomery form they give one.
static DIAGONAL: [Factor; WIDTH] = [
    Factor::new(INNER_DIAGONAL[0]),
    Factor::new(INNER_DIAGONAL[1]),
    Factor::new(INNER_DIAGONAL[2]),
    Factor::new(INNER_DIAGONAL[3]),
];

/// The element in Montgomery form for R = 2^260, reduced.
const fn montgomery(element: Fr) -> Wide {
    widened(element.mul(Fr::from_u64(16)).montgomery_limbs(), 0)
}

struct WideConstants {
    first_full: [[Wide; WIDTH]; FULL_ROUNDS / 2],
    partial: [Wide; PARTIAL_ROUNDS],
    last_full: [[Wide; WIDTH]; FULL_ROUNDS / 2],
}

static CONSTANTS: WideConstants = {
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

/// A number in each lane.
type Number = [__m512i; LIMBS];
/// The state of eight permutations.
type State = [Number; WIDTH];

#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn every(limb: u64) -> __m512i {
    _mm512_set1_epi64(limb as i64)
}

/// addend + the low half of a·b.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn low(addend: __m512i, a: __m512i, b: __m512i) -> __m512i {
    _mm512_madd52lo_epu64(addend, a, b)
}

/// addend + the high half of a·b.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn high(addend: __m512i, a: __m512i, b: __m512i) -> __m512i {
    _mm512_madd52hi_epu64(addend, a, b)
}

/// What a limb holds beyond 52 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn beyond(limb: __m512i) -> __m512i {
    _mm512_srli_epi64::<LIMB_BITS>(limb)
}

/// The sum, loose.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn add(mut a: Number, b: &Number) -> Number {
    for i in 0..LIMBS {
        a[i] = _mm512_add_epi64(a[i], b[i]);
    }
    a
}

/// The sum with a constant, loose.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn add_constant(mut a: Number, b: &Wide) -> Number {
    for i in 0..LIMBS {
        a[i] = _mm512_add_epi64(a[i], every(b[i]));
    }
    a
}

/// Loose to carried.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn carry(mut a: Number) -> Number {
    for i in 1..LIMBS {
        a[i] = _mm512_add_epi64(a[i], beyond(a[i - 1]));
    }
    a
}

/// Loose to tight. What stands above 2^260 is dropped.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn tighten(a: Number) -> Number {
    let mut a = carry(a);
    for limb in &mut a {
        *limb = _mm512_and_si512(*limb, every(LIMB_MASK));
    }
    a
}

/// Ten columns, loose, to a loose number times 2^−260 mod p.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn reduce(mut t: [__m512i; 2 * LIMBS]) -> Number {
    for i in 1..LIMBS {
        t[i] = _mm512_add_epi64(t[i], beyond(t[i - 1]));
    }
    let mut r = [t[4], t[5], t[6], t[7], t[8], t[9]];
    for (limb, constant) in t.iter().zip(&FOLDED) {
        for j in 0..LIMBS {
            r[j] = low(r[j], *limb, every(constant[j]));
        }
        for j in 0..LIMBS {
            r[j + 1] = high(r[j + 1], *limb, every(constant[j]));
        }
    }
    let m = low(_mm512_setzero_si512(), r[0], every(NEGATED_INVERSE));
    // With m·p the lowest limb becomes zero, so it carries one unless it was zero before.
    let carried = beyond(_mm512_add_epi64(r[0], every(LIMB_MASK)));
    r[1] = _mm512_add_epi64(r[1], carried);
    for j in 1..LIMBS {
        r[j] = low(r[j], m, every(MODULUS_WIDE[j]));
    }
    for j in 0..LIMBS {
        r[j + 1] = high(r[j + 1], m, every(MODULUS_WIDE[j]));
    }
    [r[1], r[2], r[3], r[4], r[5]]
}

/// a·b / 2^260 mod p, loose, of carried numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn multiply(a: &Number, b: &Number) -> Number {
    let mut t = [_mm512_setzero_si512(); 2 * LIMBS];
    for i in 0..LIMBS {
        for j in 0..LIMBS {
            t[i + j] = low(t[i + j], a[i], b[j]);
        }
        for j in 0..LIMBS {
            t[i + j + 1] = high(t[i + j + 1], a[i], b[j]);
        }
    }
    reduce(t)
}

/// a² / 2^260 mod p, loose, of a carried number.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn square(a: &Number) -> Number {
    let mut t = [_mm512_setzero_si512(); 2 * LIMBS];
    for i in 0..LIMBS {
        for j in i + 1..LIMBS {
            t[i + j] = low(t[i + j], a[i], a[j]);
        }
        for j in i + 1..LIMBS {
            t[i + j + 1] = high(t[i + j + 1], a[i], a[j]);
        }
    }
    for column in &mut t {
        *column = _mm512_add_epi64(*column, *column);
    }
    for i in 0..LIMBS {
        t[2 * i] = low(t[2 * i], a[i], a[i]);
        t[2 * i + 1] = high(t[2 * i + 1], a[i], a[i]);
    }
    reduce(t)
}

/// r + q·(2^260 − p), of which the columns below 2^260 only; q carried.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn take_moduli(mut r: Number, q: &Number) -> Number {
    for i in 0..LIMBS {
        for j in 0..LIMBS - i {
            r[i + j] = low(r[i + j], q[i], every(COMPLEMENT[j]));
        }
        for j in 0..LIMBS - 1 - i {
            r[i + j + 1] = high(r[i + j + 1], q[i], every(COMPLEMENT[j]));
        }
    }
    r
}

/// d·x + s mod p, for x carried and s tight, or the sum of two tight numbers whose top limbs
/// sum below 2^52: what is not carried into its top limb changes the quotient by a speck only.
/// Loose, and right mod 2^260 only: its top limb must be masked, or be read by products only.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn scale(d: &Factor, x: &Number, s: &Number) -> Number {
    let mut q = [_mm512_setzero_si512(); LIMBS];
    q[0] = high(q[0], s[4], every(MODULI_IN_RANGE));
    let mut r = *s;
    for i in 0..LIMBS {
        for j in LIMBS - i..LIMBS {
            q[i + j - LIMBS] = low(q[i + j - LIMBS], x[i], every(d.quotient[j]));
        }
        for j in LIMBS - 1 - i..LIMBS {
            q[i + j + 1 - LIMBS] = high(q[i + j + 1 - LIMBS], x[i], every(d.quotient[j]));
        }
        for j in 0..LIMBS - i {
            r[i + j] = low(r[i + j], x[i], every(d.value[j]));
        }
        for j in 0..LIMBS - 1 - i {
            r[i + j + 1] = high(r[i + j + 1], x[i], every(d.value[j]));
        }
    }
    take_moduli(r, &carry(q))
}

/// The same number mod p, below 1.65 p and tight, of a loose one below 2^260.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn shrink(a: Number) -> Number {
    let mut r = tighten(a);
    let q = high(_mm512_setzero_si512(), r[4], every(MODULI_IN_RANGE));
    for j in 0..LIMBS {
        r[j] = low(r[j], q, every(COMPLEMENT[j]));
    }
    for j in 0..LIMBS - 1 {
        r[j + 1] = high(r[j + 1], q, every(COMPLEMENT[j]));
    }
    tighten(r)
}

/// Adds the constants, raises every element to the fifth power and mixes: for each group the
/// four elements, which do not wait for each other, so that their products run side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn full_round<const GROUPS: usize>(states: &mut [State; GROUPS], constants: &[Wide; WIDTH]) {
    for state in states.iter_mut() {
        let mut x = *state;
        for i in 0..WIDTH {
            x[i] = carry(add_constant(x[i], &constants[i]));
            state[i] = carry(square(&x[i]));
        }
        for power in state.iter_mut() {
            *power = carry(square(power));
        }
        for i in 0..WIDTH {
            state[i] = multiply(&state[i], &x[i]);
        }
        outer_layer(state);
    }
}

/// The outer matrix, on loose numbers; they are tight and below 1.65 p after it.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn outer_layer(state: &mut State) {
    let [a, b, c, d] = *state;
    let ab = add(a, &b);
    let cd = add(c, &d);
    let b2_cd = add(add(b, &b), &cd);
    let d2_ab = add(add(d, &d), &ab);
    let cd2 = add(cd, &cd);
    let ab2 = add(ab, &ab);
    let last = add(add(cd2, &cd2), &d2_ab);
    let second = add(add(ab2, &ab2), &b2_cd);
    *state = [
        shrink(add(d2_ab, &second)),
        shrink(second),
        shrink(add(b2_cd, &last)),
        shrink(last),
    ];
}

/// One round of the middle; the first element comes with its constant in it and leaves with
/// that of the next round. The groups take each step in turn: while one waits for
/// its own last product, another's runs.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn partial_round<const GROUPS: usize>(states: &mut [State; GROUPS], next: &Wide) {
    let zero = [_mm512_setzero_si512(); LIMBS];
    let (mut x, mut power) = ([zero; GROUPS], [zero; GROUPS]);
    for g in 0..GROUPS {
        x[g] = carry(states[g][0]);
        power[g] = carry(square(&x[g]));
    }
    for power in &mut power {
        *power = carry(square(power));
    }
    for g in 0..GROUPS {
        power[g] = multiply(&power[g], &x[g]);
    }
    for g in 0..GROUPS {
        let [_, b, c, d] = &states[g];
        let sum = tighten(add(add(add(power[g], b), c), d));
        let with_next = add_constant(sum, next);
        states[g][0] = scale(&DIAGONAL[0], &carry(power[g]), &with_next);
        for i in 1..WIDTH {
            states[g][i] = scale(&DIAGONAL[i], &carry(states[g][i]), &sum);
        }
    }
}

/// The permutation of each state: loose numbers below 16·1.65 p in, tight below 1.65 p out.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn permute<const GROUPS: usize>(states: &mut [State; GROUPS]) {
    for state in states.iter_mut() {
        for element in state.iter_mut() {
            *element = shrink(*element);
        }
        outer_layer(state);
    }
    for constants in &CONSTANTS.first_full {
        full_round(states, constants);
    }
    let [first, rest @ ..] = &CONSTANTS.partial;
    for state in states.iter_mut() {
        state[0] = add_constant(state[0], first);
    }
    for next in rest.iter().chain([&[0; LIMBS]]) {
        partial_round(states, next);
    }
    for state in states.iter_mut() {
        for element in state.iter_mut() {
            *element = tighten(*element);
        }
    }
    for constants in &CONSTANTS.last_full {
        full_round(states, constants);
    }
}

/// One element a lane; lanes beyond the elements are zero. Below 16 p, tight: Montgomery form
/// for 2^256 becomes that for 2^260 by a shift.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn gather(element: impl Fn(usize) -> Fr) -> Number {
    let mut limbs = [[0u64; LANES]; LIMBS];
    for lane in 0..LANES {
        let wide = widened(element(lane).montgomery_limbs(), 4);
        for (limb, value) in limbs.iter_mut().zip(wide) {
            limb[lane] = value;
        }
    }
    limbs.map(|limb| from_lanes(&limb))
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn from_lanes(limb: &[u64; LANES]) -> __m512i {
    // SAFETY: the array is 64 bytes, and the load asks for no alignment.
    unsafe { _mm512_loadu_si512(limb.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn to_lanes(limb: __m512i) -> [u64; LANES] {
    let mut lanes = [0; LANES];
    // SAFETY: the array is 64 bytes, and the store asks for no alignment.
    unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), limb) };
    lanes
}

/// The elements of a carried number below 84 p, fully reduced.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn scatter(number: &Number) -> [Fr; LANES] {
    // Times 2^256 / 2^260: back to Montgomery form for 2^256, below 84·5.3 / 84.6 + 2.24 < 8 p.
    let mut power = [_mm512_setzero_si512(); LIMBS];
    power[4] = every(1 << 48);
    let limbs = shrink(multiply(number, &power)).map(|limb| to_lanes(limb));
    let mut elements = [Fr::ZERO; LANES];
    for (lane, element) in elements.iter_mut().enumerate() {
        // Shrunk, so below 2 p.
        *element =
            Fr::from_montgomery_below_two_moduli(narrowed(limbs.each_ref().map(|limb| limb[lane])));
    }
    elements
}

/// Permutes at most `GROUPS · LANES` states.
#[target_feature(enable = "avx512f,avx512ifma")]
pub(super) fn permute_states<const GROUPS: usize>(states: &mut [[Fr; WIDTH]]) {
    debug_assert!(states.len() <= GROUPS * LANES);
    let zero = [[_mm512_setzero_si512(); LIMBS]; WIDTH];
    let mut lanes = [zero; GROUPS];
    for (g, group) in lanes.iter_mut().enumerate() {
        for (i, number) in group.iter_mut().enumerate() {
            *number = gather(|lane| states.get(g * LANES + lane).map_or(Fr::ZERO, |s| s[i]));
        }
    }
    permute(&mut lanes);
    for (g, group) in lanes.iter().enumerate() {
        for (i, number) in group.iter().enumerate() {
            let elements = scatter(number);
            for (state, element) in states.iter_mut().skip(g * LANES).zip(elements) {
                state[i] = element;
            }
        }
    }
}

/// The hashes of `arity` elements each, of at most `GROUPS · LANES` inputs back to back.
#[target_feature(enable = "avx512f,avx512ifma")]
pub(super) fn hash<const GROUPS: usize>(arity: usize, inputs: &[Fr], hashes: &mut [Fr]) {
    debug_assert!(hashes.len() <= GROUPS * LANES && inputs.len() == arity * hashes.len());
    let zero = [_mm512_setzero_si512(); LIMBS];
    let capacity = super::capacity(arity);
    let mut states = [[zero, zero, zero, gather(|_| capacity)]; GROUPS];
    let mut absorbed = 0;
    loop {
        let block = RATE.min(arity - absorbed);
        for (g, state) in states.iter_mut().enumerate() {
            for (i, element) in state.iter_mut().enumerate().take(block) {
                let input = gather(|lane| {
                    let at = (g * LANES + lane) * arity + absorbed + i;
                    inputs.get(at).copied().unwrap_or(Fr::ZERO)
                });
                *element = add(*element, &input);
            }
        }
        permute(&mut states);
        absorbed += block;
        if absorbed == arity {
            break;
        }
    }
    for (state, hashes) in states.iter().zip(hashes.chunks_mut(LANES)) {
        for (hash, element) in hashes.iter_mut().zip(scatter(&state[0])) {
            *hash = element;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{self, Backend};
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

    /// All that is computed of two numbers, carried but for the products, which are loose.
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
}
