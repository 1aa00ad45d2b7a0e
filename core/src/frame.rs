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
//! Integers are big-endian. A frame has one form: whatever parses encodes to the same bytes,
//! and its signature has neither a second s, nor a second v, nor a second R.y.

mod digests;

use core::fmt;

use crate::keccak::{Digest, keccak256, typed_digest};
use crate::secp256k1::{
    PublicKey, SecretKey, Signature, SignatureError, check_form, is_point_y, point_y, verify,
};

pub use digests::{digest_many, digest_many_into, digest_many_into_with, digest_many_with};

/// The only version there is.
pub const VERSION: u8 = 1;
/// The most bytes of a payload.
pub const MAX_PAYLOAD: usize = 65_536;
/// The bytes before the payload.
pub const HEADER: usize = 126;
/// The bytes after the payload: r, s, v and R.y.
pub const TRAILER: usize = 65 + 32;
/// The bytes of a frame beside its payload.
pub const OVERHEAD: usize = HEADER + TRAILER;

const AT_CUSTODY: usize = 1;
pub(crate) const AT_LANE: usize = 33;
pub(crate) const AT_SEQ: usize = 34;
const AT_PREVIOUS: usize = 42;
const AT_PEER_SEQ: usize = 74;
const AT_PEER_DIGEST: usize = 82;
const AT_SENDING_TIME: usize = 114;
const AT_LENGTH: usize = 122;

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
            FrameFault::BadRY => "bad-r-y",
            FrameFault::BadSignature => "bad-signature",
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

/// What a signer puts before the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The custody's id.
    pub custody: Digest,
    /// 0 trader, 1 solver.
    pub lane: u8,
    /// 1, 2, 3 … within the lane.
    pub seq: u64,
    /// The digest of this lane's frame seq − 1; for seq 1 the custody's id.
    pub previous: Digest,
    /// The highest frame of the other lane that the sender had processed.
    pub peer_seq: u64,
    /// That frame's digest; for peerSeq 0 the custody's id.
    pub peer_digest: Digest,
    /// Nanoseconds since the epoch.
    pub sending_time: u64,
}

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
        // An unknown version may have another layout, so it is told before any length.
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

    /// The view of bytes that hold exactly one frame, as `parse` or [`sign`] gave them.
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

    /// Refuses a frame that a key did not sign.
    ///
    /// # Errors
    /// `BadSignature`, with the offset of the signature within the frame.
    pub fn verify(&self, domain: &Digest, key: &PublicKey) -> Result<(), FrameError> {
        if verify(&self.digest(domain), self.signature_in_place(), key) {
            Ok(())
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

/// The EIP-712 digest of a message: what a session key signs.
#[must_use]
pub fn digest(domain: &Digest, header: &Header, payload: &[u8]) -> Digest {
    let encoded = digests::struct_message(header, &keccak256(payload));
    typed_digest(domain, &keccak256(&encoded))
}

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
    let signature = key.sign(&digest(domain, header, payload));
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
    Ok(raw)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{self, array, list, number, octets};
    use proptest::prelude::*;

    const DOMAIN: Digest = [9; 32];

    fn key() -> SecretKey {
        SecretKey::from_bytes(&[7; 32]).unwrap()
    }

    fn header() -> Header {
        Header {
            custody: [1; 32],
            lane: 1,
            seq: 5,
            previous: [2; 32],
            peer_seq: 3,
            peer_digest: [3; 32],
            sending_time: 1_790_000_000_000_000_000,
        }
    }

    fn frame(payload: &[u8]) -> Vec<u8> {
        sign(&key(), &DOMAIN, &header(), payload).unwrap()
    }

    fn any_header() -> impl Strategy<Value = Header> {
        let words = (any::<Digest>(), any::<Digest>(), any::<Digest>());
        let numbers = (0u8..2, 1..=u64::MAX, any::<u64>(), any::<u64>());
        (words, numbers).prop_map(
            |((custody, previous, peer_digest), (lane, seq, peer_seq, sending_time))| Header {
                custody,
                lane,
                seq,
                previous,
                peer_seq,
                peer_digest,
                sending_time,
            },
        )
    }

    /// What parsing says after some bytes were written over a good frame.
    fn parse_with(at: usize, bytes: &[u8]) -> (&'static str, usize) {
        let mut raw = frame(b"{}");
        raw[at..at + bytes.len()].copy_from_slice(bytes);
        let error = FrameView::parse(&raw, 0).unwrap_err();
        (error.code(), error.offset)
    }

    #[test]
    fn frames_equal_those_of_eth_account_byte_for_byte() {
        let file = vectors::frame();
        let domain = array(&file["domain"]);
        let secrets: Vec<SecretKey> = list(&file["keys"])
            .iter()
            .map(|key| SecretKey::from_bytes(&array(&key["secret"])).unwrap())
            .collect();
        for case in list(&file["frames"]) {
            let header = Header {
                custody: array(&case["custody"]),
                lane: number(&case["lane"]) as u8,
                seq: number(&case["seq"]),
                previous: array(&case["previous"]),
                peer_seq: number(&case["peerSeq"]),
                peer_digest: array(&case["peerDigest"]),
                sending_time: number(&case["sendingTime"]),
            };
            let payload = octets(&case["payload"]);
            let raw = octets(&case["raw"]);
            assert_eq!(digest(&domain, &header, &payload), array(&case["digest"]));
            let secret = &secrets[usize::from(header.lane)];
            assert_eq!(sign(secret, &domain, &header, &payload).unwrap(), raw);
            let view = FrameView::parse(&raw, 0).unwrap();
            assert_eq!(view.header(), header);
            assert_eq!(view.payload(), payload);
            assert_eq!(view.signature(), array(&case["signature"]));
            assert_eq!(view.r_y(), array(&case["rY"]));
            assert_eq!(view.verify(&domain, secret.public_key()), Ok(()));
        }
    }

    #[test]
    fn domain_separators_equal_those_of_eth_account() {
        for case in list(&vectors::frame()["domains"]) {
            let separator = crate::keccak::domain_separator(
                number(&case["chainId"]),
                &array(&serde_json::Value::String(
                    case["verifyingContract"].as_str().unwrap().to_lowercase(),
                )),
            );
            assert_eq!(separator, array(&case["separator"]));
        }
    }

    #[test]
    fn an_unknown_version_is_named_before_anything_else() {
        assert_eq!(parse_with(0, &[2]), ("bad-version", 0));
        let error = FrameView::parse(&[7], 0).unwrap_err();
        assert_eq!(error.fault, FrameFault::BadVersion(7));
        assert!(error.to_string().contains("version 7"));
    }

    #[test]
    fn a_lane_beyond_the_two_is_refused() {
        assert_eq!(parse_with(AT_LANE, &[2]), ("bad-lane", AT_LANE));
        assert_eq!(parse_with(AT_LANE, &[0xff]), ("bad-lane", AT_LANE));
    }

    #[test]
    fn seq_zero_is_refused() {
        assert_eq!(parse_with(AT_SEQ, &[0; 8]), ("bad-seq", AT_SEQ));
    }

    #[test]
    fn a_length_that_lies_is_refused() {
        let length = |n: u32| parse_with(AT_LENGTH, &n.to_be_bytes());
        assert_eq!(length(65_537), ("payload-too-long", AT_LENGTH));
        assert_eq!(length(u32::MAX), ("payload-too-long", AT_LENGTH));
        assert_eq!(length(3).0, "truncated");
        assert_eq!(length(65_536).0, "truncated");
        // Shorter, the signature is read a byte early.
        assert!(FrameView::parse(&frame(b"{}"), 0).is_ok());
        assert!(["bad-r", "bad-s", "high-s", "bad-v", "bad-r-y"].contains(&length(1).0));
    }

    #[test]
    fn the_longest_payload_is_taken_and_one_byte_more_is_not_signed() {
        let raw = frame(&vec![b'x'; MAX_PAYLOAD]);
        assert_eq!(
            FrameView::parse(&raw, 0).unwrap().payload().len(),
            MAX_PAYLOAD
        );
        let error = sign(&key(), &DOMAIN, &header(), &vec![b'x'; MAX_PAYLOAD + 1]).unwrap_err();
        assert_eq!(error.code(), "payload-too-long");
    }

    #[test]
    fn what_could_not_be_parsed_is_not_signed() {
        let with = |change: fn(&mut Header)| {
            let mut header = header();
            change(&mut header);
            sign(&key(), &DOMAIN, &header, b"").unwrap_err().code()
        };
        assert_eq!(with(|header| header.lane = 2), "bad-lane");
        assert_eq!(with(|header| header.seq = 0), "bad-seq");
    }

    #[test]
    fn a_signature_out_of_form_is_named_with_its_place() {
        let at = HEADER + 2;
        assert_eq!(parse_with(at, &[0; 32]), ("bad-r", at));
        assert_eq!(parse_with(at + 32, &[0; 32]), ("bad-s", at + 32));
        assert_eq!(parse_with(at + 32, &[0xf0; 32]), ("high-s", at + 32));
        assert_eq!(parse_with(at + 64, &[29]), ("bad-v", at + 64));
    }

    #[test]
    fn r_y_must_be_the_y_that_r_and_v_give() {
        let raw = frame(b"{}");
        let at = raw.len() - 32;
        assert_eq!(parse_with(at, &[0; 32]), ("bad-r-y", at));
        assert_eq!(parse_with(at, &[0xff; 32]), ("bad-r-y", at));
        let mut flipped = raw;
        flipped[at - 1] ^= 27 ^ 28;
        assert_eq!(FrameView::parse(&flipped, 0).unwrap_err().code(), "bad-r-y");
    }

    #[test]
    fn the_other_form_of_a_signature_is_refused_even_with_its_own_r_y() {
        // n − s with v flipped is what ECDSA accepts as well; low s leaves one of the two.
        let raw = frame(b"{}");
        let at = raw.len() - TRAILER;
        let mut other = raw;
        let mut borrow = 0i16;
        for i in (0..32).rev() {
            let digit =
                i16::from(crate::secp256k1::ORDER[i]) - i16::from(other[at + 32 + i]) - borrow;
            borrow = i16::from(digit < 0);
            other[at + 32 + i] = digit.rem_euclid(256) as u8;
        }
        other[at + 64] ^= 27 ^ 28;
        assert_eq!(FrameView::parse(&other, 0).unwrap_err().code(), "high-s");
    }

    #[test]
    fn another_key_or_another_domain_is_not_the_signers() {
        let raw = frame(b"{}");
        let view = FrameView::parse(&raw, 0).unwrap();
        let other = SecretKey::from_bytes(&[8; 32]).unwrap();
        assert_eq!(view.verify(&DOMAIN, key().public_key()), Ok(()));
        for refused in [
            view.verify(&[8; 32], key().public_key()),
            view.verify(&DOMAIN, other.public_key()),
        ] {
            let error = refused.unwrap_err();
            assert_eq!((error.code(), error.offset), ("bad-signature", HEADER + 2));
        }
    }

    #[test]
    fn frames_back_to_back_are_told_apart_and_a_fault_has_its_offset() {
        let mut data = [frame(b"one"), frame(b""), frame(b"three")].concat();
        let frames = split(&data).unwrap();
        let payloads: Vec<&[u8]> = frames.iter().map(FrameView::payload).collect();
        assert_eq!(payloads, [&b"one"[..], b"", b"three"]);
        assert_eq!(split(&[]), Ok(vec![]));
        data.push(1);
        let end = data.len();
        let error = split(&data).unwrap_err();
        assert_eq!((error.code(), error.offset), ("truncated", end));
        data[end - 1] = 0;
        let error = split(&data).unwrap_err();
        assert_eq!((error.code(), error.offset), ("bad-version", end - 1));
    }

    #[test]
    fn an_offset_beyond_the_bytes_is_truncated() {
        let raw = frame(b"{}");
        for offset in [raw.len(), raw.len() + 1, usize::MAX] {
            assert_eq!(
                FrameView::parse(&raw, offset).unwrap_err().code(),
                "truncated"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn what_is_signed_parses_to_what_was_meant(
            header in any_header(), payload in prop::collection::vec(any::<u8>(), 0..400),
            before in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let raw = sign(&key(), &DOMAIN, &header, &payload).unwrap();
            let data = [&before[..], &raw, b"after"].concat();
            let view = FrameView::parse(&data, before.len()).unwrap();
            prop_assert_eq!(view.header(), header);
            prop_assert_eq!(view.payload(), &payload[..]);
            prop_assert_eq!(view.raw(), &raw[..]);
            prop_assert_eq!(view.verify(&DOMAIN, key().public_key()), Ok(()));
        }

        #[test]
        fn any_bit_flipped_is_refused_by_parsing_or_by_the_signature(
            payload in prop::collection::vec(any::<u8>(), 0..60), at in any::<prop::sample::Index>(),
        ) {
            let mut raw = frame(&payload);
            let bit = at.index(raw.len() * 8);
            raw[bit / 8] ^= 1 << (bit % 8);
            if let Ok(view) = FrameView::parse(&raw, 0) {
                prop_assert!(view.verify(&DOMAIN, key().public_key()).is_err());
            }
        }

        #[test]
        fn any_truncation_says_how_much_is_missing(
            payload in prop::collection::vec(any::<u8>(), 0..60), at in any::<prop::sample::Index>(),
        ) {
            let raw = frame(&payload);
            let given = at.index(raw.len());
            let error = FrameView::parse(&raw[..given], 0).unwrap_err();
            prop_assert_eq!(error.code(), "truncated");
            prop_assert_eq!(error.offset, given);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(data in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut data = data;
            let _ = split(&data);
            if let Some(first) = data.first_mut() {
                *first = VERSION;
            }
            let _ = split(&data);
        }
    }
}
