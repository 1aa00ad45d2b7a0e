//! Keccak-256, the frames' digests, and Poseidon2: one by one and many.

use std::error::Error;

use _core::cpu;
use _core::field::Fr;
use _core::frame::{FrameView, digest_many_with};
use _core::keccak::{keccak256, keccak256_many_with};
use _core::poseidon2::{hash_many_with, hash_pair, hash_with};

use crate::Plan;
use crate::barretenberg::Barretenberg;
use crate::inputs::{FRAME, Numbers, PAYLOAD, Place};
use crate::interface::Peers;
use crate::rounds::{Contender, timed};
use crate::table::Section;

/// Messages and hashes of a turn.
const MANY: usize = 4096;
/// Sets of inputs that the rounds take in turn.
const SETS: usize = 8;

/// Keccak-256 of short messages and of payloads.
pub(crate) fn keccak(plan: &Plan, peers: &Peers) -> Section {
    let mut section = Section::new("Keccak-256", "message");
    for size in [64, PAYLOAD] {
        let sets: Vec<Vec<u8>> = (0..SETS)
            .map(|set| Numbers((size * SETS + set) as u64).text(size * MANY))
            .collect();
        let mut contenders = vec![Contender::new("pSymm, one by one", |round| {
            let messages = &sets[round % SETS];
            let mut digests = vec![[0; 32]; MANY];
            timed(MANY, || {
                for (message, digest) in messages.chunks_exact(size).zip(&mut digests) {
                    *digest = keccak256(message);
                }
                digests
            })
        })];
        for backend in cpu::available() {
            let sets = &sets;
            let name = format!("pSymm {}, {MANY} at once", backend.name());
            contenders.push(Contender::new(name, move |round| {
                let messages: Vec<&[u8]> = sets[round % SETS].chunks_exact(size).collect();
                timed(MANY, || keccak256_many_with(*backend, &messages))
            }));
        }
        for peer in peers.keccak {
            let sets = &sets;
            contenders.push(Contender::new(peer.called(), move |round| {
                let mut digests = vec![[0; 32]; MANY];
                timed(MANY, || {
                    peer.hash_into(&sets[round % SETS], size, &mut digests);
                    digests
                })
            }));
        }
        section.measure(format!("{size} bytes"), contenders, plan.effort(MANY));
    }
    let all: Vec<String> = peers.keccak.iter().map(|peer| peer.called()).collect();
    let many = format!("pSymm {}, {MANY} at once", cpu::best().name());
    section
        .ratio("many against the fastest other", &all, many, None)
        .ratio(
            "one by one against the fastest other",
            &all,
            "pSymm, one by one",
            None,
        )
}

/// The EIP-712 digests of frames.
pub(crate) fn digests(plan: &Plan, place: &Place) -> Result<Section, Box<dyn Error>> {
    let mut section = Section::new("Digests of frames with payloads of 300 bytes", "frame");
    let frames = plan.most_of(MANY);
    let transcripts = place.transcripts(frames, SETS)?;
    let parsed: Vec<Vec<FrameView<'_>>> = (0..SETS)
        .map(|set| {
            let raw = transcripts.get(set).data.chunks_exact(FRAME);
            raw.map(|raw| FrameView::parse(raw, 0)).collect()
        })
        .collect::<Result<_, _>>()?;
    let domain = transcripts.get(0).domain;
    let mut contenders = vec![Contender::new("pSymm, one by one", |round| {
        let frames = &parsed[round % SETS];
        timed(frames.len(), || {
            let digests = frames.iter().map(|frame| frame.digest(&domain));
            digests.collect::<Vec<_>>()
        })
    })];
    for backend in cpu::available() {
        let (parsed, domain) = (&parsed, &domain);
        let name = format!("pSymm {}, at once", backend.name());
        contenders.push(Contender::new(name, move |round| {
            let frames = &parsed[round % SETS];
            timed(frames.len(), || digest_many_with(*backend, domain, frames))
        }));
    }
    section.measure(crate::size_name(frames), contenders, plan.effort(MANY));
    Ok(section)
}

/// `H_2`: the hash that the tree is made of.
pub(crate) fn poseidon2(plan: &Plan, peers: &Peers) -> Result<Section, Box<dyn Error>> {
    let mut section = Section::new("Poseidon2, hashes of two numbers", "hash");
    let barretenberg = Barretenberg::start()?;
    let sets: Vec<Vec<[[u8; 32]; 2]>> = (0..SETS).map(|set| pairs(set as u64)).collect();
    let ours: Vec<Vec<Fr>> = sets
        .iter()
        .map(|pairs| {
            pairs
                .as_flattened()
                .iter()
                .map(|bytes| element(*bytes))
                .collect()
        })
        .collect();
    let expected: Vec<[u8; 32]> = ours[0]
        .chunks_exact(2)
        .map(|pair| hash_pair(pair[0], pair[1]).to_bytes())
        .collect();
    let mut contenders = Vec::new();
    for backend in cpu::available() {
        let ours = &ours;
        let name = format!("pSymm {}, one by one", backend.name());
        contenders.push(Contender::new(name, move |round| {
            let pairs = ours[round % SETS].chunks_exact(2);
            timed(MANY, || {
                let hashes = pairs.map(|pair| hash_with(*backend, pair));
                hashes.collect::<Vec<_>>()
            })
        }));
    }
    for backend in cpu::available() {
        let ours = &ours;
        let name = format!("pSymm {}, {MANY} at once", backend.name());
        contenders.push(Contender::new(name, move |round| {
            let inputs = &ours[round % SETS];
            timed(MANY, || hash_many_with(*backend, 2, inputs))
        }));
    }
    for peer in peers.poseidon2 {
        let mut opened: Vec<_> = sets.iter().map(|pairs| peer.pairs(pairs)).collect();
        opened[0].hash();
        if opened[0].hashes() != expected {
            return Err(format!("{} gives other hashes", peer.called()).into());
        }
        contenders.push(Contender::new(peer.called(), move |round| {
            timed(MANY, || opened[round % SETS].hash())
        }));
    }
    contenders.push(Contender::new("Barretenberg, one native call", |_| {
        barretenberg.borrow_mut().absorb()
    }));
    contenders.push(Contender::new("Barretenberg, a call a hash", |_| {
        barretenberg.borrow_mut().one_by_one()
    }));
    section.measure(crate::size_name(MANY), contenders, plan.effort(MANY));
    let mut others: Vec<String> = peers.poseidon2.iter().map(|peer| peer.called()).collect();
    others.push("Barretenberg, one native call".into());
    let best = cpu::best().name();
    Ok(section
        .ratio(
            "many against the fastest other",
            &others,
            format!("pSymm {best}, {MANY} at once"),
            Some(2.0),
        )
        .ratio(
            "one by one against the fastest other",
            &others,
            format!("pSymm {best}, one by one"),
            None,
        ))
}

/// What the core makes of a number below the modulus.
fn element(bytes: [u8; 32]) -> Fr {
    Fr::from_bytes(bytes).expect("it is below the modulus")
}

/// Pairs of numbers below the modulus.
fn pairs(set: u64) -> Vec<[[u8; 32]; 2]> {
    let mut numbers = Numbers(set << 40);
    let mut number = || {
        let mut bytes = [0; 32];
        for word in bytes.as_chunks_mut::<8>().0 {
            *word = numbers.next().to_be_bytes();
        }
        // Below 2^253, so below the modulus.
        bytes[0] &= 0x1f;
        bytes
    };
    (0..MANY).map(|_| [number(), number()]).collect()
}
