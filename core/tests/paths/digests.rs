//! Digests in bulk: on every path the same as one by one with the crate `sha3`.

use _core::cpu;
use _core::frame::{self, FrameView, Header};
use _core::keccak::{keccak256_many, keccak256_many_with};
use _core::secp256k1::SecretKey;
use proptest::prelude::*;
use sha3::{Digest as _, Keccak256};

use super::signing::drawn;

fn keccak(bytes: &[u8]) -> [u8; 32] {
    Keccak256::digest(bytes).into()
}

/// Bytes that differ from message to message and within each.
pub(crate) fn message(number: usize, length: usize) -> Vec<u8> {
    drawn("message", number)
        .iter()
        .cycle()
        .zip(0..length)
        .map(|(byte, i)| byte.wrapping_add((i / 32 * 7 + i) as u8))
        .collect()
}

/// Whether every path gives the digests that one by one gives.
///
/// # Panics
/// If one does not.
pub(crate) fn every_path_hashes_alike(what: &str, messages: &[Vec<u8>]) {
    let views: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let expected: Vec<[u8; 32]> = views.iter().map(|view| keccak(view)).collect();
    for backend in cpu::available() {
        let got = keccak256_many_with(*backend, &views);
        assert!(
            got == expected,
            "{what}, {} messages, {backend:?}",
            views.len()
        );
    }
    assert_eq!(keccak256_many(&views), expected, "{what}");
}

#[test]
fn any_number_of_messages_of_one_length_is_hashed_as_one_by_one() {
    // 136 bytes are a block; one more or less changes where the padding goes.
    for length in [
        0, 1, 7, 8, 9, 31, 32, 63, 64, 127, 128, 134, 135, 136, 137, 143, 144, 199, 200, 271, 272,
        273, 288, 300, 407, 408, 409, 1_000, 4_096, 65_536,
    ] {
        for count in (0..=if length < 5_000 { 19 } else { 9 }).chain([33]) {
            let messages: Vec<Vec<u8>> = (0..count).map(|i| message(i, length)).collect();
            every_path_hashes_alike(&format!("{length} bytes"), &messages);
        }
    }
}

#[test]
fn every_length_up_to_four_blocks_is_hashed_as_one_by_one() {
    let rising: Vec<Vec<u8>> = (0..=550).map(|length| message(length, length)).collect();
    every_path_hashes_alike("rising", &rising);
    let falling: Vec<Vec<u8>> = rising.iter().rev().cloned().collect();
    every_path_hashes_alike("falling", &falling);
}

#[test]
fn long_and_short_messages_side_by_side_do_not_mix() {
    for count in 1..40 {
        let messages: Vec<Vec<u8>> = (0..count)
            .map(|i| {
                let length = [0, 135, 136, 300, 5_000, 1, 272, 137, 90_000][i * i % 9];
                message(i, length)
            })
            .collect();
        every_path_hashes_alike("side by side", &messages);
    }
}

#[test]
fn equal_messages_have_equal_digests() {
    every_path_hashes_alike("equal", &vec![message(1, 300); 100]);
}

/// EIP-712 in the plainest way: each word of the struct after the other.
fn typed_digest(domain: &[u8; 32], header: &Header, payload: &[u8]) -> [u8; 32] {
    let word = |number: u64| {
        let mut word = [0u8; 32];
        word[24..].copy_from_slice(&number.to_be_bytes());
        word
    };
    let of_type = keccak(
        b"Message(bytes32 custody,uint8 lane,uint64 seq,bytes32 previous,uint64 peerSeq,\
          bytes32 peerDigest,uint64 sendingTime,bytes32 payload)",
    );
    let words = [
        of_type,
        header.custody,
        word(u64::from(header.lane)),
        word(header.seq),
        header.previous,
        word(header.peer_seq),
        header.peer_digest,
        word(header.sending_time),
        keccak(payload),
    ];
    keccak(&[b"\x19\x01", &domain[..], &keccak(&words.concat())].concat())
}

/// A frame's header, payload and bytes, all drawn from a number.
pub(crate) fn framed(number: usize, length: usize) -> (Header, Vec<u8>, Vec<u8>) {
    let numbers = drawn("numbers", number);
    let u64_at = |at: usize| u64::from_be_bytes(numbers[at..at + 8].try_into().unwrap());
    let header = Header {
        custody: drawn("custody", number),
        lane: numbers[0] & 1,
        seq: u64_at(0) | 1,
        previous: drawn("previous", number),
        peer_seq: u64_at(8),
        peer_digest: drawn("peer digest", number),
        sending_time: u64_at(16),
    };
    let payload = message(number, length);
    let key = SecretKey::from_bytes(&drawn("frame key", number % 2)).unwrap();
    let raw = frame::sign(&key, &drawn("domain", 0), &header, &payload).unwrap();
    (header, payload, raw)
}

/// Whether every path gives the digests that EIP-712 in its plainest way gives.
///
/// # Panics
/// If one does not.
pub(crate) fn every_path_digests_alike(frames: &[(Header, Vec<u8>, Vec<u8>)]) {
    let views: Vec<FrameView<'_>> = frames
        .iter()
        .map(|(_, _, raw)| FrameView::parse(raw, 0).unwrap())
        .collect();
    for domain in [drawn("domain", 0), [0; 32]] {
        let expected: Vec<[u8; 32]> = frames
            .iter()
            .map(|(header, payload, _)| typed_digest(&domain, header, payload))
            .collect();
        for backend in cpu::available() {
            let got = frame::digest_many_with(*backend, &domain, &views);
            assert!(got == expected, "{} frames, {backend:?}", frames.len());
        }
        assert_eq!(frame::digest_many(&domain, &views), expected);
        let alone: Vec<[u8; 32]> = views.iter().map(|view| view.digest(&domain)).collect();
        assert_eq!(alone, expected);
    }
}

#[test]
fn frames_in_any_number_are_digested_as_one_by_one() {
    let frames: Vec<_> = (0..70).map(|i| framed(i, 280 + i % 40)).collect();
    for count in 0..=frames.len() {
        every_path_digests_alike(&frames[..count]);
    }
}

#[test]
fn frames_of_any_lengths_are_digested_as_one_by_one() {
    let lengths = [0, 1, 135, 136, 137, 271, 272, 300, 65_536, 9_999];
    let frames: Vec<_> = (0..60).map(|i| framed(i, lengths[i * i % 10])).collect();
    every_path_digests_alike(&frames);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_messages_are_hashed_as_one_by_one(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..40),
    ) {
        every_path_hashes_alike("any", &messages);
    }
}
