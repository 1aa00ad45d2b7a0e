//! Loose frames: of many custodies, each judged by itself, their signatures in one batch.
//!
//! For whoever receives frames faster than they can be verified one by one. What a frame
//! follows from is for its own custody's [`Transcript`](super::Transcript) to say.

use std::collections::BTreeMap;

use crate::cpu::{self, Backend};
use crate::frame::{FrameError, FrameFault, FrameView, digest_many_with};
use crate::keccak::Digest;
use crate::secp256k1::PublicKey;
use crate::secp256k1::batch::{Claim, ClaimFault, verify_batch_with};

/// A frame and what it should be signed with.
#[derive(Clone, Copy, Debug)]
pub struct LooseFrame<'a> {
    /// The EIP-712 domain separator.
    pub domain: Digest,
    /// The key in force for its custody, lane and seq.
    pub key: PublicKey,
    /// Bytes that begin with the frame; any after it are not looked at.
    pub raw: &'a [u8],
}

/// The digest of each frame, or what [`FrameView::parse`] and then [`FrameView::verify`] say
/// against it; in the frames' order. `threads` 0 means one for each core.
#[must_use]
pub fn verify_frames(frames: &[LooseFrame<'_>], threads: usize) -> Vec<Result<Digest, FrameError>> {
    verify_frames_with(cpu::best(), frames, threads)
}

/// As [`verify_frames`], on a backend.
#[must_use]
pub fn verify_frames_with(
    backend: Backend,
    frames: &[LooseFrame<'_>],
    threads: usize,
) -> Vec<Result<Digest, FrameError>> {
    let mut keys = Vec::new();
    let mut known = BTreeMap::new();
    let mut domains: BTreeMap<Digest, (Vec<usize>, Vec<FrameView<'_>>)> = BTreeMap::new();
    let mut views = Vec::with_capacity(frames.len());
    for (index, frame) in frames.iter().enumerate() {
        let view =
            FrameView::bounds(frame.raw, 0).and_then(|view| view.check_form(0).map(|()| view));
        if let Ok(view) = view {
            let (places, of_domain) = domains.entry(frame.domain).or_default();
            places.push(index);
            of_domain.push(view);
        }
        views.push(view);
    }
    let mut verdicts: Vec<Result<Digest, FrameError>> =
        views.iter().map(|view| view.map(|_| [0; 32])).collect();
    for (domain, (places, of_domain)) in &domains {
        let digests = digest_many_with(backend, domain, of_domain);
        for (place, digest) in places.iter().zip(digests) {
            verdicts[*place] = Ok(digest);
        }
    }
    let mut claims = Vec::with_capacity(frames.len());
    let mut claimed = Vec::with_capacity(frames.len());
    for (index, (frame, view)) in frames.iter().zip(&views).enumerate() {
        let (Ok(view), Ok(digest)) = (view, verdicts[index]) else {
            continue;
        };
        let key = *known.entry(*frame.key.as_bytes()).or_insert_with(|| {
            keys.push(frame.key);
            keys.len() - 1
        });
        claims.push(Claim {
            digest,
            signature: view.signature_in_place(),
            r_y: Some(view.r_y_in_place()),
            key,
        });
        claimed.push((index, *view));
    }
    for refusal in verify_batch_with(backend, &keys, &claims, threads) {
        let (index, view) = claimed[refusal.index];
        verdicts[index] = Err(match refusal.fault {
            ClaimFault::BadRY => view.bad_r_y(0),
            ClaimFault::Form(error) => FrameError {
                fault: FrameFault::BadSignatureForm(error),
                ..view.bad_signature(0)
            },
            ClaimFault::NoSuchKey | ClaimFault::BadSignature => view.bad_signature(0),
        });
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Header, sign};
    use crate::secp256k1::SecretKey;
    use proptest::prelude::*;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes(&[n + 1; 32]).unwrap()
    }

    fn raw(domain: u8, signer: u8, payload: &[u8]) -> Vec<u8> {
        let header = Header {
            custody: [signer; 32],
            lane: signer & 1,
            seq: 1 + payload.len() as u64,
            previous: [1; 32],
            peer_seq: 3,
            peer_digest: [2; 32],
            sending_time: 5,
        };
        sign(&key(signer), &[domain; 32], &header, payload).unwrap()
    }

    fn one_by_one(frame: &LooseFrame<'_>) -> Result<Digest, FrameError> {
        let view = FrameView::parse(frame.raw, 0)?;
        view.verify(&frame.domain, &frame.key)?;
        Ok(view.digest(&frame.domain))
    }

    #[test]
    fn no_frames_have_no_verdicts() {
        assert_eq!(verify_frames(&[], 1), []);
    }

    #[test]
    fn bytes_after_a_frame_are_not_looked_at() {
        let mut bytes = raw(1, 2, b"{}");
        bytes.extend(b"and more");
        let frame = LooseFrame {
            domain: [1; 32],
            key: *key(2).public_key(),
            raw: &bytes,
        };
        let digest = FrameView::parse(&bytes, 0).unwrap().digest(&[1; 32]);
        assert_eq!(verify_frames(&[frame], 1), [Ok(digest)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn frames_of_many_custodies_are_judged_as_each_alone(
            frames in prop::collection::vec(
                (0u8..3, 0u8..5, 0usize..40, any::<Option<prop::sample::Index>>(), 0u8..8),
                0..24,
            ),
            threads in 1usize..3,
        ) {
            let bytes: Vec<Vec<u8>> = frames.iter().map(|(domain, signer, length, flip, cut)| {
                let mut raw = raw(*domain, *signer, &vec![b'x'; *length]);
                if let Some(flip) = flip {
                    let bit = flip.index(raw.len() * 8);
                    raw[bit / 8] ^= 1 << (bit % 8);
                }
                if *cut == 0 {
                    raw.truncate(raw.len() - 1);
                }
                raw
            }).collect();
            let loose: Vec<LooseFrame<'_>> = frames.iter().zip(&bytes).map(|(frame, raw)| {
                // Cut 1: the wrong key; 2: the wrong domain.
                let domain = if frame.4 == 2 { 9 } else { frame.0 };
                let signer = if frame.4 == 1 { frame.1 + 1 } else { frame.1 };
                LooseFrame { domain: [domain; 32], key: *key(signer).public_key(), raw }
            }).collect();
            let alone: Vec<_> = loose.iter().map(one_by_one).collect();
            for backend in cpu::available() {
                prop_assert_eq!(&verify_frames_with(*backend, &loose, threads), &alone);
            }
        }
    }
}
