//! Four states in AVX2.

use core::arch::x86_64::{
    __m256i, _mm256_andnot_si256, _mm256_loadu_si256, _mm256_or_si256, _mm256_permute2x128_si256,
    _mm256_set_epi64x, _mm256_set1_epi64x, _mm256_slli_epi64, _mm256_srli_epi64,
    _mm256_storeu_si256, _mm256_unpackhi_epi64, _mm256_unpacklo_epi64, _mm256_xor_si256,
};

use super::permutation::{Word, permute};
use super::sponge::{RATE, States, WORDS, block};

const LANES: usize = 4;

/// One word of four states. Only what runs with AVX2 makes one.
#[derive(Clone, Copy)]
struct Words(__m256i);

impl Word for Words {
    #[inline(always)]
    fn xor3(a: Self, b: Self, c: Self) -> Self {
        // SAFETY: there is a `Words`, so there is AVX2.
        Self(unsafe { _mm256_xor_si256(a.0, _mm256_xor_si256(b.0, c.0)) })
    }

    #[inline(always)]
    fn chi(a: Self, b: Self, c: Self) -> Self {
        // SAFETY: there is a `Words`, so there is AVX2.
        Self(unsafe { _mm256_xor_si256(a.0, _mm256_andnot_si256(b.0, c.0)) })
    }

    #[inline(always)]
    fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self {
        // SAFETY: there is a `Words`, so there is AVX2.
        Self(unsafe {
            _mm256_or_si256(
                _mm256_slli_epi64::<LEFT>(self.0),
                _mm256_srli_epi64::<RIGHT>(self.0),
            )
        })
    }

    #[inline(always)]
    fn xor_constant(self, constant: u64) -> Self {
        // SAFETY: there is a `Words`, so there is AVX2.
        Self(unsafe { _mm256_xor_si256(self.0, _mm256_set1_epi64x(constant.cast_signed())) })
    }
}

/// See [`super::sponge::Absorb`].
#[target_feature(enable = "avx2")]
pub(super) fn absorb(states: &mut States<LANES>, fresh: u32, rests: &[&[u8]; LANES]) {
    for lane in 0..LANES {
        if fresh >> lane & 1 == 1 {
            for word in &mut states.0 {
                word[lane] = 0;
            }
        }
    }
    let mut last = [[0u8; RATE]; LANES];
    let mut blocks = [&[0u8; RATE]; LANES];
    for ((place, last), rest) in blocks.iter_mut().zip(&mut last).zip(rests) {
        *place = block(rest, last);
    }

    let mut state = [Words(_mm256_set1_epi64x(0)); WORDS];
    for (word, lanes) in state.iter_mut().zip(&states.0) {
        // SAFETY: four words are 32 bytes.
        word.0 = unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) };
    }
    for four in 0..4 {
        // SAFETY: bytes 32·four to 32·four + 31 of a block of 136.
        let rows =
            blocks.map(|block| unsafe { _mm256_loadu_si256(block.as_ptr().add(32 * four).cast()) });
        for (word, column) in state[4 * four..].iter_mut().zip(transpose(rows)) {
            word.0 = _mm256_xor_si256(word.0, column);
        }
    }
    let [a, b, c, d] = blocks.map(|block| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&block[128..]);
        i64::from_le_bytes(bytes)
    });
    state[16].0 = _mm256_xor_si256(state[16].0, _mm256_set_epi64x(d, c, b, a));

    let state = permute(state);
    for (word, lanes) in state.iter().zip(&mut states.0) {
        // SAFETY: four words are 32 bytes.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), word.0) };
    }
}

/// Rows of four words to columns.
#[target_feature(enable = "avx2")]
#[inline]
fn transpose([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    let (even_ab, odd_ab) = (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let (even_cd, odd_cd) = (_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
    [
        _mm256_permute2x128_si256::<0x20>(even_ab, even_cd),
        _mm256_permute2x128_si256::<0x20>(odd_ab, odd_cd),
        _mm256_permute2x128_si256::<0x31>(even_ab, even_cd),
        _mm256_permute2x128_si256::<0x31>(odd_ab, odd_cd),
    ]
}
