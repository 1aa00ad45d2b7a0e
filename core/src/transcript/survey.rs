//! A first look over a transcript's frames, before their keys are known.
//!
//! Which key rules where stands in the payloads of a few frames, and what those say is not the
//! core's to know. A survey passes over all the others, and stops where somebody has to look.

use crate::frame::{FrameError, FrameView};

/// How a compact JSON payload begins; what follows is its MsgType.
const MSG_TYPE: &[u8] = b"{\"MsgType\":\"";

/// What a lane's key may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The first seq.
    pub from_seq: u64,
    /// The last seq.
    pub to_seq: u64,
    /// The last sendingTime, in nanoseconds since the epoch.
    pub expiry: u64,
}

impl Reach {
    fn covers(&self, frame: &FrameView<'_>) -> bool {
        (self.from_seq..=self.to_seq).contains(&frame.seq()) && frame.sending_time() <= self.expiry
    }
}

/// A frame to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its payload may be one of the messages asked for: its MsgType is one of theirs, or is
    /// not written in the compact form, so that only a parser can tell.
    Message {
        /// How many frames came before.
        index: usize,
        /// How many bytes came before.
        offset: usize,
    },
    /// Its seq or time is beyond its lane's reach.
    Beyond {
        /// How many frames came before.
        index: usize,
        /// How many bytes came before.
        offset: usize,
    },
}

/// How far a look over the frames has come.
#[derive(Clone, Copy, Debug)]
pub struct Survey<'a> {
    data: &'a [u8],
    frames: usize,
    offset: usize,
    heads: [u64; 2],
    found: Option<(usize, u64)>,
}

impl<'a> Survey<'a> {
    /// From an offset on, at which `frames` frames have passed.
    #[must_use]
    pub const fn new(data: &'a [u8], offset: usize, frames: usize) -> Self {
        Self {
            data,
            frames,
            offset,
            heads: [0; 2],
            found: None,
        }
    }

    /// How many frames have passed.
    #[must_use]
    pub const fn frames(&self) -> usize {
        self.frames
    }

    /// How many bytes have passed.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// The seq of each lane's last frame before the one that was found last, as the frames say
    /// themselves; 0 where the survey passed none. Which frame is its lane's next is thereby
    /// known: only such a one can bring a key.
    #[must_use]
    pub const fn heads(&self) -> [u64; 2] {
        self.heads
    }

    /// Passes on to the next frame to look at and past it; `None` once all have passed. A lane
    /// without a reach goes everywhere.
    ///
    /// # Errors
    /// The first frame that is out of form; R.y alone is not looked at. The survey then stands
    /// before that frame.
    pub fn next(
        &mut self,
        msg_types: &[&[u8]],
        reach: &[Option<Reach>; 2],
    ) -> Result<Option<Found>, FrameError> {
        if let Some((lane, seq)) = self.found.take() {
            self.heads[lane] = seq;
        }
        while self.offset < self.data.len() {
            let (index, offset) = (self.frames, self.offset);
            let frame = FrameView::bounds(self.data, offset)?;
            frame.check_form(offset)?;
            self.frames += 1;
            self.offset += frame.raw().len();
            let lane = usize::from(frame.lane() != 0);
            if may_be(frame.payload(), msg_types) {
                self.found = Some((lane, frame.seq()));
                return Ok(Some(Found::Message { index, offset }));
            }
            if reach[lane].is_some_and(|reach| !reach.covers(&frame)) {
                self.found = Some((lane, frame.seq()));
                return Ok(Some(Found::Beyond { index, offset }));
            }
            self.heads[lane] = frame.seq();
        }
        Ok(None)
    }

    /// Passes over all frames that end at a byte or before it, so that the survey stands at the
    /// frame that holds the byte.
    pub fn pass_to(&mut self, byte: usize) {
        while let Ok(frame) = FrameView::bounds(self.data, self.offset) {
            let end = self.offset + frame.raw().len();
            if end > byte {
                break;
            }
            self.offset = end;
            self.frames += 1;
        }
    }
}

fn may_be(payload: &[u8], msg_types: &[&[u8]]) -> bool {
    let Some(rest) = payload.strip_prefix(MSG_TYPE) else {
        return true;
    };
    match rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        Some(end) if rest[end] == b'"' => msg_types.contains(&&rest[..end]),
        _ => true,
    }
}
