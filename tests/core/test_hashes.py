"""Hashes, notes, the tree and the dev reference string, as Python sees them."""

import hashlib
import sys
import threading
import time
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


def test_many_hashes_equal_barretenbergs(poseidon2_vectors: Any) -> None:
    by_arity: dict[int, list[tuple[list[bytes], bytes]]] = {}
    for case in poseidon2_vectors["hashes"]:
        inputs = [octets(element) for element in case["inputs"]]
        by_arity.setdefault(len(inputs), []).append((inputs, octets(case["hash"])))
    del by_arity[0]
    for arity, cases in by_arity.items():
        data = b"".join(b"".join(inputs) for inputs, _ in cases * 9)
        hashes = b"".join(expected for _, expected in cases * 9)
        for buffer in (data, bytearray(data), memoryview(data)):
            assert _core.poseidon2_hash_many(arity, buffer) == hashes


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 17, 64])
def test_many_hashes_are_in_the_order_of_their_inputs(count: int) -> None:
    inputs = leaves(2 * count)
    expected = [_core.poseidon2_hash(inputs[i : i + 2]) for i in range(0, 2 * count, 2)]
    assert _core.poseidon2_hash_many(2, b"".join(inputs)) == b"".join(expected)


def test_the_first_of_many_inputs_at_the_modulus_is_named() -> None:
    data = [word(1)] * 40
    data[23] = data[31] = word(_core.FIELD_MODULUS)
    with pytest.raises(_core.FieldError, match=r"input 23: .* below the BN254 modulus") as caught:
        _core.poseidon2_hash_many(2, b"".join(data))
    assert (caught.value.code, caught.value.index) == ("not-in-field", 23)
    with pytest.raises(_core.FieldError) as caught:
        _core.poseidon2_hash(data[20:])
    assert caught.value.index == 3
    assert _core.FieldError("made by hand").index == 0


@pytest.mark.parametrize(
    ("arity", "length"), [(0, 0), (0, 64), (1, 31), (2, 32), (2, 65), (3, 64), (2**60, 64)]
)
def test_inputs_that_are_no_whole_number_of_hashes_are_refused(arity: int, length: int) -> None:
    with pytest.raises(ValueError, match=f"{length} bytes are no whole number of hashes"):
        _core.poseidon2_hash_many(arity, bytes(length))


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


@given(st.lists(st.integers(0, 40), max_size=6), st.integers(1, 3))
def test_leaves_in_one_buffer_give_the_tree_of_leaves_in_a_list(
    parts: list[int], threads: int
) -> None:
    everything = leaves(sum(parts))
    listed, flat = _core.LeanIMT(), _core.LeanIMT(bytearray(), threads=threads)
    for part in parts:
        added = everything[len(listed) : len(listed) + part]
        listed.insert_many(iter(added))
        flat.insert_many(b"".join(added), threads=threads)
        assert (flat.root, flat.depth, len(flat)) == (listed.root, listed.depth, len(listed))
    assert _core.LeanIMT(memoryview(b"".join(everything))).root == listed.root


def test_a_buffer_of_leaves_is_refused_whole() -> None:
    known = leaves(6)
    tree = _core.LeanIMT(b"".join(known[:3]))
    before = tree.root
    beyond = b"".join([known[3], known[4], word(_core.FIELD_MODULUS), known[5]])
    with pytest.raises(_core.FieldError, match="leaf 2:") as caught:
        tree.insert_many(beyond)
    assert caught.value.index == 2
    with pytest.raises(_core.FieldError, match="leaf 1:"):
        tree.insert_many([known[3], word(_core.FIELD_MODULUS)])
    with pytest.raises(ValueError, match="multiple of 32 bytes, not 95"):
        tree.insert_many(b"".join(known[3:])[:95])
    with pytest.raises(_core.CoreError) as twice:
        tree.insert_many(b"".join([known[4], known[0]]))
    assert twice.value.code == "known-leaf"
    assert (tree.root, len(tree)) == (before, 3)


def test_other_threads_run_while_a_tree_is_hashed() -> None:
    everything = _core.poseidon2_hash_many(1, b"".join(word(i) for i in range(2**13)))
    ticks, done = 0, threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.is_set():
            ticks += 1
            time.sleep(0)  # which lets go of the lock

    ticking = threading.Thread(target=tick)
    interval = sys.getswitchinterval()
    # So long an interval takes the lock from nobody: it must be let go.
    sys.setswitchinterval(3600)
    ticking.start()
    try:
        before = ticks
        tree = _core.LeanIMT(everything)
        assert ticks > before
    finally:
        done.set()
        sys.setswitchinterval(interval)
        ticking.join()
    assert len(tree) == 2**13


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
