//! The kernels alone, on every backend that the processor has: `cargo bench -p psymm-core`.
//!
//! What users call, beside its peers, is measured by `make bench`; this is for whoever changes a
//! kernel and wants to know by how much. Inputs are distinct, and each sample takes other ones.

use _core::cpu;
use _core::field::Fr;
use _core::frame::{self, FrameView, Header, digest_many_with};
use _core::keccak::{Digest, keccak256_many_with};
use _core::poseidon2::{self, hash_pair};
use _core::secp256k1::batch::{Claim, recover_batch_with, verify_batch_with};
use _core::secp256k1::{PublicKey, SecretKey};
use _core::tree::LeanImt;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const DOMAIN: Digest = [9; 32];
const PAYLOAD: usize = 300;
const FRAMES: usize = 1024;

/// Bytes that differ from set to set.
fn bytes(set: usize, length: usize) -> Vec<u8> {
    let mut state = set as u64 + 1;
    (0..length)
        .map(|_| {
            // Knuth's linear congruential generator: nothing here needs better.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

fn elements(set: usize, count: usize) -> Vec<Fr> {
    bytes(set, count * 16)
        .as_chunks::<16>()
        .0
        .iter()
        .map(|chunk| Fr::from_u128(u128::from_be_bytes(*chunk) | 1))
        .collect()
}

/// Frames of one lane, not chained: no kernel looks at the chain.
fn frames(set: usize) -> (Vec<u8>, PublicKey) {
    let key = SecretKey::from_bytes(&[set as u8 + 1; 32]).expect("it is below the order");
    let payloads = bytes(set, FRAMES * PAYLOAD);
    let mut data = Vec::new();
    for (index, payload) in payloads.chunks_exact(PAYLOAD).enumerate() {
        let header = Header {
            custody: [1; 32],
            lane: 0,
            seq: index as u64 + 1,
            previous: [set as u8; 32],
            peer_seq: 0,
            peer_digest: [1; 32],
            sending_time: 1_790_000_000_000_000_000,
        };
        data.extend(frame::sign(&key, &DOMAIN, &header, payload).expect("it is in form"));
    }
    (data, *key.public_key())
}

/// One set of inputs after another.
fn turn<'a, T>(sets: &'a [T], at: &mut usize) -> &'a T {
    *at = (*at + 1) % sets.len();
    &sets[*at]
}

fn keccak(criterion: &mut Criterion) {
    for (size, count) in [(64, 8), (64, 1024), (PAYLOAD, 8), (PAYLOAD, 1024)] {
        let mut group = criterion.benchmark_group(format!("keccak256_many {count} × {size} bytes"));
        group.throughput(Throughput::Elements(count as u64));
        let data: Vec<Vec<u8>> = (0..8).map(|set| bytes(set, size * count)).collect();
        let sets: Vec<Vec<&[u8]>> = data
            .iter()
            .map(|d| d.chunks_exact(size).collect())
            .collect();
        for backend in cpu::available() {
            let mut at = 0;
            group.bench_function(backend.name(), |bencher| {
                bencher.iter(|| {
                    let messages = turn(&sets, &mut at);
                    keccak256_many_with(*backend, black_box(messages))
                });
            });
        }
        group.finish();
    }
}

fn digests_and_parsing(criterion: &mut Criterion) {
    let data: Vec<Vec<u8>> = (0..4).map(|set| frames(set).0).collect();
    let sets: Vec<Vec<FrameView<'_>>> = data
        .iter()
        .map(|data| frame::split(data).expect("the frames were made here"))
        .collect();
    let mut group = criterion.benchmark_group(format!("digest_many {FRAMES} frames"));
    group.throughput(Throughput::Elements(FRAMES as u64));
    for backend in cpu::available() {
        let mut at = 0;
        group.bench_function(backend.name(), |bencher| {
            bencher.iter(|| {
                let frames = turn(&sets, &mut at);
                digest_many_with(*backend, &DOMAIN, black_box(frames))
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("frames");
    group.throughput(Throughput::Elements(FRAMES as u64));
    let mut at = 0;
    group.bench_function("split", |bencher| {
        bencher.iter(|| {
            let data = turn(&data, &mut at);
            frame::split(black_box(data))
        });
    });
    group.finish();
}

fn signing(criterion: &mut Criterion) {
    let key = SecretKey::from_bytes(&[7; 32]).expect("it is below the order");
    let payload = bytes(1, PAYLOAD);
    let mut header = Header {
        custody: [1; 32],
        lane: 0,
        seq: 0,
        previous: [2; 32],
        peer_seq: 0,
        peer_digest: [1; 32],
        sending_time: 1_790_000_000_000_000_000,
    };
    criterion.bench_function("sign a frame", |bencher| {
        bencher.iter(|| {
            header.seq += 1;
            frame::sign(&key, &DOMAIN, black_box(&header), &payload)
        });
    });
}

fn signatures(criterion: &mut Criterion) {
    let made: Vec<(Vec<u8>, PublicKey)> = (0..4).map(frames).collect();
    let parts: Vec<_> = made
        .iter()
        .map(|(data, key)| {
            let frames = frame::split(data).expect("the frames were made here");
            let signed: Vec<_> = frames
                .iter()
                .map(|frame| (frame.digest(&DOMAIN), frame.signature(), frame.r_y()))
                .collect();
            (signed, [*key])
        })
        .collect();
    for count in [1, 16, 256, FRAMES] {
        for (name, given) in [("R.y given", true), ("R.y derived", false)] {
            let mut group = criterion.benchmark_group(format!("verify_batch {count}, {name}"));
            group
                .throughput(Throughput::Elements(count as u64))
                .sample_size(20);
            for backend in cpu::available() {
                let mut at = 0;
                group.bench_function(backend.name(), |bencher| {
                    bencher.iter_batched(
                        || {
                            let (signed, keys) = turn(&parts, &mut at);
                            let claims: Vec<Claim<'_>> = signed[..count]
                                .iter()
                                .map(|(digest, signature, r_y)| Claim {
                                    digest: *digest,
                                    signature,
                                    r_y: given.then_some(r_y),
                                    key: 0,
                                })
                                .collect();
                            (keys, claims)
                        },
                        |(keys, claims)| verify_batch_with(*backend, keys, &claims, 1),
                        BatchSize::LargeInput,
                    );
                });
            }
            group.finish();
        }
        let mut group = criterion.benchmark_group(format!("recover_batch {count}"));
        group
            .throughput(Throughput::Elements(count as u64))
            .sample_size(20);
        for backend in cpu::available() {
            let mut at = 0;
            group.bench_function(backend.name(), |bencher| {
                bencher.iter_batched(
                    || {
                        let signed = &turn(&parts, &mut at).0[..count];
                        signed
                            .iter()
                            .map(|(digest, one, _)| (*digest, one))
                            .collect::<Vec<_>>()
                    },
                    |signed| recover_batch_with(*backend, &signed, 1),
                    BatchSize::LargeInput,
                );
            });
        }
        group.finish();
    }
}

fn poseidon2(criterion: &mut Criterion) {
    let sets: Vec<Vec<Fr>> = (0..8).map(|set| elements(set, 2 * 1024)).collect();
    let mut group = criterion.benchmark_group("poseidon2");
    let mut at = 0;
    group.bench_function("hash_pair", |bencher| {
        let pairs: Vec<&[Fr]> = sets.iter().flat_map(|set| set.chunks_exact(2)).collect();
        bencher.iter(|| {
            let pair = black_box(turn(&pairs, &mut at));
            hash_pair(pair[0], pair[1])
        });
    });
    group.finish();
    for count in [8, 1024] {
        let mut group = criterion.benchmark_group(format!("poseidon2 hash_many {count} pairs"));
        group.throughput(Throughput::Elements(count as u64));
        for backend in cpu::available() {
            let mut at = 0;
            group.bench_function(backend.name(), |bencher| {
                bencher.iter(|| {
                    let inputs = black_box(&turn(&sets, &mut at)[..2 * count]);
                    poseidon2::hash_many_with(*backend, 2, inputs)
                });
            });
        }
        group.finish();
    }
}

fn tree(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tree insert_many");
    group.sample_size(10);
    for count in [1, 256, 1 << 14] {
        let sets: Vec<Vec<Fr>> = (0..4).map(|set| elements(set + 1, count)).collect();
        let mut full = LeanImt::new();
        full.insert_many(&elements(0, 1 << 14))
            .expect("the leaves are distinct");
        group.throughput(Throughput::Elements(count as u64));
        let mut at = 0;
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter_batched(
                || (full.clone(), turn(&sets, &mut at)),
                |(mut tree, leaves)| {
                    tree.insert_many(leaves).expect("the leaves are distinct");
                    tree
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(
    kernels,
    keccak,
    digests_and_parsing,
    signing,
    signatures,
    poseidon2,
    tree
);
criterion_main!(kernels);
