"""The live verifier: what came together is one batch, and nobody pays for another's frames."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import trio
import trio.testing

from psymm._core import (
    Frame,
    SecretKey,
    Transcript,
    TranscriptError,
    sign_frame,
)
from psymm.transcript import verifying
from psymm.transcript.verifying import Claim, FrameVerifier

DOMAIN = b"\x05" * 32
KEYS = [SecretKey.from_bytes(bytes([n + 1]) * 32) for n in range(8)]


def frame_of(n: int, seq: int = 1) -> Frame:
    """A frame of custody n, signed by key n."""
    custody = bytes([n]) * 32
    return sign_frame(
        KEYS[n], DOMAIN, custody, 0, seq, custody, 0, custody, seq, b"{}" + b" " * seq
    )


def forged(n: int) -> Frame:
    """A frame of custody n that another key signed."""
    custody = bytes([n]) * 32
    return sign_frame(KEYS[7], DOMAIN, custody, 0, 1, custody, 0, custody, 1, b"{}")


class Gate:
    """Holds every batch in its thread until it is let through."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._let = threading.Semaphore(0)
        self._reached = threading.Semaphore(0)

    def verify(self, claims: Sequence[Any], *, threads: int = 1) -> Any:
        self.sizes.append(len(claims))
        if len(claims) > 1 and threading.current_thread() is not threading.main_thread():
            self._reached.release()
            assert self._let.acquire(timeout=300)
        return self._verify(claims, threads=threads)

    _verify = staticmethod(verifying.verify_frames)

    async def reached(self) -> None:
        """A batch is in its thread."""
        assert await trio.to_thread.run_sync(lambda: self._reached.acquire(timeout=300))

    def open(self, batches: int = 1) -> None:
        self._let.release(batches)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(verifying, "verify_frames", gate.verify)
    yield gate
    gate.open(1000)


def claim(key: int, frame: Frame) -> Claim:
    """A frame as it comes from the wire, said to be signed by key number `key`."""
    return DOMAIN, KEYS[key].public_key, Frame.parse(frame.raw)


def taken(claimed: Claim) -> bytes | str:
    """What a transcript says of the frame under that key: its digest, or why it is refused."""
    domain, key, frame = claimed
    transcript = Transcript(domain, frame.custody)
    transcript.set_key(0, 1, key)
    try:
        return transcript.append(frame)
    except TranscriptError as refused:
        return refused.code


async def test_a_frame_that_comes_alone_is_left_to_the_transcript() -> None:
    verifier = FrameVerifier()
    for n in (1, 2, 3):
        claimed = claim(n, frame_of(n))
        await verifier.prefetch([claimed])
        assert taken(claimed) == frame_of(n).digest(DOMAIN)
    statistics = verifier.statistics()
    assert (statistics.frames, statistics.batches, statistics.left) == (0, 0, 3)


async def test_what_comes_together_is_one_batch_and_remembers_who_verified_it() -> None:
    verifier = FrameVerifier()
    claims = [claim(n, frame_of(n)) for n in range(5)]
    await verifier.prefetch(claims)
    assert [taken(one) for one in claims] == [frame_of(n).digest(DOMAIN) for n in range(5)]
    statistics = verifier.statistics()
    assert (statistics.frames, statistics.batches, statistics.sizes) == (5, 1, {8: 1})
    assert statistics.waiting == 0


async def test_a_batch_is_never_larger_than_was_said(gate: Gate) -> None:
    verifier = FrameVerifier(max_batch=3, short=1)
    gate.open(10)
    await verifier.prefetch([claim(0, frame_of(0, seq)) for seq in range(1, 9)])
    assert gate.sizes == [3, 3, 2]
    assert verifier.statistics().sizes == {2: 1, 4: 2}


async def test_a_long_batch_runs_in_a_thread_and_says_so_while_it_does(gate: Gate) -> None:
    verifier = FrameVerifier(short=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(verifier.prefetch, [claim(n, frame_of(n)) for n in range(3)])
        await gate.reached()
        assert verifier.statistics().waiting == 3
        gate.open()
    assert verifier.statistics().waiting == 0


async def test_a_short_batch_runs_where_it_is(gate: Gate) -> None:
    """With nobody to open the gate, a batch that went to a thread would stay there."""
    await FrameVerifier(short=3).prefetch([claim(n, frame_of(n)) for n in range(3)])
    assert gate.sizes == [3]


async def test_a_bad_frame_in_a_batch_is_refused_and_no_other() -> None:
    verifier = FrameVerifier()
    claims = [claim(0, forged(0)), claim(1, frame_of(1)), claim(2, frame_of(2))]
    await verifier.prefetch(claims)
    found = [taken(one) for one in claims]
    assert found == ["bad-signature", *(frame_of(n).digest(DOMAIN) for n in (1, 2))]
    assert verifier.statistics().refused == 1


async def test_a_key_that_spoiled_a_batch_is_left_alone_from_then_on(gate: Gate) -> None:
    verifier = FrameVerifier()
    await verifier.prefetch([claim(0, forged(0)), claim(2, frame_of(2))])
    assert verifier.statistics().spoilers == 1
    gate.sizes.clear()
    before = verifier.statistics()
    claims = [claim(0, frame_of(0)), claim(0, forged(0))]
    others = [claim(n, frame_of(n)) for n in (1, 2, 3)]
    await verifier.prefetch([*claims, *others])
    after = verifier.statistics()
    assert gate.sizes == [3]
    assert (after.left - before.left, after.frames - before.frames) == (2, 3)
    assert after.refused == before.refused
    assert [taken(one) for one in claims] == [frame_of(0).digest(DOMAIN), "bad-signature"]


async def test_a_frame_that_names_anothers_custody_does_not_make_it_a_spoiler() -> None:
    verifier = FrameVerifier()
    # Sent by the party of key 1, naming the custody of key 0.
    await verifier.prefetch([claim(1, forged(0)), claim(2, frame_of(2))])
    await verifier.prefetch([claim(n, frame_of(n)) for n in (0, 2)])
    assert verifier.statistics().sizes == {2: 2}


async def test_arguments_that_are_none_do_not_disturb_the_batch() -> None:
    verifier = FrameVerifier()
    claims = [claim(n, frame_of(n)) for n in range(3)]
    wrong: list[Claim] = [
        (DOMAIN, bytes(64), Frame.parse(frame_of(0).raw)),
        (b"", KEYS[0].public_key, Frame.parse(frame_of(0).raw)),
    ]
    await verifier.prefetch([*wrong, *claims])
    assert [taken(one) for one in claims] == [frame_of(n).digest(DOMAIN) for n in range(3)]
    assert verifier.statistics().refused == 0


async def test_the_task_that_has_a_batch_verified_is_cancelled_and_the_batch_is_not(
    gate: Gate,
) -> None:
    verifier = FrameVerifier(short=1)
    claims = [claim(n, frame_of(n)) for n in range(3)]
    scope = trio.CancelScope()

    async def leaving() -> None:
        with scope:
            await verifier.prefetch(claims)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leaving)
        await gate.reached()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
    assert verifier.statistics().frames == 3
    assert [taken(one) for one in claims] == [frame_of(n).digest(DOMAIN) for n in range(3)]


async def test_no_time_passes_before_a_frame_is_verified(
    mock_clock: trio.testing.MockClock,
) -> None:
    """Nothing waits for company: on a clock that stands still all get their verdicts."""
    before = trio.current_time()
    verifier = FrameVerifier()
    await verifier.prefetch([claim(n, frame_of(n)) for n in range(4)])
    assert verifier.statistics().frames == 4
    assert trio.current_time() == before


@pytest.mark.parametrize("bounds", [{"max_batch": 0}, {"threads": -1}])
def test_bounds_that_leave_no_room_are_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="room"):
        FrameVerifier(**bounds)


async def test_a_frame_that_is_shared_is_taken_only_under_the_key_that_is_in_force() -> None:
    """What was verified under one key counts for nothing under another."""
    claims = [claim(1, frame_of(1)), claim(2, frame_of(2))]
    await FrameVerifier().prefetch(claims)
    frame = claims[0][2]
    assert taken((DOMAIN, KEYS[2].public_key, frame)) == "bad-signature"
    assert taken((bytes(32), KEYS[1].public_key, frame)) == "bad-signature"
    assert taken(claims[0]) == frame_of(1).digest(DOMAIN)
