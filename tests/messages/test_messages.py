"""The vocabulary: every message stands on the wire in one form, and only in its own flow."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psymm import messages
from psymm.messages import Flow, GroupEntry, JsonError, Message, QuoteRequest, Side
from psymm.messages.wire import FieldRule, field_rules

WORDS = st.text(
    alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=16
)


def _scalar(rule: FieldRule) -> st.SearchStrategy[object]:
    if rule.choices is not None:
        return st.sampled_from(list(rule.choices))
    assert rule.wire is not None
    limits = dict(rule.wire.limits)
    match rule.wire.kind:
        case "str":
            return WORDS
        case "int":
            return st.integers(0, 2**64 - 1)
        case "bool":
            return st.booleans()
        case "uint":
            return st.integers(0, 2**128 - 1)
        case "decimal":
            return st.integers(-(10**38) + 1, 10**38 - 1)
        case "udecimal":
            return st.integers(0, 10**38 - 1)
        case "hex":
            return st.binary(min_size=limits["length"], max_size=limits["length"])
        case "hexdata":
            return st.binary(min_size=1, max_size=300)
    raise AssertionError(rule.wire.kind)


def _values(cls: type[Message] | type[GroupEntry]) -> st.SearchStrategy[Message | GroupEntry]:
    made: dict[str, st.SearchStrategy[object]] = {}
    for rule in field_rules(cls):
        if rule.entries is not None and rule.entry is not None:
            lists = st.lists(_values(rule.entry), min_size=int(rule.entries.some), max_size=2)
            if rule.entries.max < 2:
                lists = st.lists(_values(rule.entry), max_size=rule.entries.max)
            made[rule.attribute] = lists.map(tuple)
        else:
            made[rule.attribute] = _scalar(rule) if rule.required else st.none() | _scalar(rule)
    return st.builds(cls, **made)


def _least(cls: type[Message] | type[GroupEntry]) -> dict[str, object]:
    """A message's required fields with plain values, as Python attributes."""
    made: dict[str, object] = {}
    for rule in field_rules(cls):
        if not rule.required:
            continue
        if rule.entry is not None:
            made[rule.attribute] = (rule.entry(**_least(rule.entry)),)
        elif rule.choices is not None:
            made[rule.attribute] = next(iter(rule.choices))
        else:
            assert rule.wire is not None
            limits = dict(rule.wire.limits)
            made[rule.attribute] = {
                "str": "word",
                "hex": bytes(limits.get("length", 1)),
                "hexdata": b"\x01",
                "bool": True,
            }.get(rule.wire.kind, 1)
    return made


RECORD = messages.message_types(Flow.RECORD)
TEXT = messages.message_types(Flow.TEXT)


def test_the_vocabulary_is_that_of_the_design() -> None:
    assert " ".join(sorted(RECORD)) == (
        "0 3 5 8 9 A AB AG AJ AX AY AZ D F G R S UCF UCP UFC UFR UKY ULQ UPX UPY USA UST Z j"
    )
    assert " ".join(sorted(TEXT)) == (
        "0 1 2 AN AP BA UCA UCQ UHI UOP UPY URS USA UTM V W X d j x y"
    )


@pytest.mark.parametrize("name", sorted(RECORD))
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_message_on_the_record_survives_the_wire(name: str, data: st.DataObject) -> None:
    value = data.draw(_values(RECORD[name]))
    assert isinstance(value, Message)
    payload = messages.encode(value)
    assert messages.decode(payload) == value
    assert messages.encode(messages.decode(payload)) == payload
    assert messages.is_exact(value) is not any(rule.entry for rule in field_rules(type(value)))


def test_a_value_of_another_type_is_not_what_its_bytes_say() -> None:
    """Its signer would rule it otherwise than who decodes it."""
    exact = QuoteRequest(quote_req_id="q", symbol="BTC", order_qty=1, side=Side.BUY)
    assert messages.is_exact(exact)
    loose = QuoteRequest(quote_req_id="q", symbol="BTC", order_qty=1, side="1")  # type: ignore[arg-type]
    assert messages.encode(loose) == messages.encode(exact)
    assert not messages.is_exact(loose)
    assert not messages.is_exact(dataclasses.replace(exact, order_qty=True))


@pytest.mark.parametrize("name", sorted(TEXT))
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_message_as_text_survives_the_wire(name: str, data: st.DataObject) -> None:
    value = data.draw(_values(TEXT[name]))
    assert isinstance(value, Message)
    assert messages.decode_text(messages.encode_text(value)) == value


@pytest.mark.parametrize("name", sorted(RECORD))
def test_msgtype_comes_first_and_every_value_is_a_string(name: str) -> None:
    payload = messages.encode(RECORD[name](**_least(RECORD[name])))
    parsed = json.loads(payload)
    assert next(iter(parsed)) == "MsgType"
    assert all(isinstance(value, str | list) for value in parsed.values())


@pytest.mark.parametrize("name", sorted(RECORD))
def test_leaving_out_a_required_field_is_refused(name: str) -> None:
    cls = RECORD[name]
    whole = json.loads(messages.encode(cls(**_least(cls))))
    for rule in field_rules(cls):
        if not rule.required:
            continue
        without = {key: value for key, value in whole.items() if key != rule.name}
        with pytest.raises(JsonError) as refused:
            messages.decode(json.dumps(without).encode())
        assert refused.value.code == "missing-field"


@pytest.mark.parametrize("name", sorted(set(RECORD) - set(TEXT)))
def test_what_binds_is_never_taken_from_text(name: str) -> None:
    value = RECORD[name](**_least(RECORD[name]))
    with pytest.raises(JsonError) as refused:
        messages.encode_text(value)
    assert refused.value.code == "unknown-message"
    with pytest.raises(JsonError) as refused:
        messages.decode_text(messages.encode(value))
    assert refused.value.code == "unknown-message"


@pytest.mark.parametrize("name", sorted(set(TEXT) - set(RECORD)))
def test_what_is_off_the_record_never_enters_a_frame(name: str) -> None:
    value = TEXT[name](**_least(TEXT[name]))
    with pytest.raises(JsonError) as refused:
        messages.encode(value)
    assert refused.value.code == "unknown-message"


def test_a_field_has_its_name_in_the_fix_dictionary() -> None:
    order = messages.NewOrderSingle(
        cl_ord_id="o-1",
        symbol="BTC-PERP",
        side=messages.Side.BUY,
        order_qty=15 * 10**17,
        ord_type=messages.OrdType.LIMIT,
        position_effect=messages.PositionEffect.OPEN,
        expire_time=1_700_000_000_000_000_000,
        price=60_000 * 10**18,
    )
    assert json.loads(messages.encode(order)) == {
        "MsgType": "D",
        "ClOrdID": "o-1",
        "Symbol": "BTC-PERP",
        "Side": "1",
        "OrderQty": "1.5",
        "OrdType": "2",
        "PositionEffect": "O",
        "ExpireTime": "1700000000000000000",
        "Price": "60000",
    }


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\xff\xfe", "not-utf8"),
        (b"{", "not-json"),
        (b"[]", "not-object"),
        (b'{"TestReqID":"1","MsgType":"0"}', "msgtype-not-first"),
        (b'{"MsgType":"0","TestReqID":"1","TestReqID":"1"}', "duplicate-key"),
        (b'{"MsgType":"0","Colour":"red"}', "unknown-field"),
        (b'{"MsgType":"QQ"}', "unknown-message"),
        (b'{"MsgType":"3","RefSeqNum":1,"Violation":"x"}', "not-a-string"),
        (b'{"MsgType":"3","RefSeqNum":"01","Violation":"x"}', "bad-integer"),
        (b'{"MsgType":"R","QuoteReqID":"q","Symbol":"S","OrderQty":"1.50"}', "bad-decimal"),
        (b'{"MsgType":"R","QuoteReqID":"q","Symbol":"S","OrderQty":"-1"}', "bad-decimal"),
        (b'{"MsgType":"R","QuoteReqID":"q","Symbol":"S","OrderQty":"1","Side":"3"}', "bad-enum"),
        (b'{"MsgType":"0","TestReqID":""}', "empty-value"),
        (b'{"MsgType":"0","TestReqID":"\\ud800"}', "lone-surrogate"),
        (b'{"MsgType":"0"}{}', "trailing-bytes"),
        (b'{"MsgType":"UCP","AccountHash":"0x00","SolverSeq":"1","TraderSeq":"1"}', "bad-hex"),
        (
            b'{"MsgType":"UCP","SolverSeq":"1","AccountHash":"0x'
            + b"00" * 32
            + b'","TraderSeq":"1","TraderPayout":"1","SolverPayout":"1","Flat":"Y"}',
            "not-canonical",
        ),
    ],
)
def test_a_payload_that_is_not_the_vocabulary_s_is_refused_by_name(
    payload: bytes, code: str
) -> None:
    with pytest.raises(JsonError) as refused:
        messages.decode(payload)
    assert refused.value.code == code


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_give_a_typed_error_and_nothing_else(payload: bytes) -> None:
    for decode in (messages.decode, messages.decode_text):
        with pytest.raises(JsonError):
            decode(payload)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(RECORD)))
def test_a_payload_with_bytes_changed_is_a_message_or_a_typed_error(
    data: st.DataObject, name: str
) -> None:
    payload = bytearray(messages.encode(RECORD[name](**_least(RECORD[name]))))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        value = messages.decode(bytes(payload))
    except JsonError:
        return
    assert isinstance(value, Message)


def test_text_with_a_lone_surrogate_is_refused_rather_than_raising_something_else() -> None:
    with pytest.raises(JsonError):
        messages.decode_text('{"MsgType":"0","TestReqID":"\ud800"}')


def test_a_blinding_never_shows_in_a_repr() -> None:
    blinding = bytes(range(32))
    opening = messages.NoteOpeningEntry(
        commitment=bytes(32), blinding=blinding, token=bytes(20), amount=5
    )
    shown = repr(messages.NoteOpenings(openings=(opening,)))
    assert blinding.hex() not in shown
    assert repr(blinding) not in shown


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        messages.Heartbeat().test_req_id = "x"  # type: ignore[misc]
