//! The structures of the header, field by field.
//!
//! None has a byte between its fields or after them, so all of their bytes are always written.

use super::codes::Code;
use crate::frame::{AT_LANE, AT_SEQ, FrameError, FrameView, HEADER, OVERHEAD};
use crate::transcript::{Head, Summary, TranscriptError};

/// `psymm_refusal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CRefusal {
    /// Its place in the batch.
    pub index: u64,
    /// Why.
    pub code: i32,
    /// 0.
    pub reserved: u32,
}

/// `psymm_frame`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CFrame {
    /// The bytes of the whole frame.
    pub length: u64,
    /// Its place in its lane.
    pub seq: u64,
    /// The last frame of the other lane that it covers.
    pub peer_seq: u64,
    /// Nanoseconds since the epoch.
    pub sending_time: u64,
    /// 0 trader, 1 solver.
    pub lane: u32,
    /// The payload's bytes.
    pub payload_length: u32,
    /// The custody's id.
    pub custody: [u8; 32],
    /// The digest of the lane's frame before.
    pub previous: [u8; 32],
    /// The digest of the frame that `peer_seq` names.
    pub peer_digest: [u8; 32],
    /// The y of the signature's point R.
    pub r_y: [u8; 32],
    /// r ‖ s ‖ v.
    pub signature: [u8; 65],
    /// 0.
    pub reserved: [u8; 7],
}

/// `psymm_fault`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CFault {
    /// What is wrong.
    pub code: i32,
    /// As the frame or key says.
    pub lane: u32,
    /// How many frames came before; of a key, its place.
    pub index: u64,
    /// Where the frame begins.
    pub frame_offset: u64,
    /// The byte at which it goes wrong.
    pub offset: u64,
    /// As the frame says; of a key, from where it rules.
    pub seq: u64,
}

/// `psymm_lane_key`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CLaneKey {
    /// From where it rules.
    pub from_seq: u64,
    /// 0 trader, 1 solver.
    pub lane: u32,
    /// 0.
    pub reserved: u32,
    /// x ‖ y.
    pub public_key: [u8; 64],
}

/// `psymm_head`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CHead {
    /// Its seq.
    pub seq: u64,
    /// Nanoseconds since the epoch.
    pub sending_time: u64,
    /// Its peerSeq.
    pub peer_seq: u64,
    /// Its digest.
    pub digest: [u8; 32],
}

/// `psymm_summary`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CSummary {
    /// How many frames there are, of both lanes.
    pub frames: u64,
    /// Of the trader's lane and the solver's.
    pub heads: [CHead; 2],
}

/// Holds a structure to the size that the header states and to having no padding: the sum of
/// its fields' sizes is its own.
macro_rules! stated {
    ($($structure:ty: $size:literal = $($part:literal)+;)*) => {
        $(const _: () = assert!(size_of::<$structure>() == $size && $size == 0 $(+ $part)+);)*
    };
}

stated! {
    CRefusal: 16 = 8 4 4;
    CFrame: 240 = 8 8 8 8 4 4 32 32 32 32 65 7;
    CFault: 40 = 4 4 8 8 8 8;
    CLaneKey: 80 = 8 4 4 64;
    CHead: 56 = 8 8 8 32;
    CSummary: 120 = 8 56 56;
}

impl From<FrameView<'_>> for CFrame {
    fn from(frame: FrameView<'_>) -> Self {
        let header = frame.header();
        Self {
            length: frame.raw().len() as u64,
            seq: header.seq,
            peer_seq: header.peer_seq,
            sending_time: header.sending_time,
            lane: u32::from(header.lane),
            // At most MAX_PAYLOAD, so it fits.
            payload_length: frame.payload().len() as u32,
            custody: header.custody,
            previous: header.previous,
            peer_digest: header.peer_digest,
            r_y: frame.r_y(),
            signature: frame.signature(),
            reserved: [0; 7],
        }
    }
}

impl From<Head> for CHead {
    fn from(head: Head) -> Self {
        Self {
            seq: head.seq,
            sending_time: head.sending_time,
            peer_seq: head.peer_seq,
            digest: head.digest,
        }
    }
}

impl From<Summary> for CSummary {
    fn from(summary: Summary) -> Self {
        Self {
            frames: summary.frames as u64,
            heads: summary.heads.map(CHead::from),
        }
    }
}

impl From<Code> for CFault {
    fn from(code: Code) -> Self {
        Self {
            code: code.number(),
            ..Self::default()
        }
    }
}

impl From<TranscriptError> for CFault {
    fn from(error: TranscriptError) -> Self {
        Self {
            code: Code::from(error.fault).number(),
            lane: u32::from(error.lane),
            index: error.index as u64,
            frame_offset: error.offset as u64,
            offset: error.offset as u64,
            seq: error.seq,
        }
    }
}

impl CFault {
    /// A fault of the frame that begins at a byte of `data`, where `index` frames came before.
    pub(super) fn of_frame(data: &[u8], index: usize, start: usize, error: FrameError) -> Self {
        let rest = data.get(start..).unwrap_or(&[]);
        let seq = rest.get(AT_SEQ..).and_then(|rest| rest.first_chunk());
        Self {
            code: Code::from(error).number(),
            lane: u32::from(rest.get(AT_LANE).copied().unwrap_or(0)),
            index: index as u64,
            frame_offset: start as u64,
            offset: error.offset as u64,
            seq: seq.map_or(0, |bytes| u64::from_be_bytes(*bytes)),
        }
    }

    /// A fault of the frame that a byte of `data` belongs to; the frames before are well formed.
    pub(super) fn within(data: &[u8], error: FrameError) -> Self {
        let (mut index, mut start) = (0, 0);
        while let Some(end) = end_of_frame(data, start)
            && end <= error.offset
        {
            index += 1;
            start = end;
        }
        Self::of_frame(data, index, start, error)
    }
}

/// Where the frame that begins at `start` says that it ends.
fn end_of_frame(data: &[u8], start: usize) -> Option<usize> {
    let header = data.get(start..)?.first_chunk::<HEADER>()?;
    let length = u32::from_be_bytes(*header.last_chunk()?) as usize;
    start.checked_add(OVERHEAD)?.checked_add(length)
}
