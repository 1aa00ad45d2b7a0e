//! The tree of commitments: a LeanIMT, an incremental Merkle tree that grows as it fills.
//!
//! Two nodes make a parent `H2(left, right)`; a node without a right sibling passes up
//! unchanged, so it costs no hash and contributes nothing to a proof. The depth is the least
//! d with 2^d ≥ leaves, at most 32. A leaf is never zero and never there twice: a commitment
//! has one life.
//!
//! Leaves that come together are hashed level by level, so that all hashes of a level are
//! independent and go through [`hash_into`] in one batch, on several threads if it is large.
//!
//! Memory: every node is kept, 32 bytes each, two a leaf; to find leaves, each is in a hash
//! table with its index again, 41 bytes an entry in a table that is between 7/16 and 7/8
//! full. 2^20 leaves take 64 MiB of nodes and 82 MiB of table (2^21 entries).

use core::fmt;
use std::collections::HashMap;
use std::thread;

use crate::cpu::{self, Backend};
use crate::field::Fr;
use crate::poseidon2::{hash_into, hash_pair};

/// The most levels above the leaves.
pub const MAX_DEPTH: usize = 32;

/// From how many hashes of a level on they are shared among threads; starting one costs less
/// than a hundredth of them.
const LEAST_FOR_THREADS: usize = 4096;

/// What is wrong with a leaf or an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// The leaf is zero.
    ZeroLeaf,
    /// The leaf is in the tree, at this index.
    KnownLeaf {
        /// The leaf that is there twice.
        leaf: Fr,
        /// Where it is already.
        index: usize,
    },
    /// The index is at or beyond the number of leaves.
    NoSuchLeaf {
        /// The index asked for.
        index: usize,
        /// How many leaves there are.
        size: usize,
    },
    /// The tree has 2^32 leaves.
    Full,
}

impl TreeError {
    /// The name by which programs tell the errors apart.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::ZeroLeaf => "zero-leaf",
            Self::KnownLeaf { .. } => "known-leaf",
            Self::NoSuchLeaf { .. } => "no-such-leaf",
            Self::Full => "tree-full",
        }
    }
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroLeaf => f.write_str("a leaf is never zero"),
            Self::KnownLeaf { leaf, index } => {
                write!(f, "leaf {leaf:?} is in the tree already, at index {index}")
            }
            Self::NoSuchLeaf { index, size } => {
                write!(f, "there is no leaf {index}: the tree has {size}")
            }
            Self::Full => f.write_str("the tree is full: it holds 2^32 leaves"),
        }
    }
}

impl std::error::Error for TreeError {}

/// The way from a leaf to the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MerkleProof {
    /// The leaf.
    pub leaf: Fr,
    /// Where the leaf is among the leaves.
    pub leaf_index: usize,
    /// Bit i says whether, at the i-th sibling, our node is the right child.
    pub index: u32,
    /// The siblings that exist, from the leaf up.
    pub siblings: Vec<Fr>,
    /// The root that the way leads to.
    pub root: Fr,
}

impl MerkleProof {
    /// Whether the way leads from the leaf to the root. `leaf_index` is not looked at: it
    /// cannot be told from the siblings alone.
    #[must_use]
    pub fn verify(&self) -> bool {
        if self.siblings.len() > MAX_DEPTH || u64::from(self.index) >> self.siblings.len() != 0 {
            return false;
        }
        let mut node = self.leaf;
        for (i, sibling) in self.siblings.iter().enumerate() {
            node = if self.index >> i & 1 == 1 {
                hash_pair(*sibling, node)
            } else {
                hash_pair(node, *sibling)
            };
        }
        node == self.root
    }
}

/// A LeanIMT that keeps every node.
#[derive(Clone, Debug, Default)]
pub struct LeanImt {
    /// Level 0 is the leaves; the last level is the root alone. Empty for an empty tree.
    levels: Vec<Vec<Fr>>,
    positions: HashMap<Fr, usize>,
}

impl LeanImt {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many leaves there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.levels.first().map_or(0, Vec::len)
    }

    /// Whether there is no leaf.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many levels are above the leaves.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.levels.len().saturating_sub(1)
    }

    /// The root; zero for an empty tree.
    #[must_use]
    pub fn root(&self) -> Fr {
        self.levels.last().map_or(Fr::ZERO, |level| level[0])
    }

    /// The leaf at an index.
    #[must_use]
    pub fn leaf(&self, index: usize) -> Option<Fr> {
        self.levels.first()?.get(index).copied()
    }

    /// Where a leaf is.
    #[must_use]
    pub fn index_of(&self, leaf: Fr) -> Option<usize> {
        self.positions.get(&leaf).copied()
    }

    /// Appends a leaf and gives its index.
    ///
    /// # Errors
    /// `ZeroLeaf`, `KnownLeaf` or `Full`; the tree is then unchanged.
    pub fn insert(&mut self, leaf: Fr) -> Result<usize, TreeError> {
        let index = self.len();
        self.insert_many(&[leaf])?;
        Ok(index)
    }

    /// Appends leaves, hashing each new node once, on one thread.
    ///
    /// # Errors
    /// `ZeroLeaf`, `KnownLeaf` or `Full`; the tree is then unchanged.
    pub fn insert_many(&mut self, leaves: &[Fr]) -> Result<(), TreeError> {
        self.insert_many_with(cpu::best(), leaves, 1)
    }

    /// As [`Self::insert_many`], on a backend and on at most so many threads (0 counts as 1).
    /// The tree is the same for all of them. Levels of fewer than 4096 new nodes take one.
    ///
    /// # Errors
    /// As [`Self::insert_many`].
    pub fn insert_many_with(
        &mut self,
        backend: Backend,
        leaves: &[Fr],
        threads: usize,
    ) -> Result<(), TreeError> {
        let first = self.len();
        if (first + leaves.len()) as u64 > 1 << MAX_DEPTH {
            return Err(TreeError::Full);
        }
        self.positions.reserve(leaves.len());
        for (added, leaf) in leaves.iter().enumerate() {
            let refusal = if *leaf == Fr::ZERO {
                Some(TreeError::ZeroLeaf)
            } else {
                self.positions.get(leaf).map(|index| TreeError::KnownLeaf {
                    leaf: *leaf,
                    index: *index,
                })
            };
            if let Some(error) = refusal {
                for taken in &leaves[..added] {
                    self.positions.remove(taken);
                }
                return Err(error);
            }
            self.positions.insert(*leaf, first + added);
        }
        if leaves.is_empty() {
            return Ok(());
        }
        if self.levels.is_empty() {
            self.levels.push(Vec::new());
        }
        self.levels[0].extend_from_slice(leaves);
        self.rebuild_from(backend, first, threads);
        Ok(())
    }

    /// Drops every leaf from an index on, as a reorganised chain does. Does nothing if there
    /// are no more leaves than that.
    pub fn truncate(&mut self, size: usize) {
        if size >= self.len() {
            return;
        }
        for leaf in self.levels[0].drain(size..) {
            self.positions.remove(&leaf);
        }
        if size == 0 {
            self.levels.clear();
        } else {
            self.rebuild_from(cpu::best(), size - 1, 1);
        }
    }

    /// Makes every level above the leaves right again, given that no leaf below `first`
    /// changed since they were.
    fn rebuild_from(&mut self, backend: Backend, first: usize, threads: usize) {
        let mut first = first;
        let mut level = 0;
        while self.levels[level].len() > 1 {
            if self.levels.len() == level + 1 {
                self.levels.push(Vec::new());
            }
            let (below, above) = self.levels.split_at_mut(level + 1);
            let (children, parents) = (&below[level], &mut above[0]);
            first /= 2;
            parents.truncate(first);
            let (pairs, lone) = children[2 * first..].as_chunks::<2>();
            parents.resize(first + pairs.len(), Fr::ZERO);
            hash_level(
                backend,
                pairs.as_flattened(),
                &mut parents[first..],
                threads,
            );
            parents.extend_from_slice(lone);
            level += 1;
        }
        self.levels.truncate(level + 1);
    }

    /// The way from a leaf to the root.
    ///
    /// # Errors
    /// `NoSuchLeaf` if the index is not below the number of leaves.
    pub fn proof(&self, leaf_index: usize) -> Result<MerkleProof, TreeError> {
        let leaf = self.leaf(leaf_index).ok_or(TreeError::NoSuchLeaf {
            index: leaf_index,
            size: self.len(),
        })?;
        let mut siblings = Vec::with_capacity(self.depth());
        let mut index = 0u32;
        let mut position = leaf_index;
        for level in &self.levels[..self.depth()] {
            if let Some(sibling) = level.get(position ^ 1) {
                index |= ((position & 1) as u32) << siblings.len();
                siblings.push(*sibling);
            }
            position /= 2;
        }
        Ok(MerkleProof {
            leaf,
            leaf_index,
            index,
            siblings,
            root: self.root(),
        })
    }
}

/// The parents of children that all have a sibling.
fn hash_level(backend: Backend, children: &[Fr], parents: &mut [Fr], threads: usize) {
    if threads < 2 || parents.len() < LEAST_FOR_THREADS {
        return hash_into(backend, 2, children, parents);
    }
    let share = parents.len().div_ceil(threads);
    let shares = children.chunks(2 * share).zip(parents.chunks_mut(share));
    thread::scope(|scope| {
        for (children, parents) in shares {
            scope.spawn(move || hash_into(backend, 2, children, parents));
        }
    });
}

#[cfg(test)]
mod tests {
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
}
