//! The frame: one signed message on the wire, and the digest that its signature is over.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 32 | custody |
//! | 33 | 1 | lane: 0 trader, 1 solver |
//! | 34 | 8 | seq |
//! | 42 | 32 | previous |
//! | 74 | 8 | peerSeq |
//! | 82 | 32 | peerDigest |
//! | 114 | 8 | sendingTime |
//! | 122 | 4 | n |
//! | 126 | n | payload |
//! | 126+n | 65 | r, s, v |
//! | 191+n | 32 | R.y |
//!
//! Integers are big-endian. A frame has one form: all that parses encodes to the same bytes,
//! and its signature has neither a second s, nor a second v, nor a second R.y.

mod digests;
mod fault;
mod layout;
mod message;
#[cfg(test)]
mod tests;
mod view;

use crate::keccak::Digest;
use crate::secp256k1::{SecretKey, point_y};
use layout::AT_LENGTH;

pub use digests::{digest_many, digest_many_into, digest_many_into_with, digest_many_with};
pub use fault::{FrameError, FrameFault};
pub(crate) use layout::{AT_LANE, AT_SEQ};
pub use layout::{HEADER, MAX_PAYLOAD, OVERHEAD, TRAILER, VERSION};
pub use message::{Header, digest};
pub use view::FrameView;

/// Signs a message and gives the frame's bytes.
///
/// # Errors
/// `BadLane`, `BadSeq` or `PayloadTooLong`: what could not be parsed is never signed.
pub fn sign(
    key: &SecretKey,
    domain: &Digest,
    header: &Header,
    payload: &[u8],
) -> Result<Vec<u8>, FrameError> {
    sign_with_digest(key, domain, header, payload).map(|(raw, _)| raw)
}

/// As [`sign`], with the digest that was signed.
pub(crate) fn sign_with_digest(
    key: &SecretKey,
    domain: &Digest,
    header: &Header,
    payload: &[u8],
) -> Result<(Vec<u8>, Digest), FrameError> {
    let fail = |offset, fault| Err(FrameError { offset, fault });
    if header.lane > 1 {
        return fail(AT_LANE, FrameFault::BadLane(header.lane));
    }
    if header.seq == 0 {
        return fail(AT_SEQ, FrameFault::BadSeq);
    }
    if payload.len() > MAX_PAYLOAD {
        return fail(AT_LENGTH, FrameFault::PayloadTooLong(payload.len() as u64));
    }
    let digest = digest(domain, header, payload);
    let signature = key.sign(&digest);
    let r_y = point_y(&signature).map_err(|error| FrameError {
        offset: HEADER + payload.len(),
        fault: FrameFault::BadSignatureForm(error),
    })?;
    let mut raw = Vec::with_capacity(OVERHEAD + payload.len());
    raw.push(VERSION);
    raw.extend_from_slice(&header.custody);
    raw.push(header.lane);
    raw.extend_from_slice(&header.seq.to_be_bytes());
    raw.extend_from_slice(&header.previous);
    raw.extend_from_slice(&header.peer_seq.to_be_bytes());
    raw.extend_from_slice(&header.peer_digest);
    raw.extend_from_slice(&header.sending_time.to_be_bytes());
    // At most MAX_PAYLOAD, so it fits.
    raw.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    raw.extend_from_slice(payload);
    raw.extend_from_slice(&signature);
    raw.extend_from_slice(&r_y);
    Ok((raw, digest))
}

/// The frames that a byte string holds back to back.
///
/// # Errors
/// The first fault, its offset counted from the start of `data`.
pub fn split(data: &[u8]) -> Result<Vec<FrameView<'_>>, FrameError> {
    let mut frames = Vec::new();
    let mut offset = 0;
    while offset < data.len() {
        let frame = FrameView::parse(data, offset)?;
        offset += frame.raw().len();
        frames.push(frame);
    }
    Ok(frames)
}
