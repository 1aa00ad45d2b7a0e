//! Transcripts that start at a checkpoint.

use super::*;

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
    let mut started = Transcript::at(DOMAIN, CUSTODY, &start).unwrap();
    for frame in &frames[8..] {
        started
            .append(&FrameView::parse(frame, 0).unwrap())
            .unwrap();
    }
    assert_eq!(started.len(), 4);
    for lane in 0..2 {
        assert_eq!(started.head(lane), whole.head(lane));
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
    let started = Transcript::at(DOMAIN, CUSTODY, &start).unwrap();
    for (index, code) in [
        (0, "bad-seq"),
        (5, "duplicate"),
        (1, "bad-seq"),
        (7, "duplicate"),
    ] {
        let frame = FrameView::parse(&frames[index], 0).unwrap();
        assert_eq!(started.check(&frame).unwrap_err().code(), code);
    }
    assert_eq!(started.digest(1, 1).unwrap(), None);
    assert_eq!(started.digest(1, 0).unwrap(), Some(CUSTODY));
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
