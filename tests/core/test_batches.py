"""Many signatures and many frames at once: every buffer in place, every verdict as one by one."""

import array
import mmap
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import Buffer

from psymm import _core

DOMAIN = _core.domain_separator(31337, bytes(20))
CUSTODY = _core.poseidon2_hash([bytes(32)])
KEYS = [_core.SecretKey.from_bytes(bytes([n + 1] * 32)) for n in range(3)]
RULING = [(lane, 1, KEYS[lane].public_key) for lane in (0, 1)]


def talk(frames: int) -> bytes:
    transcript = _core.Transcript(DOMAIN, CUSTODY)
    for lane, from_seq, key in RULING:
        transcript.set_key(lane, from_seq, key)
    data = b""
    for n in range(frames):
        own, peer = transcript.head(n % 2), transcript.head(1 - n % 2)
        frame = _core.sign_frame(
            KEYS[n % 2],
            DOMAIN,
            CUSTODY,
            n % 2,
            own.seq + 1,
            own.digest,
            peer.seq,
            peer.digest,
            n,
            b"x" * (n % 7),
        )
        transcript.append(frame)
        data += frame.raw
    return data


DATA = talk(40)
SIGNED = [(_core.keccak256(bytes([n])), KEYS[n % 3]) for n in range(12)]
DIGESTS = b"".join(digest for digest, _ in SIGNED)
SIGNATURES = b"".join(key.sign(digest) for digest, key in SIGNED)
PUBLIC = b"".join(key.public_key for key in KEYS)
INDICES = [n % 3 for n in range(12)]


def mapped(data: bytes) -> mmap.mmap:
    held = mmap.mmap(-1, len(data))
    held.write(data)
    return held


def strided(data: bytes) -> memoryview:
    twice = bytearray(2 * len(data))
    twice[::2] = data
    return memoryview(twice)[::2]


BUFFERS: list[Callable[[bytes], Any]] = [
    bytes,
    bytearray,
    memoryview,
    lambda data: memoryview(bytearray(data)),
    lambda data: memoryview(bytearray(b"ab" + data))[2:],
    mapped,
    lambda data: array.array("B", data),
    strided,
]


def verify(data: Buffer, **how: Any) -> _core.TranscriptSummary:
    return _core.verify_transcript(data, DOMAIN, CUSTODY, RULING, **how)


@pytest.mark.parametrize("buffer", BUFFERS)
@pytest.mark.parametrize("threads", [1, 2, 0])
def test_a_transcript_is_verified_in_any_buffer(
    buffer: Callable[[bytes], Any], threads: int
) -> None:
    assert verify(buffer(DATA), threads=threads).frames == 40
    bent = bytearray(DATA)
    bent[-1] ^= 1
    with pytest.raises(_core.FrameError) as caught:
        verify(buffer(bytes(bent)), threads=threads)
    assert caught.value.code == "bad-r-y"


def test_a_mapped_file_is_verified_and_can_be_closed_after(tmp_path: Path) -> None:
    (tmp_path / "frames").write_bytes(DATA)
    with (tmp_path / "frames").open("rb") as file:
        held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert verify(held).frames == 40
        assert verify(memoryview(held)[:]).frames == 40
        held.close()


def test_numpy_arrays_are_read_where_they_are() -> None:
    numpy = pytest.importorskip("numpy")
    assert verify(numpy.frombuffer(DATA, numpy.uint8)).frames == 40
    digests = numpy.frombuffer(DIGESTS, numpy.uint8).reshape(12, 32)
    indices = numpy.array(INDICES, numpy.uint32)
    assert _core.verify_batch(PUBLIC, digests, SIGNATURES, indices) == []


@pytest.mark.parametrize("bad", ["text", 5, None, array.array("I", [1, 2])])
def test_what_is_no_buffer_of_bytes_is_a_type_error(bad: Any) -> None:
    with pytest.raises(TypeError, match="buffer of bytes"):
        verify(bad)


def test_a_bytearray_cannot_be_resized_while_it_is_verified() -> None:
    data = bytearray(DATA)
    refused: list[BaseException] = []

    def progress(_frames: int, _bytes: int) -> None:
        try:
            data.append(0)
        except BufferError as error:
            refused.append(error)

    assert verify(data, progress=progress).frames == 40
    assert refused
    data.append(0)


def test_progress_ends_with_everything() -> None:
    seen: list[tuple[int, int]] = []
    verify(DATA, progress=lambda frames, size: seen.append((frames, size)))
    assert seen[-1] == (40, len(DATA))


def test_what_the_callback_raises_is_raised() -> None:
    def progress(_frames: int, _bytes: int) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        verify(DATA, progress=progress)


def test_a_signals_handler_can_stop_the_work() -> None:
    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def progress(_frames: int, _bytes: int) -> None:
        signal.raise_signal(signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            verify(DATA, progress=progress)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_batch_that_holds_has_no_refusals() -> None:
    for indices in (INDICES, *(array.array(kind, INDICES) for kind in "IQiq")):
        assert _core.verify_batch(PUBLIC, DIGESTS, SIGNATURES, indices) == []
    assert _core.verify_batch(PUBLIC, b"", b"", []) == []
    assert _core.verify_batch(b"", b"", b"") == []
    one_key_each = b"".join(key.public_key for _, key in SIGNED)
    assert _core.verify_batch(one_key_each, DIGESTS, SIGNATURES, threads=2) == []
    one = _core.verify_batch(KEYS[0].public_key, DIGESTS, SIGNATURES)
    assert one == [(n, "bad-signature") for n in range(12) if n % 3]


def test_a_batch_takes_the_y_of_r_where_it_is_known() -> None:
    frames = _core.split_frames(DATA)
    keys = b"".join(KEYS[lane].public_key for lane in (0, 1))
    lanes = [frame.lane for frame in frames]
    digests = b"".join(frame.digest(DOMAIN) for frame in frames)
    signatures = b"".join(frame.signature for frame in frames)
    r_ys = bytearray(b"".join(frame.r_y for frame in frames))
    assert _core.verify_batch(keys, digests, signatures, lanes, r_ys) == []
    r_ys[32 * 7 + 5] ^= 1
    assert _core.verify_batch(keys, digests, signatures, lanes, r_ys) == [(7, "bad-r-y")]


def test_each_refusal_of_a_batch_has_its_index_and_code() -> None:
    signatures = bytearray(SIGNATURES)
    signatures[65 * 2 : 65 * 2 + 32] = bytes(32)
    signatures[65 * 4 + 64] = 29
    signatures[65 * 6 + 32 : 65 * 6 + 64] = b"\xf0" * 32
    signatures[65 * 8 + 40] ^= 1
    keys = PUBLIC + bytes(64)
    indices = [*INDICES[:10], 3, 9]
    assert _core.verify_batch(keys, DIGESTS, signatures, indices) == [
        (2, "bad-r"),
        (4, "bad-v"),
        (6, "high-s"),
        (8, "bad-signature"),
        (10, "bad-public-key"),
        (11, "no-such-key"),
    ]
    nobodys = array.array("q", [-1] * 12)
    assert [code for _, code in _core.verify_batch(keys, DIGESTS, SIGNATURES, nobodys)] == [
        "no-such-key"
    ] * 12


def test_lengths_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="32 bytes each"):
        _core.verify_batch(PUBLIC, DIGESTS[1:], SIGNATURES, INDICES)
    with pytest.raises(ValueError, match="12 digests and 11 signatures"):
        _core.verify_batch(PUBLIC, DIGESTS, SIGNATURES[65:], INDICES)
    with pytest.raises(ValueError, match="12 digests and 3 public keys"):
        _core.verify_batch(PUBLIC, DIGESTS, SIGNATURES)
    with pytest.raises(ValueError, match="11 key indices"):
        _core.verify_batch(PUBLIC, DIGESTS, SIGNATURES, INDICES[1:])
    with pytest.raises(ValueError, match="1 R"):
        _core.verify_batch(PUBLIC, DIGESTS, SIGNATURES, INDICES, bytes(32))
    with pytest.raises(ValueError, match="12 digests and 11 signatures"):
        _core.recover_batch(DIGESTS, SIGNATURES[65:])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 64), st.integers(0, 7))))
def test_keys_are_recovered_as_one_by_one(flips: list[tuple[int, int, int]]) -> None:
    signatures = bytearray(SIGNATURES)
    for index, byte, bit in flips:
        signatures[65 * index + byte] ^= 1 << bit
    expected: list[bytes | str] = []
    for index, (digest, _) in enumerate(SIGNED):
        try:
            expected.append(_core.recover(digest, signatures[65 * index : 65 * index + 65]))
        except _core.SignatureError as error:
            expected.append(error.code)
    assert _core.recover_batch(DIGESTS, signatures) == expected
    assert _core.recover_batch(bytearray(DIGESTS), signatures, threads=2) == expected


def test_frames_of_any_custodies_are_verified_in_one_batch() -> None:
    frames = _core.split_frames(DATA)
    wanted = [(DOMAIN, KEYS[frame.lane].public_key, frame) for frame in frames]
    assert _core.verify_frames(wanted) == [frame.digest(DOMAIN) for frame in frames]
    assert _core.verify_frames([]) == []
    bent = bytearray(frames[1].raw)
    bent[-1] ^= 1
    verdicts = _core.verify_frames(
        [
            (DOMAIN, KEYS[0].public_key, frames[0].raw + b"more"),
            (DOMAIN, KEYS[1].public_key, bent),
            (DOMAIN, KEYS[0].public_key, frames[1]),
            (bytes(32), KEYS[1].public_key, memoryview(frames[1].raw)),
            (DOMAIN, KEYS[1].public_key, frames[1].raw[:-1]),
        ],
        threads=2,
    )
    said = [(one.code, one.offset) if isinstance(one, Exception) else one for one in verdicts]
    at = frames[1].length
    assert said == [
        frames[0].digest(DOMAIN),
        ("bad-r-y", at - 32),
        ("bad-signature", at - 97),
        ("bad-signature", at - 97),
        ("truncated", at - 1),
    ]


def test_a_key_that_is_none_is_refused_before_any_frame() -> None:
    with pytest.raises(_core.SignatureError) as caught:
        _core.verify_frames([(DOMAIN, bytes(64), DATA)])
    assert caught.value.code == "bad-public-key"


def test_a_byte_is_located_in_its_frame() -> None:
    frames = _core.split_frames(DATA)
    start = frames[0].length
    assert _core.locate_frame(DATA, 0, 0) == (0, 0)
    assert _core.locate_frame(DATA, 0, start - 1) == (0, 0)
    assert _core.locate_frame(DATA, 0, start) == (1, start)
    assert _core.locate_frame(b"head" + DATA, 4, 4 + start) == (1, 4 + start)
