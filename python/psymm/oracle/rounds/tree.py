"""A round's leaves under one Merkle root, and proofs of what is in the round and what is not."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final, Self

from psymm._core import keccak256
from psymm.oracle.rounds.errors import ProofInvalid, RoundInvalid
from psymm.oracle.rounds.leaves import TIME_END, RoundLeaf

MOST_LEAVES: Final = 512
"""256 feeds with a price and a funding rate each."""
MOST_SIBLINGS: Final = 9
"""log2 of MOST_LEAVES."""


@dataclass(frozen=True, slots=True)
class LeafPath:
    """The way from a leaf to its root. Raises ProofInvalid if it has no valid form.

    Attributes:
        siblings: 32 bytes each, from the leaf up; only those that exist.
        directions: bit i says whether, at the i-th sibling, our node is the right child.
    """

    siblings: tuple[bytes, ...]
    directions: int

    def __post_init__(self) -> None:
        if len(self.siblings) > MOST_SIBLINGS or any(len(one) != 32 for one in self.siblings):
            raise ProofInvalid("a path has at most 9 siblings of 32 bytes")
        if not 0 <= self.directions < 1 << len(self.siblings):
            raise ProofInvalid("a path has one direction for each sibling")

    def root_from(self, node: bytes) -> bytes:
        """The root that this path leads to from the hash of a leaf."""
        for level, sibling in enumerate(self.siblings):
            right = self.directions >> level & 1
            node = keccak256(sibling + node if right else node + sibling)
        return node

    @property
    def first(self) -> bool:
        """Nothing is on its left."""
        return self.directions == 0

    @property
    def last(self) -> bool:
        """Nothing is on its right."""
        return self.directions == (1 << len(self.siblings)) - 1

    def precedes(self, other: LeafPath) -> bool:
        """Whether, in one tree, no leaf is between the leaf of this path and that of the other."""
        ours, theirs = len(self.siblings) - 1, len(other.siblings) - 1
        # From the root down, both go the same way up to the node where they part.
        while (
            ours >= 0
            and theirs >= 0
            and (self.directions >> ours & 1) == (other.directions >> theirs & 1)
        ):
            ours, theirs = ours - 1, theirs - 1
        if ours < 0 or theirs < 0:
            return False
        # There ours goes left, and then always right. The other goes right, and then always left.
        below = self.directions & ((2 << ours) - 1)
        beyond = other.directions & ((2 << theirs) - 1)
        return below == (1 << ours) - 1 and beyond == 1 << theirs


@dataclass(frozen=True, slots=True)
class ProvenLeaf:
    """A leaf and its path."""

    leaf: RoundLeaf
    path: LeafPath

    def check(self, root: bytes) -> None:
        """Raises ProofInvalid unless the leaf is in the round with this root."""
        if self.path.root_from(self.leaf.hash) != root:
            raise ProofInvalid(
                "the path does not lead from this leaf to the root", feed=self.leaf.feed
            )


@dataclass(frozen=True, slots=True)
class AbsenceProof:
    """The neighbours of a leaf that is not in a round (`spec.md` 47).

    Attributes:
        before: the last leaf before its place; None if the round begins after it.
        after: the first leaf after its place; None if the round ends before it.
    """

    before: ProvenLeaf | None
    after: ProvenLeaf | None

    def check(self, root: bytes, feed: str, epoch: int = 0) -> None:
        """Raises ProofInvalid unless the round with this root has no such leaf."""
        before, after = self.before, self.after
        if before is not None:
            before.check(root)
            if not before.leaf.key < (feed, epoch):
                raise ProofInvalid("the leaf before is not before it", feed=feed)
        if after is not None:
            after.check(root)
            if not (feed, epoch) < after.leaf.key:
                raise ProofInvalid("the leaf after is not after it", feed=feed)
        if before is None and after is None:
            raise ProofInvalid("an absence is proven by at least one leaf", feed=feed)
        if before is None:
            adjacent = after is not None and after.path.first
        elif after is None:
            adjacent = before.path.last
        else:
            adjacent = before.path.precedes(after.path)
        if not adjacent:
            raise ProofInvalid("a leaf may be between the two", feed=feed)


@dataclass(frozen=True)
class OracleRound:
    """All prices of one moment. Raises RoundInvalid for one that no signer may sign.

    Attributes:
        timestamp: nanoseconds since the epoch, on the grid.
        leaves: 1 to MOST_LEAVES, in rising order of their keys, each key once.
    """

    timestamp: int
    leaves: tuple[RoundLeaf, ...]

    def __post_init__(self) -> None:
        if not 0 < self.timestamp < TIME_END:
            raise RoundInvalid("its timestamp is no moment", timestamp=self.timestamp)
        if not 1 <= len(self.leaves) <= MOST_LEAVES:
            raise RoundInvalid(
                "it has no leaf or too many", leaves=len(self.leaves), most=MOST_LEAVES
            )
        for one, two in pairwise(self.leaves):
            if one.key >= two.key:
                raise RoundInvalid("its leaves are not in order", feed=two.feed)

    @classmethod
    def of(cls, timestamp: int, leaves: Iterable[RoundLeaf]) -> Self:
        """A round of leaves in any order."""
        return cls(timestamp, tuple(sorted(leaves, key=lambda one: one.key)))

    def check_grid(self, grid_ns: int) -> None:
        """Raises RoundInvalid unless the round is on the grid."""
        if self.timestamp % grid_ns:
            raise RoundInvalid("it is off the grid", timestamp=self.timestamp, grid_ns=grid_ns)

    @property
    def root(self) -> bytes:
        """32 bytes."""
        return self._levels[-1][0]

    def find(self, feed: str, epoch: int = 0) -> RoundLeaf | None:
        """The price of a feed, or its funding rate for an epoch; None if it is not there."""
        at = self._place(feed, epoch)
        found = self.leaves[at] if at < len(self.leaves) else None
        return found if found is not None and found.key == (feed, epoch) else None

    def prove(self, feed: str, epoch: int = 0) -> ProvenLeaf:
        """The leaf with its path. Raises ProofInvalid if it is not there."""
        at = self._place(feed, epoch)
        if at == len(self.leaves) or self.leaves[at].key != (feed, epoch):
            raise ProofInvalid("the round has no such leaf", feed=feed, epoch=epoch)
        return self._proven(at)

    def prove_absent(self, feed: str, epoch: int = 0) -> AbsenceProof:
        """The proof that a leaf is not there. Raises ProofInvalid if it is."""
        at = self._place(feed, epoch)
        after = self._proven(at) if at < len(self.leaves) else None
        if after is not None and after.leaf.key == (feed, epoch):
            raise ProofInvalid("the round has this leaf", feed=feed, epoch=epoch)
        return AbsenceProof(self._proven(at - 1) if at else None, after)

    @cached_property
    def _levels(self) -> list[list[bytes]]:
        """The nodes of each level, from the leaves to the root."""
        levels = [[one.hash for one in self.leaves]]
        while len(nodes := levels[-1]) > 1:
            above = [
                keccak256(left + right)
                for left, right in zip(nodes[::2], nodes[1::2], strict=False)
            ]
            levels.append(above + nodes[-1:] if len(nodes) % 2 else above)
        return levels

    def _place(self, feed: str, epoch: int) -> int:
        return bisect_left(self.leaves, (feed, epoch), key=lambda one: one.key)

    def _proven(self, index: int) -> ProvenLeaf:
        siblings, directions, at = list[bytes](), 0, index
        for nodes in self._levels[:-1]:
            if at ^ 1 < len(nodes):
                directions |= (at & 1) << len(siblings)
                siblings.append(nodes[at ^ 1])
            at >>= 1
        return ProvenLeaf(self.leaves[index], LeafPath(tuple(siblings), directions))
