"""Rounds of prices (`spec.md` 41, 47): one root of all feeds, what it proves, and who signed it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account as EthAccount
from hypothesis import example, given
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from psymm._core import SecretKey, domain_separator, recover
from psymm.oracle.rounds import (
    MOST_LEAVES,
    MOST_ROUND_BYTES,
    MOST_SIBLINGS,
    MOST_SIGNERS,
    AbsenceProof,
    LeafInvalid,
    LeafPath,
    OracleError,
    OracleRound,
    ProofInvalid,
    ProvenLeaf,
    RoundInvalid,
    RoundLeaf,
    SignedRound,
    SignerSet,
    SignersUnsound,
    TooFewSigners,
    decode_round,
    encode_round,
    is_feed,
    round_digest,
    signers_of,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/oracle.json").read_text())
ROUNDS = pytest.mark.parametrize("vector", VECTORS["rounds"], ids=lambda one: one["size"])
AT = 1_790_604_800 * 10**9
ONE = 10**18
KEYS = [SecretKey.from_bytes(bytes(31) + bytes([n])) for n in (1, 2, 3)]
STRANGER = SecretKey.from_bytes(bytes(31) + b"\x09")
DOMAIN = domain_separator(31337, bytes(19) + b"\x01")

feeds = st.text("ABCxyz/-.~!", min_size=1, max_size=32)
prices = st.builds(RoundLeaf, feeds, st.integers(1, 10**38 - 1))
rates = st.builds(RoundLeaf, feeds, st.integers(1 - 10**38, 10**38 - 1), st.integers(1, 2**64 - 1))
leaf_lists = st.lists(prices | rates, min_size=1, max_size=40, unique_by=lambda one: one.key)
rounds = st.builds(OracleRound.of, st.integers(1, 2**64 - 1), leaf_lists)


def numbered(many: int) -> OracleRound:
    return OracleRound.of(AT, (RoundLeaf(f"F{n:03}", ONE + n) for n in range(many)))


def signed_by(*keys: SecretKey, many: int = 5) -> SignedRound:
    made = numbered(many)
    digest = round_digest(DOMAIN, made.root, made.timestamp)
    return SignedRound(made, tuple(key.sign(digest) for key in keys))


def of_vector(vector: dict[str, Any]) -> OracleRound:
    return OracleRound(
        int(vector["timestamp"]),
        tuple(
            RoundLeaf(one["feed"], int(one["value"]), int(one["epoch"])) for one in vector["leaves"]
        ),
    )


def unhex(text: str) -> bytes:
    return bytes.fromhex(text[2:])


# --- against eth-account, eth-abi and pymerkle -------------------------------------------------


@ROUNDS
def test_rule_41_root_and_paths_are_pymerkles(vector: dict[str, Any]) -> None:
    made = of_vector(vector)
    assert made.root == unhex(vector["root"])
    for one in vector["proofs"]:
        leaf = made.leaves[int(one["index"])]
        assert leaf.hash == unhex(one["hash"])
        proven = made.prove(*leaf.key)
        assert proven == ProvenLeaf(
            leaf, LeafPath(tuple(map(unhex, one["siblings"])), int(one["directions"]))
        )
        proven.check(made.root)


@ROUNDS
def test_rule_41_digest_and_signatures_are_eth_accounts(vector: dict[str, Any]) -> None:
    made = of_vector(vector)
    domain = domain_separator(vector["chainId"], unhex(VECTORS["verifyingContract"]))
    assert domain == unhex(vector["domainSeparator"])
    digest = round_digest(domain, made.root, made.timestamp)
    assert digest == unhex(vector["digest"])
    signatures = [unhex(one) for one in vector["signatures"]]
    keys = [SecretKey.from_bytes(unhex(one)) for one in VECTORS["secrets"]]
    assert [key.sign(digest) for key in keys] == signatures
    signers = SignerSet(tuple(VECTORS["signers"]), 3)
    assert SignedRound(made, tuple(signatures)).check(domain, signers) == set(VECTORS["signers"])
    for key, signature in zip(keys, signatures, strict=True):
        assert EthAccount._recover_hash(digest, signature=signature) == key.address
        assert recover(digest, signature) == key.public_key


@ROUNDS
def test_rule_47_absences_are_proven_by_the_neighbours(vector: dict[str, Any]) -> None:
    made = of_vector(vector)
    for one in vector["absent"]:
        before, after = int(one["before"]), int(one["after"])
        feed, epoch = one["feed"], int(one["epoch"])
        proof = made.prove_absent(feed, epoch)
        assert (proof.before and proof.before.leaf) == (
            made.leaves[before] if before >= 0 else None
        )
        assert (proof.after and proof.after.leaf) == (made.leaves[after] if after >= 0 else None)
        proof.check(made.root, feed, epoch)


@given(leaf_lists)
def test_any_tree_is_pymerkles(leaves: list[RoundLeaf]) -> None:
    made = OracleRound.of(AT, leaves)
    tree = InmemoryTree(algorithm="keccak_256", disable_security=True)
    for leaf in made.leaves:
        tree.append_entry(
            leaf.feed.encode().ljust(32, b"\0")
            + leaf.epoch.to_bytes(32)
            + leaf.value.to_bytes(32, signed=True)
        )
    assert made.root == tree.get_root()
    for index, leaf in enumerate(made.leaves):
        path = made.prove(*leaf.key).path
        proof = tree.prove_inclusion(index + 1)
        assert list(path.siblings) == proof.path[1:]
        assert [path.directions >> i & 1 for i in range(len(path.siblings))] == proof.rule[:-1]


# --- inclusion and absence ---------------------------------------------------------------------


@given(rounds, feeds, st.integers(0, 3))
@example(numbered(MOST_LEAVES), "F5115", 0)
def test_rule_47_a_leaf_is_proven_present_or_absent_and_never_both(
    made: OracleRound, feed: str, epoch: int
) -> None:
    for asked, at in ((feed, epoch), *(leaf.key for leaf in made.leaves)):
        found = made.find(asked, at)
        if found is None:
            made.prove_absent(asked, at).check(made.root, asked, at)
            with pytest.raises(ProofInvalid):
                made.prove(asked, at)
        else:
            proven = made.prove(asked, at)
            assert proven.leaf == found
            assert len(proven.path.siblings) <= MOST_SIBLINGS
            proven.check(made.root)
            with pytest.raises(ProofInvalid):
                made.prove_absent(asked, at)


@pytest.mark.parametrize("many", range(1, 34))
def test_rule_47_only_true_neighbours_prove_an_absence(many: int) -> None:
    """Every pair of leaves of every tree of up to 33: they prove an absence if, and only if, one
    follows the other."""
    made = numbered(many)
    proven = [made.prove(*leaf.key) for leaf in made.leaves]
    for i, one in enumerate(proven):
        assert one.path.first == (i == 0)
        assert one.path.last == (i == many - 1)
        for j, two in enumerate(proven):
            assert one.path.precedes(two.path) == (j == i + 1)


def test_rule_47_a_present_leaf_cannot_be_proven_absent() -> None:
    made = numbered(5)
    a, b, c, d, e = (made.prove(*leaf.key) for leaf in made.leaves)
    forged = [
        AbsenceProof(None, None),
        AbsenceProof(a, c),
        AbsenceProof(None, c),
        AbsenceProof(a, None),
        AbsenceProof(b, c),
        AbsenceProof(a, b),
        AbsenceProof(c, a),
        AbsenceProof(None, a),
        AbsenceProof(e, None),
        AbsenceProof(a, d),
    ]
    for proof in forged:
        with pytest.raises(ProofInvalid):
            proof.check(made.root, "F001")


def test_a_path_to_another_root_or_of_another_value_proves_nothing() -> None:
    made = numbered(5)
    proven = made.prove("F003")
    with pytest.raises(ProofInvalid):
        proven.check(numbered(6).root)
    with pytest.raises(ProofInvalid):
        ProvenLeaf(RoundLeaf("F003", 1), proven.path).check(made.root)
    with pytest.raises(ProofInvalid):
        ProvenLeaf(RoundLeaf("F003", proven.leaf.value, 1), proven.path).check(made.root)
    turned = LeafPath(proven.path.siblings, proven.path.directions ^ 1)
    with pytest.raises(ProofInvalid):
        ProvenLeaf(proven.leaf, turned).check(made.root)


@pytest.mark.parametrize(
    ("siblings", "directions"),
    [((bytes(31),), 0), ((bytes(32),), 2), ((bytes(32),), -1), ((bytes(32),) * 10, 0)],
)
def test_a_path_without_a_valid_form_is_refused(
    siblings: tuple[bytes, ...], directions: int
) -> None:
    with pytest.raises(ProofInvalid):
        LeafPath(siblings, directions)


# --- leaves and rounds ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feed", "value", "epoch"),
    [
        ("", 1, 0),
        ("F" * 33, 1, 0),
        ("BTC USD", 1, 0),
        ("BTC\0", 1, 0),
        ("BTC\n", 1, 0),
        ("BTC€", 1, 0),
        ("BTC", 0, 0),
        ("BTC", -1, 0),
        ("BTC", 10**38, 0),
        ("BTC", -(10**38), 1),
        ("BTC", 1, -1),
        ("BTC", 1, 2**64),
    ],
)
def test_a_leaf_that_no_round_can_hold_is_refused(feed: str, value: int, epoch: int) -> None:
    with pytest.raises(LeafInvalid):
        RoundLeaf(feed, value, epoch)


def test_feeds_are_printable_ascii_of_at_most_32_bytes() -> None:
    assert is_feed("BTC/USD")
    assert is_feed("~" * 32)
    assert not is_feed("~" * 33)


def test_a_round_has_leaves_in_order_each_once() -> None:
    a, b = RoundLeaf("A", 1), RoundLeaf("B", 1)
    for leaves in ((b, a), (a, a), (a, RoundLeaf("A", 2)), ()):
        with pytest.raises(RoundInvalid):
            OracleRound(AT, leaves)
    many = tuple(RoundLeaf(f"F{n:04}", 1) for n in range(MOST_LEAVES + 1))
    OracleRound(AT, many[:-1])
    with pytest.raises(RoundInvalid):
        OracleRound(AT, many)
    for at in (0, -1, 2**64):
        with pytest.raises(RoundInvalid):
            OracleRound(at, (a,))


def test_rule_41_a_round_is_on_the_grid() -> None:
    made = OracleRound(AT, (RoundLeaf("A", 1),))
    made.check_grid(10**9)
    with pytest.raises(RoundInvalid):
        OracleRound(AT + 1, made.leaves).check_grid(10**9)


@given(leaf_lists)
def test_leaves_are_sorted_as_a_contract_sorts_words(leaves: list[RoundLeaf]) -> None:
    made = OracleRound.of(AT, leaves)
    for one, two in pairwise(made.leaves):
        assert (one.feed.encode().ljust(32, b"\0"), one.epoch) < (
            two.feed.encode().ljust(32, b"\0"),
            two.epoch,
        )


@given(leaf_lists, st.data())
def test_any_change_of_a_round_changes_its_root(leaves: list[RoundLeaf], data: Any) -> None:
    made = OracleRound.of(AT, leaves)
    at = data.draw(st.integers(0, len(leaves) - 1))
    old = made.leaves[at]
    value = old.value - 1 if old.value > 1 else old.value + 1
    changed = [*made.leaves[:at], RoundLeaf(old.feed, value, old.epoch), *made.leaves[at + 1 :]]
    assert OracleRound.of(AT, changed).root != made.root
    if len(leaves) > 1:
        assert OracleRound.of(AT, [*made.leaves[:at], *made.leaves[at + 1 :]]).root != made.root


# --- signers ----------------------------------------------------------------------------------


def test_rule_41_a_threshold_of_half_or_less_is_unsound() -> None:
    addresses = tuple(key.address for key in KEYS)
    for many, threshold in ((0, 0), (1, 0), (1, 2), (2, 1), (3, 1), (3, 4), (3, -1)):
        with pytest.raises(SignersUnsound):
            SignerSet(addresses[:many], threshold)
    with pytest.raises(SignersUnsound):
        SignerSet((addresses[0], addresses[0]), 2)
    with pytest.raises(SignersUnsound):
        SignerSet(tuple(f"0x{n:040x}" for n in range(MOST_SIGNERS + 1)), 9)
    for many, threshold in ((1, 1), (2, 2), (3, 2), (3, 3)):
        SignerSet(addresses[:many], threshold)


def test_rule_41_enough_signers_of_the_same_root() -> None:
    signers = SignerSet(tuple(key.address for key in KEYS), 2)
    signed = signed_by(KEYS[0], KEYS[2])
    assert signed.check(DOMAIN, signers) == {KEYS[0].address, KEYS[2].address}
    for few in (
        (KEYS[0],),
        (KEYS[0], KEYS[0]),
        (KEYS[0], STRANGER),
        (),
    ):
        with pytest.raises(TooFewSigners):
            signed_by(*few).check(DOMAIN, signers)
    other = domain_separator(31337, bytes(19) + b"\x02")
    with pytest.raises(TooFewSigners):
        signed.check(other, signers)
    moved = SignedRound(OracleRound(AT + 10**9, signed.round.leaves), signed.signatures)
    with pytest.raises(TooFewSigners):
        moved.check(DOMAIN, signers)


@given(st.binary(max_size=70))
def test_junk_counts_for_nothing(junk: bytes) -> None:
    digest = round_digest(DOMAIN, bytes(32), AT)
    assert KEYS[0].address not in signers_of(digest, [junk, bytes(65)])
    assert signers_of(digest, [junk, KEYS[0].sign(digest)]) >= {KEYS[0].address}


def test_a_high_s_is_no_signature() -> None:
    signed = signed_by(*KEYS)
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    one = signed.signatures[0]
    high = one[:32] + (order - int.from_bytes(one[32:64])).to_bytes(32) + bytes([55 - one[64]])
    digest = round_digest(DOMAIN, signed.root, AT)
    assert signers_of(digest, [high]) == set()


@pytest.mark.parametrize(("root", "at"), [(bytes(31), AT), (bytes(32), -1), (bytes(32), 2**64)])
def test_what_is_no_root_or_moment_has_no_digest(root: bytes, at: int) -> None:
    with pytest.raises(RoundInvalid):
        round_digest(DOMAIN, root, at)


# --- the text ---------------------------------------------------------------------------------


@given(rounds, st.lists(st.binary(min_size=65, max_size=65), max_size=MOST_SIGNERS))
def test_a_round_survives_its_text(made: OracleRound, signatures: list[bytes]) -> None:
    signed = SignedRound(made, tuple(signatures))
    text = encode_round(signed)
    assert decode_round(text) == signed
    assert decode_round(text.encode()) == signed


def test_rule_42_256_prices_take_about_8_kilobytes() -> None:
    made = OracleRound.of(
        AT, (RoundLeaf(f"SYM{n:03}/USD", 67_012 * ONE + n * 10**15) for n in range(256))
    )
    digest = round_digest(DOMAIN, made.root, AT)
    text = encode_round(SignedRound(made, tuple(key.sign(digest) for key in KEYS)))
    assert len(text) < 10_000


def test_the_largest_round_fits() -> None:
    leaves = (
        RoundLeaf(f"{n:03}".ljust(32, "~"), 1 - 10**38, 2**64 - 1) for n in range(MOST_LEAVES)
    )
    text = encode_round(SignedRound(OracleRound.of(2**64 - 1, leaves), (b"\xff" * 65,) * 16))
    assert len(text) <= MOST_ROUND_BYTES
    decode_round(text)


GOOD = encode_round(signed_by(*KEYS, many=2))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        GOOD + " ",
        " " + GOOD,
        GOOD + GOOD,
        GOOD.replace('":', '": ', 1),
        GOOD.replace('"timestamp":"1', '"timestamp":"01'),
        GOOD.replace('"timestamp":"1', '"timestamp":"-1'),
        GOOD.replace(f'"{AT}"', str(AT)),
        GOOD.replace(f'"{AT}"', '"18446744073709551616"'),
        GOOD.replace(f'"{AT}"', '"0"'),
        GOOD.replace('"F000","1"', '"F000","1.0"'),
        GOOD.replace('"F000","1"', '"F000","-1"'),
        GOOD.replace('"F000","1"', '"F000",1'),
        GOOD.replace('"F000","1"', '"F000","1","0"'),
        GOOD.replace('"F000","1"', '"F000"'),
        GOOD.replace('"F000","1"', '"F000","1","1","1"'),
        GOOD.replace("F000", "F002"),
        GOOD.replace("F000", "F001"),
        GOOD.replace("F000", "\\u0046000"),
        GOOD.replace("0x", "0X", 1),
        GOOD.replace('"0x', '"0xA', 1),
        GOOD.replace('{"timestamp"', '{"timestamp":"1","timestamp"'),
        GOOD.replace('"signatures"', '"more":[],"signatures"'),
        GOOD.replace(
            '"signatures":[',
            '"signatures":[' + '"0x' + "00" * 65 + '",' + 16 * ('"0x' + "00" * 65 + '",'),
        ),
        '{"timestamp":"1","leaves":{},"signatures":[]}',
        '{"timestamp":"1","leaves":[],"signatures":[]}',
        '{"timestamp":"1","leaves":[["A","1"]],"signatures":{}}',
        "[" * 100_000,
        " " * (MOST_ROUND_BYTES + 1),
        "\ud800",
    ],
)
def test_a_text_in_any_other_form_is_refused(text: str) -> None:
    with pytest.raises((RoundInvalid, LeafInvalid)):
        decode_round(text)


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_fuzz_no_bytes_raise_anything_else(text: bytes | str) -> None:
    with pytest.raises((RoundInvalid, LeafInvalid)):
        decode_round(text)


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=3), st.booleans())
def test_fuzz_a_changed_text_is_refused_or_another_round(at: int, put: bytes, insert: bool) -> None:
    good = GOOD.encode()
    text = good[:at] + put + good[at + (0 if insert else len(put)) :]
    try:
        found = decode_round(text)
    except OracleError:
        return
    assert encode_round(found).encode() == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {
            "timestamp": json_values | st.just("1"),
            "leaves": json_values | st.lists(st.lists(json_values | st.just("1"), max_size=4)),
            "signatures": json_values,
        }
    )
)
def test_fuzz_no_json_raises_anything_else(value: dict[str, object]) -> None:
    text = json.dumps(value, separators=(",", ":"))
    try:
        found = decode_round(text)
    except OracleError:
        return
    assert encode_round(found) == text
