"""Frames and transcripts, held against eth-account's typed data."""

from typing import Any

import pytest
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from psymm import _core

CONTRACT = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
DOMAIN = _core.domain_separator(31337, bytes.fromhex(CONTRACT[2:]))
CUSTODY = _core.poseidon2_hash([bytes(32)])
KEYS = [_core.SecretKey.from_bytes(bytes([lane + 1] * 32)) for lane in (0, 1)]
RULING = [(lane, 1, KEYS[lane].public_key) for lane in (0, 1)]
START = 1_790_000_000_000_000_000

words = st.binary(min_size=32, max_size=32)
numbers = st.integers(0, 2**64 - 1)


def octets(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


class Talk:
    """Both lanes of a custody, written as two honest parties would."""

    def __init__(self) -> None:
        self.transcript = _core.Transcript(DOMAIN, CUSTODY)
        for lane, from_seq, key in RULING:
            self.transcript.set_key(lane, from_seq, key)
        self.data = b""

    def next(self, lane: int, payload: bytes = b"{}", **changed: Any) -> _core.Frame:
        own, peer = self.transcript.head(lane), self.transcript.head(1 - lane)
        fields: dict[str, Any] = {
            "custody": CUSTODY,
            "lane": lane,
            "seq": own.seq + 1,
            "previous": own.digest,
            "peer_seq": peer.seq,
            "peer_digest": peer.digest,
            "sending_time": max(own.sending_time, START) + 1,
            "payload": payload,
        }
        return _core.sign_frame(KEYS[lane], DOMAIN, **(fields | changed))

    def say(self, lane: int, payload: bytes = b"{}") -> _core.Frame:
        frame = self.next(lane, payload)
        self.transcript.append(frame)
        self.data += frame.raw
        return frame


@given(words, st.integers(0, 1), numbers, words, numbers, words, numbers, st.binary(max_size=99))
@settings(max_examples=50, deadline=None)
def test_a_frames_digest_equals_eth_accounts(
    custody: bytes,
    lane: int,
    seq: int,
    previous: bytes,
    peer_seq: int,
    peer_digest: bytes,
    time: int,
    payload: bytes,
) -> None:
    seq = max(seq, 1)
    frame = _core.sign_frame(
        KEYS[lane], DOMAIN, custody, lane, seq, previous, peer_seq, peer_digest, time, payload
    )
    signable = encode_typed_data(
        {"name": "pSymm", "version": "1", "chainId": 31337, "verifyingContract": CONTRACT},
        {
            "Message": [
                {"name": "custody", "type": "bytes32"},
                {"name": "lane", "type": "uint8"},
                {"name": "seq", "type": "uint64"},
                {"name": "previous", "type": "bytes32"},
                {"name": "peerSeq", "type": "uint64"},
                {"name": "peerDigest", "type": "bytes32"},
                {"name": "sendingTime", "type": "uint64"},
                {"name": "payload", "type": "bytes32"},
            ]
        },
        {
            "custody": custody,
            "lane": lane,
            "seq": seq,
            "previous": previous,
            "peerSeq": peer_seq,
            "peerDigest": peer_digest,
            "sendingTime": time,
            "payload": keccak(payload),
        },
    )
    assert signable.header == DOMAIN
    digest = keccak(b"\x19\x01" + signable.header + signable.body)
    assert frame.digest(DOMAIN) == digest
    assert _core.recover(digest, frame.signature) == KEYS[lane].public_key
    again = _core.Frame.parse(b"before" + frame.raw + b"after", 6)
    assert again == frame
    assert hash(again) == hash(frame)
    assert (again.custody, again.lane, again.seq, again.previous) == (custody, lane, seq, previous)
    assert (again.peer_seq, again.peer_digest, again.sending_time) == (peer_seq, peer_digest, time)
    assert (again.payload, again.length, bytes(again)) == (payload, len(frame.raw), frame.raw)


def test_frames_equal_the_vectors_byte_for_byte(frame_vectors: Any) -> None:
    domain, custody = octets(frame_vectors["domain"]), octets(frame_vectors["custody"])
    keys = [_core.SecretKey.from_bytes(octets(key["secret"])) for key in frame_vectors["keys"]]
    data = b""
    for case in frame_vectors["frames"]:
        lane = int(case["lane"])
        frame = _core.sign_frame(
            keys[lane],
            domain,
            octets(case["custody"]),
            lane,
            int(case["seq"]),
            octets(case["previous"]),
            int(case["peerSeq"]),
            octets(case["peerDigest"]),
            int(case["sendingTime"]),
            octets(case["payload"]),
        )
        assert frame.raw == octets(case["raw"])
        assert frame.digest(domain) == octets(case["digest"])
        assert frame.r_y == octets(case["rY"])
        data += frame.raw
    ruling = [(lane, 1, key.public_key) for lane, key in enumerate(keys)]
    summary = _core.verify_transcript(data, domain, custody, ruling)
    assert summary.frames == len(frame_vectors["frames"])
    assert [frame.raw for frame in _core.split_frames(data)] == [
        octets(case["raw"]) for case in frame_vectors["frames"]
    ]


def test_domains_equal_eth_accounts(frame_vectors: Any) -> None:
    for case in frame_vectors["domains"]:
        contract = octets(case["verifyingContract"])
        separator = _core.domain_separator(int(case["chainId"]), contract)
        assert separator == octets(case["separator"])


@pytest.mark.parametrize(
    ("at", "written", "code"),
    [
        (0, b"\x02", "bad-version"),
        (33, b"\x02", "bad-lane"),
        (34, bytes(8), "bad-seq"),
        (122, (65_537).to_bytes(4, "big"), "payload-too-long"),
        (122, (400).to_bytes(4, "big"), "truncated"),
        (128, bytes(32), "bad-r"),
        (160, bytes(32), "bad-s"),
        (160, b"\xf0", "high-s"),
        (192, b"\x1d", "bad-v"),
        (193, bytes(32), "bad-r-y"),
    ],
)
def test_a_malformed_frame_is_named_with_its_place(at: int, written: bytes, code: str) -> None:
    raw = bytearray(Talk().say(0).raw)
    raw[at : at + len(written)] = written
    with pytest.raises(_core.FrameError) as caught:
        _core.Frame.parse(b"xyz" + raw, 3)
    assert caught.value.code == code
    assert caught.value.offset == 3 + (len(raw) if code == "truncated" else at)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_bit_flipped_in_a_transcript_is_refused(data: st.DataObject) -> None:
    talk = Talk()
    for lane in (0, 1, 1, 0):
        talk.say(lane, b'{"MsgType":"0"}')
    raw = bytearray(talk.data)
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises((_core.FrameError, _core.TranscriptError)):
        _core.verify_transcript(raw, DOMAIN, CUSTODY, RULING)


def test_a_transcript_gives_its_heads() -> None:
    talk = Talk()
    frames = [talk.say(lane) for lane in (0, 1, 0, 0, 1)]
    summary = _core.verify_transcript(memoryview(talk.data), DOMAIN, CUSTODY, RULING)
    assert summary.frames == len(talk.transcript) == 5
    assert summary.heads == (talk.transcript.head(0), talk.transcript.head(1))
    trader = summary.heads[0]
    assert (trader.seq, trader.digest) == (3, frames[3].digest(DOMAIN))
    assert (trader.peer_seq, trader.sending_time) == (1, frames[3].sending_time)


def test_an_empty_transcript_rests_on_the_custody() -> None:
    summary = _core.verify_transcript(b"", DOMAIN, CUSTODY, [])
    assert (summary.frames, summary.heads[0].seq, summary.heads[1].digest) == (0, 0, CUSTODY)


def test_a_fault_in_a_transcript_has_its_place() -> None:
    talk = Talk()
    talk.say(0)
    first = len(talk.data)
    bad = talk.next(1, peer_digest=bytes(32))
    with pytest.raises(_core.TranscriptError) as caught:
        _core.verify_transcript(talk.data + bad.raw, DOMAIN, CUSTODY, RULING)
    error = caught.value
    assert (error.code, error.index, error.offset) == ("bad-peer-digest", 1, first)
    assert (error.lane, error.seq) == (1, 1)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"custody": bytes(32)}, "wrong-custody"),
        ({"seq": 9}, "bad-seq"),
        ({"seq": 1}, "equivocation"),
        ({"previous": bytes(32)}, "bad-previous"),
        ({"sending_time": START}, "time-backwards"),
        ({"peer_seq": 0, "peer_digest": CUSTODY}, "bad-peer-seq"),
        ({"peer_seq": 7}, "ahead"),
        ({"peer_digest": bytes(32)}, "bad-peer-digest"),
    ],
)
def test_a_frame_that_does_not_follow_is_named_and_changes_nothing(
    changed: dict[str, Any], code: str
) -> None:
    talk = Talk()
    for lane in (0, 1, 0):
        talk.say(lane)
    frame = talk.next(1, **changed)
    with pytest.raises(_core.TranscriptError) as caught:
        talk.transcript.append(frame)
    assert caught.value.code == code
    with pytest.raises(_core.TranscriptError):
        talk.transcript.check(frame)
    assert len(talk.transcript) == 3
    right = talk.next(1)
    assert talk.transcript.check(right) == talk.transcript.append(right) == right.digest(DOMAIN)


def test_a_frame_by_another_key_is_a_bad_signature() -> None:
    talk = Talk()
    forged = _core.sign_frame(KEYS[1], DOMAIN, CUSTODY, 0, 1, CUSTODY, 0, CUSTODY, START, b"{}")
    with pytest.raises(_core.TranscriptError) as caught:
        talk.transcript.append(forged)
    assert caught.value.code == "bad-signature"
    forged.verify(DOMAIN, KEYS[1].public_key)
    with pytest.raises(_core.FrameError) as refused:
        forged.verify(DOMAIN, KEYS[0].public_key)
    assert refused.value.code == "bad-signature"


def test_a_duplicate_is_told_from_a_gap() -> None:
    talk = Talk()
    frame = talk.say(0)
    with pytest.raises(_core.TranscriptError) as caught:
        talk.transcript.append(frame)
    assert caught.value.code == "duplicate"


def test_a_key_cannot_rule_the_past() -> None:
    talk = Talk()
    talk.say(0)
    with pytest.raises(_core.TranscriptError) as caught:
        talk.transcript.set_key(0, 1, KEYS[1].public_key)
    assert caught.value.code == "key-too-late"
    talk.transcript.set_key(0, 2, KEYS[1].public_key)
    with pytest.raises(_core.TranscriptError) as refused:
        talk.say(0)
    assert refused.value.code == "bad-signature"


def test_digests_of_a_lane_are_kept() -> None:
    talk = Talk()
    frame = talk.say(1)
    assert talk.transcript.digest(1, 0) == CUSTODY
    assert talk.transcript.digest(1, 1) == frame.digest(DOMAIN)
    with pytest.raises(IndexError, match="no frame 2"):
        talk.transcript.digest(1, 2)


def test_a_number_that_its_field_cannot_hold_is_an_overflow() -> None:
    too_large: list[dict[str, Any]] = [{"seq": 2**64}, {"seq": -1}, {"sending_time": 2**64}]
    for changed in too_large:
        with pytest.raises(OverflowError):
            Talk().next(0, **changed)


def test_frames_cannot_be_changed_or_made_out_of_nothing() -> None:
    frame = Talk().say(0)
    with pytest.raises(AttributeError):
        frame.seq = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        _core.Frame()
