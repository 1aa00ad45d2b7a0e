"""What oracle signers sign, who they are, and how many must agree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from psymm._core import SignatureError, address_of, keccak256, recover
from psymm.oracle.rounds.errors import RoundInvalid, SignersUnsound, TooFewSigners
from psymm.oracle.rounds.leaves import TIME_END
from psymm.oracle.rounds.tree import OracleRound

MOST_SIGNERS: Final = 16
_TYPE: Final = keccak256(b"OracleRound(bytes32 root,uint64 timestamp)")


def round_digest(domain: bytes, root: bytes, timestamp: int) -> bytes:
    """The EIP-712 digest that a signer signs.

    Args:
        domain: the deployment's domain separator (`psymm._core.domain_separator`), 32 bytes.
        root: 32 bytes.
        timestamp: nanoseconds since the epoch, below 2^64.

    Raises RoundInvalid for a root or timestamp that is none.
    """
    if len(root) != 32 or not 0 <= timestamp < TIME_END:
        raise RoundInvalid("a root has 32 bytes, and a timestamp 8", timestamp=timestamp)
    return keccak256(b"\x19\x01" + domain + keccak256(_TYPE + root + timestamp.to_bytes(32)))


def signers_of(digest: bytes, signatures: Iterable[bytes]) -> set[str]:
    """The addresses that signed. Bytes that are no signature count for nothing."""
    found: set[str] = set()
    for signature in signatures:
        try:
            found.add(address_of(recover(digest, signature)))
        except (SignatureError, ValueError):  # out of form, or not 65 bytes
            continue
    return found


@dataclass(frozen=True, slots=True)
class SignerSet:
    """Who may sign rounds. Raises SignersUnsound where half of them could sign a second root.

    Attributes:
        addresses: checksummed, each once.
        threshold: how many must sign the same root; more than half.
    """

    addresses: tuple[str, ...]
    threshold: int

    def __post_init__(self) -> None:
        many = len(self.addresses)
        if not 1 <= many <= MOST_SIGNERS:
            raise SignersUnsound("there are 1 to 16 signers", signers=many)
        if len(set(self.addresses)) != many:
            raise SignersUnsound("a signer is named twice")
        if not many < 2 * self.threshold <= 2 * many:
            raise SignersUnsound(
                "the threshold must be more than half of the signers",
                threshold=self.threshold,
                signers=many,
            )

    def agreed(self, digest: bytes, signatures: Iterable[bytes]) -> set[str]:
        """Which of the signers signed. Others, repetitions and junk count for nothing."""
        return signers_of(digest, signatures) & set(self.addresses)

    def check(self, digest: bytes, signatures: Iterable[bytes]) -> set[str]:
        """Those of the signers who signed. Raises TooFewSigners below the threshold."""
        agreed = self.agreed(digest, signatures)
        if len(agreed) < self.threshold:
            raise TooFewSigners(agreed=len(agreed), threshold=self.threshold)
        return agreed


@dataclass(frozen=True, slots=True)
class SignedRound:
    """A whole round and its signatures. Raises RoundInvalid for more than 16 signatures.

    Attributes:
        signatures: 65 bytes each: r ‖ s ‖ v.
    """

    round: OracleRound
    signatures: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if len(self.signatures) > MOST_SIGNERS or any(len(one) != 65 for one in self.signatures):
            raise RoundInvalid("it has at most 16 signatures of 65 bytes")

    @property
    def timestamp(self) -> int:
        """Nanoseconds since the epoch."""
        return self.round.timestamp

    @property
    def root(self) -> bytes:
        """32 bytes."""
        return self.round.root

    def check(self, domain: bytes, signers: SignerSet) -> set[str]:
        """Those of the signers who signed. Raises TooFewSigners below the threshold."""
        return signers.check(round_digest(domain, self.root, self.timestamp), self.signatures)
