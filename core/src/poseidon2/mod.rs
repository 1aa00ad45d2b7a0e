//! Poseidon2 over BN254, width 4: the hash of commitments, nullifiers, custody ids and the tree.
//!
//! The permutation is that of Grassi, Khovratovich and Schofnegger, "Poseidon2: A Faster
//! Version of the Poseidon Hash Function" (eprint 2023/323), in the instance for BN254 with
//! t = 4, d = 5, 8 full and 56 partial rounds that Horizen Labs published with the paper and
//! that Noir's standard library and Barretenberg use. Its round constants are defined by the
//! Grain LFSR of the Poseidon papers; `ROUND_CONSTANTS` is computed from that definition by
//! the compiler, so there is no table to trust. The diagonal of the inner matrix is the one
//! of that instance; it and everything else here is held against Barretenberg by
//! `tests/vectors/poseidon2.json`.
//!
//! The sponge has rate 3; its capacity starts as (number of inputs) × 2^64. [`hash`] of n
//! inputs is `H_n` in the design and Barretenberg's `poseidon2_hash`.

mod constants;
#[cfg(target_arch = "x86_64")]
mod lanes;
#[cfg(target_arch = "x86_64")]
mod limbs;
mod scalar;

pub use constants::WIDTH;

use crate::cpu::{self, Backend};
use crate::field::Fr;
use constants::{RATE, capacity};

/// From how many permutations on eight lanes are quicker than one after the other: a whole
/// vector takes as long as two.
#[cfg(target_arch = "x86_64")]
const LEAST_FOR_LANES: usize = 3;

/// The Poseidon2 permutation, in place.
pub fn permute(state: &mut [Fr; WIDTH]) {
    scalar::permute(cpu::best(), state);
}

/// `H_n`: the hash of `n` field elements. The empty input has a hash too, `H_0`.
#[must_use]
pub fn hash(inputs: &[Fr]) -> Fr {
    hash_with(cpu::best(), inputs)
}

/// As [`hash`], on a backend. One hash alone takes the 64-bit multiplier on all of them; with
/// AVX2 or more, its newer instructions.
#[must_use]
pub fn hash_with(backend: Backend, inputs: &[Fr]) -> Fr {
    let mut state = [Fr::ZERO, Fr::ZERO, Fr::ZERO, capacity(inputs.len())];
    let mut chunks = inputs.chunks(RATE);
    let absorb = |state: &mut [Fr; WIDTH], chunk: &[Fr]| {
        for (element, input) in state.iter_mut().zip(chunk) {
            *element = element.add(*input);
        }
        scalar::permute(backend, state);
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

/// Permutes many states, each in place; faster than one by one.
pub fn permute_many(states: &mut [[Fr; WIDTH]]) {
    permute_many_with(cpu::best(), states);
}

/// As [`permute_many`], on a backend.
pub fn permute_many_with(backend: Backend, states: &mut [[Fr; WIDTH]]) {
    #[cfg(target_arch = "x86_64")]
    if cpu::at_most(backend) == Backend::Avx512 {
        for states in states.chunks_mut(2 * lanes::LANES) {
            if states.len() > lanes::LANES {
                // SAFETY: `at_most` lets the backend through only where the processor has it.
                unsafe { lanes::permute_states::<2>(states) };
            } else if states.len() >= LEAST_FOR_LANES {
                // SAFETY: as above.
                unsafe { lanes::permute_states::<1>(states) };
            } else {
                permute_in_turn(backend, states);
            }
        }
        return;
    }
    permute_in_turn(backend, states);
}

fn permute_in_turn(backend: Backend, states: &mut [[Fr; WIDTH]]) {
    for state in states {
        scalar::permute(backend, state);
    }
}

/// Many hashes of the same number of inputs, which are back to back; in their order, and
/// faster than one by one.
///
/// # Panics
/// If `arity` is zero (how many hashes would there be?) or does not divide how many inputs
/// there are.
#[must_use]
pub fn hash_many(arity: usize, inputs: &[Fr]) -> Vec<Fr> {
    hash_many_with(cpu::best(), arity, inputs)
}

/// As [`hash_many`], on a backend. AVX2 has no product wider than 32 bits, of which an element
/// would need some 200 where the 64-bit multiplier needs 36; four lanes of it win nothing, so
/// hashes are made one after the other there, as on the portable backend.
///
/// # Panics
/// As [`hash_many`].
#[must_use]
pub fn hash_many_with(backend: Backend, arity: usize, inputs: &[Fr]) -> Vec<Fr> {
    assert!(arity > 0, "a batch is of hashes of at least one input");
    let mut hashes = vec![Fr::ZERO; inputs.len() / arity];
    hash_into(backend, arity, inputs, &mut hashes);
    hashes
}

/// As [`hash_many_with`], into a slice.
///
/// # Panics
/// If there are not exactly `arity` inputs for each hash.
pub fn hash_into(backend: Backend, arity: usize, inputs: &[Fr], hashes: &mut [Fr]) {
    assert_eq!(
        inputs.len(),
        arity * hashes.len(),
        "inputs are whole hashes"
    );
    #[cfg(target_arch = "x86_64")]
    if cpu::at_most(backend) == Backend::Avx512 {
        const BOTH: usize = 2 * lanes::LANES;
        for (inputs, hashes) in inputs.chunks(BOTH * arity).zip(hashes.chunks_mut(BOTH)) {
            if hashes.len() > lanes::LANES {
                // SAFETY: `at_most` lets the backend through only where the processor has it.
                unsafe { lanes::hash::<2>(arity, inputs, hashes) };
            } else if hashes.len() >= LEAST_FOR_LANES {
                // SAFETY: as above.
                unsafe { lanes::hash::<1>(arity, inputs, hashes) };
            } else {
                hash_in_turn(backend, arity, inputs, hashes);
            }
        }
        return;
    }
    hash_in_turn(backend, arity, inputs, hashes);
}

fn hash_in_turn(backend: Backend, arity: usize, inputs: &[Fr], hashes: &mut [Fr]) {
    for (inputs, hash) in inputs.chunks(arity).zip(hashes) {
        *hash = hash_with(backend, inputs);
    }
}

#[cfg(test)]
mod tests {
    use super::constants::{INNER_DIAGONAL, ROUND_CONSTANTS};
    use super::*;
    use crate::field::MODULUS;
    use crate::vectors::{self, array, element, elements, list};
    use ark_ff::{Field, PrimeField};
    use proptest::prelude::*;

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

    fn ark(element: Fr) -> ark_bn254::Fr {
        ark_bn254::Fr::from_be_bytes_mod_order(&element.to_bytes())
    }

    /// The permutation as the paper writes it, in arkworks' arithmetic.
    fn permuted_by_arkworks(state: [Fr; WIDTH]) -> Vec<ark_bn254::Fr> {
        let outer = |s: &[ark_bn254::Fr]| {
            let rows: [[u64; WIDTH]; WIDTH] =
                [[5, 7, 1, 3], [4, 6, 1, 1], [1, 3, 5, 7], [1, 1, 4, 6]];
            let dot = |row: [u64; WIDTH]| {
                let products = row.into_iter().zip(s);
                products.map(|(a, x)| ark_bn254::Fr::from(a) * x).sum()
            };
            rows.map(dot).to_vec()
        };
        let full = |state: Vec<ark_bn254::Fr>, constants: &[Fr; WIDTH]| {
            let sums = state.iter().zip(constants).map(|(x, c)| *x + ark(*c));
            outer(&sums.map(|x| x.pow([5])).collect::<Vec<_>>())
        };
        let mut state = outer(&state.map(ark));
        for constants in &ROUND_CONSTANTS.first_full {
            state = full(state, constants);
        }
        for constant in &ROUND_CONSTANTS.partial {
            state[0] = (state[0] + ark(*constant)).pow([5]);
            let sum: ark_bn254::Fr = state.iter().sum();
            for (x, diagonal) in state.iter_mut().zip(INNER_DIAGONAL) {
                *x = *x * ark(diagonal) + sum;
            }
        }
        for constants in &ROUND_CONSTANTS.last_full {
            state = full(state, constants);
        }
        state
    }

    /// Random elements, with the edges of the field and of limbs of either size drawn often.
    fn any_element() -> impl Strategy<Value = Fr> {
        let limb = prop_oneof![
            Just(0),
            Just(1),
            Just(u64::MAX),
            Just((1 << 52) - 1),
            Just(1 << 52),
            any::<u64>()
        ];
        prop_oneof![
            1 => Just(Fr::ZERO),
            1 => Just(Fr::ONE),
            1 => Just(greatest()),
            3 => prop::array::uniform4(limb)
                .prop_map(|[a, b, c, d]| Fr::from_limbs([a, b, c, d % MODULUS[3]]).unwrap()),
            4 => any::<[u8; 32]>().prop_map(Fr::from_bytes_reduced),
        ]
    }

    /// p − 1.
    fn greatest() -> Fr {
        Fr::from_limbs([MODULUS[0] - 1, MODULUS[1], MODULUS[2], MODULUS[3]]).unwrap()
    }

    #[test]
    fn many_hashes_on_every_backend_equal_barretenbergs() {
        let file = vectors::poseidon2();
        let mut by_arity = std::collections::BTreeMap::<usize, (Vec<Fr>, Vec<Fr>)>::new();
        for case in list(&file["hashes"]) {
            let inputs = elements(&case["inputs"]);
            let (all, hashes) = by_arity.entry(inputs.len()).or_default();
            all.extend(inputs);
            hashes.push(element(&case["hash"]));
        }
        for (arity, (inputs, hashes)) in by_arity.iter().filter(|(arity, _)| **arity > 0) {
            for backend in cpu::available() {
                assert_eq!(
                    &hash_many_with(*backend, *arity, inputs),
                    hashes,
                    "{backend:?} {arity}"
                );
                // A whole group of lanes, of each case in turn.
                for (inputs, hash) in inputs.chunks(*arity).zip(hashes) {
                    let group = hash_many_with(*backend, *arity, &inputs.repeat(16));
                    assert_eq!(group, [*hash; 16]);
                }
            }
        }
    }

    #[test]
    fn many_permutations_on_every_backend_equal_barretenbergs() {
        let file = vectors::poseidon2();
        let cases = list(&file["permutations"]);
        let states: Vec<[Fr; WIDTH]> = cases
            .iter()
            .map(|case| elements(&case["state"]).try_into().unwrap())
            .collect();
        for backend in cpu::available() {
            let mut all = states.repeat(9);
            permute_many_with(*backend, &mut all);
            for (i, state) in all.iter().enumerate() {
                assert_eq!(
                    state.to_vec(),
                    elements(&cases[i % cases.len()]["result"]),
                    "{backend:?} {i}"
                );
            }
        }
    }

    #[test]
    fn every_number_of_hashes_comes_out_in_order_on_every_backend() {
        for count in [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 64] {
            for arity in [1, 2, 3, 4, 7] {
                let inputs: Vec<Fr> = (0..(count * arity) as u64)
                    .map(|i| greatest().mul(Fr::from_u64(i + 1)))
                    .collect();
                let expected: Vec<Fr> = inputs.chunks(arity).map(hash).collect();
                assert_eq!(hash_many(arity, &inputs), expected);
                for backend in cpu::available() {
                    assert_eq!(hash_many_with(*backend, arity, &inputs), expected);
                }
            }
        }
    }

    #[test]
    fn edges_of_the_field_in_every_place_hash_alike_on_every_backend() {
        let edges = [Fr::ZERO, Fr::ONE, greatest(), Fr::from_u128(u128::MAX)];
        let mut states = Vec::new();
        for a in edges {
            for b in edges {
                for c in edges {
                    states.extend(edges.map(|d| [a, b, c, d]));
                }
            }
        }
        let mut expected = states.clone();
        expected.iter_mut().for_each(permute);
        for (state, result) in states.iter().zip(&expected) {
            assert_eq!(result.map(ark).to_vec(), permuted_by_arkworks(*state));
        }
        for backend in cpu::available() {
            let mut permuted = states.clone();
            permute_many_with(*backend, &mut permuted);
            assert_eq!(permuted, expected, "{backend:?}");
        }
    }

    #[test]
    #[should_panic(expected = "at least one input")]
    fn a_batch_of_hashes_of_nothing_is_refused() {
        let _ = hash_many(0, &[]);
    }

    #[test]
    #[should_panic(expected = "whole hashes")]
    fn inputs_left_over_are_refused() {
        let _ = hash_many(2, &[Fr::ONE; 3]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn every_backend_permutes_as_arkworks(
            states in prop::collection::vec(prop::array::uniform4(any_element()), 0..20),
        ) {
            let expected: Vec<_> = states.iter().map(|state| permuted_by_arkworks(*state)).collect();
            for backend in cpu::available() {
                let mut permuted = states.clone();
                permute_many_with(*backend, &mut permuted);
                for (state, expected) in permuted.iter().zip(&expected) {
                    prop_assert_eq!(&state.map(ark).to_vec(), expected);
                }
            }
        }

        #[test]
        fn every_backend_hashes_as_one_by_one(
            arity in 1usize..9, inputs in prop::collection::vec(any_element(), 0..160),
        ) {
            let whole = inputs.len() / arity * arity;
            let inputs = &inputs[..whole];
            let expected: Vec<Fr> =
                inputs.chunks(arity).map(|one| hash_with(Backend::Portable, one)).collect();
            for backend in cpu::available() {
                prop_assert_eq!(&hash_many_with(*backend, arity, inputs), &expected);
            }
        }
    }

    #[test]
    fn a_trailing_zero_changes_the_hash() {
        assert_ne!(hash(&[Fr::ONE]), hash(&[Fr::ONE, Fr::ZERO]));
        assert_ne!(hash(&[]), hash(&[Fr::ZERO]));
    }
}
