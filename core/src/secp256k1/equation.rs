//! The equation of a batch, made and judged for some of its claims; see [`crate::secp256k1::batch`].

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng as _, SeedableRng as _};

use crate::secp256k1::backends::{Workspace, Workspaces};
use crate::secp256k1::buckets::{Buckets, Windows};
use crate::secp256k1::claim::{Claim, ClaimFault, Refusal};
use crate::secp256k1::field::{BETA, Fe, limbs_of};
use crate::secp256k1::group::{GENERATOR, Projective};
use crate::secp256k1::kernels::Kernels;
use crate::secp256k1::lanes::{Pair, ScalarLanes};
use crate::secp256k1::rows::ScalarSums;
use crate::secp256k1::scalar::{Half, Scalar};
use crate::secp256k1::signature::PublicKey;
use crate::secp256k1::sums::{Meeting, Term};

/// The coefficients of a batch.
pub(super) struct Draw(ChaCha20Rng);

impl Draw {
    pub(super) fn new() -> Result<Self, getrandom::Error> {
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
pub(super) struct Outcome {
    /// Members that are out of form, in order.
    pub(super) refusals: Vec<Refusal>,
    /// All others.
    pub(super) members: Vec<u32>,
    /// Whether the equation holds for those.
    pub(super) holds: bool,
}

/// As many claims as are worked on at once; what they need stays in the cache.
const CHUNK: usize = 16 * 1024;
/// Up to so many points Straus's way is the faster one.
const FEW: usize = 80;

/// Whether the equation holds for members of a batch, those out of form left out.
pub(super) fn examine<K: Workspaces>(
    keys: &[PublicKey],
    claims: &[Claim<'_>],
    members: &[u32],
    draw: &mut Draw,
) -> Outcome {
    let few = members.len() <= FEW;
    match try_examine::<K>(keys, claims, members, draw, few) {
        Ok(outcome) => outcome,
        // Equal or opposite points: somebody used one nonce twice.
        Err(Meeting) => match try_examine::<K>(keys, claims, members, draw, true) {
            Ok(outcome) => outcome,
            Err(Meeting) => unreachable!("complete formulas know no special points"),
        },
    }
}

fn try_examine<K: Workspaces>(
    keys: &[PublicKey],
    claims: &[Claim<'_>],
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
        let used = UsedKeys::of(keys.len(), claims, members);
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
                let claim = &claims[index];
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
            let count = rows.members.len();
            rows.coefficients.resize(count, 0);
            draw.fill(&mut rows.coefficients, bias);
            rows.pad(K::Scalar::WIDTH, bias);
            K::add_scalars(rows, bias, &mut sums, kept);
            let (points, coefficients) = (&rows.points[..count], &rows.coefficients[..count]);
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
        let fixed = fixed_terms(K::Scalar::LIMB_BITS, keys, &used, &sums);
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
    fn of(keys: usize, claims: &[Claim<'_>], members: &[u32]) -> Self {
        if keys <= members.len() {
            return Self::All(keys);
        }
        let named = members.iter().map(|member| claims[*member as usize].key);
        let mut listed: Vec<usize> = named.filter(|key| *key < keys).collect();
        listed.sort_unstable();
        listed.dedup();
        Self::Listed(listed)
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

/// The sum of any number of terms.
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
