//! Why bytes are no frame.

use core::fmt;

use super::layout::{MAX_PAYLOAD, VERSION};
use crate::secp256k1::SignatureError;
use crate::secp256k1::batch::ClaimFault;

/// Why some bytes are not a frame, or a frame not its signer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// The bytes end before the frame does.
    Truncated {
        /// How many bytes the frame takes, as far as is known.
        needed: usize,
        /// How many there are.
        given: usize,
    },
    /// The version is not 1.
    BadVersion(u8),
    /// The lane is neither 0 nor 1.
    BadLane(u8),
    /// The seq is zero.
    BadSeq,
    /// The payload is longer than allowed.
    PayloadTooLong(u64),
    /// The signature is out of form.
    BadSignatureForm(SignatureError),
    /// R.y is not the y of the signature's point.
    BadRY,
    /// The signature is not that of the key.
    BadSignature,
}

/// A fault and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameError {
    /// The byte, counted from the start of what was given.
    pub offset: usize,
    /// What is wrong there.
    pub fault: FrameFault,
}

impl FrameError {
    /// The name by which programs tell the faults apart.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self.fault {
            FrameFault::Truncated { .. } => "truncated",
            FrameFault::BadVersion(_) => "bad-version",
            FrameFault::BadLane(_) => "bad-lane",
            FrameFault::BadSeq => "bad-seq",
            FrameFault::PayloadTooLong(_) => "payload-too-long",
            FrameFault::BadSignatureForm(error) => error.code(),
            FrameFault::BadRY => ClaimFault::BadRY.code(),
            FrameFault::BadSignature => ClaimFault::BadSignature.code(),
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: ", self.offset)?;
        match self.fault {
            FrameFault::Truncated { needed, given } => write!(
                f,
                "the frame takes {needed} bytes and there are {given}; ask for it again"
            ),
            FrameFault::BadVersion(version) => write!(
                f,
                "frame version {version} is unknown; this software speaks version {VERSION} only"
            ),
            FrameFault::BadLane(lane) => {
                write!(
                    f,
                    "lane {lane} does not exist; 0 is the trader, 1 the solver"
                )
            }
            FrameFault::BadSeq => f.write_str("seq 0 does not exist; a lane begins with 1"),
            FrameFault::PayloadTooLong(length) => write!(
                f,
                "the payload says {length} bytes; at most {MAX_PAYLOAD} are allowed, split it"
            ),
            FrameFault::BadSignatureForm(error) => error.fmt(f),
            FrameFault::BadRY => {
                f.write_str("R.y is not the y coordinate that r and v give; derive it from them")
            }
            FrameFault::BadSignature => f.write_str(
                "the signature is not that of the key in force; check domain, custody and key",
            ),
        }
    }
}

impl std::error::Error for FrameError {}
