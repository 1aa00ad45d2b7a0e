//! Where the time of a transcript goes: each stage alone, in nanoseconds and cycles a frame.

use std::error::Error;
use std::time::Instant;

use _core::cpu;
use _core::frame::{digest_many, split};
use _core::secp256k1::batch::{Claim, verify_batch};
use serde_json::{Value, json};

use crate::Plan;
use crate::inputs::Place;
use crate::rounds::{Contender, timed, turn_by_turn};
use crate::transcripts::verify;

/// Measures the public pieces that a transcript is verified by, on one thread, and the whole.
pub(crate) fn measure(plan: &Plan, place: &Place, frames: usize) -> Result<Value, Box<dyn Error>> {
    const SETS: usize = 4;
    let transcripts = place.transcripts(frames, SETS)?;
    let sets: Vec<_> = (0..SETS).map(|set| transcripts.get(set)).collect();
    let parsed: Vec<_> = sets
        .iter()
        .map(|one| split(one.data))
        .collect::<Result<_, _>>()?;
    let domain = sets[0].domain;
    let signed: Vec<Vec<_>> = parsed
        .iter()
        .map(|frames| {
            let digests = digest_many(&domain, frames);
            frames
                .iter()
                .zip(digests)
                .map(|(frame, digest)| (digest, frame.signature(), frame.r_y(), frame.lane()))
                .collect()
        })
        .collect();
    let mut contenders = vec![
        Contender::new("parse, with the form of signatures and R.y", |round| {
            timed(frames, || split(sets[round % SETS].data))
        }),
        Contender::new("digests", |round| {
            timed(frames, || digest_many(&domain, &parsed[round % SETS]))
        }),
        Contender::new("signatures, R.y given", |round| {
            let keys = sets[round % SETS].keys.map(|(_, _, key)| key);
            let claims: Vec<Claim<'_>> = signed[round % SETS]
                .iter()
                .map(|(digest, signature, r_y, lane)| Claim {
                    digest: *digest,
                    signature,
                    r_y: Some(r_y),
                    key: usize::from(*lane),
                })
                .collect();
            timed(frames, || {
                assert_eq!(verify_batch(&keys, &claims, 1), []);
            })
        }),
        Contender::new("the whole", |round| {
            timed(frames, || {
                verify(&sets[round % SETS], cpu::best(), 1, frames)
            })
        }),
    ];
    let cells = turn_by_turn(&mut contenders, plan.effort(frames));
    let mut stages: Vec<(String, f64)> = contenders
        .iter()
        .zip(&cells)
        .map(|(contender, cell)| (contender.name.clone(), cell.median_ns()))
        .collect();
    let (_, whole) = stages[3];
    let parts: f64 = stages[..3].iter().map(|(_, ns)| ns).sum();
    // What a stage does twice when run alone may make this negative; it is told all the same.
    stages.insert(
        3,
        (
            "chain and the rest: the whole less the above".into(),
            whole - parts,
        ),
    );
    let gigahertz = clock_gigahertz();
    let rows: Vec<Value> = stages
        .iter()
        .map(|(name, ns)| json!({ "stage": name, "ns": ns, "cycles": ns * gigahertz }))
        .collect();
    Ok(json!({ "frames": frames, "gigahertz": gigahertz, "stages": rows }))
}

/// The clock that the core runs at under load: a chain of squarings, each of which waits for the
/// one before: three cycles to multiply and one to add, on every x86-64 of these years.
fn clock_gigahertz() -> f64 {
    const CYCLES_A_STEP: f64 = 4.0;
    // Short bursts and the fastest of many, so that a neighbour's turn does not count.
    const STEPS: u32 = 1_000_000;
    let mut fastest = f64::INFINITY;
    for _ in 0..100 {
        let mut x = core::hint::black_box(0x9e37_79b9_7f4a_7c15_u64);
        let began = Instant::now();
        for _ in 0..STEPS {
            x = x.wrapping_mul(x).wrapping_add(0x1234_5678_9abc_def1);
        }
        core::hint::black_box(x);
        fastest = fastest.min(began.elapsed().as_secs_f64());
    }
    CYCLES_A_STEP * f64::from(STEPS) / fastest / 1e9
}
