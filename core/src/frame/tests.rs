//! Frames against vectors, and against what is wrong with them.

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
        assert_eq!(
            view.verify(&domain, secret.public_key()),
            Ok(view.digest(&domain))
        );
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
        let digit = i16::from(crate::secp256k1::ORDER[i]) - i16::from(other[at + 32 + i]) - borrow;
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
    assert!(view.verify(&DOMAIN, key().public_key()).is_ok());
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
        prop_assert!(view.verify(&DOMAIN, key().public_key()).is_ok());
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
