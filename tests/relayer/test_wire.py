"""The messages between client and relayer: each has one form, and everything else is refused."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psymm.chain.calls import CtaCall, CtcCall
from psymm.relayer.errors import BadRequest, FeeTooLow, RelayerLied, RelayerRefusal
from psymm.relayer.wire import (
    AskTerms,
    RelayerTerms,
    SendProgress,
    Submit,
    TokenFee,
    decode_progress,
    decode_request,
    decode_terms,
    encode_answer,
    encode_request,
    encode_terms,
    identity,
    progress_json,
    refusal_json,
    request_id,
)

TOKEN = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
RELAYER = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"
CONTRACT = "0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0"


def word(number: int) -> bytes:
    return number.to_bytes(32, "big")


def ctc() -> CtcCall:
    return CtcCall(
        root=word(1),
        nullifiers=(word(2), word(3)),
        commitments=(word(4), word(5)),
        relayer=RELAYER,
        fee_token=TOKEN,
        fee=50_000,
        deadline=1_900_000_000,
        memos=(b"\x01" * 256, b"\x02" * 256),
        proof=b"\x07" * 64,
    )


def cta() -> CtaCall:
    return CtaCall(
        root=word(1),
        nullifiers=(word(2), word(3)),
        change=word(4),
        token=TOKEN,
        amount=10**9,
        recipient=CONTRACT,
        relayer=RELAYER,
        fee=50_000,
        deadline=1_900_000_000,
        memo=b"\x01" * 256,
        proof=b"\x07" * 64,
    )


TERMS = RelayerTerms(
    31337, CONTRACT, RELAYER, (TokenFee(TOKEN, 50_000, 60_000),), 60, 1_900_000_000
)


@pytest.mark.parametrize("call", [ctc(), cta()])
def test_a_submitted_call_arrives_as_it_was_sent(call: CtcCall | CtaCall) -> None:
    request = Submit("7", 31337, CONTRACT, call)
    assert decode_request(encode_request(request)) == request


def test_a_question_for_terms_arrives_as_it_was_sent() -> None:
    assert decode_request(encode_request(AskTerms("a"))) == AskTerms("a")


def test_terms_arrive_as_they_were_offered() -> None:
    assert decode_terms(encode_terms("1", TERMS), "1") == TERMS
    assert TERMS.fee(TOKEN, "ctc") == 50_000
    assert TERMS.fee(TOKEN, "cta") == 60_000
    assert TERMS.fee(RELAYER, "cta") is None


@pytest.mark.parametrize(
    "progress",
    [
        SendProgress("queued"),
        SendProgress("sent", "0x" + "ab" * 32),
        SendProgress("mined", "0x" + "ab" * 32, 12, 812_345),
    ],
)
def test_progress_arrives_as_it_was_told(progress: SendProgress) -> None:
    assert decode_progress(encode_answer("1", progress_json(progress)), "1") == progress


def test_a_refusal_arrives_as_the_same_type_with_its_values() -> None:
    sent = encode_answer("1", refusal_json(FeeTooLow(fee=1, quote=50_000)))
    with pytest.raises(FeeTooLow) as caught:
        decode_progress(sent, "1")
    assert caught.value.values == {"fee": "1", "quote": "50000"}


def test_a_refusal_of_an_unknown_code_is_still_a_refusal() -> None:
    error = {"code": "on-holiday", "message": "back\x1b[31m in May", "values": {}}
    with pytest.raises(RelayerRefusal) as caught:
        decode_terms(json.dumps({"id": "1", "error": error}), "1")
    assert "on-holiday" in caught.value.detail
    assert "\x1b" not in caught.value.detail


def test_an_answer_to_another_request_is_a_lie() -> None:
    with pytest.raises(RelayerLied):
        decode_terms(encode_terms("2", TERMS), "1")


@given(st.text(max_size=200))
def test_an_answer_that_is_noise_is_a_lie_or_a_refusal_and_nothing_else(text: str) -> None:
    with pytest.raises((RelayerLied, RelayerRefusal)):
        decode_progress(text, "1")


@given(st.text(max_size=200))
def test_a_request_that_is_noise_is_refused_by_name(text: str) -> None:
    assert request_id(text) == "" or len(request_id(text)) <= 32
    with pytest.raises(BadRequest):
        decode_request(text)


def changed(field: str, value: object) -> str:
    body = json.loads(encode_request(Submit("7", 31337, CONTRACT, ctc())))
    body["call"][field] = value
    return json.dumps(body)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("root", "0x" + "ff" * 32),
        ("root", "0x01"),
        ("root", 1),
        ("nullifiers", ["0x" + "00" * 32]),
        ("nullifiers", ["0x" + "0a" * 32] * 2),
        ("relayer", RELAYER[:-1]),
        ("relayer", "0x" + "00" * 20),
        ("fee", "050000"),
        ("fee", "-1"),
        ("fee", str(2**128)),
        ("fee", "0"),
        ("deadline", "1e9"),
        ("memo0", "0x" + "01" * 255),
        ("proof", "0x"),
        ("proof", "0x" + "07" * 65_568),
        ("proof", "0x" + "AB" * 64),
        ("custody", "0x" + "01" * 32),
    ],
)
def test_a_call_with_one_wrong_field_is_refused(field: str, value: object) -> None:
    with pytest.raises(BadRequest):
        decode_request(changed(field, value))


def test_a_key_that_appears_twice_is_refused() -> None:
    with pytest.raises(BadRequest, match="twice"):
        decode_request('{"id":"1","method":"terms","method":"terms"}')


def test_two_calls_are_the_same_if_only_proof_and_root_differ() -> None:
    again = replace(ctc(), proof=b"\x08" * 64, root=word(9))
    assert identity(again) == identity(ctc())
    assert identity(replace(ctc(), fee=50_001)) != identity(ctc())
    assert identity(replace(ctc(), commitments=(word(4), word(6)))) != identity(ctc())


def test_a_call_uses_up_its_nullifiers_and_its_commitments() -> None:
    assert ctc().conflict_keys == [word(2), word(3), word(4), word(5)]
    assert cta().conflict_keys == [word(2), word(3), word(4)]


def test_what_a_refusal_names_is_short() -> None:
    """It goes to logs and to a person's terminal."""
    values = {"x" * 30_000: "y", "z" * 32: "y" * 30_000}
    error = {"code": "busy", "message": "m" * 30_000, "values": values}
    with pytest.raises(RelayerRefusal) as refused:
        decode_progress(json.dumps({"id": "1", "error": error}), "1")
    assert list(refused.value.values) == ["z" * 32]
    assert len(str(refused.value)) < 1_000
