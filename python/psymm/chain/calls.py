"""The two moves that take a proof, as the contract takes them, and what both keys sign for them.

A call is built in three steps: its public values, then both wallets' signatures over its EIP-712
digest, then the proof, which shows those signatures without revealing them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from psymm._core import FIELD_MODULUS, keccak256
from psymm.chain.addresses import ZERO_ADDRESS, checksummed
from psymm.chain.errors import CallInvalid
from psymm.wallet import TypedMessage

MEMO_BYTES: Final = 256
MAX_AMOUNT: Final = (1 << 128) - 1
MAX_PROOF_BYTES: Final = 65_536
_HEX: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class CtcCall:
    """custodyToCustody: two notes in, two notes out.

    root, nullifiers, commitments: bytes of 32.  memos: 256 bytes each.  fee: token units, paid to
    the relayer.  No relayer: relayer and fee_token are the zero address and fee is 0.
    deadline: seconds since the epoch.  proof: empty until it is made.
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

    def __post_init__(self) -> None:
        _field("root", self.root)
        for at in (0, 1):
            _field(f"nullifiers[{at}]", self.nullifiers[at])
            _field(f"commitments[{at}]", self.commitments[at])
            _memo(f"memo{at}", self.memos[at])
        if self.nullifiers[0] == self.nullifiers[1]:
            raise CallInvalid("nullifiers", "the two are equal")
        object.__setattr__(self, "relayer", checksummed("relayer", self.relayer))
        object.__setattr__(self, "fee_token", checksummed("feeToken", self.fee_token))
        _amount("fee", self.fee)
        none = [self.relayer == ZERO_ADDRESS, self.fee_token == ZERO_ADDRESS, self.fee == 0]
        if any(none) != all(none):
            raise CallInvalid("fee", "relayer, feeToken and fee must be all zero or none of them")
        _deadline(self.deadline)
        _proof(self.proof)

    @property
    def kind(self) -> str:
        return "ctc"

    def message(self, chain_id: int, contract: str) -> TypedMessage:
        """What both wallets of the inputs' custody sign."""
        return TypedMessage(
            chain_id,
            contract,
            "CustodyToCustody",
            (
                ("nullifier0", "bytes32"),
                ("nullifier1", "bytes32"),
                ("commitment0", "bytes32"),
                ("commitment1", "bytes32"),
                ("relayer", "address"),
                ("feeToken", "address"),
                ("fee", "uint256"),
                ("memos", "bytes32"),
                ("deadline", "uint256"),
            ),
            {
                "nullifier0": self.nullifiers[0],
                "nullifier1": self.nullifiers[1],
                "commitment0": self.commitments[0],
                "commitment1": self.commitments[1],
                "relayer": self.relayer,
                "feeToken": self.fee_token,
                "fee": self.fee,
                "memos": keccak256(self.memos[0] + self.memos[1]),
                "deadline": self.deadline,
            },
        )

    def digest(self, chain_id: int, contract: str) -> bytes:
        return self.message(chain_id, contract).digest()

    def public_inputs(self, chain_id: int, contract: str) -> list[bytes]:
        """The circuit's nine public inputs, bytes of 32 each."""
        digest = self.digest(chain_id, contract)
        return [
            self.root,
            *self.nullifiers,
            *self.commitments,
            _address_field(self.fee_token),
            self.fee.to_bytes(32, "big"),
            bytes(16) + digest[:16],
            bytes(16) + digest[16:],
        ]

    def proved(self, proof: bytes) -> CtcCall:
        return replace(self, proof=proof)

    def abi_value(self) -> tuple[Any, ...]:
        """The struct as the contract's ABI takes it."""
        return (
            int.from_bytes(self.root, "big"),
            [int.from_bytes(one, "big") for one in self.nullifiers],
            [int.from_bytes(one, "big") for one in self.commitments],
            self.relayer,
            self.fee_token,
            self.fee,
            self.deadline,
            *self.memos,
            self.proof,
        )

    def to_json(self) -> dict[str, Any]:
        """As a relayer takes it: lower-case 0x hex, integers as decimal strings."""
        return {
            "root": _hex(self.root),
            "nullifiers": [_hex(one) for one in self.nullifiers],
            "commitments": [_hex(one) for one in self.commitments],
            "relayer": self.relayer.lower(),
            "feeToken": self.fee_token.lower(),
            "fee": str(self.fee),
            "deadline": str(self.deadline),
            "memo0": _hex(self.memos[0]),
            "memo1": _hex(self.memos[1]),
            "proof": _hex(self.proof),
        }

    @classmethod
    def from_json(cls, given: object) -> CtcCall:
        """Raises CallInvalid naming the field; unknown and missing fields are refused."""
        raw = _object(given, _CTC_NAMES)
        return cls(
            root=_bytes("root", raw["root"], 32),
            nullifiers=_pair("nullifiers", raw["nullifiers"]),
            commitments=_pair("commitments", raw["commitments"]),
            relayer=_address("relayer", raw["relayer"]),
            fee_token=_address("feeToken", raw["feeToken"]),
            fee=_integer("fee", raw["fee"]),
            deadline=_integer("deadline", raw["deadline"]),
            memos=(
                _bytes("memo0", raw["memo0"], MEMO_BYTES),
                _bytes("memo1", raw["memo1"], MEMO_BYTES),
            ),
            proof=_bytes("proof", raw["proof"], None),
        )


@dataclass(frozen=True, slots=True)
class CtaCall:
    """custodyToAddress: two notes in, `amount` out of the custody, the change stays in it.

    The recipient gets amount − fee, the relayer gets fee, both in units of `token`.  Other fields
    as in CtcCall; change: the commitment of what remains.
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

    def __post_init__(self) -> None:
        _field("root", self.root)
        for at in (0, 1):
            _field(f"nullifiers[{at}]", self.nullifiers[at])
        if self.nullifiers[0] == self.nullifiers[1]:
            raise CallInvalid("nullifiers", "the two are equal")
        _field("change", self.change)
        object.__setattr__(self, "token", checksummed("token", self.token))
        object.__setattr__(self, "recipient", checksummed("recipient", self.recipient))
        object.__setattr__(self, "relayer", checksummed("relayer", self.relayer))
        if self.token == ZERO_ADDRESS:
            raise CallInvalid("token", "is the zero address")
        if self.recipient == ZERO_ADDRESS:
            raise CallInvalid("recipient", "is the zero address")
        _amount("amount", self.amount)
        _amount("fee", self.fee)
        if self.amount == 0:
            raise CallInvalid("amount", "nothing would leave")
        if self.fee > self.amount:
            raise CallInvalid("fee", f"{self.fee} is more than the amount {self.amount}")
        if (self.relayer == ZERO_ADDRESS) != (self.fee == 0):
            raise CallInvalid("fee", "a relayer needs a fee, and a fee needs a relayer")
        _deadline(self.deadline)
        _memo("memo", self.memo)
        _proof(self.proof)

    @property
    def kind(self) -> str:
        return "cta"

    def message(self, chain_id: int, contract: str) -> TypedMessage:
        """What both wallets of the inputs' custody sign."""
        return TypedMessage(
            chain_id,
            contract,
            "CustodyToAddress",
            (
                ("nullifier0", "bytes32"),
                ("nullifier1", "bytes32"),
                ("change", "bytes32"),
                ("token", "address"),
                ("amount", "uint256"),
                ("recipient", "address"),
                ("relayer", "address"),
                ("fee", "uint256"),
                ("memos", "bytes32"),
                ("deadline", "uint256"),
            ),
            {
                "nullifier0": self.nullifiers[0],
                "nullifier1": self.nullifiers[1],
                "change": self.change,
                "token": self.token,
                "amount": self.amount,
                "recipient": self.recipient,
                "relayer": self.relayer,
                "fee": self.fee,
                "memos": keccak256(self.memo),
                "deadline": self.deadline,
            },
        )

    def digest(self, chain_id: int, contract: str) -> bytes:
        return self.message(chain_id, contract).digest()

    def public_inputs(self, chain_id: int, contract: str) -> list[bytes]:
        """The circuit's eight public inputs, bytes of 32 each."""
        digest = self.digest(chain_id, contract)
        return [
            self.root,
            *self.nullifiers,
            self.change,
            _address_field(self.token),
            self.amount.to_bytes(32, "big"),
            bytes(16) + digest[:16],
            bytes(16) + digest[16:],
        ]

    def proved(self, proof: bytes) -> CtaCall:
        return replace(self, proof=proof)

    def abi_value(self) -> tuple[Any, ...]:
        """The struct as the contract's ABI takes it."""
        return (
            int.from_bytes(self.root, "big"),
            [int.from_bytes(one, "big") for one in self.nullifiers],
            int.from_bytes(self.change, "big"),
            self.token,
            self.amount,
            self.recipient,
            self.relayer,
            self.fee,
            self.deadline,
            self.memo,
            self.proof,
        )

    def to_json(self) -> dict[str, Any]:
        """As a relayer takes it: lower-case 0x hex, integers as decimal strings."""
        return {
            "root": _hex(self.root),
            "nullifiers": [_hex(one) for one in self.nullifiers],
            "change": _hex(self.change),
            "token": self.token.lower(),
            "amount": str(self.amount),
            "recipient": self.recipient.lower(),
            "relayer": self.relayer.lower(),
            "fee": str(self.fee),
            "deadline": str(self.deadline),
            "memo": _hex(self.memo),
            "proof": _hex(self.proof),
        }

    @classmethod
    def from_json(cls, given: object) -> CtaCall:
        """Raises CallInvalid naming the field; unknown and missing fields are refused."""
        raw = _object(given, _CTA_NAMES)
        return cls(
            root=_bytes("root", raw["root"], 32),
            nullifiers=_pair("nullifiers", raw["nullifiers"]),
            change=_bytes("change", raw["change"], 32),
            token=_address("token", raw["token"]),
            amount=_integer("amount", raw["amount"]),
            recipient=_address("recipient", raw["recipient"]),
            relayer=_address("relayer", raw["relayer"]),
            fee=_integer("fee", raw["fee"]),
            deadline=_integer("deadline", raw["deadline"]),
            memo=_bytes("memo", raw["memo"], MEMO_BYTES),
            proof=_bytes("proof", raw["proof"], None),
        )


Call = CtcCall | CtaCall


def call_from_json(kind: str, given: object) -> Call:
    """A call off the wire.  Raises CallInvalid, also for an unknown kind."""
    if kind == "ctc":
        return CtcCall.from_json(given)
    if kind == "cta":
        return CtaCall.from_json(given)
    raise CallInvalid("kind", "must be ctc or cta")


_BOTH: Final = frozenset({"root", "nullifiers", "relayer", "fee", "deadline", "proof"})
_CTC_NAMES: Final = _BOTH | {"commitments", "feeToken", "memo0", "memo1"}
_CTA_NAMES: Final = _BOTH | {"change", "token", "amount", "recipient", "memo"}


def _field(name: str, value: bytes) -> None:
    if len(value) != 32:
        raise CallInvalid(name, f"must be 32 bytes, not {len(value)}")
    if int.from_bytes(value, "big") >= FIELD_MODULUS:
        raise CallInvalid(name, "is not below the field's modulus")


def _memo(name: str, value: bytes) -> None:
    if len(value) != MEMO_BYTES:
        raise CallInvalid(name, f"must be {MEMO_BYTES} bytes, not {len(value)}")


def _amount(name: str, value: int) -> None:
    if not 0 <= value <= MAX_AMOUNT:
        raise CallInvalid(name, f"{value} is not between 0 and 2^128 − 1")


def _deadline(value: int) -> None:
    if not 0 < value < 1 << 256:
        raise CallInvalid("deadline", f"{value} is no time in seconds")


def _proof(value: bytes) -> None:
    if len(value) > MAX_PROOF_BYTES or len(value) % 32:
        raise CallInvalid("proof", f"{len(value)} bytes is no proof's length")


def _address_field(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address[2:])


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _object(given: object, names: frozenset[str]) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise CallInvalid("call", "must be an object")
    for name in given:
        if name not in names:
            raise CallInvalid(str(name)[:40], "is not a field of this call")
    for name in sorted(names):
        if name not in given:
            raise CallInvalid(name, "is missing")
    return given


def _bytes(name: str, given: object, length: int | None) -> bytes:
    if not isinstance(given, str) or not given.startswith("0x") or len(given) % 2:
        raise CallInvalid(name, "must be 0x and whole bytes in hexadecimal")
    digits = given[2:]
    if not _HEX.issuperset(digits):
        raise CallInvalid(name, "must be lower-case hexadecimal")
    if length is not None and len(digits) != 2 * length:
        raise CallInvalid(name, f"must be {length} bytes, not {len(digits) // 2}")
    if len(digits) > 2 * MAX_PROOF_BYTES:
        raise CallInvalid(name, f"is longer than {MAX_PROOF_BYTES} bytes")
    return bytes.fromhex(digits)


def _pair(name: str, given: object) -> tuple[bytes, bytes]:
    if not isinstance(given, list) or len(given) != 2:
        raise CallInvalid(name, "must be a list of two")
    return _bytes(f"{name}[0]", given[0], 32), _bytes(f"{name}[1]", given[1], 32)


def _address(name: str, given: object) -> str:
    return checksummed(name, "0x" + _bytes(name, given, 20).hex())


def _integer(name: str, given: object) -> int:
    if (
        not isinstance(given, str)
        or not given.isascii()
        or not given.isdigit()
        or len(given) > 78
        or (len(given) > 1 and given[0] == "0")
    ):
        raise CallInvalid(name, "must be a whole number as a decimal string")
    return int(given)
