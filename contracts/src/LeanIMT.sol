// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {Poseidon2} from "./Poseidon2.sol";

/// @title LeanIMT
/// @notice An incremental Merkle tree of `H2` whose depth grows with it: a node without a right sibling
/// passes up unchanged.
///
///     size 5          root = H(peak[2], peak[0])
///                    /    \
///             peak[2]      peak[0]         a set bit of the size is a peak: the root of a
///            /       \        |            complete subtree with that power of two of leaves
///          .           .      |
///        /   \       /   \    |
///      l0     l1   l2     l3  l4
///
/// @dev Since nothing is ever changed or removed, only the peaks need to be kept. A new leaf closes the
/// peaks of the size's trailing ones, as in adding one to a binary number, and becomes one new peak: one
/// storage write. The root joins the peaks from the smallest up: one hash for each set bit of the size
/// but one. So a leaf costs as many hashes as its index has set bits, not as the tree has levels.
library LeanIMT {
    /// @notice Most leaves: the circuits take paths of at most 32 siblings.
    uint256 internal constant CAPACITY = 1 << 32;

    /// @dev `peaks[l]` means something only while bit `l` of `size` is set.
    struct Tree {
        uint256 size;
        uint256[33] peaks;
    }

    /// @notice Adds one leaf; the caller has made sure of room.
    /// @return index Of the leaf.
    /// @return newRoot Of the tree with it.
    function insert(Tree storage tree, uint256 leaf) internal returns (uint256 index, uint256 newRoot) {
        index = tree.size;
        tree.size = index + 1;
        (uint256 node, uint256 level) = _close(tree, index, 0, leaf);
        tree.peaks[level] = node;
        newRoot = _join(tree, index + 1, level, node);
    }

    /// @notice Adds two leaves at once; the caller has made sure of room. The tree never has the root that
    /// it would have had with the first alone.
    /// @return index Of the first leaf.
    /// @return newRoot Of the tree with both.
    function insertTwo(Tree storage tree, uint256 leaf0, uint256 leaf1)
        internal
        returns (uint256 index, uint256 newRoot)
    {
        index = tree.size;
        tree.size = index + 2;
        uint256 node;
        uint256 level;
        if (index & 1 == 0) {
            // Siblings: the first is never a peak, so it is not stored.
            (node, level) = _close(tree, index >> 1, 1, Poseidon2.hash2(leaf0, leaf1));
            tree.peaks[level] = node;
            newRoot = _join(tree, index + 2, level, node);
        } else {
            // The first closes peaks, the second is alone and joins what the first made.
            (node, level) = _close(tree, index, 0, leaf0);
            tree.peaks[level] = node;
            tree.peaks[0] = leaf1;
            newRoot = _join(tree, index + 1, level, Poseidon2.hash2(node, leaf1));
        }
    }

    /// @notice The root now, zero for the empty tree.
    function root(Tree storage tree) internal view returns (uint256) {
        uint256 size = tree.size;
        if (size == 0) return 0;
        uint256 level;
        while ((size >> level) & 1 == 0) ++level;
        return _join(tree, size, level, tree.peaks[level]);
    }

    /// @dev Carries `node`, at `level`, over the trailing ones of `ones`: the peaks to its left.
    function _close(Tree storage tree, uint256 ones, uint256 level, uint256 node)
        private
        view
        returns (uint256, uint256)
    {
        unchecked {
            while (ones & 1 != 0) {
                node = Poseidon2.hash2(tree.peaks[level], node);
                ones >>= 1;
                ++level;
            }
        }
        return (node, level);
    }

    /// @dev Joins `node`, which stands for all peaks up to `level`, with those above it.
    function _join(Tree storage tree, uint256 size, uint256 level, uint256 node)
        private
        view
        returns (uint256)
    {
        unchecked {
            uint256 rest = size >> (++level);
            while (rest != 0) {
                if (rest & 1 != 0) node = Poseidon2.hash2(tree.peaks[level], node);
                rest >>= 1;
                ++level;
            }
        }
        return node;
    }
}
