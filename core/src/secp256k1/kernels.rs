//! The functions in which lanes are computed with, as the algorithms over them see them.
//!
//! Only they need to be compiled with the processor's instructions; whatever calls them is
//! plain code. [`crate::secp256k1::backends`] has them for each kind of lanes.

use crate::secp256k1::claim::ClaimFault;
use crate::secp256k1::field::Fe;
use crate::secp256k1::group::Projective;
use crate::secp256k1::lanes::{FieldLanes, Pair, ScalarLanes};
use crate::secp256k1::recovery::Halves;
use crate::secp256k1::rows::{Rows, ScalarSums};
use crate::secp256k1::sums::{Meeting, Term};

/// Of each part of some buckets, the plain and the weighted sum.
pub(crate) type PartSums = Vec<(Projective<Fe>, Projective<Fe>)>;

/// The functions for one kind of lanes; each is described where it is written.
pub(crate) trait Kernels: Sized {
    type Field: FieldLanes;
    type Scalar: ScalarLanes;

    fn straus(terms: &[Term]) -> Projective<Fe>;
    fn add_pairs(
        points: &[Pair],
        left: &[u32],
        right: &[u32],
        sums: &mut [Pair],
        kept: &mut Vec<Self::Field>,
    ) -> Result<(), Meeting>;
    fn running_sums(buckets: &[Pair], length: usize) -> PartSums;
    fn find_points(rows: &mut Rows) -> Vec<(usize, ClaimFault)>;
    fn recover(rows: &Rows, halves: &[Halves]) -> Vec<Option<Pair>>;
    fn add_scalars(
        rows: &Rows,
        bias: u128,
        sums: &mut ScalarSums,
        kept: &mut Vec<[Self::Scalar; 3]>,
    );
}
