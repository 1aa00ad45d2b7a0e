//! The keys that made signatures, a register of signatures at a time.
//!
//! The key of (r, s, v) over z is (s·R − z·G)/r. Every signature has points of its own, so
//! there is no sum to share; but eight lanes take the same steps on eight signatures. Both
//! scalars are split by the endomorphism, R's halves are added from a table of its first
//! eight multiples, G's from a fixed table of 128, by complete formulas throughout: a key at
//! infinity is found as such at the end.

use std::sync::LazyLock;

use crate::secp256k1::field::{BETA, Fe};
use crate::secp256k1::group::{GENERATOR, Projective};
use crate::secp256k1::inverse::invert_each;
use crate::secp256k1::lanes::{FieldLanes, MAX_WIDTH, Mask, NEGATIVE, Pair};
use crate::secp256k1::rows::Rows;
use crate::secp256k1::scalar::{Half, Scalar};
use crate::secp256k1::sums::{NIBBLES, invert_lanes, nibbles};

/// The halves of the scalars of one signature.
#[derive(Clone, Copy)]
pub(crate) struct Halves {
    /// Of −z/r.
    generator: [Half; 2],
    /// Of s/r.
    point: [Half; 2],
}

/// Digits of eight bits, from −128 to 127.
const BYTES: usize = 17;
/// Multiples 0 to 8.
const MULTIPLES: usize = 9;
/// x, y, z and β·x of a multiple.
const STRIDE: usize = 4;

/// The multiples 1 to 128 of G, then those of λ·G.
static GENERATORS: LazyLock<Vec<Pair>> = LazyLock::new(|| {
    let (x, y) = (Fe(GENERATOR.x), Fe(GENERATOR.y));
    let mut multiple = Projective::<Fe>::infinity();
    let mut table: Vec<Pair> = (0..128)
        .map(|_| {
            multiple = multiple.add_affine(x, y);
            multiple.to_affine().unwrap_or(Pair::NONE)
        })
        .collect();
    for i in 0..128 {
        let Pair { x, y } = table[i];
        let x = Fe(x).mul(BETA).0;
        table.push(Pair { x, y });
    }
    table
});

/// The scalars of rows, their points being known: one inversion for all.
pub(crate) fn halves(rows: &Rows) -> Vec<Halves> {
    // Each r is below n, and not zero: its form was checked.
    let mut inverses: Vec<Scalar> = rows.points.iter().map(|point| Scalar(point.x)).collect();
    let mut before = vec![Scalar::ONE; inverses.len()];
    let inverted = invert_each(&mut inverses, &mut before, Scalar::ONE);
    debug_assert!(inverted, "no r is zero");
    let halves = |(one_over_r, scalars): (Scalar, &Pair)| {
        let Pair { x: s, y: z } = *scalars;
        let (g1, g2) = Scalar::reduce(z).mul(one_over_r).neg().split();
        let (r1, r2) = Scalar(s).mul(one_over_r).split();
        Halves {
            generator: [g1, g2],
            point: [r1, r2],
        }
    };
    inverses
        .into_iter()
        .zip(&rows.scalars)
        .map(halves)
        .collect()
}

/// The digits of a magnitude in base 256, least significant first.
fn bytes(magnitude: u128) -> [i16; BYTES] {
    let (biased, carry) = magnitude.overflowing_add(0x8080_8080_8080_8080_8080_8080_8080_8080);
    let mut digits = [0; BYTES];
    for (i, digit) in digits[..BYTES - 1].iter_mut().enumerate() {
        *digit = i16::from((biased >> (8 * i)) as u8) - 128;
    }
    digits[BYTES - 1] = i16::from(carry);
    digits
}

/// Which multiples the lanes take, and which of them negated.
#[derive(Clone, Copy, Default)]
struct Choice {
    multiples: [u8; MAX_WIDTH],
    negated: Mask,
}

/// Which points of the generators' table the lanes take, and which lanes take none.
#[derive(Clone, Copy, Default)]
struct FixedChoice {
    places: [u32; MAX_WIDTH],
    none: Mask,
}

/// The key of each row, `None` where it is infinity.
#[inline(always)]
pub(crate) fn recover<F: FieldLanes>(rows: &Rows, halves: &[Halves]) -> Vec<Option<Pair>> {
    let generators = &*GENERATORS;
    let beta = F::splat(BETA);
    let mut keys = Vec::with_capacity(halves.len() + F::WIDTH);
    for (register, halves) in halves.chunks(F::WIDTH).enumerate() {
        let mut points = [GENERATOR; MAX_WIDTH];
        let mut choices = [[Choice::default(); NIBBLES]; 2];
        let mut fixed = [[FixedChoice::default(); BYTES]; 2];
        for (lane, halves) in halves.iter().enumerate() {
            points[lane] = rows.points[register * F::WIDTH + lane];
            for half in 0..2 {
                choose(&mut choices[half], lane, halves.point[half]);
                choose_fixed(
                    &mut fixed[half],
                    lane,
                    halves.generator[half],
                    128 * half as u32,
                );
            }
        }

        let (x, y) = F::load(&points);
        let mut multiple = Projective::<F>::infinity();
        let mut table = [F::splat(Fe::ZERO); MULTIPLES * STRIDE];
        for entry in table.chunks_exact_mut(STRIDE) {
            entry[0] = multiple.x;
            entry[1] = multiple.y;
            entry[2] = multiple.z;
            entry[3] = multiple.x.mul(beta);
            multiple = multiple.add_affine(x, y);
        }
        let mut sum = Projective::<F>::infinity();
        for place in (0..NIBBLES).rev() {
            if place != NIBBLES - 1 {
                sum = sum.double().double().double().double();
            }
            for (half, choices) in choices.iter().enumerate() {
                let Choice { multiples, negated } = &choices[place];
                let y = F::select(&table[1..], STRIDE, multiples);
                sum = sum.add(Projective {
                    x: F::select(&table[3 * half..], STRIDE, multiples),
                    y: y.replace(*negated, y.neg()),
                    z: F::select(&table[2..], STRIDE, multiples),
                });
            }
            if place % 2 == 0 {
                for fixed in &fixed {
                    let FixedChoice { places, none } = &fixed[place / 2];
                    let (x, y) = F::load_at(generators, places);
                    let more = sum.add_affine(x, y);
                    sum = more.replace(*none, sum);
                }
            }
        }

        let infinite = sum.z.zeros();
        let z = sum.z.replace(infinite, F::splat(Fe::ONE));
        let Ok(inverse) = invert_lanes(z) else {
            unreachable!("no lane is zero");
        };
        let (x, y) = (sum.x.mul(inverse), sum.y.mul(inverse));
        for lane in 0..halves.len() {
            let key = Pair {
                x: x.lane(lane).reduced().0,
                y: y.lane(lane).reduced().0,
            };
            keys.push((infinite >> lane & 1 == 0).then_some(key));
        }
    }
    keys
}

fn choose(choices: &mut [Choice; NIBBLES], lane: usize, half: Half) {
    for (choice, digit) in choices.iter_mut().zip(nibbles(half.magnitude)) {
        choice.multiples[lane] = digit.unsigned_abs();
        choice.negated |= u8::from((digit < 0) != half.negative) << lane;
    }
}

fn choose_fixed(choices: &mut [FixedChoice; BYTES], lane: usize, half: Half, first: u32) {
    for (choice, digit) in choices.iter_mut().zip(bytes(half.magnitude)) {
        choice.none |= u8::from(digit == 0) << lane;
        let place = first + u32::from(digit.unsigned_abs().max(1)) - 1;
        let negative = (digit < 0) != half.negative;
        choice.places[lane] = if negative { place | NEGATIVE } else { place };
    }
}
