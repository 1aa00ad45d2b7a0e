//! A little of everything on every path, brief enough to be run under valgrind, where each
//! instruction takes fifty.

use super::changes::{BASES, CHANGES, Change, changed};
use super::digests::{every_path_digests_alike, every_path_hashes_alike, framed, message};
use super::oracle::{EVERY_LAYOUT, every_path_recovers_alike, every_path_refuses_alike, judged};
use super::signing::Case;

/// Claims in a row, with a change to each of some of them.
fn claims(count: usize, changed_ones: usize) -> Vec<Case> {
    let mut cases: Vec<Case> = BASES.iter().cycle().take(count).copied().collect();
    for i in 0..changed_ones {
        let place = (i * 37 + 5) % count;
        cases[place] = changed(cases[place], &Change::numbered(i, i * i));
        let other = (i * 41 + 6) % count;
        cases[other] = cases[other].plain();
    }
    cases
}

#[test]
fn brief_batches_are_judged_alike() {
    for (i, (count, changes)) in [
        (1, 0),
        (5, 1),
        (9, 0),
        (17, 3),
        (67, CHANGES),
        (400, 0),
        (400, 2),
    ]
    .into_iter()
    .enumerate()
    {
        let keys = EVERY_LAYOUT[i % EVERY_LAYOUT.len()];
        every_path_refuses_alike("brief", &judged(&claims(count, changes)), keys);
    }
}

#[test]
fn brief_batches_are_recovered_alike() {
    for (count, changes) in [(1, 0), (9, 1), (67, CHANGES)] {
        every_path_recovers_alike("brief", &claims(count, changes));
    }
}

#[test]
fn brief_messages_are_hashed_alike() {
    for length in [0, 1, 135, 136, 137, 300, 1_000] {
        for count in [1, 3, 8, 13] {
            let messages: Vec<Vec<u8>> = (0..count).map(|i| message(i, length)).collect();
            every_path_hashes_alike("brief", &messages);
        }
    }
    let rising: Vec<Vec<u8>> = (0..=280).step_by(7).map(|i| message(i, i)).collect();
    every_path_hashes_alike("brief, rising", &rising);
}

#[test]
fn brief_frames_are_digested_alike() {
    let frames: Vec<_> = (0..19).map(|i| framed(i, i * i * 3)).collect();
    for count in [1, 4, 8, 19] {
        every_path_digests_alike(&frames[..count]);
    }
}
