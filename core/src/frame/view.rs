//! A frame where it lies: parsed once, its fields read in place.

use core::fmt;

use super::fault::{FrameError, FrameFault};
use super::layout::{
    AT_CUSTODY, AT_LANE, AT_LENGTH, AT_PEER_DIGEST, AT_PEER_SEQ, AT_PREVIOUS, AT_SENDING_TIME,
    AT_SEQ, HEADER, MAX_PAYLOAD, OVERHEAD, TRAILER, VERSION,
};
use super::message::{Header, digest};
use crate::keccak::Digest;
use crate::secp256k1::{PublicKey, Signature, SignatureError, check_form, is_point_y, verify};

/// A well-formed frame in somebody else's bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FrameView<'a> {
    raw: &'a [u8],
}

fn chunk<const N: usize>(raw: &[u8], at: usize) -> &[u8; N] {
    match raw[at..].first_chunk() {
        Some(chunk) => chunk,
        None => unreachable!("a field ends where its frame does at the latest"),
    }
}

fn word(raw: &[u8], at: usize) -> Digest {
    *chunk(raw, at)
}

fn u64_at(raw: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(*chunk(raw, at))
}

fn u32_at(raw: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(*chunk(raw, at))
}

impl<'a> FrameView<'a> {
    /// The one frame that starts at an offset; bytes may follow it.
    ///
    /// Everything that needs neither domain nor key is checked here: lengths, version, lane,
    /// seq, the form of r, s and v, and that R.y is exactly the y that r and v give.
    ///
    /// # Errors
    /// [`FrameError`], its offset counted from the start of `data`.
    pub fn parse(data: &'a [u8], offset: usize) -> Result<Self, FrameError> {
        let view = Self::bounds(data, offset)?;
        view.check_form(offset)?;
        view.check_r_y(offset)?;
        Ok(view)
    }

    /// As `parse`, with the trailer not looked at: version, lane, seq and lengths hold.
    pub(crate) fn bounds(data: &'a [u8], offset: usize) -> Result<Self, FrameError> {
        let fail = |at: usize, fault| {
            Err(FrameError {
                offset: offset.saturating_add(at),
                fault,
            })
        };
        let rest = data.get(offset..).unwrap_or(&[]);
        // An unknown version may have another layout, so the version is checked before any length.
        match rest.first() {
            None => {
                return fail(
                    0,
                    FrameFault::Truncated {
                        needed: OVERHEAD,
                        given: 0,
                    },
                );
            }
            Some(&VERSION) => {}
            Some(&version) => return fail(0, FrameFault::BadVersion(version)),
        }
        if rest.len() < HEADER {
            let given = rest.len();
            return fail(
                given,
                FrameFault::Truncated {
                    needed: OVERHEAD,
                    given,
                },
            );
        }
        if rest[AT_LANE] > 1 {
            return fail(AT_LANE, FrameFault::BadLane(rest[AT_LANE]));
        }
        if u64_at(rest, AT_SEQ) == 0 {
            return fail(AT_SEQ, FrameFault::BadSeq);
        }
        let length = u32_at(rest, AT_LENGTH) as usize;
        if length > MAX_PAYLOAD {
            return fail(AT_LENGTH, FrameFault::PayloadTooLong(length as u64));
        }
        let needed = OVERHEAD + length;
        let Some(raw) = rest.get(..needed) else {
            let given = rest.len();
            return fail(given, FrameFault::Truncated { needed, given });
        };
        Ok(Self { raw })
    }

    /// Refuses r, s or v out of form; `offset` is where the frame starts.
    pub(crate) fn check_form(&self, offset: usize) -> Result<(), FrameError> {
        check_form(self.signature_in_place()).map_err(|error| {
            let within = match error {
                SignatureError::BadS | SignatureError::HighS => 32,
                SignatureError::BadV(_) => 64,
                _ => 0,
            };
            self.fault_in_trailer(offset, within, FrameFault::BadSignatureForm(error))
        })
    }

    /// Refuses an R.y that is not the one that r and v give; `offset` is where the frame
    /// starts.
    pub(crate) fn check_r_y(&self, offset: usize) -> Result<(), FrameError> {
        if is_point_y(self.signature_in_place(), self.r_y_in_place()) {
            Ok(())
        } else {
            Err(self.bad_r_y(offset))
        }
    }

    /// The error for an R.y that is not the one that r and v give.
    pub(crate) fn bad_r_y(&self, offset: usize) -> FrameError {
        self.fault_in_trailer(offset, 65, FrameFault::BadRY)
    }

    /// The error for a signature that is not the key's.
    pub(crate) fn bad_signature(&self, offset: usize) -> FrameError {
        self.fault_in_trailer(offset, 0, FrameFault::BadSignature)
    }

    fn fault_in_trailer(&self, offset: usize, within: usize, fault: FrameFault) -> FrameError {
        FrameError {
            offset: offset
                .saturating_add(self.raw.len() - TRAILER)
                .saturating_add(within),
            fault,
        }
    }

    /// The view of bytes that hold exactly one frame, as `parse` or [`sign`](super::sign) gave them.
    #[cfg(feature = "python")]
    pub(crate) const fn trusted(raw: &'a [u8]) -> Self {
        Self { raw }
    }

    /// The whole frame.
    #[must_use]
    pub const fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// 0 trader, 1 solver.
    #[must_use]
    pub fn lane(&self) -> u8 {
        self.raw[AT_LANE]
    }

    /// The place in the lane, from 1.
    #[must_use]
    pub fn seq(&self) -> u64 {
        u64_at(self.raw, AT_SEQ)
    }

    /// The custody's id, where it stands in the frame.
    pub(crate) fn custody_in_place(&self) -> &'a Digest {
        chunk(self.raw, AT_CUSTODY)
    }

    /// `previous`, where it stands in the frame.
    pub(crate) fn previous_in_place(&self) -> &'a Digest {
        chunk(self.raw, AT_PREVIOUS)
    }

    /// The highest frame of the other lane that the sender had processed.
    pub(crate) fn peer_seq(&self) -> u64 {
        u64_at(self.raw, AT_PEER_SEQ)
    }

    /// `peerDigest`, where it stands in the frame.
    pub(crate) fn peer_digest_in_place(&self) -> &'a Digest {
        chunk(self.raw, AT_PEER_DIGEST)
    }

    /// Nanoseconds since the epoch.
    pub(crate) fn sending_time(&self) -> u64 {
        u64_at(self.raw, AT_SENDING_TIME)
    }

    /// r ‖ s ‖ v, where they stand in the frame.
    pub(crate) fn signature_in_place(&self) -> &'a Signature {
        chunk(self.raw, self.raw.len() - TRAILER)
    }

    /// R.y, where it stands in the frame.
    pub(crate) fn r_y_in_place(&self) -> &'a [u8; 32] {
        chunk(self.raw, self.raw.len() - 32)
    }

    /// What the signer put before the payload.
    #[must_use]
    pub fn header(&self) -> Header {
        Header {
            custody: word(self.raw, AT_CUSTODY),
            lane: self.lane(),
            seq: self.seq(),
            previous: word(self.raw, AT_PREVIOUS),
            peer_seq: self.peer_seq(),
            peer_digest: word(self.raw, AT_PEER_DIGEST),
            sending_time: self.sending_time(),
        }
    }

    /// The payload, exactly as sent.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.raw[HEADER..self.raw.len() - TRAILER]
    }

    /// r ‖ s ‖ v.
    #[must_use]
    pub fn signature(&self) -> Signature {
        *self.signature_in_place()
    }

    /// The y coordinate of the signature's point R.
    #[must_use]
    pub fn r_y(&self) -> Digest {
        word(self.raw, self.raw.len() - 32)
    }

    /// The EIP-712 digest that the signature is over.
    #[must_use]
    pub fn digest(&self, domain: &Digest) -> Digest {
        digest(domain, &self.header(), self.payload())
    }

    /// Refuses a frame that a key did not sign; gives the digest that it signed.
    ///
    /// # Errors
    /// `BadSignature`, with the offset of the signature within the frame.
    pub fn verify(&self, domain: &Digest, key: &PublicKey) -> Result<Digest, FrameError> {
        let digest = self.digest(domain);
        if verify(&digest, self.signature_in_place(), key) {
            Ok(digest)
        } else {
            Err(self.bad_signature(0))
        }
    }
}

impl fmt::Debug for FrameView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Frame(lane={}, seq={}, payload={} bytes)",
            self.lane(),
            self.seq(),
            self.payload().len()
        )
    }
}
