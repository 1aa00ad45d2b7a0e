//! The group of secp256k1 in projective coordinates, for any number of lanes.
//!
//! The formulas are the complete ones of Renes, Costello and Batina, "Complete addition
//! formulas for prime order elliptic curves" (2016), algorithms 7, 8 and 9 for a = 0 and
//! 3b = 21: right for every pair of points, equal, opposite or at infinity alike, since the
//! curve's order is odd. So no case is left to be met by an adversary.

use crate::secp256k1::field::Fe;
use crate::secp256k1::lanes::{FieldLanes, Mask, Pair};

/// 3b of the curve y² = x³ + 7.
const B3: u64 = 21;

/// The generator.
pub(crate) const GENERATOR: Pair = Pair {
    x: [
        0x59f2_815b_16f8_1798,
        0x029b_fcdb_2dce_28d9,
        0x55a0_6295_ce87_0b07,
        0x79be_667e_f9dc_bbac,
    ],
    y: [
        0x9c47_d08f_fb10_d4b8,
        0xfd17_b448_a685_5419,
        0x5da4_fbfc_0e11_08a8,
        0x483a_da77_26a3_c465,
    ],
};

/// Points (x/z, y/z); z = 0 is infinity.
#[derive(Clone, Copy)]
pub(crate) struct Projective<F> {
    pub(crate) x: F,
    pub(crate) y: F,
    pub(crate) z: F,
}

impl<F: FieldLanes> Projective<F> {
    #[inline(always)]
    pub(crate) fn infinity() -> Self {
        let zero = F::splat(Fe::ZERO);
        let y = F::splat(Fe::ONE);
        Self {
            x: zero,
            y,
            z: zero,
        }
    }

    #[inline(always)]
    pub(crate) fn affine(x: F, y: F) -> Self {
        let z = F::splat(Fe::ONE);
        Self { x, y, z }
    }

    /// One lane's point.
    #[inline(always)]
    pub(crate) fn lane(self, lane: usize) -> Projective<Fe> {
        Projective {
            x: self.x.lane(lane),
            y: self.y.lane(lane),
            z: self.z.lane(lane),
        }
    }

    /// `other` in the lanes of the mask, self elsewhere.
    #[inline(always)]
    pub(crate) fn replace(self, mask: Mask, other: Self) -> Self {
        Self {
            x: self.x.replace(mask, other.x),
            y: self.y.replace(mask, other.y),
            z: self.z.replace(mask, other.z),
        }
    }

    /// The sum (algorithm 7).
    #[inline(always)]
    pub(crate) fn add(self, other: Self) -> Self {
        let xx = self.x.mul(other.x);
        let yy = self.y.mul(other.y);
        let zz = self.z.mul(other.z).mul_small(B3);
        let xy = self.x.mul_add(other.y, other.x, self.y);
        let yz = self.y.mul_add(other.z, other.y, self.z);
        let xz = self.x.mul_add(other.z, other.x, self.z);
        Self::sum(xx, yy, zz, xy, yz, xz)
    }

    /// The sum with a point that is not infinity (algorithm 8).
    #[inline(always)]
    pub(crate) fn add_affine(self, x: F, y: F) -> Self {
        let xx = self.x.mul(x);
        let yy = self.y.mul(y);
        let zz = self.z.mul_small(B3);
        let xy = self.x.mul_add(y, x, self.y);
        let yz = self.z.mul(y).add(self.y);
        let xz = self.z.mul(x).add(self.x);
        Self::sum(xx, yy, zz, xy, yz, xz)
    }

    /// What both sums share: xx = X₁X₂ and so on, zz times 3b.
    #[inline(always)]
    fn sum(xx: F, yy: F, zz: F, xy: F, yz: F, xz: F) -> Self {
        let xx3 = xx.mul_small(3);
        let plus = yy.add(zz);
        let minus = yy.sub(zz);
        let xz = xz.mul_small(B3);
        Self {
            x: xy.mul_add(minus, yz.neg(), xz),
            y: minus.mul_add(plus, xz, xx3),
            z: plus.mul_add(yz, xx3, xy),
        }
    }

    /// Twice the point (algorithm 9).
    #[inline(always)]
    pub(crate) fn double(self) -> Self {
        let yy = self.y.square();
        let yy8 = yy.mul_small(8);
        let zz = self.z.square().mul_small(B3);
        let rest = yy.sub(zz.mul_small(3));
        Self {
            x: rest.mul(self.x.mul(self.y)).mul_small(2),
            y: rest.mul_add(yy.add(zz), zz, yy8),
            z: self.y.mul(self.z).mul(yy8),
        }
    }

    #[inline(always)]
    pub(crate) fn neg(self) -> Self {
        Self {
            y: self.y.neg(),
            ..self
        }
    }
}

impl Projective<Fe> {
    pub(crate) fn is_infinity(&self) -> bool {
        self.z.is_zero()
    }

    /// The point's coordinates, reduced; `None` for infinity.
    pub(crate) fn to_affine(self) -> Option<Pair> {
        if self.is_infinity() {
            return None;
        }
        let z = self.z.invert();
        Some(Pair {
            x: self.x.mul(z).reduced().0,
            y: self.y.mul(z).reduced().0,
        })
    }
}
