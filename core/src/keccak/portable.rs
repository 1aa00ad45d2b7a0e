//! One state at a time: on any processor, and once more for those that have BMI1 and BMI2, where
//! χ is an instruction shorter and a rotation leaves its source whole.

use super::permutation::{Word, permute};
use super::sponge::{RATE, WORDS, block};

impl Word for u64 {
    #[inline(always)]
    fn xor3(a: Self, b: Self, c: Self) -> Self {
        a ^ (b ^ c)
    }

    #[inline(always)]
    fn chi(a: Self, b: Self, c: Self) -> Self {
        a ^ (!b & c)
    }

    #[inline(always)]
    fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self {
        self.rotate_left(LEFT as u32)
    }

    #[inline(always)]
    fn xor_constant(self, constant: u64) -> Self {
        self ^ constant
    }
}

/// See [`super::sponge::AbsorbAlone`].
pub(super) fn absorb(state: &mut [u64; WORDS], rest: &[u8]) {
    absorb_with_any(state, rest);
}

/// See [`super::sponge::AbsorbAlone`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "bmi1,bmi2")]
pub(super) fn absorb_with_bmi(state: &mut [u64; WORDS], rest: &[u8]) {
    absorb_with_any(state, rest);
}

#[inline(always)]
fn absorb_with_any(state: &mut [u64; WORDS], rest: &[u8]) {
    let mut last = [0u8; RATE];
    for (word, bytes) in state
        .iter_mut()
        .zip(block(rest, &mut last).as_chunks::<8>().0)
    {
        *word ^= u64::from_le_bytes(*bytes);
    }
    *state = permute(*state);
}
