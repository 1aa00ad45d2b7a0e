"""The live verifier: alone when idle, together under load, and nobody pays for another's frames."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import trio
import trio.testing

from psymm._core import (
    Frame,
    FrameError,
    SecretKey,
    SignatureError,
    Transcript,
    TranscriptError,
    sign_frame,
)
from psymm.transcript import verifying
from psymm.transcript.verifying import FrameVerifier

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


Told = dict[object, bytes | Exception]


def asking(verifier: FrameVerifier, told: Told) -> Callable[[object, int, Frame | bytes], Any]:
    async def ask(name: object, key: int, frame: Frame | bytes) -> None:
        try:
            told[name] = await verifier.verify(DOMAIN, KEYS[key].public_key, frame)
        except (FrameError, SignatureError, ValueError) as error:
            told[name] = error

    return ask


async def test_when_idle_a_frame_is_verified_alone() -> None:
    verifier = FrameVerifier(short=1)
    for seq in (1, 2, 3):
        frame = frame_of(0, seq)
        assert await verifier.verify(DOMAIN, KEYS[0].public_key, frame) == frame.digest(DOMAIN)
    statistics = verifier.statistics()
    assert (statistics.frames, statistics.alone, statistics.batches) == (3, 3, 0)


async def test_a_frame_that_does_not_stand_raises_as_it_would_alone() -> None:
    verifier = FrameVerifier(short=1)
    with pytest.raises(FrameError) as caught:
        await verifier.verify(DOMAIN, KEYS[0].public_key, forged(0))
    assert caught.value.code == "bad-signature"
    with pytest.raises(FrameError) as caught:
        await verifier.verify(DOMAIN, KEYS[0].public_key, frame_of(0).raw[:-1])
    assert caught.value.code == "truncated"
    with pytest.raises(SignatureError):
        await verifier.verify(DOMAIN, bytes(64), frame_of(0))
    with pytest.raises(ValueError, match="domain"):
        await verifier.verify(b"", KEYS[0].public_key, frame_of(0))
    assert verifier.statistics().refused == 2


async def test_what_comes_together_is_one_batch() -> None:
    verifier = FrameVerifier(short=1)
    told: Told = {}
    ask = asking(verifier, told)
    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(ask, n, n, frame_of(n).raw)
    assert told == {n: frame_of(n).digest(DOMAIN) for n in range(5)}
    statistics = verifier.statistics()
    assert (statistics.batches, statistics.sizes, statistics.alone) == (1, {8: 1}, 0)
    assert statistics.waiting == 0


async def test_what_comes_while_a_batch_runs_is_the_next_batch(gate: Gate) -> None:
    verifier = FrameVerifier(short=1)
    told: Told = {}
    ask = asking(verifier, told)
    async with trio.open_nursery() as nursery:
        for n in (0, 1):
            nursery.start_soon(ask, n, n, frame_of(n))
        await gate.reached()
        for seq in range(2, 7):
            nursery.start_soon(ask, seq, 0, frame_of(0, seq))
            await trio.testing.wait_all_tasks_blocked()
        assert not told
        assert verifier.statistics().waiting == 5
        gate.open(2)
    assert gate.sizes == [2, 5]
    assert len(told) == 7
    assert all(isinstance(verdict, bytes) for verdict in told.values())


async def test_a_batch_is_never_larger_than_was_said(gate: Gate) -> None:
    verifier = FrameVerifier(max_batch=3, short=1)
    told: Told = {}
    ask = asking(verifier, told)
    gate.open(10)
    async with trio.open_nursery() as nursery:
        for seq in range(1, 9):
            nursery.start_soon(ask, seq, 0, frame_of(0, seq))
    assert gate.sizes == [3, 3, 2]
    assert len(told) == 8


async def test_a_full_queue_makes_callers_wait(gate: Gate) -> None:
    verifier = FrameVerifier(max_waiting=3, short=1)
    told: Told = {}
    ask = asking(verifier, told)
    async with trio.open_nursery() as nursery:
        for seq in range(1, 8):
            nursery.start_soon(ask, seq, 0, frame_of(0, seq))
        await gate.reached()
        await trio.testing.wait_all_tasks_blocked()
        # Three are in the batch, so there is room for none.
        assert verifier.statistics().waiting == 0
        gate.open(10)
    assert max(gate.sizes) == 3
    assert len(told) == 7


async def test_a_bad_frame_in_a_batch_is_told_to_its_sender_alone() -> None:
    verifier = FrameVerifier(short=1)
    told: Told = {}
    ask = asking(verifier, told)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "bad", 0, forged(0))
        nursery.start_soon(ask, "cut", 1, frame_of(1).raw[:50])
        nursery.start_soon(ask, "good", 2, frame_of(2))
        nursery.start_soon(ask, "no domain", 3, b"")
    assert isinstance(told["bad"], FrameError)
    assert told["bad"].code == "bad-signature"
    assert isinstance(told["cut"], FrameError)
    assert told["good"] == frame_of(2).digest(DOMAIN)


async def test_a_key_that_spoiled_a_batch_is_verified_alone_from_then_on(gate: Gate) -> None:
    verifier = FrameVerifier(short=1)
    told: Told = {}
    ask = asking(verifier, told)
    gate.open(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "bad", 0, forged(0))
        nursery.start_soon(ask, "cut", 1, frame_of(1).raw[:50])
        nursery.start_soon(ask, "good", 2, frame_of(2))
    assert verifier.statistics().spoilers == 1
    gate.sizes.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "right again", 0, frame_of(0))
        nursery.start_soon(ask, "bad again", 0, forged(0))
        for n in (1, 2, 3):
            nursery.start_soon(ask, n, n, frame_of(n))
    assert sorted(gate.sizes) == [1, 1, 3]
    assert told["right again"] == frame_of(0).digest(DOMAIN)
    assert isinstance(told["bad again"], FrameError)
    assert verifier.statistics().alone == 2


async def test_a_frame_that_names_anothers_custody_does_not_make_it_a_spoiler() -> None:
    verifier = FrameVerifier(short=1)
    told: Told = {}
    ask = asking(verifier, told)
    async with trio.open_nursery() as nursery:
        # Sent by the party of key 1, naming the custody of key 0.
        nursery.start_soon(ask, "forged", 1, forged(0))
        nursery.start_soon(ask, "good", 2, frame_of(2))
    async with trio.open_nursery() as nursery:
        for n in (0, 2):
            nursery.start_soon(ask, n, n, frame_of(n))
    assert verifier.statistics().sizes == {2: 2}


async def test_arguments_that_are_none_do_not_disturb_the_batch() -> None:
    verifier = FrameVerifier(short=1)
    told: Told = {}
    ask = asking(verifier, told)
    failed: list[Exception] = []

    async def wrong() -> None:
        try:
            await verifier.verify(DOMAIN, bytes(64), frame_of(0))
        except SignatureError as error:
            failed.append(error)

    async with trio.open_nursery() as nursery:
        for n in range(3):
            nursery.start_soon(ask, n, n, frame_of(n))
        nursery.start_soon(wrong)
    assert len(failed) == 1
    assert told == {n: frame_of(n).digest(DOMAIN) for n in range(3)}


async def test_one_who_waits_and_is_cancelled_leaves_the_others_as_they_were(gate: Gate) -> None:
    verifier = FrameVerifier(short=1)
    told: Told = {}
    ask = asking(verifier, told)
    scopes = [trio.CancelScope() for _ in range(3)]

    async def leaving(n: int) -> None:
        with scopes[n]:
            await ask(("leaving", n), 3, frame_of(3, n + 1))

    async with trio.open_nursery() as nursery:
        for n in (0, 1):
            nursery.start_soon(ask, n, n, frame_of(n))
        await gate.reached()
        # The first in line would lead the next batch.
        nursery.start_soon(leaving, 0)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, 2, 2, frame_of(2))
        nursery.start_soon(leaving, 1)
        nursery.start_soon(ask, 3, 2, frame_of(2, 2))
        await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        scopes[1].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert verifier.statistics().waiting == 2
        gate.open(5)
    assert set(told) == {0, 1, 2, 3}
    assert gate.sizes == [2, 2]


async def test_a_leader_that_is_cancelled_as_it_is_woken_hands_over(gate: Gate) -> None:
    verifier = FrameVerifier(short=1)
    told: Told = {}
    ask = asking(verifier, told)
    scope = trio.CancelScope()

    async def leaving() -> None:
        with scope:
            await ask("leaving", 3, frame_of(3))

    async def first() -> None:
        await ask(0, 0, frame_of(0))
        # In the round in which the next leader was woken, or is about to be.
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        nursery.start_soon(ask, 1, 1, frame_of(1))
        await gate.reached()
        nursery.start_soon(leaving)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, 2, 2, frame_of(2))
        await trio.testing.wait_all_tasks_blocked()
        gate.open(5)
    assert {0, 1, 2} <= set(told)
    assert verifier.statistics().waiting == 0
    assert await verifier.verify(DOMAIN, KEYS[0].public_key, frame_of(0))


async def test_everybody_cancelled_at_once_leaves_an_idle_verifier() -> None:
    verifier = FrameVerifier(short=1)
    for rounds in range(6):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for n in range(6):
                    nursery.start_soon(verifier.verify, DOMAIN, KEYS[n].public_key, frame_of(n))
                for _ in range(rounds):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        assert verifier.statistics().waiting == 0
    frame = frame_of(1)
    with trio.fail_after(300):
        assert await verifier.verify(DOMAIN, KEYS[1].public_key, frame) == frame.digest(DOMAIN)


async def test_the_task_that_runs_a_batch_is_cancelled_and_the_batch_is_not(gate: Gate) -> None:
    verifier = FrameVerifier(short=1)
    told: Told = {}
    ask = asking(verifier, told)
    scope = trio.CancelScope()

    async def leaving() -> None:
        with scope:
            await ask("leading", 0, frame_of(0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leaving)
        await trio.lowlevel.checkpoint()
        for n in (1, 2):
            nursery.start_soon(ask, n, n, frame_of(n))
        await gate.reached()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        gate.open(5)
    assert {1, 2} <= set(told)


async def test_no_time_passes_before_a_frame_is_verified(
    mock_clock: trio.testing.MockClock,
) -> None:
    """Nothing waits for company: on a clock that stands still all get their verdicts."""
    verifier = FrameVerifier(short=1)
    told: Told = {}
    ask = asking(verifier, told)
    before = trio.current_time()
    async with trio.open_nursery() as nursery:
        for n in range(4):
            nursery.start_soon(ask, n, n, frame_of(n))
    await ask("alone", 0, frame_of(0))
    assert len(told) == 5
    assert trio.current_time() == before


@pytest.mark.parametrize("bounds", [{"max_batch": 0}, {"max_waiting": 0}, {"threads": -1}])
def test_bounds_that_leave_no_room_are_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="room"):
        FrameVerifier(**bounds)


async def test_a_short_batch_runs_where_it_is(gate: Gate) -> None:
    """With nobody to open the gate, a batch that went to a thread would stay there."""
    verifier = FrameVerifier(short=3)
    told: Told = {}
    async with trio.open_nursery() as nursery:
        for n in range(3):
            nursery.start_soon(asking(verifier, told), n, n, frame_of(n))
    assert gate.sizes == [3]
    assert all(isinstance(told[n], bytes) for n in range(3))


async def test_frames_that_are_shared_remember_who_verified_them() -> None:
    verifier = FrameVerifier()
    frames = [Frame.parse(frame_of(n).raw) for n in range(1, 4)]
    async with trio.open_nursery() as nursery:
        for n, frame in enumerate(frames, 1):
            nursery.start_soon(verifier.prefetch, DOMAIN, KEYS[n].public_key, [frame])
    assert verifier.statistics().sizes == {4: 1}
    for n, frame in enumerate(frames, 1):
        transcript = Transcript(DOMAIN, frame.custody)
        transcript.set_key(0, 1, KEYS[n].public_key)
        assert transcript.append(frame) == frame.digest(DOMAIN)


async def test_a_frame_that_is_shared_is_taken_only_under_the_key_that_is_in_force() -> None:
    """What was verified under one key counts for nothing under another."""
    verifier = FrameVerifier()
    frame, other = Frame.parse(frame_of(1).raw), Frame.parse(frame_of(2).raw)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(verifier.prefetch, DOMAIN, KEYS[1].public_key, [frame])
        nursery.start_soon(verifier.prefetch, DOMAIN, KEYS[2].public_key, [other])
    transcript = Transcript(DOMAIN, frame.custody)
    transcript.set_key(0, 1, KEYS[2].public_key)
    with pytest.raises(TranscriptError) as refused:
        transcript.append(frame)
    assert refused.value.code == "bad-signature"
    elsewhere = Transcript(bytes(32), frame.custody)
    elsewhere.set_key(0, 1, KEYS[1].public_key)
    with pytest.raises(TranscriptError) as refused:
        elsewhere.append(frame)
    assert refused.value.code == "bad-signature"


async def test_who_spoils_a_shared_batch_is_left_alone_from_then_on() -> None:
    verifier = FrameVerifier()

    async def share(frame: Frame, of: int) -> None:
        await verifier.prefetch(DOMAIN, KEYS[of].public_key, [frame])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(share, Frame.parse(forged(1).raw), 1)
        nursery.start_soon(share, Frame.parse(frame_of(2).raw), 2)
    assert verifier.statistics().spoilers == 1
    before = verifier.statistics()
    async with trio.open_nursery() as nursery:
        for frame in (forged(1), frame_of(1)):
            nursery.start_soon(share, Frame.parse(frame.raw), 1)
        for n in (2, 3):
            nursery.start_soon(share, Frame.parse(frame_of(n).raw), n)
    after = verifier.statistics()
    assert after.left - before.left == 2
    assert after.frames - before.frames == 2
    assert after.refused == before.refused


async def test_a_message_of_many_frames_is_a_batch_by_itself() -> None:
    verifier = FrameVerifier(max_batch=2)
    frames = [Frame.parse(frame_of(1).raw) for _ in range(5)]
    await verifier.prefetch(DOMAIN, KEYS[1].public_key, frames)
    assert verifier.statistics().sizes == {2: 2}
    assert verifier.statistics().alone == 1
    assert verifier.statistics().frames == 5
