"""psymm.capi decides as psymm._core does, reads every kind of buffer, and copies none."""

import array
import mmap
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psymm import _core, capi

HERE = Path(__file__).parent
ALL = settings(max_examples=60, deadline=None)
KEYS = [_core.SecretKey.from_bytes(bytes([n + 1] * 32)) for n in range(3)]
FLAT = b"".join(key.public_key for key in KEYS)


def octets(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


class Talk:
    """The vectors' transcript: two lanes by eth-account."""

    def __init__(self, vectors: Any) -> None:
        self.domain, self.custody = octets(vectors["domain"]), octets(vectors["custody"])
        self.keys = [octets(key["publicKey"]) for key in vectors["keys"]]
        self.ruling = [(lane, 1, key) for lane, key in enumerate(self.keys)]
        self.lanes = [int(frame["lane"]) for frame in vectors["frames"]]
        self.frames = [octets(frame["raw"]) for frame in vectors["frames"]]
        self.digests = [octets(frame["digest"]) for frame in vectors["frames"]]
        self.data = b"".join(self.frames)


@pytest.fixture(scope="session")
def talk(frame_vectors: Any) -> Talk:
    return Talk(frame_vectors)


def mapped(data: bytes) -> mmap.mmap:
    anonymous = mmap.mmap(-1, max(len(data), 1))
    anonymous[:] = data
    return anonymous


KINDS: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": lambda data: memoryview(b"\xff" + data)[1:],
    "read-only memoryview": lambda data: memoryview(bytearray(data)).toreadonly(),
    "mmap": mapped,
    "array": lambda data: array.array("B", data),
    "numpy": lambda data: np.frombuffer(data, np.uint8),
    "numpy of many axes": lambda data: np.frombuffer(data, np.uint8).reshape(1, -1, 1),
}

buffers = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


def outcome(judge: Callable[[], Any]) -> tuple[object, ...]:
    """What a verification comes to: the summary's numbers, or all that its exception says."""
    try:
        summary = judge()
    except _core.FrameError as refused:
        return type(refused).__name__, refused.code, refused.offset
    except _core.TranscriptError as refused:
        place = refused.index, refused.offset, refused.lane, refused.seq
        return type(refused).__name__, refused.code, *place
    heads = [(head.seq, head.digest, head.sending_time, head.peer_seq) for head in summary.heads]
    return summary.frames, *heads


@buffers
def test_a_transcript_is_read_from_every_kind_of_buffer(
    talk: Talk, kind: Callable[[bytes], Any]
) -> None:
    judged = outcome(
        lambda: capi.verify_transcript(
            kind(talk.data),
            kind(talk.domain),
            kind(talk.custody),
            [(lane, seq, kind(key)) for lane, seq, key in talk.ruling],
        )
    )
    core = outcome(
        lambda: _core.verify_transcript(talk.data, talk.domain, talk.custody, talk.ruling)
    )
    assert judged == core
    assert judged[0] == len(talk.frames)


@given(st.integers(0), st.sampled_from([0, 1, 2]))
@ALL
def test_a_flipped_bit_is_refused_as_the_core_refuses_it(
    talk: Talk, bit: int, threads: int
) -> None:
    bit %= 8 * len(talk.data)
    data = bytearray(talk.data)
    data[bit // 8] ^= 1 << bit % 8
    context = talk.domain, talk.custody, talk.ruling
    judged = outcome(lambda: capi.verify_transcript(data, *context, threads=threads))
    assert judged == outcome(lambda: _core.verify_transcript(bytes(data), *context))
    assert isinstance(judged[0], str)


def test_a_malformed_frame_is_named_with_its_place(talk: Talk) -> None:
    data = bytearray(talk.data)
    second = len(talk.frames[0])
    data[second + 33] = 5
    with pytest.raises(_core.FrameError, match=f"frame 1, at byte {second + 33}") as refused:
        capi.verify_transcript(data, talk.domain, talk.custody, talk.ruling)
    assert (refused.value.code, refused.value.offset) == ("bad-lane", second + 33)


def test_wrong_keys_are_refused_as_the_core_refuses_them(talk: Talk) -> None:
    (_, _, trader), (_, _, solver) = talk.ruling
    for ruling in (
        [(0, 1, trader), (0, 1, solver)],
        [(2, 1, trader)],
        [(0, 0, trader)],
        [],
    ):
        with pytest.raises(_core.TranscriptError) as ours:
            capi.verify_transcript(talk.data, talk.domain, talk.custody, ruling)
        with pytest.raises(_core.TranscriptError) as core:
            _core.verify_transcript(talk.data, talk.domain, talk.custody, ruling)
        assert ours.value.code == core.value.code
    with pytest.raises(_core.SignatureError) as refused:
        capi.verify_transcript(talk.data, talk.domain, talk.custody, [(0, 1, bytes(64))])
    assert refused.value.code == "bad-public-key"


@buffers
def test_messages_are_hashed_from_every_kind_of_buffer(kind: Callable[[bytes], Any]) -> None:
    messages = [bytes([n % 251]) * n for n in range(1, 400, 37)]
    hashed = capi.keccak256_many([kind(message) for message in messages])
    assert hashed == b"".join(_core.keccak256(message) for message in messages)


def test_nothing_is_hashed_verified_and_recovered_as_nothing() -> None:
    assert capi.keccak256_many([]) == b""
    assert capi.keccak256_many([b""]) == _core.keccak256(b"")
    assert capi.verify_batch(b"", b"", b"") == []
    assert capi.recover_batch(b"", b"") == capi.Recovered(b"", b"", [])
    assert capi.verify_frames([], b"", b"") == []
    assert capi.frame_digest_many(b"", bytes(32)) == b""
    summary = capi.verify_transcript(b"", bytes(32), b"\1" * 32, [])
    assert (summary.frames, summary.heads[0].digest) == (0, b"\1" * 32)


@buffers
def test_frames_are_taken_apart_and_digested_as_by_the_core(
    talk: Talk, kind: Callable[[bytes], Any]
) -> None:
    for raw in talk.frames:
        ours, core = capi.frame_parse(kind(raw + b"more")), _core.Frame.parse(raw)
        for field in (
            *("length", "custody", "lane", "seq", "previous", "peer_seq", "peer_digest"),
            *("sending_time", "signature", "r_y"),
        ):
            assert getattr(ours, field) == getattr(core, field)
        assert raw[126 : 126 + ours.payload_length] == core.payload
    assert capi.frame_digest_many(kind(talk.data), talk.domain) == b"".join(talk.digests)


def test_a_malformed_frame_raises_as_in_the_core(talk: Talk) -> None:
    for call in (capi.frame_parse, _core.Frame.parse):
        with pytest.raises(_core.FrameError) as refused:
            call(talk.frames[0][:200])
        assert (refused.value.code, refused.value.offset) == ("truncated", 200)
    with pytest.raises(_core.FrameError) as refused:
        capi.frame_digest_many(talk.data[:-1], talk.domain)
    assert (refused.value.code, refused.value.offset) == ("truncated", len(talk.data) - 1)


signed = st.lists(
    st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 2), st.integers(0, 3)),
    max_size=8,
)


@given(signed, st.integers(0), st.booleans())
@ALL
def test_signatures_are_judged_and_recovered_as_one_by_one(
    signed: list[tuple[bytes, int, int]], bit: int, with_r_ys: bool
) -> None:
    digests = b"".join(digest for digest, _, _ in signed)
    signatures = bytearray(b"".join(KEYS[signer].sign(digest) for digest, signer, _ in signed))
    if signed and bit % 2:
        bit = bit // 2 % (8 * len(signatures))
        signatures[bit // 8] ^= 1 << bit % 8
    expected = []
    keys, addresses = b"", b""
    for place, (digest, _, key) in enumerate(signed):
        signature = bytes(signatures[65 * place : 65 * place + 65])
        if key > 2 or not _core.verify(digest, signature, KEYS[key].public_key):
            expected.append(place)
        try:
            keys += _core.recover(digest, signature)
            addresses += octets(_core.address_of(keys[-64:]))
        except _core.SignatureError:
            keys, addresses = keys + bytes(64), addresses + bytes(20)
    refusals = capi.verify_batch(
        FLAT,
        digests,
        signatures,
        key_indices=array.array("I", [key for _, _, key in signed]),
        r_ys=bytes(32 * len(signed)) if with_r_ys else None,
    )
    if with_r_ys:
        # An R.y of zero is on no curve, so all are refused, whatever else is wrong.
        assert [refusal.index for refusal in refusals] == list(range(len(signed)))
    else:
        assert [refusal.index for refusal in refusals] == expected
    recovered = capi.recover_batch(digests, signatures)
    assert (recovered.keys, recovered.addresses) == (keys, addresses)
    assert [refusal.index for refusal in recovered.refusals] == [
        place for place in range(len(signed)) if not any(keys[64 * place : 64 * place + 64])
    ]


@buffers
def test_a_batch_is_read_from_every_kind_of_buffer(
    talk: Talk, kind: Callable[[bytes], Any]
) -> None:
    signatures = [raw[-97:-32] for raw in talk.frames]
    refusals = capi.verify_batch(
        kind(b"".join(talk.keys)),
        kind(b"".join(talk.digests)),
        kind(b"".join(signatures)),
        key_indices=np.array(talk.lanes, np.uint32),
        r_ys=kind(b"".join(raw[-32:] for raw in talk.frames)),
        threads=2,
    )
    assert refusals == []
    signatures[1] = bytes(65)
    refusals = capi.verify_batch(
        kind(talk.keys[0]), kind(talk.digests[1]), kind(signatures[1]), threads=2
    )
    assert refusals == [capi.RecoverRefusal(0, "bad-r")]


def test_a_key_that_is_no_point_refuses_the_call() -> None:
    with pytest.raises(_core.SignatureError) as refused:
        capi.verify_batch(bytes(64), bytes(32), bytes(65))
    assert refused.value.code == "bad-public-key"


@buffers
def test_buffers_of_frames_are_judged_each_by_itself(
    talk: Talk, kind: Callable[[bytes], Any]
) -> None:
    bent = bytearray(talk.frames[1])
    bent[-40] ^= 1
    first_of_each = [talk.frames[talk.lanes.index(lane)] for lane in (0, 1)]
    buffers = [talk.frames[0], bytes(bent), b"".join(first_of_each), talk.frames[0][:-1]]
    keys = talk.keys[0] + talk.keys[talk.lanes[1]] + talk.keys[0] + talk.keys[0]
    right, wrong, mixed, short = capi.verify_frames(
        [kind(buffer) for buffer in buffers], kind(talk.domain * 4), kind(keys), threads=2
    )
    assert right == capi.Verdict(talk.digests[0], None)
    assert wrong.digests == b""
    assert wrong.fault is not None
    assert wrong.fault.index == 0
    assert mixed.digests == talk.digests[0]
    length = len(first_of_each[0])
    assert mixed.fault == capi.FaultPlace("bad-signature", 1, length, length, 1, 1)
    assert short.fault is not None
    assert (short.fault.code, short.fault.offset) == ("truncated", len(buffers[3]))


def test_what_does_not_fit_is_refused_before_the_call() -> None:
    with pytest.raises(ValueError, match="digests must be 32 bytes each"):
        capi.recover_batch(bytes(33), bytes(65))
    with pytest.raises(ValueError, match="1 signatures are given for 2 items"):
        capi.recover_batch(bytes(64), bytes(65))
    with pytest.raises(ValueError, match="domain must be 32 bytes, not 31"):
        capi.frame_digest_many(b"", bytes(31))
    with pytest.raises(ValueError, match="a key must be 64 bytes"):
        capi.verify_transcript(b"", bytes(32), bytes(32), [(0, 1, bytes(63))])
    with pytest.raises(TypeError, match="32-bit"):
        capi.verify_batch(FLAT, bytes(32), bytes(65), key_indices=bytes(4))
    with pytest.raises(ValueError, match="2 key_indices are given for 1 items"):
        capi.verify_batch(FLAT, bytes(32), bytes(65), key_indices=array.array("I", [0, 0]))
    with pytest.raises(TypeError):
        capi.keccak256_many(["text"])  # type: ignore[list-item]
    with pytest.raises((ValueError, BufferError)):
        capi.keccak256_many([memoryview(b"every other byte")[::2]])
    with pytest.raises(OverflowError):
        capi.recover_batch(b"", b"", threads=-1)


def test_a_buffer_is_let_go_of_even_when_the_call_raises() -> None:
    frames = mapped(b"\1" * 300)
    with pytest.raises(_core.FrameError) as refused:
        capi.frame_parse(frames)
    frames.close()
    assert refused.value.code == "payload-too-long"


def test_no_input_is_copied_into_memory_of_ours(talk: Talk, tmp_path: Path) -> None:
    # One message of 256 MB with 128 MB of address space to spare: a copy would not fit.
    code = (
        "import mmap, resource\n"
        "from psymm import capi\n"
        "big = mmap.mmap(-1, 256 << 20)\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (128 << 20),) * 2)\n"
        "print(len(capi.keccak256_many([big])))\n"
    )
    if not sys.platform.startswith("linux"):
        pytest.skip("the address space is not counted here")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "32\n"), ran.stderr


def test_other_threads_run_during_a_call() -> None:
    gate, ran = threading.Lock(), []
    gate.acquire()
    thread = threading.Thread(target=lambda: ran.append(gate.acquire()), daemon=True)
    thread.start()
    interval = sys.getswitchinterval()
    # Nobody is made to let go of the interpreter's lock: who has it keeps it until it waits.
    sys.setswitchinterval(60)
    try:
        gate.release()
        before = list(ran)
        capi.keccak256_many([bytes(64 << 20)])
        after = list(ran)
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert (before, after) == ([], [True])


def test_the_example_verifies_a_mapped_file(talk: Talk, tmp_path: Path) -> None:
    file = tmp_path / "frames"
    file.write_bytes(talk.data)
    context = [talk.domain.hex(), talk.custody.hex(), *(key.hex() for key in talk.keys)]
    ran = subprocess.run(
        [sys.executable, str(HERE / "example.py"), str(file), *context],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"{len(talk.frames)} ")
    assert ran.stdout.strip().endswith(_core.keccak256(talk.data).hex())
