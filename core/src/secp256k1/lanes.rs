//! What the group's algorithms ask of a field and of scalars, however many they hold side by
//! side: eight with AVX-512 IFMA, one without.
//!
//! The algorithms in [`crate::secp256k1::group`], [`crate::secp256k1::sums`] and
//! [`crate::secp256k1::rows`] are written once over these traits, so every width takes the
//! same steps. All functions of an implementation are inlined into the kernels that enable the
//! instructions; see [`crate::secp256k1::backends`].

use crate::secp256k1::field::Fe;
use crate::secp256k1::scalar::Scalar;

/// The most lanes that any implementation has.
pub(crate) const MAX_WIDTH: usize = 8;

/// The bit of an index that asks for the point's negative.
pub(crate) const NEGATIVE: u32 = 1 << 31;

/// Two numbers below 2^256, eight limbs, one cache line: a point's x and y, or two scalars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Pair {
    pub(crate) x: [u64; 4],
    pub(crate) y: [u64; 4],
}

impl Pair {
    /// No point: x = 0 is on no point of the curve, since 7 is no square.
    pub(crate) const NONE: Self = Self {
        x: [0; 4],
        y: [0; 4],
    };

    pub(crate) fn is_none(&self) -> bool {
        self.x == [0; 4] && self.y == [0; 4]
    }
}

/// Which lanes: bit i is lane i.
pub(crate) type Mask = u8;

/// Field elements side by side.
pub(crate) trait FieldLanes: Copy {
    /// How many there are.
    const WIDTH: usize;

    fn splat(value: Fe) -> Self;
    fn lane(self, lane: usize) -> Fe;
    /// The lanes of which `values` gives one each.
    fn gather(values: &[Fe]) -> Self;

    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn neg(self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn square(self) -> Self;
    /// self·other + a·b.
    fn mul_add(self, other: Self, a: Self, b: Self) -> Self;
    /// self·other − c.
    fn mul_sub(self, other: Self, c: Self) -> Self;
    /// self² − c − d.
    fn square_sub(self, c: Self, d: Self) -> Self;
    /// The product with a number below 2^10.
    fn mul_small(self, small: u64) -> Self;

    /// The lanes that are zero.
    fn zeros(self) -> Mask;
    /// The lanes whose one form is odd.
    fn odds(self) -> Mask;
    /// `other` in the lanes of the mask, self elsewhere.
    fn replace(self, mask: Mask, other: Self) -> Self;

    /// x and y of points in a row.
    fn load(points: &[Pair]) -> (Self, Self);
    /// x and y of the points at indices, y negated where the index says so.
    fn load_at(points: &[Pair], indices: &[u32]) -> (Self, Self);
    /// Writes points in a row.
    fn store(x: Self, y: Self, points: &mut [Pair]);
    /// In each lane the element of the table that the lane's choice names.
    fn select(table: &[Self], stride: usize, choices: &[u8]) -> Self;
}

/// Scalars side by side, less than 2^257 each, in no one form.
pub(crate) trait ScalarLanes: Copy {
    const WIDTH: usize;
    /// The bits of a column, see [`ScalarLanes::columns`].
    const LIMB_BITS: u32;

    /// A number by whose inverse R⁻¹ [`ScalarLanes::product`] is too small: R².
    fn r_squared() -> Scalar;

    fn splat(value: Scalar) -> Self;
    fn lane(self, lane: usize) -> Scalar;
    fn gather(values: &[Scalar]) -> Self;
    /// self·other·R⁻¹ modulo n.
    fn product(self, other: Self) -> Self;
    /// Two numbers a row.
    fn load(rows: &[Pair]) -> (Self, Self);
    /// value − bias of each.
    fn load_random(values: &[u128], bias: u128) -> Self;
    /// Each lane as five columns of [`ScalarLanes::LIMB_BITS`] bits, least significant first.
    fn columns(self) -> [[u64; MAX_WIDTH]; 5];
}

impl FieldLanes for Fe {
    const WIDTH: usize = 1;

    #[inline]
    fn splat(value: Fe) -> Self {
        value
    }

    #[inline]
    fn lane(self, _lane: usize) -> Fe {
        self
    }

    #[inline]
    fn gather(values: &[Fe]) -> Self {
        values[0]
    }

    #[inline]
    fn add(self, other: Self) -> Self {
        Fe::add(self, other)
    }

    #[inline]
    fn sub(self, other: Self) -> Self {
        Fe::sub(self, other)
    }

    #[inline]
    fn neg(self) -> Self {
        Fe::neg(self)
    }

    #[inline]
    fn mul(self, other: Self) -> Self {
        Fe::mul(self, other)
    }

    #[inline]
    fn square(self) -> Self {
        Fe::square(self)
    }

    #[inline]
    fn mul_add(self, other: Self, a: Self, b: Self) -> Self {
        Fe::mul(self, other).add(Fe::mul(a, b))
    }

    #[inline]
    fn mul_sub(self, other: Self, c: Self) -> Self {
        Fe::mul(self, other).sub(c)
    }

    #[inline]
    fn square_sub(self, c: Self, d: Self) -> Self {
        Fe::square(self).sub(c).sub(d)
    }

    #[inline]
    fn mul_small(self, small: u64) -> Self {
        Fe::mul_small(self, small)
    }

    #[inline]
    fn zeros(self) -> Mask {
        u8::from(self.is_zero())
    }

    #[inline]
    fn odds(self) -> Mask {
        u8::from(self.is_odd())
    }

    #[inline]
    fn replace(self, mask: Mask, other: Self) -> Self {
        if mask & 1 == 1 { other } else { self }
    }

    #[inline]
    fn load(points: &[Pair]) -> (Self, Self) {
        (Fe(points[0].x), Fe(points[0].y))
    }

    #[inline]
    fn load_at(points: &[Pair], indices: &[u32]) -> (Self, Self) {
        let point = &points[(indices[0] & !NEGATIVE) as usize];
        let y = Fe(point.y);
        let negative = indices[0] & NEGATIVE != 0;
        (Fe(point.x), if negative { y.neg() } else { y })
    }

    #[inline]
    fn store(x: Self, y: Self, points: &mut [Pair]) {
        points[0] = Pair { x: x.0, y: y.0 };
    }

    #[inline]
    fn select(table: &[Self], stride: usize, choices: &[u8]) -> Self {
        table[usize::from(choices[0]) * stride]
    }
}

impl ScalarLanes for Scalar {
    const WIDTH: usize = 1;
    const LIMB_BITS: u32 = 64;

    fn r_squared() -> Scalar {
        Scalar::ONE
    }

    #[inline]
    fn splat(value: Scalar) -> Self {
        value
    }

    #[inline]
    fn lane(self, _lane: usize) -> Scalar {
        self
    }

    #[inline]
    fn gather(values: &[Scalar]) -> Self {
        values[0]
    }

    #[inline]
    fn product(self, other: Self) -> Self {
        self.mul(other)
    }

    #[inline]
    fn load(rows: &[Pair]) -> (Self, Self) {
        (Scalar::reduce(rows[0].x), Scalar::reduce(rows[0].y))
    }

    #[inline]
    fn load_random(values: &[u128], bias: u128) -> Self {
        Scalar::from_u128(values[0]).add(Scalar::from_u128(bias).neg())
    }

    #[inline]
    fn columns(self) -> [[u64; MAX_WIDTH]; 5] {
        let mut columns = [[0; MAX_WIDTH]; 5];
        for (column, limb) in columns.iter_mut().zip(self.0) {
            column[0] = limb;
        }
        columns
    }
}
