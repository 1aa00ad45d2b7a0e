//! The digests of many frames at once. A frame states the digest before it instead of leaving it
//! to be computed, so no digest waits for another: each lane takes a frame through its three
//! hashes (payload, struct, typed) and then the next frame. Payloads are hashed where they lie.

use super::message::{AT_PAYLOAD, STRUCT, struct_message};
use super::view::FrameView;
use crate::cpu::{self, Backend};
use crate::keccak::lanes::{self, MAX_LANES, Work};
use crate::keccak::{Digest, typed_message};

/// The EIP-712 digests of many frames, in their order; faster than one by one.
#[must_use]
pub fn digest_many(domain: &Digest, frames: &[FrameView<'_>]) -> Vec<Digest> {
    digest_many_with(cpu::best(), domain, frames)
}

/// As [`digest_many`], on a backend.
#[must_use]
pub fn digest_many_with(
    backend: Backend,
    domain: &Digest,
    frames: &[FrameView<'_>],
) -> Vec<Digest> {
    let mut digests = vec![[0; 32]; frames.len()];
    digest_many_into_with(backend, domain, frames, &mut digests);
    digests
}

/// As [`digest_many`], to where the caller wants them; allocates nothing.
///
/// # Panics
/// If there are not as many digests as frames.
pub fn digest_many_into(domain: &Digest, frames: &[FrameView<'_>], digests: &mut [Digest]) {
    digest_many_into_with(cpu::best(), domain, frames, digests);
}

/// As [`digest_many_into`], on a backend.
///
/// # Panics
/// If there are not as many digests as frames.
pub fn digest_many_into_with(
    backend: Backend,
    domain: &Digest,
    frames: &[FrameView<'_>],
    digests: &mut [Digest],
) {
    assert_eq!(
        frames.len(),
        digests.len(),
        "a digest has its place for each frame, and no other has"
    );
    let mut work = Frames {
        domain,
        frames,
        digests,
        taken: 0,
        lanes: [const { Lane::IDLE }; MAX_LANES],
    };
    lanes::hash(backend, &mut work);
}

/// Which of a frame's three hashes a lane is at.
#[derive(Clone, Copy)]
enum Stage {
    Payload,
    Struct,
    Typed,
}

struct Lane {
    frame: usize,
    stage: Stage,
    encoded: [u8; STRUCT],
    typed: [u8; 66],
}

impl Lane {
    const IDLE: Self = Self {
        frame: 0,
        stage: Stage::Payload,
        encoded: [0; STRUCT],
        typed: [0; 66],
    };
}

struct Frames<'a> {
    domain: &'a Digest,
    frames: &'a [FrameView<'a>],
    digests: &'a mut [Digest],
    taken: usize,
    lanes: [Lane; MAX_LANES],
}

impl Work for Frames<'_> {
    fn next(&mut self, lane: usize, digest: Option<&Digest>) -> bool {
        let lane = &mut self.lanes[lane];
        match (digest, lane.stage) {
            (Some(digest), Stage::Payload) => {
                lane.encoded[AT_PAYLOAD..].copy_from_slice(digest);
                lane.stage = Stage::Struct;
                return true;
            }
            (Some(digest), Stage::Struct) => {
                lane.typed = typed_message(self.domain, digest);
                lane.stage = Stage::Typed;
                return true;
            }
            (Some(digest), Stage::Typed) => self.digests[lane.frame] = *digest,
            (None, _) => {}
        }
        let Some(frame) = self.frames.get(self.taken) else {
            return false;
        };
        // All but the payload's hash is written now, so that it has left the store buffer when
        // the lane reads it back in vectors.
        lane.encoded = struct_message(&frame.header(), &[0; 32]);
        lane.frame = self.taken;
        lane.stage = Stage::Payload;
        self.taken += 1;
        true
    }

    fn message(&self, lane: usize) -> &[u8] {
        let lane = &self.lanes[lane];
        match lane.stage {
            Stage::Payload => self.frames[lane.frame].payload(),
            Stage::Struct => &lane.encoded,
            Stage::Typed => &lane.typed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Header, sign, split};
    use crate::keccak::keccak256;
    use crate::secp256k1::SecretKey;
    use proptest::prelude::*;

    const DOMAIN: Digest = [9; 32];

    /// Frames back to back, no two alike, with payloads of these lengths.
    fn frames(lengths: &[usize]) -> Vec<u8> {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let mut raw = Vec::new();
        for (i, &length) in lengths.iter().enumerate() {
            let seq = i as u64 + 1;
            let header = Header {
                custody: keccak256(b"custody"),
                lane: (i % 2) as u8,
                seq,
                previous: keccak256(&seq.to_be_bytes()),
                peer_seq: seq.wrapping_mul(0x0123_4567_89ab_cdef),
                peer_digest: keccak256(&seq.to_le_bytes()),
                sending_time: u64::MAX - seq,
            };
            let payload: Vec<u8> = (0..length).map(|at| (at * 31 + i) as u8).collect();
            raw.extend(sign(&key, &DOMAIN, &header, &payload).unwrap());
        }
        raw
    }

    fn check_all_ways(lengths: &[usize]) {
        let raw = frames(lengths);
        let frames = split(&raw).unwrap();
        let expected: Vec<Digest> = frames.iter().map(|frame| frame.digest(&DOMAIN)).collect();
        assert_eq!(digest_many(&DOMAIN, &frames), expected);
        for &backend in cpu::available() {
            let given = digest_many_with(backend, &DOMAIN, &frames);
            assert_eq!(given, expected, "{}", backend.name());
            let mut given = vec![[0xff; 32]; frames.len()];
            digest_many_into_with(backend, &DOMAIN, &frames, &mut given);
            assert_eq!(given, expected, "{}", backend.name());
        }
    }

    #[test]
    fn any_count_of_frames_gets_the_digests_that_they_have_alone() {
        for count in [0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 33] {
            check_all_ways(&vec![300; count]);
        }
    }

    #[test]
    fn payloads_around_the_borders_of_blocks_get_the_digests_that_they_have_alone() {
        check_all_ways(&[0, 1, 135, 136, 137, 271, 272, 273, 65_536, 0, 407, 408, 2]);
    }

    #[test]
    fn another_domain_gives_other_digests() {
        let raw = frames(&[10; 9]);
        let frames = split(&raw).unwrap();
        for &backend in cpu::available() {
            let here = digest_many_with(backend, &DOMAIN, &frames);
            let there = digest_many_with(backend, &[8; 32], &frames);
            assert!(here.iter().zip(&there).all(|(here, there)| here != there));
        }
    }

    #[test]
    #[should_panic(expected = "a digest has its place for each frame")]
    fn places_that_are_too_few_are_refused() {
        let raw = frames(&[10; 2]);
        digest_many_into(&DOMAIN, &split(&raw).unwrap(), &mut [[0; 32]; 1]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn frames_of_any_lengths_get_the_digests_that_they_have_alone(
            lengths in prop::collection::vec(0..700usize, 0..34),
        ) {
            check_all_ways(&lengths);
        }
    }
}
