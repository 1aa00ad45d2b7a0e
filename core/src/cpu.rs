//! Which instructions the processor has, decided once and at run time.
//!
//! Every function that comes in several widths takes the widest by itself; its sibling that
//! ends in `_with` takes a [`Backend`], so that tests and benchmarks run all of them on the
//! same inputs. All backends give the same results.

use std::sync::LazyLock;

/// A set of instructions to compute with. The later ones are the faster ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backend {
    /// Nothing beyond what Rust itself needs. Always there.
    Portable,
    /// AVX2, BMI1 and BMI2: four lanes of 64 bits, where that wins; else as `Portable`.
    Avx2,
    /// All that and AVX-512 F, BW, DQ, VL, IFMA and VBMI2: eight lanes of 64 bits with 52-bit products.
    Avx512,
}

impl Backend {
    /// The name by which `PSYMM_BACKEND` and the benchmarks call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn is_here(self) -> bool {
        match self {
            Self::Portable => true,
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("bmi1")
                    && is_x86_feature_detected!("bmi2")
            }
            Self::Avx512 => {
                Self::Avx2.is_here()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512ifma")
                    && is_x86_feature_detected!("avx512vbmi2")
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_here(self) -> bool {
        self == Self::Portable
    }
}

static AVAILABLE: LazyLock<Vec<Backend>> = LazyLock::new(|| {
    let all = [Backend::Portable, Backend::Avx2, Backend::Avx512];
    // A processor may be told to do with less, so that CI runs every path on one machine.
    let most = std::env::var("PSYMM_BACKEND").ok();
    let most = most.and_then(|name| all.into_iter().find(|backend| backend.name() == name));
    all.into_iter()
        .filter(|backend| backend.is_here() && most.is_none_or(|most| *backend <= most))
        .collect()
});

/// The backends that this processor has, slowest first; `Portable` is always the first. The
/// environment variable `PSYMM_BACKEND` (`portable`, `avx2`, `avx512`), read once, leaves out
/// all that come after the one it names.
#[must_use]
pub fn available() -> &'static [Backend] {
    &AVAILABLE
}

/// The fastest of [`available`].
#[must_use]
pub fn best() -> Backend {
    AVAILABLE.last().copied().unwrap_or(Backend::Portable)
}

/// The backend itself if it is available, else the best that is: no caller of a safe function
/// can ask for instructions that are not there.
#[must_use]
pub fn at_most(wanted: Backend) -> Backend {
    wanted.min(best())
}

/// How many threads are wanted: as many as there are cores where `asked` is 0.
#[must_use]
pub(crate) fn threads(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        some => some,
    }
}
