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
mod loose;
mod survey;
#[cfg(test)]
mod tests;
mod whole;

use core::fmt;

pub use self::chain::{Head, Start, StartError};
pub use self::loose::{LooseFrame, verify_frames, verify_frames_with};
pub use self::survey::{Found, Reach, Survey};
pub use self::whole::{
    Options, Progress, Summary, VerifyError, WINDOW, verify_transcript, verify_transcript_with,
};

use self::chain::Chain;
use crate::frame::FrameView;
use crate::keccak::Digest;
use crate::secp256k1::{PublicKey, verify};

/// Why a frame does not follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The frame is of another custody.
    WrongCustody(Digest),
    /// The very frame is here already.
    Duplicate,
    /// Its place is not the next in its lane.
    BadSeq {
        /// The seq that the lane expects.
        expected: u64,
    },
    /// No key was set for its place.
    NoKey,
    /// The signature is not that of the key in force.
    BadSignature,
    /// Another frame, as validly signed, is at its place: proof that its signer is guilty.
    Equivocation {
        /// The digest of the frame that was here first.
        first: Digest,
        /// The digest of this one.
        second: Digest,
    },
    /// `previous` is not the digest of the lane's last frame.
    BadPrevious {
        /// The digest of the lane's last frame, or the custody's id.
        expected: Digest,
        /// What the frame says.
        stated: Digest,
    },
    /// `sendingTime` is earlier than the lane's last.
    TimeBackwards {
        /// The lane's last, in nanoseconds.
        last: u64,
        /// What the frame says.
        stated: u64,
    },
    /// `peerSeq` went back.
    BadPeerSeq {
        /// The lane's last.
        last: u64,
        /// What the frame says.
        stated: u64,
    },
    /// `peerSeq` names a frame of the other lane that is not here yet.
    Ahead {
        /// The other lane's head.
        head: u64,
        /// What the frame says.
        stated: u64,
    },
    /// `peerDigest` is not the digest of the frame that `peerSeq` names.
    BadPeerDigest {
        /// The digest of that frame, or the custody's id.
        expected: Digest,
        /// What the frame says.
        stated: Digest,
    },
}

/// A fault, with the frame's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranscriptError {
    /// How many frames came before.
    pub index: usize,
    /// How many bytes came before.
    pub offset: usize,
    /// The frame's lane.
    pub lane: u8,
    /// The frame's seq.
    pub seq: u64,
    /// What is wrong.
    pub fault: Fault,
}

impl TranscriptError {
    /// The name by which programs tell the faults apart.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self.fault {
            Fault::WrongCustody(_) => "wrong-custody",
            Fault::Duplicate => "duplicate",
            Fault::BadSeq { .. } => "bad-seq",
            Fault::NoKey => "no-key",
            Fault::BadSignature => "bad-signature",
            Fault::Equivocation { .. } => "equivocation",
            Fault::BadPrevious { .. } => "bad-previous",
            Fault::TimeBackwards { .. } => "time-backwards",
            Fault::BadPeerSeq { .. } => "bad-peer-seq",
            Fault::Ahead { .. } => "ahead",
            Fault::BadPeerDigest { .. } => "bad-peer-digest",
        }
    }
}

struct Hex<'a>(&'a Digest);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for TranscriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            index,
            offset,
            lane,
            seq,
            fault,
        } = self;
        write!(f, "frame {index} (byte {offset}), lane {lane} seq {seq}: ")?;
        match fault {
            Fault::WrongCustody(custody) => {
                write!(f, "it belongs to custody {}, not to this one", Hex(custody))
            }
            Fault::Duplicate => f.write_str("it is here already; drop it"),
            Fault::BadSeq { expected } => {
                write!(
                    f,
                    "the lane's next seq is {expected}; ask for the frames between"
                )
            }
            Fault::NoKey => f.write_str(
                "no key is known for this seq; the lane's Logon or key change comes first",
            ),
            Fault::BadSignature => f.write_str(
                "the signature is not that of the key in force; check domain, custody and key",
            ),
            Fault::Equivocation { first, second } => write!(
                f,
                "its signer signed two frames for one place, {} and {}; keep both, they are proof",
                Hex(first),
                Hex(second)
            ),
            Fault::BadPrevious { expected, stated } => write!(
                f,
                "previous is {} where the lane's last frame is {}",
                Hex(stated),
                Hex(expected)
            ),
            Fault::TimeBackwards { last, stated } => {
                write!(
                    f,
                    "sendingTime {stated} is earlier than the lane's last, {last}"
                )
            }
            Fault::BadPeerSeq { last, stated } => {
                write!(f, "peerSeq {stated} goes back from the lane's last, {last}")
            }
            Fault::Ahead { head, stated } => write!(
                f,
                "it covers the other lane's frame {stated}, of which only {head} are here; get \
                 those first"
            ),
            Fault::BadPeerDigest { expected, stated } => write!(
                f,
                "peerDigest is {} where the frame it covers is {}",
                Hex(stated),
                Hex(expected)
            ),
        }
    }
}

impl std::error::Error for TranscriptError {}

/// Why a key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The lane is neither 0 nor 1.
    BadLane(u8),
    /// Two keys were given for one place.
    Repeated {
        /// The lane.
        lane: u8,
        /// From where both should rule.
        from_seq: u64,
    },
    /// The key would rule frames that are here already, or seq 0.
    TooLate {
        /// From where the key should rule.
        from_seq: u64,
        /// The lane's head.
        head: u64,
    },
}

impl KeyError {
    /// The name by which programs tell the errors apart.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::BadLane(_) => "bad-lane",
            Self::Repeated { .. } => "key-repeated",
            Self::TooLate { .. } => "key-too-late",
        }
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadLane(lane) => {
                write!(
                    f,
                    "lane {lane} does not exist; 0 is the trader, 1 the solver"
                )
            }
            Self::Repeated { lane, from_seq } => {
                write!(
                    f,
                    "two keys are given for lane {lane} from seq {from_seq}; give one"
                )
            }
            Self::TooLate { from_seq, head } => write!(
                f,
                "a key cannot rule from seq {from_seq}: the lane's head is {head}, so the \
                 earliest is {}",
                head.saturating_add(1)
            ),
        }
    }
}

impl std::error::Error for KeyError {}

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
