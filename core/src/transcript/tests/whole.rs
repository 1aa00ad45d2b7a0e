//! A whole transcript gets the same verdict as its frames one by one, for any fault.

use super::*;

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
pub(super) fn scene(lanes: &[u8]) -> Vec<Vec<u8>> {
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
        // An earlier harm may have left the highest number.
        1 => header.seq = header.seq.wrapping_add(1),
        2 => header.seq = u64::MAX,
        3 => header.previous[0] ^= 1,
        4 => header.sending_time = 0,
        5 => header.peer_seq = 0,
        6 => header.peer_seq = header.peer_seq.wrapping_add(1),
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

/// Does it: a branch for each kind.
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
