//! Many signatures at once, for about the price of one point addition each and window.
//!
//! # The equation
//!
//! A claim i says that key Pₖ signed the digest zᵢ with (rᵢ, sᵢ, vᵢ). Recovery gives exactly
//! Pₖ if and only if Eᵢ := u1ᵢ·G + u2ᵢ·Pₖ − Rᵢ = 0, where u1ᵢ = zᵢ/sᵢ and u2ᵢ = rᵢ/sᵢ modulo
//! the order n, and Rᵢ is the one point with x = rᵢ whose y has the parity that vᵢ says.
//! (Recovery computes (s·R − z·G)/r, which is P exactly if s·R = z·G + r·P.) A batch checks
//!
//! ```text
//! Σ aᵢ·Eᵢ = (Σ aᵢ·u1ᵢ)·G + Σₖ (Σ aᵢ·u2ᵢ)·Pₖ − Σ aᵢ·Rᵢ = 0
//! ```
//!
//! with coefficients aᵢ ≠ 0 that are drawn, after all claims are fixed, from 2^128 − 1 values
//! which are different modulo n. R comes from the frame's R.y, which must be on the curve
//! with r, below p and of the right parity, or from a square root.
//!
//! # Why a forger gains nothing
//!
//! If all Eᵢ are 0, so is the sum: what is right is never refused. If some Eⱼ ≠ 0, fix all
//! other coefficients; since the group's order is prime, the sum is 0 for exactly one aⱼ
//! modulo n, and aⱼ takes it with a probability of at most 1/(2^128 − 1). The coefficients
//! are ChaCha20's stream under a key that the operating system draws for each batch, so
//! nobody knows them beforehand, and nothing about them is ever shown. A forger may choose
//! everything else, and try again: each attempt costs him a batch and wins once in 2^128.
//! Without coefficients two errors could cancel; that is what the tests of this file's name
//! in `core/tests` try.
//!
//! # When it fails
//!
//! A batch that fails is cut in halves until the guilty ones stand alone; those few are
//! judged by libsecp256k1 one by one, so a refusal is always its word. The sum itself is
//! right for every input: see [`crate::secp256k1::sums`] for points that meet.
//!
//! Everything here is public and runs in variable time.

use crate::cpu::{self, Backend};
use crate::keccak::Digest;
use crate::secp256k1::backends::Narrow;
#[cfg(target_arch = "x86_64")]
use crate::secp256k1::backends::Wide;
pub use crate::secp256k1::claim::{Claim, ClaimFault, Refusal};
use crate::secp256k1::equation::{Draw, Outcome, examine};
use crate::secp256k1::field::bytes_of;
use crate::secp256k1::kernels::Kernels;
use crate::secp256k1::lanes::Pair;
use crate::secp256k1::recovery::halves;
use crate::secp256k1::rows::Rows;
use crate::secp256k1::signature::{
    PublicKey, Signature, SignatureError, check_form, is_point_y, point_y, recover, verify,
};

/// Which of many claims do not hold: the refusals in the order of the claims, none if all
/// hold. Decides exactly as [`verify`] does one by one. `threads` 0 means one for each core.
#[must_use]
pub fn verify_batch(keys: &[PublicKey], claims: &[Claim<'_>], threads: usize) -> Vec<Refusal> {
    verify_batch_with(cpu::best(), keys, claims, threads)
}

/// As [`verify_batch`], on a backend.
#[must_use]
pub fn verify_batch_with(
    backend: Backend,
    keys: &[PublicKey],
    claims: &[Claim<'_>],
    threads: usize,
) -> Vec<Refusal> {
    let backend = cpu::at_most(backend);
    in_parts(claims, threads, |first, claims| {
        let batch = Batch {
            backend,
            keys,
            claims,
        };
        let mut refusals = batch.refusals();
        for refusal in &mut refusals {
            refusal.index += first;
        }
        refusals
    })
}

/// The keys that made many signatures, in their order. Each is what [`recover`] gives.
#[must_use]
pub fn recover_batch(
    signed: &[(Digest, &Signature)],
    threads: usize,
) -> Vec<Result<PublicKey, SignatureError>> {
    recover_batch_with(cpu::best(), signed, threads)
}

/// As [`recover_batch`], on a backend.
#[must_use]
pub fn recover_batch_with(
    backend: Backend,
    signed: &[(Digest, &Signature)],
    threads: usize,
) -> Vec<Result<PublicKey, SignatureError>> {
    let backend = cpu::at_most(backend);
    in_parts(signed, threads, |_, signed| match backend {
        #[cfg(target_arch = "x86_64")]
        Backend::Avx512 if signed.len() > SINGLE => recover_rows::<Wide>(signed),
        // One lane is no faster than libsecp256k1.
        _ => signed
            .iter()
            .map(|(digest, signature)| recover(digest, signature))
            .collect(),
    })
}

fn recover_rows<K: Kernels>(
    signed: &[(Digest, &Signature)],
) -> Vec<Result<PublicKey, SignatureError>> {
    let mut results = vec![Err(SignatureError::NoKey); signed.len()];
    let mut rows = Rows::default();
    for (part, signed) in signed.chunks(RECOVERED).enumerate() {
        rows.clear();
        for (i, (digest, signature)) in signed.iter().enumerate() {
            let member = part * RECOVERED + i;
            let claim = Claim {
                digest: *digest,
                signature,
                r_y: None,
                key: 0,
            };
            if let Err(ClaimFault::Form(error)) = rows.push(member as u32, &claim, 0) {
                results[member] = Err(error);
            }
        }
        // Those whose r is the x of no point keep the error that is there.
        let doomed = K::find_points(&mut rows);
        rows.remove(&doomed);
        let keys = K::recover(&rows, &halves(&rows));
        for (member, key) in rows.members.iter().zip(keys) {
            if let Some(Pair { x, y }) = key {
                let mut bytes = [0u8; 64];
                bytes[..32].copy_from_slice(&bytes_of(&x));
                bytes[32..].copy_from_slice(&bytes_of(&y));
                results[*member as usize] = Ok(PublicKey(bytes));
            }
        }
    }
    results
}

/// Fewer than this are not worth a thread of their own.
const PART: usize = 256;
/// A part has fewer than this, so that places in it are 32-bit numbers.
const MOST: usize = 1 << 30;

/// The results of a function of parts of a list, one after the other, each part on a thread
/// of its own. The function is given the place of its part.
fn in_parts<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    run: impl Fn(usize, &[T]) -> Vec<R> + Sync,
) -> Vec<R> {
    let parts = cpu::threads(threads)
        .min(items.len() / PART)
        .max(1 + items.len() / MOST);
    if parts == 1 {
        return run(0, items);
    }
    let size = items.len().div_ceil(parts);
    std::thread::scope(|scope| {
        let run = &run;
        let others: Vec<_> = items
            .chunks(size)
            .enumerate()
            .skip(1)
            .map(|(i, part)| scope.spawn(move || run(i * size, part)))
            .collect();
        let mut results = run(0, &items[..size]);
        for other in others {
            match other.join() {
                Ok(more) => results.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    })
}

/// One claim, by libsecp256k1.
fn judge(keys: &[PublicKey], claim: &Claim<'_>) -> Result<(), ClaimFault> {
    let key = keys.get(claim.key).ok_or(ClaimFault::NoSuchKey)?;
    check_form(claim.signature).map_err(ClaimFault::Form)?;
    match claim.r_y {
        Some(y) if !is_point_y(claim.signature, y) => return Err(ClaimFault::BadRY),
        None => {
            point_y(claim.signature).map_err(ClaimFault::Form)?;
        }
        Some(_) => {}
    }
    if verify(&claim.digest, claim.signature, key) {
        Ok(())
    } else {
        Err(ClaimFault::BadSignature)
    }
}

/// As many keys are recovered at once.
const RECOVERED: usize = 1024;

/// Up to so many are judged one by one: a batch has a price of its own.
const SINGLE: usize = 2;

struct Batch<'a> {
    backend: Backend,
    keys: &'a [PublicKey],
    claims: &'a [Claim<'a>],
}

impl Batch<'_> {
    fn refusals(&self) -> Vec<Refusal> {
        let all: Vec<u32> = (0..self.claims.len() as u32).collect();
        if self.claims.len() <= SINGLE {
            return self.judged(&all).collect();
        }
        let Ok(mut draw) = Draw::new() else {
            // Without randomness there is no batch, and a right answer all the same.
            return self.judged(&all).collect();
        };
        let outcome = self.examine(&all, &mut draw);
        let mut refusals = outcome.refusals;
        if !outcome.holds {
            self.find_guilty(&outcome.members, &mut draw, &mut refusals);
            refusals.sort_unstable_by_key(|refusal| refusal.index);
        }
        refusals
    }

    fn judged<'b>(&'b self, members: &'b [u32]) -> impl Iterator<Item = Refusal> + 'b {
        members.iter().filter_map(|member| {
            let index = *member as usize;
            let fault = judge(self.keys, &self.claims[index]).err()?;
            Some(Refusal { index, fault })
        })
    }

    /// The refusals among members of which the equation does not hold as a whole.
    fn find_guilty(&self, members: &[u32], draw: &mut Draw, refusals: &mut Vec<Refusal>) {
        if members.len() <= 2 * SINGLE {
            refusals.extend(self.judged(members));
            return;
        }
        let (first, second) = members.split_at(members.len() / 2);
        let first_holds = self.examine(first, draw).holds;
        if !first_holds {
            self.find_guilty(first, draw, refusals);
        }
        // If the first half holds, the fault is in the second.
        if first_holds || !self.examine(second, draw).holds {
            self.find_guilty(second, draw, refusals);
        }
    }

    fn examine(&self, members: &[u32], draw: &mut Draw) -> Outcome {
        match self.backend {
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512 => examine::<Wide>(self.keys, self.claims, members, draw),
            _ => examine::<Narrow>(self.keys, self.claims, members, draw),
        }
    }
}
