//! The functions in which lanes are computed with, once for each kind of lanes.
//!
//! Only they need to be compiled with the processor's instructions; whatever calls them is
//! plain code. What they call in turn is inlined into them.

use core::cell::Cell;

use crate::secp256k1::batch::ClaimFault;
use crate::secp256k1::field::Fe;
use crate::secp256k1::group::Projective;
use crate::secp256k1::lanes::{FieldLanes, Pair, ScalarLanes};
use crate::secp256k1::recovery::{self, Halves};
use crate::secp256k1::rows::{self, Rows, ScalarSums};
use crate::secp256k1::scalar::Scalar;
use crate::secp256k1::sums::{self, Buckets, Meeting, Term};
#[cfg(target_arch = "x86_64")]
use crate::secp256k1::wide::{Fe8, Scalar8};

/// Of each part of some buckets, the plain and the weighted sum.
pub(crate) type PartSums = Vec<(Projective<Fe>, Projective<Fe>)>;

/// What a thread's batches work in, one after the other, so that only the first asks the
/// system for memory: some megabytes.
pub(crate) struct Workspace<K: Kernels> {
    pub(crate) buckets: Buckets<K>,
    pub(crate) rows: Rows,
    pub(crate) kept: Vec<[K::Scalar; 3]>,
}

impl<K: Kernels> Workspace<K> {
    fn new() -> Box<Self> {
        Box::new(Self {
            buckets: Buckets::new(),
            rows: Rows::default(),
            kept: Vec::new(),
        })
    }
}

/// The functions for one kind of lanes; each is described where it is written.
pub(crate) trait Kernels: Sized {
    type Field: FieldLanes;
    type Scalar: ScalarLanes;

    /// Runs with this thread's workspace.
    fn with_workspace<R>(run: impl FnOnce(&mut Workspace<Self>) -> R) -> R;

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

/// Makes the functions for lanes of two types, each with the attributes given.
macro_rules! kernels {
    ($kernels:ident, $field:ty, $scalar:ty, $(#[$attribute:meta])?) => {
        impl Kernels for $kernels {
            type Field = $field;
            type Scalar = $scalar;

            fn with_workspace<R>(run: impl FnOnce(&mut Workspace<Self>) -> R) -> R {
                thread_local! {
                    static WORKSPACE: Cell<Option<Box<Workspace<$kernels>>>> =
                        const { Cell::new(None) };
                }
                let mut workspace = WORKSPACE.take().unwrap_or_else(Workspace::new);
                let result = run(&mut workspace);
                WORKSPACE.set(Some(workspace));
                result
            }

            fn straus(terms: &[Term]) -> Projective<Fe> {
                $(#[$attribute])?
                fn kernel(terms: &[Term]) -> Projective<Fe> {
                    sums::straus::<$field>(terms)
                }
                // SAFETY: see the type.
                #[allow(unused_unsafe)]
                unsafe {
                    kernel(terms)
                }
            }

            fn add_pairs(
                points: &[Pair],
                left: &[u32],
                right: &[u32],
                sums: &mut [Pair],
                kept: &mut Vec<$field>,
            ) -> Result<(), Meeting> {
                $(#[$attribute])?
                fn kernel(
                    points: &[Pair],
                    left: &[u32],
                    right: &[u32],
                    sums: &mut [Pair],
                    kept: &mut Vec<$field>,
                ) -> Result<(), Meeting> {
                    sums::add_pairs::<$field>(points, left, right, sums, kept)
                }
                // SAFETY: see the type.
                #[allow(unused_unsafe)]
                unsafe {
                    kernel(points, left, right, sums, kept)
                }
            }

            fn running_sums(buckets: &[Pair], length: usize) -> PartSums {
                $(#[$attribute])?
                fn kernel(buckets: &[Pair], length: usize) -> PartSums {
                    sums::running_sums::<$field>(buckets, length)
                }
                // SAFETY: see the type.
                #[allow(unused_unsafe)]
                unsafe {
                    kernel(buckets, length)
                }
            }

            fn find_points(rows: &mut Rows) -> Vec<(usize, ClaimFault)> {
                $(#[$attribute])?
                fn kernel(rows: &mut Rows) -> Vec<(usize, ClaimFault)> {
                    rows::find_points::<$field>(rows)
                }
                // SAFETY: see the type.
                #[allow(unused_unsafe)]
                unsafe {
                    kernel(rows)
                }
            }

            fn recover(rows: &Rows, halves: &[Halves]) -> Vec<Option<Pair>> {
                $(#[$attribute])?
                fn kernel(rows: &Rows, halves: &[Halves]) -> Vec<Option<Pair>> {
                    recovery::recover::<$field>(rows, halves)
                }
                // SAFETY: see the type.
                #[allow(unused_unsafe)]
                unsafe {
                    kernel(rows, halves)
                }
            }

            fn add_scalars(
                rows: &Rows,
                bias: u128,
                sums: &mut ScalarSums,
                kept: &mut Vec<[$scalar; 3]>,
            ) {
                $(#[$attribute])?
                fn kernel(
                    rows: &Rows,
                    bias: u128,
                    sums: &mut ScalarSums,
                    kept: &mut Vec<[$scalar; 3]>,
                ) {
                    rows::add_scalars::<$scalar>(rows, bias, sums, kept);
                }
                // SAFETY: see the type.
                #[allow(unused_unsafe)]
                unsafe {
                    kernel(rows, bias, sums, kept);
                }
            }
        }
    };
}

/// One lane; safe everywhere.
pub(crate) enum Narrow {}

/// Eight lanes. The functions are called for [`crate::cpu::Backend::Avx512`] alone, which
/// [`crate::cpu::at_most`] gives only where the processor has the instructions.
#[cfg(target_arch = "x86_64")]
pub(crate) enum Wide {}

kernels!(Narrow, Fe, Scalar,);
#[cfg(target_arch = "x86_64")]
kernels!(Wide, Fe8, Scalar8, #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2")]);
