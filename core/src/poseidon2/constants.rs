//! The instance: its width and rounds, the round constants, drawn by the Grain LFSR, and the
//! diagonal of the inner matrix.

use crate::field::Fr;

/// The width of the permutation.
pub const WIDTH: usize = 4;
pub(super) const RATE: usize = 3;
pub(super) const FULL_ROUNDS: usize = 8;
pub(super) const PARTIAL_ROUNDS: usize = 56;

/// What the capacity starts as for a number of inputs.
pub(super) fn capacity(inputs: usize) -> Fr {
    Fr::from_u128((inputs as u128) << 64)
}

/// The constants of one permutation, in the order of use.
pub(super) struct RoundConstants {
    pub(super) first_full: [[Fr; WIDTH]; FULL_ROUNDS / 2],
    pub(super) partial: [Fr; PARTIAL_ROUNDS],
    pub(super) last_full: [[Fr; WIDTH]; FULL_ROUNDS / 2],
}

/// The Grain LFSR in its self-shrinking mode, as the Poseidon papers use it to draw numbers
/// that nobody can have chosen. The state is 80 bits; bit 0 is the oldest.
struct Grain(u128);

impl Grain {
    /// The generator for a prime field (1), the power map x^5 (0), 254-bit numbers and the
    /// widths and rounds of this instance, then thirty ones; its first 160 bits are dropped.
    const fn new() -> Self {
        let fields: [(u128, u32); 7] = [
            (1, 2),
            (0, 4),
            (254, 12),
            (WIDTH as u128, 12),
            (FULL_ROUNDS as u128, 10),
            (PARTIAL_ROUNDS as u128, 10),
            ((1 << 30) - 1, 30),
        ];
        let mut state = 0u128;
        let mut at = 0;
        let mut field = 0;
        while field < fields.len() {
            let (value, width) = fields[field];
            let mut bit = width;
            while bit > 0 {
                bit -= 1;
                state |= (value >> bit & 1) << at;
                at += 1;
            }
            field += 1;
        }
        let mut grain = Self(state);
        let mut dropped = 0;
        while dropped < 160 {
            grain.step();
            dropped += 1;
        }
        grain
    }

    const fn step(&mut self) -> u128 {
        let s = self.0;
        let bit = (s >> 62 ^ s >> 51 ^ s >> 38 ^ s >> 23 ^ s >> 13 ^ s) & 1;
        self.0 = s >> 1 | bit << 79;
        bit
    }

    /// Of each pair of bits the second counts if the first is one.
    const fn bit(&mut self) -> u64 {
        while self.step() == 0 {
            self.step();
        }
        self.step() as u64
    }

    /// The next number below the modulus; larger ones are drawn again.
    const fn element(&mut self) -> Fr {
        loop {
            let mut limbs = [0u64; 4];
            let mut i = 254;
            while i > 0 {
                i -= 1;
                limbs[i / 64] |= self.bit() << (i % 64);
            }
            if let Some(element) = Fr::from_limbs(limbs) {
                return element;
            }
        }
    }
}

#[allow(long_running_const_eval)]
const fn draw_round_constants() -> RoundConstants {
    let mut grain = Grain::new();
    let mut constants = RoundConstants {
        first_full: [[Fr::ZERO; WIDTH]; FULL_ROUNDS / 2],
        partial: [Fr::ZERO; PARTIAL_ROUNDS],
        last_full: [[Fr::ZERO; WIDTH]; FULL_ROUNDS / 2],
    };
    let mut i = 0;
    while i < FULL_ROUNDS / 2 * WIDTH {
        constants.first_full[i / WIDTH][i % WIDTH] = grain.element();
        i += 1;
    }
    i = 0;
    while i < PARTIAL_ROUNDS {
        constants.partial[i] = grain.element();
        i += 1;
    }
    i = 0;
    while i < FULL_ROUNDS / 2 * WIDTH {
        constants.last_full[i / WIDTH][i % WIDTH] = grain.element();
        i += 1;
    }
    constants
}

#[allow(long_running_const_eval)]
pub(super) static ROUND_CONSTANTS: RoundConstants = draw_round_constants();

/// The inner matrix is all ones plus this diagonal, drawn by Horizen Labs' parameter script
/// for this instance so that no subspace trail survives the partial rounds.
pub(super) static INNER_DIAGONAL: [Fr; WIDTH] = [
    constant(
        0x10dc6e9c006ea38b04b1e03b4bd9490c,
        0x0d03f98929ca1d7fb56821fd19d3b6e7,
    ),
    constant(
        0x0c28145b6a44df3e0149b3d0a30b3bb5,
        0x99df9756d4dd9b84a86b38cfb45a740b,
    ),
    constant(
        0x00544b8338791518b2c7645a50392798,
        0xb21f75bb60e3596170067d00141cac15,
    ),
    constant(
        0x222c01175718386f2e2e82eb122789e3,
        0x52e105a3b8fa852613bc534433ee428b,
    ),
];

const fn constant(high: u128, low: u128) -> Fr {
    let limbs = [
        low as u64,
        (low >> 64) as u64,
        high as u64,
        (high >> 64) as u64,
    ];
    match Fr::from_limbs(limbs) {
        Some(element) => element,
        None => panic!("a constant of the field is below its modulus"),
    }
}
