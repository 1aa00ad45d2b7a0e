//! One permutation at a time, on the 64-bit multiplier.
//!
//! Sums and products are not fully reduced. Bounds, as multiples of p, with 2^256 = 5.29 p and
//! a product of a and b below a·b / 5.29 + 1:
//!
//! - Between full rounds every element is below 2. With its constant x < 3, so
//!   x² < 2.71, x⁴ < 2.39, x⁵ < 2.36; each is trimmed to below 2 before the outer layer, which
//!   trims after every sum.
//! - In a partial round x < 3 with its constant (at first; 2.68 later): x² < 2.71, x⁴ < 2.39,
//!   x⁵ < 2.36. The others are below 2, and so is their sum; with x⁵ the sum of the row is
//!   below 4.36, trimmed to 2.36. The products by the diagonal, whose constants are below 0.71,
//!   are below 1.32. The new first element with the next constant is below
//!   1.32 + 2.36 + 1 = 4.68, trimmed to 2.68; the others below 1.27 + 2.36 = 3.63, trimmed to 2.

use super::constants::{INNER_DIAGONAL, ROUND_CONSTANTS, WIDTH};
use crate::cpu::{self, Backend};
use crate::field::{Fr, Residue};

/// The permutation, in place. All processors with AVX2 that are made have BMI2 and most ADX,
/// whose products and sums leave the flags and each other alone; the same code is compiled
/// for them too.
pub(super) fn permute(backend: Backend, state: &mut [Fr; WIDTH]) {
    #[cfg(target_arch = "x86_64")]
    if cpu::at_most(backend) >= Backend::Avx2
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("adx")
    {
        // SAFETY: both features were just seen.
        unsafe { permute_bmi2(state) };
        return;
    }
    #[cfg(not(target_arch = "x86_64"))]
    debug_assert_eq!(cpu::at_most(backend), Backend::Portable);
    permute_here(state);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "bmi2,adx")]
fn permute_bmi2(state: &mut [Fr; WIDTH]) {
    permute_here(state);
}

#[inline(always)]
fn permute_here(elements: &mut [Fr; WIDTH]) {
    let mut state = elements.map(Residue::of);
    outer_layer(&mut state);
    for constants in &ROUND_CONSTANTS.first_full {
        full_round(&mut state, constants);
    }
    let [mut x, mut b, mut c, mut d] = state;
    let diagonal = INNER_DIAGONAL.map(Residue::of);
    let [first, rest @ ..] = &ROUND_CONSTANTS.partial;
    x = x.plus(Residue::of(*first));
    for next in rest.iter().chain([&Fr::ZERO]) {
        // Nothing here but the first product, of four, waits for another element's; the
        // constant is added where nothing waits for it.
        let tail = b.plus(c).trimmed().plus(d).trimmed();
        let fourth = squared_twice(x);
        let scaled = [
            b.times(diagonal[1]),
            c.times(diagonal[2]),
            d.times(diagonal[3]),
        ];
        let power = fourth.times(x);
        let sum = power.plus(tail).trimmed();
        b = scaled[0].plus(sum).trimmed();
        c = scaled[1].plus(sum).trimmed();
        d = scaled[2].plus(sum).trimmed();
        let sum = sum.plus(Residue::of(*next));
        x = power.times(diagonal[0]).plus(sum).trimmed();
    }
    state = [x.trimmed(), b, c, d];
    for constants in &ROUND_CONSTANTS.last_full {
        full_round(&mut state, constants);
    }
    *elements = state.map(Residue::element);
}

#[inline(always)]
fn squared_twice(x: Residue) -> Residue {
    let square = x.times(x);
    square.times(square)
}

#[inline(always)]
fn full_round(state: &mut [Residue; WIDTH], constants: &[Fr; WIDTH]) {
    for (element, constant) in state.iter_mut().zip(constants) {
        let x = element.plus(Residue::of(*constant));
        *element = squared_twice(x).times(x).trimmed();
    }
    outer_layer(state);
}

/// The outer matrix of width 4: M4 of the paper, in eight additions and four doublings, of
/// elements below 2p.
#[inline(always)]
fn outer_layer(state: &mut [Residue; WIDTH]) {
    let add = |a: Residue, b: Residue| a.plus(b).trimmed();
    let double = |a: Residue| a.plus(a).trimmed();
    let [a, b, c, d] = *state;
    let ab = add(a, b);
    let cd = add(c, d);
    let b2_cd = add(double(b), cd);
    let d2_ab = add(double(d), ab);
    let last = add(double(double(cd)), d2_ab);
    let second = add(double(double(ab)), b2_cd);
    *state = [add(d2_ab, second), second, add(b2_cd, last), last];
}
