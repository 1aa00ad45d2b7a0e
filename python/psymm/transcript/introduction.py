"""Introductions: what a solver signs before a trader funds (`spec.md` 61).

`Introduction(bytes32 custody,bytes32 termsHash,bytes32 traderNonce,bytes32 solverNonce,
uint128 traderCollateral,uint128 solverCollateral,uint64 sendingTime,uint64 expiry)` by the
introduction key, which the solver's wallet delegates with
`IntroductionKey(address wallet,address key,uint64 expiry)`; both EIP-712 under the pSymm domain,
times in nanoseconds since the epoch. The custody id binds both wallets' keys, the terms and the
salt. So one signature covers both introductions and the terms: a byte changed on the wire, in
either direction, gives another digest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

from psymm._core import SignatureError, address_of, recover
from psymm.errors import BadIntroduction
from psymm.transcript.agreement import CustodyAgreement
from psymm.typed_message import TypedMessage

MINUTE_NS: Final = 60 * 10**9
INTRODUCTION_NS: Final = 10 * MINUTE_NS
"""How long our own signed introductions are valid for funding."""
INTRODUCTION_MOST_NS: Final = 60 * MINUTE_NS
"""The longest validity that a trader accepts. The protocol has no agreements for later."""
KEY_NS: Final = 7 * 24 * 60 * MINUTE_NS
"""How long our own introduction keys are valid."""
KEY_MOST_NS: Final = 31 * 24 * 60 * MINUTE_NS
"""The longest validity that a trader accepts. A thief of the key can pose as the solver so long."""

_KEY_FIELDS: Final = (("wallet", "address"), ("key", "address"), ("expiry", "uint64"))
_FIELDS: Final = (
    ("custody", "bytes32"),
    ("termsHash", "bytes32"),
    ("traderNonce", "bytes32"),
    ("solverNonce", "bytes32"),
    ("traderCollateral", "uint128"),
    ("solverCollateral", "uint128"),
    ("sendingTime", "uint64"),
    ("expiry", "uint64"),
)
INTRODUCTION_BYTES: Final = 32 + 16 + 8 + 8 + 64 + 8 + 65 + 65


def key_message(
    chain_id: int, contract: str, wallet: bytes, key: bytes, expiry: int
) -> TypedMessage:
    """What a solver's wallet signs for its introduction key. Both keys are 64 bytes."""
    return TypedMessage(
        chain_id=chain_id,
        contract=contract,
        primary_type="IntroductionKey",
        fields=_KEY_FIELDS,
        values={"wallet": address_of(wallet), "key": address_of(key), "expiry": expiry},
    )


def introduction_message(
    agreement: CustodyAgreement,
    nonces: tuple[bytes, bytes],
    collaterals: tuple[int, int],
    sending_time: int,
    expiry: int,
) -> TypedMessage:
    """What the introduction key signs.

    Args:
        agreement: the custody's.
        nonces: the trader's and the solver's.
        collaterals: the trader's and the solver's, token units.
        sending_time: by the solver's clock, nanoseconds.
        expiry: until when the trader may fund, nanoseconds.
    """
    return TypedMessage(
        chain_id=agreement.chain_id,
        contract=agreement.contract,
        primary_type="Introduction",
        fields=_FIELDS,
        values={
            "custody": agreement.custody,
            "termsHash": agreement.terms_hash,
            "traderNonce": nonces[0],
            "solverNonce": nonces[1],
            "traderCollateral": collaterals[0],
            "solverCollateral": collaterals[1],
            "sendingTime": sending_time,
            "expiry": expiry,
        },
    )


@dataclass(frozen=True, slots=True)
class SignedIntroduction:
    """The solver's part of a signed handshake. Times are nanoseconds by the solver's clock.

    The signature also covers the agreement, the trader's nonce and the trader's collateral.
    """

    nonce: bytes = field(repr=False)
    """The solver's."""
    collateral: int
    """The solver's, token units."""
    sending_time: int
    expiry: int
    key: bytes
    """The introduction key, 64 bytes."""
    key_expiry: int
    key_signature: bytes
    """The wallet's, for the key; 65 bytes."""
    signature: bytes
    """The key's; 65 bytes."""

    def verify(self, agreement: CustodyAgreement, nonce: bytes, collateral: int) -> None:
        """Check that the solver agreed to this handshake.

        Raises BadIntroduction, which names what does not match.

        Args:
            agreement: the custody's.
            nonce: the trader's.
            collateral: the trader's, token units.
        """
        wallet = agreement.solver
        if self.key == wallet:
            raise BadIntroduction(
                "a wallet's own key is never its introduction key", wallet=address_of(wallet)
            )
        said = introduction_message(
            agreement,
            (nonce, self.nonce),
            (collateral, self.collateral),
            self.sending_time,
            self.expiry,
        )
        _signed_by(
            self.key,
            said,
            self.signature,
            "the solver did not sign this handshake; a value was changed on the way",
        )
        # Only now: a key that has made a signature is a point of the curve and has an address.
        delegated = key_message(
            agreement.chain_id, agreement.contract, wallet, self.key, self.key_expiry
        )
        _signed_by(
            wallet,
            delegated,
            self.key_signature,
            "the introduction's key is not delegated by the solver's wallet",
        )

    def check_time(self, now_ns: int, skew_ns: int) -> None:
        """Check that the trader may start to fund now. Raises BadIntroduction."""
        for name, expiry, most in (
            ("introduction", self.expiry, INTRODUCTION_MOST_NS),
            ("introduction key", self.key_expiry, KEY_MOST_NS),
        ):
            # The solver's clock may be ahead of ours by the skew.
            if now_ns + skew_ns >= expiry:
                raise BadIntroduction(
                    f"the solver's {name} has expired; meet again",
                    expiry_ns=expiry,
                    now_ns=now_ns,
                    skew_ns=skew_ns,
                )
            if expiry > now_ns + most + skew_ns:
                raise BadIntroduction(
                    f"the solver's {name} expires too far ahead",
                    expiry_ns=expiry,
                    now_ns=now_ns,
                    longest_ns=most,
                )

    def to_bytes(self) -> bytes:
        """The form in which a journal stores it, of fixed length."""
        return (
            self.nonce
            + self.collateral.to_bytes(16)
            + self.sending_time.to_bytes(8)
            + self.expiry.to_bytes(8)
            + self.key
            + self.key_expiry.to_bytes(8)
            + self.key_signature
            + self.signature
        )

    @classmethod
    def from_bytes(cls, kept: bytes) -> Self:
        """The inverse of `to_bytes`. Raises ValueError for another length."""
        if len(kept) != INTRODUCTION_BYTES:
            raise ValueError(
                f"a signed introduction is {INTRODUCTION_BYTES} bytes, not {len(kept)}"
            )
        return cls(
            nonce=kept[:32],
            collateral=int.from_bytes(kept[32:48]),
            sending_time=int.from_bytes(kept[48:56]),
            expiry=int.from_bytes(kept[56:64]),
            key=kept[64:128],
            key_expiry=int.from_bytes(kept[128:136]),
            key_signature=kept[136:201],
            signature=kept[201:],
        )


def _signed_by(public_key: bytes, message: TypedMessage, signature: bytes, otherwise: str) -> None:
    try:
        signer = recover(message.digest(), signature)
    except SignatureError as bad:
        raise BadIntroduction(otherwise, reason=str(bad)) from None
    if signer != public_key:
        # Name the key, not its address: it may not be a curve point.
        raise BadIntroduction(otherwise, expected=public_key, signer=signer)


__all__ = [
    "INTRODUCTION_BYTES",
    "INTRODUCTION_MOST_NS",
    "INTRODUCTION_NS",
    "KEY_MOST_NS",
    "KEY_NS",
    "SignedIntroduction",
    "introduction_message",
    "key_message",
]
