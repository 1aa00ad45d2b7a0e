"""The viewing secret: deterministic, for one contract; nobody else can open or forge its memos."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kms_signer import kms_wallet

from psymm._core import FIELD_MODULUS, SecretKey
from psymm.custody.errors import MemoInvalid, NoteInvalid
from psymm.custody.notes import Custody
from psymm.custody.viewing import ViewingKey, viewing_key
from psymm.errors import UnsteadySigner
from psymm.wallet import KeyWallet

VECTOR = json.loads((Path(__file__).parent.parent / "vectors" / "memo.json").read_text())
CONTRACT = "0xeD44e116Ac6Ce28043c6d8d2938c0Ab9B8B68860"
TOKEN = "0x0B30e6b85813001F9e0812017D1Dd8fF7AC4A01A"


def a_key(chain_id: int = 31337, contract: str = CONTRACT) -> ViewingKey:
    return ViewingKey(b"\x05" * 32, OWNER.public_key, chain_id, contract)


OWNER, OTHER = (KeyWallet(SecretKey.from_bytes(bytes([one]) * 32)) for one in (1, 2))
PAIR = Custody(OTHER.public_key, OWNER.public_key, b"\x09" * 32, b"\x08" * 32)


async def test_it_comes_from_one_wallet_on_one_contract_and_is_always_the_same() -> None:
    first = await viewing_key(OWNER, 31337, CONTRACT)
    assert first == await viewing_key(OWNER, 31337, CONTRACT)
    others = [
        await viewing_key(OTHER, 31337, CONTRACT),
        await viewing_key(OWNER, 1, CONTRACT),
        await viewing_key(OWNER, 31337, TOKEN),
    ]
    assert len({one.secret for one in (first, *others)}) == 4
    assert first.secret.hex() not in repr(first)
    assert str(first.secret) not in repr(first)


async def test_a_wallet_that_signs_differently_each_time_needs_a_secrets_key() -> None:
    with pytest.raises(UnsteadySigner, match="secrets_key"):
        await viewing_key(kms_wallet(None), 31337, CONTRACT)

    wallet = kms_wallet(OTHER, 1)
    first = await viewing_key(wallet, 31337, CONTRACT)
    assert first == await viewing_key(kms_wallet(OTHER, 1), 31337, CONTRACT)
    assert first.public_key == wallet.public_key
    others = [
        await viewing_key(kms_wallet(OTHER, 2), 31337, CONTRACT),
        await viewing_key(kms_wallet(OWNER, 1), 31337, CONTRACT),
        await viewing_key(wallet, 1, CONTRACT),
        await viewing_key(OTHER, 31337, CONTRACT),
    ]
    assert len({one.secret for one in (first, *others)}) == 5


def test_a_memo_is_256_bytes_that_only_its_key_opens() -> None:
    key = a_key()
    for custody in (key.sole, PAIR):
        note = key.note(custody, TOKEN, 123, 77)
        memo = key.seal(note, 77)
        assert len(memo) == 256
        assert memo != key.seal(note, 77)
        said = key.open(memo)
        assert said is not None
        assert (said.custody, said.token, said.amount, said.counter) == (custody, TOKEN, 123, 77)
        assert said.lane == (0 if custody.is_sole else 1)
        assert key.find(note.commitment, memo) == (note, 77)
        for stranger in (
            replace(key, secret=b"\x06" * 32),
            a_key(chain_id=1),
            a_key(contract=TOKEN),
        ):
            assert stranger.open(memo) is None


@given(at=st.integers(0, 255), bit=st.integers(0, 7))
def test_a_memo_with_any_bit_changed_opens_for_nobody(at: int, bit: int) -> None:
    key = a_key()
    note = key.note(key.sole, TOKEN, 5, 1)
    memo = bytearray(key.seal(note, 1))
    memo[at] ^= 1 << bit
    assert key.open(bytes(memo)) is None
    assert key.find(note.commitment, bytes(memo)) is None


@given(st.binary(max_size=300))
def test_strangers_memos_never_raise_in_the_search(memo: bytes) -> None:
    assert a_key().find(b"\x01" * 32, memo) is None


def test_a_memo_of_another_length_is_refused_by_name() -> None:
    for length in (0, 255, 257):
        with pytest.raises(MemoInvalid, match="256"):
            a_key().open(bytes(length))


def test_a_memo_copied_to_anothers_leaf_finds_nothing() -> None:
    key = a_key()
    memo = key.seal(key.note(key.sole, TOKEN, 5, 1), 1)
    other = key.note(key.sole, TOKEN, 6, 1)
    assert key.find(other.commitment, memo) is None


def test_a_memo_that_our_own_key_sealed_around_nonsense_is_named() -> None:
    key = a_key()
    note = key.note(key.sole, TOKEN, 5, 1)
    good = key._memos.decrypt(
        (memo := key.seal(note, 1))[:12], memo[12:], (31337).to_bytes(8, "big")
        + bytes.fromhex(CONTRACT[2:]),
    )  # fmt: skip
    for at, value in ((0, 2), (1, 2), (46, 1), (110, 1), (174, 2), (174, 1), (175, 1), (227, 1)):
        changed = bytearray(good)
        changed[at] = value
        nonce = secrets.token_bytes(12)
        sealed = nonce + key._memos.encrypt(nonce, bytes(changed), key._place)
        with pytest.raises(MemoInvalid):
            key.open(sealed)
        assert key.find(note.commitment, sealed) is None


def test_only_a_party_seals_a_custodys_memo() -> None:
    stranger = ViewingKey(b"\x05" * 32, KeyWallet.generate().public_key, 31337, CONTRACT)
    with pytest.raises(NoteInvalid):
        stranger.seal(stranger.note(PAIR, TOKEN, 1, 0), 0)


@given(counter=st.integers(0, 2**63 - 1))
def test_blindings_are_field_elements_and_differ_by_custody_and_counter(counter: int) -> None:
    key = a_key()
    blinding = key.blinding(PAIR.id, counter)
    assert int.from_bytes(blinding, "big") < FIELD_MODULUS
    assert blinding != key.blinding(PAIR.id, counter + 1)
    assert blinding != key.blinding(key.sole.id, counter)


@pytest.mark.parametrize("given_", VECTOR["memos"])
def test_memos_made_long_ago_still_open(given_: dict) -> None:
    """Wallets are rebuilt from this layout, so it can never change within a version."""
    key = ViewingKey(
        bytes.fromhex(VECTOR["viewingSecret"][2:]), OWNER.public_key,
        VECTOR["chainId"], VECTOR["contract"],
    )  # fmt: skip
    found = key.find(bytes.fromhex(given_["commitment"][2:]), bytes.fromhex(given_["memo"][2:]))
    assert found is not None
    note, counter = found
    assert (note.amount, counter, note.token) == (
        int(given_["amount"]), int(given_["counter"]), given_["token"],
    )  # fmt: skip
    assert note.blinding.hex() == given_["blinding"][2:]
    assert note.custody.id.hex() == given_["custodyId"][2:]


async def test_the_viewing_secret_of_a_wallet_is_the_vectors() -> None:
    key = await viewing_key(OWNER, VECTOR["chainId"], VECTOR["contract"])
    assert key.secret.hex() == VECTOR["viewingSecret"][2:]
