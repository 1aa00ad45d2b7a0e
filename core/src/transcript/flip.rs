//! Where one flipped bit is, in a frame that fails.
//!
//! A signature covers the whole frame, so a fault in it says nothing of where. But if one bit
//! alone was flipped on the way, flipping it back makes the signature hold again, and nothing
//! else does: the search tries every bit.

use crate::frame::{FrameView, HEADER, MAX_PAYLOAD, OVERHEAD, TRAILER};
use crate::keccak::Digest;
use crate::secp256k1::PublicKey;

/// The longest payload that is searched; each of its bits costs a hash and a recovery.
const LONGEST: usize = 4096;
const AT_LENGTH: usize = HEADER - 4;

/// One bit of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flip {
    /// The byte.
    pub offset: usize,
    /// 0 is the byte's lowest bit.
    pub bit: u8,
}

/// The bit that has to be flipped back for the frame at an offset to be in form, of its
/// custody, and signed by the key in force at its place; `None` if no single bit does it, or
/// the payload is longer than 4,096 bytes and the bit is in there. Takes up to two seconds for
/// the longest payloads. Keys are (lane, from seq, key), in any order.
#[must_use]
pub fn find_flip(
    data: &[u8],
    offset: usize,
    domain: &Digest,
    custody: &Digest,
    keys: &[(u8, u64, PublicKey)],
) -> Option<Flip> {
    let rest = data.get(offset..)?;
    let mut bytes = rest[..rest.len().min(OVERHEAD + MAX_PAYLOAD)].to_vec();
    let stands = |bytes: &[u8]| {
        FrameView::parse(bytes, 0).is_ok_and(|frame| {
            let ruling = keys
                .iter()
                .filter(|(lane, from, _)| *lane == frame.lane() && *from <= frame.seq())
                .max_by_key(|(_, from, _)| *from);
            frame.custody_in_place() == custody
                && ruling.is_some_and(|(_, _, key)| frame.verify(domain, key).is_ok())
        })
    };
    for at in candidates(&bytes) {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            let found = stands(&bytes);
            bytes[at] ^= 1 << bit;
            if found {
                let offset = offset + at;
                return Some(Flip { offset, bit });
            }
        }
    }
    None
}

/// The bytes in which the bit can be, by what can be seen without trying.
fn candidates(bytes: &[u8]) -> Vec<usize> {
    let length = AT_LENGTH..HEADER.min(bytes.len());
    let Ok(frame) = FrameView::bounds(bytes, 0) else {
        // The header tells it: any other of its fields could not make this fault.
        return (0..HEADER.min(bytes.len())).collect();
    };
    let whole = frame.raw().len();
    let trailer = whole - TRAILER..whole;
    if frame.check_form(0).is_err() || frame.check_r_y(0).is_err() {
        return trailer.chain(length).collect();
    }
    let payload = HEADER..trailer.start;
    let payload = if payload.len() <= LONGEST {
        payload
    } else {
        0..0
    };
    (0..HEADER).chain(trailer).chain(payload).collect()
}
