//! The transcript: all frames of a custody, both lanes, each following from those before it.
//!
//! Here is checked what needs no FIX: that a frame is of this custody, next in its lane,
//! signed by the key in force at its seq, chained to its lane's last frame and to the frame
//! of the other lane that it covers, and not earlier than its lane's last. The signature is
//! checked before what was signed, so every fault after `BadSignature` in [`Fault`] is the
//! signer's, proven by its own hand; only `Ahead` may heal when the missing frame comes.
//!
//! [`Transcript`] takes frames one by one, [`verify_transcript`] a whole custody's at once, and
//! [`verify_frames`] frames of many custodies that belong together by nothing but their time of
//! arrival. All decide alike, byte for byte.

mod chain;
mod fault;
mod gathered;
mod loose;
mod survey;
#[cfg(test)]
mod tests;
mod whole;

pub use self::chain::{Head, Start, StartError};
pub use self::fault::{Fault, KeyError, TranscriptError, VerifyError};
pub use self::loose::{LooseFrame, verify_frames, verify_frames_with};
pub use self::survey::{Found, Reach, Survey};
pub use self::whole::{
    Options, Progress, Summary, WINDOW, verify_transcript, verify_transcript_with,
};

use self::chain::Chain;
use crate::frame::FrameView;
use crate::keccak::Digest;
use crate::secp256k1::{PublicKey, verify};

/// That a frame's signature was verified before: under this domain, by this key, over this digest.
/// Whoever makes one vouches that it belongs to the frame it is given with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The EIP-712 domain separator.
    pub domain: Digest,
    /// The key whose signature it is.
    pub key: PublicKey,
    /// The frame's digest under that domain.
    pub digest: Digest,
}

/// The heads, digests and keys of a custody. The frames' bytes are kept by whoever keeps the
/// journal.
#[derive(Clone, Debug)]
pub struct Transcript {
    domain: Digest,
    chain: Chain,
    frames: usize,
    bytes: usize,
}

impl Transcript {
    /// An empty transcript of a custody.
    #[must_use]
    pub fn new(domain: Digest, custody: Digest) -> Self {
        Self {
            domain,
            chain: Chain::new(custody),
            frames: 0,
            bytes: 0,
        }
    }

    /// A transcript that starts at a checkpoint. It knows no frame before the heads but the
    /// digests given; a frame at such a place is refused as `bad-seq`.
    ///
    /// # Errors
    /// [`KeyError`] if a key of the start is for no lane or place, or two are for one.
    pub fn at(domain: Digest, custody: Digest, start: &Start) -> Result<Self, KeyError> {
        Ok(Self {
            domain,
            chain: Chain::at(custody, start)?,
            frames: 0,
            bytes: 0,
        })
    }

    /// Lets a key rule a lane from a seq on; a key set before for this or a later seq is
    /// forgotten.
    ///
    /// # Errors
    /// [`KeyError`] if there is no such lane, or the seq is not beyond the lane's head.
    pub fn set_key(&mut self, lane: u8, from_seq: u64, key: PublicKey) -> Result<(), KeyError> {
        self.chain.set_key(lane, from_seq, key)
    }

    /// Takes back keys that were set for this or a later seq: after a refused frame, which was to
    /// bring its own key, the keys before it rule as if it had never been seen.
    ///
    /// # Errors
    /// As [`Transcript::set_key`].
    pub fn forget_keys(&mut self, lane: u8, from_seq: u64) -> Result<(), KeyError> {
        self.chain.forget_keys(lane, from_seq)
    }

    /// How many frames there are, of both lanes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.frames
    }

    /// Whether there is no frame.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// The head of a lane.
    ///
    /// # Errors
    /// [`KeyError::BadLane`] if there is no such lane.
    pub fn head(&self, lane: u8) -> Result<Head, KeyError> {
        self.chain.head(lane)
    }

    /// The digest of a frame; of seq 0, the custody's id. `None` beyond the head, and before
    /// what a start gave.
    ///
    /// # Errors
    /// [`KeyError::BadLane`] if there is no such lane.
    pub fn digest(&self, lane: u8, seq: u64) -> Result<Option<Digest>, KeyError> {
        self.chain.digest(lane, seq)
    }

    /// The digest of a frame that follows from what is here.
    ///
    /// # Errors
    /// [`TranscriptError`] with the first fault in the order of [`Fault`]'s checks: custody,
    /// place, key, signature, then previous, time, peerSeq and peerDigest.
    pub fn check(&self, frame: &FrameView<'_>) -> Result<Digest, TranscriptError> {
        self.check_verified(frame, None)
    }

    /// As [`Transcript::check`], for a frame whose signature may have been verified before. What
    /// was verified under another domain or another key than the one in force counts for nothing.
    ///
    /// # Errors
    /// As [`Transcript::check`], whatever `verified` says of a key.
    pub fn check_verified(
        &self,
        frame: &FrameView<'_>,
        verified: Option<&Verified>,
    ) -> Result<Digest, TranscriptError> {
        let verified = verified.filter(|one| one.domain == self.domain);
        let digest = verified.map_or_else(|| frame.digest(&self.domain), |one| one.digest);
        let judged = self.chain.place(frame, &digest).and_then(|place| {
            let key = self.chain.key(&place);
            if verified.is_none_or(|one| one.key != *key)
                && !verify(&digest, frame.signature_in_place(), key)
            {
                return Err(Fault::BadSignature);
            }
            self.chain.follows(frame, &digest, &place)
        });
        match judged {
            Ok(()) => Ok(digest),
            Err(fault) => Err(TranscriptError {
                index: self.frames,
                offset: self.bytes,
                lane: frame.lane(),
                seq: frame.seq(),
                fault,
            }),
        }
    }

    /// Appends a frame and gives its digest.
    ///
    /// # Errors
    /// As [`Transcript::check`]; the transcript is then unchanged.
    pub fn append(&mut self, frame: &FrameView<'_>) -> Result<Digest, TranscriptError> {
        self.append_verified(frame, None)
    }

    /// As [`Transcript::append`], for a frame whose signature may have been verified before.
    ///
    /// # Errors
    /// As [`Transcript::check_verified`]; the transcript is then unchanged.
    pub fn append_verified(
        &mut self,
        frame: &FrameView<'_>,
        verified: Option<&Verified>,
    ) -> Result<Digest, TranscriptError> {
        let digest = self.check_verified(frame, verified)?;
        self.chain.push(frame, digest);
        self.frames += 1;
        self.bytes += frame.raw().len();
        Ok(digest)
    }
}
