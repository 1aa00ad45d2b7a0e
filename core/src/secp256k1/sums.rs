//! Sums of many multiples of points, by the method that suits their number.
//!
//! Few points: Straus's interleaving, with windows of four bits and complete formulas, the
//! points dealt out over the lanes. Many: Pippenger's buckets, with signed digits. In every
//! window each point goes into the bucket of its digit, and the points of a bucket are added
//! in pairs, pairs of pairs and so on, always a great number of independent sums at once, so
//! that in affine coordinates a sum costs six products: their inversions are one inversion by
//! Montgomery's trick, and eight sums share a register. Buckets outlive the points that went
//! into them, so the points come in chunks that stay in the cache.
//!
//! An affine sum is wrong for two points of the same x. Honest points never meet that way; if
//! an adversary's do, the difference of the xs makes the product of all of them zero, which
//! is seen, and the sum is made anew by Straus's way, slower and right for all points.

use crate::secp256k1::field::Fe;
use crate::secp256k1::group::{GENERATOR, Projective};
use crate::secp256k1::inverse::invert_each;
use crate::secp256k1::lanes::{FieldLanes, MAX_WIDTH, Pair};

/// A multiple of a point: magnitude times the point or its negative.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term {
    pub(crate) point: Pair,
    pub(crate) negative: bool,
    pub(crate) magnitude: u128,
}

/// Two points of the same x were to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meeting;

// --- few points --------------------------------------------------------------------------------

pub(crate) const NIBBLES: usize = 33;
/// Multiples 0 to 8 of a point.
const MULTIPLES: usize = 9;

/// The digits of a magnitude in base 16, from −8 to 7, least significant first.
pub(crate) fn nibbles(magnitude: u128) -> [i8; NIBBLES] {
    let (biased, carry) = magnitude.overflowing_add(0x8888_8888_8888_8888_8888_8888_8888_8888);
    let mut digits = [0; NIBBLES];
    for (i, digit) in digits[..NIBBLES - 1].iter_mut().enumerate() {
        *digit = (biased >> (4 * i) & 15) as i8 - 8;
    }
    digits[NIBBLES - 1] = i8::from(carry);
    digits
}

/// The sum of a few terms.
#[inline(always)]
pub(crate) fn straus<F: FieldLanes>(terms: &[Term]) -> Projective<Fe> {
    let slots = terms.len().div_ceil(F::WIDTH);
    let mut tables: Vec<F> = Vec::with_capacity(slots * MULTIPLES * 3);
    let mut choices = vec![[[0u8; MAX_WIDTH]; NIBBLES]; slots];
    let mut signs = vec![[0u8; NIBBLES]; slots];
    for (slot, terms) in terms.chunks(F::WIDTH).enumerate() {
        let mut points = [GENERATOR; MAX_WIDTH];
        for (lane, term) in terms.iter().enumerate() {
            points[lane] = term.point;
            for (place, digit) in nibbles(term.magnitude).into_iter().enumerate() {
                choices[slot][place][lane] = digit.unsigned_abs();
                signs[slot][place] |= u8::from((digit < 0) != term.negative) << lane;
            }
        }
        let (x, y) = F::load(&points);
        let once = Projective::affine(x, y);
        let mut multiples = [Projective::<F>::infinity(); MULTIPLES];
        multiples[1] = once;
        for i in 2..MULTIPLES {
            multiples[i] = if i % 2 == 0 {
                multiples[i / 2].double()
            } else {
                multiples[i - 1].add_affine(x, y)
            };
        }
        for multiple in multiples {
            tables.extend_from_slice(&[multiple.x, multiple.y, multiple.z]);
        }
    }
    let mut sum = Projective::<F>::infinity();
    for place in (0..NIBBLES).rev() {
        if place != NIBBLES - 1 {
            sum = sum.double().double().double().double();
        }
        for slot in 0..slots {
            let table = &tables[slot * MULTIPLES * 3..(slot + 1) * MULTIPLES * 3];
            let choices = &choices[slot][place];
            let y = F::select(&table[1..], 3, choices);
            let multiple = Projective {
                x: F::select(table, 3, choices),
                y: y.replace(signs[slot][place], y.neg()),
                z: F::select(&table[2..], 3, choices),
            };
            sum = sum.add(multiple);
        }
    }
    let mut total = sum.lane(0);
    for lane in 1..F::WIDTH {
        total = total.add(sum.lane(lane));
    }
    total
}

// --- many points -------------------------------------------------------------------------------

/// Registers of sums that share an inversion.
const BATCH: usize = 256;
/// What is kept of a pair of points between the two halves of Montgomery's trick.
const KEPT: usize = 6;

/// Of each part of so many buckets, Σ S_d and Σ d·S_d with d from 1 within the part, by
/// running sums from its top.
#[inline(always)]
pub(crate) fn running_sums<F: FieldLanes>(
    buckets: &[Pair],
    length: usize,
) -> Vec<(Projective<Fe>, Projective<Fe>)> {
    let parts = buckets.len() / length;
    let mut results = Vec::with_capacity(parts + F::WIDTH);
    let mut part = 0;
    while part < parts {
        let mut sum = Projective::<F>::infinity();
        let mut weighted = Projective::<F>::infinity();
        for step in (0..length).rev() {
            let mut at = [0u32; MAX_WIDTH];
            for (lane, at) in at[..F::WIDTH].iter_mut().enumerate() {
                // Lanes beyond the last part repeat it.
                *at = ((part + lane).min(parts - 1) * length + step) as u32;
            }
            let (x, y) = F::load_at(buckets, &at);
            let more = sum.add_affine(x, y);
            sum = more.replace(x.zeros(), sum);
            weighted = weighted.add(sum);
        }
        for lane in 0..F::WIDTH {
            results.push((sum.lane(lane), weighted.lane(lane)));
        }
        part += F::WIDTH;
    }
    results
}

/// The affine sums of pairs of points, `left` and `right` being of one length, a multiple of
/// the lanes.
#[inline(always)]
pub(crate) fn add_pairs<F: FieldLanes>(
    points: &[Pair],
    left: &[u32],
    right: &[u32],
    sums: &mut [Pair],
    kept: &mut Vec<F>,
) -> Result<(), Meeting> {
    kept.resize(BATCH * KEPT, F::splat(Fe::ZERO));
    let mut start = 0;
    while start < left.len() {
        let end = (start + BATCH * F::WIDTH).min(left.len());
        // Two products, so that one multiplication need not wait for the last.
        let mut product = [F::splat(Fe::ONE); 2];
        let mut at = start;
        for (i, kept) in kept.chunks_exact_mut(KEPT).enumerate() {
            if at == end {
                break;
            }
            let (x1, y1) = F::load_at(points, &left[at..]);
            let (x2, y2) = F::load_at(points, &right[at..]);
            let dx = x2.sub(x1);
            kept[0] = x1;
            kept[1] = x2;
            kept[2] = y1;
            kept[3] = dx;
            kept[4] = y2.sub(y1);
            kept[5] = product[i % 2];
            product[i % 2] = product[i % 2].mul(dx);
            at += F::WIDTH;
        }
        let both = invert_lanes(product[0].mul(product[1]))?;
        let mut inverse = [both.mul(product[1]), both.mul(product[0])];
        let registers = (end - start) / F::WIDTH;
        for (i, kept) in kept.chunks_exact(KEPT).enumerate().take(registers).rev() {
            let [x1, x2, y1, dx, dy, before] =
                [kept[0], kept[1], kept[2], kept[3], kept[4], kept[5]];
            let slope = inverse[i % 2].mul(before).mul(dy);
            inverse[i % 2] = inverse[i % 2].mul(dx);
            let x3 = slope.square_sub(x1, x2);
            let y3 = slope.mul_sub(x1.sub(x3), y1);
            F::store(x3, y3, &mut sums[start + i * F::WIDTH..]);
        }
        start = end;
    }
    Ok(())
}

/// The inverse in each lane.
#[inline(always)]
pub(crate) fn invert_lanes<F: FieldLanes>(values: F) -> Result<F, Meeting> {
    let mut lanes = [Fe::ONE; MAX_WIDTH];
    for (lane, value) in lanes[..F::WIDTH].iter_mut().enumerate() {
        *value = values.lane(lane);
    }
    let mut before = [Fe::ONE; MAX_WIDTH];
    if !invert_each(&mut lanes[..F::WIDTH], &mut before[..F::WIDTH], Fe::ONE) {
        return Err(Meeting);
    }
    Ok(F::gather(&lanes))
}
