//! What a survey stops at.

use super::whole::scene;
use super::*;

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
