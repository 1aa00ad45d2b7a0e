//! Eight states in AVX-512: all 25 words stay in registers, and θ and χ are three-input
//! operations.

use core::arch::x86_64::{
    __m128i, __m512i, _mm_loadl_epi64, _mm_maskz_loadu_epi8, _mm_set1_epi64x, _mm_unpacklo_epi64,
    _mm_xor_si128, _mm512_castsi128_si512, _mm512_inserti64x2, _mm512_loadu_si512,
    _mm512_mask_xor_epi64, _mm512_maskz_load_epi64, _mm512_maskz_loadu_epi8, _mm512_rol_epi64,
    _mm512_set1_epi64, _mm512_shuffle_i64x2, _mm512_store_si512, _mm512_ternarylogic_epi64,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi64, _mm512_xor_si512,
};

use super::permutation::{Word, permute};
use super::sponge::{RATE, States, WORDS};

const LANES: usize = 8;

/// One word of eight states. Only what runs with AVX-512 F, BW, DQ and VL makes one.
#[derive(Clone, Copy)]
struct Words(__m512i);

impl Word for Words {
    #[inline(always)]
    fn xor3(a: Self, b: Self, c: Self) -> Self {
        // SAFETY: there is a `Words`, so there is AVX-512 F.
        Self(unsafe { _mm512_ternarylogic_epi64::<0b1001_0110>(a.0, b.0, c.0) })
    }

    #[inline(always)]
    fn chi(a: Self, b: Self, c: Self) -> Self {
        // SAFETY: there is a `Words`, so there is AVX-512 F.
        Self(unsafe { _mm512_ternarylogic_epi64::<0b1101_0010>(a.0, b.0, c.0) })
    }

    #[inline(always)]
    fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self {
        // SAFETY: there is a `Words`, so there is AVX-512 F.
        Self(unsafe { _mm512_rol_epi64::<LEFT>(self.0) })
    }

    #[inline(always)]
    fn xor_constant(self, constant: u64) -> Self {
        // SAFETY: there is a `Words`, so there is AVX-512 F.
        Self(unsafe { _mm512_xor_si512(self.0, _mm512_set1_epi64(constant.cast_signed())) })
    }
}

/// The padding of a block in which n bytes are left of a message is what stands here from byte
/// `RATE` − n on, but for its last bit.
static PADDING: [u8; 2 * RATE] = {
    let mut padding = [0; 2 * RATE];
    padding[RATE] = 0x01;
    padding
};

/// The lowest `n` bits, all 64 if there are more.
fn low_bits(n: usize) -> u64 {
    if n < 64 { (1 << n) - 1 } else { u64::MAX }
}

/// See [`super::sponge::Absorb`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn absorb(states: &mut States<LANES>, fresh: u32, rests: &[&[u8]; LANES]) {
    // A row is what one lane absorbs: words 0 to 7, 8 to 15, and 16 in the lower half.
    let mut first = [_mm512_set1_epi64(0); LANES];
    let mut second = first;
    let mut third = [_mm_set1_epi64x(0); LANES];
    let mut ending = 0u8;
    for lane in 0..LANES {
        let rest = rests[lane];
        let left = rest.len().min(RATE);
        ending |= u8::from(left < RATE) << lane;
        // SAFETY: `left` is at most RATE, so RATE bytes of the padding follow.
        let padding = unsafe { PADDING.as_ptr().add(RATE - left) };
        // A load of which the mask stops all still waits for its page, so it gets one that is here.
        let at = |offset: usize| match rest.get(offset..) {
            Some(bytes @ [_, ..]) => bytes.as_ptr().cast::<i8>(),
            _ => PADDING.as_ptr().cast(),
        };
        let past_first = left.saturating_sub(64);
        let past_second = left.saturating_sub(128);
        // SAFETY: the masks let through no byte beyond `left`, which `rest` has, and what a mask
        // stops is not read; the loads of the padding end at its byte RATE, of 8 bytes the last.
        unsafe {
            first[lane] = _mm512_xor_si512(
                _mm512_maskz_loadu_epi8(low_bits(left), at(0)),
                _mm512_loadu_si512(padding.cast()),
            );
            second[lane] = _mm512_xor_si512(
                _mm512_maskz_loadu_epi8(low_bits(past_first), at(64)),
                _mm512_loadu_si512(padding.add(64).cast()),
            );
            third[lane] = _mm_xor_si128(
                _mm_maskz_loadu_epi8(low_bits(past_second) as u16, at(128)),
                _mm_loadl_epi64(padding.add(128).cast()),
            );
        }
    }
    let first = transpose(first);
    let second = transpose(second);
    let third = join(third);
    let third = _mm512_mask_xor_epi64(third, ending, third, _mm512_set1_epi64(i64::MIN));

    let kept = !(fresh as u8);
    let mut state = [Words(_mm512_set1_epi64(0)); WORDS];
    for (word, lanes) in state.iter_mut().zip(&states.0) {
        // SAFETY: eight words, and `States` is aligned to 64 bytes.
        word.0 = unsafe { _mm512_maskz_load_epi64(kept, lanes.as_ptr().cast()) };
    }
    for i in 0..8 {
        state[i].0 = _mm512_xor_si512(state[i].0, first[i]);
        state[8 + i].0 = _mm512_xor_si512(state[8 + i].0, second[i]);
    }
    state[16].0 = _mm512_xor_si512(state[16].0, third);

    let state = permute(state);
    for (word, lanes) in state.iter().zip(&mut states.0) {
        // SAFETY: eight words, and `States` is aligned to 64 bytes.
        unsafe { _mm512_store_si512(lanes.as_mut_ptr().cast(), word.0) };
    }
}

/// Rows of eight words to columns.
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose(rows: [__m512i; 8]) -> [__m512i; 8] {
    // Pairs of rows, then of pairs, then of fours; in `even` and `odd` are words 2i and 2i + 1.
    let even: [__m512i; 4] =
        core::array::from_fn(|i| _mm512_unpacklo_epi64(rows[2 * i], rows[2 * i + 1]));
    let odd: [__m512i; 4] =
        core::array::from_fn(|i| _mm512_unpackhi_epi64(rows[2 * i], rows[2 * i + 1]));
    let [w0, w2, w4, w6] = spread(even);
    let [w1, w3, w5, w7] = spread(odd);
    [w0, w1, w2, w3, w4, w5, w6, w7]
}

/// A transposition of four rows of four 128-bit quarters.
#[target_feature(enable = "avx512f")]
#[inline]
fn spread(rows: [__m512i; 4]) -> [__m512i; 4] {
    let [a, b, c, d] = rows;
    let low_ab = _mm512_shuffle_i64x2::<0b10_00_10_00>(a, b);
    let high_ab = _mm512_shuffle_i64x2::<0b11_01_11_01>(a, b);
    let low_cd = _mm512_shuffle_i64x2::<0b10_00_10_00>(c, d);
    let high_cd = _mm512_shuffle_i64x2::<0b11_01_11_01>(c, d);
    [
        _mm512_shuffle_i64x2::<0b10_00_10_00>(low_ab, low_cd),
        _mm512_shuffle_i64x2::<0b10_00_10_00>(high_ab, high_cd),
        _mm512_shuffle_i64x2::<0b11_01_11_01>(low_ab, low_cd),
        _mm512_shuffle_i64x2::<0b11_01_11_01>(high_ab, high_cd),
    ]
}

/// The lower words of eight rows.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
fn join(rows: [__m128i; 8]) -> __m512i {
    let pair = |i: usize| _mm_unpacklo_epi64(rows[2 * i], rows[2 * i + 1]);
    let joined = _mm512_castsi128_si512(pair(0));
    let joined = _mm512_inserti64x2::<1>(joined, pair(1));
    let joined = _mm512_inserti64x2::<2>(joined, pair(2));
    _mm512_inserti64x2::<3>(joined, pair(3))
}
