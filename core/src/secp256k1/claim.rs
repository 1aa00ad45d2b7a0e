//! What a batch is asked about, and why it refuses.

use core::fmt;

use crate::keccak::Digest;
use crate::secp256k1::signature::{Signature, SignatureError};

/// That a key signed a digest.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// What was signed.
    pub digest: Digest,
    /// r ‖ s ‖ v.
    pub signature: &'a Signature,
    /// The y of the signature's point R where a frame states it; else it is derived, which
    /// costs a square root.
    pub r_y: Option<&'a [u8; 32]>,
    /// The place of the key among the batch's keys.
    pub key: usize,
}

/// Why a claim is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimFault {
    /// r, s or v is out of form, or r is not the x of a point.
    Form(SignatureError),
    /// The stated R.y is not the y that r and v give.
    BadRY,
    /// There is no such key in the batch.
    NoSuchKey,
    /// The signature is in form and not this key's.
    BadSignature,
}

/// A refused claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its place in the batch.
    pub index: usize,
    /// Why.
    pub fault: ClaimFault,
}

impl ClaimFault {
    /// The name by which programs tell the faults apart: the same for one signature, for a frame
    /// and for a transcript.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Form(error) => error.code(),
            Self::BadRY => "bad-r-y",
            Self::NoSuchKey => "no-such-key",
            Self::BadSignature => "bad-signature",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signature {}: ", self.index)?;
        match self.fault {
            ClaimFault::Form(error) => error.fmt(f),
            ClaimFault::BadRY => f.write_str("R.y is not the y coordinate that r and v give"),
            ClaimFault::NoSuchKey => f.write_str("it names a key that the batch does not have"),
            ClaimFault::BadSignature => f.write_str("it is not that of the key"),
        }
    }
}

impl std::error::Error for Refusal {}
