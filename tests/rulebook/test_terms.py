"""The terms are one strict document, known by the hash of its bytes."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest
from eth_utils import keccak
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rulebook_scene import BTC, dec, make_terms

from psymm.terms import (
    CollateralTerms,
    Limits,
    Oracle,
    Rates,
    Terms,
    TermsBadValue,
    TermsDuplicateKey,
    TermsError,
    TermsMissingField,
    TermsNotJson,
    TermsUnknownField,
    TermsUnknownVersion,
    TermsUnsound,
    Timeouts,
    checksummed,
)

TERMS = make_terms()


def changed(path: str, value: object) -> bytes:
    """The document with one value changed."""
    document = json.loads(TERMS.document)
    *outer, last = path.split(".")
    at = document
    for step in outer:
        at = at[int(step) if step.isdigit() else step]
    key = int(last) if last.isdigit() else last
    if value is None:
        del at[key]
    else:
        at[key] = value
    return json.dumps(document).encode()


def test_terms_survive_their_document() -> None:
    again = Terms.parse(TERMS.document)
    assert again == TERMS
    assert again.instruments == TERMS.instruments
    assert again.chain == TERMS.chain
    assert again.timeouts == TERMS.timeouts


def test_the_hash_is_keccak_of_the_exact_bytes() -> None:
    spaced = json.dumps(json.loads(TERMS.document), indent=2).encode()
    assert TERMS.hash == keccak(TERMS.document)
    assert Terms.parse(spaced).hash == keccak(spaced)
    assert Terms.parse(spaced).instruments == TERMS.instruments
    assert Terms.parse(spaced) != TERMS


def test_every_scalar_of_the_document_is_a_string() -> None:
    def scalars(value: object) -> list[object]:
        if isinstance(value, dict):
            return [s for each in value.values() for s in scalars(each)]
        if isinstance(value, list):
            return [s for each in value for s in scalars(each)]
        return [value]

    assert all(isinstance(each, str) for each in scalars(json.loads(TERMS.document)))


def test_an_unknown_version_is_named() -> None:
    with pytest.raises(TermsUnknownVersion, match="psymm-terms/2"):
        Terms.parse(changed("schema", "psymm-terms/2"))


def test_rule_9_terms_name_the_version_of_the_rulebook() -> None:
    assert json.loads(TERMS.document)["rules"] == "1"
    with pytest.raises(TermsUnknownVersion, match="rules '2'"):
        Terms.parse(changed("rules", "2"))
    with pytest.raises(TermsUnknownVersion, match="rules '0'"):
        make_terms(rules="0")
    with pytest.raises(TermsMissingField, match=r"terms\.rules"):
        Terms.parse(changed("rules", None))


def test_no_field_may_be_missing() -> None:
    with pytest.raises(TermsMissingField, match=r"terms\.instruments\[0\]\.tick"):
        Terms.parse(changed("instruments.0.tick", None))
    with pytest.raises(TermsMissingField, match=r"terms\.schema"):
        Terms.parse(changed("schema", None))


def test_no_field_may_be_unknown() -> None:
    with pytest.raises(TermsUnknownField, match="colour"):
        Terms.parse(changed("chain.colour", "red"))


def test_no_key_may_stand_twice() -> None:
    twice = TERMS.document.replace(b'"tick":"0.5"', b'"tick":"0.5","tick":"0.5"')
    with pytest.raises(TermsDuplicateKey, match="tick"):
        Terms.parse(twice)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("instruments.0.tick", "0.50"),
        ("instruments.0.tick", "-0.5"),
        ("instruments.0.tick", "5e-1"),
        ("instruments.0.tick", 0.5),
        ("instruments.0.kind", "lottery"),
        ("instruments.0.symbol", ""),
        ("instruments.0.feeReceiver", "venue"),
        ("instruments", {}),
        ("instruments.0", "BTC"),
        ("chain.id", "031337"),
        ("chain.psymm", TERMS.chain.psymm.upper()),
        ("chain.psymm", "0x12"),
        ("timeouts.heartbeat", "0.0000000001"),
        ("endDate", "99999999999"),
        ("oracle.signers", ["zero"]),
    ],
)
def test_a_value_in_another_form_is_refused(path: str, value: object) -> None:
    with pytest.raises(TermsBadValue):
        Terms.parse(changed(path, value))


@pytest.mark.parametrize("document", [b"", b"\xff", b"[]", b"null", b"NaN", b"{" * 65_536, b"1"])
def test_what_is_not_one_json_object_is_refused(document: bytes) -> None:
    with pytest.raises(TermsNotJson):
        Terms.parse(document)


def test_a_document_that_is_too_long_is_refused() -> None:
    with pytest.raises(TermsBadValue, match="65536"):
        Terms.parse(TERMS.document + b" " * 65_536)


@pytest.mark.parametrize(
    "changes",
    [
        {"instruments": (replace(BTC, trader=Rates(cva=3, lf=2, mm=4)),)},
        {"instruments": (replace(BTC, tick=0),)},
        {"instruments": (replace(BTC, lot=0),)},
        {"instruments": (replace(BTC, symbol="B" * 33),)},
        {"instruments": (replace(BTC, symbol="\x01" * 6),)},
        {"instruments": (replace(BTC, min_notional=dec("300000")),)},
        {"instruments": (replace(BTC, max_leverage=dec("0.5")),)},
        {"instruments": (replace(BTC, open_fee=dec("1")),)},
        {"instruments": (replace(BTC, funding_window=BTC.funding_epoch + 1),)},
        {"instruments": (BTC, BTC)},
        {"instruments": ()},
        {"timeouts": Timeouts(acknowledgement=0)},
        {"timeouts": Timeouts(skew=10**11)},
        {"oracle": Oracle(signers=(checksummed("0x" + "11" * 20),), threshold=0)},
        {"oracle": Oracle(signers=(checksummed("0x" + "11" * 20),), threshold=2)},
        {"oracle": Oracle(signers=(checksummed("0x" + "11" * 20),) * 2, threshold=1)},
        {"limits": Limits(open_orders=0)},
        {"limits": Limits(open_orders=65)},
        {"limits": Limits(open_quotes=65)},
        {"limits": Limits(positions=65)},
        {"limits": Limits(frames=1_025)},
        {"limits": Limits(bytes=196_609)},
        {"limits": Limits(evidence_bytes=1_000_001)},
        {"limits": Limits(evidence_bytes=884_735)},
        {
            "collateral": CollateralTerms(
                token=TERMS.collateral.token, decimals=19, trader_minimum=1, solver_minimum=1
            )
        },
        {
            "collateral": CollateralTerms(
                token=TERMS.collateral.token,
                decimals=6,
                trader_minimum=1,
                solver_minimum=1,
                trader_reserve=2,
            )
        },
        {"chain": replace(TERMS.chain, confirmations=0)},
    ],
)
def test_terms_that_protect_nobody_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(TermsUnsound):
        make_terms(**changes)


def test_rule_10_what_a_court_is_shown_fits_into_evidence() -> None:
    most = Limits()
    assert (most.frames, most.bytes, most.evidence_bytes) == (1_024, 196_608, 1_000_000)
    make_terms(limits=Limits(evidence_bytes=884_736))
    make_terms(limits=Limits(bytes=196_608 - 500, evidence_bytes=883_736))


def test_mm_of_exactly_cva_and_lf_is_sound() -> None:
    make_terms(instruments=(replace(BTC, trader=Rates(cva=3, lf=2, mm=5)),))


@pytest.mark.parametrize(
    "changes",
    [
        {"end_date": -1},
        {"end_date": 1.5},
        {"chain": replace(TERMS.chain, psymm=TERMS.chain.psymm.lower())},
        {"instruments": [BTC]},
        {"tariff": None},
    ],
)
def test_what_python_builds_is_held_to_the_same_forms(changes: dict[str, object]) -> None:
    with pytest.raises(TermsBadValue):
        make_terms(**changes)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_document_is_terms_or_a_named_refusal(data: st.DataObject) -> None:
    document = bytearray(TERMS.document)
    for _ in range(data.draw(st.integers(1, 3))):
        document[data.draw(st.integers(0, len(document) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(TermsError):
        assert Terms.parse(bytes(document)).document == document


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
@example("0")  # a right gap, and a right end date
def test_any_json_instead_of_a_value_is_a_named_refusal(value: object) -> None:
    document = json.loads(TERMS.document)
    for key in document:
        if value is not None and document[key] != value:
            try:
                taken = Terms.parse(json.dumps(document | {key: value}).encode())
            except TermsError:
                continue
            # A number in the place of a number, and taken as what it says.
            assert isinstance(value, str)
            assert value[:1].isdigit()
            assert json.loads(taken.document)[key] == value
