// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

/// @title OracleRounds
/// @notice Rounds of oracle prices: all feeds of one moment under one Merkle root, which a threshold of
/// signers signs (spec.md 41, 47).
///
///     leaf    keccak256(feed ‖ epoch ‖ value)       96 bytes; sorted by feed, then epoch
///     node    keccak256(left ‖ right)               64 bytes; without a right sibling it passes up unchanged
///     digest  EIP-712 OracleRound(bytes32 root,uint64 timestamp)
///
/// Leaves are hashes of 96 bytes and nodes of 64, so neither passes for the other, and the root fixes the
/// shape of the whole tree. So a path shows more than that its leaf is there: if it turns only one way, the
/// leaf is the first or the last, and two paths that part once show neighbours. Since leaves are sorted,
/// neighbours prove that nothing is between them.
///
/// `psymm.oracle.rounds` in Python checks the same; both read tests/vectors/oracle.json.
/// @dev That signers sort is their promise: a threshold of them signs no root of leaves out of order.
library OracleRounds {
    /* CONSTANTS */

    /// @notice Most signers, and most signatures of one round.
    uint256 internal constant MAX_SIGNERS = 16;

    /// @notice Longest path: a round has at most 512 leaves.
    uint256 internal constant MAX_SIBLINGS = 9;

    bytes32 internal constant ROUND_TYPE = keccak256("OracleRound(bytes32 root,uint64 timestamp)");

    /// @dev Half of secp256k1's order. A higher s is another form of a signature that exists.
    uint256 private constant _HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    uint256 private constant _SIGNATURE_LENGTH = 65;

    /* TYPES */

    /// @notice The price of a feed, or its funding rate for one epoch.
    /// @param feed ASCII, zeros on its right.
    /// @param epoch 0 for a price; for a rate the moment that it is charged for, in nanoseconds.
    /// @param value 18 decimals.
    struct Leaf {
        bytes32 feed;
        uint64 epoch;
        int256 value;
    }

    /// @notice The way from a leaf to the root.
    /// @param siblings From the leaf up; only those that exist.
    /// @param directions Bit i says whether, at the i-th sibling, the node is the right child.
    struct Path {
        bytes32[] siblings;
        uint256 directions;
    }

    /// @notice A leaf and its path.
    struct ProvenLeaf {
        Leaf leaf;
        Path path;
    }

    /* ERRORS */

    /// @notice Half of the signers or fewer could sign, so two roots of one moment could stand; or there are
    /// no signers or too many.
    error SignersUnsound(uint256 signers, uint256 threshold);

    /// @notice A signer is listed twice, or is zero.
    error SignerRepeated(address signer);

    error TooManySignatures(uint256 signatures);

    /// @notice Fewer than the threshold signed this root.
    error TooFewSigners(uint256 agreed, uint256 threshold);

    /// @notice A path that is too long, or with directions beyond its siblings.
    error PathMalformed(uint256 siblings, uint256 directions);

    /// @notice The path leads from this leaf to another root.
    error WrongRoot(bytes32 found, bytes32 root);

    /// @notice A neighbour that is not on its side of the feed, or is the leaf itself.
    error WrongSide(bytes32 feed, bytes32 neighbour);

    /// @notice Another leaf may be between the two, or beyond the one.
    error NotAdjacent();

    /// @notice An absence is proven by at least one neighbour.
    error NoNeighbour();

    /* SIGNERS */

    /// @notice Reverts unless these signers are sound: 1 to 16, each once, with more than half as threshold.
    /// @dev For the moment at which a contract learns of signers; `expectSigned` does not repeat it.
    function expectSound(address[] memory signers, uint256 threshold) internal pure {
        uint256 many = signers.length;
        if (many == 0 || many > MAX_SIGNERS || threshold > many || threshold <= many / 2) {
            revert SignersUnsound(many, threshold);
        }
        for (uint256 i = 0; i < many; ++i) {
            if (signers[i] == address(0)) revert SignerRepeated(address(0));
            for (uint256 j = 0; j < i; ++j) {
                if (signers[i] == signers[j]) revert SignerRepeated(signers[i]);
            }
        }
    }

    /// @notice What a signer signs.
    /// @param domain The deployment's domain separator, as PSymm has it.
    /// @param timestamp Nanoseconds since the epoch.
    function digestOf(bytes32 domain, bytes32 root, uint64 timestamp) internal pure returns (bytes32) {
        return
            keccak256(abi.encodePacked(hex"1901", domain, keccak256(abi.encode(ROUND_TYPE, root, timestamp))));
    }

    /// @notice Reverts unless a threshold of sound signers signed. Others' signatures, repetitions and junk
    /// count for nothing.
    /// @param signatures r ‖ s ‖ v, 65 bytes each, with low s and v 27 or 28.
    function expectSigned(
        bytes32 digest,
        bytes[] memory signatures,
        address[] memory signers,
        uint256 threshold
    ) internal pure {
        if (signatures.length > MAX_SIGNERS) {
            revert TooManySignatures(signatures.length);
        }
        uint256 counted = 0;
        uint256 agreed = 0;
        for (uint256 i = 0; i < signatures.length; ++i) {
            address found = signerOf(digest, signatures[i]);
            if (found == address(0)) continue;
            for (uint256 j = 0; j < signers.length; ++j) {
                if (signers[j] == found && counted >> j & 1 == 0) {
                    counted |= 1 << j;
                    ++agreed;
                    break;
                }
            }
        }
        if (agreed < threshold) revert TooFewSigners(agreed, threshold);
    }

    /// @notice Who signed; zero if this is no valid signature.
    function signerOf(bytes32 digest, bytes memory signature) internal pure returns (address) {
        if (signature.length != _SIGNATURE_LENGTH) return address(0);
        bytes32 r;
        bytes32 s;
        uint8 v;
        assembly ("memory-safe") {
            r := mload(add(signature, 0x20))
            s := mload(add(signature, 0x40))
            v := byte(0, mload(add(signature, 0x60)))
        }
        if (uint256(s) > _HALF_ORDER) return address(0);
        // For any v but 27 and 28 the precompile gives zero.
        return ecrecover(digest, v, r, s);
    }

    /* PROOFS */

    /// @notice Reverts unless the leaf is in the round with this root.
    function expectIncluded(bytes32 root, ProvenLeaf memory proven) internal pure {
        bytes32[] memory siblings = proven.path.siblings;
        uint256 directions = proven.path.directions;
        if (siblings.length > MAX_SIBLINGS || directions >> siblings.length != 0) {
            revert PathMalformed(siblings.length, directions);
        }
        bytes32 node = keccak256(abi.encode(proven.leaf.feed, proven.leaf.epoch, proven.leaf.value));
        for (uint256 i = 0; i < siblings.length; ++i) {
            node = directions >> i & 1 == 1
                ? keccak256(abi.encode(siblings[i], node))
                : keccak256(abi.encode(node, siblings[i]));
        }
        if (node != root) revert WrongRoot(node, root);
    }

    /// @notice Reverts unless the round with this root has no leaf of this feed and epoch.
    /// @param before None or one: the last leaf before its place; none if the round begins after it.
    /// @param after_ None or one: the first leaf after its place; none if the round ends before it.
    function expectAbsent(
        bytes32 root,
        bytes32 feed,
        uint64 epoch,
        ProvenLeaf[] memory before,
        ProvenLeaf[] memory after_
    ) internal pure {
        if (before.length + after_.length == 0 || before.length > 1 || after_.length > 1) {
            revert NoNeighbour();
        }
        if (before.length == 1) {
            expectIncluded(root, before[0]);
            Leaf memory one = before[0].leaf;
            if (!_isBefore(one.feed, one.epoch, feed, epoch)) revert WrongSide(feed, one.feed);
        }
        if (after_.length == 1) {
            expectIncluded(root, after_[0]);
            Leaf memory two = after_[0].leaf;
            if (!_isBefore(feed, epoch, two.feed, two.epoch)) revert WrongSide(feed, two.feed);
        }
        bool adjacent;
        if (before.length == 0) {
            adjacent = after_[0].path.directions == 0;
        } else if (after_.length == 0) {
            adjacent = before[0].path.directions == (1 << before[0].path.siblings.length) - 1;
        } else {
            adjacent = _precedes(before[0].path, after_[0].path);
        }
        if (!adjacent) revert NotAdjacent();
    }

    function _isBefore(bytes32 feed, uint64 epoch, bytes32 otherFeed, uint64 otherEpoch)
        private
        pure
        returns (bool)
    {
        return feed == otherFeed ? epoch < otherEpoch : feed < otherFeed;
    }

    /// @dev Whether nothing is between two leaves of one tree. Both paths go the same way from the root down
    /// to the node where they part. There the left one goes left and then always right, and the right one goes
    /// right and then always left.
    function _precedes(Path memory left, Path memory right) private pure returns (bool) {
        uint256 i = left.siblings.length;
        uint256 j = right.siblings.length;
        while (i > 0 && j > 0 && (left.directions >> (i - 1) & 1) == (right.directions >> (j - 1) & 1)) {
            --i;
            --j;
        }
        if (i == 0 || j == 0) return false;
        uint256 below = left.directions & ((1 << i) - 1);
        uint256 beyond = right.directions & ((1 << j) - 1);
        return below == (1 << (i - 1)) - 1 && beyond == 1 << (j - 1);
    }
}
