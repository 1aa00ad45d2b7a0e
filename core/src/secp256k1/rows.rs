//! Claims in rows that lanes can load, and what is done to all rows alike: the points R, and
//! the scalars of the batch's equation.

use crate::secp256k1::claim::{Claim, ClaimFault};
use crate::secp256k1::field::{Fe, P, limbs_of};
use crate::secp256k1::group::GENERATOR;
use crate::secp256k1::inverse::invert_each;
use crate::secp256k1::lanes::{FieldLanes, MAX_WIDTH, Pair, ScalarLanes};
use crate::secp256k1::scalar::Scalar;
use crate::secp256k1::signature::{SignatureError, check_form};

/// What is needed of claims in form, in rows that lanes can load.
#[derive(Default)]
pub(crate) struct Rows {
    pub(crate) members: Vec<u32>,
    pub(crate) keys: Vec<u32>,
    /// r as x, and R.y, or 0 where it has to be derived.
    pub(crate) points: Vec<Pair>,
    /// s and z.
    pub(crate) scalars: Vec<Pair>,
    /// Whether R.y must be odd, where it has to be derived.
    pub(crate) odd: Vec<bool>,
    pub(crate) coefficients: Vec<u128>,
}

impl Rows {
    pub(crate) fn clear(&mut self) {
        self.members.clear();
        self.keys.clear();
        self.points.clear();
        self.scalars.clear();
        self.odd.clear();
        self.coefficients.clear();
    }

    /// Takes a claim and the place of its key in, or says what is wrong with it that needs no curve.
    pub(crate) fn push(
        &mut self,
        member: u32,
        claim: &Claim<'_>,
        key: usize,
    ) -> Result<(), ClaimFault> {
        check_form(claim.signature).map_err(ClaimFault::Form)?;
        let (r, rest) = claim
            .signature
            .split_first_chunk()
            .unwrap_or((&[0; 32], &[]));
        let s = rest.first_chunk().unwrap_or(&[0; 32]);
        let odd = claim.signature[64] == 28;
        let y = match claim.r_y {
            Some(bytes) => {
                let y = limbs_of(bytes);
                let in_one_form = y[3] != u64::MAX || Fe(y).reduced().0 == y;
                if (y[0] & 1 == 1) != odd || !in_one_form || y == [0; 4] {
                    return Err(ClaimFault::BadRY);
                }
                y
            }
            None => [0; 4],
        };
        self.members.push(member);
        self.keys.push(key as u32);
        self.points.push(Pair { x: limbs_of(r), y });
        self.scalars.push(Pair {
            x: limbs_of(s),
            y: limbs_of(&claim.digest),
        });
        self.odd.push(odd);
        Ok(())
    }

    /// Takes rows out, which are given in rising order.
    pub(crate) fn remove(&mut self, doomed: &[(usize, ClaimFault)]) {
        if doomed.is_empty() {
            return;
        }
        let mut keep = vec![true; self.members.len()];
        for (row, _) in doomed {
            keep[*row] = false;
        }
        retain(&mut self.members, &keep);
        retain(&mut self.keys, &keep);
        retain(&mut self.points, &keep);
        retain(&mut self.scalars, &keep);
        retain(&mut self.odd, &keep);
    }

    /// Fills the last register up with rows that add nothing: a coefficient of zero.
    pub(crate) fn pad(&mut self, width: usize, zero: u128) {
        while !self.points.len().is_multiple_of(width) {
            self.points.push(GENERATOR);
            self.scalars.push(Pair {
                x: [1, 0, 0, 0],
                y: [0; 4],
            });
            self.coefficients.push(zero);
        }
    }
}

fn retain<T>(list: &mut Vec<T>, keep: &[bool]) {
    let mut keep = keep.iter();
    list.retain(|_| keep.next().copied().unwrap_or(true));
}

/// The sums of scalars that the fixed points are multiplied by, in columns not yet carried.
pub(crate) struct ScalarSums {
    pub(crate) generator: [u128; 5],
    pub(crate) keys: Vec<[u128; 5]>,
}

/// Sees that each R is on the curve, or derives its y: the rows for which there is none, and
/// what they are refused for.
#[inline(always)]
pub(crate) fn find_points<F: FieldLanes>(rows: &mut Rows) -> Vec<(usize, ClaimFault)> {
    let count = rows.points.len();
    while !rows.points.len().is_multiple_of(F::WIDTH) {
        rows.points.push(GENERATOR);
        rows.odd.push(false);
    }
    let mut doomed = Vec::new();
    let seven = F::splat(Fe::from_u64(7));
    let mut at = 0;
    while at < count {
        let here = &mut rows.points[at..at + F::WIDTH];
        let mut derive = 0u8;
        let mut odd = 0u8;
        for (lane, row) in here.iter().enumerate() {
            derive |= u8::from(row.y == [0; 4]) << lane;
            odd |= u8::from(rows.odd[at + lane]) << lane;
        }
        let (x, stated) = F::load(here);
        let square = x.square().mul(x).add(seven);
        let mut y = stated;
        if derive != 0 {
            let root = square_root(square);
            let root = root.replace(root.odds() ^ odd, root.neg());
            y = y.replace(derive, root);
            F::store(x, y, here);
        }
        let wrong = !y.square().sub(square).zeros();
        for lane in 0..F::WIDTH {
            let row = at + lane;
            if wrong >> lane & 1 == 1 && row < count {
                let fault = if derive >> lane & 1 == 1 {
                    ClaimFault::Form(SignatureError::NoKey)
                } else {
                    ClaimFault::BadRY
                };
                doomed.push((row, fault));
            }
        }
        at += F::WIDTH;
    }
    rows.points.truncate(count);
    rows.odd.truncate(count);
    doomed
}

/// A square root, if there is one: the power (p + 1) / 4, whose bits are 223 ones, a zero,
/// 22 ones, four zeros, two ones and two zeros.
#[inline(always)]
pub(crate) fn square_root<F: FieldLanes>(value: F) -> F {
    let x2 = value.square().mul(value);
    let x3 = x2.square().mul(value);
    let x6 = squared(x3, 3).mul(x3);
    let x9 = squared(x6, 3).mul(x3);
    let x11 = squared(x9, 2).mul(x2);
    let x22 = squared(x11, 11).mul(x11);
    let x44 = squared(x22, 22).mul(x22);
    let x88 = squared(x44, 44).mul(x44);
    let x176 = squared(x88, 88).mul(x88);
    let x220 = squared(x176, 44).mul(x44);
    let x223 = squared(x220, 3).mul(x3);
    let high = squared(x223, 23).mul(x22);
    squared(squared(high, 6).mul(x2), 2)
}

/// The power 2^times.
#[inline(always)]
fn squared<F: FieldLanes>(value: F, times: u32) -> F {
    let mut power = value;
    for _ in 0..times {
        power = power.square();
    }
    power
}

/// Adds aᵢ·zᵢ/sᵢ to the generator's sum and aᵢ·rᵢ/sᵢ to that of the key, with one inversion
/// for all.
///
/// [`ScalarLanes::product`] divides by R each time, so it is followed through: with
/// Pᵢ = Pᵢ₋₁·sᵢ/R and Uᵢ = R²/Pᵢ, the product of Uᵢ and Pᵢ₋₁ is R²/sᵢ, that of Uᵢ and sᵢ is
/// Uᵢ₋₁, and a·(R²/s)·z loses R twice.
#[inline(always)]
pub(crate) fn add_scalars<S: ScalarLanes>(
    rows: &Rows,
    bias: u128,
    sums: &mut ScalarSums,
    kept: &mut Vec<[S; 3]>,
) {
    const CHAINS: usize = 2;
    kept.clear();
    let mut products = [S::splat(Scalar::ONE); CHAINS];
    let registers = rows.scalars.len() / S::WIDTH;
    for i in 0..registers {
        let (s, z) = S::load(&rows.scalars[i * S::WIDTH..]);
        let product = &mut products[i % CHAINS];
        kept.push([s, z, *product]);
        *product = product.product(s);
    }
    let mut inverses = [invert_scalars(products[0]), invert_scalars(products[1])];
    for (i, [s, z, before]) in kept.iter().enumerate().rev() {
        let at = i * S::WIDTH;
        let inverse = &mut inverses[i % CHAINS];
        let one_over_s = inverse.product(*before);
        *inverse = inverse.product(*s);
        let a = S::load_random(&rows.coefficients[at..], bias);
        let (r, _) = S::load(&rows.points[at..]);
        let t = a.product(one_over_s);
        let (tz, tr) = (t.product(*z).columns(), t.product(r).columns());
        for lane in 0..S::WIDTH {
            for (column, values) in sums.generator.iter_mut().zip(&tz) {
                *column = column.wrapping_add(u128::from(values[lane]));
            }
            // Rows that only fill up have no key, and add zero.
            if let Some(key) = rows.keys.get(at + lane) {
                for (column, values) in sums.keys[*key as usize].iter_mut().zip(&tr) {
                    *column = column.wrapping_add(u128::from(values[lane]));
                }
            }
        }
    }
}

/// R² over each lane; no s is zero, its form was checked.
#[inline(always)]
fn invert_scalars<S: ScalarLanes>(values: S) -> S {
    let mut lanes = [Scalar::ONE; MAX_WIDTH];
    for (lane, value) in lanes[..S::WIDTH].iter_mut().enumerate() {
        *value = values.lane(lane);
    }
    let mut before = [Scalar::ONE; MAX_WIDTH];
    let inverted = invert_each(
        &mut lanes[..S::WIDTH],
        &mut before[..S::WIDTH],
        S::r_squared(),
    );
    debug_assert!(inverted, "no product of s is zero");
    S::gather(&lanes)
}

// The modulus is what `in_one_form` rests on: a number with a top limb of all ones may be it.
const _: () = assert!(P[3] == u64::MAX);
