"""Custodies, notes, openings and authorisations against the vectors that all languages share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import given
from hypothesis import strategies as st

from psymm._core import FIELD_MODULUS, recover
from psymm.chain.addresses import checksummed
from psymm.chain.calls import CtaCall, CtcCall, call_from_json
from psymm.chain.errors import CallInvalid
from psymm.custody import notes
from psymm.custody.errors import NoteInvalid
from psymm.custody.notes import Custody, Note, NoteOpening, sole_custody
from psymm.wallet import KeyWallet

VECTORS = Path(__file__).parent.parent / "vectors"
POSEIDON = json.loads((VECTORS / "poseidon2.json").read_text())
SIGNED = json.loads((VECTORS / "authorisation.json").read_text())


def raw(text: str) -> bytes:
    return bytes.fromhex(text[2:])


@pytest.mark.parametrize("given_", POSEIDON["custodies"])
def test_a_custodys_id_is_barretenbergs(given_: dict) -> None:
    trader = raw(given_["trader"]["x"]) + raw(given_["trader"]["y"])
    solver = raw(given_["solver"]["x"]) + raw(given_["solver"]["y"])
    custody = Custody(trader, solver, raw(given_["terms"]), raw(given_["salt"]))
    assert custody.id == raw(given_["custodyId"])
    assert custody.is_sole == given_["sole"]
    assert notes.key_hash(trader) == raw(given_["trader"]["key"])


@pytest.mark.parametrize("given_", POSEIDON["notes"])
def test_commitment_and_nullifier_are_barretenbergs(given_: dict) -> None:
    token = checksummed("token", "0x" + given_["token"][-40:])
    inner = notes.inner(raw(given_["custodyId"]), raw(given_["blinding"]))
    commitment = notes.commitment(inner, token, int(given_["amount"], 16))
    assert inner == raw(given_["inner"])
    assert commitment == raw(given_["commitment"])
    assert notes.nullifier(commitment, raw(given_["blinding"])) == raw(given_["nullifier"])


def ctc(given_: dict) -> CtcCall:
    return CtcCall(
        bytes(32),
        (raw(given_["nullifier0"]), raw(given_["nullifier1"])),
        (raw(given_["commitment0"]), raw(given_["commitment1"])),
        given_["relayer"], given_["feeToken"], int(given_["fee"]), int(given_["deadline"]),
        (raw(given_["memo0"]), raw(given_["memo1"])),
    )  # fmt: skip


def cta(given_: dict) -> CtaCall:
    return CtaCall(
        bytes(32),
        (raw(given_["nullifier0"]), raw(given_["nullifier1"])),
        raw(given_["change"]), given_["token"], int(given_["amount"]), given_["recipient"],
        given_["relayer"], int(given_["fee"]), int(given_["deadline"]), raw(given_["memo"]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("call", "given_"),
    [(ctc(one), one) for one in SIGNED["ctc"]] + [(cta(one), one) for one in SIGNED["cta"]],
)
def test_what_both_keys_sign_is_the_shared_vectors_and_eth_accounts(call, given_: dict) -> None:
    place = (given_["chainId"], SIGNED["verifyingContract"])
    message = call.message(*place)
    assert message.domain == raw(given_["domainSeparator"])
    assert call.digest(*place) == raw(given_["digest"])
    key = SIGNED["keys"][given_["signer"]]
    assert recover(call.digest(*place), raw(given_["signature"])) == raw(key["publicKey"])
    signable = encode_typed_data(full_message=message.full_message())
    signed = Account.sign_message(signable, raw(key["secret"]))
    assert bytes(signed.signature) == raw(given_["signature"])
    # Neither root nor proof is signed; everything else is.
    moved = replace(call, root=b"\x01" * 32, proof=bytes(32))
    assert moved.digest(*place) == call.digest(*place)
    assert replace(call, deadline=call.deadline - 1).digest(*place) != call.digest(*place)
    assert call_from_json(call.kind, call.to_json()) == call
    inputs = call.public_inputs(*place)
    assert len(inputs) == {"ctc": 9, "cta": 8}[call.kind]
    assert inputs[-2][16:] + inputs[-1][16:] == call.digest(*place)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("root", "0x" + f"{FIELD_MODULUS:064x}"),
        ("root", "0x" + "AB" * 32),
        ("root", "0x" + "11" * 31),
        ("root", 1),
        ("nullifiers", ["0x" + "11" * 32]),
        ("nullifiers", ["0x" + "11" * 32] * 2),
        ("commitments", "0x"),
        ("relayer", "0x" + "11" * 20),
        ("fee", "1"),
        ("fee", "-1"),
        ("fee", "01"),
        ("fee", "1e3"),
        ("fee", 0),
        ("fee", "٣"),
        ("fee", str(1 << 128)),
        ("fee", "9" * 10_000),
        ("deadline", "0"),
        ("memo0", "0x" + "00" * 255),
        ("memo0", "0x" + "00" * 257),
        ("proof", "0x00"),
        ("proof", "0x" + "00" * 70_000),
        ("proof", "00"),
        ("extra", "1"),
    ],
)
def test_a_call_off_the_wire_with_a_bad_field_is_refused(field: str, value: object) -> None:
    good = ctc(SIGNED["ctc"][0]).to_json()
    call_from_json("ctc", good)
    with pytest.raises(CallInvalid):
        call_from_json("ctc", {**good, field: value})


def test_a_call_off_the_wire_of_another_shape_is_refused() -> None:
    good = cta(SIGNED["cta"][0]).to_json()
    for name in good:
        with pytest.raises(CallInvalid):
            call_from_json("cta", {key: value for key, value in good.items() if key != name})
    for bad in (None, [], "x", 7, {}):
        with pytest.raises(CallInvalid):
            call_from_json("cta", bad)
    with pytest.raises(CallInvalid):
        call_from_json("cts", good)
    above = {**good, "fee": str(int(good["amount"]) + 1), "relayer": "0x" + "11" * 20}
    with pytest.raises(CallInvalid):
        call_from_json("cta", above)


def a_note(amount: int = 5, blinding: int = 7) -> Note:
    one, other = KeyWallet.generate(), KeyWallet.generate()
    custody = Custody(one.public_key, other.public_key, b"\x01" * 32, b"\x02" * 32)
    return Note(custody, "0x" + "11" * 20, amount, blinding.to_bytes(32, "big"))


@given(blinding=st.integers(1, FIELD_MODULUS - 1))
def test_no_repr_shows_a_blinding(blinding: int) -> None:
    note = a_note(blinding=blinding)
    shown = repr(note) + repr(note.opening) + str(note)
    assert str(note.blinding) not in shown
    assert note.blinding.hex() not in shown


def test_an_opening_proves_its_note_in_its_custody_only() -> None:
    note = a_note()
    assert note.opening.note(note.custody) == note
    for changed in (
        replace(note.opening, amount=6),
        replace(note.opening, blinding=b"\x01" * 32),
        replace(note.opening, token="0x" + "12" * 20),
        replace(note.opening, commitment=b"\x01" * 32),
    ):
        with pytest.raises(NoteInvalid):
            changed.note(note.custody)
    with pytest.raises(NoteInvalid):
        note.opening.note(replace(note.custody, salt=b"\x03" * 32))


def test_an_opening_is_read_from_a_parsed_message_or_refused_by_field() -> None:
    opening = a_note().opening
    typed = {
        "Commitment": opening.commitment, "Token": raw(opening.token), "Amount": 5,
        "Blinding": opening.blinding,
    }  # fmt: skip
    assert NoteOpening.from_typed(typed) == opening
    for name, bad in (
        ("Commitment", bytes(31)), ("Blinding", b"\xff" * 32), ("Token", bytes(19)),
        ("Amount", "5"), ("Amount", True), ("Blinding", None),
    ):  # fmt: skip
        with pytest.raises(NoteInvalid):
            NoteOpening.from_typed({**typed, name: bad})
        with pytest.raises(NoteInvalid):
            NoteOpening.from_typed({key: value for key, value in typed.items() if key != name})


def test_custodies_and_notes_that_cannot_be_are_refused() -> None:
    one, other = KeyWallet.generate().public_key, KeyWallet.generate().public_key
    for bad in (
        lambda: Custody(one, other),
        lambda: Custody(one, one, b"\x01" * 32),
        lambda: Custody(one, one, salt=b"\x01" * 32),
        lambda: Custody(one, other, b"\x01" * 31),
        lambda: Custody(one, other, b"\x01" * 32, b"\xff" * 32),
        lambda: Custody(one[:-1], other, b"\x01" * 32),
        lambda: Custody(bytes(64), other, b"\x01" * 32),
        lambda: Note(sole_custody(one), "0x" + "11" * 20, 1 << 128, bytes(32)),
        lambda: Note(sole_custody(one), "0x" + "11" * 20, -1, bytes(32)),
        lambda: Note(sole_custody(one), "0x" + "11" * 19, 1, bytes(32)),
        lambda: Note(sole_custody(one), "0x" + "11" * 20, 1, b"\xff" * 32),
        lambda: Custody(one, other, b"\x01" * 32).lane_of(KeyWallet.generate().public_key),
    ):
        with pytest.raises(NoteInvalid):
            bad()
