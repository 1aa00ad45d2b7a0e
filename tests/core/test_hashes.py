"""Hashes, notes, the tree and the dev reference string, as Python sees them."""

import hashlib
from typing import Any

import pytest
from eth_utils.crypto import keccak as ethereum_keccak
from hypothesis import given
from hypothesis import strategies as st

from psymm import _core


def octets(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def word(number: int) -> bytes:
    return number.to_bytes(32, "big")


def leaves(count: int) -> list[bytes]:
    return [_core.poseidon2_hash([word(i + 1)]) for i in range(count)]


@given(st.binary(max_size=1000))
def test_keccak_equals_ethereums(data: bytes) -> None:
    assert _core.keccak256(data) == ethereum_keccak(data)


def test_a_long_buffer_has_the_same_keccak_as_in_ethereum() -> None:
    data = bytes(range(256)) * 1000
    assert _core.keccak256(data) == ethereum_keccak(data)


def test_every_kind_of_buffer_is_read() -> None:
    data = b"some bytes"
    expected = _core.keccak256(data)
    for buffer in (bytearray(data), memoryview(data), memoryview(b"x" + data)[1:]):
        assert _core.keccak256(buffer) == expected
    strided = memoryview(b"".join(bytes([byte, 0]) for byte in data))[::2]
    assert _core.keccak256(strided) == expected


@pytest.mark.parametrize("wrong", ["text", 5, None, [1, 2]])
def test_what_is_no_buffer_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="expected bytes"):
        _core.keccak256(wrong)


def test_poseidon2_equals_barretenbergs(poseidon2_vectors: Any) -> None:
    assert octets(poseidon2_vectors["modulus"]) == word(_core.FIELD_MODULUS)
    for case in poseidon2_vectors["permutations"]:
        state = [octets(element) for element in case["state"]]
        assert _core.poseidon2_permutation(state) == [octets(x) for x in case["result"]]
    for case in poseidon2_vectors["hashes"]:
        inputs = [octets(element) for element in case["inputs"]]
        assert _core.poseidon2_hash(inputs) == octets(case["hash"])


def test_a_number_at_the_modulus_is_a_field_error() -> None:
    assert _core.poseidon2_hash([word(_core.FIELD_MODULUS - 1)])
    with pytest.raises(_core.FieldError, match="below the BN254 modulus") as caught:
        _core.poseidon2_hash([word(_core.FIELD_MODULUS)])
    assert caught.value.code == "not-in-field"
    assert isinstance(caught.value, _core.CoreError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_wrong_length_names_what_it_was_for(length: int) -> None:
    with pytest.raises(ValueError, match=f"input must be 32 bytes, not {length}"):
        _core.poseidon2_hash([bytes(length)])


def test_the_permutation_takes_four_elements() -> None:
    with pytest.raises(ValueError, match="4 elements, not 3"):
        _core.poseidon2_permutation([word(0)] * 3)


def test_trees_equal_those_made_with_barretenberg(poseidon2_vectors: Any) -> None:
    everything = [octets(leaf) for leaf in poseidon2_vectors["leaves"]]
    for case in poseidon2_vectors["trees"]:
        tree = _core.LeanIMT(everything[: case["size"]])
        assert (len(tree), tree.depth) == (case["size"], case["depth"])
        assert tree.root == octets(case["root"])
        for expected in case["proofs"]:
            proof = tree.proof(expected["leafIndex"])
            assert proof.leaf == octets(expected["leaf"])
            assert proof.index == expected["index"]
            assert proof.siblings == [octets(sibling) for sibling in expected["siblings"]]
            assert proof.root == tree.root
            assert proof.verify()


def test_a_proof_can_be_made_from_its_parts_and_fails_under_another_root() -> None:
    tree = _core.LeanIMT(leaves(11))
    proof = tree.proof(9)
    again = _core.MerkleProof(proof.leaf, proof.index, proof.siblings, proof.root, proof.leaf_index)
    assert again == proof
    assert again.verify()
    stale = _core.LeanIMT(leaves(10)).root
    assert not _core.MerkleProof(proof.leaf, proof.index, proof.siblings, stale, 9).verify()


def test_a_tree_refuses_what_the_contract_would() -> None:
    known = leaves(4)
    tree = _core.LeanIMT(known)
    before = tree.root
    for added, code in [([word(0)], "zero-leaf"), ([word(9), known[2]], "known-leaf")]:
        with pytest.raises(_core.CoreError) as caught:
            tree.insert_many(added)
        assert caught.value.code == code
    with pytest.raises(_core.FieldError):
        tree.insert(word(_core.FIELD_MODULUS))
    assert (tree.root, len(tree), tree.index_of(word(9))) == (before, 4, None)


def test_a_reorganisation_takes_leaves_back() -> None:
    everything = leaves(20)
    tree = _core.LeanIMT(iter(everything))
    tree.truncate(7)
    assert tree.root == _core.LeanIMT(everything[:7]).root
    assert tree.index_of(everything[7]) is None
    assert tree.insert(everything[10]) == 7
    tree.truncate(0)
    assert (tree.root, tree.depth, len(tree)) == (word(0), 0, 0)


def test_there_is_nothing_beyond_the_leaves() -> None:
    tree = _core.LeanIMT(leaves(2))
    with pytest.raises(IndexError, match="no leaf 2: the tree has 2"):
        tree.leaf(2)
    with pytest.raises(IndexError):
        tree.proof(2)
    with pytest.raises(OverflowError):
        tree.proof(-1)


def test_the_reference_string_has_barretenbergs_layout() -> None:
    g1, g2 = _core.dev_crs(5)
    assert (len(g1), len(g2)) == (5 * 64, 128)
    assert g1[:64] == word(1) + word(2)
    longer, same = _core.dev_crs(9)
    assert longer[: len(g1)] == g1
    assert same == g2


def test_the_reference_string_is_the_published_one() -> None:
    # A change of the sentence, the curve or the layout would leave old proofs without a string.
    g1, g2 = _core.dev_crs(3)
    digest = hashlib.sha256(g1 + g2).hexdigest()
    assert digest == "6df386cfab62da00f79e8a2316548870bc0fccd8968be19fa80bcf2455108a00"
