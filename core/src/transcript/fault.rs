//! Why a frame does not follow, and why a key is refused.

use core::fmt;

use crate::frame::FrameError;
use crate::keccak::Digest;
use crate::secp256k1::batch::ClaimFault;

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
            Fault::BadSignature => ClaimFault::BadSignature.code(),
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

/// Why a byte string is not a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyError {
    /// It does not hold frames back to back.
    Frame(FrameError),
    /// A frame does not follow.
    Transcript(TranscriptError),
    /// A key was refused.
    Key(KeyError),
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => error.fmt(f),
            Self::Transcript(error) => error.fmt(f),
            Self::Key(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for VerifyError {}
