"""Plans of moves: from openings to the call that is signed and the witness that is proved.

A plan needs neither chain nor clock.  The root is not part of what is signed, so a plan can be
proved under any root; that is the newest one at the time.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from psymm._core import MerkleProof, SignatureError, address_of, recover
from psymm.chain.addresses import ZERO_ADDRESS
from psymm.chain.calls import Call, CtaCall, CtcCall
from psymm.custody.errors import ConsentInvalid, NoteInvalid
from psymm.custody.notes import (
    ZERO,
    Custody,
    Note,
    commitment,
    empty_note,
    field_element,
)

MAX_DEPTH: Final = 32
DEADLINE_STEP_S: Final = 300


@dataclass(frozen=True, slots=True)
class Output:
    """A new note as its payer knows it.

    Attributes:
        inner: H2(custody id, blinding).
        amount: token units.
        memo: 256 bytes.
    """

    inner: bytes
    amount: int
    memo: bytes = field(repr=False)

    def commitment(self, token: str) -> bytes:
        return commitment(self.inner, token, self.amount)


@dataclass(frozen=True, slots=True)
class Signatures:
    """The signatures by both wallets of the inputs' custody; equal in a sole custody."""

    trader: bytes = field(repr=False)
    solver: bytes = field(repr=False)

    def check(self, custody: Custody, digest: bytes) -> None:
        """Raises ConsentInvalid naming the party whose signature is wrong."""
        for role, signature, key in (
            ("trader", self.trader, custody.trader),
            ("solver", self.solver, custody.solver),
        ):
            check_consent(role, digest, signature, key)


def check_consent(role: str, digest: bytes, signature: bytes, public_key: bytes) -> None:
    """Raises ConsentInvalid unless the signature (65 bytes, low s) is by that key."""
    expected = address_of(public_key)
    try:
        found = recover(digest, signature)
    except (SignatureError, ValueError):
        raise ConsentInvalid(role, expected, "no valid signature") from None
    if found != public_key:
        raise ConsentInvalid(role, expected, address_of(found))


@dataclass(frozen=True, slots=True)
class CtcPlan:
    """Two notes of one custody in, two notes out, in the order that the chain sees.

    Attributes:
        empty1: the second input is a note of amount 0 that is in no tree.
        fee: token units.
        deadline: seconds since the epoch.

    Raises NoteInvalid if the amounts do not add up or the notes do not belong together.
    """

    inputs: tuple[Note, Note]
    empty1: bool
    outputs: tuple[Output, Output]
    relayer: str
    fee: int
    deadline: int

    def __post_init__(self) -> None:
        _check_inputs(self.inputs, self.empty1)
        for output in self.outputs:
            field_element("output's inner hash", output.inner)
        paid = sum(one.amount for one in self.outputs) + self.fee
        if sum(one.amount for one in self.inputs) != paid:
            raise NoteInvalid("amounts", "the inputs do not equal the outputs and the fee")

    @property
    def custody(self) -> Custody:
        return self.inputs[0].custody

    @property
    def token(self) -> str:
        return self.inputs[0].token

    @property
    def call(self) -> CtcCall:
        """The call without root and proof."""
        return CtcCall(
            root=ZERO,
            nullifiers=(self.inputs[0].nullifier, self.inputs[1].nullifier),
            commitments=(
                self.outputs[0].commitment(self.token),
                self.outputs[1].commitment(self.token),
            ),
            relayer=self.relayer,
            # The contract wants relayer, token and fee, or none of them. So a free move does not
            # show its token.
            fee_token=self.token if self.fee else ZERO_ADDRESS,
            fee=self.fee,
            deadline=self.deadline,
            memos=(self.outputs[0].memo, self.outputs[1].memo),
        )

    def witness(
        self, call: CtcCall, digest: bytes, signatures: Signatures, paths: Sequence[MerkleProof]
    ) -> dict[str, Any]:
        """The inputs of circuit `ctc`; secret.  paths: one for each input in the tree."""
        return {
            "root": _hex(call.root),
            "nullifier0": _hex(call.nullifiers[0]),
            "nullifier1": _hex(call.nullifiers[1]),
            "commitment0": _hex(call.commitments[0]),
            "commitment1": _hex(call.commitments[1]),
            "fee_token": _address(call.fee_token),
            "fee": hex(call.fee),
            **_common(self.inputs, self.empty1, digest, signatures, paths),
            "token": _address(self.token),
            "out_inner": [_hex(one.inner) for one in self.outputs],
            "out_amount": [hex(one.amount) for one in self.outputs],
        }


@dataclass(frozen=True, slots=True)
class CtaPlan:
    """Two notes of one custody in, `amount` out to an address, the rest in a new note."""

    inputs: tuple[Note, Note]
    empty1: bool
    change: Note
    memo: bytes = field(repr=False)
    amount: int
    recipient: str
    relayer: str
    fee: int
    deadline: int

    def __post_init__(self) -> None:
        _check_inputs(self.inputs, self.empty1)
        if self.change.custody != self.custody or self.change.token != self.token:
            raise NoteInvalid("change", "is in another custody or token than the inputs")
        if sum(one.amount for one in self.inputs) != self.change.amount + self.amount:
            raise NoteInvalid("amounts", "the inputs do not equal the change and the amount")

    @property
    def custody(self) -> Custody:
        return self.inputs[0].custody

    @property
    def token(self) -> str:
        return self.inputs[0].token

    @property
    def call(self) -> CtaCall:
        """The call without root and proof."""
        return CtaCall(
            root=ZERO,
            nullifiers=(self.inputs[0].nullifier, self.inputs[1].nullifier),
            change=self.change.commitment,
            token=self.token,
            amount=self.amount,
            recipient=self.recipient,
            relayer=self.relayer,
            fee=self.fee,
            deadline=self.deadline,
            memo=self.memo,
        )

    def witness(
        self, call: CtaCall, digest: bytes, signatures: Signatures, paths: Sequence[MerkleProof]
    ) -> dict[str, Any]:
        """The inputs of circuit `cta`; secret.  paths: one for each input in the tree."""
        return {
            "root": _hex(call.root),
            "nullifier0": _hex(call.nullifiers[0]),
            "nullifier1": _hex(call.nullifiers[1]),
            "change": _hex(call.change),
            "token": _address(call.token),
            "amount": hex(call.amount),
            **_common(self.inputs, self.empty1, digest, signatures, paths),
            "change_blinding": _hex(self.change.blinding),
            "change_amount": hex(self.change.amount),
        }


Plan = CtcPlan | CtaPlan


def plan_of(call: Call, inputs: Collection[bytes], notes: Iterable[Note]) -> Plan | None:
    """The plan of a call, rebuilt from the notes that it spends and makes.

    inputs: nullifiers of the inputs that are in the tree.  None if a note is missing, such as one
    that the move makes for somebody else.
    """
    known = list(notes)
    spent = {note.nullifier: note for note in known if note.nullifier in call.nullifiers}
    made = {note.commitment: note for note in known}
    if len(spent) < 2:
        return None
    both = (spent[call.nullifiers[0]], spent[call.nullifiers[1]])
    empty1 = call.nullifiers[1] not in inputs
    if isinstance(call, CtcCall):
        outputs = [
            Output(made[one].inner, made[one].amount, memo)
            for one, memo in zip(call.commitments, call.memos, strict=True)
            if one in made
        ]
        if len(outputs) < 2:
            return None
        pair = (outputs[0], outputs[1])
        return CtcPlan(both, empty1, pair, call.relayer, call.fee, call.deadline)
    if call.change not in made:
        return None
    return CtaPlan(
        both, empty1, made[call.change], call.memo, call.amount, call.recipient, call.relayer,
        call.fee, call.deadline,
    )  # fmt: skip


def paired(notes: Sequence[Note], blinding: bytes | None = None) -> tuple[tuple[Note, Note], bool]:
    """A move's two inputs from one or two notes, and whether the second one is empty.

    Two notes come in random order.  blinding: of the empty note; None draws one.
    """
    if len(notes) == 1:
        return (notes[0], empty_note(notes[0], blinding)), True
    if len(notes) != 2:
        raise NoteInvalid("inputs", f"a move takes one or two notes, not {len(notes)}")
    first, second = shuffled(notes)
    return (first, second), False


def shuffled(two: Sequence[Any]) -> tuple[Any, Any]:
    """Both in random order, which reveals nothing."""
    return (two[0], two[1]) if secrets.randbits(1) else (two[1], two[0])


def deadline_after(now_s: float, expires_in_s: int = 1_800) -> int:
    """A deadline at least `expires_in_s` away, rounded up to five minutes, so that it identifies
    nobody."""
    return math.ceil((now_s + expires_in_s) / DEADLINE_STEP_S) * DEADLINE_STEP_S


def _check_inputs(inputs: tuple[Note, Note], empty1: bool) -> None:
    first, second = inputs
    if first.custody != second.custody:
        raise NoteInvalid("inputs", "are in two custodies")
    if first.token != second.token:
        raise NoteInvalid("inputs", "are in two tokens")
    if first.nullifier == second.nullifier:
        raise NoteInvalid("inputs", "are one note twice")
    if empty1 and second.amount:
        raise NoteInvalid("inputs", "the empty one has an amount")


def _common(
    inputs: tuple[Note, Note],
    empty1: bool,
    digest: bytes,
    signatures: Signatures,
    paths: Sequence[MerkleProof],
) -> dict[str, Any]:
    custody = inputs[0].custody
    if len(paths) != (1 if empty1 else 2):
        raise NoteInvalid("paths", "one is needed for each input that is in the tree")
    lengths, indices, siblings = [0, 0], [0, 0], [["0x0"] * MAX_DEPTH for _ in range(2)]
    for at, path in enumerate(paths):
        lengths[at] = len(path.siblings)
        indices[at] = path.index
        siblings[at][: len(path.siblings)] = [_hex(one) for one in path.siblings]
    return {
        "digest_hi": _hex(digest[:16]),
        "digest_lo": _hex(digest[16:]),
        "trader_x": list(custody.trader[:32]),
        "trader_y": list(custody.trader[32:]),
        "solver_x": list(custody.solver[:32]),
        "solver_y": list(custody.solver[32:]),
        "terms_hi": _hex(custody.terms_hash[:16]),
        "terms_lo": _hex(custody.terms_hash[16:]),
        "salt": _hex(custody.salt),
        "trader_signature": list(signatures.trader[:64]),
        "solver_signature": list(signatures.solver[:64]),
        "in_blinding": [_hex(one.blinding) for one in inputs],
        "in_amount": [hex(one.amount) for one in inputs],
        "empty1": empty1,
        "path_length": lengths,
        "path_index": indices,
        "path_siblings": siblings,
    }


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _address(address: str) -> str:
    return address.lower()
