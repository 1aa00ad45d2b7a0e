//! Buffers of frames, each of one domain and one key, judged in one batch.

use std::collections::BTreeMap;

use super::codes::Code;
use super::layout::CFault;
use crate::frame::{FrameView, digest_many};
use crate::keccak::Digest;
use crate::secp256k1::batch::{Claim, verify_batch};
use crate::secp256k1::{PublicKey, Signature};

/// Frames back to back, and what they should be signed with.
pub(super) struct Buffer<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) domain: &'a Digest,
    pub(super) key: &'a [u8; 64],
}

/// What a batch of buffers came to.
pub(super) struct Judged {
    /// One a buffer.
    pub(super) verdicts: Vec<CFault>,
    /// Of the frames that hold up to each buffer's first fault, buffer after buffer.
    pub(super) digests: Vec<Digest>,
}

/// A well-formed frame and where it is.
struct Placed<'a> {
    view: FrameView<'a>,
    buffer: usize,
    index: usize,
    start: usize,
    key: usize,
    signature: Signature,
    r_y: [u8; 32],
}

/// Judges every buffer, on at most `threads` threads.
///
/// # Errors
/// `Capacity` if there are more frames than `capacity`; nothing was judged then.
pub(super) fn judge(
    buffers: &[Buffer<'_>],
    capacity: usize,
    threads: usize,
) -> Result<Judged, Code> {
    let mut keys = Keys::default();
    let mut frames = Vec::new();
    let mut verdicts = Vec::with_capacity(buffers.len());
    for (buffer, given) in buffers.iter().enumerate() {
        verdicts.push(match keys.place(given.key) {
            Err(code) => CFault::from(code),
            Ok(key) => place_frames(&mut frames, buffer, given.bytes, key),
        });
    }
    if frames.len() > capacity {
        return Err(Code::Capacity);
    }
    let digests = digests_of(buffers, &frames);
    let claims: Vec<Claim<'_>> = frames
        .iter()
        .zip(&digests)
        .map(|(frame, digest)| Claim {
            digest: *digest,
            signature: &frame.signature,
            r_y: Some(&frame.r_y),
            key: frame.key,
        })
        .collect();
    for refusal in verify_batch(&keys.keys, &claims, threads) {
        let frame = &frames[refusal.index];
        let verdict = &mut verdicts[frame.buffer];
        // What is there already is of an earlier frame, unless all earlier ones held so far.
        if (frame.index as u64) < verdict.index {
            *verdict = CFault {
                code: Code::from(refusal.fault).number(),
                lane: u32::from(frame.view.lane()),
                index: frame.index as u64,
                frame_offset: frame.start as u64,
                offset: frame.start as u64,
                seq: frame.view.seq(),
            };
        }
    }
    let digests = frames
        .iter()
        .zip(digests)
        .filter(|(frame, _)| (frame.index as u64) < verdicts[frame.buffer].index)
        .map(|(_, digest)| digest)
        .collect();
    Ok(Judged { verdicts, digests })
}

/// The distinct keys of a batch.
#[derive(Default)]
struct Keys {
    keys: Vec<PublicKey>,
    places: BTreeMap<[u8; 64], Result<usize, Code>>,
}

impl Keys {
    /// The place of a key, parsed when it is first seen.
    fn place(&mut self, key: &[u8; 64]) -> Result<usize, Code> {
        *self.places.entry(*key).or_insert_with(|| {
            let key = PublicKey::from_bytes(*key).map_err(Code::from)?;
            self.keys.push(key);
            Ok(self.keys.len() - 1)
        })
    }
}

/// Adds a buffer's well-formed frames, up to the first that is not, and gives its verdict if
/// all their signatures hold.
fn place_frames<'a>(
    frames: &mut Vec<Placed<'a>>,
    buffer: usize,
    bytes: &'a [u8],
    key: usize,
) -> CFault {
    let (mut index, mut start) = (0, 0);
    while start < bytes.len() {
        let view = match FrameView::parse(bytes, start) {
            Ok(view) => view,
            Err(error) => return CFault::of_frame(bytes, index, start, error),
        };
        frames.push(Placed {
            view,
            buffer,
            index,
            start,
            key,
            signature: view.signature(),
            r_y: view.r_y(),
        });
        index += 1;
        start += view.raw().len();
    }
    CFault {
        index: index as u64,
        ..CFault::from(Code::Ok)
    }
}

/// Each frame's digest under its buffer's domain; those of one domain are made together.
fn digests_of(buffers: &[Buffer<'_>], frames: &[Placed<'_>]) -> Vec<Digest> {
    let mut domains: BTreeMap<&Digest, (Vec<usize>, Vec<FrameView<'_>>)> = BTreeMap::new();
    for (place, frame) in frames.iter().enumerate() {
        let (places, views) = domains.entry(buffers[frame.buffer].domain).or_default();
        places.push(place);
        views.push(frame.view);
    }
    let mut digests = vec![[0; 32]; frames.len()];
    for (domain, (places, views)) in domains {
        for (place, digest) in places.into_iter().zip(digest_many(domain, &views)) {
            digests[place] = digest;
        }
    }
    digests
}
