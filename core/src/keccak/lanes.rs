//! Many sponges side by side: each lane absorbs a message of its own, and the lane whose
//! message ends takes the next one at once, so that all stay busy however lengths differ.

use core::array;

use super::portable;
use super::sponge::{Absorb, AbsorbAlone, Digest, RATE, States, WORDS};
use crate::cpu::{self, Backend};

/// Where lanes find their messages and leave the digests.
pub(crate) trait Work {
    /// Takes the digest of the lane's last message, `None` before its first, and says whether
    /// there is another message for it. Once there is none, the lane is not asked again.
    fn next(&mut self, lane: usize, digest: Option<&Digest>) -> bool;

    /// The lane's message: the same bytes until the next `next` for this lane.
    fn message(&self, lane: usize) -> &[u8];
}

/// The most lanes that [`hash`] uses.
pub(crate) const MAX_LANES: usize = 8;

/// From how many messages on a backend's lanes are faster than one message after another; a
/// backend without lanes has no such number.
pub(super) fn fewest(backend: Backend) -> Option<usize> {
    match cpu::at_most(backend) {
        Backend::Portable => None,
        Backend::Avx2 => Some(3),
        Backend::Avx512 => Some(2),
    }
}

/// Does all the work in as many lanes as a backend has, at most [`MAX_LANES`].
pub(crate) fn hash(backend: Backend, work: &mut impl Work) {
    match cpu::at_most(backend) {
        #[cfg(target_arch = "x86_64")]
        Backend::Avx512 => run::<8>(
            backend,
            // SAFETY: `at_most` names AVX-512 only where the processor has F, BW, DQ and VL.
            |states, fresh, rests| unsafe { super::avx512::absorb(states, fresh, rests) },
            work,
        ),
        #[cfg(target_arch = "x86_64")]
        Backend::Avx2 => run::<4>(
            backend,
            // SAFETY: `at_most` names AVX2 only where the processor has it.
            |states, fresh, rests| unsafe { super::avx2::absorb(states, fresh, rests) },
            work,
        ),
        _ => run::<1>(
            backend,
            |states, fresh, [rest]| absorb_alone(portable::absorb, states, 0, fresh == 1, rest),
            work,
        ),
    }
}

/// The digest of one message.
pub(super) fn hash_one(backend: Backend, message: &[u8]) -> Digest {
    let absorb = alone(cpu::at_most(backend));
    let mut state = [0u64; WORDS];
    let mut rest = message;
    loop {
        absorb(&mut state, rest);
        match rest.split_first_chunk::<RATE>() {
            Some((_, after)) => rest = after,
            None => return squeeze(array::from_fn(|i| state[i])),
        }
    }
}

/// The way to absorb into one state with a backend that the processor has.
fn alone(available: Backend) -> AbsorbAlone {
    match available {
        #[cfg(target_arch = "x86_64")]
        Backend::Avx2 | Backend::Avx512 => |state, rest| {
            // SAFETY: `at_most` names AVX2 and AVX-512 only where the processor has BMI1 and
            // BMI2 as well.
            unsafe { portable::absorb_with_bmi(state, rest) }
        },
        _ => portable::absorb,
    }
}

fn squeeze(words: [u64; 4]) -> Digest {
    let mut digest = [0; 32];
    for (bytes, word) in digest.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
    digest
}

fn run<const N: usize>(backend: Backend, together: Absorb<N>, work: &mut impl Work) {
    let alone = alone(cpu::at_most(backend));
    let fewest = fewest(backend).unwrap_or(1);
    let mut states = States([[0; N]; WORDS]);
    let mut absorbed = [0usize; N];
    let mut busy = 0u32;
    let mut fresh = 0u32;
    for lane in 0..N {
        busy |= u32::from(work.next(lane, None)) << lane;
    }
    while busy != 0 {
        let mut rests: [&[u8]; N] = [&[]; N];
        let mut ending = 0u32;
        for lane in 0..N {
            if busy >> lane & 1 == 1 {
                let rest = &work.message(lane)[absorbed[lane]..];
                absorbed[lane] += RATE;
                ending |= u32::from(rest.len() < RATE) << lane;
                rests[lane] = rest;
            }
        }
        if busy.count_ones() as usize >= fewest {
            together(&mut states, fresh, &rests);
        } else {
            for lane in (0..N).filter(|lane| busy >> lane & 1 == 1) {
                let fresh = fresh >> lane & 1 == 1;
                absorb_alone(alone, &mut states, lane, fresh, rests[lane]);
            }
        }
        fresh = ending;
        while ending != 0 {
            let lane = ending.trailing_zeros() as usize;
            ending &= ending - 1;
            absorbed[lane] = 0;
            let digest = squeeze(array::from_fn(|i| states.0[i][lane]));
            if !work.next(lane, Some(&digest)) {
                busy &= !(1 << lane);
            }
        }
    }
}

/// One lane of several, which pays nothing for the width of the others.
fn absorb_alone<const N: usize>(
    absorb: AbsorbAlone,
    states: &mut States<N>,
    lane: usize,
    fresh: bool,
    rest: &[u8],
) {
    let mut state = [0u64; WORDS];
    if !fresh {
        for (word, lanes) in state.iter_mut().zip(&states.0) {
            *word = lanes[lane];
        }
    }
    absorb(&mut state, rest);
    for (lanes, word) in states.0.iter_mut().zip(state) {
        lanes[lane] = word;
    }
}
