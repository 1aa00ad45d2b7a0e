"""One flipped bit anywhere in a transcript file: refused as one by one, and its place named."""

from __future__ import annotations

import io
import random
import sys
from pathlib import Path

import pytest
from custody_scene import START_NS, Signers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from psymm._core import Frame, FrameError, SecretKey, TranscriptError, sign_frame
from psymm.custody.notes import Note
from psymm.errors import TranscriptFileError
from psymm.messages import Heartbeat
from psymm.session.protocol.chain_facts import Fact, custody_of
from psymm.session.runtime.report import verify_signatures
from psymm.transcript.agreement import SOLVER, TRADER, JournalledOpening
from psymm.transcript.delegation import DelegationRefused
from psymm.transcript.file import MAGIC, encode_file, open_file, verify_frames
from psymm.transcript.record import Record

sys.path.insert(0, str(Path(__file__).parents[2] / "benches"))

from long_transcript import write_frames

SIGNERS = Signers()
RAW = encode_file(SIGNERS.opening, [entry.frame.raw for entry in SIGNERS.talk(8)])
START = open_file(RAW).start
FRAMES = [offset for offset, _ in open_file(RAW).each()]


def flipped(raw: bytes, bit: int) -> bytes:
    bent = bytearray(raw)
    bent[bit // 8] ^= 1 << bit % 8
    return bytes(bent)


def refusal(raw: bytes, threads: int = 1) -> TranscriptFileError:
    with pytest.raises(TranscriptFileError) as caught:
        verify_frames(open_file(raw), threads=threads)
    return caught.value


def one_by_one(raw: bytes) -> tuple[int, str] | None:
    """The index of the first frame that a record refuses, and the name of the reason; None if it
    takes all."""
    file = open_file(raw)
    record = Record(file.agreement)
    offset, index = file.start, 0
    while offset < len(raw):
        try:
            frame = Frame.parse(raw, offset)
            record.append(frame)
        except (FrameError, TranscriptError) as bad:
            return index, bad.code
        except DelegationRefused as bad:
            return index, bad.reason
        offset += frame.length
        index += 1
    return None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(RAW) * 8 - 1))
@example(bit=55_120)  # of a length, which then lets another byte be v
def test_a_flipped_bit_is_named_with_its_frame_and_bytes(bit: int) -> None:
    refused = refusal(flipped(RAW, bit))
    assert refused.span[0] <= refused.offset <= refused.span[1]
    if bit // 8 >= START:
        # The frame that holds the byte, or whose opening it is.
        assert refused.frame == sum(offset <= bit // 8 for offset in FRAMES) - 1
        assert refused.span[0] <= bit // 8 < refused.span[1]
    else:
        assert refused.frame in (None, 0)


@settings(max_examples=100, deadline=None)
@given(st.integers(START * 8, len(RAW) * 8 - 1), st.sampled_from([1, 2]))
@example(bit=(FRAMES[1] + 33) * 8, threads=1)  # the solver's Logon in the trader's lane
@example(bit=(FRAMES[2] + 117) * 8 + 7, threads=1)  # a sendingTime beyond the key's expiry
def test_a_flip_in_the_frames_is_judged_as_one_by_one(bit: int, threads: int) -> None:
    raw = flipped(RAW, bit)
    refused = refusal(raw, threads)
    assert (refused.frame, refused.reason) == one_by_one(raw)


def test_a_flip_in_the_header_of_what_brings_a_key_is_judged_as_one_by_one() -> None:
    signers = Signers(seed=2)
    signers.talk(6)
    signers.change_key(SOLVER)
    for lane in (TRADER, SOLVER, TRADER):
        signers.sign(lane, Heartbeat())
    raw = encode_file(signers.opening, [entry.frame.raw for entry in signers.record])
    places = [offset for offset, _ in open_file(raw).each()]
    for at in (places[0], places[1], places[6], places[8]):  # both Logons, the UKY, one after it
        for bit in range(at * 8, (at + 126) * 8):
            bent = flipped(raw, bit)
            refused = refusal(bent)
            assert (refused.frame, refused.reason) == one_by_one(bent), bit


@pytest.mark.parametrize(
    ("at", "field"),
    [
        (0, "version"),
        (1, "custody"),
        (33, "lane"),
        (-33, "v"),
        (-1, "R.y"),
        (41, None),  # from here on only the signature says that something is wrong
        (121, None),
        (130, None),
        (-97, "R.y"),
    ],
)
def test_a_flip_in_a_frame_is_told_with_its_field_where_that_is_known(
    at: int, field: str | None
) -> None:
    byte = (FRAMES[5] if at < 0 else FRAMES[4]) + at
    refused = refusal(flipped(RAW, (byte * 8) + (3 if at == 33 else 0)))
    assert refused.frame == 4
    assert refused.span[0] <= byte < refused.span[1]
    assert refused.values.get("field") == field


@pytest.mark.parametrize(
    "text",
    [
        b"31337",
        b"0x5fbdb2",
        SIGNERS.opening.trader.hex().encode(),
        SIGNERS.opening.salt.hex().encode(),
        SIGNERS.opening.terms_hash.hex().encode(),
        SIGNERS.opening.terms.hex().encode()[2000:],
    ],
)
@pytest.mark.parametrize("bit", [0, 1, 7])
def test_a_flip_in_the_opening_is_refused(text: bytes, bit: int) -> None:
    byte = RAW.index(text) + 4
    refused = refusal(flipped(RAW, byte * 8 + bit))
    assert refused.frame in (None, 0)
    assert refused.span[0] <= byte < refused.span[1] or refused.frame == 0


@pytest.mark.parametrize("at", range(12))
def test_a_flip_in_the_first_twelve_bytes_is_told(at: int) -> None:
    refused = refusal(flipped(RAW, at * 8 + 1))
    assert refused.reason == "not-a-transcript" if at < len(MAGIC) else refused.frame in (None, 0)
    assert refused.offset == at or at >= len(MAGIC)


def test_what_was_changed_in_two_places_is_told_with_its_frame() -> None:
    byte = FRAMES[4] + 60
    refused = refusal(flipped(flipped(RAW, byte * 8), byte * 8 + 9))
    assert (refused.frame, refused.reason) == (4, "bad-signature")
    assert refused.span == (FRAMES[4], FRAMES[5])
    assert refusal(b"").reason == refusal(b"pSymm").reason == "not-a-transcript"


NOTE = Note(custody_of(SIGNERS.opening), "0x" + "00" * 19 + "01", 10**9, b"\x02" * 32)
SHOWN = JournalledOpening(NOTE.commitment, TRADER, NOTE.token, NOTE.amount, NOTE.blinding)
FACT = Fact(17, b"\x03" * 32, (), (NOTE.commitment,)).to_json()
NOTED = encode_file(SIGNERS.opening, [entry.frame.raw for entry in SIGNERS.record], [SHOWN], [FACT])


@pytest.mark.parametrize(
    "text", [NOTE.commitment.hex(), "1000000000", NOTE.blinding.hex(), '"notes"']
)
@pytest.mark.parametrize("bit", [0, 6])
def test_a_flip_in_a_notes_opening_is_told_with_its_bytes(text: str, bit: int) -> None:
    byte = NOTED.index(text.encode(), NOTED.index(b'"notes"')) + 3
    raw = flipped(NOTED, byte * 8 + bit)
    with pytest.raises(TranscriptFileError) as caught:
        verify_signatures(open_file(raw))
    assert caught.value.frame is None
    assert caught.value.span[0] <= byte < caught.value.span[1]


def test_of_two_faults_the_first_frames_is_told() -> None:
    for first, second in ((3, 6), (6, 3)):
        # R.y of one, the version of the other.
        raw = flipped(flipped(RAW, (FRAMES[first + 1] - 1) * 8), FRAMES[second] * 8)
        refused = refusal(raw)
        assert refused.frame == 3
        assert refused.reason == ("bad-r-y" if first == 3 else "bad-version")


def test_a_frame_beyond_its_keys_delegation_is_refused_once_its_signature_holds() -> None:
    signers = Signers()
    frames = [entry.frame.raw for entry in signers.talk(4)]
    own, peer = signers.record.head(0), signers.record.head(1)

    def late(key: SecretKey) -> bytes:
        agreement = signers.opening
        expired = START_NS + 10**15 + 1
        places = (own.seq + 1, own.digest, peer.seq, peer.digest, expired)
        return sign_frame(key, agreement.domain, agreement.custody, 0, *places, b"{}").raw

    refused = refusal(encode_file(signers.opening, [*frames, late(signers.keys[0])]))
    assert (refused.frame, refused.reason) == (4, "expired")
    refused = refusal(encode_file(signers.opening, [*frames, late(signers.keys[1])]))
    assert (refused.frame, refused.reason) == (4, "bad-signature")


@pytest.fixture(scope="module")
def long_file() -> bytes:
    out = io.BytesIO()
    write_frames(out, 20_000)
    return out.getvalue()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_long_file_verifies_with_its_key_change(long_file: bytes, threads: int) -> None:
    seen: list[tuple[int, int]] = []
    file = open_file(long_file)
    verified = verify_frames(
        file, threads=threads, progress=lambda frames, size: seen.append((frames, size))
    )
    assert verified.frames == 20_000
    assert [(lane, from_seq) for lane, from_seq, _ in verified.keys] == [(0, 1), (1, 1), (0, 5001)]
    assert seen[-1] == (20_000, len(long_file) - file.start)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_flip_in_a_long_file_is_named_with_its_frame(long_file: bytes, seed: int) -> None:
    start = open_file(long_file).start
    bit = random.Random(seed).randrange(start * 8, len(long_file) * 8)
    raw = flipped(long_file, bit)
    refused = refusal(raw, threads=2)
    assert refused.frame == sum(at <= bit // 8 for at, _ in open_file(long_file).each()) - 1
