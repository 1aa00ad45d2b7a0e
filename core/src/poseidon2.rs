//! Poseidon2 over BN254, width 4: the hash of commitments, nullifiers, custody ids and the tree.
//!
//! The permutation is that of Grassi, Khovratovich and Schofnegger, "Poseidon2: A Faster
//! Version of the Poseidon Hash Function" (eprint 2023/323), in the instance for BN254 with
//! t = 4, d = 5, 8 full and 56 partial rounds that Horizen Labs published with the paper and
//! that Noir's standard library and Barretenberg use. Its round constants are defined by the
//! Grain LFSR of the Poseidon papers; [`ROUND_CONSTANTS`] is computed from that definition by
//! the compiler, so there is no table to trust. The diagonal of the inner matrix is the one
//! of that instance; it and everything else here is held against Barretenberg by
//! `tests/vectors/poseidon2.json`.
//!
//! The sponge has rate 3; its capacity starts as (number of inputs) × 2^64. [`hash`] of n
//! inputs is `H_n` in the design and Barretenberg's `poseidon2_hash`.

use crate::field::Fr;

/// The width of the permutation.
pub const WIDTH: usize = 4;
const RATE: usize = 3;
const FULL_ROUNDS: usize = 8;
const PARTIAL_ROUNDS: usize = 56;

/// The constants of one permutation, in the order of use.
struct RoundConstants {
    first_full: [[Fr; WIDTH]; FULL_ROUNDS / 2],
    partial: [Fr; PARTIAL_ROUNDS],
    last_full: [[Fr; WIDTH]; FULL_ROUNDS / 2],
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
static ROUND_CONSTANTS: RoundConstants = draw_round_constants();

/// The inner matrix is all ones plus this diagonal, drawn by Horizen Labs' parameter script
/// for this instance so that no subspace trail survives the partial rounds.
static INNER_DIAGONAL: [Fr; WIDTH] = [
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

#[inline(always)]
fn fifth_power(x: Fr) -> Fr {
    x.square().square().mul(x)
}

/// The outer matrix of width 4: M4 of the paper, in eight additions and four doublings.
#[inline(always)]
fn outer_layer(state: &mut [Fr; WIDTH]) {
    let [a, b, c, d] = *state;
    let ab = a.add(b);
    let cd = c.add(d);
    let b2_cd = b.double().add(cd);
    let d2_ab = d.double().add(ab);
    let last = cd.double().double().add(d2_ab);
    let second = ab.double().double().add(b2_cd);
    *state = [d2_ab.add(second), second, b2_cd.add(last), last];
}

#[inline(always)]
fn full_round(state: &mut [Fr; WIDTH], constants: &[Fr; WIDTH]) {
    for (element, constant) in state.iter_mut().zip(constants) {
        *element = fifth_power(element.add(*constant));
    }
    outer_layer(state);
}

/// The Poseidon2 permutation, in place.
pub fn permute(state: &mut [Fr; WIDTH]) {
    outer_layer(state);
    for constants in &ROUND_CONSTANTS.first_full {
        full_round(state, constants);
    }
    for constant in &ROUND_CONSTANTS.partial {
        // The three elements that skip the power map are multiplied while it runs.
        let tail = state[1].add(state[2]).add(state[3]);
        let scaled: [Fr; WIDTH - 1] = [
            state[1].mul(INNER_DIAGONAL[1]),
            state[2].mul(INNER_DIAGONAL[2]),
            state[3].mul(INNER_DIAGONAL[3]),
        ];
        let first = fifth_power(state[0].add(*constant));
        let sum = first.add(tail);
        *state = [
            first.mul(INNER_DIAGONAL[0]).add(sum),
            scaled[0].add(sum),
            scaled[1].add(sum),
            scaled[2].add(sum),
        ];
    }
    for constants in &ROUND_CONSTANTS.last_full {
        full_round(state, constants);
    }
}

/// `H_n`: the hash of `n` field elements. The empty input has a hash too, `H_0`.
#[must_use]
pub fn hash(inputs: &[Fr]) -> Fr {
    let length = inputs.len() as u128;
    let mut state = [Fr::ZERO, Fr::ZERO, Fr::ZERO, Fr::from_u128(length << 64)];
    let mut chunks = inputs.chunks(RATE);
    let absorb = |state: &mut [Fr; WIDTH], chunk: &[Fr]| {
        for (element, input) in state.iter_mut().zip(chunk) {
            *element = element.add(*input);
        }
        permute(state);
    };
    absorb(&mut state, chunks.next().unwrap_or(&[]));
    for chunk in chunks {
        absorb(&mut state, chunk);
    }
    state[0]
}

/// `H_2`, the hash that the tree's nodes are made of.
#[must_use]
pub fn hash_pair(left: Fr, right: Fr) -> Fr {
    hash(&[left, right])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{self, array, element, elements, list};

    #[test]
    fn the_permutation_equals_barretenbergs() {
        let file = vectors::poseidon2();
        for case in list(&file["permutations"]) {
            let mut state: [Fr; WIDTH] = elements(&case["state"]).try_into().unwrap();
            permute(&mut state);
            assert_eq!(state.to_vec(), elements(&case["result"]));
        }
    }

    #[test]
    fn hashes_of_every_length_equal_barretenbergs() {
        let file = vectors::poseidon2();
        let cases = list(&file["hashes"]);
        assert!(cases.len() > 50);
        for case in cases {
            assert_eq!(
                hash(&elements(&case["inputs"])),
                element(&case["hash"]),
                "{case}"
            );
        }
    }

    #[test]
    fn custody_ids_follow_the_formula() {
        let file = vectors::poseidon2();
        let halves = |bytes: [u8; 32]| {
            let half = |at: usize| {
                Fr::from_u128(u128::from_be_bytes(bytes[at..at + 16].try_into().unwrap()))
            };
            [half(0), half(16)]
        };
        for case in list(&file["custodies"]) {
            let key = |party: &serde_json::Value| {
                let key = hash(&[halves(array(&party["x"])), halves(array(&party["y"]))].concat());
                assert_eq!(key, element(&party["key"]));
                key
            };
            let [high, low] = halves(array(&case["terms"]));
            let (trader, solver) = (key(&case["trader"]), key(&case["solver"]));
            let id = hash(&[trader, solver, high, low, element(&case["salt"])]);
            assert_eq!(id, element(&case["custodyId"]));
        }
    }

    #[test]
    fn commitments_and_nullifiers_follow_the_formula() {
        let file = vectors::poseidon2();
        for case in list(&file["notes"]) {
            let [id, blinding, token, amount] =
                ["custodyId", "blinding", "token", "amount"].map(|name| element(&case[name]));
            let inner = hash_pair(id, blinding);
            assert_eq!(inner, element(&case["inner"]));
            let commitment = hash(&[inner, token, amount]);
            assert_eq!(commitment, element(&case["commitment"]));
            let nullifier = hash(&[commitment, blinding, Fr::ONE]);
            assert_eq!(nullifier, element(&case["nullifier"]));
        }
    }

    #[test]
    fn a_trailing_zero_changes_the_hash() {
        assert_ne!(hash(&[Fr::ONE]), hash(&[Fr::ONE, Fr::ZERO]));
        assert_ne!(hash(&[]), hash(&[Fr::ZERO]));
    }
}
