"""The C ABI, from Python: what `include/psymm.h` says, over any buffer and without copies.

The functions are those of the header, which `header_path` gives to whoever compiles C against
it; here are only types and exceptions. They are called through cffi in the very shared object
that `psymm._core` is. `bytes`, `bytearray`, `memoryview`, `mmap` and numpy arrays are read where
they are, if they are contiguous; nobody may write to them meanwhile, since other threads run
during a call. Items are back to back: n digests are 32n bytes, n keys 64n, n signatures 65n.
Bytes that are no whole number of items, or of fewer items than others, raise `ValueError`; what
is no contiguous buffer raises `TypeError` or `ValueError`.

`threads` is how many may work, the calling one included; 0 means one for each core. Refusals
raise or are returned as each function says; `code` names them as `psymm._core` does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from cffi import FFI

from psymm import _core
from psymm._core import CoreError, FrameError, SignatureError, TranscriptError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "FaultPlace",
    "Frame",
    "Head",
    "RecoverRefusal",
    "Recovered",
    "Summary",
    "Verdict",
    "abi_version",
    "backend",
    "error_message",
    "error_name",
    "frame_digest_many",
    "frame_parse",
    "header_path",
    "include_dir",
    "keccak256_many",
    "library_path",
    "recover_batch",
    "verify_batch",
    "verify_frames",
    "verify_transcript",
]


@dataclass(frozen=True, slots=True)
class RecoverRefusal:
    """A signature of a batch that does not hold, or gave no key."""

    index: int
    code: str
    """``bad-r``, ``bad-s``, ``high-s``, ``bad-v``, ``no-key``, ``bad-r-y``, ``bad-signature``
    or ``no-such-key``."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What many signatures gave."""

    keys: bytes
    """64 bytes a signature; zeros where there is no key."""
    addresses: bytes
    """20 bytes a signature; zeros likewise."""
    refusals: list[RecoverRefusal]
    """Where there is none, and why."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The fields of a frame. Its payload is ``data[126 : 126 + payload_length]``."""

    length: int
    """The bytes of the whole frame."""
    custody: bytes
    lane: int
    """0 trader, 1 solver."""
    seq: int
    previous: bytes
    peer_seq: int
    peer_digest: bytes
    sending_time: int
    """Nanoseconds since the epoch."""
    payload_length: int
    signature: bytes
    """r ‖ s ‖ v, 65 bytes."""
    r_y: bytes


@dataclass(frozen=True, slots=True)
class FaultPlace:
    """Which frame of a buffer is refused, and why."""

    code: str
    index: int
    """How many frames came before."""
    frame_offset: int
    """Where it begins, in bytes."""
    offset: int
    """The byte at which it goes wrong: of a malformed frame the very field."""
    lane: int
    seq: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the frames of one buffer came to."""

    digests: bytes
    """32 bytes for each frame that holds, up to the first that does not."""
    fault: FaultPlace | None
    """The first that does not; None if all hold."""


@dataclass(frozen=True, slots=True)
class Head:
    """The last frame of a lane. Of an empty lane: the custody's id, and zeros."""

    seq: int
    digest: bytes
    sending_time: int
    """Nanoseconds since the epoch."""
    peer_seq: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What a whole transcript came to."""

    frames: int
    heads: tuple[Head, Head]
    """Of the trader's lane and the solver's."""


def include_dir() -> Path:
    """The directory for a C compiler's ``-I``: it holds ``psymm.h``."""
    return Path(__file__).with_name("include")


def header_path() -> Path:
    """The header, which is the specification."""
    return include_dir() / "psymm.h"


def library_path() -> Path:
    """The shared object that exports the functions: the extension module's own file. A program
    that has no Python in it links libpsymm instead."""
    return Path(str(_core.__file__))


def abi_version() -> tuple[int, int]:
    """Major and minor version of the ABI that the library has."""
    version: int = _library.psymm_abi_version()
    return divmod(version, 1 << 16)


def backend() -> str:
    """The instructions in use: ``portable``, ``avx2`` or ``avx512``."""
    return _text(_library.psymm_backend())


def error_name(code: int) -> str:
    """The name of a number of ``enum psymm_code``, such as ``bad-version``; else ``unknown``."""
    return _text(_library.psymm_error_name(code))


def error_message(code: int) -> str:
    """What a number of ``enum psymm_code`` means, in a sentence."""
    text = _ffi.new("char[]", _library.psymm_error_message(code, _ffi.NULL, 0) + 1)
    _library.psymm_error_message(code, text, len(text))
    return _text(text)


def keccak256_many(messages: Sequence[Buffer]) -> bytes:
    """The Keccak-256 digests of many messages, 32 bytes each, in their order."""
    digests = bytearray(32 * len(messages))
    with ExitStack() as borrowed:
        pointers, lengths = _byte_strings(borrowed, messages)
        code = _library.psymm_keccak256_many(
            pointers, lengths, len(messages), _room(borrowed, digests)
        )
    if code:
        _refuse(code)
    return bytes(digests)


def frame_parse(data: Buffer) -> Frame:
    """The one frame that ``data`` begins with; the next, if any, starts ``length`` bytes on.

    Its signature is not verified. Raises `FrameError`.
    """
    frame, fault = _ffi.new("psymm_frame *"), _ffi.new("psymm_fault *")
    with ExitStack() as borrowed:
        given = _borrow(borrowed, data)
        code = _library.psymm_frame_parse(given, len(given), frame, fault)
    if code:
        _refuse(code, fault)
    return Frame(
        length=frame.length,
        custody=bytes(frame.custody),
        lane=frame.lane,
        seq=frame.seq,
        previous=bytes(frame.previous),
        peer_seq=frame.peer_seq,
        peer_digest=bytes(frame.peer_digest),
        sending_time=frame.sending_time,
        payload_length=frame.payload_length,
        signature=bytes(frame.signature),
        r_y=bytes(frame.r_y),
    )


def frame_digest_many(data: Buffer, domain: Buffer) -> bytes:
    """The EIP-712 digests of frames back to back, 32 bytes each; no signature is verified.

    Raises `FrameError`, its offset counted from the start of ``data``.
    """
    count, fault = _ffi.new("size_t *"), _ffi.new("psymm_fault *")
    with ExitStack() as borrowed:
        given = _borrow(borrowed, data)
        digests = bytearray(32 * (len(given) // _OVERHEAD))
        code = _library.psymm_frame_digest_many(
            given,
            len(given),
            _one(borrowed, "domain", domain, 32),
            _room(borrowed, digests),
            len(digests) // 32,
            count,
            fault,
        )
    if code:
        _refuse(code, fault)
    return bytes(digests[: 32 * count[0]])


def verify_batch(
    keys: Buffer,
    digests: Buffer,
    signatures: Buffer,
    *,
    key_indices: Buffer | None = None,
    r_ys: Buffer | None = None,
    threads: int = 1,
) -> list[RecoverRefusal]:
    """Which signatures do not hold, in their order: an empty list only if all do.

    ``key_indices``: each signature's place among the keys, as native 32-bit numbers without a
    sign; without it all are of key 0. ``r_ys``: 32 bytes a signature, the y of its point R,
    which saves a square root each. Raises `SignatureError` ``bad-public-key`` if a key is none.
    """
    refused = _ffi.new("size_t *")
    with ExitStack() as borrowed:
        ours, key_count = _items(borrowed, "keys", keys, 64)
        over, count = _items(borrowed, "digests", digests, 32)
        refusals = _ffi.new("psymm_refusal[]", count)
        code = _library.psymm_verify_batch(
            ours,
            key_count,
            over,
            _just(borrowed, "signatures", signatures, 65, count),
            _numbers(borrowed, key_indices, count),
            _ffi.NULL if r_ys is None else _just(borrowed, "r_ys", r_ys, 32, count),
            count,
            threads,
            refusals,
            count,
            refused,
        )
    if code not in (_library.PSYMM_OK, _library.PSYMM_REFUSED):
        _refuse(code)
    found = (refusals[place] for place in range(refused[0]))
    return [RecoverRefusal(refusal.index, error_name(refusal.code)) for refusal in found]


def recover_batch(digests: Buffer, signatures: Buffer, *, threads: int = 1) -> Recovered:
    """The keys and addresses that made many signatures: ecrecover for each, with low s only."""
    with ExitStack() as borrowed:
        over, count = _items(borrowed, "digests", digests, 32)
        keys, addresses = bytearray(64 * count), bytearray(20 * count)
        codes = _ffi.new("int32_t[]", count)
        code = _library.psymm_recover_batch(
            over,
            _just(borrowed, "signatures", signatures, 65, count),
            count,
            threads,
            _room(borrowed, keys),
            _room(borrowed, addresses),
            codes,
        )
    if code not in (_library.PSYMM_OK, _library.PSYMM_REFUSED):
        _refuse(code)
    refusals = [RecoverRefusal(place, error_name(why)) for place, why in enumerate(codes) if why]
    return Recovered(bytes(keys), bytes(addresses), refusals)


def verify_frames(
    buffers: Sequence[Buffer], domains: Buffer, keys: Buffer, *, threads: int = 1
) -> list[Verdict]:
    """Verifies frames of many custodies as they came, in one batch, and gives one verdict a
    buffer.

    Each buffer holds frames back to back of one domain (32 bytes of ``domains``) and one key
    (64 bytes of ``keys``). Form and signatures are checked; what a frame follows from is not.
    """
    with ExitStack() as borrowed:
        count = len(buffers)
        pointers, lengths = _byte_strings(borrowed, buffers)
        digests = bytearray(32 * sum(length // _OVERHEAD for length in lengths))
        verdicts = _ffi.new("psymm_fault[]", count)
        code = _library.psymm_verify_frames(
            pointers,
            lengths,
            _just(borrowed, "domains", domains, 32, count),
            _just(borrowed, "keys", keys, 64, count),
            count,
            threads,
            _room(borrowed, digests),
            len(digests) // 32,
            verdicts,
        )
    if code not in (_library.PSYMM_OK, _library.PSYMM_REFUSED):
        _refuse(code)
    told, start = [], 0
    for verdict in verdicts:
        end = start + 32 * verdict.index
        told.append(Verdict(bytes(digests[start:end]), _place(verdict) if verdict.code else None))
        start = end
    return told


def verify_transcript(
    data: Buffer,
    domain: Buffer,
    custody: Buffer,
    keys: Sequence[tuple[int, int, Buffer]],
    *,
    threads: int = 1,
) -> Summary:
    """Verifies the frames of a custody back to back. Keys are (lane, from seq, key).

    Raises as `psymm._core.verify_transcript` does: `FrameError` for a malformed frame, its
    offset that of the very field; `TranscriptError` for one that does not follow or is not
    signed by the key in force, its offset that of the frame; frames before it were right.
    `SignatureError` ``bad-public-key`` if a key is none.
    """
    summary, fault = _ffi.new("psymm_summary *"), _ffi.new("psymm_fault *")
    ruling = _ffi.new("psymm_lane_key[]", len(keys))
    for given, (lane, from_seq, key) in zip(ruling, keys, strict=True):
        given.lane, given.from_seq = lane, from_seq
        with ExitStack() as borrowed:
            _ffi.memmove(given.public_key, _one(borrowed, "a key", key, 64), 64)
    with ExitStack() as borrowed:
        frames = _borrow(borrowed, data)
        code = _library.psymm_verify_transcript(
            frames,
            len(frames),
            _one(borrowed, "domain", domain, 32),
            _one(borrowed, "custody", custody, 32),
            ruling,
            len(keys),
            threads,
            summary,
            fault,
        )
    if code:
        _refuse(code, fault)
    trader, solver = (_head(head) for head in summary.heads)
    return Summary(summary.frames, (trader, solver))


def _declarations(header: str) -> str:
    """The header without what cffi does not read: conditions, inclusions and ``extern "C"``."""
    header = re.sub(r"#ifdef __cplusplus.*?#endif", "", header, flags=re.DOTALL)
    return re.sub(r"^#(?!define \w+ \d).*$", "", header, flags=re.MULTILINE)


def _open() -> tuple[Any, Any]:
    ffi = FFI()
    ffi.cdef(_declarations(header_path().read_text("ascii")))
    library = ffi.dlopen(str(library_path()))
    ours = divmod(library.PSYMM_ABI_VERSION, 1 << 16)
    theirs = divmod(library.psymm_abi_version(), 1 << 16)
    if ours[0] != theirs[0] or ours[1] > theirs[1]:
        raise ImportError(
            f"psymm.h is of ABI {ours}, the extension module of {theirs}; install psymm again"
        )
    return ffi, library


_ffi, _library = _open()
_OVERHEAD: Final[int] = _library.PSYMM_FRAME_OVERHEAD


def _text(chars: Any) -> str:
    return bytes(_ffi.string(chars)).decode("ascii")


def _borrow(borrowed: ExitStack, data: Buffer) -> Any:
    """A buffer's bytes where they are, held until the call is over even if it raises."""
    return borrowed.enter_context(_ffi.from_buffer("uint8_t[]", data))


def _room(borrowed: ExitStack, output: bytearray) -> Any:
    return borrowed.enter_context(_ffi.from_buffer("uint8_t[]", output, require_writable=True))


def _items(borrowed: ExitStack, what: str, data: Buffer, size: int) -> tuple[Any, int]:
    given = _borrow(borrowed, data)
    if len(given) % size:
        raise ValueError(f"{what} must be {size} bytes each, and there are {len(given)} bytes")
    return given, len(given) // size


def _just(borrowed: ExitStack, what: str, data: Buffer, size: int, count: int) -> Any:
    given, there = _items(borrowed, what, data, size)
    if there != count:
        raise ValueError(f"{there} {what} are given for {count} items")
    return given


def _one(borrowed: ExitStack, what: str, data: Buffer, size: int) -> Any:
    given = _borrow(borrowed, data)
    if len(given) != size:
        raise ValueError(f"{what} must be {size} bytes, not {len(given)}")
    return given


def _numbers(borrowed: ExitStack, data: Buffer | None, count: int) -> Any:
    if data is None:
        return _ffi.NULL
    with memoryview(data) as seen:
        if seen.itemsize != 4 or seen.format not in ("I", "L", "=I", "@I"):
            raise TypeError("key_indices must be native 32-bit numbers without a sign")
        if seen.nbytes != 4 * count:
            raise ValueError(f"{seen.nbytes // 4} key_indices are given for {count} items")
    return borrowed.enter_context(_ffi.from_buffer("uint32_t[]", data))


def _byte_strings(borrowed: ExitStack, strings: Sequence[Buffer]) -> tuple[Any, Any]:
    given = [_borrow(borrowed, string) for string in strings]
    pointers = _ffi.new("uint8_t *[]", given)
    return pointers, _ffi.new("size_t[]", [len(string) for string in given])


def _head(head: Any) -> Head:
    return Head(head.seq, bytes(head.digest), head.sending_time, head.peer_seq)


def _place(fault: Any) -> FaultPlace:
    name = error_name(fault.code)
    return FaultPlace(name, fault.index, fault.frame_offset, fault.offset, fault.lane, fault.seq)


def _refuse(code: int, fault: Any = None) -> NoReturn:
    """Raises what the core would raise for a code."""
    said = error_message(code)
    error: CoreError
    if code == _library.PSYMM_BAD_PUBLIC_KEY or fault is None:
        error = SignatureError(said) if code == _library.PSYMM_BAD_PUBLIC_KEY else CoreError(said)
    elif 100 <= code < 300 and code != _library.PSYMM_BAD_SIGNATURE:
        error = FrameError(f"frame {fault.index}, at byte {fault.offset}: {said}")
        error.offset = fault.offset
    elif code == _library.PSYMM_BAD_SIGNATURE or 300 <= code < 400:
        where = f"frame {fault.index} (byte {fault.frame_offset}), lane {fault.lane}"
        error = TranscriptError(f"{where} seq {fault.seq}: {said}")
        error.index, error.offset = fault.index, fault.frame_offset
        error.lane, error.seq = fault.lane, fault.seq
    elif 400 <= code < 500:
        error = TranscriptError(f"key {fault.index}: {said}")
        error.lane, error.seq = fault.lane, fault.seq
    else:
        error = CoreError(said)
    error.code = error_name(code)
    raise error
