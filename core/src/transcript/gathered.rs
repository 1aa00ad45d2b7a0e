//! Frames that were chained, and whose signatures wait for their batch.

use super::chain::Chain;
use super::fault::{Fault, TranscriptError, VerifyError};
use crate::frame::FrameView;
use crate::keccak::Digest;
use crate::secp256k1::batch::Claim;
use crate::secp256k1::{PublicKey, verify};

/// Signatures on their way to a batch.
#[derive(Default)]
pub(super) struct Gathered<'a> {
    pub(super) claims: Vec<Claim<'a>>,
    pub(super) keys: Vec<PublicKey>,
    /// For each lane, which of the chain's keys was last met, and where it is in `keys`.
    latest: [Option<(usize, usize)>; 2],
    /// (its first claim, the index of its first frame, that frame's offset) of each block.
    blocks: Vec<(usize, usize, usize)>,
    pub(super) bytes: usize,
}

/// What a frame is refused for while it is chained.
pub(super) enum Refused {
    BadRY,
    Transcript(Fault),
}

impl Refused {
    pub(super) fn at(self, index: usize, offset: usize, frame: &FrameView<'_>) -> VerifyError {
        match self {
            Self::BadRY => VerifyError::Frame(frame.bad_r_y(offset)),
            Self::Transcript(fault) => VerifyError::Transcript(TranscriptError {
                index,
                offset,
                lane: frame.lane(),
                seq: frame.seq(),
                fault,
            }),
        }
    }
}

impl<'a> Gathered<'a> {
    pub(super) fn begin(&mut self, index: usize, offset: usize) {
        self.blocks.push((self.claims.len(), index, offset));
    }

    /// Chains a frame, as if its signature held, and gathers its signature. Where it does not
    /// follow, the signature is judged at once if that comes first.
    pub(super) fn follow(
        &mut self,
        chain: &mut Chain,
        frame: &FrameView<'a>,
        digest: Digest,
    ) -> Result<(), Refused> {
        let signature = frame.signature_in_place();
        let place = match chain.place(frame, &digest) {
            Ok(place) => place,
            Err(_) if frame.check_r_y(0).is_err() => return Err(Refused::BadRY),
            Err(fault) => return Err(Refused::Transcript(fault)),
        };
        if let Err(fault) = chain.follows(frame, &digest, &place) {
            return Err(if frame.check_r_y(0).is_err() {
                Refused::BadRY
            } else if verify(&digest, signature, chain.key(&place)) {
                Refused::Transcript(fault)
            } else {
                Refused::Transcript(Fault::BadSignature)
            });
        }
        let key = match self.latest[place.lane] {
            Some((met, key)) if met == place.key => key,
            _ => {
                self.keys.push(*chain.key(&place));
                self.latest[place.lane] = Some((place.key, self.keys.len() - 1));
                self.keys.len() - 1
            }
        };
        self.claims.push(Claim {
            digest,
            signature,
            r_y: Some(frame.r_y_in_place()),
            key,
        });
        self.bytes += frame.raw().len();
        chain.push(frame, digest);
        Ok(())
    }

    /// The index and the offset of the frame that a claim is of.
    pub(super) fn find(&self, data: &[u8], claim: usize) -> (usize, usize) {
        let after = self.blocks.partition_point(|(first, _, _)| *first <= claim);
        let (first, index, mut offset) = self.blocks[after - 1];
        for _ in first..claim {
            offset += FrameView::bounds(data, offset).map_or(0, |frame| frame.raw().len());
        }
        (index + claim - first, offset)
    }

    pub(super) fn clear(&mut self) {
        self.claims.clear();
        self.keys.clear();
        self.latest = [None; 2];
        self.blocks.clear();
        self.bytes = 0;
    }
}
