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

use core::fmt;

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng as _, SeedableRng as _};

use crate::cpu::{self, Backend};
use crate::keccak::Digest;
use crate::secp256k1::field::{BETA, Fe, bytes_of, limbs_of};
use crate::secp256k1::group::{GENERATOR, Projective};
#[cfg(target_arch = "x86_64")]
use crate::secp256k1::kernels::Wide;
use crate::secp256k1::kernels::{Kernels, Narrow, Workspace};
use crate::secp256k1::lanes::{Pair, ScalarLanes};
use crate::secp256k1::recovery::halves;
use crate::secp256k1::rows::{Rows, ScalarSums};
use crate::secp256k1::scalar::{Half, Scalar};
use crate::secp256k1::sums::{Buckets, Meeting, Term, Windows};
use crate::secp256k1::{
    PublicKey, Signature, SignatureError, check_form, is_point_y, point_y, recover, verify,
};

/// That a key signed a digest.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// What was signed.
    pub digest: Digest,
    /// r ‖ s ‖ v.
    pub signature: &'a Signature,
    /// The y of the signature's point R where a frame states it; else it is derived, which
    /// costs a square root.
    pub r_y: Option<&'a [u8; 32]>,
    /// The place of the key among the batch's keys.
    pub key: usize,
}

/// Why a claim is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimFault {
    /// r, s or v is out of form, or r is not the x of a point.
    Form(SignatureError),
    /// The stated R.y is not the y that r and v give.
    BadRY,
    /// There is no such key in the batch.
    NoSuchKey,
    /// The signature is in form and not this key's.
    BadSignature,
}

/// A refused claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its place in the batch.
    pub index: usize,
    /// Why.
    pub fault: ClaimFault,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signature {}: ", self.index)?;
        match self.fault {
            ClaimFault::Form(error) => error.fmt(f),
            ClaimFault::BadRY => f.write_str("R.y is not the y coordinate that r and v give"),
            ClaimFault::NoSuchKey => f.write_str("it names a key that the batch does not have"),
            ClaimFault::BadSignature => f.write_str("it is not that of the key"),
        }
    }
}

impl std::error::Error for Refusal {}

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
            Backend::Avx512 => examine::<Wide>(self, members, draw),
            _ => examine::<Narrow>(self, members, draw),
        }
    }
}

/// The coefficients of a batch.
struct Draw(ChaCha20Rng);

impl Draw {
    fn new() -> Result<Self, getrandom::Error> {
        let mut seed = [0u8; 32];
        getrandom::fill(&mut seed)?;
        Ok(Self(ChaCha20Rng::from_seed(seed)))
    }

    /// Numbers of 128 bits, none of them `excluded`.
    fn fill(&mut self, numbers: &mut [u128], excluded: u128) {
        let mut bytes = [0u8; 1024];
        for numbers in numbers.chunks_mut(64) {
            let bytes = &mut bytes[..16 * numbers.len()];
            self.0.fill_bytes(bytes);
            for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(16)) {
                let mut word = [0u8; 16];
                word.copy_from_slice(bytes);
                *number = u128::from_le_bytes(word);
                while *number == excluded {
                    self.0.fill_bytes(&mut word);
                    *number = u128::from_le_bytes(word);
                }
            }
        }
    }
}

/// What an examination came to.
struct Outcome {
    /// Members that are out of form, in order.
    refusals: Vec<Refusal>,
    /// All others.
    members: Vec<u32>,
    /// Whether the equation holds for those.
    holds: bool,
}

/// As many claims as are worked on at once; what they need stays in the cache.
const CHUNK: usize = 16 * 1024;
/// Up to so many points Straus's way is the faster one.
const FEW: usize = 80;

/// Whether the equation holds for members of a batch, those out of form left out.
fn examine<K: Kernels>(batch: &Batch<'_>, members: &[u32], draw: &mut Draw) -> Outcome {
    let few = members.len() <= FEW;
    match try_examine::<K>(batch, members, draw, few) {
        Ok(outcome) => outcome,
        // Equal or opposite points: somebody used one nonce twice.
        Err(Meeting) => match try_examine::<K>(batch, members, draw, true) {
            Ok(outcome) => outcome,
            Err(Meeting) => unreachable!("complete formulas know no special points"),
        },
    }
}

fn try_examine<K: Kernels>(
    batch: &Batch<'_>,
    members: &[u32],
    draw: &mut Draw,
    few: bool,
) -> Result<Outcome, Meeting> {
    K::with_workspace(|workspace| {
        let Workspace {
            buckets,
            rows,
            kept,
        } = workspace;
        let mut outcome = Outcome {
            refusals: Vec::new(),
            members: Vec::with_capacity(members.len()),
            holds: false,
        };
        let windows = Windows::for_points(members.len());
        let bias = if few { 0 } else { windows.bias() };
        if !few {
            buckets.reset(windows);
        }
        let used = UsedKeys::of(batch, members);
        let mut sums = ScalarSums {
            generator: [0; 5],
            keys: vec![[0; 5]; used.count()],
        };
        let mut total = Projective::<Fe>::infinity();
        // Straus's tables grow with the points, so they come in smaller parts.
        let chunk = if few { 8 * FEW } else { CHUNK };
        for members in members.chunks(chunk) {
            rows.clear();
            let refused = outcome.refusals.len();
            for member in members {
                let index = *member as usize;
                let claim = &batch.claims[index];
                let pushed = match used.place(claim.key) {
                    Some(key) => rows.push(*member, claim, key),
                    None => Err(ClaimFault::NoSuchKey),
                };
                if let Err(fault) = pushed {
                    outcome.refusals.push(Refusal { index, fault });
                }
            }
            let doomed = K::find_points(rows);
            for (row, fault) in &doomed {
                let index = rows.members[*row] as usize;
                let fault = *fault;
                outcome.refusals.push(Refusal { index, fault });
            }
            rows.remove(&doomed);
            outcome.refusals[refused..].sort_unstable_by_key(|refusal| refusal.index);
            outcome.members.extend_from_slice(&rows.members);
            let claims = rows.members.len();
            rows.coefficients.resize(claims, 0);
            draw.fill(&mut rows.coefficients, bias);
            rows.pad(K::Scalar::WIDTH, bias);
            K::add_scalars(rows, bias, &mut sums, kept);
            let (points, coefficients) = (&rows.points[..claims], &rows.coefficients[..claims]);
            if few {
                let term = |(point, magnitude): (&Pair, &u128)| Term {
                    point: *point,
                    negative: false,
                    magnitude: *magnitude,
                };
                let terms: Vec<Term> = points.iter().zip(coefficients).map(term).collect();
                total = total.add(K::straus(&terms));
            } else {
                buckets.add(points, coefficients)?;
            }
        }
        if !few {
            total = total.add(buckets.total());
        }
        let fixed = fixed_terms(K::Scalar::LIMB_BITS, batch.keys, &used, &sums);
        let difference = sum_of_terms::<K>(&fixed).add(total.neg());
        outcome.holds = difference.is_infinity();
        Ok(outcome)
    })
}

/// The keys that members of a batch name: all of the batch's, or, where these are more than
/// the members, a list, so that a small part of a batch costs no more than its size.
enum UsedKeys {
    All(usize),
    Listed(Vec<usize>),
}

impl UsedKeys {
    fn of(batch: &Batch<'_>, members: &[u32]) -> Self {
        if batch.keys.len() <= members.len() {
            return Self::All(batch.keys.len());
        }
        let named = members
            .iter()
            .map(|member| batch.claims[*member as usize].key);
        let mut keys: Vec<usize> = named.filter(|key| *key < batch.keys.len()).collect();
        keys.sort_unstable();
        keys.dedup();
        Self::Listed(keys)
    }

    fn count(&self) -> usize {
        match self {
            Self::All(count) => *count,
            Self::Listed(keys) => keys.len(),
        }
    }

    fn place(&self, key: usize) -> Option<usize> {
        match self {
            Self::All(count) => (key < *count).then_some(key),
            Self::Listed(keys) => keys.binary_search(&key).ok(),
        }
    }

    fn key(&self, place: usize) -> usize {
        match self {
            Self::All(_) => place,
            Self::Listed(keys) => keys[place],
        }
    }
}

/// The fixed points with their sums, each split in two halves of 128 bits.
fn fixed_terms(bits: u32, keys: &[PublicKey], used: &UsedKeys, sums: &ScalarSums) -> Vec<Term> {
    let mut terms = Vec::new();
    let mut push = |point: Pair, scalar: Scalar| {
        let (k1, k2) = scalar.split();
        let turned = Pair {
            x: Fe(point.x).mul(BETA).0,
            y: point.y,
        };
        let term = |point,
                    Half {
                        negative,
                        magnitude,
                    }| Term {
            point,
            negative,
            magnitude,
        };
        terms.push(term(point, k1));
        terms.push(term(turned, k2));
    };
    push(GENERATOR, Scalar::from_columns(&sums.generator, bits));
    for (place, columns) in sums.keys.iter().enumerate() {
        if *columns == [0; 5] {
            continue;
        }
        let key = &keys[used.key(place)];
        let (x, rest) = key
            .as_bytes()
            .split_first_chunk()
            .unwrap_or((&[0; 32], &[]));
        let y = rest.first_chunk().unwrap_or(&[0; 32]);
        let point = Pair {
            x: limbs_of(x),
            y: limbs_of(y),
        };
        push(point, Scalar::from_columns(columns, bits));
    }
    terms
}

/// The sum of terms, whatever their number.
fn sum_of_terms<K: Kernels>(terms: &[Term]) -> Projective<Fe> {
    if terms.len() > FEW
        && let Ok(sum) = sum_in_buckets::<K>(terms)
    {
        return sum;
    }
    let mut sum = Projective::<Fe>::infinity();
    for terms in terms.chunks(8 * FEW) {
        sum = sum.add(K::straus(terms));
    }
    sum
}

fn sum_in_buckets<K: Kernels>(terms: &[Term]) -> Result<Projective<Fe>, Meeting> {
    let windows = Windows::for_points(terms.len());
    let mut buckets = Buckets::<K>::new();
    buckets.reset(windows);
    let mut points = Vec::with_capacity(CHUNK.min(terms.len()));
    let mut biased = Vec::with_capacity(CHUNK.min(terms.len()));
    for terms in terms.chunks(CHUNK) {
        points.clear();
        biased.clear();
        for term in terms {
            let mut point = term.point;
            if term.negative {
                point.y = Fe(point.y).neg().0;
            }
            points.push(point);
            // A half is below 0.64·2^128 and the bias below 2^126.
            biased.push(term.magnitude + windows.bias());
        }
        buckets.add(&points, &biased)?;
    }
    Ok(buckets.total())
}
