"""Delegations: what a wallet signs to let a short-lived session key sign frames for it.

`SessionKey(address wallet,address key,bytes32 custody,uint8 lane,uint64 fromSeq,uint64 toSeq,
uint64 expiry)`, EIP-712 under the pSymm domain; expiry is in nanoseconds, compared with a frame's
sendingTime. A key is in force from the Logon or UKY that carries its delegation. The delegated
range must include that frame. It may begin earlier, because frames go on while a wallet signs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psymm._core import Frame, SignatureError, address_of, recover
from psymm.errors import PSymmError
from psymm.messages import Logon, SessionKeyChange
from psymm.transcript.agreement import CustodyAgreement
from psymm.typed_message import TypedMessage

_FIELDS: Final = (
    ("wallet", "address"),
    ("key", "address"),
    ("custody", "bytes32"),
    ("lane", "uint8"),
    ("fromSeq", "uint64"),
    ("toSeq", "uint64"),
    ("expiry", "uint64"),
)


class DelegationRefused(PSymmError):
    """The wallet did not delegate a frame's session key; `reason` is the stable name."""

    code = "delegation-refused"
    remedy = "The frame is not its party's word; nothing was changed"

    def __init__(self, reason: str, detail: str, **values: object) -> None:
        self.reason = reason
        super().__init__(f"{reason}: {detail}", **values)


@dataclass(frozen=True, slots=True)
class Delegation:
    """What a wallet delegates to a session key."""

    lane: int
    public_key: bytes
    """64 bytes."""
    from_seq: int
    to_seq: int
    expiry: int
    """Nanoseconds since the epoch."""

    def message(self, agreement: CustodyAgreement) -> TypedMessage:
        """What the lane's wallet signs."""
        return TypedMessage(
            chain_id=agreement.chain_id,
            contract=agreement.contract,
            primary_type="SessionKey",
            fields=_FIELDS,
            values={
                "wallet": agreement.wallet_address(self.lane),
                "key": address_of(self.public_key),
                "custody": agreement.custody,
                "lane": self.lane,
                "fromSeq": self.from_seq,
                "toSeq": self.to_seq,
                "expiry": self.expiry,
            },
        )

    def check_frame(self, frame: Frame) -> None:
        """Raises DelegationRefused if the delegation does not reach this frame."""
        if not self.from_seq <= frame.seq <= self.to_seq:
            raise DelegationRefused(
                "out-of-range",
                "the session key was not delegated for this frame",
                lane=frame.lane,
                seq=frame.seq,
                from_seq=self.from_seq,
                to_seq=self.to_seq,
            )
        if frame.sending_time > self.expiry:
            raise DelegationRefused(
                "expired",
                "the session key had expired",
                lane=frame.lane,
                seq=frame.seq,
                sending_time=frame.sending_time,
                expiry=self.expiry,
            )


def delegation_in(
    agreement: CustodyAgreement, frame: Frame, message: Logon | SessionKeyChange
) -> Delegation:
    """The delegation that a Logon or UKY carries, its wallet's signature checked.

    Raises DelegationRefused.
    """
    delegation = Delegation(
        frame.lane,
        message.session_public_key,
        message.from_seq,
        message.to_seq,
        message.expiry,
    )
    delegation.check_frame(frame)
    wallet = agreement.wallet_key(frame.lane)
    if delegation.public_key == wallet:
        raise DelegationRefused(
            "wallets-own-key",
            "a wallet's own key is never its session key",
            lane=frame.lane,
            wallet=address_of(wallet),
        )
    try:
        signer = recover(delegation.message(agreement).digest(), message.delegation_signature)
    except SignatureError as bad:
        raise DelegationRefused("bad-signature", str(bad), lane=frame.lane) from None
    except ValueError as bad:  # The session key is not a curve point, so it has no address.
        raise DelegationRefused("bad-key", str(bad), lane=frame.lane) from None
    if signer != wallet:
        raise DelegationRefused(
            "wrong-wallet",
            "the delegation was not signed by this custody's wallet for this lane",
            lane=frame.lane,
            wallet=address_of(wallet),
            signer=address_of(signer),
        )
    return delegation


@dataclass(frozen=True, slots=True)
class JournalledRevocation:
    """A session key that its wallet revoked on chain (`spec.md` 38)."""

    lane: int
    key: str
    """Its address."""
    from_seq: int
    """The first frame that the wallet revokes."""
    cut: int
    """The first void frame: from_seq, or later if we had covered more when we learned of it."""
