"""Schemas and decimals, as Python sees them."""

import json
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psymm import _core

SCHEMA = _core.Schema(
    json.dumps(
        {
            "messages": {
                "D": {
                    "name": "NewOrderSingle",
                    "fields": [
                        {"name": "ClOrdID", "type": "str", "required": True, "max": 64},
                        {"name": "Side", "type": "enum", "values": ["1", "2"], "required": True},
                        {"name": "Count", "type": "int"},
                        {"name": "Amount", "type": "uint"},
                        {"name": "Price", "type": "decimal"},
                        {"name": "Qty", "type": "udecimal"},
                        {"name": "Id", "type": "hex", "length": 2},
                        {"name": "Blob", "type": "hexdata", "max": 8},
                        {"name": "Flag", "type": "bool"},
                        {
                            "name": "Legs",
                            "type": "group",
                            "max": 3,
                            "fields": [{"name": "Symbol", "type": "str", "required": True}],
                        },
                    ],
                }
            }
        }
    ).encode()
)
ORDER: dict[str, object] = {"MsgType": "D", "ClOrdID": "a", "Side": "1"}
LIMIT = 10**38

orders = st.fixed_dictionaries(
    {"MsgType": st.just("D"), "ClOrdID": st.text(min_size=1, max_size=16), "Side": st.just("2")},
    optional={
        "Count": st.integers(0, 2**64 - 1),
        "Amount": st.integers(0, 2**128 - 1),
        "Price": st.integers(1 - LIMIT, LIMIT - 1),
        "Qty": st.integers(0, LIMIT - 1),
        "Id": st.binary(min_size=2, max_size=2),
        "Blob": st.binary(max_size=8),
        "Flag": st.booleans(),
        "Legs": st.lists(
            st.fixed_dictionaries({"Symbol": st.text(min_size=1, max_size=9)}),
            min_size=1,
            max_size=3,
        ),
    },
)


@given(orders)
def test_what_is_encoded_parses_to_the_same(order: dict[str, object]) -> None:
    payload = SCHEMA.encode(order)
    assert SCHEMA.parse(payload) == order
    plain = json.loads(payload)
    assert next(iter(plain)) == "MsgType"
    assert plain["ClOrdID"] == order["ClOrdID"]


@given(orders, st.data())
def test_the_order_of_keys_given_does_not_change_the_payload(
    order: dict[str, object], data: st.DataObject
) -> None:
    shuffled = dict(data.draw(st.permutations(list(order.items()))))
    assert SCHEMA.encode(shuffled) == SCHEMA.encode(order)
    assert list(SCHEMA.parse(SCHEMA.encode(order)))[:3] == ["MsgType", "ClOrdID", "Side"]


@given(st.binary(max_size=80))
def test_any_bytes_parse_or_are_a_named_error(payload: bytes) -> None:
    for tried in (payload, b'{"MsgType":"D","ClOrdID":"' + payload + b'","Side":"1"}'):
        try:
            parsed = SCHEMA.parse(tried)
        except _core.JsonError as error:
            assert error.code  # noqa: PT017
            assert 0 <= error.offset <= len(tried)  # noqa: PT017
        else:
            assert SCHEMA.parse(SCHEMA.encode(parsed)) == parsed


@pytest.mark.parametrize(
    ("changed", "code", "field"),
    [
        ({"MsgType": "Z"}, "unknown-message", "Z"),
        ({"MsgType": 5}, "wrong-type", "MsgType"),
        ({"Nope": "1"}, "unknown-field", "Nope"),
        ({"ClOrdID": ""}, "empty-value", "ClOrdID"),
        ({"ClOrdID": "x" * 65}, "too-long", "ClOrdID"),
        ({"ClOrdID": b"a"}, "wrong-type", "ClOrdID"),
        ({"ClOrdID": None}, "wrong-type", "ClOrdID"),
        ({"ClOrdID": "\ud800"}, "lone-surrogate", "ClOrdID"),
        ({"Side": "3"}, "bad-enum", "Side"),
        ({"Count": -1}, "bad-integer", "Count"),
        ({"Count": 2**64}, "bad-integer", "Count"),
        ({"Count": True}, "wrong-type", "Count"),
        ({"Count": "1"}, "wrong-type", "Count"),
        ({"Count": 1.0}, "wrong-type", "Count"),
        ({"Amount": 2**128}, "bad-integer", "Amount"),
        ({"Price": LIMIT}, "bad-decimal", "Price"),
        ({"Price": 2**200}, "bad-decimal", "Price"),
        ({"Price": Decimal(1)}, "wrong-type", "Price"),
        ({"Qty": -1}, "bad-decimal", "Qty"),
        ({"Id": b"abc"}, "bad-hex", "Id"),
        ({"Id": "0x0000"}, "wrong-type", "Id"),
        ({"Blob": bytes(9)}, "too-long", "Blob"),
        ({"Flag": 1}, "wrong-type", "Flag"),
        ({"Legs": []}, "bad-count", "Legs"),
        ({"Legs": [{"Symbol": "a"}] * 4}, "bad-count", "Legs"),
        ({"Legs": "abc"}, "wrong-type", "Legs"),
        ({"Legs": [5]}, "wrong-type", "Legs"),
        ({"Legs": [{}]}, "missing-field", "Symbol"),
        ({"Legs": [{"Symbol": "a", "MsgType": "D"}]}, "unknown-field", "MsgType"),
    ],
)
def test_a_message_that_would_not_parse_is_not_encoded(
    changed: dict[str, object], code: str, field: str
) -> None:
    with pytest.raises(_core.JsonError) as caught:
        SCHEMA.encode(ORDER | changed)
    assert (caught.value.code, caught.value.field) == (code, field)


def test_a_message_without_what_it_must_have_is_not_encoded() -> None:
    for missing in ("MsgType", "ClOrdID", "Side"):
        with pytest.raises(_core.JsonError) as caught:
            SCHEMA.encode({name: value for name, value in ORDER.items() if name != missing})
        assert (caught.value.code, caught.value.field) == ("missing-field", missing)


@pytest.mark.parametrize(
    ("payload", "code", "offset"),
    [
        (b"", "not-object", 0),
        (b'{"MsgType":"\xff"}', "not-utf8", 12),
        (b'{"Side":"1"}', "msgtype-not-first", 1),
        (b'{"MsgType":"Z"}', "unknown-message", 11),
        (b'{"MsgType":"D","ClOrdID":"a","Side":"1"}\n', "trailing-bytes", 40),
        (b'{"MsgType":"D","ClOrdID":"a","Side":1}', "not-a-string", 36),
        (b'{"MsgType":"D","ClOrdID":"a","ClOrdID":"a"}', "duplicate-key", 29),
        (b'{"MsgType":"D","ClOrdID":"\\ud800","Side":"1"}', "lone-surrogate", 26),
        (b'{"MsgType":"D","ClOrdID":"a"}', "missing-field", 28),
    ],
)
def test_a_bad_payload_is_refused_at_its_first_wrong_byte(
    payload: bytes, code: str, offset: int
) -> None:
    with pytest.raises(_core.JsonError, match=f"at byte {offset}") as caught:
        SCHEMA.parse(payload)
    assert (caught.value.code, caught.value.offset) == (code, offset)


def test_a_bad_definition_is_a_json_error() -> None:
    for definition, code in [(b"{}", "bad-schema"), (b"nonsense", "not-json")]:
        with pytest.raises(_core.JsonError) as caught:
            _core.Schema(definition)
        assert caught.value.code == code


@given(st.integers(1 - LIMIT, LIMIT - 1))
def test_decimals_equal_pythons(value: int) -> None:
    text = _core.format_decimal(value)
    assert _core.parse_decimal(text) == value
    with localcontext() as context:
        context.prec = 60
        assert Decimal(text) * 10**18 == value


@pytest.mark.parametrize("text", ["", "1.0", "01", "-0", "1e3", "NaN", "+1", "1_0", "\ud800"])
def test_a_decimal_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(_core.JsonError):
        _core.parse_decimal(text)


@pytest.mark.parametrize("value", [LIMIT, -LIMIT, 2**127, 2**300])
def test_a_decimal_beyond_its_digits_is_not_written(value: int) -> None:
    with pytest.raises(_core.JsonError) as caught:
        _core.format_decimal(value)
    assert caught.value.code == "bad-decimal"


def test_an_error_made_in_python_has_its_attributes_too() -> None:
    made: Any = _core.TranscriptError("by hand")
    assert (made.code, made.index, made.offset, made.lane, made.seq) == ("refused", 0, 0, 0, 0)
    assert _core.JsonError().field == ""
