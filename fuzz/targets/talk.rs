//! A talk of two lanes, and what may be done to its frames.

use std::sync::LazyLock;

use _core::frame::{FrameView, Header, sign};
use _core::secp256k1::{PublicKey, SecretKey};
use _core::transcript::Transcript;
use libfuzzer_sys::arbitrary::{self, Arbitrary};

pub(crate) const DOMAIN: [u8; 32] = [9; 32];
pub(crate) const CUSTODY: [u8; 32] = [4; 32];

/// (lane, from seq, key) of all keys; the trader's lane has two.
pub(crate) fn keys() -> Vec<(u8, u64, PublicKey)> {
    [(0, NEW_KEY), (1, 1), (0, 1)]
        .into_iter()
        .map(|(lane, seq)| (lane, seq, *secret(lane, seq).public_key()))
        .collect()
}

/// A talk of forty frames, as its lanes took turns.
pub(crate) static TALK: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut transcript = Transcript::new(DOMAIN, CUSTODY);
    for (lane, seq, key) in [keys()[2], keys()[0], keys()[1]] {
        transcript.set_key(lane, seq, key).unwrap();
    }
    (0..40u64)
        .map(|turn| {
            let lane = u8::from(turn * turn % 7 > 2);
            let (head, peer) = (
                transcript.head(lane).unwrap(),
                transcript.head(1 - lane).unwrap(),
            );
            let header = Header {
                custody: CUSTODY,
                lane,
                seq: head.seq + 1,
                previous: head.digest,
                peer_seq: peer.seq,
                peer_digest: peer.digest,
                sending_time: 1_000 + turn,
            };
            let payload = vec![b'x'; (turn * 37 % 200) as usize];
            let raw = sign(&secret(lane, header.seq), &DOMAIN, &header, &payload).unwrap();
            transcript
                .append(&FrameView::parse(&raw, 0).unwrap())
                .unwrap();
            raw
        })
        .collect()
});

/// What is done to the frames before they are put back to back.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Change {
    Flip {
        frame: u8,
        bit: u32,
    },
    Write {
        frame: u8,
        at: u16,
        byte: u8,
    },
    Exchange {
        one: u8,
        other: u8,
    },
    Drop {
        frame: u8,
    },
    Repeat {
        frame: u8,
        at: u8,
    },
    Cut {
        frame: u8,
        length: u16,
    },
    Trailer {
        to: u8,
        from: u8,
    },
    /// Signed again, by the key of some place, with a field changed: past the signature.
    Sign {
        frame: u8,
        field: u8,
        value: u64,
        by_lane: bool,
        by_seq: u8,
    },
    Keep {
        frames: u8,
    },
}

/// Frames after a change.
pub(crate) fn changed(frames: &mut Vec<Vec<u8>>, change: Change) {
    let count = frames.len();
    if count == 0 {
        return;
    }
    let place = |frame: u8| usize::from(frame) % count;
    match change {
        Change::Flip { frame, bit } => {
            let raw = &mut frames[place(frame)];
            if !raw.is_empty() {
                let bit = bit as usize % (raw.len() * 8);
                raw[bit / 8] ^= 1 << (bit % 8);
            }
        }
        Change::Write { frame, at, byte } => {
            let raw = &mut frames[place(frame)];
            if !raw.is_empty() {
                let at = usize::from(at) % raw.len();
                raw[at] = byte;
            }
        }
        Change::Exchange { one, other } => frames.swap(place(one), place(other)),
        Change::Drop { frame } => {
            frames.remove(place(frame));
        }
        Change::Repeat { frame, at } => {
            let again = frames[place(frame)].clone();
            frames.insert(place(at), again);
        }
        Change::Cut { frame, length } => frames[place(frame)].truncate(usize::from(length)),
        Change::Trailer { to, from } => {
            let from = &frames[place(from)];
            let trailer = from[from.len().saturating_sub(97)..].to_vec();
            let to = &mut frames[place(to)];
            to.truncate(to.len().saturating_sub(97));
            to.extend(trailer);
        }
        Change::Sign {
            frame,
            field,
            value,
            by_lane,
            by_seq,
        } => {
            let raw = &mut frames[place(frame)];
            let Ok(view) = FrameView::parse(raw, 0) else {
                return;
            };
            let mut header = view.header();
            match field % 9 {
                0 => header.custody[0] ^= value as u8,
                1 => header.lane = value as u8 % 2,
                2 => header.seq = (value % 50).max(1),
                3 => header.previous[31] ^= value as u8,
                4 => header.peer_seq = value % 50,
                5 => header.peer_digest[7] ^= value as u8,
                6 => header.sending_time = 990 + value % 80,
                7 => header.seq = value.max(1),
                _ => header.peer_seq = value,
            }
            let key = secret(u8::from(by_lane), u64::from(by_seq));
            let payload = view.payload().to_vec();
            *raw = sign(&key, &DOMAIN, &header, &payload).unwrap();
        }
        Change::Keep { frames: kept } => frames.truncate(usize::from(kept)),
    }
}

/// From here on the trader's second key rules.
const NEW_KEY: u64 = 9;

fn secret(lane: u8, seq: u64) -> SecretKey {
    let second = lane == 0 && seq >= NEW_KEY;
    SecretKey::from_bytes(&[11 + lane + 2 * u8::from(second); 32]).unwrap()
}
