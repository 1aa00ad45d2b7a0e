//! The tree against vectors, and against itself by other ways.

use super::*;
use crate::poseidon2::hash;
use crate::vectors::{self, element, elements, list, number};
use proptest::prelude::*;

fn leaves(count: u64) -> Vec<Fr> {
    (1..=count).map(|i| hash(&[Fr::from_u64(i)])).collect()
}

fn tree(leaves: &[Fr]) -> LeanImt {
    let mut tree = LeanImt::new();
    tree.insert_many(leaves).unwrap();
    tree
}

#[test]
fn roots_and_proofs_equal_those_made_with_barretenberg() {
    let file = vectors::poseidon2();
    let all = elements(&file["leaves"]);
    for case in list(&file["trees"]) {
        let size = number(&case["size"]) as usize;
        let tree = tree(&all[..size]);
        assert_eq!(tree.root(), element(&case["root"]), "size {size}");
        assert_eq!(tree.depth() as u64, number(&case["depth"]), "size {size}");
        for (i, expected) in list(&case["proofs"]).iter().enumerate() {
            let proof = tree.proof(i).unwrap();
            assert_eq!(proof.leaf, element(&expected["leaf"]));
            assert_eq!(u64::from(proof.index), number(&expected["index"]));
            assert_eq!(proof.siblings, elements(&expected["siblings"]));
            assert!(proof.verify());
        }
    }
}

#[test]
fn leaves_one_by_one_give_the_tree_of_leaves_at_once() {
    let leaves = leaves(70);
    let mut grown = LeanImt::new();
    for (i, leaf) in leaves.iter().enumerate() {
        assert_eq!(grown.insert(*leaf), Ok(i));
        let at_once = tree(&leaves[..=i]);
        assert_eq!(grown.levels, at_once.levels);
        assert_eq!(grown.index_of(*leaf), Some(i));
    }
}

#[test]
fn a_truncated_tree_is_the_tree_before() {
    let leaves = leaves(40);
    for size in 0..=40 {
        let mut cut = tree(&leaves);
        cut.truncate(size);
        let before = tree(&leaves[..size]);
        assert_eq!(cut.levels, before.levels, "size {size}");
        assert_eq!(cut.positions, before.positions);
        cut.truncate(size + 1);
        assert_eq!(cut.len(), size);
        cut.insert_many(&leaves[size..]).unwrap();
        assert_eq!(cut.root(), tree(&leaves).root());
    }
}

#[test]
fn every_backend_and_number_of_threads_makes_the_same_tree() {
    // Enough for the lowest levels to be shared, and no power of two.
    let leaves = leaves(3 * LEAST_FOR_THREADS as u64 + 5);
    let mut expected = LeanImt::new();
    for leaf in &leaves[..20] {
        expected.insert(*leaf).unwrap();
    }
    expected.insert_many(&leaves[20..]).unwrap();
    for backend in cpu::available() {
        for threads in [0, 1, 2, 3, 7] {
            let mut tree = LeanImt::new();
            tree.insert_many_with(*backend, &leaves[..20], threads)
                .unwrap();
            tree.insert_many_with(*backend, &leaves[20..], threads)
                .unwrap();
            assert_eq!(tree.levels, expected.levels, "{backend:?} {threads}");
        }
    }
}

#[test]
fn a_zero_leaf_or_one_known_is_refused_and_changes_nothing() {
    let leaves = leaves(5);
    let mut tree = tree(&leaves[..3]);
    let before = (tree.root(), tree.len(), tree.positions.clone());
    let refusals = [
        (vec![leaves[3], Fr::ZERO], TreeError::ZeroLeaf),
        (
            vec![leaves[1]],
            TreeError::KnownLeaf {
                leaf: leaves[1],
                index: 1,
            },
        ),
        (
            vec![leaves[3], leaves[3]],
            TreeError::KnownLeaf {
                leaf: leaves[3],
                index: 3,
            },
        ),
        (
            vec![leaves[4], leaves[3], leaves[0]],
            TreeError::KnownLeaf {
                leaf: leaves[0],
                index: 0,
            },
        ),
    ];
    for (added, error) in refusals {
        assert_eq!(tree.insert_many(&added), Err(error));
        assert_eq!((tree.root(), tree.len(), tree.positions.clone()), before);
    }
    assert_eq!(tree.insert(leaves[3]), Ok(3));
}

#[test]
fn there_is_no_proof_beyond_the_leaves() {
    let tree = tree(&leaves(3));
    assert_eq!(
        tree.proof(3),
        Err(TreeError::NoSuchLeaf { index: 3, size: 3 })
    );
    assert!(LeanImt::new().proof(0).is_err());
    assert_eq!(LeanImt::new().root(), Fr::ZERO);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_parts_in_turn_with_any_cuts_between_give_the_same_tree(
        parts in prop::collection::vec((0usize..60, 0usize..90), 1..8),
        backend in prop::sample::select(cpu::available()),
    ) {
        let all = leaves(480);
        let mut tree = LeanImt::new();
        let mut one_by_one = LeanImt::new();
        for (added, kept) in parts {
            let next = tree.len();
            tree.insert_many_with(backend, &all[next..next + added], 2).unwrap();
            for leaf in &all[next..next + added] {
                one_by_one.insert(*leaf).unwrap();
            }
            prop_assert_eq!(&tree.levels, &one_by_one.levels);
            tree.truncate(kept);
            one_by_one = LeanImt::new();
            for leaf in &all[..tree.len()] {
                one_by_one.insert(*leaf).unwrap();
            }
            prop_assert_eq!(&tree.levels, &one_by_one.levels);
            prop_assert_eq!(&tree.positions, &one_by_one.positions);
        }
    }

    #[test]
    fn a_proof_with_anything_changed_does_not_verify(
        size in 2u64..40, chosen in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(),
    ) {
        let tree = tree(&leaves(size));
        let proof = tree.proof(chosen.index(size as usize)).unwrap();
        prop_assert!(proof.verify());
        let height = at.index(proof.siblings.len());
        let mut other = proof.clone();
        other.siblings[height] = other.siblings[height].add(Fr::ONE);
        prop_assert!(!other.verify());
        let mut other = proof.clone();
        other.index ^= 1 << height;
        prop_assert!(!other.verify());
        let mut other = proof.clone();
        other.siblings.pop();
        prop_assert!(!other.verify());
        // A bit beyond the siblings would be a second form of the same proof.
        let mut other = proof.clone();
        other.index |= 1 << proof.siblings.len();
        prop_assert!(!other.verify());
        let mut other = proof.clone();
        other.leaf = other.leaf.add(Fr::ONE);
        prop_assert!(!other.verify());
        let mut other = proof;
        other.root = other.root.add(Fr::ONE);
        prop_assert!(!other.verify());
    }
}
