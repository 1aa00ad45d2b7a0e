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

use super::constants::{RATE, WIDTH, capacity};
use super::limbs::{
    COMPLEMENT, CONSTANTS, DIAGONAL, FOLDED, Factor, LIMB_BITS, LIMB_MASK, LIMBS, MODULI_IN_RANGE,
    MODULUS_WIDE, NEGATED_INVERSE, Wide, narrowed, widened,
};
use crate::field::Fr;

/// How many permutations a vector holds.
pub(super) const LANES: usize = 8;

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
    let capacity = capacity(arity);
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
mod tests;
