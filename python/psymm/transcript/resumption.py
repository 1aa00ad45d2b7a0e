"""How a side proves on a new connection that it is a custody's party (`spec.md` 69).

`Resume(bytes32 custody,uint8 lane,bytes32 challenge,uint64 traderSeq,bytes32 traderDigest,
uint64 solverSeq,bytes32 solverDigest,uint8 restored)`, EIP-712 under the pSymm domain, signed by a
session key that the lane's wallet delegated. The challenge is 32 random bytes that the other side
drew for this connection. So a signature is useless on any other connection, and for any other
custody, lane or purpose. The delegation comes with it, so it can be checked before any history is
read.

A journal that may sign no frames, or whose session key has ended, uses a key that its wallet
delegates for no frame at all (`PROVES_ONLY`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from psymm._core import SecretKey, SignatureError, address_of, recover
from psymm.errors import ResumeRefused
from psymm.messages import JournalStatus, Logon, Resume, SessionKeyChange
from psymm.transcript.agreement import CustodyAgreement
from psymm.transcript.delegation import Delegation
from psymm.typed_message import TypedMessage

PROVES_ONLY: Final = 0
"""FromSeq and ToSeq of a key that may sign no frame. Frames count from 1."""

_FIELDS: Final = (
    ("custody", "bytes32"),
    ("lane", "uint8"),
    ("challenge", "bytes32"),
    ("traderSeq", "uint64"),
    ("traderDigest", "bytes32"),
    ("solverSeq", "uint64"),
    ("solverDigest", "bytes32"),
    ("restored", "uint8"),
)


@dataclass(frozen=True, slots=True)
class ResumeSigner:
    """A key of ours with its delegation."""

    key: SecretKey
    delegation: Delegation
    delegation_signature: bytes = field(repr=False)
    """Our wallet's, 65 bytes."""

    @classmethod
    def of(cls, key: SecretKey, lane: int, said: Logon | SessionKeyChange) -> ResumeSigner:
        """A signer with the delegation in a Logon or UKY of ours."""
        return cls(
            key,
            Delegation(lane, said.session_public_key, said.from_seq, said.to_seq, said.expiry),
            said.delegation_signature,
        )

    def sign(self, agreement: CustodyAgreement, challenge: bytes, heads: Resume) -> Resume:
        """The heads, signed over the other side's challenge."""
        digest = _message(agreement, self.delegation.lane, challenge, heads).digest()
        return replace(
            heads,
            session_public_key=self.delegation.public_key,
            from_seq=self.delegation.from_seq,
            to_seq=self.delegation.to_seq,
            expiry=self.delegation.expiry,
            delegation_signature=self.delegation_signature,
            signature=self.key.sign(digest),
        )


def check_resume(
    agreement: CustodyAgreement, lane: int, challenge: bytes, said: Resume, now_ns: int
) -> bytes:
    """Check a resume of `lane` over our challenge, and return the public key that signed it.

    The lane's wallet must have delegated the key, and the delegation must not have expired at
    `now_ns`. Whether the key was revoked or replaced is for the caller to check. Raises
    ResumeRefused.
    """
    key, expiry = said.session_public_key, said.expiry
    if (
        key is None
        or said.from_seq is None
        or said.to_seq is None
        or expiry is None
        or said.delegation_signature is None
        or said.signature is None
    ):
        raise ResumeRefused("these heads are not signed")
    wallet = agreement.wallet_key(lane)
    if said.custody != agreement.custody:
        raise ResumeRefused("these heads are of another custody", theirs=said.custody)
    if key == wallet:
        raise ResumeRefused("a wallet's own key is never its session key")
    if now_ns > expiry:
        raise ResumeRefused("the session key has expired", expiry=expiry, now=now_ns)
    try:
        delegation = Delegation(lane, key, said.from_seq, said.to_seq, expiry)
        delegated = recover(delegation.message(agreement).digest(), said.delegation_signature)
        signer = recover(_message(agreement, lane, challenge, said).digest(), said.signature)
    except (SignatureError, ValueError) as bad:  # ValueError: the key is not a curve point.
        raise ResumeRefused(f"a signature is none: {bad}") from None
    if delegated != wallet:
        raise ResumeRefused(
            "the session key was not delegated by this lane's wallet",
            wallet=address_of(wallet),
            signer=address_of(delegated),
        )
    if signer != key:
        raise ResumeRefused("these heads are not signed over this connection's challenge")
    return key


def challenge_for(custody: bytes, challenge: bytes) -> Resume:
    """A resume that only sends a challenge: it shows no heads and proves nothing."""
    return replace(nothing_yet(custody), challenge=challenge)


def nothing_yet(custody: bytes) -> Resume:
    """Heads that say that the sender holds no frame of the custody."""
    return Resume(
        custody=custody,
        trader_seq=0,
        trader_digest=custody,
        solver_seq=0,
        solver_digest=custody,
    )


def _message(
    agreement: CustodyAgreement, lane: int, challenge: bytes, heads: Resume
) -> TypedMessage:
    return TypedMessage(
        chain_id=agreement.chain_id,
        contract=agreement.contract,
        primary_type="Resume",
        fields=_FIELDS,
        values={
            "custody": heads.custody,
            "lane": lane,
            "challenge": challenge,
            "traderSeq": heads.trader_seq,
            "traderDigest": heads.trader_digest,
            "solverSeq": heads.solver_seq,
            "solverDigest": heads.solver_digest,
            "restored": int(heads.journal_status is JournalStatus.RESTORED),
        },
    )


__all__ = ["PROVES_ONLY", "ResumeSigner", "challenge_for", "check_resume", "nothing_yet"]
