//! What a transcript takes and refuses, frame by frame and whole, by every path alike.

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

/// The code with which a frame is refused that is right but for one change; the
/// transcript must not have changed.
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
    // Only whoever vouches for the right key is believed, and then the rest is judged as ever.
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

/// The secret that rules a place in the scenes below: lane 0 changes its key at seq 4, lane 1 at
/// 3 and 6, there back to its first.
fn ruling(lane: u8, seq: u64) -> SecretKey {
    match (lane, seq) {
        (0, 4..) => SecretKey::from_bytes(&[50; 32]).unwrap(),
        (1, 3..=5) => SecretKey::from_bytes(&[51; 32]).unwrap(),
        _ => session_key(lane),
    }
}

fn ruling_keys() -> Vec<(u8, u64, PublicKey)> {
    [(1, 6), (0, 4), (1, 1), (0, 1), (1, 3)]
        .into_iter()
        .map(|(lane, from)| (lane, from, *ruling(lane, from).public_key()))
        .collect()
}

/// Frames of a right transcript, of payloads of several lengths.
fn scene(lanes: &[u8]) -> Vec<Vec<u8>> {
    let mut transcript = Transcript::new(DOMAIN, CUSTODY);
    let mut keys = ruling_keys();
    keys.sort_by_key(|(lane, from, _)| (*lane, *from));
    for (lane, from, key) in keys {
        transcript.set_key(lane, from, key).unwrap();
    }
    let mut frames = Vec::new();
    for (place, lane) in lanes.iter().enumerate() {
        let header = next(&transcript, *lane);
        let payload = vec![b'x'; place * 37 % 300];
        let raw = sign(&ruling(*lane, header.seq), &DOMAIN, &header, &payload).unwrap();
        transcript
            .append(&FrameView::parse(&raw, 0).unwrap())
            .unwrap();
        frames.push(raw);
    }
    frames
}

/// Something that goes wrong with some frames. Numbers choose which, and are taken modulo.
#[derive(Clone, Debug)]
enum Harm {
    Flip(usize, usize),
    FlipInTrailer(usize, usize),
    Truncate(usize, usize),
    LeaveOut(usize),
    Swap(usize, usize),
    Repeat(usize, usize),
    /// Another payload at the same place, put in later, by its key or by another.
    Equivocate(usize, usize, bool),
    /// A header changed and signed again, by its key or by another.
    Resign(usize, u8, bool),
    /// s or R.y of another frame.
    Graft(usize, usize, bool),
    /// n − R.y's parity: v turned over.
    TurnV(usize),
    /// A bad R.y in a frame that a header change refuses as well.
    BadRYAnd(usize, u8),
}

fn any_harm() -> impl Strategy<Value = Harm> {
    let n = any::<usize>;
    prop_oneof![
        (n(), n()).prop_map(|(a, b)| Harm::Flip(a, b)),
        (n(), n()).prop_map(|(a, b)| Harm::FlipInTrailer(a, b)),
        (n(), n()).prop_map(|(a, b)| Harm::Truncate(a, b)),
        n().prop_map(Harm::LeaveOut),
        (n(), n()).prop_map(|(a, b)| Harm::Swap(a, b)),
        (n(), n()).prop_map(|(a, b)| Harm::Repeat(a, b)),
        (n(), n(), any::<bool>()).prop_map(|(a, b, c)| Harm::Equivocate(a, b, c)),
        (n(), 0u8..9, any::<bool>()).prop_map(|(a, b, c)| Harm::Resign(a, b, c)),
        (n(), n(), any::<bool>()).prop_map(|(a, b, c)| Harm::Graft(a, b, c)),
        n().prop_map(Harm::TurnV),
        (n(), 0u8..9).prop_map(|(a, b)| Harm::BadRYAnd(a, b)),
    ]
}

fn changed(raw: &[u8], what: u8, by_another: bool, payload: &[u8]) -> Option<Vec<u8>> {
    let mut header = FrameView::bounds(raw, 0).ok()?.header();
    match what {
        0 => header.custody[3] ^= 1,
        1 => header.seq += 1,
        2 => header.seq = u64::MAX,
        3 => header.previous[0] ^= 1,
        4 => header.sending_time = 0,
        5 => header.peer_seq = 0,
        6 => header.peer_seq += 1,
        7 => header.peer_digest[31] ^= 1,
        _ => header.lane ^= 1,
    }
    let key = if by_another {
        SecretKey::from_bytes(&[99; 32]).unwrap()
    } else {
        ruling(header.lane, header.seq)
    };
    sign(&key, &DOMAIN, &header, payload).ok()
}

fn harm(frames: &mut Vec<Vec<u8>>, harm: &Harm) {
    let count = frames.len();
    if count == 0 {
        return;
    }
    match *harm {
        Harm::Flip(at, bit) => {
            let frame = &mut frames[at % count];
            let bit = bit % (frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        Harm::FlipInTrailer(at, bit) => {
            let frame = &mut frames[at % count];
            let bit = bit % (97 * 8);
            let byte = frame.len().saturating_sub(1 + bit / 8);
            frame[byte] ^= 1 << (bit % 8);
        }
        Harm::Truncate(at, length) => {
            let frame = &mut frames[at % count];
            frame.truncate(1 + length % frame.len());
        }
        Harm::LeaveOut(at) => {
            frames.remove(at % count);
        }
        Harm::Swap(a, b) => frames.swap(a % count, b % count),
        Harm::Repeat(at, to) => {
            let frame = frames[at % count].clone();
            frames.insert(to % (count + 1), frame);
        }
        Harm::Equivocate(at, to, by_another) => {
            if let Ok(view) = FrameView::bounds(&frames[at % count], 0) {
                let header = view.header();
                let key = if by_another {
                    SecretKey::from_bytes(&[99; 32]).unwrap()
                } else {
                    ruling(header.lane, header.seq)
                };
                if let Ok(other) = sign(&key, &DOMAIN, &header, b"another") {
                    frames.insert(to % (count + 1), other);
                }
            }
        }
        Harm::Resign(at, what, by_another) => {
            let frame = &mut frames[at % count];
            if let Some(raw) = changed(frame, what, by_another, b"{}") {
                *frame = raw;
            }
        }
        Harm::Graft(from, to, s) => {
            let tail = |frame: &Vec<u8>| frame.len().checked_sub(97);
            let (from, to) = (from % count, to % count);
            if let (Some(a), Some(b)) = (tail(&frames[from]), tail(&frames[to])) {
                let part = if s { 32..64 } else { 65..97 };
                let graft = frames[from][a + part.start..a + part.end].to_vec();
                frames[to][b + part.start..b + part.end].copy_from_slice(&graft);
            }
        }
        Harm::TurnV(at) => {
            let frame = &mut frames[at % count];
            if let Some(v) = frame.len().checked_sub(33) {
                frame[v] ^= 27 ^ 28;
            }
        }
        Harm::BadRYAnd(at, what) => {
            let frame = &mut frames[at % count];
            if let Some(mut raw) = changed(frame, what, false, b"{}") {
                let last = raw.len() - 2;
                raw[last] ^= 1;
                *frame = raw;
            }
        }
    }
}

fn one_by_one(data: &[u8], keys: &[(u8, u64, PublicKey)]) -> Result<Summary, VerifyError> {
    let mut transcript = Transcript::new(DOMAIN, CUSTODY);
    let mut keys = keys.to_vec();
    keys.sort_by_key(|(lane, from, _)| (*lane, *from));
    for (lane, from, key) in keys {
        transcript.set_key(lane, from, key).unwrap();
    }
    let mut offset = 0;
    while offset < data.len() {
        let frame = FrameView::parse(data, offset).map_err(VerifyError::Frame)?;
        transcript.append(&frame).map_err(VerifyError::Transcript)?;
        offset += frame.raw().len();
    }
    Ok(Summary {
        frames: transcript.len(),
        heads: [transcript.head(0).unwrap(), transcript.head(1).unwrap()],
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn a_whole_transcript_is_judged_as_its_frames_one_by_one_on_every_path(
        lanes in prop::collection::vec(0u8..2, 0..24),
        harms in prop::collection::vec(any_harm(), 0..4),
        leave_out_a_key in any::<Option<prop::sample::Index>>(),
        window in prop::sample::select(vec![1usize, 2, 3, 7, 1000]),
    ) {
        let mut frames = scene(&lanes);
        harms.iter().for_each(|one| harm(&mut frames, one));
        let data = frames.concat();
        let mut keys = ruling_keys();
        // Most of the time no key is missing.
        if let Some(index) = leave_out_a_key.filter(|_| lanes.len().is_multiple_of(4)) {
            keys.remove(index.index(keys.len()));
        }
        let judged = one_by_one(&data, &keys);
        for backend in cpu::available() {
            for threads in [1, 2, 3] {
                let options = Options { threads, backend: *backend, window, start: None, progress: None };
                let whole = verify_transcript_with(&data, DOMAIN, CUSTODY, &keys, options);
                prop_assert_eq!(whole, judged.map(Some), "{:?}, {} threads", backend, threads);
            }
        }
    }

    #[test]
    fn the_frame_that_is_named_holds_the_flipped_bit(
        lanes in prop::collection::vec(0u8..2, 1..6), flip in any::<prop::sample::Index>(),
    ) {
        let mut data = scene(&lanes).concat();
        let bit = flip.index(data.len() * 8);
        let (right, keys) = (data.clone(), ruling_keys());
        data[bit / 8] ^= 1 << (bit % 8);
        let error = one_by_one(&data, &keys).unwrap_err();
        let at = match error {
            VerifyError::Frame(error) => error.offset,
            VerifyError::Transcript(error) => error.offset,
            other => panic!("{other}"),
        };
        let mut survey = Survey::new(&data, 0, 0);
        survey.pass_to(at);
        // The flip lies in the frame that is named: the bytes before it are a right transcript.
        prop_assert!(survey.offset() <= bit / 8);
        prop_assert_eq!(&data[..survey.offset()], &right[..survey.offset()]);
    }
}

#[test]
fn an_empty_transcript_stands_at_its_custody() {
    let summary = verify_transcript(&[], DOMAIN, CUSTODY, &[]).unwrap();
    assert_eq!(summary.frames, 0);
    assert_eq!(summary.heads.map(|head| head.digest), [CUSTODY; 2]);
}

#[test]
fn progress_ends_at_the_whole_and_never_goes_back() {
    let data = scene(&[0, 1, 1, 0, 1, 0, 0, 1]).concat();
    for threads in [1, 2, 0] {
        let mut seen = vec![Progress {
            frames: 0,
            bytes: 0,
        }];
        let mut progress = |now: Progress| {
            let last = seen[seen.len() - 1];
            assert!(last.frames <= now.frames && last.bytes <= now.bytes);
            seen.push(now);
            ControlFlow::Continue(())
        };
        let options = Options {
            threads,
            window: 2,
            progress: Some(&mut progress),
            ..Options::default()
        };
        verify_transcript_with(&data, DOMAIN, CUSTODY, &ruling_keys(), options).unwrap();
        let end = Progress {
            frames: 8,
            bytes: data.len(),
        };
        assert_eq!(seen.last(), Some(&end));
    }
}

#[test]
fn a_callback_that_breaks_stops_the_work() {
    let data = scene(&[0, 1, 1, 0, 1, 0, 0, 1]).concat();
    let mut calls = 0;
    let mut progress = |_: Progress| {
        calls += 1;
        ControlFlow::Break(())
    };
    let options = Options {
        window: 1,
        progress: Some(&mut progress),
        ..Options::default()
    };
    let stopped = verify_transcript_with(&data, DOMAIN, CUSTODY, &ruling_keys(), options);
    assert_eq!(stopped, Ok(None));
    assert!(calls <= 2, "it went on after the first break");
}

#[test]
fn a_survey_stops_at_the_messages_asked_for_and_passes_the_rest() {
    let payloads: [&[u8]; 7] = [
        br#"{"MsgType":"A","x":"1"}"#,
        br#"{"MsgType":"0"}"#,
        br#"{"MsgType":"UKY"}"#,
        br#"{"MsgType":"UK"}"#,
        // Only a parser can tell what these are.
        br#"{ "MsgType":"0"}"#,
        br#"{"MsgType":"\u0041"}"#,
        b"",
    ];
    let mut transcript = keyed();
    let mut data = Vec::new();
    let mut offsets = Vec::new();
    for payload in payloads {
        let header = next(&transcript, 0);
        let raw = sign(&session_key(0), &DOMAIN, &header, payload).unwrap();
        transcript
            .append(&FrameView::parse(&raw, 0).unwrap())
            .unwrap();
        offsets.push(data.len());
        data.extend(raw);
    }
    let mut survey = Survey::new(&data, 0, 0);
    let mut stops = Vec::new();
    while let Some(found) = survey.next(&[b"A", b"UKY"], &[None; 2]).unwrap() {
        match found {
            Found::Message { index, offset } => {
                assert_eq!(offset, offsets[index]);
                assert_eq!(survey.heads(), [index as u64, 0]);
                stops.push(index);
            }
            Found::Beyond { .. } => panic!("no lane has an end"),
        }
    }
    assert_eq!(stops, [0, 2, 4, 5, 6]);
    assert_eq!(survey.heads(), [7, 0]);
    assert_eq!((survey.frames(), survey.offset()), (7, data.len()));
}

#[test]
fn a_survey_stops_at_what_is_beyond_a_lanes_reach() {
    let mut transcript = keyed();
    let mut data = Vec::new();
    for lane in [0, 1, 0, 1, 0] {
        let header = next(&transcript, lane);
        let raw = sign(&session_key(lane), &DOMAIN, &header, br#"{"MsgType":"0"}"#).unwrap();
        transcript
            .append(&FrameView::parse(&raw, 0).unwrap())
            .unwrap();
        data.extend(raw);
    }
    let found = |from_seq, to_seq, expiry| {
        let reach = Reach {
            from_seq,
            to_seq,
            expiry,
        };
        let mut survey = Survey::new(&data, 0, 0);
        match survey.next(&[], &[Some(reach), None]).unwrap() {
            Some(Found::Beyond { index, .. }) => Some(index),
            Some(Found::Message { .. }) => panic!("no message was asked for"),
            None => None,
        }
    };
    // Frames 0, 2 and 4 are lane 0's seqs 1, 2 and 3, at times 1, 2 and 3.
    assert_eq!(found(1, 3, 3), None);
    assert_eq!(found(2, 3, 3), Some(0));
    assert_eq!(found(1, 2, 3), Some(4));
    assert_eq!(found(1, 3, 1), Some(2));
}

#[test]
fn a_survey_names_a_frame_out_of_form_and_stands_before_it() {
    let frames = scene(&[0, 1, 0]);
    let mut data = frames.concat();
    let at = frames[0].len() + frames[1].len();
    data[at] = 7;
    let mut survey = Survey::new(&data, 0, 0);
    // These payloads are no JSON, so each is shown.
    assert!(survey.next(&[], &[None; 2]).unwrap().is_some());
    assert!(survey.next(&[], &[None; 2]).unwrap().is_some());
    let error = survey.next(&[], &[None; 2]).unwrap_err();
    assert_eq!((error.code(), error.offset), ("bad-version", at));
    assert_eq!((survey.frames(), survey.offset()), (2, at));
}

/// A transcript of both lanes with frames in flight: which frames, where the trader's frame 3 and
/// the solver's 5, which covers it, are the heads, and what came after.
fn in_flight() -> (Transcript, Start, Vec<Vec<u8>>) {
    let mut whole = keyed();
    let mut frames = Vec::new();
    // (lane, what it covers)
    for (lane, covers) in [
        (0, 0),
        (1, 1),
        (1, 1),
        (0, 1),
        (1, 1),
        (0, 2),
        (1, 2),
        (1, 3),
        (0, 3),
        (1, 3),
        (0, 5),
        (1, 5),
    ] {
        let mut header = next(&whole, lane);
        header.peer_seq = covers;
        header.peer_digest = whole.digest(1 - lane, covers).unwrap().unwrap();
        append(&mut whole, &header).unwrap();
        frames.push(raw(&header));
    }
    let head = |index: usize| {
        let header = FrameView::parse(&frames[index], 0).unwrap().header();
        Head {
            seq: header.seq,
            digest: whole.digest(header.lane, header.seq).unwrap().unwrap(),
            sending_time: header.sending_time,
            peer_seq: header.peer_seq,
        }
    };
    let digests = |lane, seqs: core::ops::Range<u64>| {
        seqs.map(|seq| whole.digest(lane, seq).unwrap().unwrap())
            .collect::<Vec<_>>()
    };
    let keys = (0..2)
        .map(|lane| (lane, 1, *session_key(lane).public_key()))
        .collect();
    let start = Start::new(
        [head(5), head(7)],
        [digests(0, 2..3), digests(1, 2..5)],
        keys,
    )
    .unwrap();
    (whole, start, frames)
}

#[test]
fn a_transcript_goes_on_from_where_it_starts() {
    let (whole, start, frames) = in_flight();
    let mut begun = Transcript::at(DOMAIN, CUSTODY, &start).unwrap();
    for frame in &frames[8..] {
        begun.append(&FrameView::parse(frame, 0).unwrap()).unwrap();
    }
    assert_eq!(begun.len(), 4);
    for lane in 0..2 {
        assert_eq!(begun.head(lane), whole.head(lane));
    }
    let data = frames[8..].concat();
    let options = Options {
        start: Some(&start),
        ..Options::default()
    };
    let summary = verify_transcript_with(&data, DOMAIN, CUSTODY, &[], options)
        .unwrap()
        .unwrap();
    assert_eq!(summary.frames, 4);
    assert_eq!(summary.heads[0], whole.head(0).unwrap());
}

#[test]
fn before_its_start_a_transcript_knows_no_frame() {
    let (_, start, frames) = in_flight();
    let begun = Transcript::at(DOMAIN, CUSTODY, &start).unwrap();
    for (index, code) in [
        (0, "bad-seq"),
        (5, "duplicate"),
        (1, "bad-seq"),
        (7, "duplicate"),
    ] {
        let frame = FrameView::parse(&frames[index], 0).unwrap();
        assert_eq!(begun.check(&frame).unwrap_err().code(), code);
    }
    assert_eq!(begun.digest(1, 1).unwrap(), None);
    assert_eq!(begun.digest(1, 0).unwrap(), Some(CUSTODY));
}

#[test]
fn a_start_whose_parts_do_not_fit_is_refused() {
    let (_, start, _) = in_flight();
    let heads = start.heads();
    let refused = |heads, trader: usize, solver: usize| {
        Start::new(
            heads,
            [vec![CUSTODY; trader], vec![CUSTODY; solver]],
            Vec::new(),
        )
        .is_err()
    };
    assert!(!refused(heads, 0, 3));
    assert!(refused(heads, 0, 2), "the trader's next may cover frame 2");
    assert!(refused(heads, 3, 3), "there is no frame 0");
    let mut empty = heads;
    empty[0].seq = 0;
    assert!(refused(empty, 0, 3));
    let mut ahead = heads;
    ahead[1].peer_seq = 4;
    assert!(refused(ahead, 0, 3), "it covers what is not there");
}
