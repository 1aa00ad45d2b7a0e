"""The two moves that need a proof: their calls to the contract, and what both wallets sign.

A call is built in three steps: its public values; both wallets' signatures over its EIP-712 digest;
the proof, which shows that the signatures exist without revealing them.

`parts` lists a call's values in the order of the contract's struct, by the struct's names. The kind
of each (_KINDS) says how it is checked, and how it is written in JSON and for the ABI.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Final

from psymm._core import FIELD_MODULUS, keccak256
from psymm.chain.addresses import ZERO_ADDRESS, checksummed
from psymm.chain.errors import CallInvalid
from psymm.typed_message import Scalar, TypedMessage

MEMO_BYTES: Final = 256
MAX_AMOUNT: Final = (1 << 128) - 1
MAX_PROOF_BYTES: Final = 65_536


_HEX: Final = re.compile("0x([0-9a-f]{2})*")
# 78 digits hold every uint256.
_WHOLE: Final = re.compile("0|[1-9][0-9]{0,77}")


class _Moves:
    """What both calls have in common.

    Attributes:
        kind: "ctc" or "cta".
        function: the contract's function.
        doing: what the call does, for errors and logs.
    """

    __slots__ = ()

    kind: ClassVar[str]
    function: ClassVar[str]
    doing: ClassVar[str]
    root: bytes
    nullifiers: tuple[bytes, bytes]

    @property
    def outputs(self) -> tuple[bytes, ...]:
        """The commitments that the call inserts."""
        raise NotImplementedError

    @property
    def conflict_keys(self) -> list[bytes]:
        """The nullifiers and commitments: what the chain accepts only once."""
        return [*self.nullifiers, *self.outputs]

    def parts(self) -> dict[str, Any]:
        raise NotImplementedError

    def signed(self) -> Sequence[tuple[str, str, Scalar]]:
        """Name, type and value of each signed member after the nullifiers, in order."""
        raise NotImplementedError

    def message(self, chain_id: int, contract: str) -> TypedMessage:
        """The EIP-712 message that both wallets of the inputs' custody sign."""
        spent = ((f"nullifier{at}", "bytes32", one) for at, one in enumerate(self.nullifiers))
        members = (*spent, *self.signed())
        return TypedMessage(
            chain_id,
            contract,
            self.function[0].upper() + self.function[1:],
            tuple((name, kind) for name, kind, _ in members),
            {name: value for name, _, value in members},
        )

    def digest(self, chain_id: int, contract: str) -> bytes:
        return self.message(chain_id, contract).digest()

    def abi_value(self) -> tuple[Any, ...]:
        """The struct for the contract's ABI."""
        return tuple(_for_abi(_KINDS[name], value) for name, value in self.parts().items())

    def to_json(self) -> dict[str, Any]:
        """The call for a relayer: lower-case 0x hex, integers as decimal strings."""
        return {name: _for_json(value) for name, value in self.parts().items()}

    def _check(self) -> None:
        for name, value in self.parts().items():
            _expect(name, _KINDS[name], value)
        if self.nullifiers[0] == self.nullifiers[1]:
            raise CallInvalid("nullifiers", "the two are equal")

    def _halves(self, chain_id: int, contract: str) -> list[bytes]:
        # A digest can exceed the circuit's field, so it goes in as two halves.
        digest = self.digest(chain_id, contract)
        return [bytes(16) + digest[:16], bytes(16) + digest[16:]]


@dataclass(frozen=True, slots=True)
class CtcCall(_Moves):
    """custodyToCustody: two notes in, two notes out.

    Attributes:
        root: 32 bytes; the tree's root that the proof refers to.
        nullifiers: 32 bytes each.
        commitments: 32 bytes each.
        relayer: who is paid the fee; the zero address if nobody.
        fee_token: the zero address if there is no relayer.
        fee: token units; 0 if there is no relayer.
        deadline: seconds since the epoch.
        memos: 256 bytes each.
        proof: empty until the call is proved.
    """

    root: bytes
    nullifiers: tuple[bytes, bytes]
    commitments: tuple[bytes, bytes]
    relayer: str
    fee_token: str
    fee: int
    deadline: int
    memos: tuple[bytes, bytes]
    proof: bytes = b""

    kind: ClassVar = "ctc"
    function: ClassVar = "custodyToCustody"
    doing: ClassVar = "the move between custodies"

    def __post_init__(self) -> None:
        object.__setattr__(self, "relayer", checksummed("relayer", self.relayer))
        object.__setattr__(self, "fee_token", checksummed("feeToken", self.fee_token))
        self._check()
        # The contract refuses any mixture (FeeIncomplete). Found here, it costs neither signature
        # nor proof.
        none = [self.relayer == ZERO_ADDRESS, self.fee_token == ZERO_ADDRESS, self.fee == 0]
        if any(none) != all(none):
            raise CallInvalid("fee", "relayer, feeToken and fee must be all zero or none of them")

    @property
    def outputs(self) -> tuple[bytes, ...]:
        return self.commitments

    def parts(self) -> dict[str, Any]:
        return {
            "root": self.root,
            "nullifiers": self.nullifiers,
            "commitments": self.commitments,
            "relayer": self.relayer,
            "feeToken": self.fee_token,
            "fee": self.fee,
            "deadline": self.deadline,
            "memo0": self.memos[0],
            "memo1": self.memos[1],
            "proof": self.proof,
        }

    def signed(self) -> Sequence[tuple[str, str, Scalar]]:
        return (
            ("commitment0", "bytes32", self.commitments[0]),
            ("commitment1", "bytes32", self.commitments[1]),
            ("relayer", "address", self.relayer),
            ("feeToken", "address", self.fee_token),
            ("fee", "uint256", self.fee),
            ("memos", "bytes32", keccak256(self.memos[0] + self.memos[1])),
            ("deadline", "uint256", self.deadline),
        )

    def public_inputs(self, chain_id: int, contract: str) -> list[bytes]:
        """The circuit's nine public inputs, bytes of 32 each."""
        return [
            self.root,
            *self.nullifiers,
            *self.commitments,
            _address_field(self.fee_token),
            self.fee.to_bytes(32, "big"),
            *self._halves(chain_id, contract),
        ]

    def proved(self, proof: bytes) -> CtcCall:
        return replace(self, proof=proof)

    @classmethod
    def from_json(cls, given: object) -> CtcCall:
        """Raises CallInvalid naming the field; unknown and missing fields are refused."""
        names = "root nullifiers commitments relayer feeToken fee deadline memo0 memo1 proof"
        part = _read(given, names.split())
        memos = part.pop("memo0"), part.pop("memo1")
        return cls(memos=memos, fee_token=part.pop("feeToken"), **part)


@dataclass(frozen=True, slots=True)
class CtaCall(_Moves):
    """custodyToAddress: two notes in, `amount` leaves the custody, the change stays in it.

    The recipient gets amount − fee, the relayer gets fee, both in units of `token`.  Fields that
    are not listed are those of CtcCall.

    Attributes:
        change: 32 bytes; the commitment of what remains.
        amount: token units that leave, fee included.
    """

    root: bytes
    nullifiers: tuple[bytes, bytes]
    change: bytes
    token: str
    amount: int
    recipient: str
    relayer: str
    fee: int
    deadline: int
    memo: bytes
    proof: bytes = b""

    kind: ClassVar = "cta"
    function: ClassVar = "custodyToAddress"
    doing: ClassVar = "the withdrawal"

    def __post_init__(self) -> None:
        for name in ("token", "recipient", "relayer"):
            object.__setattr__(self, name, checksummed(name, getattr(self, name)))
        self._check()
        if self.token == ZERO_ADDRESS:
            raise CallInvalid("token", "is the zero address")
        if self.recipient == ZERO_ADDRESS:
            raise CallInvalid("recipient", "is the zero address")
        if self.amount == 0:
            raise CallInvalid("amount", "nothing would leave")
        if self.fee > self.amount:
            raise CallInvalid("fee", f"{self.fee} is more than the amount {self.amount}")
        if (self.relayer == ZERO_ADDRESS) != (self.fee == 0):
            raise CallInvalid("fee", "a relayer needs a fee, and a fee needs a relayer")

    @property
    def outputs(self) -> tuple[bytes, ...]:
        return (self.change,)

    @property
    def memos(self) -> tuple[bytes, ...]:
        return (self.memo,)

    @property
    def fee_token(self) -> str:
        return self.token

    def parts(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def signed(self) -> Sequence[tuple[str, str, Scalar]]:
        return (
            ("change", "bytes32", self.change),
            ("token", "address", self.token),
            ("amount", "uint256", self.amount),
            ("recipient", "address", self.recipient),
            ("relayer", "address", self.relayer),
            ("fee", "uint256", self.fee),
            ("memos", "bytes32", keccak256(self.memo)),
            ("deadline", "uint256", self.deadline),
        )

    def public_inputs(self, chain_id: int, contract: str) -> list[bytes]:
        """The circuit's eight public inputs, bytes of 32 each."""
        return [
            self.root,
            *self.nullifiers,
            self.change,
            _address_field(self.token),
            self.amount.to_bytes(32, "big"),
            *self._halves(chain_id, contract),
        ]

    def proved(self, proof: bytes) -> CtaCall:
        return replace(self, proof=proof)

    @classmethod
    def from_json(cls, given: object) -> CtaCall:
        """Raises CallInvalid naming the field; unknown and missing fields are refused."""
        return cls(**_read(given, [one.name for one in fields(cls)]))


Call = CtcCall | CtaCall


def call_from_json(kind: str, given: object) -> Call:
    """A call read from JSON.  Raises CallInvalid, also for an unknown kind."""
    if kind == "ctc":
        return CtcCall.from_json(given)
    if kind == "cta":
        return CtaCall.from_json(given)
    raise CallInvalid("kind", "must be ctc or cta")


_KINDS: Final = {
    "root": "field",
    "nullifiers": "pair",
    "commitments": "pair",
    "change": "field",
    "token": "address",
    "amount": "amount",
    "recipient": "address",
    "relayer": "address",
    "feeToken": "address",
    "fee": "amount",
    "deadline": "deadline",
    "memo": "memo",
    "memo0": "memo",
    "memo1": "memo",
    "proof": "proof",
}


def _expect(name: str, kind: str, value: Any) -> None:
    """Raises CallInvalid unless a value is of its kind; `checksummed` has checked addresses."""
    match kind:
        case "pair":
            for at in (0, 1):
                _expect(f"{name}[{at}]", "field", value[at])
        case "field" if len(value) != 32:
            raise CallInvalid(name, f"must be 32 bytes, not {len(value)}")
        case "field" if int.from_bytes(value, "big") >= FIELD_MODULUS:
            raise CallInvalid(name, "is not below the field's modulus")
        case "memo" if len(value) != MEMO_BYTES:
            raise CallInvalid(name, f"must be {MEMO_BYTES} bytes, not {len(value)}")
        case "amount" if not 0 <= value <= MAX_AMOUNT:
            raise CallInvalid(name, f"{value} is not between 0 and 2^128 − 1")
        case "deadline" if not 0 < value < 1 << 256:
            raise CallInvalid(name, f"{value} is no time in seconds")
        case "proof" if len(value) > MAX_PROOF_BYTES or len(value) % 32:
            raise CallInvalid(name, f"{len(value)} bytes is no proof's length")


def _address_field(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address[2:])


def _for_abi(kind: str, value: Any) -> Any:
    if kind == "pair":
        return [int.from_bytes(one, "big") for one in value]
    return int.from_bytes(value, "big") if kind == "field" else value


def _for_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_for_json(one) for one in value]
    if isinstance(value, bytes):
        return "0x" + value.hex()
    return value.lower() if isinstance(value, str) else str(value)


def _read(given: object, names: Sequence[str]) -> dict[str, Any]:
    """Exactly the named parts of a call, from JSON.  Raises CallInvalid."""
    if not isinstance(given, dict):
        raise CallInvalid("call", "must be an object")
    for name in given:
        if name not in names:
            raise CallInvalid(str(name)[:40], "is not a field of this call")
    for name in sorted(names):
        if name not in given:
            raise CallInvalid(name, "is missing")
    return {name: _part(name, _KINDS[name], given[name]) for name in names}


def _part(name: str, kind: str, given: object) -> Any:
    """A value from JSON in the form that a call holds; the call itself checks its range."""
    if kind == "pair":
        if not isinstance(given, list) or len(given) != 2:
            raise CallInvalid(name, "must be a list of two")
        return tuple(_part(f"{name}[{at}]", "field", one) for at, one in enumerate(given))
    if kind in ("amount", "deadline"):
        if not isinstance(given, str) or not _WHOLE.fullmatch(given):
            raise CallInvalid(name, "must be a whole number as a decimal string")
        return int(given)
    if not isinstance(given, str) or not _HEX.fullmatch(given):
        raise CallInvalid(name, "must be 0x and whole bytes in lower-case hexadecimal")
    return given if kind == "address" else bytes.fromhex(given[2:])
