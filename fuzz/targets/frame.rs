//! Frames: whatever parses has one form, and its digest is the same alone and among others.
//!
//! The first byte of the input says what the rest is: bytes as they came, or everything up to
//! the trailer, to which a trailer in form is added so that the input gets past R.y.

#![no_main]

use std::sync::LazyLock;

use _core::cpu;
use _core::frame::{self, FrameView, HEADER, Header, MAX_PAYLOAD, TRAILER};
use _core::secp256k1::{SecretKey, check_form, is_point_y, point_y};
use libfuzzer_sys::fuzz_target;

const DOMAIN: [u8; 32] = [9; 32];

/// r, s, v and R.y of some signature.
static IN_FORM: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let signature = SecretKey::from_bytes(&[7; 32]).unwrap().sign(&DOMAIN);
    [&signature[..], &point_y(&signature).unwrap()].concat()
});

/// The table at the head of the module `frame`, written down a second time.
fn encode(header: &Header, payload: &[u8], trailer: &[u8]) -> Vec<u8> {
    let mut raw = vec![1];
    raw.extend(header.custody);
    raw.push(header.lane);
    raw.extend(header.seq.to_be_bytes());
    raw.extend(header.previous);
    raw.extend(header.peer_seq.to_be_bytes());
    raw.extend(header.peer_digest);
    raw.extend(header.sending_time.to_be_bytes());
    raw.extend((payload.len() as u32).to_be_bytes());
    raw.extend(payload);
    raw.extend(trailer);
    raw
}

fn judge(data: &[u8], offset: usize) {
    let view = match FrameView::parse(data, offset) {
        Ok(view) => view,
        Err(error) => {
            assert!(error.offset >= offset, "{error}");
            assert!(error.offset <= data.len().max(offset), "{error}");
            return;
        }
    };
    let (header, payload, signature, r_y) =
        (view.header(), view.payload(), view.signature(), view.r_y());
    let trailer = [&signature[..], &r_y].concat();
    assert_eq!(encode(&header, payload, &trailer), view.raw());
    assert_eq!(&data[offset..offset + view.raw().len()], view.raw());
    assert!(header.lane < 2 && header.seq > 0 && payload.len() <= MAX_PAYLOAD);
    assert_eq!(check_form(&signature), Ok(()));
    assert_eq!(point_y(&signature), Ok(r_y));
    assert!(is_point_y(&signature, &r_y));
    // A frame that is cut short anywhere is no frame.
    let shorter = &view.raw()[..view.raw().len() - 1];
    assert!(FrameView::parse(shorter, 0).is_err());
}

/// The digests of all frames that stand in a row, on every path.
fn digests(data: &[u8]) {
    let Ok(frames) = frame::split(data) else {
        return;
    };
    let together: usize = frames.iter().map(|frame| frame.raw().len()).sum();
    assert_eq!(together, data.len());
    // As they are, and each often enough to fill all lanes.
    let repeated: Vec<FrameView<'_>> = frames
        .iter()
        .flat_map(|frame| [*frame; 9])
        .take(40)
        .collect();
    for frames in [&frames, &repeated] {
        let alone: Vec<_> = frames
            .iter()
            .map(|view| frame::digest(&DOMAIN, &view.header(), view.payload()))
            .collect();
        for backend in cpu::available() {
            let many = frame::digest_many_with(*backend, &DOMAIN, frames);
            assert_eq!(many, alone, "{backend:?}");
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else {
        return;
    };
    if kind % 2 == 0 || rest.len() < HEADER {
        judge(rest, 0);
        judge(rest, usize::from(*kind) / 2);
        judge(rest, usize::MAX - usize::from(*kind));
        digests(rest);
        return;
    }
    let mut data = rest.to_vec();
    let length = (data.len() - HEADER) as u32;
    data[0] = 1;
    data[33] &= 1;
    data[122..126].copy_from_slice(&length.to_be_bytes());
    data.extend(&*IN_FORM);
    assert_eq!(data.len(), HEADER + length as usize + TRAILER);
    judge(&data, 0);
    digests(&data);
    digests(&[&data[..], &data].concat());
});
