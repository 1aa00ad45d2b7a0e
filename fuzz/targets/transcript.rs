//! Transcripts: a whole one is judged as its frames are one by one, whatever is done to it, on
//! every backend and on one thread as on two.

#![no_main]

mod talk;

use _core::cpu;
use _core::frame::FrameView;
use _core::secp256k1::PublicKey;
use _core::transcript::{
    Options, Summary, Transcript, VerifyError, WINDOW, verify_transcript, verify_transcript_with,
};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

use talk::{CUSTODY, Change, DOMAIN, TALK, changed, keys};

#[derive(Arbitrary, Debug)]
struct Plan {
    changes: Vec<Change>,
    tail: Vec<u8>,
    keys: u8,
    window: u8,
}

fn one_by_one(data: &[u8], keys: &[(u8, u64, PublicKey)]) -> Result<Summary, VerifyError> {
    let mut transcript = Transcript::new(DOMAIN, CUSTODY);
    let mut rising = keys.to_vec();
    rising.sort_by_key(|(lane, from, _)| (*lane, *from));
    for (lane, from, key) in rising {
        transcript
            .set_key(lane, from, key)
            .map_err(VerifyError::Key)?;
    }
    let mut offset = 0;
    while offset < data.len() {
        let frame = FrameView::parse(data, offset).map_err(VerifyError::Frame)?;
        transcript.append(&frame).map_err(VerifyError::Transcript)?;
        offset += frame.raw().len();
    }
    Ok(Summary {
        frames: transcript.len(),
        heads: [0, 1].map(|lane| transcript.head(lane).unwrap()),
    })
}

fuzz_target!(|plan: Plan| {
    let mut frames = TALK.clone();
    for change in plan.changes.iter().take(12) {
        changed(&mut frames, *change);
    }
    let mut data = frames.concat();
    data.extend(plan.tail.iter().take(300));
    let mut keys = keys();
    match plan.keys {
        1..=3 => drop(keys.remove(usize::from(plan.keys) - 1)),
        4 => keys.rotate_left(1),
        5 => keys[0].1 = 3,
        _ => {}
    }
    let each = one_by_one(&data, &keys);
    assert_eq!(verify_transcript(&data, DOMAIN, CUSTODY, &keys), each);
    // So few frames are worth a second thread only where batches are small.
    let small = 1 + usize::from(plan.window % 32);
    for backend in cpu::available().iter().copied() {
        for (threads, window) in [(1, WINDOW), (2, small)] {
            let options = Options {
                threads,
                backend,
                window,
                start: None,
                progress: None,
            };
            let whole = verify_transcript_with(&data, DOMAIN, CUSTODY, &keys, options);
            assert_eq!(
                whole,
                each.map(Some),
                "{backend:?}, threads {threads}, window {window}"
            );
        }
    }
});
