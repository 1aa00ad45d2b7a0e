//! The codes that C sees: `enum psymm_code` of the header, with their names and texts.

use core::ffi::CStr;

use crate::frame::{FrameError, FrameFault};
use crate::secp256k1::SignatureError;
use crate::secp256k1::batch::ClaimFault;
use crate::transcript::{Fault, KeyError};

macro_rules! codes {
    ($($code:ident = $number:literal, $name:literal, $text:literal;)*) => {
        /// `enum psymm_code`: what a call returns, and why something is refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(i32)]
        pub enum Code {
            $(#[doc = $text] $code = $number,)*
        }

        impl Code {
            /// All of them, in the header's order.
            pub const ALL: &[Self] = &[$(Self::$code,)*];

            /// The name by which programs tell the codes apart: that of the core's own error.
            #[must_use]
            pub const fn name(self) -> &'static CStr {
                match self {
                    $(Self::$code => $name,)*
                }
            }

            /// What it means and what to do about it, in ASCII.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$code => $text,)*
                }
            }
        }
    };
}

codes! {
    Ok = 0, c"ok", "all is right";
    Refused = 1, c"refused", "all was judged and something is refused; see the output for what";

    Pointer = 10, c"bad-pointer",
        "a pointer is NULL or misaligned where it may not be; nothing was judged";
    Overflow = 11, c"overflow", "a count is more than memory can hold; nothing was judged";
    Capacity = 12, c"capacity",
        "the room for the output is too small; call again with as much as the header says";
    Reserved = 13, c"reserved", "a reserved field is not zero; clear structures before use";
    Internal = 14, c"internal", "a fault of the library itself; please report it";

    BadR = 100, c"bad-r", "r is not between 1 and the group's order less 1";
    BadS = 101, c"bad-s", "s is not between 1 and the group's order less 1";
    HighS = 102, c"high-s",
        "s is in the upper half of the group's order; sign with low s (replace s by n - s and \
         flip v)";
    BadV = 103, c"bad-v", "v must be 27 or 28";
    NoKey = 104, c"no-key", "no public key can be recovered from this signature";
    BadPublicKey = 105, c"bad-public-key",
        "a public key is not a point of secp256k1; give x || y, 64 bytes";
    BadRY = 106, c"bad-r-y", "R.y is not the y coordinate that r and v give; derive it from them";
    BadSignature = 107, c"bad-signature",
        "the signature is not that of the key; check digest, domain, custody and key";
    NoSuchKey = 108, c"no-such-key", "the signature names a key that the batch does not have";

    FrameTruncated = 200, c"truncated", "the bytes end before the frame does; ask for it again";
    FrameBadVersion = 201, c"bad-version",
        "the frame's version is unknown; this software speaks version 1 only";
    FrameBadLane = 202, c"bad-lane", "the frame's lane does not exist; 0 is the trader, 1 the solver";
    FrameBadSeq = 203, c"bad-seq", "seq 0 does not exist; a lane begins with 1";
    FramePayloadTooLong = 204, c"payload-too-long",
        "the payload is longer than 65536 bytes; split it";

    WrongCustody = 300, c"wrong-custody", "the frame belongs to another custody";
    Duplicate = 301, c"duplicate", "the frame came before; drop it";
    SeqNotNext = 302, c"bad-seq",
        "the frame is not the next in its lane; ask for the frames between";
    NoKeyInForce = 303, c"no-key",
        "no key is known for this seq; the lane's Logon or key change comes first";
    Equivocation = 304, c"equivocation",
        "its signer signed two frames for one place; keep both, they are proof";
    BadPrevious = 305, c"bad-previous", "previous is not the digest of the lane's last frame";
    TimeBackwards = 306, c"time-backwards", "sendingTime is earlier than the lane's last";
    BadPeerSeq = 307, c"bad-peer-seq", "peerSeq goes back from the lane's last";
    Ahead = 308, c"ahead",
        "the frame covers one of the other lane that did not come before it; get that first";
    BadPeerDigest = 309, c"bad-peer-digest",
        "peerDigest is not the digest of the frame that peerSeq names";

    KeyBadLane = 400, c"bad-lane", "a key's lane does not exist; 0 is the trader, 1 the solver";
    KeyRepeated = 401, c"key-repeated", "two keys are given for one lane and seq; give one";
    KeyTooLate = 402, c"key-too-late",
        "a key cannot rule from seq 0; a lane begins with 1";
}

impl Code {
    /// The code of a number, if it is one.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        let all = Self::ALL.iter().copied();
        all.into_iter().find(|code| code.number() == number)
    }

    /// The number that C sees.
    #[must_use]
    pub const fn number(self) -> i32 {
        self as i32
    }
}

impl From<SignatureError> for Code {
    fn from(error: SignatureError) -> Self {
        match error {
            SignatureError::BadR => Self::BadR,
            SignatureError::BadS => Self::BadS,
            SignatureError::HighS => Self::HighS,
            SignatureError::BadV(_) => Self::BadV,
            SignatureError::NoKey => Self::NoKey,
            SignatureError::BadPublicKey => Self::BadPublicKey,
            // There are no secrets behind the C face.
            SignatureError::BadSecretKey | SignatureError::NoRandomness => Self::Internal,
        }
    }
}

impl From<ClaimFault> for Code {
    fn from(fault: ClaimFault) -> Self {
        match fault {
            ClaimFault::Form(error) => error.into(),
            ClaimFault::BadRY => Self::BadRY,
            ClaimFault::NoSuchKey => Self::NoSuchKey,
            ClaimFault::BadSignature => Self::BadSignature,
        }
    }
}

impl From<FrameError> for Code {
    fn from(error: FrameError) -> Self {
        match error.fault {
            FrameFault::Truncated { .. } => Self::FrameTruncated,
            FrameFault::BadVersion(_) => Self::FrameBadVersion,
            FrameFault::BadLane(_) => Self::FrameBadLane,
            FrameFault::BadSeq => Self::FrameBadSeq,
            FrameFault::PayloadTooLong(_) => Self::FramePayloadTooLong,
            FrameFault::BadSignatureForm(error) => error.into(),
            FrameFault::BadRY => Self::BadRY,
            FrameFault::BadSignature => Self::BadSignature,
        }
    }
}

impl From<Fault> for Code {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::WrongCustody(_) => Self::WrongCustody,
            Fault::Duplicate => Self::Duplicate,
            Fault::BadSeq { .. } => Self::SeqNotNext,
            Fault::NoKey => Self::NoKeyInForce,
            Fault::BadSignature => Self::BadSignature,
            Fault::Equivocation { .. } => Self::Equivocation,
            Fault::BadPrevious { .. } => Self::BadPrevious,
            Fault::TimeBackwards { .. } => Self::TimeBackwards,
            Fault::BadPeerSeq { .. } => Self::BadPeerSeq,
            Fault::Ahead { .. } => Self::Ahead,
            Fault::BadPeerDigest { .. } => Self::BadPeerDigest,
        }
    }
}

impl From<KeyError> for Code {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::BadLane(_) => Self::KeyBadLane,
            KeyError::Repeated { .. } => Self::KeyRepeated,
            KeyError::TooLate { .. } => Self::KeyTooLate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> &'static str {
        include_str!("../../../python/psymm/include/psymm.h")
    }

    /// `FrameBadSeq` as the header writes it, less the `PSYMM_`s.
    fn shouted(code: Code) -> String {
        let mut shouted = String::new();
        for letter in format!("{code:?}").chars() {
            if letter.is_uppercase() && !shouted.is_empty() {
                shouted.push('_');
            }
            shouted.push(letter.to_ascii_uppercase());
        }
        let of_the_call = (10..100).contains(&code.number());
        if of_the_call {
            format!("ERROR_{shouted}")
        } else {
            shouted
        }
    }

    #[test]
    fn the_header_lists_the_same_codes_with_the_same_numbers() {
        let listed: Vec<(String, i32)> = header()
            .lines()
            .filter_map(|line| line.trim().strip_prefix("PSYMM_")?.split_once(" = "))
            .map(|(name, rest)| {
                let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap();
                (name.to_owned(), digits.parse().unwrap())
            })
            .collect();
        let ours: Vec<(String, i32)> = Code::ALL
            .iter()
            .map(|code| (shouted(*code), code.number()))
            .collect();
        assert_eq!(listed, ours);
    }

    #[test]
    fn texts_are_ascii_and_names_lower_case() {
        for code in Code::ALL {
            assert!(code.text().is_ascii() && !code.text().is_empty());
            let name = code.name().to_str().unwrap();
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
            );
            assert_eq!(Code::from_number(code.number()), Some(*code));
        }
        assert_eq!(Code::from_number(-1), None);
    }

    #[test]
    fn a_code_is_named_as_the_cores_own_error() {
        let signature = [
            SignatureError::BadR,
            SignatureError::BadS,
            SignatureError::HighS,
            SignatureError::BadV(1),
            SignatureError::NoKey,
            SignatureError::BadPublicKey,
        ];
        for error in signature {
            assert_eq!(Code::from(error).name().to_str().unwrap(), error.code());
        }
        let frame = [
            FrameFault::Truncated {
                needed: 2,
                given: 1,
            },
            FrameFault::BadVersion(2),
            FrameFault::BadLane(2),
            FrameFault::BadSeq,
            FrameFault::PayloadTooLong(70_000),
            FrameFault::BadSignatureForm(SignatureError::HighS),
            FrameFault::BadRY,
            FrameFault::BadSignature,
        ];
        for fault in frame {
            let error = FrameError { offset: 0, fault };
            assert_eq!(Code::from(error).name().to_str().unwrap(), error.code());
        }
        let zero = [0; 32];
        let transcript = [
            Fault::WrongCustody(zero),
            Fault::Duplicate,
            Fault::BadSeq { expected: 1 },
            Fault::NoKey,
            Fault::BadSignature,
            Fault::Equivocation {
                first: zero,
                second: zero,
            },
            Fault::BadPrevious {
                expected: zero,
                stated: zero,
            },
            Fault::TimeBackwards { last: 1, stated: 0 },
            Fault::BadPeerSeq { last: 1, stated: 0 },
            Fault::Ahead { head: 0, stated: 1 },
            Fault::BadPeerDigest {
                expected: zero,
                stated: zero,
            },
        ];
        for fault in transcript {
            let error = crate::transcript::TranscriptError {
                index: 0,
                offset: 0,
                lane: 0,
                seq: 1,
                fault,
            };
            assert_eq!(Code::from(fault).name().to_str().unwrap(), error.code());
        }
        let keys = [
            KeyError::BadLane(2),
            KeyError::Repeated {
                lane: 0,
                from_seq: 1,
            },
            KeyError::TooLate {
                from_seq: 0,
                head: 0,
            },
        ];
        for error in keys {
            assert_eq!(Code::from(error).name().to_str().unwrap(), error.code());
        }
    }
}
