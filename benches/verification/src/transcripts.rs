//! Whole transcripts: parsing, digests, chain and signatures here; the bare signatures, digests
//! given, at the peers.

use std::error::Error;

use _core::cpu::{self, Backend};
use _core::transcript::{Options, verify_transcript_with};

use crate::inputs::{Place, Transcript};
use crate::interface::Peers;
use crate::peers::PeerKeys;
use crate::rounds::{Contender, timed};
use crate::table::Section;
use crate::{Plan, size_name};

/// The most signatures that a peer checks in a round; above that they are a sample.
pub(crate) const SAMPLE: usize = 4096;

pub(crate) fn section(
    plan: &Plan,
    place: &Place,
    peers: &Peers,
) -> Result<Section, Box<dyn Error>> {
    let mut section = Section::new(
        "Transcript, payloads of 300 bytes: parse, digests, chain, signatures",
        "frame",
    );
    for &frames in &plan.sizes {
        // Small ones several at a time, so that a turn is long beside the clock's resolution.
        let together = (64 / frames).max(1);
        let count = if together == 1 {
            (SAMPLE * 32 / frames).clamp(1, 16)
        } else {
            together * 4
        };
        let transcripts = place.transcripts(frames, count)?;
        let per_round =
            |round: usize| (0..together).map(move |one| transcripts_index(round, one, together));
        let mut contenders = Vec::new();
        for (backend, threads) in backends_and_threads() {
            let transcripts = &transcripts;
            contenders.push(Contender::new(ours(backend, threads), move |round| {
                let batch: Vec<Transcript<'_>> =
                    per_round(round).map(|at| transcripts.get(at)).collect();
                timed(frames * together, || {
                    for one in &batch {
                        verify(one, backend, threads, frames);
                    }
                })
            }));
        }
        let sampled = frames.min(SAMPLE);
        for peer in peers.signatures {
            for recovers in [false, true] {
                let transcripts = &transcripts;
                let what = if recovers { "recover" } else { "verify" };
                contenders.push(Contender::new(
                    format!("{}, {what}", peer.called()),
                    move |round| {
                        let batch: Vec<_> = per_round(round)
                            .map(|at| {
                                let one = transcripts.get(at);
                                let places = transcripts.frames() / sampled;
                                let signed = one.signed(round % places * sampled, sampled);
                                let keys = one.keys.map(|(_, _, key)| *key.as_bytes());
                                (signed, peer.keys(&keys), vec![[0; 64]; sampled])
                            })
                            .collect();
                        let mut batch: Vec<(_, PeerKeys, _)> = batch;
                        timed(sampled * together, || {
                            for (signed, keys, recovered) in &mut batch {
                                if recovers {
                                    peer.recover_into(signed, recovered);
                                } else {
                                    assert_eq!(keys.verify(signed), sampled);
                                }
                            }
                        })
                        .sample_of(frames * together)
                    },
                ));
            }
        }
        section.measure(size_name(frames), contenders, plan.effort(frames));
    }
    let libsecp256k1 = format!("{}, verify", peers.signatures[0].called());
    let best = cpu::best();
    Ok(section
        .ratio(
            "one thread against libsecp256k1 verify",
            &[libsecp256k1],
            ours(best, 1),
            Some(10.0),
        )
        .ratio(
            "two threads against one",
            &[ours(best, 1)],
            ours(best, 2),
            Some(1.8),
        ))
}

/// Every backend on one thread, and the best on two.
pub(crate) fn backends_and_threads() -> impl Iterator<Item = (Backend, usize)> {
    let one = cpu::available().iter().map(|backend| (*backend, 1));
    one.chain([(cpu::best(), 2)])
}

/// What the table calls the core.
pub(crate) fn ours(backend: Backend, threads: usize) -> String {
    let plural = if threads == 1 { "" } else { "s" };
    format!("pSymm {}, {threads} thread{plural}", backend.name())
}

/// Verifies a transcript and refuses to go on if it does not hold.
pub(crate) fn verify(transcript: &Transcript<'_>, backend: Backend, threads: usize, frames: usize) {
    let Transcript {
        data,
        domain,
        custody,
        keys,
    } = transcript;
    let options = Options {
        threads,
        backend,
        ..Options::default()
    };
    let summary = verify_transcript_with(data, *domain, *custody, keys, options);
    let verified = summary.map(|summary| summary.map(|summary| summary.frames));
    assert_eq!(verified, Ok(Some(frames)));
}

const fn transcripts_index(round: usize, one: usize, together: usize) -> usize {
    round * together + one
}
