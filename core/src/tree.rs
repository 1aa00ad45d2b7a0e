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
mod tests;
