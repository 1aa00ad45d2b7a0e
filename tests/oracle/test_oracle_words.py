"""Messages of signers and followers, and prices as lines, are read strictly."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psymm.oracle.agreement import Countersignature, Proposal
from psymm.oracle.rounds import (
    LeafInvalid,
    OracleError,
    OracleRound,
    RoundLeaf,
    SignedRound,
    encode_round,
)
from psymm.oracle.sources import LineInvalid, PriceBoard, decode_line
from psymm.oracle.wire import (
    AskHistory,
    FollowBallots,
    FollowRounds,
    Greeting,
    HistoryEnd,
    MessageMalformed,
    decode_answer,
    decode_ballot,
    decode_greeting,
    decode_request,
    encode_ballot,
    encode_end,
    encode_greeting,
    encode_request,
    peer_digest,
)

STEP = 10**9
AT = 1_790_604_800 * STEP
ROUND = SignedRound(OracleRound(AT, (RoundLeaf('A"', 5 * 10**17),)), (bytes(65),))
GREETING = Greeting(b"\x01" * 32, "0x" + "aB" * 20, b"\x02" * 32)
READERS: dict[str, Callable[[str | bytes], object]] = {
    "greeting": decode_greeting,
    "request": decode_request,
    "answer": decode_answer,
    "ballot": decode_ballot,
    "line": decode_line,
}
GOOD = {
    "greeting": encode_greeting(GREETING),
    "request": encode_request(AskHistory(0, 2**64 - 1)),
    "answer": encode_round(ROUND),
    "ballot": encode_ballot(Proposal(ROUND)),
    "line": '{"feed":"A","epoch":"1","rate":"-0.1"}',
}


def test_every_message_survives_its_text() -> None:
    assert decode_greeting(encode_greeting(GREETING)) == GREETING
    for request in (FollowRounds(0), AskHistory(1, 2), FollowBallots(bytes(65))):
        assert decode_request(encode_request(request)) == request
    assert decode_answer(encode_round(ROUND)) == ROUND
    assert decode_answer(encode_end(7)) == HistoryEnd(7)
    for ballot in (Proposal(ROUND), Countersignature(AT, b"\x03" * 32, b"\x04" * 65)):
        assert decode_ballot(encode_ballot(ballot)) == ballot
        assert ballot.timestamp == AT


def test_a_peers_proof_differs_by_challenge_domain_and_signer() -> None:
    base = (GREETING.domain, GREETING.challenge, GREETING.signer)
    digests = {
        peer_digest(*base),
        peer_digest(bytes(32), *base[1:]),
        peer_digest(base[0], bytes(32), base[2]),
        peer_digest(*base[:2], "0x" + "00" * 20),
    }
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        ("request", '{"follow":{"after":"1"},"history":{"first":"1","last":"2"}}'),
        ("request", '{"follow":{"after":1}}'),
        ("request", '{"follow":{"after":"-1"}}'),
        ("request", '{"follow":{"after":"01"}}'),
        ("request", '{"follow":{"after":"18446744073709551616"}}'),
        ("request", '{"follow":{"after":"1","feed":"BTC/USD"}}'),
        ("request", '{"price":{"feed":"BTC/USD"}}'),
        ("request", '{"history":{"first":"1"}}'),
        ("request", '{"ballots":{"signature":"0x00"}}'),
        ("request", '{"follow":{"after":"1"}}' + " " * 2000),
        ("greeting", encode_end(1)),
        ("greeting", GOOD["greeting"].replace("0xaB", "0xzz")),
        ("answer", '{"end":1}'),
        ("answer", GOOD["greeting"]),
        ("ballot", encode_round(ROUND)),
        ("ballot", GOOD["ballot"][:-1]),
        ("ballot", GOOD["ballot"] + " "),
        ("ballot", encode_ballot(Proposal(SignedRound(ROUND.round, (bytes(65),) * 2)))),
    ],
)
def test_a_malformed_message_is_refused(reader: str, text: str) -> None:
    with pytest.raises(OracleError):
        READERS[reader](text)


@pytest.mark.parametrize("reader", ["greeting", "request", "answer", "ballot"])
def test_bytes_are_no_message(reader: str) -> None:
    with pytest.raises(OracleError):
        READERS[reader](GOOD[reader].encode())


@given(st.sampled_from(sorted(READERS)), st.text(max_size=100) | st.binary(max_size=100))
def test_fuzz_no_text_raises_anything_else(reader: str, text: str | bytes) -> None:
    with pytest.raises(OracleError):
        READERS[reader](text)


@given(st.sampled_from(sorted(READERS)), st.data(), st.text(min_size=1, max_size=3))
def test_fuzz_no_changed_text_raises_anything_else(
    reader: str, data: st.DataObject, put: str
) -> None:
    good = GOOD[reader]
    at = data.draw(st.integers(0, len(good)))
    cut = data.draw(st.integers(0, 3))
    try:
        READERS[reader](good[:at] + put + good[at + cut :])
    except OracleError:
        return


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["after", "end", "feed", "price", "rate", "epoch"]), inner
        )
    ),
    max_leaves=6,
)


@given(
    st.sampled_from(sorted(READERS)),
    st.dictionaries(
        st.sampled_from(["oracle", "follow", "end", "proposal", "feed", "price"]), json_values
    ),
)
def test_fuzz_no_json_raises_anything_else(reader: str, value: dict[str, object]) -> None:
    try:
        READERS[reader](json.dumps(value))
    except OracleError:
        return


# --- prices as lines --------------------------------------------------------------------------


def test_a_board_has_the_newest_price_of_each_feed_that_is_fresh() -> None:
    board = PriceBoard(["A", "B"], stale_ns=5 * STEP)
    board.write('{"feed":"A","price":"1"}', AT)
    board.write(b'{"feed":"A","price":"2.5"}\r', AT + STEP)
    board.write('{"feed":"B","price":"3"}', AT + 3 * STEP)
    a, b = RoundLeaf("A", 25 * 10**17), RoundLeaf("B", 3 * 10**18)
    assert board.read(AT + 3 * STEP) == [a, b]
    assert board.read(AT + 6 * STEP) == [a, b]
    assert board.read(AT + 6 * STEP + 1) == [b]
    assert board.read(AT + 9 * STEP) == []


def test_a_rate_counts_from_its_epoch_until_the_next() -> None:
    board = PriceBoard(["A"], stale_ns=STEP)
    board.write(f'{{"feed":"A","epoch":"{AT}","rate":"-0.1"}}', AT - STEP)
    assert board.read(AT - 1) == []
    assert board.read(AT + 3600 * STEP) == [RoundLeaf("A", -(10**17), AT)]
    board.write(f'{{"feed":"A","epoch":"{AT - 1}","rate":"0.5"}}', AT)
    assert board.read(AT) == [RoundLeaf("A", -(10**17), AT)]
    board.write(f'{{"feed":"A","epoch":"{AT + 1}","rate":"0.5"}}', AT)
    assert board.read(AT + 1) == [RoundLeaf("A", 5 * 10**17, AT + 1)]


@pytest.mark.parametrize(
    "line",
    [
        '{"feed":"C","price":"1"}',
        '{"feed":"A","price":1}',
        '{"feed":"A","price":1.5}',
        '{"feed":"A","price":"1e3"}',
        '{"feed":"A","price":"0"}',
        '{"feed":"A","price":"-1"}',
        '{"feed":"A","price":"NaN"}',
        '{"feed":"A","price":"1.0"}',
        '{"feed":"A","price":"0.0000000000000000001"}',
        '{"feed":"A","price":"123456789012345678901"}',
        '{"feed":"A","price":"1","price":"2"}',
        '{"feed":"A","price":"1","more":"2"}',
        '{"feed":"A","rate":"1"}',
        '{"feed":"A","epoch":"0","rate":"1"}',
        '{"feed":"A","epoch":"-5","rate":"1"}',
        '{"feed":"A","epoch":"99999999999999999999","rate":"1"}',
        '{"feed":"A","epoch":"²","rate":"1"}',
        '{"feed":"' + "A" * 2000 + '","price":"1"}',
        "[" * 1000,
    ],
)
def test_a_line_that_is_no_price_changes_nothing(line: str) -> None:
    board = PriceBoard(["A", "B"], stale_ns=5 * STEP)
    board.write('{"feed":"A","price":"7"}', AT)
    with pytest.raises((LineInvalid, LeafInvalid)):
        board.write(line, AT)
    assert board.read(AT) == [RoundLeaf("A", 7 * 10**18)]


def test_a_request_for_a_single_feed_does_not_exist() -> None:
    """Rule 42: nobody asks for a symbol."""
    for text in ('{"feed":{"name":"BTC/USD"}}', '{"follow":{"after":"0","feeds":["BTC/USD"]}}'):
        with pytest.raises(MessageMalformed):
            decode_request(text)
