//! Buffers of frames, each of one domain and one key, judged in one batch.

use std::collections::BTreeMap;

use super::codes::Code;
use super::layout::CFault;
use crate::frame::{FrameError, FrameFault, FrameView};
use crate::keccak::Digest;
use crate::secp256k1::PublicKey;
use crate::transcript::{LooseFrame, verify_frames};

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

/// Where a frame is.
struct Place {
    buffer: usize,
    index: usize,
    start: usize,
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
    let mut keys = BTreeMap::new();
    let (mut frames, mut places) = (Vec::new(), Vec::new());
    let mut verdicts = Vec::with_capacity(buffers.len());
    for (number, buffer) in buffers.iter().enumerate() {
        // Few keys sign many buffers, and to find that one is a point costs something.
        let key = keys
            .entry(buffer.key)
            .or_insert_with(|| PublicKey::from_bytes(*buffer.key));
        verdicts.push(match key {
            Err(error) => CFault::from(Code::from(*error)),
            Ok(key) => cut(&mut frames, &mut places, number, buffer, *key),
        });
    }
    if frames.len() > capacity {
        return Err(Code::Capacity);
    }
    let mut digests = Vec::with_capacity(frames.len());
    for (place, judged) in places.iter().zip(verify_frames(&frames, threads)) {
        let verdict = &mut verdicts[place.buffer];
        // From a buffer's first fault on, nothing is said of its frames.
        if place.index as u64 >= verdict.index {
            continue;
        }
        match judged {
            Ok(digest) => digests.push(digest),
            Err(error) => *verdict = fault_of(&buffers[place.buffer], place, error),
        }
    }
    Ok(Judged { verdicts, digests })
}

/// Adds a buffer's frames, as far as their bounds can be told, and gives its verdict if all of
/// these hold.
fn cut<'a>(
    frames: &mut Vec<LooseFrame<'a>>,
    places: &mut Vec<Place>,
    number: usize,
    buffer: &Buffer<'a>,
    key: PublicKey,
) -> CFault {
    let (mut index, mut start) = (0, 0);
    while start < buffer.bytes.len() {
        let raw = match FrameView::bounds(buffer.bytes, start) {
            Ok(view) => view.raw(),
            Err(error) => return CFault::of_frame(buffer.bytes, index, start, error),
        };
        frames.push(LooseFrame {
            domain: *buffer.domain,
            key,
            raw,
        });
        places.push(Place {
            buffer: number,
            index,
            start,
        });
        index += 1;
        start += raw.len();
    }
    CFault {
        index: index as u64,
        ..CFault::from(Code::Ok)
    }
}

/// The fault of a frame, whose own offset counts from where the frame begins.
fn fault_of(buffer: &Buffer<'_>, place: &Place, error: FrameError) -> CFault {
    let within = match error.fault {
        // Any byte that it is over may be the one, so the place is the frame.
        FrameFault::BadSignature => 0,
        _ => error.offset,
    };
    let error = FrameError {
        offset: place.start + within,
        fault: error.fault,
    };
    CFault::of_frame(buffer.bytes, place.index, place.start, error)
}
