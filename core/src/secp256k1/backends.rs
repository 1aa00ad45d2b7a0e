//! The kernels for each kind of lanes: compiled with the processor's instructions, and what they
//! call is inlined into them.

use core::cell::Cell;

use crate::secp256k1::buckets::Buckets;
use crate::secp256k1::claim::ClaimFault;
use crate::secp256k1::field::Fe;
use crate::secp256k1::group::Projective;
use crate::secp256k1::kernels::{Kernels, PartSums};
use crate::secp256k1::lanes::Pair;
use crate::secp256k1::recovery::{self, Halves};
use crate::secp256k1::rows::{self, Rows, ScalarSums};
use crate::secp256k1::scalar::Scalar;
use crate::secp256k1::sums::{self, Meeting, Term};
#[cfg(target_arch = "x86_64")]
use crate::secp256k1::wide::{Fe8, Scalar8};

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

/// Kernels of which each thread keeps a workspace.
pub(crate) trait Workspaces: Kernels {
    /// Runs with this thread's workspace.
    fn with_workspace<R>(run: impl FnOnce(&mut Workspace<Self>) -> R) -> R;
}

/// Makes the functions for lanes of two types, each with the attributes given.
macro_rules! kernels {
    ($kernels:ident, $field:ty, $scalar:ty, $(#[$attribute:meta])?) => {
        impl Kernels for $kernels {
            type Field = $field;
            type Scalar = $scalar;

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

        impl Workspaces for $kernels {
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
