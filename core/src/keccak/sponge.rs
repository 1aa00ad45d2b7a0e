//! What all kinds of lanes share: the state, what a block is, and what it is to absorb one.

/// A Keccak-256 digest.
pub type Digest = [u8; 32];

/// The bytes that Keccak-256 absorbs between two permutations.
pub(super) const RATE: usize = 136;
/// The words of a state.
pub(super) const WORDS: usize = 25;

/// Word by word, the states of `N` lanes.
#[repr(C, align(64))]
pub(super) struct States<const N: usize>(pub(super) [[u64; N]; WORDS]);

/// Absorbs into a state the next block of what is left of a message, and permutes. What is shorter
/// than a block is the message's end and takes the padding.
pub(super) type AbsorbAlone = fn(&mut [u64; WORDS], &[u8]);

/// Sets the lanes of a mask back to the empty sponge, then does for each lane and what is left of
/// its message what [`AbsorbAlone`] does for one.
pub(super) type Absorb<const N: usize> = fn(&mut States<N>, u32, &[&[u8]; N]);

/// What a state absorbs of what is left of a message: its next block, or its end in `last`, which
/// is all zeros, with Keccak's padding.
#[inline(always)]
pub(super) fn block<'a>(rest: &'a [u8], last: &'a mut [u8; RATE]) -> &'a [u8; RATE] {
    if let Some(block) = rest.first_chunk() {
        return block;
    }
    last[..rest.len()].copy_from_slice(rest);
    last[rest.len()] = 0x01;
    last[RATE - 1] |= 0x80;
    last
}
