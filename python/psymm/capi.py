"""The C ABI from Python: the functions of `include/psymm.h`, over any buffer and without copies.

The header documents the functions (`header_path` is for C compilers); this module adds types and
exceptions. It calls them through cffi in the shared object of `psymm._core`. Contiguous `bytes`,
`bytearray`, `memoryview`, `mmap` and numpy arrays are read in place. Other threads run during a
call, and none may write to them. Items are stored back to back: n digests are 32n bytes, n keys
64n, n signatures 65n. `ValueError` is raised if the length is not a multiple of the item's, or if
two buffers hold different numbers of items; `TypeError` or `ValueError` if a buffer is not
contiguous.

`threads` is the number of threads, the calling one included; 0 means one for each core. Refusals
are raised or returned as each function says; `code` has the names of `psymm._core`.
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
    "FrameFields",
    "LaneHead",
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
    """A signature of a batch that is invalid, or that gives no key."""

    index: int
    code: str
    """``bad-r``, ``bad-s``, ``high-s``, ``bad-v``, ``no-key``, ``bad-r-y``, ``bad-signature``
    or ``no-such-key``."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """The result of recovering many signatures."""

    keys: bytes
    """64 bytes for each signature; zeros if it gives no key."""
    addresses: bytes
    """20 bytes for each signature; zeros if it gives no key."""
    refusals: list[RecoverRefusal]
    """The signatures without a key, and why."""


@dataclass(frozen=True, slots=True)
class FrameFields:
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
    """The number of frames before it."""
    frame_offset: int
    """The byte where the frame starts."""
    offset: int
    """The byte of the fault; for a malformed frame, that of the field."""
    lane: int
    seq: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of verifying the frames of one buffer."""

    digests: bytes
    """32 bytes for each valid frame, up to the first invalid one."""
    fault: FaultPlace | None
    """The first invalid frame; None if all are valid."""


@dataclass(frozen=True, slots=True)
class LaneHead:
    """The last frame of a lane; for an empty lane, the custody's id and zeros."""

    seq: int
    digest: bytes
    sending_time: int
    """Nanoseconds since the epoch."""
    peer_seq: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of verifying a whole transcript."""

    frames: int
    heads: tuple[LaneHead, LaneHead]
    """The trader's lane and the solver's."""


def include_dir() -> Path:
    """The directory for a C compiler's ``-I``: it holds ``psymm.h``."""
    return Path(__file__).with_name("include")


def header_path() -> Path:
    """The header, which specifies the ABI."""
    return include_dir() / "psymm.h"


def library_path() -> Path:
    """The shared object that exports the functions, which is the extension module's file. A program
    without Python links libpsymm instead."""
    return Path(str(_core.__file__))


def abi_version() -> tuple[int, int]:
    """The library's ABI version: (major, minor)."""
    version: int = _library.psymm_abi_version()
    return divmod(version, 1 << 16)


def backend() -> str:
    """The instructions in use: ``portable``, ``avx2`` or ``avx512``."""
    return _text(_library.psymm_backend())


def error_name(code: int) -> str:
    """The name of an ``enum psymm_code``, such as ``bad-version``; otherwise ``unknown``."""
    return _text(_library.psymm_error_name(code))


def error_message(code: int) -> str:
    """The meaning of an ``enum psymm_code``, as a sentence."""
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


def frame_parse(data: Buffer) -> FrameFields:
    """The frame at the start of ``data``; the next one, if any, starts after ``length`` bytes.

    The signature is not verified. Raises `FrameError`.
    """
    frame, fault = _ffi.new("psymm_frame *"), _ffi.new("psymm_fault *")
    with ExitStack() as borrowed:
        given = _borrow(borrowed, data)
        code = _library.psymm_frame_parse(given, len(given), frame, fault)
    if code:
        _refuse(code, fault)
    return FrameFields(
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
    """The invalid signatures, in order; an empty list only if all are valid.

    Args:
        key_indices: the index of each signature's key, as native unsigned 32-bit numbers; None: all
            are by key 0.
        r_ys: 32 bytes for each signature, the y of its point R, which saves a square root each.

    Raises `SignatureError` ``bad-public-key`` if a key is invalid.
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
    """The keys and addresses that made the signatures: ecrecover for each, with low s only."""
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
    """Verify frames of many custodies in one batch; one verdict for each buffer.

    Each buffer holds frames back to back, of one domain (32 bytes of ``domains``) and one key (64
    bytes of ``keys``). Form and signatures are checked, but not the hash chain.
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
    found, start = [], 0
    for verdict in verdicts:
        end = start + 32 * verdict.index
        found.append(Verdict(bytes(digests[start:end]), _place(verdict) if verdict.code else None))
        start = end
    return found


def verify_transcript(
    data: Buffer,
    domain: Buffer,
    custody: Buffer,
    keys: Sequence[tuple[int, int, Buffer]],
    *,
    threads: int = 1,
) -> Summary:
    """Verify the frames of a custody, stored back to back.  keys: (lane, from seq, key) each.

    Raises like `psymm._core.verify_transcript`: `FrameError` for a malformed frame, with the
    field's offset; `TranscriptError` for a frame that does not continue its lane or is not signed
    by the key in force, with the frame's offset; all frames before it are valid.
    `SignatureError` ``bad-public-key`` if a key is invalid.
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
            f"psymm.h has ABI {ours}, the extension module {theirs}; install psymm again"
        )
    return ffi, library


_ffi, _library = _open()
_OVERHEAD: Final[int] = _library.PSYMM_FRAME_OVERHEAD


def _text(chars: Any) -> str:
    return bytes(_ffi.string(chars)).decode("ascii")


def _borrow(borrowed: ExitStack, data: Buffer) -> Any:
    """A buffer's bytes in place, held until the call is over."""
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


def _head(head: Any) -> LaneHead:
    return LaneHead(head.seq, bytes(head.digest), head.sending_time, head.peer_seq)


def _place(fault: Any) -> FaultPlace:
    name = error_name(fault.code)
    return FaultPlace(name, fault.index, fault.frame_offset, fault.offset, fault.lane, fault.seq)


def _refuse(code: int, fault: Any = None) -> NoReturn:
    """Raise what the core raises for a code."""
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
