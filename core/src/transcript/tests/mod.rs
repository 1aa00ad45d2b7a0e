//! What a transcript takes and refuses, frame by frame and whole, by every path alike.

mod start;
mod survey;
mod whole;

use core::ops::ControlFlow;

use super::*;
use crate::cpu;
use crate::frame::{Header, sign};
use crate::secp256k1::SecretKey;
use crate::vectors::{self, array, list, octets};
use proptest::prelude::*;

const DOMAIN: Digest = [9; 32];
const CUSTODY: Digest = [4; 32];

fn session_key(lane: u8) -> SecretKey {
    SecretKey::from_bytes(&[lane + 1; 32]).unwrap()
}

fn keyed() -> Transcript {
    let mut transcript = Transcript::new(DOMAIN, CUSTODY);
    for lane in 0..2 {
        transcript
            .set_key(lane, 1, *session_key(lane).public_key())
            .unwrap();
    }
    transcript
}

/// The header of the frame that comes next in a lane and covers all of the other.
fn next(transcript: &Transcript, lane: u8) -> Header {
    let (own, peer) = (
        transcript.head(lane).unwrap(),
        transcript.head(1 - lane).unwrap(),
    );
    Header {
        custody: CUSTODY,
        lane,
        seq: own.seq + 1,
        previous: own.digest,
        peer_seq: peer.seq,
        peer_digest: peer.digest,
        sending_time: own.sending_time + 1,
    }
}

fn raw(header: &Header) -> Vec<u8> {
    sign(&session_key(header.lane), &DOMAIN, header, b"{}").unwrap()
}

fn append(transcript: &mut Transcript, header: &Header) -> Result<Digest, TranscriptError> {
    transcript.append(&FrameView::parse(&raw(header), 0).unwrap())
}

fn talk(transcript: &mut Transcript, lanes: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    for lane in lanes {
        let header = next(transcript, *lane);
        data.extend(raw(&header));
        append(transcript, &header).unwrap();
    }
    data
}

/// The code that refuses a frame with one change. The transcript must not have
/// changed.
fn refusal(change: impl FnOnce(&mut Header)) -> &'static str {
    let mut transcript = keyed();
    talk(&mut transcript, &[0, 1, 1, 0, 1]);
    let mut header = next(&transcript, 1);
    change(&mut header);
    let before = (transcript.len(), transcript.head(0), transcript.head(1));
    let error = append(&mut transcript, &header).unwrap_err();
    assert_eq!(
        (transcript.len(), transcript.head(0), transcript.head(1)),
        before
    );
    assert_eq!((error.index, error.lane, error.seq), (5, 1, header.seq));
    let right = next(&transcript, 1);
    append(&mut transcript, &right).unwrap();
    error.code()
}

#[test]
fn a_frame_that_follows_is_taken_and_moves_its_lanes_head() {
    let mut transcript = keyed();
    let header = next(&transcript, 0);
    let digest = append(&mut transcript, &header).unwrap();
    let head = transcript.head(0).unwrap();
    assert_eq!(
        head,
        Head {
            seq: 1,
            digest,
            sending_time: 1,
            peer_seq: 0
        }
    );
    assert_eq!(transcript.digest(0, 1), Ok(Some(digest)));
    assert_eq!(transcript.digest(0, 0), Ok(Some(CUSTODY)));
    assert_eq!(transcript.digest(0, 2), Ok(None));
    assert_eq!(transcript.digest(0, u64::MAX), Ok(None));
    assert_eq!(transcript.head(1).unwrap().digest, CUSTODY);
    assert_eq!(transcript.len(), 1);
}

#[test]
fn a_frame_of_another_custody_is_refused() {
    assert_eq!(refusal(|header| header.custody = [5; 32]), "wrong-custody");
}

#[test]
fn a_gap_in_the_lane_is_refused() {
    assert_eq!(refusal(|header| header.seq += 1), "bad-seq");
    assert_eq!(refusal(|header| header.seq = u64::MAX), "bad-seq");
}

#[test]
fn another_frame_at_a_place_that_is_taken_is_equivocation() {
    assert_eq!(refusal(|header| header.seq = 1), "equivocation");
    assert_eq!(refusal(|header| header.seq = 3), "equivocation");
}

#[test]
fn another_frame_at_a_taken_place_by_somebody_else_proves_nothing() {
    let mut transcript = keyed();
    talk(&mut transcript, &[0, 1]);
    let header = Header {
        seq: 1,
        ..next(&transcript, 1)
    };
    let raw = sign(&session_key(0), &DOMAIN, &header, b"{}").unwrap();
    let error = transcript
        .append(&FrameView::parse(&raw, 0).unwrap())
        .unwrap_err();
    assert_eq!(error.fault, Fault::BadSignature);
}

#[test]
fn the_same_frame_again_is_a_duplicate() {
    let mut transcript = keyed();
    let header = next(&transcript, 0);
    append(&mut transcript, &header).unwrap();
    talk(&mut transcript, &[0, 1]);
    assert_eq!(
        append(&mut transcript, &header).unwrap_err().fault,
        Fault::Duplicate
    );
}

#[test]
fn a_previous_that_is_not_the_lanes_head_is_refused() {
    assert_eq!(refusal(|header| header.previous[31] ^= 1), "bad-previous");
    assert_eq!(refusal(|header| header.previous = CUSTODY), "bad-previous");
}

#[test]
fn time_may_stand_still_and_not_go_back() {
    assert_eq!(refusal(|header| header.sending_time -= 2), "time-backwards");
    let mut transcript = keyed();
    talk(&mut transcript, &[0, 0]);
    let mut header = next(&transcript, 0);
    header.sending_time -= 1;
    assert!(append(&mut transcript, &header).is_ok());
}

#[test]
fn peer_seq_may_stand_still_and_not_go_back() {
    let first = CUSTODY;
    assert_eq!(
        refusal(|header| (header.peer_seq, header.peer_digest) = (0, first)),
        "bad-peer-seq"
    );
    let mut transcript = keyed();
    talk(&mut transcript, &[0, 1]);
    let mut header = next(&transcript, 1);
    talk(&mut transcript, &[0, 0]);
    header.sending_time += 1;
    assert!(append(&mut transcript, &header).is_ok());
}

#[test]
fn a_frame_ahead_of_the_one_it_covers_is_taken_once_that_is_here() {
    assert_eq!(refusal(|header| header.peer_seq += 1), "ahead");
    assert_eq!(refusal(|header| header.peer_seq = u64::MAX), "ahead");
    let mut theirs = keyed();
    let first = next(&theirs, 0);
    append(&mut theirs, &first).unwrap();
    let answer = next(&theirs, 1);
    let mut ours = keyed();
    let error = append(&mut ours, &answer).unwrap_err();
    assert_eq!(error.fault, Fault::Ahead { head: 0, stated: 1 });
    append(&mut ours, &first).unwrap();
    append(&mut ours, &answer).unwrap();
}

#[test]
fn a_peer_digest_that_is_not_the_covered_frames_is_refused() {
    assert_eq!(
        refusal(|header| header.peer_digest[0] ^= 1),
        "bad-peer-digest"
    );
    let mut transcript = keyed();
    let mut header = next(&transcript, 0);
    header.peer_digest = [0; 32];
    let error = append(&mut transcript, &header).unwrap_err();
    assert_eq!(
        error.fault,
        Fault::BadPeerDigest {
            expected: CUSTODY,
            stated: [0; 32]
        }
    );
}

#[test]
fn the_signature_is_checked_before_what_was_signed() {
    let mut transcript = keyed();
    let mut header = next(&transcript, 0);
    header.previous = [0; 32];
    let forged = sign(&session_key(1), &DOMAIN, &header, b"{}").unwrap();
    let error = transcript
        .append(&FrameView::parse(&forged, 0).unwrap())
        .unwrap_err();
    assert_eq!(error.fault, Fault::BadSignature);
}

#[test]
fn what_was_verified_before_counts_under_its_own_domain_and_key_only() {
    let mut transcript = keyed();
    let header = next(&transcript, 0);
    let forged = sign(&session_key(1), &DOMAIN, &header, b"{}").unwrap();
    let frame = FrameView::parse(&forged, 0).unwrap();
    let digest = frame.digest(&DOMAIN);
    let by_another_key = Verified {
        domain: DOMAIN,
        key: *session_key(1).public_key(),
        digest,
    };
    let elsewhere = Verified {
        domain: [77; 32],
        key: *session_key(0).public_key(),
        digest: [77; 32],
    };
    for verified in [None, Some(&by_another_key), Some(&elsewhere)] {
        let error = transcript.append_verified(&frame, verified).unwrap_err();
        assert_eq!(error.fault, Fault::BadSignature);
        assert!(transcript.is_empty());
    }
    // A claim counts only for the right key; everything else is still checked.
    let vouched = Verified {
        key: *session_key(0).public_key(),
        ..by_another_key
    };
    assert_eq!(
        transcript.append_verified(&frame, Some(&vouched)),
        Ok(digest)
    );
    let again = transcript.append_verified(&frame, Some(&vouched));
    assert_eq!(again.unwrap_err().fault, Fault::Duplicate);
}

#[test]
fn a_verified_frame_that_does_not_follow_is_refused_as_any_other() {
    let mut transcript = keyed();
    let mut header = next(&transcript, 0);
    header.previous = [0; 32];
    let raw = raw(&header);
    let frame = FrameView::parse(&raw, 0).unwrap();
    let verified = Verified {
        domain: DOMAIN,
        key: *session_key(0).public_key(),
        digest: frame.digest(&DOMAIN),
    };
    assert_eq!(
        transcript.append_verified(&frame, Some(&verified)),
        transcript.append(&frame)
    );
}

#[test]
fn without_a_key_nothing_is_taken() {
    let mut transcript = Transcript::new(DOMAIN, CUSTODY);
    let header = next(&transcript, 0);
    assert_eq!(
        append(&mut transcript, &header).unwrap_err().fault,
        Fault::NoKey
    );
    transcript
        .set_key(0, 2, *session_key(0).public_key())
        .unwrap();
    assert_eq!(
        append(&mut transcript, &header).unwrap_err().fault,
        Fault::NoKey
    );
}

#[test]
fn a_key_rules_from_its_seq_on_and_not_before() {
    let mut transcript = keyed();
    talk(&mut transcript, &[0]);
    let other = SecretKey::from_bytes(&[77; 32]).unwrap();
    transcript.set_key(0, 3, *other.public_key()).unwrap();
    talk(&mut transcript, &[0]);
    let header = next(&transcript, 0);
    assert_eq!(
        append(&mut transcript, &header).unwrap_err().fault,
        Fault::BadSignature
    );
    let raw = sign(&other, &DOMAIN, &header, b"{}").unwrap();
    transcript
        .append(&FrameView::parse(&raw, 0).unwrap())
        .unwrap();
    let refused = transcript.set_key(0, 3, *other.public_key()).unwrap_err();
    assert_eq!(
        refused,
        KeyError::TooLate {
            from_seq: 3,
            head: 3
        }
    );
    // The old key still rules the old places: a second frame there is equivocation.
    let second = Header { seq: 2, ..header };
    assert_eq!(
        append(&mut transcript, &second).unwrap_err().code(),
        "equivocation"
    );
}

#[test]
fn a_key_of_a_refused_frame_is_taken_back() {
    let mut transcript = keyed();
    talk(&mut transcript, &[0]);
    let other = SecretKey::from_bytes(&[77; 32]).unwrap();
    transcript.set_key(0, 2, *other.public_key()).unwrap();
    transcript.forget_keys(0, 2).unwrap();
    talk(&mut transcript, &[0]);
    assert_eq!(
        transcript.forget_keys(0, 2),
        Err(KeyError::TooLate {
            from_seq: 2,
            head: 2
        })
    );
    assert_eq!(transcript.forget_keys(2, 9), Err(KeyError::BadLane(2)));
}

#[test]
fn there_are_two_lanes() {
    let mut transcript = keyed();
    let key = *session_key(0).public_key();
    assert_eq!(transcript.set_key(2, 1, key), Err(KeyError::BadLane(2)));
    assert_eq!(
        transcript.set_key(0, 0, key),
        Err(KeyError::TooLate {
            from_seq: 0,
            head: 0
        })
    );
    assert_eq!(transcript.head(2), Err(KeyError::BadLane(2)));
    assert_eq!(transcript.digest(255, 0), Err(KeyError::BadLane(255)));
}

#[test]
fn the_vectors_frames_are_a_transcript() {
    let file = vectors::frame();
    let mut data = Vec::new();
    for case in list(&file["frames"]) {
        data.extend(octets(&case["raw"]));
    }
    let keys: Vec<(u8, u64, PublicKey)> = [0u8, 1]
        .into_iter()
        .map(|lane| {
            let bytes = array(&file["keys"][usize::from(lane)]["publicKey"]);
            (lane, 1, PublicKey::from_bytes(bytes).unwrap())
        })
        .collect();
    let (domain, custody) = (array(&file["domain"]), array(&file["custody"]));
    let summary = verify_transcript(&data, domain, custody, &keys).unwrap();
    assert_eq!(summary.frames, list(&file["frames"]).len());
    let last = list(&file["frames"]).last().unwrap();
    assert_eq!(summary.heads[0].digest, array(&last["digest"]));
}

#[test]
fn two_keys_for_one_place_are_refused() {
    let key = *session_key(0).public_key();
    let error = verify_transcript(
        &[],
        DOMAIN,
        CUSTODY,
        &[(0, 1, key), (1, 1, key), (0, 1, key)],
    );
    assert_eq!(
        error,
        Err(VerifyError::Key(KeyError::Repeated {
            lane: 0,
            from_seq: 1
        }))
    );
}
