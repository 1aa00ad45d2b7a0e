//! Plain signatures of 65 bytes, digests given: against known keys, and recovering them.

use std::error::Error;

use _core::cpu;
use _core::keccak::Digest;
use _core::secp256k1::batch::{Claim, recover_batch_with, verify_batch_with};
use _core::secp256k1::{PublicKey, Signature};

use crate::inputs::{Place, Signatures};
use crate::interface::{Peers, Signed};
use crate::rounds::{Contender, timed};
use crate::table::Section;
use crate::transcripts::{SAMPLE, backends_and_threads, ours};
use crate::{Plan, size_name};

/// Against known keys: few, or each signature by its own.
pub(crate) fn verifying(
    plan: &Plan,
    place: &Place,
    peers: &Peers,
    distinct: bool,
) -> Result<Section, Box<dyn Error>> {
    let title = if distinct {
        "Plain signatures, every key another: verify_batch"
    } else {
        "Plain signatures of 8 keys: verify_batch"
    };
    let mut section = Section::new(title, "signature");
    let pool = place.signatures(plan.pool(), distinct)?;
    let points: Vec<[u8; 64]> = pool.keys.iter().map(|key| *key.as_bytes()).collect();
    let opened = peers.signatures.map(|peer| (peer, peer.keys(&points)));
    for &size in &plan.sizes {
        let mut contenders = Vec::new();
        for (backend, threads) in backends_and_threads() {
            let pool = &pool;
            contenders.push(Contender::new(ours(backend, threads), move |round| {
                let batches: Vec<_> = batches(size, pool.signed.len(), round)
                    .map(|at| claims(pool, at, size, distinct))
                    .collect();
                timed(size * batches.len(), || {
                    for (keys, claims) in &batches {
                        let refusals = verify_batch_with(backend, keys, claims, threads);
                        assert_eq!(refusals, []);
                    }
                })
            }));
        }
        let sampled = size.min(SAMPLE);
        for (peer, keys) in &opened {
            let pool = &pool;
            contenders.push(Contender::new(
                format!("{}, verify", peer.called()),
                move |round| {
                    let batches: Vec<&[Signed]> = batches(sampled, pool.signed.len(), round)
                        .map(|at| &pool.signed[at..at + sampled])
                        .collect();
                    timed(sampled * batches.len(), || {
                        for signed in &batches {
                            assert_eq!(keys.verify(signed), sampled);
                        }
                    })
                    .sample_of(size)
                },
            ));
        }
        section.measure(size_name(size), contenders, plan.effort(size));
    }
    let libsecp256k1 = format!("{}, verify", peers.signatures[0].called());
    Ok(with_ratios(section, "libsecp256k1 verify", libsecp256k1))
}

/// Recovering the keys.
pub(crate) fn recovering(
    plan: &Plan,
    place: &Place,
    peers: &Peers,
) -> Result<Section, Box<dyn Error>> {
    let mut section = Section::new(
        "Plain signatures, every key another: recover_batch",
        "signature",
    );
    let pool = place.signatures(plan.pool(), true)?;
    for &size in &plan.sizes {
        let mut contenders = Vec::new();
        for (backend, threads) in backends_and_threads() {
            let pool = &pool;
            contenders.push(Contender::new(ours(backend, threads), move |round| {
                let batches: Vec<Vec<(Digest, &Signature)>> =
                    batches(size, pool.signed.len(), round)
                        .map(|at| {
                            let signed = pool.signed[at..at + size].iter();
                            signed.map(|one| (one.digest, &one.signature)).collect()
                        })
                        .collect();
                timed(size * batches.len(), || {
                    for signed in &batches {
                        let keys = recover_batch_with(backend, signed, threads);
                        assert!(keys.iter().all(Result::is_ok));
                    }
                })
            }));
        }
        let sampled = size.min(SAMPLE);
        for peer in peers.signatures {
            let pool = &pool;
            contenders.push(Contender::new(
                format!("{}, recover", peer.called()),
                move |round| {
                    let mut batches: Vec<(&[Signed], Vec<[u8; 64]>)> =
                        batches(sampled, pool.signed.len(), round)
                            .map(|at| (&pool.signed[at..at + sampled], vec![[0; 64]; sampled]))
                            .collect();
                    timed(sampled * batches.len(), || {
                        for (signed, keys) in &mut batches {
                            peer.recover_into(signed, keys);
                        }
                    })
                    .sample_of(size)
                },
            ));
        }
        section.measure(size_name(size), contenders, plan.effort(size));
    }
    let libsecp256k1 = format!("{}, recover", peers.signatures[0].called());
    Ok(with_ratios(section, "libsecp256k1 recover", libsecp256k1))
}

/// Every peer gives the keys that signed, and takes no signature for another's.
pub(crate) fn check_peers(place: &Place, peers: &Peers) -> Result<(), Box<dyn Error>> {
    let pool = place.signatures(64, true)?;
    let points: Vec<[u8; 64]> = pool.keys.iter().map(|key| *key.as_bytes()).collect();
    for peer in peers.signatures {
        let mut recovered = vec![[0; 64]; points.len()];
        peer.recover_into(&pool.signed, &mut recovered);
        let keys = peer.keys(&points);
        let mut others = pool.signed.clone();
        for one in &mut others {
            one.key ^= 1;
        }
        let verdicts = (keys.verify(&pool.signed), keys.verify(&others));
        if recovered != points || verdicts != (points.len(), 0) {
            return Err(format!("{} does not decide as it should", peer.called()).into());
        }
    }
    Ok(())
}

fn with_ratios(section: Section, peer: &str, slow: String) -> Section {
    let best = cpu::best();
    section
        .ratio(
            &format!("one thread against {peer}"),
            &[slow],
            ours(best, 1),
            Some(5.0),
        )
        .ratio(
            "two threads against one",
            &[ours(best, 1)],
            ours(best, 2),
            Some(1.8),
        )
}

/// Where the batches of a round begin in a pool: as many as make a turn long enough, each at
/// another place.
fn batches(size: usize, pool: usize, round: usize) -> impl Iterator<Item = usize> {
    let together = (64 / size).max(1);
    let places = pool / size;
    (0..together).map(move |one| (round * together + one) % places * size)
}

fn claims(
    pool: &Signatures,
    at: usize,
    size: usize,
    distinct: bool,
) -> (&[PublicKey], Vec<Claim<'_>>) {
    let signed = &pool.signed[at..at + size];
    let (keys, first) = if distinct {
        (&pool.keys[at..at + size], at)
    } else {
        (&pool.keys[..], 0)
    };
    let claims = signed.iter().map(|one| Claim {
        digest: one.digest,
        signature: &one.signature,
        r_y: None,
        key: one.key as usize - first,
    });
    (keys, claims.collect())
}
