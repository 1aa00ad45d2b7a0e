"""Rounds: what comes at one moment is received together, and nobody waits for another's trouble."""

from __future__ import annotations

import trio
import trio.testing

from psymm._core import Frame, SecretKey, sign_frame
from psymm.session.protocol import FrameBatch
from psymm.session.runtime.rounds import MOST_TOGETHER, Inlet, Item, Rounds
from psymm.transcript.verifying import Claim, FrameVerifier

DOMAIN = b"\x05" * 32
KEY = SecretKey.from_bytes(b"\x01" * 32)


def frame_of(seq: int) -> Frame:
    custody = bytes(32)
    return Frame.parse(
        sign_frame(KEY, DOMAIN, custody, 0, seq, custody, 0, custody, seq, b"{}").raw
    )


class Disk:
    """A journal before which nothing stands, unless it is shut."""

    def __init__(self) -> None:
        self.shut = False
        self.opened = trio.Event()

    @property
    def has_room(self) -> bool:
        return not self.shut

    async def yield_to_commit(self) -> None:
        if self.shut:
            await self.opened.wait()


class Time:
    """A clock that says how often it was read."""

    def __init__(self) -> None:
        self.now = 0

    def now_ns(self) -> int:
        self.now += 1
        return self.now


class Session:
    """Keeps what it received: (what, when)."""

    def __init__(self, rounds: Rounds) -> None:
        self.received: list[tuple[Item, int]] = []
        self.room = True
        self.bug: Exception | None = None
        self.failures: list[Exception] = []
        self.inlet = Inlet(rounds, self)

    def add_claims(self, batch: FrameBatch, claims: list[Claim]) -> None:
        claims += [(DOMAIN, KEY.public_key, frame) for frame in batch.frames]

    def receive(self, item: Item, now_ns: int) -> bool:
        if self.bug is not None:
            raise self.bug
        self.received.append((item, now_ns))
        return self.room

    def failed(self, bug: Exception) -> None:
        self.failures.append(bug)


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_what_came_at_one_moment_has_one_time_and_is_one_batch() -> None:
    verifier = FrameVerifier()
    rounds = Rounds(Disk(), Time(), verifier)
    sessions = [Session(rounds) for _ in range(5)]
    for seq, session in enumerate(sessions, 1):
        await session.inlet.put(FrameBatch([frame_of(seq)], 0, None))
    await settle()
    assert {now for session in sessions for _, now in session.received} == {1}
    assert verifier.statistics().sizes == {8: 1}


async def test_a_round_has_no_more_connections_than_was_said() -> None:
    rounds = Rounds(Disk(), Time(), FrameVerifier())
    sessions = [Session(rounds) for _ in range(2 * MOST_TOGETHER + 1)]
    for session in sessions:
        await session.inlet.put("text")
    await settle()
    times = [now for session in sessions for _, now in session.received]
    assert [times.count(now) for now in (1, 2, 3)] == [MOST_TOGETHER, MOST_TOGETHER, 1]


async def test_what_one_connection_brings_keeps_its_order_one_in_a_round() -> None:
    rounds = Rounds(Disk(), Time(), FrameVerifier())
    session, other = Session(rounds), Session(rounds)

    async def bring() -> None:
        for n in range(4):
            await session.inlet.put(str(n))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bring)
        await other.inlet.put("text")
    await settle()
    assert [item for item, _ in session.received] == ["0", "1", "2", "3"]
    assert len({now for _, now in session.received}) == 4
    assert len(other.received) == 1


async def test_nothing_more_is_taken_of_a_session_without_room_and_all_of_others() -> None:
    rounds = Rounds(Disk(), Time(), FrameVerifier())
    full, other = Session(rounds), Session(rounds)
    full.room = False
    left = list[int]()

    async def bring() -> None:
        for n in range(3):
            await full.inlet.put(str(n))
            left.append(n)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bring)
        await settle()
        await other.inlet.put("text")
        await settle()
        assert ([item for item, _ in full.received], left) == (["0"], [0])
        assert len(other.received) == 1
        full.room = True
        full.inlet.open()
    await settle()
    assert [item for item, _ in full.received] == ["0", "1", "2"]


async def test_the_only_connection_waits_for_no_round() -> None:
    verifier = FrameVerifier()
    rounds = Rounds(Disk(), Time(), verifier)
    session = Session(rounds)
    await session.inlet.put(FrameBatch([frame_of(1)], 0, None))
    assert [now for _, now in session.received] == [1]
    # Longer ones wait for one, so that other tasks get their turn.
    await session.inlet.put(FrameBatch([frame_of(2), frame_of(3)], 0, None))
    assert len(session.received) == 1
    await session.inlet.drained()
    await session.inlet.put("text")
    await session.inlet.drained()
    assert [now for _, now in session.received] == [1, 2, 3]
    assert verifier.statistics().sizes == {2: 1}


async def test_nothing_is_received_while_too_much_waits_for_the_disk() -> None:
    disk = Disk()
    disk.shut = True
    rounds = Rounds(disk, Time(), FrameVerifier())
    session, _ = Session(rounds), Session(rounds)
    await session.inlet.put("text")
    await settle()
    assert not session.received
    disk.opened.set()
    await session.inlet.drained()
    assert session.received


async def test_a_bug_in_one_session_is_told_to_it_and_no_other_hears_of_it() -> None:
    rounds = Rounds(Disk(), Time(), FrameVerifier())
    broken, other = Session(rounds), Session(rounds)
    broken.bug = RuntimeError("a bug")
    for session in (broken, other):
        await session.inlet.put("text")
    await settle()
    assert broken.failures == [broken.bug]
    assert other.received
    broken.bug = None
    await broken.inlet.put("text")
    await settle()
    assert broken.received


async def test_of_a_connection_that_is_over_nothing_is_received_and_nobody_waits() -> None:
    disk = Disk()
    disk.shut = True
    rounds = Rounds(disk, Time(), FrameVerifier())
    session, _ = Session(rounds), Session(rounds)
    await session.inlet.put("one")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.inlet.put, "two")
        await settle()
        session.inlet.close()
    await session.inlet.drained()
    disk.opened.set()
    await settle()
    assert not session.received


async def test_a_reader_that_is_cancelled_leaves_nothing_and_the_next_goes_on() -> None:
    disk = Disk()
    disk.shut = True
    rounds = Rounds(disk, Time(), FrameVerifier())
    session, _ = Session(rounds), Session(rounds)
    await session.inlet.put("one")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.inlet.put, "two")
        await settle()
        nursery.cancel_scope.cancel()
    disk.opened.set()
    await session.inlet.put("three")
    await settle()
    assert [item for item, _ in session.received] == ["one", "three"]
