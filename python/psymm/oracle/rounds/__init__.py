"""Rounds: all prices of one moment under one Merkle root, signed by a threshold of signers. Pure.

    leaves      one price, or one funding rate
    tree        the round, its Merkle tree, and proofs that a feed is in it or absent from it
    signed      the digest that signers sign, the signers, and a round with its signatures
    text        a whole round as text, in its only valid form
    errors      what is wrong with any of them

A round belongs to a moment on a grid (1 s) and holds a leaf for each feed. A leaf is a price, or
the funding rate of one epoch. Leaves are sorted, so two neighbours prove that nothing is between
them: a feed without a price cannot be told from one that is hidden, unless its absence is proven.

    leaf        keccak256(feed in 32 bytes, zeros on its right ‖ epoch ‖ value)      96 bytes
    node        keccak256(left ‖ right)                                               64 bytes
    digest      EIP-712 OracleRound(bytes32 root,uint64 timestamp), domain "pSymm"

A node without a right sibling passes up unchanged. Leaves are hashes of 96 bytes and nodes of 64,
so neither passes for the other, and the root fixes the whole shape of the tree. So a path with its
directions also shows whether its leaf is the first, the last, or next to another.

No custody is signed: one round serves every custody of a deployment. Another deployment has another
domain. `contracts/src/OracleRounds.sol` checks the same; both read `tests/vectors/oracle.json`.
"""

from psymm.oracle.rounds.errors import (
    LeafInvalid,
    OracleError,
    ProofInvalid,
    RoundInvalid,
    SignersUnsound,
    TooFewSigners,
)
from psymm.oracle.rounds.leaves import FEED_BYTES, RoundLeaf, is_feed
from psymm.oracle.rounds.signed import (
    MOST_SIGNERS,
    SignedRound,
    SignerSet,
    round_digest,
    signers_of,
)
from psymm.oracle.rounds.text import MOST_ROUND_BYTES, decode_round, encode_round
from psymm.oracle.rounds.tree import (
    MOST_LEAVES,
    MOST_SIBLINGS,
    AbsenceProof,
    LeafPath,
    OracleRound,
    ProvenLeaf,
)

__all__ = [
    "FEED_BYTES",
    "MOST_LEAVES",
    "MOST_ROUND_BYTES",
    "MOST_SIBLINGS",
    "MOST_SIGNERS",
    "AbsenceProof",
    "LeafInvalid",
    "LeafPath",
    "OracleError",
    "OracleRound",
    "ProofInvalid",
    "ProvenLeaf",
    "RoundInvalid",
    "RoundLeaf",
    "SignedRound",
    "SignerSet",
    "SignersUnsound",
    "TooFewSigners",
    "decode_round",
    "encode_round",
    "is_feed",
    "round_digest",
    "signers_of",
]
